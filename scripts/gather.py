"""Put the tidy tables of all evaluations one below the other."""

import argparse
import sys

from spunge import errors


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and gather; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--rows", required=True, nargs="+", help="tables with the columns of evaluations.csv")
    parser.add_argument("--output", required=True, help="evaluations.csv")
    arguments = parser.parse_args(argv)

    def work() -> None:
        import pandas as pd

        from spunge.files import whole_file

        # As text, so that no number changes its digits on the way.
        tables = [pd.read_csv(path, dtype=str, keep_default_na=False) for path in arguments.rows]
        with whole_file(arguments.output) as temporary:
            pd.concat(tables, ignore_index=True).to_csv(temporary, index=False)

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
