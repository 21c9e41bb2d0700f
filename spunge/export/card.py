"""What lies beside an exported candidate's weights: its model card, and how mergekit would make its merge again."""

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml
from huggingface_hub import ModelCard, ModelCardData

from spunge.core.files import is_local
from spunge.export.contents import CARD, MERGEKIT
from spunge.merging.options import ABSOLUTE, MERGEKIT_METHODS
from spunge.models.task_vector import BaseModel, TaskVector

TEMPLATE = Path(__file__).with_name("card.md")
MERGEKIT_HEAD = """\
# Makes this merge again. First export the shards that `models` names, in float32; then, in this folder:
#   mergekit-yaml mergekit.yaml OUTPUT
"""
NO_MERGEKIT = {
    "dare_linear": "mergekit has DARE too, but would draw other entries to drop",
    "dare_ties": "mergekit has DARE too, but would draw other entries to drop",
}
# The folders of an absolute path in a user's options are nobody else's business; only its last part stays. A text that
# begins with a path, and what is quoted, is taken for one path; elsewhere a path ends at a space.
_FOLDERS = re.compile(
    r"""(?x)(?s: \A\s*(?:[~/]|file:) .*
           | (?<=["'`])(?:[~/]|file:) [^"'`]*
           | (?<![\w./~])(?!(?<=:)//)(?:[~/]|file:) (?:\\\s|[^\s"'`])* ) /"""
)
_JSON_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


def write(building: Path, folder: Path, name: str, base: BaseModel, task_vector: TaskVector, dtype: str) -> None:
    """Write README.md and, where mergekit's definition of the merge equals ours, mergekit.yaml into `building`.

    `folder` is where the files will lie in the end, `name` the candidate's, `dtype` the name of the weights' own.
    """
    provenance, reason = task_vector.provenance, None
    if "merge" in provenance:
        sizes = [shape.numel() for shape in task_vector.shapes.values()]
        configuration, reason = mergekit(provenance, _base_model(base, folder), dtype, sizes)
        if configuration:
            text = yaml.safe_dump(configuration, sort_keys=False, allow_unicode=True)
            (building / MERGEKIT).write_text(MERGEKIT_HEAD + text)
    (building / CARD).write_text(card(name, base, provenance, dtype, reason))


def card(
    name: str,
    base: BaseModel,
    provenance: Mapping,
    dtype: str,
    no_mergekit: str | None,
    adapter: Mapping[str, str] | None = None,
) -> str:
    """Return the model card: how the candidate was made, as its task vector's provenance tells it, and a caution.

    `no_mergekit` is why mergekit can't make its merge again, None where it can. `adapter` is what card.md says of an
    adapter; None of a whole model.
    """
    front = ModelCardData(
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["unlearning", "spunge"],
        base_model=base.source if _on_hub(base) else None,  # the hub takes nothing else for a base model
    )
    runs = provenance.get("unlearned", [provenance])
    path = name.split("/")
    made_as = provenance.get("candidate", provenance.get("run", name))
    merged = "merge" in provenance
    facts = {
        "name": name,
        "base": _described(base),
        "parameters": base.parameters,
        "identity": _code(base.identity),
        "candidate": _code(name),
        "made_as": _code(made_as) if made_as != name else "",
        **{key: _values(runs, key) for key in ("method", "method_sha256", "options", "seed", "data")},
        "split": _code(path[1]) if len(path) > 2 else "",
        "shards": ", ".join(_code(run["shard"]) for run in runs if "shard" in run),
        "merge": _code(provenance["merge"]) if merged else "",
        "merge_options": _code(provenance["options"]) if merged else "",
        "scale": _code(provenance.get("scale", 1.0)),
        "shards_sha256": _code(provenance["shards"]) if "shards" in provenance else "",
        "versions": _code({**provenance.get("versions", {}), "commit": provenance.get("commit", "unknown")}),
        "dtype": _code(dtype),
        "no_mergekit": no_mergekit,
        "on_hub": _on_hub(base),
        "adapter": adapter,
    }
    return f"{ModelCard.from_template(front, TEMPLATE, **facts)}\n"


def mergekit(
    provenance: Mapping, base_model: str, dtype: str, sizes: Iterable[int]
) -> tuple[dict, None] | tuple[None, str]:
    """Return mergekit's configuration of a candidate's merge, or None and the reason why there is none.

    `base_model` is a hub id or a path, `dtype` that of the result, `sizes` the number of entries of every parameter.
    The shards' exports are named by paths relative to the candidate's own.
    """
    if provenance.get("budget"):
        return None, "its λ is that of a budget, and each shard's export has another one"
    kind, options = provenance["merge"], provenance["options"]
    shards = provenance.get("unlearned", [])
    if not shards or not all("run" in shard for shard in shards):
        return None, "the shards' provenance does not tell where their exports lie"
    parameters, of_each, weighted = {"lambda": options["scale"]}, {}, True
    if kind == "ties":
        if options["trim"] != "tensor":
            return None, "mergekit trims every tensor by itself, this merge the whole model"
        if options["sign"] != "mass":
            return None, "mergekit's TIES elects signs by summed values, this merge by their number"
        if options["zero_sum"] != "positive":
            return None, "mergekit elects + where a sum is 0, this merge what is elected more often"
        if any(size > 0 and int(options["density"] * size) < 1 for size in sizes):
            return None, "mergekit keeps an entry of every tensor, this merge none where the density asks for less"
        method, parameters["normalize"], of_each = "ties", True, {"density": options["density"]}
    elif kind == "linear":
        method, parameters["normalize"] = "task_arithmetic", options["normalize"]
    elif kind == "mergekit":
        method, weighted = options["method"], "weights" in MERGEKIT_METHODS[options["method"]]
        if method.startswith(("dare", "della")):
            return None, "mergekit would draw other entries to drop"
        if method in ABSOLUTE and provenance.get("scale", 1) != 1:
            return (
                None,
                f"mergekit's {method} has fixed thresholds, so λ times the shards is not λ times their merge",
            )
        if not weighted and options["scale"] != 1:
            return None, f"mergekit's {method} has no factor on the result, and this merge has one"
        own = {key: options[key] for key in MERGEKIT_METHODS[method] if key != "weights" and options[key] is not None}
        parameters = (parameters if weighted else {}) | own
    else:
        return None, NO_MERGEKIT.get(kind, "mergekit has no such merge")
    # With a configured factor on a whole candidate, the shards' exports bear it too: `lambda` is the merge's own.
    weights = options["weights"] or [1.0] * len(shards)
    entries = [
        {
            "model": os.path.relpath(shard["run"], provenance["candidate"]),
            "parameters": {**({"weight": weight} if weighted else {}), **of_each},
        }
        for shard, weight in zip(shards, weights, strict=True)
    ]
    configuration = {"merge_method": method, "base_model": base_model, "models": entries, "parameters": parameters}
    configuration["dtype"] = "float32"
    if dtype != "float32":
        configuration["out_dtype"] = dtype
    return configuration, None


def hub_model(base: BaseModel) -> tuple[str, str | None] | tuple[None, None]:
    """Return a base model's id on the hub, and its revision if one was named; None where it isn't of the hub."""
    return (base.source, _revision(base)) if _on_hub(base) else (None, None)


def _values(runs: list[Mapping], key: str) -> str:
    """Return what the runs have under `key`, each value once, in the runs' order."""
    return ", ".join(dict.fromkeys(_code(run[key]) for run in runs if key in run))


def _code(value: object) -> str:
    return f"`{_without_folders(value)}`".replace("|", "\\|")


def _without_folders(value: object) -> str:
    """Return a text, or JSON of another value, with the last part alone of the paths in each string."""
    if isinstance(value, str):
        return _FOLDERS.sub("…/", value)

    def of_string(found: re.Match) -> str:
        return json.dumps(_without_folders(json.loads(found[0])), ensure_ascii=False)

    return _JSON_STRING.sub(of_string, json.dumps(value))


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
