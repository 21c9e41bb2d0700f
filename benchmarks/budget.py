"""The λ of three damage budgets: one edited model and what no λ changes kept, against two whole models at every λ."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from torch.nn import functional

from benchmarks import measure, results
from benchmarks.generation import PROMPTS
from spunge.core.errors import InputError
from spunge.evaluation import budget
from spunge.models import base_model, task_vector
from spunge.models.edited_model import EditedModel
from spunge.models.task_vector import BaseModel

NAME = "budget"
BUDGETS = {"kl": [0.003, 0.01, 0.03]}
MOST = 4.0
LAYERS = (7, 8, 9)  # as the default experiment's RMU trains
SIZE = 0.04  # of an entry of the edit: the budgets lie between λ = 0.2 and 1
TEXTS = [". ".join(PROMPTS[start:] + PROMPTS[:start]) for start in range(0, len(PROMPTS), 4)]  # cut to MOST_TOKENS
MOST_TOKENS = 64
BATCH = 8
AGREEING = 0.02  # relative, of λ: either way solves a budget within 2 % of KL, which is about the square of λ


def solving(base: BaseModel, repeats: int) -> list[results.Row]:
    """Return the rows `budget`: seconds and peak memory, models loaded anew each time."""
    with tempfile.TemporaryDirectory() as folder:
        path = _write_edit(base, Path(folder) / "edit.safetensors")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as Snakemake's jobs have it
        found = {way: solve(base, path) for way, solve in (("ours", _ours), ("reference", _plain))}
        for label, scale in found["reference"].items():
            if not abs(found["ours"][label] / scale - 1) <= AGREEING:
                raise InputError(f"{NAME}: λ of {label} is {found['ours'][label]:.4g}, the reference's {scale:.4g}")
        seconds = measure.alternately(
            {"ours": lambda: _ours(base, path), "reference": lambda: _plain(base, path)}, repeats
        )
        torch.set_num_threads(threads)
        peaks = [measure.in_fresh_process(_peak, solve, base, path) for solve in (_ours, _plain)]
    machine = results.cpu()
    return [
        results.Row(NAME, "time", seconds["ours"], seconds["reference"], "s", machine),
        results.Row(NAME, "peak memory", *peaks, "MB", machine),
    ]


def _write_edit(base: BaseModel, path: Path) -> Path:
    shapes, generator = task_vector.TensorFolder(base.folder).shapes, torch.Generator().manual_seed(0)
    of_layers = tuple(f".layers.{layer}.mlp.down_proj.weight" for layer in LAYERS)
    edited = {name: shape for name, shape in shapes.items() if name.endswith(of_layers)}
    tensors = ((name, SIZE * torch.randn(shape, generator=generator)) for name, shape in edited.items())
    task_vector.write(path, edited, tensors, task_vector.make_provenance(base))
    return path


def _ours(base: BaseModel, path: Path) -> Mapping[str, float]:
    model, tokenizer = base_model.load(base, torch.float32, "cpu"), base_model.load_tokenizer(base)
    edited = EditedModel(model, base, task_vector.read(path))
    edited.set_scale(0)
    with edited.reusing():
        damage = budget.Damage(model, tokenizer, TEXTS, BATCH, MOST_TOKENS)

        def damage_at(scale: float) -> pd.DataFrame:
            edited.set_scale(scale)
            return damage()

        return _scales(damage_at)


def _plain(base: BaseModel, path: Path) -> Mapping[str, float]:
    """Both models run on all texts at every λ, with all logits of a batch at once."""
    before, after = (base_model.load(base, torch.float32, "cpu") for _ in range(2))
    tokenizer, vector = base_model.load_tokenizer(base), task_vector.read(path)
    parameters, originals = dict(after.named_parameters()), dict(before.named_parameters())
    texts = tokenizer(TEXTS, truncation=True, max_length=MOST_TOKENS)["input_ids"]

    @torch.no_grad()
    def damage_at(scale: float) -> pd.DataFrame:
        for name, change in vector.items():
            parameters[name].copy_(originals[name] + scale * change)
        rows = []
        for start in range(0, len(texts), BATCH):
            batch = [torch.tensor(text) for text in texts[start : start + BATCH]]
            padded = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True)
            sides = [model(padded, use_cache=False).logits.log_softmax(-1) for model in (after, before)]
            kl = functional.kl_div(*sides, log_target=True, reduction="none").sum(-1)
            rows += [(row[: len(text) - 1].sum().item(), len(text) - 1) for row, text in zip(kl, batch, strict=True)]
        return pd.DataFrame(rows, columns=["kl", "tokens"])

    return _scales(damage_at)


def _scales(damage_at) -> dict[str, float]:
    solved = budget.solve_all(damage_at, lambda scale: 0.0, BUDGETS, MOST)
    if missing := [label for label, strength in solved.items() if strength.scale is None]:
        raise InputError(f"{NAME}: no λ up to {MOST} reaches {missing[0]}")
    return {label: strength.scale for label, strength in solved.items()}


def _peak(solve, base: BaseModel, path: Path) -> float:
    memory = measure.PeakMemory()
    memory.start()
    solve(base, path)
    return memory.peak()
