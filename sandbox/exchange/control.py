"""Let tests and demos steer the paper exchange and read its report, below `/_paper`."""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from typing import Annotated, Literal

from fastapi import Body, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field, ValidationError

from breaker.orders import OrderType, PositionSide, Side, TimeInForce
from sandbox.exchange.exchange import Exchange
from sandbox.exchange.orders import OrderRequest, Resubmission
from sandbox.exchange.refusal import Refusal, not_found
from sandbox.exchange.scenario import Protocol, Scenario, ScenarioError, Session, Symbol, Trouble, parse
from sandbox.exchange.venue import Host


class _Symbol(BaseModel):
    symbol: Symbol


class _Halt(_Symbol):
    mode: Literal["reject", "hold"] = "reject"
    status: Literal[403, 422] = 422
    seconds: float | None = Field(default=None, ge=0)


class _Price(_Symbol):
    price: Decimal = Field(gt=0)


class _Transfer(BaseModel):
    amount: Decimal
    kind: Literal["CSD", "CSW", "JNLC", "DIV"] | None = None


class _Quotes(_Symbol):
    silent: bool


class _DeadMan(BaseModel):
    seconds: float = Field(ge=0)
    symbol: Symbol | None = None


class _Market(BaseModel):
    session: Session


class _Fill(_Symbol):
    side: Side
    qty: Decimal = Field(gt=0)
    position_side: PositionSide | None = None
    after: float = Field(default=0, ge=0)


class _StrategyOrder(_Symbol):
    side: Side
    position_side: PositionSide | None = None
    qty: Decimal = Field(gt=0)
    limit_price: Decimal | None = Field(default=None, gt=0)
    times: int = Field(default=3, ge=0)
    seconds: float = Field(default=float("inf"), ge=0)
    delay: float = Field(default=0.2, ge=0)


def add_control_routes(app: FastAPI, host: Host) -> None:
    _add_dead_man_route(app, host)

    @app.get("/_paper/report")
    async def report() -> Response:
        return JSONResponse(host.venue.report())

    @app.post("/_paper/scenario")
    async def scenario(request: Request) -> Response:
        """Start over with the scenario in the body: TOML text, or JSON."""
        body = (await request.body()).decode()
        try:
            new = Scenario.model_validate_json(body) if body.lstrip().startswith("{") else parse(body)
        except (ScenarioError, ValidationError) as error:
            raise Refusal(422, 0, str(error)) from error
        host.restart(new)
        return Response(status_code=204)

    @app.post("/_paper/halt")
    async def halt(halt: _Halt) -> Response:
        exchange = _known(host, halt.symbol)
        exchange.matching.halt(halt.symbol, rejects=halt.mode == "reject", status=halt.status)
        if halt.seconds is not None:
            exchange.after(halt.seconds, partial(exchange.matching.resume, halt.symbol))
        return Response(status_code=204)

    @app.post("/_paper/resume")
    async def resume(which: _Symbol) -> Response:
        _known(host, which.symbol).matching.resume(which.symbol)
        return Response(status_code=204)

    @app.post("/_paper/price")
    async def price(move: _Price) -> Response:
        host.venue.exchange.matching.set_price(move.symbol, move.price)
        return Response(status_code=204)

    @app.post("/_paper/transfer")
    async def transfer(transfer: _Transfer) -> Response:
        kind = transfer.kind or ("CSD" if transfer.amount > 0 else "CSW")
        host.venue.exchange.transfer(transfer.amount, kind)
        return Response(status_code=204)

    @app.post("/_paper/quotes")
    async def quotes(quotes: _Quotes) -> Response:
        exchange = _known(host, quotes.symbol)
        if quotes.silent:
            exchange.silence(quotes.symbol)
        else:
            exchange.quote_again(quotes.symbol)
        return Response(status_code=204)

    @app.post("/_paper/market")
    async def market(market: _Market) -> Response:
        host.venue.exchange.matching.change_session(market.session)
        return Response(status_code=204)

    @app.post("/_paper/trouble")
    async def add_trouble(rule: Trouble) -> Response:
        host.venue.trouble.add_rule(rule)
        return Response(status_code=204)

    @app.delete("/_paper/trouble")
    async def end_trouble() -> Response:
        host.venue.trouble.replace_rules(())
        return Response(status_code=204)

    @app.post("/_paper/strategy-order")
    async def strategy_order(order: _StrategyOrder) -> Response:
        exchange = _known(host, order.symbol)
        request = OrderRequest(
            order.symbol,
            order.side,
            OrderType.MARKET if order.limit_price is None else OrderType.LIMIT,
            TimeInForce.DAY if host.venue.scenario.protocol is Protocol.ALPACA else TimeInForce.GTC,
            qty=order.qty,
            limit_price=order.limit_price,
            position_side=order.position_side or exchange.book.opened_by(order.side),
        )
        terms = Resubmission(order.times, exchange.now + order.seconds, order.delay)
        placed = exchange.submit_strategy_order(request, terms)
        return JSONResponse({"id": placed.id, "client_order_id": placed.client_order_id})

    @app.post("/_paper/late-fill")
    async def late_fill(fill: _Fill) -> Response:
        exchange = _known(host, fill.symbol)
        exchange.after(fill.after, partial(exchange.late_fill, fill.symbol, fill.side, fill.qty, fill.position_side))
        return Response(status_code=204)

    @app.post("/_paper/fast-market")
    async def fast_market(symbol: Annotated[Symbol | None, Body(embed=True)] = None) -> Response:
        host.venue.exchange.matching.fast_market(symbol)
        return Response(status_code=204)


def _add_dead_man_route(app: FastAPI, host: Host) -> None:
    @app.post("/_paper/dead-man")
    async def dead_man(timer: _DeadMan) -> Response:
        """Arm or renew the account's timer, or a symbol's; 0 seconds disarm it."""
        exchange = host.venue.exchange
        symbol = timer.symbol or ""
        if symbol:
            _known(host, symbol)
        if timer.seconds:
            exchange.dead_man.arm(timer.seconds, symbol)
        else:
            exchange.dead_man.disarm(symbol)
        return JSONResponse({"now": exchange.now, **exchange.dead_man.as_dict()})


def _known(host: Host, symbol: str) -> Exchange:
    if symbol not in host.venue.exchange.book.prices:
        raise not_found(f"asset not found for {symbol}")
    return host.venue.exchange
