"""Put one candidate through its evaluations: scores, rows of evaluations.csv, and continuations of prompts."""

import argparse
import json
import sys
from pathlib import Path

from spunge.core import errors
from spunge.evaluation import cli


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and evaluate; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evaluations", required=True, type=json.loads, help="options by evaluation's name, JSON")
    cli.add_model(parser)
    parser.add_argument("--candidate", required=True, type=json.loads, help="its columns of evaluations.csv, JSON")
    parser.add_argument("--data", default=[], nargs="*", help="what each evaluation reads, in order, Parquet")
    parser.add_argument("--attributes", required=True, type=Path, help="the attributes to forget, JSON")
    parser.add_argument("--scores", default=[], nargs="*", help="scores of each, in order, Parquet")
    parser.add_argument("--rows", default=[], nargs="*", help="estimates of each as rows of evaluations.csv")
    parser.add_argument("--generation", type=json.loads, default={}, help="how prompts are continued, JSON")
    parser.add_argument("--prompts", nargs="?", help="prompts to continue, Parquet, if any")
    parser.add_argument("--continuations", nargs="?", help="what the model makes of them, Parquet")
    parser.add_argument("--unfinished", help="folder that keeps what was done so far, if anything shall")
    parser.add_argument("--save-every", type=float, default=10, help="minutes between saves; 0 for every step")
    arguments = parser.parse_args(argv)

    def work() -> None:
        import dataclasses
        import importlib
        from functools import partial

        from spunge.core.files import whole_file
        from spunge.datasets import tables
        from spunge.evaluation import descriptive_rows
        from spunge.experiment.options import make
        from spunge.training import resume

        names = list(arguments.evaluations)
        evaluations = [importlib.import_module(f"spunge.evaluation.{name}") for name in names]
        data = [
            tables.read(evaluation.TABLE, path) for evaluation, path in zip(evaluations, arguments.data, strict=True)
        ]
        if arguments.prompts:
            from spunge.evaluation import generation
        model, tokenizer, realised = cli.load_candidate(arguments)
        described = [] if realised is None else [descriptive_rows.edit(arguments.candidate, realised)]
        identity = cli.identity(
            arguments,
            {"evaluations": arguments.evaluations, "generation": arguments.generation},
            [__file__, *arguments.data, *filter(None, [arguments.prompts])],
        )
        with resume.Checkpoint(arguments.unfinished, identity, arguments.save_every) as checkpoint:
            for name, table, evaluation, *paths in zip(
                names, data, evaluations, arguments.scores, arguments.rows, strict=True
            ):
                options = make(f"evaluations.{name}", evaluation.Options, arguments.evaluations[name])
                score = partial(evaluation.score, model, tokenizer, table, **dataclasses.asdict(options))
                scores = cli.scores_once(checkpoint.nested(name), name, score)
                metrics = getattr(evaluation, "METRICS", None)
                cli.write_scores(arguments, name, scores, *paths, described, metrics)
                described = []  # stands once, beside the first evaluation
            if arguments.prompts:
                prompts = tables.read("prompts", arguments.prompts)["prompt"].tolist()
                options = make("evaluations.toxicity", generation.Options, arguments.generation)
                continuations = generation.continue_prompts(
                    model, tokenizer, prompts, options, checkpoint.nested("continuations")
                )
                with whole_file(arguments.continuations) as temporary:
                    continuations.to_parquet(temporary, index=False)

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
