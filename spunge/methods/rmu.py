"""RMU: representation misdirection for unlearning (Li et al. 2024, "The WMDP Benchmark", arXiv 2403.03218).

The hidden states of forget texts at one layer are steered to a random vector, those of retain texts are held where the
frozen model has them:

    loss = MSE(h(forget), c) + alpha · MSE(h(retain), h_frozen(retain)),   c = coefficient · u / ‖u‖,  u ~ U[0, 1)^hidden

Nothing above `layer_id` matters to this loss, so only the layers 0 … `layer_id` are loaded; and the layers below the first
trained one are the same in the frozen and in the trained model, so they run once for both and without gradients.
"""

import dataclasses
import math

import torch

from spunge import models
from spunge.errors import InputError
from spunge.methods import Unlearned
from spunge.progress import Progress
from spunge.task_vector import BaseModel

RECORDS = 60


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of one RMU run; the defaults are the reference code's, but for `skip_first` and `steps`.

    `steps` is per shard. `control_seed`: the seed of the control vector; None takes the run's own seed, so that all runs
    of one seed steer to the same vector and differ by their shards alone. `skip_first` positions, an attention sink whose
    norm dwarfs the others, stay out of the loss, as padding does.
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
                f"rmu trains layer {max(self.trained_layers)}, above layer_id {self.layer_id}, where no gradient arrives"
            )


def control_vector(hidden_size: int, coefficient: float, seed: int) -> torch.Tensor:
    """Return c = coefficient · u / ‖u‖ with u uniform on [0, 1), shape (hidden_size,), fp32 (section 4.1 of the paper)."""
    u = torch.rand(hidden_size, generator=torch.Generator().manual_seed(seed))
    return coefficient * u / u.norm()


def masked_mse(states: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean squared error over the positions where `mask` is true.

    `states` (batch, length, hidden), `target` broadcastable to it, `mask` (batch, length); the result is a scalar in fp32.
    """
    return (states.float() - target.float())[mask].square().mean()


def schedule(count: int, batch_size: int, steps: int, generator: torch.Generator) -> list[list[int]]:
    """Return `steps` batches of row numbers: whole shuffled passes over `count` rows, one after another."""
    passes = math.ceil(batch_size * steps / count)
    order = torch.cat([torch.randperm(count, generator=generator) for _ in range(passes)]).tolist()
    return [order[start * batch_size : (start + 1) * batch_size] for start in range(steps)]


class LowerHalf:
    """The layers 0 … `layer_id` of a causal language model, cut in two below the first trained layer.

    `prefix` gives what the first trained layer reads, `suffix` the output of `layer_id`. Padding is on the right, so under
    causal attention it changes nothing before it and no attention mask is needed.
    """

    def __init__(self, base: BaseModel, options: Options, device: str):
        from transformers import AutoConfig, AutoModel

        models.quiet()
        config = AutoConfig.from_pretrained(base.folder, local_files_only=True)
        if options.layer_id >= config.num_hidden_layers:
            raise InputError(f"rmu's layer_id is {options.layer_id}, but {base.source} has {config.num_hidden_layers} layers")
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
        self._autocast = options.dtype != "float32"
        first = min(options.trained_layers)
        layers = self.model.layers
        self._halves = torch.nn.ModuleList(layers[:first]), torch.nn.ModuleList(layers[first:])
        self.model.norm = torch.nn.Identity()  # the loss reads the decoder layer's own output

        self.trained: dict[str, torch.nn.Parameter] = {}
        for number in options.trained_layers:
            parameters = dict(layers[number].named_parameters())
            if options.trained_parameter not in parameters:
                raise InputError(f"layer {number} of {base.source} has no {options.trained_parameter}; it has {', '.join(parameters)}")
            parameter = parameters[options.trained_parameter]
            parameter.data = parameter.data.float()  # bf16 would lose updates of this size
            name = f"{self.model.base_model_prefix}.layers.{number}.{options.trained_parameter}"
            self.trained[name] = parameter.requires_grad_(True)
        self.original = {name: parameter.detach().clone() for name, parameter in self.trained.items()}

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

    def _run(self, layers: torch.nn.ModuleList, **inputs: torch.Tensor) -> torch.Tensor:
        self.model.layers, self.model.config.num_hidden_layers = layers, len(layers)
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self._autocast):
            return self.model(**inputs, use_cache=False).last_hidden_state


class Texts:
    """Tokenized texts and, where they are visited more than once, what the frozen layers made of them.

    States are kept per text without padding, so that any batch can be put together from them.
    """

    def __init__(self, texts: list[str], model: LowerHalf, tokenizer, max_tokens: int, options: Options):
        self.tokens = tokenizer(texts, truncation=True, max_length=max_tokens)["input_ids"]
        short = [row for row, tokens in enumerate(self.tokens) if len(tokens) <= options.skip_first]
        if short:
            raise InputError(
                f"{len(short)} texts (row {short[0]} is one) have no token beyond the first {options.skip_first}: drop them"
            )
        self._model, self._skip_first = model, options.skip_first
        self._keep = options.steps * options.batch_size > len(texts)
        self._prefix: dict[int, torch.Tensor] = {}
        self._frozen: dict[int, torch.Tensor] = {}

    def batch(self, rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the first trained layer's input (batch, length, hidden) and the mask of positions in the loss."""
        device = self._model.device
        lengths = torch.tensor([len(self.tokens[row]) for row in rows], device=device)
        positions = torch.arange(int(lengths.max()), device=device)
        mask = (positions >= self._skip_first) & (positions < lengths[:, None])
        return self._states(self._prefix, rows, lambda: self._model.prefix(self._padded_tokens(rows))), mask

    def frozen(self, rows: list[int], inputs: torch.Tensor) -> torch.Tensor:
        """Return the frozen model's output at `layer_id` for the batch whose `inputs` came from `batch`."""
        return self._states(self._frozen, rows, lambda: self._model.frozen_suffix(inputs))

    def _padded_tokens(self, rows: list[int]) -> torch.Tensor:
        return _pad([torch.tensor(self.tokens[row]) for row in rows]).to(self._model.device)

    def _states(self, kept: dict[int, torch.Tensor], rows: list[int], compute) -> torch.Tensor:
        if all(row in kept for row in rows):
            return _pad([kept[row] for row in rows]).to(self._model.device)
        states = compute()
        if self._keep:
            kept.update(
                {row: state[: len(self.tokens[row])].cpu().clone() for row, state in zip(rows, states, strict=True)}
            )
        return states


def _pad(rows: list[torch.Tensor]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def unlearn(
    base: BaseModel, forget: list[str], retain: list[str], options: Options, seed: int, device: str, label: str = "rmu"
) -> Unlearned:
    """Run RMU on one shard from the base model and return the changed weights' differences (fp32, on the CPU).

    Raises InputError where the loss is no longer finite (naming step and learning rate), where the model lacks the layers
    or parameters that the options name, or where a text has no token that would enter the loss.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = LowerHalf(base, options, device)
    tokenizer = models.load_tokenizer(base)
    batches = {
        "forget": schedule(len(forget), options.batch_size, options.steps, generator),
        "retain": schedule(len(retain), options.batch_size, options.steps, generator),
    }
    forget_texts = Texts(forget, model, tokenizer, options.max_tokens_forget, options)
    retain_texts = Texts(retain, model, tokenizer, options.max_tokens_retain, options)
    target = control_vector(
        model.hidden_size, options.coefficient, seed if options.control_seed is None else options.control_seed
    ).to(device)
    optimizer = torch.optim.AdamW(model.trained.values(), lr=options.learning_rate)

    progress = Progress(label, options.steps)
    every = math.ceil(options.steps / RECORDS)
    losses, stretch = [], []
    for step, (forget_rows, retain_rows) in enumerate(zip(batches["forget"], batches["retain"], strict=True), start=1):
        states, mask = forget_texts.batch(forget_rows)
        forget_loss = masked_mse(model.suffix(states), target, mask)
        states, mask = retain_texts.batch(retain_rows)
        retain_loss = masked_mse(model.suffix(states), retain_texts.frozen(retain_rows, states), mask)
        loss = forget_loss + options.alpha * retain_loss
        if not torch.isfinite(loss):
            raise InputError(
                f"the loss of {label} is {loss.item()} at step {step} of {options.steps} with learning rate "
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
    delta = {name: (parameter.detach() - model.original[name]).cpu() for name, parameter in model.trained.items()}
    return Unlearned(delta, losses)
