"""Any program that turns a model and two data files into a checkpoint, as an unlearning method."""

import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from spunge.core.errors import InputError
from spunge.core.files import sha256, text_sha256, whole_file
from spunge.core.progress import say
from spunge.experiment.options import Count, Text, checked
from spunge.methods import Run, Unlearned, checkpoint

OUTPUT, FINISHED = "checkpoint", "finished"  # in the folder of an unfinished job
ENVIRONMENT = re.compile(r"\{env:([^{}]*)\}")


@checked
class Options:
    """`command` is started without a shell, with these names in braces filled in:

    {base}: the base model's folder; {forget} and {retain}: Parquet files with a column `text` (and `attribute`);
    {output}: the folder to write, a Hugging Face checkpoint or a PEFT LoRA adapter, in safetensors; {steps}; {seed};
    {split} and {shard}: which shard; {device}: `cuda` or `cpu`; the names in `options`; and {env:NAME}: a variable of
    the environment, such as a token, here and in the values of `options`. It is filled in at the program's start and
    stands nowhere else.
    """

    command: Annotated[
        Text,
        Field(
            description="A program that turns {base} (a model folder), {forget} and {retain} (Parquet) into {output} "
            "(a checkpoint or LoRA adapter); {steps}, {seed}, {split}, {shard}, the names in `options` and {env:NAME}, "
            "a variable of the environment, are filled in too."
        ),
    ]
    steps: Annotated[
        Count | None, Field(description="Steps per shard; a shard of several attributes takes as many more.")
    ] = None
    options: Annotated[Mapping[str, object] | None, Field(description="Values for the command, by name.")] = None

    def __post_init__(self):
        try:
            words = shlex.split(self.command)
        except ValueError as error:
            raise InputError(f"a `command` can't be divided into words: {error}") from error
        if not words:
            raise InputError("a `command` is empty: give a program and its arguments")

    @property
    def program(self) -> str:
        """The command's first word, as it is configured."""
        return shlex.split(self.command)[0]

    def recorded(self) -> dict[str, object]:
        """Return what provenance tells of them: command and options may hold secrets, so of those a SHA-256."""
        options = json.dumps(self.options, sort_keys=True)
        return {
            "command": self.program,
            "command_sha256": text_sha256(self.command),
            "steps": self.steps,
            "options_sha256": text_sha256(options) if self.options else None,
        }


def unlearn(run: Run, options: Options) -> Unlearned:
    """Run the program and return what its checkpoint changed; its losses are its own affair.

    What it prints goes to the job's log. What it leaves is kept until the task vector is written, and taken up by the
    next job of the same command, base model, data and seed, which doesn't run the program again. Raises InputError
    where it fails, asks for a name that isn't there, or leaves no checkpoint of this base model.
    """
    folder = run.checkpoint.folder or run.scratch
    output, finished = folder / OUTPUT, folder / FINISHED
    identity = _identity(run, options)
    if output.exists() and finished.is_file() and finished.read_text() == identity:
        say(f"{run.label}: {options.program} has run before, and what it left in {output} is taken up")
    else:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _start(run, options, output)
        with whole_file(finished) as temporary:
            temporary.write_text(identity)
    kept = (
        f"; what {options.program} left is kept in {output}: mend it there and run again, which takes it up as it is, "
        "or delete it to have the program run anew"
    )
    try:
        return dataclasses.replace(checkpoint.read(output, run.base), kept=kept)
    except InputError as error:
        raise InputError(f"{error}{kept if output.exists() else ''}") from error


def _identity(run: Run, options: Options) -> str:
    """Return a SHA-256 over all that the program is given; not over this library, so that an update loses nothing."""
    facts = [dataclasses.asdict(options), run.base.identity, run.seed, run.split, run.shard, run.device]
    return text_sha256(json.dumps([*facts, sha256(run.forget_file), sha256(run.retain_file)], sort_keys=True))


def _start(run: Run, options: Options, output: Path) -> None:
    """Start the program and wait for it; raise InputError unless it ends well. No message has more than its name."""
    values = {
        "base": run.base.folder,
        "forget": run.forget_file,
        "retain": run.retain_file,
        "output": output,
        "steps": options.steps,
        "seed": run.seed,
        "split": run.split,
        "shard": run.shard,
        "device": run.device,
        **(options.options or {}),
    }
    try:
        words = [word.format(**values, env=_Variable()) for word in shlex.split(options.command)]
    except (LookupError, ValueError, AttributeError, TypeError) as error:
        known = ", ".join(f"{{{name}}}" for name in [*values, "env:NAME"])
        raise InputError(f"the command of {run.label} can't be filled in ({error}); there are {known}") from error
    for name in dict.fromkeys(ENVIRONMENT.findall(" ".join(words))):
        if name not in os.environ:
            raise InputError(
                f"the command of {run.label} asks for {{env:{name}}}, and there is no such variable in the "
                "environment: set it where snakemake is started"
            )
    words = [ENVIRONMENT.sub(lambda match: os.environ[match[1]], word) for word in words]
    what = f"the command of {run.label}, {options.program},"
    try:
        code = subprocess.run(words, check=False).returncode
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it holds a null character"
        raise InputError(f"{what} can't be started: {reason}") from None
    if code:
        raise InputError(f"{what} ended with code {code}; what it said stands above")


class _Variable:
    """Leaves {env:NAME} as it is, for the last moment."""

    def __format__(self, name: str) -> str:
        return f"{{env:{name}}}"
