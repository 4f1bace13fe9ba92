"""Show the Audit Log: filtered, paged, verified and exported."""

from __future__ import annotations

import asyncio
import tempfile
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response
from starlette.background import BackgroundTask

from breaker.errors import InvalidInput
from console.actions.authorization import Caller
from console.auth.permissions import Permission
from console.pages.layout import render_page, submitted_form
from console.request import caller_of, context_of, storable
from ledger.audit import verify_ledger
from ledger.configured import open_checkpoints
from ledger.errors import LedgerError
from ledger.export import checkpoint_path, write_export
from ledger.models import STATE_ACTIONS
from ledger.queries import Filter
from ledger.record import AuditRow
from ledger.verify import Verification

ROWS = 50
VERIFY_LIMIT = 120.0
_FILTERS = ("action", "user", "incident_id", "outcome", "since", "until")
_ACTIONS = (*STATE_ACTIONS, "KILL_SWITCH_STARTED", "KILL_SWITCH_FINISHED", "PERMISSION_DENIED", "SIGNED_IN")

router = APIRouter(include_in_schema=False)


@router.get("/audit")
async def audit(request: Request) -> Response:
    caller = await caller_of(request, Permission.VIEW_AUDIT)
    return await _audit_page(request, caller, dict(request.query_params))


async def _audit_page(
    request: Request,
    caller: Caller,
    asked: dict[str, str],
    *,
    verified: Verification | None = None,
    problem: str = "",
) -> Response:
    context = context_of(request)
    filters = {name: storable(asked.get(name, "").strip())[:200] for name in _FILTERS}
    rows: tuple[AuditRow, ...] = ()
    following = None
    try:
        page = await asyncio.to_thread(
            context.ledger.query, filter_of(filters), limit=ROWS, after=asked.get("after") or None
        )
        rows, following = page.rows, page.next
    except (InvalidInput, LedgerError) as error:
        problem = problem or str(error)
    query = {name: value for name, value in filters.items() if value}
    return render_page(
        request,
        "audit.html",
        caller.identity,
        title="Audit Log",
        filters=filters,
        rows=rows,
        next=urlencode({**query, "after": following}) if following else "",
        first=urlencode(query),
        paged="after" in asked,
        actions=_ACTIONS,
        verified=verified,
        problem=problem,
        summary=summary,
    )


def filter_of(asked: dict[str, str]) -> Filter:
    """What was asked for, with times read as UTC. Raises InvalidInput for what is no time."""
    return Filter(
        actions=(asked["action"].upper(),) if asked.get("action") else (),
        user_id=asked.get("user") or None,
        incident_id=asked.get("incident_id") or None,
        outcome=(asked.get("outcome") or "").upper() or None,
        since=_moment(asked.get("since")),
        until=_moment(asked.get("until")),
    )


def _moment(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidInput(f"{text!r:.40} is no time; write it like 2026-01-31T14:30.") from None


def summary(row: AuditRow) -> str:
    """What a row says, in a line."""
    details = row.details
    inner = details.get("details")
    parts = [details.get("reason"), inner.get("reason") if isinstance(inner, dict) else None]
    if "from_state" in details:
        parts.insert(0, f"{details['from_state']} → {details.get('to_state')}")
    words = [str(part) for part in parts if part]
    return " · ".join(dict.fromkeys(words)) or ", ".join(_brief(*item) for item in details.items())[:200]


def _brief(name: str, value: object) -> str:
    if isinstance(value, dict | list):
        return f"{name}: {len(value) or 'none'}"
    return f"{name}: {'—' if value is None else value}"


@router.post("/audit/verify")
async def verify(request: Request) -> Response:
    caller, _ = await submitted_form(request, Permission.VIEW_AUDIT)
    context = context_of(request)
    checkpoints = open_checkpoints(context.settings)
    try:
        async with asyncio.timeout(VERIFY_LIMIT):
            found = await asyncio.to_thread(verify_ledger, context.ledger, checkpoints)
    except TimeoutError:
        problem = f"Verifying takes longer than {VERIFY_LIMIT:g} s; run `breaker audit verify` instead."
        return await _audit_page(request, caller, {}, problem=problem)
    except LedgerError as error:
        return await _audit_page(request, caller, {}, problem=str(error))
    verified = found.verification
    await context.authorization.record(caller, "AUDIT_VERIFIED", {"whole": verified.whole, "rows": verified.rows})
    return await _audit_page(request, caller, {}, verified=verified)


@router.post("/audit/export")
async def export(request: Request) -> Response:
    caller, form = await submitted_form(request, Permission.VIEW_AUDIT)
    context = context_of(request)
    kind = "csv" if form.get("format") == "csv" else "jsonl"
    await context.authorization.record(caller, "AUDIT_EXPORTED", {"format": kind})
    folder = tempfile.TemporaryDirectory(prefix="breaker-export-")
    name = f"audit-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"

    def write() -> Path:
        done = write_export(context.ledger, Path(folder.name) / f"{name}.{kind}", "csv" if kind == "csv" else "jsonl")
        archive = Path(folder.name) / f"{name}.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
            for path in (done.path, checkpoint_path(done.path)):
                out.write(path, path.name)
        return archive

    try:
        archive = await asyncio.to_thread(write)
    except LedgerError as error:
        folder.cleanup()
        return await _audit_page(request, caller, {}, problem=str(error))
    return FileResponse(
        archive, media_type="application/zip", filename=archive.name, background=BackgroundTask(folder.cleanup)
    )
