"""Record what the venue saw: the evidence by which a kill switch is judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

from breaker.orders import ZERO, Side
from sandbox.exchange.assets import in_positions
from sandbox.exchange.orders import Origin, PaperOrder
from sandbox.exchange.protection import Protection

_KEPT: Final = 1_000
"""At most that many entries of a list; what is counted is counted to the end."""


_CANCEL_ALL: Final = frozenset(
    {"DELETE /v2/orders", "DELETE /api/v3/openOrders", "DELETE /fapi/v1/allOpenOrders", "TWS reqGlobalCancel"}
)


class VenueRecord:
    """Counts and moments, in seconds on the exchange's clock. It only listens, and never changes the exchange."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.responses: Counter[int] = Counter()
        self.trouble: Counter[str] = Counter()
        self.orders_created: Counter[Origin] = Counter()
        self.exits_refused = 0
        self.raced_cancels = 0
        self.strategy_orders_refused = 0
        self.first_request_at: float | None = None
        self.first_cancel_all_at: float | None = None
        self.first_no_open_orders_at: float | None = None
        self.no_open_orders_at: float | None = None
        self.first_flat_at: float | None = None
        self.flat_at: float | None = None
        self.times_flat = 0
        self.fills: Counter[Origin] = Counter()
        self.rules_broken: Counter[str] = Counter()
        """Clients' orders that the venue refused as ill-formed, by the rule."""
        self.protection = Protection()
        self._closes: Counter[str] = Counter()
        self._largest_close: dict[str, object] | None = None
        self._largest_ratio = ZERO
        self._was_long: dict[str, bool] = {}
        self._sign_changes: list[dict[str, object]] = []
        self._duplicates: list[str] = []
        self._too_large: list[dict[str, object]] = []
        self._violations: list[str] = []

    def requested(self, route: str, now: float) -> None:
        self.requests[route] += 1
        if self.first_request_at is None:
            self.first_request_at = now
        if self.first_cancel_all_at is None and route in _CANCEL_ALL:
            self.first_cancel_all_at = now

    def submitted(self, name: str, side: Side, qty: Decimal, position: Decimal, working: Decimal) -> None:
        """A client's order is about to be accepted; `working` is what other orders already reduce the position by.

        Of these only such as could turn it over; `name` is the position's.
        """
        if position * side.sign >= 0:
            return
        symbol = in_positions(name)
        self._closes[symbol] += 1
        size = abs(position)
        if qty / size > self._largest_ratio:
            self._largest_ratio = qty / size
            self._largest_close = {"symbol": symbol, "qty": f"{qty:f}", "position": f"{position:f}"}
        if qty > size:
            self._violate(f"a close of {qty:f} {symbol} was larger than the position of {position:f}")
        elif qty + working > size:
            self._violate(
                f"closes of {symbol} at work at once, {working:f} and {qty:f}, exceeded the position of {position:f}"
            )

    def left_uncovered(self, short: str, changes: Mapping[str, Decimal]) -> None:
        """A client's order takes from a short option what covers it, and the venue lets it."""
        sold = ", ".join(f"{qty:f} {in_positions(symbol)}" for symbol, qty in changes.items())
        self._violate(f"an order ({sold}) left the short {short} uncovered")

    def refused_as_too_large(self, symbol: str, qty: Decimal, position: Decimal) -> None:
        if len(self._too_large) < _KEPT:
            self._too_large.append({"symbol": in_positions(symbol), "qty": f"{qty:f}", "position": f"{position:f}"})

    def duplicate_refused(self, client_order_id: str) -> None:
        if len(self._duplicates) < _KEPT:
            self._duplicates.append(client_order_id)

    def filled(self, now: float, order: PaperOrder, before: Decimal, after: Decimal) -> None:
        """Note a change of sign, also one by way of zero, as a second close of the same position makes it."""
        self.fills[order.origin] += 1
        symbol = in_positions(order.position_name)
        if before:
            self._was_long[symbol] = before > 0
        if not after or self._was_long.get(symbol, after > 0) == (after > 0):
            return
        if len(self._sign_changes) < _KEPT:
            self._sign_changes.append(
                {
                    "at": now,
                    "symbol": symbol,
                    "before": f"{before:f}",
                    "after": f"{after:f}",
                    "by": order.origin.value,
                    "client_order_id": order.client_order_id,
                }
            )
        if order.closing or (order.origin is Origin.CLIENT and before):
            turn = "short to long" if after > 0 else "long to short"
            self._violate(f"{symbol} turned from {turn} ({after:f}) by the order {order.client_order_id}")

    def no_open_orders(self, now: float) -> None:
        self.no_open_orders_at = now
        if self.first_no_open_orders_at is None:
            self.first_no_open_orders_at = now

    def became_flat(self, now: float) -> None:
        self.times_flat += 1
        self.flat_at = now
        if self.first_flat_at is None:
            self.first_flat_at = now

    def as_dict(self) -> dict[str, object]:
        return {
            "requests": dict(self.requests),
            "responses": {str(status): count for status, count in self.responses.items()},
            "trouble": dict(self.trouble),
            "orders_created": {origin.value: self.orders_created[origin] for origin in Origin},
            "fills": {origin.value: self.fills[origin] for origin in Origin},
            "closes": dict(self._closes),
            "largest_close": self._largest_close,
            "closes_refused_as_too_large": self._too_large,
            "exits_refused": self.exits_refused,
            "rules_broken": dict(self.rules_broken),
            "duplicate_client_order_ids_refused": self._duplicates,
            "raced_cancels": self.raced_cancels,
            "strategy_orders_refused": self.strategy_orders_refused,
            "sign_changes": self._sign_changes,
            "violations": self._violations,
            "unprotected": self.protection.gaps(),
            "first_request_at": self.first_request_at,
            "first_cancel_all_at": self.first_cancel_all_at,
            "first_no_open_orders_at": self.first_no_open_orders_at,
            "first_flat_at": self.first_flat_at,
            "times_flat": self.times_flat,
        }

    def _violate(self, sentence: str) -> None:
        if len(self._violations) < _KEPT:
            self._violations.append(sentence)
