"""Serve `/audit`: rows of the audit log, filtered and paged."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import AfterValidator

from console.api.models import AuditPage, AuditRowBody
from console.api.parameters import Auditor, Moment, problems
from console.request import context_of, storable
from ledger.queries import Filter

_Text = Annotated[str, AfterValidator(storable)]

router = APIRouter(tags=["audit log"])


@router.get("/audit", responses=problems(), summary="Rows of the audit log (VIEW_AUDIT)")
async def get_audit(
    request: Request,
    _: Auditor,
    action: Annotated[_Text | None, Query(max_length=64, examples=["CIRCUIT_BREAKER_TRIP"])] = None,
    user: Annotated[_Text | None, Query(max_length=128)] = None,
    incident_id: Annotated[_Text | None, Query(max_length=128)] = None,
    outcome: Annotated[_Text | None, Query(max_length=64, examples=["DENIED"])] = None,
    since: Annotated[Moment | None, Query(description="Inclusive.", examples=["2026-01-31T14:30:00Z"])] = None,
    until: Annotated[Moment | None, Query(description="Exclusive.", examples=["2026-01-31T14:35:00Z"])] = None,
    after: Annotated[str | None, Query(max_length=100, description="`next` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> AuditPage:
    """Newest first."""
    wanted = Filter(
        actions=() if action is None else (action,),
        user_id=user,
        incident_id=incident_id,
        outcome=outcome,
        since=since,
        until=until,
    )
    page = await asyncio.to_thread(context_of(request).ledger.query, wanted, limit=limit, after=after)
    return AuditPage(rows=[AuditRowBody(**row.to_dict()) for row in page.rows], next=page.next)
