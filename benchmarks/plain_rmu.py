"""RMU the plain way, as its authors run it: two whole models, every layer, hooks, gradients for all parameters."""

from collections.abc import Iterable

import torch

from spunge.methods import rmu
from spunge.models import base_model
from spunge.models.task_vector import BaseModel

TRAINED = "mlp.down_proj.weight"


def unlearn(
    base: BaseModel,
    batches: Iterable[tuple[list[str], list[str]]],
    options: rmu.Options,
    control_seed: int,
    device: str = "cpu",
) -> tuple[list[tuple[float, float]], dict[str, torch.Tensor]]:
    """Take one step per pair of forget and retain texts; return each step's losses and the trained weights.

    Losses are means over all positions, padding included. In half precision the trained weights are fp32 under
    autocast, as in `spunge.methods.rmu`, so that both round alike; the authors' own are half precision as well.
    """
    dtype = getattr(torch, options.dtype)
    updated, frozen = base_model.load(base, dtype, device), base_model.load(base, dtype, device)
    updated.train()
    tokenizer = base_model.load_tokenizer(base)
    trained = {}
    for number in options.trained_layers:
        parameter = updated.model.layers[number].get_parameter(TRAINED)
        parameter.data = parameter.data.float()
        trained[f"model.layers.{number}.{TRAINED}"] = parameter
    optimizer = torch.optim.AdamW(
        trained.values(), lr=options.learning_rate, weight_decay=options.weight_decay, eps=options.epsilon
    )
    control = rmu.control_vector(updated.config.hidden_size, options.steering_coefficient, control_seed).to(device)

    def activations(model: torch.nn.Module, tokens: dict) -> torch.Tensor:
        outputs = []
        hook = model.model.layers[options.layer_id].register_forward_hook(
            lambda module, inputs, output: outputs.append(output[0] if isinstance(output, tuple) else output)
        )
        try:
            with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
                model(**tokens, use_cache=False)
        finally:
            hook.remove()
        return outputs[0].float()

    def tokenized(texts: list[str], longest: int) -> dict:
        return tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt").to(device)

    losses = []
    for forget, retain in batches:
        tokens = tokenized(forget, options.max_tokens_forget)
        forget_activations = activations(updated, tokens)
        forget_loss = torch.nn.functional.mse_loss(forget_activations, control.expand_as(forget_activations))
        tokens = tokenized(retain, options.max_tokens_retain)
        retain_activations = activations(updated, tokens)
        with torch.no_grad():
            target = activations(frozen, tokens)
        retain_loss = torch.nn.functional.mse_loss(retain_activations, target)
        optimizer.zero_grad()  # the trained parameters' alone: the others' gradients pile up, as in the authors' code
        (forget_loss + options.alpha * retain_loss).backward()
        optimizer.step()
        losses.append((forget_loss.item(), retain_loss.item()))
    return losses, {name: parameter.detach() for name, parameter in trained.items()}
