"""Users, their tokens and their sessions, in the ledger's database."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from sqlalchemy import ColumnElement, Connection, and_, delete, insert, select, update

from breaker.errors import BreakerError, InvalidInput
from configuration.console import OidcSettings
from console.auth.passwords import hash_password, password_fits
from console.auth.permissions import PERMISSIONS, WITHOUT_DATABASE, Identity, Permission, Role
from console.auth.tables import sessions, tokens, users
from ledger.errors import LedgerError
from ledger.ledger import Ledger
from ledger.transactions import reading, writing

TOKEN_PREFIX = "brk_"  # noqa: S105  how tokens begin, so that scanners for leaked secrets find them
LONGEST_TOKEN_DAYS = 366
_NAME = re.compile(r"[a-z][a-z0-9._-]{0,63}")
_PERSON = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,127}")
"""Names that an identity provider may give: addresses of e-mail too."""
_SEEN_EVERY = 30.0
"""Seconds between two notes of a session's use."""
_REMEMBERED = 1_000


class AccountConflict(BreakerError):
    """The user or token is not there, is there already, or must stay. Nothing changed."""


@dataclass(frozen=True, slots=True)
class User:
    name: str
    role: Role
    created_at: float
    issuer: str | None = None
    """The identity provider by which they sign in; None for a password."""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody for whom an identity provider vouches. `issuer` and `subject` say who it is; the name may change."""

    issuer: str
    subject: str
    name: str
    role: Role | None
    """None: none of what the provider says of them gives a role."""


@dataclass(frozen=True, slots=True)
class Token:
    """An API token without its secret. `permissions` are an upper bound: those of the user's role still apply."""

    id: str
    user: str
    label: str
    permissions: frozenset[Permission]
    created_at: float
    expires_at: float


class Accounts:
    """Safe to use from several threads; each call is one short transaction.

    `idle_timeout` and `lifetime` of sessions in seconds. Without `oidc` nobody whom a provider vouched for gets in, nor
    if it names another provider. Methods raise LedgerError when the database is away, except
    `session`, which then falls back on what it knew.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        idle_timeout: float = 1_800.0,
        lifetime: float = 43_200.0,
        oidc: OidcSettings | None = None,
    ) -> None:
        self._ledger = ledger
        self._oidc = oidc
        self._idle_timeout = idle_timeout
        self._lifetime = lifetime
        # By session or token: who it is, and until when (monotonic) that stands in for an answer of the database.
        self._remembered: OrderedDict[str, tuple[Identity, float]] = OrderedDict()
        self._lock = threading.Lock()

    # --- users ---

    def add_user(self, name: str, role: Role, password: str) -> User:
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

    def users(self) -> list[User]:
        wanted = select(users).where(~users.c.removed).order_by(users.c.name)
        with reading(self._ledger) as connection:
            return [User(row.name, Role(row.role), row.created_at, row.issuer) for row in connection.execute(wanted)]

    def remove_user(self, name: str) -> None:
        """The user's sessions and tokens end with it. Raises AccountConflict: unknown, or the last admin."""
        with writing(self._ledger) as connection:
            self._check_not_last_admin(connection, name)
            connection.execute(update(users).where(users.c.name == name).values(removed=True))
            connection.execute(update(tokens).where(tokens.c.user_name == name).values(revoked=True))
            self._end_sessions(connection, name)

    def set_role(self, name: str, role: Role) -> None:
        """Holds from the next request on. Raises AccountConflict: not a user with a password, or the last admin."""
        with writing(self._ledger) as connection:
            self._check_has_password(connection, name)
            self._check_not_last_admin(connection, name, becoming=role)
            connection.execute(update(users).where(users.c.name == name).values(role=role.value))
            self._end_sessions(connection, name)

    def set_password(self, name: str, password: str) -> None:
        """Ends the user's sessions. Raises AccountConflict, or InvalidInput for a password that can't be used."""
        hashed = hash_password(password, name)
        with writing(self._ledger) as connection:
            self._check_has_password(connection, name)
            connection.execute(update(users).where(users.c.name == name).values(password_hash=hashed))
            self._end_sessions(connection, name)

    def sign_in(self, name: str, password: str, address: str) -> tuple[str, Identity] | None:
        """A new session's secret and whose it is; None if name or password is wrong, which takes as long."""
        with reading(self._ledger) as connection:
            found = connection.execute(select(users).where(users.c.name == name, ~users.c.removed)).first()
        if not password_fits(password, (found.password_hash or None) if found is not None else None) or found is None:
            return None
        with writing(self._ledger) as connection:
            return self._new_session(connection, name, Role(found.role), address)

    def sign_in_person(self, person: Person, address: str) -> tuple[str, Identity]:
        """The same for somebody for whom the provider vouches, whose account is made or brought up to date by it.

        Raises:
            AccountConflict: no role, a name that can't be used or is another's, or an account that an admin removed.
                What they had before has ended then.
        """
        if not _PERSON.fullmatch(person.name):
            raise AccountConflict(
                f"The provider calls you {person.name!r:.80}, which is no name here: a-z 0-9 . _ @ + -, at most 128; "
                "you are not signed in. An admin can choose another claim: console.oidc.name_claim."
            )
        try:
            with writing(self._ledger) as connection:
                name, role = self._admit(connection, person)
                return self._new_session(connection, name, role, address)
        except AccountConflict:
            self._suspend(person)
            raise

    def _admit(self, connection: Connection, person: Person) -> tuple[str, Role]:
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

    def _suspend(self, person: Person) -> None:
        """End what an account holds whose person was turned away. Its tokens rest until the next sign-in."""
        with writing(self._ledger) as connection:
            name = connection.execute(select(users.c.name).where(_is(person))).scalar()
            if name is not None:
                connection.execute(update(users).where(_is(person)).values(confirmed_at=0.0))
                self._end_sessions(connection, name)

    def _new_session(self, connection: Connection, name: str, role: Role, address: str) -> tuple[str, Identity]:
        secret, csrf, now = secrets.token_urlsafe(32), secrets.token_urlsafe(32), time.time()
        connection.execute(delete(sessions).where(sessions.c.created_at < now - self._lifetime))
        connection.execute(
            insert(sessions).values(
                id_hash=_digest(secret), user_name=name, csrf=csrf, created_at=now, seen_at=now, address=address
            )
        )
        identity = Identity(name, role, PERMISSIONS[role], csrf, _digest(secret))
        return secret, self._remember(identity, identity.session, self._idle_timeout)

    # --- sessions ---

    def session(self, secret: str, *, used: bool = True) -> Identity | None:
        """Whose session it is, if it still holds. `used`: it counts as activity.

        While the database is away a session that was confirmed within the idle timeout still may do what makes things
        safer, and nothing else.
        """
        name = _digest(secret)
        try:
            return self._confirmed_session(name, used)
        except LedgerError:
            return self._unconfirmed(name)

    def _confirmed_session(self, name: str, used: bool) -> Identity | None:
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
            or now - found.created_at > self._session_lifetime(found.issuer)
        ):
            self._forget(name)
            return None
        if used and now - found.seen_at > min(_SEEN_EVERY, self._idle_timeout / 4):
            with writing(self._ledger) as connection:
                connection.execute(update(sessions).where(sessions.c.id_hash == name).values(seen_at=now))
        role = Role(found.role)
        return self._remember(Identity(found.name, role, PERMISSIONS[role], found.csrf, name), name, self._idle_timeout)

    def _session_lifetime(self, issuer: str | None) -> float:
        if issuer is None:
            return self._lifetime
        if self._oidc is None or self._oidc.issuer != issuer:
            return 0.0
        return min(self._lifetime, self._oidc.session_lifetime)

    def _unconfirmed(self, name: str) -> Identity | None:
        with self._lock:
            known = self._remembered.get(name)
        if known is None or time.monotonic() > known[1]:
            return None
        identity = known[0]
        return replace(identity, permissions=identity.permissions & WITHOUT_DATABASE, confirmed=False)

    def end_session(self, identity: Identity) -> None:
        self._forget(identity.session)
        with writing(self._ledger) as connection:
            connection.execute(delete(sessions).where(sessions.c.id_hash == identity.session))

    # --- tokens ---

    def create_token(self, user: str, label: str, permissions: Iterable[Permission], days: float) -> tuple[str, Token]:
        """A new token, and its text, which is never seen again.

        Raises:
            AccountConflict: no such user.
            InvalidInput: it would never expire, or its user's role has none of the permissions.
        """
        if not 0 < days <= LONGEST_TOKEN_DAYS:
            raise InvalidInput(f"A token holds for up to {LONGEST_TOKEN_DAYS} days, not {days:g}; nothing changed.")
        if not 0 < len(label) <= 100 or not label.isprintable():
            raise InvalidInput("A token's label is one line of 1 to 100 characters; nothing changed.")
        with writing(self._ledger) as connection:
            role = self._role(connection, user)
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
                    secret_hash=_digest(secret),
                    user_name=user,
                    label=label,
                    permissions=" ".join(sorted(token.permissions)),
                    created_at=now,
                    expires_at=token.expires_at,
                    revoked=False,
                )
            )
        return f"{TOKEN_PREFIX}{token.id}_{secret}", token

    def tokens(self) -> list[Token]:
        """Those that are neither revoked nor expired."""
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

    def revoke_token(self, token_id: str) -> None:
        """Holds from the next request on. Raises AccountConflict: there is none of that id."""
        with writing(self._ledger) as connection:
            done = connection.execute(
                update(tokens).where(tokens.c.id == token_id, ~tokens.c.revoked).values(revoked=True)
            )
            if done.rowcount == 0:
                raise AccountConflict(f"There is no token {token_id!r:.40} to revoke; nothing changed.")

    def token(self, text: str) -> Identity | None:
        """Whose token it is, if it holds; its permissions are those that both it and its user's role have.

        While the database is away a token that was confirmed within the idle timeout may do what such a session may.

        Raises:
            LedgerUnavailable: the database is away, and this token is not known here.
        """
        name = f"token {_digest(text)}"
        try:
            confirmed = self._confirmed_token(text)
        except LedgerError:
            if (known := self._unconfirmed(name)) is None:
                raise
            return known
        if confirmed is None:
            self._forget(name)
            return None
        identity, expires_at = confirmed
        return self._remember(identity, name, min(self._idle_timeout, expires_at - time.time()))

    def _confirmed_token(self, text: str) -> tuple[Identity, float] | None:
        """And when it expires."""
        token_id, _, secret = text.removeprefix(TOKEN_PREFIX).partition("_")
        if not text.startswith(TOKEN_PREFIX) or not secret or len(text) > 200:
            return None
        wanted = (
            select(tokens, users.c.role, users.c.issuer, users.c.confirmed_at)
            .join(users, users.c.name == tokens.c.user_name)
            .where(tokens.c.id == token_id, ~tokens.c.revoked, ~users.c.removed, tokens.c.expires_at > time.time())
        )
        with reading(self._ledger) as connection:
            found = connection.execute(wanted).first()
        if found is None or not hmac.compare_digest(found.secret_hash, _digest(secret)):
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

    # --- within a transaction ---

    def _role(self, connection: Connection, name: str) -> Role:
        found = connection.execute(select(users.c.role).where(users.c.name == name, ~users.c.removed)).first()
        if found is None:
            raise AccountConflict(f"There is no user {name!r:.80}; nothing changed. `breaker user list` shows them.")
        return Role(found.role)

    def _check_has_password(self, connection: Connection, name: str) -> None:
        self._role(connection, name)
        issuer = connection.execute(select(users.c.issuer).where(users.c.name == name)).scalar()
        if issuer is not None:
            raise AccountConflict(
                f"{name} signs in by {issuer:.200}, which says what they are; nothing changed. Change it there."
            )

    def _check_not_last_admin(self, connection: Connection, name: str, becoming: Role | None = None) -> None:
        """Only those with a password count: a provider may be down, or take its groups back."""
        if self._role(connection, name) is not Role.ADMIN or becoming is Role.ADMIN:
            return
        admins = select(users.c.name).where(
            users.c.role == Role.ADMIN.value, ~users.c.removed, users.c.issuer.is_(None)
        )
        if connection.execute(admins).scalars().all() == [name]:
            raise AccountConflict(f"{name} is the last admin and has to stay one; nothing changed. Add another first.")

    def _end_sessions(self, connection: Connection, name: str) -> None:
        connection.execute(delete(sessions).where(sessions.c.user_name == name))
        with self._lock:
            for key in [key for key, (identity, _) in self._remembered.items() if identity.user == name]:
                del self._remembered[key]

    def _remember(self, identity: Identity, name: str, seconds: float) -> Identity:
        """For as long as it may stand in for the database's answer."""
        with self._lock:
            self._remembered[name] = (identity, time.monotonic() + seconds)
            self._remembered.move_to_end(name)
            while len(self._remembered) > _REMEMBERED:
                self._remembered.popitem(last=False)
        return identity

    def _forget(self, name: str) -> None:
        with self._lock:
            self._remembered.pop(name, None)


def _is(person: Person) -> ColumnElement[bool]:
    return and_(users.c.issuer == person.issuer, users.c.subject == person.subject)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _permissions(text: str) -> frozenset[Permission]:
    return frozenset(Permission(word) for word in text.split())
