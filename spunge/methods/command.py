"""Any program that turns a model and two data files into a checkpoint, as an unlearning method."""

import dataclasses
import shlex
import subprocess
from collections.abc import Mapping

from spunge.errors import InputError
from spunge.methods import Run, Unlearned, checkpoint


@dataclasses.dataclass(frozen=True)
class Options:
    """`command` is started without a shell, with these names in braces filled in:

    {base}: the base model's folder; {forget} and {retain}: Parquet files with a column `text` (and `attribute`);
    {output}: the folder to write, a Hugging Face checkpoint or a PEFT LoRA adapter, in safetensors; {steps}; {seed};
    {split} and {part}: which shard; {device}: `cuda` or `cpu`; and the names in `options`.
    """

    command: str
    steps: int | None = None
    options: Mapping[str, object] | None = None


def unlearn(run: Run, options: Options) -> Unlearned:
    """Run the program and return what its checkpoint changed; its losses are its own affair.

    What it prints goes to the job's log. Raises InputError where it fails, asks for a name that isn't there, or leaves
    no checkpoint of this base model.
    """
    run.scratch.mkdir(parents=True, exist_ok=True)
    output = run.scratch / "checkpoint"
    values = {
        "base": run.base.folder,
        "forget": run.forget_file,
        "retain": run.retain_file,
        "output": output,
        "steps": options.steps,
        "seed": run.seed,
        "split": run.split,
        "part": run.part,
        "device": run.device,
        **(options.options or {}),
    }
    try:
        words = [word.format(**values) for word in shlex.split(options.command)]
    except (KeyError, IndexError, ValueError) as error:
        known = ", ".join(f"{{{name}}}" for name in values)
        raise InputError(f"the command of {run.label} can't be filled in ({error}); there are {known}") from error
    try:
        code = subprocess.run(words, check=False).returncode
    except OSError as error:
        raise InputError(f"the command of {run.label} can't be started: {error}") from error
    if code:
        raise InputError(f"the command of {run.label}, {words[0]}, ended with code {code}; what it said stands above")
    return checkpoint.read(output, run.base)
