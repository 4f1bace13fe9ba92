"""Tell the edge Alpaca's conventions: key headers, error bodies, rate-limit headers, how routes are named."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import unquote

from starlette.responses import JSONResponse, Response

from sandbox.exchange.edge import ApiConventions
from sandbox.exchange.scenario import Account
from sandbox.exchange.venue import Venue


def _authorised(account: Account, method: str, headers: Mapping[bytes, bytes]) -> bool:
    return (
        headers.get(b"apca-api-key-id") == account.key.encode()
        and headers.get(b"apca-api-secret-key") == account.secret.encode()
        and (method == "GET" or account.key_may_trade)
    )


def _route(method: str, path: str) -> str:
    parts = unquote(path).strip("/").split("/")
    if len(parts) > 2 and parts[1] in {"orders", "positions", "assets"}:
        parts[2:] = ["{id}" if parts[1] == "orders" else "{symbol}"]
    return f"{method} /{'/'.join(parts)}"


def _rate_limit_headers(venue: Venue) -> dict[str, str]:
    """The reset is in real Unix time, rounded up to a second."""
    limit = venue.rate_limit
    wait = max(limit.resets_at - venue.now(), 0) / venue.scenario.time_scale
    resets_at = datetime.now(UTC) + timedelta(seconds=wait)
    return {
        "x-ratelimit-limit": str(limit.limit),
        "x-ratelimit-remaining": str(limit.remaining),
        "x-ratelimit-reset": str(int(resets_at.timestamp()) + 1),
    }


_ERRORS: Final = {
    "401": {"code": 40110000, "message": "request is not authorized"},
    "403": {"code": 40310000, "message": "forbidden."},
    "418": {"message": "I'm a teapot"},
    "429": {"code": 42910000, "message": "rate limit exceeded"},
    "500": {"code": 50010000, "message": "internal server error occurred"},
    "502": {"message": "Bad Gateway"},
    "503": {"code": 50310000, "message": "service unavailable"},
    "504": {"code": 50410000, "message": "request timed out"},
}


def _error(_venue: Venue, kind: str, _applied: bool) -> Response:
    return JSONResponse(_ERRORS[kind], int(kind))


ALPACA: Final = ApiConventions(
    prefixes=("/v2", "/v1beta"),
    route=_route,
    authorised=_authorised,
    weight=lambda _method, _path, _query: 1,
    error=_error,
    headers=_rate_limit_headers,
)
