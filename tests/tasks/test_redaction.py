"""No secret reaches a page, a message or a record; ordinary words do."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configuration.settings import Settings
from tasks.redaction import HIDDEN, configured_secrets, redact


@pytest.mark.parametrize(
    "text",
    [
        "api_key=SECRET",
        "APCA-API-KEY-ID: SECRET",
        'config {"secret_key": "SECRET", "x": 1}',
        "BREAKER_ACCOUNTS__ALPHA__SECRET_KEY='SECRET'",
        "the password is SECRET",
        "Authorization: Bearer SECRET",
        "curl -H 'authorization: Basic SECRET=='",
        "GET /callback?token=SECRET&page=2",
        "redis://user:SECRET@host:6379/0 refused",
        "POST https://hooks.slack.com/services/T0/B0/SECRET",
        "using bearer SECRETSECRET",
        "-----BEGIN PRIVATE KEY-----\nSECRET\n-----END PRIVATE KEY-----",
        "-----BEGIN RSA PRIVATE KEY-----\nSECRET and no end",
        "Cookie: session=SECRET",
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str) -> None:
    clean = redact(text)
    assert "SECRET" not in clean.replace("SECRET_KEY", "")
    assert HIDDEN in clean


@pytest.mark.parametrize(
    "text",
    [
        "order AAPL 100 filled at 10:20:30",
        "author: ada",
        "monkey: business",
        "the keys circuit_breaker:state and circuit_breaker:history",
        "see https://grafana.example/d/track7?from=1",
        "mail ada@example.org",
    ],
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


@given(
    secret=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=6, max_size=40),
    around=st.tuples(st.text(max_size=60), st.text(max_size=60)),
)
def test_a_configured_secret_is_hidden_wherever_it_stands(secret: str, around: tuple[str, str]) -> None:
    before, after = (part.replace(secret, "") for part in around)
    settings = Settings(accounts={"A": {"base_url": "http://v", "key_id": "k", "secret_key": secret}})
    assert secret in configured_secrets(settings)
    assert secret not in redact(f"{before} {secret} {after}", configured_secrets(settings)) or secret in HIDDEN


def test_every_secret_of_the_configuration_is_known() -> None:
    settings = Settings(
        redis_url="redis://:redis-password@h",
        notifications={"slack": "https://hooks/aaaaaa", "others": ["json://bbbbbb"]},
        accounts={"A": {"base_url": "http://v", "key_id": "cccccc", "secret_key": "dddddd"}},
    )
    expected = {"redis://:redis-password@h", "https://hooks/aaaaaa", "json://bbbbbb", "cccccc", "dddddd"}
    assert configured_secrets(settings) >= expected


@pytest.mark.parametrize("text", ["a" * 100_000, "secret" * 20_000, "key: " * 20_000, "a.-_" * 25_000, "://" * 30_000])
def test_no_text_takes_long(text: str) -> None:
    begun = time.perf_counter()
    redact(text)
    assert time.perf_counter() - begun < 1
