"""A job that goes on from what another one saved gives the bytes of a job that nobody disturbed."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from spunge import methods
from spunge.evaluation import generation, relearning
from spunge.methods import gradient_difference, npo, rmu, tvn
from spunge.models import base_model
from spunge.training import resume
from spunge.training.resume import Checkpoint, State

ROOT = Path(__file__).parents[2]

PLACES = ["Kenya", "Japan", "France", "Ghana", "Peru", "Fiji"]
FORGET = [f"the capital of {place}" + " is Nairobi" * (3 * row % 7) for row, place in enumerate(PLACES)]
RETAIN = [f"in the {place} morning a river runs" + " past old houses" * (row % 3) for row, place in enumerate(PLACES)]
ATTRIBUTES = ["a", "b", "a", "c", "b", "a"]
RMU = {"layer_id": 2, "trained_layers": (1, 2), "alpha": 5.0, "learning_rate": 1e-2, "batch_size": 2, "steps": 7}
MASKED = {**RMU, "mask": True, "skip_first": 1, "weight_decay": 0.01}
TRAINED = {"steps": 4, "batch_size": 4, "learning_rate": 1e-3, "weight_decay": 0.1}
LORA = {**TRAINED, "trained": "lora", "lora_dropout": 0.2}


class Copied(Checkpoint):
    """Leaves a copy of every state that was saved, of a part as of the whole."""

    def keep(self, state):
        kept = super().keep(state)
        folder = self._root._folder
        shutil.copytree(folder, folder.with_name(f"{folder.name}-{len(copies(folder)) + 1}"))
        return kept

    def nested(self, name):
        part = super().nested(name)
        part.__class__ = Copied
        return part


def copies(folder):
    """Return the copies of a folder's states, in the order in which they were saved."""
    return sorted(folder.parent.glob(f"{folder.name}-*"), key=lambda path: int(path.name.rpartition("-")[2]))


class Interrupted(Checkpoint):
    """Gets a signal in the middle of a step."""

    def __init__(self, folder, at, number=signal.SIGTERM):
        super().__init__(folder, every=60)
        self.at, self.number = at, number

    def steps(self, *arguments):
        for step in super().steps(*arguments):
            if step == self.at:
                os.kill(os.getpid(), self.number)
            yield step


def unlearn(base, method, chosen, checkpoint=None, **others):
    run = methods.Run(
        base, FORGET, RETAIN, 0, "cpu", attributes=ATTRIBUTES, checkpoint=checkpoint or Checkpoint(), **others
    )
    return method.unlearn(run, method.Options(**chosen))


def same(found, expected):
    assert found.losses == expected.losses
    assert found.delta.keys() == expected.delta.keys()
    for name, delta in expected.delta.items():
        assert delta.numpy().tobytes() == found.delta[name].numpy().tobytes(), name


CASES = {
    "rmu": (rmu, MASKED),
    "rmu, texts that come once": (rmu, {**MASKED, "steps": 3, "alternate_attributes": False}),
    "rmu, attributes mixed": (rmu, {**MASKED, "alternate_attributes": False, "control_vector_per": "run"}),
    "rmu, padding counts": (rmu, RMU),
    "rmu, adaptive": (rmu, {**MASKED, "adaptive": 3.0}),
    "rmu, adaptive, padding counts, attributes mixed": (rmu, {**RMU, "adaptive": 3.0, "alternate_attributes": False}),
    "rmu, bfloat16": (rmu, {**MASKED, "dtype": "bfloat16"}),
    "rmu, float16": (rmu, {**MASKED, "dtype": "float16"}),
    "all weights": (gradient_difference, TRAINED),
    "warm-up and clipping": (gradient_difference, {**TRAINED, "warmup_steps": 3, "max_gradient_norm": 0.3}),
    "accumulation": (gradient_difference, {**TRAINED, "accumulation": 3}),
    "some weights": (tvn, {**TRAINED, "trained": r"model\.layers\.(1|2)\.mlp\.down_proj\.weight"}),
    "LoRA with dropout": (tvn, LORA),
    "LoRA, bfloat16": (gradient_difference, {**LORA, "dtype": "bfloat16", "gradient_checkpointing": True}),
    "reference model": (npo, TRAINED),
    "reference model, LoRA": (npo, {**LORA, "accumulation": 2}),
}


@pytest.mark.parametrize(("method", "chosen"), CASES.values(), ids=CASES.keys())
def test_going_on_after_any_step_gives_the_same_bytes(tiny_base, tmp_path, method, chosen):
    undisturbed = unlearn(tiny_base, method, chosen)
    same(unlearn(tiny_base, method, chosen, Copied(tmp_path / "state", "this", every=0)), undisturbed)
    assert len(copies(tmp_path / "state")) == chosen["steps"]
    for step, copy in enumerate(copies(tmp_path / "state"), start=1):
        torch.rand(step)  # the global generator's state must not matter
        checkpoint = Checkpoint(copy, "this")
        assert checkpoint.kept().done == step
        same(unlearn(tiny_base, method, chosen, checkpoint), undisturbed)


def test_going_on_between_and_within_shards_one_after_another(tiny_base, tmp_path):
    """Three shards of 2 steps, each with a new optimizer."""
    chosen = {**MASKED, "steps": 6}
    undisturbed = unlearn(tiny_base, rmu, chosen, split="sequential")
    unlearn(tiny_base, rmu, chosen, Copied(tmp_path / "state", every=0), split="sequential")
    for copy in copies(tmp_path / "state"):
        same(unlearn(tiny_base, rmu, chosen, Checkpoint(copy), split="sequential"), undisturbed)


def test_going_on_with_frozen_states_from_a_file(tiny_base, tmp_path):
    run = methods.Run(tiny_base, FORGET, RETAIN, 0, "cpu", attributes=ATTRIBUTES)
    rmu.cache_activations(run, rmu.Options(**MASKED), tmp_path / "states.safetensors")
    chosen, states = {**MASKED, "adaptive": 3.0}, tmp_path / "states.safetensors"
    undisturbed = unlearn(tiny_base, rmu, chosen, activations=states)
    unlearn(tiny_base, rmu, chosen, Copied(tmp_path / "state", every=0), activations=states)
    for copy in copies(tmp_path / "state"):
        same(unlearn(tiny_base, rmu, chosen, Checkpoint(copy), activations=states), undisturbed)


# Relearning and generation


@pytest.fixture
def questions():
    choices = ["Nairobi", "Tokyo", "Accra", "Vientiane"]
    asked = [(f"The capital of {place} is", choices, row % 4, "ab"[row % 2]) for row, place in enumerate(PLACES)]
    table = pd.DataFrame(asked, columns=["question", "choices", "answer", "attribute"])
    return table.assign(subject=PLACES)


def relearn(base, questions, checkpoint=None):
    texts = pd.DataFrame({"text": [*FORGET[:2], *RETAIN[:2]], "attribute": ["a", "a", "", ""]})
    options = relearning.Options(texts=(2,), epochs=1, lora_rank=2, learning_rate=1e-2, max_tokens=16)
    model, tokenizer = base_model.load(base, torch.float32, "cpu"), base_model.load_tokenizer(base)
    return relearning.relearn(model, tokenizer, texts, questions, options, 6, "float32", 0, checkpoint)


def test_relearning_goes_on_in_every_fine_tuning_and_between_them(tiny_base, questions, tmp_path, capfd):
    undisturbed = relearn(tiny_base, questions)
    relearn(tiny_base, questions, Copied(tmp_path / "state", every=0))
    told = []
    for copy in copies(tmp_path / "state"):
        capfd.readouterr()
        found = relearn(tiny_base, questions, Checkpoint(copy))
        told.append(
            re.findall(r"going on after step . of 2|relearn 2 (?:a|unrelated) texts: 100%", capfd.readouterr().err)
        )
        assert found.keys() == undisturbed.keys()
        for name, scores in undisturbed.items():
            pd.testing.assert_frame_equal(found[name], scores, check_exact=True)
    trained = ["relearn 2 a texts: 100%", "relearn 2 unrelated texts: 100%"]
    assert told == [
        ["going on after step 1 of 2", *trained],
        ["going on after step 2 of 2", trained[1]],
        [trained[1]],  # the answers of the first are there
        ["going on after step 1 of 2", trained[1]],
        ["going on after step 2 of 2"],
        [],
    ]


def write(base, options, checkpoint=None):
    prompts = [f"the people of {place}" + " and the river" * (row % 3) for row, place in enumerate(PLACES)]
    model, tokenizer = base_model.load(base, torch.float32, "cpu"), base_model.load_tokenizer(base)
    return generation.continue_prompts(model, tokenizer, prompts, options, checkpoint)


def test_generation_goes_on_after_any_batch(tiny_base, tmp_path):
    options = generation.Options(samples=2, max_new_tokens=6, batch_size=4)
    write(tiny_base, options, Copied(tmp_path / "state", every=0)).to_parquet(tmp_path / "undisturbed.parquet")
    assert len(copies(tmp_path / "state")) == 3
    for copy in copies(tmp_path / "state"):
        write(tiny_base, options, Checkpoint(copy)).to_parquet(tmp_path / "found.parquet")
        assert (tmp_path / "found.parquet").read_bytes() == (tmp_path / "undisturbed.parquet").read_bytes()


# What is used, and what isn't


def simple(checkpoint, total=4, told=None):
    """Count, and note what was done anew."""
    sums, told = {"sum": 0}, [] if told is None else told
    state = State({"ones": torch.ones(3)}, sums)
    for step in checkpoint.steps(total, lambda: state, lambda one: sums.update(one.facts)):
        told.append(step)
        sums["sum"] += step
    return sums["sum"], told


@pytest.fixture
def half_done(tmp_path):
    """A folder with the state after two of four steps."""
    folder = tmp_path / "unfinished" / "rule" / "job"
    checkpoint = Checkpoint(folder, "this", every=0)
    for step in checkpoint.steps(4, lambda: State({"ones": torch.ones(3)}, {"sum": 3}), print):
        if step == 3:
            break
    return folder


def test_a_state_of_the_same_job_is_used(half_done):
    assert simple(Checkpoint(half_done, "this")) == (10, [3, 4])


def test_a_state_of_another_job_goes_and_is_told_of(half_done, capfd):
    assert simple(Checkpoint(half_done, "other")) == (10, [1, 2, 3, 4])
    assert (
        f"the state in {half_done} is of other options, data, code or versions: it is not used"
        in capfd.readouterr().err
    )
    assert not half_done.exists()


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("name", ["2-0.safetensors", "state"])
def test_a_damaged_state_goes_and_is_no_error(half_done, capfd, damage, name):
    damage(half_done / name)
    assert simple(Checkpoint(half_done, "this")) == (10, [1, 2, 3, 4])
    told = capfd.readouterr().err
    assert name == "state" or f"the state in {half_done} is damaged: it is not used" in told
    assert told.count("not used") <= 1


@pytest.mark.parametrize("content", ["[]", "{}", "7", '{"identity": "this", "processes": 1}', "\x00" * 50])
def test_a_record_that_is_none_is_a_damaged_one(half_done, capfd, content):
    (half_done / "state").write_text(content)
    assert simple(Checkpoint(half_done, "this")) == (10, [1, 2, 3, 4])
    assert capfd.readouterr().err.count("not used") == 1


def test_a_write_that_was_cut_off_leaves_the_state_before(half_done):
    """The next state's file is there in part, or whole, but the record doesn't name it yet."""
    (half_done / ".3-0.partial.safetensors").write_bytes(b"half")
    shutil.copy(half_done / "2-0.safetensors", half_done / "3-0.safetensors")
    (half_done / ".state.partial").write_text('{"ident')
    checkpoint = Checkpoint(half_done, "this", every=0)
    assert simple(checkpoint, total=3) == (6, [3])
    assert sorted(path.name for path in half_done.iterdir()) == ["3-0.safetensors", "state"]


def test_a_job_that_ends_leaves_nothing_of_it_and_nothing_of_others_goes(half_done):
    other = half_done.with_name("other")
    shutil.copytree(half_done, other)
    for folder in (half_done, other):
        assert half_done.parent.exists()
        with Checkpoint(folder, "this") as checkpoint:
            simple(checkpoint)
        assert not folder.exists()
    assert not half_done.parents[1].exists() and half_done.parents[2].exists()


def test_a_job_that_fails_keeps_its_state(half_done):
    with pytest.raises(ZeroDivisionError), Checkpoint(half_done, "this") as checkpoint:
        for _ in checkpoint.steps(4, lambda: State(), lambda state: None):
            raise ZeroDivisionError
    assert Checkpoint(half_done, "this").kept().done == 2


def test_a_full_disk_is_told_of_and_the_work_goes_on(half_done, capfd):
    """/dev/full takes no byte."""
    (half_done / ".3-0.partial.safetensors").symlink_to("/dev/full")
    (half_done / ".4-0.partial.safetensors").symlink_to("/dev/full")
    assert simple(Checkpoint(half_done, "this", every=0)) == (10, [3, 4])
    assert f"could not be saved ([Errno {errno.ENOSPC}]" in capfd.readouterr().err
    assert Checkpoint(half_done, "this").kept().done == 2


def test_identity_names_everything_that_counts(tiny_base, tmp_path):
    data, large = tmp_path / "data", tmp_path / "large"
    data.write_text("a")
    large.write_text("a")
    model = tmp_path / "model"
    shutil.copytree(tiny_base.folder, model)

    def named(facts):
        return resume.identity(facts, model, [data], [large])

    facts = {"options": {"steps": 3, "attributes": ["a"]}}
    first = named(facts)
    assert named({"options": {"attributes": ["a"], "steps": 3}}) == first
    seen = {first, named({"options": {"steps": 4, "attributes": ["a"]}})}
    for path in (data, large, model / "config.json", model / "tokenizer.json", model / "manifest.json"):
        path.write_text(path.read_text() + " ")
        seen.add(named(facts))
    assert len(seen) == 7


# Signals


def test_a_signal_is_answered_at_the_end_of_the_step(tmp_path, capfd):
    told = []
    with pytest.raises(SystemExit) as stopped, Interrupted(tmp_path / "state", at=3) as checkpoint:
        simple(checkpoint, told=told)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert capfd.readouterr().err == "stopped by SIGTERM at step 3 of 4; what was done is kept, run again to go on\n"
    assert told == [1, 2, 3]
    assert simple(Checkpoint(tmp_path / "state")) == (10, [4])


def test_ctrl_c_is_one_too(tmp_path):
    with (
        pytest.raises(SystemExit) as stopped,
        Interrupted(tmp_path / "state", at=1, number=signal.SIGINT) as checkpoint,
    ):
        simple(checkpoint)
    assert stopped.value.code == 128 + signal.SIGINT
    assert Checkpoint(tmp_path / "state").kept().done == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "nothing is left to save"


def test_a_signal_that_is_ignored_stays_so(tmp_path):
    """As in a command that a script started in the background: Ctrl-C isn't meant for it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert simple(Interrupted(tmp_path / "state", at=1, number=signal.SIGINT)) == (10, [1, 2, 3, 4])


def test_a_signal_after_the_last_step_waits_for_the_outputs(tmp_path):
    with Checkpoint(tmp_path / "state") as checkpoint:
        simple(checkpoint)
        os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)  # of a job that has only to exit
    assert not (tmp_path / "state").exists()


def test_after_ctrl_c_the_state_stays_since_snakemake_takes_the_job_for_failed(tmp_path):
    with Checkpoint(tmp_path / "state", every=0) as checkpoint:
        simple(checkpoint)
        os.kill(os.getpid(), signal.SIGINT)
    assert simple(Checkpoint(tmp_path / "state")) == (10, [])


@pytest.mark.parametrize("answered", [True, False])
def test_a_signal_while_a_relearned_model_is_asked_saves_what_was_trained(tmp_path, answered):
    checkpoint, told = Checkpoint(tmp_path / "state"), []
    assert simple(checkpoint, told=told)[0] == 10
    if answered:
        os.kill(os.getpid(), signal.SIGTERM)  # before: noted
    with pytest.raises(SystemExit), checkpoint.at_rest(4, lambda: State(facts={"sum": 10})):
        os.kill(os.getpid(), signal.SIGTERM)
        told.append("asked on")
    assert told == [1, 2, 3, 4]
    assert simple(Checkpoint(tmp_path / "state")) == (10, [])


# 44 rows of three, so a state in between has a mean half made.
LONG = {**MASKED, "steps": 130}


@pytest.fixture(scope="module")
def long_run(tiny_base):
    return unlearn(tiny_base, rmu, LONG)


@pytest.mark.parametrize("at", [1, 71, 129])
def test_losses_of_a_long_run_are_means_over_the_same_steps(tiny_base, long_run, tmp_path, at):
    with pytest.raises(SystemExit):
        unlearn(tiny_base, rmu, LONG, Interrupted(tmp_path / "state", at=at))
    assert Checkpoint(tmp_path / "state").kept().done == at
    same(unlearn(tiny_base, rmu, LONG, Checkpoint(tmp_path / "state")), long_run)


JOB = """
import os, signal, sys, time
from spunge.core import errors
from spunge.core.progress import Progress
from spunge.training.resume import Checkpoint, State

def work():
    progress = Progress("job", 3, interval=0)
    print("ready", flush=True)
    if "idle" in sys.argv:
        time.sleep(60)
    with Checkpoint(sys.argv[1], every=60) as checkpoint:
        for step in checkpoint.steps(3, lambda: State(facts={}), lambda state: None):
            if step == 2:
                print("in step 2", flush=True)
                sys.stdin.read()
            progress.step(step)

sys.exit(errors.run(work))
"""


def job(folder, *arguments):
    """Start a job below a shell that ignores SIGTERM, as the rules do."""
    script = folder / "job.py"
    script.write_text(JOB)
    command = f"trap '' TERM; exec {sys.executable} {script} {folder / 'state'} {' '.join(arguments)}"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = subprocess.Popen(["bash", "-c", command], env={**os.environ, "PYTHONPATH": str(ROOT)}, **pipes)
    assert started.stdout.readline() == b"ready\n"
    return started


def test_a_job_that_has_nothing_to_save_dies_at_once(tmp_path):
    with job(tmp_path, "idle") as started:
        started.terminate()
        assert started.wait(600) == -signal.SIGTERM


def test_a_pipe_that_nobody_reads_loses_no_step(tmp_path):
    with job(tmp_path) as started:
        assert started.stdout.readline() == b"in step 2\n"
        started.stderr.close()
        started.terminate()
        started.stdin.close()
        assert started.wait(600) == 128 + signal.SIGTERM
    assert Checkpoint(tmp_path / "state").kept().done == 2
