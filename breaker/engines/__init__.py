"""Guard the clients and engines that people already run, so that nobody writes the glue between orders and the gate.

Each guard keeps the client's own methods and types. None of the clients is a dependency: a guard's module is imported
when its name is first used, and imports only the client that it guards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from breaker.lazy_imports import lazy_names

if TYPE_CHECKING:
    from breaker.engines.admission import Admission, AsyncAdmission, Book
    from breaker.engines.alpaca_py import GuardedTradingClient
    from breaker.engines.ccxt_exchange import guard_exchange
    from breaker.engines.freqtrade import BotSettings, GuardedStrategy
    from breaker.engines.interactive_brokers import GuardedIB
    from breaker.engines.nautilus import BreakerActor, BreakerActorConfig
    from breaker.engines.rules_feed import RulesFeed
    from breaker.gate.decision import OrderRefused

__all__ = [
    "Admission",
    "AsyncAdmission",
    "Book",
    "BotSettings",
    "BreakerActor",
    "BreakerActorConfig",
    "GuardedIB",
    "GuardedStrategy",
    "GuardedTradingClient",
    "OrderRefused",
    "RulesFeed",
    "guard_exchange",
]

__getattr__ = lazy_names(
    __name__,
    {
        **dict.fromkeys(("Admission", "AsyncAdmission", "Book"), "breaker.engines.admission"),
        **dict.fromkeys(("BotSettings", "GuardedStrategy"), "breaker.engines.freqtrade"),
        **dict.fromkeys(("BreakerActor", "BreakerActorConfig"), "breaker.engines.nautilus"),
        "GuardedTradingClient": "breaker.engines.alpaca_py",
        "GuardedIB": "breaker.engines.interactive_brokers",
        "OrderRefused": "breaker.gate.decision",
        "RulesFeed": "breaker.engines.rules_feed",
        "guard_exchange": "breaker.engines.ccxt_exchange",
    },
)
