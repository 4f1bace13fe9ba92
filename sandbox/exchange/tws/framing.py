"""Frame messages as the TWS API does: four bytes of length, then fields that each end with a zero byte. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from decimal import Decimal
from typing import Final

GREETING: Final = b"API\0"
"""What a client sends before its first frame."""
LONGEST: Final = 0xFFFFFF
"""Bytes of a message; one that claims more is none of this protocol."""

Field = str | int | float | bool | Decimal | None


def frame(fields: Iterable[Field]) -> bytes:
    """One message; nothing is an empty field, a truth value 1 or 0."""
    body = "".join(f"{_text(field)}\0" for field in fields).encode()
    return struct.pack(">I", len(body)) + body


def fields_of(body: bytes) -> list[str]:
    """The fields of a message without its length."""
    return body.decode(errors="backslashreplace").split("\0")[:-1]


def length_of(prefix: bytes) -> int:
    """How many bytes follow these four. Raises ValueError for what can be no message."""
    length: int = struct.unpack(">I", prefix)[0]
    if length > LONGEST:
        raise ValueError(f"a message of {length} bytes")
    return length


def _text(field: Field) -> str:
    if field is None:
        return ""
    if isinstance(field, bool):
        return "1" if field else "0"
    return f"{field:f}" if isinstance(field, Decimal) else str(field)
