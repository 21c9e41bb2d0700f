"""What one candidate is put through: every measure of the model as it is, at each λ in turn."""

import dataclasses
import importlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from functools import partial

import pandas as pd
import torch
from safetensors.torch import save_file

from spunge.core.errors import InputError
from spunge.datasets import tables
from spunge.evaluation import budget, cli, fluency, generation, knowledge
from spunge.evaluation.statistics import Metric
from spunge.experiment.options import make
from spunge.models.edited_model import EditedModel
from spunge.models.task_vector import opened
from spunge.training.resume import Checkpoint

# Returns a table about the model as it is, and keeps what it has done so far.
Measure = Callable[[Checkpoint], pd.DataFrame]


def evaluations(
    model: torch.nn.Module, tokenizer, options: Mapping[str, Mapping], paths: Sequence[str]
) -> tuple[dict[str, Measure], dict[str, Mapping[str, Metric] | None]]:
    """Return the measure of each evaluation of a model by its name, and its METRICS (None: its scores' columns tell).

    `options` are those of the configuration by evaluation, `paths` the tables that they read, in the same order.
    """
    measures, metrics = {}, {}
    for (name, given), path in zip(options.items(), paths, strict=True):
        evaluation = importlib.import_module(f"spunge.evaluation.{name}")
        made = dataclasses.asdict(make(f"evaluations.{name}", evaluation.Options, given))
        score = partial(evaluation.score, model, tokenizer, tables.read(evaluation.TABLE, path), **made)
        measures[name] = partial(cli.scores_once, name=name, score=score)
        metrics[name] = getattr(evaluation, "METRICS", None)
    return measures, metrics


def continuations(model: torch.nn.Module, tokenizer, options: Mapping, path: str) -> Measure:
    """Return what continues the prompts of a table; `options` are those of generation."""
    prompts = tables.read("prompts", path)["prompt"].tolist()
    return partial(
        generation.continue_prompts,
        model,
        tokenizer,
        prompts,
        make("evaluations.toxicity", generation.Options, options),
    )


def at_budgets(
    model: torch.nn.Module,
    edited: EditedModel | None,
    tokenizer,
    paths: Sequence[str],
    reading: Mapping,
    section: Mapping,
    configured: float,
    checkpoint: Checkpoint,
    base_states: str | None = None,
    kept: Callable[[], float] | None = None,
) -> tuple[Measure, dict[str, budget.Strength]]:
    """Return the measure of the damage, and the λ of each budget, as `budget.measure` does.

    `paths` are those of the tables calibration and fluency, `reading` the options of the evaluation fluency,
    `base_states` the file that `write_base_states` made of the same, and `kept` what `accuracy_kept` returns.
    """
    texts, options = _read_texts(paths, reading)
    with opened(base_states) if base_states else nullcontext() as file:
        states = {name: file.get_tensor(name) for name in file.keys()} if file else {}  # noqa: SIM118
    with edited.reusing() if edited else nullcontext():
        damage, strengths = budget.measure(
            model, edited, tokenizer, texts, options, section, configured, checkpoint, states, kept
        )
    return partial(cli.scores_once, name="budget", score=damage), strengths


def accuracy_kept(
    model: torch.nn.Module, tokenizer, path: str | os.PathLike, forget: Collection[str], asking: Mapping
) -> Callable[[], float]:
    """Return a function that gives the model's accuracy on what is kept, the mean over its attributes.

    It is NaN where that of any question is. `path` is a questions table that no result counts, `forget` the attributes
    to forget, `asking` the options of the evaluation knowledge. Raises InputError where no question is about anything
    else.
    """
    questions = tables.read("questions", path)
    questions = questions[~questions["attribute"].isin(forget)]
    if questions.empty:
        raise InputError(f"{path} asks about nothing but what is to be forgotten, so no budget can be of what is kept")
    options = dataclasses.asdict(make("evaluations.knowledge", knowledge.Options, asking))

    def accuracy() -> float:
        scores = knowledge.score(model, tokenizer, questions, **options)
        return scores.groupby("attribute")["accuracy"].mean(skipna=False).mean(skipna=False)

    return accuracy


def write_base_states(
    model: torch.nn.Module, tokenizer, paths: Sequence[str], reading: Mapping, output: str | os.PathLike
) -> None:
    """Write the base model's last hidden states of the tables that `at_budgets` reads, by the table's name."""
    texts, options = _read_texts(paths, reading)
    states = {
        table: budget.Damage(model, tokenizer, of_table, **options).base_states for table, of_table in texts.items()
    }
    save_file(states, output)


def _read_texts(paths: Sequence[str], reading: Mapping) -> tuple[dict[str, pd.Series], dict[str, int]]:
    texts = {table: tables.read(table, path)["text"] for table, path in zip(budget.TEXTS, paths, strict=True)}
    return texts, dataclasses.asdict(make("evaluations.fluency", fluency.Options, reading))


def measured(
    edited: EditedModel | None,
    strengths: Mapping[str, budget.Strength],
    measures: Mapping[str, Measure],
    checkpoint: Checkpoint,
) -> tuple[dict[str, pd.DataFrame], float | None]:
    """Return what the measures give at each λ that is reached, as one table each with the column `budget`.

    The measure `budget` reads the fluency texts, so `fluency` is taken from it where both are there. `edited` is None
    for the base model. Besides return the share of the first edit's norm that the weights hold, None where there is no
    edit.
    """
    taken = {"fluency"} & measures.keys() if "budget" in measures else set()
    by_measure: dict[str, list[pd.DataFrame]] = {name: [] for name in measures if name not in taken}
    realised = None
    with edited.reusing() if edited else nullcontext():
        for label, strength in strengths.items():
            if strength.scale is None:
                continue
            if edited:
                share = edited.set_scale(strength.scale)
                realised = share if realised is None else realised
            so_far = checkpoint.nested(label) if label else checkpoint
            for name, measured_before in by_measure.items():
                measured_before.append(measures[name](so_far.nested(name)).assign(budget=label))
    tables = {name: cli.stacked(several) for name, several in by_measure.items()}
    return tables | {name: tables["budget"].filter([*fluency.COLUMNS, "budget"]) for name in taken}, realised
