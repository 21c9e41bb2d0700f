"""Try the toxicity classifiers on rated texts: what they see, and what they miss."""

import argparse
import json
import sys
from pathlib import Path

from spunge.core import errors


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and write the rows; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rated", required=True, type=Path, help="the wheel with the rated texts")
    parser.add_argument("--classifiers", required=True, type=json.loads, help="options by classifier's name, JSON")
    parser.add_argument("--file", action="append", default=[], metavar="NAME=PATH", help="its wheel or model folder")
    parser.add_argument("--experiment", required=True, help="name of the experiment")
    parser.add_argument("--output", required=True, help="rows of evaluations.csv")
    arguments = parser.parse_args(argv)

    def work() -> None:
        from spunge.core.files import whole_file
        from spunge.evaluation import classifiers, descriptive_rows, rated_texts
        from spunge.models import base_model

        made, thresholds = classifiers.load_all(arguments.classifiers, arguments.file, base_model.device())
        rows = rated_texts.validate(rated_texts.read(arguments.rated), made, thresholds)
        with whole_file(arguments.output) as temporary:
            descriptive_rows.classifiers(arguments.experiment, rows).to_csv(temporary, index=False)

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
