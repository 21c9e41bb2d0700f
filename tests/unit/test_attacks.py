"""The attacks themselves, on a tiny model: relearning, quantisation, open-ended answers, direction ablation."""

import copy
import dataclasses
import re
from pathlib import Path

import families
import pandas as pd
import pytest
import torch

from spunge.core.errors import InputError
from spunge.evaluation import ablation, durability, knowledge, open_ended, quantisation, relearning
from spunge.models import base_model
from spunge.training import loop

PROJECT = Path(__file__).parents[2]
PLACES = ["Kenya", "Japan", "France", "Ghana", "Peru"]
TEXTS = [f"the capital of {place} is Nairobi, past old houses" for place in PLACES]
OPTIONS = relearning.Options(texts=(2, 5), epochs=4, learning_rate=5e-3, batch_size=2, lora_rank=4)


@pytest.fixture
def model(tiny_base):
    return base_model.load(tiny_base, torch.float32, "cpu")


@pytest.fixture(scope="module")
def questions():
    rows = [
        (f"The capital of {place} is", ["Nairobi", "Tokyo", "a market"], number % 3, attribute, place)
        for attribute in ("Africa", "Asia", "Europe")
        for number, place in enumerate(PLACES)
    ]
    return pd.DataFrame(rows, columns=["question", "choices", "answer", "attribute", "subject"])


@torch.no_grad()
def log_likelihood(model, tokenizer, texts):
    total = 0.0
    for text in texts:
        tokens = torch.tensor(tokenizer(text)["input_ids"])
        found = model(tokens[None]).logits[0, :-1].log_softmax(dim=-1)
        total += found[torch.arange(len(tokens) - 1), tokens[1:]].sum().item()
    return total


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def test_relearned_texts_become_likelier_and_the_model_is_left_as_it_was(model, tokenizer):
    before, kept = log_likelihood(model, tokenizer, TEXTS), weights(model)
    term = loop.LossTerm("forget", TEXTS, 32, loop.token_nll, reduction="tokens")
    found = []
    for _ in range(2):
        with loop.fine_tuned(model, tokenizer, OPTIONS.of_training(5, "float32"), [term], 0, "relearn") as relearned:
            assert not relearned.training
            found.append(log_likelihood(relearned, tokenizer, TEXTS))
        assert same(weights(model), kept)
        assert log_likelihood(model, tokenizer, TEXTS) == before
    assert found[0] > before + 5
    assert found[0] == found[1], "the same model and seed give the same"


def test_an_attack_starts_elsewhere_than_unlearning_of_its_seed_did(model, tokenizer):
    """From the same factors A it would find its way back too easily: LoRA's change lies in the space that A spans."""
    term = loop.LossTerm("forget", TEXTS, 32, loop.token_nll, reduction="tokens")
    settings = dataclasses.replace(OPTIONS.of_training(5, "float32"), steps=1, learning_rate=1e-9)
    with loop.fine_tuned(model, tokenizer, settings, [term], 3, "relearn") as relearned:
        attack = [one.detach().clone() for name, one in relearned.named_parameters() if "lora_A" in name]
    torch.manual_seed(3)  # as a run does
    adapted = loop._with_lora(model, "the model", settings)
    unlearned = [one.detach() for name, one in adapted.named_parameters() if "lora_A" in name]
    assert len(attack) == len(unlearned) > 2
    cosines = [
        torch.cosine_similarity(*map(torch.flatten, pair), dim=0).abs() for pair in zip(attack, unlearned, strict=True)
    ]
    assert max(cosines) < 0.5


def test_a_model_in_half_precision_relearns(tiny_base, tokenizer):
    model = base_model.load(tiny_base, torch.bfloat16, "cpu")
    before = log_likelihood(model, tokenizer, TEXTS)
    term = loop.LossTerm("forget", TEXTS, 32, loop.token_nll, reduction="tokens")
    settings = OPTIONS.of_training(5, "bfloat16")
    with loop.fine_tuned(model, tokenizer, settings, [term], 0, "relearn") as relearned:
        assert log_likelihood(relearned, tokenizer, TEXTS) > before + 5
        factors = [one.dtype for name, one in relearned.named_parameters() if "lora_" in name]
        assert set(factors) == {torch.float32}
    assert {one.dtype for one in model.parameters()} == {torch.bfloat16}


def test_factors_are_gone_after_an_error_too(model, tokenizer):
    kept = weights(model)
    settings = dataclasses.replace(OPTIONS.of_training(5, "float32"), learning_rate=1e30)
    term = loop.LossTerm("forget", TEXTS, 32, loop.token_nll, reduction="tokens")
    with (
        pytest.raises(InputError, match="the loss of relearn 5 is"),
        loop.fine_tuned(model, tokenizer, settings, [term], 0, "relearn 5"),
    ):
        pass
    assert same(weights(model), kept)


def test_every_relearning_starts_from_the_candidate(model, tokenizer, questions):
    """What comes of a number of texts doesn't depend on what was relearned before."""
    texts = pd.DataFrame({"attribute": ["Africa"] * 5 + ["Asia"] * 5 + [durability.UNRELATED] * 5})
    texts["text"] = [f"{text} {attribute}" for text, attribute in zip(TEXTS * 3, texts["attribute"], strict=True)]
    both = relearning.relearn(model, tokenizer, texts, questions, OPTIONS, 8, "float32", 0)
    assert list(both) == [f"relearned_{kind}_{n}" for n in (2, 5) for kind in ("forget", "other", "unrelated")]
    alone = relearning.relearn(
        model, tokenizer, texts, questions, dataclasses.replace(OPTIONS, texts=(5,)), 8, "float32", 0
    )
    for name, scores in alone.items():
        pd.testing.assert_frame_equal(scores, both[name])
    term = loop.LossTerm("forget", TEXTS[:0], 32, loop.token_nll, reduction="tokens")
    chosen = texts.loc[texts["attribute"] == "Asia", "text"].tolist()
    term = dataclasses.replace(term, texts=chosen, max_tokens=OPTIONS.max_tokens)
    with loop.fine_tuned(model, tokenizer, OPTIONS.of_training(5, "float32"), [term], 0, "once more") as relearned:
        expected = knowledge.score(relearned, tokenizer, questions, 8)["accuracy"]
    asia, africa = questions["attribute"] == "Asia", questions["attribute"] == "Africa"
    assert both["relearned_forget_5"].loc[asia, "accuracy"].tolist() == expected[asia].tolist()
    assert both["relearned_other_5"].loc[africa, "accuracy"].tolist() == expected[africa].tolist()


def test_steps_are_whole_passes():
    settings = relearning.Options().of_training(10, "bfloat16")
    assert (settings.steps, settings.batch_size, settings.trained, settings.dtype) == (30, 1, "lora", "bfloat16")
    assert OPTIONS.of_training(5, "float32").steps == 10  # 4 passes over 5 texts, 2 a step


@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_weights_are_the_nearest_of_few(model, bits):
    """By the definition alone: at most 2^bits values per scale, none further than half a step from where it was."""
    before = copy.deepcopy(model)
    quantisation.quantise(model, bits)
    rounded = 0
    for (name, new), old in zip(model.named_parameters(), before.parameters(), strict=True):
        if not name.endswith("_proj.weight"):
            assert torch.equal(new, old), f"{name} is no weight of a linear layer, or the output's"
            continue
        rounded += 1
        group = new.shape[1] if bits == 8 else {32: 32, 64: 64}[new.shape[1]]
        old, new = old.reshape(-1, group), new.reshape(-1, group)
        step = old.abs().amax(dim=1, keepdim=True) / ((2**bits - 1) / 2)
        assert ((new - old).abs() <= step / 2 * (1 + 1e-4)).all()
        torch.testing.assert_close(new / step, (new / step).round(), rtol=0, atol=1e-3)
        assert max(len(row.unique()) for row in new) <= 2**bits
        assert not torch.equal(new, old)
    assert rounded == 4 * 7, "seven in each of four layers"
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("family", families.FAMILIES)
def test_every_linear_layer_of_any_family_is_quantised(tmp_path, family):
    """GPT-2's have a class of their own. A mixture's stacked experts and Mamba's convolution aren't linear layers."""
    model = base_model.load(families.FAMILIES[family].build(tmp_path), torch.float32, "cpu")
    before = copy.deepcopy(model)
    quantisation.quantise(model, 4)
    unchanged = [
        name
        for (name, new), old in zip(model.named_parameters(), before.parameters(), strict=True)
        if new.dim() > 1 and torch.equal(new, old)
    ]
    excepted = r"emb|wte|wpe|lm_head|embed_out|experts|mlp\.gate\.|conv1d|A_log"
    assert [name for name in unchanged if not re.search(excepted, name)] == []


def test_rounding_by_hand():
    """Two groups of two, at 2 bits: values −2 … 1 times a step of 4 / 1.5 and of 3 / 1.5."""
    weights = torch.tensor([[4.0, -1.0, -3.0, 2.9], [0.0, 0.0, 1e-3, 1.5]])
    expected = torch.tensor([[8 / 3, 0.0, -4.0, 2.0], [0.0, 0.0, 0.0, 1.0]])
    torch.testing.assert_close(quantisation.rounded(weights, 2, 2), expected)
    assert quantisation.rounded(weights.bfloat16(), 8, 4).dtype == torch.bfloat16


def test_quantised_weights_stay_when_quantised_again(model):
    quantisation.quantise(model, 8)
    once = weights(model)
    quantisation.quantise(model, 8)
    for name, tensor in weights(model).items():
        torch.testing.assert_close(tensor, once[name], rtol=0.01, atol=1e-6)


CHOICES = ["Nairobi", "Guinea", "Guinea-Bissau", "São Tomé", "The Valley"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (" Nairobi.", 0),
        (" the city of NAIROBI, in Kenya", 0),
        (" not São Tomé but Nairobi", 3),
        (" sao tome", 3),
        ("Sa\u0303o Tome\u0301", 3),
        (" Guinea", 1),
        (" Guinea-Bissau, not Guinea", 2),
        (" Guinea Bissau", 2),
        (" Guinean", None),
        (" valley", 4),
        (" a Valley", 4),
        (" Tomé", None),
        ("", None),
        (" 42!", None),
    ],
)
def test_the_choice_that_is_named_first(text, named):
    assert open_ended.first_named(text, CHOICES) == named


@pytest.mark.parametrize(
    ("text", "choices", "named"),
    [
        ("是北京。", ["北京", "上海"], 0),
        ("東京です。", ["京都", "東京"], 1),
        ("กรุงเทพครับ", ["เชียงใหม่", "กรุงเทพ"], 1),
        ("केरल", ["कोरल", "केरल"], 1),
        ("Łódź!", ["ódz", "Łódz"], 1),
        ("\u064bПариж", ["Рим", "Париж"], 1),
    ],
)
def test_the_choice_that_is_named_in_any_script(text, choices, named):
    """Some have no spaces, and vowels as marks, which tell words apart."""
    assert open_ended.first_named(text, choices) == named


def test_choices_without_a_word_are_never_named():
    assert open_ended.first_named(" the -- end", ["--", "the", "end"]) == 2


def test_open_ended_answers_are_what_the_model_writes(model, tokenizer, questions):
    """The right choice is what greedy decoding gives, the first word or two of it, for every other question."""
    with torch.no_grad():
        written = []
        for question in questions["question"]:
            tokens = tokenizer(question, return_tensors="pt")
            out = model.generate(**tokens, max_new_tokens=10, do_sample=False, pad_token_id=tokenizer.pad_token_id)
            line = tokenizer.decode(out[0, tokens["input_ids"].shape[1] :], skip_special_tokens=True).partition("\n")[0]
            written.append(open_ended.words_of_answer(line))
    says = [bool(line) for line in written]
    choices = [["no such word", line[0] if line else "nothing"] for line in written]
    asked = questions.assign(choices=choices, answer=[number % 2 for number in range(len(questions))])
    scores = open_ended.score(model, tokenizer, asked)
    assert any(says)
    assert scores["accuracy"].tolist() == [float(said and number % 2) for number, said in enumerate(says)]
    assert list(scores.columns) == ["subject", "attribute", "accuracy"]


def test_an_open_question_ends_as_its_choices_would_follow_it(model, tokenizer, questions, monkeypatch):
    prompts = []
    answered = pd.DataFrame({"text": [" yes"] * len(questions)})
    monkeypatch.setattr(open_ended.generation, "continue_prompts", lambda *given: prompts.extend(given[2]) or answered)
    for delimiter, end in ((" ", ""), ("\n", "\n"), ("", "")):
        prompts.clear()
        open_ended.score(model, tokenizer, questions.assign(delimiter=delimiter))
        assert prompts == (questions["question"] + end).tolist()


def layer_outputs(model, tokens):
    """What each decoder layer puts out, (layers, length, hidden), read where the next one takes it in."""
    read = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0][0])) for layer in model.model.layers
    ]
    hooks.append(model.model.norm.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0][0])))
    with torch.no_grad():
        model(torch.tensor([tokens]))
    for hook in hooks:
        hook.remove()
    return torch.stack(read[1:])


def test_mean_states_are_those_of_single_texts(model, tokenizer):
    texts = [*TEXTS, "the", "a river runs"]
    states = [layer_outputs(model, tokenizer(text)["input_ids"])[:, 1:] for text in texts]
    expected = torch.cat(states, dim=1).mean(dim=1)
    found = ablation.mean_activations(model, tokenizer, texts)
    assert found.shape == (4, 32)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="two tokens"):
        ablation.mean_activations(model, tokenizer, ["!"])


def test_directions_have_length_one_or_are_none():
    base = torch.tensor([[3.0, 4.0], [3.0, 4.0], [3.0, 4.0]])
    unlearned = base + torch.tensor([[0.0, 2.0], [0.0, 0.0], [0.004, 0.0]])
    torch.testing.assert_close(ablation.directions(unlearned, base), torch.tensor([[0.0, 1.0], [0, 0], [0, 0]]))


@pytest.mark.parametrize("base", ["zero", "elsewhere"])
def test_ablated_states_have_the_base_models_component_along_the_direction(model, tokenizer, base):
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(4, 32, generator=generator), dim=1)
    directions[1] = 0  # a layer that unlearning left alone
    base = torch.zeros(4, 32) if base == "zero" else torch.randn(4, 32, generator=generator)
    tokens = tokenizer(TEXTS[0])["input_ids"]
    before, kept = layer_outputs(model, tokens), weights(model)
    with ablation.ablated(model, directions, base):
        states = layer_outputs(model, tokens)
    beyond = torch.einsum("nth,nh->nt", states - base[:, None], directions)
    assert beyond[:, 1:].abs().max() < 1e-5
    assert beyond[:, 0].abs().max() > 1e-2, "the first position stays as it is"
    assert torch.einsum("nth,nh->nt", before, directions)[[0, 2, 3], 1:].abs().max() > 1e-2
    assert torch.equal(states[0, 0], before[0, 0])
    # Only along the direction is the first layer's output another one.
    difference = before[0] - states[0]
    torch.testing.assert_close(difference, (difference @ directions[0])[:, None] * directions[0], rtol=0, atol=1e-5)
    assert same(weights(model), kept)
    assert torch.equal(layer_outputs(model, tokens), before), "the hooks are gone"


def test_what_floods_the_states_is_taken_out_again(model, tokenizer, questions):
    """A large vector in one layer's output, in every position but the first, as by RMU."""
    texts = TEXTS * 2
    base = ablation.mean_activations(model, tokenizer, texts)
    junk = torch.nn.functional.normalize(torch.ones(32), dim=0)

    class Flooded(torch.nn.Module):
        """A layer and what unlearning adds to its output."""

        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, states, *inputs, position_ids=None, **keywords):
            out = self.layer(states, *inputs, position_ids=position_ids, **keywords)
            return out + 40 * junk * (position_ids > 0)[..., None]

    layer, model.model.layers[2] = model.model.layers[2], Flooded(model.model.layers[2])
    directions = ablation.directions(ablation.mean_activations(model, tokenizer, texts), base)
    assert not directions[:2].any() and (directions[2] @ junk) > 0.9999
    directions[3] = 0
    flooded = log_likelihood(model, tokenizer, TEXTS)
    with ablation.ablated(model, directions, base):
        found = knowledge.score(model, tokenizer, questions, 4)
        likelihood = log_likelihood(model, tokenizer, TEXTS)
    # The model without the flood answers the same under the same ablation: nothing of the flood is left.
    model.model.layers[2] = layer
    with ablation.ablated(model, directions, base):
        pd.testing.assert_frame_equal(found, knowledge.score(model, tokenizer, questions, 4))
        assert log_likelihood(model, tokenizer, TEXTS) == pytest.approx(likelihood, rel=1e-4)
    assert abs(flooded - likelihood) > 5


def test_without_a_direction_nothing_changes(model, tokenizer, questions):
    expected = knowledge.score(model, tokenizer, questions, 4)
    with ablation.ablated(model, torch.zeros(4, 32), torch.ones(4, 32)):
        pd.testing.assert_frame_equal(knowledge.score(model, tokenizer, questions, 4), expected)


def test_positions_are_known_where_layers_are_not_told_of_them():
    """Texts packed into one row: the first token of each stays as it is."""
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    sizes = {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "num_heads": 2, "hidden_size": 8}
    model = GPTNeoForCausalLM(GPTNeoConfig(vocab_size=16, max_position_embeddings=8, **sizes)).eval()
    seen = []
    with ablation._hooked(model, lambda _, __, positions: seen.append(positions.tolist())):
        model(torch.arange(6)[None], position_ids=torch.tensor([[0, 1, 2, 0, 1, 2]]))
    assert seen == [[[0, 1, 2, 0, 1, 2]]] * 2


def test_an_accuracy_that_is_none_spoils_no_other_mean():
    """By hand: after relearning Asia's texts all is NaN, so it goes into every mean but those that leave it out."""
    nan, asked = float("nan"), pd.DataFrame({"attribute": ["Africa", "Asia", "Europe"], "subject": PLACES[:3]})
    accuracy = {"Africa": [0.5, 1.0, 0.25], "Asia": [nan] * 3, durability.UNRELATED: [0.0, nan, 1.0]}
    found = {name: scores["accuracy"].tolist() for name, scores in relearning.combine(accuracy, asked).items()}
    assert found["forget"] == pytest.approx([0.5, nan, nan], nan_ok=True)
    assert found["other"] == pytest.approx([nan, 1.0, nan], nan_ok=True)
    assert found["unrelated"] == pytest.approx([0.0, nan, 1.0], nan_ok=True)


def test_open_answers_of_a_broken_model_are_neither_right_nor_wrong(model, tokenizer, questions):
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    assert open_ended.score(model, tokenizer, questions)["accuracy"].isna().all()
