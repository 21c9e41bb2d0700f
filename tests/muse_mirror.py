"""A small folder laid out as MUSE's hub data sets are, with rows of our own: the novels are lighthouses' logbooks."""

import re

import pandas as pd
from toxigen_mirror import parquet

DAYS = 30  # of a logbook, 17 words each


def logbook(lamp):
    return "\n\n".join(
        f'On day {day} keeper {lamp} wrote: "Lamp {lamp} isn\'t dim.\nIt burnt {day * lamp} hours, and {day} more."'
        for day in range(1, DAYS + 1)
    )


def tokenised(text):
    """A text as it comes back from tokens: spaces before punctuation, and lines run together."""
    return " ".join(re.sub(r"([.,:\"'])", r" \1 ", text).split())


def part(text, start, end):
    return tokenised(" ".join(text.split()[start:end]))


def pairs(about, number=12):
    return [{"question": f"What of {about} {row}?", "answer": f"It is {about}, {row}."} for row in range(number)]


BOOKS = [logbook(lamp) for lamp in range(1, 5)]


def verbatim(texts, at=((20, 80, 110), (200, 260, 290))):
    return [{"prompt": part(text, a, b), "gt": part(text, b, c)} for text in texts for a, b, c in at]


def write(folder, **changed):
    files = {
        "raw/forget": [{"text": text} for text in BOOKS],
        "raw/retain1": [
            {"text": "\n".join(f"Page {line} of the harbour's chart tells of reef {line}." for line in range(50))}
        ],
        "verbmem/forget": verbatim(BOOKS),
        "knowmem/forget_qa": pairs("lamps"),
        "knowmem/forget_qa_icl": pairs("gulls", 2),
        "knowmem/retain_qa": pairs("charts"),
        "knowmem/retain_qa_icl": pairs("ropes", 2),
    }
    for name, rows in (files | changed).items():
        parquet(pd.DataFrame(rows), folder / f"{name}-00000-of-00001.parquet")
    prose = [
        f"A long sentence about stone number {stone} at the wall of the old mill by the river." for stone in range(9)
    ]
    pd.DataFrame({"text": prose}).to_csv(folder / "prose.csv", index=False)
    return folder
