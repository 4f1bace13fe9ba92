"""Whether the next measurement of equity trips again is told before anybody resets, with the figures."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from breaker.limits import Limits, Rule
from tasks.checks.equity import Equity, equity_of, least_within, trips_again

DAY = 86_400_000_000
NOW = 20_000 * DAY + 1_000_000
STORED = {"equity": "94000", "high_water": "100000", "measured_at": str(NOW), "day": "20000", "day_start": "96000"}
HELD = equity_of(STORED, NOW)


def told(limits: Limits, held: Equity | None = HELD) -> str:
    assert held is not None
    return trips_again(held, limits)


def test_the_sentence_has_the_figures_and_both_ways_out() -> None:
    assert told(Limits()) == (
        "equity 94000 is 6.00% below the high-water mark 100000 (limit 5.0%): the next measurement below 95000 trips "
        "again, unless the high-water mark begins anew (re-base)"
    )


def test_a_daily_loss_is_told_too_and_the_higher_of_both_is_what_lifts_them() -> None:
    sentence = told(Limits(daily_loss=Decimal("0.005")))
    assert "6.00% below the high-water mark 100000" in sentence
    assert "2.08% below the day's first 96000 (limit 0.5%): the next measurement below 95520 trips" in sentence


@pytest.mark.parametrize(
    "limits",
    [Limits(drawdown=None), Limits(drawdown=Decimal("0.06")), Limits(dry_run=frozenset({Rule.DRAWDOWN}))],
    ids=["off", "exactly at the limit", "dry run"],
)
def test_nothing_is_told_where_the_rule_would_not_trip(limits: Limits) -> None:
    assert told(limits) == ""


def test_the_first_of_an_earlier_day_is_not_that_of_today() -> None:
    held = equity_of(STORED, NOW + DAY)
    assert told(Limits(drawdown=None, daily_loss=Decimal("0.01")), held) == ""
    assert told(Limits(drawdown=None, daily_loss=Decimal("0.01"))) != ""


@given(st.decimals("0.01", "1e9", places=2), st.decimals("0.01", "0.99", places=4))
def test_what_lifts_it_is_within_the_limit_and_a_cent_less_is_not(reference: Decimal, limit: Decimal) -> None:
    enough = least_within(reference, limit)
    assert (reference - enough) <= limit * reference
    assert (reference - (enough - Decimal("0.01"))) > limit * reference


@pytest.mark.parametrize("wrong", [{"equity": "x"}, {"high_water": "0"}, {"high_water": "nan"}, {"day_start": "inf"}])
def test_what_is_no_equity_is_not_judged(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="no equity"):
        equity_of({**STORED, **wrong}, NOW)
    assert equity_of({}, NOW) is None


def test_equity_in_another_currency_is_told_and_not_compared() -> None:
    held = equity_of({**STORED, "currency": "USD", "in_other_currency": f"{NOW} 86000 EUR"}, NOW)
    assert told(Limits(), held) == (
        "equity is 86000 EUR by now and the high-water mark in USD, so neither is compared and no drawdown trips, "
        "unless the high-water mark begins anew (re-base)"
    )


def test_an_account_that_has_lost_everything_trips_again_and_one_that_was_emptied_does_not() -> None:
    lost = equity_of({**STORED, "equity": "-5"}, NOW)
    assert lost is not None and lost.drawdown > 1
    assert "nothing at which the high-water mark could begin anew" in trips_again(lost, Limits())
    never = equity_of({**STORED, "equity": "0", "high_water": ""}, NOW)
    assert never is not None and never.is_unfunded and trips_again(never, Limits()) == ""
    debts = equity_of({**STORED, "equity": "-1", "high_water": ""}, NOW)
    assert debts is not None and debts.drawdown == 1 and not debts.is_unfunded
    emptied = equity_of({**STORED, "equity": "0", "high_water": "0", "day_start": "0"}, NOW)
    assert emptied is not None and trips_again(emptied, Limits()) == ""
