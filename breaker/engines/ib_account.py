"""Know from ib_async's own live state what an account at Interactive Brokers holds and has working.

Nothing is asked of TWS for it. Two things that state doesn't tell are kept beside it: what each order said when it left
(an engine changes an order by writing into the one that it has), and fills that the positions don't have yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, TypeAlias

from ib_async import IB, Contract, Fill, Order, OrderStatus, Position, Trade

from breaker.engines.admission import Book
from breaker.engines.ib_orders import SIDES, Contracts, claims_of, group_of, is_set, plain_symbol, quantity_of
from breaker.gate.intents import ListKind, OrderIntent, OrderList
from breaker.orders import ZERO, Side

OrderKey: TypeAlias = tuple[int, int] | int
"""How ib_async keeps an order: by client and number, one placed by hand by the venue's own id."""
LOST: Final = frozenset({1100, 1300, 2110})
"""TWS has no connection to the venue, or ends this one."""
FOUND: Final = frozenset({1101, 1102})
NOTES: Final = frozenset({165, 399, 404, 492, 10167, 10349, *range(2100, 2200)})
"""What TWS says of an order that it takes all the same, and of data farms."""
OVER: Final = frozenset({202, 161, 10147, 10148})
"""An order is cancelled, or there is nothing to cancel."""
_BEHIND: Final = 10.0
"""Seconds for which positions and fills that don't agree are held against each other."""
_ANSWERED_WITHIN: Final = 10.0
_log = logging.getLogger(__name__)


class AccountUnknown(Exception):
    """What the account holds is not known now; the message says why."""


@dataclass(frozen=True, slots=True)
class _Held:
    """A position as the gate reads one."""

    symbol: str
    quantity: Decimal


@dataclass(slots=True)
class Sent:
    """What an order, or the last change of it, said when it left. Named as `ib_async.Order` names it."""

    action: str
    totalQuantity: float  # noqa: N815 -- here and below: ib_async's names
    cashQty: Any  # noqa: N815
    account: str
    parentId: int  # noqa: N815
    ocaGroup: str  # noqa: N815
    ocaType: int  # noqa: N815
    terms: tuple[Any, ...]
    """Kind and prices, which a person may change in TWS."""
    message: bytes
    changed_in_tws: bool = False

    @classmethod
    def of(cls, order: Order, message: bytes) -> Sent:
        """`message`: as it was written to the socket."""
        return cls(
            order.action,
            order.totalQuantity,
            order.cashQty,
            order.account,
            order.parentId,
            order.ocaGroup,
            order.ocaType,
            (order.orderType, order.lmtPrice, order.auxPrice),
            message,
        )


class _Lag:
    """How far what positions show is behind what has filled, by account and symbol; ahead is negative."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._behind: dict[tuple[str, str], tuple[float, Decimal]] = {}

    def add(self, key: tuple[str, str], signed: Decimal) -> None:
        since, behind = self._behind.get(key, (self._now(), ZERO))
        if self._now() - since > _BEHIND:
            since, behind = self._now(), ZERO
        if behind + signed:
            self._behind[key] = since, behind + signed
        else:
            self._behind.pop(key, None)

    def items(self) -> Iterator[tuple[str, str, Decimal]]:
        for (account, symbol), (since, behind) in self._behind.items():
            if self._now() - since <= _BEHIND:
                yield account, symbol, behind


class LiveAccount:
    """What one connection of ib_async knows of its accounts. Used from the connection's event loop.

    Args:
        ib: The connection; its events are listened to.
        now: Seconds on a clock that only goes forwards.
    """

    def __init__(self, ib: IB, now: Callable[[], float] = time.monotonic) -> None:
        self._ib = ib
        self._now = now
        self.forget()
        ib.orderStatusEvent += self._on_status
        ib.execDetailsEvent += self._on_fill
        ib.openOrderEvent += self._on_open_order
        ib.positionEvent += self._on_position
        ib.errorEvent += self._on_error
        ib.disconnectedEvent += self.forget

    def forget(self) -> None:
        """The connection has ended: with the next one everything is told anew."""
        self.sent: dict[OrderKey, Sent] = {}
        """Of each order that has left and is not over."""
        self.positions_known = self.orders_known = False
        self._lost = False
        self._changing: set[OrderKey] = set()
        self._doubtful: set[OrderKey] = set()
        """Said to be over by ib_async, since an error came to a change of them; the order itself may work on."""
        self._never_taken: set[OrderKey] = set()
        self._filled: dict[OrderKey, Decimal] = {}
        self._shown: dict[tuple[str, str], Decimal] = {}
        self._lag = _Lag(self._now)

    # What leaves

    def left(self, key: OrderKey, sent: Sent, *, change: bool) -> None:
        """An order, or a change of one, has left for TWS, saying this."""
        self.sent[key] = sent
        if change:
            self._changing.add(key)
        else:
            self._filled.setdefault(key, ZERO)

    def is_open(self, key: OrderKey) -> bool:
        """Whether an order of that name may still fill."""
        trade = self._ib.wrapper.trades.get(key)
        return trade is not None and self._may_fill(key, trade)

    def filled(self, trade: Trade) -> Decimal:
        """How much of an order has filled, by whichever was told first."""
        return max(_exact(trade.orderStatus.filled), _exact(trade.filled()))

    def told_total(self, key: OrderKey, trade: Trade) -> Decimal:
        """The least that an open order may have for its quantity: the venue's last word, or what was sent."""
        told = _exact(trade.orderStatus.filled) + _exact(trade.orderStatus.remaining)
        sent = self.sent.get(key)
        known = [each for each in (told, _exact(sent.totalQuantity) if sent else ZERO) if each > 0]
        return min(known) if known else _exact(trade.order.totalQuantity)

    # Readings

    def contracts(self) -> Contracts:
        """What the accounts' positions and orders are in."""
        held = (position.contract for position in self._ib.positions())
        return Contracts([*(trade.contract for trade in self._ib.wrapper.trades.values()), *held])

    def book(self, account: str, without: Collection[OrderKey] = (), *, replaced: OrderKey | None = None) -> Book:
        """What it holds and has working, but for some orders. `replaced` counts for the least that it may be.

        Raises:
            AccountUnknown: TWS has not told, or may tell what is no longer so.
        """
        why = self._why_unknown()
        if why is not None:
            raise AccountUnknown(f"what the account holds is not known: {why}")
        contracts = self.contracts()
        groups: defaultdict[object, list[Any]] = defaultdict(list)
        for key, trade in self._ib.wrapper.trades.items():
            if key in without or not self._may_fill(key, trade) or trade.order.account not in {"", account}:
                continue
            order = self.sent.get(key, trade.order)
            if self._waits_for_entry(order, trade):
                continue
            total = self.told_total(key, trade) if key == replaced else self._most(key, trade)
            rest = total - self.filled(trade)
            claim = claims_of(trade.contract, order, contracts, rest, name=name_of(key))
            if claim is not None:
                groups[order.parentId or trade.orderStatus.parentId or group_of(order) or (key,)].append(claim)
        working = [one[0] if len(one) == 1 else OrderList(one, ListKind.OCO) for one in groups.values()]
        for of, symbol, behind in self._lag.items():
            if of in {"", account}:
                working.append(OrderIntent(symbol, Side.BUY if behind > 0 else Side.SELL, abs(behind)))
        held = [_Held(contracts.symbol_of(each.contract), _exact(each.position)) for each in self._positions(account)]
        return Book(held, working)

    def members(self, group: str, account: str, without: OrderKey | None) -> dict[OrderKey, Any]:
        """The open orders of an OCA group in which one cancels the others."""
        contracts = self.contracts()
        found = {
            key: claims_of(trade.contract, order, contracts, self._most(key, trade) - self.filled(trade), name="")
            for key, trade in self._ib.wrapper.trades.items()
            for order in (self.sent.get(key, trade.order),)
            if key != without and group_of(order) == group and order.account in {"", account}
            if self._may_fill(key, trade)
        }
        return {key: claim for key, claim in found.items() if claim is not None}

    def held(self, symbol: str, account: str) -> Decimal:
        """The signed quantity. Raises `AccountUnknown`."""
        return sum((each.quantity for each in self.book(account).positions if each.symbol == symbol), ZERO)

    def account_of(self, named: str) -> str:
        """The account that an order is for; empty where it doesn't say, and there are several."""
        accounts = self._ib.wrapper.accounts
        return named or (accounts[0] if len(accounts) == 1 else "")

    def _waits_for_entry(self, order: Order | Sent, trade: Trade) -> bool:
        """Whether it can only close what another order, which has not filled, is still to open."""
        key = trade.order.clientId, order.parentId or trade.orderStatus.parentId
        entry = self._ib.wrapper.trades.get(key)
        if entry is None or not self._may_fill(key, entry) or self.filled(entry):
            return False
        opens, closes = SIDES.get(entry.order.action), SIDES.get(order.action)
        same = entry.contract.secType != "BAG" and plain_symbol(entry.contract) == plain_symbol(trade.contract) != ""
        fits = _exact(order.totalQuantity) <= self.told_total(key, entry)
        return same and fits and opens is not None and closes is opens.opposite

    def _positions(self, account: str) -> list[Position]:
        return self._ib.positions(account) if account else []

    def _most(self, key: OrderKey, trade: Trade) -> Decimal:
        """Of two quantities that it may have while a change of it is on its way, the larger."""
        status, sent = trade.orderStatus, self.sent.get(key)
        told = _exact(status.filled) + _exact(status.remaining)
        return max(told, _exact(sent.totalQuantity)) if sent else told or _exact(trade.order.totalQuantity)

    def _may_fill(self, key: OrderKey, trade: Trade) -> bool:
        """An inactive one may come back, unless TWS has refused it, or lists it among those that are over."""
        if key in self._doubtful:
            return True
        status = trade.orderStatus.status
        if key in self._never_taken:
            return False
        return not trade.isDone() or (status == OrderStatus.Inactive and key in self._filled)

    def _why_unknown(self) -> str | None:
        if not self._ib.isConnected():
            return "there is no connection to TWS"
        if self._lost:
            return "TWS has lost its connection to the venue (1100)"
        if not self.positions_known:
            return "TWS has not told its positions (reqPositions)"
        if not self.orders_known:
            return "TWS has not told the open orders (reqOpenOrders)"
        return None

    # What TWS tells

    def expect(self, what: str, answer: asyncio.Future[Any]) -> None:
        """Positions or open orders have been asked for; they are known once this is answered."""

        def done(answered: asyncio.Future[Any]) -> None:
            if answered.cancelled() or answered.exception() is not None:
                return
            if what == "positions":
                self._shown = defaultdict(lambda: ZERO)
                for each in self._ib.positions():
                    self._shown[each.account, _name(each.contract)] += _exact(each.position)
                self.positions_known = True
            else:
                self.orders_known = True

        answer.add_done_callback(done)

    def _on_open_order(self, trade: Trade) -> None:
        """A person may have changed it, unless a change of ours is on its way."""
        key, told = self._key(trade), trade.order
        sent = self.sent.get(key)
        if sent is None:
            return
        same = _terms(*sent.terms) == _terms(told.orderType, told.lmtPrice, told.auxPrice)
        if key not in self._changing:
            sent.changed_in_tws |= not same
        elif same and sent.totalQuantity == told.totalQuantity:
            self._changing.discard(key)

    def _on_status(self, trade: Trade) -> None:
        key = self._key(trade)
        self._count_fills(key, trade)
        if trade.log and trade.log[-1].errorCode:
            return  # ib_async's own conclusion from an error, which is looked at by itself
        if trade.orderStatus.permId:
            self._never_taken.discard(key)
        self._doubtful.discard(key)
        if trade.isDone() and trade.orderStatus.status != OrderStatus.Inactive:
            self._changing.discard(key)
            self.sent.pop(key, None)

    def _on_fill(self, trade: Trade, _fill: Fill) -> None:
        self._count_fills(self._key(trade), trade)

    def _count_fills(self, key: OrderKey, trade: Trade) -> None:
        """Of an order that was there before the connection, what had filled is in the positions already."""
        filled = self.filled(trade)
        before = self._filled.get(key)
        self._filled[key] = max(filled, before or ZERO)
        side, fresh = SIDES.get(self.sent.get(key, trade.order).action), filled - (filled if before is None else before)
        if side is None or fresh <= 0:
            return
        account = self.account_of(trade.order.account)
        if trade.contract.secType != "BAG":
            self._lag.add((account, self._symbol(trade)), fresh * side.sign)
            return
        for leg in trade.contract.comboLegs:
            known, own = self.contracts().known(leg.conId), SIDES.get(leg.action)
            if known is not None and own is not None:
                self._lag.add((account, _name(known)), fresh * int(leg.ratio) * side.sign * own.sign)

    def _symbol(self, trade: Trade) -> str:
        for contract in (trade.contract, *(fill.contract for fill in trade.fills)):
            if name := plain_symbol(contract):
                return name
        return ""

    def _on_position(self, position: Position) -> None:
        if not self.positions_known:
            return
        key = position.account, _name(position.contract)
        shown = sum((_exact(p.position) for p in self._ib.positions(key[0]) if _name(p.contract) == key[1]), ZERO)
        moved, self._shown[key] = shown - self._shown.get(key, ZERO), shown
        if moved:
            self._lag.add(key, -moved)

    def _on_error(self, number: int, code: int, _words: str, _contract: Contract | None) -> None:
        if code in LOST:
            self._lost = True
        elif code in FOUND:
            self._lost = self.positions_known = self.orders_known = False
            self._reading = asyncio.ensure_future(self._read_again())
        key = self._ib.wrapper.orderKey(self._ib.wrapper.clientId, number, 0)
        trade = self._ib.wrapper.trades.get(key)
        if trade is None or number <= 0 or code in NOTES:
            return
        if code in OVER:
            self._doubtful.discard(key)
        elif key in self._changing:
            self._doubtful.add(key)
        elif not trade.orderStatus.permId:
            self._never_taken.add(key)
        self._changing.discard(key)

    async def _read_again(self) -> None:
        """TWS has the venue again; what happened meanwhile is asked for until it is told."""
        while self._ib.isConnected() and not self._lost and not (self.positions_known and self.orders_known):
            with contextlib.suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(_ANSWERED_WITHIN):
                    await asyncio.gather(self._ib.reqPositionsAsync(), self._ib.reqOpenOrdersAsync())
                return
            _log.warning(
                "TWS has not told positions and orders again; while trading is not open nothing passes until it has"
            )
            await asyncio.sleep(1)

    def _key(self, trade: Trade) -> OrderKey:
        order = trade.order
        key: OrderKey = self._ib.wrapper.orderKey(order.clientId, order.orderId, order.permId)
        return key


def name_of(key: OrderKey) -> str:
    """What the gate calls an order."""
    return f"{key[0]}:{key[1]}" if isinstance(key, tuple) else str(key)


def _name(contract: Contract) -> str:
    return plain_symbol(contract) or f"#{contract.conId}"


def _terms(kind: str, *prices: Any) -> tuple[Any, ...]:
    """Without prices that are not set."""
    return kind, *(quantity_of(price) if is_set(price) else None for price in prices)


def _exact(value: Any) -> Decimal:
    return quantity_of(value) or ZERO
