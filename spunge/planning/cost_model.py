"""What unlearning takes before anything is run: parameters, bytes, floating point operations, by arithmetic alone.

All functions are pure. Bytes are bytes (1 GB is 1e9 of them), operations count a multiplication and an addition as two.
Models are decoders of Llama's family, dense or with experts (Mixtral), with a gated MLP and no biases.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

BF16, FP32 = 2, 4
PRECISIONS = {BF16: "bf16", FP32: "fp32"}
ADAM = 2 * FP32  # two moments
TRAINED = FP32 + FP32 + ADAM  # a trained parameter: itself, its gradient, Adam's moments
H100_MEMORY = 80e9
UTILISATION = 0.4  # of a device's peak and of its memory's bandwidth, that a job is reckoned to reach
H100_PEAK = 989e12  # bf16, dense, per second; an H200 has the same


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a model's configuration; `experts` is 0 for a dense model."""

    name: str
    hidden: int
    layers: int
    intermediate: int
    heads: int
    key_value_heads: int
    vocabulary: int
    experts: int = 0
    experts_per_token: int = 0
    tied: bool = False

    @property
    def key_value_width(self) -> int:
        return self.hidden // self.heads * self.key_value_heads

    @property
    def matrices(self) -> dict[str, tuple[int, int, int]]:
        """The linear maps of one layer but for the router: (how many, rows, columns)."""
        many = self.experts or 1
        return {
            "q_proj": (1, self.hidden, self.hidden),
            "k_proj": (1, self.key_value_width, self.hidden),
            "v_proj": (1, self.key_value_width, self.hidden),
            "o_proj": (1, self.hidden, self.hidden),
            "gate_proj": (many, self.intermediate, self.hidden),
            "up_proj": (many, self.intermediate, self.hidden),
            "down_proj": (many, self.hidden, self.intermediate),
        }

    @property
    def linear(self) -> int:
        """Parameters of one layer's linear maps, all experts and the router among them."""
        return sum(many * rows * columns for many, rows, columns in self.matrices.values()) + self.experts * self.hidden

    @property
    def linear_per_token(self) -> int:
        """Those of `linear` that one token is multiplied with."""
        unused = (self.experts - self.experts_per_token) * 3 * self.hidden * self.intermediate
        return self.linear - unused

    @property
    def layer(self) -> int:
        """Parameters of one layer: linear maps and two norms."""
        return self.linear + 2 * self.hidden

    @property
    def embedding(self) -> int:
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """Parameters of the whole model: embeddings in and out (one where they are tied), layers, last norm."""
        return self.embedding * (1 if self.tied else 2) + self.layers * self.layer + self.hidden

    @property
    def down_projection(self) -> int:
        """Parameters of one layer's down projection(s), which RMU trains."""
        return (self.experts or 1) * self.hidden * self.intermediate

    def adapted(self, targets: Collection[str] | None = None) -> list[tuple[int, int, int]]:
        """The linear maps of one layer that LoRA adapts: those of these names, or all but the router."""
        return [matrix for name, matrix in self.matrices.items() if targets is None or name in targets]

    def lora(self, rank: int, targets: Collection[str] | None = None) -> int:
        """Parameters of LoRA factors: rank · (rows + columns) of each map."""
        return self.layers * sum(many * rank * (rows + columns) for many, rows, columns in self.adapted(targets))


SMOLLM2_135M = ModelShape("SmolLM2-135M", 576, 30, 1536, 9, 3, 49152, tied=True)
MISTRAL_7B = ModelShape("Mistral-7B", 4096, 32, 14336, 32, 8, 32000)
LLAMA_2_7B = ModelShape("Llama-2-7B", 4096, 32, 11008, 32, 32, 32000)
LLAMA_2_70B = ModelShape("Llama-2-70B", 8192, 80, 28672, 64, 8, 32000)
MIXTRAL_8X7B = ModelShape("Mixtral-8x7B", 4096, 32, 14336, 32, 8, 32000, experts=8, experts_per_token=2)


def layer_activations(shape: ModelShape, checkpointed: bool = False, precision: int = BF16) -> int:
    """Bytes that one layer keeps per token for the backward pass (an estimate).

    In the `precision` of the frozen weights (bytes of a number, here and below, bf16's or fp32's): both norms' outputs,
    query, key, value, the attention's output, and four times the MLP's width (gate, its activation, up, their product),
    for each expert a token visits; in fp32: what both norms compute with, twice. The attention scores are never stored
    (a fused kernel). With `checkpointed` layers only the layer's input is kept.
    """
    if checkpointed:
        return precision * shape.hidden
    mlp = 4 * shape.intermediate * (shape.experts_per_token or 1)
    half = precision * (4 * shape.hidden + 2 * shape.key_value_width + mlp)
    return half + 2 * 2 * FP32 * shape.hidden


def rmu_memory(
    shape: ModelShape, layer_id: int, trained_layers: Sequence[int], tokens: int, precision: int = BF16
) -> dict[str, int]:
    """Peak bytes of one RMU run, part by part; `tokens` are those of a step, forget and retain batch together.

    Only the embedding and the layers 0 … `layer_id` are loaded; the down projections that train, and a copy of
    what they were, are fp32. Activations are kept from the first trained layer on.
    """
    trained = len(trained_layers) * shape.down_projection
    below = shape.embedding + (layer_id + 1) * shape.layer - trained
    return {
        f"weights in {PRECISIONS[precision]}": precision * below,
        "trained weights in fp32": FP32 * trained,
        "their original": FP32 * trained,
        "gradients": FP32 * trained,
        "Adam": ADAM * trained,
        "bf16 copies for the products": BF16 * trained * (precision == BF16),
        "activations": tokens * (layer_id + 1 - min(trained_layers)) * layer_activations(shape, precision=precision),
    }


def full_memory(shape: ModelShape, tokens: int, checkpointed: bool = True, precision: int = BF16) -> dict[str, int]:
    """Peak bytes of training all weights: fp32 weights, gradients and Adam's moments, 16 bytes a parameter.

    NPO's too: what its loss compares with is computed before the first step, by the same model. `tokens` are those of
    one pass before gradients accumulate; sharding over cards divides all but the activations, whose precision is
    `precision`.
    """
    return {
        "weights in fp32": FP32 * shape.parameters,
        "gradients": FP32 * shape.parameters,
        "Adam": ADAM * shape.parameters,
        "activations": whole_activations(shape, tokens, checkpointed, precision),
    }


def lora_memory(
    shape: ModelShape,
    rank: int,
    tokens: int,
    checkpointed: bool = True,
    targets: Collection[str] | None = None,
    precision: int = BF16,
) -> dict[str, int]:
    """Peak bytes of training LoRA factors of the maps `targets`, or of all: the factors at 16 bytes a parameter."""
    return {
        f"weights in {PRECISIONS[precision]}": precision * shape.parameters,
        "factors, gradients, Adam": TRAINED * shape.lora(rank, targets),
        "activations": whole_activations(shape, tokens, checkpointed, precision),
    }


def whole_activations(shape: ModelShape, tokens: int, checkpointed: bool, precision: int = BF16) -> int:
    """Bytes of every layer's activations and of the logits (as computed, in fp32, and their gradient in fp32)."""
    kept = layer_activations(shape, checkpointed, precision)
    layers = shape.layers * kept + checkpointed * layer_activations(shape, precision=precision)
    return tokens * (layers + (precision + 2 * FP32) * shape.vocabulary)


def cards(parts: dict[str, int], memory: float = H100_MEMORY, usable: float = 0.9) -> int:
    """Cards that a run needs where all but the activations is sharded over them (FSDP), a tenth of each left free."""
    room = usable * memory - parts["activations"]
    if room <= 0:
        raise ValueError(f"the activations alone, {parts['activations'] / 1e9:.0f} GB, don't fit a card: fewer tokens")
    return math.ceil((sum(parts.values()) - parts["activations"]) / room)


def layer_forward(shape: ModelShape, tokens: int, length: int) -> int:
    """Operations of one layer's forward pass over `tokens` in texts of `length`: products with weights, attention.

    Causal attention needs half of the two products of its square; norms, activations and softmax are left out.
    """
    return 2 * tokens * shape.linear_per_token + _attention(shape, tokens, length)


def whole_forward(shape: ModelShape, tokens: int, length: int) -> int:
    """Operations of the whole model's forward pass over `tokens`, with logits for each."""
    return shape.layers * layer_forward(shape, tokens, length) + 2 * tokens * shape.embedding


def _attention(shape: ModelShape, tokens: int, length: int) -> int:
    return 2 * tokens * length * shape.hidden


def rmu_operations(
    shape: ModelShape,
    layer_id: int,
    trained_layers: Sequence[int],
    tokens: int,
    length: int,
    at_hand: bool = False,
) -> int:
    """Operations that one RMU step needs, with `tokens` in each of the forget and the retain batch.

    Forward: the layers below the first trained one for both batches; those from it to `layer_id` for both, and for the
    retain batch once more with the frozen weights. Backward: the gradient of each trained down projection, and above
    the first trained layer the gradient of every layer's input (twice the attention's forward). With the states
    `at_hand`, the layers below and the frozen pass are not needed.
    """
    first = min(trained_layers)
    forward, above = layer_forward(shape, tokens, length), layer_id + 1 - first
    per_expert = shape.down_projection // (shape.experts or 1) * (shape.experts_per_token or 1)
    weight_gradients = len(trained_layers) * 2 * tokens * per_expert
    input_gradients = (above - 1) * (2 * tokens * shape.linear_per_token + 2 * _attention(shape, tokens, length))
    passes = 2 * above if at_hand else 2 * first + 3 * above
    return passes * forward + 2 * (weight_gradients + input_gradients)


def plain_rmu_operations(shape: ModelShape, layer_id: int, tokens: int, length: int) -> int:
    """Operations of one RMU step as its authors' code runs it: three whole forward passes, all gradients below."""
    forward = layer_forward(shape, tokens, length)
    return 3 * whole_forward(shape, tokens, length) + 2 * (layer_id + 1) * 2 * forward


def training_operations(
    shape: ModelShape, tokens: int, length: int, lora: bool = False, frozen: bool = False, checkpointed: bool = True
) -> int:
    """Operations of one training step over `tokens`: forward, gradients of inputs and (unless `lora`) of weights.

    `checkpointed` adds a forward pass; so does a `frozen` model. LoRA's own products are left out.
    """
    forward = whole_forward(shape, tokens, length)
    return forward * (1 + (1 if lora else 2) + checkpointed + frozen)


def hours(operations: float, utilisation: float, peak: float = H100_PEAK) -> float:
    """Hours on one card that reaches a share `utilisation` of its peak."""
    return operations / (utilisation * peak) / 3600


def rmu_vector(shape: ModelShape, trained_layers: int) -> int:
    """Bytes of an RMU task vector: fp32 differences of the down projections that were trained."""
    return FP32 * trained_layers * shape.down_projection


def full_vector(shape: ModelShape) -> int:
    """Bytes of a task vector of all weights, fp32."""
    return FP32 * shape.parameters


def lora_vector(shape: ModelShape, rank: int, targets: Collection[str] | None = None) -> int:
    """Bytes of a LoRA task vector kept as its factors, fp32."""
    return FP32 * shape.lora(rank, targets)


def lora_merged(shape: ModelShape, targets: Collection[str] | None = None) -> int:
    """Bytes of merged LoRA task vectors: ΔW of every adapted matrix, fp32."""
    return FP32 * shape.layers * sum(many * rows * columns for many, rows, columns in shape.adapted(targets))


def checkpoint(shape: ModelShape, bytes_per_parameter: int = BF16) -> int:
    """Bytes of a whole checkpoint."""
    return bytes_per_parameter * shape.parameters
