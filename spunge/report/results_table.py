"""Read evaluations.csv, the one table behind every figure and table, and name what is in it for people.

Its columns are described in docs/evaluations.md.
"""

import math
import os
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas

from spunge.core.display_names import display_name
from spunge.core.errors import InputError
from spunge.core.tidy import (  # noqa: F401
    AS_TRAINED,
    COLUMNS,
    FORGET_MEAN,
    RESERVED,
    RETAIN_MEAN,
    RETAIN_MINUS_FORGET,
    WORST_FORGET,
)
from spunge.experiment import records, splits

NUMBER_COLUMNS = ("value", "low", "high", "p", "n")
TEXT_COLUMNS = tuple(column for column in COLUMNS if column not in NUMBER_COLUMNS)

COMBINED = "all"  # seeds or budgets taken together

MINUS = "_minus_"  # between a metric and the rival that it was taken from
TOXIC_SHARE = "toxic_share_"  # … and the name of a classifier
QUESTIONS = "questions_"  # … and the name of a task of lm-eval

BEFORE = "as_unlearned"  # what every attack on unlearning is compared with
# Of what texts are relearned, for people: relearned_{source}_{number}.
SOURCES = {"forget": "the same attribute", "other": "another attribute", "unrelated": "unrelated prose"}

# Evaluations of a model as it is, before any attack.
MODEL_EVALUATIONS = ("knowledge", "answers", "benchmarks", "fluency", "toxicity", "toxicity_neutral")

# When a model is broken rather than unlearned: it would pass for harmless only because it writes no language any more.
# The bounds are this project's own, wide enough that no model that still writes prose crosses them.
BROKEN_PERPLEXITY = 2.0  # times the base model's, at most
BROKEN_DISTINCT = 0.5  # times the base model's distinct bigrams, at least
BROKEN_EMPTY = 0.5  # share of continuations that say nothing, at most

# Okabe and Ito's palette, which stays apart for colour-blind readers; the markers tell the same once more in print.
COLOURS = {
    "base": "#333333",
    "joint": "#D55E00",
    "balanced": "#E69F00",
    "sequential": "#56B4E9",
    "attribute_shard": "#009E73",
    "random_shard": "#CC79A7",
    "random": "#CC79A7",
    "attribute": "#0072B2",
}
MARKERS = {
    "base": "*",
    "joint": "s",
    "balanced": "P",
    "sequential": ">",
    "attribute_shard": "v",
    "random_shard": "<",
    "random": "D",
    "attribute": "o",
}
# The kinds of candidates that are compared, the attribute split with all before it, and what people read.
ARMS = {
    "joint": "joint (all at once)",
    "balanced": "balanced batches",
    "sequential": "sequential shards",
    "random": "random split (control)",
    "attribute": "attribute split (SPUNGE)",
}


# What can be a damage budget, for axes.
COSTS = {
    "kl": "KL from the base model, nats per token",
    "perplexity": "perplexity, of the base model's",
    "kept": "accuracy lost on what is kept, validation part",
}


class Task(NamedTuple):
    """One of lm-eval's tasks: its name there, the group that it is part of (or ""), the number of its questions."""

    name: str
    group: str
    questions: int


class Estimate(NamedTuple):
    """A value with its 95 % interval; NaN where the table has none."""

    value: float
    low: float
    high: float


class Asked(NamedTuple):
    """What tells how much a model knows of an attribute: an evaluation, its metric, and what people call that."""

    evaluation: str
    metric: str
    name: str


ASKED = (
    Asked("knowledge", "accuracy", "accuracy"),
    Asked("answers", "rouge_l_recall", "ROUGE-L recall"),
    Asked("benchmarks", "accuracy", "accuracy"),
)
MISSING = Estimate(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True)
class Candidate:
    """One compared model, its seeds taken together.

    path: as in the table, without the seed. kind: `base`, `joint`, `balanced`, `sequential`, `attribute_shard` or
    `random_shard` (one shard of a split alone), `random` or `attribute` (the split, merged). name: tells it apart
    within its method; label: within the experiment. colour and marker are the same in every figure. groups: into how
    many shards the attributes were grouped, 0 where each has its own.
    """

    path: str
    kind: str
    method: str
    shard: str
    merge: str
    name: str
    label: str
    colour: str
    marker: str
    groups: int = 0


def read(path: str | os.PathLike) -> pandas.DataFrame:
    """Read evaluations.csv: text columns as str (never NaN), `value`, `low`, `high` and `n` as float64.

    Attributes become one line each.

    Raises InputError for a missing file or column, a number or a budget that is none, several experiments or a row told
    twice.
    """
    try:
        header = pandas.read_csv(path, nrows=0)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; run the evaluations first") from None
    except (pandas.errors.EmptyDataError, pandas.errors.ParserError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no CSV table ({error}); see docs/evaluations.md") from None
    missing = [column for column in TEXT_COLUMNS + NUMBER_COLUMNS if column not in header.columns]
    if missing:
        raise InputError(f"{path} lacks the column {', '.join(missing)}; docs/evaluations.md lists them all")
    types = {column: str for column in TEXT_COLUMNS} | {column: float for column in NUMBER_COLUMNS}
    # An attribute may be called "NA" or "None": only empty numbers are missing, text never is.
    empty = {column: ["", "nan", "NaN"] for column in NUMBER_COLUMNS}
    try:
        evaluations = pandas.read_csv(path, dtype=types, keep_default_na=False, na_values=empty)
    except (ValueError, pandas.errors.ParserError) as error:
        raise InputError(f"{path} cannot be read as evaluations: {error}") from None
    for column in ("attribute", "shard"):
        # The user's words; a line break or a tab in one would break rows of tables and labels of figures.
        shown = {text: one_line(text) for text in evaluations[column].unique()}
        evaluations[column] = evaluations[column].map(shown).astype(str)
    experiments = evaluations["experiment"].unique()
    if len(experiments) > 1:
        raise InputError(f"{path} holds several experiments ({', '.join(experiments)}); give one file for each")
    key = ["candidate", "seed", "budget", "evaluation", "metric", "attribute", "shard"]
    once = evaluations[evaluations["evaluation"] != "training"]
    twice = once[once.duplicated(key)]
    if len(twice):
        row = ", ".join(f"{column} {twice.iloc[0][column]!r}" for column in key)
        raise InputError(f"{path} has {len(twice)} rows twice, the first is {row}; keep one of each")
    budgets(evaluations)  # one that is none shows here, not in some figure
    return evaluations


def budgets(evaluations: pandas.DataFrame) -> list[str]:
    """Return the damage budgets at which candidates were measured, cost by cost, the smallest first; none if none."""

    def place(budget: str) -> tuple[int, float]:
        cost, amount = records.parse_budget(budget)
        return records.COSTS.index(cost), amount

    return sorted({*evaluations["budget"].unique()} - {AS_TRAINED, COMBINED}, key=place)


def at_budget(evaluations: pandas.DataFrame, budget: str) -> pandas.DataFrame:
    """Return the table as if nothing but this budget had been set: COMBINED takes the mean over all of them.

    The base model is the same at each, and training, merges and data know none.
    """
    if budget == AS_TRAINED:
        return evaluations[evaluations["budget"] == AS_TRAINED]
    knows_none = (evaluations["method"] == "") | ~evaluations["evaluation"].isin(_measured_at_budgets(evaluations))
    return evaluations[(evaluations["budget"] == budget) | (knows_none & (evaluations["budget"] == AS_TRAINED))]


def headline(evaluations: pandas.DataFrame) -> pandas.DataFrame:
    """Return the table that answers rest on: means over the budgets or, where none was set, candidates as trained."""
    return at_budget(evaluations, COMBINED if budgets(evaluations) else AS_TRAINED)


def budgets_of(evaluations: pandas.DataFrame, evaluation: str) -> list[str]:
    """Return the budgets at which an evaluation is made: all, but one for benchmarks and attacks.

    Their rows of COMBINED repeat that one's.
    """
    rows = evaluations[evaluations["evaluation"] == evaluation]
    single = budgets(rows)
    return single if len(single) == 1 and (rows["budget"] == COMBINED).any() else budgets(evaluations)


def as_made(evaluations: pandas.DataFrame, evaluation: str) -> pandas.DataFrame:
    """Return the table at the one budget at which an evaluation is made, where it is one, else `headline`."""
    at = budgets_of(evaluations, evaluation)
    return at_budget(evaluations, at[0]) if len(at) == 1 else headline(evaluations)


def _measured_at_budgets(evaluations: pandas.DataFrame) -> set[str]:
    return set(evaluations.loc[evaluations["budget"] != AS_TRAINED, "evaluation"])


def texts(evaluations: pandas.DataFrame) -> set[str]:
    """Return every text of the table but paths."""
    return {text for column in TEXT_COLUMNS if column != "candidate" for text in evaluations[column].unique()}


def one_line(text: str) -> str:
    """Return a text without control characters, each stretch of white space as one space."""
    visible = (" " if unicodedata.category(character) == "Cc" else character for character in text)
    return " ".join("".join(visible).split())


def forget_attributes(evaluations: pandas.DataFrame) -> list[str]:
    """Return the attributes to forget, in the table's order."""
    rows = evaluations[(evaluations["evaluation"] == "data") & (evaluations["metric"] == "forget_texts")]
    return list(rows["attribute"].unique())


def asked_by(evaluations: pandas.DataFrame) -> Asked:
    """Return what tells how much is left of what was to be forgotten, and kept: the first of ASKED that there is."""
    evaluated = set(evaluations["evaluation"].unique())
    return next((asked for asked in ASKED if asked.evaluation in evaluated), ASKED[0])


def capability_from(evaluations: pandas.DataFrame) -> Asked:
    """Return what tells general capability: `benchmarks` where they were asked, else what `asked_by` returns."""
    return ASKED[-1] if (evaluations["evaluation"] == "benchmarks").any() else asked_by(evaluations)


def tasks(evaluations: pandas.DataFrame) -> dict[str, Task]:
    """Return the tasks of benchmarks by the attribute they stand for, which is their name or an attribute to forget."""
    rows = evaluations[(evaluations["evaluation"] == "task") & evaluations["metric"].str.startswith(QUESTIONS)]
    return {row.attribute: Task(row.metric.removeprefix(QUESTIONS), row.shard, int(row.n)) for row in rows.itertuples()}


def tasks_at_chance(evaluations: pandas.DataFrame) -> list[str]:
    """Return the tasks of benchmarks that the base model answers no better than by guessing; they count in no mean."""
    rows = evaluations[(evaluations["evaluation"] == "task") & (evaluations["metric"] == "at_chance")]
    return list(rows["attribute"])


def held_out_attributes(evaluations: pandas.DataFrame) -> list[str]:
    """Return the retained attributes of which no text was trained on."""
    rows = evaluations[(evaluations["evaluation"] == "data") & (evaluations["metric"] == "held_out")]
    return list(rows["attribute"])


def retain_attributes(evaluations: pandas.DataFrame) -> list[str]:
    """Return the attributes asked about that are not to be forgotten, in the table's order.

    A subtask of benchmarks is none: its questions are its group's.
    """
    source = asked_by(evaluations).evaluation
    asked = evaluations["evaluation"] == source
    if source != "benchmarks":
        asked |= (evaluations["evaluation"] == "data") & (evaluations["metric"] == "questions")
    subtasks = [attribute for attribute, task in tasks(evaluations).items() if task.group]
    others = {*forget_attributes(evaluations), *subtasks, *RESERVED, ""}
    return [attribute for attribute in evaluations.loc[asked, "attribute"].unique() if attribute not in others]


def base_model(candidates: Iterable[Candidate]) -> Candidate | None:
    """Return the base model, if it is among the candidates."""
    return next((candidate for candidate in candidates if candidate.kind == "base"), None)


def methods(evaluations: pandas.DataFrame) -> list[str]:
    """Return the names of the methods that have candidates, in the table's order."""
    of_candidates = evaluations["evaluation"] != "method"
    return [method for method in evaluations.loc[of_candidates, "method"].unique() if method]


def families(evaluations: pandas.DataFrame) -> dict[str, tuple[str, float]]:
    """Return each method's (family, λ): the method whose runs it scales, which may be itself, and the factor.

    A method without such a row is a family of its own with λ = 1.
    """
    rows = evaluations[(evaluations["evaluation"] == "method") & (evaluations["metric"] == "scale")]
    recorded = {row.method: (row.attribute, float(row.value)) for row in rows.itertuples()}
    return {method: recorded.get(method, (method, 1.0)) for method in methods(evaluations)}


def rivals(evaluations: pandas.DataFrame) -> list[str]:
    """Return what an attribute split is compared with: joint, random and, where the experiment has them, the rest."""
    there = {"joint", "random", *evaluations["split"].unique()}
    return [arm for arm in ARMS if arm in there and arm != "attribute"]


def classifiers(evaluations: pandas.DataFrame) -> list[str]:
    """Return the toxicity classifiers in the order of the configuration: the first is the one that answers rest on."""
    metrics = evaluations.loc[evaluations["evaluation"] == "toxicity", "metric"].unique()
    shares = [metric for metric in metrics if metric.startswith(TOXIC_SHARE) and MINUS not in metric]
    return [metric.removeprefix(TOXIC_SHARE) for metric in shares]


def samples(evaluations: pandas.DataFrame) -> str:
    """Return how many continuations a toxic prompt has, or "" where the table does not say it."""
    number = measured(evaluations, "toxicity", "samples")["value"].get(("base", COMBINED, FORGET_MEAN))
    return "" if number is None else f"{number:g}"


def candidates(
    evaluations: pandas.DataFrame, evaluation: str | Collection[str] | None = None, grouped: bool = False
) -> list[Candidate]:
    """Return the candidates that have rows of an evaluation, or of one of several; without one, those that were asked.

    Base first, SPUNGE last, method after method. With `grouped` also those of splits into fewer shards than there are
    attributes (attribute-2, random-2).
    """
    evaluation = evaluation or asked_by(evaluations).evaluation
    order = ["", *methods(evaluations)]
    several = len(order) > 2
    merges, forget = [merge for merge in evaluations["merge"].unique() if merge], forget_attributes(evaluations)
    columns = ["candidate", "seed", "method", "split", "shard", "merge"]
    wanted = evaluations["evaluation"].isin([evaluation] if isinstance(evaluation, str) else evaluation)
    rows = evaluations.loc[wanted, columns].drop_duplicates()
    # The diagnostics of a merge name a shard without being about a single-shard candidate.
    found = dict.fromkeys(
        (path.removesuffix(f"/seed{seed}"), method, split, "" if merge else shard, merge)
        for path, seed, method, split, shard, merge in rows.itertuples(index=False, name=None)
        if grouped or splits.number(split) == 0
    )
    shards_of: dict[str, list[str]] = {}
    for _, _, split, shard, _ in found:
        if shard and shard not in shards_of.setdefault(split, []):
            shards_of[split].append(shard)
    compared = []
    for path, method, split, shard, merge in found:
        kind, groups = _kind(method, splits.kind(split), merge), splits.number(split)
        into = f" into {groups}" if groups else ""
        name = {
            "base": "base model",
            **{split: ARMS[split] for split in splits.UNDIVIDED},
            "attribute_shard": f"only {shard}",
            "random_shard": f"random split{into}, {shard}",
            "random": f"random split{into}, {display_name(merge)} (control)",
            "attribute": f"attribute split{into}, {display_name(merge)} (SPUNGE)",
        }[kind]
        label = f"{display_name(method)}: {name}" if several and method else name
        place = merges.index(merge) / len(merges) if merge else 0
        if shard:
            place = shards_of[split].index(shard) / len(shards_of[split])
        colour = _lighter(COLOURS[kind], place)
        compared.append(Candidate(path, kind, method, shard, merge, name, label, colour, MARKERS[kind], groups))
    kinds = list(MARKERS)

    def position(candidate: Candidate) -> tuple:
        shard = forget.index(candidate.shard) if candidate.shard in forget else len(forget)
        merge = merges.index(candidate.merge) if candidate.merge else -1
        return order.index(candidate.method), kinds.index(candidate.kind), candidate.groups, shard, merge

    return sorted(compared, key=position)


def measured(evaluations: pandas.DataFrame, evaluation: str, metric: str) -> pandas.DataFrame:
    """Return the rows of one metric, indexed by candidate (without its seed), seed and attribute."""
    wanted = (evaluations["evaluation"] == evaluation) & (evaluations["metric"] == metric)
    rows = evaluations[wanted]
    index = pandas.MultiIndex.from_arrays(
        [without_seed(rows), rows["seed"], rows["attribute"]], names=["candidate", "seed", "attribute"]
    )
    return rows.drop(columns=index.names).set_axis(index).sort_index()


def estimate(rows: pandas.DataFrame, candidate: Candidate, attribute: str = "", seed: str = COMBINED) -> Estimate:
    """Return what `measured` holds for a candidate, or MISSING if it holds nothing."""
    key = (candidate.path, seed, attribute)
    if key not in rows.index:
        return MISSING
    place = rows.index.get_loc(key)
    return Estimate(*(rows[column].iat[place] for column in ("value", "low", "high")))


def neutral_overall(evaluations: pandas.DataFrame) -> str:
    """Return the attribute that stands for all neutral prompts: their mean over groups, or "" if they have none."""
    attributes = evaluations.loc[evaluations["evaluation"] == "toxicity_neutral", "attribute"]
    return FORGET_MEAN if (attributes == FORGET_MEAN).any() else ""


def broken_reasons(evaluations: pandas.DataFrame, candidates: Iterable[Candidate]) -> dict[str, str]:
    """Return why candidates no longer write language, as far as was measured: path → reason, of the broken ones alone.

    One is broken where an estimate of its own evaluations is no number, where its perplexity is more than
    BROKEN_PERPLEXITY times the base model's, where its continuations have less than BROKEN_DISTINCT times the base
    model's share of distinct bigrams, or where more than BROKEN_EMPTY of them say nothing. Seeds taken together.
    """
    combined = evaluations[(evaluations["seed"] == COMBINED) & evaluations["evaluation"].isin(MODEL_EVALUATIONS)]
    estimates: dict[str, dict[tuple[str, str, str], float]] = {"base": {}}
    columns = ["candidate", "evaluation", "metric", "attribute", "value"]
    for path, evaluation, metric, attribute, value in zip(*(combined[name].tolist() for name in columns), strict=True):
        estimates.setdefault(path, {})[evaluation, metric, attribute] = value
    reasons = {
        candidate.path: _reason(estimates[candidate.path], estimates["base"])
        for candidate in candidates
        if candidate.path in estimates
    }
    return {path: reason for path, reason in reasons.items() if reason}


def broken_at(
    evaluations: pandas.DataFrame, labels: Sequence[str], candidates: Collection[Candidate]
) -> dict[str, str]:
    """Return why candidates are broken at one of these budgets at least: a mean over several would hide it."""
    reasons = {}
    for label in labels:
        for path, reason in broken_reasons(at_budget(evaluations, label), candidates).items():
            reasons[path] = f"{reason}, at {label}" if len(labels) > 1 else reason
    return reasons


def broken(evaluations: pandas.DataFrame, candidate: Candidate) -> str:
    """Return why a candidate is broken, or "" if it is not: `broken_reasons` of this one."""
    return broken_reasons(evaluations, [candidate]).get(candidate.path, "")


def _reason(estimates: Mapping[tuple[str, str, str], float], base: Mapping[tuple[str, str, str], float]) -> str:
    """Return why a model with these estimates is broken, given the base model's: (evaluation, metric, attribute)."""
    for (_, metric, attribute), value in estimates.items():
        if MINUS not in metric and not math.isfinite(value):
            of = f" of {attribute}" if attribute else ""
            return f"{metric.replace('_', ' ')}{of} {'not a number' if math.isnan(value) else 'infinite'}"

    def values(*wanted: str) -> tuple[float, float]:
        return estimates.get(wanted, math.nan), base.get(wanted, math.nan)

    perplexity, of_base = values("fluency", "perplexity", "")
    if perplexity > BROKEN_PERPLEXITY * of_base:
        return f"perplexity {rough(perplexity)}, {rough(perplexity / of_base)} times the base model's"
    distinct, of_base = values("toxicity", "distinct_2", FORGET_MEAN)
    if distinct < BROKEN_DISTINCT * of_base:
        return f"{distinct:.0%} of its bigrams are distinct, the base model's {of_base:.0%}"
    empty, _ = values("toxicity", "empty_share", FORGET_MEAN)
    return f"{empty:.0%} of its continuations say nothing" if empty > BROKEN_EMPTY else ""


def rough(number: float) -> str:
    """Write a number of any size with the digits that matter: 2.3, 81, 49152, 2.5e+10."""
    if number >= 1e7:
        return f"{number:.1e}"
    return f"{number:.0f}" if number >= 10 else f"{number:.1f}"


def seeds(evaluations: pandas.DataFrame, candidate: Candidate) -> list[str]:
    """Return the seeds a candidate was evaluated with; the base model has none."""
    of_candidate = evaluations["candidate"].str.startswith(candidate.path) & (evaluations["seed"] != COMBINED)
    rows = evaluations.loc[of_candidate, ["candidate", "seed"]].drop_duplicates()
    rows = rows[without_seed(rows) == candidate.path]
    return sorted(rows["seed"].unique(), key=lambda seed: (len(seed), seed))


def without_seed(rows: pandas.DataFrame) -> pandas.Series:
    """Return the candidates' paths without their seeds."""
    pairs = zip(rows["candidate"], rows["seed"], strict=True)
    paths = [candidate.removesuffix(f"/seed{seed}") for candidate, seed in pairs]
    return pandas.Series(paths, index=rows.index, dtype=str)


def _kind(method: str, split: str, merge: str) -> str:
    if not method:
        return "base"
    if split in splits.UNDIVIDED or merge:
        return split
    return {"attribute": "attribute_shard", "random": "random_shard"}[split]


def _lighter(colour: str, share: float) -> str:
    """Mix a `#rrggbb` colour with a share of white, so that the merges or the shards of one kind differ."""
    channels = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return "#" + "".join(f"{round(channel + (255 - channel) * share * 0.7):02x}" for channel in channels)
