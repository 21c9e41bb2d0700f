"""Turn a data source into the tables forget, retain, questions and fluency, and list the attributes to forget."""

import argparse
import json
import sys

from spunge import errors

TABLES = ("forget", "retain", "questions", "fluency")


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and build; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True, help="name of a module in spunge/datasets")
    parser.add_argument("--options", type=json.loads, default={}, help="its options, as JSON")
    parser.add_argument("--forget", type=json.loads, default="all", help='attributes to forget: JSON list or "all"')
    parser.add_argument("--minimum-texts", type=int, default=1, help="fewest forget texts of an attribute")
    parser.add_argument("--wheel", action="append", default=[], metavar="NAME=PATH", help="a downloaded wheel")
    for table in TABLES:
        parser.add_argument(f"--{table}-output", required=True, help=f"table {table}, Parquet")
    parser.add_argument("--attributes-output", required=True, help="attributes to forget and their texts, JSON")
    arguments = parser.parse_args(argv)

    def work() -> None:
        from spunge import datasets
        from spunge.datasets import tables
        from spunge.files import whole_file

        source = datasets.load(arguments.dataset)
        options = datasets.options(source, arguments.options)
        built = source.build(options, dict(wheel.split("=", 1) for wheel in arguments.wheel), arguments.forget)
        tables.check(built)
        built, attributes = tables.select(built, arguments.forget, arguments.minimum_texts)
        for table in TABLES:
            tables.write(getattr(built, table), table, getattr(arguments, f"{table}_output"))
        with whole_file(arguments.attributes_output) as temporary:
            temporary.write_text(json.dumps(attributes, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
