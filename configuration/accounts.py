"""Define the settings of an account: where its venue is, and how it is monitored."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from configuration.monitor import ALWAYS, Session
from configuration.units import Seconds, Unit


class AccountSettings(BaseModel):
    """One account at one venue."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    adapter: str = "alpaca"
    """Which adapter speaks to the venue: `alpaca`, or an entry point of the group `breaker.brokers`."""
    base_url: str = Field(pattern=r"^https?://[^\s]+$")
    """Where the venue's API is, without the version: `https://paper-api.alpaca.markets`."""
    key_id: SecretStr
    """The public half of the venue's API key."""
    secret_key: SecretStr
    """The secret half of it."""
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
