"""The grid of an experiment: which runs, merges, candidates and evaluations it consists of.

It follows from the checked configuration and the attributes to forget. Rules, plan and evaluations.csv are views of its
records (spunge/experiment/records.py); their order is that of evaluations.csv.
"""

import functools
import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from spunge.experiment import configuration, splits
from spunge.experiment.records import (
    BASE,
    COSTS,
    SPLIT,
    UNDIVIDED,
    Candidate,
    Evaluation,
    Merge,
    Run,
    Shard,
    budget_label,
    merge_options,
    method_options,
    parse_budget,
    scaled_options,
    shard_named,
    shards,
)

TOXICITY = ("toxicity", "toxicity_neutral")
FIGURES = Path(__file__).parents[2] / "rules" / "figures.json"


@functools.cache
def known_figures() -> dict[str, dict]:
    """Return of each figure `when` it is drawn and its `caption`, as its file in spunge/report/figures says."""
    return json.loads(FIGURES.read_text(encoding="utf-8"))


class Grid:
    """The records of one experiment.

    `configured`: the configuration, checked. `attributes`: those to forget, or a function that returns them, which is
    asked anew each time and only where they matter: with `forget: all` the data are waited for.
    """

    def __init__(self, configured: Mapping, attributes: Sequence[str] | Callable[[], Sequence[str]]):
        self._attributes = attributes
        self.configuration = configured
        self.experiment = configured["experiment"]
        self.seeds = [str(seed) for seed in configured["seeds"]]
        self.methods = configured["methods"]
        self.trained = [name for name, section in self.methods.items() if "scaled_from" not in section]
        evaluations = configured["evaluations"]
        self.toxicity = evaluations.get("toxicity")
        self.durability = evaluations.get("durability", {})
        # What a model is put through in one job, and the table that each reads.
        described = configuration.model_evaluations()
        self.of_a_model = {name: described[name]["table"] for name in evaluations if name in described}
        self.evaluation_names = [*self.of_a_model, *(TOXICITY if self.toxicity else ())]
        self.evaluation_names += ["benchmarks"] if "benchmarks" in evaluations else []
        # The budgets of each cost; what every candidate is evaluated at, and the damage it does there.
        self.costs = {cost: configured["budgets"][cost] for cost in COSTS if cost in configured.get("budgets", {})}
        self.evaluation_names += ["budget"] if self.costs else []
        # In half precision rounding differs with the layers that are edited, so each candidate has states of its own.
        self.shares_base_states = bool(self.costs) and configured["model"]["dtype"] == "float32"
        self.tuning = configured.get("tuning", {})
        # Attacks on unlearning, in jobs of their own, on some of the candidates: which evaluations, by rule.
        self.attacks = configuration.durability_evaluations(self.durability, configured["data"]["forget"])
        self.attack_names = ["as_unlearned", *itertools.chain(*self.attacks.values())] if self.durability else []

    @property
    def attributes(self) -> tuple[str, ...]:
        """The attributes to forget, in their order."""
        return tuple(self._attributes() if callable(self._attributes) else self._attributes)

    @property
    def families(self) -> dict[str, tuple[str, float]]:
        """Of each method the one whose runs it takes, itself perhaps, and the factor λ on their task vectors."""
        return {name: (section.get("scaled_from", name), section["scale"]) for name, section in self.methods.items()}

    @property
    def budgets(self) -> list[str]:
        """The labels of what candidates are evaluated at; the empty one is the configured factor λ."""
        as_trained = [""] if self.configuration.get("budgets", {"as_trained": True})["as_trained"] else []
        labels = [budget_label(cost, value) for cost, values in self.costs.items() for value in sorted(values)]
        return as_trained + labels

    @property
    def middle_budget(self) -> str:
        """The label of the budget at which models are tuned, attacked and asked benchmarks.

        It is the middle one of the first cost. Empty where no budget is set: λ is then as configured.
        """
        for cost, values in self.costs.items():
            return budget_label(cost, sorted(values)[len(values) // 2])
        return ""

    @property
    def tables(self) -> dict[str, str]:
        """The tables that evaluations read, and the key below `evaluations` that needs each."""
        needed_by = {table: name for name, table in self.of_a_model.items()}
        needed_by |= {"prompts": "toxicity"} if self.toxicity else {}
        return needed_by | ({"rephrased": "durability.rephrase"} if self.durability.get("rephrase") else {})

    @property
    def validates_classifiers(self) -> bool:
        """Whether there are texts to try the toxicity classifiers on: rated ones, or benign ones."""
        return bool(self.toxicity) and ("rated_texts" in self.toxicity or "benign" in self.tables)

    @property
    def figures(self) -> dict[str, str]:
        """The captions of the figures that are drawn, by their names."""
        there = {*self.configuration["evaluations"], *(["shards"] if self.sets("shards") else [])}
        there |= {"budgets"} if self.costs else set()
        return {
            name: figure["caption"]
            for name, figure in known_figures().items()
            if all((asked in there) == wanted for asked, wanted in figure["when"].items())
        }

    @property
    def leading_figure(self) -> str:
        """The figure that shows what the answer rests on."""
        return next(name for name in ("frontier", "toxicity_tradeoff", "tradeoff") if name in self.figures)

    @property
    def patterns(self) -> dict[str, str]:
        """The regular expressions that the paths of runs, merges and candidates match, by the rules' wildcards."""
        trained, every = ("|".join(map(re.escape, names)) for names in (self.trained, self.methods))
        merges = "|".join(map(re.escape, self.configuration["merges"]))
        seed = r"seed\d+(?:/trial\d+)?"
        return {
            "run": rf"(?:{trained})/(?:{UNDIVIDED}|{SPLIT}/shard/[^/]+)/{seed}",
            "merge": rf"(?:{trained})/{SPLIT}/merge/(?:{merges})/{seed}",
            "candidate": rf"{BASE.path}|(?:{every})/(?:{UNDIVIDED}|{SPLIT}/(?:shard|merge)/[^/]+)/{seed}",
        }

    def sets(self, option: str, but: object = None) -> bool:
        """Tell whether any method has a value for an option of the workflow, 0 too, but not None, False or `but`.

        Where none has, a rule can do without a function, which a plan would ask for every job.
        """
        values = (section.get(option) for section in self.methods.values())
        return any(value is not None and value is not False and value != but for value in values)

    def shards(self, split: str) -> dict[str, Shard]:
        """Return the shards of a split by their names in paths."""
        return shards(self.attributes, split)

    def splits_of(self, method: str) -> list[str]:
        """Return the splits that a method is run on: the experiment's, and the same with its own numbers of shards."""
        wanted = [(split, into) for into in self.methods[method].get("shards", []) for split in splits.GROUPED]
        known = self.configuration["splits"]
        return known + [splits.grouped(split, into) for split, into in wanted if split in known]

    def runs(self, methods: Iterable[str] | None = None) -> list[Run]:
        """Return every unlearning run: seeds × methods (those that train) × splits × shards."""
        return [
            Run(method, split, shard, seed)
            for seed in self.seeds
            for method in (self.trained if methods is None else methods)
            for split in self.splits_of(method)
            for shard in self.shards(split)
        ]

    def merges(self, methods: Iterable[str] | None = None) -> list[Merge]:
        """Return every merge: seeds × methods (those that train) × splits into shards × merges."""
        return [
            Merge(method, split, merge, seed)
            for seed in self.seeds
            for method in (self.trained if methods is None else methods)
            for split in self.splits_of(method)
            if split not in splits.UNDIVIDED
            for merge in self.methods[method]["merges"]
        ]

    def trials(self, method: str) -> dict[str, dict[str, object]]:
        """Return the options of each trial of a method by its number: every combination of the values to tune."""
        lists = self.methods[method].get("tune", {})
        combinations = itertools.product(*lists.values()) if lists else ()
        return {str(number): dict(zip(lists, values, strict=True)) for number, values in enumerate(combinations)}

    def tried(self, method: str, split: str) -> dict[str, dict[str, object]]:
        """Return the same for an arm, without a merge's options where nothing is merged."""
        of_arm = method_options if split in splits.UNDIVIDED else dict
        return {number: of_arm(tried) for number, tried in self.trials(method).items()}

    def trained_in(self, method: str, trial: str) -> str:
        """Return the trial whose runs a trial of a method takes: the first that differs by the merge alone."""
        trials = self.trials(method)
        options = method_options(trials[trial])
        return next(number for number, tried in trials.items() if method_options(tried) == options)

    def trial_runs(self) -> list[Run]:
        """Return the runs that tuning needs: trials × splits × its seeds × shards; none where it was done before."""
        return [
            Run(candidate.method, candidate.split, shard, candidate.seed, candidate.trial)
            for candidate in self.trial_candidates()
            if self.trained_in(candidate.method, candidate.trial) == candidate.trial
            for shard in self.shards(candidate.split)
        ]

    def trial_candidates(self) -> list[Candidate]:
        """Return what tuning chooses from: each trial of each arm, shards by the first of the method's merges.

        Trials that differ by the merge alone are one where nothing is merged.
        """
        if not self.tuning or self.tuning["file"]:
            return []
        return [
            Candidate(method, split, merge=merge, seed=str(seed), trial=trial)
            for method in self.trained
            for trial in self.trials(method)
            for split in self.splits_of(method)
            for merge in ([""] if split in splits.UNDIVIDED else self.methods[method]["merges"][:1])
            if merge or self.trained_in(method, trial) == trial
            for seed in self.tuning["seeds"]
        ]

    @property
    def tunes_merges(self) -> bool:
        """Whether an option of a merge is tuned."""
        return any(merge_options(section.get("tune", {})) for section in self.methods.values())

    @property
    def tuning_budgets(self) -> dict[str, object]:
        """The section `budgets` of a trial, which is judged at `middle_budget` alone."""
        cost, budget = parse_budget(self.middle_budget)
        section = {key: value for key, value in self.configuration["budgets"].items() if key not in COSTS}
        return section | {cost: [budget], "as_trained": False}

    def candidates(self) -> list[Candidate]:
        """Return all that is evaluated: base, undivided runs, each single attribute's shard if wanted, and merges."""
        single = ["attribute"] if self.configuration["single_shards"] else []
        runs = [run for run in self.runs(self.methods) if run.split in (*splits.UNDIVIDED, *single)]
        return [BASE, *map(Candidate.of, runs), *map(Candidate.of, self.merges(self.methods))]

    def left_over(self, cores: int) -> list[str]:
        """Return the paths of the first candidates, as many as are left over when so many cores share all but the base.

        None where what is forgotten isn't known before the data are there.
        """
        paths = [] if callable(self._attributes) else [one.path for one in self.candidates() if one != BASE]
        return paths[: len(paths) % cores]

    def attacked(self) -> list[Candidate]:
        """Return whose durability is measured: base, and the methods named for it, undivided and merged."""
        chosen = self.durability.get("methods", [])
        undivided = [run for run in self.runs(chosen) if run.split in splits.UNDIVIDED]
        merges = [merge for merge in self.merges(chosen) if merge.split in splits.GROUPED]
        return [BASE, *map(Candidate.of, undivided), *map(Candidate.of, merges)] if self.durability else []

    def evaluations(self) -> list[Evaluation]:
        """Return every evaluation of every candidate, those after attacks last."""
        return self.evaluations_as_trained() + self.evaluations_after_attacks()

    def evaluations_as_trained(self) -> list[Evaluation]:
        """Return every evaluation of candidates as they are."""
        return [Evaluation(candidate, name) for candidate in self.candidates() for name in self.evaluation_names]

    def evaluations_after_attacks(self) -> list[Evaluation]:
        """Return every evaluation of attacked candidates."""
        return [Evaluation(candidate, name) for candidate in self.attacked() for name in self.attack_names]

    def evaluated(self, name: str) -> list[Evaluation]:
        """Return one evaluation of all candidates that have it."""
        asked = self.attacked() if name in self.attack_names else self.candidates()
        return [Evaluation(candidate, name) for candidate in asked]

    def source(self, candidate: Candidate) -> Run | Merge | None:
        """Return what a candidate's task vector comes from; None for the base model."""
        return candidate.source(self.families[candidate.method][0]) if candidate.method else None

    def scale(self, candidate: Candidate) -> float:
        """Return the factor λ on a candidate's task vector."""
        return self.families[candidate.method][1] if candidate.method else 1.0

    def describe(self, record: Run | Merge | Candidate) -> dict[str, str]:
        """Return a record's columns of evaluations.csv, in which a shard is named as the data name it."""
        candidate = record if isinstance(record, Candidate) else Candidate.of(record)
        name, split = candidate.shard, candidate.split
        return {
            "experiment": self.experiment,
            "candidate": candidate.path,
            "method": candidate.method,
            "split": split,
            "shard": shard_named(name, self.attributes, split).label if name else "",
            "merge": candidate.merge,
            "seed": candidate.seed,
            "budget": "",
        }

    def options(self, run: Run) -> dict[str, object]:
        """Return the method's options for a run; on several attributes it takes as many steps as their shards would."""
        options = self.method_options(run.method)
        options |= method_options(self.trials(run.method)[run.trial]) if run.trial else {}
        return scaled_options(options, run.split, run.shard, self.attributes)

    def with_defaults(self, name: str) -> dict[str, object]:
        """Return a method's section, with all its options under `options`."""
        defaults = configuration.option_defaults("methods", self.methods[name]["method"])
        return self.methods[name] | {"options": defaults | self.method_options(name)}

    def method_options(self, method: str) -> dict[str, object]:
        """Return a method's options for one attribute's shard."""
        return configuration.method_options(self.methods[method], self.configuration["model"]["dtype"])
