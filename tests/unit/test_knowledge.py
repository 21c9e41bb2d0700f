"""Multiple choice through lm-evaluation-harness against plain log-likelihoods."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from spunge.core.tidy import CANDIDATE_COLUMNS
from spunge.evaluation import candidate, knowledge, prefix_sharing_lm, statistics

CITIES = ["Nairobi", "Tokyo", "Yaoundé", "a market", "Yamoussoukro", "old houses 🎉", "東京", "Chișinău"]
COUNTRIES = ["Kenya", "Japan", "France", "Ghana", "Peru", "Fiji", "Oman", "Chad", "Togo", "Mali", "Cuba", "Laos"]
TEMPLATES = ["The capital of {} is", "In the morning, people meet in the city that is the capital of {}:"]


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
    assert list(scores.columns) == ["subject", "attribute", "accuracy", "accuracy_norm", "cut"]
    assert not scores["cut"].any()
    # What the numbers are could be told from no other rule: in full, by characters (the harness's acc_norm), by bytes.
    assert 0 < expected["accuracy"].mean() < 1
    assert (expected["accuracy"] != expected["accuracy_norm"]).any()
    by_bytes = plain_scores(model, tokenizer, questions, lambda choice: len(choice.encode()))
    assert (expected["accuracy_norm"] != by_bytes["accuracy_norm"]).any()


@pytest.mark.parametrize(
    ("changes", "between"),
    [
        ({}, " "),
        ({"question": lambda asked: asked["question"] + "\n\n"}, ""),
        ({"delimiter": ""}, ""),
        ({"delimiter": "\n"}, "\n"),
    ],
)
def test_what_stands_between_question_and_choice(questions, changes, between):
    """A space as by lm-eval's default, none after a line's end, as a chat template's header has, or what is given."""
    asked = questions.assign(**changes)
    task = TaskManager(include_defaults=False).load([knowledge.task(asked)])["tasks"]["knowledge"]
    task.build_all_requests(limit=3)
    texts = ["".join(request.args) for request in task.instances]
    expected = [f"{row.question}{between}{choice}" for row in asked[:3].itertuples() for choice in row.choices]
    assert texts == expected


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
    pairs = [(row.question, choice) for row in questions.itertuples() for choice in row.choices]
    pairs = [pairs[number] for number in torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))]
    pairs += [("the capital of Mali" + " is the market" * 40, choice) for choice in CITIES[:3]] + pairs[
        :2
    ]  # a long one, and two twice
    asked = [
        Instance(request_type="loglikelihood", doc={}, arguments=(question, f" {choice}"), idx=0)
        for question, choice in pairs
    ]
    found = prefix_sharing_lm.PrefixSharingLM(
        pretrained=model, tokenizer=tokenizer, batch_size=batch_size
    ).loglikelihood(asked)
    expected = [likelihoods(model, tokenizer, question, [choice]).item() for question, choice in pairs]
    assert [likelihood for likelihood, _ in found] == pytest.approx(expected, rel=1e-4)


def test_sequences_that_start_alike_share_nodes_and_see_their_own_past_alone():
    """By hand: 5 6 7, 5 6 8 and 9 6 make the tree 5 → 6 → (7, 8) and 9 → 6."""
    packed = prefix_sharing_lm.pack([[5, 6, 7], [5, 6, 8], [9, 6]])
    assert packed.tokens.tolist() == [5, 6, 7, 8, 9, 6]
    assert packed.positions.tolist() == [0, 1, 2, 2, 0, 1]
    assert packed.places == [[0, 1, 2], [0, 1, 3], [4, 5]]
    seen = [[0], [0, 1], [0, 1, 2], [0, 1, 3], [4], [4, 5]]
    assert [row.nonzero().flatten().tolist() for row in packed.visible] == seen


def test_rows_are_filled_to_their_limit_and_no_group_is_split():
    groups = [[[1, 2], [1, 3]], [[1, 2, 4]], [[5]], [[6, 7, 8, 9, 10]]]
    assert prefix_sharing_lm.into_rows(groups, 4) == [[[1, 2], [1, 3], [1, 2, 4]], [[5]], [[6, 7, 8, 9, 10]]]
    assert prefix_sharing_lm.into_rows(groups, 100) == [[sequence for group in groups for sequence in group]]


@pytest.mark.parametrize("row_tokens", [1, 40, 10_000])
def test_log_likelihoods_do_not_depend_on_how_questions_share_rows(
    model, tokenizer, questions, monkeypatch, row_tokens
):
    monkeypatch.setattr(prefix_sharing_lm, "ROW_TOKENS", row_tokens)
    pairs = [(row.question, f" {choice}") for row in questions.itertuples() for choice in row.choices]
    found = prefix_sharing_lm.PrefixSharingLM(pretrained=model, tokenizer=tokenizer, batch_size=7).loglikelihood(
        [Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=0) for pair in pairs]
    )
    expected = [likelihoods(model, tokenizer, question, [choice[1:]]).item() for question, choice in pairs]
    assert [likelihood for likelihood, _ in found] == pytest.approx(expected, rel=1e-4)


def test_whether_greedy_decoding_gives_a_continuation(model, tokenizer):
    """The model's own greedy continuation is told apart from the same one with another last token."""
    context = tokenizer("The capital of Kenya is")["input_ids"]
    tokens = torch.tensor([context])
    for _ in range(3):
        with torch.no_grad():
            tokens = torch.cat([tokens, model(tokens).logits[:, -1:].argmax(dim=-1)], dim=1)
    greedy = tokens[0, len(context) :].tolist()
    other = [*greedy[:-1], (greedy[-1] + 1) % model.config.vocab_size]
    harness = prefix_sharing_lm.PrefixSharingLM(pretrained=model, tokenizer=tokenizer, batch_size=2)
    asked = [(("", ""), context, continuation) for continuation in (greedy, other, greedy[:1])]
    assert [agrees for _, agrees in harness._loglikelihood_tokens(asked)] == [True, False, True]


# Models that are broken, and choices that are equally likely


def test_choices_that_are_equally_likely_share_the_point(model, tokenizer):
    """All logits are equal: a choice's likelihood is the number of its tokens alone."""
    blank = copy.deepcopy(model)
    with torch.no_grad():
        blank.model.norm.weight.zero_()
    choices = [" the", " of", " is", " and"]
    assert {len(tokenizer(choice)["input_ids"]) for choice in choices} == {1}
    rows = [(["the", "of", "is", "and"], answer) for answer in range(4)] + [(["the", "is", "old houses"], 0)]
    rows += [(["the", "is", "old houses"], 2)]
    questions = pd.DataFrame(rows, columns=["choices", "answer"]).assign(
        question="the city", attribute="a", subject=list("ABCDEF")
    )
    scores = knowledge.score(blank, tokenizer, questions, 4)
    assert scores["accuracy"].tolist() == [0.25] * 4 + [0.5, 0.0]
    # By characters "the" and "and" share the first; "old houses" takes 4 tokens for 10 characters.
    assert scores["accuracy_norm"].tolist() == [0.5, 0.0, 0.0, 0.5, *scores["accuracy_norm"][4:]]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_has_no_accuracy(model, tokenizer, questions, value):
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.model.norm.weight.fill_(value)
    scores = knowledge.score(broken, tokenizer, questions, 5)
    assert scores[["accuracy", "accuracy_norm"]].isna().all(axis=None)
    assert list(scores["subject"]) == list(questions["subject"])


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_one_choice_that_is_not_finite_spoils_its_question(value):
    """Whether another one is the likeliest nobody knows; lm-eval itself would count what numpy's argmax says."""
    for broken in (0, 1):
        answers = [(-1.0, False), (-2.0, False)]
        answers[broken] = (value, False)
        sample = {"filtered_resps": answers, "acc": 1.0, "acc_norm": 1.0}
        assert np.isnan([knowledge.sample_score(None, sample, metric) for metric in ("acc", "acc_norm")]).all()


def test_questions_that_were_cut_are_counted(model, tokenizer, questions, capfd):
    short = copy.deepcopy(model)
    short.config.max_position_embeddings = 30
    scores = knowledge.score(short, tokenizer, questions, 5)
    longest = [
        max(len(tokenizer(f"{row.question} {one}")["input_ids"]) for one in row.choices)
        for row in questions.itertuples()
    ]
    assert scores["cut"].tolist() == [float(length > 31) for length in longest]
    number = int(scores["cut"].sum())
    assert 0 < number < len(questions)
    assert (
        f"knowledge: {number} of 24 questions are longer than the model's context of 30 tokens"
        in capfd.readouterr().err
    )
    scores = scores.assign(cluster=scores["subject"], **dict.fromkeys(CANDIDATE_COLUMNS, ""))
    rows = statistics.estimates(scores, "knowledge", statistics.Attributes())
    cut = rows[rows["metric"] == "cut"].set_index("attribute")
    assert cut["value"].to_dict() == scores.groupby("attribute")["cut"].sum().to_dict()
    assert cut["low"].isna().all() and cut["n"].tolist() == [12, 12]
    whole = statistics.estimates(scores.assign(cut=0.0), "knowledge", statistics.Attributes())
    assert "cut" not in set(whole["metric"])


def test_the_accuracy_on_what_is_kept_is_none_where_that_of_one_question_is(model, tokenizer, questions, tmp_path):
    """The mean over attributes; a mean that skips NaN would hide a model that overflows on some questions."""
    asked = questions.assign(attribute=["a"] * 6 + ["b"] * 12 + ["gone"] * 6)
    asked.loc[7, "question"] += " Ω"
    asked.to_parquet(tmp_path / "questions.parquet")
    accuracy = candidate.accuracy_kept(model, tokenizer, tmp_path / "questions.parquet", ["gone"], {"batch_size": 4})
    scores = knowledge.score(model, tokenizer, asked, batch_size=4)["accuracy"]
    assert accuracy() == pytest.approx((scores[:6].mean() + scores[6:18].mean()) / 2)
    (token,) = tokenizer(" Ω", add_special_tokens=False)["input_ids"][-1:]
    hook = model.get_input_embeddings().register_forward_hook(
        lambda _, inputs, embedded: embedded.masked_fill((inputs[0] == token)[..., None], torch.nan)
    )
    broken = knowledge.score(model, tokenizer, asked, batch_size=4)["accuracy"]
    kept = accuracy()
    hook.remove()
    assert broken.isna().sum() == 1 and broken.isna()[7]
    assert np.isnan(kept)


def test_no_second_space_follows_a_question_that_ends_in_one(questions):
    asked = questions.assign(question=questions["question"] + " ")
    task = TaskManager(include_defaults=False).load([knowledge.task(asked)])["tasks"]["knowledge"]
    task.build_all_requests(limit=1)
    assert "".join(task.instances[0].args) == asked["question"][0] + asked["choices"][0][0]
