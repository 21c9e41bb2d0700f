"""What unlearning takes before anything is run: parameters, bytes, floating point operations, by arithmetic alone.

All functions are pure. Bytes are bytes (1 GB is 1e9 of them), operations count a multiplication and an addition as two.
`precision` is the bytes of a number in frozen weights and in activations; what trains is fp32.
"""

from collections.abc import Sequence

from spunge.models.shapes import ModelShape

BF16, FP32 = 2, 4
ADAM = 2 * FP32  # two moments
TRAINED = FP32 + FP32 + ADAM  # a trained parameter: itself, its gradient, Adam's moments
UTILISATION = 0.4  # of a device's peak and of its memory's bandwidth, that a job is reckoned to reach
H100_PEAK = 989e12  # bf16, dense, per second; an H200 has the same


def layer_activations(shape: ModelShape, precision: int = BF16) -> int:
    """Bytes that one layer keeps per token for the backward pass (an estimate).

    In `precision`: both norms' outputs, query, key, value, the attention's output, and four times the MLP's width
    (gate, its activation, up, their product), for each expert a token visits; in fp32: what both norms compute with,
    twice. The attention scores are never stored (a fused kernel).
    """
    mlp = 4 * shape.intermediate * (shape.experts_per_token or 1)
    return precision * (4 * shape.hidden + 2 * shape.key_value_width + mlp) + 2 * 2 * FP32 * shape.hidden


def rmu_memory(
    shape: ModelShape, layer_id: int, trained_layers: Sequence[int], tokens: int, precision: int = BF16
) -> dict[str, int]:
    """Peak bytes of one RMU run, part by part; `tokens` are those of a step, forget and retain batch together.

    Only the embedding and the layers 0 … `layer_id` are loaded; the down projections that train, and a copy of
    what they were, are fp32. Activations are kept from the first trained layer on.
    """
    trained = len(trained_layers) * shape.down_projection
    return {
        "frozen weights": precision * (shape.embedding + (layer_id + 1) * shape.layer - trained),
        "trained weights in fp32": FP32 * trained,
        "their original": FP32 * trained,
        "gradients": FP32 * trained,
        "Adam": ADAM * trained,
        "bf16 copies for the products": BF16 * trained * (precision == BF16),
        "activations": tokens * (layer_id + 1 - min(trained_layers)) * layer_activations(shape, precision),
    }


def training_memory(
    shape: ModelShape, tokens: int, trained: int, frozen: int = 0, checkpointed: bool = True, precision: int = BF16
) -> dict[str, int]:
    """Peak bytes of training `trained` parameters, at 16 bytes each, beside `frozen` ones.

    NPO's too: what its loss compares with is computed before the first step, by the same model. `tokens` are those of
    one pass before gradients accumulate; sharding over cards divides all but the activations. Those are every layer's,
    and the logits, as computed and in fp32 with their gradient.
    """
    layer = layer_activations(shape, precision)
    # A checkpointed layer keeps its input alone; one at a time is computed again.
    layers = layer + shape.layers * precision * shape.hidden if checkpointed else shape.layers * layer
    return {
        "frozen weights": precision * frozen,
        "trained weights, gradients, Adam": TRAINED * trained,
        "activations": tokens * (layers + (precision + 2 * FP32) * shape.vocabulary),
    }


def layer_forward(shape: ModelShape, tokens: int, length: int) -> int:
    """Operations of one layer's forward pass over `tokens` in texts of `length`: products with weights, attention.

    Causal attention needs half of the two products of its square; norms, activations and softmax are left out.
    """
    return 2 * tokens * shape.linear_per_token + 2 * tokens * length * shape.hidden


def whole_forward(shape: ModelShape, tokens: int, length: int) -> int:
    """Operations of the whole model's forward pass over `tokens`, with logits for each."""
    return shape.layers * layer_forward(shape, tokens, length) + 2 * tokens * shape.embedding


def rmu_operations(
    shape: ModelShape, layer_id: int, trained_layers: Sequence[int], tokens: int, length: int, at_hand: bool = False
) -> int:
    """Operations that one RMU step needs, with `tokens` in each of the forget and the retain batch.

    Forward: the layers below the first trained one for both batches; those from it to `layer_id` for both, and for the
    retain batch once more with the frozen weights. Backward: the gradient of each trained down projection, and above
    the first trained layer the gradient of every layer's input (twice the attention's forward). With the activations
    `at_hand`, the layers below and the frozen pass are not needed.
    """
    forward, first = layer_forward(shape, tokens, length), min(trained_layers)
    above = layer_id + 1 - first
    of_a_token = shape.down_projection // (shape.experts or 1) * (shape.experts_per_token or 1)
    weight_gradients = len(trained_layers) * 2 * tokens * of_a_token
    input_gradients = (above - 1) * (forward + 2 * tokens * length * shape.hidden)
    passes = 2 * above if at_hand else 2 * first + 3 * above
    return passes * forward + 2 * (weight_gradients + input_gradients)


def plain_rmu_operations(shape: ModelShape, layer_id: int, tokens: int, length: int) -> int:
    """Operations of one RMU step as its authors' code runs it: three whole forward passes, all gradients below."""
    return 3 * whole_forward(shape, tokens, length) + 2 * (layer_id + 1) * 2 * layer_forward(shape, tokens, length)


def training_operations(
    shape: ModelShape, tokens: int, length: int, lora: bool = False, frozen: bool = False, checkpointed: bool = True
) -> int:
    """Operations of one training step over `tokens`: forward, gradients of inputs and (unless `lora`) of weights.

    `checkpointed` adds a forward pass; so does a `frozen` model. LoRA's own products are left out.
    """
    return whole_forward(shape, tokens, length) * (1 + (1 if lora else 2) + checkpointed + frozen)
