"""What `python` is where forked_python.py has been started: asks for a fork, and lives and ends as it does."""

import json
import os
import signal
import socket
import sys
from contextlib import suppress

FLAGS = ("-P", "-u", "-m")  # the last names a module, what else follows is a script
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def open_files():
    """Return the numbers of the files that this process was given; a shell's <(…) is one of them."""
    found = []
    for name in os.listdir("/dev/fd"):
        with suppress(OSError):  # that of this list is closed
            if os.get_inheritable(int(name)):
                found.append(int(name))
    return found


def main(address, python, *command):
    """Run a script or a module in a fork and return its exit code; what is anything else, the real Python runs."""
    real = [sys.executable, *command]
    if next((option for option in command if option not in FLAGS), "-").startswith("-"):
        os.execv(sys.executable, real)
    files = open_files()
    server = socket.socket(socket.AF_UNIX)
    server.connect(address)
    ignored = [number for number in SIGNALS if signal.getsignal(number) == signal.SIG_IGN]
    wanted = {"folder": os.getcwd(), "environment": dict(os.environ), "ignored": ignored, "files": files}
    socket.send_fds(server, [b" "], files)
    server.sendall(json.dumps(wanted | {"command": [python, *command]}).encode() + b"\n")
    answers = server.makefile()
    fork = int(answers.readline() or 0)
    if not fork:
        os.execv(sys.executable, real)

    def pass_on(number, _):
        with suppress(ProcessLookupError):
            os.kill(fork, number)

    for number in SIGNALS:
        signal.signal(number, pass_on)
    code = int(answers.readline() or 1)
    if code < 0:
        with suppress(OSError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
