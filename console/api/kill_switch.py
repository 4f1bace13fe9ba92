"""Serve `/kill-switch`: start a run, and say how one stands."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from breaker.keys import GLOBAL
from console.api.models import KillBody, KillRequest
from console.api.parameters import AnyCaller, IdempotencyKey, ScopeQuery, Viewer, event_id, problems
from console.api.problems import ApiProblem
from console.request import context_of
from tasks.kill.report import cost_record
from tasks.kill.status import KillStatus

router = APIRouter(tags=["kill switch"])


@router.post("/kill-switch", status_code=202, responses=problems(), summary="Halt, cancel and flatten (KILL_SWITCH)")
async def start_kill(
    request: Request,
    caller: AnyCaller,
    body: KillRequest,
    response: Response,
    scope: ScopeQuery = GLOBAL,
    key: IdempotencyKey = None,
) -> KillBody:
    """Trips the scope before it answers, then cancels and closes what it covers, and nothing else. While a run of the
    incident goes on, this joins it.
    """
    event = await event_id(request, caller, key, f"kill {scope} {body.model_dump_json()}")
    kills = context_of(request).kills
    kill = await kills.start(caller, scope, body.reason, accounts=body.accounts, event_id=event)
    response.headers["Location"] = f"/api/v1/kill-switch/{kill.incident_id}"
    return _kill_body(kill)


@router.get("/kill-switch/{incident_id}", responses=problems(404), summary="How a run stands (VIEW_CIRCUIT)")
async def get_kill(request: Request, _: Viewer, incident_id: str) -> KillBody:
    """Of any origin, from the last day; of several of one incident the newest, or one that still runs."""
    runs = context_of(request).kills.of(incident_id)
    if not runs:
        raise ApiProblem(404, "unknown-incident", "No such run", "No run of that incident is known of the last day.")
    return _kill_body(next((run for run in runs if run.verdict == "RUNNING"), runs[0]))


def _kill_body(kill: KillStatus) -> KillBody:
    return KillBody(
        incident_id=kill.incident_id,
        verdict=kill.verdict,
        scope=kill.scope,
        covers=kill.covers,
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
        costs=[cost_record(cost) for cost in kill.costs] if kill.costs or kill.over else None,
        done_without=list(kill.missing),
    )


def _silence(kill: KillStatus) -> str:
    if kill.verdict != "NOT KNOWN":
        return ""
    return f"Nothing was heard of it for {kill.silent_for:.0f} s. Run it again; it is safe to."
