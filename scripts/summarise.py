"""Write the summary table of an experiment as CSV, Markdown, LaTeX and HTML from its evaluations.csv."""

import argparse
import sys

from spunge.core.errors import run

# Alone in a browser, the fragment needs to say how its bytes are meant and to look like a table.
HTML_HEAD = """<meta charset="utf-8">
<style>
  table.summary { border-collapse: collapse; font: 14px/1.35 "Helvetica Neue", Arial, sans-serif; margin: 1em;
                  border-top: 2px solid; border-bottom: 2px solid; font-variant-numeric: tabular-nums; }
  table.summary th { text-align: right; vertical-align: bottom; border-bottom: 1px solid; max-width: 7em; }
  table.summary td { text-align: right; vertical-align: top; border-bottom: 1px solid #dcdce0; }
  table.summary th, table.summary td { padding: .35em .6em; }
  table.summary tr > :first-child { text-align: left; }
</style>
"""


def main(argv: list[str] | None = None) -> int:
    """Read the command line, summarise, write; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evaluations", required=True, help="evaluations.csv of one experiment")
    for form in ("csv", "markdown", "latex", "html"):
        parser.add_argument(f"--{form}", required=True, help="file to write")
    arguments = parser.parse_args(argv)

    def work() -> None:
        from spunge.core.files import whole_file
        from spunge.report import results_table, summary

        measurements = results_table.read(arguments.evaluations)
        texts = {
            arguments.csv: summary.table(measurements).to_csv(index=False),
            arguments.markdown: summary.markdown(measurements),
            arguments.latex: summary.latex(measurements),
            arguments.html: HTML_HEAD + summary.html(measurements),
        }
        for path, text in texts.items():
            with whole_file(path) as file:
                file.write_text(text, encoding="utf-8")

    return run(work)


if __name__ == "__main__":
    sys.exit(main())
