"""Stream the events that keep every open page up to date, and answer load balancers."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from console.auth.permissions import Permission
from console.context import ConsoleContext
from console.request import caller_of, context_of, identity_of

MOST_STREAMS = 500
RECHECK_SESSION = 10.0

router = APIRouter(include_in_schema=False)


@router.get("/events")
async def events(request: Request, topics: str = "banner") -> Response:
    await caller_of(request, Permission.VIEW_CIRCUIT)
    context = context_of(request)
    if context.broadcast.listeners >= MOST_STREAMS:
        return Response("Too many pages listen; close some.", 503, {"Retry-After": "10"})
    wanted = [topic for topic in topics.split(",")[:20] if len(topic) < 100]
    stream = session_stream(request, context, [*wanted, "beat"])
    return StreamingResponse(stream, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def session_stream(request: Request, context: ConsoleContext, topics: list[str]) -> AsyncIterator[bytes]:
    """Events for as long as the session holds. Watching doesn't keep a session from running out."""
    signed_in = True

    async def holds() -> bool:
        nonlocal signed_in
        keep_watching(context, topics)
        signed_in = await identity_of(request, used=False) is not None
        return signed_in

    yield b"retry: 1000\n\n"
    async for data in context.broadcast.listen_while(topics, holds, RECHECK_SESSION):
        yield data
    if not signed_in:
        yield b"event: signed-out\ndata:\n\n"


def keep_watching(context: ConsoleContext, topics: list[str]) -> None:
    """What these pages show is polled for as long as somebody watches."""
    for topic in topics:
        kind, _, scope = topic.partition(":")
        if kind == "exposure":
            context.live.exposure.watch()
        elif kind == "health":
            context.live.health.watch()
        elif kind == "gates":
            context.live.gates.watch()
        elif kind == "conditions" and scope in context.live.watcher.scopes:
            context.live.conditions(scope).watch()
        elif kind == "rules" and scope in context.live.watcher.scopes:
            context.live.rules(scope).watch()
        elif kind == "reset_watch" and scope in context.live.watcher.scopes:
            context.live.reset_watch(scope).watch()
        elif kind == "recovery" and scope in context.live.watcher.scopes:
            context.live.recovery(scope).watch()


@router.get("/alive")
async def alive() -> Response:
    """For load balancers: this process answers. It says nothing of the breaker."""
    return Response("alive\n", media_type="text/plain")
