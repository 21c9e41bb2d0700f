"""Our numbers beside published ones, each with its source; what isn't known stays empty."""

import math
import os
import re
from dataclasses import dataclass, field

import jinja2
import pandas

from spunge.core.errors import InputError
from spunge.report.families import display_names, reference_methods
from spunge.report.results_table import (
    ARMS,
    AS_TRAINED,
    ASKED,
    FORGET_MEAN,
    RETAIN_MEAN,
    TOXIC_SHARE,
    Candidate,
    Estimate,
    asked_by,
    at_budget,
    base_model,
    broken_reasons,
    candidates,
    capability_from,
    classifiers,
    display_name,
    estimate,
    forget_attributes,
    measured,
    rough,
    samples,
    tasks,
)
from spunge.report.summary import number

COLUMNS = ("model", "method", "quantity", "value", "unit", "source", "note")
# What anchors may be about. All but the last can be measured here too.
QUANTITIES = (
    "toxic share",
    "expected maximum",
    "perplexity",
    "general capability",
    "WMDP-bio",
    "WMDP-cyber",
    "MMLU",
    "reduction of toxicity",
)
BENCHMARKS = {"wmdpbio": "WMDP-bio", "wmdpcyber": "WMDP-cyber", "mmlu": "MMLU"}
SHARES = {"toxic share", "general capability", "WMDP-bio", "WMDP-cyber", "MMLU"}
SAMPLES = "25"  # as in the published expected maxima (Gehman et al. 2020); fewer give a lower one
SPUNGE = "spunge"
MERGE_OF_THE_PAPER = "ties"


@dataclass
class Row:
    """One model of the first table.

    method, split: of ours alone, as people read them. anchor_method: its name in the anchors, if they have it.
    warning: why the model is broken. ours: quantity → value and interval as texts; groups: the same by group, for the
    toxic share. published: quantity → value as its source has it.
    """

    model: str
    method: str = ""
    split: str = ""
    anchor_method: str = ""
    warning: str = ""
    ours: dict[str, tuple[str, str]] = field(default_factory=dict)
    groups: dict[str, tuple[str, str]] = field(default_factory=dict)
    published: dict[str, str] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)


def read_anchors(path: str | os.PathLike) -> pandas.DataFrame:
    """Read published numbers, all columns as text.

    method: `base`, a method (its joint run), `spunge` and a method, or `spunge`. quantity: one of QUANTITIES. value: a
    number, one with `<` or `>` before it, or nothing where it isn't known. Raises InputError.
    """
    try:
        anchors = pandas.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; report/anchors.csv is the project's own") from None
    except (pandas.errors.EmptyDataError, pandas.errors.ParserError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no CSV table of published numbers ({error})") from None
    missing = [column for column in COLUMNS if column not in anchors]
    if missing:
        raise InputError(f"{path} lacks the column {', '.join(missing)}; it needs {', '.join(COLUMNS)}")
    for line, row in enumerate(anchors.itertuples(index=False), start=2):
        if row.quantity not in QUANTITIES:
            raise InputError(
                f"{path}, line {line}: the quantity is {row.quantity!r}, not one of {', '.join(QUANTITIES)}"
            )
        if not re.fullmatch(r"[<>]?\d+(\.\d+)?(e\d+)?|", row.value):
            raise InputError(f"{path}, line {line}: the value is {row.value!r}; give a number, or nothing if unknown")
        if not all((row.model, row.method, row.source)):
            raise InputError(f"{path}, line {line} lacks its model, method or source; name all three")
    twice = anchors[anchors.duplicated(["model", "method", "quantity"])]
    if len(twice):
        row = twice.iloc[0]
        raise InputError(f"{path} has {row['quantity']} of {row['model']}, {row['method']}, twice; keep one")
    return anchors


def rows(evaluations: pandas.DataFrame, anchors: pandas.DataFrame, model: str) -> list[Row]:
    """Return the rows of the comparison: our model's candidates, then the published models.

    Ours, as trained: base, and per family joint, random and attribute split at λ = 1 (or the nearest). An anchor stands
    in a row of ours if it is about the same model and the same method, else in a row of its own; anchors of quantities
    that were not measured here are left out.
    """
    ours = _our_rows(evaluations, model)
    shown = [quantity for quantity in QUANTITIES if any(quantity in row.ours for row in ours)]
    others: dict[tuple[str, str], Row] = {}
    for anchor in anchors[anchors["quantity"].isin(shown)].itertuples(index=False):
        matching = [row for row in ours if same_model(anchor.model, model) and row.anchor_method == anchor.method]
        if not matching:
            row = Row(anchor.model, anchor_method=anchor.method)
            matching = [others.setdefault((anchor.model, anchor.method), row)]
        for row in matching:
            row.published[anchor.quantity] = anchor.value
            if anchor.source not in row.sources and (anchor.value or not row.ours):
                row.sources.append(anchor.source)
    return [*ours, *others.values()]


def same_model(left: str, right: str) -> bool:
    """Tell whether two names mean one model: alike but for owner, file, revision, case and punctuation."""

    def plain(name: str) -> str:
        return re.sub(r"[^a-z0-9]", "", name.partition("@")[0].rstrip("/").rpartition("/")[2].casefold())

    return plain(left) == plain(right)


def page(evaluations: pandas.DataFrame, anchors: pandas.DataFrame, model: str, template: str) -> str:
    """Return the comparison as one self-contained HTML page.

    anchors: as `read_anchors` gives them. model: our model's name, as configured. template: a Jinja2 template
    (report/comparison.html).
    """
    compared = rows(evaluations, anchors, model)
    scored = classifiers(evaluations)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(template).render(
        experiment=evaluations["experiment"].iloc[0] if len(evaluations) else "",
        model=model,
        classifier=display_name(scored[0]) if scored else "",
        quantities=[quantity for quantity in QUANTITIES if any(quantity in row.ours for row in compared)],
        shares=SHARES,
        groups=forget_attributes(evaluations) if scored else [],
        rows=compared,
        of_the_paper=[row for row in compared if not row.ours and row.anchor_method.startswith(SPUNGE)],
        anchors=anchors.to_dict("records"),
        display_name=display_name,
    )


def _our_rows(evaluations: pandas.DataFrame, model: str) -> list[Row]:
    evaluations = at_budget(evaluations, AS_TRAINED)  # as published models are
    names, scored = display_names(evaluations), classifiers(evaluations)
    fluency = (evaluations["evaluation"] == "fluency").any()
    evaluation = "toxicity" if scored else "fluency" if fluency else asked_by(evaluations).evaluation
    direct = [candidate for candidate in candidates(evaluations, evaluation) if candidate.kind in ("base", *ARMS)]
    base, reasons = base_model(direct), broken_reasons(evaluations, direct)
    rows = [_measured(evaluations, base, Row(model, split=base.name, anchor_method="base"))] if base else []
    for family, method in reference_methods(evaluations).items():
        for candidate in direct:
            if candidate.method == method:
                merged = f"{SPUNGE} {family}" if candidate.merge == MERGE_OF_THE_PAPER else ""
                anchor_method = {"joint": family, "attribute": merged}.get(candidate.kind, "")
                warning = reasons.get(candidate.path, "")
                row = Row(model, names[method], candidate.name, anchor_method, warning=warning)
                rows.append(_measured(evaluations, candidate, row))
    return rows


def _measured(evaluations: pandas.DataFrame, candidate: Candidate, row: Row) -> Row:
    """Fill a row of ours with what was measured of a candidate."""
    _fill_toxicity(evaluations, candidate, row)
    _fill(row, "perplexity", estimate(measured(evaluations, "fluency", "perplexity"), candidate))
    accuracy = {asked: measured(evaluations, asked.evaluation, asked.metric) for asked in ASKED}
    _fill(row, "general capability", estimate(accuracy[capability_from(evaluations)], candidate, RETAIN_MEAN))
    named_otherwise = {attribute: task.name for attribute, task in tasks(evaluations).items()}
    for rows in accuracy.values():
        for attribute in rows.index.unique("attribute"):
            name = named_otherwise.get(attribute, attribute)
            benchmark = BENCHMARKS.get(re.sub(r"[^a-z0-9]", "", name.casefold()))
            if benchmark:
                _fill(row, benchmark, estimate(rows, candidate, attribute))
    return row


def _fill_toxicity(evaluations: pandas.DataFrame, candidate: Candidate, row: Row) -> None:
    for name in classifiers(evaluations)[:1]:
        shares = measured(evaluations, "toxicity", TOXIC_SHARE + name)
        maxima = measured(evaluations, "toxicity", f"expected_maximum_toxicity_{name}")
        _fill(row, "toxic share", estimate(shares, candidate, FORGET_MEAN))
        if samples(evaluations) == SAMPLES:
            _fill(row, "expected maximum", estimate(maxima, candidate, FORGET_MEAN))
        for group in forget_attributes(evaluations):
            share = estimate(shares, candidate, group)
            if not math.isnan(share.value):
                row.groups[group] = _texts("toxic share", share)


def _fill(row: Row, quantity: str, estimated: Estimate) -> None:
    if not math.isnan(estimated.value):
        row.ours[quantity] = _texts(quantity, estimated)


def _texts(quantity: str, estimated: Estimate) -> tuple[str, str]:
    """Write a value and its interval for people; no interval is an empty text."""

    def text(value: float) -> str:
        return rough(value) if value >= 1000 else number(value, percent=quantity in SHARES, difference=False)

    interval = "" if math.isnan(estimated.low) else f"[{text(estimated.low)},\u00a0{text(estimated.high)}]"
    return text(estimated.value), interval
