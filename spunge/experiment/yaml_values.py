"""What YAML and the command line make of a configuration, where that isn't what was meant."""

import datetime
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import yaml

from spunge.core.errors import InputError

MERGE_KEY = "tag:yaml.org,2002:merge"
# JSON schema's names of what YAML reads.
TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null", list: "array"}
MADE = {bool: "a truth value", int: "a number", float: "a number", type(None): "null"}
MADE |= {datetime.date: "a date", datetime.datetime: "a time"}


def check_file(path: str | os.PathLike) -> None:
    """Raise InputError where a key stands twice in one mapping of a YAML or JSON file, at whatever depth.

    YAML keeps the last one without a word. What a merge key (`<<`) brings may be named again: that is its use.
    """
    # A tab can only stand where white space may, and in JSON, which YAML reads but for those.
    loader = yaml.SafeLoader(Path(path).read_text(encoding="utf-8").replace("\t", " "))
    root = loader.get_single_node()
    for where, mapping in _mappings(root, "") if root else ():
        lines = {}
        for node, _ in mapping.value:
            if node.tag == MERGE_KEY:
                continue
            key, line = loader.construct_object(node, deep=True), node.start_mark.line + 1
            if key in lines:
                raise InputError(
                    f"{path}, line {line}: the key `{where}{node.value}` stands there again, after line {lines[key]}; "
                    "YAML would drop the first, so leave one of the two out"
                )
            lines[key] = line


def _mappings(root: yaml.Node, where: str) -> Iterator[tuple[str, yaml.MappingNode]]:
    """Yield every mapping below a node once, with the dotted path to its keys."""
    seen, todo = set(), [(where, root)]
    while todo:
        where, node = todo.pop(0)
        if id(node) in seen or isinstance(node, yaml.ScalarNode):
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            yield where, node
            todo += [(f"{where}{key.value}.", value) for key, value in node.value]
        else:
            todo += [(f"{where}{number}.", value) for number, value in enumerate(node.value)]


def check_kinds(value: object, at: str = "configuration") -> None:
    """Raise InputError for a key that is no string, and for a value that JSON has not, as a date, at whatever depth."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise InputError(f"{at} has the key {key}; {quotes(key)}")
            check_kinds(inner, f"{at}.{key}" if ":" in at else f"{at}: {key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            check_kinds(inner, f"{at}.{number}")
    elif type(value) not in TYPES:
        raise InputError(f"{at} is {value}; {quotes(value)}")


def quotes(value: object) -> str:
    """Say that quotes make a string of what YAML reads as something else."""
    made = MADE.get(type(value), f"a {type(value).__name__}")
    return f"YAML makes {made} of it where it stands without quotes, so write it in quotes"


def type_given(config: dict, given: Mapping, schema: Mapping, root: Mapping) -> None:
    """Give the values that came from the command line, `given`, the types that the schema wants, in place in `config`.

    Snakemake reads what stands in brackets or braces as strings, and so every truth value but True and False. What
    `config` has otherwise by now is left alone: in a workflow that uses this one as a module it is another's.
    """
    for key, value in given.items():
        described = _described(schema, key, root, config)
        if isinstance(value, Mapping) and isinstance(config.get(key), dict):
            type_given(config[key], value, described, root)
        elif config.get(key) == value:
            config[key] = _typed(value, described, root)


def _typed(value: object, schema: Mapping, root: Mapping) -> object:
    if isinstance(value, Mapping):
        return {key: _typed(inner, _described(schema, key, root, value), root) for key, inner in value.items()}
    if isinstance(value, list):
        items = next((part["items"] for part in _alternatives(schema, root) if "items" in part), {})
        return [_typed(inner, items, root) for inner in value]
    wanted = _types(schema, root)
    if not isinstance(value, str) or ("string" in wanted and not (value == "null" and "null" in wanted)):
        return value
    for read in (yaml.safe_load, float):  # YAML takes 5e-3 for a string, since it has no point
        try:
            typed = read(value)
        except (yaml.YAMLError, ValueError):
            continue
        if not wanted or TYPES.get(type(typed)) in {*wanted, *(["integer"] if "number" in wanted else [])}:
            return typed
    return value


def _described(schema: Mapping, key: str, root: Mapping, mapping: Mapping) -> Mapping:
    """Return what a schema says of one key of a mapping, all of it."""
    described = {}
    for alternative in _alternatives(schema, root, mapping):
        if key in alternative.get("properties", {}):
            described = {**alternative["properties"][key], **described}
        elif isinstance(alternative.get("additionalProperties"), Mapping):
            described = {**alternative["additionalProperties"], **described}
    return described


def _alternatives(schema: Mapping, root: Mapping, mapping: Mapping = MappingProxyType({})) -> list[Mapping]:
    """Return a schema, those that it may be instead, and those that hold besides for a `mapping`, `$ref` filled in."""
    if "$ref" in schema:
        schema = {**root["$defs"][schema["$ref"].removeprefix("#/$defs/")], **schema}
    besides = [rule["then"] for rule in schema.get("allOf", []) if _holds(rule["if"], mapping)]
    inner = [*schema.get("anyOf", []), *besides]
    return [schema, *(alternative for part in inner for alternative in _alternatives(part, root, mapping))]


def _holds(condition: Mapping, mapping: Mapping) -> bool:
    """Tell whether a mapping has the keys, and the values, that the schema's conditions ask for."""
    wanted = {key: described["const"] for key, described in condition.get("properties", {}).items()}
    return mapping.keys() >= {*condition["required"]} and all(mapping[key] == wanted[key] for key in wanted)


def _types(schema: Mapping, root: Mapping) -> set[str]:
    """Return the types that a schema allows; none if it says nothing."""
    types = set()
    for alternative in _alternatives(schema, root):
        named = alternative.get("type", [])
        types |= {named} if isinstance(named, str) else {*named}
        values = alternative.get("enum", [alternative["const"]] if "const" in alternative else [])
        types |= {TYPES[type(value)] for value in values}
    return types
