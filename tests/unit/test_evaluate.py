"""The evaluation script: all evaluations in one process give what each gives in a process of its own."""

import json
import os
import subprocess
from pathlib import Path

import pandas as pd
import pytest

PROJECT = Path(__file__).parents[2]
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
