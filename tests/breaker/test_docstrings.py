"""The public docstrings: complete, and their examples are true against a real server."""

from __future__ import annotations

import asyncio
import doctest
import inspect
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import pytest
import redis

import breaker
import breaker.atomic_file
import breaker.deadman
import breaker.events
import breaker.gate
import breaker.orders
import breaker.pending_trips
import breaker.rules
import breaker.testing
import breaker.trip_reasons
from breaker import CircuitBreaker
from breaker.gate import Gate, OrderIntent
from sandbox.embedded_redis import EmbeddedRedis


def public(module: ModuleType) -> list[Any]:
    """What a module offers: its `__all__`, else its own classes and functions without an underscore."""
    if hasattr(module, "__all__"):
        return [getattr(module, name) for name in module.__all__]
    return [
        found
        for name, found in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(found) or inspect.isfunction(found))
        and found.__module__ == module.__name__
    ]


MODULES = (
    breaker,
    breaker.events,
    breaker.gate,
    breaker.rules,
    breaker.testing,
    breaker.orders,
    breaker.deadman,
    breaker.pending_trips,
    breaker.trip_reasons,
    breaker.atomic_file,
)
OBJECTS = {f"{found.__module__}.{found.__qualname__}": found for module in MODULES for found in public(module)}


def methods(cls: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name, member in vars(cls).items():
        plain = member.__func__ if isinstance(member, classmethod) else member
        if not name.startswith("_") and inspect.isfunction(plain):
            yield f"{cls.__qualname__}.{name}", plain


FUNCTIONS = {
    name: function
    for found in OBJECTS.values()
    for name, function in (methods(found) if inspect.isclass(found) else [(found.__qualname__, found)])
}


def parameters_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return [each for each in inspect.signature(function).parameters.values() if each.name not in ("self", "cls")]


def section(docstring: str, title: str) -> str:
    """The indented lines under `title:`."""
    lines = re.search(rf"^{title}:\n((?:[ ]{{4}}.*\n|\n)+)", inspect.cleandoc(docstring) + "\n", re.MULTILINE)
    return lines[1] if lines else ""


@pytest.mark.parametrize("name", OBJECTS)
def test_every_public_object_has_a_docstring_with_an_example(name: str) -> None:
    docstring = vars(OBJECTS[name]).get("__doc__") or getattr(OBJECTS[name], "__doc__", None) or ""
    assert len(docstring.splitlines()[0]) > 20
    if not (inspect.isclass(OBJECTS[name]) and (issubclass(OBJECTS[name], Enum) or is_protocol(OBJECTS[name]))):
        assert ">>>" in docstring


@pytest.mark.parametrize("name", [name for name, found in OBJECTS.items() if is_dataclass(found)])
def test_every_field_of_a_public_dataclass_is_explained(name: str) -> None:
    attributes = section(OBJECTS[name].__doc__ or "", "Attributes")
    assert [field.name for field in fields(OBJECTS[name])] == re.findall(r"^ {4}(\w+): ", attributes, re.MULTILINE)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_parameter_of_a_public_function_is_explained(name: str) -> None:
    docstring = FUNCTIONS[name].__doc__ or ""
    assert docstring, "it has none"
    if same_as := re.match(r"See `([\w.]+)`\.", docstring):
        assert parameters_of(FUNCTIONS[name]) == parameters_of(FUNCTIONS[same_as[1]])
        return
    explained = re.findall(r"^ {4}(\w+): ", section(docstring, "Args"), re.MULTILINE)
    assert explained == [parameter.name for parameter in parameters_of(FUNCTIONS[name])]


@pytest.mark.parametrize("name", OBJECTS)
def test_every_parameter_of_a_public_class_is_explained(name: str) -> None:
    found = OBJECTS[name]
    if not inspect.isclass(found) or is_dataclass(found) or issubclass(found, Enum | Exception) or is_protocol(found):
        return
    parameters = list(inspect.signature(found).parameters)
    explained = section(found.__doc__ or "", "Args") or section(found.__doc__ or "", "Attributes")
    assert set(re.findall(r"^ {4}(\w+): ", explained, re.MULTILINE)) >= set(parameters) - {"fields"}


def examples(name: str) -> list[doctest.DocTest]:
    found = OBJECTS[name]
    own = [test for test in doctest.DocTestFinder(recurse=False).find(found, name) if test.examples]
    for method, function in methods(found) if inspect.isclass(found) else ():
        own += [test for test in doctest.DocTestFinder(recurse=False).find(function, method) if test.examples]
    return own


EXAMPLES = {test.name: test for name in OBJECTS for test in examples(name)}


def until(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.005)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """One of their own: what a gate reports may arrive after its test has ended."""
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_true(name: str, server: EmbeddedRedis, tmp_path: Path) -> None:
    test = EXAMPLES[name]
    client = redis.Redis.from_url(server.url)
    client.flushall()
    cb = CircuitBreaker(client, reset_interval=0)
    cb.initialize_state()
    test.globs = {
        **{found.__name__: found for found in OBJECTS.values()},
        **{"asyncio": asyncio, "redis": redis, "Decimal": Decimal, "datetime": datetime, "timedelta": timedelta},
        **{"UTC": UTC, "url": server.url, "client": client, "breaker": cb, "directory": tmp_path},
        **{"until": until, "rules": breaker.rules.Rules(client), "order": OrderIntent("AAPL", "buy", 10)},
    }
    if any(re.search(r"\bgate\b", example.source) for example in test.examples):
        test.globs["gate"] = Gate(server.url)
        assert test.globs["gate"].wait_until_open(20)
    problems: list[str] = []
    try:
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=problems.append, clear_globs=False)
    finally:
        for closable in (test.globs.get("gate"), cb, test.globs["rules"], client):
            if closable is not None:
                closable.close()
    assert not problems, "".join(problems)


def is_protocol(cls: type) -> bool:
    """Whether it is a protocol of our own, which callers implement and nobody makes."""
    return Protocol in cls.__bases__ or any(base is Protocol for base in getattr(cls, "__orig_bases__", ()))
