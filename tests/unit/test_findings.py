import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from evaluations_example import example

from scripts import findings as findings_script
from spunge import findings
from spunge.evaluations import Estimate

ROOT = Path(__file__).parents[2]
TEMPLATE = (ROOT / "report" / "findings.html").read_text(encoding="utf-8")
NOTHING = float("nan")


def page(table):
    return findings.page(table, TEMPLATE, b"a picture")


def with_difference(table, rival, attribute, value, low, high):
    """Return the table with another difference between the merged attribute split and a rival."""
    rows = (table["metric"] == f"accuracy_minus_{rival}") & (table["attribute"] == attribute)
    rows &= (table["split"] == "attribute") & (table["merge"] != "") & (table["seed"] == "all")
    table.loc[rows, ["value", "low", "high"]] = (value, low, high)
    return table


@pytest.mark.parametrize(
    ("value", "low", "high", "better", "expected"),
    [
        (0.2, 0.1, 0.3, 1, "better"),
        (0.2, 0.1, 0.3, -1, "worse"),
        (-0.2, -0.3, -0.1, 1, "worse"),
        (-0.2, -0.3, -0.1, -1, "better"),
        (0.2, -0.1, 0.3, 1, "not shown"),
        (0.2, 0.0, 0.3, 1, "not shown"),
        (0.0, 0.0, 0.0, 1, "not shown"),
        (-0.2, -0.5, 0.1, 1, "not shown; the estimate is worse"),
        (0.2, -0.1, 0.5, -1, "not shown; the estimate is worse"),
        (0.2, NOTHING, NOTHING, 1, "not shown"),
        (NOTHING, NOTHING, NOTHING, 1, "not measured"),
    ],
)
def test_a_verdict_follows_from_interval_and_direction(value, low, high, better, expected):
    assert findings.verdict(Estimate(value, low, high), better) == expected


def test_verdicts_hold_the_differences_of_the_table():
    judged = findings.verdicts(example()).set_index(["rival", "measure"])
    assert len(judged) == 2 * 4
    # By the prototype's numbers: SPUNGE .257 / .759, joint .226 / .621, random .284 / .675 (forget / retain).
    expected = {
        ("joint", "forget mean accuracy"): (0.031, "not shown; the estimate is worse"),
        ("joint", "retain mean accuracy"): (0.137, "better"),
        ("random", "forget mean accuracy"): (-0.027, "not shown"),
        ("random", "retain mean accuracy"): (0.083, "better"),
        ("joint", "perplexity"): (0.25, "not shown; the estimate is worse"),
        ("random", "perplexity"): (-0.45, "better"),
    }
    for key, (difference, word) in expected.items():
        assert judged.loc[key, "difference"] == pytest.approx(difference, abs=1e-3)
        assert judged.loc[key, "verdict"] == word
        assert judged.loc[key, "seeds"] == 2
    judged = findings.verdicts(example(methods=("rmu", "tvn"), merges=("ties", "dare")))
    assert len(judged) == 4 * 2 * 4


def test_the_answer_follows_the_numbers():
    table = with_difference(example(), "joint", "retain minus forget", -0.1, -0.2, -0.05)
    table = with_difference(table, "random", "retain minus forget", 0.1, -0.02, 0.2)
    (answer,) = findings.answers(table)
    assert "did worse than unlearning everything at once (retain minus forget −10.0 points" in answer
    assert "95 % interval −20.0 to −5.0, seeds: 2" in answer
    assert "is not shown to differ from a random split" in answer
    assert "did better" not in answer
    assert "from 80.0% to 25.7% on what was to be forgotten" in answer
    assert "That it forgot anything at all is not shown." not in answer


def test_an_answer_without_forgetting_says_so():
    (answer,) = findings.answers(with_difference(example(), "base", "forget mean", -0.02, -0.06, 0.02))
    assert answer.endswith("That it forgot anything at all is not shown.")


def test_a_rival_that_was_not_run_is_said_to_be_missing():
    table = example().query("split != 'random'")
    table = table[~table["metric"].str.endswith("_minus_random")]
    assert set(findings.verdicts(table).query("rival == 'random'")["verdict"]) == {"not measured"}
    assert "was not compared with a random split" in findings.answers(table)[0]
    assert "4 comparisons are shown" in page(table)


def test_steps_are_summed_over_shards_and_compared():
    table = example()
    assert findings.steps(table).loc["rmu"].to_dict() == {"attribute": 120, "joint": 120, "random": 120}
    assert "trained for the same number of steps" in page(table)
    short = table[~((table["evaluation"] == "training") & (table["split"] == "joint") & (table["n"] > 60))]
    assert "These are not equal" in page(short)
    assert "were not recorded" in page(table[table["evaluation"] != "training"])


def test_the_page_is_self_contained_and_escaped():
    table = example(forget=("<script>alert(1)</script>", "Asia"))
    text = page(table)
    assert "<script" not in text and "&lt;script&gt;" in text
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?!data:)|url\(|@import""", text.replace('src="data:', ""))
    assert "data:image/png;base64,YSBwaWN0dXJl" in text


def test_the_page_is_well_formed_and_says_what_it_rests_on():
    class Tags(HTMLParser):
        open_tags = ()

        def handle_starttag(self, tag, attributes):
            if tag not in ("meta", "img", "br"):
                self.open_tags = (*self.open_tags, tag)

        def handle_endtag(self, tag):
            assert self.open_tags[-1] == tag
            self.open_tags = self.open_tags[:-1]

    text = page(example(seeds=("0",)))
    tags = Tags()
    tags.feed(text)
    assert tags.open_tags == ()
    assert "This rests on one seed" in text
    assert "8 comparisons are shown" in text
    assert "percentile bootstraps" in text


@pytest.mark.parametrize("table", [example(merges=()), example().iloc[:0], example().query("candidate == 'base'")])
def test_a_page_without_an_answer_says_so(table):
    text = page(table)
    assert "does not answer the question" in text
    assert "There is nothing to judge" in text


def test_script_writes_the_page(tmp_path):
    example().to_csv(tmp_path / "evaluations.csv", index=False)
    (tmp_path / "tradeoff.png").write_bytes(b"a picture")
    arguments = ["--evaluations", str(tmp_path / "evaluations.csv"), "--tradeoff", str(tmp_path / "tradeoff.png")]
    arguments += ["--template", str(ROOT / "report" / "findings.html"), "--html", str(tmp_path / "findings.html")]
    assert findings_script.main(arguments) == 0
    assert (tmp_path / "findings.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
