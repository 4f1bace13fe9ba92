"""Close accounts at Interactive Brokers, through Trader Workstation or IB Gateway, by ib_async."""

from brokers.ib.adapter import IbBroker, from_settings

__all__ = ["IbBroker", "from_settings"]
