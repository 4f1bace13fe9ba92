"""Tell the automatic rules what a client sees, from a thread of its own, so that no order waits for Redis."""

from __future__ import annotations

import logging
import queue
import threading
import time
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeAlias

from breaker.errors import BreakerError, one_line

if TYPE_CHECKING:
    from breaker.rules import Rules

_log = logging.getLogger(__name__)
_DEPTH = 10_000
_CLOSE_WITHIN = 2.0
_SUCCESS_EVERY = 1.0
"""Seconds between two successes that are told, unless an error came in between."""
_Told: TypeAlias = tuple[str, tuple[object, ...]]


class RulesFeed:
    """Passes on what is told, in order. Never raises and never waits; what Redis can't take is logged and dropped.

    With no rules it does nothing. Telling from any thread is allowed, and after `close` it does nothing.

    Args:
        rules: Are told; None for none.
        source: The venue's name, under which its errors count.

    Example:
        >>> feed = RulesFeed(rules, "alpaca")
        >>> feed.order_sent("submit_order")
        >>> feed.close()
    """

    def __init__(self, rules: Rules | None, source: str) -> None:
        self._rules = rules
        self._source = source
        self._told: queue.SimpleQueue[_Told | None] = queue.SimpleQueue()
        self._missing = False
        self._dropped = 0
        self._next_success = 0.0
        self._thread: threading.Thread | None = None
        if rules is not None:
            self._thread = threading.Thread(target=self._run, args=(rules,), name="breaker-rules-feed", daemon=True)
            self._thread.start()

    def order_sent(self, what: str) -> None:
        """A message leaves for the venue: see `Rules.record_order_sent`."""
        self._tell("record_order_sent", what)

    def order_accepted(self) -> None:
        """See `Rules.record_order_accepted`."""
        self._tell("record_order_accepted")

    def order_rejected(self, why: str) -> None:
        """See `Rules.record_order_rejected`. Text of any length."""
        self._tell("record_order_rejected", " ".join(why.split())[:200] or "no reason given")

    def call_failed(self) -> None:
        """See `Rules.record_api_error`."""
        self._next_success = 0.0
        self._tell("record_api_error", self._source)

    def call_succeeded(self) -> None:
        """See `Rules.record_api_success`. Of many in a second, one is told; the first after an error always is."""
        now = time.monotonic()
        if now >= self._next_success:
            self._next_success = now + _SUCCESS_EVERY
            self._tell("record_api_success", self._source)

    def latency(self, seconds: float) -> None:
        """See `Rules.record_latency`. Nothing is told while the rule is off."""
        if self._rules is not None and self._rules.limits.api_latency is not None:
            self._tell("record_latency", seconds, self._source)

    def equity(self, value: Decimal, at: datetime | None = None, currency: str | None = None) -> None:
        """See `Rules.record_equity`."""
        self._tell("record_equity", value, at, currency)

    @property
    def dropped(self) -> int:
        """How much could not be told since the feed was made."""
        return self._dropped

    def close(self) -> None:
        """Pass on what is left, for two seconds at most."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._told.put(None)
            thread.join(_CLOSE_WITHIN)

    def _tell(self, what: str, *told: object) -> None:
        if self._thread is None:
            return
        if self._told.qsize() < _DEPTH:
            self._told.put((what, told))
        else:
            self._lost("more is told than Redis takes")

    def _run(self, rules: Rules) -> None:
        while (told := self._told.get()) is not None:
            try:
                _record(rules, *told)
            except (BreakerError, OSError, ValueError) as error:
                self._lost(one_line(error))
            else:
                self._missing = False

    def _lost(self, problem: str) -> None:
        self._dropped += 1
        if not self._missing:
            _log.warning("The automatic rules miss what the engine sees; the gate works as ever: %s", problem)
        self._missing = True


def _record(rules: Rules, what: str, told: tuple[Any, ...]) -> None:
    if what == "record_equity":
        value, at, currency = told
        rules.record_equity(value, at, currency=currency)
    else:
        getattr(rules, what)(*told)
