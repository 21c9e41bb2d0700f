"""Progress as plain lines, readable in a log file and on a terminal that several jobs share."""

import contextlib
import math
import os
import sys
import time
from statistics import fmean

from tqdm import tqdm

RECORDS = 60


def say(line: str) -> None:
    """Print a line for the log; where nobody reads it any more, work goes on."""
    try:
        print(line, file=sys.stderr, flush=True)
    except RuntimeError:  # in the middle of a line that a signal cut
        pass
    except OSError:  # Python would try the rest of the line again at its end, and change the exit code
        with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stderr.fileno())


class Progress:
    """Print steps done, time left and the latest numbers, at most every `interval` seconds and at the last step.

    `before`: steps that an earlier job has done.
    """

    def __init__(self, label: str, total: int, interval: float = 5.0):
        self.label, self.total, self.interval = label, total, interval
        self.before = 0
        self.started = self.printed = time.monotonic()

    def step(self, done: int, **numbers: float) -> None:
        """Tell that `done` of the steps are done; `numbers` (losses, say) are printed behind."""
        now = time.monotonic()
        if done < self.total and now - self.printed < self.interval:
            return
        self.printed = now
        shown = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        elapsed, before = now - self.started, self.before
        say(tqdm.format_meter(done, self.total, elapsed, ncols=0, prefix=self.label, postfix=shown, initial=before))


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

    def state_dict(self) -> dict[str, object]:
        """Return what `load_state_dict` needs, as JSON can hold it."""
        return {"rows": self.rows, "since": self._since}

    def load_state_dict(self, state: dict) -> None:
        """Go on after the steps of another curve of the same run."""
        self.rows, self._since = state["rows"], state["since"]
