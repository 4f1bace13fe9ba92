"""The spool and the recorder in front of it: nothing is lost, whoever is killed."""

from __future__ import annotations

import fcntl
import json
import random
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ledger.errors import LedgerUnavailable, NotRecorded, SpoolUnavailable
from ledger.ledger import Ledger
from ledger.record import AuditRecord
from ledger.recorder import Destination, Recorder
from ledger.schema import upgrade
from ledger.spool import UNREADABLE, Spool
from ledger.verify import verify
from proofs.fork_server import Forked, ForkServer
from tests.helpers import in_time
from tests.ledger.servers import Postgres, free_port

WRITER = """
import sys
from pathlib import Path
from ledger.record import AuditRecord
from ledger.spool import Spool
spool, name = Spool(Path(sys.argv[1])), sys.argv[2]
for number in range(100_000):
    spool.add([AuditRecord(action="X", source="cli", id=f"{name}-{number}", details={"long": "x" * 3000})])
    print(f"{name}-{number}", flush=True)
"""

DRAINER = """
import sys
from pathlib import Path
from ledger.ledger import Ledger
from ledger.spool import Spool
ledger, spool = Ledger.connect(sys.argv[2], timeout=10), Spool(Path(sys.argv[1]))
while True:
    spool.drain(ledger)
    print("drained", flush=True)
"""


def record(name: str) -> AuditRecord:
    return AuditRecord(action="ORDERS_CANCELED", source="flow", id=name)


def ids(ledger: Ledger) -> list[str]:
    """In the order of recording."""
    return [row[1] for batch in ledger.stream() for row in batch]


Start = Callable[..., Forked]


@pytest.fixture
def start(fork_server: ForkServer) -> Start:
    def start(program: str, *arguments: str) -> Forked:
        return fork_server.start("-c", program, *arguments, stdout=subprocess.PIPE)

    return start


def kill_after_first_words(process: Forked, words: int) -> list[str]:
    """Let it say so many lines, kill it a moment later, and return all that it said in full."""
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(words)]
    time.sleep(random.uniform(0, 0.005))
    process.kill()
    said += process.stdout.readlines()
    process.wait()
    return [line.strip() for line in said if line.endswith("\n")]


def test_records_come_out_in_the_order_in_which_they_went_in(ledger: Ledger, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    assert not spool.pending()
    assert spool.drain(ledger).moved == 0
    spool.add([record("a"), record("b")])
    spool.add([record("c")])
    assert spool.pending()
    assert [waiting.id for waiting in spool.records()] == ["a", "b", "c"]
    drained = spool.drain(ledger)
    assert (drained.moved, drained.known, drained.unreadable) == (3, 0, 0)
    assert ids(ledger) == ["a", "b", "c"]
    assert not spool.pending()


def test_what_the_ledger_has_already_is_not_recorded_again(ledger: Ledger, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    ledger.append([record("a")])
    spool.add([record("a"), record("b")])
    drained = spool.drain(ledger)
    assert (drained.moved, drained.known) == (1, 1)
    assert ids(ledger) == ["a", "b"]


@pytest.mark.parametrize("torn", [b'{"action": "X", "sou', b"\xff\xfe\n", b"{}\n", b"[" * 5000 + b"\n"])
def test_a_line_that_is_no_record_is_recorded_as_such_once(ledger: Ledger, tmp_path: Path, torn: bytes) -> None:
    spool = Spool(tmp_path / "spool")
    spool.add([record("a")])
    with (tmp_path / "spool" / "current.jsonl").open("ab") as file:
        file.write(torn)
    spool.add([record("b")])
    assert spool.drain(ledger).unreadable == 1
    assert [row[4] for batch in ledger.stream() for row in batch] == ["ORDERS_CANCELED", UNREADABLE, "ORDERS_CANCELED"]


def test_nothing_that_was_acknowledged_is_lost_when_writers_are_killed(
    ledger: Ledger, tmp_path: Path, start: Start
) -> None:
    """Writers killed at random, three at a time; a drainer killed while it moves what they wrote."""
    directory = tmp_path / "spool"
    acknowledged: list[str] = []
    for round_ in range(2):
        writers = [start(WRITER, str(directory), f"{round_}.{number}") for number in range(3)]
        drainer = start(DRAINER, str(directory), ledger.engine.url.render_as_string(hide_password=False))
        for writer in writers:
            acknowledged += kill_after_first_words(writer, random.randint(5, 40))
        kill_after_first_words(drainer, 1)
    Spool(directory).drain(ledger)
    rows = [row for batch in ledger.stream() for row in batch]
    found = [row[1] for row in rows if row[4] != UNREADABLE]
    assert len(acknowledged) >= 30
    assert set(acknowledged) <= set(found)
    assert len(found) == len(set(found))
    assert verify(ledger).whole
    assert list(directory.glob("*.jsonl")) == []


def test_eight_threads_and_a_drain_share_the_spool(ledger: Ledger, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")

    def write(writer: int) -> None:
        for number in range(25):
            spool.add([record(f"{writer}-{number}")])

    with ThreadPoolExecutor(8) as pool:
        writing = [pool.submit(write, writer) for writer in range(8)]
        while not all(job.done() for job in writing):
            spool.drain(ledger)
    for job in writing:
        job.result()
    spool.drain(ledger)
    assert len(ids(ledger)) == 200
    for writer in range(8):
        mine = [name for name in ids(ledger) if name.startswith(f"{writer}-")]
        assert mine == [f"{writer}-{number}" for number in range(25)]


def test_a_frozen_process_that_holds_the_spool_stops_neither_writers_nor_drain(ledger: Ledger, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.add([record("a")])
    with (tmp_path / "spool" / "current.jsonl").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        spool.add([record("b")])
        assert {waiting.id for waiting in spool.records()} == {"a", "b"}
    spool.drain(ledger)
    assert set(ids(ledger)) == {"a", "b"}


def test_two_drains_do_not_mix(ledger: Ledger, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.add([record("a")])
    with (tmp_path / "spool" / "drain.lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert spool.drain(ledger).busy
    assert not spool.drain(ledger).busy


def test_a_disk_that_refuses_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file where the directory should be")
    with pytest.raises(SpoolUnavailable, match="can't be written"):
        Spool(tmp_path / "spool").add([record("a")])


@pytest.fixture
def unreachable() -> Ledger:
    return Ledger.connect(f"postgresql://breaker@127.0.0.1:{free_port()}/audit", timeout=0.5)


def test_what_the_database_refuses_waits_in_the_spool_and_goes_in_first(
    ledger: Ledger, unreachable: Ledger, tmp_path: Path
) -> None:
    spool = Spool(tmp_path / "spool")
    down = Recorder(unreachable, spool)
    for name in "abc":
        kept = down.record(record(name))
        assert kept.where is Destination.SPOOL
        assert kept.reason is not None
        assert "127.0.0.1" in kept.reason
    up = Recorder(ledger, spool)
    assert up.record(record("d")).where is Destination.LEDGER
    assert up.record(record("e")).where is Destination.LEDGER
    assert ids(ledger) == ["a", "b", "c", "d", "e"]


def test_a_failing_database_is_not_waited_for_again_and_again(
    postgres: Postgres, postgres_url: str, tmp_path: Path
) -> None:
    ledger = Ledger.connect(postgres_url, timeout=0.5)
    upgrade(ledger)
    recorder = Recorder(ledger, Spool(tmp_path / "spool"), retry_after=60)
    postgres.freeze()
    try:
        with in_time(2):  # and not 50 times half a second
            for number in range(50):
                assert recorder.record(record(str(number))).where is Destination.SPOOL
    finally:
        postgres.thaw()
    assert recorder.drain().moved == 50
    assert ids(ledger) == [str(number) for number in range(50)]
    ledger.close()


def test_a_database_without_the_table_is_no_reason_to_lose_a_record(database_url: str, tmp_path: Path) -> None:
    bare = Ledger.connect(database_url)
    recorder = Recorder(bare, Spool(tmp_path / "spool"), retry_after=0)
    assert recorder.record(record("a")).where is Destination.SPOOL
    upgrade(bare)
    assert recorder.record(record("b")).where is Destination.LEDGER
    assert ids(bare) == ["a", "b"]
    bare.close()


def test_a_record_that_nothing_takes_is_handed_back_in_full(unreachable: Ledger, tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("")
    with pytest.raises(NotRecorded, match="note by hand") as caught:
        Recorder(unreachable, Spool(tmp_path / "spool")).record(record("a"))
    said = str(caught.value)
    assert json.loads(said[said.index("{") :])["id"] == "a"


def test_a_drain_that_fails_half_way_keeps_everything(unreachable: Ledger, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.add([record("a")])
    for _ in range(2):
        with pytest.raises(LedgerUnavailable):
            spool.drain(unreachable)
    spool.add([record("b")])
    assert [waiting.id for waiting in spool.records()] == ["a", "b"]


def test_a_long_spool_does_not_hold_up_a_record(ledger: Ledger, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.add([record(str(number)) for number in range(600)])
    part = spool.drain(ledger, within=0)
    assert part.unfinished
    assert part.moved < 600
    assert spool.pending()
    rest = spool.drain(ledger)
    assert (rest.moved + rest.known, rest.unfinished) == (600, False)
    assert ids(ledger) == [str(number) for number in range(600)]


def test_only_its_owner_can_read_the_spool(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.add([record("a")])
    assert (tmp_path / "spool" / "current.jsonl").stat().st_mode & 0o077 == 0


def test_a_stopped_writer_leaves_no_lock_behind(ledger: Ledger, tmp_path: Path, start: Start) -> None:
    writer = start(WRITER, str(tmp_path / "spool"), "w")
    assert writer.stdout is not None
    first = writer.stdout.readline().strip()
    writer.kill()
    writer.wait()
    with in_time(2):
        Spool(tmp_path / "spool").drain(ledger)
    assert first in ids(ledger)
