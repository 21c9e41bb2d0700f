"""What `snakemake plan` prints: the model, the shards, a line for each kind of job, their sum, and notes."""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import chain

import jinja2
from tabulate import tabulate

from spunge.models import shapes
from spunge.planning import estimate
from spunge.planning.estimate import Cost, added, is_open, shown
from spunge.planning.jobs import Kind
from spunge.planning.known import Facts

WIDTH = 120  # of what is printed
HEADERS = ["kind of job", "jobs", "each does", "hours", "", "GPU memory", "disk", "download", "notes"]
WIDTHS = [28, None, 24, None, None, None, None, None, None]
ALIGNMENT = ["left", "right", "left", "right", "left", "right", "right", "right", "left"]


def page(configured: Mapping, facts: Facts, kinds: Sequence[Kind], template: str) -> str:
    """Return the plan of an experiment of these kinds of jobs; `template` is report/plan.txt."""
    total, noted = added([kind.of_all() for kind in kinds]), [notes(kind, facts) for kind in kinds]
    numbers = {note: str(number) for number, note in enumerate(dict.fromkeys(chain(*noted)), 1)}
    rows = [
        _row(kind.label, [kind.jobs], kind.cost.work, kind.basis, kind.of_all(), ",".join(map(numbers.get, names)))
        for kind, names in zip(kinds, noted, strict=True)
    ]
    rows.append(_row("all", [kind.jobs for kind in kinds], "", "", total, ""))
    table = tabulate([HEADERS, *rows], tablefmt="plain", disable_numparse=True, colalign=ALIGNMENT, maxcolwidths=WIDTHS)
    text = jinja2.Template(template, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True).render(
        configured=configured, facts=facts, table=table, notes=numbers, total=total, estimate=estimate, size=size
    )
    return "\n".join(textwrap.fill(line, WIDTH, subsequent_indent="   ") for line in text.split("\n"))


def _row(label: str, jobs: Sequence[float], work: str, basis: str, cost: Cost, noted: str) -> list[str]:
    amounts = [shown(parts, size) for parts in (cost.memory, cost.disk, cost.download)]
    return [label, shown(jobs), work, shown(cost.seconds, hours), basis, *amounts, noted]


def notes(kind: Kind, facts: Facts) -> list[str]:
    """Return which notes say how a kind's amounts were reckoned, and why some aren't known."""
    cost, names = kind.of_all(), [*kind.basis.split()[-1:], *kind.cost.notes]
    if is_open([*cost.seconds, *cost.memory, *([] if is_open(cost.download) else cost.disk)]):
        names.append("model" if facts.shape is shapes.UNKNOWN else "unknown" if cost.unknown else "data")
    names += ["data"] * is_open([kind.jobs]) + ["download"] * is_open(cost.download)
    return list(dict.fromkeys(names))


def hours(seconds: float) -> str:
    """Write seconds as hours, two digits."""
    value = seconds / 3600
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}" if value >= 0.01 else "< 0.01"


def size(number: float) -> str:
    """Write bytes as GB (10⁹) or MB."""
    if number < 1e9:
        return f"{number / 1e6:.3g} MB"
    return f"{number / 1e9:,.0f} GB" if number >= 100e9 else f"{number / 1e9:.3g} GB"
