"""What a question does when it is left with Ctrl-C or Ctrl-D."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
import redis
import typer

from breaker import CircuitBreaker
from breaker.uuid7 import uuid7
from cli.prompts import Unanswered, agreed
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.server import PaperExchangeThread
from tasks.recovery.state import RecoveryState, state_key
from tests.cli.conftest import RunCli, WriteConfiguration
from tests.cli.terminal import CTRL_C, CTRL_D, Terminal
from tests.cli.test_audit_commands import rows
from tests.cli.test_circuit_commands import GOOD_REASON, state_of
from tests.cli.test_kill_command import account

Open = Callable[..., Terminal]


@pytest.fixture
def on_terminal(environment: dict[str, str]) -> Iterator[Open]:
    opened: list[Terminal] = []

    def start(*arguments: str) -> Terminal:
        opened.append(Terminal(environment, *arguments))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.close()


@pytest.mark.parametrize("key", [CTRL_C, CTRL_D])
def test_a_kill_that_is_left_at_its_question_is_declined(
    configured: redis.Redis,
    redis_server: EmbeddedRedis,
    exchange: PaperExchangeThread,
    write_configuration: WriteConfiguration,
    breaker_cli: RunCli,
    on_terminal: Open,
    key: bytes,
) -> None:
    write_configuration(f'redis_url = "{redis_server.url}"\n{account(exchange.url)}')
    kill = on_terminal("kill", "--reason", "drill")
    kill.wait_for("Type FLATTEN")
    kill.press(key)
    assert kill.ended() == 3
    assert "halted, but nothing was cancelled or flattened; to go on later: " in kill.seen
    assert "Aborted" not in kill.seen and "Traceback" not in kill.seen
    assert state_of(configured) == "TRIPPED" and exchange.report()["open_orders"] == 40
    (end,) = rows(breaker_cli, "--action", "KILL_SWITCH_FINISHED")
    assert "'declined': True" in str(end["details"])


@pytest.mark.usefixtures("no_orchestrator")
def test_a_reset_that_is_left_at_its_question_changes_nothing(
    configured: redis.Redis, breaker_cli: RunCli, on_terminal: Open
) -> None:
    breaker_cli("init")
    breaker_cli("trip")
    for key in (CTRL_C, CTRL_D):
        reset = on_terminal("reset", "--reason", GOOD_REASON)
        reset.wait_for("Type RESET")
        reset.press(key)
        assert reset.ended() == 1
        assert reset.seen.count("nothing changed") == 1 and "Aborted" not in reset.seen, reset.seen
    assert state_of(configured) == "TRIPPED"


@pytest.mark.usefixtures("no_orchestrator")
def test_an_answer_that_is_left_at_its_question_changes_nothing(configured: redis.Redis, on_terminal: Open) -> None:
    with closing(CircuitBreaker(configured)) as breaker:
        breaker.initialize_state()
        incident = breaker.trip("MANUAL").incident_id or uuid7()
    waiting = RecoveryState(incident, "global", "a run", waiting_for="root-cause").to_json()
    configured.set(state_key("global"), waiting)
    for key in (CTRL_C, CTRL_D):
        answer = on_terminal("recover", "answer")
        answer.wait_for("Root cause: what happened")
        answer.press(key)
        assert answer.ended() == 1
        assert answer.seen.count("not answered; nothing changed") == 1 and "Aborted" not in answer.seen, answer.seen
    assert configured.get(state_key("global")) == waiting.encode()


def test_a_yes_or_no_that_is_left_is_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(_: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"{typer.confirm.__module__}.visible_prompt_func", leave)
    with pytest.raises(Unanswered, match="nothing changed"):
        agreed("Begin anew?")
