"""Log when something fails and when it works again, once each, however often it is tried meanwhile."""

from __future__ import annotations

import structlog

log = structlog.get_logger(__name__)


class OutageLog:
    """`service` is whose log it is: its name begins the lines."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._failing: set[str] = set()

    def note(self, what: str, error: Exception | None) -> None:
        """How `what` went just now; None if it worked."""
        if error is not None and what not in self._failing:
            self._failing.add(what)
            log.warning(f"{self._service} in trouble", what=what, error=str(error) or type(error).__name__)
        elif error is None and what in self._failing:
            self._failing.remove(what)
            log.info(f"{self._service} well again", what=what)
