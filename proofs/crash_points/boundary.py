"""Every I/O of this process, counted where Python hands it to the operating system; and death just before or after one.

What a process has received changes nothing outside it, so that only what it sends, writes or names is counted: to die
after an answer came is to die before whatever is sent or written next. A driver in C (SQLite, libpq) is counted by the
statements that SQLAlchemy gives it.
"""

from __future__ import annotations

import builtins
import io
import os
import re
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine.default import DefaultDialect

from breaker.requests import load_script

_SCRIPTS = ("trip", "reset", "initialize", "end_quiet_period")
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_NUMBER = re.compile(r"\d{2,}")
_HTTP = re.compile(rb"(GET|POST|PUT|PATCH|DELETE) ([^ ?]+)\S* HTTP/1")
_WRITING = os.O_WRONLY | os.O_RDWR
_NOT_THE_RUN = ("GET", "/logs/", "/filter", "/csrf", "/events")
"""Of the orchestrator's requests, those that change nothing of a run there."""


class Side(StrEnum):
    BEFORE = "before"
    AFTER = "after"


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """The `nth` I/O with this label, counted from 1: numbers in a whole run shift with its timing, these hardly do."""

    label: str
    nth: int

    def __str__(self) -> str:
        return f"{self.label} #{self.nth}"


@dataclass(frozen=True, slots=True)
class Death:
    point: Point
    side: Side

    def __str__(self) -> str:
        return f"{self.side} {self.point}"


class Boundary:
    """Counts, writes each point into `journal` before it is crossed, and dies where `death` says.

    `peers` names what listens on which local port; `root` is the directory whose files count.
    """

    def __init__(self, journal: Path, peers: Mapping[int, str], root: Path, death: Death | None = None) -> None:
        self._journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._peers = peers
        self._root = f"{root}/"
        self._death = death
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._write = os.write
        self._here = threading.local()
        self._scripts = {load_script(name).sha.encode(): name for name in _SCRIPTS}

    def install(self) -> None:
        """For the rest of the process's life."""
        for name in ("send", "sendall", "sendmsg"):
            self._wrap(socket.socket, name, self._sending)
        for name in ("connect", "connect_ex"):
            self._wrap(socket.socket, name, self._connecting)
        for name in ("unlink", "remove", "mkdir", "rmdir"):
            self._wrap(os, name, lambda path, *_, _name=name, **__: self._path(_name, path))
        for name in ("rename", "replace", "link"):
            self._wrap(os, name, lambda path, to, *_, _name=name, **__: self._path(_name, path, to))
        for name in ("write", "fsync", "fdatasync", "ftruncate"):
            self._wrap(os, name, lambda file, *_, _name=name, **__: self._path(_name, _name_of(file)))
        self._wrap(os, "open", lambda path, flags, *_, **__: self._path("open", path) if flags & _WRITING else None)
        for module in (builtins, io):
            self._wrap(module, "open", self._opening)
        for dialect in (DefaultDialect, PGDialect_psycopg2, SQLiteDialect_pysqlite):
            for name, label in _STATEMENTS.items():
                if name in vars(dialect):
                    self._wrap(dialect, name, label)

    @contextmanager
    def crossing(self, label: str) -> Iterator[None]:
        if getattr(self._here, "inside", False):
            yield
            return
        with self._lock:
            self._counts[label] += 1
            point = Point(label, self._counts[label])
            self._write(self._journal, f"{point.nth}\t{label}\n".encode())
        if self._death == Death(point, Side.BEFORE):
            _die()
        self._here.inside = True
        try:
            yield
        finally:
            self._here.inside = False
            if self._death == Death(point, Side.AFTER):
                _die()

    def _wrap(self, owner: Any, name: str, label: Callable[..., str | None]) -> None:
        original = getattr(owner, name)

        def wrapped(*arguments: Any, **named: Any) -> Any:
            crossed = label(*arguments, **named)
            if crossed is None:
                return original(*arguments, **named)
            with self.crossing(crossed):
                return original(*arguments, **named)

        setattr(owner, name, wrapped)

    def _sending(self, connection: socket.socket, data: Any, *_: Any) -> str | None:
        try:
            peer = self._peer(connection.getpeername())
        except OSError:
            return None
        if peer is None:
            return None
        content = b"".join(data) if isinstance(data, list) else bytes(data)
        if content.startswith(b"*"):
            return f"{peer} {self._redis_commands(content)}"
        request = _HTTP.match(content)
        if peer == "Prefect":
            return _of_a_run(peer, request)
        return f"{peer} {_request(request)}" if request else f"{peer} body"

    def _connecting(self, _: socket.socket, address: Any, *__: Any) -> str | None:
        peer = self._peer(address)
        return f"{peer} connect" if peer else None

    def _peer(self, address: Any) -> str | None:
        return self._peers.get(address[1]) if isinstance(address, tuple) and len(address) >= 2 else None

    def _redis_commands(self, content: bytes) -> str:
        words = content.split(b"\r\n")
        starts = [index for index, word in enumerate(words) if re.fullmatch(rb"\*\d+", word)]
        names = []
        for start in starts:
            name, argument = words[start + 2], words[start + 4] if len(words) > start + 4 else b""
            script = self._scripts.get(argument)
            names.append(f"{name.decode()} {script}" if script else name.decode())
        return " ".join(dict.fromkeys(names))

    def _opening(self, file: Any, mode: str = "r", *_: Any, **__: Any) -> str | None:
        if isinstance(file, int) or not set(mode) & set("wax+"):
            return None
        return self._path("open", file)

    def _path(self, action: str, *paths: Any) -> str | None:
        found = [os.fsdecode(path) for path in paths if not isinstance(path, int)]
        if not found or not f"{found[0]}/".startswith(self._root):
            return None
        return f"{action} " + " → ".join(_general(f"{path}/".removeprefix(self._root).rstrip("/")) for path in found)


def _statement(_: Any, _cursor: Any, statement: str, *__: Any, **___: Any) -> str:
    words = statement.split()
    wanted = 3 if words[0] in ("INSERT", "CREATE", "UPDATE", "DELETE") else 2 if words[0] == "BEGIN" else 1
    return "database " + " ".join(words[:wanted]).rstrip(";")


_STATEMENTS: Mapping[str, Callable[..., str]] = {
    "connect": lambda *_, **__: "database connect",
    "do_execute": _statement,
    "do_executemany": _statement,
    "do_execute_no_params": _statement,
    "do_commit": lambda *_: "database COMMIT",
    "do_rollback": lambda *_: "database ROLLBACK",
}


def _of_a_run(peer: str, request: re.Match[bytes] | None) -> str | None:
    """Flow runs, their states, artifacts; not what is read, logs, or the stream of events that task runs travel in."""
    if request is None:
        return None
    text = _request(request)
    return None if any(word in text for word in _NOT_THE_RUN) else f"{peer} {text}"


def _request(request: re.Match[bytes]) -> str:
    method, path = request.group(1).decode(), request.group(2).decode()
    return f"{method} {_ID.sub('{id}', path)}"


def _general(path: str) -> str:
    return _NUMBER.sub("*", _ID.sub("*", path))


def _name_of(file: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{file}")  # noqa: PTH115  a Path would be opened by what is wrapped here
    except OSError:
        return ""


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def read_points(journal: Path) -> list[Point]:
    """What a run crossed, in its order."""
    lines = journal.read_text("utf-8").splitlines() if journal.exists() else []
    return [Point(label, int(nth)) for nth, _, label in (line.partition("\t") for line in lines)]
