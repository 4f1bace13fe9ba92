"""Pass an engine's requests to the venue, and answers back, byte for byte; orders only by the gatekeeper's leave."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import structlog
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from breaker.engines import OrderRefused, RulesFeed
from breaker.errors import one_line
from breaker.gate import Decision, Reason
from services.gateway.credentials import are_of
from services.gateway.gatekeeper import Admitted, Gatekeeper
from services.gateway.orders import LARGEST_BODY, NotUnderstood, read_request
from services.gateway.routes import Kind, Route, Unroutable, route_of

OWN = "/_breaker/"
"""What the gateway answers itself."""
log = structlog.get_logger(__name__)
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""They are of one connection, not of the message (RFC 9110, 7.6.1)."""
_OVERRIDES = frozenset(
    {b"x-http-method-override", b"x-http-method", b"x-method-override", b"x-original-url", b"x-rewrite-url"}
)
"""By which some servers take a request for another one than it says it is."""
_ORDER_HEADERS_LEFT_OUT = frozenset({b"content-length", b"accept-encoding"})
_BEFORE_THE_FIRST_BYTE = "http11.send_request_headers.started"
"""An event of httpcore's `trace`, for which it waits: the connection stands, and nothing has been sent."""
_UNANSWERED = "whether the order was taken isn't known, look it up by its client_order_id"


@dataclass(frozen=True, slots=True)
class Venue:
    """Where requests go. `answer_within`: seconds until an answer has to begin, and an order's to end."""

    account: str
    strategy: str | None
    key_id: str
    trading_url: str
    data_url: str
    answer_within: float


class Gateway:
    """The ASGI application. Close it."""

    def __init__(self, venue: Venue, keeper: Gatekeeper, feed: RulesFeed) -> None:
        self._venue = venue
        self._keeper = keeper
        self._feed = feed
        self._reading = _client(venue)
        self._trading = _client(venue)
        """Connections of their own: an exit does not wait for those on which reading is stuck."""

    async def aclose(self) -> None:
        await self._reading.aclose()
        await self._trading.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"the gateway serves HTTP, not {scope['type']}")
        try:
            await self._answer(scope, receive, send)
        except _Broken as error:
            log.warning("an answer broke off", account=self._venue.account, problem=str(error))
            raise  # the server closes the connection, so that the engine sees it too
        except Exception as error:
            log.error("a request failed", path=scope["path"], problem=one_line(error))  # noqa: TRY400  a line
            raise

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith(OWN):
            await self._own_page(scope)(scope, receive, send)
            return
        try:
            route = _checked_route(scope)
            if route.kind is Kind.READ:
                await self._pass_on(route, scope, receive, send)
                return
            response = await self._judged(route, scope, receive)
        except Unroutable as error:
            response = _error(error.status, str(error))
        await response(scope, receive, send)

    # What isn't judged

    async def _pass_on(self, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
        has_body = any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])
        content = _body_of(receive) if has_body else None
        headers = _passed_on(scope["headers"])
        if any(name == b"transfer-encoding" for name, _ in scope["headers"]):  # then no length counts
            headers = [pair for pair in headers if pair[0] != b"content-length"]
        request = self._request(route, scope, headers, content)
        try:
            async with self._asked(self._reading, request) as answer:
                answered = _passed_on(answer.headers.raw)
                await send({"type": "http.response.start", "status": answer.status_code, "headers": answered})
                async for chunk in _chunks(answer):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
        except httpx.TimeoutException as error:
            await _error(504, self._unanswered(request, error))(scope, receive, send)
        except httpx.RequestError as error:
            await _error(502, self._unanswered(request, error))(scope, receive, send)

    # What is judged

    async def _judged(self, route: Route, scope: Scope, receive: Receive) -> Response:
        """Raises Unroutable."""
        venue = self._venue
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        if any(name == b"content-encoding" for name, _ in headers):
            raise Unroutable(
                415, "An order's body has to be sent as it is, without Content-Encoding; nothing was sent."
            )
        if scope["query_string"] and route.kind in (Kind.NEW, Kind.REPLACE):
            raise Unroutable(400, "An order's terms stand in its body, and not in the query; nothing was sent.")
        try:
            async with asyncio.timeout(venue.answer_within):
                body = await _read(receive)
        except TimeoutError:
            raise Unroutable(
                408, f"The request's body has not come within {venue.answer_within:g} s; nothing was sent."
            ) from None
        if route.kind is not Kind.CANCEL and not are_of(headers, venue.key_id):
            return _error(
                403,
                f"This gateway guards account {venue.account}, and the request is not signed with that account's own "
                "key_id, or not with it alone; nothing was sent.",
            )
        try:
            asked = read_request(route, body, scope["query_string"], venue.account, venue.strategy)
        except NotUnderstood as error:
            return _error(422, f"The gateway can't read the order, because {error}; nothing was sent.")
        kept = [pair for pair in _passed_on(headers) if pair[0] not in _ORDER_HEADERS_LEFT_OUT]
        request = self._request(route, scope, [*kept, (b"accept-encoding", b"identity")], body or None)
        try:
            async with asyncio.timeout(2 * venue.answer_within):
                admitted = await self._keeper.admit(asked)
        except OrderRefused as refused:
            return _refusal(refused.decision)
        except TimeoutError:
            return _error(502, f"What account {venue.account} holds could not be read in time; nothing was sent.")

        async def before_the_first_byte(event: str, _: Any) -> None:
            if event == _BEFORE_THE_FIRST_BYTE:
                await self._keeper.confirm(admitted)
                self._feed.order_sent(route.kind)

        request.extensions["trace"] = before_the_first_byte
        try:
            async with asyncio.timeout(venue.answer_within), self._asked(self._trading, request) as answer:
                content = b"".join([chunk async for chunk in _chunks(answer)])
        except OrderRefused as refused:
            return _refusal(refused.decision)
        except (httpx.RequestError, TimeoutError, _Broken) as error:
            return self._not_answered(request, admitted, error)
        if answer.has_redirect_location:
            self._keeper.refused(admitted)
            return _error(502, _elsewhere(request, answer))
        self._learn(admitted, answer.status_code, content)
        response = Response(content, answer.status_code)
        passed = [pair for pair in _passed_on(answer.headers.raw) if pair[0] != b"content-length"]
        response.raw_headers = [*passed, *response.raw_headers]
        return response

    def _learn(self, admitted: Admitted, status: int, content: bytes) -> None:
        """4xx says that there is no such order. What 5xx says is not known: its reservation runs out."""
        is_new = admitted.asked.kind is Kind.NEW
        if status < 300:
            self._keeper.taken(admitted)
            if is_new:
                self._feed.order_accepted()
        elif 400 <= status < 500:
            self._keeper.refused(admitted)
            if is_new and status not in (401, 408, 429):
                self._feed.order_rejected(_message(content) or f"the venue answered {status}")

    def _not_answered(self, request: httpx.Request, admitted: Admitted, error: Exception) -> Response:
        if isinstance(error, TimeoutError):
            self._feed.call_failed()
        if not admitted.has_left:
            self._keeper.refused(admitted)
            return _error(502, f"{self._unanswered(request, error)}; nothing was sent.")
        # Not 504: clients take that for a reason to send the order again, which may be taken twice.
        return _error(502, f"{self._unanswered(request, error)}; {_UNANSWERED}.")

    # To the venue

    def _request(
        self,
        route: Route,
        scope: Scope,
        headers: list[tuple[bytes, bytes]],
        content: bytes | AsyncIterator[bytes] | None,
    ) -> httpx.Request:
        base = httpx.URL(self._venue.data_url if route.is_data else self._venue.trading_url)
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        host = (b"host", base.netloc)
        kept = [pair for pair in headers if pair[0] not in (b"host", b"expect")]  # our own server answers an Expect
        if not any(name == b"accept-encoding" for name, _ in kept):
            kept.append((b"accept-encoding", b"identity"))  # or httpx would ask for what the engine did not
        return self._reading.build_request(
            scope["method"], base.copy_with(raw_path=target), headers=[host, *kept], content=content
        )

    @asynccontextmanager
    async def _asked(self, client: httpx.AsyncClient, request: httpx.Request) -> AsyncIterator[httpx.Response]:
        """The answer, once it begins. Tells the rules how the call went."""
        begun = time.monotonic()
        try:
            answer = await client.send(request, stream=True)
        except httpx.RequestError:
            self._feed.call_failed()
            raise
        self._feed.latency(time.monotonic() - begun)
        if answer.is_server_error or answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
            self._feed.call_failed()
        else:
            self._feed.call_succeeded()
        try:
            yield answer
        finally:
            await answer.aclose()

    def _unanswered(self, request: httpx.Request, error: Exception) -> str:
        timed_out = isinstance(error, httpx.TimeoutException | TimeoutError)
        why = f"no answer within {self._venue.answer_within:g} s" if timed_out else one_line(error)
        return f"{request.method} {request.url.path} at {request.url.host}: {why or type(error).__name__}"

    # The gateway's own

    def _own_page(self, scope: Scope) -> Response:
        if scope["path"] != f"{OWN}health" or scope["method"] not in ("GET", "HEAD"):
            return _error(404, f"The gateway has {OWN}health and no other page of its own.")
        status = self._keeper.gate.status()
        said = {
            "account": self._venue.account,
            "is_open": status.is_open,
            "reason": status.reason,
            "sentence": status.sentence,
            "scopes": dict(status.scopes),
            "problem": status.problem,
            "measurements_dropped": self._feed.dropped,
        }
        return JSONResponse(said, 200 if status.lease_left > 0 else 503)


def _client(venue: Venue) -> httpx.AsyncClient:
    client = httpx.AsyncClient(
        timeout=httpx.Timeout(venue.answer_within, connect=min(venue.answer_within, 2.0)),
        limits=httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=15.0),
    )
    client.headers.clear()  # what the engine sends, and nothing else
    return client


def _elsewhere(request: httpx.Request, answer: httpx.Response) -> str:
    """An engine that followed the venue there would go around the gateway, its keys in its hands."""
    there = request.url.join(answer.headers["location"])
    return (
        f"{request.method} {request.url.path} at {request.url.host} is redirected ({answer.status_code}) to "
        f"{there.scheme}://{there.netloc.decode()}; nothing was done. Set the account's base_url to where it is now."
    )


class _Broken(Exception):
    """The venue's answer ended before it was whole."""


async def _chunks(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    except httpx.RequestError as error:
        raise _Broken(one_line(error) or type(error).__name__) from error


def _checked_route(scope: Scope) -> Route:
    """Raises Unroutable."""
    names = [name for name, _ in scope["headers"]]
    if _OVERRIDES.intersection(name.replace(b"_", b"-") for name in names):
        raise Unroutable(400, "A request's method and path can't be overridden by a header; nothing was sent.")
    if b"upgrade" in names:
        raise Unroutable(501, "The gateway passes no WebSockets: connect streams to the venue itself, they only tell.")
    return route_of(scope["method"], scope["raw_path"])


async def _read(receive: Receive) -> bytes:
    """The whole body. Raises Unroutable for one that is larger than any order, or breaks off."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Unroutable(400, "The request broke off; nothing was sent.")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > LARGEST_BODY:
            raise Unroutable(413, f"An order takes {LARGEST_BODY} bytes at most; nothing was sent.")
        if not message.get("more_body"):
            return b"".join(parts)


async def _body_of(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Broken("the engine broke off its request")
        yield message.get("body", b"")
        if not message.get("more_body"):
            return


def _passed_on(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Without those of the connection, and those that `Connection` names; names in small letters."""
    pairs = [(name.lower(), value) for name, value in headers]
    named = {word.strip().lower() for name, value in pairs if name == b"connection" for word in value.split(b",")}
    left_out = _HOP_BY_HOP | named
    return [(name, value) for name, value in pairs if name not in left_out]


def _error(status: int, message: str, decision: dict[str, Any] | None = None) -> Response:
    """In the shape of Alpaca's own errors, whose code begins with the status."""
    said: dict[str, Any] = {"code": status * 100_000 + 10_000, "message": message}
    if decision is not None:
        said["breaker"] = decision
    return JSONResponse(said, status)


def _refusal(decision: Decision) -> Response:
    said = {"allowed": False, "reason": decision.reason, "scope": decision.scope}
    return _error(422 if decision.reason is Reason.INVALID_ORDER else 403, decision.sentence, said)


def _message(content: bytes) -> str:
    try:
        said = json.loads(content)
    except ValueError:
        return ""
    return str(said.get("message", "")) if isinstance(said, dict) else ""
