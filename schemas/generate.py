"""Write schemas/config.schema.yaml from spunge/experiment/settings.py and the Options of methods, merges and so on.

python schemas/generate.py

Options of a kind of method, merge, data set or classifier are a definition of their own (`$defs`), which a section has
by its kind. Their defaults are those of the Options that a job makes; all others are filled into a configuration.
"""

import dataclasses
import importlib
import pkgutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from spunge import datasets, evaluation, methods  # noqa: E402
from spunge.evaluation import benchmarks, classifiers, generation, relearning  # noqa: E402
from spunge.experiment import settings  # noqa: E402
from spunge.merging import registry  # noqa: E402

PATH = PROJECT / "schemas" / "config.schema.yaml"
HEAD = "# Written by `python schemas/generate.py` from spunge/experiment/settings.py and the Options in the code.\n"
IN_ONE_LINE = 100
DIALECT = "https://json-schema.org/draft/2020-12/schema"
FIRST = ("description", "type", "const", "enum")  # of a schema's keywords; the default comes last
PRESET = "Take every option that is not given from this set; docs/rmu.md has the numbers."


def schema() -> dict:
    """Return the schema of a configuration."""
    found = described(settings.Experiment)
    sections = found["properties"]
    evaluations = sections["evaluations"]["properties"] = model_evaluations() | sections["evaluations"]["properties"]
    evaluations["benchmarks"] |= described(benchmarks.Options)
    toxicity, continuing = evaluations["toxicity"], described(generation.Options)
    toxicity["properties"] = continuing["properties"] | toxicity["properties"]
    evaluations["durability"]["properties"]["relearn"] |= described(relearning.Options)
    found["$defs"] = {
        **offer_kinds(sections["methods"]["additionalProperties"], "method", "methods", method_options()),
        **offer_kinds(
            sections["merges"]["additionalProperties"],
            "merge",
            "merges",
            {kind: described(registry.options_of(kind)) for kind in registry.KINDS},
        ),
        **offer_kinds(
            toxicity["properties"]["classifiers"]["additionalProperties"],
            "classifier",
            "classifiers",
            {name: described(options) for name, (options, _) in classifiers.KINDS.items()},
        ),
        **offer_datasets(sections["data"], {name: described(datasets.load(name).Options) for name in datasets.known()}),
        "evaluations.generation": continuing,  # which keys of `toxicity` these are
    }
    return {"$schema": DIALECT, "title": "spunge experiment", **found}


def model_evaluations() -> dict[str, dict]:
    """Return the schema of each evaluation of a model by a table: all files in spunge/evaluation with a TABLE.

    Besides its options it has what a plan and a comparison of candidates need to know: its `table` and its `metrics`.
    """
    sections = {}
    for name in sorted(module.name for module in pkgutil.iter_modules(evaluation.__path__)):
        module = importlib.import_module(f"spunge.evaluation.{name}")
        if table := getattr(module, "TABLE", None):
            description = " ".join(module.__doc__.partition("\n\n")[0].split())
            metrics = {key: dataclasses.asdict(metric) for key, metric in getattr(module, "METRICS", {}).items()}
            options = described(module.Options)
            sections[name] = {"description": description, **options, "table": table, "metrics": metrics}
    return sections


def method_options() -> dict[str, dict]:
    """Return the schema of each method's options; a method of the user's own is `file`."""
    found = {}
    for name in methods.known():
        module = methods.load(name)
        found[name] = described(module.Options)
        if presets := getattr(module, "PRESETS", {}):
            found[name]["properties"]["preset"] = {"description": PRESET, "enum": list(presets)}
    return found | {"file": described(settings.MethodFile)}


def offer_kinds(section: dict, key: str, prefix: str, kinds: Mapping[str, dict]) -> dict[str, dict]:
    """Let a section have the options of its kind: what its `key` says, or one that is named by a key of its own.

    The schema of such a section can't refuse an option of another kind, since the kind may be the section's own name;
    that is refused when a configuration is checked. Returns the definitions, which the section refers to.
    """
    by_own_key = {kind for kind, options in kinds.items() if kind in options["properties"]}
    section["properties"][key]["enum"] = [kind for kind in kinds if kind not in by_own_key]
    section["allOf"] = [
        {
            "if": {"required": [kind]}
            if kind in by_own_key
            else {"properties": {key: {"const": kind}}, "required": [key]},
            "then": {"$ref": f"#/$defs/{prefix}.{kind}"},
        }
        for kind in kinds
    ]
    del section["additionalProperties"]
    names = dict.fromkeys([*section["properties"], *(name for one in kinds.values() for name in one["properties"])])
    section["propertyNames"] = {"enum": list(names)}
    return {
        f"{prefix}.{kind}": {name: value for name, value in options.items() if name != "additionalProperties"}
        for kind, options in kinds.items()
    }


def offer_datasets(section: dict, options: Mapping[str, dict]) -> dict[str, dict]:
    """Let the section `data` have the options of its data set; returns the definitions, which it refers to."""
    section["properties"]["dataset"]["enum"] = list(options)
    section["allOf"] = [
        {
            "if": {"required": ["dataset"], "properties": {"dataset": {"const": name}}},
            "then": {"properties": {"options": {"$ref": f"#/$defs/data.{name}"}}},
        }
        for name in options
    ]
    return {f"data.{name}": one for name, one in options.items()}


def described(model: type) -> dict:
    """Return the JSON schema of a model as people write them: no titles, no references, unions as lists of types."""
    found = TypeAdapter(model).json_schema()
    found = plain(found, found.get("$defs", {}))
    if dataclasses.is_dataclass(model):
        found.pop("description", None)  # is for readers of the code
        for field in dataclasses.fields(model):
            if field.default_factory is not dataclasses.MISSING:
                found["properties"][field.name]["default"] = field.default_factory()
    found.setdefault("properties", {})
    return found


def plain(node: Any, definitions: Mapping[str, dict]) -> Any:
    """Return a part of a JSON schema of pydantic's as `described` does."""
    if isinstance(node, list):
        return [plain(one, definitions) for one in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        node = {**definitions[node["$ref"].removeprefix("#/$defs/")], **node}
    found = {}
    for key, value in node.items():
        if key == "properties":
            found[key] = {name: plain(one, definitions) for name, one in value.items()}
        elif key not in ("title", "$ref", "$defs") and (key, value) != ("additionalProperties", True):
            found[key] = value if key == "default" else plain(value, definitions)
    if "enum" in found or "const" in found:
        found.pop("type", None)
    if "anyOf" in found:
        found = union(found.pop("anyOf")) | found  # what a key says of itself, before what it holds does
    order = [*FIRST, *(key for key in found if key not in (*FIRST, "default")), "default"]
    return {key: found[key] for key in order if key in found}


def union(alternatives: Iterable[dict]) -> dict:
    """Return one schema for several: with a list of types, or with null among what it can be, where that says it."""
    *others, last = alternatives
    if last == {"type": "null"} and len(others) == 1 and "enum" in others[0]:
        return {"enum": [*others[0]["enum"], None]}
    if any("enum" in one or "const" in one for one in alternatives):
        return {"anyOf": list(alternatives)}
    merged: dict = {}
    for one in alternatives:
        merged |= one
    return merged | {"type": [one["type"] for one in alternatives]}


class Dumper(yaml.SafeDumper):
    """Writes what fits into a line in one, and nothing by reference."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_short(self, values: list | dict) -> yaml.Node:
        node = super().represent_list(values) if isinstance(values, list) else super().represent_dict(values.items())
        node.flow_style = len(repr(values)) <= IN_ONE_LINE
        return node


Dumper.add_representer(list, Dumper.represent_short)
Dumper.add_representer(dict, Dumper.represent_short)


def text() -> str:
    """Return the text of schemas/config.schema.yaml."""
    return HEAD + yaml.dump(schema(), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
