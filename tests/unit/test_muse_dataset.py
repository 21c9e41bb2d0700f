"""MUSE's layout with rows of our own: four lamps' logbooks in the place of novels, and notices in that of articles."""

import re

import pytest
from muse_mirror import BOOKS, logbook, pairs, verbatim, write

from spunge import datasets
from spunge.core.errors import InputError
from spunge.core.slugs import folded
from spunge.datasets import muse, tables


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    return write(tmp_path_factory.mktemp("muse"))


def build(mirror, forget="all", **changes):
    given = {
        "mirror": str(mirror),
        "words_per_text": 100,
        "fluency": {"path": str(mirror / "prose.csv")},
        "fluency_texts": 8,
        "minimum_words": 5,
    }
    return muse.build(datasets.options(muse, given | changes), {}, forget)


def test_novels_are_forgotten_passage_by_passage(mirror):
    """A novel is a row of raw/forget, and no word of it is lost or changed."""
    built = build(mirror)
    tables.check(built)
    assert list(built.forget["attribute"].unique()) == ["book 1", "book 2", "book 3", "book 4"]
    assert "subject" not in built.forget, "a random split must be able to part a novel"
    for book, text in enumerate(BOOKS, start=1):
        own = built.forget.loc[built.forget["attribute"] == f"book {book}", "text"]
        assert " ".join(own).split() == text.split()
        assert own.map(lambda passage: len(passage.split())).tolist()[:-1] == [100] * (len(own) - 1)
        assert all(passage in text for passage in own)
    assert built.questions is None and len(built.retain) == 5


def test_a_passage_goes_on_in_the_novel_that_it_stands_in(mirror):
    """Though its punctuation and its lines came back from tokens differently."""
    asked = build(mirror).answers
    books = asked[asked["attribute"] != muse.RETAINED]
    assert books["attribute"].tolist() == [f"book {book}" for book in (1, 1, 2, 2, 3, 3, 4, 4)]
    assert (books["question"] + books["answer"]).tolist() == [f"{row['prompt']} {row['gt']}" for row in verbatim(BOOKS)]
    assert books["cluster"].is_unique, "a novel is an attribute, so each of its passages counts"


def test_questions_about_what_is_retained_come_after_muses_examples(mirror):
    asked = build(mirror).answers
    kept = asked[asked["attribute"] == muse.RETAINED]
    assert len(kept) == 12
    assert kept.iloc[0]["question"] == (
        "Question: What of ropes 0?\nAnswer: It is ropes, 0.\n\nQuestion: What of ropes 1?\nAnswer: It is ropes, 1.\n\n"
        "Question: What of charts 0?\nAnswer:"
    )
    assert kept.iloc[0][["answer", "cluster"]].tolist() == [" It is charts, 0.", "What of charts 0?"]
    (end,) = kept["end"].unique()
    for written, counted in (
        (" In Rome.\n\nQuestion: And where?\nAnswer: In Kent.", " In Rome."),
        (" In Rome.\nQuestion", " In Rome."),
        (" In Rome. Question: And", " In Rome. "),
        (" In Rome.\nNear it.", " In Rome.\nNear it."),
    ):
        assert re.split(end, written, maxsplit=1)[0] == counted, "as MUSE cuts it"
    (never,) = asked[asked["attribute"] != muse.RETAINED]["end"].unique()
    assert not re.search(never, "a\n\nQuestion: b"), "passages have lines"


def test_questions_about_novels_need_to_know_of_which(tmp_path, mirror):
    with pytest.raises(InputError, match=r"knowmem/forget_qa of .* has no column book, which says what its rows are"):
        build(mirror, asks="knowmem")
    own = [row | {"book": f"book {number % 4 + 1}"} for number, row in enumerate(pairs("lamps"))]
    asked = build(write(tmp_path, **{"knowmem/forget_qa": own}), ["book 2", "book 4"], asks="knowmem").answers
    assert asked["attribute"].value_counts().to_dict() == {muse.RETAINED: 12, "book 2": 3, "book 4": 3}
    assert asked["question"][0].endswith("Question: What of lamps 1?\nAnswer:")
    assert asked["question"][0].startswith("Question: What of gulls 0?")


def test_some_novels_alone_are_forgotten_and_the_others_not_retained(mirror):
    built = build(mirror, ["book 3"])
    assert set(built.forget["attribute"]) == {"book 3"} and len(built.retain) == 5
    assert set(built.answers["attribute"]) == {"book 3", muse.RETAINED}


ARTICLES = [f"{logbook(lamp)} Notice {number}." for lamp in (5, 6) for number in range(3)]
TOPICS = ["tides", "tides", "tides", "winds", "winds", "winds"]
COPYRIGHT = "\n\nAll notices are the harbour's own, and no keeper may print them in other papers than these. "


def news(folder, **changed):
    rows = [{"text": text, "topic": topic} for text, topic in zip(ARTICLES, TOPICS, strict=True)]
    return write(folder, **({"raw/forget": rows} | changed))


def test_articles_are_split_by_a_column_and_kept_whole(tmp_path):
    """Articles differ in their last words alone, so a passage stands in three of them, all of one topic."""
    texts = [ARTICLES[0], ARTICLES[3]]
    built = build(news(tmp_path, **{"verbmem/forget": verbatim(texts)}), corpus="news", attribute="topic")
    tables.check(built)
    assert set(built.forget["attribute"]) == {"tides", "winds"}
    assert built.forget["text"].map(folded).is_unique, "what articles share is forgotten once"
    assert built.forget.groupby("subject")["attribute"].nunique().eq(1).all()
    asked = built.answers[built.answers["attribute"] != muse.RETAINED]
    assert asked[["attribute", "cluster"]].to_numpy().tolist() == [
        ["tides", "text 1"],
        ["tides", "text 1"],
        ["winds", "text 4"],
        ["winds", "text 4"],
    ]


@pytest.mark.parametrize(("cut", "gap"), [("the har|bour", ""), ("the harbour|, and", ""), ("the| harbour", " ")])
def test_a_passage_that_is_cut_inside_a_word_gets_no_space_there(tmp_path, cut, gap):
    """MUSE cuts between tokens."""
    before, after = cut.split("|")
    text = (
        f"{ARTICLES[0]} Under the red lamp of {cut.replace('|', '')} no gull was seen before the tide had turned again."
    )
    place = text.index(before + after) + len(before)
    rows = [{"text": text, "topic": "tides"}]
    given = {"raw/forget": rows, "verbmem/forget": [{"prompt": text[:place], "gt": text[place:]}]}
    asked = build(write(tmp_path, **given), corpus="news", attribute="topic").answers.iloc[0]
    assert asked["question"] + asked["answer"] == text
    assert asked["answer"].startswith(gap + after.strip())


def test_a_passage_of_no_article_or_of_several_topics_is_not_asked(tmp_path):
    rows = [
        {"text": text + COPYRIGHT * 2, "topic": topic} for text, topic in zip(ARTICLES[::3], TOPICS[::3], strict=True)
    ]
    both = {"prompt": COPYRIGHT.strip(), "gt": COPYRIGHT.strip()}
    nowhere = {"prompt": "A gull", "gt": "flew off."}
    given = {"raw/forget": rows, "verbmem/forget": [both, nowhere, *verbatim(ARTICLES[:1])]}
    asked = build(write(tmp_path, **given), corpus="news", attribute="topic").answers
    assert (asked["attribute"] == "tides").sum() == 2 and "winds" not in set(asked["attribute"])


def test_an_article_without_text_is_left_out(tmp_path):
    rows = [{"text": "", "topic": "winds"}, {"text": ARTICLES[0], "topic": "tides"}]
    given = {"raw/forget": rows, "verbmem/forget": verbatim(ARTICLES[:1])}
    built = build(write(tmp_path, **given), corpus="news", attribute="topic")
    assert set(built.forget["attribute"]) == {"tides"}


def test_what_is_forgotten_is_not_retained(tmp_path):
    shared = [{"text": f"{BOOKS[0]}\n"}, {"text": "The chart ends here."}]
    built = build(write(tmp_path, **{"raw/retain1": shared}))
    assert built.retain["text"].tolist() == ["The chart ends here."]
    tables.check(built)


@pytest.mark.parametrize(
    ("forget", "changes", "files", "message"),
    [
        (["book 5"], {}, {}, r"muse's books has no book book 5; it has book 1, book 2, book 3, book 4"),
        ("all", {"corpus": "news"}, {}, r"raw/forget of .* has no column book, which says what its rows are about"),
        ("all", {"attribute": "era"}, {}, r"raw/forget of .* has no column era, which says what its rows are about"),
        ("all", {}, {"raw/forget": [{"words": "one"}]}, r"forget-00000-of-00001\.parquet has no column text; it has"),
        (
            "all",
            {},
            {"verbmem/forget": [{"prompt": "A gull", "gt": "flew off."}]},
            r"no passage of verbmem/forget stands in raw/forget",
        ),
        (
            "all",
            {"asks": "knowmem"},
            {"knowmem/forget_qa": [row | {"book": "book 9"} for row in pairs("lamps")]},
            r"knowmem/forget_qa has the book book 9, raw/forget has not",
        ),
        ("all", {"fluency_texts": 10}, {}, r"has 9 different texts .* fluency_texts is 10; lower it"),
    ],
)
def test_what_cannot_be_taken_is_told_in_one_sentence(tmp_path, forget, changes, files, message):
    with pytest.raises(InputError, match=message):
        build(write(tmp_path, **files), forget, **changes)


def test_a_file_that_is_not_there_is_named(tmp_path, mirror):
    with pytest.raises(InputError, match=r"raw/forget-00000-of-00001\.parquet is not there; docs/muse\.md says"):
        build(tmp_path, fluency={"path": str(mirror / "prose.csv")})
