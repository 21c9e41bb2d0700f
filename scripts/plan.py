"""Print what an experiment will take, from its description: jobs, hours, memory, disk, downloads."""

import argparse
import sys

from spunge.core import errors


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and print the plan; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plan", required=True, help="the experiment's jobs and settings, a JSON file")
    arguments = parser.parse_args(argv)

    def work() -> None:
        from spunge.core import files
        from spunge.planning import estimate, known

        described = files.read_json(arguments.plan)
        print(estimate.page(described, known.gather(described)))

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
