"""What lies beside an exported candidate's weights: its model card, and how mergekit would make its merge again."""

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from spunge.files import is_local
from spunge.task_vector import BaseModel, TaskVector

CARD = """\
---
{front}---

# {name}

This is {base} after unlearning: its weights plus a task vector. It was made by the workflow for
[SPUNGE](https://arxiv.org/abs/2406.11780), which can split forget data by attribute, unlearn every shard from the base
model, and merge the task vectors.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
```

## How it was made

| | |
|---|---|
{rows}

{mergekit}

## What unlearning does not promise

Unlearning lowers how readily a model says something. It does not prove that the knowledge is gone: other wording, other
languages, examples in the prompt, quantization or a little fine-tuning may bring it back, and what was to stay may have
suffered. Measure both for your own use before you rely on either, and don't take this model for proof that data were
erased.

## License

The base model's license holds for these weights as well; this card adds none and changes none.
"""
MERGEKIT_HEAD = """\
# Makes this merge again. First export the shards that `models` names, in float32; then, in this folder:
#   mergekit-yaml mergekit.yaml OUTPUT
"""
NO_MERGEKIT = {
    "dare_linear": "mergekit has DARE too, but would draw other entries to drop",
    "dare_ties": "mergekit has DARE too, but would draw other entries to drop",
}
# The folders of an absolute path in somebody's options, which are nobody else's business; its last part stays.
_FOLDERS = re.compile(r"(?<![\w.:/~])[~/][^\s\"'`,]*/")


def write(building: Path, folder: Path, name: str, base: BaseModel, task_vector: TaskVector, dtype: str) -> None:
    """Write README.md and, where mergekit's definition of the merge equals ours, mergekit.yaml into `building`.

    `folder` is where the files will lie in the end, `name` the candidate's, `dtype` the name of the weights' own.
    """
    provenance = task_vector.provenance
    sentence = "This is no merge."
    if "merge" in provenance:
        sizes = [shape.numel() for shape in task_vector.shapes.values()]
        configuration, reason = mergekit(provenance, _base_model(base, folder), dtype, sizes)
        sentence = f"There is no mergekit.yaml: {reason}."
        if configuration:
            text = yaml.safe_dump(configuration, sort_keys=False, allow_unicode=True)
            (building / "mergekit.yaml").write_text(MERGEKIT_HEAD + text)
            sentence = (
                "`mergekit.yaml` makes the merge again with [mergekit](https://github.com/arcee-ai/mergekit) from the "
                "shards' own exports in float32; in 16 bits the shards are rounded, and the merge comes out a bit "
                "different."
            )
    (building / "README.md").write_text(card(name, base, provenance, dtype, sentence))


def card(name: str, base: BaseModel, provenance: Mapping, dtype: str, mergekit_sentence: str) -> str:
    """Return the model card: how the candidate was made, as its task vector's provenance tells it, and a caution."""
    front: dict[str, object] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    front["tags"] = ["unlearning", "spunge"]
    if _on_hub(base):  # the hub takes nothing else for a base model
        front["base_model"] = base.source
    rows = "\n".join(f"| {label} | {text} |" for label, text in _rows(name, base, provenance, dtype) if text)
    return CARD.format(
        front=yaml.safe_dump(front, sort_keys=False),
        name=name,
        base=_described(base),
        rows=rows,
        mergekit=mergekit_sentence,
    )


def mergekit(
    provenance: Mapping, base_model: str, dtype: str, sizes: Iterable[int]
) -> tuple[dict, None] | tuple[None, str]:
    """Return mergekit's configuration of a candidate's merge, or None and the reason why there is none.

    `base_model` is a hub id or a path, `dtype` that of the result, `sizes` the number of entries of every parameter.
    The shards' exports are named by paths relative to the candidate's own.
    """
    kind, options = provenance["merge"], provenance["options"]
    shards = provenance.get("unlearned", [])
    if not shards or not all("run" in shard for shard in shards):
        return None, "the shards' provenance does not tell where their exports lie"
    if kind == "ties":
        if options["trim"] != "tensor":
            return None, "mergekit trims every tensor by itself, this merge the whole model"
        if options["sign"] != "mass":
            return None, "mergekit's TIES elects signs by summed values, this merge by their number"
        if options["zero_sum"] != "positive":
            return None, "mergekit elects + where a sum is 0, this merge what is elected more often"
        if any(size > 0 and int(options["density"] * size) < 1 for size in sizes):
            return None, "mergekit keeps an entry of every tensor, this merge none where the density asks for less"
        method, normalize, of_each = "ties", True, {"density": options["density"]}
    elif kind == "linear":
        method, normalize, of_each = "task_arithmetic", options["normalize"], {}
    else:
        return None, NO_MERGEKIT.get(kind, "mergekit has no such merge")
    # With a factor on a whole candidate, the shards' exports bear it too: `lambda` is the merge's own.
    parameters = {"normalize": normalize, "lambda": options["scale"]}
    weights = options["weights"] or [1.0] * len(shards)
    entries = [
        {
            "model": os.path.relpath(shard["run"], provenance["candidate"]),
            "parameters": {"weight": weight, **of_each},
        }
        for shard, weight in zip(shards, weights, strict=True)
    ]
    configuration = {"merge_method": method, "base_model": base_model, "models": entries, "parameters": parameters}
    configuration["dtype"] = "float32"
    if dtype != "float32":
        configuration["out_dtype"] = dtype
    return configuration, None


def _rows(name: str, base: BaseModel, provenance: Mapping, dtype: str) -> list[tuple[str, str]]:
    runs = provenance.get("unlearned", [provenance])
    path = name.split("/")
    made_as = provenance.get("candidate", provenance.get("run", name))
    versions = {**provenance.get("versions", {}), "commit": provenance.get("commit", "unknown")}
    return [
        ("candidate", _code(name)),
        ("takes the task vector of", _code(made_as) if made_as != name else ""),
        ("base model", f"{_described(base)}, {base.parameters} parameters, identity {_code(base.identity)}"),
        ("method", _values(runs, "method")),
        ("SHA-256 of the method's file", _values(runs, "method_sha256")),
        ("options", _values(runs, "options")),
        ("split", _code(path[1]) if len(path) > 2 else ""),
        ("shards", ", ".join(_code(run["shard"]) for run in runs if "shard" in run)),
        ("merge", _code(provenance["merge"]) if "merge" in provenance else ""),
        ("its options", _code(provenance["options"]) if "merge" in provenance else ""),
        ("seed", _values(runs, "seed")),
        ("λ on the whole", _code(provenance.get("scale", 1.0))),
        ("SHA-256 of the data", _values(runs, "data")),
        ("SHA-256 of the shards' task vectors", _code(provenance["shards"]) if "shards" in provenance else ""),
        ("versions", _code(versions)),
        ("dtype of the weights", _code(dtype)),
    ]


def _values(runs: list[Mapping], key: str) -> str:
    """Return what the runs have under `key`, each value once, in the runs' order."""
    return ", ".join(dict.fromkeys(_code(run[key]) for run in runs if key in run))


def _code(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"`{_FOLDERS.sub('…/', text)}`".replace("|", "\\|")


def _on_hub(base: BaseModel) -> bool:
    return not base.source.startswith("wheel:") and not is_local(base.source)


def _revision(base: BaseModel) -> str | None:
    return json.loads((base.folder / "manifest.json").read_text())["revision"]


def _described(base: BaseModel) -> str:
    """Name the base model for readers elsewhere: of a local folder, only its last part."""
    if is_local(base.source):
        return f"the local model {_code(Path(base.source).name)}"
    revision = _revision(base)
    return _code(base.source) + (f" (revision {_code(revision)})" if revision else "")


def _base_model(base: BaseModel, folder: Path) -> str:
    if _on_hub(base):
        return "@".join(filter(None, [base.source, _revision(base)]))
    return os.path.relpath(base.folder, folder)
