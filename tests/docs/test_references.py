"""The reference says what the code says: settings, commands, routes, metrics, keys in Redis, actions on record."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator

import pytest

from breaker.rule_table import RULE_TABLE
from console.auth.permissions import PERMISSIONS, Permission, Role
from docs.references import DASHBOARD, PAGES, PARTS, numbers_without_unit, with_dashboard, with_part
from ledger.models import STATE_ACTIONS
from tasks.safety_nets.on_record import ACTIONS
from tests.docs.pages import sources, table_words

AUDIT_CALLS = {
    "tell", "record", "record_sign_in", "record_exits", "_identities", "AuditRecord", "_row", "change_row", "_tell",
}  # fmt: skip
"""The functions that are given an action's word, first, second, or as `action`."""
NEVER_KEPT = {"HEALTH_CHECK"}
"""Of a row that is written and taken back."""


@pytest.mark.parametrize("name", PARTS)
def test_what_is_generated_is_up_to_date(name: str) -> None:
    page, write = PARTS[name]
    text = (PAGES / page).read_text(encoding="utf-8")
    assert text == with_part(text, name, write()), f"docs/reference/{page} is not what the code says: make docs"


def test_every_number_of_the_configuration_has_a_unit() -> None:
    assert not list(numbers_without_unit()), "annotate them with configuration.units.Unit"


def _constants(tree: ast.Module) -> dict[str, str]:
    return {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _actions() -> Iterator[str]:
    for path in sources():
        if path.suffix != ".py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        constants = _constants(tree)
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if getattr(call.func, "attr", getattr(call.func, "id", "")) not in AUDIT_CALLS:
                continue
            for given in (*call.args[:2], *(word.value for word in call.keywords if word.arg == "action")):
                value = given.value if isinstance(given, ast.Constant) else constants.get(getattr(given, "id", ""), "")
                if re.fullmatch(r"[A-Z]+(_[A-Z]+)+", str(value)):
                    yield str(value)


def test_the_dashboard_says_of_each_rule_what_the_table_says() -> None:
    text = DASHBOARD.read_text(encoding="utf-8")
    assert with_dashboard(text) == text
    assert all(row.measured in text for row in RULE_TABLE.values())


def test_every_action_on_record_is_listed() -> None:
    page = PAGES / "audit-actions.md"
    listed = table_words(page, r"[A-Z_]+") - set(re.findall(r"`([A-Z_]+)`", PARTS["reasons"][1]()))
    assert listed | {"KILL_SWITCH"} == {*_actions(), *STATE_ACTIONS, *ACTIONS.values(), "KILL_SWITCH"} - NEVER_KEPT


def test_every_key_in_redis_is_listed() -> None:
    used: set[str] = set()
    for path in sources():
        text = path.read_text(encoding="utf-8")
        used |= set(re.findall(r"circuit_breaker:([a-z_]+)\b", text))
        used |= set(re.findall(r"""\.key\(f?["']([a-z_]+)""", text))
    listed = {
        word.split(":")[1] for word in table_words(PAGES / "redis-keys.md", r"circuit_breaker:[a-z_]+(:\{[a-z ]+\})*")
    }
    assert listed == used


def _problems() -> Iterator[str]:
    for path in sources():
        if "console" not in path.parts or path.suffix != ".py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("ApiProblem", "problem"):
                given = node.args[1:2]
            elif (
                isinstance(node, ast.Tuple)
                and len(node.elts) == 4
                and isinstance(node.elts[0], ast.Name | ast.Attribute)
            ):
                given = node.elts[2:3] if isinstance(getattr(node.elts[1], "value", None), int) else []
            else:
                continue
            yield from (str(one.value) for one in given if isinstance(one, ast.Constant))


def test_every_problem_of_the_api_is_listed() -> None:
    assert table_words(PAGES / "rest-api.md", r"[a-z]+(-[a-z]+)*") - _fields() == set(_problems())


def _fields() -> set[str]:
    """The words of the generated tables, which look like problems of one word."""
    return set(re.findall(r"^\| `([a-z]+)` \| (?:required|optional)", PARTS["routes"][1](), re.MULTILINE))


@pytest.mark.parametrize("module", ["breaker", "breaker.gate", "breaker.rules"])
def test_every_public_name_of_the_library_is_on_its_page(module: str) -> None:
    page = (PAGES / "python.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\.\. auto(?:class|module|function):: ([\w.]+)", page, re.MULTILINE))
    whole = {name for name in named if name.startswith("breaker.errors")}
    for name in importlib.import_module(module).__all__:
        home = getattr(importlib.import_module(module), name).__module__
        assert {f"{module}.{name}", f"{home}.{name}", home} & (named | whole), name


def test_the_consoles_page_says_what_each_role_may() -> None:
    text = (PAGES / "console.md").read_text(encoding="utf-8")
    (head,) = re.findall(r"^\| \| (viewer .*) \|$", text, re.MULTILINE)
    assert head.split(" | ") == [role.value for role in Role]
    for permission in Permission:
        (row,) = re.findall(rf"^\| `{permission}`[^|]*\|(.*)\|$", text, re.MULTILINE)
        assert [mark.strip() == "●" for mark in row.split("|")] == [permission in PERMISSIONS[role] for role in Role]
