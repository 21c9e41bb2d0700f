"""Stream task vectors through a merge, one parameter of every shard at a time."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch

from spunge.errors import InputError
from spunge.merging import ties
from spunge.task_vector import TaskVector


@dataclass(frozen=True)
class Options:
    """Settings of a TIES merge.

    `density` is the share of entries that the trim keeps, by magnitude, over each `tensor` or over the whole `model`
    (all of the model's parameters count, changed or not, as in the authors' code); `scale` is λ; `sign` elects by
    `mass` or `count`.
    """

    density: float = 0.2
    trim: str = "tensor"
    sign: str = "mass"
    scale: float = 1.0

    def __post_init__(self):
        if not 0 < self.density <= 1:
            raise InputError(f"a merge's density is {self.density}; it is the share kept, above 0 and at most 1")
        for key, value, allowed in (("trim", self.trim, ("tensor", "model")), ("sign", self.sign, ("mass", "count"))):
            if value not in allowed:
                raise InputError(f"a merge's {key} is {value}; it can be {' or '.join(allowed)}")


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
        self.kept = torch.zeros(count, dtype=torch.int64)
        self.changed = torch.zeros(count, dtype=torch.int64)
        self.products = torch.zeros(count, count, dtype=torch.float64)

    def add(self, deltas: torch.Tensor, trimmed: torch.Tensor, merged: torch.Tensor) -> None:
        """Count one parameter: `deltas` and `trimmed` of shape (shards, entries), `merged` (entries,)."""
        self.kept += (trimmed != 0).sum(dim=1)
        self.changed += (deltas != 0).sum(dim=1)
        self.products += (deltas @ deltas.T).double()
        positive, negative = (trimmed > 0).sum(dim=0), (trimmed < 0).sum(dim=0)
        self.shared += int((positive + negative >= 2).sum())
        self.conflicting += int(((positive > 0) & (negative > 0)).sum())
        self.merged_squares += float(merged.square().sum(dtype=torch.float64))

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
    vectors: Mapping[str, TaskVector], options: Options, diagnostics: Diagnostics
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the merged task vector, parameter by parameter in the order of `common_layout`.

    At any time one parameter of every shard is in memory. A parameter that a vector does not change counts as zero.
    """
    layout = common_layout(vectors)
    thresholds = [_model_threshold(vector, options) for vector in vectors.values()] if options.trim == "model" else None
    for name, shape in layout.items():
        deltas = torch.stack([vector[name] if name in vector else torch.zeros(shape) for vector in vectors.values()])
        limits = thresholds or [
            ties.magnitude_threshold(lambda delta=delta: [delta], int(options.density * delta.numel()))
            for delta in deltas
        ]
        trimmed = torch.stack([ties.trim(delta, limit) for delta, limit in zip(deltas, limits, strict=True)])
        merged = ties.merge(trimmed, options.scale, options.sign)
        diagnostics.add(deltas.flatten(1), trimmed.flatten(1), merged.flatten())
        yield name, merged


def _model_threshold(vector: TaskVector, options: Options) -> float:
    k = int(options.density * vector.provenance["base_parameters"])
    return ties.magnitude_threshold(lambda: (vector[name] for name in vector), k)
