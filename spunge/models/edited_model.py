"""A loaded base model whose parameters become base + λ · task vector, for one factor λ after another."""

import functools

import torch

from spunge.models import base_model
from spunge.models.task_vector import BaseModel, TaskVector, TensorFolder


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
