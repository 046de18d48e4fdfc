"""The ledger on a real primary with a real standby."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from fakes import FakeClock
from servers import StatePair, start_pair

from relight.errors import (
    ConflictError,
    LeaseLostError,
    NotFoundError,
    StaleEpochError,
    UnavailableError,
    UnconfirmedError,
)
from relight.recovery.replica import PhysicalReplica
from relight.tasks.database import Database
from relight.tasks.effects import Answer, UnknownEffectError, effect_key, perform
from relight.tasks.epochs import EpochLog
from relight.tasks.ledger import Ledger, Task
from relight.tasks.migrate import migrate
from relight.tasks.steps import TaskRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from relight_drill.processes import ProcessGroup

pytestmark = pytest.mark.servers


class Held:
    """A lease that is held until it is told otherwise."""

    def __init__(self, epoch: int = 1) -> None:
        self.epoch = epoch
        self.lost = False

    def check(self, for_s: float = 0.0) -> None:
        if self.lost:
            raise LeaseLostError("lost")


class Outbox:
    """A tool that can lose its answer after it has acted, and may or may not be able to tell afterwards."""

    name = "outbox"
    timeout_s = 1.0

    def __init__(self, *, can_tell: bool = True) -> None:
        self.sent: list[dict[str, Any]] = []
        self.can_tell = can_tell
        self.break_before = False
        self.break_after = False

    def send(self, request: dict[str, Any], *, key: str) -> Any:
        if self.break_before:
            raise UnavailableError("connection refused")
        self.sent.append(request)
        if self.break_after:
            raise UnavailableError("no answer")
        return {"key": key}

    def find(self, request: dict[str, Any], *, key: str) -> Any | Answer:
        if not self.can_tell:
            return Answer.CANNOT_TELL
        return {"key": key} if request in self.sent else Answer.NOT_SENT


@pytest.fixture(scope="module")
def database(state_pair: StatePair) -> Iterator[Database]:
    database = Database(state_pair.primary.dsn(), confirm_timeout_s=10)
    migrate(database)
    EpochLog(database).take(1, region="us-east-1", run_id="first")
    yield database
    database.close()


@pytest.fixture
def ledger(database: Database) -> Ledger:
    newest = EpochLog(database).newest()
    assert newest is not None
    return Ledger(database, epoch=lambda: newest.number)


@pytest.fixture
def task(ledger: Ledger) -> Task:
    name = f"task-{uuid.uuid4().hex[:8]}"
    ledger.start_task(name, {"topic": "json"})
    claimed = ledger.claim(name, worker="w", lease_s=30)
    assert claimed is not None
    return claimed


def test_a_task_is_started_once(ledger: Ledger) -> None:
    """The task's id is its idempotency key; another payload under it is a conflict."""
    first = ledger.start_task("once", {"topic": "json"})
    assert ledger.start_task("once", {"topic": "json"}) == first
    assert ledger.start_task("tuple", {"topic": ("json", "xml")}).payload == {"topic": ["json", "xml"]}
    with pytest.raises(ConflictError, match="another payload"):
        ledger.start_task("once", {"topic": "xml"})
    with pytest.raises(NotFoundError, match="'never'"):
        ledger.task("never")


def test_a_task_is_claimed_by_one(ledger: Ledger) -> None:
    """Eight workers that want a task at once get it once."""
    ledger.start_task("wanted", {})
    claims: list[Task | None] = []
    threads = [
        threading.Thread(target=lambda: claims.append(ledger.claim("wanted", worker="w", lease_s=30))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([claim for claim in claims if claim is not None]) == 1


def test_a_zombie_is_refused(ledger: Ledger, task: Task) -> None:
    """A worker whose claim ran out and went to another can record nothing."""
    with ledger.database.transaction() as cur:
        cur.execute("update relight.tasks set lease_until = now() - interval '1 s' where id = %s", [task.id])
    second = ledger.claim(task.id, worker="w2", lease_s=30)
    assert second is not None
    writes: list[Callable[[], None]] = [
        lambda: ledger.extend(task, lease_s=30),
        lambda: ledger.record_step(task, key="a", name="a", result=1),
        lambda: ledger.intend(task, key=uuid.uuid4().hex, tool="t", request={}),
        lambda: ledger.finish(task, 1),
        lambda: ledger.release(task, error="x", failed=False),
    ]
    for write in writes:
        with pytest.raises(LeaseLostError, match="no longer claimed"):
            write()
    ledger.finish(second, 2)
    assert ledger.task(task.id).result == 2


def test_a_step_runs_once(ledger: Ledger, task: Task) -> None:
    """A step that is done gives back its stored result, in this life and in the next."""
    counter = itertools.count(1)
    run = TaskRun(ledger, task, lease=Held(), claim_s=30, clock=FakeClock())
    assert run.step("think", lambda: next(counter)) == 1
    assert run.step("think", lambda: next(counter)) == 1
    assert run.step("think", lambda: next(counter), key="think again") == 2


def test_a_step_and_its_memory_are_one(ledger: Ledger, task: Task) -> None:
    """What a step remembers is committed with its result or not at all."""

    def remember_and_fail(cur: Any, _: Any) -> None:
        cur.execute("create table remembered (x int)")
        raise UnavailableError("memory is away")

    run = TaskRun(ledger, task, lease=Held(), claim_s=30, clock=FakeClock())
    with pytest.raises(UnavailableError):
        run.step("learn", lambda: 1, remember=remember_and_fail)
    assert ledger.step_result(task, "learn") == (False, None)
    with ledger.database.transaction() as cur:
        cur.execute("select to_regclass('remembered')")
        assert cur.fetchone() == (None,)


def test_an_effect_happens_once(ledger: Ledger, task: Task) -> None:
    """An effect that is done is not done again, whoever asks."""
    outbox = Outbox()
    request = {"to": "a", "task": task.id}
    first = perform(ledger, task, outbox, request, lease=Held())
    assert perform(ledger, task, outbox, request, lease=Held()) == first
    assert len(outbox.sent) == 1


def test_an_effect_whose_answer_was_lost_is_asked_for(ledger: Ledger, task: Task) -> None:
    """After a call whose outcome is not known the tool is asked, and the effect is not repeated."""
    outbox = Outbox()
    outbox.break_after = True
    request = {"to": "b", "task": task.id}
    with pytest.raises(UnavailableError):
        perform(ledger, task, outbox, request, lease=Held())
    outbox.break_after = False
    key = effect_key("outbox", request)
    assert perform(ledger, task, outbox, request, lease=Held()) == {"key": key}
    assert len(outbox.sent) == 1
    effect = ledger.effect(key)
    assert effect is not None
    assert effect.status == "done"


def test_an_effect_that_never_left_is_sent(ledger: Ledger, task: Task) -> None:
    """An intent whose tool says that it was not sent is carried out."""
    outbox = Outbox()
    outbox.break_before = True
    request = {"to": "c", "task": task.id}
    with pytest.raises(UnavailableError):
        perform(ledger, task, outbox, request, lease=Held())
    outbox.break_before = False
    perform(ledger, task, outbox, request, lease=Held())
    assert len(outbox.sent) == 1


def test_an_unknown_effect_waits(ledger: Ledger, task: Task) -> None:
    """An effect of which nobody can tell is marked unknown and never retried blindly."""
    outbox = Outbox(can_tell=False)
    outbox.break_after = True
    request = {"to": "d", "task": task.id}
    with pytest.raises(UnavailableError):
        perform(ledger, task, outbox, request, lease=Held())
    for _ in range(2):
        with pytest.raises(UnknownEffectError, match="may or may not"):
            perform(ledger, task, outbox, request, lease=Held())
    assert len(outbox.sent) == 1
    effect = ledger.effect(effect_key("outbox", request))
    assert effect is not None
    assert effect.status == "unknown"


def test_no_effect_without_a_lease(ledger: Ledger, task: Task) -> None:
    """A region whose lease ran out after the intent sends nothing."""
    outbox, held = Outbox(), Held()
    held.lost = True
    with pytest.raises(LeaseLostError):
        perform(ledger, task, outbox, {"to": "e", "task": task.id}, lease=held)
    assert outbox.sent == []


def test_no_effect_without_a_claim(ledger: Ledger, task: Task) -> None:
    """A worker that was held up until its claim ran out sends nothing, though the database has not noticed."""
    clock, outbox = FakeClock(), Outbox()
    run = TaskRun(ledger, task, lease=Held(), claim_s=30, clock=clock)
    intend = ledger.intend

    def held_up(*args: Any, **kwargs: Any) -> None:
        intend(*args, **kwargs)
        clock.sleep(29.5)

    ledger.intend = held_up  # type: ignore[method-assign]
    with pytest.raises(LeaseLostError, match="the claim on task"):
        run.effect(outbox, {"to": "f", "task": task.id})
    assert outbox.sent == []


def test_a_wait_that_somebody_else_ended_is_no_confirmation(state_pair: StatePair, database: Database) -> None:
    """fails when an operator cancels the wait for the standby: the commit succeeds, and is not acknowledged."""
    state_pair.standby.process.freeze()
    canceller = Database(state_pair.primary.dsn())

    def cancel_waiting() -> None:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            with canceller.transaction() as cur:
                cur.execute("select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'")
                if cur.rowcount:
                    return

    thread = threading.Thread(target=cancel_waiting)
    try:
        thread.start()
        with pytest.raises(UnconfirmedError), database.transaction(confirmed=True) as cur:
            cur.execute("create table if not exists cancelled (x int)")
    finally:
        thread.join()
        state_pair.standby.process.thaw()
        canceller.close()


def test_a_silent_server_is_given_up(state_pair: StatePair) -> None:
    """fails when the server accepts and then says nothing: the wait for it is bounded."""
    hasty = Database(state_pair.primary.dsn())
    with hasty.transaction() as cur:
        cur.execute("select 1")
    with pytest.raises(UnavailableError, match="said nothing"), hasty.transaction(within_s=0.5) as cur:
        cur.execute("select pg_sleep(20)")
    hasty.close()


def test_the_key_is_what_the_action_is() -> None:
    """The order of a request's fields does not change the key; its content does."""
    assert effect_key("t", {"a": 1, "b": "ü"}) == effect_key("t", {"b": "ü", "a": 1})
    assert effect_key("t", {"a": 1}) != effect_key("t", {"a": 2})
    assert effect_key("t", {"a": 1}) != effect_key("u", {"a": 1})


def test_two_may_migrate_at_once(state_pair: StatePair) -> None:
    """Migrations that run at the same time are applied once."""
    applied: list[list[str]] = []
    with_database = Database(state_pair.primary.dsn("postgres"))
    threads = [threading.Thread(target=lambda: applied.append(migrate(with_database))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with_database.close()
    assert sorted(map(bool, applied)) == [False, True]


def test_an_unconfirmed_commit_is_not_acknowledged(state_pair: StatePair, database: Database, ledger: Ledger) -> None:
    """fails when the standby is silent: the wait is bounded, nothing is acknowledged, and the retry is."""
    impatient = Database(state_pair.primary.dsn(), confirm_timeout_s=0.5)
    newest = EpochLog(database).newest()
    assert newest is not None
    hasty = Ledger(impatient, epoch=lambda: newest.number)
    state_pair.standby.process.freeze()
    try:
        with pytest.raises(UnconfirmedError, match="not acknowledged"):
            hasty.start_task("unconfirmed", {"n": 1})
        with pytest.raises(UnconfirmedError):
            hasty.start_task("unconfirmed", {"n": 1})
    finally:
        state_pair.standby.process.thaw()
    assert ledger.start_task("unconfirmed", {"n": 1}).status == "pending"
    impatient.close()


def test_promotion(server_group: ProcessGroup, server_dir: Path) -> None:
    """A promoted replica accepts the next epoch and refuses the old one; nothing acknowledged is missing."""
    pair = asyncio.run(start_pair(server_group, server_dir / "promotion"))
    before = Database(pair.primary.dsn())
    migrate(before)
    EpochLog(before).take(1, region="us-east-1", run_id="first")
    old = Ledger(before, epoch=lambda: 1)
    for number in range(50):
        old.start_task(f"t{number:02}", {"n": number})
    assert old.claim("t00", worker="w", lease_s=300) is not None
    pair.primary.kill()

    replica = PhysicalReplica(pair.standby.dsn())
    assert not replica.position().promoted
    assert replica.promote()
    assert not replica.promote()
    assert replica.position().promoted

    after = Database(pair.standby.dsn())
    epochs = EpochLog(after)
    epochs.take(2, region="us-west-2", run_id="r")
    epochs.take(2, region="us-west-2", run_id="r")
    with pytest.raises(ConflictError, match="too late"):
        epochs.take(1, region="us-east-1", run_id="first")
    with pytest.raises(StaleEpochError, match="epoch 1 wrote to tasks"):
        Ledger(after, epoch=lambda: 1).start_task("stale", {})
    new = Ledger(after, epoch=lambda: 2)
    assert [item.id for item in new.unfinished()] == [f"t{number:02}" for number in range(50)]
    assert new.claim("t00", worker="w2", lease_s=30) is not None
    new.start_task("after", {})
    before.close()
    after.close()
    asyncio.run(pair.standby.stop(immediate=True))
