"""The pages. Every action is a plain form, answered by a redirect; JavaScript only keeps what is shown up to date."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
import tempfile
import time
import zipfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response, StreamingResponse
from markupsafe import Markup
from starlette.background import BackgroundTask
from starlette.datastructures import URL

from breaker import BreakerError
from breaker.errors import InvalidInput
from breaker.keys import GLOBAL, check_scope
from breaker.uuid7 import uuid7
from console.actions import MAX_REASON, MIN_REASON, Caller, usable_event_id
from console.kills import CONFIRMATION
from console.permissions import Identity, Permission
from console.security import local_path, same_origin
from console.services import Services
from console.web import COOKIE, BadForm, address, caller_of, form_of, identity_of, services
from ledger.audit import verify_ledger
from ledger.configured import open_checkpoints
from ledger.errors import LedgerError
from ledger.export import checkpoint_path, write_export
from ledger.ledger import Filter
from ledger.models import STATE_ACTIONS
from ledger.record import DENIED, AuditRecord, AuditRow
from ledger.verify import Verification
from tasks.recovery.measurement import Colour

PAGES = (
    ("/circuit-breaker", "Circuit Breaker", Permission.VIEW_CIRCUIT),
    ("/audit", "Audit Log", Permission.VIEW_AUDIT),
    ("/system-health", "System Health", Permission.VIEW_CIRCUIT),
)
ROWS = 50
MOST_STREAMS = 500
RECHECK_SESSION = 10.0
VERIFY_LIMIT = 120.0
_LOGIN_COOKIE = "breaker_login"
_DONE = {
    "trip": "Tripped. Only orders that reduce risk pass from now on.",
    "reset": "Reset. A quiet period has begun; watch for five minutes.",
}
_FILTERS = ("action", "user", "incident_id", "outcome", "since", "until")
_ACTIONS = (*STATE_ACTIONS, "KILL_SWITCH_STARTED", "KILL_SWITCH_FINISHED", "PERMISSION_DENIED", "SIGNED_IN")

router = APIRouter(include_in_schema=False)
_log = logging.getLogger(__name__)


def answer(request: Request, template: str, identity: Identity | None, *, status: int = 200, **values: Any) -> Response:
    """A whole page."""
    here = services(request)
    scope = values.get("scope", GLOBAL)
    shown = {
        "identity": identity,
        "pages": PAGES,
        "current": request.url.path,
        "topics": [],
        "refresh": False,
        "now": datetime.now(UTC),
        "query": "" if scope == GLOBAL else "?" + urlencode({"scope": scope}),
        "least": MIN_REASON,
        "most": MAX_REASON,
        "form": {},
        "problem": "",
        **values,
    }
    if identity is not None:
        seen = values["reading"] if scope == GLOBAL and "reading" in values else here.watcher.reading(GLOBAL)
        shown["strip"] = _html(here.render.strip(seen))
        shown["topics"] = ["strip", *shown["topics"]]
    return HTMLResponse(here.render.page(template, **shown), status)


def message(request: Request, identity: Identity | None, status: int, heading: str, text: str) -> Response:
    return answer(request, "message.html", identity, status=status, title=heading, heading=heading, message=text)


# --- signing in and out -----------------------------------------------------------------------------------------------


@router.get("/login")
async def login_page(request: Request, next: str = "/") -> Response:
    if await identity_of(request) is not None:
        return RedirectResponse(local_path(next, "/"), 303)
    return _login_page(request, local_path(next, "/"))


def _login_page(request: Request, wanted: str, problem: str = "", status: int = 200) -> Response:
    """The form and a cookie belong together, so that nobody can be signed in as somebody else by a foreign page."""
    nonce = secrets.token_urlsafe(16)
    here = services(request)
    page = answer(
        request,
        "login.html",
        None,
        status=status,
        title="Sign in",
        problem=problem,
        csrf=_login_token(here, nonce),
        next=wanted,
    )
    page.set_cookie(
        _LOGIN_COOKIE, nonce, max_age=3_600, path="/login", httponly=True, samesite="strict", secure=_secure(request)
    )
    return page


def _login_token(here: Services, nonce: str) -> str:
    return hmac.new(here.key, b"login " + nonce.encode(), hashlib.sha256).hexdigest()


@router.post("/login")
async def login(request: Request) -> Response:
    here, form = services(request), await form_of(request)
    nonce = request.cookies.get(_LOGIN_COOKIE, "")
    wanted = local_path(form.get("next"), "/")
    ours = same_origin(request.headers, request.url.scheme) and bool(nonce)
    if not ours or not hmac.compare_digest(form.get("csrf", "").encode(), _login_token(here, nonce).encode()):
        return _login_page(request, wanted, "The form had expired. Sign in again.", 403)
    user, where = form.get("user", "").strip().lower()[:64], address(request) or ""
    wait = here.throttle.wait(user, where, time.monotonic())
    if wait > 0:
        page = _login_page(request, wanted, f"Too many failed attempts. Try again in {wait:.0f} s.", 429)
        page.headers["Retry-After"] = str(int(wait) + 1)
        return page
    # Counted before it is known, so that attempts made at once don't all go free.
    here.throttle.failed(user, where, time.monotonic())
    try:
        signed_in = await asyncio.to_thread(here.accounts.sign_in, user, form.get("password", ""), where)
    except LedgerError as error:
        _log.warning("nobody can sign in: %s", error)
        trouble = "The database is away, so nobody can sign in. To halt now: `make circuit-trip` or `make kill-switch`."
        return _login_page(request, wanted, trouble, 503)
    if signed_in is None:
        await _record_sign_in(here, "SIGN_IN_FAILED", user, where, DENIED)
        return _login_page(request, wanted, "User or password is wrong.", 401)
    here.throttle.succeeded(user, where)
    await _record_sign_in(here, "SIGNED_IN", user, where, "OK")
    # Whatever session the browser came with ends here; the new one has a new secret.
    if (old := await identity_of(request)) is not None:
        await asyncio.to_thread(here.accounts.end_session, old)
    response = RedirectResponse(wanted, 303)
    response.set_cookie(
        COOKIE, here.sign(signed_in[0]), path="/", httponly=True, samesite="lax", secure=_secure(request)
    )
    response.delete_cookie(_LOGIN_COOKIE, path="/login")
    return response


async def _record_sign_in(here: Services, action: str, user: str, where: str, outcome: str) -> None:
    record = AuditRecord(
        action=action, source="console", user_id=user or None, details={}, ip_address=where or None, outcome=outcome
    )
    try:
        await asyncio.to_thread(here.recorder.record, record)
    except LedgerError as error:
        _log.error("not recorded: %s", error)


@router.post("/logout")
async def logout(request: Request) -> Response:
    caller, _ = await _posted(request)
    here = services(request)
    try:
        await asyncio.to_thread(here.accounts.end_session, caller.identity)
    except LedgerError as error:
        trouble = f"Not signed out: {error}. Close the browser; the session ends when nobody uses it."
        return message(request, caller.identity, 503, "Not signed out", trouble)
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE, path="/")
    return response


def _secure(request: Request) -> bool:
    return request.url.scheme == "https"


async def _posted(request: Request, needed: Permission | None = None) -> tuple[Caller, dict[str, str]]:
    """Who sent which form. Raises BadForm unless the form comes from a page of this very session."""
    caller, form = await caller_of(request), await form_of(request)
    token = form.get("csrf", "").encode()
    if not same_origin(request.headers, request.url.scheme) or not hmac.compare_digest(
        token, caller.identity.csrf.encode()
    ):
        raise BadForm("This form doesn't belong to your session; nothing was done. Load the page again.")
    if needed is not None:
        await services(request).actions.require(caller, needed)
    return caller, form


# --- circuit breaker --------------------------------------------------------------------------------------------------


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
        conditions=_html(here.render.conditions(here.conditions(scope).look())),
        exposure=_html(here.render.exposure(here.exposure.look())),
        history=_html(here.render.history(history)),
        scopes=_html(here.render.scopes([here.watcher.reading(name) for name in here.watcher.scopes])),
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
    caller, form = await _posted(request, Permission.TRIP_CIRCUIT)
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
        conditions=_html(here.render.conditions(seen)),
        red=[found.name for found in seen.value if found.colour is Colour.RED],
    )


@router.post("/circuit-breaker/reset")
async def reset(request: Request, scope: str = GLOBAL) -> Response:
    caller, form = await _posted(request, Permission.RESET_CIRCUIT)
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


# --- kill switch ------------------------------------------------------------------------------------------------------


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
        exposure=_html(here.render.exposure(here.exposure.look())),
        word=CONFIRMATION,
    )


@router.post("/circuit-breaker/kill")
async def kill(request: Request, scope: str = GLOBAL) -> Response:
    caller, form = await _posted(request, Permission.KILL_SWITCH)
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


# --- audit log --------------------------------------------------------------------------------------------------------


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
    here = services(request)
    filters = {name: asked.get(name, "").strip()[:200] for name in _FILTERS}
    rows: tuple[AuditRow, ...] = ()
    following = None
    try:
        page = await asyncio.to_thread(
            here.ledger.query, filter_of(filters), limit=ROWS, after=asked.get("after") or None
        )
        rows, following = page.rows, page.next
    except (InvalidInput, LedgerError) as error:
        problem = problem or str(error)
    kept = {name: value for name, value in filters.items() if value}
    return answer(
        request,
        "audit.html",
        caller.identity,
        title="Audit Log",
        filters=filters,
        rows=rows,
        next=urlencode({**kept, "after": following}) if following else "",
        first=urlencode(kept),
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
    except ValueError:
        raise InvalidInput(f"{text!r:.40} is no time; write it like 2026-01-31T14:30.") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def summary(row: AuditRow) -> str:
    """What a row says, in a line."""
    details = row.details
    inner = details.get("details")
    said = [details.get("reason"), inner.get("reason") if isinstance(inner, dict) else None]
    if "from_state" in details:
        said.insert(0, f"{details['from_state']} → {details.get('to_state')}")
    words = [str(part) for part in said if part]
    return " · ".join(dict.fromkeys(words)) or ", ".join(_brief(*item) for item in details.items())[:200]


def _brief(name: str, value: object) -> str:
    if isinstance(value, dict | list):
        return f"{name}: {len(value) or 'none'}"
    return f"{name}: {'—' if value is None else value}"


@router.post("/audit/verify")
async def verify(request: Request) -> Response:
    caller, _ = await _posted(request, Permission.VIEW_AUDIT)
    here = services(request)
    checkpoints = open_checkpoints(here.settings)
    try:
        async with asyncio.timeout(VERIFY_LIMIT):
            found = await asyncio.to_thread(verify_ledger, here.ledger, checkpoints)
    except TimeoutError:
        problem = f"Verifying takes longer than {VERIFY_LIMIT:g} s; run `breaker audit verify` instead."
        return await _audit_page(request, caller, {}, problem=problem)
    except LedgerError as error:
        return await _audit_page(request, caller, {}, problem=str(error))
    verified = found.verification
    await here.actions.record(caller, "AUDIT_VERIFIED", {"whole": verified.whole, "rows": verified.rows})
    return await _audit_page(request, caller, {}, verified=verified)


@router.post("/audit/export")
async def export(request: Request) -> Response:
    caller, form = await _posted(request, Permission.VIEW_AUDIT)
    here = services(request)
    kind = "csv" if form.get("format") == "csv" else "jsonl"
    await here.actions.record(caller, "AUDIT_EXPORTED", {"format": kind})
    folder = tempfile.TemporaryDirectory(prefix="breaker-export-")
    name = f"audit-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"

    def write() -> Path:
        done = write_export(here.ledger, Path(folder.name) / f"{name}.{kind}", "csv" if kind == "csv" else "jsonl")
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


# --- system health, events --------------------------------------------------------------------------------------------


@router.get("/system-health")
async def system_health(request: Request) -> Response:
    caller = await caller_of(request, Permission.VIEW_CIRCUIT)
    here = services(request)
    return answer(
        request,
        "health.html",
        caller.identity,
        title="System Health",
        refresh=True,
        topics=["health"],
        health=_html(here.render.health(here.health.look())),
        listeners=here.broadcast.listeners,
        scopes=here.watcher.scopes,
        up_since=here.up_since,
    )


@router.get("/events")
async def events(request: Request, topics: str = "strip") -> Response:
    caller = await caller_of(request, Permission.VIEW_CIRCUIT)
    here = services(request)
    if here.broadcast.listeners >= MOST_STREAMS:
        return Response("Too many pages listen; close some.", 503, {"Retry-After": "10"})
    wanted = [topic for topic in topics.split(",")[:20] if len(topic) < 100]
    stream = session_stream(request, here, caller.identity, [*wanted, "beat"])
    return StreamingResponse(stream, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def session_stream(
    request: Request, here: Services, identity: Identity, topics: list[str]
) -> AsyncIterator[bytes]:
    """Events for as long as the session holds. Watching doesn't keep a session from running out."""
    yield b"retry: 1000\n\n"
    check_at = time.monotonic() + RECHECK_SESSION
    async for data in here.broadcast.listen(topics):
        yield data
        if time.monotonic() > check_at:
            keep_looking(here, topics)
            if await identity_of(request, used=False) is None:
                yield b"event: signed-out\ndata:\n\n"
                return
            check_at = time.monotonic() + RECHECK_SESSION


def keep_looking(here: Services, topics: list[str]) -> None:
    """Tell whoever measures what these pages show that somebody still looks."""
    for topic in topics:
        kind, _, scope = topic.partition(":")
        if kind == "exposure":
            here.exposure.look()
        elif kind == "health":
            here.health.look()
        elif kind == "conditions" and scope in here.watcher.scopes:
            here.conditions(scope).look()


@router.get("/alive")
async def alive() -> Response:
    """For load balancers: this process answers. It says nothing of the breaker."""
    return Response("alive\n", media_type="text/plain")


def _html(text: str) -> Markup:
    return Markup(text)  # noqa: S704  it was rendered, and escaped, by our own templates


def without_query(url: URL) -> str:
    return url.path + (f"?{url.query}" if url.query else "")
