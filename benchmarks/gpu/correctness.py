"""A small model's numbers on the device against the CPU's: RMU, LoRA, generation, bf16, runs taken up again."""

import os
import signal
from pathlib import Path

import torch

from benchmarks import rmu
from benchmarks.gpu.machine import SEED, Machine, random_base, random_model
from spunge import methods
from spunge.core.errors import InputError
from spunge.evaluation import generation
from spunge.methods import tvn
from spunge.models import base_model, shapes
from spunge.training.resume import Checkpoint

SMALL = shapes.ModelShape("small", 128, 8, 344, 4, 4, 320)
TOKENS, STEPS, STOPPED_AT = 32, 4, 2
METHODS = {
    "rmu": (rmu.rmu, {**rmu.OPTIONS, "learning_rate": 1e-3}),
    "tvn": (tvn, {"learning_rate": 1e-3, "batch_size": 4, "trained": "lora"}),
}
# Relative for losses; the least cosine between what two precisions, or two devices, changed.
WITHIN = {"float32": (1e-4, 0.999), "bfloat16": (0.05, 0.9)}
AGREEING = 0.95  # of greedy texts: two likeliest tokens can be as likely as each other, but for rounding
PROMPTS = rmu.texts(40, 8, SEED)


class Interrupted(Checkpoint):
    """Gets a signal in the middle of a step."""

    def steps(self, *arguments):
        for step in super().steps(*arguments):
            if step == STOPPED_AT:
                os.kill(os.getpid(), signal.SIGTERM)
            yield step


def correctness(machine: Machine) -> None:
    """Report how far each method's losses and changes on the device are from fp32 on the CPU; too far is an error."""
    folder = machine.folder / "small"
    random_model(folder, SMALL, "cpu", torch.float32, SMALL.layers)
    base = random_base(folder, SMALL)
    wrong = []
    for name, (method, chosen) in METHODS.items():
        expected = _unlearned(base, name, method, chosen, "cpu", "float32")
        for dtype, (losses, cosine) in WITHIN.items():
            unlearned = _unlearned(base, name, method, chosen, machine.device, dtype)
            apart, alike = _losses_apart(unlearned, expected), _least_cosine(unlearned.delta, expected.delta)
            machine.report(f"{name}, {dtype}: losses apart by at most", apart)
            machine.report(f"{name}, {dtype}: least cosine of what changed", alike)
            if not (apart <= losses and alike >= cosine):
                wrong.append(f"{name} in {dtype}: losses {apart:.2g} apart, cosine {alike:.4f}")
        _taken_up_again(machine, base, name, method, chosen)
    texts = {device: _greedy(base, device) for device in ("cpu", machine.device)}
    agreeing = sum(map(str.__eq__, texts["cpu"], texts[machine.device])) / len(PROMPTS)
    machine.report("greedy texts alike", agreeing)
    if agreeing < AGREEING:
        wrong.append(f"{agreeing:.0%} of greedy texts are alike")
    if wrong:
        raise InputError("; ".join(wrong))


def _unlearned(base, name: str, method, chosen: dict, device: str, dtype: str, checkpoint: Checkpoint | None = None):
    options = methods.options(
        method, {**chosen, "steps": STEPS, "max_tokens_forget": TOKENS, "max_tokens_retain": TOKENS, "dtype": dtype}
    )
    texts = rmu.texts(16, TOKENS, SEED), rmu.texts(16, TOKENS, SEED + 1)
    run = methods.Run(base, *texts, SEED, device, label=name, checkpoint=checkpoint or Checkpoint())
    return method.unlearn(run, options)


def _losses_apart(unlearned, expected) -> float:
    return max(
        abs(row["forget_loss"] - expected_row["forget_loss"]) / abs(expected_row["forget_loss"])
        for row, expected_row in zip(unlearned.losses, expected.losses, strict=True)
    )


def _least_cosine(unlearned, expected) -> float:
    """Return the least cosine of two changes' tensors; of LoRA factors, of their products."""
    if any(name.endswith(tvn.LORA_B) for name in expected):
        unlearned, expected = _products(unlearned), _products(expected)
    cosine = torch.nn.functional.cosine_similarity
    return min(cosine(unlearned[name].flatten(), tensor.flatten(), dim=0).item() for name, tensor in expected.items())


def _products(factors) -> dict[str, torch.Tensor]:
    modules = [name.removesuffix(tvn.LORA_B) for name in factors if name.endswith(tvn.LORA_B)]
    return {name: factors[f"{name}{tvn.LORA_B}"] @ factors[f"{name}.lora_A.weight"] for name in modules}


def _taken_up_again(machine: Machine, base, name: str, method, chosen: dict) -> None:
    """Report by how much a run that was stopped and taken up differs from one that nobody stopped."""
    undisturbed = _unlearned(base, name, method, chosen, machine.device, "float32")
    folder = Path(machine.folder / f"unfinished-{name}")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a run that came to its end leaves signals ignored
    try:
        with Interrupted(folder, every=60) as checkpoint:
            _unlearned(base, name, method, chosen, machine.device, "float32", checkpoint)
    except SystemExit:
        pass
    else:
        raise InputError(f"{name} did not stop at SIGTERM")
    with Checkpoint(folder, every=60) as checkpoint:
        again = _unlearned(base, name, method, chosen, machine.device, "float32", checkpoint)
    apart = max((again.delta[key] - tensor).abs().max().item() for key, tensor in undisturbed.delta.items())
    machine.report(f"{name}: taken up again, apart by at most", apart)
    machine.report(f"{name}: the same losses", again.losses == undisturbed.losses)


def _greedy(base, device: str) -> list[str]:
    model, tokenizer = base_model.load(base, torch.float32, device), base_model.load_tokenizer(base)
    continuations = generation.continue_prompts(model, tokenizer, PROMPTS, generation.Options(samples=1, temperature=0))
    return continuations["text"].tolist()
