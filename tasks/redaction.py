"""Redact secrets from text that people are shown: log lines, error messages, notifications."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from pydantic import BaseModel, SecretStr

HIDDEN = "***"

_NAMED = re.compile(
    r"""(?ix)
    (?<![\w.-])
    ( (?: [\w.-]{0,64}? (?: secret | token | passw(?:or)?d | passphrase | pwd | api_?key | credentials?
                          | authorization | cookie ) [\w.-]{0,64}
        | (?: [\w.-]{0,64} [_.-] )? (?: key (?: [_-]?id )? | auth | dsn ) )
      ["']? \s* (?: [:=] | \bis\b ) \s* )
    (?: (?: bearer | basic | token ) \s+ )?
    (?: "[^"]*" | '[^']*' | [^\s,;&"'}\])]+ )
    """
)
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}")
_USER_INFO = re.compile(r"(?<=://)[^/\s@]+@")
_WEBHOOK = re.compile(r"(?i)(hooks\.slack\.com/\w+)/[\w/-]+")
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_SHORTEST = 6
"""Characters; hiding shorter ones, such as the password `a`, would hide every word that has them."""


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` without the given secrets, and without what looks like one: the value of anything named key, secret, token
    or password, credentials in URLs and headers, private keys.
    """
    for secret in sorted(set(secrets), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    text = _PEM.sub(HIDDEN, text)
    text = _USER_INFO.sub(f"{HIDDEN}@", text)
    text = _WEBHOOK.sub(rf"\1/{HIDDEN}", text)
    text = _NAMED.sub(lambda found: found[1] + HIDDEN, text)
    return _BEARER.sub(rf"\1 {HIDDEN}", text)


def configured_secrets(settings: BaseModel) -> frozenset[str]:
    """Every secret of the configuration that is long enough to be told from an ordinary word."""
    return frozenset(secret for secret in _secrets(settings) if len(secret) >= _SHORTEST)


def _secrets(value: object) -> Iterable[str]:
    match value:
        case SecretStr():
            secret = value.get_secret_value()
            yield secret
            if secret.startswith(("http://", "https://")):
                yield urlsplit(secret).path  # all that is secret of a webhook, and what its service may repeat
        case BaseModel():
            for name in type(value).model_fields:
                yield from _secrets(getattr(value, name))
        case dict():
            for item in value.values():
                yield from _secrets(item)
        case list() | tuple():
            for item in value:
                yield from _secrets(item)
        case _:
            return
