"""Name the reasons that this project gives for the trips that it makes or documents."""

from __future__ import annotations

from enum import StrEnum


class TripReason(StrEnum):
    """Why a breaker was tripped: the `trip_reason` of its state, and a label of the exporter's `cb_trip_total`.

    `CircuitBreaker.trip` takes any text; an engine's own rules give reasons of their own.

    Example:
        >>> str(TripReason.DRAWDOWN)
        'DRAWDOWN'
        >>> TripReason("DRAWDOWN") is TripReason.DRAWDOWN
        True
    """

    MANUAL = "MANUAL"
    """A person halted trading; orders and positions are left as they are (runbook, *Trip via CLI*)."""
    KILL_SWITCH = "KILL_SWITCH"
    """The kill switch: halt, cancel every open order, flatten every position (runbook, *Full Kill Switch*)."""
    EMERGENCY_MANUAL = "EMERGENCY_MANUAL"
    """A state written by hand with `redis-cli SET` (runbook, *Manual Redis Override*); no code of ours gives it."""
    DRAWDOWN = "DRAWDOWN"
    """Equity fell too far below its high-water mark (runbook: more than 5 %)."""
    API_ERRORS = "API_ERRORS"
    """Too many failed calls within the window (runbook: more than 10 in 5 minutes)."""
    API_LATENCY = "API_LATENCY"
    """Call after call was answered too slowly."""
    DATA_STALENESS = "DATA_STALENESS"
    """A feed's newest data is too old (runbook: more than 30 minutes)."""
    DAILY_LOSS = "DAILY_LOSS"
    """Equity fell too far below that of the day's start."""
    LOSS_VELOCITY = "LOSS_VELOCITY"
    """Equity fell too far within a short time."""
    CONSECUTIVE_REJECTIONS = "CONSECUTIVE_REJECTIONS"
    """The venue rejected too many orders in a row."""
    POSITION_SIZE = "POSITION_SIZE"
    """A position's notional is too large."""
    GROSS_EXPOSURE = "GROSS_EXPOSURE"
    """The notional of all positions together, long and short, is too large."""
    POSITION_MISMATCH = "POSITION_MISMATCH"
    """What the engine believes to hold and what the venue reports differ, reading after reading."""
    MARGIN = "MARGIN"
    """The maintenance margin takes too much of the equity."""
    ORDER_RATE = "ORDER_RATE"
    """Too many messages were sent within a second."""
    REPEATED_EXECUTION = "REPEATED_EXECUTION"
    """A strategy was executed too often without a person (RTS 6 Art. 15(3)); a reset by one enables it again."""
    SILENT_INPUT = "SILENT_INPUT"
    """A rule that is on heard nothing for too long."""
    DEAD_MAN = "DEAD_MAN"
    """A dead-man's switch was not renewed in time."""
    LEDGER_MISMATCH = "LEDGER_MISMATCH"
    """Redis opened what the ledger knows to be tripped, without a reset: a lost trip, a restored backup, a raw SET."""
    STATE_LOST = "STATE_LOST"
    """Redis had lost the state when it was initialised, and the ledger's last word was a trip or a quiet period."""
    RESTORED = "RESTORED"
    """A backup was restored: what it says may have been overtaken, so a person decides before anything trades."""
    WATCH_FAILED = "WATCH_FAILED"
    """A condition turned red during the watch after a reset."""
    PENDING_TRIP_UNREADABLE = "PENDING_TRIP_UNREADABLE"
    """A trip kept on a host's disk could not be read; somebody wanted to halt something, so everything is halted."""
