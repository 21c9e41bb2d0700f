"""Which texts each step sees: passes, turns, balance and blocks, counted by hand."""

from collections import Counter

import pytest

from spunge.experiment import splits
from spunge.methods import Run
from spunge.training import schedule
from spunge.training.schedule import Stage


def run_of(attributes, split="joint", seed=0, **others):
    """A run on a text for each of these attributes, which are in alphabetical order in the experiment."""
    return Run(
        None,
        [f"text {row}" for row in range(len(attributes))],
        [],
        seed,
        "cpu",
        "run",
        list(attributes),
        split=split,
        **others,
    )


def attributes_of(run, batches):
    return [Counter(run.attributes[row] for row in batch) for batch in batches]


def passes_over(rows, seen):
    """Whether rows are seen in whole passes, the last perhaps cut off."""
    starts = range(0, len(seen), len(rows))
    return all(
        sorted(seen[start : start + len(rows)]) == sorted(rows) for start in starts if start + len(rows) <= len(seen)
    )


def test_rows_are_passed_over_again_and_again():
    batches = schedule.batches_of_rows(10, 4, 20, 0)
    assert [len(batch) for batch in batches] == [4] * 20
    order = [row for batch in batches for row in batch]
    passes = [order[start : start + 10] for start in range(0, 80, 10)]
    assert all(sorted(one) == list(range(10)) for one in passes)
    assert len({tuple(one) for one in passes}) == 8
    assert schedule.batches_of_rows(10, 4, 20, 0) == batches
    assert schedule.batches_of_rows(10, 4, 20, 1) != batches
    assert schedule.batches_of_rows(2, 5, 3, 0)[0].count(0) in (2, 3)  # more rows a batch than there are texts


@pytest.mark.parametrize(("attributes", "steps"), [("caacaaf", 10), ("bbbbbbb", 4), ("abcd", 3)])
def test_attributes_take_turns_each_in_passes_over_its_own_texts(attributes, steps):
    run, order = run_of(attributes), sorted(set(attributes))
    batches = schedule.forget_batches(run, 2, steps, take_turns=True)
    assert attributes_of(run, batches) == [{order[step % len(order)]: 2} for step in range(steps)]
    for turn, attribute in enumerate(order):
        seen = [row for batch in batches[turn :: len(order)] for row in batch]
        assert passes_over([row for row, one in enumerate(attributes) if one == attribute], seen)
    assert schedule.forget_batches(run, 2, steps) == schedule.batches_of_rows(len(attributes), 2, steps, 0)


@pytest.mark.parametrize(
    ("attributes", "batch_size", "expected"),
    [
        ("aaaaaaab", 8, [{"a": 4, "b": 4}] * 3),
        ("abc", 4, [{"a": 2, "b": 1, "c": 1}, {"a": 1, "b": 2, "c": 1}, {"a": 1, "b": 1, "c": 2}]),
        ("abc", 2, [{"a": 1, "b": 1}, {"c": 1, "a": 1}, {"b": 1, "c": 1}]),
    ],
    ids=["evenly", "the remainder goes round", "more attributes than texts take turns"],
)
def test_balanced_batches_have_as_many_texts_of_each_attribute(attributes, batch_size, expected):
    run = run_of(attributes, "balanced")
    batches = schedule.forget_batches(run, batch_size, 3)
    assert attributes_of(run, batches) == expected
    for attribute in set(attributes):
        rows = [row for row, one in enumerate(attributes) if one == attribute]
        assert passes_over(rows, [row for batch in batches for row in batch if row in rows])


def test_sequential_blocks_are_the_batches_of_the_shards_own_runs():
    attributes = "cababbaac"
    found = schedule.forget_batches(run_of(attributes, "sequential", seed=3), 2, 15)
    for place, attribute in enumerate("abc"):
        rows = [row for row, one in enumerate(attributes) if one == attribute]
        own = schedule.forget_batches(run_of(attribute * len(rows), "attribute", seed=3), 2, 5)
        assert found[5 * place : 5 * place + 5] == [[rows[row] for row in batch] for batch in own]


def test_each_shard_of_a_sequential_run_begins_with_a_new_optimizer():
    attributes = "aaabbc"
    assert schedule.stages(run_of(attributes), 12, 6) == [Stage(1, 12, 6)]
    assert schedule.stages(run_of(attributes, "sequential"), 12, 6) == [Stage(1, 4, 2), Stage(5, 4, 2), Stage(9, 4, 2)]
    by_texts = run_of(attributes, "sequential", steps_of_shards="proportional")
    assert schedule.stages(by_texts, 12, 6) == [Stage(1, 6, 3), Stage(7, 4, 2), Stage(11, 2, 1)]
    assert (
        attributes_of(by_texts, schedule.forget_batches(by_texts, 1, 12))
        == [{"a": 1}] * 6 + [{"b": 1}] * 4 + [{"c": 1}] * 2
    )


def test_all_runs_of_a_seed_see_the_same_retain_texts():
    joint = schedule.retain_batches(10, 4, 12, seed=5)
    assert schedule.retain_batches(10, 4, 6, seed=5) == joint[:6], "a shard's run has the first of them"
    assert schedule.retain_batches(10, 4, 6, seed=6) != joint[:6]
    assert schedule.batches_of_rows(10, 4, 12, seed=5) != joint, "forget texts are drawn by other numbers"


@pytest.mark.parametrize(
    ("total", "sizes", "expected"),
    [
        (12, [3, 2, 1], [6, 4, 2]),
        (10, [1, 1, 1], [4, 3, 3]),
        (10, [98, 1, 1], [8, 1, 1]),
        (7, [3, 3, 1], [3, 3, 1]),
        (0, [5, 1], [0, 0]),
        (1, [1, 5], [0, 1]),
    ],
)
def test_steps_are_divided_by_the_largest_remainders(total, sizes, expected):
    assert splits.in_proportion(total, sizes) == expected


def test_visits_are_counted_by_attribute():
    run = run_of("aab")
    assert schedule.visits(run, [[0, 2], [1, 0]]) == {"a": 3, "b": 1}
    assert schedule.visits(run_of(""), []) == {}


def test_proportional_steps_are_those_of_the_attribute_in_whatever_order_texts_come():
    run = run_of("cbbaaa", "sequential", steps_of_shards="proportional")
    assert [stage.steps for stage in schedule.stages(run, 12)] == [6, 4, 2]
    assert attributes_of(run, schedule.forget_batches(run, 1, 12)) == [{"a": 1}] * 6 + [{"b": 1}] * 4 + [{"c": 1}] * 2
