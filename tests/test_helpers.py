"""Waiting and measuring as the tests do it: what never happens fails, and so does what is slow each time."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest

from tests import helpers
from tests.conftest import LONGEST
from tests.helpers import at_best, eventually, in_time, seconds_of


def test_the_first_true_answer_is_waited_for() -> None:
    answers = itertools.chain(["", 0, None], itertools.repeat("it"))
    assert eventually(lambda: next(answers), every=0) == "it"


def test_what_never_happens_fails_with_what_there_is_to_say_of_it() -> None:
    seen: list[int] = []

    def never() -> bool:
        seen.append(5)
        return False

    with pytest.raises(AssertionError, match=r"not within 0\.05 s: the last was 5$"):
        eventually(never, lambda: f"the last was {seen[-1]}", within=0.05)


def test_what_takes_longer_than_its_limit_and_a_busy_machine_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helpers, "BUSY", 0.0)
    with pytest.raises(AssertionError, match=r"was to end within 0\.01 s"), in_time(0.01):
        time.sleep(0.02)
    with in_time(60):
        pass


def test_one_quick_measurement_of_several_is_enough_and_none_is_not() -> None:
    measured = iter([9.0, 9.0, 0.1])
    at_best(lambda: next(measured), within=1)
    with pytest.raises(AssertionError, match=r"9\.000 s at best, in 3 attempts"):
        at_best(lambda: 9.0, within=1, attempts=3)
    assert seconds_of(lambda: time.sleep(0.01)) >= 0.01


def test_the_files_that_begin_first_are_there() -> None:
    root = Path(__file__).parents[1]
    assert [name for name in LONGEST if not (root / name).is_file()] == []
