"""Read-only: what is asked is answered, what was begun is finished, and nothing is begun, on real servers."""

from __future__ import annotations

import asyncio
import json
import pickle
import re
import secrets
import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from contract.test_journal_cuts import contents, overwrite, take_back, without
from contract.test_recovery import EAST, WEST, Pair, pair, remember, renewing
from contract.test_review_cli import stage
from contract.test_worker import Handled, made
from memory_helpers import DIMENSION, make_state, some_points, wait_for_standby
from runtime_helpers import Held, RecordingTool, claimed, clean_ledger, effects_of, sql, statuses, until, working
from synthesis import ROOT

from relight.clock import SystemClock
from relight.errors import ConfigError, ReadOnlyModeError
from relight.queue.port import Ticket
from relight.queue.queues import open_queue
from relight.recovery.gate import readiness
from relight.recovery.points import take_point
from relight.recovery.run import STATES, Run, run_state
from relight.recovery.status import State, look
from relight.tasks import worker as worker_module
from relight.tasks.database import Database
from relight.tasks.effects import Effects, EffectStatus, NotSentError
from relight.tasks.ledger import Ledger, Status
from relight.tasks.read_only import begin_read_only, end_read_only, read_only, under_way
from relight.tasks.steps import TaskRun
from relight.wiring import Region
from relight_cli.main import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from contract.test_review_cli import Stage
    from journal_helpers import Past
    from servers import StatePair

    from relight.memory.api import Memory
    from relight_drill.nats import NatsServer

__all__ = ["pair", "stage"]

pytestmark = pytest.mark.servers

WHY = "the index is being moved"


@pytest.fixture(scope="module")
def own(state_pair: StatePair) -> Iterator[Database]:
    """The primary's, of these tests alone: others must not find it read-only."""
    database = Database(make_state(state_pair, "read_only_tests").primary, confirm_timeout_s=10)
    yield database
    database.close()


@pytest.fixture
def ledger(own: Database) -> Ledger:
    return clean_ledger(own)


@contextmanager
def only_read(database: Database, *, reason: str = WHY) -> Iterator[None]:
    """The database is read-only meanwhile."""
    begin_read_only(database, reason=reason)
    try:
        yield
    finally:
        end_read_only(database)


def run_of(ledger: Ledger, id_: str) -> TaskRun:
    """A task in the hands of a worker."""
    task = claimed(ledger, id_)
    return TaskRun(ledger, task, lease=Held(), clock=SystemClock(), claimed_at=SystemClock().monotonic())


BEGINNINGS: dict[str, Callable[[Ledger], Any]] = {
    "a new task": lambda ledger: ledger.start_task({}, id_="new"),
    "a task that is there": lambda ledger: ledger.start_task({}, id_="waits"),
    "a claim": lambda ledger: ledger.claim("waits", worker="w", lease_s=60),
    "claims without a queue": lambda ledger: ledger.claim_due(5, worker="w", lease_s=60),
}


@pytest.mark.parametrize("what", BEGINNINGS)
def test_nothing_is_begun(ledger: Ledger, what: str) -> None:
    """fails when a task is started or claimed meanwhile: the error says who refuses and why, and afterwards it goes."""
    ledger.start_task({}, id_="waits")
    with only_read(ledger.database):
        with pytest.raises(ReadOnlyModeError, match=WHY) as refused:
            BEGINNINGS[what](ledger)
        assert statuses(ledger) == {"pending": 1}
    assert refused.value.retryable
    assert "relight read-only show" in str(refused.value)
    assert str(pickle.loads(pickle.dumps(refused.value))) == str(refused.value)
    assert BEGINNINGS[what](ledger)


def test_a_task_that_runs_acts_no_more(ledger: Ledger) -> None:
    """fails when the tool is called: an effect is refused before anything is sent, and certain not to have happened."""
    tool, run = RecordingTool(), run_of(ledger, "runs")
    with only_read(ledger.database):
        with pytest.raises(ReadOnlyModeError, match=WHY):
            run.effect(tool, {"to": "a"})
        assert (tool.sent, effects_of(ledger)) == ([], [])
    run.effect(tool, {"to": "a"})
    assert len(tool.acted) == 1


def test_an_effect_that_failed_is_not_sent_again(ledger: Ledger) -> None:
    """fails when a second sending is intended meanwhile."""
    tool, run = RecordingTool(), run_of(ledger, "runs")

    def refuse() -> None:
        raise NotSentError("not now")

    tool.before = refuse
    with pytest.raises(NotSentError):
        run.effect(tool, {"to": "a"})
    tool.before = lambda: None
    with only_read(ledger.database):
        with pytest.raises(ReadOnlyModeError):
            run.effect(tool, {"to": "a"})
        assert effects_of(ledger) == [("runs", EffectStatus.FAILED)]
    run.effect(tool, {"to": "a"})
    assert effects_of(ledger) == [("runs", EffectStatus.DONE)]


def test_what_was_begun_is_finished(ledger: Ledger) -> None:
    """A call that was on its way is recorded, a step is stored, a claim renewed, and the task ends."""
    tool, run = RecordingTool(), run_of(ledger, "runs")
    tool.after = lambda: (begin_read_only(ledger.database, reason=WHY), None)[1]
    try:
        assert run.effect(tool, {"to": "a"})["id"]
        assert under_way(ledger.database).tasks == 1
        assert run.run("think", lambda: 7) == 7
        ledger.extend(run.task, lease_s=60)
        run.finish("done")
    finally:
        assert end_read_only(ledger.database)
    assert effects_of(ledger) == [("runs", EffectStatus.DONE)]
    assert ledger.task("runs").status is Status.DONE
    assert under_way(ledger.database).tasks == 0


def test_operators_go_on(ledger: Ledger) -> None:
    """What waits for a person is resumed, cancelled and resolved meanwhile."""
    effects = Effects(ledger)
    for id_ in ("a", "b"):
        run = run_of(ledger, id_)
        if id_ == "b":
            effects.intend(run.task, key="f" * 64, tool="mail", request={}, final_s=0.0)
            effects.settle("f" * 64, EffectStatus.UNKNOWN, sending=1)
        ledger.park(run.task, reason="look", waits_for="f" * 64 if id_ == "b" else None)
    ledger.start_task({}, id_="c")
    with only_read(ledger.database):
        ledger.resume("a")
        effects.resolve(effects.named("ffff"), happened=True, response={}, who="me")
        ledger.cancel("c", reason="no")
    assert statuses(ledger) == {"pending": 2, "cancelled": 1}


def test_memory_is_searched_and_not_written(past: Past, memory: Memory) -> None:
    """fails when a point is remembered or forgotten meanwhile, or a search refused; operators take writes back."""
    past.write(10, "p", task="good")
    overwrite(past, ["p0"], task="bad")
    contents(past.store, past)
    [point] = some_points(1)
    with only_read(past.database):
        writes: list[Callable[[Any], None]] = [
            lambda cur: memory.upsert(cur, [point], epoch=1),
            lambda cur: memory.delete(cur, ["p0"], epoch=1),
        ]
        for write in writes:
            with pytest.raises(ReadOnlyModeError, match=WHY), past.database.transaction() as cur:
                write(cur)
        with past.database.transaction() as cur:
            assert len(memory.search(cur.connection, [1.0] * DIMENSION, k=10)) == 10
        [done] = take_back(past, without("bad"))
        assert done.restored == 1
        # That was the operator's transaction alone.
        with pytest.raises(ReadOnlyModeError), past.database.transaction() as cur:
            memory.upsert(cur, [point], epoch=1)
    past.write(1, "q")


def test_a_process_that_is_told_so_begins_nothing(own: Database, ledger: Ledger, state_pair: StatePair) -> None:
    """fails when `read_only` of the settings is forgotten on one of the connections; other processes go on."""
    ledger.start_task({}, id_="waits")
    told = Database(state_pair.primary.dsn("read_only_tests"), read_only=True, size=2)
    try:
        refused = Ledger(told, epoch=lambda: 1)
        together = threading.Barrier(2)

        def claim(number: int) -> None:
            with told.transaction() as cur:
                together.wait(20)
                cur.execute("select relight.read_only_reason()")
                found.append(cur.fetchone())

        found: list[Any] = []
        threads = [threading.Thread(target=claim, args=[number]) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [("the settings say so (read_only)",)] * 2
        with pytest.raises(ReadOnlyModeError, match="the settings say so"):
            refused.claim("waits", worker="w", lease_s=60)
        assert (refused.refuses(), ledger.refuses()) == ("the settings say so (read_only)", None)
        assert read_only(own) is None
        assert ledger.claim("waits", worker="w", lease_s=60)
    finally:
        told.close()


def test_the_switch_keeps_its_moment_and_takes_a_newer_reason(own: Database) -> None:
    """Switching on twice is one switch; a reason is one line, and there is one."""
    first = begin_read_only(own, reason="one\n two")
    second = begin_read_only(own, reason="three")
    assert (first.reason, second.reason, second.since) == ("one two", "three", first.since)
    assert (end_read_only(own), end_read_only(own)) == (True, False)
    with pytest.raises(ConfigError, match="no reason"):
        begin_read_only(own, reason=" \n\0")
    assert read_only(own) is None


def test_the_runbooks_sql_is_the_switch(own: Database, ledger: Ledger) -> None:
    """fails when the page tells an operator, on a day without this command, what the database does not understand."""
    page = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    on, off = re.findall(r"^    ((?:insert into|delete from) relight\.read_only.*);$", page, re.MULTILINE)
    with own.transaction() as cur:
        cur.execute(on)
    with pytest.raises(ReadOnlyModeError, match=WHY):
        ledger.start_task({})
    with own.transaction() as cur:
        cur.execute(off)
    assert ledger.start_task({})


def test_the_standby_knows_it(own: Database, state_pair: StatePair) -> None:
    """fails when a relit region would begin what an operator had stopped: the switch is in the replica."""
    standby = Database(state_pair.standby.dsn("read_only_tests"))
    try:
        with only_read(own):
            wait_for_standby(state_pair)
            found = read_only(standby)
            assert found is not None
            assert found.reason == WHY
    finally:
        standby.close()


# -- workers


@pytest.fixture
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "_LOOK_AFTER_S", 0.1)
    monkeypatch.setattr(worker_module, "_RECONNECT_S", 0.1)


@pytest.mark.usefixtures("_hurried")
def test_a_worker_waits(ledger: Ledger, nats_server: NatsServer) -> None:
    """fails when a message is handed out in vain time and again, or a task is not done once writes are taken."""
    environment, handled = f"ro{secrets.token_hex(4)}", Handled()

    async def messages() -> list[int]:
        async with open_queue(nats_server.url(), environment=environment) as queue:
            await queue.ensure()
            found = await queue.fetch(10, timeout_s=5.0)
            for item in found:
                await item.nak(0.0)
            return [item.deliveries for item in found]

    async def scenario() -> list[int]:
        for number in range(5):
            ledger.start_task({}, id_=f"t{number}")
        worker = made(ledger, nats_server, environment, handled)
        with only_read(ledger.database):
            # The messages are there before the worker, as after a replay.
            async with open_queue(nats_server.url(), environment=environment) as queue:
                await queue.ensure()
                for number in range(5):
                    await queue.publish([Ticket(task_id=f"t{number}", epoch=1)])
            async with working(worker):
                await until(lambda: worker._is_read_only, "the worker to know")
                seen = await messages()
            assert statuses(ledger) == {"pending": 5}
        async with working(made(ledger, nats_server, environment, handled)):
            await until(lambda: statuses(ledger) == {"done": 5}, "all to be done")
        return seen

    assert asyncio.run(scenario()) == [1] * 5
    assert set(handled.lives.values()) == {1}


@pytest.mark.usefixtures("_hurried")
def test_a_task_that_meets_it_half_way_goes_on_later(ledger: Ledger, nats_server: NatsServer) -> None:
    """fails when the task is parked, its attempt counted, its step done again, or its effect carried out meanwhile."""
    tool, steps = RecordingTool(), []

    def work(run: TaskRun) -> None:
        run.run("think", lambda: steps.append(1))
        if len(steps) == 1 and not tool.sent and read_only(ledger.database) is None and not met:
            met.append(begin_read_only(ledger.database, reason=WHY))
        run.effect(tool, {"to": "a"})

    met: list[Any] = []

    async def scenario() -> None:
        ledger.start_task({}, id_="half")
        worker = made(ledger, nats_server, f"ro{secrets.token_hex(4)}", work)
        async with working(worker):
            await until(lambda: met and statuses(ledger) == {"pending": 1}, "the task to be given back")
            assert (ledger.task("half").attempts, tool.sent) == (0, [])
            assert "ReadOnlyModeError" in (ledger.task("half").error or "")
            end_read_only(ledger.database)
            await until(lambda: statuses(ledger) == {"done": 1}, "the task to be done")

    try:
        asyncio.run(scenario())
    finally:
        end_read_only(ledger.database)
    assert (len(tool.acted), steps) == (1, [1])


# -- the region


def test_points_gate_and_recovery_go_on(pair: Pair) -> None:
    """fails when a region that changes nothing cannot be saved: the relit one is ready, whole, and read-only too."""
    ledger = Ledger(pair.east.database, epoch=lambda: 1)
    remember(pair.east, "a", "b")
    ledger.start_task({}, id_="t")
    begin_read_only(pair.east.database, reason=WHY)
    assert take_point(pair.east)["points"] == 2
    pair.state.primary.kill()
    run, keeper = Run(run_id="epoch-2-test", decided_at="2026-04-19T02:00:00+00:00"), pair.west.lease_keeper()
    with renewing(keeper):
        for name in STATES:
            run_state(name, pair.west, run)
        answer = readiness(
            region="us-west-2",
            lease=keeper,
            epochs=pair.west.epochs,
            memory=pair.west.store,
            edges=pair.west.edges,
            collections=["memory"],
        )
        lines = {line.name: line for line in look(pair.east, pair.west, ask_standby=lambda: {"providers": []})}
    assert (answer.works, answer.epoch) == (True, 2)
    relit = Ledger(pair.west.database, epoch=lambda: 2)
    with pytest.raises(ReadOnlyModeError, match=WHY):
        relit.claim("t", worker="w", lease_s=60)
    assert lines["writes"].state is State.LOOK
    assert WHY in lines["writes"].found
    end_read_only(pair.west.database)
    assert relit.claim("t", worker="w", lease_s=60)


def test_the_settings_reach_the_database(pair: Pair) -> None:
    """fails when a region's ledger begins something though its environment says read_only."""
    with Region(replace(EAST, read_only=True)) as told:
        with pytest.raises(ReadOnlyModeError, match="settings"):
            told.ledger(lambda: 1).start_task({})
        lines = {line.name: line for line in look(told, Region(WEST), ask_standby=lambda: {"providers": []})}
    assert lines["writes"].data == {"read_only": True}


# -- relight read-only


def test_an_operator_switches_it(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """On, shown with what goes on, and off again, each with a plan; a refused worker needs no restart."""

    def said() -> Any:
        return json.loads(capsys.readouterr().out)

    stage.claim("runs")
    stage.ledger.start_task({}, id_="waits")
    assert main(["read-only", "on", "--reason", WHY, "--dry-run"]) == 0
    assert stage.ledger.refuses() is None
    assert f"nothing is begun: {WHY}" in capsys.readouterr().err
    assert main(["read-only", "on", "--reason", WHY, "--yes", "--json"]) == 0
    found = said()
    assert (found["read_only"], found["reason"], found["tasks"], found["effects"]) == (True, WHY, 1, 0)
    with pytest.raises(ReadOnlyModeError, match=WHY):
        stage.claim("another")
    assert main(["read-only", "show"]) == 0
    shown = capsys.readouterr().out
    assert WHY in shown
    assert "1 tasks in the hands of workers, 0 effects on their way" in shown
    assert main(["read-only", "off", "--yes", "--json"]) == 0
    assert said()["ended"] is True
    assert main(["read-only", "show", "--json"]) == 0
    assert said() == {
        "read_only": False,
        "since": None,
        "reason": None,
        "by_environment": False,
        "tasks": 1,
        "effects": 0,
    }
    assert stage.claim("another")


def test_what_the_environment_says_is_shown(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """fails when `off` lets somebody believe that an environment with read_only = true takes writes again."""
    assert stage.ledger.refuses() is None
    monkeypatch.setenv("RELIGHT_READ_ONLY", "true")
    assert main(["read-only", "off", "--yes"]) == 0
    assert "until it is deployed anew" in capsys.readouterr().err
    assert main(["read-only", "show"]) == 0
    assert "the environment says read_only = true" in capsys.readouterr().out


def test_a_reason_is_needed(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """fails when callers are refused and nobody knows why."""
    assert main(["read-only", "on", "--reason", " ", "--yes"]) == 2
    assert "no reason is given" in capsys.readouterr().err
    assert sql(stage.database, "select * from relight.read_only") == []
