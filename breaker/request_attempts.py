"""Decide about a request on its way to an answer: what to send, until when, whether to try again. Pure, but for chance.

Each attempt gets half of what is left of the request's time, so that one dead connection can't use it up.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from breaker.errors import BreakerUnavailable, RedisRefused, one_line
from breaker.requests import Command, Request

_MIN_ATTEMPT = 0.05
_MAX_DELAY = 0.25
_TRANSIENT_ERRORS = (BusyLoadingError, ReadOnlyError, ClusterDownError, TryAgainError)
_TRANSIENT_CODES = (
    "BUSY",
    "LOADING",
    "READONLY",
    "CLUSTERDOWN",
    "MASTERDOWN",
    "TRYAGAIN",
    "NOREPLICAS",
    "UNBLOCKED",
    "The previous master is now a slave",  # what redis-py makes of READONLY where Sentinels led
)

_HOPELESS = {
    "CERTIFICATE_VERIFY_FAILED": "can't be trusted",
    "is no file that can be read": "can't be reached by TLS",
    "watches a master named": "can't be found",
}
"""What no second attempt will change, though nobody has refused anything; and what it comes to."""

_OF_A_CLUSTER = ("CROSSSLOT", "MOVED", "ASK")

_ADVICE_ON = {
    "no Sentinel answered": "Check that the Sentinels are up and reachable from here, then try again.",
    "watches a master": "Check the master's name as `sentinel monitor` has it.",
    "is no file": "Put it there, or correct its path.",
    "CERTIFICATE_VERIFY_FAILED": "Check who vouches for it (ca_file, ssl_ca_certs) and what hosts it names.",
    "WRONG_VERSION_NUMBER": "It speaks no TLS at that port: use its TLS port, or an address without TLS.",
    "CERTIFICATE_REQUIRED": "It wants to see a client's certificate: configure one, with its key.",
}


class NotSent(Exception):
    """No connection could be had, so the request was never sent."""


@dataclass
class RequestAttempts:
    """One request on its way to an answer: what to send, until when, whether to try again. Pure, but for chance."""

    request: Request
    address: str
    deadline: float
    timeout: float
    refusals_until: float = float("inf")
    """When a server that has done nothing but refuse connections is no longer asked."""
    only_refused: bool = True
    script_unknown: bool = False
    may_have_happened: bool = False
    count: int = 0
    last_error: str = "it did not answer"
    """The last thing that went wrong other than time running out, which says least and always comes last."""

    def next_attempt(self, now: float) -> tuple[Sequence[Command], float]:
        """The commands to send now, and by when this attempt must have ended. Raises BreakerUnavailable."""
        left = self.deadline - now
        if left <= 0:
            raise self.unavailable()
        self.count += 1
        commands = self.request.eval_commands if self.script_unknown else self.request.commands
        seconds = min(left, max(left / 2, _MIN_ATTEMPT))
        waiting = self.request.confirmation(seconds) if self.request.confirmation else ()
        return (*commands, *self.request.trailing_commands, *waiting), now + seconds

    def delay_after_failure(self, error: BaseException, now: float) -> float:
        """Take note of an attempt without an answer. Returns how many seconds to wait before the next one."""
        cause = error.__cause__ if isinstance(error, NotSent) and error.__cause__ else error
        if not (
            self.request.precedes_transition
            or isinstance(error, NotSent)
            or _is_transient(cause)
            or _is_permanent(cause)
        ):
            self.may_have_happened = True
        if _is_permanent(cause):
            raise self.refusal(cause)
        for sign, what in _HOPELESS.items():
            if sign in str(cause):
                self.last_error = one_line(cause)
                raise self.unavailable(what)
        if not isinstance(cause, TimeoutError | RedisTimeoutError):
            self.last_error = one_line(cause)
        self.only_refused = self.only_refused and isinstance(cause.__context__, ConnectionRefusedError)
        if self.only_refused and now >= self.refusals_until:
            raise self.unavailable(f"refused every connection for {self.timeout - (self.deadline - now):.1f} s")
        return self._backoff(now)

    def delay_after_replies(self, replies: Sequence[Any], now: float) -> float | None:
        """None if `replies` are the answer, otherwise how many seconds to wait before asking again."""
        for reply in replies[: len(self.request.commands)]:
            if isinstance(reply, NoScriptError):
                self.script_unknown = True
                return 0.0
            if isinstance(reply, RedisError) and _is_transient(reply):
                self.last_error = one_line(reply)
                return self._backoff(now)
            if isinstance(reply, RedisError) and _is_permanent(reply):
                raise self.refusal(reply)
        return None

    def refusal(self, error: BaseException) -> RedisRefused:
        """What to raise when Redis said no, and asking again is of no use."""
        return RedisRefused(
            f"Redis at {self.address} refused to {self.request.purpose}: {one_line(error)}. "
            f"{self._state_afterwards()} {_advice(error)}"
        )

    def unavailable(self, what: str = "") -> BreakerUnavailable:
        """What to raise when the time is over."""
        what = what or f"gave no answer within {self.timeout:g} s"
        return BreakerUnavailable(
            f"Redis at {self.address} {what} when asked to {self.request.purpose} "
            f"({self.count} attempts: {self.last_error}). {self._state_afterwards()} {_advice_on(self.last_error)}",
            may_have_happened=self.may_have_happened,
            event_id=self.request.event_id,
        )

    def _state_afterwards(self) -> str:
        if self.request.precedes_transition:
            return "Nothing was changed."
        if self.request.event_id is None:
            return "The state is not known."
        if self.may_have_happened:
            return f"It may have happened or not; repeating it with event id {self.request.event_id} is safe."
        return "Nothing was changed."

    def _backoff(self, now: float) -> float:
        longest = min(_MAX_DELAY, 0.01 * 2 ** min(self.count, 10), max(self.deadline - now, 0))
        return random.uniform(longest / 2, longest)  # noqa: S311 (jitter, no secret)


def _is_transient(error: BaseException) -> bool:
    """Whether Redis said that it can't now, but may be able to soon; it has not done anything then."""
    text = str(error)
    return isinstance(error, _TRANSIENT_ERRORS) or text.startswith(_TRANSIENT_CODES) or "max number of clients" in text


def _is_permanent(error: BaseException) -> bool:
    """Whether asking again is of no use."""
    denied = isinstance(error, AuthenticationError | AuthorizationError | NoPermissionError)
    return denied or (isinstance(error, ResponseError) and not _is_transient(error) and "WRONGTYPE" not in str(error))


def _advice_on(last_error: str) -> str:
    if last_error.startswith("NOREPLICAS"):
        return "It has fewer replicas than min-replicas-to-write asks for: bring one back, or lower it, then try again."
    for sign, advice in _ADVICE_ON.items():
        if sign in last_error:
            return advice
    return "Check that it is up and reachable, then try again."


def _advice(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, NoPermissionError):
        return "Grant the user the command and the keys circuit_breaker:* (ACL SETUSER)."
    if isinstance(error, AuthenticationError | AuthorizationError):
        return "Check the user name and password in its URL."
    if isinstance(error, OutOfMemoryError):
        return "Free memory or raise maxmemory; a trip works regardless."
    if text.startswith("MISCONF"):
        return "It can't write to its disk: make room, see its log."
    if "hash to the same slot" in text or text.startswith(_OF_A_CLUSTER):
        return (
            "It is a node of a Redis Cluster, which spreads the keys of one breaker: give one Redis, or a Sentinel's "
            "master."
        )
    return "See its log."
