"""Put the tidy tables of all evaluations one below the other."""

import argparse
import sys
from pathlib import Path

from spunge.core import errors


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and gather; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument(
        "--rows", required=True, nargs="+", type=Path, help="tables with the columns of evaluations.csv"
    )
    parser.add_argument("--output", required=True, help="evaluations.csv")
    arguments = parser.parse_args(argv)

    def work() -> None:
        from contextlib import suppress

        import pandas as pd

        from spunge.core.errors import InputError
        from spunge.core.files import whole_file

        def whole_table(path: Path) -> pd.DataFrame:
            with suppress(pd.errors.EmptyDataError, pd.errors.ParserError):
                table = pd.read_csv(path, dtype=str, keep_default_na=False)
                if path.read_bytes().endswith(b"\n") and not table.isna().any(axis=None):  # short rows are filled up
                    return table
            raise InputError(f"{path} was cut off; remove it and run again")

        columns = None
        with whole_file(arguments.output) as temporary, open(temporary, "w", newline="") as gathered:
            # One at a time: hundreds of shards make millions of rows. As text, so that no number changes its digits.
            for path in arguments.rows:
                table = whole_table(path)
                if columns is not None and list(table.columns) != columns:
                    raise InputError(f"{path} has other columns than {arguments.rows[0]}; remove it and run again")
                table.to_csv(gathered, index=False, header=columns is None)
                columns = list(table.columns)

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
