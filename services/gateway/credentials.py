"""Tell whose keys a request carries, without keeping them. Pure."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterable

_KEY_ID = b"apca-api-key-id"
_AUTHORIZATION = b"authorization"


def are_of(headers: Iterable[tuple[bytes, bytes]], key_id: str) -> bool:
    """Whether the request is signed with this key and with no other one.

    Alpaca takes a key in headers of its own or as HTTP's basic authentication. A token of OAuth does not say whose it
    is, and of two different signatures it isn't known which one counts.
    """
    names = [_named(name, value) for name, value in headers if name in (_KEY_ID, _AUTHORIZATION)]
    return len(names) == 1 and names[0] is not None and hmac.compare_digest(names[0], key_id.encode())


def _named(name: bytes, value: bytes) -> bytes | None:
    if name == _KEY_ID:
        return value
    scheme, _, encoded = value.partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        return base64.b64decode(encoded, validate=True).partition(b":")[0]
    except binascii.Error:
        return None
