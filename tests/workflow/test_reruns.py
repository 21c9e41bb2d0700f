"""What runs again after a change: what depends on it, and nothing else."""

import shutil

import pytest
from workspace import FORGET, configuration, edited

FIGURES = ["attributes", "merging", "overview", "radar", "tradeoff", "training"]
GATHERED = ["Gather all evaluations in one table", "Say what was found", "Write the summary table"]
GATHERED += ["Make the page to walk through the results"]
GATHERED += [f"Draw {figure}" for figure in FIGURES]
COMPARED = [f"Combine the seeds and compare the candidates' {name}" for name in ("fluency", "knowledge")] + GATHERED
SHARDS = [f"attribute/shard/{topic}" for topic in FORGET]
RUNS = ["joint", *SHARDS, "random/shard/part1", "random/shard/part2"]
EVALUATED = ["joint", *SHARDS, "attribute/merge/ties", "random/merge/ties"]


def unlearned(method, seed=0):
    return [f"Unlearn {method}/{run}/seed{seed}" for run in RUNS]


def merged(method, seed=0):
    return [f"Merge {method}/{split}/merge/ties/seed{seed}" for split in ("attribute", "random")]


def evaluated(method, seed=0, candidates=EVALUATED):
    return [f"Evaluate {method}/{one}/seed{seed}" for one in candidates]


def activations(method):
    return [f"Compute what the layers that {method} leaves alone make of every text"]


def test_changed_option_reruns_its_method(changing):
    config = configuration()
    config["methods"]["rmu-strong"]["steering_coefficient"] = 70
    changing.configure(config)
    again = unlearned("rmu-strong") + merged("rmu-strong") + evaluated("rmu-strong") + COMPARED
    assert changing.dry_run() == sorted(again)


def test_kept_activations_are_computed_again_where_they_change_and_only_there(changing):
    config = configuration()
    config["methods"]["rmu"]["steering_coefficient"] = 30
    changing.configure(config)
    trained = unlearned("rmu") + merged("rmu") + evaluated("rmu") + COMPARED
    assert changing.dry_run() == sorted(trained)
    config["methods"]["rmu"]["max_tokens_retain"] = 40
    changing.configure(config)
    assert changing.dry_run() == sorted(activations("rmu") + trained)


def test_options_in_another_order_rerun_nothing(changing):
    config = configuration()
    for section in ("methods", "merges"):
        config[section] = {name: dict(reversed(of_name.items())) for name, of_name in config[section].items()}
    config["data"]["options"] = dict(reversed(config["data"]["options"].items()))
    changing.configure(config)
    assert changing.dry_run() is None


def test_evaluations_in_another_order_repeat_no_unlearning(changing):
    config = configuration()
    config["evaluations"] = {"fluency": {}, "knowledge": {}}
    changing.configure(config)
    assert changing.dry_run() == sorted(["Evaluate base", *evaluated("rmu"), *evaluated("rmu-strong"), *COMPARED])


def test_changed_merge_reruns_merges(changing):
    changing.configure(merges={"ties": {"density": 0.3}})
    again = [job for method in ("rmu", "rmu-strong") for job in merged(method)]
    again += [
        job
        for method in ("rmu", "rmu-strong")
        for job in evaluated(method, candidates=["attribute/merge/ties", "random/merge/ties"])
    ]
    assert changing.dry_run() == sorted(again + COMPARED)


def test_added_merge_runs_alone(changing):
    changing.configure(merges={"ties": {"density": 0.5}, "dense": {"merge": "ties", "density": 1.0}})
    new = [f"{split}/merge/dense" for split in ("attribute", "random")]
    jobs = [job.replace("ties", "dense") for method in ("rmu", "rmu-strong") for job in merged(method)]
    jobs += [job for method in ("rmu", "rmu-strong") for job in evaluated(method, candidates=new)]
    assert changing.dry_run() == sorted(jobs + COMPARED)


def test_added_seed_runs_alone(changing):
    changing.configure(seeds=[0, 1])
    jobs = ["Cut the shards of the random-seed1 split"]
    for method in ("rmu", "rmu-strong"):
        jobs += unlearned(method, 1) + merged(method, 1) + evaluated(method, 1)
    assert changing.dry_run() == sorted(jobs + COMPARED)


def test_how_often_states_are_saved_reruns_nothing(changing):
    changing.configure(save_every_minutes=0)
    assert changing.dry_run() is None


def test_changed_evaluation_option_reruns_evaluations_but_no_unlearning(changing):
    changing.configure(evaluations={"knowledge": {}, "fluency": {"max_tokens": 64}})
    jobs = ["Evaluate base", *evaluated("rmu"), *evaluated("rmu-strong")]
    assert changing.dry_run() == sorted(jobs + COMPARED)


def test_changed_table_reruns_what_reads_it(changing):
    """A new question, say: unlearning doesn't read it. Its files are written again though, so all may have to run."""
    path = changing / "tables" / "forget.csv"
    path.write_text(path.read_text().replace("Velmora", "Velmorra", 1))
    jobs = changing.dry_run()
    assert "Build the tables of table" in jobs
    assert set(unlearned("rmu") + merged("rmu-strong") + evaluated("rmu")) <= set(jobs)
    assert "Prepare the model model" not in jobs


def test_an_image_that_is_not_used_changes_nothing(changing):
    changing.configure(container="none.sif")
    assert changing.dry_run() is None


def test_changed_tokenizer_of_a_local_model_reruns_what_rests_on_the_model(changing):
    path = changing / "model" / "tokenizer_config.json"
    path.write_text(path.read_text() + "\n")
    jobs = changing.dry_run()
    again = unlearned("rmu") + unlearned("rmu-strong") + evaluated("rmu") + ["Prepare the model model", "Evaluate base"]
    assert set(again) <= set(jobs)
    assert not [job for job in jobs if job.startswith(("Build", "Cut"))]


@pytest.mark.parametrize("figure", ["radar", "training"])
def test_changed_figure_redraws_that_figure(changing, project, figure):
    with edited(project / "spunge" / "report" / "figures" / f"{figure}.py", '"""', '"""Changed. '):
        assert changing.dry_run() == [f"Draw {figure}"]
    assert changing.dry_run() is None


@pytest.mark.parametrize(
    ("file", "again"),
    [
        ("spunge/report/figures/style.py", [*(f"Draw {figure}" for figure in FIGURES), "Say what was found"]),
        ("spunge/report/results_table.py", [job for job in GATHERED if not job.startswith("Gather")]),
        ("spunge/report/findings.py", ["Say what was found"]),
        ("report/findings.html", ["Say what was found"]),
        ("spunge/report/findings.txt", ["Say what was found"]),
        ("spunge/report/explore.py", ["Make the page to walk through the results"]),
        ("spunge/report/summary.py", GATHERED[1:4]),
        ("scripts/gather.py", GATHERED),
        ("scripts/compare.py", COMPARED),
    ],
)
def test_changed_file_of_the_outputs_redraws(changing, project, file, again):
    path = project / file
    with edited(path, path.read_text()[:20], path.read_text()[:20]), edited(path, "\n", "\n\n"):
        assert changing.dry_run() == sorted(again)


@pytest.mark.parametrize("file", ["merging/registry.py", "merging/driver.py"])
def test_changed_merging_reruns_merges_but_no_unlearning(changing, project, file):
    jobs = [job for method in ("rmu", "rmu-strong") for job in merged(method)]
    for method in ("rmu", "rmu-strong"):
        jobs += evaluated(method, candidates=["attribute/merge/ties", "random/merge/ties"])
    with edited(project / "spunge" / file, '"""', '"""Changed. '):
        assert changing.dry_run() == sorted(jobs + COMPARED)


def test_changed_evaluation_reruns_evaluations_but_no_unlearning(changing, project):
    jobs = ["Evaluate base", *evaluated("rmu"), *evaluated("rmu-strong")]
    with edited(project / "spunge" / "evaluation" / "knowledge.py", '"""', '"""Changed. '):
        assert changing.dry_run() == sorted(jobs + COMPARED)


def test_changed_method_reruns_unlearning_but_no_data(changing, project):
    with edited(project / "spunge" / "methods" / "rmu.py", '"""', '"""Changed. '):
        jobs = changing.dry_run()
    assert set(unlearned("rmu") + unlearned("rmu-strong")) <= set(jobs)
    assert not [job for job in jobs if job.startswith(("Build", "Cut", "Prepare")) or job == "Evaluate base"]


def test_moved_clone_reruns_nothing(changing, project, tmp_path):
    changing.project = shutil.copytree(project, tmp_path / "moved" / "spunge")
    assert changing.dry_run() is None


def test_figures_and_tables_redraw_from_evaluations_alone(fresh, finished):
    """All that another's workspace needs is the one file, its configuration and the workflow."""
    fresh.results.mkdir(parents=True)
    shutil.copy2(finished.results / "evaluations.csv", fresh.results)
    for path in ("model", "tables"):
        shutil.rmtree(fresh / path)
    done = fresh.snakemake("figures", "tables")
    assert done.returncode == 0, done.stdout
    for name in (
        "summary.csv",
        "summary.md",
        "summary.tex",
        "findings.html",
        *(f"figures/{one}.png" for one in FIGURES),
    ):
        assert (fresh.results / name).read_bytes() == (finished.results / name).read_bytes(), name
    assert sorted(path.name for path in fresh.results.iterdir() if path.is_dir()) == ["benchmarks", "figures", "logs"]


def test_deleted_figures_are_drawn_again_without_what_lies_before_evaluations(changing):
    shutil.rmtree(changing.results / "figures")
    for folder in ("data", "shards", "unlearned", "merged", "evaluations", "comparisons"):
        shutil.rmtree(changing.results / folder)
    drawn = [f"Draw {figure}" for figure in FIGURES]
    assert changing.dry_run("figures") == drawn
