"""Lay cables between machines that are network namespaces: one bridge, and a plug that can be pulled for each machine.

This process moves to a network of its own first, which has the bridge: nothing of it is seen outside, no name is taken,
and it is gone with the last process in it. A machine is a thread in a network, with a host name, of its own: whatever
is started from that thread is on that machine.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")
_NETWORK: Final = 0x40000000
_HOST_NAME: Final = 0x04000000
_PREFIX: Final = "10.88.0"
HERE: Final = f"{_PREFIX}.254"
"""Where this process is on the bridge."""


class NoNamespaces(RuntimeError):
    """This process may not make network namespaces; one line."""


def lay_network() -> None:
    """Move this process to a network with nothing but a bridge. Before it has other threads. Raises NoNamespaces."""
    try:
        _unshare(_NETWORK)
        _ip("link", "set", "lo", "up")
        _ip("link", "add", "switch", "type", "bridge")
        _ip("addr", "add", f"{HERE}/24", "dev", "switch")
        _ip("link", "set", "switch", "up")
    except (OSError, subprocess.CalledProcessError) as error:
        raise NoNamespaces(f"network namespaces need root, and `ip` of iproute2: {error}") from None


class Machine:
    """One machine on the bridge, under `name`, at the address that ends with `number`."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.address = f"{_PREFIX}.{number}"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._network = self.do(self._move_in)
        _ip("link", "set", name, "master", "switch")
        self.plug_in()

    def do(self, work: Callable[[], T]) -> T:
        """On this machine."""
        return self._thread.submit(work).result()

    def pull_plug(self) -> None:
        """Nothing goes in or out, and nobody is told: connections stay, and are silent."""
        _ip("link", "set", self.name, "down")

    def plug_in(self) -> None:
        _ip("link", "set", self.name, "up")

    def pids(self) -> list[int]:
        """Every process on it."""
        return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and self._has(entry)]

    def close(self) -> None:
        _ip("link", "del", self.name)
        self._thread.shutdown()

    def _has(self, process: Path) -> bool:
        try:
            return (process / "ns" / "net").stat().st_ino == self._network
        except OSError:  # it has ended
            return False

    def _move_in(self) -> int:
        _unshare(_NETWORK | _HOST_NAME)
        socket.sethostname(self.name)
        _ip("link", "set", "lo", "up")
        _ip("link", "add", "eth0", "type", "veth", "peer", "name", self.name, "netns", str(os.getpid()))
        _ip("addr", "add", f"{self.address}/24", "dev", "eth0")
        _ip("link", "set", "eth0", "up")
        return Path("/proc/thread-self/ns/net").stat().st_ino


def send(number: signal.Signals, pids: list[int]) -> None:
    """To each that is still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _unshare(what: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(what) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
