"""The agent of the drill: a process that remembers, works tasks off a queue, and answers over HTTP.

It is what a user's agent would be: it imports the runtime library, gets its settings from its environment as a
container of the deployed task definition would, and does not know that it is in a drill. Its summaries are what its LLM
providers answer; where the environment has none, they are computed here after a seeded think time. In active-active,
where another region works, it answers questions from its own memory and sends the rest on.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import random
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from aiohttp import ClientConnectorError, ClientError, ClientSession, ClientTimeout, web

from relight.config import Acknowledge
from relight.errors import ConflictError, LeaseLostError, NotFoundError, RelightError, UnavailableError
from relight.memory.api import Memory, Point
from relight.memory.apply import applying, keep_applied
from relight.memory.index import keep_indexed
from relight.providers.messages import Request, user
from relight.queue.queues import open_queue
from relight.recovery.gate import Readiness, readiness
from relight.recovery.metrics import promise_gauges, publish_lag
from relight.tasks.effects import Answer, NotSentError
from relight.tasks.ledger import Status, canonical
from relight.tasks.steps import Retry
from relight.tasks.waiting import wake_on_close
from relight.tasks.worker import Worker
from relight.wiring import Region
from relight_drill.corpus import Embedder
from relight_drill.onward import Onward
from relight_drill.questions import SYSTEM, question

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from psycopg2.extensions import cursor

    from relight.memory.apply import Lag
    from relight.recovery.follow import Following
    from relight.tasks.steps import TaskRun

CONCURRENCY = 4
READINESS_EVERY_S = 0.5
READINESS_LASTS_S = 3.0
CLOSE_S = 2.0
# A task that keeps failing is parked, for a person, after a quarter of an hour.
RETRY = Retry(attempts=20, first_s=1.0, at_most_s=60.0)
OUTBOX = "http://outbox.example/messages"

_log = logging.getLogger(__name__)


class OutboxTool:
    """Sends reports. The outbox keeps every message it was ever sent, and can be asked."""

    name = "outbox"
    timeout_s = 3.0
    honours_keys_s = 0.0
    _within_s = 2.0  # a whole call, so that the outbox has had the rest of `timeout_s` for what came last

    def send(self, request: dict[str, Any], *, key: str) -> Any:
        """Post the message."""
        return asyncio.run(self._call("POST", json=request, headers={"Idempotency-Key": key}))

    def find(self, request: dict[str, Any], *, key: str) -> Any | Answer:  # noqa: ARG002 - found by what was sent
        """Look whether the message was sent."""
        digest = hashlib.sha256(canonical(request).encode()).hexdigest()
        found = asyncio.run(self._call("GET", params={"digest": digest}))
        return found if found.get("count") else Answer.NOT_SENT

    async def _call(self, method: str, **what: Any) -> Any:
        whole = ClientTimeout(total=self._within_s)
        try:
            async with (
                ClientSession(trust_env=True, timeout=whole, raise_for_status=True) as session,
                session.request(method, OUTBOX, **what) as answer,
            ):
                return await answer.json()
        except ClientConnectorError as exc:
            if isinstance(exc.os_error, ConnectionRefusedError):
                raise NotSentError("the outbox refused the connection") from exc
            raise UnavailableError(f"the outbox did not answer: {type(exc).__name__}") from exc
        except (ClientError, OSError, ValueError) as exc:
            raise UnavailableError(f"the outbox did not answer: {type(exc).__name__}") from exc


class Agent:
    """One worker process of a region."""

    def __init__(self, region: Region, *, port: int, seed: int) -> None:
        self._region = region
        self._port = port
        self._think = random.Random(seed)  # noqa: S311 - a think time, not a secret
        self._name = f"{region.settings.region}/{os.getpid()}"
        self._embedder = Embedder()
        self._lease = region.lease_keeper()
        self._ledger = region.ledger(lambda: self._lease.epoch)
        self._memory = Memory(store=region.store, spec=region.specs[0])
        # Opened before anything runs: a provider that is configured wrongly must not be found out in the first task.
        self._router = region.router() if region.settings.providers else None
        if self._router is not None:
            wake_on_close(self._router.board, self._ledger, clock=region.clock)
        self._tool = OutboxTool()
        self._onward = Onward(region.settings)
        self._threads = ThreadPoolExecutor(max_workers=4 * CONCURRENCY, thread_name_prefix="agent")
        self._stop = threading.Event()
        self._readiness = Readiness(ready=False, reason="starting")
        self._readiness_at = float("-inf")
        self._worker = Worker(
            self._ledger,
            lease=self._lease,
            connect=lambda: open_queue(region.connections.queue_url, environment=region.settings.environment),
            handler=self._report,
            name=self._name,
            clock=region.clock,
            concurrency=CONCURRENCY,
            retry=RETRY,
            may_work=lambda: self.ready().works,
            chance=self._think,
            threads=self._threads,
        )

    async def run(self) -> None:
        """Serve until SIGTERM. Raises what ended a part of the agent: without it the agent must not stay in service."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        loop.add_signal_handler(signal.SIGTERM, _settle, ended, None)
        runner = web.AppRunner(self._app(), access_log=None, shutdown_timeout=CLOSE_S)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self._port).start()
        for name, part in (
            ("lease", lambda: self._lease.run(self._stop)),
            ("readiness", self._watch_readiness),
            ("applier", self._apply_journal),
            ("indexer", self._keep_indexed),
        ):
            threading.Thread(target=self._live, args=[part, loop, ended], name=name, daemon=True).start()
        worker = asyncio.create_task(self._worker.run())
        worker.add_done_callback(lambda done: _settle(ended, None if done.cancelled() else done.exception()))
        try:
            await ended
        finally:
            self._stop.set()
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)
            await runner.cleanup()
            await self._onward.close()
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._region.close()

    def _live(self, part: Callable[[], None], loop: asyncio.AbstractEventLoop, ended: asyncio.Future[None]) -> None:
        """Run a part in its thread; it may not end before the agent does."""
        try:
            part()
        except BaseException as exc:  # noqa: BLE001 - raised again by run()
            loop.call_soon_threadsafe(_settle, ended, exc)

    # -- what runs all the time

    def _watch_readiness(self) -> None:
        """Look at the gate in a thread of its own, so that `/ready` answers even while a server is silent."""
        settings = self._region.settings
        while not self._stop.wait(READINESS_EVERY_S):
            before = self._region.clock.monotonic()
            found = readiness(
                region=settings.region,
                lease=self._lease,
                epochs=self._region.epochs,
                memory=self._region.store,
                edges=self._region.edges,
                collections=[spec.name for spec in self._region.specs],
                reads=self._region.following,
            )
            last = self._readiness
            changed = (found.ready, found.works) != (last.ready, last.works)
            if changed or (found.detail and found.reason != last.reason):
                said = {"ready": found.ready, "works": found.works, "reason": found.reason, "detail": found.detail}
                _log.info("gate", extra=said)
            self._readiness = found
            self._readiness_at = before
            if found.opened and self._region.following is not None:
                self._beat(self._region.following)

    def _beat(self, following: Following) -> None:
        """Let the other region see how far behind it is."""
        try:
            following.beat()
        except RelightError as exc:
            _log.warning("beat_failed", extra={"error": str(exc)})

    def ready(self) -> Readiness:
        """The gate's answer; one that is too old is a no."""
        age_s = self._region.clock.monotonic() - self._readiness_at
        if age_s > READINESS_LASTS_S:
            return Readiness(ready=False, reason=f"no answer from the servers for {age_s:.0f} s")
        found = self._readiness
        if found.opened:
            try:
                self._lease.check()
            except LeaseLostError as exc:
                return Readiness(ready=False, reason=exc.problem)
        return found

    def _apply_journal(self) -> None:
        """Keep memory at the journal, and tell whoever watches how far behind it is and what the standby confirms."""
        region = self._region
        keep_applied(
            store=region.store,
            specs=region.specs,
            state=region.state,
            archive=region.archive,
            stop=self._stop,
            may_apply=lambda: applying(region.settings, self.ready()),
            publish=self._publish,
            clock=region.clock,
        )

    def _publish(self, lags: Mapping[str, Lag]) -> None:
        region = self._region
        publish_lag(region.metrics, lags)
        database = region.database
        gauges = promise_gauges(database.promise(), database.confirmations(), now=region.clock.now())
        region.metrics.put(gauges)

    def _keep_indexed(self) -> None:
        """Also behind a closed gate: what was hydrated on boot is indexed before anybody asks."""
        keep_indexed(store=self._region.store, specs=self._region.specs, stop=self._stop)

    # -- tasks

    def _report(self, run: TaskRun) -> dict[str, Any]:
        """The workload: recall, summarise, report."""
        topic = run.task.payload["topic"]
        recalled = run.run("recall", lambda: self._recall(topic))
        summary = run.run(
            "summarise",
            lambda: self._summarise(run.task.id, topic, [item["text"] for item in recalled]),
            remember=lambda cur, made: self._learn(cur, f"report/{run.task.id}", made["text"], task_id=run.task.id),
        )
        message = {"to": "team@relight.example", "subject": topic, "task": run.task.id, "body": summary["text"]}
        run.effect(self._tool, message)
        return {"summary": summary["text"], "recalled": [item["id"] for item in recalled]}

    def _recall(self, topic: str) -> list[dict[str, Any]]:
        with self._region.database.transaction() as cur:
            hits = self._memory.search(cur.connection, self._embedder.embed([topic])[0], k=5)
        return [{"id": hit.id, "text": (hit.payload or {}).get("text", "")} for hit in hits]

    def _summarise(self, task: str, topic: str, texts: list[str]) -> dict[str, Any]:
        """The summary, and whose answer it is: the ledger has it, for whoever asks where a text came from."""
        if self._router is None:
            self._region.clock.sleep(self._think.uniform(0.2, 1.0))
            return {"text": self._embedder.summarise(topic, texts)}
        began_at = self._region.clock.now()
        asked = Request(system=SYSTEM, messages=(user(str(question(task, topic, texts))),))
        answer = self._router.complete(asked)
        return {
            "text": answer.text,
            "provider": answer.provider,
            "answer": answer.id,
            "degraded": answer.degraded,
            "began_at": began_at.isoformat(),
            "tries": [[item.provider, item.outcome, round(item.seconds, 3)] for item in answer.attempts],
        }

    # -- HTTP

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[_errors_as_answers])
        app.add_routes(
            [
                web.get("/health", self._get_health),
                web.get("/ready", self._get_ready),
                web.post("/tasks", self._gated(self._post_task, works=True)),
                web.get("/tasks/{id}", self._gated(self._get_task, works=True)),
                web.post("/memories", self._gated(self._post_memory, works=True)),
                web.post("/ask", self._gated(self._post_ask)),
            ]
        )
        return app

    def _gated(self, handler: Callable[[web.Request], Any], *, works: bool = False) -> Callable[[web.Request], Any]:
        """Behind the gate; with `works`, what only the region that works can do, which any other sends on to it."""

        async def gated(request: web.Request) -> web.StreamResponse:
            state = self.ready()
            if not state.ready:
                return web.json_response({"error": state.reason}, status=503)
            if works and not state.works:
                return await self._onward.send(request, to=self._lease.acting())
            answer: web.StreamResponse = await handler(request)
            return answer

        return gated

    async def _get_health(self, _: web.Request) -> web.Response:
        """For load balancers: the process lives. Says nothing about whether traffic may come in."""
        return web.json_response({"region": self._region.settings.region, "pid": os.getpid()})

    async def _get_ready(self, _: web.Request) -> web.Response:
        state = self.ready()
        body = {
            "ready": state.ready,
            "works": state.works,
            "reason": state.reason,
            "epoch": state.epoch,
            "region": self._region.settings.region,
            # Of what is acknowledged here; it is no reason to send traffic elsewhere.
            "promise": promise.state.value if (promise := self._region.database.promise_seen()) else None,
        }
        return web.json_response(body, status=200 if state.ready else 503)

    async def _post_task(self, request: web.Request) -> web.Response:
        """202 when the task is acknowledged: durable in the standby, and in the outbox of the queue."""
        body = await request.json()
        task = await self._in_thread(lambda: self._ledger.start_task(body["payload"], id_=body["id"]))
        self._worker.announce()
        return web.json_response({"id": task.id, "status": task.status, "epoch": task.epoch}, status=202)

    async def _get_task(self, request: web.Request) -> web.Response:
        task = await self._in_thread(lambda: self._ledger.task(request.match_info["id"]))
        if task.status is Status.DONE:
            # Nobody is told of a result that the standby may not have.
            await self._in_thread(lambda: self._ledger.confirm(task.id))
        # What follows the error's class is a driver's text, for whoever may read the ledger.
        error = task.error and task.error.partition(":")[0]
        return web.json_response({"id": task.id, "status": task.status, "result": task.result, "error": error})

    async def _post_memory(self, request: web.Request) -> web.Response:
        """201 when the memory is acknowledged."""
        body = await request.json()
        await self._in_thread(lambda: self._remember(body["id"], body["text"]))
        return web.json_response({"id": body["id"]}, status=201)

    def _remember(self, id_: str, text: str) -> None:
        confirmed = self._region.settings.acknowledge is Acknowledge.REMOTE
        with self._region.database.transaction(confirmed=confirmed) as cur:
            self._learn(cur, id_, text)

    def _learn(self, cur: cursor, id_: str, text: str, *, task_id: str | None = None) -> None:
        point = Point(id=id_, vector=self._embedder.embed([text])[0], payload={"text": text})
        self._memory.upsert(cur, [point], epoch=self._lease.epoch, task_id=task_id)

    async def _post_ask(self, request: web.Request) -> web.Response:
        body = await request.json()
        hits = await self._in_thread(lambda: self._recall(body["question"]))
        return web.json_response({"hits": [hit["id"] for hit in hits], "region": self._region.settings.region})

    async def _in_thread(self, call: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


def _settle(ended: asyncio.Future[None], exc: BaseException | None) -> None:
    """The first reason to end counts."""
    if ended.done():
        return
    if exc is None:
        ended.set_result(None)
    else:
        ended.set_exception(exc)


def _written(exc: Exception) -> str:
    """An error as the ledger has it: its class, and then what was said."""
    return f"{type(exc).__name__}: {exc}"


@web.middleware
async def _errors_as_answers(request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
    """A caller is told the class of an error; its text, which may name hosts and users, goes to the log."""
    try:
        answer: web.StreamResponse = await handler(request)
    except RelightError as exc:
        _log.warning("call_failed", extra={"path": request.path, "error": _written(exc)})
        return web.json_response({"error": type(exc).__name__}, status=_status_of(exc))
    return answer


def _status_of(exc: RelightError) -> int:
    if isinstance(exc, LeaseLostError) or exc.retryable:
        return 503
    if isinstance(exc, ConflictError):
        return 409
    return 404 if isinstance(exc, NotFoundError) else 500


class _Lines(logging.Formatter):
    """One line a record: time, level, event, and what came in `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        told = {name: value for name, value in vars(record).items() if name not in _PLAIN}
        line = f"{self.formatTime(record)} {record.levelname} {record.getMessage()}"
        return f"{line} {json.dumps(told, default=str)}" if told else line


_PLAIN = {*vars(logging.makeLogRecord({})), "message", "asctime"}


def main() -> None:
    """Run one agent with the settings of its environment."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    logging.getLogger("botocore").setLevel(logging.WARNING)
    for name in ("httpx", "httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    port, seed = int(os.environ["PORT"]), int(os.environ.get("SEED", "0"))
    try:
        asyncio.run(Agent(Region.from_env(), port=port, seed=seed).run())
    except Exception:  # noqa: BLE001 - whatever it is, the process must end
        _log.exception("agent_failed")
        # A thread that waits for a silent server would keep the process from ending, and ECS from starting another.
        os._exit(1)


if __name__ == "__main__":
    main()
