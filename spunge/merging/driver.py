"""Stream task vectors through a merge, one parameter of every shard at a time."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch

from spunge.core.errors import InputError
from spunge.merging import registry
from spunge.merging.options import Options
from spunge.merging.shards import Entries, Parameter, Shards, Survey
from spunge.models.task_vector import TaskVector


@dataclass
class Diagnostics:
    """What a merge did, summed while it streams; read `rows` when it is done."""

    shards: list[str]
    kept: torch.Tensor = field(init=False)
    changed: torch.Tensor = field(init=False)
    products: torch.Tensor = field(init=False)
    shared: int = 0
    conflicting: int = 0
    merged_squares: float = 0.0

    def __post_init__(self):
        count = len(self.shards)
        self.kept = torch.zeros(count, dtype=torch.float64)
        self.changed = torch.zeros(count, dtype=torch.float64)
        self.products = torch.zeros(count, count, dtype=torch.float64)

    def add(self, entries: Entries, merged: torch.Tensor) -> None:
        """Count some entries of one parameter; the numbers of entries, summed as floats, are exact."""
        deltas = torch.stack(entries.deltas)
        voting = deltas if entries.voting is entries.deltas else torch.stack(entries.voting)
        kept = voting if entries.kept is entries.voting else torch.stack(entries.kept)
        signs = voting.sign()
        balance = signs.sum(dim=0).abs_()
        voters = signs.abs_().sum(dim=0)
        self.shared += int(torch.count_nonzero(voters > 1))
        self.conflicting += int(torch.count_nonzero(balance != voters))
        self.changed += signs.sum(dim=1) if deltas is voting else _nonzero(deltas)
        self.kept += signs.sum(dim=1) if kept is voting else _nonzero(kept)
        self.products += deltas @ deltas.T
        self.merged_squares += float(merged.dot(merged))

    def rows(self) -> list[dict]:
        """Return tidy rows (shard, attribute, metric, value), as docs/evaluations.md describes them."""
        norms = self.products.diagonal().sqrt()
        rows = []
        for i, shard in enumerate(self.shards):
            share = float(self.kept[i]) / max(int(self.changed[i]), 1)
            rows.append({"shard": shard, "attribute": "", "metric": "kept_share", "value": share})
            rows.append({"shard": shard, "attribute": "", "metric": "norm", "value": float(norms[i])})
        for i, j in itertools.combinations(range(len(self.shards)), 2):
            cosine = float(self.products[i, j] / (norms[i] * norms[j])) if norms[i] and norms[j] else 0.0
            rows.append({"shard": self.shards[i], "attribute": self.shards[j], "metric": "cosine", "value": cosine})
        conflict = self.conflicting / max(self.shared, 1)
        rows.append({"shard": "", "attribute": "", "metric": "sign_conflict", "value": conflict})
        rows.append({"shard": "", "attribute": "", "metric": "norm", "value": self.merged_squares**0.5})
        return rows


def common_layout(vectors: Mapping[str, TaskVector]) -> dict[str, torch.Size]:
    """Return the union of the vectors' parameters with their shapes, in a fixed order.

    Raises InputError where vectors have different base models, or the same parameter in different shapes.
    """
    shapes: dict[str, torch.Size] = {}
    (first_name, first), *others = vectors.items()
    for name, vector in others:
        if vector.provenance["base"] != first.provenance["base"]:
            raise InputError(
                f"the task vectors {first_name} and {name} have different base models "
                f"({first.provenance['base'][:12]} and {vector.provenance['base'][:12]}): "
                "unlearn both from one base model"
            )
    for name, vector in vectors.items():
        for parameter, shape in vector.shapes.items():
            if shapes.setdefault(parameter, shape) != shape:
                raise InputError(f"{parameter} is {tuple(shape)} in {name}, elsewhere {tuple(shapes[parameter])}")
    return dict(sorted(shapes.items()))


def merge(
    vectors: Mapping[str, TaskVector],
    kind: str,
    options: Options,
    diagnostics: Diagnostics,
    seed: int = 0,
    survey: Survey | None = None,
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the merged task vector, parameter by parameter in the order of `common_layout`.

    At any time one parameter of every shard is in memory. A parameter that a vector does not change counts as zero.
    `options` are those of the kind; random merges draw by `seed`; `survey` takes what passes over whole shards find.
    """
    shards = Shards(vectors, common_layout(vectors), seed, Survey() if survey is None else survey)
    merge_parameter = prepare(shards, kind, options)
    for name in shards.layout:
        yield name, merge_parameter(name, diagnostics.add)


def prepare(
    shards: Shards, kind: str, options: Options
) -> Callable[[str, Callable[[Entries, torch.Tensor], None]], torch.Tensor]:
    """Return the merge of one parameter: of its name, and of what is shown each block's entries and their merge.

    Some options need passes over all task vectors before, which a `shards.survey` of an earlier merge spares.
    """
    if options.weights is not None and len(options.weights) != len(shards.vectors):
        raise InputError(
            f"a merge has {len(options.weights)} weights for {len(shards.vectors)} shards; give one for each"
        )
    merge = registry.of(kind)
    sparsified = merge.sparsify(shards, options)
    consensus = merge.consensus(shards, options, sparsified)
    tensor_consensus = merge.tensor_consensus(shards, options) if merge.tensor_consensus else lambda parameter: None

    def merge_parameter(name: str, show: Callable[[Entries, torch.Tensor], None]) -> torch.Tensor:
        parameter = Parameter(shards, name)
        of_tensors = tensor_consensus(parameter)
        whole = torch.empty(parameter.shape) if of_tensors is None else of_tensors
        for entries, (first, last) in zip(sparsified(parameter), parameter.bounds(), strict=True):
            merged = whole.view(-1)[first:last]
            if of_tensors is None:
                merged.copy_(consensus(entries.kept))
            show(entries, merged.mul_(options.scale))
        return whole

    return merge_parameter


def _nonzero(entries: torch.Tensor) -> torch.Tensor:
    return entries.sign().abs_().sum(dim=1)
