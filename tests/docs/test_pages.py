"""What the documentation leads to and names is there: links, commands, options, modules, folders."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from cli.app import command_line
from tests.docs.pages import GIVEN, PAGES, ROOT, anchors, blocks, commands, links, name_of

IGNORED = {"build", "dist", "var"}
OURS = ("breaker", "brokers", "cli", "configuration", "console", "flows", "ledger", "sandbox", "services", "tasks")

every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


@pytest.mark.parametrize("page", [page for page in PAGES if page != GIVEN], ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    lost = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            lost.append(target)
    assert not lost


@every_page
def test_every_target_of_make_that_is_named_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {word for line in commands(page) for word in re.findall(r"(?:^|&& )make ([a-z][a-z-]*)", line)}
    assert named <= targets


@cache
def every_command() -> Any:
    return typer.main.get_command(command_line())


def calls(line: str) -> Iterator[list[str]]:
    """The arguments of each call of `breaker` in a line of shell."""
    for part in re.split(r"&&|[;|]|\$\(| -- ", re.sub(r"(^|\s)#.*", "", line)):
        words = re.sub(r"^(sudo -u \w+ (env )?)?(\w+=\S* )*", "", part.strip()).rstrip(")").split()
        if words and words[0].rpartition("/")[2] == "breaker":
            yield words[1:]


@every_page
def test_every_command_of_breaker_that_is_named_exists_and_takes_its_options(page: Path) -> None:
    wrong = []
    for words in (call for line in commands(page) for call in calls(line)):
        command = every_command()
        rest = list(words)
        while rest and hasattr(command, "commands") and not rest[0].startswith("-"):
            command = command.commands.get(rest.pop(0))
        known = [] if command is None else [option for given in command.params for option in given.opts]
        options = [word.partition("=")[0] for word in rest if re.match(r"--[a-z]", word)]
        if command is None or not set(options) <= {*known, "--help"}:
            wrong.append(words)
    assert not wrong


@every_page
def test_every_import_that_is_shown_works(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in OURS:
                module = importlib.import_module(str(node.module))
                assert all(_is_there(module, name.name) for name in node.names), ast.unparse(node)


def _is_there(module: Any, name: str) -> bool:
    """A guard's name is there, too, where what it guards is not installed."""
    try:
        return hasattr(module, name)
    except ModuleNotFoundError as error:
        return error.name not in OURS and name in module.__all__


def test_the_readme_names_every_folder() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (listed,) = (block for block in blocks(ROOT / "README.md", "") if block.startswith("breaker/"))
    there = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] not in "._"} - IGNORED
    assert set(re.findall(r"^(\w+)/", listed, re.MULTILINE)) == {name for name in there if "egg-info" not in name}
    assert "docs/index.md" in readme
