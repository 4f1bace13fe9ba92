"""Tell an engine whether a kill switch is flattening, by the signs of life that its runs give in Redis."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from breaker.errors import BreakerError, one_line
from breaker.events import TransitionEvent
from breaker.keys import ASKED_KILLS, GLOBAL, KILL_RUN, KILL_RUN_KEPT, KILL_RUNS
from breaker.redis_clients import open_redis

if TYPE_CHECKING:
    import redis

SILENT = 10.0
"""Seconds after which a run that gave no sign of life, or never began, is not waited for any longer."""
LOOK_EVERY = 0.2
_NEWEST = 10
_TIMEOUT = 2.0

_log = logging.getLogger(__name__)


def is_flattening(client: redis.Redis, scopes: Collection[str]) -> bool:
    """Whether a kill switch of one of these breakers closes positions now, or was confirmed and is about to.

    Args:
        client: Of the breakers' Redis.
        scopes: The breakers; one of `global` concerns everybody.

    Returns:
        False also of a run that has fallen silent: somebody else may have to get out.

    Raises:
        RedisError, OSError: Redis doesn't answer.
    """
    concerned = {GLOBAL, *scopes}
    listed: Any = client.zrevrange(KILL_RUNS, 0, _NEWEST - 1)
    asked = client.pipeline(transaction=False)
    asked.hgetall(ASKED_KILLS)
    asked.time()
    for name in listed:
        key = KILL_RUN + name.decode()
        asked.get(key)
        asked.pttl(key)
    confirmed, (seconds, _), *runs = asked.execute()
    if any(_is_about_to(raw, seconds, concerned) for raw in confirmed.values()):
        return True
    return any(_goes_on(raw, left, concerned) for raw, left in zip(runs[::2], runs[1::2], strict=True))


class KillRunsWatch:
    """Looks at the runs, in a thread, as long as trading is halted.

    Args:
        url: Of the breakers' Redis.
        scopes: The breakers that concern the engine.
        changed: Called in the thread with each change of the answer.

    Example:
        >>> watch = KillRunsWatch(url, ["account:ALPHA"], lambda flattening: None)
        >>> watch.look(True)
        >>> watch.flattening
        False
        >>> watch.close()
    """

    def __init__(self, url: str, scopes: Collection[str], changed: Callable[[bool], None]) -> None:
        self._client = open_redis(url, timeout=_TIMEOUT)
        self._scopes = tuple(scopes)
        self._changed = changed
        self._looking = threading.Event()
        self._closed = threading.Event()
        self.flattening = False
        self._thread = threading.Thread(target=self._run, name="breaker-kill-runs", daemon=True)
        self._thread.start()

    def look(self, halted: bool) -> None:
        """Look from now on, or no longer.

        Args:
            halted: Whether trading is halted.
        """
        if halted:
            self._looking.set()
        else:
            self._looking.clear()
            self._tell(False)

    def close(self) -> None:
        """Look no longer. Waits for an answer that is on its way, for three seconds at most."""
        self._closed.set()
        self._looking.set()
        self._thread.join(_TIMEOUT + 1.0)
        self._client.close()

    def _run(self) -> None:
        from redis import RedisError  # noqa: PLC0415 -- whoever has a client has imported it

        while self._looking.wait() and not self._closed.is_set():
            try:
                found = is_flattening(self._client, self._scopes)
            except (RedisError, OSError, BreakerError) as error:
                _log.warning("Whether a kill switch is flattening is not known: %s", one_line(error))
                found = False
            if self._looking.is_set():
                self._tell(found)
            self._closed.wait(LOOK_EVERY)

    def _tell(self, flattening: bool) -> None:
        if flattening != self.flattening:
            self.flattening = flattening
            self._changed(flattening)


def _goes_on(raw: bytes | None, left: int, scopes: Collection[str]) -> bool:
    """`left`: milliseconds for which Redis still keeps it, by which it tells when it was written."""
    if raw is None or KILL_RUN_KEPT - left / 1000 > SILENT:
        return False
    with suppress(ValueError):
        run = json.loads(raw)
        ended = any(run.get(word) for word in ("over", "reported", "declined", "asking"))
        return run.get("scope") in scopes and not ended
    return False


def _is_about_to(raw: bytes, now: int, scopes: Collection[str]) -> bool:
    with suppress(ValueError):
        trip = TransitionEvent.from_json(raw)
        return trip.scope in scopes and now - trip.at.timestamp() <= SILENT
    return False
