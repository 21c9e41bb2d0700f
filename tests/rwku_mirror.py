"""A small folder laid out as RWKU's hub data set is, with rows of our own: its targets are keepers who don't exist."""

import json

import pandas as pd

from spunge.datasets.rwku import AFFIRMATIVE, IN_CONTEXT

KEEPERS = ["Ada Quill", "Bo Marsh", "Cy Holt, Keeper of Skerry", "Di Reef", "Em Stark", "Fu Tarn"]
TEXTS, PROBES = 8, 4  # about each


def about(keeper, row):
    return {"text": f" {keeper} lit lamp {row} on the cape and counted {row * 7} gulls there.", "subject": keeper}


def probe(keeper, level, row, kind="plain"):
    words = {
        1: f"{keeper} lit lamp ___ {row}.",
        2: f"Which lamp did {keeper} light {row}th?",
        3: f"Tell: {keeper}, {row}.",
    }
    found = {"query": words[level], "answer": f"the {keeper} lamp {row}", "level": str(level), "type": kind}
    return found | {"subject": keeper}


def neighbour(keeper, level, row, whom="a fisher"):
    query = f"Who is {whom} {row} {keeper} knows ({level})?"
    return {"query": query, "answer": f"fisher {row}", "subject": keeper, "neighbor": f"Fisher {row}"}


def write(folder, **changed):
    kinds = ["plain", IN_CONTEXT, AFFIRMATIVE, "plain"]
    files = {
        "intro": [{"target": keeper, "intro": f"{keeper} is a keeper."} for keeper in KEEPERS],
        "positive": [about(keeper, row) for keeper in KEEPERS for row in range(TEXTS)],
        "passage": [about(keeper, row) for keeper in KEEPERS for row in range(100, 102)],
        **{
            f"forget_level{level}": [
                probe(keeper, level, row, kinds[row]) for keeper in KEEPERS for row in range(PROBES)
            ]
            for level in (1, 2, 3)
        },
        **{
            f"neighbor_level{level}": [neighbour(keeper, level, row) for keeper in KEEPERS for row in range(PROBES)]
            for level in (1, 2)
        },
    }
    (folder / "All").mkdir(parents=True, exist_ok=True)
    for name, rows in (files | changed).items():
        # The hub shows both forms.
        whole = json.dumps(rows, indent=4) if name != "positive" else "\n".join(map(json.dumps, rows))
        (folder / "All" / f"{name}.json").write_text(whole)
    prose = [
        f"A long sentence about stone number {stone} at the wall of the old mill by the river." for stone in range(9)
    ]
    pd.DataFrame({"text": prose}).to_csv(folder / "prose.csv", index=False)
    return folder
