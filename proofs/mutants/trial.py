"""Put a mutant into a process that has everything imported, and see whether a test notices.

The tests of a module are collected once. Each mutant has a process forked from there, into whose functions the changed
code is put, so that the working tree stays as it is and nothing is imported anew. Tests that never enter the changed
function are left out, the shortest begins, and the first that fails ends it. What goes on for too long was noticed too.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import json
import os
import select
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from proofs.mutants.mutations import Mutant, mutants_of

LEAST_TIME = 10.0
"""Seconds that a mutant has at least; beside that, five times as long as the tests take of themselves."""
KILLED, SURVIVED = 0, 7
"""What the process of a mutant ends with."""


@dataclass(frozen=True)
class Outcome:
    mutant: Mutant
    killed: bool
    reached: bool


Chosen = Callable[[Mutant], bool]


def try_all(file: str, tests: Sequence[str], chosen: Chosen, told: Callable[[Outcome], None]) -> None:
    """Try every mutant of `file` that is `chosen` on `tests`, arguments of pytest. Raises ValueError if they fail."""
    hypothesis.settings.register_profile(
        "mutants",
        database=None,
        derandomize=True,
        deadline=None,  # a busy machine is no failure
        suppress_health_check=[*hypothesis.HealthCheck],
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    )
    hypothesis.settings.load_profile("mutants")
    trials = _Trials(file, chosen, told)
    quiet = ("-p", "no:cacheprovider", "-s", "-o", "timeout=0")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        status = pytest.main([*quiet, *tests], plugins=[trials])
    if trials.problem or status:
        raise ValueError(trials.problem or f"the tests of {file} could not be collected: {said.getvalue()}")


class _Trials:
    """A plugin: instead of running the session's tests once it runs them for each mutant."""

    def __init__(self, file: str, chosen: Chosen, told: Callable[[Outcome], None]) -> None:
        self._file, self._chosen, self._told = file, chosen, told
        self.problem = ""

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        path = Path(self._file)
        module = sys.modules[".".join(path.with_suffix("").parts)]
        entered, seconds = self._unchanged(session, str(path.resolve()))
        if self.problem:
            return True
        for mutant in filter(self._chosen, mutants_of(path.read_text())):
            items = session.items
            if _is_function(module, mutant.function):
                items = [item for item in items if mutant.function in entered[item.nodeid]]
            items = sorted(items, key=lambda item: seconds[item.nodeid])
            limit = max(LEAST_TIME, 5 * sum(seconds[item.nodeid] for item in items))

            def child(items: list[pytest.Item] = items, mutant: Mutant = mutant) -> int:
                try:
                    graft(module, mutant)
                except Exception:
                    return KILLED
                return KILLED if _a_test_fails(session, items) else SURVIVED

            killed = bool(items) and _forked(child, limit) != SURVIVED
            self._told(Outcome(mutant, killed, reached=bool(items)))
        return True

    def _unchanged(self, session: pytest.Session, file: str) -> tuple[dict[str, set[str]], dict[str, float]]:
        """Which functions of the file each test enters, and how long it takes."""
        reading, writing = os.pipe()

        def child() -> int:
            entered: dict[str, list[str]] = {}
            seconds: dict[str, float] = {}
            for item in session.items:
                begun = time.monotonic()
                with _entered(file) as names:
                    failed = _a_test_fails(session, [item])
                if failed:
                    os.write(writing, json.dumps(item.nodeid).encode())
                    return KILLED
                entered[item.nodeid], seconds[item.nodeid] = sorted(names), time.monotonic() - begun
            with os.fdopen(writing, "w") as out:
                json.dump([entered, seconds], out)
            return SURVIVED

        answer: list[str] = []
        with os.fdopen(reading) as told:
            reader = threading.Thread(target=lambda: answer.append(told.read()))
            reader.start()
            ended = _forked(child, 600, writing)
            reader.join()
        if ended != SURVIVED:
            self.problem = f"a test fails without any change: {answer[0]}"
            return {}, {}
        entered, seconds = json.loads(answer[0])
        return {test: set(names) for test, names in entered.items()}, seconds


def _is_function(module: types.ModuleType, name: str) -> bool:
    """Not so the module and its classes, whose own statements run when it is imported."""
    found: Any = module
    for part in name.split(".") if name else ():
        found = getattr(found, part, None)  # what is defined within a function is not found
    return not isinstance(found, type | types.ModuleType)


def _a_test_fails(session: pytest.Session, items: Sequence[pytest.Item]) -> bool:
    """Runs them until one does."""
    for item, following in zip(items, [*items[1:], None], strict=True):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            session._setupstate.teardown_exact(None)
            return True
    return False


def _forked(run: Callable[[], int], limit: float, writing: int | None = None) -> int:
    """What `run` returns in a process of its own; KILLED after `limit` seconds. It leaves nothing running."""
    child = os.fork()
    if child == 0:
        status = KILLED
        with contextlib.suppress(BaseException):
            os.setpgid(0, 0)
            nowhere = os.open(os.devnull, os.O_RDWR)
            for stream in range(3):
                os.dup2(nowhere, stream)
            status = run()
        os._exit(status)
    if writing is not None:
        os.close(writing)
    with contextlib.suppress(OSError):
        os.setpgid(child, child)
    ended = os.pidfd_open(child)
    in_time = bool(select.select([ended], [], [], limit)[0])
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.close(ended)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status if in_time else KILLED


@contextlib.contextmanager
def _entered(file: str) -> Iterator[set[str]]:
    """Collects the names of the functions of a file that are entered meanwhile, with those that they are defined in."""
    names: set[str] = set()

    def note(frame: types.FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename == file:
            parts = frame.f_code.co_qualname.replace(".<locals>", "").split(".")
            names.update(".".join(parts[: end + 1]) for end in range(len(parts)))

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield names
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def graft(module: types.ModuleType, mutant: Mutant) -> None:
    """Change `module`, and what others have imported of it, as if it had been imported with the change."""
    tree = ast.fix_missing_locations(ast.Module([mutant.statement()], []))
    changed = dict(vars(module))
    exec(compile(tree, module.__file__ or "", "exec", dont_inherit=True, flags=annotations.compiler_flag), changed)
    for name, new in changed.items():
        old = vars(module).get(name)
        if new is old:
            continue
        if isinstance(old, type):
            _graft_class(old, vars(new))
        elif isinstance(old, types.FunctionType):
            _graft_function(old, new)
        else:
            for other in [*sys.modules.values()]:
                if getattr(other, "__dict__", {}).get(name) is old:
                    setattr(other, name, new)


def _graft_class(old: type, new: Mapping[str, Any]) -> None:
    for name, was in [*vars(old).items()]:
        for a, b in zip(_functions(was), _functions(new.get(name)), strict=False):
            _graft_function(a, b)
        plain = isinstance(was, int | float | tuple | str) and not name.startswith("__")
        if plain and new.get(name) != was:
            setattr(old, name, new[name])


def _functions(attribute: Any) -> list[types.FunctionType]:
    inner = getattr(attribute, "fget", None) or getattr(attribute, "__func__", attribute)
    return [inner] if isinstance(inner, types.FunctionType) else []


def _graft_function(old: types.FunctionType, new: types.FunctionType) -> None:
    was, will = inspect.unwrap(old), inspect.unwrap(new)
    assert isinstance(was, types.FunctionType) and isinstance(will, types.FunctionType)
    was.__code__ = will.__code__
    was.__defaults__, was.__kwdefaults__ = will.__defaults__, will.__kwdefaults__
