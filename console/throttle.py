"""Slowing down who guesses passwords, without letting them lock out whom they guess at. The clock is the caller's."""

from __future__ import annotations

import ipaddress
import threading
from collections import OrderedDict
from dataclasses import dataclass

FREE = 5
"""Failures before the first wait."""
FIRST_WAIT = 5.0
LONGEST_WAIT = 900.0
FORGET = 3_600.0
"""Seconds without a failure after which all is forgotten."""
_KEPT = 20_000


@dataclass(slots=True)
class _Failures:
    count: int = 0
    last: float = 0.0

    def until(self) -> float:
        if self.count < FREE:
            return 0.0
        return self.last + min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(self.count - FREE, 20))


class Throttle:
    """Failed sign-ins by address, and by user and address together.

    Not by user alone: whoever knows a name could keep its owner out, in the very moment when it matters.
    """

    def __init__(self) -> None:
        self._failures: OrderedDict[tuple[str, ...], _Failures] = OrderedDict()
        self._lock = threading.Lock()

    def wait(self, user: str, address: str, now: float) -> float:
        """Seconds until this user may try again from this address; 0 if at once."""
        with self._lock:
            return max(0.0, *(self._of(key, now).until() - now for key in _keys(user, address)))

    def failed(self, user: str, address: str, now: float) -> None:
        with self._lock:
            for key in _keys(user, address):
                found = self._of(key, now)
                self._failures[key] = _Failures(found.count + 1, now)
                self._failures.move_to_end(key)
            while len(self._failures) > _KEPT:
                self._failures.popitem(last=False)

    def succeeded(self, user: str, address: str) -> None:
        """The attempt counted last was none. Failures with other names from that address stay."""
        with self._lock:
            self._failures.pop((user, network_of(address)), None)
            if (found := self._failures.get((network_of(address),))) is not None:
                found.count = max(0, found.count - 1)

    def _of(self, key: tuple[str, ...], now: float) -> _Failures:
        found = self._failures.get(key)
        return found if found is not None and now - found.last < FORGET else _Failures()


def _keys(user: str, address: str) -> tuple[tuple[str, ...], ...]:
    return (user, network_of(address)), (network_of(address),)


def network_of(address: str) -> str:
    """Who counts as one: with IPv6 everybody has a whole /64, of which no address has to be used twice."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    return str(parsed.ipv4_mapped or ipaddress.ip_network((parsed, 64), strict=False))
