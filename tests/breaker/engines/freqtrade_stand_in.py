"""Stand in for freqtrade: the hooks of a strategy as it documents them, its exceptions, its exchange's one door."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from breaker.engines.freqtrade import LOCK_REASON


class DependencyException(Exception):
    """freqtrade's, which the bot handles by going on."""


class OperationalException(Exception):
    """freqtrade's, which it shows."""


class TemporaryError(DependencyException):
    """freqtrade's, for what may work the next time."""


class Exchange:
    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.problem: Exception | None = None
        self.status = "closed"

    def create_order(
        self,
        *,
        pair: str,
        ordertype: str,
        side: str,
        amount: float,
        rate: float,
        reduceOnly: bool = False,  # noqa: N803
    ) -> dict[str, Any]:
        if self.problem is not None:
            raise self.problem
        self.sent.append({"pair": pair, "side": side, "amount": amount})
        return {"id": "1", "status": self.status}


class IStrategy:
    """The hooks as freqtrade documents them, with their answers unless overridden."""

    dp: Any
    wallets: Any

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.locks: set[str] = set()
        self.loops = 0

    def bot_start(self, **kwargs: Any) -> None: ...

    def bot_loop_start(self, current_time: datetime, **kwargs: Any) -> None:
        self.loops += 1

    def confirm_trade_entry(
        self,
        pair: str,
        order_type: str,
        amount: float,
        rate: float,
        time_in_force: str,
        current_time: datetime,
        entry_tag: str | None,
        side: str,
        **kwargs: Any,
    ) -> bool:
        return True

    def custom_stake_amount(
        self,
        pair: str,
        current_time: datetime,
        current_rate: float,
        proposed_stake: float,
        min_stake: float | None,
        max_stake: float,
        leverage: float,
        entry_tag: str | None,
        side: str,
        **kwargs: Any,
    ) -> float:
        return proposed_stake

    def adjust_trade_position(self, trade: Any, current_entry_rate: float, **kwargs: Any) -> Any:
        return None

    def adjust_order_price(
        self, trade: Any, order: Any, current_order_rate: float, side: str, is_entry: bool, **kwargs: Any
    ) -> float | None:
        return current_order_rate

    def check_entry_timeout(self, pair: str, trade: Any, order: Any, current_time: datetime, **kwargs: Any) -> bool:
        return False

    def lock_pair(self, pair: str, until: datetime, reason: str | None = None, side: str = "*") -> None:
        assert (until.tzinfo, reason, side) == (UTC, LOCK_REASON, "*")
        self.locks.add(pair)

    def unlock_reason(self, reason: str) -> None:
        assert reason == LOCK_REASON
        self.locks.clear()

    def ft_bot_cleanup(self) -> None: ...
