"""The page to walk through the results: what its tables hold, and what it does in a browser."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pandas
import pytest
import toxicity_example
from evaluations_example import example, without_budget

from spunge.experiment.records import Candidate
from spunge.report import explore

PROJECT = Path(__file__).parents[2]
BUDGETS = ("kl=0.01", "kl=0.03", "kl=0.1")
SPUNGE, RANDOM, JOINT = "attribute split, TIES (SPUNGE)", "random split, TIES (control)", "joint (all at once)"
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(not BROWSER, reason="Chromium is missing")

# Runs a script in the page when Bokeh has built it, and leaves what it returns as text for `--dump-dom`.
HARNESS = """<script>
(async () => {
  const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds))
  const elements = (root) => [...root.querySelectorAll("*")]
    .flatMap((element) => [element, ...(element.shadowRoot ? elements(element.shadowRoot) : [])])
  const all = (selector) => elements(document).filter((element) => element.matches(selector))
  const model = (name) => [...Bokeh.documents[0].all_models].find((one) => one.name === name)
  const set = async (name, value) => { model(name).value = value; await sleep(200) }  // callbacks run a little later
  let result
  try {
    while (!window.Bokeh?.documents[0]?.roots().length || !Bokeh.documents[0].is_idle) await sleep(50)
    result = await (async () => { SCRIPT })()
  } catch (error) {
    result = { error: `${error} ${error.stack}` }
  }
  const shown = { id: "result", textContent: JSON.stringify(result) }
  document.body.append(Object.assign(document.createElement("pre"), shown))
})()
</script>"""


@pytest.fixture(scope="module")
def template():
    return [(PROJECT / "report" / f"explore.{suffix}").read_text(encoding="utf-8") for suffix in ("html", "js")]


@pytest.fixture(scope="module")
def in_browser(template, tmp_path_factory):
    """A function that makes the page of a table, runs a script in it, and returns what that returned."""

    def run(evaluations, script):
        path = tmp_path_factory.mktemp("page") / "explore.html"
        before, _, after = explore.page(evaluations, *template).rpartition("</body>")
        path.write_text(before + HARNESS.replace("SCRIPT", script) + "</body>" + after, encoding="utf-8")
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--window-size=1400,2000",
            "--virtual-time-budget=60000",
        ]
        arguments = [BROWSER, *options, f"--user-data-dir={path.parent}/profile", "--dump-dom", path.as_uri()]
        shown = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
        result = json.loads(html.unescape(re.search(r'<pre id="result">(.*?)</pre>', shown, re.DOTALL)[1]))
        assert "error" not in result, result
        return result

    return run


def arms(**options):
    """Return an example without single shards: the base model and three arms of each method."""
    table = example(budgets=BUDGETS, **options)
    return table[~table["candidate"].str.contains("/shard/")]


def several(methods):
    """Return a table of many methods, each with three arms."""
    alone = arms()
    of_method = alone[alone["method"] == "rmu"]
    others = [
        of_method.assign(method=method, candidate=of_method["candidate"].str.replace("rmu", method))
        for method in (f"rmu{number}" for number in range(1, methods))
    ]
    return pandas.concat([alone, *others], ignore_index=True)


def test_numbers_are_those_of_the_table_and_the_base_model_stands_at_each_budget():
    numbers, _ = explore.tables(arms())
    kept = numbers[(numbers["metric"] == "accuracy") & (numbers["attribute"] == "forget mean")]
    values = kept.set_index(["model", "budget"])["value"]
    assert list(kept["budget"].unique()) == ["mean over the budgets", *BUDGETS]
    assert list(values.index.unique("model")) == ["base model", JOINT, RANDOM, SPUNGE]
    assert values["base model"].to_list() == pytest.approx([0.8] * 4)
    # The prototype's .2566 is the mean; by the example 5 points from each budget to the next.
    assert values[SPUNGE].to_list() == pytest.approx([0.2566, 0.3066, 0.2566, 0.2066], abs=1e-3)
    assert set(explore.tables(example())[0]["budget"]) == {"as trained"}


def test_differences_name_the_model_that_was_subtracted():
    table = arms()
    _, differences = explore.tables(table)
    pairs = set(differences[["model", "rival"]].itertuples(index=False, name=None))
    of_base = {(model, "base model") for model in (JOINT, RANDOM, SPUNGE)}
    assert pairs == of_base | {(SPUNGE, JOINT), (SPUNGE, RANDOM), (RANDOM, JOINT)}
    assert set(differences["metric"]) == {"accuracy", "accuracy_norm", "perplexity"}
    rows = table[
        (table["seed"] == "all") & (table["candidate"] == "rmu/attribute/merge/ties") & (table["budget"] == "all")
    ]
    expected = rows.set_index(["metric", "attribute"]).loc[("accuracy_minus_random", "forget mean")]
    chosen = differences.query("model == @SPUNGE and rival == @RANDOM and attribute == 'forget mean'").iloc[0]
    assert list(chosen[["value", "low", "high", "p"]]) == list(expected[["value", "low", "high", "p"]])


def test_each_model_leads_to_its_files(template):
    page = explore.page(arms(), *template)
    for seed in ("0", "1"):
        for path in ("rmu/joint", "rmu/attribute/merge/ties"):
            record = Candidate.parse(f"{path}/seed{seed}")
            assert f'href="{record.source("rmu").task_vector}"' in page
            assert f'href="evaluations/{record.path}"' in page
            assert f"spunge.export.provenance results/example {record.path}<" in page


def test_an_arm_that_reaches_too_few_budgets_keeps_its_line():
    table = without_budget(arms(), "rmu/attribute/merge/ties", "kl=0.1")
    lines = [one.data for one in explore._frontier(table).references() if "ys" in getattr(one, "data", {})]
    left = [line["ys"][0] for line in lines if line["model"] == [SPUNGE]]
    assert any(values == pytest.approx([30.66, 25.66, float("nan")], abs=0.1, nan_ok=True) for values in left)


def test_a_broken_model_is_called_so_beside_its_numbers_and_differences():
    numbers, differences = explore.tables(toxicity_example.example())
    broken = numbers[numbers["note"] != ""]
    assert set(broken["model"]) == {"TVN: joint (all at once)", "RMU: joint (all at once)"}
    assert broken["note"].str.startswith("broken: ").all()
    against = differences[differences["rival"].isin(set(broken["model"]))]
    assert len(against) and (against["note"] != "").all()


@needs_browser
def test_the_page_loads_nothing_and_shows_its_parts(in_browser):
    seen = in_browser(
        arms(),
        """return {
          loaded: performance.getEntriesByType("resource").map((entry) => entry.name),
          charts: all(".bk-Figure").length, tables: all(".bk-DataTable").length, rows: all(".slick-row").length,
          headings: all("h2").map((heading) => heading.textContent),
        }""",
    )
    assert seen["loaded"] == []
    assert (seen["charts"], seen["tables"]) == (2, 2)
    assert seen["rows"] == 4 + 4, "four models, and a difference at three budgets and over them"
    assert len(seen["headings"]) == 4


@needs_browser
@pytest.mark.parametrize("methods", [1, 167], ids=["3 candidates", "501 candidates"])
def test_filters_and_sorting_change_the_table(in_browser, methods):
    seen = in_browser(
        several(methods),
        """
        const table = model("numbers"), seen = { first: table.source.data.value.length }
        await set("numbers: model", "spunge")
        seen.spunge = [...table.source.data.model]
        await set("numbers: attribute", "Africa")
        seen.africa = [...table.source.data.attribute]
        await set("numbers: budget", " all")
        seen.budgets = [...table.source.data.budget]
        await set("numbers: model", "no such model")
        seen.none = table.source.data.model.length
        await set("numbers: model", "")
        const values = () => all(".slick-row").map((row) => Number(row.children[3].textContent)).slice(0, 8)
        all(".slick-header-column").find((heading) => heading.textContent === "value").click()
        await sleep(300)
        seen.sorted = values()
        return seen
        """,
    )
    assert seen["first"] == 3 * methods + 1
    assert len(seen["spunge"]) == methods and all("SPUNGE" in name for name in seen["spunge"])
    assert seen["africa"] == ["Africa"] * methods
    assert sorted(set(seen["budgets"])) == [*BUDGETS, "mean over the budgets"] and len(seen["budgets"]) == 4 * methods
    assert seen["none"] == 0
    assert seen["sorted"] == sorted(seen["sorted"]) and len(seen["sorted"]) == 8


@needs_browser
def test_two_models_have_the_difference_that_was_computed_turned_round_or_none(in_browser):
    seen = in_browser(
        arms(methods=("rmu", "npo")),
        f"""
        const table = model("differences"), seen = {{}}
        const rows = () => ["value", "low", "high"].map((name) => table.source.data[name][0])
        const notes = () => all(".bk-Div").map((one) => one.shadowRoot.lastElementChild.textContent)
        const note = () => notes().find((text) => text.includes("Not compared")) ?? ""
        await set("first", "RMU: {SPUNGE}"); await set("second", "RMU: {JOINT}")
        seen.straight = rows()
        await set("first", "RMU: {JOINT}"); await set("second", "RMU: {SPUNGE}")
        seen.round = rows()
        seen.compared = note()
        await set("second", "NPO: {SPUNGE}")
        seen.none = table.source.data.value.length
        seen.note = note()
        return seen
        """,
    )
    value, low, high = seen["straight"]
    assert low < value < high and seen["round"] == [-value, -high, -low]
    assert seen["compared"] == "" and seen["none"] == 0
    assert seen["note"].startswith("Not compared: no interval of the difference")


@needs_browser
def test_pointing_at_a_mark_tells_its_numbers_and_hidden_arms_are_hidden_in_all_charts(in_browser):
    seen = in_browser(
        arms(),
        """
        const ofType = (type) => [...Bokeh.documents[0].all_models].filter((one) => one.type === type)
        const chart = Bokeh.index.find_one(ofType("Figure")[0]), { x_scale, y_scale } = chart.frame
        const marks = chart.model.renderers, spunge = marks[marks.length - 1], { x, y } = spunge.data_source.data
        const area = chart.canvas.events_el, box = area.getBoundingClientRect()
        const at = { clientX: box.x + x_scale.compute(x[1]), clientY: box.y + y_scale.compute(y[1]) }
        const mouse = { pointerType: "mouse", isPrimary: true, bubbles: true, composed: true }
        for (const type of ["pointerover", "pointermove"])
          area.dispatchEvent(new PointerEvent(type, { ...at, ...mouse }))
        await sleep(500)
        const told = all(".bk-tooltip-row-value").map((one) => one.textContent.trim())
        spunge.visible = false
        await sleep(200)
        return { told, hidden: ofType("GlyphRenderer").filter((one) => !one.visible).length }
        """,
    )
    assert seen["told"][:2] == [SPUNGE, "kl=0.03"]
    assert re.fullmatch(r"25\.\d \[\d+\.\d, \d+\.\d\]", seen["told"][2])
    assert seen["hidden"] == 2, "its points in both charts"


@needs_browser
def test_charts_show_one_method_until_another_is_chosen(in_browser):
    seen = in_browser(
        arms(methods=("rmu", "npo")),
        """
        const marks = () => [...Bokeh.documents[0].all_models].filter((one) => one.type === "GlyphRenderer")
        const shown = (mark) => [...mark.view.indices].map((row) => mark.data_source.data.method[row])
        const methods = () => marks().flatMap(shown)
        const seen = [new Set(methods())]
        await set("frontier: method", "npo")
        seen.push(new Set(methods()))
        await set("frontier: method", " all")
        seen.push(new Set(methods()))
        return seen.map((names) => [...names].sort())
        """,
    )
    assert seen == [["rmu"], ["npo"], ["npo", "rmu"]]


@needs_browser
def test_words_of_the_data_are_shown_as_they_are(in_browser):
    seen = in_browser(
        arms(forget=("</script><b id='bold'>&amp;", "all")),
        """
        await set("numbers: attribute", "<" + "/script><b id='bold'>&amp;")
        await sleep(500)
        const shown = all(".slick-row").map((row) => row.textContent)
        await set("numbers: attribute", "all")
        return { bold: all("#bold").length, shown, all: [...model("numbers").source.data.attribute] }
        """,
    )
    assert seen["bold"] == 0 and "</script><b id='bold'>&amp;" in seen["shown"][0]
    assert set(seen["all"]) == {"all"}, "the attribute, not all attributes"
