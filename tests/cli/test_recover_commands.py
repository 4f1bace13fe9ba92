"""`breaker recover` on a recovery that waits for a person."""

from __future__ import annotations

import redis

from breaker.uuid7 import uuid7
from tasks.recovery.evidence_store import evidence_key
from tasks.recovery.state import RecoveryState, state_key
from tests.cli.conftest import RunCli


def test_the_evidence_can_be_read_before_the_root_cause_is_written(
    configured: redis.Redis, breaker_cli: RunCli
) -> None:
    nothing = breaker_cli("recover", "evidence")
    assert (nothing.returncode, nothing.stdout) == (1, "") and "no recovery of global" in nothing.stderr
    incident = uuid7()
    state = RecoveryState(incident, "global", "a run", waiting_for="root-cause")
    configured.set(state_key("global"), state.to_json())
    configured.set(evidence_key(incident), "### Trip\n\nby ada \x1b[2J")
    assert "breaker recover evidence" in breaker_cli("recover").stdout
    for asked in (breaker_cli("recover", "evidence"), breaker_cli("recover", "evidence", "--incident", incident)):
        assert (asked.returncode, asked.stdout) == (0, "### Trip\n\nby ada \ufffd[2J\n"), asked.stderr
    other = breaker_cli("recover", "evidence", "--incident", uuid7())
    assert other.returncode == 1 and "is kept" in other.stderr
