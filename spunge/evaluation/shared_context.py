"""A language model for lm-evaluation-harness that reads what questions and choices have in common once.

The harness's own model runs question + choice once per choice. Here several questions with all their choices stand in
one sequence as a tree: texts that start alike share their first tokens, and a mask lets each token attend to those
before it in its own texts only. The output layer runs only where a choice's token is predicted. The log-likelihoods are
the same, for less than a third of the work where questions and choices are short.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from lm_eval.models.huggingface import HFLM

from spunge import models
from spunge.progress import Progress

TOLERANCE = 0.02  # nats; half precision differs by about so much between batch shapes
ROW_TOKENS = 512  # longer rows share more, but attention to what is masked costs more


class Packed(NamedTuple):
    """Token sequences as one tree.

    `tokens` and `positions` (nodes,); `visible` (nodes, nodes), true where a row may attend to a column; `places` says
    for each sequence at which nodes its tokens stand.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    visible: torch.Tensor
    places: list[list[int]]


def pack(sequences: Sequence[Sequence[int]]) -> Packed:
    """Lay sequences of token ids into one tree, in which those that start alike share what they start with."""
    nodes: dict[tuple[int, int], int] = {}
    tokens, positions, parents, places = [], [], [], []
    for sequence in sequences:
        parent, path = -1, []
        for position, token in enumerate(sequence):
            node = nodes.setdefault((parent, token), len(nodes))
            if node == len(tokens):
                tokens.append(token)
                positions.append(position)
                parents.append(parent)
            path.append(node)
            parent = node
        places.append(path)
    visible = torch.eye(len(tokens), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            visible[node] |= visible[parent]
    return Packed(torch.tensor(tokens), torch.tensor(positions), visible, places)


def into_rows(groups: Sequence[Sequence[Sequence[int]]], limit: int) -> list[list[Sequence[int]]]:
    """Put groups of sequences into rows one after another: as many as share at most `limit` nodes, at least one."""
    rows: list[list[Sequence[int]]] = []
    for group in groups:
        if rows and len(pack([*rows[-1], *group]).tokens) <= limit:
            rows[-1] += group
        else:
            rows.append([*group])
    return rows


class SharedContextLM(HFLM):
    """The harness's model, with log-likelihoods of many continuations of many contexts computed together.

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

        # Questions that start alike come together.
        groups = [contexts[context] for context in sorted(contexts)]
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
        # The last token of a continuation is only predicted, never read.
        read = [[(context + continuation)[:-1] for _, context, continuation in group] for group in groups]
        rows = [pack(row) for row in into_rows(read, ROW_TOKENS)]
        length = max(len(row.tokens) for row in rows)
        tokens = torch.zeros(len(rows), length, dtype=torch.long)
        positions = torch.zeros(len(rows), length, dtype=torch.long)
        # Padding attends to itself alone: a row that sees nothing would give NaN.
        visible = torch.eye(length, dtype=torch.bool).repeat(len(rows), 1, 1)
        for number, row in enumerate(rows):
            size = len(row.tokens)
            tokens[number, :size], positions[number, :size] = row.tokens, row.positions
            visible[number, :size, :size] = row.visible

        requests = [request for group in groups for request in group]
        paths = [(number, path) for number, row in enumerate(rows) for path in row.places]
        wanted = [token for _, _, continuation in requests for token in continuation]
        predicted_at = [
            (number, place)
            for (number, path), (_, _, continuation) in zip(paths, requests, strict=True)
            for place in path[-len(continuation) :]
        ]
        chosen = {place: number for number, place in enumerate(dict.fromkeys(predicted_at))}
        device = self.device
        mask = torch.zeros(visible.shape, dtype=self.model.dtype)
        mask = mask.masked_fill(~visible, torch.finfo(self.model.dtype).min)[:, None]
        with models.logits_at(self.model, *torch.tensor(list(chosen), device=device).T):
            logits = self.model(
                input_ids=tokens.to(device),
                attention_mask=mask.to(device),
                position_ids=positions.to(device),
                use_cache=False,
            ).logits[0]
        likeliest = logits.argmax(dim=-1)
        at, wanted = torch.tensor([chosen[place] for place in predicted_at]), torch.tensor(wanted)
        log_probabilities = logits.float().log_softmax(dim=-1)[at.to(device), wanted.to(device)].cpu()
        greedy = likeliest.cpu()[at] == wanted
        lengths = [len(continuation) for _, _, continuation in requests]
        return [
            (likelihood.sum().item(), bool(agrees.all()))
            for likelihood, agrees in zip(log_probabilities.split(lengths), greedy.split(lengths), strict=True)
        ]
