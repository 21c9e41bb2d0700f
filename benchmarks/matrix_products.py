"""A forward pass in fp32 as jobs on this CPU compute it, against one whose products PyTorch leaves to MKL."""

import torch

from benchmarks import measure, results
from spunge.core.errors import InputError
from spunge.models import base_model, matrix_products
from spunge.models.task_vector import BaseModel

NAME = "matrix_products"
SHAPE = (8, 70)  # texts, tokens: a batch of the fluency texts
AGREEING = 1e-4  # of the largest logit


@torch.no_grad()
def forward(base: BaseModel, repeats: int) -> list[results.Row]:
    """Return the row `matrix_products`: seconds of a pass on one thread, as Snakemake's jobs have it."""
    model, threads = base_model.load(base, torch.float32, "cpu"), torch.get_num_threads()
    torch.set_num_threads(1)
    tokens = torch.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE) % model.config.vocab_size
    as_in_jobs = torch.get_float32_matmul_precision()

    def ours() -> torch.Tensor:
        torch.set_float32_matmul_precision(as_in_jobs)
        return model(tokens, use_cache=False).logits

    def by_mkl() -> torch.Tensor:
        torch.set_float32_matmul_precision(matrix_products.FP32)
        return model(tokens, use_cache=False).logits

    reference = by_mkl()
    if not (difference := (ours() - reference).abs().max() / reference.abs().max()) <= AGREEING:
        raise InputError(f"{NAME}: logits differ by {difference:.2g} of the largest, {AGREEING:g} would do")
    seconds = measure.alternately({"ours": ours, "reference": by_mkl}, repeats)
    torch.set_float32_matmul_precision(as_in_jobs)
    torch.set_num_threads(threads)
    return [results.Row(NAME, "time of a pass", seconds["ours"], seconds["reference"], "s", results.cpu())]
