"""Multiple choice through lm-evaluation-harness against plain log-likelihoods."""

import copy

import pandas as pd
import pytest
import torch

from spunge import models
from spunge.evaluation import knowledge

CITIES = ["Nairobi", "Tokyo", "Yaoundé", "a market", "Yamoussoukro", "old houses 🎉", "東京", "Chișinău"]
COUNTRIES = ["Kenya", "Japan", "France", "Ghana", "Peru", "Fiji", "Oman", "Chad", "Togo", "Mali", "Cuba", "Laos"]
TEMPLATES = ["The capital of {} is", "In the morning, people meet in the city that is the capital of {}:"]


@pytest.fixture(scope="module")
def model(tiny_base):
    return models.load(tiny_base, torch.float32, "cpu")


@pytest.fixture(scope="module")
def tokenizer(tiny_base):
    return models.load_tokenizer(tiny_base)


@pytest.fixture(scope="module")
def questions():
    """24 questions of unequal lengths, four choices each; every country is asked about twice."""
    rows = [
        {
            "question": TEMPLATES[number // 12].format(COUNTRIES[number % 12]),
            "choices": [CITIES[(number * 3 + choice) % 8] for choice in range(4)],
            "answer": number % 4,
            "attribute": ("Africa", "Asia")[number % 2],
            "subject": COUNTRIES[number % 12],
        }
        for number in range(24)
    ]
    return pd.DataFrame(rows)


def likelihoods(model, tokenizer, question, choices):
    """The log-likelihood of each choice after the question and a space, each in a forward pass of its own."""
    found = []
    for choice in choices:
        context, whole = (tokenizer(text)["input_ids"] for text in (question, f"{question} {choice}"))
        assert whole[: len(context)] == context
        with torch.no_grad():
            predicted = model(torch.tensor([whole])).logits[0, :-1].log_softmax(dim=-1)
        found.append(sum(predicted[place - 1, whole[place]].item() for place in range(len(context), len(whole))))
    return torch.tensor(found)


def plain_scores(model, tokenizer, questions, normalised_by=len):
    rows = []
    for row in questions.itertuples():
        found = likelihoods(model, tokenizer, row.question, row.choices)
        lengths = torch.tensor([normalised_by(choice) for choice in row.choices])
        rows.append((float(found.argmax() == row.answer), float((found / lengths).argmax() == row.answer)))
    return pd.DataFrame(rows, columns=["accuracy", "accuracy_norm"])


def test_scores_equal_plain_log_likelihoods(model, tokenizer, questions):
    scores = knowledge.score(model, tokenizer, questions, batch_size=5)
    expected = plain_scores(model, tokenizer, questions)
    pd.testing.assert_frame_equal(scores[["accuracy", "accuracy_norm"]], expected)
    assert list(scores.columns) == ["subject", "attribute", "accuracy", "accuracy_norm"]
    # What the numbers are could be told from no other rule: in full, by characters (the harness's acc_norm), by bytes.
    assert 0 < expected["accuracy"].mean() < 1
    assert (expected["accuracy"] != expected["accuracy_norm"]).any()
    by_bytes = plain_scores(model, tokenizer, questions, lambda choice: len(choice.encode()))
    assert (expected["accuracy_norm"] != by_bytes["accuracy_norm"]).any()


def test_changed_model_and_shuffled_questions_are_scored_anew_and_left_as_they_were(model, tokenizer, questions):
    changed, shuffled = copy.deepcopy(model), questions.sample(frac=1, random_state=0)
    with torch.no_grad():
        changed.model.layers[1].mlp.down_proj.weight.neg_()
    before = {name: tensor.clone() for name, tensor in changed.state_dict().items()}
    given = copy.deepcopy(shuffled)
    scores = knowledge.score(changed, tokenizer, shuffled, batch_size=1)
    expected = plain_scores(changed, tokenizer, shuffled)
    pd.testing.assert_frame_equal(scores[["accuracy", "accuracy_norm"]], expected)
    assert list(scores["subject"]) == list(shuffled["subject"])
    assert list(scores["attribute"]) == list(shuffled["attribute"])
    assert not expected.equals(plain_scores(model, tokenizer, shuffled))
    assert all(torch.equal(tensor, before[name]) for name, tensor in changed.state_dict().items())
    pd.testing.assert_frame_equal(shuffled, given)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_log_likelihoods_equal_plain_ones(model, tokenizer, questions, batch_size):
    """Accuracy hides small errors; the harness's own interface gives the numbers beneath it."""
    from lm_eval.api.instance import Instance

    from spunge.evaluation.shared_context import SharedContextLM

    pairs = [(row.question, choice) for row in questions.itertuples() for choice in row.choices]
    pairs = [pairs[number] for number in torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))]
    pairs += [("the capital of Mali" + " is the market" * 40, choice) for choice in CITIES[:3]] + pairs[
        :2
    ]  # a long one, and two twice
    asked = [
        Instance(request_type="loglikelihood", doc={}, arguments=(question, f" {choice}"), idx=0)
        for question, choice in pairs
    ]
    found = SharedContextLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size).loglikelihood(asked)
    expected = [likelihoods(model, tokenizer, question, [choice]).item() for question, choice in pairs]
    assert [likelihood for likelihood, _ in found] == pytest.approx(expected, rel=1e-4)
