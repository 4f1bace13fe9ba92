"""Define the settings of an account: where its venue is, and how it is monitored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from configuration.monitor import ALWAYS, Session
from configuration.units import Seconds, Unit

SUBACCOUNTS = frozenset({"hyperliquid"})
"""Exchanges of ccxt that take the name of a sub-account; the others have keys of its own for it."""


class AccountSettings(BaseModel):
    """One account at one venue."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    adapter: str = "alpaca"
    """Which adapter speaks to the venue: `alpaca`, `ccxt`, `ib`, or an entry point of the group `breaker.brokers`."""
    base_url: str | None = Field(default=None, pattern=r"^https?://[^\s]+$")
    """Where the venue's API is, without the version: `https://paper-api.alpaca.markets`."""
    key_id: SecretStr | None = None
    """The public half of the venue's API key; at exchanges on a chain the wallet's address."""
    secret_key: SecretStr | None = None
    """The secret half of it; at exchanges on a chain the wallet's private key."""
    request_timeout: Seconds = 5.0
    """Longest wait for one answer of the venue."""
    requests_per_minute: Annotated[int, Unit("requests a minute")] = Field(default=200, gt=0)
    """The venue's limit for this account; what it says in its own headers wins."""
    monitored_as: str | None = None
    """Which breaker the account's equity is judged for; `global` of a single account, else `account:NAME`."""
    session: Session = ALWAYS
    """The exchange calendar by which its trading day begins: `24/7`, or such as `XNYS`."""
    data_url: str | None = Field(default=None, pattern=r"^https?://[^\s]+$")
    """Where the venue's market data are; where its adapter knows them to be unless given."""
    safety_net: Annotated[float | None, Field(gt=0, le=86_400), Unit("seconds")] = None
    """After how long without a renewal the venue's own timer cancels this account's orders; off unless given."""
    safety_net_cancels_stops: bool = False
    """Whether that may take protective stops too, where the venue can't leave them (`breaker safety show`)."""
    exchange: str | None = Field(default=None, pattern=r"^[a-z0-9]+$")
    """Adapter `ccxt`: its name of the exchange, such as `binanceusdm`, `bybit`, `okx`, `krakenfutures`."""
    market: Literal["spot", "margin", "swap", "future"] = "swap"
    """Adapter `ccxt`: which of the exchange's wallets; `margin` is cross margin."""
    password: SecretStr | None = None
    """Adapter `ccxt`: the third part of the key, where the exchange gives one (OKX, KuCoin, Bitget: the passphrase)."""
    keep: tuple[str, ...] = ()
    """Adapter `ccxt`, `spot` and `margin`: currencies that stay, the first is what the account is valued in; USDT, USDC
    and USD unless given. Adapter `ib`: currencies whose pairs stay, as `EUR` keeps what is held in `EUR.USD`."""
    options: Mapping[str, Any] = Field(default_factory=dict)
    """Adapter `ccxt`: ccxt's own options for this exchange."""
    urls: str | Mapping[str, str] | None = None
    """Adapter `ccxt`: `sandbox` for the exchange's test network, one address in place of all of its own, or addresses
    by ccxt's keys."""
    leave_out: tuple[str, ...] = ()
    """Adapter `ccxt`: product lines of the exchange that the account does without, such as `option`: they are neither
    read, cancelled nor closed. For keys that may not read them."""
    subaccount: str | None = None
    """Adapter `ccxt`: the sub-account, where the exchange wants its name beside the key (Hyperliquid: its address)."""
    host: str = Field(default="127.0.0.1", pattern=r"^[^\s/]+$")
    """Adapter `ib`: where Trader Workstation or IB Gateway runs."""
    port: int | None = Field(default=None, ge=1, le=65535)
    """Adapter `ib`: its API's port. Usual are 7496 (TWS), 4001 (Gateway), 7497 and 4002 (the same, paper trading)."""
    client_id: int = Field(default=911, ge=0, lt=1_000_000)
    """Adapter `ib`: the client of TWS as which closes are placed, used by nothing else."""
    ib_account: str | None = Field(default=None, pattern=r"^[A-Z]+[0-9]+[A-Z]?$")
    """Adapter `ib`: the account's number, such as `U1234567`; the login's only one unless given."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        """What the adapter can't do without, in one sentence."""
        needed = {
            "alpaca": ("base_url", "key_id", "secret_key"),
            "ccxt": ("exchange", "key_id", "secret_key"),
            "ib": ("port",),
        }
        missing = [key for key in needed.get(self.adapter, ()) if getattr(self, key) is None]
        if missing:
            raise ValueError(f"adapter {self.adapter} needs {' and '.join(missing)}")
        if self.adapter == "ccxt" and self.subaccount and self.exchange not in SUBACCOUNTS:
            raise ValueError(f"subaccount: {self.exchange} has keys of its own for each sub-account; give those")
        return self

    @property
    def place(self) -> str:
        """Where it is, in words."""
        if self.adapter == "ib":
            return f"{self.host}:{self.port}"
        return self.base_url or f"{self.exchange} ({self.market})"


def check_clients_apart(accounts: Mapping[str, AccountSettings]) -> None:
    """Two accounts of one TWS place their closes as different clients of it. Raises ValueError."""
    clients: dict[tuple[str, int | None, int], str] = {}
    for name, account in accounts.items():
        client = account.host, account.port, account.client_id
        if account.adapter == "ib" and (other := clients.setdefault(client, name)) != name:
            raise ValueError(
                f"accounts.{name}.client_id: {other} has {account.client_id} at {account.place} too; "
                "give each account one of its own"
            )
