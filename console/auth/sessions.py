"""Begin, confirm and end the sessions of people who sign in, in the ledger's database."""

from __future__ import annotations

import secrets
import time

from sqlalchemy import Connection, delete, insert, select, update

from configuration.console import OidcSettings
from console.auth.identity_cache import IdentityCache
from console.auth.passwords import password_fits
from console.auth.permissions import PERMISSIONS, Identity, Role
from console.auth.signing import digest
from console.auth.tables import sessions, users
from ledger.errors import LedgerError
from ledger.ledger import Ledger
from ledger.transactions import reading, writing

_SEEN_EVERY = 30.0
"""Seconds between two notes of a session's use."""


class Sessions:
    """Methods raise LedgerError when the database is away, except `confirm`, which then falls back on what it knew.

    `idle_timeout` and `lifetime` in seconds; a session by an identity provider that is not `oidc` doesn't hold.
    """

    def __init__(
        self,
        ledger: Ledger,
        cache: IdentityCache,
        *,
        idle_timeout: float,
        lifetime: float,
        oidc: OidcSettings | None,
    ) -> None:
        self._ledger = ledger
        self._cache = cache
        self._idle_timeout = idle_timeout
        self._lifetime = lifetime
        self._oidc = oidc

    def sign_in(self, name: str, password: str, address: str) -> tuple[str, Identity] | None:
        """A new session's secret and whose it is; None if name or password is wrong, which takes as long."""
        with reading(self._ledger) as connection:
            found = connection.execute(select(users).where(users.c.name == name, ~users.c.removed)).first()
        if not password_fits(password, (found.password_hash or None) if found is not None else None) or found is None:
            return None
        with writing(self._ledger) as connection:
            return self.begin(connection, name, Role(found.role), address)

    def begin(self, connection: Connection, name: str, role: Role, address: str) -> tuple[str, Identity]:
        """A session of somebody who has proven who they are, within the caller's transaction."""
        secret, csrf, now = secrets.token_urlsafe(32), secrets.token_urlsafe(32), time.time()
        connection.execute(delete(sessions).where(sessions.c.created_at < now - self._lifetime))
        connection.execute(
            insert(sessions).values(
                id_hash=digest(secret), user_name=name, csrf=csrf, created_at=now, seen_at=now, address=address
            )
        )
        identity = Identity(name, role, PERMISSIONS[role], csrf, digest(secret))
        return secret, self._cache.remember(identity.session, identity, self._idle_timeout)

    def confirm(self, secret: str, *, used: bool = True) -> Identity | None:
        """Whose session it is, if it still holds. `used`: it counts as activity.

        While the database is away a session that was confirmed within the idle timeout still may do what makes things
        safer, and nothing else.
        """
        name = digest(secret)
        try:
            return self._confirmed(name, used)
        except LedgerError:
            return self._cache.unconfirmed(name)

    def end(self, identity: Identity) -> None:
        self._cache.forget(identity.session)
        with writing(self._ledger) as connection:
            connection.execute(delete(sessions).where(sessions.c.id_hash == identity.session))

    def end_all(self, connection: Connection, user: str) -> None:
        """Every session of that user, within the caller's transaction."""
        connection.execute(delete(sessions).where(sessions.c.user_name == user))
        self._cache.forget_user(user)

    def _confirmed(self, name: str, used: bool) -> Identity | None:
        now = time.time()
        wanted = (
            select(
                sessions.c.csrf, sessions.c.seen_at, sessions.c.created_at, users.c.name, users.c.role, users.c.issuer
            )
            .join(users, users.c.name == sessions.c.user_name)
            .where(sessions.c.id_hash == name, ~users.c.removed)
        )
        with reading(self._ledger) as connection:
            found = connection.execute(wanted).first()
        if (
            found is None
            or now - found.seen_at > self._idle_timeout
            or now - found.created_at > self._lifetime_by(found.issuer)
        ):
            self._cache.forget(name)
            return None
        if used and now - found.seen_at > min(_SEEN_EVERY, self._idle_timeout / 4):
            with writing(self._ledger) as connection:
                connection.execute(update(sessions).where(sessions.c.id_hash == name).values(seen_at=now))
        role = Role(found.role)
        identity = Identity(found.name, role, PERMISSIONS[role], found.csrf, name)
        return self._cache.remember(name, identity, self._idle_timeout)

    def _lifetime_by(self, issuer: str | None) -> float:
        if issuer is None:
            return self._lifetime
        if self._oidc is None or self._oidc.issuer != issuer:
            return 0.0
        return min(self._lifetime, self._oidc.session_lifetime)
