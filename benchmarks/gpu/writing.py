"""Continuations of prompts by a model in the 7B shape: ours, and transformers' generate on the same batches."""

import time

import torch

from benchmarks import rmu
from benchmarks.gpu.machine import SEED, Machine
from benchmarks.gpu.training import profile_of
from spunge.evaluation import generation
from spunge.models import base_model

PROMPT_TOKENS = 16


def continuations(machine: Machine) -> None:
    """Report the tokens written a second, each way; every continuation is taken to its limit."""
    sizes = machine.sizes
    base = machine.seven()
    model, tokenizer = base_model.load(base, torch.bfloat16, machine.device), base_model.load_tokenizer(base)
    model.generation_config.eos_token_id = None  # random weights would end texts anywhere
    tokenizer.eos_token = None
    prompts = [text[:PROMPT_TOKENS] for text in rmu.texts(sizes.prompts, PROMPT_TOKENS, SEED)]
    options = generation.Options(
        samples=1, max_new_tokens=sizes.new_tokens, top_p=0.9, batch_size=sizes.batch, seed=SEED
    )
    written = len(prompts) * sizes.new_tokens

    def ours(some: list[str]) -> None:
        generation.continue_prompts(model, tokenizer, some, options)

    def plain(some: list[str]) -> None:
        tokenizer.padding_side = "left"
        for start in range(0, len(some), sizes.batch):
            tokens = tokenizer(some[start : start + sizes.batch], padding=True, return_tensors="pt")
            generated = model.generate(
                **tokens.to(machine.device),
                max_new_tokens=sizes.new_tokens,
                do_sample=True,
                top_p=0.9,
                top_k=0,
                pad_token_id=tokenizer.pad_token_id,
            )
            tokenizer.batch_decode(generated)

    for kind, work in (("ours", ours), ("reference", plain)):
        work(prompts[: sizes.batch])  # what is loaded for the first time is not its work
        with machine.peak_memory() as memory:
            machine.synchronize()
            started = time.perf_counter()
            work(prompts)
            machine.synchronize()
        machine.report(f"{kind} tokens a second", written / (time.perf_counter() - started))
        for name, held in memory.items():
            machine.report(f"{kind} {name}", held)
    with profile_of(machine, "ours, a batch"):
        ours(prompts[: sizes.batch])
