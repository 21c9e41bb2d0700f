"""Questions asked together against lm-eval's own model, for families whose masks and positions are of other kinds."""

import pytest
import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from spunge.core.errors import InputError
from spunge.evaluation import prefix_sharing_lm
from spunge.evaluation.prefix_sharing_lm import PrefixSharingLM
from spunge.models import base_model

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.2}
LLAMA = SMALL | {"num_key_value_heads": 1, "intermediate_size": 64, "max_position_embeddings": 256}
GEMMA = LLAMA | {"head_dim": 16, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 24}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256, "initializer_range": 0.2}
NEO = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]}
FAMILIES = {
    "Llama": ("Llama", LLAMA, "together"),
    "GPT-2": ("GPT2", GPT2, "together"),
    "Mistral with a window": ("Mistral", LLAMA | {"sliding_window": 24}, "together"),
    "Gemma 2": ("Gemma2", GEMMA, "together"),
    "Gemma 3": ("Gemma3Text", GEMMA, "together"),
    # The window is told by no name that all have, and counted by places in the row.
    "GPT-Neo": ("GPTNeo", NEO | {"window_size": 24, "max_position_embeddings": 256}, "one by one"),
    "Bloom": ("Bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 2, "initializer_range": 0.2}, "one by one"),
    "MPT": ("Mpt", {"d_model": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 256}, "one by one"),
    "Falcon with ALiBi": ("Falcon", SMALL | {"alibi": True}, "one by one"),
    "Mamba": ("Mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}, "one by one"),
}
PLACES = ["Kenya", "Japan", "France", "Ghana", "Peru", "Fiji", "Oman", "Chad", "Togo", "Mali", "Cuba", "Laos"]
TEMPLATES = ["{} is", "The capital of {} is", "In the morning people meet past old houses in the city of {}, which is"]
PAIRS = [
    (template.format(place), choice)
    for template in TEMPLATES
    for place in PLACES
    for choice in (" Nairobi", " Tokyo", " a market", " past old houses")
]


def made(kind, options, vocabulary, **more):
    config = getattr(transformers, f"{kind}Config")(vocab_size=vocabulary, **options, **more)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config).eval()


def asked(lm, pairs=PAIRS):
    requests = [Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=0) for pair in pairs]
    return [likelihood for likelihood, _ in lm.loglikelihood(requests, disable_tqdm=True)]


@pytest.mark.parametrize("family", FAMILIES)
def test_likelihoods_are_lm_evals(tokenizer, family, capfd):
    """The longest questions are beyond the windows; a row holds several windows."""
    kind, options, way = FAMILIES[family]
    model = made(kind, options, len(tokenizer))
    found = asked(PrefixSharingLM(pretrained=model, tokenizer=tokenizer, batch_size=8))
    said = capfd.readouterr().err
    expected = asked(HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8))
    assert found == pytest.approx(expected, abs=1e-4)
    assert len({round(one, 3) for one in expected}) > len(PAIRS) / 2
    assert ("choice by choice" in said) == (way == "one by one"), said
    lengths = [len(tokenizer(question + choice)["input_ids"]) - 1 for question, choice in PAIRS]
    assert min(lengths) < 12 < 24 < max(lengths)


def test_half_precision_is_asked_together(tokenizer, capfd):
    kind, options, _ = FAMILIES["Llama"]
    model = made(kind, options, len(tokenizer), dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    asked(PrefixSharingLM(pretrained=model, tokenizer=tokenizer, batch_size=8))
    assert "choice by choice" not in capfd.readouterr().err


def test_memory_that_runs_out_is_no_reason_for_the_other_way(tokenizer, tiny_base):
    lm = PrefixSharingLM(base_model.load(tiny_base, torch.float32, "cpu"), tokenizer, 8)

    def out_of_memory(*_):
        raise torch.OutOfMemoryError

    lm._model.register_forward_pre_hook(out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        asked(lm)


def test_a_small_difference_is_seen(tokenizer, tiny_base, capfd):
    """Of a model whose mask leaks a little; the likelihoods are about -30."""
    model = base_model.load(tiny_base, torch.float32, "cpu")
    plain = asked(HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8))

    def leak(_, inputs, keywords):
        if keywords.get("attention_mask") is not None:
            keywords["attention_mask"] = keywords["attention_mask"].clamp(min=-15)
        return inputs, keywords

    model.model.register_forward_pre_hook(leak, with_kwargs=True)
    lm = PrefixSharingLM(model, tokenizer, 8)
    requests = [((q, c), tokenizer(q)["input_ids"], tokenizer(c)["input_ids"]) for q, c in PAIRS]
    together = [likelihood for likelihood, _ in lm._score(requests, [[number] for number in range(len(PAIRS))])]
    differences = [abs(one - other) for one, other in zip(together, plain, strict=True)]
    assert 0.003 < max(differences) < 0.2
    assert asked(lm) == pytest.approx(plain, abs=1e-4)
    assert "choice by choice" in capfd.readouterr().err


def test_a_model_is_checked_once_for_the_same_questions_whatever_its_weights(tokenizer, tiny_base, monkeypatch):
    model, plain = base_model.load(tiny_base, torch.float32, "cpu"), []
    own_way = PrefixSharingLM._plainly
    monkeypatch.setattr(PrefixSharingLM, "_plainly", lambda *given: plain.append(len(given[1])) or own_way(*given))
    for pairs, checks in ((PAIRS, 1), (PAIRS, 1), (PAIRS[:40], 2), (PAIRS, 2)):
        model.model.norm.weight.data *= 1.1
        found = asked(PrefixSharingLM(model, tokenizer, 8), pairs)
        assert found == pytest.approx(asked(HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8), pairs), abs=1e-4)
        assert len(plain) == checks


def test_questions_beyond_the_context_are_cut_as_lm_eval_does_and_told(tokenizer, tiny_base):
    model = base_model.load(tiny_base, torch.float32, "cpu")
    model.config.max_position_embeddings = 20
    lm = PrefixSharingLM(model, tokenizer, 8)
    assert asked(lm) == pytest.approx(asked(HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8)), abs=1e-4)
    long = {q for q, choice in PAIRS if len(tokenizer(q + choice)["input_ids"]) > 21}
    assert lm.cut == long and 0 < len(long) < len({question for question, _ in PAIRS})
    with pytest.raises(InputError, match="a choice has 24 tokens, but the model reads 20 at most"):
        asked(lm, [("the city", " is" * 24)])


def test_what_is_not_finite_spoils_no_other_question(tokenizer, tiny_base):
    model = base_model.load(tiny_base, torch.float32, "cpu")
    others = {token for q, c in PAIRS if "Peru" not in q for token in tokenizer(q + c)["input_ids"]}
    peru = min(set(tokenizer(" Peru")["input_ids"]) - others)
    model.config.tie_word_embeddings = False
    with torch.no_grad():
        model.model.embed_tokens.weight[peru] = float("nan")
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.nan_to_num(0.0))
    found = asked(PrefixSharingLM(model, tokenizer, 8))
    assert [one != one for one in found] == ["Peru" in question for question, _ in PAIRS]


@pytest.mark.parametrize("row_tokens", [64, 512])
def test_row_that_is_checked_is_as_full_as_any(tokenizer, row_tokens, monkeypatch):
    monkeypatch.setattr(prefix_sharing_lm, "ROW_TOKENS", row_tokens)
    requests = [((q, c), tokenizer(q)["input_ids"], tokenizer(c)["input_ids"]) for q, c in PAIRS]
    groups = [list(range(start, start + 4)) for start in range(0, len(PAIRS), 4)]
    checked, others = prefix_sharing_lm._divide_for_check(requests, groups)
    assert sorted(checked + others) == groups
    lengths = [len(requests[numbers[0]][1]) for numbers in groups]
    assert {len(requests[numbers[0]][1]) for numbers in checked} >= {min(lengths), max(lengths)}
    nodes = len(
        prefix_sharing_lm.pack([(c + a)[:-1] for n in checked for _, c, a in [requests[one] for one in n]]).tokens
    )
    assert nodes > row_tokens / 2
