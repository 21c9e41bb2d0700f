"""What it costs to save the state of an unlearning run, on the default experiment's model.

Every step of a short run is followed by a save; the time of the saves alone is taken, each until its bytes are on the
disk. Printed are the state's size, the median seconds of a save, and its share of a run that saves every ten minutes.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from spunge import methods
from spunge.methods import rmu, tvn
from spunge.models import task_vector
from spunge.training.resume import Checkpoint

TEXTS = [f"This is text number {number}, which tells of nothing." for number in range(32)]
SMALL = {"steps": 5, "batch_size": 2}
RUNS = {
    "RMU (three matrices)": (rmu, {**SMALL, "layer_id": 7, "trained_layers": (5, 6, 7)}),
    "LoRA of rank 8": (tvn, {**SMALL, "trained": "lora"}),
    "all weights": (tvn, SMALL),
}


class Timed(Checkpoint):
    """Notes how long each save took and how large it was."""

    def __init__(self, folder: Path):
        super().__init__(folder, every=0)
        self.folder, self.seconds, self.size = folder, [], 0

    def keep(self, state) -> bool:
        started = time.perf_counter()
        kept = super().keep(state)
        self.seconds.append(time.perf_counter() - started)
        self.size = sum(path.stat().st_size for path in self.folder.iterdir())
        return kept


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, measure and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path, help="a folder of resources/models")
    parser.add_argument("--folder", type=Path, help="on the disk of the results; a temporary one unless given")
    arguments = parser.parse_args(argv)
    base = task_vector.BaseModel.open(arguments.model)
    print(f"{'run':22} {'state':>10} {'a save':>9} {'share at 10 minutes':>20}")
    for name, (method, options) in RUNS.items():
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            checkpoint = Timed(Path(folder) / "state")
            method.unlearn(methods.Run(base, TEXTS, TEXTS, 0, "cpu", checkpoint=checkpoint), method.Options(**options))
        seconds = statistics.median(checkpoint.seconds)
        print(f"{name:22} {checkpoint.size / 1e6:7.0f} MB {seconds:7.2f} s {seconds / 600:20.3%}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
