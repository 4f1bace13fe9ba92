"""Admit one account's orders: by the gate alone while trading is open, and by what the account holds otherwise."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from breaker.engines import AsyncAdmission, Book, OrderRefused
from breaker.gate import CancelIntent, Decision, Gate, Permit, Reason
from breaker.orders import Order, Position
from brokers.protocol import Listed
from services.gateway.orders import Asked
from services.gateway.routes import Kind


class Account(Protocol):
    """What is read of the account: the part of `brokers.protocol.Broker` that says what it holds."""

    async def open_orders(self) -> Listed[Order]: ...

    async def positions(self) -> Listed[Position]: ...


@dataclass(slots=True)
class Admitted:
    """An order on its way to the venue, and what it may go by; `permit` changes when it is asked again at the wire."""

    asked: Asked
    permit: Permit
    has_left: bool = False


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

    async def admit(self, asked: Asked) -> Admitted:
        """Raises OrderRefused."""
        return Admitted(asked, await self._permit(asked))

    async def confirm(self, admitted: Admitted) -> None:
        """Asked where the first byte is about to leave. Raises OrderRefused.

        A permit that no longer stands frees what it had reserved, and the order is judged anew.
        """
        asked = admitted.asked
        if asked.by_book is None and not isinstance(asked.order, CancelIntent):
            admitted.permit = await self._admission.confirm(admitted.permit, asked.order)
        elif not self.gate.recheck(admitted.permit, asked.order):
            self.gate.settle(admitted.permit)
            admitted.permit = await self._permit(asked)
        admitted.has_left = True

    def taken(self, admitted: Admitted) -> None:
        """The venue has it."""
        self._admission.answered(admitted.permit)

    def refused(self, admitted: Admitted) -> None:
        """The venue doesn't have it, and never will."""
        self._admission.not_sent(admitted.permit)

    async def _permit(self, asked: Asked) -> Permit:
        if asked.by_book is None and not isinstance(asked.order, CancelIntent):
            return await self._admission.admit(asked.order)
        if asked.by_book is None or self.gate.is_open:  # nothing has to be read for it
            decision = self.gate.check(asked.order)
            if decision.permit is not None:
                return decision.permit
        async with self._one_at_a_time:
            problem: Exception | None = None
            try:
                book: Book | None = await self._read_book()
            except Exception as error:  # whatever it is, what is held is not known
                book, problem = None, error
            intent = asked.order if asked.by_book is None else asked.by_book(book)
            decision = (
                self.gate.check(intent) if book is None else self.gate.check(intent, book.positions, book.working)
            )
        if decision.permit is None:
            raise OrderRefused(decision) from problem
        return decision.permit

    async def _read_book(self) -> Book:
        """Orders first: what fills in between is then counted twice, and not left out."""
        async with asyncio.timeout(self._read_within):
            orders = await self._account.open_orders()
            positions = await self._account.positions()
        return Book((*positions.items, *positions.unreadable), (*orders.items, *orders.unreadable))


def why_refused(decision: Decision, asked: Asked) -> str:
    """The gate's sentence; of what the gateway can't tell apart, that it can't."""
    if asked.kind is Kind.OTHER and decision.reason is not Reason.INVALID_ORDER:
        return f"{decision.sentence} What this request does is not known here, so it is not sent meanwhile."
    return decision.sentence
