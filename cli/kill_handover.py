"""`breaker kill --yes`, handed to the standby executor before anything slow is imported.

Standard library only: what is imported here comes between the operator's key and the first cancel. Whatever is unusual
(another option, no standby, no acknowledgement in time) is left to the command itself, which does it all on its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cli.process_clock import process_started

ACKNOWLEDGED_WITHIN = 0.2
"""Seconds that connecting and the acknowledgement may take together."""
SOCKET = "standby.sock"
_VALUES = {"--reason": "reason", "--operator": "operator", "--scope": "scope"}


class Handed:
    """A connection on which a standby has acknowledged the request."""

    def __init__(self, connection: socket.socket, acknowledgement: dict[str, Any], request: dict[str, Any]) -> None:
        connection.settimeout(None)
        self.lines = connection.makefile("r", encoding="utf-8")
        self.acknowledgement = acknowledgement
        self.request = request


handed: Handed | None = None
"""Set before the command line is parsed for good; the command then only follows."""


def hand_over(arguments: Sequence[str]) -> None:
    """Hand a plain `kill --yes` to the standby of this state directory, if one answers in time."""
    global handed  # noqa: PLW0603  one process, one request
    request = _plain_kill(arguments)
    path = _state_dir() / SOCKET if request is not None else None
    if request is None or path is None or not path.exists():
        return
    until = time.monotonic() + ACKNOWLEDGED_WITHIN
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(ACKNOWLEDGED_WITHIN)
        connection.connect(str(path))
        connection.sendall(json.dumps({**request, "configuration": fingerprint()}).encode() + b"\n")
        answer = json.loads(_line(connection, until))
    except (OSError, ValueError):
        connection.close()
        return
    if answer.get("event") == "ACCEPTED":
        handed = Handed(connection, answer, request)
    else:
        sys.stderr.write(f"breaker: the standby will not do it: {answer.get('why')}; doing it here\n")
        connection.close()


def fingerprint() -> dict[str, Any]:
    """What the configuration is, without its secrets: a standby with another one must not flatten other accounts."""
    file = Path(os.environ.get("BREAKER_CONFIG", "breaker.toml"))
    return {
        "file": hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None,
        "variables": {
            name: hashlib.sha256(value.encode()).hexdigest()
            for name, value in os.environ.items()
            if name.startswith("BREAKER_") and name != "BREAKER_CONFIG"
        },
    }


def _plain_kill(arguments: Sequence[str]) -> dict[str, Any] | None:
    """The request, if there is nothing else on the command line than what is understood here."""
    if not arguments or arguments[0] != "kill" or "--yes" not in arguments:
        return None
    request: dict[str, Any] = {"accounts": [], "started": process_started()}
    rest = iter(arguments[1:])
    for argument in rest:
        if argument in ("--yes", "--json"):
            continue
        value = next(rest, None)
        if value is None or not value.strip().isprintable() or not 1 <= len(value.strip()) <= 500:
            return None
        if argument in _VALUES:
            request[_VALUES[argument]] = value.strip()
        elif argument == "--account":
            request["accounts"].append(value.upper())
        else:
            return None
    request.setdefault("operator", os.environ.get("SUDO_USER") or _login())
    return request


def _login() -> str:
    from getpass import getuser  # noqa: PLC0415  most often the operator is named

    try:
        return getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _state_dir() -> Path:
    """As configuration/settings.py finds it, which is slow to import."""
    if named := os.environ.get("BREAKER_STATE_DIR"):
        return Path(named).expanduser().absolute()
    file = Path(os.environ.get("BREAKER_CONFIG", "breaker.toml"))
    if file.is_file():
        import tomllib  # noqa: PLC0415

        try:
            named = tomllib.loads(file.read_text(encoding="utf-8")).get("state_dir")
        except (OSError, ValueError):
            named = None
        if isinstance(named, str):
            return Path(named).expanduser().absolute()
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "breaker"


def _line(connection: socket.socket, until: float) -> bytes:
    """The acknowledgement, a byte at a time, so that what follows it stays in the connection."""
    line = bytearray()
    while not line.endswith(b"\n"):
        connection.settimeout(max(until - time.monotonic(), 0.001))
        byte = connection.recv(1)
        if not byte:
            raise OSError("closed")
        line += byte
    return bytes(line)
