"""Guard ib_async's `IB`: its own methods and types, with the gate in front of every order and again at the socket.

What is guaranteed and what is not: docs/how-to/guard-ib-async.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import weakref
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Any, Final

from ib_async import IB, BracketOrder, Contract, IBDefaults, Order, Position, Trade

from breaker.engines.admission import Admission, Book
from breaker.engines.ib_account import AccountUnknown, LiveAccount, OrderKey, Sent, name_of
from breaker.engines.ib_brackets import Attached, Brackets, Leaving, Queue
from breaker.engines.ib_events import RuleEvents
from breaker.engines.ib_orders import (
    SIDES,
    Contracts,
    NotUnderstood,
    differ_in_quantity_only,
    exercise_of,
    group_of,
    intent_of,
    is_set,
    quantity_of,
)
from breaker.engines.ib_wire import Wire, written
from breaker.engines.rules_feed import RulesFeed
from breaker.gate.decision import Decision, OrderRefused, Permit, Reason
from breaker.gate.intents import CancelIntent, ListKind, OrderIntent, OrderList, ReplaceIntent

if TYPE_CHECKING:
    from breaker.gate.gate import Gate
    from breaker.rules import Rules

_ANY: Final = OrderIntent("*", "buy", 1)
"""Stands for every order while every breaker is open."""
_REJECTED: Final = 201
_ORDER_MESSAGE: Final = 399
"""ib_async takes this for a note: the order that was to be changed works on."""
_LAPSE: Final = 2


class GuardedIB(IB):
    """`ib_async.IB` whose orders are judged: new ones, changes, brackets and exercises. Cancels always pass.

    Used from one event loop, as `IB` is. What the account holds is ib_async's own live state; with a connection that
    is away, or to a TWS that has lost its venue, it is not known, and then only what needs no knowledge of it passes.

    Args:
        gate: Judges.
        rules: Are told of orders sent, taken and refused, of errors, latency and equity. None: nobody is.
        account: What the breakers call the account (`account:ALPHA`).
        strategy: What they call the strategy.
        ib_account: IB's own number of the account whose equity the rules are told, where the login has several.
        defaults: As for `IB`.

    Example:
        >>> ib = GuardedIB(gate, rules)
        >>> ib.connect("127.0.0.1", 4001, clientId=8)
        >>> trade = ib.placeOrder(Stock("AAPL", "SMART", "USD"), MarketOrder("BUY", 10))
    """

    def __init__(
        self,
        gate: Gate,
        rules: Rules | None = None,
        *,
        account: str | None = None,
        strategy: str | None = None,
        ib_account: str = "",
        defaults: IBDefaults = IBDefaults(),  # noqa: B008 -- ib_async's own
    ) -> None:
        super().__init__(defaults)
        self._gate = gate
        self._account, self._strategy = account, strategy
        self._live = LiveAccount(self)
        feed = None if rules is None else RulesFeed(rules, "ib")
        if feed is not None:
            weakref.finalize(self, feed.close)
        self._rule_events = RuleEvents(self, feed, ib_account)
        self._admission = Admission(gate, self._read_book, max_age=0)
        self._asked: tuple[str, Collection[OrderKey], OrderKey | None] = ("", (), None)
        self._brackets = Brackets()
        self._queue = Queue()
        self._placing: Leaving | None = None
        self._making_room = False
        self._unanswered: dict[OrderKey, Permit] = {}
        self._listing: dict[str, asyncio.Future[Any]] = {}
        self._place_bare: Callable[..., Any] = self.client.placeOrder
        self._exercise_bare: Callable[..., Any] = self.client.exerciseOptions
        self.client.placeOrder = self._place  # type: ignore[method-assign]
        self.client.exerciseOptions = self._exercise  # type: ignore[method-assign]
        self.client.conn = Wire(self.client.conn, self._leaves)  # type: ignore[assignment]
        self.disconnectedEvent += self._forget
        self.orderStatusEvent += self._answered

    # ib_async's methods that need more than a look at what they send

    def bracketOrder(
        self,
        action: str,
        quantity: float,
        limitPrice: float,
        takeProfitPrice: float,
        stopLossPrice: float,
        **kwargs: Any,
    ) -> BracketOrder:
        """See `IB.bracketOrder`. The three are judged as one before the first is sent."""
        made = super().bracketOrder(action, quantity, limitPrice, takeProfitPrice, stopLossPrice, **kwargs)
        self._brackets.made(made)
        return made

    def disconnect(self) -> str | None:
        """See `IB.disconnect`."""
        events = getattr(self, "_rule_events", None)
        if events is not None:
            events.expected = self.client.isConnected()
        return super().disconnect()

    def reqPositionsAsync(self) -> Awaitable[list[Position]]:
        """See `IB.reqPositionsAsync`. Who asks while an answer is on its way gets that one."""
        known: Awaitable[list[Position]] = self._list("positions", super().reqPositionsAsync)
        return known

    def reqOpenOrdersAsync(self) -> Awaitable[list[Trade]]:
        """See `IB.reqOpenOrdersAsync`, and `reqPositionsAsync`."""
        known: Awaitable[list[Trade]] = self._list("openOrders", super().reqOpenOrdersAsync)
        return known

    def reqAllOpenOrdersAsync(self) -> Awaitable[list[Trade]]:
        """See `IB.reqAllOpenOrdersAsync`."""
        known: Awaitable[list[Trade]] = self._list("allOpenOrders", super().reqAllOpenOrdersAsync)
        return known

    def _list(self, what: str, ask: Callable[[], Any]) -> Any:
        known = self._listing.get(what)
        if known is None or known.done() or known.get_loop() is not asyncio.get_event_loop():
            known = self._listing[what] = ask()
            self._live.expect(what, known)
        return known

    # From the engine to the queue

    def _place(self, orderId: int, contract: Contract, order: Order) -> None:
        """In place of the client's `placeOrder`, which `IB.placeOrder` and `IB.whatIfOrder` call."""
        key: OrderKey = self.wrapper.orderKey(self.wrapper.clientId, orderId, order.permId)
        leaving = Leaving(orderId, key, contract, order, self._live.is_open(key), self.client.conn.transport)
        try:
            if order.whatIf is not True:
                leaving.permit = self._admit(leaving)
                self._brackets.admitted(leaving)
            self._hand_over(leaving, self._place_bare, orderId, contract, order)
        except OrderRefused as refused:
            self._take_back(leaving, refused.decision)
            raise

    def _exercise(
        self,
        reqId: int,
        contract: Contract,
        exerciseAction: int,
        exerciseQuantity: int,
        account: str,
        override: int,
    ) -> None:
        """In place of the client's `exerciseOptions`. To let options lapse adds nothing."""
        exercise = Order(action="", totalQuantity=exerciseQuantity, account=account, orderType="EXERCISE")
        key = self.wrapper.clientId, reqId
        leaving = Leaving(reqId, key, contract, exercise, False, self.client.conn.transport)
        if exerciseAction != _LAPSE:
            leaving.permit = self._admit(leaving)
        bare = self._exercise_bare
        self._hand_over(leaving, bare, reqId, contract, exerciseAction, exerciseQuantity, account, override)

    def _hand_over(self, leaving: Leaving, send: Callable[..., Any], *message: Any) -> None:
        before, self._placing = self._placing, leaving
        try:
            send(*message)
            if not leaving.left:
                leaving.order = copy.copy(leaving.order)  # until it leaves, the engine may write into the one it has
                self._queue.put(leaving)
        except BaseException:
            if not leaving.left:
                self._free(leaving)
            raise
        finally:
            self._placing = before

    # Judging

    def _admit(self, leaving: Leaving) -> Permit:
        """Raises `OrderRefused`. While every breaker is open nothing is looked up."""
        order = leaving.order
        decision = self._brackets.refusal_of(order.parentId) if order.parentId else None
        if decision is not None:
            raise OrderRefused(decision)
        if self._gate.is_open:
            decision = self._gate.check(_ANY if _is_plain(order) else _doubtful(leaving))
            if decision.reason is Reason.INVALID_ORDER:
                raise OrderRefused(decision)
            if decision.reason is Reason.OPEN and decision.permit is not None:
                leaving.intent = None
                return decision.permit
        self._make_room(leaving)
        return self._judge(leaving)

    def _make_room(self, asking: Leaving) -> None:
        """What waits in ib_async's throttle and may no longer leave is in the way of exits: there it takes a turn each.

        Where the throttle is not as it is known, each goes when its turn comes.
        """
        messages: Any = getattr(self.client, "_msgQ", ())
        for leaving in () if self._making_room else self._queue.alone():
            message = next((each for each in messages if each.startswith(f"3\0{leaving.order_id}\0")), None)
            if leaving is asking or message is None:
                continue
            self._making_room = True
            try:
                self._confirm(leaving)
            except OrderRefused as refused:
                messages.remove(message)
                self._queue.take(leaving.order_id, leaving.transport)
                self._drop(leaving, refused.decision)
            finally:
                self._making_room = False

    def _judge(self, leaving: Leaving) -> Permit:
        account = self._live.account_of(leaving.order.account)
        try:
            if not account:
                raise NotUnderstood("it doesn't say for which of the login's accounts it is")  # noqa: TRY301
            self._asked = account, (() if leaving.change else (leaving.key,)), None
            bracket = self._brackets.whole(leaving, self.wrapper.clientId)
            if bracket is not None:
                return self._judge_bracket(leaving, *bracket)
            leaving.intent = self._intent(leaving, account)
        except (NotUnderstood, AccountUnknown) as why:
            sentence = f"{self._gate.status().sentence} This order was refused, because {why}; nothing was sent."
            raise OrderRefused(Decision(False, Reason.INVALID_ORDER, sentence)) from why
        return self._admission.admit(leaving.intent)

    def _judge_bracket(self, leaving: Leaving, parent: Leaving, attached: list[Attached]) -> Permit:
        contracts = self._live.contracts()
        make = self._intent_of
        entry = make(parent.contract, parent.order, contracts, parent.key)
        exits = [make(each.contract, each.order, contracts, each.key) for each in attached]
        leaving.intent = whole = OrderList(
            [entry, OrderList(exits, ListKind.OCO) if len(exits) > 1 else exits[0]], ListKind.OTO
        )
        self._asked = self._asked[0], [parent.key, *(each.key for each in attached)], None
        permit = self._brackets.judged(parent.order_id, whole)
        if permit is None or not self._gate.recheck(permit, whole):
            permit = self._admission.admit(whole)
            self._brackets.remember(parent.order_id, whole, permit)
        return permit

    def _intent(self, leaving: Leaving, account: str) -> Any:
        """What a gate is asked of an order by itself. Raises `NotUnderstood`, `AccountUnknown`."""
        order, contract, key = leaving.order, leaving.contract, leaving.key
        contracts = self._live.contracts()
        if order.orderType == "EXERCISE":
            return exercise_of(contract, order.totalQuantity, contracts, account=self._account, strategy=self._strategy)
        if order.parentId and self._is_exit_of_parent(leaving, contracts, account):
            return CancelIntent(name_of(key))
        if leaving.change:
            return self._change(leaving, contracts, account)
        new = self._intent_of(contract, order, contracts, key)
        members = self._live.members(group_of(order), account, key) if group_of(order) else {}
        if not members:
            return new
        for member in members:  # they are judged with it, as open orders
            if (permit := self._unanswered.pop(member, None)) is not None:
                self._admission.not_sent(permit)
        self._asked = account, [key, *members], None
        return OrderList([new, *members.values()], ListKind.OCO)

    def _intent_of(self, contract: Contract, order: Order, contracts: Contracts, key: OrderKey, **more: Any) -> Any:
        return intent_of(
            contract, order, contracts, account=self._account, strategy=self._strategy, name=name_of(key), **more
        )

    def _change(self, leaving: Leaving, contracts: Contracts, account: str) -> Any:
        order, key, trade = leaving.order, leaving.key, self.wrapper.trades[leaving.key]
        filled = self._live.filled(trade)
        total = quantity_of(order.totalQuantity)
        if total is not None and 0 < total <= filled and not is_set(order.cashQty):
            return CancelIntent(name_of(key))  # nothing of it can fill any more
        new = self._intent_of(leaving.contract, order, contracts, key, filled=filled)
        if isinstance(new, OrderList):
            self._asked = account, [key], None
            return new
        self._asked = account, (), key
        old = self._live.sent.get(key)
        only = old is not None and not old.changed_in_tws and not self._has_larger_exit(leaving)
        if old is not None and only:
            only = differ_in_quantity_only(
                old.message, written(self.client, leaving.order_id, leaving.contract, leaving.order)
            )
        return ReplaceIntent(name_of(key), new, only)

    def _has_larger_exit(self, leaving: Leaving) -> bool:
        """Something attached would close more than is left of it."""
        return any(
            each.order.parentId == leaving.order_id
            and self._live.is_open(key)
            and float(each.order.totalQuantity) > float(leaving.order.totalQuantity)
            for key, each in self.wrapper.trades.items()
        )

    def _is_exit_of_parent(self, leaving: Leaving, contracts: Contracts, account: str) -> bool:
        """Whether it closes no more than what its parent, which works at the venue, opens. TWS keeps it until then."""
        key = (self.wrapper.clientId, leaving.order.parentId)
        parent = self.wrapper.trades.get(key)
        if parent is None or not self._live.is_open(key):
            return False
        intent = self._intent_of(leaving.contract, leaving.order, contracts, leaving.key)
        opens = SIDES.get(self._live.sent.get(key, parent.order).action)
        if (
            isinstance(intent, OrderList)
            or intent.quantity is None
            or opens is None
            or intent.side is not opens.opposite
        ):
            return False
        same = parent.contract.secType != "BAG" and contracts.symbol_of(parent.contract) == intent.symbol
        enters = same and self._live.held(intent.symbol, account) * opens.sign >= 0
        return bool(enters and intent.quantity <= self._live.told_total(key, parent))

    def _read_book(self) -> Book:
        account, without, replaced = self._asked
        return self._live.book(account, without, replaced=replaced)

    # At the socket

    def _leaves(self, kind: str, order_id: int, message: bytes) -> bool:
        """Whether this message may leave now, which may be seconds after it was given to ib_async's throttle.

        Raises:
            OrderRefused: it may not, and it is the one that is just being placed.
        """
        if kind not in {"placeOrder", "exerciseOptions"}:
            if self._rule_events.is_told:
                self._rule_events.sent(kind)
            return True
        placing = self._placing
        leaving = self._queue.take(order_id, self.client.conn.transport) if self._queue else None
        if leaving is None and placing is not None and placing.order_id == order_id and not placing.left:
            leaving = placing
        if leaving is None:
            return self._stranger_leaves(order_id)
        try:
            self._confirm(leaving)
        except OrderRefused as refused:
            if leaving is placing:
                raise
            self._drop(leaving, refused.decision)
            return False
        leaving.left = True
        if leaving.permit is None:
            return True
        if leaving.permit.reservation:
            self._unanswered[leaving.key] = leaving.permit
        if kind == "placeOrder":
            self._live.left(leaving.key, Sent.of(leaving.order, message), change=leaving.change)
            self._brackets.left(leaving)
            if self._rule_events.is_told:
                self._rule_events.order_left(leaving.key)
        return True

    def _stranger_leaves(self, order_id: int) -> bool:
        """An order that was written to the client's `send`, of which nothing but its number is known."""
        if self._gate.is_open:
            return True
        why = "it was given to none of the methods that are guarded; nothing was sent"
        self._reject(order_id, _ORDER_MESSAGE, f"{self._gate.status().sentence} This order was refused, because {why}.")
        return False

    def _confirm(self, leaving: Leaving) -> None:
        if leaving.permit is None:
            return
        withdrawn = leaving.withdrawn or self._brackets.refusal_of(leaving.order.parentId)
        if withdrawn is not None:
            raise OrderRefused(withdrawn)
        if leaving.intent is None and self._gate.is_open:
            return  # it would be admitted now as it was then
        if not self._gate.recheck(leaving.permit, leaving.intent):
            self._free(leaving)
            leaving.permit = self._admit(leaving)

    def _drop(self, leaving: Leaving, decision: Decision) -> None:
        """Nobody waits for an exception any more: it ends as one that TWS has refused. A change leaves its order be."""
        self._take_back(leaving, decision)
        self._reject(leaving.order_id, _ORDER_MESSAGE if leaving.change else _REJECTED, decision.sentence)

    def _reject(self, order_id: int, code: int, sentence: str) -> None:
        with self._rule_events.aside():
            self.wrapper.error(order_id, code, f"Order rejected - reason:{sentence}", "")

    def _take_back(self, leaving: Leaving, decision: Decision) -> None:
        """What TWS has of its bracket goes, too. It was never transmitted."""
        for part in self._brackets.refused(leaving, decision):
            trade = self.wrapper.trades.get(part.key)
            with contextlib.suppress(ConnectionError):
                if trade is None:
                    self.client.cancelOrder(part.order_id)
                else:
                    self.cancelOrder(trade.order)

    def _free(self, leaving: Leaving) -> None:
        if leaving.permit is not None:
            self._admission.not_sent(leaving.permit)

    def _answered(self, trade: Trade) -> None:
        order = trade.order
        permit = self._unanswered.pop(self.wrapper.orderKey(order.clientId, order.orderId, order.permId), None)
        if permit is not None:
            self._admission.answered(permit)

    def _forget(self) -> None:
        for leaving in self._queue.clear():
            self._free(leaving)
        self._brackets.forget()
        self._listing.clear()
        self._unanswered.clear()


def _is_plain(order: Order) -> bool:
    return order.action in SIDES and 0 < order.totalQuantity < float("inf")


def _doubtful(leaving: Leaving) -> Any:
    """What the gate has to look at even while it is open, since it may be no order."""
    order = leaving.order
    if order.orderType == "EXERCISE":
        return OrderIntent("*", "sell", leaving.order.totalQuantity)  # type: ignore[arg-type]
    cash = quantity_of(order.cashQty)
    side = SIDES.get(order.action, order.action)
    return OrderIntent("*", side, None if cash else order.totalQuantity, notional=cash)  # type: ignore[arg-type]
