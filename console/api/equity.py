"""Serve `/equity/transfers`: tell the rules of money moved in or out of an account."""

from __future__ import annotations

from fastapi import APIRouter, Request

from console.actions.equity import BEYOND
from console.api.models import EquityTransferBody, EquityTransferRequest
from console.api.parameters import AnyCaller, IdempotencyKey, Scope, event_id, problems
from console.request import context_of

router = APIRouter(tags=["equity"])


@router.post(
    "/equity/transfers", responses=problems(409), summary="Money was moved in or out of the account (RESET_CIRCUIT)"
)
async def tell_transfer(
    request: Request, caller: AnyCaller, body: EquityTransferRequest, named: Scope, key: IdempotencyKey = None
) -> EquityTransferBody:
    """Neither a gain nor a loss: high-water mark and the day's first equity move with it. By somebody else than who
    tripped, and while the drawdown is red with APPROVE_RECOVERY too. Where it shows the newest equity to be beyond a
    limit, it trips."""
    event = await event_id(request, caller, key, f"transfer {named.scope} {body.model_dump_json()}")
    transfers = context_of(request).transfers
    asked = transfers.request(caller, named.scope, body.amount, body.reason, body.at, body.transfer_id or "", event)
    outcome = await transfers.tell(caller, asked)
    details = outcome.details
    return EquityTransferBody(
        scope=asked.scope,
        amount=f"{asked.amount:f}",
        transfer_id=asked.transfer_id,
        moved_at=asked.at,
        effect=details.get("effect", str(outcome.verdict)),
        beyond=f"equity is {details['measured']} down {details['window']}" if outcome.verdict in BEYOND else None,
    )
