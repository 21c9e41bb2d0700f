"""A language model for lm-evaluation-harness that reads a question once for all of its choices.

The harness's own model runs question + choice once per choice. Here the choices stand one after another behind one copy
of the question; a mask lets each attend to the question and to itself only, and each starts at the question's next
position. The log-likelihoods are the same, for a third of the tokens where choices are short.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from lm_eval.models.huggingface import HFLM

from spunge.progress import Progress

TOLERANCE = 0.02  # nats; half precision differs by about so much between batch shapes


class Packed(NamedTuple):
    """One context with all its continuations in one sequence.

    `tokens` and `positions` (length,); `visible` (length, length), true where a row may attend to a column; `sources`
    says for each continuation at which places of the sequence its tokens are predicted.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    visible: torch.Tensor
    sources: list[torch.Tensor]


def pack(context: Sequence[int], continuations: Sequence[Sequence[int]]) -> Packed:
    """Lay a context and its continuations (token ids, none empty) into one sequence; last tokens are only predicted."""
    tokens, positions = list(context), list(range(len(context)))
    owner, sources = [-1] * len(context), []
    for number, continuation in enumerate(continuations):
        start = len(tokens)
        read = continuation[:-1]
        tokens += read
        positions += range(len(context), len(context) + len(read))
        owner += [number] * len(read)
        sources.append(torch.tensor([len(context) - 1, *range(start, start + len(read))]))
    owners = torch.tensor(owner)
    of_context_or_own = (owners[None, :] == -1) | (owners[None, :] == owners[:, None])
    visible = of_context_or_own & torch.ones(len(tokens), len(tokens), dtype=torch.bool).tril()
    return Packed(torch.tensor(tokens), torch.tensor(positions), visible, sources)


class SharedContextLM(HFLM):
    """The harness's model, with log-likelihoods of continuations of one context computed together.

    Whether the model honours the mask is checked on the first context against the harness's own way; where it doesn't,
    that way is taken for everything.
    """

    _mask_honoured: bool | None = None

    def _loglikelihood_tokens(self, requests, disable_tqdm: bool = False, override_bs: int | None = None):
        contexts: dict[tuple[int, ...], list[int]] = {}
        for number, (_, context, _) in enumerate(requests):
            contexts.setdefault(tuple(context), []).append(number)
        longest = max(len(context) + len(continuation) for _, context, continuation in requests)
        if longest > self.max_length or not self._check(requests, next(iter(contexts.values()))):
            return super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs)

        groups = sorted(contexts.values(), key=lambda numbers: sum(len(requests[number][2]) for number in numbers))
        groups.sort(key=lambda numbers: len(requests[numbers[0]][1]))
        results: list[tuple[float, bool] | None] = [None] * len(requests)
        size = override_bs or self.batch_size_per_gpu
        progress = Progress("questions", len(groups))
        for start in range(0, len(groups), size):
            batch = groups[start : start + size]
            scores = self._score([[requests[number] for number in numbers] for numbers in batch])
            for number, score in zip([number for numbers in batch for number in numbers], scores, strict=True):
                results[number] = score
            progress.step(start + len(batch))
        return results

    def _check(self, requests, numbers: list[int]) -> bool:
        if self._mask_honoured is None:
            first = [requests[number] for number in numbers]
            plain = super()._loglikelihood_tokens(first, disable_tqdm=True)
            shared = self._score([first])
            pairs = zip(plain, shared, strict=True)
            self._mask_honoured = all(abs(a - b) <= TOLERANCE * (1 + abs(a)) for (a, _), (b, _) in pairs)
        return self._mask_honoured

    @torch.no_grad()
    def _score(self, groups) -> list[tuple[float, bool]]:
        """Return (log-likelihood, whether greedy decoding gives it) for every request of every group, in order."""
        packed = [pack(group[0][1], [continuation for _, _, continuation in group]) for group in groups]
        length = max(len(one.tokens) for one in packed)
        tokens = torch.zeros(len(packed), length, dtype=torch.long)
        positions = torch.zeros(len(packed), length, dtype=torch.long)
        # Padding attends to itself alone: a row that sees nothing would give NaN.
        visible = torch.eye(length, dtype=torch.bool).repeat(len(packed), 1, 1)
        for row, one in enumerate(packed):
            size = len(one.tokens)
            tokens[row, :size], positions[row, :size], visible[row, :size, :size] = (
                one.tokens,
                one.positions,
                one.visible,
            )
        dtype = self.model.dtype
        mask = torch.zeros(visible.shape, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)[:, None]
        device = self.device
        logits = self.model(
            input_ids=tokens.to(device),
            attention_mask=mask.to(device),
            position_ids=positions.to(device),
            use_cache=False,
        ).logits
        scores = []
        for row, (one, group) in enumerate(zip(packed, groups, strict=True)):
            for places, (_, _, continuation) in zip(one.sources, group, strict=True):
                log_probabilities = logits[row, places.to(device)].float().log_softmax(dim=-1)
                wanted = torch.tensor(continuation, device=device)
                likelihood = log_probabilities.gather(1, wanted[:, None]).sum()
                scores.append((likelihood.item(), bool((log_probabilities.argmax(dim=-1) == wanted).all())))
        return scores
