"""The how-to pages of day two: each block of shell on them runs as printed, in its order, and does what is said."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis

from breaker import CircuitBreaker, State
from breaker.rules import Rules
from configuration.breakers import limits_from
from configuration.running import RunningConfiguration
from console.auth.signing import host_key
from ledger.ledger import Ledger
from ledger.record import AuditRecord
from ledger.schema import upgrade
from proofs.fork_server import ForkServer
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from tasks import running_services
from tasks.running_services import KEY, reported
from tests.docs.pages import ROOT, blocks
from tests.docs.shell import Host, breaker_command, shell_of, with_redis_cli
from tests.helpers import eventually

UNITS = {path.stem for path in (ROOT / "deployments" / "systemd").glob("*.service")} - {
    "breaker-services",
    "breaker-worker",
    "breaker-gateway@",
}
"""What one host runs. Two more take the place of breaker-serve with a work pool; engines want the third."""


@pytest.fixture
def host(
    tmp_path: Path, redis_server: EmbeddedRedis, redis_client: redis.Redis, fork_server: ForkServer
) -> Iterator[Host]:
    machine = Host(tmp_path, redis_server.url)
    with breaker_command(machine.breaker, fork_server):
        yield machine


def actions_of(host: Host) -> list[str]:
    with closing(sqlite3.connect(host.state / "audit.db")) as database:
        return [action for (action,) in database.execute("SELECT action FROM audit_log ORDER BY seq")]


def test_back_up_and_restore(host: Host, redis_server: EmbeddedRedis, redis_client: redis.Redis) -> None:
    with_redis_cli(host, redis_server)
    host.type("breaker init && breaker user add olga")
    (host.state / "incidents").mkdir()
    (host.state / "incidents" / "report.md").write_text("# It was the venue")
    backup, check, look, stop, empty, forget, tables, restore, start = shell_of("back-up.md")
    assert "3 rows of the ledger" in host.type(backup), "identity, first state, user"
    assert "sound" in host.type(check)

    CircuitBreaker(redis_client).trip("DRAWDOWN", tripped_by="risk")
    host.type("breaker audit drain")
    said = host.type(look)
    assert "1 CIRCUIT_BREAKER_TRIP" in said and "now TRIPPED, after later transitions" in said
    host.type(stop)
    host.type(empty)
    host.type(forget)
    assert not redis_client.keys("*") and not (host.state / "audit.db").exists()
    host.type(tables)
    said = host.type(restore)
    assert "TRIPPED: global" in said and "whole: " in said and "RESTORED" in said
    host.type(start.replace("breaker doctor", "breaker doctor || true"))  # no orchestrator, no venue: it is red here
    assert host.restarted() == UNITS
    assert (host.state / "incidents" / "report.md").read_text() == "# It was the venue"
    assert "olga" in host.type("breaker user list")
    assert "BACKUP_RESTORED" in actions_of(host) and "BACKUP_MADE" not in actions_of(host)


def test_upgrade_from_a_ledger_of_the_first_version(
    host: Host, redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    with_redis_cli(host, redis_server)
    CircuitBreaker(redis_client).initialize_state()
    with closing(Ledger.connect(host.database_url)) as ledger:
        upgrade(ledger, "0001")
        ledger.append([AuditRecord(action="SOMETHING_DONE", source="cli", details={"n": n}) for n in range(3)])
        head = ledger.head()
    backup, lock, install, migrate, restart, prove = shell_of("upgrade.md")
    host.type(backup)
    assert "OK" in host.type(lock) and redis_client.ttl("circuit_breaker:deployment_lock") > 800
    host.type(install, VERSION="v0.2.0")
    assert "git checkout v0.2.0" in host.noted.read_text() and "make install" in host.noted.read_text()
    said = host.type(migrate)
    assert "is up to date" in said and "whole: 4 rows" in said, "three, and BACKUP_MADE"
    host.type(restart)
    assert host.restarted() == UNITS
    host.type(prove.replace("breaker doctor", "breaker doctor || true"))
    assert not redis_client.exists("circuit_breaker:deployment_lock")
    with closing(Ledger.connect(host.database_url)) as ledger:
        row = ledger.row_at(head[0])
        assert row is not None and row[-1] == head[1], "no row was touched"
    with closing(sqlite3.connect(host.state / "audit.db")) as database, pytest.raises(sqlite3.DatabaseError):
        database.execute("DELETE FROM audit_log")  # which the first version's form still let happen


def test_rotate_keys(host: Host, redis_client: redis.Redis) -> None:
    CircuitBreaker(redis_client).initialize_state()
    replace, see, restart, token, console, ledger, look = shell_of("rotate-keys.md")
    book = '[account]\nkey = "new-id"\nsecret = "new-secret"\n'
    with PaperExchangeThread(parse(book)) as venue:
        host.append(f'[accounts.ALPHA]\nbase_url = "{venue.url}"\n')
        variables = {"KEY_ID": "old-id", "SECRET_KEY": "old-secret"}
        file = host.etc / "breaker.env"
        file.write_text("".join(f"BREAKER_ACCOUNTS__ALPHA__{name}={value}\n" for name, value in variables.items()))
        host.type(see, status=1)
        host.type(replace, NEW_KEY_ID="new-id", NEW_SECRET_KEY="new-secret")
        assert "venue/ALPHA" in host.type(see)
    host.type(restart)
    host.configuration.write_text(host.configuration.read_text().partition("[accounts")[0])

    host.type("breaker user add olga --role operator")
    host.type("breaker token create olga --label old --permission TRIP_CIRCUIT")
    (old,) = (json.loads(line)["id"] for line in host.type("breaker token list --json").splitlines())
    host.type(token, OLD_TOKEN_ID=old)
    (kept,) = (json.loads(line) for line in host.type("breaker token list --json").splitlines())
    assert kept["label"] == "bot" and kept["id"] != old

    before = host_key(host.state)
    host.type(console)
    assert host_key(host.state) != before
    assert host.restarted() == UNITS
    assert "whole" in host.type(ledger) and (host.directory / "audit.jsonl.checkpoint.json").exists()
    host.type(look)


def test_add_and_remove_a_person(host: Host, redis_client: redis.Redis) -> None:
    add, see, restart, token, role, remove, gone, look = shell_of("people.md")
    (people,) = blocks(ROOT / "docs" / "how-to" / "people.md", "toml")
    before = host.configuration.read_text()
    said = host.type(add)
    assert re.search(r"olga \(operator\), password \S+", said) and "operator" in said
    host.append(people)
    assert "olga" in host.type(see) and "RESET_CIRCUIT" in host.type(see)
    host.type(restart)
    assert host.restarted() == UNITS
    assert "olga until" in host.type(token)
    host.type(role)
    assert "risk_manager" in host.type("breaker user list")
    said = host.type(remove)
    assert "have ended" in said and "her notebook" not in said
    host.type(gone, status=1)
    host.configuration.write_text(before)
    host.type(gone)
    host.type(look)
    recorded = ["USER_ADDED", "TOKEN_CREATED", "USER_ROLE_CHANGED", "USER_REMOVED"]
    assert [action for action in actions_of(host) if action in recorded] == recorded


def test_change_a_limit_under_load(host: Host, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / "docs" / "how-to" / "change-a-limit.md"
    (dry_run,), (would_have, engine) = blocks(page, "toml"), blocks(page, "python")
    see, restart = shell_of(page.name)
    breaker = CircuitBreaker(redis_client)
    breaker.initialize_state()
    monkeypatch.setenv("BREAKER_CONFIG", str(host.configuration))
    monkeypatch.setattr(running_services, "EVERY", 0.02)
    host.append(dry_run)
    connect = ("redis.Redis()", f'redis.Redis.from_url("{redis_client_url(redis_client)}")')
    exec(engine.replace(*connect).replace("100_000", "100"), {})  # the page's own engine, once
    running = RunningConfiguration.load()
    stop = threading.Event()
    with reported("engine", running):
        rules = Rules(redis_client, limits=limits_from(running.settings))
        load = threading.Thread(target=lambda: [rules.record_equity(100) for _ in iter(stop.is_set, True)])
        load.start()
        try:
            eventually(lambda: redis_client.hlen(KEY), "the engine did not report itself")
            assert "same" in host.type(see)
            rules.record_equity(95)
            assert breaker.get_state() is State.OPEN, "in dry run it only records what it would have done"
            exec(would_have.replace(*connect), {})

            host.configuration.write_text(host.configuration.read_text().replace('dry_run = ["DRAWDOWN"]\n', ""))
            eventually(lambda: running.changed and "true" in str(redis_client.hvals(KEY)))
            said = host.type(see, status=1)
            assert "engine@" in said and "differs" in said and "restart it" in said
            rules.record_equity(95)
            assert breaker.get_state() is State.OPEN, "a running client keeps its limits, and is said to be stale"
        finally:
            stop.set()
            load.join(10)
    host.type(restart)
    assert host.restarted() == UNITS
    started_anew = RunningConfiguration.load()
    Rules(redis_client, limits=limits_from(started_anew.settings)).record_equity(95)
    assert breaker.get_state() is State.TRIPPED


def redis_client_url(client: redis.Redis) -> str:
    given = client.connection_pool.connection_kwargs
    return f"redis://{given['host']}:{given['port']}/0"
