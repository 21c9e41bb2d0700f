"""Merges by mergekit: what it is told, what comes back, and what some of its methods should do, computed apart."""

import sys

import numpy as np
import pytest
import torch
from test_merges import SHAPES, InMemory, assert_same, merged, one_parameter, random_vectors, stacked

from spunge.core.errors import InputError
from spunge.merging.options import MERGEKIT_METHODS

mergekit = pytest.importorskip("mergekit.merge_methods", reason="requirements-mergekit.txt is not installed")
GIVEN = {"density": 0.5, "epsilon": 0.3, "gamma": 0.1, "select_topk": 0.4}
EVERY_METHOD = pytest.mark.parametrize("method", MERGEKIT_METHODS)


def by_mergekit(vectors, method, seed=0, **options):
    return merged(vectors, "mergekit", seed=seed, method=method, **options)


def given(method):
    chosen = {key: value for key, value in GIVEN.items() if key in MERGEKIT_METHODS[method]}
    return chosen | ({"epsilon": 0.02} if method.startswith("ram") else {})  # a magnitude there


def test_its_methods_and_their_parameters_are_those_that_mergekit_has():
    """Those for a base model and any number of others; what changes nothing is left out."""
    from mergekit.merge_methods.base import BasePolicy

    found = {}
    for method in mergekit.registered_methods():
        contract = method.spec.contract
        if contract.base == BasePolicy.REQUIRED and contract.max_inputs is contract.max_non_base is None:
            names = {parameter.name for parameter in method.spec.parameters} - {"int8_mask", "lambda"}
            found[method.spec.name] = {"weights" if name == "weight" else name for name in names}
    found["task_arithmetic"] -= {"density", "rescale"}
    assert found == {method: set(takes) for method, takes in MERGEKIT_METHODS.items()}


@EVERY_METHOD
def test_differences_alone_give_what_whole_models_give(method):
    """With a base on a coarse grid and differences on a fine one all sums are exact, and the same draws are made."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randint(-9, 9, (12, 8), generator=generator) / 2**4
    deltas = [
        (torch.randperm(96, generator=generator) + 1).view(12, 8)
        * (torch.randint(2, (12, 8), generator=generator) * 2 - 1)
        / 2**10
        for _ in range(3)
    ]
    parameters = given(method) | ({"weight": [1.0, 2.0, 0.5]} if "weights" in MERGEKIT_METHODS[method] else {})
    results = []
    for origin in (torch.zeros(12, 8), base):
        torch.manual_seed(5)
        models = [origin, *(origin + delta for delta in deltas)]
        results.append(mergekit.merge_tensors(models, method, parameters=parameters, base_index=0) - origin)
    assert results[0].any()
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=2e-7)


@EVERY_METHOD
def test_every_method_gives_a_finite_vector_that_is_its_seeds_own(method):
    before = torch.get_rng_state()
    found, again, other = (by_mergekit(random_vectors(), method, seed, **given(method)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    for name in SHAPES:
        assert found[name].isfinite().all() and found[name].any() and found[name].dtype == torch.float32
        assert torch.equal(found[name], again[name])
        assert torch.equal(found[name], other[name]) != method.startswith(("dare", "della"))


@pytest.mark.parametrize(
    ("method", "options", "kind", "ours"),
    [
        ("ties", {"density": 0.4}, "ties", {"density": 0.4}),
        ("ties", {"density": 0.4, "scale": -0.5}, "ties", {"density": 0.4, "scale": -0.5}),
        ("task_arithmetic", {}, "linear", {"normalize": False}),
        ("task_arithmetic", {"normalize": True}, "linear", {}),
        ("dare_linear", {"density": 1.0, "normalize": True}, "dare_linear", {"density": 1.0}),
        ("della", {}, "ties", {"density": 1.0}),
    ],
)
def test_what_is_defined_as_here_equals_ours(method, options, kind, ours):
    vectors, weights = random_vectors(), [1.0, 2.0, 0.5]
    found = by_mergekit(vectors, method, weights=weights, **options)
    assert_same(found, merged(vectors, kind, weights=weights, **ours), rtol=1e-6, atol=1e-7)


def test_breadcrumbs_keeps_the_middle_of_each_tensor():
    """Davari and Belilovsky 2023: neither the largest nor the smallest, the rest summed."""
    vectors, density, gamma = random_vectors(), 0.5, 0.1
    found = by_mergekit(vectors, "breadcrumbs", density=density, gamma=gamma)
    for name, shape in SHAPES.items():
        number = int(np.prod(shape))
        kept, dropped = int(density * number), int(gamma * number)
        expected = np.zeros(number)
        for delta in stacked(vectors, name).numpy().reshape(3, number):
            order = np.argsort(-np.abs(delta))[dropped : dropped + kept]
            expected[order] += delta[order]
        np.testing.assert_allclose(found[name].flatten().numpy(), expected, rtol=1e-6, atol=1e-6)
        alone = by_mergekit({"one": vectors["shard0"]}, "breadcrumbs", density=density, gamma=gamma)[name]
        assert int(alone.count_nonzero()) == kept
        magnitudes = vectors["shard0"][name].abs().flatten().sort(descending=True).values
        assert alone.abs().max() == magnitudes[dropped]


def test_sce_selects_weighs_and_elects():
    """Wan et al. 2024: the entries that vary most, weights by mean squares, and what agrees with the sum's sign."""
    vectors, share = random_vectors(), 0.4
    vectors["shard1"] = InMemory({name: 2 * tensor for name, tensor in vectors["shard1"].tensors.items()})
    found = by_mergekit(vectors, "sce", select_topk=share)
    for name in SHAPES:
        deltas = stacked(vectors, name).double().numpy().reshape(3, -1)
        least = np.sort(deltas.var(axis=0))[-int(share * deltas.shape[1])]
        selected = deltas * (deltas.var(axis=0) >= least)
        weights = (selected**2).mean(axis=1) / (selected**2).mean(axis=1).sum()
        agrees = np.sign(selected) == np.where(selected.sum(axis=0) >= 0, 1, -1)
        shares = weights[:, None] * agrees
        expected = (selected * shares).sum(axis=0) / shares.sum(axis=0).clip(1e-6)
        np.testing.assert_allclose(found[name].flatten().numpy(), expected, rtol=1e-4, atol=1e-6)


def test_sce_weighs_small_edits_alike():
    """A threshold of mergekit's, which the docs tell of: the same vectors, made smaller, have no weights."""
    vectors = {"small": InMemory({"w": torch.tensor([1.0, 2.0])}), "large": InMemory({"w": torch.tensor([3.0, 6.0])})}
    assert by_mergekit(vectors, "sce")["w"].tolist() == pytest.approx([2.8, 5.6])  # 1 : 9
    small = {shard: InMemory({"w": vector["w"] / 10_000}) for shard, vector in vectors.items()}
    assert (10_000 * by_mergekit(small, "sce")["w"]).tolist() == pytest.approx([2.0, 4.0])


def test_della_keeps_large_entries_rather_than_small_ones():
    """Deep et al. 2024: probabilities rise with the rank in a row, from density − ε to density + ε."""
    rows = torch.arange(1.0, 12.0).mul(-1.5).repeat(4000, 1)
    vectors = {"one": InMemory({"w": rows})}
    found = by_mergekit(vectors, "della", density=0.5, epsilon=0.4, rescale=False)["w"]
    kept = found != 0
    assert torch.equal(found, rows * kept)
    expected = torch.linspace(0.1, 0.9, 11)
    torch.testing.assert_close(kept.float().mean(dim=0), expected, rtol=0, atol=5 * (0.25 / len(rows)) ** 0.5)
    rescaled = by_mergekit(vectors, "della", density=0.5, epsilon=0.4)["w"]
    assert rescaled.abs().sum().item() == pytest.approx(rows.abs().sum().item(), rel=1e-5)


def test_model_stock_shrinks_the_mean_by_the_angle():
    """Jang et al. 2024: t = N cos θ / (1 + (N − 1) cos θ) of the mean; two vectors at 60° give 2/3 of it."""
    angle = np.pi / 3
    vectors = one_parameter([1.0, 0.0], [float(np.cos(angle)), float(np.sin(angle))])
    mean = (torch.tensor([1.0, 0.0]) + torch.tensor([0.5, 3**0.5 / 2])) / 2
    torch.testing.assert_close(by_mergekit(vectors, "model_stock")["w"], 2 / 3 * mean)


def test_what_mergekit_refuses_is_told_in_one_sentence():
    told = "mergekit's della can't merge a.weight: Epsilon must be chosen such that density"
    with pytest.raises(InputError, match=told):
        by_mergekit(random_vectors(), "della", density=0.9, epsilon=0.2)
    with pytest.raises(InputError, match=r"mergekit's model_stock can't merge a\.weight: .*at least 3"):
        by_mergekit(random_vectors(count=1), "model_stock")
    with pytest.raises(InputError, match=r"mergekit's sce can't merge a\.weight: Unknown parameter.* density"):
        by_mergekit(random_vectors(), "sce", density=0.5)
    with pytest.raises(InputError, match="Mergekit's method is 'karcher'"):
        by_mergekit(random_vectors(), "karcher")


def test_without_mergekit_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mergekit.merge_methods", None)
    with pytest.raises(
        InputError, match=r"needs mergekit 0\.1\.5 .*: pip install .*requirements-mergekit\.txt"
    ) as told:
        by_mergekit(random_vectors(), "ties")
    assert "\n" not in str(told.value)
