"""The canonical encoding and the chain, without any database."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import InvalidRecord
from ledger.record import COLUMNS, FIELDS, GENESIS, AuditRecord, canonical, chain, row_hash

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
    assert row_hash(row[:-1], b"key") != row[-1]


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
