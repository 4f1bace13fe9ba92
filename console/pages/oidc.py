"""Sign people in by the configured identity provider. Without one these addresses don't exist."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import time

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import RedirectResponse, Response

from console.auth.oidc import (
    BEGUN_WITHIN,
    CALLBACK,
    IdentityProvider,
    ProviderUnavailable,
    SignInAttempt,
    SignInRefused,
)
from console.auth.users import AccountConflict
from console.pages.sign_in import (
    TO_HALT,
    is_secure,
    printable,
    record_sign_in,
    session_response,
    sign_in_page,
    too_many_attempts,
    without_database,
)
from console.request import address_of, context_of, identity_of
from console.request_guard import safe_redirect
from ledger.errors import LedgerError
from ledger.record import DENIED

_COOKIE = "breaker_oidc"
_THROTTLED_AS = "(provider)"
"""No user's name; failures count by address too, as those with passwords do."""

router = APIRouter(include_in_schema=False)
_log = logging.getLogger(__name__)


@router.get("/oidc/login")
async def begin(request: Request, next: str = "/") -> Response:
    """A link, not a form: browsers hold the policy's `form-action` against where a form is led on to."""
    provider, wanted = _provider(request), safe_redirect(next, "/")
    if await identity_of(request) is not None:
        return RedirectResponse(wanted, 303)
    attempt = SignInAttempt.begin(wanted)
    try:
        where = await provider.sign_in_url(attempt)
    except ProviderUnavailable as error:
        return _unavailable(request, wanted, error)
    response = RedirectResponse(where, 303)
    # Lax, as the way back from the provider begins at another site.
    response.set_cookie(
        _COOKIE,
        attempt.to_cookie(context_of(request).signer),
        max_age=int(BEGUN_WITHIN),
        path=CALLBACK,
        httponly=True,
        samesite="lax",
        secure=is_secure(request),
    )
    return response


@router.get(CALLBACK)
async def finish(request: Request) -> Response:
    """The way back. The cookie ends here, so that one sign-in at the provider is one sign-in."""
    response = await _finish(request)
    response.delete_cookie(_COOKIE, path=CALLBACK)
    return response


async def _finish(request: Request) -> Response:
    context, provider, where = context_of(request), _provider(request), address_of(request) or ""
    attempt = SignInAttempt.from_cookie(request.cookies.get(_COOKIE, ""), context.signer)
    if attempt is None:
        return sign_in_page(request, "/", "This sign-in had expired, or began in another browser. Sign in again.", 403)
    by, name = {"by": provider.settings.issuer}, ""
    try:
        wait = await asyncio.to_thread(context.throttle.attempt, _THROTTLED_AS, where, time.time())
        if wait > 0:
            return too_many_attempts(request, attempt.wanted, wait)
        person = await provider.person(_code(request, attempt), attempt)
        name = person.name
        secret, identity = await asyncio.to_thread(context.identities.provider_accounts.sign_in, person, where)
        await asyncio.to_thread(context.throttle.succeeded, _THROTTLED_AS, where)
    except ProviderUnavailable as error:
        with contextlib.suppress(LedgerError):  # nobody's fault who asks, but no more than a wait either
            await asyncio.to_thread(context.throttle.succeeded, _THROTTLED_AS, where)
        return _unavailable(request, attempt.wanted, error)
    except LedgerError as error:
        return without_database(request, attempt.wanted, error)
    except (SignInRefused, AccountConflict) as error:
        details = {**by, "problem": str(error)[:500]}
        await record_sign_in(context, "SIGN_IN_FAILED", printable(name[:128]), where, DENIED, details)
        return sign_in_page(request, attempt.wanted, str(error), 403)
    details = {**by, "role": identity.role.value, "subject": person.subject}
    await record_sign_in(context, "SIGNED_IN", identity.user, where, "OK", details)
    return await session_response(request, secret, safe_redirect(attempt.wanted, "/"))


def _code(request: Request, attempt: SignInAttempt) -> str:
    """The code that the provider sent the browser back with. Raises SignInRefused."""
    asked = request.query_params
    if not hmac.compare_digest(asked.get("state", "").encode(), attempt.state.encode()):
        raise SignInRefused("This answer belongs to another sign-in; nobody was signed in. Sign in again.")
    if "iss" in asked and asked["iss"] != _provider(request).settings.issuer:  # RFC 9207
        raise SignInRefused("This answer is another provider's; nobody was signed in. Sign in again.")
    if "error" in asked:
        code = asked["error"][:60]
        raise SignInRefused(f"The provider says {code!a}; nobody was signed in. Sign in again, or ask whoever runs it.")
    if not 0 < len(asked.get("code", "")) <= 2_048:
        raise SignInRefused("The provider's answer has no code; nobody was signed in. Sign in again.")
    return asked["code"]


def _provider(request: Request) -> IdentityProvider:
    found = context_of(request).provider
    if found is None:
        raise HTTPException(404)
    return found


def _unavailable(request: Request, wanted: str, error: ProviderUnavailable) -> Response:
    _log.warning("nobody can sign in by the identity provider: %s", error)
    oidc = context_of(request).settings.console.oidc
    local = "A user with a password can sign in below." if oidc is None or oidc.local_sign_in else ""
    trouble = f"{error} Nobody was signed in. {local} {TO_HALT}"
    return sign_in_page(request, wanted, " ".join(trouble.split()), 503)
