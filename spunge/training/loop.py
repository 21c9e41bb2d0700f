"""Gradient training on a sequence of terms, each a loss of the log-probabilities that the model gives to texts.

A text y has log π(y), the sum over its tokens but the first, which nothing predicts. A method is a choice of terms (see
`LossTerm`); the loop is the same for all: AdamW on the same global batches whether one process runs or many do, whole
or in micro-batches, with all weights, some of them, or LoRA factors trained, always in fp32.
"""

import contextlib
import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated

import torch
from pydantic import Field

from spunge.core.errors import InputError
from spunge.core.progress import LossCurve, Progress
from spunge.experiment.options import (
    Count,
    ModelDtype,
    Natural,
    NonEmpty,
    NonNegative,
    Positive,
    Steps,
    Text,
    Tokens,
    checked,
)
from spunge.experiment.splits import ORDERED
from spunge.models import base_model
from spunge.models.task_vector import LORA_A, LORA_B, PEFT_PREFIX, BaseModel, TensorFolder
from spunge.training.batches import by_length, pad
from spunge.training.resume import Checkpoint, State, load_optimizer, optimizer_state
from spunge.training.run import Run, Unlearned
from spunge.training.schedule import Stage, batches_of_rows, forget_batches, retain_batches, stages, visits

SHOWN = 4  # names in an error
REFERENCE = "reference."  # before a term's name
# So that an attack starts from other LoRA factors than unlearning with the same seed did. PyTorch's seeds have 32 bits.
OF_ATTACKS = 2**31
PRECISIONS = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


@checked
class Options:
    """Settings of the loop.

    `lora_…` are PEFT's. `dtype` is the model's: the precision of the forward pass and of weights that are not trained.

    Defaults: learning rate, batch and weight decay are those of OpenUnlearning's trainers (1e-5, 8 texts × 4
    micro-batches and 0 in configs/trainer/finetune.yaml), 80 steps at a constant rate those of its WMDP experiment.
    Rank and alpha are those of the LoRA configuration of NPO's authors (TOFU/config/forget_lora.yaml), who take a
    learning rate of 1e-4 with them.
    """

    steps: Steps = 80
    learning_rate: Annotated[Positive, Field(description="Learning rate of AdamW.")] = 1e-5
    batch_size: Annotated[
        Count, Field(description="Forget texts, and as many retain texts where there is a retain loss, a step.")
    ] = 32
    accumulation: Annotated[
        Count,
        Field(
            description="Micro-batches that a step's texts are divided into over all processes, which saves memory and "
            "changes nothing else."
        ),
    ] = 1
    max_tokens_forget: Annotated[Tokens, Field(description="Forget texts are cut after this many tokens.")] = 512
    max_tokens_retain: Annotated[Tokens, Field(description="Retain texts are cut after this many tokens.")] = 512
    trained: Annotated[
        Text,
        Field(
            description="What is trained: `all` weights, `lora`, or a regular expression that parameter names match in "
            "full."
        ),
    ] = "all"
    lora_rank: Annotated[Count, Field(description="Rank of the LoRA factors.")] = 8
    lora_alpha: Annotated[Positive, Field(description="LoRA's α; it scales by α / rank.")] = 32
    lora_dropout: Annotated[float, Field(ge=0, lt=1, description="Dropout before the LoRA factors.")] = 0.0
    lora_targets: Annotated[
        Text | NonEmpty[Text],
        Field(description="Modules that LoRA adapts; `all-linear` takes every linear layer but the output."),
    ] = "all-linear"
    weight_decay: Annotated[NonNegative, Field(description="Weight decay of AdamW.")] = 0.0
    warmup_steps: Annotated[
        Natural,
        Field(
            description="Steps of a shard in which the learning rate rises to its value, where it stays; in a run of "
            "more steps, the same part of it."
        ),
    ] = 0
    max_gradient_norm: Annotated[
        Positive | None,
        Field(description="Gradients whose common norm is larger are scaled down to it; null leaves them."),
    ] = None
    gradient_checkpointing: Annotated[
        bool, Field(description="Compute activations again in the backward pass; saves memory, takes longer.")
    ] = False
    dtype: ModelDtype = "float32"

    def __post_init__(self):
        if self.accumulation > self.batch_size:
            raise InputError(f"{self.batch_size} texts a step can't be divided into {self.accumulation} micro-batches")


@dataclasses.dataclass(frozen=True)
class LossTerm:
    """One part of the loss: `weight` times the mean of `loss` over a batch of `texts`.

    `loss` maps three tensors of shape (texts,), log π(y), the number of predicted tokens |y| and, with `reference`,
    log π_ref(y) of the base model (else None), to a loss per text, (texts,). The mean is over texts, or with
    the `reduction` `tokens` over predicted tokens: a text then counts |y| times. `name` is `forget` or `retain`.
    """

    name: str
    texts: list[str]
    max_tokens: int
    loss: Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
    reduction: str = "texts"
    weight: float = 1.0
    reference: bool = False


def token_nll(log_probabilities: torch.Tensor, tokens: torch.Tensor, reference: None = None) -> torch.Tensor:
    """Return the negative log-likelihood per predicted token, −log π(y) / |y|, all shapes (texts,)."""
    return -log_probabilities / tokens


def token_log_likelihood(log_probabilities: torch.Tensor, tokens: torch.Tensor, reference: None = None) -> torch.Tensor:
    """Return the log-likelihood per predicted token, log π(y) / |y|, all shapes (texts,), for ascent on the NLL."""
    return log_probabilities / tokens


def retain_terms(run: Run, options: Options, weight: float) -> list[LossTerm]:
    """Return the retain loss, `weight` · the mean negative log-likelihood per token; none where the weight is 0."""
    if not weight:
        return []
    return [LossTerm("retain", run.retain, options.max_tokens_retain, token_nll, reduction="tokens", weight=weight)]


def train(run: Run, options: Options, terms: Sequence[LossTerm]) -> Unlearned | None:
    """Minimise the sum of the terms from the base model on; in all processes but the main one return None.

    A term on `run.forget` has its batches in the order that the run's split asks for. Raises InputError where a term
    has no texts or one that is too short, where `trained` names nothing, or where the loss or the trained weights are
    no longer finite.
    """
    accelerator = _accelerator(run.device, options.dtype)
    torch.manual_seed(run.seed)
    if run.split in ORDERED and not any(term.texts == run.forget for term in terms):
        raise InputError(
            f"{run.label}: no loss is of `run.forget`, whose attributes order the batches of the split {run.split}: "
            "leave the split out for this method"
        )
    tokenizer = base_model.load_tokenizer(run.base)
    batched = [_Batches(term, tokenizer, options, run.seed, accelerator, run) for term in terms]
    weights = _load(run.base, options)
    for batches in batched:
        batches.check_tokens(weights.model, f"lower max_tokens_{batches.term.name}")
    of_run = stages(run, options.steps, options.warmup_steps)
    model, losses, _ = _minimise(run.label, options, of_run, batched, weights.model, accelerator, run.checkpoint)
    state = accelerator.get_state_dict(model)  # a collective call where the weights are sharded
    if not accelerator.is_main_process:
        return None
    unlearned = weights.unlearned(accelerator.unwrap_model(model), state, losses)
    seen = next((batches.rows for batches in batched if batches.term.texts == run.forget), [])
    unlearned = dataclasses.replace(unlearned, visits=visits(run, seen))
    if not all(torch.isfinite(tensor).all() for tensor in unlearned.delta.values()):
        raise InputError(_diverged(f"a weight of {run.label} is not finite", options.steps, options))
    return unlearned


@contextlib.contextmanager
def fine_tuned(
    model: torch.nn.Module,
    tokenizer,
    options: Options,
    terms: Sequence[LossTerm],
    seed: int,
    label: str,
    checkpoint: Checkpoint | None = None,
) -> Iterator[torch.nn.Module]:
    """Within this context, the loaded `model` has LoRA factors that minimise the sum of the terms.

    The model's weights are never changed, so nothing is lost to rounding, and afterwards the factors are gone.
    `options.trained` counts for nothing. With `checkpoint` a signal saves what was trained, and stops. Raises
    InputError as `train` does.
    """
    checkpoint = checkpoint or Checkpoint()
    # A model that computes in fp32 because an edit asks for it is trained so.
    accelerator = _accelerator(model.device.type, "float32" if model.dtype == torch.float32 else options.dtype)
    torch.manual_seed(seed ^ OF_ATTACKS)
    batched = [_Batches(term, tokenizer, options, seed, accelerator) for term in terms]
    for batches in batched:
        batches.check_tokens(model, "lower max_tokens")
    if options.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    adapted = _with_lora(model, "the model", options)
    try:
        one_stage = [Stage(1, options.steps, options.warmup_steps)]
        _, _, save = _minimise(label, options, one_stage, batched, adapted, accelerator, checkpoint)
        with checkpoint.at_rest(options.steps, save):
            yield adapted.eval().get_base_model()
    finally:
        adapted.unload()


def _minimise(label, options, stages, batched, model, accelerator, checkpoint):
    """Train the parameters of `model` that require gradients.

    Returns the model as accelerate prepared it, the losses, and a function that gives the state after the last step.
    """
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=options.learning_rate,
        weight_decay=options.weight_decay,
    )
    model, optimizer = accelerator.prepare(model, optimizer)
    loop = _Loop(label, options, stages, batched, model, optimizer, accelerator)
    for step in checkpoint.steps(options.steps, loop.state_dict, loop.load_state_dict):
        loop.step(step)
    return model, loop.curve.rows, loop.state_dict


class _Loop:
    """One run's training, step by step, and the state from which it can be resumed."""

    def __init__(self, label, options, stages, batched, model, optimizer, accelerator):
        from accelerate import DistributedType

        self._label, self._options, self._stages, self._batched = label, options, stages, batched
        self._model, self._optimizer, self._accelerator = model, optimizer, accelerator
        # Sharded gradients must not wait whole in memory, so FSDP adds them up after every backward pass.
        self._waits = accelerator.distributed_type != DistributedType.FSDP
        self._progress = Progress(label, options.steps)
        self._names = [f"{batches.term.name}_loss" for batches in batched]
        self.curve = LossCurve(options.steps)

    def step(self, step: int) -> None:
        """Make one step, counted from 1."""
        options = self._options
        if step == 1:
            for batches in self._batched:
                batches.compute_reference(self._model)
        stage = next(stage for stage in reversed(self._stages) if stage.first <= step)
        if step == stage.first:
            self._optimizer.state.clear()
        for group in self._optimizer.param_groups:
            group["lr"] = options.learning_rate * min(1, (step - stage.first + 1) / max(stage.warmup_steps, 1))
        losses = self._gradients(step)
        if not all(map(math.isfinite, losses)):
            total = sum(value * batches.term.weight for value, batches in zip(losses, self._batched, strict=True))
            raise InputError(_diverged(f"the loss of {self._label} is {total}", step, options))
        if options.max_gradient_norm is not None:
            trained = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
            self._accelerator.clip_grad_norm_(trained, options.max_gradient_norm)
        self._optimizer.step()
        if self._optimizer.step_was_skipped:
            # In float16 a gradient overflowed, and the loss is scaled less from here on.
            if self._accelerator.scaler.get_scale() < 1:
                raise InputError(_diverged(f"a gradient of {self._label} is not finite", step, options))
            self.step(step)
            return
        named = dict(zip(self._names, losses, strict=True))
        self.curve.add(step, **named)
        if self._accelerator.is_main_process:
            self._progress.step(step, **named)

    def _gradients(self, step: int) -> list[float]:
        """Compute the gradients of one step, and return its losses, each summed over all processes."""
        batched, accelerator = self._batched, self._accelerator
        self._model.train()
        self._optimizer.zero_grad()
        passes = [
            (number, *forward_pass)
            for number, batches in enumerate(batched)
            for forward_pass in batches.passes(step - 1)
        ]
        sums = torch.zeros(len(batched), device=accelerator.device)
        for done, (number, rows, shares) in enumerate(passes, start=1):
            synchronized = done == len(passes) or not self._waits
            with contextlib.nullcontext() if synchronized else accelerator.no_sync(self._model):
                loss = batched[number].loss(self._model, rows, shares)
                # Gradients are averaged over the processes, whose shares add up to the batch.
                accelerator.backward(loss * batched[number].term.weight * accelerator.num_processes)
            sums[number] += loss.detach()
        return accelerator.reduce(sums, reduction="sum").tolist()

    def state_dict(self) -> State:
        """Return the state that the remaining steps depend on."""
        facts = {"losses": self.curve.state_dict()}
        if self._accelerator.scaler is not None:
            facts["scaler"] = self._accelerator.scaler.state_dict()
        references = {f"{REFERENCE}{batches.term.name}": batches.reference for batches in self._batched}
        references = {name: tensor for name, tensor in references.items() if tensor is not None}
        return State({**optimizer_state(self._optimizer), **references}, facts)

    def load_state_dict(self, state: State) -> None:
        """Go on from what `state_dict` returned."""
        for batches in self._batched:
            reference = state.tensors.get(f"{REFERENCE}{batches.term.name}")
            batches.reference = None if reference is None else reference.to(self._accelerator.device)
        if isinstance(self._model, torch.nn.parallel.DistributedDataParallel):
            # After a first backward pass gradients are reduced in other groups, which round in another way.
            self._gradients(1)
        load_optimizer(self._optimizer, state.tensors)
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(state.facts["scaler"])
        self.curve.load_state_dict(state.facts["losses"])
        self._progress.before = state.done


def _diverged(problem: str, step: int, options: Options) -> str:
    return (
        f"{problem} at step {step} of {options.steps} with learning rate {options.learning_rate}: lower the learning "
        "rate or take fewer steps"
    )


def _accelerator(device: str, dtype: str):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import GradientAccumulationPlugin

    if device == "cpu" and dtype == "float16":
        raise InputError("training in float16 needs a GPU: take dtype bfloat16 or float32")
    # Accelerate keeps the first run's precision for the whole process.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    return Accelerator(
        cpu=device == "cpu",
        mixed_precision=PRECISIONS[dtype],
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),  # the loop adds up on its own
    )


class _Batches:
    """A term's texts, tokenized, and the batches that one process sees of them."""

    def __init__(self, term: LossTerm, tokenizer, options: Options, seed: int, accelerator, run: Run | None = None):
        if not term.texts:
            raise InputError(f"there are no {term.name} texts for the {term.name} loss: give some or leave it out")
        self.term, self._options, self._accelerator = term, options, accelerator
        self._tokens = tokenizer(term.texts, truncation=True, max_length=term.max_tokens)["input_ids"]
        short = [row for row, tokens in enumerate(self._tokens) if len(tokens) < 2]
        if short:
            raise InputError(
                f"{len(short)} {term.name} texts (row {short[0]} is one) have fewer than 2 tokens, "
                "so nothing to predict: drop them"
            )
        size = options.batch_size, options.steps
        if term.name == "retain":
            self.rows = retain_batches(len(term.texts), *size, seed)
        elif run is not None and term.texts == run.forget:
            self.rows = forget_batches(run, *size)
        else:
            self.rows = batches_of_rows(len(term.texts), *size, seed)
        self.reference: torch.Tensor | None = None  # log π_ref of the texts that the run visits

    def check_tokens(self, model: torch.nn.Module, lower: str) -> None:
        """Check that the model has an embedding and a position for each token; raises InputError."""
        base_model.check_tokens(model, self._tokens, f"the {self.term.name} texts", lower)

    def passes(self, number: int) -> list[tuple[list[int], torch.Tensor]]:
        """Return this process's forward passes over batch `number`: their rows and each row's share of the mean."""
        rows = self.rows[number]
        counts = {row: len(self._tokens[row]) - 1 if self.term.reduction == "tokens" else 1 for row in rows}
        total = sum(counts[row] for row in rows)
        return [
            (
                pass_rows,
                torch.tensor([counts[row] * counted / total for row in pass_rows], device=self._accelerator.device),
            )
            for pass_rows, counted in self._divided(rows, self._options.accumulation)
        ]

    def _divided(self, rows: list[int], micro_batches: int) -> list[tuple[list[int], bool]]:
        """Divide rows into micro-batches of like length, and each over the processes; return this process's passes.

        All processes take the same number of passes, since they wait for each other in each. A process for which no row
        is left takes a row with False, which must not count.
        """
        ordered = sorted(rows, key=lambda row: (len(self._tokens[row]), row))
        chunks = [chunk.tolist() for chunk in torch.tensor(ordered).tensor_split(micro_batches)]
        processes, process = self._accelerator.num_processes, self._accelerator.process_index
        if processes == 1:
            return [(group, True) for chunk in chunks for group in by_length(chunk, self._tokens)]
        return [(chunk[process::processes] or chunk[:1], process < len(chunk)) for chunk in chunks]

    def loss(self, model: torch.nn.Module, rows: list[int], shares: torch.Tensor) -> torch.Tensor:
        """Return Σ share · loss over rows, a scalar with gradients."""
        reference = None if self.reference is None else self.reference[rows]
        tokens = torch.tensor([len(self._tokens[row]) - 1 for row in rows], device=shares.device)
        return (shares * self.term.loss(self.log_probabilities(model, rows), tokens, reference)).sum()

    def log_probabilities(self, model: torch.nn.Module, rows: list[int]) -> torch.Tensor:
        """Return log π(y) of rows, shape (rows,), fp32."""
        tokens = [torch.tensor(self._tokens[row]) for row in rows]
        inputs = pad(tokens).to(self._accelerator.device)
        mask = pad([torch.ones_like(ids) for ids in tokens]).to(self._accelerator.device)
        logits = model(input_ids=inputs, attention_mask=mask, use_cache=False).logits[:, :-1].float()
        wanted = inputs[:, 1:]
        # One row per token: with the vocabulary not last, the softmax would stride through memory, and round more.
        nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none").view_as(
            wanted
        )
        return -(nll * mask[:, 1:]).sum(dim=1)

    @torch.no_grad()
    def compute_reference(self, model: torch.nn.Module) -> None:
        """Keep log π_ref of the texts that the run will visit, from the model as it is now."""
        if not self.term.reference:
            return
        model.eval()
        accelerator = self._accelerator
        visited = sorted({row for batch in self.rows for row in batch})
        reference = torch.zeros(len(self._tokens), device=accelerator.device)
        a_pass = max(1, self._options.batch_size // self._options.accumulation)
        for rows, counted in self._divided(visited, math.ceil(len(visited) / a_pass)):
            if counted:
                reference[rows] = self.log_probabilities(model, rows)
            else:
                self.log_probabilities(model, rows)
        self.reference = accelerator.reduce(reference, reduction="sum")


@dataclasses.dataclass
class _Weights:
    """The model as loaded, and how to read back what training changed.

    `stored` maps the name of each trained parameter to that of its tensor in the base model's files; with LoRA it is
    empty.
    """

    model: torch.nn.Module
    base: BaseModel
    stored: dict[str, str]

    def unlearned(self, model: torch.nn.Module, state: dict[str, torch.Tensor], losses: list[dict]) -> Unlearned:
        """Return the result for the trained `model` and its full `state`, whose tensors become the differences."""
        if not self.stored:
            return self._adapter(model, state, losses)
        files, delta = TensorFolder(self.base.folder), {}
        for name, stored in self.stored.items():
            now = state[name].detach()
            delta[stored] = now.sub_(files[stored].to(now.device, torch.float32)).cpu()
        return Unlearned(delta, losses)

    def _adapter(self, model: torch.nn.Module, state: dict[str, torch.Tensor], losses: list[dict]) -> Unlearned:
        from peft import get_peft_model_state_dict

        factors = get_peft_model_state_dict(model, state_dict=state, save_embedding_layers=False)
        config = model.peft_config["default"]
        config.base_model_name_or_path = self.base.source  # PEFT's own is a path
        config.inference_mode = True
        return Unlearned(
            {name: factor.detach().float().cpu() for name, factor in factors.items()},
            losses,
            adapter=json.loads(json.dumps(config.to_dict(), default=sorted)),  # target_modules is a set
        )


def _load(base: BaseModel, options: Options) -> _Weights:
    everything = options.trained == "all"
    dtype = torch.float32 if everything else getattr(torch, options.dtype)
    model = base_model.load(base, dtype, "cpu")
    if options.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    files = base_model.FileNames(model, TensorFolder(base.folder).shapes)
    aliases: dict[torch.nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        aliases.setdefault(parameter, []).append(name)
    if options.trained == "lora":
        adapted = _with_lora(model, base.source, options)
        alone = {names[0] for names in aliases.values() if len(names) == 1}
        _check_adapted(adapted, base, options, alone & files.tensors.keys())
        return _Weights(adapted, base, {})
    stored = _stored_names(files, aliases.values(), base, options.trained)
    model.requires_grad_(False)
    parameters, tensors = dict(model.named_parameters(remove_duplicate=False)), TensorFolder(base.folder)
    for name, tensor in stored.items():
        if dtype != torch.float32:  # small updates would be lost in a half-precision sum
            parameters[name].data = tensors[tensor].float()
        parameters[name].requires_grad_(True)
    return _Weights(model, base, stored)


def _stored_names(
    files: base_model.FileNames, parameters: Iterable[list[str]], base: BaseModel, trained: str
) -> dict[str, str]:
    """Return {name in the model: name in the base's files} of the parameters that `trained` names, tied ones once.

    `parameters` has all names of each parameter.
    """
    try:
        matches = re.compile(".*" if trained == "all" else trained).fullmatch
    except re.error as error:
        raise InputError(f"`trained: {trained}` is no regular expression: {error}") from error
    parameters, stored_names = list(parameters), {}
    for names in parameters:
        stored = [(name, tensor) for name in names for tensor in files.tensors.get(name, [])]
        if not any(map(matches, [*names, *(tensor for _, tensor in stored)])):
            continue
        if not stored:
            raise InputError(
                f"`trained: {trained}` takes in {names[0]}, which is no tensor of its own in the files of "
                f"{base.source}: give a regular expression of parameters that are, or train LoRA factors"
            )
        stored_names.update([min(stored, key=lambda pair: pair[0] != pair[1])])
    if not stored_names:
        some = ", ".join(names[0] for names in parameters[:SHOWN])
        raise InputError(f"`trained: {trained}` matches no parameter of {base.source}; it has {some} and so on")
    return stored_names


def _check_adapted(adapted: torch.nn.Module, base: BaseModel, options: Options, adaptable: set[str]) -> None:
    """Raise InputError unless the adapter changes nothing but whole weights, all of them `adaptable`, by B·A."""
    from peft import get_peft_model_state_dict

    model, transposed = adapted.get_base_model(), adapted.peft_config["default"].fan_in_fan_out
    for key, factor in get_peft_model_state_dict(adapted, save_embedding_layers=False).items():
        module = key.removeprefix(PEFT_PREFIX).removesuffix(LORA_A).removesuffix(LORA_B)
        if (
            f"{module}.weight" not in adaptable
            or factor.dim() != 2
            or getattr(model.get_submodule(module), "fan_in_fan_out", None) != transposed
        ):
            raise InputError(
                f"lora_targets {options.lora_targets} adapt {module} of {base.source}, whose change is no B·A of one "
                "tensor in the model's files: name other modules, such as the attention's projections"
            )


def _with_lora(model: torch.nn.Module, name: str, options: Options) -> torch.nn.Module:
    from peft import LoraConfig, get_peft_model

    targets = options.lora_targets
    config = LoraConfig(
        r=options.lora_rank,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )
    linear = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    try:
        adapted = get_peft_model(model, config)
        adapts = [f".{module}" for module in adapted.base_model.targeted_module_names]
        for target in () if isinstance(targets, str) else targets:  # PEFT leaves out what it doesn't find
            if not any(module.endswith(f".{target}") for module in adapts):
                raise ValueError(f"nothing is called {target}")
        return adapted
    except (ValueError, re.error) as error:
        raise InputError(
            f"PEFT can't adapt lora_targets {targets} in {name}, whose linear layers are "
            f"{', '.join(sorted(linear))}: {str(error).splitlines()[0]}"
        ) from error
