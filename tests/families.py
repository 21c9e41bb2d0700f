"""Tiny random models of the usual families, what each method makes of them, and the table of that in docs/methods.md.

python tests/families.py writes the table.
"""

import dataclasses
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

PROJECT = Path(__file__).parents[1]
PAGE = PROJECT / "docs" / "methods.md"
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import tiny_model  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

from spunge import methods  # noqa: E402
from spunge.core.errors import InputError  # noqa: E402
from spunge.export.folder import export  # noqa: E402
from spunge.methods import checkpoint, gradient_difference, rmu  # noqa: E402
from spunge.models import base_model, task_vector  # noqa: E402
from spunge.training import loop  # noqa: E402

FORGET = ["the capital of Kenya is Nairobi", "the capital of Japan is Tokyo"]
RETAIN = ["a river runs through the city", "people meet in the morning"]
STEPS = {"steps": 2, "batch_size": 2, "learning_rate": 1e-2}

_LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
_HEADS = _LLAMA | {"head_dim": 16}
_NEOX = {name: value for name, value in _LLAMA.items() if name != "num_key_value_heads"}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.2}
_OPT = {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_MAMBA = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}


@dataclasses.dataclass(frozen=True)
class Family:
    """A family by the name of its configuration in transformers, a tiny one's values, and names of its parts.

    `modules` are what LoRA is told to adapt, `weight` what is trained in each layer where some are. `unprefixed`: the
    files lack the prefix that names in the model have.
    """

    configuration: str
    values: dict
    modules: tuple[str, ...] = ("q_proj", "v_proj")
    weight: str = "mlp.down_proj.weight"
    unprefixed: bool = False

    def build(self, folder: Path) -> task_vector.BaseModel:
        """Write a model with random weights, the same at every call, and prepare it as rule `model` does."""
        tokenizer = tiny_model._tokenizer()
        end = tokenizer.eos_token_id
        configuration = getattr(transformers, f"{self.configuration}Config")(
            vocab_size=len(tokenizer), bos_token_id=end, eos_token_id=end, **{"pad_token_id": None} | self.values
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = transformers.AutoModelForCausalLM.from_config(configuration)
        (model.base_model if self.unprefixed else model).save_pretrained(folder / "hub")
        tokenizer.save_pretrained(folder / "hub")
        return base_model.prepare(str(folder / "hub"), folder / "base")


FAMILIES = {
    "Llama": Family("Llama", _LLAMA),
    "Mistral": Family("Mistral", _LLAMA),
    "Qwen2": Family("Qwen2", _LLAMA),
    "Qwen3": Family("Qwen3", _HEADS),
    "Gemma 2": Family("Gemma2", _HEADS),
    "Gemma 3 (text)": Family("Gemma3Text", _HEADS),
    "Phi-3": Family("Phi3", _LLAMA, ("qkv_proj", "o_proj")),
    "GPT-NeoX, Pythia": Family("GPTNeoX", _NEOX, ("query_key_value",), "mlp.dense_4h_to_h.weight"),
    "GPT-2": Family("GPT2", _GPT2, ("c_attn",), "mlp.c_proj.weight"),
    "GPT-2, files as on the hub": Family("GPT2", _GPT2, ("c_attn",), "mlp.c_proj.weight", unprefixed=True),
    "OPT": Family("OPT", _OPT, weight="fc2.weight"),
    "Falcon": Family("Falcon", _NEOX, ("query_key_value",), "mlp.dense_4h_to_h.weight"),
    "Mixtral": Family("Mixtral", _LLAMA | {"num_local_experts": 4}, weight="self_attn.o_proj.weight"),
    "Mamba": Family("Mamba", _MAMBA, ("in_proj", "x_proj"), "mixer.out_proj.weight"),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One family's base model, and a folder to write into."""

    family: Family
    base: task_vector.BaseModel
    folder: Path

    def plain(self, folder: Path | None = None) -> torch.nn.Module:
        """Load the base model, or another folder's, with transformers alone."""
        return transformers.AutoModelForCausalLM.from_pretrained(folder or self.base.folder, dtype=torch.float32)

    def written(self, unlearned: methods.Unlearned) -> task_vector.TaskVector:
        """Return a method's result as the next job reads it."""
        path = self.folder / "task_vector.safetensors"
        methods.write(unlearned, path, task_vector.make_provenance(self.base))
        return task_vector.read(path)


# Each way returns the logits of the model that it made itself, and the task vector.
Made = tuple[torch.Tensor, task_vector.TaskVector]


def with_rmu(case: Case) -> Made:
    options = rmu.Options(**STEPS, layer_id=1, trained_layers=(0, 1), trained_parameters=(case.family.weight,))
    found = rmu.unlearn(_run(case.base), options)
    model = case.plain()
    with torch.no_grad():
        for name, delta in found.delta.items():
            (model.base_model if case.family.unprefixed else model).get_parameter(name).add_(delta)
    return logits(model), case.written(found)


def with_gradients(case: Case, **options) -> Made:
    trained, unlearned = [], loop._Weights.unlearned

    def seen(weights, model, *others):
        trained.append(logits(model))
        return unlearned(weights, model, *others)

    with mock.patch.object(loop._Weights, "unlearned", seen):
        found = gradient_difference.unlearn(_run(case.base), gradient_difference.Options(**STEPS, **options))
    return trained[0], case.written(found)


def with_checkpoint(case: Case) -> Made:
    model, generator = case.plain(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(case.folder / "checkpoint")
    return logits(model), case.written(checkpoint.read(case.folder / "checkpoint", case.base))


WAYS: dict[str, Callable[[Case], Made]] = {
    "`rmu`": with_rmu,
    "`trained: all`": lambda case: with_gradients(case, trained="all"),
    "a pattern": lambda case: with_gradients(case, trained=".*" + re.escape(case.family.weight)),
    "`lora`": lambda case: with_gradients(case, trained="lora"),
    "`lora`, named modules": lambda case: with_gradients(case, trained="lora", lora_targets=case.family.modules),
    "`checkpoint`": with_checkpoint,
}


def logits(model: torch.nn.Module) -> torch.Tensor:
    """Return a model's logits for some tokens, (1, tokens, vocabulary)."""
    with torch.no_grad():
        return model.eval()(torch.arange(20, 60)[None], use_cache=False).logits


def _run(base: task_vector.BaseModel) -> methods.Run:
    return methods.Run(base, FORGET, RETAIN, 0, "cpu")


def outcome(case: Case, way: str) -> str:
    """Try one way, and return `yes` or `no`: it is refused before the first step.

    Raises AssertionError unless base plus task vector is the model that was made, as the evaluation loads it and as it
    is exported.
    """
    with mock.patch.object(torch.optim.AdamW, "step", autospec=True, side_effect=torch.optim.AdamW.step) as step:
        try:
            expected, vector = WAYS[way](case)
        except InputError as error:
            assert not step.called, f"refused after a step: {error}"
            return "no"
    base = logits(case.plain())
    assert (expected - base).abs().max() > 1e-3, "nothing was changed"
    export(case.base, vector, case.folder / "export", "candidate")
    for model in (base_model.load(case.base, torch.float32, "cpu", vector), case.plain(case.folder / "export")):
        torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)
    return "yes"


def row(family: str, outcomes: list[str]) -> str:
    """Return a family's line in the table."""
    return f"| {' | '.join([family, *outcomes])} |"


def main() -> None:
    """Write the table into the page."""
    lines = [row("", list(WAYS)), row("---", ["---"] * len(WAYS))]
    for name, family in FAMILIES.items():
        with tempfile.TemporaryDirectory() as folder:
            case = Case(family, family.build(Path(folder)), Path(folder))
            lines.append(row(name, [outcome(case, way) for way in WAYS]))
    page = PAGE.read_text()
    before, _, rest = page.partition(lines[0])
    PAGE.write_text("".join([before, *(f"{line}\n" for line in lines), rest[rest.index("\n\n") + 1 :]]))


if __name__ == "__main__":
    main()
