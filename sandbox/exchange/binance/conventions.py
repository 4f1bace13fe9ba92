"""Tell the edge Binance's conventions: weights, the header that counts them, and the bodies of errors without an order.

Sources: "Limits" of both APIs (429 when the limit is broken, 418 for an address that goes on all the same, both with
`Retry-After` in seconds), their "HTTP Return Codes", and public reports of the bodies. The 503 has two messages: one
says that the request failed, the other that nobody knows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from starlette.responses import JSONResponse, PlainTextResponse, Response

from sandbox.exchange.binance.algo_orders import ALGO_ORDERS
from sandbox.exchange.binance.endpoints import Endpoint, weights
from sandbox.exchange.binance.errors import bad_key
from sandbox.exchange.binance.futures import FUTURES_TRADING
from sandbox.exchange.binance.futures_account import FUTURES_ACCOUNT
from sandbox.exchange.binance.parameters import Parameters
from sandbox.exchange.binance.signing import venue_milliseconds
from sandbox.exchange.binance.spot import SPOT
from sandbox.exchange.binance.wallet import WALLET
from sandbox.exchange.edge import ApiConventions
from sandbox.exchange.scenario import Protocol
from sandbox.exchange.venue import Venue

FUTURES_ENDPOINTS: Final = [*FUTURES_ACCOUNT, *FUTURES_TRADING, *ALGO_ORDERS]
SPOT_ENDPOINTS: Final = [*SPOT, *WALLET]
_UNLISTED_WEIGHT: Final = 1
_BLOCKED: Final = "<html><head><title>403 Forbidden</title></head><body>403 Forbidden</body></html>"
_BAD_GATEWAY: Final = "<html><head><title>502 Bad Gateway</title></head><body>502 Bad Gateway</body></html>"
_MESSAGES: Final = {
    ("500", False): (-1000, "An unknown error occurred while processing the request."),
    ("500", True): (-1000, "An unknown error occurred while processing the request."),
    ("503", False): (-1008, "Server is currently overloaded with other requests. Please try again in a few minutes."),
    ("503", True): (-1001, "Unknown error, please check your request or try again later."),
    ("504", False): (
        -1007,
        "Timeout waiting for response from backend server. Send status unknown; execution status unknown.",
    ),
    ("504", True): (
        -1007,
        "Timeout waiting for response from backend server. Send status unknown; execution status unknown.",
    ),
}


def _error(venue: Venue, kind: str, applied: bool) -> Response:
    if kind == "401":
        return JSONResponse(bad_key().body, 401)
    if kind == "403":
        return PlainTextResponse(_BLOCKED, 403, media_type="text/html")
    if kind == "502":
        return PlainTextResponse(_BAD_GATEWAY, 502, media_type="text/html")
    if kind in {"418", "429"}:
        return _too_many(venue, kind)
    code, message = _MESSAGES[kind, applied]
    return JSONResponse({"code": code, "msg": message}, int(kind))


def _too_many(venue: Venue, kind: str) -> Response:
    limit, now = venue.rate_limit, venue.now()
    if kind == "418":
        seconds = (
            limit.banned_until - now if limit.is_banned(now) else venue.scenario.ban_for
        ) / venue.scenario.time_scale
        until = venue_milliseconds(venue.scenario.clock_ahead_ms) + round(seconds * 1_000)
        message = f"IP banned until {until}. Please use the websocket for live updates to avoid bans."
        message = ("Way too many requests; " if _is_futures(venue) else "Way too much request weight used; ") + message
    else:
        seconds = max(limit.resets_at - now, 0) / venue.scenario.time_scale
        message = _over_the_limit(venue)
    retry_after = {"Retry-After": str(int(seconds) + 1)}
    return JSONResponse({"code": -1003, "msg": message}, int(kind), headers=retry_after)


def _over_the_limit(venue: Venue) -> str:
    limit = venue.rate_limit.limit
    if _is_futures(venue):
        said = f"Too many requests; current limit is {limit} requests per minute."
    else:
        said = f"Too much request weight used; current limit is {limit} request weight per 1 MINUTE."
    return f"{said} Please use the websocket for live updates to avoid polling the API."


def _is_futures(venue: Venue) -> bool:
    return venue.scenario.protocol is Protocol.BINANCE_FUTURES


def _used_weight(venue: Venue) -> dict[str, str]:
    used = str(venue.rate_limit.used)
    return {"x-mbx-used-weight": used, "x-mbx-used-weight-1m": used}


def _conventions(prefixes: tuple[str, ...], endpoints: Iterable[Endpoint]) -> ApiConventions:
    known = weights(endpoints)

    def weight(method: str, path: str, query: str) -> int:
        of_endpoint = known.get((method, path))
        return of_endpoint(Parameters.read(query, "")) if of_endpoint else _UNLISTED_WEIGHT

    return ApiConventions(
        prefixes=prefixes,
        route=lambda method, path: f"{method} {path}",
        authorised=lambda _account, _method, _headers: True,
        weight=weight,
        error=_error,
        headers=_used_weight,
    )


BINANCE_FUTURES: Final = _conventions(("/fapi/", "/dapi/"), FUTURES_ENDPOINTS)
BINANCE_SPOT: Final = _conventions(("/api/v3/", "/sapi/"), SPOT_ENDPOINTS)
