"""What an unlearning method gets, and what it returns."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch

from spunge.core.errors import InputError
from spunge.datasets import tables
from spunge.models import task_vector
from spunge.training.resume import Checkpoint


@dataclasses.dataclass(frozen=True)
class Run:
    """One unlearning run: the base model, the texts of one shard, and the seed that all its random choices follow from.

    `attributes` has the attribute of each forget text, `all_attributes` those of the whole experiment in their
    configured order. `label` names the run in progress lines and errors. `split` tells the order of the forget batches
    (spunge/training/schedule.py), `steps_of_shards` whether each shard has as many steps, or as many as its share of
    the texts. `shard` and the Parquet files that the texts come from are there for other programs. `activations` is
    what `cache_activations` wrote, `norms_of` another method's task vector for the same shard and seed. `scratch` is a
    path on the disk of the results for a folder, which is removed once the run is written. `checkpoint` keeps what a
    method has done so far, if the method uses it (docs/methods.md).
    """

    base: task_vector.BaseModel
    forget: list[str]
    retain: list[str]
    seed: int
    device: str
    label: str = "unlearn"
    attributes: list[str] = dataclasses.field(default_factory=list)
    all_attributes: list[str] = dataclasses.field(default_factory=list)
    split: str = "joint"
    shard: str = "all"
    steps_of_shards: str = "equal"
    forget_file: Path | None = None
    retain_file: Path | None = None
    activations: Path | None = None
    norms_of: task_vector.TaskVector | None = None
    scratch: Path | None = None
    checkpoint: Checkpoint = dataclasses.field(default_factory=Checkpoint)

    @classmethod
    def of_files(cls, forget: Path, retain: Path, described: Mapping[str, str], **more: object) -> "Run":
        """Return the run on the texts of two Parquet files, of which the first has the shard's name.

        `described` has its columns of evaluations.csv.
        """
        texts = tables.read("forget", forget)
        return cls(
            forget=texts["text"].tolist(),
            retain=tables.read("retain", retain)["text"].tolist(),
            attributes=texts["attribute"].tolist(),
            forget_file=forget,
            retain_file=retain,
            seed=int(described["seed"]),
            split=described["split"],
            shard=forget.stem,
            label=described["candidate"],
            **more,
        )

    def attribute_positions(self) -> list[int]:
        """Return for each forget text the position of its attribute among the experiment's; 0 where there are none.

        Raises InputError for an attribute that is not among the experiment's.
        """
        if not self.attributes:
            return [0] * len(self.forget)
        order = self.all_attributes or sorted(set(self.attributes))
        if unknown := sorted(set(self.attributes) - set(order)):
            known = ", ".join(order)
            raise InputError(f"{self.label} has texts of {unknown[0]}, which is not among the attributes {known}")
        position = {attribute: place for place, attribute in enumerate(order)}
        return [position[attribute] for attribute in self.attributes]


@dataclasses.dataclass(frozen=True)
class Unlearned:
    """What a method returns: `delta` maps parameter names to fp32 differences from the base model.

    Where `adapter` is given, a PEFT LoRA configuration, `delta` has the adapter's A and B under PEFT's names instead.
    `losses` has one row per recorded stretch of steps: `step` (steps done) and each loss's mean over the stretch.
    `visits` tells how many texts of each attribute the steps had, where that is known. `kept` ends an error message
    where the result is refused: it tells where its source is kept. A method that was launched over several processes
    returns None in all but the first.
    """

    delta: Mapping[str, torch.Tensor]
    losses: list[dict[str, float]]
    adapter: Mapping | None = None
    visits: Mapping[str, int] = dataclasses.field(default_factory=dict)
    kept: str = ""
