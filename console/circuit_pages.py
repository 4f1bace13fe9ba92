"""The Circuit Breaker page and its forms: trip, reset, kill switch."""

from __future__ import annotations

import asyncio
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from breaker import BreakerError
from breaker.errors import InvalidInput
from breaker.keys import GLOBAL, check_scope
from breaker.uuid7 import uuid7
from console.actions import Caller, usable_event_id
from console.kills import CONFIRMATION
from console.page import answer, html, message, posted
from console.permissions import Permission
from console.web import caller_of, services
from tasks.recovery.measurement import Colour

_DONE = {
    "trip": "Tripped. Only orders that reduce risk pass from now on.",
    "reset": "Reset. A quiet period has begun; watch for five minutes.",
}

router = APIRouter(include_in_schema=False)


@router.get("/")
async def home() -> Response:
    return RedirectResponse("/circuit-breaker", 303)


@router.get("/circuit-breaker")
async def circuit(request: Request, scope: str = GLOBAL, done: str = "") -> Response:
    caller = await caller_of(request, Permission.VIEW_CIRCUIT)
    here = services(request)
    check_scope(scope)
    reading, history = await asyncio.gather(here.watcher.fresh(scope), here.history(scope))
    return answer(
        request,
        "circuit.html",
        caller.identity,
        title="Circuit Breaker",
        scope=scope,
        reading=reading,
        done=_DONE.get(done, ""),
        refresh=True,
        topics=[f"state:{scope}", f"conditions:{scope}", "exposure", f"history:{scope}", "scopes"],
        conditions=html(here.render.conditions(here.conditions(scope).look())),
        exposure=html(here.render.exposure(here.exposure.look())),
        history=html(here.render.history(history)),
        scopes=html(here.render.scopes([here.watcher.reading(name) for name in here.watcher.scopes])),
        kills=list(reversed(here.kills.all()))[:3],
    )


@router.get("/circuit-breaker/trip")
async def trip_page(request: Request, scope: str = GLOBAL) -> Response:
    caller = await caller_of(request, Permission.TRIP_CIRCUIT)
    return await _trip_page(request, caller, scope)


async def _trip_page(
    request: Request,
    caller: Caller,
    scope: str,
    form: dict[str, str] | None = None,
    problem: str = "",
    status: int = 200,
) -> Response:
    check_scope(scope)
    return answer(
        request,
        "trip.html",
        caller.identity,
        status=status,
        title="Trip",
        scope=scope,
        reading=await services(request).watcher.fresh(scope),
        form=form or {},
        problem=problem,
        event_id=uuid7(),
    )


@router.post("/circuit-breaker/trip")
async def trip(request: Request, scope: str = GLOBAL) -> Response:
    caller, form = await posted(request, Permission.TRIP_CIRCUIT)
    try:
        _acknowledged(form)
        event_id = usable_event_id(form.get("event_id", ""))
        await services(request).actions.trip(caller, scope, form.get("reason", ""), event_id)
    except InvalidInput as error:
        return await _trip_page(request, caller, scope, form, str(error), 422)
    except BreakerError as error:
        return await _trip_page(request, caller, scope, form, str(error), 503)
    return _back(scope, "trip")


@router.get("/circuit-breaker/reset")
async def reset_page(request: Request, scope: str = GLOBAL) -> Response:
    caller = await caller_of(request, Permission.RESET_CIRCUIT)
    return await _reset_page(request, caller, scope)


async def _reset_page(
    request: Request,
    caller: Caller,
    scope: str,
    form: dict[str, str] | None = None,
    problem: str = "",
    status: int = 200,
) -> Response:
    check_scope(scope)
    here = services(request)
    lookout = here.conditions(scope)
    lookout.look()
    reading, seen = await asyncio.gather(here.watcher.fresh(scope), lookout.fresh())
    return answer(
        request,
        "reset.html",
        caller.identity,
        status=status,
        title="Reset",
        scope=scope,
        reading=reading,
        form=form or {},
        problem=problem,
        event_id=uuid7(),
        topics=[f"conditions:{scope}"],
        conditions=html(here.render.conditions(seen)),
        red=[found.name for found in seen.value if found.colour is Colour.RED],
    )


@router.post("/circuit-breaker/reset")
async def reset(request: Request, scope: str = GLOBAL) -> Response:
    caller, form = await posted(request, Permission.RESET_CIRCUIT)
    epoch = form.get("epoch", "")
    try:
        _acknowledged(form)
        await services(request).actions.reset(
            caller,
            scope,
            form.get("reason", ""),
            # What was looked at is what is reset: a trip that came in the meantime is not undone.
            expected_epoch=int(epoch) if epoch.isascii() and epoch.isdigit() and len(epoch) < 17 else None,
            override=form.get("override") == "yes",
            event_id=usable_event_id(form.get("event_id", "")),
        )
    except InvalidInput as error:
        return await _reset_page(request, caller, scope, form, str(error), 422)
    except BreakerError as error:
        return await _reset_page(request, caller, scope, form, str(error), 409)
    return _back(scope, "reset")


def _acknowledged(form: dict[str, str]) -> None:
    if form.get("acknowledge") != "yes":
        raise InvalidInput("The acknowledgement isn't checked; nothing changed.")


def _back(scope: str, done: str) -> Response:
    query = {"done": done} | ({} if scope == GLOBAL else {"scope": scope})
    return RedirectResponse(f"/circuit-breaker?{urlencode(query)}", 303)


@router.get("/circuit-breaker/kill")
async def kill_page(request: Request, scope: str = GLOBAL) -> Response:
    caller = await caller_of(request, Permission.KILL_SWITCH)
    return _kill_page(request, caller, scope)


def _kill_page(
    request: Request,
    caller: Caller,
    scope: str,
    form: dict[str, str] | None = None,
    problem: str = "",
    status: int = 200,
) -> Response:
    check_scope(scope)
    here = services(request)
    return answer(
        request,
        "kill.html",
        caller.identity,
        status=status,
        title="Kill Switch",
        scope=scope,
        form=form or {},
        problem=problem,
        event_id=uuid7(),
        topics=["exposure"],
        exposure=html(here.render.exposure(here.exposure.look())),
        word=CONFIRMATION,
    )


@router.post("/circuit-breaker/kill")
async def kill(request: Request, scope: str = GLOBAL) -> Response:
    caller, form = await posted(request, Permission.KILL_SWITCH)
    try:
        _acknowledged(form)
        if form.get("confirm", "").strip() != CONFIRMATION:
            raise InvalidInput(f"{CONFIRMATION} was not typed; nothing changed, not even halted.")  # noqa: TRY301
        event_id = usable_event_id(form.get("event_id", ""))
        started = await services(request).kills.start(caller, scope, form.get("reason", ""), event_id=event_id)
    except InvalidInput as error:
        return _kill_page(request, caller, scope, form, str(error), 422)
    return RedirectResponse(f"/kill/{started.incident_id}", 303)


@router.get("/kill/{incident_id}")
async def kill_run(request: Request, incident_id: str) -> Response:
    caller = await caller_of(request, Permission.VIEW_CIRCUIT)
    found = services(request).kills.find(incident_id)
    if found is None:
        text = "This console has started no kill switch of that incident. The audit log has every run of any origin."
        return message(request, caller.identity, 404, "Not found", text)
    return answer(
        request,
        "kill_run.html",
        caller.identity,
        title=f"Kill Switch {found.verdict}",
        kill=found,
        topics=[f"kill:{found.incident_id}"],
        refresh=not found.over,
    )
