"""RMU against a plain implementation: two whole models, every layer, hooks, padding and masks, no caches."""

import dataclasses

import pytest
import torch

from spunge import methods
from spunge.core.errors import InputError
from spunge.core.files import sha256
from spunge.methods import rmu
from spunge.models import base_model, task_vector
from spunge.training.batches import LENGTH_RATIO

OPTIONS = rmu.Options(
    steps=8,
    layer_id=2,
    trained_layers=(1, 2),
    alpha=5.0,
    steering_coefficient=6.5,
    learning_rate=1e-2,
    weight_decay=0.01,
    epsilon=1e-8,
    adamw="pytorch",
    batch_size=4,
    max_tokens_forget=24,
    max_tokens_retain=24,
    mask=True,
    skip_first=1,
    control_vector_per="run",
    alternate_attributes=False,
)
REFERENCE = dataclasses.replace(
    OPTIONS, mask=False, skip_first=0, control_vector_per="attribute", alternate_attributes=True
)
NAMES = ["model.layers.1.mlp.down_proj.weight", "model.layers.2.mlp.down_proj.weight"]
PLACES = ["Kenya", "Japan", "France", "Ghana", "Peru", "Fiji", "Oman", "Chad", "Togo", "Mali"]
ATTRIBUTES = ["a", "b", "c"]
FORGET = [f"the capital of {place}" + " is Nairobi" * (row % 4) for row, place in enumerate(PLACES[:7])]
RETAIN = [f"in the {place} morning a river runs" + " past old houses" * (row % 3) for row, place in enumerate(PLACES)]


def options(start=OPTIONS, **changes):
    return dataclasses.replace(start, **changes)


def reference(**changes):
    return options(REFERENCE, **changes)


def mixed(texts):
    """Topics for these texts, unevenly spread; the first in the experiment's order comes last."""
    return ["bcba"[row % 4] for row in range(len(texts))]


def unlearn(base, chosen=OPTIONS, forget=FORGET, retain=RETAIN, seed=0, **others):
    return rmu.unlearn(methods.Run(base, forget, retain, seed, "cpu", **others), chosen)


class AuthorsAdamW(torch.optim.Optimizer):
    """AdamW as the transformers library had it, without weight decay."""

    def __init__(self, parameters, lr, weight_decay, eps):
        assert weight_decay == 0
        super().__init__(parameters, {"lr": lr, "eps": eps})
        self.step_number = 0

    @torch.no_grad()
    def step(self):
        self.step_number += 1
        for parameter in self.param_groups[0]["params"]:
            moments = self.state[parameter].setdefault("moments", [torch.zeros_like(parameter) for _ in range(2)])
            moments[0].mul_(0.9).add_(parameter.grad, alpha=0.1)
            moments[1].mul_(0.999).addcmul_(parameter.grad, parameter.grad, value=0.001)
            size = self.defaults["lr"] * (1 - 0.999**self.step_number) ** 0.5 / (1 - 0.9**self.step_number)
            parameter.addcdiv_(moments[0], moments[1].sqrt().add_(self.defaults["eps"]), value=-size)


def plain_rmu(base, forget, retain, attributes, chosen, batches, seed=0, anew=()):
    """RMU as its authors run it, over given batches: (losses of every step, {name: weight after the last step}).

    `attributes` are numbers. Before the steps `anew` the optimizer is made anew. The authors' hooks, whole models,
    padding to the longest text and attention masks; padding is on the right, and a batch may mix attributes.
    """
    updated = base_model.load(base, torch.float32, "cpu")
    frozen = base_model.load(base, torch.float32, "cpu")
    tokenizer = base_model.load_tokenizer(base)
    tokenizer.pad_token = tokenizer.eos_token

    def states(model, tokens):
        found = []
        hook = model.model.layers[chosen.layer_id].register_forward_hook(
            lambda module, inputs, output: found.append(output[0] if isinstance(output, tuple) else output)
        )
        model(**tokens, use_cache=False)
        hook.remove()
        return found[0]

    def positions(tokens):
        mask = tokens["attention_mask"].clone() if chosen.mask else torch.ones_like(tokens["attention_mask"])
        mask[:, : chosen.skip_first] = 0
        return mask

    def error(states, target, tokens):
        mask = positions(tokens)
        squares = (states - target).square() * mask[..., None]
        return squares.sum() / (mask.sum() * states.shape[-1])

    def tokenized(rows, texts, limits):
        ids = [tokenizer(texts[row], truncation=True, max_length=limits[row])["input_ids"] for row in rows]
        return tokenizer.pad({"input_ids": ids}, return_tensors="pt")

    def own(values, attribute):
        return [*values, *[values[-1]] * attribute][attribute] if isinstance(values, tuple) else values

    generator = torch.Generator().manual_seed(seed if chosen.control_seed is None else chosen.control_seed)
    drawn = [torch.rand(1, 1, 32, generator=generator) for _ in range(max(attributes) + 1)]
    directions = [
        u / torch.norm(u) for u in (drawn if chosen.control_vector_per == "attribute" else drawn[:1] * len(drawn))
    ]
    coefficients = {}
    limits = [own(chosen.max_tokens_forget, attribute) for attribute in attributes]

    trained = {
        f"model.layers.{number}.{name}": updated.model.layers[number].get_parameter(name)
        for number in chosen.trained_layers
        for name in chosen.trained_parameters
    }
    losses = []
    for step, (forget_rows, retain_rows) in enumerate(batches, start=1):
        if step in (1, *anew):
            kind = {"pytorch": torch.optim.AdamW, "transformers": AuthorsAdamW}[chosen.adamw]
            optimizer = kind(
                trained.values(), lr=chosen.learning_rate, weight_decay=chosen.weight_decay, eps=chosen.epsilon
            )
        in_batch = [attributes[row] for row in forget_rows]
        for attribute in set(in_batch) - coefficients.keys():
            coefficients[attribute] = own(chosen.steering_coefficient, attribute)
            if chosen.adaptive is not None:
                tokens = tokenized([row for row in forget_rows if attributes[row] == attribute], forget, limits)
                mask = positions(tokens)
                norms = torch.sqrt((states(updated, tokens) ** 2).sum(-1)) * mask
                coefficients[attribute] = chosen.adaptive * (norms.sum() / mask.sum()).item()
        tokens = tokenized(forget_rows, forget, limits)
        control = torch.cat([coefficients[attribute] * directions[attribute] for attribute in in_batch])
        forget_loss = error(states(updated, tokens), control, tokens)
        tokens = tokenized(retain_rows, retain, [chosen.max_tokens_retain] * len(retain))
        with torch.no_grad():
            target = states(frozen, tokens)
        retain_loss = error(states(updated, tokens), target, tokens)
        alpha = sum(own(chosen.alpha, attribute) for attribute in in_batch) / len(in_batch)
        updated.zero_grad()
        (forget_loss + alpha * retain_loss).backward()
        optimizer.step()
        losses.append((forget_loss.item(), retain_loss.item()))
    return losses, {name: parameter.detach() for name, parameter in trained.items()}


@pytest.fixture
def drawn(monkeypatch):
    """Write down the batches that `unlearn` draws, forget first, so that the plain implementation sees the same."""
    kept = {}

    def written_down(name):
        original = getattr(rmu, name)

        def draw(*arguments, **others):
            kept[name] = original(*arguments, **others)
            return kept[name]

        monkeypatch.setattr(rmu, name, draw)

    for name in ("forget_batches", "retain_batches"):
        written_down(name)
    return lambda: zip(kept["forget_batches"], kept["retain_batches"], strict=True)


MANY = [
    f"the {row} people meet in the market of {PLACES[row % 10]}" + " and old houses" * (row % 5) for row in range(40)
]


BOTH = ("mlp.down_proj.weight", "self_attn.o_proj.weight")
CASES = {
    "several passes over both": (OPTIONS, FORGET, RETAIN),
    "retain texts seen once": (OPTIONS, FORGET, MANY),
    "forget texts seen once": (OPTIONS, MANY, RETAIN),
    "first and a middle layer trained": (options(trained_layers=(0, 2), layer_id=3), FORGET, RETAIN),
    "first position counts": (options(trained_layers=(2,), batch_size=3, skip_first=0), FORGET, RETAIN),
    "cut": (
        options(trained_parameters=("self_attn.o_proj.weight",), skip_first=3, max_tokens_forget=6),
        FORGET,
        RETAIN,
    ),
    "several parameters": (options(trained_parameters=BOTH), FORGET, RETAIN),
    "the authors'": (REFERENCE, FORGET, RETAIN),
    "the authors', texts seen once": (reference(steps=6), MANY, MANY),
    "the authors' optimizer": (reference(weight_decay=0.0, epsilon=1e-3, adamw="transformers"), FORGET, RETAIN),
    "pads count, one attribute": (reference(control_vector_per="run", alternate_attributes=False), FORGET, RETAIN),
    "pads count, mixed batches": (reference(alternate_attributes=False, trained_parameters=BOTH), FORGET, RETAIN),
    "attributes in turn, masked": (reference(mask=True, skip_first=2), FORGET, RETAIN),
    "values per attribute": (
        reference(alpha=(2.0, 9.0), steering_coefficient=(3.0, 12.0, 6.0), max_tokens_forget=(5, 9)),
        FORGET,
        RETAIN,
    ),
    "values per attribute, mixed batches": (
        options(
            alpha=(2.0, 9.0), steering_coefficient=(3.0, 12.0), max_tokens_forget=(5, 9), control_vector_per="attribute"
        ),
        FORGET,
        RETAIN,
    ),
    "one vector, norms per attribute": (
        reference(control_vector_per="run", steering_coefficient=(3.0, 12.0)),
        FORGET,
        RETAIN,
    ),
    "adaptive": (reference(adaptive=5.0), FORGET, RETAIN),
    "adaptive, masked, mixed batches": (
        options(adaptive=0.5, control_vector_per="attribute", control_seed=4),
        FORGET,
        RETAIN,
    ),
    "more attributes than steps": (reference(steps=2), FORGET, RETAIN),
}


@pytest.mark.parametrize(("chosen", "forget", "retain"), CASES.values(), ids=CASES.keys())
def test_losses_and_weights_equal_the_plain_implementation(tiny_base, drawn, chosen, forget, retain):
    attributes = mixed(forget)
    found = unlearn(tiny_base, chosen, forget, retain, attributes=attributes, all_attributes=ATTRIBUTES)
    numbers = [ATTRIBUTES.index(attribute) for attribute in attributes]
    losses, weights = plain_rmu(tiny_base, forget, retain, numbers, chosen, drawn())
    assert len(losses) == chosen.steps
    assert [row["step"] for row in found.losses] == list(range(1, chosen.steps + 1))
    for row, (forget_loss, retain_loss) in zip(found.losses, losses, strict=True):
        assert row["forget_loss"] == pytest.approx(forget_loss, rel=1e-4)
        assert row["retain_loss"] == pytest.approx(retain_loss, rel=1e-4, abs=1e-9)
    original = base_model.load(tiny_base, torch.float32, "cpu").state_dict()
    assert found.delta.keys() == weights.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(
            original[name] + found.delta[name], weight, rtol=1e-4, atol=1e-3 * chosen.learning_rate
        )
        assert not torch.equal(weight, original[name])


def test_pads_that_count_are_end_of_text_tokens(tiny_base, drawn, monkeypatch):
    original = base_model.load_tokenizer

    def with_another_end(base):
        tokenizer = original(base)
        tokenizer.eos_token = "s"  # the tiny model's own is token 0
        return tokenizer

    monkeypatch.setattr(base_model, "load_tokenizer", with_another_end)
    found = unlearn(tiny_base, reference(steps=2)).losses
    losses, _ = plain_rmu(tiny_base, FORGET, RETAIN, [0] * len(FORGET), reference(steps=2), drawn())
    assert [row["forget_loss"] for row in found] == pytest.approx([one for one, _ in losses], rel=1e-5)
    assert original(tiny_base).convert_tokens_to_ids("s") != 0


def test_without_an_end_of_text_token_only_masked_pads_will_do(tiny_base, monkeypatch):
    original = base_model.load_tokenizer

    def without_an_end(base):
        tokenizer = original(base)
        tokenizer.eos_token = None
        return tokenizer

    expected = unlearn(tiny_base)
    monkeypatch.setattr(base_model, "load_tokenizer", without_an_end)
    assert unlearn(tiny_base).losses == expected.losses
    with pytest.raises(InputError, match=r"end-of-text token, which the tokenizer of .* has not: set `mask: true`"):
        unlearn(tiny_base, REFERENCE)


def test_texts_are_enough_and_different_enough_for_the_comparison(tokenizer):
    for texts in (FORGET, RETAIN, MANY):
        lengths = [len(tokens) for tokens in tokenizer(texts)["input_ids"]]
        assert max(lengths) > LENGTH_RATIO * min(lengths)
    assert OPTIONS.steps * OPTIONS.batch_size > 2 * len(RETAIN)
    assert OPTIONS.steps * OPTIONS.batch_size < len(MANY)
    assert (
        min(mixed(MANY).count(attribute) for attribute in ATTRIBUTES) >= 2 * OPTIONS.batch_size
    )  # 6 steps see each text once


def test_unlearning_moves_forget_states_to_the_control_vector_and_holds_the_retain_states(tiny_base):
    losses = unlearn(tiny_base, options(steps=50, alpha=1.0)).losses
    assert losses[-1]["forget_loss"] < 0.7 * losses[0]["forget_loss"]
    held = unlearn(tiny_base, options(steps=50, alpha=1000.0)).losses
    assert held[-1]["retain_loss"] < 0.5 * losses[-1]["retain_loss"]


def test_only_the_named_parameters_change(tiny_base):
    before = {name: sha256(tiny_base.folder / name) for name in tiny_base.weight_files}
    found = unlearn(tiny_base)
    assert list(found.delta) == NAMES
    assert all(delta.dtype == torch.float32 and delta.shape == (32, 64) for delta in found.delta.values())
    assert {name: sha256(tiny_base.folder / name) for name in tiny_base.weight_files} == before


def test_same_seed_gives_the_same_bytes_and_another_seed_other_ones(tiny_base, tmp_path):
    hashes = []
    for number, seed in enumerate((3, 3, 4)):
        torch.rand(number)  # the global generator's state must not matter
        delta = unlearn(tiny_base, seed=seed).delta
        path = tmp_path / f"{number}.safetensors"
        task_vector.write(path, {name: one.shape for name, one in delta.items()}, delta.items(), {"seed": "same"})
        hashes.append(sha256(path))
    assert hashes[0] == hashes[1] != hashes[2]


def test_first_losses_worked_out_text_by_text_without_padding(tiny_base, model, tokenizer):
    chosen = options(steps=1, batch_size=len(FORGET))
    found = unlearn(tiny_base, chosen, FORGET, FORGET).losses[0]
    control = rmu.control_vector(32, chosen.steering_coefficient, 0)
    squares, count = 0.0, 0
    for text in FORGET:
        tokens = torch.tensor([tokenizer(text)["input_ids"][: chosen.max_tokens_forget]])
        with torch.no_grad():
            states = model(tokens, output_hidden_states=True).hidden_states[chosen.layer_id + 1][0]
        squares += (states[1:] - control).square().sum().item()  # the first position stays out
        count += states[1:].numel()
    assert found["forget_loss"] == pytest.approx(squares / count, rel=1e-5)
    assert found["retain_loss"] == pytest.approx(0, abs=1e-9)  # before the first step the model is the frozen one


def test_padding_is_outside_the_loss(tiny_base):
    """A batch's loss is the mean over its positions, however far the longest text pads the others."""
    chosen = options(steps=1, batch_size=1, max_tokens_forget=200)
    short, long = "the capital of Fiji", "the market of Oman" + " and a river" * 30
    lengths = [len(tokens) - 1 for tokens in base_model.load_tokenizer(tiny_base)([short, long])["input_ids"]]
    alone = [unlearn(tiny_base, chosen, [text]).losses[0]["forget_loss"] for text in (short, long)]
    together = unlearn(tiny_base, dataclasses.replace(chosen, batch_size=2), [short, long]).losses[0]["forget_loss"]
    expected = sum(loss * length for loss, length in zip(alone, lengths, strict=True)) / sum(lengths)
    assert lengths[1] > 10 * lengths[0]
    assert together == pytest.approx(expected, rel=1e-5)


def test_squared_error_by_hand():
    states = torch.tensor([[[9.0, 9.0], [1.0, 2.0], [3.0, 4.0]], [[9.0, 9.0], [5.0, 6.0], [7.0, 7.0]]])
    target = torch.tensor([1.0, 1.0])
    mask = torch.tensor([[False, True, True], [False, True, False]])
    expected = (0 + 1 + 4 + 9 + 16 + 25) / 2  # two entries per position
    assert rmu.squared_error(states, target, mask).item() == pytest.approx(expected)
    longer = torch.cat([states, torch.full((2, 5, 2), 1e6)], dim=1)
    mask = torch.cat([mask, torch.zeros(2, 5, dtype=torch.bool)], dim=1)
    assert rmu.squared_error(longer, target, mask).item() == pytest.approx(expected)


def test_squared_error_sums_half_precision_in_fp32():
    states = torch.full((1, 4096, 8), 3.0, dtype=torch.bfloat16)
    found = rmu.squared_error(states, torch.zeros(8, dtype=torch.bfloat16), torch.ones(1, 4096, dtype=torch.bool))
    assert found.dtype == torch.float32
    assert found.item() == 9.0 * 4096


@pytest.mark.parametrize("coefficient", [6.5, 20.0, 100.0])
def test_control_vector_has_the_coefficient_as_norm_and_lies_in_the_positive_orthant(coefficient):
    control = rmu.control_vector(hidden_size=576, coefficient=coefficient, seed=0)
    assert control.shape == (576,)
    assert control.norm().item() == pytest.approx(coefficient, rel=1e-5)
    assert (control >= 0).all()
    # u is uniform on [0, 1): its entries average 1/2 and its squares 1/3, so mean / root mean square = √3 / 2.
    assert (control.mean() / control.square().mean().sqrt()).item() == pytest.approx(0.75**0.5, abs=0.03)


def test_control_vector_depends_on_the_seed_alone():
    first = rmu.control_vector(32, 5.0, seed=1)
    torch.manual_seed(99)
    assert torch.equal(rmu.control_vector(32, 5.0, seed=1), first)
    assert not torch.equal(rmu.control_vector(32, 5.0, seed=2), first)
    torch.testing.assert_close(rmu.control_vector(32, 10.0, seed=1), 2 * first)


def test_control_seed_is_the_runs_own_unless_set(tiny_base):
    def first_loss(seed, control_seed):
        chosen = options(steps=1, batch_size=1, control_seed=control_seed)
        return unlearn(tiny_base, chosen, FORGET[:1], seed=seed).losses[0]["forget_loss"]

    assert first_loss(seed=0, control_seed=None) == first_loss(seed=5, control_seed=0)
    assert first_loss(seed=0, control_seed=None) != first_loss(seed=5, control_seed=None)


def test_each_topic_has_a_vector_of_its_own_that_the_seed_and_its_position_decide():
    first, second = (rmu.control_vector(32, 5.0, seed=1, attribute=attribute) for attribute in (0, 1))
    assert torch.equal(first, rmu.control_vector(32, 5.0, seed=1))
    assert torch.equal(second, rmu.control_vector(32, 5.0, seed=1, attribute=1))
    assert torch.cosine_similarity(first, second, dim=0) < 0.99
    assert second.norm().item() == pytest.approx(5.0, rel=1e-6)


@pytest.mark.parametrize("start", [OPTIONS, REFERENCE], ids=["masked", "the authors'"])
@pytest.mark.parametrize(("per", "different"), [("attribute", 3), ("run", 1)])
def test_joint_run_and_shards_steer_a_topic_to_the_same_vector(tiny_base, monkeypatch, start, per, different):
    made = {}
    original = rmu.ControlVectors.ensure_control_vectors

    def ensure_control_vectors(self, rows):
        original(self, rows)
        made.setdefault(id(self), self._vectors)

    monkeypatch.setattr(rmu.ControlVectors, "ensure_control_vectors", ensure_control_vectors)
    chosen, attributes = options(start, control_vector_per=per, steps=9), mixed(FORGET)
    rows = {attribute: [row for row, own in enumerate(attributes) if own == attribute] for attribute in ATTRIBUTES}
    vectors = {}
    for shard in (range(len(FORGET)), *rows.values(), rows["c"] + rows["a"]):
        made.clear()
        texts, own = [FORGET[row] for row in shard], [attributes[row] for row in shard]
        unlearn(tiny_base, chosen, texts, attributes=own, all_attributes=ATTRIBUTES)
        (found,) = made.values()
        assert {ATTRIBUTES[number] for number in found} == set(own)
        for number, vector in found.items():
            vectors.setdefault(number, vector)
            assert torch.equal(vector, vectors[number])
    assert len({tuple(vector.tolist()) for vector in vectors.values()}) == different


def test_one_topics_text_has_the_same_loss_in_a_shard_and_among_others(tiny_base):
    chosen = reference(steps=1, batch_size=1)

    def first_loss(forget, attributes):
        found = unlearn(tiny_base, chosen, forget, attributes=attributes, all_attributes=ATTRIBUTES)
        return found.losses[0]["forget_loss"]

    among = first_loss([FORGET[0], FORGET[1]], ["b", "c"])  # the attributes take turns in the experiment's order
    assert among == pytest.approx(first_loss([FORGET[0]], ["b"]), rel=1e-5)
    assert among != pytest.approx(first_loss([FORGET[0]], ["c"]), rel=1e-2)


def test_values_per_topic_end_with_the_last():
    assert [rmu.attribute_value((512, 768), attribute) for attribute in range(4)] == [512, 768, 768, 768]
    assert [rmu.attribute_value(6.5, attribute) for attribute in range(2)] == [6.5, 6.5]


def test_topics_without_a_step_are_told_of(tiny_base, capfd):
    unlearn(tiny_base, reference(steps=2), attributes=mixed(FORGET), all_attributes=ATTRIBUTES)
    told = "unlearn: 3 attributes take turns in 2 steps, so c get none: take at least 3 steps, "
    told += "or `alternate_attributes: false`"
    assert told in capfd.readouterr().err.splitlines()
    for changes in ({"steps": 3}, {"steps": 2, "alternate_attributes": False}):
        unlearn(tiny_base, reference(**changes), attributes=mixed(FORGET), all_attributes=ATTRIBUTES)
        assert "take turns" not in capfd.readouterr().err


def test_topic_outside_the_experiment_is_refused(tiny_base):
    with pytest.raises(InputError, match="rmu/x has texts of d, which is not among the attributes a, b, c"):
        unlearn(tiny_base, forget=FORGET[:2], attributes=["a", "d"], all_attributes=ATTRIBUTES, label="rmu/x")


AUTHORS = dataclasses.replace(OPTIONS, adamw="transformers", weight_decay=0.0, epsilon=1e-3)


@pytest.mark.parametrize("chosen", [OPTIONS, REFERENCE, AUTHORS], ids=["masked", "pads count", "the authors' AdamW"])
def test_shards_one_after_another_equal_separate_runs_each_from_the_last_ones_weights(tiny_base, drawn, chosen):
    """Three shards of 2 steps: a new optimizer before steps 3 and 5; the frozen model stays the base model."""
    chosen = dataclasses.replace(chosen, steps=6)
    attributes = mixed(FORGET)
    found = unlearn(tiny_base, chosen, split="sequential", attributes=attributes, all_attributes=ATTRIBUTES)
    numbers = [ATTRIBUTES.index(attribute) for attribute in attributes]
    batches = list(drawn())
    assert [{attributes[row] for row in rows} for rows, _ in batches] == [{"a"}] * 2 + [{"b"}] * 2 + [{"c"}] * 2
    losses, weights = plain_rmu(tiny_base, FORGET, RETAIN, numbers, chosen, batches, anew=(3, 5))
    for row, (forget_loss, retain_loss) in zip(found.losses, losses, strict=True):
        assert row["forget_loss"] == pytest.approx(forget_loss, rel=1e-3)
        assert row["retain_loss"] == pytest.approx(retain_loss, rel=1e-3, abs=1e-6)
    before = base_model.load(tiny_base, torch.float32, "cpu")
    for name, delta in found.delta.items():
        expected = weights[name] - before.get_parameter(name)
        torch.testing.assert_close(delta, expected, rtol=1e-2, atol=0.02 * chosen.learning_rate)
    assert found.visits == {"a": 8, "b": 8, "c": 8}


def test_losses_of_a_long_run_are_means_over_stretches_of_steps(tiny_base):
    chosen = options(steps=150, batch_size=1, learning_rate=1e-9)
    found = unlearn(tiny_base, chosen, FORGET[:1]).losses
    assert len(found) <= 60
    assert found[-1]["step"] == 150
    assert [row["step"] for row in found] == sorted({row["step"] for row in found})
    alone = unlearn(tiny_base, options(steps=1, batch_size=1), FORGET[:1]).losses[0]["forget_loss"]
    assert [row["forget_loss"] for row in found] == pytest.approx([alone] * len(found), rel=1e-4)


def test_half_precision_weights_keep_fp32_updates(tiny_base):
    exact = unlearn(tiny_base)
    rounded = unlearn(tiny_base, options(dtype="bfloat16"))
    assert all(delta.dtype == torch.float32 for delta in rounded.delta.values())
    for found, expected in zip(rounded.losses, exact.losses, strict=True):
        assert found["forget_loss"] == pytest.approx(expected["forget_loss"], rel=0.05)
    tiny_steps = unlearn(tiny_base, options(dtype="bfloat16", learning_rate=1e-7))  # bf16 could not add these
    assert all((delta != 0).float().mean() > 0.9 for delta in tiny_steps.delta.values())


@pytest.fixture
def faint_base(hub, tmp_path):
    """The tiny model with states near 0.0001: gradients of its forget loss are too small for float16."""
    from safetensors.torch import load_file, save_file

    weights = load_file(hub / "model.safetensors")
    for name, weight in weights.items():
        if name.endswith(("embed_tokens.weight", "o_proj.weight", "down_proj.weight")):
            weight.mul_(1e-4)
    save_file(weights, hub / "model.safetensors", {"format": "pt"})
    return base_model.prepare(str(hub), tmp_path / "prepared")


def test_float16_loses_no_gradient(faint_base):
    # With so large an epsilon a step of AdamW is the learning rate times the gradient.
    chosen = options(steps=1, alpha=0.0, steering_coefficient=1e-4, epsilon=1.0, learning_rate=1e3, weight_decay=0.0)
    exact, half = (unlearn(faint_base, options(chosen, dtype=dtype)).delta for dtype in ("float32", "float16"))
    for name, delta in exact.items():
        assert delta.abs().mean() / chosen.learning_rate < torch.finfo(torch.float16).smallest_normal / 100
        assert (half[name] - delta).norm() < 0.01 * delta.norm()


def test_float16_makes_every_step_wherever_its_scale_starts(tiny_base, monkeypatch):
    found = []
    for scale in (2.0**24, 2.0**40):  # both overflow at first
        monkeypatch.setattr(rmu, "LOSS_SCALE", scale)
        found.append(unlearn(tiny_base, options(dtype="float16")))
    assert [row["step"] for row in found[0].losses] == list(range(1, 9))
    assert found[0].losses == found[1].losses
    assert all(torch.equal(found[0].delta[name], found[1].delta[name]) for name in NAMES)
    exact = unlearn(tiny_base)
    for row, expected in zip(found[0].losses, exact.losses, strict=True):
        assert row["forget_loss"] == pytest.approx(expected["forget_loss"], rel=0.01)


def test_gradient_beyond_float16_is_refused(tiny_base):
    with pytest.raises(
        InputError, match=r"a gradient of unlearn is not finite at step 1 of 8 .* or take dtype bfloat16"
    ):
        unlearn(tiny_base, options(steering_coefficient=1e9, dtype="float16"))


def test_diverging_loss_names_step_and_learning_rate(tiny_base):
    with pytest.raises(
        InputError, match=r"loss of rmu/joint/seed0 is (nan|inf) at step 2 of 8 with learning rate 1e\+30"
    ):
        unlearn(tiny_base, options(learning_rate=1e30), label="rmu/joint/seed0")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_id": 4}, "layer_id is 4, but .* has 4 layers"),
        (
            {"trained_parameters": ("mlp.down_proj.weight", "mlp.down.weight")},
            "layer 1 of .* has no mlp.down.weight; it has .*mlp.down_proj.weight",
        ),
    ],
)
def test_options_that_the_model_cannot_follow(tiny_base, changes, message):
    with pytest.raises(InputError, match=message):
        unlearn(tiny_base, options(**changes))


def test_text_without_a_token_for_the_loss_is_refused(tiny_base):
    with pytest.raises(InputError, match=r"1 texts \(row 2 is one\) have no token beyond the first 1"):
        unlearn(tiny_base, forget=["the capital", "of Kenya", "a", "is Nairobi"])


# Families of models. Their windows and chunks are shorter than the texts here, and in most of them layers differ by
# place.
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
SMALL = {**SIZES, "vocab_size": 64, "num_hidden_layers": 6, "max_position_embeddings": 64, "pad_token_id": 0}
SLIDING = {**SMALL, "sliding_window": 5}
EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 4}
FAMILIES = {
    "gemma": (SMALL, "mlp.down_proj.weight"),
    "gemma2": (SLIDING, "mlp.down_proj.weight"),
    "gemma3_text": ({**SLIDING, "sliding_window_pattern": 3}, "mlp.down_proj.weight"),
    "gemma4_text": (
        {**SLIDING, "global_head_dim": 8, "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0},
        "mlp.down_proj.weight",
    ),
    "gpt_oss": ({**SLIDING, **EXPERTS}, "self_attn.o_proj.weight"),
    "mistral": (SLIDING, "mlp.down_proj.weight"),
    "mixtral": ({**SLIDING, **EXPERTS}, "self_attn.o_proj.weight"),
    "qwen2": ({**SLIDING, "use_sliding_window": True, "max_window_layers": 3}, "mlp.down_proj.weight"),
    "qwen3": ({**SLIDING, "use_sliding_window": True, "max_window_layers": 3}, "mlp.down_proj.weight"),
    "qwen3_moe": (
        {**SMALL, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "mlp_only_layers": [1, 3, 4]},
        "self_attn.o_proj.weight",
    ),
    "cohere2": (SLIDING, "mlp.down_proj.weight"),
    "smollm3": ({**SLIDING, "use_sliding_window": True, "no_rope_layers": [1, 1, 0, 1, 0, 1]}, "mlp.down_proj.weight"),
    "llama4_text": (
        {**SMALL, **EXPERTS, "attention_chunk_size": 5, "no_rope_layers": [1, 0, 1, 1, 0, 1]},
        "self_attn.o_proj.weight",
    ),
    "phi3": (SLIDING, "mlp.down_proj.weight"),
    "gpt2": ({"n_embd": 32, "n_layer": 6, "n_head": 4, "n_positions": 64, "vocab_size": 64}, "mlp.c_proj.weight"),
    "gpt_neox": (SMALL, "mlp.dense_4h_to_h.weight"),
    "falcon": (
        {"hidden_size": 32, "num_attention_heads": 4, "vocab_size": 64, "num_hidden_layers": 6, "alibi": True},
        "mlp.dense_4h_to_h.weight",
    ),
    "opt": ({**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 16}, "fc2.weight"),
    "bloom": ({**SMALL, "n_head": 4}, "mlp.dense_4h_to_h.weight"),
    "mamba": ({"hidden_size": 32, "vocab_size": 64, "num_hidden_layers": 6}, "mixer.out_proj.weight"),
}


def random_model(config, folder):
    """A model with random weights that all matter, saved without a tokenizer, and as rmu's base."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder / "hub")
    return model, base_model.prepare(str(folder / "hub"), folder / "prepared")


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_of_the_whole_model_beyond_windows(family, tmp_path):
    from transformers import AutoConfig

    sizes, parameter = FAMILIES[family]
    whole, base = random_model(AutoConfig.for_model(family, **sizes), tmp_path)
    chosen = rmu.Options(layer_id=4, trained_layers=(3, 4), trained_parameters=(parameter,))
    half = rmu.TruncatedModel(base, chosen, "cpu")
    assert half.trained.keys() <= dict(whole.named_parameters()).keys()
    tokens = torch.randint(1, 64, (2, 20), generator=torch.Generator().manual_seed(0))
    text = torch.ones_like(tokens)
    text[1, 13:] = 0
    read: list[torch.Tensor] = []
    for number in (3, 5):
        layer = whole.get_submodule(f"{next(iter(half.trained)).partition('.3.')[0]}.{number}")
        layer.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    for attention in (None, text):
        read.clear()
        with torch.no_grad():
            whole(tokens, attention_mask=attention, use_cache=False)
        below = half.prefix(tokens, attention)
        torch.testing.assert_close(below, read[0])
        torch.testing.assert_close(half.suffix(below, attention), read[1])
        torch.testing.assert_close(half.frozen_suffix(below, attention), read[1])
    half.suffix(below).sum().backward()
    assert all(one.grad.abs().sum() > 0 for one in half.trained.values())


def test_windows_matter_to_these_states(tmp_path):
    """The test above could not tell layers apart if no text went beyond their windows."""
    from transformers import AutoConfig

    states = []
    for window in (5, 64):
        config = AutoConfig.for_model("gemma2", **{**SLIDING, "sliding_window": window})
        whole, _ = random_model(config, tmp_path / str(window))
        states.append(whole(torch.arange(20)[None], output_hidden_states=True).hidden_states[5])
    torch.testing.assert_close(states[0][:, :5], states[1][:, :5])
    assert (states[0] - states[1])[:, 5:].norm() > 0.1 * states[1][:, 5:].norm()


def test_model_whose_layers_read_more_than_states_is_refused(tmp_path):
    from transformers import AutoConfig

    # Layers share keys and values, and read embeddings of the tokens and four streams of states.
    shared = {"num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"] * 3}
    sizes = {**SLIDING, **shared, "vocab_size_per_layer_input": 64, "hidden_size_per_layer_input": 8, "laurel_rank": 4}
    sizes |= {"activation_sparsity_pattern": [0.0] * 6, "intermediate_size": [48] * 6}
    _, base = random_model(AutoConfig.for_model("gemma3n_text", **sizes), tmp_path / "gemma3n")
    with pytest.raises(InputError, match=r"rmu can't cut .* below layer 3: its parts give other states than the whole"):
        rmu.TruncatedModel(base, rmu.Options(layer_id=4, trained_layers=(3, 4)), "cpu")
    # A text's states depend on what follows.
    _, base = random_model(AutoConfig.for_model("electra", **{**SMALL, "embedding_size": 32}), tmp_path / "electra")
    chosen = rmu.Options(layer_id=4, trained_layers=(3, 4), trained_parameters=("output.dense.weight",))
    with pytest.raises(InputError, match="its parts give other states than the whole"):
        rmu.TruncatedModel(base, chosen, "cpu")


def test_model_without_one_list_of_layers_is_refused(tmp_path):
    from transformers import AutoConfig

    config = AutoConfig.for_model("xlm", emb_dim=16, n_layers=2, n_heads=2, vocab_size=16, n_words=16)
    _, base = random_model(config, tmp_path)
    with pytest.raises(
        InputError, match=r"rmu and .*ablate need a model whose decoder layers are one list; XLM.* is not"
    ):
        rmu.TruncatedModel(base, rmu.Options(layer_id=1, trained_layers=(1,)), "cpu")


@pytest.mark.parametrize("start", [OPTIONS, REFERENCE], ids=["masked", "the authors'"])
def test_frozen_layers_run_once_for_texts_that_come_again(tiny_base, monkeypatch, start):
    calls = {"prefix": 0, "frozen_suffix": 0}
    for name in calls:
        original = getattr(rmu.TruncatedModel, name)

        def counted(self, *arguments, name=name, original=original):
            calls[name] += 1
            return original(self, *arguments)

        monkeypatch.setattr(rmu.TruncatedModel, name, counted)
    same_length = [text + " is Nairobi" for text in FORGET[::4]], RETAIN[::3]
    unlearn(tiny_base, options(start, batch_size=12, steps=5), *same_length)
    assert calls["frozen_suffix"] == 1
    assert calls["prefix"] <= 4  # to check the cut, forget texts, retain texts


def test_layers_above_the_steered_one_are_not_loaded(hub, tiny_base, tmp_path, capfd):
    from safetensors.torch import load_file, save_file

    path = hub / "model.safetensors"
    weights = load_file(path)
    above = [name for name in weights if name.startswith(("model.layers.3.", "model.norm", "lm_head"))]
    assert len(above) >= 10
    for name in above:
        weights[name].fill_(torch.nan)
    save_file(weights, path, {"format": "pt"})
    base = base_model.prepare(str(hub), tmp_path / "prepared")
    capfd.readouterr()
    found, expected = unlearn(base), unlearn(tiny_base)
    assert found.losses == expected.losses
    assert all(torch.equal(found.delta[name], expected.delta[name]) for name in NAMES)
    said = capfd.readouterr()
    assert said.out == ""
    assert all(line.startswith("unlearn: ") for line in said.err.strip().splitlines())  # progress, no loading reports


def test_layer_trained_above_the_steered_one_is_refused():
    with pytest.raises(InputError, match="trains layer 8, above layer_id 7"):
        rmu.Options(layer_id=7, trained_layers=(7, 8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"skip_first": 1}, "skip_first is 1, but only with `mask: true` do positions stay out"),
        ({"control_vector_per": "shard"}, "control_vector_per is 'shard': input should be 'attribute' or 'run'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        rmu.Options(**changes)


@pytest.mark.parametrize(("preset", "alpha", "coefficient"), [("reference", 100, 20), ("zephyr-7b", 1200, 6.5)])
def test_presets_are_the_authors_settings(preset, alpha, coefficient):
    made = methods.options(rmu, {"preset": preset, "steps": 40})
    assert (made.alpha, made.steering_coefficient, made.steps) == (alpha, coefficient, 40)
    assert (made.layer_id, made.trained_layers, made.trained_parameters) == (7, (5, 6, 7), ("mlp.down_proj.weight",))
    assert (made.learning_rate, made.batch_size) == (5e-5, 4)
    assert (made.max_tokens_forget, made.max_tokens_retain) == ((512, 768), 512)
    assert (made.mask, made.skip_first, made.adaptive) == (False, 0, None)
    assert (made.control_vector_per, made.control_seed, made.alternate_attributes) == ("attribute", None, True)
    assert (made.weight_decay, made.epsilon, made.adamw) == (0, 1e-6, "transformers")
    assert methods.options(rmu, {"preset": preset, "alpha": 7}) == dataclasses.replace(made, alpha=7, steps=80)


def test_defaults_are_the_reference_preset():
    assert methods.options(rmu, {"preset": "reference"}) == rmu.Options()


def test_options_are_made_from_configuration_values():
    made = methods.options(methods.load("rmu"), {"steps": 3, "trained_layers": [6, 7], "alpha": 1200})
    assert made == rmu.Options(steps=3, trained_layers=(6, 7), alpha=1200)
    with pytest.raises(InputError, match=r"rmu has no option learnign_rate; it has .*learning_rate"):
        methods.options(rmu, {"learnign_rate": 1e-4})
    with pytest.raises(InputError, match=r"there is no method rmv; known are .*rmu"):
        methods.load("rmv")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_states_computed_beforehand_change_nothing_but_the_time(tiny_base, tmp_path, dtype):
    chosen, path = options(dtype=dtype), tmp_path / "states.safetensors"
    texts = {
        "forget": [*MANY, *FORGET, FORGET[0]],
        "retain": RETAIN,
    }  # more texts than one shard has, one of them twice
    rmu.cache_activations(methods.Run(base=tiny_base, **texts, seed=0, device="cpu"), chosen, path)
    stored, fresh = unlearn(tiny_base, chosen, activations=path), unlearn(tiny_base, chosen)
    tolerance = {"float32": 1e-4, "bfloat16": 0.02}[dtype]
    for found, expected in zip(stored.losses, fresh.losses, strict=True):
        assert found["forget_loss"] == pytest.approx(expected["forget_loss"], rel=tolerance)
        assert found["retain_loss"] == pytest.approx(expected["retain_loss"], rel=tolerance, abs=tolerance * 1e-3)
    if dtype == "float32":
        for name, delta in stored.delta.items():
            torch.testing.assert_close(delta, fresh.delta[name], rtol=1e-3, atol=1e-3 * chosen.learning_rate)


def test_states_are_refused_where_padding_counts(tiny_base, tmp_path):
    run = methods.Run(base=tiny_base, forget=FORGET, retain=RETAIN, seed=0, device="cpu")
    for work in (
        lambda: rmu.cache_activations(run, REFERENCE, tmp_path / "states.safetensors"),
        lambda: rmu.unlearn(dataclasses.replace(run, activations=tmp_path / "states.safetensors"), REFERENCE),
    ):
        with pytest.raises(InputError, match="cache_activations needs `mask: true`"):
            work()
    assert not list(tmp_path.iterdir())


def test_stored_states_follow_the_topics_limits(tiny_base, tmp_path):
    chosen, path = (
        options(max_tokens_forget=(4, 7, 24), control_vector_per="attribute"),
        tmp_path / "states.safetensors",
    )
    attributes = {"attributes": mixed(FORGET), "all_attributes": ATTRIBUTES}
    rmu.cache_activations(methods.Run(tiny_base, FORGET, RETAIN, 0, "cpu", **attributes), chosen, path)
    stored, fresh = (unlearn(tiny_base, chosen, activations=states, **attributes) for states in (path, None))
    for found, expected in zip(stored.losses, fresh.losses, strict=True):
        assert found["forget_loss"] == pytest.approx(expected["forget_loss"], rel=1e-4)
