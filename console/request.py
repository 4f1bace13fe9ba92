"""Read a request: who asks, from where, and the form that a browser sent."""

from __future__ import annotations

import asyncio
from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import Depends, Request

from breaker import BreakerError
from breaker.keys import GLOBAL
from brokers.coverage import NamedScope
from console.actions.authorization import Caller
from console.auth.permissions import Identity, Permission
from console.context import ConsoleContext

COOKIE = "breaker_session"
_MOST_FIELDS = 40


class SignInNeeded(Exception):
    """Nobody is signed in, or not any more."""


class BadForm(BreakerError):
    """A form that is not one of ours, or not whole. Nothing was done."""


def context_of(request: Request) -> ConsoleContext:
    """What pages and API work with."""
    context: ConsoleContext = request.app.state.context
    return context


def _named_scope(request: Request, scope: str = GLOBAL) -> NamedScope:
    return context_of(request).named_scope(scope)


PageScope = Annotated[NamedScope, Depends(_named_scope)]
"""The breaker that is meant by the address's `scope`, names as they are configured."""


def address_of(request: Request) -> str | None:
    return request.client.host if request.client else None


def storable(text: str) -> str:
    """PostgreSQL knows no NUL, so nothing in it can equal one."""
    return text.replace("\0", "\ufffd")


async def identity_of(request: Request, *, used: bool = True) -> Identity | None:
    """Whose session the request's cookie is."""
    context = context_of(request)
    secret = context.signer.unsign(request.cookies.get(COOKIE, ""))
    return None if secret is None else await asyncio.to_thread(context.identities.sessions.confirm, secret, used=used)


async def caller_of(request: Request, needed: Permission | None = None) -> Caller:
    """Whoever asks for a page. Raises SignInNeeded, and Denied where `needed` is lacking."""
    identity = await identity_of(request)
    if identity is None:
        raise SignInNeeded
    caller = Caller(identity, address_of(request), "console")
    if needed is not None:
        await context_of(request).authorization.require(caller, needed)
    return caller


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form; of a field that came twice, the last. Raises BadForm."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise BadForm("This is no form of this console; nothing was done.")
    try:
        text = (await request.body()).decode("ascii")
        fields = dict(
            parse_qsl(text, keep_blank_values=True, max_num_fields=_MOST_FIELDS, encoding="utf-8", errors="strict")
        )
    except ValueError:
        raise BadForm("The form can't be read; nothing was done. Load the page again.") from None
    if any("\0" in value for value in fields.values()):  # PostgreSQL knows none, and nobody types one
        raise BadForm("The form has a character that no text has; nothing was done. Load the page again.")
    return fields
