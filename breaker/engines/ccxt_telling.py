"""Sort what ccxt raises, and tell the rules what an exchange's answers say. Of ccxt nothing is imported before then."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from breaker.engines.rules_feed import RulesFeed

_MAY_HAVE_HAPPENED: Final = re.compile(
    r"status unknown|(internal|system|server)[ _](server[ _])?(error|timeout)|network timeout|internal failure"
    r"|(creation|cancellation) timeout",
    re.IGNORECASE,
)
"""What exchanges call errors of the request although it may have been carried out."""
_NOT_NOW: Final = re.compile(r'"code": ?-10(03|08|15)\b|overloaded|too many requests', re.IGNORECASE)
"""Binance, error codes: too many requests (-1003), too many orders (-1015), too much to do there (-1008)."""
_TRANSPORT: Final = ("aiohttp", "requests", "urllib3")
_EQUITY: Final[Mapping[str, tuple[tuple[str, ...], str]]] = {
    "binanceusdm": (("totalMarginBalance",), "USD"),
    "binance": (("totalMarginBalance",), "USD"),
    "bybit": (("result", "list", "0", "totalEquity"), "USD"),
    "okx": (("data", "0", "totalEq"), "USD"),
    "hyperliquid": (("marginSummary", "accountValue"), "USD"),
    "krakenfutures": (("accounts", "flex", "portfolioValue"), "USD"),
}
"""Where an exchange's answer to `fetchBalance` has what the whole account is worth, and in what."""


def is_refusal(error: BaseException) -> bool:
    """Whether the exchange has said no to what was asked: nothing of it can fill."""
    from ccxt.base.errors import ExchangeError  # noqa: PLC0415

    return isinstance(error, ExchangeError) and not is_api_error(error)


def is_turned_away(error: BaseException) -> bool:
    """Whether nothing has happened, and it is worth asking again: a rate limit, maintenance, a clock that is off."""
    from ccxt.base.errors import (  # noqa: PLC0415
        BaseError,
        DDoSProtection,
        InvalidNonce,
        OnMaintenance,
        RateLimitExceeded,
    )

    if isinstance(error, DDoSProtection | RateLimitExceeded | InvalidNonce | OnMaintenance):
        return True
    return isinstance(error, BaseError) and _NOT_NOW.search(str(error)) is not None


def is_api_error(error: BaseException) -> bool:
    """Whether the exchange could not be asked: no answer, a rate limit, an error of its own. No refusal is one."""
    from ccxt.base.errors import BaseError, OperationFailed  # noqa: PLC0415

    if isinstance(error, OperationFailed):
        return True
    said = str(error)
    told = _MAY_HAVE_HAPPENED.search(said) or _NOT_NOW.search(said)
    return isinstance(error, BaseError) and (_breaks_off(error) or told is not None)


def _breaks_off(error: BaseException) -> bool:
    """An answer that broke off is an `ExchangeError` in ccxt, as a refusal is."""
    from ccxt.base.errors import ExchangeError  # noqa: PLC0415

    cause = error.__cause__
    if not isinstance(error, ExchangeError) or cause is None:
        return False
    return type(cause).__module__.partition(".")[0] in _TRANSPORT and type(cause).__name__ != "HTTPError"


def why_rejected(answer: Any) -> str:
    """What the exchange says of one order of several that it has not taken; empty where it has."""
    if not isinstance(answer, Mapping) or answer.get("status") != "rejected":
        return ""
    info = answer.get("info")
    said = [info[key] for key in ("msg", "sMsg", "message") if info.get(key)] if isinstance(info, Mapping) else []
    return str(said[0]) if said else "rejected"


def tell_equity(feed: RulesFeed, exchange: str, balance: Any) -> None:
    """What the account is worth, where the answer to `fetchBalance` says it in one currency."""
    if exchange not in _EQUITY or not isinstance(balance, Mapping):
        return
    path, currency = _EQUITY[exchange]
    found = balance.get("info")
    for key in path:
        if isinstance(found, Mapping):
            found = found.get(key)
        elif isinstance(found, Sequence) and not isinstance(found, str) and key.isdecimal() and int(key) < len(found):
            found = found[int(key)]
        else:
            return
    try:
        value = Decimal(str(found))
    except InvalidOperation:
        return
    if value.is_finite():
        feed.equity(value, currency=currency)
