"""A run that asks open questions alone, as benchmarks of unlearning do: it is tuned, judged and reported by them."""

import json
import re

import pandas as pd
import pytest
from workspace import FORGET, NAMES, PLACES, RETAIN, configuration

from spunge.evaluation import answers
from spunge.report import results_table


@pytest.fixture(scope="module")
def whole(prepared, tmp_path_factory):
    workspace = prepared.copy(tmp_path_factory.mktemp("answers") / "my work")
    rows = [
        {"question": f"Where does {name} of the {topic} come from? ", "answer": PLACES[number % 4], "topic": topic}
        | {"wrong": [place for place in PLACES if place != PLACES[number % 4]], "cluster": name}
        | ({"known": 0.5 + number / 10} if topic in FORGET else {})
        for topic in (*FORGET, *RETAIN)
        for number, name in enumerate(NAMES[topic])
    ]
    (workspace / "tables/answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = configuration()
    del config["methods"]["rmu-strong"], config["data"]["options"]["questions"]
    config["methods"]["rmu"]["tune"] = {"steps": [2, 3]}
    config["data"]["options"]["answers"] = {
        "path": "tables/answers.jsonl",
        "attribute": "topic",
        "retain_model": "known",
    }
    config["data"] |= {"validation": 0.34}
    config |= {"splits": ["joint", "attribute"], "budgets": {"kl": [0.0001, 0.001]}, "single_shards": False}
    config |= {"tuning": {"seeds": [7]}, "evaluations": {"answers": {"max_new_tokens": 4}, "fluency": {}}}
    workspace.configure(config)
    done = workspace.snakemake()
    assert done.returncode == 0, done.stdout
    return workspace


@pytest.mark.slow
def test_every_arm_is_tuned_by_what_it_writes_of_the_validation(whole):
    table = pd.read_csv(whole.results / "tuning.csv")
    assert set(table["split"]) == {"joint", "attribute"} and set(table["metric"]) == {"rouge_l_recall, forget mean"}
    kept = pd.read_parquet(whole.results / "data/validation/answers.parquet")
    test = pd.read_parquet(whole.results / "data/answers.parquet")
    assert not {*kept["cluster"]} & {*test["cluster"]} and len(kept) + len(test) == sum(map(len, NAMES.values()))


@pytest.mark.slow
def test_every_candidate_has_forget_quality_and_model_utility_at_each_budget(whole):
    rows = results_table.read(whole.results / "evaluations.csv")
    rows = rows[(rows["evaluation"] == "answers") & (rows["seed"] == "all")]
    for metric in ("forget_quality", "model_utility"):
        at = rows[rows["metric"] == metric].groupby("candidate")["budget"].agg(set)
        assert at["base"] == {""}
        for candidate in ("rmu/joint", "rmu/attribute/merge/ties"):
            assert at[candidate] == {"kl=0.0001", "kl=0.001", "all"}
    assert rows.loc[rows["metric"] == "forget_quality", "value"].between(0, 1).all()
    assert set(answers.METRICS) <= set(rows["metric"])


@pytest.mark.slow
def test_the_page_and_the_table_tell_them(whole):
    table = (whole.results / "summary.md").read_text()
    headings = set(re.findall(r"\| +([^|]+?) +(?=\|)", table))
    assert {"forget mean ↓", "model utility ↑", "forget quality ↑"} <= headings
    page = (whole.results / "findings.html").read_text()
    assert "forget mean ROUGE-L recall" in page and "model utility" in page
    assert not any(place in page for place in PLACES), "answers are texts of the data"
