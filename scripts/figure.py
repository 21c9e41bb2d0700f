"""Draw one figure of an experiment from its evaluations.csv, as PDF and PNG."""

import argparse
import sys

from spunge.core.errors import run
from spunge.report import figures


def main(argv: list[str] | None = None) -> int:
    """Read the command line, draw, write; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figure", required=True, choices=figures.known())
    parser.add_argument("--evaluations", required=True, help="evaluations.csv of one experiment")
    parser.add_argument("--pdf", required=True, help="file to write")
    parser.add_argument("--png", required=True, help="file to write")
    arguments = parser.parse_args(argv)

    def work() -> None:
        from spunge.report import results_table
        from spunge.report.figures import style

        table = results_table.read(arguments.evaluations)
        with style.writing(results_table.texts(table)) as sentence:
            if sentence:
                print(sentence, file=sys.stderr)
            figure = figures.load(arguments.figure)
            whole = getattr(figure, "EVERY_BUDGET", False)
            shown = table if whole else results_table.as_made(table, getattr(figure, "EVALUATION", ""))
            style.save(figure.draw(shown), arguments.pdf, arguments.png)

    return run(work)


if __name__ == "__main__":
    sys.exit(main())
