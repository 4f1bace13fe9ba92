"""Judge each order before it leaves the engine: `Gate` says yes or no, without I/O.

Names are imported when first used, so that a part of the gate doesn't cost its user the whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from breaker.lazy_imports import lazy_names

if TYPE_CHECKING:
    from breaker.gate.decision import Decision, OrderRefused, Permit, Reason
    from breaker.gate.gate import Gate
    from breaker.gate.intents import CancelIntent, ListKind, OrderIntent, OrderList, ReplaceIntent
    from breaker.gate.quiet_period import QuietPeriodLimits
    from breaker.gate.status import GateStatus
    from breaker.gate.topology import Topology

__all__ = [
    "CancelIntent",
    "Decision",
    "Gate",
    "GateStatus",
    "ListKind",
    "OrderIntent",
    "OrderList",
    "OrderRefused",
    "Permit",
    "QuietPeriodLimits",
    "Reason",
    "ReplaceIntent",
    "Topology",
]

__getattr__ = lazy_names(
    __name__,
    {
        **dict.fromkeys(__all__, "breaker.gate.decision"),
        "Gate": "breaker.gate.gate",
        "GateStatus": "breaker.gate.status",
        **dict.fromkeys(
            ("CancelIntent", "ListKind", "OrderIntent", "OrderList", "ReplaceIntent"), "breaker.gate.intents"
        ),
        "QuietPeriodLimits": "breaker.gate.quiet_period",
        "Topology": "breaker.gate.topology",
    },
)
