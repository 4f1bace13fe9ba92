"""Close accounts at Alpaca by its Trading API v2."""

from brokers.alpaca.adapter import AlpacaBroker, from_settings

__all__ = ["AlpacaBroker", "from_settings"]
