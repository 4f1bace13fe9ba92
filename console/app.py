"""Compose the console as one ASGI application: pages, API and static files behind the same guard."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from breaker import BreakerError
from breaker.errors import InvalidInput
from configuration.running import RunningConfiguration
from console.actions.authorization import Denied
from console.actions.recovery import NothingAsked
from console.api.application import create_api
from console.api.problems import problem
from console.context import ConsoleContext
from console.pages import audit, circuit, events, incidents, oidc, recovery, replay, sign_in, system_health
from console.pages.layout import message_page
from console.render import STATIC
from console.request import BadForm, SignInNeeded, identity_of
from console.request_guard import RequestGuard
from tasks.recovery.answers import AnswerNotTaken

_NOWHERE = frozenset({"", "0.0.0.0", "::"})  # noqa: S104  addresses to listen at, by which nobody calls us


class _KeptFiles(StaticFiles):
    """Their addresses change with their content, so browsers may keep them."""

    def file_response(self, *args: object, **kwargs: object) -> Response:
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response


@dataclass(frozen=True, slots=True)
class Application:
    """The ASGI application, and what ends the streams of events, which would otherwise never end by themselves."""

    asgi: ASGIApp
    end_streams: Callable[[], None]


def create_app(running: RunningConfiguration) -> Application:
    """Everything is opened when the application starts and closed when it ends.

    The tables must be there: `console.serve.prepare`.
    """
    settings, api = running.settings, create_api()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        context = ConsoleContext(running)
        app.state.context = api.state.context = context
        async with context.running():
            yield

    app = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
    for pages in (sign_in, oidc, circuit, replay, recovery, incidents, audit, system_health, events):
        app.include_router(pages.router)
    app.mount("/api/v1", api)
    app.mount("/static", _KeptFiles(directory=STATIC))
    app.add_exception_handler(SignInNeeded, _sign_in)
    app.add_exception_handler(Denied, _denied)
    app.add_exception_handler(BadForm, _bad_form)
    app.add_exception_handler(BreakerError, _refused)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _failed)
    where = settings.console
    public = [] if where.oidc is None else [urlsplit(where.oidc.public_url).hostname or ""]
    names = [name for name in (where.host, *where.names, *public) if name not in _NOWHERE]
    networks = [ipaddress.ip_network(str(network)) for network in where.trusted_proxies]
    guarded = RequestGuard(app, names=names, trusted_proxies=networks)

    def end_streams() -> None:
        app.state.context.broadcast.close()

    return Application(guarded, end_streams)


async def _sign_in(request: Request, _: Exception) -> Response:
    if request.method != "GET" or request.url.path == "/events":
        return PlainTextResponse("Sign in first; nothing was done.\n", 401)
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(f"/login?{urlencode({'next': wanted})}", 303)


async def _denied(request: Request, error: Exception) -> Response:
    return message_page(request, await identity_of(request), 403, "Not permitted", str(error))


async def _bad_form(request: Request, error: Exception) -> Response:
    return message_page(request, await identity_of(request), 403, "Not accepted", str(error))


async def _refused(request: Request, error: Exception) -> Response:
    status = (
        422 if isinstance(error, InvalidInput) else 409 if isinstance(error, NothingAsked | AnswerNotTaken) else 503
    )
    return message_page(request, await identity_of(request), status, "Not possible", str(error))


async def _failed(request: Request, error: Exception) -> Response:
    """A mistake of ours. It is in the log with its traceback, and nothing of it is in the answer."""
    if request.url.path.startswith("/api/"):
        return problem(500, "internal", "Internal error", "Something is wrong here; see the console's log.")
    text = "Something is wrong in the console; its log says what. Halting works without it: `breaker kill`."
    return message_page(request, None, 500, "Not possible", text)


async def _http(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if request.url.path.startswith("/api/"):
        return problem(status, "not-found", "Not found", "There is no such resource.")
    return message_page(request, None, status, "Not found", "There is no such page.")
