"""How a kill switch of many accounts is split, and when a share of it is taken over."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from tasks.kill.account import AccountProgress
from tasks.kill.share_watch import ShareElsewhere, starts_within, together, why_taken_over
from tasks.kill.shares import Share, split
from tasks.kill.status_feed import TAKEN_OVER_AFTER
from tests.records import kill_at_work

AT_WORK = kill_at_work(source="flow", host="beta.example")


def elsewhere(*, asked_at: float = 1.0) -> ShareElsewhere:
    return ShareElsewhere(Share(2, 2, ("B",), "1"), asked_at, {"B": AccountProgress("B", orders_at_start=50)})


@pytest.mark.parametrize(
    ("size", "shares"),
    [
        (None, [("A", "B", "C", "D", "E")]),
        (5, [("A", "B", "C", "D", "E")]),
        (9, [("A", "B", "C", "D", "E")]),
        (2, [("A", "B"), ("C", "D"), ("E",)]),
        (1, [("A",), ("B",), ("C",), ("D",), ("E",)]),
    ],
)
def test_every_account_is_in_one_share(size: int | None, shares: list[tuple[str, ...]]) -> None:
    found = split("ABCDE", size)
    assert [share.accounts for share in found] == shares
    assert [(share.number, share.of) for share in found] == [(at, len(shares)) for at in range(1, len(shares) + 1)]
    assert len({share.run_id for share in found}) == len(shares)


def test_no_account_is_no_share() -> None:
    assert split((), 3) == [] == split((), None)


def test_what_no_worker_begins_is_taken_over_when_its_time_is_up() -> None:
    share = elsewhere(asked_at=1.0)
    assert why_taken_over(share, 10.9, 10.9, 10.0) == ""
    assert why_taken_over(share, 11.0, 11.0, 10.0) == "no worker has begun it within 10 s"


def test_what_falls_silent_is_taken_over_and_what_goes_on_is_not() -> None:
    share = elsewhere()
    share.hear(replace(AT_WORK, silent_for=0.5), 20.0)
    assert why_taken_over(share, 19.5 + TAKEN_OVER_AFTER - 0.1, 22.0, 10.0) == ""
    assert why_taken_over(share, 19.5 + TAKEN_OVER_AFTER, 22.0, 10.0) == "nothing was heard of beta.example for 3 s"
    share.hear(replace(AT_WORK, elapsed=4.0), 23.0)
    assert why_taken_over(share, 24.0, 24.0, 10.0) == ""


def test_what_a_worker_has_begun_without_a_word_gets_as_long_for_its_first() -> None:
    share = elsewhere(asked_at=0.0)
    share.begun_by_somebody(10.0)
    assert why_taken_over(share, 10.0 + TAKEN_OVER_AFTER - 0.1, 12.0, 10.0) == ""
    assert why_taken_over(share, 10.0 + TAKEN_OVER_AFTER, 13.0, 10.0) != ""


def test_without_redis_nothing_can_be_heard_so_that_everything_is_taken_over() -> None:
    share = elsewhere(asked_at=1.0)
    assert why_taken_over(share, 4.0, 4.0 - TAKEN_OVER_AFTER, 10.0) == "Redis has not told of it for 3 s"
    share.hear(AT_WORK, 4.0)
    assert why_taken_over(share, 5.0, 5.0 - TAKEN_OVER_AFTER, 10.0) != ""


def test_what_broke_off_is_taken_over_at_once() -> None:
    share = elsewhere()
    share.hear(replace(AT_WORK, over=True, problem="It broke off (MemoryError)."), 4.0)
    assert why_taken_over(share, 4.0, 4.0, 10.0) == "it broke off on beta.example: It broke off (MemoryError)."


def test_an_account_is_shown_with_what_was_known_before_and_on_this_runs_clock() -> None:
    before = AccountProgress("B", orders_at_start=50, orders_open=50, canceled=40, note="slow", positions_at_start=None)
    starting = together(before, AccountProgress("B", phase="cancelling"), 3.0)
    assert (starting.phase, starting.orders_open, starting.canceled, starting.note) == ("cancelling", 50, 40, "slow")
    there = AccountProgress(
        "B",
        phase="flat",
        orders_at_start=10,
        orders_open=0,
        positions_at_start=20,
        notional_at_start=Decimal(7),
        positions_open=0,
        canceled=10,
        no_orders_after=0.5,
        flat_after=1.5,
        flat=True,
    )
    shown = together(before, there, 3.0)
    assert (shown.orders_at_start, shown.positions_at_start, shown.canceled) == (50, 20, 50)
    assert (shown.orders_open, shown.no_orders_after, shown.flat_after, shown.flat) == (0, 3.5, 4.5, True)


def test_a_share_began_when_its_first_sign_of_life_says() -> None:
    share = elsewhere(asked_at=1.0)
    flat = AccountProgress("B", flat=True, flat_after=2.0)
    share.hear(replace(AT_WORK, elapsed=1.0, silent_for=0.2), 6.2)
    share.hear(replace(AT_WORK, elapsed=4.0, accounts=(flat,)), 9.4)
    assert share.progress["B"].flat_after == pytest.approx(7.0)


@pytest.mark.parametrize(("left", "within"), [(290.0, 10.0), (12.0, 6.0), (-1.0, 0.0)])
def test_half_of_the_time_that_is_left_is_kept_for_what_no_worker_begins(left: float, within: float) -> None:
    assert starts_within(10.0, left) == within
