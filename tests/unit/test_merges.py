"""Every merge: hand-made examples, PEFT and mergekit as peers, and the properties that all of them share."""

import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from peft.utils import merge_utils as peft

from spunge.core.errors import InputError
from spunge.merging import consensus, driver, registry, shards, sparsify, tsv
from spunge.models import task_vector

PROJECT = Path(__file__).parents[2]
SHAPES = {"a.weight": (12, 8), "b.weight": (7, 9), "c.bias": (11,)}
PARAMETERS = 600
# Every kind with options under which all of its code runs.
ALL = [
    ("ties", {"density": 0.4}),
    ("ties", {"density": 0.3, "trim": "model", "sign": "count", "zero_sum": "majority"}),
    ("linear", {}),
    ("linear", {"normalize": False}),
    ("dare_linear", {"density": 0.6}),
    ("dare_linear", {"density": 0.6, "normalize": False}),
    ("dare_ties", {"density": 0.6}),
    ("negmerge", {}),
    ("tsv", {}),
]
if importlib.util.find_spec("mergekit"):
    ALL += [
        ("mergekit", {"method": "della", "density": 0.6, "epsilon": 0.2}),
        ("mergekit", {"method": "breadcrumbs", "density": 0.6, "gamma": 0.1, "normalize": True}),
    ]
EVERY = pytest.mark.parametrize(
    ("kind", "options"), ALL, ids=[f"{kind}{number}" for number, (kind, _) in enumerate(ALL)]
)


class InMemory(task_vector.TaskVector):
    """A task vector of tensors at hand."""

    def __init__(self, tensors):
        self.tensors, self.provenance = tensors, {"base": "b" * 64, "base_parameters": PARAMETERS}

    @property
    def shapes(self):
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    def __getitem__(self, name):
        return self.tensors[name]


def random_vectors(count=3, factor=1.0, first=0):
    vectors = {}
    for number in range(first, first + count):
        generator = torch.Generator().manual_seed(number)
        tensors = {name: factor * torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
        vectors[f"shard{number}"] = InMemory(tensors)
    return vectors


def merged(vectors, kind, seed=0, **options):
    diagnostics = driver.Diagnostics(list(vectors))
    return dict(driver.merge(vectors, kind, registry.options(kind, options), diagnostics, seed))


def diagnosed(vectors, kind, **options):
    diagnostics = driver.Diagnostics(list(vectors))
    list(driver.merge(vectors, kind, registry.options(kind, options), diagnostics))
    return {(row["shard"], row["attribute"], row["metric"]): row["value"] for row in diagnostics.rows()}


def stacked(vectors, name):
    return torch.stack([vector[name] for vector in vectors.values()])


def one_parameter(*rows):
    return {f"shard{i}": InMemory({"w": torch.tensor(row)}) for i, row in enumerate(rows)}


def assert_same(found, expected, factor=1.0, **tolerance):
    assert list(found) == list(expected)
    for name in expected:
        torch.testing.assert_close(found[name], factor * expected[name], **tolerance)


# By hand


def test_linear_by_hand():
    vectors = one_parameter([4.0, -2.0, 1.0], [-1.0, -3.0, 5.0])
    assert merged(vectors, "linear")["w"].tolist() == [1.5, -2.5, 3]
    assert merged(vectors, "linear", weights=[3.0, 1.0])["w"].tolist() == [2.75, -2.25, 2]
    assert merged(vectors, "linear", weights=[3.0, 1.0], normalize=False, scale=2.0)["w"].tolist() == [22, -18, 16]


def test_negmerge_by_hand():
    vectors = one_parameter([4.0, -2.0, 1.0, 0.0], [-1.0, -4.0, 5.0, 3.0], [1.0, -6.0, 3.0, 3.0])
    assert merged(vectors, "negmerge")["w"].tolist() == [0, -4, 3, 0]
    assert merged(vectors, "negmerge", weights=[1.0, 1.0, 2.0])["w"].tolist() == [0, -4.5, 3, 0]
    found = diagnosed(vectors, "negmerge")
    assert found["shard0", "", "kept_share"] == pytest.approx(2 / 3)
    assert found["shard1", "", "kept_share"] == pytest.approx(2 / 4)
    assert found["", "", "sign_conflict"] == 1 / 4  # of four entries that two or more shards change


def test_majority_decides_sums_of_zero():
    # Sums 0, -5, -1, 3: two elect -, one +, so 0 elects -; positive takes the 2.
    vectors = one_parameter([2.0, -2.0, -1.0, 3.0], [-2.0, -3.0, 0.0, 0.0])
    assert merged(vectors, "ties", density=1.0)["w"].tolist() == [2, -2.5, -1, 3]
    assert merged(vectors, "ties", density=1.0, zero_sum="majority")["w"].tolist() == [-2, -2.5, -1, 3]


def test_majority_is_that_of_the_whole_model_after_the_trim():
    # w alone would elect +; the sums of v (all but -1 trimmed away from -1, 1) elect - three times in the whole.
    first = InMemory({"v": torch.tensor([-3.0, -3.0, -3.0, 1.0]), "w": torch.tensor([2.0, 1.0, 0.0, 0.0])})
    second = InMemory({"w": torch.tensor([-2.0, 1.0, 0.0, 0.0])})
    found = merged({"x": first, "y": second}, "ties", density=0.75, zero_sum="majority")
    assert found["w"].tolist() == [-2, 1, 0, 0]
    assert found["v"].tolist() == [-3, -3, -3, 0]
    # As many + as -: +.
    even = one_parameter([2.0, -2.0, 3.0], [-2.0, -3.0, 0.0])
    assert merged(even, "ties", density=1.0, zero_sum="majority")["w"].tolist() == [2, -2.5, 3]


def test_tsv_by_hand():
    # Rank-1 matrices in different directions are orthogonal already: their sum.
    first, second = torch.zeros(4, 4), torch.zeros(4, 4)
    first[0, 0], second[1, 2] = 5.0, -3.0
    torch.testing.assert_close(tsv.merge([first, second]), first + second)
    # In one direction they are one: the singular values' mean, not their sum.
    torch.testing.assert_close(tsv.merge([first, 3 * first]), 2 * first)
    torch.testing.assert_close(tsv.merge([first, 3 * first], weights=(3.0, 1.0)), 1.5 * first)
    assert torch.equal(tsv.merge([torch.zeros(3, 2)] * 2), torch.zeros(3, 2))
    torch.testing.assert_close(tsv.merge([first, torch.zeros(4, 4)]), first)


def test_tsv_equals_its_formula_where_the_directions_are_independent():
    """Written with eigendecompositions: U (UᵀU)^-½ is the matrix with orthonormal columns nearest to U."""
    matrices = [one.double() for one in torch.randn(3, 20, 13, generator=torch.Generator().manual_seed(0))]
    triplets = [torch.linalg.svd(one, full_matrices=False) for one in matrices]
    left = torch.cat([u[:, :4] for u, _, _ in triplets], dim=1)
    right = torch.cat([v[:4] for _, _, v in triplets]).T
    values = torch.cat([s[:4] for _, s, _ in triplets])

    def whitened(columns):
        powers, vectors = torch.linalg.eigh(columns.T @ columns)
        return columns @ vectors @ torch.diag(powers**-0.5) @ vectors.T

    expected = whitened(left) @ torch.diag(values) @ whitened(right).T
    torch.testing.assert_close(tsv.merge(matrices), expected)


def test_tsv_removes_interference_of_shared_directions():
    """Where shards share a direction, a sum is longer than any of them; the TSV merge is not."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.outer(torch.randn(30, generator=generator), torch.randn(20, generator=generator))
    shards = [shared + 0.1 * torch.randn(30, 20, generator=generator) for _ in range(4)]
    length = max(torch.linalg.matrix_norm(one, 2) for one in shards)
    assert torch.linalg.matrix_norm(sum(shards), 2) > 3.5 * length
    assert torch.linalg.matrix_norm(tsv.merge(shards), 2) < 1.05 * length


# Properties


@EVERY
def test_merges_are_positively_homogeneous(kind, options):
    scaled = merged(random_vectors(factor=3.5), kind, **options)
    assert_same(scaled, merged(random_vectors(), kind, **options), 3.5, rtol=1e-4, atol=1e-5)


@EVERY
def test_merges_are_odd(kind, options):
    negated = merged(random_vectors(factor=-1.0), kind, **options)
    assert_same(negated, merged(random_vectors(), kind, **options), -1.0, rtol=1e-4, atol=1e-5)


@EVERY
def test_order_of_shards_does_not_matter(kind, options):
    vectors = random_vectors()
    weights = dict(zip(vectors, (1.0, 2.0, 0.5), strict=True))
    expected = merged(vectors, kind, weights=list(weights.values()), **options)
    for order in ((2, 0, 1), (1, 0, 2)):
        names = [list(vectors)[position] for position in order]
        found = merged({n: vectors[n] for n in names}, kind, weights=[weights[n] for n in names], **options)
        assert_same(found, expected, rtol=1e-4, atol=1e-5)


@EVERY
def test_one_whole_shard_is_itself(kind, options):
    vectors = random_vectors(count=1)
    whole = {**options, "density": 1.0} if "density" in options else options
    found = merged(vectors, kind, **whole)
    assert_same(found, dict(vectors["shard0"].tensors), rtol=1e-4, atol=1e-5)
    if kind != "tsv":
        assert all(torch.equal(found[name], vectors["shard0"][name]) for name in SHAPES)


@EVERY
def test_equal_weights_change_nothing_where_the_merge_is_a_mean(kind, options):
    found = merged(random_vectors(), kind, weights=[3.0, 3.0, 3.0], **options)
    factor = 3.0 if options.get("normalize") is False else 1.0
    assert_same(found, merged(random_vectors(), kind, **options), factor, rtol=1e-4, atol=1e-5)


@EVERY
def test_scale_is_a_factor(kind, options):
    assert_same(merged(random_vectors(), kind, scale=0.5, **options), merged(random_vectors(), kind, **options), 0.5)


@EVERY
def test_the_same_bits_whatever_the_blocks(kind, options, monkeypatch):
    vectors = random_vectors()
    expected, rows = merged(vectors, kind, **options), diagnosed(vectors, kind, **options)
    for size in (1, 5, 64):
        monkeypatch.setattr(shards, "BLOCK", size)
        found = merged(vectors, kind, **options)
        assert all(torch.equal(found[name], expected[name]) for name in SHAPES)
        assert diagnosed(vectors, kind, **options) == pytest.approx(rows, rel=1e-5, abs=1e-6)


@EVERY
def test_parameter_that_a_vector_does_not_change_counts_as_zero(kind, options):
    vectors = random_vectors()
    explicit = {**vectors, "shard1": InMemory({**vectors["shard1"].tensors, "b.weight": torch.zeros(7, 9)})}
    lacking = {name: tensor for name, tensor in vectors["shard1"].tensors.items() if name != "b.weight"}
    found = merged({**vectors, "shard1": InMemory(lacking)}, kind, **options)
    assert_same(found, merged(explicit, kind, **options), rtol=0, atol=0)


@EVERY
def test_diagnostics_of_every_merge_have_the_same_rows(kind, options):
    found = diagnosed(random_vectors(), kind, **options)
    assert found.keys() == diagnosed(random_vectors(), "ties").keys()
    whole = torch.cat([tensor.flatten() for tensor in merged(random_vectors(), kind, **options).values()])
    assert found["", "", "norm"] == pytest.approx(whole.norm().item(), rel=1e-5)
    assert all(0 < found[f"shard{i}", "", "kept_share"] <= 1 for i in range(3))
    assert 0 < found["", "", "sign_conflict"] < 1


@EVERY
def test_lora_vectors_merge_as_the_matrices_they_stand_for(kind, options, tmp_path):
    adapters, matrices = {}, {}
    for number in range(2):
        generator = torch.Generator().manual_seed(number)
        factors = {}
        for module, (rows, columns) in {"layers.0.q": (12, 10), "layers.1.q": (8, 14)}.items():
            prefix = f"base_model.model.{module}"
            factors[f"{prefix}.lora_A.weight"] = torch.randn(3, columns, generator=generator)
            factors[f"{prefix}.lora_B.weight"] = torch.randn(rows, 3, generator=generator)
        config = {"peft_type": "LORA", "lora_alpha": 6, "r": 3}
        provenance = {"base": "b" * 64, "base_source": "nowhere", "base_parameters": PARAMETERS}
        task_vector.write_lora(tmp_path / f"{number}.safetensors", factors, config, provenance)
        adapters[f"shard{number}"] = task_vector.read(tmp_path / f"{number}.safetensors")
        matrices[f"shard{number}"] = InMemory(dict(adapters[f"shard{number}"]))
    assert isinstance(adapters["shard0"], task_vector.LoraAdapter)
    assert_same(merged(adapters, kind, **options), merged(matrices, kind, **options), rtol=0, atol=0)


def test_wrong_number_of_weights_and_unknown_kind_are_refused():
    with pytest.raises(InputError, match="a merge has 2 weights for 3 shards; give one for each"):
        merged(random_vectors(), "linear", weights=[1.0, 2.0])
    with pytest.raises(InputError, match="there is no merge tied; known are dare_linear, dare_ties, linear, mergekit"):
        registry.of("tied")
    for kind in ("ties", "dare_linear", "dare_ties"):
        with pytest.raises(InputError, match=r"density is 1\.5: input should be less"):
            registry.options(kind, {"density": 1.5})


def test_the_docs_name_the_paper_of_every_merge():
    rows = [line for line in (PROJECT / "docs" / "merging.md").read_text().splitlines() if line.startswith("| `")]
    told = {row.split("`")[1]: row.rstrip(" |").rpartition(" ")[2] for row in rows}
    assert told == {kind: registry.of(kind).reference.rpartition("/")[2] for kind in registry.KINDS}


# DARE's random drop


def drawn(entries, density, seed=0, shard="Africa", parameter="w"):
    return sparsify.drop(entries, density, sparsify.draws(seed, shard, parameter))


def test_drop_keeps_its_share_and_rescales_it():
    entries = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    kept = drawn(entries, 0.3)
    chosen = kept != 0
    assert chosen.float().mean().item() == pytest.approx(0.3, abs=5 * math.sqrt(0.3 * 0.7 / 200_000))
    assert torch.equal(kept[chosen], entries[chosen] / 0.3)
    assert torch.equal(drawn(entries, 1.0), entries)


def test_drop_is_unbiased():
    entries = torch.tensor([1.0, -2.0, 0.5, 3.0])
    mean = torch.stack([drawn(entries, 0.25, seed) for seed in range(4000)]).mean(dim=0)
    error = (entries.abs() * math.sqrt(0.75 / 0.25 / 4000)).max().item()
    torch.testing.assert_close(mean, entries, rtol=0, atol=4.5 * error)


def test_draws_depend_on_seed_shard_and_parameter_alone():
    entries = torch.ones(1000)
    assert torch.equal(drawn(entries, 0.5), drawn(entries, 0.5))
    others = [{"seed": 1}, {"shard": "Asia"}, {"parameter": "v"}]
    for other in others:
        assert 400 < int((drawn(entries, 0.5) != drawn(entries, 0.5, **other)).sum()) < 600
    # The numbers themselves, so that a new version of anything can't change results unnoticed.
    expected = [0.308715283870697, 0.1083788275718689, 0.5007131695747375, 0.2907741069793701]
    assert sparsify.draws(7, "Asia", "w").random(4, dtype="float32").tolist() == expected


def test_blocks_leave_the_number_of_threads_as_it_was():
    before = torch.get_num_threads()
    merged(random_vectors(), "ties")
    vectors = one_parameter([0.0, 1.0])
    blocks = shards.Parameter(shards.Shards(vectors, driver.common_layout(vectors)), "w").blocks()
    next(blocks)
    assert torch.get_num_threads() == 1
    blocks.close()
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("normalize", [True, False])
def test_dare_merges_what_is_left_as_peft_does(normalize):
    vectors, weights = random_vectors(), torch.tensor([1.0, 2.0, 0.5])
    options = {"density": 0.5, "weights": weights.tolist()}
    for name, shape in SHAPES.items():
        left = [drawn(vector[name].flatten(), 0.5, 3, shard, name).view(shape) for shard, vector in vectors.items()]
        expected = peft.task_arithmetic(left, weights) / (weights.sum() if normalize else 1)
        found = merged(vectors, "dare_linear", seed=3, normalize=normalize, **options)[name]
        torch.testing.assert_close(found, expected)
        mask = peft.calculate_majority_sign_mask(torch.stack(left))
        expected = peft.disjoint_merge(torch.stack(left), mask)
        torch.testing.assert_close(merged(vectors, "dare_ties", seed=3, density=0.5)[name], expected)


# PEFT


@pytest.mark.parametrize("name", SHAPES)
def test_merges_equal_peft(name):
    vectors, weights = random_vectors(), torch.tensor([0.7, 1.0, 2.5])
    deltas, given = list(stacked(vectors, name)), {"weights": weights.tolist()}

    def found(kind, **options):
        return merged(vectors, kind, **options)[name]

    close = torch.testing.assert_close
    close(found("linear", normalize=False, **given), peft.task_arithmetic(deltas, weights))
    close(found("dare_linear", density=1.0, normalize=False, **given), peft.dare_linear(deltas, weights, 1.0))
    close(found("dare_ties", density=1.0), peft.dare_ties(deltas, torch.ones(3), 1.0))
    close(found("ties", density=0.4), peft.ties(deltas, torch.ones(3), 0.4))
    trimmed = [sparsify.trim(one, sparsify.kth_magnitude(one, int(0.4 * one.numel()))) for one in deltas]
    pruned = peft.magnitude_prune(deltas, weights, 0.4)
    close(consensus.linear(torch.stack(trimmed), weights.view(3, *[1] * deltas[0].dim()), normalize=False), pruned)


# mergekit: requirements-mergekit.txt


def mergekit_methods():
    reason = "mergekit is not installed: pip install --constraint requirements.lock -r requirements-mergekit.txt"
    return pytest.importorskip("mergekit.merge_methods.generalized_task_arithmetic", reason=reason)


CASES = [
    ("ties", {"density": 0.4}, "ties", {"density": 0.4}),
    ("ties", {"density": 0.4, "scale": 0.7}, "ties", {"density": 0.4, "lambda": 0.7}),
    ("ties", {"density": 1.0}, "ties", {"density": 1.0}),
    ("linear", {"normalize": False}, "task_arithmetic", {}),
    ("linear", {"normalize": True}, "task_arithmetic", {"normalize": True}),
    ("linear", {}, "linear", {}),
    ("dare_linear", {"density": 1.0, "normalize": False}, "dare_linear", {"density": 1.0}),
    ("dare_linear", {"density": 1.0}, "dare_linear", {"density": 1.0, "normalize": True}),
    ("dare_ties", {"density": 1.0}, "dare_ties", {"density": 1.0, "normalize": True}),
    *(
        ("mergekit", {"method": method, **given}, method, given)
        for method, given in (
            ("breadcrumbs", {"density": 0.4, "gamma": 0.05}),
            ("breadcrumbs_ties", {"density": 0.4, "gamma": 0.05}),
            ("della_linear", {"density": 1.0}),
            ("model_stock", {"filter_wise": True}),
            ("ramplus_tl", {"epsilon": 0.02, "alpha": 0.5}),
            ("sce", {"select_topk": 0.3}),
            ("ties", {"density": 0.4, "rescale": True}),
        )
    ),
]
UNWEIGHTED = ("model_stock", "ramplus_tl", "sce")


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_trim_equals_mergekit(count, density):
    mergekit_methods()
    from mergekit.sparsify import magnitude

    for one in torch.randn(count, 31, 17, generator=torch.Generator().manual_seed(count)):
        found = sparsify.trim(one, sparsify.kth_magnitude(one, int(density * one.numel())))
        assert torch.equal(found, magnitude(one, density))


@pytest.mark.parametrize("method", ["sum", "count"])
def test_sign_election_equals_mergekit(method):
    kept = torch.randn(4, 500, generator=torch.Generator().manual_seed(0))
    kept[kept.abs() < 0.7] = 0
    ours = consensus.elect_sign(kept, {"sum": "mass", "count": "count"}[method])
    assert torch.equal(kept * ours > 0, mergekit_methods().get_mask(kept, method))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A tiny base model and three checkpoints of it, every one of whose tensors differs from the base's."""
    mergekit_methods()
    from safetensors.torch import load_file, save_file

    from tests import tiny_model

    base = tmp_path_factory.mktemp("base")
    tiny_model.build(base, layers=2)
    # As `spunge.models.base_model.prepare` leaves it.
    tensors = load_file(base / "model.safetensors")
    manifest = {
        "source": "tiny",
        "identity": "b" * 64,
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "weights": {"model.safetensors": {"bytes": (base / "model.safetensors").stat().st_size}},
    }
    (base / "manifest.json").write_text(json.dumps(manifest))
    folders = []
    for number in range(3):
        folder = tmp_path_factory.mktemp(f"shard{number}")
        tiny_model.build(folder, layers=2)
        generator = torch.Generator().manual_seed(number)
        changed = {name: one + 0.1 * torch.randn(one.shape, generator=generator) for name, one in tensors.items()}
        save_file(changed, folder / "model.safetensors", {"format": "pt"})
        folders.append(folder)
    return base, folders


@pytest.mark.parametrize(
    ("kind", "options", "method", "parameters"), CASES, ids=[f"{case[0]}{i}" for i, case in enumerate(CASES)]
)
def test_whole_pipeline_equals_mergekit(checkpoints, tmp_path, kind, options, method, parameters):
    """mergekit merges whole checkpoints from a YAML file; we add the merged task vector to the base."""
    from mergekit.config import MergeConfiguration
    from mergekit.merge import MergeOptions, run_merge

    base, folders = checkpoints
    weights = [1.0, 2.0, 0.5]
    density = {key: value for key, value in parameters.items() if key == "density"}
    config = {
        "merge_method": method,
        "models": [
            {"model": str(folder), "parameters": {} if method in UNWEIGHTED else {"weight": weight, **density}}
            for folder, weight in zip(folders, weights, strict=True)
        ],
        "parameters": {key: value for key, value in parameters.items() if key != "density"},
        "dtype": "float32",
    }
    if method != "linear":
        config["base_model"] = str(base)
    parsed = MergeConfiguration.model_validate(yaml.safe_load(yaml.safe_dump(config)))
    run_merge(parsed, str(tmp_path / "out"), MergeOptions(cuda=False, copy_tokenizer=False, quiet=True))
    opened = task_vector.BaseModel.open(base)
    theirs = task_vector.CheckpointMinusBase(tmp_path / "out", opened)
    vectors = {folder.name: task_vector.CheckpointMinusBase(folder, opened) for folder in folders}
    ours = merged(vectors, kind, **({} if method in UNWEIGHTED else {"weights": weights}), **options)
    assert set(ours) == set(theirs.shapes)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6)


def test_tsv_keeps_a_direction_of_each_of_more_shards_than_there_are_rows():
    shards = [torch.zeros(2, 8), torch.zeros(2, 8), torch.zeros(2, 8)]
    shards[0][0, 0], shards[1][1, 1] = 5.0, -3.0
    torch.testing.assert_close(tsv.merge(shards), sum(shards))
