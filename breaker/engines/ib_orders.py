"""Read contracts and orders of ib_async as what a gate is asked about. Pure; what can't be told is `NotUnderstood`.

Symbols are spelled as the adapter for Interactive Brokers spells them: a stock by its own, with its currency behind a
dot where that is not the dollar, an option by its OCC symbol, a future by its local one, a pair as `EUR.USD`.
Sources: the TWS API's documentation of contracts and orders (combinations, OCA groups, attached and scale orders).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from breaker.gate.intents import ListKind, OrderIntent, OrderList
from breaker.instruments import canonical_symbol
from breaker.orders import ZERO, Side

SIDES: Final[Mapping[str, Side]] = {"BUY": Side.BUY, "SELL": Side.SELL, "SSHORT": Side.SELL, "SLONG": Side.SELL}
_UNSET: Final = 1e100
"""Clients of TWS say the largest number there is for one that is not set."""
_CANCELLING: Final = frozenset({1, 2})
"""Kinds of an OCA group in which only one order is at the exchange at a time. The third may fill more than once."""
_QUANTITY: Final = 17
"""Which field of a `placeOrder` message says it: behind its kind, the number, fourteen of the contract, the action."""
_REFERENCE: Final = 26
"""The engine's or TWS's name for the order, which says nothing of how it fills."""


class NotUnderstood(ValueError):
    """What an order may do can't be told; the message is a clause that says why, and what helps."""


class Contracts:
    """The contracts that the account's positions and orders are in, by IB's number."""

    def __init__(self, contracts: Iterable[Any]) -> None:
        self._known = {contract.conId: contract for contract in contracts if contract.conId}

    def symbol_of(self, contract: Any) -> str:
        """Its symbol. Raises `NotUnderstood` where it, or another one of the same name, may be meant."""
        if contract.conId in self._known:
            return plain_symbol(self._known[contract.conId]) or f"#{contract.conId}"
        name = "" if contract.secId else plain_symbol(contract)
        if not name:
            same = self.may_be(contract)
            if len(same) != 1 or not contract.lastTradeDateOrContractMonth or not _tells_strike(contract):
                raise NotUnderstood("its contract doesn't tell which one it is; ask TWS with qualifyContracts")
            name = plain_symbol(same[0])
        called_so = (known for known in self._known.values() if plain_symbol(known) == name)
        if any(contract.conId or not _agree(contract, known) for known in called_so):
            raise NotUnderstood(f"the account has another contract that is called {name}")
        return name

    def known(self, con_id: int) -> Any | None:
        """The contract with this number; None if the account has nothing in it."""
        return self._known.get(con_id)

    def leg(self, con_id: int) -> str:
        """The symbol of a combination's leg, which has no more than a number. Raises `NotUnderstood`."""
        known = self.known(con_id)
        if known is None:
            raise NotUnderstood(f"the account has nothing in its leg {con_id}, whose symbol is so not known")
        return self.symbol_of(known)

    def may_be(self, contract: Any) -> list[Any]:
        """Which of the known ones an order for this contract may be for, by all that it tells."""
        return [known for known in self._known.values() if _agree(contract, known)]


def plain_symbol(contract: Any) -> str:
    """What the contract itself tells; empty where that is not enough."""
    kind, symbol, currency = contract.secType, contract.symbol, contract.currency
    if kind == "STK" and symbol:
        return str(symbol) if currency in {"", "USD"} else f"{symbol}.{currency}"
    if kind == "CASH" and symbol:
        return f"{symbol}.{currency}"
    if kind == "CRYPTO" and symbol:
        return canonical_symbol(f"{symbol}/{currency}")
    return str(contract.localSymbol).replace(" ", "") or _occ_symbol(contract)


def claims_of(
    contract: Any, order: Any, contracts: Contracts, quantity: Decimal, *, name: str
) -> OrderIntent | OrderList | None:
    """What an open order may still take, `quantity` of it; None for one of which nothing can be told at all.

    One for a contract that can't be told apart may take from each that it may be. A leg of a combination that is not
    held takes from nothing.
    """
    side = SIDES.get(order.action)
    if contract.secType == "BAG":
        legs = [
            OrderIntent(contracts.leg(leg.conId), _leg_side(leg, side), quantity * int(leg.ratio), client_order_id=name)
            for leg in contract.comboLegs
            if contracts.known(leg.conId) is not None and side is not None and quantity > 0
        ]
        return OrderList(legs, ListKind.LEGS) if legs else None
    try:
        symbols = [contracts.symbol_of(contract)]
    except NotUnderstood:
        symbols = [contracts.symbol_of(each) for each in contracts.may_be(contract)]
    found = [
        OrderIntent(symbol, side, notional=1, client_order_id=name)
        if _is_by_amount(order)
        else OrderIntent(symbol, side, quantity, client_order_id=name)
        for symbol in symbols
        if side is not None and (quantity > 0 or _is_by_amount(order))
    ]
    return (found[0] if len(found) == 1 else OrderList(found)) if found else None


def intent_of(
    contract: Any,
    order: Any,
    contracts: Contracts,
    *,
    filled: Decimal = ZERO,
    account: str | None = None,
    strategy: str | None = None,
    name: str = "",
) -> OrderIntent | OrderList:
    """What a new order may do, or the rest of one of which `filled` has filled. Raises `NotUnderstood`."""
    _check(contract, order)
    side, quantity = SIDES.get(order.action), quantity_of(order.totalQuantity)
    rest = quantity - filled if quantity is not None else None

    def make(symbol: str, side: Side | str, quantity: Any, notional: Any = None) -> OrderIntent:
        return OrderIntent(symbol, side, quantity, account, strategy, notional=notional, client_order_id=name)

    if contract.secType == "BAG":
        if side is None or rest is None or _is_by_amount(order) or not contract.comboLegs:
            raise NotUnderstood("it is a combination whose legs, side or quantity are not told")
        return OrderList(
            [make(contracts.leg(leg.conId), _leg_side(leg, side), rest * int(leg.ratio)) for leg in contract.comboLegs],
            ListKind.LEGS,
        )
    symbol = contracts.symbol_of(contract)
    if _is_by_amount(order):
        return make(symbol, side or order.action, None, quantity_of(order.cashQty) or order.cashQty)
    return make(symbol, side or order.action, order.totalQuantity if rest is None else rest)


def exercise_of(
    contract: Any, quantity: Any, contracts: Contracts, *, account: str | None = None, strategy: str | None = None
) -> OrderList:
    """An exercise as a combination: the options go, and what they are on comes or goes. Raises `NotUnderstood`."""
    told = contracts.known(contract.conId) or contract
    right, multiplier = str(told.right)[:1].upper(), quantity_of(told.multiplier)
    if told.secType != "OPT" or right not in {"C", "P"} or multiplier is None or not told.symbol:
        raise NotUnderstood("what an exercise of this contract brings is not known")
    dollars = told.currency in {"", "USD"}
    underlying = told.symbol if dollars else f"{told.symbol}.{told.currency}"
    number = quantity_of(quantity)
    got = quantity if number is None else number * multiplier
    taken = Side.BUY if right == "C" else Side.SELL
    return OrderList(
        [
            OrderIntent(
                contracts.symbol_of(told), Side.SELL, quantity if number is None else number, account, strategy
            ),
            OrderIntent(underlying, taken, got, account, strategy),
        ],
        ListKind.LEGS,
    )


def quantity_of(value: Any) -> Decimal | None:
    """A number as its author wrote it; None for what is none."""
    try:
        number = Decimal(repr(value) if isinstance(value, float) else str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() and abs(number) < _UNSET else None


def differ_in_quantity_only(old: bytes, new: bytes) -> bool:
    """Whether two `placeOrder` messages of one order, each behind its length, say the same but for the quantity."""
    olds, news = old[4:].split(b"\0"), new[4:].split(b"\0")
    return len(olds) == len(news) and all(
        mine == theirs or place in {_QUANTITY, _REFERENCE} or _number(mine) == _number(theirs) != ""
        for place, (mine, theirs) in enumerate(zip(olds, news, strict=True))
    )


def _number(field: bytes) -> Decimal | str:
    """A price that is not set is echoed by TWS as 0, and a whole one comes back with a point. Text is no number."""
    try:
        return Decimal(field.decode() or 0)
    except InvalidOperation:
        return ""


def group_of(order: Any) -> str:
    """The OCA group of which one order cancels the others; empty where there is none."""
    return str(order.ocaGroup) if order.ocaType in _CANCELLING else ""


def _check(contract: Any, order: Any) -> None:
    if order.faGroup or order.faProfile or order.faMethod or order.modelCode:
        raise NotUnderstood("it is allocated to several accounts, or to a model")
    if order.hedgeType or order.deltaNeutralOrderType or contract.deltaNeutralContract:
        raise NotUnderstood("it trades a hedge of a size that TWS finds")
    if is_set(order.scalePriceIncrement):
        raise NotUnderstood("it is a scale order, which may trade more than its quantity")


def is_set(value: Any) -> bool:
    number = quantity_of(value)
    return number is not None and number > 0


def _is_by_amount(order: Any) -> bool:
    return is_set(order.cashQty)


def _leg_side(leg: Any, side: Side | None) -> Side | str:
    own = SIDES.get(leg.action)
    if own is None or side is None:
        return str(leg.action)
    return own if side is Side.BUY else own.opposite


def _occ_symbol(contract: Any) -> str:
    strike, right = quantity_of(contract.strike), str(contract.right)[:1].upper()
    expiry, root = str(contract.lastTradeDateOrContractMonth), contract.tradingClass or contract.symbol
    if contract.secType != "OPT" or not root or len(expiry) != 8 or right not in {"C", "P"} or not strike:
        return ""
    return f"{root}{expiry[2:]}{right}{int(strike * 1000):08d}"


def _tells_strike(contract: Any) -> bool:
    return contract.secType == "FUT" or bool(contract.strike and contract.right)


def _agree(contract: Any, known: Any) -> bool:
    if contract.conId:
        return bool(contract.conId == known.conId)
    for term in ("secType", "symbol", "currency", "localSymbol", "multiplier", "tradingClass"):
        said, other = getattr(contract, term), getattr(known, term)
        if said and other and said != other:
            return False
    expiry = str(contract.lastTradeDateOrContractMonth)
    if expiry and not str(known.lastTradeDateOrContractMonth).startswith(expiry):
        return False
    right = str(contract.right)[:1].upper()
    if right and str(known.right)[:1].upper() != right:
        return False
    return not contract.strike or float(contract.strike) == float(known.strike)
