"""Count the forget texts, questions, subjects and prompts of each attribute; tell the methods' factors and tuning."""

import argparse
import json
import sys

from spunge.core import errors


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and count; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--attributes", required=True, help="the attributes to forget, JSON")
    parser.add_argument("--forget", required=True, help="the forget texts, Parquet")
    parser.add_argument("--questions", nargs="?", help="the questions, Parquet, if there are any")
    parser.add_argument("--answers", nargs="?", help="open questions with their answers, Parquet, if there are any")
    parser.add_argument("--prompts", nargs="?", help="the prompts, Parquet, if there are any")
    parser.add_argument("--rephrased", nargs="?", help="the rephrased questions, Parquet, if there are any")
    parser.add_argument("--families", required=True, type=json.loads, help="family and λ of each method, JSON")
    parser.add_argument("--held-out", help="attributes of which nothing is retained, a JSON file, if any")
    parser.add_argument("--tuning", nargs="?", help="what tuning tried and chose, CSV, if it was done")
    parser.add_argument(
        "--arms", type=json.loads, default=[], help="method/split of all runs, JSON: a table may have more"
    )
    parser.add_argument("--output", required=True, help="rows of evaluations.csv")
    arguments = parser.parse_args(argv)

    def work() -> None:
        import pandas as pd

        from spunge.core.files import attributes_to_forget, read_json, whole_file
        from spunge.datasets import tables
        from spunge.evaluation import descriptive_rows
        from spunge.experiment import tuning

        forget = tables.read("forget", arguments.forget)
        questions = tables.read("questions", arguments.questions) if arguments.questions else None
        rephrased = tables.read("rephrased", arguments.rephrased) if arguments.rephrased else None
        prompts = tables.read("prompts", arguments.prompts) if arguments.prompts else None
        places = {
            table: (commonest[1], len(frame))
            for table, frame in (("questions", questions), ("rephrased", rephrased))
            if frame is not None and (commonest := tables.commonest_answer_place(frame))
        }
        if questions is None and arguments.answers:
            questions = tables.read("answers", arguments.answers)
        attributes = attributes_to_forget(arguments.attributes)
        tables_read = (forget, questions, prompts)
        held_out = read_json(arguments.held_out) if arguments.held_out else []
        data = descriptive_rows.data(arguments.experiment, attributes, *tables_read, places, held_out)
        methods = descriptive_rows.methods(arguments.experiment, arguments.families)
        tables_of_tuning = [tuning.read(arguments.tuning)] if arguments.tuning else []
        tuned = [descriptive_rows.tuning(arguments.experiment, table, arguments.arms) for table in tables_of_tuning]
        with whole_file(arguments.output) as temporary:
            pd.concat([data, methods, *tuned], ignore_index=True).to_csv(temporary, index=False)

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
