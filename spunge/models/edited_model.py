"""A loaded base model whose parameters become base + λ · task vector, for one factor λ after another."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

import torch

from spunge.core.errors import InputError
from spunge.models import base_model
from spunge.models.task_vector import BaseModel, TaskVector, TensorFolder

KEPT = 2**28  # numbers that the layers below the edit made, of all inputs together: 1 GiB in fp32


class EditedModel:
    """The base model `model`, which `set_scale` edits in place.

    For each λ the base values are read again from the base's files, and the differences from the task vector, tensor by
    tensor. So no rounding adds up, and never are two models in memory. Raises InputError as `base_model.apply` does.
    """

    def __init__(self, model: torch.nn.Module, base: BaseModel, task_vector: TaskVector):
        task_vector.check_base(base, "the task vector")
        self.model, self._base, self._is_edited = model, base, False
        self._task_vector = base_model.ByParameter(task_vector, model, base)
        self._dtypes = {name: one.dtype for name, one in model.named_parameters(remove_duplicate=False)}
        self._unchanged = _layers_below(model, self._task_vector)
        self._is_checked, self._room = False, KEPT
        self._kept: dict[int, list[torch.Tensor | tuple]] = {}  # what the unchanged layers made of an input

    def set_scale(self, scale: float) -> float:
        """Set the factor λ, and return the share of the edit's norm that the weights hold."""
        if self._is_edited:
            return base_model.set_sums(self.model, self._task_vector, scale, self._base_value)[1]
        self._is_edited = True  # the layers that compute in fp32 from now on are told so once
        return base_model.add(self.model, self._task_vector, scale)

    def _base_value(self, name: str, parameter: torch.nn.Parameter) -> torch.Tensor:
        """Return a parameter of the base model as it was loaded: rounded to the precision of the model."""
        return self._stored[self._stored_names[id(parameter)]].to(self._dtypes[name]).to(parameter.device)

    @functools.cached_property
    def _stored(self) -> base_model.ByParameter:
        return base_model.ByParameter(TensorFolder(self._base.folder), self.model, self._base)

    @functools.cached_property
    def _stored_names(self) -> dict[int, str]:
        """The name under which the base's files have a parameter, by its id: of tied ones they may have one alone."""
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        return {id(parameters[name]): name for name in self._stored if name in parameters}

    @contextmanager
    def reusing(self) -> Iterator[None]:
        """Within this context `run` of the model leaves out the layers below the first changed one, where it can.

        They give the same at each λ, so what they made of an input is kept while there is room. Nothing but `set_scale`
        may change the model meanwhile.
        """
        _REUSED[self.model] = self
        try:
            yield
        finally:
            del _REUSED[self.model]

    @torch.no_grad()
    def _run(self, forward: Callable[[], torch.Tensor], inputs: Iterable[torch.Tensor]) -> torch.Tensor:
        """Return what `run` does.

        The first time that layers are left out it is checked that this changes nothing; it does where a layer reads
        more than the output of the one before, and then they are run.
        """
        key = hash(tuple(part for tensor in inputs for part in (tensor.shape, tensor.cpu().numpy().tobytes())))
        if key not in self._kept or not self._unchanged:
            outputs = []
            with running_once(self._unchanged, outputs):
                result = forward()
            self._keep(key, outputs)
            return result
        reused = None
        missing = (
            AttributeError,
            LookupError,
            RuntimeError,
            TypeError,
            ValueError,
        )  # what is left out, wherever it is read
        with suppress(*missing), running_once(self._unchanged, self._kept[key]):
            reused = forward()
        if self._is_checked and reused is not None:
            return reused
        self._is_checked, whole = True, forward()
        if reused is None or not torch.equal(reused, whole):
            self._unchanged = []
        return whole

    def _keep(self, key: int, outputs: list[torch.Tensor | tuple]) -> None:
        size = sum((output if isinstance(output, torch.Tensor) else output[0]).numel() for output in outputs)
        if outputs and size <= self._room:
            self._room -= size
            self._kept[key] = outputs


_REUSED: dict[torch.nn.Module, EditedModel] = {}  # by model, those whose `reusing` is in force


def run(model: torch.nn.Module, forward: Callable[[], torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
    """Return `forward()`, a tensor that the model makes of nothing but these inputs, for less work within `reusing`."""
    edited = _REUSED.get(model)
    return edited._run(forward, inputs) if edited else forward()


def _layers_below(model: torch.nn.Module, changed: Iterable[str]) -> Sequence[torch.nn.Module]:
    """Return the decoder layers below the first that has changed parameters; none where others change, too."""
    try:
        name, layers = base_model.decoder_layers(model)
    except InputError:
        return []
    places = [parameter.removeprefix(f"{name}.").partition(".")[0] for parameter in changed]
    return layers[: min(map(int, places), default=0)] if all(place.isdecimal() for place in places) else []


@contextmanager
def running_once(modules: Sequence[torch.nn.Module], outputs: list) -> Iterator[None]:
    """Let modules run that follow one another, and add the last one's output to `outputs`; if it has one, give that."""
    hooks, forwards = [], {}
    if outputs:
        forwards = {module: module.forward for module in modules}
        for module in modules:
            module.forward = lambda *_, **__: outputs[0]
    else:
        hooks = [module.register_forward_hook(lambda *passed: outputs.append(passed[-1])) for module in modules[-1:]]
    try:
        yield
    finally:
        for module, forward in forwards.items():
            module.forward = forward
        for hook in hooks:
            hook.remove()
