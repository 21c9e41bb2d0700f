"""A candidate's numbers again, in plain PyTorch and transformers: nothing of this library is imported.

python benchmarks/recompute.py results/country-capitals rmu/attribute/merge/ties/seed0

It trains one shard of an RMU candidate by what its provenance says, text by text and without padding; merges the
shards' task vectors by TIES; reads the texts that set and measure damage with and without the edit; and asks each
question choice by choice. It prints how far each number is from the workflow's, and ends with code 1 where that is more
than rounding. For RMU with `mask: true`, `control_vector_per: run` and `adamw: pytorch`, on a Llama-like model in
float32, and questions between which and their choices a space stands.
"""

import argparse
import copy
import json
import math
import sys
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

VECTOR = "task_vector.safetensors"
# Relative: rounding that sixty steps of AdamW carry on, that of one pass, and none.
TRAINED, READ, SAME = 1e-3, 1e-4, 0.0
ROUNDING = 1e-7  # of a mean over tokens in fp32, in nats: all that a small KL may differ by


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and compare; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="the experiment's folder")
    parser.add_argument("candidate", help="a merge of RMU's shards, as evaluations.csv has it")
    parser.add_argument("--max-tokens", type=int, default=128, help="evaluations.fluency.max_tokens")
    arguments = parser.parse_args(argv)
    results, candidate = arguments.results, arguments.candidate
    merged = results / "merged" / candidate / VECTOR
    record = provenance(merged)
    model, tokenizer = base_model(results.parents[1], record["base"])
    runs = {shard: results / "unlearned" / shard_path(candidate, shard) / VECTOR for shard in record["shards"]}
    shards = [load_file(path) for path in runs.values()]

    found = {}
    shard, path = next(iter(runs.items()))
    again = train(model, tokenizer, results, candidate, shard, provenance(path))
    found[f"task vector of {shard}"] = relative(again, shards[0]), TRAINED
    vector, stored = ties(shards, record["options"]["density"]), load_file(merged)
    found["TIES of the shards"] = max(float((vector[name] - stored[name]).abs().max()) for name in stored), SAME
    evaluated = results / "evaluations" / candidate
    if (strengths := evaluated / "strengths.json").exists():
        for label, scale in json.loads(strengths.read_text()).items():
            if scale is None:  # no λ reaches this budget
                continue
            found |= damage(model, tokenizer, results, evaluated, label, vector, scale, arguments.max_tokens)
            found |= knowledge(model, tokenizer, results, evaluated, label, vector, scale)
    else:
        found |= knowledge(model, tokenizer, results, evaluated, "", vector, record["options"]["scale"])

    print(pd.DataFrame(found, index=["difference", "allowed"]).T.to_markdown(floatfmt=".2g"))
    return int(any(difference > allowed for difference, allowed in found.values()))


def provenance(path: Path) -> dict:
    """Return what a task vector's file says of how it was made."""
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["spunge"])


def base_model(folder: Path, identity: str):
    """Return the model and the tokenizer that the records are of."""
    manifests = {path: json.loads(path.read_text()) for path in folder.glob("resources/models/*/manifest.json")}
    [path] = [path.parent for path, manifest in manifests.items() if manifest["identity"] == identity]
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    return model.requires_grad_(False), AutoTokenizer.from_pretrained(path)


def shard_path(candidate: str, shard: str) -> str:
    """Return where the run on a shard lies: rmu/attribute/merge/ties/seed0 has rmu/attribute/shard/Asia/seed0."""
    method, split, _, _, seed = candidate.split("/")
    return f"{method}/{split}/shard/{shard}/{seed}"


def token_ids(tokenizer, text: str, most: int) -> torch.Tensor:
    return torch.tensor([tokenizer(text, truncation=True, max_length=most)["input_ids"]])


# Unlearning: RMU (Li et al. 2024)


def train(model, tokenizer, results: Path, candidate: str, shard: str, record: dict) -> dict[str, torch.Tensor]:
    """Return the task vector of a run on one shard: ‖h(forget) − c‖² + α ‖h(retain) − h₀(retain)‖², by AdamW."""
    options, split, seed = record["options"], candidate.split("/")[1], record["seed"]
    folder = results / "shards" / (f"{split}-seed{seed}" if split.startswith("random") else split)
    texts = {
        "forget": pd.read_parquet(folder / f"{shard}.parquet")["text"],
        "retain": pd.read_parquet(results / "data" / "retain.parquet")["text"],
    }
    visits = options["batch_size"] * options["steps"]
    rows = {table: order(len(texts[table]), visits, seed + 2**31 * (table == "retain")) for table in texts}
    uniform = torch.rand(model.config.hidden_size, generator=torch.Generator().manual_seed(seed))
    control = options["steering_coefficient"] * uniform / uniform.norm()

    def states(table: str, step: int) -> torch.Tensor:
        batch = rows[table][step * options["batch_size"] : (step + 1) * options["batch_size"]]
        of_texts = [
            model.model(token_ids(tokenizer, texts[table][row], options[f"max_tokens_{table}"])).last_hidden_state[0]
            for row in batch
        ]
        return torch.cat([of_text[options["skip_first"] :] for of_text in of_texts])

    model = copy.deepcopy(model)
    model.model.layers, model.model.norm = model.model.layers[: options["layer_id"] + 1], torch.nn.Identity()
    trained = {
        f"model.layers.{layer}.{name}": model.get_parameter(f"model.layers.{layer}.{name}")
        for layer in options["trained_layers"]
        for name in options["trained_parameters"]
    }
    base = {name: parameter.detach().clone() for name, parameter in trained.items()}
    frozen = [states("retain", step) for step in range(options["steps"])]
    for parameter in trained.values():
        parameter.requires_grad_(True)
    rate, decay, epsilon = options["learning_rate"], options["weight_decay"], options["epsilon"]
    optimizer = torch.optim.AdamW(trained.values(), lr=rate, weight_decay=decay, eps=epsilon)
    for step in range(options["steps"]):
        forget = (states("forget", step) - control).square().mean()
        retain = (states("retain", step) - frozen[step]).square().mean()
        optimizer.zero_grad()
        (forget + options["alpha"] * retain).backward()
        optimizer.step()
    return {name: parameter.detach() - base[name] for name, parameter in trained.items()}


def order(count: int, visits: int, seed: int) -> list[int]:
    """Return row numbers in shuffled passes."""
    generator, rows = torch.Generator().manual_seed(seed % 2**32), []
    while len(rows) < visits:
        rows += torch.randperm(count, generator=generator).tolist()
    return rows


# Merging: TIES (Yadav et al. 2023)


def ties(vectors: list[dict[str, torch.Tensor]], density: float) -> dict[str, torch.Tensor]:
    """Return the mean over the trimmed entries that have the elected sign, tensor by tensor."""
    merged = {}
    for name, tensor in vectors[0].items():
        keep = max(int(density * tensor.numel()), 1)
        trimmed = []
        for vector in vectors:
            least = vector[name].abs().flatten().sort(descending=True).values[keep - 1]
            trimmed.append(vector[name].where(vector[name].abs() >= least, 0.0))
        stacked = torch.stack(trimmed)
        elected = torch.where(stacked.sum(dim=0) >= 0, 1.0, -1.0)
        agreeing = stacked.sign() == elected
        merged[name] = (stacked * agreeing).sum(dim=0) / agreeing.sum(dim=0).clamp(min=1)
    return merged


# Evaluating


@contextmanager
def edited(model, vector: dict[str, torch.Tensor], scale: float):
    """Within this context the model is base + λ · task vector."""
    parameters = {name: model.get_parameter(name) for name in vector}
    base = {name: parameter.clone() for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        parameter += scale * vector[name]
    yield
    for name, parameter in parameters.items():
        parameter.copy_(base[name])


@torch.no_grad()
def log_probabilities(model, ids: torch.Tensor) -> torch.Tensor:
    return model(ids).logits[0].double().log_softmax(dim=-1)


def damage(model, tokenizer, results, evaluated, label, vector, scale, most) -> dict[str, tuple[float, float]]:
    """Return how far KL and perplexity ratio are from those of a budget."""
    rows = pd.read_csv(evaluated / "budget.csv", keep_default_na=False)
    stored = rows[rows["budget"] == label].set_index("metric")["value"].astype(float)
    texts = {name: pd.read_parquet(results / "data" / f"{name}.parquet")["text"] for name in ("calibration", "fluency")}
    kl, _ = means(model, tokenizer, texts["calibration"], vector, scale, most)
    kl_held_out, excess = means(model, tokenizer, texts["fluency"], vector, scale, most)
    found = {"kl": kl, "kl_held_out": kl_held_out, "perplexity_ratio": math.exp(excess)}
    return {
        f"{label}, {name}": (abs(value / stored[name] - 1), READ + ROUNDING / stored[name])
        for name, value in found.items()
    }


def means(model, tokenizer, texts, vector, scale, most) -> tuple[float, float]:
    """Return KL(base ‖ candidate) and the candidate's loss less the base's, per token of the texts, in nats."""
    divergence, excess, tokens = 0.0, 0.0, 0
    for text in texts:
        ids = token_ids(tokenizer, text, most)
        base = log_probabilities(model, ids)[:-1]
        with edited(model, vector, scale):
            candidate = log_probabilities(model, ids)[:-1]
        divergence += float((base.exp() * (base - candidate)).sum())
        excess += float((base - candidate).gather(1, ids[0, 1:, None]).sum())
        tokens += len(base)
    return divergence / tokens, excess / tokens


def knowledge(model, tokenizer, results, evaluated, label, vector, scale) -> dict[str, tuple[float, float]]:
    """Return of how many questions the model's choice is right where the workflow says that it isn't, or wrong."""
    questions = pd.read_parquet(results / "data" / "questions.parquet")
    stored = pd.read_parquet(evaluated / "knowledge.parquet").query("budget == @label").reset_index(drop=True)
    right = {"accuracy": [], "accuracy_norm": []}
    with edited(model, vector, scale):
        for row in questions.itertuples():
            likelihoods = [likelihood(model, tokenizer, row.question, choice) for choice in row.choices]
            by_length = [value / len(choice) for value, choice in zip(likelihoods, row.choices, strict=True)]
            for metric, values in (("accuracy", likelihoods), ("accuracy_norm", by_length)):
                right[metric].append(float(max(range(len(values)), key=values.__getitem__) == row.answer))
    at = f"{label}, " if label else ""
    return {
        f"{at}questions of {metric}": (float((stored[metric] != pd.Series(values)).sum()), SAME)
        for metric, values in right.items()
    }


def likelihood(model, tokenizer, question: str, choice: str) -> float:
    before, whole = (tokenizer(text)["input_ids"] for text in (question, f"{question} {choice}"))
    ids = torch.tensor([whole])
    of_tokens = log_probabilities(model, ids)[:-1].gather(1, ids[0, 1:, None])
    return float(of_tokens[len(before) - 1 :].sum())


def relative(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Return ‖found − expected‖ / ‖expected‖ over all tensors."""
    squares = [((found[name] - of_name).square().sum(), of_name.square().sum()) for name, of_name in expected.items()]
    difference, whole = (torch.stack(terms).sum() for terms in zip(*squares, strict=True))
    return float((difference / whole).sqrt())


if __name__ == "__main__":
    sys.exit(main())
