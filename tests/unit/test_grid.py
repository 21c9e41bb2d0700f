"""The grid: every record's path gives it back, and a small grid is the one written out by hand."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from spunge.core.errors import InputError
from spunge.core.tidy import CANDIDATE_COLUMNS
from spunge.experiment.configuration import check
from spunge.experiment.grid import Grid
from spunge.experiment.jobs import Jobs
from spunge.experiment.records import (
    BASE,
    Candidate,
    Evaluation,
    Merge,
    Run,
    budget_label,
    parse_budget,
    proportional_options,
)

PROJECT = Path(__file__).parents[2]
EXPERIMENTS = [PROJECT / "config.yaml", *sorted((PROJECT / "experiments").glob("*.yaml"))]


def grid_of(path, **changes):
    configured = yaml.safe_load(path.read_text(encoding="utf-8")) | changes
    check(configured)
    forget = configured["data"]["forget"]
    return Grid(configured, ["Côte d'Ivoire", "shard", "ties"] if forget == "all" else forget)


def small(**changes):
    """Two attributes, a method in two strengths, two seeds, one merge; the second attribute is called as the merge."""
    rmu = {"method": "rmu", "steps": 3, "batch_size": 4, "alternate_attributes": False}
    configured = {
        "experiment": "small",
        "seeds": [0, 1],
        "model": {"source": "some/model"},
        "data": {"dataset": "country_capitals", "forget": ["a b", "ties"]},
        "methods": {"rmu": rmu, "half": {"scaled_from": "rmu", "scale": 0.5}},
        "merges": {"ties": {}},
        **changes,
    }
    check(configured)
    return Grid(configured, configured["data"]["forget"])


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_path_gives_its_record_back(experiment):
    grid = grid_of(experiment)
    listed = {
        Run: grid.runs(),
        Merge: grid.merges(),
        Candidate: [*grid.candidates(), *(one.with_seed("all") for one in grid.candidates())],
        Evaluation: grid.evaluations(),
    }
    for kind, records in listed.items():
        assert [kind.parse(record.path) for record in records] == records
        paths = {record.path.casefold() for record in records}
        assert len(paths) == len(set(records)), "no two share a path, also where case doesn't tell them apart"
    for wildcard, kind in (("run", Run), ("merge", Merge), ("candidate", Candidate)):
        matching = {record for record in listed[kind] if re.fullmatch(grid.patterns[wildcard], record.path)}
        assert matching == {record for record in listed[kind] if record == BASE or record.seed != "all"}
    for candidate in grid.candidates():
        assert grid.describe(candidate)["candidate"] == candidate.path
        source = grid.source(candidate)
        assert source is None or source in {*grid.runs(), *grid.merges()}


def test_paths_of_a_small_grid():
    grid = small()
    slug = next(iter(grid.shards("attribute")))
    assert slug.startswith("a-b-")
    of_a_seed = ["joint", f"attribute/shard/{slug}", "attribute/shard/ties", "random/shard/part1", "random/shard/part2"]
    assert [run.path for run in grid.runs()] == [f"rmu/{middle}/seed{seed}" for seed in (0, 1) for middle in of_a_seed]
    assert [merge.path for merge in grid.merges()] == [
        f"rmu/{split}/merge/ties/seed{seed}" for seed in (0, 1) for split in ("attribute", "random")
    ]
    trained = [f"{method}/{middle}/seed{seed}" for seed in (0, 1) for method in ("rmu", "half") for middle in of_a_seed]
    merged = [
        f"{method}/{split}/merge/ties/seed{seed}"
        for seed in (0, 1)
        for method in ("rmu", "half")
        for split in ("attribute", "random")
    ]
    single = [path for path in trained if "random" not in path]
    assert [one.path for one in grid.candidates()] == ["base", *single, *merged]
    assert [one.path for one in grid.evaluated("fluency")][:2] == ["base/fluency", "rmu/joint/seed0/fluency"]
    assert len(grid.evaluations()) == len(grid.candidates()) * len(["knowledge", "fluency"])
    assert {run.partition for run in grid.runs()} == {"joint", "attribute", "random-seed0", "random-seed1"}


def test_shards_stand_for_attributes():
    shards = list(small().shards("attribute").values())
    assert [(shard.label, shard.attributes) for shard in shards] == [("a b", ("a b",)), ("ties", ("ties",))]
    random = small().shards("random")["part2"]
    assert (random.label, random.attributes) == ("part2", ("ties",)), "as many texts as the second attribute"


def test_a_budget_is_read_back_from_its_label():
    for cost, budget in (("kl", 0.01), ("kl", 1e-05), ("perplexity", 1.1)):
        assert parse_budget(budget_label(cost, budget)) == (cost, budget)


def tuned(**tuning):
    rmu = {"method": "rmu", "steps": 3, "batch_size": 4, "alternate_attributes": False}
    rmu["tune"] = {"steps": [3, 6], "alpha": [1, 10, 100]}
    return small(
        methods={"rmu": rmu, "untuned": {key: value for key, value in rmu.items() if key != "tune"}},
        data={"dataset": "country_capitals", "forget": ["a b", "ties"], "validation": 0.33},
        budgets={"kl": [0.1, 0.01, 0.03]},
        tuning=tuning,
    )


def test_every_arm_has_the_same_trials_on_seeds_of_their_own():
    grid = tuned(seeds=[7, 8])
    assert grid.trials("rmu") == {
        str(number): {"steps": steps, "alpha": alpha}
        for number, (steps, alpha) in enumerate((steps, alpha) for steps in (3, 6) for alpha in (1, 10, 100))
    }
    assert grid.trials("untuned") == {}
    tried = grid.trial_candidates()
    assert len(tried) == len(set(tried)) == 3 * 6 * 2  # arms, trials, seeds
    for split in ("joint", "attribute", "random"):
        of_arm = [candidate for candidate in tried if candidate.split == split]
        assert sorted((int(candidate.trial), candidate.seed) for candidate in of_arm) == [
            (trial, seed) for trial in range(6) for seed in "78"
        ]
    assert tried[2].path == "rmu/attribute/merge/ties/seed7/trial0"
    assert len(grid.trial_runs()) == (1 + 2 + 2) * 6 * 2
    # Two attributes: twice the steps of a shard for all at once, as ever.
    options = [grid.options(Run.parse(f"rmu/joint/seed7/trial{trial}")) for trial in (0, 5)]
    assert [(one["steps"], one["alpha"]) for one in options] == [(6, 1), (12, 100)]
    assert (grid.middle_budget, grid.tuning_budgets) == ("kl=0.03", {"kl": [0.03], "as_trained": False, "most": 4.0})
    # What is reported is no trial, and what was tuned before is not tried again.
    assert not [candidate for candidate in grid.candidates() if candidate.trial]
    assert tuned(file="tuning.csv").trial_candidates() == []
    of_validation = [Jobs(one, PROJECT).tuned_by for one in (grid, tuned(file="tuning.csv"), small())]
    assert of_validation == ["questions", "questions", ""]
    for record in (*grid.trial_runs(), *tried):
        assert type(record).parse(record.path) == record
        assert re.fullmatch(grid.patterns["candidate" if isinstance(record, Candidate) else "run"], record.path)


def test_trials_that_differ_by_the_merge_alone_share_their_runs():
    grid = tuned(seeds=[7])
    grid.methods["rmu"]["tune"] = {"alpha": [1, 10], "merge.density": [0.2, 0.8]}
    tried = grid.trial_candidates()
    trials = {split: [one.trial for one in tried if one.split == split] for split in ("joint", "attribute", "random")}
    assert trials == {"joint": ["0", "2"], "attribute": ["0", "1", "2", "3"], "random": ["0", "1", "2", "3"]}
    assert len(grid.trial_runs()) == len(set(grid.trial_runs())) == (1 + 2 + 2) * 2
    jobs = Jobs(grid, PROJECT)
    of_merge = SimpleNamespace(merge="rmu/attribute/merge/ties/seed7/trial3")
    assert jobs.shard_task_vectors(of_merge) == [
        f"results/small/unlearned/rmu/attribute/shard/{shard}/seed7/trial2/task_vector.safetensors"
        for shard in grid.shards("attribute")
    ]
    assert json.loads(jobs.merge_options(of_merge))["density"] == 0.8
    options = grid.options(Run.parse("rmu/attribute/shard/ties/seed7/trial2"))
    assert options["alpha"] == 10 and not [name for name in options if "density" in name]
    described = {(one["split"], one["trial"]): one for one in json.loads(jobs.trials())}
    assert described["joint", 2]["options"] == {"alpha": 10}
    assert described["attribute", 3]["options"] == {"alpha": 10, "merge.density": 0.8}
    steps = [described["attribute", trial]["steps"] for trial in range(4)]
    assert steps == [6, 0, 6, 0]  # what runs are shared is counted once
    reported = SimpleNamespace(merge="rmu/attribute/merge/ties/seed0")
    assert jobs.merge_tuning(reported) == "results/small/tuning.csv" and jobs.merge_tuning(of_merge) == []


def test_what_stands_in_evaluations_csv():
    grid = small()
    described = grid.describe(grid.runs()[1])
    assert described | {"candidate": ""} == {
        "experiment": "small",
        "candidate": "",
        "method": "rmu",
        "split": "attribute",
        "shard": "a b",
        "merge": "",
        "seed": "0",
        "budget": "",
    }
    assert list(described) == CANDIDATE_COLUMNS
    assert grid.describe(Merge("rmu", "random", "ties", "1"))["merge"] == "ties"
    assert grid.describe(BASE) == dict.fromkeys(described, "") | {
        "experiment": "small",
        "candidate": "base",
        "seed": "all",
    }


def test_budgets_are_labels_and_an_evaluation():
    assert (small().budgets, "budget" in small().evaluation_names) == ([""], False)
    one = {"rmu": small().methods["rmu"]}
    grid = small(budgets={"perplexity": [1.1], "kl": [0.1, 0.01]}, methods=one)
    assert grid.budgets == ["kl=0.01", "kl=0.1", "perplexity=1.1"]
    assert grid.evaluation_names == ["knowledge", "fluency", "budget"]
    assert small(budgets={"kl": [1e-3], "as_trained": True}, methods=one).budgets == ["", "kl=0.001"]
    middle = {"kl=0.03": {"kl": [0.1, 0.03, 0.01]}, "perplexity=1.1": {"perplexity": [1.1]}}
    assert [small(budgets=given, methods=one).middle_budget for given in middle.values()] == list(middle)
    assert small().middle_budget == ""


def test_a_variant_takes_anothers_task_vectors():
    grid = small()
    half = Candidate.parse("half/attribute/merge/ties/seed1")
    assert (grid.source(half).path, grid.scale(half)) == ("rmu/attribute/merge/ties/seed1", 0.5)
    assert grid.source(Candidate.parse("half/joint/seed0")) == Run("rmu", "joint", "all", "0")
    assert (grid.source(BASE), grid.scale(BASE)) == (None, 1.0)


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        (Run, "rmu/attribute/merge/ties/seed0"),
        (Run, "rmu/joint"),
        (Run, "rmu/joint/seed0/knowledge"),
        (Merge, "rmu/attribute/shard/ties/seed0"),
        (Merge, "rmu/attribute/merge/ties"),
        (Candidate, "rmu/attribute/ties/seed0"),
        (Candidate, "rmu/joint/shard/all/seed0"),
        (Evaluation, "knowledge"),
    ],
)
def test_a_path_of_something_else_is_refused(kind, path):
    with pytest.raises(InputError, match="is no path of"):
        kind.parse(path)


def test_rivals_are_named():
    spunge = Candidate.parse("rmu/attribute/merge/ties")
    paths = {name: rival.path for name, rival in spunge.rivals.items()}
    assert paths == {
        "base": "base",
        "joint": "rmu/joint",
        "balanced": "rmu/balanced",
        "sequential": "rmu/sequential",
        "random": "rmu/random/merge/ties",
    }
    grouped = Candidate.parse("rmu/attribute-2/merge/ties/seed1").rivals
    assert grouped["random"].path == "rmu/random-2/merge/ties/seed1"
    assert set(Candidate.parse("rmu/attribute/shard/ties").rivals) == {"base", "joint"}
    assert set(Candidate.parse("rmu/random/merge/ties").rivals) == {"base", "joint"}
    assert set(Candidate.parse("rmu/joint").rivals) == {"base"}
    assert BASE.rivals == {}


def test_attacks_are_on_the_methods_named_for_it():
    experiment = PROJECT / "experiments" / "geography-smollm2.yaml"
    configured = yaml.safe_load(experiment.read_text(encoding="utf-8"))["methods"]
    grid = grid_of(experiment, methods=configured | {"rmu": configured["rmu"] | {"shards": [2]}})
    assert "shards" in grid.figures
    assert {one.method for one in grid.attacked()} == {"", "rmu"}
    assert {one.split for one in grid.attacked()} == {"", "joint", "balanced", "sequential", "attribute", "random"}
    assert "attribute-2" in {one.split for one in grid.candidates()}
    assert len(grid.evaluated("ablated")) == len(grid.attacked()) == 1 + 3 * 5


def test_a_run_on_several_attributes_takes_as_many_steps():
    grid = small()
    assert [grid.options(run)["steps"] for run in grid.runs()[:5]] == [6, 3, 3, 3, 3]


def test_steps_in_proportion_to_texts_add_up_to_as_many():
    """3 steps for each of 3 attributes are 9 in all; 20 of 40 texts take half of them."""
    texts = {"few": 5, "many": 20, "some": 15}
    options = {"steps": 3, "warmup_steps": 1, "batch_size": 4}
    shards = {shard: proportional_options(options, "attribute", shard, texts) for shard in texts}
    assert [(of["steps"], of["warmup_steps"]) for of in shards.values()] == [(1, 1), (5, 1), (3, 1)]
    assert all(of["batch_size"] == 4 for of in shards.values())
    parts = [proportional_options(options, "random", f"part{place}", texts)["steps"] for place in (1, 2, 3)]
    assert parts == [1, 5, 3], "of the attribute in its place"
    groups = [({"steps": 6}, "group1"), ({"steps": 3}, "group2")]  # of two attributes and of one
    assert [proportional_options(of, "attribute-2", name, texts)["steps"] for of, name in groups] == [6, 3]
    assert proportional_options({"steps": 9}, "joint", "all", texts) == {"steps": 9}


def test_splits_of_one_run_have_paths_of_their_own_and_the_same_texts():
    grid = small(splits=["joint", "balanced", "sequential", "attribute"])
    assert [run.path for run in grid.runs()[:3]] == [
        f"rmu/{split}/seed0" for split in ("joint", "balanced", "sequential")
    ]
    assert {run.texts for run in grid.runs()[:3]} == {"shards/joint/all.parquet"}
    assert {grid.options(run)["steps"] for run in grid.runs()[:3]} == {6}
    assert [merge.path for merge in grid.merges()] == [f"rmu/attribute/merge/ties/seed{seed}" for seed in (0, 1)]
    sequential = Candidate.parse("half/sequential/seed1")
    assert sequential in grid.candidates()
    assert grid.source(sequential) == Run("rmu", "sequential", "all", "1")
    for kind, records in ((Run, grid.runs()), (Candidate, grid.candidates()), (Evaluation, grid.evaluations())):
        assert [kind.parse(record.path) for record in records] == records
    for wildcard, records in (("run", grid.runs()), ("candidate", grid.candidates())):
        assert all(re.fullmatch(grid.patterns[wildcard], record.path) for record in records)
    assert set(sequential.rivals) == {"base", "joint"}


ALWAYS = {"training", "merging"}


@pytest.mark.parametrize(
    ("experiment", "expected"),
    {
        "config": {"frontier", "tradeoff", "overview", "attributes", "radar"},
        "experiments/geography-smollm2": {"frontier", "tradeoff", "overview", "attributes", "radar"}
        | {"durability", "shards", "benchmarks"},
        "experiments/toxicity-smollm2": {"frontier", "toxicity_radar", "toxicity_overview", "benchmarks"},
        "experiments/wmdp-zephyr-7b": {"tradeoff", "overview", "attributes", "radar", "benchmarks"},
    }.items(),
)
def test_figures_are_those_of_what_is_evaluated(experiment, expected):
    captions = grid_of(PROJECT / f"{experiment}.yaml").figures
    assert set(captions) == expected | ALWAYS
    assert all(captions.values())


@pytest.mark.parametrize("cores, number", [(1, 0), (2, 0), (3, 2), (4, 0), (8, 4), (20, 0), (64, 20)])
def test_candidates_that_cores_cannot_share_evenly_are_the_first(cores, number):
    paths = [candidate.path for candidate in small().candidates()]
    assert len(paths) == 21
    assert small().left_over(cores) == paths[1 : 1 + number]


def test_attributes_are_asked_for_only_where_they_matter():
    def not_yet():
        raise RuntimeError

    grid = Grid(small().configuration, not_yet)
    candidate = Candidate.parse("half/attribute/shard/ties/seed0")
    assert grid.source(candidate).path == "rmu/attribute/shard/ties/seed0"
    assert grid.describe(Candidate.parse("half/joint/seed0"))["shard"] == ""
    assert len(grid.merges()) == 4
    assert grid.left_over(3) == []
    with pytest.raises(RuntimeError):
        grid.describe(candidate)


def test_the_grid_needs_neither_torch_nor_snakemake():
    told = "import sys, spunge.experiment.grid; print({'torch', 'snakemake', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", told], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
