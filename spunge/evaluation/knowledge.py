"""Knowledge by attribute: multiple-choice questions asked through lm-evaluation-harness as a local task."""

import logging

import pandas as pd
import torch

METRICS = {"acc": "accuracy", "acc_norm": "accuracy_norm"}


def score(model: torch.nn.Module, tokenizer, questions: pd.DataFrame, batch_size: int) -> pd.DataFrame:
    """Ask every question and return one row per question: subject, attribute, accuracy, accuracy_norm (each 0 or 1).

    A choice is right where its log-likelihood after the question, in full or divided by its length in characters
    (`accuracy_norm`), is the highest. The order of `questions` is kept.
    """
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from spunge.evaluation.shared_context import SharedContextLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    results = simple_evaluate(
        model=SharedContextLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
        tasks=[task(questions)],
        task_manager=TaskManager(include_defaults=False),  # indexing the harness's own tasks takes seconds
        bootstrap_iters=0,  # the intervals here resample subjects, not questions
        log_samples=True,
        verbosity="ERROR",
    )
    samples = sorted(results["samples"]["knowledge"], key=lambda sample: sample["doc_id"])
    scores = pd.DataFrame({ours: [float(sample[name]) for sample in samples] for name, ours in METRICS.items()})
    return pd.concat([questions[["subject", "attribute"]].reset_index(drop=True), scores], axis=1)


def task(questions: pd.DataFrame) -> dict:
    """Return the lm-eval task of a questions table, as its YAML would read."""

    def dataset(**_):
        from datasets import Dataset

        return {"test": Dataset.from_pandas(questions[["question", "choices", "answer"]], preserve_index=False)}

    return {
        "task": "knowledge",
        "custom_dataset": dataset,
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in METRICS],
        "metadata": {"version": 1},
    }
