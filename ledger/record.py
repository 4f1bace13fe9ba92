"""Make the rows of the audit log: what one says, its canonical encoding and its hash. Nothing in here does I/O.

The hash of a row is SHA-256, or HMAC-SHA-256 where a key is configured, over the UTF-8 text of a JSON array of the
values of `FIELDS`, in that order, without spaces (RFC 8785 writes such an array the same way). The array holds the
row's `seq` and the hash of the row before, so none can be moved, taken out or put in without a trace.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Self
from uuid import UUID, uuid5

from pydantic import SecretStr

from breaker.uuid7 import uuid7
from ledger.errors import InvalidRecord

GENESIS = "0" * 64
"""What stands for the hash before the first row."""

FIELDS = (
    "seq",
    "id",
    "timestamp",
    "recorded_at",
    "action",
    "user_id",
    "details",
    "ip_address",
    "source",
    "scope",
    "incident_id",
    "flow_run_id",
    "outcome",
    "prev_hash",
)
"""What the hash covers, in the order in which it does."""

COLUMNS = (*FIELDS, "hash")

OK = "OK"
DENIED = "DENIED"
FAILED = "FAILED"

RawRow = tuple[Any, ...]
"""The values of `COLUMNS` as they are hashed: `seq` an integer, everything else text or None."""

_NAMESPACE = UUID("6f1c7a52-2f0e-5d1b-9a3e-0c5d8f4b7e21")
_ACTION = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_LONGEST_NAME = 128
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
_encode_details = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), allow_nan=False, sort_keys=True, default=str
).encode


def _clean(text: str) -> str:
    """Text that every database and every encoding can carry: NUL and lone surrogates become U+FFFD."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def plain(value: Any) -> Any:
    """`value` as JSON can say it. What JSON has no word for is written as text, so that no record is lost for it."""
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, Mapping):
        return {_clean(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return _clean(iso(value) if isinstance(value, datetime) and value.tzinfo is not None else str(value))


def iso(moment: datetime) -> str:
    """The one way in which a time is written: UTC, microseconds, `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def derived_id(*parts: str) -> str:
    """The same id for the same parts, so that whatever is found twice is recorded once."""
    return str(uuid5(_NAMESPACE, _encode(parts)))


def uuid_or_none(text: str | None) -> str | None:
    """A UUID as it is written usually; None for what is none, such as an incident's id that somebody wrote by hand."""
    try:
        return None if text is None else str(UUID(text))
    except ValueError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """What happened, before it has a place in the chain.

    `id` makes recording idempotent: the ledger keeps the first record of an id and ignores the others. `timestamp` is
    when it happened, not when it was written down. `details` is any JSON-like mapping.

    Raises:
        InvalidRecord: the action is no upper-case word, the time has no zone, or a name has over 128 characters.
    """

    action: str
    source: str
    id: str = field(default_factory=uuid7)
    timestamp: datetime = field(default_factory=lambda: datetime.now(UTC))
    user_id: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    ip_address: str | None = None
    scope: str = "global"
    incident_id: str | None = None
    flow_run_id: str | None = None
    outcome: str = OK

    def __post_init__(self) -> None:
        if not _ACTION.fullmatch(self.action):
            raise InvalidRecord(f"{self.action!r} is no action: use an upper-case word such as ORDERS_CANCELED")
        if self.timestamp.tzinfo is None:
            raise InvalidRecord(f"the time of {self.action} has no time zone: pass a UTC-aware datetime")
        try:
            object.__setattr__(self, "timestamp", self.timestamp.astimezone(UTC))
        except OverflowError:
            raise InvalidRecord(f"the time of {self.action} is outside the years 1 to 9999 in UTC") from None
        for name in ("id", "source", "scope", "incident_id", "flow_run_id", "outcome", "user_id", "ip_address"):
            text: str | None = getattr(self, name)
            # Empty and absent are one thing, as CSV can't tell them apart.
            cleaned = _clean(text) if text else None
            if cleaned is None and name in ("id", "source", "scope", "outcome"):
                raise InvalidRecord(f"{self.action} has no {name}, and every record needs one")
            if cleaned is not None and name != "user_id" and len(cleaned) > _LONGEST_NAME:
                raise InvalidRecord(f"the {name} of {self.action} is longer than {_LONGEST_NAME} characters")
            object.__setattr__(self, name, cleaned)
        try:
            object.__setattr__(self, "details", plain(self.details))
            self.details_text()
        except (RecursionError, ValueError) as error:
            raise InvalidRecord(f"the details of {self.action} can't be written as JSON: {error}") from None

    def details_text(self) -> str:
        """The details as they are stored and hashed: JSON with sorted keys and no spaces."""
        return _encode_details(self.details)

    def fields(self, seq: int, recorded_at: str, prev_hash: str) -> RawRow:
        """The values of `FIELDS` once the record has its place."""
        return (
            seq,
            self.id,
            iso(self.timestamp),
            recorded_at,
            self.action,
            self.user_id,
            self.details_text(),
            self.ip_address,
            self.source,
            self.scope,
            self.incident_id,
            self.flow_run_id,
            self.outcome,
            prev_hash,
        )

    def to_json(self) -> str:
        """One line that `from_json` reads back to an equal record: the form in which the spool keeps it."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return _encode({**values, "timestamp": iso(self.timestamp)})

    @classmethod
    def from_json(cls, line: str) -> Self:
        """The record that `to_json` wrote.

        Raises:
            InvalidRecord: the line is not one.
        """
        try:
            values = json.loads(line)
            return cls(**{**values, "timestamp": datetime.fromisoformat(values["timestamp"])})
        except InvalidRecord:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise InvalidRecord(f"not a record: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """One row as the ledger keeps it."""

    seq: int
    id: str
    timestamp: datetime
    recorded_at: datetime
    action: str
    user_id: str | None
    details: Mapping[str, Any]
    ip_address: str | None
    source: str
    scope: str
    incident_id: str | None
    flow_run_id: str | None
    outcome: str
    prev_hash: str
    hash: str

    @classmethod
    def from_raw(cls, raw: Sequence[Any]) -> Self:
        values = dict(zip(COLUMNS, raw, strict=True))
        for name in ("timestamp", "recorded_at"):
            values[name] = datetime.fromisoformat(values[name])
        return cls(**{**values, "details": json.loads(values["details"])})

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON can carry it."""
        values = {name: getattr(self, name) for name in COLUMNS}
        return {**values, "timestamp": iso(self.timestamp), "recorded_at": iso(self.recorded_at)}


def canonical(fields: Sequence[Any]) -> bytes:
    """The bytes that the hash covers; different values of `FIELDS` never give the same ones."""
    return _encode(fields).encode()


def row_hash(fields: Sequence[Any], key: bytes | None) -> str:
    """The hash of a row, in hexadecimal, from the values of `FIELDS`."""
    if key is None:
        return hashlib.sha256(canonical(fields)).hexdigest()
    return hmac.digest(key, canonical(fields), "sha256").hex()


def key_bytes(key: SecretStr | None) -> bytes | None:
    return None if key is None else key.get_secret_value().encode()


def chain(
    records: Sequence[AuditRecord], *, after_seq: int, after_hash: str, recorded_at: datetime, key: bytes | None
) -> list[RawRow]:
    """The rows that `records` become behind the row `after_seq` whose hash is `after_hash`."""
    written = iso(recorded_at)
    rows: list[RawRow] = []
    for seq, record in enumerate(records, after_seq + 1):
        fields = record.fields(seq, written, after_hash)
        after_hash = row_hash(fields, key)
        rows.append((*fields, after_hash))
    return rows
