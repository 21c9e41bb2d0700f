"""Write the page to walk through the results: charts to point at, tables to filter and sort."""

import argparse
import sys
from pathlib import Path

from spunge.core.errors import run


def main(argv: list[str] | None = None) -> int:
    """Read the command line, write the page; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evaluations", required=True, help="evaluations.csv of one experiment")
    parser.add_argument("--template", required=True, type=Path, help="report/explore.html")
    parser.add_argument("--script", required=True, type=Path, help="report/explore.js")
    parser.add_argument("--html", required=True, help="file to write")
    arguments = parser.parse_args(argv)

    def work() -> None:
        from spunge.core.files import whole_file
        from spunge.report import explore, results_table

        template, script = (path.read_text(encoding="utf-8") for path in (arguments.template, arguments.script))
        page = explore.page(results_table.read(arguments.evaluations), template, script)
        with whole_file(arguments.html) as file:
            file.write_text(page, encoding="utf-8")

    return run(work)


if __name__ == "__main__":
    sys.exit(main())
