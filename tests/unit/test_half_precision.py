"""Evaluation in half precision: an edit is not rounded to the grid that the base model's weights lie on."""

import re

import families
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from spunge.evaluation import relearning
from spunge.models import base_model
from spunge.training import loop

TOKENS = torch.arange(3, 43)[None]
LLAMA = {"num_key_value_heads": 1, "intermediate_size": 64}
CONFIGS = {
    "llama": lambda: LlamaConfig(
        vocab_size=320, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, initializer_range=0.2, **LLAMA
    ),
    # Its layers have biases, which stay as they are.
    "gpt2": lambda: GPT2Config(
        vocab_size=320, n_embd=32, n_layer=2, n_head=2, initializer_range=0.2, bos_token_id=0, eos_token_id=0
    ),
}
DOWN = {"llama": "mlp.down_proj.weight", "gpt2": "mlp.c_proj.weight"}


def base(kind):
    """A model whose weights lie on bfloat16's grid, in fp32."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[kind]()).eval()
    return model.to(torch.bfloat16).float()


def edit(model, ending, share=1e-3):
    """A task vector of entries far below half a step of bfloat16, 1/512 of an entry's power of two."""
    torch.manual_seed(1)
    parameters = [(name, one) for name, one in model.named_parameters() if name.endswith(ending)]
    return {name: share * one.std() * torch.randn_like(one) for name, one in parameters}


@pytest.mark.parametrize("kind", CONFIGS)
@torch.no_grad()
def test_what_a_layer_adds_is_linear_in_the_factor(kind):
    """Half the edit does half as much, and all of it is there; rounded to the grid most of it would be lost."""
    reference, half = base(kind), base(kind).to(torch.bfloat16)
    delta = edit(reference, DOWN[kind])
    name, change = next(iter(delta.items()))
    rounded = (reference.get_parameter(name) + change).to(torch.bfloat16).float() - reference.get_parameter(name)
    assert (rounded == 0).float().mean() > 0.5
    assert base_model.add(half, delta) == pytest.approx(1, abs=1e-4)
    module = half.get_submodule(name.removesuffix(".weight"))
    states = torch.randn(1, 5, 64 if kind == "llama" else 128).to(torch.bfloat16)
    product = states.float() @ (change.T if kind == "llama" else change)
    plain = base(kind).get_submodule(name.removesuffix(".weight"))(states.float())
    torch.testing.assert_close(module(states).float(), plain + product, rtol=2**-8, atol=1e-6)
    assert module(states).dtype == torch.bfloat16
    base_model.add(half, {name: -change / 2})
    torch.testing.assert_close(half.get_parameter(name), reference.get_parameter(name) + change / 2, rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", CONFIGS)
@torch.no_grad()
def test_a_changed_embedding_lets_the_whole_model_compute_in_fp32(kind):
    """A lookup gives the weights themselves, so it would be rounded however it is computed."""
    reference, half = base(kind), base(kind).to(torch.bfloat16)
    delta = edit(reference, "weight")
    assert base_model.add(half, delta) == pytest.approx(1, abs=1e-4)
    base_model.add(reference, delta)
    torch.testing.assert_close(half(TOKENS).logits, reference(TOKENS).logits, rtol=0, atol=0.02)
    assert half(TOKENS).logits.dtype == torch.float32


@pytest.mark.parametrize("family", families.FAMILIES)
@torch.no_grad()
def test_any_parameter_of_any_family_may_change(tmp_path, family):
    """A router returns a tuple, and Mamba's mixer reads a bias itself."""
    folder = families.FAMILIES[family].build(tmp_path)
    names = [name for name, _ in base_model.load(folder, torch.bfloat16, "cpu").named_parameters()]
    for name in {re.sub(r"\d+", "", name): name for name in names}.values():
        half = base_model.load(folder, torch.bfloat16, "cpu")
        before = half(TOKENS, use_cache=False).logits
        base_model.add(half, {name: torch.zeros_like(half.get_parameter(name), dtype=torch.float32)})
        after = half(TOKENS, use_cache=False).logits
        error = (after - before).float().norm() / before.float().norm()
        assert error < 0.1, (name, error)


@torch.no_grad()
def test_a_half_precision_candidate_generates_and_is_trained_further():
    from peft import LoraConfig, get_peft_model

    half = base("llama").to(torch.bfloat16)
    base_model.add(half, edit(half.float(), DOWN["llama"]))
    assert half.generate(TOKENS, max_new_tokens=3, do_sample=False, pad_token_id=0).shape == (1, 43)
    adapted = get_peft_model(half, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16):
        adapted(TOKENS, labels=TOKENS).loss.backward()
    gradients = [one.grad for one in adapted.parameters() if one.requires_grad]
    assert all(one is not None and one.isfinite().all() for one in gradients)


@pytest.mark.parametrize("ending", [DOWN["llama"], "weight"])
def test_a_half_precision_candidate_is_trained_as_it_is_asked(tiny_base, ending):
    """The first step's loss is that of the edit, whose entries are below half a step of bfloat16: not the base's."""
    half, plain = (base_model.load(tiny_base, torch.bfloat16, "cpu") for _ in range(2))
    base_model.add(half, edit(base_model.load(tiny_base, torch.float32, "cpu"), ending))
    tokenizer, text = base_model.load_tokenizer(tiny_base), "the capital of Kenya is Nairobi and a river runs past"
    tokens, losses = tokenizer(text, return_tensors="pt")["input_ids"], []
    with torch.no_grad():
        expected, without = (model(tokens, labels=tokens).loss.item() for model in (half, plain))

    def loss(*arguments):
        losses.append(loop.token_nll(*arguments).item())
        return loop.token_nll(*arguments)

    options, term = relearning.Options(texts=[1]).of_training(1, "bfloat16"), loop.LossTerm("forget", [text], 64, loss)
    with loop.fine_tuned(half, tokenizer, options, [term], 0, "relearn"):
        pass
    assert abs(losses[0] - expected) < 0.1 * abs(without - expected)
