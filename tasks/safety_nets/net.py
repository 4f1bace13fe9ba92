"""Keep one account's timer at its venue: look, decide, arm or disarm, read back, and say what has changed."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from brokers.protocol import Broker, BrokerError, SafetyNet
from tasks.safety_nets.decision import (
    Act,
    Decision,
    Situation,
    Standing,
    Terms,
    decide,
    has_run_out,
    next_attempt,
    next_renewal,
)
from tasks.safety_nets.records import Instruction, NetRecord

READ_WITHIN = 3.0
"""Seconds in which the symbols are read before a renewal, which must not wait long for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What Redis said of one account, and when; `at` is in monotonic seconds, `redis_time` in Unix seconds."""

    at: float
    redis_time: float
    instruction: Instruction | None = None
    dead: frozenset[str] = frozenset()
    """The breakers of the whole account that a dead man's switch has tripped."""
    kill_at_work: bool = False
    reset_at: float | None = None
    """When a breaker of the account was last reset, Unix seconds; None while one of them is tripped, too."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A timer stands otherwise than before; `before` is None where nobody had kept it."""

    before: Standing | None
    record: NetRecord


class Net:
    """One account's timer as this process keeps it. `within`: seconds that one answer of the venue may take.

    `host` is who keeps it, as people know it. `clock` and `share` (of the jitter, 0 to 1) are for tests.
    """

    def __init__(
        self,
        account: str,
        broker: Broker,
        terms: Terms,
        *,
        within: float,
        host: str,
        clock: Callable[[], float] = time.monotonic,
        share: Callable[[], float] = random.random,
    ) -> None:
        self.account = account
        self._broker = broker
        self._terms = terms
        self._within = within
        self._host = host
        self._clock = clock
        self._share = share
        self._standing: Standing | None = None
        self._may_run, self._fired = True, False
        """It may run at the venue unless it was disarmed or has fired: nobody knows what was before."""
        self._idle = False
        self._asked_to_disarm = False
        """A request to disarm was sent, and its answer did not come: it may have been done."""
        self._renewed_at: float | None = None
        self._due_at = self._again_at = -math.inf
        self._said = SafetyNet(None)
        """What the venue last said."""
        self._fired_at: float | None = None
        """Unix seconds of Redis's clock."""
        self._firings = 0
        self._problem = ""

    @property
    def standing(self) -> Standing | None:
        """None until the first step."""
        return self._standing

    @property
    def seconds_left(self) -> float:
        """Until the venue cancels unless it is renewed; 0 where it does not run."""
        return 0.0 if self._renewed_at is None else max(self._renewed_at + self._terms.timeout - self._clock(), 0.0)

    def take_over(self, record: NetRecord, told: Told) -> None:
        """Go on from what another process, or an earlier one, has kept."""
        self._standing, self._firings, self._fired_at = record.standing, record.firings, record.fired_at
        self._fired = record.standing is Standing.FIRED
        if record.seconds_left is not None:
            left = record.seconds_left - (told.redis_time - record.as_of)
            self._renewed_at = told.at - (self._terms.timeout - left)
        self._may_run = record.standing not in (Standing.OFF, Standing.FIRED)

    async def step(self, told: Told) -> list[Changed]:
        """Do what is to be done now. Returns what has changed, in its order. Never raises for what the venue does."""
        changes = []
        if not self._fired and has_run_out(self._terms, self._renewed_at, self._clock()):
            await self._look_whether_it_fired(told)
            changes += self._settle(self._decide(told), told)
        if self._asked_to_disarm and _is_wanted(told):  # nobody knows whether it runs
            self._asked_to_disarm, self._renewed_at = False, None
            self._due_at = self._again_at = -math.inf
        decision = self._decide(told)
        if decision.act is Act.ARM:
            await self._arm()
        elif decision.act is Act.DISARM:
            await self._disarm()
        return [*changes, *self._settle(self._decide(told), told)]

    async def disarm(self, told: Told) -> list[Changed]:
        """At an orderly end: nobody is left to renew it."""
        if self._may_run and not self._fired:
            await self._disarm()
        if self._may_run and not self._fired:
            return self._settle(Decision(Act.WAIT, Standing.LEFT, "it could not be disarmed at the end"), told)
        return self._settle(Decision(Act.WAIT, Standing.OFF, "the last process that kept it has ended in order"), told)

    def record(self, told: Told, why: str = "") -> NetRecord:
        """As it stands now."""
        now = self._clock()
        redis_now = told.redis_time + (now - told.at)
        runs = self._may_run and not self._fired and self._renewed_at is not None
        return NetRecord(
            account=self.account,
            standing=self._standing or Standing.OFF,
            timeout=self._terms.timeout,
            as_of=redis_now,
            seconds_left=self.seconds_left if runs else None,
            renewed_at=None if self._renewed_at is None else redis_now - (now - self._renewed_at),
            verified=runs and self._said.verified,
            fired_at=self._fired_at,
            firings=self._firings,
            covers=self._said.covers,
            not_covered=self._said.detail,
            why=why,
            problem=self._problem,
            host=self._host,
            instruction=told.instruction.id if told.instruction else "",
        )

    def current(self, told: Told) -> NetRecord:
        """The record, with why it is not simply renewed."""
        return self.record(told, self._decide(told).why)

    def _decide(self, told: Told) -> Decision:
        return decide(
            self._terms,
            Situation(
                now=self._clock(),
                told_at=told.at,
                wanted=_is_wanted(told),
                left_to_fire=bool(told.dead),
                kill_at_work=told.kill_at_work,
                renewed_at=self._renewed_at,
                may_run=self._may_run,
                idle=self._idle,
                due_at=self._due_at,
                again_at=self._again_at,
                fired=self._fired,
                armed_again=self._is_armed_again(told),
            ),
        )

    def _is_armed_again(self, told: Told) -> bool:
        fired_at, asked = self._fired_at, told.instruction
        if fired_at is None:
            return True
        by_person = asked is not None and asked.armed and asked.at > fired_at
        return by_person or (told.reset_at is not None and told.reset_at > fired_at)

    async def _look_whether_it_fired(self, told: Told) -> None:
        """Its time is over, by the last answer that came: a later renewal may have arrived all the same."""
        said = await self._ask_venue()
        now = self._clock()
        if said is not None and said.verified and said.armed_until is not None:
            left = (said.armed_until - datetime.now(UTC)).total_seconds()
            if left > 0:
                self._said, self._renewed_at = said, now - max(self._terms.timeout - left, 0.0)
                return
        redis_now = told.redis_time + (now - told.at)
        ran_out = self._renewed_at + self._terms.timeout if self._renewed_at is not None else now
        self._fired, self._may_run, self._firings = True, False, self._firings + 1
        self._fired_at = redis_now - (now - ran_out)
        if said is not None and said.fired_at is not None:
            self._fired_at = said.fired_at.timestamp()

    async def _arm(self) -> None:
        self._may_run, self._idle = True, False
        unread = await self._read_symbols()
        sent_at = self._clock()
        self._again_at = next_attempt(self._terms, sent_at)
        try:
            async with asyncio.timeout(self._within):
                said = await self._broker.arm_safety_net(timedelta(seconds=self._terms.timeout))
        except (BrokerError, TimeoutError) as error:
            self._problem = _in_words(error, self._within)
            return
        except Exception as error:  # an adapter's own mistake must not be the end of this account's protection
            self._problem = f"{type(error).__name__}: {error}"
            return
        if not said.verified:
            read = await self._ask_venue()
            said = read if read is not None and read.verified else said
        self._said = said
        if unread and not said.covers:  # nobody knows that there is nothing to be armed
            self._problem = unread
            return
        if said.armed_until is None and said.verified and self._terms.per_symbol and not said.covers:
            self._problem, self._idle, self._renewed_at, self._fired = "", True, None, False
            self._set_next(sent_at)
            return
        if said.armed_until is None:
            self._problem = "the venue took the request, and says that the timer does not run"
            if said.verified:  # nor does the one that an earlier answer told of
                self._renewed_at = None
            return
        self._problem, self._fired, self._renewed_at = "", False, sent_at
        self._set_next(sent_at)

    def _set_next(self, sent_at: float) -> None:
        self._asked_to_disarm = False
        self._due_at, self._again_at = next_renewal(self._terms, sent_at, self._share()), -math.inf

    async def _disarm(self) -> None:
        self._idle = False
        await self._read_symbols()
        self._again_at = next_attempt(self._terms, self._clock())
        self._asked_to_disarm = True
        try:
            async with asyncio.timeout(self._within):
                await self._broker.disarm_safety_net()
        except (BrokerError, TimeoutError) as error:
            self._problem = _in_words(error, self._within)
            return
        except Exception as error:  # an adapter's own mistake
            self._problem = f"{type(error).__name__}: {error}"
            return
        said = await self._ask_venue()
        if said is not None and said.verified and said.armed_until is not None:
            self._problem = "the venue took the request, and says that the timer runs still"
            return
        self._problem, self._may_run, self._renewed_at = "", False, None
        self._due_at, self._again_at, self._asked_to_disarm = -math.inf, -math.inf, False

    async def _read_symbols(self) -> str:
        """An adapter arms for the symbols that it has seen. Where they can't be read now: why."""
        if not self._terms.per_symbol:
            return ""
        limit = min(self._within, READ_WITHIN)
        try:
            async with asyncio.timeout(limit):
                await asyncio.gather(self._broker.open_orders(), self._broker.positions())
        except (BrokerError, TimeoutError) as error:
            return f"which symbols have orders was not read: {_in_words(error, limit)}"
        except Exception as error:  # an adapter's own mistake
            return f"which symbols have orders was not read: {type(error).__name__}: {error}"
        return ""

    async def _ask_venue(self) -> SafetyNet | None:
        """What it says of the timer; None where it does not."""
        try:
            async with asyncio.timeout(self._within):
                return await self._broker.safety_net()
        except Exception:  # an adapter's own mistake tells no more than no answer
            return None

    def _settle(self, decision: Decision, told: Told) -> list[Changed]:
        before, self._standing = self._standing, decision.standing
        return [] if before is decision.standing else [Changed(before, self.record(told, decision.why))]


def _is_wanted(told: Told) -> bool:
    return told.instruction is None or told.instruction.armed


def _in_words(error: Exception, within: float) -> str:
    return str(error) if isinstance(error, BrokerError) else f"the venue gave no answer within {within:g} s"
