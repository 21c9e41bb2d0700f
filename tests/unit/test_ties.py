"""TIES: a 2 × 3 example worked out by hand, PEFT's functions as a peer, and properties."""

import math

import pytest
import torch
from peft.utils import merge_utils as peft

from spunge.merging import consensus, sparsify

# Two shards, three parameters. Magnitudes sorted: first 4 > 2 > 1, second 5 > 3 > 1.
FIRST, SECOND = torch.tensor([4.0, -2.0, 1.0]), torch.tensor([-1.0, -3.0, 5.0])
DENSITIES = [0.01, 0.2, 0.37, 0.5, 0.9]


def merge(kept, scale=1.0, sign="mass"):
    return scale * consensus.ties(kept, sign=sign)


def random_shards(shape, seed, count=3):
    return list(torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed)))


def trimmed(shards, density):
    limits = [sparsify.kth_magnitude(one, int(density * one.numel())) for one in shards]
    return torch.stack([sparsify.trim(one, limit) for one, limit in zip(shards, limits, strict=True)])


def test_worked_example():
    # Trim to the two largest of each: [4, -2, 0] and [0, -3, 5].
    kept = trimmed([FIRST, SECOND], density=2 / 3)
    assert kept.tolist() == [[4, -2, 0], [0, -3, 5]]
    # Sums 4, -5, 5 elect +, -, +.
    assert consensus.elect_sign(kept).tolist() == [1, -1, 1]
    # Of the entries that agree, zeros left out: 4 / 1, (-2 - 3) / 2, 5 / 1.
    assert consensus.disjoint_mean(kept, torch.tensor([1.0, -1.0, 1.0])).tolist() == [4, -2.5, 5]
    assert merge(kept, scale=0.5).tolist() == [2, -1.25, 2.5]


def test_worked_example_without_trim():
    # Sums 3, -5, 6 elect +, -, +; the -1 of the first parameter disagrees and neither counts nor adds.
    assert merge(torch.stack([FIRST, SECOND]), scale=1.0).tolist() == [4, -2.5, 3]


def test_election_by_mass_and_by_count():
    kept = torch.tensor([[5.0, 1.0, 0.0], [-1.0, -1.0, 0.0], [-2.0, 0.0, 0.0]])
    assert consensus.elect_sign(kept, "mass").tolist() == [1, 1, 1]  # a sum of zero counts as +
    assert consensus.elect_sign(kept, "count").tolist() == [-1, 1, 1]
    assert merge(kept, 1.0, "mass").tolist() == [5, 1, 0]
    assert merge(kept, 1.0, "count").tolist() == [-1.5, 1, 0]


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (2, 3, 4), (64, 33), (1, 1), (1000,)])
def test_threshold_is_the_kth_largest_magnitude(shape):
    tensor = random_shards(shape, seed=len(shape), count=1)[0] * 1e-3
    descending = tensor.abs().flatten().sort(descending=True).values
    count = tensor.numel()
    for k in sorted({1, 2, count // 3, count // 2, count - 1} & set(range(1, count))):
        found = sparsify.kth_magnitude_of_all(lambda: [tensor], k)
        assert found == sparsify.kth_magnitude(tensor, k)
        assert found == descending[k - 1].item() == tensor.abs().flatten().topk(k).values[-1].item()
        assert (sparsify.trim(tensor, found) != 0).sum() == k


def test_threshold_over_several_tensors_is_that_of_all_entries_together():
    large, small = random_shards((17,), 1, count=1)[0] * 10, random_shards((3, 3, 3), 2, count=1)[0] * 1e-6
    tensors = [*random_shards((40, 30), 0), large, torch.zeros(5, 5), small]
    together = torch.cat([tensor.flatten() for tensor in tensors]).abs().sort(descending=True).values
    for k in (1, 17, 300, 1800, 3600, 3640):
        assert sparsify.kth_magnitude_of_all(lambda: iter(tensors), k) == together[k - 1].item()


def test_threshold_of_none_and_of_all():
    tensor = torch.tensor([3.0, -4.0, 0.5])
    assert sparsify.kth_magnitude_of_all(lambda: [tensor], 0) == sparsify.kth_magnitude(tensor, 0) == math.inf
    assert sparsify.trim(tensor, math.inf).tolist() == [0, 0, 0]
    for k in (3, 4, 10**12):  # a model-wide k may exceed the number of changed entries
        assert sparsify.kth_magnitude_of_all(lambda: [tensor], k) == sparsify.kth_magnitude(tensor, k) == 0
    assert sparsify.trim(tensor, 0.0).tolist() == [3, -4, 0.5]


def test_threshold_with_ties_and_zeros():
    tensor = torch.tensor([2.0, -2.0, 2.0, 1.0, -1.0, 0.0, -0.0, 0.0])
    assert [sparsify.kth_magnitude_of_all(lambda: [tensor], k) for k in range(1, 8)] == [2, 2, 2, 1, 1, 0, 0]
    assert [sparsify.kth_magnitude(tensor, k) for k in range(1, 8)] == [2, 2, 2, 1, 1, 0, 0]
    # Entries as large as the k-th are all kept: the choice among equals would depend on their order.
    assert sparsify.trim(tensor, 2.0).tolist() == [2, -2, 2, 0, 0, 0, 0, 0]


def test_threshold_is_exact_where_magnitudes_differ_in_the_last_bit():
    """All share their upper 16 bits, so only the second pass can tell them apart."""
    tensor = (torch.arange(1000, dtype=torch.int32) + torch.tensor(1.0).view(torch.int32)).view(torch.float32)
    shuffled = tensor[torch.randperm(1000, generator=torch.Generator().manual_seed(0))]
    for k in (1, 2, 500, 999):
        assert sparsify.kth_magnitude(shuffled, k) == tensor[1000 - k].item()
        assert sparsify.kth_magnitude_of_all(lambda: [shuffled], k) == tensor[1000 - k].item()


def test_threshold_over_all_magnitudes_that_fp32_has():
    """From subnormal numbers to the largest finite one, both signs."""
    bits = torch.randint(0, 0x7F7FFFFF, (5000,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    tensor = bits.view(torch.float32) * torch.where(torch.arange(5000) % 2 == 0, 1.0, -1.0)
    descending = tensor.abs().sort(descending=True).values
    for k in (1, 10, 2500, 4999):
        assert sparsify.kth_magnitude_of_all(lambda: [tensor], k) == descending[k - 1].item()
        assert sparsify.kth_magnitude(tensor, k) == descending[k - 1].item()


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("shape", [(50,), (16, 24), (5, 6, 7)])
def test_trim_equals_peft(density, shape):
    shards = random_shards(shape, seed=1)
    expected = torch.stack([peft.prune(one, density, method="magnitude") for one in shards])
    assert torch.equal(trimmed(shards, density), expected)


@pytest.mark.parametrize(("ours", "theirs"), [("mass", "total"), ("count", "frequency")])
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_elect_and_merge_equal_peft(ours, theirs, density, count):
    kept = trimmed(random_shards((31, 17), seed=count, count=count), density)
    mask = peft.calculate_majority_sign_mask(kept, method=theirs)
    sign = consensus.elect_sign(kept, ours)
    assert torch.equal((kept * sign) > 0, mask)
    assert torch.equal(consensus.disjoint_mean(kept, sign), peft.disjoint_merge(kept, mask))


@pytest.mark.parametrize(("ours", "theirs"), [("mass", "total"), ("count", "frequency")])
@pytest.mark.parametrize("density", DENSITIES)
def test_whole_merge_equals_peft(ours, theirs, density):
    shards = random_shards((40, 25), seed=5)
    expected = peft.ties(shards, torch.ones(3), density, majority_sign_method=theirs)
    torch.testing.assert_close(merge(trimmed(shards, density), 1.0, ours), expected)


@pytest.mark.parametrize("sign", ["mass", "count"])
def test_order_of_shards_does_not_matter(sign):
    kept = trimmed(random_shards((64,), seed=2, count=4), 0.5)
    for order in ([3, 1, 0, 2], [1, 2, 3, 0]):
        torch.testing.assert_close(merge(kept[order], 1.0, sign), merge(kept, 1.0, sign))


@pytest.mark.parametrize("sign", ["mass", "count"])
def test_one_whole_shard_and_equal_shards_merge_to_themselves(sign):
    (shard,) = random_shards((12, 3), seed=3, count=1)
    assert torch.equal(merge(trimmed([shard], 1.0), 1.0, sign), shard)
    torch.testing.assert_close(merge(torch.stack([shard] * 3), 1.0, sign), shard)


@pytest.mark.parametrize("density", [0.3, 1.0])
def test_merge_is_odd_under_a_sign_flip(density):
    """Negate-then-merge is merge-then-negate, for sums that are not exactly zero."""
    shards = random_shards((200,), seed=4, count=3)
    merged = merge(trimmed(shards, density), 0.7)
    assert torch.equal(merge(trimmed([-one for one in shards], density), 0.7), -merged)


def test_zero_sum_elects_as_told():
    kept = torch.tensor([[2.0, 3.0, 0.0], [-2.0, 1.0, 0.0]])
    assert consensus.elect_sign(kept).tolist() == [1, 1, 1]
    assert consensus.elect_sign(kept, zero=-1.0).tolist() == [-1, 1, -1]
    assert consensus.ties(kept, zero=-1.0).tolist() == [-2, 2, 0]


def test_weights_come_before_the_election_and_divide_what_agrees():
    kept, weights = torch.tensor([[2.0, 4.0], [-1.0, 1.0]]), torch.tensor([[1.0], [3.0]])
    # Weighted sums 2 - 3 and 4 + 3 elect -, +; (3 · -1) / 3 and (1 · 4 + 3 · 1) / 4.
    assert consensus.ties(kept, weights).tolist() == [-1, 1.75]
    torch.testing.assert_close(consensus.ties(kept, torch.tensor([[7.0], [7.0]])), consensus.ties(kept))


def test_merge_is_even_where_the_sum_is_zero():
    """The exception: a tie elects + either way."""
    kept = torch.tensor([[2.0], [-2.0]])
    assert merge(kept, 1.0).tolist() == merge(-kept, 1.0).tolist() == [2]


def test_scale_is_linear_and_merged_entries_lie_between_those_that_agree():
    kept = trimmed(random_shards((500,), seed=6, count=4), 0.5)
    merged = merge(kept, 1.0)
    torch.testing.assert_close(merge(kept, 2.5), 2.5 * merged)
    assert ((merged == 0) == (kept == 0).all(dim=0)).all()
    assert (merged <= kept.max(dim=0).values.clamp(min=0) + 1e-6).all()
    assert (merged >= kept.min(dim=0).values.clamp(max=0) - 1e-6).all()
