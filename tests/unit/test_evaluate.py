"""The evaluation script: all evaluations in one process give what each gives in a process of its own."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import torch

from spunge.evaluation.budget import TOLERANCE
from spunge.models import task_vector

PROJECT = Path(__file__).parents[2]
DOWN = "model.layers.1.mlp.down_proj.weight"
EVALUATIONS = {"knowledge": {"batch_size": 4}, "fluency": {"batch_size": 2, "max_tokens": 16}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    capitals = {"Kenya": "Nairobi", "Japan": "Tokyo", "Ghana": "Accra", "Laos": "Vientiane"}
    questions = [
        {"question": f"The capital of {country} is", "choices": list(capitals.values()), "answer": number}
        | {"attribute": ("Africa", "Asia")[number % 2], "subject": country}
        for number, country in enumerate(capitals)
    ]
    pd.DataFrame(questions).to_parquet(folder / "knowledge.parquet")
    prose = ["a river runs through the city", "old houses and a market", "people meet in the morning, in the city"]
    pd.DataFrame({"text": prose}).to_parquet(folder / "fluency.parquet")
    pd.DataFrame({"text": ["the market in the city", "past a river and old houses"]}).to_parquet(
        folder / "news.parquet"
    )
    (folder / "attributes.json").write_text('[{"attribute": "Africa", "texts": 9}]')
    return folder


def run(python, base, folder, names, output, *further):
    output.mkdir(exist_ok=True)
    described = {"experiment": "tiny", "candidate": "base", "method": "", "split": "", "shard": "", "merge": ""}
    described |= {"seed": "all", "budget": ""}
    command = [python, PROJECT / "scripts" / "evaluate.py", "--dtype=float32", *further]
    command += [f"--evaluations={json.dumps({name: EVALUATIONS[name] for name in names})}"]
    command += [f"--candidate={json.dumps(described)}"]
    command += [f"--base={base.folder}", f"--attributes={folder / 'attributes.json'}"]
    command += ["--data", *(folder / f"{name}.parquet" for name in names)]
    command += ["--scores", *(output / f"{name}.parquet" for name in names)]
    command += ["--rows", *(output / f"{name}.csv" for name in names)]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": str(PROJECT)}, capture_output=True, text=True)


def evaluate(python, base, folder, names, output):
    done = run(python, base, folder, names, output)
    assert done.returncode == 0, done.stderr
    return {path.name: path.read_bytes() for path in output.iterdir()}


def test_evaluations_in_one_process_equal_those_in_their_own(quick_python, tiny_base, folder, tmp_path):
    together = evaluate(quick_python, tiny_base, folder, ["knowledge", "fluency"], tmp_path / "together")
    turned = evaluate(quick_python, tiny_base, folder, ["fluency", "knowledge"], tmp_path / "turned")
    alone = evaluate(quick_python, tiny_base, folder, ["knowledge"], tmp_path / "knowledge")
    alone |= evaluate(quick_python, tiny_base, folder, ["fluency"], tmp_path / "fluency")
    assert set(together) == {f"{name}.{suffix}" for name in EVALUATIONS for suffix in ("parquet", "csv")}
    assert together == turned == alone


def test_a_job_that_goes_on_asks_nothing_twice(quick_python, tiny_base, folder, tmp_path):
    names, output, unfinished = ["knowledge", "fluency"], tmp_path / "output", tmp_path / "unfinished" / "job"
    undisturbed = evaluate(quick_python, tiny_base, folder, names, tmp_path / "undisturbed")
    (output / "fluency.csv").mkdir(parents=True)  # in the way of the last output
    failed = run(quick_python, tiny_base, folder, names, output, f"--unfinished={unfinished}")
    assert failed.returncode != 0 and "fluency: 100%" in failed.stderr
    assert sorted(path.name for path in unfinished.iterdir()) == sorted(names)
    for path in output.iterdir():
        path.rmdir() if path.is_dir() else path.unlink()
    done = run(quick_python, tiny_base, folder, names, output, f"--unfinished={unfinished}")
    assert done.returncode == 0 and "fluency:" not in done.stderr and "Requests" not in done.stderr
    assert [line for line in done.stderr.splitlines() if "going on" in line] == [
        f"going on with the scores of {name} that were kept" for name in names
    ]
    assert {path.name: path.read_bytes() for path in output.iterdir()} == undisturbed
    assert not unfinished.parent.exists()


def at_budgets(python, base, folder, output, size, section, *further):
    """Evaluate the tiny model plus a random edit of this size, or as it is; return what is written by name."""
    if size is not None:
        path, generator = folder / f"{size}.safetensors", torch.Generator().manual_seed(0)
        if not path.exists():  # a job goes on only with the same file
            edit = {DOWN: size * torch.randn(32, 64, generator=generator)}
            task_vector.write(path, {DOWN: (32, 64)}, edit.items(), {"base": base.identity})
        further = [f"--task-vector={path}", *further]
    damage = ["--damaged", folder / "news.parquet", folder / "fluency.parquet"]
    damage += ["--damage", output / "budget.parquet", output / "budget.csv", f"--strengths={output / 'strengths.json'}"]
    names = ["knowledge", "fluency"]
    done = run(python, base, folder, names, output, f"--budgets={json.dumps(section)}", *damage, *further)
    assert done.returncode == 0, done.stderr
    scores = {name: pd.read_parquet(output / f"{name}.parquet") for name in (*names, "budget")}
    rows = {name: pd.read_csv(output / f"{name}.csv", keep_default_na=False) for name in scores}
    return scores, rows, json.loads((output / "strengths.json").read_text()), done.stderr


def test_every_evaluation_is_made_at_each_budget(quick_python, tiny_base, folder, tmp_path):
    section = {"kl": [0.05, 0.2], "as_trained": True, "most": 4.0}
    scores, rows, strengths, _ = at_budgets(quick_python, tiny_base, folder, tmp_path / "at", 0.1, section)
    labels = ["", "kl=0.05", "kl=0.2"]
    assert list(strengths) == labels and strengths[""] == 1.0
    assert all(list(table["budget"].unique()) == labels for table in scores.values())
    by_metric = rows["budget"].set_index(["budget", "metric"])["value"]
    for label, wanted in (("kl=0.05", 0.05), ("kl=0.2", 0.2)):
        assert by_metric[label, "kl"] == pytest.approx(wanted, rel=0.021)
        assert by_metric[label, "scale"] == pytest.approx(strengths[label])
        assert (by_metric[label, "reached"], by_metric[label, "kl_held_out"] > 0) == (1, True)
        # At this λ as at a configured one: the same scores, to the last digit.
        alone = tmp_path / label
        done = run(
            quick_python,
            tiny_base,
            folder,
            ["knowledge", "fluency"],
            alone,
            f"--task-vector={folder / '0.1.safetensors'}",
            f"--scale={strengths[label]!r}",
        )
        assert done.returncode == 0, done.stderr
        for name in ("knowledge", "fluency"):
            of_budget = scores[name][scores[name]["budget"] == label].reset_index(drop=True)
            pd.testing.assert_frame_equal(of_budget, pd.read_parquet(alone / f"{name}.parquet").assign(budget=label))
    assert (rows["knowledge"]["metric"] == "realised_share").sum() == 1


def test_the_base_models_states_computed_once_for_all_candidates_change_nothing(
    quick_python, tiny_base, folder, tmp_path
):
    states, section = tmp_path / "states.safetensors", {"kl": [0.05], "as_trained": False, "most": 4.0}
    command = [quick_python, PROJECT / "scripts" / "base_states.py", "--dtype=float32", f"--base={tiny_base.folder}"]
    command += [f"--reading={json.dumps(EVALUATIONS['fluency'])}", f"--output={states}"]
    command += ["--damaged", folder / "news.parquet", folder / "fluency.parquet"]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": str(PROJECT)}, check=True, capture_output=True)
    alone = at_budgets(quick_python, tiny_base, folder, tmp_path / "alone", 0.1, section)
    shared = at_budgets(quick_python, tiny_base, folder, tmp_path / "shared", 0.1, section, f"--base-states={states}")
    assert shared[2] == alone[2]
    for tables_shared, tables_alone in zip(shared[:2], alone[:2], strict=True):
        for name, table in tables_alone.items():
            pd.testing.assert_frame_equal(tables_shared[name], table, rtol=0, atol=0)


def test_a_budget_of_what_is_kept_is_met_by_the_smallest_factor_that_loses_it(
    quick_python, tiny_base, folder, tmp_path
):
    data, section = tmp_path / "data", {"kept": [0.1], "as_trained": False, "most": 4.0}
    shutil.copytree(folder, data)
    questions = pd.read_parquet(folder / "knowledge.parquet")
    each = pd.concat([questions.assign(answer=answer, attribute="Asia") for answer in range(4)], ignore_index=True)
    each.to_parquet(data / "knowledge.parquet")
    evaluate(quick_python, tiny_base, data, ["knowledge"], tmp_path / "each")
    right = pd.read_parquet(tmp_path / "each" / "knowledge.parquet")["accuracy"] == 1
    each[right].to_parquet(data / "knowledge.parquet")  # what the base model knows; the same is asked as what is kept
    asked = f"--kept={data / 'knowledge.parquet'}"
    scores, rows, strengths, _ = at_budgets(quick_python, tiny_base, data, tmp_path / "at", 0.3, section, asked)
    assert right.sum() == 4 and scores["knowledge"]["accuracy"].mean() <= 0.75
    assert set(scores["knowledge"]["budget"]) == {"kept=0.1"}
    assert rows["budget"].set_index("metric")["value"]["kl"] > 0
    below = strengths["kept=0.1"] / (1 + 2 * TOLERANCE)
    further = [f"--task-vector={data / '0.3.safetensors'}", f"--scale={below!r}"]
    assert run(quick_python, tiny_base, data, ["knowledge"], tmp_path / "below", *further).returncode == 0
    assert pd.read_parquet(tmp_path / "below" / "knowledge.parquet")["accuracy"].mean() == 1


def test_the_base_model_is_the_same_at_every_budget(quick_python, tiny_base, folder, tmp_path):
    section = {"kl": [0.05], "as_trained": False, "most": 4.0}
    scores, rows, _, _ = at_budgets(quick_python, tiny_base, folder, tmp_path / "base", None, section)
    assert all(set(table["budget"]) == {""} for table in scores.values())
    assert rows["budget"].set_index("metric")["value"].to_dict() == {
        "kl_held_out": 0,
        "top1_agreement": 1,
        "perplexity_ratio": 1,
    }


def test_a_budget_that_is_not_reached_has_no_scores(quick_python, tiny_base, folder, tmp_path):
    section = {"kl": [0.05], "as_trained": False, "most": 4.0}
    scores, rows, strengths, _ = at_budgets(quick_python, tiny_base, folder, tmp_path / "weak", 1e-6, section)
    assert strengths == {"kl=0.05": None}
    assert all(table.empty for table in scores.values())
    assert rows["knowledge"].empty and rows["fluency"].empty
    assert rows["budget"][["budget", "metric", "value"]].values.tolist() == [["kl=0.05", "reached", 0.0]]


def quantised(python, base, folder, output, vector, *further):
    output.mkdir()
    described = {"experiment": "tiny", "candidate": "rmu/joint/seed0", "method": "rmu", "split": "joint", "shard": ""}
    described |= {"merge": "", "seed": "0", "budget": ""}
    command = [python, PROJECT / "scripts" / "quantise.py", "--dtype=float32", "--evaluations=quantised_8", "--bits=8"]
    command += [f"--candidate={json.dumps(described)}", f"--attributes={folder / 'attributes.json'}", *further]
    command += [f"--base={base.folder}", f"--task-vector={folder / vector}", "--batch-size=4"]
    command += [f"--questions={folder / 'knowledge.parquet'}"]
    command += [f"--scores={output / 'scores.parquet'}", f"--rows={output / 'rows.csv'}"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(PROJECT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return pd.read_parquet(output / "scores.parquet"), pd.read_csv(output / "rows.csv")


def test_a_model_is_attacked_at_the_strength_of_a_budget(quick_python, tiny_base, folder, tmp_path):
    edit = {DOWN: torch.full((32, 64), 0.1)}
    task_vector.write(folder / "attacked.safetensors", {DOWN: (32, 64)}, edit.items(), {"base": tiny_base.identity})
    (tmp_path / "strengths.json").write_text('{"kl=0.05": 0.25, "kl=5": null}')
    at = [f"--strengths={tmp_path / 'strengths.json'}", "--budget=kl=0.05"]
    attack = (quick_python, tiny_base, folder)
    scores, rows = quantised(*attack, tmp_path / "budget", "attacked.safetensors", *at)
    alone, _ = quantised(*attack, tmp_path / "alone", "attacked.safetensors", "--scale=0.25")
    pd.testing.assert_frame_equal(scores, alone.assign(budget="kl=0.05"))
    assert set(rows["budget"]) == {"kl=0.05"}
    out_of_reach = [*at[:1], "--budget=kl=5"]
    scores, rows = quantised(*attack, tmp_path / "unreached", "attacked.safetensors", *out_of_reach)
    assert scores.empty and rows.empty


def test_a_job_at_budgets_goes_on_where_it_was(quick_python, tiny_base, folder, tmp_path):
    section = {"kl": [0.05, 0.2], "as_trained": False, "most": 4.0}
    undisturbed = at_budgets(quick_python, tiny_base, folder, tmp_path / "undisturbed", 0.1, section)
    output, unfinished = tmp_path / "output", f"--unfinished={tmp_path / 'unfinished' / 'job'}"
    (output / "strengths.json").mkdir(parents=True)  # in the way of the last output
    with pytest.raises(AssertionError, match="strengths"):
        at_budgets(quick_python, tiny_base, folder, output, 0.1, section, unfinished)
    (output / "strengths.json").rmdir()
    *found, said = at_budgets(quick_python, tiny_base, folder, output, 0.1, section, unfinished)
    assert [table.equals(found[0][name]) for name, table in undisturbed[0].items()] == [True] * 3
    assert found[2] == undisturbed[2]
    assert said.count("going on with the scores") == 4 and "passes" not in said
    assert not (tmp_path / "unfinished").exists()
