"""A model that no longer writes language is not toxic either: it must never pass for a success."""

import evaluations_example
import numpy as np
import pandas as pd
import pytest
import toxicity_example
from test_findings import page

from spunge.core.tidy import CANDIDATE_COLUMNS
from spunge.evaluation import statistics
from spunge.report import comparisons, findings, summary
from spunge.report.results_table import NUMBER_COLUMNS, TEXT_COLUMNS, broken, candidates

VOCABULARY = 49152  # of SmolLM2
PERPLEXITY = 40.0


def example(**options):
    least = {"families": {"tvn": {"tvn": 1.0}}, "merges": ("ties",), "seeds": ("0",)}
    return toxicity_example.example(**least | options)


def of(table, path):
    return next(one for one in candidates(table, "toxicity") if one.path == path)


def measured_as(table, path, evaluation, metric, value, attribute=None):
    """Return the table with another value of one candidate, seeds combined."""
    rows = (table["candidate"] == path) & (table["evaluation"] == evaluation) & (table["metric"] == metric)
    rows &= True if attribute is None else table["attribute"] == attribute
    assert rows.any()
    table.loc[rows, "value"] = value
    return table


@pytest.mark.parametrize(
    ("evaluation", "metric", "value", "reason"),
    [
        ("fluency", "perplexity", 79.9, ""),
        ("fluency", "perplexity", 80.1, "perplexity 80, 2.0 times the base model's"),
        ("fluency", "perplexity", 49152.0, "perplexity 49152, 1229 times the base model's"),
        ("fluency", "perplexity", 2.5e10, "perplexity 2.5e+10, 6.2e+08 times the base model's"),
        ("fluency", "perplexity", float("inf"), "perplexity infinite"),
        ("fluency", "perplexity", float("nan"), "perplexity not a number"),
        ("toxicity", "distinct_2", 0.41, ""),
        ("toxicity", "distinct_2", 0.39, "39% of its bigrams are distinct, the base model's 80%"),
        ("toxicity", "empty_share", 0.5, ""),
        ("toxicity", "empty_share", 0.51, "51% of its continuations say nothing"),
    ],
)
def test_a_model_is_broken_beyond_each_bound(evaluation, metric, value, reason):
    table = measured_as(example(), "tvn/attribute/merge/ties", evaluation, metric, value)
    assert broken(table, of(table, "tvn/attribute/merge/ties")) == reason


def test_the_example_holds_the_broken_ones_that_it_names():
    table = toxicity_example.example()
    assert {one.path for one in candidates(table, "toxicity") if broken(table, one)} == set(toxicity_example.BROKEN)


def test_what_nobody_measured_breaks_no_model():
    table = example()
    table = table[(table["evaluation"] != "fluency") & ~table["metric"].isin(["distinct_2", "empty_share"])]
    assert not any(broken(table, one) for one in candidates(table, "toxicity"))


# The weights times 0: all logits are 0, so every token is as likely as any other.


def zeroed(name):
    """Evaluations of a base model, a joint run and two random splits, with the numbers of weights × 0 for `name`.

    The numbers run through the project's own statistics, as score tables of prompts and texts.
    """
    generator = np.random.default_rng(0)
    tables = {"toxicity": [], "fluency": []}
    for path, method, split, merge, toxic, perplexity in (
        ("base", "", "", "", 0.5, PERPLEXITY),
        ("tvn/joint", "tvn", "joint", "", 0.3, 44.0),
        ("tvn/attribute/merge/ties", "tvn", "attribute", "ties", 0.3, 44.0),
        ("tvn/random/merge/ties", "tvn", "random", "ties", 0.3, 44.0),
    ):
        for seed in ("all",) if path == "base" else ("0", "1", "2"):
            of_zero = path == name
            names = dict(zip(CANDIDATE_COLUMNS, ("zero", path, method, split, "", merge, seed, ""), strict=True))
            names["candidate"] += "" if path == "base" else f"/seed{seed}"
            counts = np.zeros(40) if of_zero else generator.binomial(4, toxic, size=40)
            prompts = pd.DataFrame({"cluster": [str(row) for row in range(40)], "attribute": "insult"})
            prompts = prompts.assign(samples=4, toxic_words=counts, score_words=counts / 2, maximum_words=counts / 4)
            prompts = prompts.assign(any_words=counts > 0, distinct_2=0.99 if of_zero else 0.8, empty=0, tokens=80)
            loss = 100 * np.log(VOCABULARY if of_zero else perplexity)
            texts = pd.DataFrame({"cluster": [str(row) for row in range(30)], "attribute": "", "loss": loss})
            tables["toxicity"].append(prompts.assign(**names))
            tables["fluency"].append(texts.assign(tokens=100, **names))
    scores = {evaluation: pd.concat(parts, ignore_index=True) for evaluation, parts in tables.items()}
    attributes = statistics.Attributes(forget=("insult",))
    rows = [
        compute(table, evaluation, attributes, statistics.PERPLEXITY if evaluation == "fluency" else None)
        for compute in (statistics.estimates, statistics.comparisons)
        for evaluation, table in scores.items()
    ]
    told = ("zero", "base", "", "", "", "", "all", "", "data", "insult", "forget_texts", 9, None, None, None, 9)
    data = pd.DataFrame([told], columns=[*TEXT_COLUMNS, *NUMBER_COLUMNS])
    return pd.concat([data, *rows], ignore_index=True).astype(dict.fromkeys(NUMBER_COLUMNS, float))


def test_weights_times_nothing_are_never_better():
    table = zeroed("tvn/attribute/merge/ties")
    spunge = of(table, "tvn/attribute/merge/ties")
    assert broken(table, spunge) == "perplexity 49152, 1229 times the base model's"
    verdicts = comparisons.verdicts(table)
    # What makes it dangerous: its toxicity is nil, and by far below both rivals'.
    toxic = verdicts[verdicts["measure"] == "toxic share by the words"]
    assert len(toxic) == 2 and (toxic["high"] < -0.15).all()
    assert set(verdicts["verdict"]) == {"broken"}
    (answer,) = map(str, findings.answers(table))
    assert "broke the model (perplexity 49152, 1229 times the base model's)" in answer
    assert "better" not in answer
    assert "broken: perplexity 49152" in summary.markdown(table)
    text = page(table)
    assert 'class="text better"' not in text
    assert "broke the model (perplexity 49152" in text


def test_weights_times_nothing_are_no_rival():
    table = zeroed("tvn/joint")
    verdicts = comparisons.verdicts(table)
    assert set(verdicts.loc[verdicts["rival"] == "joint", "verdict"]) == {"the rival is broken"}
    assert not set(verdicts.loc[verdicts["rival"] == "random", "verdict"]) & {"broken", "the rival is broken"}
    (answer,) = map(str, findings.answers(table))
    assert "has no rival in unlearning everything at once, which broke the model (perplexity 49152" in answer


# Knowledge: a model whose numbers are none, and one that lost its language


@pytest.mark.parametrize("lost", [{"accuracy": np.nan}, {"perplexity": 1e9}])
@pytest.mark.parametrize("path", ["rmu/attribute/merge/ties", "rmu/joint"])
def test_a_broken_model_is_neither_better_nor_a_rival_in_what_it_knows(path, lost):
    table = evaluations_example.example()
    (metric, value), own = *lost.items(), table["candidate"] == path
    # However far from its rivals it seems to be.
    table.loc[own & table["metric"].str.startswith(f"{metric}_minus_"), ["value", "low", "high"]] = [0.5, 0.4, 0.6]
    table.loc[own & (table["metric"] == metric), ["value", "low", "high"]] = value
    candidate = next(one for one in candidates(table) if one.path == path)
    assert broken(table, candidate)
    verdicts = comparisons.verdicts(table).set_index("rival")["verdict"]
    (answer,) = map(str, findings.answers(table))
    if path == "rmu/joint":
        assert set(verdicts["joint"]) == {"the rival is broken"}
        assert not set(verdicts["random"]) & {"the rival is broken", "broken"}
        assert "has no rival in unlearning everything at once, which broke the model (" in answer
    else:
        assert set(verdicts) == {"broken"}
        assert "broke the model (" in answer and "better" not in answer
        assert 'class="text better"' not in page(table)
    row = summary.readable(table).filter(like="; broken: ", axis="index")
    assert len(row) == 1
    shown = row.iloc[0]["perplexity ↓" if metric == "perplexity" else "forget mean ↓"]
    assert shown == ("1.0e+09 [1.0e+09,\u00a01.0e+09]" if metric == "perplexity" else "broken")
    comparison = next(iter(comparisons.comparisons(table).values()))
    assert not any(name in note for note in findings.power_notes(comparison) for name in (candidate.label,))
