"""General capabilities and hazardous knowledge, asked through lm-evaluation-harness's own tasks.

Data sets come from the hub or out of a mirror folder; nothing of a question is logged or written. docs/benchmarks.md
says what is asked and how it is scored.
"""

import difflib
import importlib.metadata
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import torch

from spunge.errors import InputError

AT = "evaluations.benchmarks"
# The first of these that a task reports per question is its accuracy.
ACCURACIES = ("acc", "exact_match")
FEWSHOT_SEED = 1234  # lm-eval's own default, which draws the examples
BOOTSTRAP = 1000  # resamples of lm-eval's standard error where it has no formula for a metric; ours rest on scores
# What benchmarks.json keeps of each task's configuration: no template, example or function.
KEPT = ("dataset_path", "dataset_name", "test_split", "validation_split", "fewshot_split", "output_type")
KEPT += ("num_fewshot", "repeats", "generation_kwargs")
PER_TASK = ("results", "group_subtasks", "versions", "n-shot", "n-samples", "higher_is_better")


@dataclass(frozen=True)
class Options:
    """What is asked.

    tasks: names of lm-eval's tasks or groups. forget: attribute to forget → the task among them that asks about it.
    mirror: folder with the data sets under their hub ids, `{mirror}/{owner}/{name}`. fewshot: task → number of
    examples, lm-eval's own for the others. limit: questions of each task at most. batch_size: contexts, or prompts to
    continue, that are computed together.
    """

    tasks: tuple[str, ...]
    forget: Mapping[str, str] = field(default_factory=dict)
    mirror: str | None = None
    fewshot: Mapping[str, int] = field(default_factory=dict)
    limit: int | None = None
    batch_size: int = 8


def score(model: torch.nn.Module, tokenizer, options: Options) -> tuple[pd.DataFrame, dict]:
    """Ask all questions of all tasks; return the scores, and what lm-eval itself says of its results.

    Scores have one row per question: attribute (the attribute to forget, or the task), subject (task and number of the
    question), accuracy and accuracy_norm (0 … 1), part_of. The questions of a group occur twice: once as the group's,
    and once as their subtask's, with the group as `part_of`. Raises InputError for what lm-eval has not, cannot score
    by question, or cannot load.
    """
    from lm_eval import evaluate

    from spunge.evaluation.shared_context import SharedContextLM

    loaded = load(options)
    lm = SharedContextLM(pretrained=model, tokenizer=tokenizer, batch_size=options.batch_size)
    attributes = {task: attribute for attribute, task in options.forget.items()}
    scores, kept = [], described(options)
    # Task after task: one text too long for the model would take the slow way for all that are asked together.
    for name, task in loaded.items():
        print(f"{AT}: {name}", file=sys.stderr, flush=True)
        results = evaluate(
            lm, task, limit=options.limit, bootstrap_iters=BOOTSTRAP, log_samples=True, verbosity="ERROR"
        )
        own = {leaf: per_question(leaf, samples) for leaf, samples in results["samples"].items()}
        whole = pd.concat(own.values(), ignore_index=True)
        scores.append(whole.assign(attribute=attributes.get(name, name), part_of=""))
        if name in task["groups"]:
            scores += [frame.assign(attribute=leaf, part_of=name) for leaf, frame in own.items()]
        keep(kept, results, options)
    return pd.concat(scores, ignore_index=True), kept


def check_forgotten(options: Options, attributes: Sequence[str]) -> None:
    """Check that `forget` maps attributes that are forgotten, which `all` tells only now; raises InputError."""
    if unknown := sorted(options.forget.keys() - set(attributes)):
        raise InputError(
            f"{AT}.forget names {unknown[0]}, which is not among the attributes to forget: {', '.join(attributes)}"
        )


def load(options: Options) -> dict[str, dict]:
    """Return what lm-eval's TaskManager loads for each task: `tasks`, `groups` and `group_map`. Raises InputError."""
    from lm_eval.tasks import TaskManager

    # Where a question's label is wrong, lm-eval would log the whole question.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = TaskManager()
    for name in options.tasks:
        if name in manager.all_tags:
            members = ", ".join(sorted(manager.task_index[name].tags))
            raise InputError(f"{AT}.tasks has {name}, which stands for several of lm-eval's tasks: name {members}")
        if name not in manager.task_index:
            near = difflib.get_close_matches(name, manager.all_tasks, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "`lm_eval ls tasks` lists what there is"
            raise InputError(f"{AT}.tasks has {name}, which lm-eval has not; {hint}")
    asked = {name: list(leaves(manager, name)) for name in options.tasks}
    every = [leaf for own in asked.values() for leaf in own]
    if twice := sorted({leaf for leaf in every if every.count(leaf) > 1}):
        raise InputError(f"{AT}.tasks asks {twice[0]} twice, by itself and in a group; name one of both")
    for name, own in asked.items():
        for leaf in own:
            _configure(manager, leaf, options.fewshot.get(name), options)
    loaded = {name: _load(manager, name, options) for name in options.tasks}
    for name, one in loaded.items():
        _check(name, one)
    return loaded


def leaves(manager, name: str) -> Iterator[str]:
    """Yield the single tasks that a task, tag or group of lm-eval's index consists of, at any depth."""
    if name in manager.all_groups:
        for member in manager.task_index[name].cfg["task"]:
            named = member if isinstance(member, str) else member.get("group", member.get("task"))
            if named in manager.task_index:  # a group may also hold a task of its own, which has no other name
                yield from leaves(manager, named)
    elif name in manager.all_tags:
        yield from sorted(manager.task_index[name].tags)
    else:
        yield name


def _configure(manager, name: str, fewshot: int | None, options: Options) -> None:
    """Put a task with the mirror's data set, and so many examples, in place of lm-eval's own in the index."""
    from lm_eval.tasks._yaml_loader import load_yaml

    entry = manager.task_index[name]
    own, changes = load_yaml(entry.yaml_path), {}
    if options.mirror is not None:
        if "dataset_path" not in own:
            raise InputError(f"{AT}: the task {name} doesn't say where its data are, so that no mirror can have them")
        changes["dataset_path"] = str(_mirrored(name, own["dataset_path"], options.mirror))
    if fewshot is not None:
        # lm-eval too leaves a task alone that says so of itself: its template or its data have no place for examples.
        if own.get("num_fewshot") == 0 and fewshot:
            raise InputError(f"{AT}.fewshot: {name} is asked without examples by lm-eval's own definition; take 0")
        changes["num_fewshot"] = fewshot
    if changes:
        manager.task_index[name] = replace(entry, yaml_path=None, cfg=own | changes)


def _mirrored(task: str, dataset: str, mirror: str) -> Path:
    folder = Path(mirror).expanduser() / dataset
    if not folder.is_dir():
        raise InputError(
            f"{AT}: the data of {task} are not in the mirror: {folder} is not there; get them with internet by "
            f"`hf download --repo-type dataset {dataset} --local-dir {folder}`"
        )
    return folder


def _load(manager, name: str, options: Options) -> dict:
    try:
        loaded = manager.load([name])
    # Whatever goes wrong (no network, no access, files of another shape) is for the user to mend.
    except Exception as error:
        # Only errors of files and network are told: others may quote a question.
        reason = next(iter(str(error).splitlines()), "") if isinstance(error, OSError) else ""
        reason = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
        mend = (
            f"without internet, name a `mirror` (docs/benchmarks.md): {reason}"
            if options.mirror is None
            else f"each folder in {options.mirror} must be a whole copy, README.md included: {reason}"
        )
        raise InputError(f"{AT}: the data of {name} could not be loaded; {mend}") from error
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", 0)
        task.set_fewshot_seed(FEWSHOT_SEED)
    return loaded


def _check(name: str, loaded: Mapping[str, dict]) -> None:
    """Check that lm-eval's value of a task or group is the mean of its questions' scores."""
    from lm_eval.api.metrics import mean

    found = set()
    for leaf, task in loaded["tasks"].items():
        aggregations = task.aggregation()
        metric = next((one for one in ACCURACIES if aggregations.get(one) is mean), None)
        if metric is None:
            raise InputError(
                f"{AT}: {leaf} has no {' or '.join(ACCURACIES)} of its single questions, only {', '.join(aggregations)}"
            )
        found.add(metric)
    if (group := loaded["groups"].get(name)) is None:
        return
    means = [one for one in group.aggregate_metric_list or () if one.aggregation == "mean" and one.weight_by_size]
    if not found <= {one.metric for one in means}:
        members = ", ".join(group.child_names)
        raise InputError(f"{AT}: lm-eval's group {name} has no mean over its questions; name its tasks: {members}")


def per_question(task: str, samples: list[dict]) -> pd.DataFrame:
    """Return subject, accuracy and accuracy_norm of one task's samples, as lm-eval logs them, in the data's order.

    Where a task reads its answers in several ways (filters), the first of them counts.
    """
    own = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
    own.sort(key=lambda sample: sample["doc_id"])
    metric = next(name for name in ACCURACIES if name in own[0])
    accuracy = [float(sample[metric]) for sample in own]
    normalised = [float(sample["acc_norm"]) for sample in own] if "acc_norm" in own[0] else accuracy
    subjects = [f"{task} {sample['doc_id']}" for sample in own]
    return pd.DataFrame({"subject": subjects, "accuracy": accuracy, "accuracy_norm": normalised})


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
        "configs": {},
    }


def keep(kept: dict, results: Mapping[str, dict], options: Options) -> None:
    """Add lm-eval's results to what is kept: numbers, versions and hashes, no question and no answer."""
    from lm_eval.utils import hash_string

    for key in PER_TASK:
        kept[key] |= results[key]
    for name, config in results["configs"].items():
        own = {key: config[key] for key in KEPT if key in config}
        if options.mirror is not None:  # the hub's name for it says more than a path of one machine
            own["dataset_path"] = Path(own["dataset_path"]).relative_to(Path(options.mirror).expanduser()).as_posix()
        kept["configs"][name] = own
    for name, samples in results["samples"].items():
        # As lm-eval's own results files have it.
        hashes = [sample["doc_hash"] + sample["prompt_hash"] + sample["target_hash"] for sample in samples]
        kept["task_hashes"][name] = hash_string("".join(hashes))
        metric = next(one for one in ACCURACIES if one in samples[0])
        kept["scored_by"][name] = f"{metric},{samples[0]['filter']}"
