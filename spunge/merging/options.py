"""Options of merges; a merge's are the class of its name: `dare_ties` has DareTies."""

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
