"""RMU against the plain way: time of a step and peak memory, SmolLM2 on the CPU and a 7B shape on a GPU."""

import dataclasses
import gc
import random
import statistics
import string
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks import measure, plain_rmu, results
from spunge import account, methods, models
from spunge.errors import InputError
from spunge.methods import rmu
from spunge.task_vector import BaseModel

SEED = 0
# Nothing is padded here, so the mask changes no loss; states can be kept only with it.
OPTIONS = {"layer_id": 7, "trained_layers": [5, 6, 7], "batch_size": 4, "mask": True}
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

    def ours(self, states: Path | None = None) -> list[tuple[float, float]]:
        """Return every step's losses."""
        run = methods.Run(**{**vars(self.run), "states": states})
        unlearned = rmu.unlearn(run, self.options)
        return [(row["forget_loss"], row["retain_loss"]) for row in unlearned.losses]

    def reference(self) -> list[tuple[float, float]]:
        """Return every step's losses, on the batches that `ours` draws."""
        run = self.run
        generator = torch.Generator().manual_seed(SEED)
        rows = [
            rmu.schedule(len(one), self.options.batch_size, self.options.steps, generator)
            for one in (run.forget, run.retain)
        ]
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
        with measure.steps(work.device) as found:
            losses[kind] = run()
        seconds[kind] += found

    with tempfile.TemporaryDirectory() as folder:
        states = Path(folder) / "states.safetensors"
        rmu.frozen_states(work.run, work.options, states)
        take("first", work.ours)
        take("cached", lambda: work.ours(states))
        take("reference", work.reference)  # between the others, so that a machine that slows down slows all
        take("cached", lambda: work.ours(states))
        take("first", work.ours)
    medians = {kind: statistics.median(one) for kind, one in seconds.items()}
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

    models.load_tokenizer(work.base)
    memory = measure.PeakMemory()
    memory.start()
    losses = getattr(work, side)()
    return memory.peak(), losses


@dataclasses.dataclass(frozen=True)
class Big:
    """A Llama of random weights, the texts' length, and where it runs."""

    shape: account.ModelShape
    tokens: int
    device: str
    layer_id: int = 7


SHAPES = {
    "7b": lambda: Big(account.LLAMA_2_7B, 512, "cuda"),
    # The same path on a CPU in seconds.
    "tiny": lambda: Big(account.ModelShape("tiny", 64, 10, 160, 4, 4, 320), 32, models.device()),
}


def big(steps: int, shape: str) -> list[results.Row]:
    """Return the rows of a big model on a GPU: time, tokens per second, share of the card's peak, memory."""
    chosen_shape = SHAPES[shape]()
    with random_model(chosen_shape) as base:
        return _big(base, chosen_shape, steps)


def _big(base: BaseModel, big: Big, steps: int) -> list[results.Row]:
    options = chosen(steps, big.tokens, dtype="bfloat16")
    work = Work(base, options, big.device)
    machine = torch.cuda.get_device_name() if big.device == "cuda" else results.cpu()
    seconds, memory, losses = {}, {}, {}
    states = base.folder / "states.states"
    rmu.frozen_states(work.run, options, states)
    for kind, run in (
        ("first", work.ours),
        ("cached", lambda: work.ours(states)),
        ("reference", work.reference),
    ):
        gc.collect()
        if big.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        with measure.steps(big.device) as found:
            losses[kind] = run()
        seconds[kind] = statistics.median(found)
        if big.device == "cuda":
            memory[kind] = torch.cuda.max_memory_allocated() / 1e6
    for kind in ("first", "cached"):
        measure.check_losses(f"rmu_step_7b_gpu, {kind}", losses[kind], losses["reference"], AGREE_BF16)

    batch = options.batch_size * big.tokens
    needed = account.rmu_operations(big.shape, big.layer_id, options.trained_layers, batch, big.tokens)
    needed_cached = account.rmu_operations(
        big.shape, big.layer_id, options.trained_layers, batch, big.tokens, at_hand=True
    )
    plain = account.plain_rmu_operations(big.shape, big.layer_id, batch, big.tokens)
    rows = []

    def row(name: str, metric: str, ours: float, reference: float, unit: str, **others) -> None:
        rows.append(results.Row(name, metric, ours, reference, unit, machine=machine, **others))

    row("rmu_step_7b_gpu", "time per step", seconds["first"], seconds["reference"], "s")
    row("rmu_step_7b_gpu", "time per step, states at hand", seconds["cached"], seconds["reference"], "s")
    speed = {kind: 2 * batch / one for kind, one in seconds.items()}
    row("rmu_step_7b_gpu", "tokens", speed["first"], speed["reference"], "1/s", more_is_better=True)
    row("rmu_step_7b_gpu", "tokens, states at hand", speed["cached"], speed["reference"], "1/s", more_is_better=True)
    row("rmu_step_7b_gpu", "operations", needed / 1e12, plain / 1e12, "10^12")

    def share(kind: str, operations: int) -> float:
        return 100 * operations / seconds[kind] / account.H100_PEAK

    metric, others = "needed operations, share of the card's peak", {"more_is_better": True}
    row("rmu_step_7b_gpu", metric, share("first", needed), share("reference", needed), "%", **others)
    row(
        "rmu_step_7b_gpu",
        f"{metric}, states at hand",
        share("cached", needed_cached),
        share("reference", needed_cached),
        "%",
        **others,
    )
    if memory:
        row("rmu_memory_7b_gpu", "peak memory", memory["first"], memory["reference"], "MB")
    return rows


@contextmanager
def random_model(big: Big, dtype: torch.dtype = torch.bfloat16) -> Iterator[BaseModel]:
    """Write a Llama of random weights and a small tokenizer to a temporary folder; in bf16 the 7B one takes 13.5 GB."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    shape = big.shape
    if big.device == "cuda" and not torch.cuda.is_available():
        raise InputError("this needs a GPU, and none is visible")
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        tie_word_embeddings=shape.tied,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with torch.device(big.device):
            torch.manual_seed(SEED)
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        parameters = model.num_parameters()
        model.save_pretrained(folder)
        del model
        _bytes_tokenizer().save_pretrained(folder)
        weights = tuple(sorted(path.name for path in folder.glob("*.safetensors")))
        yield BaseModel(folder, f"random weights, {shape.name}", "random", parameters, weights)


def _bytes_tokenizer():
    """Return a tokenizer of one token per byte, and one that ends a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<end>"]
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
