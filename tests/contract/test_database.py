"""The connection layer on real servers: pool, deadlines, confirmations, a standby that is away, and a promotion."""

from __future__ import annotations

import asyncio
import secrets
import socket
import threading
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import psycopg2
import psycopg2.extensions
import pytest
from fakes import FakeClock
from servers import start_pair

from relight.adapters import postgres
from relight.config import ConfirmBy, OnStandbyAway
from relight.errors import (
    ConfigError,
    ConflictError,
    PermanentError,
    RelightError,
    TransientError,
    UnavailableError,
    UnconfirmedError,
)
from relight.recovery.replica import PhysicalReplica
from relight.tasks import database as module
from relight.tasks.confirm import LOOK_AWAY_EVERY_S, Confirm, Standing
from relight.tasks.database import Database
from relight_drill.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from servers import StatePair

    from relight_drill.postgres import PostgresServer
    from relight_drill.processes import ProcessGroup

pytestmark = pytest.mark.servers

INSERT = "insert into notes (id) values (%s) on conflict (id) do nothing"
PID = "select pg_backend_pid()"
# Long enough for a standby that answers, on a busy machine too.
IMPATIENT_S = 1.0


@pytest.fixture(scope="module")
def notes(state_pair: StatePair) -> None:
    """A table to write into."""
    database = Database(state_pair.primary.dsn())
    database.execute("create table if not exists notes (id text primary key)")
    database.close()


@pytest.fixture
def opened(state_pair: StatePair, notes: None) -> Iterator[Callable[..., Database]]:
    """Makes databases on the primary, and closes them at the end."""
    made: list[Database] = []

    def make(dsn: str = "", **options: Any) -> Database:
        made.append(Database(dsn or state_pair.primary.dsn(), **options))
        return made[-1]

    yield make
    for database in made:
        database.close()


def new() -> str:
    """An id that nobody has."""
    return secrets.token_hex(8)


def has(database: Database, id_: str) -> bool:
    return bool(database.execute("select 1 from notes where id = %s", [id_]).rows)


def wait(condition: Callable[[], bool], what: str) -> None:
    asyncio.run(wait_until(condition, what=what, timeout_s=30))


@contextmanager
def frozen(pair: StatePair) -> Iterator[None]:
    """The standby says nothing meanwhile; afterwards it is back."""
    pair.standby.process.freeze()
    try:
        yield
    finally:
        pair.standby.process.thaw()
        database = Database(pair.primary.dsn(), confirm_timeout_s=30)
        database.execute("create table if not exists thawed (x int)", confirmed=True)
        database.close()


# -- statements and transactions


def test_a_statement_is_a_transaction(opened: Callable[..., Database]) -> None:
    """What it returns and how many rows it touched come back, and it is committed."""
    database, id_ = opened(), new()
    done = database.execute(INSERT + " returning id, 1", [id_])
    assert (done.rows, done.rowcount) == ([(id_, 1)], 1)
    done = database.execute(INSERT, [id_])
    assert (done.rows, done.rowcount) == ([], 0)
    assert has(database, id_)


def test_a_refused_statement_costs_no_connection(opened: Callable[..., Database]) -> None:
    """An error of the server, alone or in a transaction, leaves nothing behind, and the connection is used on."""
    database, id_ = opened(), new()
    pid = database.execute(PID).rows
    database.execute(INSERT, [id_])
    with pytest.raises(ConflictError):
        database.execute("insert into notes values (%s)", [id_])
    other = new()
    with pytest.raises(ConflictError), database.transaction() as cur:
        cur.execute(INSERT, [other])
        cur.execute("insert into notes values (%s)", [id_])
    with pytest.raises(ValueError, match="the caller's"), database.transaction() as cur:
        cur.execute(INSERT, [other])
        raise ValueError("the caller's")
    assert not has(database, other)
    assert database.execute(PID).rows == pid


def test_a_failed_transaction_is_not_committed_in_silence(opened: Callable[..., Database]) -> None:
    """fails when the caller swallows a statement's error: the commit would be a rollback that nobody hears of."""
    database, id_ = opened(), new()
    with pytest.raises(PermanentError, match="nothing of it was committed"), database.transaction() as cur:
        cur.execute(INSERT, [id_])
        with suppress(psycopg2.Error):
            cur.execute("select 1/0")
    assert not has(database, id_)


def test_only_confirmed_commits_wait(opened: Callable[..., Database]) -> None:
    """The session's `synchronous_commit` is what the call needs, whatever the call before it needed."""
    database = opened()
    show = "show synchronous_commit"
    for confirmed, expected in ((False, "local"), (True, "remote_write"), (Confirm.ALWAYS, "remote_write")) * 2:
        assert database.execute(show, confirmed=confirmed).rows == [(expected,)]
        with database.transaction(confirmed=confirmed) as cur:
            cur.execute(show)
            assert cur.fetchone() == (expected,)


def test_a_caller_that_stopped_in_a_transaction_gives_its_rows_up(
    opened: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """fails when a frozen worker, or one whose host vanished without a word, keeps the rows it had for as long."""
    stopped, other, id_ = opened(), opened(), new()
    other.execute(INSERT, [id_])
    change = "update notes set id = id where id = %s"
    monkeypatch.setattr(module, "IDLE_S", 0.2)
    with pytest.raises(UnavailableError), stopped.transaction() as cur:
        cur.execute(change, [id_])
        assert other.execute(change, [id_]).rowcount == 1
    assert stopped.execute(change, [id_]).rowcount == 1


def test_a_transaction_is_what_it_says(opened: Callable[..., Database], state_pair: StatePair) -> None:
    """It sends `begin`, the caller's statements and `commit`; a statement of its own is sent alone."""
    database = opened()
    database.execute("set log_statement = 'all'; set application_name = 'counted'")
    database.execute("select 'alone'")
    with database.transaction() as cur:
        cur.execute("select 'inside'")
    database.execute("set log_statement = 'none'")
    said = [
        line.partition("statement: ")[2]
        for line in state_pair.primary.log_path.read_text().splitlines()
        if "statement: " in line
    ]
    at = said.index("select 'alone'")
    assert said[at : at + 5] == ["select 'alone'", "begin", "select 'inside'", "commit", "set log_statement = 'none'"]


# -- the pool


def test_all_connections_in_use(opened: Callable[..., Database]) -> None:
    """fails when nobody gives a connection back within the bound: the error says how many there are, and what to do."""
    database = opened(size=2)
    with database.transaction(), database.transaction():
        with pytest.raises(UnavailableError, match=r"all 2 connections.*in use.*larger size"):
            database.execute("select 1", within_s=0.05)
        taken = threading.Thread(target=lambda: results.append(database.execute("select 7").rows))
        results: list[Any] = []
        taken.start()
    taken.join()
    assert results == [[(7,)]]


def test_many_threads_share_few_connections(opened: Callable[..., Database]) -> None:
    """Threads beyond the size wait for their turn, and every one of them gets it."""
    database, pids = opened(size=3), set()

    def work() -> None:
        for turn in range(20):
            pids.add(database.execute(PID, confirmed=turn % 2 == 0).rows[0][0])

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= len(pids) <= 3


def test_closing_closes_what_is_given_back(opened: Callable[..., Database]) -> None:
    """A closed database keeps no connection, and no thread once its last deadline is over."""
    database, watcher = opened(), opened()
    with database.transaction() as cur:
        cur.execute(PID)
        pid = cur.fetchone()
        database.close()
    gone = "select count(*) from pg_stat_activity where pid = %s"
    wait(lambda: watcher.execute(gone, pid).rows == [(0,)], "the connection to be closed")


@pytest.mark.parametrize("noticed", [True, False])
def test_a_connection_that_died_idle_is_replaced(
    opened: Callable[..., Database], monkeypatch: pytest.MonkeyPatch, *, noticed: bool
) -> None:
    """What dies while it is idle, whether the socket tells it or only the first word, is replaced before it is used."""
    database, killer, id_ = opened(), opened(), new()
    if not noticed:
        monkeypatch.setattr(postgres, "has_word", lambda _: False)
    with database.transaction() as cur:
        cur.execute(PID)
        pid = cur.fetchone()
    assert killer.execute("select pg_terminate_backend(%s, 5000)", pid).rows == [(True,)]
    if noticed:
        database.execute(INSERT, [id_])
    else:
        with database.transaction() as cur:
            cur.execute(INSERT, [id_])
    assert has(database, id_)


def test_a_connection_that_dies_in_use_fails_the_call_once(opened: Callable[..., Database]) -> None:
    """fails when the server ends the connection in a transaction: nothing is sent again, and the next call works."""
    database, killer, id_ = opened(), opened(), new()
    with pytest.raises(UnavailableError), database.transaction() as cur:
        cur.execute(PID)
        killer.execute("select pg_terminate_backend(%s, 5000)", cur.fetchone())
        cur.execute(INSERT, [id_])
    assert not has(database, id_)


@pytest.mark.parametrize("how", ["lost", "read-only"])
def test_one_that_leads_astray_takes_the_idle_ones_with_it(opened: Callable[..., Database], how: str) -> None:
    """fails when one connection is lost or its server is read-only: no other idle one to that server is used again."""
    database, killer = opened(), opened()
    with database.transaction() as one, database.transaction() as other:
        for cur in (one, other):
            cur.execute(PID)
        before = {one.fetchone(), other.fetchone()}
    with pytest.raises(TransientError), database.transaction() as cur:
        if how == "lost":
            cur.execute(PID)
            killer.execute("select pg_terminate_backend(%s, 5000)", cur.fetchone())
            cur.execute("select 1")
        else:
            cur.execute("do $$ begin raise exception using errcode = '25006'; end $$")
    assert len(before) == 2
    assert database.execute(PID).rows[0] not in before


def test_a_silent_server_is_given_up(opened: Callable[..., Database]) -> None:
    """fails when the server accepts and then says nothing: the wait for it is bounded, in both ways of asking."""
    database = opened()
    with pytest.raises(UnavailableError, match=r"said nothing for 0.2 s"):
        database.execute("select pg_sleep(20)", within_s=0.2)
    with pytest.raises(UnavailableError, match="said nothing"), database.transaction(within_s=0.2) as cur:
        cur.execute("select pg_sleep(20)")
    assert database.execute("select 1").rows == [(1,)]


def test_deadlines_need_one_thread(opened: Callable[..., Database]) -> None:
    """However many transactions there were, one thread watched over them, and it ends when the database is closed."""
    before = threading.active_count()
    database = opened()
    for _ in range(50):
        database.execute("select 1", confirmed=True)
    assert threading.active_count() <= before + 1
    database.close()
    wait(lambda: threading.active_count() <= before, "the watchdog to end")


# -- errors that an operator reads


def test_too_many_connections_are_said(opened: Callable[..., Database], state_pair: StatePair) -> None:
    """fails when the server takes no more connections: the call may be repeated, and the error says so in words."""
    admin, role = opened(), f"r{new()}"
    password = new()
    admin.execute(f"create role {role} login password '{password}' connection limit 1")
    database = opened(state_pair.primary.dsn(user=role, password=password))
    with database.transaction(), pytest.raises(UnavailableError, match="too many connections") as caught:
        database.execute("select 1")
    assert caught.value.retryable
    assert password not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("53100", UnavailableError),  # disk full
        ("53200", UnavailableError),
        ("53300", UnavailableError),
        ("57P01", UnavailableError),
        ("57P03", UnavailableError),  # starting up
        ("25006", TransientError),
        ("40P01", TransientError),
        ("40001", TransientError),
    ],
)
def test_what_passes_may_be_repeated(opened: Callable[..., Database], code: str, kind: type[RelightError]) -> None:
    """fails when a server is full, starting, ending or read-only: the error is one that may be retried."""
    with pytest.raises(kind, match=f"no room.*{code}") as caught:
        opened().execute(f"do $$ begin raise exception using errcode = '{code}', message = 'no room'; end $$")
    assert caught.value.retryable


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u:hunter2@127.0.0.1:{port},127.0.0.1:{port}/db?target_session_attrs=read-write",
        "host=127.0.0.1,127.0.0.1 port={port},{port} user=u password=hunter2 target_session_attrs=read-write",
        "host=127.0.0.1,127.0.0.1 port={port},{port},{port} user=u password=hunter2",
        "postgresql://u:hun@ter2hunter2@127.0.0.1:{port},127.0.0.1/db",
        "postgresql://u:x:hunter2,hunter2@hunter2@127.0.0.1,::1/db",
        "host=[::1],127.0.0.1 port={port},hunter2 user=u password=hunter2",
        "host=127.0.0.1 port={port} user=u password=hunter2 target_session_attrs=writable",
        "postgresql://u:hunter2@127.0.0.1:{port}/db?connect_timeout=hunter",
    ],
)
def test_no_error_quotes_a_password(opened: Callable[..., Database], dsn: str) -> None:
    """fails when no host answers, or the DSN is wrong: the error does not hold the password."""
    with closing(socket.socket()) as closed:
        closed.bind(("127.0.0.1", 0))
        database = opened(dsn.format(port=closed.getsockname()[1]))
        with pytest.raises((UnavailableError, ConfigError)) as caught:
            database.execute("select 1")
    shown = f"{caught.value} {caught.value.__cause__} {caught.value.__context__}"
    assert "hunter2" not in shown


def test_a_host_that_says_nothing_is_passed_over(opened: Callable[..., Database], state_pair: StatePair) -> None:
    """Of several hosts, one that accepts and says nothing is left after its own bound, and the next one is used."""
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        ports = f"{silent.getsockname()[1]},{state_pair.primary.port}"
        dsn = state_pair.primary.dsn(
            host="127.0.0.1,127.0.0.1", port=ports, connect_timeout=2, target_session_attrs="read-write"
        )
        assert opened(dsn).execute("select inet_server_port()").rows == [(state_pair.primary.port,)]


def test_of_several_hosts_the_one_that_writes_is_used(opened: Callable[..., Database], state_pair: StatePair) -> None:
    """With `target_session_attrs=read-write` the standby is passed over, wherever it stands in the list."""
    ports = f"{state_pair.standby.port},{state_pair.primary.port}"
    dsn = state_pair.primary.dsn(host="127.0.0.1,127.0.0.1", port=ports, target_session_attrs="read-write")
    assert opened(dsn).execute("select inet_server_port()").rows == [(state_pair.primary.port,)]


# -- confirmations


BOTH = pytest.mark.parametrize("by", [ConfirmBy.COMMIT, ConfirmBy.POSITION])


@BOTH
def test_a_confirmed_commit_is_in_the_standby(
    opened: Callable[..., Database], state_pair: StatePair, by: ConfirmBy
) -> None:
    """What was confirmed is there when the primary is asked, and the wait for it was measured."""
    database = opened(confirm_by=by, confirm_timeout_s=30)
    for turn in range(5):
        with database.transaction(confirmed=True) as cur:
            cur.execute(INSERT, [new()])
        database.execute(INSERT, [new()], confirmed=Confirm.ALWAYS)
        found = database.confirmations()
        assert found.count == 2 * (turn + 1)
    assert 0 < found.percentile_s(0.5) <= found.longest_s <= found.total_s
    assert (found.unconfirmed, found.proceeded) == (0, 0)
    promise = database.promise()
    assert (promise.state, promise.reason) == (Standing.KEPT, "")
    with closing(psycopg2.connect(state_pair.standby.dsn())) as standby, standby.cursor() as cur:
        id_ = new()
        database.execute(INSERT, [id_], confirmed=True)

        def replayed() -> bool:
            standby.rollback()
            cur.execute("select from notes where id = %s", [id_])
            return cur.rowcount == 1

        wait(replayed, "the standby to replay what it has")


@BOTH
def test_waiting_for_a_standby_that_is_away(
    opened: Callable[..., Database], state_pair: StatePair, by: ConfirmBy
) -> None:
    """fails when the standby is silent: nothing is acknowledged, which the promise shows, until it is back."""
    database, id_ = opened(confirm_by=by, confirm_timeout_s=IMPATIENT_S), new()
    assert database.promise().state is Standing.KEPT
    with frozen(state_pair):
        with pytest.raises(UnconfirmedError, match=f"within {IMPATIENT_S:g} s.*not acknowledged"):
            database.execute(INSERT, [id_], confirmed=True)
        with pytest.raises(UnconfirmedError), database.transaction(confirmed=Confirm.ALWAYS) as cur:
            cur.execute(INSERT, [new()])
        promise = database.promise()
        assert promise.state is Standing.STALLED
        assert f"given up after {IMPATIENT_S:g} s" in promise.reason
        assert has(database, id_)
        found = database.confirmations()
        assert (found.count, found.unconfirmed, found.proceeded) == (0, 2, 0)
    wait(lambda: database.promise().state is Standing.KEPT, "the promise to be kept again")
    patient = opened(confirm_by=by, confirm_timeout_s=30)
    patient.execute(INSERT, [new()], confirmed=True)


@BOTH
def test_proceeding_without_a_standby_that_is_away(
    opened: Callable[..., Database], state_pair: StatePair, by: ConfirmBy, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the policy lets it, a commit counts, and the promise is suspended, once; an effect's intent never does."""
    clock = FakeClock()
    database = opened(confirm_by=by, confirm_timeout_s=IMPATIENT_S, on_standby_away=OnStandbyAway.PROCEED, clock=clock)
    database.execute(INSERT, [new()], confirmed=True)
    with caplog.at_level("WARNING"), frozen(state_pair):
        with database.transaction(confirmed=True) as cur:
            cur.execute(INSERT, [new()])
        promise = database.promise()
        assert promise.state is Standing.SUSPENDED
        assert not promise.kept
        for _ in range(20):
            assert database.execute("show synchronous_commit", confirmed=True).rows == [("local",)]
        clock.sleep(LOOK_AWAY_EVERY_S)
        database.execute(INSERT, [new()], confirmed=True)
        for always in (Confirm.ALWAYS, Confirm.ALWAYS):
            with pytest.raises(UnconfirmedError):
                database.execute(INSERT, [new()], confirmed=always)
        assert database.confirmations().proceeded == 22
        assert database.confirmations().unconfirmed == 2
        assert database.promise() == promise
    assert [record.__dict__["state"] for record in caplog.records] == ["suspended"]

    def acknowledged() -> bool:
        clock.sleep(LOOK_AWAY_EVERY_S)
        database.execute(INSERT, [new()], confirmed=True)
        seen = database.promise_seen()
        return seen is not None and seen.state is Standing.KEPT

    before = database.confirmations().count
    wait(acknowledged, "a commit to be confirmed again")
    database.execute(INSERT, [new()], confirmed=True)
    assert database.confirmations().count > before


@BOTH
def test_a_promise_that_nobody_uses_is_found_broken_too(
    opened: Callable[..., Database], state_pair: StatePair, by: ConfirmBy
) -> None:
    """Asking for the promise finds a silent standby though nothing was committed through this pool."""
    database = opened(confirm_by=by, confirm_timeout_s=IMPATIENT_S, on_standby_away=OnStandbyAway.PROCEED)
    writer = opened()
    with frozen(state_pair):
        writer.execute(INSERT, [new()])
        assert database.promise().state is Standing.SUSPENDED
    wait(lambda: database.promise().state is Standing.KEPT, "the promise to be kept again")


def test_a_wait_that_somebody_else_ended_is_no_confirmation(
    opened: Callable[..., Database], state_pair: StatePair
) -> None:
    """fails when an operator cancels the wait for the standby: the commit succeeds, and is not acknowledged."""
    database, operator = opened(confirm_timeout_s=30), opened()
    waiting = "select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'"

    def cancel() -> None:
        wait(lambda: bool(operator.execute(waiting).rows), "a commit that waits")

    with frozen(state_pair):
        thread = threading.Thread(target=cancel)
        thread.start()
        with pytest.raises(UnconfirmedError):
            database.execute(INSERT, [new()], confirmed=True)
        thread.join()


def test_a_statement_longer_than_its_confirmation_may_take(opened: Callable[..., Database]) -> None:
    """fails when a statement takes longer than the bound of its confirmation: nothing of it is committed."""
    database, id_ = opened(confirm_timeout_s=0.2), new()
    with pytest.raises(UnavailableError, match=r"longer than 0.2 s.*nothing of it was committed"):
        database.execute(INSERT + " returning pg_sleep(60)", [id_], confirmed=True)
    assert not has(database, id_)


def test_a_commit_may_take_longer_than_a_statement(opened: Callable[..., Database], state_pair: StatePair) -> None:
    """The wait for the standby has a bound of its own, which may be longer than that of the statements."""
    database, id_ = opened(confirm_timeout_s=30), new()
    with frozen(state_pair):
        thaw = threading.Timer(0.5, state_pair.standby.process.thaw)
        thaw.start()
        with database.transaction(confirmed=True, within_s=0.2) as cur:
            cur.execute(INSERT, [id_])
        thaw.join()
    assert database.confirmations().count == 1


def test_where_there_is_no_standby_a_commit_counts(
    opened: Callable[..., Database], vector_server: PostgresServer
) -> None:
    """In a region whose database has no standby even an effect's intent counts at once, and the promise says why."""
    for options, reason in (
        ({}, "synchronous_standby_names is empty"),
        ({"confirm_by": ConfirmBy.POSITION, "confirm_replicas": 0}, "confirm_replicas is 0"),
    ):
        database = opened(vector_server.dsn(), confirm_timeout_s=0.3, **options)
        assert database.execute("select 1", confirmed=Confirm.ALWAYS).rows == [(1,)]
        with database.transaction(confirmed=True) as cur:
            cur.execute("create table if not exists alone (x int)")
        for promise in (database.promise_seen(), database.promise()):
            assert promise is not None
            assert (promise.state, promise.reason, promise.kept) == (Standing.NOBODY, reason, False)
        assert database.confirmations().count == 0


def test_a_replica_that_is_missing_is_away(opened: Callable[..., Database], vector_server: PostgresServer) -> None:
    """fails when a replica is expected and none is connected: the promise says how many are missing."""
    database = opened(vector_server.dsn(), confirm_timeout_s=0.1, confirm_by=ConfirmBy.POSITION)
    with pytest.raises(UnconfirmedError):
        database.execute("create table if not exists alone (x int)", confirmed=True)
    assert database.promise().reason.startswith("0 of 1 replicas connected")


def test_who_may_not_see_the_standbys_is_still_confirmed(
    opened: Callable[..., Database], state_pair: StatePair
) -> None:
    """Without the right to see them commits tell; by position nothing can, and the promise says what to grant."""
    admin, role, password = opened(), f"r{new()}", new()
    admin.execute(f"create role {role} login password '{password}'")
    admin.execute(f"grant all on notes to {role}")
    dsn = state_pair.primary.dsn(user=role, password=password)
    commits = opened(dsn, confirm_timeout_s=30)
    commits.execute(INSERT, [new()], confirmed=True)
    assert commits.promise().state is Standing.KEPT
    positions = opened(dsn, confirm_timeout_s=0.1, confirm_by=ConfirmBy.POSITION)
    with pytest.raises(UnconfirmedError):
        positions.execute(INSERT, [new()], confirmed=True)
    assert "grant it pg_read_all_stats" in positions.promise().reason


def test_many_commits_by_position_share_their_looks(
    opened: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commits that wait at the same time are all confirmed, by looks of which there is one at a time."""
    database = opened(confirm_by=ConfirmBy.POSITION, confirm_timeout_s=30, size=20)
    looking, most, look = threading.Semaphore(), [0], database._look

    def counted() -> Any:
        assert looking.acquire(blocking=False), "two looks at once"
        try:
            most[0] += 1
            return look()
        finally:
            looking.release()

    monkeypatch.setattr(database._positions, "_ask", counted)
    threads = [
        threading.Thread(target=lambda: [database.execute(INSERT, [new()], confirmed=True) for _ in range(10)])
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert database.confirmations().count == 200
    assert most[0] < 200


# -- a server that ends, and one that is promoted


@pytest.fixture
def own_pair(server_group: ProcessGroup, server_dir: Path) -> Iterator[StatePair]:
    """A pair for tests that break it."""
    pair = asyncio.run(start_pair(server_group, server_dir / f"pair-{new()}"))
    yield pair
    pair.primary.kill()
    pair.standby.kill()


def either(pair: StatePair) -> str:
    """The DSN of whichever of the two takes writes."""
    ports = f"{pair.primary.port},{pair.standby.port}"
    return pair.primary.dsn(host="127.0.0.1,127.0.0.1", port=ports, target_session_attrs="read-write")


def written(database: Database, id_: str) -> bool:
    """Whether one attempt succeeded; a caller that repeats it with the same id needs no more."""
    try:
        with database.transaction(confirmed=True) as cur:
            cur.execute(INSERT, [id_])
    except TransientError:
        return False
    return True


def test_a_promotion_loses_neither(own_pair: StatePair) -> None:
    """fails when the primary is killed in a transaction: the call says so, and repeated with the same id, before or
    after the commit was lost, it is there once, on the promoted server, through the same pool."""
    database = Database(either(own_pair), confirm_timeout_s=10)
    database.execute("create table notes (id text primary key)", confirmed=True)
    acknowledged = [new() for _ in range(20)]
    for id_ in acknowledged:
        assert written(database, id_)
    torn = new()
    with pytest.raises(UnavailableError), database.transaction(confirmed=True) as cur:
        cur.execute(INSERT, [torn])
        own_pair.primary.kill()
    with pytest.raises(UnavailableError):
        database.execute("select 1")
    assert PhysicalReplica(own_pair.standby.dsn()).promote()
    for id_ in [torn, torn, *acknowledged]:
        wait(lambda id_=id_: written(database, id_), "the promoted server to be found")  # type: ignore[misc]
    found = database.execute("select id, count(*) over () from notes where id = any(%s)", [[torn, *acknowledged]])
    assert {row[0] for row in found.rows} == {torn, *acknowledged}
    assert database.execute("select inet_server_port()").rows == [(own_pair.standby.port,)]
    assert database.promise().state is Standing.NOBODY
    database.close()


def test_a_commit_that_is_cut_off_is_undecided(own_pair: StatePair) -> None:
    """fails when the primary dies while a commit waits for the standby: it is not acknowledged, whatever became of it,
    and repeated with the same id it is there once."""
    database, watcher = Database(either(own_pair), confirm_timeout_s=60), Database(own_pair.primary.dsn())
    database.execute("create table notes (id text primary key)", confirmed=True)
    raised: list[RelightError] = []

    def commit() -> None:
        try:
            database.execute(INSERT, ["cut off"], confirmed=Confirm.ALWAYS)
        except RelightError as exc:
            raised.append(exc)

    own_pair.standby.process.freeze()
    thread = threading.Thread(target=commit)
    thread.start()
    waiting = "select 1 from pg_stat_activity where wait_event = 'SyncRep'"
    wait(lambda: bool(watcher.execute(waiting).rows), "the commit to wait")
    own_pair.primary.kill()
    thread.join()
    assert [type(exc) for exc in raised] == [UnavailableError]
    own_pair.standby.process.thaw()
    assert PhysicalReplica(own_pair.standby.dsn()).promote()
    wait(lambda: written(database, "cut off"), "the promoted server to be found")
    assert database.execute("select id from notes").rows == [("cut off",)]
    for each in (database, watcher):
        each.close()


def test_a_primary_that_falls_silent_is_left(own_pair: StatePair) -> None:
    """fails when the primary says nothing any more, and its connections stay open: calls end in their time, and once
    the standby is promoted they find it, past the silent one."""
    database = Database(f"{either(own_pair)} connect_timeout=2", confirm_timeout_s=IMPATIENT_S)
    database.execute("create table notes (id text primary key)", confirmed=True)
    own_pair.primary.process.freeze()
    for _ in range(2):
        with pytest.raises(UnavailableError):
            database.execute(INSERT, ["lost"], within_s=0.3)
    assert PhysicalReplica(own_pair.standby.dsn()).promote()
    wait(lambda: written(database, "kept"), "the promoted server to be found")
    assert has(database, "kept")
    database.close()


def test_a_primary_that_is_told_to_write_no_more_is_left(own_pair: StatePair) -> None:
    """fails when an operator makes the old primary read-only: its connections are dropped at the first word, the
    standby, once promoted, is used, and where nobody takes writes the error says so."""
    database, other = (Database(either(own_pair), confirm_timeout_s=IMPATIENT_S) for _ in range(2))
    database.execute("create table notes (id text primary key)", confirmed=True)
    for each in (database, other):
        assert each.execute("select inet_server_port()").rows == [(own_pair.primary.port,)]
    admin = Database(own_pair.primary.dsn())
    admin.execute("alter system set default_transaction_read_only = on")
    admin.execute("select pg_reload_conf()")
    wait(lambda: admin.execute("show default_transaction_read_only").rows == [("on",)], "the reload")
    with pytest.raises(TransientError, match="25006"):
        other.execute(INSERT, [new()])
    for each in (database, other):
        with pytest.raises(UnavailableError, match="session is read-only"), each.transaction() as cur:
            cur.execute(INSERT, [new()])
    assert PhysicalReplica(own_pair.standby.dsn()).promote()
    id_ = new()
    wait(lambda: written(database, id_), "the promoted server to be found")
    assert database.execute("select inet_server_port()").rows == [(own_pair.standby.port,)]
    for each in (database, other, admin):
        each.close()


def test_a_server_that_restarts_is_found_again(own_pair: StatePair) -> None:
    """fails when the server is down or starting: every call says so in its time, and when it is back they work."""
    database = Database(own_pair.primary.dsn(), confirm_timeout_s=10)
    database.execute("create table notes (id text primary key)", confirmed=True)
    assert written(database, "before")
    asyncio.run(own_pair.primary.stop(immediate=True))
    for _ in range(3):
        with pytest.raises(UnavailableError, match="refused"):
            database.execute("select 1")
    starting = threading.Thread(target=lambda: asyncio.run(own_pair.primary.start()))
    starting.start()
    wait(lambda: written(database, "after"), "the server to be back")
    starting.join()
    assert sorted(database.execute("select id from notes").rows) == [("after",), ("before",)]
    database.close()
