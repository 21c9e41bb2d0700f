"""A small folder laid out as the hub's WMDP corpora are, with harmless rows: bio is about bread, cyber about yarn.

Beside them Wikipedia's files as the hub lays them out.
"""

import json
from pathlib import Path

import pandas as pd
import toxigen_mirror
from toxigen_mirror import parquet

BIO, CORPORA, WIKITEXT = "cais/wmdp-bio-forget-corpus", "cais/wmdp-corpora", "Salesforce/wikitext"
BIO_FILES = [f"{BIO}/data/train-{part:05d}-of-00002.parquet" for part in range(2)]
CYBER_FILE = f"{CORPORA}/cyber-forget-corpus/train-00000-of-00001.parquet"
CRAFTS = {"bio": "bread", "cyber": "yarn"}
RETAINED = {"bio": "gardens", "cyber": "bridges"}

TEXTS = 20  # of each domain, different and long
RETAIN_TEXTS = 24  # of each domain
LINES = 60  # of each of Wikipedia's splits that are long enough
FIFTY = "Fifty characters, so it is too short by just one.."
FIFTY_ONE = "Fifty-one characters: this is just enough of these."


def sentences(domain: str, number: int) -> list[str]:
    """Return a forget text's sentences, of more than 1,500 tokens in the tiny model's tokenizer."""
    craft = CRAFTS[domain]
    return [f"Keeper {number} of the {craft} counts shelf {shelf} and writes {shelf * number}." for shelf in range(40)]


def forget_texts(domain: str) -> list[str]:
    return [" ".join(sentences(domain, number)) for number in range(1, TEXTS + 1)]


def retain_texts(domain: str) -> list[str]:
    about = RETAINED[domain]
    return [f"Visitors number {number} walk among the {about} until the evening bell rings." for number in range(24)]


def write(folder: Path) -> None:
    """Write all files: also rows that are missing, too short by one character, just long enough, and there twice."""
    first, second = forget_texts("bio")[: TEXTS // 2], forget_texts("bio")[TEXTS // 2 :]
    for name, texts in zip(BIO_FILES, ([*first, FIFTY, None], [*second, first[0]]), strict=True):
        sheets = range(len(texts))
        columns = {
            "title": [f"Title of sheet {sheet} that nobody reads out, whatever it says" for sheet in sheets],
            "abstract": [f"Abstract of sheet {sheet} that stays where it was put down" for sheet in sheets],
            "text": texts,
            "doi": [f"10.0000/{sheet}" for sheet in sheets],
        }
        parquet(pd.DataFrame(columns), folder / name)
    cyber = [*forget_texts("cyber"), FIFTY, f" {FIFTY_ONE}\n", forget_texts("cyber")[3]]
    parquet(pd.DataFrame({"text": cyber}), folder / CYBER_FILE)
    for domain, parts in (("bio", 4), ("cyber", 1)):
        texts = retain_texts(domain)
        for part in range(parts):
            name = f"{CORPORA}/{domain}-retain-corpus/train-{part:05d}-of-{parts:05d}.parquet"
            parquet(pd.DataFrame({"text": texts[part::parts]}), folder / name)
    toxigen_mirror.write_wikitext(folder / WIKITEXT)


def write_lines(folder: Path) -> None:
    """Write bio's texts as the JSON lines of its older form, in the place of the Parquet files."""
    frames = [pd.read_parquet(folder / name).dropna() for name in BIO_FILES]
    lines = [json.dumps(row) for row in pd.concat(frames).to_dict("records")]
    (folder / BIO / "bio_remove_dataset.jsonl").write_text("".join(f"{line}\n" for line in lines))
    for name in BIO_FILES:
        (folder / name).unlink()
