"""Serve `/circuit-breaker` and `/events`: the state, its history and its changes; trip and reset."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from breaker import State, Status
from breaker.keys import GLOBAL
from breaker.status_reader import restricted_breakers
from brokers.coverage import NamedScope
from console.api.models import (
    EventBody,
    History,
    ResetBody,
    ResetRequest,
    StatusBody,
    StatusWithRestricted,
    TripRequest,
    UnreadableBody,
)
from console.api.parameters import (
    AnyCaller,
    IdempotencyKey,
    Scope,
    Viewer,
    event_id,
    problems,
    token_identity,
)
from console.api.problems import ApiProblem
from console.request import context_of
from tasks.checks.equity import trips_again_of

RECHECK_TOKEN = 10.0

router = APIRouter(tags=["circuit breaker"])


@router.get("/circuit-breaker", responses=problems(), summary="The state (VIEW_CIRCUIT)")
async def get_status(request: Request, caller: Viewer, named: Scope) -> StatusWithRestricted:
    """Read afresh. A state that can't be read is UNKNOWN, to be treated as TRIPPED, and is no error."""
    context, scope = context_of(request), named.scope
    status = await context.trip_reset.breaker(scope, caller.source).get_status()
    foreseen = await trips_again_of(context.settings, scope) if status.state is State.TRIPPED else ""
    others = {each.scope: each.status for each in context.live.watcher.existing() if each.scope != GLOBAL}
    return StatusWithRestricted.model_validate(
        {
            **_status_body(named, status).model_dump(),
            "equity_warning": foreseen or None,
            "restricted": [{"scope": name, **each} for name, each in restricted_breakers(others).items()]
            if scope == GLOBAL
            else None,
        }
    )


@router.post("/circuit-breaker/trip", responses=problems(), summary="Halt trading (TRIP_CIRCUIT)")
async def trip(
    request: Request, caller: AnyCaller, body: TripRequest, named: Scope, key: IdempotencyKey = None
) -> StatusBody:
    """Works from any state. Tripping a tripped breaker again is recorded and keeps the incident."""
    event = await event_id(request, caller, key, f"trip {named.scope} {body.model_dump_json()}")
    return _status_body(named, await context_of(request).trip_reset.trip(caller, named.scope, body.reason, event))


@router.post("/circuit-breaker/reset", responses=problems(409, 429), summary="Let trading resume (RESET_CIRCUIT)")
async def reset(
    request: Request, caller: AnyCaller, body: ResetRequest, named: Scope, key: IdempotencyKey = None
) -> ResetBody:
    """Only from TRIPPED, with nothing red, by somebody else than who tripped (`recovery.two_person`), and once a minute
    over all scopes. A quiet period follows."""
    event = await event_id(request, caller, key, f"reset {named.scope} {body.model_dump_json()}")
    outcome = await context_of(request).trip_reset.reset(
        caller,
        named.scope,
        body.reason,
        acknowledge=body.acknowledge,
        override_reason=body.override_reason,
        rebase_equity=body.rebase_equity,
        expected_epoch=body.expected_epoch,
        event_id=event,
    )
    return ResetBody(
        **_status_body(named, outcome.status).model_dump(exclude={"equity_warning"}),
        equity_warning=outcome.equity_warning or None,
        equity_rebased=str(outcome.rebased) if outcome.rebased else None,
    )


@router.get("/circuit-breaker/history", responses=problems(), summary="The latest transitions (VIEW_CIRCUIT)")
async def get_history(
    request: Request,
    caller: Viewer,
    named: Scope,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 10,
) -> History:
    """Newest first. The newest 1,000 are kept here; the audit log has all."""
    found = await context_of(request).trip_reset.breaker(named.scope, caller.source).get_history(limit)
    names = EventBody.model_fields
    return History(
        events=[EventBody(**{name: getattr(event, name) for name in names}) for event in found],
        unreadable=[UnreadableBody(member=each.member, problem=each.problem) for each in found.unreadable],
    )


@router.get(
    "/events",
    responses={**problems(), 200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
    response_class=StreamingResponse,
    summary="States as they change (VIEW_CIRCUIT)",
)
async def get_events(request: Request, _: Viewer, named: Scope) -> StreamingResponse:
    """Server-sent events: `status` with a state as JSON at once and at each change, `beat` every second. When no
    beat comes, nothing is known of the state."""
    context_of(request).live.watcher.watch([named.scope])
    return StreamingResponse(_events(request, named.scope), media_type="text/event-stream")


async def _events(request: Request, scope: str) -> AsyncIterator[bytes]:
    async def holds() -> bool:
        """A token that was revoked ends its stream."""
        try:
            await token_identity(request)
        except ApiProblem:
            return False
        return True

    topics = [f"status:{scope}", "beat"]
    async for data in context_of(request).broadcast.listen_while(topics, holds, RECHECK_TOKEN):
        yield data.replace(f"event: status:{scope}\n".encode(), b"event: status\n")


def _status_body(named: NamedScope, status: Status) -> StatusBody:
    return StatusBody.model_validate(
        {**status, "scope": named.scope, "scope_doubt": named.doubt or None, "as_of": status.as_of}
    )
