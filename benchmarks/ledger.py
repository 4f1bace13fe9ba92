"""What the audit log costs: appending, verifying, and the memory that verifying a long chain takes.

Appends are compared with plain INSERTs of the same rows into an equal table, on the same PostgreSQL server in the same
run, in alternating rounds. `python benchmarks/ledger.py [ROWS]`; ROWS to verify is 1,000,000 unless given.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import psycopg2

from ledger.ledger import Ledger
from ledger.record import COLUMNS, GENESIS, AuditRecord, chain
from ledger.schema import upgrade
from ledger.verify import verify
from tests.ledger.servers import Postgres

ROUNDS, APPENDS = 7, 500
WRITERS = 8


def records(number: int) -> list[AuditRecord]:
    details = {
        "reason": "MANUAL",
        "from_state": "OPEN",
        "to_state": "TRIPPED",
        "epoch": 7,
        "details": {"operator": "al"},
    }
    return [
        AuditRecord(
            action="CIRCUIT_BREAKER_TRIP", source="cli", user_id="alice", details=details, ip_address="10.0.0.1"
        )
        for _ in range(number)
    ]


def compare_appends(url: str, ledger: Ledger) -> None:
    """Both sides send one row at a time and have each on the disk before the next."""
    plain = psycopg2.connect(url)
    plain.autocommit = True
    cursor = plain.cursor()
    cursor.execute("CREATE TABLE plain (LIKE audit_log INCLUDING ALL)")
    statement = f"INSERT INTO plain VALUES ({', '.join(['%s'] * len(COLUMNS))})"
    rates: dict[str, list[float]] = {"plain INSERT": [], "append": []}
    for number in range(ROUNDS):
        rows = chain(
            records(APPENDS), after_seq=number * APPENDS, after_hash=GENESIS, recorded_at=datetime.now(UTC), key=None
        )
        begun = time.perf_counter()
        for row in rows:
            cursor.execute(statement, row)
        rates["plain INSERT"].append(APPENDS / (time.perf_counter() - begun))
        ours = records(APPENDS)
        begun = time.perf_counter()
        for record in ours:
            ledger.append([record])
        rates["append"].append(APPENDS / (time.perf_counter() - begun))
    plain.close()
    for name, found in rates.items():
        print(f"{name:<28} {statistics.median(found):>10,.0f} rows/s  (from {min(found):,.0f} to {max(found):,.0f})")
    ratios = [ours / theirs for ours, theirs in zip(rates["append"], rates["plain INSERT"], strict=True)]
    print(f"{'append ÷ plain INSERT':<28} {statistics.median(ratios):>10.2f}         (at least 0.5)")


def append_together(url: str) -> None:
    ledgers = [Ledger.connect(url, timeout=30) for _ in range(WRITERS)]

    def write(ledger: Ledger) -> None:
        for record in records(250):
            ledger.append([record])

    begun = time.perf_counter()
    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(write, ledgers))
    rate = WRITERS * 250 / (time.perf_counter() - begun)
    whole = verify(ledgers[0]).whole
    print(f"{f'append by {WRITERS} writers':<28} {rate:>10,.0f} rows/s  (chain {'whole' if whole else 'BROKEN'})")
    for ledger in ledgers:
        ledger.close()


def fill(ledger: Ledger, rows: int) -> None:
    for start in range(0, rows, 5_000):
        ledger.append(records(min(5_000, rows - start)))


VERIFY = """
import resource, sys
from ledger.ledger import Ledger
from ledger.verify import verify
found = verify(Ledger.connect(sys.argv[1]))
assert found.whole, found
print(found.rows, found.seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def measure_verify(name: str, url: str) -> None:
    """In a process of its own, whose whole memory counts, the interpreter's and SQLAlchemy's included."""
    done = subprocess.run([sys.executable, "-c", VERIFY, url], capture_output=True, text=True, check=True)
    rows, seconds, megabytes = (float(word) for word in done.stdout.split())
    print(f"{f'verify on {name}':<28} {rows / seconds:>10,.0f} rows/s  (at least 100,000)")
    print(f"{f'  memory for {rows:,.0f} rows':<28} {megabytes:>10.0f} MB      (at most 100)")


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as directory:
        server = Postgres(Path(directory) / "data")
        server.start()
        try:
            url = server.create_database("audit")
            ledger = Ledger.connect(url, timeout=30)
            upgrade(ledger)
            compare_appends(url, ledger)
            append_together(url)
            fill(ledger, rows - ledger.head()[0])
            ledger.close()
            measure_verify("PostgreSQL", url)
        finally:
            server.stop()
        url = f"sqlite:///{directory}/audit.db"
        ledger = Ledger.connect(url, timeout=30)
        upgrade(ledger)
        fill(ledger, rows)
        ledger.close()
        measure_verify("SQLite", url)


if __name__ == "__main__":
    main()
