"""Answer unmodified ccxt with an exchange's bodies, in place of its HTTP alone."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from brokers.ccxt import CcxtBroker
from brokers.ccxt.connection import remembering
from tests.brokers.ccxt.exchange_answers import Case
from tests.brokers.ccxt.local_exchange import opened


class Answering:
    """What stands in for ccxt's HTTP: everything above it is ccxt's own."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.asked: list[str] = []

    async def __call__(self, url: str, method: str = "GET", headers: Any = None, body: Any = None) -> Any:
        words = f"{method} {url} {body if isinstance(body, str) else json.dumps(body)}".replace('": "', '":"')
        self.asked.append(words)
        for parts, answer in self.case.answers.items():
            if all(part in words for part in parts.split("…")):
                if isinstance(answer, Exception):
                    raise answer
                return json.loads(json.dumps(answer(words) if callable(answer) else answer))
        raise AssertionError(f"{self.case.exchange} was asked {words}")


@asynccontextmanager
async def exchange_of(case: Case, **settings: Any) -> AsyncIterator[tuple[CcxtBroker, Answering]]:
    """`settings`: the account's, beside the case's own."""
    asked = {"exchange": case.exchange, "market": "swap", **case.settings, **settings}
    async with opened("http://127.0.0.1:1", **asked) as broker:
        made = await broker._connection._made()
        made.set_markets(json.loads(json.dumps(case.markets)))
        answering = Answering(case)
        made.fetch = remembering(answering)
        yield broker, answering
