"""The REST API, `/api/v1`: what the pages do, for programs. Callers bring a token (`breaker token create`)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from fastapi.security import HTTPBearer
from pydantic import AwareDatetime, BeforeValidator
from starlette.exceptions import HTTPException

from breaker import BreakerError, Status
from breaker.keys import GLOBAL
from console.actions.trip_reset import Caller, event_id_of
from console.api.models import (
    AuditPage,
    AuditRowBody,
    EventBody,
    Health,
    History,
    ItemBody,
    KillBody,
    KillRequest,
    MeasurementBody,
    RecoveryAnswer,
    RecoveryBody,
    ResetRequest,
    RootCauseAnswer,
    StatusBody,
    TripRequest,
)
from console.api.problems import MEDIA_TYPE, ApiProblem, Problem, problem, problem_of
from console.auth.permissions import Identity, Permission
from console.services import Services
from console.web import address
from ledger.errors import LedgerError
from ledger.queries import Filter
from tasks.kill.status import KillStatus
from tasks.recovery.approval_rules import Approval, RootCause
from tasks.recovery.checklist import CHECKLIST
from tasks.recovery.state import RecoveryState

RECHECK_TOKEN = 10.0
_Scope = Annotated[
    str,
    Query(
        max_length=64,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*(:[A-Za-z0-9_.\-]+)?$",
        description="Which breaker.",
        examples=["global", "account:ALPHA"],
    ),
]


def _iso_only(value: object) -> object:
    """Pydantic would take a number too, which the document doesn't offer."""
    if isinstance(value, str) and not value[:5].endswith("-"):
        raise ValueError("not an ISO 8601 time with a zone")
    return value


_Moment = Annotated[AwareDatetime, BeforeValidator(_iso_only)]
_bearer = HTTPBearer(auto_error=False, description="A token made by `breaker token create`.")
_IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern=r"^[\x21-\x7e]+$",
        description="Sending the same request with the same key again does it once and returns the state as it is.",
    ),
]


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in (400, 401, 403, 413, 421, 422, 503, *statuses)
    }


router = APIRouter()


async def _caller(request: Request, _: Annotated[Any, Depends(_bearer)]) -> Caller:
    return Caller(await _identity(request), address(request), "api")


_Who = Annotated[Caller, Depends(_caller)]


@router.get("/circuit-breaker", responses=_problems(), summary="The state (VIEW_CIRCUIT)", tags=["circuit breaker"])
async def get_status(request: Request, who: _Who, scope: _Scope = GLOBAL) -> StatusBody:
    """Read afresh. A state that can't be read is UNKNOWN, to be treated as TRIPPED, and is no error."""
    here = _services(request)
    await here.actions.require(who, Permission.VIEW_CIRCUIT)
    return status_body(scope, await here.actions.breaker(scope, "api").get_status())


@router.post(
    "/circuit-breaker/trip",
    responses=_problems(),
    summary="Halt trading (TRIP_CIRCUIT)",
    tags=["circuit breaker"],
)
async def trip(
    request: Request, who: _Who, body: TripRequest, scope: _Scope = GLOBAL, key: _IdempotencyKey = None
) -> StatusBody:
    """Works from any state. Tripping a tripped breaker again is recorded and keeps the incident."""
    event_id = await _event_id(request, who, key, f"trip {scope} {body.model_dump_json()}")
    return status_body(scope, await _services(request).actions.trip(who, scope, body.reason, event_id))


@router.post(
    "/circuit-breaker/reset",
    responses=_problems(409, 429),
    summary="Let trading resume (RESET_CIRCUIT)",
    tags=["circuit breaker"],
)
async def reset(
    request: Request, who: _Who, body: ResetRequest, scope: _Scope = GLOBAL, key: _IdempotencyKey = None
) -> StatusBody:
    """Only from TRIPPED, with no condition red, and once a minute over all scopes. A quiet period follows."""
    event_id = await _event_id(request, who, key, f"reset {scope} {body.model_dump_json()}")
    after = await _services(request).actions.reset(
        who,
        scope,
        body.reason,
        expected_epoch=body.expected_epoch,
        override=body.override_conditions,
        event_id=event_id,
    )
    return status_body(scope, after)


@router.get(
    "/circuit-breaker/history",
    responses=_problems(),
    summary="The latest transitions (VIEW_CIRCUIT)",
    tags=["circuit breaker"],
)
async def get_history(
    request: Request, who: _Who, scope: _Scope = GLOBAL, limit: Annotated[int, Query(ge=1, le=1_000)] = 10
) -> History:
    """Newest first. The newest 1,000 are kept here; the audit log has all."""
    here = _services(request)
    await here.actions.require(who, Permission.VIEW_CIRCUIT)
    found = await here.actions.breaker(scope, "api").get_history(limit)
    names = EventBody.model_fields
    return History(events=[EventBody(**{name: getattr(event, name) for name in names}) for event in found])


@router.post(
    "/kill-switch",
    status_code=202,
    responses=_problems(),
    summary="Halt, cancel and flatten (KILL_SWITCH)",
    tags=["kill switch"],
)
async def start_kill(
    request: Request,
    who: _Who,
    body: KillRequest,
    response: Response,
    scope: _Scope = GLOBAL,
    key: _IdempotencyKey = None,
) -> KillBody:
    """Trips before it answers, then cancels and closes. While a run of the incident goes on, this joins it."""
    event_id = await _event_id(request, who, key, f"kill {scope} {body.model_dump_json()}")
    kill = await _services(request).kills.start(who, scope, body.reason, accounts=body.accounts, event_id=event_id)
    response.headers["Location"] = f"/api/v1/kill-switch/{kill.incident_id}"
    return kill_body(kill)


@router.get(
    "/kill-switch/{incident_id}",
    responses=_problems(404),
    summary="How a run stands (VIEW_CIRCUIT)",
    tags=["kill switch"],
)
async def get_kill(request: Request, who: _Who, incident_id: str) -> KillBody:
    """Of any origin, from the last day; of several of one incident the newest, or one that still runs."""
    here = _services(request)
    await here.actions.require(who, Permission.VIEW_CIRCUIT)
    runs = here.kills.of(incident_id)
    if not runs:
        raise ApiProblem(404, "unknown-incident", "No such run", "No run of that incident is known of the last day.")
    return kill_body(next((run for run in runs if run.verdict == "RUNNING"), runs[0]))


@router.get(
    "/recovery", responses=_problems(404), summary="Where the latest recovery stands (VIEW_CIRCUIT)", tags=["recovery"]
)
async def get_recovery(request: Request, who: _Who, scope: _Scope = GLOBAL) -> RecoveryBody:
    """The checklist with its ticks, and what it waits for."""
    here = _services(request)
    await here.actions.require(who, Permission.VIEW_CIRCUIT)
    state = await here.recoveries.read(scope)
    if state is None:
        raise ApiProblem(404, "no-recovery", "No recovery", f"No recovery of {scope} is on record.")
    return recovery_body(state)


@router.post(
    "/recovery/answer",
    status_code=202,
    responses=_problems(409),
    summary="Answer what it waits for (APPROVE_RECOVERY, RESET_CIRCUIT)",
    tags=["recovery"],
)
async def answer_recovery(request: Request, who: _Who, body: RecoveryAnswer, scope: _Scope = GLOBAL) -> RecoveryBody:
    """Judged before it is given to the flow, which judges it once more. Returns the recovery as it was before."""
    if isinstance(body, RootCauseAnswer):
        cause, action = body.root_cause.strip(), body.corrective_action.strip()
        answer: RootCause | Approval = RootCause(who.user, body.category, cause, action)
    else:
        answer = Approval(who.user, body.reason.strip(), body.acknowledge, body.override_reason.strip())
    return recovery_body(await _services(request).recoveries.answer(who, scope, answer, body.question))


@router.get("/audit", responses=_problems(), summary="Rows of the audit log (VIEW_AUDIT)", tags=["audit log"])
async def get_audit(
    request: Request,
    who: _Who,
    action: Annotated[str | None, Query(max_length=64, examples=["CIRCUIT_BREAKER_TRIP"])] = None,
    user: Annotated[str | None, Query(max_length=128)] = None,
    incident_id: Annotated[str | None, Query(max_length=128)] = None,
    outcome: Annotated[str | None, Query(max_length=64, examples=["DENIED"])] = None,
    since: Annotated[_Moment | None, Query(description="Inclusive.", examples=["2026-01-31T14:30:00Z"])] = None,
    until: Annotated[_Moment | None, Query(description="Exclusive.", examples=["2026-01-31T14:35:00Z"])] = None,
    after: Annotated[str | None, Query(max_length=100, description="`next` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> AuditPage:
    """Newest first."""
    here = _services(request)
    await here.actions.require(who, Permission.VIEW_AUDIT)
    wanted = Filter(
        actions=() if action is None else (action.replace("\0", "\ufffd"),),
        user_id=_storable(user),
        incident_id=_storable(incident_id),
        outcome=_storable(outcome),
        since=since,
        until=until,
    )
    page = await asyncio.to_thread(here.ledger.query, wanted, limit=limit, after=after)
    return AuditPage(rows=[AuditRowBody(**row.to_dict()) for row in page.rows], next=page.next)


@router.get("/health", responses=_problems(), summary="System health (VIEW_CIRCUIT)", tags=["health"])
async def get_health(request: Request, who: _Who) -> Health:
    """Measured at most 10 seconds ago."""
    here = _services(request)
    await here.actions.require(who, Permission.VIEW_CIRCUIT)
    seen = here.health.look()
    if seen is None or seen.age > 10:
        seen = await here.health.fresh()
    found = [MeasurementBody(**measured.as_dict()) for measured in seen.value]
    colours = {measured.colour for measured in found}
    worst: Literal["green", "yellow", "red"] = (
        "red" if "red" in colours else "yellow" if "yellow" in colours else "green"
    )
    return Health(colour=worst, measurements=found)


@router.get(
    "/events",
    responses={**_problems(), 200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
    response_class=StreamingResponse,
    summary="States as they change (VIEW_CIRCUIT)",
    tags=["circuit breaker"],
)
async def get_events(request: Request, who: _Who, scope: _Scope = GLOBAL) -> StreamingResponse:
    """Server-sent events: `status` with a state as JSON at once and at each change, `beat` every second. When no
    beat comes, nothing is known of the state."""
    here = _services(request)
    await here.actions.require(who, Permission.VIEW_CIRCUIT)
    here.watcher.watch([scope])
    return StreamingResponse(_stream(request, here, scope), media_type="text/event-stream")


def create_api() -> FastAPI:
    """The API; `state.services` has to be set before the first request."""
    api = FastAPI(
        title="Circuit Breaker",
        version="1",
        description="Trip, reset and watch the circuit breaker, and start the kill switch. Errors are problem details "
        "(RFC 9457). Each action needs the permission named with it.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    api.include_router(router)
    for kind in (BreakerError, LedgerError, ApiProblem):
        api.add_exception_handler(kind, _ours)
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(HTTPException, _http)
    _complete(api)
    return api


def status_body(scope: str, status: Status) -> StatusBody:
    return StatusBody.model_validate({"scope": scope, "as_of": status.as_of, **status})


def kill_body(kill: KillStatus) -> KillBody:
    return KillBody(
        incident_id=kill.incident_id,
        verdict=kill.verdict,
        scope=kill.scope,
        operator=kill.operator,
        source=kill.source,
        host=kill.host,
        reason=kill.reason,
        started_at=kill.started_at,
        elapsed=round(kill.elapsed, 3),
        halted=not kill.halt_problem,
        problem=" ".join(part for part in (kill.halt_problem, kill.problem, _silence(kill)) if part),
        unconfirmed=kill.unconfirmed,
        accounts=[
            {
                "account": account.account,
                "phase": account.phase,
                "flat": account.flat,
                "orders_open": account.orders_open,
                "orders_at_start": account.orders_at_start,
                "positions_open": account.positions_open,
                "positions_at_start": account.positions_at_start,
                "closes_sent": account.closes_sent,
                "note": account.note,
                "stuck": [{"symbol": item.symbol, "reason": item.reason} for item in account.stuck],
            }
            for account in kill.accounts
        ],
        done_without=list(kill.missing),
    )


def _silence(kill: KillStatus) -> str:
    if kill.verdict != "NOT KNOWN":
        return ""
    return f"Nothing was heard of it for {kill.silent_for:.0f} s. Run it again; it is safe to."


def recovery_body(state: RecoveryState) -> RecoveryBody:
    items = [
        ItemBody(section=section.title, key=item.key, words=item.words, **asdict(state.item(item.key)))
        for section in CHECKLIST
        for item in section.items
    ]
    names = RecoveryBody.model_fields.keys() - {"items"}
    return RecoveryBody(items=items, **{name: getattr(state, name) for name in names})


async def _stream(request: Request, here: Services, scope: str) -> AsyncIterator[bytes]:
    """The renewed check ends the stream of a token that was revoked."""
    check_at = time.monotonic() + RECHECK_TOKEN
    async for data in here.broadcast.listen([f"status:{scope}", "beat"]):
        yield data.replace(f"event: status:{scope}\n".encode(), b"event: status\n")
        if time.monotonic() > check_at:
            try:
                await _identity(request)
            except ApiProblem:
                return
            check_at = time.monotonic() + RECHECK_TOKEN


async def _identity(request: Request) -> Identity:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    found = None
    if scheme.lower() == "bearer" and token:
        found = await asyncio.to_thread(_services(request).identities.tokens.confirm, token.strip())
    if found is None:
        raise ApiProblem(401, "token-needed", "A token is needed", "Send `Authorization: Bearer …` with a valid token.")
    return found


def _services(request: Request) -> Services:
    found: Services = request.app.state.services
    return found


async def _event_id(request: Request, who: Caller, key: str | None, asked: str) -> str | None:
    if key is None:
        return None
    event_id = event_id_of(who, key)
    if not await _services(request).requests.is_the_same(event_id, asked):
        raise ApiProblem(
            422,
            "idempotency-key-reused",
            "The idempotency key belongs to another request",
            "This Idempotency-Key was used for a different request; nothing was done. Use a new one.",
        )
    return event_id


def _storable(text: str | None) -> str | None:
    """PostgreSQL knows no NUL, so nothing in it can equal one."""
    return None if text is None else text.replace("\0", "\ufffd")


async def _ours(_: Request, error: Exception) -> Response:
    answer = problem_of(error)
    if answer.status_code == HTTPStatus.UNAUTHORIZED:
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101  registered for nothing else
    complaints = "; ".join(
        f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()[:10]
    )
    return problem(422, "invalid-input", "The request can't be used", f"{complaints}. Nothing was done.")


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  registered for nothing else
    phrase = HTTPStatus(error.status_code).phrase
    kind = phrase.lower().replace(" ", "-")
    return problem(error.status_code, kind, phrase, f"{phrase}.", headers=error.headers)


def _complete(api: FastAPI) -> None:
    """Put into the OpenAPI document what FastAPI can't know: our problem details instead of its own error body."""
    generate = api.openapi

    def openapi() -> dict[str, Any]:
        if api.openapi_schema is None:
            document = generate()
            schemas = document["components"]["schemas"]
            schemas["Problem"] = Problem.model_json_schema()
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            document["servers"] = [{"url": "/api/v1"}]
        return generate()

    api.openapi = openapi  # type: ignore[method-assign]
