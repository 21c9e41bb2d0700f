"""Write docs/configuration.md from schemas/config.schema.yaml.

python docs/generate.py
"""

from collections.abc import Iterator
from pathlib import Path

import yaml

PROJECT = Path(__file__).resolve().parent.parent

HEAD = """\
<!-- Written by `python docs/generate.py` from schemas/config.schema.yaml, which is written from the code. -->
# Configuration

An experiment is one YAML file: `config.yaml` is the default, the others lie in `experiments/` and are given with
`--configfile`, which replaces the default and mixes nothing. It is checked before anything runs; a misspelt key, a
wrong type, an unknown name or a key that stands twice ends in one sentence. Only `experiment`, `seeds`, `model`, `data`
and `methods` must be there.

- YAML reads `no`, `on`, `2024`, `2024_01`, `2024-01-01` and `null` as truth values, numbers, dates and nothing. Where a
  name is meant, an attribute say, write it in quotes.
- `--config KEY=VALUE` changes a key for one run: `single_shards=false`, `"seeds=[1, 2]"`,
  `"methods={rmu: {learning_rate: 5e-3}}"`. Mappings are mixed with those of the file, all else replaces it.
- Seeds are at most 4294967295, which everything that draws by them takes.
- A method can't be called `base`, which is the base model in the paths of results.

## Keys

`NAME` stands for a name of your choice, `[]` for each entry of a list. A dash: no default, and the key may be left out.
Options of methods, merges, data sets and classifiers stand further down.
"""

OPTIONS = """
## Options of {title}

| {column} | option | type | default | meaning |
|---|---|---|---|---|
{rows}
"""

# The definitions that hold a kind's options, by the prefix of their names.
KINDS = {"methods": "methods", "merges": "merges", "data": "data sets", "classifiers": "classifiers"}


def configuration() -> str:
    """Return the text of docs/configuration.md."""
    schema = yaml.safe_load((PROJECT / "schemas" / "config.schema.yaml").read_text())
    keys = "\n".join(f"| {' | '.join(cells)} |" for cells in rows(schema))
    text = f"{HEAD}\n| key | type | default | meaning |\n|---|---|---|---|\n{keys}\n"
    for prefix, title in KINDS.items():
        kinds_with: dict[tuple[str, ...], list[str]] = {}
        for name, definition in schema["$defs"].items():
            if name.startswith(f"{prefix}."):
                for cells in rows(definition):
                    kinds_with.setdefault(cells, []).append(code(name.removeprefix(f"{prefix}.")))
        lines = [f"| {' | '.join([', '.join(kinds), *cells])} |" for cells, kinds in kinds_with.items()]
        text += OPTIONS.format(title=title, column=title.removesuffix("s"), rows="\n".join(lines))
    return text


def rows(schema: dict) -> Iterator[tuple[str, ...]]:
    """Yield the cells of every key below a schema that has a meaning of its own: key, type, default, meaning."""
    for key, described, required in entries(schema):
        if "description" in described:
            default = "required" if required else code(short(described["default"])) if "default" in described else "–"
            meaning = described["description"].replace("|", "\\|").replace("<", "&lt;")
            yield f"`{key}`", kind(described), default, meaning


def entries(schema: dict, path: str = "") -> Iterator[tuple[str, dict, bool]]:
    """Yield every key below a schema as a dotted path, what the schema says of it, and whether it must be given."""
    inner = dict(schema.get("properties", {}))
    if isinstance(schema.get("additionalProperties"), dict):
        inner["NAME"] = schema["additionalProperties"]
    for key, described in inner.items():
        dotted = f"{path}.{key}" if path else key
        yield dotted, described, key in schema.get("required", [])
        for alternative in [described, *described.get("anyOf", [])]:
            yield from entries(alternative, dotted)
        if "items" in described:
            yield from entries(described["items"], f"{dotted}[]")


def kind(described: dict) -> str:
    """Return what a value may be, for people."""
    if "const" in described:
        return code(yaml_inline(described["const"]))
    if "enum" in described:
        return ", ".join(code(yaml_inline(value)) for value in described["enum"])
    if "anyOf" in described:
        return " or ".join(kind(alternative) for alternative in described["anyOf"])
    types = described.get("type", "any")
    types = [types] if isinstance(types, str) else types
    text = " or ".join({"object": "mapping", "array": "list", "null": "null"}.get(type_, type_) for type_ in types)
    if "items" in described and "type" not in described["items"]:
        text += f" of {kind(described['items'])}"
    elif "items" in described:
        text += f" of {described['items']['type']}s"
    limits = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = ", ".join(f"{sign} {described[key]}" for key, sign in limits.items() if key in described)
    return f"{text} {bounds}".rstrip()


def short(value: object) -> str:
    """Return a default for people: long lists by their number of entries."""
    text = yaml_inline(value)
    return f"{len(value)} entries" if isinstance(value, list) and len(text) > 40 else text


def yaml_inline(value: object) -> str:
    """Return a value as it is written in a configuration, in one line."""
    quoted = '"' if "\n" in str(value) else None  # a line break is then written as \n
    text = yaml.safe_dump(value, default_flow_style=True, width=1000, default_style=quoted)
    return text.removesuffix("\n").removesuffix("\n...")


def code(text: str) -> str:
    """Return a table cell in code type; a number of entries stays as it is."""
    return text if text.endswith(" entries") else "`" + text.replace("|", "\\|") + "`"


if __name__ == "__main__":
    (PROJECT / "docs" / "configuration.md").write_text(configuration())
