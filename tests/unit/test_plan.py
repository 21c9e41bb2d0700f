"""What `snakemake plan` reckons, against numbers worked out by hand."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spunge.experiment.configuration import option_defaults
from spunge.methods import rmu
from spunge.planning import cost_model, estimate, known

PROJECT = Path(__file__).parents[2]
ZEPHYR = "HuggingFaceH4/zephyr-7b-beta"


def defaults(method):
    return option_defaults("methods", method)


def method(kind, **options):
    own = {"kind": kind, "cache_activations": False, "gpus": 1, "sharded": False, "norms_of": None}
    return own | {"options": defaults(kind) | options}


def job(rule, jobs, **more):
    return {"rule": rule, "label": rule, "jobs": jobs, "benchmarks": [f"{rule}/**/*.tsv"], "gpu": 0} | more


def description(*jobs, dtype="bfloat16", **methods):
    return {
        "experiment": "example",
        "results": "results/example",
        "seeds": ["0"],
        "attributes": ["bio", "cyber"],
        "model": {"source": ZEPHYR, "revision": None, "dtype": dtype, "folder": "zephyr"},
        "data": {"options": {}},
        "methods": methods,
        "jobs": list(jobs),
    }


def row(described, number=0, **facts):
    return estimate.Estimate(described, estimate.Facts(**({"shape": cost_model.MISTRAL_7B} | facts))).rows()[number]


def test_rmu_on_zephyr_with_its_authors_settings():
    """150 steps of 4 texts to forget (up to 768 tokens) and 4 to retain (512); layers 0 to 7, of which 5 to 7 train."""
    described = description(job("unlearn", 3, gpu=1, method="rmu", steps=150), rmu=method("rmu", steps=75))
    found = row(described)
    linear = 2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336
    layer, trained = linear + 2 * 4096, 3 * 4096 * 14336
    below = 32000 * 4096 + 8 * layer - trained
    activations = 4 * (768 + 512) * 3 * (2 * (4 * 4096 + 2 * 1024 + 4 * 14336) + 16 * 4096)
    assert found.memory == estimate.Amount(2 * below + (4 + 4 + 4 + 8 + 2) * trained + activations)
    assert found.memory.value == 10_609_623_040

    tokens, length = 4 * 640, 768  # on average over both batches; texts counted as long as the longer ones
    attention = 2 * tokens * length * 4096
    forward = 2 * tokens * linear + attention
    weights = 3 * 2 * tokens * 4096 * 14336
    inputs = 2 * (2 * tokens * linear + 2 * attention)
    operations = 150 * ((2 * 5 + 3 * 3) * forward + 2 * (weights + inputs))
    begin = 10 + 2 * (32000 * 4096 + 8 * layer) / 1e9
    assert found.seconds.value == pytest.approx(3 * (begin + operations / (0.4 * 989e12)))
    assert found.seconds.complete and found.basis == "estimated"
    assert found.disk == estimate.Amount(3 * 4 * trained)
    assert found.work == "150 steps of 4 + 4 texts"


def test_presets_change_nothing_that_is_reckoned_with():
    reckoned = {"steps", "layer_id", "trained_layers", "trained_parameters", "batch_size"}
    reckoned |= {"max_tokens_forget", "max_tokens_retain"}
    assert not [preset for preset, options in rmu.PRESETS.items() if reckoned & options.keys()]


def test_lora_on_one_kind_of_matrix():
    """The numbers that experiments/toxigen-zephyr-7b.yaml gives: about 15 GB, about 44 GB, merged vectors of 7.5 GB."""
    options = {"trained": "lora", "lora_targets": ["down_proj"], "batch_size": 32, "max_tokens_forget": 128}
    small = method("tvn", **options, accumulation=4, gradient_checkpointing=True)
    unlearn = job("unlearn", 1, gpu=1, method="tvn", steps=60)
    described = description(unlearn, job("merge", 12, method="tvn"), tvn=small)
    found, merged = row(described), row(described, 1)
    factors = 32 * 8 * (4096 + 14336)
    assert found.disk.value == 4 * factors
    assert merged.disk.value == 12 * 4 * 32 * 4096 * 14336
    assert found.memory.value == pytest.approx(15e9, rel=0.05)
    large = method("tvn", **options, accumulation=1, gradient_checkpointing=False)
    assert row(description(unlearn, tvn=large)).memory.value == pytest.approx(44e9, rel=0.02)
    assert found.seconds.value > row(description(unlearn, tvn=large)).seconds.value, "checkpoints compute again"


def test_all_weights_in_fp32_are_shared_over_cards():
    one = method("simnpo", trained="all", batch_size=4, accumulation=4)
    unlearn = job("unlearn", 1, gpu=2, method="simnpo", steps=10)
    alone = row(description(unlearn, simnpo=one)).memory.value
    shared = row(description(unlearn, simnpo=one | {"sharded": True, "gpus": 2})).memory.value
    assert alone - shared == 16 * 7_241_732_096 / 2


def test_weights_that_a_pattern_names():
    """Layers 7 to 9 whole: their matrices and two norms each."""
    counted = estimate.trained_parameters(cost_model.SMOLLM2_135M, r"model\.layers\.(7|8|9)\..*")
    assert counted == 3 * (2 * 576**2 + 2 * 576 * 192 + 3 * 576 * 1536 + 2 * 576)
    assert estimate.trained_parameters(cost_model.SMOLLM2_135M, ".*") == 134_515_008
    assert estimate.trained_parameters(cost_model.SMOLLM2_135M, "transformer.*") is None
    assert estimate.trained_parameters(cost_model.MIXTRAL_8X7B, ".*") is None


def test_measured_times_are_used_where_there_are_any():
    jobs = job("unlearn", 4, gpu=1, method="rmu", steps=75), job("merge", 2, method="rmu")
    described = description(*jobs, rmu=method("rmu", steps=75))
    measured = {"unlearn/**/*.tsv": (3, 90.0), "merge/**/*.tsv": (2, 10.0)}
    found, merged = (row(described, number, measured=measured) for number in (0, 1))
    assert (found.seconds, found.basis) == (estimate.Amount(120.0), "3 measured")
    assert (merged.seconds, merged.basis) == (estimate.Amount(10.0), "measured")
    assert row(described, 1).seconds == estimate.UNKNOWN, "nothing is guessed of jobs without a model"
    page = estimate.page(described, estimate.Facts(shape=cost_model.MISTRAL_7B, measured=measured))
    hours = (
        "0.033 of jobs that use a model: 0.033 measured, the rest estimated for one H100; jobs without a model: < 0.01"
    )
    assert hours in " ".join(page.split())


def test_evaluation_adds_up():
    evaluations = {"fluency": {"batch_size": 8, "max_tokens": 256}}
    generation = {"samples": 2, "max_new_tokens": 20, "batch_size": 64}
    described = description(job("evaluate", 1, gpu=1, evaluations=evaluations, generation=generation))
    facts = {"rows": {"fluency": 200, "prompts": 100}, "characters": {"prompts": 40_000}, "longest": {"prompts": 800}}
    found = row(described, **facts)
    per_token = 2 * (7_241_732_096 - 32000 * 4096 - 65 * 4096)  # all matrices but the embedding, no norms

    def forward(tokens, length):
        return (tokens * per_token + 32 * 2 * tokens * length * 4096) / (0.4 * 989e12)

    steps = -(-200 // 64) * 20
    writing = max(steps * 2 * 7_241_732_096 / (0.4 * 3.35e12), forward(200 * 20, 1))
    begin = 10 + 2 * 7_241_732_096 / 1e9
    wanted = begin + forward(200 * 256, 256) + forward(40_000 / 4, 100) + writing
    assert found.seconds.value == pytest.approx(wanted)
    assert found.work == "200 texts, 200 continuations"
    keys_and_values = 64 * (800 / 4 + 20) * 2 * 2 * 32 * 1024
    logits = 8 * 256 * (2 + 4) * 32000
    assert found.memory.value == pytest.approx(2 * 7_241_732_096 + max(keys_and_values, logits), rel=0.05)
    unknown = row(described, rows={"fluency": 200, "prompts": 100})
    assert not unknown.seconds.complete and unknown.seconds.value < found.seconds.value
    assert not row(described).seconds.complete, "nothing is known of the tables"


def test_benchmarks_by_their_published_sizes():
    options = {"tasks": ["wmdp_bio", "wmdp_cyber", "mmlu"], "batch_size": 8}
    described = description(job("benchmarks", 1, gpu=1, options=options))
    assert row(described).work == "17,302 questions of 3 tasks"
    options |= {"tasks": ["wmdp_bio", "own_task"], "limit": 100}
    found = row(described)
    assert found.work == "≥ 100 questions of 2 tasks" and not found.seconds.complete
    assert "what own_task takes" in estimate.page(described, estimate.Facts(shape=cost_model.MISTRAL_7B))


def test_examples_before_a_question_are_read_too():
    seconds = {}
    for examples in (0, 5):
        options = {"tasks": ["gsm8k"], "batch_size": 8, "fewshot": {"gsm8k": examples}}
        seconds[examples] = row(description(job("benchmarks", 1, gpu=1, options=options))).seconds.value
    del options["fewshot"]
    assert row(description(job("benchmarks", 1, gpu=1, options=options))).seconds.value == seconds[5] > seconds[0]


def test_kinds_of_jobs_and_evaluations_without_arithmetic():
    evaluations = {"own": {}}
    evaluate = job("evaluate", 1, gpu=1, evaluations=evaluations, generation={})
    page = estimate.page(description(evaluate, job("attack", 7, gpu=1)), estimate.Facts(shape=cost_model.MISTRAL_7B))
    assert "what own takes" in page and "no arithmetic for this kind of job" in page
    assert "jobs       8\n" in page


def test_sums():
    jobs = job("model", 1, model="zephyr", source=ZEPHYR), job("unlearn", 2, gpu=1, method="rmu", steps=75)
    described = description(*jobs, job("data", 2, hub=True), rmu=method("rmu", steps=75))
    facts = estimate.Facts(shape=cost_model.MISTRAL_7B, model_bytes={"zephyr": 14_000_000_000})
    page = estimate.page(described, facts)
    assert "jobs       5\n" in page
    assert "disk       15.4 GB\n" in page  # 14 and two task vectors of 704,643,072 bytes
    assert "downloads  ≥ 14 GB\n" in page
    assert "10.6 GB for one job (unlearn): fits a card of 24 and 80 GB" in page
    there = estimate.page(
        described, estimate.Facts(model_bytes={"zephyr": 14_000_000_000}, at_hand=frozenset(["zephyr"]))
    )
    assert "downloads  ?\n" in there
    assert estimate.fits(30e9).startswith("fits a card of 80 GB, too much for a card of 24 GB")


def test_what_is_not_known_is_left_open():
    described = description(job("unlearn", None, gpu=1, method="rmu", steps=75), rmu=method("rmu", steps=75))
    described["attributes"] = None
    page = estimate.page(described, estimate.Facts(unknown="the sizes of it aren't known"))
    assert "the sizes of it aren't known" in page and "not known before the job `data` ran" in page
    assert "jobs       ?\n" in page and "GPU memory ?\n" in page and "disk       ?\n" in page


def test_own_methods_are_not_guessed():
    own = {
        "kind": "command",
        "options": {"steps": 10},
        "cache_activations": False,
        "gpus": 1,
        "sharded": False,
        "norms_of": None,
    }
    found = row(description(job("unlearn", 2, gpu=1, method="own", steps=10), own=own))
    assert (found.seconds, found.memory, found.disk) == (estimate.UNKNOWN,) * 3
    assert found.work == "10 steps"


def test_a_random_vector_is_as_large_as_what_it_is_like():
    random = {
        "kind": "random_vector",
        "options": {},
        "cache_activations": False,
        "gpus": 1,
        "sharded": False,
        "norms_of": "tvn",
    }
    tvn = method("tvn", trained="lora", lora_targets=["down_proj"])
    found = row(description(job("unlearn", 2, gpu=1, method="random"), tvn=tvn, random=random))
    assert found.disk.value == 2 * 4 * 32 * 4096 * 14336


def test_frozen_states():
    options = {"layer_id": 9, "trained_layers": [7, 8, 9], "max_tokens_forget": 128, "max_tokens_retain": 64}
    described = description(
        job("states", 1, gpu=1, method="rmu"), rmu=method("rmu", **options, mask=True), dtype="float32"
    )
    found = row(described, shape=cost_model.SMOLLM2_135M, rows={"forget": 100, "retain": 200}, device=estimate.CORE)
    assert found.disk.value == 4 * 576 * (100 * 128 + 2 * 200 * 64)
    assert found.work == "300 texts"


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        ({"model_type": "llama", "tie_word_embeddings": True, "num_key_value_heads": 3}, 134_515_008),
        ({"model_type": "gpt2"}, None),
        ({"model_type": "llama", "head_dim": 128}, None),
    ],
)
def test_shapes_are_read_from_a_model_folder(tmp_path, config, parameters):
    sizes = {"hidden_size": 576, "num_hidden_layers": 30, "intermediate_size": 1536, "num_attention_heads": 9}
    (tmp_path / "config.json").write_text(json.dumps(sizes | {"vocab_size": 49152} | config))
    shape, said = known.model_shape({"source": str(tmp_path), "folder": "none"}, tmp_path / "models")
    assert (shape and shape.parameters) == parameters
    assert said == "by its config.json" if parameters else str(tmp_path) in said


def test_known_and_unknown_models(tmp_path, monkeypatch):
    shape, _ = known.model_shape({"source": ZEPHYR, "folder": "none"}, tmp_path)
    assert shape.parameters == 7_241_732_096
    shape, said = known.model_shape({"source": "wheel:other==1.0", "folder": "none"}, tmp_path)
    assert shape is None and "before it is prepared" in said
    gone = {"folder": "none"}
    monkeypatch.setattr(known, "from_hub", lambda source, revision: None)
    shape, said = known.model_shape({"source": "somebody/model"} | gone, tmp_path)
    assert shape is None and "can't be had openly" in said
    monkeypatch.setattr(known, "from_hub", lambda source, revision: {"model_type": "qwen2"})
    shape, said = known.model_shape({"source": "somebody/model"} | gone, tmp_path)
    assert shape is None and "somebody/model is of the kind qwen2" in said


def test_tables_are_measured_or_taken_from_the_options(tmp_path):
    described = description() | {"results": str(tmp_path)}
    described["data"]["options"] = {"texts_per_group": 1000, "prompts_per_group": 100, "fluency_texts": 200}
    rows, characters, *_ = known.tables(described)
    assert rows == {"forget": 2000, "prompts": 400, "fluency": 200} and not characters
    (tmp_path / "data").mkdir()
    questions = {"question": ["abcd", "abcdef"], "choices": [["a", "bc"], ["a", "b"]], "answer": [0, 1]}
    pq.write_table(pa.table(questions), tmp_path / "data" / "questions.parquet")
    (tmp_path / "data" / "attributes.json").write_text('[{"attribute": "bio", "texts": 7}]')
    rows, characters, longest, texts = known.tables(described)
    assert (rows["questions"], characters["questions"], longest["questions"]) == (2, 4 + 3 + 6 + 2, 8)
    assert texts == {"bio": 7}


def test_benchmark_files_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, seconds in enumerate((1.5, 2.5)):
        path = tmp_path / "merge" / "rmu" / f"seed{seed}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:01\t100\n")
    described = description(job("merge", 2), job("unlearn", 2))
    assert known.measured(described) == {"merge/**/*.tsv": (2, 4.0)}
