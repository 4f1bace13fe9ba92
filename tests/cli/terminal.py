"""Run the command line on a pseudo-terminal, and type what a person types."""

from __future__ import annotations

import os
import pty
import time

from proofs.fork_server import ForkServer

CTRL_C, CTRL_D = b"\x03", b"\x04"


class Terminal:
    """The command line on a real pseudo-terminal, which is its controlling terminal."""

    def __init__(self, fork_server: ForkServer, environment: dict[str, str], *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        self.process = fork_server.start(
            "cli", *arguments, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, terminal=True
        )
        os.close(theirs)
        os.set_blocking(self._ours, False)
        self.seen = ""

    def wait_for(self, text: str, timeout: float = 30) -> None:
        deadline = time.monotonic() + timeout
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            self._read()

    def type(self, text: str) -> None:
        self.press(text.encode() + b"\n")

    def press(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def ended(self, timeout: float = 40) -> int:
        deadline = time.monotonic() + timeout
        while (status := self.process.poll()) is None:
            assert time.monotonic() < deadline, self.seen
            self._read()
        self._read()
        return status

    def hang_up(self) -> None:
        """As a connection that is lost does: the terminal is gone, and says so with SIGHUP."""
        os.close(self._ours)
        self._ours = -1

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        if self._ours >= 0:
            self.hang_up()

    def _read(self) -> None:
        try:
            self.seen += os.read(self._ours, 65536).decode(errors="replace")
        except BlockingIOError:
            time.sleep(0.01)
        except OSError:  # the other end is closed
            time.sleep(0.01)
