"""The logger plugin `time-left`: snakemake-logger-plugin-rich's bars, and in the line of all jobs what is left in time.

That plugin shows how much time has passed. What is left is reckoned rule by rule, since jobs differ: the downloads that
come first take seconds, and an evaluation a minute. Snakemake finds a plugin by its package's name, on PYTHONPATH.
"""

import statistics
import time
from collections import Counter, defaultdict
from logging import LogRecord

import snakemake_logger_plugin_rich as bars
from rich.progress import ProgressColumn, Task
from rich.text import Text
from snakemake_interface_logger_plugins.common import LogEvent


class LogHandler(bars.LogHandler):
    """The bars, with one more column."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.live_display.refresh_per_second = 1  # eight times a second, as by default, take a tenth of a core
        self.time_left = TimeLeft()
        self.progress.columns += (self.time_left,)

    def emit(self, record: LogRecord) -> None:
        """Take note of the times, and show the record."""
        self.time_left.note(record)
        super().emit(record)


class TimeLeft(ProgressColumn):
    """What is left of all jobs: of each rule its mean time so far, divided by the jobs that run at once.

    A rule of which no job has ended yet is taken for one like all others.
    """

    def __init__(self, clock=time.monotonic):
        super().__init__()
        self._clock = clock
        self._to_end: Counter[str] = Counter()
        self._running: dict[int, tuple[str, float]] = {}
        self._seconds: defaultdict[str, list[float]] = defaultdict(list)
        self._at_once = 1

    def note(self, record: LogRecord) -> None:
        """Take note of a job that starts or ends; of a job that failed, that it is to run again."""
        event = getattr(record, "event", None)
        if event == LogEvent.RUN_INFO:
            self._to_end = Counter(record.stats)
            for name in ("total", "all"):  # no jobs, or one that does nothing
                del self._to_end[name]
        elif event == LogEvent.JOB_INFO:
            self._running[record.jobid] = record.rule_name, self._clock()
            self._at_once = max(self._at_once, len(self._running))
        elif event == LogEvent.JOB_ERROR:
            self._running.pop(record.jobid, None)
        elif event == LogEvent.JOB_FINISHED and record.job_id in self._running:
            rule, start = self._running.pop(record.job_id)
            self._seconds[rule].append(self._clock() - start)
            self._to_end[rule] -= 1

    def seconds(self) -> float | None:
        """Return the seconds that are left; None as long as no job has ended."""
        if not self._seconds:
            return None
        means = {rule: statistics.mean(seconds) for rule, seconds in self._seconds.items()}
        like_others = statistics.mean(means.values())
        left = sum(number * means.get(rule, like_others) for rule, number in self._to_end.items())
        for rule, start in self._running.values():
            left -= min(self._clock() - start, means.get(rule, like_others))
        return max(left, 0.0) / self._at_once

    def render(self, task: Task) -> Text:
        """Return the column's text: empty but in the line of all jobs."""
        seconds = self.seconds() if task.id == 0 and not task.finished else None
        if seconds is None:
            return Text("")
        minutes, seconds = divmod(round(seconds), 60)
        return Text(f"about {minutes}:{seconds:02} left", style="progress.remaining")
