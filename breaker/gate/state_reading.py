"""A scope's key, as Redis holds it, turned into a `StateReading`. Everything that is not understood is UNREADABLE."""

from __future__ import annotations

from breaker.gate.lease import StateReading, Word
from breaker.gate.quiet_period import Cooling
from breaker.gate.resp3 import ErrorReply
from breaker.state import State, read_status


def read_state(raw: bytes | ErrorReply | None, redis_time: int, now: float, *, key: str) -> StateReading:
    """`raw` is the key's value, None when it is missing, the error when it holds another type.

    `redis_time` is Redis's own clock in Unix microseconds, read just before; `now` is the gate's. Together they place
    the end of a quiet period on the gate's clock, so that no host's wall clock matters.
    """
    if isinstance(raw, ErrorReply):
        return StateReading(Word.UNREADABLE, problem=f"{key} is not a string")
    status = read_status(raw, redis_time, key=key)
    if status.state is State.UNKNOWN:
        return StateReading(Word.MISSING if raw is None else Word.UNREADABLE, problem=status.problem)
    cooling = None
    if status.state is State.QUIET_PERIOD and status.quiet_until is not None:
        left = status.quiet_until.timestamp() - redis_time / 1e6
        length = None if status.reset_at is None else (status.quiet_until - status.reset_at).total_seconds()
        cooling = Cooling(ends=now + left, length=length)
    return StateReading(Word(status.state), status.epoch, status.trip_reason, cooling)
