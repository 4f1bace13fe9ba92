"""Admit one account's orders: by the gate alone while trading is open, and by what the account holds otherwise."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from breaker.engines import AsyncAdmission, Book, OrderRefused
from breaker.gate import Decision, Gate, Permit
from breaker.orders import Order, Position
from brokers.protocol import Listed
from services.gateway.on_their_way import OnTheirWay
from services.gateway.orders import Asked, claims_of
from services.gateway.routes import Kind

RESERVE_BESIDE = 5.0
"""Seconds for which an order whose outcome isn't known counts as working, beside those that its answer may take."""


class Account(Protocol):
    """What is read of the account: the part of `brokers.protocol.Broker` that says what it holds."""

    async def open_orders(self) -> Listed[Order]: ...

    async def positions(self) -> Listed[Position]: ...


@dataclass(slots=True)
class Admitted:
    """A request on its way to the venue.

    Attributes:
        asked: What it is.
        permit: By which it may be sent; another one once it was judged anew at the wire.
        judged: The order that the permit is for; None where it was not known which, so that every breaker counts.
        has_left: Whether any of it may have reached the venue.
    """

    asked: Asked
    permit: Permit
    judged: Any = None
    has_left: bool = False


class _Working:
    """The open orders that were read, and what has left meanwhile: looked up when it is judged, not when it was read.

    Its intents stand for orders, so that one which is in the reading too counts twice, and not once too little.
    """

    def __init__(
        self, orders: Sequence[Any], positions: Sequence[Any], on_their_way: Callable[[], list[Asked]]
    ) -> None:
        self._orders = orders
        self._positions = positions
        self._on_their_way = on_their_way

    def __iter__(self) -> Iterator[Any]:
        yield from self._orders
        for asked in self._on_their_way():
            yield from claims_of(asked, Book(self._positions, self._orders))


class Gatekeeper:
    """Judges what an engine asks. Used from one event loop.

    Args:
        gate: Judges.
        account: Is read while the gate is not open.
        read_within: Seconds for reading it.
    """

    def __init__(self, gate: Gate, account: Account, read_within: float) -> None:
        self.gate = gate
        self._account = account
        self._read_within = read_within
        self._admission = AsyncAdmission(gate, self._read_book)
        self._one_at_a_time = asyncio.Lock()
        self._on_their_way = OnTheirWay(unanswered_for=RESERVE_BESIDE + read_within, answered_for=1 + 2 * read_within)

    async def admit(self, asked: Asked) -> Admitted:
        """Raises OrderRefused."""
        if asked.kind is Kind.NEW:
            return Admitted(asked, await self._admission.admit(asked.order), asked.order)
        return await self._admit_other(asked)

    async def confirm(self, admitted: Admitted) -> None:
        """Asked where the first byte is about to leave. Raises OrderRefused.

        A permit that no longer stands frees what it had reserved, and the request is judged anew.
        """
        if admitted.asked.kind is Kind.NEW:
            admitted.permit = await self._admission.confirm(admitted.permit, admitted.judged)
        elif not self.gate.recheck(admitted.permit, admitted.judged):
            self.gate.settle(admitted.permit)
            anew = await self._admit_other(admitted.asked)
            admitted.permit, admitted.judged = anew.permit, anew.judged
        admitted.has_left = True
        if not admitted.permit.reservation:
            self._on_their_way.left(admitted.asked)

    def taken(self, admitted: Admitted) -> None:
        """The venue has it."""
        self._on_their_way.answered(admitted.asked)
        self._admission.answered(admitted.permit)

    def refused(self, admitted: Admitted) -> None:
        """The venue doesn't have it, and never will."""
        self._on_their_way.refused(admitted.asked)
        self._admission.not_sent(admitted.permit)

    async def _admit_other(self, asked: Asked) -> Admitted:
        if asked.kind in (Kind.CANCEL, Kind.CLOSE_ALL) or self.gate.is_open:  # nothing has to be read for it
            decision = self.gate.check(asked.order)
            if decision.permit is not None:
                return Admitted(asked, decision.permit)
        if asked.by_book is None:
            status = self.gate.status()
            sentence = f"{status.sentence} What this request does is not known here, so it is not sent meanwhile."
            raise OrderRefused(Decision(False, status.reason, sentence))
        return await self._by_book(asked, asked.by_book)

    async def _by_book(self, asked: Asked, intent_of: Callable[[Book | None], Any]) -> Admitted:
        book: Book | None = None
        problem: Exception | None = None
        try:
            async with asyncio.timeout(self._read_within), self._one_at_a_time:
                book = await self._read_book()
        except Exception as error:  # whatever it is, what is held is not known
            problem = error
        intent = intent_of(book)
        decision = self.gate.check(intent) if book is None else self.gate.check(intent, book.positions, book.working)
        if decision.permit is None:
            raise OrderRefused(decision) from problem
        return Admitted(asked, decision.permit, intent)

    async def _read_book(self) -> Book:
        """Orders first: what fills in between is then counted twice, and not left out."""
        begun = time.monotonic()
        async with asyncio.timeout(self._read_within):
            orders = await self._account.open_orders()
            positions = await self._account.positions()
        held, working = (*positions.items, *positions.unreadable), (*orders.items, *orders.unreadable)
        return Book(held, _Working(working, held, lambda: self._on_their_way.since(begun)))
