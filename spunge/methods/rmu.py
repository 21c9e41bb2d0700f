"""RMU: representation misdirection for unlearning (Li et al. 2024, "The WMDP Benchmark", arXiv 2403.03218).

The hidden states of forget texts at one layer are steered to a random vector, those of retain texts are held where the
frozen model has them:

    loss = MSE(h(forget), c) + alpha · MSE(h(retain), h_frozen(retain)),  c = coefficient · u / ‖u‖,  u ~ U[0, 1)^hidden

Nothing above `layer_id` matters to this loss, so only the layers 0 … `layer_id` are loaded; and the layers below the
first trained one are the same in the frozen and in the trained model, so they run once for both, without gradients.
"""

import dataclasses
import hashlib
import json
import math
import os
from contextlib import nullcontext

import torch
from safetensors import safe_open

from spunge import models, safetensors_stream
from spunge.errors import InputError
from spunge.methods import Run, Unlearned
from spunge.progress import Progress
from spunge.task_vector import BaseModel

RECORDS = 60  # rows of the loss curve
STATES_BATCH = 32
PREFIX, FROZEN = "prefix", "frozen"


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of one RMU run; the defaults are the reference code's, but for `skip_first` and `steps`.

    `steps` is per shard. `control_seed`: the seed of the control vector; None takes the run's own seed, so that all
    runs of one seed steer to the same vector and differ by their shards alone. `skip_first` positions, an attention
    sink whose norm dwarfs the others, stay out of the loss, as padding does.
    """

    steps: int = 80
    layer_id: int = 7
    trained_layers: tuple[int, ...] = (5, 6, 7)
    trained_parameter: str = "mlp.down_proj.weight"
    alpha: float = 100.0
    coefficient: float = 20.0
    learning_rate: float = 5e-5
    batch_size: int = 4
    max_tokens_forget: int = 512
    max_tokens_retain: int = 512
    skip_first: int = 1
    control_seed: int | None = None
    dtype: str = "float32"

    def __post_init__(self):
        if max(self.trained_layers) > self.layer_id:
            raise InputError(
                f"rmu trains layer {max(self.trained_layers)}, above layer_id {self.layer_id}, where no gradient is"
            )


def control_vector(hidden_size: int, coefficient: float, seed: int) -> torch.Tensor:
    """Return c = coefficient · u / ‖u‖, u uniform on [0, 1), shape (hidden_size,), fp32 (the paper's forget loss)."""
    u = torch.rand(hidden_size, generator=torch.Generator().manual_seed(seed))
    return coefficient * u / u.norm()


def masked_mse(states: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean squared error over the positions where `mask` is true.

    `states` (batch, length, hidden), `target` broadcastable to it, `mask` (batch, length); the result an fp32 scalar.
    """
    return (states.float() - target.float())[mask].square().mean()


def schedule(count: int, batch_size: int, steps: int, generator: torch.Generator) -> list[list[int]]:
    """Return `steps` batches of row numbers: whole shuffled passes over `count` rows, one after another."""
    passes = math.ceil(batch_size * steps / count)
    order = torch.cat([torch.randperm(count, generator=generator) for _ in range(passes)]).tolist()
    return [order[start * batch_size : (start + 1) * batch_size] for start in range(steps)]


class LowerHalf:
    """The layers 0 … `layer_id` of a causal language model, cut in two below the first trained layer.

    `prefix` gives what the first trained layer reads, `suffix` the output of `layer_id`. Padding is on the right, so
    under causal attention it changes nothing before it and no attention mask is needed.
    """

    def __init__(self, base: BaseModel, options: Options, device: str):
        from transformers import AutoConfig, AutoModel

        models.quiet()
        config = AutoConfig.from_pretrained(base.folder, local_files_only=True)
        if options.layer_id >= config.num_hidden_layers:
            raise InputError(
                f"rmu's layer_id is {options.layer_id}, but {base.source} has {config.num_hidden_layers} layers"
            )
        config.num_hidden_layers = options.layer_id + 1
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[: config.num_hidden_layers]
        self.model = AutoModel.from_pretrained(
            base.folder, config=config, dtype=getattr(torch, options.dtype), local_files_only=True
        ).to(device)
        self.model.requires_grad_(False).eval()
        if not (hasattr(self.model, "layers") and hasattr(self.model, "norm")):
            raise InputError(f"rmu knows models built of `layers` and a `norm` (Llama's family); {base.source} is not")
        self.hidden_size = config.hidden_size
        self.device = device
        self._dtype = getattr(torch, options.dtype)
        first = min(options.trained_layers)
        layers = self.model.layers
        self._halves = torch.nn.ModuleList(layers[:first]), torch.nn.ModuleList(layers[first:])
        self.model.norm = torch.nn.Identity()  # the loss reads the decoder layer's own output

        self.trained: dict[str, torch.nn.Parameter] = {}
        for number in options.trained_layers:
            parameters = dict(layers[number].named_parameters())
            if options.trained_parameter not in parameters:
                raise InputError(
                    f"layer {number} of {base.source} has no {options.trained_parameter}; "
                    f"it has {', '.join(parameters)}"
                )
            parameter = parameters[options.trained_parameter]
            parameter.data = parameter.data.float()  # bf16 would lose updates of this size
            name = f"{self.model.base_model_prefix}.layers.{number}.{options.trained_parameter}"
            self.trained[name] = parameter.requires_grad_(True)
        self.original = {name: parameter.detach().clone() for name, parameter in self.trained.items()}
        self._check_cut(base)

    @torch.no_grad()
    def _check_cut(self, base: BaseModel) -> None:
        """Raise InputError for an architecture whose layers don't simply follow one another."""
        tokens = torch.arange(8, device=self.device)[None]
        whole = self._run(torch.nn.ModuleList([*self._halves[0], *self._halves[1]]), input_ids=tokens)
        in_parts = self.suffix(self.prefix(tokens))
        if (in_parts - whole).norm() > 0.02 * whole.norm():
            raise InputError(
                f"rmu can't cut {base.source} below layer {len(self._halves[0])}: its parts give other states"
            )

    @torch.no_grad()
    def prefix(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map token ids (batch, length) to the first trained layer's input (batch, length, hidden)."""
        return self._run(self._halves[0], input_ids=tokens)

    def suffix(self, states: torch.Tensor) -> torch.Tensor:
        """Map the first trained layer's input to `layer_id`'s output, both (batch, length, hidden)."""
        return self._run(self._halves[1], inputs_embeds=states)

    @torch.no_grad()
    def frozen_suffix(self, states: torch.Tensor) -> torch.Tensor:
        """Like `suffix`, with the trained parameters as they were in the base model."""
        now = {name: parameter.data for name, parameter in self.trained.items()}
        for name, parameter in self.trained.items():
            parameter.data = self.original[name]
        try:
            return self.suffix(states)
        finally:
            for name, parameter in self.trained.items():
                parameter.data = now[name]

    def delta(self) -> dict[str, torch.Tensor]:
        """Return the trained parameters' differences from the base model, in fp32 on the CPU."""
        return {name: (now.detach() - self.original[name]).cpu() for name, now in self.trained.items()}

    def _run(self, layers: torch.nn.ModuleList, **inputs: torch.Tensor) -> torch.Tensor:
        self.model.layers, self.model.config.num_hidden_layers = layers, len(layers)
        with torch.autocast(self.device, dtype=self._dtype, enabled=self._dtype != torch.float32):
            return self.model(**inputs, use_cache=False).last_hidden_state


class Texts:
    """Tokenized texts and what the frozen layers make of them.

    States are kept per text without padding, so that any batch can be put together from them: those of `stored` (what
    `frozen_states` wrote) from its file, others in memory where texts are visited more than once.
    """

    def __init__(self, texts: list[str], model: LowerHalf, tokenizer, max_tokens: int, options: Options, stored=None):
        self.tokens = tokenizer(texts, truncation=True, max_length=max_tokens)["input_ids"]
        short = [row for row, tokens in enumerate(self.tokens) if len(tokens) <= options.skip_first]
        if short:
            raise InputError(
                f"{len(short)} texts (row {short[0]} is one) have no token beyond the first {options.skip_first}: "
                "drop them"
            )
        self._model, self._skip_first, self._stored = model, options.skip_first, stored
        self._keys = [state_key(tokens) for tokens in self.tokens] if stored else []
        self._keep = stored is None and options.steps * options.batch_size > len(texts)
        self._kept: dict[str, dict[int, torch.Tensor]] = {PREFIX: {}, FROZEN: {}}

    def mean(self, rows: list[int], error) -> torch.Tensor:
        """Return the mean of `error` over the positions of a batch that enter the loss, as a scalar.

        `error(rows, inputs, mask)` gives the mean for some of the rows, from the first trained layer's input (rows,
        length, hidden) and the mask of positions. Rows of like length go together, since padding costs what text costs.
        """
        groups = [(group, *self._inputs(group)) for group in by_length(rows, self.tokens)]
        total = sum(mask.sum() for _, _, mask in groups)
        return sum(error(group, inputs, mask) * (mask.sum() / total) for group, inputs, mask in groups)

    def frozen(self, rows: list[int], inputs: torch.Tensor) -> torch.Tensor:
        """Return the frozen model's output at `layer_id` for rows whose first trained layer reads `inputs`."""
        return self._states(FROZEN, rows, lambda: self._model.frozen_suffix(inputs))

    def _inputs(self, rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        device = self._model.device
        lengths = torch.tensor([len(self.tokens[row]) for row in rows], device=device)
        positions = torch.arange(int(lengths.max()), device=device)
        mask = (positions >= self._skip_first) & (positions < lengths[:, None])
        tokens = pad([torch.tensor(self.tokens[row]) for row in rows])
        return self._states(PREFIX, rows, lambda: self._model.prefix(tokens.to(device))), mask

    def _states(self, kind: str, rows: list[int], compute) -> torch.Tensor:
        kept = self._kept[kind]
        if self._stored is not None:
            return pad([self._stored.get_tensor(f"{kind}.{self._keys[row]}") for row in rows]).to(self._model.device)
        if all(row in kept for row in rows):
            return pad([kept[row] for row in rows]).to(self._model.device)
        states = compute()
        if self._keep:
            kept.update(
                {row: one[: len(self.tokens[row])].cpu().clone() for row, one in zip(rows, states, strict=True)}
            )
        return states


def by_length(rows: list[int], tokens: list[list[int]]) -> list[list[int]]:
    """Group rows so that in no group the longest text has more than 1.5 times the tokens of the shortest."""
    groups: list[list[int]] = []
    for row in sorted(rows, key=lambda row: (len(tokens[row]), row)):
        if groups and len(tokens[row]) <= 1.5 * len(tokens[groups[-1][0]]):
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def pad(rows: list[torch.Tensor]) -> torch.Tensor:
    """Stack rows of shape (length, …) to (rows, longest, …), padded at the end with zeros."""
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def state_key(tokens: list[int]) -> str:
    """Return a name for a text's states that depends on its tokens alone."""
    return hashlib.sha256(json.dumps(tokens).encode()).hexdigest()[:32]


def frozen_states(run: Run, options: Options, path: str | os.PathLike) -> None:
    """Write what the frozen layers make of every text to a safetensors file, for all shards and seeds to use.

    For each text the first trained layer's input, for retain texts the frozen model's output at `layer_id` too, each of
    shape (length, hidden).
    """
    model = LowerHalf(run.base, options, run.device)
    tokenizer = models.load_tokenizer(run.base)
    sources = (
        Texts(run.forget, model, tokenizer, options.max_tokens_forget, options),
        Texts(run.retain, model, tokenizer, options.max_tokens_retain, options),
    )
    kinds: dict[str, set[str]] = {}
    by_key = {}
    for texts, needed in zip(sources, ({PREFIX}, {PREFIX, FROZEN}), strict=True):
        for tokens in texts.tokens:
            by_key[state_key(tokens)] = tokens
            kinds.setdefault(state_key(tokens), set()).update(needed)
    keys = sorted(by_key, key=lambda key: (len(by_key[key]), key))
    dtype = getattr(torch, options.dtype)
    layout = {
        f"{kind}.{key}": (torch.Size((len(by_key[key]), model.hidden_size)), dtype)
        for key in keys
        for kind in sorted(kinds[key])
    }
    safetensors_stream.write(path, layout, _compute_states(model, keys, by_key, kinds, dtype))


def _compute_states(model: LowerHalf, keys: list[str], by_key: dict, kinds: dict, dtype: torch.dtype):
    progress = Progress("frozen states", len(keys))
    for start in range(0, len(keys), STATES_BATCH):
        batch = keys[start : start + STATES_BATCH]
        states = {PREFIX: model.prefix(pad([torch.tensor(by_key[key]) for key in batch]).to(model.device))}
        if any(FROZEN in kinds[key] for key in batch):
            states[FROZEN] = model.frozen_suffix(states[PREFIX])
        for row, key in enumerate(batch):
            for kind in sorted(kinds[key]):
                yield f"{kind}.{key}", states[kind][row, : len(by_key[key])].to(dtype)
        progress.step(start + len(batch))


def unlearn(run: Run, options: Options) -> Unlearned:
    """Run RMU on one shard from the base model and return the changed weights' differences.

    Raises InputError where the loss is no longer finite (naming step and learning rate), where the model lacks the
    layers or parameters that the options name, or where a text has no token that would enter the loss.
    """
    forget, retain, device = run.forget, run.retain, run.device
    torch.manual_seed(run.seed)
    generator = torch.Generator().manual_seed(run.seed)
    model = LowerHalf(run.base, options, device)
    tokenizer = models.load_tokenizer(run.base)
    batches = zip(
        schedule(len(forget), options.batch_size, options.steps, generator),
        schedule(len(retain), options.batch_size, options.steps, generator),
        strict=True,
    )
    control_seed = run.seed if options.control_seed is None else options.control_seed
    control = control_vector(model.hidden_size, options.coefficient, control_seed).to(device)
    optimizer = torch.optim.AdamW(model.trained.values(), lr=options.learning_rate)
    progress = Progress(run.label, options.steps)
    every = math.ceil(options.steps / RECORDS)
    losses, stretch = [], []
    with safe_open(run.states, "pt") if run.states else nullcontext() as stored:
        forget_texts = Texts(forget, model, tokenizer, options.max_tokens_forget, options, stored)
        retain_texts = Texts(retain, model, tokenizer, options.max_tokens_retain, options, stored)

        def forget_error(_, inputs, mask):
            return masked_mse(model.suffix(inputs), control, mask)

        def retain_error(rows, inputs, mask):
            return masked_mse(model.suffix(inputs), retain_texts.frozen(rows, inputs), mask)

        for step, (forget_rows, retain_rows) in enumerate(batches, start=1):
            forget_loss = forget_texts.mean(forget_rows, forget_error)
            retain_loss = retain_texts.mean(retain_rows, retain_error)
            loss = forget_loss + options.alpha * retain_loss
            if not torch.isfinite(loss):
                raise InputError(
                    f"the loss of {run.label} is {loss.item()} at step {step} of {options.steps} with learning rate "
                    f"{options.learning_rate}: lower the learning rate, alpha or the coefficient"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            stretch.append((forget_loss.item(), retain_loss.item()))
            progress.step(step, forget_loss=stretch[-1][0], retain_loss=stretch[-1][1])
            if step % every == 0 or step == options.steps:
                means = torch.tensor(stretch).mean(dim=0).tolist()
                losses.append({"step": step, "forget_loss": means[0], "retain_loss": means[1]})
                stretch = []
    return Unlearned(model.delta(), losses)
