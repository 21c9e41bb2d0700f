"""The door to mergekit (Goddard et al. 2024, arXiv 2403.13257): its merge methods, one parameter at a time.

All methods that are let in look at differences from the base model alone. So mergekit is given task vectors for models
and zeros for the base: nothing is rounded in a sum with the base's weights, and neither these nor a disk is needed.
"""

import importlib.metadata
from collections.abc import Callable
from dataclasses import asdict

import torch

from spunge.core.errors import InputError
from spunge.merging import sparsify
from spunge.merging.options import MERGEKIT_METHODS, Mergekit
from spunge.merging.shards import Parameter, Shards


def version() -> str:
    """Return the version of mergekit; raise InputError where it is not installed."""
    _installed()
    return importlib.metadata.version("mergekit")


def _installed() -> Callable[..., torch.Tensor]:
    try:
        from mergekit.merge_methods import merge_tensors  # older versions have none
    except ImportError as error:
        raise InputError(
            f"a merge by mergekit needs mergekit 0.1.5 ({error}): pip install --constraint requirements.lock "
            "--requirement requirements-mergekit.txt"
        ) from error
    return merge_tensors


def merge(shards: Shards, options: Mergekit) -> Callable[[Parameter], torch.Tensor]:
    """Return mergekit's merge of one parameter, in fp32.

    What is drawn at random depends on the seed, the parameter's name and the shards', not on any order. Raises
    InputError where mergekit is not installed, and where it refuses a tensor or a parameter of its method.
    """
    merge_tensors = _installed()
    names, method = list(shards.vectors), options.method
    order = sorted(range(len(names)), key=names.__getitem__)
    ours = ("method", "scale", "weights")
    parameters = {key: value for key, value in asdict(options).items() if value is not None and key not in ours}
    if "weights" in MERGEKIT_METHODS[method] or options.weights is not None:
        weights = options.weights or (1.0,) * len(names)
        parameters["weight"] = [weights[place] for place in order]

    def merge_parameter(parameter: Parameter) -> torch.Tensor:
        tensors = [torch.zeros(parameter.shape), *(parameter.tensors[place] for place in order)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(sparsify.draws(shards.seed, "", parameter.name).integers(2**63)))
            try:
                return merge_tensors(tensors, method, parameters=parameters, base_index=0, name=parameter.name)
            except (TypeError, ValueError, RuntimeError) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise InputError(f"mergekit's {method} can't merge {parameter.name}: {reason}") from error

    return merge_parameter
