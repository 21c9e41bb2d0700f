"""Tables that jobs write for one another."""

import os

import pandas

from spunge.core.errors import InputError


def read(path: str | os.PathLike) -> pandas.DataFrame:
    """Read a table; raises InputError where it was cut off since it was written."""
    try:
        return pandas.read_parquet(path)
    except ValueError as error:  # of which Arrow's error is one
        raise InputError(f"{path} is truncated: delete it and run again") from error
