"""Sort what ccxt raises by its class into refused, unavailable and unknown, and word it without keys. Pure.

The distinction that matters is whether something may have happened at the venue. The table is by ccxt's own hierarchy
of exceptions (ccxt, `base/errors.py`) and is printed in the how-to on ccxt; a class that it doesn't name goes by the
nearest one above it. It is by name, so that nothing of ccxt has to be imported to read it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from enum import StrEnum

from brokers.protocol import BrokerRefused, BrokerUnavailable


class Sort(StrEnum):
    """What an exception says of the request that raised it."""

    REFUSED = "refused"
    """The venue, or ccxt before anything was sent, said no: nothing happened, and asking again changes nothing."""
    KEYS = "keys refused"
    """As refused, for the whole account: wrong keys, or keys that may not do this."""
    UNAVAILABLE = "unavailable"
    """Nothing happened, and it is worth asking again: a rate limit, maintenance, a clock that is off."""
    UNKNOWN = "unknown"
    """No answer came, or none that can be understood: it may have happened. It is looked up, never repeated blindly."""


SORTS = {
    "BaseError": Sort.UNKNOWN,
    "ExchangeError": Sort.REFUSED,
    "AuthenticationError": Sort.KEYS,
    "PermissionDenied": Sort.KEYS,
    "AccountNotEnabled": Sort.KEYS,
    "AccountSuspended": Sort.KEYS,
    "ArgumentsRequired": Sort.REFUSED,
    "BadRequest": Sort.REFUSED,
    "BadSymbol": Sort.REFUSED,
    "OperationRejected": Sort.REFUSED,
    "NoChange": Sort.REFUSED,
    "MarginModeAlreadySet": Sort.REFUSED,
    "MarketClosed": Sort.REFUSED,
    "ManualInteractionNeeded": Sort.REFUSED,
    "RestrictedLocation": Sort.KEYS,
    "InsufficientFunds": Sort.REFUSED,
    "InvalidAddress": Sort.REFUSED,
    "AddressPending": Sort.REFUSED,
    "InvalidOrder": Sort.REFUSED,
    "OrderNotFound": Sort.REFUSED,
    "OrderNotCached": Sort.REFUSED,
    "OrderImmediatelyFillable": Sort.REFUSED,
    "OrderNotFillable": Sort.REFUSED,
    "DuplicateOrderId": Sort.REFUSED,
    "ContractUnavailable": Sort.REFUSED,
    "NotSupported": Sort.REFUSED,
    "InvalidProxySettings": Sort.REFUSED,
    "ExchangeClosedByUser": Sort.REFUSED,
    "OperationFailed": Sort.UNKNOWN,
    "NetworkError": Sort.UNKNOWN,
    "DDoSProtection": Sort.UNAVAILABLE,
    "RateLimitExceeded": Sort.UNAVAILABLE,
    "ExchangeNotAvailable": Sort.UNKNOWN,
    "OnMaintenance": Sort.UNAVAILABLE,
    "InvalidNonce": Sort.UNAVAILABLE,
    "ChecksumError": Sort.UNAVAILABLE,
    "RequestTimeout": Sort.UNKNOWN,
    "BadResponse": Sort.UNKNOWN,
    "NullResponse": Sort.UNKNOWN,
    "CancelPending": Sort.REFUSED,
    "UnsubscribeError": Sort.UNKNOWN,
}
"""Every class of ccxt's hierarchy."""

_CLOCK = re.compile(
    r"-1021\b|recvWindow|timestamp (for this request|is)|invalid nonce|request timestamp expired", re.IGNORECASE
)
"""A clock that is off, whatever class it comes as: Binance's −1021 is a `BadRequest` in ccxt."""
_MAY_HAVE_HAPPENED = re.compile(
    r"""status unknown|"code": ?-100[0167]\b|(internal|system|server)[ _](server[ _])?(error|timeout)"""
    r"""|network timeout|(creation|cancellation) timeout|internal failure""",
    re.IGNORECASE,
)
"""Binance −1000, −1001, −1006 and −1007 leave open whether a request was carried out. Others say it in words, and ccxt
raises them as errors of the exchange or the request: Bybit 5004, 10016, 170146, KuCoin 408000, MEXC 500,
Deribit 11094."""
_NOT_NOW = re.compile(r""""code": ?-10(03|08|15)\b""")
"""Binance, error codes: too many requests (−1003), too many orders (−1015), too much to do there (−1008)."""
_KEYS = re.compile(r""""code": ?-2015\b""")
"""Binance −2015: the keys may not do this. ccxt calls it a rate limit once the same keys were let in, as on a ban, and
keys that may only read would be asked for cancels for ever."""
_CODES = tuple(
    re.compile(rf"""["'](?:{key})["']\s*:\s*["']?(-?\w+)""")
    for key in ("sCode", "code|retCode|ret_code|label|err_code")
)
"""The code of an item wins over that of the answer, which OKX has beside it."""
_SAID = re.compile(r""""(?:msg|message|retMsg|ret_msg|sMsg|error)"\s*:\s*"((?:[^"\\]|\\.)+)""")
_QUERY = re.compile(r"(https?://[^\s?]*)\?\S*")
_LONGEST = 240
_SHORT = 120
_OUT_OF_ORDER = re.compile(r"\b5\d\d [A-Z][a-z]")
"""The status with which a server answers that is itself out of order, as ccxt words it."""


class RateLimited(BrokerUnavailable):
    """Nothing was done; `retry_after` seconds until the venue may be asked again."""

    def __init__(self, message: str, *, account: str, retry_after: float) -> None:
        super().__init__(message, account=account)
        self.retry_after = retry_after


class MayHaveHappened(BrokerUnavailable):
    """No answer, or none that can be understood. For a reading that is the same as unavailable."""


class ClockOff(BrokerUnavailable):
    """The venue refused a request for its time stamp: nothing was done."""


class VenueRefused(BrokerRefused):
    """The venue said no to this request. `kind` is ccxt's class, `code` and `reason` are the venue's own."""

    def __init__(self, message: str, *, account: str, kind: str, code: str, reason: str) -> None:
        super().__init__(message, account=account)
        self.kind, self.code, self.reason = kind, code, reason


class KeysRefused(BrokerRefused):
    """The venue refuses the keys, or refuses them this. It is believed once it persists. `code` is the venue's own."""

    def __init__(self, message: str, *, account: str, code: str = "") -> None:
        super().__init__(message, account=account)
        self.code = code


def sort_of(error: BaseException) -> Sort:
    """By the nearest class that the table knows; what is none of ccxt's is unknown."""
    said = str(error)
    if _MAY_HAVE_HAPPENED.search(said) or type(error.__cause__).__module__.startswith("aiohttp"):
        return Sort.UNKNOWN  # an answer that broke off is an `ExchangeError` in ccxt, as a refusal is
    if _KEYS.search(said):
        return Sort.KEYS
    if is_clock_off(error) or _NOT_NOW.search(said):
        return Sort.UNAVAILABLE
    for kind in type(error).__mro__:
        if kind.__name__ in SORTS and kind.__module__.startswith("ccxt"):
            return SORTS[kind.__name__]
    return Sort.UNKNOWN


def is_out_of_order(said: str) -> bool:
    """Whether what was answered is a server's failure, and nothing of the exchange's own."""
    return _OUT_OF_ORDER.search(said) is not None


def says(error: BaseException, codes: Collection[str]) -> bool:
    """Whether the venue has refused with one of these codes of its own."""
    return isinstance(error, VenueRefused | KeysRefused) and error.code in codes


def what_failed(error: BaseException) -> str:
    """Why the exchange could not be asked, and what to look at: of ccxt's `ExchangeNotAvailable` only the address says
    anything. Empty where it has answered.
    """
    cause = error.__cause__
    kinds = {kind.__name__ for kind in type(cause).__mro__}
    if cause is None or not kinds & {"ClientError", "OSError"}:
        return ""
    reached = "see that this host reaches it (network, proxy, and the account's `urls`)"
    if kinds & {"ClientConnectorDNSError", "gaierror"}:
        return f"its name is not found; {reached}"
    if kinds & {"ClientSSLError", "SSLError"}:
        return f"the connection is not secure ({_in_short(cause)}); {reached}, and this host's certificates and clock"
    if "ClientConnectorError" in kinds:
        return f"no connection ({_in_short(getattr(cause, 'os_error', cause))}); {reached}"
    return f"the connection broke off ({_in_short(cause)}); see that it is up, by its own status page"


def _in_short(error: object) -> str:
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(said).split())[:_SHORT]


def is_clock_off(error: BaseException) -> bool:
    """Whether the venue refused a time stamp."""
    return type(error).__name__ == "InvalidNonce" or _CLOCK.search(str(error)) is not None


def code_of(text: str) -> str:
    """The venue's own code in what ccxt raised; empty where there is none."""
    found = (pattern.search(text) for pattern in _CODES)
    return next((match[1] for match in found if match), "")


def reason_of(text: str) -> str:
    """The venue's own words in what ccxt raised, or all of it."""
    found = _SAID.search(text)
    return found[1] if found else text


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """On one line and not too long, without what follows the `?` of an address, and without these."""
    text = _QUERY.sub(r"\1", " ".join(text.split()))
    for secret in secrets:
        if secret:
            text = text.replace(secret, "…")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
