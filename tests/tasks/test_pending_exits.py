"""What a kill switch leaves to be closed later: what counts, when it is tried again, and where it is kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from breaker.store_identity import IDENTITY_KEY, StoreIdentity
from brokers.coverage import coverage_of
from sandbox.embedded_redis import EmbeddedRedis
from tasks.checks.measurement import Colour
from tasks.checks.pending_exits import judge_overdue, judge_pending_exits
from tasks.kill.account import AccountProgress, StuckItem
from tasks.kill.pending_exit_store import AS_OF, KEY, PendingExitStore, Reading, rewrite
from tasks.kill.pending_exits import (
    LONGEST_WAIT,
    OPENED_FOR,
    WHOLE_ACCOUNT,
    AccountExits,
    PendingExit,
    begun,
    due_accounts,
    from_json,
    held_back,
    is_news,
    left_by,
    over,
    overdue,
    resumptions,
    to_json,
)

EVERYTHING = coverage_of("global", ["ALPHA"])
NOW = datetime(2026, 11, 24, 20, tzinfo=UTC)
OPENS = NOW + timedelta(hours=18)
MINUTE = timedelta(minutes=1)
HERE = StoreIdentity(address="localhost:6379/0", environment="production")


def stuck(symbol: str = "AAPL", quantity: str = "10", until: datetime | None = None, orders: int = 0) -> StuckItem:
    return StuckItem(symbol, Decimal(quantity), orders, "market closed" if until else "trading is halted", until)


def left(
    *items: StuckItem, before: tuple[PendingExit, ...] = (), now: datetime = NOW, flat: bool = False, note: str = ""
) -> tuple[PendingExit, ...]:
    progress = AccountProgress("ALPHA", phase="failed" if note else "flattening", stuck=items, flat=flat, note=note)
    return left_by(progress, before, incident_id="incident", coverage=EVERYTHING, now=now)


# --- What is pending, and when it is tried again ----------------------------------------------------------------------


def test_a_flat_account_leaves_nothing_and_dust_is_nothing() -> None:
    before = left(stuck())
    assert left(flat=True, before=before) == ()
    dusty = AccountProgress("ALPHA", dust=(stuck(quantity="0.000000005"),), flat=True)
    assert left_by(dusty, (), incident_id="i", coverage=EVERYTHING, now=NOW) == ()


def test_what_waits_for_the_open_is_tried_once_it_has_been_open_for_a_moment() -> None:
    (pending,) = left(stuck(until=OPENS))
    assert (pending.resume_at, pending.next_try) == (OPENS, OPENS + OPENED_FOR)
    assert not due_accounts([pending], OPENS)
    assert due_accounts([pending], OPENS + OPENED_FOR) == {"ALPHA"}


def test_where_nobody_knows_when_the_waits_double_from_one_minute_to_fifteen() -> None:
    waits, pending, now = [], left(stuck()), NOW
    for _ in range(7):
        waits.append((pending[0].next_try - now) / MINUTE)
        now = pending[0].next_try
        pending = left(stuck(), before=pending, now=now)
    assert waits == [1, 2, 4, 8, 15, 15, 15]
    assert pending[0].since == NOW, "it has been pending since the first time"


def test_a_session_that_did_not_open_when_it_should_have_is_asked_again_soon_and_not_at_once() -> None:
    pending = left(stuck(until=OPENS))
    (again,) = left(stuck(until=OPENS), before=pending, now=OPENS + OPENED_FOR)
    assert again.resume_at is None
    assert again.next_try == OPENS + OPENED_FOR + MINUTE


def test_an_account_of_which_nothing_is_known_keeps_what_was_pending_or_is_pending_as_a_whole() -> None:
    (unknown,) = left(note="ALPHA: the venue did not answer")
    assert (unknown.symbol, unknown.reason) == (WHOLE_ACCOUNT, "ALPHA: the venue did not answer")
    known = left(stuck(until=OPENS), stuck("MSFT", "-5"))
    kept = left(before=known, now=NOW + MINUTE, note="the venue did not answer")
    assert [(each.symbol, each.resume_at, each.tries) for each in kept] == [("AAPL", OPENS, 0), ("MSFT", None, 1)]


def test_an_order_that_could_not_be_cancelled_is_pending_too() -> None:
    (pending,) = left(stuck(quantity="0", orders=2))
    assert pending.symbol == "AAPL"


def test_what_begins_and_what_is_over() -> None:
    before = left(stuck(), stuck("MSFT"))
    after = left(stuck("MSFT"), stuck("TSLA"), before=before)
    assert [each.symbol for each in begun(before, after)] == ["TSLA"]
    assert [each.symbol for each in over(before, after)] == ["AAPL"]


def test_people_are_told_again_only_of_what_has_changed() -> None:
    before = left(stuck())
    assert not is_news(before, left(stuck(), before=before, now=NOW + MINUTE))
    assert is_news(before, left(stuck(quantity="4"), before=before))
    assert is_news(before, left(stuck(until=OPENS), before=before))
    assert is_news(before, ())


def test_a_run_resumes_the_exits_of_one_incident_and_one_breaker() -> None:
    (one,) = left(stuck())
    other = PendingExit("BETA", "AAPL", Decimal(1), "halted", "other", "account:BETA", NOW, NOW)
    found = resumptions([one, other])
    assert [(each.incident_id, each.scope, each.accounts) for each in found] == [
        ("incident", "global", ("ALPHA",)),
        ("other", "account:BETA", ("BETA",)),
    ]


def test_an_exit_that_was_held_back_is_due_later_and_says_why() -> None:
    (pending,) = left(stuck(until=OPENS))
    due = pending.next_try
    held = held_back(pending, "not resumed, as the breaker is OPEN", due)
    assert held.next_try == due + MINUTE and "breaker is OPEN" in str(held)
    assert overdue([pending], due + 6 * MINUTE) == [pending]
    assert overdue([held], due + 5 * MINUTE) == []


moments = st.timedeltas(timedelta(0), timedelta(days=365)).map(lambda since: NOW + since)
exits = st.builds(
    PendingExit,
    account=st.text(min_size=1),
    symbol=st.text(),
    quantity=st.decimals(allow_nan=False, allow_infinity=False),
    reason=st.text(),
    incident_id=st.text(),
    scope=st.text(),
    since=moments,
    tried_at=moments,
    resume_at=st.none() | moments,
    tries=st.integers(0, 10**6),
    held=st.text(),
)


@given(exits)
def test_it_comes_back_from_json_as_it_was(pending: PendingExit) -> None:
    assert from_json(to_json(pending)) == pending
    assert pending.resume_at or pending.next_try - pending.tried_at <= LONGEST_WAIT
    whole = AccountExits(pending.account, pending.tried_at, (pending,))
    assert AccountExits.from_json(whole.to_json()) == whole


# --- Where it is kept -------------------------------------------------------------------------------------------------


@pytest.fixture
def away() -> Iterator[redis.Redis]:
    """A Redis that nobody listens for."""
    with redis.Redis.from_url("redis://127.0.0.1:1/0", socket_connect_timeout=0.2) as client:
        yield client


def test_it_is_kept_in_redis_and_on_disk_and_either_is_enough(
    redis_client: redis.Redis, away: redis.Redis, tmp_path: Path
) -> None:
    pending = left(stuck(), stuck("BTC/USDT:USDT"))
    assert PendingExitStore(tmp_path / "exits", redis_client, HERE).write(AccountExits("ALPHA", NOW, pending)) == []
    assert set(redis_client.hkeys(KEY)) == {b"ALPHA:AAPL", b"ALPHA:BTC/USDT:USDT"}
    only_redis = PendingExitStore(tmp_path / "elsewhere", redis_client, HERE).read()
    only_disk = PendingExitStore(tmp_path / "exits", away, HERE).read()
    assert only_redis.exits == only_disk.exits == pending
    assert only_redis.problems == () and "in Redis can't be read" in only_disk.problems[0]


def test_the_newer_of_the_two_counts_and_the_other_learns_of_it(
    redis_client: redis.Redis, away: redis.Redis, tmp_path: Path
) -> None:
    both = PendingExitStore(tmp_path, redis_client, HERE)
    both.write(AccountExits("ALPHA", NOW, left(stuck())))
    # Closed while Redis was away: its entry is older than the disk's, which has none.
    problems = PendingExitStore(tmp_path, away, HERE).write(AccountExits("ALPHA", NOW + MINUTE, ()))
    assert "not kept in Redis" in problems[0]
    assert redis_client.hlen(KEY) == 1 and both.read() == Reading()
    both.reconcile()
    assert redis_client.hlen(KEY) == 0
    # And the other way round: another host left something, of which this disk knows nothing yet.
    PendingExitStore(tmp_path / "other host", redis_client, HERE).write(
        AccountExits("ALPHA", NOW + 2 * MINUTE, left(stuck()))
    )
    assert len(both.read().exits) == 1
    both.reconcile()
    assert len(PendingExitStore(tmp_path, away, HERE).read().exits) == 1


def test_what_is_older_never_replaces_what_is_newer(redis_client: redis.Redis, tmp_path: Path) -> None:
    store = PendingExitStore(tmp_path, redis_client, HERE)
    store.write(AccountExits("ALPHA", NOW + MINUTE, ()))
    store.write(AccountExits("ALPHA", NOW, left(stuck())))
    assert store.read() == Reading()


def test_what_a_clock_ahead_of_ours_wrote_is_replaced_all_the_same(redis_client: redis.Redis, tmp_path: Path) -> None:
    store = PendingExitStore(tmp_path, redis_client, HERE)
    ahead = datetime.now(UTC) + timedelta(hours=1)
    store.write(AccountExits("ALPHA", ahead, left(stuck(), now=ahead)))
    rewrite(store, ["ALPHA"], lambda _: None)
    assert store.read() == Reading()


def test_accounts_do_not_touch_each_other(redis_client: redis.Redis, tmp_path: Path) -> None:
    store = PendingExitStore(tmp_path, redis_client, HERE)
    other = PendingExit("ALPHA:B/2", "AAPL", Decimal(1), "halted", "i", "global", NOW, NOW)
    store.write(AccountExits("ALPHA:B/2", NOW, (other,)))
    store.write(AccountExits("ALPHA", NOW, left(stuck())))
    store.write(AccountExits("ALPHA", NOW + MINUTE, ()))
    assert store.read().exits == (other,)
    rewrite(store, ["ALPHA:B/2"], lambda _: None)
    assert store.read().exits == ()


def test_what_cannot_be_read_is_said_and_hides_nothing_else(redis_client: redis.Redis, tmp_path: Path) -> None:
    store = PendingExitStore(tmp_path, redis_client, HERE)
    store.write(AccountExits("ALPHA", NOW, left(stuck())))
    redis_client.hset(KEY, "ALPHA:MSFT", "nonsense")
    (tmp_path / "BETA.json").write_text("{")
    reading = store.read()
    assert [each.symbol for each in reading.exits] == ["AAPL"]
    assert "ALPHA:MSFT" in reading.problems[1] and "BETA.json" in reading.problems[0]
    assert judge_pending_exits(Reading((), reading.problems), ()).colour is Colour.RED
    store.write(AccountExits("ALPHA", NOW + MINUTE, ()))
    assert redis_client.hlen(KEY) == 0, "the account is flat, whatever somebody wrote there"


def test_exits_of_another_redis_or_environment_are_named_left_and_never_written_there(
    redis_client: redis.Redis, away: redis.Redis, tmp_path: Path
) -> None:
    """One state directory, two configurations, an account of the same name in both."""
    PendingExitStore(tmp_path, away, replace(HERE, environment="demo")).write(
        AccountExits("ALPHA", NOW, left(stuck("DEMO")))
    )
    ours = PendingExitStore(tmp_path, redis_client, HERE)
    ours.reconcile()
    reading = ours.read()
    assert reading.exits == () and redis_client.hlen(KEY) == 0
    assert len(reading.elsewhere) == 1 and "environment demo" in reading.elsewhere[0]
    assert judge_overdue(reading, NOW).colour is Colour.YELLOW
    ours.write(AccountExits("ALPHA", NOW + MINUTE, left(stuck())))
    ours.write(AccountExits("ALPHA", NOW + 2 * MINUTE, ()))
    theirs = PendingExitStore(tmp_path, away, replace(HERE, environment="demo")).read()
    assert [each.symbol for each in theirs.exits] == ["DEMO"], "ours replace nothing of theirs"


def test_exits_find_their_redis_again_by_its_id(redis_client: redis.Redis, away: redis.Redis, tmp_path: Path) -> None:
    redis_client.set(IDENTITY_KEY, replace(HERE, id="x").as_stored())
    PendingExitStore(tmp_path, away, replace(HERE, id="x")).write(AccountExits("ALPHA", NOW, left(stuck())))
    moved = PendingExitStore(tmp_path, redis_client, replace(HERE, address="elsewhere:6379/0"))
    assert len(moved.read().exits) == 1
    moved.write(AccountExits("ALPHA", NOW + MINUTE, ()))
    assert moved.read() == Reading() and len(list(tmp_path.iterdir())) == 1
    redis_client.set(IDENTITY_KEY, replace(HERE, id="y").as_stored())
    assert PendingExitStore(tmp_path, redis_client, HERE).read() == Reading()


def test_without_their_time_exits_in_redis_still_count(redis_client: redis.Redis, tmp_path: Path) -> None:
    store = PendingExitStore(tmp_path / "one", redis_client, HERE)
    store.write(AccountExits("ALPHA", NOW, left(stuck())))
    redis_client.delete(AS_OF)
    assert len(PendingExitStore(tmp_path / "other", redis_client, HERE).read().exits) == 1


def test_a_flushed_redis_forgets_nothing_that_this_host_knows(redis_client: redis.Redis, tmp_path: Path) -> None:
    store = PendingExitStore(tmp_path, redis_client, HERE)
    store.write(AccountExits("ALPHA", NOW, left(stuck())))
    redis_client.flushall()
    assert len(store.read().exits) == 1
    store.reconcile()
    assert redis_client.hlen(KEY) == 1


def test_many_writers_leave_one_whole_value(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path
) -> None:
    def write(number: int) -> None:
        with redis.Redis.from_url(redis_server.url) as client:
            values = tuple(stuck(f"S{number}-{n}") for n in range(5))
            as_of = NOW + number * timedelta(microseconds=1)
            PendingExitStore(tmp_path, client, HERE).write(AccountExits("ALPHA", as_of, left(*values)))

    writers = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert {each.symbol for each in PendingExitStore(tmp_path / "none", redis_client, HERE).read().exits} == {
        f"S7-{n}" for n in range(5)
    }
    assert len(PendingExitStore(tmp_path, redis_client, HERE).read().exits) == 5
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"], "nothing unfinished is left"


# --- What the checks say ----------------------------------------------------------------------------------------------


def test_the_verification_is_yellow_while_pending_and_red_when_nobody_is_at_it() -> None:
    pending = left(stuck(until=OPENS))
    assert judge_overdue(Reading(), NOW).colour is Colour.GREEN
    waiting = judge_overdue(Reading(pending), OPENS)
    assert waiting.colour is Colour.YELLOW and "ALPHA AAPL 10" in waiting.value
    late = judge_overdue(Reading(pending), OPENS + 6 * MINUTE)
    assert late.colour is Colour.RED and "breaker kill --resume" in late.problem


def test_a_reset_is_asked_about_what_is_pending_for_its_own_breaker() -> None:
    reading = Reading(left(stuck()))
    red = judge_pending_exits(reading, reading.of_scope("global"))
    assert red.colour is Colour.RED and red.value == "1 pending: ALPHA AAPL 10"
    assert judge_pending_exits(reading, reading.of_scope("account:BETA")).colour is Colour.GREEN
