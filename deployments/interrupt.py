"""Let a command that holds servers end in order, whoever ends it and however it was started."""

from __future__ import annotations

import signal
from types import FrameType
from typing import NoReturn


def end_on_signals() -> None:
    """From now on Ctrl-C, SIGTERM and a terminal that is closed raise KeyboardInterrupt in the main thread.

    Ctrl-C too, as a process that a script starts in the background inherits it as ignored. A closed terminal unless
    that is ignored, as with nohup.
    """
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, _interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _interrupt)


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
