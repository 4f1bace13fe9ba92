"""Everything at once: many processes, a database that dies, drains that are killed, Redis gone too.

`BREAKER_TEST_SCALE=full` runs the full size; `-s` shows the figures.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
import redis

from breaker import CircuitBreaker
from ledger.audit import drain
from ledger.ledger import Ledger
from ledger.models import OVERRIDE_DETECTED
from ledger.outbox import drain_outbox
from ledger.schema import upgrade
from ledger.spool import Spool
from ledger.verify import verify
from proofs.fork_server import ForkServer
from sandbox.embedded_redis import EmbeddedRedis
from tests.helpers import FULL, eventually
from tests.ledger.servers import Postgres

OUTBOX = "circuit_breaker:outbox"
PROCESSES, EACH = (8, 125) if FULL else (3, 40)

OPERATOR = """
import sys
import redis
from breaker import CircuitBreaker, NotTripped, StateConflict
from ledger.errors import LedgerError
from ledger.ledger import Ledger
from ledger.outbox import drain_outbox

client = redis.Redis.from_url(sys.argv[1])
ledger = Ledger.connect(sys.argv[2], timeout=1)
breaker = CircuitBreaker(client, quiet_period=0, reset_interval=0, source="cli")
made = 0
while made < int(sys.argv[3]) or not client.exists("outages_over"):
    try:
        breaker.reset(reset_by="alice")
    except NotTripped:
        breaker.trip("MANUAL")
    except StateConflict:
        continue  # another operator came first
    made += 1
    try:
        drain_outbox(client, ledger)
    except LedgerError:
        pass  # it waits in the outbox
print(made)
"""

DRAINER = """
import sys
import redis
from ledger.errors import LedgerError
from ledger.ledger import Ledger
from ledger.outbox import drain_outbox

client, ledger = redis.Redis.from_url(sys.argv[1]), Ledger.connect(sys.argv[2], timeout=1)
print("ready", flush=True)
while True:
    try:
        drain_outbox(client, ledger)
    except LedgerError:
        pass
"""

KILL_SWITCH = """
import sys
from pathlib import Path
from ledger.ledger import Ledger
from ledger.record import AuditRecord
from ledger.recorder import Recorder
from ledger.spool import Spool

recorder = Recorder(Ledger.connect(sys.argv[1], timeout=0.5), Spool(Path(sys.argv[2])))
for number in range(int(sys.argv[3]), 1_000_000):
    recorder.record(AuditRecord(action="POSITION_CLOSE_SENT", source="flow", id=f"step-{number}"))
    print(f"step-{number}", flush=True)
"""


@contextmanager
def killed_at_random(fork_server: ForkServer, program: str, *arguments: str) -> Iterator[list[int]]:
    """Keep two processes of `program` running, and kill each again and again. Yields how often, in its one element."""
    kills, stop = [0], [False]

    def torment() -> None:
        while not stop[0]:
            victim = fork_server.start("-c", program, *arguments, stdout=subprocess.PIPE)
            assert victim.stdout is not None
            with victim.stdout:
                victim.stdout.readline()
                time.sleep(random.uniform(0, 0.3))
                victim.kill()
                victim.wait(60)
            kills[0] += 1

    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(torment) for _ in range(2)]
        try:
            yield kills
        finally:
            stop[0] = True
            for job in jobs:
                job.result()


def rows_of(ledger: Ledger) -> list[tuple[object, ...]]:
    return [tuple(row) for batch in ledger.stream() for row in batch]


@pytest.mark.timeout(300)
def test_each_event_is_there_exactly_once_whatever_was_killed(
    request: pytest.FixtureRequest, database_url: str, own_server: EmbeddedRedis, fork_server: ForkServer
) -> None:
    """Promise 8: trips and resets from many processes, each draining, while the database dies twice and drains more."""
    ledger = Ledger.connect(database_url, timeout=10)
    upgrade(ledger)
    client = redis.Redis.from_url(own_server.url)
    CircuitBreaker(client).initialize_state()
    begun = time.monotonic()
    with killed_at_random(fork_server, DRAINER, own_server.url, database_url) as kills:
        operators = [
            fork_server.start("-c", OPERATOR, own_server.url, database_url, str(EACH), stdout=subprocess.PIPE)
            for _ in range(PROCESSES)
        ]
        outages = _kill_database(request, client) if database_url.startswith("postgresql") else 0
        client.set("outages_over", 1)
        try:
            assert [operator.wait(100) for operator in operators] == [0] * PROCESSES
            made = [int(operator.stdout.read()) for operator in operators if operator.stdout is not None]
        finally:
            for operator in operators:
                operator.kill()
    waiting = client.xlen(OUTBOX)
    drain_outbox(client, ledger)
    seconds = time.monotonic() - begun

    history = client.zrange("circuit_breaker:history", 0, -1)
    rows = rows_of(ledger)
    ids = [row[1] for row in rows]
    assert sum(made) >= PROCESSES * EACH
    assert len(ids) == len(set(ids)) == sum(made) + 1
    assert all(str(event_id).encode() in member for event_id, member in zip(ids[-len(history) :], history, strict=True))
    assert OVERRIDE_DETECTED not in {row[4] for row in rows}
    found = verify(ledger)
    assert found.whole
    print(
        f"\n{sum(made)} transitions by {PROCESSES} processes, database killed {outages} times, {kills[0]} drains"
        f" killed, {waiting} left for the last drain, {seconds:.1f} s: {found.rows} rows, each event once, chain whole"
    )
    ledger.close()
    client.close()


def _kill_database(request: pytest.FixtureRequest, client: redis.Redis) -> int:
    """Twice, each time once some transitions have been made; it stays down until others wait for it."""
    server: Postgres = request.getfixturevalue("postgres")
    for outage in (1, 2):
        eventually(_transitions_exceed(client, outage * PROCESSES * EACH // 4), within=60, every=0.005)
        server.stop(SIGKILL)
        eventually(lambda: bool(client.xlen(OUTBOX) >= 5), within=60, every=0.005)
        server.start()
    return 2


def _transitions_exceed(client: redis.Redis, number: int) -> Callable[[], bool]:
    def exceed() -> bool:
        stream: Any = client.xinfo_stream(OUTBOX)
        return bool(stream["entries-added"] > number)

    return exceed


def test_redis_and_the_database_down_during_a_kill(
    postgres: Postgres, postgres_url: str, own_server: EmbeddedRedis, tmp_path: Path, fork_server: ForkServer
) -> None:
    """Promise 5: the trip waits in the outbox, the steps in the spool, though the kill switch itself was killed."""
    ledger = Ledger.connect(postgres_url, timeout=0.5)
    upgrade(ledger)
    client = redis.Redis.from_url(own_server.url)
    postgres.stop(SIGKILL)
    CircuitBreaker(client, source="cli").trip("MANUAL")
    own_server.kill()

    said: list[str] = []
    for _ in range(3):
        arguments = (postgres_url, str(tmp_path / "spool"), str(len(said)))
        switch = fork_server.start("-c", KILL_SWITCH, *arguments, stdout=subprocess.PIPE)
        assert switch.stdout is not None
        with switch.stdout:
            steps = [switch.stdout.readline() for _ in range(5)]
            switch.kill()
            said += [line.strip() for line in [*steps, *switch.stdout.readlines()] if line.endswith("\n")]

    own_server.start()
    postgres.start()
    back = datetime.now(UTC)
    drained = drain(client, ledger, Spool(tmp_path / "spool"), ["global"])
    assert drained.problems == ()
    rows = ledger.query(limit=10_000).rows[::-1]
    steps_found = [row.id for row in rows if row.action == "POSITION_CLOSE_SENT"]
    assert rows[0].action == "CIRCUIT_BREAKER_TRIP"
    assert [name for name in steps_found if name in set(said)] == list(dict.fromkeys(said))
    assert [row.seq for row in rows] == sorted(row.seq for row in rows)
    assert all(row.timestamp < back <= row.recorded_at for row in rows)
    assert verify(ledger).whole
    print(f"\n{len(said)} steps acknowledged while all was down: {len(rows)} rows afterwards, in order, chain whole")
    ledger.close()
    client.close()
