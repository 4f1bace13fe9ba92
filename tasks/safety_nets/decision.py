"""Decide what to do next about one account's timer at its venue. Pure: no clock, no I/O.

A timer is renewed after a third to a half of its time. It is let run out, so that the venue cancels, where a dead man's
switch has tripped the account and no kill switch is at work there, and where Redis has said nothing for too long.

While a kill switch is at work it is renewed: running out would take the kill switch's own closes and the stops that it
keeps until last, and a renewal is one request in so many seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

EARLIEST, LATEST = 1 / 3, 1 / 2
"""Of its time, when a timer is renewed: somewhere between, so that accounts don't fall into step."""
LATE_FROM = 0.6
"""Of its time, from which a timer that was not renewed is late: an attempt or two have come to nothing by then."""
AGAIN = 1 / 10
"""Of its time, after which an attempt that came to nothing is repeated."""
UNTOLD_AT_LEAST = 60.0
"""Seconds without a word from Redis for which any timer is renewed (`untold_for`)."""


class Standing(StrEnum):
    """Where one account's timer stands."""

    OFF = "off"
    """Nobody asked for it, or somebody, or an orderly end, has disarmed it."""
    ARMED = "armed"
    """It runs, and was renewed in time."""
    LATE = "late"
    """It was to be renewed by now, or armed, and was not; it may run still."""
    LEFT = "left"
    """It runs, and is not renewed on purpose, so that the venue cancels."""
    FIRED = "fired"
    """It ran out: the venue has cancelled what it covers. It protects nothing any more."""


class Act(StrEnum):
    WAIT = "wait"
    ARM = "arm"
    """Arm or renew: for every venue the same request."""
    DISARM = "disarm"


@dataclass(frozen=True, slots=True)
class Terms:
    """What is asked of one timer."""

    timeout: float
    off_after_firing: bool = False
    """It is not armed again by itself once it has fired."""
    per_symbol: bool = False
    """It is one for each symbol that has orders or positions, so that these are read before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What is known of one account's timer; times are one process's monotonic seconds."""

    now: float
    told_at: float
    """When Redis last said how things stand: whose lease it is, whether the breaker is tripped, what people want."""
    wanted: bool = True
    """Nobody has asked for it to be off."""
    left_to_fire: bool = False
    """A dead man's switch has tripped a breaker that covers the whole account."""
    kill_at_work: bool = False
    renewed_at: float | None = None
    """When the last renewal that the venue has taken was sent; None while none is known, and since it was disarmed."""
    may_run: bool = False
    """It may be running at the venue: something was sent that arms it, and it was not disarmed since."""
    idle: bool = False
    """The venue has one for each symbol, and no symbol has anything to be cancelled."""
    due_at: float = -math.inf
    """When it is to be armed or renewed next."""
    again_at: float = -math.inf
    """When what came to nothing is to be tried again."""
    fired: bool = False
    """It has fired, as far as is known, and was not armed since."""
    armed_again: bool = False
    """Since it fired a person has armed it, or the breaker was reset."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now, where the timer stands, and in words why it does not simply run."""

    act: Act
    standing: Standing
    why: str = ""


def decide(terms: Terms, at: Situation) -> Decision:
    """What is to be done now. Whoever asks does it, and asks again."""
    fired = at.fired or has_run_out(terms, at.renewed_at, at.now)
    if not at.wanted:
        if fired or not at.may_run:
            return Decision(Act.WAIT, Standing.OFF, "it was disarmed")
        return Decision(Act.DISARM if at.now >= at.again_at else Act.WAIT, Standing.LEFT, "it is to be disarmed")
    why = _why_left(terms, at)
    if fired:
        if not why and terms.off_after_firing and not at.armed_again:
            why = "it stays off until its breaker is reset, or `breaker safety arm --reason WHY`"
        return Decision(Act.WAIT if why else _arm_when_due(at), Standing.FIRED, why)
    if why:
        return Decision(Act.WAIT, Standing.LEFT if at.may_run else Standing.OFF, why)
    if at.idle:
        return Decision(_arm_when_due(at), Standing.ARMED, "no symbol has an order, so there is nothing to arm yet")
    return Decision(_arm_when_due(at), Standing.ARMED if _in_time(terms, at) else Standing.LATE)


def has_run_out(terms: Terms, renewed_at: float | None, now: float) -> bool:
    """Whether the time is over that the venue was last known to have been given, counted from the request's sending.

    The venue counts from when it took it, which is later: at this moment it may have a request's way left to go.
    """
    return renewed_at is not None and now - renewed_at >= terms.timeout


def untold_for(terms: Terms) -> float:
    """Seconds for which a timer is renewed though Redis says nothing: its own time, a minute at least.

    A failover of Redis takes seconds, two take some more. But whoever hears nothing can't know of a dead man's trip,
    nor of another process that holds the lease by now and lets the timer run out on purpose. So this bounds what such a
    trip can be put off by: so long, and once the timer's own time, after it the venue has cancelled, whoever renewed.
    """
    return max(terms.timeout, UNTOLD_AT_LEAST)


def next_renewal(terms: Terms, sent_at: float, share: float) -> float:
    """When a timer whose renewal was sent then is renewed again; `share`, from 0 to 1, is the jitter."""
    return sent_at + terms.timeout * (EARLIEST + (LATEST - EARLIEST) * share)


def next_attempt(terms: Terms, now: float) -> float:
    """When an attempt that came to nothing is repeated."""
    return now + terms.timeout * AGAIN


def _why_left(terms: Terms, at: Situation) -> str:
    if at.now - at.told_at > untold_for(terms):
        return f"Redis has said nothing for {untold_for(terms):g} s, so nobody knows whether a dead man has tripped"
    if at.left_to_fire and not at.kill_at_work:
        return "a dead man's switch has tripped its breaker, so that the venue is to cancel"
    return ""


def _arm_when_due(at: Situation) -> Act:
    return Act.ARM if at.now >= max(at.due_at, at.again_at) else Act.WAIT


def _in_time(terms: Terms, at: Situation) -> bool:
    return at.renewed_at is not None and at.now - at.renewed_at < terms.timeout * LATE_FROM
