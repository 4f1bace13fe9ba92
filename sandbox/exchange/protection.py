"""Time for how long a position that had a stop is open while neither a stop nor a close works for all of it."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Final

from breaker.orders import ZERO, OrderType
from sandbox.exchange.assets import in_positions
from sandbox.exchange.orders import Origin, PaperOrder

_STOPS: Final = frozenset({OrderType.STOP, OrderType.STOP_LIMIT, OrderType.TRAILING_STOP})
_KEPT: Final = 1_000


class Protection:
    """Told of each change of a position or its orders; times are seconds on the exchange's clock."""

    def __init__(self) -> None:
        self._protected: set[str] = set()
        """Symbols whose position has had such an order since it was opened."""
        self._since: dict[str, float] = {}
        self._gaps: list[dict[str, object]] = []

    def note(self, now: float, symbol: str, position: Decimal, orders: Iterable[PaperOrder]) -> None:
        """The position is this much now, and these are the open orders of its symbol."""
        if position and _covers(position, orders):
            self._protected.add(symbol)
            self._end(symbol, now)
        elif not position:
            self._end(symbol, now)
            self._protected.discard(symbol)
        elif symbol in self._protected:
            self._since.setdefault(symbol, now)

    def gaps(self) -> list[dict[str, object]]:
        """The intervals, in the order of their end; those that go on have none."""
        going_on: list[dict[str, object]] = [
            {"symbol": in_positions(symbol), "from": since, "to": None} for symbol, since in self._since.items()
        ]
        return [*self._gaps, *going_on]

    def _end(self, symbol: str, now: float) -> None:
        since = self._since.pop(symbol, None)
        if since is not None and now > since and len(self._gaps) < _KEPT:
            self._gaps.append({"symbol": in_positions(symbol), "from": since, "to": now})


def _covers(position: Decimal, orders: Iterable[PaperOrder]) -> bool:
    """Whether stops, or else what clients have sent to reduce the position, are for all of it."""
    reducing = [order for order in orders if order.side.sign * position < 0]
    stops = sum((order.remaining for order in reducing if order.type in _STOPS), ZERO)
    closes = sum((order.remaining for order in reducing if order.origin is Origin.CLIENT), ZERO)
    return stops + closes >= abs(position)
