"""Judge an account's orders, reading what it holds only while the gate is not open, and then not for every order.

While trading is open an order costs one check and nothing is read. Otherwise the answer depends on positions and
working orders: they are read, kept for a bounded time, and what was let through since counts by its reservation.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from breaker.gate import clock
from breaker.gate.decision import OrderRefused, Permit, Reason
from breaker.gate.gate import Gate

MAX_AGE = 0.5
"""Seconds for which what an account holds is believed, unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Book:
    """What an account holds and has working, as `Gate.check` takes them.

    Attributes:
        positions: All positions, each like `breaker.orders.Position`, or a mapping of symbols to signed quantities.
        working: All open orders, each like `breaker.orders.Order`.
    """

    positions: Any
    working: Iterable[Any]


class Deferred:
    """An order that only the book can tell, as one to close what is held; admissions take it in an intent's place.

    While trading is open the book isn't read, and it passes as it is.

    Attributes:
        malformed: Why it can't be an order at all; None for one that can.
        account: The account that it is for.
        strategy: The strategy that sends it.
    """

    malformed: str | None = None
    account: str | None = None
    strategy: str | None = None

    def of(self, book: Book | None) -> tuple[Any, Book | None]:
        """What it is.

        Args:
            book: What the account holds; None where that can't be known.

        Returns:
            The intent, and the book that it is to be judged by.
        """
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class _Reading:
    """What came of reading the account: its book, or why there is none; and when, on the gate's clock."""

    at: float
    book: Book | None = None
    problem: Exception | None = None


class _Kept:
    """The newest reading, and the permits whose orders the next one will have."""

    def __init__(self, gate: Gate, max_age: float) -> None:
        if not 0 <= max_age <= 10:
            raise ValueError(f"max_age must be 0 to 10 seconds, not {max_age}")
        self._gate = gate
        self._max_age = max_age
        self._reading: _Reading | None = None
        self._forgotten = 0
        self._answered: deque[Permit] = deque()

    def fresh(self) -> _Reading | None:
        """A failure is kept as long as a success: a venue that is down isn't asked for each order."""
        reading = self._reading
        return reading if reading is not None and clock.now() - reading.at < self._max_age else None

    def begin(self) -> tuple[float, int, int]:
        return clock.now(), len(self._answered), self._forgotten

    def keep(self, book: Book, begun: tuple[float, int, int]) -> _Reading:
        """An order that the venue had answered before the reading began is in it, so it no longer counts twice.

        What was to be forgotten meanwhile may be in it too, so it serves this once.
        """
        at, answered, forgotten = begun
        reading = _Reading(at, book)
        self._reading = reading if forgotten == self._forgotten else None
        for _ in range(answered):
            self._gate.settle(self._answered.popleft())
        return reading

    def keep_failure(self, problem: Exception) -> _Reading:
        self._reading = _Reading(clock.now(), problem=problem)
        return self._reading

    def forget(self) -> None:
        self._forgotten += 1
        self._reading = None

    def answered(self, permit: Permit) -> None:
        if permit.reservation:
            self._answered.append(permit)


class _Judge:
    """What both admissions have in common: everything but the reading."""

    def __init__(self, gate: Gate, max_age: float) -> None:
        self._gate = gate
        self._kept = _Kept(gate, max_age)

    def answered(self, permit: Permit) -> None:
        """The venue has taken the order: it counts as on its way until the account is read again.

        Args:
            permit: The one that it was admitted with.
        """
        self._kept.answered(permit)

    def not_sent(self, permit: Permit) -> None:
        """The venue has refused the order, or it never left: nothing of it can fill. Not for an unknown outcome.

        Args:
            permit: The one that it was admitted with.
        """
        self._gate.settle(permit)

    def forget(self) -> None:
        """Read the account anew for the next order that needs it."""
        self._kept.forget()

    def stands(self, permit: Permit, intent: Any) -> bool:
        """Whether the order may still be sent. If not, what it has reserved is free again, and it has to be admitted.

        Args:
            permit: The one that it was admitted with.
            intent: The order.

        Returns:
            Whether it may.
        """
        if self._gate.recheck(permit, intent):
            return True
        self._gate.settle(permit)
        return False

    def _while_open(self, intent: Any) -> Permit | None:
        """The permit of an order that needs no look at the account; None where it does."""
        if not self._gate.is_open:
            return None
        decision = self._gate.check(intent)
        malformed = decision.reason is Reason.INVALID_ORDER and not (
            isinstance(intent, Deferred) and intent.malformed is None
        )
        if decision.permit is None and malformed:
            raise OrderRefused(decision)
        return decision.permit

    def _by(self, reading: _Reading, intent: Any) -> Permit:
        book = reading.book
        if isinstance(intent, Deferred):
            intent, book = intent.of(book)
        decision = self._gate.check(intent) if book is None else self._gate.check(intent, book.positions, book.working)
        if decision.permit is None:
            raise OrderRefused(decision) from reading.problem
        return decision.permit


class Admission(_Judge):
    """Admits or refuses the orders of one account. May be used from any thread.

    Args:
        gate: Judges.
        read_book: Reads what the account holds, within a time limit of its own. Working orders first, then positions:
            what fills in between is then counted twice, and not left out. If it raises, what is held is not known.
        max_age: Seconds, at most 10, for which a reading is believed.

    Raises:
        ValueError: `max_age` makes no sense.

    Example:
        >>> admission = Admission(gate, lambda: Book({"AAPL": 100}, ()))
        >>> permit = admission.admit(OrderIntent("AAPL", "buy", 10))
        >>> permit = admission.confirm(permit, OrderIntent("AAPL", "buy", 10))
    """

    def __init__(self, gate: Gate, read_book: Callable[[], Book], *, max_age: float = MAX_AGE) -> None:
        super().__init__(gate, max_age)
        self._read_book = read_book
        self._reading = threading.Lock()

    def admit(self, intent: Any) -> Permit:
        """Let an order through, or not.

        Args:
            intent: As for `Gate.check`, or a `Deferred` one.

        Returns:
            The permit, to be given to `confirm`, `answered` or `not_sent`.

        Raises:
            OrderRefused: the gate says no.
        """
        return self._while_open(intent) or self._by(self._read(), intent)

    def confirm(self, permit: Permit, intent: Any) -> Permit:
        """Ask once more where the order leaves the process, which may be long after it was admitted.

        A client's own rate limiter and retries wait too. Where the permit no longer stands, the order is judged anew,
        so that an exit asked for just before a trip is not refused for it.

        Args:
            permit: The one that it was admitted with.
            intent: The order.

        Returns:
            The permit from now on.

        Raises:
            OrderRefused: it may not be sent any more.
        """
        return permit if self.stands(permit, intent) else self.admit(intent)

    def book(self) -> Book | None:
        """What the account holds, as `admit` would take it; None where it can't be read.

        For what a client asks for by what is held, such as the close of a position.
        """
        return self._read().book

    def _read(self) -> _Reading:
        with self._reading:  # whoever waits here takes the reading of the one before
            fresh = self._kept.fresh()
            if fresh is not None:
                return fresh
            begun = self._kept.begin()
            try:
                book = self._read_book()
            except Exception as error:
                return self._kept.keep_failure(error)
            return self._kept.keep(book, begun)


class AsyncAdmission(_Judge):
    """`Admission` for asyncio, used from one event loop: `read_book` and `admit` are awaited."""

    def __init__(self, gate: Gate, read_book: Callable[[], Awaitable[Book]], *, max_age: float = MAX_AGE) -> None:
        super().__init__(gate, max_age)
        self._read_book = read_book
        self._reading = asyncio.Lock()

    async def admit(self, intent: Any) -> Permit:
        """See `Admission.admit`."""
        return self._while_open(intent) or self._by(await self._read(), intent)

    async def confirm(self, permit: Permit, intent: Any) -> Permit:
        """See `Admission.confirm`."""
        return permit if self.stands(permit, intent) else await self.admit(intent)

    async def book(self) -> Book | None:
        """See `Admission.book`."""
        return (await self._read()).book

    async def _read(self) -> _Reading:
        async with self._reading:  # whoever waits here takes the reading of the one before
            fresh = self._kept.fresh()
            if fresh is not None:
                return fresh
            begun = self._kept.begin()
            try:
                book = await self._read_book()
            except Exception as error:
                return self._kept.keep_failure(error)
            return self._kept.keep(book, begun)
