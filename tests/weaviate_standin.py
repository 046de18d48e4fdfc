"""A stand-in for a Weaviate server: a subset of its REST and GraphQL interface, written from its documentation.

It is no server. It plays one node: schema, objects, batches, the cursor, the two GraphQL queries that the store sends
(counting a class, and the nearest to a vector, by exact comparison in numpy), aliases, and backups of its own format to
an S3 that it is given. No index, no filters but the one that matches everything, no tenants, no named vectors, no
authentication but an API key. Classes are made at once and one at a time, as a server's consensus makes them, and two
names that differ in case only are one class.

`backup_status` and `restore_status` are what those are said to be for ever; `disk_full` refuses every object.
`largest_batch` is how many bytes the largest batch of objects had.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
from aiohttp import web

from relight_drill.processes import free_port

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

METRICS: dict[str, Callable[[Any, Any], Any]] = {
    "cosine": lambda rows, v: 1 - _unit(rows) @ _unit(v[None])[0],
    "l2-squared": lambda rows, v: ((rows - v) ** 2).sum(axis=1),
    "dot": lambda rows, v: -(rows @ v),
}
_CLASS = re.compile(r"[A-Z][_0-9A-Za-z]{0,254}")
_COUNT = re.compile(r"\{Aggregate\{(\w+)\{meta\{count\}\}\}\}")
_NEAREST = re.compile(r"\{Get\{(\w+)\(limit:(\d+) nearVector:\{vector:(\[[^]]*\])\}")


def _unit(rows: Any) -> Any:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms == 0, 1, norms)


class WeaviateStandin:
    """One server on loopback, in a thread of this process."""

    def __init__(self, *, version: str = "1.32.4", node: str = "node1", s3: Any = None, key: str = "") -> None:
        self.version = version
        self.node = node
        self.s3 = s3
        self.key = key
        self.port = free_port()
        self.backup_status = self.restore_status = "SUCCESS"
        self.disk_full = False
        self.largest_batch = 0
        self.cancelled: list[str] = []
        self.classes: dict[str, dict[str, Any]] = {}
        self.objects: dict[str, dict[str, dict[str, Any]]] = {}
        self.aliases: dict[str, str] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="weaviate-standin", daemon=True)

    @property
    def url(self) -> str:
        """Its address, with the key."""
        return f"http://{f':{self.key}@' if self.key else ''}127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    def stop(self) -> None:
        """Go, and forget everything."""
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> None:
        app = web.Application(client_max_size=1 << 28, middlewares=[self._guard])
        app.add_routes(
            [
                web.get("/v1/meta", self._meta),
                web.get("/v1/nodes", self._nodes),
                web.get("/v1/schema", self._schema),
                web.post("/v1/schema", self._make_class),
                web.get("/v1/schema/{class}", self._class),
                web.delete("/v1/schema/{class}", self._drop_class),
                web.get("/v1/objects", self._page),
                web.get("/v1/objects/{class}/{id}", self._object),
                web.put("/v1/objects/{class}/{id}", self._replace),
                web.delete("/v1/objects/{class}/{id}", self._delete),
                web.post("/v1/batch/objects", self._batch),
                web.delete("/v1/batch/objects", self._batch_delete),
                web.post("/v1/graphql", self._graphql),
                web.post("/v1/aliases", self._alias),
                web.get("/v1/aliases/{alias}", self._alias_target),
                web.put("/v1/aliases/{alias}", self._alias),
                web.delete("/v1/aliases/{alias}", self._drop_alias),
                web.post("/v1/backups/{backend}", self._back_up),
                web.get("/v1/backups/{backend}/{id}", self._backup),
                web.delete("/v1/backups/{backend}/{id}", self._cancel),
                web.post("/v1/backups/{backend}/{id}/restore", self._restore),
                web.get("/v1/backups/{backend}/{id}/restore", self._restored),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            return refusal(401, "anonymous access not enabled, please provide an auth scheme")
        return await handler(request)

    async def _meta(self, _: web.Request) -> web.Response:
        modules = {"backup-s3": {"bucketName": "unused"}} if self.s3 is not None else {}
        return web.json_response({"hostname": self.url, "version": self.version, "modules": modules})

    async def _nodes(self, _: web.Request) -> web.Response:
        return web.json_response({"nodes": [{"name": self.node, "status": "HEALTHY", "version": self.version}]})

    async def _schema(self, _: web.Request) -> web.Response:
        return web.json_response({"classes": list(self.classes.values())})

    async def _class(self, request: web.Request) -> web.Response:
        found = self.classes.get(request.match_info["class"])
        return web.Response(status=404) if found is None else web.json_response(found)

    async def _make_class(self, request: web.Request) -> web.Response:
        definition = await request.json()
        name = definition["class"][:1].upper() + definition["class"][1:]
        if _CLASS.fullmatch(name) is None:
            return refusal(422, f"'{name}' is not a valid class name")
        if name.lower() in map(str.lower, [*self.classes, *self.aliases]):
            return refusal(422, f"class name {name} already exists")
        definition = {"vectorIndexType": "hnsw", "vectorIndexConfig": {}, **definition, "class": name}
        definition["vectorIndexConfig"] = {"distance": "cosine", "ef": -1, **definition["vectorIndexConfig"]}
        self.classes[name], self.objects[name] = definition, {}
        return web.json_response(definition)

    async def _drop_class(self, request: web.Request) -> web.Response:
        name = request.match_info["class"]
        self.classes.pop(name, None)
        self.objects.pop(name, None)
        return web.Response(status=200)  # also where there is none

    async def _page(self, request: web.Request) -> web.Response:
        query = request.query
        objects = self.objects.get(query["class"])
        if objects is None:
            return refusal(422, f"class {query['class']} not found")
        after = uuid.UUID(query["after"])
        found = sorted(id_ for id_ in objects if uuid.UUID(id_) > after)[: int(query["limit"])]
        return web.json_response({"objects": [objects[id_] for id_ in found]})

    async def _object(self, request: web.Request) -> web.Response:
        found = self.objects.get(request.match_info["class"], {}).get(request.match_info["id"])
        return web.Response(status=404) if found is None else web.json_response(found)

    async def _replace(self, request: web.Request) -> web.Response:
        objects = self.objects.get(request.match_info["class"], {})
        if request.match_info["id"] not in objects:
            return refusal(422, f"no object with id '{request.match_info['id']}'")
        value = await request.json()
        objects[request.match_info["id"]] = value
        return web.json_response(value)

    async def _delete(self, request: web.Request) -> web.Response:
        found = self.objects.get(request.match_info["class"], {}).pop(request.match_info["id"], None)
        return web.Response(status=404 if found is None else 204)

    async def _batch(self, request: web.Request) -> web.Response:
        self.largest_batch = max(self.largest_batch, request.content_length or 0)
        answers = []
        for item in (await request.json())["objects"]:
            error = self._store(item)
            result = {"status": "FAILED" if error else "SUCCESS"}
            answers.append({**item, "result": {**result, "errors": {"error": [{"message": error}]} if error else None}})
        return web.json_response(answers)

    def _store(self, item: dict[str, Any]) -> str | None:
        if self.disk_full:
            return "put object: shard is read-only due to: disk usage too high"
        # A class that is missing is made, as a server's auto-schema does.
        name = item["class"]
        if name not in self.classes:
            self.classes[name] = {"class": name, "vectorIndexType": "hnsw", "vectorIndexConfig": {"distance": "cosine"}}
            self.objects[name] = {}
        vectors = [other["vector"] for other in self.objects[name].values() if other.get("vector")][:1]
        if vectors and len(vectors[0]) != len(item.get("vector") or ()):
            return f"new node has a vector with length {len(item['vector'])}. Existing nodes have {len(vectors[0])}"
        vector = [float(value) for value in np.array(item.get("vector") or [], dtype=np.float32)]
        self.objects[name][str(uuid.UUID(item["id"]))] = {**item, "vector": vector}
        return None

    async def _batch_delete(self, request: web.Request) -> web.Response:
        match = (await request.json())["match"]
        assert (match["where"]["path"], match["where"]["operator"]) == (["id"], "ContainsAny")
        objects = self.objects.get(match["class"], {})
        gone = [objects.pop(id_) for id_ in match["where"]["valueTextArray"] if id_ in objects]
        return web.json_response({"results": {"matches": len(gone), "successful": len(gone), "failed": 0}})

    async def _graphql(self, request: web.Request) -> web.Response:
        query = (await request.json())["query"]
        match = _COUNT.match(query) or _NEAREST.match(query)
        assert match is not None, query
        name = match[1]
        if name not in self.classes:
            return web.json_response({"errors": [{"message": f'Cannot query field "{name}" on type "GetObjectsObj".'}]})
        if match.re is _COUNT:
            return web.json_response({"data": {"Aggregate": {name: [{"meta": {"count": len(self.objects[name])}}]}}})
        objects, found = list(self.objects[name].values()), []
        if objects:
            rows = np.array([item["vector"] for item in objects], dtype=np.float64)
            metric = self.classes[name]["vectorIndexConfig"]["distance"]
            distances = METRICS[metric](rows, np.array(json.loads(match[3])))
            for at in np.argsort(distances, kind="stable")[: int(match[2])]:
                properties = {key: objects[at]["properties"].get(key) for key in ("point", "payload")}
                found.append({**properties, "_additional": {"distance": float(distances[at])}})
        return web.json_response({"data": {"Get": {name: found}}})

    async def _alias(self, request: web.Request) -> web.Response:
        body = await request.json()
        alias = request.match_info.get("alias", body.get("alias"))
        if (request.method == "PUT") != (alias in self.aliases):
            return web.Response(status=404) if request.method == "PUT" else refusal(422, f"alias {alias} exists")
        if body["class"] not in self.classes or alias in self.classes:
            return refusal(422, f"class {body['class']} does not exist, or {alias} is one")
        self.aliases[alias] = body["class"]
        return web.json_response({"alias": alias, "class": body["class"]})

    async def _alias_target(self, request: web.Request) -> web.Response:
        alias = request.match_info["alias"]
        if alias not in self.aliases:
            return web.Response(status=404)
        return web.json_response({"alias": alias, "class": self.aliases[alias]})

    async def _drop_alias(self, request: web.Request) -> web.Response:
        found = self.aliases.pop(request.match_info["alias"], None)
        return web.Response(status=404 if found is None else 204)

    async def _back_up(self, request: web.Request) -> web.Response:
        body = await request.json()
        missing = [name for name in body["include"] if name not in self.classes]
        if missing:
            return refusal(422, f"class {missing[0]} doesn't exist")
        prefix = f"{body['config']['Path']}/{body['id']}"
        if self.backup_status == "SUCCESS":
            bucket = body["config"]["Bucket"]
            meta = {"id": body["id"], "status": "SUCCESS", "serverVersion": self.version, "nodes": [self.node]}
            await asyncio.to_thread(self._upload, bucket, f"{prefix}/backup_config.json", meta)
            for name in body["include"]:
                aliases = [alias for alias, target in self.aliases.items() if target == name]
                content = {"class": self.classes[name], "objects": self.objects[name], "aliases": aliases}
                await asyncio.to_thread(self._upload, bucket, f"{prefix}/{self.node}/{name}/chunk-1", content)
        return web.json_response({"id": body["id"], "status": "STARTED", "classes": body["include"]})

    def _upload(self, bucket: str, key: str, value: object) -> None:
        self.s3.put_object(Bucket=bucket, Key=key, Body=json.dumps(value).encode())

    async def _backup(self, request: web.Request) -> web.Response:
        error = {"error": "put object: AccessDenied"} if self.backup_status == "FAILED" else {}
        return web.json_response({"id": request.match_info["id"], "status": self.backup_status, **error})

    async def _cancel(self, request: web.Request) -> web.Response:
        self.cancelled.append(request.match_info["id"])
        return web.Response(status=204)

    async def _restore(self, request: web.Request) -> web.Response:
        body = await request.json()
        prefix, bucket = f"{body['config']['Path']}/{request.match_info['id']}", body["config"]["Bucket"]
        meta = await asyncio.to_thread(self._download, bucket, f"{prefix}/backup_config.json")
        mapping = body.get("node_mapping", {})
        if [mapping.get(node, node) for node in meta["nodes"]] != [self.node]:
            return refusal(422, f"cannot resolve hostname of {meta['nodes'][0]!r}")
        for name in body["include"]:
            if name in self.classes:
                return refusal(422, f"class {name} already exists")
            content = await asyncio.to_thread(self._download, bucket, f"{prefix}/{meta['nodes'][0]}/{name}/chunk-1")
            if set(content["aliases"]) & set(self.aliases) and not body.get("overwriteAlias"):
                return refusal(422, f"alias {content['aliases'][0]} already exists")
            if self.restore_status == "SUCCESS":
                self.classes[name], self.objects[name] = content["class"], content["objects"]
                self.aliases |= dict.fromkeys(content["aliases"], name)
        return web.json_response({"id": request.match_info["id"], "status": "STARTED"})

    def _download(self, bucket: str, key: str) -> Any:
        return json.loads(self.s3.get_object(Bucket=bucket, Key=key)["Body"].read())

    async def _restored(self, request: web.Request) -> web.Response:
        error = {"error": "no space left on device"} if self.restore_status == "FAILED" else {}
        return web.json_response({"id": request.match_info["id"], "status": self.restore_status, **error})


def refusal(status: int, message: str) -> web.Response:
    """As Weaviate says no."""
    return web.json_response({"error": [{"message": message}]}, status=status)
