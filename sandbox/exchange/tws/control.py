"""Let tests and demos take TWS's venue away, and TWS itself, below `/_paper`."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.responses import Response
from pydantic import BaseModel, Field

from sandbox.exchange.tws.server import TwsServer
from sandbox.exchange.tws_settings import Event


class _Tws(BaseModel):
    event: Event
    seconds: float = Field(default=0, ge=0)


def add_tws_control_routes(app: FastAPI, tws: TwsServer) -> None:
    @app.post("/_paper/tws")
    async def change_tws(change: _Tws) -> Response:
        """TWS loses its venue, has it back, or makes its nightly reset for some seconds."""
        tws.happen(change.event, change.seconds)
        return Response(status_code=204)
