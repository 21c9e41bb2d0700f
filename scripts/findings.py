"""Write the findings page: does splitting by the attribute beat the joint run and the random split?"""

import argparse
import sys
from pathlib import Path

from spunge.core.errors import run


def main(argv: list[str] | None = None) -> int:
    """Read the command line, judge, write; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evaluations", required=True, help="evaluations.csv of one experiment")
    parser.add_argument("--figure", required=True, type=Path, help="the leading figure, a PNG to show in the page")
    parser.add_argument("--template", required=True, type=Path, help="report/findings.html")
    parser.add_argument("--html", required=True, help="file to write")
    arguments = parser.parse_args(argv)

    def work() -> None:
        from spunge.core.files import whole_file
        from spunge.report import findings, results_table

        measurements = results_table.read(arguments.evaluations)
        template = arguments.template.read_text(encoding="utf-8")
        page = findings.page(measurements, template, arguments.figure.read_bytes())
        with whole_file(arguments.html) as file:
            file.write_text(page, encoding="utf-8")

    return run(work)


if __name__ == "__main__":
    sys.exit(main())
