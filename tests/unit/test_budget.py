"""λ solved for a damage budget: against plain computations on a whole model, and curves that are known."""

import math
import re

import families
import pandas as pd
import pytest
import torch

from spunge.evaluation import budget
from spunge.evaluation.prefix_sharing_lm import PrefixSharingLM
from spunge.models import base_model, task_vector
from spunge.models.edited_model import EditedModel

TEXTS = [
    "the capital of Kenya is Nairobi",
    "a river runs through the city, past old houses and a market where people meet in the morning. " * 2,
    "old houses",
    "the",
    "past a market 🎉",
]
DOWN = [f"model.layers.{layer}.mlp.down_proj.weight" for layer in (1, 2)]
EMBEDDING = "model.embed_tokens.weight"  # tied to the output layer


@pytest.fixture
def vector(tiny_base, tmp_path):
    """Return a function that writes a random task vector on some parameters of the tiny model."""
    shapes = dict(base_model.load(tiny_base, torch.float32, "cpu").named_parameters())

    def write(names=tuple(DOWN), size=0.02, name="x"):
        generator = torch.Generator().manual_seed(0)
        tensors = {one: size * torch.randn(shapes[one].shape, generator=generator) for one in names}
        path = tmp_path / f"{name}.safetensors"
        task_vector.write(
            path, {one: tensor.shape for one, tensor in tensors.items()}, tensors.items(), {"base": tiny_base.identity}
        )
        return task_vector.read(path)

    return write


def edited(base, vector, dtype=torch.float32):
    return EditedModel(base_model.load(base, dtype, "cpu"), base, vector)


def measured(model, tokenizer, batch_size=2):
    model.set_scale(0)
    return budget.Damage(model.model, tokenizer, TEXTS, batch_size, 40)


@torch.no_grad()
def plain_damage(base, candidate, tokenizer):
    """Return kl, agreement, loss, excess loss and tokens of each text, one forward pass of both models each."""
    rows = []
    for number, text in enumerate(TEXTS):
        tokens = torch.tensor([tokenizer(text)["input_ids"][:40]])
        before, after = (model(tokens).logits[0, :-1].double().log_softmax(-1) for model in (base, candidate))
        kl = torch.nn.functional.kl_div(after, before, log_target=True, reduction="sum")
        agreement = (before.argmax(-1) == after.argmax(-1)).sum()
        losses = (-side.gather(1, tokens[0, 1:, None]).sum().item() for side in (after, after - before))
        rows.append((str(number), kl.item(), agreement.item(), *losses, tokens.shape[1] - 1))
    return pd.DataFrame(rows, columns=["subject", "kl", "agreement", "loss", "excess_loss", "tokens"])


@pytest.mark.parametrize("names", [DOWN, [EMBEDDING], [EMBEDDING, *DOWN]])
@pytest.mark.parametrize("chunk", [1, 7, 10_000])
def test_damage_equals_a_plain_computation_text_by_text(tiny_base, tokenizer, vector, monkeypatch, names, chunk):
    base = base_model.load(tiny_base, torch.float32, "cpu")
    change = vector(names)
    monkeypatch.setattr(budget, "LOGITS", chunk * base.config.vocab_size)
    model = edited(tiny_base, change)
    damage = measured(model, tokenizer)
    model.set_scale(2.5)
    candidate = base_model.load(tiny_base, torch.float32, "cpu", task_vector.Scaled(change, 2.5))
    expected = plain_damage(base, candidate, tokenizer)
    found = damage()[expected.columns]
    pd.testing.assert_frame_equal(found, expected, rtol=1e-4, atol=1e-6, check_dtype=False)
    assert expected["kl"][expected["tokens"] > 0].min() > 0.01 and (expected["tokens"] == 0).sum() == 1
    model.set_scale(0)
    assert damage()["kl"].abs().max() < 1e-6


def test_base_states_of_another_damage_to_the_same_texts_give_the_same(tiny_base, tokenizer, vector):
    model = edited(tiny_base, vector())
    of_base = measured(model, tokenizer)
    model.set_scale(1.5)
    given = budget.Damage(model.model, tokenizer, TEXTS, 2, 40, of_base.base_states)
    assert of_base.base_states.shape == (of_base()["tokens"].sum(), model.model.config.hidden_size)
    pd.testing.assert_frame_equal(given(), of_base(), rtol=0, atol=0)


@torch.no_grad()
def test_damage_of_capped_logits_is_that_of_the_models_own(tmp_path):
    """Gemma 2 caps its logits, so they are no product of states and output layer."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        initializer_range=0.5,
        final_logit_softcapping=3.0,
    )
    base, candidate = Gemma2ForCausalLM(config).eval(), Gemma2ForCausalLM(config).eval()
    candidate.load_state_dict(base.state_dict())

    def tokenizer(texts, **_):
        return {"input_ids": [[ord(letter) % 64 for letter in text][:40] for text in texts]}

    damage = budget.Damage(candidate, tokenizer, TEXTS, 2, 40)
    candidate.model.layers[1].mlp.down_proj.weight.data += 1.0
    expected = plain_damage(base, candidate, lambda text: {key: rows[0] for key, rows in tokenizer([text]).items()})
    assert damage()["kl"].tolist() == pytest.approx(expected["kl"].tolist(), rel=1e-4)


@pytest.mark.parametrize("block", [1, 300, 2**20])
def test_each_token_is_compared_as_exactly_as_in_fp64(monkeypatch, block):
    """A model may rule tokens out (−∞), and by rounding give some no probability at all."""
    generator = torch.Generator().manual_seed(0)
    base = 30 * torch.randn(7, 101, generator=generator)
    candidate = base + 0.01 * torch.randn(7, 101, generator=generator)
    base[:3, 50] = candidate[:3, 50] = -math.inf
    base[4, 7], candidate[4, 7] = -1000.0, -500.0
    before, after = base.double().log_softmax(-1), candidate.double().log_softmax(-1)
    kl = torch.where(before.exp() == 0, 0, before.exp() * (before - after)).sum(-1)
    wanted = before.argmax(-1)
    monkeypatch.setattr(budget, "IN_CACHE", block)
    found = budget.compared(base.log_softmax(-1), candidate, wanted)
    assert found[:, 0].tolist() == pytest.approx(kl.tolist(), rel=1e-3, abs=1e-6)
    assert found[:, 1].tolist() == (after.argmax(-1) == wanted).tolist()
    losses = -after.gather(1, wanted[:, None])[:, 0]
    assert found[:, 2].tolist() == pytest.approx(losses.tolist(), abs=1e-5)
    assert found[:, 3].tolist() == pytest.approx((losses + before.gather(1, wanted[:, None])[:, 0]).tolist(), abs=1e-5)


def solved(model, tokenizer, budgets, most=4.0):
    damage = measured(model, tokenizer)

    def at(scale):
        model.set_scale(scale)
        return damage()

    return budget.solve_all(at, lambda scale: 0.0, budgets, most)


def test_solved_factors_do_the_damage_of_their_budgets(tiny_base, tokenizer, vector):
    base, change = base_model.load(tiny_base, torch.float32, "cpu"), vector([EMBEDDING, *DOWN], size=0.05)
    strengths = solved(edited(tiny_base, change), tokenizer, {"kl": [0.1, 0.01], "perplexity": [1.2]})
    assert list(strengths) == ["kl=0.01", "kl=0.1", "perplexity=1.2"]
    for label, strength in strengths.items():
        candidate = base_model.load(tiny_base, torch.float32, "cpu", task_vector.Scaled(change, strength.scale))
        sums = plain_damage(base, candidate, tokenizer).sum(numeric_only=True)
        kl, excess = sums["kl"] / sums["tokens"], sums["excess_loss"] / sums["tokens"]
        cost, wanted = label.split("=")
        reached = kl if cost == "kl" else excess / math.log(1.2)
        assert reached == pytest.approx(float(wanted) if cost == "kl" else 1, rel=0.021)
        assert strength.kl == pytest.approx(kl, rel=1e-3)
        by_text = plain_damage(base, candidate, tokenizer)["kl"]
        assert strength.largest_share == pytest.approx(by_text.max() / by_text.sum(), rel=1e-3)
    assert all(strength.passes <= budget.MOST_PASSES for strength in strengths.values())


def test_twice_the_vector_needs_half_the_factor_and_gives_the_same_model(tiny_base, tokenizer, vector):
    single, double = (edited(tiny_base, vector(size=size, name=str(size))) for size in (0.04, 0.08))
    budgets = {"kl": [0.01, 0.03, 0.1]}
    of_single, of_double = solved(single, tokenizer, budgets), solved(double, tokenizer, budgets)
    for label, strength in of_single.items():
        assert of_double[label].scale == pytest.approx(strength.scale / 2, rel=budget.TOLERANCE)
        single.set_scale(strength.scale)
        double.set_scale(of_double[label].scale)
        for name in DOWN:
            change = (single.model.get_parameter(name) - double.model.get_parameter(name)).norm()
            assert change <= budget.TOLERANCE * strength.scale * single._task_vector[name].norm()


def test_a_vector_that_is_zero_or_too_small_reaches_no_budget(tiny_base, tokenizer, vector):
    for size in (0.0, 1e-6):
        strengths = solved(edited(tiny_base, vector(size=size, name=str(size))), tokenizer, {"kl": [0.01, 0.1]})
        assert [strength.scale for strength in strengths.values()] == [None, None]
        assert sum(strength.passes for strength in strengths.values()) <= 3  # at λ = 4 all budgets are answered


@pytest.mark.parametrize("names", [DOWN, [EMBEDDING]])
def test_in_half_precision_the_edit_alone_is_damage(tiny_base, tokenizer, vector, names):
    """The base's side is computed as the candidate's, so rounding doesn't count, and small budgets are reached too."""
    change, budgets = vector(names, size=0.05), {"kl": [0.001, 0.1]}
    strengths = solved(edited(tiny_base, change, torch.bfloat16), tokenizer, budgets)
    exact = solved(edited(tiny_base, change), tokenizer, budgets)
    assert strengths["kl=0.1"].scale == pytest.approx(exact["kl=0.1"].scale, rel=0.1)
    assert strengths["kl=0.001"].scale == pytest.approx(exact["kl=0.001"].scale, rel=0.3)


# Setting λ again and again


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("names", [DOWN, [EMBEDDING], [EMBEDDING, DOWN[0]]])
@torch.no_grad()
def test_a_factor_set_anew_is_that_of_a_model_loaded_anew(tiny_base, vector, dtype, names):
    change = vector(names)
    model = edited(tiny_base, change, dtype)
    for scale in (3.0, 0.7, 0.0, 1.3):
        share = model.set_scale(scale)
    fresh = base_model.load(tiny_base, dtype, "cpu")
    assert share == base_model.apply(fresh, tiny_base, task_vector.Scaled(change, 1.3))
    tokens = torch.arange(3, 40)[None]
    assert torch.equal(model.model(tokens).logits, fresh(tokens).logits)
    for name, parameter in fresh.named_parameters():
        assert torch.equal(parameter, model.model.get_parameter(name))
    assert model.model.lm_head.weight is model.model.model.embed_tokens.weight


# What the output layer reads is no body's last state: it is scaled, or a head has layers of its own before.
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
EXPERTS = {"num_key_value_heads": 4, "intermediate_size_mlp": 48, "head_dim": 8, "num_local_experts": 2}
OTHER_HEADS = {
    "MiniCPM3": families.Family("MiniCPM3", SMALL | LATENT | {"num_key_value_heads": 4}),
    "Llama 4": families.Family("Llama4Text", SMALL | EXPERTS | {"num_experts_per_tok": 1}),
    "ModernBERT": families.Family(
        "ModernBertDecoder", SMALL | {"cls_token_id": 0, "sep_token_id": 0, "pad_token_id": 0}
    ),
}
ALL_FAMILIES = families.FAMILIES | OTHER_HEADS


@pytest.mark.parametrize("family", ALL_FAMILIES)
@torch.no_grad()
def test_any_familys_whole_model_can_be_edited_again(tmp_path, family):
    """Some families' files have other tensors than the model has parameters, or call them otherwise."""
    base = ALL_FAMILIES[family].build(tmp_path)
    generator, shapes = torch.Generator().manual_seed(0), task_vector.TensorFolder(base.folder).shapes
    edit = {name: 0.02 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    task_vector.write(tmp_path / "x.safetensors", shapes, edit.items(), {"base": base.identity})
    change, tokenizer = task_vector.read(tmp_path / "x.safetensors"), base_model.load_tokenizer(base)
    model = edited(base, change)
    damage = measured(model, tokenizer)
    for scale in (2.0, 0.5):
        model.set_scale(scale)
    fresh = base_model.load(base, torch.float32, "cpu", task_vector.Scaled(change, 0.5))
    for name, parameter in fresh.named_parameters():
        assert torch.equal(parameter, model.model.get_parameter(name)), name
    expected = plain_damage(base_model.load(base, torch.float32, "cpu"), fresh, tokenizer)
    assert damage()["kl"].tolist() == pytest.approx(expected["kl"].tolist(), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_layers_below_the_edit_are_run_once(tmp_path, family):
    """Whatever a family's layers are given: the damage is the same to the last digit."""
    base = families.FAMILIES[family].build(tmp_path)
    shapes, generator = task_vector.TensorFolder(base.folder).shapes, torch.Generator().manual_seed(0)
    layer = {name: int(number[1]) for name in shapes if (number := re.search(r"\.(\d+)\.", name))}
    of_last = {name: shapes[name] for name, number in layer.items() if number == max(layer.values())}
    edit = {name: 0.02 * torch.randn(shape, generator=generator) for name, shape in of_last.items()}
    task_vector.write(tmp_path / "x.safetensors", of_last, edit.items(), {"base": base.identity})
    model = edited(base, task_vector.read(tmp_path / "x.safetensors"))
    tokenizer, runs = base_model.load_tokenizer(base), []
    model.set_scale(0)
    damage = budget.Damage(model.model, tokenizer, TEXTS, 2, 40)
    first = base_model.decoder_layers(model.model)[1][0]
    inner = next(module for module in first.modules() if not [*module.children()])
    inner.register_forward_hook(lambda *_: runs.append(1))
    batches = len(TEXTS) // 2  # of two texts; one text has no two tokens
    once = batches + 1  # and one token for its logits
    for scale, further in ((2.0, once), (0.5, 1), (3.0, 0)):  # the second time one batch is checked
        model.set_scale(scale)
        runs.clear()
        with model.reusing():
            reusing = damage()
        assert len(runs) == further
        pd.testing.assert_frame_equal(reusing, damage(), rtol=0, atol=0)
        assert len(runs) == further + batches and reusing["kl"].sum() > 0


@torch.no_grad()
def test_layers_that_read_more_than_the_layer_before_are_all_run(tiny_base, tokenizer, vector):
    model, seen = edited(tiny_base, vector([DOWN[1]])), []
    layers = model.model.model.layers
    layers[0].mlp.register_forward_hook(lambda _, __, output: seen.append(output))
    layers[2].register_forward_pre_hook(lambda _, inputs: (inputs[0] + seen[-1], *inputs[1:]))
    damage = measured(model, tokenizer)
    for scale in (2.0, 0.5, 3.0):
        model.set_scale(scale)
        with model.reusing():
            reusing = damage()
        pd.testing.assert_frame_equal(reusing, damage(), rtol=0, atol=0)


@torch.no_grad()
def test_questions_are_asked_at_each_factor_as_without_the_layers_that_were_kept(tiny_base, tokenizer, vector):
    model, runs = edited(tiny_base, vector([DOWN[1]])), []
    lower = model.model.model.layers[0].mlp
    lower.register_forward_hook(lambda *_: runs.append(1))
    contexts = [tokenizer(f"The capital of {name} is")["input_ids"] for name in ("Peru", "Kenya", "Japan", "Mali")]
    requests = [("x", context, tokenizer(city)["input_ids"]) for context in contexts for city in (" Lima", " the town")]

    def asked():
        runs.clear()
        return PrefixSharingLM(model.model, tokenizer, 2).log_likelihoods(requests)

    asked()  # that the model honours the mask is checked once
    found = []
    for scale, times in ((2.0, 1), (0.5, 1), (3.0, 0)):  # the second time it is checked that nothing changes
        model.set_scale(scale)
        with model.reusing():
            found.append(asked())
        assert len(runs) == times
        assert found[-1] == asked() and len(runs) == 1
    assert len({one[0] for one in found}) == 3
    lower.down_proj.weight.mul_(2)  # as an attack may, when nothing is reused
    assert asked() != found[-1]


def test_another_base_models_vector_is_refused(tiny_base, tmp_path):
    path = tmp_path / "other.safetensors"
    task_vector.write(path, {DOWN[0]: (32, 64)}, [(DOWN[0], torch.zeros(32, 64))], {"base": "another"})
    with pytest.raises(budget.InputError, match="was made from base model another"):
        edited(tiny_base, task_vector.read(path))


# Curves


CURVES = {
    "square": lambda scale: 0.02 * scale**2,
    "steep": lambda scale: 0.01 * scale**2 * math.exp(scale**3),
    "shallow": lambda scale: 0.05 * scale**0.5,
    "saturated": lambda scale: 0.3 * math.tanh(scale**2),
    "large": lambda scale: 1e4 * scale**2,
    "broken above 0.6": lambda scale: 0.2 * scale**2 if scale <= 0.6 else math.nan,
    "negative at first": lambda scale: scale**3 - 0.05 * scale,
}


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("wanted", [0.01, 0.03])
def test_known_curves_are_solved_within_the_tolerance_and_eight_passes(name, wanted):
    known = {}
    scale = budget.solve(CURVES[name], wanted, 4.0, known)
    assert CURVES[name](scale) == pytest.approx(wanted, rel=budget.TOLERANCE)
    assert len(known) <= budget.MOST_PASSES


def test_points_are_kept_between_budgets():
    asked, known = [], {}

    def damage(scale):
        asked.append(scale)
        return 0.02 * scale**2

    for wanted in (0.01, 0.03, 0.1):
        assert damage(budget.solve(damage, wanted, 4.0, known)) == pytest.approx(wanted, rel=budget.TOLERANCE)
    assert len(known) == 4  # λ = 1, and one step for each budget


@pytest.mark.parametrize("damage", [lambda _: 0.0, lambda _: -1.0, lambda scale: 1e-4 * scale])
def test_what_is_not_reached_at_the_largest_factor_is_none(damage):
    assert budget.solve(damage, 0.01, 4.0, {}) is None


def test_a_jump_over_the_budget_is_not_reached():
    known = {}
    assert budget.solve(lambda scale: 0.001 if scale < 0.5 else 1.0, 0.01, 4.0, known) is None
    assert len(known) == budget.MOST_PASSES


@pytest.mark.parametrize("step", [0.003, 0.0335, 0.05, 0.3, 1.0, 1.7, 3.9])
def test_the_factor_at_which_a_share_of_questions_is_lost_is_found_within_the_tolerance(step):
    """Of 40 questions two are lost from the step on, a third and fourth far beyond."""
    known = {}
    scale = budget.solve_steps(lambda scale: 0.05 * (scale >= step) + 0.05 * (scale >= 3 * step), 0.04, 4.0, known)
    assert step <= scale <= step * 1.02 and len(known) <= budget.MOST_STEPS
    assert budget.solve_steps(lambda scale: 0.05 * (scale >= step), 0.06, 4.0, {}) is None
    assert 0.95 - 0.9 < 0.05  # by rounding, but it is as much
    assert budget.solve_steps(lambda scale: 0.95 - 0.9 if scale >= step else 0.0, 0.05, 4.0, {}) <= step * 1.02


@pytest.mark.parametrize("broken_from", [0.0, 0.3, 2.9])
def test_what_is_no_number_any_more_meets_no_budget_of_what_is_kept(broken_from):
    """An infinite loss is that of accuracies that are NaN; below it nothing is lost."""
    known = {}
    lost = budget.solve_steps(lambda scale: math.inf if scale > broken_from else 0.0, 0.04, 4.0, known)
    assert lost is None and len(known) <= budget.MOST_STEPS
    scale = budget.solve_steps(lambda scale: math.inf if scale > 3.9 else 0.05 * (scale >= 1.2), 0.04, 4.0, {})
    assert 1.2 <= scale <= 1.2 * 1.02


def test_the_smallest_known_factor_is_taken():
    """Above 2 the curve falls through the budget again."""
    assert budget.solve(lambda scale: 0.01 * scale * (4 - scale), 0.03, 4.0, {}) == pytest.approx(1, rel=0.05)
