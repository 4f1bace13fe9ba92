"""`breaker backup` and `breaker restore`, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path

import redis

from tests.cli.conftest import RunCli


def test_a_backup_is_made_checked_and_refused_over_what_is_live(
    configured: redis.Redis, breaker_cli: RunCli, environment: dict[str, str], tmp_path: Path
) -> None:
    environment["BREAKER_LEDGER_KEY"] = "correct horse battery staple"
    assert breaker_cli("init").returncode == 0
    made = breaker_cli("backup", str(tmp_path))
    assert made.returncode == 0, made.stderr
    path = Path(made.stdout.splitlines()[0])
    assert "the console's key is not in it" in made.stdout and "environment" in made.stderr
    assert breaker_cli("backup", str(path)).returncode == 1, "never over one that there is"

    checked = breaker_cli("restore", "--check", str(path))
    assert checked.returncode == 0, checked.stderr
    assert (
        "sound" in checked.stdout
        and "global: OPEN in the backup, the same now; restored it is TRIPPED" in checked.stdout
    )
    found = json.loads(breaker_cli("restore", "--check", "--json", str(path)).stdout)
    assert found["sound"] and found["ledger"]["relation"] == "live is newer"
    assert len(found["in_the_way"]) == 2, "the ledger and Redis"

    environment["BREAKER_LEDGER_KEY"] = "another key"
    other_key = breaker_cli("restore", "--check", str(path))
    assert other_key.returncode == 1 and "made with another key" in other_key.stdout
    environment["BREAKER_LEDGER_KEY"] = "correct horse battery staple"

    before = configured.get("circuit_breaker:state")
    refused = breaker_cli("restore", str(path))
    assert refused.returncode == 1 and "nothing was changed" in refused.stderr
    assert configured.get("circuit_breaker:state") == before
    said = made.stdout + checked.stdout + refused.stderr
    assert "horse" not in said and "Traceback" not in said
