"""Every command that is printed can be pasted: it exists, with these options, and carries what the shell lacks."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.exceptions import TyperException

from brokers.coverage import coverage_of
from cli import circuit_view, kill_view, recovery_view
from cli.app import command_line
from cli.messages import say
from configuration.locations import LACKING
from configuration.printed_commands import pastable, with_pastable
from tasks.kill.report import KillReport
from tasks.recovery.state import ItemState, RecoveryState, Tick, cancelled_sentence

ROOT = Path(__file__).parents[2]
PACKAGES = (ROOT / "Makefile").read_text().partition("PACKAGES := ")[2].partition("\n")[0].split()
APP: Any = typer.main.get_command(command_line())
COMMANDS = sorted(APP.commands)
TARGETS = re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
BARE = re.compile(
    rf"(?<![\w./-])(?:breaker (?:{'|'.join(sorted(APP.commands))})|make (?:{'|'.join(TARGETS)}))(?![\w-])"
)
"""A command in a text, whether it stands in backticks or not."""
SHELL = {"BREAKER_CONFIG": "/a folder/breaker.toml", "PREFECT_API_URL": "http://127.0.0.1:4200/api"}
PREFIX = "BREAKER_CONFIG='/a folder/breaker.toml' PREFECT_API_URL=http://127.0.0.1:4200/api "


def texts(path: Path) -> Iterator[tuple[str, str]]:
    """Every text that a program may print, with where it is; what is filled in is a scope or some value."""
    where = str(path.relative_to(ROOT))
    if path.suffix == ".html":
        filled = re.sub(r'\{\{ \("(.*?)" ~ \(scope \| of_scope\) ~ "(.*?)"\) .*?\}\}', r"\1\2", path.read_text())
        yield where, re.sub("</?code>", "`", filled)
        return
    tree = ast.parse(path.read_text())
    beside = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # what documents
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield f"{where}:{node.lineno}", "".join(_filled(part) for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in {*inside, *beside}:
            yield f"{where}:{node.lineno}", node.value


def _filled(part: ast.expr) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    return " --scope account:ALPHA" if "of_scope" in ast.unparse(part) else "VALUE"


def sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))
        yield from sorted((ROOT / package).rglob("*.html"))


def parse(command: Any, name: str, words: list[str]) -> None:
    """As the program does it, without doing anything. Raises what it says of words that it doesn't know."""
    context = command.make_context(name, list(words))
    rest = [*context._protected_args, *context.args]
    if hasattr(command, "commands") and rest:
        chosen, inner, others = command.resolve_command(context, rest)
        parse(inner, str(chosen), others)


FOUND = [(where, text) for path in sources() for where, text in texts(path) if BARE.search(text)]


@pytest.mark.parametrize(("where", "text"), FOUND, ids=[where for where, _ in FOUND])
def test_a_command_in_a_text_exists_and_stands_in_backticks(where: str, text: str) -> None:
    if re.fullmatch(r"(breaker|make) [a-z-]+", text) and "argparse" in (ROOT / where.partition(":")[0]).read_text():
        return  # what a program calls itself
    whole = text.strip().startswith(("breaker ", "make "))
    commands = [text.strip()] if whole else re.findall(r"`([^`]+)`", text)
    outside = "" if whole else re.sub(r"`[^`]*`", "", text)
    assert not BARE.search(outside), f"{where}: {text!r}"
    for command in commands:
        assert "{{" in command or "{" not in command, f"{where}: nothing fills in what {command!r} leaves open"
        program, *words = shlex.split(command)
        if program == "breaker":
            try:
                parse(APP, "breaker", words)
            except TyperException as error:
                pytest.fail(f"{where}: {command}: {error}")
        elif program == "make":
            assert words[0] in TARGETS, command


def test_there_are_texts_to_look_at() -> None:
    assert len(FOUND) > 40
    with pytest.raises(TyperException):
        parse(APP, "breaker", ["recover", "start", "--no-such-option"])


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> str:
    """That of somebody who reads what a process under `make up` prints; what each command has to begin with."""
    monkeypatch.setenv(LACKING, " ".join(SHELL))
    for name, value in SHELL.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.executable", "/somewhere/bin/python")
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/breaker")
    return PREFIX


def test_a_command_is_printed_with_what_make_up_gave_and_the_shell_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.executable", str(ROOT / ".venv/bin/python"))
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert pastable("breaker recover answer") == ".venv/bin/breaker recover answer"
    assert pastable("python -m services.serve") == ".venv/bin/python -m services.serve"
    monkeypatch.setenv(LACKING, " ".join(SHELL))
    for name, value in SHELL.items():
        monkeypatch.setenv(name, value)
    assert with_pastable("see `breaker recover`, `make up`") == f"see `{PREFIX}.venv/bin/breaker recover`, `make up`"


def test_what_is_named_on_makes_command_line_is_not_in_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/breaker")
    monkeypatch.setenv("MAKEFLAGS", "s -- BREAKER_TOKEN=secret BREAKER_CONFIG=a.toml")
    monkeypatch.setenv("BREAKER_TOKEN", "secret")
    monkeypatch.setenv("BREAKER_CONFIG", "a.toml")
    assert pastable("breaker status") == "BREAKER_CONFIG=a.toml breaker status"


RECOVERY = RecoveryState(
    "an incident",
    "account:ALPHA",
    "a run",
    waiting_for="root-cause",
    problem=cancelled_sentence("account:ALPHA"),
    items={"ledger": ItemState(Tick.RED, evidence="another migration: run `breaker audit upgrade`")},
)
REPORT = KillReport(
    "an incident", "a test", "ada", "account:ALPHA", "account ALPHA", datetime.now(UTC), 0.1, 0.2, 0.3, (), ()
)


@pytest.mark.parametrize(
    ("scope", "accounts", "command"),
    [
        ("global", (), "breaker kill`"),
        ("global", ("BETA",), "breaker kill --account BETA`"),
        ("account:ALPHA", (), "breaker kill --scope account:ALPHA`"),
        ("symbol:AAPL", ("ALPHA",), "breaker kill --scope symbol:AAPL --account ALPHA`"),
        ("symbol:AAPL", (), "breaker kill --scope symbol:AAPL`"),
    ],
)
def test_going_on_later_touches_no_more_than_was_asked(
    capsys: pytest.CaptureFixture[str], scope: str, accounts: tuple[str, ...], command: str
) -> None:
    view = kill_view.KillView(quiet=False)
    view.declined(coverage_of(scope, ["ALPHA", "BETA"], accounts))
    assert re.sub(r"\s+", " ", capsys.readouterr().err).strip().endswith(command)


def test_every_screen_of_the_command_line_prints_them_so(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    say("look with: `breaker doctor`")
    circuit_view.next_step("to close them: `breaker kill --scope account:ALPHA`")
    view = kill_view.KillView(quiet=False)
    view.declined(coverage_of("account:ALPHA", ["ALPHA", "BETA"]))
    view.report(REPORT)
    view.done_without(["the ledger: `breaker audit drain`"])
    view.not_flattened(ValueError("see `breaker doctor`"))
    circuit_view.console().print(recovery_view.checklist(RECOVERY), soft_wrap=True)
    print("\n".join(recovery_view.changes(None, RECOVERY)))
    recovery_view.print_next_step(RECOVERY)
    captured = capsys.readouterr()
    said = re.sub(r"\s+", " ", captured.out + captured.err)
    commands = [said[max(0, found.start() - len(shell)) : found.end()] for found in BARE.finditer(said)]
    assert len(commands) >= 12
    assert [command for command in commands if not command.startswith(shell)] == []
