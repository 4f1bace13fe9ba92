"""What the crash points' judge makes of the exchange's record of positions without stop and close."""

from __future__ import annotations

from proofs.crash_points.exposure import CLOSE_TAKES, Exposure, exposure
from tasks.kill.plan import LET_GO_AT_ONCE


def gap(symbol: str, begins: float, ends: float) -> dict[str, object]:
    return {"symbol": symbol, "from": begins, "to": ends}


def test_a_run_that_lived_is_measured_from_the_stop_to_the_close() -> None:
    seen = exposure([gap("AAPL", 1.0, 1.25), gap("MSFT", 1.0, 1.5)], None, 2.0)
    assert seen == Exposure(longest=0.5) and seen.faults() == []
    slow = exposure([gap("AAPL", 1.0, 1.1 + CLOSE_TAKES)], None, 2.0)
    assert "while the kill went on" in slow.faults()[0]


def test_of_a_death_in_between_counts_what_the_two_runs_took_and_not_the_time_in_which_nobody_was_there() -> None:
    seen = exposure([gap("AAPL", 1.0, 63.5)], 1.25, 63.25)
    assert (seen.longest, seen.left_behind, seen.longest_left) == (0.0, 1, 0.5)
    assert seen.faults() == []


def test_a_close_that_was_taken_back_and_more_positions_than_may_be_without_are_faults() -> None:
    again = exposure([gap("AAPL", 1.0, 1.1), gap("AAPL", 3.0, 3.1)], 2.0, 2.5)
    assert again.faults() == ["AAPL lost a close that was at work"]
    many = exposure([gap(f"S{number}", 1.0, 3.0) for number in range(LET_GO_AT_ONCE + 1)], 2.0, 2.5)
    assert many.faults() == [f"{LET_GO_AT_ONCE + 1} positions were without stop and close when it died"]
