"""Model folders that are not whole, or not clear: refused before anything is computed with them."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from spunge.core import files
from spunge.core.errors import InputError
from spunge.models import base_model, task_vector

DOWN = "model.layers.1.mlp.down_proj.weight"
NUMBERS = dict(vocab_size=320, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)


@pytest.fixture
def sharded(tmp_path, tiny_folder):
    """The tiny model in several files with an index."""
    from transformers import LlamaForCausalLM

    LlamaForCausalLM.from_pretrained(tiny_folder).save_pretrained(tmp_path / "sharded", max_shard_size="60KB")
    return tmp_path / "sharded"


def prepare(folder, **options):
    return base_model.prepare(str(folder), folder.with_name("prepared"), **options)


def refused(folder, **options):
    with pytest.raises(InputError) as error:
        prepare(folder, **options)
    assert not folder.with_name("prepared").exists() and "\n" not in str(error.value)
    return str(error.value)


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors", {"format": "pt"})


def without(lost):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if name != lost}


def configure(folder, name="config.json", **values):
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


# What transformers would fill with random numbers


def test_missing_tensors_are_named(hub):
    rewrite(hub, without("model.norm.weight"))
    assert refused(hub) == (
        f"{hub} lacks 1 of the tensors that a LlamaForCausalLM has, model.norm.weight: fetch or save it again, whole"
    )
    rewrite(hub, lambda tensors: {name: tensor for name, tensor in tensors.items() if ".mlp." not in name})
    assert "lacks 13 of the tensors that a LlamaForCausalLM has, model.layers.0.mlp.down_proj.weight, " in refused(hub)


def test_a_head_that_is_not_tied_has_to_be_there(hub):
    configure(hub, tie_word_embeddings=False)
    assert "lacks 1 of the tensors that a LlamaForCausalLM has, lm_head.weight: " in refused(hub)


def test_shapes_that_the_configuration_does_not_have(hub):
    rewrite(hub, lambda tensors: {**tensors, DOWN: tensors[DOWN].T.contiguous()})
    assert f"{DOWN} is (64, 32) in its files, and (32, 64) by its config.json" in refused(hub)


def test_layers_that_the_configuration_does_not_count(hub):
    configure(hub, num_hidden_layers=3)
    message = refused(hub)
    assert "has 9 tensors of layers that its config.json doesn't count, model.layers.3.input_layernorm" in message


def test_tensors_that_no_model_of_the_kind_has_are_let_be(hub, tiny_base):
    """As the value head of a reward model, or the buffers of older files; they count for nothing."""
    rewrite(hub, lambda tensors: {**tensors, "v_head.weight": torch.zeros(1, 32)})
    base = prepare(hub)
    assert base.parameters == tiny_base.parameters
    base_model.load(base, torch.float32, "cpu")


def test_every_place_that_loads_a_model_looks(tmp_path, hub):
    """The second guard, for files that changed after the model was prepared."""
    from spunge.evaluation import classifiers
    from spunge.methods import rmu

    base = prepare(hub)
    rewrite(hub, without(DOWN))
    for load in (
        lambda: base_model.load(base, torch.float32, "cpu"),
        lambda: rmu.TruncatedModel(base, rmu.Options(steps=1, layer_id=2, trained_layers=(1,)), "cpu"),
    ):
        with pytest.raises(InputError, match=rf"lacks 1 of the tensors that a Llama\w+ has, \S*{DOWN[6:]}"):
            load()
    with pytest.raises(InputError, match=r"of the tensors that a LlamaForSequenceClassification has, .*score\.weight"):
        classifiers.huggingface(classifiers.HuggingFace("x", label=0), base.folder, "cpu")


def test_a_classifier_needs_its_head_and_a_language_model_its_own(hub):
    assert "of the tensors that a LlamaForSequenceClassification has, score.weight" in refused(
        hub, kind=base_model.CLASSIFIER
    )
    rewrite(hub, lambda tensors: {**tensors, "score.weight": torch.zeros(2, 32)})
    prepare(hub, kind=base_model.CLASSIFIER)


EXPERT = "model.layers.0.block_sparse_moe.experts.1"


@pytest.mark.parametrize(
    ("name", "options", "losses"),
    [
        ("GPTNeoX", {"intermediate_size": 64}, {"embed_out.weight": "lacks 1 of the tensors"}),
        ("GPT2", {"n_positions": 64}, {"wte.weight": "lm_head.weight, transformer.wte.weight"}),
        (
            "Mixtral",
            {"intermediate_size": 64, "num_key_value_heads": 1, "num_local_experts": 3},
            {
                f"{EXPERT}.w1.weight": "as a mixture's experts do, don't fit; one may be missing",
                f"{EXPERT}.w2.weight": "mlp.experts.down_proj is (2, 32, 64) in its files, and (3, 32, 64)",
            },
        ),
        ("Mamba", {"state_size": 8}, {"backbone.layers.1.mixer.A_log": "lacks 1 of the tensors"}),
        (
            "Gemma3Text",
            {"intermediate_size": 64, "num_key_value_heads": 1, "head_dim": 16},
            {"model.layers.1.self_attn.q_norm.weight": "lacks 1 of the tensors"},
        ),
    ],
)
def test_names_that_transformers_converts_are_no_missing_ones(tmp_path, name, options, losses):
    """Heads under another name, files without the model's prefix, experts one by one, tied heads."""
    import transformers

    config = getattr(transformers, f"{name}Config")(**NUMBERS, **options)
    model = transformers.AutoModelForCausalLM.from_config(config)
    hub = tmp_path / "hub"
    model.save_pretrained(hub)
    # As on the hub: GPT-2's have no prefix.
    rewrite(hub, lambda tensors: {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()})
    assert prepare(hub).parameters == model.num_parameters()
    for lost, message in losses.items():
        spoiled = Path(shutil.copytree(hub, tmp_path / lost / "hub"))
        rewrite(spoiled, without(lost))
        assert message in refused(spoiled)


# Files


def test_a_lost_shard(sharded):
    lost = sorted(sharded.glob("model-*"))[1]
    lost.unlink()
    message = refused(sharded)
    assert f"{files.INDEX} names " in message and f"1 are not there, {lost.name} among them" in message


def test_shards_without_an_index(sharded):
    (sharded / files.INDEX).unlink()
    assert "but neither model.safetensors nor model.safetensors.index.json, by which" in refused(sharded)


def test_a_tensor_that_is_not_where_the_index_says(sharded):
    [(name, file)] = [pair for pair in files.weight_map(sharded).items() if pair[0] == DOWN]
    tensors = load_file(sharded / file)
    del tensors[name]
    save_file(tensors or {"other": torch.zeros(1)}, sharded / file, {"format": "pt"})
    assert f"says that {DOWN} is in {file}, which doesn't hold it" in refused(sharded)


def test_a_tensor_in_two_files(sharded):
    first, second = sorted(sharded.glob("model-*"))[:2]
    save_file({**load_file(first), **load_file(second)}, second, {"format": "pt"})
    assert f"twice, in {first.name} and {second.name}" in refused(sharded)


def test_a_whole_file_beside_an_index_of_others(sharded, tiny_folder):
    shutil.copy(tiny_folder / "model.safetensors", sharded)
    assert "has model.safetensors and model.safetensors.index.json, which names other files: remove" in refused(sharded)


def test_weights_that_lie_twice_count_once(sharded, tiny_folder, tiny_base):
    for name in ("consolidated.safetensors", "model.fp16.safetensors"):
        shutil.copy(tiny_folder / "model.safetensors", sharded / name)
    base = prepare(sharded)
    assert base.parameters == tiny_base.parameters
    assert set(base.weight_files) == {path.name for path in sharded.glob("model-*")}
    assert not {path.name for path in base.folder.iterdir()} & {"consolidated.safetensors", "model.fp16.safetensors"}
    assert {path.name for path in files.of_model(sharded)} == {path.name for path in base.folder.iterdir()} - {
        "manifest.json"
    }
    tensors = task_vector.TensorFolder(base.folder)
    assert sum(shape.numel() for shape in tensors.shapes.values()) == tiny_base.parameters


@pytest.mark.parametrize("whole", [True, False], ids=["one file", "shards"])
def test_the_hub_is_asked_for_the_files_that_are_loaded(tmp_path, tiny_folder, sharded, monkeypatch, whole):
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    repository = Path(shutil.copytree(tiny_folder if whole else sharded, tmp_path / "repository"))
    for name in ("consolidated.safetensors", "model.fp16.safetensors", "pytorch_model.bin"):
        (repository / name).write_bytes(b"not asked for")
    snapshot = tmp_path / "snapshots" / "0123abc"
    revisions = []

    def download(source, revision, allow_patterns):  # a stand-in for the network, with the library's own patterns
        snapshot.mkdir(parents=True, exist_ok=True)
        revisions.append(revision)
        for name in filter_repo_objects(os.listdir(repository), allow_patterns=allow_patterns):
            shutil.copy(repository / name, snapshot)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    base = base_model.prepare("organisation/model", tmp_path / "prepared", "v1")
    assert {path.name for path in snapshot.glob("*.safetensors")} == set(base.weight_files)
    assert not (snapshot / "pytorch_model.bin").exists()
    assert revisions == (["v1"] if whole else ["v1", "0123abc"])  # both of one commit


# Configurations


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{", "config.json can't be read as JSON (Expecting property name"),
        ("config.json", "[]", "config.json holds a JSON list, not an object"),
        ("config.json", '{"model_type": "nowhere"}', "transformers can't load {hub}: ValueError: "),
        ("config.json", '{"model_type": "llama", "hidden_size": "many"}', "transformers can't load {hub}: "),
        ("generation_config.json", '{"a": ', "generation_config.json can't be read as JSON"),
        ("generation_config.json", b"\xff\xfe\x00", "generation_config.json can't be read as JSON"),
        (files.INDEX, "{", f"{files.INDEX} can't be read as JSON"),
        (files.INDEX, '{"weight_map": []}', f"{files.INDEX} has no `weight_map`"),
        (files.INDEX, '{"weight_map": {"a": 3}}', f"{files.INDEX} has no `weight_map`"),
        (files.INDEX, '{"weight_map": {"a": "../x.safetensors"}}', f"{files.INDEX} has no `weight_map`"),
        ("adapter_config.json", "{}", "has an adapter_config.json, so transformers would load an adapter into it"),
    ],
)
def test_broken_configurations_are_told_in_one_sentence(hub, name, content, message):
    (hub / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert message.format(hub=hub) in refused(hub)


def test_quantized_models_and_weights_of_other_names(hub):
    configure(hub, quantization_config={"quant_method": "gptq", "bits": 4})
    assert "is quantized (quantization_config in its config.json)" in refused(hub)
    configure(hub, quantization_config=None, transformers_weights="other.safetensors")
    assert "names its weights as transformers_weights in config.json" in refused(hub)


def test_a_broken_manifest(hub):
    base = prepare(hub)
    for content, message in (("{", "can't be read as JSON"), ("{}", "is no whole manifest: delete ")):
        (base.folder / "manifest.json").write_text(content)
        with pytest.raises(InputError, match=message):
            task_vector.BaseModel.open(base.folder)
