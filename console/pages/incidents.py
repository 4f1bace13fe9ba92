"""Show the incidents, and the report of each as a page."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import Response
from markdown_it import MarkdownIt
from markupsafe import Markup

from breaker.errors import InvalidInput
from console.auth.permissions import Permission
from console.pages.layout import markup, message_page, render_page
from console.request import caller_of, context_of
from ledger.errors import LedgerError
from tasks.incidents import Incident, read_incidents, read_report

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
        where = (
            "It is written once the root cause is known, on the host that runs the flows. The audit log has the rest."
        )
        return message_page(request, caller.identity, 404, "No report here", where)
    return render_page(
        request,
        "report.html",
        caller.identity,
        title="Incident Report",
        incident_id=incident_id,
        report=rendered(text),
    )


def rendered(report: str) -> Markup:
    """A report's Markdown as HTML, with whatever else is in it as text."""
    return markup(_markdown.render(report))
