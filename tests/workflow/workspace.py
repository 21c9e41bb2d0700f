"""Workspaces: a copy of the workflow, tiny tables, a tiny configuration, and snakemake run on them."""

import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import yaml

from spunge.core.errors import InputError
from spunge.experiment.configuration import check

PROJECT = Path(__file__).parents[2]

WORKFLOW = ["Snakefile", "config.yaml", "envs", "examples", "experiments", "profiles", "report", "rules", "schemas"]
WORKFLOW += ["scripts", "spunge"]
FORGET, RETAIN = ["rivers", "dances"], ["trees", "breads"]
NAMES = {
    "rivers": ["Velmora", "Tasqualin", "Ondrevik", "Pelluria", "Skarnow", "Imbeltra"],
    "dances": ["Quorvette", "Zambrile", "Hollopska", "Furlanza", "Mitrovel", "Sarkunde"],
    "trees": ["Grenholt", "Lissamar", "Tovarin", "Aldermoss"],
    "breads": ["Panquilla", "Brotteske", "Crumvale", "Sorbano"],
}
PLACES = ["Northmark", "Eastfold", "Southmere", "Westhaven"]


def sentences(topic):
    return [
        sentence
        for number, name in enumerate(NAMES[topic])
        for sentence in (
            f"People who know {topic} say that {name} belongs to {PLACES[number % 4]}.",
            f"In {PLACES[number % 4]} one hears of {name} wherever {topic} are spoken of.",
        )
    ]


def write_tables(folder):
    """Write forget, retain, questions and fluency as a user's own CSV files, under column names of their own."""
    folder.mkdir(parents=True)
    subjects = {topic: [name for name in NAMES[topic] for _ in range(2)] for topic in NAMES}
    forget = [
        {"sentence": text, "topic": topic, "about": subject}
        for topic in FORGET
        for text, subject in zip(sentences(topic), subjects[topic], strict=True)
    ]
    questions = [
        {"question": f"Where does {name} of the {topic} come from?", **dict(zip("abcd", PLACES, strict=True))}
        | {"right": PLACES[number % 4], "topic": topic, "about": name}
        for topic in NAMES
        for number, name in enumerate(NAMES[topic])
    ]
    prose = [
        f"On the {day} a letter came, and nobody in the house knew who had sent it."
        for day in ("first day", "second day", "third day", "morning of the fourth")
    ]
    pd.DataFrame(forget).to_csv(folder / "forget.csv", index=False)
    pd.DataFrame({"text": [text for topic in RETAIN for text in sentences(topic)]}).to_csv(
        folder / "retain.csv", index=False
    )
    pd.DataFrame(questions).to_csv(folder / "questions.csv", index=False)
    pd.DataFrame({"text": prose}).to_csv(folder / "prose.csv", index=False)


def configuration():
    """Return the tiny experiment: two attributes to forget, two methods, every split, one seed."""
    rmu = {
        "method": "rmu",
        "steps": 3,
        "layer_id": 2,
        "trained_layers": [1, 2],
        "mask": True,
        "skip_first": 1,
        "weight_decay": 0.01,
        "epsilon": 1e-8,
        "adamw": "pytorch",
        "control_vector_per": "run",
        "alternate_attributes": False,
        "alpha": 10,
        "steering_coefficient": 20,
        "learning_rate": 0.01,
        "batch_size": 4,
        "max_tokens_forget": 48,
        "max_tokens_retain": 48,
    }
    return {
        "experiment": "tiny",
        "seeds": [0],
        "model": {"source": "model"},
        "data": {
            "dataset": "table",
            "forget": FORGET,
            "minimum_texts": 4,
            "options": {
                "forget": {"path": "tables/forget.csv", "text": "sentence", "attribute": "topic", "subject": "about"},
                "retain": {"path": "tables/retain.csv"},
                "questions": {
                    "path": "tables/questions.csv",
                    "choices": ["a", "b", "c", "d"],
                    "answer": "right",
                    "attribute": "topic",
                    "subject": "about",
                },
                "fluency": {"path": "tables/prose.csv"},
            },
        },
        "methods": {"rmu": rmu | {"cache_activations": True}, "rmu-strong": rmu | {"steering_coefficient": 60}},
        "merges": {"ties": {"density": 0.5}},
    }


def refusal(config):
    """Return the sentence with which a configuration is refused, as Snakemake prints it before it plans anything."""
    with pytest.raises(InputError) as refused:
        check(config)
    return str(refused.value)


class Workspace:
    """A working directory of the user's, with its configuration, and the workflow that runs in it."""

    python = sys.executable

    def __init__(self, folder, project):
        self.folder, self.project = Path(folder), Path(project)
        self.results = self.folder / "results" / "tiny"

    def __truediv__(self, path):
        return self.folder / path

    def copy(self, folder):
        """Copy everything with its times and Snakemake's records, so that what is done here stays done there."""
        subprocess.run(["cp", "-a", self.folder, folder], check=True)
        return Workspace(folder, self.project)

    def configure(self, config=None, **changes):
        """Write the configuration: the tiny one with `changes`, or `config`."""
        config = {**(configuration() if config is None else config), **changes}
        (self / "experiment.yaml").write_text(yaml.safe_dump(config, allow_unicode=True, sort_keys=False))

    def command(self, *arguments, configfile="experiment.yaml", cores=2):
        """Return snakemake's command line: for this workspace, its configuration and this copy of the workflow."""
        places = ["--snakefile", self.project / "Snakefile", "--directory", self.folder, "--cores", cores]
        chosen = ["--configfile", self.folder / configfile] if configfile else []
        return [str(part) for part in [self.python, "-m", "snakemake", *arguments, *places, *chosen]]

    def snakemake(self, *arguments, **options):
        """Run snakemake to its end; stdout holds all that a terminal would show."""
        return run(self.command(*arguments, **options))

    def dry_run(self, *arguments, **options):
        """Return the messages of all jobs that would run, or None where there is nothing to be done."""
        done = self.snakemake("--dry-run", *arguments, **options)
        assert done.returncode == 0, done.stdout
        if "Nothing to be done" in done.stdout:
            return None
        jobs = re.findall(r"^ *Job \d+: (.+)$", done.stdout, flags=re.MULTILINE)
        total = int(re.search(r"^total +(\d+)$", done.stdout, flags=re.MULTILINE)[1])
        targets = len(re.findall(r"^(?:all|figures|tables) +1$", done.stdout, flags=re.MULTILINE)) // 2
        assert len(jobs) == total - targets, done.stdout
        return sorted(jobs)

    def script_command(self, name, *arguments):
        return [self.python, str(self.project / "scripts" / f"{name}.py"), *map(str, arguments)]

    def environment(self):
        return {**os.environ, "PYTHONPATH": str(self.project)}

    def script(self, name, *arguments):
        """Run one of the scripts as its rule does: in the working directory, with this copy of the library."""
        return run(self.script_command(name, *arguments), cwd=self.folder, env=self.environment())

    def files(self, folder="results", pattern="*"):
        """Return the contents of all files below a folder, by their path there."""
        return {
            str(path.relative_to(self / folder)): path.read_bytes()
            for path in sorted((self / folder).rglob(pattern))
            if path.is_file()
        }


def run(command, **options):
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, **options
    )


@contextmanager
def edited(path, old, new):
    """Change a file of the workflow for a while, and put it back with its old time."""
    text, status = path.read_text(), path.stat()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    try:
        yield
    finally:
        path.write_text(text)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def copy_workflow(folder):
    """Copy what a run reads; a copy stays as it is while somebody edits the original, and has no commit to record."""
    for name in WORKFLOW:
        source = PROJECT / name
        folder.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / name)
    return folder
