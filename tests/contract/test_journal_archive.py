"""The journal's past: archived to one vault, pruned when the other region has it, and read back without a gap."""

from __future__ import annotations

import asyncio
import json
import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from journal_helpers import Past
from memory_helpers import (
    DIMENSION,
    EPOCH,
    Ticking,
    breaking,
    make_state,
    near_more_digits,
    settle,
    some_points,
    wait_for_standby,
)
from servers import start_pair

from relight.adapters import aws, postgres
from relight.errors import IntegrityError, RelightError, UnavailableError
from relight.memory import archive as archiving
from relight.memory import journal
from relight.memory.api import Applier
from relight.memory.hydrate import hydrate, verify_memory
from relight.memory.journal import START, Op, Position, PrunedError, Write
from relight.memory.reader import GapError
from relight.memory.segments import Archive
from relight.memory.vectors import pack
from relight.tasks.database import Database
from relight.vault import points
from relight.vault.retention import prune
from relight.vault.segments import PREFIX
from relight.vault.store import Vault
from relight_drill.emulator import SECRET_KEY

if TYPE_CHECKING:
    from pathlib import Path

    from memory_helpers import StateDsns
    from servers import StatePair

    from relight.adapters.postgres import Connection
    from relight.memory.archive import Archived
    from relight.memory.pgvector import PgVectorStore
    from relight.memory.store import CollectionSpec
    from relight_drill.emulator import Emulator
    from relight_drill.processes import ProcessGroup

pytestmark = pytest.mark.servers

FORGET_AFTER = timedelta(days=14)


def test_a_pruned_journal_is_the_same_journal(past: Past) -> None:
    """Every entry comes back as it was, and what is counted, checked and measured stays exact, wherever it is cut."""
    past.write(30, "a", task="t-1")
    past.forget("a3", "a4", "never")
    past.write(5, "a", task="t-2")
    before = past.entries()
    alive = {entry.position: journal.alive(past.state, past.spec.name, entry.position) for entry in before}
    done = past.prune()
    assert (done.pruned_segments, done.pruned_entries, done.edge) == (1, 38, before[-1].position)
    past.write(10, "b")
    past.forget("a0", "b1", "a0")
    assert past.entries()[:38] == before
    Applier(store=past.store, spec=past.spec, state=past.state).catch_up()
    assert verify_memory(store=past.store, state=past.state, spec=past.spec).points == 38
    assert journal.alive(past.state, past.spec.name, before[-1].position) == alive[before[-1].position] == 30
    for entry in before:
        past.reader().check(entry.position)
    with pytest.raises(IntegrityError, match="does not hold"):
        past.reader().check(replace(before[3].position, seq=before[3].position.seq + 10**9))
    with pytest.raises(PrunedError, match="begins after"):
        journal.alive(past.state, past.spec.name, before[3].position)
    # Cut again, elsewhere: the second segment begins where the first one ends.
    second = past.prune()
    assert (second.segments, second.pruned_entries) == (0, 13)
    assert len(past.entries()) == 51
    assert verify_memory(store=past.store, state=past.state, spec=past.spec).points == 38
    assert [(item.after, item.until) for item in journal.segments(past.state, past.spec.name, START)] == [
        (START, done.edge),
        (done.edge, second.edge),
    ]


def test_nothing_pruned_is_passed_over_in_silence(past: Past, spec: CollectionSpec) -> None:
    """fails when a reader without the archive begins at the edge as if nothing had been before."""
    past.write(20, "a")
    first = past.entries()[4].position
    past.prune()
    past.write(1, "b")
    for position in (START, first):
        with pytest.raises(PrunedError, match="the vaults have what is missing"):
            journal.read(past.state, spec.name, position)
        with pytest.raises(PrunedError):
            journal.pending(past.state, spec.name, position, limit=5)
    with pytest.raises(PrunedError):
        journal.check_history(past.state, spec.name, first)
    past.store.drop(spec.name)
    with pytest.raises(PrunedError):
        Applier(store=past.store, spec=spec, state=past.state).catch_up()
    assert past.store.describe(spec.name) is None
    past.store.ensure(spec)
    with pytest.raises(UnavailableError, match="bring the memory forward"):
        past.memory.search(past.state, [1.0] * DIMENSION)
    with pytest.raises(IntegrityError, match="hydrate"):
        verify_memory(store=past.store, state=past.state, spec=spec)
    done = Applier(store=past.store, spec=spec, state=past.state, archive=Archive(past.own)).catch_up()
    assert done.entries == 21
    assert verify_memory(store=past.store, state=past.state, spec=spec).points == 21


def test_an_applier_that_was_away_comes_back_through_the_archive(
    past: Past, elsewhere: PgVectorStore, standby: Connection, state_pair: StatePair, spec: CollectionSpec
) -> None:
    """In the standby, from the middle of a segment, across several of them, and on to what is not archived."""
    past.write(20, "a")
    wait_for_standby(state_pair)
    applier = Applier(store=elsewhere, spec=spec, state=standby, archive=Archive(past.peer), batch=7)
    assert applier.catch_up().entries == 20
    past.write(13, "b")
    past.prune()
    past.write(17, "c")
    past.prune()
    past.write(3, "d")
    wait_for_standby(state_pair)
    assert journal.behind(standby, spec.name, elsewhere.position(spec.name)) >= 33
    assert journal.lag_s(standby, spec.name, elsewhere.position(spec.name)) > 0
    assert applier.catch_up().entries == 33
    assert (journal.behind(standby, spec.name, elsewhere.position(spec.name)), applier.lag_s()) == (0, 0)
    assert verify_memory(store=elsewhere, state=standby, spec=spec).points == 53


def test_little_and_young_waits(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment is cut when it is full, or when its first entry is an hour old: not for every few entries."""
    past.write(25, "a")
    assert past.archive(max_age_s=3600).segments == 0
    monkeypatch.setattr(archiving, "SEGMENT_ENTRIES", 10)
    assert past.archive(max_age_s=3600).segments == 2
    assert [item.entries for item in journal.segments(past.state, past.spec.name, START)] == [10, 10]
    assert past.archive(max_age_s=3600).segments == 0
    assert past.archive(max_age_s=0).segments == 1
    monkeypatch.setattr(archiving, "SEGMENT_BYTES", 300)
    past.write(4, "b")
    assert past.archive(max_age_s=3600).segments >= 2


def test_what_may_still_be_preceded_is_not_archived(past: Past, state_dsns: StateDsns) -> None:
    """fails when the archive goes past a transaction that began earlier and commits later: it would lose it."""
    with closing(postgres.connect(state_dsns.primary)) as late:
        with late.cursor() as cursor:
            past.memory.upsert(cursor, some_points(1, prefix="late"), epoch=EPOCH)
        past.write(5, "a", settled=False)
        past.take()
        assert past.archive().segments == 0
        late.commit()
    settle(past.state)
    past.take()
    past.archive()
    past.replicate()
    assert past.archive().pruned_entries == 6
    assert next(entry.id for entry in past.entries()) == "late0"


def test_a_point_is_brought_forward_from_before_the_edge(
    past: Past, elsewhere: PgVectorStore, standby: Connection, state_pair: StatePair, spec: CollectionSpec
) -> None:
    """Hydration is the snapshot plus everything after it, whether it is in the vault or in the database."""
    past.write(20, "a")
    old = past.take()
    past.write(10, "b")
    past.forget("a1")
    past.prune()
    past.write(5, "c")
    wait_for_standby(state_pair)
    [done] = hydrate(store=elsewhere, vault=past.peer, state=standby, specs=[spec], clock=past.clock, point=old.id)
    assert (done.restored, done.entries_applied, done.points) == (old.id, 16, 34)
    assert verify_memory(store=elsewhere, state=standby, spec=spec).points == 34


def test_without_any_point_the_archive_is_read_from_the_beginning(past: Past, elsewhere: PgVectorStore) -> None:
    """The journal alone rebuilds a memory as long as the archive goes back to its beginning."""
    past.write(20, "a")
    past.prune()
    past.write(5, "b")
    [done] = hydrate(store=elsewhere, vault=past.own, state=past.state, specs=[past.spec], clock=past.clock)
    assert (done.restored, done.points, done.entries_applied) == (None, 25, 25)


def test_segments_are_in_the_order_of_numbers(past: Past) -> None:
    """fails when transaction ids are ordered as text: the archive would begin after 999 again and again."""
    near_more_digits(past.state)
    for part in range(8):
        past.write(1, str(part))
        past.archive()
    segments = journal.segments(past.state, past.spec.name, START)
    assert [item.after for item in segments] == [START, *(item.until for item in segments[:-1])]
    assert len({len(str(item.until.xid)) for item in segments}) == 2
    assert past.prune().pruned_segments == 8
    assert [entry.id for entry in past.entries()] == [f"{part}0" for part in range(8)]


def damage(vault: Vault, key: str, how: str) -> None:
    data = vault.get_bytes(key)
    if how == "gone":
        vault.delete([key])
    else:
        vault.put_bytes(key, data[:-1] + bytes([data[-1] ^ 1]) if how == "flipped" else data[:-5])


@pytest.mark.parametrize("how", ["gone", "flipped", "cut"])
def test_a_segment_that_is_lost_is_an_error_and_no_gap(past: Past, elsewhere: PgVectorStore, how: str) -> None:
    """fails when a memory is made without it: the other vault's copy is used, and without one nothing is applied."""
    past.write(10, "a")
    old = past.take(past.own)
    for prefix in "bcd":
        past.write(10, prefix)
        past.prune()
    # The first is older than the point: nobody misses it.
    first, middle, _ = past.keys()
    past.own.delete([first])
    damage(past.own, middle, how)
    arguments: dict[str, Any] = {"state": past.state, "specs": [past.spec], "clock": past.clock, "vault": past.own}
    with pytest.raises(IntegrityError):
        hydrate(store=elsewhere, point=old.id, **arguments)
    if how == "gone":
        assert elsewhere.describe(past.spec.name) is None
    else:
        found = elsewhere.describe(past.spec.name)
        assert found is None or found.points <= 20
    [done] = hydrate(store=elsewhere, point=old.id, peer=past.peer, force=True, **arguments)
    assert (done.restored, done.points) == (old.id, 40)
    assert verify_memory(store=elsewhere, state=past.state, spec=past.spec).points == 40


def test_a_forged_segment_is_refused(past: Past) -> None:
    """fails when bytes that are a whole segment, but not the one that was archived, are applied."""
    past.write(10, "a")
    past.prune()
    past.write(10, "b")
    past.prune()
    one, two = past.keys()
    for vault in (past.own, past.peer):
        vault.put_bytes(one, vault.get_bytes(two))
    with pytest.raises(IntegrityError, match="and the state database says"):
        past.entries()


def test_a_gap_between_segments_is_an_error(past: Past, database: Database) -> None:
    """fails when the row of a segment is gone and its successor is taken for it."""
    for prefix in "abc":
        past.write(5, prefix)
        past.prune()
    middle = journal.segments(past.state, past.spec.name, START)[1]
    with database.transaction() as cursor:
        cursor.execute("delete from relight.journal_segments where object = %s", [middle.object])
    with pytest.raises(GapError, match=f"does not reach back to {middle.after}"):
        past.entries()
    with pytest.raises(GapError):
        past.reader().check_reach(START)
    past.reader().check_reach(middle.until)


def test_nothing_is_pruned_that_the_other_region_has_not(past: Past) -> None:
    """fails when entries go without a point there that holds them, or without the segment in its vault, whole."""
    past.write(10, "a")
    assert "no eligible point in us-west-2" in past.archive().waiting
    past.take(past.own)
    assert "no eligible point in us-west-2" in past.archive().waiting
    early = past.take()
    past.write(10, "b")
    past.archive()
    assert "is not in the vault" in past.archive().waiting
    past.replicate()
    done = past.archive()
    assert (done.pruned_entries, "the newest comes to" in done.waiting) == (10, True)
    newest = past.take()
    past.peer.delete([newest.pieces[0].object])
    assert "the newest comes to" in past.archive().waiting
    past.take()
    damage(past.peer, [*past.peer.list_keys(PREFIX)][1], "flipped")
    assert "and the state database says" in past.archive().waiting
    assert past.archive().pruned_entries == 0
    past.replicate()
    assert past.archive().pruned_entries == 10
    assert points.find(past.peer, early.id)


def test_a_point_of_a_lost_history_covers_nothing(past: Past) -> None:
    """fails when entries are pruned for a point that the old primary sealed after the histories had parted."""
    past.write(10, "a")
    manifest = past.take()
    foreign = replace(manifest, state=replace(manifest.state, timeline=manifest.state.timeline + 1))
    past.peer.put_bytes(points.manifest_key(manifest.id), foreign.to_json().encode())
    past.archive()
    past.replicate()
    assert "no eligible point" in past.archive().waiting


def test_an_unreachable_peer_prunes_nothing(past: Past, emulator: Emulator) -> None:
    """The own vault still gets the archive, and the result says what it waits for."""
    past.write(10, "a")
    past.take()
    session = boto3.Session(aws_access_key_id=emulator.account, aws_secret_access_key=SECRET_KEY)
    client = aws.client("s3", "us-west-2", session=session, endpoint_url="http://127.0.0.1:9", attempts=1)
    away = Vault(client, past.peer.bucket, region="us-west-2")
    done = past.archive(peer=away)
    assert (done.segments, done.pruned_entries) == (1, 0)
    assert "cannot be asked for its points" in done.waiting
    with pytest.raises(UnavailableError):
        past.write(1, "b")
        past.archive(own=away)
    assert len(past.entries()) == 11


def test_where_no_store_replicates_it_is_carried(past: Past) -> None:
    """And the own vault gets back what it lost."""
    past.write(10, "a")
    past.take()
    done = past.archive(carry=True)
    assert (done.segments, done.pruned_entries, done.waiting) == (1, 10, "")
    past.write(10, "b")
    past.take()
    past.archive()
    past.replicate()
    past.own.delete(past.keys()[1:])
    assert past.archive().pruned_entries == 10
    assert len(past.keys()) == 2


@pytest.mark.parametrize("arrives", [False, True], ids=["lost", "answer lost"])
def test_a_run_that_is_killed_at_any_request_loses_nothing(past: Past, emulator: Emulator, arrives: bool) -> None:
    """fails when an entry can be read neither from the database nor from the vaults, or what is left minds the next."""
    session = boto3.Session(aws_access_key_id=emulator.account, aws_secret_access_key=SECRET_KEY)
    past.write(10, "a")
    expected = 10
    steps = 0
    for step in range(1, 60):
        past.write(3, f"s{step}-")
        expected += 3
        past.take()
        client = aws.client("s3", "us-east-1", session=session, endpoint_url=emulator.url, attempts=1)
        begun, mend = breaking(client, step, arrives=arrives)
        with suppress(RelightError):
            past.archive(
                peer=Vault(client, past.peer.bucket, region="us-west-2"),
                own=Vault(client, past.own.bucket, region="us-east-1"),
                carry=True,
            )
        mend()
        assert len({entry.position for entry in past.entries()}) == expected
        steps += begun() >= step
        if begun() < step:
            break
    assert steps > 8
    past.take()
    assert past.archive(carry=True).waiting == ""
    assert len(past.entries()) == expected


class Dying(Database):
    """A database that dies at a transaction, before or after it is committed."""

    def __init__(self, dsn: str, at: int, *, committed: bool) -> None:
        super().__init__(dsn)
        self._at, self._after = at, committed

    def transaction(self, **options: Any) -> Any:
        """See `Database`."""
        self._at -= 1
        if self._at:
            return super().transaction(**options)
        if self._after:
            return _Killed(super().transaction(**options))
        raise UnavailableError("killed")


class _Killed:
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __enter__(self) -> Any:
        return self._inner.__enter__()

    def __exit__(self, *exc: Any) -> None:
        self._inner.__exit__(*exc)
        raise UnavailableError("killed")


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_run_that_is_killed_between_upload_and_prune_is_finished_by_the_next(
    past: Past, state_dsns: StateDsns, monkeypatch: pytest.MonkeyPatch, at: int, committed: bool
) -> None:
    """Uploaded and not noted, noted and not pruned, pruned and not known to be: nothing is lost, nothing is double."""
    monkeypatch.setattr(archiving, "SEGMENT_ENTRIES", 10)
    past.write(20, "a")
    before = past.entries()
    past.take()
    with closing(Dying(state_dsns.primary, at, committed=committed)) as dying, pytest.raises(UnavailableError):
        past.archive(database=dying, carry=True)
    assert past.entries() == before
    past.write(1, "b")
    past.take()
    past.archive(carry=True)
    assert journal.edge(past.state, past.spec.name) == past.entries()[-1].position
    assert len(past.entries()) == 21
    assert journal.alive(past.state, past.spec.name, journal.edge(past.state, past.spec.name)) == 21


def test_two_at_once_do_it_once(past: Past, state_dsns: StateDsns, monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when one archiver's segment overlaps another's, or an entry is counted twice among the living."""
    monkeypatch.setattr(archiving, "SEGMENT_ENTRIES", 7)
    past.write(100, "a")
    past.forget("a1")
    past.write(3, "a")
    past.take()

    def run(_: int) -> Archived:
        with closing(postgres.connect(state_dsns.primary)) as state, closing(Database(state_dsns.primary)) as database:
            return past.archive(state=state, database=database, carry=True)

    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(run, range(3)))
    past.archive(carry=True)
    assert sum(item.pruned_entries for item in found) <= 104
    segments = journal.segments(past.state, past.spec.name, START)
    assert sum(item.entries for item in segments) == 104
    assert [item.after for item in segments] == [START, *(item.until for item in segments[:-1])]
    assert journal.edge(past.state, past.spec.name) == segments[-1].until
    assert journal.alive(past.state, past.spec.name, segments[-1].until) == 100


def test_an_entry_that_nobody_archived_is_not_deleted(past: Past, state: Connection) -> None:
    """fails when a row that was slipped in below the horizon goes with the others."""
    past.write(5, "a")
    past.take()
    past.archive()
    past.replicate()
    with state, state.cursor() as cursor:
        cursor.execute(
            "insert into relight.journal (xid, epoch, collection, op, id) values ('3', 1, %s, 'delete', 'x')",
            [past.spec.name],
        )
    with pytest.raises(IntegrityError, match="holds 6 entries"):
        past.archive()
    assert len(journal.read(state, past.spec.name, START).entries) == 6


def test_a_dry_run_says_what_it_would_do(past: Past) -> None:
    """And changes nothing, neither here nor in a vault."""
    past.write(10, "a")
    past.take()
    done = past.archive(dry_run=True)
    assert (done.segments, done.entries, done.pruned_segments) == (1, 10, 0)
    assert past.keys() == []
    past.archive()
    past.replicate()
    done = past.archive(dry_run=True)
    assert (done.pruned_segments, done.pruned_entries, done.edge) == (1, 10, START)
    assert json.dumps(done.to_json())
    assert journal.edge(past.state, past.spec.name) == START


def test_large_payloads_are_read_a_few_at_a_time(
    past: Past, state: Connection, spec: CollectionSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fails when a page of megabytes each is held at once, or when an entry larger than a page stops the reader."""
    writes = [
        Write(
            collection=spec.name,
            op=Op.UPSERT,
            id=f"big{n}",
            vector=pack([0.5] * DIMENSION),
            payload={"text": secrets.token_hex(100_000)},
        )
        for n in range(6)
    ]
    with state, state.cursor() as cursor:
        journal.append(cursor, writes, epoch=EPOCH)
    monkeypatch.setattr(journal, "BATCH_BYTES", 250_000)
    batch = journal.read(state, spec.name, START)
    assert (len(batch.entries), batch.complete) == (2, False)
    assert [entry.id for entry in past.entries()] == [f"big{n}" for n in range(6)]
    monkeypatch.setattr(archiving, "SEGMENT_BYTES", 450_000)
    past.take()
    assert past.archive(carry=True).segments == 2
    assert [entry.payload for entry in past.entries()] == [write.payload for write in writes]


def test_any_name_and_any_text_is_archived(past: Past, spec: CollectionSpec) -> None:
    """Names, ids and payloads with slashes, newlines, quotes and emoji come back as they were."""
    odd = Past(
        past.store,
        replace(spec, name=f'{spec.name}/../ü "x"\n🌍'),
        past.state,
        past.database,
        past.own,
        past.peer,
        past.clock,
    )
    ids = ["a/b", "x\ny", "  ", "🌍", 'q"', "\u2028"]
    writes = [
        Write(
            collection=odd.spec.name,
            op=Op.UPSERT,
            id=id_,
            vector=pack([n / 3] * DIMENSION),
            payload={"x": [id_, 1.1e-7, None, {"\u2028": 10**30}]},
        )
        for n, id_ in enumerate(ids)
    ]
    with odd.state, odd.state.cursor() as cursor:
        journal.append(cursor, writes, epoch=EPOCH, task_id="t/\n1")
    before = odd.entries()
    odd.prune()
    assert odd.entries() == before
    assert [entry.id for entry in before] == ids


def test_what_no_point_needs_leaves_the_vault(past: Past) -> None:
    """Segments live as long as the oldest daily rung, in each vault by its own ladder; a monthly one keeps none."""
    past.clock.shift(timedelta(days=-3))
    past.write(5, "a")
    past.prune()
    first = past.take()
    past.clock.shift(timedelta(days=2))
    past.write(5, "b")
    past.prune()
    second = past.take()
    past.clock.shift(timedelta(days=1))
    now = past.clock.now()
    ladder: dict[str, Any] = {"keep_hourly": 0, "keep_daily": 1, "keep_monthly": 0}
    wide = prune(past.peer, keep_hourly=0, keep_daily=2, keep_monthly=0, now=now, dry_run=True)
    assert (wide.segments, {*wide.plan.keep}) == (1, {first.id, second.id})
    assert prune(past.own, **ladder, now=now).segments == 0  # no point is here
    done = prune(past.peer, **ladder, now=now)
    assert (done.segments, done.failed, {*done.plan.keep}) == (2, {}, {second.id})
    assert [*past.peer.list_keys(PREFIX)] == []
    assert prune(past.peer, **ladder, now=now).segments == 0
    assert len(past.keys()) == 2
    # What the other vault still has can still be brought forward.
    assert len(past.entries()) == 10


def test_a_locked_segment_is_left(past: Past, emulator: Emulator) -> None:
    """fails when a part of the journal goes that Object Lock holds, which a vault with versions does not refuse."""
    s3 = emulator.client("s3", past.peer.region)
    bucket = f"locked-{secrets.token_hex(6)}"
    place: Any = {"LocationConstraint": past.peer.region}
    s3.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True, CreateBucketConfiguration=place)
    past.peer = Vault(s3, bucket, region=past.peer.region)
    for prefix in "abc":
        past.write(5, prefix)
        past.prune()
    past.clock.shift(timedelta(seconds=1))
    past.take()
    kept, held, _ = past.peer.list_keys(PREFIX)
    s3.put_object_legal_hold(Bucket=bucket, Key=held, LegalHold={"Status": "ON"})
    until = past.clock.now() + timedelta(days=1)
    s3.put_object_retention(
        Bucket=bucket, Key=kept, Retention={"Mode": "GOVERNANCE", "RetainUntilDate": until.replace(microsecond=0)}
    )
    ladder: dict[str, Any] = {"keep_hourly": 0, "keep_daily": 1, "keep_monthly": 0}
    assert prune(past.peer, **ladder, now=past.clock.now()).segments == 1
    assert [*past.peer.list_keys(PREFIX)] == [kept, held]
    assert prune(past.peer, **ladder, now=until).segments == 1
    assert [*past.peer.list_keys(PREFIX)] == [held]


def test_rows_of_what_both_vaults_let_go_are_forgotten(past: Past, database: Database) -> None:
    """They do not add up for ever; what is gone before its time stays noted, because it is missed."""
    for prefix in "ab":
        past.write(5, prefix)
        past.prune()
    old, new = past.keys()
    past.peer.delete([old])
    past.archive(forget_after=timedelta())
    assert len(journal.segments(past.state, past.spec.name, START)) == 2
    past.own.delete([old])
    past.archive()
    assert len(journal.segments(past.state, past.spec.name, START)) == 2
    with pytest.raises(IntegrityError, match="cannot be read"):
        past.entries()
    past.archive(forget_after=timedelta())
    [left] = journal.segments(past.state, past.spec.name, START)
    assert left.object == new
    with pytest.raises(GapError, match="does not reach back"):
        past.entries()


def test_a_memory_out_of_reach_is_restored_over(past: Past, elsewhere: PgVectorStore) -> None:
    """A standby's store that was away for longer than the archive goes back gets the newest point, and is kept."""
    past.write(5, "a")
    Applier(store=elsewhere, spec=past.spec, state=past.state).catch_up()
    past.write(5, "b")
    past.prune()
    newest = past.take()
    for vault in (past.own, past.peer):
        vault.delete([*vault.list_keys(PREFIX)])
    [done] = hydrate(store=elsewhere, vault=past.peer, state=past.state, specs=[past.spec], clock=past.clock)
    assert (done.restored, done.points, done.skipped) == (newest.id, 10, None)
    assert elsewhere.kept(past.spec.name) == [done.kept]
    assert verify_memory(store=elsewhere, state=past.state, spec=past.spec).points == 10


def test_what_there_is_can_be_counted(past: Past) -> None:
    """In the database, in the vaults, and at the edge."""
    past.write(8, "a")
    past.forget("a0")
    done = past.prune()
    past.write(2, "b")
    found = journal.holdings(past.state, past.spec.name)
    assert (found.entries, found.alive, found.segments, found.edge) == (2, 7, 1, done.edge)
    assert found.archived_bytes == len(past.own.get_bytes(past.keys()[0]))
    assert found.oldest is not None
    assert found.oldest_archived is not None
    assert found.oldest_archived < found.oldest
    empty = journal.holdings(past.state, "nobody")
    assert (empty.entries, empty.oldest, empty.edge, empty.segments) == (0, None, Position(), 0)


def test_a_promoted_standby_goes_on_with_the_archive(
    server_group: ProcessGroup,
    server_dir: Path,
    store: PgVectorStore,
    elsewhere: PgVectorStore,
    spec: CollectionSpec,
    vault: Vault,
    peer: Vault,
) -> None:
    """fails when what the lost primary archived of writes that never reached the standby becomes part of its past."""
    pair = asyncio.run(start_pair(server_group, server_dir / f"parted-{secrets.token_hex(4)}"))
    dsns = make_state(pair, "parted")
    with (
        closing(postgres.connect(dsns.primary)) as state,
        closing(Database(dsns.primary)) as database,
        closing(postgres.connect(dsns.standby)) as standby,
        closing(Database(dsns.standby)) as promoted,
    ):
        old = Past(store, spec, state, database, vault, peer, Ticking())
        old.write(10, "a")
        old.prune()
        old.write(10, "b")
        old.take()
        old.archive()  # noted, and not pruned
        old.replicate()
        wait_for_standby(pair)
        standby.autocommit = True
        with standby.cursor() as cursor:
            cursor.execute("alter system set primary_conninfo = ''")
            cursor.execute("select pg_reload_conf()")
            cursor.execute("select pg_sleep(0.5)")
        old.write(10, "divergent")
        old.take(old.own)
        old.archive(peer=old.own)
        old.replicate()
        assert len(old.keys()) == 3
        pair.primary.kill()
        with standby.cursor() as cursor:
            cursor.execute("select pg_promote()")
            cursor.execute("insert into relight.epochs (epoch, region, run_id) values (2, 'standby', 'r')")
        standby.autocommit = False

        new = Past(elsewhere, spec, standby, promoted, peer, vault, Ticking())
        new.epoch = 2
        new.clock.shift(timedelta(minutes=5))
        hydrate(store=elsewhere, vault=peer, state=standby, specs=[spec], clock=new.clock)
        assert [entry.id[0] for entry in new.entries()] == ["a"] * 10 + ["b"] * 10
        new.write(10, "c")
        done = new.prune()
        assert (done.pruned_entries, done.waiting) == (10, "")
        assert [entry.id[0] for entry in new.entries()] == ["a"] * 10 + ["b"] * 10 + ["c"] * 10
        assert verify_memory(store=elsewhere, state=standby, spec=spec).points == 30
    asyncio.run(pair.standby.stop())
