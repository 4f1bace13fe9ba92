"""Tell what a request asks of Alpaca's Trading API by its method and path. Pure.

Only paths as Alpaca's reference spells them are taken for what changes something: a venue may read another spelling of
the same path as an order that this gateway has not seen.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import unquote

_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_PATH = re.compile(r"(/[A-Za-z0-9._~:@!$&'()*+,;=%-]+)+/?|/")
_PLAIN_PATH = re.compile(r"(/[A-Za-z0-9._:%-]+)+")
_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_SYMBOL = re.compile(r"[A-Za-z0-9._/-]{1,64}")
_DATA = re.compile(r"/(v2/stocks|v1beta[0-9]+)(/|$)")
_TRADES = frozenset({"orders", "positions", "exercise"})


class Kind(StrEnum):
    """What a request asks for."""

    READ = "read"
    """Nothing is changed, or nothing that has to do with orders."""
    NEW = "submit order"
    REPLACE = "replace order"
    CANCEL = "cancel order"
    CLOSE = "close position"
    CLOSE_ALL = "close all positions"
    OTHER = "other request"
    """It changes something, and may trade: an option's exercise, the account's own settings, what came later."""


@dataclass(frozen=True, slots=True)
class Route:
    """What a request asks for, and of what: an order's id, a position's symbol. `is_data`: of the market data API."""

    kind: Kind
    name: str = ""
    is_data: bool = False


class Unroutable(ValueError):
    """What is asked can't be passed on; `status` is the answer's, the message a sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def route_of(method: str, raw_path: bytes) -> Route:
    """Raises `Unroutable`."""
    if method not in _METHODS:
        raise Unroutable(405, f"The gateway passes no {method:.20}; nothing was sent.")
    path = raw_path.decode("latin-1")
    if not _PATH.fullmatch(path):
        raise Unroutable(400, "The path is none of Alpaca's; nothing was sent.")
    if method in _READING:
        return Route(Kind.READ, is_data=_DATA.match(path) is not None)
    if not _PLAIN_PATH.fullmatch(path):
        raise _misspelled(path)
    parts = path[1:].split("/")
    route = _route(method, parts)
    if route is not None:
        return route
    decoded = unquote(path).lower().replace("\\", "/").split("/")
    if _TRADES.intersection(word.partition(";")[0].partition(":")[0] for word in decoded) - _trades_known(parts):
        raise _misspelled(path)
    if "%" in path or {".", ".."} & set(decoded):
        raise _misspelled(path)
    return Route(Kind.OTHER, path)


def _route(method: str, parts: list[str]) -> Route | None:
    match method, parts:
        case "POST", ["v2", "orders"]:
            return Route(Kind.NEW)
        case "PATCH", ["v2", "orders", order_id] if _ID.fullmatch(order_id):
            return Route(Kind.REPLACE, order_id)
        case "DELETE", ["v2", "orders"]:
            return Route(Kind.CANCEL)
        case "DELETE", ["v2", "orders", order_id] if _ID.fullmatch(order_id):
            return Route(Kind.CANCEL, order_id)
        case "DELETE", ["v2", "positions"]:
            return Route(Kind.CLOSE_ALL)
        case "DELETE", ["v2", "positions", *symbol]:
            name = unquote("/".join(symbol))
            plain = _SYMBOL.fullmatch(name) and not {"", ".", ".."} & set(name.split("/"))
            return Route(Kind.CLOSE, name) if plain else None
        case "POST", ["v2", "positions", contract, "do-not-exercise"] if _ID.fullmatch(contract):
            return Route(Kind.READ)
        case _, ["v2", "watchlists" | "watchlists:by_name", *rest] if all(_ID.fullmatch(each) for each in rest):
            return Route(Kind.READ)
    return None


def _trades_known(parts: list[str]) -> frozenset[str]:
    """An option's exercise is known by its path, and judged as what may trade."""
    match parts:
        case ["v2", "positions", contract, "exercise"] if _ID.fullmatch(contract):
            return frozenset({"positions", "exercise"})
    return frozenset()


def _misspelled(path: str) -> Unroutable:
    return Unroutable(
        400, f"Alpaca's Trading API has no {path!r:.80} for this method, and another spelling is not passed on."
    )
