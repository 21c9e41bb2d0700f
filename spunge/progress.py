"""Progress as plain lines, readable in a log file and on a terminal that several jobs share."""

import sys
import time

from tqdm import tqdm


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
