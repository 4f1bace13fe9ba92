"""Compose the REST API, `/api/v1`: what the pages do, for programs with a token (`breaker token create`)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from breaker import BreakerError
from console.api import audit, circuit_breaker, equity, kill_switch, recovery, system_health
from console.api.problems import ApiProblem, Problem, problem, problem_of
from ledger.errors import LedgerError


def create_api() -> FastAPI:
    """The API; `state.context` has to be set before the first request."""
    api = FastAPI(
        title="Circuit Breaker",
        version="1",
        description="Trip, reset and watch the circuit breaker, and start the kill switch. Errors are problem details "
        "(RFC 9457). Each action needs the permission named with it.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    for resource in (circuit_breaker, equity, kill_switch, recovery, audit, system_health):
        api.include_router(resource.router)
    for kind in (BreakerError, LedgerError, ApiProblem):
        api.add_exception_handler(kind, _ours)
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(HTTPException, _http)
    _complete(api)
    return api


async def _ours(_: Request, error: Exception) -> Response:
    answer = problem_of(error)
    if answer.status_code == HTTPStatus.UNAUTHORIZED:
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101  registered for nothing else
    complaints = "; ".join(
        f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()[:10]
    )
    return problem(422, "invalid-input", "The request can't be used", f"{complaints}. Nothing was done.")


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  registered for nothing else
    phrase = HTTPStatus(error.status_code).phrase
    kind = phrase.lower().replace(" ", "-")
    return problem(error.status_code, kind, phrase, f"{phrase}.", headers=error.headers)


def _complete(api: FastAPI) -> None:
    """Put into the OpenAPI document what FastAPI can't know: our problem details instead of its own error body."""
    generate = api.openapi

    def openapi() -> dict[str, Any]:
        if api.openapi_schema is None:
            document = generate()
            schemas = document["components"]["schemas"]
            schemas["Problem"] = Problem.model_json_schema()
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            document["servers"] = [{"url": "/api/v1"}]
        return generate()

    api.openapi = openapi  # type: ignore[method-assign]
