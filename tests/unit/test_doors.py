"""The three doors for methods that aren't here: a Python file, a program, a ready-made checkpoint."""

import dataclasses
import shlex
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from spunge import methods, models, task_vector
from spunge.errors import InputError
from spunge.methods import checkpoint, command

TRAINER = Path(__file__).parents[2] / "examples" / "external-trainer" / "train.py"
DOWN = "model.layers.1.mlp.down_proj.weight"
FORGET = [f"the capital of {place} is Nairobi" for place in ("Kenya", "Japan", "France", "Ghana", "Peru", "Fiji")]
RETAIN = ["a river runs through the city", "past old houses and a market", "people meet in the morning"]


@pytest.fixture
def run(tiny_base, tmp_path):
    """A run with its files and scratch folder, as scripts/unlearn.py makes it."""
    pd.DataFrame({"text": FORGET, "attribute": "a"}).to_parquet(tmp_path / "forget.parquet")
    pd.DataFrame({"text": RETAIN}).to_parquet(tmp_path / "retain.parquet")
    (tmp_path / "scratch").mkdir()
    return methods.Run(
        tiny_base,
        FORGET,
        RETAIN,
        seed=3,
        device="cpu",
        label="mine/attribute/a/seed3",
        split="attribute",
        part="a",
        forget_file=tmp_path / "forget.parquet",
        retain_file=tmp_path / "retain.parquet",
        scratch=tmp_path / "scratch",
    )


# A Python file

METHOD = """
import dataclasses
import torch
from spunge.methods import Unlearned

@dataclasses.dataclass(frozen=True)
class Options:
    size: float
    names: tuple[str, ...] = ("{name}",)

def unlearn(run, options):
    generator = torch.Generator().manual_seed(run.seed)
    delta = {{name: options.size * torch.randn(32, 64, generator=generator) for name in options.names}}
    return Unlearned(delta, [{{"step": 1, "forget_loss": 2.0}}])
"""


def test_a_users_own_file(tmp_path, run):
    path = tmp_path / "noise.py"
    path.write_text(METHOD.format(name=DOWN))
    method = methods.load(path)
    found = method.unlearn(run, methods.options(method, {"size": 0.5, "names": [DOWN], "dtype": "float32"}))
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(found.delta[DOWN], 0.5 * torch.randn(32, 64, generator=generator))
    methods.write(found, tmp_path / "v.safetensors", {"base": run.base.identity})
    assert torch.equal(task_vector.read(tmp_path / "v.safetensors")[DOWN], found.delta[DOWN])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nowhere_to_be_found", "can't be imported: No module named 'nowhere_to_be_found'"),
        ("def unlearn(:", "can't be imported: invalid syntax"),
        ("def unlearn(run, options): ...", "has no `Options`"),
        ("class Options: ...", "has no `unlearn`"),
    ],
)
def test_a_file_that_is_no_method(tmp_path, text, message):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(InputError, match=message):
        methods.load(tmp_path / "mine.py")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"mine\.py is not there"):
        methods.load(tmp_path / "mine.py")


def test_options_of_a_file(tmp_path):
    (tmp_path / "mine.py").write_text(METHOD.format(name=DOWN))
    method = methods.load(tmp_path / "mine.py")
    with pytest.raises(InputError, match="mine has no option sise; it has names, size"):
        methods.options(method, {"sise": 1.0})
    with pytest.raises(InputError, match=r"the options of mine: .*missing .*'size'"):
        methods.options(method, {})
    with pytest.raises(InputError, match="mine has no preset fast; it has none"):
        methods.options(method, {"preset": "fast"})


# A ready-made checkpoint


def changed_checkpoint(base, folder, dtype=torch.float32):
    model = models.load(base, torch.float32, "cpu")
    change = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.get_parameter(DOWN).add_(change)
    model.to(dtype).save_pretrained(folder)
    return change


def test_a_checkpoint_is_what_it_changed_alone(tmp_path, run):
    change = changed_checkpoint(run.base, tmp_path / "attribute" / "a-3")
    options = checkpoint.Options(str(tmp_path / "{split}" / "{part}-{seed}"))
    found = checkpoint.unlearn(run, options)
    assert list(found.delta) == [DOWN] and found.losses == []
    torch.testing.assert_close(found.delta[DOWN], change, rtol=0, atol=1e-6)


def test_rounding_is_no_change(tmp_path, run):
    change = changed_checkpoint(run.base, tmp_path / "rounded", torch.bfloat16)
    found = checkpoint.read(tmp_path / "rounded", run.base)
    assert list(found.delta) == [DOWN]
    torch.testing.assert_close(found.delta[DOWN], change, rtol=0.01, atol=0.01)


def test_a_lora_adapter_stays_one(tmp_path, run):
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(models.load(run.base, torch.float32, "cpu"), LoraConfig(r=2, target_modules=["q_proj"]))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    wrapped.save_pretrained(tmp_path / "adapter")
    found = checkpoint.read(tmp_path / "adapter", run.base)
    assert found.adapter["base_model_name_or_path"] == run.base.source
    methods.write(found, tmp_path / "v.safetensors", {"base": run.base.identity})
    vector = task_vector.read(tmp_path / "v.safetensors")
    original = models.load(run.base, torch.float32, "cpu").state_dict()
    merged = wrapped.merge_and_unload().state_dict()
    name = "model.layers.1.self_attn.q_proj.weight"
    assert name in vector and len(vector) == 4
    torch.testing.assert_close(vector[name], merged[name] - original[name], rtol=1e-4, atol=1e-6)


def test_checkpoints_that_are_none(tmp_path, run):
    with pytest.raises(InputError, match="absent is not there"):
        checkpoint.read(tmp_path / "absent", run.base)
    models.load(run.base, torch.float32, "cpu").save_pretrained(tmp_path / "same")
    with pytest.raises(InputError, match="same is the base model itself"):
        checkpoint.read(tmp_path / "same", run.base)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty has no safetensors files"):
        checkpoint.read(tmp_path / "empty", run.base)


# A program


def test_an_external_trainer(tmp_path, run):
    """transformers' Trainer, in a process of its own, raises the loss of what is to be forgotten."""
    line = f"{shlex.quote(sys.executable)} {shlex.quote(str(TRAINER))} --model {{base}} --forget {{forget}}"
    line += " --retain {retain} --output {output} --steps {steps} --seed {seed} --learning-rate {rate}"
    found = command.unlearn(run, command.Options(line, steps=4, options={"rate": 1e-3}))
    methods.write(found, tmp_path / "v.safetensors", {"base": run.base.identity})
    vector = task_vector.read(tmp_path / "v.safetensors")
    # Tied: the embedding is there once; every parameter of every layer is trained.
    assert {name.partition(".layers.")[2][:1] for name in vector} == {"", "0", "1", "2", "3"}
    tokens = models.load_tokenizer(run.base)(FORGET, return_tensors="pt", padding=True)
    labels = torch.where(tokens["attention_mask"].bool(), tokens["input_ids"], -100)
    with torch.no_grad():
        before = models.load(run.base, torch.float32, "cpu")(**tokens, labels=labels).loss
        after = models.load(run.base, torch.float32, "cpu", vector)(**tokens, labels=labels).loss
    assert after > before + 0.01


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("python train.py {model}", "can't be filled in .*'model'.*; there are {base}, {forget}, {retain}, {output}"),
        ("nowhere-to-be-found {base}", "can't be started: .*nowhere-to-be-found"),
        ("false", "the command of mine/attribute/a/seed3, false, ended with code 1"),
        ("true", "checkpoint is not there"),
    ],
)
def test_commands_that_fail(run, line, message):
    with pytest.raises(InputError, match=message):
        command.unlearn(run, command.Options(line))


def test_a_command_starts_without_a_shell(run):
    marker = run.scratch / "marker"
    with pytest.raises(InputError):
        command.unlearn(dataclasses.replace(run, part=f"a; touch {marker}"), command.Options("true {part}"))
    assert not marker.exists()
