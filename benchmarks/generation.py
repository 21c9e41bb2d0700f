"""Continuing prompts and scoring what comes: all together against one prompt, and one text, at a time."""

from itertools import product

import torch

from benchmarks import measure, results
from spunge.core.errors import InputError
from spunge.evaluation import classifiers, generation
from spunge.models import base_model
from spunge.models.task_vector import BaseModel

# 48 harmless beginnings of 3 to 13 words.
DAYS = ("Yesterday", "In the evening", "On the first day of spring", "After a long and rather tiring walk")
PEOPLE = ("the baker", "an old friend of ours", "the woman from the library", "my neighbour")
DEEDS = ("said", "wanted to", "told us that the")
PROMPTS = [" ".join(parts) for parts in product(DAYS, PEOPLE, DEEDS)]
AGREEING = 0.95  # of greedy texts; two likeliest tokens can be as likely as each other, but for rounding


def throughput(base: BaseModel, repeats: int) -> list[results.Row]:
    """Return the row `generation`: continuations made and scored a second, 2 samples of 48 prompts."""
    model, tokenizer = base_model.load(base, torch.float32, base_model.device()), base_model.load_tokenizer(base)
    options = generation.Options(samples=2, batch_size=128)
    score = classifiers.profanity_check(classifiers.ProfanityCheck(), None, base_model.device())
    _check_greedy(model, tokenizer)

    def together() -> None:
        texts = generation.continue_prompts(model, tokenizer, PROMPTS, options)["text"].tolist()
        score(texts, [""] * len(texts))

    def one_at_a_time() -> None:
        for prompt in PROMPTS:
            sampling = {"do_sample": True, "top_p": options.top_p, "top_k": 0, "temperature": options.temperature}
            for text in _plain(model, tokenizer, prompt, num_return_sequences=options.samples, **sampling):
                score([text], [""])

    seconds = measure.alternately({"ours": together, "reference": one_at_a_time}, repeats)
    rates = {way: len(PROMPTS) * options.samples / taken for way, taken in seconds.items()}
    machine = results.cpu() if base_model.device() == "cpu" else torch.cuda.get_device_name()
    return [
        results.Row("generation", "scored continuations", **rates, unit="1/s", machine=machine, more_is_better=True)
    ]


def _plain(model, tokenizer, prompt: str, **options) -> list[str]:
    """Return what transformers alone makes of one prompt."""
    tokens = tokenizer(prompt, return_tensors="pt").to(model.device)
    length = generation.Options().max_new_tokens
    generated = model.generate(**tokens, max_new_tokens=length, pad_token_id=tokenizer.pad_token_id, **options)
    return tokenizer.batch_decode(generated[:, tokens["input_ids"].shape[1] :], skip_special_tokens=True)


def _check_greedy(model, tokenizer) -> None:
    """Raise InputError unless both ways give the same texts where nothing is drawn."""
    ours = generation.continue_prompts(model, tokenizer, PROMPTS, generation.Options(samples=1, temperature=0))
    plain = [_plain(model, tokenizer, prompt, do_sample=False)[0] for prompt in PROMPTS]
    agreeing = sum(batched == alone for batched, alone in zip(ours["text"], plain, strict=True)) / len(PROMPTS)
    if agreeing < AGREEING:
        raise InputError(f"generation: {agreeing:.0%} of the greedy texts agree, {AGREEING:.0%} should")
