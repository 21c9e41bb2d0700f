"""The merges, one record each: what it takes of every shard, and how that becomes one."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from spunge.core.errors import InputError
from spunge.experiment.options import make
from spunge.merging import consensus, mergekit, sparsify, tsv
from spunge.merging.options import DareLinear, DareTies, Linear, Mergekit, Negmerge, Options, Ties, Tsv
from spunge.merging.shards import Entries, Parameter, Shards, column
from spunge.models.task_vector import TaskVector

Sparsified = Callable[[Parameter], Iterator[Entries]]
Consensus = Callable[[list[torch.Tensor]], torch.Tensor]  # of the shards' kept entries
TensorConsensus = Callable[[Parameter], torch.Tensor | None]


@dataclass(frozen=True)
class Merge:
    """A merge of task vectors; the name is that of its kind in the configuration.

    `sparsify` says which entries of each shard of a parameter are kept, block by block; `consensus` makes one of them.
    Where a merge looks at whole tensors instead, `tensor_consensus` makes one of the shards' tensors, or None of those
    that are left to `consensus`. `reference` is the paper.
    """

    name: str
    options: type[Options]
    sparsify: Callable[[Shards, Options], Sparsified]
    consensus: Callable[[Shards, Options, Sparsified], Consensus]
    reference: str
    tensor_consensus: Callable[[Shards, Options], TensorConsensus] | None = None


# What is kept of each shard


def everything(shards: Shards, options: Options) -> Sparsified:
    """Keep all entries."""
    return lambda parameter: (Entries(block, block, block) for block in parameter.blocks())


def largest(shards: Shards, options: Ties) -> Sparsified:
    """Keep the entries of the largest magnitudes: TIES' trim."""
    thresholds = shards.survey.thresholds
    if options.trim == "model" and not thresholds:
        of_shards = [_model_threshold(vector, options.density) for vector in shards.vectors.values()]
        thresholds.update(dict.fromkeys(shards.layout, of_shards))

    def trimmed(parameter: Parameter) -> Iterator[Entries]:
        if (of_shards := thresholds.get(parameter.name)) is None:
            k = int(options.density * parameter.shape.numel())
            of_shards = [sparsify.kth_magnitude(tensor, k) for tensor in parameter.tensors]
            thresholds[parameter.name] = of_shards
        memory = [torch.empty(0) for _ in of_shards]
        for block in parameter.blocks():
            kept = [sparsify.trim(*of_shard) for of_shard in zip(block, of_shards, memory, strict=True)]
            yield Entries(block, kept, kept)

    return trimmed


def _model_threshold(vector: TaskVector, density: float) -> float:
    k = int(density * vector.provenance["base_parameters"])
    return sparsify.kth_magnitude_of_all(lambda: (vector[name] for name in vector), k)


def random(shards: Shards, options: DareTies) -> Sparsified:
    """Keep entries at random and rescale them: DARE's drop."""

    def dropped(parameter: Parameter) -> Iterator[Entries]:
        draws = [sparsify.draws(shards.seed, shard, parameter.name) for shard in shards.vectors]
        for block in parameter.blocks():
            kept = [sparsify.drop(entries, options.density, drawn) for entries, drawn in zip(block, draws, strict=True)]
            yield Entries(block, kept, kept)

    return dropped


def unanimous(shards: Shards, options: Options) -> Sparsified:
    """Keep the entries whose sign agrees in all shards: NegMerge."""

    def agreeing(parameter: Parameter) -> Iterator[Entries]:
        for block in parameter.blocks():
            agree = consensus.unanimous(block)
            yield Entries(block, block, [entries * agree for entries in block])

    return agreeing


# How that becomes one


def mean(shards: Shards, options: Options, sparsified: Sparsified) -> Consensus:
    """Take the weighted mean."""
    weights = column(options.weights)
    return lambda kept: consensus.linear(kept, weights)


def mean_or_sum(shards: Shards, options: Linear, sparsified: Sparsified) -> Consensus:
    """Take the weighted mean or, not normalized, the weighted sum: task arithmetic."""
    weights = column(options.weights)
    return lambda kept: consensus.linear(kept, weights, options.normalize)


def election(shards: Shards, options: Options, sparsified: Sparsified) -> Consensus:
    """Elect signs by mass and average what agrees with them."""
    weights = column(options.weights)
    return lambda kept: consensus.ties(kept, weights)


def chosen_election(shards: Shards, options: Ties, sparsified: Sparsified) -> Consensus:
    """Elect signs as the options say and average what agrees with them; a majority takes one pass over all shards."""
    weights, survey = column(options.weights), shards.survey
    if survey.zero_sign is None:
        survey.zero_sign = 1.0 if options.zero_sum == "positive" else _majority(shards, options, sparsified, weights)
    return lambda kept: consensus.ties(kept, weights, options.sign, survey.zero_sign)


def _majority(shards: Shards, options: Ties, sparsified: Sparsified, weights: torch.Tensor | None) -> float:
    balance = 0
    for name in shards.layout:
        for entries in sparsified(Parameter(shards, name)):
            weighted = consensus.weigh(entries.kept, weights)
            balance += int(consensus.election(weighted, options.sign).sign_().sum())
    return -1.0 if balance < 0 else 1.0


def orthogonal_directions(shards: Shards, options: Tsv) -> TensorConsensus:
    """Merge matrices by their singular directions: TSV."""
    return lambda parameter: tsv.merge(parameter.tensors, options.weights) if len(parameter.shape) == 2 else None


MERGEKIT = "https://github.com/arcee-ai/mergekit"
MERGES = {
    merge.name: merge
    for merge in (
        # Yu et al. 2023
        Merge("dare_linear", DareLinear, random, mean_or_sum, "https://arxiv.org/abs/2311.03099"),
        Merge("dare_ties", DareTies, random, election, "https://arxiv.org/abs/2311.03099"),
        # Ilharco et al. 2022; not normalized it is their task arithmetic.
        Merge("linear", Linear, everything, mean_or_sum, "https://arxiv.org/abs/2212.04089"),
        # Goddard et al. 2024; what it keeps of each shard it doesn't tell.
        Merge("mergekit", Mergekit, everything, mean, MERGEKIT, tensor_consensus=mergekit.merge),
        # Kim et al. 2024 merge vectors of fine-tuning and negate the result. Unlearning's vectors are negated already,
        # and since the merge is odd, both orders give the same.
        Merge("negmerge", Negmerge, unanimous, mean, "https://arxiv.org/abs/2410.05583"),
        # Yadav et al. 2023
        Merge("ties", Ties, largest, chosen_election, "https://arxiv.org/abs/2306.01708"),
        # Gargiulo et al., CVPR 2025; what is no matrix is averaged.
        Merge("tsv", Tsv, everything, mean, "https://arxiv.org/abs/2412.00081", tensor_consensus=orthogonal_directions),
    )
}
KINDS = tuple(MERGES)


def of(kind: str) -> Merge:
    """Return the merge of a kind; an unknown one raises InputError with the known ones."""
    if kind not in MERGES:
        raise InputError(f"there is no merge {kind}; known are {', '.join(KINDS)}")
    return MERGES[kind]


def options_of(kind: str) -> type[Options]:
    """Return the dataclass of a merge's options."""
    return of(kind).options


def options(kind: str, given: Mapping[str, object]) -> Options:
    """Make the options of a merge; an unknown key or a value out of range raises InputError with what would do."""
    return make(kind, options_of(kind), given)
