"""Write docs/gallery.md from rules/figures.json; draw its pictures anew from results.

python docs/gallery.py [--draw] [--results FOLDER]
"""

import argparse
import json
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
PICTURES = Path("gallery")
DPI = 120

DEFAULT = "country-capitals"  # of config.yaml

# The experiment that each figure's picture is of, and where it lies if a page of docs/ has it anyway.
SHOWN = {
    "attributes": ("country-capitals-gemma3", None),
    "benchmarks": ("geography-smollm2", None),
    "durability": ("geography-smollm2", "geography-durability.png"),
    "frontier": ("geography-smollm2", "geography-frontier.png"),
    "merging": ("country-capitals-gemma3", None),
    "overview": ("geography-smollm2", None),
    "radar": ("country-capitals-gemma3", None),
    "shards": ("geography-smollm2", "geography-shards.png"),
    "toxicity_overview": ("toxicity-smollm2", None),
    "toxicity_radar": ("hate-groups-smollm2", "hate-groups-radar.png"),
    "tradeoff": ("country-capitals-gemma3", None),
    "training": (DEFAULT, None),
}

# An experiment with what is in a figure's WHEN, and one without.
CONDITIONS = {
    "benchmarks": ("benchmarks are asked", "no benchmarks are asked"),
    "budgets": ("damage budgets are set", "no damage budgets are set"),
    "durability": ("attacks are made", "no attacks are made"),
    "knowledge": ("questions are asked", "no questions are asked"),
    "shards": ("a method has several numbers of shards", "every method has one number of shards"),
    "toxicity": ("toxicity is measured", "no toxicity is measured"),
}

HEAD = """\
<!-- Written by `python docs/gallery.py` from rules/figures.json, which is written from the figures' files. -->
# Gallery of figures

Every figure that an experiment can have, with the caption that its report gives it, as PDF and PNG. The first command
draws it as the workflow does, and runs what the figure needs where that isn't there yet; the second needs
`evaluations.csv` and nothing else.
"""

FIGURE = """
## {figure}

{when}

{caption}
{picture}
```
snakemake --cores all{configfile} -- results/{experiment}/figures/{figure}.png
python -m scripts.figure --figure {figure} --evaluations results/{experiment}/evaluations.csv \\
  --pdf {figure}.pdf --png {figure}.png
```
"""


def page() -> str:
    """Return the text of docs/gallery.md."""
    figures = json.loads((PROJECT / "rules" / "figures.json").read_text())
    return HEAD + "".join(section(figure, **said) for figure, said in figures.items())


def section(figure: str, when: dict[str, bool], caption: str) -> str:
    """Return what the page says of a figure."""
    conditions = [CONDITIONS[what][not has] for what, has in when.items()]
    drawn = f"Drawn where {' and '.join(conditions)}." if conditions else "Always drawn."
    if figure in SHOWN:
        experiment, path = SHOWN[figure]
        picture = f"\n![{figure} of {experiment}]({path or PICTURES / f'{figure}.png'})\n"
    else:
        experiment, picture = "EXPERIMENT", "\nNo experiment that was run here has it.\n"
    said = {"figure": figure, "when": drawn, "caption": caption.rstrip(), "picture": picture, "experiment": experiment}
    return FIGURE.format(
        **said, configfile="" if experiment == DEFAULT else f" --configfile experiments/{experiment}.yaml"
    )


def draw(results: Path) -> None:
    """Draw the pictures that no other page has, small enough for a page."""
    sys.path.insert(0, str(PROJECT))
    from spunge.report import figures, results_table
    from spunge.report.figures import style

    for name, (experiment, path) in SHOWN.items():
        if path is None:
            table = results_table.read(results / experiment / "evaluations.csv")
            figure = figures.load(name)
            shown = table if getattr(figure, "EVERY_BUDGET", False) else results_table.headline(table)
            with style.writing(results_table.texts(table)), style.style():
                drawn = figure.draw(shown)
                drawn.savefig(PROJECT / "docs" / PICTURES / f"{name}.png", dpi=DPI, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draw", action="store_true", help="draw the pictures anew, too")
    parser.add_argument("--results", type=Path, default=PROJECT / "results", help="where the experiments' results lie")
    arguments = parser.parse_args()
    (PROJECT / "docs" / "gallery.md").write_text(page())
    if arguments.draw:
        draw(arguments.results)
