"""What an old primary has that the new one never got, on two real databases that were one."""

from __future__ import annotations

import secrets
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from memory_helpers import make_state
from runtime_helpers import books, make_final, sql

from relight.adapters import postgres
from relight.errors import ConflictError
from relight.tasks.database import Database
from relight.tasks.divergence import Divergence, divergence
from relight.tasks.effects import Effects, EffectStatus
from relight.tasks.epochs import EpochLog
from relight.tasks.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import StatePair

    from relight.tasks.ledger import Task
    from relight_drill.postgres import PostgresServer

pytestmark = pytest.mark.servers


class Side:
    """One of the two databases, and its ledger under its epoch."""

    def __init__(self, dsn: str, epoch: int) -> None:
        self.dsn = dsn
        self.database = Database(dsn)
        self.ledger = Ledger(self.database, epoch=lambda: epoch)
        self.effects = Effects(self.ledger)
        self._epoch = epoch

    def claim(self, id_: str) -> Task:
        sql(self.database, "update relight.tasks set lease_until = now() - interval '1 s' where status = 'running'")
        task = self.ledger.claim(id_, worker="w", lease_s=300)
        assert task is not None
        return task

    def do(self, id_: str) -> None:
        """One whole life of a task: a step, and an end."""
        task = self.claim(id_)
        if "think" not in self.ledger.steps(task):
            self.ledger.record_step(task, key="think", name="think", result=id_)
        self.ledger.finish(task, "done")

    def intend(self, id_: str, key: str) -> int:
        sending = self.effects.intend(self.claim(id_), key=key, tool="mail", request={}, final_s=0.0)
        assert sending is not None
        return sending

    def remember(self, *ids: str, collection: str = "memory") -> None:
        with self.database.transaction() as cur:
            for id_ in ids:
                cur.execute(
                    "insert into relight.journal (epoch, collection, op, id, vector) values (%s, %s, 'upsert', %s, '')",
                    [self._epoch, collection, id_],
                )


class Parting:
    """The old side, and how to part from it: the new one is a copy of that moment, under the next epoch."""

    def __init__(self, server: PostgresServer, name: str) -> None:
        self._server = server
        self._name = name
        self.old = Side(server.dsn(name), 1)
        self.new = self.old

    def part(self) -> Side:
        self.old.database.close()
        admin = postgres.connect(self._server.dsn("postgres"), autocommit=True)
        with admin.cursor() as cur:
            cur.execute(f"create database {self._name}_new template {self._name}")
        admin.close()
        self.old = Side(self._server.dsn(self._name), 1)
        self.new = Side(self._server.dsn(f"{self._name}_new"), 2)
        EpochLog(self.new.database).take(2, region="us-west-2", run_id="r")
        return self.new

    def found(self) -> Divergence:
        with closing(postgres.connect(self.old.dsn)) as old, closing(postgres.connect(self.new.dsn)) as new:
            return divergence(old, new)

    def close(self) -> None:
        self.old.database.close()
        self.new.database.close()


@pytest.fixture
def parting(state_pair: StatePair) -> Iterator[Parting]:
    name = f"parted_{secrets.token_hex(4)}"
    make_state(state_pair, name)
    parting = Parting(state_pair.primary, name)
    yield parting
    parting.close()


def test_what_arrived_did_not_diverge(parting: Parting) -> None:
    """Whatever the new side made of it since, and whatever it did of its own."""
    for name in ("a", "b", "c"):
        parting.old.ledger.start_task({}, id_=name)
    parting.old.do("a")
    parting.old.intend("b", "b" * 64)
    parting.old.remember("m1", "m2")
    new = parting.part()
    assert not parting.found().any
    new.do("c")
    make_final(new.ledger)
    new.effects.settle("b" * 64, EffectStatus.DONE, sending=1, response=1)
    new.do("b")
    new.ledger.start_task({}, id_="d")
    new.remember("m3")
    found = parting.found()
    assert not found.any
    assert (found.epoch, found.to_json()["tasks"]) == (2, [])


def test_a_task_that_never_arrived_is_listed(parting: Parting) -> None:
    """Also when its caller submitted it again after the recovery: the same id is then another task."""
    parting.old.ledger.start_task({}, id_="safe")
    new = parting.part()
    for name in ("again", "lost"):
        parting.old.ledger.start_task({}, id_=name)
    new.ledger.start_task({}, id_="again")
    found = parting.found()
    assert [(task.id, task.status, task.here) for task in found.tasks] == [
        ("again", "pending", None),
        ("lost", "pending", None),
    ]


def test_an_end_that_never_arrived_is_listed(parting: Parting) -> None:
    """A task that the old side finished, and its steps, until the new side has finished it too."""
    parting.old.ledger.start_task({}, id_="t")
    parting.old.ledger.start_task({}, id_="claimed")
    new = parting.part()
    parting.old.do("t")
    parting.old.claim("claimed")
    found = parting.found()
    assert [(task.id, task.status, task.here) for task in found.tasks] == [("t", "done", "pending")]
    assert [(step.task_id, step.key) for step in found.steps] == [("t", "think")]
    new.do("t")
    found = parting.found()
    assert (found.tasks, len(found.steps)) == ((), 1)


def test_an_effect_that_the_new_side_does_not_know_of_is_listed(parting: Parting) -> None:
    """With what the old side knows of it: one that is done has happened, whatever is said of it here."""
    old = parting.old
    for name in ("never", "settled", "resent", "failed", "same"):
        old.ledger.start_task({}, id_=name)
    keys = {name: name.ljust(64, "0") for name in ("never", "settled", "resent", "failed", "same")}
    for name in ("settled", "resent"):
        old.intend(name, keys[name])
    old.effects.settle(keys["resent"], EffectStatus.FAILED, sending=1)
    new = parting.part()
    old = parting.old
    for name in ("never", "failed", "same"):
        old.intend(name, keys[name])
    old.effects.settle(keys["never"], EffectStatus.DONE, sending=1, response=1)
    old.effects.settle(keys["failed"], EffectStatus.FAILED, sending=1)
    old.effects.settle(keys["settled"], EffectStatus.DONE, sending=1, response=1)
    known = old.effects.get(keys["resent"])
    assert known is not None
    old.effects.intend_again(old.claim("resent"), known, final_s=0.0)
    new.intend("same", keys["same"])
    found = {effect.task_id: effect for effect in parting.found().effects}
    assert {name: (item.status, item.here, item.happened) for name, item in found.items()} == {
        "never": ("done", None, True),
        "settled": ("done", "intent", True),
        "resent": ("intent", "failed", False),
        "failed": ("failed", None, False),
        "same": ("intent", "intent", False),
    }
    make_final(new.ledger)
    new.effects.settle(keys["settled"], EffectStatus.DONE, sending=1, response=1)
    assert "settled" not in {effect.task_id for effect in parting.found().effects}


def test_a_memory_that_never_arrived_is_listed(parting: Parting) -> None:
    """By its place in the journal and its time; what the new side has archived and pruned since is not."""
    parting.old.remember("shared-1", "shared-2")
    parting.old.remember("other", collection="second")
    new = parting.part()
    parting.old.remember("lost", "shared-1")
    parting.old.remember("lost in the second", collection="second")
    new.remember("own")
    listed = {(memory.collection, memory.id) for memory in parting.found().memories}
    assert listed == {("memory", "lost"), ("memory", "shared-1"), ("second", "lost in the second")}
    sql(
        new.database,
        "insert into relight.journal_edges (collection, xid, seq)"
        " select collection, xid, seq from relight.journal where id = 'own';"
        " delete from relight.journal where collection = 'memory'",
    )
    pruned = parting.found()
    assert {(memory.collection, memory.id) for memory in pruned.memories} == listed
    assert all(memory.at > pruned.shipped_until for memory in pruned.memories)


def test_a_primary_that_was_alone_for_hours_is_compared_from_there(parting: Parting) -> None:
    """fails when only what was written around the recovery is looked at: nothing had arrived for hours before."""
    parting.old.ledger.start_task({}, id_="long ago")
    new = parting.part()
    parting.old.ledger.start_task({}, id_="alone")
    ago = datetime.now(UTC) - timedelta(hours=30)
    for side, name, at in (
        (parting.old, "long ago", ago),
        (new, "long ago", ago),
        (parting.old, "alone", ago + timedelta(hours=2)),
    ):
        sql(side.database, "update relight.tasks set created_at = %s, updated_at = %s where id = %s", [at, at, name])
    for side in (parting.old, new):
        sql(side.database, "update relight.epochs set taken_at = %s where epoch = 1", [ago - timedelta(days=9)])
    found = parting.found()
    assert found.shipped_until == ago
    assert [task.id for task in found.tasks] == ["alone"]


@pytest.mark.parametrize("skew", [timedelta(minutes=-20), timedelta(minutes=20)])
def test_the_old_side_s_clock_may_be_wrong(parting: Parting, skew: timedelta) -> None:
    """fails when its rows' times are taken for those of the new side's clock."""
    parting.old.ledger.start_task({}, id_="safe")
    new = parting.part()
    parting.old.ledger.start_task({}, id_="lost")
    for side in (parting.old, new):
        sql(
            side.database,
            "update relight.tasks set created_at = created_at + %(skew)s, updated_at = updated_at + %(skew)s;"
            " update relight.epochs set taken_at = taken_at + %(skew)s where epoch = 1",
            {"skew": skew},
        )
    new.ledger.start_task({}, id_="own")
    assert [task.id for task in parting.found().tasks] == ["lost"]


def test_it_is_read_in_pages_and_changes_nothing(parting: Parting) -> None:
    """More than a page of each kind, all of it listed; neither side is another afterwards."""
    parting.part()
    many = "from generate_series(1, 5000) as i"
    sql(
        parting.old.database,
        f"insert into relight.tasks (id, payload, epoch) select 't' || i, '{{}}', 1 {many};"
        f" insert into relight.steps (task_id, key, name, result, epoch, finished_at)"
        f" select 't' || i, 'k', 'k', '1', 1, now() {many};"
        f" insert into relight.effects (key, task_id, tool, request, status, epoch)"
        f" select 'e' || i, 't' || i, 'mail', '{{}}', 'done', 1 {many};"
        f" insert into relight.journal (epoch, collection, op, id, vector)"
        f" select 1, 'memory', 'upsert', i::text, '' {many}",
    )
    before: Any = [books(side.database) for side in (parting.old, parting.new)]
    found = parting.found()
    assert [len(items) for items in (found.tasks, found.steps, found.effects, found.memories)] == [5000] * 4
    assert all(effect.happened for effect in found.effects)
    assert [books(side.database) for side in (parting.old, parting.new)] == before


def test_only_a_former_primary_is_compared(parting: Parting) -> None:
    """fails when the two are the wrong way round, or no recovery came between."""
    with pytest.raises(ConflictError, match="no recovery came between"):
        parting.found()
    parting.part()
    with closing(postgres.connect(parting.old.dsn)) as old, closing(postgres.connect(parting.new.dsn)) as new:
        with pytest.raises(ConflictError, match="at epoch 2 of us-west-2, and the new side does not have it"):
            divergence(new, old)
        assert not divergence(old, new).any
