"""The table that benchmarks fill: results.csv, one row per name, metric and machine."""

import os
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from spunge.core.files import whole_file

COLUMNS = ["name", "metric", "ours", "reference", "ratio", "unit", "machine", "commit"]

# How many times better than the reference: the least that each ratio has to be.
TARGETS = {
    ("rmu_step", "time per step"): 6,
    ("rmu_step_cached", "time per step"): 12,
    ("rmu_memory", "peak memory"): 3,
    ("ties_rmu_3", "time"): 10,
    ("ties_rmu_8", "time"): 10,
    ("ties_memory_3", "peak memory"): 5,
    ("ties_full_3", "time"): 2,
    ("ties_full_memory_3", "peak memory"): 1,
    ("ties_memory_by_size", "peak memory, 2 times the layers"): 0.8,
    ("ties_memory_by_size", "peak memory, 4 times the layers"): 0.8,
    ("disk_rmu", "disk"): 10,
    ("disk_lora", "disk"): 50,
    ("lora_load", "time"): 1,
    ("lora_load", "time, files not cached"): 1,
    ("lora_load", "peak memory"): 0.8,
    ("generation", "scored continuations"): 3,
    ("budget", "time"): 1.5,
    ("budget", "peak memory"): 1,
    ("matrix_products", "time of a pass"): 1,
    # gpu.sh
    ("rmu_step_7b_gpu", "time per step"): 5,
    ("rmu_memory_7b_gpu", "peak memory"): 4,
    ("ties_rmu_8_7b_gpu", "time"): 10,
    ("generation_7b_gpu", "tokens"): 1,
}


@dataclass(frozen=True)
class Row:
    """One measurement of a pair; `more_is_better` turns the ratio round, so that a large ratio is always good."""

    name: str
    metric: str
    ours: float
    reference: float
    unit: str
    machine: str
    more_is_better: bool = False

    @property
    def ratio(self) -> float:
        return self.ours / self.reference if self.more_is_better else self.reference / self.ours


def read(path: Path) -> pd.DataFrame:
    """Read results.csv; a file that is not there has no rows."""
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=COLUMNS)


def update(table: pd.DataFrame, rows: Iterable[Row], commit: str) -> pd.DataFrame:
    """Put new rows in the place of those with the same name, metric and machine; others stay.

    Rows go in the order of TARGETS' names.
    """
    by_key = {(row.name, row.metric, row.machine): row for row in table[COLUMNS].itertuples(index=False, name="Found")}
    for row in rows:
        by_key[row.name, row.metric, row.machine] = tuple(
            getattr(row, column) if column != "commit" else commit for column in COLUMNS
        )
    order = list(dict.fromkeys(name for name, _ in TARGETS))
    return pd.DataFrame(sorted(by_key.values(), key=lambda row: order.index(row[0])), columns=COLUMNS)


def write(table: pd.DataFrame, path: Path) -> None:
    """Write results.csv with four significant digits."""
    with whole_file(path) as temporary:
        table[COLUMNS].to_csv(temporary, index=False, float_format="%.4g")


def target(row) -> float | None:
    """Return the ratio that a row of results.csv is to reach, None where there is none."""
    return TARGETS.get((row.name, row.metric))


def report(table: pd.DataFrame) -> str:
    """Return the rows as a table for people, the target beside the ratio."""
    shown = table.copy()
    targets = [target(row) for row in table.itertuples()]
    shown.insert(5, "target", [f"{goal:g}" if goal else "" for goal in targets])
    met = [ratio >= goal if goal else None for ratio, goal in zip(table["ratio"], targets, strict=True)]
    shown.insert(6, "met", [{None: "", True: "yes", False: "no"}[reached] for reached in met])
    return shown.to_markdown(index=False, floatfmt=".4g", disable_numparse=[5])


def cpu() -> str:
    """Return the processor's model and the number of cores that this process may use."""
    try:
        information = Path("/proc/cpuinfo").read_text()
    except FileNotFoundError:
        information = ""
    model = re.search(r"^model name\s*:\s*(.+)$", information, re.MULTILINE)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model[1].strip() if model else platform.processor() or platform.machine()}, {cores} cores"
