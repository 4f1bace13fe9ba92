"""The canonical encoding and the chain, without any database."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import InvalidRecord
from ledger.record import (
    COLUMNS,
    FIELDS,
    GENESIS,
    AuditRecord,
    AuditRow,
    canonical,
    chain,
    derived_id,
    plain,
    row_hash,
    uuid_or_none,
)

texts = st.text()
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
records = st.builds(
    AuditRecord,
    action=st.from_regex(r"[A-Z][A-Z0-9_]{0,20}", fullmatch=True),
    source=st.text(min_size=1, max_size=20),
    id=st.text(min_size=1, max_size=40),
    timestamp=st.datetimes(timezones=st.just(UTC)),
    user_id=st.none() | st.text(max_size=200),
    details=st.dictionaries(texts, json_values, max_size=4),
    incident_id=st.none() | st.text(max_size=40),
)
# Few and awkward characters, so that texts run into each other wherever an encoding lets them.
awkward = st.none() | st.text(alphabet='",\\[1', max_size=3)
fields = st.tuples(st.integers(1, 12), *[awkward] * (len(FIELDS) - 1))


@given(fields, fields)
def test_different_rows_never_have_the_same_encoding(one: tuple[object, ...], other: tuple[object, ...]) -> None:
    assert (canonical(one) == canonical(other)) == (one == other)


@given(fields, st.integers(1, len(FIELDS) - 2))
def test_moving_text_from_one_field_to_the_next_changes_the_encoding(row: tuple[object, ...], place: int) -> None:
    values = list(row)
    first, second = str(values[place] or ""), str(values[place + 1] or "")
    joined = [*values[:place], first + second, "", *values[place + 2 :]]
    split = [*values[:place], "", first + second, *values[place + 2 :]]
    assert (canonical(joined) == canonical(split)) == (first + second == "")


@given(records)
def test_any_record_survives_the_spools_line_unchanged(record: AuditRecord) -> None:
    line = record.to_json()
    assert "\n" not in line
    assert AuditRecord.from_json(line) == record
    assert AuditRecord.from_json(line).details_text() == record.details_text()


@given(records)
def test_what_is_hashed_can_be_stored_anywhere(record: AuditRecord) -> None:
    for value in record.fields(1, "", GENESIS):
        assert isinstance(value, int) or value is None or b"\0" not in value.encode()
    assert json.loads(record.details_text()) == record.details
    assert record.user_id != ""


@given(st.lists(records, min_size=2, max_size=5), st.integers(0, len(FIELDS) - 1))
def test_changing_any_field_of_any_row_breaks_its_hash(several: list[AuditRecord], place: int) -> None:
    rows = chain(several, after_seq=0, after_hash=GENESIS, recorded_at=datetime(2026, 1, 1, tzinfo=UTC), key=None)
    for row, before in zip(rows, [GENESIS, *(row[-1] for row in rows)], strict=False):
        assert row[FIELDS.index("prev_hash")] == before
        assert row_hash(row[:-1], None) == row[-1]
        changed = list(row[:-1])
        changed[place] = f"{changed[place]}x"
        assert row_hash(changed, None) != row[-1]


def test_the_encoding_is_the_documented_one() -> None:
    """A fixed example, so that a change of the encoding can't go unnoticed: it would break every ledger there is."""
    record = AuditRecord(
        id="0198c0de-0000-7000-8000-000000000001",
        action="CIRCUIT_BREAKER_TRIP",
        source="cli",
        timestamp=datetime(2026, 3, 1, 10, 0, 0, 5, tzinfo=timezone(timedelta(hours=1))),
        user_id="zoë",
        details={"reason": 'he said "stop"\n', "limit": Decimal("0.05"), "nan": float("nan"), "b": [1, 2.5, None]},
        ip_address="10.0.0.1",
    )
    row = chain(
        [record], after_seq=0, after_hash=GENESIS, recorded_at=datetime(2026, 3, 1, 9, 1, tzinfo=UTC), key=None
    )[0]
    text = (
        '[1,"0198c0de-0000-7000-8000-000000000001","2026-03-01T09:00:00.000005Z","2026-03-01T09:01:00.000000Z",'
        '"CIRCUIT_BREAKER_TRIP","zoë",'
        r'"{\"b\":[1,2.5,null],\"limit\":\"0.05\",\"nan\":\"nan\",\"reason\":\"he said \\\"stop\\\"\\n\"}",'
        f'"10.0.0.1","cli","global",null,null,"OK","{"0" * 64}"]'
    )
    assert canonical(row[:-1]).decode() == text
    assert row[-1] == hashlib.sha256(text.encode()).hexdigest()
    assert row_hash(row[:-1], b"key") == hmac.new(b"key", text.encode(), "sha256").hexdigest()


@pytest.mark.parametrize(
    "wrong",
    [
        {"action": "trip"},
        {"action": ""},
        {"timestamp": datetime(2026, 1, 1)},  # noqa: DTZ001
        {"id": ""},
        {"id": "x" * 129},
        {"incident_id": "x" * 129},
        {"timestamp": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1)))},
    ],
)
def test_a_record_that_cannot_be_kept_is_refused_before_anything_is_written(wrong: dict[str, object]) -> None:
    values: dict[str, object] = {"action": "ORDERS_CANCELED", "source": "flow", **wrong}
    with pytest.raises(InvalidRecord):
        AuditRecord(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("line", ["", "{", "[]", "null", '{"action": "X"}', '{"timestamp": 5}', "[" * 10_000])
def test_a_line_that_is_no_record_is_refused(line: str) -> None:
    with pytest.raises(InvalidRecord):
        AuditRecord.from_json(line)


def test_columns_end_with_the_hash() -> None:
    assert (*FIELDS, "hash") == COLUMNS


class Colour(Enum):
    RED = 3


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Colour.RED, 3),
        (True, True),
        (1.5, 1.5),
        (float("inf"), "inf"),
        ((1, "a"), [1, "a"]),
        ({"one"}, ["one"]),
        (frozenset({"one"}), ["one"]),
        ({5: {"deep": [Colour.RED]}}, {"5": {"deep": [3]}}),
        (Decimal("0.05"), "0.05"),
        (datetime(2026, 3, 1, 10, tzinfo=timezone(timedelta(hours=1))), "2026-03-01T09:00:00.000000Z"),
        (datetime(2026, 3, 1, 10), "2026-03-01 10:00:00"),  # noqa: DTZ001  nobody knows which zone, so none is said
        ("a\0b", "a\ufffdb"),
        ("é\0", "é\ufffd"),
        ("a\ud800b", "a\ufffdb"),
        ("zoë 🙂", "zoë 🙂"),
    ],
)
def test_whatever_a_detail_is_json_can_say_it(value: object, expected: object) -> None:
    assert plain(value) == expected and type(plain(value)) is type(expected)
    record = AuditRecord(action="X", source="cli", details={"is": value})
    assert json.loads(record.details_text()) == {"is": expected}


def test_words_of_every_language_are_kept_as_they_are() -> None:
    record = AuditRecord(action="X", source="cli", user_id="zoë", details={"who": "zoë"})
    assert record.details_text() == '{"who":"zoë"}'
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical([float("nan")])


def test_a_name_may_have_128_characters_and_a_persons_more() -> None:
    record = AuditRecord(action="X", source="cli", id="x" * 128, user_id="y" * 500)
    assert (len(record.id), len(record.user_id or "")) == (128, 500)


def test_details_that_no_json_can_hold_are_refused() -> None:
    circular: dict[str, object] = {}
    circular["self"] = circular
    for details in (circular, {"n": 10**5_000}):
        with pytest.raises(InvalidRecord, match="the details of X can't be written as JSON"):
            AuditRecord(action="X", source="cli", details=details)


def test_a_line_of_a_record_that_is_refused_says_why() -> None:
    line = AuditRecord(action="X", source="cli").to_json().replace('"X"', '"no word"')
    with pytest.raises(InvalidRecord, match="'no word' is no action"):
        AuditRecord.from_json(line)


def test_a_row_is_read_as_it_was_written_and_told_in_json() -> None:
    at = datetime(2026, 3, 1, 9, tzinfo=UTC)
    record = AuditRecord(action="X", source="cli", timestamp=at, details={"n": 1}, user_id="ada")
    (raw,) = chain([record], after_seq=6, after_hash=GENESIS, recorded_at=at + timedelta(seconds=1), key=None)
    row = AuditRow.from_raw(raw)
    assert (row.seq, row.id, row.user_id, row.prev_hash, row.hash) == (7, record.id, "ada", GENESIS, raw[-1])
    assert (row.timestamp, row.recorded_at, row.details) == (at, at + timedelta(seconds=1), {"n": 1})
    told = row.to_dict()
    assert list(told) == list(COLUMNS)
    assert (told["timestamp"], told["recorded_at"]) == ("2026-03-01T09:00:00.000000Z", "2026-03-01T09:00:01.000000Z")
    assert json.loads(json.dumps(told))["details"] == {"n": 1}


def test_what_is_found_twice_has_one_id() -> None:
    assert derived_id("ab", "c") == derived_id("ab", "c") != derived_id("a", "bc")
    assert str(UUID(derived_id("x"))) == derived_id("x")


def test_an_incidents_id_that_somebody_wrote_by_hand_is_none() -> None:
    assert uuid_or_none("0198C0DE00007000 8000000000000001".replace(" ", "")) == "0198c0de-0000-7000-8000-000000000001"
    assert uuid_or_none(None) is None and uuid_or_none("by hand") is None
