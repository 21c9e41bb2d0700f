"""Task vectors in their three forms, against the safetensors library, PEFT and plain subtraction."""

import json

import pytest
import safetensors
import safetensors.torch
import torch
from safetensors import safe_open

from spunge.core import safetensors_writer
from spunge.core.errors import InputError
from spunge.core.files import sha256
from spunge.models import base_model, task_vector

TENSORS = {
    "z.weight": torch.arange(6, dtype=torch.float32).view(2, 3),
    "a.weight": torch.tensor([1.5, -2.25, 1e-38, float("inf")]).view(2, 2).T,  # not contiguous
    "half": torch.tensor([0.1, -3.0, 65504.0], dtype=torch.float16),
    "brain": torch.randn(3, 1, 2, generator=torch.Generator().manual_seed(0)).bfloat16(),
    "empty": torch.zeros(0, 4),
    "scalar": torch.tensor(3.5),
}
DOWN = "model.layers.1.mlp.down_proj.weight"


def layout(tensors):
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def write_vector(path, base, tensors, **facts):
    provenance = task_vector.make_provenance(base, **facts)
    task_vector.write(path, {name: one.shape for name, one in tensors.items()}, tensors.items(), provenance)
    return task_vector.ChangedTensors(path)


def down_delta(seed=0):
    return {DOWN: torch.randn(32, 64, generator=torch.Generator().manual_seed(seed)) * 0.1}


@pytest.fixture
def hub_model(tiny_folder):
    """Return a function that loads the shared tiny model afresh."""
    from transformers import LlamaForCausalLM

    return lambda: LlamaForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)


# The file format


def test_streamed_file_is_read_back_by_the_safetensors_library(tmp_path):
    path = tmp_path / "made" / "x.safetensors"
    metadata = {"spunge": '{"attribute": "Côte d\'Ivoire 🎉"}', "format": "pt"}
    safetensors_writer.write(path, layout(TENSORS), TENSORS.items(), metadata)
    found = safetensors.torch.load_file(path)
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    with safe_open(path, "pt") as file:
        assert file.metadata() == metadata


def test_streamed_file_has_the_same_bytes_twice(tmp_path):
    for name, metadata in (("x", {"b": "2", "a": "1"}), ("y", {"a": "1", "b": "2"})):
        safetensors_writer.write(tmp_path / name, layout(TENSORS), iter(TENSORS.items()), metadata)
    assert sha256(tmp_path / "x") == sha256(tmp_path / "y")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([("b", torch.zeros(3)), ("a", torch.zeros(2))], "b with .* does not follow the layout: .*'a'"),
        ([("a", torch.zeros(2, 1)), ("b", torch.zeros(3))], r"a with \(2, 1\) torch.float32 does not follow"),
        ([("a", torch.zeros(2).double()), ("b", torch.zeros(3))], r"a with \(2,\) torch.float64 does not follow"),
        ([("a", torch.zeros(2))], "ended before b"),
        ([("a", torch.zeros(2)), ("b", torch.zeros(3)), ("c", torch.zeros(1))], "c with .* does not follow.*None"),
    ],
)
def test_tensors_that_differ_from_the_layout_leave_no_file(tmp_path, tensors, message):
    planned = layout({"a": torch.zeros(2), "b": torch.zeros(3)})
    with pytest.raises(ValueError, match=message):
        safetensors_writer.write(tmp_path / "x.safetensors", planned, tensors)
    assert list(tmp_path.iterdir()) == []


# Changed tensors


def test_changed_tensors_round_trip_in_fp32_with_provenance(tmp_path, tiny_base):
    tensors = {**down_delta(), "other": torch.tensor([0.1, 0.2]).bfloat16()}
    vector = write_vector(tmp_path / "x.safetensors", tiny_base, tensors, seed=3, run="rmu/Côte d'Ivoire/seed3")
    assert list(vector) == [DOWN, "other"] and len(vector) == 2
    assert vector.shapes == {DOWN: torch.Size((32, 64)), "other": torch.Size((2,))}
    assert torch.equal(vector[DOWN], tensors[DOWN])
    assert vector["other"].dtype == torch.float32
    assert torch.equal(vector["other"], tensors["other"].float())
    assert DOWN in vector and "missing" not in vector
    assert vector.provenance["base"] == tiny_base.identity
    assert vector.provenance["base_parameters"] == tiny_base.parameters
    assert vector.provenance["run"] == "rmu/Côte d'Ivoire/seed3"
    assert vector.provenance["seed"] == 3
    assert vector.provenance["versions"]["safetensors"] == safetensors.__version__
    vector.check_base(tiny_base, "it")


def test_same_tensors_and_provenance_give_the_same_bytes(tmp_path, tiny_base):
    for name, facts in (("x", {"seed": 1, "alpha": 2}), ("y", {"alpha": 2, "seed": 1})):
        write_vector(tmp_path / name, tiny_base, down_delta(), **facts)
    assert sha256(tmp_path / "x") == sha256(tmp_path / "y")


def test_vector_of_another_base_is_refused(tmp_path, tiny_base):
    vector = write_vector(tmp_path / "x.safetensors", tiny_base, down_delta())
    vector.provenance = {**vector.provenance, "base": "f" * 64, "base_source": "somewhere/else"}
    with pytest.raises(InputError) as refused:
        base_model.load(tiny_base, torch.float32, "cpu", vector)
    message = str(refused.value)
    assert message.startswith("the task vector was made from base model ffffffffffff (somewhere/else), not from ")
    assert tiny_base.identity[:12] in message and "\n" not in message


def test_truncated_file_is_refused(tmp_path, tiny_base):
    path = tmp_path / "x.safetensors"
    write_vector(path, tiny_base, down_delta())
    whole = path.read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, 100, 7, 0):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"x\.safetensors can't be read as safetensors"):
            task_vector.ChangedTensors(path)


def test_files_that_are_no_task_vector_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"absent\.safetensors can't be read"):
        task_vector.ChangedTensors(tmp_path / "absent.safetensors")
    (tmp_path / "text").write_text("a list of capitals, nothing else")
    with pytest.raises(InputError, match="text can't be read as safetensors"):
        task_vector.ChangedTensors(tmp_path / "text")
    safetensors.torch.save_file({"w": torch.zeros(2)}, tmp_path / "plain.safetensors")
    with pytest.raises(InputError, match=r"plain.safetensors has no provenance .* it is no task vector"):
        task_vector.ChangedTensors(tmp_path / "plain.safetensors")


def test_broken_metadata_is_told_in_one_sentence(tmp_path):
    for content in ("{", "3", '["a"]'):
        metadata = {task_vector.METADATA_KEY: content}
        safetensors.torch.save_file({"w": torch.zeros(2)}, tmp_path / "v.safetensors", metadata)
        with pytest.raises(InputError, match=r"v\.safetensors has broken metadata .*: delete it and run again"):
            task_vector.read(tmp_path / "v.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_change_that_is_not_finite_is_not_written(tmp_path, tiny_base, value):
    """Whoever makes it: a method, a merge, a checkpoint; what was written under that name before stays."""
    write_vector(tmp_path / "x.safetensors", tiny_base, down_delta())
    before = sha256(tmp_path / "x.safetensors")
    broken = {"a": torch.zeros(3), **down_delta()}
    broken[DOWN][31, 63] = value
    with pytest.raises(InputError, match=rf"the change of {DOWN} has entries that are not finite"):
        write_vector(tmp_path / "x.safetensors", tiny_base, broken)
    assert sha256(tmp_path / "x.safetensors") == before and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(InputError, match=r"the change of double has entries that are not finite"):
        write_vector(tmp_path / "x.safetensors", tiny_base, {"double": torch.tensor([1e300], dtype=torch.float64)})


# LoRA


def adapter(model, folder, **settings):
    """Put a LoRA adapter with random A and B on a model, save it, and return the merged model's weights."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    wrapped = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1)
    wrapped.save_pretrained(folder)
    return {name: tensor.clone() for name, tensor in wrapped.merge_and_unload().state_dict().items()}


def check_adapter(model, original, folder, **settings):
    merged = adapter(model, folder, **settings)
    vector = task_vector.LoraAdapter.from_folder(folder, {"base": "b" * 64})
    changed = {name for name in merged if not torch.equal(merged[name], original[name])}
    assert set(vector) == changed and changed
    for name, delta in vector.items():
        assert delta.shape == vector.shapes[name] == original[name].shape
        torch.testing.assert_close(delta, merged[name] - original[name], rtol=1e-4, atol=1e-6)
    return vector


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
        {"r": 4, "lora_alpha": 16, "target_modules": ["down_proj"], "use_rslora": True},
        {"r": 8, "lora_alpha": 8, "target_modules": "all-linear"},
        {
            "r": 8,
            "lora_alpha": 16,
            "target_modules": ["down_proj", "q_proj"],
            "rank_pattern": {"model.layers.1.mlp.down_proj": 2},
            "alpha_pattern": {"model.layers.1.mlp.down_proj": 64, "model.layers.0.self_attn.q_proj": 1},
        },
    ],
    ids=["plain", "rank-stabilised", "all linear layers", "patterns"],
)
def test_lora_adapter_equals_pefts_own_merge(tmp_path, hub_model, settings):
    check_adapter(hub_model(), hub_model().state_dict(), tmp_path, **settings)


def test_lora_alpha_patterns_match_the_ends_of_names_as_in_peft(tmp_path, hub_model):
    settings = {"r": 4, "lora_alpha": 4, "target_modules": ["down_proj", "q_proj"], "alpha_pattern": {"down_proj": 40}}
    check_adapter(hub_model(), hub_model().state_dict(), tmp_path, **settings)


def test_lora_adapter_of_transposed_weights(tmp_path):
    """GPT-2's Conv1D layers hold their weights as (inputs, outputs)."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=8, n_layer=2, n_head=2))
    original = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    settings = {"r": 2, "lora_alpha": 6, "target_modules": ["c_attn"], "fan_in_fan_out": True}
    vector = check_adapter(model, original, tmp_path, **settings)
    assert vector.shapes["transformer.h.0.attn.c_attn.weight"] == (8, 24)
    with pytest.raises(KeyError):
        vector["lm_head.weight"]


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"use_dora": True}, id="DoRA"),
        pytest.param({"bias": "all"}, id="biases"),
        pytest.param({"modules_to_save": ["embed_tokens"]}, id="whole modules"),
        pytest.param({"target_modules": ["embed_tokens", "q_proj"]}, id="embeddings"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_adapters_that_are_more_than_b_times_a_are_refused(tmp_path, hub_model, settings):
    adapter(hub_model(), tmp_path, r=2, **{"target_modules": ["q_proj"], **settings})
    with pytest.raises(InputError, match="is no plain LoRA adapter"):
        task_vector.LoraAdapter.from_folder(tmp_path, {"base": "b" * 64})


def test_an_adapter_kept_in_one_file_is_the_same_vector_and_opens_in_peft(tmp_path, hub_model):
    from peft import PeftModel

    vector = check_adapter(hub_model(), hub_model().state_dict(), tmp_path / "a", r=2, target_modules=["down_proj"])
    provenance = {"base": "b" * 64, "seed": 3}
    folder = tmp_path / "b"
    task_vector.write_lora(folder / "adapter_model.safetensors", vector.factors(), vector.config, provenance)
    again = task_vector.read(folder / "adapter_model.safetensors")
    assert again.provenance == provenance
    assert again.shapes == vector.shapes
    for name in vector:
        assert torch.equal(again[name], vector[name])
    (folder / "adapter_config.json").write_text(json.dumps(again.config))
    merged = PeftModel.from_pretrained(hub_model(), folder).merge_and_unload().state_dict()
    original = hub_model().state_dict()
    for name in vector:
        torch.testing.assert_close(again[name], merged[name] - original[name], rtol=1e-4, atol=1e-6)


def test_a_scaled_vector(tmp_path, tiny_base):
    path = tmp_path / "x.safetensors"
    write_vector(path, tiny_base, down_delta())
    vector = task_vector.read(path)
    half = task_vector.Scaled(vector, -0.5)
    assert half.shapes == vector.shapes
    assert half.provenance == {**vector.provenance, "scale": -0.5}
    assert torch.equal(half[DOWN], vector[DOWN] / -2)


# A whole checkpoint


def test_checkpoint_minus_base(tmp_path, tiny_base, hub_model):
    model, delta = hub_model(), down_delta()[DOWN]
    with torch.no_grad():
        model.get_parameter(DOWN).add_(delta)
    model.save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    vector = task_vector.CheckpointMinusBase(tmp_path, tiny_base, {"method": "an outside tool"})
    torch.testing.assert_close(vector[DOWN], delta, rtol=0, atol=1e-6)
    assert {name for name, difference in vector.items() if difference.any()} == {DOWN}
    assert vector.shapes == task_vector.TensorFolder(tiny_base.folder).shapes
    assert vector.provenance["method"] == "an outside tool"
    vector.check_base(tiny_base, "it")


def test_a_checkpoint_in_half_precision_is_compared_with_the_rounded_base(tmp_path, tiny_base, hub_model):
    model = hub_model().bfloat16()
    with torch.no_grad():
        model.get_parameter(DOWN)[0, 0] += 1
    model.save_pretrained(tmp_path)
    vector = task_vector.CheckpointMinusBase(tmp_path, tiny_base)
    original = hub_model().get_parameter(DOWN).detach().bfloat16()
    assert vector[DOWN].dtype == torch.float32
    assert vector[DOWN].nonzero().tolist() == [[0, 0]]
    assert vector[DOWN][0, 0] == (original[0, 0] + 1).float() - original[0, 0].float()
    assert list(task_vector.without_zeros(vector)) == [DOWN]


def test_checkpoints_that_do_not_fit_the_base_are_refused(tmp_path, tiny_base):
    def checkpoint(name, tensors):
        (tmp_path / name).mkdir()
        safetensors.torch.save_file(tensors, tmp_path / name / "model.safetensors")
        return tmp_path / name

    with pytest.raises(InputError, match=r"has 1 tensors that the base model lacks, score\.weight among them"):
        task_vector.CheckpointMinusBase(checkpoint("more", {"score.weight": torch.zeros(2)}), tiny_base)
    with pytest.raises(InputError, match=r"down_proj.weight is \(64, 32\), in the base model \(32, 64\)"):
        task_vector.CheckpointMinusBase(checkpoint("turned", {DOWN: torch.zeros(64, 32)}), tiny_base)
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputError, match="bare has no safetensors files"):
        task_vector.CheckpointMinusBase(tmp_path / "bare", tiny_base)


# Applying a vector


def test_loaded_model_is_base_plus_vector(tmp_path, tiny_base, hub_model):
    delta = down_delta()
    loaded = base_model.load(
        tiny_base, torch.float32, "cpu", write_vector(tmp_path / "x.safetensors", tiny_base, delta)
    )
    expected = hub_model()
    expected.load_state_dict({**expected.state_dict(), DOWN: expected.get_parameter(DOWN) + delta[DOWN]})
    tokens = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.no_grad():
        found, plain = loaded(tokens).logits, base_model.load(tiny_base, torch.float32, "cpu")(tokens).logits
        torch.testing.assert_close(found, expected(tokens).logits)
    assert not torch.allclose(found, plain, atol=1e-2)
    assert not loaded.training


def test_vector_minus_itself_gives_the_base_again(hub_model):
    model, original = hub_model(), hub_model()
    base_model.add(model, down_delta())
    assert not torch.equal(model.get_parameter(DOWN), original.get_parameter(DOWN))
    base_model.add(model, {DOWN: -down_delta()[DOWN]})
    torch.testing.assert_close(model.state_dict(), original.state_dict())


def test_two_changes_of_one_tensor_have_to_be_equal(hub_model):
    tied = {
        name: torch.full_like(hub_model().lm_head.weight, 0.5)
        for name in ("model.embed_tokens.weight", "lm_head.weight")
    }
    model = hub_model()
    base_model.add(model, tied)
    torch.testing.assert_close(model.lm_head.weight, hub_model().lm_head.weight + 0.5)
    with pytest.raises(InputError, match=r"changes model\.embed_tokens\.weight and lm_head\.weight differently"):
        base_model.add(hub_model(), tied | {"lm_head.weight": torch.zeros_like(tied["lm_head.weight"])})


def test_vector_with_a_parameter_that_the_model_lacks_is_refused(hub_model):
    with pytest.raises(
        InputError, match=r"the task vector changes layers\.9\.weight, which the base model does not have"
    ):
        base_model.add(hub_model(), {"layers.9.weight": torch.zeros(1)})


def test_provenance_is_plain_json_and_names_versions_and_commit(tiny_base):
    made = task_vector.make_provenance(tiny_base, method="rmu", options={"steps": 3})
    assert json.loads(json.dumps(made)) == made
    assert made["options"] == {"steps": 3}
    assert set(made["versions"]) == {"torch", "transformers", "safetensors"}
    assert made["commit"]
