"""The wrapper of OpenUnlearning's trainers, against a stand-in of its command line: the real one is on no registry."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from spunge.core.errors import InputError
from spunge.methods import command
from spunge.models import task_vector

WRAPPER = Path(__file__).parents[2] / "examples" / "open-unlearning" / "train.py"
# Reads Hydra's overrides as far as the wrapper writes them, and doubles a norm of the model that it is told of.
STAND_IN = r"""
import json, os, re, shutil, sys
from safetensors.torch import load_file, save_file

def read(value):
    return re.sub(r"(\\*)\\'|(\\*)\Z", lambda end: (end[1] or "") + ("'" if end[0].endswith("'") else "")
                  + (end[2] or "")[: len(end[2] or "") // 2], value[1:-1]) if value[:1] == "'" else value

chosen = dict(part.split("=", 1) for part in sys.argv[1:] if "=" in part)
values = {key.lstrip("+"): read(value) for key, value in chosen.items()}
base, output = values["model.model_args.pretrained_model_name_or_path"], values["paths.output_dir"]
shutil.copytree(base, output)
tensors = load_file(os.path.join(base, "model.safetensors"))
tensors["model.norm.weight"] *= 2
os.unlink(os.path.join(output, "model.safetensors"))
save_file(tensors, os.path.join(output, "model.safetensors"), metadata={"format": "pt"})
with open("told.json", "w") as told:
    json.dump({"arguments": sys.argv[1:], "values": values, "folder": os.getcwd()}, told)
sys.exit(int(values.get("code", 0)))
"""


@pytest.fixture
def clone(tmp_path):
    (tmp_path / "a clone" / "src").mkdir(parents=True)
    (tmp_path / "a clone" / "src" / "train.py").write_text(STAND_IN)
    return tmp_path / "a clone"


def unlearn(run_in, tmp_path, clone, *further):
    """Run the wrapper through the door for programs, in a folder whose name Hydra could stumble over."""
    folder = tmp_path / "Joan's, =x\\"
    run = run_in(folder, ["the capital of Kenya is Nairobi"], ["a river runs"], "NPO/attribute/shard/a/seed3")
    words = (
        f"'{sys.executable}' '{WRAPPER}' --repository '{clone}' --trainer NPO --base {{base}} --forget {{forget}}"
        " --retain {retain} --output {output} --steps {steps} --seed {seed} --learning-rate 1e-4"
    )
    return folder, command.unlearn(run, command.Options(command=" ".join([words, *further]), steps=7))


def test_what_a_program_is_told_becomes_overrides(tiny_base, run_in, tmp_path, clone):
    folder, unlearned = unlearn(run_in, tmp_path, clone, "trainer.method_args.beta=0.5")
    told = pd.read_json(clone / "told.json", typ="series")
    assert told["folder"] == str(clone)
    assert told["arguments"][:4] == ["--config-name=unlearn", "model=Llama-3.2-1B-Instruct", "trainer=NPO", "~eval"]
    assert told["arguments"][-1] == "trainer.method_args.beta=0.5", "the user's come last, so they win"
    values = told["values"]
    expected = {
        "trainer.args.max_steps": "7",
        "trainer.args.seed": "3",
        "trainer.args.learning_rate": "0.0001",
        "trainer.args.per_device_train_batch_size": "8",
        "trainer.args.gradient_accumulation_steps": "1",
        "data.forget.WMDP_forget.args.hf_args.data_files": str(folder / "forget.parquet"),
        "data.retain.WMDP_retain.args.hf_args.data_files": str(folder / "retain.parquet"),
        "model.tokenizer_args.pretrained_model_name_or_path": str(tiny_base.folder),
    }
    assert {key: values[key] for key in expected} == expected
    assert list(unlearned.delta) == ["model.norm.weight"], "its checkpoint is read back"


def test_its_failure_is_the_programs(run_in, tmp_path, clone):
    with pytest.raises(InputError, match=r"the command of NPO/attribute/shard/a/seed3, .*python.*, ended with code 3"):
        unlearn(run_in, tmp_path, clone, "code=3")


def test_relative_paths_are_those_of_where_it_is_started(tmp_path, clone, tiny_folder):
    paths = [f"--{name}={os.path.relpath(tiny_folder, tmp_path)}" for name in ("base", "forget", "retain")]
    words = [sys.executable, WRAPPER, "--repository=a clone", "--trainer=RMU", "--output=made", "--steps=1", "--seed=0"]
    subprocess.run([*words, *paths], cwd=tmp_path, check=True)
    assert (
        task_vector.TensorFolder(tmp_path / "made").shapes.keys() == task_vector.TensorFolder(tiny_folder).shapes.keys()
    )
