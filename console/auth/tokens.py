"""Make, confirm and revoke the tokens by which programs use the API, in the ledger's database."""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import insert, select, update

from breaker.errors import InvalidInput
from configuration.console import OidcSettings
from console.auth.identity_cache import IdentityCache
from console.auth.permissions import PERMISSIONS, Identity, Permission, Role
from console.auth.signing import digest
from console.auth.tables import tokens, users
from console.auth.users import AccountConflict, role_of
from ledger.errors import LedgerError
from ledger.ledger import Ledger
from ledger.transactions import reading, writing

PREFIX = "brk_"
"""How tokens begin, so that scanners for leaked secrets find them."""
LONGEST_DAYS = 366


@dataclass(frozen=True, slots=True)
class Token:
    """An API token without its secret. `permissions` are an upper bound: those of the user's role still apply."""

    id: str
    user: str
    label: str
    permissions: frozenset[Permission]
    created_at: float
    expires_at: float


class Tokens:
    """Methods raise LedgerError when the database is away.

    A token that was confirmed within `idle_timeout` seconds then stands in for the database's answer; one of somebody
    by an identity provider that is not `oidc` doesn't hold.
    """

    def __init__(self, ledger: Ledger, cache: IdentityCache, *, idle_timeout: float, oidc: OidcSettings | None) -> None:
        self._ledger = ledger
        self._cache = cache
        self._idle_timeout = idle_timeout
        self._oidc = oidc

    def create(self, user: str, label: str, permissions: Iterable[Permission], days: float) -> tuple[str, Token]:
        """A new token, and its text, which is never seen again.

        Raises:
            AccountConflict: no such user.
            InvalidInput: it would never expire, or its user's role has none of the permissions.
        """
        if not 0 < days <= LONGEST_DAYS:
            raise InvalidInput(f"A token holds for up to {LONGEST_DAYS} days, not {days:g}; nothing changed.")
        if not 0 < len(label) <= 100 or not label.isprintable():
            raise InvalidInput("A token's label is one line of 1 to 100 characters; nothing changed.")
        with writing(self._ledger) as connection:
            role = role_of(connection, user)
            beyond = sorted(frozenset(permissions) - PERMISSIONS[role])
            if beyond or not permissions:
                raise InvalidInput(
                    f"The role {role} of {user} doesn't have {', '.join(beyond) or 'no permissions to give'}; "
                    "nothing changed."
                )
            secret, now = secrets.token_urlsafe(32), time.time()
            token = Token(secrets.token_hex(6), user, label, frozenset(permissions), now, now + days * 86_400)
            connection.execute(
                insert(tokens).values(
                    id=token.id,
                    secret_hash=digest(secret),
                    user_name=user,
                    label=label,
                    permissions=" ".join(sorted(token.permissions)),
                    created_at=now,
                    expires_at=token.expires_at,
                    revoked=False,
                )
            )
        return f"{PREFIX}{token.id}_{secret}", token

    def all(self) -> list[Token]:
        """Those that are neither revoked nor expired, oldest first."""
        wanted = (
            select(tokens).where(~tokens.c.revoked, tokens.c.expires_at > time.time()).order_by(tokens.c.created_at)
        )
        with reading(self._ledger) as connection:
            return [
                Token(
                    row.id,
                    row.user_name,
                    row.label,
                    _permissions(row.permissions),
                    row.created_at,
                    row.expires_at,
                )
                for row in connection.execute(wanted)
            ]

    def revoke(self, token_id: str) -> None:
        """Holds from the next request on. Raises AccountConflict: there is none of that id."""
        with writing(self._ledger) as connection:
            done = connection.execute(
                update(tokens).where(tokens.c.id == token_id, ~tokens.c.revoked).values(revoked=True)
            )
            if done.rowcount == 0:
                raise AccountConflict(f"There is no token {token_id!r:.40} to revoke; nothing changed.")

    def confirm(self, text: str) -> Identity | None:
        """Whose token it is, if it holds; its permissions are those that both it and its user's role have.

        While the database is away a token that was confirmed within the idle timeout may do what such a session may.

        Raises:
            LedgerUnavailable: the database is away, and this token is not known here.
        """
        name = f"token {digest(text)}"
        try:
            confirmed = self._confirmed(text)
        except LedgerError:
            if (known := self._cache.unconfirmed(name)) is None:
                raise
            return known
        if confirmed is None:
            self._cache.forget(name)
            return None
        identity, expires_at = confirmed
        return self._cache.remember(name, identity, min(self._idle_timeout, expires_at - time.time()))

    def _confirmed(self, text: str) -> tuple[Identity, float] | None:
        """And when it expires."""
        token_id, _, secret = text.removeprefix(PREFIX).partition("_")
        if not text.startswith(PREFIX) or not secret or len(text) > 200:
            return None
        wanted = (
            select(tokens, users.c.role, users.c.issuer, users.c.confirmed_at)
            .join(users, users.c.name == tokens.c.user_name)
            .where(tokens.c.id == token_id, ~tokens.c.revoked, ~users.c.removed, tokens.c.expires_at > time.time())
        )
        with reading(self._ledger) as connection:
            found = connection.execute(wanted).first()
        if found is None or not hmac.compare_digest(found.secret_hash, digest(secret)):
            return None
        if found.issuer is not None and not self._still_vouched_for(found.issuer, found.confirmed_at):
            return None
        role = Role(found.role)
        identity = Identity(found.user_name, role, PERMISSIONS[role] & _permissions(found.permissions))
        return identity, found.expires_at

    def _still_vouched_for(self, issuer: str, confirmed_at: float) -> bool:
        if self._oidc is None or self._oidc.issuer != issuer:
            return False
        return time.time() - confirmed_at <= self._oidc.token_days * 86_400


def _permissions(text: str) -> frozenset[Permission]:
    return frozenset(Permission(word) for word in text.split())
