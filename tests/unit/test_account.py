"""The arithmetic of spunge/planning/cost_model.py against real architectures and small models."""

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig

from spunge.methods import rmu
from spunge.models import shapes
from spunge.planning import cost_model

PROJECT = Path(__file__).parents[2]

specification = importlib.util.spec_from_file_location("big_models", PROJECT / "docs" / "big_models.py")
big_models = importlib.util.module_from_spec(specification)
specification.loader.exec_module(big_models)

TINY = shapes.ModelShape("tiny", 32, 4, 64, 2, 1, 320, tied=True)
SMALL = shapes.ModelShape("small", 128, 4, 344, 4, 2, 320)


def configuration(shape):
    sizes = {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_value_heads,
        "tie_word_embeddings": shape.tied,
    }
    if not shape.experts:
        return LlamaConfig(**sizes)
    return MixtralConfig(**sizes, num_local_experts=shape.experts, num_experts_per_tok=shape.experts_per_token)


@pytest.mark.parametrize(
    ("shape", "parameters"),
    [
        (shapes.SMOLLM2_135M, 134_515_008),
        (shapes.MISTRAL_7B, 7_241_732_096),
        (shapes.LLAMA_2_7B, 6_738_415_616),
        (shapes.LLAMA_2_70B, 68_976_648_192),
        (shapes.MIXTRAL_8X7B, 46_702_792_704),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_parameters_are_those_of_the_architecture(shape, parameters):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(configuration(shape))
    assert shape.parameters == parameters == model.num_parameters()
    layer = model.model.layers[0]
    assert shape.layer == sum(parameter.numel() for parameter in layer.parameters())
    down = layer.mlp.experts.down_proj if shape.experts else layer.mlp.down_proj.weight
    assert shape.down_projection == down.numel()
    assert shape.embedding == model.model.embed_tokens.weight.numel()


def test_only_two_of_eight_experts_work_on_a_token():
    shape = shapes.MIXTRAL_8X7B
    assert shape.linear - shape.linear_per_token == 6 * 3 * 4096 * 14336
    assert shapes.LLAMA_2_7B.linear == shapes.LLAMA_2_7B.linear_per_token


@pytest.mark.parametrize("targets", [None, ["down_proj", "q_proj"]])
def test_lora_parameters_are_those_of_peft(targets):
    from peft import LoraConfig, get_peft_model

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(configuration(SMALL))
        model = get_peft_model(model, LoraConfig(r=8, target_modules=targets or "all-linear", task_type="CAUSAL_LM"))
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert SMALL.lora(8, targets) == trained
    changed = [module.weight.numel() for name, module in model.named_modules() if name.endswith("base_layer")]
    assert SMALL.adapted(targets) == sum(changed)


def test_rmu_memory_counts_what_rmu_loads(tiny_base):
    options = rmu.Options(layer_id=2, trained_layers=(1, 2), dtype="bfloat16")
    half = rmu.TruncatedModel(tiny_base, options, "cpu")
    loaded = [half.model.embed_tokens.weight, *half.layers.parameters()]
    bytes_of = {
        dtype: sum(one.numel() * one.itemsize for one in loaded if one.dtype == dtype)
        for dtype in (torch.bfloat16, torch.float32)
    }
    parts = cost_model.rmu_memory(TINY, 2, (1, 2), tokens=0)
    assert parts["frozen weights"] == bytes_of[torch.bfloat16]
    assert parts["trained weights in fp32"] == bytes_of[torch.float32]
    assert parts["their original"] == sum(one.numel() * one.itemsize for one in half.original.values())
    optimizer = torch.optim.AdamW(half.trained.values())
    for parameter in half.trained.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moments = [one for state in optimizer.state.values() for one in state.values() if one.dim() == 2]
    assert parts["gradients"] == sum(one.grad.numel() * one.grad.itemsize for one in half.trained.values())
    assert parts["Adam"] == sum(one.numel() * one.itemsize for one in moments)


def test_activations_are_near_what_autograd_keeps():
    """The estimate against the tensors that a layer's graph really holds, weights left out."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(configuration(SMALL), dtype=torch.bfloat16).model
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    tokens = 2 * 64

    def held(layers):
        kept = {}
        model.layers = torch.nn.ModuleList(list(model.layers)[:layers])
        model.config.num_hidden_layers = layers

        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            kept.setdefault("tensors", 0)
            alive.append(tensor)
            return tensor

        alive = []
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = model(input_ids=torch.zeros(2, 64, dtype=torch.long), use_cache=False)
        assert output is not None
        return sum(kept.values())

    per_layer = (held(4) - held(2)) / 2 / tokens
    assert cost_model.layer_activations(SMALL) == pytest.approx(per_layer, rel=0.25)


def test_rmu_of_70b_fits_one_card_and_all_weights_need_many():
    parts = cost_model.rmu_memory(shapes.LLAMA_2_70B, 7, (5, 6, 7), 8 * 512)
    trained = 3 * 8192 * 28672
    below = 32000 * 8192 + 8 * (2 * 8192**2 + 2 * 8192 * 1024 + 3 * 8192 * 28672 + 2 * 8192) - trained
    fixed = 2 * below + (4 + 4 + 4 + 8 + 2) * trained
    assert sum(parts.values()) - parts["activations"] == fixed
    assert 28.2e9 < fixed < 28.4e9
    assert big_models.cards_needed(parts) == 1
    assert sum(parts.values()) < 0.9 * 80e9
    full = cost_model.training_memory(shapes.LLAMA_2_70B, 512, trained=68_976_648_192)
    assert sum(full.values()) - full["activations"] == 16 * 68_976_648_192
    assert big_models.cards_needed(full) == 16  # 1103.6 GB over cards with 72 GB less the activations
    with pytest.raises(ValueError, match="activations alone"):
        big_models.cards_needed({"weights": 1, "activations": 100_000_000_000})


def test_operations_counted_with_torch():
    """PyTorch's own counter; it counts whole attention squares where half are needed, so texts are short here."""
    from torch.utils.flop_counter import FlopCounterMode

    model = AutoModelForCausalLM.from_config(configuration(SMALL), dtype=torch.float32)
    tokens = torch.zeros(4, 8, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(tokens, use_cache=False)
    expected = SMALL.layers * cost_model.layer_forward(SMALL, 32, 8) + 2 * 32 * SMALL.embedding
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.02)
    assert cost_model.training_operations(SMALL, 32, 8, checkpointed=False) == 3 * expected


def test_rmu_operations_by_hand_and_with_torch(tiny_base):
    from torch.utils.flop_counter import FlopCounterMode

    shape, tokens, length = TINY, 4 * 8, 8
    options = rmu.Options(layer_id=2, trained_layers=(1, 2))
    half = rmu.TruncatedModel(tiny_base, options, "cpu")
    ids = torch.zeros(4, 8, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        for _ in range(2):
            half.suffix(half.prefix(ids)).sum().backward()
        half.frozen_suffix(half.prefix(ids))
        counted = counter.get_total_flops()
    below = cost_model.layer_forward(shape, tokens, length)  # the prefix ran a third time here
    needed = cost_model.rmu_operations(shape, 2, (1, 2), tokens, length)
    assert counted == pytest.approx(needed + below, rel=0.03)
    assert needed - cost_model.rmu_operations(shape, 2, (1, 2), tokens, length, at_hand=True) == (2 + 2) * below
    linear = 2 * tokens * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)
    assert below == linear + 2 * tokens * length * 32


def test_sizes_of_task_vectors():
    assert shapes.LLAMA_2_7B.down_projection == 4096 * 11008
    assert shapes.MIXTRAL_8X7B.down_projection == 8 * 4096 * 14336
    attention, mlp = 4 * (4096 + 4096), 3 * (4096 + 11008)
    assert shapes.LLAMA_2_7B.lora(8) == 32 * 8 * (attention + mlp)
    assert shapes.LLAMA_2_7B.adapted() == 32 * (4 * 4096**2 + 3 * 4096 * 11008)


def test_big_models_page_is_as_generated():
    assert (PROJECT / "docs" / "big-models.md").read_text() == big_models.page(), "run python docs/big_models.py"
