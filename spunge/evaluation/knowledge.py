"""Knowledge by attribute: multiple-choice questions asked through lm-evaluation-harness as a local task."""

import logging
from collections.abc import Iterable, Mapping
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from pydantic import Field

from spunge.core.progress import say
from spunge.datasets.tables import about
from spunge.experiment.options import Count, checked

TABLE = "questions"
ACCURACIES = {"acc": "accuracy", "acc_norm": "accuracy_norm"}  # as lm-eval calls them, and as they are called here
NUDGE = 1e-6  # relative: more than rounding hides, and less than any difference between choices that counts


@checked
class Options:
    """How questions are asked."""

    batch_size: Annotated[Count, Field(description="Questions that are asked together.")] = 32


def score(model: torch.nn.Module, tokenizer, questions: pd.DataFrame, batch_size: int) -> pd.DataFrame:
    """Ask every question and return one row per question: `about`, accuracy, accuracy_norm and cut.

    A choice is right where its log-likelihood after the question, in full or divided by its length in characters
    (`accuracy_norm`), is the highest; both are 0 or 1, 1/k among k equally likely ones, and NaN where a likelihood
    isn't finite. `cut` is 1 where the question's start was left out, because it is longer than the model's context,
    else 0. The order of `questions` is kept.
    """
    from lm_eval import evaluate
    from lm_eval.tasks import TaskManager

    from spunge.evaluation.prefix_sharing_lm import PrefixSharingLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    lm = PrefixSharingLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    # Indexing the harness's own tasks takes seconds.
    loaded = TaskManager(include_defaults=False).load([task(questions)])
    results = evaluate(
        lm,
        loaded,
        bootstrap_iters=0,  # the intervals here are of clusters, not of questions
        log_samples=True,
        verbosity="ERROR",
    )
    samples = sorted(results["samples"]["knowledge"], key=lambda sample: sample["doc_id"])
    asked = loaded["tasks"]["knowledge"]
    scores = {ours: [sample_score(asked, sample, name) for sample in samples] for name, ours in ACCURACIES.items()}
    cut = [is_cut(sample, lm.cut) for sample in samples]
    say_cut("knowledge", cut, lm.max_length)
    return about(questions).assign(**scores, cut=cut)


def task(questions: pd.DataFrame) -> dict:
    """Return the lm-eval task of a questions table, as its YAML would read.

    A space stands between question and choice, but where the question ends in white space, or the table has another
    delimiter.
    """
    bare = questions["question"]
    delimiters = questions["delimiter"] if "delimiter" in questions else np.where(bare.str.contains(r"\s$"), "", " ")

    def dataset(**_):
        from datasets import Dataset

        asked = questions[["choices", "answer"]].assign(question=bare + delimiters)
        return {"test": Dataset.from_pandas(asked, preserve_index=False)}

    return {
        "task": "knowledge",
        "custom_dataset": dataset,
        "test_split": "test",
        "num_fewshot": 0,
        "output_type": "multiple_choice",
        # Names of columns: the harness compiles a template anew for each question and choice.
        "doc_to_text": "question",
        "target_delimiter": "",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ACCURACIES],
        "metadata": {"version": 1},
    }


def sample_score(task, sample: Mapping, metric: str) -> float:
    """Return an lm-eval task's `metric` for one sample, as it is logged; NaN where a likelihood isn't finite.

    lm-eval takes the first of choices that are equally likely. Here each of them is taken for the likeliest in turn,
    and the mean counts.
    """
    answers = sample["filtered_resps"]
    if not all(isinstance(answer, tuple) for answer in answers):
        return float(sample[metric])
    likelihoods = np.array([likelihood for likelihood, _ in answers])
    if not np.isfinite(likelihoods).all():
        return float("nan")
    if task.OUTPUT_TYPE != "multiple_choice":
        return float(sample[metric])
    lengths = [len(choice) if metric == "acc_norm" else 1 for choice in task.doc_to_choice(sample["doc"])]
    with np.errstate(divide="ignore"):  # of an empty choice
        compared = likelihoods[: len(lengths)] / lengths
    likeliest = np.flatnonzero(compared == compared.max())
    if len(likeliest) == 1:
        return float(sample[metric])
    values = []
    for choice in likeliest:
        likelihood, greedy = answers[choice]
        first = list(answers)
        first[choice] = (likelihood + NUDGE * max(abs(likelihood), 1.0), greedy)
        values.append(float(task.process_results(sample["doc"], first)[metric]))
    return float(np.mean(values))


def is_cut(sample: Mapping, cut: set[str]) -> float:
    """Return 1 where one of a logged sample's contexts is among those that were `cut`, else 0."""
    return float(any(arguments[0] in cut for arguments in sample["arguments"]))


def say_cut(what: str, cut: Iterable[float], context: int) -> None:
    """Say how many questions were cut, if any."""
    cut = list(cut)
    if number := int(sum(cut)):
        say(
            f"{what}: {number} of {len(cut)} questions are longer than the model's context of {context} tokens; their "
            "start was left out"
        )
