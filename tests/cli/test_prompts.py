"""What Ctrl-C, Ctrl-D and a terminal that is lost do, at a question and after it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
import redis
import typer

from breaker import CircuitBreaker
from breaker.uuid7 import uuid7
from cli.prompts import Unanswered, agreed
from proofs.fork_server import ForkServer
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from tasks.recovery.state import RecoveryState, state_key
from tests.cli.conftest import ROOT, RunCli, WriteConfiguration
from tests.cli.terminal import CTRL_C, CTRL_D, Terminal
from tests.cli.test_audit_commands import rows
from tests.cli.test_circuit_commands import GOOD_REASON, state_of
from tests.cli.test_kill_command import HALTED, PACE, account
from tests.helpers import eventually

Open = Callable[..., Terminal]


@pytest.fixture
def on_terminal(fork_server: ForkServer, environment: dict[str, str]) -> Iterator[Open]:
    opened: list[Terminal] = []

    def start(*arguments: str) -> Terminal:
        opened.append(Terminal(fork_server, environment, *arguments))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.close()


@pytest.fixture
def killing(
    configured: redis.Redis,
    redis_server: EmbeddedRedis,
    exchange: PaperExchangeThread,
    write_configuration: WriteConfiguration,
    on_terminal: Open,
) -> Terminal:
    """A kill that asks, on a book that takes some seconds."""
    write_configuration(f'redis_url = "{redis_server.url}"\n[kill]\nguard = 1.0\n{account(exchange.url)}')
    kill = on_terminal("kill", "--reason", "drill")
    kill.wait_for("Type FLATTEN")
    return kill


@pytest.mark.parametrize("key", [CTRL_C, CTRL_D])
def test_a_kill_that_is_left_at_its_question_is_declined(
    killing: Terminal, configured: redis.Redis, exchange: PaperExchangeThread, breaker_cli: RunCli, key: bytes
) -> None:
    killing.press(key)
    assert killing.ended() == 3
    assert "halted, but nothing was cancelled or flattened; to go on later: " in killing.seen
    assert "Aborted" not in killing.seen and "Traceback" not in killing.seen
    assert state_of(configured) == "TRIPPED" and exchange.report()["open_orders"] == 40
    (end,) = rows(breaker_cli, "--action", "KILL_SWITCH_FINISHED")
    assert "'declined': True" in str(end["details"])


def test_a_terminal_that_is_lost_at_the_question_declines(
    killing: Terminal, exchange: PaperExchangeThread, breaker_cli: RunCli
) -> None:
    killing.hang_up()
    assert killing.process.wait(40) == 3
    assert exchange.report()["open_orders"] == 40
    (end,) = rows(breaker_cli, "--action", "KILL_SWITCH_FINISHED")
    assert "'declined': True" in str(end["details"])


def test_a_kill_whose_terminal_is_lost_goes_on_to_flat(killing: Terminal, exchange: PaperExchangeThread) -> None:
    killing.type("FLATTEN")
    killing.wait_for("FIRST SWEEP")
    killing.hang_up()
    assert not exchange.report()["is_flat"]
    assert killing.process.wait(60) == 0
    assert exchange.report()["is_flat"]


def test_a_pipe_that_is_closed_takes_nothing_more_and_ends_nothing() -> None:
    code = (
        "import sys; from cli.lost_terminal import outliving_terminal\n"
        "with outliving_terminal():\n"
        "    sys.stdin.read()\n"
        "    for _ in range(3): print('progress', flush=True)\n"
        "    print('what is left in the buffer')\n"
        "sys.exit(7)"
    )
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    assert process.stdin and process.stdout and process.stderr
    process.stdout.close()
    process.stdin.close()
    assert (process.wait(30), process.stderr.read()) == (7, b"")
    process.stderr.close()


def test_a_kill_that_is_interrupted_says_what_was_open_and_is_on_record(
    killing: Terminal, exchange: PaperExchangeThread, breaker_cli: RunCli
) -> None:
    killing.type("FLATTEN")
    killing.wait_for("FIRST SWEEP")
    killing.press(CTRL_C)
    assert killing.ended() == 3
    assert not exchange.report()["is_flat"]
    said = killing.seen[killing.seen.index("✗ INTERRUPTED") :].strip()
    assert "  halted; open at the last reading: ALPHA 40 orders and " in said and "\n" not in said, said
    assert "to go on, which is safe: `" in said and said.endswith("breaker kill`")
    (end,) = rows(breaker_cli, "--action", "KILL_SWITCH_FINISHED")
    assert "'interrupted': True" in str(end["details"])


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


def test_a_resumption_that_is_interrupted_says_what_stays_pending(
    configured: redis.Redis,
    redis_server: EmbeddedRedis,
    write_configuration: WriteConfiguration,
    breaker_cli: RunCli,
    on_terminal: Open,
) -> None:
    with PaperExchangeThread(parse(HALTED)) as venue:
        write_configuration(f'redis_url = "{redis_server.url}"\n{PACE}{account(venue.url)}')
        assert breaker_cli("kill", "--yes").returncode == 3
        write_configuration(f'redis_url = "{redis_server.url}"\n[kill]\nstuck_after = 60\n{account(venue.url)}')
        resume = on_terminal("kill", "--resume")
        eventually(lambda: rows(breaker_cli, "--action", "KILL_SWITCH_RESUMED"))
        resume.press(CTRL_C)
        assert resume.ended() == 3
    said = resume.seen[resume.seen.index("interrupted while resuming ") :].strip()
    assert said.startswith("interrupted while resuming ALPHA MSFT -5: what was sent to the venue stands"), said
    assert "It stays pending; tried again until flat by" in said and said.endswith("breaker kill --resume`")
    assert "\n" not in said and "Aborted" not in resume.seen and "Traceback" not in resume.seen
    breaker_cli("audit", "drain")  # a ledger that was slow had not taken it before the command left
    newest, *_ = rows(breaker_cli, "--action", "KILL_SWITCH_FINISHED")
    assert "'interrupted': True" in str(newest["details"])


def test_a_recovery_that_is_no_longer_followed_goes_on(
    configured: redis.Redis, breaker_cli: RunCli, on_terminal: Open
) -> None:
    with closing(CircuitBreaker(configured)) as breaker:
        breaker.initialize_state()
        incident = breaker.trip("MANUAL").incident_id or uuid7()
    configured.set(state_key("global"), RecoveryState(incident, "global", "a run").to_json())
    watch = on_terminal("recover", "--watch")
    watch.wait_for("Identify Root Cause")
    watch.press(CTRL_C)
    assert watch.ended() == 1
    said = watch.seen[watch.seen.index("breaker: ") :].strip()
    assert said.startswith(
        f"breaker: not followed here any more: the recovery of incident {incident} goes on by itself"
    )
    assert "global is TRIPPED; nothing changed. To follow it again: " in said and said.count("\n") == 0, said
    assert "Aborted" not in watch.seen


@pytest.mark.usefixtures("no_orchestrator")
def test_a_watch_that_is_left_says_that_the_reset_stands(
    configured: redis.Redis, breaker_cli: RunCli, environment: dict[str, str], on_terminal: Open
) -> None:
    environment["BREAKER_RECOVERY__WATCH"] = "60"
    breaker_cli("init")
    breaker_cli("trip")
    reset = on_terminal("reset", "--reason", GOOD_REASON, "--acknowledge")
    reset.wait_for("watched here for 60 s; leaving (Ctrl-C) ends the watch, not the reset")
    reset.press(CTRL_C)
    assert reset.ended() == 0
    said = reset.seen[reset.seen.index("not watched here any more") :].strip()
    assert "the reset of global stands, and its quiet period goes on" in said and "\n" not in said, said
    assert "Aborted" not in reset.seen and "Traceback" not in reset.seen
    assert state_of(configured) == "QUIET_PERIOD"


def test_a_yes_or_no_that_is_left_is_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(_: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"{typer.confirm.__module__}.visible_prompt_func", leave)
    with pytest.raises(Unanswered, match="nothing changed"):
        agreed("Begin anew?")
