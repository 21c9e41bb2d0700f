"""Preparing and opening base models: links, digests, truncation, and nothing half-made."""

import hashlib
import json
import os
import shutil

import pytest
import tiny_model
import torch

from spunge.core.errors import InputError
from spunge.models import base_model
from spunge.models.task_vector import BaseModel


def prepare(source, folder):
    return base_model.prepare(str(source), folder)


def test_local_folder_is_linked_and_not_copied(hub, tmp_path):
    (hub / "notes.html").write_text("not part of a model")
    base = prepare(hub, tmp_path / "made" / "model")
    found = {path.name for path in base.folder.iterdir()}
    assert found == {path.name for path in hub.iterdir()} - {"notes.html"} | {"manifest.json"}
    for path in base.folder.iterdir():
        assert path.is_symlink() == (path.name != "manifest.json")
        assert path.name == "manifest.json" or path.resolve() == (hub / path.name).resolve()
    assert [path.name for path in base.folder.parent.iterdir()] == ["model"]


def test_manifest_tells_sizes_digests_and_the_number_of_parameters(hub, tmp_path):
    base = prepare(hub, tmp_path / "model")
    data = (hub / "model.safetensors").read_bytes()
    manifest = json.loads((base.folder / "manifest.json").read_text())
    assert manifest["weights"] == {
        "model.safetensors": {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    }
    assert manifest["source"] == base.source == str(hub)
    # Embeddings (tied), then four layers of q, o, k, v, the gated MLP's three and two norms, then the last norm.
    layer = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 64 + 2 * 32
    assert base.parameters == 320 * 32 + 4 * layer + 32


def test_identity_follows_the_weights_and_nothing_else(hub, tmp_path):
    first = prepare(hub, tmp_path / "first")
    moved = hub.rename(tmp_path / "elsewhere")
    (moved / "generation_config.json").unlink()
    assert prepare(moved, tmp_path / "second").identity == first.identity
    tiny_model.build(tmp_path / "other", seed=1)
    other = prepare(tmp_path / "other", tmp_path / "third")
    assert other.identity != first.identity
    assert other.parameters == first.parameters


def test_weights_in_several_files(hub, tmp_path):
    from transformers import LlamaForCausalLM

    whole = prepare(hub, tmp_path / "whole")
    LlamaForCausalLM.from_pretrained(hub).save_pretrained(tmp_path / "shards", max_shard_size="60KB")
    sharded = prepare(tmp_path / "shards", tmp_path / "sharded")
    assert len(sharded.weight_files) > 2
    assert sharded.parameters == whole.parameters
    assert sharded.identity != whole.identity  # other files, though the same numbers
    expected = base_model.load(whole, torch.float32, "cpu").state_dict()
    torch.testing.assert_close(base_model.load(sharded, torch.float32, "cpu").state_dict(), expected, rtol=0, atol=0)


def test_prepared_folder_can_be_prepared_again(hub, tmp_path):
    first = prepare(hub, tmp_path / "first")
    second = prepare(first.folder, tmp_path / "second")
    assert second.identity == first.identity
    assert second.source == str(first.folder)
    assert (second.folder / "model.safetensors").resolve() == (hub / "model.safetensors").resolve()


def test_preparing_again_replaces_the_folder(hub, tmp_path):
    first = prepare(hub, tmp_path / "model")
    shutil.rmtree(hub)
    tiny_model.build(hub, seed=1)
    assert prepare(hub, tmp_path / "model").identity != first.identity


def test_opened_folder_equals_the_prepared_one(hub, tmp_path):
    base = prepare(hub, tmp_path / "model")
    assert BaseModel.open(tmp_path / "model") == base
    assert BaseModel.open(str(tmp_path / "model")) == base


@pytest.mark.parametrize("cut", [1, 1000, 190_000])
def test_truncated_weights_are_noticed_when_preparing(hub, tmp_path, cut):
    weights = hub / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - cut)
    with pytest.raises(
        InputError, match=r"hub/model\.safetensors can't be read as safetensors .*delete it, then fetch it or run again"
    ):
        prepare(hub, tmp_path / "model")
    assert {path.name for path in tmp_path.iterdir()} == {"hub"}


def test_truncated_weights_are_noticed_when_opening(hub, tmp_path):
    base = prepare(hub, tmp_path / "model")
    size = (hub / "model.safetensors").stat().st_size
    os.truncate(hub / "model.safetensors", size - 1)
    with pytest.raises(InputError) as refused:
        BaseModel.open(base.folder)
    weights = base.folder / "model.safetensors"
    assert str(refused.value) == (
        f"{weights} has {size - 1} bytes where its manifest says {size}: delete {base.folder} and run again"
    )
    (hub / "model.safetensors").unlink()  # the link is left hanging
    with pytest.raises(InputError, match="has 0 bytes where its manifest says"):
        BaseModel.open(base.folder)


def test_folder_without_manifest_is_refused(hub):
    with pytest.raises(InputError, match=r"has no manifest\.json"):
        BaseModel.open(hub)


def test_weights_that_could_run_code_are_refused(hub, tmp_path):
    (hub / "model.safetensors").rename(hub / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"model\.source .*hub has no safetensors files; other formats are not loaded"):
        prepare(hub, tmp_path / "model")
    assert {path.name for path in tmp_path.iterdir()} == {"hub"}


def test_sources_that_are_no_model_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    for source in (tmp_path / "empty", tmp_path / "absent"):
        with pytest.raises(InputError, match=rf"model\.source {source} is no folder with a config\.json"):
            prepare(source, tmp_path / "model")
    assert {path.name for path in tmp_path.iterdir()} == {"empty"}


def test_hub_model_that_cannot_be_fetched_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(InputError) as refused:
        prepare("nobody-at-all/no-such-model", tmp_path / "model")
    message = str(refused.value)
    assert message.startswith(
        "model.source nobody-at-all/no-such-model (revision main) can't be fetched from the hub: "
    )
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def other_tokenizer(tmp_path, tiny_folder):
    """A folder with nothing but a tokenizer, to which Nairobi is one token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.add_tokens(["Nairobi"])
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_other_tokenizer_takes_the_place_of_the_models_own(hub, tmp_path, other_tokenizer):
    for name in ("vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json", "spiece.model"):
        (hub / name).write_text("{}")  # an old tokenizer's files would be read beside the new one's
    sources = contents(hub), contents(other_tokenizer)
    base = base_model.prepare(str(hub), tmp_path / "model", tokenizer=str(other_tokenizer))
    assert (contents(hub), contents(other_tokenizer)) == sources
    found = base_model.load_tokenizer(base)
    assert found("Nairobi")["input_ids"] == [320]
    own = prepare(tmp_path / "hub", tmp_path / "own")
    assert len(base_model.load_tokenizer(own)("Nairobi")["input_ids"]) > 1
    assert base.identity == own.identity  # of the weights
    linked = {path.name for path in base.folder.iterdir() if path.is_symlink()}
    assert linked == {"config.json", "generation_config.json", "model.safetensors"}
    assert {path.name for path in base.folder.iterdir()} - linked == {
        "manifest.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_a_model_without_a_tokenizer_gets_the_other(hub, tmp_path, other_tokenizer):
    for path in hub.glob("*token*"):
        path.unlink()
    base = base_model.prepare(str(hub), tmp_path / "model", tokenizer=str(other_tokenizer))
    assert base_model.load_tokenizer(base)("Nairobi")["input_ids"] == [320]


def test_other_tokenizers_chat_template_comes_with_it_and_the_source_keeps_its_own(hub, tmp_path, other_tokenizer):
    (hub / "chat_template.jinja").write_text("the model's own")
    base = base_model.prepare(str(hub), tmp_path / "without", tokenizer=str(other_tokenizer))
    assert base_model.load_tokenizer(base).chat_template is None
    (other_tokenizer / "chat_template.jinja").write_text("the other")
    base = base_model.prepare(str(hub), tmp_path / "with", tokenizer=str(other_tokenizer))
    assert base_model.load_tokenizer(base).chat_template == "the other"
    assert (hub / "chat_template.jinja").read_text() == "the model's own"


def test_tokenizer_that_is_none_is_refused_in_one_sentence(hub, tmp_path):
    (tmp_path / "empty").mkdir()
    before = contents(hub)
    for source in (tmp_path / "empty", tmp_path / "absent"):
        with pytest.raises(InputError) as refused:
            base_model.prepare(str(hub), tmp_path / "model", tokenizer=str(source))
        message = str(refused.value)
        assert message.startswith(f"the tokenizer {source} can't be had: ")
        assert message.endswith("; name a hub id or a local folder") and "\n" not in message
        assert {path.name for path in tmp_path.iterdir()} == {"hub", "empty"}
    assert contents(hub) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_interrupted_preparation_leaves_no_folder(hub, tmp_path, monkeypatch, error):
    def interrupted(*_):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(base_model, "_manifest", interrupted)
        with pytest.raises(error):
            prepare(hub, tmp_path / "model")
        assert {path.name for path in tmp_path.iterdir()} == {"hub"}
    first = prepare(hub, tmp_path / "model")
    with monkeypatch.context() as patched:
        patched.setattr(base_model, "_manifest", interrupted)
        with pytest.raises(error):
            prepare(hub, tmp_path / "model")
    assert BaseModel.open(tmp_path / "model") == first  # what was there before stays


def test_source_is_local_or_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "organisation" / "model").mkdir(parents=True)
    assert all(base_model.is_local(source) for source in ("/models/x", "./x", "../x", "~/x", "organisation/model"))
    assert not any(base_model.is_local(source) for source in ("HuggingFaceH4/zephyr-7b-beta", "gpt2", "wheel:x==1"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loaded_model_has_the_precision_asked_for(tiny_base, dtype):
    model = base_model.load(tiny_base, dtype, "cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert not model.training


def test_logits_of_chosen_places_are_those_of_all_places(model):
    tokens = torch.arange(12).view(2, 6)
    rows, places = torch.tensor([1, 0, 1]), torch.tensor([5, 2, 0])
    with torch.no_grad():
        everywhere = model(tokens).logits
        with base_model.logits_at(model, rows, places):
            chosen = model(tokens).logits
        again = model(tokens).logits
    torch.testing.assert_close(chosen, everywhere[rows, places][None])
    assert torch.equal(again, everywhere)  # nothing is left behind


def test_tokenizer_pads_on_the_right_with_its_end_token(tokenizer):
    assert tokenizer.pad_token == tokenizer.eos_token == tiny_model.END
    batch = tokenizer(["the", "the capital of France"], padding=True)
    assert batch["attention_mask"][0] == [1] + [0] * (len(batch["attention_mask"][1]) - 1)
    assert tokenizer.decode(tokenizer("Côte d'Ivoire 🎉")["input_ids"]) == "Côte d'Ivoire 🎉"


def test_tiny_model_has_the_same_bytes_for_the_same_seed(tmp_path, tiny_folder):
    torch.manual_seed(5)  # must not matter
    tiny_model.build(tmp_path)
    for path in tiny_folder.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("rotary", "named_before"),
    [
        ({"rope_type": "default", "rope_theta": 123.0}, {"rope_theta": 123.0}),
        (
            {"rope_type": "linear", "rope_theta": 77.0, "factor": 2.0},
            {"rope_theta": 77.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        ),
    ],
)
def test_a_converted_model_is_named_as_before_transformers_5_too(hub, rotary, named_before):
    """4.45 takes 10,000 for a rotary base that it doesn't find, and knows no class TokenizersBackend."""
    from transformers import AutoConfig, AutoTokenizer

    for name, changes in {
        "config.json": {"rope_parameters": rotary},
        "tokenizer_config.json": {"tokenizer_class": "TokenizersBackend"},
    }.items():
        (hub / name).write_text(json.dumps(json.loads((hub / name).read_text()) | changes))
    before = AutoConfig.from_pretrained(hub).rope_parameters, AutoTokenizer.from_pretrained(hub)("a  river")
    base_model.name_as_before_5(hub)
    config = json.loads((hub / "config.json").read_text())
    assert {key: config[key] for key in ("rope_theta", "rope_scaling") if key in config} == named_before
    assert json.loads((hub / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert (AutoConfig.from_pretrained(hub).rope_parameters, AutoTokenizer.from_pretrained(hub)("a  river")) == before
