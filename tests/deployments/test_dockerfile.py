"""The image is what its text says: bases by digest, the two wheels, no root, labels that are true."""

from __future__ import annotations

import re
import shlex
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "deployments" / "Dockerfile").read_text()
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def instructions() -> list[tuple[str, str]]:
    """Each instruction's name and its arguments, with continued lines joined."""
    lines = "\n".join(line for line in TEXT.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines.splitlines() if line)]


INSTRUCTIONS = instructions()
FINAL = INSTRUCTIONS[max(at for at, (name, _) in enumerate(INSTRUCTIONS) if name == "FROM") :]


def copied() -> list[str]:
    """What is copied from the checkout."""
    return [
        source
        for name, rest in INSTRUCTIONS
        if name in ("COPY", "ADD") and "--from=" not in rest
        for source in rest.split()[:-1]
    ]


def test_every_base_is_named_by_digest_or_is_an_earlier_stage() -> None:
    stages: set[str] = set()
    for rest in (rest for name, rest in INSTRUCTIONS if name == "FROM"):
        base, *named = rest.split(" AS ")
        assert base in stages or re.fullmatch(r"[a-z/]+:[\w.-]+@sha256:[0-9a-f]{64}", base), base
        stages.update(named)
    for name, rest in INSTRUCTIONS:
        if name == "COPY" and (taken := re.search(r"--from=(\S+)", rest)):
            assert taken[1] in stages


def test_it_runs_as_a_numbered_user_other_than_root() -> None:
    users = [rest for name, rest in FINAL if name == "USER"]
    assert users == ["10001:10001"]
    after = [name for name, _ in FINAL[FINAL.index(("USER", users[0])) :]]
    assert "RUN" not in after
    assert "COPY" not in after


def test_its_labels_are_the_standard_ones_and_its_version_is_checked_against_what_is_inside() -> None:
    labels = dict(each.split("=", 1) for name, rest in FINAL if name == "LABEL" for each in shlex.split(rest))
    prefix = "org.opencontainers.image."
    assert {f"{prefix}{each}" for each in ("title", "description", "version", "licenses", "base.name")} <= labels.keys()
    assert labels[f"{prefix}version"] == "$VERSION"
    assert labels[f"{prefix}licenses"] == PROJECT["project"]["license"]
    assert labels[f"{prefix}base.name"].endswith(FINAL[0][1].split("@")[0])
    assert ("RUN", 'test "$(breaker --version)" = "breaker $VERSION"') in FINAL


def test_compose_builds_and_names_this_version() -> None:
    service = yaml.safe_load((ROOT / "deployments" / "docker-compose.yml").read_text())["x-breaker"]
    assert service["build"]["args"] == {"VERSION": PROJECT["project"]["version"]}
    assert service["image"].endswith(f":{PROJECT['project']['version']}")


@pytest.mark.parametrize("source", copied())
def test_what_is_copied_exists_and_reaches_the_builder(source: str) -> None:
    assert (ROOT / source).exists()
    ignored = (ROOT / "deployments" / "Dockerfile.dockerignore").read_text().split("\n")
    assert "*" in ignored
    assert any(fnmatch(source, line[1:]) or source.startswith(f"{line[1:]}/") for line in ignored if line[:1] == "!")


def test_every_package_is_copied_and_nothing_else_is_let_in() -> None:
    assert set(PROJECT["tool"]["importlinter"]["root_packages"]) <= set(copied())
    ignored = (ROOT / "deployments" / "Dockerfile.dockerignore").read_text().split("\n")
    assert {line[1:] for line in ignored if line[:1] == "!"} == {source.split("/")[0] for source in copied()}


def test_what_is_installed_is_installed_by_hash_or_is_one_of_the_two_wheels() -> None:
    commands = (command for name, rest in INSTRUCTIONS if name == "RUN" for command in re.split(r"&&|\|", rest))
    installs = [command for command in commands if "pip install" in command]
    assert len(installs) == 3
    for command in installs:
        assert "--require-hashes" in command or command.split()[-2:] == ["trading-breaker", "trading-breaker-ops"]


def test_it_holds_no_secret() -> None:
    for name, rest in INSTRUCTIONS:
        if name in ("ENV", "ARG"):
            assert not re.search(r"(?i)secret|password|token|key", rest)
