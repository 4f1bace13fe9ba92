"""List what is in force: every key with its value, its unit and where it comes from, and no secret.

Secrets are masked here, so that whoever shows the list has none to leak: the whole of what is declared secret, and of
any other address user, password and query. Of the stores' addresses, secret as a whole, scheme, host, port and
database are told, because two environments are told apart by them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any
from urllib.parse import SplitResult, urlsplit

from pydantic import BaseModel, SecretStr
from pydantic_settings import EnvSettingsSource, TomlConfigSettingsSource

from configuration.locations import configuration_file
from configuration.settings import Settings
from configuration.units import Unit

HIDDEN = "***"
"""Stands for a secret that is set."""
DEFAULT = "default"
_PREFIX = "BREAKER_"
_STORES = ("redis_url", "database_url")
"""Secret for the password in them; where they lead to is told."""
_MISSING = object()
_BARE = re.compile(r"[A-Za-z0-9_-]+")
"""What TOML takes for a name without quotes."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One key that is in force."""

    path: tuple[str, ...]
    """Its tables and its name, such as `accounts`, `ALPHA`, `base_url`."""
    value: Any
    """For JSON: text, a number, a list, true or false; None where nothing is set. Never a secret."""
    unit: str
    origin: str
    """`default`, the file, or the environment variable."""

    @property
    def table(self) -> str:
        """As it is written in `breaker.toml`; empty for what stands at the top."""
        return _dotted(self.path[:-1])

    @property
    def name(self) -> str:
        return _dotted(self.path[-1:])

    @property
    def key(self) -> str:
        return _dotted(self.path)

    def as_dict(self) -> dict[str, Any]:
        return {"key": self.key, "value": self.value, "unit": self.unit or None, "from": self.origin}


def in_force(settings: Settings) -> tuple[Entry, ...]:
    """Every key of `settings`, as `load_settings` has made them from this process's file and environment."""
    file = configuration_file()
    given_by_file = TomlConfigSettingsSource(Settings, toml_file=file)()
    given_by_environment = EnvSettingsSource(Settings)()
    origins = _Origins(str(file), given_by_file, given_by_environment, tuple(os.environ))
    return tuple(_entries(settings, (), origins))


@dataclass(frozen=True, slots=True)
class _Origins:
    file: str
    given_by_file: Mapping[str, Any]
    given_by_environment: Mapping[str, Any]
    variables: Sequence[str]

    def of(self, path: tuple[str, ...]) -> str:
        """The environment wins over the file, the file over the default."""
        if _given(self.given_by_environment, path):
            return self._variable(path)
        return self.file if _given(self.given_by_file, path) else DEFAULT

    def _variable(self, path: tuple[str, ...]) -> str:
        """The variable of this very key, or of a table above it, whose value is JSON."""
        for length in range(len(path), 0, -1):
            name = _PREFIX + "__".join(path[:length])
            found = next((known for known in self.variables if known.upper() == name.upper()), None)
            if found is not None:
                return found
        return "environment"


def _dotted(path: Sequence[str]) -> str:
    return ".".join(name if _BARE.fullmatch(name) else f'"{name}"' for name in path)


def _given(values: object, path: Sequence[str]) -> bool:
    for name in path:
        found = _MISSING
        if isinstance(values, Mapping):
            # Names of accounts, and what stands in variables, are the same in either case.
            found = next((item for key, item in values.items() if str(key).upper() == name.upper()), _MISSING)
        if found is _MISSING:
            return False
        values = found
    return True


def _entries(model: BaseModel, path: tuple[str, ...], origins: _Origins) -> Iterator[Entry]:
    for name, field in type(model).model_fields.items():
        unit = next((mark.word for mark in field.metadata if isinstance(mark, Unit)), "")
        yield from _of_value(getattr(model, name), (*path, name), unit, origins)


def _of_value(value: Any, path: tuple[str, ...], unit: str, origins: _Origins) -> Iterator[Entry]:
    if isinstance(value, BaseModel):
        yield from _entries(value, path, origins)
    elif isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _of_value(item, (*path, str(getattr(name, "value", name))), unit, origins)
    else:
        yield Entry(path, _shown(value, path), unit, origins.of(path))


def _shown(value: Any, path: tuple[str, ...]) -> Any:
    match value:
        case SecretStr():
            return store_named(value.get_secret_value()) if path[-1] in _STORES else HIDDEN
        case None | bool() | int() | float():
            return value
        case Enum():
            return value.value
        case Mapping():
            return None
        case list() | tuple():
            return [_shown(item, path) for item in value]
        case PurePath():
            return str(value)
    return without_credentials(str(value))


def store_named(url: str) -> str:
    """Where a Redis or a database is, of its URL: scheme, host, port and database, or the path of a file or socket.

    What is not read beyond doubt is hidden as a whole, such as a password with an unescaped `/` or `@` in it.
    """
    try:
        parts = urlsplit(url)
        where = _sentinels(parts.netloc) if parts.scheme.endswith("+sentinel") else _server(parts)
    except ValueError:
        return HIDDEN
    user_info, _, _ = parts.netloc.rpartition("@")
    if "@" in user_info or "@" in parts.path + parts.query + parts.fragment or not parts.scheme or parts.fragment:
        return HIDDEN
    return f"{parts.scheme}://{where}{parts.path}"


def _server(parts: SplitResult) -> str:
    host, port = parts.hostname, parts.port
    where = f"[{host}]" if host and ":" in host else host or ""
    return f"{where}:{port}" if port else where


def _sentinels(netloc: str) -> str:
    """Raises ValueError for one that is none."""
    return ",".join(_server(urlsplit(f"//{each}")) for each in netloc.rpartition("@")[2].split(","))


def without_credentials(text: str) -> str:
    """An address without user, password, query and fragment; any other text as it is."""
    if "://" not in text:
        return text
    try:
        parts = urlsplit(text)
    except ValueError:
        return HIDDEN
    if "@" in parts.path or not parts.netloc:
        return HIDDEN
    _, at, host = parts.netloc.rpartition("@")
    kept = f"{parts.scheme}://{f'{HIDDEN}@' if at else ''}{host}{parts.path}"
    return kept + (f"?{HIDDEN}" if parts.query else "") + (f"#{HIDDEN}" if parts.fragment else "")
