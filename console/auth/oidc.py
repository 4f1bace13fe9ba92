"""Ask an OpenID Connect provider who somebody is: authorization code with PKCE, and an ID token that is verified.

What belongs to one sign-in travels in a signed cookie, so that it is finished only by the browser that began it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

import httpx
from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from authlib.oidc.discovery import get_well_known_url
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet

from breaker import BreakerError
from configuration.console import OidcSettings, is_private
from console.auth.permissions import Role
from console.auth.provider_accounts import ProviderIdentity
from console.auth.signing import Signer

CALLBACK = "/oidc/callback"
BEGUN_WITHIN = 600.0
"""Seconds that signing in at the provider may take."""
LEEWAY = 60
"""Seconds by which the provider's clock may differ from ours."""
METADATA_KEPT = 3_600.0
_PURPOSE = "oidc"
"""For which the cookie of a sign-in under way is signed."""
KEYS_KEPT_AT_LEAST = 30.0
"""Seconds; a token that names an unknown key has us look for new ones no more often than this."""
# With the provider's own key only: no `none`, and nothing that a public key could be mistaken for a secret in.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")


class ProviderUnavailable(BreakerError):
    """The provider gave no usable answer in time. Nobody was signed in."""


class SignInRefused(BreakerError):
    """The provider's answer is not one to trust, or says no. Nobody was signed in."""


@dataclass(frozen=True, slots=True)
class SignInAttempt:
    """One sign-in under way: what the provider's answer must fit, and where to go afterwards."""

    state: str
    nonce: str
    verifier: str
    wanted: str
    begun_at: float

    @classmethod
    def begin(cls, wanted: str) -> SignInAttempt:
        return cls(
            secrets.token_urlsafe(32), secrets.token_urlsafe(32), secrets.token_urlsafe(48), wanted[:500], time.time()
        )

    def to_cookie(self, signer: Signer) -> str:
        return signer.sign(base64.urlsafe_b64encode(json.dumps(asdict(self)).encode()).decode(), _PURPOSE)

    @classmethod
    def from_cookie(cls, cookie: str, signer: Signer) -> SignInAttempt | None:
        """None if it isn't one of ours, or too old."""
        text = signer.unsign(cookie, _PURPOSE)
        if text is None:
            return None
        found = cls(**json.loads(base64.urlsafe_b64decode(text)))
        return found if 0 <= time.time() - found.begun_at <= BEGUN_WITHIN else None


class IdentityProvider:
    """The configured provider. What it says of itself is asked for when first needed, and again every hour."""

    def __init__(self, settings: OidcSettings) -> None:
        self.settings = settings
        self.redirect_uri = settings.public_url + CALLBACK
        self._tls = ssl.create_default_context()
        self._metadata: dict[str, Any] = {}
        self._metadata_until = 0.0
        self._keys = KeySet([])
        self._keys_at = float("-inf")

    async def sign_in_url(self, attempt: SignInAttempt) -> str:
        """Where to send the browser. Raises ProviderUnavailable."""
        async with self._asking() as http:
            metadata = await self._about(http)
        return str(
            prepare_grant_uri(
                metadata["authorization_endpoint"],
                self.settings.client_id,
                "code",
                redirect_uri=self.redirect_uri,
                scope=list(self.settings.scopes),
                state=attempt.state,
                nonce=attempt.nonce,
                code_challenge=create_s256_code_challenge(attempt.verifier),
                code_challenge_method="S256",
            )
        )

    async def person(self, code: str, attempt: SignInAttempt) -> ProviderIdentity:
        """For whom the provider vouches by `code`. Raises ProviderUnavailable, SignInRefused."""
        async with self._asking() as http:
            metadata = await self._about(http)
            answer = await self._redeem(http, metadata, code, attempt)
            id_token = answer.get("id_token")
            if not isinstance(id_token, str):
                raise SignInRefused("The provider sent no ID token; nobody was signed in. See its client's scopes.")
            try:
                claims = await self._verified(http, metadata, id_token, attempt, answer.get("access_token"))
            except (JoseError, ValueError) as error:
                raise SignInRefused(
                    f"The provider's ID token can't be trusted ({_reason(error)}); nobody was signed in. Try once "
                    "more; if it stays so, compare console.oidc with the provider's client, and both clocks."
                ) from None
        return person_of(claims, self.settings)

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client for all that one click asks of the provider, within the time that this may take."""
        most, issuer = self.settings.timeout, self.settings.issuer
        try:
            async with asyncio.timeout(most), httpx.AsyncClient(timeout=most, verify=self._tls) as http:
                yield http
        except (TimeoutError, httpx.TimeoutException):
            raise ProviderUnavailable(f"{issuer} gave no answer within {most:g} s.") from None
        except httpx.HTTPError as error:
            raise ProviderUnavailable(f"{issuer} gave no usable answer ({_reason(error)}).") from None

    async def _about(self, http: httpx.AsyncClient) -> Mapping[str, Any]:
        if time.monotonic() < self._metadata_until:
            return self._metadata
        found = await _json(http, get_well_known_url(self.settings.issuer, external=True))
        if found.get("issuer") != self.settings.issuer:
            raise ProviderUnavailable(
                f"{self.settings.issuer} says that it is {found.get('issuer')!r:.200}; nobody was signed in. "
                "Correct console.oidc.issuer."
            )
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            if not isinstance(url := found.get(name), str) or not is_private(url):
                raise ProviderUnavailable(f"The provider names no usable {name}; nobody was signed in.")
        self._metadata, self._metadata_until = found, time.monotonic() + METADATA_KEPT
        return found

    async def _redeem(
        self, http: httpx.AsyncClient, metadata: Mapping[str, Any], code: str, attempt: SignInAttempt
    ) -> dict[str, Any]:
        methods = metadata.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        method = "client_secret_basic" if "client_secret_basic" in methods else "client_secret_post"
        body = prepare_token_request(
            "authorization_code", code=code, redirect_uri=self.redirect_uri, code_verifier=attempt.verifier
        )
        headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
        client = ClientAuth(self.settings.client_id, self.settings.client_secret.get_secret_value(), method)
        url, headers, body = client.prepare("POST", metadata["token_endpoint"], headers, body)
        answer = await http.post(url, headers=headers, content=body)
        if httpx.codes.BAD_REQUEST <= answer.status_code < httpx.codes.INTERNAL_SERVER_ERROR:
            raise SignInRefused(
                f"The provider did not accept its own code ({_oauth_error(answer)}); nobody was signed in. Codes are "
                "good once and for a short while: try again."
            )
        answer.raise_for_status()
        return _object(answer)

    async def _verified(
        self,
        http: httpx.AsyncClient,
        metadata: Mapping[str, Any],
        id_token: str,
        attempt: SignInAttempt,
        access_token: object,
    ) -> Mapping[str, Any]:
        try:
            token = jwt.decode(id_token, await self._known_keys(http, metadata), ALGORITHMS)
        except InvalidKeyIdError:
            token = jwt.decode(id_token, await self._known_keys(http, metadata, renew=True), ALGORITHMS)
        claims = CodeIDToken(
            token.claims,
            token.header,
            {
                "iss": {"essential": True, "value": self.settings.issuer},
                "aud": {"essential": True, "value": self.settings.client_id},
                "nonce": {"essential": True},
            },
            {"nonce": attempt.nonce, "client_id": self.settings.client_id, "access_token": access_token},
        )
        claims.validate(leeway=LEEWAY)
        return dict(claims)

    async def _known_keys(self, http: httpx.AsyncClient, metadata: Mapping[str, Any], *, renew: bool = False) -> KeySet:
        age = time.monotonic() - self._keys_at
        if age > METADATA_KEPT or (renew and age > KEYS_KEPT_AT_LEAST):
            found = await _json(http, metadata["jwks_uri"])
            usable = [key for key in found.get("keys", []) if _signs(key)]
            self._keys, self._keys_at = KeySet.import_key_set({"keys": usable}), time.monotonic()
        return self._keys


def person_of(claims: Mapping[str, Any], settings: OidcSettings) -> ProviderIdentity:
    """Who the claims of a verified token are about. Pure. Raises SignInRefused."""
    subject, name = claims.get("sub"), _claim(claims, settings.name_claim)
    if not isinstance(subject, str) or not 0 < len(subject) <= 255:
        raise SignInRefused("The provider's ID token says of nobody what it says; nobody was signed in.")
    if not isinstance(name, str) or not name.strip():
        raise SignInRefused(
            f"The provider's ID token has no {settings.name_claim}; nobody was signed in. "
            "Correct console.oidc.name_claim, or what the provider puts into it."
        )
    if settings.name_claim == "email" and claims.get("email_verified") is not True:
        raise SignInRefused("The provider hasn't verified your e-mail address; nobody was signed in. Verify it there.")
    return ProviderIdentity(settings.issuer, subject, name.strip().lower(), role_of(claims, settings))


def role_of(claims: Mapping[str, Any], settings: OidcSettings) -> Role | None:
    """The highest role that any of the groups gives; None where somebody without any is refused. Pure."""
    groups = _claim(claims, settings.role_claim)
    named: Iterable[Any] = groups if isinstance(groups, list) else [groups]
    roles = [Role(settings.roles[group]) for group in named if isinstance(group, str) and group in settings.roles]
    return max(roles, key=list(Role).index, default=None) or (Role.VIEWER if settings.unmapped == "viewer" else None)


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """A claim of that name, whatever dots it has, or else what lies at the end of the path."""
    if name in claims:
        return claims[name]
    first, _, rest = name.partition(".")
    inner = claims.get(first)
    return _claim(inner, rest) if rest and isinstance(inner, Mapping) else None


def _signs(key: object) -> bool:
    return isinstance(key, dict) and key.get("kty") in ("RSA", "EC") and key.get("use") != "enc"


async def _json(http: httpx.AsyncClient, url: str) -> dict[str, Any]:
    answer = await http.get(url, headers={"Accept": "application/json"})
    answer.raise_for_status()
    return _object(answer)


def _object(answer: httpx.Response) -> dict[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ProviderUnavailable(f"{answer.request.url.host} answered with something that is no JSON object.")
    return found


def _oauth_error(answer: httpx.Response) -> str:
    """The error code of RFC 6749, section 5.2, which is ASCII; the status where there is none."""
    try:
        code = answer.json().get("error")
    except (ValueError, AttributeError):
        code = None
    return code[:60] if isinstance(code, str) and code.isascii() and code.isprintable() else f"{answer.status_code}"


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()).strip(": ")
    return text[:200] or type(error).__name__
