"""System Health, and the stream of events that keeps every page up to date."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from console.auth.permissions import Identity, Permission
from console.pages.frame import answer, html
from console.services import Services
from console.web import caller_of, identity_of, services

MOST_STREAMS = 500
RECHECK_SESSION = 10.0

router = APIRouter(include_in_schema=False)


@router.get("/system-health")
async def system_health(request: Request) -> Response:
    caller = await caller_of(request, Permission.VIEW_CIRCUIT)
    here = services(request)
    return answer(
        request,
        "health.html",
        caller.identity,
        title="System Health",
        refresh=True,
        topics=["health", "gates"],
        health=html(here.render.health(here.health.look())),
        gates=html(here.render.gates(here.gates.look())),
        listeners=here.broadcast.listeners,
        scopes=here.watcher.scopes,
        up_since=here.up_since,
    )


@router.get("/events")
async def events(request: Request, topics: str = "strip") -> Response:
    caller = await caller_of(request, Permission.VIEW_CIRCUIT)
    here = services(request)
    if here.broadcast.listeners >= MOST_STREAMS:
        return Response("Too many pages listen; close some.", 503, {"Retry-After": "10"})
    wanted = [topic for topic in topics.split(",")[:20] if len(topic) < 100]
    stream = session_stream(request, here, caller.identity, [*wanted, "beat"])
    return StreamingResponse(stream, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def session_stream(
    request: Request, here: Services, identity: Identity, topics: list[str]
) -> AsyncIterator[bytes]:
    """Events for as long as the session holds. Watching doesn't keep a session from running out."""
    yield b"retry: 1000\n\n"
    check_at = time.monotonic() + RECHECK_SESSION
    async for data in here.broadcast.listen(topics):
        yield data
        if time.monotonic() > check_at:
            keep_looking(here, topics)
            if await identity_of(request, used=False) is None:
                yield b"event: signed-out\ndata:\n\n"
                return
            check_at = time.monotonic() + RECHECK_SESSION


def keep_looking(here: Services, topics: list[str]) -> None:
    """Tell whoever measures what these pages show that somebody still looks."""
    for topic in topics:
        kind, _, scope = topic.partition(":")
        if kind == "exposure":
            here.exposure.look()
        elif kind == "health":
            here.health.look()
        elif kind == "gates":
            here.gates.look()
        elif kind == "conditions" and scope in here.watcher.scopes:
            here.conditions(scope).look()
        elif kind == "recovery" and scope in here.watcher.scopes:
            here.recovery(scope).look()


@router.get("/alive")
async def alive() -> Response:
    """For load balancers: this process answers. It says nothing of the breaker."""
    return Response("alive\n", media_type="text/plain")
