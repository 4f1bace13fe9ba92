"""Whatever happens to Redis, venue, breaker and people, a timer is renewed in time, or let run out, or says so."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from breaker.errors import BreakerUnavailable
from breaker.state import State, Status, unknown_status
from brokers.protocol import Broker, BrokerUnavailable, SafetyNet
from tasks.safety_nets.decision import (
    LATEST,
    Act,
    Situation,
    Standing,
    Terms,
    decide,
    next_renewal,
    untold_for,
)
from tasks.safety_nets.net import Changed, Net, Told
from tasks.safety_nets.reading import told_of
from tasks.safety_nets.records import Instruction, NetRecord

W = 60.0
TERMS = Terms(W)
STARTED = 1_800_000_000.0
"""Unix seconds of Redis's clock at second 0."""
DEAD = frozenset({"global"})
LOOP = asyncio.Runner()
"""One loop for thousands of seconds, each of which takes no time."""


@pytest.fixture(scope="module", autouse=True)
def _loop_ends() -> Iterator[None]:
    yield
    LOOP.close()


@dataclass
class Timer:
    """A venue's timer, on a clock that the test moves."""

    now: float = 0.0
    due: float | None = None
    fired: list[float] = field(default_factory=list)
    armed: list[float] = field(default_factory=list)
    away: bool = False
    answers_lost: bool = False
    tells: bool = True

    def move(self, now: float) -> None:
        self.now = now
        if self.due is not None and self.due <= now:
            self.fired.append(self.due)
            self.due = None

    async def arm_safety_net(self, timeout: timedelta) -> SafetyNet:
        if self.away:
            raise BrokerUnavailable("the venue is away", account="ALPHA")
        self.due = self.now + timeout.total_seconds()
        self.armed.append(self.now)
        return self._answer()

    async def disarm_safety_net(self) -> None:
        if self.away:
            raise BrokerUnavailable("the venue is away", account="ALPHA")
        self.due = None
        self._answer()

    async def safety_net(self) -> SafetyNet:
        if self.away:
            raise BrokerUnavailable("the venue is away", account="ALPHA")
        return self._answer()

    def _answer(self) -> SafetyNet:
        if self.answers_lost:
            raise BrokerUnavailable("no answer came", account="ALPHA")
        until = None if self.due is None else datetime.now(UTC) + timedelta(seconds=self.due - self.now)
        return SafetyNet(until, verified=self.tells)


def net_of(timer: Timer, terms: Terms = TERMS, share: float = 0.5) -> Net:
    broker = cast(Broker, timer)
    return Net("ALPHA", broker, terms, within=5, host="here", clock=lambda: timer.now, share=lambda: share)


def told(now: float, **fields: Any) -> Told:
    return Told(at=now, redis_time=STARTED + now, **fields)


def instruction(now: float, *, armed: bool) -> Instruction:
    return Instruction(armed=armed, by="ada", reason="maintenance at the venue", at=STARTED + now)


@dataclass
class Run:
    """One process that keeps the timer, second by second."""

    timer: Timer = field(default_factory=Timer)
    net: Net = field(init=False)
    terms: Terms = TERMS
    said: Told = field(default_factory=lambda: told(0))
    changes: list[Changed] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.net = net_of(self.timer, self.terms)

    def second(self, now: float, *, redis: bool = True, **says: Any) -> None:
        self.timer.move(now)
        if redis:
            self.said = told(now, **says)
        self.changes += LOOP.run(self.net.step(self.said))

    def until(self, end: float, start: float = 0, **says: Any) -> None:
        for now in range(int(start), int(end)):
            self.second(now, **says)

    @property
    def standings(self) -> list[str]:
        return [changed.record.standing.value for changed in self.changes]


def test_a_timer_is_renewed_between_a_third_and_half_of_its_time_and_never_fires() -> None:
    run = Run()
    run.until(600)
    gaps = {later - earlier for earlier, later in zip(run.timer.armed, run.timer.armed[1:], strict=False)}
    assert gaps == {25.0} and not run.timer.fired
    assert run.standings == ["armed"]
    assert next_renewal(TERMS, 0, 0) == W / 3 and next_renewal(TERMS, 0, 1) == W / 2


def test_a_dead_mans_trip_lets_the_venue_cancel_and_a_reset_arms_it_again() -> None:
    run = Run()
    run.until(100)
    run.until(200, 100, dead=DEAD)
    assert run.timer.fired == [run.timer.armed[-1] + W], "at most its own time after the trip"
    assert run.timer.armed[-1] <= 100
    run.until(210, 200, reset_at=STARTED + 200)
    assert run.timer.due is not None
    assert run.standings == ["armed", "left", "fired", "armed"]


def test_it_is_renewed_while_a_kill_switch_is_at_work_whatever_tripped() -> None:
    run = Run()
    run.until(400, dead=DEAD, kill_at_work=True)
    assert not run.timer.fired
    run.until(480, 400, dead=DEAD)
    assert len(run.timer.fired) == 1, "and is left to the venue when that is over"


def test_without_redis_it_is_renewed_for_its_own_time_and_a_minute_at_least_and_then_left() -> None:
    run = Run()
    run.until(10)
    run.until(100, 10, redis=False)
    assert max(run.timer.armed) <= 9 + untold_for(TERMS)
    run.until(200, 100, redis=False)
    assert run.standings == ["armed", "left", "fired"]
    assert run.timer.fired[0] <= 9 + untold_for(TERMS) + W
    assert "Redis has said nothing" in run.changes[1].record.why
    assert untold_for(Terms(20)) == 60 and untold_for(Terms(120)) == 120


def test_two_failovers_of_redis_don_t_keep_it_from_being_renewed() -> None:
    run = Run()
    run.until(30)
    run.until(60, 30, redis=False)
    run.until(65, 60)
    run.until(95, 65, redis=False)
    run.until(200, 95)
    assert not run.timer.fired and run.standings == ["armed"]


def test_a_venue_that_is_away_makes_it_late_and_then_fired_and_it_is_armed_again_at_once() -> None:
    run = Run()
    run.until(10)
    run.timer.away = True
    run.until(80, 10)
    assert run.standings == ["armed", "late", "fired"]
    late = run.changes[1].record
    assert late.problem == "the venue is away" and late.seconds_left is not None and late.seconds_left > 15
    run.timer.away = False
    run.until(90, 80)
    assert run.standings[-1] == "armed" and run.changes[-1].record.firings == 1


def test_one_that_is_off_after_firing_is_armed_again_by_a_person_or_a_reset_alone() -> None:
    def fired(**says: Any) -> Run:
        run = Run(terms=Terms(W, off_after_firing=True))
        run.until(10)
        run.timer.away = True
        run.until(90, 10)
        run.timer.away = False
        run.until(200, 90, **says)
        return run

    left_alone = fired()
    assert left_alone.standings[-1] == "fired" and left_alone.timer.due is None
    assert "breaker safety arm" in left_alone.changes[-1].record.why
    assert fired(reset_at=STARTED + 100).timer.due is not None
    assert fired(reset_at=STARTED + 5).timer.due is None, "that reset was before it fired"
    assert fired(instruction=instruction(100, armed=True)).timer.due is not None
    assert fired(instruction=instruction(5, armed=True)).timer.due is None


def test_a_person_disarms_it_and_arms_it_again() -> None:
    at_once = Run()
    at_once.until(10)
    at_once.second(10, instruction=instruction(9, armed=False))
    assert at_once.timer.due is None and at_once.standings[-1] == "off"
    at_once.second(11, instruction=instruction(11, armed=True))
    assert at_once.timer.due is not None and at_once.standings[-1] == "armed"
    run = Run()
    run.until(10)
    run.timer.away = True
    run.until(20, 10, instruction=instruction(10, armed=False))
    assert run.standings[-1] == "left" and run.changes[-1].record.why == "it is to be disarmed"
    run.timer.away = False
    run.until(40, 20, instruction=instruction(10, armed=False))
    assert run.timer.due is None and not run.timer.fired and run.standings[-1] == "off"
    run.until(50, 40, instruction=instruction(40, armed=True))
    assert run.timer.due is not None and run.standings[-1] == "armed"


def test_an_answer_that_was_lost_is_no_renewal_and_no_firing_where_the_venue_says_that_it_runs() -> None:
    run = Run()
    run.until(10)
    run.timer.answers_lost = True
    run.until(55, 10)
    assert run.standings == ["armed", "late"] and run.timer.armed[-1] > 25
    run.timer.answers_lost, run.timer.away = False, False
    before = len(run.timer.armed)
    run.net._due_at = 1_000  # nothing is renewed meanwhile: what decides is what the venue says
    run.until(70, 55)
    assert len(run.timer.armed) == before and not run.timer.fired
    assert "fired" not in run.standings


def test_a_venue_that_says_the_timer_does_not_run_is_not_believed_to_have_armed_it() -> None:
    run = Run()

    async def arm(timeout: timedelta) -> SafetyNet:
        return SafetyNet(None, verified=True)

    run.timer.arm_safety_net = arm  # type: ignore[method-assign]
    run.until(5)
    assert run.standings == ["late"]
    assert "says that the timer does not run" in run.changes[-1].record.problem


def test_an_armed_timer_that_the_venue_says_does_not_run_counts_as_armed_no_longer() -> None:
    run = Run()
    run.until(20)
    assert run.net.current(run.said).verified

    async def arm(timeout: timedelta) -> SafetyNet:
        return SafetyNet(None, verified=True)

    run.timer.arm_safety_net = arm  # type: ignore[method-assign]
    run.until(35, 20)
    kept = run.net.current(run.said)
    assert (kept.standing.value, kept.seconds_left, kept.verified) == ("late", None, False)


def test_an_adapter_that_errs_in_reading_is_armed_all_the_same() -> None:
    run = Run(terms=replace(TERMS, per_symbol=True))

    async def open_orders() -> None:
        raise KeyError("symbol")

    async def arm(timeout: timedelta) -> SafetyNet:
        return SafetyNet(datetime.now(UTC) + timeout, ("BTC",), verified=False)

    async def safety_net() -> SafetyNet:
        raise KeyError("triggerTime")

    run.timer.open_orders = open_orders  # type: ignore[attr-defined]
    run.timer.positions = open_orders  # type: ignore[attr-defined]
    run.timer.arm_safety_net = arm  # type: ignore[method-assign]
    run.timer.safety_net = safety_net  # type: ignore[method-assign]
    run.until(5)
    assert run.standings == ["armed"]


def test_an_adapters_own_mistake_is_a_problem_and_no_end() -> None:
    run = Run()
    good = run.timer.arm_safety_net

    async def arm(timeout: timedelta) -> SafetyNet:
        raise KeyError("triggerTime")

    run.timer.arm_safety_net = arm  # type: ignore[method-assign]
    run.until(5)
    assert "triggerTime" in run.changes[-1].record.problem
    run.timer.arm_safety_net = good  # type: ignore[method-assign]
    run.until(15, 5)
    assert run.standings == ["late", "armed"]


def test_a_firing_is_told_also_where_it_is_armed_again_in_the_same_breath() -> None:
    before = Run()
    before.until(10)
    record = before.net.current(before.said)
    after = Run(timer=before.timer)
    after.net.take_over(record, told(500))
    after.second(500)
    assert after.standings == ["fired", "armed"] and after.changes[0].before is Standing.ARMED


def test_a_dead_mans_trip_that_a_failover_has_lost_holds_until_its_breaker_is_seen_without_it() -> None:
    now = datetime.now(UTC)
    tripped = Status(State.TRIPPED, {"trip_reason": "DEAD_MAN"}, as_of=now)
    by_hand = Status(State.TRIPPED, {"trip_reason": "MANUAL"}, as_of=now)
    lost, opened = unknown_status("it went back", as_of=now), Status(State.OPEN, as_of=now)

    def dead(everything: Status, account: Status, before: Told | None = None) -> set[str]:
        return {*told_of({"global": everything, "account:ALPHA": account}, told(1), before).dead}

    seen = told_of({"global": tripped, "account:ALPHA": lost}, told(0))
    assert seen.dead == DEAD
    assert dead(lost, opened, seen) == DEAD
    assert dead(opened, lost, seen) == set(), "the other breaker has never been made"
    assert dead(lost, opened) == dead(by_hand, opened) == set()
    with pytest.raises(BreakerUnavailable, match="no answer"):
        dead(opened, unknown_status("no answer"))


def test_where_each_symbol_has_its_own_those_with_orders_are_armed_and_none_is_no_fault() -> None:
    run = Run(terms=Terms(W, per_symbol=True))
    seen: list[str] = []
    there: list[str] = []

    async def open_orders() -> None:
        seen[:] = there

    async def arm(timeout: timedelta) -> SafetyNet:
        until = datetime.now(UTC) + timeout if seen else None
        run.timer.armed.append(run.timer.now)
        return SafetyNet(until, tuple(seen), verified=True)

    run.timer.arm_safety_net = arm  # type: ignore[method-assign]

    async def away() -> None:
        raise BrokerUnavailable("the venue is away", account="ALPHA")

    unread = Run(terms=Terms(W, per_symbol=True))
    unread.timer.arm_safety_net = arm  # type: ignore[method-assign]
    unread.timer.open_orders = unread.timer.positions = away  # type: ignore[attr-defined]
    unread.until(3)
    assert unread.standings == ["late"], "what could not be read is not nothing"
    assert "which symbols have orders was not read" in unread.changes[0].record.problem

    run.timer.armed.clear()
    run.timer.open_orders = run.timer.positions = open_orders  # type: ignore[attr-defined]
    run.until(100)
    assert run.standings == ["armed"] and len(run.timer.armed) == 4
    assert "nothing to arm yet" in run.changes[0].record.why and run.changes[0].record.seconds_left is None
    there.append("BTC/USDT:USDT")
    run.until(130, 100)
    record = run.net.current(run.said)
    assert record.covers == ("BTC/USDT:USDT",) and record.seconds_left is not None and not record.why


def test_whether_it_is_verified_is_the_venues_word() -> None:
    run = Run()
    run.second(0)
    assert run.changes[-1].record.verified
    silent = Run(timer=Timer(tells=False))
    silent.second(0)
    assert silent.changes[-1].record.standing is Standing.ARMED and not silent.changes[-1].record.verified


@pytest.mark.parametrize(("seconds", "standing"), [(20, "armed"), (90, "fired")])
def test_a_process_that_takes_over_goes_on_from_the_record(seconds: float, standing: str) -> None:
    before = Run()
    before.until(11)
    record = NetRecord.from_json(before.net.current(before.said).as_json().encode())
    assert record.seconds_left == pytest.approx(W - 10) and record.armed_until == pytest.approx(STARTED + W)
    after = Run(timer=before.timer)
    after.timer.move(10 + seconds)
    after.net.take_over(record, told(10 + seconds))
    after.timer.away = True
    after.second(10 + seconds)
    assert (after.standings or ["armed"]) == [standing]
    if standing == "fired":
        fired_at = after.changes[-1].record.fired_at
        assert fired_at is not None and fired_at == pytest.approx(STARTED + W)


def test_the_last_process_disarms_and_says_where_it_could_not() -> None:
    run = Run()
    run.until(10)
    run.timer.away = True
    (changed,) = LOOP.run(run.net.disarm(run.said))
    assert changed.record.standing is Standing.LEFT
    run.timer.away = False
    (changed,) = LOOP.run(run.net.disarm(run.said))
    assert changed.record.standing is Standing.OFF and run.timer.due is None
    assert changed.record.seconds_left is None and not changed.record.verified


INTERVALS = st.lists(st.tuples(st.integers(0, 250), st.integers(1, 150)), max_size=3)


def within(intervals: list[tuple[int, int]], now: int) -> bool:
    return any(start <= now < start + length for start, length in intervals)


@given(redis=INTERVALS, venue=INTERVALS, lost=INTERVALS, dead=INTERVALS, kill=INTERVALS, off=INTERVALS)
def test_whatever_happens(
    redis: list[tuple[int, int]],
    venue: list[tuple[int, int]],
    lost: list[tuple[int, int]],
    dead: list[tuple[int, int]],
    kill: list[tuple[int, int]],
    off: list[tuple[int, int]],
) -> None:
    run = Run()
    known = {"dead": False, "kill": False, "off": False}
    told_at = 0
    for now in range(350):
        run.timer.away, run.timer.answers_lost = within(venue, now), within(lost, now)
        if not within(redis, now):
            known = {"dead": within(dead, now), "kill": within(kill, now), "off": within(off, now)}
            told_at = now
        armed_before = len(run.timer.armed)
        run.second(
            now,
            redis=not within(redis, now),
            dead=DEAD if known["dead"] else frozenset(),
            kill_at_work=known["kill"],
            instruction=instruction(now, armed=False) if known["off"] else None,
        )
        armed = len(run.timer.armed) > armed_before
        standing = run.net.standing
        if known["off"]:
            assert not armed, "nobody arms what a person wants to be off"
        if known["dead"] and not known["kill"]:
            assert not armed, "a dead man's trip is left to the venue"
        if now - told_at > untold_for(TERMS):
            assert not armed, "not for ever without a word from Redis"
        if standing is Standing.ARMED:
            assert run.timer.due is not None and run.timer.due > now, "what is called armed runs"
        if standing is Standing.FIRED and not lost:
            assert run.timer.due is None, "what is called fired has fired"


@given(
    redis=st.lists(st.integers(0, 300), max_size=3), share=st.floats(0, 1), timeout=st.sampled_from([20.0, 60.0, 300.0])
)
def test_outages_of_redis_that_a_failover_takes_are_outlived(redis: list[int], share: float, timeout: float) -> None:
    terms = Terms(timeout)
    run = Run(terms=terms)
    run.net = net_of(run.timer, terms, share)
    for now in range(350):
        run.second(now, redis=not any(start <= now < start + 15 for start in redis))
    assert not run.timer.fired
    assert all(changed.record.standing is Standing.ARMED for changed in run.changes)


@given(
    now=st.floats(0, 1_000),
    told_at=st.floats(0, 1_000),
    renewed_at=st.none() | st.floats(0, 1_000),
    due_at=st.floats(0, 1_000),
    flags=st.tuples(*[st.booleans()] * 7),
)
def test_one_decision_is_sound(
    now: float, told_at: float, renewed_at: float | None, due_at: float, flags: tuple[bool, ...]
) -> None:
    wanted, left, kill, may_run, fired, again, off_after = flags
    at = Situation(
        now=now,
        told_at=min(told_at, now),
        wanted=wanted,
        left_to_fire=left,
        kill_at_work=kill,
        renewed_at=renewed_at,
        may_run=may_run,
        due_at=due_at,
        again_at=due_at - 10,
        fired=fired,
        armed_again=again,
    )
    decision = decide(replace(TERMS, off_after_firing=off_after), at)
    if decision.act is Act.ARM:
        assert wanted and (kill or not left) and not (fired and off_after and not again)
    if decision.act is Act.DISARM:
        assert not wanted and may_run
    if decision.standing in (Standing.LEFT, Standing.OFF):
        assert decision.why, "whoever reads it is told why"
    if decision.standing is Standing.ARMED:
        assert renewed_at is not None and now - renewed_at <= W * (LATEST + 0.11)
