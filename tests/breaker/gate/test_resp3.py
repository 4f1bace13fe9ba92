"""The wire, cut anywhere."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from breaker.gate.resp3 import ErrorReply, Frame, Parser, ProtocolError, Push
from breaker.requests import encode_command

WIRE = (
    b"+OK\r\n:42\r\n$-1\r\n_\r\n$5\r\nhe\r\nl\r\n*2\r\n$1\r\na\r\n*1\r\n:-1\r\n-WRONGTYPE no\r\n,1.5\r\n#t\r\n"
    b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n%1\r\n+a\r\n:1\r\n(123456789012345678901\r\n|1\r\n+x\r\n:1\r\n+after\r\n"
    b"!5\r\nERR x\r\n=6\r\ntxt:ab\r\n~0\r\n>2\r\n+invalidate\r\n_\r\n"
)
FRAMES: list[object] = [
    *(b"OK", 42, None, None, b"he\r\nl", [b"a", [-1]], ErrorReply("WRONGTYPE no"), 1.5, True),
    *(Push(b"invalidate", [[b"k"]]), [b"a", 1], 123456789012345678901, b"after", ErrorReply("ERR x"), b"ab", []),
    Push(b"invalidate", [None]),
]


@given(st.lists(st.integers(0, len(WIRE)), max_size=12))
def test_frames_are_the_same_wherever_the_bytes_are_cut(cuts: list[int]) -> None:
    parser = Parser()
    frames: list[Frame] = []
    edges = [0, *sorted(cuts), len(WIRE)]
    for start, end in pairwise(edges):
        frames += parser.feed(WIRE[start:end])
    assert frames == FRAMES


@given(st.binary(max_size=200))
def test_noise_is_refused_or_incomplete_but_nothing_else(noise: bytes) -> None:
    try:
        list(Parser().feed(noise))
    except ProtocolError as error:
        assert "RESP3" in str(error)


@pytest.mark.parametrize("noise", [b"HTTP/1.1 400 Bad Request\r\n", b":1x\r\n", b"$x\r\n", b"?\r\n"])
def test_another_protocol_is_refused(noise: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(Parser().feed(noise))


def test_a_frame_without_end_is_refused() -> None:
    parser = Parser()
    with pytest.raises(ProtocolError):
        for _ in range(100):
            list(parser.feed(b"$90000000\r\n" if _ == 0 else b"x" * 100_000))


def test_a_command_is_length_prefixed() -> None:
    assert encode_command("GET", "ä", 7, b"\r\n") == b"*4\r\n$3\r\nGET\r\n$2\r\n\xc3\xa4\r\n$1\r\n7\r\n$2\r\n\r\n\r\n"
