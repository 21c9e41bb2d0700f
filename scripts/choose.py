"""Choose for each arm of a method the options of the trial that leaves least on the validation part."""

import argparse
import sys

from spunge.core import errors


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and choose; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--trials", required=True, help="what was tried, a JSON file")
    parser.add_argument("--metric", required=True, help="what is left, of which less is better")
    parser.add_argument("--outcomes", required=True, nargs="+", help="estimates of each trial and seed, in order")
    parser.add_argument("--budgets", required=True, nargs="+", help="the damage of each trial and seed, in order")
    parser.add_argument("--output", required=True, help="tuning.csv")
    arguments = parser.parse_args(argv)

    def work() -> None:
        from spunge.core.files import read_json, whole_file
        from spunge.experiment import tuning

        table = tuning.choose(read_json(arguments.trials), arguments.metric, arguments.outcomes, arguments.budgets)
        with whole_file(arguments.output) as temporary:
            table.to_csv(temporary, index=False)

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
