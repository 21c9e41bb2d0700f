"""The streamed merge against stacking whole task vectors, and its diagnostics by hand."""

import math

import pytest
import torch

from spunge.core.errors import InputError
from spunge.merging import driver, registry
from spunge.models import task_vector

PARAMETERS = 4000  # of the pretended base model, of which the vectors change 1,000 at most
SHAPES = {"b.weight": (20, 30), "a.weight": (10, 35), "c.bias": (50,)}


def random_tensors(seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


@pytest.fixture
def vector(tmp_path):
    """Return a function that writes tensors as a task vector and opens it."""

    def write(tensors, base="b" * 64, parameters=PARAMETERS):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
        provenance = {"base": base, "base_source": "nowhere", "base_parameters": parameters}
        task_vector.write(path, {name: one.shape for name, one in tensors.items()}, tensors.items(), provenance)
        return task_vector.ChangedTensors(path)

    return write


def merged(vectors, kind="ties", seed=0, **options):
    diagnostics = driver.Diagnostics(list(vectors))
    return dict(driver.merge(vectors, kind, registry.options(kind, options), diagnostics, seed))


def diagnosed(vectors, kind="ties", **options):
    diagnostics = driver.Diagnostics(list(vectors))
    list(driver.merge(vectors, kind, registry.options(kind, options), diagnostics))
    rows = diagnostics.rows()
    assert all(set(row) == {"shard", "attribute", "metric", "value"} for row in rows)
    found = {(row["shard"], row["attribute"], row["metric"]): row["value"] for row in rows}
    assert len(found) == len(rows)
    return found


def top(flat, k):
    """Keep the k largest magnitudes of a flat tensor."""
    kept = torch.zeros_like(flat)
    chosen = flat.abs().topk(k).indices
    kept[chosen] = flat[chosen]
    return kept


def merge_at_once(trimmed, scale, by_count=False):
    """TIES written as loops over parameters, in double precision, from trimmed vectors of shape (shards, entries)."""
    result = []
    for entries in trimmed.double().T.tolist():
        total = sum(math.copysign(1, one) * bool(one) if by_count else one for one in entries)
        agreeing = [one for one in entries if (one > 0) == (total >= 0) and one != 0]
        result.append(scale * sum(agreeing) / len(agreeing) if agreeing else 0.0)
    return torch.tensor(result)


@pytest.mark.parametrize("sign", ["mass", "count"])
@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_streamed_merge_equals_stacking_each_tensor(vector, density, sign):
    tensors = [random_tensors(seed) for seed in range(3)]
    found = merged({f"s{i}": vector(one) for i, one in enumerate(tensors)}, density=density, sign=sign, scale=0.8)
    assert list(found) == sorted(SHAPES)
    for name, shape in SHAPES.items():
        k = int(density * math.prod(shape))
        trimmed = torch.stack([top(one[name].flatten(), k) for one in tensors])
        expected = merge_at_once(trimmed, 0.8, sign == "count").view(shape)
        torch.testing.assert_close(found[name], expected.float())


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_trim_over_the_model_equals_a_global_top_k_of_all_parameters(vector, share):
    """The share is of all the model's parameters, of which most are unchanged and so never among the largest."""
    tensors = [random_tensors(0), random_tensors(1, scale=3.0)]
    tensors[1]["a.weight"] *= 100  # takes nearly all places of its vector
    found = merged({"x": vector(tensors[0]), "y": vector(tensors[1])}, density=share, trim="model")
    whole = []
    for one in tensors:
        flat = torch.zeros(PARAMETERS)
        flat[:1000] = torch.cat([one[name].flatten() for name in sorted(SHAPES)])
        whole.append(top(flat, int(share * PARAMETERS))[:1000])
    expected = merge_at_once(torch.stack(whole), 1.0)
    torch.testing.assert_close(torch.cat([tensor.flatten() for tensor in found.values()]), expected.float())


def test_trim_over_the_model_drops_nothing_where_little_was_changed(vector):
    """1,000 of 4,000 parameters changed: a share of 0.25 keeps them all, while the trim of each tensor drops 75 %."""
    vectors = {"x": vector(random_tensors(0)), "y": vector(random_tensors(1))}
    assert diagnosed(vectors, density=0.25, trim="model")["x", "", "kept_share"] == 1
    assert diagnosed(vectors, density=0.25, trim="tensor")["x", "", "kept_share"] == pytest.approx(0.25, abs=0.002)
    torch.testing.assert_close(merged(vectors, density=0.25, trim="model"), merged(vectors, density=1.0))


@pytest.mark.parametrize("trim", ["tensor", "model"])
def test_parameter_that_a_vector_does_not_change_counts_as_zero(vector, trim):
    first, second = {"a": torch.tensor([1.0, -2.0]), "b": torch.tensor([3.0])}, {"a": torch.tensor([3.0, 5.0])}
    options = {"density": 1.0, "trim": trim}
    found = merged({"x": vector(first), "y": vector(second)}, **options)
    assert {name: tensor.tolist() for name, tensor in found.items()} == {"a": [2, 5], "b": [3]}
    explicit = {**second, "b": torch.zeros(1)}
    assert diagnosed({"x": vector(first), "y": vector(second)}, **options) == diagnosed(
        {"x": vector(first), "y": vector(explicit)}, **options
    )


def test_order_of_shards_does_not_matter(vector):
    vectors = [vector(random_tensors(seed)) for seed in range(3)]
    forward, backward = dict(zip("xyz", vectors, strict=True)), dict(zip("zyx", reversed(vectors), strict=True))
    torch.testing.assert_close(merged(forward, density=0.4), merged(backward, density=0.4))


def test_one_shard_without_trim_is_itself(vector):
    tensors = random_tensors(0)
    found = merged({"x": vector(tensors)}, density=1.0)
    assert all(torch.equal(found[name], tensors[name]) for name in SHAPES)


def test_diagnostics_by_hand(vector):
    # Trimmed to two of four each: x = [4, 3, 0, 0], y = [5, -3, 0, 0], z = [0, 0, 2, 2].
    # Merged: sums 9, 0 (counts as +), 2, 2 give 4.5, 3, 2, 2.
    vectors = {
        "x": vector({"w": torch.tensor([4.0, 3.0, 0.0, 1.0])}),
        "y": vector({"w": torch.tensor([5.0, -3.0, 2.0, 1.0])}),
        "z": vector({"w": torch.tensor([0.0, 0.0, 2.0, 2.0])}),
    }
    found = diagnosed(vectors, density=0.5)
    expected = {
        ("x", "", "kept_share"): 2 / 3,  # of the three entries it changed
        ("y", "", "kept_share"): 2 / 4,
        ("z", "", "kept_share"): 2 / 2,
        ("x", "", "norm"): 26**0.5,
        ("y", "", "norm"): 39**0.5,
        ("z", "", "norm"): 8**0.5,
        ("x", "y", "cosine"): (20 - 9 + 1) / (26 * 39) ** 0.5,
        ("x", "z", "cosine"): 2 / (26 * 8) ** 0.5,
        ("y", "z", "cosine"): (4 + 2) / (39 * 8) ** 0.5,
        ("", "", "sign_conflict"): 1 / 2,  # two entries are kept by two shards, in one of them the signs differ
        ("", "", "norm"): (4.5**2 + 9 + 4 + 4) ** 0.5,
    }
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-6), key


def test_diagnostics_sum_over_parameters_and_scale_the_merged_norm_alone(vector):
    left, right = random_tensors(0), random_tensors(1)
    vectors = {"x": vector(left), "y": vector(right)}
    found = diagnosed(vectors, density=0.3, scale=2.0)
    x, y = (torch.cat([one[name].flatten() for name in sorted(SHAPES)]).double() for one in (left, right))
    assert found["x", "y", "cosine"] == pytest.approx(torch.cosine_similarity(x, y, dim=0).item(), rel=1e-5)
    assert found["x", "", "norm"] == pytest.approx(x.norm().item(), rel=1e-6)
    whole = torch.cat([tensor.flatten() for tensor in merged(vectors, density=0.3, scale=2.0).values()])
    assert found["", "", "norm"] == pytest.approx(whole.double().norm().item(), rel=1e-6)
    assert found["", "", "norm"] == pytest.approx(2 * diagnosed(vectors, density=0.3)["", "", "norm"], rel=1e-6)
    kept = [
        torch.cat([top(one[name].flatten(), int(0.3 * one[name].numel())) for name in SHAPES]) for one in (left, right)
    ]
    both = (kept[0] != 0) & (kept[1] != 0)
    assert found["", "", "sign_conflict"] == pytest.approx((kept[0] * kept[1] < 0).sum().item() / both.sum().item())


def test_diagnostics_of_vectors_that_changed_nothing(vector):
    nothing = {"w": torch.zeros(3)}
    found = diagnosed({"x": vector(nothing), "y": vector(nothing)}, density=1.0)
    assert set(found.values()) == {0}


def test_vectors_of_different_bases_are_refused(vector):
    vectors = {"Africa": vector(random_tensors(0), base="1" * 64), "Asia": vector(random_tensors(1), base="2" * 64)}
    with pytest.raises(InputError) as refused:
        driver.common_layout(vectors)
    assert str(refused.value) == (
        "the task vectors Africa and Asia have different base models (111111111111 and 222222222222): "
        "unlearn both from one base model"
    )
    with pytest.raises(InputError, match="different base models"):
        merged(vectors)


def test_different_shapes_are_refused(vector):
    vectors = {"x": vector({"w": torch.zeros(2, 3)}), "y": vector({"w": torch.zeros(3, 2)})}
    with pytest.raises(InputError, match=r"w is \(3, 2\) in y, elsewhere \(2, 3\)"):
        merged(vectors)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"density": 0.0}, "Ties's density is 0.0: input should be greater than 0"),
        ({"density": 1.5}, "density is 1.5"),
        ({"trim": "layer"}, "Ties's trim is 'layer': input should be 'tensor' or 'model'"),
        ({"sign": "vote"}, "Ties's sign is 'vote': input should be 'mass' or 'count'"),
        ({"zero_sum": "negative"}, "Ties's zero_sum is 'negative': input should be 'positive' or 'majority'"),
        ({"weights": [1.0, 0.0]}, "Ties's weights is 0.0: input should be greater than 0"),
        ({"normalize": True}, "ties has no option normalize; it has density, scale, sign, trim, weights, zero_sum"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        registry.options("ties", options)
