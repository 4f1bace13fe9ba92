"""Hand `breaker kill --yes` to the standby executor, before anything slow is imported.

Standard library only: what is imported here comes between the operator's key and the first cancel. Whatever is unusual
(another option, no standby, no acknowledgement in time) is left to the command itself, which does it all on its own.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cli.process_clock import process_started
from configuration.fingerprint import configuration_fingerprint
from configuration.locations import absolute, configuration_file, default_state_dir, standby_socket
from configuration.login import behind_sudo, login_name

ACKNOWLEDGED_WITHIN = 0.2
"""Seconds that connecting and the acknowledgement may take together."""
_VALUES = {"--reason": "reason", "--operator": "operator", "--scope": "scope"}


class StandbySession:
    """A connection on which a standby has accepted the request, under these ids."""

    def __init__(self, connection: socket.socket, acknowledgement: dict[str, Any]) -> None:
        connection.settimeout(None)
        self._lines = connection.makefile("r", encoding="utf-8")
        self.event_id: str = acknowledgement["event_id"]
        self.incident_id: str = acknowledgement["incident_id"]

    def messages(self) -> Iterator[dict[str, Any]]:
        """What becomes of it, until the standby is done or gone. Raises OSError or ValueError where that is broken."""
        for line in self._lines:
            yield json.loads(line)


session: StandbySession | None = None
"""Set before the command line is parsed for good; the command then only follows."""


def hand_over(arguments: Sequence[str]) -> None:
    """Hand a plain `kill --yes` to the standby of this state directory, if one answers in time."""
    global session  # noqa: PLW0603  one process, one request
    request = _plain_kill(arguments)
    try:
        if request is None or not (path := standby_socket(_state_dir())).exists():
            return
    except OSError:  # the command itself says what it can't read
        return
    until = time.monotonic() + ACKNOWLEDGED_WITHIN
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(ACKNOWLEDGED_WITHIN)
        connection.connect(str(path))
        connection.sendall(json.dumps({**request, "configuration": configuration_fingerprint()}).encode() + b"\n")
        answer = json.loads(_line(connection, until))
    except (OSError, ValueError):
        connection.close()
        return
    if answer.get("event") == "ACCEPTED":
        session = StandbySession(connection, answer)
    else:
        sys.stderr.write(f"breaker: the standby will not do it: {answer.get('why')}; doing it here\n")
        connection.close()


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
    request["login"], request["sudo"] = login_name(), behind_sudo()
    request.setdefault("operator", request["login"])
    return request


def _state_dir() -> Path:
    """As configuration/settings.py finds it, which is slow to import."""
    if named := os.environ.get("BREAKER_STATE_DIR"):
        return absolute(Path(named))
    file = configuration_file()
    if file.is_file():
        import tomllib  # noqa: PLC0415

        try:
            named = tomllib.loads(file.read_text(encoding="utf-8")).get("state_dir")
        except (OSError, ValueError):
            named = None
        if isinstance(named, str):
            return absolute(Path(named))
    return default_state_dir()


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
