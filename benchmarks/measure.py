"""Time of optimizer steps, peak memory of a process, and the comparison without which no number counts."""

import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from spunge.core.errors import InputError


@contextmanager
def steps(device: str) -> Iterator[list[float]]:
    """Collect the seconds from the end of one optimizer step to the end of the next, of any optimizer.

    So the first step and what was loaded before it are not in the list, and nothing between two steps is left out.
    """
    ends, seconds = [], []

    def step_ended(*_) -> None:
        if device == "cuda":
            torch.cuda.synchronize()
        ends.append(time.perf_counter())
        if len(ends) > 1:
            seconds.append(ends[-1] - ends[-2])

    handle = register_optimizer_step_post_hook(step_ended)
    try:
        yield seconds
    finally:
        handle.remove()


def alternately(
    ways: dict[str, Callable[[], object]], repeats: int, before: Callable[[], None] | None = None
) -> dict[str, float]:
    """Run each way `repeats` times, in turns, `before` ahead of each, and return the median of its seconds.

    Each way runs once before, unmeasured: what is imported or read from disk for the first time is not its work.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, work in ways.items():
            gc.collect()
            if before:
                before()
            started = time.perf_counter()
            work()
            if repeat:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(samples) for name, samples in seconds.items()}


class PeakMemory:
    """The peak of this process's resident memory, in MB (1e6 bytes), above what it held at `start`.

    Linux's own count, which has mapped files in it: VmHWM, set back to the present by writing 5 to clear_refs.
    """

    def start(self) -> None:
        gc.collect()
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError as error:
            raise InputError(f"peak memory is measured with Linux's /proc/self/clear_refs: {error}") from error
        self._start = self._kilobytes("VmRSS")

    def peak(self) -> float:
        return (self._kilobytes("VmHWM") - self._start) * 1024 / 1e6

    @staticmethod
    def _kilobytes(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(key + ":"))


def in_fresh_process(work: Callable, *arguments):
    """Return `work(*arguments)` of a process of its own, in which nothing else has run; both must be picklable."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def check_losses(name: str, ours: list[tuple[float, float]], reference: list[tuple[float, float]], rel: float) -> None:
    """Raise InputError unless every step's forget and retain loss agree: within `rel`, or `rel`² of the forget loss.

    The second is for the retain loss, which starts at zero, so that rounding is all there is of it.
    """
    if len(ours) != len(reference):
        raise InputError(f"{name}: {len(ours)} steps against {len(reference)} of the reference")
    for step, (our_pair, reference_pair) in enumerate(zip(ours, reference, strict=True), start=1):
        for kind, loss, expected in zip(("forget", "retain"), our_pair, reference_pair, strict=True):
            if not abs(loss - expected) <= max(rel * abs(expected), rel**2 * abs(reference_pair[0])):
                raise InputError(
                    f"{name}: the {kind} loss of step {step} is {loss:.8g}, the reference's {expected:.8g}; "
                    "the pair does not do the same work"
                )
