"""Show System Health."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from console.auth.permissions import Permission
from console.pages.layout import markup, render_page
from console.request import caller_of, context_of

router = APIRouter(include_in_schema=False)


@router.get("/system-health")
async def system_health(request: Request) -> Response:
    caller = await caller_of(request, Permission.VIEW_CIRCUIT)
    context = context_of(request)
    return render_page(
        request,
        "health.html",
        caller.identity,
        title="System Health",
        refresh=True,
        topics=["health", "gates"],
        health=markup(context.render.measurements(context.live.health.watch())),
        gates=markup(context.render.gates(context.live.gates.watch())),
        listeners=context.broadcast.listeners,
        scopes=context.live.watcher.scopes,
        up_since=context.up_since,
    )
