"""A language model for lm-evaluation-harness that reads what questions and choices have in common once.

The harness's own model runs question + choice once per choice. Here several questions with all their choices stand in
one sequence as a tree: texts that start alike share their first tokens, and a mask lets each token attend to those
before it in its own texts only. The output layer runs only where a choice's token is predicted. The log-likelihoods are
the same, for less than a third of the work where questions and choices are short.

Where a model can't do that, the harness's own way is taken: one without a mask or positions of its own (ALiBi, state
spaces), or a question beyond a sliding window, which the mask doesn't tell of.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from transformers import LogitsProcessorList

from spunge.core.errors import InputError
from spunge.core.progress import Progress, say
from spunge.models import base_model
from spunge.models.edited_model import run

# By how many nats both ways may differ: in fp32 by rounding alone, 3e-5 at -40 (SmolLM2-135M). In half precision logits
# between 16 and 32 are rounded to multiples of 16 · eps (0.125 in bfloat16), and the harness rounds log-likelihoods so
# too: each predicted token may differ by a step of either (0.13 was seen in bfloat16, 0.02 in float16).
TOLERANCE = 1e-3
ROUNDED = 2 * 16
ROW_TOKENS = 512  # longer rows share more, but attention to what is masked costs more
# By model, hashes of the questions with which it was found to honour the mask.
HONOURED: WeakKeyDictionary[torch.nn.Module, set[int]] = WeakKeyDictionary()
NO_TEXT = "\0NaN\0"  # stands for what a model wrote whose logits were not finite


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
    """Lay sequences of token ids into one tree, in which sequences with a common prefix share its nodes."""
    nodes, places = _tree({}, sequences)
    parents, tokens = zip(*nodes, strict=True)
    positions = [0] * len(nodes)
    visible = torch.eye(len(nodes), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            positions[node] = positions[parent] + 1
            visible[node] |= visible[parent]
    return Packed(torch.tensor(tokens), torch.tensor(positions), visible, places)


def _tree(
    nodes: Mapping[tuple[int, int], int], sequences: Sequence[Sequence[int]]
) -> tuple[dict[tuple[int, int], int], list[list[int]]]:
    """Return the numbers of a tree's nodes, by parent (-1: none) and token, with sequences added, and their places."""
    nodes, places = dict(nodes), []
    for sequence in sequences:
        parent, path = -1, []
        for token in sequence:
            parent = nodes.setdefault((parent, token), len(nodes))
            path.append(parent)
        places.append(path)
    return nodes, places


def into_rows(groups: Sequence[Sequence[Sequence[int]]], limit: int) -> list[list[Sequence[int]]]:
    """Put groups of sequences into rows in order; a row has at most `limit` nodes, or a single group."""
    rows: list[list[Sequence[int]]] = []
    nodes: dict[tuple[int, int], int] = {}  # of the last row
    for group in groups:
        with_group, _ = _tree(nodes, group)
        if rows and len(with_group) <= limit:
            rows[-1] += group
            nodes = with_group
        else:
            rows.append([*group])
            nodes, _ = _tree({}, group)
    return rows


def _divide_for_check(requests, groups: Sequence[list[int]]) -> tuple[list[list[int]], list[list[int]]]:
    """Divide groups into some that show whether a model honours the mask, and all others.

    The first are the shortest, the longest, and as many more as fill a row.
    """
    by_length = sorted(range(len(groups)), key=lambda group: len(requests[groups[group][0]][1]))
    chosen, tokens = {*by_length[:1], *by_length[-1:]}, 0
    for number, group in enumerate(groups):
        if tokens >= ROW_TOKENS:
            break
        chosen.add(number)
        tokens += len(requests[group[0]][1]) + sum(len(requests[request][2]) for request in group)
    divided = [group for number, group in enumerate(groups) if number in chosen]
    return divided, [group for number, group in enumerate(groups) if number not in chosen]


class PrefixSharingLM(HFLM):
    """The harness's model, with log-likelihoods of many continuations of many contexts computed together.

    Whether a model honours the mask is checked whenever it is asked other questions than before: on a full row of
    contexts, the shortest and the longest, against the harness's own way; where it doesn't, that way is taken for
    everything. Its weights may change meanwhile: what it makes of a mask doesn't. `cut` has the contexts
    whose start was left out because they are longer than the model's context.
    """

    def __init__(self, pretrained: torch.nn.Module, tokenizer, batch_size: int):
        # Without a token that starts or ends a text the harness has none to put before a text without context.
        self._bounds = [token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id) if token is not None]
        super().__init__(
            pretrained=pretrained,
            tokenizer=tokenizer,
            batch_size=batch_size,
            prefix_token_id=None if self._bounds else tokenizer.pad_token_id,
        )
        self.cut: set[str] = set()
        self._mask_honoured = True

    def log_likelihoods(self, requests: Sequence[tuple[str, list[int], list[int]]]) -> list[float]:
        """Return the log-likelihoods in nats of continuations after their contexts: (its text, its tokens, theirs)."""
        tokens = [((text, ""), context, continuation) for text, context, continuation in requests]
        return [likelihood for likelihood, _ in self._loglikelihood_tokens(tokens)]

    def _loglikelihood_tokens(self, requests, disable_tqdm: bool = False, override_bs: int | None = None):
        self._check_tokens(requests)
        window = getattr(self.model.config.get_text_config(), "sliding_window", None) or self.max_length
        contexts: dict[tuple[int, ...], list[int]] = {}
        plainly = []
        for number, (_, context, continuation) in enumerate(requests):
            if len(context) + len(continuation) - 1 > min(window, self.max_length):
                plainly.append(number)
            else:
                contexts.setdefault(tuple(context), []).append(number)
        # Questions that start alike come together.
        groups = [contexts[context] for context in sorted(contexts)]
        results: list[tuple[float, bool] | None] = [None] * len(requests)
        size = override_bs or self.batch_size_per_gpu
        checked, others = _divide_for_check(requests, groups)
        batches = [checked, *(others[start : start + size] for start in range(0, len(others), size))]
        progress, done = Progress("questions", len(groups)), 0
        for batch in filter(None, batches):
            scores = self._checked(requests, batch) if batch is checked else self._score(requests, batch)
            if scores is None:
                plainly = list(range(len(requests)))
                break
            for number, score in zip([number for numbers in batch for number in numbers], scores, strict=True):
                results[number] = score
                # A value that isn't finite spoils its whole row in spite of the mask: such rows are asked again.
                plainly += [] if math.isfinite(score[0]) else [number]
            done += len(batch)
            progress.step(done)
        if plainly:
            scores = self._plainly([requests[number] for number in plainly], override_bs)
            for number, score in zip(plainly, scores, strict=True):
                results[number] = score
        return results

    def _plainly(self, requests, override_bs: int | None = None) -> list[tuple[float, bool]]:
        return super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs)

    def _check_tokens(self, requests) -> None:
        """Note the contexts that are to be cut; raise InputError for questions that can't be asked."""
        # The tokens that are read, and those that are predicted.
        read = [(context + asked)[-self.max_length - 1 : -1] for _, context, asked in requests]
        base_model.check_tokens(self.model, [*read, *(asked for _, _, asked in requests)], "questions")
        for (text, _), context, continuation in requests:
            if not text and not self._bounds:
                raise InputError(
                    "a question has no text before its choices, and the tokenizer has no token that starts or ends a "
                    "text to stand there: ask no such questions, or give the tokenizer an eos_token"
                )
            if len(continuation) > self.max_length:
                raise InputError(
                    f"a choice has {len(continuation)} tokens, but the model reads {self.max_length} at most: ask no "
                    "such questions"
                )
            if len(context) + len(continuation) > self.max_length + 1:
                self.cut.add(text)

    def _checked(self, requests, groups: Sequence[list[int]]) -> list[tuple[float, bool]] | None:
        """Return what `_score` returns; None where the harness's own way gives other scores."""
        if not self._mask_honoured:
            return None
        try:
            scores = self._score(requests, groups)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # each kind of model has its own way to say that it takes no such mask
            self._mask_honoured = False
            say(f"questions are asked choice by choice, since the model takes no mask: {type(error).__name__}")
            return None
        checked = hash(tuple((*context, -1, *asked) for _, context, asked in requests))
        if checked in (honoured := HONOURED.setdefault(self.model, set())):
            return scores
        # The last choice of each context is enough, because it stands behind all others.
        asked = [requests[numbers[-1]] for numbers in groups]
        ends = torch.tensor([len(numbers) for numbers in groups]).cumsum(dim=0) - 1
        for request, end, (expected, _) in zip(asked, ends.tolist(), self._plainly(asked), strict=True):
            allowed = TOLERANCE + ROUNDED * torch.finfo(self._logits_dtype).eps * len(request[2])
            if not abs(scores[end][0] - expected) <= allowed:  # so that what isn't finite goes the plain way too
                self._mask_honoured = False
                say("questions are asked choice by choice, since asked together they have other likelihoods")
                return None
        honoured.add(checked)
        return scores

    def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
        if self.tokenizer.eos_token_id is None:
            raise InputError(
                "the tokenizer has no eos_token, and lm-eval needs one where a model writes its answers: leave such "
                "tasks out, or give the tokenizer one"
            )
        longest = max(normalize_gen_kwargs(request.args[1], self.max_gen_toks)["max_gen_toks"] for request in requests)
        if longest >= self.max_length:
            raise InputError(
                f"answers of up to {longest} tokens are to be written, but the model's context has {self.max_length}: "
                "leave such tasks out"
            )
        return super().generate_until(requests, disable_tqdm)

    def tok_batch_encode(self, strings, padding_side="left", left_truncate_len=None, truncation=False):
        if left_truncate_len is not None:
            self.cut.update(text for text in strings if len(self.tok_encode(text)) > left_truncate_len)
        return super().tok_batch_encode(strings, padding_side, left_truncate_len, truncation)

    def _model_generate(self, context, max_length: int, stop: list[str], **generation_kwargs) -> torch.Tensor:
        base_model.check_tokens(self.model, context.tolist(), "questions")
        watch = base_model.NotFinite()
        written = super()._model_generate(
            context, max_length, stop, logits_processor=LogitsProcessorList([watch]), **generation_kwargs
        )
        beams = watch.table().reshape(len(written), -1)
        written[beams.any(dim=1), context.shape[1] :] = -1
        return written

    def tok_decode(self, tokens, skip_special_tokens: bool = True) -> str:
        if isinstance(tokens, list) and tokens and tokens[0] < 0:
            return NO_TEXT
        return super().tok_decode(tokens, skip_special_tokens)

    @torch.no_grad()
    def _score(self, requests, groups: Sequence[list[int]]) -> list[tuple[float, bool]]:
        """Return (log-likelihood, whether greedy decoding gives it) for every request of every group, in order."""
        groups = [[requests[number] for number in numbers] for numbers in groups]
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

        def forward() -> torch.Tensor:
            return self.model(
                input_ids=tokens.to(device),
                attention_mask=mask.to(device),
                position_ids=positions.to(device),
                use_cache=False,
            ).logits[0]

        with base_model.logits_at(self.model, *torch.tensor(list(chosen), device=device).T):
            logits = run(self.model, forward, tokens, positions, visible)
        self._logits_dtype = logits.dtype
        likeliest = logits.argmax(dim=-1)
        at, wanted = torch.tensor([chosen[place] for place in predicted_at]), torch.tensor(wanted)
        log_probabilities = logits.float().log_softmax(dim=-1)[at.to(device), wanted.to(device)].cpu()
        greedy = likeliest.cpu()[at] == wanted
        lengths = [len(continuation) for _, _, continuation in requests]
        return [
            (likelihood.sum().item(), bool(agrees.all()))
            for likelihood, agrees in zip(log_probabilities.split(lengths), greedy.split(lengths), strict=True)
        ]
