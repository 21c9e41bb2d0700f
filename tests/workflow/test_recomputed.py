"""A candidate of the finished workspace, computed again by benchmarks/recompute.py, which imports nothing of spunge."""

import pandas as pd

from benchmarks import recompute

CANDIDATE = "rmu/attribute/merge/ties/seed0"


def test_plain_pytorch_gives_the_same_numbers(finished, capsys):
    assert recompute.main([str(finished.results), CANDIDATE]) == 0
    table = capsys.readouterr().out
    for compared in ("task vector of", "TIES of the shards", "questions of accuracy", "questions of accuracy_norm"):
        assert compared in table


def test_another_number_is_seen(changing, capsys):
    path = changing.results / "evaluations" / CANDIDATE / "knowledge.parquet"
    scores = pd.read_parquet(path)
    scores.loc[0, "accuracy"] = 1 - scores.loc[0, "accuracy"]
    scores.to_parquet(path, index=False)
    assert recompute.main([str(changing.results), CANDIDATE]) == 1
    [row] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| questions of accuracy ")]
    assert row.split() == ["|", "questions", "of", "accuracy", "|", "1", "|", "0", "|"]
