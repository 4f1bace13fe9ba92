"""Stand between the wire and the exchange: count requests, check keys, make trouble, limit the rate, take time.

What is venue-specific about it (keys, error bodies, how a route is named) comes from the protocol's `ApiConventions`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sandbox.exchange.scenario import Account, Trouble
from sandbox.exchange.venue import Host, Venue

Disconnect = Callable[[Scope], None]
"""Closes the connection that a request came in on, without an answer."""


@dataclass(frozen=True, slots=True)
class ApiConventions:
    """What the edge must know of one venue's API."""

    prefixes: tuple[str, ...]
    """Paths that begin so are the venue's; others are the paper exchange's own."""
    route: Callable[[str, str], str]
    """Method and path with what varies replaced, as reports and trouble rules name it."""
    authorised: Callable[[Account, str, Mapping[bytes, bytes]], bool]
    """Whether these headers carry keys of the account that may do this (method), where that is all it takes."""
    weight: Callable[[str, str, str], int]
    """What a request (method, path, query) takes of the rate limit."""
    error: Callable[[Venue, str, bool], Response]
    """The answer to a kind of trouble that is a status, and whether the request took effect all the same."""
    headers: Callable[[Venue], dict[str, str]]
    """What each answer carries, as the rate limit's state."""


class Edge:
    """The ASGI application around all others."""

    def __init__(
        self, app: ASGIApp, host: Host, conventions: tuple[ApiConventions, ...], disconnect: Disconnect
    ) -> None:
        self._app = app
        self._host = host
        self._conventions = conventions
        self._disconnect = disconnect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        spoken = self._spoken(scope)
        if spoken is None:
            if scope["type"] == "http":
                self._host.venue.advance()
            await self._app(scope, receive, send)
            return
        venue = self._host.venue
        route = spoken.route(scope["method"], scope["path"])
        venue.record.requested(route, venue.now())
        plan = venue.trouble.plan(route, venue.now())
        await _pause(venue, plan.latency / 2)
        answer = await self._answer(venue, spoken, scope, receive, plan.trouble)
        await _pause(venue, plan.latency / 2)
        if isinstance(answer, Response):
            answer.headers.update(spoken.headers(venue))
            venue.record.responses[answer.status_code] += 1
            await answer(scope, receive, send)
        else:
            await self._leave_unanswered(scope, receive, answer)

    def _spoken(self, scope: Scope) -> ApiConventions | None:
        """Which venue's API the request is for; None for the paper exchange's own."""
        if scope["type"] != "http":
            return None
        return next((each for each in self._conventions if scope["path"].startswith(each.prefixes)), None)

    async def _answer(
        self, venue: Venue, spoken: ApiConventions, scope: Scope, receive: Receive, trouble: Trouble | None
    ) -> Response | str:
        """The answer, or how to leave the request without one."""
        if not spoken.authorised(venue.scenario.account, scope["method"], dict(scope["headers"])):
            return spoken.error(venue, "401", False)
        weight = spoken.weight(scope["method"], scope["path"], scope["query_string"].decode("latin-1"))
        now = venue.now()
        if not venue.rate_limit.admit(now, weight):
            return spoken.error(venue, "418" if venue.rate_limit.is_banned(now) else "429", False)
        if trouble is None:
            return await self._apply(venue, scope, receive)
        venue.record.trouble[trouble.kind + (" applied" if trouble.applied else "")] += 1
        if trouble.applied:
            await self._apply(venue, scope, receive)
        return spoken.error(venue, trouble.kind, trouble.applied) if trouble.kind.isdigit() else trouble.kind

    async def _apply(self, venue: Venue, scope: Scope, receive: Receive) -> Response:
        """Run the request against the exchange and keep its answer."""
        venue.advance()
        status, parts = 500, []

        async def keep(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                parts.append(message.get("body", b""))

        try:
            await self._app(scope, receive, keep)
        except ClientDisconnect:
            return Response(status_code=400)  # it went away before its request was whole: nothing to act on
        body = b"".join(parts)
        return Response(body, status, media_type="application/json" if body else None)

    async def _leave_unanswered(self, scope: Scope, receive: Receive, how: str) -> None:
        """Drop the connection, or say nothing until the client gives up."""
        if how == "drop":
            self._disconnect(scope)
        while (await receive())["type"] != "http.disconnect":
            pass


async def _pause(venue: Venue, seconds: float) -> None:
    if seconds > 0:
        await asyncio.sleep(seconds / venue.scenario.time_scale)
