"""Check what a caller gives a transition before anything is sent: each raises InvalidInput, and nothing was changed."""

from __future__ import annotations

import getpass
import ipaddress
import json
import os
import unicodedata
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from breaker.errors import InvalidInput, one_line

_NAME_LENGTH = 128
_DETAILS_BYTES = 16_384
_DETAILS_DEPTH = 32
_MAX_SECONDS = 30 * 86_400.0


def checked_seconds(value: float, name: str, *, least: float = 0.0) -> float:
    """`value` if it is a number of seconds from `least` to 30 days. Raises InvalidInput otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= _MAX_SECONDS:
        raise InvalidInput(f"{name} is {value!r:.40}; use seconds from {least:g} to {_MAX_SECONDS:g}.")
    return float(value)


def checked_text(value: str, name: str, longest: int) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"{name} is {type(value).__name__}, not text; nothing was changed.")
    if not value.strip():
        raise InvalidInput(f"{name} is empty; nothing was changed. Say in 1 to {longest} characters why or who.")
    if len(value) > longest:
        raise InvalidInput(f"{name} has {len(value)} characters; nothing was changed. Use at most {longest}.")
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in value):
        raise InvalidInput(f"{name} holds control characters or line breaks; nothing was changed. Use one plain line.")
    return value


def checked_name(value: str | None, name: str) -> str:
    return _login() if value is None else checked_text(value, name, _NAME_LENGTH)


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid:{os.getuid()}"


def checked_uuid(value: str, name: str) -> str:
    try:
        return str(UUID(value))
    except (ValueError, AttributeError, TypeError):
        raise InvalidInput(f"{name} is {value!r:.60}, not a UUID; nothing was changed.") from None


def checked_epoch(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidInput(f"expected_epoch is {value!r:.40}, not a whole number from 0 on; nothing was changed.")
    return value


def checked_address(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise InvalidInput(f"ip_address is {value!r:.60}, no IPv4 or IPv6 address; nothing was changed.") from None


def checked_details(details: Mapping[str, Any] | None) -> str:
    if details is not None and not isinstance(details, Mapping):
        raise InvalidInput(f"details is {type(details).__name__}, not a mapping; nothing was changed.")
    try:
        text = json.dumps(_plain(details or {}, "details", 0), ensure_ascii=False, allow_nan=False)
        size = len(text.encode())
    except ValueError as error:
        raise InvalidInput(f"details can't be written as JSON ({one_line(error)}); nothing was changed.") from error
    if size > _DETAILS_BYTES:
        raise InvalidInput(f"details take {size} bytes as JSON; nothing was changed. Use at most {_DETAILS_BYTES}.")
    return text


def _plain(value: object, where: str, depth: int) -> Any:
    """`value` in JSON's own types: Decimal and UUID as text, times as ISO 8601 in UTC. Raises ValueError."""
    if depth > _DETAILS_DEPTH:
        raise ValueError(f"nested deeper than {_DETAILS_DEPTH}")
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Decimal() | UUID():
            return str(value)
        case datetime():
            if value.tzinfo is None:
                raise ValueError(f"{where} is a time without a zone")
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case date():
            return value.isoformat()
        case Mapping():
            return {_key(key, where): _plain(item, f"{where}[{key!r:.40}]", depth + 1) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)]
    raise ValueError(f"{where} is {type(value).__name__}")


def _key(key: object, where: str) -> str:
    if not isinstance(key, str):
        raise ValueError(  # noqa: TRY004 (caught above as one kind of bad details)
            f"{where} has a key that is {type(key).__name__}, not text"
        )
    return key
