"""Check who sent a request and when: the key in a header, HMAC-SHA256 over the parameters, and the time stamp.

Source: "Request security" of the spot API (developers.binance.com), which futures share. The signature is over the
query string and the body, joined without a separator. A request is too late when it is older than `recvWindow`
(5,000 ms unless given, 60,000 at most), and too early when its time stamp is a second ahead of the venue's clock.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from typing import Final

from sandbox.exchange.binance.errors import (
    bad_key,
    bad_key_format,
    bad_signature,
    invalid_parameter,
    missing,
    too_early,
    too_late,
)
from sandbox.exchange.binance.parameters import Parameters
from sandbox.exchange.scenario import Account

_USUAL_WINDOW: Final = 5_000
_LONGEST_WINDOW: Final = 60_000
_AHEAD: Final = 1_000
_SIGNATURE: Final = re.compile(r"&?signature=([^&]*)")


def venue_milliseconds(clock_ahead_ms: int) -> int:
    """What the venue's clock says: the host's, and how far it is ahead of that. `time_scale` has no part in it."""
    return time.time_ns() // 1_000_000 + clock_ahead_ms


def check_key(account: Account, key: str | None) -> None:
    """Raises `BinanceRefusal` unless it is the account's."""
    if not key:
        raise bad_key_format()
    if key != account.key:
        raise bad_key()


def check_signature(account: Account, query: str, body: str, parameters: Parameters, now: int) -> None:
    """Raises `BinanceRefusal`, in the order in which the venue looks: what is there, when it is from, whose it is."""
    _check_time(parameters, now)
    given = parameters.text("signature")
    if given is None:
        raise missing("signature")
    signed = _SIGNATURE.sub("", query) + _SIGNATURE.sub("", body)
    wanted = hmac.new(account.secret.encode(), signed.encode(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(wanted, given.lower()):
        raise bad_signature()


def _check_time(parameters: Parameters, now: int) -> None:
    sent = parameters.integer("timestamp")
    if sent is None:
        raise missing("timestamp")
    window = parameters.integer("recvWindow")
    window = _USUAL_WINDOW if window is None else window
    if not 0 < window <= _LONGEST_WINDOW:
        raise invalid_parameter("recvWindow")
    if sent >= now + _AHEAD:
        raise too_early()
    if now - sent > window:
        raise too_late()
