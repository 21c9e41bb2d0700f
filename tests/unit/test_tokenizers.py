"""Tokenizers that append, lack or know other tokens than the model, and texts that a model has no positions for."""

import json

import pandas as pd
import pytest
import tiny_model
import torch
import transformers
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer
from tokenizers.processors import BertProcessing, ByteLevel, RobertaProcessing, Sequence, TemplateProcessing

from spunge.core.errors import InputError
from spunge.evaluation import ablation, fluency, generation, knowledge
from spunge.evaluation.classifiers import HuggingFace, huggingface
from spunge.methods import Run
from spunge.models import base_model
from spunge.training import loop

END, START = (tiny_model.END, 0), ("!", 1)
APPENDING = {
    "an end": TemplateProcessing(single=f"$A {END[0]}", special_tokens=[END]),
    "a start and an end": TemplateProcessing(single=f"{START[0]} $A {END[0]}", special_tokens=[START, END]),
    "two ends": TemplateProcessing(single=f"$A {END[0]} {END[0]}", special_tokens=[END]),
    "BERT's": BertProcessing(END, START),
    "RoBERTa's": RobertaProcessing(END, START),
    "several steps": Sequence([ByteLevel(), TemplateProcessing(single=f"$A {END[0]}", special_tokens=[END])]),
}
TEXTS = ["the capital of Kenya is Nairobi", "a river runs through the city", "Tokyo", "old houses! and a market"]
QUESTIONS = pd.DataFrame(
    [(f"{text} of", [" the", " city is", " and", " market"], row % 4) for row, text in enumerate(TEXTS)],
    columns=["question", "choices", "answer"],
).assign(attribute="a", subject=list("ABCD"))


@pytest.fixture
def changed(hub, tmp_path):
    """Return the tiny model, prepared after a change of its tokenizer's files."""

    def prepared(change):
        change(hub)
        return base_model.prepare(str(hub), tmp_path / "prepared")

    return prepared


def processed(processor):
    def change(folder):
        path = str(folder / "tokenizer.json")
        tokenizer = Tokenizer.from_file(path)
        tokenizer.post_processor = processor
        tokenizer.save(path)

    return change


@pytest.mark.parametrize("name", APPENDING)
def test_nothing_is_appended(changed, tiny_base, name):
    """What stands before a text stays; lm-eval's pairs are those of the plain tokenizer."""
    base, plain = changed(processed(APPENDING[name])), base_model.load_tokenizer(tiny_base)
    own = transformers.AutoTokenizer.from_pretrained(base.folder)("the city")["input_ids"]
    assert own[-1] in (0, 1) and plain("the city")["input_ids"][-1] not in (0, 1)
    tokenizer = base_model.load_tokenizer(base)
    start = own[:1] if own[0] in (0, 1) else []
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == start + plain(text)["input_ids"]
        assert tokenizer(text, truncation=True, max_length=3)["input_ids"] == (start + plain(text)["input_ids"])[:3]
    model = base_model.load(tiny_base, torch.float32, "cpu")
    ours, theirs = (HFLM(pretrained=model, tokenizer=one) for one in (tokenizer, plain))
    for row in QUESTIONS.itertuples():
        for choice in row.choices:
            context, continuation = theirs._encode_pair(row.question, choice)
            assert ours._encode_pair(row.question, choice) == (start + context, continuation)


def test_an_option_that_appends_is_undone_too(changed, tiny_base):
    def change(folder):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        tokenizer.add_eos_token = True
        tokenizer.save_pretrained(folder)

    base = changed(change)
    assert transformers.AutoTokenizer.from_pretrained(base.folder)("Tokyo")["input_ids"][-1] == 0
    assert (
        base_model.load_tokenizer(base)(TEXTS)["input_ids"] == base_model.load_tokenizer(tiny_base)(TEXTS)["input_ids"]
    )


def test_tokenizer_that_can_not_be_kept_from_it(changed):
    def change(folder):
        (folder / "tokenizer.json").unlink()
        transformers.ByT5Tokenizer().save_pretrained(folder)

    with pytest.raises(InputError, match=r"ends every text with </s>, and can't be kept from it: name a local copy"):
        base_model.load_tokenizer(changed(change))


def strip(folder):
    for name, keys in (("tokenizer_config.json", ("eos_token", "pad_token")), ("config.json", ("eos_token_id",))):
        held = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({key: value for key, value in held.items() if key not in keys}))
    (folder / "generation_config.json").unlink()


def test_long_texts_lose_their_end_whatever_the_tokenizer_says(changed, tiny_base):
    """Zephyr's cuts their beginning."""

    def change(folder):
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"truncation_side": "left", "padding_side": "left"}))

    given = {"truncation": True, "max_length": 4, "padding": True}
    found, plain = (base_model.load_tokenizer(base)(TEXTS, **given) for base in (changed(change), tiny_base))
    assert found["input_ids"] == plain["input_ids"]
    assert found["input_ids"][0] == base_model.load_tokenizer(tiny_base)(TEXTS[0])["input_ids"][:4]


def test_tokenizer_without_an_end(changed, tiny_base):
    base, plain = changed(strip), base_model.load_tokenizer(tiny_base)
    tokenizer, model = base_model.load_tokenizer(base), base_model.load(base, torch.float32, "cpu")
    assert tokenizer.eos_token is None and 0 <= tokenizer.pad_token_id < 320
    assert tokenizer(TEXTS)["input_ids"] == plain(TEXTS)["input_ids"]
    expected = knowledge.score(base_model.load(tiny_base, torch.float32, "cpu"), plain, QUESTIONS, 3)
    pd.testing.assert_frame_equal(knowledge.score(model, tokenizer, QUESTIONS, 3), expected)
    for options in (generation.Options(samples=1, temperature=0), generation.Options(samples=3, max_new_tokens=7)):
        found = generation.continue_prompts(model, tokenizer, TEXTS, options)
        assert set(found["tokens"]) == {options.max_new_tokens}
    for row, text in enumerate(TEXTS):
        given = plain(text, return_tensors="pt")
        whole = model.generate(**given, max_new_tokens=20, do_sample=False)[0, given["input_ids"].shape[1] :]
        greedy = generation.continue_prompts(model, tokenizer, TEXTS, generation.Options(samples=1, temperature=0))
        assert greedy["text"][row] == plain.decode(whole)


def test_lines_end_without_an_end_token(changed, monkeypatch):
    """Of texts continued together, each stops at its own line break, and no token behind it counts."""
    base = changed(strip)
    tokenizer, model = base_model.load_tokenizer(base), base_model.load(base, torch.float32, "cpu")
    with torch.no_grad():  # a line break is nearly as likely as what is likeliest
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
        model.lm_head.weight[tokenizer("\n")["input_ids"]] *= 3
    alone, together = (
        generation.continue_prompts(
            model, tokenizer, TEXTS, generation.Options(max_new_tokens=30, stop_at_newline=True, batch_size=size)
        )
        for size in (1, 64)
    )
    pd.testing.assert_frame_equal(alone, together)
    assert together["tokens"].nunique() > 3 and together["tokens"].min() < 30


def test_padding_that_the_model_does_not_know(changed, tiny_base):
    def change(folder):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
        assert tokenizer.pad_token_id == 320
        tokenizer.save_pretrained(folder)

    assert base_model.load_tokenizer(changed(change)).pad_token == tiny_model.END


# Tokens and positions that a model lacks


def told(action):
    with pytest.raises(InputError) as error:
        action()
    message = str(error.value)
    assert "\n" not in message and not [text for text in TEXTS if text in message]
    return message


def uses(model, tokenizer, texts, base, max_tokens=64):
    """What reads texts, by name."""
    term = loop.LossTerm("forget", list(texts), max_tokens, loop.token_nll, reduction="tokens")
    settings = loop.Options(steps=1, batch_size=2, trained="lora")
    run = Run(base, list(texts), [], seed=0, device="cpu", attributes=["x"] * len(texts), all_attributes=["x"])
    asked = QUESTIONS.assign(question=[f"{text} of" for text in texts])

    def relearn():
        with loop.fine_tuned(model, tokenizer, settings, [term], 0, "relearn"):
            pass

    return {
        "the fluency texts": lambda: fluency.score(model, tokenizer, pd.DataFrame({"text": texts}), 2, max_tokens),
        "the prompts": lambda: generation.continue_prompts(
            model, tokenizer, texts, generation.Options(samples=1, temperature=0, max_new_tokens=4)
        ),
        "questions": lambda: knowledge.score(model, tokenizer, asked, 2),
        "the forget texts": lambda: loop.train(run, settings, [term]),
        "the forget texts to relearn": relearn,
    }


def test_tokens_beyond_the_embedding(changed):
    def change(folder):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        tokenizer.add_tokens(["Nairobi"])
        tokenizer.save_pretrained(folder)

    base = changed(change)
    tokenizer, model = base_model.load_tokenizer(base), base_model.load(base, torch.float32, "cpu")
    for name, use in uses(model, tokenizer, TEXTS, base).items():
        assert told(use) == (
            f"the tokenizer gives {name.removesuffix(' to relearn')} the token 320, but the model's embedding has 320 "
            "rows, counted from 0: take the model's own tokenizer, or a model whose embedding was resized to this one"
        )
    assert "the forget texts the token 320" in told(lambda: ablation.mean_activations(model, tokenizer, TEXTS))
    for use in uses(model, tokenizer, [text.replace("Nairobi", "Tokyo") for text in TEXTS], base).values():
        use()


SIZES = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
OLD = {"vocab_size": 320, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 18}
LIMITED = {
    "GPT2": OLD,
    "GPTBigCode": OLD,
    "GPTJ": OLD | {"rotary_dim": 8},
    "CodeGen": OLD | {"rotary_dim": 8, "n_head": 4},
    "OPT": SIZES | {"ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 18},
    "BioGpt": SIZES | {"intermediate_size": 64, "max_position_embeddings": 18},
    "Roberta": SIZES | {"intermediate_size": 64, "max_position_embeddings": 20, "is_decoder": True},
    "GPTNeo": {"vocab_size": 320, "hidden_size": 32, "num_layers": 1, "num_heads": 2, "max_position_embeddings": 18}
    | {"attention_types": [[["global"], 1]]},
}


@pytest.mark.parametrize("kind", LIMITED)
def test_positions_end_where_the_model_fails(kind):
    config = getattr(transformers, f"{kind}Config")(**LIMITED[kind])
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    _, positions = base_model.learned_positions(model)
    assert positions == 18
    with torch.no_grad():
        model(torch.full((1, 18), 5))
        with pytest.raises((IndexError, RuntimeError)):
            model(torch.full((1, 19), 5))


def test_an_image_encoders_positions_are_none_of_texts():
    text = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    image = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Gemma3Config(
        text_config=text | {"num_attention_heads": 2, "num_key_value_heads": 1},
        vision_config=image | {"image_size": 8, "patch_size": 4},
    )
    model = transformers.AutoModelForImageTextToText.from_config(config)
    assert any("position_embedding" in name for name, _ in model.named_modules())
    assert base_model.learned_positions(model) is None


def test_computed_positions_have_no_end(tiny_base):
    assert base_model.learned_positions(base_model.load(tiny_base, torch.float32, "cpu")) is None


def test_texts_beyond_the_positions(changed):
    def change(folder):
        (folder / "model.safetensors").unlink()
        config = transformers.GPT2Config(**(OLD | {"n_positions": 12}), bos_token_id=0, eos_token_id=0)
        transformers.GPT2LMHeadModel(config).save_pretrained(folder)

    base = changed(change)
    tokenizer, model = base_model.load_tokenizer(base), base_model.load(base, torch.float32, "cpu")
    texts = ["the city is", " the" * 9, " the" * 12, " the" * 13]
    assert [len(one) for one in tokenizer(texts)["input_ids"]][1:] == [9, 12, 13]
    use = uses(model, tokenizer, texts, base)
    table = "but the model's table of positions, transformer.wpe, ends at 12"
    assert told(use["the fluency texts"]) == (
        f"row 3 of the fluency texts has 13 tokens, {table}: lower evaluations.fluency.max_tokens"
    )
    assert told(use["the forget texts"]) == f"row 3 of the forget texts has 13 tokens, {table}: lower max_tokens_forget"
    assert told(use["the forget texts to relearn"]).endswith("lower max_tokens")
    assert told(use["the prompts"]) == (
        f"row 3 of the prompts has 13 tokens and is to be continued by 4, {table}: take shorter prompts or lower "
        "max_new_tokens"
    )
    use["questions"]()  # which are cut, as lm-eval does
    for name, one in uses(model, tokenizer, texts[:2] * 2, base).items():
        if name != "questions":
            one()  # 9 tokens and 4 to come, of which the last isn't read
    uses(model, tokenizer, texts, base, max_tokens=12)["the fluency texts"]()


def test_classifier_without_padding_scores_each_text_by_itself(tiny_folder, tmp_path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_folder)
    assert tokenizer.pad_token is None
    config = transformers.GPT2Config(**OLD, num_labels=2, bos_token_id=0, eos_token_id=0)
    model = transformers.GPT2ForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    options = HuggingFace(source="tiny", label=1, batch_size=3)
    texts = [*TEXTS, "the market " * 20]
    found = huggingface(options, tmp_path, "cpu")(texts, [""] * len(texts))
    for text, score in zip(texts, found, strict=True):
        tokens = torch.tensor([tokenizer(text)["input_ids"][:18]])
        with torch.no_grad():
            assert score == pytest.approx(model(tokens).logits.softmax(dim=-1)[0, 1].item(), abs=1e-6)
