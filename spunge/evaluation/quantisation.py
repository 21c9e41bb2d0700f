"""Quantisation: weights rounded to few bits, by which small changes of unlearning may be rounded away.

Zhang et al. 2024 ("Catastrophic failure of LLM unlearning via quantization", arXiv 2410.16454) found most of what was
unlearned back at 4 bits. Of the ways that they compare this is the simplest: to the nearest value, uncalibrated.
"""

import math

import torch

GROUP = 64  # weights of a row that share a scale at 4 bits: as many as in bitsandbytes' blocks


@torch.no_grad()
def quantise(model: torch.nn.Module, bits: int) -> None:
    """Round the weights of all linear layers but the output layer to `bits` (8 or 4), in place.

    Symmetric, to the nearest, through torchao: with a scale for each row (output channel) at 8 bits, at 4 bits for each
    GROUP weights of one, or the largest part of that by which a row can be divided. What is left are weights of the
    same type as before that have few values; activations, embeddings and norms stay as they are.
    """
    from torchao.quantization import IntxWeightOnlyConfig, PerAxis, PerGroup, quantize_

    output = model.get_output_embeddings()
    for module in list(model.modules()):
        if isinstance(module, torch.nn.Linear) and module is not output:
            granularity = PerAxis(0) if bits == 8 else PerGroup(math.gcd(GROUP, module.in_features))
            quantize_(module, IntxWeightOnlyConfig(weight_dtype=getattr(torch, f"int{bits}"), granularity=granularity))
            module.weight = torch.nn.Parameter(module.weight.dequantize(), requires_grad=False)
