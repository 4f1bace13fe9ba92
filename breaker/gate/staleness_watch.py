"""Judge the age of data from a thread beside a gate or in the sidecar: old data has no event of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from breaker.errors import BreakerError
from breaker.rules import Verdict

if TYPE_CHECKING:
    from breaker.rules import Rules

_log = logging.getLogger(__name__)


class StalenessWatch:
    """Calls `rules.check_staleness(feeds)` every `every` seconds until stopped.

    While Redis is away nothing can be judged or tripped, and the gates are closed anyway; that is logged once.
    """

    def __init__(self, rules: Rules, feeds: Sequence[str], every: float) -> None:
        self._rules = rules
        self._feeds = tuple(feeds)
        self._every = every
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="breaker-staleness", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        failing = False
        while True:
            try:
                outcome = self._rules.check_staleness(self._feeds)
                failing = False
                if outcome.verdict is Verdict.TRIPPED:
                    _log.error("The breaker was tripped because data is too old: %s", dict(outcome.details))
            except BreakerError as error:
                if not failing:
                    _log.warning("The age of data can't be judged: %s", error)
                failing = True
            if self._stopping.wait(self._every):
                return
