"""Print what an experiment will take, from its description: jobs, hours, memory, disk, downloads."""

import argparse
import json
import sys

from spunge import errors


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and print the plan; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plan", required=True, type=json.loads, help="the experiment's jobs and settings, JSON")
    arguments = parser.parse_args(argv)

    def work() -> None:
        from spunge import plan, plan_facts

        print(plan.page(arguments.plan, plan_facts.gather(arguments.plan)))

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
