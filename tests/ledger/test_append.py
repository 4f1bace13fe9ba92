"""Appending to the ledger and reading from it, on both databases."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg2
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from ledger.errors import InvalidRecord, LedgerError, LedgerNotReady, LedgerUnavailable
from ledger.ledger import Ledger
from ledger.queries import Filter
from ledger.record import AuditRecord
from ledger.schema import upgrade
from ledger.tail import Tail
from ledger.verify import verify
from tests.helpers import in_time
from tests.ledger.servers import Postgres, free_port

RUNBOOK = """
SELECT
    timestamp,
    action,
    user_id,
    details,
    ip_address
FROM audit_log
WHERE action IN ('CIRCUIT_BREAKER_TRIP', 'CIRCUIT_BREAKER_RESET')
ORDER BY timestamp DESC
LIMIT 20;
"""
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def record(number: int = 0, **values: object) -> AuditRecord:
    defaults = {"action": "CIRCUIT_BREAKER_TRIP", "source": "cli", "id": f"event-{number}"}
    return AuditRecord(**{**defaults, **values})  # type: ignore[arg-type]


def test_a_record_is_read_back_as_it_was_written(ledger: Ledger) -> None:
    written = record(
        timestamp=NOON,
        user_id="zoë \U0001f6d1",
        details={"reason": 'quote " backslash \\ newline \n nul \0', "nested": {"list": [1, 2.5, None, True]}},
        ip_address="10.0.0.1",
        scope="account:ALPHA",
        incident_id="0198c0de-0000-7000-8000-000000000001",
        flow_run_id="run-1",
        outcome="DENIED",
    )
    before = datetime.now(UTC)
    ledger.append([written])
    row = ledger.find("event-0")
    assert row is not None
    for name in AuditRecord.__dataclass_fields__:
        assert getattr(row, name) == getattr(written, name), name
    assert before <= row.recorded_at <= datetime.now(UTC)
    assert row.seq == 1


def test_an_event_is_kept_once_however_often_it_is_appended(ledger: Ledger) -> None:
    first = ledger.append([record(1), record(2)])
    again = ledger.append([record(2), record(3), record(3)])
    alone = ledger.append([record(3)])
    assert first.new == ("event-1", "event-2")
    assert (again.new, again.known) == (("event-3",), ("event-2",))
    assert (alone.new, alone.known) == ((), ("event-3",))
    assert [row.id for row in ledger.query().rows] == ["event-3", "event-2", "event-1"]
    assert verify(ledger).whole


def test_single_appends_interleaved_between_two_connections_make_one_chain(database_url: str, ledger: Ledger) -> None:
    other = Ledger.connect(database_url)
    for number in range(30):
        (ledger if number % 3 else other).append([record(number)])
    other.close()
    assert verify(ledger).rows == 30
    assert verify(ledger).whole


def test_eight_writers_make_one_chain(database_url: str, ledger: Ledger) -> None:
    each = 40

    def write(writer: int) -> None:
        mine = Ledger.connect(database_url, timeout=10)
        for number in range(each):
            mine.append([record(0, id=f"{writer}-{number}")])
        mine.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    found = verify(ledger)
    assert found.whole
    assert found.rows == 8 * each


def test_a_decision_on_the_end_of_the_chain_is_not_overtaken(database_url: str, ledger: Ledger) -> None:
    """Counting upwards by reading the last row and writing the next: a lost update would repeat a number."""

    def count(_: int) -> None:
        mine = Ledger.connect(database_url, timeout=10)

        def next_number(tail: Tail) -> Sequence[AuditRecord]:
            last = tail.last_state_row("global")
            number = 0 if last is None else int(last.details["epoch"])
            return [AuditRecord(action="CIRCUIT_BREAKER_TRIP", source="cli", details={"epoch": number + 1})]

        for _ in range(10):
            mine.append_decided(next_number)
            mine.append([AuditRecord(action="NOISE", source="cli")])
        mine.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, range(4)))
    numbers = [row.details["epoch"] for row in ledger.query(Filter(actions=["CIRCUIT_BREAKER_TRIP"])).rows]
    assert sorted(numbers) == list(range(1, 41))
    assert verify(ledger).whole


def test_rows_are_listed_newest_first_page_by_page(ledger: Ledger) -> None:
    """Several rows of the same moment must neither repeat nor vanish between pages."""
    ledger.append([record(number, timestamp=NOON + timedelta(minutes=number // 3)) for number in range(20)])
    found: list[str] = []
    after: str | None = None
    while True:
        page = ledger.query(limit=3, after=after)
        found += [row.id for row in page.rows]
        after = page.next
        if after is None:
            break
    assert found == [f"event-{number}" for number in reversed(range(20))]
    with pytest.raises(InvalidRecord, match="end of a page"):
        ledger.query(after="tomorrow")


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (Filter(actions=["CIRCUIT_BREAKER_RESET"]), [2]),
        (Filter(actions=["CIRCUIT_BREAKER_RESET", "CIRCUIT_BREAKER_TRIP"]), [2, 1]),
        (Filter(user_id="alice"), [3, 1]),
        (Filter(incident_id="incident-1"), [2, 1]),
        (Filter(scope="account:ALPHA"), [3]),
        (Filter(source="console"), [2]),
        (Filter(outcome="DENIED"), [3]),
        (Filter(since=NOON + timedelta(minutes=2)), [3, 2]),
        (Filter(until=NOON + timedelta(minutes=2)), [1]),
        (Filter(user_id="alice", outcome="OK"), [1]),
        (Filter(user_id="nobody"), []),
    ],
)
def test_rows_are_filtered(ledger: Ledger, wanted: Filter, numbers: list[int]) -> None:
    at = [NOON + timedelta(minutes=number) for number in range(4)]
    ledger.append(
        [
            record(1, timestamp=at[1], user_id="alice", incident_id="incident-1"),
            record(2, timestamp=at[2], action="CIRCUIT_BREAKER_RESET", source="console", incident_id="incident-1"),
            record(3, timestamp=at[3], action="RESET", user_id="alice", scope="account:ALPHA", outcome="DENIED"),
        ]
    )
    assert [row.id for row in ledger.query(wanted).rows] == [f"event-{number}" for number in numbers]


def test_the_runbooks_query_runs_as_printed(postgres_url: str) -> None:
    ledger = Ledger.connect(postgres_url)
    upgrade(ledger)
    ledger.append([record(1, timestamp=NOON, user_id="alice", details={"reason": "drill"}, ip_address="10.0.0.1")])
    ledger.append([record(2, action="ORDERS_CANCELED")])
    with psycopg2.connect(postgres_url) as connection, connection.cursor() as cursor:
        cursor.execute(RUNBOOK)
        assert cursor.fetchall() == [(NOON, "CIRCUIT_BREAKER_TRIP", "alice", {"reason": "drill"}, "10.0.0.1")]
    connection.close()
    ledger.close()


FORBIDDEN = {
    "postgresql": [
        "UPDATE audit_log SET user_id = 'mallory'",
        "UPDATE audit_log SET user_id = 'mallory' WHERE false",
        "DELETE FROM audit_log",
        "TRUNCATE audit_log",
        "INSERT INTO audit_log SELECT * FROM audit_log ON CONFLICT (seq) DO UPDATE SET user_id = 'mallory'",
        "MERGE INTO audit_log USING (SELECT 1 AS one) AS other ON seq = one WHEN MATCHED THEN DELETE",
    ],
    "sqlite": [
        "UPDATE audit_log SET user_id = 'mallory'",
        "DELETE FROM audit_log",
        "INSERT INTO audit_log SELECT * FROM audit_log WHERE true ON CONFLICT (seq) DO UPDATE SET user_id = 'mallory'",
        "REPLACE INTO audit_log SELECT * FROM audit_log",
        "UPDATE OR REPLACE audit_log SET seq = 1",
        "INSERT OR REPLACE INTO audit_log SELECT seq + 5, id, timestamp, recorded_at, action, 'mallory', details,"
        " ip_address, source, scope, incident_id, flow_run_id, outcome, prev_hash, hash FROM audit_log",
    ],
}


def test_rows_are_final(ledger: Ledger) -> None:
    ledger.append([record(1, user_id="alice")])
    for statement in FORBIDDEN[ledger.engine.dialect.name]:
        with pytest.raises(DBAPIError, match="append-only"), ledger.engine.begin() as connection:
            connection.execute(text(statement))
    row = ledger.find("event-1")
    assert row is not None
    assert row.user_id == "alice"
    assert verify(ledger).rows == 1


def test_a_replication_role_does_not_silence_the_triggers(postgres_url: str) -> None:
    ledger = Ledger.connect(postgres_url)
    upgrade(ledger)
    with pytest.raises(DBAPIError, match="append-only"), ledger.engine.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(text("DELETE FROM audit_log"))
    ledger.close()


def test_a_database_that_was_not_migrated_is_told_apart(database_url: str) -> None:
    ledger = Ledger.connect(database_url)
    with pytest.raises(LedgerNotReady, match="breaker audit upgrade"):
        ledger.append([record()])
    with pytest.raises(LedgerNotReady):
        list(ledger.stream())
    ledger.close()


def test_no_password_is_shown() -> None:
    url = f"postgresql://breaker:geheim@127.0.0.1:{free_port()}/audit"
    ledger = Ledger.connect(SecretStr(url), key=SecretStr("schluessel"))
    with pytest.raises(LedgerUnavailable) as caught:
        ledger.head()
    said = f"{ledger!r} {caught.value!r} {caught.value} {vars(caught.value)}"
    assert "geheim" not in said
    assert "schluessel" not in said
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["", "nonsense", "mysql://user:geheim@host/db", "postgresql//user:geheim@host", "sqlite://"]
)
def test_a_url_that_names_no_database_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(LedgerError) as caught:
        Ledger.connect(url)
    assert "geheim" not in str(caught.value)


def test_a_lost_connection_is_replaced(postgres: Postgres, postgres_url: str) -> None:
    ledger = Ledger.connect(postgres_url)
    upgrade(ledger)
    ledger.append([record(1)])
    postgres.stop()
    with pytest.raises(LedgerUnavailable):
        ledger.append([record(2)])
    postgres.start()
    ledger.append([record(2)])
    postgres.stop()
    postgres.start()
    assert verify(ledger).rows == 2
    postgres.stop()
    postgres.start()
    assert ledger.append([record(3)]).new == ("event-3",)
    assert verify(ledger).rows == 3
    ledger.close()


def test_a_frozen_database_holds_nobody_up(postgres: Postgres, postgres_url: str) -> None:
    """A stopped server acknowledges at TCP level and never answers: only the client can end such a wait."""
    ledger = Ledger.connect(postgres_url, timeout=0.5)
    upgrade(ledger)
    ledger.append([record(1)])
    postgres.freeze()
    try:
        for _ in range(2):  # on the connection it has, then on a new one
            with in_time(2), pytest.raises(LedgerUnavailable):
                ledger.append([record(2)])
    finally:
        postgres.thaw()
    ledger.append([record(2)])
    assert verify(ledger).rows == 2
    ledger.close()


def test_a_writer_frozen_with_the_lock_does_not_stop_the_others_for_ever(postgres_url: str) -> None:
    ledger = Ledger.connect(postgres_url, timeout=0.5)
    upgrade(ledger)
    patient = Ledger.connect(postgres_url, timeout=20)
    entered, leave = threading.Event(), threading.Event()

    def dawdle(_: Tail) -> Sequence[AuditRecord]:
        entered.set()
        leave.wait(30)
        return [record(1)]

    with ThreadPoolExecutor(1) as pool:
        dawdling = pool.submit(ledger.append_decided, dawdle)
        assert entered.wait(10)
        assert patient.append([record(2)]).new == ("event-2",)
        leave.set()
        with pytest.raises(LedgerUnavailable):
            dawdling.result(10)
    assert verify(patient).rows == 1
    patient.close()
    ledger.close()


def test_the_audit_role_may_add_and_read_and_nothing_else(postgres_url: str) -> None:
    owner = Ledger.connect(postgres_url)
    upgrade(owner)
    with owner.engine.begin() as connection:
        connection.execute(text("DROP ROLE IF EXISTS clerk"))
        connection.execute(text("CREATE ROLE clerk LOGIN IN ROLE breaker_audit"))
    clerk = Ledger.connect(postgres_url.replace("postgres@", "clerk@"))
    clerk.append([record(1)])
    clerk.append([record(2)])
    assert verify(clerk).rows == 2
    for statement in ("UPDATE audit_log SET user_id = ''", "DELETE FROM audit_log", "TRUNCATE audit_log"):
        with pytest.raises(DBAPIError, match="permission denied"), clerk.engine.begin() as connection:
            connection.execute(text(statement))
    with pytest.raises(DBAPIError, match="must be owner"), clerk.engine.begin() as connection:
        connection.execute(text("ALTER TABLE audit_log DISABLE TRIGGER ALL"))
    clerk.close()
    with owner.engine.begin() as connection:
        connection.execute(text("DROP ROLE clerk"))
    owner.close()
