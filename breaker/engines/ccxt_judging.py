"""Judge the calls of one of ccxt's exchanges: while trading is open by one check, else by what each call comes to."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

from breaker.engines.admission import Admission, AsyncAdmission, Book
from breaker.engines.ccxt_book import Steps, read_book, read_position_symbols
from breaker.engines.ccxt_call import RAW, Call, Part, awaited, blocking, current, this_task
from breaker.engines.ccxt_calls import as_endpoint, order_endpoints, snake_case
from breaker.engines.ccxt_connections import watch_aiohttp, watch_requests
from breaker.engines.ccxt_orders import NotUnderstood, Owner, asked_by, intent_of
from breaker.engines.ccxt_telling import why_rejected
from breaker.engines.rules_feed import RulesFeed
from breaker.errors import one_line
from breaker.gate import clock
from breaker.gate.decision import Decision, OrderRefused, Reason
from breaker.gate.intents import OrderIntent, ReplaceIntent
from breaker.orders import PositionSide

if TYPE_CHECKING:
    from breaker.gate.gate import Gate

T = TypeVar("T")
JUDGE = "_breaker_judge"
"""The attribute of a guarded exchange that has its `Judge`."""
_UNKNOWN_FOR = 10.0
"""Seconds for which a call without an answer, let through while trading was open, counts as on its way."""
_READINGS = 3
"""Times ccxt's longest wait for one answer that a reading of an account may take, awaited."""


class Judge:
    """Judges what is asked of one exchange of ccxt's.

    Args:
        exchange: ccxt's.
        gate: Says yes or no.
        feed: Is told what comes of it.
        owner: Whose orders they are.
        max_age: As for `Admission`.
        by_await: Whether the exchange's methods are awaited.
        tells: Whether there are rules to be told.
    """

    def __init__(
        self,
        exchange: Any,
        gate: Gate,
        feed: RulesFeed,
        owner: Owner,
        max_age: float,
        *,
        by_await: bool,
        tells: bool,
    ) -> None:
        self._exchange = exchange
        self._gate = gate
        self.feed = feed
        self._owner = owner
        self._max_age = max_age
        self._by_await = by_await
        self._admissions: dict[str, Any] = {}
        self.tells = tells
        self.session: Any = None
        """Whose connections are looked at."""
        self.on_their_way: dict[Call, float] = {}
        """Calls that left while trading was open, so that no reservation counts them, and until when, on the gate's
        clock."""
        self._left_while_reading: list[set[Call]] = []
        self._any_order = OrderIntent("ANY", "buy", 1, account=owner.account, strategy=owner.strategy)
        self.endpoints = order_endpoints(exchange.__class__)

    def begun(self, name: str, names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
        """The call, let through if trading is open; else it has to be admitted."""
        permit = None
        if self._gate.is_open:
            decision = self._gate.check(self._any_order)
            permit = decision.permit if decision.reason is Reason.OPEN else None
        return Call(self, name, names, args, kwargs, this_task() if self._by_await else None, permit)

    def within(self) -> bool:
        """Whether this runs within a call of this exchange's that has been judged already, as ccxt's methods call each
        other."""
        call = current.get()
        if call is None or call.over or call.judge is not self:
            return False
        return not self._by_await or call.task is this_task()

    def call_at_wire(self) -> Call | None:
        """The call whose request this is."""
        call = current.get()
        return None if call is None or call.over or call.judge is not self else call

    def watch_session(self, session: Any) -> None:
        """Have its connections looked at; ccxt may have another one than last time."""
        if session is self.session:
            return
        self.session = session
        if self._by_await:
            watch_aiohttp(session, self._connected_async)
        else:
            watch_requests(session, self._connected)

    def _connected(self) -> None:
        call = self.call_at_wire()
        if call is not None and not self.stands(call):
            blocking(self._judged_anew(call))

    async def _connected_async(self) -> None:
        call = self.call_at_wire()
        if call is not None and not self.stands(call):
            await awaited(self._judged_anew(call))

    def _judged_anew(self, call: Call) -> Steps[None]:
        """It is not on its way yet, and must not count beside itself; unless it was sent before."""
        if call.attempts == 1:
            self.arrived(call)
        yield from self.confirm(call)
        if call.parts is None:
            self.on_their_way[call] = math.inf

    def sends_orders(self, path: str, api: Any, method: str) -> bool:
        """Whether a request to this endpoint is one for an order."""
        return as_endpoint(path, api, method) in self.endpoints

    def repeats(self, call: Call) -> bool:
        """Whether the call's request, if it was for an order, may have been carried out before."""
        if not call.attempts:
            return False
        return call.request is None or call.request[2] != "GET" or self.sends_orders(*call.request)

    def stands(self, call: Call) -> bool:
        """Whether a call that was let through while trading was open still is; nothing is read."""
        return call.permit is not None and self._gate.recheck(call.permit, self._any_order).allowed

    def leaves(self, call: Call) -> None:
        """A request of the call's is about to be sent."""
        call.attempts += 1
        call.sent = True
        if call.parts is None:
            self.on_their_way[call] = math.inf
            for left in self._left_while_reading:
                left.add(call)
        if self.tells:
            self.feed.order_sent(call.name)

    def admit(self, call: Call) -> Steps[None]:
        """Judge each order of the call by itself; all or none.

        Raises:
            OrderRefused: the gate says no.
        """
        call.permit = None
        try:
            parts = yield from self._parts(call)
        except NotUnderstood as problem:
            self._refuse(call, str(problem))
            return
        call.parts = []
        try:
            for part in parts:
                part.permit = yield lambda part=part: part.admission.admit(part.intent)  # type: ignore[misc]
                call.parts.append(part)
        except BaseException:
            self._release(call)  # what was sent before goes on counting
            raise

    def confirm(self, call: Call, *, again: bool = False) -> Steps[None]:
        """Ask once more, where a request leaves.

        Args:
            call: The call.
            again: Whether the same request was sent before and its outcome is not known: it then counts as well.

        Raises:
            OrderRefused: it may not be sent any more.
        """
        if call.parts is None:
            if not self.stands(call):
                yield from self.admit(call)
            return
        try:
            for part in call.parts:
                if again and part.permit is not None and part.permit.reservation:
                    part.earlier.append(part.permit)
                    part.permit = None
                    part.admission.forget()
                    part.permit = yield lambda part=part: part.admission.admit(part.intent)  # type: ignore[misc]
                elif part.permit is not None:
                    held, part.permit = part.permit, None
                    part.permit = yield lambda part=part, held=held: part.admission.confirm(held, part.intent)  # type: ignore[misc]
        except BaseException:
            self._release(call)  # of what was sent before, `earlier` goes on counting
            raise

    def answered(self, call: Call, answer: Any) -> None:
        """The exchange has taken the call; of several orders, each by its own answer."""
        answers = answer if isinstance(answer, list) else [answer]
        parts = call.parts or []
        for number, each in enumerate(answers):
            part = parts[number] if len(answers) == len(parts) else None
            if why := why_rejected(each):
                self.feed.order_rejected(why)
                if part is not None and part.permit is not None:
                    part.admission.not_sent(part.permit)
                    part.permit = None
            else:
                self.feed.order_accepted()
        for part in parts:
            if part.permit is not None:
                part.admission.answered(part.permit)

    def arrived(self, call: Call) -> None:
        """The exchange has answered, so whatever the call has come to is in what is read from now on."""
        self.on_their_way.pop(call, None)

    def unanswered(self, call: Call) -> None:
        """What became of the call is not known."""
        if call in self.on_their_way:
            self.on_their_way[call] = clock.now() + _UNKNOWN_FOR

    def refused(self, call: Call) -> None:
        """The exchange has taken nothing. Of several orders that ccxt may have sent in more than one request, not all
        need be meant: they count until their time is up."""
        several = "orders" in call.given if call.parts is None else len(call.parts) > 1
        if several:
            self.unanswered(call)
        else:
            self.not_sent(call)

    def not_sent(self, call: Call) -> None:
        """Nothing of the call can fill."""
        self.arrived(call)
        self._release(call)

    def _release(self, call: Call) -> None:
        for part in call.parts or ():
            if part.permit is not None:
                part.admission.not_sent(part.permit)
                part.permit = None

    def _refuse(self, call: Call, problem: str) -> None:
        """Raises `OrderRefused`, unless trading is open again."""
        call.permit = self.begun(call.name, (), (), {}).permit
        if call.permit is not None:
            return
        status = self._gate.status()
        reason = Reason.QUIET_SIZE if status.reason in (Reason.OPEN, Reason.QUIET_PERIOD) else status.reason
        sentence = f"{status.sentence} Whether {call.name} adds risk can't be told: {problem}. Nothing was sent."
        raise OrderRefused(Decision(False, reason, sentence))

    def _parts(self, call: Call) -> Steps[list[Part]]:
        if call.name == RAW:
            raise NotUnderstood("it is not one of ccxt's methods for orders; use these while trading is not open")
        if not self._exchange.markets:
            try:
                yield self._exchange.load_markets
            except Exception as error:
                raise NotUnderstood(f"the exchange's markets can't be had ({one_line(error)})") from error
        if snake_case(call.name).startswith("close_"):
            return (yield from self._closes(call))
        return [self._part(asked) for asked in asked_by(call.name, call.given)]

    def _part(self, asked: Any) -> Part:
        market = self._market(asked.symbol)
        symbol, exchange = market["symbol"], self._exchange
        by_mode = exchange.feature_value(symbol, "createOrder", "marginMode") is True
        intent = intent_of(asked, market, exchange, self._owner, by_mode=by_mode)
        return Part(intent, self._admission(symbol))

    def _closes(self, call: Call) -> Steps[list[Part]]:
        """What is held is closed by the exchange: there is nothing to judge where nothing is held."""
        if "all" in snake_case(call.name).split("_"):
            try:
                symbols = yield from read_position_symbols(self._exchange)
            except Exception as error:
                raise NotUnderstood(f"the positions can't be read ({one_line(error)})") from error
        else:
            symbols = [str(call.given.get("symbol") or "")]
        parts: list[Part] = []
        for symbol in (self._market(each)["symbol"] for each in symbols):
            admission = self._admission(symbol)
            book: Book | None = yield admission.book
            if book is None:
                raise NotUnderstood(f"what is held of {symbol} can't be read")
            parts += [Part(self._close(each), admission) for each in book.positions if _is_named(each, call.given)]
        return parts

    def _close(self, held: Any) -> OrderIntent:
        return OrderIntent(
            held.symbol,
            "sell" if held.quantity > 0 else "buy",
            abs(held.quantity),
            account=self._owner.account,
            strategy=self._owner.strategy,
            position_side=held.position_side,
            reduce_only=True,
        )

    def _market(self, symbol: str) -> Mapping[str, Any]:
        try:
            market: Mapping[str, Any] = self._exchange.market(symbol)
        except Exception as error:
            raise NotUnderstood(f"{symbol!r:.60} is no market there ({one_line(error)})") from error
        return market

    def _admission(self, symbol: str) -> Any:
        found = self._admissions.get(symbol)
        if found is None:
            found = self._admissions.setdefault(symbol, self._new_admission(symbol))
        return found

    def _new_admission(self, symbol: str) -> Any:
        if not self._by_await:
            return Admission(self._gate, lambda: blocking(self._read(symbol)), max_age=self._max_age)

        async def read() -> Book:
            async with asyncio.timeout(_READINGS * self._exchange.timeout / 1000):
                return await awaited(self._read(symbol))

        return AsyncAdmission(self._gate, read, max_age=self._max_age)

    def _read(self, symbol: str) -> Steps[Book]:
        """With what left while trading was open and may not be listed yet: twice counted rather than left out."""
        with self._noting_what_leaves() as left:
            book = yield from read_book(self._exchange, symbol)
        return Book(book.positions, [*book.working, *(each for call in left for each in self._asked_of(call, symbol))])

    @contextmanager
    def _noting_what_leaves(self) -> Iterator[set[Call]]:
        now = clock.now()
        for call, until in list(self.on_their_way.items()):
            if until < now:
                self.arrived(call)
        left = set(self.on_their_way)
        self._left_while_reading.append(left)
        try:
            yield left
        finally:
            self._left_while_reading.remove(left)

    def _asked_of(self, call: Call, symbol: str) -> list[Any]:
        """What a call may take of one symbol; what can't be told may take anything of it."""
        unknown = call.name == RAW or snake_case(call.name).startswith("close_")
        try:
            asked = [] if unknown else [self._part(each).intent for each in asked_by(call.name, call.given)]
        except NotUnderstood:
            unknown = True
        if unknown:
            named = call.given.get("symbol")
            elsewhere = isinstance(named, str) and self._exchange.markets.get(named, {}).get("symbol", symbol) != symbol
            return [] if elsewhere else [SimpleNamespace(symbol=symbol, client_order_id=f"the one of {call.name}")]
        orders = (each.order if isinstance(each, ReplaceIntent) else each for each in asked)
        return [each for each in orders if getattr(each, "symbol", symbol) == symbol]


def judge_of(exchange: Any) -> Judge | None:
    """Whoever judges the calls of this exchange; None of one that is not guarded."""
    return exchange.__dict__.get(JUDGE)  # type: ignore[no-any-return]


def attach(exchange: Any, judge: Judge) -> None:
    """Have the calls of this exchange judged so."""
    exchange.__dict__[JUDGE] = judge


def _is_named(held: Any, given: Mapping[str, Any]) -> bool:
    side = str(given.get("side") or "").lower()
    if held.position_side is None or side not in ("long", "short"):
        return True
    return held.position_side is PositionSide(side)
