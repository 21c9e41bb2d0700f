"""The factor λ at which a task vector does a given damage to neutral text, and what that damage is.

The damage of a candidate is KL(base ‖ candidate), the mean over tokens in nats; the logarithm of its perplexity
relative to the base model's; or what it lost of the accuracy on what is kept. Candidates are compared at equal damage:
λ is solved for each budget, not chosen.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from spunge.core.errors import InputError
from spunge.core.progress import say
from spunge.experiment.records import COSTS, budget_label
from spunge.models import base_model
from spunge.models.edited_model import EditedModel, run, running_once
from spunge.training.batches import pad
from spunge.training.resume import Checkpoint, State

TOLERANCE = 0.02  # relative, of the damage
MOST_PASSES = 8  # over the calibration texts, for each budget
MOST_STEPS = 2 * MOST_PASSES  # over questions, which are fewer tokens: down to λ = 0.002, then the 2 % of TOLERANCE
HALVING = (4, 6)  # steps that halve the bracket, which a curve that is no power needs
STEEPNESS = 2.0  # KL grows as λ² near 0
FARTHEST = 10.0  # times the largest or smallest λ so far: a flat curve tells little of what lies beyond
LOGITS = 2**25  # of each model at once: what memory they take
KEPT_NUMBERS = 2**28  # log-probabilities of the base model, for each table of texts: 1 GiB
IN_CACHE = 2**20  # logits of each model that are compared at once: memory is slower than a core
TEXTS = ("calibration", "fluency")  # the tables whose texts set λ, and tell the damage
COLUMNS = {"kl": "kl", "perplexity": "excess_loss"}  # of the costs of texts: the one whose mean each limits
KEPT = "kept"  # the cost that questions measure
ROUNDING = 1e-9  # of a difference of accuracies


class Strength(NamedTuple):
    """The λ that does the damage of a budget, its KL on the calibration texts, and the passes that it took to find.

    `largest_share` is that which a single text has of this KL. `scale` is None, and what is about KL NaN, where no λ
    does.
    """

    scale: float | None
    kl: float = math.nan
    passes: int = 0
    largest_share: float = math.nan


AS_IT_IS = {"": Strength(1.0, 0.0)}


def solve_all(
    damage_at: Callable[[float], pd.DataFrame],
    lost_at: Callable[[float], float],
    budgets: Mapping[str, Sequence[float]],
    most: float,
) -> dict[str, Strength]:
    """Return the Strength of each budget by its label.

    For a λ, of which `most` is the largest to try, `damage_at` returns what `Damage` does, and `lost_at` what is lost
    of the accuracy on what is kept. `budgets` has the budgets of each cost: of `kl` in nats per token, of `perplexity`
    as a multiple of the base model's, of `kept` as a difference of accuracies.
    """
    tables: dict[float, pd.DataFrame] = {}
    lost: dict[float, float] = {}
    strengths = {}
    for cost, budgets_of_cost in budgets.items():

        def mean_at(scale: float, cost: str = cost) -> float:
            tables[scale] = damage_at(scale)
            return mean(tables[scale], COLUMNS[cost])

        of_cost = {}
        # From the largest on: the first λ that is tried, and each that solves a budget, lies above those of the next.
        for budget in sorted(budgets_of_cost, reverse=True):
            if cost == KEPT:
                before, known = len(lost), lost
                scale = solve_steps(lost_at, budget, most, known)
                if scale is not None and scale not in tables:
                    tables[scale] = damage_at(scale)
            else:
                before, known = len(tables), {at: _finite(mean(table, COLUMNS[cost])) for at, table in tables.items()}
                scale = solve(mean_at, math.log(budget) if cost == "perplexity" else budget, most, known)
            label, passes = budget_label(cost, budget), len(known) - before
            found = Strength(None, passes=passes) if scale is None else _strength(scale, passes, tables[scale])
            of_cost[label] = found
            reached = f"met by no λ up to {most:g}" if scale is None else f"λ = {scale:.4g}, KL {found.kl:.4g}"
            over = "the questions about what is kept" if cost == KEPT else "the calibration texts"
            say(f"budget {label}: {reached}, after {passes} passes over {over}")
        strengths |= dict(reversed(of_cost.items()))
    return strengths


def measure(
    model: torch.nn.Module,
    edited: EditedModel | None,
    tokenizer,
    texts: Mapping[str, Sequence[str]],
    reading: Mapping[str, int],
    section: Mapping,
    configured: float,
    checkpoint: Checkpoint,
    base_states: Mapping[str, torch.Tensor],
    accuracy_kept: Callable[[], float] | None,
) -> tuple["Damage", dict[str, Strength]]:
    """Return the Damage to the fluency texts, and the Strength of each budget by its label, as an earlier job kept it.

    `texts` are those of the tables calibration and fluency, `reading` how they are read, and `base_states` what
    `Damage` takes of each, if anything. `section` is that of the configuration, `configured` its factor λ: of its sign
    are all, and where wanted it stands first, under an empty label. `accuracy_kept` returns the accuracy of the model
    as it is on what is kept, if that is a cost. The base model, whose `edited` is None, stands under the empty label
    alone.
    """
    if edited is not None:
        edited.set_scale(0)

    def of_table(table: str) -> Damage:
        states = base_states.get(table)
        return Damage(model, tokenizer, texts[table], **reading, base_states=states)

    held_out = of_table("fluency")
    if edited is None:
        return held_out, AS_IT_IS
    if (kept := checkpoint.kept()) is not None:
        return held_out, {label: Strength(*strength) for label, strength in kept.facts.items()}
    calibration = of_table("calibration")
    base_accuracy = accuracy_kept() if KEPT in section else math.nan

    def damage_at(scale: float) -> pd.DataFrame:
        edited.set_scale(math.copysign(scale, configured))
        return calibration()

    def lost_at(scale: float) -> float:
        edited.set_scale(math.copysign(scale, configured))
        return _finite(base_accuracy - accuracy_kept())

    strengths = {}
    if section["as_trained"]:
        strengths[""] = _strength(configured, 1, damage_at(abs(configured)))
    costs = {cost: section[cost] for cost in COSTS if cost in section}
    for label, strength in solve_all(damage_at, lost_at, costs, section["most"]).items():
        signed = None if strength.scale is None else math.copysign(strength.scale, configured)
        strengths[label] = strength._replace(scale=signed)
    checkpoint.keep(State(facts=strengths))
    return held_out, strengths


def _strength(scale: float, passes: int, damage: pd.DataFrame) -> Strength:
    total = damage["kl"].sum(skipna=False)
    return Strength(scale, mean(damage, "kl"), passes, damage["kl"].max() / total if total > 0 else math.nan)


def mean(damage: pd.DataFrame, column: str) -> float:
    """Return the mean of a column of `Damage` over all tokens."""
    return damage[column].sum(skipna=False) / damage["tokens"].sum()


def solve(damage: Callable[[float], float], budget: float, most: float, known: dict[float, float]) -> float | None:
    """Return the smallest λ found, at most `most`, whose `damage(λ)` is `budget` within TOLERANCE; None for none.

    `known` has the damage by λ as far as it was measured, and takes up what is measured here, MOST_PASSES at most.
    Damage grows about as a power of λ, so the next λ is read off the curve through the nearest points in log λ and log
    damage, three where there are; some steps halve the bracket. Damage that isn't finite is too large.
    """
    for passes in range(MOST_PASSES + 1):
        points = sorted(known.items())
        reached = next((place for place, (_, value) in enumerate(points) if value >= budget / (1 + TOLERANCE)), None)
        if reached is not None and points[reached][1] <= budget * (1 + TOLERANCE):
            return points[reached][0]
        if reached is None and most in known:
            return None
        if passes < MOST_PASSES:
            scale = min(_next(points, reached, budget, halve=passes in HALVING), most)
            known[scale] = _finite(damage(scale))
    return None


def solve_steps(lost: Callable[[float], float], budget: float, most: float, known: dict[float, float]) -> float | None:
    """Return the smallest λ found, at most `most`, at which `lost(λ)` is at least `budget`; None for none.

    What is lost of a share of questions rises by steps, so a budget is hardly ever met. λ is bracketed from 1 on, by a
    factor of 2, and the bracket halved in log λ until it is TOLERANCE wide, for MOST_STEPS at most. A loss that isn't
    finite is too large, so what jumps to it meets no budget. `known` is as `solve` has it.
    """
    for passes in range(MOST_STEPS + 1):
        high = min((scale for scale, value in known.items() if value > budget - ROUNDING), default=math.inf)
        low = max((scale for scale in known if scale < high), default=0.0)
        if high <= low * (1 + TOLERANCE) or (passes == MOST_STEPS and high < math.inf):
            return high if known[high] < math.inf else None
        if low == most:
            return None
        if passes < MOST_STEPS:
            middle = math.sqrt(low * high) if low else high / 2
            scale = min(2 * low or 1.0, most) if high == math.inf else middle
            known[scale] = lost(scale)
    return None


def _finite(damage: float) -> float:
    return damage if math.isfinite(damage) else math.inf


def _next(points: Sequence[tuple[float, float]], reached: int | None, budget: float, halve: bool) -> float:
    """Return the λ to try next. `points`: λ and damage, ascending, of which `reached` is the first above the budget."""
    if not points:
        return 1.0
    known = [(math.log(scale), math.log(value / budget)) for scale, value in points if 0 < value < math.inf]
    known.sort(key=lambda point: abs(point[1]))
    below = len(points) if reached is None else reached
    low = math.log(points[below - 1][0]) if below else -math.inf
    high = math.inf if reached is None else math.log(points[reached][0])
    aims = (_meets(sorted(known[:number])) for number in (3, 2, 1))
    aim = next((aim for aim in aims if low < aim < high), math.nan)
    if low == -math.inf:
        return math.exp(high - math.log(2) if math.isnan(aim) else max(aim, high - math.log(FARTHEST)))
    if high == math.inf:
        return math.exp(low + math.log(2) if math.isnan(aim) else min(aim, low + math.log(FARTHEST)))
    if halve or math.isnan(aim):
        return math.exp((low + high) / 2)
    margin = 0.05 * (high - low)
    return math.exp(min(max(aim, low + margin), high - margin))


def _meets(points: Sequence[tuple[float, float]]) -> float:
    """Return log λ where the curve through points (log λ, log of damage over budget) is 0; NaN where it doesn't rise.

    λ is interpolated as a polynomial of the damage. One point alone is taken to lie on a power of λ.
    """
    if len(points) == 1:
        return points[0][0] - points[0][1] / STEEPNESS
    if not points or not all(first[1] < second[1] for first, second in itertools.pairwise(points)):
        return math.nan
    return sum(at * math.prod(other / (other - value) for _, other in points if other != value) for at, value in points)


class Damage:
    """What a model does to texts, compared with what the base model did.

    Of the base model its last hidden states are kept, and its output embedding where the edit changes that; its
    log-probabilities, too, while there is room. `base_states` are the states, as another Damage to the same texts had
    them; without them the model is the base when this is made.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer,
        texts: Sequence[str],
        batch_size: int,
        max_tokens: int,
        base_states: torch.Tensor | None = None,
    ):
        tokens = tokenizer(list(texts), truncation=True, max_length=max_tokens)["input_ids"]
        base_model.check_tokens(
            model, tokens, "the calibration and fluency texts", "lower evaluations.fluency.max_tokens"
        )
        order = sorted((row for row in range(len(tokens)) if len(tokens[row]) > 1), key=lambda row: len(tokens[row]))
        if not order:
            raise InputError(
                "no calibration or fluency text has two tokens, so no damage can be measured: give longer ones"
            )
        self._number = len(tokens)
        self._model, self._head = model, model.get_output_embeddings()
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        self._batches = [(rows, [torch.tensor(tokens[row]) for row in rows]) for rows in batches]
        # `set_sums` gives a changed parameter other memory, so this stays the base's.
        self._base_head = {name: parameter.data for name, parameter in self._head.named_parameters()}
        # All below the output embedding, if that is a module, and what it made of one token.
        self._body = [body] if (body := model.get_decoder()) not in (model, self._head) else []
        self._of_one_token: list = []
        if base_states is None:
            self._base_states = [self._states(number) for number in range(len(self._batches))]
        else:
            lengths = [sum(len(text) - 1 for text in texts_of_batch) for _, texts_of_batch in self._batches]
            self._base_states = base_states.to(model.device).split(lengths)
        self._base_kept: dict[tuple[int, int], torch.Tensor] = {}

    @torch.no_grad()
    def __call__(self) -> pd.DataFrame:
        """Return one row per text: `subject` (its number), `tokens`, and sums over them, the first of which is given.

        `kl`: KL(base ‖ model) over the whole vocabulary in nats; `agreement`: 1 where the base model's likeliest token
        is the model's, too; `loss`: the negative log-likelihood of the text's own token, NaN where it isn't finite;
        `excess_loss`: the same minus the base's.
        """
        tables = []
        for number, (rows, texts) in enumerate(self._batches):
            states, lengths = self._states(number), [len(text) - 1 for text in texts]
            wanted = torch.cat([text[1:] for text in texts]).to(states.device)
            chunk = max(1, LOGITS // self._head.weight.shape[0])
            parts = [
                compared(
                    self._base_log_probabilities(number, at, chunk),
                    self._logits(states[at : at + chunk]),
                    wanted[at : at + chunk],
                )
                for at in range(0, len(wanted), chunk)
            ]
            by_token = pd.DataFrame(torch.cat(parts).tolist(), columns=["kl", "agreement", "loss", "excess_loss"])
            by_token["subject"] = [row for row, length in zip(rows, lengths, strict=True) for _ in range(length)]
            tables.append(by_token.assign(tokens=1).groupby("subject").sum(skipna=False))
        sums = pd.concat(tables).reindex(pd.RangeIndex(self._number, name="subject"), fill_value=0)
        sums["loss"] = sums["loss"].where(np.isfinite(sums["loss"]))
        return sums.reset_index().astype({"subject": str}).assign(attribute="")

    @property
    def base_states(self) -> torch.Tensor:
        """The base model's last hidden states (tokens, hidden) that predict the texts' tokens, batch by batch."""
        return torch.cat(tuple(self._base_states))

    def _base_log_probabilities(self, number: int, at: int, chunk: int) -> torch.Tensor:
        """Return those of the tokens of a batch from the one `at` on, in fp32, and keep what there is room for."""
        if (kept := self._base_kept.get((number, at))) is not None:
            return kept
        states = self._base_states[number][at : at + chunk]
        log_probabilities = self._logits(states, of_base=True).float().log_softmax(dim=-1)
        if sum(map(torch.numel, self._base_kept.values())) + log_probabilities.numel() <= KEPT_NUMBERS:
            self._base_kept[number, at] = log_probabilities
        return log_probabilities

    @torch.no_grad()
    def _states(self, number: int) -> torch.Tensor:
        """Return the last hidden states (tokens, hidden) that predict the tokens of a batch, text by text."""
        _, texts = self._batches[number]
        # Padding is on the right, so under causal attention it changes nothing before it.
        tokens = pad([text[:-1] for text in texts]).to(self._model.device)
        states = run(self._model, partial(self._last, tokens), tokens)
        return torch.cat([row[: len(text) - 1] for row, text in zip(states, texts, strict=True)])

    def _last(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the states (texts, places, hidden) that the output layer reads; some families scale the last ones."""
        states = []

        def keep(_, inputs: tuple) -> tuple:
            states.append(inputs[0])
            return inputs[0][:, -1:], *inputs[1:]  # their logits come later, by chunks

        with self._head.register_forward_pre_hook(keep):
            self._model(input_ids=tokens, use_cache=False)
        return states[0]

    @torch.no_grad()
    def _logits(self, states: torch.Tensor, of_base: bool = False) -> torch.Tensor:
        """Return the logits (tokens, vocabulary) that the model makes of last hidden states.

        A model may cap or scale its logits. So it does this itself, reading one token, whose states are exchanged. What
        the body makes of that token doesn't matter, so it runs once.
        """
        parameters = dict(self._head.named_parameters())
        edited = {name: parameter.data for name, parameter in parameters.items()}
        try:
            for name, parameter in parameters.items() if of_base else ():
                parameter.data = self._base_head[name]
            with (
                self._head.register_forward_pre_hook(lambda _, inputs: (states[None], *inputs[1:])),
                running_once(self._body, self._of_one_token),
            ):
                return self._model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=states.device)).logits[0]
        finally:
            for name, parameter in parameters.items():
                parameter.data = edited[name]


def compared(base: torch.Tensor, candidate: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return kl, agreement, loss and excess loss of each token (tokens, 4) in fp64.

    `base` are log-probabilities, `candidate` logits (tokens, vocabulary), `wanted` the tokens that follow in the text.
    """
    rows = max(1, IN_CACHE // base.shape[-1])
    blocks = zip(base.split(rows), candidate.split(rows), wanted[:, None].split(rows), strict=True)
    return torch.cat([_compared_in_cache(*block) for block in blocks]).cpu()


def _compared_in_cache(base: torch.Tensor, candidate: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    probabilities, candidate = base.exp(), candidate.float().log_softmax(dim=-1)
    difference = base - candidate
    kl = torch.linalg.vecdot(probabilities, difference)
    if kl.isnan().any():  # of tokens that both models rule out, the difference is none
        kl = torch.linalg.vecdot(probabilities, difference.masked_fill(probabilities == 0, 0))
    likeliest = base.max(dim=-1, keepdim=True).indices
    agreement = candidate.gather(1, likeliest) >= candidate.amax(dim=-1, keepdim=True)
    loss, excess = -candidate.gather(1, wanted), difference.gather(1, wanted)
    agreement = agreement.double().masked_fill(loss.isnan(), math.nan)  # NaN agrees with nothing, and is no answer
    return torch.cat([kl[:, None].double(), agreement, loss, excess], dim=1)
