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
        from spunge.core import parquet
        from spunge.datasets import tables
        from spunge.evaluation import classifiers, cli, toxicity
        from spunge.models import base_model

        made, thresholds = classifiers.load_all(arguments.classifiers, arguments.file, base_model.device())
        prompts = tables.read("prompts", arguments.prompts)
        continuations = parquet.read(arguments.continuations)
        scores = cli.stacked(
            [
                toxicity.score(of_budget, prompts, made, thresholds).assign(budget=label)
                for label, of_budget in continuations.groupby("budget", sort=False)
            ],
            "kind",
        )
        for kind, evaluation in (("toxic", "toxicity"), ("neutral", "toxicity_neutral")):
            paths = (getattr(arguments, f"{kind}_{what}") for what in ("scores", "rows"))
            cli.write_scores(arguments, evaluation, scores[scores["kind"] == kind].drop(columns="kind"), *paths)

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
