"""What several processes are told by one breaker under faults could have happened one at a time.

`make histories` makes thousands, which takes some minutes.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from breaker.requests import load_script
from proofs.models.history_client import Flaw
from proofs.models.history_run import Stage, Tally, judge

HISTORIES = int(os.environ.get("HISTORIES", "20"))
EVERYTHING = "HISTORIES" in os.environ
FIRST_SEED = int(os.environ.get("SEED", "0"))


@pytest.mark.timeout(120 + HISTORIES)
def test_promises_2_and_4_hold_for_concurrent_callers_under_faults(tmp_path: Path) -> None:
    tally = Tally()
    with Stage(tmp_path) as stage:
        for seed in range(FIRST_SEED, FIRST_SEED + HISTORIES):
            history = stage.history(seed)
            tally.add(history, *judge(history))
    print(tally)
    assert not tally.violations, tally.violations[0]
    assert tally.histories == HISTORIES
    assert len(tally.faults) > 4
    assert tally.unheard, "some calls lost their answer"


FLAWS = {
    "a retry is a trip of its own": Flaw(
        "if redis.call('ZSCORE', EVENT_IDS", "if false and redis.call('ZSCORE', EVENT_IDS"
    ),
    "a second trip is dropped": Flaw(
        "local epoch = next_epoch(state)\n  local at",
        "if state.word == 'TRIPPED' then return reply('DONE') end local epoch = next_epoch(state) local at",
    ),
    "a quiet period's end does not look at the epoch": Flaw("~= tonumber(ARGV[8]) then", "== 'never' then"),
    "a reset does not look at the epoch": Flaw("~= tonumber(ARGV[10]) then", "== 'never' then"),
    "a reset is not limited": Flaw("if redis.call('EXISTS', RATE_LIMIT) == 1 then", "if false then"),
    "a failed reset takes the token": Flaw(
        "if state.word ~= 'TRIPPED' then return",
        "if state.word ~= 'TRIPPED' then redis.call('SET', RATE_LIMIT, '', 'PX', ARGV[9] + 1) return",
    ),
    "a reset is not in the history": Flaw(
        "redis.call('ZADD', HISTORY", "local _ = transition ~= 'RESET' and redis.call('ZADD', HISTORY"
    ),
    "initialising overwrites a trip": Flaw(
        "if state.word == 'TRIPPED' or state.word == 'QUIET_PERIOD' then", "if false then"
    ),
}
QUICK = ("a retry is a trip of its own", "a second trip is dropped")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("flaw", FLAWS if EVERYTHING else QUICK)
def test_a_flaw_in_a_script_is_found(tmp_path: Path, flaw: str) -> None:
    broken = FLAWS[flaw]
    scripts = [load_script(name).text for name in ("trip", "reset", "end_quiet_period", "initialize")]
    assert any(broken.right in script for script in scripts), "the scripts no longer read like this"
    with Stage(tmp_path, broken) as stage:
        assert any(not judge(stage.history(seed))[0].is_linearizable for seed in range(200))
