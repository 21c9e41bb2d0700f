"""What `snakemake plan` prints: the model, the shards, a line for each kind of job, their sum, and notes."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import chain

from tabulate import tabulate

from spunge.planning import sizes
from spunge.planning.cost_model import UTILISATION
from spunge.planning.estimate import CHARACTERS, READ, START, Cost, added, is_open, shown
from spunge.planning.jobs import Kind
from spunge.planning.known import Facts

CARDS = (24, 80)  # GB
USABLE = 0.9
WIDTH = 120  # of what is printed
HEADERS = ["kind of job", "jobs", "each does", "hours", "", "GPU memory", "disk", "download", "notes"]
WIDTHS = [28, None, 24, None, None, None, None, None, None]
ALIGNMENT = ["left", "right", "left", "right", "left", "right", "right", "right", "left"]
NOTES = {
    "measured": "measured: the mean time of this experiment's earlier jobs of the kind, times the number of jobs; "
    "with whatever machine and options those ran.",
    "estimated": f"estimated: operations at {UTILISATION:.0%} of the peak of {{device}} ({{peak:.3g}} TFLOPS, "
    f"{{dtype}}), {START} s for a job to begin, and its part of the model read at {READ / 1e9:.0f} GB/s. Not measured.",
    "bound": "An upper bound: all texts as long as allowed; most are shorter. Memory as in docs/big-models.md: "
    "activations are an estimate, the allocator's waste is left out.",
    "tokens": f"Tokens of questions are taken as their characters / {CHARACTERS}.",
    "tasks": "Questions as published; the tokens of each are rough, from the look of the tasks.",
    "data": "?: not known before the job `data` ran: how many texts and questions there are, how long, and "
    "with `forget: all` of which attributes.",
    "model": "?: {origin}.",
    "unknown": "?: what these take, with their options, isn't known here: {unknown}.",
    "download": "?: sizes on the hub aren't known here, nor those of other wheels before they are there.",
}
ALWAYS = (
    "Hours of jobs that use no model are counted where they were measured, and not estimated. Disk: models, task "
    "vectors and activations; tables, scores, figures and logs are left out."
)


def page(configured: Mapping, facts: Facts, kinds: Sequence[Kind]) -> str:
    """Return the plan of an experiment of these kinds of jobs."""
    total, noted = added([kind.of_all() for kind in kinds]), [notes(kind, facts) for kind in kinds]
    numbers = {note: str(number) for number, note in enumerate(dict.fromkeys(chain(*noted)), 1)}
    rows = [
        _row(kind.label, [kind.jobs], kind.cost.work, kind.basis, kind.of_all(), ",".join(map(numbers.get, names)))
        for kind, names in zip(kinds, noted, strict=True)
    ]
    rows.append(_row("all", [kind.jobs for kind in kinds], "", "", total, ""))
    table = tabulate(
        [HEADERS, *rows], tablefmt="plain", disable_numparse=True, colalign=ALIGNMENT, maxcolwidths=WIDTHS
    ).splitlines()
    rule = "-" * max(map(len, table))
    values = {
        "device": facts.device,
        "dtype": facts.dtype,
        "peak": sizes.DEVICES[facts.device][facts.dtype] / 1e12,
        "origin": facts.origin,
        "unknown": ", ".join(sorted(set(total.unknown))),
    }
    below = [f"{number}. {NOTES[note].format(**values)}" for note, number in numbers.items()] + [ALWAYS]
    if greediest := total.memory[0]:
        cards = [f"{card}" for card in CARDS if greediest <= USABLE * 1e9 * card]
        fits = f"a card of {cards[0]} GB is" if cards else f"no card of {CARDS[-1]} GB is"
        below.insert(0, f"GPU memory: {size(greediest)} for one job as far as known: {fits} enough, a tenth left free.")
    lines = [*_wrapped(heading(configured, facts)), "", table[0], rule, *table[1:-1], rule, table[-1], ""]
    return "\n".join(["", *lines, *_wrapped(below), ""])


def _row(label: str, jobs: Sequence[float], work: str, basis: str, cost: Cost, noted: str) -> list[str]:
    amounts = [shown(parts, size) for parts in (cost.memory, cost.disk, cost.download)]
    return [label, shown(jobs), work, shown(cost.seconds, hours), basis, *amounts, noted]


def _wrapped(texts: Sequence[str]) -> list[str]:
    return [line for text in texts for line in textwrap.wrap(text, WIDTH, subsequent_indent="   ")]


def heading(configured: Mapping, facts: Facts) -> list[str]:
    """Return what the table rests on: the experiment, its model, and the shards."""
    model = f"Model: {configured['model']['source']}, {facts.dtype}; {facts.origin}"
    if not math.isnan(facts.shape.parameters):
        model += f": {facts.shape.parameters:,} parameters"
    shards = [f"{name} {facts.texts.get(name, '')}".strip() for name in facts.attributes or ["`forget: all`"]]
    counted = "texts" if facts.texts else "(counted when `data` has run)"
    seeds = ", ".join(map(str, configured["seeds"]))
    title = f"Plan of {configured['experiment']}: a run from nothing, seeds {seeds}"
    return [title, model, f"Shards: {', '.join(shards)} {counted}"]


def notes(kind: Kind, facts: Facts) -> list[str]:
    """Return which notes say how a kind's amounts were reckoned, and why some aren't known."""
    cost, found = kind.of_all(), [*kind.basis.split()[-1:], *kind.cost.notes]
    if is_open([*cost.seconds, *cost.memory, *([] if is_open(cost.download) else cost.disk)]):
        found.append("model" if math.isnan(facts.shape.layers) else "unknown" if cost.unknown else "data")
    found += ["data"] * math.isnan(kind.jobs) + ["download"] * is_open(cost.download)
    return list(dict.fromkeys(found))


def hours(seconds: float) -> str:
    """Write seconds as hours, two digits."""
    value = seconds / 3600
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}" if value >= 0.01 else "< 0.01"


def size(number: float) -> str:
    """Write bytes as GB (10⁹) or MB."""
    if number < 1e9:
        return f"{number / 1e6:.3g} MB"
    return f"{number / 1e9:,.0f} GB" if number >= 100e9 else f"{number / 1e9:.3g} GB"
