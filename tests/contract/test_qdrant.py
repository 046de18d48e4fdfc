"""Qdrant under the contract of a vector store, on the stand-in and on a real server, and what is its own."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from email.utils import format_datetime, parsedate_to_datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from fakes import FakeClock
from memory_helpers import DIMENSION, MemorySink, MemorySource
from qdrant_client import models
from vector_store_contract import POINT, VectorStoreContract, apply, direction, fill, ids, take, upsert

from relight.clock import SystemClock
from relight.errors import (
    ConfigError,
    ConflictError,
    DeniedError,
    IntegrityError,
    NotFoundError,
    PermanentError,
    RelightError,
    UnavailableError,
)
from relight.memory.journal import START, Position
from relight.memory.qdrant import CATALOGUE, QdrantStore
from relight.memory.store import IndexState
from relight_drill.qdrant import QdrantServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from relight.memory.store import CollectionSpec
    from relight.vault.manifest import Piece
    from relight_drill.processes import ProcessGroup

    Send = Callable[[httpx.Client, httpx.Request], httpx.Response]

pytestmark = pytest.mark.servers

REAL = os.environ.get("RELIGHT_TEST_QDRANT_URL", "")


@pytest.fixture(scope="session")
def standin(server_group: ProcessGroup, server_dir: Path) -> QdrantServer:
    """A stand-in, shared by the session."""
    server = QdrantServer(server_group, server_dir / "qdrant", name="shared")
    asyncio.run(server.start())
    return server


def api_of(store: QdrantStore) -> Any:
    """The server as a user calls it."""
    return store._nodes[0].api


def held(store: QdrantStore, spec: CollectionSpec) -> list[str]:
    """Everything on the server that is of `spec` or of a copy of it, snapshots and entries of the catalogue included,
    beside what the public names stand for and what is kept. A killed run's claim to a snapshot that may still appear
    is none of it."""
    api = api_of(store)
    here = set(store._aliases().values())
    found = []
    for _, said in store._entries("collection"):
        used = said["physical"] in here or said["physical"] in store.kept(said["name"])
        if said["name"].startswith(spec.name) and not used:
            found.append(f"record of {said['physical']}")
    known = {said["physical"] for _, said in store._entries("collection")}
    for item in api.get_collections().collections:
        if item.name not in known and item.name != CATALOGUE and item.name.startswith(spec.name):
            found.append(f"collection {item.name}")
        if item.name.startswith(spec.name):
            found += [snapshot.name for snapshot in api.list_snapshots(item.name)]
    return found


@cache
def watcher(dsn: str) -> QdrantStore:
    """A client that looks on."""
    return QdrantStore(dsn)


class Killed(BaseException):
    """The process is gone."""


@contextmanager
def sending(change: Callable[[Send, httpx.Client, httpx.Request], httpx.Response]) -> Iterator[None]:
    """Let `change` stand between every client and its server."""
    original = httpx.Client.send

    def send(client: httpx.Client, request: httpx.Request, **options: Any) -> httpx.Response:
        return change(lambda *given: original(*given, **options), client, request)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpx.Client, "send", send)
        yield


class Fault:
    """The `at`th request reaches the server, and its answer nobody: the process is killed then, or the line was cut."""

    def __init__(self, at: int, *, kill: bool) -> None:
        self._at = at
        self._kill = kill
        self.requests = 0

    def __call__(self, send: Send, client: httpx.Client, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        if self.requests > self._at and self._kill:
            raise Killed
        response = send(client, request)
        if self.requests != self._at:
            return response
        response.close()
        if self._kill:
            raise Killed
        raise httpx.ReadError("the line was cut", request=request)


# Of some 40 requests; all of them take a minute.
SAMPLED = 5


def at_some_requests(act: Callable[[], object], *, kill: bool, then: Callable[[], object]) -> None:
    """Let `act` come through, and then kill it, or cut its line, at its first request, its last and some between.

    Do `then` after each. Those between are the same in every run.
    """
    whole = Fault(sys.maxsize, kill=kill)
    with sending(whole):
        act()
    then()
    assert whole.requests > 5
    between = random.Random(whole.requests).sample(range(2, whole.requests), min(SAMPLED, whole.requests - 2))
    for at in (1, *between, whole.requests):
        fault = Fault(at, kill=kill)
        try:
            with sending(fault):
                act()
        except (Killed, RelightError):
            assert fault.requests >= at
        then()


class Located(MemorySource):
    """A snapshot that the server fetches by itself."""

    url = ""

    def location(self, piece: Piece) -> str | None:
        """Where it is."""
        return self.url


class QdrantContract(VectorStoreContract):
    """On either server."""

    index_travels = True
    dsn: str

    @pytest.fixture
    def store(self, spec: CollectionSpec) -> Iterator[QdrantStore]:
        """A store whose collections that a test makes under its own name go with it."""
        store = QdrantStore(self.dsn)
        yield store
        for said in [said for _, said in store._entries("collection")]:
            if said["name"].startswith(spec.name):
                store.drop(said["name"])
        store.close()

    @pytest.fixture
    def again(self, store: QdrantStore) -> Iterator[QdrantStore]:
        again = QdrantStore(self.dsn)
        yield again
        again.close()

    def leftovers(self, spec: CollectionSpec) -> list[str]:
        return held(watcher(self.dsn), spec)

    @pytest.fixture
    def users(self, store: QdrantStore, spec: CollectionSpec) -> Iterator[Callable[..., str]]:
        """Makes collections of the user's own, with nine points; gone afterwards."""
        api = api_of(store)
        made = []

        def make(name: str = spec.name, size: int = DIMENSION) -> str:
            api.create_collection(name, vectors_config=models.VectorParams(size=size, distance=models.Distance.COSINE))
            made.append(name)
            points = [
                models.PointStruct(id=n, vector=[1.0, n, *[0.5] * (size - 2)], payload={"n": n}) for n in range(9)
            ]
            api.upsert(name, points=points, wait=True)
            return name

        yield make
        for name in made:
            api.delete_collection(name)

    # What a kill or a cut line leaves

    @pytest.mark.parametrize("kill", [True, False], ids=["killed", "cut"])
    def test_a_snapshot_may_end_at_any_request(self, store: QdrantStore, spec: CollectionSpec, kill: bool) -> None:
        """fails when one that ended early leaves something on the server after the next one, or the next one fails."""
        fill(store, spec, 20)

        def again() -> None:
            assert len(take(store, spec).pieces[""]) > 0
            assert self.leftovers(spec) == []

        at_some_requests(lambda: take(store, spec), kill=kill, then=again)

    @pytest.mark.parametrize("kill", [True, False], ids=["killed", "cut"])
    def test_a_restore_may_end_at_any_request(self, store: QdrantStore, spec: CollectionSpec, kill: bool) -> None:
        """fails when one that ended early shows to readers, or leaves something on the server after the next one."""
        fill(store, spec, 20)
        source = take(store, spec)
        clock = FakeClock()
        clock.at = SystemClock().now() + timedelta(hours=1)
        later = QdrantStore(self.dsn, clock=clock)

        def again() -> None:
            assert len(ids(store, spec)) == 20
            self.restore(later, spec, source, replace=True)
            assert len(ids(store, spec)) == 20
            assert self.leftovers(spec) == []
            for kept in store.kept(spec.name):
                store.drop_kept(spec.name, kept)

        at_some_requests(lambda: self.restore(store, spec, source, replace=True), kill=kill, then=again)

    @pytest.mark.parametrize("kill", [True, False], ids=["killed", "cut"])
    def test_an_adoption_may_end_at_any_request(
        self, store: QdrantStore, spec: CollectionSpec, users: Callable[..., str], kill: bool
    ) -> None:
        """fails when a point is lost, or when running it again does not end where it would have."""
        users()
        patient = QdrantStore(self.dsn, clock=FakeClock())

        def again() -> None:
            patient.adopt(spec, dry_run=False)
            assert ids(store, spec) == {str(n) for n in range(9)}
            assert store.adopt(spec, dry_run=True) == self.leftovers(spec) == []
            store.drop(spec.name)
            users()

        at_some_requests(lambda: patient.adopt(spec, dry_run=False), kill=kill, then=again)
        patient.close()

    # Writing

    def test_large_payloads_are_written_in_parts(self, store: QdrantStore, spec: CollectionSpec) -> None:
        """fails when a batch is as large as its payloads make it: a server takes 32 MiB at once."""
        store.ensure(spec)
        sent = []

        def watch(send: Send, client: httpx.Client, request: httpx.Request) -> httpx.Response:
            if request.method == "PUT" and request.url.path.endswith("/points"):
                sent.append(len(request.content))
            return send(client, request)

        with sending(watch):
            apply(store, spec, *[upsert(n, f"p{n}", payload={"text": "x" * 3_000_000}) for n in range(1, 6)])
        assert len(ids(store, spec)) == 5
        assert max(sent) < 10_000_000

    # Snapshots

    def test_a_users_own_snapshots_stay(
        self, store: QdrantStore, spec: CollectionSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """fails when one that the user makes before, meanwhile, or after a run of ours was killed, is deleted."""
        fill(store, spec, 20)
        api, physical = api_of(store), store._need(spec.name).physical
        names = {api.create_snapshot(physical).name}

        def meanwhile() -> None:
            time.sleep(1.1)  # a server calls two of one second the same
            names.add(api.create_snapshot(physical).name)

        take(store, spec, meanwhile)
        dying = Fault(1, kill=True)

        def when_asked(send: Send, client: httpx.Client, request: httpx.Request) -> httpx.Response:
            asks = request.method == "POST" and request.url.path.endswith("/snapshots")
            return dying(send, client, request) if asks or dying.requests else send(client, request)

        with pytest.raises(Killed), sending(when_asked):
            take(store, spec)
        assert len(api.list_snapshots(physical)) == 3
        monkeypatch.setattr("relight.memory.qdrant._BEGUN_WITHIN_S", 1)
        time.sleep(2.1)  # after the moment in which a server begins what it was asked for
        names.add(api.create_snapshot(physical).name)
        take(store, spec)
        assert len(names) == 3
        assert {item.name for item in api.list_snapshots(physical)} == names
        for name in names:
            api.delete_snapshot(physical, name)

    @pytest.mark.parametrize("killed", [True, False])
    def test_a_snapshot_that_begins_late_is_found(self, store: QdrantStore, spec: CollectionSpec, killed: bool) -> None:
        """fails when one that a busy server began seconds after it was asked is waited for, or stays, for good."""
        fill(store, spec, 20)

        def busy(send: Send, client: httpx.Client, request: httpx.Request) -> httpx.Response:
            response = send(client, request)
            if request.method == "GET" and request.url.path.endswith("/snapshots"):
                # The name will say five seconds more than the server's time was.
                asked = parsedate_to_datetime(response.headers["Date"]) - timedelta(seconds=5)
                response.headers["Date"] = format_datetime(asked, usegmt=True)
            elif killed and request.method == "POST" and request.url.path.endswith("/snapshots"):
                raise Killed
            return response

        hurried = QdrantStore(self.dsn, large_bytes=2**30 if killed else 0, bound_s=5)
        with sending(busy), pytest.raises(Killed) if killed else nullcontext():
            assert len(take(hurried, spec).pieces) == 1
        hurried.close()
        if killed:
            take(store, spec)
        assert self.leftovers(spec) == []

    def test_a_large_collection_is_done_in_the_background(self, store: QdrantStore, spec: CollectionSpec) -> None:
        """A snapshot is made and recovered without waiting for an answer, and nothing of it stays."""
        fill(store, spec, 30)
        patient = QdrantStore(self.dsn, large_bytes=0, bound_s=2)
        waits = []

        def watch(send: Send, client: httpx.Client, request: httpx.Request) -> httpx.Response:
            if request.url.path.endswith(("/snapshots", "/upload")) and request.method == "POST":
                waits.append(request.url.params["wait"])
            return send(client, request)

        other = replace(spec, name=f"{spec.name}-copy")
        with sending(watch):
            source = take(patient, spec)
            assert self.restore(patient, other, source, floor=1.0) is None
        assert waits == ["false", "false"]
        assert len(ids(store, other)) == 30
        assert self.leftovers(spec) == []
        patient.close()

    @pytest.fixture
    def located(self, store: QdrantStore, spec: CollectionSpec) -> Iterator[Located]:
        """A snapshot of thirty points that the server has where it can fetch it."""
        fill(store, spec, 30)
        source = take(store, spec)
        api, physical = api_of(store), store._need(spec.name).physical
        made = api.create_snapshot(physical)
        url = f"/collections/{physical}/snapshots/{made.name}"
        data = store._nodes[0].http.get(url).content
        piece = replace(source.part.pieces[0], bytes=made.size, sha256=made.checksum)
        located = Located(replace(source.part, pieces=(piece,)), {"": data})
        located.url = self.dsn + url
        yield located
        api.delete_snapshot(physical, made.name)

    def test_a_server_fetches_a_large_snapshot_by_itself(
        self, store: QdrantStore, spec: CollectionSpec, located: Located
    ) -> None:
        """Where the vault gives a location that the server can reach, no byte goes through us."""
        patient = QdrantStore(self.dsn, large_bytes=0, bound_s=2)
        other = replace(spec, name=f"{spec.name}-copy")
        self.restore(patient, other, located, floor=1.0)
        assert (len(ids(store, other)), located.opened) == (30, 0)
        patient.close()

    def test_a_server_that_cannot_reach_the_vault_is_sent_the_bytes(
        self, store: QdrantStore, spec: CollectionSpec, located: Located
    ) -> None:
        """fails when a good point is called damaged, or its restore fails, because a server cannot fetch it.

        Whether it says so, as where there are several nodes, or does it in the background and says nothing.
        """
        kept = located.url.rpartition("/")[2]
        located.url += "-missing"
        host = store._nodes[0].host
        other = replace(spec, name=f"{spec.name}-copy")
        for nodes, opened in ((1, 1), (2, 3)):
            # The only server here under two names of it is told everything twice.
            hurried = QdrantStore(self.dsn + f",{host}" * (nodes - 1), large_bytes=0, bound_s=1)
            self.restore(hurried, other, located, replace=True)
            assert (len(ids(store, other)), located.opened) == (30, opened)
            hurried.close()
            store.drop(other.name)
        assert self.leftovers(spec) == [kept]

    @pytest.mark.parametrize(
        ("status", "said", "error"),
        [
            (500, "Service internal error: No space left on device (os error 28)", UnavailableError),
            (500, "Service internal error: Failed to unpack tar archive: No space left on device", UnavailableError),
            (500, "Service internal error: shard 0 is locked", UnavailableError),
            (
                400,
                "Wrong input: Failed to download snapshot from http://k:s3cret@v/x?y: status - 403",
                UnavailableError,
            ),
            (500, "Service internal error: File IO error: failed to iterate over archive", IntegrityError),
            (400, "Wrong input: Snapshot is not compatible with existing collection", IntegrityError),
            (413, "Payload too large", PermanentError),
        ],
    )
    def test_a_servers_own_trouble_is_no_damage(
        self, store: QdrantStore, spec: CollectionSpec, status: int, said: str, error: type[RelightError]
    ) -> None:
        """fails when a point counts as damaged, and is passed over, for its server's fault; no secret shows."""
        source = take_empty(store, spec)

        def refuse(send: Send, client: httpx.Client, request: httpx.Request) -> httpx.Response:
            if request.url.path.endswith("/upload"):
                return httpx.Response(status, json={"status": {"error": said}}, request=request)
            return send(client, request)

        with pytest.raises(error) as caught, sending(refuse):
            self.restore(store, spec, source)
        assert type(caught.value) is error
        assert "s3cret" not in str(caught.value)

    def test_a_shard_that_is_late_is_waited_for(self, store: QdrantStore, spec: CollectionSpec) -> None:
        """fails when a good restore fails because a cluster has not agreed on a shard yet, or a missing one is passed.

        The drift would allow for what is in that shard.
        """
        fill(store, spec, 30)
        source = take(store, spec).saying(drift=30)
        late = iter([(500, "Initializing"), (200, "Partial"), (200, "Partial"), (200, "Active")])
        asked = []

        def not_yet(send: Send, client: httpx.Client, request: httpx.Request) -> httpx.Response:
            response = send(client, request)
            if request.url.path == "/cluster" or not request.url.path.endswith("/cluster") or response.is_error:
                if request.url.path.endswith("/count"):
                    asked.append("count")
                return response
            status, state = next(late, (200, "Active"))
            asked.append(state)
            shard = {"shard_id": 1, "state": state, "peer_id": 2}
            said = {"status": {"error": "no shard"}, "result": {"remote_shards": [shard]}}
            return httpx.Response(status, json=said, request=request)

        for name, large in (("one", 0), ("two", 2**30)):
            patient = QdrantStore(self.dsn, large_bytes=large, bound_s=5, clock=FakeClock())
            asked.clear()
            with sending(not_yet):
                self.restore(patient, replace(spec, name=f"{spec.name}-{name}"), source)
            assert asked[: asked.index("count")].count("Active") == 1
            late = iter([(500, "Initializing"), (200, "Partial"), (200, "Active")])
            patient.close()

    def test_a_stuck_snapshot_says_so(self, spec: CollectionSpec) -> None:
        """fails when a snapshot that never appears is waited for without end, or without a word of what is stuck."""
        store = QdrantStore(self.dsn, clock=FakeClock(), bound_s=600)
        fill(store, spec, 3)

        def swallow(send: Send, client: httpx.Client, request: httpx.Request) -> httpx.Response:
            if request.method == "POST" and request.url.path.endswith("/snapshots"):
                return httpx.Response(202, json={"status": "accepted", "time": 0}, request=request)
            return send(client, request)

        with (
            pytest.raises(UnavailableError, match=rf"{spec.name}.*not there after 600 s; it is stuck"),
            sending(swallow),
        ):
            take(store, spec)
        assert len(take(store, spec).pieces) == 1
        store.drop(spec.name)
        store.close()

    @pytest.mark.parametrize("name", ["../x.snapshot", "..", "a/b.snapshot", ".snapshot", "a\\b.snapshot", ""])
    def test_a_hostile_snapshot_name_is_refused(self, store: QdrantStore, spec: CollectionSpec, name: str) -> None:
        """fails when a name that is no file's becomes a part of an address."""
        fill(store, spec, 3)
        asked = []

        def lie(send: Send, client: httpx.Client, request: httpx.Request) -> httpx.Response:
            asked.append((request.method, request.url.path))
            if request.method == "GET" and request.url.path.endswith("/snapshots"):
                return httpx.Response(200, json={"result": [{"name": name, "size": 1}]}, request=request)
            return send(client, request)

        with pytest.raises(IntegrityError, match="no file's name"), sending(lie):
            store.snapshot(spec.name, MemorySink())
        assert not [path for _, path in asked if "/snapshots/" in path]

    def test_a_collection_deleted_by_hand_fails_the_snapshot(self, store: QdrantStore, spec: CollectionSpec) -> None:
        """What was deleted on the server while it was read is whole or not there, and the next one says it is gone."""
        fill(store, spec, 30)
        api, physical = api_of(store), store._need(spec.name).physical
        with pytest.raises((NotFoundError, UnavailableError)):
            take(store, spec, lambda: api.delete_collection(physical))
        with pytest.raises(NotFoundError):
            take(store, spec)

    # Restores

    def test_the_server_checks_the_bytes_too(self, store: QdrantStore, spec: CollectionSpec) -> None:
        """fails when bytes that changed between the vault's check and the server become the collection."""
        fill(store, spec, 30)
        source = take(store, spec)
        piece = replace(source.part.pieces[0], sha256="0" * 64)

        class Unchecked(MemorySource):
            def open(self, piece: Piece) -> Any:
                return MemorySource.open(self, source.part.pieces[0])

        with pytest.raises(IntegrityError, match="checksum mismatch"):
            self.restore(store, spec, Unchecked(replace(source.part, pieces=(piece,)), source.pieces), replace=True)
        assert self.leftovers(spec) == store.kept(spec.name) == []

    def test_the_users_aliases_move_along(self, store: QdrantStore, spec: CollectionSpec) -> None:
        """Those of the former collection follow, those lost are made again, and a copy takes none of them."""
        fill(store, spec, 10)
        one, two = f"{spec.name}-one", f"{spec.name}-two"
        store._point([one, two], store._need(spec.name).physical)
        source = take(store, spec)
        assert source.part.configuration["aliases"] == [one, two]
        api_of(store).update_collection_aliases(
            [models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=two))]
        )
        self.restore(store, replace(spec, name=f"{spec.name}-copy"), source)
        assert store._aliases()[one] == store._need(spec.name).physical
        assert two not in store._aliases()
        self.restore(store, spec, source, replace=True)
        here = store._aliases()
        assert here[one] == here[two] == store._need(spec.name).physical

    def test_what_is_written_until_the_switch_is_kept(self, store: QdrantStore, spec: CollectionSpec) -> None:
        """fails when a collection that was empty a moment ago is dropped with what came in since."""
        fill(store, spec, 10)
        source = take(store, spec)
        other = replace(spec, name=f"{spec.name}-copy")
        store.ensure(other)

        def write(send: Send, client: httpx.Client, request: httpx.Request) -> httpx.Response:
            if request.url.path == "/collections/aliases":
                api_of(store).upsert(other.name, points=[models.PointStruct(id=1, vector=direction(1))], wait=True)
            return send(client, request)

        with sending(write):
            kept = self.restore(store, other, source)
        assert store.kept(other.name) == [kept]
        assert api_of(store).count(kept).count == 1

    def test_many_equal_points_do_not_spoil_the_recall(self, store: QdrantStore, spec: CollectionSpec) -> None:
        """fails when points that are as near as the tenth count as wrong: a server orders them as it likes."""
        store.ensure(spec)
        apply(store, spec, *[upsert(n, f"p{n}", direction(1)) for n in range(1, 60)])
        source = take(store, spec)
        restored = store.restore(replace(spec, name=f"{spec.name}-copy"), source, point=POINT, floor=1.0, replace=False)
        assert restored.recall == 1.0

    def test_the_snapshot_is_qdrants_own(self, store: QdrantStore, spec: CollectionSpec) -> None:
        """The piece alone brings the collection back by the server's REST interface, without Relight."""
        fill(store, spec, 30)
        data = take(store, spec).pieces[""]
        name = f"{spec.name}-plain"
        answer = httpx.post(
            f"{self.dsn}/collections/{name}/snapshots/upload",
            params={"priority": "snapshot"},
            files={"snapshot": (f"{name}.snapshot", data)},
            headers=store._nodes[0].http.headers,
        )
        api = api_of(store)
        assert answer.status_code == 200
        assert api.count(name, exact=True).count == 30
        api.delete_snapshot(name, f"{name}.snapshot")
        api.delete_collection(name)

    # What is not ours

    def test_a_collection_of_the_users_is_adopted(
        self, store: QdrantStore, spec: CollectionSpec, users: Callable[..., str]
    ) -> None:
        """It is refused until it is adopted; the plan comes first; then its points are there, written and searched."""
        users()
        with pytest.raises(ConflictError, match="adopt"):
            store.ensure(spec)
        with pytest.raises(ConflictError, match="adopt"):
            self.restore(store, spec, take_empty(store, spec), replace=True)
        plan = store.adopt(spec, dry_run=True)
        assert any("9 points" in step for step in plan)
        assert store.describe(spec.name) is None
        assert store.adopt(spec, dry_run=False) == plan
        found = store.describe(spec.name)
        assert found is not None
        assert (found.spec, found.points, found.position, found.index) == (spec, 9, START, IndexState.READY)
        apply(store, spec, upsert(1, "3", payload={"new": True}), upsert(2, "x"))
        hits = {hit.id: hit.payload for hit in store.search(spec.name, direction(1), 20).hits}
        assert (len(hits), hits["3"], hits["4"], hits["x"]) == (10, {"new": True}, {"n": 4}, {"seq": 2})
        assert self.leftovers(spec) == []

    def test_an_alias_of_the_users_is_adopted_as_it_is(
        self, store: QdrantStore, spec: CollectionSpec, users: Callable[..., str]
    ) -> None:
        """Nothing is copied, and a restore moves the alias and keeps the user's collection."""
        target = users(f"{spec.name}-own")
        store._point([spec.name], target)
        with pytest.raises(ConflictError, match="adopt"):
            store.ensure(spec)
        assert store.adopt(spec, dry_run=True) == store.adopt(spec, dry_run=False) != []
        assert store.adopt(spec, dry_run=True) == []
        assert len(ids(store, spec)) == 9
        assert self.restore(store, spec, take(store, spec), replace=True) == target
        store.drop_kept(spec.name, target)

    def test_the_users_other_aliases_outlive_an_adoption(
        self, store: QdrantStore, spec: CollectionSpec, users: Callable[..., str]
    ) -> None:
        """fails when a name that led to the collection leads nowhere afterwards, cut adoption or not."""
        users()
        others = [f"{spec.name}-one", f"{spec.name}-two"]
        store._point(others, spec.name)
        assert all(alias in store.adopt(spec, dry_run=True)[-1] for alias in others)

        def cut(send: Send, client: httpx.Client, request: httpx.Request) -> httpx.Response:
            if request.url.path == "/collections/aliases":
                raise Killed
            return send(client, request)

        with pytest.raises(Killed), sending(cut):
            store.adopt(spec, dry_run=False)
        assert not set(others) & store._aliases().keys()
        store.adopt(spec, dry_run=False)
        here = store._aliases()
        assert {here[alias] for alias in [spec.name, *others]} == {store._need(spec.name).physical}

    def test_a_collection_made_anew_costs_no_copy(
        self, store: QdrantStore, spec: CollectionSpec, users: Callable[..., str]
    ) -> None:
        """fails when an agent that makes its collection again, empty, while its name is moved costs the user's points.

        The adoption says what there is twice; when the empty one is gone, it is finished.
        """
        users()
        api = api_of(store)

        made: list[httpx.Request] = []

        def make_anew(send: Send, client: httpx.Client, request: httpx.Request) -> httpx.Response:
            if request.url.path == "/collections/aliases" and not made:
                made.append(request)
                vectors = models.VectorParams(size=DIMENSION, distance=models.Distance.COSINE)
                api.create_collection(spec.name, vectors_config=vectors)
            return send(client, request)

        with sending(make_anew), pytest.raises(ConflictError, match=r"has 0 points.* has 9"):
            store.adopt(spec, dry_run=False)
        for dry_run in (False, True):
            with pytest.raises(ConflictError, match=r"has 0 points.* has 9"):
                store.adopt(spec, dry_run=dry_run)
        api.delete_collection(spec.name)
        store.adopt(spec, dry_run=False)
        assert ids(store, spec) == {str(n) for n in range(9)}
        assert self.leftovers(spec) == []

    def test_a_collection_written_to_while_it_is_copied_stays(
        self, store: QdrantStore, spec: CollectionSpec, users: Callable[..., str]
    ) -> None:
        """fails when a point is lost that came after the snapshot, or when a copy stays that nobody needs."""
        users()

        def write(send: Send, client: httpx.Client, request: httpx.Request) -> httpx.Response:
            response = send(client, request)
            if request.url.path.endswith("/upload"):
                point = models.PointStruct(id=100, vector=direction(1))
                api_of(store).upsert(spec.name, points=[point], wait=True)
            return response

        with sending(write), pytest.raises(ConflictError, match=r"has 10 points.* has 9"):
            store.adopt(spec, dry_run=False)
        assert self.leftovers(spec) == [f"collection {spec.name}"]
        store.adopt(spec, dry_run=False)
        assert len(ids(store, spec)) == 10

    def test_others_under_the_name_are_not_taken_for_the_same(
        self, store: QdrantStore, spec: CollectionSpec, users: Callable[..., str]
    ) -> None:
        """fails when a collection that holds as many other points as the copy is deleted for being the original."""
        users()

        def cut(send: Send, client: httpx.Client, request: httpx.Request) -> httpx.Response:
            if request.method == "DELETE" and request.url.path == f"/collections/{spec.name}":
                raise Killed
            return send(client, request)

        with pytest.raises(Killed), sending(cut):
            store.adopt(spec, dry_run=False)
        api_of(store).set_payload(spec.name, payload={"n": "other"}, points=[8], wait=True)
        with pytest.raises(ConflictError, match="which are others"):
            store.adopt(spec, dry_run=False)
        assert api_of(store).count(spec.name).count == 9
        api_of(store).set_payload(spec.name, payload={"n": 8}, points=[8], wait=True)
        store.adopt(spec, dry_run=False)
        assert len(ids(store, spec)) == 9

    def test_a_server_that_lists_no_checksums_is_adopted_from(
        self, store: QdrantStore, spec: CollectionSpec, users: Callable[..., str]
    ) -> None:
        """fails when an older server, which says no checksum of a snapshot, is asked to check an empty one."""
        users()

        def older(send: Send, client: httpx.Client, request: httpx.Request) -> httpx.Response:
            response = send(client, request)
            if request.method == "POST" and request.url.path.endswith("/snapshots"):
                said = response.json()
                del said["result"]["checksum"]
                return httpx.Response(200, json=said, request=request)
            return response

        with sending(older):
            store.adopt(spec, dry_run=False)
        assert len(ids(store, spec)) == 9

    @pytest.mark.parametrize("kind", ["sparse", "several"])
    def test_vectors_that_no_snapshot_brings_back_are_not_adopted(
        self, store: QdrantStore, spec: CollectionSpec, kind: str
    ) -> None:
        """fails when a collection is copied and deleted of which no snapshot can be verified afterwards."""
        several = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
        vectors = models.VectorParams(
            size=DIMENSION,
            distance=models.Distance.COSINE,
            multivector_config=several if kind == "several" else None,
        )
        sparse = {"words": models.SparseVectorParams()} if kind == "sparse" else None
        api = api_of(store)
        api.create_collection(spec.name, vectors_config=vectors, sparse_vectors_config=sparse)
        for dry_run in (True, False):
            with pytest.raises(IntegrityError, match="sparse vectors or several"):
                store.adopt(spec, dry_run=dry_run)
        api.delete_collection(spec.name)

    def test_another_dimension_is_not_adopted(
        self, store: QdrantStore, spec: CollectionSpec, users: Callable[..., str]
    ) -> None:
        """fails when a collection becomes a memory that no query of the agent fits."""
        users(size=DIMENSION + 1)
        with pytest.raises(IntegrityError, match=f"{DIMENSION + 1} x Cosine"):
            store.adopt(spec, dry_run=False)


def take_empty(store: QdrantStore, spec: CollectionSpec) -> MemorySource:
    """A snapshot of an empty collection."""
    other = replace(spec, name=f"{spec.name}-empty")
    store.ensure(other)
    return take(store, other)


class TestQdrantStandIn(QdrantContract):
    """The stand-in."""

    @pytest.fixture(autouse=True)
    def _server(self, standin: QdrantServer) -> None:
        self.dsn = standin.dsn()


@pytest.mark.skipif(not REAL, reason="RELIGHT_TEST_QDRANT_URL is not set")
class TestQdrantServer(QdrantContract):
    """A real server."""

    dsn = REAL


@pytest.fixture
def own(server_group: ProcessGroup, server_dir: Path, spec: CollectionSpec) -> Iterator[Callable[..., QdrantServer]]:
    """Starts stand-ins of a test's own."""
    started = []

    def start(**options: Any) -> QdrantServer:
        server = QdrantServer(server_group, server_dir / f"qdrant-{spec.name}", name=spec.name, **options)
        asyncio.run(server.start())
        started.append(server)
        return server

    yield start
    for server in started:
        server.destroy()


def test_a_server_that_restarts_is_used_again(own: Callable[..., QdrantServer], spec: CollectionSpec) -> None:
    """Until it answers again every call says that it does not; what it had acknowledged is there."""
    server = own()
    store = QdrantStore(server.dsn())
    fill(store, spec, 30)
    with pytest.raises(UnavailableError):
        take(store, spec, server.kill)
    with pytest.raises(UnavailableError):
        store.position(spec.name)
    asyncio.run(server.start())
    assert store.position(spec.name) == Position(10, 30)
    assert take(store, spec).part.points == 30
    assert held(store, spec) == []
    store.close()


def test_a_server_that_lost_its_volume_is_set_up_again(own: Callable[..., QdrantServer], spec: CollectionSpec) -> None:
    """fails when a client that knew the old server cannot use the new and empty one."""
    server = own()
    store = QdrantStore(server.dsn())
    fill(store, spec, 3)
    server.destroy()
    asyncio.run(server.start())
    assert store.describe(spec.name) is None
    fill(store, spec, 2)
    assert len(ids(store, spec)) == 2
    store.close()


def test_an_older_server_is_told_apart(
    own: Callable[..., QdrantServer], standin: QdrantServer, spec: CollectionSpec
) -> None:
    """fails when the snapshot of a newer server is sent to an older one."""
    newer, older = QdrantStore(standin.dsn()), QdrantStore(own(version="1.14.9").dsn())
    fill(newer, spec, 3)
    source = take(newer, spec)
    with pytest.raises(IntegrityError, match=r"1\.14\.9"):
        older.restore(spec, source, point=POINT, floor=0.9, replace=False)
    assert source.opened == 0
    newer.drop(spec.name)
    for store in (newer, older):
        store.close()


def test_the_key_is_the_addresss_password(own: Callable[..., QdrantServer], spec: CollectionSpec) -> None:
    """It is sent with everything; a wrong one is denied and never shown."""
    server = own(api_key="s3cret/@key")
    good = QdrantStore(f"http://:s3cret%2F%40key@127.0.0.1:{server.port}")
    fill(good, spec, 3)
    assert take(good, spec).part.points == 3
    bad = QdrantStore(f"http://:wr0ng@127.0.0.1:{server.port}")
    for call in (lambda: bad.position(spec.name), lambda: bad.ensure(spec)):
        with pytest.raises(DeniedError) as caught:
            call()
        assert "wr0ng" not in str(caught.value)
    for store in (good, bad):
        store.close()


@contextmanager
def clustered() -> Iterator[None]:
    """Let every server say that it is the first of two nodes, by the address it is asked at."""
    hosts: list[str] = []

    def cluster(send: Send, client: httpx.Client, request: httpx.Request) -> httpx.Response:
        if request.url.path != "/cluster":
            return send(client, request)
        if request.url.host not in hosts:
            hosts.append(request.url.host)
        said = {"status": "enabled", "peer_id": hosts.index(request.url.host), "peers": {"0": {}, "1": {}}}
        return httpx.Response(200, json={"result": said}, request=request)

    with sending(cluster):
        yield


def test_a_cluster_needs_every_node_in_its_address(standin: QdrantServer, spec: CollectionSpec) -> None:
    """fails when the snapshot of a cluster would hold the shards of some nodes only."""
    store = QdrantStore(standin.dsn())
    fill(store, spec, 3)
    with pytest.raises(ConfigError, match="has 2 nodes, and the address names 1"), clustered():
        take(store, spec)
    store.drop(spec.name)
    store.close()


def test_the_catalogue_is_written_and_read_by_a_majority(
    own: Callable[..., QdrantServer], spec: CollectionSpec
) -> None:
    """fails when a replica that lags may say where a collection is in the journal, or that there is none."""
    server = own()
    store = QdrantStore(f"http://127.0.0.1:{server.port},localhost:{server.port}")
    asked = []

    def watch(send: Send, client: httpx.Client, request: httpx.Request) -> httpx.Response:
        if request.method == "POST" and request.url.path.endswith(
            (f"{CATALOGUE}/points", f"{CATALOGUE}/points/scroll")
        ):
            asked.append(request.url.params.get("consistency"))
        return send(client, request)

    with sending(watch):
        fill(store, spec, 3)
        assert store.kept(spec.name) == []
    assert set(asked) == {"majority"}
    params = api_of(store).get_collection(CATALOGUE).config.params
    assert (params.replication_factor, params.write_consistency_factor) == (2, 2)
    store.close()


@pytest.mark.parametrize(("version", "refused"), [("1.17.0", True), ("1.17.1", False)])
def test_a_cluster_that_cannot_be_restored_to_is_refused(
    own: Callable[..., QdrantServer], spec: CollectionSpec, version: str, refused: bool
) -> None:
    """fails when a restore begins that would leave shards without an active replica, or a point is taken for one."""
    server = own(version=version)
    store = QdrantStore(f"http://127.0.0.1:{server.port},localhost:{server.port}")
    fill(store, spec, 3)
    source = take(store, spec)
    with clustered():
        for act in (lambda: take(store, spec), lambda: store.restore(spec, source, point=POINT, floor=0, replace=True)):
            if refused:
                with pytest.raises(ConfigError, match=r"1\.17\.0"):
                    act()
            else:
                act()
    assert (store.kept(spec.name) == []) is refused
    store.close()
