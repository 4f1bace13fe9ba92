"""Sign people in and out."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Mapping

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from console.auth.passwords import TooManyAtOnce
from console.context import ConsoleContext
from console.pages.layout import message_page, render_page, submitted_form
from console.request import COOKIE, address_of, context_of, form_of, identity_of
from console.request_guard import safe_redirect, same_origin
from ledger.errors import LedgerError
from ledger.record import DENIED, AuditRecord

_LOGIN_COOKIE = "breaker_login"
_LOGIN = "login"
"""For which the form's token is signed."""

TO_HALT = "To halt now: `breaker trip` or `breaker kill`."

router = APIRouter(include_in_schema=False)
_log = logging.getLogger(__name__)


@router.get("/login")
async def login_page(request: Request, next: str = "/") -> Response:
    if await identity_of(request) is not None:
        return RedirectResponse(safe_redirect(next, "/"), 303)
    return sign_in_page(request, safe_redirect(next, "/"))


def sign_in_page(request: Request, wanted: str, problem: str = "", status: int = 200) -> Response:
    """The form and a cookie belong together, so that nobody can be signed in as somebody else by a foreign page."""
    nonce = secrets.token_urlsafe(16)
    context = context_of(request)
    page = render_page(
        request,
        "login.html",
        None,
        status=status,
        title="Sign in",
        problem=problem,
        csrf=context.signer.signature(nonce, _LOGIN),
        next=wanted,
        oidc=context.settings.console.oidc,
    )
    page.set_cookie(
        _LOGIN_COOKIE, nonce, max_age=3_600, path="/login", httponly=True, samesite="strict", secure=is_secure(request)
    )
    return page


@router.post("/login")
async def login(request: Request) -> Response:
    context, form = context_of(request), await form_of(request)
    if (oidc := context.settings.console.oidc) is not None and not oidc.local_sign_in:
        return sign_in_page(request, "/", f"Passwords aren't taken here. Use {oidc.label}.", 403)
    nonce = request.cookies.get(_LOGIN_COOKIE, "")
    wanted = safe_redirect(form.get("next"), "/")
    ours = same_origin(request.headers, request.url.scheme) and bool(nonce)
    if not ours or not context.signer.fits(form.get("csrf", ""), nonce, _LOGIN):
        return sign_in_page(request, wanted, "The form had expired. Sign in again.", 403)
    user, where = printable(form.get("user", "").strip().lower()[:64]), address_of(request) or ""
    try:
        wait = await asyncio.to_thread(context.throttle.attempt, user, where, time.time())
        if wait > 0:
            return too_many_attempts(request, wanted, wait)
        try:
            signed_in = await context.passwords.run(
                lambda: context.identities.sessions.sign_in(user, form.get("password", ""), where)
            )
        except TooManyAtOnce as error:
            await asyncio.to_thread(context.throttle.succeeded, user, where)  # nobody's guess was looked at
            return sign_in_page(request, wanted, str(error), 503)
        if signed_in is not None:
            await asyncio.to_thread(context.throttle.succeeded, user, where)
    except LedgerError as error:
        return without_database(request, wanted, error)
    if signed_in is None:
        await record_sign_in(context, "SIGN_IN_FAILED", user, where, DENIED)
        return sign_in_page(request, wanted, "User or password is wrong.", 401)
    await record_sign_in(context, "SIGNED_IN", user, where, "OK")
    return await session_response(request, signed_in[0], wanted)


def too_many_attempts(request: Request, wanted: str, wait: float) -> Response:
    """`wait` in seconds."""
    page = sign_in_page(request, wanted, f"Too many failed attempts. Try again in {wait:.0f} s.", 429)
    page.headers["Retry-After"] = str(int(wait) + 1)
    return page


def without_database(request: Request, wanted: str, error: LedgerError) -> Response:
    _log.warning("nobody can sign in: %s", error)
    return sign_in_page(request, wanted, f"The database is away, so nobody can sign in. {TO_HALT}", 503)


async def session_response(request: Request, secret: str, wanted: str) -> Response:
    """Whatever session the browser came with ends here; the new one has a new secret."""
    context = context_of(request)
    if (old := await identity_of(request)) is not None:
        await asyncio.to_thread(context.identities.sessions.end, old)
    response = RedirectResponse(wanted, 303)
    response.set_cookie(
        COOKIE, context.signer.sign(secret), path="/", httponly=True, samesite="lax", secure=is_secure(request)
    )
    response.delete_cookie(_LOGIN_COOKIE, path="/login")
    return response


async def record_sign_in(
    context: ConsoleContext, action: str, user: str, where: str, outcome: str, details: Mapping[str, str] | None = None
) -> None:
    await context.authorization.keep(
        AuditRecord(
            action=action,
            source="console",
            user_id=user or None,
            details=details or {},
            ip_address=where or None,
            outcome=outcome,
        )
    )


@router.post("/logout")
async def logout(request: Request) -> Response:
    caller, _ = await submitted_form(request)
    context = context_of(request)
    try:
        await asyncio.to_thread(context.identities.sessions.end, caller.identity)
    except LedgerError as error:
        trouble = f"Not signed out: {error}. Close the browser; the session ends when nobody uses it."
        return message_page(request, caller.identity, 503, "Not signed out", trouble)
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE, path="/")
    return response


def printable(text: str) -> str:
    """What anybody may have sent is shown to people, on terminals too, which obey some characters."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def is_secure(request: Request) -> bool:
    return request.url.scheme == "https"
