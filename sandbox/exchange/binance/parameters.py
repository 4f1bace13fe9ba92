"""Read the parameters of a request, which may come in its query string and in its body."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from urllib.parse import parse_qsl

from sandbox.exchange.binance.errors import BinanceRefusal, invalid_parameter, missing


class Parameters:
    """A request's; those of the query string win. An empty one counts as absent."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self._given = {name: value for name, value in given.items() if value}

    @classmethod
    def read(cls, query: str, body: str) -> Parameters:
        """Both are percent-encoded, the body as a form is."""
        return cls({**dict(parse_qsl(body)), **dict(parse_qsl(query))})

    def text(self, name: str) -> str | None:
        return self._given.get(name)

    def required(self, name: str) -> str:
        value = self._given.get(name)
        if value is None:
            raise missing(name)
        return value

    def integer(self, name: str) -> int | None:
        """Raises `BinanceRefusal` for what is none."""
        value = self._given.get(name)
        if value is None:
            return None
        try:
            return int(value)
        except ValueError as error:
            raise invalid_parameter(name) from error

    def number(self, name: str) -> Decimal | None:
        """One that is finite; raises `BinanceRefusal` for anything else."""
        value = self._given.get(name)
        if value is None:
            return None
        try:
            parsed = Decimal(value)
        except InvalidOperation as error:
            raise invalid_parameter(name) from error
        if not parsed.is_finite():
            raise invalid_parameter(name)
        return parsed.normalize()

    def flag(self, name: str) -> bool:
        """False when absent; clients write it in any case."""
        value = self._given.get(name, "false").lower()
        if value not in {"true", "false"}:
            raise invalid_parameter(name)
        return value == "true"

    def items(self, name: str) -> list[str]:
        """A JSON list, of whose items each is taken as text; empty when absent."""
        value = self._given.get(name)
        if value is None:
            return []
        try:
            parsed = json.loads(value)
        except ValueError as error:
            raise invalid_parameter(name) from error
        if not isinstance(parsed, list):
            raise invalid_parameter(name)
        return [str(item) for item in parsed]


def limit(parameters: Parameters, usual: int, most: int) -> int:
    """How many items a list may have."""
    wanted = parameters.integer("limit")
    if wanted is None:
        return usual
    if wanted < 1:
        raise BinanceRefusal(-1130, "Data sent for parameter 'limit' is not valid.")
    return min(wanted, most)
