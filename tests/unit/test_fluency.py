"""Perplexity of prose against the model's own loss, text by text."""

import pandas as pd
import pytest
import torch

from spunge.evaluation import benign, fluency

TEXTS = [
    "the capital of Kenya is Nairobi",
    "a river runs through the city, past old houses and a market where people meet in the morning. " * 3,
    "old houses",
    "the capital of Côte d'Ivoire 🎉",
    "past a market",
    "the",
    "a river runs through",
]


def score(model, tokenizer, batch_size=3, max_tokens=40, texts=TEXTS):
    return fluency.score(model, tokenizer, pd.DataFrame({"text": texts}), batch_size=batch_size, max_tokens=max_tokens)


def test_losses_equal_the_models_own_text_by_text(model, tokenizer):
    scores = score(model, tokenizer)
    lengths = []
    for row, text in enumerate(TEXTS):
        tokens = torch.tensor([tokenizer(text)["input_ids"][:40]])
        lengths.append(tokens.shape[1])
        assert scores["tokens"][row] == lengths[-1] - 1
        if lengths[-1] > 1:
            with torch.no_grad():
                mean = model(tokens, labels=tokens).loss.item()
            assert scores["loss"][row] == pytest.approx(mean * (lengths[-1] - 1), rel=1e-5)
    assert max(lengths) == 40 and min(lengths) == 1  # one text is cut, one has nothing to predict
    assert scores["loss"][lengths.index(1)] == 0


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_batch_size_changes_nothing(model, tokenizer, batch_size):
    found, expected = score(model, tokenizer, batch_size=batch_size), score(model, tokenizer)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-5)


def test_order_of_texts_is_kept(model, tokenizer):
    forward, backward = score(model, tokenizer), score(model, tokenizer, texts=TEXTS[::-1])
    assert backward["loss"].tolist()[::-1] == pytest.approx(forward["loss"].tolist(), rel=1e-5)
    assert list(forward["subject"]) == [str(row) for row in range(len(TEXTS))]
    assert set(forward["attribute"]) == {""}
    assert list(forward.columns) == ["attribute", "subject", "loss", "tokens"]


def test_only_tokens_within_the_limit_count(model, tokenizer):
    short = score(model, tokenizer, max_tokens=5)
    assert short["tokens"].max() == 4
    assert (short["loss"] <= score(model, tokenizer)["loss"] + 1e-5).all()


def test_model_that_knows_nothing_has_the_vocabulary_as_perplexity(model, tokenizer):
    import copy

    blank = copy.deepcopy(model)
    with torch.no_grad():
        blank.model.norm.weight.zero_()
    scores = score(blank, tokenizer)
    perplexity = (scores["loss"].sum() / scores["tokens"].sum()).item()
    assert torch.tensor(perplexity).exp().item() == pytest.approx(model.config.vocab_size, rel=1e-5)


def test_a_loss_that_is_not_finite_stays_so(model, tokenizer):
    import copy

    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("inf"))
    scores = score(broken, tokenizer)
    assert scores.loc[scores["tokens"] > 0, "loss"].isna().all()
    assert scores["tokens"].tolist() == score(model, tokenizer)["tokens"].tolist()


def test_benign_texts_have_the_losses_of_any_prose_and_their_attributes(model, tokenizer):
    texts = pd.DataFrame({"text": TEXTS, "attribute": ["A", "B"] * 3 + ["A"], "cluster": list("uvwxyzu")})
    scores = benign.score(model, tokenizer, texts, batch_size=3, max_tokens=40)
    assert scores["loss"].tolist() == score(model, tokenizer)["loss"].tolist()
    assert scores[["attribute", "cluster"]].equals(texts[["attribute", "cluster"]])
