"""One life of a worker, and the process that such lives are forked from.

`python -m relight_drill.sweep.life SOCKET` imports everything once, stays single-threaded, and forks a life for each
line that it is sent; so a life begins in milliseconds and is a process of its own, which can be killed for real.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib
import json
import logging
import mmap
import os
import random
import selectors
import signal
import socket
import struct
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relight.clock import SystemClock
from relight.errors import LeaseLostError
from relight.queue.jetstream import JetStreamQueue
from relight.tasks.database import Database
from relight.tasks.ledger import MAX_ATTEMPTS, Ledger
from relight.tasks.steps import Retry, TaskRun
from relight.tasks.verdict import give_back, judge
from relight.tasks.worker import Worker
from relight_drill.sweep.shapes import Tools, work, work_async
from relight_drill.sweep.tools import HttpResults

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from relight.tasks.ledger import Task

CLAIM_S = 30.0
RETRY = Retry(first_s=0.01, factor=1.5, at_most_s=0.05, here_s=0.5)
# Of prctl(2): die with the parent.
_PDEATHSIG = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LifeConfig:
    """All that a life is told. `start` are the tasks that its caller starts, as (id, payload)."""

    number: int
    report: str
    log: str
    clock: str
    dsn: str
    nats: str
    environment: str
    tools: int
    epoch: int
    runner: str
    concurrency: int
    ack_wait_s: float
    start: list[tuple[str, Any]]
    hook: str = ""
    """`module:function`, called before anything else, to break the library on purpose."""


class PlayedClock(SystemClock):
    """The machine's clocks, and the seconds that the sweep plays on top: a shared number that only it writes."""

    def __init__(self, path: str) -> None:
        with Path(path).open("rb") as file:
            self._shared = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)

    def monotonic(self) -> float:
        (played,) = struct.unpack("d", self._shared[:8])
        return time.monotonic() + float(played)


class Held:
    """The region's lease, as the last renewal left it a moment ago: it runs out when nobody renews it."""

    def __init__(self, epoch: int, clock: PlayedClock, *, for_s: float = 40.0) -> None:
        self.epoch = epoch
        self._clock = clock
        self._until = clock.monotonic() + for_s

    def check(self, for_s: float = 0.0) -> None:
        """LeaseLostError when it is over."""
        if self._until - self._clock.monotonic() <= for_s:
            raise LeaseLostError("the lease ran out", hint="nothing was done")


class Life:
    """A worker that is alive, its caller, and how it is heard of."""

    def __init__(self, config: LifeConfig) -> None:
        self._config = config
        self._clock = PlayedClock(config.clock)
        self._lease = Held(config.epoch, self._clock)
        self._report = socket.socket(socket.AF_UNIX)
        self._report.connect(config.report)
        self._say(life=config.number)
        self._tools = Tools(config.tools)
        self._ledger = Ledger(
            # A life that is stopped is not to find that its confirmation took too long.
            Database(config.dsn, confirm_timeout_s=60.0),
            epoch=lambda: self._lease.epoch,
            results=HttpResults(config.tools),
        )

    def live(self) -> None:
        """Start the tasks, and work until killed."""
        for id_, payload in self._config.start:
            self._ledger.start_task(payload, id_=id_)
            self._say(acknowledged=id_)
        if self._config.runner == "direct":
            self._work_directly()
        else:
            asyncio.run(self._work_from_the_queue())

    def _say(self, **what: Any) -> None:
        self._report.sendall(json.dumps(what).encode() + b"\n")

    # -- with a queue

    async def _work_from_the_queue(self) -> None:
        handler: Callable[[Any], Any] = self._do_async if self._config.runner == "async" else self._do
        await Worker(
            self._ledger,
            lease=self._lease,
            connect=self._queue,
            handler=handler,
            name=f"life-{self._config.number}",
            clock=self._clock,
            concurrency=self._config.concurrency,
            claim_s=CLAIM_S,
            retry=RETRY,
            chance=random.Random(1),  # noqa: S311
        ).run()

    @contextlib.asynccontextmanager
    async def _queue(self) -> AsyncIterator[JetStreamQueue]:
        config = self._config
        queue = await JetStreamQueue.connect(config.nats, environment=config.environment, ack_wait_s=config.ack_wait_s)
        try:
            yield queue
        finally:
            await queue.close()

    def _do(self, run: TaskRun) -> Any:
        return work(run, self._tools)

    async def _do_async(self, run: Any) -> Any:
        return await work_async(run, self._tools)

    # -- without

    def _work_directly(self) -> None:
        while True:
            claimed_at = self._clock.monotonic()
            tasks = self._ledger.claim_due(1, worker=f"life-{self._config.number}", lease_s=CLAIM_S)
            for task in tasks:
                self._run_directly(task, claimed_at)
            if not tasks:
                time.sleep(0.02)

    def _run_directly(self, task: Task, claimed_at: float) -> None:
        run = TaskRun(
            self._ledger,
            task,
            lease=self._lease,
            clock=self._clock,
            claim_s=CLAIM_S,
            claimed_at=claimed_at,
            retry=RETRY,
            chance=random.Random(1),  # noqa: S311
        )
        try:
            run.finish(work(run, self._tools))
        except Exception as exc:  # noqa: BLE001 - what a worker does with whatever a task raises
            verdict = judge(
                exc,
                attempts=task.attempts,
                max_attempts=MAX_ATTEMPTS,
                retry=RETRY,
                chance=random.Random(1),  # noqa: S311
            )
            logging.warning("task_failed", extra={"task_id": task.id, "error": repr(exc)})
            give_back(self._ledger, task, verdict)


class _Fields(logging.Formatter):
    """A line with what `extra` said."""

    _PLAIN = frozenset(logging.makeLogRecord({}).__dict__)

    def format(self, record: logging.LogRecord) -> str:
        fields = {name: value for name, value in record.__dict__.items() if name not in self._PLAIN}
        return f"{time.monotonic():.3f} {os.getpid()} {record.levelname} {record.getMessage()} {fields or ''}"


def begin(config: LifeConfig) -> None:
    """What a forked process does; it never returns."""
    code = 1
    try:
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
        log = os.open(config.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        handler = logging.StreamHandler()
        handler.setFormatter(_Fields())
        logging.basicConfig(handlers=[handler], level=logging.INFO)
        if config.hook:
            module, _, name = config.hook.partition(":")
            getattr(importlib.import_module(module), name)()
        Life(config).live()
        code = 0
    except BaseException:  # noqa: BLE001 - the last word of a process
        traceback.print_exc()
    finally:
        os._exit(code)


def serve(path: str) -> None:
    """Fork a life for each line that comes, say when it is born and when it died, until nobody listens."""
    control = socket.socket(socket.AF_UNIX)
    control.connect(path)
    awake, waker = socket.socketpair()
    for end in (control, awake, waker):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    numbers: dict[int, int] = {}
    told = b""
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        selector.register(awake, selectors.EVENT_READ)
        while True:
            selector.select()
            with contextlib.suppress(BlockingIOError):
                awake.recv(4096)
            with contextlib.suppress(BlockingIOError):
                data = control.recv(1 << 16)
                if not data:
                    return
                told += data
            while b"\n" in told:
                line, _, told = told.partition(b"\n")
                given = json.loads(line)
                config = LifeConfig(**{**given, "start": [tuple(item) for item in given["start"]]})
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for end in (control, awake, waker):
                        end.close()
                    begin(config)
                numbers[pid] = config.number
                _tell(control, born=config.number, pid=pid)
            _reap(control, numbers)


def _reap(control: socket.socket, numbers: dict[int, int]) -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            _tell(control, died=numbers.pop(pid), code=os.waitstatus_to_exitcode(status))


def _tell(control: socket.socket, **what: Any) -> None:
    control.setblocking(True)
    control.sendall(json.dumps(what).encode() + b"\n")
    control.setblocking(False)


def as_line(config: LifeConfig) -> bytes:
    """A line that `serve` forks a life for."""
    return json.dumps(asdict(config)).encode() + b"\n"


if __name__ == "__main__":
    serve(sys.argv[1])
