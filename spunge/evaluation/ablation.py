"""Direction ablation: take out of the activations on the forget texts what unlearning added to them.

Arditi et al. 2024 ("Refusal in language models is mediated by a single direction", arXiv 2406.11717) project a
difference of mean activations out of every layer's output; Łucki et al. 2024 ("An adversarial perspective on machine
unlearning for AI safety", arXiv 2409.18025) do so with the difference between unlearned and original model, which gives
back much of what RMU hid. Activations are far from 0 along most directions, so setting their component to 0 breaks a
small model by itself, the base model as well. Here it is set to the base model's mean: affine concept editing (Marshall
et al. 2024, "Refusal in LLMs is an affine function", arXiv 2411.09003).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch

from spunge.core.errors import InputError
from spunge.core.progress import Progress
from spunge.models import base_model
from spunge.training.batches import pad

MAX_TOKENS = 512
BATCH = 8
# A smaller difference, relative to the base model's mean, is rounding: its direction would be noise.
SMALLEST = 1e-3


@torch.no_grad()
def mean_activations(model: torch.nn.Module, tokenizer, texts: Sequence[str]) -> torch.Tensor:
    """Return the mean output of each decoder layer over all tokens but the texts' first, (layers, hidden), fp32.

    The first position is left out as an attention sink, whose activations are many times larger than all others.
    """
    _, positions = base_model.learned_positions(model) or ("", MAX_TOKENS)
    tokens = tokenizer(list(texts), truncation=True, max_length=min(positions, MAX_TOKENS))["input_ids"]
    base_model.check_tokens(model, tokens, "the forget texts")
    tokens = sorted((row for row in tokens if len(row) > 1), key=len)
    if not tokens:
        raise InputError("no text to forget has two tokens, so there are no activations to compare")
    _, layers = base_model.decoder_layers(model)
    sums = torch.zeros(len(layers), model.config.get_text_config(decoder=True).hidden_size, dtype=torch.float64)
    mask = None

    def add(number: int, activations: torch.Tensor, _) -> None:
        sums[number] += (activations.float() * mask[..., None]).sum(dim=(0, 1)).double().cpu()

    progress = Progress("activations", len(tokens))
    with _hooked(model, add):
        for start in range(0, len(tokens), BATCH):
            rows = [torch.tensor(row) for row in tokens[start : start + BATCH]]
            mask = pad([torch.ones(len(row)) for row in rows]).to(model.device)
            mask[:, 0] = 0
            # Padding is on the right, so under causal attention it changes nothing before it.
            model.base_model(input_ids=pad(rows).to(model.device), use_cache=False)
            progress.step(start + len(rows))
    return (sums / sum(len(row) - 1 for row in tokens)).float()


def directions(unlearned: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """Return the unit vectors from base to unlearned means, both (layers, hidden); zero where they hardly differ."""
    difference = unlearned - base
    length = difference.norm(dim=1, keepdim=True)
    changed = length > SMALLEST * base.norm(dim=1, keepdim=True)
    return torch.where(changed, difference / length.clamp(min=torch.finfo(torch.float32).tiny), 0.0)


@contextmanager
def ablated(model: torch.nn.Module, directions: torch.Tensor, base: torch.Tensor) -> Iterator[None]:
    """Set every decoder layer's output, along the layer's direction, to the base model's mean component.

    `directions` and the means `base` are (layers, hidden); where a direction is zero, nothing is changed. A text's
    first position stays as it is, because the means leave it out.
    """
    directions, base_components = directions.to(model.device), (directions * base).sum(dim=1).to(model.device)

    def project(number: int, activations: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        excess = (activations.float() @ directions[number] - base_components[number]).masked_fill(positions == 0, 0.0)
        return (activations.float() - excess[..., None] * directions[number]).to(activations.dtype)

    with _hooked(model, project):
        yield


@contextmanager
def _hooked(
    model: torch.nn.Module, change: Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor | None]
) -> Iterator[None]:
    """Within this context, `change(number of a layer, its output, positions)` sees every output and may replace it."""
    whole_model: dict[str, torch.Tensor] = {}  # what the whole model was given

    def hook_of(number: int):
        def hook(_, inputs, keywords, output):
            activations = output[0] if isinstance(output, tuple) else output
            positions = keywords.get("position_ids", whole_model.get("position_ids"))  # some layers aren't told
            if positions is None:
                positions = torch.arange(activations.shape[1], device=activations.device)
            changed = change(number, activations, positions)
            if changed is None or not isinstance(output, tuple):
                return changed
            return (changed, *output[1:])

        return hook

    def note(_, inputs, keywords):
        whole_model["position_ids"] = keywords.get("position_ids")

    with ExitStack() as stack:
        stack.enter_context(model.base_model.register_forward_pre_hook(note, with_kwargs=True))
        for number, layer in enumerate(base_model.decoder_layers(model)[1]):
            stack.enter_context(layer.register_forward_hook(hook_of(number), with_kwargs=True))
        yield
