"""What is in force is told with its origin, and no secret is told with it, whatever it is in."""

from __future__ import annotations

import itertools
import json
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
from pydantic import BaseModel, SecretStr

from configuration.in_force import HIDDEN, in_force, store_named, without_credentials
from configuration.settings import Settings, load_settings

FILE = """
environment = "desk 4"
quiet_period = 120
[accounts.alpha]
base_url = "https://robot:hunter2@api.example.com/v2?token=tok3n"
key_id = "from-file"
secret_key = "from-file"
[recovery.people]
"ada.l" = ["RESET_CIRCUIT"]
[rules."account:ALPHA"]
api_errors = 3
"""


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "breaker.toml"
    path.write_text(FILE, encoding="utf-8")
    monkeypatch.setenv("BREAKER_CONFIG", str(path))
    monkeypatch.setenv("BREAKER_ACCOUNTS__ALPHA__SECRET_KEY", "hunter3")
    monkeypatch.setenv("BREAKER_KILL", '{"deadline": 60}')
    monkeypatch.setenv("breaker_drill__orders", "17")
    monkeypatch.setenv("BREAKER_QUIET_PERIOD", "90")
    return path


def test_each_value_names_where_it_comes_from(configured: Path) -> None:
    told = {entry.key: (entry.value, entry.unit, entry.origin) for entry in in_force(load_settings())}
    assert told["environment"] == ("desk 4", "", str(configured))
    assert told["quiet_period"] == (90.0, "seconds", "BREAKER_QUIET_PERIOD"), "the environment wins over the file"
    assert told["kill.deadline"] == (60.0, "seconds", "BREAKER_KILL")
    assert told["kill.settle"] == (1.0, "seconds", "default")
    assert told["drill.orders"] == (17, "orders", "breaker_drill__orders")
    assert told["accounts.ALPHA.key_id"] == (HIDDEN, "", str(configured))
    assert told["accounts.ALPHA.secret_key"] == (HIDDEN, "", "BREAKER_ACCOUNTS__ALPHA__SECRET_KEY")
    assert told["accounts.ALPHA.request_timeout"] == (5.0, "seconds", "default")
    assert told["accounts.ALPHA.base_url"][0] == f"https://{HIDDEN}@api.example.com/v2?{HIDDEN}"
    assert told['recovery.people."ada.l"'] == (["RESET_CIRCUIT"], "", str(configured))
    assert told['rules."account:ALPHA".api_errors'] == (3, "errors", str(configured))
    assert told['rules."account:ALPHA".drawdown'] == ("0.05", "fraction", "default")
    assert told["ledger_key"] == (None, "", "default")
    assert told["redis_url"] == ("redis://localhost:6379/0", "", "default")


def test_every_key_of_the_model_is_told(configured: Path) -> None:
    told = {entry.path for entry in in_force(load_settings())}
    for name, field in Settings.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            for key in inner.model_fields:
                assert any(path[:2] == (name, key) for path in told), f"{name}.{key}"
        else:
            assert any(path[0] == name for path in told), name


class Marks:
    """Secrets that are told from each other and from any word: of each, no part of five characters may be seen."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def new(self) -> str:
        number = len(self.made)
        self.made.append("".join(chr(ord("a") + (number * 7 + place * 5) % 26) for place in range(12)) + f"{number:03}")
        return self.made[-1]

    def seen_in(self, text: str) -> list[str]:
        return [part for mark in self.made for part in map("".join, _windows(mark, 5)) if part in text]


def _windows(text: str, size: int) -> Iterator[tuple[str, ...]]:
    return zip(*(itertools.islice(text, start, None) for start in range(size)), strict=False)


def _filled(annotation: Any, marks: Marks) -> Any:
    """A value of that type with a mark for every secret in it, or None where there is none."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is SecretStr:
        return SecretStr(marks.new())
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _model(annotation, marks)
    if origin is Annotated:
        return _filled(arguments[0], marks)
    if origin in (Union, types.UnionType):
        return next((found for one in arguments if (found := _filled(one, marks)) is not None), None)
    if origin is tuple and (found := _filled(arguments[0], marks)) is not None:
        return (found, _filled(arguments[0], marks))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        found = _filled(arguments[1], marks)
        return None if found is None else {"ONE": found}
    return None


def _model(model: type[BaseModel], marks: Marks) -> BaseModel:
    given = {}
    for name, field in model.model_fields.items():
        given[name] = found = _filled(field.annotation, marks)
        if found is None:
            default = "x" if field.is_required() else field.get_default(call_default_factory=True, validated_data={})
            given[name] = default
    return model.model_construct(**given)


def test_no_secret_of_the_model_nor_a_part_of_one_is_told(configured: Path) -> None:
    marks = Marks()
    settings = _model(Settings, marks)
    assert isinstance(settings, Settings) and len(marks.made) >= 9, "the model's secrets are not found any more"
    text = json.dumps([entry.as_dict() for entry in in_force(settings)])
    assert not marks.seen_in(text)
    assert text.count(HIDDEN) >= len(marks.made)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://desk:pa55word@redis.internal:6380/2", "redis://redis.internal:6380/2"),
        ("redis://:pa55word@[::1]:6380", "redis://[::1]:6380"),
        ("redis://redis.internal/0?password=pa55word", "redis://redis.internal/0"),
        ("rediss://redis.internal", "rediss://redis.internal"),
        ("redis+sentinel://desk:pa55word@a:26379,[::1]/desk/0?x=pa55word", "redis+sentinel://a:26379,[::1]/desk/0"),
        ("redis+sentinel://desk:pa55/word@a:26379,b/desk", HIDDEN),
        ("redis+sentinel://desk:pa55@word@a:26379,b/desk", HIDDEN),
        ("unix:///run/redis.sock?password=pa55word", "unix:///run/redis.sock"),
        ("postgresql://owner:pa55word@db/breaker", "postgresql://db/breaker"),
        ("postgresql://db/breaker?password=pa55word", "postgresql://db/breaker"),
        ("sqlite:////var/lib/breaker/audit.db", "sqlite:////var/lib/breaker/audit.db"),
        ("postgresql://owner:pa55/word@db/breaker", HIDDEN),
        ("postgresql://owner:pa55@word@db/breaker", HIDDEN),
        ("postgresql://owner:pa55?word@db/breaker", HIDDEN),
        ("postgresql://owner:pa55#word@db/breaker", HIDDEN),
        ("postgresql://owner:[pa55word@db/breaker", HIDDEN),
        ("pa55word", HIDDEN),
    ],
)
def test_of_a_stores_address_no_credential_is_told(url: str, told: str) -> None:
    assert store_named(url) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("https://user:pa55word@events.example.com/v2", f"https://{HIDDEN}@events.example.com/v2"),
        ("https://events.example.com/v2?key=pa55word#pa55word", f"https://events.example.com/v2?{HIDDEN}#{HIDDEN}"),
        ("https://user:pa55/word@events.example.com", HIDDEN),
        ("https://events.example.com:8443/v2", "https://events.example.com:8443/v2"),
        ("alpaca", "alpaca"),
    ],
)
def test_of_any_other_address_no_credential_is_told(text: str, told: str) -> None:
    assert without_credentials(text) == told
