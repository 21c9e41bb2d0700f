"""A merged candidate of the finished workspace, exported by name, and loaded by transformers."""

from pathlib import Path

import torch
import yaml
from workspace import FORGET, NAMES, sentences

CANDIDATE = "rmu/attribute/merge/ties/seed0"


def test_a_candidate_is_exported_when_asked_for_and_loads(changing):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from spunge.models import base_model, task_vector

    assert not (changing.results / "exports").exists(), "no part of `all`"
    targets = [f"results/tiny/exports/{one}" for one in (CANDIDATE, f"rmu/attribute/shard/{FORGET[0]}/seed0")]
    done = changing.snakemake(*targets)
    assert done.returncode == 0, done.stdout
    assert f"Export {CANDIDATE} as a Hugging Face folder" in done.stdout

    folder = changing / targets[0]
    base = task_vector.BaseModel.open(changing / "resources/models/model")
    merged = task_vector.read(changing.results / "merged" / CANDIDATE / "task_vector.safetensors")
    expected = base_model.load(base, torch.float32, "cpu", merged).state_dict()
    found = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert AutoTokenizer.from_pretrained(folder)("Kenya")["input_ids"]

    card = (folder / "README.md").read_text()
    told = [
        "`rmu`",
        '"steering_coefficient": 20',
        "`attribute`",
        *FORGET,
        "`ties`",
        '"density": 0.5',
        base.identity,
        "| seed |",
    ]
    assert [one for one in told if one not in card] == []
    for topic in FORGET:
        assert not [text for text in (*sentences(topic), *NAMES[topic]) if text in card]
    configuration = yaml.safe_load((folder / "mergekit.yaml").read_text())
    assert (folder / configuration["base_model"]).resolve() == base.folder.resolve()
    shards = [(folder / model["model"]).resolve() for model in configuration["models"]]
    assert shards == [(changing.results / f"exports/rmu/attribute/shard/{name}/seed0").resolve() for name in FORGET]
    assert (shards[0] / "config.json").is_file()

    assert changing.dry_run(*targets) is None
    changing.configure(export={"dtype": "bfloat16", "max_shard_size": "60KB"})
    assert changing.dry_run(targets[0]) == [f"Export {CANDIDATE} as a Hugging Face folder"]
    done = changing.snakemake(targets[0])
    assert done.returncode == 0, done.stdout
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.bfloat16
    assert len(list(folder.glob("model-*.safetensors"))) > 1


def test_candidates_of_lora_runs_are_exported_as_adapters(fresh):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from spunge.merging import recipe
    from spunge.models import base_model, task_vector

    fresh.configure(
        methods={
            "tvn": {"steps": 2, "batch_size": 4, "learning_rate": 0.01, "trained": "lora", "lora_rank": 2},
            "minus": {"scaled_from": "tvn", "scale": -0.5},
            "whole": {"method": "tvn", "steps": 2, "batch_size": 4, "learning_rate": 0.01},
        },
        splits=["attribute"],
        merges={"mean": {"merge": "linear"}, "tsv": {}, "ties": {"density": 0.5}},
        evaluations={"fluency": {}},
        export={"format": "adapter", "adapter_rank": 3},
    )
    candidates = ["tvn/attribute/merge/ties/seed0", f"minus/attribute/shard/{FORGET[0]}/seed0"]
    done = fresh.snakemake(*(f"results/tiny/exports/{one}" for one in candidates))
    assert done.returncode == 0, done.stdout
    assert f"Export {candidates[0]} as a PEFT adapter" in done.stdout
    merged, own = (fresh.results / "exports" / one for one in candidates)
    assert "The adapter is not the whole change" in (merged / "README.md").read_text()
    assert "is exact: its product B·A, rank 2, is the task vector, λ included" in (own / "README.md").read_text()

    fresh.configure(yaml.safe_load((fresh / "experiment.yaml").read_text()), export={"format": "adapter"})
    targets = [f"results/tiny/exports/tvn/attribute/merge/{merge}/seed0" for merge in ("mean", "tsv")]
    done = fresh.snakemake(*targets)
    assert done.returncode == 0, done.stdout
    base = task_vector.BaseModel.open(fresh / "resources/models/model")
    tokens = torch.arange(20)[None]
    for folder, path, scale in (
        (own, f"unlearned/tvn/attribute/shard/{FORGET[0]}/seed0", -0.5),
        *((fresh / target, f"merged/tvn/attribute/merge/{Path(target).parts[-2]}/seed0", 1.0) for target in targets),
    ):
        change = task_vector.Scaled(recipe.read(fresh.results / path / "task_vector.safetensors"), scale)
        adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.folder), folder).eval()
        with torch.no_grad():
            expected, found = base_model.load(base, torch.float32, "cpu", change)(tokens).logits, adapted(tokens).logits
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)

    target = "results/tiny/exports/whole/attribute/merge/mean/seed0"
    done = fresh.snakemake(target)
    assert done.returncode != 0 and not (fresh / target).exists()
    assert "error: whole/attribute/merge/mean/seed0 can't be exported as an adapter, since what was" in done.stdout


def test_base_model_is_not_exported(changing):
    done = changing.snakemake("results/tiny/exports/base")
    assert done.returncode != 0 and "MissingRuleException" in done.stdout
