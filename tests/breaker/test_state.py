"""What a stored state means, decided without Redis."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from breaker.errors import InvalidInput
from breaker.events import TransitionEvent
from breaker.keys import Keys
from breaker.state import State, Status, parse_time, read_status, reject_older
from breaker.uuid7 import uuid7

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
QUIET = {"state": "QUIET_PERIOD", "quiet_until": "2026-11-24T12:05:00Z"}


def micros(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def read(fields: Any, now: datetime = NOON) -> Status:
    return read_status(json.dumps(fields).encode(), micros(now))


@pytest.mark.parametrize(
    "raw",
    [None, b"", b"garbage", b"{}", b"[]", b"null", b'"OPEN"', b"\xff\xfe", b'{"state": null}', b'{"state": "open"}',
     b'{"state": ["OPEN"]}', b'{"state": "UNKNOWN"}', b'{"state": "QUIET_PERIOD"}', b'{"state": "OPEN"',
     b'{"state": "QUIET_PERIOD", "quiet_until": "soon"}', b'{"state": "QUIET_PERIOD", "quiet_until": 1}',
     b'{"state": "QUIET_PERIOD", "quiet_until": "2030-01-01T00:00:00"}', b"[" * 100_000,
     b'{"state": "QUIET_PERIOD", "quiet_until": "soon", "reset_at": "2026-11-24T12:00:00Z"}',
     b'{"state": "QUIET_PERIOD", "reset_at": "just now"}',
     b'{"state": "OPEN", "x": "\\ud800"}'],
)  # fmt: skip
def test_promise_1_what_is_no_state_is_closed_and_says_why(raw: bytes | None) -> None:
    status = read_status(raw, micros(NOON))
    assert status.state is State.UNKNOWN
    assert status.is_tripped
    assert status.problem and "breaker init" in status.problem and "\n" not in status.problem
    assert status["state"] == "UNKNOWN" and status["problem"] == status.problem
    assert status.as_of == NOON


@given(st.binary(max_size=200), st.integers(0, 2**50))
def test_promise_1_no_bytes_whatever_make_reading_raise(raw: bytes, now: int) -> None:
    assert read_status(raw, now).state in State


def test_promise_1_an_epoch_that_goes_back_is_closed() -> None:
    status = read({"state": "OPEN", "epoch": 7})
    assert reject_older(status, read(QUIET | {"epoch": 7})) is status
    assert reject_older(status, None) is status
    assert reject_older(status, read({"state": "OPEN", "epoch": 8})).state is State.UNKNOWN
    by_hand = read({"state": "OPEN"})
    assert reject_older(by_hand, status) is by_hand


def test_promise_1_an_epoch_that_was_a_trip_and_no_longer_is_is_closed() -> None:
    tripped = read({"state": "TRIPPED", "epoch": 7})
    for fields in ({"state": "OPEN", "epoch": 7}, QUIET | {"epoch": 7}):
        told = reject_older(read(fields), tripped)
        assert told.state is State.UNKNOWN
        assert told.problem and "was TRIPPED in epoch 7" in told.problem
    assert reject_older(read({"state": "OPEN", "epoch": 8}), tripped).state is State.OPEN
    assert reject_older(tripped, read({"state": "OPEN", "epoch": 7})) is tripped


@pytest.mark.parametrize(
    ("now", "state"),
    [
        (NOON - timedelta(microseconds=1), State.QUIET_PERIOD),
        (NOON, State.OPEN),
        (NOON + timedelta(days=1), State.OPEN),
    ],
)
def test_a_quiet_period_is_over_from_its_very_last_microsecond_on(now: datetime, state: State) -> None:
    status = read({"state": "QUIET_PERIOD", "quiet_until": "2026-11-24T12:00:00.000000Z"}, now)
    assert status.state is state
    assert status["state"] == state.value


@pytest.mark.parametrize(("mark", "state"), [(True, State.QUIET_PERIOD), (False, State.OPEN), ("yes", State.OPEN)])
def test_a_quiet_period_that_its_watch_ends_is_not_over_by_time(mark: object, state: State) -> None:
    fields = {"state": "QUIET_PERIOD", "quiet_until": "2026-11-24T12:00:00Z", "ends_watched": mark}
    status = read(fields, datetime(2026, 11, 24, 13, tzinfo=UTC))
    assert (status.state, status.ends_watched) == (state, mark is True)


@pytest.mark.parametrize("left_out", [{}, {"quiet_until": None}])
def test_a_quiet_period_that_does_not_say_its_end_lasts_five_minutes_from_its_reset(left_out: dict[str, Any]) -> None:
    fields = {"state": "QUIET_PERIOD", "reset_at": "2026-11-24T12:00:00Z", **left_out}
    ends = NOON + timedelta(minutes=5)
    running = read(fields, ends - timedelta(microseconds=1))
    assert (running.state, running.quiet_until) == (State.QUIET_PERIOD, ends)
    assert running["quiet_until"] == "2026-11-24T12:05:00Z"
    assert read(fields, ends).state is State.OPEN
    last = read(fields | {"reset_at": "9999-12-31T23:59:59Z"})
    assert last.state is State.QUIET_PERIOD and last.quiet_until is not None


def test_trips_are_counted_per_utc_day() -> None:
    fields = {"state": "OPEN", "last_trip_at": "2026-11-24T00:00:00Z", "trip_count_today": 3}
    assert read(fields, NOON).trip_count_today == 3
    assert read(fields, NOON + timedelta(days=1)).trip_count_today == 0
    assert read(fields, NOON + timedelta(days=1))["trip_count_today"] == 0
    assert "trip_count_today" not in read({"state": "OPEN"})


def test_a_status_is_a_mapping_without_absent_fields_that_json_can_hold() -> None:
    status = read(
        {"state": "TRIPPED", "tripped_at": "2026-11-24T11:00:00Z", "trip_reason": None, "epoch": 5, "mine": []}
    )
    assert status.get("trip_reason", "N/A") == "N/A"
    assert "trip_reason" not in status
    assert json.loads(json.dumps(dict(status))) == {
        "state": "TRIPPED", "tripped_at": "2026-11-24T11:00:00Z", "epoch": 5, "mine": [],
    }  # fmt: skip
    assert status.tripped_at == datetime(2026, 11, 24, 11, tzinfo=UTC)
    assert status.epoch == 5
    assert f"{status['state']}" == "TRIPPED"


def test_odd_types_in_a_hand_written_state_do_not_raise() -> None:
    status = read({"state": "TRIPPED", "tripped_at": "yesterday", "trip_reason": 7, "trip_details": [1], "epoch": "9",
                   "trip_count_today": True, "quiet_until": {}})  # fmt: skip
    assert (status.tripped_at, status.trip_reason, status.epoch, status.trip_count_today) == (None, None, None, 0)
    assert status.trip_details == {}
    assert status["tripped_at"] == "yesterday"


@given(
    st.datetimes(datetime(1970, 1, 2), datetime(9999, 12, 30)),  # noqa: DTZ001 (hypothesis wants them naive)
    st.integers(-1439, 1439),
)
def test_times_in_any_zone_are_understood(local: datetime, minutes: int) -> None:
    sign = "-" if minutes < 0 else "+"
    hours, rest = divmod(abs(minutes), 60)
    expected = micros(local.replace(tzinfo=UTC)) - minutes * 60_000_000
    assert parse_time(f"{local.isoformat(timespec='microseconds')}{sign}{hours:02d}:{rest:02d}") == expected


@pytest.mark.parametrize(
    "scope", ["", "global ", "a:b:c", ":a", "a:", "-a", "ä", "a b", "a\n", "x" * 65, "account:*", None, 7]
)
def test_a_bad_scope_is_refused(scope: Any) -> None:
    with pytest.raises(InvalidInput, match="nothing was changed"):
        Keys.of(scope)


def test_scopes_have_keys_of_their_own_but_share_the_reset_limit() -> None:
    plain, account = Keys.of(), Keys.of("account:ALPHA")
    assert plain.state == "circuit_breaker:state"
    assert account.state == "circuit_breaker:state:account:ALPHA"
    assert plain.reset_rate_limit == account.reset_rate_limit == "circuit_breaker:reset_rate_limit"


@pytest.mark.parametrize("text", ["", "{}", "[]", "7", '{"event_id": "x", "at": "never"}', "nonsense"])
def test_what_is_no_event_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="no transition event"):
        TransitionEvent.from_json(text)


def test_event_ids_are_unique_and_ordered_by_time() -> None:
    ids = [uuid7() for _ in range(1_000)]
    assert len(set(ids)) == 1_000
    assert [i[:13] for i in ids] == sorted(i[:13] for i in ids)
    assert all(i[14] == "7" and i[19] in "89ab" for i in ids)
