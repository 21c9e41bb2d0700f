"""A control: a random task vector as large as another method's (Ilharco et al. 2022, arXiv 2212.04089, tables 1 and 2).

Each tensor is Gaussian with exactly the Frobenius norm that the other method's has, so only the direction is lost.
"""

import hashlib
import json

import torch

from spunge.core.errors import InputError
from spunge.experiment.options import checked
from spunge.methods import Run, Unlearned
from spunge.models.task_vector import TaskVector


@checked
class Options:
    """There is nothing to choose: `norms_of` in the configuration names the other method."""


class RandomVector(TaskVector):
    """Random tensors with the names, shapes and norms of another task vector, made one at a time."""

    def __init__(self, norms_of: TaskVector, *seeds: object):
        self._norms_of, self._seeds, self.provenance = norms_of, seeds, norms_of.provenance

    @property
    def shapes(self) -> dict[str, torch.Size]:
        return self._norms_of.shapes

    def __getitem__(self, name: str) -> torch.Tensor:
        digest = hashlib.sha256(json.dumps([*self._seeds, name]).encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)
        drawn = torch.randn(self.shapes[name], generator=generator, dtype=torch.float64)
        return (drawn * (self._norms_of[name].double().norm() / drawn.norm())).float()


def unlearn(run: Run, options: Options) -> Unlearned:
    """Return a random vector like `run.norms_of`, another one for every shard and seed; nothing is trained.

    Raises InputError where there is no such vector or where it belongs to another base model.
    """
    if run.norms_of is None:
        raise InputError(f"{run.label} has no other run to be like: give random_vector `norms_of: METHOD` in `methods`")
    run.norms_of.check_base(run.base, "the task vector that random_vector is to be like")
    return Unlearned(RandomVector(run.norms_of, run.seed, run.split, run.shard), losses=[])
