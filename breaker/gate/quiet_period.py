"""Limit new risk in the quiet period after a reset: a fraction of normal size, and of the normal order rate.

Both ramp linearly from `start_fraction` at the reset to all of it at the end of the quiet period.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from breaker.gate.order_terms import as_quantity

_ONE = Decimal(1)
_WINDOW = 60.0


@dataclass(frozen=True, slots=True)
class QuietPeriodLimits:
    """What a quiet period allows. Both limits ramp linearly to all of normal at its end.

    Attributes:
        start_fraction: The fraction of normal size and rate at the reset, from 0 to 1.
        orders_per_minute: The normal rate of orders that add risk. Counted in this process over a sliding minute; a
            fleet of N engines may send N times as many.
        normal_quantity: The normal size of an order by symbol (`"*"` for any other), in units of the symbol. Stands in
            for orders that do not carry their own; without any, new risk is refused.

    Raises:
        ValueError: a limit makes no sense.

    Example:
        >>> limits = QuietPeriodLimits(start_fraction=Decimal("0.2"), normal_quantity={"AAPL": 100, "*": 10})
        >>> limits.max_orders(Decimal("0.5"))
        30
    """

    start_fraction: Decimal = Decimal("0.1")
    orders_per_minute: int = 60
    normal_quantity: Mapping[str, Decimal | int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.start_fraction <= 1:
            raise ValueError(f"start_fraction must be between 0 and 1, not {self.start_fraction}")
        if self.orders_per_minute < 0:
            raise ValueError(f"orders_per_minute must not be negative, and is {self.orders_per_minute}")

    def max_orders(self, fraction: Decimal) -> int:
        """How many orders that add risk may pass in a minute.

        Args:
            fraction: Where on the ramp it is, from `start_fraction` to 1.

        Returns:
            A whole number, rounded down.
        """
        return math.floor(self.orders_per_minute * fraction)


@dataclass(frozen=True, slots=True)
class QuietPeriod:
    """One scope's running quiet period: when it ends on the gate's clock, and how long it is, in seconds.

    One whose length is not known (a hand-written state without `reset_at`) stays at the start of the ramp.
    """

    ends: float
    length: float | None

    def fraction(self, now: float, start: Decimal) -> Decimal:
        """The fraction of normal size allowed at `now`, between `start` and 1; never falls as time passes."""
        if self.length is None or self.length <= 0:
            return start
        progress = min(max(1.0 - (self.ends - now) / self.length, 0.0), 1.0)
        return start + (_ONE - start) * Decimal(repr(progress))


def size_problem(
    limits: QuietPeriodLimits, fraction: Decimal, symbol: str, quantity: Decimal | None, normal_quantity: object
) -> str | None:
    """None when `quantity` is within `fraction` of normal size, else a clause that says why not.

    `quantity` is None in an order for an amount of money, of which no fraction of a normal quantity is known.

    Raises `InvalidOrder` when the order's own normal quantity is no number.
    """
    if quantity is None:
        return f"how much of {symbol} an order for an amount of money takes is not known, so its size isn't either"
    normal = limits.normal_quantity.get(symbol, limits.normal_quantity.get("*"))
    if normal_quantity is not None:
        normal = as_quantity(normal_quantity, "the order's normal quantity")
    if normal is None:
        return f"no normal size is known for {symbol}, so no fraction of it either"
    allowed = normal * fraction
    if quantity > allowed:
        return f"{quantity} is more than {allowed:.6g}, {fraction:.1%} of the normal size {normal}"
    return None


class OrderRateLimiter:
    """Counts the orders let through in the last minute. Safe to call from several threads; never blocks for long."""

    def __init__(self) -> None:
        self._admitted: deque[float] = deque()
        self._lock = threading.Lock()

    def renew_lock(self) -> None:
        """In a forked child: another thread of the parent may have held it, and there is none to let it go."""
        self._lock = threading.Lock()

    def admit(self, now: float, limits: QuietPeriodLimits, fraction: Decimal, orders: int = 1) -> bool:
        """Count so many more orders at `now` if the ramped rate has room for all of them."""
        most = limits.max_orders(fraction)
        with self._lock:
            while self._admitted and self._admitted[0] <= now - _WINDOW:
                self._admitted.popleft()
            if len(self._admitted) + orders > most and orders:
                return False
            self._admitted.extend([now] * orders)
            return True
