"""Cut the forget set into the shards of a split, one file for each."""

import argparse
import sys
from pathlib import Path

from spunge.core import errors


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and split; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--forget", required=True, help="table forget, Parquet")
    parser.add_argument("--attributes", required=True, help="all attributes to forget, JSON")
    parser.add_argument("--partition", required=True, help="joint, attribute, random-seed0, attribute-2 …")
    parser.add_argument("--minimum-texts", type=int, default=1, help="fewest texts of a shard")
    parser.add_argument("--output", required=True, type=Path, help="folder of the shards, Parquet")
    arguments = parser.parse_args(argv)

    def work() -> None:
        from spunge.core.files import attributes_to_forget, whole_folder
        from spunge.datasets import sharding, tables
        from spunge.experiment import records, splits

        forget, attributes = tables.read("forget", arguments.forget), attributes_to_forget(arguments.attributes)
        tables.attributes_to_forget(forget["attribute"], attributes, arguments.minimum_texts, arguments.forget)
        split, _, seed = arguments.partition.partition("-seed")
        with whole_folder(arguments.output) as folder:
            for name, (label, _) in records.shards(tuple(attributes), split).items():
                shard = sharding.shard(forget, attributes, split, label, int(seed or 0))
                if splits.kind(split) != "random":  # whose sizes are as near as whole subjects come
                    tables.check_shard_size(len(shard), label, arguments.minimum_texts)
                tables.write(shard, "forget", folder / f"{name}.parquet")

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
