"""Tell which of ccxt's calls send orders: the unified ones by their names, the exchange's own by ccxt's source.

A method or an endpoint that a later ccxt brings is found like those of today: nothing here is a list of exchanges.
"""

from __future__ import annotations

import inspect
import re
import sys
from functools import cache
from itertools import pairwise
from typing import Any, Final, TypeAlias

Endpoint: TypeAlias = tuple[str, tuple[str, ...], str]
"""Path, sections of the API and method, as ccxt hands them to `fetch2`."""

_PLACES: Final = re.compile(
    r"(create|edit)_(.*_)?orders?(_.*)?|close_(all_)?positions?(_.*)?|create_convert_trade(_.*)?"
)
_CANCELS: Final = re.compile(r"cancel_(.*_)?orders?(_.*)?")
_BUILDS: Final = re.compile(r".*_requests?")
"""Methods that make up a request and send nothing."""
_METHOD: Final = re.compile(r"^    (?:async )?def (\w+)\(", re.MULTILINE)
_WORD: Final = re.compile(r"\w+")
_CAPITALS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_ORDER_LIKE: Final = re.compile(r"order|trade|position|buy|sell|(?<!cr)edit|close|amend|replace", re.IGNORECASE)
_HARMLESS: Final = re.compile(
    r"cancel|test|query|history|detail|balance|leverage|margin_?mode|trade_?fee|order_?amends", re.IGNORECASE
)


def snake_case(name: str) -> str:
    """`createOrderWs` as `create_order_ws`."""
    return _CAPITALS.sub("_", name).lower()


def camel_case(name: str) -> str:
    """`create_order_ws` as `createOrderWs`; what is spelled so already stays as it is."""
    first, *others = name.split("_")
    return first + "".join(each[:1].upper() + each[1:] for each in others)


def places_orders(name: str) -> bool:
    """Whether a method of this name sends, changes or closes something, in either of ccxt's spellings."""
    snake = snake_case(name)
    return _PLACES.fullmatch(snake) is not None and _BUILDS.fullmatch(snake) is None


def cancels_orders(name: str) -> bool:
    """Whether a method of this name cancels orders."""
    snake = snake_case(name)
    return _CANCELS.fullmatch(snake) is not None and _BUILDS.fullmatch(snake) is None


def as_endpoint(path: str, api: Any, method: str) -> Endpoint:
    """As endpoints are compared."""
    return path, (api,) if isinstance(api, str) else tuple(api), method


@cache
def order_endpoints(kind: Any) -> frozenset[Endpoint]:
    """Those of an exchange's own endpoints by which orders are sent.

    They are the ones that ccxt's methods for orders use and none of its others does, and those that have it in their
    name. One that an exchange has for everything (Hyperliquid) is none of them: cancels go that way too.

    Args:
        kind: The exchange's class in ccxt, or one derived from it.
    """
    from ccxt.base.types import Entry  # noqa: PLC0415 - of ccxt nothing is imported with the library

    entries: dict[str, Any] = {}
    for name in dir(kind):
        entry = inspect.getattr_static(kind, name)
        if isinstance(entry, Entry):
            entries[name] = entry
    placing, others = _used_by(kind, entries.keys())
    found = (
        entry
        for name, entry in entries.items()
        if name not in others
        and _ORDER_LIKE.search(entry.path)
        and (name in placing or _looks_like_one(entry.path, entry.method))
    )
    return frozenset(as_endpoint(entry.path, entry.api, entry.method) for entry in found)


def _looks_like_one(path: str, method: str) -> bool:
    return method not in ("GET", "DELETE") and not _HARMLESS.search(path)


def _used_by(kind: Any, names: Any) -> tuple[set[str], set[str]]:
    """Which of `names` ccxt's methods for orders mention, and which the others do. Both spellings of each."""
    placing, others = set[str](), set[str]()
    spellings = {name.replace("_", "").lower(): set[str]() for name in names}
    for name in names:
        spellings[name.replace("_", "").lower()].add(name)
    for module in {sys.modules[base.__module__] for base in kind.__mro__[:-1]}:
        try:
            source = inspect.getsource(module)
        except (OSError, TypeError):  # no source, as in a frozen program: the names alone tell then
            continue
        starts = [*_METHOD.finditer(source)]
        for start, end in pairwise([*starts, None]):
            assert start is not None  # noqa: S101 - only the last one is None
            body = source[start.start() : end.start() if end else len(source)]
            if start[1] != "describe":
                said = {word.replace("_", "").lower() for word in _WORD.findall(body)}
                mentioned = {name for word in said & spellings.keys() for name in spellings[word]}
                (placing if _PLACES.fullmatch(snake_case(start[1])) else others).update(mentioned)
    return placing, others
