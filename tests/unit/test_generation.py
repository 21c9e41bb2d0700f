"""Continuations against transformers' own one prompt at a time, a model whose words are known, and sums by hand."""

import copy
import sys
import types

import families
import pandas as pd
import pytest
import torch

from spunge.core.errors import InputError
from spunge.evaluation import generation, toxicity, vllm_generation
from spunge.models import base_model
from spunge.training import resume

PROMPTS = [
    "t",
    "the capital of Kenya is Nairobi",
    "a river runs through the city, past old houses and a market where people meet in the morning. " * 2,
    "old",
    "the capital of Côte d'Ivoire 🎉 is",
    "x",
    "past a market",
]
GREEDY = generation.Options(samples=1, temperature=0)
LARGEST = 1 - 2**-24  # of the numbers in [0, 1) that torch draws


@pytest.fixture(params=["end token as padding", "padding token of its own"])
def own_tokenizer(request, tiny_base):
    tokenizer = base_model.load_tokenizer(tiny_base)
    if request.param == "padding token of its own":
        tokenizer.pad_token = "!"
    return tokenizer


def chain(model, follows):
    """The tiny model made to say `follows[token]` after a token, whatever came before; after others, no token more.

    Attention and MLPs add nothing to the embedding, which has one place of its own for each token that is named.
    """
    made = copy.deepcopy(model)
    made.lm_head.weight = torch.nn.Parameter(torch.zeros_like(made.lm_head.weight))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "norm" not in name:
                parameter.zero_()
        for place, (token, following) in enumerate(follows.items()):
            made.model.embed_tokens.weight[token, place] = 1
            made.lm_head.weight[following, place] = 10  # normalized: a logit of 10 √32, the others' is 0
    return made


@pytest.fixture(scope="module")
def counting(model, tokenizer):
    """The tiny model made to count to nine, with a line break after six, and to end there."""
    said = tokenizer("0123456\n789")["input_ids"]
    assert len(said) == 11
    return chain(model, dict(zip(said, [*said[1:], tokenizer.eos_token_id], strict=True)))


def texts(continuations):
    return continuations["text"].tolist()


# What the model says is what is returned


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_greedy_texts_are_those_of_transformers_one_prompt_at_a_time(model, tokenizer, batch_size):
    options = generation.Options(samples=1, temperature=0, batch_size=batch_size)
    found = generation.continue_prompts(model, tokenizer, PROMPTS, options)
    assert list(found.columns) == ["prompt", "sample", "text", "tokens"]
    assert found["prompt"].tolist() == list(range(len(PROMPTS)))
    lengths = set()
    for row, prompt in enumerate(PROMPTS):
        given = tokenizer(prompt, return_tensors="pt")
        lengths.add(given["input_ids"].shape[1])
        whole = model.generate(**given, max_new_tokens=20, do_sample=False, pad_token_id=tokenizer.pad_token_id)[0]
        said = whole[given["input_ids"].shape[1] :]
        assert (found["text"][row], found["tokens"][row]) == (tokenizer.decode(said, skip_special_tokens=True), 20)
    assert min(lengths) == 1 and len(lengths) > 4
    assert len(set(texts(found))) == len(PROMPTS)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_any_familys_texts_are_those_of_transformers_whatever_the_batch(tmp_path, family):
    """Of a model with a state besides keys and values too, as Mamba."""
    base = families.FAMILIES[family].build(tmp_path)
    model, tokenizer = base_model.load(base, torch.float32, "cpu"), base_model.load_tokenizer(base)
    prompts, said = [prompt for prompt in PROMPTS if len(prompt) < 40], []
    for given in (tokenizer(prompt, return_tensors="pt") for prompt in prompts):
        whole = model.generate(**given, max_new_tokens=8, do_sample=False, pad_token_id=tokenizer.pad_token_id)[0]
        said.append(tokenizer.decode(whole[given["input_ids"].shape[1] :], skip_special_tokens=True))
    greedy = generation.Options(samples=1, temperature=0, max_new_tokens=8)
    assert texts(generation.continue_prompts(model, tokenizer, prompts, greedy)) == said
    several = [sampled(model, tokenizer, prompts, max_new_tokens=8, batch_size=batch_size) for batch_size in (1, 12)]
    pd.testing.assert_frame_equal(*several)


COUNTED = ["a market 0", "5", "the old houses 9", "past 7"]


@pytest.mark.parametrize(
    ("changes", "expected", "tokens"),
    [
        ({}, ["123456\n789", "6\n789", "", "89"], [10, 5, 0, 2]),
        ({"batch_size": 1}, ["123456\n789", "6\n789", "", "89"], [10, 5, 0, 2]),
        ({"stop_at_newline": True}, ["123456", "6", "", "89"], [7, 2, 0, 2]),
        ({"stop_at_newline": True, "batch_size": 2}, ["123456", "6", "", "89"], [7, 2, 0, 2]),
        ({"max_new_tokens": 3}, ["123", "6\n7", "", "89"], [3, 3, 0, 2]),
    ],
)
def test_texts_end_where_they_should(counting, own_tokenizer, changes, expected, tokens):
    """Greedily, and drawn: each next token has a probability of all but 1."""
    greedy = generation.Options(samples=1, temperature=0, **changes)
    found = generation.continue_prompts(counting, own_tokenizer, COUNTED, greedy)
    assert (texts(found), found["tokens"].tolist()) == (expected, tokens)
    drawn = generation.continue_prompts(counting, own_tokenizer, COUNTED, generation.Options(samples=2, **changes))
    assert texts(drawn) == [text for text in expected for _ in range(2)]
    assert drawn["tokens"].tolist() == [number for number in tokens for _ in range(2)]


def test_every_end_that_the_model_and_its_tokenizer_name_ends_a_text(counting, tokenizer):
    several = copy.deepcopy(counting)
    several.generation_config.eos_token_id = tokenizer("58")["input_ids"]
    found = generation.continue_prompts(several, tokenizer, COUNTED, GREEDY)
    assert texts(found) == ["1234", "6\n7", "", ""]
    assert found["tokens"].tolist() == [4, 3, 0, 0]


@pytest.mark.parametrize("setting", [{"repetition_penalty": 50.0}, {"no_repeat_ngram_size": 1}, {"max_length": 3}])
def test_what_else_the_models_own_settings_ask_for_changes_no_text(counting, tokenizer, setting):
    settled = copy.deepcopy(counting)
    settled.generation_config.update(**setting)
    prompts = ["0 1 2 3 4", "the 5"]
    found = generation.continue_prompts(settled, tokenizer, prompts, GREEDY)
    assert (
        texts(found)
        == texts(generation.continue_prompts(counting, tokenizer, prompts, GREEDY))
        == ["56\n789", "6\n789"]
    )
    assert all(getattr(settled.generation_config, name) == value for name, value in setting.items())


def test_prompts_of_one_token_alone(counting, tokenizer):
    found = generation.continue_prompts(counting, tokenizer, ["8", "2"], generation.Options(samples=3))
    assert texts(found) == ["9"] * 3 + ["3456\n789"] * 3
    assert found["sample"].tolist() == [0, 1, 2] * 2


# Random numbers follow from seed, prompt and sample


def sampled(model, tokenizer, prompts=PROMPTS, **options):
    return generation.continue_prompts(model, tokenizer, prompts, generation.Options(**{"samples": 3, **options}))


@pytest.fixture(scope="module")
def drawn(model, tokenizer):
    return sampled(model, tokenizer)


@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_batch_size_changes_nothing(model, tokenizer, drawn, batch_size):
    pd.testing.assert_frame_equal(sampled(model, tokenizer, batch_size=batch_size), drawn)


def test_other_prompts_and_more_samples_change_nothing(model, tokenizer, drawn):
    first = sampled(model, tokenizer, PROMPTS[:3])
    pd.testing.assert_frame_equal(first, drawn[drawn["prompt"] < 3])
    others = sampled(model, tokenizer, ["a city", *PROMPTS[1:4], "a river " * 9])
    pd.testing.assert_frame_equal(others[others["prompt"].between(1, 3)], drawn[drawn["prompt"].between(1, 3)])
    more = sampled(model, tokenizer, samples=5)
    pd.testing.assert_frame_equal(more[more["sample"] < 3].reset_index(drop=True), drawn)


def test_every_prompt_sample_and_seed_has_numbers_of_its_own(model, tokenizer, drawn):
    same = sampled(model, tokenizer, ["the city"] * 4)
    assert len(set(texts(same))) == 12
    seeds = [texts(drawn), *(texts(sampled(model, tokenizer, seed=seed)) for seed in (1, 2, 2**31))]
    pairs = [set(one) & set(other) for number, one in enumerate(seeds) for other in seeds[:number]]
    assert all(not pair for pair in pairs)


def test_the_same_again_and_no_random_number_of_others_is_taken(model, tokenizer, drawn):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    pd.testing.assert_frame_equal(sampled(model, tokenizer), drawn)
    assert torch.equal(torch.random.get_rng_state(), before)


def nucleus(probabilities, top_p):
    """The distribution that is drawn from, in float64 and in plain words."""
    kept, total = torch.zeros_like(probabilities), 0.0
    for token in sorted(range(len(probabilities)), key=lambda token: -probabilities[token]):
        if total >= top_p:
            break
        kept[token] = probabilities[token]
        total += probabilities[token].item()
    return kept / kept.sum()


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 0.9), (0.7, 0.5), (1.5, 1.0)])
def test_first_tokens_are_as_frequent_as_the_model_has_them(model, tokenizer, temperature, top_p):
    size, prompt = 4000, PROMPTS[1]
    found = sampled(
        model,
        tokenizer,
        [prompt],
        samples=size,
        max_new_tokens=1,
        temperature=temperature,
        top_p=top_p,
        batch_size=size,
    )
    with torch.no_grad():
        logits = model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1].double()
    expected = nucleus((logits / temperature).softmax(dim=-1), top_p)
    by_text: dict[str, float] = {}
    for token, share in enumerate(expected.tolist()):
        text = tokenizer.decode([token], skip_special_tokens=True)  # broken characters look alike
        by_text[text] = by_text.get(text, 0.0) + share
    shares = found["text"].value_counts() / size
    assert set(shares.index) <= {text for text, share in by_text.items() if share > 0}
    for text, share in by_text.items():
        assert shares.get(text, 0.0) == pytest.approx(share, abs=5 * (share * (1 - share) / size) ** 0.5 + 1e-9)


# Drawing, by hand: tokens 3, 0, 5, 1, 4, 2 from the likeliest on, whose sums end at 9, 16, 22, 27, 31 and 32 of 32

BY_HAND = torch.tensor([7, 5, 1, 9, 4, 6]) / 32


@pytest.mark.parametrize(
    ("top_p", "ends"),
    [
        (0.25, {3: 1.0}),
        (0.5, {3: 9 / 16, 0: 1.0}),  # reached exactly: no token more
        (0.51, {3: 9 / 22, 0: 16 / 22, 5: 1.0}),
        (0.9, {3: 9 / 31, 0: 16 / 31, 5: 22 / 31, 1: 27 / 31, 4: 1.0}),
        (1.0, {3: 9 / 32, 0: 16 / 32, 5: 22 / 32, 1: 27 / 32, 4: 31 / 32, 2: 1.0}),
    ],
)
def test_token_is_the_one_whose_stretch_the_number_lies_in(top_p, ends):
    start, uniforms, expected = 0.0, [], []
    for token, end in ends.items():
        uniforms += [start + 1e-6, (start + end) / 2, end - 1e-6]
        expected += [token] * 3
        start = end
    uniforms += [0.0, LARGEST]
    expected += [3, list(ends)[-1]]
    found = generation.draw(BY_HAND.expand(len(uniforms), -1), torch.tensor(uniforms), top_p)
    assert found.tolist() == expected


def test_a_number_where_two_stretches_meet_belongs_to_the_second():
    edges = torch.tensor([9 / 16, 9 / 16 - 2**-24, 0.5, 0.5 - 2**-25])
    assert generation.draw(BY_HAND.expand(2, -1), edges[:2], 0.5).tolist() == [0, 3]
    assert generation.draw(BY_HAND.expand(2, -1), edges[2:], 1.0).tolist() == [5, 0]


def test_every_row_has_its_own_distribution():
    rows = torch.stack([BY_HAND, BY_HAND.flip(0)])
    assert generation.draw(rows, torch.tensor([0.1, 0.1]), 0.9).tolist() == [3, 2]


def distributions(rows, vocabulary, seed=0):
    """Distributions from nearly even to nearly certain, (rows, vocabulary)."""
    random = torch.Generator().manual_seed(seed)
    width = torch.logspace(-2, 1.2, rows)[:, None]
    return (torch.randn(rows, vocabulary, generator=random) * width).softmax(dim=-1)


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999, 1.0])
def test_looking_among_the_likeliest_alone_changes_no_token(monkeypatch, top_p):
    probabilities = distributions(200, 300)
    uniforms = torch.rand(200, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(generation, "LIKELIEST", ())
    whole = generation.draw(probabilities, uniforms, top_p)
    monkeypatch.setattr(generation, "LIKELIEST", (10, 60))
    assert torch.equal(generation.draw(probabilities, uniforms, top_p), whole)
    held = [(probabilities.topk(number).values.sum(dim=-1) >= top_p).sum().item() for number in (10, 60)]
    assert 0 < held[0] < held[1] < 200  # all ways are gone


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("likeliest", [(20,), (5, 20, 100), (512, 2048)])
def test_the_largest_number_gives_the_last_token_of_the_nucleus(monkeypatch, likeliest, top_p):
    monkeypatch.setattr(generation, "LIKELIEST", likeliest)
    probabilities = distributions(200, 300, seed=2)
    probabilities[:, 7] = 0  # a token that must never come
    probabilities /= probabilities.sum(dim=-1, keepdim=True)
    tokens = generation.draw(probabilities, torch.full((200,), LARGEST), top_p)
    own = probabilities.double().gather(1, tokens[:, None])
    before = torch.where(probabilities.double() > own, probabilities.double(), 0.0).sum(dim=-1)
    assert (own > 0).all()
    assert (before < top_p + 1e-6).all()
    # It is the last: with it the nucleus is full, but for what rounding hides.
    assert (before + own[:, 0] > top_p - 1e-6).all()


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 0.9), (0.5, 0.5), (2.0, 0.95), (1.0, 1.0)])
def test_even_numbers_give_the_shares_of_transformers_nucleus(temperature, top_p):
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    size, vocabulary = 20_000, 50
    logits = torch.randn(1, vocabulary, generator=torch.Generator().manual_seed(3)) * 2
    warped = TopPLogitsWarper(top_p)(None, TemperatureLogitsWarper(temperature)(None, logits))
    even = (torch.arange(size) + 0.5) / size
    chosen = generation._Draw(even[:, None], temperature, top_p)(None, logits.expand(size, -1))
    assert ((chosen == 0).sum(dim=-1) == 1).all()
    assert ((chosen == -torch.inf).sum(dim=-1) == vocabulary - 1).all()
    shares = torch.bincount(chosen.argmax(dim=-1), minlength=vocabulary) / size
    # A stretch of an even grid holds its share of the points, but for one at its end.
    torch.testing.assert_close(shares, warped.softmax(dim=-1)[0], rtol=0, atol=1.5 / size)


# Models that are broken, not safe


def as_scores(continuations):
    prompts = pd.DataFrame({"prompt": PROMPTS[:2], "attribute": "A", "kind": "toxic"})
    return toxicity.score(continuations, prompts, {}, {})


def test_model_without_weights_says_nothing_and_that_is_counted(model, tokenizer):
    """All logits are equal; the first token is the end of a text."""
    blank = chain(model, {})
    continuations = generation.continue_prompts(blank, tokenizer, PROMPTS[:2], GREEDY)
    assert texts(continuations) == ["", ""]
    scores = as_scores(continuations)
    assert scores[["empty", "samples", "tokens", "distinct_2"]].to_numpy().tolist() == [[1, 1, 0, 0]] * 2


@pytest.mark.parametrize("options", [GREEDY, generation.Options(samples=2), generation.Options(samples=2, top_p=1.0)])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_says_nothing(counting, tokenizer, options, value):
    """After a 6 the logits aren't finite; texts without one are told."""
    broken = copy.deepcopy(counting)
    [six] = tokenizer("6")["input_ids"]
    with torch.no_grad():
        broken.model.embed_tokens.weight[six] = value
    found = generation.continue_prompts(broken, tokenizer, COUNTED, options)
    expected = ["123456\n789", "6\n789", "", "89"]
    said = generation.continue_prompts(counting, tokenizer, COUNTED, options)
    assert texts(said) == [text for text in expected for _ in range(options.samples)]
    gone = [number for number, text in enumerate(texts(said)) if "6" in text]
    assert found["text"].isna().tolist() == found["tokens"].isna().tolist() == ["6" in text for text in texts(said)]
    pd.testing.assert_frame_equal(
        found.drop(index=gone), said.drop(index=gone), check_dtype=False, check_column_type=False
    )


def test_a_token_that_is_forbidden_is_no_fault(counting, tokenizer):
    """A logit of -inf forbids a token, as some models do with what their vocabulary holds in reserve."""
    made = copy.deepcopy(counting)
    [x] = tokenizer("x")["input_ids"]
    made.lm_head.register_forward_hook(lambda _, inputs, logits: logits.index_fill(-1, torch.tensor([x]), -torch.inf))
    assert texts(generation.continue_prompts(made, tokenizer, COUNTED, GREEDY)) == ["123456\n789", "6\n789", "", "89"]


def test_what_was_not_finite_is_so_after_a_stop(counting, tokenizer, tmp_path, monkeypatch):
    broken = copy.deepcopy(counting)
    with torch.no_grad():
        broken.model.embed_tokens.weight[tokenizer("6")["input_ids"]] = float("nan")
    options = generation.Options(samples=1, temperature=0, batch_size=1)
    whole = generation.continue_prompts(broken, tokenizer, COUNTED, options)

    class Stopped(Exception):
        pass

    class Progress(generation.Progress):
        def step(self, done, **_):
            if done == 3:
                raise Stopped

    monkeypatch.setattr(generation, "Progress", Progress)
    with pytest.raises(Stopped), resume.Checkpoint(tmp_path / "kept", "a", 0) as checkpoint:
        generation.continue_prompts(broken, tokenizer, COUNTED, options, checkpoint)
    monkeypatch.undo()
    assert list(tmp_path.rglob("*.parquet"))
    with resume.Checkpoint(tmp_path / "kept", "a", 0) as checkpoint:
        pd.testing.assert_frame_equal(
            generation.continue_prompts(broken, tokenizer, COUNTED, options, checkpoint), whole
        )
    assert whole["text"].isna().tolist() == [True, True, False, False]


def test_model_that_says_one_word_over_and_over_has_few_distinct_bigrams(model, tokenizer):
    [the] = tokenizer(" the")["input_ids"]
    last = [tokenizer(prompt)["input_ids"][-1] for prompt in PROMPTS[:2]]
    parrot = chain(model, {the: the, **dict.fromkeys(last, the)})
    continuations = generation.continue_prompts(parrot, tokenizer, PROMPTS[:2], generation.Options(samples=3))
    assert set(texts(continuations)) == {" the" * 20}
    scores = as_scores(continuations)
    assert scores["distinct_2"].tolist() == pytest.approx([1 / (3 * 19)] * 2)
    assert scores["empty"].tolist() == [0, 0]


# Options


def test_greedy_decoding_takes_one_sample():
    assert generation.Options(samples=1, temperature=0).samples == 1
    with pytest.raises(InputError, match="greedy decoding gives one continuation, not 4: set samples to 1"):
        generation.Options(temperature=0)


def test_no_two_samples_of_vllm_have_a_seed_in_common(monkeypatch, tmp_path, tokenizer):
    """A stand-in notes what vLLM is asked for; it seeds sample i of a prompt with the prompt's seed plus i."""
    asked = []
    vllm = types.ModuleType("vllm")
    vllm.SamplingParams = lambda **given: asked.append(given)
    vllm.LLM = lambda **_: types.SimpleNamespace(generate=lambda *_, **__: [])
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    for seed in (0, 1):
        options = generation.Options(samples=4, seed=seed)
        vllm_generation.continue_prompts(tmp_path, tokenizer, PROMPTS, options)
    seeds = [given["seed"] + sample for given in asked for sample in range(4)]
    assert len(set(seeds)) == len(seeds) == 2 * 4 * len(PROMPTS)


def test_vllm_that_is_not_installed_is_told_in_one_sentence(tmp_path, tokenizer):
    try:
        import vllm  # noqa: F401
    except ImportError:
        with pytest.raises(InputError, match="not installed beside this workflow: install it, or take transformers"):
            vllm_generation.continue_prompts(tmp_path, tokenizer, PROMPTS, GREEDY)
    else:
        pytest.skip("vLLM is installed")
