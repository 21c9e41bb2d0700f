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
    parser.add_argument("--base-states", nargs="?", help="what the base model makes of these, safetensors, if known")
    parser.add_argument("--kept", nargs="?", help="questions whose loss of accuracy sets λ, Parquet, if any")
    parser.add_argument("--damage", default=[], nargs="*", help="scores of the damage, and its rows")
    parser.add_argument("--strengths", nargs="?", help="λ by budget, JSON, null where none reaches it")
    parser.add_argument("--unfinished", help="folder that keeps what was done so far, if anything shall")
    parser.add_argument("--save-every", type=float, default=10, help="minutes between saves; 0 for every step")
    arguments = parser.parse_args(argv)

    def work() -> None:
        from spunge.core.files import attributes_to_forget, whole_file
        from spunge.evaluation import budget, candidate, descriptive_rows
        from spunge.training import resume

        files = [__file__, *arguments.data, *arguments.damaged, *filter(None, [arguments.prompts, arguments.kept])]
        facts = {name: getattr(arguments, name) for name in ("evaluations", "generation", "budgets")}
        identity = cli.identity(arguments, facts, files)
        with (
            cli.candidate_at_each(arguments) as (model, tokenizer, edited),
            resume.Checkpoint(arguments.unfinished, identity, arguments.save_every) as kept,
        ):
            measures, metrics = candidate.evaluations(model, tokenizer, arguments.evaluations, arguments.data)
            if arguments.prompts:
                options = arguments.generation
                measures["continuations"] = candidate.continuations(model, tokenizer, options, arguments.prompts)
            strengths = {"": budget.Strength(arguments.scale, 0.0)}
            if arguments.budgets:
                of_budgets = [arguments.damaged, arguments.evaluations.get("fluency", {}), arguments.budgets]
                of_budgets += [arguments.scale, kept.nested("strengths"), arguments.base_states]
                if arguments.kept:
                    forget = attributes_to_forget(arguments.attributes)
                    asking = arguments.evaluations["knowledge"]
                    of_budgets.append(candidate.accuracy_kept(model, tokenizer, arguments.kept, forget, asking))
                measures["budget"], strengths = candidate.at_budgets(model, edited, tokenizer, *of_budgets)
            tables, realised = candidate.measured(edited, strengths, measures, kept)
            described = [] if realised is None else [descriptive_rows.edit(arguments.candidate, realised)]
            for name, *paths in zip(arguments.evaluations, arguments.scores, arguments.rows, strict=True):
                cli.write_scores(arguments, name, tables[name], *paths, described, metrics[name])
                described = []  # stands once, beside the first evaluation
            if arguments.budgets:
                fields = {label: strength._asdict() for label, strength in strengths.items()}
                described = [descriptive_rows.budgets(arguments.candidate, fields)] if edited else []
                cli.write_scores(arguments, "budget", tables["budget"], *arguments.damage, described)
                with whole_file(arguments.strengths) as temporary:
                    scales = {label: strength.scale for label, strength in strengths.items()}
                    temporary.write_text(json.dumps(scales, indent=1) + "\n")
            if arguments.prompts:
                with whole_file(arguments.continuations) as temporary:
                    tables["continuations"].to_parquet(temporary, index=False)

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
