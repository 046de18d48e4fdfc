"""Points restored beside the live memory: rehearsed, and bisected. Real pgvector, real S3, real CloudWatch calls."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from memory_helpers import remember, some_points

from relight.adapters import postgres
from relight.clock import SystemClock
from relight.errors import IntegrityError, NotFoundError, UnavailableError
from relight.memory.bisect import bisect
from relight.memory.pgvector import PgVectorStore
from relight.memory.scratch import Check, scratch, scratch_name
from relight.memory.snapshot import take_snapshot
from relight.recovery.metrics import NAMESPACE, CloudWatchMetrics
from relight.recovery.rehearsal import Rehearsal, rehearse
from relight.vault import points

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relight.adapters.postgres import Connection
    from relight.memory.api import Memory
    from relight.memory.store import CollectionSpec
    from relight.vault.manifest import Manifest
    from relight.vault.store import Vault
    from relight_drill.emulator import Emulator
    from relight_drill.postgres import PostgresServer

pytestmark = pytest.mark.servers

FIRST = datetime(2026, 4, 19, 2, tzinfo=UTC)


class At(SystemClock):
    """A clock whose wall shows the hour that it is told."""

    hour = 0

    def now(self) -> datetime:
        return FIRST + timedelta(hours=self.hour)


class Noted:
    """Metrics kept in a list."""

    def __init__(self) -> None:
        self.values: list[dict[str, float]] = []

    def put(self, values: Any, *, collection: str = "") -> None:
        self.values.append(dict(values))


@pytest.fixture
def at() -> At:
    return At()


@pytest.fixture(autouse=True)
def nothing_is_left(vector_server: PostgresServer, spec: CollectionSpec) -> Iterator[None]:
    """fails when a scratch collection or its table outlives a test."""
    yield
    connection = postgres.connect(vector_server.dsn(), autocommit=True)
    with connection.cursor() as cursor:
        cursor.execute("select count(*) from relight.collections where name like 'relight\\_%%'")
        rows = cursor.fetchone()
        cursor.execute("select count(*) from pg_tables where tablename like 'relight\\_rehearsal%%'")
        tables = cursor.fetchone()
    connection.close()
    assert (rows, tables) == ((0,), (0,))


def take(store: PgVectorStore, spec: CollectionSpec, state: Connection, vault: Vault, at: At) -> Manifest:
    at.hour += 1
    return take_snapshot(
        store=store, specs=[spec], state=state, vault=vault, fallback=None, environment="test", clock=at
    )


def run(store: PgVectorStore, vault: Vault, spec: CollectionSpec, **options: Any) -> tuple[Rehearsal, Noted]:
    metrics = Noted()
    done = rehearse(store=store, vault=vault, specs=[spec], metrics=metrics, clock=At(), **{"floor": 0.9} | options)
    return done, metrics


def python(code: str) -> Check:
    return Check(command=f"{sys.executable} -c {shlex.quote(code)}", within_s=30)


# A user's check on pgvector: the catalogue says which table the collection is in.
COUNT = """
import os, psycopg2
cursor = psycopg2.connect(os.environ["RELIGHT_MEMORY_DSN"]).cursor()
cursor.execute("select table_name from relight.collections where name = %s", [os.environ["RELIGHT_COLLECTION"]])
cursor.execute('select count(*) from relight_memory."%s"' % cursor.fetchone()[0])
raise SystemExit(cursor.fetchone()[0] != 20)
"""


def test_a_rehearsal_restores_beside_the_memory(
    store: PgVectorStore,
    memory: Memory,
    spec: CollectionSpec,
    state: Connection,
    vault: Vault,
    vector_server: PostgresServer,
    at: At,
) -> None:
    """Count, recall and the user's own check are looked at and recorded, and the live memory stays as it is."""
    remember(state, memory, some_points(20))
    manifest = take(store, spec, state, vault, at)
    before = store.describe(spec.name)
    done, metrics = run(store, vault, spec, check=python(COUNT), dsn=vector_server.dsn())
    assert (done.ok, done.reason, done.point, done.recall) == (True, "", manifest.id, 1.0)
    assert [(item.name, item.points) for item in done.collections] == [(spec.name, 20)]
    assert store.describe(spec.name) == before
    [key] = vault.list_keys("rehearsals/")
    assert key == "rehearsals/20260419T020000Z.json"
    assert vault.get_json(key) == done.to_json()
    assert (done.to_json()["points"], done.to_json()["region"]) == (20, "us-east-1")
    [values] = metrics.values
    assert (values["RehearsalSucceeded"], values["RehearsalRecall"], values["RehearsalSeconds"]) == (1, 1, done.seconds)
    assert done.or_raise() is done


@pytest.mark.parametrize("fault", ["nothing there", "damaged", "recall", "model", "check", "check hangs", "store"])
def test_a_rehearsal_that_fails_says_so(
    store: PgVectorStore,
    memory: Memory,
    spec: CollectionSpec,
    state: Connection,
    vault: Vault,
    vector_server: PostgresServer,
    at: At,
    fault: str,
) -> None:
    """fails when a rehearsal passes that a recovery would not, or an older point hides that the newest is no good."""
    remember(state, memory, some_points(20))
    options: dict[str, Any] = {"dsn": vector_server.dsn()}
    if fault != "nothing there":
        take(store, spec, state, vault, at)
        newest = take(store, spec, state, vault, at)
    if fault == "damaged":
        data = bytearray(vault.get_bytes(newest.pieces[0].object))
        data[-30] ^= 1
        vault.put_bytes(newest.pieces[0].object, bytes(data))
    elif fault == "recall":
        [part] = newest.collections
        canaries = tuple(replace(canary, ids=("other",) * 10) for canary in part.canaries)
        altered = replace(newest, collections=(replace(part, canaries=canaries),))
        vault.put_bytes(points.manifest_key(newest.id), altered.to_json().encode())
    elif fault == "model":
        spec = replace(spec, embedding_model="newer")
    elif fault == "check":
        options["check"] = python("raise SystemExit(7)")
    elif fault == "check hangs":
        options["check"] = Check(command="sleep 60 & sleep 60", within_s=0.2)
    used = PgVectorStore("host=127.0.0.1 port=9 user=x dbname=x connect_timeout=1") if fault == "store" else store
    done, metrics = run(used, vault, spec, **options)
    assert not done.ok
    assert done.reason
    assert done.point == (None if fault == "nothing there" else newest.id)
    assert metrics.values[0]["RehearsalSucceeded"] == 0
    [key] = vault.list_keys("rehearsals/")
    assert vault.get_json(key)["reason"] == done.reason
    with pytest.raises(IntegrityError, match="do not count on"):
        done.or_raise()


def test_the_numbers_reach_cloudwatch(emulator: Emulator) -> None:
    """Under the names and dimensions that an alarm would be on."""
    client = emulator.client("cloudwatch", "us-east-1")
    metrics = CloudWatchMetrics(client, environment="test", region="us-east-1")
    metrics.put({"RehearsalSucceeded": 1.0, "RehearsalSeconds": 2.5})
    ours = [{"Name": "environment", "Value": "test"}]  # others put their own into the same emulator
    found = client.list_metrics(Namespace=NAMESPACE, Dimensions=ours)["Metrics"]
    dimensions = {(item["Name"], item["Value"]) for metric in found for item in metric["Dimensions"]}
    assert {metric["MetricName"] for metric in found} >= {"RehearsalSucceeded", "RehearsalSeconds"}
    assert dimensions == {("environment", "test"), ("region", "us-east-1")}


def test_what_a_kill_left_is_dropped_by_the_next(
    store: PgVectorStore, memory: Memory, spec: CollectionSpec, state: Connection, vault: Vault, at: At
) -> None:
    """fails when scratch collections pile up, or when an error in their use leaves one."""
    remember(state, memory, some_points(5))
    take(store, spec, state, vault, at)
    [status] = points.survey(vault)
    name = scratch_name(spec.name, "rehearsal")
    store.ensure(replace(spec, name=name))  # as a kill leaves it
    with (
        pytest.raises(UnavailableError),
        scratch(store=store, vault=vault, spec=spec, status=status, purpose="rehearsal", floor=0.9) as found,
    ):
        assert (found.name, found.restored.points) == (name, 5)
        raise UnavailableError("killed")
    assert store.describe(name) is None


def history(
    store: PgVectorStore,
    memory: Memory,
    spec: CollectionSpec,
    state: Connection,
    vault: Vault,
    at: At,
    *,
    bad_from: int,
) -> list[Manifest]:
    """Nine points, hour by hour; from one on, most of what was remembered first is overwritten."""
    taken = []
    remember(state, memory, some_points(40))
    for hour in range(9):
        if hour == bad_from:
            remember(state, memory, some_points(40, seed=99))
        remember(state, memory, some_points(1, seed=100 + hour, prefix=f"h{hour}-"))
        taken.append(take(store, spec, state, vault, at))
    return taken


@pytest.mark.parametrize("bad_from", [1, 4, 8, 99])
def test_the_newest_point_from_before_the_corruption_is_named(
    store: PgVectorStore,
    memory: Memory,
    spec: CollectionSpec,
    state: Connection,
    vault: Vault,
    at: At,
    bad_from: int,
) -> None:
    """In few restores, beside the live memory, which stays as it is; all good is said as such."""
    taken = history(store, memory, spec, state, vault, at, bad_from=bad_from)
    before = store.describe(spec.name)
    done = bisect(store=store, vault=vault, spec=spec, floor=0.8)
    assert done.reference == taken[0].id
    assert done.newest_good == taken[min(bad_from, 9) - 1].id
    assert done.oldest_bad == (taken[bad_from].id if bad_from < 9 else None)
    assert len(done.tried) <= 5
    assert store.describe(spec.name) == before


def test_the_users_own_check_decides_too(
    store: PgVectorStore,
    memory: Memory,
    spec: CollectionSpec,
    state: Connection,
    vault: Vault,
    vector_server: PostgresServer,
    at: At,
) -> None:
    """A point that answers as it did may still be bad, a damaged one says nothing, and none good is said as such."""
    taken = history(store, memory, spec, state, vault, at, bad_from=99)
    vault.put_bytes(taken[4].pieces[0].object, bytes(taken[4].pieces[0].bytes))
    few = COUNT.replace("!= 20", "> 44")  # the first four hours
    done = bisect(store=store, vault=vault, spec=spec, floor=0.0, check=python(few), dsn=vector_server.dsn())
    assert (done.newest_good, done.oldest_bad) == (taken[3].id, taken[5].id)
    assert [item.point for item in done.tried if item.good is None] == [taken[4].id]
    none = bisect(store=store, vault=vault, spec=spec, floor=0.0, check=Check(command="exit 1"), good=taken[2].id)
    assert (none.reference, none.newest_good, none.candidates) == (taken[2].id, None, 7)
    with pytest.raises(NotFoundError):
        bisect(store=store, vault=vault, spec=spec, floor=0.0, good="20200101T000000Z")
    with pytest.raises(NotFoundError, match="does not name"):
        bisect(store=store, vault=vault, spec=spec, floor=0.0, good="../x")
