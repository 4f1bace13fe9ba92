"""Say what can go wrong with a breaker. Every message is one line: what happened, what holds now, what to do."""

from __future__ import annotations


class BreakerError(Exception):
    """Any refusal or failure of the breaker.

    Example:
        >>> from breaker import BreakerError
        >>> try:
        ...     breaker.reset(reset_by="ada")
        ... except BreakerError as error:
        ...     print(type(error).__name__)
        NotTripped
    """


class InvalidInput(BreakerError, ValueError):
    """An argument can't be used. Found before Redis was asked: nothing changed.

    Example:
        >>> breaker.trip("")
        Traceback (most recent call last):
        ...
        breaker.errors.InvalidInput: reason is empty; nothing was changed. Say in 1 to 200 characters why or who.
    """


class NotTripped(BreakerError):
    """A reset was asked for, but the breaker is not TRIPPED. Nothing changed.

    Example:
        >>> breaker.reset(reset_by="ada")
        Traceback (most recent call last):
        ...
        breaker.errors.NotTripped: Not TRIPPED: circuit_breaker:state is OPEN, epoch ... no reset is needed.
    """


class ResetRateLimited(BreakerError):
    """A reset followed another one too closely (runbook: one per minute, globally). Nothing changed.

    Attributes:
        retry_after: Seconds until a reset is possible again.

    Example:
        >>> from breaker import ResetRateLimited
        >>> for scope in ("global", "account:ALPHA"):
        ...     scoped = CircuitBreaker(client, scope)
        ...     _ = scoped.trip("MANUAL")
        ...     try:
        ...         _ = scoped.reset(reset_by="ada")
        ...     except ResetRateLimited as error:
        ...         print(scope, 0 < error.retry_after <= 60)
        account:ALPHA True
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StateConflict(BreakerError):
    """What Redis holds is not what the caller or the transition expects. Nothing changed.

    Example:
        >>> from breaker import StateConflict
        >>> seen = breaker.trip("MANUAL")
        >>> _ = breaker.trip("DRAWDOWN")
        >>> try:
        ...     breaker.reset("ada", expected_epoch=seen.epoch)
        ... except StateConflict:
        ...     print(breaker.get_state())
        TRIPPED
    """


class QuietPeriodUnwatched(StateConflict):
    """A quiet period that only its watch may end is not ended: nobody has watched it without a hole. Nothing changed.

    Example:
        >>> from breaker.errors import QuietPeriodUnwatched
        >>> _ = breaker.trip("MANUAL")
        >>> quiet = breaker.reset("ada", ends_watched=True)
        >>> try:
        ...     breaker.end_quiet_period(expected_epoch=quiet.epoch)
        ... except QuietPeriodUnwatched:
        ...     print(breaker.get_state())
        QUIET_PERIOD
    """


class RedisRefused(BreakerError):
    """Redis answered, and won't do it until somebody changes its configuration, credentials or memory.

    Example:
        >>> from breaker import RedisRefused
        >>> locked_out = CircuitBreaker(redis.Redis.from_url(url, password="a wrong one"))
        >>> try:
        ...     locked_out.trip("MANUAL")
        ... except RedisRefused as error:
        ...     print("Check the user name and password" in str(error))
        True
    """


class BreakerUnavailable(BreakerError):
    """Redis gave no answer within the time limit.

    Attributes:
        may_have_happened: False: Redis never got the request. True: it may have carried it out, or may do so yet.
        event_id: The transition's event id. Asking again with the same one is safe: it happens once at most. None for
            what is no transition.

    Example:
        >>> from breaker import BreakerUnavailable
        >>> unreachable = CircuitBreaker(redis.Redis(port=1), timeout=0.1)
        >>> try:
        ...     unreachable.trip("MANUAL")
        ... except BreakerUnavailable as error:
        ...     print(error.may_have_happened, error.event_id is not None)
        False True
    """

    def __init__(self, message: str, *, may_have_happened: bool, event_id: str | None = None) -> None:
        super().__init__(message)
        self.may_have_happened = may_have_happened
        self.event_id = event_id


class NotHalted(BreakerError):
    """Redis could not be told of a trip. Gates that can't reach it either close by their own leases.

    Attributes:
        pending: True: the trip is on this host's disk, and made as soon as Redis is back. False: nothing will make it.
    """

    def __init__(self, message: str, *, pending: bool) -> None:
        super().__init__(message)
        self.pending = pending


def one_line(error: BaseException) -> str:
    """An error's text in at most 300 characters on one line; its type's name where it has none."""
    return " ".join(str(error).split()).rstrip(".")[:300] or type(error).__name__
