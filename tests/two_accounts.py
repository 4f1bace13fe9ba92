"""Two accounts, ALPHA and BETA, each at a venue of its own, and what these say was touched."""

from __future__ import annotations

from collections.abc import Mapping

import httpx
from pydantic import SecretStr

from configuration.accounts import AccountSettings
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread

CALL = "AAPL261218C00200000"
BOOK = f"""
rate_limit = 100000
prices.AAPL = 200
prices.MSFT = 400
positions = [
    {{ symbol = "AAPL", qty = 10 }}, {{ symbol = "MSFT", qty = 5 }}, {{ symbol = "{CALL}", qty = 2, price = 4 }},
]
[[orders]]
symbol = "AAPL"
qty = 1
side = "buy"
limit_price = 100
client_order_id = "meanrev:1"
[[orders]]
symbol = "AAPL"
qty = 1
side = "buy"
limit_price = 100
client_order_id = "trend:1"
[[orders]]
symbol = "MSFT"
qty = 1
side = "buy"
limit_price = 100
client_order_id = "meanrev-2"
[[orders]]
symbol = "MSFT"
qty = 1
side = "buy"
limit_price = 100
client_order_id = "meanreversion:1"
[[orders]]
symbol = "{CALL}"
qty = 1
side = "buy"
limit_price = 0.10
client_order_id = "trend:2"
"""
POSITIONS = {"AAPL": "10", "MSFT": "5", CALL: "2"}
ORDERS = {"meanrev:1", "trend:1", "meanrev-2", "meanreversion:1", "trend:2"}
OF_AAPL = {"meanrev:1", "trend:1", "trend:2"}
OF_MEANREV = {"meanrev:1", "meanrev-2"}
NOTHING: tuple[dict[str, str], set[str]] = ({}, set())
EVERYTHING = (POSITIONS, ORDERS)
WITHOUT_AAPL = ({"MSFT": "5"}, ORDERS - OF_AAPL)
WITHOUT_MEANREV = (POSITIONS, ORDERS - OF_MEANREV)


class Venues:
    """Accounts, each at a venue of its own."""

    def __init__(self, *names: str) -> None:
        self._running = {name: PaperExchangeThread(parse(BOOK)) for name in names or ("ALPHA", "BETA")}

    def __enter__(self) -> Venues:
        for venue in self._running.values():
            venue.start()
        return self

    def __exit__(self, *_: object) -> None:
        for venue in self._running.values():
            venue.stop()

    def __getitem__(self, account: str) -> PaperExchangeThread:
        return self._running[account]

    def sections(self, *accounts: str) -> str:
        """The accounts, or these of them, as breaker.toml has them."""
        return "".join(
            f'[accounts.{name}]\nbase_url = "{self[name].url}"\nkey_id = "key"\nsecret_key = "secret"\n'
            for name in accounts or self._running
        )

    def settings(self) -> dict[str, AccountSettings]:
        """The same, made."""
        keys = {"key_id": SecretStr("key"), "secret_key": SecretStr("secret")}
        return {name: AccountSettings(base_url=venue.url, **keys) for name, venue in self._running.items()}

    def left(self, account: str) -> tuple[dict[str, str], set[str]]:
        """Positions, and open orders by their client order ids, as the venue itself has them."""
        venue = self[account]
        keys = {"APCA-API-KEY-ID": "key", "APCA-API-SECRET-KEY": "secret"}
        answer = httpx.get(f"{venue.url}/v2/orders", params={"status": "open", "limit": 500}, headers=keys)
        report = venue.report()
        assert report["violations"] == []
        return report["positions"], {order["client_order_id"] for order in answer.raise_for_status().json()}

    def untouched(self, account: str) -> bool:
        """Nobody has so much as asked for an order, a cancel or a close there."""
        requests: Mapping[str, int] = self[account].report()["requests"]
        wrote = [route for route in requests if not route.startswith("GET")]
        return wrote == [] and self.left(account) == EVERYTHING
