"""Call the console's API, so that the console's permissions hold on the command line too."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from breaker.errors import BreakerError, BreakerUnavailable, InvalidInput
from breaker.events import History, UnreadableEvent, read_history
from breaker.keys import GLOBAL
from breaker.state import State, Status
from breaker.uuid7 import uuid7
from brokers.coverage import NamedScope
from cli.environment import TOKEN, URL
from configuration.addresses import is_loopback
from configuration.reasons import KILL_CONFIRMATION

TIMEOUT = 10.0
MEASURED_WITHIN = 45.0
"""Seconds for what the console measures everything before."""
WITHOUT_IT = (
    f"Halting works without the console: unset {URL} on a host with the configuration, or run deployments/emergency.py"
)


class _NoRedirects(HTTPRedirectHandler):
    """A token goes to the console alone, not to wherever it points."""

    def redirect_request(self, *_: Any) -> None:
        return None


class _NotReached(OSError):
    """There was no connection, so nothing can have been asked over it."""


class _Connecting(HTTPConnection):
    def connect(self) -> None:
        try:
            super().connect()
        except OSError as error:
            raise _NotReached(str(error)) from error


class _ConnectingSecurely(_Connecting, HTTPSConnection):
    """`_Connecting.connect` goes on to that of HTTPSConnection."""


class _Http(HTTPHandler):
    def http_open(self, request: Request) -> HTTPResponse:
        return self.do_open(_Connecting, request)


class _Https(HTTPSHandler):
    def https_open(self, request: Request) -> HTTPResponse:
        return self.do_open(_ConnectingSecurely, request)


@dataclass(frozen=True, slots=True)
class ResetAnswer:
    """What came of a reset; the two sentences are empty for nothing."""

    status: Status
    rebased: str
    equity_warning: str


@dataclass(frozen=True, slots=True)
class ConsoleClient:
    """Its methods raise InvalidInput (nothing changed), BreakerError where the console refuses (nothing changed), and
    BreakerUnavailable where it can't be asked or can't do it.
    """

    url: str
    token: str

    @classmethod
    def from_environment(cls) -> ConsoleClient:
        """As BREAKER_URL and BREAKER_TOKEN say. Raises InvalidInput for what can't be used."""
        url, token = os.environ[URL].rstrip("/"), os.environ.get(TOKEN, "")
        address = urlsplit(url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise InvalidInput(f"{URL} is {url!r}, no http(s) address; nothing changed")
        if address.scheme == "http" and not is_loopback(address.hostname):
            raise InvalidInput(
                f"{URL} has to be https: over http everybody on the way reads the token; nothing changed"
            )
        if not token.isascii() or not token.strip():
            raise InvalidInput(
                f"{TOKEN} holds no token; make one with `breaker token create NAME --label WHAT --permission "
                "TRIP_CIRCUIT`; nothing changed"
            )
        return cls(url, token.strip())

    def status(self, scope: str) -> Status:
        return _status(self._get("circuit-breaker", scope=scope))

    def restricted(self) -> dict[str, Status]:
        """The breakers beside `global` that are not OPEN, worst first; none from a console that doesn't tell."""
        told = self._get("circuit-breaker", scope=GLOBAL).get("restricted") or []
        return {str(each["scope"]): _status(each) for each in told}

    def history(self, scope: str, limit: int) -> History:
        """Newest first."""
        found = self._get("circuit-breaker/history", scope=scope, limit=str(limit))
        told = read_history(json.dumps(event) for event in found["events"])
        return History(told, [*told.unreadable, *(UnreadableEvent(**each) for each in found.get("unreadable", ()))])

    def named(self, scope: str) -> NamedScope:
        """The breaker that the console takes `scope` for."""
        return _named(self._get("circuit-breaker", scope=scope), scope)

    def trip(self, scope: str, reason: str) -> tuple[NamedScope, Status]:
        """The breaker that was tripped, and its state."""
        found = self._post("circuit-breaker/trip", scope, {"reason": reason})
        return _named(found, scope), _status(found)

    def reset(
        self,
        scope: str,
        reason: str,
        override_reason: str,
        expected_epoch: int | None,
        *,
        rebase_equity: bool = False,
    ) -> ResetAnswer:
        body: dict[str, Any] = {
            "reason": reason,
            "override_reason": override_reason,
            "expected_epoch": expected_epoch,
            **({"rebase_equity": True} if rebase_equity else {}),  # which an older console does not know
        }
        found = self._post("circuit-breaker/reset", scope, body, within=MEASURED_WITHIN)
        rebased, warning = found.get("equity_rebased") or "", found.get("equity_warning") or ""
        return ResetAnswer(_status(found), rebased, warning)

    def foreseen_trip(self, scope: str) -> str:
        """That the next measurement of equity trips again, with the figures; empty where none would."""
        return self._get("circuit-breaker", scope=scope).get("equity_warning") or ""

    def start_kill(self, scope: str, reason: str, accounts: Sequence[str] | None) -> dict[str, Any]:
        """The run as it stands right after its halt. `accounts`: only these; all of the console's if there are none."""
        body = {"reason": reason, "confirm": KILL_CONFIRMATION, "accounts": list(accounts) if accounts else None}
        return self._post("kill-switch", scope, body)

    def kill(self, incident_id: str) -> dict[str, Any]:
        """How the run of that incident stands."""
        return self._get(f"kill-switch/{quote(incident_id, safe='')}")

    def _get(self, path: str, **query: str) -> dict[str, Any]:
        return self._ask(self._request(f"{path}?{urlencode(query)}"), changes=False)

    def _post(self, path: str, scope: str, body: Mapping[str, Any], *, within: float = TIMEOUT) -> dict[str, Any]:
        request = self._request(
            f"{path}?{urlencode({'scope': scope})}", json.dumps({"acknowledge": True, **body}).encode()
        )
        request.add_header("Content-Type", "application/json")
        request.add_header("Idempotency-Key", uuid7())
        return self._ask(request, changes=True, within=within)

    def _request(self, path: str, body: bytes | None = None) -> Request:
        headers = {"Authorization": f"Bearer {self.token}"}
        return Request(f"{self.url}/api/v1/{path}", body, headers)  # noqa: S310  `from_environment` has seen to the scheme

    def _ask(self, request: Request, *, changes: bool, within: float = TIMEOUT) -> dict[str, Any]:
        try:
            with build_opener(_NoRedirects, _Http, _Https).open(request, timeout=within) as answer:
                found: dict[str, Any] = json.load(answer)
        except HTTPError as error:
            raise _refusal(error) from None
        except (URLError, HTTPException, OSError, ValueError) as error:
            raise self._no_answer(error, changes) from None
        return found

    def _no_answer(self, error: Exception, changes: bool) -> BreakerUnavailable:
        why = getattr(error, "reason", error)
        if isinstance(why, _NotReached):
            message, asked = f"the console at {self.url} can't be reached ({why}); nothing was asked of it.", False
        else:
            message, asked = f"the console at {self.url} gave no usable answer ({why or type(why).__name__}).", changes
        if asked:
            message += " It was asked, and may have done it, or may do so yet."
        return BreakerUnavailable(f"{message} {WITHOUT_IT}", may_have_happened=asked)


def _named(body: Mapping[str, Any], asked: str) -> NamedScope:
    return NamedScope(str(body.get("scope") or asked), str(body.get("scope_doubt") or ""))


def _status(body: dict[str, Any]) -> Status:
    names = (
        "scope",
        "as_of",
        "problem",
        "unconfirmed",
        "equity_warning",
        "equity_rebased",
        "restricted",
        "scope_doubt",
    )
    beside = {name: body.pop(name, None) for name in names}
    return Status(State(body["state"]), body, problem=beside["problem"], unconfirmed=beside["unconfirmed"])


def _refusal(error: HTTPError) -> BreakerError:
    """The console's problem details as an error of ours."""
    try:
        problem = json.load(error)
        detail, may_have_happened = str(problem["detail"]), bool(problem.get("may_have_happened"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        detail, may_have_happened = f"{error.code} {error.reason}: no answer of a console", False
    message = f"the console says: {detail}"
    if error.code in (400, 422):
        return InvalidInput(message)
    if error.code >= 500:
        return BreakerUnavailable(f"{message} {WITHOUT_IT}", may_have_happened=may_have_happened)
    return BreakerError(message)
