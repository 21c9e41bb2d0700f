"""Unlearning steps at full size: RMU in the 7B and the 70B shape, two gradient methods with LoRA in the 7B shape."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from benchmarks import measure, rmu
from benchmarks.gpu.machine import SEED, Machine
from spunge import methods
from spunge.methods import npo, tvn
from spunge.planning import cost_model

LAYER_ID, TRAINED_LAYERS, BATCH = 7, (5, 6, 7), 4
LORA_RANK = 8
ACCUMULATION = 4
KERNELS = 12  # shown of a profile


def rmu_7b(machine: Machine) -> None:
    """Report RMU's step on new texts, with the frozen layers' states at hand, and the plain way; losses must agree."""
    base, shape = machine.seven(), machine.sizes.seven
    work = rmu.Work(base, _options(machine, machine.sizes.steps), machine.device)
    states = machine.folder / "seven.states"
    rmu.rmu.cache_activations(work.run, work.options, states)
    losses = {}
    for kind, run in (
        ("first", work.ours),
        ("cached", lambda: work.ours(states)),
        ("reference", work.reference),
    ):
        losses[kind] = _measured(machine, kind, run)
        machine.report(f"{kind} losses", losses[kind])
    for kind in ("first", "cached"):
        measure.check_losses(f"RMU, {kind}", losses[kind], losses["reference"], rmu.AGREE_BF16)
    machine.report("losses agree within", rmu.AGREE_BF16)
    tokens = BATCH * machine.sizes.tokens
    sizes = (shape, LAYER_ID, TRAINED_LAYERS, tokens, machine.sizes.tokens)
    machine.report("first operations", cost_model.rmu_operations(*sizes))
    machine.report("cached operations", cost_model.rmu_operations(*sizes, at_hand=True))
    machine.report(
        "reference operations", cost_model.plain_rmu_operations(shape, LAYER_ID, tokens, machine.sizes.tokens)
    )
    profiled = replace(work, options=_options(machine, machine.sizes.profiled_steps))
    profile(machine, "cached", lambda: profiled.ours(states))


def rmu_70b(machine: Machine) -> None:
    """Report RMU's step in the 70B shape on one device, of which only the layers up to `LAYER_ID` are loaded."""
    base, shape = machine.seventy(LAYER_ID + 1), machine.sizes.seventy
    work = rmu.Work(base, _options(machine, max(3, machine.sizes.steps // 2)), machine.device)
    states = machine.folder / "seventy.states"
    rmu.rmu.cache_activations(work.run, work.options, states)
    _measured(machine, "first", work.ours)
    _measured(machine, "cached", lambda: work.ours(states))
    tokens = BATCH * machine.sizes.tokens
    sizes = (shape, LAYER_ID, TRAINED_LAYERS, tokens, machine.sizes.tokens)
    machine.report("first operations", cost_model.rmu_operations(*sizes))
    machine.report("cached operations", cost_model.rmu_operations(*sizes, at_hand=True))
    for path in (states, *base.folder.iterdir()):  # the largest files of all parts
        path.unlink()


def gradient_7b(machine: Machine) -> None:
    """Report TVN's and NPO's step with LoRA on all linear layers, with and without gradient checkpointing."""
    base, tokens = machine.seven(), machine.sizes.tokens
    steps = max(2, machine.sizes.steps // 3)
    texts = [rmu.texts(steps * BATCH, tokens, SEED + number) for number in range(2)]
    for method in (tvn, npo):
        for checkpointed in (True, False):
            kind = f"{method.__name__.rpartition('.')[2]}{', checkpointed' if checkpointed else ''}"
            options = method.Options(
                steps=steps,
                learning_rate=1e-4,
                batch_size=BATCH,
                accumulation=ACCUMULATION,
                max_tokens_forget=tokens,
                max_tokens_retain=tokens,
                trained="lora",
                lora_rank=LORA_RANK,
                gradient_checkpointing=checkpointed,
                dtype="bfloat16",
            )
            run = methods.Run(base, *texts, SEED, machine.device, label=kind)
            _measured(machine, kind, lambda method=method, run=run, options=options: method.unlearn(run, options))
    run = methods.Run(base, *texts, SEED, machine.device, label="profile")
    fewer = replace(options, steps=machine.sizes.profiled_steps)
    profile(machine, kind, lambda: npo.unlearn(run, fewer))


def profile(machine: Machine, kind: str, run: Callable[[], object]) -> None:
    """Report where the time of the steps after the first goes."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    ended, steps = 0, contextlib.ExitStack()

    def step_ended(*_) -> None:
        nonlocal ended
        ended += 1
        if ended == 1:
            steps.enter_context(profile_of(machine, kind, machine.sizes.profiled_steps - 1))
        elif ended == machine.sizes.profiled_steps:
            steps.close()

    handle = register_optimizer_step_post_hook(step_ended)
    try:
        run()
    finally:
        handle.remove()


@contextlib.contextmanager
def profile_of(machine: Machine, kind: str, rounds: int = 1) -> Iterator[None]:
    """Report the milliseconds a round of what is done within: of the longest kernels, of all, and by the clock."""
    from torch.profiler import ProfilerActivity

    on_gpu = machine.device == "cuda"
    machine.synchronize()
    with torch.profiler.profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
        started = time.perf_counter()
        yield
        machine.synchronize()
        taken = time.perf_counter() - started
    milliseconds = {
        event.key[:120]: (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e3 / rounds
        for event in profiler.key_averages()
    }
    longest = sorted(milliseconds.items(), key=lambda pair: -pair[1])[:KERNELS]
    machine.report(f"{kind}: longest kernels, ms", {name: round(each, 3) for name, each in longest})
    machine.report(f"{kind}: all kernels, ms", round(sum(milliseconds.values()), 3))
    machine.report(f"{kind}: by the clock, ms", round(1e3 * taken / rounds, 3))


def _options(machine: Machine, steps: int) -> rmu.rmu.Options:
    return rmu.chosen(
        steps, machine.sizes.tokens, dtype="bfloat16", layer_id=LAYER_ID, trained_layers=list(TRAINED_LAYERS)
    )


def _measured(machine: Machine, kind: str, run: Callable[[], object]):
    """Run, and report the median second of a step and the bytes that the device held at most."""
    with machine.peak_memory() as memory, measure.steps(machine.device) as seconds:
        result = run()
    machine.report(f"{kind} step", statistics.median(seconds))
    for name, held in memory.items():
        machine.report(f"{kind} {name}", held)
    return result
