"""Turn a data source into the tables of an experiment, and list the attributes to forget."""

import argparse
import dataclasses
import json
import sys

from spunge.core import errors

TABLES = ("forget", "retain", "fluency")
OPTIONAL = ("questions", "prompts", "benign", "rephrased", "answers")  # not every source has them
DIVIDED = ("questions", "prompts", "answers")


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and build; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True, help="name of a module in spunge/datasets")
    parser.add_argument("--options", required=True, help="its options, a JSON file")
    parser.add_argument("--forget", required=True, help='attributes to forget, a JSON file: a list or "all"')
    parser.add_argument("--held-out", help="attributes of which nothing is retained, a JSON file, if any")
    parser.add_argument("--validation", type=float, default=0, help="share of each attribute's clusters")
    parser.add_argument("--tuned-by", nargs="?", help="table whose validation part judges trials, if any")
    parser.add_argument("--limits-kept", action="store_true", help="validation asks about what is kept, for a budget")
    parser.add_argument("--minimum-texts", type=int, default=1, help="fewest forget texts of an attribute")
    parser.add_argument("--wheel", action="append", default=[], metavar="NAME=PATH", help="a downloaded wheel")
    for table in TABLES:
        parser.add_argument(f"--{table}-output", required=True, help=f"table {table}, Parquet")
    for table in ("calibration", *OPTIONAL):
        parser.add_argument(f"--{table}-output", nargs="?", help=f"table {table}, Parquet, where it is wanted")
    for table in DIVIDED:
        parser.add_argument(f"--validation-{table}-output", nargs="?", help=f"those of {table} to choose options by")
    parser.add_argument("--needed-by", type=json.loads, default={}, help="table → the evaluation that reads it, JSON")
    parser.add_argument("--tasks", required=True, help="attributes that benchmarks alone ask about, a JSON file")
    parser.add_argument("--attributes-output", required=True, help="attributes to forget and their texts, JSON")
    arguments = parser.parse_args(argv)

    def work() -> None:
        from spunge import datasets
        from spunge.core.files import read_json, whole_file
        from spunge.datasets import tables

        source = datasets.load(arguments.dataset)
        options, forget = datasets.options(source, read_json(arguments.options)), read_json(arguments.forget)
        wheels = dict(wheel.split("=", 1) for wheel in arguments.wheel)
        outputs = {table: getattr(arguments, f"{table}_output") for table in (*TABLES, "calibration", *OPTIONAL)}
        with tables.errors_without_texts():
            built = source.build(options, wheels, forget)
            tables.check(built, forget)
            if outputs["calibration"]:
                built = tables.with_calibration(built)
            wanted = [table for table, path in outputs.items() if path]
            tables.check_wanted(built, arguments.needed_by, wanted, arguments.dataset)
            # A table that no evaluation reads asks about nothing.
            asked = dataclasses.replace(built, **{table: None for table in outputs if table not in wanted})
            built, attributes = tables.select(asked, forget, arguments.minimum_texts, read_json(arguments.tasks))
            to_forget = [entry["attribute"] for entry in attributes]
            held_out = read_json(arguments.held_out) if arguments.held_out else []
            built = tables.hold_out(built, held_out, to_forget)
            built, validation = tables.divide(built, arguments.validation)
            tuned_by, limits_kept = arguments.tuned_by, arguments.limits_kept
            tables.check_parts(built, validation, to_forget, held_out, tuned_by, limits_kept)
        for table in DIVIDED:
            if path := getattr(arguments, f"validation_{table}_output"):
                tables.write(getattr(validation, table), table, path)
        for table, path in outputs.items():
            if path:
                tables.write(getattr(built, table), table, path)
                if table in tables.ASKED:
                    tables.warn_of_answer_place(getattr(built, table), table)
        with whole_file(arguments.attributes_output) as temporary:
            temporary.write_text(json.dumps(attributes, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
