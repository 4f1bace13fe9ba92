"""Trip, reset, quiet period and initialisation on a real server; each test for the blocking and the async breaker."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
import redis

from breaker import NotTripped, RedisRefused, ResetRateLimited, State, StateConflict, TransitionEvent
from breaker.errors import InvalidInput, QuietPeriodUnwatched
from breaker.keys import Keys
from breaker.transition_terms import Watching
from breaker.uuid7 import uuid7
from sandbox.embedded_redis import EmbeddedRedis
from tests.helpers import eventually

KEYS = Keys.of()


def stored(client: Any, key: str = KEYS.state) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(client.get(key))
    return fields


def outbox(client: Any, key: str = KEYS.outbox) -> list[TransitionEvent]:
    return [TransitionEvent.from_json(fields[b"event"]) for _, fields in client.xrange(key)]


def everything(client: Any) -> dict[bytes, bytes]:
    return {key: client.dump(key) for key in sorted(client.keys())}


def hand_written(client: Any, **fields: Any) -> None:
    client.set(KEYS.state, json.dumps(fields))


def from_now(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


STATES: dict[str, Any] = {
    "missing": None,
    "open": {"state": "OPEN", "epoch": 4},
    "tripped": {"state": "TRIPPED", "trip_reason": "FIRST", "epoch": 4},
    "quiet period": {"state": "QUIET_PERIOD", "quiet_until": "2999-01-01T00:00:00Z", "epoch": 4},
    "quiet period over": {"state": "QUIET_PERIOD", "quiet_until": "2020-01-01T00:00:00Z", "epoch": 4},
    "garbage": "garbage",
    "not an object": "[1]",
    "unknown word": {"state": "MAYBE"},
    "quiet period without an end": {"state": "QUIET_PERIOD"},
    "huge epoch": {"state": "OPEN", "epoch": 1e300},
    "no utf-8": b'{"state": "OPEN", "x": "\xff"}',
}


# --- Promise 1: fail closed ---


def test_promise_1_a_missing_state_is_closed_until_initialised(cb: Any) -> None:
    assert cb.get_state() is State.UNKNOWN
    assert cb.is_tripped()
    assert cb.initialize_state(by="ada").state is State.OPEN
    assert not cb.is_tripped()


def test_promise_1_a_flushed_redis_stays_closed(cb: Any, redis_client: Any) -> None:
    cb.initialize_state()
    redis_client.flushall()
    assert cb.is_tripped()
    with pytest.raises(NotTripped, match="breaker init"):
        cb.reset("ada")
    assert cb.get_state() is State.UNKNOWN
    assert redis_client.keys() == []


def test_promise_1_making_a_breaker_or_reading_it_writes_nothing(cb: Any, redis_client: Any) -> None:
    cb.get_status()
    cb.is_tripped()
    cb.get_history()
    assert redis_client.keys() == []


@pytest.mark.parametrize("make", ["lpush", "hset", "sadd", "zadd", "xadd"])
def test_promise_1_a_state_key_of_another_type_is_closed(cb: Any, redis_client: Any, make: str) -> None:
    redis_client.execute_command(
        make.upper(), KEYS.state, *{"zadd": (1, "a"), "xadd": ("*", "a", "b")}.get(make, ("a", "b"))
    )
    status = cb.get_status()
    assert status.state is State.UNKNOWN
    assert "is not a string" in status.problem
    with pytest.raises(StateConflict, match="is not a string"):
        cb.initialize_state()
    assert cb.initialize_state(force=True).state is State.OPEN


def test_promise_1_an_older_copy_of_the_data_is_closed(cb: Any, redis_client: Any) -> None:
    cb.initialize_state()
    older = redis_client.get(KEYS.state)
    cb.trip("MANUAL")
    redis_client.set(KEYS.state, older)
    status = cb.get_status()
    assert status.state is State.UNKNOWN
    assert "older copy" in status.problem
    assert cb.initialize_state(force=True).state is State.OPEN
    assert cb.get_state() is State.OPEN


def test_promise_1_a_copy_from_before_a_trip_that_was_counted_on_is_closed(
    make_breaker: Any, redis_server: EmbeddedRedis, redis_client: Any
) -> None:
    """The quiet period's watch reaches the epoch that the lost trip had, by another way."""
    cb = make_breaker(redis_server.url, reset_interval=0)
    watch = make_breaker(redis_server.url)
    cb.trip("MANUAL")
    quiet = cb.reset("ada")
    older = {name: redis_client.dump(name) for name in redis_client.scan_iter()}
    lost = cb.trip("LOST")
    redis_client.flushall()
    for name, value in older.items():
        redis_client.restore(name, 0, value)
    assert cb.get_state() is State.UNKNOWN
    assert watch.end_quiet_period(expected_epoch=quiet.epoch).epoch == lost.epoch
    status = cb.get_status()
    assert status.state is State.UNKNOWN
    assert "older copy" in status.problem
    assert watch.get_state() is State.OPEN, "it never knew of the trip"
    assert cb.trip("AGAIN").state is State.TRIPPED
    assert cb.get_state() is State.TRIPPED


# --- Promise 2: a trip always wins ---


@pytest.mark.parametrize("before", STATES.values(), ids=STATES.keys())
def test_promise_2_trip_succeeds_from_any_state(cb: Any, redis_client: Any, before: Any) -> None:
    if before is not None:
        redis_client.set(KEYS.state, json.dumps(before) if isinstance(before, dict) else before)
    status = cb.trip("MANUAL")
    assert status.state is State.TRIPPED
    assert cb.get_status() == status
    [event] = cb.get_history()
    assert event.to_state == "TRIPPED"
    assert event.epoch == status.epoch
    assert outbox(redis_client) == [event]


@pytest.mark.parametrize("key", [KEYS.state, KEYS.history, KEYS.outbox, KEYS.event_ids])
@pytest.mark.parametrize("kind", ["string", "list", "hash"])
def test_promise_2_trip_succeeds_whatever_type_its_keys_have(cb: Any, redis_client: Any, key: str, kind: str) -> None:
    if kind == "string":
        redis_client.set(key, "mine")
    elif kind == "list":
        redis_client.rpush(key, "mine")
    else:
        redis_client.hset(key, "mine", "1")
    assert cb.trip("MANUAL").state is State.TRIPPED
    assert [event.reason for event in cb.get_history()] == ["MANUAL"]
    assert [event.reason for event in outbox(redis_client)] == ["MANUAL"]
    kept = list(redis_client.keys("*:corrupt:*"))
    assert len(kept) == (0 if key == KEYS.state else 1)
    assert all(name.decode().startswith(f"{key}:corrupt:") for name in kept)


def test_promise_2_trip_succeeds_when_redis_is_out_of_memory(make_breaker: Any, own_server: EmbeddedRedis) -> None:
    cb = make_breaker(own_server.url)
    cb.initialize_state()
    client = redis.Redis.from_url(own_server.url)
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", "1mb")
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        client.set("something", "x")
    assert cb.trip("MANUAL").state is State.TRIPPED
    with pytest.raises(RedisRefused, match=r"Free memory"):
        cb.reset("ada")
    assert cb.is_tripped()
    assert len(cb.get_history()) == len(outbox(client)) == 2
    client.close()


def test_promise_2_trip_succeeds_when_the_outbox_has_no_ids_left(cb: Any, redis_client: Any) -> None:
    cb.initialize_state()
    redis_client.xadd(KEYS.outbox, {"mine": "1"}, id=f"{2**64 - 1}-{2**64 - 1}")
    before = everything(redis_client)
    assert cb.trip("MANUAL").state is State.TRIPPED
    assert [event.reason for event in outbox(redis_client)] == ["MANUAL"]
    [kept] = redis_client.keys("*:corrupt:*")
    assert redis_client.dump(kept) == before[KEYS.outbox.encode()]


def test_promise_4_a_reset_that_the_outbox_cannot_take_does_not_happen(cb: Any, redis_client: Any) -> None:
    cb.trip("MANUAL")
    redis_client.xadd(KEYS.outbox, {"mine": "1"}, id=f"{2**64 - 1}-{2**64 - 1}")
    before = everything(redis_client)
    with pytest.raises(RedisRefused, match=r"exhausted the last possible ID.*Nothing was changed"):
        cb.reset("ada")
    assert everything(redis_client) == before


def test_promise_2_a_second_trip_is_kept_beside_the_first(cb: Any, redis_client: Any) -> None:
    first = cb.trip("DRAWDOWN", {"percent": Decimal("5.10")}, tripped_by="rule")
    second = cb.trip("MANUAL", {"operator": "ada"})
    assert (second.trip_reason, second.tripped_by, second.trip_details) == ("DRAWDOWN", "rule", {"percent": "5.10"})
    assert second.tripped_at == first.tripped_at < second.last_trip_at
    assert second.incident_id == first.incident_id
    assert (first.trip_count_today, second.trip_count_today) == (1, 2)
    assert second.epoch == first.epoch + 1
    assert [(e.reason, e.from_state, e.by) for e in cb.get_history()] == [
        ("MANUAL", "TRIPPED", "ada"),
        ("DRAWDOWN", "MISSING", "rule"),
    ]
    assert outbox(redis_client) == cb.get_history()[::-1]


def test_promise_2_a_trip_ends_a_quiet_period_and_stays_in_its_incident(cb: Any) -> None:
    first = cb.trip("MANUAL")
    cb.reset("ada")
    again = cb.trip("AGAIN")
    assert again.state is State.TRIPPED
    assert again.trip_reason == "AGAIN"
    assert again.incident_id == first.incident_id
    assert again.quiet_until is None


def test_promise_2_no_end_of_a_quiet_period_undoes_a_later_trip(cb: Any, redis_client: Any) -> None:
    cb.trip("MANUAL")
    watched = cb.reset("ada")
    cb.trip("AGAIN")
    before = everything(redis_client)
    with pytest.raises(StateConflict, match="Somebody else"):
        cb.end_quiet_period(expected_epoch=watched.epoch)
    assert everything(redis_client) == before
    assert cb.get_state() is State.TRIPPED


def test_promise_2_a_quiet_period_running_out_after_a_trip_changes_nothing(
    make_breaker: Any, redis_server: EmbeddedRedis, redis_client: Any
) -> None:
    cb = make_breaker(redis_server.url, quiet_period=0.05)
    cb.trip("MANUAL")
    quiet_until = cb.reset("ada").quiet_until
    cb.trip("AGAIN")
    eventually(lambda: cb.get_status().as_of > quiet_until)
    assert cb.get_state() is State.TRIPPED


# --- Promise 4: state, history and outbox agree ---


@pytest.mark.parametrize("key", [KEYS.history, KEYS.outbox, KEYS.event_ids])
def test_promise_4_a_transition_that_cannot_be_recorded_does_not_happen(cb: Any, redis_client: Any, key: str) -> None:
    cb.trip("MANUAL")
    redis_client.delete(key)
    redis_client.set(key, "mine")
    before = everything(redis_client)
    for transition in (
        lambda: cb.reset("ada"),
        cb.initialize_state,
        lambda: cb.end_quiet_period(expected_epoch=1),
    ):
        with pytest.raises(StateConflict, match=rf"{key} holds a string.*RENAME {key}"):
            transition()
    assert everything(redis_client) == before


def test_promise_4_missing_permissions_stop_a_transition_before_its_first_write(
    make_breaker: Any, own_server: EmbeddedRedis
) -> None:
    admin: Any = redis.Redis.from_url(own_server.url)
    admin.execute_command("ACL", "SETUSER", "half", "on", ">secret", "~*", "+@all", "-xadd")
    cb = make_breaker(f"redis://half:secret@127.0.0.1:{own_server.port}/0")
    with pytest.raises(RedisRefused, match="XADD circuit_breaker:outbox") as refusal:
        cb.trip("MANUAL")
    assert "secret" not in str(refusal.value)
    assert admin.keys() == []
    admin.close()


def test_promise_4_every_transition_is_in_history_and_outbox(cb: Any, redis_client: Any) -> None:
    cb.initialize_state(by="ada")
    cb.trip("MANUAL", {"operator": "bob"}, ip_address="::1")
    quiet = cb.reset("cy", "all is well again, resuming")
    ended = cb.end_quiet_period(expected_epoch=quiet.epoch, by="watch")
    assert ended.state is State.OPEN
    events = cb.get_history(100)[::-1]
    assert [(e.transition, e.from_state, e.to_state, e.by) for e in events] == [
        ("INITIALIZE", "MISSING", "OPEN", "ada"),
        ("TRIP", "OPEN", "TRIPPED", "bob"),
        ("RESET", "TRIPPED", "QUIET_PERIOD", "cy"),
        ("QUIET_PERIOD_END", "QUIET_PERIOD", "OPEN", "watch"),
    ]
    assert [e.epoch for e in events] == list(range(events[0].epoch, events[0].epoch + 4))
    assert (events[1].ip_address, events[1].details, events[2].reason) == (
        "::1", {"operator": "bob"}, "all is well again, resuming",
    )  # fmt: skip
    assert [e.incident_id for e in events] == [None, *[ended.incident_id] * 3]
    assert outbox(redis_client) == events
    scores = [score for _, score in redis_client.zrange(KEYS.history, 0, -1, withscores=True)]
    assert scores == pytest.approx([e.at.timestamp() for e in events], abs=1e-5)


def test_an_event_is_written_in_the_agreed_order_of_fields(cb: Any, redis_client: Any) -> None:
    cb.trip(
        'quo"te/é',
        {"empty": [], "big": 12345678901234567890, "at": datetime(2026, 1, 2, tzinfo=UTC), "id": UUID(int=1)},
    )
    [member] = redis_client.zrange(KEYS.history, 0, -1)
    assert list(json.loads(member)) == [
        "event_id", "transition", "scope", "from_state", "to_state", "at", "by", "reason", "details", "source",
        "ip_address", "incident_id", "epoch",
    ]  # fmt: skip
    assert json.loads(member)["reason"] == 'quo"te/é'
    details = {"empty": [], "big": 12345678901234567890, "at": "2026-01-02T00:00:00Z", "id": str(UUID(int=1))}
    assert json.loads(member)["details"] == stored(redis_client)["trip_details"] == details
    cb.reset("ada")
    assert stored(redis_client)["trip_details"] == details


def test_history_keeps_the_newest_thousand_and_the_outbox_all(cb: Any, redis_client: Any) -> None:
    for _ in range(1_010):
        last = cb.trip("MANUAL")
    events = cb.get_history(1_000)
    assert [e.epoch for e in events] == list(range(last.epoch, last.epoch - 1_000, -1))
    assert redis_client.zcard(KEYS.history) == 1_000
    assert redis_client.xlen(KEYS.outbox) == 1_010


def foreign_members(event: bytes) -> dict[bytes, str]:
    """What is no transition, and what about it makes no sense."""
    fields = json.loads(event)
    changed = {
        "it is no JSON": b"mine",
        "it is no text": b"\xff\xfe",
        "RecursionError": b"[" * 100_000,
        "it has no 'event_id'": b"{}",
        "TypeError": b"[]",
        "'at' is no time": json.dumps(fields | {"at": "yesterday"}).encode(),
        "'JUMP'": json.dumps(fields | {"transition": "JUMP"}).encode(),
        "7 is no text": json.dumps(fields | {"incident_id": 7}).encode(),
        "OverflowError": json.dumps(fields | {"epoch": float("inf")}).encode(),
        "no text": json.dumps(fields | {"by": "\ud800"}).encode(),
    }
    return {member: problem for problem, member in changed.items()}


def test_a_foreign_member_hides_no_transition_of_the_history_and_is_named(cb: Any, redis_client: Any) -> None:
    cb.initialize_state()
    tripped = cb.trip("MANUAL")
    told = cb.get_history()
    foreign = foreign_members(redis_client.zrevrange(KEYS.history, 0, 0)[0])
    redis_client.zadd(KEYS.history, {member: 4e9 - number for number, member in enumerate(foreign)})
    history = cb.get_history(100)
    assert history == told and [event.epoch for event in history] == [tripped.epoch, tripped.epoch - 1]
    for bad, problem in zip(history.unreadable, foreign.values(), strict=True):
        assert problem in bad.problem and len(bad.member) <= 120
        assert "\n" not in str(bad)
    assert cb.trip("MANUAL").epoch == tripped.epoch + 1, "nor do they stop the next transition"


def test_a_history_that_is_no_sorted_set_says_so(cb: Any, redis_client: Any) -> None:
    redis_client.set(KEYS.history, "x")
    with pytest.raises(StateConflict, match="not a sorted set"):
        cb.get_history()


# --- Event ids ---


def test_a_repeated_event_id_changes_nothing_and_tells_the_present_state(cb: Any, redis_client: Any) -> None:
    trip_id, reset_id = uuid7(), uuid7()
    cb.trip("MANUAL", event_id=trip_id)
    cb.reset("ada", event_id=reset_id)
    before = everything(redis_client)
    assert cb.trip("MANUAL", event_id=trip_id).state is State.QUIET_PERIOD
    assert cb.reset("ada", event_id=reset_id.upper()).state is State.QUIET_PERIOD
    assert everything(redis_client) == before


def test_an_event_id_of_another_transition_is_refused(cb: Any, redis_client: Any) -> None:
    event_id = uuid7()
    cb.trip("MANUAL", event_id=event_id)
    before = everything(redis_client)
    with pytest.raises(InvalidInput, match="another transition"):
        cb.reset("ada", event_id=event_id)
    assert everything(redis_client) == before


def test_event_ids_are_forgotten_after_an_hour_and_beyond_ten_thousand(cb: Any, redis_client: Any) -> None:
    now = time.time()
    redis_client.zadd(KEYS.event_ids, {f"TRIP old-{i}": now - 3_700 for i in range(5)})
    redis_client.zadd(KEYS.event_ids, {f"TRIP new-{i}": now for i in range(10_000)})
    cb.trip("MANUAL")
    assert redis_client.zcard(KEYS.event_ids) == 10_000
    assert redis_client.zscore(KEYS.event_ids, "TRIP old-1") is None


# --- Reset, its limit and the quiet period ---


@pytest.mark.parametrize("before", ["missing", "open", "quiet period", "quiet period over", "garbage"])
def test_only_a_tripped_breaker_can_be_reset(cb: Any, redis_client: Any, before: str) -> None:
    if STATES[before] is not None:
        redis_client.set(KEYS.state, json.dumps(STATES[before]) if isinstance(STATES[before], dict) else STATES[before])
    kept = everything(redis_client)
    with pytest.raises(NotTripped, match="Not TRIPPED"):
        cb.reset("ada")
    assert everything(redis_client) == kept


def test_only_successful_resets_use_up_the_limit_which_is_one_for_all_scopes(
    make_breaker: Any, redis_server: EmbeddedRedis, redis_client: Any
) -> None:
    cb = make_breaker(redis_server.url)
    other = make_breaker(redis_server.url, scope="account:ALPHA")
    cb.initialize_state()
    with pytest.raises(NotTripped):
        cb.reset("ada")
    tripped = cb.trip("MANUAL")
    with pytest.raises(StateConflict):
        cb.reset("ada", expected_epoch=tripped.epoch + 1)
    assert redis_client.exists(KEYS.reset_rate_limit) == 0
    cb.reset("ada", expected_epoch=tripped.epoch, expected_incident_id=tripped.incident_id)
    assert 0 < redis_client.pttl(KEYS.reset_rate_limit) <= 60_000

    cb.trip("AGAIN")
    other.trip("MANUAL")
    before = everything(redis_client)
    for limited in (cb, other):
        with pytest.raises(ResetRateLimited, match="Rate limit exceeded") as refusal:
            limited.reset("ada")
        assert 0 < refusal.value.retry_after <= 60
    assert everything(redis_client) == before
    redis_client.delete(KEYS.reset_rate_limit)
    assert other.reset("ada").state is State.QUIET_PERIOD


def test_a_limit_set_by_hand_holds_until_it_is_deleted(
    make_breaker: Any, redis_server: EmbeddedRedis, redis_client: Any
) -> None:
    cb = make_breaker(redis_server.url)
    cb.trip("MANUAL")
    redis_client.hset(KEYS.reset_rate_limit, "by", "hand")
    with pytest.raises(ResetRateLimited, match="DEL circuit_breaker:reset_rate_limit"):
        cb.reset("ada")


def test_a_reset_of_another_incident_is_refused(cb: Any, redis_client: Any) -> None:
    cb.trip("MANUAL")
    before = everything(redis_client)
    with pytest.raises(StateConflict, match="Another incident"):
        cb.reset("ada", expected_incident_id=uuid7())
    assert everything(redis_client) == before


def test_the_quiet_period_is_told_truly_during_and_after_it(
    make_breaker: Any, redis_server: EmbeddedRedis, redis_client: Any
) -> None:
    cb = make_breaker(redis_server.url, quiet_period=0.3)
    cb.trip("MANUAL")
    reset = cb.reset("ada", "all is well")
    assert reset.state is State.QUIET_PERIOD
    assert reset.quiet_until - reset.reset_at == timedelta(seconds=0.3)
    written = redis_client.get(KEYS.state)
    while True:
        status = cb.get_status()
        assert status.state is (State.QUIET_PERIOD if status.as_of < reset.quiet_until else State.OPEN)
        if status.state is State.OPEN:
            break
    assert status["state"] == "OPEN"
    assert (status.reset_by, status.reset_reason, status.epoch) == ("ada", "all is well", reset.epoch)
    assert redis_client.get(KEYS.state) == written, "reading never writes"

    incident = status.incident_id
    tripped = cb.trip("LATER")
    assert tripped.incident_id != incident
    assert cb.get_history(1)[0].from_state == "OPEN"


def test_promise_9_a_quiet_period_that_its_watch_ends_goes_on_past_its_time_while_nobody_watches(
    make_breaker: Any, redis_server: EmbeddedRedis, redis_client: Any
) -> None:
    cb = make_breaker(redis_server.url, quiet_period=0.05)
    incident = cb.trip("MANUAL").incident_id
    reset = cb.reset("ada", ends_watched=True)
    assert reset.ends_watched
    eventually(lambda: cb.get_status().as_of > reset.quiet_until)
    assert cb.get_state() is State.QUIET_PERIOD
    assert cb.initialize_state().state is State.QUIET_PERIOD
    again = cb.trip("AGAIN")
    assert (again.incident_id, again.ends_watched) == (incident, False)
    assert "ends_watched" not in stored(redis_client)


def test_promise_9_only_a_whole_watch_that_is_alive_ends_it(
    make_breaker: Any, redis_server: EmbeddedRedis, redis_client: Any
) -> None:
    cb = make_breaker(redis_server.url, quiet_period=60)
    cb.trip("MANUAL")
    epoch = cb.reset("ada", ends_watched=True).epoch
    watching = Watching("circuit_breaker:reset_watch", "a", silent=5, lasting=300)
    seconds, _ = redis_client.time()
    now = 1000 * seconds

    def end(**changed: Any) -> str:
        watch = {"epoch": epoch, "holder": "a", "began": now - 60_000, "seen": now + 60_000, "ended": "", **changed}
        redis_client.hset(watching.key, mapping=watch)
        before = everything(redis_client)
        with pytest.raises(QuietPeriodUnwatched) as refused:
            cb.end_quiet_period(expected_epoch=epoch, watch=watching)
        assert everything(redis_client) == before
        return str(refused.value)

    assert "nobody has watched it" in _refused(lambda: cb.end_quiet_period(expected_epoch=epoch))
    assert "no sign of life" in end(seen=now - 6_000)
    assert "is not over" in end(began=now - 30_000)
    assert "somebody else" in end(holder="b")
    assert "somebody else" in end(epoch=epoch - 1)
    assert "somebody else" in end(began="soon")
    redis_client.hset(watching.key, mapping={"holder": "a", "epoch": epoch, "began": now - 60_000})
    ended = cb.end_quiet_period(expected_epoch=epoch, watch=watching)
    assert (ended.state, ended.epoch, ended.ends_watched) == (State.OPEN, epoch + 1, False)


def _refused(act: Any) -> str:
    with pytest.raises(QuietPeriodUnwatched) as refused:
        act()
    return str(refused.value)


def test_without_a_quiet_period_a_reset_opens_at_once(
    make_breaker: Any, redis_server: EmbeddedRedis, redis_client: Any
) -> None:
    cb = make_breaker(redis_server.url, quiet_period=0)
    cb.trip("MANUAL")
    status = cb.reset("ada")
    assert status.state is State.OPEN
    assert status.quiet_until is None
    assert cb.get_history(1)[0].to_state == "OPEN"


def test_a_quiet_period_ends_only_once_and_only_where_there_is_one(cb: Any) -> None:
    opened = cb.initialize_state()
    with pytest.raises(StateConflict, match="no quiet period"):
        cb.end_quiet_period(expected_epoch=opened.epoch)
    cb.trip("MANUAL")
    quiet = cb.reset("ada")
    event_id = uuid7()
    assert cb.end_quiet_period(expected_epoch=quiet.epoch, event_id=event_id).state is State.OPEN
    assert cb.end_quiet_period(expected_epoch=quiet.epoch, event_id=event_id).state is State.OPEN
    with pytest.raises(StateConflict, match="meanwhile"):
        cb.end_quiet_period(expected_epoch=quiet.epoch)


# --- Initialisation ---


@pytest.mark.parametrize(
    ("before", "plain", "forced"),
    [
        ("missing", "OPEN", "OPEN"),
        ("open", "unchanged", "OPEN"),
        ("tripped", "unchanged", StateConflict),
        ("quiet period", "unchanged", StateConflict),
        ("quiet period over", "unchanged", "OPEN"),
        ("garbage", StateConflict, "OPEN"),
        ("unknown word", StateConflict, "OPEN"),
        ("quiet period without an end", StateConflict, "OPEN"),
    ],
)
@pytest.mark.parametrize("force", [False, True])
def test_initialising(cb: Any, redis_client: Any, before: str, plain: Any, forced: Any, force: bool) -> None:
    if STATES[before] is not None:
        redis_client.set(KEYS.state, json.dumps(STATES[before]) if isinstance(STATES[before], dict) else STATES[before])
    kept = everything(redis_client)
    expected = forced if force else plain
    if expected is StateConflict:
        with pytest.raises(StateConflict, match="Nothing was changed"):
            cb.initialize_state(force=force)
    else:
        status = cb.initialize_state(force=force)
        if expected == "OPEN":
            assert stored(redis_client) == {"state": "OPEN", "epoch": status.epoch}
            assert [e.transition for e in cb.get_history()] == ["INITIALIZE"]
            return
    assert everything(redis_client) == kept


# --- Epochs ---


def test_a_flushed_breaker_never_counts_through_the_same_epochs_again(cb: Any, redis_client: Any) -> None:
    cb.initialize_state()
    for _ in range(5):
        last = cb.trip("MANUAL")
    redis_client.flushall()
    eventually(lambda: time.time_ns() // 1_000_000 > last.epoch)
    assert cb.initialize_state().epoch > last.epoch
    assert not cb.is_tripped()


def test_the_first_epoch_is_unix_time_in_milliseconds(cb: Any) -> None:
    before = time.time_ns() // 1_000_000
    assert before <= cb.initialize_state().epoch <= time.time_ns() // 1_000_000


def test_an_epoch_follows_history_when_the_state_has_none(cb: Any, redis_client: Any) -> None:
    last = cb.trip("MANUAL")
    hand_written(redis_client, state="OPEN")
    assert cb.trip("AGAIN").epoch == last.epoch + 1
    hand_written(redis_client, state="OPEN", epoch=3)
    assert cb.trip("AGAIN").epoch == last.epoch + 2
    redis_client.delete(KEYS.state, KEYS.history)
    assert cb.initialize_state().epoch == last.epoch + 3


def test_forced_initialisation_moves_a_small_epoch_to_the_present(cb: Any, redis_client: Any) -> None:
    hand_written(redis_client, state="OPEN", epoch=3)
    assert cb.initialize_state(force=True).epoch >= time.time_ns() // 1_000_000 - 60_000


# --- States written by hand ---


def test_unknown_fields_are_kept_byte_for_byte(cb: Any, redis_client: Any) -> None:
    redis_client.set(KEYS.state, '{"desk": {"a/b": [], "n": 12345678901234567890}, "state":"OPEN", "é\\n": 1.0}')
    cb.trip("MANUAL")
    quiet = cb.reset("ada")
    cb.end_quiet_period(expected_epoch=quiet.epoch)
    text = redis_client.get(KEYS.state).decode()
    assert '"desk": {"a/b": [], "n": 12345678901234567890}' in text
    assert cb.get_status()["é\n"] == 1.0


def test_a_trip_written_by_hand_is_kept_as_the_first_one(cb: Any, redis_client: Any) -> None:
    hand_written(redis_client, state="TRIPPED", trip_reason="EMERGENCY_MANUAL")
    status = cb.trip("LATER", {"operator": "ada"})
    assert status.trip_reason == "EMERGENCY_MANUAL"
    assert status.tripped_by is None, "whoever tripped later did not trip first"
    assert status.incident_id is not None


def test_a_bare_trip_written_by_hand_takes_its_reason_from_the_next(cb: Any, redis_client: Any) -> None:
    hand_written(redis_client, state="TRIPPED")
    assert cb.trip("LATER").trip_reason == "LATER"


def test_an_odd_incident_id_is_replaced_rather_than_spread(cb: Any, redis_client: Any) -> None:
    hand_written(redis_client, state="TRIPPED", incident_id={"a": 1})
    assert UUID(cb.trip("LATER").incident_id)


@pytest.mark.parametrize(("last", "count"), [(0, 8), (-86_400 * 2, 1)])
def test_trips_are_counted_within_the_utc_day(cb: Any, redis_client: Any, last: float, count: int) -> None:
    hand_written(redis_client, state="OPEN", last_trip_at=from_now(last), trip_count_today=7)
    assert cb.trip("MANUAL").trip_count_today == count


# --- Scopes, scripts, connections ---


def test_scopes_are_apart(make_breaker: Any, redis_server: EmbeddedRedis, redis_client: Any) -> None:
    plain = make_breaker(redis_server.url)
    account = make_breaker(redis_server.url, scope="account:ALPHA", source="console")
    plain.initialize_state()
    account.trip("MANUAL")
    assert plain.get_state() is State.OPEN
    assert account.get_state() is State.TRIPPED
    assert stored(redis_client, "circuit_breaker:state:account:ALPHA")["state"] == "TRIPPED"
    [event] = outbox(redis_client, "circuit_breaker:outbox:account:ALPHA")
    assert (event.scope, event.source) == ("account:ALPHA", "console")


def test_scripts_forgotten_by_the_server_are_brought_again(cb: Any, redis_client: Any) -> None:
    cb.initialize_state()
    redis_client.script_flush()
    assert cb.trip("MANUAL").state is State.TRIPPED
    redis_client.script_flush()
    assert cb.reset("ada").state is State.QUIET_PERIOD
    assert len(cb.get_history()) == 3


def test_a_breaker_can_be_used_again_after_close(cb: Any) -> None:
    cb.initialize_state()
    cb.close()
    assert cb.get_state() is State.OPEN
