"""Write docs/configuration.md from schemas/config.schema.yaml and from the Options of methods, merges and data sets.

python docs/generate.py
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from spunge import merging  # noqa: E402
from spunge.experiment.configuration import declared_options  # noqa: E402

HEAD = """\
<!-- Written by `python docs/generate.py` from schemas/config.schema.yaml and the code; change those. -->
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
- A method can't be called `base`, a merge not `all`, `part1` or `group1`: so are other things in the paths of results.

## Keys

`NAME` stands for a name of your choice, `[]` for each entry of a list. A dash: no default, the key must be given where
what holds it is, or (an option of a method or merge) its default stands further down.
"""

OPTIONS = """
## Options of {kind}

| {column} | option | type | default |
|---|---|---|---|
{rows}
"""


def configuration() -> str:
    """Return the text of docs/configuration.md."""
    schema = yaml.safe_load((PROJECT / "schemas" / "config.schema.yaml").read_text())
    described = [
        (key, described_key)
        for key, described_key in entries(schema, schema)
        if described_key.get("type") != "object" or "description" in described_key
    ]
    keys = "\n".join(row(*entry) for entry in described)
    text = f"{HEAD}\n| key | type | default | meaning |\n|---|---|---|---|\n{keys}\n"
    for kind, column, paths in (
        ("methods", "method", sorted((PROJECT / "spunge" / "methods").glob("*.py"))),
        ("merges", "merge", [PROJECT / "spunge" / "merging" / f"{kind}.py" for kind in merging.KINDS]),
        ("data sets", "data set", sorted((PROJECT / "spunge" / "datasets").glob("*.py"))),
    ):
        rows = [
            f"| `{path.stem}` | `{option}` | {code(type_)} | {code(short(default))} |"
            for path in paths
            for option, (type_, default) in declared_options(path).items()
        ]
        text += OPTIONS.format(kind=kind, column=column, rows="\n".join(rows))
    return text


def entries(schema: dict, root: dict, path: str = "") -> Iterator[tuple[str, dict]]:
    """Yield every key below a schema with what the schema says of it, the keys as dotted paths."""
    inner = dict(schema.get("properties", {}))
    if isinstance(schema.get("additionalProperties"), dict):
        inner["NAME"] = schema["additionalProperties"]
    for key, described in inner.items():
        described = resolved(described, root)
        dotted = f"{path}.{key}" if path else key
        yield dotted, described
        yield from entries(described, root, dotted)
        if "items" in described:
            yield from entries(resolved(described["items"], root), root, f"{dotted}[]")


def resolved(described: dict, root: dict) -> dict:
    """Return a schema with its `$ref` into `$defs` filled in."""
    if "$ref" not in described:
        return described
    return {**root["$defs"][described["$ref"].removeprefix("#/$defs/")], **described}


def row(key: str, described: dict) -> str:
    """Return one line of the table of keys."""
    default = code(yaml_inline(described["default"])) if "default" in described else "–"
    meaning = " ".join(described.get("description", "").split()).replace("|", "\\|")
    return f"| `{key}` | {kind(described)} | {default} | {meaning} |"


def kind(described: dict) -> str:
    """Return what a value may be, for people."""
    if "const" in described:
        return code(yaml_inline(described["const"]))
    if "enum" in described:
        return ", ".join(code(yaml_inline(value)) for value in described["enum"])
    for either in ("oneOf", "anyOf"):
        if either in described:
            return " or ".join(kind(alternative) for alternative in described[either])
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


def short(value: ast.expr | None) -> str:
    """Return a default for people: long ones by their number of entries, none as a dash."""
    if value is None:
        return "–"
    if isinstance(value, ast.Tuple) and len(ast.unparse(value)) > 40:
        return f"{len(value.elts)} entries"
    return yaml_inline(ast.literal_eval(value))


def yaml_inline(value: object) -> str:
    """Return a value as it is written in a configuration, in one line."""
    value = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")


def code(text: str) -> str:
    """Return a table cell in code type; a dash or a number of entries stays as it is."""
    return text if text == "–" or text.endswith(" entries") else "`" + text.replace("|", "\\|") + "`"


if __name__ == "__main__":
    (PROJECT / "docs" / "configuration.md").write_text(configuration())
