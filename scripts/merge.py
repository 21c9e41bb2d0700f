"""Merge the task vectors of a split's shards into one, tensor by tensor."""

import argparse
import json
import sys
from pathlib import Path

from spunge.core import errors


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and merge; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--merge", required=True, help="the merge's kind")
    parser.add_argument("--options", required=True, help="its options, a JSON file; weights as a list")
    parser.add_argument("--tuning", nargs="?", help="tuning.csv, whose choice for the arm replaces options, if any")
    parser.add_argument("--attributes", required=True, help="all attributes to forget, JSON")
    parser.add_argument("--candidate", required=True, type=json.loads, help="its columns of evaluations.csv, JSON")
    parser.add_argument("--task-vectors", required=True, nargs="+", help="one for each shard of the split, in order")
    parser.add_argument("--output", required=True, help="the merged task vector, or its recipe, safetensors")
    parser.add_argument("--diagnostics", required=True, help="what the merge did, as rows of evaluations.csv")
    arguments = parser.parse_args(argv)

    def work() -> None:
        import dataclasses

        from spunge.core.files import attributes_to_forget, read_json, sha256, whole_file
        from spunge.evaluation import descriptive_rows
        from spunge.experiment import records, sources, splits, tuning
        from spunge.merging import driver, mergekit, recipe, registry
        from spunge.merging.shards import Survey
        from spunge.models import task_vector

        kind, seed = arguments.merge, int(arguments.candidate["seed"])
        arm = arguments.candidate["method"], arguments.candidate["split"]
        tuned = records.merge_options(tuning.chosen(arguments.tuning, *arm)) if arguments.tuning else {}
        options = registry.options(kind, read_json(arguments.options) | tuned)
        parts = splits.parts(attributes_to_forget(arguments.attributes), arguments.candidate["split"])
        paths = dict(zip(parts, arguments.task_vectors, strict=True))
        vectors = {shard: task_vector.read(path) for shard, path in paths.items()}
        diagnostics, survey = driver.Diagnostics(list(parts)), Survey()
        first = next(iter(vectors.values())).provenance
        provenance = {key: first[key] for key in ("base", "base_source", "base_parameters", "commit")} | {
            "versions": first["versions"] | ({"mergekit": mergekit.version()} if kind == "mergekit" else {}),
            "candidate": arguments.candidate["candidate"],
            "merge": kind,
            "options": dataclasses.asdict(options),
            "seed": seed,
            "shards": {shard: sha256(path) for shard, path in paths.items()},
            "unlearned": [{"shard": shard, **vector.provenance} for shard, vector in vectors.items()],
        }
        merged = driver.merge(vectors, kind, options, diagnostics, seed, survey)
        if recipe.suits(kind, vectors.values()):
            task_vector.check_finite(merged)
            # Who reads a recipe merges by this code: another recipe makes Snakemake run them again.
            library = {"library": sources.fingerprint(Path(__file__))}
            recipe.write(arguments.output, paths, survey, provenance | library)
        else:
            task_vector.write(arguments.output, driver.common_layout(vectors), merged, provenance)
        with whole_file(arguments.diagnostics) as temporary:
            descriptive_rows.merge(arguments.candidate, diagnostics.rows()).to_csv(temporary, index=False)

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
