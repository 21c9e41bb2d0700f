"""Mistakes that a user can mend, told in one sentence."""

import errno
import gc
import os
import signal
import sys
from collections.abc import Callable

DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


class InputError(Exception):
    """Bad input: the message names what was found, where, and what would do."""


def run(main: Callable[[], None]) -> int:
    """Run a script's `main` and return its exit code; what a user can mend is one sentence on stderr."""
    # Imports make hundreds of thousands of objects that stay: to look through them for garbage takes half a second.
    gc.set_threshold(100_000)
    # A job's shell ignores SIGTERM, to outlive a job that saves its state first; every other job shall die of it.
    if signal.getsignal(signal.SIGTERM) == signal.SIG_IGN:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        if isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error):
            print("error: the memory is full; lower batch_size or max_tokens, or give jobs more of it", file=sys.stderr)
            return 1
        if type(error).__name__ == "OutOfMemoryError":  # torch's, which isn't imported here
            told = str(error).partition(". GPU")[0]
            print(f"error: {told}; lower batch_size or max_tokens, or give the job more gpu_memory", file=sys.stderr)
            return 1
        # Libraries in other languages hand the system's error on as text.
        if getattr(error, "errno", None) not in DISK_FULL and os.strerror(errno.ENOSPC) not in str(error):
            raise
        filename = getattr(error, "filename", None)
        where = f" while writing {filename}" if filename else ""
        print(f"error: no space is left on the disk{where}; free some and run again", file=sys.stderr)
        return 1
    return 0
