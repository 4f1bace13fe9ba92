"""Read what a call of ccxt's asks for into what the gate judges. Pure: arguments and a market in, intents out.

While trading is halted only what is understood whole passes. A parameter that ccxt hands on to the exchange as it is
may say anything, another quantity too, so those that may stand in an order that is judged are named here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from breaker.engines.ccxt_calls import snake_case
from breaker.gate.intents import ListKind, OrderIntent, OrderList, ReplaceIntent
from breaker.orders import PositionSide

_CLIENT_IDS: Final = (
    "clientOrderId",
    "newClientOrderId",
    "clientOid",
    "clOrdId",
    "clOrdID",
    "orderLinkId",
    "client_order_id",
    "client_oid",
    "cl_ord_id",
    "cloid",
    "label",
    "text",
    "clientAlgoId",
)
_TERMS: Final = frozenset(
    {
        *_CLIENT_IDS,
        "timeInForce",
        "postOnly",
        "recvWindow",
        "newOrderRespType",
        "selfTradePreventionMode",
        "goodTillDate",
        "triggerPrice",
        "stopPrice",
        "stopLossPrice",
        "takeProfitPrice",
        "trailingPercent",
        "trailingAmount",
        "trailingTriggerPrice",
        "triggerDirection",
        "triggerBy",
        "triggerType",
        "workingType",
        "priceProtect",
        "trigger",
        "stop",
        "takeProfit",
        "stopLoss",
    }
)
"""Parameters that change neither what is traded nor how much of it."""
_OF_MONEY: Final = frozenset({"cost", "quoteOrderQty", "createMarketBuyOrderRequiresPrice"})
_OF_CONTRACTS: Final = frozenset(
    {
        "reduceOnly",
        "closePosition",
        "hedged",
        "positionSide",
        "posSide",
        "holdSide",
        "positionIdx",
        "marginMode",
        "tdMode",
    }
)
_ARGUMENTS: Final = frozenset(
    {
        "symbol",
        "type",
        "side",
        "amount",
        "price",
        "cost",
        "id",
        "clientOrderId",
        "orders",
        "duration",
        "triggerPrice",
        "stopLossPrice",
        "takeProfitPrice",
        "takeProfit",
        "stopLoss",
        "trailingAmount",
        "trailingPercent",
        "trailingTriggerPrice",
        "params",
    }
)
_TRUE: Final = (True, "true", "True", 1)
_FALSE: Final = (False, "false", "False", 0, None)
_LEGS: Final = {"long": PositionSide.LONG, "short": PositionSide.SHORT}
_NETS: Final = frozenset({"both", "net", "one_way", ""})
_INDICES: Final = {"1": PositionSide.LONG, "2": PositionSide.SHORT}


class NotUnderstood(Exception):
    """Why a call can't be judged: a clause."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose orders they are.

    Attributes:
        account: As of `OrderIntent`.
        strategy: As of `OrderIntent`.
        normal_quantity: Gives, by ccxt's symbol, the size that an order has on an ordinary day, in the unit of ccxt's
            amounts; None where there is none.
    """

    account: str | None = None
    strategy: str | None = None
    normal_quantity: Callable[[str], Any] | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """One order of a call, as it was asked for, its market not looked at yet.

    Attributes:
        symbol: As it was given.
        side: As it was given, or as the method's name has it.
        terms: All arguments by name, without `params`.
        params: The exchange's own.
        replaces: The id of the order that it takes the place of; empty for a new one.
    """

    symbol: str
    side: Any
    terms: Mapping[str, Any]
    params: Mapping[str, Any]
    replaces: str = ""


def asked_by(name: str, given: Mapping[str, Any]) -> list[Asked]:
    """Each order that a call asks for.

    Args:
        name: The method's.
        given: Its arguments by name.

    Raises:
        NotUnderstood: It can't be told.
    """
    method, params = snake_case(name), _mapping(given.get("params"), "its params")
    unknown = sorted(key for key, value in given.items() if key not in _ARGUMENTS and value is not None)
    if unknown:
        raise NotUnderstood(f"what its argument '{unknown[0]}' means is not known")
    if "orders" not in given:
        return [_one(method, given, params)]
    orders = given["orders"]
    if not isinstance(orders, Sequence) or isinstance(orders, str) or not orders:
        raise NotUnderstood("it has no list of orders")
    return [_of_list(method, each, params) for each in orders]


def _of_list(method: str, order: Any, shared: Mapping[str, Any]) -> Asked:
    terms = _mapping(order, "one of its orders")
    unknown = sorted(key for key, value in terms.items() if key not in _ARGUMENTS and value is not None)
    if unknown:
        raise NotUnderstood(f"what '{unknown[0]}' of one of its orders means is not known")
    return _one(method, terms, {**shared, **_mapping(terms.get("params"), "an order's params")})


def _one(method: str, given: Mapping[str, Any], params: Mapping[str, Any]) -> Asked:
    symbol = given.get("symbol")
    if not isinstance(symbol, str) or not symbol:
        raise NotUnderstood("it names no symbol")
    words = method.split("_")
    side = given.get("side") or next((word for word in ("buy", "sell") if word in words), None)
    replaces = ""
    if words[0] == "edit":
        replaces = str(given.get("id") or given.get("clientOrderId") or params.get("clientOrderId") or "")
        if not replaces:
            raise NotUnderstood("it does not say which order it changes")
    terms = {key: value for key, value in given.items() if key not in ("params", "orders")}
    return Asked(symbol, side, terms, params, replaces)


def intent_of(asked: Asked, market: Mapping[str, Any], exchange: Any, owner: Owner, *, by_mode: bool = False) -> Any:
    """What the gate judges: an `OrderIntent`, a `ReplaceIntent`, or an `OrderList` of an entry and its exits.

    Args:
        asked: The order.
        market: ccxt's, of its symbol.
        exchange: ccxt's, of which `id` and `options` are looked at.
        owner: Whose it is.
        by_mode: Whether an order at this exchange says its margin mode, so that beside a position in the one mode it
            can open another in the other.

    Raises:
        NotUnderstood: It can't be told what it comes to.
    """
    contract, options = bool(market.get("contract")), exchange.options
    if not contract and not market.get("spot"):
        raise NotUnderstood(f"{market.get('symbol')} is neither a spot market nor a contract")
    _check_params(asked.params, contract)
    if asked.params.get("closePosition") in _TRUE and not _closes_position(asked, exchange.id):
        raise NotUnderstood("closePosition is for Binance's conditional orders only, and means nothing in this one")
    if not contract and _borrows(options):
        raise NotUnderstood("a margin order may borrow what it sells, and what is owed is not read")
    order = _order(asked, market, options, owner, contract)
    if contract and by_mode and not order.reduce_only:
        raise NotUnderstood("it may open a second position in another margin mode; say reduceOnly")
    exits = [_exit(order, each) for each in _attached(asked)]
    if not asked.replaces:
        return OrderList([order, OrderList(exits, ListKind.OCO)], ListKind.OTO) if exits else order
    if exits:
        raise NotUnderstood("a change of an order that attaches others to it can't be judged")
    only_quantity = asked.terms.get("price") is None and not (asked.params.keys() - {*_CLIENT_IDS, "recvWindow"})
    return ReplaceIntent(asked.replaces, order, only_quantity)


def _order(
    asked: Asked, market: Mapping[str, Any], options: Mapping[str, Any], owner: Owner, contract: bool
) -> OrderIntent:
    symbol = str(market["symbol"])
    closes_all = contract and asked.params.get("closePosition") in _TRUE
    cost = 1 if closes_all else _cost(asked, options, contract)
    amount = asked.terms.get("amount")
    if cost is None and amount is None:
        raise NotUnderstood("it says neither an amount nor a cost")
    normal = None if owner.normal_quantity is None else owner.normal_quantity(symbol)
    return OrderIntent(
        symbol,
        str(asked.side).lower(),
        quantity=None if cost is not None else amount,
        account=owner.account,
        strategy=owner.strategy,
        normal_quantity=normal,
        position_side=_position_side(asked, options) if contract else None,
        notional=cost,
        reduce_only=closes_all or (contract and asked.params.get("reduceOnly") in _TRUE),
        client_order_id=next((str(asked.params[key]) for key in _CLIENT_IDS if asked.params.get(key)), ""),
    )


def _closes_position(asked: Asked, exchange: str) -> bool:
    """Binance, new algo order: a conditional one with `closePosition` takes what is left of the position."""
    given = {**asked.terms, **asked.params}
    conditional = any(given.get(key) for key in ("triggerPrice", "stopPrice", "stopLossPrice", "takeProfitPrice"))
    return conditional and exchange.startswith("binance")


def _cost(asked: Asked, options: Mapping[str, Any], contract: bool) -> Any:
    """The amount of money that it is for; None where it is for a quantity."""
    said = (asked.terms.get("cost"), asked.params.get("cost"), asked.params.get("quoteOrderQty"))
    cost = next((each for each in said if each is not None), None)
    if cost is not None or contract or str(asked.side).lower() != "buy" or asked.terms.get("type") == "limit":
        return cost
    name = "createMarketBuyOrderRequiresPrice"
    by_cost = any(each.get(name, True) is False for each in (asked.params, options, _of_create(options)))
    return asked.terms.get("amount") if by_cost else None


def _position_side(asked: Asked, options: Mapping[str, Any]) -> PositionSide | None:
    """In hedge mode, which of the symbol's two positions. ccxt's `hedged` says it by side and `reduceOnly`."""
    params = asked.params
    found = set[PositionSide]()
    for key in ("positionSide", "posSide", "holdSide"):
        word = str(params.get(key) or "").lower()
        if word in _LEGS:
            found.add(_LEGS[word])
        elif word not in _NETS:
            raise NotUnderstood(f"its {key} is {word!r:.40}, neither long nor short")
    index = str(params.get("positionIdx") or "0")
    if index in _INDICES:
        found.add(_INDICES[index])
    elif index != "0":
        raise NotUnderstood(f"its positionIdx is {index!r:.40}, neither 0, 1 nor 2")
    hedged = params.get("hedged", _of_create(options).get("hedged", options.get("hedged")))
    if hedged in _TRUE and not found:
        is_long = (str(asked.side).lower() == "buy") != (params.get("reduceOnly") in _TRUE)
        return PositionSide.LONG if is_long else PositionSide.SHORT
    if len(found) > 1:
        raise NotUnderstood("it names both of the symbol's positions")
    return next(iter(found), None)


def _check_params(params: Mapping[str, Any], contract: bool) -> None:
    known = _TERMS | _OF_MONEY | (_OF_CONTRACTS if contract else frozenset())
    if contract:
        known -= {"quoteOrderQty"}
    for key, value in params.items():
        if key not in known and value is not None:
            raise NotUnderstood(f"what its parameter '{key}' makes of it is not known")
        if key in ("reduceOnly", "closePosition", "hedged") and value not in (*_TRUE, *_FALSE):
            raise NotUnderstood(f"its {key} is {value!r:.40}, neither true nor false")


def _borrows(options: Mapping[str, Any]) -> bool:
    """Whether orders on spot markets are for a margin account unless they say otherwise."""
    for each in (options, _of_create(options)):
        if each.get("defaultType") == "margin" or each.get("portfolioMargin") or each.get("papi"):
            return True
        if each.get("defaultMarginMode") or each.get("marginMode") or each.get("leverage"):
            return True
    return False


def _of_create(options: Mapping[str, Any]) -> Mapping[str, Any]:
    found = options.get("createOrder")
    return found if isinstance(found, Mapping) else {}


def _attached(asked: Asked) -> Iterator[Any]:
    """The exits that the order brings along: prices, or ccxt's dictionaries, which may have an amount of their own."""
    for key in ("takeProfit", "stopLoss"):
        for found in (asked.terms.get(key), asked.params.get(key)):
            if found is not None:
                yield found


def _exit(entry: OrderIntent, attached: Any) -> OrderIntent:
    own = attached.get("amount") if isinstance(attached, Mapping) else None
    return OrderIntent(
        entry.symbol,
        "sell" if str(entry.side) == "buy" else "buy",
        quantity=own if own is not None else entry.quantity,
        account=entry.account,
        strategy=entry.strategy,
        position_side=entry.position_side,
        notional=entry.notional if own is None else None,
    )


def _mapping(found: Any, what: str) -> Mapping[str, Any]:
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise NotUnderstood(f"{what} are no dictionary")
    return found
