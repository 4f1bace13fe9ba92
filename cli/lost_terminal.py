"""Go on without a terminal that is closed on the way: neither its signal nor a write to it ends what has begun."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast


@contextmanager
def outliving_terminal() -> Iterator[None]:
    """From within, SIGHUP does nothing, and what can't be written any more goes nowhere. On the main thread."""
    hung_up, out, err = signal.signal(signal.SIGHUP, signal.SIG_IGN), sys.stdout, sys.stderr
    sys.stdout, sys.stderr = cast(TextIO, _UntilLost(out)), cast(TextIO, _UntilLost(err))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = out, err
        signal.signal(signal.SIGHUP, hung_up or signal.SIG_DFL)


class _UntilLost:
    """A stream for as long as somebody is at its other end, a terminal or a pipe."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._lose()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._lose()

    def _lose(self) -> None:
        """What is still buffered is flushed when the process ends, and has to go somewhere."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
