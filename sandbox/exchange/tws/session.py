"""Talk with one client of the TWS API: answer what it asks, and tell it what becomes of its orders."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Final

from breaker.orders import OrderType
from sandbox.exchange.orders import PaperOrder, PaperPosition, Status
from sandbox.exchange.refusal import Refusal
from sandbox.exchange.scenario import Trouble
from sandbox.exchange.tws.attached import Attached
from sandbox.exchange.tws.contracts import bands_of, details_message, find_contract, rule_of
from sandbox.exchange.tws.desk import Desk
from sandbox.exchange.tws.framing import Field
from sandbox.exchange.tws.messages import FARMS, NO_VENUE, error
from sandbox.exchange.tws.requests import (
    REQUEST_ID_AT,
    Malformed,
    OrderMessage,
    as_error,
    order_request,
    read_place_order,
    request_id,
)

_MESSAGES_A_SECOND: Final = 50
NAMES: Final = {
    "1": "reqMktData",
    "2": "cancelMktData",
    "3": "placeOrder",
    "4": "cancelOrder",
    "5": "reqOpenOrders",
    "6": "reqAccountUpdates",
    "7": "reqExecutions",
    "8": "reqIds",
    "9": "reqContractDetails",
    "15": "reqAutoOpenOrders",
    "16": "reqAllOpenOrders",
    "17": "reqManagedAccts",
    "49": "reqCurrentTime",
    "58": "reqGlobalCancel",
    "59": "reqMarketDataType",
    "61": "reqPositions",
    "62": "reqAccountSummary",
    "63": "cancelAccountSummary",
    "64": "cancelPositions",
    "71": "startApi",
    "76": "reqAccountUpdatesMulti",
    "91": "reqMarketRule",
    "77": "cancelAccountUpdatesMulti",
    "99": "reqCompletedOrders",
}
"""What the first field of a request asks for."""
_CHANGES: Final = frozenset({"placeOrder", "cancelOrder", "reqGlobalCancel"})
_MOST_SUMMARIES: Final = 2
"""Of the account, that one client may have at once; TWS says 322 to a third."""


class Session:
    """One client's conversation, from `startApi` on. `send` writes one message to it."""

    def __init__(self, desk: Desk, client_id: int, send: Callable[[Sequence[Field]], None]) -> None:
        self.desk = desk
        self.client_id = client_id
        self._send = send
        self._told: dict[str, tuple[str, Decimal]] = {}
        """Of each order of this client's that is not over: the status and how much had filled when it was last told."""
        self._fills_told = len(desk.venue.exchange.book.fills)
        self._tickers: dict[str, tuple[str, Decimal | None]] = {}
        self._asked_at: deque[float] = deque()
        self._highest_told = 0
        """Of the numbers of all clients' orders that were listed here: an order of this client's has a higher one."""
        self._kept: list[Sequence[str]] = []
        """What was asked to be changed while the venue was lost."""
        self._attached = Attached()
        self._positions_told: dict[str, Decimal] | None = None
        """What was last told of each position; None until they are asked for."""
        self._summaries: set[str] = set()
        """The account's summaries that this client has asked for and not ended."""

    def greet(self) -> None:
        """What TWS tells a client that has just come."""
        self._send([15, 1, ",".join(self.desk.settings.accounts)])
        self._send([9, 1, self.desk.next_order_id(self.client_id)])
        for code, words in NO_VENUE if self.desk.is_lost else FARMS:
            self._send(error(-1, code, words))
        self._watch(order for order in self.desk.open_orders() if self.desk.name(order).client_id == self.client_id)

    def is_too_fast(self) -> bool:
        """Whether this message is more than TWS takes in a second."""
        now = time.monotonic()
        while self._asked_at and now - self._asked_at[0] > 1:
            self._asked_at.popleft()
        self._asked_at.append(now)
        return len(self._asked_at) > _MESSAGES_A_SECOND

    def answer(self, fields: Sequence[str], *, silent: bool = False) -> None:
        """Do what is asked; `silent`: without a word about it, now or in this answer's own messages."""
        if self.desk.is_lost and NAMES.get(fields[0]) in _CHANGES:
            self._kept.append(fields)
            return
        send = self._send
        if silent:
            self._send = lambda _: None
        try:
            handle = _HANDLERS.get(NAMES.get(fields[0], ""))
            if handle is not None:
                handle(self, fields)
        except Malformed as problem:
            self._send(error(request_id(fields), problem.code, str(problem)))
        except IndexError:
            self._send(error(request_id(fields), 320, "Error reading request. Message is incomplete"))
        finally:
            self._send = send

    def refuse(self, fields: Sequence[str], trouble: Trouble) -> None:
        """An answer that is trouble: too many messages, or an error of the venue's servers."""
        if trouble.kind == "429":
            self._send(error(-1, 100, "Max rate of messages per second has been exceeded."))
        elif fields[0] in REQUEST_ID_AT and NAMES[fields[0]] not in _CHANGES:
            self._send(error(request_id(fields), 322, f"Error processing request.-'cZ' : cause - {trouble.kind}"))

    def send_on(self, *, data_lost: bool) -> None:
        """The venue is back: what was asked for meanwhile is asked for now; the prices followed may be forgotten."""
        kept, self._kept = self._kept, []
        for fields in kept:
            self.answer(fields)
        if data_lost:
            self._tickers.clear()

    # What happens without being asked

    def tell_changes(self) -> None:
        """Each change of an order of this client's, its executions, and the prices that it follows."""
        if self.desk.is_lost:
            return
        book = self.desk.venue.exchange.book
        fresh = range(self._fills_told, len(book.fills))
        self._fills_told = len(book.fills)
        for number in fresh:
            order = book.orders[book.fills[number].order_id]
            whole = order.parent if order.parent is not None and order.goes_with_parent else order
            if self.desk.name(whole).client_id == self.client_id:
                for message in self.desk.executions(-1, [number]):
                    self._send(message)
        for order_id, told in list(self._told.items()):
            self._tell(book.orders[order_id], told)
        self._tell_of_attached()
        self._tell_positions()
        for ticker, (symbol, last) in self._tickers.items():
            if book.prices[symbol] != last:
                self._tick(ticker, symbol)

    def _tell(self, order: PaperOrder, told: tuple[str, Decimal] | None) -> None:
        now = self.desk.word(order), order.filled_qty
        if now == told:
            return
        self._send(self.desk.open_order(order))
        self._send(self.desk.order_status(order))
        if order.is_open:
            self._told[order.id] = now
            return
        self._told.pop(order.id, None)
        if order.id in self.desk.set_aside:
            return
        if order.status in {Status.CANCELED, Status.EXPIRED}:
            self._send(error(self.desk.name(order).order_id, 202, "Order Canceled - reason:"))
        elif order.status is Status.REJECTED:
            self._send(error(self.desk.name(order).order_id, 201, "Order rejected - reason:The venue does not take it"))

    def _watch(self, orders: object) -> None:
        for order in orders:  # type: ignore[attr-defined]
            self._told[order.id] = self.desk.word(order), order.filled_qty

    # Orders

    def _place(self, fields: Sequence[str]) -> None:
        asked = read_place_order(fields)
        if self.desk.settings.read_only:
            words = "Error validating request.-'bN' : cause - The API interface is currently in Read-Only mode."
            raise Malformed(321, words)
        if asked.what_if:
            raise Malformed(321, "Error validating request.-'bN' : cause - What-if orders are not taken here")
        known = self.desk.order_of(self.client_id, asked.order_id)
        if known is not None and known.is_open:
            self._change(known, asked)
            return
        if asked.order_id < max(self.desk.next_order_id(self.client_id), self._highest_told + 1):
            raise Malformed(103, "Duplicate order id")
        if asked.account not in {"", *self.desk.settings.accounts} or (
            not asked.account and len(self.desk.settings.accounts) > 1
        ):
            raise Malformed(435, "You must specify an account.")
        if not asked.transmit:
            self._attached.keep(asked)
            return
        for each in self._attached.transmitted_with(asked):
            parent = self.desk.order_of(self.client_id, each.parent_id)
            if parent is not None and parent.is_open:
                self._attached.wait(each)
            else:
                self._submit(each)

    def _submit(self, asked: OrderMessage) -> PaperOrder:
        contract = find_contract(self.desk.venue.exchange.book, asked.contract)
        if contract is None:
            raise Malformed(200, "No security definition has been found for the request")
        if not asked.contract[7]:
            raise Malformed(321, "Error validating request.-'bN' : cause - Missing order exchange")
        if (planned := self.desk.refusal()) is not None:
            raise Malformed(planned.code, planned.words)
        try:
            order = self.desk.venue.exchange.submit(order_request(asked, contract.listed_as))
        except Refusal as refusal:
            raise as_error(refusal) from None
        order.client_order_id = asked.order_ref or order.client_order_id
        self.desk.give_name(order, self.client_id, asked.order_id)
        self.desk.keep_from_the_venue(order)
        for code, words in self.desk.notices(order, contract):
            self._send(error(asked.order_id, code, words))
        self._tell(order, None)
        return order

    def _change(self, known: PaperOrder, asked: OrderMessage) -> None:
        """The same number again. What has filled counts in its quantity, and no longer in what is told of it then."""
        trails = asked.type is OrderType.TRAILING_STOP
        try:
            new = self.desk.venue.exchange.replace(
                known.id,
                qty=asked.quantity,
                time_in_force=asked.time_in_force,
                limit_price=asked.limit_price if known.limit_price is not None else None,
                stop_price=asked.aux_price if known.stop_price is not None and not trails else None,
                trail=asked.aux_price if trails else None,
            )
        except Refusal as refusal:
            raise as_error(refusal) from None
        self._told.pop(known.id, None)
        new.client_order_id = known.client_order_id
        self.desk.rename(known, new)
        self._tell(new, None)

    def _tell_of_attached(self) -> None:
        go, end = self._attached.due(lambda number: self.desk.order_of(self.client_id, number))
        placed: list[PaperOrder] = []
        for asked in go:
            try:
                placed.append(self._submit(asked))
            except Malformed as problem:
                self._send(error(asked.order_id, problem.code, str(problem)))
        if len(placed) == 2:
            placed[0].sibling, placed[1].sibling = placed[1], placed[0]
        for number in end:
            self._send(error(number, 202, "Order Canceled - reason:"))

    def _cancel(self, fields: Sequence[str]) -> None:
        order_id = int(fields[2])
        order = self.desk.order_of(self.client_id, order_id)
        if self.desk.settings.read_only:
            raise Malformed(321, "Error validating request.-'bN' : cause - The API interface is in Read-Only mode.")
        if self._attached.forget(order_id):
            self._send(error(order_id, 202, "Order Canceled - reason:"))
            return
        if order is None:
            raise Malformed(10147, f"OrderId {order_id} that needs to be cancelled is not found.")
        try:
            self.desk.venue.exchange.cancel(order.id)
        except Refusal:
            if order.status is Status.PENDING_REPLACE or order.id in self.desk.set_aside:
                words = "Cancel attempted when order is not in a cancellable state.  Order permId ="
                raise Malformed(161, f"{words}{self.desk.name(order).perm_id}") from None
            words = (
                f"OrderId {order_id} that needs to be cancelled can not be cancelled, state: {self.desk.word(order)}."
            )
            raise Malformed(10148, words) from None
        self._tell(order, self._told.get(order.id))

    def _cancel_globally(self, _fields: Sequence[str]) -> None:
        if self.desk.settings.read_only:
            raise Malformed(321, "Error validating request.-'bN' : cause - The API interface is in Read-Only mode.")
        self.desk.venue.exchange.cancel_all()

    def _bind(self, fields: Sequence[str]) -> None:
        if self.client_id != 0:
            raise Malformed(
                321, "Error validating request.-'bN' : cause - Only the default client (i.e 0) can auto bind"
            )
        self.desk.auto_bind = fields[2] == "1"

    # Readings

    def _open_orders(self, fields: Sequence[str]) -> None:
        all_of_them = NAMES[fields[0]] == "reqAllOpenOrders"
        if not all_of_them and self.client_id == 0:
            self.desk.bind_orders()
            self._watch(o for o in self.desk.open_orders() if self.desk.name(o).client_id == 0)
        for order in self.desk.open_orders():
            if all_of_them or self.desk.name(order).client_id == self.client_id:
                self._send(self.desk.open_order(order))
                self._send(self.desk.order_status(order))
                self._highest_told = max(self._highest_told, self.desk.name(order).order_id)
        self._send([53, 1])

    def _completed_orders(self, _fields: Sequence[str]) -> None:
        for order in self.desk.completed_orders():
            self._send(self.desk.completed_order(order))
        self._send([102])

    def _executions(self, fields: Sequence[str]) -> None:
        for message in self.desk.executions(fields[2], range(len(self.desk.book.fills))):
            self._send(message)
        self._send([55, 1, fields[2]])

    def _positions(self, _fields: Sequence[str]) -> None:
        self._positions_told = {held.symbol: held.qty for held in self._held()}
        for held in self.desk.book.positions.values():
            self._send(self.desk.position(held))
        self._send([62, 1])

    def _held(self) -> list[PaperPosition]:
        return [held for held in self.desk.book.positions.values() if not held.unreadable]

    def _end_positions(self, _fields: Sequence[str]) -> None:
        self._positions_told = None

    def _tell_positions(self) -> None:
        """To whom has asked for them, each that changes; one that is gone as none."""
        told = self._positions_told
        if told is None:
            return
        now = {held.symbol: held for held in self._held()}
        for held in now.values():
            if told.get(held.symbol) != held.qty:
                self._send(self.desk.position(held))
        for symbol in told.keys() - now.keys():
            self._send(self.desk.position(PaperPosition(symbol, Decimal(0), Decimal(0))))
        self._positions_told = {symbol: held.qty for symbol, held in now.items()}

    def _account_updates(self, fields: Sequence[str]) -> None:
        if fields[2] != "1":
            return
        account = fields[3] or self.desk.account
        if account == self.desk.account:
            for tag, value, currency in self.desk.values():
                self._send([6, 2, tag, value, currency, account])
            for message in self.desk.portfolio():
                self._send(message)
        self._send([8, 1, f"{self.desk.at(self.desk.venue.now()):%H:%M}"])
        self._send([54, 1, account])

    def _account_summary(self, fields: Sequence[str]) -> None:
        if fields[2] not in self._summaries and len(self._summaries) >= _MOST_SUMMARIES:
            words = "Error processing request.-'cZ' : cause - Maximum number of account summary requests exceeded"
            self._send(error(request_id(fields), 322, words))
            return
        self._summaries.add(fields[2])
        wanted = {*fields[4].split(",")}
        for tag, value, currency in self.desk.values():
            if tag in wanted:
                self._send([63, 1, fields[2], self.desk.account, tag, value, currency])
        self._send([64, 1, fields[2]])

    def _end_account_summary(self, fields: Sequence[str]) -> None:
        self._summaries.discard(fields[2])

    def _account_updates_multi(self, fields: Sequence[str]) -> None:
        if fields[3] in {"", self.desk.account}:
            for tag, value, currency in self.desk.values():
                self._send([73, 1, fields[2], self.desk.account, "", tag, value, currency])
        self._send([74, 1, fields[2]])

    def _contract_details(self, fields: Sequence[str]) -> None:
        book = self.desk.venue.exchange.book
        contract = find_contract(book, fields[3:15])
        if contract is None:
            raise Malformed(200, "No security definition has been found for the request")
        symbol = contract.listed_as
        told = details_message(fields[2], contract, book.asset(symbol), self.desk.hours(symbol), book.prices[symbol])
        self._send(told)
        self._send([52, 1, fields[2]])

    def _market_rule(self, fields: Sequence[str]) -> None:
        book = self.desk.book
        for asset in (book.asset(symbol) for symbol in book.prices):
            if str(rule_of(asset)) == fields[1]:
                bands = bands_of(asset)
                self._send([93, fields[1], len(bands), *(figure for band in bands for figure in band)])
                return
        raise Malformed(321, "Error validating request.-'bT' : cause - Invalid market rule id")

    def _market_data(self, fields: Sequence[str]) -> None:
        contract = find_contract(self.desk.venue.exchange.book, fields[3:15])
        if contract is None:
            raise Malformed(200, "No security definition has been found for the request")
        self._send([58, 1, fields[2], 1])
        self._tick(fields[2], contract.listed_as)
        if fields[17] == "1":
            del self._tickers[fields[2]]
            self._send([57, 1, fields[2]])

    def _tick(self, request_id: str, symbol: str) -> None:
        price = self.desk.book.prices[symbol]
        self._tickers[request_id] = symbol, price
        for kind in (1, 2, 4):  # bid, ask, last
            self._send([1, 6, request_id, kind, price, 100, 0])

    def _end_market_data(self, fields: Sequence[str]) -> None:
        self._tickers.pop(fields[2], None)

    def _ids(self, _fields: Sequence[str]) -> None:
        self._send([9, 1, max(self.desk.next_order_id(self.client_id), self._highest_told + 1)])

    def _accounts(self, _fields: Sequence[str]) -> None:
        self._send([15, 1, ",".join(self.desk.settings.accounts)])

    def _time(self, _fields: Sequence[str]) -> None:
        self._send([49, 1, int(self.desk.at(self.desk.venue.now()).timestamp())])


_HANDLERS: Final[dict[str, Callable[[Session, Sequence[str]], None]]] = {
    "placeOrder": Session._place,
    "cancelOrder": Session._cancel,
    "reqGlobalCancel": Session._cancel_globally,
    "reqAutoOpenOrders": Session._bind,
    "reqOpenOrders": Session._open_orders,
    "reqAllOpenOrders": Session._open_orders,
    "reqCompletedOrders": Session._completed_orders,
    "reqExecutions": Session._executions,
    "reqPositions": Session._positions,
    "cancelPositions": Session._end_positions,
    "reqAccountUpdates": Session._account_updates,
    "reqAccountSummary": Session._account_summary,
    "cancelAccountSummary": Session._end_account_summary,
    "reqAccountUpdatesMulti": Session._account_updates_multi,
    "reqContractDetails": Session._contract_details,
    "reqMarketRule": Session._market_rule,
    "reqMktData": Session._market_data,
    "cancelMktData": Session._end_market_data,
    "reqIds": Session._ids,
    "reqManagedAccts": Session._accounts,
    "reqCurrentTime": Session._time,
}
