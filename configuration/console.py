"""Define the settings of the web console, of signing in to it, and of the exporter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, IPvAnyNetwork, SecretStr, field_validator

from configuration.locations import not_empty
from configuration.units import Seconds, Unit

RoleName = Literal["viewer", "operator", "risk_manager", "admin"]


class OidcSettings(BaseModel):
    """Signing in to the console by an OpenID Connect provider. Nobody has a role but by `roles`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    issuer: str
    """Exactly as the provider writes it; its discovery document is looked up beneath it."""
    client_id: str = Field(min_length=1)
    """What the provider calls this console."""
    client_secret: SecretStr
    """The secret that belongs to it."""
    public_url: str
    """Where browsers reach the console; `/oidc/callback` beneath it is what the provider is told to lead back to."""
    scopes: tuple[str, ...] = ("openid", "profile")
    """What is asked of the provider; `openid` has to be among them."""
    name_claim: str = "preferred_username"
    """The claim of the ID token that gives the user's name, in lower case."""
    role_claim: str = "groups"
    """The claim whose values `roles` maps; dots lead into a claim: `realm_access.roles`."""
    roles: Mapping[str, RoleName] = Field(default_factory=dict)
    """The role that each value of `role_claim` gives; of several the highest counts."""
    unmapped: Literal["refuse", "viewer"] = "refuse"
    """What becomes of somebody whom the provider knows and `roles` doesn't."""
    label: str = Field(default="single sign-on", min_length=1, max_length=40)
    """On the sign-in page's button."""
    local_sign_in: bool = True
    """Whether passwords are taken too. They are the way in when the provider is down."""
    session_lifetime: Seconds = 3_600.0
    """After so long the provider is asked again, so this is how long a group taken away may still count."""
    token_days: Annotated[float, Field(gt=0, le=366), Unit("days")] = 7.0
    """Since the last sign-in, after which somebody's API tokens rest until the next."""
    timeout: Seconds = 5.0
    """Longest that the provider may take for all that one click asks of it."""

    @field_validator("issuer", "public_url")
    @classmethod
    def _is_private(cls, url: str) -> str:
        if not is_private(url):
            raise ValueError("an https:// URL is needed; http:// is for this machine alone")
        return url

    @field_validator("public_url")
    @classmethod
    def _has_no_path(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.path.strip("/") or parts.query or parts.fragment or parts.username:
            raise ValueError("only scheme, host and port are wanted")
        return f"{parts.scheme}://{parts.netloc}"

    @field_validator("scopes")
    @classmethod
    def _asks_for_an_identity(cls, scopes: tuple[str, ...]) -> tuple[str, ...]:
        if "openid" not in scopes:
            raise ValueError("openid has to be among them")
        return scopes


def is_private(url: str) -> bool:
    """Whether what is sent there can't be read on the way: by TLS, or because it stays on this machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
        parts.port  # noqa: B018  reading it is what checks it
    except ValueError:
        return False
    return bool(host) and (
        parts.scheme == "https" or (parts.scheme == "http" and host in ("localhost", "127.0.0.1", "::1"))
    )


class ConsoleSettings(BaseModel):
    """Where the web console and the exporter listen, and how long a sign-in lasts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = "127.0.0.1"
    """Where the console listens.

    Anything but a loopback address needs TLS, by `tls_certificate` and `tls_key` or by `trusted_proxies`.
    """
    port: int = Field(default=8500, ge=0, le=65_535)
    """The console's port; 0 takes any that is free."""
    names: tuple[str, ...] = ()
    """Host names by which browsers reach the console, besides `host` and the loopback names."""
    trusted_proxies: tuple[IPvAnyNetwork, ...] = ()
    """Reverse proxies that end TLS; only what these say about a client's address is believed."""
    tls_certificate: Annotated[Path | None, BeforeValidator(not_empty)] = None
    """A PEM file."""
    tls_key: Annotated[Path | None, BeforeValidator(not_empty)] = None
    """A PEM file; the two belong together."""
    idle_timeout: Seconds = 1_800.0
    """A session ends after so long without a click; a page that only watches doesn't count as one."""
    session_lifetime: Seconds = 43_200.0
    """A session ends after so long in any case."""
    oidc: OidcSettings | None = None
    """Signing in by an identity provider; passwords alone unless given."""
    exposure_interval: Seconds = 10.0
    """Between two readings of each account's book while somebody looks at it; each costs venue requests."""
    metrics_host: str = "127.0.0.1"
    """Where the exporter listens."""
    metrics_port: int = Field(default=8503, ge=0, le=65_535)
    """The exporter's port (runbook, *CB Verification Failed Alert*)."""
