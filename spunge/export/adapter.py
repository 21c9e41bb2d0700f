"""A candidate as a PEFT LoRA adapter: λ times its task vector as factors, written module by module.

A weighted sum of adapters is an adapter, their factors side by side with weights and scalings on the Bs:
λ · Σ wᵢ sᵢ Bᵢ Aᵢ = [λw₁s₁B₁ … λwₖsₖBₖ] · [A₁; …; Aₖ]. Any other merge has a higher rank, and is cut to the nearest
matrix of a given one, its truncated singular value decomposition (Eckart and Young 1936).
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

from spunge.core import safetensors_writer
from spunge.core.errors import InputError
from spunge.core.files import whole_folder
from spunge.core.progress import Progress
from spunge.export import card
from spunge.models.matrix_products import by_mkl
from spunge.models.task_vector import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    LORA_A,
    LORA_B,
    PEFT_PREFIX,
    BaseModel,
    LoraAdapter,
    TaskVector,
    is_finite,
)

Factors = tuple[torch.Tensor, torch.Tensor]  # A (rank, inputs) and B (outputs, rank)
ROUNDING = 1e-10  # of the squared norm: what is lost in fp32
NO_MERGEKIT = "this is an adapter, and mergekit makes whole models"


def export(
    base: BaseModel,
    task_vector: TaskVector,
    shards: Sequence[TaskVector],
    folder: str | os.PathLike,
    name: str,
    scale: float = 1.0,
    rank: int | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write λ (`scale`) times a task vector to `folder` as PEFT reads it, with a model card.

    `shards` are the task vectors that were merged, in the order of the merge; a single run has none. A run's adapter
    and a linear merge are written exactly, with the ranks of all shards together. Of any other merge, and where `rank`
    is lower, each module keeps its largest singular values, as many as those ranks or `rank`, and the card says which
    share that is. Factors are fp32 unless there is a `dtype`; `name` is the candidate's, for the card. One module is in
    memory at a time, and the folder appears whole or not at all. Raises InputError for a vector of another base, where
    it or a shard is no LoRA adapter, and for factors that the dtype can't hold.
    """
    task_vector.check_base(base, "the task vector")
    adapters = [task_vector] if isinstance(task_vector, LoraAdapter) else list(shards)
    if not adapters or not all(isinstance(adapter, LoraAdapter) for adapter in adapters):
        raise InputError(
            f"{name} can't be exported as an adapter, since what was unlearned is no LoRA adapter: leave export.format "
            "out, or unlearn with `trained: lora`"
        )
    if len({adapter.transposed for adapter in adapters}) > 1:
        raise InputError(f"{name} merges adapters with and without fan_in_fan_out: leave export.format out")
    source, dtype = _Source(task_vector, adapters, scale, rank), dtype or torch.float32
    with whole_folder(folder) as building:
        safetensors_writer.write(
            building / ADAPTER_WEIGHTS, source.layout(dtype), _tensors(source, dtype), {"format": "pt"}
        )
        config = json.dumps(_config(base, source), default=sorted, indent=2, sort_keys=True)
        (building / ADAPTER_CONFIG).write_text(config + "\n")
        provenance = task_vector.provenance | ({"scale": scale} if scale != 1 else {})
        dtype_name = str(dtype).removeprefix("torch.")
        told = card.card(name, base, provenance, dtype_name, NO_MERGEKIT, source.described())
        (building / "README.md").write_text(told)


@dataclass
class _Source:
    """The factors of λ times a task vector, and what is lost where their ranks are cut."""

    vector: TaskVector
    adapters: Sequence[LoraAdapter]
    scale: float
    rank: int | None
    squares: dict[str, tuple[float, float]] = field(default_factory=dict)  # squared norms: what is kept, and the whole

    @cached_property
    def weights(self) -> list[float] | None:
        """What each adapter is multiplied by in the task vector, where that is a weighted sum of them."""
        provenance = self.vector.provenance
        if self.vector is self.adapters[0]:
            return [1.0]
        if provenance["merge"] != "linear":
            return None
        options = provenance["options"]
        weights = options["weights"] or [1.0] * len(self.adapters)
        return [options["scale"] * weight / (sum(weights) if options["normalize"] else 1) for weight in weights]

    @cached_property
    def ranks(self) -> dict[str, int]:
        """The rank of each parameter's factors."""
        ranks = {}
        for name, full in self._full_ranks.items():
            is_exact = self.weights and (self.rank or full) >= full
            ranks[name] = full if is_exact else min(self.rank or full, *self.vector.shapes[name])
        return ranks

    @cached_property
    def _full_ranks(self) -> dict[str, int]:
        return {name: sum(one.ranks.get(name, 0) for one in self.adapters) for name in self.vector.shapes}

    @property
    def is_transposed(self) -> bool:
        return self.adapters[0].transposed

    def factors(self, name: str) -> Factors:
        """Return A and B of a parameter, in fp32; their product is the change, or the nearest of their rank."""
        if self.weights and self.ranks[name] == self._full_ranks[name]:
            pairs = [
                (a, self.scale * weight * scaling * b)
                for adapter, weight in zip(self.adapters, self.weights, strict=True)
                if name in adapter
                for a, b, scaling in [adapter.factors_of(name)]
            ]
            a, b = torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs], dim=1)
            self.squares[name] = (float(((a @ a.T) * (b.T @ b)).sum()),) * 2
            return a, b
        delta = self.scale * self.vector[name]
        a, b, kept, whole = nearest(delta.T if self.is_transposed else delta, self.ranks[name])
        self.squares[name] = kept, whole
        return a, b

    def layout(self, dtype: torch.dtype) -> dict[str, tuple[torch.Size, torch.dtype]]:
        """Return the shapes of all factors under PEFT's names, in the order in which they are written."""
        found = {}
        for name, shape in self.vector.shapes.items():
            outputs, inputs = reversed(shape) if self.is_transposed else shape
            for key, size in zip(_keys(name), ((self.ranks[name], inputs), (outputs, self.ranks[name])), strict=True):
                found[key] = torch.Size(size), dtype
        return found

    def described(self) -> dict[str, str]:
        """Return what the card says: ranks and, where more than rounding is lost, the kept share of the norm."""
        least, most = min(self.ranks.values()), max(self.ranks.values())
        told = {"rank": f"{least} to {most}" if least < most else f"{most}"}
        shares = {name: kept / whole if whole else 1.0 for name, (kept, whole) in self.squares.items()}
        worst = min(shares, key=shares.__getitem__)
        if shares[worst] > 1 - ROUNDING:
            return told
        kept, whole = (sum(amounts) for amounts in zip(*self.squares.values(), strict=True))
        of_all, of_worst = (f"{100 * share:.1f} %" for share in (kept / whole, shares[worst]))
        return told | {"share": of_all, "worst": _module(worst), "worst_share": of_worst}


@by_mkl()
def nearest(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, float, float]:
    """Return A and B, in fp32, whose product is the nearest matrix of a rank, its squared norm and that of `matrix`.

    B·A is the projection on the singular vectors of the largest singular values. They are had as eigenvectors of the
    smaller of its products with its transpose, in fp64: of 4096 × 14336 in 12 s of CPU, where all triplets take 156 s.
    """
    from scipy.linalg import eigh

    is_wide = matrix.shape[0] <= matrix.shape[1]
    wide = matrix if is_wide else matrix.T
    gram = (double := wide.double()) @ double.T
    size = len(gram)
    squares, vectors = eigh(gram.numpy(), subset_by_index=(size - rank, size - 1))
    basis = torch.from_numpy(vectors).float()
    projected, kept, whole = basis.T @ wide, float(squares.clip(0).sum()), float(gram.trace())
    return (projected, basis, kept, whole) if is_wide else (basis.T, projected.T, kept, whole)


def _tensors(source: _Source, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    progress = Progress("export", len(source.ranks))
    for number, name in enumerate(source.ranks, start=1):
        for key, factor in zip(_keys(name), source.factors(name), strict=True):
            if not is_finite(factor := factor.to(dtype)):
                raise InputError(
                    f"{key} has entries that are not finite: export in a wider dtype, or see whether the unlearning "
                    "diverged"
                )
            yield key, factor
        progress.step(number)


def _config(base: BaseModel, source: _Source) -> Mapping:
    from peft import LoraConfig

    model, revision = card.hub_model(base)
    ranks = {_module(name): rank for name, rank in source.ranks.items()}
    usual = Counter(ranks.values()).most_common(1)[0][0]
    others = {module: rank for module, rank in ranks.items() if rank != usual}
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=usual,
        lora_alpha=usual,  # the scaling is 1: it stands in the factors
        rank_pattern=others,
        alpha_pattern=others,
        target_modules=list(ranks),
        fan_in_fan_out=source.is_transposed,
        base_model_name_or_path=model,
        revision=revision,
        inference_mode=True,
    ).to_dict()


def _module(name: str) -> str:
    return name.removesuffix(".weight")


def _keys(name: str) -> tuple[str, str]:
    return PEFT_PREFIX + _module(name) + LORA_A, PEFT_PREFIX + _module(name) + LORA_B
