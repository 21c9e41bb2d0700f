"""Continuations of prompts by a causal language model: batched, with the prompts read once for all their samples.

Each continuation's random numbers follow from the seed, the prompt and the sample alone. So the batch size changes
nothing but rounding, and all candidates draw the same numbers, which makes differences between them less noisy.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from pydantic import Field

from spunge.core.errors import InputError
from spunge.core.progress import Progress
from spunge.experiment.options import Count, NonNegative, Seed, checked
from spunge.models import base_model
from spunge.training.resume import Checkpoint, State

COLUMNS = ["prompt", "sample", "text", "tokens"]
LIKELIEST = (512, 2048)  # tokens that hold most nuclei, and nearly all others


@checked
class Options:
    """How prompts are continued.

    Defaults are RealToxicityPrompts' (Gehman et al. 2020, section 3: up to 20 tokens, nucleus sampling with p = 0.9),
    but for the samples, 25 there.
    """

    samples: Annotated[Count, Field(description="Continuations of every prompt.")] = 4
    max_new_tokens: Annotated[Count, Field(description="Tokens of a continuation at most.")] = 20
    temperature: Annotated[
        NonNegative,
        Field(description="Temperature of the sampling; 0 decodes greedily, which takes one sample."),
    ] = 1.0
    top_p: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            description="Tokens are drawn from the likeliest whose probabilities sum to this (nucleus sampling).",
        ),
    ] = 0.9
    seed: Annotated[Seed, Field(description="Draws the continuations.")] = 0
    batch_size: Annotated[Count, Field(description="Continuations that are made together.")] = 64
    stop_at_newline: Annotated[bool, Field(description="End a continuation before its first line break.")] = False

    def __post_init__(self):
        if self.temperature == 0 and self.samples > 1:
            raise InputError(f"greedy decoding gives one continuation, not {self.samples}: set samples to 1")


@torch.no_grad()
def continue_prompts(
    model: torch.nn.Module, tokenizer, prompts: Sequence[str], options: Options, checkpoint: Checkpoint | None = None
) -> pd.DataFrame:
    """Return COLUMNS with one row per prompt (its number, from 0) and sample: the text that follows, and its tokens.

    Special tokens end a text and aren't part of it. Where the model's logits weren't finite, there is no text: `text`
    is missing, `tokens` NaN. Prompts of similar lengths are continued together. `checkpoint` keeps the continuations of
    the batches that are done. Raises InputError for prompts that the model has no tokens or positions for, and RWKV.
    """
    from transformers import GenerationConfig, LogitsProcessorList

    if model.config.model_type == "rwkv":
        raise InputError("RWKV reads the padding of prompts that are continued together, so it can't write them here")
    tokens = tokenizer(list(prompts))["input_ids"]
    shorter = "take shorter prompts or lower max_new_tokens"
    base_model.check_tokens(model, tokens, "the prompts", shorter, further=options.max_new_tokens)
    order = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))
    config = GenerationConfig(
        max_new_tokens=options.max_new_tokens,
        do_sample=False,  # `_Draw` leaves one token to choose
        eos_token_id=ends_of_text(model, tokenizer) or None,  # without any, texts run to their limit
        pad_token_id=tokenizer.pad_token_id,
    )
    ends = set(config.eos_token_id or [])
    if tokenizer.eos_token_id is not None:  # else padding is any token, which the model may write
        ends.add(tokenizer.pad_token_id)
    stop = {"stop_strings": "\n", "tokenizer": tokenizer} if options.stop_at_newline else {}
    progress = Progress("continuations", len(order))
    per_batch, rows = max(1, options.batch_size // options.samples), []
    batches = [order[start : start + per_batch] for start in range(0, len(order), per_batch)]

    def save() -> State:
        return State(table=pd.DataFrame(rows, columns=COLUMNS))

    def load(state: State) -> None:
        rows.extend(state.table.itertuples(index=False, name=None))
        progress.before = per_batch * state.done

    for step in (checkpoint or Checkpoint()).steps(len(batches), save, load):
        batch = batches[step - 1]
        longest = max(len(tokens[row]) for row in batch)
        ids = torch.full((len(batch), longest), tokenizer.pad_token_id)
        mask = torch.zeros(len(batch), longest, dtype=torch.long)
        for line, row in enumerate(batch):  # padding on the left, so that all go on at the same place
            ids[line, longest - len(tokens[row]) :] = torch.tensor(tokens[row])
            mask[line, longest - len(tokens[row]) :] = 1
        ids, mask = ids.to(model.device), mask.to(model.device)
        cache = _read_once(model, ids, mask, options.samples)
        ids, mask = (tensor.repeat_interleave(options.samples, dim=0) for tensor in (ids, mask))
        watch = base_model.NotFinite()
        with _without_own_settings(model):
            generated = model.generate(
                ids,
                attention_mask=mask,
                past_key_values=cache,
                generation_config=config,
                logits_processor=LogitsProcessorList([watch, *_processors(options, batch, model.device)]),
                **stop,
            )[:, longest:].tolist()
        for number, (continuation, not_finite) in enumerate(zip(generated, watch.table().tolist(), strict=True)):
            row, sample = batch[number // options.samples], number % options.samples
            kept = list(until_end(continuation, ends))
            steps = len(kept) + 1  # with the one that chose the end
            text = tokenizer.decode(kept, skip_special_tokens=True)
            if options.stop_at_newline and "\n" in text:
                steps = next(
                    step for step in range(1, steps) if "\n" in tokenizer.decode(kept[:step], skip_special_tokens=True)
                )
                kept = kept[:steps]
            rows.append(
                (row, sample, None, math.nan)
                if any(not_finite[:steps])
                else (row, sample, finished(text, options), len(kept))
            )
        progress.step(min(per_batch * step, len(order)))
    return pd.DataFrame(rows, columns=COLUMNS).sort_values(["prompt", "sample"], ignore_index=True)


def finished(text: str, options: Options) -> str:
    """Return a continuation cut where it has to stop."""
    return text.partition("\n")[0] if options.stop_at_newline else text


def ends_of_text(model: torch.nn.Module, tokenizer) -> list[int]:
    """Return the ids of the tokens that end a text, as the model's generation settings and its tokenizer name them."""
    named = model.generation_config.eos_token_id
    ends = [*(named if isinstance(named, list) else [named]), tokenizer.eos_token_id]
    return sorted({end for end in ends if end is not None})


def until_end(tokens: Sequence[int], ends: Sequence[int]) -> Iterator[int]:
    """Yield tokens up to the first that ends the text."""
    for token in tokens:
        if token in ends:
            return
        yield token


def _read_once(model, ids: torch.Tensor, mask: torch.Tensor, samples: int):
    """Return the cache of keys and values of all prompt tokens but the last, each prompt's repeated for its samples.

    None where there is no such token, and of a model with a state besides, as Mamba: it reads all for each sample.
    """
    if ids.shape[1] < 2 or model._is_stateful:
        return None
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    body = model.base_model  # a prompt's logits, a good part of a small model's work, aren't needed
    read = body(input_ids=ids[:, :-1], attention_mask=mask[:, :-1], position_ids=positions[:, :-1], use_cache=True)
    cache = read.past_key_values
    cache.batch_repeat_interleave(samples)
    return cache


@contextlib.contextmanager
def _without_own_settings(model) -> Iterator[None]:
    """Keep out what the model's generation settings ask for, as a penalty on repetition: `generate` would add it."""
    from transformers import GenerationConfig

    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _processors(options: Options, prompts: Sequence[int], device):
    from transformers import LogitsProcessorList

    if options.temperature == 0:
        return LogitsProcessorList()
    shape = (options.samples, options.max_new_tokens)
    drawn = [np.random.default_rng([options.seed, prompt]).random(shape, dtype=np.float32) for prompt in prompts]
    uniforms = torch.from_numpy(np.concatenate(drawn)).to(device)
    return LogitsProcessorList([_Draw(uniforms, options.temperature, options.top_p)])


class _Draw:
    """A logits processor that draws one token by inverting the nucleus' distribution function, and forbids the others.

    `uniforms`: (continuations, steps), numbers in [0, 1); the step's column chooses each continuation's token. The
    nucleus (Holtzman et al. 2020, arXiv 1904.09751) is the fewest likeliest tokens whose probabilities sum to `top_p`.
    """

    def __init__(self, uniforms: torch.Tensor, temperature: float, top_p: float):
        self._uniforms, self._step = uniforms, 0
        self._temperature, self._top_p = temperature, top_p

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scaled = scores.float() if self._temperature == 1 else scores.float() / self._temperature
        tokens = draw(scaled.softmax(dim=-1), self._uniforms[:, self._step], self._top_p)
        self._step += 1
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)


def draw(probabilities: torch.Tensor, uniforms: torch.Tensor, top_p: float) -> torch.Tensor:
    """Return for each row of `probabilities` (rows, vocabulary) the token that its number in [0, 1) (rows,) picks.

    Tokens are laid end to end, the likeliest first, up to the end of the nucleus. They are looked for among the first
    of LIKELIEST, and the other rows' among more of them and at last among all: to sort a whole vocabulary takes as long
    as the layers of a small model.
    """
    vocabulary = probabilities.shape[1]
    drawn, rows = torch.empty_like(uniforms, dtype=torch.long), torch.arange(len(uniforms), device=uniforms.device)
    for number in (*(number for number in LIKELIEST if number < vocabulary and top_p < 1), vocabulary):
        of_rows = probabilities if len(rows) == len(probabilities) else probabilities[rows]
        likeliest, tokens = of_rows.topk(number, dim=-1)
        drawn[rows] = _invert(likeliest, tokens, uniforms[rows], top_p)
        rows = rows[likeliest.sum(dim=-1) < top_p]
        if not len(rows):
            break
    return drawn


def _invert(likeliest: torch.Tensor, tokens: torch.Tensor, uniforms: torch.Tensor, top_p: float) -> torch.Tensor:
    """Return `draw`'s tokens, given the probabilities that hold the nucleus, in descending order, and their tokens."""
    cumulated = likeliest.cumsum(dim=-1)
    # Rounding must not lead past the end, neither that of the vocabulary nor that of the nucleus.
    last = (cumulated < top_p).sum(dim=-1, keepdim=True).clamp(max=cumulated.shape[1] - 1)
    wanted = uniforms[:, None].to(cumulated.dtype) * cumulated.gather(1, last)
    return tokens.gather(1, torch.searchsorted(cumulated, wanted, right=True).minimum(last))[:, 0]
