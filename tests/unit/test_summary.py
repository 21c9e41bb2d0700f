from xml.etree import ElementTree

import pandas
import pytest
from evaluations_example import example

from scripts import summarise
from spunge import summary
from spunge.evaluations import NUMBER_COLUMNS, TEXT_COLUMNS, read

ROWS = """
base,,,,,all,data,Africa,forget_texts,7,,,7
base,,,,,all,data,Europe,questions,9,,,9
base,,,,,all,knowledge,Africa,accuracy,0.75,0.5,1,4
base,,,,,all,knowledge,forget mean,accuracy,0.75,0.5,1,4
rmu/joint,rmu,joint,,,all,knowledge,Africa,accuracy,0.25,0.125,0.375,4
rmu/joint/seed0,rmu,joint,,,0,knowledge,Africa,accuracy,0.99,0.98,1,4
rmu/joint/seed1,rmu,joint,,,1,knowledge,Africa,accuracy,0.99,0.98,1,4
rmu/attribute/ties,rmu,attribute,,ties,all,knowledge,Africa,accuracy,0.375,0.25,0.5,4
rmu/attribute/ties,rmu,attribute,,ties,all,knowledge,forget mean,accuracy_minus_joint,-0.125,-0.25,0.0001,4
rmu/attribute/ties,rmu,attribute,,ties,all,fluency,,perplexity,40.256,39,41.5,4
"""


@pytest.fixture
def hand_made(tmp_path):
    header = ",".join([*TEXT_COLUMNS, *NUMBER_COLUMNS])
    rows = ["hand-made," + row for row in ROWS.strip().splitlines()]
    (tmp_path / "evaluations.csv").write_text("\n".join([header, *rows]))
    return read(tmp_path / "evaluations.csv")


def test_the_numbers_are_those_of_the_combined_seeds(hand_made):
    table = summary.table(hand_made).set_index("candidate")
    assert list(table.index) == ["base", "rmu/joint", "rmu/attribute/ties"]
    assert list(table["seeds"]) == [0, 2, 0]
    assert list(table["accuracy: Africa"]) == [0.75, 0.25, 0.375]
    assert list(table["accuracy: Africa low"]) == [0.5, 0.125, 0.25]
    merged = table.loc["rmu/attribute/ties"]
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
    assert {line.count(" & ") for line in rows} == {9}
    assert "\\begin{tabular}{l" + "c" * 9 + "}" in body
    assert body.count("{") == body.count("}")
    assert body.isascii()


def test_html_is_well_formed_and_has_a_row_per_candidate():
    tree = ElementTree.fromstring(summary.html(example()).replace("<br>", "<br/>"))
    assert [len(row) for row in tree.iter("tr")] == [10] * 7


def test_script_writes_four_forms(tmp_path):
    example().to_csv(tmp_path / "evaluations.csv", index=False)
    forms = {"csv": "s.csv", "markdown": "s.md", "latex": "s.tex", "html": "s.html"}
    arguments = [part for form, name in forms.items() for part in (f"--{form}", str(tmp_path / name))]
    assert summarise.main(["--evaluations", str(tmp_path / "evaluations.csv"), *arguments]) == 0
    numbers = pandas.read_csv(tmp_path / "s.csv").set_index("candidate")
    # The prototype's means over both seeds (facts: joint matched .226, SPUNGE .257 on what is forgotten).
    assert numbers.loc["rmu/joint", "accuracy: forget mean"] == pytest.approx(0.226, abs=5e-4)
    assert numbers.loc["rmu/attribute/ties", "accuracy: forget mean"] == pytest.approx(0.257, abs=5e-4)
    assert (tmp_path / "s.md").read_text().count("\n") == 2 + 6
    assert (tmp_path / "s.html").read_text().startswith('<meta charset="utf-8">')
