"""scripts/gather.py against pandas' own concat, and what it says about a table that doesn't fit."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

PROJECT = Path(__file__).resolve().parents[2]


def gather(*tables, output):
    command = [sys.executable, PROJECT / "scripts" / "gather.py", "--output", output, "--rows", *tables]
    return subprocess.run(command, env={"PYTHONPATH": str(PROJECT)}, capture_output=True, text=True)


@pytest.fixture
def tables(tmp_path):
    """Two tables with numbers that a float would write otherwise, an empty cell, quotes, commas and line ends."""
    made = [tmp_path / "one.csv", tmp_path / "two.csv", tmp_path / "none.csv"]
    pd.DataFrame({"attribute": ["NA", "a,b", 'so "called"'], "value": ["0.10", "1e-3", ""]}).to_csv(
        made[0], index=False
    )
    pd.DataFrame({"attribute": ["two\nlines", ""], "value": ["100000000000000000001", "nan"]}).to_csv(
        made[1], index=False
    )
    pd.DataFrame({"attribute": [], "value": []}).to_csv(made[2], index=False)
    return made


def test_all_rows_stand_below_each_other_with_the_digits_that_they_had(tables, tmp_path):
    done = gather(*tables, output=tmp_path / "all.csv")
    assert (done.returncode, done.stderr) == (0, "")
    read = [pd.read_csv(path, dtype=str, keep_default_na=False) for path in tables]
    assert (tmp_path / "all.csv").read_text() == pd.concat(read).to_csv(index=False)


@pytest.mark.parametrize("end", [0, 5, -1, -3, -8])
def test_a_table_that_was_cut_off_is_named(tables, tmp_path, end):
    tables[1].write_text(tables[1].read_text()[:end])
    done = gather(*tables, output=tmp_path / "all.csv")
    said = f"error: {tables[1]} was cut off; remove it and run again\n"
    assert (done.returncode, done.stderr) == (1, said)
    assert sorted(tmp_path.iterdir()) == sorted(tables)


def test_a_table_with_other_columns_is_named_and_nothing_is_written(tables, tmp_path):
    pd.DataFrame({"attribute": ["a"], "score": ["1"]}).to_csv(tables[1], index=False)
    done = gather(*tables, output=tmp_path / "all.csv")
    said = f"error: {tables[1]} has other columns than {tables[0]}; remove it and run again\n"
    assert (done.returncode, done.stderr) == (1, said)
    assert sorted(tmp_path.iterdir()) == sorted(tables)
