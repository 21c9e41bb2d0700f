"""RMU: representation misdirection for unlearning (Li et al. 2024, "The WMDP Benchmark", arXiv 2403.03218).

The hidden states of forget texts at one layer are steered to a random vector, those of retain texts are held where the
frozen model has them:

    loss = MSE(h(forget), c) + alpha · MSE(h(retain), h_frozen(retain)),  c = coefficient · u / ‖u‖,  u ~ U[0, 1)^hidden

Nothing above `layer_id` matters to this loss, so only the layers 0 … `layer_id` are loaded; and the layers below the
first trained one are the same in the frozen and in the trained model, so they run once for both, without gradients.
docs/rmu.md compares this with the authors' code, option by option.
"""

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field

from spunge.core import safetensors_writer
from spunge.core.errors import InputError
from spunge.core.progress import LossCurve, Progress, say
from spunge.experiment.options import (
    Count,
    Distinct,
    ModelDtype,
    Natural,
    NonEmpty,
    NonNegative,
    Positive,
    Seed,
    Steps,
    Text,
    Tokens,
    checked,
)
from spunge.experiment.splits import ORDERED
from spunge.methods import Run, Unlearned
from spunge.models import base_model
from spunge.models.task_vector import BaseModel, TensorFolder, opened
from spunge.training.batches import by_length, pad
from spunge.training.resume import State, load_optimizer, optimizer_state
from spunge.training.schedule import forget_batches, retain_batches, stages, visits

CACHE_BATCH = 32
PREFIX, FROZEN = "prefix", "frozen"
CONTROL = "control."  # before an attribute's number
# In float16 the loss is scaled up, since a gradient is 2 (h − c) over millions of entries; an overflow scales it down.
LOSS_SCALE = 2.0**24
SECOND_BETA = 0.999  # AdamW's, of the second moment
# Marks an option on which the activations of the frozen layers depend: which layers these are, and how texts are cut.
FROZEN_ACTIVATIONS = Field(json_schema_extra={"frozen_activations": True})


@checked
class Options:
    """Settings of one RMU run; the defaults are those of the authors' code.

    Lists with a value for each attribute are in the order of the experiment's attributes.

    `mask`: only a text's own positions enter the loss, but for the first `skip_first` of them (an attention sink whose
    norm dwarfs the others). Without it all positions of a batch do, which is padded to its longest text with the
    end-of-text token. The authors pad on the left, where a pad has nothing to look at and its state is an accident of
    the attention code; here pads are on the right and see the text before them, but no pad. The text's own states are
    the same either way.

    `adaptive` is Adaptive RMU (arXiv 2408.06223), with the states of the first batch that has the attribute.
    """

    steps: Steps = 80
    layer_id: Annotated[Natural, Field(description="Decoder layer whose output is steered."), FROZEN_ACTIVATIONS] = 7
    trained_layers: Annotated[
        Distinct[Natural], Field(description="Layers whose parameters are trained."), FROZEN_ACTIVATIONS
    ] = (5, 6, 7)
    trained_parameters: Annotated[
        Distinct[Text], Field(description="Parameters trained in each of those layers."), FROZEN_ACTIVATIONS
    ] = ("mlp.down_proj.weight",)
    alpha: Annotated[
        NonNegative | NonEmpty[NonNegative],
        Field(
            description="Weight of the retain loss; a list has one for each attribute, the last for all further ones."
        ),
    ] = 100.0
    steering_coefficient: Annotated[
        Positive | NonEmpty[Positive],
        Field(
            description="Norm of the control vector; a list has one for each attribute, the last for all further ones."
        ),
    ] = 20.0
    adaptive: Annotated[
        Positive | None,
        Field(
            description="Replaces `steering_coefficient` by this times the mean norm of an attribute's first forget "
            "states."
        ),
    ] = None
    control_vector_per: Annotated[
        Literal["attribute", "run"],
        Field(description="One control vector for each attribute, or one for the whole run."),
    ] = "attribute"
    control_seed: Annotated[
        Seed | None,
        Field(
            description="Seed of the control vectors; null takes each run's own seed, so that all shards share them."
        ),
    ] = None
    alternate_attributes: Annotated[
        bool,
        Field(
            description="Batches of one attribute each, in turn; otherwise batches of all texts. The splits `balanced` "
            "and `sequential` have an order of their own."
        ),
    ] = True
    mask: Annotated[
        bool,
        Field(description="Keep padding and the first `skip_first` positions out of the loss."),
        FROZEN_ACTIVATIONS,
    ] = False
    skip_first: Annotated[
        Natural, Field(description="Positions at the start that stay out of the loss, with `mask`."), FROZEN_ACTIVATIONS
    ] = 0
    learning_rate: Annotated[Positive, Field(description="Learning rate of AdamW.")] = 5e-5
    weight_decay: Annotated[NonNegative, Field(description="Weight decay of AdamW.")] = 0.0
    epsilon: Annotated[Positive, Field(description="Epsilon of AdamW.")] = 1e-6
    adamw: Annotated[
        Literal["transformers", "pytorch"],
        Field(
            description="Whose AdamW: that of the transformers library, now gone, adds epsilon before it corrects the "
            "second moment's bias, PyTorch's after."
        ),
    ] = "transformers"
    batch_size: Annotated[Count, Field(description="Forget texts, and as many retain texts, a step.")] = 4
    max_tokens_forget: Annotated[
        Tokens | NonEmpty[Tokens],
        Field(
            description="Forget texts are cut after this many tokens; a list has one number for each attribute, the "
            "last for all further ones."
        ),
        FROZEN_ACTIVATIONS,
    ] = (512, 768)
    max_tokens_retain: Annotated[
        Tokens, Field(description="Retain texts are cut after this many tokens."), FROZEN_ACTIVATIONS
    ] = 512
    dtype: ModelDtype = "float32"

    def __post_init__(self):
        if max(self.trained_layers) > self.layer_id:
            raise InputError(
                f"rmu trains layer {max(self.trained_layers)}, above layer_id {self.layer_id}, where no gradient is"
            )
        if self.skip_first and not self.mask:
            raise InputError(f"rmu's skip_first is {self.skip_first}, but only with `mask: true` do positions stay out")


# What the authors' code has by default, and what they ran on Zephyr-7B-beta. Their numbers of batches, 80 and 150, are
# for two attributes that take turns: `steps`, per shard, are 40 and 75. All else they have in common is Options'
# default.
PRESETS = {
    "reference": {"alpha": 100.0, "steering_coefficient": 20.0},
    "zephyr-7b": {"alpha": 1200.0, "steering_coefficient": 6.5},
}


def attribute_value(value: float | Sequence[float], attribute: int) -> float:
    """Return an attribute's value of an option: the same for all, or one per attribute, the last for all further."""
    return value[min(attribute, len(value) - 1)] if isinstance(value, Sequence) else value


def control_vector(hidden_size: int, coefficient: float, seed: int, attribute: int = 0) -> torch.Tensor:
    """Return c = coefficient · u / ‖u‖, u uniform on [0, 1), shape (hidden_size,), fp32 (the paper's forget loss).

    The attributes' vectors are drawn one after another, so an attribute's own depends on its position and on the seed
    alone.
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(attribute + 1):
        u = torch.rand(hidden_size, generator=generator)
    return coefficient * u / u.norm()


def squared_error(activations: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Sum over the positions where `mask` is true of the mean squared error over a position's entries.

    `activations` (batch, length, hidden), `target` broadcastable to it, `mask` (batch, length); the result an fp32
    scalar. Divided by the number of positions it is the MSE, also over several batches.
    """
    return (activations.float() - target.float()).square().mean(dim=-1)[mask].sum()


def batch_alpha(alpha: float | Sequence[float], attributes: Iterable[int]) -> float:
    """Return the weight of a batch's retain loss: its attribute's, or the mean over its texts where attributes mix."""
    values = [attribute_value(alpha, attribute) for attribute in attributes]
    return values[0] if len(set(values)) == 1 else sum(values) / len(values)


def pytorch_epsilon(options: Options, step: int) -> float:
    """Return the epsilon with which PyTorch's AdamW takes the step, counted from 1, that `options.adamw` takes.

    With the moments m and v and their bias corrections b₁ and b₂, the transformers library moved parameters by
    lr · √b₂ / b₁ · m / (√v + ε). PyTorch moves them by lr / b₁ · m / (√v / √b₂ + ε).
    """
    return options.epsilon / math.sqrt(1 - SECOND_BETA**step) if options.adamw == "transformers" else options.epsilon


class _Reached(Exception):
    """Ends a forward pass once the activations that are wanted are known."""

    def __init__(self, activations: torch.Tensor):
        self.activations = activations


class TruncatedModel:
    """The layers 0 … `layer_id` of a causal language model, cut in two below the first trained layer.

    `prefix` gives what the first trained layer reads, `suffix` the output of `layer_id`. Both are forward passes of the
    model itself, so a layer is called as in the whole model, with its own place's kind of attention and positions. In
    `suffix` the layers below the first trained one do nothing, and that one reads the given activations instead of
    theirs.

    Padding is on the right, so under causal attention it changes nothing before it; an attention mask is needed only
    where the pads' own states count, which shall not see other pads.
    """

    def __init__(self, base: BaseModel, options: Options, device: str):
        self.device, self._dtype = device, getattr(torch, options.dtype)
        whole = base_model.blueprint(base)
        name, layers = base_model.decoder_layers(whole)
        if options.layer_id >= len(layers):
            raise InputError(f"rmu's layer_id is {options.layer_id}, but {base.source} has {len(layers)} layers")
        stored = base_model.FileNames(whole, TensorFolder(base.folder).shapes).tensors
        self.model, self.layers = _load_below(base, whole.base_model, options.layer_id, self._dtype)
        self.model.requires_grad_(False).to(device).eval()
        self.hidden_size = self.model.config.get_text_config(decoder=True).hidden_size
        self._first = min(options.trained_layers)

        self.trained: dict[str, torch.nn.Parameter] = {}
        for number in options.trained_layers:
            parameters = dict(self.layers[number].named_parameters())
            for wanted in options.trained_parameters:
                if wanted not in parameters:
                    raise InputError(f"layer {number} of {base.source} has no {wanted}; it has {', '.join(parameters)}")
                full_name = f"{name}.{number}.{wanted}"
                if full_name not in stored:  # the experts of a mixture, which its files hold one by one
                    raise InputError(
                        f"rmu's trained_parameters take in {full_name}, which is no tensor of its own in the files of "
                        f"{base.source}: name others"
                    )
                parameter = parameters[wanted]
                parameter.data = parameter.data.float()  # bf16 would lose updates of this size
                self.trained[stored[full_name][0]] = parameter.requires_grad_(True)
        self.original = {name: parameter.detach().clone() for name, parameter in self.trained.items()}
        self._skipping: list[Callable] = []  # forward passes of the layers below the first trained one in `suffix`
        self._check_cut(base)

    @torch.no_grad()
    def _check_cut(self, base: BaseModel) -> None:
        """Raise InputError for an architecture whose layers read more than the activations of the one before.

        Examples are the tokens, another layer's cache, or the text that follows.
        """
        tokens = torch.arange(1, 9, device=self.device)[None]  # other ones than `suffix` gives the model
        outputs: list[torch.Tensor | tuple] = []
        below, last = self.layers[: self._first], len(self.layers) - 1
        hooks = [layer.register_forward_hook(lambda _, __, output: outputs.append(output)) for layer in below]
        whole = self._run({last: _ending(self.layers[last].forward)}, tokens, None)
        for hook in hooks:
            hook.remove()
        self._skipping = [_skipping(None if isinstance(output, torch.Tensor) else len(output)) for output in outputs]
        tokens[:, 6:] += 8
        try:
            in_parts = self.suffix(self.prefix(tokens))
        except torch.OutOfMemoryError:
            raise
        except (
            AttributeError,
            LookupError,
            RuntimeError,
            TypeError,
            ValueError,
        ):  # what the cut takes away may be missed anywhere
            in_parts = None
        alike = in_parts is not None and in_parts.shape == whole.shape == (1, 8, self.hidden_size)
        if not alike or (in_parts - whole)[:, :6].norm() > 0.02 * whole[:, :6].norm():
            raise InputError(
                f"rmu can't cut {base.source} below layer {self._first}: its parts give other states than the whole"
            )

    @torch.no_grad()
    def prefix(self, tokens: torch.Tensor, attention: torch.Tensor | None = None) -> torch.Tensor:
        """Map token ids (batch, length) to the first trained layer's input (batch, length, hidden).

        `attention`, here and below: which positions are seen (batch, length); None for all before one's own.
        """
        return self._run({self._first: _ending(_skipping(None))}, tokens, attention)

    def suffix(self, activations: torch.Tensor, attention: torch.Tensor | None = None) -> torch.Tensor:
        """Map the first trained layer's input to `layer_id`'s output, both (batch, length, hidden)."""
        forward = self.layers[self._first].forward
        forwards = dict(enumerate(self._skipping))
        forwards[self._first] = lambda hidden_states, *others, **named: forward(activations, *others, **named)
        last = len(self.layers) - 1
        forwards[last] = _ending(forwards.get(last, self.layers[last].forward))
        any_tokens = torch.zeros(activations.shape[:2], dtype=torch.long, device=activations.device)
        return self._run(forwards, any_tokens, attention)

    @torch.no_grad()
    def frozen_suffix(self, activations: torch.Tensor, attention: torch.Tensor | None = None) -> torch.Tensor:
        """Like `suffix`, with the trained parameters as they were in the base model."""
        now = {name: parameter.data for name, parameter in self.trained.items()}
        for name, parameter in self.trained.items():
            parameter.data = self.original[name]
        try:
            return self.suffix(activations, attention)
        finally:
            for name, parameter in self.trained.items():
                parameter.data = now[name]

    def delta(self) -> dict[str, torch.Tensor]:
        """Return the trained parameters' differences from the base model, in fp32 on the CPU."""
        return {name: (now.detach() - self.original[name]).cpu() for name, now in self.trained.items()}

    def _run(
        self, forwards: Mapping[int, Callable], tokens: torch.Tensor, attention: torch.Tensor | None
    ) -> torch.Tensor:
        """Run the model with other forward passes for some of its layers, until one of them ends it."""
        for number, forward in forwards.items():
            self.layers[number].forward = forward
        try:
            with torch.autocast(self.device, dtype=self._dtype, enabled=self._dtype != torch.float32):
                self.model(input_ids=tokens, attention_mask=attention, use_cache=False)
        except _Reached as reached:
            return reached.activations
        finally:
            for number in forwards:
                del self.layers[number].forward


def _load_below(
    base: BaseModel, whole: torch.nn.Module, layer_id: int, dtype: torch.dtype
) -> tuple[torch.nn.Module, torch.nn.ModuleList]:
    """Load a model without the layers above `layer_id`, and return it with its layers.

    `whole` is the model as it would be with them, without weights.
    """
    kind, (name, _) = type(whole), base_model.decoder_layers(whole)

    def build(self, config) -> None:
        # The configuration stays that of the whole model, since a layer may depend on how many there are.
        kind.__init__(self, config)
        del self.get_submodule(name)[layer_id + 1 :]

    below = type(kind.__name__, (kind,), {"__init__": build, "__module__": kind.__module__})
    model = base_model.from_folder(base.folder, base.source, below, config=whole.config, dtype=dtype)
    return model, model.get_submodule(name)


def _skipping(items: int | None) -> Callable:
    """Return a layer's forward pass that returns its input; in a tuple of so many items where the layer's own does."""

    def forward(hidden_states: torch.Tensor, *_, **__) -> torch.Tensor | tuple:
        return hidden_states if items is None else (hidden_states, *[None] * (items - 1))

    return forward


def _ending(forward: Callable) -> Callable:
    """Return a layer's forward pass after which the model's own ends, with the layer's output."""

    def ending(*inputs, **named) -> None:
        output = forward(*inputs, **named)
        raise _Reached(output if isinstance(output, torch.Tensor) else output[0])

    return ending


class Batch(NamedTuple):
    """Some texts, padded at the end to the longest of them."""

    rows: list[int]  # in rising order, so that those of the first texts come first
    inputs: torch.Tensor  # of the first trained layer, (rows, length, hidden)
    counted: torch.Tensor  # which positions enter the loss, (rows, length)
    attention: torch.Tensor | None  # which positions are seen, (rows, length); None where no pad's state matters

    def select(self, places: list[int] | slice) -> "Batch":
        """Return a batch of the rows at these places, padded as they are here."""
        rows = self.rows[places] if isinstance(places, slice) else [self.rows[place] for place in places]
        attention = None if self.attention is None else self.attention[places]
        return Batch(rows, self.inputs[places], self.counted[places], attention)


class Texts:
    """Tokenized texts of a run, the forget texts before the retain texts, and the frozen layers' activations.

    An activation depends on its own text and position alone, so activations are kept per text, and any batch can be put
    together from them. Those in `stored` (what `cache_activations` wrote) are read from its file; others stay in memory
    if `visits`, the rows of all steps, come to the text again. Raises InputError for a text that has no position for
    the loss.
    """

    def __init__(self, run: Run, options: Options, model: TruncatedModel, visits: Iterable[int] = (), stored=None):
        texts = [*run.forget, *run.retain]
        limits = [attribute_value(options.max_tokens_forget, attribute) for attribute in run.attribute_positions()]
        limits += [options.max_tokens_retain] * len(run.retain)
        tokenizer = base_model.load_tokenizer(run.base)
        if tokenizer.eos_token_id is None and not options.mask:
            raise InputError(
                f"rmu without a mask pads with the end-of-text token, which the tokenizer of {run.base.source} has "
                "not: set `mask: true`"
            )
        self.first_retain = len(run.forget)
        self.tokens: list[list[int]] = [[]] * len(texts)
        for limit in set(limits):
            rows = [row for row, row_limit in enumerate(limits) if row_limit == limit]
            tokens = tokenizer([texts[row] for row in rows], truncation=True, max_length=limit)["input_ids"]
            for row, ids in zip(rows, tokens, strict=True):
                self.tokens[row] = ids
        base_model.check_tokens(model.model, self.tokens, "the texts", "lower max_tokens_forget and max_tokens_retain")
        short = [row for row, tokens in enumerate(self.tokens) if len(tokens) <= options.skip_first]
        if short:
            raise InputError(
                f"{len(short)} texts (row {short[0]} is one) have no token beyond the first {options.skip_first}: "
                "drop them"
            )
        self._model, self._options, self._stored = model, options, stored
        self._end = tokenizer.eos_token_id
        self._keys = [activation_key(tokens) for tokens in self.tokens] if stored else []
        self._visits = Counter(visits)
        self._kept: dict[str, dict[int, torch.Tensor]] = {PREFIX: {}, FROZEN: {}}
        self._ahead: dict[tuple, torch.Tensor] = {}

    def batches(self, *sets: list[int]) -> list[Batch]:
        """Put the rows of these sets into batches.

        With `mask` texts of like length go together, of whichever set: padding costs what text costs, and one large
        batch costs less than two small ones. Without it padding is part of the loss, and each set is one batch.
        """
        return [self._batch(rows) for rows in self._groups(*sets)]

    def read_ahead(self, *sets: list[int]) -> None:
        """Read the stored activations that `batches` needs next, so that a GPU need not wait for them."""
        if self._stored is None:
            return
        for rows in self._groups(*sets):
            longest = max(len(self.tokens[row]) for row in rows)
            retain = [row for row in rows if row >= self.first_retain]
            for kind, wanted in ((PREFIX, rows), (FROZEN, retain)):
                key = kind, longest, *wanted
                if wanted and key not in self._ahead:
                    self._ahead[key] = self._read(kind, wanted, longest)

    def _groups(self, *sets: list[int]) -> list[list[int]]:
        groups = by_length([row for rows in sets for row in rows], self.tokens) if self._options.mask else sets
        return [sorted(group) for group in groups]

    def frozen(self, batch: Batch) -> torch.Tensor:
        """Return the frozen model's output at `layer_id`, (rows, length, hidden)."""

        def compute(places: list[int]) -> torch.Tensor:
            selected = batch.select(places)
            return self._model.frozen_suffix(selected.inputs, selected.attention)

        return self._activations(FROZEN, batch.rows, batch.inputs.shape[1], compute)

    def _batch(self, rows: list[int]) -> Batch:
        device, options = self._model.device, self._options
        lengths = torch.tensor([len(self.tokens[row]) for row in rows], device=device)
        positions = torch.arange(int(lengths.max()), device=device)
        text = positions < lengths[:, None]
        counted = (positions >= options.skip_first) & text if options.mask else torch.ones_like(text)
        attention = None if options.mask or text.all() else text
        tokens = pad([torch.tensor(self.tokens[row]) for row in rows], 0 if options.mask else self._end).to(device)

        def compute(places: list[int]) -> torch.Tensor:
            return self._model.prefix(tokens[places], None if attention is None else attention[places])

        return Batch(rows, self._activations(PREFIX, rows, len(positions), compute), counted, attention)

    def _activations(
        self, kind: str, rows: list[int], longest: int, compute: Callable[[list[int]], torch.Tensor]
    ) -> torch.Tensor:
        """Return these rows' activations, (rows, longest, hidden); `compute` makes those at some places of a batch."""
        if self._stored is not None:
            ahead = self._ahead.pop((kind, longest, *rows), None)
            return self._read(kind, rows, longest) if ahead is None else ahead
        kept = self._kept[kind]
        # Where all positions count, so do the pads' activations.
        lengths = [len(self.tokens[row]) if self._options.mask else longest for row in rows]
        at_hand = [row in kept and len(kept[row]) >= length for row, length in zip(rows, lengths, strict=True)]
        missing = [place for place, present in enumerate(at_hand) if not present]
        made = compute(missing) if missing else ()
        for place, activations in zip(missing, made, strict=True):
            if self._visits[rows[place]] > 1:
                kept[rows[place]] = activations[: lengths[place]].cpu().clone()
        if len(missing) == len(rows):
            return made
        computed = dict(zip(missing, made, strict=True))
        activations = [computed.get(place, kept.get(row)) for place, row in enumerate(rows)]
        return _padded(activations, longest, device=self._model.device)

    def _read(self, kind: str, rows: list[int], longest: int) -> torch.Tensor:
        """Return these rows' stored activations; from pinned memory a GPU fetches them while it computes."""
        activations = [self._stored.get_tensor(f"{kind}.{self._keys[row]}") for row in rows]
        padded = _padded(activations, longest, pin_memory=self._model.device == "cuda")
        return padded.to(self._model.device, non_blocking=True)


def _padded(activations: list[torch.Tensor], longest: int, **place) -> torch.Tensor:
    """Return activations of (length, hidden) each as (rows, longest, hidden), with zeros after shorter ones."""
    padded = activations[0].new_zeros((len(activations), longest, activations[0].shape[1]), **place)
    for row, text in zip(padded, activations, strict=True):
        length = min(longest, len(text))
        row[:length] = text[:length]
    return padded


class ControlVectors:
    """The control vectors that the attributes' forget activations are steered to."""

    def __init__(self, run: Run, options: Options, model: TruncatedModel, texts: Texts):
        self._options, self._model, self._texts = options, model, texts
        self._attributes = run.attribute_positions()
        self._seed = run.seed if options.control_seed is None else options.control_seed
        self._vectors: dict[int, torch.Tensor] = {}

    def ensure_control_vectors(self, rows: list[int]) -> None:
        """Make the vectors of the attributes that these forget rows, a batch, have for the first time."""
        for attribute in sorted({self._attributes[row] for row in rows} - self._vectors.keys()):
            coefficient = attribute_value(self._options.steering_coefficient, attribute)
            if self._options.adaptive is not None:
                attribute_rows = [row for row in rows if self._attributes[row] == attribute]
                coefficient = self._options.adaptive * self._mean_norm(attribute_rows)
            position = attribute if self._options.control_vector_per == "attribute" else 0
            vector = control_vector(self._model.hidden_size, coefficient, self._seed, position)
            self._vectors[attribute] = vector.to(self._model.device)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the vectors made so far, by names."""
        return {f"{CONTROL}{attribute}": vector for attribute, vector in self._vectors.items()}

    def load_state_dict(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take the vectors that `state_dict` returned, and no others."""
        vectors = {name.removeprefix(CONTROL): vector for name, vector in tensors.items() if name.startswith(CONTROL)}
        self._vectors = {int(attribute): vector.to(self._model.device) for attribute, vector in vectors.items()}

    def of(self, batch: Batch) -> torch.Tensor:
        """Return the vector of each of these forget texts, shape (rows, 1, hidden)."""
        return torch.stack([self._vectors[self._attributes[row]] for row in batch.rows])[:, None]

    @torch.no_grad()
    def _mean_norm(self, rows: list[int]) -> float:
        batches = self._texts.batches(rows)
        norms = [
            self._model.suffix(batch.inputs, batch.attention).float().norm(dim=-1)[batch.counted] for batch in batches
        ]
        return torch.cat(norms).mean().item()


def activation_key(tokens: list[int]) -> str:
    """Return a name for a text's activations that depends on its tokens alone."""
    return hashlib.sha256(json.dumps(tokens).encode()).hexdigest()[:32]


def _check_cacheable(options: Options) -> None:
    if not options.mask:
        raise InputError(
            "rmu's cache_activations needs `mask: true`: activations are kept text by text, without the padding"
        )


def cache_activations(run: Run, options: Options, path: str | os.PathLike) -> None:
    """Write the frozen layers' activations on every text to a safetensors file, for all shards and seeds to use.

    For each text the first trained layer's input, for retain texts the frozen model's output at `layer_id` too, each of
    shape (length, hidden). Raises InputError without `mask`, where the activations of pads would be needed as well.
    """
    _check_cacheable(options)
    model = TruncatedModel(run.base, options, run.device)
    texts = Texts(run, options, model)
    kinds: dict[str, set[str]] = {}
    by_key = {}
    for row, tokens in enumerate(texts.tokens):
        by_key[activation_key(tokens)] = tokens
        needed = {PREFIX} if row < texts.first_retain else {PREFIX, FROZEN}
        kinds.setdefault(activation_key(tokens), set()).update(needed)
    keys = sorted(by_key, key=lambda key: (len(by_key[key]), key))
    dtype = getattr(torch, options.dtype)
    layout = {
        f"{kind}.{key}": (torch.Size((len(by_key[key]), model.hidden_size)), dtype)
        for key in keys
        for kind in sorted(kinds[key])
    }
    safetensors_writer.write(path, layout, _compute_activations(model, keys, by_key, kinds, dtype))


def _compute_activations(model: TruncatedModel, keys: list[str], by_key: dict, kinds: dict, dtype: torch.dtype):
    progress = Progress("frozen activations", len(keys))
    for start in range(0, len(keys), CACHE_BATCH):
        batch = keys[start : start + CACHE_BATCH]
        activations = {PREFIX: model.prefix(pad([torch.tensor(by_key[key]) for key in batch]).to(model.device))}
        if any(FROZEN in kinds[key] for key in batch):
            activations[FROZEN] = model.frozen_suffix(activations[PREFIX])
        for row, key in enumerate(batch):
            for kind in sorted(kinds[key]):
                yield f"{kind}.{key}", activations[kind][row, : len(by_key[key])].to(dtype)
        progress.step(start + len(batch))


def step_losses(
    model: TruncatedModel, texts: Texts, controls: ControlVectors, forget_rows: list[int], retain_rows: list[int]
) -> list[torch.Tensor]:
    """Return the forget and the retain loss of one step, each a mean over its own texts' positions, as scalars."""
    sums, counts = [0.0, 0.0], [0, 0]
    for batch in texts.batches(forget_rows, retain_rows):
        activations = model.suffix(batch.inputs, batch.attention)
        first_retain = sum(row < texts.first_retain for row in batch.rows)
        forget, retain = slice(0, first_retain), slice(first_retain, None)
        for loss, (places, target) in enumerate(((forget, controls.of), (retain, texts.frozen))):
            selected = batch.select(places)
            if selected.rows:
                sums[loss] += squared_error(activations[places], target(selected), selected.counted)
                counts[loss] += selected.counted.sum()
    return [total / count for total, count in zip(sums, counts, strict=True)]


def recompute_activations(texts: Texts, controls: ControlVectors, steps: Sequence[tuple[list[int], list[int]]]) -> None:
    """Compute the frozen activations that these steps, (forget rows, retain rows) each, left in memory; train nothing.

    An activation's last bits depend on the batch that it was computed in, so the same batches are computed again.
    """
    for forget_rows, retain_rows in steps:
        controls.ensure_control_vectors(forget_rows)
        for batch in texts.batches(forget_rows, retain_rows):
            if retain := [place for place, row in enumerate(batch.rows) if row >= texts.first_retain]:
                texts.frozen(batch.select(retain))


def _diverged(problem: str, step: int, options: Options) -> str:
    other = ", or take dtype bfloat16 or float32" if options.dtype == "float16" else ""
    return (
        f"{problem} at step {step} of {options.steps} with learning rate {options.learning_rate}: "
        f"lower the learning rate, alpha or the coefficient{other}"
    )


def _say_turns(run: Run, options: Options) -> None:
    """Say which attributes get no step because attributes take turns and outnumber the steps."""
    present = set(run.attributes)
    if run.split not in ORDERED and options.alternate_attributes and options.steps < len(present):
        left_out = [attribute for attribute in run.all_attributes or sorted(present) if attribute in present][
            options.steps :
        ]
        say(
            f"{run.label}: {len(present)} attributes take turns in {options.steps} steps, so {', '.join(left_out)} get "
            f"none: take at least {len(present)} steps, or `alternate_attributes: false`"
        )


def unlearn(run: Run, options: Options) -> Unlearned:
    """Run RMU on one shard from the base model and return the changed weights' differences.

    Raises InputError where the loss or a gradient is no longer finite (naming step and learning rate), where
    the model lacks the layers or parameters that the options name, or where a text has no token that would enter the
    loss.
    """
    if run.activations:
        _check_cacheable(options)
    attributes = run.attribute_positions()
    _say_turns(run, options)
    torch.manual_seed(run.seed)
    size = options.batch_size, options.steps
    forget = forget_batches(run, *size, take_turns=options.alternate_attributes)
    retain = retain_batches(len(run.retain), *size, run.seed)
    batches = [(rows, [len(run.forget) + row for row in others]) for rows, others in zip(forget, retain, strict=True)]
    first_steps = {stage.first for stage in stages(run, options.steps)}
    model = TruncatedModel(run.base, options, run.device)
    optimizer = torch.optim.AdamW(
        model.trained.values(),
        lr=options.learning_rate,
        weight_decay=options.weight_decay,
        betas=(0.9, SECOND_BETA),
        fused=True,
    )
    scaler = torch.amp.GradScaler(run.device, init_scale=LOSS_SCALE, enabled=options.dtype == "float16")
    progress = Progress(run.label, options.steps)
    curve = LossCurve(options.steps)
    with opened(run.activations) if run.activations else nullcontext() as stored:
        texts = Texts(run, options, model, chain(*chain(*batches)), stored)
        controls = ControlVectors(run, options, model, texts)

        def save() -> State:
            facts = {"losses": curve.state_dict(), "scaler": scaler.state_dict()}
            return State({**optimizer_state(optimizer), **controls.state_dict()}, facts)

        def load(state: State) -> None:
            past, future = batches[: state.done], batches[state.done :]
            come_again = {*chain(*chain(*past))} & {*chain(*chain(*future))}
            if come_again and stored is None:
                recompute_activations(texts, controls, past)
            load_optimizer(optimizer, state.tensors)
            controls.load_state_dict(state.tensors)
            scaler.load_state_dict(state.facts["scaler"])
            curve.load_state_dict(state.facts["losses"])
            progress.before = state.done

        def take(step: int) -> dict[str, float]:
            """Take a step, with a smaller scale as often as a gradient overflows, and return its losses."""
            forget_rows, retain_rows = batches[step - 1]
            if step in first_steps:
                optimizer.state.clear()
            taken = step - max(first for first in first_steps if first <= step) + 1
            optimizer.param_groups[0]["eps"] = pytorch_epsilon(options, taken)
            controls.ensure_control_vectors(forget_rows)
            alpha = batch_alpha(options.alpha, (attributes[row] for row in forget_rows))
            scale = math.inf
            while scaler.get_scale() < scale:
                scale = scaler.get_scale()
                if scale < 1:
                    raise InputError(_diverged(f"a gradient of {run.label} is not finite", step, options))
                losses = step_losses(model, texts, controls, forget_rows, retain_rows)
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(losses[0] + alpha * losses[1]).backward()
                scaler.step(optimizer)  # does nothing where a gradient overflowed
                scaler.update()
                if step < len(batches):
                    texts.read_ahead(*batches[step])
                forget_loss, retain_loss = torch.stack(losses).tolist()  # the one place where a step waits for a GPU
                if not math.isfinite(total := forget_loss + alpha * retain_loss):
                    raise InputError(_diverged(f"the loss of {run.label} is {total}", step, options))
            return {"forget_loss": forget_loss, "retain_loss": retain_loss}

        for step in run.checkpoint.steps(options.steps, save, load):
            losses = take(step)
            progress.step(step, **losses)
            curve.add(step, **losses)
    return Unlearned(model.delta(), curve.rows, visits=visits(run, forget))
