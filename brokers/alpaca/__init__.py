"""Trade at Alpaca, or at whatever else speaks its Trading API v2: the paper exchange, by another base URL and keys.

Sources: Alpaca's Trading API documentation (orders, positions, rate limits) and its official Python client.
"""

from brokers.alpaca.adapter import AlpacaBroker, from_settings

__all__ = ["AlpacaBroker", "from_settings"]
