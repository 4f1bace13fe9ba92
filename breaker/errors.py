"""What can go wrong with a breaker. Every message is one line: what happened, what holds now, what to do."""

from __future__ import annotations


class BreakerError(Exception):
    """Any refusal or failure of the breaker."""


class InvalidInput(BreakerError, ValueError):
    """An argument can't be used. Found before Redis was asked: nothing changed."""


class NotTripped(BreakerError):
    """A reset was asked for, but the breaker is not TRIPPED. Nothing changed."""


class ResetRateLimited(BreakerError):
    """A reset followed another one too closely (runbook: one per minute, globally). Nothing changed."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds until a reset is possible again."""


class StateConflict(BreakerError):
    """What Redis holds is not what the caller or the transition expects. Nothing changed."""


class RedisRefused(BreakerError):
    """Redis answered, and won't do it until somebody changes its configuration, credentials or memory."""


class BreakerUnavailable(BreakerError):
    """Redis gave no answer within the time limit."""

    def __init__(self, message: str, *, may_have_happened: bool, event_id: str | None = None) -> None:
        super().__init__(message)
        self.may_have_happened = may_have_happened
        """False: Redis never got the request. True: it may have carried it out, or may do so yet."""
        self.event_id = event_id
        """The transition's event id. Asking again with the same one is safe: it happens once at most."""


class NotHalted(BreakerError):
    """Redis could not be told of a trip. Gates that can't reach it either close by their own leases."""

    def __init__(self, message: str, *, pending: bool) -> None:
        super().__init__(message)
        self.pending = pending
        """True: the trip is on this host's disk, and made as soon as Redis is back. False: nothing will make it."""
