"""Snapshot and hydration end to end: real Postgres pair, real pgvector, real S3."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from botocore.config import Config
from botocore.exceptions import ConnectionClosedError
from memory_helpers import (
    DIMENSION,
    EPOCH,
    StateDsns,
    Ticking,
    breaking,
    make_state,
    remember,
    settle,
    some_points,
    wait_for_standby,
)
from servers import start_pair

from relight.adapters import aws, postgres
from relight.clock import SystemClock
from relight.errors import ConfigError, ConflictError, IntegrityError, NotFoundError, PermanentError, UnavailableError
from relight.memory import api, journal
from relight.memory.api import Applier, Memory
from relight.memory.hydrate import Hydration, bring_forward, hydrate, verify_memory
from relight.memory.pgvector import PgVectorStore
from relight.memory.snapshot import take_snapshot
from relight.memory.store import CollectionSpec, Distance
from relight.vault import points
from relight.vault.manifest import Embedding
from relight.vault.retention import prune
from relight.vault.signing import FileSigner, KmsSigner, signed
from relight.vault.store import PART_BYTES, Vault
from relight_drill.emulator import SECRET_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from pathlib import Path

    from servers import StatePair

    from relight.adapters.postgres import Connection
    from relight.memory.journal import Position
    from relight.memory.store import VectorStore
    from relight.vault.manifest import Manifest
    from relight_drill.emulator import Emulator
    from relight_drill.postgres import PostgresServer
    from relight_drill.processes import ProcessGroup

pytestmark = pytest.mark.servers


@pytest.fixture
def clock() -> Ticking:
    return Ticking()


@pytest.fixture(scope="session")
def other_dsn(vector_server: PostgresServer) -> str:
    """Another vector store: the standby's."""
    admin = postgres.connect(vector_server.dsn(), autocommit=True)
    with admin.cursor() as cursor:
        cursor.execute("create database standby_memory")
    admin.close()
    return vector_server.dsn("standby_memory")


@pytest.fixture
def other(other_dsn: str) -> Iterator[PgVectorStore]:
    store = PgVectorStore(other_dsn)
    yield store
    store.close()


def take(
    store: VectorStore,
    spec: CollectionSpec,
    state: Connection,
    vault: Vault,
    clock: Ticking,
    fallback: Vault | None = None,
) -> Manifest:
    return take_snapshot(
        store=store, specs=[spec], state=state, vault=vault, fallback=fallback, environment="test", clock=clock
    )


def fill(
    other: VectorStore, spec: CollectionSpec, state: Connection, vault: Vault, clock: Ticking, **options: Any
) -> Hydration:
    [done] = hydrate(store=other, vault=vault, state=state, specs=[spec], clock=clock, **{"wait_s": 0.5} | options)
    return done


def contents(store: VectorStore, spec: CollectionSpec) -> list[tuple[str, dict[str, Any] | None]]:
    hits = store.search(spec.name, [1.0] * DIMENSION, 10_000).hits
    return sorted((hit.id, hit.payload) for hit in hits)


def test_hydration_is_snapshot_plus_journal(
    store: PgVectorStore,
    other: PgVectorStore,
    memory: Memory,
    spec: CollectionSpec,
    state: Connection,
    standby: Connection,
    state_pair: StatePair,
    vault: Vault,
    clock: Ticking,
) -> None:
    """The standby's empty store ends with everything written before and after the snapshot, from its replica."""
    remember(state, memory, some_points(50))
    manifest = take(store, spec, state, vault, clock)
    remember(state, memory, some_points(10, seed=2, prefix="later"))
    with state, state.cursor() as cursor:
        memory.delete(cursor, ["p0", "p1"], epoch=EPOCH)
    wait_for_standby(state_pair)

    done = fill(other, spec, standby, vault, clock)

    assert (done.restored, done.skipped, done.entries_applied, done.points) == (manifest.id, None, 12, 58)
    assert done.recall == 1.0
    assert done.to_json()["restored"] == manifest.id
    Applier(store=store, spec=spec, state=state).catch_up()
    assert contents(other, spec) == contents(store, spec)
    assert verify_memory(store=other, state=standby, spec=spec).points == 58


def test_the_manifest_says_what_was_taken(
    store: PgVectorStore, memory: Memory, spec: CollectionSpec, state: Connection, vault: Vault, clock: Ticking
) -> None:
    """Counts, checksum, position, the previous point and the place of upload are in it, and it reads back equal."""
    remember(state, memory, some_points(20))
    first = take(store, spec, state, vault, clock)
    second = take(store, spec, state, vault, clock)
    assert (first.previous, second.previous) == (None, first.id)
    assert (second.region, second.instead_of, second.environment) == ("us-east-1", None, "test")
    [part] = second.collections
    assert (part.points, part.drift, part.store, len(part.pieces)) == (20, 0, "pgvector", 1)
    assert part.embedding == Embedding(model="test-16", dimension=DIMENSION, distance="cosine", prefix="")
    assert len(part.canaries) == 5
    assert all(len(canary.ids) == 10 for canary in part.canaries)
    assert points.find(vault, second.id) == second
    assert vault.get_bytes(points.manifest_key(second.id)).decode() == second.to_json()


@pytest.mark.parametrize("count", [0, 1])
def test_a_tiny_memory_is_taken_and_restored(
    store: PgVectorStore,
    other: PgVectorStore,
    memory: Memory,
    spec: CollectionSpec,
    state: Connection,
    vault: Vault,
    clock: Ticking,
    count: int,
) -> None:
    """A collection with no point at all is a recovery point like any other."""
    remember(state, memory, some_points(1))
    if not count:
        with state, state.cursor() as cursor:
            memory.delete(cursor, ["p0"], epoch=EPOCH)
    manifest = take(store, spec, state, vault, clock)
    done = fill(other, spec, state, vault, clock)
    assert (done.restored, done.points) == (manifest.id, count)


def test_a_store_with_data_is_left_alone(
    store: PgVectorStore,
    other: PgVectorStore,
    memory: Memory,
    spec: CollectionSpec,
    state: Connection,
    vault: Vault,
    clock: Ticking,
) -> None:
    """Hydrating twice restores once; the second time only the journal is applied, and with force the data is kept."""
    remember(state, memory, some_points(20))
    manifest = take(store, spec, state, vault, clock)
    fill(other, spec, state, vault, clock)
    remember(state, memory, some_points(3, seed=2, prefix="later"))
    second = fill(other, spec, state, vault, clock)
    assert (second.restored, second.entries_applied, second.points) == (None, 3, 23)
    assert second.skipped is not None
    assert other.kept(spec.name) == []
    with pytest.raises(ConflictError, match="force"):
        fill(other, spec, state, vault, clock, point=manifest.id)
    forced = fill(other, spec, state, vault, clock, force=True)
    assert (forced.restored, forced.entries_applied, forced.points) == (manifest.id, 3, 23)
    assert other.kept(spec.name) == [forced.kept]


@pytest.mark.parametrize(
    "damage",
    ["flipped", "truncated", "object gone", "manifest gone", "recall", "swapped", "altered", "unsigned", "other key"],
)
def test_a_damaged_point_is_passed_over(
    store: PgVectorStore,
    other: PgVectorStore,
    memory: Memory,
    spec: CollectionSpec,
    state: Connection,
    vault: Vault,
    clock: Ticking,
    s3: Any,
    bucket: str,
    tmp_path: Path,
    damage: str,
) -> None:
    """fails when damage to the newest point loses memory, goes unsaid, or ends in the collection."""
    vault = Vault(s3, bucket, region="us-east-1", signer=make_signer(tmp_path / "key"))
    remember(state, memory, some_points(20))
    older = take(store, spec, state, vault, clock)
    remember(state, memory, some_points(10, seed=2, prefix="later"))
    newest = take(store, spec, state, vault, clock)
    [part] = newest.collections
    [piece] = part.pieces
    key = points.manifest_key(newest.id)
    data = bytearray(vault.get_bytes(piece.object))
    if damage == "flipped":
        at = data.find(b'"n": 3')
        assert at > 0
        data[at + 5] ^= 1
        s3.put_object(Bucket=bucket, Key=piece.object, Body=bytes(data))
    elif damage == "truncated":
        s3.put_object(Bucket=bucket, Key=piece.object, Body=bytes(data[:-20]))
    elif damage == "swapped":
        s3.put_object(Bucket=bucket, Key=piece.object, Body=bytes(len(data)))
    elif damage == "object gone":
        s3.delete_object(Bucket=bucket, Key=piece.object)
    elif damage == "manifest gone":
        s3.delete_object(Bucket=bucket, Key=key)
    elif damage == "recall":
        canaries = tuple(replace(canary, ids=("other",) * 10) for canary in part.canaries)
        altered = replace(newest, collections=(replace(part, canaries=canaries),))
        s3.put_object(Bucket=bucket, Key=key, Body=points.sign(vault, altered).to_json())
    elif damage == "altered":
        s3.put_object(Bucket=bucket, Key=key, Body=replace(newest, previous=None).to_json())
    elif damage == "unsigned":
        s3.put_object(Bucket=bucket, Key=key, Body=replace(newest, signature=None).to_json())
    else:
        stranger = make_signer(tmp_path / "stranger")
        s3.put_object(Bucket=bucket, Key=key, Body=signed(newest, stranger).to_json())

    done = fill(other, spec, state, vault, clock)

    assert done.restored == older.id
    assert [item.point for item in done.passed_over] == [newest.id]
    assert done.passed_over[0].reason
    assert (done.points, done.entries_applied) == (30, 10)
    with pytest.raises((IntegrityError, NotFoundError)):
        fill(other, replace(spec, name=spec.name), state, vault, clock, point=newest.id, force=True)
    assert done.points == len(contents(other, spec))


def test_without_any_point_the_journal_alone_rebuilds_memory(
    other: PgVectorStore, memory: Memory, spec: CollectionSpec, state: Connection, vault: Vault, clock: Ticking
) -> None:
    """An empty vault costs time, not memories; the result says that no point was used."""
    remember(state, memory, some_points(20))
    done = fill(other, spec, state, vault, clock)
    assert (done.restored, done.points, done.entries_applied) == (None, 20, 20)
    assert "no eligible point" in str(done.skipped)


def test_points_can_be_chosen(
    store: PgVectorStore,
    other: PgVectorStore,
    memory: Memory,
    spec: CollectionSpec,
    state: Connection,
    vault: Vault,
    clock: Ticking,
) -> None:
    """By id, or as the newest before a time; what does not exist is refused, and so is naming both."""
    remember(state, memory, some_points(5))
    first = take(store, spec, state, vault, clock)
    second = take(store, spec, state, vault, clock)
    third = take(store, spec, state, vault, clock)
    assert fill(other, spec, state, vault, clock, point=second.id).restored == second.id
    before = third.taken_at - timedelta(seconds=1)
    assert fill(other, spec, state, vault, clock, before=before, force=True).restored == second.id
    with pytest.raises(NotFoundError):
        fill(other, spec, state, vault, clock, point="20200101T000000Z", force=True)
    with pytest.raises(NotFoundError):
        fill(other, spec, state, vault, clock, before=first.taken_at - timedelta(seconds=1), force=True)
    with pytest.raises(ConfigError):
        fill(other, spec, state, vault, clock, before=before, point=first.id)


@pytest.mark.parametrize(
    "change",
    [{"dimension": DIMENSION + 1}, {"embedding_model": "other"}, {"distance": Distance.DOT}, {"prefix": "query: "}],
)
def test_a_mismatch_is_refused_before_bytes_move(
    store: PgVectorStore,
    other: PgVectorStore,
    memory: Memory,
    spec: CollectionSpec,
    state: Connection,
    vault: Vault,
    clock: Ticking,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
) -> None:
    """fails when a point of another model, dimension or distance is even downloaded."""
    remember(state, memory, some_points(5))
    manifest = take(store, spec, state, vault, clock)
    monkeypatch.setattr(Vault, "reader", lambda *_: pytest.fail("bytes moved"))
    with pytest.raises(IntegrityError, match="settings"):
        fill(other, replace(spec, **change), state, vault, clock, point=manifest.id)


def make_signer(path: Path) -> FileSigner:
    path.write_bytes(secrets.token_bytes(32))
    path.chmod(0o600)
    return FileSigner(path)


@pytest.mark.parametrize("arrives", [False, True], ids=["lost", "answer lost"])
def test_a_snapshot_that_is_killed_at_any_step_leaves_no_half_point(
    emulator: Emulator,
    store: PgVectorStore,
    memory: Memory,
    spec: CollectionSpec,
    state: Connection,
    vault: Vault,
    clock: Ticking,
    s3: Any,
    monkeypatch: pytest.MonkeyPatch,
    arrives: bool,
) -> None:
    """fails when a point shows that is not whole, or when the next snapshot minds what a killed one left behind."""
    monkeypatch.setattr("relight.vault.store.PART_BYTES", 4096)
    remember(state, memory, some_points(100))
    session = boto3.Session(aws_access_key_id=emulator.account, aws_secret_access_key=SECRET_KEY)
    client = aws.client("s3", "us-east-1", session=session, endpoint_url=emulator.url, attempts=1)
    target = Vault(client, vault.bucket, region="us-east-1")
    whole: list[str] = []
    for step in range(1, 100):
        begun, mend = breaking(client, step, arrives=arrives)
        try:
            done = take(store, spec, state, target, clock)
        except UnavailableError as exc:
            assert "us-east-1" in str(exc)
            mend()
        else:
            mend()
            whole.append(done.id)
            break
        assert begun() >= step
        found = list(points.survey(vault))
        assert all(status.eligible for status in found if status.sealed)
        fit = sorted(status.id for status in found if status.eligible)
        # When nothing but the answer to the seal was lost, the point is there.
        assert arrives or fit == whole
        whole = fit
    assert step > 5
    assert next(manifest.id for manifest in points.eligible(vault)) == whole[-1]
    assert points.find(vault, whole[-1]).collections[0].points == 100
    prune(vault, keep_hourly=1, keep_daily=0, keep_monthly=0, now=clock.now() + timedelta(days=2))
    assert {key.split("/")[1] for key in vault.list_keys("points/")} == {whole[-1]}


def test_a_busy_vault_is_asked_again_and_a_lasting_one_given_up(
    own_client: Callable[[str], Any],
    store: PgVectorStore,
    memory: Memory,
    spec: CollectionSpec,
    state: Connection,
    vault: Vault,
    clock: Ticking,
) -> None:
    """fails when a 503 or two cost a point, or when a vault that only answers 503 is taken for one that works."""
    remember(state, memory, some_points(5))
    client = own_client("us-east-1")
    target = Vault(client, vault.bucket, region="us-east-1")
    busy: dict[str, int] = {}

    def slow_down(request: Any, **_: object) -> AWSResponse | None:
        """As S3 answers when it is asked too much."""
        busy[request.url] = busy.get(request.url, 0) + 1
        if busy[request.url] > patience:
            return None
        body = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
        return AWSResponse(request.url, 503, HTTPHeaders(), SimpleNamespace(stream=lambda **_: iter([body])))

    client.meta.events.register("before-send.s3", slow_down)
    patience = 1
    manifest = take(store, spec, state, target, clock)
    assert [point.id for point in points.eligible(vault)] == [manifest.id]
    patience = 10_000
    with pytest.raises(UnavailableError, match="SlowDown"):
        take(store, spec, state, target, clock)
    assert [point.id for point in points.eligible(vault)] == [manifest.id]


def test_a_key_that_cannot_be_asked_seals_nothing(
    store: PgVectorStore,
    memory: Memory,
    spec: CollectionSpec,
    state: Connection,
    vault: Vault,
    clock: Ticking,
    s3: Any,
    emulator: Emulator,
) -> None:
    """fails when a point is sealed without its signature, or when the vault is blamed and the other one is filled."""
    remember(state, memory, some_points(5))
    kms = boto3.client(
        "kms",
        region_name="us-east-1",
        endpoint_url="http://127.0.0.1:9",
        aws_access_key_id=emulator.account,
        aws_secret_access_key=SECRET_KEY,
        config=Config(retries={"total_max_attempts": 1}),
    )
    first, second = (Vault(s3, vault.bucket, region=name, signer=KmsSigner(kms, "alias/x")) for name in ("a", "b"))
    with pytest.raises(UnavailableError) as caught:
        take(store, spec, state, first, clock, fallback=second)
    assert "vault" not in str(caught.value)
    assert [status.sealed for status in points.survey(vault)] == [False]


def test_a_point_whose_part_is_late_is_used_when_it_is_whole(
    store: PgVectorStore,
    other: PgVectorStore,
    memory: Memory,
    spec: CollectionSpec,
    state: Connection,
    vault: Vault,
    clock: Ticking,
) -> None:
    """Until replication has brought the last object the older point serves, and afterwards the newer one."""
    remember(state, memory, some_points(20))
    older = take(store, spec, state, vault, clock)
    newest = take(store, spec, state, vault, clock)
    [piece] = newest.pieces
    data = vault.get_bytes(piece.object)
    vault.delete([piece.object])
    first = fill(other, spec, state, vault, clock)
    assert (first.restored, "is not here" in first.passed_over[0].reason) == (older.id, True)
    vault.put_bytes(piece.object, data)
    assert fill(other, spec, state, vault, clock, force=True).restored == newest.id


@pytest.mark.parametrize("name", ["../../etc/passwd", "20260419T020000Z/../20260419T020000Z", "%2e%2e", "\n"])
def test_a_hostile_id_reaches_nothing(
    other: PgVectorStore, spec: CollectionSpec, state: Connection, vault: Vault, clock: Ticking, name: str
) -> None:
    """fails when a text that is no id is looked for in the vault."""
    with pytest.raises(NotFoundError, match="does not name a recovery point"):
        fill(other, spec, state, vault, clock, point=name)


def test_the_other_vault_is_used_when_one_is_away(
    own_client: Callable[[str], Any],
    store: PgVectorStore,
    other: PgVectorStore,
    memory: Memory,
    spec: CollectionSpec,
    state: Connection,
    vault: Vault,
    clock: Ticking,
    bucket: str,
) -> None:
    """The point says where it is and where it belongs; it fails when an error of the store is blamed on the vault."""
    remember(state, memory, some_points(5))
    client = own_client("us-west-2")

    def break_off(**_: object) -> None:
        raise ConnectionClosedError(endpoint_url="test")

    client.meta.events.register("before-send.s3", break_off)
    away = Vault(client, bucket, region="us-west-2")
    manifest = take(store, spec, state, away, clock, fallback=vault)
    assert (manifest.region, manifest.instead_of) == ("us-east-1", "us-west-2")
    assert [point.id for point in points.eligible(vault)] == [manifest.id]
    with pytest.raises(UnavailableError, match="neither"):
        take(store, spec, state, away, clock, fallback=away)


def test_two_snapshots_of_one_second_are_one_point(
    store: PgVectorStore, memory: Memory, spec: CollectionSpec, state: Connection, vault: Vault, clock: Ticking
) -> None:
    """fails when the second overwrites the first, or makes it less than whole, even where it overtakes it."""
    remember(state, memory, some_points(5))

    class Stopped(SystemClock):
        def now(self) -> datetime:
            return clock_at

    clock_at = clock.now()
    first: list[Manifest] = []

    class Overtaken(PgVectorStore):
        def snapshot(self, name: str, sink: Any) -> Any:
            taken = super().snapshot(name, sink)
            if not first:
                first.append(_take_at(store, spec, state, vault, Stopped()))
            return taken

    slow = Overtaken(store._dsn)
    with pytest.raises(ConflictError):
        _take_at(slow, spec, state, vault, Stopped())
    with pytest.raises(ConflictError, match="sealed already"):
        _take_at(store, spec, state, vault, Stopped())
    assert list(points.eligible(vault)) == first
    slow.close()


def _take_at(store: VectorStore, spec: CollectionSpec, state: Connection, vault: Vault, clock: SystemClock) -> Manifest:
    return take_snapshot(
        store=store, specs=[spec], state=state, vault=vault, fallback=None, environment="test", clock=clock
    )


def test_a_search_sees_its_own_earlier_writes(
    store: PgVectorStore, memory: Memory, spec: CollectionSpec, state: Connection, state_dsns: StateDsns
) -> None:
    """Before the applier ran, inside the writing transaction, and while another transaction holds the horizon back."""
    remember(state, memory, some_points(20))
    Applier(store=store, spec=spec, state=state).catch_up()
    holder = postgres.connect(state_dsns.primary)
    with holder.cursor() as cursor:
        cursor.execute("select pg_current_xact_id()")
    [query] = some_points(1, seed=9, prefix="mine")
    with state.cursor() as cursor:
        memory.upsert(cursor, [query], epoch=EPOCH)
        memory.delete(cursor, ["p3"], epoch=EPOCH)
        inside = memory.search(state, query.vector, k=20)
    assert inside[0].id == "mine0"
    assert inside[0].distance == pytest.approx(0, abs=1e-6)
    assert {hit.id for hit in inside} == {"mine0", *(f"p{n}" for n in range(20) if n != 3)}
    state.commit()
    assert Applier(store=store, spec=spec, state=state).catch_up().entries == 0
    assert memory.search(state, query.vector, k=20) == inside
    holder.rollback()
    assert Applier(store=store, spec=spec, state=state).catch_up().entries == 2
    after = memory.search(state, query.vector, k=20)
    assert [hit.id for hit in after] == [hit.id for hit in inside]
    holder.close()


def test_a_search_brings_the_store_up_once_and_asks_it_again(
    store: PgVectorStore, memory: Memory, spec: CollectionSpec, state: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fails when what was applied meanwhile is read from the journal again, or held in memory, by the search."""
    store.ensure(spec)
    remember(state, memory, some_points(1200))
    asked: list[Position] = []
    pending = journal.pending

    def counting(connection: Connection, collection: str, since: Position, *, limit: int) -> Any:
        """See `pending`."""
        asked.append(since)
        return pending(connection, collection, since, limit=limit)

    monkeypatch.setattr(journal, "pending", counting)
    found = memory.search(state, some_points(1, seed=5)[0].vector, k=15)
    assert len(found) == 15
    assert asked[-1] == store.position(spec.name)
    assert len(asked) <= 3


def test_a_search_gives_up_where_too_much_cannot_be_applied(
    store: PgVectorStore,
    memory: Memory,
    spec: CollectionSpec,
    state: Connection,
    state_dsns: StateDsns,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """fails when a search holds whatever the store lacks, however much it is; up to the bound it answers."""
    monkeypatch.setattr(api, "_MOST", 700)
    store.ensure(spec)
    query = some_points(1, seed=5)[0].vector
    with closing(postgres.connect(state_dsns.primary)) as holder:
        with holder.cursor() as cursor:
            cursor.execute("select pg_current_xact_id()")
        remember(state, memory, some_points(700))
        before = memory.search(state, query, k=15)
        remember(state, memory, some_points(1, prefix="more"))
        with pytest.raises(UnavailableError, match="lacks more than 700 entries"):
            memory.search(state, query, k=15)
    assert store.describe(spec.name).points == 0  # type: ignore[union-attr]
    settle(state)
    after = memory.search(state, query, k=15)
    assert len({hit.id for hit in before} & {hit.id for hit in after}) >= 14


@pytest.mark.parametrize("distance", list(Distance))
def test_laid_over_answers_rank_as_the_stores_do(
    store: PgVectorStore, spec: CollectionSpec, state: Connection, distance: Distance
) -> None:
    """fails when a point ranks otherwise before it is applied than after."""
    spec = replace(spec, distance=distance)
    memory = Memory(store=store, spec=spec)
    store.ensure(spec)
    remember(state, memory, some_points(700))
    query = some_points(1, seed=5)[0].vector
    # 700 entries are more than a page: the first search brings the store up to the journal, the second adds nothing.
    before = memory.search(state, query, k=15)
    assert store.describe(spec.name).points == 700  # type: ignore[union-attr]
    after = memory.search(state, query, k=15)
    assert [hit.id for hit in before] == [hit.id for hit in after]
    for one, two in zip(before, after, strict=True):
        assert one.distance == pytest.approx(two.distance, abs=1e-5)


def test_a_vector_of_another_dimension_never_reaches_the_journal(
    memory: Memory, spec: CollectionSpec, state: Connection
) -> None:
    """fails when one bad write stops every region's applier."""
    [point] = some_points(1)
    with pytest.raises(PermanentError, match="dimension"), state, state.cursor() as cursor:
        memory.upsert(cursor, [replace(point, vector=[1.0])], epoch=EPOCH)


def test_verification_finds_what_is_missing(
    store: PgVectorStore, memory: Memory, spec: CollectionSpec, state: Connection, vector_server: PostgresServer
) -> None:
    """fails when a memory passes that lacks entries, or holds other points than the journal says."""
    with pytest.raises(IntegrityError, match="no collection"):
        verify_memory(store=store, state=state, spec=spec)
    remember(state, memory, some_points(20))
    bring_forward(store=store, state=state, spec=spec)
    assert verify_memory(store=store, state=state, spec=spec).points == 20
    remember(state, memory, some_points(1, seed=3, prefix="new"))
    with pytest.raises(IntegrityError, match="lacks the entry"):
        verify_memory(store=store, state=state, spec=spec)
    bring_forward(store=store, state=state, spec=spec)
    connection = postgres.connect(vector_server.dsn(), autocommit=True)
    with connection.cursor() as cursor:
        cursor.execute("select table_name from relight.collections where name = %s", [spec.name])
        row = cursor.fetchone()
        assert row is not None
        cursor.execute(f"delete from relight_memory.\"{row[0]}\" where id = 'p7'")
    connection.close()
    with pytest.raises(IntegrityError, match="21 alive"):
        verify_memory(store=store, state=state, spec=spec)


def test_a_point_of_a_history_that_was_lost_is_passed_over(
    server_group: ProcessGroup,
    server_dir: Path,
    store: PgVectorStore,
    other: PgVectorStore,
    vault: Vault,
    clock: Ticking,
) -> None:
    """fails when a point sealed by the old primary brings writes that the promoted standby never received, or hides
    the writes that the new primary makes under the same transaction ids."""
    pair = asyncio.run(start_pair(server_group, server_dir / f"lost-{secrets.token_hex(4)}"))
    dsns = make_state(pair, "lost")
    spec = CollectionSpec(name=f"lost{secrets.token_hex(4)}", dimension=DIMENSION, embedding_model="test-16")
    memory = Memory(store=store, spec=spec)
    primary = postgres.connect(dsns.primary)
    remember(primary, memory, some_points(10))
    good = take(store, spec, primary, vault, clock)
    # This one has the lower transaction id and commits when nobody receives it any more: the last entry of the point
    # below is known everywhere, and only the place in the log tells that one before it is not.
    late = postgres.connect(dsns.primary)
    with late.cursor() as cursor:
        memory.upsert(cursor, some_points(5, seed=2, prefix="divergent"), epoch=EPOCH)
    remember(primary, memory, some_points(10))
    wait_for_standby(pair)
    # The standby's receiver stops; what the primary commits from here on never arrives there.
    standby = postgres.connect(dsns.standby, autocommit=True)
    with standby.cursor() as cursor:
        cursor.execute("alter system set primary_conninfo = ''")
        cursor.execute("select pg_reload_conf()")
        cursor.execute("select pg_sleep(0.5)")
    late.commit()
    late.close()
    bad = take(store, spec, primary, vault, clock)
    primary.close()
    pair.primary.kill()

    # Before the promotion the point is ahead of the replica; afterwards it is beside its history.
    first = fill(other, spec, standby, vault, clock)
    assert (first.restored, [item.point for item in first.passed_over]) == (good.id, [bad.id])
    with standby.cursor() as cursor:
        cursor.execute("select pg_promote()")
        cursor.execute("insert into relight.epochs (epoch, region, run_id) values (2, 'standby', 'r')")
    with standby.cursor() as cursor:
        memory.upsert(cursor, some_points(40, seed=3, prefix="new"), epoch=2)
        # Far beyond the place where the lost history ended.
        cursor.execute("create table filler as select repeat('x', 1000) from generate_series(1, 3000)")
    again = fill(other, spec, standby, vault, clock, force=True)
    assert (again.restored, [item.point for item in again.passed_over]) == (good.id, [bad.id])
    assert "history" in again.passed_over[0].reason
    ids = {id_ for id_, _ in contents(other, spec)}
    assert ids == {f"p{n}" for n in range(10)} | {f"new{n}" for n in range(40)}
    assert verify_memory(store=other, state=standby, spec=spec).points == 50
    standby.close()
    asyncio.run(pair.standby.stop())


def test_streaming_needs_no_memory_of_the_size(
    store: PgVectorStore,
    vault: Vault,
    vector_server: PostgresServer,
    spec: CollectionSpec,
    state: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """fails when a snapshot holds more than a few parts at once, however large the collection."""
    import tracemalloc

    monkeypatch.setattr("relight.vault.store.BUFFER_BYTES", 2 * PART_BYTES)
    spec = replace(spec, index=None)
    store.ensure(spec)
    connection = postgres.connect(vector_server.dsn(), autocommit=True)
    with connection.cursor() as cursor:
        cursor.execute("select table_name from relight.collections where name = %s", [spec.name])
        row = cursor.fetchone()
        assert row is not None
        cursor.execute(
            f'insert into relight_memory."{row[0]}" select n::text, array_fill((n %% 7)::real, array[%s])::vector,'
            " jsonb_build_object('t', repeat(md5(n::text), 60))"
            " from generate_series(1, 40000) n",
            [DIMENSION],
        )
    connection.close()
    tracemalloc.start()
    try:
        manifest = take(store, spec, state, vault, Ticking())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert manifest.collections[0].bytes > 8 * PART_BYTES
    assert peak < 4 * PART_BYTES
