"""The records of an experiment's grid, each with a path that says what it is and from which it is read back.

- `rmu/joint/seed0`: a run on all texts, and the candidate that it gives; `balanced` and `sequential` alike.
- `rmu/attribute/shard/Africa/seed0`: a run on one shard of a split, and the candidate of that shard alone.
- `rmu/attribute/merge/ties/seed0`: a merge of all shards of a split, and the candidate that it gives.
- `base`: the base model.
- `rmu/attribute/merge/ties`: a candidate with its seeds taken together.
- `rmu/joint/seed100/trial2`: the same with the options of a trial, of which tuning chooses one.
"""

import contextlib
import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from spunge.core import slugs
from spunge.core.errors import InputError
from spunge.experiment import splits

ALL_SEEDS = "all"
COSTS = ("kl", "perplexity", "kept")  # what can be a budget
SCALED_BY_SHARD = ("steps", "warmup_steps")  # options of a run that grow with its shard
OF_MERGE = "merge."  # in `tune`, before an option of the merge that a method's shards are tried with


def budget_label(cost: str, budget: float) -> str:
    """Return what a damage budget is called in evaluations.csv; the model as trained has an empty label."""
    return f"{cost}={budget:g}"


def parse_budget(label: str) -> tuple[str, float]:
    """Return the cost and the budget that a label names; raise InputError where it names none."""
    cost, _, budget = label.partition("=")
    with contextlib.suppress(ValueError):
        if cost in COSTS:
            return cost, float(budget)
    raise InputError(f"{label!r} is no budget: they read like {budget_label(COSTS[0], 0.03)}, of {', '.join(COSTS)}")


UNDIVIDED, SPLIT = rf"(?:{'|'.join(splits.UNDIVIDED)})", rf"(?:{'|'.join(splits.GROUPED)})(?:-\d+)?"
_PATH = re.compile(
    rf"(?P<method>[^/]+)/(?:(?P<undivided>{UNDIVIDED})|(?P<split>{SPLIT})/(?P<kind>shard|merge)/(?P<name>[^/]+))"
    r"(?:/seed(?P<seed>\d+)(?:/trial(?P<trial>\d+))?)?"
)


EXAMPLES = {
    "undivided": "rmu/joint/seed0",
    "shard": "rmu/attribute/shard/Africa/seed0",
    "merge": "rmu/attribute/merge/ties/seed0",
}


def _read(path: str, what: str, *kinds: str, seeds_together: bool = False) -> dict[str, str]:
    """Return the parts of a path of one of these kinds (undivided, shard, merge); raise InputError for any other."""
    match = _PATH.fullmatch(path)
    if not match or (match["kind"] or "undivided") not in kinds or not (match["seed"] or seeds_together):
        raise InputError(f"{path!r} is no path of {what}, such as {' or '.join(EXAMPLES[kind] for kind in kinds)}")
    parts = {key: value or "" for key, value in match.groupdict().items()}
    return parts | {"split": parts["split"] or parts["undivided"], "kind": parts["kind"] or "undivided"}


def _of_trial(trial: str) -> str:
    return f"/trial{trial}" if trial else ""


class Shard(NamedTuple):
    """A shard of a split: what the data call it, and the attributes whose texts it has (random: whose number)."""

    label: str
    attributes: tuple[str, ...]


# Every job asks, and the answer is as long as there are shards: hundreds of shards would cost their square.
@functools.cache
def shards(attributes: tuple[str, ...], split: str) -> dict[str, Shard]:
    """Return the shards of a split of these attributes by their names in paths."""
    made = splits.parts(attributes, split)
    paths = slugs.slugs(made) if split == "attribute" else {part: part for part in made}
    return {paths[part]: Shard(part, tuple(of)) for part, of in made.items()}


def shard_named(name: str, attributes: tuple[str, ...], split: str) -> Shard:
    """Return the shard of a split that has this name in paths; raise InputError where none has."""
    of_split = shards(attributes, split)
    if name not in of_split:
        raise InputError(f"the {split} split has no shard {name!r}; it has {', '.join(of_split)}")
    return of_split[name]


def method_options(tried: Mapping[str, object]) -> dict[str, object]:
    """Return which of the options that are tried together are the method's."""
    return {key: value for key, value in tried.items() if not key.startswith(OF_MERGE)}


def merge_options(tried: Mapping[str, object]) -> dict[str, object]:
    """Return which of the options that are tried together are the merge's, by its own names."""
    return {key.removeprefix(OF_MERGE): value for key, value in tried.items() if key.startswith(OF_MERGE)}


def scaled_options(
    options: Mapping[str, object], split: str, name: str, attributes: Iterable[str]
) -> dict[str, object]:
    """Return the options of a run on a shard: of several attributes it takes as many steps as a shard of each would.

    `options` are those for one attribute, `name` is the shard's.
    """
    number = len(shard_named(name, tuple(attributes), split).attributes)
    return {**options, **{key: options[key] * number for key in SCALED_BY_SHARD if options.get(key) is not None}}


def proportional_options(
    options: Mapping[str, object], split: str, shard: str, texts: Mapping[str, int]
) -> dict[str, object]:
    """Return a run's options with steps by its shard's number of texts; all shards together take as many as before.

    `options`: those of the run where each attribute has the same steps. `texts`: how many texts each attribute has, in
    the order of the attributes to forget. A random shard counts as the attribute shard in its place.
    """
    of_split = shards(tuple(texts), split)
    sizes = [sum(texts[attribute] for attribute in attributes) for _, attributes in of_split.values()]
    place, attributes = list(of_split).index(shard), len(of_split[shard].attributes)

    def share(number: int) -> int:
        return splits.in_proportion(number * len(texts) // attributes, sizes)[place]

    return {**options, **{key: share(options[key]) for key in SCALED_BY_SHARD if options.get(key) is not None}}


@dataclass(frozen=True)
class Run:
    """One unlearning: a method on the texts of one shard. `shard` is its name in paths; `all` of an undivided split."""

    method: str
    split: str
    shard: str
    seed: str
    trial: str = ""

    @property
    def path(self) -> str:
        middle = self.split if self.split in splits.UNDIVIDED else f"{self.split}/shard/{self.shard}"
        return f"{self.method}/{middle}/seed{self.seed}{_of_trial(self.trial)}"

    @property
    def partition(self) -> str:
        """What names the shards of the split together: those of a random split are drawn for each seed."""
        if self.split in splits.UNDIVIDED:
            return "joint"
        return f"{self.split}-seed{self.seed}" if splits.kind(self.split) == "random" else self.split

    @property
    def texts(self) -> str:
        """The file of the shard's texts in the experiment's results."""
        return f"shards/{self.partition}/{self.shard}.parquet"

    @property
    def task_vector(self) -> str:
        """The file of the task vector in the experiment's results."""
        return f"unlearned/{self.path}/task_vector.safetensors"

    @classmethod
    @functools.cache
    def parse(cls, path: str) -> "Run":
        """Return the run of a path; raise InputError where it is none."""
        parts = _read(path, "a run of one seed", "undivided", "shard")
        return cls(parts["method"], parts["split"], parts["name"] or splits.ALL, parts["seed"], parts["trial"])


@dataclass(frozen=True)
class Merge:
    """The task vectors of all shards of a split, merged into one; `merge` is its name in the configuration."""

    method: str
    split: str
    merge: str
    seed: str
    trial: str = ""

    @property
    def path(self) -> str:
        return f"{self.method}/{self.split}/merge/{self.merge}/seed{self.seed}{_of_trial(self.trial)}"

    @property
    def task_vector(self) -> str:
        """The file of the task vector in the experiment's results."""
        return f"merged/{self.path}/task_vector.safetensors"

    @classmethod
    def parse(cls, path: str) -> "Merge":
        """Return the merge of a path; raise InputError where it is none."""
        parts = _read(path, "a merge of one seed", "merge")
        return cls(parts["method"], parts["split"], parts["name"], parts["seed"], parts["trial"])


@dataclass(frozen=True)
class Candidate:
    """A model that is evaluated: the base model, what a run gives, or what a merge gives.

    `method` may be one that takes another's task vectors times a factor. `shard` is empty but for single shards,
    `merge` but for merges. `seed` is `all` for seeds taken together, and for the base model, which has none. `trial` is
    empty but for those that tuning chooses from.
    """

    method: str = ""
    split: str = ""
    shard: str = ""
    merge: str = ""
    seed: str = ALL_SEEDS
    trial: str = ""

    @property
    def path(self) -> str:
        if not self.method:
            return "base"
        middle = self.split
        if self.split not in splits.UNDIVIDED:
            middle += f"/merge/{self.merge}" if self.merge else f"/shard/{self.shard}"
        of_seed = "" if self.seed == ALL_SEEDS else f"/seed{self.seed}{_of_trial(self.trial)}"
        return f"{self.method}/{middle}{of_seed}"

    @classmethod
    @functools.cache
    def parse(cls, path: str) -> "Candidate":
        """Return the candidate of a path, as in evaluations.csv; raise InputError where it is none."""
        if path == BASE.path:
            return BASE
        parts = _read(path, "a candidate", "undivided", "shard", "merge", seeds_together=True)
        kind = {parts["kind"]: parts["name"]} if parts["name"] else {}
        return cls(parts["method"], parts["split"], seed=parts["seed"] or ALL_SEEDS, trial=parts["trial"], **kind)

    @classmethod
    def of(cls, record: Run | Merge) -> "Candidate":
        """Return the candidate that a run or a merge gives as it is."""
        if isinstance(record, Merge):
            return cls(record.method, record.split, merge=record.merge, seed=record.seed, trial=record.trial)
        shard = "" if record.split in splits.UNDIVIDED else record.shard
        return cls(record.method, record.split, shard, seed=record.seed, trial=record.trial)

    def source(self, method: str) -> Run | Merge:
        """Return the run or merge of `method` whose task vector this candidate takes; not for the base model."""
        if self.merge:
            return Merge(method, self.split, self.merge, self.seed, self.trial)
        return Run(method, self.split, self.shard or splits.ALL, self.seed, self.trial)

    def with_seed(self, seed: str) -> "Candidate":
        """Return the same candidate of another seed, or of all of them."""
        return replace(self, seed=seed)

    @property
    def rivals(self) -> dict[str, "Candidate"]:
        """What it is compared with, by name: `base`; `joint` of its method; merged attribute splits with all others.

        `random` is the random split into as many shards, merged in the same way.
        """
        if not self.method:
            return {}
        rivals = {"base": BASE}
        if self.split != "joint":
            rivals["joint"] = Candidate(self.method, "joint", seed=self.seed)
        if self.merge and splits.kind(self.split) == "attribute":
            rivals |= {split: Candidate(self.method, split, seed=self.seed) for split in splits.ORDERED}
            rivals["random"] = replace(self, split=self.split.replace("attribute", "random", 1))
        return rivals


BASE = Candidate()


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of one candidate."""

    candidate: Candidate
    name: str

    @property
    def path(self) -> str:
        return f"{self.candidate.path}/{self.name}"

    @classmethod
    def parse(cls, path: str) -> "Evaluation":
        """Return the evaluation of a path; raise InputError where it is none."""
        candidate, _, name = path.rpartition("/")
        return cls(Candidate.parse(candidate), name)
