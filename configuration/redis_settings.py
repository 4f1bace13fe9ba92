"""What may be configured of Redis beside `redis_url`, and the one address that both come to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from breaker.errors import InvalidInput
from breaker.redis_url import check_redis_url
from configuration.locations import absolute, not_empty
from configuration.units import Unit

Durable: TypeAlias = Literal["local", "aof", "replicas"]
DEFAULT_URL = "redis://localhost:6379/0"
_PemFile = Annotated[Path | None, AfterValidator(lambda path: path and absolute(path)), BeforeValidator(not_empty)]


class RedisSettings(BaseModel):
    """Who we are to Redis, how the way there is protected, and the Sentinels that know where it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sentinels: tuple[str, ...] = ()
    """In place of `redis_url`: where Sentinels are asked for the primary, `host:port` each."""
    master: str | None = Field(default=None, min_length=1)
    """The name by which the Sentinels know the primary (`sentinel monitor NAME …`)."""
    username: str | None = Field(default=None, min_length=1)
    """The user of Redis's access rules, which `breaker acl` prints."""
    password: SecretStr | None = None
    """That user's password, or Redis's own (`requirepass`)."""
    sentinel_username: str | None = Field(default=None, min_length=1)
    """The user of the Sentinels' own access rules, if they have any."""
    sentinel_password: SecretStr | None = None
    """The Sentinels' own password."""
    database: Annotated[int | None, Unit("number")] = Field(default=None, ge=0)
    """The database in Redis; 0 unless named here or in `redis_url`."""
    tls: bool = False
    """TLS to Redis, and to the Sentinels; `rediss://` in `redis_url` says the same."""
    ca_file: _PemFile = None
    """A PEM file of those who vouch for the servers' certificates; the system's own unless given."""
    certificate: _PemFile = None
    """A PEM file: our certificate, where the servers want to see one."""
    key: _PemFile = None
    """A PEM file: the certificate's key."""
    check_hostname: bool = True
    """Whether a certificate must be for the host that was connected to; a Sentinel names hosts as it was told them."""


def default_durability(given: Mapping[str, Any]) -> Durable:
    """`local`; under Sentinel `replicas`"""
    url, redis = given.get("redis_url"), given.get("redis")
    named = redis is not None and redis.sentinels
    return "replicas" if named or (url is not None and "+sentinel://" in url.get_secret_value()) else "local"


def compose_redis_url(url: str | None, given: RedisSettings) -> str:
    """The address of Redis with everything that is configured of it. `url` is None where none is configured.

    Raises InvalidInput, without any secret, for what is said twice or can't be used.
    """
    base = _base(url, given)
    try:
        check_redis_url(base)
    except InvalidInput as error:
        raise InvalidInput(f"{'redis.sentinels' if given.sentinels else 'redis_url'}: {error}") from None
    parts = _with_user(urlsplit(base), given)
    if given.database is not None:
        parts = _with_database(parts, given.database, said=url is not None)
    parts = _with_options(parts, given)
    query = f"?{parts.query}" if parts.query else ""
    composed = f"{parts.scheme}://{parts.netloc}{parts.path}{query}"
    check_redis_url(composed)
    return composed


def _base(url: str | None, given: RedisSettings) -> str:
    if not given.sentinels:
        if given.master is not None:
            raise InvalidInput("redis.master needs redis.sentinels, who know where it is.")
        return url or DEFAULT_URL
    if url is not None:
        raise InvalidInput("redis_url and redis.sentinels both say where Redis is; leave one of them out.")
    if given.master is None:
        raise InvalidInput("redis.sentinels need redis.master, the name under which they watch the primary.")
    if any(not each or set(each) & set("/@?#, ") for each in given.sentinels):
        raise InvalidInput("redis.sentinels has one that is not host:port.")
    return f"redis+sentinel://{','.join(given.sentinels)}/{quote(given.master, safe='')}"


def _with_user(parts: SplitResult, given: RedisSettings) -> SplitResult:
    if given.username is None and given.password is None:
        return parts
    if "@" in parts.netloc:
        raise InvalidInput("redis_url and redis.username or redis.password both say who we are; leave one of them out.")
    password = "" if given.password is None else f":{quote(given.password.get_secret_value(), safe='')}"
    return parts._replace(netloc=f"{quote(given.username or '', safe='')}{password}@{parts.netloc}")


def _with_database(parts: SplitResult, database: int, *, said: bool) -> SplitResult:
    """`said`: `parts` is what somebody has configured, and not the default."""
    first, _, rest = parts.path.strip("/").partition("/")
    path = {"unix": "", "redis": first, "rediss": first}.get(parts.scheme, rest)
    named = dict(parse_qsl(parts.query)).get("db", path)
    if said and named and int(named) != database:
        raise InvalidInput("redis_url and redis.database name two databases; leave one of them out.")
    if parts.scheme == "unix":
        return parts._replace(query=urlencode(dict(parse_qsl(parts.query)) | {"db": database}))
    return parts._replace(path=f"/{database}" if parts.scheme in ("redis", "rediss") else f"/{first}/{database}")


def _with_options(parts: SplitResult, given: RedisSettings) -> SplitResult:
    """Files and rules of TLS, and who we are to the Sentinels, as options behind the `?`."""
    password = given.sentinel_password
    more = {
        "ssl_ca_certs": given.ca_file,
        "ssl_certfile": given.certificate,
        "ssl_keyfile": given.key,
        "ssl_check_hostname": None if given.check_hostname else "false",
        "sentinel_username": given.sentinel_username,
        "sentinel_password": None if password is None else password.get_secret_value(),
    }
    added = {name: str(value) for name, value in more.items() if value is not None}
    if given.tls and parts.scheme.startswith("redis") and not parts.scheme.startswith("rediss"):
        parts = parts._replace(scheme=f"rediss{parts.scheme.removeprefix('redis')}")
    elif given.tls and parts.scheme == "unix":
        raise InvalidInput("redis.tls goes with no socket of this machine; leave it out.")
    if not added:
        return parts
    said = dict(parse_qsl(parts.query))
    if twice := sorted(said.keys() & added.keys()):
        raise InvalidInput(f"redis_url has {twice[0]} too; give it in one place.")
    return parts._replace(query=urlencode(said | added))
