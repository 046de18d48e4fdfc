"""Qdrant as a vector store: physical collections behind an alias, and a catalogue of Relight's own beside them."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import random
import re
import secrets
import threading
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from relight.adapters.qdrant import answer, connect, translating
from relight.clock import SystemClock, parse_time
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
from relight.memory.checks import check_count, check_dimension, check_empty, check_recall, check_since
from relight.memory.journal import START, Op, Position
from relight.memory.parity import CANARIES, K, recall
from relight.memory.store import (
    Collection,
    CollectionSpec,
    Distance,
    Found,
    Hit,
    HnswIndex,
    IndexState,
    Restored,
    StoredPoint,
    Taken,
)
from relight.memory.vectors import pack, unpack
from relight.vault.manifest import Canary

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    import httpx
    from qdrant_client import models

    from relight.adapters.qdrant import Node
    from relight.clock import Clock
    from relight.memory.journal import Entry
    from relight.memory.store import SnapshotSink, SnapshotSource, Source
    from relight.vault.manifest import CollectionPart, Piece

log = logging.getLogger(__name__)

CATALOGUE = "relight_catalogue"
MARK = "_relight"
"""The payload field that says what Qdrant cannot: an id that is no UUID, or a payload that is empty and not absent."""

DISTANCES = {Distance.COSINE: "Cosine", Distance.EUCLIDEAN: "Euclid", Distance.DOT: "Dot"}

# A snapshot of at least this many bytes is made and taken in the background and asked after; see `QdrantStore`.
LARGE_BYTES = 1024**3
# Within which a snapshot must be made, and within which what need not be asked after is done.
BOUND_S = 3600.0
PROMPT_S = 60.0
# Slower than any disk that is meant for this: a recovery that takes longer is stuck.
_BYTES_PER_S = 20_000_000

_IDS = uuid.UUID("6f0cb0c0-6e0e-5c0e-9a55-0d7e2f0e2b51")
_CHUNK = 1024 * 1024
_NAME_BYTES = 36
# A server takes 32 MiB of JSON at once, and a vector's component is up to some 20 bytes of it.
_BYTES_AT_ONCE = 8 * 1024**2
_COMPONENT_BYTES = 20
_PAGE = 256
_LEGAL_ALIAS = re.compile(r"(?!\.)[^<>:\"/\\|?*\x00-\x1f]{1,255}")
_SNAPSHOT_NAME = re.compile(r"(?!\.)[^/\\\x00]+\.snapshot")
_URL = re.compile(r"https?://\S+")
# What servers say of a snapshot that cannot be read, and of themselves when that is not why.
_DAMAGED = re.compile(r"checksum mismatch|not compatible|archive|unpack|deserializ|corrupt", re.IGNORECASE)
_NOT_DAMAGED = re.compile(r"download|no space left|os error|time.?out|timed out|connection", re.IGNORECASE)
_STAMP = re.compile(r"-(\d{4})-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)\.snapshot$")
_VERSION = re.compile(r"(\d+)\.(\d+)")
_RELEASE = re.compile(r"(\d+)\.(\d+)\.(\d+)")
# Before it, a node that was sent a snapshot without a shard that it holds was left in recovery for good.
_CLUSTERS_SINCE = (1, 17, 1)
# A server begins a snapshot, and stamps its name with the second, within moments after it was asked.
_BEGUN_WITHIN_S = 3
# A busy one does so later, which counts where there is nothing else that it could be.
_BEGUN_LATE_S = 30
_FORGET_AFTER_S = 24 * 3600.0
# A switch takes one request; when this is over it was killed, whatever two clocks differ by.
_SWITCHING_S = 300.0

# Of the restores of one process, one at a time is at its last step, so that two of them cannot both find nothing there.
_switching = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """What the catalogue says of a physical collection.

    `state` is "made" for one that was made empty, "filling" until a restore has switched to it, "copying" and "copied"
    while it is adopted into, else "live". `kept_at` is set before a switch leaves it behind; `switching`, since when,
    and `dropping` are what those who do so tell each other. `aliases` are the user's own of a collection whose copy
    this is: its deletion takes them along.
    """

    physical: str
    spec: CollectionSpec
    position: Position = START
    restored_from: str | None = None
    state: str
    kept_at: str | None = None
    switching: str | None = None
    dropping: bool = False
    aliases: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return _record_id(self.physical)

    def to_payload(self) -> dict[str, Any]:
        index = self.spec.index
        return {
            "kind": "collection",
            "physical": self.physical,
            "name": self.spec.name,
            "dimension": self.spec.dimension,
            "distance": self.spec.distance.value,
            "embedding_model": self.spec.embedding_model,
            "prefix": self.spec.prefix,
            "index": None if index is None else [index.m, index.ef_construction],
            "xid": self.position.xid,
            "seq": self.position.seq,
            "restored_from": self.restored_from,
            "state": self.state,
            "kept_at": self.kept_at,
        }

    @classmethod
    def of(cls, value: dict[str, Any]) -> _Record:
        try:
            index = value["index"]
            spec = CollectionSpec(
                name=value["name"],
                dimension=value["dimension"],
                distance=Distance(value["distance"]),
                embedding_model=value["embedding_model"],
                prefix=value["prefix"],
                index=None if index is None else HnswIndex(m=index[0], ef_construction=index[1]),
            )
            return cls(
                physical=value["physical"],
                spec=spec,
                position=Position(value["xid"], value["seq"]),
                restored_from=value["restored_from"],
                state=value["state"],
                kept_at=value["kept_at"],
                switching=value.get("switching"),
                dropping=bool(value.get("dropping")),
                aliases=tuple(value.get("aliases") or ()),
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise IntegrityError(
                f"the collection {CATALOGUE!r} holds something that is not Relight's: {exc}",
                hint="move it away: Relight keeps its catalogue under that name",
            ) from exc


class _OthersCameError(Exception):
    """The bytes are not those of the snapshot that was begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listed:
    """A snapshot as a server lists it; not `ours` where it may be one that the user asked for at the same time."""

    name: str
    size: int
    checksum: str | None
    ours: bool = True


class QdrantStore:
    """Collections in a Qdrant server. See `VectorStore` for what is promised.

    A collection's public name is an alias (names that Qdrant does not take get one made from them). It points at a
    physical collection, whose name is made of the public one, where it came from, and a random part. Switching is one
    call that moves the alias: readers who are under way keep the physical collection that they began with. The
    collection `relight_catalogue` says what each physical one is of and how far it is in the journal.

    A point's id is the id itself where that is a canonical UUID or an unsigned integer, as Qdrant takes them, else a
    UUID made from it, with the id in the payload's field `_relight`. The payload's own fields stay where they are.

    A snapshot's pieces are Qdrant's own, one of each node, so that its REST interface brings them back without
    Relight. One under `large_bytes` is waited for; a larger one is made and recovered in the background and asked after
    until `bound_s` or, for a recovery, the time for its size is over. A recovery that is then not done, or that failed
    because the server cannot read the vault, is done once more with the bytes sent to the server. Where the server
    keeps its snapshots in S3 by itself, they are read through it too: it cannot be told where in which bucket to put
    one, nor asked where one is, so handing that over to it could not be verified.

    A cluster's nodes are all in the address, because a snapshot holds the shards of the node that was asked. A restore
    gives every piece to every node, each of which takes from it the shards that it has; the count afterwards is exact.
    Clusters of servers before 1.17.1, which do not get over a piece without their shards, are refused throughout.
    """

    kind = "qdrant"
    extension = "snapshot"
    transactional = False

    def __init__(
        self, dsn: str, *, clock: Clock | None = None, large_bytes: int = LARGE_BYTES, bound_s: float = BOUND_S
    ) -> None:
        self._nodes = connect(dsn)
        self._clock = clock or SystemClock()
        self._large_bytes = large_bytes
        self._bound_s = bound_s

    def close(self) -> None:
        """Let the connections go."""
        for node in self._nodes:
            node.close()

    def version(self) -> str:
        """The server's version, as manifests have it."""
        with translating():
            response = self._nodes[0].http.get("/")
            answer(response)
            return f"Qdrant {response.json().get('version', '')}"

    # -- collections

    def ensure(self, spec: CollectionSpec) -> None:
        """Make the collection unless it exists; see `VectorStore.ensure`."""
        found = self._live(spec.name)
        if found is None:
            self._refuse_foreign(spec.name)
            found = self._make(spec)
        if found.spec != spec:
            raise IntegrityError(
                f"the collection {spec.name!r} is {found.spec}, not {spec}",
                hint="use the settings it was made with, or another collection",
            )

    def describe(self, name: str) -> Collection | None:
        """The collection, or None."""
        found = self._live(name)
        if found is None:
            return None
        return Collection(
            spec=found.spec,
            points=self._count(found.physical),
            position=found.position,
            restored_from=found.restored_from,
            index=self._index_state(found),
        )

    def position(self, name: str) -> Position:
        """The last journal entry in the collection."""
        return self._need(name).position

    def apply(self, name: str, entries: Sequence[Entry], *, since: Position, until: Position) -> Position:
        """Apply the entries after `since` up to `until`; see `VectorStore.apply`.

        The position belongs to the physical collection: an applier that a restore overtook moves that of the former.
        """
        found = self._need(name)
        if found.position >= until:
            return found.position
        check_since(name, found.position, since)
        last = {entry.id: entry for entry in entries}
        upserts = [entry for entry in last.values() if entry.op is Op.UPSERT]
        deletes = [_point_id(entry.id) for entry in last.values() if entry.op is Op.DELETE]
        check_dimension(upserts, found.spec)
        points = [
            {
                "id": _point_id(entry.id),
                "vector": list(unpack(entry.vector or b"")),
                "payload": _to_payload(entry.id, entry.payload),
            }
            for entry in upserts
        ]
        for batch in _batches(points):
            self._upsert(found.physical, batch)
        with translating():
            if deletes:
                self._api.delete(found.physical, points_selector=deletes, wait=True, ordering=self._strong)
        self._note(found.physical, xid=until.xid, seq=until.seq)
        return until

    def search(self, name: str, vector: Sequence[float], k: int) -> Found:
        """The `k` nearest points, approximately where the collection has an index."""
        query = list(unpack(pack(vector)))
        found = self._need(name)
        try:
            return Found(hits=self._search(found, query, k, exact=False), position=found.position)
        except NotFoundError:
            # A restore drops the empty collection that it replaces, and may do so after we learned its name.
            found = self._need(name)
            return Found(hits=self._search(found, query, k, exact=False), position=found.position)

    def fetch(self, name: str, ids: Sequence[str]) -> list[StoredPoint]:
        """Those of the points that there are; see `VectorStore.fetch`."""
        found = self._need(name)
        points = []
        with translating():
            items = self._api.retrieve(
                found.physical, ids=[_point_id(id_) for id_ in ids], with_payload=True, with_vectors=True
            )
        for item in items:
            id_, payload = _from_payload(str(item.id), item.payload)
            points.append(StoredPoint(id=id_, vector=pack(item.vector), payload=payload))
        return points

    def score(self, name: str, canaries: Sequence[Canary]) -> float:
        """The share of the canaries' answers that the collection gives now, by exact search."""
        return self._recall(self._need(name), canaries)

    def build_index(self, name: str) -> IndexState:
        """See `VectorStore.build_index`. The server builds by itself; it is told to where it waits to be told."""
        found = self._need(name)
        with translating():
            info = self._api.get_collection(found.physical)
            wanted = self._hnsw(found.spec)
            hnsw = info.config.hnsw_config
            if (hnsw.m, hnsw.ef_construct) != (wanted.m, wanted.ef_construct):
                self._api.update_collection(found.physical, hnsw_config=wanted)
            elif info.status.value == "grey":
                # Optimizations wait for the next write after a restart; an empty change lets them begin.
                self._api.update_collection(found.physical, optimizers_config=self._models.OptimizersConfigDiff())
        return self._index_state(found)

    def kept(self, name: str) -> list[str]:
        """The names of the former physical collections of `name`, newest first."""
        live = self._aliases().get(_alias(name))
        found = [item for item in self._records(name) if item.kept_at is not None and item.physical != live]
        return [item.physical for item in sorted(found, key=lambda item: (item.kept_at or "", item.id), reverse=True)]

    def drop_kept(self, name: str, kept: str) -> None:
        """Drop a former collection; NotFoundError when there is none of that name."""
        if kept not in self.kept(name):
            raise NotFoundError(f"{name!r} has no former collection {kept!r}", hint="see the list of those kept")
        self._sweep(name)
        self._drop(kept)

    def drop(self, name: str) -> None:
        """Drop the collection and what is kept of it; the alias goes with the physical collection."""
        self._sweep(name)
        for record in self._records(name):
            self._drop(record.physical)

    # -- snapshot

    def snapshot(self, name: str, sink: SnapshotSink) -> Taken:
        """Have each node make a snapshot, and stream it; see `VectorStore.snapshot`.

        `drift` is by how much the count and the journal's sequence moved while it was made.
        """
        version = self.version()
        nodes = self._cluster()
        found = self._need(name)
        self._sweep(name)
        points = self._count(found.physical)
        canaries = self._take_canaries(found)
        large = points * found.spec.dimension * 4 >= self._large_bytes
        for node, peer in nodes:
            self._take_piece(node, found, sink, peer, large=large)
        moved = abs(self._need_record(found).position.seq - found.position.seq)
        return Taken(
            spec=found.spec,
            server_version=version,
            points=points,
            drift=abs(self._count(found.physical) - points) + moved,
            position=found.position,
            canaries=canaries,
            configuration=self._configuration(found),
        )

    def _take_piece(self, node: Node, found: _Record, sink: SnapshotSink, peer: str, *, large: bool) -> None:
        # Another run may take our snapshot for one that a killed run left, as long as we have not begun to read it; and
        # one that it begins in the same second has the same name and takes the place of ours.
        for last in (False, False, True):
            try:
                with self._snapshot_on(node, found, large=large) as listed:
                    self._stream(node, found, listed, sink, peer)
                return
            except _OthersCameError as exc:
                if last:
                    raise UnavailableError(
                        f"the snapshot {listed.name!r} was removed or replaced while it was read: {exc}",
                        hint="something else takes snapshots of the collection; try again",
                    ) from exc
                self._clock.sleep(1.0 + random.random())  # noqa: S311 - so that two do not go on in step

    @staticmethod
    def _stream(node: Node, found: _Record, listed: _Listed, sink: SnapshotSink, peer: str) -> None:
        url = f"/collections/{quote(found.physical, safe='')}/snapshots/{quote(listed.name, safe='')}"
        with translating(), node.http.stream("GET", url) as response:
            if response.status_code == 404:
                raise _OthersCameError("it is not there")
            if response.status_code != 200:
                answer(response)
            with sink.piece(peer) as piece:
                digest, size = hashlib.sha256(), 0
                for data in response.iter_raw(_CHUNK):
                    digest.update(data)
                    size += len(data)
                    piece.write(data)
                if size != listed.size or listed.checksum not in (None, digest.hexdigest()):
                    raise _OthersCameError(f"{listed.size} bytes were promised, and {size} others came")

    @contextmanager
    def _snapshot_on(self, node: Node, found: _Record, *, large: bool) -> Iterator[_Listed]:
        """A snapshot on the server's disk, gone afterwards; what a kill leaves is found by the claim."""
        before, asked = self._list(node, found.physical)
        if any(_is_begun(item.name, asked, within_s=_BEGUN_WITHIN_S) for item in before):
            # A server calls two of one second the same, and ours would take the place of the user's.
            self._clock.sleep(1.0)
            before, asked = self._list(node, found.physical)
        claim = str(uuid.uuid4())
        self._catalogue(
            claim,
            {
                "kind": "snapshot",
                "name": found.spec.name,
                "physical": found.physical,
                "host": node.host,
                "asked": asked.isoformat(),
                "before": [item.name for item in before],
                "snapshot": None,
            },
        )
        listed = self._create_snapshot(node, found, {item.name for item in before}, asked, large=large)
        try:
            yield listed
        finally:
            # Should this fail, the claim stays, and the next run removes the snapshot.
            try:
                if listed.ours:
                    with suppress(NotFoundError):
                        self._delete_snapshot(node, found.physical, listed.name)
                self._forget(claim)
            except RelightError as exc:
                log.warning("snapshot_left_on_server", extra={"snapshot": listed.name, "reason": str(exc)})

    def _create_snapshot(
        self, node: Node, found: _Record, before: set[str], asked: datetime, *, large: bool
    ) -> _Listed:
        import httpx

        url = f"/collections/{quote(found.physical, safe='')}/snapshots"
        if large:
            # Its name is not in the answer; the second in it tells it from one that was begun before we asked.
            self._clock.sleep(1.0)
        with translating(), suppress(httpx.ReadTimeout):
            response = node.http.post(url, params={"wait": _flag(not large)}, timeout=_patient(PROMPT_S))
            made = answer(response)
            if made is not None:
                return _listed(made)
        until = self._clock.monotonic() + self._bound_s
        while True:
            now, _ = self._list(node, found.physical)
            new = [
                item
                for item in now
                if item.name not in before
                and _is_begun(item.name, asked, after_s=int(large), within_s=math.inf, unknown=True)
            ]
            if len(new) > 1:
                near = [item for item in new if _is_begun(item.name, asked, within_s=_BEGUN_WITHIN_S, unknown=True)]
                new = near or new
            if len(new) > 1:
                log.warning("snapshots_left_on_server", extra={"snapshots": [item.name for item in new]})
            if new:
                return replace(min(new, key=lambda item: item.name), ours=len(new) == 1)
            if self._clock.monotonic() >= until:
                raise UnavailableError(
                    f"the snapshot of {found.physical!r} that {node.host} was asked for is not there after "
                    f"{self._bound_s:g} s",
                    hint="it is stuck: see the server's log and the space on its disk",
                )
            self._clock.sleep(min(2.0, self._bound_s / 10))

    def _sweep(self, name: str) -> None:
        """Remove the snapshots that killed runs left on the server.

        One whose name the killed run never learned is the only one that was begun since it asked, or the one that was
        begun at once; where the user began another in the same seconds both stay, because one of them is not ours.
        """
        hosts = {node.host: node for node in self._nodes}
        places: dict[tuple[str, str], list[tuple[str, dict[str, Any]]]] = {}
        for claim, said in self._claims(name):
            places.setdefault((said["host"], said["physical"]), []).append((claim, said))
        for (host, physical), claims in places.items():
            if host in hosts:
                self._forget(*self._sweep_place(hosts[host], physical, claims))

    def _sweep_place(self, node: Node, physical: str, claims: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
        """The claims that are settled; a snapshot that is not there may still appear for a while."""
        try:
            listed, now = self._list(node, physical)
        except NotFoundError:
            return [claim for claim, _ in claims]
        settled: list[str] = []
        gone: set[str] = set()
        for claim, said in claims:
            asked = parse_time(said["asked"])
            new = [item.name for item in listed if item.name not in {*said["before"], *gone}]
            names = [name for name in new if _is_begun(name, asked, within_s=_BEGUN_LATE_S)]
            if len(names) > 1:
                names = [name for name in names if _is_begun(name, asked, within_s=_BEGUN_WITHIN_S)]
            if len(names) == 1:
                with suppress(NotFoundError):
                    self._delete_snapshot(node, physical, names[0])
                gone.add(names[0])
            elif names:
                log.warning("snapshots_left_on_server", extra={"snapshots": names, "collection": said["name"]})
            if names or (now - asked).total_seconds() > _FORGET_AFTER_S:
                settled.append(claim)
        return settled

    def _list(self, node: Node, physical: str) -> tuple[list[_Listed], datetime]:
        """The snapshots of a physical collection on a node, and the node's time."""
        with translating():
            response = node.http.get(f"/collections/{quote(physical, safe='')}/snapshots")
            found = [_listed(item) for item in answer(response) or ()]
        try:
            return found, parsedate_to_datetime(response.headers["Date"])
        except (KeyError, ValueError):
            return found, self._clock.now().replace(microsecond=0)

    def _delete_snapshot(self, node: Node, physical: str, snapshot: str) -> None:
        with translating():
            url = f"/collections/{quote(physical, safe='')}/snapshots/{quote(snapshot, safe='')}"
            answer(node.http.delete(url, timeout=_patient(PROMPT_S)))

    def _configuration(self, found: _Record) -> dict[str, Any]:
        with translating():
            config = self._api.get_collection(found.physical).config
        others = self._other_aliases(found.physical, found.spec.name)
        return {"aliases": others, "config": json.loads(config.model_dump_json(exclude_none=True))}

    # -- restore

    def restore(
        self, spec: CollectionSpec, source: SnapshotSource, *, point: str, floor: float, replace: bool
    ) -> Restored:
        """Recover into a new physical collection, verify, and move the alias; see `VectorStore.restore`.

        The user's other aliases of the former collection move along; those that the manifest names and that point
        nowhere are made again. A restore under another name leaves all of them alone.
        """
        part = source.part
        self._refuse_older(part.server_version)
        self._cluster()
        live = self._live(spec.name)
        if live is None:
            self._refuse_foreign(spec.name)
        self._refuse_unless_empty(spec.name, live, replace=replace)
        self._drop_unfinished(spec.name, live)
        record = self._begin(spec, part.position, point)
        try:
            if not self._fill(record, source):
                # What is stuck may still come to its end: not in what is live by then, and the next restore drops it.
                log.warning("recovery_is_stuck", extra={"collection": record.physical, "point": point})
                with translating():
                    self._api.delete_collection(record.physical, timeout=int(PROMPT_S))
                record = self._begin(spec, part.position, point)
                self._fill(record, source, send=True)
            points = self._verify(record, points=part.points, drift=part.drift)
            score = self._recall(record, part.canaries)
            check_recall(part.name, score, floor)
            aliases = part.configuration.get("aliases", []) if spec.name == part.name else []
            with _switching:
                kept = self._switch(record, replace=replace, aliases=aliases)
        except BaseException as exc:
            overtaken = False
            with suppress(RelightError):  # what stays is removed by the next restore
                now = self._record(record.physical)
                overtaken = isinstance(exc, RelightError) and (now is None or now.dropping)
                self._remove_unfinished(record)
            if overtaken:
                # Whatever it met with, it met because another restore took it for one that was killed.
                raise _overtaken(record) from exc
            raise
        return Restored(points=points, recall=score, kept=kept)

    def _begin(self, spec: CollectionSpec, position: str, point: str) -> _Record:
        record = _Record(
            physical=_new_physical(spec.name, point),
            spec=spec,
            position=Position.parse(position),
            restored_from=point,
            state="filling",
        )
        self._register(record)
        return record

    def _fill(self, record: _Record, source: SnapshotSource, *, send: bool = False) -> bool:
        """Give every piece to every node; False when one that is recovered in the background is not done in time.

        With `send` the bytes go through us, and every answer is waited for.
        """
        part = source.part
        for piece in part.pieces:
            large = piece.bytes >= self._large_bytes and not send
            # Who is not told when one recovery is done cannot begin the next one.
            wait = not large or len(part.pieces) * len(self._nodes) > 1
            location = source.location(piece) if large else None
            for node in self._nodes:
                try:
                    if location is None or not self._recover_from(node, record, piece, location, wait=wait):
                        with source.open(piece) as body:
                            self._upload(node, record, piece.bytes, piece.sha256, body, wait=wait)
                except NotFoundError as exc:
                    raise _overtaken(record) from exc
            if not wait and not self._is_recovered(record, part, self._time_for(piece.bytes)):
                return False
        return True

    def _time_for(self, size: int) -> float:
        """Within how many seconds so many bytes are recovered, or something is stuck."""
        return min(self._bound_s, PROMPT_S + size / _BYTES_PER_S)

    def _upload(
        self,
        node: Node,
        record: _Record,
        size: int,
        sha256: str | None,
        body: Source,
        *,
        wait: bool,
        named: str = "relight",
    ) -> None:
        boundary = secrets.token_hex(16)
        head = (
            f"--{boundary}\r\n"
            f'Content-Disposition: form-data; name="snapshot"; filename="{named}.snapshot"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        tail = f"\r\n--{boundary}--\r\n".encode()

        def content() -> Iterator[bytes]:
            yield head
            while data := body.read(_CHUNK):
                yield data
            yield tail

        within_s = self._time_for(size)
        self._recovered(
            node.http.build_request(
                "POST",
                f"/collections/{quote(record.physical, safe='')}/snapshots/upload",
                params={
                    "priority": "snapshot",
                    "wait": _flag(wait),
                    **({} if sha256 is None else {"checksum": sha256}),
                },
                headers={
                    "Content-Type": f"multipart/form-data; boundary={boundary}",
                    "Content-Length": str(len(head) + size + len(tail)),
                },
                content=content(),
                timeout=_patient(within_s),
            ),
            node,
            f"the recovery of {size} bytes into {record.physical!r} on {node.host} is not done after {within_s:g} s",
        )
        if wait:
            # An upload stays in the list of the collection's snapshots.
            with suppress(NotFoundError):
                self._delete_snapshot(node, record.physical, f"{named}.snapshot")

    def _recover_from(self, node: Node, record: _Record, piece: Piece, location: str, *, wait: bool) -> bool:
        """Have a server fetch a piece; False when it could not, and can be sent the bytes."""
        within_s = self._time_for(piece.bytes)
        stuck = f"the recovery of {piece.object} into {record.physical!r} is not done after {within_s:g} s"
        try:
            self._recovered(
                node.http.build_request(
                    "PUT",
                    f"/collections/{quote(record.physical, safe='')}/snapshots/recover",
                    params={"wait": _flag(wait)},
                    json={"location": location, "priority": "snapshot", "checksum": piece.sha256},
                    timeout=_patient(within_s),
                ),
                node,
                stuck,
            )
        except (NotFoundError, DeniedError):
            raise
        except (PermanentError, UnavailableError) as exc:
            if "checksum mismatch" in exc.problem or exc.problem == stuck:
                raise
            log.warning("server_cannot_fetch_snapshot", extra={"host": node.host, "reason": exc.problem})
            return False
        return True

    def _recovered(self, request: httpx.Request, node: Node, stuck: str) -> None:
        """Send what fills a collection; IntegrityError only where the server says that the snapshot is bad.

        A server answers 500 to a bad archive as to a full disk, and 400 to one that it cannot download.
        """
        import httpx

        with translating():
            try:
                response = node.http.send(request)
            except httpx.ReadTimeout as exc:
                raise UnavailableError(stuck, hint="it is stuck: see the server's log and its disk") from exc
        try:
            answer(response)
        except (NotFoundError, DeniedError):
            raise
        except (PermanentError, UnavailableError) as exc:
            # Where the server fetches from is a secret, and may be cut or spelled otherwise in what it says.
            problem = _URL.sub("the location", exc.problem)
            if _DAMAGED.search(problem) and not _NOT_DAMAGED.search(problem):
                raise IntegrityError(problem, hint="the point is damaged, or of another server: use another") from None
            kind = UnavailableError if isinstance(exc, UnavailableError) or _NOT_DAMAGED.search(problem) else type(exc)
            raise kind(problem, hint="see the server's log, and the space on its disk") from None

    def _is_recovered(self, record: _Record, part: CollectionPart, within_s: float) -> bool:
        """Whether all of it is there before the time is over: every shard, and a count that stays what it is."""
        until = self._clock.monotonic() + within_s
        before: int | None = None
        while self._clock.monotonic() < until:
            self._clock.sleep(min(2.0, within_s / 10))
            found: int | None = None
            with suppress(NotFoundError, UnavailableError):
                found = self._count(record.physical) if self._is_active(record.physical) else None
            if found is not None and found == before and abs(found - part.points) <= part.drift:
                for node in self._nodes:
                    with suppress(NotFoundError):
                        self._delete_snapshot(node, record.physical, "relight.snapshot")
                return True
            before = found
        return False

    def _is_active(self, physical: str) -> bool:
        """Whether every shard answers and none is moved."""
        with translating():
            said = answer(self._nodes[0].http.get(f"/collections/{quote(physical, safe='')}/cluster"))
        shards = [*said.get("local_shards", ()), *said.get("remote_shards", ())]
        return not said.get("shard_transfers") and all(shard.get("state") == "Active" for shard in shards)

    def _wait_until_active(self, physical: str) -> None:
        """For what was just recovered: a cluster agrees on its shards a while later, and counts none before."""
        until = self._clock.monotonic() + min(self._bound_s, PROMPT_S)
        while True:
            with suppress(UnavailableError):
                if self._is_active(physical):
                    return
            if self._clock.monotonic() >= until:
                raise UnavailableError(
                    f"not every shard of {physical!r} is active {PROMPT_S:g} s after its recovery",
                    hint="see the cluster's state and the servers' logs",
                )
            self._clock.sleep(1.0)

    def _verify(self, record: _Record, *, points: int, drift: int) -> int:
        try:
            self._wait_until_active(record.physical)
            found = self._count(record.physical)
            with translating():
                params = self._api.get_collection(record.physical).config.params
        except NotFoundError as exc:
            raise _overtaken(record) from exc
        check_count(record.spec.name, found, points=points, drift=drift)
        _check_vectors(record.spec, params)
        return found

    def _switch(self, record: _Record, *, replace: bool, aliases: Sequence[str]) -> str | None:
        """Move the aliases in one call, and say what was left behind.

        Who switches and who drops what is unfinished say so in the catalogue first and look at what the other said
        then: at least one of two sees the other, and gives way.
        """
        self._note(record.physical, switching=self._clock.now().isoformat())
        name, here = record.spec.name, self._aliases()
        try:
            if self._need_record(record).dropping:
                raise _overtaken(record)
            live = self._live(name)
            self._refuse_unless_empty(name, live, replace=replace)
        except ConflictError:
            self._note(record.physical, switching=None)
            raise
        moving = {_alias(name)}
        if live is not None:
            self._note(live.physical, kept_at=self._clock.now().isoformat())
            moving.update(self._other_aliases(live.physical, name))
        if aliases:
            taken = here.keys() | self._collections()
            moving.update(alias for alias in aliases if alias not in taken)
        self._point(sorted(moving), record.physical, delete=sorted(moving & here.keys()))
        self._note(record.physical, state="live", switching=None)
        if live is None:
            return None
        # Not before, when somebody may still write to it.
        if self._count(live.physical):
            return live.physical
        self._drop(live.physical)
        return None

    def _drop_unfinished(self, name: str, live: _Record | None) -> None:
        """Drop what killed restores and adoptions left: never switched to, never kept."""
        here = set(self._aliases().values())
        for record in self._records(name):
            unfinished = record.state != "copied" and (record.state != "made" or live is not None)
            if unfinished and record.physical not in here and record.kept_at is None:
                self._remove_unfinished(record)

    def _remove_unfinished(self, record: _Record) -> None:
        """Drop what was filled and its uploads, unless a switch to it was made or may be on its way."""
        with suppress(NotFoundError):
            if record.physical in self._aliases().values():
                return
            self._note(record.physical, dropping=True)
            began = self._need_record(record).switching
            if began is not None and (self._clock.now() - parse_time(began)).total_seconds() < _SWITCHING_S:
                return  # its switch may be on its way; the next restore sees
            if record.physical in self._aliases().values():
                return
            self._remove_uploads(record)
            self._drop(record.physical)

    def _remove_uploads(self, record: _Record) -> None:
        """Make the collection where it is gone: only with it does a server show the uploads that it refused late."""
        self._create(record)
        for node in self._nodes:
            for item in self._list(node, record.physical)[0]:
                self._delete_snapshot(node, record.physical, item.name)

    def _refuse_older(self, taken_on: str) -> None:
        here = self.version()
        there, mine = _VERSION.search(taken_on), _VERSION.search(here)
        if there is None or mine is None or _numbers(mine) < _numbers(there):
            raise IntegrityError(
                f"the snapshot is of {taken_on!r}, and this server is {here!r}",
                hint="use a server at least as new: an older one cannot read it",
            )

    def _refuse_unless_empty(self, name: str, live: _Record | None, *, replace: bool) -> None:
        if live is None or replace:
            return
        check_empty(name, self._count(live.physical), live.position)

    # -- adopt

    def adopt(self, spec: CollectionSpec, *, dry_run: bool) -> list[str]:
        """Take over a collection that Relight did not make; see `VectorStore.adopt`.

        An alias cannot have a collection's name, so the collection is copied by a snapshot to a physical one, and its
        name becomes an alias. Between the two the name leads nowhere for a moment, and what is written to the original
        after the snapshot began would be lost: stop its writers first. Where the name already is an alias, its
        collection is entered into the catalogue as it is.
        """
        name = spec.name
        target = self._aliases().get(_alias(name))
        if target is not None:
            return [] if self._record(target) is not None else self._adopt_alias(spec, target, dry_run=dry_run)
        copied = self._copied(name)
        if copied is not None:
            return self._adopt_copied(copied, dry_run=dry_run)
        if name not in self._collections():
            return []
        with translating():
            _check_vectors(spec, self._api.get_collection(name).config.params)
        others = self._other_aliases(name, name)
        steps = [
            f"stop whatever writes to {name!r}: what is written from now on would be lost",
            f"copy {name!r} ({self._count(name)} points) by a snapshot to a collection of Relight's, and compare them",
            f"delete the collection {name!r}, whose own snapshots can then no longer be listed",
            f"make {_listing(name, *others)} an alias of the copy: between these two steps the name leads nowhere",
        ]
        if not dry_run:
            for item in self._records(name):
                if item.kept_at is None:
                    self._remove_unfinished(item)
            self._adopt_copied(self._copy(spec), dry_run=False, compared=True)
        return steps

    def _adopt_alias(self, spec: CollectionSpec, target: str, *, dry_run: bool) -> list[str]:
        with translating():
            _check_vectors(spec, self._api.get_collection(target).config.params)
        if not dry_run:
            self._register(_Record(physical=target, spec=spec, state="live"))
        return [f"enter {target!r}, which the alias {spec.name!r} points at, into the catalogue"]

    def _copied(self, name: str) -> _Record | None:
        """What an adoption that was cut has copied, unless somebody decided against it and deleted the copy."""
        found = [item for item in self._records(name) if item.state == "copied"]
        here = self._collections() if found else set()
        return next((item for item in found if item.physical in here), None)

    def _adopt_copied(self, copied: _Record, *, dry_run: bool, compared: bool = False) -> list[str]:
        """Finish what has its copy, which after the original's deletion is the only one: it is never dropped."""
        name, others = copied.spec.name, copied.aliases
        if name in self._collections():
            if not compared:
                self._refuse_another(copied)
            others = tuple(sorted({*others, *self._other_aliases(name, name)}))
            if not dry_run:
                self._note(copied.physical, aliases=others)
                with translating():
                    self._api.delete_collection(name, timeout=int(PROMPT_S))
        if not dry_run:
            taken = self._aliases().keys() | self._collections()
            try:
                self._point([_alias(name), *(alias for alias in others if alias not in taken)], copied.physical)
            except (ConflictError, PermanentError):
                if name in self._collections():
                    self._refuse_another(copied)
                raise
            self._note(copied.physical, state="live")
        return [f"make {_listing(name, *others)} an alias of its copy, which an adoption that was cut has verified"]

    def _refuse_another(self, copied: _Record) -> None:
        """ConflictError unless the collection of the public name holds what its copy holds."""
        name = copied.spec.name
        there, here = self._count(name), self._count(copied.physical)
        original = replace(copied, physical=name)
        if (
            there != here
            or self._sample(name) != self._sample(copied.physical)
            or self._recall(copied, self._take_canaries(original)) < 1.0
        ):
            raise ConflictError(
                f"the collection {name!r} has {there} points, and {copied.physical!r}, the copy that an adoption made "
                f"of it, has {here}" + (", which are others" if there == here else ""),
                hint="it was written to or made anew: stop its writers, delete the one of the two that is not wanted, "
                "and run it again",
            )

    def _copy(self, spec: CollectionSpec) -> _Record:
        original = _Record(physical=spec.name, spec=spec, state="live")
        record = _Record(physical=_new_physical(spec.name, "adopted"), spec=spec, state="copying")
        self._register(record)
        points = self._count(spec.name)
        large = points * spec.dimension * 4 >= self._large_bytes
        self._sweep(spec.name)
        try:
            for node, _ in self._cluster():
                with self._snapshot_on(node, original, large=large) as listed, translating():
                    url = f"/collections/{quote(spec.name, safe='')}/snapshots/{quote(listed.name, safe='')}"
                    for target in self._nodes:
                        with node.http.stream("GET", url) as response:
                            if response.status_code != 200:
                                answer(response)
                            self._upload(target, record, listed.size, listed.checksum, _Stream(response), wait=True)
            self._verify(record, points=points, drift=0)
            self._refuse_another(record)
        except BaseException:
            with suppress(RelightError):
                self._remove_unfinished(record)
            raise
        self._note(record.physical, state="copied")
        return record

    # -- points

    def _search(self, found: _Record, query: list[float], k: int, *, exact: bool) -> tuple[Hit, ...]:
        with translating():
            answers = self._api.query_points(
                found.physical,
                query=query,
                limit=k,
                with_payload=True,
                search_params=self._models.SearchParams(exact=exact or found.spec.index is None),
            ).points
        hits = []
        for item in answers:
            id_, payload = _from_payload(str(item.id), item.payload)
            hits.append(Hit(id=id_, distance=_distance(found.spec.distance, item.score), payload=payload))
        return tuple(sorted(hits, key=lambda hit: (hit.distance, hit.id)))

    def _recall(self, found: _Record, canaries: Sequence[Canary]) -> float:
        """Recall@10. Which of several points at the tenth's distance come first is up to the server: all of them do."""
        answers = []
        for canary in canaries:
            hits = self._search(found, list(unpack(canary.vector)), 10 * K, exact=True)
            last = hits[min(K, len(hits)) - 1].distance if hits else 0.0
            answers.append((canary.ids, [hit.id for hit in hits if hit.distance <= last]))
        return recall(answers)

    def _take_canaries(self, found: _Record) -> tuple[Canary, ...]:
        with translating():
            points, _ = self._api.scroll(found.physical, limit=CANARIES, with_payload=False, with_vectors=True)
        canaries = []
        for point in points:
            vector: Any = point.vector
            hits = self._search(found, list(vector), K, exact=True)
            canaries.append(Canary(vector=pack(vector), ids=tuple(hit.id for hit in hits)))
        return tuple(canaries)

    def _sample(self, physical: str) -> list[tuple[Any, ...]]:
        """The first points by id, with all that is theirs."""
        with translating():
            points, _ = self._api.scroll(physical, limit=_PAGE, with_payload=True, with_vectors=True)
        return [(point.id, point.vector, point.payload) for point in points]

    def _count(self, physical: str) -> int:
        with translating():
            return int(self._api.count(physical, exact=True, timeout=int(PROMPT_S)).count)

    def _index_state(self, found: _Record) -> IndexState:
        """A collection with nothing left to optimize is ready: the server compares small ones exactly, which is faster.

        Green says so, yellow that it is at it, grey that it waits for a write, red that it failed.
        """
        if found.spec.index is None:
            return IndexState.NONE
        with translating():
            status = self._api.get_collection(found.physical).status.value
        return {"green": IndexState.READY, "yellow": IndexState.BUILDING}.get(status, IndexState.LACKING)

    def _upsert(self, collection: str, points: Sequence[dict[str, Any]]) -> None:
        structs = [self._models.PointStruct(**point) for point in points]
        with translating():
            self._api.upsert(collection, points=structs, wait=True, ordering=self._strong)

    # -- names

    def _live(self, name: str) -> _Record | None:
        """What the public name means now, None where it is nothing of ours."""
        physical = self._aliases().get(_alias(name))
        return None if physical is None else self._record(physical)

    def _need(self, name: str) -> _Record:
        found = self._live(name)
        if found is None:
            raise NotFoundError(f"there is no collection {name!r}", hint="hydrate it, or start the agent once")
        return found

    def _need_record(self, record: _Record) -> _Record:
        found = self._record(record.physical)
        if found is None:
            raise _overtaken(record)
        return found

    def _refuse_foreign(self, name: str) -> None:
        """For a name that is nothing of ours."""
        if _alias(name) in self._aliases() or name in self._collections():
            raise ConflictError(f"Relight did not make the collection {name!r}", hint="adopt it first: relight adopt")
        if self._copied(name) is not None:
            raise ConflictError(f"the adoption of {name!r} was cut", hint="run it again: relight adopt")

    def _make(self, spec: CollectionSpec) -> _Record:
        """Make it empty. Its name is not random, so that of two who make it at once both make the same."""
        kept = {item.physical for item in self._records(spec.name) if item.kept_at is not None}
        physical = next(name for n in range(len(kept) + 1) if (name := _made_physical(spec.name, n)) not in kept)
        record = _Record(physical=physical, spec=spec, state="made")
        self._ensure_catalogue()
        if self._create(record) or self._record(physical) is None:
            self._register(record)
        self._point([_alias(spec.name)], physical)
        return self._need(spec.name)

    def _create(self, record: _Record) -> bool:
        """Make the physical collection; False when there is one."""
        vectors = self._models.VectorParams(
            size=record.spec.dimension, distance=self._models.Distance(DISTANCES[record.spec.distance])
        )
        return self._create_collection(record.physical, vectors, hnsw_config=self._hnsw(record.spec))

    def _create_collection(self, name: str, vectors: models.VectorParams, **settings: Any) -> bool:
        try:
            with translating():
                self._api.create_collection(name, vectors_config=vectors, timeout=int(PROMPT_S), **settings)
        except (ConflictError, PermanentError):
            # Servers before 1.10 answer 400 to what newer ones answer 409 to.
            if name not in self._collections():
                raise
            return False
        return True

    def _hnsw(self, spec: CollectionSpec) -> Any:
        if spec.index is None:
            return self._models.HnswConfigDiff(m=0)
        return self._models.HnswConfigDiff(m=spec.index.m, ef_construct=spec.index.ef_construction)

    def _drop(self, physical: str) -> None:
        with translating():
            self._api.delete_collection(physical, timeout=int(PROMPT_S))
        self._forget(_record_id(physical))

    def _aliases(self) -> dict[str, str]:
        with translating():
            return {item.alias_name: item.collection_name for item in self._api.get_aliases().aliases}

    def _other_aliases(self, physical: str, name: str) -> list[str]:
        """The user's own aliases of a physical collection."""
        return sorted(a for a, target in self._aliases().items() if target == physical and a != _alias(name))

    def _point(self, aliases: Sequence[str], physical: str, *, delete: Sequence[str] = ()) -> None:
        models = self._models
        actions: list[Any] = [
            *(models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias)) for alias in delete),
            *(
                models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name=physical, alias_name=alias))
                for alias in aliases
            ),
        ]
        with translating():
            self._api.update_collection_aliases(actions, timeout=int(PROMPT_S))

    def _collections(self) -> set[str]:
        with translating():
            return {item.name for item in self._api.get_collections().collections}

    def _cluster(self) -> list[tuple[Node, str]]:
        """Each node with its peer id, which is empty where there is one.

        ConfigError unless the address names all, and for a cluster of servers that cannot be restored to.
        """
        with translating():
            said = [answer(node.http.get("/cluster")) for node in self._nodes]
        if said[0].get("status") != "enabled":
            return [(self._nodes[0], "")]
        peers = {str(item.get("peer_id")) for item in said}
        known = set(said[0].get("peers", {}))
        if peers != known or len(self._nodes) != len(known):
            raise ConfigError(
                f"the cluster has {len(known)} nodes, and the address names {len(peers & known)} of them",
                hint="name each node once: https://:KEY@one:6333,two:6333",
            )
        pairs = [(node, str(item["peer_id"])) for node, item in zip(self._nodes, said, strict=True)]
        if len(pairs) == 1:
            return [(self._nodes[0], "")]
        version = self.version()
        found = _RELEASE.search(version)
        if found is None or _numbers(found) < _CLUSTERS_SINCE:
            raise ConfigError(
                f"this cluster is {version!r}, where a restore leaves shards without an active replica",
                hint="update its servers to 1.17.1 or newer: qdrant/qdrant#7851",
            )
        return pairs

    # -- catalogue

    def _record(self, physical: str) -> _Record | None:
        try:
            with translating():
                found = self._api.retrieve(
                    CATALOGUE, ids=[_record_id(physical)], with_payload=True, consistency=self._majority
                )
        except NotFoundError:
            return None
        return _Record.of(found[0].payload or {}) if found else None

    def _records(self, name: str) -> list[_Record]:
        return [_Record.of(said) for _, said in self._entries("collection") if said.get("name") == name]

    def _claims(self, name: str) -> list[tuple[str, dict[str, Any]]]:
        return [(id_, said) for id_, said in self._entries("snapshot") if said.get("name") == name]

    def _entries(self, kind: str) -> list[tuple[str, dict[str, Any]]]:
        found: list[tuple[str, dict[str, Any]]] = []
        after: Any = None
        try:
            while True:
                with translating():
                    points, after = self._api.scroll(
                        CATALOGUE, limit=_PAGE, offset=after, with_payload=True, consistency=self._majority
                    )
                found += [(str(point.id), point.payload or {}) for point in points]
                if after is None:
                    return [(id_, said) for id_, said in found if said.get("kind") == kind]
        except NotFoundError:
            return []

    def _register(self, record: _Record) -> None:
        self._ensure_catalogue()
        self._catalogue(record.id, record.to_payload())

    def _catalogue(self, id_: str, payload: dict[str, Any]) -> None:
        self._upsert(CATALOGUE, [{"id": id_, "vector": [0.0], "payload": payload}])

    def _note(self, physical: str, **changes: Any) -> None:
        """Change some fields of a record; NotFoundError when it is gone."""
        with translating():
            self._api.set_payload(
                CATALOGUE, payload=changes, points=[_record_id(physical)], wait=True, ordering=self._strong
            )

    def _forget(self, *ids: str) -> None:
        with translating():
            if ids:
                self._api.delete(CATALOGUE, points_selector=list(ids), wait=True, ordering=self._strong)

    def _ensure_catalogue(self) -> None:
        if CATALOGUE not in self._collections():
            vectors = self._models.VectorParams(size=1, distance=self._models.Distance.DOT)
            # A majority writes and a majority is read, so that one node may be away and no read is of before a write.
            self._create_collection(
                CATALOGUE,
                vectors,
                replication_factor=len(self._nodes),
                write_consistency_factor=len(self._nodes) // 2 + 1,
            )

    # -- the driver

    @property
    def _api(self) -> Any:
        return self._nodes[0].api

    @property
    def _models(self) -> Any:
        from qdrant_client import models

        return models

    @property
    def _majority(self) -> Any:
        return self._models.ReadConsistencyType.MAJORITY

    @property
    def _strong(self) -> Any:
        return self._models.WriteOrdering.STRONG


class _Stream:
    """An answer's body as something to read from."""

    def __init__(self, response: httpx.Response) -> None:
        self._chunks = response.iter_raw(_CHUNK)

    def read(self, _size: int, /) -> bytes:
        return next(self._chunks, b"")


def _overtaken(record: _Record) -> ConflictError:
    return ConflictError(
        f"another restore of {record.spec.name!r} began before this one was done", hint="let it finish"
    )


def _batches(points: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The points in order, as many at once as a server takes; one that is larger alone."""
    batch: list[dict[str, Any]] = []
    size = 0
    for point in points:
        more = _COMPONENT_BYTES * len(point["vector"]) + len(json.dumps(point["payload"]))
        if batch and size + more > _BYTES_AT_ONCE:
            yield batch
            batch, size = [], 0
        batch.append(point)
        size += more
    if batch:
        yield batch


def _check_vectors(spec: CollectionSpec, params: Any) -> None:
    """`params` is what the server says of a collection: one unnamed vector, or several by name, or other kinds."""
    vectors = params.vectors
    size, distance = getattr(vectors, "size", None), getattr(vectors, "distance", None)
    if size != spec.dimension or getattr(distance, "value", None) != DISTANCES[spec.distance]:
        found = f"{size} x {getattr(distance, 'value', '')}" if size else "of named vectors"
        raise IntegrityError(
            f"the collection for {spec.name!r} is {found}, and {spec.dimension} x {DISTANCES[spec.distance]} is wanted",
            hint="use the settings that it was made with: one unnamed vector of that size and distance",
        )
    if params.sparse_vectors or vectors.multivector_config is not None:
        raise IntegrityError(
            f"the collection for {spec.name!r} has sparse vectors or several of them for a point",
            hint="Relight brings back one dense vector of each point: keep the others in a collection of their own",
        )


def _distance(kind: Distance, score: float) -> float:
    """Qdrant's score as a distance: similarities grow with nearness, Euclid's does not."""
    if kind is Distance.EUCLIDEAN:
        return score
    return 1.0 - score if kind is Distance.COSINE else -score


def _point_id(id_: str) -> int | str:
    if id_.isascii() and id_.isdecimal() and str(int(id_)) == id_ and int(id_) < 2**64:
        return int(id_)
    try:
        if str(uuid.UUID(id_)) == id_:
            return id_
    except ValueError:
        pass
    return str(uuid.uuid5(_IDS, id_))


def _to_payload(id_: str, payload: dict[str, Any] | None) -> dict[str, Any] | None:
    mark: dict[str, Any] = {} if str(_point_id(id_)) == id_ else {"id": id_}
    if payload is not None and (not payload or MARK in payload):
        return {MARK: {**mark, "payload": payload}}
    return {**(payload or {}), MARK: mark} if mark else payload


def _from_payload(id_: str, payload: dict[str, Any] | None) -> tuple[str, dict[str, Any] | None]:
    own = dict(payload or {})
    mark = own.pop(MARK, None)
    if not isinstance(mark, dict):
        return id_, payload or None
    return str(mark.get("id", id_)), mark.get("payload", own or None)


def _record_id(physical: str) -> str:
    return str(uuid.uuid5(_IDS, f"physical {physical}"))


def _alias(name: str) -> str:
    """The alias that stands for a public name: itself, unless Qdrant or a path could not have it."""
    if _LEGAL_ALIAS.fullmatch(name) and name != CATALOGUE:
        return name
    return f"relight-{_slug(name)}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _listing(*names: str) -> str:
    return ", ".join(map(repr, names))


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "_", name)[:_NAME_BYTES]


def _made_physical(name: str, n: int) -> str:
    return f"{_slug(name)}--{hashlib.sha256(name.encode()).hexdigest()[:16]}-made-{n}"


def _new_physical(name: str, origin: str) -> str:
    """A name not used before that says which collection it is of and which point it came from."""
    return f"{_slug(name)}--{_slug(origin)}-{secrets.token_hex(4)}"


def _listed(value: dict[str, Any]) -> _Listed:
    """Raises IntegrityError for a name that is no file's: it becomes a part of addresses."""
    name = str(value.get("name", ""))
    if not _SNAPSHOT_NAME.fullmatch(name):
        raise IntegrityError(
            f"the server calls a snapshot {name!r}, which is no file's name", hint="look at the server"
        )
    return _Listed(name=name, size=int(value.get("size", 0)), checksum=value.get("checksum"))


def _is_begun(snapshot: str, asked: datetime, *, within_s: float, after_s: float = 0.0, unknown: bool = False) -> bool:
    """Whether its name says that it was begun so soon after that time of the server; else `unknown`."""
    found = _STAMP.search(snapshot)
    if found is None:
        return unknown
    year, month, day, hour, minute, second = map(int, found.groups())
    try:
        stamp = asked.replace(year=year, month=month, day=day, hour=hour, minute=minute, second=second)
    except ValueError:
        return unknown
    return after_s <= (stamp - asked).total_seconds() <= within_s


def _numbers(version: re.Match[str]) -> tuple[int, ...]:
    return tuple(map(int, version.groups()))


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _patient(read_s: float) -> httpx.Timeout:
    import httpx

    from relight.adapters.qdrant import CONNECT_TIMEOUT_S, TIMEOUT_S

    return httpx.Timeout(TIMEOUT_S, connect=CONNECT_TIMEOUT_S, read=read_s)
