"""The ledger behind a pooler, on several hosts of which one is down, on a standby, and by a service file."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from ledger.errors import LedgerError, LedgerUnavailable
from ledger.ledger import Ledger
from ledger.record import AuditRecord
from ledger.schema import upgrade
from sandbox.child_process import Child, end, free_port, spawn
from tests.helpers import eventually
from tests.ledger.servers import Postgres

_SSL_REQUEST = 80_877_103
_SAID = b"SFATAL\0C08P01\0Munsupported startup parameter in options: statement_timeout\0\0"


class _TakesNoOptions(socketserver.BaseRequestHandler):
    """Forwards to PostgreSQL, but for clients that bring options, as pgbouncer does."""

    upstream: int

    def handle(self) -> None:
        while True:
            head = self._read(8)
            length, code = struct.unpack("!II", head)
            if code != _SSL_REQUEST:
                break
            self.request.sendall(b"N")
        startup = head + self._read(length - 8)
        if b"options\0" in startup:
            self.request.sendall(b"E" + struct.pack("!I", len(_SAID) + 4) + _SAID)
            return
        with socket.create_connection(("127.0.0.1", self.upstream)) as server:
            server.sendall(startup)
            back = threading.Thread(target=self._forward, args=(server, self.request), daemon=True)
            back.start()
            self._forward(self.request, server)
            back.join()

    def _read(self, count: int) -> bytes:
        found: bytes = self.request.recv(count, socket.MSG_WAITALL)
        return found

    @staticmethod
    def _forward(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@pytest.fixture
def without_options(postgres: Postgres) -> Iterator[int]:
    handler = type("Handler", (_TakesNoOptions,), {"upstream": postgres.port})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture
def pgbouncer(postgres: Postgres, postgres_url: str, tmp_path: Path) -> Iterator[int]:
    """The real one, in transaction mode, with two sessions for all."""
    if shutil.which("pgbouncer") is None:
        pytest.skip("pgbouncer is not installed (Debian: apt install pgbouncer)")
    port, name = free_port(), postgres_url.rpartition("/")[2]
    configuration = tmp_path / "pgbouncer.ini"
    configuration.write_text(
        f"[databases]\n{name} = host=127.0.0.1 port={postgres.port} user=postgres\n[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        "pool_mode = transaction\ndefault_pool_size = 2\n"
    )
    as_nobody = ["setpriv", "--reuid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    for parent in (tmp_path, *tmp_path.parents[:3]):
        parent.chmod(parent.stat().st_mode | 0o011)
    with (tmp_path / "pgbouncer.log").open("wb") as log:
        running: Child = spawn([*as_nobody, "pgbouncer", str(configuration)], env=os.environ, output=log)
    try:
        eventually(lambda: _listens(port))
        yield port
    finally:
        end(running, within=5.0)


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def through(port: int, url: str) -> str:
    return f"postgresql://postgres@127.0.0.1:{port}/{url.rpartition('/')[2]}"


def limits_of(ledger: Ledger) -> set[str]:
    with ledger.engine.connect() as connection, connection.begin():
        names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
        return {str(connection.exec_driver_sql(f"SHOW {name}").scalar()) for name in names}


def append_from_several_threads(url: str, *, threads: int = 4, each: int = 5) -> None:
    def append() -> None:
        with closing(Ledger.connect(url, timeout=20.0)) as ledger:
            for _ in range(each):
                ledger.append([AuditRecord(action="X", source="cli")])

    started = [threading.Thread(target=append) for _ in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()


def is_whole(ledger: Ledger) -> bool:
    rows = [row for batch in ledger.stream() for row in batch]
    return [row[0] for row in rows] == list(range(1, len(rows) + 1)) and all(
        row[-2] == before[-1] for before, row in itertools.pairwise(rows)
    )


@pytest.mark.parametrize("pooler", ["without_options", "pgbouncer"])
def test_behind_a_pooler_each_transaction_brings_its_limits_and_the_chain_is_whole(
    pooler: str, request: pytest.FixtureRequest, postgres_url: str
) -> None:
    url = through(request.getfixturevalue(pooler), postgres_url)
    with closing(Ledger.connect(url, timeout=20.0)) as ledger:
        upgrade(ledger)
        append_from_several_threads(url)
        assert is_whole(ledger) and len(ledger.query().rows) == 20
        assert limits_of(ledger) == {"20s"}


def test_without_a_pooler_the_session_has_the_limits(postgres_url: str) -> None:
    with closing(Ledger.connect(postgres_url, timeout=20.0)) as straight:
        assert limits_of(straight) == {"20s"}


def test_of_several_hosts_the_one_that_can_be_written_is_used(postgres: Postgres, postgres_url: str) -> None:
    name = postgres_url.rpartition("/")[2]
    hosts = f"127.0.0.1:{free_port()},127.0.0.1:{postgres.port}"
    with closing(Ledger.connect(f"postgresql://postgres@{hosts}/{name}?target_session_attrs=read-write")) as ledger:
        upgrade(ledger)
        assert ledger.append([AuditRecord(action="X", source="cli")]).new


def test_a_read_only_standby_takes_nothing_and_says_so(postgres: Postgres, postgres_url: str) -> None:
    with closing(Ledger.connect(postgres_url)) as ledger:
        upgrade(ledger)
        ledger.append([AuditRecord(action="X", source="cli")])
        postgres.execute(
            "postgres", f"ALTER DATABASE {postgres_url.rpartition('/')[2]} SET default_transaction_read_only = on"
        )
    with closing(Ledger.connect(postgres_url)) as ledger:
        with pytest.raises(LedgerUnavailable, match="read-only"):
            ledger.append([AuditRecord(action="Y", source="cli")])
        assert [row.action for row in ledger.query().rows] == ["X"]


def test_a_service_of_a_file_names_the_database(
    postgres: Postgres, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pg_service.conf"
    name = postgres_url.rpartition("/")[2]
    file.write_text(f"[desk]\nhost=127.0.0.1\nport={postgres.port}\nuser=postgres\ndbname={name}\n")
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    with closing(Ledger.connect("postgresql://?service=desk")) as ledger:
        upgrade(ledger)
        assert ledger.append([AuditRecord(action="X", source="cli")]).new


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:secret@a:none/ledger",
        "postgresql://u:secret@a:5432,b:none/ledger",
        "postgresql://u:secret@a:5432,b:5432",
        "postgresql://",
        "mysql://u:secret@a/ledger",
        "not a url",
    ],
)
def test_what_names_no_database_is_refused_in_a_sentence_without_its_password(url: str) -> None:
    with pytest.raises(LedgerError) as refused:
        Ledger.connect(url).append([AuditRecord(action="X", source="cli")])
    assert "secret" not in str(refused.value) and "\n" not in str(refused.value)
