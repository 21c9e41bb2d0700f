"""Write docs/big-models.md: what unlearning takes for models of 7, 70 and 8×7 billion parameters.

python docs/big_models.py
"""

import math
import sys
from collections.abc import Iterable
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
if str(PROJECT) not in sys.path:
    sys.path.insert(0, str(PROJECT))

from spunge.models import shapes  # noqa: E402
from spunge.planning import cost_model  # noqa: E402

CARD, USABLE = 80e9, 0.9  # bytes of a card, and the share of them that a run may take
SHAPES = (shapes.LLAMA_2_7B, shapes.LLAMA_2_70B, shapes.MIXTRAL_8X7B)
SHARDS = (1, 8, 32)
LAYER_ID, TRAINED_LAYERS = 7, (5, 6, 7)
STEPS, BATCH, LENGTH, RANK = 80, 4, 512, 8
# Kind of run: does it train LoRA factors, is there a frozen model to compare with, batches of 4 texts in a step's loss.
RUNS = {
    "all weights: `tvn`, `gradient_ascent`, `simnpo`": (False, False, 1),
    "all weights: `gradient_difference`": (False, False, 2),
    "all weights: `npo`": (False, True, 1),
    "LoRA: `tvn`, `gradient_ascent`, `simnpo`": (True, False, 1),
    "LoRA: `gradient_difference`": (True, False, 2),
    "LoRA: `npo`": (True, True, 1),
}
RMU = "`rmu`"

PAGE = """\
<!-- Written by `python docs/big_models.py` from spunge/planning/cost_model.py; change those. -->
# Big models: what it will take

Nothing on this page was measured; it is arithmetic, in `spunge/planning/cost_model.py`, so that it can be looked up
before hours of a GPU are spent. Tests hold the parameter counts against the real architectures and the parts against
a small model.
GB are 10⁹ bytes; a card is one of {memory:.0f} GB, of which a tenth stays free. k is the number of shards.

- RMU: `layer_id` {layer_id}, training layers {layers}, batches of {batch} + {batch} texts of {length} tokens.
- The others: one text of {length} tokens at a time, gradients accumulated to batches of {batch}, layers checkpointed
  (`gradient_checkpointing: true`); LoRA of rank {rank} on all linear maps but router and output.
- Frozen weights are bf16 (`dtype: bfloat16`); what trains is fp32 with gradient and Adam's two moments, {trained}
  bytes a parameter. What FSDP gathers for the while, and the allocator's waste, are left out.

## GPU memory of one run

| model | parameters | method | GB | cards |
|---|---|---|---|---|
{memory_rows}

More shards need no more memory: each is a run of its own, one after another, or as many at once as there are cards.
More than one card means that weights, gradients and moments are sharded over them (FSDP through accelerate); RMU never
needs that here.

### The sum for RMU of a 70B model: one card

Only the embedding and the layers 0 … {layer_id} are ever loaded, since nothing above `layer_id` enters the loss.

| part | formula | GB |
|---|---|---|
{sum_rows}

The activations are an estimate: per token and layer from the first trained one on, 2 · (4 · hidden + 2 · key-value
width + 4 · intermediate) + 16 · hidden bytes, {activation} here, for {tokens} tokens. The authors' two whole models
would be {two:.0f} GB before the first activation.

## Arithmetic and time

Operations of {steps} steps a shard, a multiplication and an addition counted as two, and minutes on one H100 at
{utilisation:.0%} of its peak ({peak:.0f}·10¹² a second, bf16, dense), loading the model not counted. The joint run
takes as many steps as all shards together, so its time is that of k shards; n cards take about an n-th of it.

| model | method | 10¹⁵ operations a shard | {time_heads} |
|---|---|---|{time_dashes}|
{time_rows}

RMU as its authors' code runs it (three whole forward passes, all gradients below `layer_id`) needs {plain}
as many operations for the three models as `rmu` does on new texts. With `cache_activations` the layers below the first
trained one, and the frozen model's, run once per text; in later visits the factors are {cached}.

## Disk

Task vectors are fp32, one per shard and one merged; whole checkpoints, bf16, k of them and a merged one. A merge of
LoRA adapters is a recipe without tensors ([merging.md](merging.md#recipes)).

| model | task vectors | one shard, GB | merged, GB | {disk_heads} |
|---|---|---|---|{disk_dashes}|
{disk_rows}

The base model comes on top ({bases} GB). So do the activations that `cache_activations` keeps, two bytes per hidden
unit and token, once for a forget text and twice for a retain text: {activations:.1f} MB each time for {length} tokens
of the 70B model.

## Merging

A merge runs on the CPU and reads one tensor of every shard at a time, so its memory depends on the largest changed
tensor, not on the model. What is read takes

| model | largest tensor | MB | {merge_heads} |
|---|---|---|{merge_dashes}|
{merge_rows}

of memory in fp32; working copies come on top. `make benchmark` measures that the peak stays where it is as layers are
added (`ties_memory_by_size`).

## What is and isn't supported

- Llama's family (`layers`, a `norm`), dense: all methods.
- Mixtral: experts are not trained here. Its files hold them one by one (`block_sparse_moe.experts.N.w2.weight`),
  transformers stacks them (`mlp.experts.down_proj`). So RMU's default parameter, all weights, and LoRA on `all-linear`
  are refused before the first step. RMU takes `trained_parameters: [self_attn.o_proj.weight]`, LoRA takes attention's
  modules, and a ready-made checkpoint is taken whole. Mixtral's rows above are the arithmetic of training all experts.
- RMU on more than one card is not supported. It would be needed where `layer_id` is much larger.
"""


def page() -> str:
    """Return the text of docs/big-models.md."""
    llama_70b = shapes.LLAMA_2_70B
    plain = [_times(cost_model.plain_rmu_operations(shape, *_batch()), _rmu_operations(shape)) for shape in SHAPES]
    cached = [
        _times(cost_model.plain_rmu_operations(shape, *_batch()), _rmu_operations(shape, at_hand=True))
        for shape in SHAPES
    ]
    return PAGE.format(
        memory=CARD / 1e9,
        layer_id=LAYER_ID,
        layers=", ".join(map(str, TRAINED_LAYERS)),
        batch=BATCH,
        length=LENGTH,
        rank=RANK,
        trained=cost_model.TRAINED,
        memory_rows=_table(_memory_rows()),
        sum_rows=_table(_sum_rows(llama_70b)),
        activation=f"{cost_model.layer_activations(llama_70b):,}",
        tokens=f"{2 * BATCH * LENGTH:,}",
        two=2 * cost_model.BF16 * llama_70b.parameters / 1e9,
        steps=STEPS,
        utilisation=cost_model.UTILISATION,
        peak=cost_model.H100_PEAK / 1e12,
        time_heads=_heads("minutes, k = {}"),
        time_dashes=_dashes(),
        time_rows=_table(_time_rows()),
        plain=_listed(plain),
        cached=_listed(cached),
        disk_heads=_heads("k = {}: GB (of whole checkpoints)"),
        disk_dashes=_dashes(),
        disk_rows=_table(_disk_rows()),
        bases=_listed([f"{cost_model.BF16 * shape.parameters / 1e9:.0f}" for shape in SHAPES]),
        activations=LENGTH * cost_model.BF16 * llama_70b.hidden / 1e6,
        merge_heads=_heads("k = {}, GB"),
        merge_dashes=_dashes(),
        merge_rows=_table(_merge_rows()),
    )


def _memory_rows() -> Iterable[tuple]:
    for shape in SHAPES:
        kinds = {RMU: cost_model.rmu_memory(shape, LAYER_ID, TRAINED_LAYERS, 2 * BATCH * LENGTH)}
        for name, (lora, *_) in RUNS.items():
            weights = (shape.lora(RANK), shape.parameters) if lora else (shape.parameters, 0)
            kinds[name] = cost_model.training_memory(shape, LENGTH, *weights)
        merged: dict[tuple, list[str]] = {}
        for name, parts in kinds.items():
            merged.setdefault((f"{sum(parts.values()) / 1e9:.0f}", cards_needed(parts)), []).append(name)
        for (size, cards), names in merged.items():
            yield shape.name, f"{shape.parameters:,}", _together(names), size, cards


def cards_needed(parts: dict[str, int]) -> int:
    """Cards that a run needs where all but the activations is sharded over them (FSDP), a tenth of each left free."""
    room = USABLE * CARD - parts["activations"]
    if room <= 0:
        raise ValueError(f"the activations alone, {parts['activations'] / 1e9:.0f} GB, don't fit a card: fewer tokens")
    return math.ceil((sum(parts.values()) - parts["activations"]) / room)


def _together(names: list[str]) -> str:
    """Put the methods that train the same weights into one list behind them."""
    methods: dict[str, list[str]] = {}
    for name in names:
        kind, _, listed = name.rpartition(": ")
        methods.setdefault(kind, []).append(listed)
    return "; ".join(f"{kind}: {', '.join(listed)}" if kind else ", ".join(listed) for kind, listed in methods.items())


def _sum_rows(shape: shapes.ModelShape) -> Iterable[tuple]:
    parts = cost_model.rmu_memory(shape, LAYER_ID, TRAINED_LAYERS, 2 * BATCH * LENGTH)
    trained = f"{len(TRAINED_LAYERS) * shape.down_projection:,}"
    below = parts["frozen weights"] // cost_model.BF16
    formulas = {
        "frozen weights": f"(embedding {shape.embedding:,} + {LAYER_ID + 1} · {shape.layer:,} − {trained}) · 2 "
        f"= {below:,} · 2",
        "trained weights in fp32": f"{len(TRAINED_LAYERS)} · {shape.hidden:,} · {shape.intermediate:,} · 4 "
        f"= {trained} · 4",
        "Adam": f"{trained} · 8",
        "bf16 copies for the products": f"{trained} · 2",
        "activations": f"{2 * BATCH * LENGTH:,} · {LAYER_ID + 1 - min(TRAINED_LAYERS)} · "
        f"{cost_model.layer_activations(shape):,}",
    }
    for part, size in parts.items():
        yield part, formulas.get(part, f"{trained} · 4"), f"{size / 1e9:.1f}"
    yield "**sum**", "", f"**{sum(parts.values()) / 1e9:.1f}**"


def _time_rows() -> Iterable[tuple]:
    for shape in SHAPES:
        kinds = {
            RMU: _rmu_operations(shape),
            f"{RMU}, `cache_activations`": _rmu_operations(shape, at_hand=True),
        }
        for name, (lora, frozen, batches) in RUNS.items():
            kinds[name] = cost_model.training_operations(shape, batches * BATCH * LENGTH, LENGTH, lora, frozen)
        for name, operations in kinds.items():
            all_steps = STEPS * operations
            minutes = [shards * all_steps / (cost_model.UTILISATION * cost_model.H100_PEAK) / 60 for shards in SHARDS]
            yield (
                shape.name,
                name,
                f"{all_steps / 1e15:.1f}",
                *(f"{value:.{0 if value >= 10 else 2}f}" for value in minutes),
            )


def _disk_rows() -> Iterable[tuple]:
    for shape in SHAPES:
        whole = cost_model.BF16 * shape.parameters
        rmu, full = len(TRAINED_LAYERS) * shape.down_projection, shape.parameters
        for name, *changed in (
            (RMU, rmu, rmu),
            (f"LoRA, rank {RANK}", shape.lora(RANK), 0),
            ("all weights", full, full),
        ):
            shard, merged = (cost_model.FP32 * parameters for parameters in changed)
            totals = [(shards * shard + merged, (shards + 1) * whole) for shards in SHARDS]
            cells = (f"{total / 1e9:.4g} ({total / checkpoints:.0%})" for total, checkpoints in totals)
            yield shape.name, name, f"{shard / 1e9:.3g}", f"{merged / 1e9:.3g}", *cells


def _merge_rows() -> Iterable[tuple]:
    for shape in SHAPES:
        down = shape.down_projection
        largest = 2 * down if shape.experts else max(down, shape.embedding)  # experts' gate and up are one tensor
        for name, entries in (("RMU's down projection", down), ("of all weights", largest)):
            size = cost_model.FP32 * entries
            yield shape.name, name, f"{size / 1e6:.0f}", *(f"{shards * size / 1e9:.3g}" for shards in SHARDS)


def _batch() -> tuple[int, int, int]:
    return LAYER_ID, BATCH * LENGTH, LENGTH


def _rmu_operations(shape: shapes.ModelShape, at_hand: bool = False) -> int:
    return cost_model.rmu_operations(shape, LAYER_ID, TRAINED_LAYERS, BATCH * LENGTH, LENGTH, at_hand)


def _times(large: int, small: int) -> str:
    return f"{large / small:.1f}×"


def _listed(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _heads(text: str) -> str:
    return " | ".join(text.format(shards) for shards in SHARDS)


def _dashes() -> str:
    return "|".join("---" for _ in SHARDS)


def _table(rows: Iterable[tuple]) -> str:
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


if __name__ == "__main__":
    (PROJECT / "docs" / "big-models.md").write_text(page())
