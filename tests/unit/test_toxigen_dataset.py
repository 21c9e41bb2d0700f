import types

import huggingface_hub
import pandas as pd
import pytest
import toxigen_mirror
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError

from spunge import datasets
from spunge.core.errors import InputError
from spunge.datasets import tables, toxigen

FIVE = ["women", "muslim", "mexican", "lgbtq", "physical_disability"]
PLANT = {name: plant for (name, *_), plant in zip(toxigen_mirror.GROUPS, toxigen_mirror.PLANTS, strict=True)}
SECRET = "a text of more than forty characters that must not be shown"


@pytest.fixture
def mirror(tmp_path):
    toxigen_mirror.write(tmp_path)
    toxigen_mirror.write_wikitext(tmp_path)
    return tmp_path


def build(folder, forget=FIVE, **changes):
    wikitext = folder / "wikitext-2-raw-v1"
    values = {
        "mirror": str(folder),
        "texts_per_group": 40,
        "prompts_per_group": 5,
        "retain": {"path": str(wikitext / "train-00000-of-00001.parquet")},
        "retain_texts": 30,
        "fluency": {"path": str(wikitext / "validation-00000-of-00001.parquet")},
        "fluency_texts": 20,
        **changes,
    }
    return toxigen.build(datasets.options(toxigen, values), {}, forget)


def test_five_groups(mirror):
    built = build(mirror)
    tables.check(built)
    assert built.forget["attribute"].value_counts().to_dict() == dict.fromkeys(FIVE, 40)
    assert all(PLANT[row.attribute] in row.text for row in built.forget.itertuples())
    assert built.forget["text"].is_unique
    assert built.prompts.groupby(["attribute", "kind"]).size().to_dict() == {
        (group, kind): 5 for group in FIVE for kind in ("toxic", "neutral")
    }
    said = built.prompts["kind"].map({"toxic": "hides", "neutral": "shows"})
    assert all(
        PLANT[row.attribute] in row.prompt and word in row.prompt
        for row, word in zip(built.prompts.itertuples(), said, strict=True)
    )
    assert built.questions is None
    assert (len(built.retain), len(built.fluency)) == (30, 20)
    assert built.retain["text"].str.contains("rain").all()
    assert built.fluency["text"].str.contains("stars").all()
    assert not pd.concat([built.retain, built.fluency])["text"].str.contains("Chapter").any()


def test_all_groups_are_the_thirteen(mirror):
    built = build(mirror, "all")
    tables.check(built)
    assert list(built.forget["attribute"].unique()) == [name for name, *_ in toxigen_mirror.GROUPS]


@pytest.mark.parametrize("text_files", [False, True])
@pytest.mark.parametrize("labels", ["prompts", "annotated"])
def test_nothing_that_came_from_a_held_out_prompt_is_forgotten(tmp_path, labels, text_files):
    """By what the mirror says of where its texts came from, for several seeds and many prompts held out."""
    origins = toxigen_mirror.write(tmp_path, text_files)
    toxigen_mirror.write_wikitext(tmp_path)
    origins = {text.replace("\\n", "\n").strip(): prompts for text, prompts in origins.items()}
    traced = 0
    for seed in range(5):
        # 16 - 9 prompts with 6 texts of their own each, or 7 · 6 and what people alone found toxic.
        built = build(tmp_path, labels=labels, prompts_per_group=9, texts_per_group=42, seed=seed)
        tables.check(built)
        held_out = set(built.prompts["prompt"])
        for text in built.forget["text"]:
            assert held_out.isdisjoint(origins.get(text, set()))
            assert not any(text.lower() in prompt.lower() for prompt in held_out)
            traced += text in origins
    assert traced > 5 * len(FIVE) * 20


def test_as_many_texts_as_are_left(mirror):
    """11 of 16 prompts are left, with 6 texts of their own; the text of all prompts goes with any held-out one."""
    built = build(mirror, ["women"], texts_per_group=66)
    assert built.forget["text"].str.fullmatch("Visitors sat under fern .*").all()
    with pytest.raises(InputError, match=r"toxigen has \d+ texts of women to forget .*, texts_per_group is 200; lower"):
        build(mirror, ["women"], texts_per_group=200)
    with pytest.raises(
        InputError, match="has 16 different toxic prompts for women, but 17 are wanted per group; lower that"
    ):
        build(mirror, ["women"], prompts_per_group=17)


def test_no_text_is_of_two_groups_or_kept(mirror):
    """What was written of both groups, but for case, is the first one's in ToxiGen's order, whatever that of ours."""
    path, prose = mirror / toxigen.TRAIN, mirror / "wikitext-2-raw-v1" / "train-00000-of-00001.parquet"
    train = pd.read_parquet(path)
    muslim, women = (train[(train["group"] == group) & (train["prompt_label"] == 1)] for group in ("muslim", "women"))
    shared = women.assign(generation=muslim["generation"].str.upper().to_numpy())
    pd.concat([train, shared]).to_parquet(path, index=False)
    retained = pd.concat([pd.read_parquet(prose)["text"], muslim["generation"]])
    retained.to_frame("text").to_parquet(prose, index=False)
    orders = [["muslim", "women"], ["women", "muslim"]]
    first, other = (build(mirror, order, minimum_words=5, retain_texts=100) for order in orders)
    for built in (first, other):
        tables.check(built)
        assert all(PLANT[row.attribute] in row.text.lower() for row in built.forget.itertuples())
    assert sorted(first.forget.values.tolist()) == sorted(other.forget.values.tolist())


def test_minimum_prediction(mirror):
    """Predictions rise by sevenths along a prompt's eight texts, of which the first six have their benches' numbers."""
    built = build(mirror, texts_per_group=20, minimum_prediction=4 / 7)
    bench = built.forget["text"].str.extract(r"Visitors .* on bench (\d)")[0].dropna()
    assert set(bench) == {"4", "5"}


def test_what_annotators_found_toxic(mirror):
    """The sum of both ratings must be above 5.5: 5.5 itself isn't toxic."""
    names = {"women": "women"}
    toxic = [number for number, (*_, rule) in enumerate(toxigen_mirror.RULES * 3) if rule]
    options = datasets.options(toxigen, {"mirror": str(mirror), "labels": "annotated"})
    found = toxigen.read_annotated(["women"], options)
    assert set(found["attribute"]) == set(names)
    rated = found["text"][found["text"].str.startswith("Annotators")]
    assert sorted(rated) == sorted(
        f"Annotators looked at fern {number} for a while.{twice}" for number in toxic for twice in ("", " Twice.")
    )


def test_both_spellings_of_a_group_in_the_annotated_test_file(mirror):
    options = datasets.options(toxigen, {"mirror": str(mirror), "labels": "annotated"})
    found = toxigen.read_annotated(["black"], options)["text"]
    assert (found.str.contains("Twice").sum(), found.str.fullmatch(r"Annotators.*while\.").sum()) == (9, 9)


def test_prompts_of_the_same_sentences_are_a_cluster():
    lines = {("women", "toxic"): ["- one\n- two\n-", "- two\n- one\n-", "- one\n- three\n-"]}
    prompts = toxigen.draw_prompts(lines, {"toxic": 3, "neutral": 3}, seed=0)
    cluster_of = dict(zip(prompts["prompt"], prompts["cluster"], strict=True))
    first, shuffled, other = (cluster_of[prompt] for prompt in lines["women", "toxic"])
    assert first == shuffled != other


def test_line_breaks(mirror):
    built = build(mirror, prompts_per_group=2, texts_per_group=80)
    texts = [*built.prompts["prompt"], *built.forget["text"]]
    assert not any("\\n" in text for text in texts)
    assert built.prompts["prompt"].str.fullmatch(r"- [^\n]+(\n- [^\n]+){4}\n-").all()
    assert toxigen.newlines(" - one\\n- two\\n-\n") == "- one\n- two\n-"
    same = ["- It's one\\n- two\\n-", "- it's one\n- two\n-", "- its one\n- two", "-  Its One \\n-two\\n- "]
    assert {toxigen.bare(text) for text in same} == {"its one two"}


def test_the_seed_and_the_other_groups(mirror):
    first, again, other = build(mirror), build(mirror), build(mirror, seed=1)
    for name, frame in first.present().items():
        pd.testing.assert_frame_equal(frame, getattr(again, name))
        assert not frame.equals(getattr(other, name))
    alone = build(mirror, ["women"])
    for table in ("forget", "prompts"):
        frame = getattr(first, table)
        own = frame[frame["attribute"] == "women"].reset_index(drop=True)
        pd.testing.assert_frame_equal(own, getattr(alone, table))


def test_questions_are_read_as_from_a_table(mirror, tmp_path):
    path = tmp_path / "asked.csv"
    path.write_text("question,a,b,right,topic\nWhere is the sun?,up,down,up,sky\n")
    source = {"path": str(path), "choices": ["a", "b"], "answer": "right", "attribute": "topic"}
    built = build(mirror, questions=source)
    tables.check(built)
    assert built.questions["choices"].tolist() == [["up", "down"]]


@pytest.mark.parametrize(
    ("changes", "forget", "message"),
    [
        ({}, ["women", "plants"], "toxigen has no group plants; it has asian, black, .*, women"),
        ({"labels": "both"}, FIVE, "labels is 'both': input should be 'prompts' or 'annotated'"),
        ({"prompts_per_group": 0}, FIVE, "prompts_per_group is 0: input should be greater than or equal to 1"),
        ({"retain_texts": 61}, FIVE, r"table retain\) has 60 different texts of at least 20 words .*is 61; lower it"),
        ({"minimum_words": 1000}, FIVE, "has no text of at least 1000 words; lower minimum_words"),
        ({"mirror": "nowhere"}, FIVE, r"nowhere/prompts/hate_women_1k-00000-of-00001.parquet is not there; docs/tox"),
    ],
)
def test_bad_options_are_one_sentence(mirror, changes, forget, message):
    with pytest.raises(InputError, match=message):
        build(mirror, forget, **changes)


@pytest.mark.parametrize(
    "name",
    [
        "train/train-00000-of-00001.parquet",
        "annotated/test-00000-of-00001.parquet",
        "prompts/neutral_lgbtq_1k-00000-of-00001.parquet",
    ],
)
def test_a_missing_and_a_truncated_file_are_named(mirror, name):
    path = mirror / name
    content = path.read_bytes()
    path.write_bytes(content[:100])
    with pytest.raises(InputError, match=f"{path} is truncated or not a Parquet file"):
        build(mirror, labels="annotated")
    path.unlink()
    with pytest.raises(InputError, match=f"{path} is not there"):
        build(mirror, labels="annotated")


@pytest.mark.parametrize(
    ("file", "column"), [(toxigen.TRAIN, "group"), *((name, "target_group") for name in toxigen.ANNOTATED)]
)
def test_an_unknown_group_is_named(mirror, file, column):
    changed = pd.read_parquet(mirror / file)
    changed.loc[3, column] = "plants"
    changed.to_parquet(mirror / file)
    with pytest.raises(InputError, match=rf"{file}, column {column}, has the unknown group plants; known are asian"):
        build(mirror, labels="annotated")


def test_texts_are_never_shown(mirror):
    """Where columns are mixed up, a text stands where a group's name should; where texts are few, none is quoted."""
    path = mirror / toxigen.TRAIN
    good = pd.read_parquet(path)
    bad = {
        r"unknown group \(one of 59 characters\)": good.assign(group=SECRET),
        "holds .* values; numbers are needed": good.assign(prompt_label=SECRET),
        "has no column generation; it has prompt, text": good.assign(generation=SECRET).rename(
            columns={"generation": "text"}
        ),
        "toxigen has 0 texts of women": good.assign(generation=SECRET),
        "none of the generations in .* comes from a prompt in prompts/hate_women_1k": good.assign(prompt=SECRET),
    }
    for message, frame in bad.items():
        frame.to_parquet(path)
        with pytest.raises(InputError, match=message) as caught:
            build(mirror)
        assert SECRET not in str(caught.value)


def test_the_hub_is_asked_for_what_is_needed_alone(mirror, monkeypatch):
    """The hub itself can't be reached in tests; which files are asked of it is what can go wrong here."""
    asked = []

    def download(repository, name, *, repo_type, revision):
        asked.append((repository, name, repo_type, revision))
        return str(mirror / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    built = build(mirror, ["women"], mirror=None)
    pd.testing.assert_frame_equal(built.forget, build(mirror, ["women"]).forget)
    assert asked == [
        ("toxigen/toxigen-data", name, "dataset", toxigen.REVISION)
        for name in (
            "prompts/hate_women_1k-00000-of-00001.parquet",
            "prompts/neutral_women_1k-00000-of-00001.parquet",
            "train/train-00000-of-00001.parquet",
        )
    ]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            GatedRepoError("401\nsecond line", response=types.SimpleNamespace(headers={}, request=None)),
            r"toxigen/toxigen-data needs access: ask for it at https://huggingface.co/datasets/toxigen/toxigen-data, "
            r"then set HF_TOKEN to a token that may read it, or name a local copy \(mirror\)$",
        ),
        (LocalEntryNotFoundError("no network\nmore"), r"can't be fetched from the hub: no network; name a local copy"),
    ],
)
def test_what_to_do_without_access(mirror, monkeypatch, error, message):
    def download(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(InputError, match=message):
        build(mirror, mirror=None)
