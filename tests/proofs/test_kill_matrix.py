"""A sample of the kill matrix (promises 2, 5, 6, 7 and 8); `make fault-matrix` runs all of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from random import Random

import pytest

from proofs.faults.cell import can_drop_permissions, run_cell
from proofs.faults.matrix import KINDS, Cell, cells
from proofs.faults.stack import Stack
from proofs.fork_server import ForkServer
from tests.conftest import PrefectHome

pytestmark = pytest.mark.timeout(300)
SEED = os.environ.get("FAULTS_SEED", "1")
BRIEF = {
    "redis": ("refused 1.5 s", "killed 1.5 s", "memory full"),
    "database": ("killed 1.5 s", "lost response"),
    "broker": ("refused 1.5 s", "lost response 1.5 s", "stopped 1.5 s"),
    "notifications": ("reset",),
    "own process": ("killed", "disk full", "read-only", "clock a day back"),
    "prefect": ("lost response", "disk full"),
}
"""Kinds that don't keep the command waiting for long."""


def sample() -> list[Cell]:
    """One cell of each component; another seed takes others."""
    choose = Random(SEED)
    brief = [cell for cell in cells() if cell.kind.name in BRIEF[cell.component]]
    return [choose.choice([cell for cell in brief if cell.component == component]) for component in KINDS]


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, prefect_home: PrefectHome, fork_server: ForkServer
) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("faults")
    prefect_home(directory / "prefect")
    with Stack(directory, fork_server) as running:
        yield running


@pytest.mark.parametrize("cell", sample(), ids=lambda cell: cell.name)
def test_it_halts_and_flattens_and_nothing_is_lost(cell: Cell, stack: Stack) -> None:
    if cell.needs_permissions and not can_drop_permissions():
        pytest.skip("root can't give up its rights here")
    outcome = run_cell(stack, cell)
    assert not outcome.broken, str(outcome)


def test_every_cell_has_a_name_of_its_own() -> None:
    names = [cell.name for cell in cells()]
    assert len(set(names)) == len(names)
