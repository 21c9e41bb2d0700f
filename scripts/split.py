"""Write one shard of the forget set: one part of a split."""

import argparse
import sys

from spunge import errors


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and split; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--forget", required=True, help="table forget, Parquet")
    parser.add_argument("--attributes", required=True, help="all attributes to forget, JSON")
    parser.add_argument("--split", required=True, help="joint, attribute, random, attribute-2 …")
    parser.add_argument("--part", required=True, help="all, an attribute, part1 … or group1 …")
    parser.add_argument("--seed", type=int, default=0, help="draws a random split")
    parser.add_argument("--minimum-texts", type=int, default=1, help="fewest texts of a shard")
    parser.add_argument("--output", required=True, help="the shard, Parquet")
    arguments = parser.parse_args(argv)

    def work() -> None:
        from spunge import splitting
        from spunge.datasets import tables
        from spunge.files import attributes_to_forget

        forget, attributes = tables.read("forget", arguments.forget), attributes_to_forget(arguments.attributes)
        tables.attributes_to_forget(forget["attribute"], attributes, arguments.minimum_texts, arguments.forget)
        shard = splitting.shard(forget, attributes, arguments.split, arguments.part, arguments.seed)
        tables.check_shard_size(len(shard), arguments.part, arguments.minimum_texts)
        tables.write(shard, "forget", arguments.output)

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
