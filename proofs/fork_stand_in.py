"""Stand in for a process that the fork server has forked: what starts a Python interpreter gets a child of its own.

The child's arguments, environment, directory and open files go on to the forked process, and so do the signals that it
gets; it ends as that one does, and that one is killed when it is.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from types import FrameType

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def stand_in(python: str, address: str) -> None:
    """Have this interpreter's program run by the fork server at `address`; by `python` itself when it is no program."""
    arguments = sys.argv[1:]
    if arguments[:1] not in (["-m"], ["-c"]):
        os.execv(python, [python, *arguments])
    inherited = [number for number in sorted(map(int, os.listdir("/proc/self/fd"))) if _is_open(number)]  # noqa: PTH208
    asking = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    asking.connect(address)
    asking.recv(32)
    reading, writing = os.pipe()
    request = {
        "module": arguments[1] if arguments[0] == "-m" else "-c",
        "arguments": arguments[2:] if arguments[0] == "-m" else arguments[1:],
        "env": dict(os.environ),
        "cwd": os.getcwd(),  # noqa: PTH109
        "numbers": inherited,
        "python": sys.argv[0],
        "stands_in": True,
        "terminal": False,
    }
    pending: list[int] = []
    forwarded = [number for number in FORWARDED if signal.getsignal(number) is not signal.SIG_IGN]
    for each in forwarded:
        signal.signal(each, lambda number, _: pending.append(number))
    socket.send_fds(asking, [json.dumps(request).encode()], [*inherited, writing])
    child = int(asking.recv(32))

    def forward(number: int, _: FrameType | None = None) -> None:
        os.kill(child, number)

    for each in forwarded:
        signal.signal(each, forward)
    for number in pending:
        forward(number)
    os.close(writing)
    for number in inherited:
        os.close(number)
    status = int(os.read(reading, 32) or -signal.SIGKILL)
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return os.get_inheritable(number)
