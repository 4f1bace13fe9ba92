"""Admit people for whom an identity provider vouches, and keep their accounts as it says."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, insert, select, update

from console.auth.permissions import Identity, Role
from console.auth.sessions import Sessions
from console.auth.tables import users
from console.auth.users import AccountConflict
from ledger.ledger import Ledger
from ledger.transactions import writing

_NAME = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,127}")
"""Names that an identity provider may give: addresses of e-mail too."""


@dataclass(frozen=True, slots=True)
class ProviderIdentity:
    """Somebody for whom an identity provider vouches. `issuer` and `subject` say who it is; the name may change."""

    issuer: str
    subject: str
    name: str
    role: Role | None
    """None: none of what the provider says of them gives a role."""


class ProviderAccounts:
    """Methods raise LedgerError when the database is away."""

    def __init__(self, ledger: Ledger, sessions: Sessions) -> None:
        self._ledger = ledger
        self._sessions = sessions

    def sign_in(self, person: ProviderIdentity, address: str) -> tuple[str, Identity]:
        """A new session's secret and whose it is; the account is made or brought up to date by it.

        Raises:
            AccountConflict: no role, a name that can't be used or is another's, or an account that an admin removed.
                What they had before has ended then.
        """
        if not _NAME.fullmatch(person.name):
            raise AccountConflict(
                f"The provider calls you {person.name!r:.80}, which is no name here: a-z 0-9 . _ @ + -, at most 128; "
                "you are not signed in. An admin can choose another claim: console.oidc.name_claim."
            )
        try:
            with writing(self._ledger) as connection:
                name, role = _admit(connection, person)
                return self._sessions.begin(connection, name, role, address)
        except AccountConflict:
            self._suspend(person)
            raise

    def _suspend(self, person: ProviderIdentity) -> None:
        """End what an account holds whose person was turned away. Its tokens rest until the next sign-in."""
        with writing(self._ledger) as connection:
            name = connection.execute(select(users.c.name).where(_is(person))).scalar()
            if name is not None:
                connection.execute(update(users).where(_is(person)).values(confirmed_at=0.0))
                self._sessions.end_all(connection, name)


def _admit(connection: Connection, person: ProviderIdentity) -> tuple[str, Role]:
    """Under which name and in which role; the account is made or brought up to date."""
    if person.role is None:
        raise AccountConflict(
            f"Nothing that the provider says of {person.name} gives a role here; you are not signed in. "
            "An admin can put you in a group that does: console.oidc.roles."
        )
    known = connection.execute(select(users.c.name, users.c.removed).where(_is(person))).first()
    if known is not None and known.removed:
        raise AccountConflict(f"An admin has removed {known.name}; you are not signed in. Ask them.")
    values: dict[str, object] = {"role": person.role.value, "confirmed_at": time.time()}
    if known is not None:
        connection.execute(update(users).where(_is(person)).values(**values))
        return known.name, person.role
    if connection.execute(select(users.c.name).where(users.c.name == person.name)).first() is not None:
        # Not theirs by its name: whoever may choose a name at the provider could become anybody here.
        raise AccountConflict(
            f"The name {person.name} belongs to somebody else here; you are not signed in. "
            "An admin can sort it out: `breaker user list`."
        )
    values |= {"name": person.name, "password_hash": "", "created_at": time.time(), "removed": False}
    connection.execute(insert(users).values(issuer=person.issuer, subject=person.subject, **values))
    return person.name, person.role


def _is(person: ProviderIdentity) -> ColumnElement[bool]:
    return and_(users.c.issuer == person.issuer, users.c.subject == person.subject)
