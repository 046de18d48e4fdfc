"""Restores to a moment and without the writes of tasks: the journal takes them back, and every region follows."""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from memory_helpers import DIMENSION, EPOCH, some_points, wait_for_standby

from relight.adapters import postgres
from relight.clock import SystemClock
from relight.errors import ConfigError, NotFoundError, UnavailableError
from relight.memory import cut as cutting
from relight.memory import journal
from relight.memory.api import Applier, Memory, Point
from relight.memory.cut import Cut, CutPlan, Selection, cut, plan_cut
from relight.memory.hydrate import hydrate, verify_memory
from relight.memory.journal import START
from relight.memory.segments import Archive
from relight.memory.vectors import unpack
from relight.tasks import database as module
from relight.tasks.database import Database
from relight.vault.segments import PREFIX

if TYPE_CHECKING:
    from journal_helpers import Past
    from memory_helpers import StateDsns
    from servers import StatePair

    from relight.adapters.postgres import Connection
    from relight.memory.pgvector import PgVectorStore
    from relight.memory.store import CollectionSpec, VectorStore
    from relight_drill.postgres import PostgresServer

pytestmark = pytest.mark.servers


def without(*tasks: str) -> Selection:
    return Selection(tasks=frozenset(tasks))


def plans(past: Past, selection: Selection, specs: list[CollectionSpec] | None = None) -> list[CutPlan]:
    return plan_cut(
        store=past.store,
        state=past.state,
        vault=past.peer,
        archive=Archive(past.peer, past.own),
        specs=specs or [past.spec],
        selection=selection,
        clock=SystemClock(),
    )


def take_back(past: Past, selection: Selection, specs: list[CollectionSpec] | None = None, **options: Any) -> list[Cut]:
    arguments: dict[str, Any] = {
        "plans": plans(past, selection, specs),
        "database": past.database,
        "state": past.state,
        "beside": past.store,
        "vault": past.peer,
        "archive": Archive(past.peer, past.own),
        "clock": SystemClock(),
        "recall_floor": 0.9,
    }
    return cut(**arguments | options)


def contents(store: VectorStore, past: Past, state: Connection | None = None) -> dict[str, tuple[Any, list[float]]]:
    """Everything that is in a memory once it has come up to the journal, and as much as the journal says."""
    Applier(store=store, spec=past.spec, state=state or past.state, archive=Archive(past.own)).catch_up()
    verify_memory(store=store, state=state or past.state, spec=past.spec)
    ids = [hit.id for hit in store.search(past.spec.name, [1.0] * DIMENSION, 10_000).hits]
    points = [point for first in range(0, len(ids), 100) for point in store.fetch(past.spec.name, ids[first:][:100])]
    return {point.id: (point.payload, [round(x, 5) for x in unpack(point.vector)]) for point in points}


def now(past: Past) -> datetime:
    """By the server's clock, which is the one that counts."""
    with past.state, past.state.cursor() as cursor:
        cursor.execute("select clock_timestamp()")
        [at] = cursor.fetchone() or (None,)
    assert isinstance(at, datetime)
    return at.astimezone(UTC)


def overwrite(past: Past, ids: list[str], *, task: str) -> None:
    """Other vectors and payloads for points that there are, or not yet."""
    points = some_points(len(ids), seed=99)
    changed = [replace(point, id=id_, payload={"by": task}) for id_, point in zip(ids, points, strict=True)]
    with past.state, past.state.cursor() as cursor:
        past.memory.upsert(cursor, changed, epoch=EPOCH, task_id=task)
    past.settle()


@pytest.mark.parametrize("archived", ["nothing", "before the writes", "all", "without its beginning"])
def test_a_memory_without_the_writes_of_a_task(past: Past, archived: str) -> None:
    """What it overwrote and deleted is as before, what it added is gone, and what others wrote since stays."""
    past.clock.shift(timedelta(days=-1))  # so that points were sealed before what is written after them
    past.write(20, "p", task="good")
    expected = contents(past.store, past)
    if archived != "nothing":
        past.take()
        past.prune()
    overwrite(past, ["p0", "p1", "p2", "new0", "new1"], task="bad")
    past.forget("p3", "p4", task="bad")
    overwrite(past, ["p1", "new1"], task="later")
    later = contents(past.store, past)
    expected |= {id_: later[id_] for id_ in ("p1", "new1")}
    if archived in ("all", "without its beginning"):
        past.prune()
    if archived == "without its beginning":
        first = past.keys()[0]
        for vault in (past.own, past.peer):
            vault.delete([first])

    [plan] = plans(past, without("bad"))
    assert (plan.left_out, plan.points) == ({"bad": 7}, 5)
    assert (plan.base is None) is (archived == "nothing")
    [done] = take_back(past, without("bad"))

    assert (done.restored, done.deleted, done.left_out) == (4, 1, {"bad": 7})
    assert contents(past.store, past) == expected
    assert past.store.kept(past.spec.name) == []
    # Once more there is nothing to do, and new writes go on, those of the same task too.
    entries = len(journal.read(past.state, past.spec.name, journal.edge(past.state, past.spec.name)).entries)
    assert [item.id for item in take_back(past, without("bad"))] == [None]
    assert len(journal.read(past.state, past.spec.name, journal.edge(past.state, past.spec.name)).entries) == entries
    overwrite(past, ["p2", "new2"], task="bad")
    assert {*contents(past.store, past)} == {*expected, "new2"}


@pytest.mark.parametrize("archived", [False, True])
def test_a_memory_as_of_a_moment(past: Past, archived: bool) -> None:
    """Everything after it is taken back, whoever wrote it; what is written afterwards goes on."""
    past.clock.shift(timedelta(days=-1))
    past.write(20, "p")
    past.forget("p19")
    if archived:
        past.prune()
        past.take()
    overwrite(past, ["p5"], task="in between")
    expected = contents(past.store, past)
    moment = now(past)
    overwrite(past, ["p0", "p5", "p19", "new"], task="a")
    past.forget("p1", task="b")
    past.write(2, "more")
    if archived:
        past.clock.shift(timedelta(days=2))
        past.prune()
    [plan] = plans(past, Selection(moment=moment))
    assert (plan.left_out, plan.points) == ({"": 2, "a": 4, "b": 1}, 7)
    assert (plan.base is not None) is archived

    [done] = take_back(past, Selection(moment=moment))

    assert (done.restored, done.deleted) == (3, 4)
    assert contents(past.store, past) == expected
    assert take_back(past, Selection(moment=moment))[0].id is None
    past.write(1, "after")
    assert {*contents(past.store, past)} == {*expected, "after0"}
    # The restore itself can be taken back.
    assert done.id is not None
    take_back(past, without(done.id))
    assert {*contents(past.store, past)} == {*expected, "after0", "new", "more0", "more1", "p19"} - {"p1"}


def test_the_other_region_follows(
    past: Past, elsewhere: PgVectorStore, standby: Connection, state_pair: StatePair
) -> None:
    """Its applier takes the writes back by itself, and a hydration from a point of before ends in the same memory."""
    past.clock.shift(timedelta(days=-1))
    past.write(20, "p")
    old = past.take()
    overwrite(past, ["p0", "new"], task="bad")
    wait_for_standby(state_pair)
    assert "new" in contents(elsewhere, past, standby)
    take_back(past, without("bad"))
    wait_for_standby(state_pair)
    expected = contents(past.store, past)
    assert contents(elsewhere, past, standby) == expected
    past.prune()
    wait_for_standby(state_pair)
    [done] = hydrate(
        store=elsewhere,
        vault=past.peer,
        state=standby,
        specs=[past.spec],
        clock=SystemClock(),
        point=old.id,
        force=True,
    )
    assert (done.restored, done.points) == (old.id, 20)
    assert contents(elsewhere, past, standby) == expected


def test_a_transaction_is_kept_whole_or_not_at_all(past: Past, state_dsns: StateDsns) -> None:
    """One that had begun to write by the moment is kept, though it goes on and commits later; no other is."""
    past.write(3, "p")
    with closing(postgres.connect(state_dsns.primary)) as late, closing(postgres.connect(state_dsns.primary)) as last:
        with late.cursor() as cursor:
            past.memory.upsert(cursor, some_points(1, prefix="late-a"), epoch=EPOCH)
        with last.cursor() as cursor:
            cursor.execute("select pg_current_xact_id()")
        moment = now(past)
        with late.cursor() as cursor:
            past.memory.upsert(cursor, some_points(1, prefix="late-b"), epoch=EPOCH)
        with last.cursor() as cursor:
            past.memory.upsert(cursor, some_points(1, prefix="last"), epoch=EPOCH)
        last.commit()
        late.commit()
    past.settle()
    take_back(past, Selection(moment=moment))
    assert {*contents(past.store, past)} == {"p0", "p1", "p2", "late-a0", "late-b0"}


def test_what_is_written_meanwhile_is_taken_back_or_comes_after(
    past: Past, state_dsns: StateDsns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fails when a write of a transaction that is under way is neither taken back nor later than the cut."""
    past.write(5, "p")
    moment = now(past)
    past.write(1, "x")
    connections = [postgres.connect(state_dsns.primary) for _ in range(2)]
    with connections[0].cursor() as cursor:
        past.memory.upsert(cursor, some_points(2, seed=7, prefix="p"), epoch=EPOCH)
    wait = cutting._wait_until_oldest

    def meanwhile(cursor: Any, clock: Any) -> None:
        """After the cut's transaction has begun: an older one ends, and a younger one writes and ends."""
        connections[0].commit()
        with connections[1], connections[1].cursor() as young:
            past.memory.upsert(young, some_points(2, seed=8, prefix="young"), epoch=EPOCH)
            past.memory.delete(young, ["p4"], epoch=EPOCH)
        wait(cursor, clock)

    monkeypatch.setattr(cutting, "_wait_until_oldest", meanwhile)
    before = {point.id: point.payload for point in some_points(5)}
    [done] = take_back(past, Selection(moment=moment))
    for connection in connections:
        connection.close()
    past.settle()
    assert (done.restored, done.deleted) == (2, 1)
    found = contents(past.store, past)
    assert {*found} == {"p0", "p1", "p2", "p3", "young0", "young1"}
    assert found["p0"][1] == [round(x, 5) for x in unpack(past.entries()[0].vector or b"")]
    assert found["p0"][0] == before["p0"]


def test_a_transaction_that_does_not_end_is_not_waited_for_for_ever(
    past: Past, state_dsns: StateDsns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fails when the cut goes on although somebody may still write before it; nothing is changed."""
    past.write(5, "p", task="t")
    monkeypatch.setattr(cutting, "OLDEST_S", 0.0)
    before = past.entries()
    with closing(postgres.connect(state_dsns.primary)) as open_:
        with open_.cursor() as cursor:
            cursor.execute("select pg_current_xact_id()")
        with pytest.raises(UnavailableError, match="has been open"):
            take_back(past, without("t"))
    assert past.entries() == before


def test_a_restore_outlasts_what_an_idle_transaction_may(
    past: Past, state_dsns: StateDsns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fails when the server ends the cut's transaction while a snapshot is restored beside it."""
    past.write(5, "p")
    overwrite(past, ["p0", "new"], task="bad")
    monkeypatch.setattr(module, "IDLE_S", 0.2)
    wait = cutting._wait_until_oldest

    def restoring(cursor: Any, clock: Any) -> None:
        """All that is heard of the session for longer than that."""
        wait(cursor, clock)
        idle = "select clock_timestamp() - state_change from pg_stat_activity where pid = %s"
        pid = cursor.connection.info.backend_pid
        with closing(postgres.connect(state_dsns.primary)) as other:
            other.autocommit = True
            with other.cursor() as look:
                look.execute(idle, [pid])
                while (found := look.fetchone()) is not None and found[0] < timedelta(seconds=1):
                    clock.sleep(0.05)
                    look.execute(idle, [pid])

    monkeypatch.setattr(cutting, "_wait_until_oldest", restoring)
    with closing(Database(state_dsns.primary)) as database:
        [done] = take_back(past, without("bad"), database=database)
        assert database.execute("show idle_in_transaction_session_timeout").rows == [("200ms",)]
    assert (done.restored, done.deleted) == (1, 1)
    assert {*contents(past.store, past)} == {f"p{n}" for n in range(5)}


class Killed(Database):
    """A database that dies before the commit, or right after it."""

    def __init__(self, dsn: str, *, committed: bool) -> None:
        super().__init__(dsn)
        self._committed = committed

    def transaction(self, **options: Any) -> Any:
        """See `Database`."""
        return _Dying(super().transaction(**options), committed=self._committed)


class _Dying:
    def __init__(self, inner: Any, *, committed: bool) -> None:
        self._inner, self._committed = inner, committed

    def __enter__(self) -> Any:
        return self._inner.__enter__()

    def __exit__(self, *exc: Any) -> None:
        if not self._committed:
            error = UnavailableError("killed")
            self._inner.__exit__(type(error), error, None)
        self._inner.__exit__(*exc)
        raise UnavailableError("killed")


@pytest.mark.parametrize("committed", [False, True])
def test_a_restore_that_is_killed_is_done_or_not(past: Past, state_dsns: StateDsns, committed: bool) -> None:
    """There is no state between: before the commit nothing is changed, after it every region has it to come."""
    past.write(5, "p")
    overwrite(past, ["p0", "new"], task="bad")
    with closing(Killed(state_dsns.primary, committed=committed)) as database, pytest.raises(UnavailableError):
        take_back(past, without("bad"), database=database)
    found = contents(past.store, past)
    assert ("new" in found) is not committed
    [again] = take_back(past, without("bad"))
    assert (again.id is None) is committed
    assert {*contents(past.store, past)} == {f"p{n}" for n in range(5)}


def test_all_collections_are_cut_at_once(past: Past) -> None:
    """And those that the task did not touch are left alone."""
    notes = replace(past.spec, name=f"{past.spec.name}/notes")
    quiet = replace(past.spec, name=f"{past.spec.name}/quiet")
    for spec in (notes, quiet):
        with past.state, past.state.cursor() as cursor:
            Memory(store=past.store, spec=spec).upsert(cursor, some_points(3), epoch=EPOCH, task_id="good")
    past.write(3, "p")
    with past.state, past.state.cursor() as cursor:
        for spec in (past.spec, notes):
            bad = [Point(id="bad", vector=[1.0] * DIMENSION)]
            Memory(store=past.store, spec=spec).upsert(cursor, bad, epoch=EPOCH, task_id="bad")
    past.settle()
    done = take_back(past, without("bad"), [past.spec, notes, quiet])
    assert [(item.collection, item.deleted) for item in done] == [(past.spec.name, 1), (notes.name, 1)]
    assert len({item.id for item in done}) == 1
    last = [journal.read(past.state, spec.name, START).entries[-1] for spec in (past.spec, notes)]
    assert last[0].position.xid == last[1].position.xid
    assert {entry.task_id for entry in last} == {done[0].id}


@pytest.mark.parametrize(
    ("selection", "error", "said"),
    [
        (without("nobody"), NotFoundError, "there is no task 'nobody'"),
        (without("t", "nobody"), NotFoundError, "there is no task 'nobody'"),
        (without("idle"), NotFoundError, "'idle' wrote nothing"),
        (Selection(moment=datetime(2999, 1, 1, tzinfo=UTC)), ConfigError, "in the future"),
        (Selection(moment=datetime(2020, 1, 1, tzinfo=UTC)), NotFoundError, "its first write is of 20"),
    ],
)
def test_what_cannot_be_meant_is_refused(past: Past, selection: Selection, error: type[Exception], said: str) -> None:
    """fails when a task that there is not, the future, or a time before the first write is taken for an answer."""
    with past.database.transaction() as cursor:
        cursor.execute(
            "insert into relight.tasks (id, payload, epoch) values ('idle', '{}', 1) on conflict (id) do nothing"
        )
    past.write(3, "p", task="t")
    with pytest.raises(error, match=said):
        take_back(past, selection)
    assert len(past.entries()) == 3


def test_one_of_both_is_named() -> None:
    """fails when neither a moment nor a task is given, or both."""
    for arguments in ({}, {"moment": datetime.now(UTC), "tasks": frozenset({"t"})}):
        with pytest.raises(ConfigError):
            Selection(**arguments)  # type: ignore[arg-type]


def test_before_what_is_left_nothing_is_possible(past: Past) -> None:
    """fails when a memory is made from a journal that has lost its beginning; the error says from when on it can be."""
    past.clock.shift(timedelta(days=-1))
    past.write(5, "p", task="old")
    past.prune()
    moment = now(past)
    past.write(5, "q", task="new")
    past.clock.shift(timedelta(days=2))
    past.prune()
    kept = past.take()
    for vault in (past.own, past.peer):
        vault.delete(list(vault.list_keys(PREFIX)))
    past.peer.delete([key for key in past.peer.list_keys("points/") if kept.id not in key])
    with pytest.raises(NotFoundError, match=f"what is possible begins with {kept.id}"):
        take_back(past, Selection(moment=moment))
    edge = journal.edge(past.state, past.spec.name)
    with pytest.raises(NotFoundError, match=f"can be read of '{past.spec.name}' from {edge} on"):
        take_back(past, without("new"))


def test_what_is_not_all_journalled(past: Past, vector_server: PostgresServer) -> None:
    """A task's writes are taken back to what a point has, direct writes included; a moment is refused."""
    past.clock.shift(timedelta(days=-1))
    past.write(5, "p")
    contents(past.store, past)
    # As an agent does that writes to its store itself.
    position = past.store.position(past.spec.name)
    direct = replace(past.entries()[0], id="direct", payload={"mine": 1})
    with closing(postgres.connect(vector_server.dsn(), autocommit=True)) as admin, admin.cursor() as cursor:
        cursor.execute("select table_name from relight.collections where name = %s", [past.spec.name])
        [table] = cursor.fetchone() or ("",)
        cursor.execute(
            f'insert into relight_memory."{table}" values (%s, %s, %s)',
            ["direct", str(list(unpack(direct.vector or b""))), '{"mine": 1}'],
        )
    past.take()
    overwrite(past, ["direct", "p0", "new"], task="bad")
    spec = replace(past.spec, journalled=False)
    with pytest.raises(ConfigError, match="not all journalled"):
        take_back(past, Selection(moment=now(past)), [spec])
    [done] = take_back(past, without("bad"), [spec])
    assert (done.restored, done.deleted, position < past.entries()[-1].position) == (2, 1, True)
    Applier(store=past.store, spec=past.spec, state=past.state).catch_up()
    found = {point.id: point.payload for point in past.store.fetch(past.spec.name, ["direct", "p0", "new"])}
    assert found == {"direct": {"mine": 1}, "p0": {"n": 0}}


def test_a_point_that_a_slow_clock_sealed_is_not_taken_for_an_older_one(past: Past) -> None:
    """fails when a point holds writes of after the moment, and is taken because it says that it was sealed before."""
    past.write(5, "p")
    moment = now(past)
    past.write(5, "q")
    past.clock.shift(timedelta(days=-1))
    past.take()
    [done] = take_back(past, Selection(moment=moment))
    assert (done.base, done.deleted) == ("the beginning of the journal", 5)


def test_two_restores_at_once_do_it_once(past: Past, state_dsns: StateDsns) -> None:
    """fails when one of them takes back what the other restored."""
    past.write(10, "p")
    overwrite(past, ["p0", "new"], task="bad")
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with (
                closing(postgres.connect(state_dsns.primary)) as state,
                closing(Database(state_dsns.primary)) as database,
            ):
                take_back(past, without("bad"), state=state, database=database, plans=found)
        except BaseException as exc:  # noqa: BLE001 - shown below
            errors.append(exc)

    found = plans(past, without("bad"))
    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    past.settle()
    assert {*contents(past.store, past)} == {f"p{n}" for n in range(10)}
