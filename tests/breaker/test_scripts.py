"""The scripts' own calendar and JSON reader against Python's."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import breaker
from breaker.keys import Keys
from breaker.requests import load_script
from breaker.state import State, parse_time, read_status

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST = 2**53 - 1  # In 2255; what a script writes is its own present.
shared_server = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def run(client: Any, body: str, *arguments: str | bytes | int) -> Any:
    """What `body` returns, run behind the prelude; its arguments begin at ARGV[8]."""
    prelude = (Path(breaker.__file__).parent / "scripts" / "prelude.lua").read_text("utf-8")
    keys = Keys.of()
    names = (keys.state, keys.history, keys.outbox, keys.event_ids, keys.reset_rate_limit)
    return client.eval(f"#!lua\n{prelude}\n{body}", 5, *names, *[""] * 7, *arguments)


@shared_server
@given(st.lists(st.integers(0, LAST), min_size=1, max_size=200))
@example([0, 951_782_400_000_000, 951_868_799_999_999, 4_107_542_399_999_999, 4_107_542_400_000_000, LAST])
def test_times_are_written_as_python_writes_them(redis_client: Any, times: list[int]) -> None:
    body = "local out = {} for i = 8, #ARGV do table.insert(out, iso(tonumber(ARGV[i]))) end return out"
    expected = [
        (EPOCH + timedelta(microseconds=t)).strftime("%Y-%m-%dT%H:%M:%S.").rjust(20, "0") + f"{t % 1_000_000:06d}Z"
        for t in times
    ]
    assert [text.decode() for text in run(redis_client, body, *times)] == expected


iso_like = st.from_regex(
    r"\A[0-9]{4}-(0[0-9]|1[0-3])-([0-2][0-9]|3[0-2])[T ]([01][0-9]|2[0-4]):[0-6][0-9]:[0-6][0-9](\.[0-9]{0,10})?"
    r"(Z|z|[+-][0-2][0-9]:?[0-6][0-9]|)\Z"
)


@shared_server
@given(st.lists(iso_like | st.text(max_size=30), min_size=1, max_size=200))
@example(["1970-01-01T00:00:00Z", "1970-01-01T00:00:00+00:01", "9999-12-31T23:59:59.999999Z",
          "9999-12-31T23:59:59-00:01", "2000-02-29 00:00:00Z", "1900-02-29T00:00:00Z", "0000-01-01T00:00:00Z",
          "2026-01-01T00:00:00Z\n", "2026-01-01T00:00:00.Z", "２０26-01-01T00:00:00Z"])  # fmt: skip
def test_times_are_read_as_state_py_reads_them(redis_client: Any, texts: list[str]) -> None:
    body = (
        "local out = {} for i = 8, #ARGV do local t = parse_time(ARGV[i]) "
        "table.insert(out, t and number(t) or '') end return out"
    )
    found = [int(text) if text else None for text in run(redis_client, body, *[t.encode() for t in texts])]
    expected = [parse_time(text) for text in texts]
    assert [None if t is None else float(t) for t in found] == [None if t is None else float(t) for t in expected]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
clean = st.text(st.characters(exclude_categories=["Cs"]))


@shared_server
@given(st.dictionaries(clean, json_values, max_size=6), st.booleans(), st.sampled_from([None, 1]))
@example({'a"}{': '\\"', "b\\": {"c": [[], {}, "]"]}, "": 12345678901234567890}, False, None)
def test_members_of_an_object_keep_their_text(
    redis_client: Any, fields: dict[str, Any], ascii_only: bool, indent: int | None
) -> None:
    try:
        text = json.dumps(fields, ensure_ascii=ascii_only, indent=indent).encode()
        run(redis_client, "return cjson.encode(cjson.decode(ARGV[8]))", text)
    except (UnicodeEncodeError, redis.ResponseError):
        return  # Not JSON to Redis, so never taken apart.
    body = (
        "local values, names = members(ARGV[8]) local out = {} "
        "for _, n in ipairs(names) do table.insert(out, n) table.insert(out, values[n]) end return out"
    )
    parts = run(redis_client, body, text)
    assert {n.decode(): json.loads(v) for n, v in zip(parts[::2], parts[1::2], strict=True)} == fields


states = st.fixed_dictionaries(
    {"state": st.sampled_from(["OPEN", "TRIPPED", "QUIET_PERIOD", "open", "", None, 1])},
    optional={
        "quiet_until": st.sampled_from(["2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z", "soon", None, 5]),
        "reset_at": st.sampled_from(["2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z", "soon", None, 5]),
        "epoch": st.integers(-5, 2**60) | st.floats(allow_nan=False),
        "other": json_values,
    },
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A state's JSON, or that with a few bytes changed."""
    text = bytearray(json.dumps(draw(states), ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass"))
    for _ in range(draw(st.integers(0, 2))):
        if not text:
            break
        at = draw(st.integers(0, len(text) - 1))
        text[at : at + 1] = draw(st.sampled_from([b"", b'"', b"{", b"}", b",", b"\\", b"\xff", b" ", b"\n", b"[1]"]))
    return bytes(text)


@settings(shared_server, max_examples=150)
@given(st.lists(damaged(), min_size=1, max_size=20))
def test_scripts_and_readers_agree_on_what_a_state_says(redis_client: Any, raws: list[bytes]) -> None:
    body = (
        "local out = {} for i = 8, #ARGV do redis.call('SET', STATE, ARGV[i]) "
        "table.insert(out, load_state().word) end redis.call('DEL', STATE) return {clock[1], clock[2], out}"
    )
    seconds, microseconds, words = run(redis_client, body, *raws)
    now = int(seconds) * 1_000_000 + int(microseconds)
    for raw, word in zip(raws, words, strict=True):
        assert read_status(raw, now).state == State(word.decode()), raw


@pytest.mark.parametrize("name", ["trip", "reset", "end_quiet_period", "initialize"])
def test_each_script_is_one_that_the_server_accepts(redis_client: Any, name: str) -> None:
    script = load_script(name)
    assert redis_client.script_load(script.text) == script.sha
