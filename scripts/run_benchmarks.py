"""Ask one candidate the tasks of lm-evaluation-harness: scores, rows of evaluations.csv, and lm-eval's own results."""

import argparse
import json
import sys
from pathlib import Path

from spunge.core import errors
from spunge.evaluation import cli


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and ask; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--options", required=True, help="tasks and how they are asked, a JSON file")
    parser.add_argument("--mirror", nargs="?", help="folder of a mirror that was made of a wheel, if one was")
    cli.add_model(parser)
    cli.add_budget(parser)
    parser.add_argument("--candidate", required=True, type=json.loads, help="its columns of evaluations.csv, JSON")
    parser.add_argument("--of-base", default=[], nargs="*", help="its scores and results, unless it is asked now")
    parser.add_argument("--attributes", required=True, type=Path, help="the attributes to forget, JSON")
    parser.add_argument("--scores", required=True, help="scores of all questions, Parquet")
    parser.add_argument("--rows", required=True, help="estimates as rows of evaluations.csv")
    parser.add_argument("--results", required=True, help="lm-eval's results, versions and hashes, JSON")
    arguments = parser.parse_args(argv)

    def work() -> None:
        from spunge.core import parquet
        from spunge.core.files import read_json, whole_file
        from spunge.evaluation import benchmarks, descriptive_rows
        from spunge.experiment.options import make

        given = read_json(arguments.options)
        given |= {"mirror": arguments.mirror} if arguments.mirror else {}
        options = make("evaluations.benchmarks", benchmarks.Options, given)
        forget = json.loads(arguments.attributes.read_text())
        benchmarks.check_forgotten(options, [entry["attribute"] for entry in forget])
        scores, results = cli.stacked([]), {}
        base_scores, base_results = arguments.of_base or (None, None)
        if cli.scale(arguments) is not None:
            folders = benchmarks.folders_known(read_json(base_results)) if base_results else None
            scores, results = benchmarks.score(*cli.load_model(arguments), options, folders)
        base = parquet.read(base_scores) if base_scores else scores
        chance = benchmarks.at_chance(base, [entry["attribute"] for entry in forget])
        scores = scores.assign(budget=arguments.budget, at_chance=scores["attribute"].isin(chance))
        tasks = []
        if not arguments.candidate["method"]:  # all candidates are asked the same
            tasks.append(descriptive_rows.tasks(arguments.candidate["experiment"], scores, options.forget))
        cli.write_scores(arguments, "benchmarks", scores, arguments.scores, arguments.rows, tasks)
        with whole_file(arguments.results) as temporary:
            temporary.write_text(json.dumps(results, indent=1, default=float) + "\n")

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
