"""Follow each request of a guarded `TradingClient` that the gate judges, until it is known what became of it.

What was admitted while trading was open, and has no answer yet, is in no list of the venue's and has reserved nothing:
it is counted from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from breaker.engines.admission import Book, Deferred
from breaker.engines.alpaca_orders import Holding, Sender, WorkingOrder, counted_once
from breaker.gate import clock
from breaker.gate.decision import Permit
from breaker.gate.intents import CancelIntent, OrderIntent, OrderList, ReplaceIntent

LOST_FOR = 10.0
"""Seconds for which an order without an answer counts, though the venue does not list it: as long as a reservation."""


@dataclass(frozen=True, slots=True)
class Listed:
    """What the venue lists."""

    positions: Sequence[Holding]
    orders: Sequence[WorkingOrder]


@dataclass(frozen=True, slots=True)
class AccountBook(Book):
    """What the venue lists, and what was on its way to it when that was read."""

    listed: Listed
    leaving: Sequence[tuple[Call, Any]]


class Call(Deferred):
    """One request: what the gate is asked, and how far it has come.

    Args:
        what: As which it is told to the rules.
        sender: Whose it is.
        intent: What it asks for, where that is known by now.
        make: What it asks for, where that is known to make sense.
        intent_of: What it asks for by what the venue lists; None where that can't be known.
        name: Its client order id.
        alone: Whether the venue cancels every working order before.
    """

    def __init__(
        self,
        what: str,
        sender: Sender,
        *,
        intent: OrderIntent | OrderList | None = None,
        make: Callable[[], OrderIntent | OrderList] | None = None,
        intent_of: Callable[[Listed | None], Any] | None = None,
        name: str = "",
        alone: bool = False,
    ) -> None:
        self.what = what
        self.account = sender.account
        self.strategy = sender.strategy
        self.name = name
        self._intent: Any = intent
        self._make = make
        self._intent_of = intent_of
        self._alone = alone
        if intent is not None:
            self.malformed = intent.malformed
        self.permit: Permit | None = None
        self.left = False
        """Whether the present attempt may have reached the venue."""
        self.uncertain = False
        """Whether an attempt ended without saying if it was taken."""
        self.sent_at = 0.0
        """When the present attempt left, in monotonic seconds."""
        self.until = math.inf
        """Till when it counts, on the gate's clock."""

    @property
    def symbol(self) -> str | None:
        """What it trades, as far as that is told."""
        intent = self._made()
        order = intent.order if isinstance(intent, ReplaceIntent) else intent
        return getattr(order, "symbol", None)

    @property
    def legs(self) -> Sequence[Any] | None:
        """Its orders, where there are several."""
        intent = self._made()
        return intent.orders if isinstance(intent, OrderList) else None

    def of(self, book: Book | None) -> tuple[Any, Book | None]:
        known = book if isinstance(book, AccountBook) else None
        intent = self.intent_by(known.listed if known else None)
        if known is None:
            return intent, book
        others = [each for call, each in known.leaving if call is not self and call.counts]
        return intent, Book(known.positions, [*(() if self._alone else known.working), *others])

    def intent_by(self, listed: Listed | None) -> Any:
        """What it asks for, by what the venue lists."""
        if self._intent_of is not None:
            self._intent = self._intent_of(listed)
        return self._made()

    def _made(self) -> Any:
        if self._intent is None and self._make is not None:
            self._intent = self._make()
        return self._intent

    @property
    def counts(self) -> bool:
        """Whether it may be at the venue while nothing else says so: what is reserved counts by itself."""
        return self.permit is not None and not self.permit.reservation and clock.now() < self.until


class Calls:
    """Those of one client whose end is not known. May be used from any thread."""

    def __init__(self) -> None:
        self._open: set[Call] = set()
        self.begin = self._open.add

    def end(self, call: Call) -> None:
        """The venue has answered, or it never left."""
        self._open.discard(call)

    def lose(self, call: Call) -> None:
        """Whether the venue has taken it is not known."""
        call.until = clock.now() + LOST_FOR

    def of_name(self, name: str) -> Call | None:
        """The one with this client order id."""
        return next((call for call in tuple(self._open) if call.name == name), None) if name else None

    def all(self) -> tuple[Call, ...]:
        """Those that may still be on their way."""
        now = clock.now()
        for call in tuple(self._open):
            if call.until <= now:
                self._open.discard(call)
        return tuple(self._open)


def book_of(listed: Listed, leaving: Sequence[Call]) -> AccountBook:
    """The book by what is listed. `leaving` was on its way before the orders were listed."""
    names = {order.client_order_id for order in listed.orders}
    unlisted = [call for call in leaving if not call.name or call.name not in names]
    counted = [(call, what) for call in unlisted if (what := _takes(call.intent_by(listed), listed)) is not None]
    return AccountBook(listed.positions, counted_once(listed.orders), listed, counted)


def _takes(intent: Any, listed: Listed) -> OrderIntent | OrderList | None:
    """What a request on its way may take beside what is listed."""
    if isinstance(intent, CancelIntent):
        return None
    if isinstance(intent, OrderIntent | OrderList):
        return intent
    old = next((order for order in listed.orders if order.id == intent.order_id), None)
    new = intent.order
    if old is None or old.quantity is None or new.malformed is not None or new.quantity is None:
        return None
    added = Decimal(new.quantity) - old.quantity
    return OrderIntent(new.symbol, new.side, added) if added > 0 else None
