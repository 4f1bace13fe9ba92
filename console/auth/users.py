"""Keep users with their passwords and roles, in the ledger's database."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from breaker.errors import BreakerError, InvalidInput
from console.auth.passwords import hash_password
from console.auth.permissions import Role
from console.auth.sessions import Sessions
from console.auth.tables import tokens, users
from ledger.ledger import Ledger
from ledger.transactions import reading, writing

_NAME = re.compile(r"[a-z][a-z0-9._-]{0,63}")


class AccountConflict(BreakerError):
    """The user or token is not there, is there already, or must stay. Nothing changed."""


@dataclass(frozen=True, slots=True)
class User:
    name: str
    role: Role
    created_at: float
    issuer: str | None = None
    """The identity provider by which they sign in; None for a password."""


class Users:
    """Methods raise LedgerError when the database is away."""

    def __init__(self, ledger: Ledger, sessions: Sessions) -> None:
        self._ledger = ledger
        self._sessions = sessions

    def add(self, name: str, role: Role, password: str) -> User:
        """A new user; one who was removed may come back with a new password.

        Raises:
            AccountConflict: there is one of that name.
            InvalidInput: the name or the password can't be used.
        """
        if not _NAME.fullmatch(name):
            raise InvalidInput(
                f"{name!r:.80} is no user name: a-z first, then a-z 0-9 . _ -, at most 64; nothing changed."
            )
        hashed = hash_password(password, name)
        user = User(name, role, time.time())
        with writing(self._ledger) as connection:
            found = connection.execute(select(users.c.removed).where(users.c.name == name)).first()
            if found is not None and not found.removed:
                raise AccountConflict(f"There is a user {name} already; nothing changed.")
            values = {
                "role": role.value,
                "password_hash": hashed,
                "created_at": user.created_at,
                "removed": False,
                "issuer": None,
                "subject": None,
                "confirmed_at": None,
            }
            if found is None:
                connection.execute(insert(users).values(name=name, **values))
            else:
                connection.execute(update(users).where(users.c.name == name).values(**values))
        return user

    def all(self) -> list[User]:
        """Those who were not removed, by name."""
        wanted = select(users).where(~users.c.removed).order_by(users.c.name)
        with reading(self._ledger) as connection:
            return [User(row.name, Role(row.role), row.created_at, row.issuer) for row in connection.execute(wanted)]

    def remove(self, name: str) -> None:
        """The user's sessions and tokens end with it. Raises AccountConflict: unknown, or the last admin."""
        with writing(self._ledger) as connection:
            _check_not_last_admin(connection, name)
            connection.execute(update(users).where(users.c.name == name).values(removed=True))
            connection.execute(update(tokens).where(tokens.c.user_name == name).values(revoked=True))
            self._sessions.end_all(connection, name)

    def set_role(self, name: str, role: Role) -> None:
        """Holds from the next request on. Raises AccountConflict: not a user with a password, or the last admin."""
        with writing(self._ledger) as connection:
            _check_has_password(connection, name)
            _check_not_last_admin(connection, name, becoming=role)
            connection.execute(update(users).where(users.c.name == name).values(role=role.value))
            self._sessions.end_all(connection, name)

    def set_password(self, name: str, password: str) -> None:
        """Ends the user's sessions. Raises AccountConflict, or InvalidInput for a password that can't be used."""
        hashed = hash_password(password, name)
        with writing(self._ledger) as connection:
            _check_has_password(connection, name)
            connection.execute(update(users).where(users.c.name == name).values(password_hash=hashed))
            self._sessions.end_all(connection, name)


def role_of(connection: Connection, name: str) -> Role:
    """The user's role, within the caller's transaction. Raises AccountConflict: there is no such user."""
    found = connection.execute(select(users.c.role).where(users.c.name == name, ~users.c.removed)).first()
    if found is None:
        raise AccountConflict(f"There is no user {name!r:.80}; nothing changed. `breaker user list` shows them.")
    return Role(found.role)


def _check_has_password(connection: Connection, name: str) -> None:
    role_of(connection, name)
    issuer = connection.execute(select(users.c.issuer).where(users.c.name == name)).scalar()
    if issuer is not None:
        raise AccountConflict(
            f"{name} signs in by {issuer:.200}, which says what they are; nothing changed. Change it there."
        )


def _check_not_last_admin(connection: Connection, name: str, becoming: Role | None = None) -> None:
    """Only those with a password count: a provider may be down, or take its groups back."""
    if role_of(connection, name) is not Role.ADMIN or becoming is Role.ADMIN:
        return
    admins = select(users.c.name).where(users.c.role == Role.ADMIN.value, ~users.c.removed, users.c.issuer.is_(None))
    if connection.execute(admins).scalars().all() == [name]:
        raise AccountConflict(f"{name} is the last admin and has to stay one; nothing changed. Add another first.")
