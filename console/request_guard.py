"""Check every request before anything looks at it, as plain ASGI, and give every answer its headers."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Iterable, Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY = 65_536
BODY_WITHIN = 10.0
"""Seconds."""
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")

# Nothing inline, nothing from elsewhere, nowhere else to send a form to, and no frame around it.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not `no-referrer`: with that a browser sends `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def client_address(peer: str, forwarded_for: str, trusted: Iterable[Network]) -> str:
    """The client's address: what the last trusted proxy saw. What anybody else says about it is not believed. Pure.

    `forwarded_for` is read from its right end, where our own proxies add, up to the first that isn't one of ours.
    """
    networks = tuple(trusted)
    address = peer
    for claimed in reversed([part.strip() for part in forwarded_for.split(",") if part.strip()]):
        if not _within(address, networks):
            break
        if not _is_address(claimed):
            break
        address = claimed
    return address


def _within(address: str, networks: Sequence[Network]) -> bool:
    try:
        return any(ipaddress.ip_address(address) in network for network in networks)
    except ValueError:
        return False


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class RequestGuard:
    """Checks the Host header, limits the body, and finds out who is asking and whether by TLS."""

    def __init__(self, app: ASGIApp, *, names: Iterable[str], trusted_proxies: Iterable[Network]) -> None:
        self._app = app
        self._names = frozenset(name.lower() for name in (*_LOOPBACK_NAMES, *names))
        self._trusted = tuple(trusted_proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        scope = self._seen_by_proxies(scope, headers)
        answer = _with_headers(send, secure=scope["scheme"] == "https")
        if _host_name(headers.get("host", "")) not in self._names:
            await _refuse(answer, 421, "Unknown host", "This console isn't reached by that name; see console.names.")
            return
        try:
            async with asyncio.timeout(BODY_WITHIN):
                replayed = await _buffered(headers, receive)
        except _BodyTooLarge:
            await _refuse(answer, 413, "Too large", f"A request has at most {LARGEST_BODY} bytes.")
        except TimeoutError:
            await _refuse(answer, 408, "Too slow", f"A request comes within {BODY_WITHIN:g} s.")
        else:
            await self._app(scope, replayed, answer)

    def _seen_by_proxies(self, scope: Scope, headers: Headers) -> Scope:
        host, port = scope.get("client") or ("", 0)
        if not _within(host, self._trusted):
            return scope
        address = client_address(host, ",".join(headers.getlist("x-forwarded-for")), self._trusted)
        scheme = "https" if headers.get("x-forwarded-proto") == "https" else scope["scheme"]
        return {**scope, "client": (address, port), "scheme": scheme}


class _BodyTooLarge(Exception):
    """More than is allowed."""


async def _buffered(headers: Headers, receive: Receive) -> Receive:
    """The body, received before anything looks at the request, to be received again. Raises _BodyTooLarge."""
    if "content-length" not in headers and "transfer-encoding" not in headers:
        return receive
    length = headers.get("content-length", "0")
    if not length.isdigit() or int(length) > LARGEST_BODY:
        raise _BodyTooLarge
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > LARGEST_BODY:
            raise _BodyTooLarge
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


def _with_headers(send: Send, *, secure: bool) -> Send:
    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            headers.setdefault("Cache-Control", "no-store")
            if secure:
                headers["Strict-Transport-Security"] = "max-age=31536000"
        await send(message)

    return answer


async def _refuse(send: Send, status: int, title: str, detail: str) -> None:
    body = json.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail}).encode()
    headers: list[tuple[bytes, bytes]] = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _host_name(host: str) -> str:
    """The name in a Host header, without the port."""
    name, _, port = host.rpartition(":")
    return (name if name and port.isdigit() else host).lower()


def same_origin(headers: Headers, scheme: str) -> bool:
    """Whether a browser says that a form comes from a page of ours. True where it says nothing. Pure.

    A second wall behind the forms' own tokens.
    """
    site = headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    return origin is None or origin == f"{scheme}://{headers.get('host', '')}"


def safe_redirect(wanted: str | None, otherwise: str) -> str:
    """Where to go after signing in: only ever to a page of ours."""
    if not wanted or not wanted.startswith("/") or wanted.startswith(("//", "/\\")) or not wanted.isprintable():
        return otherwise
    return otherwise if any(mark in wanted for mark in "\\\r\n\t") else wanted
