"""Know who may use the console: users, people of an identity provider, their sessions and their tokens."""

from __future__ import annotations

from configuration.console import OidcSettings
from console.auth.identity_cache import IdentityCache
from console.auth.provider_accounts import ProviderAccounts
from console.auth.sessions import Sessions
from console.auth.tokens import Tokens
from console.auth.users import Users
from ledger.ledger import Ledger


class Identities:
    """Safe to use from several threads; each call is one short transaction.

    `idle_timeout` and `lifetime` of sessions in seconds. Without `oidc` nobody whom a provider vouched for gets in, nor
    if it names another provider.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        idle_timeout: float = 1_800.0,
        lifetime: float = 43_200.0,
        oidc: OidcSettings | None = None,
    ) -> None:
        cache = IdentityCache()
        self.sessions = Sessions(ledger, cache, idle_timeout=idle_timeout, lifetime=lifetime, oidc=oidc)
        self.users = Users(ledger, self.sessions)
        self.provider_accounts = ProviderAccounts(ledger, self.sessions)
        self.tokens = Tokens(ledger, cache, idle_timeout=idle_timeout, oidc=oidc)
