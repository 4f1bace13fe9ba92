"""What is configured of Redis comes to one address, and what contradicts itself is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from configuration.settings import ConfigurationError, Settings, load_settings

SECRET = "pa55/w@rd"


def address(**values: Any) -> str:
    return Settings.model_validate(values).redis_address.get_secret_value()


@pytest.fixture(autouse=True)
def nothing_else_is_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BREAKER_STATE_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("configured", "expected"),
    [
        ({}, "redis://localhost:6379/0"),
        ({"redis_url": "redis://desk:x@a/2"}, "redis://desk:x@a/2"),
        ({"redis": {"database": 3}}, "redis://localhost:6379/3"),
        ({"redis_url": "redis://a", "redis": {"database": 3}}, "redis://a/3"),
        ({"redis_url": "redis://a/3", "redis": {"database": 3}}, "redis://a/3"),
        ({"redis_url": "unix:///run/redis.sock", "redis": {"database": 3}}, "unix:///run/redis.sock?db=3"),
        ({"redis": {"password": SECRET}}, "redis://:pa55%2Fw%40rd@localhost:6379/0"),
        (
            {"redis_url": "redis://a", "redis": {"username": "desk", "password": SECRET}},
            "redis://desk:pa55%2Fw%40rd@a",
        ),
        ({"redis_url": "redis://a/1", "redis": {"tls": True}}, "rediss://a/1"),
        (
            {
                "redis_url": "rediss://a",
                "redis": {"ca_file": "/ca", "certificate": "/us", "key": "/key", "check_hostname": False},
            },
            "rediss://a?ssl_ca_certs=%2Fca&ssl_certfile=%2Fus&ssl_keyfile=%2Fkey&ssl_check_hostname=false",
        ),
        (
            {"redis": {"sentinels": ["a:26379", "b:26379"], "master": "breaker"}},
            "redis+sentinel://a:26379,b:26379/breaker",
        ),
        (
            {
                "redis": {
                    "sentinels": ["a", "b"],
                    "master": "the desk",
                    "database": 3,
                    "tls": True,
                    "password": SECRET,
                    "sentinel_password": SECRET,
                }
            },
            "rediss+sentinel://:pa55%2Fw%40rd@a,b/the%20desk/3?sentinel_password=pa55%2Fw%40rd",
        ),
        (
            {"redis_url": "redis+sentinel://a/breaker", "redis": {"database": 3, "sentinel_password": "x"}},
            "redis+sentinel://a/breaker/3?sentinel_password=x",
        ),
    ],
)
def test_it_comes_to_one_address(configured: dict[str, Any], expected: str) -> None:
    assert address(**configured) == expected


@pytest.mark.parametrize(
    ("configured", "said"),
    [
        ({"redis_url": f"http://:{SECRET}@a"}, "must start with redis://"),
        ({"redis_url": "redis://desk:x@a", "redis": {"password": SECRET}}, "both say who we are"),
        ({"redis_url": "redis://a/2", "redis": {"database": 3}}, "two databases"),
        ({"redis_url": "redis+sentinel://a/breaker/2", "redis": {"database": 3}}, "two databases"),
        ({"redis": {"ca_file": "/etc/ca.pem"}}, "go with rediss://"),
        ({"redis": {"tls": True, "key": "/etc/us.key"}}, "goes with its certificate"),
        ({"redis": {"tls": True, "ca_file": ""}}, "path is empty"),
        ({"redis_url": "rediss://a?ssl_ca_certs=/ca", "redis": {"ca_file": "/ca"}}, "has ssl_ca_certs too"),
        ({"redis_url": "unix:///run/redis.sock", "redis": {"tls": True}}, "no socket of this machine"),
        ({"redis": {"master": "breaker"}}, "needs redis.sentinels"),
        ({"redis": {"sentinels": ["a:26379"]}}, "need redis.master"),
        ({"redis": {"sentinels": [f"x:{SECRET}@a"], "master": "breaker"}}, "not host:port"),
        ({"redis": {"sentinels": ["a:port"], "master": "breaker"}}, "no usable port"),
        ({"redis_url": "redis://a", "redis": {"sentinels": ["a"], "master": "breaker"}}, "both say where Redis is"),
        ({"redis": {"sentinel_password": SECRET}}, "go with redis\\+sentinel://"),
    ],
)
def test_what_contradicts_itself_is_refused_in_one_line_without_secrets(configured: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        Settings.model_validate(configured)
    assert SECRET not in str(refused.value).split("[type=")[0]


def test_variables_say_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BREAKER_REDIS__SENTINELS", '["a:26379", "b:26379"]')
    monkeypatch.setenv("BREAKER_REDIS__MASTER", "breaker")
    monkeypatch.setenv("BREAKER_REDIS__PASSWORD", SECRET)
    assert load_settings().redis_address.get_secret_value().endswith("@a:26379,b:26379/breaker")
    monkeypatch.setenv("BREAKER_REDIS_URL", "redis://a")
    with pytest.raises(ConfigurationError, match="both say where Redis is") as refused:
        load_settings()
    assert SECRET not in str(refused.value)
    assert "\n" not in str(refused.value)
