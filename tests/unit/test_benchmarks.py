"""The benchmarks' own parts: the table, what replaces what, the plain RMU and the comparisons that must fail."""

import pandas as pd
import pytest
import torch

from benchmarks import measure, plain_rmu, results, rmu, run, ties
from spunge.core import safetensors_writer
from spunge.core.errors import InputError
from spunge.models import task_vector
from spunge.models.task_vector import TensorFolder

NAMES = [
    *("rmu_step", "rmu_step_cached", "rmu_memory"),
    *("ties_rmu_3", "ties_rmu_8", "ties_memory_3", "ties_full_3", "disk_rmu", "disk_lora"),
]
DOWN = ("model.layers.1.mlp.down_proj.weight", "model.layers.2.mlp.down_proj.weight")


def row(name="rmu_step", metric="time per step", ours=1.0, reference=6.5, machine="CPU, 2 cores", **others):
    return results.Row(name, metric, ours, reference, "s", machine, **others)


def test_every_name_has_a_target_and_can_be_chosen():
    assert set(NAMES) <= set(run.NAMES)
    assert {name for name, _ in results.TARGETS if not name.endswith("_gpu")} == set(run.NAMES)


def test_rows_are_replaced_by_name_metric_and_machine(tmp_path):
    path = tmp_path / "results.csv"
    gpu = row("rmu_step_7b_gpu", machine="NVIDIA H100", ours=0.05, reference=0.26)
    table = results.update(results.read(path), [row(), gpu, row(metric="another")], "abc")
    results.write(table, path)
    again = results.update(results.read(path), [row(ours=0.5, reference=5), row("disk_rmu", "disk", 2, 30)], "def")
    results.write(again, path)
    found = pd.read_csv(path)
    assert path.read_text().splitlines()[0] == "name,metric,ours,reference,ratio,unit,machine,commit"
    assert found["name"].tolist() == ["rmu_step", "rmu_step", "disk_rmu", "rmu_step_7b_gpu"]
    assert found["ratio"].tolist() == pytest.approx([10, 6.5, 15, 5.2])
    assert found["commit"].tolist() == ["def", "abc", "def", "abc"]
    assert found["machine"].tolist() == ["CPU, 2 cores", "CPU, 2 cores", "CPU, 2 cores", "NVIDIA H100"]


def test_ratio_says_how_many_times_better():
    assert row(ours=2, reference=10).ratio == 5
    assert row(ours=10, reference=2, more_is_better=True).ratio == 5


def test_report_shows_targets_and_misses():
    table = results.update(results.read(ties.Path("none")), [row(), row("rmu_step_cached"), row(metric="other")], "abc")
    lines = results.report(table).splitlines()
    cells = [[cell.strip() for cell in line.split("|")] for line in lines]
    assert cells[0][1:9] == ["name", "metric", "ours", "reference", "ratio", "target", "met", "unit"]
    assert [(line[6], line[7]) for line in cells[2:]] == [("6", "yes"), ("", ""), ("12", "no")]


def test_committed_results_have_the_columns_and_known_names():
    path = run.PROJECT / "benchmarks" / "results.csv"
    if path.exists():
        table = results.read(path)
        assert table.columns.tolist() == results.COLUMNS
        assert set(table["name"]) <= {name for name, _ in results.TARGETS}
        assert not table.duplicated(["name", "metric", "machine"]).any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_plain_rmu_and_ours_take_the_same_steps(tiny_base, tmp_path, dtype):
    options = rmu.chosen(4, 24, layer_id=2, trained_layers=[1, 2], learning_rate=1e-3, dtype=dtype)
    work = rmu.Work(tiny_base, options)
    with measure.steps("cpu") as seconds:
        ours = work.ours()
    assert len(seconds) == 3
    assert all(second > 0 for second in seconds)
    agree = {"float32": rmu.AGREE, "bfloat16": rmu.AGREE_BF16}[dtype]
    reference = work.reference()
    measure.check_losses("tiny", ours, reference, agree)
    states = tmp_path / "states.safetensors"
    rmu.rmu.cache_activations(work.run, options, states)
    measure.check_losses("tiny", work.ours(states), reference, agree)
    assert len({round(forget, 6) for forget, _ in reference}) == 4
    assert reference[0][1] == 0 < reference[-1][1]


def test_plain_rmu_first_loss_by_hand(tiny_base, model, tokenizer):
    options = rmu.chosen(1, 24, layer_id=2, trained_layers=[1, 2])
    texts = rmu.texts(4, 24, 0)
    losses, weights = plain_rmu.unlearn(tiny_base, [(texts, texts)], options, 3)
    u = torch.rand(32, generator=torch.Generator().manual_seed(3))
    tokens = torch.tensor([tokenizer(text)["input_ids"][:24] for text in texts])
    with torch.no_grad():
        states = model(tokens, output_hidden_states=True).hidden_states[3]
    assert losses[0][0] == pytest.approx((states - 20 * u / u.norm()).square().mean().item(), rel=1e-5)
    assert list(weights) == list(DOWN)
    assert all(not torch.equal(weight, model.get_parameter(name)) for name, weight in weights.items())


def test_texts_are_all_cut_to_one_length(tokenizer):
    found = tokenizer(rmu.texts(8, 128, 0), truncation=True, max_length=128)["input_ids"]
    assert {len(tokens) for tokens in found} == {128}
    assert rmu.texts(2, 5, 0) == rmu.texts(2, 5, 0) != rmu.texts(2, 5, 1)


@pytest.mark.parametrize(
    ("ours", "message"),
    [
        ([(2.0, 0.0)], "1 steps against 2"),
        ([(2.0, 0.0), (1.9, 0.2)], "forget loss of step 2 is 1.9, the reference's 1.8"),
        ([(2.0, 0.0), (1.8, 0.3)], "retain loss of step 2 is 0.3, the reference's 0.2"),
        ([(2.0, float("nan")), (1.8, 0.2)], "retain loss of step 1 is nan"),
    ],
)
def test_other_losses_fail(ours, message):
    with pytest.raises(InputError, match=message):
        measure.check_losses("pair", ours, [(2.0, 0.0), (1.8, 0.2)], 1e-4)


def test_losses_within_rounding_pass():
    measure.check_losses("pair", [(2.0001, 1e-9), (1.8, 0.2)], [(2.0, 0.0), (1.8, 0.20001)], 1e-4)


def test_merged_weights_are_compared(tiny_base, tmp_path):
    with ties.shards(tiny_base, 3, DOWN) as (made, folder):
        ours = folder / "ours.safetensors"
        made.ours(ours)
        merged, before = task_vector.read(ours), TensorFolder(tiny_base.folder)
        assert sorted(merged) == sorted(DOWN)
        for vector, checkpoint in zip(made.vectors, made.checkpoints, strict=True):
            after = TensorFolder(checkpoint)
            assert sorted(after) == sorted(before)
            for name, delta in task_vector.read(vector).items():
                assert torch.equal(delta, after[name] - before[name])
        whole = {name: tensor + merged[name] if name in merged else tensor for name, tensor in before.items()}

        def written(folder, tensors):
            folder.mkdir()
            layout = {name: (tensor.shape, torch.float32) for name, tensor in tensors.items()}
            safetensors_writer.write(folder / "model.safetensors", layout, tensors.items())
            return folder

        ties.compare("pair", tiny_base, ours, written(tmp_path / "same", whole))
        other = whole["model.norm.weight"].clone()
        other[:2] += 1e-3
        off = written(tmp_path / "other", {**whole, "model.norm.weight": other})
        with pytest.raises(InputError, match=r"2 of 32 entries of model.norm.weight differ"):
            ties.compare("pair", tiny_base, ours, off)


def test_ours_merges_what_mergekit_merges(tiny_base):
    pytest.importorskip("mergekit")
    with ties.shards(tiny_base, 3, None) as (made, folder):
        made.ours(folder / "ours.safetensors")
        made.mergekit(folder / "mergekit")
        ties.compare("pair", tiny_base, folder / "ours.safetensors", folder / "mergekit")


def test_peak_memory_sees_what_was_freed_again():
    memory = measure.PeakMemory()
    memory.start()
    torch.ones(25_000_000)
    assert 95 < memory.peak() < 130
