"""Declare what requests of the API share: who asks, which breaker, idempotency, the problems that may be answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Depends, Header, Query, Request
from fastapi.security import HTTPBearer
from pydantic import AwareDatetime, BeforeValidator

from breaker.keys import GLOBAL
from brokers.coverage import NamedScope
from console.actions.authorization import Caller
from console.actions.idempotency import event_id_of
from console.api.problems import MEDIA_TYPE, ApiProblem
from console.auth.permissions import Identity, Permission
from console.request import address_of, context_of

_bearer = HTTPBearer(
    auto_error=False, description="A token, by `breaker token create NAME --label WHAT --permission VIEW_CIRCUIT`."
)

ScopeQuery = Annotated[
    str,
    Query(
        max_length=64,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*(:[A-Za-z0-9_.\-]+)?$",
        description="Which breaker.",
        examples=["global", "account:ALPHA"],
    ),
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern=r"^[\x21-\x7e]+$",
        description="Sending the same request with the same key again does it once and returns the state as it is.",
    ),
]


def _iso_only(value: object) -> object:
    """Pydantic would take a number too, which the document doesn't offer."""
    if isinstance(value, str) and not value[:5].endswith("-"):
        raise ValueError("not an ISO 8601 time with a zone")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_iso_only)]


async def token_identity(request: Request) -> Identity:
    """Whose token the request brings. Raises ApiProblem."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    found = None
    if scheme.lower() == "bearer" and token:
        found = await asyncio.to_thread(context_of(request).identities.tokens.confirm, token.strip())
    if found is None:
        raise ApiProblem(401, "token-needed", "A token is needed", "Send `Authorization: Bearer …` with a valid token.")
    return found


async def _caller(request: Request, _: Annotated[Any, Depends(_bearer)]) -> Caller:
    return Caller(await token_identity(request), address_of(request), "api")


AnyCaller = Annotated[Caller, Depends(_caller)]
"""Whoever has a token. What is asked for checks the permission."""


def _caller_with(permission: Permission) -> Callable[[Request, AnyCaller], Awaitable[Caller]]:
    async def permitted(request: Request, caller: AnyCaller) -> Caller:
        await context_of(request).authorization.require(caller, permission)
        return caller

    return permitted


Viewer = Annotated[Caller, Depends(_caller_with(Permission.VIEW_CIRCUIT))]
Auditor = Annotated[Caller, Depends(_caller_with(Permission.VIEW_AUDIT))]


async def _named_scope(request: Request, scope: ScopeQuery = GLOBAL) -> NamedScope:
    return context_of(request).named_scope(scope)


Scope = Annotated[NamedScope, Depends(_named_scope)]
"""The breaker that is meant by the query's `scope`, names as they are configured."""


async def event_id(request: Request, caller: Caller, key: str | None, asked: str) -> str | None:
    """The event id that an idempotency key stands for. Raises ApiProblem: the key was used for another request."""
    if key is None:
        return None
    event = event_id_of(caller, key)
    if not await context_of(request).idempotency_keys.used_for_same(event, asked):
        raise ApiProblem(
            422,
            "idempotency-key-reused",
            "The idempotency key belongs to another request",
            "This Idempotency-Key was used for a different request; nothing was done. Use a new one.",
        )
    return event


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What may be answered instead, for the OpenAPI document: what every request may meet, and `statuses`."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in (400, 401, 403, 413, 421, 422, 503, *statuses)
    }
