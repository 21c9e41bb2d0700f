"""Try the toxicity classifiers on texts of which it is known whether they are toxic: what they see, and miss."""

import argparse
import json
import sys
from pathlib import Path

from spunge.core import errors


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and write the rows; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rated", nargs="?", type=Path, help="the wheel with the rated texts, if any")
    parser.add_argument("--forget", nargs="?", help="texts to forget, Parquet, if any")
    parser.add_argument("--benign", nargs="?", help="harmless texts about the same attributes, Parquet, if any")
    parser.add_argument("--classifiers", required=True, type=json.loads, help="options by classifier's name, JSON")
    parser.add_argument("--file", action="append", default=[], metavar="NAME=PATH", help="its wheel or model folder")
    parser.add_argument("--experiment", required=True, help="name of the experiment")
    parser.add_argument("--output", required=True, help="rows of evaluations.csv")
    arguments = parser.parse_args(argv)

    def work() -> None:
        import pandas as pd

        from spunge.core import parquet
        from spunge.core.files import whole_file
        from spunge.evaluation import classifiers, descriptive_rows, rated_texts
        from spunge.models import base_model

        made, thresholds = classifiers.load_all(arguments.classifiers, arguments.file, base_model.device())
        tables = []
        if arguments.rated:
            rows = rated_texts.validate(rated_texts.read(arguments.rated), made, thresholds)
            tables.append(descriptive_rows.classifiers(arguments.experiment, "classifier", rows))
        if arguments.benign:
            forget, benign = parquet.read(arguments.forget), parquet.read(arguments.benign)
            rows = rated_texts.tell_apart(forget, benign, made, thresholds)
            tables.append(descriptive_rows.classifiers(arguments.experiment, "classifier_benign", rows))
        with whole_file(arguments.output) as temporary:
            pd.concat(tables).to_csv(temporary, index=False)

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
