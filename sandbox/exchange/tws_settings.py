"""Hold how the exchange looks to clients of the TWS API, as a scenario's `[tws]` says it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Tws(BaseModel):
    """How the exchange looks to clients of the TWS API."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    accounts: tuple[str, ...] = Field(default=("DU1234567",), min_length=1)
    """What the login manages; the book is the first one's, the others are empty."""
    engine_client: int = Field(default=7, ge=1)
    """The client id under which the book's orders were placed."""
    by_hand: int = Field(default=0, ge=0)
    """Of the book's orders, how many were placed by hand, the oldest: no client of the API but 0 has them."""
    read_only: bool = False
    """Orders are neither taken nor cancelled over the API."""
