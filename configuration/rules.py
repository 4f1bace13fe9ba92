"""Define the settings of the automatic trips of one scope."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from breaker.limits import Rule
from configuration.units import Seconds, Unit


class RuleSettings(BaseModel):
    """The automatic trips of one scope (runbook, *Automatic Trips*). What each limit is of stands in its rule's row."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    drawdown: Annotated[Decimal, Unit("fraction")] = Field(default=Decimal("0.05"), gt=0, lt=1)
    api_errors: Annotated[int, Unit("errors")] = Field(default=10, ge=0)
    api_error_window: Seconds = 300.0
    """For how long an API error counts."""
    api_latency: Annotated[float | None, Field(ge=0.001, le=86_400), Unit("seconds")] = None
    data_age: Seconds = 1_800.0
    daily_loss: Annotated[Decimal | None, Unit("fraction")] = Field(default=None, gt=0, lt=1)
    loss_velocity: Annotated[Decimal | None, Unit("fraction")] = Field(default=None, gt=0, lt=1)
    loss_window: Annotated[float, Field(ge=1, le=86_400), Unit("seconds")] = 60.0
    """How far back a loss counts for `loss_velocity`."""
    consecutive_rejections: Annotated[int | None, Unit("orders")] = Field(default=None, ge=0)
    position_size: Annotated[Decimal | None, Unit("account's currency")] = Field(default=None, gt=0, lt=10**30)
    gross_exposure: Annotated[Decimal | None, Unit("account's currency")] = Field(default=None, gt=0, lt=10**30)
    position_mismatch: Annotated[Decimal | None, Unit("fraction of the larger")] = Field(default=None, gt=0, lt=1)
    margin: Annotated[Decimal | None, Unit("fraction")] = Field(default=None, gt=0, lt=10**30)
    order_rate: Annotated[int | None, Unit("messages")] = Field(default=None, ge=0)
    repeated_executions: Annotated[int | None, Unit("executions")] = Field(default=None, ge=0)
    silence: Seconds = 600.0
    silence_trips: bool = False
    """Whether silence trips; it is red in the health verification in any case."""
    confirmations: Annotated[Mapping[Rule, Annotated[int, Field(ge=1)]], Unit("measurements")] = Field(
        default_factory=dict
    )
    """How many measurements in a row have to be beyond the limit; 1 unless given, and 3 for POSITION_MISMATCH and
    API_LATENCY."""
    dry_run: tuple[Rule, ...] = ()
    """Rules that only record what they would have done."""
    off: tuple[Rule, ...] = ()
    """Rules that never trip; what they measure is kept."""
