"""Candidates as PEFT adapters: PEFT loads them, linear merges are exact, others are cut as an SVD made apart says."""

import json
import re
from dataclasses import asdict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from spunge.core.errors import InputError
from spunge.core.files import sha256
from spunge.export import adapter
from spunge.merging import driver, recipe, registry
from spunge.merging.shards import Survey
from spunge.methods import checkpoint
from spunge.models import base_model, task_vector
from spunge.models.task_vector import PEFT_PREFIX, LoraAdapter

LAYER = "model.layers.1."
MODULES = {
    f"{LAYER}self_attn.q_proj": (32, 32),
    f"{LAYER}self_attn.v_proj": (16, 32),
    f"{LAYER}mlp.down_proj": (32, 64),
}
MERGED = "npo/attribute/merge/m/seed3"


def write_shard(path, base, seed, rank=3, modules=MODULES, transposed=False):
    """Write the adapter of a shard, as scripts/unlearn.py does; A and B are random."""
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for module, (rows, columns) in modules.items():
        factors[f"{PEFT_PREFIX}{module}.lora_A.weight"] = 0.3 * torch.randn(rank, columns, generator=generator)
        factors[f"{PEFT_PREFIX}{module}.lora_B.weight"] = 0.3 * torch.randn(rows, rank, generator=generator)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "fan_in_fan_out": transposed}
    facts = {"method": "npo", "run": f"npo/attribute/shard/{seed}/seed3", "seed": 3}
    task_vector.write_lora(path, factors, config, task_vector.make_provenance(base, **facts))
    return path


@pytest.fixture
def shards(tmp_path, tiny_base):
    """Two shards of ranks 3 and 2, of which the second leaves a module alone."""
    fewer = {module: shape for module, shape in MODULES.items() if "v_proj" not in module}
    return {
        "Africa": write_shard(tmp_path / "Africa.safetensors", tiny_base, 0),
        "Asia": write_shard(tmp_path / "Asia.safetensors", tiny_base, 1, 2, fewer),
    }


def merged(paths, kind, **given):
    """Merge files and read the result back, as scripts/merge.py and scripts/export.py do."""
    vectors, path = {shard: task_vector.read(one) for shard, one in paths.items()}, paths["Africa"].parent / "merged"
    options, survey = registry.options(kind, given), Survey()
    provenance = {key: vectors["Africa"].provenance[key] for key in ("base", "base_source", "versions", "commit")} | {
        "candidate": MERGED,
        "merge": kind,
        "options": asdict(options),
        "seed": 3,
        "shards": {shard: sha256(one) for shard, one in paths.items()},
        "unlearned": [{"shard": shard, **vector.provenance} for shard, vector in vectors.items()],
    }
    tensors = driver.merge(vectors, kind, options, driver.Diagnostics(list(vectors)), 3, survey)
    if recipe.suits(kind, vectors.values()):
        task_vector.check_finite(tensors)
        recipe.write(path, paths, survey, provenance)
    else:
        task_vector.write(path, driver.common_layout(vectors), tensors, provenance)
    return recipe.read(path), list(vectors.values())


def export(base, change, folder, shards=(), name=MERGED, **options):
    adapter.export(base, change, shards, folder, name, **options)
    return LoraAdapter.from_folder(folder, {"base": base.identity})


def peft_model(base, folder):
    from peft import PeftModel

    return PeftModel.from_pretrained(base_model.load(base, torch.float32, "cpu"), folder).eval()


@torch.no_grad()
def logits(model, base):
    tokens = base_model.load_tokenizer(base)("the capital of Kenya is", return_tensors="pt")
    return model(**tokens).logits


def assert_peft_gives_base_plus(base, folder, change, scale=1.0):
    scaled = task_vector.Scaled(change, scale)
    before = logits(base_model.load(base, torch.float32, "cpu"), base)
    expected = logits(base_model.load(base, torch.float32, "cpu", scaled), base)
    assert (expected - before).abs().max() > 0.1
    torch.testing.assert_close(logits(peft_model(base, folder), base), expected, rtol=1e-4, atol=1e-4)


def card(folder):
    return (folder / "README.md").read_text()


# Exactly


@pytest.mark.parametrize(
    ("options", "scale"),
    [
        ({}, 1.0),
        ({"weights": [1.0, 2.5]}, 0.7),
        ({"normalize": False, "weights": [1.0, 0.5], "scale": 1.5}, 1.0),
        ({"normalize": False, "scale": -1.0}, 2.0),
    ],
)
def test_linear_merges_are_exact(tmp_path, tiny_base, shards, options, scale):
    change, vectors = merged(shards, "linear", **options)
    found = export(tiny_base, change, tmp_path / "out", vectors, scale=scale)
    assert list(found) == list(change)
    for name in change:
        torch.testing.assert_close(found[name], scale * change[name], rtol=1e-5, atol=1e-6)
    assert_peft_gives_base_plus(tiny_base, tmp_path / "out", change, scale)
    assert found.ranks == {f"{module}.weight": 3 if "v_proj" in module else 5 for module in MODULES}
    told = card(tmp_path / "out")
    assert "The adapter is exact: its product B·A, rank 3 to 5, is the task vector" in told
    assert "library_name: peft" in told and "PeftModel.from_pretrained" in told
    assert "There is no mergekit.yaml: this is an adapter" in told
    assert ("| λ on the whole |" in told) and (f"`{scale}`" in told)


def test_a_run_keeps_its_own_rank(tmp_path, tiny_base, shards):
    change = task_vector.read(shards["Africa"])
    found = export(tiny_base, change, tmp_path / "out", name="npo/attribute/shard/Africa/seed3", scale=0.5)
    assert set(found.ranks.values()) == {3}
    for name in change:
        torch.testing.assert_close(found[name], 0.5 * change[name])
    assert_peft_gives_base_plus(tiny_base, tmp_path / "out", change, 0.5)
    assert "is exact: its product B·A, rank 3," in card(tmp_path / "out")
    assert checkpoint.read(tmp_path / "out", tiny_base).adapter["r"] == 3  # as a method's `checkpoint`
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
    }


def test_minus_one_is_minus_the_adapter(tmp_path, tiny_base, shards):
    change = task_vector.read(shards["Africa"])
    plus, minus = (export(tiny_base, change, tmp_path / str(scale), scale=scale) for scale in (1.0, -1.0))
    for name in change:
        assert torch.equal(minus[name], -plus[name]) and plus[name].any()
    assert_peft_gives_base_plus(tiny_base, tmp_path / "-1.0", change, -1.0)


def test_what_peft_makes_of_negative_weights(tmp_path, tiny_base):
    """As docs/export.md says: since 0.19 one adapter is negated; `linear` adds As and Bs, so there are cross terms."""
    paths = {"Africa": tmp_path / "1.safetensors", "Asia": tmp_path / "2.safetensors"}
    one, two = (task_vector.read(write_shard(path, tiny_base, seed)) for seed, path in enumerate(paths.values()))
    for name, vector in (("one", one), ("two", two)):
        export(tiny_base, vector, tmp_path / name)
    model = peft_model(tiny_base, tmp_path / "one")
    model.load_adapter(tmp_path / "one", "one")
    model.load_adapter(tmp_path / "two", "two")
    module = f"{LAYER}mlp.down_proj"
    layer, (first, second) = model.get_submodule(PEFT_PREFIX + module), (v[f"{module}.weight"] for v in (one, two))

    def combined(adapters, weights, kind):
        name = re.sub(r"\W", "", f"{adapters}{weights}{kind}")
        model.add_weighted_adapter(adapters, weights, name, combination_type=kind)
        return layer.get_delta_weight(name).detach()

    torch.testing.assert_close(combined(["one"], [-1.0], "linear"), -first, rtol=1e-4, atol=1e-5)
    found = combined(["one", "two"], [1.0, -1.0], "linear")
    (a1, b1, s), (a2, b2, _) = (vector.factors_of(f"{module}.weight") for vector in (one, two))
    torch.testing.assert_close(found, s * (b1 + b2) @ (a1 - a2), rtol=1e-4, atol=1e-5)
    assert (found - (first - second)).norm() > 0.5 * (first - second).norm()
    torch.testing.assert_close(combined(["one", "two"], [1.0, -1.0], "cat"), first - second, rtol=1e-4, atol=1e-5)

    mean, vectors = merged(paths, "linear", scale=-1.0)
    own = export(tiny_base, mean, tmp_path / "own", vectors)
    torch.testing.assert_close(own[f"{module}.weight"], -(first + second) / 2, rtol=1e-5, atol=1e-6)


# By truncated SVD


def cut(matrix, rank):
    """Return the nearest matrix of a rank, and which share of the squared norm it keeps, by NumPy in fp64."""
    left, values, right = np.linalg.svd(matrix.double().numpy(), full_matrices=False)
    nearest = left[:, :rank] * values[:rank] @ right[:rank]
    return nearest, 1 - np.square(matrix.double().numpy() - nearest).sum() / np.square(values).sum()


@pytest.mark.parametrize(("kind", "options"), [("ties", {"density": 0.3}), ("dare_ties", {}), ("dare_linear", {})])
@pytest.mark.parametrize("rank", [None, 2, 12])
def test_other_merges_are_cut_to_the_nearest_of_their_rank(tmp_path, tiny_base, shards, kind, options, rank):
    change, vectors = merged(shards, kind, **options)
    found = export(tiny_base, change, tmp_path / "out", vectors, rank=rank, scale=1.5)
    kept, whole, shares = 0.0, 0.0, {}
    for name, delta in change.items():
        expected, share = cut(1.5 * delta, rank or (3 if "v_proj" in name else 5))
        np.testing.assert_allclose(found[name].numpy(), expected, rtol=1e-3, atol=1e-4)
        square = float(delta.double().square().sum())
        kept, whole, shares = kept + share * square, whole + square, shares | {name: share}
    told = card(tmp_path / "out")
    worst = min(shares, key=shares.get)
    assert f": {100 * kept / whole:.1f} % of the squared Frobenius norm of all changes together, " in told
    assert f", {100 * shares[worst]:.1f} % in the worst module, `{worst.removesuffix('.weight')}`." in told
    assert "The adapter is not the whole change, whose rank is higher." in told
    assert_peft_gives_base_plus(tiny_base, tmp_path / "out", found)


@pytest.mark.parametrize("rank", [4, 5, 100])
def test_a_rank_cuts_what_would_be_exact_only_where_it_is_lower(tmp_path, tiny_base, shards, rank):
    change, vectors = merged(shards, "linear")
    found = export(tiny_base, change, tmp_path / "out", vectors, rank=rank)
    kept = whole = 0.0
    for name, delta in change.items():
        full = 3 if "v_proj" in name else 5
        expected, share = cut(delta, min(rank, full))
        assert found.ranks[name] == min(rank, full)
        np.testing.assert_allclose(found[name].numpy(), expected, rtol=1e-3, atol=1e-4)
        kept, whole = kept + share * float(delta.square().sum()), whole + float(delta.square().sum())
    told = card(tmp_path / "out")
    assert ("is exact" in told) == (rank >= 5)
    if rank < 5:
        assert f"modules were kept, rank 3 to 4: {100 * kept / whole:.1f} % of the squared" in told


def test_a_rank_between_a_matrix_and_the_shards_together(tmp_path, tiny_base):
    """Two shards of rank 12 and a matrix of 16 × 32: 24 is more than the 16 that it can have, and 20 is between."""
    paths = {
        shard: write_shard(tmp_path / f"{shard}.safetensors", tiny_base, seed, 12)
        for seed, shard in enumerate(("Africa", "Asia"))
    }
    change, vectors = merged(paths, "linear")
    for rank, narrow, wide in ((20, 16, 20), (16, 16, 16), (24, 24, 24), (None, 24, 24)):
        found = export(tiny_base, change, tmp_path / str(rank), vectors, rank=rank)
        assert found.ranks == {f"{module}.weight": narrow if "v_proj" in module else wide for module in MODULES}
        name = f"{LAYER}self_attn.v_proj.weight"
        torch.testing.assert_close(found[name], change[name], rtol=1e-4, atol=1e-5)


def test_tsv_has_no_higher_rank_than_its_shards_together(tmp_path, tiny_base, shards):
    change, vectors = merged(shards, "tsv")
    found = export(tiny_base, change, tmp_path / "out", vectors)
    for name in change:
        torch.testing.assert_close(found[name], change[name], rtol=1e-4, atol=1e-5)
    assert "The adapter is exact: its product B·A, rank 3 to 5," in card(tmp_path / "out")


def test_a_vector_of_zeros(tmp_path, tiny_base, shards):
    change, vectors = merged(shards, "ties", scale=0.0)
    found = export(tiny_base, change, tmp_path / "out", vectors)
    assert not any(found[name].any() for name in found)
    assert "The adapter is exact" in card(tmp_path / "out")


# Files


@pytest.mark.parametrize("kind", ["linear", "ties"])
def test_transposed_adapters_stay_transposed(tmp_path, tiny_base, kind):
    modules = {"transformer.h.0.attn.c_attn": (48, 20)}
    paths = {
        shard: write_shard(tmp_path / f"{seed}.safetensors", tiny_base, seed, 3, modules, transposed=True)
        for seed, shard in enumerate(("Africa", "Asia"))
    }
    change, vectors = merged(paths, kind)
    found = export(tiny_base, change, tmp_path / "out", vectors, rank=20)
    (name,) = change
    assert found.config["fan_in_fan_out"] and found.shapes[name] == (20, 48)
    torch.testing.assert_close(found[name], change[name], rtol=1e-4, atol=1e-5)


def test_configuration_and_bytes(tmp_path, tiny_base, shards):
    change, vectors = merged(shards, "ties")
    for name in ("first", "second"):
        export(tiny_base, change, tmp_path / name, vectors, dtype=torch.bfloat16)
    config = json.loads((tmp_path / "first" / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(MODULES)
    assert (config["r"], config["lora_alpha"]) == (5, 5)
    assert config["rank_pattern"] == config["alpha_pattern"] == {f"{LAYER}self_attn.v_proj": 3}
    assert config["task_type"] == "CAUSAL_LM" and config["base_model_name_or_path"] is None  # it is of no hub
    factors = load_file(tmp_path / "first" / "adapter_model.safetensors")
    assert {factor.dtype for factor in factors.values()} == {torch.bfloat16}
    assert "| dtype of the weights | `bfloat16` |" in card(tmp_path / "first")
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


def test_a_base_model_of_the_hub_is_named(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.setattr(base_model, "_local_folder", lambda source, revision: tiny_folder)
    base = base_model.prepare("organisation/Model-7B", tmp_path / "base", "v1.0")
    found = export(base, task_vector.read(write_shard(tmp_path / "v", base, 0)), tmp_path / "out")
    assert (found.config["base_model_name_or_path"], found.config["revision"]) == ("organisation/Model-7B", "v1.0")
    assert "base_model: organisation/Model-7B" in card(tmp_path / "out")


def test_what_is_no_lora_adapter_is_refused(tmp_path, tiny_base, shards):
    name = f"{LAYER}mlp.down_proj.weight"
    task_vector.write(
        tmp_path / "rmu", {name: (32, 64)}, [(name, torch.ones(32, 64))], task_vector.make_provenance(tiny_base)
    )
    change = task_vector.read(tmp_path / "rmu")
    told = (
        f"{MERGED} can't be exported as an adapter, since what was unlearned is no LoRA adapter: leave export.format "
    )
    for vectors in ([], [change], [task_vector.read(shards["Africa"]), change]):
        with pytest.raises(InputError, match=f"^{told}"):
            export(tiny_base, change, tmp_path / "out", vectors)
    one = write_shard(tmp_path / "t.safetensors", tiny_base, 5, 3, {f"{LAYER}self_attn.q_proj": (32, 32)}, True)
    with pytest.raises(InputError, match="merges adapters with and without fan_in_fan_out"):
        export(tiny_base, change, tmp_path / "out", [task_vector.read(shards["Africa"]), task_vector.read(one)])
    assert not (tmp_path / "out").exists()


def test_nothing_half_made_is_left(tmp_path, tiny_base, shards):
    change = task_vector.read(shards["Africa"])
    with pytest.raises(InputError, match=r"lora_B\.weight has entries that are not finite: export in a wider dtype"):
        export(tiny_base, change, tmp_path / "out", scale=1e6, dtype=torch.float16)
    assert {path.name for path in tmp_path.iterdir()} == {"Africa.safetensors", "Asia.safetensors"}
    other = {**task_vector.make_provenance(tiny_base), "base": "f" * 64}
    task_vector.write_lora(tmp_path / "other", change.factors(), change.config, other)
    with pytest.raises(InputError, match="the task vector was made from base model ffffffffffff"):
        export(tiny_base, task_vector.read(tmp_path / "other"), tmp_path / "out")
