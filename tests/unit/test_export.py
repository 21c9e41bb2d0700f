"""Exported candidates: plain transformers and lm-eval load them, mergekit makes the merge again, nothing half-made."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from spunge.core.errors import InputError
from spunge.export import card
from spunge.export import folder as exporting
from spunge.merging import driver, registry
from spunge.models import base_model, task_vector

PROJECT = Path(__file__).parents[2]
specification = importlib.util.spec_from_file_location("export_script", PROJECT / "scripts" / "export.py")
script = importlib.util.module_from_spec(specification)
specification.loader.exec_module(script)

DOWN = [f"model.layers.{layer}.mlp.down_proj.weight" for layer in (1, 2)]
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
SHAPES = {DOWN[0]: (32, 64), DOWN[1]: (32, 64), EMBEDDING: (320, 32), HEAD: (320, 32)}
MERGED = "rmu/attribute/merge/ties/seed3"


def deltas(seed, names=DOWN):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(SHAPES[name], generator=generator) * 0.1 for name in names}


def vector(path, base, tensors, **facts):
    provenance = task_vector.make_provenance(base, **facts)
    task_vector.write(path, {name: one.shape for name, one in tensors.items()}, tensors.items(), provenance)
    return task_vector.read(path)


def shard_vectors(folder, base, tensors):
    """Return two shards' task vectors with the provenance that scripts/unlearn.py writes."""
    return {
        shard: vector(
            folder / f"{shard}.safetensors",
            base,
            one,
            method="rmu",
            options={"steps": 3, "alpha": 10},
            seed=3,
            run=f"rmu/attribute/shard/{shard}/seed3",
            data={"forget": digit * 64, "retain": "c" * 64},
        )
        for shard, digit, one in zip(["Africa", "Asia"], "ab", tensors, strict=True)
    }


def merged_vector(path, base, shards, kind, **given):
    """Return a merge of shards with the provenance that scripts/merge.py writes."""
    options = registry.options(kind, given)
    tensors = dict(driver.merge(shards, kind, options, driver.Diagnostics(list(shards)), seed=3))
    return vector(
        path,
        base,
        tensors,
        candidate=MERGED,
        merge=kind,
        options=asdict(options),
        seed=3,
        shards={shard: "d" * 64 for shard in shards},
        unlearned=[{"shard": shard, **one.provenance} for shard, one in shards.items()],
    )


@pytest.fixture
def merged(tmp_path, tiny_base):
    shards = shard_vectors(tmp_path, tiny_base, [deltas(0), deltas(1)])
    return merged_vector(tmp_path / "merged.safetensors", tiny_base, shards, "ties", density=0.5)


def prepared(folder, tmp_path, change):
    """Return a base model like the tiny one, its loaded model and its config changed by `change(model)`."""
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    shutil.copytree(folder, tmp_path / "hub")
    change(model).save_pretrained(tmp_path / "hub")
    return base_model.prepare(str(tmp_path / "hub"), tmp_path / "resources" / "base")


def own_name(change):
    return change.provenance.get("candidate") or change.provenance.get("run", "a candidate")


def export(base, change, folder, dtype=None, **options):
    exporting.export(base, change, folder, own_name(change), dtype, **options)


def loaded(folder, **options):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, **options).eval()


@torch.no_grad()
def logits(model, folder):
    from transformers import AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(folder)("the capital of Kenya is", return_tensors="pt")
    return model(**tokens).logits


def assert_same_model(folder, base, change, dtype=torch.float32):
    found, expected = loaded(folder), base_model.load(base, dtype, "cpu", change)
    assert found.dtype == dtype
    # In 16 bits an evaluation keeps in fp32 what changed, and a file can't.
    rounded = {name: tensor.to(dtype) for name, tensor in expected.state_dict().items()}
    torch.testing.assert_close(found.state_dict(), rounded, rtol=0, atol=0)
    if dtype == torch.float32:
        assert torch.equal(logits(found, folder), logits(expected, base.folder))


def test_plain_transformers_loads_base_plus_task_vector(tmp_path, tiny_base, merged):
    folder = tmp_path / "exports" / MERGED
    export(tiny_base, merged, folder)
    assert_same_model(folder, tiny_base, merged)
    assert not torch.equal(logits(loaded(folder), folder), logits(loaded(tiny_base.folder), tiny_base.folder))
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == set(load_file(tiny_base.folder / "model.safetensors"))


def test_folder_holds_what_a_model_needs_and_no_links(tmp_path, hub, merged):
    (hub / "chat_template.jinja").write_text("{{ messages }}")
    (hub / "eval_results.json").write_text("{}")  # of the base model, not of this one
    for name in ("LICENSE", "NOTICE"):
        (hub / name).write_text("terms")
    base = base_model.prepare(str(hub), tmp_path / "base")
    export(base, merged, tmp_path / "out")
    expected = {path.name for path in hub.iterdir()} - {"eval_results.json"} | {"README.md", "mergekit.yaml"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == expected
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())
    for name in ("tokenizer.json", "generation_config.json", "chat_template.jinja", "tokenizer_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (hub / name).read_bytes()


def test_a_tokenizer_of_the_users_is_named_as_before_transformers_5_too(tmp_path, hub, merged):
    """4.45 and 4.57 know no class TokenizersBackend, and 4.57 reads no list of `extra_special_tokens`."""
    from transformers import AutoTokenizer

    given = AutoTokenizer.from_pretrained(hub)
    given.add_special_tokens({"extra_special_tokens": ["<|turn|>"]})
    given.save_pretrained(tmp_path / "given")
    base = base_model.prepare(str(hub), tmp_path / "base", tokenizer=str(tmp_path / "given"))
    export(base, merged, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert written["additional_special_tokens"] == ["<|turn|>"] and "extra_special_tokens" not in written
    found = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "the capital<|turn|>  of Côte d'Ivoire 🎉\n"
    assert found(text)["input_ids"] == given(text)["input_ids"] and 320 in found(text)["input_ids"]
    assert found.all_special_tokens == given.all_special_tokens == ["<|endoftext|>", "<|turn|>"]


@pytest.mark.parametrize("size", ["60KB", "20KB", 50_000])
def test_several_files_are_those_of_transformers_itself(tmp_path, tiny_base, merged, size):
    export(tiny_base, merged, tmp_path / "out", max_shard_size=size)
    assert_same_model(tmp_path / "out", tiny_base, merged)
    base_model.load(tiny_base, torch.float32, "cpu", merged).save_pretrained(tmp_path / "own", max_shard_size=size)
    names = {path.name for path in (tmp_path / "own").glob("model*")}
    assert len(names) > 3
    assert {path.name for path in (tmp_path / "out").glob("model*")} == names
    index = "model.safetensors.index.json"
    assert (tmp_path / "out" / index).read_text() == (tmp_path / "own" / index).read_text()
    for name in names - {index}:
        torch.testing.assert_close(load_file(tmp_path / "out" / name), load_file(tmp_path / "own" / name))


def test_base_in_several_files_beside_others_that_transformers_leaves_alone(tmp_path, tiny_folder):
    def in_files(model):
        model.save_pretrained(tmp_path / "hub", max_shard_size="60KB")
        return model

    shutil.copytree(tiny_folder, tmp_path / "hub")
    (tmp_path / "hub" / "model.safetensors").unlink()
    in_files(loaded(tiny_folder))
    save_file({"layers.0.weight": torch.ones(3)}, tmp_path / "hub" / "consolidated.safetensors")
    base = base_model.prepare(str(tmp_path / "hub"), tmp_path / "base")
    change = vector(tmp_path / "v.safetensors", base, deltas(0))
    export(base, change, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").glob("*.safetensors*")} == {"model.safetensors"}
    assert_same_model(tmp_path / "out", base, change)


@pytest.mark.parametrize("asked", [None, "float32", "bfloat16", "float16"])
def test_weights_keep_the_dtype_of_the_base_or_get_the_one_asked_for(tmp_path, tiny_folder, asked):
    base = prepared(tiny_folder, tmp_path, lambda model: model.bfloat16())
    change = vector(tmp_path / "v.safetensors", base, deltas(0))
    export(base, change, tmp_path / "out", getattr(torch, asked) if asked else None)
    dtype = getattr(torch, asked or "bfloat16")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == (asked or "bfloat16")
    written, before = (load_file(path / "model.safetensors") for path in (tmp_path / "out", base.folder))
    assert set(written) == set(before)
    for name, tensor in before.items():
        expected = (tensor.float() + change[name] if name in DOWN else tensor).to(dtype)
        assert written[name].dtype == dtype and torch.equal(written[name], expected)
    assert_same_model(tmp_path / "out", base, change, dtype)


def test_buffers_of_integers_and_single_wider_tensors_stay_as_they_are(tmp_path, hub, tiny_base):
    own = load_file(hub / "model.safetensors")
    extra = {"model.steps": torch.arange(3), "model.mask": torch.tensor([True, False])}
    tensors = {name: tensor if "norm" in name else tensor.bfloat16() for name, tensor in own.items()} | extra
    save_file(tensors, hub / "model.safetensors")
    base = base_model.prepare(str(hub), tmp_path / "base")
    export(base, vector(tmp_path / "v.safetensors", base, deltas(0)), tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    for name in set(tensors) - set(DOWN):
        assert written[name].dtype == tensors[name].dtype and torch.equal(written[name], tensors[name])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_older_configs_keep_their_word_for_dtype(tmp_path, hub):
    config = json.loads((hub / "config.json").read_text())
    config["torch_dtype"] = config.pop("dtype")
    (hub / "config.json").write_text(json.dumps(config))
    base = base_model.prepare(str(hub), tmp_path / "base")
    export(base, vector(tmp_path / "v", base, deltas(0)), tmp_path / "out", torch.float16)
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {**config, "torch_dtype": "float16"}
    assert loaded(tmp_path / "out").dtype == torch.float16


def test_where_a_base_model_was_loaded_from_stays_out_of_its_configs(tmp_path, tiny_folder):
    """Older versions of transformers wrote it into both."""
    hub = Path(shutil.copytree(tiny_folder, tmp_path / "hub"))
    names = {"config.json": ["_name_or_path"]}
    names["tokenizer_config.json"] = ["name_or_path", "special_tokens_map_file", "tokenizer_file"]
    before = {}
    for name, keys in names.items():
        before[name] = json.loads((hub / name).read_text())
        (hub / name).write_text(json.dumps(before[name] | dict.fromkeys(keys, "/data/alice/acme/x")))
    base = base_model.prepare(str(hub), tmp_path / "base")
    change = vector(tmp_path / "v.safetensors", base, deltas(0))
    export(base, change, tmp_path / "out")
    assert {name: json.loads((tmp_path / "out" / name).read_text()) for name in names} == before
    assert_same_model(tmp_path / "out", base, change)


def test_lora_factors(tmp_path, tiny_base):
    generator = torch.Generator().manual_seed(0)
    module = "base_model.model.model.layers.1.self_attn.q_proj"
    factors = {
        f"{module}.lora_A.weight": torch.randn(4, 32, generator=generator),
        f"{module}.lora_B.weight": torch.randn(32, 4, generator=generator),
    }
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}
    task_vector.write_lora(tmp_path / "v.safetensors", factors, config, task_vector.make_provenance(tiny_base))
    change = task_vector.read(tmp_path / "v.safetensors")
    export(tiny_base, change, tmp_path / "out")
    assert_same_model(tmp_path / "out", tiny_base, change)
    name = "model.layers.1.self_attn.q_proj.weight"
    added = 2 * (factors[f"{module}.lora_B.weight"] @ factors[f"{module}.lora_A.weight"])
    expected = load_file(tiny_base.folder / "model.safetensors")[name] + added
    torch.testing.assert_close(load_file(tmp_path / "out" / "model.safetensors")[name], expected)


def test_scale_is_applied_and_told(tmp_path, tiny_base, merged):
    export(tiny_base, task_vector.Scaled(merged, -0.5), tmp_path / "out")
    before = load_file(tiny_base.folder / "model.safetensors")[DOWN[0]]
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")[DOWN[0]], before - 0.5 * merged[DOWN[0]])
    assert "| λ on the whole | `-0.5` |" in (tmp_path / "out" / "README.md").read_text()


def test_the_script_takes_the_strength_of_a_budget(tmp_path, tiny_base, merged, capsys):
    (tmp_path / "strengths.json").write_text('{"": 1.0, "kl=0.01": 0.5, "kl=0.03": 1.0, "kl=0.1": null}')
    command = ["--candidate", MERGED, "--base", tiny_base.folder, "--task-vector", merged.path, "--scale=3"]
    command += ["--strengths", tmp_path / "strengths.json", "--output", tmp_path / "out"]
    before = load_file(tiny_base.folder / "model.safetensors")[DOWN[0]]
    assert script.main([*map(str, command), "--budget=kl=0.01"]) == 0
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")[DOWN[0]], before + 0.5 * merged[DOWN[0]])
    for budget in ("kl=0.1", "kl=1"):
        assert script.main([*map(str, command), f"--budget={budget}"]) == 1
        assert capsys.readouterr().err.splitlines()[-1] == (
            f"error: {MERGED} has no λ for {budget}, which it doesn't reach or wasn't evaluated at; set export.budget "
            "to another one"
        )
    for budget in ("kl=0.01", "kl=0.03"):  # also where its λ happens to be 1
        assert script.main([*map(str, command), f"--budget={budget}"]) == 0
        assert not (tmp_path / "out" / "mergekit.yaml").exists(), "each shard's export has a λ of its own"
        told = (tmp_path / "out" / "README.md").read_text()
        assert "There is no mergekit.yaml: its λ is that of a budget, and each shard's export has another one." in told
    assert script.main([*map(str, command[:-4]), "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "mergekit.yaml").exists(), "of the configured λ, which the shards' exports bear too"


def test_lm_eval_loads_it(tmp_path, tiny_base, merged, tokenizer):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    export(tiny_base, merged, tmp_path / "out", max_shard_size="60KB")
    harness = HFLM(pretrained=str(tmp_path / "out"), device="cpu", batch_size=1)
    context, continuation = "the capital of Kenya is", " Nairobi"
    request = Instance("loglikelihood", doc={}, arguments=(context, continuation), idx=0)
    ((found, _),) = harness.loglikelihood([request], disable_tqdm=True)

    tokens = tokenizer(context + continuation, return_tensors="pt")["input_ids"]
    start = len(tokenizer(context)["input_ids"])
    with torch.no_grad():
        likely = base_model.load(tiny_base, torch.float32, "cpu", merged)(tokens).logits.log_softmax(-1)[0, :-1]
    expected = likely.gather(1, tokens[0, 1:, None])[start - 1 :].sum()
    assert found == pytest.approx(float(expected), abs=1e-4)


# Tied embeddings


@pytest.mark.parametrize("named", [[EMBEDDING], [HEAD], [EMBEDDING, HEAD]])
def test_tied_weights_under_either_name(tmp_path, tiny_base, named):
    """The base's file has the embedding alone."""
    delta = deltas(0, [EMBEDDING])[EMBEDDING]
    change = vector(tmp_path / "v.safetensors", tiny_base, dict.fromkeys(named, delta))
    export(tiny_base, change, tmp_path / "out")
    assert HEAD not in load_file(tmp_path / "out" / "model.safetensors")
    assert_same_model(tmp_path / "out", tiny_base, change)


def test_tied_weights_that_the_file_holds_twice(tmp_path, hub):
    own = load_file(hub / "model.safetensors")
    save_file({**own, HEAD: own[EMBEDDING].clone()}, hub / "model.safetensors", {"format": "pt"})
    base = base_model.prepare(str(hub), tmp_path / "base")
    change = vector(tmp_path / "v.safetensors", base, deltas(0, [EMBEDDING]))
    export(base, change, tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(written[HEAD], written[EMBEDDING]) and not torch.equal(written[HEAD], own[EMBEDDING])
    assert_same_model(tmp_path / "out", base, change)


def test_a_head_that_differs_is_not_tied_whatever_the_config_says(tmp_path, hub):
    own = load_file(hub / "model.safetensors")
    save_file({**own, HEAD: own[EMBEDDING] + 1}, hub / "model.safetensors", {"format": "pt"})
    base = base_model.prepare(str(hub), tmp_path / "base")
    change = vector(tmp_path / "v.safetensors", base, deltas(0, [HEAD]))
    export(base, change, tmp_path / "out")
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")[EMBEDDING], own[EMBEDDING])
    assert_same_model(tmp_path / "out", base, change)


def test_two_changes_of_one_tied_tensor_are_refused(tmp_path, tiny_base):
    change = vector(tmp_path / "v.safetensors", tiny_base, deltas(0, [EMBEDDING, HEAD]))
    with pytest.raises(InputError) as error:
        export(tiny_base, change, tmp_path / "out")
    names = " and ".join(change.shapes)
    assert str(error.value) == f"the task vector changes {names} differently, which are one tensor in the base model"


def test_files_without_the_models_prefix(tmp_path, hub):
    """As the files of GPT-2 on the hub."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=320, n_positions=64, n_embd=32, n_layer=2, n_head=2))
    model.save_pretrained(hub)
    own = {name.removeprefix("transformer."): one for name, one in load_file(hub / "model.safetensors").items()}
    save_file(own, hub / "model.safetensors", {"format": "pt"})
    base = base_model.prepare(str(hub), tmp_path / "base")
    name = "transformer.h.1.mlp.c_proj.weight"
    change = vector(tmp_path / "v.safetensors", base, {name: torch.ones(128, 32)})
    export(base, change, tmp_path / "out")
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == set(own)
    assert_same_model(tmp_path / "out", base, change)


# Refusals


def refused(base, change, folder, **options):
    with pytest.raises(InputError) as error:
        export(base, change, folder, **options)
    assert not folder.exists() and not list(folder.parent.glob(f".{folder.name}*"))
    return str(error.value)


def test_vector_of_another_base_is_refused(tmp_path, tiny_folder, tiny_base, merged):
    other = prepared(tiny_folder, tmp_path, lambda model: model.bfloat16())
    assert refused(other, merged, tmp_path / "out").startswith(
        f"the task vector was made from base model {tiny_base.identity[:12]} ({tiny_base.source}), not from "
    )


def test_parameters_that_the_base_lacks_or_has_in_another_shape_are_refused(tmp_path, tiny_base):
    change = vector(tmp_path / "v.safetensors", tiny_base, {"model.layers.9.mlp.down_proj.weight": torch.ones(2)})
    assert refused(tiny_base, change, tmp_path / "out") == (
        "the task vector changes model.layers.9.mlp.down_proj.weight, which the base model's files do not have"
    )
    change = vector(tmp_path / "v.safetensors", tiny_base, {DOWN[0]: torch.ones(2, 3)})
    assert refused(tiny_base, change, tmp_path / "out") == (
        f"the task vector's {DOWN[0]} is (2, 3), the base model's {DOWN[0]} is (32, 64)"
    )


def test_quantized_weights_are_refused(tmp_path, hub):
    own = load_file(hub / "model.safetensors")
    save_file({**own, DOWN[0]: torch.ones(32, 64, dtype=torch.uint8)}, hub / "model.safetensors")
    base = base_model.prepare(str(hub), tmp_path / "base")
    change = vector(tmp_path / "v.safetensors", base, deltas(0))
    assert refused(base, change, tmp_path / "out").startswith(f"the base model's {DOWN[0]} is kept as U8: ")


def test_sums_that_are_not_finite_are_refused(tmp_path, tiny_base):
    change = vector(tmp_path / "v.safetensors", tiny_base, {DOWN[0]: torch.full((32, 64), 1e5)})
    message = refused(tiny_base, change, tmp_path / "out", dtype=torch.float16)
    assert message == (
        f"{DOWN[0]} has entries that are not finite as float16: export in a wider dtype, or see whether the "
        "unlearning diverged"
    )
    export(tiny_base, change, tmp_path / "wider", dtype=torch.bfloat16)


def test_full_disk_is_noticed_before_anything_is_written(tmp_path, tiny_base, merged, monkeypatch):
    size = sum(path.stat().st_size for path in tiny_base.folder.glob("*.safetensors"))
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(exporting.shutil, "disk_usage", lambda path: usage._replace(free=size - 1000))
        message = refused(tiny_base, merged, tmp_path / "not" / "yet" / "there" / "out")
    assert message.endswith("GB left: free some and run again") and "there/out needs 0.00 GB" in message
    assert not (tmp_path / "not").exists()


def test_interrupted_export_leaves_what_was_there(tmp_path, tiny_base, merged, monkeypatch):
    export(tiny_base, merged, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(card, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            export(tiny_base, merged, tmp_path / "out", torch.float16)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert not (tmp_path / ".out.partial").exists()


def test_killed_export_leaves_no_folder_and_is_made_again(tmp_path, tiny_base, merged):
    """A real process, killed outright between two weight files."""
    slow = (
        "import sys, time; from pathlib import Path; from spunge.core import safetensors_writer; "
        "from spunge.export import folder as export; from spunge.models import task_vector as t\n"
        "write = safetensors_writer.write\n"
        "def slow(*arguments):\n    write(*arguments); print('one', flush=True); time.sleep(60)\n"
        "safetensors_writer.write = slow\n"
        "base = t.BaseModel.open(sys.argv[1])\n"
        "export.export(base, t.read(sys.argv[2]), sys.argv[3], 'rmu/joint/seed0', max_shard_size='20KB')\n"
    )
    command = [sys.executable, "-c", slow, tiny_base.folder, merged.path, tmp_path / "out"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen([str(one) for one in command], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout.readline() == b"one\n"
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "out").exists()
    assert list((tmp_path / ".out.partial").iterdir())
    export(tiny_base, merged, tmp_path / "out")
    assert not (tmp_path / ".out.partial").exists()
    assert_same_model(tmp_path / "out", tiny_base, merged)


# The model card


def front_matter(folder):
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def test_card_tells_how_a_merged_candidate_was_made(tmp_path, tiny_base, merged):
    export(tiny_base, merged, tmp_path / "out", torch.bfloat16)
    front, text = front_matter(tmp_path / "out")
    assert front == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["unlearning", "spunge"],
    }
    assert text.startswith(f"\n# {MERGED}\n")
    provenance = merged.provenance
    for told in (
        "| method | `rmu` |",
        '| options | `{"alpha": 10, "steps": 3}` |',
        "| split | `attribute` |",
        "| shards | `Africa`, `Asia` |",
        "| merge | `ties` |",
        '| its options | `{"density": 0.5, "scale": 1.0, "sign": "mass", "trim": "tensor", "weights": null, ',
        "| seed | `3` |",
        "| λ on the whole | `1.0` |",
        "| dtype of the weights | `bfloat16` |",
        tiny_base.identity,
        *("a" * 64, "b" * 64, "c" * 64, "d" * 64),
        provenance["commit"],
        f'"torch": "{provenance["versions"]["torch"]}"',
        "the local model `hub`",
        "does not prove that the knowledge is gone",
        "The base model's license holds",
    ):
        assert told in text, told
    assert str(tiny_base.folder.parent) not in text, "where a local model lies is nobody's business"


def test_card_of_a_single_run_and_of_a_vector_from_elsewhere(tmp_path, tiny_base):
    shards = shard_vectors(tmp_path, tiny_base, [deltas(0), deltas(1)])
    export(tiny_base, shards["Asia"], tmp_path / "asia")
    _, text = front_matter(tmp_path / "asia")
    assert text.startswith("\n# rmu/attribute/shard/Asia/seed3\n") and "| split | `attribute` |" in text
    assert "This is no merge." in text and "a" * 64 not in text and "b" * 64 in text
    assert not (tmp_path / "asia" / "mergekit.yaml").exists()
    elsewhere = vector(tmp_path / "v.safetensors", tiny_base, deltas(0), method="an outside tool")
    export(tiny_base, elsewhere, tmp_path / "elsewhere")
    assert "| method | `an outside tool` |" in front_matter(tmp_path / "elsewhere")[1]


def test_card_of_a_variant_and_no_folders_of_somebodys_machine(tmp_path, tiny_base):
    options = {"command": "python /disk/someone/trainer.py --out=~/all/{part} --from https://example.org/a/b a/b"}
    change = vector(tmp_path / "v.safetensors", tiny_base, deltas(0), options=options, run="rmu/joint/seed0")
    exporting.export(tiny_base, task_vector.Scaled(change, 2.0), tmp_path / "out", "rmu-twice/joint/seed0")
    _, text = front_matter(tmp_path / "out")
    assert text.startswith("\n# rmu-twice/joint/seed0\n")
    assert "| takes the task vector of | `rmu/joint/seed0` |" in text and "| λ on the whole | `2.0` |" in text
    assert '{"command": "python …/trainer.py --out=…/{part} --from https://example.org/a/b a/b"}' in text


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("/data/Alice Smith/clients/acme/m.json", "…/m.json"),
        ("/data/alice,bob/acme, inc/m.json", "…/m.json"),
        ('/data/alice/the "acme" files/m.json', "…/m.json"),
        ("~/clients/acme deal/m.json", "…/m.json"),
        (" /data/Alice Smith/m.json", "…/m.json"),
        ("file:///data/alice/x/m", "…/m"),
        ("python --config 'file:///data/Alice Smith/x/m' --to /data/alice/y/n", "python --config '…/m' --to …/n"),
        ("python --in=/data/Alice\\ Smith/x/m --port db:/data/alice/p", "python --in=…/m --port db:…/p"),
        ("hub:owner/name and https://example.org/a/b", "hub:owner/name and https://example.org/a/b"),
        ("data/a b/m.json", "data/a b/m.json"),
    ],
)
def test_card_has_the_last_part_alone_of_any_absolute_path(value, told):
    assert card._code(value) == f"`{told}`"
    written = card._code({"path": value, "all": [[value], 3]})
    assert json.loads(written.strip("`")) == {"path": told, "all": [[told], 3]}
    assert list(json.loads(card._code({value: None}).strip("`"))) == [told]


def test_card_names_a_base_model_of_the_hub(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.setattr(base_model, "_local_folder", lambda source, revision: tiny_folder)
    base = base_model.prepare("organisation/Model-7B", tmp_path / "base", "v1.0")
    shards = shard_vectors(tmp_path, base, [deltas(0), deltas(1)])
    merged = merged_vector(tmp_path / "merged.safetensors", base, shards, "ties")
    export(base, merged, tmp_path / "out")
    front, text = front_matter(tmp_path / "out")
    assert front["base_model"] == "organisation/Model-7B"
    assert "This is `organisation/Model-7B` (revision `v1.0`) after unlearning" in text
    configuration = yaml.safe_load((tmp_path / "out" / "mergekit.yaml").read_text())
    assert configuration["base_model"] == "organisation/Model-7B@v1.0"


# mergekit


def provenance_of(kind, **given):
    runs = [{"shard": one, "run": f"rmu/attribute/shard/{one}/seed3"} for one in ("Africa", "Asia")]
    options = asdict(registry.options(kind, given))
    return {"candidate": MERGED, "merge": kind, "options": options, "unlearned": runs}


def test_mergekit_configuration_of_ties():
    provenance = provenance_of("ties", density=0.5, scale=2.0)
    assert card.mergekit(provenance, "org/base", "bfloat16", [2048]) == (
        {
            "merge_method": "ties",
            "base_model": "org/base",
            "models": [
                {"model": "../../../shard/Africa/seed3", "parameters": {"weight": 1.0, "density": 0.5}},
                {"model": "../../../shard/Asia/seed3", "parameters": {"weight": 1.0, "density": 0.5}},
            ],
            "parameters": {"normalize": True, "lambda": 2.0},
            "dtype": "float32",
            "out_dtype": "bfloat16",
        },
        None,
    )


@pytest.mark.parametrize("normalize", [True, False])
def test_mergekit_configuration_of_linear_merges(normalize):
    provenance = provenance_of("linear", normalize=normalize, weights=[3.0, 0.5], scale=0.7)
    configuration, _ = card.mergekit(provenance, "../base", "float32", [1])
    assert configuration == {
        "merge_method": "task_arithmetic",
        "base_model": "../base",
        "models": [
            {"model": "../../../shard/Africa/seed3", "parameters": {"weight": 3.0}},
            {"model": "../../../shard/Asia/seed3", "parameters": {"weight": 0.5}},
        ],
        "parameters": {"normalize": normalize, "lambda": 0.7},
        "dtype": "float32",
    }


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("ties", {"trim": "model"}, "trims every tensor by itself"),
        ("ties", {"sign": "count"}, "elects signs by summed values"),
        ("ties", {"zero_sum": "majority"}, "elects + where a sum is 0"),
        ("ties", {"density": 0.01}, "keeps an entry of every tensor"),  # 32 entries: mergekit keeps one, we none
        ("dare_ties", {"density": 0.5}, "would draw other entries"),
        ("dare_linear", {"density": 0.5}, "would draw other entries"),
        ("negmerge", {}, "mergekit has no such merge"),
        ("tsv", {}, "mergekit has no such merge"),
        ("mergekit", {"method": "della", "density": 0.5}, "would draw other entries"),
        ("mergekit", {"method": "sce", "scale": 0.5}, "sce has no factor on the result"),
    ],
)
def test_no_mergekit_configuration_where_it_would_compute_something_else(kind, options, reason):
    configuration, why = card.mergekit(provenance_of(kind, **options), "org/base", "float32", [32, 2048])
    assert configuration is None and reason in why


def test_a_merge_with_fixed_thresholds_is_not_made_of_scaled_shards():
    """The shards' exports bear λ, too."""
    for method, fixed in (("ram", True), ("breadcrumbs", False)):
        provenance = provenance_of("mergekit", method=method) | {"scale": 0.5}
        configuration, why = card.mergekit(provenance, "org/base", "float32", [32, 2048])
        assert (configuration is None) == fixed and (not fixed or "mergekit's ram has fixed thresholds" in why)
        assert card.mergekit(provenance | {"scale": 1.0}, "org/base", "float32", [32, 2048])[0] is not None


def test_card_says_why_there_is_no_mergekit_configuration(tmp_path, tiny_base):
    shards = shard_vectors(tmp_path, tiny_base, [deltas(0), deltas(1)])
    merged = merged_vector(tmp_path / "merged.safetensors", tiny_base, shards, "ties", trim="model")
    export(tiny_base, merged, tmp_path / "out")
    assert not (tmp_path / "out" / "mergekit.yaml").exists()
    assert (
        "There is no mergekit.yaml: mergekit trims every tensor by itself, this merge the whole model."
        in (tmp_path / "out" / "README.md").read_text()
    )


def on_a_grid(seed):
    """Return deltas that are whole multiples of 2⁻¹⁶ and differ in magnitude, so that adding and trimming are exact."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randperm(2048, generator=generator) + 1).view(32, 64)
        * (torch.randint(2, (32, 64), generator=generator) * 2 - 1)
        / 2**16
        for name in DOWN
    }


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("ties", {"density": 0.3, "scale": 1.5}),
        ("ties", {"density": 1.0, "weights": [1.0, 2.5]}),
        ("linear", {"weights": [1.0, 3.0]}),
        ("linear", {"normalize": False, "scale": 0.5}),
        ("mergekit", {"method": "breadcrumbs", "density": 0.3, "gamma": 0.1, "weights": [1.0, 2.5], "scale": 1.5}),
        ("mergekit", {"method": "sce", "select_topk": 0.3}),
    ],
)
def test_mergekit_makes_the_same_merge(tmp_path, monkeypatch, tiny_folder, kind, options):
    pytest.importorskip("mergekit")
    from mergekit.config import MergeConfiguration
    from mergekit.merge import MergeOptions, run_merge

    def rounded(model):
        for parameter in model.parameters():
            parameter.data = (parameter.data * 2**16).round() / 2**16
        return model

    base = prepared(tiny_folder, tmp_path, rounded)
    shards = shard_vectors(tmp_path, base, [on_a_grid(0), on_a_grid(1)])
    merged = merged_vector(tmp_path / "merged.safetensors", base, shards, kind, **options)
    exports = tmp_path / "results" / "exports"
    for change in (merged, *shards.values()):
        export(base, change, exports / own_name(change))

    monkeypatch.chdir(exports / MERGED)
    configuration = MergeConfiguration.model_validate(yaml.safe_load(Path("mergekit.yaml").read_text()))
    run_merge(configuration, str(tmp_path / "again"), MergeOptions(device="cpu", quiet=True, copy_tokenizer=True))

    again, own = (loaded(folder).state_dict() for folder in (tmp_path / "again", exports / MERGED))
    assert again.keys() == own.keys()
    for name, tensor in own.items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=1e-6)
    before = load_file(base.folder / "model.safetensors")
    assert all(not torch.equal(again[name], before[name]) for name in DOWN)
