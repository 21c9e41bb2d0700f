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
    parser.add_argument("--budgets", type=json.loads, default={}, help="damage at which to evaluate, JSON, if any")
    parser.add_argument("--damaged", default=[], nargs="*", help="texts that set λ, and that measure damage, Parquet")
    parser.add_argument("--damage", default=[], nargs="*", help="scores of the damage, and its rows")
    parser.add_argument("--strengths", nargs="?", help="λ by budget, JSON, null where none reaches it")
    parser.add_argument("--unfinished", help="folder that keeps what was done so far, if anything shall")
    parser.add_argument("--save-every", type=float, default=10, help="minutes between saves; 0 for every step")
    arguments = parser.parse_args(argv)

    def work() -> None:
        import dataclasses
        import importlib
        from functools import partial

        from spunge.core.files import whole_file
        from spunge.datasets import tables
        from spunge.evaluation import budget, descriptive_rows, fluency, generation
        from spunge.experiment.options import make
        from spunge.training import resume

        scored, metrics = {}, {}  # by name: what gives the scores of the model as it is, and what is made of them
        model, tokenizer, edited = cli.load_candidate(arguments)
        for (name, options), path in zip(arguments.evaluations.items(), arguments.data, strict=True):
            evaluation = importlib.import_module(f"spunge.evaluation.{name}")
            table, metrics[name] = tables.read(evaluation.TABLE, path), getattr(evaluation, "METRICS", None)
            made = dataclasses.asdict(make(f"evaluations.{name}", evaluation.Options, options))
            scored[name] = partial(evaluation.score, model, tokenizer, table, **made)
        files = [__file__, *arguments.data, *arguments.damaged, *filter(None, [arguments.prompts])]
        facts = {name: getattr(arguments, name) for name in ("evaluations", "generation", "budgets")}
        with resume.Checkpoint(
            arguments.unfinished, cli.identity(arguments, facts, files), arguments.save_every
        ) as kept:
            strengths = {"": budget.Strength(arguments.scale, 0.0, 0)}
            if arguments.budgets:
                reading = make("evaluations.fluency", fluency.Options, arguments.evaluations.get("fluency", {}))
                damaged = zip(("calibration", "fluency"), arguments.damaged, strict=True)
                scored["budget"], strengths = budget.measure(
                    model,
                    edited,
                    tokenizer,
                    {table: tables.read(table, path)["text"] for table, path in damaged},
                    dataclasses.asdict(reading),
                    arguments.budgets,
                    arguments.scale,
                    kept.nested("strengths"),
                )
            scores, continuations, shares = {name: [] for name in scored}, [], []
            for label, strength in strengths.items():
                if strength.scale is None:
                    continue
                if edited:
                    shares.append(edited.set_scale(strength.scale))
                so_far = kept.nested(label) if label else kept
                for name, score in scored.items():
                    of_model = cli.scores_once(so_far.nested(name), name, score)
                    scores[name].append(of_model.assign(budget=label))
                if arguments.prompts:
                    prompts = tables.read("prompts", arguments.prompts)["prompt"].tolist()
                    options = make("evaluations.toxicity", generation.Options, arguments.generation)
                    continued = generation.continue_prompts(
                        model, tokenizer, prompts, options, so_far.nested("continuations")
                    )
                    continuations.append(continued.assign(budget=label))
            described = [descriptive_rows.edit(arguments.candidate, share) for share in shares[:1]]
            for name, *paths in zip(arguments.evaluations, arguments.scores, arguments.rows, strict=True):
                cli.write_scores(arguments, name, cli.stacked(scores[name]), *paths, described, metrics[name])
                described = []  # stands once, beside the first evaluation
            if arguments.budgets:
                described = [descriptive_rows.budgets(arguments.candidate, strengths)] if edited else []
                cli.write_scores(arguments, "budget", cli.stacked(scores["budget"]), *arguments.damage, described)
                with whole_file(arguments.strengths) as temporary:
                    scales = {label: strength.scale for label, strength in strengths.items()}
                    temporary.write_text(json.dumps(scales, indent=1) + "\n")
            if arguments.prompts:
                with whole_file(arguments.continuations) as temporary:
                    cli.stacked(continuations).to_parquet(temporary, index=False)

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
