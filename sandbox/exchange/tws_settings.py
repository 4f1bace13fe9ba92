"""Hold how the exchange looks to clients of the TWS API, as a scenario's `[tws]` says it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Event = Literal["1100", "1101", "1102", "unsaid", "reset"]
"""TWS loses its venue (1100); has it again, with its clients' data lost (1101) or kept (1102), or without a word of it
(`unsaid`); or makes its nightly reset."""


class TwsEvent(BaseModel):
    """What happens to TWS at a moment of the exchange's clock."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at: float = Field(ge=0)
    event: Event
    seconds: float = Field(default=0, ge=0)
    """For which a reset lets nobody in."""


class TwsRefusal(BaseModel):
    """An error by which TWS refuses its clients' orders, though the exchange would take them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: int
    words: str = "Order rejected - reason:"
    first: int = Field(default=1, ge=1)
    """Only so many."""


class Tws(BaseModel):
    """How the exchange looks to clients of the TWS API."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    accounts: tuple[str, ...] = Field(default=("DU1234567",), min_length=1)
    """What the login manages; the book is the first one's, the others are empty."""
    engine_client: int = Field(default=7, ge=1)
    """The client id under which the book's orders were placed."""
    by_hand: int = Field(default=0, ge=0)
    """Of the book's orders, how many were placed by hand, the oldest: they have no number until client 0 binds them."""
    negative_ids: bool = True
    """Whether orders that client 0 binds get negative numbers, as TWS is set unless somebody changes it."""
    other_login: int = Field(default=0, ge=0)
    """Of the book's other orders, how many were sent through another TWS, the oldest: listed by their client and
    number, under which nobody can cancel them here until client 0 has bound them."""
    read_only: bool = False
    """Orders are neither taken nor cancelled over the API."""
    events: tuple[TwsEvent, ...] = ()
    notices: tuple[int, ...] = ()
    """Codes of errors that are none: said of each order of a client's before TWS takes it."""
    refusals: tuple[TwsRefusal, ...] = ()
    inactive: int = Field(default=0, ge=0)
    """So many of the clients' first orders are set aside without a word why: listed as open for good, and never to be
    cancelled (161)."""
    stuck: int = Field(default=0, ge=0)
    """So many of the clients' next orders never leave TWS: `PendingSubmit` until they are cancelled."""
