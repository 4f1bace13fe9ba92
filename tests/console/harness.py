"""A console on a real socket, and somebody who uses it as a browser without JavaScript does."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Mapping
from html import unescape
from types import TracebackType
from typing import Self

import httpx
import redis

from breaker.deadline_client import DeadlineClient
from breaker.gate.report import GateReport, report_request
from configuration.running import RunningConfiguration
from configuration.settings import Settings
from console.auth.identities import Identities
from console.auth.permissions import PERMISSIONS, Permission, Role
from console.serve import prepare, server
from ledger.configured import open_ready_ledger
from ledger.ledger import Ledger
from tests.helpers import eventually

PASSWORD = "correct horse battery"
REASON = "Unusual market volatility detected"


class Console:
    """Served on a thread of its own, at a free port unless `port` names one."""

    def __init__(self, settings: Settings, port: int = 0) -> None:
        self.settings = settings
        prepare(settings)
        self.ledger: Ledger = open_ready_ledger(settings)
        self.identities = Identities(self.ledger)
        # The protocol is named, as asyncio switches delays off only where it is.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", port))
        self.port: int = self._socket.getsockname()[1]
        self._server = server(RunningConfiguration(settings))
        self._thread = threading.Thread(target=self._serve, name="console")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _serve(self) -> None:
        asyncio.run(self._server.serve([self._socket]))

    def __enter__(self) -> Self:
        self._thread.start()
        eventually(lambda: self._server.started or not self._thread.is_alive())
        assert self._server.started, "the console did not start"
        return self

    def stop(self) -> None:
        """Doing so twice is fine."""
        self._server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive(), "the console did not stop"

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
        self.ledger.close()

    def user(self, name: str, role: Role) -> str:
        """Make sure that there is such a user; its password is PASSWORD."""
        if name not in [user.name for user in self.identities.users.all()]:
            self.identities.users.add(name, role, PASSWORD)
        return name

    def visitor(self, role: Role | None = None, **options: object) -> Visitor:
        """Somebody signed in with that role, or not at all."""
        visitor = Visitor(self.url, **options)
        if role is not None:
            visitor.sign_in(self.user(f"the_{role}", role))
        return visitor

    def api(self, role: Role = Role.ADMIN, permissions: list[Permission] | None = None) -> httpx.Client:
        """A program with a token of a user of that role."""
        user = self.user(f"the_{role}", role)
        text, _ = self.identities.tokens.create(user, "test", permissions or sorted(PERMISSIONS[role]), 1)
        return httpx.Client(base_url=f"{self.url}/api/v1", headers={"Authorization": f"Bearer {text}"}, timeout=30)


class Visitor(httpx.Client):
    """Follows redirects, keeps cookies and sends forms with everything that they hide."""

    def __init__(self, url: str, **options: object) -> None:
        # Without TLS there is nothing to verify, and loading what to verify by takes longer than most requests.
        super().__init__(base_url=url, follow_redirects=True, timeout=30, verify=False, **options)  # type: ignore[arg-type]

    def sign_in(self, user: str, password: str = PASSWORD) -> httpx.Response:
        return self.submit("/login", {"user": user, "password": password})

    def submit(self, path: str, fields: Mapping[str, str], *, page: str | None = None) -> httpx.Response:
        """Load the page with the form, fill it in and send it."""
        found = self.get(page or path)
        return self.post(path, data={**hidden_fields(found.text, path), **fields})


def hidden_fields(html: str, action: str) -> dict[str, str]:
    """What the form with that action hides."""
    forms = re.findall(r"<form[^>]*>.*?</form>", html, re.DOTALL)
    form = next((form for form in forms if f'action="{action}"' in form.replace("&amp;", "&")), "")
    return {
        unescape(name): unescape(value)
        for name, value in re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)"', form)
    }


def lose_a_gate(client: redis.Redis) -> None:
    """As an engine that was killed a minute ago leaves it."""
    report = GateReport("lost", "engine-7", 4711, "thread", ("global",), "OPEN", 0.05, 1, {"admitted": 5})
    deadline_client = DeadlineClient(client, 2.0)
    deadline_client.execute(report_request(report, last=False))
    deadline_client.close()
    client.zincrby("circuit_breaker:gates", -60_000, "lost")
