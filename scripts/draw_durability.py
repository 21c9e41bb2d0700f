"""Draw the questions that are asked after every attack, and the texts that attacks use, once for all candidates."""

import argparse
import json
import sys

from spunge.core import errors


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and draw; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--forget", required=True, help="the forget texts, Parquet")
    parser.add_argument("--retain", required=True, help="the retain texts, Parquet")
    parser.add_argument("--questions", required=True, help="the questions, Parquet")
    parser.add_argument("--rephrased", nargs="?", help="the rephrased questions, Parquet, if they are asked")
    parser.add_argument("--attributes", required=True, help="the attributes to forget, JSON")
    parser.add_argument("--texts", required=True, type=int, help="texts to relearn at most; 0 for none")
    parser.add_argument("--most", type=json.loads, help="questions asked of each attribute at most; null: all")
    parser.add_argument("--seed", required=True, type=int)
    parser.add_argument("--relearned", required=True, help="the texts to relearn, Parquet")
    parser.add_argument("--sampled", required=True, help="the texts whose activations are compared, Parquet")
    parser.add_argument("--asked", required=True, help="the questions asked, Parquet")
    parser.add_argument("--asked-rephrased", nargs="?", help="the rephrased questions asked, Parquet")
    parser.add_argument("--rows", required=True, help="rows of evaluations.csv that describe all this")
    arguments = parser.parse_args(argv)

    def work() -> None:
        import pandas as pd

        from spunge.core.files import attributes_to_forget, whole_file
        from spunge.datasets import tables
        from spunge.evaluation import durability

        seed, most = arguments.seed, arguments.most
        forget, questions = tables.read("forget", arguments.forget), tables.read("questions", arguments.questions)
        attributes = attributes_to_forget(arguments.attributes)
        durability.check_asked(questions, attributes)
        texts = durability.relearning_texts(forget, attributes, arguments.texts, questions, seed)
        told = durability.told(questions, texts)
        if arguments.texts:
            retain = tables.read("retain", arguments.retain)
            unrelated = durability.unrelated_texts(retain, questions["subject"], arguments.texts, seed)
            texts = pd.concat([texts, unrelated], ignore_index=True)
        asked = durability.questions_to_ask(questions, told, most, seed)
        written = {
            arguments.relearned: texts[["attribute", "text"]],
            arguments.sampled: durability.sample_texts(forget, attributes, seed)[["attribute", "text"]],
            arguments.asked: asked,
        }
        if arguments.rephrased:
            rephrased = tables.read("rephrased", arguments.rephrased)
            written[arguments.asked_rephrased] = durability.rephrased_questions(rephrased, asked, most, seed)
        for path, table in written.items():
            with whole_file(path) as temporary:
                table.to_parquet(temporary, index=False)
        with whole_file(arguments.rows) as temporary:
            durability.describe(arguments.experiment, questions, told, asked).to_csv(temporary, index=False)

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
