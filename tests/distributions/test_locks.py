"""Both locks pin by hash, name no address, and agree; what is written twice says the same twice."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECKOUT = ROOT / "requirements.lock"
INSTALLATION = ROOT / "distributions" / "ops" / "requirements.lock"


def requirements(lock: Path) -> dict[str, str]:
    """Each requirement, with its marker, and its hashes."""
    joined = re.sub(r"#.*", "", lock.read_text()).replace("\\\n", " ")
    lines = (line.strip() for line in joined.splitlines())
    return {line.partition(" --hash")[0].strip(): line.partition(" --hash")[2] for line in lines if line}


@pytest.mark.parametrize("lock", [CHECKOUT, INSTALLATION], ids=["checkout", "installation"])
def test_everything_is_pinned_by_hash_and_no_address_is_named(lock: Path) -> None:
    pinned = requirements(lock)
    assert len(pinned) > 100
    for requirement, hashes in pinned.items():
        assert re.match(r"[a-z0-9-]+==[\w.]+( ;|$)", requirement), requirement
        assert "=sha256:" in f"{hashes}", requirement
    assert "://" not in lock.read_text()


def test_an_installation_gets_the_versions_that_were_tested() -> None:
    tested = {name.partition(" ;")[0]: hashes.split() for name, hashes in requirements(CHECKOUT).items()}
    installed = {name.partition(" ;")[0]: hashes.split() for name, hashes in requirements(INSTALLATION).items()}
    assert installed.items() <= tested.items()


def test_the_application_has_the_licence_of_the_project() -> None:
    assert (ROOT / "distributions" / "ops" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_every_package_of_ours_is_kept_out_of_the_library() -> None:
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    forbidden = next(each for each in linter["contracts"] if each["type"] == "forbidden")
    assert forbidden["source_modules"] == ["breaker"]
    assert set(linter["root_packages"]) - {"breaker"} <= set(forbidden["forbidden_modules"])
