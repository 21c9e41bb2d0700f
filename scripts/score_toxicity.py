"""Score one candidate's continuations by every classifier, on toxic and on neutral prompts."""

import argparse
import json
import sys
from pathlib import Path

from spunge.core import errors


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and score; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--continuations", required=True, help="what the model made of the prompts, Parquet")
    parser.add_argument("--prompts", required=True, help="the prompts, Parquet")
    parser.add_argument("--classifiers", required=True, type=json.loads, help="options by classifier's name, JSON")
    parser.add_argument("--file", action="append", default=[], metavar="NAME=PATH", help="its wheel or model folder")
    parser.add_argument("--candidate", required=True, type=json.loads, help="its columns of evaluations.csv, JSON")
    parser.add_argument("--attributes", required=True, type=Path, help="the attributes to forget, JSON")
    for kind in ("toxic", "neutral"):
        parser.add_argument(f"--{kind}-scores", required=True, help=f"scores of the {kind} prompts, Parquet")
        parser.add_argument(f"--{kind}-rows", required=True, help="estimates as rows of evaluations.csv")
    arguments = parser.parse_args(argv)

    def work() -> None:
        import pandas as pd

        from spunge.core.files import whole_file
        from spunge.datasets import tables
        from spunge.evaluation import classifiers, cli, statistics, toxicity
        from spunge.models import base_model

        made, thresholds = classifiers.load_all(arguments.classifiers, arguments.file, base_model.device())
        prompts = tables.read("prompts", arguments.prompts)
        continuations = pd.read_parquet(arguments.continuations)
        scores = cli.stacked(
            [
                toxicity.score(of_budget, prompts, made, thresholds).assign(budget=label)
                for label, of_budget in continuations.groupby("budget", sort=False)
            ],
            "kind",
        )
        scores = cli.described(scores, arguments.candidate)
        forget = json.loads(arguments.attributes.read_text())
        for kind, evaluation in (("toxic", "toxicity"), ("neutral", "toxicity_neutral")):
            of_kind = scores[scores["kind"] == kind].drop(columns="kind")
            with whole_file(getattr(arguments, f"{kind}_scores")) as temporary:
                of_kind.to_parquet(temporary, index=False)
            with whole_file(getattr(arguments, f"{kind}_rows")) as temporary:
                rows = statistics.estimates(of_kind, evaluation, statistics.attributes(of_kind, forget))
                rows.to_csv(temporary, index=False)

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
