"""Cancel orders when clients fall silent: the venue's own dead-man timers, by the exchange's clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Final

from sandbox.exchange.event_queue import EventQueue

_KEPT: Final = 1_000


@dataclass(frozen=True, slots=True)
class Firing:
    """One timer that nobody renewed in time. `symbol` is empty for that of the whole account."""

    at: float
    symbol: str
    cancelled: int


class DeadManTimers:
    """One timer for the account, named by an empty symbol, and one for each symbol. A timer that has fired is off.

    `cancel` asks for the cancellation of a symbol's orders, or of all for an empty one, and says of how many.
    """

    def __init__(self, events: EventQueue, cancel: Callable[[str], int]) -> None:
        self._events = events
        self._cancel = cancel
        self._due: dict[str, float] = {}
        self._firings: list[Firing] = []

    @property
    def armed(self) -> Mapping[str, float]:
        """When each timer fires unless it is renewed, in seconds of the exchange's clock, by symbol."""
        return dict(self._due)

    @property
    def firings(self) -> tuple[Firing, ...]:
        """Those so far, oldest first."""
        return tuple(self._firings)

    def arm(self, seconds: float, symbol: str = "") -> float:
        """Let it fire that long from now, and not when it would have until now; returns the moment."""
        due = self._due[symbol] = self._events.now + seconds
        self._events.after(seconds, lambda: self._fire(symbol, due))
        return due

    def disarm(self, symbol: str = "") -> None:
        """One that is not armed stays so."""
        self._due.pop(symbol, None)

    def as_dict(self) -> dict[str, object]:
        return {"armed": self.armed, "fired": [asdict(firing) for firing in self._firings]}

    def _fire(self, symbol: str, due: float) -> None:
        if self._due.get(symbol) != due:  # renewed or disarmed since
            return
        del self._due[symbol]
        firing = Firing(due, symbol, self._cancel(symbol))
        if len(self._firings) < _KEPT:
            self._firings.append(firing)
