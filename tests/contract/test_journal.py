"""The journal on a real primary and its hot standby."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from memory_helpers import near_more_digits, remember, some_points, wait_for_standby

from relight.adapters import postgres
from relight.errors import IntegrityError, PermanentError, StaleEpochError, TransientError, UnavailableError
from relight.memory import journal
from relight.memory.journal import START, Op, Position, Write
from relight.memory.vectors import pack, unpack

if TYPE_CHECKING:
    from memory_helpers import StateDsns
    from servers import StatePair

    from relight.adapters.postgres import Connection
    from relight.memory.api import Memory
    from relight.memory.store import CollectionSpec

pytestmark = pytest.mark.servers


def _write(spec: CollectionSpec, id_: str) -> Write:
    return Write(collection=spec.name, op=Op.UPSERT, id=id_, vector=pack([0.5] * spec.dimension), payload={"of": id_})


def test_what_is_appended_is_read_back(state: Connection, spec: CollectionSpec) -> None:
    """An entry comes back with its operation, id, vector, payload, task and epoch, in the order of writing."""
    delete = Write(collection=spec.name, op=Op.DELETE, id="b")
    with state, state.cursor() as cursor:
        journal.append(cursor, [_write(spec, "a"), delete], epoch=1, task_id="t-1")
    batch = journal.read(state, spec.name, START)
    assert [(entry.op, entry.id, entry.task_id, entry.epoch) for entry in batch.entries] == [
        (Op.UPSERT, "a", "t-1", 1),
        (Op.DELETE, "b", "t-1", 1),
    ]
    assert list(unpack(batch.entries[0].vector or b"")) == [0.5] * spec.dimension
    assert batch.entries[0].payload == {"of": "a"}
    assert batch.complete
    assert batch.until == batch.entries[-1].position


def test_an_entry_is_part_of_its_writers_transaction(state: Connection, spec: CollectionSpec) -> None:
    """A step that is rolled back leaves nothing in the journal."""
    with state.cursor() as cursor:
        journal.append(cursor, [_write(spec, "a")], epoch=1)
    state.rollback()
    assert journal.read(state, spec.name, START).entries == ()


@pytest.mark.parametrize("server", ["primary", "standby"])
def test_a_late_committer_is_not_lost(
    server: str, state_dsns: StateDsns, state_pair: StatePair, spec: CollectionSpec
) -> None:
    """fails when a reader goes past a transaction that began earlier and commits later, on either server."""
    late, quick = postgres.connect(state_dsns.primary), postgres.connect(state_dsns.primary)
    reader = postgres.connect(getattr(state_dsns, server), autocommit=True)
    with late.cursor() as cursor:
        journal.append(cursor, [_write(spec, "late")], epoch=1)
    with quick, quick.cursor() as cursor:
        journal.append(cursor, [_write(spec, "quick")], epoch=1)
    wait_for_standby(state_pair)

    by_sequence = _ids_by_sequence(reader, spec, after=0)
    before = journal.read(reader, spec.name, START)
    late.commit()
    wait_for_standby(state_pair)
    after = journal.read(reader, spec.name, before.until)

    assert [entry.id for entry in before.entries + after.entries] == ["late", "quick"]
    # What the horizon is for: a reader that follows the sequence saw "quick", moved past it, and never sees "late".
    assert [id_ for _, id_ in by_sequence] == ["quick"]
    assert _ids_by_sequence(reader, spec, after=by_sequence[-1][0]) == []
    for connection in (late, quick, reader):
        connection.close()


def _ids_by_sequence(reader: Connection, spec: CollectionSpec, *, after: int) -> list[tuple[int, str]]:
    with reader.cursor() as cursor:
        cursor.execute(
            "select seq, id from relight.journal where collection = %s and seq > %s order by seq", [spec.name, after]
        )
        return [(row[0], row[1]) for row in cursor.fetchall()]


def test_a_position_is_never_a_bare_transaction_id(
    state: Connection, state_dsns: StateDsns, spec: CollectionSpec
) -> None:
    """fails when a reader moves past ids that were handed out and never logged, which a promotion hands out again."""
    with state, state.cursor() as cursor:
        journal.append(cursor, [_write(spec, "a")], epoch=1)
    idle = postgres.connect(state_dsns.primary)
    with idle.cursor() as cursor:
        cursor.execute("select pg_current_xact_id()")
    idle.rollback()
    first = journal.read(state, spec.name, START)
    again = journal.read(state, spec.name, first.until)
    assert again.until == first.until == first.entries[-1].position
    idle.close()


def test_batches_meet_without_gap_or_overlap(state: Connection, memory: Memory, spec: CollectionSpec) -> None:
    """A transaction larger than a batch is read over several, each entry once, in order."""
    for part in range(3):
        remember(state, memory, some_points(25, prefix=f"{part}-"))
    position, seen = START, []
    while True:
        batch = journal.read(state, spec.name, position, limit=10)
        assert len(batch.entries) <= 10
        seen += [entry.id for entry in batch.entries]
        position = batch.until
        if batch.complete:
            break
    assert seen == [f"{part}-{i}" for part in range(3) for i in range(25)]


def test_the_order_is_that_of_numbers(state: Connection, memory: Memory, spec: CollectionSpec) -> None:
    """fails when transaction ids are ordered as text: 1000 would come before 999."""
    near_more_digits(state)
    names = [f"{part}" for part in range(8)]
    for name in names:
        remember(state, memory, some_points(1, prefix=name))
    entries = journal.read(state, spec.name, START).entries
    digits = [len(str(entry.position.xid)) for entry in entries]
    assert digits[0] < digits[-1]
    assert [entry.id for entry in entries] == [f"{name}0" for name in names]
    assert [entry.id for entry in journal.pending(state, spec.name, START, limit=9)] == [f"{name}0" for name in names]


def test_collections_are_read_apart(state: Connection, spec: CollectionSpec) -> None:
    """One collection's entries never show in another's."""
    other = Write(collection=f"{spec.name}-other", op=Op.DELETE, id="x")
    with state, state.cursor() as cursor:
        journal.append(cursor, [_write(spec, "a"), other], epoch=1)
    assert [entry.id for entry in journal.read(state, spec.name, START).entries] == ["a"]


def test_reading_leaves_the_callers_transaction_alone(state: Connection, spec: CollectionSpec) -> None:
    """No transaction is left open where there was none, and an open one is neither committed nor rolled back."""
    journal.read(state, spec.name, START)
    assert state.info.transaction_status == 0
    with state.cursor() as cursor:
        journal.append(cursor, [_write(spec, "a")], epoch=1)
    journal.read(state, spec.name, START)
    state.commit()
    assert len(journal.read(state, spec.name, START).entries) == 1


def test_a_stale_epoch_is_refused(state: Connection, spec: CollectionSpec) -> None:
    """The database itself refuses a memory write of an epoch that is over."""
    with pytest.raises(StaleEpochError), state, state.cursor() as cursor:
        journal.append(cursor, [_write(spec, "a")], epoch=0)


def test_the_standby_takes_no_writes(standby: Connection, spec: CollectionSpec) -> None:
    """fails when a write to a standby is not reported as something to try again after the promotion."""
    with pytest.raises(TransientError), standby, standby.cursor() as cursor:
        journal.append(cursor, [_write(spec, "a")], epoch=1)


def test_a_position_of_another_history_is_refused(state: Connection, standby: Connection, spec: CollectionSpec) -> None:
    """On the primary an unknown position is an integrity error; on the standby it may only be early."""
    elsewhere = Position(xid=10**9, seq=10**9)
    with pytest.raises(IntegrityError):
        journal.check_history(state, spec.name, elsewhere)
    with pytest.raises(UnavailableError):
        journal.check_history(standby, spec.name, elsewhere)
    journal.check_history(state, spec.name, START)


@pytest.mark.parametrize("vector", [[float("nan")], [float("inf")], [1e300], ["x"]])
def test_a_vector_that_no_store_takes_is_refused(vector: list[float]) -> None:
    """fails when an entry gets into the journal that would stop every applier."""
    with pytest.raises(PermanentError):
        pack(vector)


@pytest.mark.parametrize("id_", ["", "a\0b", "\ud800"])
def test_an_id_that_no_store_takes_is_refused(spec: CollectionSpec, id_: str) -> None:
    """fails when such an id gets as far as a statement."""
    with pytest.raises(PermanentError):
        _write(spec, id_)


def test_lag_is_the_age_of_the_oldest_entry_not_applied(state: Connection, spec: CollectionSpec) -> None:
    """It is 0 when there is none."""
    assert journal.lag_s(state, spec.name, START) == 0
    with state, state.cursor() as cursor:
        journal.append(cursor, [_write(spec, "a")], epoch=1)
    assert 0 < journal.lag_s(state, spec.name, START) < 60
    assert journal.lag_s(state, spec.name, journal.read(state, spec.name, START).until) == 0
