"""Remember whom the database has confirmed, to stand in for its answer while it is away. Safe for several threads."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import replace

from console.auth.permissions import WITHOUT_DATABASE, Identity

_MOST = 1_000


class IdentityCache:
    """By what they are known with: the digest of a session's secret or of a token."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[Identity, float]] = OrderedDict()
        self._lock = threading.Lock()

    def remember(self, key: str, identity: Identity, seconds: float) -> Identity:
        """For as long as it may stand in for the database's answer."""
        with self._lock:
            self._known[key] = (identity, time.monotonic() + seconds)
            self._known.move_to_end(key)
            while len(self._known) > _MOST:
                self._known.popitem(last=False)
        return identity

    def unconfirmed(self, key: str) -> Identity | None:
        """Who it was when the database was asked last, with the permissions that make things safer and no others."""
        with self._lock:
            known = self._known.get(key)
        if known is None or time.monotonic() > known[1]:
            return None
        identity = known[0]
        return replace(identity, permissions=identity.permissions & WITHOUT_DATABASE, confirmed=False)

    def forget(self, key: str) -> None:
        with self._lock:
            self._known.pop(key, None)

    def forget_user(self, user: str) -> None:
        with self._lock:
            for key in [key for key, (identity, _) in self._known.items() if identity.user == user]:
                del self._known[key]
