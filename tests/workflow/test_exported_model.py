"""A merged candidate of the finished workspace, exported by name, and loaded by transformers."""

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


def test_base_model_is_not_exported(changing):
    done = changing.snakemake("results/tiny/exports/base")
    assert done.returncode != 0 and "MissingRuleException" in done.stdout
