"""The ledger of tasks on a real primary with a real standby."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ConnectionClosedError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory_helpers import make_state
from runtime_helpers import as_json, books, claimed, clean_ledger, empty, reclaimed, sql, statuses, together
from servers import StatePair, start_pair

from relight.errors import (
    ConflictError,
    IntegrityError,
    LeaseLostError,
    NotFoundError,
    PermanentError,
    StaleEpochError,
    UnavailableError,
    UnconfirmedError,
)
from relight.recovery.replica import PhysicalReplica
from relight.tasks import ledger as ledger_module
from relight.tasks.database import Database
from relight.tasks.effects import Effects, EffectStatus
from relight.tasks.epochs import EpochLog
from relight.tasks.ledger import MAX_ATTEMPTS, Kind, Ledger, Status, Task
from relight.tasks.migrate import migrate
from relight.tasks.results import INLINE_BYTES, PREFIX, UnstorableError, VaultResults
from relight.vault.store import Vault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from relight_drill.processes import ProcessGroup

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def database(state_pair: StatePair) -> Iterator[Database]:
    database = Database(make_state(state_pair, "ledger_tests").primary, confirm_timeout_s=10)
    yield database
    database.close()


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return clean_ledger(database)


@pytest.fixture
def task(ledger: Ledger) -> Task:
    return claimed(ledger, "a task", {"topic": "json"})


def due(ledger: Ledger, id_: str) -> None:
    """Let the moment come."""
    sql(ledger.database, "update relight.tasks set due_at = now() where id = %s", [id_])


class TestStarting:
    """What `start_task` promises."""

    def test_a_task_is_started_once(self, ledger: Ledger) -> None:
        """The task's id is its idempotency key; another payload under it is a conflict."""
        first = ledger.start_task({"topic": "json"}, id_="once")
        assert ledger.start_task({"topic": "json"}, id_="once") == first
        assert (first.status, first.attempts, first.queued) == (Status.PENDING, 0, False)
        assert ledger.start_task({"topic": ("json", "xml")}, id_="tuple").payload == {"topic": ["json", "xml"]}
        assert ledger.start_task({"topic": ["json", "xml"]}, id_="tuple").id == "tuple"
        with pytest.raises(ConflictError, match="another payload"):
            ledger.start_task({"topic": "xml"}, id_="once")
        assert ledger.task("once").payload == {"topic": "json"}
        with pytest.raises(NotFoundError, match="'never'"):
            ledger.task("never")

    def test_the_order_of_keys_is_no_other_payload(self, ledger: Ledger) -> None:
        """A caller that builds the same payload in another order is told that it is the same task."""
        ledger.start_task({"a": 1, "b": {"c": 2, "d": 3}}, id_="order")
        ledger.start_task({"b": {"d": 3, "c": 2}, "a": 1}, id_="order")
        for other in ({"a": 1.0, "b": {"c": 2, "d": 3}}, {"a": True, "b": {"c": 2, "d": 3}}):
            with pytest.raises(ConflictError):
                ledger.start_task(other, id_="order")

    def test_starting_a_task_again_leaves_its_work_alone(self, ledger: Ledger) -> None:
        """A caller that repeats its call gets the task as it is: running, done, or parked."""
        running = claimed(ledger, "again", 1)
        assert ledger.start_task(1, id_="again").status is Status.RUNNING
        ledger.extend(running, lease_s=10)
        ledger.finish(running, "the result")
        again = ledger.start_task(1, id_="again")
        assert (again.status, again.result) == (Status.DONE, "the result")

    def test_eight_callers_start_one_task(self, ledger: Ledger) -> None:
        """Callers that start the same task at once get the same one."""
        found = together(*[lambda: ledger.start_task({"n": 1}, id_="eight")] * 8)
        assert [item.id for item in found] == ["eight"] * 8
        assert statuses(ledger) == {"pending": 1}

    def test_ids_are_made_up(self, ledger: Ledger) -> None:
        """Without an id every call is a task of its own."""
        ids = {ledger.start_task({"n": 1}).id for _ in range(20)}
        assert len(ids) == 20
        assert all(ledger.task(id_).payload == {"n": 1} for id_ in ids)

    @pytest.mark.parametrize("id_", ["a\0b", "\ud800", "x" * 513, "ü" * 257], ids=["nul", "surrogate", "long", "bytes"])
    def test_odd_ids_are_refused(self, ledger: Ledger, id_: str) -> None:
        """fails when an id cannot be stored: it is refused with a clear error, by every call that takes one."""
        calls: list[Callable[[], object]] = [
            lambda: ledger.start_task(1, id_=id_),
            lambda: ledger.task(id_),
            lambda: ledger.claim(id_, worker="w", lease_s=1),
            lambda: ledger.give_up_message(id_, reason="r"),
            lambda: ledger.resume(id_),
            lambda: ledger.cancel(id_, reason="r"),
        ]
        for call in calls:
            with pytest.raises(PermanentError, match="cannot be an id") as caught:
                call()
            assert len(str(caught.value)) < 400
        assert statuses(ledger) == {}

    @pytest.mark.parametrize(
        "id_", [" ", "a b", "x" * 512, "ü" * 256, "🦉/%s'\";--\\\n\t", "{}", "%(id)s", "..", "*.>"], ids=repr
    )
    def test_ids_are_any_text(self, ledger: Ledger, id_: str) -> None:
        """Whatever can be stored is an id, and comes back as it was given."""
        task = claimed(ledger, id_, id_)
        assert (task.id, task.payload) == (id_, id_)
        ledger.finish(task, id_)
        assert ledger.task(id_).result == id_

    def test_what_is_not_due_waits(self, ledger: Ledger) -> None:
        """A task with a later due time is neither claimed nor published before it."""
        later = datetime.now(UTC) + timedelta(days=1)
        task = ledger.start_task(1, id_="later", due_at=later, kind=Kind.TIMER)
        assert (task.due_at, task.kind) == (later, Kind.TIMER)
        assert ledger.claim("later", worker="w", lease_s=30) is None
        assert ledger.claim_due(10, worker="w", lease_s=30) == []
        published: list[tuple[str, int]] = []
        assert ledger.publish_outbox(published.extend, incarnation="q", limit=10) == 0
        due(ledger, "later")
        assert ledger.publish_outbox(published.extend, incarnation="q", limit=10) == 1
        assert ledger.claim("later", worker="w", lease_s=30) is not None

    def test_a_due_time_names_its_offset(self, ledger: Ledger) -> None:
        """fails when a due time has no offset: whose clock it is of would be a guess."""
        with pytest.raises(PermanentError, match="offset"):
            ledger.start_task(1, id_="naive", due_at=datetime(2026, 4, 19, 2, 0))

    def test_an_unconfirmed_commit_is_not_acknowledged(self, state_pair: StatePair, ledger: Ledger) -> None:
        """fails when the standby is silent: the wait is bounded, nothing is acknowledged, and the retry is."""
        impatient = Database(state_pair.primary.dsn("ledger_tests"), confirm_timeout_s=0.3)
        hasty = Ledger(impatient, epoch=lambda: 1)
        state_pair.standby.process.freeze()
        try:
            with pytest.raises(UnconfirmedError, match="'unconfirmed' is not acknowledged"):
                hasty.start_task({"n": 1}, id_="unconfirmed")
            with pytest.raises(UnconfirmedError):
                hasty.start_task({"n": 1}, id_="unconfirmed")
            with pytest.raises(UnconfirmedError) as caught:
                hasty.start_task({"n": 1})
        finally:
            state_pair.standby.process.thaw()
        made_up = str(caught.value).split("'")[1]
        assert ledger.start_task({"n": 1}, id_=made_up).id == made_up
        assert ledger.start_task({"n": 1}, id_="unconfirmed").status is Status.PENDING
        assert statuses(ledger) == {"pending": 2}
        impatient.close()


class TestClaiming:
    """Who works on a task."""

    def test_a_task_is_claimed_by_one(self, ledger: Ledger) -> None:
        """Eight workers that want a task at once get it once."""
        ledger.start_task({}, id_="wanted")
        claims = together(*[lambda: ledger.claim("wanted", worker="w", lease_s=30)] * 8)
        assert len([claim for claim in claims if claim is not None]) == 1
        assert ledger.task("wanted").attempts == 1

    def test_eight_workers_share_two_hundred_tasks(self, ledger: Ledger) -> None:
        """Workers that claim at once get different tasks, each once, and none waits for another."""
        sql(
            ledger.database,
            "insert into relight.tasks (id, payload, epoch) select 't' || n, 'null', 1 from generate_series(1, 200) n",
        )

        def take() -> list[str]:
            mine: list[str] = []
            while found := ledger.claim_due(7, worker="w", lease_s=30):
                mine += [task.id for task in found]
            return mine

        shares = together(*[take] * 8)
        assert Counter(id_ for share in shares for id_ in share) == Counter(f"t{n}" for n in range(1, 201))

    def test_tasks_of_dead_workers_come_first(self, ledger: Ledger) -> None:
        """What a worker left behind is claimed before what nobody began, and the oldest first."""
        for n in range(6):
            ledger.start_task(n, id_=f"t{n}")
        for n in (4, 5):
            assert ledger.claim(f"t{n}", worker="dead", lease_s=30) is not None
        assert [task.id for task in ledger.claim_due(1, worker="w", lease_s=30)] == ["t0"]
        sql(ledger.database, "update relight.tasks set lease_until = now() - interval '1 s' where id in ('t4', 't5')")
        assert {task.id for task in ledger.claim_due(2, worker="w", lease_s=30)} == {"t4", "t5"}
        assert [task.id for task in ledger.claim_due(9, worker="w", lease_s=30)] == ["t1", "t2", "t3"]
        assert ledger.claim_due(9, worker="w", lease_s=30) == []

    def test_what_is_claimed_is_not_claimed_again(self, ledger: Ledger, task: Task) -> None:
        """A live claim holds, whoever asks; extended it holds longer."""
        sql(ledger.database, "update relight.tasks set lease_until = now() + interval '1 s'")
        ledger.extend(task, lease_s=300)
        assert ledger.claim(task.id, worker="w2", lease_s=30) is None
        [(left,)] = sql(ledger.database, "select extract(epoch from lease_until - now())::float from relight.tasks")
        assert left > 290

    def test_a_new_epoch_frees_what_the_old_one_claimed(self, ledger: Ledger, task: Task) -> None:
        """After a recovery nobody waits for the claims of workers that died with their region."""
        sql(ledger.database, "update relight.tasks set claimed_epoch = 0")
        assert [again.id for again in ledger.claim_due(1, worker="w2", lease_s=30)] == [task.id]

    def test_too_many_attempts_park(self, ledger: Ledger) -> None:
        """fails when a task ends its workers: after its last attempt it is parked with the reason, by either claim."""
        for n in range(3):
            ledger.start_task(n, id_=f"poison{n}")
            sql(ledger.database, "update relight.tasks set attempts = %s where id = %s", [3, f"poison{n}"])
        ledger.start_task(1, id_="harmless")
        assert ledger.claim("poison0", worker="w", lease_s=30, max_attempts=3) is None
        assert [task.id for task in ledger.claim_due(9, worker="w", lease_s=30, max_attempts=3)] == ["harmless"]
        for n in range(3):
            found = ledger.task(f"poison{n}")
            assert found.status is Status.PARKED
            assert found.error is not None
            assert "begun 3 times and never ended" in found.error
            assert ledger.claim(found.id, worker="w", lease_s=30) is None

    def test_the_last_attempt_is_made(self, ledger: Ledger) -> None:
        """A task is claimed as often as it is allowed, and no oftener."""
        ledger.start_task(1, id_="often")
        for attempt in range(1, MAX_ATTEMPTS + 1):
            assert reclaimed(ledger, "often").attempts == attempt
        sql(ledger.database, "update relight.tasks set lease_until = now() - interval '1 s'")
        assert ledger.claim("often", worker="w", lease_s=30) is None
        assert ledger.task("often").status is Status.PARKED


class TestEnding:
    """How a task leaves its worker."""

    def test_a_finished_task_gives_back_its_result(self, ledger: Ledger, task: Task) -> None:
        """What finishing returns is what every reader gets."""
        assert ledger.finish(task, {"n": (1, 2), 3: None}) == {"n": [1, 2], "3": None}
        found = ledger.task(task.id)
        assert (found.status, found.result, found.claim) == (Status.DONE, {"n": [1, 2], "3": None}, "")
        assert ledger.claim(task.id, worker="w", lease_s=30) is None

    def test_a_released_task_comes_again(self, ledger: Ledger, task: Task) -> None:
        """A task that is given back is in the outbox again with its reason; with a delay, once that has passed."""
        sql(ledger.database, "update relight.tasks set queued_in = 'q', queued_at = now()")
        ledger.release(task, error="a\0b \ud800 " + "x" * 20_000, delay_s=3600)
        found = ledger.task(task.id)
        assert (found.status, found.queued, found.attempts) == (Status.PENDING, False, 1)
        assert found.error is not None
        assert found.error.startswith("a\ufffdb")
        assert len(found.error) == 10_000
        assert ledger.claim(task.id, worker="w", lease_s=30) is None
        due(ledger, task.id)
        again = ledger.claim(task.id, worker="w", lease_s=30)
        assert again is not None
        ledger.release(again, error="at once")
        assert ledger.claim(task.id, worker="w", lease_s=30) is not None

    def test_a_parked_task_is_resumed(self, ledger: Ledger, task: Task) -> None:
        """Resuming counts attempts and failures anew, and keeps the steps that are finished."""
        ledger.record_step(task, key="kept", name="kept", result=1)
        ledger.record_failure(task, key="failed", name="failed", error="e")
        ledger.park(task, reason="a person has to look")
        parked = ledger.task(task.id)
        assert (parked.status, parked.error) == (Status.PARKED, "a person has to look")
        assert ledger.claim(task.id, worker="w", lease_s=30) is None
        ledger.resume(task.id)
        again = ledger.claim(task.id, worker="w", lease_s=30)
        assert again is not None
        assert again.attempts == 1
        steps = ledger.steps(again)
        assert steps.keys() == {"kept"}
        assert (steps["kept"].done, steps["kept"].result) == (True, 1)

    def test_what_waits_for_review_is_resumed(self, ledger: Ledger) -> None:
        """A held task runs once somebody says so."""
        ledger.start_task(1, id_="held")
        sql(ledger.database, "update relight.tasks set status = 'held'")
        assert ledger.claim("held", worker="w", lease_s=30) is None
        assert ledger.claim_due(9, worker="w", lease_s=30) == []
        ledger.resume("held")
        assert ledger.claim("held", worker="w", lease_s=30) is not None

    @pytest.mark.parametrize("status", ["pending", "running", "done", "cancelled"])
    def test_only_what_waits_is_resumed(self, ledger: Ledger, task: Task, status: str) -> None:
        """fails when a person resumes what does not wait for one."""
        sql(
            ledger.database,
            "update relight.tasks set status = %s, claimed_by = case when %s = 'running' then claimed_by end",
            [status, status],
        )
        before = books(ledger.database)
        with pytest.raises(ConflictError, match=f"is {status}"):
            ledger.resume(task.id)
        assert books(ledger.database) == before
        with pytest.raises(NotFoundError):
            ledger.resume("never")

    def test_cancelling(self, ledger: Ledger, task: Task) -> None:
        """What nobody works on can be cancelled, for good; what somebody works on, or has ended, cannot."""
        with pytest.raises(ConflictError, match="is running"):
            ledger.cancel(task.id, reason="r")
        ledger.release(task, error="e")
        ledger.cancel(task.id, reason="not wanted any more")
        found = ledger.task(task.id)
        assert (found.status, found.error) == (Status.CANCELLED, "not wanted any more")
        assert ledger.claim(task.id, worker="w", lease_s=30) is None
        with pytest.raises(ConflictError, match="is cancelled"):
            ledger.cancel(task.id, reason="r")
        with pytest.raises(NotFoundError):
            ledger.cancel("never", reason="r")

    def test_what_is_worked_on_is_not_parked_over_its_worker(self, ledger: Ledger, task: Task) -> None:
        """A dead letter parks a task that ended one worker after another, and leaves one that is being worked on, or
        that has ended."""
        assert ledger.give_up_message(task.id, reason="r") is None
        sql(ledger.database, "update relight.tasks set lease_until = now() - interval '1 s', attempts = 5")
        assert ledger.give_up_message(task.id, reason="it kills\0") is Status.PARKED
        assert ledger.task(task.id).status is Status.PARKED
        assert ledger.give_up_message(task.id, reason="r") is None
        assert ledger.give_up_message("never", reason="r") is None
        with pytest.raises(LeaseLostError):
            ledger.finish(task, 1)

    def test_one_dead_worker_is_no_reason_to_park(self, ledger: Ledger, task: Task) -> None:
        """fails when a message that others gave back, because somebody was at its task, counts against the task."""
        sql(ledger.database, "update relight.tasks set lease_until = now() - interval '1 s'")
        assert ledger.give_up_message(task.id, reason="r") is Status.PENDING

    def test_what_nobody_began_is_not_parked(self, ledger: Ledger) -> None:
        """fails when a message was handed out in vain, time and again, because the ledger was away: its task ended
        nobody, and is published again without a person."""
        ledger.start_task(1, id_="t")
        ledger.publish_outbox(lambda tasks: None, incarnation="q", limit=9)
        assert ledger.give_up_message("t", reason="r") is Status.PENDING
        assert not ledger.task("t").queued

    def test_a_life_that_does_not_count(self, ledger: Ledger, task: Task) -> None:
        """A life that ended by no fault of the task leaves its attempts as they were, and its steps."""
        ledger.record_step(task, key="s", name="s", result=1)
        ledger.release(task, error="its worker stopped", counted=False)
        again = reclaimed(ledger, task.id)
        assert (again.attempts, again.first) == (1, False)

    def test_tasks_are_listed(self, ledger: Ledger) -> None:
        """What waits for a person is listed, oldest first, without its payload."""
        for n in range(4):
            ledger.park(claimed(ledger, f"t{n}", {"n": n}), reason=f"r{n}")
        found = ledger.tasks([Status.PARKED, Status.HELD], limit=3)
        assert [(task.id, task.error, task.payload) for task in found] == [(f"t{n}", f"r{n}", None) for n in range(3)]
        assert ledger.tasks([Status.DONE]) == []


# -- who may write

KEY = "e" * 64
PROVIDER = "provider:a"

# Every method of Ledger and Effects that writes in the name of a worker.
UNDER_A_CLAIM: dict[str, Callable[[Ledger, Effects, Task], object]] = {
    "extend": lambda ledger, effects, task: ledger.extend(task, lease_s=30),
    "finish": lambda ledger, effects, task: ledger.finish(task, 1),
    "release": lambda ledger, effects, task: ledger.release(task, error="e"),
    "park": lambda ledger, effects, task: ledger.park(task, reason="r"),
    "record_step": lambda ledger, effects, task: ledger.record_step(task, key="new", name="new", result=1),
    "record_step that was done": lambda ledger, effects, task: ledger.record_step(
        task, key="done", name="done", result=2
    ),
    "record_step with memory": lambda ledger, effects, task: ledger.record_step(
        task, key="also", name="also", result=1, also=lambda cur, _: cur.execute("delete from relight.steps")
    ),
    "record_failure": lambda ledger, effects, task: ledger.record_failure(task, key="new", name="new", error="e"),
    "record_failure again": lambda ledger, effects, task: ledger.record_failure(
        task, key="failed", name="failed", error="e"
    ),
    "check_claim": lambda ledger, effects, task: ledger.check_claim(task),
    "intend": lambda ledger, effects, task: effects.intend(task, key="f" * 64, tool="t", request={}, final_s=1),
    "intend what is known": lambda ledger, effects, task: effects.intend(
        task, key=KEY, tool="t", request={}, final_s=1
    ),
    "intend_again": lambda ledger, effects, task: effects.intend_again(task, known(effects), final_s=1),
}
# Those that need no claim; each is made where it would write.
BY_ANYBODY: dict[str, Callable[[Ledger, Effects, Task], object]] = {
    "start_task": lambda ledger, effects, task: ledger.start_task(1, id_="new"),
    "start_task again": lambda ledger, effects, task: ledger.start_task({"topic": "json"}, id_=task.id),
    "claim": lambda ledger, effects, task: ledger.claim("pending", worker="w", lease_s=30),
    "claim_due": lambda ledger, effects, task: ledger.claim_due(9, worker="w", lease_s=30),
    "give_up_message": lambda ledger, effects, task: ledger.give_up_message("queued", reason="r"),
    "resume": lambda ledger, effects, task: ledger.resume("parked"),
    "resume_within": lambda ledger, effects, task: resume_within(ledger),
    "resume_waiting": lambda ledger, effects, task: resume_waiting(ledger),
    "confirm": lambda ledger, effects, task: ledger.confirm(task.id),
    "cancel": lambda ledger, effects, task: ledger.cancel("pending", reason="r"),
    "publish_outbox": lambda ledger, effects, task: ledger.publish_outbox(lambda tasks: None, incarnation="q", limit=9),
    "return_lost": lambda ledger, effects, task: ledger.return_lost(incarnation="q2"),
    "wake": lambda ledger, effects, task: ledger.wake(PROVIDER),
    "settle": lambda ledger, effects, task: effects.settle(KEY, EffectStatus.DONE, sending=1, response=1),
    "happened": lambda ledger, effects, task: effects.happened(KEY, sending=1, response=1),
    "resolve": lambda ledger, effects, task: effects.resolve(known(effects), happened=False, who="me"),
}


def resume_within(ledger: Ledger) -> None:
    with ledger.database.transaction() as cur:
        assert ledger.resume_within(cur, "parked", of=[Status.PARKED])


def resume_waiting(ledger: Ledger) -> None:
    with ledger.database.transaction() as cur:
        assert ledger.resume_waiting(cur, KEY) == ["parked"]


READS = {"epoch", "ping", "status", "task", "tasks", "steps", "get", "named", "list", "refuses"}


def known(effects: Effects) -> Any:
    found = effects.get(KEY)
    assert found is not None
    return found


@pytest.fixture
def lived_in(ledger: Ledger) -> Task:
    """A ledger with something in every state, and a task that is held; its open effect is final."""
    task = claimed(ledger, "a task", {"topic": "json"})
    ledger.record_step(task, key="done", name="done", result=1)
    ledger.record_failure(task, key="failed", name="failed", error="e")
    Effects(ledger).intend(task, key=KEY, tool="t", request={}, final_s=-1)
    ledger.park(claimed(ledger, "parked"), reason="r", waits_for=KEY)
    ledger.release(claimed(ledger, "waiting"), error="e", delay_s=3600, waits_for=PROVIDER)
    ledger.start_task(1, id_="queued")
    ledger.publish_outbox(lambda tasks: None, incarnation="q1", limit=9)
    ledger.start_task(1, id_="pending")
    return task


def test_the_tables_of_writes_are_complete() -> None:
    """fails when somebody adds a method to Ledger or Effects and does not say who may call it."""
    methods = {
        name
        for kind in (Ledger, Effects)
        for name, value in inspect.getmembers(kind)
        if not name.startswith("_") and (callable(value) or isinstance(value, property))
    }
    assert {name.split()[0] for name in (*UNDER_A_CLAIM, *BY_ANYBODY)} | READS == methods


@pytest.mark.parametrize("name", UNDER_A_CLAIM)
def test_a_zombie_is_refused(ledger: Ledger, lived_in: Task, name: str) -> None:
    """A worker whose claim ran out and went to another can record nothing, and neither when the task has ended."""
    effects = Effects(ledger)
    second = reclaimed(ledger, lived_in.id)
    before = books(ledger.database)
    with pytest.raises(LeaseLostError, match="no longer claimed"):
        UNDER_A_CLAIM[name](ledger, effects, lived_in)
    assert books(ledger.database) == before
    ledger.finish(second, 2)
    before = books(ledger.database)
    for zombie in (lived_in, second):
        with pytest.raises(LeaseLostError, match="no longer claimed"):
            UNDER_A_CLAIM[name](ledger, effects, zombie)
    assert books(ledger.database) == before
    assert ledger.task(lived_in.id).result == 2


@pytest.mark.parametrize("name", UNDER_A_CLAIM)
def test_who_holds_the_task_is_not_refused(ledger: Ledger, lived_in: Task, name: str) -> None:
    """The table is of calls that the task's worker may make."""
    if name == "record_step that was done":
        with pytest.raises(ConflictError, match="was done meanwhile"):
            UNDER_A_CLAIM[name](ledger, Effects(ledger), lived_in)
    else:
        UNDER_A_CLAIM[name](ledger, Effects(ledger), lived_in)


@pytest.mark.parametrize("name", [name for name in (*UNDER_A_CLAIM, *BY_ANYBODY) if name != "check_claim"])
def test_a_stale_epoch_is_refused(ledger: Ledger, lived_in: Task, name: str) -> None:
    """Whoever writes under an epoch that is over is refused by the database itself, and leaves nothing behind."""
    stale = Ledger(ledger.database, epoch=lambda: 0)
    before = books(ledger.database)
    with pytest.raises((StaleEpochError, ConflictError)) as caught:
        (UNDER_A_CLAIM | BY_ANYBODY)[name](stale, Effects(stale), lived_in)
    if name != "record_step that was done":  # writes no row, and says so
        assert isinstance(caught.value, StaleEpochError)
    assert books(ledger.database) == before


@pytest.mark.parametrize("name", [name for name in BY_ANYBODY if name != "start_task again"])
def test_whoever_has_the_epoch_writes(ledger: Ledger, lived_in: Task, name: str) -> None:
    """The table is of calls that write."""
    before = books(ledger.database)
    BY_ANYBODY[name](ledger, Effects(ledger), lived_in)
    assert books(ledger.database) != before


def test_a_task_that_is_claimed_again_under_the_same_name(ledger: Ledger, task: Task) -> None:
    """A worker that claims its own task again is another life: what it left running is refused."""
    second = reclaimed(ledger, task.id)
    assert second.claim != task.claim
    with pytest.raises(LeaseLostError):
        ledger.finish(task, 1)
    ledger.finish(second, 1)


# -- what is stored

ODD: list[Any] = [
    None,
    "",
    [],
    {},
    {"": ""},
    0,
    -0.0,
    0.1,
    1e20,
    1e-320,
    1.7976931348623157e308,
    2**53 + 1,
    -(2**63) - 1,
    10**400,
    True,
    "\0",
    "\u0000a\u0000",
    "\ud800",
    "\udfff\ud800",
    "\ud83d\ude00",  # two halves of one character
    "🦉",
    "\u2028\ufeff\uffff",
    {"\0": {"\ud800": ["\0"]}},
    {"a\nb": "%s %(x)s \\ ' \""},
    [[[[[[[[[[[]]]]]]]]]]],
    {1: "int", None: "null", 2.5: "float"},
    ("tuple", ("in", ("tuple",))),
]


def same(found: Any, value: Any) -> bool:
    """Equal to the last bit and type: 1 is not 1.0, and -0.0 is not 0.0."""
    return repr(found) == repr(as_json(value))


@pytest.mark.parametrize("value", ODD, ids=lambda value: ascii(value)[:30])
def test_values_come_back_as_they_were(ledger: Ledger, value: Any) -> None:
    """Payloads, step results and task results are the same in the first life and in every later one."""
    assert same(ledger.start_task(value, id_="odd").payload, value)
    assert same(ledger.start_task(value, id_="odd").payload, value)
    task = reclaimed(ledger, "odd")
    assert same(task.payload, value)
    assert same(ledger.record_step(task, key="s", name="s", result=value), value)
    assert same(ledger.steps(task)["s"].result, value)
    Effects(ledger).intend(task, key=KEY, tool="t", request=value, final_s=0)
    assert same(Effects(ledger).settle(KEY, EffectStatus.DONE, sending=1, response=value), value)
    assert same(known(Effects(ledger)).response, value)
    assert same(known(Effects(ledger)).request, value)
    assert same(ledger.finish(task, value), value)
    assert same(ledger.task("odd").result, value)


texts = st.text(st.characters(exclude_categories=()), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=values)
def test_any_json_comes_back_as_it_was(ledger: Ledger, value: Any) -> None:
    """Whatever JSON there is: the same in, the same out, in every life."""
    empty(ledger.database)
    assert same(ledger.start_task(value, id_="any").payload, value)
    assert same(ledger.start_task(value, id_="any").payload, value)
    task = reclaimed(ledger, "any")
    assert same(task.payload, value)
    assert same(ledger.record_step(task, key="s", name="s", result=value), value)
    assert same(ledger.steps(task)["s"].result, value)


class NotJson:
    """Nothing that JSON has a word for."""


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)
DEEP: Any = None
for _ in range(100_000):
    DEEP = [DEEP]
UNSTORABLE: dict[str, Any] = {
    "nan": float("nan"),
    "infinity": [float("inf")],
    "set": {1, 2},
    "bytes": b"x",
    "object": NotJson(),
    "datetime": datetime.now(UTC),
    "key": {(1, 2): 3},
    "circle": CIRCLE,
    "deep": DEEP,
    "digits": 10**5000,
}


@pytest.mark.parametrize("name", UNSTORABLE)
def test_what_is_not_json_is_refused(ledger: Ledger, task: Task, name: str) -> None:
    """fails when something is to be stored that is not JSON: a clear error says what it is of, and nothing is
    written."""
    value, before = UNSTORABLE[name], books(ledger.database)
    calls: dict[str, Callable[[], object]] = {
        "payload of task 'odd'": lambda: ledger.start_task(value, id_="odd"),
        "result of step 's' of task 'a task'": lambda: ledger.record_step(task, key="s", name="s", result=value),
        "result of task 'a task'": lambda: ledger.finish(task, value),
        "request to mail": lambda: Effects(ledger).intend(task, key=KEY, tool="mail", request=value, final_s=0),
        "response to effect eeee": lambda: Effects(ledger).settle(KEY, EffectStatus.DONE, sending=1, response=value),
    }
    for what, call in calls.items():
        with pytest.raises(UnstorableError, match=what) as caught:
            call()
        assert len(str(caught.value)) < 500
    assert books(ledger.database) == before


def nested(depth: int) -> Any:
    value: Any = "leaf"
    for _ in range(depth):
        value = [value]
    return value


def test_what_is_stored_can_be_read(ledger: Ledger) -> None:
    """A value is nested so deeply that it is refused, or every reader can read it, however deep its own stack is."""

    def under(frames: int, call: Callable[[], Any]) -> Any:
        return call() if frames == 0 else under(frames - 1, call)

    stored = 0
    for depth in (10, 100, 200, 500, 900, 960, 980, 990):
        try:
            ledger.start_task(nested(depth), id_=f"deep{depth}")
        except UnstorableError:
            continue
        stored += 1
        assert under(600, lambda: ledger.task(f"deep{depth}").id) == f"deep{depth}"  # noqa: B023 - called at once
    assert stored >= 2


def test_payloads_have_a_limit(ledger: Ledger) -> None:
    """A payload of megabytes is taken and given back; one over the limit is refused before it is sent anywhere."""
    text = "ü🦉" * 400_000  # 18 bytes of JSON each
    ledger.start_task({"text": text}, id_="large")
    assert reclaimed(ledger, "large").payload == {"text": text}
    with pytest.raises(UnstorableError, match=r"payload of task 'larger' has \d+ bytes of JSON, and 8388608"):
        ledger.start_task({"text": text * 2}, id_="larger")
    with pytest.raises(NotFoundError):
        ledger.task("larger")


def test_large_results_need_a_vault(ledger: Ledger, task: Task) -> None:
    """fails when a result does not fit a row and there is no vault: it is refused, and the task goes on."""
    with pytest.raises(UnstorableError, match="there is no vault"):
        ledger.finish(task, "x" * INLINE_BYTES)
    with pytest.raises(UnstorableError, match="there is no vault"):
        ledger.record_step(task, key="s", name="s", result="x" * INLINE_BYTES)
    assert ledger.finish(task, "x" * (INLINE_BYTES - 2))


class TestLargeResults:
    """Results that go to the vaults by reference."""

    @pytest.fixture
    def vaults(self, s3: Any, own_client: Callable[[str], Any]) -> tuple[Vault, Vault]:
        """The standby's and the region's own."""
        made = []
        for name in ("first", "second"):
            bucket = f"{name}-{time.time_ns():x}"
            s3.create_bucket(Bucket=bucket)
            made.append(Vault(own_client("us-east-1"), bucket, region="us-east-1"))
        return made[0], made[1]

    @pytest.fixture
    def large(self, database: Database, vaults: tuple[Vault, Vault]) -> Ledger:
        return clean_ledger(database, results=VaultResults(vaults))

    def test_they_come_back(self, large: Ledger, vaults: tuple[Vault, Vault]) -> None:
        """Megabytes are kept in the first vault, once for equal values, and the row holds their place alone."""
        value = {"text": "ü\0🦉" * 300_000}
        task = claimed(large, "large")
        assert large.record_step(task, key="s", name="s", result=value) == value
        assert large.finish(task, value) == value
        assert large.steps(task)["s"].result == value
        assert large.task("large").result == value
        [(inline, place)] = sql(large.database, "select result::text, result_object from relight.tasks")
        assert inline is None
        assert place.startswith(PREFIX)
        assert list(vaults[0].list_keys(PREFIX)) == [place]
        assert list(vaults[1].list_keys(PREFIX)) == []

    def test_the_second_vault_takes_over(self, large: Ledger, vaults: tuple[Vault, Vault]) -> None:
        """While the first vault cannot be reached results go to the second, and are read from there."""
        task = claimed(large, "large")
        mend = unreachable(vaults[0])
        value = "y" * (INLINE_BYTES + 1)
        assert large.finish(task, value) == value
        assert large.task("large").result == value
        mend()
        assert large.task("large").result == value
        assert len(list(vaults[1].list_keys(PREFIX))) == 1

    def test_without_a_vault_nothing_is_recorded(self, large: Ledger, vaults: tuple[Vault, Vault]) -> None:
        """fails when no vault can be reached: the step is not done, says so, and can be done later."""
        task = claimed(large, "large")
        mend = [unreachable(vault) for vault in vaults]
        before = books(large.database)
        value = "z" * (INLINE_BYTES + 1)
        with pytest.raises(UnavailableError, match="no vault took the result"):
            large.record_step(task, key="s", name="s", result=value)
        with pytest.raises(UnavailableError, match="no vault took the result"):
            large.finish(task, value)
        assert books(large.database) == before
        for back in mend:
            back()
        assert large.record_step(task, key="s", name="s", result=value) == value

    def test_an_altered_result_is_noticed(self, large: Ledger, vaults: tuple[Vault, Vault], s3: Any) -> None:
        """fails when somebody changed the object: what it holds is not given out as the result."""
        task = claimed(large, "large")
        large.finish(task, "a" * (INLINE_BYTES + 1))
        [item] = vaults[0].list_keys(PREFIX)
        s3.put_object(Bucket=vaults[0].bucket, Key=item, Body=b'"b"')
        with pytest.raises(IntegrityError, match="does not hold what its name says"):
            large.task("large")

    def test_a_lost_result_is_noticed(self, large: Ledger, vaults: tuple[Vault, Vault], s3: Any) -> None:
        """fails when no vault has the object any more: that is said, and while one cannot be asked, that instead."""
        task = claimed(large, "large")
        large.record_step(task, key="s", name="s", result="a" * (INLINE_BYTES + 1))
        [item] = vaults[0].list_keys(PREFIX)
        s3.delete_object(Bucket=vaults[0].bucket, Key=item)
        with pytest.raises(NotFoundError, match="no vault has"):
            large.steps(task)
        mend = unreachable(vaults[1])
        with pytest.raises(UnavailableError):
            large.steps(task)
        mend()

    def test_what_is_over_the_limit_is_refused(self, large: Ledger, vaults: tuple[Vault, Vault]) -> None:
        """fails when a result is larger than a vault takes for one: nothing is uploaded."""
        task = claimed(large, "large")
        with pytest.raises(UnstorableError, match=r"has 67108866 bytes of JSON, and 67108864 are allowed"):
            large.finish(task, "x" * (64 << 20))
        assert list(vaults[0].list_keys(PREFIX)) == []


def unreachable(vault: Vault) -> Callable[[], None]:
    """Break every connection to a vault, until the returned function is called."""
    client = vault._client
    session = client._endpoint.http_session
    send = session.send

    def refuse(request: Any) -> Any:
        raise ConnectionClosedError(endpoint_url="test")

    session.send = refuse
    return lambda: setattr(session, "send", send)


# -- the outbox


class TestWaiting:
    """Tasks that wait for something, and are woken when it has happened."""

    def wait(self, ledger: Ledger, id_: str, *, kind: Kind = Kind.WORK, key: str = PROVIDER) -> None:
        """A task that waits an hour, or for this."""
        ledger.start_task(1, id_=id_, kind=kind)
        ledger.release(reclaimed(ledger, id_), error="e", delay_s=3600, counted=False, waits_for=key)

    def delay_s(self, ledger: Ledger, id_: str) -> float:
        """How long after it was given back a task is due."""
        query = "select extract(epoch from due_at - updated_at)::float from relight.tasks where id = %s"
        [(seconds,)] = sql(ledger.database, query, [id_])
        return float(seconds)

    def test_a_waiting_task_is_woken(self, ledger: Ledger) -> None:
        """It is pending, says what it waits for, and no life of it counted; woken, it is in the outbox at once, and
        whoever claims it finds nothing that it waits for."""
        self.wait(ledger, "t")
        task = ledger.task("t")
        assert (task.status, task.waits_for, task.attempts, task.queued) == (Status.PENDING, PROVIDER, 0, False)
        assert [found.waits_for for found in ledger.tasks([Status.PENDING])] == [PROVIDER]
        assert ledger.publish_outbox(lambda tasks: None, incarnation="q", limit=9) == 0
        assert ledger.wake(PROVIDER) == 1
        assert ledger.wake(PROVIDER) == 0
        assert ledger.publish_outbox(lambda tasks: None, incarnation="q", limit=9) == 1
        again = ledger.claim("t", worker="w", lease_s=30)
        assert again is not None
        assert (again.waits_for, again.attempts) == (None, 1)

    def test_only_what_waits_for_it_is_woken(self, ledger: Ledger) -> None:
        """What waits for something else, for a person, or for its time, goes on waiting."""
        for id_, key in (("this", PROVIDER), ("other", "provider:ab"), ("effect", KEY)):
            self.wait(ledger, id_, key=key)
        ledger.park(claimed(ledger, "parked"), reason="r", waits_for=PROVIDER)
        ledger.release(claimed(ledger, "later"), error="e", delay_s=3600)
        assert ledger.wake(PROVIDER) == 1
        assert ledger.wake("") == 0
        assert ledger.wake("a\0b") == 0
        with ledger.database.transaction() as cur:
            assert ledger.resume_waiting(cur, KEY) == []
        assert statuses(ledger) == {"pending": 4, "parked": 1}
        assert ledger.claim_due(9, worker="w", lease_s=30)[0].id == "this"

    def test_a_claim_ends_the_wait(self, ledger: Ledger) -> None:
        """A task whose time came before what it waited for is woken by nothing any more, also when it failed then."""
        self.wait(ledger, "t")
        due(ledger, "t")
        assert ledger.wake(PROVIDER) == 0
        task = ledger.claim("t", worker="w", lease_s=30)
        assert task is not None
        ledger.release(task, error="e", delay_s=3600)
        assert ledger.wake(PROVIDER) == 0
        assert ledger.task("t").waits_for is None

    def test_one_of_many_comes_back_to_look(self, ledger: Ledger) -> None:
        """fails when all that wait for a provider come back at once, in vain, each time that a probe may be made."""
        for n in range(20):
            self.wait(ledger, f"t{n}")
        self.wait(ledger, "other", key="provider:b")
        delays = [self.delay_s(ledger, f"t{n}") for n in range(20)]
        assert sum(seconds < 3601 for seconds in delays) <= 3  # one, and whom chance made as early
        assert min(delays) == delays[0] == 3600
        assert max(delays) <= 3600 + 240
        assert len({round(seconds) for seconds in delays}) > 10
        assert self.delay_s(ledger, "other") == 3600
        # The next one to look is whoever is given back when that one has gone.
        ledger.cancel("t0", reason="r")
        sql(ledger.database, "update relight.tasks set due_at = due_at + interval '1 day' where id <> 'other'")
        self.wait(ledger, "next")
        assert self.delay_s(ledger, "next") == 3600

    def test_many_are_woken_in_batches(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever wakes at the same time wakes others, all are woken once, and those that were due first are first in
        the outbox."""
        monkeypatch.setattr(ledger_module, "_WOKEN_AT_ONCE", 50)
        sql(
            ledger.database,
            "insert into relight.tasks (id, payload, due_at, waits_for, epoch)"
            " select 't' || n, '1', now() + n * interval '1 s', %s, %s from generate_series(100, 1099) n",
            [PROVIDER, ledger.epoch],
        )
        assert sum(together(*[lambda: ledger.wake(PROVIDER)] * 4)) == 1000
        handed: list[tuple[str, int]] = []
        while ledger.publish_outbox(handed.extend, incarnation="q", limit=300):
            pass
        assert len({id_ for id_, _ in handed}) == len(handed) == 1000

    def test_what_somebody_holds_is_not_waited_for(self, ledger: Ledger) -> None:
        """fails when a transaction that stands still over one task keeps all others from going on."""
        self.wait(ledger, "held")
        self.wait(ledger, "free")
        with ledger.database.transaction() as cur:
            cur.execute("select from relight.tasks where id = 'held' for update")
            assert ledger.wake(PROVIDER) == 1
        assert ledger.wake(PROVIDER) == 1

    @pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.WORK])
    def test_what_a_policy_may_hold_is_not_woken_before(self, ledger: Ledger, kind: Kind) -> None:
        """fails when a timer, a queued send or a credential of a restored state is woken before a replay has judged
        it."""
        self.wait(ledger, "old", kind=kind)
        epoch = ledger.epoch + 1
        EpochLog(ledger.database).take(epoch, region="there", run_id="r")
        promoted = Ledger(ledger.database, epoch=lambda: epoch)
        assert promoted.wake(PROVIDER) == 0
        EpochLog(ledger.database).mark_replayed(epoch)
        assert promoted.wake(PROVIDER) == 1


class TestOutbox:
    """What is to be published, and what is known of the queue."""

    def test_a_task_is_handed_out_once(self, ledger: Ledger) -> None:
        """Relays that run at once share the outbox, and a queue that confirmed a task is not given it again."""
        sql(
            ledger.database,
            "insert into relight.tasks (id, payload, epoch) select 't' || n, 'null', 1 from generate_series(1, 200) n",
        )
        published: list[tuple[str, int]] = []

        def relay() -> None:
            while ledger.publish_outbox(published.extend, incarnation="q", limit=7):
                pass

        together(*[relay] * 4)
        assert sorted(published) == sorted({(f"t{n}", attempt) for n in range(1, 201) for _, attempt in published[:1]})
        assert ledger.publish_outbox(published.extend, incarnation="q", limit=7) == 0
        assert ledger.task("t1").queued

    def test_what_the_queue_did_not_take_comes_again(self, ledger: Ledger) -> None:
        """fails when publishing raises: nothing is recorded as published."""
        ledger.start_task(1, id_="t")

        def fail(tasks: object) -> None:
            raise UnavailableError("the queue is full")

        with pytest.raises(UnavailableError, match="the queue is full"):
            ledger.publish_outbox(fail, incarnation="q", limit=9)
        assert not ledger.task("t").queued
        assert ledger.publish_outbox(lambda tasks: None, incarnation="q", limit=9) == 1

    def test_each_publication_of_a_task_is_another(self, ledger: Ledger) -> None:
        """fails when a queue would take a task that comes again for the same message and drop it: however a task
        comes back, it is told apart from all times before."""
        seen: list[tuple[str, int]] = []

        def publish() -> None:
            assert ledger.publish_outbox(seen.extend, incarnation="q", limit=9) == 1

        ledger.start_task(1, id_="t")
        publish()
        ledger.release(reclaimed(ledger, "t"), error="e")
        publish()
        ledger.park(reclaimed(ledger, "t"), reason="r")
        ledger.resume("t")
        publish()
        assert ledger.give_up_message("t", reason="a dead letter")
        publish()
        ledger.return_lost(incarnation="q2")
        publish()
        assert len(set(seen)) == 5

    def test_what_another_incarnation_had_comes_back(self, ledger: Ledger) -> None:
        """A queue that was lost is filled again with everything unfinished, and with nothing else."""
        for id_ in ("pending", "dead", "alive", "done", "parked"):
            ledger.start_task(1, id_=id_)
        ledger.publish_outbox(lambda tasks: None, incarnation="q1", limit=9)
        for id_ in ("dead", "alive", "done", "parked"):
            assert ledger.claim(id_, worker="w", lease_s=300) is not None
        sql(ledger.database, "update relight.tasks set lease_until = now() - interval '1 s' where id = 'dead'")
        sql(
            ledger.database,
            "update relight.tasks set status = id, claimed_by = null where id in ('done', 'parked')",
        )
        assert ledger.return_lost(incarnation="q1") == 0
        assert ledger.return_lost(incarnation="q2", limit=1) == 2
        assert ledger.return_lost(incarnation="q2") == 0
        back: list[tuple[str, int]] = []
        ledger.publish_outbox(back.extend, incarnation="q2", limit=9)
        assert {id_ for id_, _ in back} == {"pending", "dead"}

    @pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.WORK])
    def test_what_a_policy_may_hold_waits_for_a_replay(self, ledger: Ledger, kind: Kind) -> None:
        """fails when a timer, a queued send or a credential of a restored state fires before a replay has judged it."""
        ledger.start_task(1, id_="old", kind=kind)
        epochs = EpochLog(ledger.database)
        epoch = ledger.epoch + 1
        epochs.take(epoch, region="there", run_id="r")
        promoted = Ledger(ledger.database, epoch=lambda: epoch)
        assert promoted.claim("old", worker="w", lease_s=30) is None
        assert promoted.claim_due(9, worker="w", lease_s=30) == []
        assert promoted.publish_outbox(lambda tasks: None, incarnation="q", limit=9) == 0
        epochs.mark_replayed(epoch)
        assert promoted.publish_outbox(lambda tasks: None, incarnation="q", limit=9) == 1
        assert promoted.claim("old", worker="w", lease_s=30) is not None

    def test_what_was_removed_from_the_queue_by_hand_comes_back(self, ledger: Ledger) -> None:
        """fails when a purge loses tasks: the queue is the same one, and has messages, all of them much younger; where
        one is as old, the task's may be there."""
        ledger.start_task(1, id_="purged")
        ledger.publish_outbox(lambda tasks: None, incarnation="q1", limit=9)
        assert ledger.return_lost(incarnation="q1", age_s=0.0) == 0
        sql(ledger.database, "update relight.tasks set queued_at = now() - interval '2 minutes'")
        assert ledger.return_lost(incarnation="q1") == 0
        assert ledger.return_lost(incarnation="q1", age_s=70.0) == 0
        assert ledger.return_lost(incarnation="q1", age_s=50.0) == 1

    def test_what_the_queue_forgot_comes_back(self, ledger: Ledger) -> None:
        """A message past the queue's age, and one that did not come again after its worker died, are published
        again."""
        for id_ in ("aged", "silent", "fresh"):
            ledger.start_task(1, id_=id_)
        ledger.publish_outbox(lambda tasks: None, incarnation="q", limit=9)
        assert ledger.claim("silent", worker="w", lease_s=300) is not None
        sql(ledger.database, "update relight.tasks set queued_at = now() - interval '8 days' where id = 'aged'")
        sql(ledger.database, "update relight.tasks set lease_until = now() - interval '1 hour' where id = 'silent'")
        assert ledger.return_lost(incarnation="q") == 2
        assert not ledger.task("aged").queued
        assert not ledger.task("silent").queued
        assert ledger.task("fresh").queued


# -- the database's own promises that the ledger builds on


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


def test_promotion(server_group: ProcessGroup, server_dir: Path) -> None:
    """A promoted replica accepts the next epoch and refuses the old one; nothing acknowledged is missing."""
    pair = asyncio.run(start_pair(server_group, server_dir / "promotion"))
    before = Database(pair.primary.dsn())
    migrate(before)
    EpochLog(before).take(1, region="us-east-1", run_id="first")
    old = Ledger(before, epoch=lambda: 1)
    for number in range(50):
        old.start_task({"n": number}, id_=f"t{number:02}")
    assert old.claim("t00", worker="w", lease_s=300) is not None
    old.publish_outbox(lambda tasks: None, incarnation="q1", limit=30)
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
        Ledger(after, epoch=lambda: 1).start_task({}, id_="stale")
    new = Ledger(after, epoch=lambda: 2)
    new.return_lost(incarnation="q2")
    published: list[tuple[str, int]] = []
    new.publish_outbox(published.extend, incarnation="q2", limit=100)
    assert sorted(id_ for id_, _ in published) == [f"t{number:02}" for number in range(50)]
    assert new.claim("t00", worker="w2", lease_s=30) is not None
    new.start_task({}, id_="after")
    before.close()
    after.close()
    asyncio.run(pair.standby.stop(immediate=True))
