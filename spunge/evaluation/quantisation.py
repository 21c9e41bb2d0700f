"""Quantisation: weights rounded to few bits, by which small changes of unlearning may be rounded away.

Zhang et al. 2024 ("Catastrophic failure of LLM unlearning via quantization", arXiv 2410.16454) found most of what was
unlearned back at 4 bits. Of the ways that they compare this is the simplest: to the nearest value, uncalibrated.
"""

import math

import torch

GROUP = 64  # weights of a row that share a scale at 4 bits: as many as in bitsandbytes' blocks


def rounded(weights: torch.Tensor, bits: int, group: int) -> torch.Tensor:
    """Return `weights` (rows, columns) rounded to 2^bits values for each `group` of a row, in their own dtype.

    Symmetric: the values are whole multiples of a step, from −2^(bits − 1) on; the group's largest magnitude is
    2^(bits − 1) − ½ steps. So no weight moves by more than half a step.
    """
    groups, half = weights.float().unflatten(1, (-1, group)), 2 ** (bits - 1)
    step = (groups.abs().amax(dim=2, keepdim=True) / (half - 0.5)).clamp(min=torch.finfo(torch.float32).tiny)
    return ((groups / step).round().clamp(-half, half - 1) * step).flatten(1).to(weights.dtype)


@torch.no_grad()
def quantise(model: torch.nn.Module, bits: int) -> None:
    """Round the weights of all linear layers but the output layer to `bits` (8 or 4), in place.

    At 8 bits there is a step for each row (output channel), at 4 bits one for each GROUP weights of a row, or the
    largest part of that by which a row can be divided. Activations, embeddings and norms stay as they are.
    """
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layers, whose weights are (inputs, outputs)

    output = model.get_output_embeddings()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not output:
            weights = module.weight.T if isinstance(module, Conv1D) else module.weight
            group = weights.shape[1] if bits == 8 else math.gcd(GROUP, weights.shape[1])
            weights.copy_(rounded(weights, bits, group))
