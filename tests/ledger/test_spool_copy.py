"""What waits in a host's spool waits in Redis too, and is delivered from there once where the disk is lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from configuration.settings import Settings
from ledger import spool_copy
from ledger.audit import drain
from ledger.errors import LedgerUnavailable
from ledger.ledger import Ledger
from ledger.location import place_of
from ledger.record import AuditRecord
from ledger.spool import Spool
from ledger.spool_copy import DELIVERED, SpoolCopy, copy_key, spool_of
from ledger.verify import verify
from sandbox.embedded_redis import EmbeddedRedis
from tasks.audit_trail import AuditTrail
from tasks.checks.measurement import Colour
from tasks.checks.probe import Probe
from tasks.checks.stores import judge_drain
from tests.helpers import PATIENCE, eventually, in_time
from tests.ledger.servers import free_port

MakeSettings = Callable[..., Settings]


@pytest.fixture
def settings_of(redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path) -> MakeSettings:
    def make(ledger: Ledger, **changes: object) -> Settings:
        url = ledger.engine.url.render_as_string(hide_password=False)
        return Settings.model_validate(
            {"redis_url": redis_server.url, "state_dir": tmp_path / "state", "database_url": url, **changes}
        )

    return make


def record(name: str) -> AuditRecord:
    return AuditRecord(action="ORDERS_CANCELED", source="flow", id=name)


def rows(ledger: Ledger) -> list[tuple[str, str]]:
    """Id and action, in the order of recording."""
    return [(row[1], row[4]) for batch in ledger.stream() for row in batch]


def copy_of(spool: Spool) -> SpoolCopy:
    assert isinstance(spool.copy, SpoolCopy)
    return spool.copy


def test_a_state_directory_lost_while_the_database_was_away_is_delivered_from_redis_once(
    settings_of: MakeSettings, ledger: Ledger, redis_client: redis.Redis
) -> None:
    settings = settings_of(ledger)
    spool = spool_of(settings)
    spool.add([record(f"{number}") for number in range(600)])
    copy_of(spool).finish(PATIENCE)
    shutil.rmtree(settings.state_dir)
    host = spool_of(settings)
    done = drain(redis_client, ledger, host, ["global"])
    assert list(done.copy.moved.values()) == [600] and done.problems == ()
    delivered = [action for _, action in rows(ledger)]
    assert delivered.count("ORDERS_CANCELED") == 600 and delivered.count(DELIVERED) == 2, "a row a batch says so"
    assert verify(ledger).problem is None
    assert redis_client.xlen(copy_key(place_of(ledger))) == 0
    told = judge_drain(Probe("drain", "", ""), done)
    assert (told.colour, "600 of " in told.problem, "600 of a copy" in told.value) == (Colour.YELLOW, True, True)
    again = drain(redis_client, ledger, host, ["global"])
    assert again.copy.moved == {} and len(rows(ledger)) == 602


def test_what_the_host_delivers_itself_leaves_redis_and_no_row(
    settings_of: MakeSettings, ledger: Ledger, redis_client: redis.Redis
) -> None:
    settings = settings_of(ledger)
    spool, key = spool_of(settings), copy_key(place_of(ledger))
    spool.add([record("a"), record("b")])
    copy_of(spool).finish(PATIENCE)
    assert redis_client.xlen(key) == 2
    assert spool.drain(ledger).moved == 2
    eventually(lambda: redis_client.xlen(key) == 0)

    spool.add([record("c")])
    copy_of(spool).finish(PATIENCE)
    Spool(spool.directory).drain(ledger)  # by another process, which knows nothing of what this one has copied
    done = drain(redis_client, ledger, spool, ["global"])
    assert (done.copy.moved, done.copy.known) == ({}, 1)
    assert [name for name, _ in rows(ledger)] == ["a", "b", "c"]
    assert redis_client.xlen(key) == 0


def test_what_the_ledger_takes_at_once_is_never_copied(
    settings_of: MakeSettings, ledger: Ledger, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_copy, "SOON", PATIENCE)
    spool = spool_of(settings_of(ledger))
    spool.add([record("a")])
    spool.drain(ledger)
    copy_of(spool).finish(PATIENCE)
    assert not redis_client.exists(copy_key(place_of(ledger)))


def test_a_redis_that_is_away_holds_up_neither_record_nor_end(settings_of: MakeSettings, ledger: Ledger) -> None:
    spool = spool_of(settings_of(ledger, redis_url=f"redis://127.0.0.1:{free_port()}/0"))
    with in_time(2.0):
        for number in range(50):
            spool.add([record(f"{number}")])
        copy_of(spool).finish()
    assert len(spool.records()) == 50


def test_a_disk_that_refuses_leaves_the_record_in_redis(
    settings_of: MakeSettings, ledger: Ledger, redis_client: redis.Redis
) -> None:
    settings = settings_of(ledger)
    settings.state_dir.parent.mkdir(exist_ok=True)
    settings.state_dir.write_text("no directory")
    spool = spool_of(settings)

    def away() -> Ledger:
        raise LedgerUnavailable("the database does not answer")

    trail = AuditTrail(spool, away, lambda _: None, source="flow", user_id="ada", incident_id="one")
    trail("ORDERS_CANCELED", {"account": "ALPHA"})
    trail.close(0.1)
    eventually(lambda: redis_client.xlen(copy_key(place_of(ledger))) == 1)


def test_what_somebody_else_wrote_there_is_passed_over(ledger: Ledger, redis_client: redis.Redis) -> None:
    key = copy_key(place_of(ledger))
    written: list[dict[Any, Any]] = [{"record": "garbage"}, {"other": "x"}]
    for fields in (*written, {"record": record("a").to_json(), "host": "h"}):
        redis_client.xadd(key, fields)
    done = spool_copy.drain_copy(redis_client, ledger)
    assert (done.moved, done.unreadable) == ({"h": 1}, 2)
    assert [action for _, action in rows(ledger)] == ["ORDERS_CANCELED", DELIVERED]
    assert redis_client.xlen(key) == 0

    redis_client.set(key, "no stream")
    problem = drain(redis_client, ledger, Spool(Path("/nonexistent")), ["global"]).problems
    assert len(problem) == 1 and "WRONGTYPE" in problem[0]
