"""Encode commands and parse replies and pushes of RESP3, Redis's wire protocol, as far as a gate needs it. No I/O.

redis-py's parsers read from a blocking socket; a gate feeds whatever bytes happen to be there, in the middle of a
frame too, and must never wait for the rest. Source: https://github.com/redis/redis-specifications (RESP3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

_MAX_FRAME_BYTES = 8_000_000


class ProtocolError(Exception):
    """The peer does not speak RESP3, or a frame is absurdly large: the connection is of no more use."""


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An error that Redis answered one command with: `WRONGTYPE …`, `NOPERM …`."""

    message: str

    @property
    def code(self) -> str:
        return self.message.partition(" ")[0]


@dataclass(frozen=True, slots=True)
class Push:
    """An out-of-band message; `kind` is `invalidate` for client tracking."""

    kind: bytes
    content: list[Frame]


Frame: TypeAlias = "bytes | int | float | bool | list[Frame] | ErrorReply | Push | None"

_SCALARS: dict[bytes, Callable[[bytes], Frame]] = {
    b"+": bytes,
    b"-": lambda rest: ErrorReply(rest.decode(errors="replace")),
    b":": int,
    b"(": int,
    b",": float,
    b"#": lambda rest: rest == b"t",
    b"_": lambda rest: None,
}
_BULKS = frozenset({b"$", b"=", b"!"})
_ITEMS_PER_COUNT = {b"*": 1, b"~": 1, b">": 1, b"%": 2, b"|": 2}


class _Incomplete(Exception):
    """The rest of the frame has not arrived."""


class Parser:
    """Turns bytes, cut anywhere, into frames."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Every frame that `data` completes, in order. Raises `ProtocolError`."""
        self._buffer += data
        at = 0
        try:
            while at < len(self._buffer):
                frame, at = self._frame(at)
                yield frame
        except _Incomplete:
            if len(self._buffer) - at > _MAX_FRAME_BYTES:
                raise ProtocolError(f"a frame of more than {_MAX_FRAME_BYTES} bytes") from None
        finally:
            self._buffer = self._buffer[at:]

    def _line(self, at: int) -> tuple[bytes, int]:
        end = self._buffer.find(b"\r\n", at)
        if end < 0:
            raise _Incomplete
        return self._buffer[at:end], end + 2

    def _frame(self, at: int) -> tuple[Frame, int]:
        line, at = self._line(at)
        kind, rest = line[:1], line[1:]
        try:
            if kind in _SCALARS:
                return _SCALARS[kind](rest), at
            if kind in _BULKS:
                return self._bulk(kind, int(rest), at)
            if kind in _ITEMS_PER_COUNT:
                return self._aggregate(kind, int(rest) * _ITEMS_PER_COUNT[kind], at)
        except ValueError:
            pass
        raise ProtocolError(f"not a RESP3 frame: {line[:40]!r}")

    def _bulk(self, kind: bytes, size: int, at: int) -> tuple[Frame, int]:
        if size < 0:
            return None, at
        end = at + size
        if len(self._buffer) < end + 2:
            raise _Incomplete
        content = self._buffer[at:end]
        if kind == b"!":
            return ErrorReply(content.decode(errors="replace")), end + 2
        return (content[4:] if kind == b"=" else content), end + 2

    def _aggregate(self, kind: bytes, count: int, at: int) -> tuple[Frame, int]:
        if count < 0:
            return None, at
        items: list[Frame] = []
        for _ in range(count):
            item, at = self._frame(at)
            items.append(item)
        if kind == b"|":  # attributes describe the frame that follows them; nothing here needs them
            return self._frame(at)
        if kind == b">":
            name = items[0] if items else b""
            return Push(name if isinstance(name, bytes) else b"", items[1:]), at
        return items, at
