"""Route what Alpaca tells of an account: its state, its configuration, its activities, and the clock."""

from __future__ import annotations

from typing import Final

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from sandbox.exchange.alpaca.answers import Json, Writer
from sandbox.exchange.alpaca.requests import moment, read_object, word
from sandbox.exchange.refusal import invalid
from sandbox.exchange.venue import Host, Venue

_LARGEST_PAGE: Final = 100
_FILL: Final = "FILL"


def add_account_routes(app: FastAPI, host: Host) -> None:
    """Alpaca's paths below `/v2/account`, and `/v2/clock`."""

    @app.get("/v2/account")
    async def account() -> Response:
        return JSONResponse(_writer(host.venue).account(host.venue.scenario.account))

    @app.get("/v2/account/configurations")
    async def configurations() -> Response:
        return JSONResponse(_configurations(host.venue))

    @app.patch("/v2/account/configurations")
    async def configure(request: Request) -> Response:
        return JSONResponse(_configure(host.venue, read_object(await request.body())))

    @app.get("/v2/account/activities")
    async def activities(request: Request) -> Response:
        query = dict(request.query_params)
        types = query.get("activity_types")
        return JSONResponse(_activities(host.venue, query, types.split(",") if types else None))

    @app.get("/v2/account/activities/{kind}")
    async def activities_of(kind: str, request: Request) -> Response:
        return JSONResponse(_activities(host.venue, dict(request.query_params), [kind]))

    @app.get("/v2/clock")
    async def clock() -> Response:
        return JSONResponse(_writer(host.venue).clock(host.venue.scenario.market))


def _writer(venue: Venue) -> Writer:
    return Writer(venue.exchange, venue.opened_at)


def _configurations(venue: Venue) -> Json:
    return {
        "dtbp_check": "entry",
        "fractional_trading": True,
        "max_margin_multiplier": "4",
        "no_shorting": False,
        "pdt_check": "entry",
        "ptp_no_exception_entry": False,
        "trade_confirm_email": "none",
        **venue.configuration,
        "suspend_trade": venue.exchange.locks.suspended_by_user,
    }


def _configure(venue: Venue, changes: Json) -> Json:
    """Keep what a client sets; of all that, suspending trade is what the exchange acts on."""
    suspend = changes.get("suspend_trade")
    if suspend is not None and not isinstance(suspend, bool):
        raise invalid("suspend_trade must be true or false")
    if suspend is not None:
        venue.exchange.locks.suspended_by_user = suspend
    venue.configuration.update({name: value for name, value in changes.items() if value is not None})
    return _configurations(venue)


def _activities(venue: Venue, query: dict[str, str], kinds: list[str] | None) -> list[Json]:
    """A page of executions and transfers, of these kinds or of all.

    The newest comes first unless asked otherwise; the last id of a page is the next one's token.
    """
    writer, book = _writer(venue), venue.exchange.book
    after, until = moment(query, "after"), moment(query, "until")
    earliest = float("-inf") if after is None else writer.seconds(after)
    latest = float("inf") if until is None else writer.seconds(until)
    order_id = query.get("order_id")
    found = [
        (fill.at, writer.fill(number, fill, book.order(fill.order_id)))
        for number, fill in enumerate(book.fills)
        if (kinds is None or _FILL in kinds)
        and earliest < round(fill.at, 6) < latest
        and order_id in {None, fill.order_id}
    ]
    found += [
        (transfer.at, writer.transfer(number, transfer))
        for number, transfer in enumerate(book.transfers)
        if (kinds is None or transfer.kind in kinds) and earliest < round(transfer.at, 6) < latest and order_id is None
    ]
    listed = [activity for _, activity in sorted(found, key=lambda entry: entry[0])]
    if word(query, "direction", ("desc", "asc")) == "desc":
        listed.reverse()
    size = query.get("page_size", str(_LARGEST_PAGE))
    if not size.isdecimal() or not 1 <= int(size) <= _LARGEST_PAGE:
        raise invalid(f"page_size must be between 1 and {_LARGEST_PAGE}")
    ids = [str(activity["id"]) for activity in listed]
    token = query.get("page_token")
    if token is not None and token not in ids:
        raise invalid("page_token is invalid")
    start = 0 if token is None else ids.index(token) + 1
    return listed[start : start + int(size)]
