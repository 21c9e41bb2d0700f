"""What an experiment takes before anything is run: jobs, hours, memory, disk, downloads, one kind of job after another.

All is arithmetic on a description of the grid (spunge/planning/jobs.py) and on what is known of the
model, the data and earlier runs (`spunge/planning/known.py`). What isn't known is left open and makes a sum "at least"
(≥).
"""

import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tabulate import tabulate

from spunge.planning import cost_model
from spunge.planning.cost_model import ModelShape

START = 10  # seconds for a job to begin; 4 were measured with a small model on a local disk (docs/plan.md)
READ = 1e9  # bytes of a model a second, from disk
CHARACTERS = 4  # of a token
CARDS = (24e9, 80e9)
USABLE = 0.9

STATES_BATCH = 32  # texts of RMU's frozen states that are computed together
TRAINED_BY_RMU = ["mlp.down_proj.weight"]
TRAINING = ("tvn", "gradient_ascent", "gradient_difference", "npo", "simnpo")


@dataclass(frozen=True)
class Device:
    """What jobs that use a model run on: at its peak, operations a second by dtype, bytes of memory read a second."""

    name: str
    peak: Mapping[str, float]
    bandwidth: float


# NVIDIA's data sheet (SXM): bf16 on tensor cores without sparsity, fp32 without TF32, which PyTorch leaves off.
H100 = Device(
    "one H100",
    {"bfloat16": cost_model.H100_PEAK, "float16": cost_model.H100_PEAK, "float32": 67e12},
    3.35e12,
)
# 32 operations a cycle (AVX2, two fused multiplications and additions of 8 numbers) at 2.5 GHz.
CORE = Device("one CPU core", dict.fromkeys(("bfloat16", "float16", "float32"), 80e9), 10e9)


@dataclass(frozen=True)
class Task:
    """One of lm-eval's tasks: how many questions it has, as published, and roughly how long one is.

    `tokens` are read for a question with all its choices, as many again for each of the `examples` that come before it
    where the configuration names no other number; `new_tokens` are written at most. A group has `subtasks`.
    """

    questions: int
    tokens: int
    examples: int = 0
    new_tokens: int = 0
    subtasks: int = 1


TASKS = {
    "wmdp_bio": Task(1273, 150),
    "wmdp_cyber": Task(1987, 300),
    "wmdp_chem": Task(408, 150),
    "mmlu": Task(14042, 150, subtasks=57),
    "arc_easy": Task(2376, 150),
    "arc_challenge": Task(1172, 160),
    "hellaswag": Task(10042, 400),
    "winogrande": Task(1267, 60),
    "piqa": Task(1838, 100),
    "openbookqa": Task(500, 80),
    "boolq": Task(3270, 300),
    "truthfulqa_mc2": Task(817, 1000),
    "gsm8k": Task(1319, 170, examples=5, new_tokens=256),
}

NOTES = {
    "measured": "measured: the mean time of this experiment's earlier jobs of the kind, times the number of jobs; with "
    "whatever machine and options those ran.",
    "arithmetic": "estimated: operations at {utilisation:.0%} of the peak of {device} ({peak:.3g} TFLOPS, {dtype}), "
    "{start} s for each job to begin, and its part of the model read at {read:.0f} GB/s. Not measured.",
    "training": "An upper bound: steps × batch × the longest texts allowed; most are shorter. Memory as in "
    "docs/big-models.md: activations are an estimate, the allocator's waste is left out.",
    "partial": "Counted as if the gradients of all weights and all activations were needed.",
    "states": "An upper bound: texts × the longest allowed.",
    "decoding": "Each continuation as long as allowed; each step reads all weights at {utilisation:.0%} of "
    "{bandwidth:,.0f} GB/s, or computes, whichever takes longer.",
    "prompts": "≥: how long prompts are isn't known before the job `data` ran; reading them is left out.",
    "tokens": "Tokens of questions and prompts are taken as their characters / {characters}.",
    "tasks": "Questions as published; the tokens of each are rough, from the look of the tasks.",
    "evaluations": "≥: what {evaluations} takes isn't known here.",
    "rows": "?: how many isn't known before the job `data` ran.",
    "shards": "?: `forget: all` takes the attributes that the data have: not known before the job `data` ran.",
    "model": "?: {unknown}.",
    "method": "?: what this method takes, with these options, isn't known here.",
    "kind": "?: there is no arithmetic for this kind of job here.",
    "classifiers": "?: what classifiers take isn't known here; their size is, once they are prepared.",
    "hub": "?: the sizes of data sets on the hub aren't known here.",
    "wheels": "?: the size of a wheel isn't known before it is there.",
}
ALWAYS = (
    "Hours of jobs that use no model are known where they were measured, and not estimated. Disk: models, task vectors "
    "and states; tables, scores, figures and logs are left out."
)
WIDTH = 120  # of what is printed
WIDTHS = [28, None, 24, None, None, None, None, None, None]
ALIGNMENT = ["left", "right", "left", "right", "left", "right", "right", "right", "left"]


@dataclass(frozen=True)
class Amount:
    """A sum, of which parts may be unknown: then it is not `complete`, and `value` is what is known."""

    value: float = 0
    complete: bool = True

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.value + other.value, self.complete and other.complete)

    def __mul__(self, other: "Amount") -> "Amount":
        return Amount(self.value * other.value, self.complete and other.complete)

    @property
    def unknown(self) -> bool:
        return not self.value and not self.complete

    def shown(self, write: Callable[[float], str]) -> str:
        """Return it for people: `?` where nothing is known, `≥ …` where not all is, nothing for nothing."""
        if not self.value:
            return "" if self.complete else "?"
        return write(self.value) if self.complete else f"≥ {write(self.value)}"


UNKNOWN = Amount(complete=False)


@dataclass(frozen=True)
class Facts:
    """What is known before the run.

    `shape` is None where the model's isn't known; `unknown` then says why in a sentence, else `source` where it is
    from. `model_bytes`: each model's weights on disk, by folder, and `wheel_bytes`, by requirement, as far as
    known. `at_hand`: folders and wheels that are there already; `linked`: folders of models that are the user's
    own. `rows`, `characters`, `longest`: by table, the number of rows, of all characters, and of the longest row's.
    `texts`: forget texts by attribute. `measured`: for each pattern of benchmark files, (jobs, seconds).
    """

    device: Device = H100
    shape: ModelShape | None = None
    unknown: str = ""
    source: str = ""
    model_bytes: Mapping[str, int] = field(default_factory=dict)
    wheel_bytes: Mapping[str, int] = field(default_factory=dict)
    at_hand: frozenset[str] = frozenset()
    linked: frozenset[str] = frozenset()
    rows: Mapping[str, int] = field(default_factory=dict)
    characters: Mapping[str, int] = field(default_factory=dict)
    longest: Mapping[str, int] = field(default_factory=dict)
    texts: Mapping[str, int] = field(default_factory=dict)
    measured: Mapping[str, tuple[int, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One line of the table: a kind of job. `seconds` and the others but `memory` are of all its jobs together."""

    label: str
    jobs: Amount
    work: str = ""
    seconds: Amount = Amount()
    basis: str = ""
    memory: Amount = Amount()  # of one job, on the GPU
    disk: Amount = Amount()
    download: Amount = Amount()
    gpu: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cost:
    """What one job takes, by arithmetic: seconds, GPU memory, bytes left, and which notes say how it was reckoned."""

    work: str
    seconds: Amount = UNKNOWN
    memory: Amount = UNKNOWN
    disk: Amount = Amount()
    notes: tuple[str, ...] = ()


class Estimate:
    """The arithmetic for one experiment: its description and what is known."""

    def __init__(self, plan: Mapping, facts: Facts):
        self.plan, self.facts = plan, facts
        self.shape, self.device, self.dtype = facts.shape, facts.device, plan["model"]["dtype"]
        self.precision = cost_model.FP32 if self.dtype == "float32" else cost_model.BF16

    def rows(self) -> list[Row]:
        """Return the table's rows in the order of the run; jobs of one label are one row."""
        found: dict[str, list[Row]] = {}
        for job in self.plan["jobs"]:
            found.setdefault(job["label"], []).append(self._row(job))
        return [_together(rows) for rows in found.values()]

    def _row(self, job: Mapping) -> Row:
        jobs = Amount(job["jobs"] or 0, job["jobs"] is not None and not job.get("more"))
        cost = self._cost(job)
        done, seconds = self._measured(job["benchmarks"])
        notes = (*cost.notes, *([] if jobs.complete else ["shards"]))
        if done:
            seconds, basis = Amount(seconds / done) * jobs, "measured" if done >= jobs.value else f"{done} measured"
            notes = ("measured", *notes)
        elif job["gpu"]:
            seconds, basis = cost.seconds * jobs, "" if cost.seconds.unknown else "estimated"
            notes = (*(["arithmetic"] if basis else []), *notes)
        else:
            seconds, basis = UNKNOWN, ""
        download, disk = self._downloads(job)
        return Row(
            job["label"],
            jobs,
            cost.work,
            seconds,
            basis,
            cost.memory if job["gpu"] else Amount(),
            disk + cost.disk * jobs,
            download,
            bool(job["gpu"]),
            tuple(dict.fromkeys(notes + self._download_notes(job, download))),
        )

    def _measured(self, patterns: Iterable[str]) -> tuple[int, float]:
        found = [self.facts.measured.get(pattern, (0, 0.0)) for pattern in patterns]
        return sum(jobs for jobs, _ in found), sum(seconds for _, seconds in found)

    def _downloads(self, job: Mapping) -> tuple[Amount, Amount]:
        """Return (bytes to fetch, bytes on disk) of wheels, models and data sets that the job brings."""
        download, disk = Amount(), Amount()
        for requirement in job.get("wheels", ()):
            size = self.facts.wheel_bytes.get(requirement)
            known = UNKNOWN if size is None else Amount(size)
            disk += known
            download += Amount() if requirement in self.facts.at_hand else known
        if "model" in job:
            size = self.facts.model_bytes.get(job["model"])
            known = UNKNOWN if size is None else Amount(size)
            theirs = job["model"] in self.facts.linked
            disk += Amount() if theirs else known
            here = theirs or job["model"] in self.facts.at_hand or job["source"].startswith("wheel:")
            download += Amount() if here else known
        if job.get("hub"):
            download += UNKNOWN
        return download, disk

    def _download_notes(self, job: Mapping, download: Amount) -> tuple[str, ...]:
        if download.complete:
            return ()
        if "wheels" in job:
            return ("wheels",)
        if "model" in job:
            return ("model",) if job["model"] == self.plan["model"]["folder"] else ("classifiers",)
        return ("hub",)

    def _cost(self, job: Mapping) -> Cost:
        reckon = {
            "unlearn": self._unlearn,
            "states": self._states,
            "merge": self._merge,
            "evaluate": self._evaluate,
            "generate": self._generate,
            "benchmarks": self._benchmarks,
            "score_toxicity": self._score_toxicity,
        }.get(job["rule"])
        return reckon(job) if reckon else Cost(self._texts(job), notes=("kind",) if job["gpu"] else ())

    def _texts(self, job: Mapping) -> str:
        if job["rule"] == "shard" and self.facts.texts:
            return f"{sum(self.facts.texts.values()):,} texts a split"
        return ""

    def _seconds(self, operations: float, weights: float | None = None) -> Amount:
        """Return a job's seconds: to begin, to read the weights (all of them if None), to compute."""
        weights = self.precision * self.shape.parameters if weights is None else weights
        compute = 3600 * cost_model.hours(operations, cost_model.UTILISATION, self.device.peak[self.dtype])
        return Amount(START + weights / READ + compute)

    def _unlearn(self, job: Mapping) -> Cost:
        method = self.plan["methods"][job["method"]]
        options, steps = method["options"], job.get("steps")
        if method["kind"] == "random_vector":
            like = self.plan["methods"][method["norms_of"]]
            disk = self._vector(like, merged=True)
            return Cost("a random vector", memory=Amount(), disk=disk, notes=("method",))
        if method["kind"] != "rmu" and method["kind"] not in TRAINING:
            work = f"{steps:,} steps" if steps else ""
            return Cost(work, disk=UNKNOWN, notes=("method",))
        texts = f"{options['batch_size']} + {options['batch_size']}" if _retains(method) else f"{options['batch_size']}"
        work = f"{'?' if steps is None else f'{steps:,}'} steps of {texts} texts"
        if self.shape is None:
            return Cost(work, disk=UNKNOWN, notes=("model",))
        reckon = self._rmu if method["kind"] == "rmu" else self._training
        per_step, memory, weights, notes = reckon(method)
        seconds = UNKNOWN
        if steps is not None and per_step is not None:
            seconds = self._seconds(steps * per_step, weights)
        disk = self._vector(method)
        return Cost(work, seconds, memory, disk, ("training", *notes, *([] if disk.complete else ["method"])))

    def _rmu(self, method: Mapping) -> tuple[float, Amount, float, tuple[str, ...]]:
        """Return (operations of a step, peak bytes, bytes of weights read, notes) of RMU."""
        options, shape = method["options"], self.shape
        forget, retain = _longest(options["max_tokens_forget"]), options["max_tokens_retain"]
        layer_id, layers, batch = options["layer_id"], options["trained_layers"], options["batch_size"]
        half = batch * (forget + retain) // 2
        operations = cost_model.rmu_operations(
            shape, layer_id, layers, half, max(forget, retain), at_hand=method["cache_activations"]
        )
        weights = self.precision * (shape.embedding + (layer_id + 1) * shape.layer)
        if list(options["trained_parameters"]) != TRAINED_BY_RMU:
            return operations, UNKNOWN, weights, ()
        parts = cost_model.rmu_memory(shape, layer_id, layers, 2 * half, self.precision)
        return operations, Amount(sum(parts.values())), weights, ()

    def _training(self, method: Mapping) -> tuple[float | None, Amount, float, tuple[str, ...]]:
        """The same of the methods of spunge/training/loop.py."""
        options, shape = method["options"], self.shape
        lora, checkpointed = options["trained"] == "lora", options["gradient_checkpointing"]
        forget, batch = options["max_tokens_forget"], options["batch_size"]
        if options.get("texts") == "retain":
            forget = options["max_tokens_retain"]
        limits = [(forget, method["kind"] == "npo")]
        if _retains(method):
            limits.append((options["max_tokens_retain"], False))
        operations = sum(
            cost_model.training_operations(shape, batch * length, length, lora, frozen, checkpointed)
            for length, frozen in limits
        )
        tokens = math.ceil(batch / options["accumulation"]) * max(length for length, _ in limits)
        memory, notes = self._training_memory(options, tokens), ()
        if not lora and options["trained"] != "all":
            notes = ("partial",)
        if memory is None:
            return operations, UNKNOWN, self.precision * shape.parameters, notes
        shared = sum(memory.values()) - memory["activations"]
        peak = shared / (method["gpus"] if method["sharded"] else 1) + memory["activations"]
        return operations, Amount(peak), self.precision * shape.parameters, notes

    def _training_memory(self, options: Mapping, tokens: int) -> dict[str, int] | None:
        shape, checkpointed = self.shape, options["gradient_checkpointing"]
        if options["trained"] == "all":
            return cost_model.full_memory(shape, tokens, checkpointed, self.precision)
        if options["trained"] == "lora":
            targets = _targets(shape, options["lora_targets"])
            if targets == ():
                return None
            rank = options["lora_rank"]
            return cost_model.lora_memory(shape, rank, tokens, checkpointed, targets, self.precision)
        trained = trained_parameters(shape, options["trained"])
        if trained is None:
            return None
        copies = cost_model.BF16 if self.precision == cost_model.BF16 else 0
        return {
            "weights": self.precision * (shape.parameters - trained),
            "trained weights, gradients, Adam": (cost_model.TRAINED + copies) * trained,
            "activations": cost_model.whole_activations(shape, tokens, checkpointed, self.precision),
        }

    def _vector(self, method: Mapping, merged: bool = False) -> Amount:
        """Return the bytes of a task vector of one of the methods, of a shard or merged."""
        options, shape, kind = method["options"], self.shape, method["kind"]
        if kind == "random_vector":
            return self._vector(self.plan["methods"][method["norms_of"]], merged=True)
        if shape is None or (kind != "rmu" and kind not in TRAINING):
            return UNKNOWN
        if kind == "rmu":
            known = list(options["trained_parameters"]) == TRAINED_BY_RMU
            return Amount(cost_model.rmu_vector(shape, len(options["trained_layers"]))) if known else UNKNOWN
        if options["trained"] == "all":
            return Amount(cost_model.full_vector(shape))
        if options["trained"] == "lora":
            targets = _targets(shape, options["lora_targets"])
            if targets == ():
                return UNKNOWN
            factors = cost_model.lora_vector(shape, options["lora_rank"], targets)
            return Amount(cost_model.lora_merged(shape, targets) if merged else factors)
        trained = trained_parameters(shape, options["trained"])
        return UNKNOWN if trained is None else Amount(cost_model.FP32 * trained)

    def _states(self, job: Mapping) -> Cost:
        """What the layers below make of every text once, and of retain texts the frozen ones above too."""
        method, shape = self.plan["methods"][job["method"]], self.shape
        options, rows = method["options"], self.facts.rows
        if not {"forget", "retain"} <= rows.keys():
            return Cost("? texts", disk=UNKNOWN, notes=("rows",))
        work = f"{rows['forget'] + rows['retain']:,} texts"
        if shape is None:
            return Cost(work, disk=UNKNOWN, notes=("model",))
        lengths = {"forget": _longest(options["max_tokens_forget"]), "retain": options["max_tokens_retain"]}
        tokens = {name: rows[name] * length for name, length in lengths.items()}
        first, above = min(options["trained_layers"]), options["layer_id"] + 1 - min(options["trained_layers"])
        operations = sum(
            (first + above * (name == "retain")) * cost_model.layer_forward(shape, tokens[name], length)
            for name, length in lengths.items()
        )
        weights = self.precision * (shape.embedding + (options["layer_id"] + 1) * shape.layer)
        batch = STATES_BATCH * max(lengths.values()) * cost_model.layer_activations(shape, precision=self.precision)
        disk = self.precision * shape.hidden * (tokens["forget"] + 2 * tokens["retain"])
        return Cost(work, self._seconds(operations, weights), Amount(weights + batch), Amount(disk), ("states",))

    def _merge(self, job: Mapping) -> Cost:
        method = self.plan["methods"][job["method"]]
        disk = self._vector(method, merged=True)
        unknown = ("model",) if self.shape is None else ("method",)
        return Cost("", disk=disk, notes=() if disk.complete else unknown)

    def _evaluate(self, job: Mapping) -> Cost:
        """All evaluations of one candidate: the model is read once, and each takes its own time."""
        reckon = {"knowledge": self._knowledge, "fluency": self._fluency}
        parts, unknown = [], []
        for name, options in job["evaluations"].items():
            parts.append(reckon[name](options) if name in reckon else Cost(name))
            unknown += [] if name in reckon else [name]
        if job["generation"]:
            parts.append(self._continuations(job["generation"]))
        notes = tuple(note for part in parts for note in part.notes)
        work = f"{', '.join(part.work for part in parts)}"
        notes += ("evaluations",) if unknown else ()
        if self.shape is None:
            return Cost(work, notes=(*notes, "model"))
        seconds = sum((part.seconds for part in parts), self._seconds(0))
        memory = self._resident(max((part.memory.value for part in parts), default=0), parts)
        return Cost(work, seconds, memory, Amount(), notes)

    def _generate(self, job: Mapping) -> Cost:
        part = self._continuations(job["generation"])
        if self.shape is None:
            return Cost(f"{part.work}", notes=(*part.notes, "model"))
        # vLLM takes whatever memory it is given for keys and values; the weights are the least.
        memory = self._resident(0, [Cost("")])
        return Cost(f"{part.work}", self._seconds(0) + part.seconds, memory, Amount(), part.notes)

    def _score_toxicity(self, job: Mapping) -> Cost:
        work = f"{_count(self._number_of_continuations(job['generation']))} continuations"
        return Cost(work, notes=("classifiers",) if job["gpu"] else ())

    def _resident(self, working: float, parts: Sequence[Cost]) -> Amount:
        """Return the peak bytes of evaluating: the weights, and what the greediest part needs beside them."""
        complete = all(part.memory.complete for part in parts)
        return Amount(self.precision * self.shape.parameters + working, complete)

    def _forward(self, tokens: float, length: float) -> Amount:
        operations = cost_model.whole_forward(self.shape, tokens, length)
        return Amount(3600 * cost_model.hours(operations, cost_model.UTILISATION, self.device.peak[self.dtype]))

    def _pass_memory(self, tokens: float) -> Amount:
        """Return the bytes of a forward pass: one layer's states, and logits, once more in fp32."""
        logits = (self.precision + cost_model.FP32) * self.shape.vocabulary
        return Amount(tokens * (cost_model.layer_activations(self.shape, precision=self.precision) + logits))

    def _knowledge(self, options: Mapping) -> Cost:
        work = f"{_count(self.facts.rows.get('questions'))} questions"
        if "questions" not in self.facts.characters:
            return Cost(work, notes=("rows",))
        if self.shape is None:
            return Cost(work, notes=("tokens",))
        tokens, length = (of["questions"] / CHARACTERS for of in (self.facts.characters, self.facts.longest))
        memory = self._pass_memory(options["batch_size"] * length)
        return Cost(work, self._forward(tokens, length), memory, notes=("tokens",))

    def _fluency(self, options: Mapping) -> Cost:
        texts, length = self.facts.rows.get("fluency"), options["max_tokens"]
        work = f"{_count(texts)} texts"
        if texts is None or self.shape is None:
            return Cost(work, notes=("rows",) if texts is None else ())
        return Cost(work, self._forward(texts * length, length), self._pass_memory(options["batch_size"] * length))

    def _benchmarks(self, job: Mapping) -> Cost:
        """lm-eval's tasks, in a job of their own."""
        options = job["options"]
        known = {name: TASKS[name] for name in options["tasks"] if name in TASKS}
        limit = options.get("limit") or math.inf
        asked = {name: min(task.questions, limit * task.subtasks) for name, task in known.items()}
        complete = len(known) == len(set(options["tasks"]))
        questions = Amount(sum(asked.values()), complete)
        work = f"{questions.shown('{:,.0f}'.format)} questions of {len(options['tasks'])} tasks"
        notes = ("tasks",) if complete else ("tasks", "evaluations")
        if self.shape is None:
            return Cost(work, notes=notes)
        seconds, memory, batch = self._seconds(0) + Amount(complete=complete), 0.0, options["batch_size"]
        for name, task in known.items():
            tokens = task.tokens * (1 + options.get("fewshot", {}).get(name, task.examples))
            seconds += self._forward(asked[name] * tokens, tokens)
            memory = max(memory, self._pass_memory(batch * tokens).value)
            if task.new_tokens:
                seconds += self._decoding(asked[name], task.new_tokens, batch)
        return Cost(work, seconds, self._resident(memory, [Cost("", memory=Amount(complete=complete))]), notes=notes)

    def _number_of_continuations(self, generation: Mapping) -> int | None:
        prompts = self.facts.rows.get("prompts")
        return None if prompts is None else prompts * generation["samples"]

    def _continuations(self, generation: Mapping) -> Cost:
        """Each prompt is read once for all its samples; then one token a step for a batch of continuations."""
        number = self._number_of_continuations(generation)
        work = f"{_count(number)} continuations"
        if number is None or self.shape is None:
            return Cost(work, notes=("rows",) if number is None else ())
        prompts, samples, batch = self.facts.rows["prompts"], generation["samples"], generation["batch_size"]
        per_batch = max(1, batch // samples) * samples
        seconds = self._decoding(number, generation["max_new_tokens"], per_batch)
        entry = 2 * self.precision * self.shape.layers * self.shape.key_value_width  # a token's keys and values
        if "prompts" not in self.facts.characters:
            memory = Amount(per_batch * generation["max_new_tokens"] * entry, complete=False)
            return Cost(work, seconds + UNKNOWN, memory, notes=("decoding", "prompts"))
        tokens, length = (of["prompts"] / CHARACTERS for of in (self.facts.characters, self.facts.longest))
        seconds += self._forward(tokens, tokens / prompts)
        memory = Amount(per_batch * (length + generation["max_new_tokens"]) * entry)
        return Cost(work, seconds, memory, notes=("decoding", "tokens"))

    def _decoding(self, continuations: float, new_tokens: int, batch: int) -> Amount:
        steps = math.ceil(continuations / batch) * new_tokens
        reading = steps * self.precision * self.shape.parameters / (cost_model.UTILISATION * self.device.bandwidth)
        return Amount(max(reading, self._forward(continuations * new_tokens, 1).value))


def trained_parameters(shape: ModelShape, pattern: str) -> int | None:
    """Return how many entries the parameters have whose names a regular expression matches in full.

    Names are those of a dense model of Llama's family; None for one with experts, or where none matches.
    """
    if shape.experts:
        return None
    sizes = {"model.embed_tokens.weight": shape.embedding, "model.norm.weight": shape.hidden}
    if not shape.tied:
        sizes["lm_head.weight"] = shape.embedding
    for layer in range(shape.layers):
        for name, (_, rows, columns) in shape.matrices.items():
            block = "mlp" if name in ("gate_proj", "up_proj", "down_proj") else "self_attn"
            sizes[f"model.layers.{layer}.{block}.{name}.weight"] = rows * columns
        for norm in ("input_layernorm", "post_attention_layernorm"):
            sizes[f"model.layers.{layer}.{norm}.weight"] = shape.hidden
    return sum(size for name, size in sizes.items() if re.fullmatch(pattern, name)) or None


def _targets(shape: ModelShape, named: str | Sequence[str]) -> Sequence[str] | None:
    """Return the linear maps that LoRA adapts, None for all; () where what is named isn't known here."""
    if named == "all-linear":
        return None
    return named if not isinstance(named, str) and set(named) <= shape.matrices.keys() else ()


def _retains(method: Mapping) -> bool:
    """Tell whether a step has retain texts in its loss."""
    return method["kind"] == "rmu" or bool(method["options"].get("retain_weight"))


def _longest(tokens: int | Sequence[int]) -> int:
    return max(tokens) if isinstance(tokens, Sequence) else tokens


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _together(rows: Sequence[Row]) -> Row:
    """Make one row of those with the same label, which have no work of their own to show."""
    if len(rows) == 1:
        return rows[0]
    bases = {row.basis for row in rows}
    return Row(
        rows[0].label,
        sum((row.jobs for row in rows), Amount()),
        seconds=sum((row.seconds for row in rows), Amount()),
        basis=bases.pop() if len(bases) == 1 else "in part",
        disk=sum((row.disk for row in rows), Amount()),
        download=sum((row.download for row in rows), Amount()),
        gpu=any(row.gpu for row in rows),
        notes=tuple(dict.fromkeys(note for row in rows for note in row.notes)),
    )


def page(plan: Mapping, facts: Facts) -> str:
    """Return what `snakemake plan` prints: the model, the shards, the table, sums and notes."""
    rows = Estimate(plan, facts).rows()
    numbers = {note: number for number, note in enumerate(dict.fromkeys(note for row in rows for note in row.notes), 1)}
    headers = ["kind of job", "jobs", "each does", "hours", "", "GPU memory", "disk", "download", "notes"]
    body = [
        [
            row.label,
            row.jobs.shown("{:,.0f}".format),
            row.work,
            row.seconds.shown(hours) if row.gpu or row.basis else "",
            row.basis,
            row.memory.shown(size),
            row.disk.shown(size),
            row.download.shown(size),
            ",".join(str(numbers[note]) for note in row.notes),
        ]
        for row in rows
    ]
    lines = tabulate(
        [headers, *body], tablefmt="plain", disable_numparse=True, colalign=ALIGNMENT, maxcolwidths=WIDTHS
    ).splitlines()
    lines.insert(1, "-" * max(map(len, lines)))
    filled = {
        "device": facts.device.name,
        "peak": facts.device.peak[plan["model"]["dtype"]] / 1e12,
        "bandwidth": facts.device.bandwidth / 1e9,
        "dtype": plan["model"]["dtype"],
        "utilisation": cost_model.UTILISATION,
        "start": START,
        "read": READ / 1e9,
        "characters": CHARACTERS,
        "unknown": facts.unknown,
        "evaluations": ", ".join(sorted(unknown_evaluations(plan))),
    }
    notes = [f"{number}. {NOTES[note].format(**filled)}" for note, number in numbers.items()]
    head, sums, ending = (
        [line for one in paragraphs for line in textwrap.wrap(one, WIDTH, subsequent_indent=" " * indent)]
        for paragraphs, indent in ((heading(plan, facts), 0), (totals(rows, facts), 11), ([*notes, ALWAYS], 3))
    )
    return "\n".join(["", *head, "", *lines, "", *sums, "", *ending, ""])


def unknown_evaluations(plan: Mapping) -> set[str]:
    """Return the evaluations and benchmark tasks whose cost nothing here knows."""
    evaluations = {name for job in plan["jobs"] for name in job.get("evaluations", ())} - {"knowledge", "fluency"}
    tasks = {task for job in plan["jobs"] if job["rule"] == "benchmarks" for task in job["options"]["tasks"]}
    return evaluations | tasks - TASKS.keys()


def heading(plan: Mapping, facts: Facts) -> list[str]:
    """Return what the table rests on: the experiment, its model, and the shards."""
    model = f"Model: {plan['model']['source']}, {plan['model']['dtype']}"
    if facts.shape is None:
        model += f"; {facts.unknown}"
    else:
        model += f", {facts.shape.parameters:,} parameters ({facts.source})"
    if plan["attributes"] is None:
        shards = "Shards: `forget: all`, not known before the job `data` ran; jobs that follow from them are left open."
    else:
        texts = [f"{name} {facts.texts[name]:,}" if name in facts.texts else name for name in plan["attributes"]]
        ending = " texts"
        if not facts.texts:
            each = facts.rows.get("forget", 0) // len(plan["attributes"])
            ending = f"; {f'{each:,} texts of each by the configuration, ' if each else ''}counted when `data` has run"
        shards = f"Shards: {', '.join(texts)}{ending}"
    return [f"Plan of {plan['experiment']}: a run from nothing, seeds {', '.join(plan['seeds'])}", model, shards]


def totals(rows: Sequence[Row], facts: Facts) -> list[str]:
    """Return the sums of the rows, a line each."""
    jobs = sum((row.jobs for row in rows), Amount())
    model = sum((row.seconds for row in rows if row.gpu), Amount())
    others = sum((row.seconds for row in rows if not row.gpu), Amount())
    measured = sum(row.seconds.value for row in rows if row.gpu and "measured" in row.basis)
    known = [row for row in rows if row.memory.value]
    lines = [
        f"jobs       {jobs.shown('{:,.0f}'.format)}",
        f"hours      {model.shown(hours) or '0'} of jobs that use a model: {hours(measured) if measured else 'none'} "
        f"measured, the rest estimated for {facts.device.name}; jobs without a model: {others.shown(hours) or '0'}",
    ]
    if known:
        largest = max(known, key=lambda row: row.memory.value)
        complete = all(row.memory.complete for row in rows if row.gpu)
        peak = Amount(largest.memory.value, complete)
        known_part = "" if complete else " as far as known"
        lines.append(f"GPU memory {peak.shown(size)} for one job ({largest.label}): {fits(peak.value)}{known_part}")
    else:
        lines.append("GPU memory ?")
    disk, download = (sum((getattr(row, name) for row in rows), Amount()) for name in ("disk", "download"))
    return [*lines, f"disk       {disk.shown(size) or '0'}", f"downloads  {download.shown(size) or 'none'}"]


def fits(memory: float) -> str:
    """Say which of CARDS hold so many bytes where a tenth of the card is left free."""
    within, beyond = ([card for card in CARDS if (memory <= USABLE * card) is fit] for fit in (True, False))
    names = [" and ".join(f"{card / 1e9:.0f}" for card in cards) for cards in (within, beyond)]
    said = [f"{verb} a card of {name} GB" for verb, name in zip(("fits", "too much for"), names, strict=True) if name]
    return f"{', '.join(said)} (a tenth left free)"


def hours(seconds: float) -> str:
    """Write seconds as hours, two digits."""
    value = seconds / 3600
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}" if value >= 0.01 else "< 0.01"


def size(number: float) -> str:
    """Write bytes as GB (10⁹) or MB."""
    if number < 1e9:
        return f"{number / 1e6:.3g} MB"
    return f"{number / 1e9:,.0f} GB" if number >= 100e9 else f"{number / 1e9:.3g} GB"
