"""RWKU's layout with rows of our own: its targets are keepers of lighthouses who don't exist."""

import pytest
from rwku_mirror import KEEPERS, PROBES, TEXTS, about, neighbour, probe, write

from spunge import datasets
from spunge.core.errors import InputError
from spunge.datasets import rwku, tables

LLAMA_3 = "<user>{question}<end><assistant>"


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    return write(tmp_path_factory.mktemp("rwku"))


FORGOTTEN = [KEEPERS[2], KEEPERS[0]]


def build(mirror, forget=FORGOTTEN, **changes):
    given = {
        "mirror": str(mirror),
        "targets": 5,
        "fluency": {"path": str(mirror / "prose.csv")},
        "fluency_texts": 8,
        "minimum_words": 5,
    }
    return rwku.build(datasets.options(rwku, given | changes), {}, forget)


def test_some_targets_are_forgotten_and_the_other_first_ones_retained(mirror):
    built = build(mirror)
    tables.check(built, FORGOTTEN)
    assert built.forget["attribute"].tolist() == [keeper for keeper in FORGOTTEN for _ in range(TEXTS)]
    for keeper, texts in built.forget.groupby("attribute")["text"]:
        assert set(texts) == {about(keeper, row)["text"].strip() for row in range(TEXTS)}
    assert len(built.retain) == 3 * TEXTS and set(built.retain["attribute"]) == {rwku.OTHERS}
    assert not built.retain["text"].str.contains("Fu Tarn").any(), "the sixth"
    assert built.questions is None


def test_texts_are_drawn_by_the_seed_for_each_target_by_itself(mirror):
    drawn = build(mirror, texts_per_target=3)
    assert drawn.forget["attribute"].value_counts().to_dict() == dict.fromkeys(FORGOTTEN, 3)
    own = drawn.forget.loc[drawn.forget["attribute"] == KEEPERS[0], "text"].tolist()
    assert build(mirror, [KEEPERS[0]], texts_per_target=3).forget["text"].tolist() == own
    assert build(mirror, [KEEPERS[0]], texts_per_target=3, seed=1).forget["text"].tolist() != own


def test_passages_of_wikipedia_may_be_trained_on(mirror):
    texts = build(mirror, texts="passage").forget["text"]
    assert set(texts) == {about(keeper, row)["text"].strip() for keeper in FORGOTTEN for row in (100, 101)}


def test_everything_is_asked_about_the_targets_and_their_neighbours(mirror):
    asked = build(mirror).answers
    counts = asked["attribute"].value_counts().to_dict()
    assert counts == {
        **dict.fromkeys(FORGOTTEN, 3 * PROBES),
        rwku.OTHERS: 3 * 3 * PROBES,
        rwku.NEIGHBOURS: 2 * 2 * PROBES,
    }
    forgotten = asked["attribute"].isin(FORGOTTEN)
    assert asked.loc[forgotten, "cluster"].is_unique, "targets are the attribute, so each question counts"
    assert asked.loc[~forgotten, "cluster"].nunique() == 5, "three others, and the neighbours of two"
    assert asked["question"].is_unique and (asked["answer"].str[0] == " ").all()
    blanks = build(mirror, levels=[1]).answers
    assert set(blanks["attribute"]) == set(counts) and blanks["question"].str.contains("complete the blank").all()
    assert rwku.NEIGHBOURS not in set(build(mirror, levels=[3]).answers["attribute"]), "RWKU attacks none of them"


def test_questions_are_worded_as_by_rwkus_authors(mirror):
    """Expected: eval_forget.py of github.com/jinzhuoran/RWKU, by hand."""
    asked = build(mirror, template=LLAMA_3).answers
    own = asked.loc[asked["attribute"] == KEEPERS[0], "question"].tolist()
    brief = "<user>Please briefly answer the following question.\n"
    assert own[0] == (
        "<user>Please complete the blank in the following question.\nQuestion: Ada Quill lit lamp ___ 0."
        "<end><assistant>Answer:"
    )
    assert own[4] == f"{brief}Question: Which lamp did Ada Quill light 0th?<end><assistant>Answer:"
    assert own[8:11] == [
        f"{brief}Question: Tell: Ada Quill, 0.<end><assistant>Answer:",
        f"{brief}Tell: Ada Quill, 1.<end><assistant>Answer:",
        f"{brief}Question: Tell: Ada Quill, 2.<end><assistant>",
    ]


def test_a_neighbours_question_that_names_another_target_to_forget_is_left_out(tmp_path):
    rows = [
        neighbour(KEEPERS[0], 1, 0),
        neighbour(KEEPERS[0], 1, 1, "CY HOLT, keeper of Skerry"),
        neighbour("Nobody", 1, 2),
    ]
    asked = build(write(tmp_path, neighbor_level1=rows), levels=[1]).answers
    assert (asked["attribute"] == rwku.NEIGHBOURS).sum() == 1


@pytest.mark.parametrize(
    "target", [KEEPERS[0], KEEPERS[2].upper(), KEEPERS[1]], ids=["itself", "forgotten", "retained"]
)
def test_a_neighbour_who_is_a_target_is_none(tmp_path, target):
    """In the published files a few targets are neighbours of their own, and others are retained ones."""
    rows = [neighbour(KEEPERS[0], 1, 0), neighbour(KEEPERS[0], 1, 1) | {"neighbor": target}]
    asked = build(write(tmp_path, neighbor_level1=rows), levels=[1]).answers
    assert asked.loc[asked["attribute"] == rwku.NEIGHBOURS, "answer"].tolist() == [" fisher 0"]


def test_a_text_that_stands_under_several_targets_is_about_none(tmp_path):
    """As some of the published ones that a model wrote, which say nothing but "I'" or "Who are you?"."""
    texts = [about(keeper, row) for keeper in KEEPERS for row in range(TEXTS)]
    shared = [{"text": "Who are  you?", "subject": KEEPERS[0]}, {"text": "WHO are you?", "subject": KEEPERS[5]}]
    shared += [{"text": "It is a lamp.", "subject": KEEPERS[1]}, {"text": "It is a lamp.", "subject": KEEPERS[2]}]
    alone = {"text": texts[0]["text"].upper(), "subject": texts[0]["subject"]}
    built = build(write(tmp_path, positive=[*texts, *shared, alone]))
    plain = build(write(tmp_path, positive=texts))
    tables.check(built, FORGOTTEN)
    for name in ("forget", "retain"):
        assert set(getattr(built, name)["text"]) == set(getattr(plain, name)["text"])


def test_a_question_that_is_asked_twice_counts_once(tmp_path):
    rows = [
        probe(KEEPERS[0], 2, 0),
        probe(KEEPERS[0], 2, 0),
        probe(KEEPERS[1], 2, 0) | {"query": probe(KEEPERS[0], 2, 0)["query"]},
    ]
    asked = build(write(tmp_path, forget_level2=rows), levels=[2]).answers
    assert asked["attribute"].tolist()[:1] == [KEEPERS[0]] and rwku.OTHERS not in set(asked["attribute"])


@pytest.mark.parametrize(
    ("forget", "changes", "files", "message"),
    [
        (["Fu Tarn"], {}, {}, r"rwku's first 5 targets have no Fu Tarn; they are Ada Quill, Bo Marsh"),
        ("all", {}, {}, r"data\.forget names all of the 5; name fewer, or raise data\.options\.targets"),
        (KEEPERS[:2], {"targets": 2}, {}, r"data\.forget names all of the 2; name fewer"),
        (FORGOTTEN, {"texts": "positive_phi"}, {}, r"positive_phi\.json is not there; docs/rwku\.md says which files"),
        (FORGOTTEN, {"template": "ask"}, {}, r"rwku's template 'ask' needs \{question\} once"),
        (FORGOTTEN, {}, {"intro": [{"name": "Ada"}]}, r"intro\.json has no target; it has name"),
        (FORGOTTEN, {}, {"positive": [about(KEEPERS[0], 1)]}, r"rwku's positive\.json has no text about Bo Marsh"),
        (FORGOTTEN, {}, {"forget_level3": [{"query": "Who?", "answer": "A", "subject": "A"}]}, r"has no type; it has"),
        (FORGOTTEN, {"fluency_texts": 10}, {}, r"has 9 different texts .* fluency_texts is 10; lower it"),
    ],
)
def test_what_cannot_be_taken_is_told_in_one_sentence(tmp_path, forget, changes, files, message):
    with pytest.raises(InputError, match=message):
        build(write(tmp_path, **files), forget, **changes)


def test_a_truncated_file_is_told_without_what_it_says(mirror, tmp_path):
    folder = write(tmp_path)
    path = folder / "All" / "forget_level2.json"
    path.write_text(path.read_text()[:-40])
    with pytest.raises(InputError, match=r"forget_level2\.json, line \d+, is no JSON: .*; fetch it again") as error:
        build(folder)
    assert "Quill" not in str(error.value)
