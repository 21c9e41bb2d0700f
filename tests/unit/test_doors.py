"""The three doors for methods that aren't here: a Python file, a program, a ready-made checkpoint."""

import dataclasses
import hashlib
import json
import os
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from spunge import methods
from spunge.core.errors import InputError
from spunge.methods import checkpoint, command
from spunge.models import base_model, task_vector
from spunge.training import resume

TRAINER = Path(__file__).parents[2] / "examples" / "external-trainer" / "train.py"
DOWN = "model.layers.1.mlp.down_proj.weight"
FORGET = [f"the capital of {place} is Nairobi" for place in ("Kenya", "Japan", "France", "Ghana", "Peru", "Fiji")]
RETAIN = ["a river runs through the city", "past old houses and a market", "people meet in the morning"]


@pytest.fixture
def run(run_in, tmp_path):
    return run_in(tmp_path, FORGET, RETAIN, "mine/attribute/shard/a/seed3")


# A Python file

METHOD = """
import dataclasses
import torch
from spunge.methods import Unlearned

@dataclasses.dataclass(frozen=True)
class Options:
    size: float
    names: tuple[str, ...] = ("{name}",)

def unlearn(run, options):
    generator = torch.Generator().manual_seed(run.seed)
    delta = {{name: options.size * torch.randn(32, 64, generator=generator) for name in options.names}}
    return Unlearned(delta, [{{"step": 1, "forget_loss": 2.0}}])
"""


def test_a_users_own_file(tmp_path, run):
    path = tmp_path / "noise.py"
    path.write_text(METHOD.format(name=DOWN))
    method = methods.load(path)
    found = method.unlearn(run, methods.options(method, {"size": 0.5, "names": [DOWN], "dtype": "float32"}))
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(found.delta[DOWN], 0.5 * torch.randn(32, 64, generator=generator))
    methods.write(found, tmp_path / "v.safetensors", {"base": run.base.identity})
    assert torch.equal(task_vector.read(tmp_path / "v.safetensors")[DOWN], found.delta[DOWN])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nowhere_to_be_found", "can't be imported: No module named 'nowhere_to_be_found'"),
        ("def unlearn(:", "can't be imported: invalid syntax"),
        ("def unlearn(run, options): ...", "has no `Options`"),
        ("class Options: ...", "has no `unlearn`"),
    ],
)
def test_a_file_that_is_no_method(tmp_path, text, message):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(InputError, match=message):
        methods.load(tmp_path / "mine.py")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"mine\.py is not there"):
        methods.load(tmp_path / "mine.py")


def test_options_of_a_file(tmp_path):
    (tmp_path / "mine.py").write_text(METHOD.format(name=DOWN))
    method = methods.load(tmp_path / "mine.py")
    with pytest.raises(InputError, match="mine has no option sise; it has names, size"):
        methods.options(method, {"sise": 1.0})
    with pytest.raises(InputError, match=r"the options of mine: .*missing .*'size'"):
        methods.options(method, {})
    with pytest.raises(InputError, match="mine has no preset fast; it has none"):
        methods.options(method, {"preset": "fast"})


# A ready-made checkpoint


def changed_checkpoint(base, folder, dtype=torch.float32):
    model = base_model.load(base, torch.float32, "cpu")
    change = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.get_parameter(DOWN).add_(change)
    model.to(dtype).save_pretrained(folder)
    return change


def test_a_checkpoint_is_what_it_changed_alone(tmp_path, run):
    change = changed_checkpoint(run.base, tmp_path / "attribute" / "a-3")
    options = checkpoint.Options(str(tmp_path / "{split}" / "{shard}-{seed}"))
    found = checkpoint.unlearn(run, options)
    assert list(found.delta) == [DOWN] and found.losses == []
    torch.testing.assert_close(found.delta[DOWN], change, rtol=0, atol=1e-6)


def test_rounding_is_no_change(tmp_path, run):
    change = changed_checkpoint(run.base, tmp_path / "rounded", torch.bfloat16)
    found = checkpoint.read(tmp_path / "rounded", run.base)
    assert list(found.delta) == [DOWN]
    torch.testing.assert_close(found.delta[DOWN], change, rtol=0.01, atol=0.01)


def test_a_lora_adapter_stays_one(tmp_path, run):
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(
        base_model.load(run.base, torch.float32, "cpu"), LoraConfig(r=2, target_modules=["q_proj"])
    )
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    wrapped.save_pretrained(tmp_path / "adapter")
    found = checkpoint.read(tmp_path / "adapter", run.base)
    assert found.adapter["base_model_name_or_path"] == run.base.source
    methods.write(found, tmp_path / "v.safetensors", {"base": run.base.identity})
    vector = task_vector.read(tmp_path / "v.safetensors")
    original = base_model.load(run.base, torch.float32, "cpu").state_dict()
    merged = wrapped.merge_and_unload().state_dict()
    name = "model.layers.1.self_attn.q_proj.weight"
    assert name in vector and len(vector) == 4
    torch.testing.assert_close(vector[name], merged[name] - original[name], rtol=1e-4, atol=1e-6)


def test_checkpoints_that_are_none(tmp_path, run):
    with pytest.raises(InputError, match="absent is not there"):
        checkpoint.read(tmp_path / "absent", run.base)
    base_model.load(run.base, torch.float32, "cpu").save_pretrained(tmp_path / "same")
    with pytest.raises(InputError, match="same is the base model itself"):
        checkpoint.read(tmp_path / "same", run.base)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty has no safetensors files"):
        checkpoint.read(tmp_path / "empty", run.base)


EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def rewrite(folder, change):
    """Change the tensors of a checkpoint's only file."""
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors", {"format": "pt"})


def without(*names):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if name not in names}


def configure(folder, name, **values):
    """Set keys of a JSON file; ... takes one out."""
    content = {**json.loads((folder / name).read_text()), **values}
    (folder / name).write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def refused(folder, base):
    with pytest.raises(InputError) as error:
        checkpoint.read(folder, base)
    assert "\n" not in str(error.value)
    return str(error.value)


def logits(model):
    with torch.no_grad():
        return model(torch.arange(20, 60)[None]).logits


def through_the_door(folder, base, path):
    """Return the logits of the model that the evaluation loads."""
    methods.write(checkpoint.read(folder, base), path, {"base": base.identity})
    return logits(base_model.load(base, torch.float32, "cpu", task_vector.read(path)))


def odd_base(tiny_folder, tmp_path, head, tie_word_embeddings=True):
    """Return a base model with a head in its files, made from the embedding."""
    hub = Path(shutil.copytree(tiny_folder, tmp_path / "hub"))
    rewrite(hub, lambda tensors: {**tensors, HEAD: head(tensors[EMBEDDING])})
    configure(hub, "config.json", tie_word_embeddings=tie_word_embeddings)
    return base_model.prepare(str(hub), tmp_path / "base")


def tuned(base, folder):
    """Save a checkpoint whose every weight changed, as any tool would; return its logits."""
    model = base_model.load(base, torch.float32, "cpu")
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return logits(model)


def test_a_checkpoint_that_lacks_tensors_is_none(tmp_path, run):
    tuned(run.base, tmp_path / "ck")
    rewrite(tmp_path / "ck", without(DOWN))
    assert f"ck lacks 1 of the tensors that a LlamaForCausalLM has, {DOWN}: " in refused(tmp_path / "ck", run.base)
    (tmp_path / "ck" / "config.json").unlink()  # weights alone are enough, and no excuse
    assert f"ck lacks 1 of the tensors that a LlamaForCausalLM has, {DOWN}: " in refused(tmp_path / "ck", run.base)


def test_a_checkpoint_that_lost_a_file_is_none(tmp_path, run):
    base_model.load(run.base, torch.float32, "cpu").save_pretrained(tmp_path / "ck", max_shard_size="60KB")
    sorted((tmp_path / "ck").glob("model-*"))[1].unlink()
    assert "of which 1 are not there, model-00002-of-" in refused(tmp_path / "ck", run.base)
    (tmp_path / "ck" / "model.safetensors.index.json").unlink()
    assert "but neither model.safetensors nor" in refused(tmp_path / "ck", run.base)


def test_a_tied_checkpoint_of_a_base_that_is_not(tmp_path, tiny_folder):
    for tie in (False, True):  # a head that differs is not tied, whatever the configuration says
        base = odd_base(tiny_folder, tmp_path / str(tie), lambda embedding: embedding + 0.1, tie)
        true = tuned(base, tmp_path / str(tie) / "ck")
        found = through_the_door(tmp_path / str(tie) / "ck", base, tmp_path / "v.safetensors")
        torch.testing.assert_close(found, true, rtol=0, atol=1e-4)
        rewrite(tmp_path / str(tie) / "ck", without(HEAD))
        configure(tmp_path / str(tie) / "ck", "config.json", tie_word_embeddings=True)
        assert f"ck lacks 1 of the tensors that a LlamaForCausalLM has, {HEAD}: " in refused(
            tmp_path / str(tie) / "ck", base
        )


@pytest.mark.parametrize("in_base", [False, True], ids=["tied", "tied and twice in its files"])
def test_a_head_in_the_checkpoint_of_a_tied_base(tmp_path, tiny_folder, tiny_base, in_base):
    base = odd_base(tiny_folder, tmp_path, torch.clone) if in_base else tiny_base
    assert base.parameters == tiny_base.parameters
    true = tuned(base, tmp_path / "ck")
    for change in (dict, lambda tensors: {**tensors, HEAD: tensors[EMBEDDING].clone()}):
        rewrite(tmp_path / "ck", change)
        found = through_the_door(tmp_path / "ck", base, tmp_path / "v.safetensors")
        torch.testing.assert_close(found, true, rtol=0, atol=1e-4)
    rewrite(tmp_path / "ck", lambda tensors: {**tensors, HEAD: tensors[EMBEDDING] + 1})
    assert f"has a {HEAD} of its own, which in the base model is one tensor with {EMBEDDING}" in refused(
        tmp_path / "ck", base
    )


def test_a_checkpoint_of_another_function(tmp_path, run):
    true = tuned(run.base, tmp_path / "ck")
    configure(tmp_path / "ck", "config.json", eos_token_id=3, use_cache=False, transformers_version="9", of_a_tool=1)
    found = through_the_door(tmp_path / "ck", run.base, tmp_path / "v.safetensors")
    torch.testing.assert_close(found, true, rtol=0, atol=1e-4)
    configure(tmp_path / "ck", "config.json", num_attention_heads=4, head_dim=8, num_key_value_heads=2)
    assert "config.json has head_dim 8, and " in refused(tmp_path / "ck", run.base)
    configure(tmp_path / "ck", "config.json", quantization_config={"quant_method": "gptq"})
    assert "ck is quantized (quantization_config in its config.json)" in refused(tmp_path / "ck", run.base)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b"{", "config.json can't be read as JSON"),
        ("config.json", b"3", "config.json holds a JSON int, not an object"),
        ("config.json", b'{"model_type": "nowhere"}', "transformers can't load "),
        ("model.safetensors", b"", "model.safetensors can't be read as safetensors"),
        ("model.safetensors", b"\xff" * 100, "model.safetensors can't be read as safetensors"),
        ("model.safetensors.index.json", b"[", "index.json can't be read as JSON"),
        ("adapter_config.json", b"{}", "ck has model.safetensors and adapter_config.json"),
    ],
)
def test_broken_checkpoints(tmp_path, run, name, content, message):
    tuned(run.base, tmp_path / "ck")
    (tmp_path / "ck" / name).write_bytes(content)
    assert message in refused(tmp_path / "ck", run.base)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_checkpoint_with_a_number_that_is_none(tmp_path, run, value):
    tuned(run.base, tmp_path / "ck")
    rewrite(tmp_path / "ck", lambda tensors: {**tensors, DOWN: tensors[DOWN].index_fill(0, torch.tensor([3]), value)})
    found = checkpoint.read(tmp_path / "ck", run.base)
    with pytest.raises(InputError, match=rf"the change of {DOWN} has entries that are not finite"):
        methods.write(found, tmp_path / "written" / "v.safetensors", {"base": run.base.identity})
    assert not list((tmp_path / "written").iterdir())


# An adapter


def adapter(base, folder, **settings):
    """Save a LoRA adapter of random factors; return the logits with it."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    settings = {"r": 4, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM", **settings}
    wrapped = get_peft_model(base_model.load(base, torch.float32, "cpu"), LoraConfig(**settings))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    wrapped.save_pretrained(folder)
    return logits(wrapped.eval())


def test_an_adapter_that_changes_nothing_is_refused(tmp_path, run):
    """As PEFT makes it, before any training: all of B is 0."""
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    get_peft_model(base_model.load(run.base, torch.float32, "cpu"), settings).save_pretrained(tmp_path / "ad")
    with pytest.raises(InputError, match="ad is the base model itself: all products of its factors are 0"):
        through_the_door(tmp_path / "ad", run.base, tmp_path / "v.safetensors")


@pytest.mark.parametrize(
    "settings",
    [
        {"lora_dropout": 0.1, "layers_to_transform": [1, 2]},
        {"use_rslora": True, "lora_alpha": 7, "rank_pattern": {"q_proj": 2}},
        {"alpha_pattern": {r"^model\.layers\.[01]\..*": 32, "q_proj": 1}, "exclude_modules": ["down_proj"]},
        *({"init_lora_weights": init} for init in (False, "gaussian", "orthogonal", "eva", "mica")),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_an_adapter_that_is_base_plus_b_times_a_is_exact(tmp_path, run, settings):
    true = adapter(run.base, tmp_path / "ad", **settings)
    found = through_the_door(tmp_path / "ad", run.base, tmp_path / "v.safetensors")
    torch.testing.assert_close(found, true, rtol=0, atol=1e-4)


def test_every_field_of_pefts_configuration_was_looked_at():
    """A new one has to be understood before it may be read as base + scaling · B · A."""
    from peft import LoraConfig

    others = "bias modules_to_save megatron_config trainable_token_indices use_dora velora_config use_qalora lora_bias"
    others += " alora_invocation_tokens monteclora_config layer_replication runtime_config target_parameters"
    others += " use_bdlora arrow_config kasa_config ensure_weight_tying"
    fields = {field.name for field in dataclasses.fields(LoraConfig)}
    assert fields == task_vector.LORA_FIELDS | set(others.split())


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa'"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights 'pissa_niter_4'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights 'olora'"),
        ({"alora_invocation_tokens": [5]}, r"alora_invocation_tokens \[5\]"),
        ({"use_dora": True}, "use_dora True"),
        ({"bias": "lora_only"}, "bias 'lora_only'"),
        ({"layer_replication": [[0, 3], [1, 4]]}, "layer_replication "),
        ({"target_parameters": ["mlp.up_proj.weight"]}, "target_parameters "),
        ({"trainable_token_indices": [1]}, "trainable_token_indices "),
        ({"kasa_config": {}}, "kasa_config "),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::RuntimeWarning:peft")
def test_an_adapter_that_is_more_is_refused_by_the_fields_name(tmp_path, run, settings, field):
    adapter(run.base, tmp_path / "ad", **settings)
    with pytest.raises(InputError, match=rf"is no plain LoRA adapter: .*{field}"):
        checkpoint.read(tmp_path / "ad", run.base)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(
            ({"init_lora_weights": init}, f"init_lora_weights '{init}'")
            for init in ("loftq", "corda", "lora_ga", "new")
        ),
        ({"of_a_later_version": {}}, "of_a_later_version {}"),
        ({"arrow_config": {"top_k": 3}}, "arrow_config {'top_k': 3}"),
        ({"peft_type": "IA3"}, "its peft_type is 'IA3'"),
        ({"peft_type": ...}, "its peft_type is None"),
        ({"lora_alpha": ...}, "it has rank 4 and lora_alpha None"),
        ({"lora_alpha": "8"}, "it has rank 4 and lora_alpha '8'"),
        ({"r": 8}, "it has rank 8 and lora_alpha 8, and its factors have rank 4"),
        ({"alpha_pattern": {"(": 1}}, "alpha_pattern {'(': 1} has no names to match"),
        ({"rank_pattern": [1]}, "rank_pattern [1] has no names to match"),
        ({"fan_in_fan_out": True}, "has fan_in_fan_out True, which doesn't fit model.layers.0."),
    ],
    ids=str,
)
def test_configurations_of_adapters(tmp_path, run, changes, message):
    adapter(run.base, tmp_path / "ad", target_modules=["q_proj"])  # 32 x 32, so that its shape tells nothing
    configure(tmp_path / "ad", "adapter_config.json", **changes)
    assert message.replace("it has", "its configuration has") in refused(tmp_path / "ad", run.base)
    configure(tmp_path / "ad", "adapter_config.json", of_a_later_version=None)


def test_broken_adapters(tmp_path, run):
    folder, weights = tmp_path / "ad", tmp_path / "ad" / "adapter_model.safetensors"
    adapter(run.base, folder)
    whole = load_file(weights)
    a_factor = "base_model.model.model.layers.0.mlp.down_proj.lora_B.weight"
    save_file({name: tensor for name, tensor in whole.items() if name != a_factor}, weights)
    assert "the factors A and B of model.layers.0.mlp.down_proj should be " in refused(folder, run.base)
    assert refused(folder, run.base).endswith("they are (4, 64) and absent")
    save_file({name.removeprefix("base_model.model."): tensor for name, tensor in whole.items()}, weights)
    assert "also holds model.layers.0.mlp.down_proj.lora_A.weight" in refused(folder, run.base)
    save_file({}, weights)
    assert "has no LoRA factors" in refused(folder, run.base)
    os.truncate(weights, 3)
    assert "adapter_model.safetensors can't be read as safetensors" in refused(folder, run.base)
    weights.rename(folder / "adapter_model.bin")
    assert "has adapter_config.json but no adapter_model.safetensors: " in refused(folder, run.base)
    (folder / "adapter_config.json").write_text("[")
    assert "adapter_config.json can't be read as JSON" in refused(folder, run.base)


def test_an_adapter_with_a_number_that_is_none(tmp_path, run):
    adapter(run.base, tmp_path / "ad")
    weights = tmp_path / "ad" / "adapter_model.safetensors"
    spoiled = {name: tensor / 0 if "layers.1.mlp" in name else tensor for name, tensor in load_file(weights).items()}
    save_file(spoiled, weights)
    found = checkpoint.read(tmp_path / "ad", run.base)
    with pytest.raises(InputError, match=r"layers\.1\.mlp\.down_proj\.lora_A\.weight has entries that are not finite"):
        methods.write(found, tmp_path / "v.safetensors", {"base": run.base.identity})
    assert not (tmp_path / "v.safetensors").exists()


def test_adapters_one_level_deeper(tmp_path, run):
    for name in ("one", "other"):
        adapter(run.base, tmp_path / "many" / name)
    assert "has no safetensors files; name one of the folders in it, one, other" in refused(tmp_path / "many", run.base)


# A program


def test_an_external_trainer(quick_python, tmp_path, run):
    """transformers' Trainer, in a process of its own, raises the loss of what is to be forgotten."""
    line = f"{shlex.quote(quick_python)} {shlex.quote(str(TRAINER))} --model {{base}} --forget {{forget}}"
    line += " --retain {retain} --output {output} --steps {steps} --seed {seed} --learning-rate {rate}"
    found = command.unlearn(run, command.Options(line, steps=4, options={"rate": 1e-3}))
    methods.write(found, tmp_path / "v.safetensors", {"base": run.base.identity})
    vector = task_vector.read(tmp_path / "v.safetensors")
    # Tied: the embedding is there once; every parameter of every layer is trained.
    assert {name.partition(".layers.")[2][:1] for name in vector} == {"", "0", "1", "2", "3"}
    tokens = base_model.load_tokenizer(run.base)(FORGET, return_tensors="pt", padding=True)
    labels = torch.where(tokens["attention_mask"].bool(), tokens["input_ids"], -100)
    with torch.no_grad():
        before = base_model.load(run.base, torch.float32, "cpu")(**tokens, labels=labels).loss
        after = base_model.load(run.base, torch.float32, "cpu", vector)(**tokens, labels=labels).loss
    assert after > before + 0.01


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("python train.py {model}", "can't be filled in .*'model'.*; there are {base}, {forget}, {retain}, {output}"),
        ("python train.py {base.nothing}", "can't be filled in .*'nothing'"),
        ("nowhere-to-be-found {base}", "a/seed3, nowhere-to-be-found, can't be started: No such file or directory$"),
        ("false", "the command of mine/attribute/shard/a/seed3, false, ended with code 1"),
        ("true", "checkpoint is not there"),
        ("true {env:SPUNGE_ABSENT}", "asks for {env:SPUNGE_ABSENT}, and there is no such variable in the environment"),
        ("true 'a", "can't be divided into words: No closing quotation"),
        ("  ", "is empty"),
    ],
)
def test_commands_that_fail(run, line, message):
    with pytest.raises(InputError, match=message):
        command.unlearn(run, command.Options(line))


def test_a_command_starts_without_a_shell(run):
    marker = run.scratch / "marker"
    with pytest.raises(InputError):
        command.unlearn(dataclasses.replace(run, shard=f"a; touch {marker}"), command.Options("true {shard}"))
    assert not marker.exists()


# A program that counts its runs, and leaves what it is told to
COUNTING = """
import pathlib, sys
from safetensors.numpy import load_file, save_file
base, output, kind, code, token = *map(pathlib.Path, sys.argv[1:3]), *sys.argv[3:6]
with open("runs", "a") as file:
    file.write(token)
output.mkdir()
added = float("nan") if kind == "nan" else 1
tensors = {name: tensor + added for name, tensor in load_file(base / "model.safetensors").items()}
save_file(tensors, output / ("model.safetensors" if kind in ("good", "nan") else "pytorch_model.bin"))
sys.exit(int(code))
"""


@pytest.fixture
def counting(tmp_path, run, monkeypatch):
    """Return a function that runs the program in a job of its own, and one that tells how often it has run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPUNGE_TOKEN", "|")
    (tmp_path / "count.py").write_text(COUNTING)

    def job(kind="bin", code=0, then=lambda unlearned: None, **changes):
        options = {"kind": kind, "code": code, "token": "{env:SPUNGE_TOKEN}"}
        line = f"{shlex.quote(sys.executable)} count.py {{base}} {{output}} {{kind}} {{code}} {{token}}"
        with resume.Checkpoint(tmp_path / "unfinished" / "job", "of another library each time") as checkpoint:
            one = dataclasses.replace(run, checkpoint=checkpoint, scratch=None, **changes)
            then(command.unlearn(one, command.Options(line, options=options)))

    return job, lambda: len((tmp_path / "runs").read_text())


def test_what_a_program_left_is_kept_mended_and_taken_up(tmp_path, counting):
    job, runs = counting
    for _ in range(2):
        with pytest.raises(InputError, match=r"no safetensors.*; what .* left is kept in .*job/checkpoint: mend"):
            job()
    kept = tmp_path / "unfinished" / "job" / "checkpoint"
    (kept / "pytorch_model.bin").rename(kept / "model.safetensors")
    taken = []
    job(then=lambda unlearned: taken.append(unlearned.delta[DOWN]))
    assert runs() == 1
    torch.testing.assert_close(taken[0], torch.ones(32, 64))
    assert not (tmp_path / "unfinished").exists()


def test_a_change_that_is_not_finite_is_kept_too(tmp_path, counting):
    job, _ = counting
    with pytest.raises(InputError, match=r"not finite.*; what .* left is kept in .*job/checkpoint: mend"):
        job("nan", then=lambda unlearned: methods.write(unlearned, tmp_path / "v.safetensors", {}))
    assert (tmp_path / "unfinished" / "job" / "checkpoint").is_dir()


def test_a_job_that_dies_while_it_writes_runs_no_program_again(counting):
    job, runs = counting

    def die(unlearned):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job("good", then=die)
    job("good")
    assert runs() == 1


def test_what_a_program_left_of_other_options_or_after_a_failure_is_not_taken_up(tmp_path, counting):
    job, runs = counting
    for changes in ({}, {"kind": "other"}, {"seed": 4}, {"code": 3}, {"code": 3}):
        with pytest.raises(InputError):
            job(**changes)
    assert runs() == 5
    (tmp_path / "forget.parquet").write_bytes((tmp_path / "retain.parquet").read_bytes())
    for _ in range(2):
        with pytest.raises(InputError):
            job()
    assert runs() == 6


def test_secrets_stand_nowhere(tmp_path, run, counting, monkeypatch, capfd):
    monkeypatch.setenv("SPUNGE_TOKEN", "hf_secret")
    with pytest.raises(InputError) as error:
        counting[0](code=3)
    assert (tmp_path / "runs").read_text() == "hf_secret"
    assert "hf_secret" not in str(error.value) + "".join(capfd.readouterr())
    options = command.Options("train.py --key hf_other {output}", steps=2, options={"token": "hf_third"})
    told = methods.recorded(options)
    assert told["command"] == "train.py" and told["steps"] == 2
    assert told["command_sha256"] == hashlib.sha256(b"train.py --key hf_other {output}").hexdigest()
    assert "hf_" not in str(told)
    assert methods.recorded(checkpoint.Options("folder")) == {"checkpoint": "folder"}


def test_a_run_that_is_launched_otherwise_has_another_identity(run, tmp_path):
    """A state of whole weights isn't that of sharded ones."""
    options, launched = checkpoint.Options("made"), [tmp_path / name for name in ("whole.yaml", "sharded.yaml")]
    for path in launched:
        path.write_text(path.name)
    assert len({methods.identity(run, options, code, None) for code in ([], *([path] for path in launched))}) == 3
