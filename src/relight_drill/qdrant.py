"""A stand-in for a Qdrant server: its documented REST API over Qdrant's own storage engine, as a process of its own.

Points, payloads, distances and their order are the engine's, `qdrant_edge`. It plays what a client needs that fills,
searches, snapshots and restores collections of one unnamed dense vector: collections, aliases, points, snapshots made
at once or in the background, recovery by upload and by location, checksums, API keys, and what a server refuses.

It is no server. It plays one node without clusters, shards and replicas; no filters, named, sparse or several vectors
(it says that a collection was made for the latter two, as a server does, and holds none), quantization, payload
indexes, access rights and gRPC; no building of an HNSW index, so that every search is exact and a collection always
green; and its snapshots are tar archives that it alone reads: a folder of the engine beside the collection's
configuration, with the zeros at the ends of files left out. Its folder survives it, as a volume does.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import hashlib
import hmac
import io
import json
import os
import shutil
import signal
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import qdrant_edge as edge
from aiohttp import BodyPartReader, web

from relight_drill.processes import DrillError, Process, ProcessGroup, free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

VERSION = "1.15.4"
_PEER = 1
_DISTANCES = {
    "Cosine": edge.Distance.Cosine,
    "Euclid": edge.Distance.Euclid,
    "Dot": edge.Distance.Dot,
    "Manhattan": edge.Distance.Manhattan,
}
_ILLEGAL = set('<>:"/\\|?*\0\x1f')
_CHUNK = 1024 * 1024
_UPLOAD_LIMIT = 64 * 1024 * 1024

# What a server fills in where a client says nothing.
_HNSW = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000, "max_indexing_threads": 0, "on_disk": False}
_OPTIMIZERS = {
    "deleted_threshold": 0.2,
    "vacuum_min_vector_number": 1000,
    "default_segment_number": 0,
    "max_segment_size": None,
    "memmap_threshold": None,
    "indexing_threshold": 10000,
    "flush_interval_sec": 5,
    "max_optimization_threads": None,
}
_WAL = {"wal_capacity_mb": 32, "wal_segments_ahead": 0}
_COLLECTION = "/collections/{collection}"


class QdrantServer:
    """One stand-in on loopback as a process of its own, over `folder`."""

    def __init__(
        self,
        group: ProcessGroup,
        folder: Path,
        *,
        name: str,
        port: int | None = None,
        version: str = VERSION,
        api_key: str = "",
    ) -> None:
        self._group = group
        self._process: Process | None = None
        self._version = version
        self._api_key = api_key
        self.folder = folder
        self.log_path = folder.with_name(f"{folder.name}.log")
        self.name = name
        self.port = port or free_port()

    @property
    def running(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.alive

    def dsn(self) -> str:
        """Where clients connect, with the API key where there is one."""
        key = f":{self._api_key}@" if self._api_key else ""
        return f"http://{key}127.0.0.1:{self.port}"

    async def create(self) -> None:
        """Start it over an empty folder."""
        self.destroy()
        await self.start()

    async def start(self) -> None:
        """Start it over whatever its folder holds, and wait until it answers."""
        if self.running:
            raise DrillError(f"Qdrant {self.name} already runs", hint="stop it first")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._process = self._group.start(
            f"qdrant {self.name}",
            [
                *(sys.executable, "-P", "-m", "relight_drill.qdrant", "--port", str(self.port)),
                *("--folder", self.folder, "--version", self._version),
            ],
            log_path=self.log_path,
            env={**os.environ, "QDRANT__SERVICE__API_KEY": self._api_key},
        )
        await wait_until(
            self._answers,
            what=f"Qdrant {self.name} to accept clients",
            timeout_s=30,
            interval_s=0.03,
            process=self._process,
        )

    async def stop(self, *, immediate: bool = False) -> None:
        """Shut it down, or kill it; its folder stays."""
        if self._process is not None and self._process.alive:
            await self._process.terminate(timeout_s=10, number=signal.SIGKILL if immediate else signal.SIGTERM)
        self._process = None

    def kill(self) -> None:
        """Kill it, as the loss of the host does; its folder stays."""
        if self._process is not None and self._process.alive:
            self._process.kill()
        self._process = None

    def destroy(self) -> None:
        """Kill it and remove its folder, as the end of a task does to its volume."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(2):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except (OSError, TimeoutError):
            return False
        try:
            writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
            async with asyncio.timeout(2):
                return b" 200 " in await reader.readline()
        except (OSError, TimeoutError):
            return False
        finally:
            writer.transport.abort()


class _Refused(Exception):  # noqa: N818 - what a server answers, not an error of ours
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class _Collection:
    """A shard of the engine with a configuration. Writes are durable when they are answered: the engine has a WAL."""

    def __init__(self, folder: Path, config: dict[str, Any], shard: edge.EdgeShard) -> None:
        self.folder = folder
        self.config = config
        self.shard = shard
        self.lock = asyncio.Lock()

    @classmethod
    def create(cls, folder: Path, config: dict[str, Any]) -> _Collection:
        params = config["params"]["vectors"]
        vectors = {"": edge.EdgeVectorParams(size=params["size"], distance=_DISTANCES[params["distance"]])}
        (folder / "0").mkdir(parents=True)
        made = cls(folder, config, edge.EdgeShard.create(str(folder / "0"), edge.EdgeConfig(vectors=vectors)))
        made.save()
        return made

    @classmethod
    def load(cls, folder: Path) -> _Collection:
        config = json.loads((folder / "config.json").read_text())
        return cls(folder, config, edge.EdgeShard.load(str(folder / "0")))

    def save(self) -> None:
        (self.folder / "config.json").write_text(json.dumps(self.config))

    def close(self) -> None:
        self.shard.flush()
        self.shard.close()


class _Server:
    """The collections and aliases of one folder, and the answers about them."""

    def __init__(self, folder: Path, *, version: str, api_key: str) -> None:
        self._collections_folder = folder / "collections"
        self._snapshots_folder = folder / "snapshots"
        self._scratch = folder / "tmp"
        self._aliases_path = folder / "aliases.json"
        self._version = version
        self._api_key = api_key
        self._background: set[asyncio.Task[Any]] = set()
        shutil.rmtree(self._scratch, ignore_errors=True)
        for path in (self._collections_folder, self._snapshots_folder, self._scratch):
            path.mkdir(parents=True, exist_ok=True)
        self._aliases: dict[str, str] = (
            json.loads(self._aliases_path.read_text()) if self._aliases_path.exists() else {}
        )
        self._collections = {
            urllib.parse.unquote(path.name): _Collection.load(path) for path in self._collections_folder.iterdir()
        }

    def application(self) -> web.Application:
        application = web.Application(middlewares=[self._answer], client_max_size=_UPLOAD_LIMIT)
        routes: dict[str, Callable[[web.Request], Awaitable[Any]]] = {
            "GET /": self._root,
            "GET /healthz": self._health,
            "GET /readyz": self._health,
            "GET /livez": self._health,
            "GET /cluster": self._cluster,
            "GET /aliases": self._list_aliases,
            "POST /collections/aliases": self._change_aliases,
            "GET /collections": self._list,
            f"GET {_COLLECTION}": self._info,
            f"PUT {_COLLECTION}": self._create,
            f"PATCH {_COLLECTION}": self._update,
            f"DELETE {_COLLECTION}": self._delete,
            f"GET {_COLLECTION}/exists": self._exists,
            f"GET {_COLLECTION}/aliases": self._list_aliases,
            f"GET {_COLLECTION}/cluster": self._shards,
            f"PUT {_COLLECTION}/points": self._upsert,
            f"POST {_COLLECTION}/points": self._retrieve,
            f"POST {_COLLECTION}/points/delete": self._delete_points,
            f"POST {_COLLECTION}/points/payload": self._set_payload,
            f"POST {_COLLECTION}/points/count": self._count,
            f"POST {_COLLECTION}/points/scroll": self._scroll,
            f"POST {_COLLECTION}/points/query": self._query,
            f"GET {_COLLECTION}/snapshots": self._list_snapshots,
            f"POST {_COLLECTION}/snapshots": self._create_snapshot,
            f"POST {_COLLECTION}/snapshots/upload": self._upload,
            f"PUT {_COLLECTION}/snapshots/recover": self._recover,
            f"GET {_COLLECTION}/snapshots/{{snapshot}}": self._download,
            f"DELETE {_COLLECTION}/snapshots/{{snapshot}}": self._delete_snapshot,
        }
        for route, handler in routes.items():
            method, path = route.split(" ", 1)
            application.router.add_route(method, path, handler)
        application.on_shutdown.append(self._close)
        return application

    async def _close(self, _: web.Application) -> None:
        for task in self._background:
            task.cancel()
        for collection in self._collections.values():
            await asyncio.to_thread(collection.close)

    @web.middleware
    async def _answer(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[Any]]
    ) -> web.StreamResponse:
        began = time.monotonic()
        try:
            given = request.headers.get("api-key") or request.headers.get("Authorization", "").removeprefix("Bearer ")
            if self._api_key and request.path not in ("/", "/healthz", "/readyz", "/livez"):
                if not given:
                    return web.Response(status=401, text="Must provide an API key or an Authorization bearer token")
                if not hmac.compare_digest(given, self._api_key):
                    return web.Response(status=401, text="Invalid API key or JWT")
            result = await handler(request)
        except _Refused as exc:
            body = {"status": {"error": exc.text}, "time": time.monotonic() - began}
            return web.json_response(body, status=exc.status)
        except (ValueError, KeyError, TypeError) as exc:
            body = {"status": {"error": f"Format error in JSON body: {exc!r}"}, "time": time.monotonic() - began}
            return web.json_response(body, status=400)
        if isinstance(result, web.StreamResponse):
            return result
        if result is _ACCEPTED:
            return web.json_response({"status": "accepted", "time": time.monotonic() - began}, status=202)
        return web.json_response({"result": result, "status": "ok", "time": time.monotonic() - began})

    # -- the server

    async def _root(self, _: web.Request) -> web.Response:
        return web.json_response({"title": "qdrant - vector search engine", "version": self._version, "commit": ""})

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(text=f"{request.path[1:]} check passed")

    async def _cluster(self, _: web.Request) -> dict[str, Any]:
        return {"status": "disabled"}

    # -- collections and aliases

    async def _list(self, _: web.Request) -> dict[str, Any]:
        return {"collections": [{"name": name} for name in sorted(self._collections)]}

    async def _exists(self, request: web.Request) -> dict[str, Any]:
        name = request.match_info["collection"]
        return {"exists": self._aliases.get(name, name) in self._collections}

    async def _create(self, request: web.Request) -> bool:
        name = request.match_info["collection"]
        body = await request.json()
        if not 1 <= len(name) <= 255 or _ILLEGAL & set(name) or name in (".", ".."):
            raise _Refused(422, f"Validation error in path: [collection_name: {name!r} is not allowed]")
        if name in self._collections:
            raise _Refused(409, f"Wrong input: Collection `{name}` already exists!")
        if name in self._aliases:
            raise _Refused(
                400, f"Wrong input: Can't create collection with name {name}. Alias with the same name exists"
            )
        vectors = body["vectors"]
        if vectors.get("distance") not in _DISTANCES or not 1 <= vectors.get("size", 0) <= 65536:
            raise _Refused(422, f"Validation error in JSON body: [vectors: {vectors!r} is not one dense vector]")
        params = {
            "vectors": _given({key: vectors.get(key) for key in ("size", "distance", "multivector_config")}),
            **_given({"sparse_vectors": body.get("sparse_vectors")}),
            "shard_number": 1,
            "replication_factor": body.get("replication_factor") or 1,
            "write_consistency_factor": body.get("write_consistency_factor") or 1,
            "on_disk_payload": True,
        }
        config = {
            "params": params,
            "hnsw_config": _HNSW | _given(body.get("hnsw_config")),
            "optimizer_config": _OPTIMIZERS | _given(body.get("optimizers_config")),
            "wal_config": _WAL,
            "quantization_config": None,
        }
        self._collections[name] = _Collection.create(self._new_folder(name), config)
        return True

    async def _update(self, request: web.Request) -> bool:
        collection = self._collection(request)
        body = await request.json()
        collection.config["hnsw_config"] |= _given(body.get("hnsw_config"))
        collection.config["optimizer_config"] |= _given(body.get("optimizers_config"))
        collection.save()
        return True

    async def _delete(self, request: web.Request) -> bool:
        name = request.match_info["collection"]
        self._save_aliases({alias: target for alias, target in self._aliases.items() if target != name})
        collection = self._collections.pop(name, None)
        if collection is None:
            return False
        async with collection.lock:
            await asyncio.to_thread(collection.shard.close)
            await asyncio.to_thread(shutil.rmtree, collection.folder)
        return True

    async def _info(self, request: web.Request) -> dict[str, Any]:
        collection = self._collection(request)
        info = await self._on(collection, lambda shard: shard.info())
        return {
            "status": "green",
            "optimizer_status": "ok",
            "points_count": info.points_count,
            "indexed_vectors_count": info.indexed_vectors_count,
            "segments_count": info.segments_count,
            "config": collection.config,
            "payload_schema": {},
        }

    async def _shards(self, request: web.Request) -> dict[str, Any]:
        collection = self._collection(request)
        count = await self._on(collection, lambda shard: shard.count(edge.CountRequest(exact=True)))
        return {
            "peer_id": _PEER,
            "shard_count": 1,
            "local_shards": [{"shard_id": 0, "points_count": count, "state": "Active"}],
            "remote_shards": [],
            "shard_transfers": [],
        }

    async def _list_aliases(self, request: web.Request) -> dict[str, Any]:
        of = request.match_info.get("collection")
        found = sorted((alias, name) for alias, name in self._aliases.items() if of in (None, name))
        return {"aliases": [{"alias_name": alias, "collection_name": name} for alias, name in found]}

    async def _change_aliases(self, request: web.Request) -> bool:
        """One after the other under one lock, as a server does: what was done before one is refused stays."""
        aliases = dict(self._aliases)
        try:
            for action in (await request.json())["actions"]:
                ((kind, said),) = action.items()
                if kind == "create_alias":
                    alias, name = said["alias_name"], said["collection_name"]
                    if name not in self._collections:
                        raise _Refused(404, f"Not found: Collection `{name}` doesn't exist!")
                    if alias in self._collections:
                        raise _Refused(400, f"Wrong input: Collection `{alias}` already exists!")
                    aliases[alias] = name
                elif kind == "delete_alias":
                    aliases.pop(said["alias_name"], None)
                elif said["old_alias_name"] in aliases:
                    aliases[said["new_alias_name"]] = aliases.pop(said["old_alias_name"])
                else:
                    raise _Refused(404, f"Not found: Alias {said['old_alias_name']} does not exists!")
        finally:
            self._save_aliases(aliases)
        return True

    def _save_aliases(self, aliases: dict[str, str]) -> None:
        self._aliases = aliases
        scratch = self._aliases_path.with_suffix(".tmp")
        scratch.write_text(json.dumps(aliases))
        scratch.replace(self._aliases_path)

    # -- points

    async def _upsert(self, request: web.Request) -> dict[str, Any]:
        points = [
            edge.Point(id=_id(point["id"]), vector=[float(x) for x in point["vector"]], payload=point.get("payload"))
            for point in (await request.json())["points"]
        ]
        return await self._write(request, edge.UpdateOperation.upsert_points(points))

    async def _delete_points(self, request: web.Request) -> dict[str, Any]:
        ids = _ids((await request.json())["points"])
        return await self._write(request, edge.UpdateOperation.delete_points(ids))

    async def _set_payload(self, request: web.Request) -> dict[str, Any]:
        body = await request.json()
        ids = _ids(body["points"])
        return await self._write(request, edge.UpdateOperation.set_payload(ids, body["payload"]))

    async def _write(self, request: web.Request, operation: edge.UpdateOperation) -> dict[str, Any]:
        await self._on(self._collection(request), lambda shard: shard.update(operation))
        return {"operation_id": 0, "status": "completed"}

    async def _retrieve(self, request: web.Request) -> list[dict[str, Any]]:
        body = await request.json()
        ids = _ids(body["ids"])
        found = await self._on(
            self._collection(request),
            lambda shard: shard.retrieve(ids, body.get("with_payload", True), body.get("with_vector", False)),
        )
        return [_record(item, body) for item in found]

    async def _count(self, request: web.Request) -> dict[str, Any]:
        ask = edge.CountRequest(exact=(await request.json()).get("exact", True))
        return {"count": await self._on(self._collection(request), lambda shard: shard.count(ask))}

    async def _scroll(self, request: web.Request) -> dict[str, Any]:
        body = await request.json()
        ask = edge.ScrollRequest(
            offset=None if body.get("offset") is None else _id(body["offset"]),
            limit=body.get("limit") or 10,
            with_payload=body.get("with_payload", True),
            with_vector=body.get("with_vector", False),
        )
        points, after = await self._on(self._collection(request), lambda shard: shard.scroll(ask))
        return {"points": [_record(item, body) for item in points], "next_page_offset": _plain_id(after)}

    async def _query(self, request: web.Request) -> dict[str, Any]:
        body = await request.json()
        query = body["query"]
        vector = query["nearest"] if isinstance(query, dict) else query
        ask = edge.QueryRequest(
            query=edge.Query.Nearest([float(x) for x in vector]),
            limit=body.get("limit") or 10,
            offset=body.get("offset") or 0,
            params=edge.SearchParams(exact=bool((body.get("params") or {}).get("exact"))),
            with_payload=body.get("with_payload", False),
            with_vector=body.get("with_vector", False),
        )
        found = await self._on(self._collection(request), lambda shard: shard.query(ask))
        return {"points": [_record(item, body) | {"version": item.version, "score": item.score} for item in found]}

    async def _on(self, collection: _Collection, call: Callable[[Any], Any]) -> Any:
        """Ask the engine, which raises bare exceptions for what a client did wrong."""

        def ask() -> Any:
            try:
                return call(collection.shard)
            except Exception as exc:
                if type(exc) is not Exception:
                    raise
                status = 404 if "No point with id" in str(exc) else 400
                raise _Refused(status, f"{'Not found' if status == 404 else 'Wrong input'}: {exc}") from exc

        async with collection.lock:
            return await asyncio.to_thread(ask)

    # -- snapshots

    async def _list_snapshots(self, request: web.Request) -> list[dict[str, Any]]:
        folder = self._snapshots_of(self._collection(request))
        return [_described(path) for path in sorted(folder.glob("*.snapshot"))]

    async def _create_snapshot(self, request: web.Request) -> Any:
        collection = self._collection(request)
        return await self._now_or_later(request, self._make_snapshot(collection))

    async def _make_snapshot(self, collection: _Collection) -> dict[str, Any]:
        folder = self._snapshots_of(collection)
        stamp = datetime.now(UTC).strftime("%Y-%m-%d-%H-%M-%S")
        path = folder / f"{urllib.parse.unquote(collection.folder.name)}-{_PEER}-{stamp}.snapshot"
        scratch = self._scratch / uuid.uuid4().hex
        async with collection.lock:
            await asyncio.to_thread(_pack, collection, scratch)
        folder.mkdir(exist_ok=True)
        path.with_suffix(".snapshot.checksum").write_text(await asyncio.to_thread(_sha256, scratch))
        scratch.replace(path)
        return _described(path)

    async def _download(self, request: web.Request) -> web.StreamResponse:
        return web.FileResponse(self._snapshot(request), chunk_size=_CHUNK)

    async def _delete_snapshot(self, request: web.Request) -> bool:
        path = self._snapshot(request)
        path.unlink()
        path.with_suffix(".snapshot.checksum").unlink(missing_ok=True)
        return True

    async def _upload(self, request: web.Request) -> Any:
        name = request.match_info["collection"]
        part = await (await request.multipart()).next()
        if not isinstance(part, BodyPartReader) or part.name != "snapshot":
            raise _Refused(400, "Format error in multipart form: field `snapshot` is missing")
        scratch = self._scratch / uuid.uuid4().hex
        with scratch.open("wb") as file:
            while chunk := await part.read_chunk(_CHUNK):
                file.write(chunk)
        given = Path(part.filename or "").name or uuid.uuid4().hex
        return await self._now_or_later(
            request, self._take_upload(name, scratch, given, request.query.get("checksum"), request.query)
        )

    async def _take_upload(self, name: str, scratch: Path, given: str, checksum: str | None, query: Any) -> bool:
        """An upload stays in the collection's list of snapshots, as it does on a server."""
        try:
            await _check(scratch, checksum)
            folder = self._snapshots_folder / urllib.parse.quote(name, safe="")
            folder.mkdir(exist_ok=True)
            await asyncio.to_thread(scratch.replace, folder / given)
        finally:
            await asyncio.to_thread(scratch.unlink, missing_ok=True)
        return await self._fill(name, folder / given, query.get("priority"))

    async def _recover(self, request: web.Request) -> Any:
        name, body = request.match_info["collection"], await request.json()
        return await self._now_or_later(request, self._recover_from(name, body))

    async def _recover_from(self, name: str, body: dict[str, Any]) -> bool:
        scratch = self._scratch / uuid.uuid4().hex
        try:
            try:
                await asyncio.to_thread(_fetch, body["location"], scratch)
            except OSError as exc:
                raise _Refused(400, f"Wrong input: Failed to download snapshot from {body['location']}: {exc}") from exc
            await _check(scratch, body.get("checksum"))
            return await self._fill(name, scratch, body.get("priority"))
        finally:
            scratch.unlink(missing_ok=True)

    async def _fill(self, name: str, snapshot: Path, priority: str | None) -> bool:
        """Put a snapshot's data in the place of the collection's, which is made where there is none."""
        if priority not in (None, "no_sync", "snapshot", "replica"):
            raise _Refused(400, f"Format error in query: unknown variant `{priority}`")
        name = self._aliases.get(name, name)
        unpacked = Path(tempfile.mkdtemp(dir=self._scratch))
        try:
            await asyncio.to_thread(_unpack, snapshot, unpacked)
            config = json.loads((unpacked / "config.json").read_text())
            former = self._collections.get(name)
            if former is not None and former.config["params"]["vectors"] != config["params"]["vectors"]:
                raise _Refused(400, "Wrong input: Snapshot is not compatible with existing collection")
            if former is not None:
                async with former.lock:
                    former.shard.close()
                    shutil.rmtree(former.folder)
            # With `replica`, a node without others takes over the empty data that it is then told to keep.
            if priority == "replica":
                shutil.rmtree(unpacked / "0")
                self._collections[name] = _Collection.create(self._new_folder(name), config)
            else:
                folder = self._new_folder(name)
                await asyncio.to_thread(unpacked.replace, folder)
                self._collections[name] = await asyncio.to_thread(_Collection.load, folder)
        finally:
            shutil.rmtree(unpacked, ignore_errors=True)
        return True

    async def _now_or_later(self, request: web.Request, work: Any) -> Any:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        if request.query.get("wait", "true") == "true":
            return await asyncio.shield(task)  # a client who goes away does not stop a server
        task.add_done_callback(_note)
        return _ACCEPTED

    # -- what is where

    def _collection(self, request: web.Request) -> _Collection:
        name = request.match_info["collection"]
        found = self._collections.get(self._aliases.get(name, name))
        if found is None:
            raise _Refused(404, f"Not found: Collection `{name}` doesn't exist!")
        return found

    def _snapshot(self, request: web.Request) -> Path:
        name = request.match_info["snapshot"]
        folder = self._snapshots_of(self._collection(request))
        path = (folder / name).resolve()
        if not path.is_file() or folder.resolve() not in path.parents:
            raise _Refused(404, f"Not found: Snapshot {name}")
        return path

    def _new_folder(self, name: str) -> Path:
        return self._collections_folder / urllib.parse.quote(name, safe="")

    def _snapshots_of(self, collection: _Collection) -> Path:
        return self._snapshots_folder / collection.folder.name


_ACCEPTED = object()


def _note(task: asyncio.Task[Any]) -> None:
    """A server writes into its log what became of work that nobody waits for."""
    if not task.cancelled() and task.exception() is not None:
        sys.stderr.write(f"{task.exception()}\n")


def _given(diff: dict[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (diff or {}).items() if value is not None}


def _ids(values: list[object]) -> list[int | uuid.UUID | str]:
    return [_id(value) for value in values]


def _id(value: object) -> int | uuid.UUID:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**64:
        return value
    try:
        return uuid.UUID(str(value))
    except ValueError:
        raise _Refused(400, f"Format error in JSON body: value {value} is not a valid point ID") from None


def _plain_id(value: int | uuid.UUID | None) -> int | str | None:
    return value if value is None or isinstance(value, int) else str(value)


def _record(item: Any, body: dict[str, Any]) -> dict[str, Any]:
    record: dict[str, Any] = {"id": _plain_id(item.id), "payload": item.payload}
    if body.get("with_vector"):
        record["vector"] = item.vector
    return record


def _described(path: Path) -> dict[str, Any]:
    checksum = path.with_suffix(".snapshot.checksum")
    status = path.stat()
    return {
        "name": path.name,
        "creation_time": datetime.fromtimestamp(status.st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%S"),
        "size": status.st_size,
        "checksum": checksum.read_text() if checksum.exists() else None,
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def _check(path: Path, checksum: str | None) -> None:
    found = await asyncio.to_thread(_sha256, path)
    if checksum is not None and found != checksum.lower():
        raise _Refused(400, f"Bad request: Snapshot checksum mismatch: expected {checksum}, got {found}")


def _fetch(location: str, path: Path) -> None:
    if urllib.parse.urlsplit(location).scheme not in ("http", "https"):
        raise urllib.error.URLError("only http and https are played")
    with urllib.request.urlopen(location, timeout=60) as source, path.open("wb") as file:  # noqa: S310 - checked above
        shutil.copyfileobj(source, file, _CHUNK)


def _pack(collection: _Collection, target: Path) -> None:
    """Write the flushed shard and the configuration as a tar archive.

    Its WAL is in it, because the engine counts operations there: with a new one it takes the next writes to a restored
    point for older than the point, and drops them without an error.
    """
    collection.shard.flush()
    sizes = {}
    with tarfile.open(target, "w") as archive:
        for path in sorted((collection.folder / "0").rglob("*")):
            name = path.relative_to(collection.folder).as_posix()
            info = archive.gettarinfo(path, name)
            if path.is_file():
                sizes[name] = info.size
                info.size = _end_of_data(path)
                with path.open("rb") as file:
                    archive.addfile(info, file)
            else:
                archive.addfile(info)
        for name, value in (("config.json", collection.config), ("sizes.json", sizes)):
            data = json.dumps(value).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def _end_of_data(path: Path) -> int:
    """Where the last bytes are that were ever written: the engine maps files of 32 MiB that are mostly holes."""
    end = 0
    with path.open("rb") as file:
        size = path.stat().st_size
        while end < size:
            try:
                data = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError as exc:
                if exc.errno == errno.ENXIO:
                    break
                raise
            end = os.lseek(file.fileno(), data, os.SEEK_HOLE)
    return end


def _unpack(snapshot: Path, folder: Path) -> None:
    try:
        with tarfile.open(snapshot, "r:") as archive:
            archive.extractall(folder, filter="data")
        for name, size in json.loads((folder / "sizes.json").read_text()).items():
            os.truncate(folder / name, size)
        (folder / "sizes.json").unlink()
    except (tarfile.TarError, OSError, ValueError) as exc:
        raise _Refused(400, f"Wrong input: Failed to open snapshot archive: {exc}") from exc


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--version", default=VERSION)
    args = parser.parse_args()
    key = os.environ.get("QDRANT__SERVICE__API_KEY", "")
    server = _Server(args.folder, version=args.version, api_key=key)
    web.run_app(server.application(), host="127.0.0.1", port=args.port, print=None, shutdown_timeout=1)


if __name__ == "__main__":
    main()
