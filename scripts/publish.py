"""Upload one candidate's export to the Hugging Face hub, with what was measured of it on its card."""

import argparse
import json
import os
import sys
from pathlib import Path

from spunge.core import errors


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and publish; return the exit code."""
    parser = argparse.ArgumentParser(description=f"{__doc__} The token is taken from HF_TOKEN.")
    parser.add_argument("--candidate", required=True, help="its name, as in evaluations.csv")
    parser.add_argument("--budget", default="", help="whose λ the export has, as in evaluations.csv")
    parser.add_argument("--export", required=True, type=Path, help="the candidate's folder")
    parser.add_argument("--evaluations", required=True, help="evaluations.csv")
    parser.add_argument("--repository", required=True, help="owner/name")
    parser.add_argument("--public", action="store_true", help="make it a public repository, or take one that is public")
    parser.add_argument("--output", required=True, help="the repository, its commit and its files, JSON")
    arguments = parser.parse_args(argv)

    def work() -> None:
        os.environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"  # before the import: no token that a login left is looked for
        from spunge.core.files import whole_file
        from spunge.export import publish
        from spunge.report import results_table

        token, evaluations = publish.token(), results_table.read(arguments.evaluations)
        where = arguments.repository, not arguments.public, token
        published = publish.publish(arguments.export, evaluations, arguments.candidate, arguments.budget, *where)
        with whole_file(arguments.output) as temporary:
            temporary.write_text(json.dumps(published, indent=1) + "\n")
        print(published["url"])

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
