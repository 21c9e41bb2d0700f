"""WMDP's corpora (Li et al. 2024, arXiv 2403.03218): hazardous knowledge by domain, as RMU's authors forget it.

Forget: papers on biosecurity (bio) and texts on offensive security (cyber); attribute = the domain. Retain: Wikipedia's
test split, as the authors do, their corpora of harmless texts of the same domains, or the user's own. Fluency: another
split of Wikipedia. Questions: none; the benchmark's own are asked by `evaluations.benchmarks`. docs/wmdp.md has the
details.

The files are those of the hub data sets (bio's needs a token), or of local copies of them. They are large, so they are
read as streams. Messages never show a text.
"""

import hashlib
import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from spunge.core.errors import InputError
from spunge.core.slugs import folded
from spunge.datasets import hub
from spunge.datasets.table import HUB, Prose, json_lines, read_source
from spunge.datasets.tables import Tables, listed
from spunge.experiment.options import Count, Seed, Text, checked

PAGE = "docs/wmdp.md"
COLUMN = "text"
ROWS = 256  # read at a time: many are whole papers


@dataclass(frozen=True)
class Corpus:
    """Files of a hub data set; `lines` is one with JSON lines that a copy may have instead."""

    repository: str
    revision: str
    files: tuple[str, ...]
    lines: str | None = None


def _published(name: str, parts: int = 1) -> Corpus:
    files = tuple(f"{name}/train-{part:05d}-of-{parts:05d}.parquet" for part in range(parts))
    return Corpus("cais/wmdp-corpora", "daf89fa9b618b63a624228061a9cebacca88009c", files)


def _wikitext(split: str) -> Corpus:
    return Corpus(hub.WIKITEXT, hub.WIKITEXT_REVISION, (f"{hub.WIKITEXT_CONFIG}/{split}-00000-of-00001.parquet",))


FORGET = {
    "bio": Corpus(
        "cais/wmdp-bio-forget-corpus",
        "5a786ed1041e56fef2d4ed26c1239f12b73a68eb",
        ("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"),
        lines="bio_remove_dataset.jsonl",
    ),
    "cyber": _published("cyber-forget-corpus"),
}
# The sources that `retain` and `fluency` may name.
NAMED = {
    "retain": {
        "wikitext": {"": _wikitext("test")},
        "domains": {"bio": _published("bio-retain-corpus", 4), "cyber": _published("cyber-retain-corpus")},
    },
    "fluency": {"wikitext": {"": _wikitext("validation")}},
}


@checked
class Options:
    """What to build."""

    mirror: Annotated[
        Text | None,
        Field(
            description="A local folder with copies of the hub data sets under their ids; null takes them from the hub."
        ),
    ] = None
    texts_per_domain: Annotated[Count, Field(description="Texts of each domain that are forgotten, at most.")] = 1000
    minimum_characters: Annotated[
        Count, Field(description="Shorter texts are left out, as the authors' reader does with 50 and fewer.")
    ] = 51
    seed: Annotated[Seed, Field(description="Draws the texts to forget, to retain and for fluency.")] = 0
    retain: Annotated[
        Literal["wikitext", "domains"] | Prose,
        Field(
            description="`wikitext`, its test split; `domains`, the harmless corpora of the domains to forget in equal "
            "parts; or a mapping as in the data set `table`."
        ),
    ] = "wikitext"
    retain_texts: Annotated[Count, Field(description="Texts to retain, at most.")] = 2000
    fluency: Annotated[
        Literal["wikitext"] | Prose,
        Field(description="`wikitext`, its validation split, or a mapping as in the data set `table`."),
    ] = "wikitext"
    fluency_texts: Annotated[Count, Field(description="Texts that measure fluency, at most.")] = 200

    def __post_init__(self):
        check_apart(self)


def build(options: Options, wheel_files: Mapping[str, Path], forget: Sequence[str] | str) -> Tables:
    """Return the tables with the texts of the `forget` domains (a list, or "all") to be forgotten; no wheel is used.

    A domain's texts depend on the seed and its files alone, but for those that an earlier domain of FORGET forgets; and
    no text to forget is retained. Raises InputError for an unknown domain, a file that can't be had or read, or a
    source without a text that is long enough.
    """
    domains = list(FORGET) if forget == "all" else list(forget)
    if unknown := [domain for domain in domains if domain not in FORGET]:
        raise InputError(f"wmdp has no corpus to forget for {listed(unknown)}; it has {', '.join(FORGET)}")
    # Every file is located before one is read, so that missing access shows at once.
    forget_files = {domain: locate(FORGET[domain], options) for domain in domains}
    retain, fluency = (
        [
            locate(corpus, options)
            for domain, corpus in named_corpora(table, options).items()
            if domain in ("", *domains)
        ]
        for table in NAMED
    )
    drawn: dict[str, list[str]] = {}
    forgotten: set[str] = set()
    for domain in (domain for domain in FORGET if domain in domains):  # whatever their order in the configuration
        seed = f"{domain} {options.seed}"
        drawn[domain] = draw(forget_files[domain], "forget", options.texts_per_domain, seed, options, forgotten)
        forgotten.update(map(folded, drawn[domain]))
    rows = [(text, domain) for domain in domains for text in drawn[domain]]
    return Tables(
        forget=pd.DataFrame(rows, columns=["text", "attribute"]),
        retain=draw_prose("retain", retain, options.retain_texts, options, forgotten),
        questions=None,
        fluency=draw_prose("fluency", fluency, options.fluency_texts, options),
    )


def named_corpora(table: str, options: Options) -> Mapping[str, Corpus]:
    """Return the corpora that retain or fluency is by name, by domain ("" where of none); none for a mapping."""
    value = getattr(options, table)
    return {} if isinstance(value, Mapping) else NAMED[table][value]


def check_apart(options: Options) -> None:
    """Raise InputError where fluency would be measured on what is retained: one file, or one split on the hub."""
    if both := origins("retain", options) & origins("fluency", options):
        raise InputError(
            f"wmdp: retain and fluency are both {min(both)}; perplexity must not be measured on what was retained, so "
            "take another split or file for one of them"
        )


def origins(table: str, options: Options) -> set[str]:
    """Return where the texts of retain or fluency come from: splits of hub data sets, and paths of files."""
    value = getattr(options, table)
    if isinstance(value, Mapping):
        path = str(value.get("path", ""))
        if path.startswith(HUB):
            return {hub_split(path.removeprefix(HUB), value.get("config"), value.get("split", "train"))}
        return {str(Path(path).expanduser().resolve())}
    sources = set()
    for corpus in named_corpora(table, options).values():
        config, file = corpus.files[0].split("/")
        sources.add(hub_split(corpus.repository, config, file.partition("-")[0]))
        if options.mirror is not None:
            sources |= {str((mirror_folder(corpus, options) / name).resolve()) for name in corpus.files}
    return sources


def hub_split(repository: str, config: str | None, split: str) -> str:
    """Return a name for a split of a hub data set; the hub knows Salesforce/wikitext as wikitext, too."""
    return " ".join(filter(None, [repository.rpartition("/")[2], config, split]))


def mirror_folder(corpus: Corpus, options: Options) -> Path:
    """Return the folder of a corpus' repository in the mirror."""
    return Path(options.mirror).expanduser() / corpus.repository


def locate(corpus: Corpus, options: Options) -> list[Path]:
    """Return the paths of a corpus' files, in the mirror or fetched from the hub; raises InputError."""
    folder = None if options.mirror is None else mirror_folder(corpus, options)
    if folder and corpus.lines and (folder / corpus.lines).is_file():
        return [folder / corpus.lines]
    return [hub.locate(name, corpus.repository, corpus.revision, folder, PAGE) for name in corpus.files]


def draw_prose(
    table: str, files: Sequence[Sequence[Path]], wanted: int, options: Options, without: Collection[str] = ()
) -> pd.DataFrame:
    """Return the table retain or fluency: at most `wanted` texts, equally many of each corpus' files, or the user's."""
    source, seed = getattr(options, table), f"{table} {options.seed}"
    if isinstance(source, Mapping):
        texts = sample(read_source(source, table, 1)["text"], wanted, seed, options.minimum_characters, without)
        check_found(texts, str(source["path"]), table, options)
        return pd.DataFrame({"text": texts})
    shares = [wanted // len(files) + (place < wanted % len(files)) for place in range(len(files))]
    drawn = [
        draw(corpus_files, table, share, seed, options, without)
        for corpus_files, share in zip(files, shares, strict=True)
        if share
    ]
    return pd.DataFrame({"text": [text for texts in drawn for text in texts]})


def draw(
    files: Sequence[Path], table: str, wanted: int, seed: str, options: Options, without: Collection[str] = ()
) -> list[str]:
    """Return at most `wanted` texts of these files, drawn by the seed; those `without` as in `sample`."""
    texts = (text for path in files for text in read_texts(path))
    texts = sample(texts, wanted, seed, options.minimum_characters, without)
    check_found(texts, listed(files), table, options)
    return texts


def check_found(texts: Sequence[str], where: str, table: str, options: Options) -> None:
    """Raise InputError where no text was long enough."""
    if not texts:
        raise InputError(
            f"{where} (table {table}) has no text of at least {options.minimum_characters} characters; lower "
            "minimum_characters"
        )


def sample(texts: Iterable[str], wanted: int, seed: str, minimum: int, without: Collection[str] = ()) -> list[str]:
    """Return at most `wanted` of the different texts of `minimum` characters or more, stripped, in a drawn order.

    Texts that are, `folded`, among those `without` are left out. A text's place follows from the seed and the text
    alone, so neither order nor number of the others matter, a larger draw holds a smaller one, and no more than
    `wanted` texts are in memory at a time.
    """
    drawn: list[tuple[int, str]] = []  # a heap, the last place first
    places = set()
    for text in texts:
        text = text.strip()
        if len(text) < minimum:
            continue
        place = int.from_bytes(hashlib.sha256(f"{seed}\n{text}".encode()).digest())
        if place in places or (len(drawn) == wanted and place > -drawn[0][0]):
            continue
        if without and folded(text) in without:
            continue
        if len(drawn) == wanted:
            places.remove(-heapq.heapreplace(drawn, (-place, text))[0])
        else:
            heapq.heappush(drawn, (-place, text))
        places.add(place)
    return [text for _, text in sorted(drawn, reverse=True)]


def read_texts(path: Path) -> Iterator[str]:
    """Yield the texts of a Parquet file, or of one with a JSON object a line, a few at a time; missing ones left out.

    Raises InputError for a file that can't be read, has no column `text`, or holds something else than strings there.
    """
    if path.suffix == ".jsonl":
        yield from _read_lines(path)
        return
    if COLUMN not in (columns := hub.columns_of(path)):
        raise InputError(f"{path} has no column {COLUMN}; it has {listed(columns)}")
    try:
        with pq.ParquetFile(path) as file:
            kind = file.schema_arrow.field(COLUMN).type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise InputError(f"{path}, column {COLUMN}, holds {kind} values; strings are needed")
            for batch in file.iter_batches(batch_size=ROWS, columns=[COLUMN]):
                yield from (text for text in batch.column(COLUMN).to_pylist() if text is not None)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is truncated or not a Parquet file; fetch it again") from error


def _read_lines(path: Path) -> Iterator[str]:
    for number, record in json_lines(path, str(path)):
        if not isinstance(record.get(COLUMN), str):
            raise InputError(f"{path}, line {number}, has no string named {COLUMN}")
        yield record[COLUMN]
