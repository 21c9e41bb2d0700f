"""Checkpoints: what an unfinished job has done so far, so that the next job with the same inputs goes on from there.

A job that trains or generates saves its state every few minutes, and when it is told to stop (SIGTERM, SIGINT). The
next one ends with the same bytes as an undisturbed job: the state is all that the remaining steps depend on and that
doesn't follow from the job's inputs. It lies in a folder that is no output of the job, since Snakemake removes the
outputs of failed jobs. The folder is removed when the job's outputs are whole.

A state is used only by a job of the same `identity` and number of processes. Tensors are kept as safetensors, texts as
Parquet, all else as JSON in `state`, after the JSON's own SHA-256; it names the other files with their digests and is
renamed into place last: a state is there whole or not at all.
"""

import contextlib
import json
import os
import shutil
import signal
import time
from collections import ChainMap, UserDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pandas
import torch
from safetensors import safe_open

from spunge.core import safetensors_writer
from spunge.core.files import sha256, text_sha256, whole_file
from spunge.training import processes

RECORD, TABLE = "state", "table.parquet"
ALL_JOBS = "unfinished"  # the folder above those of all jobs; it goes with the last
VERSIONS = ("torch", "transformers", "tokenizers", "accelerate", "peft", "lm_eval")
RANDOM = "random."  # the generators' states among a state's tensors
# What a folder may hold, the worst last: where several processes look, the worst counts.
_GOOD, _NONE, _DAMAGED, _OTHER = range(4)
_PROBLEMS = {_DAMAGED: "is damaged", _OTHER: "is of other options, data, code or versions"}


class State(NamedTuple):
    """What has been done after `done` steps: tensors by name, facts that JSON can hold, and a table of texts.

    Where several processes run, each has tensors of its own; facts and table are those of the first.
    """

    tensors: Mapping[str, torch.Tensor] = {}
    facts: Mapping[str, object] = {}
    table: pandas.DataFrame | None = None
    done: int = 0


class Checkpoint(contextlib.AbstractContextManager):
    """The state of one job in `folder`; without a folder nothing is ever saved.

    `identity` names all that the result depends on, `every` is the number of minutes between saves. When the context is
    left without an error, the job's outputs are whole, so the folder is removed.
    """

    def __init__(self, folder: str | os.PathLike | None = None, identity: str = "", every: float = 10.0):
        self._folder = Path(folder) if folder else None
        self._identity, self._every = identity, every
        self._root = self
        # In the root alone: the signal that came, what to do about it at once, and the signals' former handlers.
        self._signal_received, self._at_signal, self._handlers_before = 0, None, {}

    @property
    def folder(self) -> Path | None:
        """The folder where a job may keep files of its own; it is removed with the checkpoint."""
        return self._folder

    def nested(self, name: str) -> "Checkpoint":
        """Return the checkpoint of a step of the job, in a folder `name` of its own; it is removed with the root's."""
        nested = Checkpoint(self._folder and self._folder / name, self._identity, self._every)
        nested._root = self._root
        return nested

    def __exit__(self, kind, error, trace) -> None:
        for number, before in self._handlers_before.items():  # a job that has finished changes its exit code no more
            signal.signal(number, signal.SIG_IGN if kind is None else before)
        is_done = kind is None and self._signal_received != signal.SIGINT  # then Snakemake makes the outputs again
        if is_done and self._folder and processes.number_and_count()[0] == 0:
            self.remove()
            names = [parent.name for parent in self._folder.parents]
            with contextlib.suppress(OSError, ValueError):  # others have something there, or it isn't among all jobs
                for parent in self._folder.parents[: names.index(ALL_JOBS) + 1]:
                    parent.rmdir()

    def steps(self, total: int, save: Callable[[], State], load: Callable[[State], None]) -> Iterator[int]:
        """Yield the numbers of the remaining steps, of 1 … `total`, and save between them.

        `save` returns the state after the step just done, `load` takes up what `save` returned in an earlier job; it is
        called before the first step, if at all. The states of torch's random generators are kept besides. From the
        first step on, SIGTERM and SIGINT wait for the end of the step, and for the job's outputs after the last; then
        the state is saved and the job ends with exit code 128 + signal (SystemExit). A state that can't be written is
        told of, and the job goes on.
        """
        if self._folder is None:
            yield from range(1, total + 1)
            return
        if (state := self.kept()) is not None:
            load(state)
            torch.set_rng_state(state.tensors[f"{RANDOM}cpu"])
            if f"{RANDOM}cuda" in state.tensors:
                torch.cuda.set_rng_state(state.tensors[f"{RANDOM}cuda"])
            processes.say(f"going on after step {state.done} of {total}")
        root, last_save = self._root, time.monotonic()
        for number in (signal.SIGTERM, signal.SIGINT):
            if number not in root._handlers_before and signal.getsignal(number) != signal.SIG_IGN:
                root._handlers_before[number] = signal.signal(number, root._note_signal)
        for step in range(state.done + 1 if state else 1, total + 1):
            yield step
            due = processes.number_and_count()[0] == 0 and time.monotonic() - last_save >= 60 * self._every
            number, due = processes.largest(root._signal_received, due)
            if number or due:
                whole, last_save = self._keep_step(save, step), time.monotonic()
                (number,) = processes.largest(root._signal_received)  # one may have come meanwhile
            if number:
                _stop(number, step, total, whole)

    @contextlib.contextmanager
    def at_rest(self, total: int, save: Callable[[], State]) -> Iterator[None]:
        """Within this context, after the last step, a signal saves and stops at once: the state no longer changes."""
        if self._folder is not None:
            self._root._at_signal = lambda number: _stop(number, total, total, self._keep_step(save, total))
        try:
            if self._root._signal_received:
                self._root._note_signal(self._root._signal_received)
            yield
        finally:
            self._root._at_signal = None

    def _note_signal(self, number: int, frame: object = None) -> None:
        """Note a signal instead of dying of it."""
        self._signal_received = number
        answer, self._at_signal = self._at_signal, None  # another signal must not come between
        if answer is not None:
            answer(number)

    def kept(self) -> State | None:
        """Return the state that was kept, or None; another job's state or a damaged one is removed, with a log line."""
        if self._folder is None:
            return None
        (rank, count), held, state = processes.number_and_count(), _DAMAGED, None
        try:
            digest, text = (self._folder / RECORD).read_text().split("\n", 1)
            record = json.loads(text)
            names = [name for name in record["files"] if name.endswith((f"-{rank}.safetensors", TABLE))]
            if digest == text_sha256(text):
                if (record["identity"], record["processes"]) != (self._identity, count):
                    held = _OTHER
                elif all(sha256(self._folder / name) == record["files"][name] for name in names):
                    held, state = _GOOD, self._read(record, names)
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            no_record = isinstance(error, FileNotFoundError) and Path(error.filename).name == RECORD
            held = _NONE if no_record else _DAMAGED
        (held,) = processes.largest(held)
        if held == _GOOD:
            return state
        if held != _NONE:
            processes.say(f"the state in {self._folder} {_PROBLEMS[held]}: it is not used")
        if rank == 0:
            (self._root if held == _OTHER else self).remove()
        processes.gathered(None)
        return None

    def keep(self, state: State) -> bool:
        """Write a state in place of the last one, and return whether that went well; a full disk is told of."""
        if self._folder is None:
            return False
        rank, count = processes.number_and_count()
        files, problems = zip(*processes.gathered(_unless_disk_fails(self._write, state, rank)), strict=True)
        problem = next(filter(None, problems), "")
        if rank == 0 and not problem:
            record = {"identity": self._identity, "processes": count, "done": state.done, "facts": state.facts}
            _, problem = _unless_disk_fails(self._commit, record | {"files": dict(ChainMap(*files))})
        if problem:
            processes.say(f"the state could not be saved ({problem}): going on without")
        processes.gathered(None)
        return not problem

    def remove(self) -> None:
        """Remove what is kept."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _keep_step(self, save: Callable[[], State], step: int) -> bool:
        state, random = save(), {f"{RANDOM}cpu": torch.get_rng_state()}
        if torch.cuda.is_initialized():
            random[f"{RANDOM}cuda"] = torch.cuda.get_rng_state()
        return self.keep(state._replace(tensors={**state.tensors, **random}, done=step))

    def _write(self, state: State, rank: int) -> dict[str, str]:
        """Write this process's files beside those of the last state; return their digests by name."""
        self._folder.mkdir(parents=True, exist_ok=True)
        paths = []
        if state.tensors:
            paths.append(self._folder / f"{state.done}-{rank}.safetensors")
            layout = {name: (tensor.shape, tensor.dtype) for name, tensor in state.tensors.items()}
            safetensors_writer.write(paths[0], layout, state.tensors.items())
        if state.table is not None and rank == 0:
            paths.append(self._folder / f"{state.done}-{TABLE}")
            with whole_file(paths[-1], flush=True) as temporary:
                state.table.to_parquet(temporary, index=False)
        return {path.name: sha256(path) for path in paths}

    def _commit(self, record: dict) -> None:
        """Put the record in place, which makes the new files the state, and remove the old ones."""
        with whole_file(self._folder / RECORD, flush=True) as temporary:
            text = json.dumps(record)
            temporary.write_text(f"{text_sha256(text)}\n{text}")
        for path in self._folder.iterdir():
            if path.name not in record["files"] and path.name != RECORD and path.is_file():
                path.unlink()

    def _read(self, record: dict, names: Iterable[str]) -> State:
        tensors, table = {}, None
        for name in names:
            if name.endswith(TABLE):
                table = pandas.read_parquet(self._folder / name)
            else:
                file = safe_open(self._folder / name, "pt")
                tensors = _Stored(dict.fromkeys(file.keys(), file))
        return State(tensors, record["facts"], table, record["done"])


class _Stored(UserDict):
    """Tensors of open files by name, each read when it is asked for: together they are larger than the weights."""

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.data[name].get_tensor(name).clone()  # the file itself goes with the next save


def identity(facts: Mapping[str, object], model: str | os.PathLike, files: Iterable, large: Iterable = ()) -> str:
    """Return a SHA-256 over all that a job's result depends on, as 64 hexadecimal digits.

    `facts` are options and whatever else JSON can hold, `model` the base model's folder, `files` data and code of the
    job's own; of `large` files size and time count, since to read them would take long. All source files of this
    library enter too, and the versions of the libraries that compute.
    """
    library = Path(__file__).parents[1]
    described = [path for path in sorted(Path(model).iterdir()) if path.suffix != ".safetensors" and path.is_file()]
    whole = {
        "facts": facts,
        "model": {path.name: sha256(path) for path in described},  # of weights the manifest has the digests
        "files": [sha256(path) for path in files],
        "large": [(status.st_size, status.st_mtime_ns) for status in map(os.stat, large)],
        "library": {str(path.relative_to(library)): sha256(path) for path in sorted(library.rglob("*.py"))},
        "versions": {name: version(name) for name in VERSIONS if find_spec(name)},
    }
    return text_sha256(json.dumps(whole, sort_keys=True))


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return the weights that an optimizer trains, and its own state of each, by names; this process's part of each."""
    tensors = {}
    for number, (_, parameter) in enumerate(_trained(optimizer)):
        of_parameter = {"weight": parameter.detach(), **optimizer.state.get(parameter, {})}
        tensors |= {f"{number}.{name}": _local(tensor) for name, tensor in of_parameter.items()}
    return tensors


@torch.no_grad()
def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give an optimizer that has made no step yet, and the weights that it trains, what `optimizer_state` returned."""
    for number, (group, parameter) in enumerate(_trained(optimizer)):
        _local(parameter).copy_(tensors[f"{number}.weight"])
        state = optimizer.state[parameter]
        for name in (key.partition(".")[2] for key in tensors if key.startswith(f"{number}.")):
            if name == "step":
                on_device = group.get("fused") or group.get("capturable")
                state[name] = tensors[f"{number}.step"].to(parameter.device if on_device else "cpu")
            elif name != "weight":
                state[name] = torch.zeros_like(parameter)
                _local(state[name]).copy_(tensors[f"{number}.{name}"])


def _trained(optimizer: torch.optim.Optimizer) -> list[tuple[dict, torch.nn.Parameter]]:
    return [(group, parameter) for group in optimizer.param_groups for parameter in group["params"]]


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """Return this process's part of a tensor that is divided over several, in the same memory."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _unless_disk_fails(write: Callable, *arguments) -> tuple[object, str]:
    """Return the result of `write` and "", or {} and the system's error message."""
    try:
        return write(*arguments), ""
    except OSError as error:
        return {}, str(error)


def _stop(number: int, step: int, total: int, whole: bool) -> None:
    kept = "what was done is kept, run again to go on" if whole else "what was done since the last save is lost"
    processes.say(f"stopped by {signal.Signals(number).name} at step {step} of {total}; {kept}")
    raise SystemExit(128 + number)
