"""Write the table of docs/evaluations.md: how often 95 % intervals hold the truth, in simulated experiments.

python docs/coverage.py
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import expit

PROJECT = Path(__file__).resolve().parents[1]
if str(PROJECT) not in sys.path:
    sys.path.insert(0, str(PROJECT))

from spunge.evaluation.intervals import Influences, Units  # noqa: E402

PAGE = PROJECT / "docs" / "evaluations.md"
START, END = "<!-- Written by `python docs/coverage.py`. -->\n", "<!-- End of what docs/coverage.py wrote. -->\n"

EXPERIMENTS, RESAMPLES = 4000, 1000
SEEDS = (3, 5, 10)
QUESTIONS, CLUSTERS = 480, 24
LARGEST = (0.1, 0.3)  # the largest cluster's share of the questions
TRUTH = 0.1
QUANTILE = 1.959964


class Spread(NamedTuple):
    """Standard deviations of a paired difference: of seeds, clusters, their interaction, questions, and noise."""

    seeds: float
    clusters: float
    both: float
    questions: float
    noise: float = 0.5


SCENARIOS = {
    "seeds dominate": Spread(1, 0.2, 0.2, 1),
    "clusters dominate": Spread(0.1, 1, 0.2, 1),
    "seeds and clusters": Spread(0.6, 1, 0.3, 1),
    "seeds, a little": Spread(0.15, 0.5, 0.3, 1),
    "interaction alone": Spread(0, 0, 1, 0),
    "questions alone": Spread(0, 0, 0, 2),
}
BINARY = "answers, right or wrong"


class Coverage(NamedTuple):
    """Of the intervals in simulated experiments: the share that hold the truth, and the mean width.

    The width is relative to that of the intervals that know the variance.
    """

    coverage: float
    width: float


def cluster_sizes(largest: float) -> np.ndarray:
    """Return the numbers of questions of the clusters: the first has its share, the others differ."""
    others = np.random.default_rng(5).gamma(1.5, size=CLUSTERS - 1)
    shares = np.array([largest, *(others / others.sum() * (1 - largest))])
    return np.maximum(1, np.round(shares * QUESTIONS))


def differences(spread: Spread, seeds: int, sizes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return sums of paired differences, shape (experiments, seeds, clusters)."""

    def normal(deviation: float | np.ndarray, *shape: int) -> np.ndarray:
        return deviation * generator.normal(size=(EXPERIMENTS, *shape))

    means = TRUTH + normal(spread.seeds, seeds, 1) + normal(spread.clusters, 1, CLUSTERS)
    means = means + normal(spread.both, seeds, CLUSTERS) + normal(spread.questions / np.sqrt(sizes), 1, CLUSTERS)
    return (means + normal(spread.noise / np.sqrt(sizes), seeds, CLUSTERS)) * sizes


def answers(seeds: int, sizes: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of right answers of two candidates, shape (experiments, seeds, clusters) each."""
    shared = generator.normal(-0.5, 1, size=(EXPERIMENTS, 1, CLUSTERS))
    apart = generator.normal(0, 0.7, size=(EXPERIMENTS, 1, CLUSTERS))
    of_candidates = []
    for of_candidate in (shared, shared + apart):
        of_seeds = generator.normal(0, 0.4, size=(EXPERIMENTS, seeds, 1))
        of_both = generator.normal(0, 0.3, size=(EXPERIMENTS, seeds, CLUSTERS))
        of_candidates.append(generator.binomial(sizes.astype(int), expit(of_candidate + of_seeds + of_both)))
    return tuple(of_candidates)


def expected_accuracy(variance: float) -> float:
    """Return the mean of expit over a normal distribution around -0.5."""
    points, weights = np.polynomial.hermite_e.hermegauss(60)
    return float(weights @ expit(-0.5 + np.sqrt(variance) * points) / weights.sum())


def bootstrap(sums: np.ndarray, sizes: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of percentile bootstraps over clusters, crossed with seeds, as they were made before."""
    experiments, seeds, clusters = sums.shape
    counts = generator.multinomial(clusters, np.full(clusters, 1 / clusters), size=RESAMPLES).astype(float)
    of_seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES).astype(float)
    resampled = np.zeros((experiments, RESAMPLES))
    for seed in range(seeds):
        resampled += (sums[:, seed] @ counts.T) * of_seeds[:, seed]
    return tuple(np.percentile(resampled / (counts @ sizes * seeds), [2.5, 97.5], axis=1))


def judged(low: np.ndarray, high: np.ndarray, truth: float, deviation: float) -> Coverage:
    """Return the Coverage of intervals; `deviation`: the estimates' standard deviation."""
    return Coverage(
        float(((low <= truth) & (truth <= high)).mean()), float((high - low).mean() / (2 * QUANTILE * deviation))
    )


def simulated(with_bootstrap: bool = False) -> Iterator[tuple[str, float, int, Coverage, Coverage | None]]:
    """Yield scenario, largest share, seeds, and the Coverage of our intervals and of the percentile bootstrap."""
    units = Units(np.zeros(CLUSTERS, dtype=int), np.arange(CLUSTERS))
    for number, scenario in enumerate([*SCENARIOS, BINARY]):
        for largest in LARGEST:
            sizes = cluster_sizes(largest)
            for seeds in SEEDS:
                generator = np.random.default_rng([number, round(100 * largest), seeds])
                weights = np.broadcast_to(sizes, (EXPERIMENTS, seeds, CLUSTERS))
                if scenario == BINARY:
                    base, edited = answers(seeds, sizes, generator)
                    sums, truth = edited - base, expected_accuracy(1.74) - expected_accuracy(1.25)
                    influences = units.influences(edited, weights) - units.influences(base, weights)
                else:
                    sums, truth = differences(SCENARIOS[scenario], seeds, sizes, generator), TRUTH
                    influences = units.influences(sums, weights)
                yield scenario, largest, seeds, *_coverages(influences, sums, sizes, truth, with_bootstrap, generator)


def _coverages(
    influences: Influences,
    sums: np.ndarray,
    sizes: np.ndarray,
    truth: float,
    with_bootstrap: bool,
    generator: np.random.Generator,
) -> tuple[Coverage, Coverage | None]:
    deviation = float(influences.value.std())
    # Differences of shares have bounds, which continuous ones here may cross.
    low, high = influences.variance([0]).interval(influences.value, np.array("number"), signed=True)
    ours = judged(low, high, truth, deviation)
    return ours, judged(*bootstrap(sums, sizes, generator), truth, deviation) if with_bootstrap else None


def table() -> str:
    """Return the table, in Markdown."""
    header = ["what differs", "largest cluster", *(f"{seeds} seeds" for seeds in SEEDS)]
    header += [f"bootstrap, {seeds}" for seeds in SEEDS]
    lines = {}
    for scenario, largest, _, *coverages in simulated(with_bootstrap=True):
        lines.setdefault((scenario, largest), []).append(coverages)
    rows = [
        [scenario, f"{largest:.0%}"]
        + [f"{100 * one.coverage:.1f} ({one.width:.2f})" for one, _ in of_seeds]
        + [f"{100 * before.coverage:.1f}" for _, before in of_seeds]
        for (scenario, largest), of_seeds in lines.items()
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in [header, ["---"] * len(header), *rows])


def main() -> None:
    """Put the table into the page."""
    before, rest = PAGE.read_text().split(START)
    PAGE.write_text(before + START + table() + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
