"""Gradient methods against a plain loop: whole model, one text at a time, no padding, torch's own AdamW."""

import dataclasses
import json
import math
import os
import subprocess
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2Model

from spunge import methods
from spunge.core.errors import InputError
from spunge.methods import gradient_ascent, gradient_difference, npo, random_vector, simnpo, tvn
from spunge.models import base_model, task_vector
from spunge.training import loop

ROOT = Path(__file__).parents[2]
SMALL = {"steps": 3, "batch_size": 3, "learning_rate": 1e-3, "max_tokens_forget": 24, "max_tokens_retain": 20}
PLACES = ["Kenya", "Japan", "France", "Ghana", "Peru"]
FORGET = [f"the capital of {place}" + " is Nairobi" * (3 * row % 7) for row, place in enumerate(PLACES)]
RETAIN = [f"in the {place} morning a river runs" + " past old houses" * (row % 3) for row, place in enumerate(PLACES)]
DOWN = r"model\.layers\.(1|2)\.mlp\.down_proj\.weight"
DOWN_NAMES = ["model.layers.1.mlp.down_proj.weight", "model.layers.2.mlp.down_proj.weight"]


def run_of(base, forget=FORGET, retain=RETAIN, seed=0, **others):
    return methods.Run(base, list(forget), list(retain), seed, "cpu", **others)


def unlearn(base, method=tvn, forget=FORGET, retain=RETAIN, seed=0, **changes):
    return method.unlearn(run_of(base, forget, retain, seed), method.Options(**{**SMALL, **changes}))


def same(found, expected, learning_rate=SMALL["learning_rate"]):
    """Adam's steps are as large as the learning rate, so that is the scale of differences."""
    assert found.keys() == expected.keys()
    for name, delta in found.items():
        torch.testing.assert_close(delta, expected[name], rtol=1e-3, atol=0.02 * learning_rate, msg=name)


@pytest.fixture
def drawn(monkeypatch):
    """Write down the batches that `train` draws, forget first, so that the plain loop sees the same."""
    kept = []

    def written_down(original):
        def draw(*arguments):
            kept.append(original(*arguments))
            return kept[-1]

        return draw

    for name in ("forget_batches", "retain_batches", "batches_of_rows"):
        monkeypatch.setattr(loop, name, written_down(getattr(loop, name)))
    return kept


def log_probability(model, tokenizer, text, max_tokens):
    """Sum log softmax over a text's tokens but the first: (a scalar with gradients, their number)."""
    tokens = tokenizer(text)["input_ids"][:max_tokens]
    found = torch.log_softmax(model(torch.tensor([tokens])).logits[0].double(), dim=-1)
    return sum(found[position, token] for position, token in enumerate(tokens[1:])), len(tokens) - 1


def plain_forget_loss(method, texts, reference, chosen):
    """The papers' formulas over a batch of (log π, |y|)."""
    nll = -sum(one for one, _ in texts) / sum(count for _, count in texts)
    if method in (gradient_ascent, gradient_difference):
        return -nll
    if method is npo:
        ratios = [one - before for (one, _), before in zip(texts, reference, strict=True)]
        return sum(-2 / chosen.beta * torch.log(torch.sigmoid(-chosen.beta * one)) for one in ratios) / len(texts)
    if method is simnpo:
        inner = [-chosen.beta / count * one - chosen.gamma for one, count in texts]
        return sum(-2 / chosen.beta * torch.log(torch.sigmoid(one)) for one in inner) / len(texts)
    return nll


def plain_training(base, model, method, chosen, batches, stages=((0, 0),)):
    """Train `model` in place over given batches; returns the losses of every step.

    Each of the stages, (first step from 0, steps of its warm-up), has an optimizer of its own.
    """
    tokenizer, reference_model = base_model.load_tokenizer(base), base_model.load(base, torch.float32, "cpu")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    losses, stages = [], dict(stages)
    for step, (forget_rows, *retain_rows) in enumerate(zip(*batches, strict=True)):
        if step in stages:
            optimizer = torch.optim.AdamW(trained, lr=chosen.learning_rate, weight_decay=chosen.weight_decay)
            first = step
        texts = [log_probability(model, tokenizer, FORGET[row], chosen.max_tokens_forget) for row in forget_rows]
        with torch.no_grad():
            reference = [
                log_probability(reference_model, tokenizer, FORGET[row], chosen.max_tokens_forget)[0]
                for row in forget_rows
            ]
        found = {"forget_loss": plain_forget_loss(method, texts, reference, chosen)}
        loss = found["forget_loss"]
        if retain_rows:
            texts = [log_probability(model, tokenizer, RETAIN[row], chosen.max_tokens_retain) for row in retain_rows[0]]
            found["retain_loss"] = -sum(one for one, _ in texts) / sum(count for _, count in texts)
            loss = loss + chosen.retain_weight * found["retain_loss"]
        optimizer.zero_grad()
        loss.backward()
        if chosen.max_gradient_norm:
            torch.nn.utils.clip_grad_norm_(trained, chosen.max_gradient_norm)
        for group in optimizer.param_groups:
            group["lr"] = chosen.learning_rate * min(1.0, (step - first + 1) / max(1, stages[first]))
        optimizer.step()
        losses.append({name: value.item() for name, value in found.items()})
    return losses


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        pytest.param(tvn, {}, id="tvn"),
        pytest.param(gradient_ascent, {}, id="gradient ascent"),
        pytest.param(gradient_difference, {"retain_weight": 2.0}, id="gradient difference"),
        pytest.param(npo, {"retain_weight": 0.0}, id="npo"),
        pytest.param(npo, {"beta": 0.5}, id="npo with retain loss"),
        pytest.param(simnpo, {"retain_weight": 0.5}, id="simnpo"),
        pytest.param(simnpo, {"beta": 0.7, "gamma": 0.2}, id="simnpo with a margin"),
        pytest.param(tvn, {"weight_decay": 0.5, "warmup_steps": 2, "max_gradient_norm": 0.3}, id="AdamW's own options"),
    ],
)
def test_losses_and_weights_equal_the_plain_loop(tiny_base, drawn, method, changes):
    found = unlearn(tiny_base, method, **changes)
    model, before = (base_model.load(tiny_base, torch.float32, "cpu") for _ in range(2))
    chosen = method.Options(**{**SMALL, **changes})
    losses = plain_training(tiny_base, model, method, chosen, drawn, [(0, chosen.warmup_steps)])
    assert [row.pop("step") for row in found.losses] == [1, 2, 3]
    for row, expected in zip(found.losses, losses, strict=True):
        assert row == pytest.approx(expected, rel=1e-4)
    sign = -1 if method is tvn else 1
    before = dict(before.named_parameters())  # tied weights once
    assert all(delta.dtype == torch.float32 for delta in found.delta.values())
    same(found.delta, {name: sign * (now.detach() - before[name]) for name, now in model.named_parameters()})


ATTRIBUTES = ["b", "a", "b", "b", "a"]


def test_shards_one_after_another_equal_separate_runs_each_from_the_last_ones_weights(tiny_base, drawn):
    """NPO on 3 steps of `a`, then 3 of `b`: a new optimizer and warm-up of 2 for each; π_ref stays the base model."""
    chosen = npo.Options(**{**SMALL, "steps": 6, "warmup_steps": 4, "weight_decay": 0.1})
    found = npo.unlearn(run_of(tiny_base, split="sequential", attributes=ATTRIBUTES), chosen)
    assert [{ATTRIBUTES[row] for row in rows} for rows in drawn[0]] == [{"a"}] * 3 + [{"b"}] * 3
    model, before = (base_model.load(tiny_base, torch.float32, "cpu") for _ in range(2))
    losses = plain_training(tiny_base, model, npo, chosen, drawn, [(0, 2), (3, 2)])
    for row, expected in zip(found.losses, losses, strict=True):
        assert row["forget_loss"] == pytest.approx(expected["forget_loss"], rel=1e-4)
    before = dict(before.named_parameters())
    same(found.delta, {name: now.detach() - before[name] for name, now in model.named_parameters()})
    assert found.visits == {"a": 9, "b": 9}


@pytest.mark.parametrize("split", ["balanced", "sequential"])
def test_a_loss_of_other_texts_has_no_order_of_attributes(tiny_base, split):
    with pytest.raises(InputError, match=f"no loss is of `run.forget`, whose attributes order .* the split {split}"):
        tvn.unlearn(run_of(tiny_base, split=split, attributes=ATTRIBUTES), tvn.Options(**SMALL, texts="retain"))


def test_nll_is_the_loss_that_transformers_computes(tiny_base):
    found = unlearn(tiny_base, forget=FORGET[:1], steps=1, batch_size=1, max_tokens_forget=200).losses[0]
    tokens = base_model.load_tokenizer(tiny_base)(FORGET[0], return_tensors="pt")["input_ids"]
    loss = base_model.load(tiny_base, torch.float32, "cpu")(tokens, labels=tokens).loss
    assert found["forget_loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_texts_count_by_their_tokens_and_padding_does_not(tiny_base):
    short, long = "the capital of Fiji", "the market of Oman" + " and a river" * 12
    lengths = [len(tokens) - 1 for tokens in base_model.load_tokenizer(tiny_base)([short, long])["input_ids"]]
    chosen = {"steps": 1, "batch_size": 1, "max_tokens_forget": 200}
    alone = [unlearn(tiny_base, forget=[text], **chosen).losses[0]["forget_loss"] for text in (short, long)]
    together = unlearn(tiny_base, forget=[short, long], **{**chosen, "batch_size": 2}).losses[0]["forget_loss"]
    expected = sum(loss * length for loss, length in zip(alone, lengths, strict=True)) / sum(lengths)
    assert lengths[1] > 5 * lengths[0]
    assert together == pytest.approx(expected, rel=1e-5)


def test_padding_in_one_pass_changes_nothing(tiny_base, monkeypatch):
    grouped = unlearn(tiny_base, npo)
    monkeypatch.setattr(loop, "by_length", lambda rows, tokens: [rows])
    same(unlearn(tiny_base, npo).delta, grouped.delta)


@pytest.mark.parametrize("method", [gradient_difference, npo])
def test_accumulation_changes_nothing(tiny_base, method):
    whole = unlearn(tiny_base, method, batch_size=5, steps=2)
    parts = unlearn(tiny_base, method, batch_size=5, steps=2, accumulation=3)
    assert parts.losses[1] == pytest.approx(whole.losses[1], rel=1e-4)
    same(parts.delta, whole.delta)


def test_gradient_checkpointing_changes_nothing(tiny_base):
    for trained in ("all", "lora"):
        chosen = {"trained": trained, "steps": 2}
        same(unlearn(tiny_base, gradient_checkpointing=True, **chosen).delta, unlearn(tiny_base, **chosen).delta)


@pytest.mark.parametrize("trained", ["all", "lora"])
def test_same_seed_gives_the_same_bits_and_another_seed_other_ones(tiny_base, trained):
    results = []
    for number, seed in enumerate((3, 3, 4)):
        torch.rand(number)  # the global generator's state must not matter
        results.append(unlearn(tiny_base, seed=seed, trained=trained).delta)
    first, again, other = results
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


# What is trained


def test_pattern_trains_exactly_what_it_matches(tiny_base, drawn):
    found = unlearn(tiny_base, gradient_ascent, trained=DOWN)
    assert list(found.delta) == DOWN_NAMES
    model = base_model.load(tiny_base, torch.float32, "cpu").requires_grad_(False)
    before = {name: model.get_parameter(name).clone() for name in DOWN_NAMES}
    for name in DOWN_NAMES:
        model.get_parameter(name).requires_grad_(True)
    plain_training(tiny_base, model, gradient_ascent, gradient_ascent.Options(**SMALL), drawn)
    same(found.delta, {name: model.get_parameter(name).detach() - before[name] for name in DOWN_NAMES})


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("mlp.down_proj.weight", "`trained: mlp.down_proj.weight` matches no parameter of .*; it has model.embed_tok"),
        ("(", r"`trained: \(` is no regular expression: "),
    ],
)
def test_pattern_that_names_nothing_is_refused(tiny_base, pattern, message):
    with pytest.raises(InputError, match=message):
        unlearn(tiny_base, trained=pattern)


def test_tied_weights_appear_once_under_the_name_in_the_files(tiny_base):
    files = task_vector.TensorFolder(tiny_base.folder)
    assert "lm_head.weight" not in files
    for pattern in (r"model\.embed_tokens\.weight", r"lm_head\.weight"):
        assert list(unlearn(tiny_base, trained=pattern, steps=1).delta) == ["model.embed_tokens.weight"]


def test_names_that_the_files_have_without_their_prefix_are_found(tiny_folder, tmp_path):
    tokenizer = base_model.load_tokenizer(base_model.prepare(str(tiny_folder), tmp_path / "tiny"))
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=64, resid_pdrop=0.0)
    GPT2Model(config).save_pretrained(tmp_path / "gpt2")  # wte.weight, in a causal model transformer.wte.weight
    tokenizer.save_pretrained(tmp_path / "gpt2")
    base = base_model.prepare(str(tmp_path / "gpt2"), tmp_path / "base")
    found = unlearn(base, gradient_ascent, trained=r".*h\.1\.mlp\.c_proj\.weight", steps=1)
    assert list(found.delta) == ["h.1.mlp.c_proj.weight"]
    methods.write(found, tmp_path / "v.safetensors", {"base": base.identity})
    before, after = (
        base_model.load(base, torch.float32, "cpu", vector).transformer.h[1].mlp.c_proj.weight
        for vector in (None, task_vector.read(tmp_path / "v.safetensors"))
    )
    assert 0 < (after - before).abs().max() < 2 * SMALL["learning_rate"]


def test_half_precision_forward_keeps_trained_weights_in_full(tiny_base):
    for trained in ("all", DOWN):
        chosen = {"trained": trained, "dtype": "bfloat16"}
        rounded, exact = unlearn(tiny_base, **chosen), unlearn(tiny_base, trained=trained)
        for found, expected in zip(rounded.losses, exact.losses, strict=True):
            assert found["forget_loss"] == pytest.approx(expected["forget_loss"], rel=0.02)
            assert found["forget_loss"] != expected["forget_loss"]
        tiny_steps = unlearn(tiny_base, learning_rate=1e-7, **chosen).delta  # bf16 could not add these
        assert all(delta.dtype == torch.float32 for delta in tiny_steps.values())
        assert all((tiny_steps[name] != 0).float().mean() > 0.9 for name in DOWN_NAMES)
        # Less than fp32 can add: what is left would be the rounding of the base model.
        assert all(not delta.any() for delta in unlearn(tiny_base, learning_rate=1e-20, **chosen).delta.values())


# LoRA


def test_an_adapters_dropout_is_at_work_in_training_alone(tiny_base):
    lora = {"trained": "lora", "lora_rank": 3, "lora_alpha": 6, "lora_targets": ("down_proj",), "steps": 1}
    plainly, with_dropout = (unlearn(tiny_base, npo, lora_dropout=share, **lora) for share in (0.0, 0.5))
    [after] = {name for name in plainly.delta if name.endswith("layers.0.mlp.down_proj.lora_B.weight")}
    assert not torch.allclose(plainly.delta[after], with_dropout.delta[after], rtol=1e-3, atol=1e-4)
    # The reference model, by which NPO measures, has none: at first each text is as likely as before.
    assert plainly.losses[0]["forget_loss"] == pytest.approx(with_dropout.losses[0]["forget_loss"], rel=1e-6)


@pytest.mark.parametrize("method", [tvn, simnpo])
def test_lora_is_what_peft_trains_and_merges(tiny_base, drawn, tmp_path, method):
    chosen = {"trained": "lora", "lora_rank": 3, "lora_alpha": 6, "lora_targets": ("q_proj", "down_proj")}
    found = unlearn(tiny_base, method, **chosen)
    torch.manual_seed(0)
    model = base_model.load(tiny_base, torch.float32, "cpu")
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    lora = peft.LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, lora)
    plain_training(tiny_base, model, method, method.Options(**SMALL), drawn)
    merged = dict(model.merge_and_unload().named_parameters())

    path = tmp_path / "vector.safetensors"
    methods.write(found, path, task_vector.make_provenance(tiny_base))
    vector = task_vector.read(path)
    assert {name for name in before if not torch.equal(before[name], merged[name])} == set(vector)
    sign = -1 if method is tvn else 1
    expected = {name: sign * (merged[name].detach() - before[name]) for name in vector}
    assert vector.shapes == {name: delta.shape for name, delta in expected.items()}
    for name, delta in expected.items():
        torch.testing.assert_close(vector[name], delta, rtol=1e-2, atol=0.01 * delta.abs().max().item())


def test_peft_reads_what_lora_training_returns(tiny_base, tmp_path):
    found = unlearn(tiny_base, trained="lora", lora_dropout=0.1)
    assert found.adapter["base_model_name_or_path"] == tiny_base.source
    assert str(tiny_base.folder) not in json.dumps(found.adapter)
    path = tmp_path / "adapter_model.safetensors"
    methods.write(found, path, task_vector.make_provenance(tiny_base))
    (tmp_path / "adapter_config.json").write_text(json.dumps(found.adapter))
    model = base_model.load(tiny_base, torch.float32, "cpu")
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    merged = dict(peft.PeftModel.from_pretrained(model, tmp_path).merge_and_unload().named_parameters())
    vector = task_vector.read(path)
    linear = {name for name, one in before.items() if one.dim() == 2 and "layers" in name}
    assert set(vector) == linear  # all-linear, without the output layer
    same(dict(vector), {name: merged[name] - before[name] for name in linear})


def test_negated_lora_changes_the_sign_of_b_alone(tiny_base):
    negated = unlearn(tiny_base, tvn, trained="lora")
    ascent = loop.train(
        run_of(tiny_base),
        tvn.Options(**SMALL, trained="lora"),
        [loop.LossTerm("forget", FORGET, SMALL["max_tokens_forget"], loop.token_nll, reduction="tokens")],
    )
    for name, factor in negated.delta.items():
        assert torch.equal(factor, -ascent.delta[name] if "lora_B" in name else ascent.delta[name])


def test_lora_target_that_is_not_there_is_refused(tiny_base):
    with pytest.raises(InputError, match=r"lora_targets \('c_attn',\) in .*, whose linear layers are .*q_proj.*"):
        unlearn(tiny_base, trained="lora", lora_targets=("c_attn",))
    # PEFT alone would train q_proj and say nothing of the other one.
    with pytest.raises(InputError, match=r"whose linear layers are .*q_proj.*: nothing is called v_porj"):
        unlearn(tiny_base, trained="lora", lora_targets=("q_proj", "v_porj"))
    with pytest.raises(InputError, match=r"PEFT can't adapt lora_targets \( in "):
        unlearn(tiny_base, trained="lora", lora_targets="(")


# Losses as rows, and mistakes


def test_losses_of_a_long_run_are_means_over_stretches_of_steps(tiny_base):
    chosen = {"steps": 130, "batch_size": 1, "learning_rate": 1e-9, "trained": DOWN}
    found = unlearn(tiny_base, gradient_difference, FORGET[:1], RETAIN[:1], **chosen).losses
    assert len(found) <= 60
    assert found[-1]["step"] == 130
    alone = unlearn(tiny_base, gradient_difference, FORGET[:1], RETAIN[:1], steps=1, batch_size=1).losses[0]
    for row in found:
        assert row == {"step": row["step"], **{name: pytest.approx(alone[name], rel=1e-4) for name in list(alone)[1:]}}


def test_diverging_loss_names_run_step_and_learning_rate(tiny_base):
    run = run_of(tiny_base, label="tvn/joint/seed0")
    with pytest.raises(
        InputError, match=r"loss of tvn/joint/seed0 is (nan|inf) at step [23] of 3 with learning rate 1e\+30"
    ):
        tvn.unlearn(run, tvn.Options(**{**SMALL, "learning_rate": 1e30}))
    with pytest.raises(InputError, match=r"a weight of tvn/joint/seed0 is not finite at step 1 of 1 with"):
        tvn.unlearn(run, tvn.Options(**{**SMALL, "learning_rate": 1e30, "weight_decay": 1e10, "steps": 1}))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"forget": ["the capital", "of Kenya", "a"]}, r"1 forget texts \(row 2 is one\) have fewer than 2 tokens"),
        ({"retain": ["a", "of Kenya", ""]}, r"2 retain texts \(row 0 is one\) have fewer than 2 tokens"),
        ({"retain": []}, "there are no retain texts for the retain loss"),
    ],
)
def test_texts_that_do_not_do_are_refused(tiny_base, texts, message):
    with pytest.raises(InputError, match=message):
        unlearn(tiny_base, npo, **texts)


def test_options_that_do_not_do_are_refused(tiny_base):
    with pytest.raises(InputError, match="3 texts a step can't be divided into 4 micro-batches"):
        unlearn(tiny_base, accumulation=4)
    with pytest.raises(InputError, match="training in float16 needs a GPU"):
        unlearn(tiny_base, dtype="float16")
    with pytest.raises(InputError, match="tvn's texts is 'both': input should be 'forget' or 'retain'"):
        tvn.Options(texts="both")


def test_without_a_retain_loss_no_retain_texts_are_needed(tiny_base):
    assert "retain_loss" not in unlearn(tiny_base, npo, retain=[], retain_weight=0.0, steps=1).losses[0]


# Controls


def test_control_texts_differ_between_shards_and_seeds(tiny_base, drawn):
    retain = [f"{number} people meet in the market" for number in range(40)]
    draws = [
        tvn.control_texts(run_of(tiny_base, forget, retain, seed))
        for forget, seed in ((FORGET, 0), (FORGET, 0), (FORGET[::-1], 0), (FORGET, 1))
    ]
    assert draws[0] == draws[1]
    assert len({tuple(one) for one in draws}) == 3
    assert all(len(set(one)) == len(FORGET) and set(one) < set(retain) for one in draws)
    assert sorted(tvn.control_texts(run_of(tiny_base, FORGET, RETAIN[:2]))) == sorted(RETAIN[:2])
    chosen = {"max_tokens_forget": SMALL["max_tokens_retain"]}
    control = unlearn(tiny_base, tvn, FORGET, retain, texts="retain", steps=1)
    same(control.delta, unlearn(tiny_base, tvn, draws[0], retain, steps=1, **chosen).delta)


@pytest.fixture
def vector(tiny_base, tmp_path):
    path = tmp_path / "like.safetensors"
    shapes = {"model.layers.0.mlp.down_proj.weight": (32, 64), "model.norm.weight": (32,), "zero": (3, 2)}
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()} | {"zero": torch.zeros(3, 2)}
    task_vector.write(path, shapes, tensors.items(), task_vector.make_provenance(tiny_base))
    return task_vector.read(path)


def test_random_vector_has_the_norms_of_the_other_one_and_nothing_else(tiny_base, vector, tmp_path):
    def control(seed=0, shard="all"):
        run = run_of(tiny_base, seed=seed, norms_of=vector, shard=shard)
        found = random_vector.unlearn(run, random_vector.Options())
        path = tmp_path / "random.safetensors"
        methods.write(found, path, task_vector.make_provenance(tiny_base))
        return dict(task_vector.read(path))

    first = control()
    assert first.keys() == set(vector)
    for name, drawn in first.items():
        assert drawn.double().norm().item() == pytest.approx(vector[name].double().norm().item(), rel=1e-6)
    matrix = first["model.layers.0.mlp.down_proj.weight"] / vector["model.layers.0.mlp.down_proj.weight"].norm()
    assert matrix.mean().item() == pytest.approx(0, abs=4 / math.sqrt(2048) / math.sqrt(2048))
    assert (matrix.abs() * math.sqrt(2048) < 1).float().mean().item() == pytest.approx(0.683, abs=0.05)  # Gaussian
    for other, equal in ((control(), True), (control(seed=1), False), (control(shard="Africa"), False)):
        assert torch.equal(first["model.norm.weight"], other["model.norm.weight"]) == equal


def test_random_vector_without_another_run_is_refused(tiny_base, vector, tmp_path):
    with pytest.raises(InputError, match="give random_vector `norms_of: METHOD`"):
        random_vector.unlearn(run_of(tiny_base), random_vector.Options())
    other = dataclasses.replace(tiny_base, identity="0" * 64)
    with pytest.raises(InputError, match="random_vector is to be like was made from base model"):
        random_vector.unlearn(run_of(other, norms_of=vector), random_vector.Options())


# Several processes

PROFILE = ROOT / "profiles" / "accelerate" / "fsdp.yaml"
LAUNCHED = """
import json, sys
from spunge import methods; from spunge.models import task_vector
name, folder, given, forget, retain, output, device = sys.argv[1:]
run = methods.Run(task_vector.BaseModel.open(folder), json.loads(forget), json.loads(retain), 0, device)
module = methods.load(name)
unlearned = module.unlearn(run, methods.options(module, json.loads(given)))
if unlearned is not None:
    methods.write(unlearned, output, task_vector.make_provenance(run.base))
    print(json.dumps(unlearned.losses))
else:
    print("no result")
"""
# Accelerate shards on GPUs only; here it takes two CPUs for two of them.
AS_ON_GPUS = """
import torch
from accelerate.state import DistributedType, PartialState
PartialState._prepare_backend = lambda self, *given: ("gloo", DistributedType.MULTI_GPU)
PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
"""


# What `accelerate launch` does for GPUs; for CPUs it starts more than one process with MPI alone.
UNSHARDED = ["--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]


def in_two_processes(python, base, tmp_path, method, changes, settings=UNSHARDED, script=LAUNCHED, device="cpu"):
    """Unlearn in two processes: (losses, {name: tensor} as written)."""
    (tmp_path / "launched.py").write_text(script)
    output = tmp_path / "vector.safetensors"
    launch = [python, "-m", "accelerate.commands.launch", "--num_processes", "2", "--main_process_port", "0"]
    arguments = [json.dumps(one) for one in ({**SMALL, **changes}, FORGET, RETAIN)]
    name = method.__name__.rpartition(".")[2]
    done = subprocess.run(
        [*launch, *settings, tmp_path / "launched.py", name, base.folder, *arguments, output, device],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert lines.count("no result") == 1
    return json.loads(next(line for line in lines if line.startswith("[{"))), load_file(output)


def equal(losses, tensors, alone):
    # Adam hides a common factor on all gradients; it shows where only the first steps are clipped (norms 133, 89, 19).
    for found, expected in zip(losses, alone.losses, strict=True):
        assert found == pytest.approx(expected, rel=1e-4)
    same(tensors, alone.delta)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "changes"),
    [
        pytest.param(gradient_difference, {"batch_size": 5}, id="all weights"),
        pytest.param(npo, {"accumulation": 2, "max_gradient_norm": 60}, id="a process without texts in a micro-batch"),
        pytest.param(simnpo, {"trained": "lora"}, id="LoRA"),
    ],
)
def test_two_processes_give_what_one_gives(quick_python, tiny_base, tmp_path, method, changes):
    equal(*in_two_processes(quick_python, tiny_base, tmp_path, method, changes), unlearn(tiny_base, method, **changes))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "changes"),
    [
        pytest.param(npo, {"accumulation": 2, "max_gradient_norm": 60}, id="all weights"),
        pytest.param(tvn, {"trained": "lora", "gradient_checkpointing": True}, id="LoRA"),
    ],
)
def test_sharded_weights_give_what_whole_ones_give(quick_python, tiny_base, tmp_path, method, changes):
    settings = ["--config_file", PROFILE]  # its 8 processes and bf16 give way to the test's
    script = AS_ON_GPUS + LAUNCHED
    found = in_two_processes(quick_python, tiny_base, tmp_path, method, changes, settings, script, "cuda")
    equal(*found, unlearn(tiny_base, method, **changes))


def test_step_that_overflowed_is_made_again(tiny_base, monkeypatch):
    """A loss scaled beyond fp32 overflows as float16 does; a power of two changes no other bit."""
    original = loop._accelerator

    def scaled(device, dtype):
        accelerator = original(device, dtype)
        accelerator.scaler = torch.amp.GradScaler(device, init_scale=2.0**127)
        return accelerator

    exact = unlearn(tiny_base)
    monkeypatch.setattr(loop, "_accelerator", scaled)
    found = unlearn(tiny_base)
    assert found.losses == exact.losses
    assert all(torch.equal(delta, exact.delta[name]) for name, delta in found.delta.items())


def test_gradient_that_overflows_at_any_scale_is_refused(tiny_base, monkeypatch):
    original = loop._accelerator

    def scaled(device, dtype):
        accelerator = original(device, dtype)
        accelerator.scaler = torch.amp.GradScaler(device, init_scale=1.0)
        return accelerator

    class Infinite(torch.autograd.Function):
        @staticmethod
        def forward(context, values):
            return values.clone()

        @staticmethod
        def backward(context, gradients):
            return gradients * torch.inf

    monkeypatch.setattr(loop, "_accelerator", scaled)
    monkeypatch.setattr(loop, "token_nll", lambda *given: Infinite.apply(-given[0] / given[1]))
    with pytest.raises(InputError, match="a gradient of unlearn is not finite at step 1 of 3"):
        unlearn(tiny_base, gradient_difference)


def test_control_texts_are_cut_as_retain_texts(tiny_base):
    retain = [text + " past old houses" * 9 for text in FORGET]
    cut = {"max_tokens_forget": 12, "max_tokens_retain": 6, "steps": 1, "batch_size": 5}
    found = unlearn(tiny_base, tvn, FORGET, retain, texts="retain", **cut).losses
    assert found == unlearn(tiny_base, tvn, FORGET, retain, texts="retain", **cut | {"max_tokens_forget": 6}).losses
