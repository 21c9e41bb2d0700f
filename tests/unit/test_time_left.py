"""What is left in time, by hand, and in a real run of Snakemake."""

import importlib.util
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

TERMINAL = Path(__file__).parents[2] / "profiles/terminal"
PLUGIN = TERMINAL / "snakemake_logger_plugin_time_left/__init__.py"
specification = importlib.util.spec_from_file_location("time_left", PLUGIN)
time_left = importlib.util.module_from_spec(specification)
specification.loader.exec_module(time_left)

SNAKEFILE = """
rule all:
    input: expand("{n}.txt", n=range(3))
rule wait:
    output: "{n}.txt"
    shell: "sleep 0.6; touch {output}"
"""


class Run:
    """A column that is told of jobs at times of our own."""

    def __init__(self, **jobs):
        self.now = 0.0
        self.column = time_left.TimeLeft(lambda: self.now)
        self.column.note(SimpleNamespace(event=LogEvent.RUN_INFO, stats=jobs | {"all": 1, "total": 9}))

    def start(self, job, rule):
        self.column.note(SimpleNamespace(event=LogEvent.JOB_INFO, jobid=job, rule_name=rule))

    def end(self, job):
        self.column.note(SimpleNamespace(event=LogEvent.JOB_FINISHED, job_id=job))


def test_each_rule_counts_with_its_own_mean():
    run = Run(download=2, evaluate=3)
    assert run.column.seconds() is None
    run.start(1, "download")
    run.now = 2
    run.end(1)
    assert run.column.seconds() == 2 + 3 * 2, "evaluations are taken to be like what has ended"
    run.start(2, "evaluate")
    run.now = 42
    run.end(2)
    assert run.column.seconds() == 2 + 2 * 40
    run.start(3, "evaluate")
    run.now = 52
    assert run.column.seconds() == 2 + 2 * 40 - 10, "what runs has a part behind it"
    run.now = 142
    assert run.column.seconds() == 2 + 40, "and is never taken to be over"


def test_jobs_that_run_at_once_share_the_time():
    run = Run(evaluate=6)
    run.start(1, "evaluate")
    run.start(2, "evaluate")
    run.now = 30
    run.end(1)
    run.end(2)
    assert run.column.seconds() == 4 * 30 / 2


def test_a_failed_job_is_still_to_be_done():
    run = Run(evaluate=2)
    run.start(1, "evaluate")
    run.now = 10
    run.end(1)
    run.start(2, "evaluate")
    run.column.note(SimpleNamespace(event=LogEvent.JOB_ERROR, jobid=2))
    assert run.column.seconds() == 10


@pytest.mark.slow
def test_snakemake_shows_it_on_a_terminal(tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    ours, theirs = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(TERMINAL), "COLUMNS": "120", "TERM": "xterm"}
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--logger", "time-left"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=theirs, close_fds=True
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while block := os.read(ours, 65536):
                shown += block
        except OSError:  # a terminal's end of file
            pass
    assert process.returncode == 0, shown.decode()
    assert re.search(r"about 0:0\d left", shown.decode()), shown.decode()
