"""Redis behind TLS with an authority of our own: every kind of client gets in; who can't is told why in one line."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from breaker import AsyncCircuitBreaker, BreakerUnavailable, CircuitBreaker, open_async_redis, open_redis
from breaker.gate import Gate
from breaker.sentinels import AsyncSentinelQuery, SentinelQuery
from configuration.breakers import breaker_of
from configuration.settings import GivenSettings
from sandbox.embedded_redis import EmbeddedRedis
from tests.helpers import PATIENCE, eventually
from tests.tls import Authority, Certificate, tls_relay


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder)


@pytest.fixture(scope="module")
def client_certificate(authority: Authority) -> Certificate:
    return authority.issue("client")


@pytest.fixture(scope="module")
def port(authority: Authority, redis_server: EmbeddedRedis) -> Iterator[int]:
    """Redis over TLS, whoever the client is."""
    with tls_relay(redis_server.port, authority.issue("server", "127.0.0.1")) as port:
        yield port


@pytest.fixture(scope="module")
def strict_port(authority: Authority, redis_server: EmbeddedRedis) -> Iterator[int]:
    """Redis over TLS for clients with a certificate."""
    shown = authority.issue("strict", "127.0.0.1")
    with tls_relay(redis_server.port, shown, clients_of=authority.ca_file) as port:
        yield port


def test_breakers_and_gates_get_in(
    strict_port: int, authority: Authority, client_certificate: Certificate, redis_client: object
) -> None:
    url = (
        f"rediss://127.0.0.1:{strict_port}/3?ssl_ca_certs={authority.ca_file}"
        f"&ssl_certfile={client_certificate.certificate}&ssl_keyfile={client_certificate.key}"
    )
    breaker = CircuitBreaker(open_redis(url), timeout=PATIENCE)
    breaker.initialize_state()

    async def trip() -> str:
        other = AsyncCircuitBreaker(open_async_redis(url), timeout=PATIENCE)
        try:
            return (await other.trip("MANUAL")).state.value
        finally:
            await other.close()

    with Gate(url) as gate:
        assert gate.wait_until_open(PATIENCE)
        assert asyncio.run(trip()) == "TRIPPED"
        eventually(lambda: gate.status().reason == "TRIPPED")
    breaker.close()


def test_the_configuration_says_the_same(
    strict_port: int, authority: Authority, client_certificate: Certificate, redis_client: object
) -> None:
    settings = GivenSettings.model_validate(
        {
            "redis_url": f"redis://127.0.0.1:{strict_port}",
            "redis_timeout": PATIENCE,
            "redis": {
                "tls": True,
                "database": 3,
                "ca_file": authority.ca_file,
                "certificate": client_certificate.certificate,
                "key": client_certificate.key,
            },
        }
    )
    breaker = breaker_of(settings)
    assert breaker.trip("MANUAL").state == "TRIPPED"
    breaker.close()


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            lambda here: "ssl_ca_certs=/nowhere/ca.pem",
            "reached by TLS .*/nowhere/ca.pem, which is ssl_ca_certs",
        ),
        (lambda here: "", "trusted .*CERTIFICATE_VERIFY_FAILED"),
        (lambda here: f"ssl_ca_certs={Authority(here, 'another').ca_file}", "trusted .*CERTIFICATE_VERIFY_FAILED"),
    ],
)
def test_who_is_not_trusted_is_said_at_once(
    kind: str, options: Callable[[Path], str], said: str, port: int, folder: Path
) -> None:
    message = refusal(kind, f"rediss://127.0.0.1:{port}/0?{options(folder)}")
    assert re.search(said, message)
    assert "(1 attempts:" in message, "it was tried again, which is of no use"
    assert "Nothing was changed" in message


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_a_certificate_for_another_host_is_refused_unless_told_not_to_look(
    kind: str, authority: Authority, redis_server: EmbeddedRedis, redis_client: object
) -> None:
    with tls_relay(redis_server.port, authority.issue("elsewhere", "192.0.2.1")) as port:
        url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={authority.ca_file}"
        assert "IP address mismatch" in refusal(kind, url)
        breaker = CircuitBreaker(open_redis(f"{url}&ssl_check_hostname=false"), timeout=PATIENCE)
        assert breaker.trip("MANUAL").state == "TRIPPED"
        breaker.close()


def test_a_gate_says_why_it_stays_closed(port: int) -> None:
    with Gate(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs=/nowhere/ca.pem") as gate:
        eventually(lambda: "/nowhere/ca.pem" in str(gate.status().sentence))


def test_sentinels_are_asked_over_tls(authority: Authority, port: int) -> None:
    """What answers there is no Sentinel, and says so: so far it only gets by TLS."""
    there = [("127.0.0.1", port)]
    options = {"ssl_ca_certs": str(authority.ca_file)}
    with pytest.raises(Exception, match="unknown command"):
        SentinelQuery(there, options, PATIENCE, encrypted=True).discover_master("breaker")
    with pytest.raises(Exception, match="unknown command"):
        asyncio.run(AsyncSentinelQuery(there, options, PATIENCE, encrypted=True).discover_master("breaker"))
    with pytest.raises(Exception, match="CERTIFICATE_VERIFY_FAILED"):
        SentinelQuery(there, {}, PATIENCE, encrypted=True).discover_master("breaker")


def refusal(kind: str, url: str, timeout: float = PATIENCE) -> str:
    """What is said of a trip that can't be made."""

    async def trip() -> None:
        await AsyncCircuitBreaker(open_async_redis(url), timeout=timeout).trip("MANUAL")

    with pytest.raises(BreakerUnavailable) as refused:
        if kind == "asyncio":
            asyncio.run(trip())
        else:
            CircuitBreaker(open_redis(url), timeout=timeout).trip("MANUAL")
    return str(refused.value)
