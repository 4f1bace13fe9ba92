"""A small order service with the gate in front of an Alpaca account.

    BREAKER_CONFIG=breaker.toml python -m examples.order_gateway --account ALPHA --port 8000

POST /orders sends an order if the gate allows it and answers 423 with the reason if it doesn't; GET /health shows what
the gate knows. Failed calls to the venue and the account's equity are fed back to the automatic trips.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from breaker import open_async_redis
from breaker.errors import BreakerError
from breaker.gate import Decision, Gate, OrderIntent
from breaker.orders import OrderType, Side
from breaker.rules import AsyncRules, Limits, Outcome
from breaker.uuid7 import uuid7
from brokers.alpaca import from_settings
from brokers.protocol import Broker, BrokerError, CloseOrder, CloseOutcome, CloseResult
from configuration.settings import load_settings

_log = logging.getLogger(__name__)
_HTTP_LOCKED = 423
_STATUS_OF = {CloseOutcome.ACCEPTED: 201, CloseOutcome.DUPLICATE: 409, CloseOutcome.REFUSED: 422}
_EQUITY_EVERY = 5.0


class NewOrder(BaseModel):
    symbol: Annotated[str, Field(min_length=1)]
    side: Side
    quantity: Annotated[Decimal, Field(gt=0)]
    strategy: str | None = None
    normal_quantity: Decimal | None = None
    type: OrderType = OrderType.MARKET
    limit_price: Decimal | None = None
    client_order_id: str = Field(default_factory=lambda order: _tagged(order.get("strategy")))


def _tagged(strategy: str | None) -> str:
    """A client order id that says whose the order is, so that a kill of `strategy:NAME` cancels it."""
    return f"{strategy}:{uuid7()}" if strategy else uuid7()


@dataclass(frozen=True, slots=True)
class Desk:
    """One account at one venue, the gate in front of it, and the rules that watch it."""

    gate: Gate
    rules: AsyncRules
    broker: Broker

    async def submit(self, order: NewOrder) -> CloseResult | Decision:
        """Send the order, or return the decision that refused it. Raises BrokerError."""
        intent = OrderIntent(
            order.symbol,
            order.side,
            order.quantity,
            self.broker.name,
            order.strategy,
            order.normal_quantity,
            client_order_id=order.client_order_id,
        )
        decision = self.gate.check(intent)
        if not decision:
            # Only now does it matter what is held: reductions pass while trading is halted. Orders first: what fills
            # in between is then counted twice, and not left out.
            working, positions = await self.broker.open_orders(), await self.broker.positions()
            held = (*positions.items, *positions.unreadable)
            decision = self.gate.check(intent, held, (*working.items, *working.unreadable))
        if not decision or decision.permit is None:
            return decision
        # Between the decision and the wire lies whatever the event loop did meanwhile, so the permit is checked again.
        still = self.gate.recheck(decision.permit, intent)
        if not still:
            return still
        # The adapter's one way to place an order; the venue does not care whether it closes.
        request = CloseOrder(
            order.symbol, order.side, order.quantity, order.client_order_id, order.type, order.limit_price
        )
        result = await self.broker.close(request)
        if result.outcome is CloseOutcome.REFUSED:
            self.gate.settle(decision.permit)  # it never was an order; any other is among the open ones by its name
        await self._tell(self._outcome_of(result))
        return result

    def _outcome_of(self, result: CloseResult) -> Awaitable[Outcome]:
        match result.outcome:
            case CloseOutcome.REFUSED:
                return self.rules.record_order_rejected(result.reason[:200] or "no reason given")
            case CloseOutcome.UNKNOWN:
                return self.rules.record_api_error(self.broker.name)
            case _:
                return self.rules.record_order_accepted()

    async def failed(self) -> None:
        """The venue could not be asked."""
        await self._tell(self.rules.record_api_error(self.broker.name))

    async def watch_equity(self, every: float) -> None:
        """Measure the account's equity for ever."""
        while True:
            try:
                account = await self.broker.account()
            except BrokerError as error:
                _log.warning("The equity can't be measured: %s", error)
                await self.failed()
            else:
                await self._tell(self.rules.record_equity(account.equity))
            await asyncio.sleep(every)

    async def _tell(self, recording: Awaitable[Outcome]) -> None:
        try:
            await recording
        except BreakerError as error:
            # An order must not fail because its measurement could not be recorded; without Redis the gate is closed.
            _log.warning("A measurement was not recorded: %s", error)


def create_app(
    redis_url: str, broker: Broker, *, limits: Limits | None = None, equity_every: float = _EQUITY_EVERY
) -> FastAPI:
    """The service for one account. Owns the gate, the rules and the broker, and closes them in the end."""

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        client = open_async_redis(redis_url)
        rules = AsyncRules(client, limits=limits or Limits(), timeout=0.5)
        # The event loop is busy with orders, and `drain` does not depend on a thread getting its turn.
        with Gate(redis_url, scopes=[f"account:{broker.name}"], backend="drain") as gate:
            app.state.desk = desk = Desk(gate, rules, broker)
            watch = asyncio.create_task(desk.watch_equity(equity_every))
            await gate.wait_until_open_async(1.0)
            yield
            while not watch.done():  # a cancellation can be lost in a library that waits for something else just then
                watch.cancel()
                await asyncio.wait({watch}, timeout=0.5)
        await rules.close()
        await client.aclose()
        await broker.aclose()

    app = FastAPI(title="Order gateway", lifespan=life)

    @app.post("/orders", status_code=201)
    async def place(order: NewOrder) -> JSONResponse:
        desk: Desk = app.state.desk
        try:
            answer = await desk.submit(order)
        except BrokerError as error:
            await desk.failed()
            raise HTTPException(502, str(error)) from error
        if isinstance(answer, Decision):
            refusal = {"reason": answer.reason, "sentence": answer.sentence, "scope": answer.scope}
            return JSONResponse(refusal, _HTTP_LOCKED)
        sent = {"client_order_id": order.client_order_id, "outcome": answer.outcome, "reason": answer.reason}
        return JSONResponse(sent, _STATUS_OF.get(answer.outcome, 502))

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return asdict(app.state.desk.gate.status())

    return app


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--account", required=True, help="an account of breaker.toml")
    options.add_argument("--port", type=int, default=8000)
    given = options.parse_args()
    settings = load_settings()
    broker = from_settings(given.account, settings.accounts[given.account])
    uvicorn.run(create_app(settings.redis_address.get_secret_value(), broker), port=given.port)


if __name__ == "__main__":
    main()
