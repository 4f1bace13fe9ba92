"""A backup is whole or refused; restored, it opens nothing and lets nothing act; a check changes nothing."""

from __future__ import annotations

import io
import json
import stat
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
import redis
from pydantic import SecretStr

from breaker import CircuitBreaker, State
from breaker.deadman import DeadMansSwitch
from breaker.rules import Rules
from breaker.store_identity import IDENTITY_KEY
from configuration.login import login_name
from configuration.redis_clients import redis_client as client_of
from configuration.settings import GivenSettings, Settings
from console.auth.identities import Identities
from console.auth.permissions import Role
from console.auth.schema import upgrade as upgrade_console
from ledger.configured import open_checkpoints, open_ledger
from ledger.errors import LedgerUnavailable
from ledger.ledger import Ledger
from ledger.outbox import drain_outbox
from ledger.queries import Filter
from ledger.reconcile import reconcile
from ledger.record import AuditRecord, AuditRow
from ledger.schema import upgrade as upgrade_log
from ledger.spool import Spool
from ledger.verify import verify
from sandbox.embedded_redis import EmbeddedRedis
from tasks.backup.archive import unpack_archive, write_archive
from tasks.backup.check import check_backup
from tasks.backup.making import Backup, BackupNotMade, make_backup
from tasks.backup.manifest import BackupUnusable
from tasks.backup.restoring import NotRestored, restore_backup
from tasks.initialization import initialize
from tasks.running_services import KEY as SERVICES
from tasks.running_services import RunningService
from tests.ledger.servers import Postgres

GOOD_REASON = "the venue has answered again for an hour"
Change = Callable[[Path], None]
SECRET = {"state/console.key", "state/prefect/secrets.json"}


@dataclass(frozen=True)
class Desk:
    """One environment: its settings, and what it holds."""

    settings: Settings

    @property
    def redis(self) -> redis.Redis:
        return client_of(self.settings)

    def breaker(self, scope: str = "global") -> CircuitBreaker:
        return CircuitBreaker(self.redis, scope)

    def ledger(self) -> Ledger:
        return open_ledger(self.settings)

    def rows(self, *actions: str) -> list[AuditRow]:
        with closing(self.ledger()) as ledger:
            return list(ledger.query(Filter(actions=actions), limit=1_000).rows)

    def drain(self) -> None:
        with closing(self.ledger()) as ledger:
            drain_outbox(self.redis, ledger, ("global", "account:ALPHA"))


def desk_of(redis_url: str, state_dir: Path, database_url: str | None, environment: str = "paper") -> Desk:
    values: dict[str, Any] = {"redis_url": redis_url, "state_dir": state_dir, "environment": environment}
    return Desk(GivenSettings(**values, database_url=None if database_url is None else SecretStr(database_url)))


def names_of(desk: Desk) -> set[str]:
    """Of the keys in its Redis."""
    return {key.decode() for key in cast("list[bytes]", desk.redis.keys("*"))}


def spool_of(desk: Desk) -> Spool:
    """Without the copy in Redis, which a thread would make later, perhaps in the next test."""
    return Spool(desk.settings.state_dir / "spool")


@pytest.fixture
def live(redis_server: EmbeddedRedis, redis_client: redis.Redis, database_url: str, tmp_path: Path) -> Iterator[Desk]:
    """Trading: global is OPEN, account:ALPHA was tripped by ada; much would act, if it were let."""
    desk = desk_of(redis_server.url, tmp_path / "live", database_url)
    with closing(desk.ledger()) as ledger:
        upgrade_log(ledger)
        upgrade_console(ledger)
        Identities(ledger).users.add("olga", Role.OPERATOR, "correct horse battery")
        Identities(ledger).users.add("rolf", Role.VIEWER, "correct horse battery")
    for scope in ("global", "account:ALPHA"):
        initialize(desk.settings, scope, by="ada", source="cli")
    desk.breaker("account:ALPHA").trip("MANUAL", details={"operator": "ada"}, tripped_by="ada")
    Rules(redis_client).record_equity(1_000)
    DeadMansSwitch(redis_client, "engine-1", within=30, action="kill").renew()
    redis_client.xadd("circuit_breaker:kill_requests", {"request": "{}"})
    redis_client.hset("circuit_breaker:pending_exits", "ALPHA:NVDA", "{}")
    redis_client.hset("circuit_breaker:reset_watch", "by", "serve")
    desk.drain()
    for name, text in (
        ("console.key", "ab" * 32),
        ("incidents/one/report.md", "# It was the venue"),
        ("pending_exits/ALPHA.json", "{}"),
        ("prefect/secrets.json", "not ours to copy"),
    ):
        path = desk.settings.state_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    yield desk


@pytest.fixture
def elsewhere(redis_server: EmbeddedRedis, tmp_path: Path) -> Desk:
    """Empty stores, of the same environment."""
    return desk_of(redis_server.url.removesuffix("/0") + "/1", tmp_path / "elsewhere", None)


@pytest.fixture
def backup(live: Desk, tmp_path: Path) -> Backup:
    return make_backup(live.settings, tmp_path)


def runs(desk: Desk, service: str) -> None:
    said = RunningService(service, "trading-1", 4711, "0123456789ab", False, time.time())
    desk.redis.hset(SERVICES, said.field, json.dumps(asdict(said)))


def restore(desk: Desk, backup: Backup) -> None:
    restore_backup(desk.settings, backup.path, by="grace", prepare=upgrade_console)


def test_a_backup_is_for_its_owner_alone_has_no_key_and_is_on_record(live: Desk, backup: Backup) -> None:
    assert stat.S_IMODE(backup.path.stat().st_mode) == 0o600
    with tarfile.open(backup.path) as archive:
        names = archive.getnames()
        content = b"".join(archive.extractfile(name).read() for name in names)  # type: ignore[union-attr]
    assert "state/incidents/one/report.md" in names and not {"state/console.key", "state/prefect/secrets.json"} & {
        *names
    }
    assert b"ab" * 32 not in content and b"correct horse" not in content
    [row] = live.rows("BACKUP_MADE")
    assert row.details["sha256"] == backup.sha256 and row.user_id == login_name()
    assert row.seq == backup.manifest.head_seq + 1, "the archive ends with the row before"


def test_the_consoles_key_is_in_it_where_it_is_asked_for(live: Desk, tmp_path: Path) -> None:
    made = make_backup(live.settings, tmp_path / "with-key.tar.gz", with_keys=True)
    with tarfile.open(made.path) as archive:
        assert "state/console.key" in archive.getnames()
    with pytest.raises(BackupNotMade, match="is there already"):
        make_backup(live.settings, made.path)


def test_what_is_restored_is_tripped_whole_and_acts_on_nothing(live: Desk, backup: Backup, elsewhere: Desk) -> None:
    live.breaker().trip("DRAWDOWN", tripped_by="risk")
    seen_by_gates = live.breaker().reset("bob", GOOD_REASON).epoch
    before = live.breaker("account:ALPHA").get_status()
    for _ in range(3):
        alpha_seen_by_gates = live.breaker("account:ALPHA").trip("DRAWDOWN", tripped_by="risk").epoch
    restore(elsewhere, backup)

    status = elsewhere.breaker().get_status()
    assert (status.state, status.trip_reason) == (State.TRIPPED, "RESTORED"), "it was OPEN in the backup"
    assert "in which it was OPEN" in status.trip_details["reason"] and status.tripped_by == "grace"
    assert seen_by_gates is not None and status.epoch is not None and status.epoch > seen_by_gates
    alpha = elsewhere.breaker("account:ALPHA").get_status()
    assert (alpha.state, alpha.trip_reason, alpha.tripped_by) == (State.TRIPPED, "MANUAL", "ada")
    assert alpha.incident_id == before.incident_id and (alpha.epoch or 0) > (alpha_seen_by_gates or 0)

    with closing(elsewhere.ledger()) as ledger:
        assert verify(ledger).whole
        assert ledger.row_at(backup.manifest.head_seq)[-1] == backup.manifest.head_hash  # type: ignore[index]
        assert {user.name: user.role for user in Identities(ledger).users.all()}["olga"] is Role.OPERATOR
    [row] = elsewhere.rows("BACKUP_RESTORED")
    assert row.details["sha256"] == backup.sha256 and row.user_id == "grace"
    assert {trip.scope for trip in elsewhere.rows("CIRCUIT_BREAKER_TRIP") if trip.user_id == "grace"} == {
        "global",
        "account:ALPHA",
    }

    keys = names_of(elsewhere)
    assert "circuit_breaker:equity" in keys and elsewhere.redis.get(IDENTITY_KEY) == live.redis.get(IDENTITY_KEY)
    acting = ("kill_requests", "deadmen", "deadman:engine-1", "pending_exits", "reset_watch")
    assert not keys & {f"circuit_breaker:{name}" for name in acting}
    state_dir = elsewhere.settings.state_dir
    assert (state_dir / "incidents/one/report.md").read_text() == "# It was the venue"
    assert (state_dir / "from_backup/pending_exits/ALPHA.json").exists() and not (state_dir / "pending_exits").exists()
    told = " ".join(row.details["not_restored"])
    assert "engine-1" in told and "ALPHA:NVDA" in told and "requests to kill" in told

    assert initialize(elsewhere.settings, "global", by="eve", source="cli", force=False).state is State.TRIPPED
    with closing(elsewhere.ledger()) as ledger:
        for scope in ("global", "account:ALPHA"):
            found = reconcile(elsewhere.redis, ledger, scope)
            assert found.settled and found.override is None and not found.tripped, "the next verification is content"
    assert elsewhere.breaker().reset("bob", GOOD_REASON).state is State.QUIET_PERIOD, "a person may open it"
    assert len(elsewhere.breaker().get_history(50)) == 3, (
        "its initialisation, from the backup, the restore's trip, and the reset"
    )


def test_transitions_that_only_redis_had_are_recorded_when_it_is_restored(
    live: Desk, elsewhere: Desk, tmp_path: Path
) -> None:
    live.breaker().trip("DRAWDOWN", tripped_by="risk", event_id="018f0000-0000-7000-8000-000000000001")
    made = make_backup(live.settings, tmp_path / "one.tar.gz")  # before anybody has drained it
    assert not [row for row in live.rows("CIRCUIT_BREAKER_TRIP") if row.user_id == "risk"]
    restore(elsewhere, made)
    [row] = [row for row in elsewhere.rows("CIRCUIT_BREAKER_TRIP") if row.user_id == "risk"]
    [restored] = elsewhere.rows("BACKUP_RESTORED")
    assert row.seq < restored.seq
    status = elsewhere.breaker().get_status()
    assert (status.trip_reason, status.incident_id) == ("DRAWDOWN", row.incident_id), "it stood when it was copied"


def test_a_backup_of_one_environment_is_a_copy_in_another(
    backup: Backup, live: Desk, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    rehearsal = desk_of(redis_server.url.removesuffix("/0") + "/2", tmp_path / "rehearsal", None, "rehearsal")
    assert any(
        "of another environment: paper" in line for line in check_backup(rehearsal.settings, backup.path).comparison
    )
    restore(rehearsal, backup)
    assert rehearsal.redis.get(IDENTITY_KEY) not in (None, live.redis.get(IDENTITY_KEY))
    assert rehearsal.breaker().get_state() is State.TRIPPED


def test_an_archive_of_any_database_fills_postgresql_as_a_user_who_owns_nothing(
    backup: Backup, postgres: Postgres, postgres_url: str, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    database = postgres_url.rsplit("/", maxsplit=1)[-1]
    with closing(Ledger.connect(postgres_url)) as owned:
        upgrade_log(owned)
        upgrade_console(owned)
    user = f"service_{database}"
    postgres.execute(database, f"CREATE USER {user} IN ROLE breaker_audit, breaker_console")
    modest = postgres_url.replace("postgres@", f"{user}@")
    there = desk_of(redis_server.url.removesuffix("/0") + "/3", tmp_path / "there", modest)
    try:
        restore(there, backup)
        with closing(there.ledger()) as ledger:
            assert verify(ledger).whole
            assert {"olga", "rolf"} <= {user.name for user in Identities(ledger).users.all()}
        assert make_backup(there.settings, tmp_path / "again.tar.gz").manifest.rows > backup.manifest.rows
    finally:
        postgres.execute(database, f"DROP ROLE {user}")


@pytest.mark.parametrize(
    ("obstacle", "named"),
    [
        (lambda desk: desk.breaker().trip("MANUAL"), "Redis has"),
        (lambda desk: spool_of(desk).add([AuditRecord(action="SOMETHING_DONE", source="cli")]), "spool/"),
        (lambda desk: runs(desk, "standby"), "standby@"),
    ],
)
def test_nothing_is_restored_over_what_is_there(
    backup: Backup, elsewhere: Desk, obstacle: Callable[[Desk], object], named: str
) -> None:
    obstacle(elsewhere)
    keys = names_of(elsewhere)
    with pytest.raises(NotRestored, match="nothing was changed") as refused:
        restore(elsewhere, backup)
    assert named in str(refused.value) and "\n" not in str(refused.value)
    assert names_of(elsewhere) == keys and not (elsewhere.settings.state_dir / "audit.db").exists()


def test_a_database_without_tables_is_in_the_way_and_stays_as_it_is(
    backup: Backup, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    file = tmp_path / "empty.db"
    desk = desk_of(redis_server.url.removesuffix("/0") + "/1", tmp_path / "elsewhere", f"sqlite:///{file}")
    with pytest.raises(NotRestored, match="audit upgrade"):
        restore(desk, backup)
    assert not file.exists() and not names_of(desk), "Redis would have been tripped for nothing"


def test_nothing_is_restored_over_the_live_environment(live: Desk, backup: Backup) -> None:
    with pytest.raises(NotRestored, match="rows"):
        restore(live, backup)
    assert live.breaker().get_state() is State.OPEN


def test_a_restore_that_stops_half_way_has_opened_nothing(backup: Backup, elsewhere: Desk) -> None:
    def fail(_: Ledger) -> None:
        raise LedgerUnavailable("the disk is full")

    with pytest.raises(NotRestored, match=r"stopped at the ledger .*disk is full.* No breaker is OPEN"):
        restore_backup(elsewhere.settings, backup.path, by="grace", prepare=fail)
    assert elsewhere.breaker().get_state() is State.TRIPPED
    assert initialize(elsewhere.settings, "global", by="eve", source="cli").state is State.TRIPPED


def test_a_check_says_what_a_restore_would_lose_and_changes_nothing(
    live: Desk, backup: Backup, elsewhere: Desk
) -> None:
    found = check_backup(live.settings, backup.path)
    assert found.sound and found.ledger.relation == "live is newer" and found.ledger.lost == {"BACKUP_MADE": 1}
    live.breaker().trip("DRAWDOWN")
    live.drain()
    with closing(live.ledger()) as ledger:
        Identities(ledger).users.remove("rolf")
    found = check_backup(live.settings, backup.path)
    text = "\n".join((*found.comparison, *found.would_do, *found.would_lose, *found.in_the_way))
    assert "newer by 2 rows" in text and "1 CIRCUIT_BREAKER_TRIP" in text and "of this Redis" in text
    assert "global: OPEN in the backup, now TRIPPED, after later transitions" in text
    assert "could be used again, though ended since: user rolf" in text
    assert "the ledger" in text and "Redis has" in text

    empty = check_backup(elsewhere.settings, backup.path)
    assert empty.sound and not empty.in_the_way and empty.ledger.relation == "live is empty"
    assert not elsewhere.settings.state_dir.exists() and not names_of(elsewhere)


def test_a_backup_of_another_redis_or_ledger_is_named_as_such(
    live: Desk, backup: Backup, elsewhere: Desk, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    initialize(elsewhere.settings, "global", by="ada", source="cli")
    elsewhere.drain()
    elsewhere.redis.set(IDENTITY_KEY, json.dumps({"id": "another", "environment": "paper"}))
    found = check_backup(elsewhere.settings, backup.path)
    assert any("of another Redis" in line for line in found.comparison)
    assert found.ledger.relation == "another ledger"
    newer = make_backup(live.settings, tmp_path / "newer.tar.gz")
    restored = desk_of(redis_server.url.removesuffix("/0") + "/2", tmp_path / "older", None)
    with closing(restored.ledger()) as ledger:
        upgrade_log(ledger)
        with closing(live.ledger()) as source:
            ledger.fill([next(source.stream())[: backup.manifest.head_seq]])
    older = check_backup(restored.settings, newer.path)
    assert (older.ledger.relation, older.ledger.rows) == (
        "backup is newer",
        newer.manifest.head_seq - backup.manifest.head_seq,
    )


def rewritten(backup: Backup, folder: Path, change: Change) -> Path:
    """The archive once more, with hashes that fit what was changed in it."""
    content = folder / "content"
    content.mkdir()
    manifest = unpack_archive(backup.path, content)
    change(content)
    path = folder / "rewritten.tar.gz"
    write_archive(path, replace(manifest, members=()), content)
    return path


def test_a_row_that_was_changed_in_the_archive_is_found_whatever_its_manifest_says(
    backup: Backup, elsewhere: Desk, tmp_path: Path
) -> None:
    def change(content: Path) -> None:
        log = content / "ledger" / "audit_log.jsonl"
        log.write_text(log.read_text().replace("ada", "eve"))

    path = rewritten(backup, tmp_path, change)
    found = check_backup(elsewhere.settings, path)
    assert not found.sound and "broken at row" in found.problems[0]
    with pytest.raises(NotRestored, match="nothing was changed"):
        restore_backup(elsewhere.settings, path, by="grace", prepare=upgrade_console)
    assert not names_of(elsewhere)


def test_a_member_that_is_not_what_the_manifest_says_is_refused(
    backup: Backup, elsewhere: Desk, tmp_path: Path
) -> None:
    path = tmp_path / "changed.tar.gz"
    with tarfile.open(backup.path) as source, tarfile.open(path, "w:gz") as target:
        for entry in source:
            content = source.extractfile(entry).read()  # type: ignore[union-attr]
            changed = content.replace(b"venue", b"Venue") if entry.name.endswith("report.md") else content
            target.addfile(entry, io.BytesIO(changed))
    with pytest.raises(BackupUnusable, match=r"report\.md is not what the manifest says"):
        check_backup(elsewhere.settings, path)


def test_a_chain_that_was_written_anew_is_found_by_a_hosts_checkpoints(
    live: Desk, backup: Backup, elsewhere: Desk
) -> None:
    head = backup.manifest.head_seq
    checkpoints = open_checkpoints(elsewhere.settings)
    with closing(live.ledger()) as ledger:
        row = ledger.row_at(head)
    assert row is not None
    checkpoints.path.parent.mkdir(parents=True)
    checkpoints.path.write_text(json.dumps({"seq": head, "hash": row[-1], "time": "then"}) + "\n")
    assert not any("checkpoint" in line for line in check_backup(elsewhere.settings, backup.path).comparison)
    checkpoints.path.write_text(json.dumps({"seq": head, "hash": "0" * 64, "time": "then"}) + "\n")
    assert any("checkpoint" in line for line in check_backup(elsewhere.settings, backup.path).comparison)


def test_a_broken_chain_is_copied_and_named(live: Desk, tmp_path: Path) -> None:
    open_checkpoints(live.settings).path.write_text(json.dumps({"seq": 99, "hash": "0" * 64, "time": "then"}) + "\n")
    made = make_backup(live.settings, tmp_path)
    assert "gone from the end" in made.manifest.chain and made.path.exists()


def test_an_archive_that_was_damaged_or_is_none_is_refused(backup: Backup, elsewhere: Desk, tmp_path: Path) -> None:
    whole = backup.path.read_bytes()
    path = tmp_path / "damaged.tar.gz"
    for bad in (whole[: len(whole) // 2], whole[:-20], b"", b"no archive", _flipped(whole)):
        path.write_bytes(bad)
        with pytest.raises(BackupUnusable) as refused:
            check_backup(elsewhere.settings, path)
        assert "\n" not in str(refused.value) and str(path) in str(refused.value)
    with pytest.raises(BackupUnusable, match="can't be read"):
        check_backup(elsewhere.settings, tmp_path / "nowhere.tar.gz")


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "state/more"])
def test_what_the_manifest_does_not_list_is_never_written(backup: Backup, tmp_path: Path, name: str) -> None:
    path = tmp_path / "more.tar.gz"
    with tarfile.open(backup.path) as source, tarfile.open(path, "w:gz") as target:
        for entry in source:
            target.addfile(entry, source.extractfile(entry))
        more = tarfile.TarInfo(name)
        more.size = 4
        target.addfile(more, io.BytesIO(b"more"))
    folder = tmp_path / "unpacked"
    folder.mkdir()
    with pytest.raises(BackupUnusable, match="not in its manifest"):
        unpack_archive(path, folder)
    assert not (tmp_path / "escaped").exists() and not (folder / "state" / "more").exists()


def test_without_redis_there_is_no_half_backup(live: Desk, tmp_path: Path) -> None:
    unreachable = live.settings.model_copy(
        update={"redis_url": desk_of("redis://127.0.0.1:1/0", tmp_path, None).settings.redis_url}
    )
    with pytest.raises(BackupNotMade, match="nothing was changed"):
        make_backup(unreachable, tmp_path / "half.tar.gz")
    assert not list(tmp_path.glob("*half*"))
