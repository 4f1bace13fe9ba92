"""Call an engine back when its gate's reason changes, from a thread beside the gate."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from breaker.gate.status import GateStatus

POLL_INTERVAL = 0.01
"""Seconds between two looks at the gate."""

_log = logging.getLogger(__name__)


class ChangeNotifier:
    """Looks at a gate's status as long as somebody wants to know, and calls back when its reason is another."""

    def __init__(self, status: Callable[[], GateStatus]) -> None:
        self._status = status
        self._callbacks: list[Callable[[GateStatus], None]] = []
        self._generation = 0

    def add(self, callback: Callable[[GateStatus], None]) -> None:
        """Call `callback` with the new status at each change from now on; an exception in it is logged."""
        self._callbacks.append(callback)
        if len(self._callbacks) == 1:
            self.start()

    def start(self) -> None:
        """Begin anew: after a fork, or with a gate that was restarted."""
        self.stop()
        if self._callbacks:
            thread = threading.Thread(
                target=self._run, args=(self._generation,), name="breaker-gate-watch", daemon=True
            )
            thread.start()

    def stop(self) -> None:
        """Let the thread end by itself, at its next look."""
        self._generation += 1

    def _run(self, generation: int) -> None:
        last = self._status().reason
        while generation == self._generation:
            time.sleep(POLL_INTERVAL)
            status = self._status()
            if status.reason is not last:
                last = status.reason
                for callback in tuple(self._callbacks):
                    try:
                        callback(status)
                    except Exception:
                        _log.exception("An on_change callback of the gate failed")
