"""Files of hub data sets, fetched at a fixed commit or taken from a local copy of the repository (a mirror)."""

import os
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from spunge.core.errors import InputError
from spunge.experiment.options import Text

WIKITEXT = "Salesforce/wikitext"
WIKITEXT_CONFIG = "wikitext-2-raw-v1"
WIKITEXT_REVISION = "b08601e04326c79dfdd32d625aee71d232d685c3"
# An option of the data sets that are on the hub.
Mirror = Annotated[
    Text | None, Field(description="A local folder with the hub data set's files; null takes them from the hub.")
]


def locate(name: str, repository: str, revision: str, folder: str | os.PathLike | None, page: str) -> Path:
    """Return the path of a hub data set's file `name`: in `folder`, a copy of the repository, or fetched from the hub.

    Raises InputError where it can't be had; `page` of the documentation then says what the folder needs.
    """
    if folder is not None:
        path = Path(folder).expanduser() / name
        if not path.is_file():
            raise InputError(f"{path} is not there; {page} says which files {folder} (mirror) needs")
        return path
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    try:
        return Path(hf_hub_download(repository, name, repo_type="dataset", revision=revision))
    except RepositoryNotFoundError as error:  # the hub says so of what one may not see, too
        raise InputError(
            f"{repository} needs access: ask for it at https://huggingface.co/datasets/{repository}, then set HF_TOKEN "
            "to a token that may read it, or name a local copy (mirror)"
        ) from error
    except (HfHubHTTPError, HFValidationError, EntryNotFoundError, OSError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"{name} of {repository} (revision {revision}) can't be fetched from the hub: {reason}; name a local copy "
            "(mirror) where there is no internet"
        ) from error


def columns_of(path: Path) -> list[str]:
    """Return the names of a Parquet file's columns."""
    try:
        return pq.read_schema(path).names
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is truncated or not a Parquet file; fetch it again") from error
