"""Print what an experiment will take, from its configuration: jobs, hours, memory, disk, downloads."""

import argparse
import sys
from pathlib import Path

from spunge.core import errors


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and print the plan; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="the checked configuration, a JSON file")
    parser.add_argument("--template", required=True, type=Path, help="report/plan.txt")
    arguments = parser.parse_args(argv)

    def work() -> None:
        from spunge.core import files
        from spunge.planning import jobs, page

        configured = files.read_json(arguments.config)
        plan, template = jobs.Plan(configured), arguments.template.read_text(encoding="utf-8")
        print(page.page(configured, plan.facts, plan.kinds(), template))

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
