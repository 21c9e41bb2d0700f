"""`snakemake plan` in a folder of the user's: what it knows before, and after other jobs ran."""

import json
import re

from workspace import configuration


def plan(workspace, *arguments):
    printed = workspace.snakemake("plan", *arguments)
    assert printed.returncode == 0, printed.stdout
    return (workspace / "results/tiny/logs/plan.log").read_text()


def lines(text, start):
    return [line.split() for line in text.splitlines() if line.startswith(start)]


def test_a_local_model_tables_and_earlier_jobs(fresh):
    first = plan(fresh)
    assert re.search(r"by its config.json: [\d,]+ parameters", first)
    assert "Shards: rivers, dances (counted when `data` has run)" in first
    (model,) = lines(first, "model ")
    assert len(model) == 3, "a folder of the user's: nothing but its name and one job"
    data = fresh / "results/tiny/data"
    data.mkdir(parents=True)
    (data / "attributes.json").write_text(json.dumps([{"attribute": "rivers", "texts": 12}]))
    benchmarks = fresh / "results/tiny/benchmarks/unlearn/rmu/joint"
    benchmarks.mkdir(parents=True)
    (benchmarks / "seed0.tsv").write_text("s\th:m:s\n7200.0\t2:00:00\n")
    second = plan(fresh)
    assert "rivers 12, dances texts" in second
    (joint,) = lines(second, "unlearn rmu: joint")
    assert joint[3:][:8] == ["1", "6", "steps", "of", "4", "+", "4", "texts"]
    assert "2" in joint and "measured" in joint


def test_configuration_can_be_changed_as_for_any_target(fresh):
    (evaluate,) = lines(plan(fresh), "evaluate")
    assert evaluate[1] == "11", "base, two methods' joint runs, their four merges and four single shards"
    (evaluate,) = lines(plan(fresh, "--config", "single_shards=false", "seeds=[1,2]"), "evaluate")
    assert evaluate[1] == "13", "no single shards, and twice as many of all but the base"


def test_no_number_or_name_of_attributes_is_too_much(fresh):
    """A single argument of a program may have 128 KiB, and Snakemake takes braces for wildcards of its own."""
    config = configuration()
    forget = [f"{number:05d} {{seed}} C{{sharp}} 'letters'" for number in range(1000)]
    rmu = config["methods"]["rmu-strong"]
    methods = {f"rmu{number}": rmu for number in range(5)}
    fresh.configure(config, data=config["data"] | {"forget": forget}, methods=methods, single_shards=False)
    text = plan(fresh)
    (shards,) = lines(text, "unlearn rmu4: attribute,")
    assert shards[3] == "2,000"


def test_shards_that_only_the_data_know(fresh):
    fresh.configure(data=configuration()["data"] | {"forget": "all"})
    text = plan(fresh)
    assert "Shards: `forget: all` (counted when `data` has run)" in text
    (shards,) = lines(text, "unlearn rmu: attribute,")
    assert shards[3] == "?"
    data = fresh / "results/tiny/data"
    data.mkdir(parents=True)
    found = [{"attribute": "dances", "texts": 12}, {"attribute": "rivers", "texts": 12}]
    (data / "attributes.json").write_text(json.dumps(found))
    text = plan(fresh)
    assert "Shards: dances 12, rivers 12 texts" in text
    (shards,) = lines(text, "unlearn rmu: attribute,")
    assert shards[3] == "4"
