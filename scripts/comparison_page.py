"""Write the comparison page: our numbers beside published ones."""

import argparse
import sys
from pathlib import Path

from spunge.core.errors import run


def main(argv: list[str] | None = None) -> int:
    """Read the command line, compare, write; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evaluations", required=True, help="evaluations.csv of one experiment")
    parser.add_argument("--anchors", required=True, help="published numbers: report/anchors.csv")
    parser.add_argument("--model", required=True, help="name of the experiment's model")
    parser.add_argument("--template", required=True, type=Path, help="report/comparison.html")
    parser.add_argument("--html", required=True, help="file to write")
    arguments = parser.parse_args(argv)

    def work() -> None:
        from spunge.core.files import whole_file
        from spunge.report import published, results_table

        measurements = results_table.read(arguments.evaluations)
        anchors = published.read_anchors(arguments.anchors)
        template = arguments.template.read_text(encoding="utf-8")
        page = published.page(measurements, anchors, arguments.model, template)
        with whole_file(arguments.html) as file:
            file.write_text(page, encoding="utf-8")

    return run(work)


if __name__ == "__main__":
    sys.exit(main())
