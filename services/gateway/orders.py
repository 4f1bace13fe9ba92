"""Read Alpaca's orders, strictly: what two readers could read differently is refused. Pure: bytes in, intents out.

Source: Alpaca's Trading API reference (orders, positions, options trading).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs

from breaker.engines import Book
from breaker.gate import CancelIntent, ListKind, OrderIntent, OrderList, ReplaceIntent
from breaker.instruments import canonical_symbol
from breaker.orders import Order, Position, Side
from services.gateway.routes import Kind, Route

LARGEST_BODY = 65_536
"""Bytes of an order; Alpaca's have a few hundred."""
_KEY = re.compile(r"[a-z0-9_]{1,64}")
_NUMBER = re.compile(r"[0-9]{1,30}(\.[0-9]{1,30})?")
_SYMBOL = re.compile(r"[A-Za-z0-9./_-]{1,64}")
_QUANTITY_ALONE = frozenset({"qty", "client_order_id"})
_EXITS = ("take_profit", "stop_loss")
Json = dict[str, Any]


class NotUnderstood(ValueError):
    """What was sent is no order that the gateway can read in only one way; the message is a clause that says what."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What an engine wants to send.

    Attributes:
        kind: Of the request.
        order: What the gate is asked while trading is open, when what the account holds doesn't matter.
        by_book: What it is given what the account holds (None where that can't be known), and the open orders that it
            is judged beside; None where it is the same as `order`.
    """

    kind: Kind
    order: OrderIntent | OrderList | CancelIntent
    by_book: Callable[[Book | None], Any] | None = None


def read_request(route: Route, body: bytes, query: bytes, account: str, strategy: str | None) -> Asked:
    """What is asked. Raises `NotUnderstood`."""
    sender = _Sender(account, strategy)
    match route.kind:
        case Kind.NEW:
            return Asked(route.kind, _new_order(_read_object(body), sender))
        case Kind.REPLACE:
            changes = _read_object(body)
            _number(changes.get("qty"), "qty")
            _word(changes, "client_order_id")
            _refuse(changes, ("notional", "legs"), "of a replacement")
            unseen = sender.order(f"order {route.name}", Side.BUY, notional=1)
            return Asked(route.kind, unseen, lambda book: _replacement(route.name, changes, book, sender))
        case Kind.CLOSE:
            unseen = sender.order(route.name, Side.SELL, notional=1, reduce_only=True)
            return Asked(route.kind, unseen, lambda book: _close(route.name, query, book, sender))
        case Kind.OTHER:
            return Asked(route.kind, sender.order(route.name, Side.BUY, notional=1))
        case _:
            return Asked(route.kind, CancelIntent(route.name))


def claims_of(asked: Asked, book: Book) -> Iterator[Any]:
    """What of the positions it may take, were it on its way: orders, as `Gate.check` takes working ones."""
    match asked.kind:
        case Kind.NEW:
            yield asked.order
        case Kind.REPLACE | Kind.CLOSE if asked.by_book is not None:
            intent = asked.by_book(book)
            yield intent.order if isinstance(intent, ReplaceIntent) else intent
        case Kind.CLOSE_ALL:
            for held in book.positions:
                if isinstance(held, Position) and held.quantity:
                    side = Side.SELL if held.quantity > 0 else Side.BUY
                    yield OrderIntent(held.symbol, side, abs(held.quantity), reduce_only=True)


@dataclass(frozen=True, slots=True)
class _Sender:
    account: str
    strategy: str | None

    def order(self, symbol: str, side: Side, quantity: Any = None, **more: Any) -> OrderIntent:
        return OrderIntent(symbol, side, quantity, self.account, self.strategy, **more)


def _new_order(body: Json, sender: _Sender) -> OrderIntent | OrderList:
    kind = _word(body, "order_class") or "simple"
    name = _word(body, "client_order_id")
    if kind == "mleg":
        return _several_legs(body, name, sender)
    _refuse(body, ("legs",), f"of an order of class {kind!r:.40}")
    symbol, side = _symbol(body), _side(body)
    size = {"quantity": _number(body.get("qty"), "qty"), "notional": _number(body.get("notional"), "notional")}
    entry = sender.order(symbol, side, **size, client_order_id=name)
    exits = [leg for leg in _EXITS if _object(body, leg)]
    match kind:
        case "simple" if not exits:
            return entry
        case "oco":
            # The order itself is the exit at a profit; whether its stop is told apart changes nothing.
            return OrderList([entry, sender.order(symbol, side, **size)], ListKind.OCO)
        case "oto" | "bracket" if exits:
            triggered = [sender.order(symbol, side.opposite, **size) for _ in exits]
            return OrderList([entry, OrderList(triggered, ListKind.OCO)], ListKind.OTO)
    raise NotUnderstood(f"an order of class {kind!r:.40} with {', '.join(exits) or 'no exits'} is not known")


def _several_legs(body: Json, name: str, sender: _Sender) -> OrderList:
    """Each leg is for the order's quantity times its ratio."""
    _refuse(body, ("notional", *_EXITS), "of an order of several legs")
    times, legs = _number(body.get("qty"), "qty"), body.get("legs")
    if times is None or not isinstance(legs, list) or not all(isinstance(leg, dict) for leg in legs):
        raise NotUnderstood("an order of several legs has a qty, and legs that are objects")
    return OrderList(
        [
            sender.order(_symbol(leg), _side(leg), times * _ratio(leg), client_order_id=name)
            for leg in legs
        ],
        ListKind.LEGS,
    )  # fmt: skip


def _ratio(leg: Json) -> Decimal:
    ratio = _number(leg.get("ratio_qty"), "ratio_qty")
    return Decimal(1) if ratio is None else ratio


def _replacement(order_id: str, changes: Json, book: Book | None, sender: _Sender) -> ReplaceIntent:
    """Of an order that is not among the open ones nothing is known, and so it reduces nothing."""
    working = () if book is None else book.working
    old = next((each for each in working if isinstance(each, Order) and each.id == order_id), None)
    if old is None:
        unknown = sender.order(f"order {order_id} (not among the open ones)", Side.BUY, notional=1)
        return ReplaceIntent(order_id, unknown)
    asked = _number(changes.get("qty"), "qty")
    quantity = old.remaining if asked is None else asked
    new = sender.order(old.symbol, old.side, quantity, client_order_id=_word(changes, "client_order_id"))
    return ReplaceIntent(order_id, new, only_quantity=changes.keys() <= _QUANTITY_ALONE)


def _close(symbol: str, query: bytes, book: Book | None, sender: _Sender) -> OrderIntent | CancelIntent:
    """The venue closes what is held and no more. So of what is not known to be held it passes, as a cancel does."""
    positions = () if book is None else book.positions
    wanted = canonical_symbol(symbol)
    held = next(
        (each for each in positions if isinstance(each, Position) and canonical_symbol(each.symbol) == wanted), None
    )
    if held is None or not held.quantity:
        return CancelIntent()
    size = abs(held.quantity)
    side = Side.SELL if held.quantity > 0 else Side.BUY
    return sender.order(held.symbol, side, min(_part(query, size), size), reduce_only=True)


def _part(query: bytes, size: Decimal) -> Decimal:
    """How much of it; all, where that is not told in one way."""
    told = parse_qs(query.decode("latin-1"), keep_blank_values=True)
    if len(told) != 1:
        return size
    match told:
        case {"qty": [text]} if _NUMBER.fullmatch(text) and Decimal(text) > 0:
            return Decimal(text)
        case {"percentage": [text]} if _NUMBER.fullmatch(text) and 0 < Decimal(text) <= 100:
            return size * Decimal(text) / 100
    return size


def _read_object(body: bytes) -> Json:
    """A JSON object that every reader reads alike.

    Alpaca's may take keys for each other that differ in case only, and the last of two of one name.
    """
    try:
        found = json.loads(
            body.decode("utf-8"), object_pairs_hook=_plain_object, parse_float=Decimal, parse_constant=_no_number
        )
    except NotUnderstood:
        raise
    except (ValueError, ArithmeticError, RecursionError):
        raise NotUnderstood("the body is no JSON object") from None
    if not isinstance(found, dict):
        raise NotUnderstood("the body is no JSON object")
    return found


def _plain_object(pairs: list[tuple[str, Any]]) -> Json:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise NotUnderstood("a key is given twice")
    odd = next((key for key in found if not _KEY.fullmatch(key)), None)
    if odd is not None:
        raise NotUnderstood(f"{odd!r:.40} is no key of Alpaca's")
    return found


def _no_number(text: str) -> None:
    raise NotUnderstood(f"{text} is no number")


def _number(value: Any, name: str) -> Decimal | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str) or not _NUMBER.fullmatch(_text(value)):
        raise NotUnderstood(f"{name} is {value!r:.40}, no positive number in digits")
    return Decimal(value)


def _text(value: int | Decimal | str) -> str:
    if isinstance(value, Decimal):
        return f"{value:f}" if value.is_finite() and abs(value.adjusted()) < 30 else ""
    return value if isinstance(value, str) else (str(value) if abs(value) < 10**30 else "")


def _symbol(body: Json) -> str:
    symbol = body.get("symbol")
    if not isinstance(symbol, str) or not _SYMBOL.fullmatch(symbol):
        raise NotUnderstood(f"its symbol is {symbol!r:.40}")
    return symbol


def _side(body: Json) -> Side:
    """A leg of several names its side, or what it opens or closes."""
    said, intent = _word(body, "side"), _word(body, "position_intent")
    side = said or intent.partition("_")[0]
    if side not in ("buy", "sell") or (intent and not intent.startswith(f"{side}_")):
        raise NotUnderstood(f"its side is {said!r:.40} and its intent {intent!r:.40}")
    return Side(side)


def _word(body: Json, key: str) -> str:
    word = body.get(key)
    if word is None:
        return ""
    if not isinstance(word, str):
        raise NotUnderstood(f"{key} is {word!r:.40}, no text")
    return word


def _refuse(body: Json, keys: tuple[str, ...], of_what: str) -> None:
    """Keys that would add what is not judged; empty they say nothing."""
    odd = next((key for key in keys if body.get(key)), None)
    if odd is not None:
        raise NotUnderstood(f"{odd} is no term {of_what}")


def _object(body: Json, key: str) -> Json:
    found = body.get(key)
    if found is not None and not isinstance(found, dict):
        raise NotUnderstood(f"{key} is {found!r:.40}, no object")
    return found or {}
