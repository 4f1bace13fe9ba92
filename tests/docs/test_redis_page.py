"""The page on Redis: what it configures comes to the address that it gives to engines."""

from __future__ import annotations

import ast
import tomllib

from breaker.redis_url import check_redis_url
from configuration.settings import GivenSettings
from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "docs" / "how-to" / "redis.md"


def test_the_configuration_and_the_engines_address_are_the_same() -> None:
    sentinel, one_server = (tomllib.loads(block) for block in blocks(PAGE, "toml"))
    (engine,) = blocks(PAGE, "python")
    sentinel["redis"]["password"] = "secret"  # which the page has in the environment
    settings = GivenSettings.model_validate(sentinel)
    urls = [node.value for node in ast.walk(ast.parse(engine)) if isinstance(node, ast.Constant)]
    assert settings.redis_address.get_secret_value() in urls
    assert (settings.trip_durability, settings.trip_replicas) == ("replicas", 2)
    address = GivenSettings.model_validate(one_server).redis_address.get_secret_value()
    check_redis_url(address)
    assert address == "rediss://redis.internal:6380/0?ssl_ca_certs=%2Fetc%2Fbreaker%2Fca.pem"
