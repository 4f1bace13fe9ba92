"""Lay out every page alike, and take forms only from the session that they were given to."""

from __future__ import annotations

import hmac
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from markupsafe import Markup

from breaker.keys import GLOBAL
from configuration.reasons import MAX_REASON, MIN_REASON
from console.actions.authorization import Caller
from console.auth.permissions import Identity, Permission
from console.request import BadForm, caller_of, context_of, form_of
from console.request_guard import same_origin

PAGES = (
    ("/circuit-breaker", "Circuit Breaker", Permission.VIEW_CIRCUIT),
    ("/recovery", "Recovery", Permission.VIEW_CIRCUIT),
    ("/incidents", "Incidents", Permission.VIEW_AUDIT),
    ("/audit", "Audit Log", Permission.VIEW_AUDIT),
    ("/system-health", "System Health", Permission.VIEW_CIRCUIT),
)


def render_page(
    request: Request, template: str, identity: Identity | None, *, status: int = 200, **values: Any
) -> Response:
    context = context_of(request)
    scope = values.get("scope", GLOBAL)
    shown = {
        "identity": identity,
        "environment": context.settings.environment_name,
        "pages": PAGES,
        "current": request.url.path,
        "topics": [],
        "refresh": False,
        "now": datetime.now(UTC),
        "configuration_changed": identity is not None and context.configuration.changed,
        "query": "" if scope == GLOBAL else "?" + urlencode({"scope": scope}),
        "least": MIN_REASON,
        "most": MAX_REASON,
        "form": {},
        "problem": "",
        **values,
    }
    if identity is not None:
        states = context.live.watcher.existing()
        if "watched" in values:  # read for this page
            states = [values["watched"] if state.scope == scope else state for state in states]
        shown["banner"] = markup(context.render.banner(states, context.kills.all()))
        shown["topics"] = ["banner", *shown["topics"]]
    return HTMLResponse(context.render.page(template, **shown), status)


def message_page(request: Request, identity: Identity | None, status: int, heading: str, text: str) -> Response:
    return render_page(request, "message.html", identity, status=status, title=heading, heading=heading, message=text)


async def submitted_form(request: Request, needed: Permission | None = None) -> tuple[Caller, dict[str, str]]:
    """Who sent which form. Raises BadForm unless the form comes from a page of this very session."""
    caller, form = await caller_of(request), await form_of(request)
    token = form.get("csrf", "").encode()
    if not same_origin(request.headers, request.url.scheme) or not hmac.compare_digest(
        token, caller.identity.csrf.encode()
    ):
        raise BadForm("This form doesn't belong to your session; nothing was done. Load the page again.")
    if needed is not None:
        await context_of(request).authorization.require(caller, needed)
    return caller, form


def markup(text: str) -> Markup:
    return Markup(text)  # noqa: S704  it was rendered, and escaped, by our own templates
