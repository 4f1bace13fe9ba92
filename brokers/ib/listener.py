"""Take in what TWS says on one connection, and hand each answer to whoever asked for it.

It is the wrapper that ib_async's client and decoder call: the methods' names are theirs. Nothing is kept of an answer
but what was asked for; what comes unasked (orders' states, prices, errors) is kept as it is now.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, Final

from brokers.ib.reading import (
    SENSELESS,
    ListedOrder,
    OrderState,
    TwsError,
    Undecodable,
    amount,
    undecodable_order,
    undecodable_position,
)

OPEN_ORDERS: Final = "openOrders"
COMPLETED_ORDERS: Final = "completedOrders"
POSITIONS: Final = "positions"
PORTFOLIO: Final = "portfolio"
TIME: Final = "time"
MARKET_RULE: Final = "marketRule"
NEXT_ID: Final = "nextValidId"
CLIENT_ID_TAKEN: Final = 326
_VENUE_LOST: Final = frozenset({1100, 2110})
"""TWS loses its connection to the venue (1100), or has none when a client comes (2110)."""
_VENUE_FOUND: Final = frozenset({1101, 1102})
_FARM_FOUND: Final = frozenset({2104, 2106, 2107, 2108, 2158})
"""A farm of data is there, or can be had: TWS tells it of each to a client that has just come."""
_PACING: Final = 100
_NOTES: Final = frozenset({399, 404, 10349, *range(2100, 2200)} - _VENUE_LOST)
"""Said of an order that is taken all the same, as when it will be placed at the exchange, and of data farms."""
_LAST: Final = 4
_BID: Final = 1
_ASK: Final = 2
_ENDED: Final = frozenset({"Filled", "Cancelled", "ApiCancelled", "Inactive"})
TAKEN: Final = _ENDED | {"PreSubmitted", "Submitted", "PendingCancel"}
"""What TWS says of an order that the venue has."""
GOING: Final = _ENDED | {"PendingCancel"}
"""What it says of one that was cancelled."""

_LISTS: Final[dict[str, tuple[str, Callable[[Sequence[str]], Undecodable]]]] = {
    "5": (OPEN_ORDERS, undecodable_order),
    "61": (POSITIONS, undecodable_position),
}
"""By a message's number: the list that it belongs to, and how to name it where it can't be decoded."""


@dataclass(slots=True)
class Answer:
    """One answer as it comes in."""

    done: asyncio.Future[None]
    items: list[Any] = field(default_factory=list)
    undecodable: list[Undecodable] = field(default_factory=list)


class VenueLink:
    """Whether TWS has its venue, by what any connection of the account's was told.

    What TWS answers while it has not, it answers from what it knew: none of that is believed.
    """

    def __init__(self) -> None:
        self.lost_at: float | None = None
        """On the monotonic clock; None while TWS has it."""
        self.losses = 0

    def lose(self) -> None:
        if self.lost_at is None:
            self.lost_at = time.monotonic()
            self.losses += 1

    def find(self) -> None:
        self.lost_at = None


class Listener:
    """One connection's ear."""

    def __init__(self, link: VenueLink | None = None) -> None:
        self.link = link or VenueLink()
        self.answers: dict[Hashable, Answer] = {}
        self.orders: dict[int, tuple[asyncio.Future[OrderState], frozenset[str]]] = {}
        """By our order id: whoever waits for one of these states of an order, just sent or cancelled."""
        self.client_id = -1
        self.highest_order_id = 0
        """Of all orders told here: TWS takes a new one whose number is not above theirs for an old one (103)."""
        self.no_venue = False
        """TWS has told this connection that it has no venue (1100, 2110), and not since that it has."""
        self.told = asyncio.Event()
        """TWS has told this connection of its venue or of a farm of data."""
        self.refused: TwsError | None = None
        """Why TWS did not let us in."""
        self.last_error: TwsError | None = None
        """The last error that was about no request."""
        self.commissions: dict[str, Any] = {}
        self.prices: dict[int, Decimal] = {}
        """What the market gives, by contract id, as it is told for the account's positions."""
        self._quotes: dict[int, tuple[int, dict[int, Decimal]]] = {}
        self._states: dict[int, OrderState] = {}
        # What ib_async's decoder asks of a wrapper for times without a zone.
        self.ib = SimpleNamespace(TimezoneTWS="")
        self.defaultTimezone = UTC

    # Asking

    def expect(self, key: Hashable) -> Answer:
        answer = self.answers[key] = Answer(asyncio.get_running_loop().create_future())
        return answer

    def expect_order(self, order_id: int, states: frozenset[str]) -> asyncio.Future[OrderState]:
        future: asyncio.Future[OrderState] = asyncio.get_running_loop().create_future()
        self.orders[order_id] = future, states
        return future

    def watch(self, request_id: int, con_id: int) -> None:
        """Prices that come for this request are the contract's."""
        self._quotes[request_id] = con_id, {}

    def quote_of(self, con_id: int) -> Decimal | None:
        """The last price that was told, else the middle of bid and ask; None without one."""
        for known, ticks in self._quotes.values():
            if known != con_id:
                continue
            if _LAST in ticks:
                return ticks[_LAST]
            if _BID in ticks and _ASK in ticks:
                return (ticks[_BID] + ticks[_ASK]) / 2
        return None

    def watched(self) -> set[int]:
        return {con_id for con_id, _ in self._quotes.values()}

    def fail(self, error: Exception) -> None:
        """Nothing more will come: whoever waits is told so."""
        for answer in self.answers.values():
            _fail(answer.done, error)
        for future, _ in self.orders.values():
            _fail(future, error)

    def undecodable(self, fields: list[str]) -> None:
        """A message that can't be decoded. What it is about is named where somebody waits for a list of such."""
        key, read = _LISTS.get(fields[0], (None, None))
        answer = self.answers.get(key)
        if answer is None or read is None:
            return
        try:
            answer.undecodable.append(read(fields))
        except SENSELESS:
            _fail(answer.done, TwsError(0, f"an answer of {len(fields)} fields is cut short"))

    # What the client and the decoder call

    def connectAck(self) -> None: ...  # noqa: N802 - here and below the names are ib_async's

    def setEventsDone(self) -> None: ...  # noqa: N802

    def connectionClosed(self) -> None:  # noqa: N802
        self.fail(ConnectionError("the connection has been closed"))

    def error(self, request_id: int, code: int, words: str, _details: str = "") -> None:
        problem = TwsError(code, words)
        if code in _VENUE_LOST:
            self.no_venue = True
            self.told.set()
            self.link.lose()
            self.fail(problem)
        elif code in _VENUE_FOUND:
            self.no_venue = False
            self.link.find()
        elif code == CLIENT_ID_TAKEN:
            self.refused = problem
        elif code in _NOTES:
            if code in _FARM_FOUND:
                self.told.set()
        elif code == _PACING:
            self.last_error = problem
            self.fail(problem)
        elif request_id in self.orders:
            _fail(self.orders[request_id][0], problem)
        elif request_id in self.answers:
            _fail(self.answers[request_id].done, problem)
        elif request_id < 0:  # what is about another request (no prices: 354, 10089) is no answer to a cancel of all
            self.last_error = problem

    def openOrder(self, order_id: int, contract: Any, order: Any, state: Any) -> None:  # noqa: N802
        self.highest_order_id = max(self.highest_order_id, order_id)
        if (answer := self.answers.get(OPEN_ORDERS)) is not None:
            answer.items.append(ListedOrder(order, contract, OrderState(state.status, Decimal(0), None)))

    def orderStatus(  # noqa: N802
        self,
        order_id: int,
        status: str,
        filled: float,
        _remaining: float,
        average: float,
        perm_id: int,
        _parent_id: int,
        _last_price: float,
        client_id: int,
        *_: Any,
    ) -> None:
        state = OrderState(status, amount(filled), amount(average) if average else None)
        if perm_id:
            self._states[perm_id] = state
        future, states = self.orders.get(order_id, (None, frozenset()))
        # Another client's order may have the number of one of ours.
        if future is not None and not future.done() and status in states and client_id == self.client_id:
            future.set_result(state)

    def openOrderEnd(self) -> None:  # noqa: N802
        answer = self.answers.get(OPEN_ORDERS)
        if answer is not None:
            answer.items = [self._with_state(listed) for listed in answer.items]
        self._end(OPEN_ORDERS)

    def _with_state(self, listed: ListedOrder) -> ListedOrder:
        state = self._states.get(listed.order.permId, listed.state)
        return ListedOrder(listed.order, listed.contract, state)

    def completedOrder(self, contract: Any, order: Any, state: Any) -> None:  # noqa: N802
        if (answer := self.answers.get(COMPLETED_ORDERS)) is not None:
            filled = order.filledQuantity
            known = OrderState(state.status, amount(filled) if filled and filled < 1e100 else Decimal(0), None)
            answer.items.append(ListedOrder(order, contract, known, completed=True))

    def completedOrdersEnd(self) -> None:  # noqa: N802
        self._end(COMPLETED_ORDERS)

    def position(self, account: str, contract: Any, quantity: float, average_cost: float) -> None:
        if (answer := self.answers.get(POSITIONS)) is not None:
            answer.items.append((account, contract, quantity, average_cost))

    def positionEnd(self) -> None:  # noqa: N802
        """TWS tells positions by itself, too, from being asked until that is ended: the last word on each counts."""
        if (answer := self.answers.get(POSITIONS)) is not None:
            answer.items = list({(item[0], item[1].conId): item for item in answer.items}.values())
        self._end(POSITIONS)

    def execDetails(self, request_id: int, contract: Any, execution: Any) -> None:  # noqa: N802
        if (answer := self.answers.get(request_id)) is not None:
            answer.items.append((contract, execution))

    def execDetailsEnd(self, request_id: int) -> None:  # noqa: N802
        self._end(request_id)

    def commissionReport(self, report: Any) -> None:  # noqa: N802
        self.commissions[report.execId] = report

    def contractDetails(self, request_id: int, details: Any) -> None:  # noqa: N802
        if (answer := self.answers.get(request_id)) is not None:
            answer.items.append(details)

    bondContractDetails = contractDetails  # noqa: N815

    def marketRule(self, rule_id: int, increments: Sequence[Any]) -> None:  # noqa: N802
        key = MARKET_RULE, rule_id
        if (answer := self.answers.get(key)) is not None:
            answer.items = list(increments)
        self._end(key)

    def contractDetailsEnd(self, request_id: int) -> None:  # noqa: N802
        self._end(request_id)

    def accountSummary(  # noqa: N802
        self, request_id: int, account: str, tag: str, value: str, currency: str
    ) -> None:
        if (answer := self.answers.get(request_id)) is not None:
            answer.items.append((account, tag, value, currency))

    def accountSummaryEnd(self, request_id: int) -> None:  # noqa: N802
        self._end(request_id)

    def updatePortfolio(  # noqa: N802
        self, contract: Any, _quantity: float, price: float, *_: Any
    ) -> None:
        if price > 0:
            self.prices[contract.conId] = amount(price)

    def accountDownloadEnd(self, _account: str) -> None:  # noqa: N802
        self._end(PORTFOLIO)

    def nextValidId(self, order_id: int) -> None:  # noqa: N802
        self.highest_order_id = max(self.highest_order_id, order_id - 1)
        self._end(NEXT_ID)

    def currentTime(self, seconds: int) -> None:  # noqa: N802
        if (answer := self.answers.get(TIME)) is not None:
            answer.items.append(seconds)
        self._end(TIME)

    def priceSizeTick(self, request_id: int, kind: int, price: float, _size: float) -> None:  # noqa: N802
        if request_id in self._quotes and price > 0:
            self._quotes[request_id][1][kind] = amount(price)

    def _end(self, key: Hashable) -> None:
        answer = self.answers.get(key)
        if answer is not None and not answer.done.done():
            answer.done.set_result(None)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # whoever waited may have stopped: nobody is told then
