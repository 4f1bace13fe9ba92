"""Let tests and demos take TWS's venue away, and TWS itself, below `/_paper`."""

from __future__ import annotations

from typing import Literal

from fastapi import FastAPI
from fastapi.responses import Response
from pydantic import BaseModel, Field

from sandbox.exchange.tws.server import TwsServer


class _Tws(BaseModel):
    event: Literal["1100", "1101", "1102", "reset"]
    seconds: float = Field(default=0, ge=0)


def add_tws_control_routes(app: FastAPI, tws: TwsServer) -> None:
    @app.post("/_paper/tws")
    async def change_tws(change: _Tws) -> Response:
        """TWS loses its venue (1100), has it back (1101, 1102), or makes its nightly reset for some seconds."""
        if change.event == "reset":
            tws.reset(change.seconds)
        elif change.event == "1100":
            tws.lose_venue()
        else:
            tws.find_venue(data_lost=change.event == "1101")
        return Response(status_code=204)
