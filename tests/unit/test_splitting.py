import numpy as np
import pandas as pd
import pytest

from spunge.core.errors import InputError
from spunge.datasets.sharding import shard
from spunge.experiment.splits import groups, parts


def table(sizes, per_subject=None):
    """Texts t0, t1, …; with `per_subject`, that many texts in a row share a subject."""
    attributes = [attribute for attribute, size in sizes.items() for _ in range(size)]
    frame = pd.DataFrame({"text": [f"t{row}" for row in range(len(attributes))], "attribute": attributes})
    if per_subject:
        frame["subject"] = [f"s{row // per_subject}" for row in range(len(frame))]
    return frame.sample(frac=1, random_state=0)


def shards(frame, attributes, split, seed=0):
    return [shard(frame, attributes, split, part, seed) for part in parts(attributes, split)]


@pytest.mark.parametrize("per_subject", [None, 7])
@pytest.mark.parametrize("split", ["joint", "attribute", "random"])
def test_parts_are_disjoint_complete_and_of_the_right_size(split, per_subject):
    frame = table({"a": 21, "b": 42, "other": 14, "c": 7}, per_subject)
    made = shards(frame, ["b", "c", "a"], split)
    texts = [text for one in made for text in one["text"]]
    assert len(texts) == len(set(texts))
    assert set(texts) == set(frame.loc[frame["attribute"] != "other", "text"])
    assert [len(one) for one in made] == ([70] if split == "joint" else [42, 7, 21])


def test_attribute_shards_hold_their_attribute_alone():
    made = shards(table({"a": 3, "b": 2}), ["a", "b"], "attribute")
    assert [set(one["attribute"]) for one in made] == [{"a"}, {"b"}]


def test_random_parts_mix_the_attributes_and_keep_subjects_whole():
    made = shards(table({"a": 70, "b": 70}, 7), ["a", "b"], "random")
    assert all(set(one["attribute"]) == {"a", "b"} for one in made)
    assert not set(made[0]["subject"]) & set(made[1]["subject"])


def test_random_split_follows_the_seed_and_nothing_else():
    frame = table({"a": 70, "b": 35}, 7)
    first = shard(frame, ["a", "b"], "random", "part1", 0)
    pd.testing.assert_frame_equal(first, shard(frame, ["a", "b"], "random", "part1", 0))
    assert set(first["subject"]) != set(shard(frame, ["a", "b"], "random", "part1", 1)["subject"])
    resorted = shard(frame.sort_values("text"), ["a", "b"], "random", "part1", 0)
    assert set(first["text"]) == set(resorted["text"])


def test_subjects_are_dealt_evenly_over_seeds():
    frame = table({"a": 10, "b": 10})
    share = np.mean(
        [(shard(frame, ["a", "b"], "random", "part1", seed)["attribute"] == "a").mean() for seed in range(200)]
    )
    assert share == pytest.approx(0.5, abs=0.03)


def test_uneven_subjects_come_as_close_as_whole_subjects_can():
    frame = table({"a": 50, "b": 50})
    rows = frame["text"].str[1:].astype(int)
    frame["subject"] = (rows // 10 + rows % 2 * 100).where(rows < 60, rows).astype(str)  # of 5 texts, and of 1
    for seed in range(20):
        made = shards(frame, ["a", "b"], "random", seed)
        assert sum(map(len, made)) == 100
        assert abs(len(made[0]) - 50) <= 2
        assert not set(made[0]["subject"]) & set(made[1]["subject"])


def test_every_random_part_has_a_subject_however_large_one_is():
    """One of 5 texts and one of 100: whatever their order, each part has one of them."""
    frame = table({"a": 5, "b": 100}).assign(subject=lambda texts: texts["attribute"])
    for seed in range(8):
        assert sorted(map(len, shards(frame, ["a", "b"], "random", seed))) == [5, 100]
    with pytest.raises(InputError, match=r"whole subjects .*, of which there are 1 for 2 shards: give more"):
        shard(frame.assign(subject="one"), ["a", "b"], "random", "part1", 0)


def test_copies_of_a_text_stay_together():
    frame = table({"a": 40, "b": 40})
    frame.loc[frame.index % 4 == 0, "text"] = "the same"
    for seed in range(4):
        made = shards(frame, ["a", "b"], "random", seed)
        assert [set(one["text"]) & {"the same"} for one in made].count({"the same"}) == 1


def test_groups_are_neighbours_and_the_larger_ones_come_first():
    assert groups(list("abcde"), 2) == [["a", "b", "c"], ["d", "e"]]
    assert groups(list("abcdefg"), 3) == [["a", "b", "c"], ["d", "e"], ["f", "g"]]
    assert groups(list("abc"), 3) == [["a"], ["b"], ["c"]]
    assert parts(["c", "a", "b"], "attribute-2") == {"group1": ["c", "a"], "group2": ["b"]}
    assert parts(["c", "a", "b"], "random-2") == {"part1": ["c", "a"], "part2": ["b"]}


@pytest.mark.parametrize("per_subject", [None, 7])
def test_grouped_shards_are_disjoint_complete_and_of_the_same_sizes_in_both_splits(per_subject):
    frame = table({"a": 21, "b": 42, "other": 14, "c": 7}, per_subject)
    for split in ("attribute-2", "random-2"):
        made = shards(frame, ["b", "c", "a"], split)
        texts = [text for one in made for text in one["text"]]
        assert [len(one) for one in made] == [49, 21]
        assert sorted(texts) == sorted(frame.loc[frame["attribute"] != "other", "text"])
    assert [set(one["attribute"]) for one in shards(frame, ["b", "c", "a"], "attribute-2")] == [{"b", "c"}, {"a"}]


def test_unknown_split_and_part():
    frame = table({"a": 2})
    with pytest.raises(
        InputError, match="split 'halves' is unknown; the known ones are joint, balanced, sequential, attribute, random"
    ):
        shard(frame, ["a"], "halves", "all", 0)
    with pytest.raises(InputError, match="split random has no shard 'part2'; it has part1"):
        shard(frame, ["a"], "random", "part2", 0)
    with pytest.raises(InputError, match="split 'joint-2' is unknown"):
        shard(frame, ["a"], "joint-2", "all", 0)
    with pytest.raises(InputError, match="split random-2 has more parts than there are attributes, 1"):
        shard(frame, ["a"], "random-2", "part1", 0)
