"""Progress as plain lines, readable in a log file and on a terminal that several jobs share."""

import math
import sys
import time
from statistics import fmean

from tqdm import tqdm

RECORDS = 60


class Progress:
    """Print steps done, time left and the latest numbers, at most every `interval` seconds and at the last step."""

    def __init__(self, label: str, total: int, interval: float = 5.0):
        self.label, self.total, self.interval = label, total, interval
        self.started = self.printed = time.monotonic()

    def step(self, done: int, **numbers: float) -> None:
        """Tell that `done` of the steps are done; `numbers` (losses, say) are printed behind."""
        now = time.monotonic()
        if done < self.total and now - self.printed < self.interval:
            return
        self.printed = now
        shown = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        line = tqdm.format_meter(done, self.total, now - self.started, ncols=0, prefix=self.label, postfix=shown)
        print(line, file=sys.stderr, flush=True)


class LossCurve:
    """The losses of a run in at most RECORDS rows: `step` (steps done) and each loss's mean over the steps between."""

    def __init__(self, steps: int):
        self.rows: list[dict[str, float]] = []
        self._steps, self._every = steps, math.ceil(steps / RECORDS)
        self._since: dict[str, list[float]] = {}

    def add(self, step: int, **losses: float) -> None:
        """Take the losses of one step, counted from 1."""
        for name, value in losses.items():
            self._since.setdefault(name, []).append(value)
        if step % self._every == 0 or step == self._steps:
            self.rows.append({"step": step, **{name: fmean(values) for name, values in self._since.items()}})
            self._since = {}
