"""Query a Prometheus server, for one number or for series."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx


class PrometheusError(Exception):
    """No usable answer; the message is one line saying what was asked and what came."""


@dataclass(frozen=True, slots=True)
class Series:
    """One time series: its labels as Prometheus writes them, and its finite samples, oldest first."""

    labels: str
    samples: tuple[tuple[datetime, float], ...]


class Prometheus:
    """`url` as the settings have it, None where none is configured. `timeout` limits each question, in seconds."""

    def __init__(self, url: str | None, client: httpx.AsyncClient, timeout: float) -> None:
        self._url = url
        self._client = client
        self._timeout = timeout

    async def query(self, query: str) -> float:
        """The largest value that the instant query yields.

        Raises:
            PrometheusError: no answer, an error, or nothing that is a number.
        """
        result = await self._ask("query", {"query": query})
        numbers = [float(result[1])] if _is_scalar(result) else [float(series["value"][1]) for series in result]
        finite = [number for number in numbers if math.isfinite(number)]
        if not finite:
            raise PrometheusError(f"Prometheus knows no value of {query}: see whether its target is scraped.")
        return max(finite)

    async def query_range(self, query: str, start: datetime, end: datetime, step: float) -> list[Series]:
        """How the query's values went from `start` to `end`, every `step` seconds. Raises PrometheusError."""
        asked = {"query": query, "start": start.timestamp(), "end": end.timestamp(), "step": step}
        return [_series(series) for series in await self._ask("query_range", asked)]

    async def _ask(self, kind: str, parameters: dict[str, Any]) -> Sequence[Any]:
        if self._url is None:
            raise PrometheusError("No Prometheus is configured: set recovery.prometheus_url.")
        try:
            address = f"{self._url.rstrip('/')}/api/v1/{kind}"
            answer = await self._client.get(address, params=parameters, timeout=self._timeout)
            body = answer.json()
            if body["status"] != "success":
                raise PrometheusError(
                    f"Prometheus refuses {parameters['query']}: {body.get('error', 'no reason given')}"
                )
            return list(body["data"]["result"])
        except httpx.HTTPError as error:
            raise PrometheusError(
                f"Prometheus did not answer ({type(error).__name__}): see whether it is up."
            ) from None
        except (ValueError, KeyError, TypeError):
            raise PrometheusError(f"What answered with status {answer.status_code} is no Prometheus.") from None


def _is_scalar(result: Sequence[Any]) -> bool:
    return len(result) == 2 and not isinstance(result[0], dict)


def _series(raw: dict[str, Any]) -> Series:
    labels = ", ".join(f'{name}="{value}"' for name, value in sorted(raw["metric"].items()) if name != "__name__")
    samples = ((datetime.fromtimestamp(float(at), UTC), float(value)) for at, value in raw["values"])
    return Series(labels, tuple((at, value) for at, value in samples if math.isfinite(value)))
