"""RMU against the plain way: time of a step and peak memory, of SmolLM2 on the CPU."""

import dataclasses
import random
import statistics
import string
import tempfile
from pathlib import Path

from benchmarks import measure, plain_rmu, results
from spunge import methods
from spunge.methods import rmu
from spunge.models import base_model
from spunge.models.task_vector import BaseModel
from spunge.training.schedule import forget_batches, retain_batches

SEED = 0
# Nothing is padded here, so the mask changes no loss; states can be kept only with it.
OPTIONS = {"layer_id": 7, "trained_layers": [5, 6, 7], "batch_size": 4, "mask": True, "adamw": "pytorch"}
TOKENS = 128
AGREE, AGREE_BF16 = 1e-4, 0.05  # relative; Adam makes whole steps of what rounding leaves of a small gradient


def texts(count: int, tokens: int, seed: int) -> list[str]:
    """Return texts of made-up words, each of more than `tokens` tokens, so that all are cut to one length."""
    draw = random.Random(seed)
    words = ["".join(draw.choices(string.ascii_lowercase, k=draw.randint(2, 8))) for _ in range(1000)]
    return [" ".join(draw.choices(words, k=tokens + 1)) for _ in range(count)]


def chosen(steps: int, tokens: int, **others) -> rmu.Options:
    """Return RMU's options, of which the texts' number of tokens is one."""
    given = {**OPTIONS, "steps": steps, "max_tokens_forget": tokens, "max_tokens_retain": tokens, **others}
    return methods.options(rmu, given)


@dataclasses.dataclass(frozen=True)
class Work:
    """What both of a pair do: so many steps on the same texts, all of them new (`states` may have what is at hand)."""

    base: BaseModel
    options: rmu.Options
    device: str = "cpu"

    @property
    def run(self) -> methods.Run:
        count = self.options.steps * self.options.batch_size
        tokens = self.options.max_tokens_forget
        forget, retain = texts(count, tokens, SEED), texts(count, tokens, SEED + 1)
        return methods.Run(self.base, forget, retain, SEED, self.device, label="ours")

    def ours(self, activations: Path | None = None) -> list[tuple[float, float]]:
        """Return every step's losses."""
        run = methods.Run(**{**vars(self.run), "activations": activations})
        unlearned = rmu.unlearn(run, self.options)
        return [(row["forget_loss"], row["retain_loss"]) for row in unlearned.losses]

    def reference(self) -> list[tuple[float, float]]:
        """Return every step's losses, on the batches that `ours` draws."""
        run = self.run
        size = self.options.batch_size, self.options.steps
        rows = forget_batches(run, *size), retain_batches(len(run.retain), *size, SEED)
        batches = [
            ([run.forget[row] for row in forget], [run.retain[row] for row in retain])
            for forget, retain in zip(*rows, strict=True)
        ]
        return plain_rmu.unlearn(self.base, batches, self.options, SEED, self.device)[0]


def step_times(base: BaseModel, steps: int) -> list[results.Row]:
    """Return rmu_step and rmu_step_cached: the median second per step; ours from two runs."""
    work = Work(base, chosen(steps, TOKENS))
    seconds: dict[str, list[float]] = {"first": [], "cached": [], "reference": []}
    losses = {}

    def take(kind: str, run) -> None:
        with measure.steps(work.device) as step_seconds:
            losses[kind] = run()
        seconds[kind] += step_seconds

    with tempfile.TemporaryDirectory() as folder:
        activations = Path(folder) / "states.safetensors"
        rmu.cache_activations(work.run, work.options, activations)
        take("first", work.ours)
        take("cached", lambda: work.ours(activations))
        take("reference", work.reference)  # between the others, so that a machine that slows down slows all
        take("cached", lambda: work.ours(activations))
        take("first", work.ours)
    medians = {kind: statistics.median(samples) for kind, samples in seconds.items()}
    rows = []
    for name, kind in (("rmu_step", "first"), ("rmu_step_cached", "cached")):
        measure.check_losses(name, losses[kind], losses["reference"], AGREE)
        rows.append(results.Row(name, "time per step", medians[kind], medians["reference"], "s", machine=results.cpu()))
    return rows


def peak_memory(base: BaseModel, steps: int) -> list[results.Row]:
    """Return rmu_memory: each side in a process of its own, from loading the model to the last step."""
    work = Work(base, chosen(min(steps, 3), TOKENS))
    (ours, losses), (reference, expected) = (
        measure.in_fresh_process(_peak, work, side) for side in ("ours", "reference")
    )
    measure.check_losses("rmu_memory", losses, expected, AGREE)
    return [results.Row("rmu_memory", "peak memory", ours, reference, "MB", machine=results.cpu())]


def _peak(work: Work, side: str) -> tuple[float, list[tuple[float, float]]]:
    from transformers.models.llama import modeling_llama  # noqa: F401  imports belong to the start

    base_model.load_tokenizer(work.base)
    memory = measure.PeakMemory()
    memory.start()
    losses = getattr(work, side)()
    return memory.peak(), losses
