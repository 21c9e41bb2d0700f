"""A merge's recipe gives the tensors that the merge gave, to the last bit, and refuses shards that are others."""

import dataclasses
import shutil

import pytest
import torch

from spunge.core.errors import InputError
from spunge.core.files import sha256
from spunge.merging import driver, recipe, registry, shards
from spunge.merging.shards import Survey
from spunge.models import task_vector

# Rows, columns: of one row, of fewer and of more entries than a block of the tests.
MODULES = {"layers.0.q": (12, 10), "layers.0.v": (1, 40), "layers.1.q": (64, 33), "layers.1.v": (5, 2)}
KINDS = [
    ("ties", {"density": 0.4}),
    ("ties", {"density": 0.3, "trim": "model", "sign": "count", "zero_sum": "majority", "scale": 0.7}),
    ("ties", {"density": 0.001}),
    ("linear", {"weights": [1.0, 2.0, 0.5]}),
    ("dare_linear", {"density": 0.6, "normalize": False}),
    ("dare_ties", {"density": 0.6}),
    ("negmerge", {}),
]


def adapter(path, seed, transposed=False, modules=MODULES):
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for module, (rows, columns) in modules.items():
        a, b = torch.randn(3, columns, generator=generator), torch.randn(rows, 3, generator=generator)
        factors[f"base_model.model.{module}.lora_A.weight"] = a
        factors[f"base_model.model.{module}.lora_B.weight"] = b
    config = {"peft_type": "LORA", "lora_alpha": 7, "r": 3, "fan_in_fan_out": transposed}
    provenance = {"base": "b" * 64, "base_source": "nowhere", "base_parameters": 5000}
    task_vector.write_lora(path, factors, config, provenance)
    return path


def merge(folder, kind, given, paths):
    """Merge files as scripts/merge.py does; return the merged tensors and the path of the recipe."""
    vectors = {shard: task_vector.read(path) for shard, path in paths.items()}
    options, survey = registry.options(kind, given), Survey()
    tensors = dict(driver.merge(vectors, kind, options, driver.Diagnostics(list(vectors)), 3, survey))
    provenance = {"base": "b" * 64, "merge": kind, "options": dataclasses.asdict(options), "seed": 3}
    provenance["shards"] = {shard: sha256(path) for shard, path in paths.items()}
    recipe.write(folder / "merged" / "task_vector.safetensors", paths, survey, provenance)
    return tensors, folder / "merged" / "task_vector.safetensors"


@pytest.fixture
def paths(tmp_path):
    fewer = {module: shape for module, shape in MODULES.items() if module != "layers.1.q"}
    return {
        "Africa": adapter(tmp_path / "unlearned" / "Africa.safetensors", 0),
        "Asia": adapter(tmp_path / "unlearned" / "Asia.safetensors", 1, modules=fewer),
        "Europe": adapter(tmp_path / "unlearned" / "Europe.safetensors", 2),
    }


@pytest.mark.parametrize("size", [7, 100, 1 << 17])
@pytest.mark.parametrize(("kind", "given"), KINDS)
def test_a_recipe_gives_the_merged_tensors_to_the_last_bit(tmp_path, paths, kind, given, size, monkeypatch):
    tensors, path = merge(tmp_path, kind, given, paths)
    monkeypatch.setattr(shards, "BLOCK", size)
    found = recipe.read(path)
    assert list(found) == list(tensors)
    assert found.shapes == {name: tensor.shape for name, tensor in tensors.items()}
    for name in reversed(tensors):
        assert torch.equal(found[name], tensors[name]), name
    assert path.stat().st_size < 5000


def test_where_many_factors_are_tried_each_parameter_is_merged_once(tmp_path, paths, monkeypatch):
    expected, path = merge(tmp_path, "ties", {"density": 0.3}, paths)
    merged, merge_one = [], recipe.Merged.__getitem__

    def counted(self, name):
        merged.append(name)
        return merge_one(self, name)

    monkeypatch.setattr(recipe.Merged, "__getitem__", counted)
    with recipe.merged_once(path, tmp_path / ".merged") as vector:
        for _ in range(3):
            assert all(torch.equal(vector[name], expected[name]) for name in expected)
        assert vector.provenance == recipe.read(path).provenance
    assert sorted(merged) == sorted(expected)
    assert not (tmp_path / ".merged").exists()
    with recipe.merged_once(paths["Asia"], tmp_path / ".merged") as vector:
        assert not (tmp_path / ".merged").exists() and vector.shapes == task_vector.read(paths["Asia"]).shapes


def test_transposed_adapters(tmp_path):
    paths = {str(seed): adapter(tmp_path / f"{seed}.safetensors", seed, transposed=True) for seed in range(2)}
    tensors, path = merge(tmp_path, "ties", {"density": 0.5}, paths)
    found = recipe.read(path)
    assert found.shapes["layers.0.q.weight"] == (10, 12)
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("columns", [1, 10, 576, 1536])
@pytest.mark.parametrize("rank", [1, 8, 64])
def test_entries_of_an_adapter_are_those_of_its_product(tmp_path, columns, rank):
    generator = torch.Generator().manual_seed(0)
    prefix = "base_model.model.q"
    factors = {
        f"{prefix}.lora_A.weight": torch.randn(rank, columns, generator=generator),
        f"{prefix}.lora_B.weight": torch.randn(90, rank, generator=generator),
    }
    config = {"peft_type": "LORA", "lora_alpha": 7, "r": rank}
    task_vector.write_lora(tmp_path / "v.safetensors", factors, config, {"base": "b" * 64})
    vector = task_vector.read(tmp_path / "v.safetensors")
    whole, read = vector["q.weight"].flatten(), vector.entries("q.weight")
    ends = sorted({0, 1, columns - 1, columns, columns + 1, 17 * columns, 40 * columns + 3, 89 * columns, 90 * columns})
    for first in ends:
        for last in ends:
            if first < last <= 90 * columns:
                assert torch.equal(read(first, last), whole[first:last]), (first, last)


def test_results_may_be_moved(tmp_path, paths):
    tensors, path = merge(tmp_path / "results", "ties", {}, paths)
    shutil.move(tmp_path / "unlearned", tmp_path / "elsewhere" / "unlearned")
    shutil.move(tmp_path / "results", tmp_path / "elsewhere" / "results")
    found = recipe.read(tmp_path / "elsewhere" / path.relative_to(tmp_path))
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_a_shard_that_is_gone_or_another_is_refused(tmp_path, paths):
    _, path = merge(tmp_path, "ties", {}, paths)
    before = paths["Asia"].read_bytes()
    adapter(paths["Asia"], 9)
    with pytest.raises(InputError) as refused:
        recipe.read(path)
    assert str(refused.value) == (
        f"{path} merges {paths['Asia']}, which is another one since: delete {path} and run again"
    )
    paths["Asia"].unlink()
    with pytest.raises(
        InputError, match=r"merges .*Asia\.safetensors, which is not there: bring it back, or run again"
    ):
        recipe.read(path)
    paths["Asia"].write_bytes(before)
    assert recipe.read(path)


def test_a_recipe_is_no_shard(tmp_path, paths):
    _, path = merge(tmp_path, "linear", {}, paths)
    with pytest.raises(InputError, match="is a merge's recipe and has no tensors"):
        task_vector.read(path)


def test_any_other_task_vector_is_read_as_it_is(tmp_path, paths):
    assert isinstance(recipe.read(paths["Asia"]), task_vector.LoraAdapter)
    tensors = {"w": torch.ones(3)}
    task_vector.write(tmp_path / "w.safetensors", {"w": torch.Size([3])}, tensors.items(), {"base": "b" * 64})
    assert torch.equal(recipe.read(tmp_path / "w.safetensors")["w"], tensors["w"])


def test_recipes_are_for_adapters_alone_and_not_for_decompositions(tmp_path, paths):
    adapters = [task_vector.read(path) for path in paths.values()]
    task_vector.write(tmp_path / "w.safetensors", {}, [], {"base": "b" * 64})
    others = [*adapters[:1], task_vector.read(tmp_path / "w.safetensors")]
    assert recipe.suits("ties", adapters) and not recipe.suits("tsv", adapters)
    assert not recipe.suits("ties", others)
