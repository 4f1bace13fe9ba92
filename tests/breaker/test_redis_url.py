"""What an address of Redis may be, and the one line that is said of any other."""

from __future__ import annotations

import pytest

from breaker import InvalidInput
from breaker.redis_url import check_redis_url, read_sentinel_url


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://desk:pa55word@redis.internal:6380/2",
        "redis://[::1]:6379/0",
        "rediss://redis.internal/3?ssl_ca_certs=/etc/ca.pem&ssl_certfile=/etc/us.pem&ssl_keyfile=/etc/us.key",
        "unix:///run/redis.sock?db=2",
        "redis+sentinel://a:26379,b/breaker",
        "rediss+sentinel://desk:pa55word@a,b,[::1]:26380/breaker/2?sentinel_password=pa55word",
    ],
)
def test_an_address_that_can_be_used_is_let_through(url: str) -> None:
    check_redis_url(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("pa55word", "must start with"),
        ("http://:pa55word@a", "must start with"),
        ("redis://:[pa55word@a", "can't be read"),
        ("redis://:pa55#pa55word@a", "written %23"),
        ("redis://:pa55word@a:port", "no usable port"),
        ("redis://:pa55word@a/zero", "no number"),
        ("redis://:pa55word@a?db=zero", "no number"),
        ("redis://:pa55word@a?ssl_ca_certs=/etc/ca.pem", "go with rediss://"),
        ("rediss://:pa55word@a?ssl_keyfile=/etc/us.key", "goes with its certificate"),
        ("redis://:pa55word@a?sentinel_password=pa55word", "go with redis\\+sentinel://"),
        ("redis+sentinel://:pa55word@/breaker", "names no Sentinel"),
        ("redis+sentinel://:pa55word@a:26379", "not the master"),
        ("redis+sentinel://:pa55word@a:26379/", "not the master"),
        ("redis+sentinel://:pa55word@a:port/breaker", "no usable port"),
        ("redis+sentinel://:pa55word@:26379/breaker", "without a host"),
        ("redis+sentinel://:pa55word@a:26379/breaker/zero", "no number"),
        ("redis+sentinel://a/breaker?ssl_ca_certs=/etc/ca.pem", "go with rediss://"),
    ],
)
def test_any_other_is_refused_in_one_line_without_its_secrets(url: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as refused:
        check_redis_url(url)
    assert "pa55word" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_sentinels_have_a_default_port_and_the_rest_is_the_servers() -> None:
    found = read_sentinel_url("rediss+sentinel://desk:pa55word@a,[::1]:26380/the%20desk/2?ssl_ca_certs=/etc/ca.pem")
    assert found is not None
    assert found.sentinels == (("a", 26379), ("::1", 26380))
    assert (found.master, found.encrypted) == ("the desk", True)
    assert found.servers.startswith("rediss://desk:pa55word@") and found.servers.endswith("/2?ssl_ca_certs=/etc/ca.pem")
    assert "pa55word" not in repr(found)


def test_one_server_has_no_sentinels() -> None:
    assert read_sentinel_url("redis://a:6379/0") is None
