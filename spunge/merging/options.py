"""Options of merges; a merge's are the class of its name: `dare_ties` has DareTies."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field, WithJsonSchema

from spunge.experiment.options import NonEmpty, Positive, checked

# A job is given one number a shard; a configuration names them by attribute.
WEIGHTS_BY_ATTRIBUTE = {
    "description": "Weight of each attribute's shard, 1 where none is named; the parts of the random split take them "
    "in the order of the attributes.",
    "type": "object",
    "additionalProperties": {
        "description": "Weight of the shard of attribute NAME.",
        "type": "number",
        "exclusiveMinimum": 0,
    },
}
Normalize = Annotated[
    bool, Field(description="Divide the weighted sum by the sum of the weights; false is task arithmetic.")
]


@checked
class Options:
    """Settings of every merge."""

    scale: Annotated[float, Field(description="The factor λ on the merged task vector.")] = 1.0
    weights: Annotated[NonEmpty[Positive] | None, WithJsonSchema(WEIGHTS_BY_ATTRIBUTE)] = None


@checked
class Linear(Options):
    """Settings of a linear merge."""

    normalize: Normalize = True


# What each of mergekit's methods for a base model and any number of others takes, by our names: its `weight` is
# `weights` here, its `lambda` is `scale`. Left out is what changes no result: int8_mask, and task_arithmetic's density.
_SPARSE = ("weights", "density", "normalize", "rescale")
MERGEKIT_METHODS = {
    "breadcrumbs": (*_SPARSE, "gamma"),
    "breadcrumbs_ties": (*_SPARSE, "gamma"),
    "dare_linear": _SPARSE,
    "dare_ties": _SPARSE,
    "della": (*_SPARSE, "epsilon"),
    "della_linear": (*_SPARSE, "epsilon"),
    "model_stock": ("filter_wise",),
    "ram": ("epsilon",),
    "ramplus_tl": ("epsilon", "r", "alpha"),
    "sce": ("select_topk",),
    "task_arithmetic": ("weights", "normalize"),
    "ties": _SPARSE,
}
ABSOLUTE = ("model_stock", "ram", "ramplus_tl", "sce")  # their thresholds don't grow with what they merge


@checked
class Mergekit(Options):
    """Settings of a merge by mergekit: its method, and that method's own parameters, where null is mergekit's default.

    `normalize` and `rescale` have defaults that differ from method to method.
    """

    method: Annotated[
        Literal[tuple(MERGEKIT_METHODS)],
        Field(description="mergekit's name of the merge method.", json_schema_extra={"takes": MERGEKIT_METHODS}),
    ] = field(kw_only=True)
    density: Annotated[float | None, Field(gt=0, le=1, description="Share of entries that are kept.")] = None
    epsilon: Annotated[
        float | None,
        Field(
            ge=0,
            lt=1,
            description="della: how far the probability to be kept goes below and above the density, from the smallest "
            "to the largest entry; ram: magnitude above which an entry counts as changed.",
        ),
    ] = None
    gamma: Annotated[
        float | None, Field(ge=0, lt=1, description="Share of entries, the largest, that are dropped.")
    ] = None
    normalize: Annotated[bool | None, Field(description="Divide the weighted sum by the sum of the weights.")] = None
    rescale: Annotated[
        bool | None, Field(description="Give what is kept of each tensor the sum of magnitudes that the tensor had.")
    ] = None
    select_topk: Annotated[
        float | None, Field(gt=0, le=1, description="Share of entries, those that vary most between shards, to keep.")
    ] = None
    filter_wise: Annotated[bool | None, Field(description="Take angles row by row, not tensor by tensor.")] = None
    r: Annotated[float | None, Field(description="Weight of the overlap in the factor on what one shard changed.")] = (
        None
    )
    alpha: Annotated[float | None, Field(ge=0, description="Bound of the overlap in that factor.")] = None


@checked
class Negmerge(Options):
    """Settings of NegMerge: those of every merge."""


@checked
class Tsv(Options):
    """Settings of TSV: those of every merge; the weights, divided by their mean, scale the singular values."""


@checked
class DareTies(Options):
    """Settings of DARE before TIES' election; the density is 1 less the paper's rate p."""

    density: Annotated[float, Field(gt=0, le=1, description="Share of entries that the random drop keeps.")] = 0.2


@checked
class DareLinear(DareTies):
    """Settings of DARE before a linear merge."""

    normalize: Normalize = True


@checked
class Ties(Options):
    """Settings of TIES.

    The trim keeps the largest magnitudes; over the `model` all of its parameters count, changed or not, as in the
    authors' code. `majority` is the authors' code too; + where both signs are elected as often.
    """

    density: Annotated[float, Field(gt=0, le=1, description="Share of entries that the trim keeps.")] = 0.2
    trim: Annotated[Literal["tensor", "model"], Field(description="Trim over each tensor or over the whole model.")] = (
        "tensor"
    )
    sign: Annotated[
        Literal["mass", "count"], Field(description="Elect signs by summed values (mass) or by their number (count).")
    ] = "mass"
    zero_sum: Annotated[
        Literal["positive", "majority"],
        Field(
            description="What a sum of exactly 0 elects: + (positive) or the sign elected more often in the whole "
            "model (majority)."
        ),
    ] = "positive"
