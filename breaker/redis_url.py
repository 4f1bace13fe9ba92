"""Read the address of a Redis before anything is asked of it, and say in one line what is wrong with it. Pure.

Nothing of an address is ever in an error, as there may be a password in it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from breaker.errors import InvalidInput

SENTINEL_PORT = 26_379
_SENTINEL = "+sentinel"
_SCHEMES = ("redis", "rediss", "unix", f"redis{_SENTINEL}", f"rediss{_SENTINEL}")
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_OF_SENTINELS = ("sentinel_username", "sentinel_password")


@dataclass(frozen=True, slots=True)
class SentinelUrl:
    """Sentinels, and the primary that they watch."""

    sentinels: tuple[tuple[str, int], ...]
    master: str
    encrypted: bool
    """TLS, to the Sentinels and to the servers."""
    servers: str = field(repr=False)
    """An address from which redis-py reads what the servers are to be told: user, password, database, options."""


def check_redis_url(url: str) -> None:
    """Raises InvalidInput for what no client can be made of."""
    read_sentinel_url(url)


def read_sentinel_url(url: str) -> SentinelUrl | None:
    """The Sentinels that `url` names; None if it names one server. Raises InvalidInput for what is neither."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise InvalidInput(
            "The address of Redis can't be read; redis://HOST:PORT/DATABASE is what it looks like."
        ) from None
    if parts.scheme not in _SCHEMES:
        raise InvalidInput(
            "The address of Redis must start with redis://, rediss:// or unix://, or with redis+sentinel:// or "
            "rediss+sentinel://."
        )
    if parts.fragment:
        raise InvalidInput("The address of Redis has a # in it; in a user or password it is written %23.")
    _check_options(parts.scheme, dict(parse_qsl(parts.query)))
    if parts.scheme.endswith(_SENTINEL):
        return _sentinels_of(parts)
    if parts.scheme != "unix":
        _port(parts.netloc)
        _check_database(parts.path.strip("/"))
    return None


def _check_options(scheme: str, options: Mapping[str, str]) -> None:
    _check_database(options.get("db", ""))
    if not scheme.startswith("rediss") and any(name.startswith("ssl_") for name in options):
        raise InvalidInput(
            "Files and rules for TLS go with rediss:// or rediss+sentinel:// alone (redis.tls in breaker.toml)."
        )
    if "ssl_keyfile" in options and "ssl_certfile" not in options:
        raise InvalidInput(
            "A client's key goes with its certificate: name that too, as ssl_certfile (redis.certificate in "
            "breaker.toml)."
        )
    if not scheme.endswith(_SENTINEL) and any(name in options for name in _OF_SENTINELS):
        raise InvalidInput("User and password of Sentinels go with redis+sentinel:// alone.")


def _check_database(database: str) -> None:
    if database and not database.isdecimal():
        raise InvalidInput("The database in the address of Redis is no number.")


def _sentinels_of(parts: SplitResult) -> SentinelUrl:
    user_info, at, hosts = parts.netloc.rpartition("@")
    sentinels = tuple((_host(each), _port(each) or SENTINEL_PORT) for each in hosts.split(",") if each)
    if not sentinels:
        raise InvalidInput("The address names no Sentinel: redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DATABASE.")
    master, _, database = parts.path.strip("/").partition("/")
    if not master:
        raise InvalidInput(
            "The address names Sentinels and not the master that they watch: "
            "redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DATABASE."
        )
    _check_database(database)
    scheme = parts.scheme.removesuffix(_SENTINEL)
    servers = parts._replace(scheme=scheme, netloc=f"{user_info}{at}named-by-sentinels", path=f"/{database}")
    return SentinelUrl(sentinels, unquote(master), scheme == "rediss", servers.geturl())


def _host(server: str) -> str:
    host = urlsplit(f"//{server}").hostname
    if not host:
        raise InvalidInput("The address names a Sentinel without a host.")
    return host


def _port(server: str) -> int | None:
    try:
        return urlsplit(f"//{server}").port
    except ValueError:
        raise InvalidInput("The address of Redis has no usable port.") from None


def unreadable_file(options: Mapping[str, object]) -> str | None:
    """What is the matter with a file that a TLS connection of these options would read; None if nothing is."""
    for name in _FILES:
        path = options.get(name)
        if isinstance(path, str) and path and not (Path(path).is_file() and os.access(path, os.R_OK)):
            return f"{path}, which is {name}, is no file that can be read"
    return None
