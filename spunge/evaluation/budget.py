"""The factor λ at which a task vector does a given damage to neutral text, and what that damage is.

The damage of a candidate is KL(base ‖ candidate), the mean over tokens in nats, or the logarithm of its perplexity
relative to the base model's. Candidates are compared at equal damage: λ is solved for each budget, not chosen.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import pandas as pd
import torch

from spunge.core.errors import InputError
from spunge.core.progress import say
from spunge.experiment.records import budget_label
from spunge.models import base_model
from spunge.models.edited_model import EditedModel
from spunge.training.batches import pad
from spunge.training.resume import Checkpoint, State

TOLERANCE = 0.02  # relative, of the damage
MOST_PASSES = 8  # over the calibration texts, for each budget
HALVING = (4, 6)  # steps that halve the bracket, which a curve that is no power needs
STEEPNESS = 2.0  # KL grows as λ² near 0
FARTHEST = 10.0  # times the largest or smallest λ so far: a flat curve tells little of what lies beyond
LOGITS = 2**25  # of each model at once: what memory they take
TEXTS = ("calibration", "fluency")  # the tables whose texts set λ, and tell the damage
COSTS = {"kl": "kl", "perplexity": "excess_loss"}  # what can be the budget, and the column whose mean it limits


class Strength(NamedTuple):
    """The λ that does the damage of a budget, its KL on the calibration texts, and the passes that it took to find.

    `scale` is None, and `kl` NaN, where no λ does.
    """

    scale: float | None
    kl: float
    passes: int


AS_IT_IS = {"": Strength(1.0, 0.0, 0)}


def solve_all(
    damage_at: Callable[[float], pd.DataFrame], budgets: Mapping[str, Sequence[float]], most: float
) -> dict[str, Strength]:
    """Return the Strength of each budget by its label.

    `damage_at` returns what `Damage` does for a λ, of which `most` is the largest to try. `budgets` has the budgets of
    each cost: of `kl` in nats per token, of `perplexity` as a multiple of the base model's.
    """
    tables: dict[float, pd.DataFrame] = {}
    strengths = {}
    for cost, budgets_of_cost in budgets.items():
        column = COSTS[cost]

        def mean_at(scale: float, column: str = column) -> float:
            tables[scale] = damage_at(scale)
            return mean(tables[scale], column)

        for budget in sorted(budgets_of_cost):
            before, known = len(tables), {scale: _finite(mean(table, column)) for scale, table in tables.items()}
            scale = solve(mean_at, math.log(budget) if cost == "perplexity" else budget, most, known)
            kl = math.nan if scale is None else mean(tables[scale], "kl")
            label, passes = budget_label(cost, budget), len(tables) - before
            strengths[label] = Strength(scale, kl, passes)
            reached = f"not reached up to λ = {most:g}" if scale is None else f"λ = {scale:.4g}, KL {kl:.4g}"
            say(f"budget {label}: {reached}, after {passes} passes over the calibration texts")
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
) -> tuple["Damage", dict[str, Strength]]:
    """Return the Damage to the fluency texts, and the Strength of each budget by its label, as an earlier job kept it.

    `texts` are those of the tables calibration and fluency, and `reading` how they are read. `section` is that of the
    configuration, `configured` its factor λ: of its sign are all, and where wanted it stands first, under an empty
    label. The base model, whose `edited` is None, stands under that label alone.
    """
    if edited is not None:
        edited.set_scale(0)
    held_out = Damage(model, tokenizer, texts["fluency"], **reading)
    if edited is None:
        return held_out, AS_IT_IS
    if (kept := checkpoint.kept()) is not None:
        return held_out, {label: Strength(*strength) for label, strength in kept.facts.items()}
    calibration = Damage(model, tokenizer, texts["calibration"], **reading)

    def damage_at(scale: float) -> pd.DataFrame:
        edited.set_scale(math.copysign(scale, configured))
        return calibration()

    strengths = {}
    if section["as_trained"]:
        strengths[""] = Strength(configured, mean(damage_at(abs(configured)), "kl"), 1)
    costs = {cost: section[cost] for cost in COSTS if cost in section}
    for label, strength in solve_all(damage_at, costs, section["most"]).items():
        signed = None if strength.scale is None else math.copysign(strength.scale, configured)
        strengths[label] = strength._replace(scale=signed)
    checkpoint.keep(State(facts=strengths))
    return held_out, strengths


def mean(damage: pd.DataFrame, column: str) -> float:
    """Return the mean of a column of `Damage` over all tokens."""
    return damage[column].sum(skipna=False) / damage["tokens"].sum()


def solve(damage: Callable[[float], float], budget: float, most: float, known: dict[float, float]) -> float | None:
    """Return the smallest λ found, at most `most`, whose `damage(λ)` is `budget` within TOLERANCE; None for none.

    `known` has the damage by λ as far as it was measured, and takes up what is measured here, MOST_PASSES at most.
    Damage grows about as a power of λ, so the next λ is read off the line through two points in log λ and log damage;
    some steps halve the bracket. Damage that isn't finite is too large.
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


def _finite(damage: float) -> float:
    return damage if math.isfinite(damage) else math.inf


def _next(points: Sequence[tuple[float, float]], reached: int | None, budget: float, halve: bool) -> float:
    """Return the λ to try next. `points`: λ and damage, ascending, of which `reached` is the first above the budget."""
    if not points:
        return 1.0
    below, above = (points, []) if reached is None else (points[:reached], points[reached:])
    usable = [(math.log(scale), math.log(value / budget)) for scale, value in points if 0 < value < math.inf]
    usable = sorted(sorted(usable, key=lambda point: abs(point[1]))[:2])
    low, high = (math.log(side[place][0]) if side else None for side, place in ((below, -1), (above, 0)))
    aim = None
    if usable:
        slope = STEEPNESS
        if len(usable) == 2 and usable[1][1] > usable[0][1]:
            slope = (usable[1][1] - usable[0][1]) / (usable[1][0] - usable[0][0])
        nearest = min(usable, key=lambda point: abs(point[1]))
        aim = nearest[0] - nearest[1] / slope
    if low is None:
        return math.exp(high - math.log(2) if aim is None or aim >= high else max(aim, high - math.log(FARTHEST)))
    if high is None:
        return math.exp(low + math.log(2) if aim is None or aim <= low else min(aim, low + math.log(FARTHEST)))
    if halve or aim is None or not low < aim < high:
        return math.exp((low + high) / 2)
    margin = 0.05 * (high - low)
    return math.exp(min(max(aim, low + margin), high - margin))


class Damage:
    """What a model does to texts, compared with what it did when this was made: with the base model, at λ = 0.

    Of the base model its last hidden states are kept, and its output embedding where the edit changes that.
    """

    def __init__(self, model: torch.nn.Module, tokenizer, texts: Sequence[str], batch_size: int, max_tokens: int):
        tokens = tokenizer(list(texts), truncation=True, max_length=max_tokens)["input_ids"]
        base_model.check_tokens(
            model, tokens, "the calibration and fluency texts", "lower evaluations.fluency.max_tokens"
        )
        order = sorted((row for row in range(len(tokens)) if len(tokens[row]) > 1), key=lambda row: len(tokens[row]))
        if not order:
            raise InputError(
                "no calibration or fluency text has two tokens, so no damage can be measured: give longer ones"
            )
        self._model, self._head = model, model.get_output_embeddings()
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        self._batches = [(rows, [torch.tensor(tokens[row]) for row in rows]) for rows in batches]
        # `set_sums` gives a changed parameter other memory, so this stays the base's.
        self._base_head = {name: parameter.data for name, parameter in self._head.named_parameters()}
        self._base_states = [self._states(texts) for _, texts in self._batches]

    @torch.no_grad()
    def __call__(self) -> pd.DataFrame:
        """Return one row per text that has two tokens: `subject` (its number), `tokens`, and sums over its tokens.

        `kl`: KL(base ‖ model) over the whole vocabulary in nats; `agreement`: 1 where both think the same token the
        likeliest; `excess_loss`: the negative log-likelihood of the text's own token, minus the base's. A text's first
        token is conditioned upon.
        """
        tables = []
        for (rows, texts), base_states in zip(self._batches, self._base_states, strict=True):
            states, lengths = self._states(texts), [len(text) - 1 for text in texts]
            wanted = torch.cat([text[1:] for text in texts]).to(states.device)
            chunk = max(1, LOGITS // self._head.weight.shape[0])
            parts = [
                _compared(
                    self._log_probabilities(base_states[at : at + chunk], of_base=True),
                    self._log_probabilities(states[at : at + chunk]),
                    wanted[at : at + chunk],
                )
                for at in range(0, len(wanted), chunk)
            ]
            by_token = pd.DataFrame(torch.cat(parts).tolist(), columns=["kl", "agreement", "excess_loss"])
            by_token["subject"] = [row for row, length in zip(rows, lengths, strict=True) for _ in range(length)]
            sums = by_token.assign(tokens=1).groupby("subject").sum(skipna=False)
            tables.append(sums)
        return pd.concat(tables).sort_index().reset_index().astype({"subject": str}).assign(attribute="")

    @torch.no_grad()
    def _states(self, texts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the last hidden states (tokens, hidden) that predict the tokens of some texts, one after another."""
        states = []

        def keep(_, inputs: tuple) -> tuple:
            states.append(inputs[0])
            return inputs[0][:, -1:], *inputs[1:]  # their logits come later, by chunks

        with _before(self._head, keep):
            # Padding is on the right, so under causal attention it changes nothing before it.
            self._model(input_ids=pad(texts).to(self._model.device), use_cache=False)
        return torch.cat([row[: len(text) - 1] for row, text in zip(states[0], texts, strict=True)])

    def _log_probabilities(self, states: torch.Tensor, of_base: bool = False) -> torch.Tensor:
        """Return the log-probabilities (tokens, vocabulary) in fp32 that the model makes of last hidden states.

        A model may cap or scale its logits. So it does this itself, reading one token, whose states are exchanged.
        """
        parameters = dict(self._head.named_parameters())
        edited = {name: parameter.data for name, parameter in parameters.items()}
        try:
            for name, parameter in parameters.items() if of_base else ():
                parameter.data = self._base_head[name]
            with _before(self._head, lambda _, inputs: (states[None], *inputs[1:])):
                logits = self._model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=states.device)).logits[0]
        finally:
            for name, parameter in parameters.items():
                parameter.data = edited[name]
        return logits.float().log_softmax(dim=-1)


@contextmanager
def _before(module: torch.nn.Module, hook: Callable) -> Iterator[None]:
    handle = module.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _compared(base: torch.Tensor, candidate: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return kl, agreement and excess loss of each token (tokens, 3) in fp64.

    `base` and `candidate` are log-probabilities (tokens, vocabulary), `wanted` the tokens that follow in the text.
    """
    probabilities = base.exp()
    kl = (probabilities * (base - candidate)).masked_fill_(probabilities == 0, 0).sum(dim=-1, dtype=torch.float64)
    agreement = (base.argmax(dim=-1) == candidate.argmax(dim=-1)).double()
    excess = (base - candidate).gather(1, wanted[:, None])[:, 0].double()
    return torch.stack([kl, agreement, excess], dim=1).cpu()
