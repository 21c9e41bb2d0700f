"""Lists of files longer than a command line may be, through Snakemake's shell and real processes."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from snakemake.shell import shell

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def many(tmp_path):
    """Paths of one table, together longer than the system's limit: each goes through 1,500 times the same folder."""
    pd.DataFrame({"value": ["0.10"]}).to_csv(tmp_path / "rows.csv", index=False)
    path = f"{tmp_path}/{'./' * 1500}rows.csv"
    return [path] * (os.sysconf("SC_ARG_MAX") // len(path) + 1)


def test_gather_reads_more_files_than_a_command_line_can_name(tmp_path, monkeypatch, many):
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    rules = [path.read_text().partition("--rows @")[2] for path in (PROJECT / "rules").glob("*.smk")]
    (rule,) = filter(None, rules)
    listed = rule.partition('")')[0].replace("\\\\", "\\")
    command = "{python} {script} --output {output} --rows @" + listed.replace("\\\\", "\\").replace(
        "input.rows", "many"
    )
    output = tmp_path / "all.csv"
    shell(command, python=sys.executable, script=PROJECT / "scripts" / "gather.py", output=output, many=many)
    assert output.read_text() == "value\n" + "0.10\n" * len(many)


def test_as_arguments_they_are_too_many(many):
    with pytest.raises(OSError, match="Argument list too long"):
        subprocess.run(["true", *many], check=True)
