"""What one job takes, by arithmetic on what is known of the experiment: seconds, GPU memory, disk, downloads.

An amount is a list, the parts of a sum; a part that isn't known is NaN, as is what follows from it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from spunge.planning import cost_model, sizes
from spunge.planning.cost_model import BF16, FP32, UTILISATION
from spunge.planning.known import Facts, Table

START = 10  # seconds for a job to begin; 4 were measured with a small model on a local disk (docs/plan.md)
READ = 1e9  # bytes of a model a second, from disk
CHARACTERS = 4  # of a token
ACTIVATIONS_BATCH = 32  # texts of which RMU's frozen activations are computed together
GRADIENT_METHODS = ("tvn", "gradient_ascent", "gradient_difference", "npo", "simnpo")
WHOLE_MATRICES = ("tsv",)  # merges that write the tensors of LoRA adapters too
UNKNOWN = (math.nan,)


@dataclass(frozen=True)
class Cost:
    """What one job takes: seconds, bytes of GPU memory, on the disk and to download.

    `notes` say how that was reckoned, `unknown` what there is no arithmetic for.
    """

    work: str = ""
    seconds: Sequence[float] = ()
    memory: Sequence[float] = ()
    disk: Sequence[float] = ()
    download: Sequence[float] = ()
    notes: Sequence[str] = ()
    unknown: Sequence[str] = ()


def no_arithmetic(name: str, work: str = "", disk: Sequence[float] = ()) -> Cost:
    """Return the cost of a job with a model of which nothing is known but the name."""
    return Cost(work, UNKNOWN, UNKNOWN, disk, unknown=[name])


def is_open(parts: Sequence[float]) -> bool:
    """Tell whether a part of a sum isn't known."""
    return bool(np.isnan(parts).any())


def shown(parts: Sequence[float], write: Callable[[float], str] = "{:,.0f}".format) -> str:
    """Write a sum: `≥ …` where a part of it isn't known, `?` where none is, nothing for 0."""
    if not (amount := np.nansum(parts)):
        return "?" if is_open(parts) else ""
    return f"≥ {write(amount)}" if is_open(parts) else write(amount)


def added(costs: Sequence[Cost]) -> Cost:
    """Add the costs of one thing after another: of the memory the greediest counts."""
    seconds, memory, disk, download, notes, unknown = (
        [*chain(*(getattr(cost, name) for cost in costs))]
        for name in ("seconds", "memory", "disk", "download", "notes", "unknown")
    )
    greediest = max((needed for needed in memory if not math.isnan(needed)), default=0)
    memory = [greediest] + [math.nan] * is_open(memory)
    return Cost(", ".join(cost.work for cost in costs), seconds, memory, disk, download, notes, unknown)


class Estimate:
    """The arithmetic for one experiment: each public method returns what a job of one kind takes."""

    def __init__(self, facts: Facts):
        self.shape, self.tables = facts.shape, facts.tables
        self.speed = UTILISATION * sizes.DEVICES[facts.device][facts.dtype]
        self.precision = FP32 if facts.dtype == "float32" else BF16
        self.weights = self.precision * self.shape.parameters

    def unlearn(self, method: Mapping, steps: int | None) -> Cost:
        """A run of so many steps, None if the data decide."""
        vector, _ = self._vectors(method)
        if vector is None:
            return no_arithmetic(method["method"], f"{steps:,} steps" if steps else "", UNKNOWN)
        operations, memory, weights = self._rmu(method) if method["method"] == "rmu" else self._gradients(method)
        batch, number = method["options"]["batch_size"], math.nan if steps is None else steps
        work = f"{_count(number)} steps of {batch}{f' + {batch}' if _retains(method) else ''} texts"
        return Cost(work, [self._seconds(number * operations, weights)], [memory], [vector], notes=["bound"])

    def activations(self, method: Mapping) -> Cost:
        """What RMU's lower layers make of every text once, and the frozen ones above of retain texts."""
        options, forget, retain = method["options"], self._table("forget").rows, self._table("retain").rows
        lengths = _longest(options["max_tokens_forget"]), options["max_tokens_retain"]
        forget_tokens, retain_tokens = forget * lengths[0], retain * lengths[1]
        operations = min(options["trained_layers"]) * cost_model.layer_forward(self.shape, forget_tokens, lengths[0])
        operations += (options["layer_id"] + 1) * cost_model.layer_forward(self.shape, retain_tokens, lengths[1])
        weights = self._lower_weights(options)
        of_a_token = cost_model.layer_activations(self.shape, precision=self.precision)
        memory = weights + ACTIVATIONS_BATCH * max(lengths) * of_a_token
        disk = self.precision * self.shape.hidden * (forget_tokens + 2 * retain_tokens)
        work = f"{_count(forget + retain)} texts"
        return Cost(work, [self._seconds(operations, weights)], [memory], [disk], notes=["bound"])

    def merge(self, method: Mapping, kinds: Sequence[str]) -> Cost:
        """One of a method's merges, on average over their `kinds`: most of LoRA adapters have no tensors."""
        _, merged = self._vectors(method)
        if merged is None:
            return Cost(disk=UNKNOWN, unknown=[method["method"]])
        lora = method["options"].get("trained") == "lora"
        return Cost(disk=[merged * sum(not lora or kind in WHOLE_MATRICES for kind in kinds) / len(kinds)])

    def evaluate(self, evaluations: Mapping) -> Cost:
        """Evaluations of one candidate, for which the model is read once."""
        readings = {"knowledge": self._knowledge, "fluency": self._fluency, "benchmarks": self._benchmarks}
        costs = [
            readings[name](options) if name in readings else no_arithmetic(name, name)
            for name, options in evaluations.items()
        ]
        total, start = added(costs), self._seconds(0, self.weights)
        return replace(total, seconds=[start, *total.seconds], memory=np.add(self.weights, total.memory))

    def _knowledge(self, options: Mapping) -> Cost:
        questions = self._table("questions")
        tokens, longest = questions.characters / CHARACTERS, questions.longest / CHARACTERS
        seconds, memory = self._reading(tokens, longest, options["batch_size"])
        return Cost(f"{_count(questions.rows)} questions", [seconds], [memory], notes=["tokens"])

    def _fluency(self, options: Mapping) -> Cost:
        texts, length = self._table("fluency").rows, options["max_tokens"]
        seconds, memory = self._reading(texts * length, length, options["batch_size"])
        return Cost(f"{_count(texts)} texts", [seconds], [memory])

    def _benchmarks(self, options: Mapping) -> Cost:
        """lm-eval's tasks, one after another."""
        asked, readings = [], []
        for name in dict.fromkeys(options["tasks"]):
            questions, tokens, subtasks = sizes.TASKS.get(name, (math.nan, math.nan, 1))
            asked.append(min(questions, (options.get("limit") or math.inf) * subtasks))
            tokens *= 1 + options.get("fewshot", {}).get(name, 0)
            readings.append(self._reading(asked[-1] * tokens, tokens, options["batch_size"]))
        seconds, memory = zip(*readings, strict=True)
        unknown = [name for name in options["tasks"] if name not in sizes.TASKS]
        work = f"{shown(asked)} questions of {len(options['tasks'])} tasks"
        return Cost(work, seconds, memory, notes=["tasks"], unknown=unknown)

    def _reading(self, tokens: float, length: float, batch: int) -> tuple[float, float]:
        """Return (seconds, bytes) of a forward pass: one layer's activations, and logits, once more in fp32."""
        logits = (self.precision + FP32) * self.shape.vocabulary
        of_a_token = cost_model.layer_activations(self.shape, precision=self.precision) + logits
        return cost_model.whole_forward(self.shape, tokens, length) / self.speed, batch * length * of_a_token

    def _seconds(self, operations: float, weights: float) -> float:
        """Return the seconds of a job that begins, reads weights and computes."""
        return START + weights / READ + operations / self.speed

    def _rmu(self, method: Mapping) -> tuple[float, float, float]:
        """Return (operations of a step, peak bytes, bytes of weights that are read) of RMU."""
        options, forget = method["options"], _longest(method["options"]["max_tokens_forget"])
        layers, retain = (options["layer_id"], options["trained_layers"]), options["max_tokens_retain"]
        tokens, length = options["batch_size"] * (forget + retain) // 2, max(forget, retain)
        operations = cost_model.rmu_operations(self.shape, *layers, tokens, length, method["cache_activations"])
        memory = cost_model.rmu_memory(self.shape, *layers, 2 * tokens, self.precision)
        return operations, sum(memory.values()), self._lower_weights(options)

    def _gradients(self, method: Mapping) -> tuple[float, float, float]:
        """Return the same of the methods of spunge/training/loop.py; sharding divides all but the activations."""
        options, shape, batch = method["options"], self.shape, method["options"]["batch_size"]
        lora, checkpointed = options["trained"] == "lora", options["gradient_checkpointing"]
        lengths = [options["max_tokens_retain" if options.get("texts") == "retain" else "max_tokens_forget"]]
        lengths += [options["max_tokens_retain"]] * _retains(method)
        operations = sum(
            cost_model.training_operations(shape, batch * length, length, lora, checkpointed=checkpointed)
            for length in lengths
        )
        if method["method"] == "npo":  # the base model's forward pass on forget texts
            operations += cost_model.whole_forward(shape, batch * lengths[0], lengths[0])
        tokens = math.ceil(batch / options["accumulation"]) * max(lengths)
        trained, frozen = self._vectors(method)[0] / FP32, shape.parameters if lora else 0
        memory = cost_model.training_memory(shape, tokens, trained, frozen, checkpointed, self.precision)
        activations, cards = memory.pop("activations"), method["gpus"] if "accelerate" in method else 1
        return operations, sum(memory.values()) / cards + activations, self.weights

    def _vectors(self, method: Mapping) -> tuple[float, float] | tuple[None, None]:
        """Return the bytes of a shard's and of a merged task vector; None where nothing is known of such a method."""
        options, shape, kind = method["options"], self.shape, method["method"]
        if kind == "rmu" and list(options["trained_parameters"]) == ["mlp.down_proj.weight"]:
            trained = changed = len(options["trained_layers"]) * shape.down_projection
        elif kind in GRADIENT_METHODS and options["trained"] == "all":
            trained = changed = shape.parameters
        elif kind in GRADIENT_METHODS and options["trained"] == "lora":
            targets = shape.matrices if options["lora_targets"] == "all-linear" else options["lora_targets"]
            if not set(targets) <= shape.matrices.keys():
                return None, None
            trained, changed = shape.lora(options["lora_rank"], targets), shape.adapted(targets)
        else:
            return None, None
        return FP32 * trained, FP32 * changed

    def _lower_weights(self, options: Mapping) -> float:
        """Return the bytes of what RMU loads: the embedding and the layers 0 … `layer_id`."""
        return self.precision * (self.shape.embedding + (options["layer_id"] + 1) * self.shape.layer)

    def _table(self, name: str) -> Table:
        return self.tables.get(name, Table())


def _retains(method: Mapping) -> bool:
    """Tell whether a step has retain texts in its loss."""
    return method["method"] == "rmu" or bool(method["options"].get("retain_weight"))


def _longest(tokens: int | Sequence[int]) -> int:
    return max(tokens) if isinstance(tokens, Sequence) else tokens


def _count(number: float) -> str:
    return "?" if math.isnan(number) else f"{number:,.0f}"
