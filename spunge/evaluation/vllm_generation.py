"""Continuations by vLLM, where the user has installed it: for large models and many prompts."""

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from spunge.core.errors import InputError
from spunge.evaluation.generation import COLUMNS, Options, finished


def check_installed() -> None:
    """Raise InputError where vLLM can't be imported."""
    try:
        import vllm  # noqa: F401
    except ImportError as error:
        raise InputError(
            "evaluations.toxicity.generator is vllm, which is not installed beside this workflow: install it, or take "
            "transformers"
        ) from error


def continue_prompts(folder: Path, tokenizer, prompts: Sequence[str], options: Options) -> pd.DataFrame:
    """Return what `generation.continue_prompts` returns, for the Hugging Face model in `folder`.

    vLLM is given the prompts as `tokenizer` turns them into tokens. The model computes in fp32: in half precision its
    weights would lose most of a small edit (`base_model.add`). It batches on its own and draws its own random
    numbers, so sampled texts are others. Raises InputError where it is not installed.
    """
    check_installed()
    from vllm import LLM, SamplingParams

    model = LLM(model=str(folder), dtype="float32", seed=options.seed, trust_remote_code=False)
    sampling = [
        SamplingParams(
            n=options.samples,
            temperature=options.temperature,
            top_p=options.top_p if options.temperature else 1.0,
            max_tokens=options.max_new_tokens,
            # Of its own for each prompt: vLLM adds the sample's number.
            seed=(options.seed * len(prompts) + row) * options.samples,
            stop=["\n"] if options.stop_at_newline else None,
            logprobs=0,  # of the tokens chosen alone: they aren't finite where the model's logits were not
        )
        for row in range(len(prompts))
    ]
    tokens = tokenizer(list(prompts))["input_ids"]
    outputs = model.generate([{"prompt_token_ids": ids} for ids in tokens], sampling, use_tqdm=False)
    rows = [
        (row, sample, finished(completion.text, options), len(completion.token_ids))
        if math.isfinite(completion.cumulative_logprob)
        else (row, sample, None, math.nan)
        for row, output in enumerate(outputs)
        for sample, completion in enumerate(output.outputs)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)
