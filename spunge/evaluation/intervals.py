"""95 % intervals of ratios of sums over seeds and clusters, for one estimate or for millions at once.

To first order, an estimate's error is a sum over seeds and clusters of their influences on it. A cluster is what shares
an answer or a source: a country for its cities. Seeds and clusters are crossed, so the variance is that over seeds plus
that over clusters less that of their interaction (Cameron, Gelbach and Miller 2011, "Robust inference with multiway
clustering"; Owen 2007, "The pigeonhole bootstrap"). Clusters differ in size, so each counts by what leaving it out
would change: the jackknife. The interval takes the t quantile with Satterthwaite's degrees of freedom (1946), which are
few where few seeds decide. docs/evaluations.md has its coverage.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from scipy.special import stdtr, stdtrit

CONFIDENCE = 0.95
ROUNDING = 1e-24  # a variance below it is that of rounding
# What an estimate is: a part of a whole (0 … 1), any number, or the exponential of the ratio of sums.
SHARE, NUMBER, EXPONENTIAL = "share", "number", "exponential"


@dataclass(frozen=True)
class Variance:
    """The variance of estimates in its parts, each of any shape; how many seeds it rests on, and how many clusters.

    number_of_clusters: as many of one size as tell as much as these do.
    """

    of_seeds: np.ndarray
    of_clusters: np.ndarray
    of_both: np.ndarray
    number_of_seeds: int
    number_of_clusters: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """Seeds and clusters each hold the interaction, so it is taken off once.

        Where chance makes the interaction look large, seeds or clusters alone would show more than what is left: then
        they count, since the variance can't be smaller than theirs.
        """
        either = np.maximum(self.of_seeds, self.of_clusters)
        return np.maximum(either, self.of_seeds + self.of_clusters - self.of_both)

    @property
    def degrees_of_freedom(self) -> np.ndarray:
        """Satterthwaite's; fewer than 1 with one cluster."""
        seeds, clusters = max(self.number_of_seeds - 1, 1), self.number_of_clusters - 1
        with np.errstate(all="ignore"):
            parts = self.of_seeds**2 / seeds + (self.of_clusters**2 + self.of_both**2 / seeds) / clusters
            # Where few seeds seem alike by chance, the degrees of freedom come out too many: they are rounded down. Nor
            # can they be fewer than those of each part.
            return np.floor(self.total**2 / parts + 1e-9).clip(np.maximum(np.minimum(seeds, clusters), 1))

    @property
    def half_width(self) -> np.ndarray:
        """Half of a 95 % interval's width; NaN with one cluster.

        Where no cluster differs from another, the standard error is 0, which says nothing: see `largest_unseen`.
        """
        with np.errstate(all="ignore"):
            return stdtrit(self.degrees_of_freedom, (1 + CONFIDENCE) / 2) * np.sqrt(self.total)

    def p_value(self, difference: np.ndarray, scale: np.ndarray, largest: float = 1) -> np.ndarray:
        """Return the two-sided p-values of differences; below 0.05 if the interval has no 0.

        `scale` is as of a Metric, `largest` what a share's difference can be.
        """
        with np.errstate(all="ignore"):
            p = 2 * stdtr(self.degrees_of_freedom, -np.abs(difference) / np.sqrt(self.total))
            by_clusters = np.minimum(2 * (1 - np.abs(difference) / largest) ** self.number_of_clusters, 1)
        unanimous = np.where(scale == SHARE, by_clusters, (difference == 0).astype(float))
        p = np.where(self.total <= ROUNDING, unanimous, p)
        return np.where(np.isfinite(difference), p, np.nan)

    @property
    def largest_unseen(self) -> np.ndarray:
        """The largest share of clusters that may well show in none of these: Clopper and Pearson's "rule of three"."""
        return 1 - ((1 - CONFIDENCE) / 2) ** (1 / self.number_of_clusters)

    def interval(
        self, value: np.ndarray, scale: np.ndarray, signed: bool, largest: float = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the intervals' ends; `scale` and `largest` as for `p_value`, `signed` for differences of estimates."""
        half, unanimous = self.half_width, self.total <= ROUNDING
        half = np.where(unanimous, np.where(scale == SHARE, largest * self.largest_unseen, 0), half)
        low, high = value - half, value + half
        if not signed:
            with np.errstate(all="ignore"):
                factor = np.exp(half / value)  # the interval of the logarithm
                low, high = (
                    np.where(scale == EXPONENTIAL, of_exponential, end)
                    for of_exponential, end in ((value / factor, low), (value * factor, high))
                )
        ends = ((-largest if signed else 0, -np.inf), (largest, np.inf))
        least, most = (np.where(scale == SHARE, *of_scales) for of_scales in ends)
        return np.maximum(low, least), np.minimum(high, most)


@dataclass(frozen=True)
class Influences:
    """Estimates, and how far each seed, each unit and each pair of both moved them.

    A unit is an attribute's part of a cluster. Shapes, after leading axes of any kind: value (attributes), seeds
    (seeds, attributes), units (units), both (seeds, units), and shares (units), the units' parts of their attribute's
    weight.
    """

    value: np.ndarray
    seeds: np.ndarray
    units: np.ndarray
    both: np.ndarray
    shares: np.ndarray

    def __sub__(self, other: "Influences") -> "Influences":
        """Return those on the difference. The base model's one seed stands beside each of a candidate's."""
        return Influences(
            self.value - other.value,
            self.seeds - other.seeds,
            self.units - other.units,
            self.both - other.both,
            np.maximum(self.shares, other.shares),
        )

    @classmethod
    def mean(cls, several: Sequence["Influences"]) -> "Influences":
        """Return those on the mean of estimates from the same seeds and questions."""
        return cls(*(np.mean([getattr(one, field.name) for one in several], axis=0) for field in fields(cls)))

    def variance(self, starts: Sequence[int]) -> Variance:
        """Return the variances of the estimates; `starts`: the first unit of each."""

        def summed(squares: np.ndarray) -> np.ndarray:
            return np.add.reduceat(squares, starts, axis=-1)

        number = self.seeds.shape[-2]
        correction = number / max(number - 1, 1)
        return Variance(
            correction * (self.seeds**2).sum(axis=-2),
            summed(self.units**2),
            correction * summed((self.both**2).sum(axis=-2)),
            number,
            summed(self.shares) ** 2 / summed(self.shares**2),
        )


@dataclass(frozen=True)
class Units:
    """The units of an evaluation's questions, attribute by attribute: the attribute and cluster of each, from 0."""

    attribute: np.ndarray
    cluster: np.ndarray

    @property
    def starts(self) -> np.ndarray:
        """The first unit of each attribute."""
        return np.flatnonzero(np.diff(self.attribute, prepend=-1))

    def influences(self, totals: np.ndarray, weights: np.ndarray, exponential: np.ndarray | bool = False) -> Influences:
        """Return the influences on each attribute's ratio of sums, or on that of its exponential where `exponential`.

        `totals` and `weights` have shape (…, seeds, units), `exponential` (…, attributes). With T and W for an
        attribute's sums, R = T / W, and t and w for a cell's, the cell's influence is (t − R w) / W, times the slope of
        exp.
        """
        starts, of = self.starts, self.attribute
        total, weight = (np.add.reduceat(sums.sum(axis=-2), starts, axis=-1) for sums in (totals, weights))
        with np.errstate(all="ignore"):  # of what is no number, and of an attribute's only cluster, which becomes NaN
            ratio = total / weight
            value = np.where(exponential, np.exp(ratio), ratio)
            value = np.where(np.isfinite(ratio) & np.isfinite(value), value, np.nan)
            slope = np.where(exponential, value, 1 + 0 * value) / weight
            cells = (totals - ratio[..., None, of] * weights) * slope[..., None, of]
            shares = weights.sum(axis=-2) / weight[..., of]
            # By the jackknife: without the cluster the estimate would differ by so many times its influence.
            left_out = np.sqrt(1 - 1 / np.bincount(of)[of]) / (1 - shares)
            seeds, units = np.add.reduceat(cells, starts, axis=-1), cells.sum(axis=-2)
            both = cells - shares[..., None, :] * seeds[..., of] - units[..., None, :] / cells.shape[-2]
            return Influences(value, seeds, units * left_out, both * left_out[..., None, :], shares)

    def combined(self, influences: Influences, weights: np.ndarray) -> Influences:
        """Return the influences on a weighted sum of the attributes' estimates, with whole clusters for units.

        `weights` has shape (…, attributes) or (attributes,). A cluster's influences on several attributes add up. An
        attribute's only cluster is taken to vary as the other attributes' do on average.
        """
        order = np.argsort(self.cluster, kind="stable")
        starts = np.flatnonzero(np.diff(self.cluster[order], prepend=-1))
        unit_weights = weights[..., self.attribute[order]]
        alone = np.bincount(self.attribute) == 1
        with np.errstate(invalid="ignore"):
            squares = np.add.reduceat(influences.units**2, self.starts, axis=-1)
            counted = (weights != 0) & ~alone
            average = np.where(counted, squares, 0).sum(axis=-1, keepdims=True) / counted.sum(axis=-1, keepdims=True)
        alone = alone[self.attribute]

        def weighted(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
            return np.where(weights == 0, 0, values * weights)  # 0 times NaN is 0: it doesn't belong to the sum

        def by_cluster(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
            return np.add.reduceat(weighted(values[..., order], weights), starts, axis=-1)

        return Influences(
            weighted(influences.value, weights).sum(axis=-1, keepdims=True),
            weighted(influences.seeds, weights[..., None, :]).sum(axis=-1, keepdims=True),
            by_cluster(np.where(alone, np.sqrt(average), influences.units), unit_weights),
            by_cluster(np.where(alone, 0, influences.both), unit_weights[..., None, :]),
            by_cluster(influences.shares, np.abs(unit_weights)),
        )
