import tracemalloc
import types
from pathlib import Path

import huggingface_hub
import pandas as pd
import pytest
import wmdp_mirror
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError
from wmdp_mirror import BIO, BIO_FILES, CORPORA, CYBER_FILE, FIFTY_ONE, WIKITEXT

from spunge import datasets
from spunge.core.errors import InputError
from spunge.datasets import hub, tables, wmdp
from spunge.models import shapes
from spunge.planning import cost_model

BOTH = ["bio", "cyber"]
SECRET = "a text of more than fifty-one characters that must not be shown"
VALIDATION = f"{WIKITEXT}/wikitext-2-raw-v1/validation-00000-of-00001.parquet"
TEST = f"{WIKITEXT}/wikitext-2-raw-v1/test-00000-of-00001.parquet"


@pytest.fixture
def mirror(tmp_path):
    wmdp_mirror.write(tmp_path)
    return tmp_path


def build(folder, forget=BOTH, **changes):
    values = {"mirror": str(folder), "texts_per_domain": 12, "retain_texts": 15, "fluency_texts": 10, **changes}
    return wmdp.build(datasets.options(wmdp, values), {}, forget)


def test_two_domains(mirror):
    built = build(mirror)
    tables.check(built)
    assert built.forget["attribute"].tolist() == ["bio"] * 12 + ["cyber"] * 12
    for domain, own in built.forget.groupby("attribute")["text"]:
        assert own.is_unique and set(own) <= {*wmdp_mirror.forget_texts(domain), FIFTY_ONE}
    assert (len(built.retain), len(built.fluency)) == (15, 10)
    assert built.retain["text"].str.contains("rivers").all(), "the test split"
    assert built.fluency["text"].str.contains("stars").all(), "the validation split"
    assert not pd.concat([built.retain, built.fluency])["text"].str.contains("Chapter").any()
    assert built.questions is None and built.prompts is None


def test_all_domains_are_those_with_a_corpus(mirror):
    assert list(build(mirror, "all").forget["attribute"].unique()) == BOTH


def test_every_text_that_is_long_enough_is_taken_once(mirror):
    """More are asked for than there are: missing ones, those of 50 characters and repeated ones stay out."""
    built = build(mirror, texts_per_domain=1000, retain_texts=1000, fluency_texts=1000)
    texts = built.forget.groupby("attribute")["text"].apply(list)
    assert sorted(texts["bio"]) == sorted(wmdp_mirror.forget_texts("bio"))
    assert sorted(texts["cyber"]) == sorted([*wmdp_mirror.forget_texts("cyber"), FIFTY_ONE])
    assert (len(built.retain), len(built.fluency)) == (wmdp_mirror.LINES, wmdp_mirror.LINES)


def test_the_retain_corpora_of_the_domains_in_equal_parts(mirror):
    retained = build(mirror, retain="domains").retain["text"]
    about = [retained.str.contains(word).sum() for word in wmdp_mirror.RETAINED.values()]
    assert about == [8, 7] and len(retained) == 15
    assert set(retained) < {*wmdp_mirror.retain_texts("bio"), *wmdp_mirror.retain_texts("cyber")}
    alone = build(mirror, ["cyber"], retain="domains", retain_texts=1000).retain["text"]
    assert sorted(alone) == sorted(wmdp_mirror.retain_texts("cyber"))
    assert len(build(mirror, retain="domains", retain_texts=1).retain) == 1


def test_texts_of_ones_own(mirror, tmp_path):
    """Blank lines and headings are in many a corpus."""
    path = tmp_path / "own.csv"
    path.write_text("line\n\n= Heading =\nIn the harbour a boat is painted blue before the summer comes.\n")
    built = build(mirror, retain={"path": str(path), "text": "line"}, fluency={"path": str(mirror / TEST)})
    assert built.retain["text"].tolist() == ["In the harbour a boat is painted blue before the summer comes."]
    assert built.fluency["text"].str.contains("rivers").all()


def test_the_draw_depends_on_the_seed_and_the_own_files_alone(mirror):
    first, again, other = build(mirror), build(mirror), build(mirror, seed=1)
    for name, frame in first.present().items():
        pd.testing.assert_frame_equal(frame, getattr(again, name))
        assert set(frame["text"]) != set(getattr(other, name)["text"])
    cyber = first.forget[first.forget["attribute"] == "cyber"].reset_index(drop=True)
    pd.testing.assert_frame_equal(build(mirror, ["cyber"]).forget, cyber)
    more = build(mirror, texts_per_domain=16).forget["text"].tolist()
    assert more[:12] == first.forget["text"].tolist()[:12], "a larger draw begins with the smaller one"
    path = mirror / CYBER_FILE
    pd.read_parquet(path)[::-1].to_parquet(path, index=False)
    pd.testing.assert_frame_equal(build(mirror).forget, first.forget)


def test_every_text_is_drawn_as_often():
    """Over many seeds each of ten texts is among three drawn in three of ten cases, and in each place as often."""
    texts = [f"text {number}" for number in range(10)]
    drawn = pd.DataFrame([wmdp.sample(texts, 3, str(seed), 1) for seed in range(3000)])
    for place in drawn:
        # 300 expected, with a standard deviation of 16.4; 5 of them.
        assert drawn[place].value_counts().reindex(texts).between(218, 382).all()
    assert drawn.nunique(axis=1).eq(3).all()


def test_no_more_texts_are_in_memory_than_are_drawn():
    """40 MB go by, of which 1 MB is kept."""
    texts = (f"{number} " + "word " * 2000 for number in range(4000))
    tracemalloc.start()
    kept = wmdp.sample(texts, 100, "0", 51)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(kept) == 100
    assert peak < 3e6


def test_no_text_is_forgotten_twice_or_kept(mirror):
    """The corpora share texts, but for case and space: the first domain forgets them, whatever the order."""
    bio, cyber = (mirror / name for name in (BIO_FILES[0], CYBER_FILE))
    shared = wmdp_mirror.forget_texts("bio")[:10]
    pd.DataFrame({"text": [*wmdp_mirror.forget_texts("cyber"), *(f" {text.upper()}" for text in shared)]}).to_parquet(
        cyber
    )
    retained = mirror / CORPORA / "cyber-retain-corpus" / "train-00000-of-00001.parquet"
    pd.DataFrame({"text": [*wmdp_mirror.retain_texts("cyber"), *shared]}).to_parquet(retained)
    assert len(pd.read_parquet(bio).dropna()) == 11
    every = {"texts_per_domain": 1000, "retain": "domains", "retain_texts": 1000}
    first, other = build(mirror, **every), build(mirror, BOTH[::-1], **every)
    for built in (first, other):
        tables.check(built)
        assert built.forget["attribute"].value_counts().to_dict() == {"bio": 20, "cyber": 20}
    assert sorted(first.forget.values.tolist()) == sorted(other.forget.values.tolist())
    assert len(build(mirror, ["cyber"], **every).forget) == 30


def test_json_lines_in_the_place_of_bios_files(mirror):
    first = build(mirror)
    wmdp_mirror.write_lines(mirror)
    pd.testing.assert_frame_equal(build(mirror).forget, first.forget)


@pytest.mark.parametrize(
    "changes",
    [
        {"fluency": {"path": "hub:wikitext", "config": "wikitext-2-raw-v1", "split": "test"}},
        {"fluency": {"path": "hub:Salesforce/wikitext", "config": "wikitext-2-raw-v1", "split": "test"}},
        {"fluency": {"path": TEST}},
        {"retain": {"path": f"{CORPORA}/../../{VALIDATION}"}},
        {"retain": "domains", "fluency": {"path": "hub:cais/wmdp-corpora", "config": "cyber-retain-corpus"}},
        {"retain": "domains", "fluency": {"path": f"{CORPORA}/bio-retain-corpus/train-00002-of-00004.parquet"}},
        {"retain": {"path": "own.csv"}, "fluency": {"path": "./own.csv", "text": "line"}},
    ],
)
def test_fluency_is_never_measured_on_what_is_retained(mirror, monkeypatch, changes):
    """By name, from the hub or as a file, on whatever way the path is written."""
    monkeypatch.chdir(mirror)
    with pytest.raises(InputError, match=r"retain and fluency are both .*; perplexity must not be measured on what"):
        build(".", **changes)


@pytest.mark.parametrize(
    ("changes", "forget", "message"),
    [
        ({}, ["bio", "chem"], "wmdp has no corpus to forget for chem; it has bio, cyber"),
        ({"texts_per_domain": 0}, BOTH, "texts_per_domain is 0: input should be greater than or equal to 1"),
        (
            {"retain": "wikipedia"},
            BOTH,
            "retain is 'wikipedia': input .* 'wikitext' or 'domains', or .* a valid dictionary",
        ),
        ({"fluency": "domains"}, BOTH, "fluency is 'domains': input should be 'wikitext', or .* a valid dictionary"),
        ({"minimum_characters": 10_000}, BOTH, r"no text of at least 10000 characters; lower minimum_characters"),
        ({"mirror": "nowhere"}, BOTH, f"nowhere/{BIO_FILES[0]} is not there; docs/wmdp.md says which"),
    ],
)
def test_bad_options_are_one_sentence(mirror, changes, forget, message):
    with pytest.raises(InputError, match=message):
        build(mirror, forget, **changes)


@pytest.mark.parametrize("name", [BIO_FILES[1], CYBER_FILE, VALIDATION])
def test_a_missing_and_a_truncated_file_are_named(mirror, name):
    path = mirror / name
    content = path.read_bytes()
    path.write_bytes(content[:100])
    with pytest.raises(InputError, match=f"{path} is truncated or not a Parquet file"):
        build(mirror)
    path.unlink()
    with pytest.raises(InputError, match=f"{path} is not there"):
        build(mirror)


def test_texts_are_never_shown(mirror):
    """Where columns are mixed up, a text stands where a name should; a line that can't be read may hold one."""
    path = mirror / CYBER_FILE
    good = pd.read_parquet(path)
    for message, frame in {
        "has no column text; it has body": good.rename(columns={"text": "body"}),
        "column text, holds int64 values; strings are needed": good.assign(text=1),
    }.items():
        frame.to_parquet(path)
        with pytest.raises(InputError, match=message):
            build(mirror)
    good.to_parquet(path)
    wmdp_mirror.write_lines(mirror)
    for message, line in {
        "bio_remove_dataset.jsonl, line 1, has no string named text": f'{{"body": "{SECRET}"}}',
        "bio_remove_dataset.jsonl, line 1, is no JSON: Expecting property name": f"{{'text': {SECRET}",
    }.items():
        (mirror / BIO / "bio_remove_dataset.jsonl").write_text(line + "\n")
        with pytest.raises(InputError, match=message) as caught:
            build(mirror)
        assert SECRET not in str(caught.value)


def test_the_hub_is_asked_for_what_is_needed_alone(mirror, monkeypatch):
    """The hub itself can't be reached in tests; which files are asked of it is what can go wrong here."""
    asked = []

    def download(repository, name, *, repo_type, revision):
        asked.append((repository, name, repo_type, revision))
        return str(mirror / repository / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    built = build(None, mirror=None)
    for name, frame in build(mirror).present().items():
        pd.testing.assert_frame_equal(frame, getattr(built, name))
    bio, corpora = wmdp.FORGET["bio"].revision, wmdp.FORGET["cyber"].revision
    assert asked == [
        (BIO, "data/train-00000-of-00002.parquet", "dataset", bio),
        (BIO, "data/train-00001-of-00002.parquet", "dataset", bio),
        (CORPORA, "cyber-forget-corpus/train-00000-of-00001.parquet", "dataset", corpora),
        (WIKITEXT, "wikitext-2-raw-v1/test-00000-of-00001.parquet", "dataset", hub.WIKITEXT_REVISION),
        (WIKITEXT, "wikitext-2-raw-v1/validation-00000-of-00001.parquet", "dataset", hub.WIKITEXT_REVISION),
    ]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            GatedRepoError("401\nsecond line", response=types.SimpleNamespace(headers={}, request=None)),
            rf"{BIO} needs access: ask for it at https://huggingface.co/datasets/{BIO}, then set HF_TOKEN to a token "
            r"that may read it, or name a local copy \(mirror\)$",
        ),
        (LocalEntryNotFoundError("no network\nmore"), r"can't be fetched from the hub: no network; name a local copy"),
    ],
)
def test_what_to_do_without_access(mirror, monkeypatch, error, message):
    def download(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(InputError, match=message):
        build(None, mirror=None)


def test_the_page_tells_memory_and_time_as_the_account_has_them():
    """Zephyr-7B-beta's shape is that of its config.json: Mistral-7B's."""
    page = (Path(__file__).parents[2] / "docs" / "wmdp.md").read_text()
    zephyr = shapes.ModelShape("Zephyr-7B-beta", 4096, 32, 14336, 32, 8, 32000)
    for shape in (zephyr, shapes.LLAMA_2_7B):
        rmu = sum(cost_model.rmu_memory(shape, 7, (5, 6, 7), 4 * 768 + 4 * 512).values())
        factors = 32 * 8 * (shape.hidden + shape.intermediate)
        tvn, at_once = (
            sum(cost_model.training_memory(shape, tokens, factors, shape.parameters, checkpointed).values())
            for tokens, checkpointed in ((2 * 512, True), (8 * 512, False))
        )
        row = " | ".join(
            [
                f"| {shape.name}",
                *(f"{memory / 1e9:.0f}" for memory in (rmu, tvn, at_once)),
                f"{4 * 3 * shape.down_projection / 1e9:.1f} |",
            ]
        )
        assert row in page
