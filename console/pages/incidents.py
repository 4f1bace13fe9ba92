"""Show the incidents, and the report of each as a page."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import Response
from markdown_it import MarkdownIt
from markupsafe import Markup

from breaker.errors import InvalidInput
from breaker.keys import GLOBAL
from console.actions.authorization import Caller
from console.auth.permissions import Permission
from console.pages.layout import markup, render_page
from console.request import caller_of, context_of, storable
from ledger.errors import LedgerError
from tasks.incidents import Incident, read_incident, read_incidents, read_report

ROWS = 20

router = APIRouter(include_in_schema=False)
# A report has words from outside in it: no markup of theirs, nothing that leads or loads elsewhere.
_markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink"])


@router.get("/incidents")
async def incidents(request: Request) -> Response:
    caller = await caller_of(request, Permission.VIEW_AUDIT)
    after, found, following, problem = request.query_params.get("after"), list[Incident](), None, ""
    try:
        found, following = await asyncio.to_thread(read_incidents, context_of(request).ledger, ROWS, after)
    except (InvalidInput, LedgerError) as error:
        problem = str(error)
    return render_page(
        request, "incidents.html", caller.identity, title="Incidents", incidents=found, next=following, problem=problem
    )


@router.get("/incidents/{incident_id}")
async def incident(request: Request, incident_id: str) -> Response:
    caller = await caller_of(request, Permission.VIEW_AUDIT)
    text = await asyncio.to_thread(read_report, context_of(request).settings.state_dir, incident_id)
    if text is None:
        return await _without_report(request, caller, incident_id)
    return render_page(
        request,
        "report.html",
        caller.identity,
        title="Incident Report",
        incident_id=incident_id,
        report=rendered(text),
    )


async def _without_report(request: Request, caller: Caller, incident_id: str) -> Response:
    """What is known of the incident all the same, when its report will be there, and where to look meanwhile."""
    found, problem = None, ""
    try:
        found = await asyncio.to_thread(read_incident, context_of(request).ledger, storable(incident_id))
    except InvalidInput:  # no incident is called that
        found = None
    except LedgerError as error:
        problem = str(error)
    return render_page(
        request,
        "no_report.html",
        caller.identity,
        status=404,
        title="No Report",
        incident_id=incident_id,
        incident=found,
        scope=found.scope if found else GLOBAL,
        problem=problem,
    )


def rendered(report: str) -> Markup:
    """A report's Markdown as HTML, with whatever else is in it as text."""
    return markup(_markdown.render(report))
