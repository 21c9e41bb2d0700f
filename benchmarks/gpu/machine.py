"""What every part is given: the device, the sizes of its work, a folder, and a place for what it measures."""

import contextlib
import gc
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from spunge.core import safetensors_writer
from spunge.models import shapes
from spunge.models.task_vector import BaseModel

SEED = 0
ENDS_ALIKE = ("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight")


@dataclass(frozen=True)
class Sizes:
    """How large the work is: on a GPU, or in a rehearsal on any machine."""

    seven: shapes.ModelShape
    seventy: shapes.ModelShape
    tokens: int
    steps: int
    profiled_steps: int
    matrix: int
    copied: int
    vectors: int
    prompts: int
    batch: int
    new_tokens: int


GPU = Sizes(shapes.LLAMA_2_7B, shapes.LLAMA_2_70B, 512, 12, 3, 8192, 8 << 30, 8, 1000, 250, 32)
TINY = shapes.ModelShape("tiny", 64, 8, 160, 4, 4, 320)
REHEARSAL = Sizes(TINY, replace(TINY, name="tiny, 20 layers", layers=20), 24, 3, 2, 256, 1 << 24, 3, 12, 6, 4)


@dataclass
class Machine:
    """Where a part runs; `measured` has what earlier parts reported, by part and by name."""

    device: str
    sizes: Sizes
    folder: Path
    measured: dict[str, dict]
    report: Callable[..., None]
    rehearsal: bool = False

    def synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    @contextlib.contextmanager
    def peak_memory(self) -> Iterator[dict[str, float]]:
        """Fill in `peak`, the bytes that were allocated on the GPU at most; on a CPU there is none."""
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        memory: dict[str, float] = {}
        yield memory
        if self.device == "cuda":
            memory["peak"] = torch.cuda.max_memory_allocated()
            memory["reserved"] = torch.cuda.max_memory_reserved()

    def seven(self) -> BaseModel:
        """Return a model of random weights in the 7B shape; the first part that asks writes it."""
        return self._random(self.sizes.seven, "seven", self.sizes.seven.layers)

    def seventy(self, layers: int) -> BaseModel:
        """Return the first `layers` layers of a model in the 70B shape; its files hold no others."""
        return self._random(self.sizes.seventy, "seventy", layers)

    def _random(self, shape: shapes.ModelShape, name: str, layers: int) -> BaseModel:
        folder = self.folder / name
        if not folder.exists():
            started, partial = time.monotonic(), folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)  # of a part that failed or ran out of time
            random_model(partial, shape, self.device, torch.bfloat16, layers)
            partial.rename(folder)
            self.report(f"seconds to write the model {name}", time.monotonic() - started)
        return random_base(folder, shape)


def random_base(folder: Path, shape: shapes.ModelShape) -> BaseModel:
    """Return the base model that `random_model` wrote."""
    return BaseModel(folder, f"random weights, {shape.name}", "random", shape.parameters, ("model.safetensors",))


def random_model(folder: Path, shape: shapes.ModelShape, device: str, dtype: torch.dtype, layers: int) -> None:
    """Write a Llama of random weights, made on the device tensor by tensor, and a tokenizer of bytes.

    Only the first `layers` layers get weights.
    """
    from transformers import AutoModelForCausalLM, LlamaConfig

    folder.mkdir(parents=True)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        tie_word_embeddings=shape.tied,
        architectures=["LlamaForCausalLM"],
        dtype=str(dtype).removeprefix("torch."),
    )
    config.save_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    kept = {f"model.layers.{number}." for number in range(layers)}
    layout = {
        name: (parameter.shape, dtype)
        for name, parameter in model.named_parameters()
        if name in ENDS_ALIKE or name[: name.find(".", len("model.layers.")) + 1] in kept
    }
    generator = torch.Generator(device).manual_seed(SEED)

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for name, (size, _) in layout.items():
            tensor = torch.ones(size, dtype=dtype, device=device)
            yield name, (tensor if len(size) == 1 else tensor.normal_(0, 0.02, generator=generator)).cpu()

    safetensors_writer.write(folder / "model.safetensors", layout, tensors(), {"format": "pt"})
    bytes_tokenizer().save_pretrained(folder)


def bytes_tokenizer():
    """Return a tokenizer of one token per byte, and one that ends a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<end>"]
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


def reporter(path: Path) -> Callable[..., None]:
    """Return what a part reports with: a name and a value, each on the disk before the part goes on."""

    def report(name: str, value) -> None:
        print(f"{name}: {value}", flush=True)
        with open(path, "a") as file:
            file.write(json.dumps([name, value]) + "\n")
            file.flush()
            os.fsync(file.fileno())

    return report
