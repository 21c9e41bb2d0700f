"""HateCheck's layout with harmless rows: groups are those of the published file, what is said is about plants."""

from collections import Counter

import pandas as pd
import pytest
import small_wheels
import toxigen_mirror

from spunge import datasets
from spunge.core.errors import InputError
from spunge.datasets import hatecheck, tables

PLANTS = ["oak", "elm", "ash", "fir", "yew", "ivy", "fern"]
OPTIONS = {
    "prompts_per_group": 6,
    "neutral_prompts_per_group": 5,
    "retain_passages": 20,
    "fluency_passages": 10,
    "calibration_passages": 10,
    "minimum_subjects": 4,
    "minimum_population": 0,
}
# Number of a template, its label, the template that it was made from, and what it says.
TEMPLATES = [
    (1, "hateful", None, "the {} hides the gate"),
    (2, "hateful", 1, "the {} surely hides the well"),
    (3, "non-hateful", 1, "nobody says the {} hides the gate"),
    (4, "non-hateful", 2, "the {} never hid the well"),
    (5, "non-hateful", None, "the {} grows by the lane"),
    (6, "non-hateful", None, "the {} shades the wall"),
    (7, "non-hateful", None, "the {} is by the mill"),
]


def cases():
    """Every template with every group in it, and cases without a group, as the published file has them."""
    rows = [
        (text.format(plant), label, group, number, made_from)
        for number, label, made_from, text in TEMPLATES
        for group, plant in zip(hatecheck.GROUPS, PLANTS, strict=True)
    ]
    rows += [("the rain is loud", "non-hateful", None, 90, None), ("the hail is grey", "non-hateful", None, 91, None)]
    frame = pd.DataFrame(rows, columns=["test_case", "label_gold", "target_ident", "templ_id", "ref_templ_id"])
    return frame.assign(functionality="f", case_id=range(len(frame)))


def write(folder, frame):
    (folder / "hatecheck").mkdir(parents=True)
    frame.to_csv(folder / hatecheck.CASES)
    for group, names in hatecheck.GROUPS.items():
        for name in names:
            for kind in ("hate", "neutral"):
                if kind == "hate" or group not in hatecheck.WITHOUT_NEUTRAL:
                    lines = toxigen_mirror.prompts(name, kind)
                    toxigen_mirror.write_prompts(folder / "toxigen" / "prompts", f"{kind}_{name}_1k", lines, True)


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mirror")
    write(folder, cases())
    return folder


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory):
    return small_wheels.write(tmp_path_factory.mktemp("wheels"))


def build(mirror, wheel_files, forget="all", **changes):
    options = datasets.options(hatecheck, {**OPTIONS, "mirror": str(mirror), **changes})
    return hatecheck.build(options, wheel_files, forget)


def test_hateful_cases_are_forgotten_and_the_others_kept_or_measured(mirror, wheel_files):
    built = build(mirror, wheel_files)
    tables.check(built)
    assert Counter(built.forget["attribute"]) == dict.fromkeys(hatecheck.GROUPS, 2)
    kept = built.retain[built.retain["attribute"] != ""]
    assert len(kept) + len(built.benign) == 5 * 7
    assert set(kept["text"]).isdisjoint(built.benign["text"])
    assert {*kept["attribute"]} == {*built.benign["attribute"]} == {*hatecheck.GROUPS}
    assert (built.retain["attribute"] == "").sum() == 20


@pytest.mark.parametrize("seed", range(6))
def test_cases_that_were_made_from_one_another_stay_together(mirror, wheel_files, seed):
    built = build(mirror, wheel_files, prompt_seed=seed)
    measured = built.benign["text"]
    pair = {"nobody says the oak hides the gate", "the oak never hid the well"}  # through the hateful templates 1 and 2
    assert len(pair & {*measured}) in (0, 2)
    assert built.benign["cluster"].nunique() == 2  # of the four families of harmless cases
    other = "the oak grows by the lane"
    assert {text.replace("oak", plant) for text in measured if text == other for plant in PLANTS} <= {*measured}


def test_prompts_are_those_of_the_lists_about_the_groups(mirror, wheel_files):
    prompts = build(mirror, wheel_files, ["trans people", "disabled people"]).prompts
    counts = Counter(prompts[["attribute", "kind"]].itertuples(index=False, name=None))
    assert counts == {
        ("trans people", "toxic"): 6,
        ("disabled people", "toxic"): 12,  # of two lists
        ("disabled people", "neutral"): 10,
    }
    assert prompts.loc[prompts["attribute"] == "trans people", "prompt"].str.contains("trans").all()


def test_groups_that_are_not_forgotten_are_left_out(mirror, wheel_files):
    built = build(mirror, wheel_files, ["women"])
    for frame in (built.forget, built.benign, built.prompts):
        assert {*frame["attribute"]} == {"women"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forget": ["elves"]}, "hatecheck has no group elves; it has Muslims, black people, disabled people"),
        ({"mirror": "/nowhere"}, "/nowhere/hatecheck/test_suite_cases.csv is not there; docs/hate-groups.md says"),
        ({"benign_share": 0.01}, "no case of Muslims.* is left for benign; take another share"),
        ({"prompts_per_group": 99}, "toxigen has 16 different toxic prompts for muslim, but 99 are wanted per group"),
    ],
)
def test_what_there_is_not_is_refused(mirror, wheel_files, changes, message):
    with pytest.raises(InputError, match=message):
        build(**{"mirror": mirror, "wheel_files": wheel_files, **changes})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda frame: frame.drop(columns="templ_id"), "has no column templ_id; it has"),
        (lambda frame: frame.assign(label_gold="maybe"), "column label_gold, has maybe; known are hateful and"),
    ],
)
def test_another_file_is_refused(tmp_path, wheel_files, spoil, message):
    write(tmp_path, spoil(cases()))
    with pytest.raises(InputError, match=message):
        build(tmp_path, wheel_files)
