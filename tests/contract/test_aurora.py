"""Relight on an Aurora Global Database, as far as a played one can show it: see `played_aurora`."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import pytest
from contract.test_database import frozen, wait
from played_aurora import USER, play_aurora

from relight.adapters import postgres
from relight.config import ConfirmBy
from relight.errors import NotFoundError, PermanentError, UnavailableError, UnconfirmedError
from relight.memory import journal
from relight.memory.journal import START, Op, Write
from relight.recovery import exposure
from relight.recovery.replica import PhysicalReplica, ReplicaPosition
from relight.tasks.confirm import Confirm, Standing
from relight.tasks.database import Database
from relight.tasks.epochs import EpochLog
from relight.tasks.ledger import Ledger
from relight.tasks.migrate import migrate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from servers import StatePair

pytestmark = pytest.mark.servers

IMPATIENT_S = 0.5
NOTE = "insert into notes values (%s)"


@pytest.fixture(scope="module")
def aurora(state_pair: StatePair) -> str:
    """A database that answers as Aurora's would; its name."""
    return play_aurora(state_pair)


@pytest.fixture
def opened(state_pair: StatePair, aurora: str) -> Iterator[Callable[..., Database]]:
    """Databases as Aurora's user sees them, closed at the end."""
    made: list[Database] = []

    def make(**options: Any) -> Database:
        given: dict[str, Any] = {"confirm_by": ConfirmBy.AURORA, "confirm_timeout_s": 30.0} | options
        made.append(Database(state_pair.primary.dsn(aurora, user=USER), **given))
        return made[-1]

    make().execute("create table if not exists notes (id text)")
    yield make
    for database in made:
        database.close()


def in_standby(pair: StatePair, name: str) -> str:
    """The database as the standby has it, once it does."""
    dsn = pair.standby.dsn(name, user=USER)

    def there() -> bool:
        try:
            postgres.connect(dsn).close()
        except UnavailableError:
            return False
        return True

    wait(there, "the standby to have the database")
    return dsn


def test_a_commit_is_confirmed_once_the_other_regions_storage_has_it(
    opened: Callable[..., Database], state_pair: StatePair, aurora: str
) -> None:
    """What was confirmed is there, the wait was measured, and the promise is kept."""
    database, id_ = opened(), secrets.token_hex(8)
    with database.transaction(confirmed=Confirm.ALWAYS) as cur:
        cur.execute(NOTE, [id_])
    assert database.try_confirmation(times=3).count == 4
    assert database.promise().state is Standing.KEPT
    other = postgres.connect(in_standby(state_pair, aurora))
    with other.cursor() as cur:

        def replayed() -> bool:
            other.rollback()
            cur.execute("select from notes where id = %s", [id_])
            return bool(cur.rowcount)

        wait(replayed, "the standby to replay what it has")
    other.close()


def test_nothing_is_acknowledged_while_the_other_region_is_away(
    opened: Callable[..., Database], state_pair: StatePair
) -> None:
    """fails when the other region's storage does not move: the commit is here, and does not count."""
    database, id_ = opened(confirm_timeout_s=IMPATIENT_S), secrets.token_hex(8)
    assert database.promise().state is Standing.KEPT
    with frozen(state_pair):
        with pytest.raises(UnconfirmedError):
            database.execute(NOTE, [id_], confirmed=True)
        assert database.execute("select from notes where id = %s", [id_]).rowcount == 1
        assert database.promise().state is Standing.STALLED


def test_a_region_that_was_relit_has_nobody_to_wait_for(opened: Callable[..., Database]) -> None:
    """With no other region counted, a commit counts at once, and the promise says why."""
    database = opened(confirm_replicas=0)
    database.execute(NOTE, ["x"], confirmed=Confirm.ALWAYS)
    promise = database.promise()
    assert (promise.state, promise.reason) == (Standing.NOBODY, "confirm_replicas is 0")


def test_more_regions_than_there_are_confirm_nothing(opened: Callable[..., Database]) -> None:
    """fails when a region has left the global database: the promise says how many there are."""
    database = opened(confirm_replicas=2, confirm_timeout_s=IMPATIENT_S)
    with pytest.raises(UnconfirmedError):
        database.execute(NOTE, ["x"], confirmed=True)
    assert "1 of 2 other regions connected" in database.promise().reason


def test_what_is_no_aurora_says_so(state_pair: StatePair) -> None:
    """fails when the database is another: it has no word of other regions."""
    database = Database(state_pair.primary.dsn(), confirm_by=ConfirmBy.AURORA)
    with pytest.raises(NotFoundError, match="aurora_global_db_status"):
        database.promise()
    database.close()


def test_on_the_way_back_a_cluster_that_was_switched_to_is_known_to_take_writes(
    state_pair: StatePair, aurora: str
) -> None:
    """fails when a recovery into the primary, whose database nothing promotes, asks Aurora for its log."""
    primary = PhysicalReplica(state_pair.primary.dsn(aurora, user=USER))
    assert primary.position() == ReplicaPosition(promoted=True, received_lsn="", replayed_lsn="", last_commit_at=None)


def test_nothing_that_relight_runs_needs_what_aurora_refuses(
    opened: Callable[..., Database], state_pair: StatePair, aurora: str
) -> None:
    """Schema, epochs, tasks, the journal and its positions work though every function of the log is refused.

    Epochs are histories: a place in the first is of the second's up to where that began, and no further.
    """
    database = opened()
    with pytest.raises(PermanentError, match="not supported for Aurora"):
        database.execute("select pg_current_wal_flush_lsn()")
    migrate(database)
    epochs = EpochLog(database)
    epochs.take(1, region="us-east-1", run_id="first")
    Ledger(database, epoch=lambda: 1).start_task({"n": 1}, id_="task-1")
    state = postgres.connect(state_pair.primary.dsn(aurora, user=USER))
    with state, state.cursor() as cur:
        journal.append(cur, [Write(collection="memory", op=Op.DELETE, id="a")], epoch=1)
    first = journal.state_position(state)
    assert first.timeline == 1
    assert journal.covers(state, first.lsn, first.timeline) == (True, True)
    epochs.take(2, region="us-west-2", run_id="run")
    assert journal.state_position(state).timeline == 2
    assert journal.covers(state, first.lsn, 1) == (True, True), "it is of what the second epoch began with"
    for _ in range(3):
        database.execute("select pg_current_xact_id()")
    beyond = journal.state_position(state).lsn
    assert journal.covers(state, beyond, 1) == (True, False), "the first had ended"
    assert journal.covers(state, "FFFF/0", 2)[0] is False
    assert exposure.replica_lag_s(state) is not None
    state.close()
    other = postgres.connect(in_standby(state_pair, aurora))

    def replayed() -> bool:
        other.rollback()
        return journal.covers(other, beyond, 2) == (True, True)

    database.execute("select pg_current_xact_id()")
    wait(replayed, "the standby to replay what it has")
    assert journal.state_position(other).timeline == 2
    assert [entry.id for entry in journal.read(other, "memory", START).entries] == ["a"]
    other.close()
