"""Several processes save together, stop together, and go on to the same bytes."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from test_training import AS_ON_GPUS, FORGET, PROFILE, RETAIN, SMALL, UNSHARDED

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, os, pathlib, signal, sys
from spunge import methods; from spunge.models import task_vector
from spunge.training.resume import Checkpoint

name, folder, given, forget, retain, output, device, *stages = sys.argv[1:]
module, output, rank = methods.load(name), pathlib.Path(output), int(os.environ["RANK"])

class Interrupted(Checkpoint):
    '''A process other than the first gets a signal in its second step.'''
    def steps(self, *arguments):
        for step in super().steps(*arguments):
            if step == 2 and rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            yield step

def unlearn(stage):
    base = task_vector.BaseModel.open(folder)
    kind = {"undisturbed": Checkpoint, "stopped": Interrupted, "resumed": Checkpoint}[stage]
    with kind(None if stage == "undisturbed" else output / "state", every=60) as checkpoint:
        run = methods.Run(base, json.loads(forget), json.loads(retain), 0, device, checkpoint=checkpoint)
        unlearned = module.unlearn(run, methods.options(module, json.loads(given)))
        if rank == 0:
            (output / f"{stage}.json").write_text(json.dumps(unlearned.losses))
            methods.write(unlearned, output / f"{stage}.safetensors", task_vector.make_provenance(base))

for stage in stages:
    try:
        unlearn(stage)
    except SystemExit as stopped:
        print(f"process {rank} ended with {stopped.code}", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "changes", "sharded"),
    [
        pytest.param(3, {"accumulation": 2}, False, id="whole weights"),
        pytest.param(2, {"accumulation": 2, "max_gradient_norm": 60}, True, id="sharded weights"),
    ],
)
def test_going_on_in_several_processes(quick_python, tiny_base, tmp_path, processes, changes, sharded):
    (tmp_path / "launched.py").write_text(AS_ON_GPUS + SCRIPT if sharded else SCRIPT)
    launch = [quick_python, "-m", "accelerate.commands.launch", "--num_processes", str(processes)]
    launch += ["--main_process_port", "0", *(["--config_file", PROFILE] if sharded else UNSHARDED)]
    launch += [tmp_path / "launched.py", "npo", tiny_base.folder, json.dumps({**SMALL, "steps": 4, **changes})]
    launch += [json.dumps(FORGET), json.dumps(RETAIN), tmp_path, "cuda" if sharded else "cpu"]

    def run(*stages):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([*launch, *stages], capture_output=True, text=True, env=environment, timeout=500)
        assert done.returncode == 0, done.stderr[-3000:]
        return done

    if sharded:  # accelerate can't shard twice in one process
        run("undisturbed")
    stopped = run("stopped") if sharded else run("undisturbed", "stopped")
    for process in range(processes):
        assert f"process {process} ended with 143" in stopped.stdout
    told = "stopped by SIGTERM at step 2 of 4; what was done is kept, run again to go on"
    assert stopped.stderr.count(told) == 1
    kept = [*(f"2-{process}.safetensors" for process in range(processes)), "state"]
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == kept
    assert run("resumed").stderr.count("going on after step 2 of 4") == 1
    assert not (tmp_path / "state").exists()
    for suffix in ("json", "safetensors"):
        resumed, undisturbed = ((tmp_path / f"{stage}.{suffix}").read_bytes() for stage in ("resumed", "undisturbed"))
        assert resumed == undisturbed
