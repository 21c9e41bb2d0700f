from xml.etree import ElementTree

import pandas
import pytest
import toxicity_example
from evaluations_example import example

from scripts import summarise
from spunge.report import summary
from spunge.report.results_table import NUMBER_COLUMNS, TEXT_COLUMNS, classifiers, families, methods, read

ROWS = """
base,,,,,all,,data,Africa,forget_texts,7,,,,7
base,,,,,all,,data,Europe,questions,9,,,,9
base,,,,,all,,knowledge,Africa,accuracy,0.75,0.5,1,,4
base,,,,,all,,knowledge,forget mean,accuracy,0.75,0.5,1,,4
rmu/joint,rmu,joint,,,all,,knowledge,Africa,accuracy,0.25,0.125,0.375,,4
rmu/joint/seed0,rmu,joint,,,0,,knowledge,Africa,accuracy,0.99,0.98,1,,4
rmu/joint/seed1,rmu,joint,,,1,,knowledge,Africa,accuracy,0.99,0.98,1,,4
rmu/attribute/merge/ties,rmu,attribute,,ties,all,,knowledge,Africa,accuracy,0.375,0.25,0.5,,4
rmu/attribute/merge/ties,rmu,attribute,,ties,all,,knowledge,forget mean,accuracy_minus_joint,-0.125,-0.25,0.0001,,4
rmu/attribute/merge/ties,rmu,attribute,,ties,all,,fluency,,perplexity,40.256,39,41.5,,4
"""


@pytest.fixture
def hand_made(tmp_path):
    header = ",".join([*TEXT_COLUMNS, *NUMBER_COLUMNS])
    rows = ["hand-made," + row for row in ROWS.strip().splitlines()]
    (tmp_path / "evaluations.csv").write_text("\n".join([header, *rows]))
    return read(tmp_path / "evaluations.csv")


def test_the_numbers_are_those_of_the_combined_seeds(hand_made):
    table = summary.table(hand_made).set_index("candidate")
    assert list(table.index) == ["base", "rmu/joint", "rmu/attribute/merge/ties"]
    assert list(table["seeds"]) == [0, 2, 0]
    assert list(table["accuracy: Africa"]) == [0.75, 0.25, 0.375]
    assert list(table["accuracy: Africa low"]) == [0.5, 0.125, 0.25]
    merged = table.loc["rmu/attribute/merge/ties"]
    columns = ["accuracy minus joint: forget mean" + end for end in ("", " low", " high")]
    assert list(merged[columns]) == [-0.125, -0.25, 0.0001]
    assert merged["perplexity"] == 40.256
    assert table["accuracy: retain mean"].isna().all()


def test_people_read_percent_signs_and_dashes(hand_made):
    table = summary.readable(hand_made)
    merged = table.loc["attribute split, TIES (SPUNGE)"]
    assert merged["Africa"] == "37.5"
    assert merged["forget mean, against joint ↓"] == "−12.5 [−25.0,\u00a00.0]"
    assert merged["perplexity ↓"] == "40.26 [39.00,\u00a041.50]"
    assert merged["retain mean ↑"] == "–"


def test_every_forget_attribute_is_a_column():
    groups = tuple(f"group {number}" for number in range(13))
    assert list(summary.readable(example(forget=groups)).columns[:13]) == list(groups)


def test_special_characters_are_escaped_in_every_form():
    table = example(forget=("50 % & $x_1$ #{~^\\}", "<b>a|b</b>"))
    latex = summary.latex(table)
    name = r"50 \% \& \$x\_1\$ \#\{\textasciitilde{}\textasciicircum{}\textbackslash{}\}"
    assert f"only {name} &" in latex and f"& {name} &" in latex
    assert r"<b>a\|b\</b>" in summary.markdown(table).replace("\\<", "<").replace("</", "\\</")
    fragment = summary.html(table)
    assert "<b>" not in fragment and "only &lt;b&gt;a|b&lt;/b&gt;" in fragment


def test_latex_is_a_booktabs_tabular_with_as_many_cells_in_every_row():
    latex = summary.latex(example())
    body = latex[latex.index("\\begin{tabular}{l") :]
    assert [body.count(rule) for rule in ("\\toprule", "\\midrule", "\\bottomrule")] == [1, 1, 1]
    rows = [line for line in body.splitlines() if line.endswith(" \\\\")]
    assert len(rows) == 1 + 6
    assert {line.count(" & ") for line in rows} == {10}
    assert "\\begin{tabular}{l" + "c" * 10 + "}" in body
    assert body.count("{") == body.count("}")
    assert body.isascii()


def test_html_is_well_formed_and_has_a_row_per_candidate():
    tree = ElementTree.fromstring(summary.html(example()).replace("<br>", "<br/>"))
    assert [len(row) for row in tree.iter("tr")] == [11] * 7


def test_script_writes_four_forms(tmp_path):
    example().to_csv(tmp_path / "evaluations.csv", index=False)
    forms = {"csv": "s.csv", "markdown": "s.md", "latex": "s.tex", "html": "s.html"}
    arguments = [part for form, name in forms.items() for part in (f"--{form}", str(tmp_path / name))]
    assert summarise.main(["--evaluations", str(tmp_path / "evaluations.csv"), *arguments]) == 0
    numbers = pandas.read_csv(tmp_path / "s.csv").set_index("candidate")
    # The prototype's means over both seeds (facts: joint matched .226, SPUNGE .257 on what is forgotten).
    assert numbers.loc["rmu/joint", "accuracy: forget mean"] == pytest.approx(0.226, abs=5e-4)
    assert numbers.loc["rmu/attribute/merge/ties", "accuracy: forget mean"] == pytest.approx(0.257, abs=5e-4)
    assert (tmp_path / "s.md").read_text().count("\n") == 2 + 6
    assert (tmp_path / "s.html").read_text().startswith('<meta charset="utf-8">')


# Where toxicity was measured


def toxic(**options):
    return toxicity_example.example(
        **{"families": {"tvn": {"tvn": 1.0, "tvn-half": 0.5}}, "merges": ("ties",)} | options
    )


def test_families_and_classifiers_are_told_by_the_table():
    table = toxicity_example.example()
    assert families(table) == {
        "tvn": ("tvn", 1.0),
        "tvn-half": ("tvn", 0.5),
        "tvn-quarter": ("tvn", 0.25),
        "rmu": ("rmu", 1.0),
    }
    assert methods(table) == ["tvn", "tvn-half", "tvn-quarter", "rmu"]
    assert classifiers(table) == ["profanity_check", "word_list"]
    without = example(methods=("rmu", "tvn"))
    assert families(without) == {"rmu": ("rmu", 1.0), "tvn": ("tvn", 1.0)}
    assert classifiers(without) == []


def test_a_method_without_candidates_is_no_method():
    table = example()
    row = table.iloc[:1].assign(candidate="tvn", method="tvn", evaluation="method", attribute="tvn", metric="scale")
    assert methods(pandas.concat([row, table])) == ["rmu"]


def test_the_columns_of_toxicity():
    table = summary.table(toxic()).set_index("candidate")
    assert list(table.columns[4::3]) == [
        *(f"toxic share: {group}" for group in toxicity_example.GROUPS),
        "toxic share: forget mean (profanity_check)",
        "toxic share: forget mean (word_list)",
        "expected maximum of 25",
        "toxic prompts",
        "toxic share: neutral prompts",
        "distinct-2",
        "perplexity",
        "accuracy: retain mean",
        "toxic share minus joint: forget mean",
    ]
    # Of base shares with the mean .2, a quarter is left by the attribute split and .4 by the joint run, at λ = 1.
    spunge = table.loc["tvn/attribute/merge/ties"]
    assert spunge["toxic share: flirtation"] == pytest.approx(0.3 * 0.25)
    assert spunge["toxic share: forget mean (profanity_check)"] == pytest.approx(0.05)
    assert spunge["toxic share: forget mean (word_list)"] == pytest.approx(0.025)
    assert spunge["expected maximum of 25"] == pytest.approx(0.075)
    assert spunge["toxic prompts"] == pytest.approx(0.0625)
    assert spunge["toxic share: neutral prompts"] == pytest.approx(0.005)
    assert spunge["perplexity"] == pytest.approx(64)
    assert spunge["accuracy: retain mean"] == pytest.approx(0.74)
    assert spunge["toxic share minus joint: forget mean"] == pytest.approx(0.05 - 0.08)
    assert table.loc["tvn-half/attribute/merge/ties", "toxic share: flirtation"] == pytest.approx(0.3 * 0.5)


def test_harmless_texts_and_the_worst_group_have_columns_where_they_were_measured():
    rows = toxicity_example.example(benign=True)
    worst = rows[(rows["attribute"] == "flirtation") & rows["metric"].str.startswith("toxic_share")]
    table = summary.table(pandas.concat([rows, worst.assign(attribute="forget worst")])).set_index("candidate")
    spunge = table.loc["tvn/attribute/merge/ties"]
    assert spunge["perplexity: benign"] == pytest.approx(2 * 64)
    assert spunge["toxic share: forget worst"] == pytest.approx(0.3 * 0.25)


def test_people_read_shares_in_percent_and_scores_as_they_are():
    spunge = summary.readable(toxic()).loc["TVN, λ = 1: attribute split, TIES (SPUNGE)"]
    assert spunge["flirtation"] == "7.5"
    assert spunge["toxic, profanity check ↓"] == "5.0 [4.2,\u00a05.8]"
    assert spunge["expected maximum of 25 ↓"] == "0.08 [0.06,\u00a00.09]"
    assert spunge["toxic, against joint ↓"].startswith("−3.0 [")
    assert spunge["general capability ↑"].startswith("74.0 [")
    assert spunge["distinct-2 ↑"] == "0.64"


def test_columns_that_nobody_measured_are_left_out():
    headings = set(summary.readable(toxic(retain=(), classifiers=("word_list",))).columns)
    assert "toxic, word list ↓" in headings
    assert not any("capability" in heading or "profanity check" in heading for heading in headings)
    table = toxic()
    short = table[(table["evaluation"] != "toxicity_neutral") & (table["split"] != "joint")]
    short = short[~short["metric"].str.endswith("_minus_joint")]
    assert not any("neutral" in heading or "joint" in heading for heading in summary.readable(short).columns)


def test_neutral_prompts_of_no_group_stand_in_their_column():
    table = summary.table(toxic(neutral_groups=False)).set_index("candidate")
    assert table.loc["base", "toxic share: neutral prompts"] == pytest.approx(0.02)


def test_broken_models_are_marked_in_every_form():
    table = toxic()
    marked = "TVN, λ = 1: joint (all at once); broken: perplexity 104, 2.6 times the base model's"
    numbers = summary.table(table).set_index("candidate")["label"]
    assert numbers["tvn/joint"] == marked
    assert numbers.str.contains("broken").sum() == 1
    assert marked in summary.markdown(table)
    assert marked.replace("λ", r"$\lambda$") in summary.latex(table)
    assert marked.replace("'", "&#x27;") in summary.html(table)
    assert summary.latex(table).isascii()


def test_open_answers_beside_questions_have_columns_of_their_own_means(hand_made):
    row = hand_made[hand_made["metric"] == "accuracy"].iloc[0].to_dict() | {"evaluation": "answers"}
    told = [("rouge_l_recall", "forget mean", 0.25), ("rouge_l_recall", "retain mean", 0.75)]
    told += [("model_utility", "retain mean", 0.5), ("forget_quality", "forget mean", 0.001)]
    rows = [row | {"metric": metric, "attribute": attribute, "value": value} for metric, attribute, value in told]
    table = summary.readable(pandas.concat([hand_made, pandas.DataFrame(rows)])).iloc[0]
    shown = [table[one].partition(" ")[0] for one in ("ROUGE-L, forget ↓", "model utility ↑", "forget quality ↑")]
    assert shown == ["25.0", "50.0", "1e−03"]
