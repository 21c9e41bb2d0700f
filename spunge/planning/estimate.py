"""What one job takes, by arithmetic on what is known of the experiment: seconds, GPU memory, disk, downloads.

An amount is a list, the parts of a sum; a part that isn't known is NaN, as is what follows from it.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain

import numpy as np

from spunge.planning import cost_model
from spunge.planning.cost_model import BF16, FP32, UTILISATION
from spunge.planning.known import DEVICES, TASKS, Facts, Table

START = 10  # seconds for a job to begin; 4 were measured with a small model on a local disk (docs/plan.md)
READ = 1e9  # bytes of a model a second, from disk
CHARACTERS = 4  # of a token
PASSES = 3  # over the calibration texts for each budget: 8 or 9 were measured for three (docs/budgets.md)
LAYER_START = 1.2e-3  # seconds to start one layer's kernels, which a written token waits for (docs/plan.md)
ACTIVATIONS_BATCH = 32  # texts of which RMU's frozen activations are computed together
GRADIENT_METHODS = ("tvn", "gradient_ascent", "gradient_difference", "npo", "simnpo")
WHOLE_MATRICES = ("tsv", "mergekit")  # merges that write the tensors of LoRA adapters too
UNKNOWN = (math.nan,)


@dataclass(frozen=True)
class Cost:
    """What one job takes: seconds, bytes of GPU memory, on the disk and to download."""

    work: str = ""
    seconds: Sequence[float] = ()
    memory: Sequence[float] = ()
    disk: Sequence[float] = ()
    download: Sequence[float] = ()
    notes: Sequence[str] = ()  # how that was reckoned: report/plan.txt
    unknown: Sequence[str] = ()  # what there is no arithmetic for


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
    lists = [field.name for field in fields(Cost) if field.name != "work"]
    sums = {name: [*chain(*(getattr(cost, name) for cost in costs))] for name in lists}
    sums["memory"] = [np.nanmax([0, *sums["memory"]]), *UNKNOWN * is_open(sums["memory"])]
    return Cost(", ".join(cost.work for cost in costs), **sums)


class Estimate:
    """The arithmetic for one experiment: each public method returns what a job of one kind takes."""

    def __init__(self, facts: Facts):
        self.shape, self.tables = facts.shape, defaultdict(Table, facts.tables)
        self.speed = UTILISATION * DEVICES[facts.device][facts.dtype]
        self.bandwidth = UTILISATION * DEVICES[facts.device]["bandwidth"]
        self.precision = FP32 if facts.dtype == "float32" else BF16
        self.weights = self.precision * self.shape.parameters

    def unlearn(self, method: Mapping, steps: int | None) -> Cost:
        """A run of so many steps, None if the data decide."""
        if not (parameters := self._parameters(method)):
            return no_arithmetic(method["method"], f"{steps:,} steps" if steps else "", UNKNOWN)
        trained, number = parameters[0], math.nan if steps is None else steps
        of_a_step = self._rmu if method["method"] == "rmu" else self._gradients
        operations, memory, weights = of_a_step(method, trained)
        batches = " + ".join(str(method["options"]["batch_size"]) for _ in _lengths(method))
        work, seconds = f"{shown([number])} steps of {batches} texts", self._seconds(number * operations, weights)
        return Cost(work, [seconds], [memory], [FP32 * trained], notes=["bound"])

    def activations(self, method: Mapping) -> Cost:
        """What RMU's lower layers make of every text once, and the frozen ones above of retain texts."""
        options, lengths = method["options"], _lengths(method)
        texts = [self.tables[name].rows for name in ("forget", "retain")]
        forget, retain = ((number * length, length) for number, length in zip(texts, lengths, strict=True))
        operations = min(options["trained_layers"]) * cost_model.layer_forward(self.shape, *forget)
        operations += (options["layer_id"] + 1) * cost_model.layer_forward(self.shape, *retain)
        weights = self.precision * (self.shape.embedding + (options["layer_id"] + 1) * self.shape.layer)
        of_a_token = cost_model.layer_activations(self.shape, self.precision)
        memory = weights + ACTIVATIONS_BATCH * max(lengths) * of_a_token
        disk = self.precision * self.shape.hidden * (forget[0] + 2 * retain[0])
        work, seconds = f"{shown([sum(texts)])} texts", self._seconds(operations, weights)
        return Cost(work, [seconds], [memory], [disk], notes=["bound"])

    def merge(self, method: Mapping, kinds: Sequence[str]) -> Cost:
        """One of a method's merges, on average over their `kinds`: most of LoRA adapters have no tensors."""
        if not (parameters := self._parameters(method)):
            return Cost(disk=UNKNOWN, unknown=[method["method"]])
        lora = method["options"].get("trained") == "lora"
        return Cost(disk=[FP32 * parameters[1] * np.mean([not lora or kind in WHOLE_MATRICES for kind in kinds])])

    def evaluate(self, evaluations: Mapping, budgets: Sequence[str] = ("",), methods: Iterable[Mapping] = ()) -> Cost:
        """Evaluations of one candidate, for which the model is read once, at each of the grid's budgets.

        λ is solved on the calibration texts. One pass over the fluency texts gives damage and fluency, and one more
        over each table is the base model's. What the candidate's method changed is fp32; the largest change counts.
        """
        readings = {"knowledge": self._knowledge, "answers": self._answers}
        readings |= {"fluency": self._fluency, "benchmarks": self._benchmarks}
        costs = [
            readings[name](options) if name in readings else no_arithmetic(name, name)
            for name, options in evaluations.items()
        ]
        total, start = added(costs), self._seconds(0, self.weights)
        if solved := sum(map(bool, budgets)):
            options = evaluations.get("fluency") or {"batch_size": 8, "max_tokens": 128}  # as its Options have it
            base, texts = self._fluency(options), self._fluency(options, "calibration")
            passes = PASSES * solved + ("" in budgets) + 1
            seconds = [*np.multiply(total.seconds, len(budgets)), *base.seconds, *np.multiply(texts.seconds, passes)]
            work = f"at {len(budgets)} λ, {passes} passes over {texts.work}, {total.work}"
            total = replace(total, work=work, seconds=seconds)
        changed = [self._parameters(method) for method in methods]
        weights = self.weights + (FP32 - self.precision) * max([0, *(merged for _, merged in filter(None, changed))])
        memory = [*np.add(weights, total.memory), *UNKNOWN * (None in changed)]
        return replace(total, seconds=[start, *total.seconds], memory=memory)

    def _knowledge(self, options: Mapping, table: str = "questions") -> Cost:
        rows, *characters = self.tables[table]
        texts = [[number / CHARACTERS for number in characters]]
        return self._reading(f"{shown([rows])} {table}", texts, options, notes=["tokens"])

    def _answers(self, options: Mapping) -> Cost:
        """Questions read with all their answers, read again, and as many tokens written as allowed, batch by batch."""
        cost, (rows, _, longest) = self._knowledge(options, "answers"), self.tables["answers"]
        shape, batch, written = self.shape, options["batch_size"], options["max_new_tokens"]
        length = longest / CHARACTERS
        kept = batch * (length + written) * 2 * self.precision * shape.layers * shape.key_value_width
        # What takes longest: products, with attention to all places; reading weights, keys, values; starting kernels.
        products = cost_model.whole_forward(shape, batch, 2 * (length + written)) / self.speed
        token = np.max([products, (self.weights + kept) / self.bandwidth, shape.layers * LAYER_START])
        seconds = [*cost.seconds * 2, np.ceil(rows / batch) * written * token]
        memory = [*cost.memory, kept + batch * length * cost_model.layer_activations(shape, self.precision)]
        return replace(cost, seconds=seconds, memory=memory, notes=[*cost.notes, "written"])

    def _fluency(self, options: Mapping, table: str = "fluency") -> Cost:
        rows, length = self.tables[table].rows, options["max_tokens"]
        return self._reading(f"{shown([rows])} texts", [(rows * length, length)], options)

    def _benchmarks(self, options: Mapping) -> Cost:
        """lm-eval's tasks, one after another."""
        asked, texts = [], []
        for name in dict.fromkeys(options["tasks"]):
            questions, tokens, subtasks = TASKS.get(name, (math.nan, math.nan, 1))
            asked.append(min(questions, (options.get("limit") or math.inf) * subtasks))
            tokens *= 1 + options.get("fewshot", {}).get(name, 0)
            texts.append((asked[-1] * tokens, tokens))
        unknown = [name for name in options["tasks"] if name not in TASKS]
        work = f"{shown(asked)} questions of {len(options['tasks'])} tasks"
        return self._reading(work, texts, options, notes=["tasks"], unknown=unknown)

    def _reading(self, work: str, texts: Sequence[tuple], options: Mapping, **remarks: Sequence[str]) -> Cost:
        """Forward passes over (tokens, of a text): one layer's activations, and logits, once more in fp32."""
        logits = (self.precision + FP32) * self.shape.vocabulary
        of_a_token = cost_model.layer_activations(self.shape, self.precision) + logits
        seconds = [cost_model.whole_forward(self.shape, tokens, length) / self.speed for tokens, length in texts]
        return Cost(work, seconds, [options["batch_size"] * length * of_a_token for _, length in texts], **remarks)

    def _seconds(self, operations: float, weights: float) -> float:
        """Return the seconds of a job that begins, reads weights and computes."""
        return START + weights / READ + operations / self.speed

    def _rmu(self, method: Mapping, trained: int) -> tuple[float, float, float]:
        """Return (operations of a step, peak bytes, bytes of weights that are read) of RMU."""
        options, lengths = method["options"], _lengths(method)
        layers, tokens = (options["layer_id"], options["trained_layers"]), options["batch_size"] * sum(lengths) // 2
        operations = cost_model.rmu_operations(self.shape, *layers, tokens, max(lengths), method["cache_activations"])
        memory = cost_model.rmu_memory(self.shape, *layers, 2 * tokens, self.precision)
        return operations, sum(memory.values()), memory["frozen weights"] + self.precision * trained

    def _gradients(self, method: Mapping, trained: int) -> tuple[float, float, float]:
        """Return the same of the methods of spunge/training/loop.py; sharding divides all but the activations."""
        options, shape, batch = method["options"], self.shape, method["options"]["batch_size"]
        lora, checkpointed = options["trained"] == "lora", options["gradient_checkpointing"]
        lengths = _lengths(method)
        operations = sum(
            cost_model.training_operations(shape, batch * length, length, lora, checkpointed=checkpointed)
            for length in lengths
        )
        if method["method"] == "npo":  # the base model's forward pass on forget texts
            operations += cost_model.whole_forward(shape, batch * lengths[0], lengths[0])
        tokens = math.ceil(batch / options["accumulation"]) * max(lengths)
        frozen = shape.parameters if lora else 0
        memory = cost_model.training_memory(shape, tokens, trained, frozen, checkpointed, self.precision)
        activations, cards = memory.pop("activations"), method["gpus"] if "accelerate" in method else 1
        return operations, sum(memory.values()) / cards + activations, self.weights

    def _parameters(self, method: Mapping) -> tuple[int, int] | None:
        """Return how many parameters a shard's and a merged task vector have, if that is known of such a method."""
        options, shape, kind = method["options"], self.shape, method["method"]
        trained = options["trained"] if kind in GRADIENT_METHODS else ""
        if kind == "rmu" and list(options["trained_parameters"]) == ["mlp.down_proj.weight"]:
            return (len(options["trained_layers"]) * shape.down_projection,) * 2
        if trained == "all":
            return (shape.parameters,) * 2
        if trained == "lora":
            targets = shape.matrices if options["lora_targets"] == "all-linear" else options["lora_targets"]
            if set(targets) <= shape.matrices.keys():
                return shape.lora(options["lora_rank"], targets), shape.adapted(targets)
        return None


def _lengths(method: Mapping) -> list[int]:
    """Return the most tokens of a text in each batch of a step: of texts to forget, and to retain if it has those."""
    options = method["options"]
    forget, retain = options["max_tokens_forget"], options["max_tokens_retain"]
    first = retain if options.get("texts") == "retain" else max(forget) if isinstance(forget, Sequence) else forget
    return [first, retain] if method["method"] == "rmu" or options.get("retain_weight") else [first]
