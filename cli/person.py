"""Tell who acts on this host and what they may do: the login, or whoever a token of the console belongs to."""

from __future__ import annotations

import os
from dataclasses import dataclass

from breaker.errors import InvalidInput
from cli.environment import TOKEN
from configuration.login import login_name
from configuration.settings import Settings


@dataclass(frozen=True, slots=True)
class Person:
    """`claimed` is a name that was only typed (`--operator`), where it is another one."""

    name: str
    permissions: tuple[str, ...]
    claimed: str = ""


def acting_person(settings: Settings, claimed: str | None) -> Person:
    """Whoever acts. A login may do what `[recovery.people]` says; a token what it and its user both may.

    Raises InvalidInput for a token that is none, and LedgerError where the database can't confirm one.
    """
    if token := os.environ.get(TOKEN, "").strip():
        name, permissions = _of_token(settings, token)
    else:
        name = login_name()
        permissions = tuple(settings.recovery.people.get(name, ()))
    return Person(name, permissions, claimed if claimed and claimed != name else "")


def _of_token(settings: Settings, token: str) -> tuple[str, tuple[str, ...]]:
    from console.auth.identities import Identities  # noqa: PLC0415  SQLAlchemy, only with a token
    from ledger.configured import open_ready_ledger  # noqa: PLC0415

    ledger = open_ready_ledger(settings)
    try:
        identity = Identities(ledger, oidc=settings.console.oidc).tokens.confirm(token)
    finally:
        ledger.close()
    if identity is None:
        raise InvalidInput(
            f"{TOKEN} holds no valid token; make one with `breaker token create NAME --label WHAT --permission "
            "RESET_CIRCUIT`, or unset it to act as your login; nothing changed"
        )
    return identity.user, tuple(sorted(identity.permissions))
