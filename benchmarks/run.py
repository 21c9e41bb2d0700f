"""Run the benchmarks, put their rows into results.csv, print the table and draw the figure.

python benchmarks/run.py [--only rmu_step …]
"""

import argparse
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
if str(PROJECT) not in sys.path:
    sys.path.insert(0, str(PROJECT))

from spunge.core import errors  # noqa: E402

RMU = ("rmu_step", "rmu_step_cached"), ("rmu_memory",)
TIES = ("ties_rmu_3", "ties_rmu_8", "ties_full_3")
MEMORY = ("ties_memory_3", "ties_full_memory_3")
DISK = ("disk_rmu", "disk_lora")
NAMES = [
    *RMU[0],
    *RMU[1],
    *TIES,
    *MEMORY,
    "ties_memory_by_size",
    *DISK,
    "lora_load",
    "generation",
    "budget",
    "matrix_products",
]


def default_model() -> Path:
    """Return the folder of the default experiment's model."""
    import yaml

    from spunge.experiment.jobs import model_folder

    model = yaml.safe_load((PROJECT / "config.yaml").read_text())["model"]
    return PROJECT / "resources" / "models" / model_folder(model)


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and run; return the exit code, which is 1 where a pair's results differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="SmolLM2's folder, if not the one that `snakemake base_model` makes")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", help=f"some of: {', '.join(NAMES)}")
    parser.add_argument("--steps", type=int, default=10, help="RMU steps of each run")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each merge, generation and budget")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results.csv")
    arguments = parser.parse_args(argv)

    def work() -> None:
        from benchmarks import budget, disk, figure, generation, matrix_products, merged_lora, results, rmu, ties
        from spunge.models import task_vector
        from spunge.models.task_vector import BaseModel
        from spunge.report.figures import style

        wanted = arguments.only or NAMES
        base = None
        if set(wanted) - {"ties_memory_by_size"}:
            base = BaseModel.open(arguments.model or default_model())
        trained = {"rmu": ties.RMU_TRAINED, "full": None}
        benchmarks = [
            (RMU[0], lambda: rmu.step_times(base, arguments.steps)),
            (RMU[1], lambda: rmu.peak_memory(base, arguments.steps)),
            (("ties_rmu_3",), lambda: ties.times("ties_rmu_3", base, 3, trained["rmu"], arguments.repeats)),
            (("ties_rmu_8",), lambda: ties.times("ties_rmu_8", base, 8, trained["rmu"], arguments.repeats)),
            (("ties_memory_3",), lambda: ties.peak_memory("ties_memory_3", base, 3, trained["rmu"])),
            (("ties_full_3",), lambda: ties.times("ties_full_3", base, 3, trained["full"], arguments.repeats)),
            (("ties_full_memory_3",), lambda: ties.peak_memory("ties_full_memory_3", base, 3, trained["full"])),
            (("ties_memory_by_size",), ties.memory_by_size),
            (("disk_rmu",), lambda: disk.rmu(base)),
            (("disk_lora",), lambda: disk.lora(base)),
            (("lora_load",), lambda: merged_lora.loading(base, arguments.repeats)),
            (("generation",), lambda: generation.throughput(base, arguments.repeats)),
            (("budget",), lambda: budget.solving(base, arguments.repeats)),
            (("matrix_products",), lambda: matrix_products.forward(base, arguments.repeats)),
        ]
        commit = task_vector.commit()  # before results.csv changes
        table = results.read(arguments.output)
        for names, benchmark in benchmarks:
            if chosen := [name for name in names if name in wanted]:
                print(f"{', '.join(chosen)} …", file=sys.stderr, flush=True)
                rows = [row for row in benchmark() if row.name in chosen]
                table = results.update(table, rows, commit)
                results.write(table, arguments.output)  # after each, so that a long run leaves what it has
        print(results.report(table))
        paths = [arguments.output.with_suffix(suffix) for suffix in (".pdf", ".png")]
        style.save(figure.draw(table), *paths)

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
