"""What an unfinished job has done so far, kept in a folder, so that a job that is given the same goes on from there.

A job that trains or generates saves its state every few minutes, and when it is told to stop (SIGTERM, SIGINT). The
next one continues to the same bytes as one that nobody disturbed: its state is all that the steps to come depend on
and that doesn't follow from the job's inputs. It lies in a folder that is no output of the job's, since outputs of
failed jobs are removed, and goes when the job's outputs are whole.

A state is used only by a job of the same `identity` and number of processes. Tensors are kept as safetensors, texts as
Parquet, all else as JSON in `state`, after the JSON's own SHA-256; it names the other files with their digests and is
renamed into place last: a state is there whole or not at all.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open

from spunge import safetensors_stream
from spunge.files import sha256, whole_file
from spunge.progress import say

if TYPE_CHECKING:
    import pandas as pd

RECORD = "state"
TABLE = "table.parquet"
ALL_JOBS = "unfinished"  # the folder above those of all jobs; it goes with the last
STOPPING = (signal.SIGTERM, signal.SIGINT)
VERSIONS = ("torch", "transformers", "tokenizers", "accelerate", "peft", "lm_eval")
RANDOM = "random."  # the generators' states among a state's tensors
# What may be found in a folder, the worst last: where several processes look, that counts.
_GOOD, _NONE, _DAMAGED, _OTHER = range(4)
_PROBLEMS = {_DAMAGED: "is damaged", _OTHER: "is of other options, data, code or versions"}


@dataclasses.dataclass(frozen=True)
class State:
    """What has been done after `done` steps: tensors by name, facts that JSON can hold, and a table of texts.

    Where several processes run, each has tensors of its own; facts and table are those of the first.
    """

    tensors: Mapping[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    facts: Mapping[str, object] = dataclasses.field(default_factory=dict)
    table: "pd.DataFrame | None" = None
    done: int = 0


class Saved:
    """The state of one job in `folder`; without a folder nothing is ever saved.

    `identity` names all that the result depends on, `every` is the number of minutes between saves. A context manager:
    when it is left without an error, the job's outputs are whole and the folder goes; what is left to do is to exit.
    """

    def __init__(self, folder: str | os.PathLike | None = None, identity: str = "", every: float = 10.0):
        self._folder = Path(folder) if folder else None
        self._identity, self._every = identity, every
        self._whole, self._signals = self, _Signals()

    @property
    def folder(self) -> Path | None:
        """Where a job may keep files of its own; they go with the rest."""
        return self._folder

    def part(self, name: str) -> "Saved":
        """Return the place for a part of the job, in a folder `name` of its own; it goes with the whole."""
        part = Saved(self._folder and self._folder / name, self._identity, self._every)
        part._whole, part._signals = self._whole, self._signals
        return part

    def __enter__(self) -> "Saved":
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._signals.release(finished=kind is None)
        if kind is None and self._folder and _process()[0] == 0:
            self.remove()
            above = list(self._folder.parents)
            all_jobs = next((place for place, parent in enumerate(above) if parent.name == ALL_JOBS), -1)
            with contextlib.suppress(OSError):  # others still have something there
                for parent in above[: all_jobs + 1]:
                    parent.rmdir()

    def steps(self, total: int, save: Callable[[], State], load: Callable[[State], None]) -> Iterator[int]:
        """Yield the numbers of the steps that are still to be done, of 1 … `total`, and save between them.

        `save` returns the state after the step just done, `load` takes up what `save` returned in an earlier job; it is
        called before the first step, if at all. The states of torch's random generators are kept besides. From the
        first step on, SIGTERM and SIGINT wait for the end of the step, and for the job's outputs after the last; then
        the state is saved and the job ends with exit code 128 + signal (SystemExit). A state that can't be written is
        told of, and the job goes on.
        """
        if self._folder is None:
            yield from range(1, total + 1)
            return
        state = self.kept()
        if state is not None:
            load(state)
            _set_random_states(state.tensors)
            if _process()[0] == 0:
                say(f"going on after step {state.done} of {total}")
        self._signals.catch()
        saved = time.monotonic()
        for step in range(state.done + 1 if state else 1, total + 1):
            yield step
            due = _process()[0] == 0 and time.monotonic() - saved >= 60 * self._every
            number, due = _largest(self._signals.came, due)
            if not (number or due):
                continue
            whole = self._keep_step(save, step)
            saved = time.monotonic()
            (number,) = _largest(self._signals.came)  # one may have come meanwhile
            if number:
                _stop(number, step, total, whole)

    @contextlib.contextmanager
    def at_rest(self, total: int, save: Callable[[], State]) -> Iterator[None]:
        """Within it, after the last step, nothing changes what `save` returns: a signal saves and stops at once."""

        def stop(number: int) -> None:
            _stop(number, total, total, self._keep_step(save, total))

        with self._signals.answered_by(stop) if self._folder else contextlib.nullcontext():
            yield

    def kept(self) -> State | None:
        """Return the state that was kept, or None; one of another job or a damaged one goes, with a line in the log."""
        if self._folder is None:
            return None
        found, state = _NONE, None
        try:
            digest, text = (self._folder / RECORD).read_text().split("\n", 1)
            record = json.loads(text)
            if digest != _digest(text):
                found = _DAMAGED
            elif (record["identity"], record["processes"]) != (self._identity, _process()[1]):
                found = _OTHER
            elif any(sha256(self._folder / name) != record["files"][name] for name in _own(record["files"])):
                found = _DAMAGED
            else:
                state, found = self._read(record), _GOOD
        except FileNotFoundError as error:
            found = _NONE if Path(error.filename).name == RECORD else _DAMAGED
        except (OSError, ValueError, TypeError, LookupError, AttributeError):
            found = _DAMAGED
        (found,) = _largest(found)
        if found == _GOOD:
            return state
        if _process()[0] == 0:
            if found != _NONE:
                say(f"the state in {self._folder} {_PROBLEMS[found]}: it is not used")
            (self._whole if found == _OTHER else self).remove()
        _wait()
        return None

    def keep(self, state: State) -> bool:
        """Write a state in place of the last one, and return whether that went well; a full disk is told of."""
        if self._folder is None:
            return False
        rank, processes = _process()
        files, problem = {}, ""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            files = self._write(state, rank)
        except OSError as error:
            problem = str(error)
        files, problems = zip(*_gathered((files, problem)), strict=True)
        problem = next(filter(None, problems), "")
        if rank == 0 and not problem:
            digests = {name: digest for own in files for name, digest in own.items()}
            record = {"identity": self._identity, "processes": processes, "done": state.done, "facts": state.facts}
            try:
                self._commit({**record, "files": digests})
            except OSError as error:
                problem = str(error)
        if problem and rank == 0:
            say(f"the state could not be saved ({problem}): going on without")
        _wait()
        return not problem

    def remove(self) -> None:
        """Remove what is kept."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _keep_step(self, save: Callable[[], State], step: int) -> bool:
        state = save()
        return self.keep(dataclasses.replace(state, tensors={**state.tensors, **_random_states()}, done=step))

    def _write(self, state: State, rank: int) -> dict[str, str]:
        """Write this process's files beside those of the last state; return their digests by name."""
        files = {}
        if state.tensors:
            path = self._folder / f"{state.done}-{rank}.safetensors"
            layout = {name: (tensor.shape, tensor.dtype) for name, tensor in state.tensors.items()}
            safetensors_stream.write(path, layout, state.tensors.items())
            files[path.name] = sha256(path)
        if state.table is not None and rank == 0:
            path = self._folder / f"{state.done}-{TABLE}"
            with whole_file(path) as temporary:
                state.table.to_parquet(temporary, index=False)
                _flush(temporary)
            files[path.name] = sha256(path)
        return files

    def _commit(self, record: dict) -> None:
        """Put the record in place, which makes the new files the state, and remove the old ones."""
        with whole_file(self._folder / RECORD) as temporary:
            text = json.dumps(record)
            temporary.write_text(f"{_digest(text)}\n{text}")
            _flush(temporary)
        _flush(self._folder)
        for path in self._folder.iterdir():
            if path.name not in record["files"] and path.name != RECORD and path.is_file():
                path.unlink()

    def _read(self, record: dict) -> State:
        tensors, table = {}, None
        for name in _own(record["files"]):
            if name.endswith(TABLE):
                import pandas as pd

                table = pd.read_parquet(self._folder / name)
            else:
                tensors = _Stored(self._folder / name)
        return State(tensors, record["facts"], table, record["done"])


class _Stored(Mapping):
    """The tensors of a safetensors file, each read when it is asked for: together they outgrow the weights."""

    def __init__(self, path: Path):
        self._file = safe_open(path, "pt")
        self._names = dict.fromkeys(self._file.keys())

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._file.get_tensor(name).clone()  # the file itself goes with the next save

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class _Signals:
    """Whether a signal came that says to stop."""

    def __init__(self):
        self.came = 0
        self._before: dict[int, object] = {}
        self._answer: Callable[[int], None] | None = None

    def catch(self) -> None:
        """From now on, note a signal instead of dying of it; one that is ignored stays so."""
        for number in STOPPING:
            if number not in self._before and signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)

    def release(self, finished: bool) -> None:
        """Let signals do again what they did before; of a job that has finished they no longer change the exit code."""
        while self._before:
            number, before = self._before.popitem()
            signal.signal(number, signal.SIG_IGN if finished else before)

    @contextlib.contextmanager
    def answered_by(self, answer: Callable[[int], None]) -> Iterator[None]:
        """Within it, a signal is not only noted, but answered at once; one that came before, too."""
        self._answer = answer
        try:
            if self.came:
                self._note(self.came)
            yield
        finally:
            self._answer = None

    def _note(self, number: int, frame: object = None) -> None:
        self.came = number
        if (answer := self._answer) is not None:
            self._answer = None  # another one must not come between
            answer(number)


def identity(
    facts: Mapping[str, object], model: str | os.PathLike, files: Iterable[str | os.PathLike], large: Iterable = ()
) -> str:
    """Return a SHA-256 over all that a job's result depends on, as 64 hexadecimal digits.

    `facts` are options and whatever else JSON can hold, `model` the base model's folder, `files` data and code of the
    job's own; of `large` files size and time count, since to read them would take long. Besides there enter all source
    files of this library, and the versions of the libraries that compute.
    """
    library = Path(__file__).parent
    described = [path for path in sorted(Path(model).iterdir()) if path.suffix != ".safetensors" and path.is_file()]
    whole = {
        "facts": facts,
        "model": {path.name: sha256(path) for path in described},  # of weights the manifest has the digests
        "files": [sha256(path) for path in files],
        "large": [(status.st_size, status.st_mtime_ns) for status in map(os.stat, large)],
        "library": {str(path.relative_to(library)): sha256(path) for path in sorted(library.rglob("*.py"))},
        "versions": {name: version(name) for name in VERSIONS if find_spec(name)},
    }
    return _digest(json.dumps(whole, sort_keys=True))


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return the weights that an optimizer trains, and its own state of each, by names; this process's part of each."""
    tensors = {}
    for number, (_, parameter) in enumerate(_trained(optimizer)):
        tensors[f"{number}.weight"] = _local(parameter.detach())
        for name, tensor in optimizer.state.get(parameter, {}).items():
            tensors[f"{number}.{name}"] = _local(tensor)
    return tensors


@torch.no_grad()
def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give an optimizer that has made no step yet, and the weights that it trains, what `optimizer_state` returned."""
    for number, (group, parameter) in enumerate(_trained(optimizer)):
        _local(parameter).copy_(tensors[f"{number}.weight"])
        for key in tensors:
            of, _, name = key.partition(".")
            if of != str(number) or name == "weight":
                continue
            if name == "step":
                on_device = group.get("fused") or group.get("capturable")
                optimizer.state[parameter][name] = tensors[key].to(parameter.device if on_device else "cpu")
            else:
                optimizer.state[parameter][name] = torch.zeros_like(parameter)
                _local(optimizer.state[parameter][name]).copy_(tensors[key])


def _trained(optimizer: torch.optim.Optimizer) -> list[tuple[dict, torch.nn.Parameter]]:
    return [(group, parameter) for group in optimizer.param_groups for parameter in group["params"]]


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """Return this process's part of a tensor that is divided over several, in the same memory."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _random_states() -> dict[str, torch.Tensor]:
    states = {f"{RANDOM}cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        states[f"{RANDOM}cuda"] = torch.cuda.get_rng_state()
    return states


def _set_random_states(tensors: Mapping[str, torch.Tensor]) -> None:
    torch.set_rng_state(tensors[f"{RANDOM}cpu"])
    if f"{RANDOM}cuda" in tensors:
        torch.cuda.set_rng_state(tensors[f"{RANDOM}cuda"])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _own(files: Iterable[str]) -> list[str]:
    """Return those of a state's files that this process reads."""
    return [name for name in files if name.endswith((f"-{_process()[0]}.safetensors", TABLE))]


def _stop(number: int, step: int, total: int, whole: bool) -> None:
    if _process()[0] == 0:
        kept = "what was done is kept, run again to go on" if whole else "what was done since the last save is lost"
        say(f"stopped by {signal.Signals(number).name} at step {step} of {total}; {kept}")
    raise SystemExit(128 + number)


def _flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _together() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _process() -> tuple[int, int]:
    """Return the number of this process, and how many there are."""
    return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if _together() else (0, 1)


def _largest(*numbers: int) -> list[int]:
    """Return the largest of each number over all processes, so that all do the same."""
    if not _together():
        return list(numbers)
    device = "cpu" if "gloo" in torch.distributed.get_backend_config() else "cuda"
    found = torch.tensor(numbers, dtype=torch.int64, device=device)
    torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX)
    return found.tolist()


def _gathered(one: object) -> list:
    """Return what every process has, in their order."""
    if not _together():
        return [one]
    found = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, one)
    return found


def _wait() -> None:
    """Wait for all processes."""
    if _together():
        torch.distributed.barrier()
