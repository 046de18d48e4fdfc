"""Processes of a drill: started through a keeper, so that none is left behind however the drill ends.

The calls block for milliseconds and may be used from an event loop and from plain code; what can take longer
(`wait_exit`, `terminate`) is a coroutine. See `keeper` for what happens when the drill dies.
"""

from __future__ import annotations

import asyncio
import atexit
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relight.errors import RelightError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from types import TracebackType

CALL_S = 15.0
PORTS = range(20000, 32000)
_given: set[int] = set()


class DrillError(RelightError):
    """The drill itself failed: a server did not start, a wait ran out. Says nothing about recovery."""


def first_failure(failures: BaseExceptionGroup[RelightError]) -> RelightError:
    """One failure of a group, which stands for those that it caused."""
    failure: BaseException = failures
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    assert isinstance(failure, RelightError)  # noqa: S101 - the group is of that type
    return failure


def free_port() -> int:
    """A loopback port that nobody listens on and that this process was not given before.

    Taken from below the range that outgoing connections use, so that none of those can sit on it later.
    """
    chooser = random.SystemRandom()
    for _ in range(200):
        port = chooser.choice(PORTS)
        if port in _given:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise DrillError(f"no free port found between {PORTS.start} and {PORTS.stop}", hint="end what listens there")


def last_words(processes: Sequence[Process], *, lines: int = 5) -> str:
    """What each of them wrote last, and which have ended, for whoever must find out why nothing happens."""
    return (
        "; ".join(
            f"{process.name} {'runs' if process.alive else f'ended with exit code {process.returncode}'}: "
            f"{process.log_tail(lines)}"
            for process in processes
        )
        or "none of them runs"
    )


async def wait_until(
    condition: Callable[[], bool] | Callable[[], Awaitable[bool]],
    *,
    what: str,
    timeout_s: float,
    interval_s: float = 0.05,
    process: Process | None = None,
) -> None:
    """Wait until `condition` holds; raise DrillError naming `what` after `timeout_s`, or at once when `process` ends.

    For states of other processes that can only be asked for; inside this process wait for an event instead.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        answer = condition()
        if answer if isinstance(answer, bool) else await answer:
            return
        if process is not None and not process.alive:
            raise DrillError(
                f"{process.name} ended with exit code {process.returncode} before {what}", hint=process.log_tail()
            )
        if time.monotonic() >= deadline:
            raise DrillError(
                f"waited {timeout_s:g} s for {what}, in vain", hint=process.log_tail() if process is not None else ""
            )
        await asyncio.sleep(interval_s)


class Process:
    """One process of the group, leader of a session of its own. Made by `ProcessGroup.start`."""

    def __init__(self, group: ProcessGroup, name: str, pid: int, log_path: Path) -> None:
        self._group = group
        self._exit: Future[int] = Future()
        self.name = name
        self.pid = pid
        self.log_path = log_path

    def __repr__(self) -> str:
        return f"<Process {self.name} pid={self.pid} returncode={self.returncode}>"

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative when a signal ended it."""
        return self._exit.result() if self._exit.done() else None

    @property
    def alive(self) -> bool:
        return not self._exit.done()

    def send(self, number: int, *, tree: bool = False) -> None:
        """Send a signal to it, or to it and everything below it; nothing happens when it has ended."""
        self._group._call("signal", pid=self.pid, number=int(number), tree=tree)

    def kill(self) -> None:
        """Kill it and everything below it, as a power cut would, and wait until it is gone."""
        self.send(signal.SIGKILL, tree=True)
        self.wait(timeout_s=CALL_S)

    def freeze(self) -> None:
        """Stop it and everything below it from running; the kernel keeps its connections open."""
        self.send(signal.SIGSTOP, tree=True)

    def thaw(self) -> None:
        """Let it run again after `freeze`."""
        self.send(signal.SIGCONT, tree=True)

    def wait(self, *, timeout_s: float) -> int:
        """Block until it ends; return its exit code."""
        try:
            return self._exit.result(timeout_s)
        except TimeoutError:
            raise self._late(timeout_s) from None

    async def wait_exit(self, *, timeout_s: float) -> int:
        """Wait until it ends; return its exit code."""
        try:
            # Python 3.11's wait_for forgets that it was cancelled when what it waits for ends in the same moment.
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(asyncio.wrap_future(self._exit))
        except TimeoutError:
            raise self._late(timeout_s) from None

    async def terminate(self, *, timeout_s: float = 5.0, number: int = signal.SIGTERM) -> None:
        """Ask it to end, wait, and kill it with all below it when it has not ended after `timeout_s`."""
        self.send(number)
        with suppress(DrillError):
            await self.wait_exit(timeout_s=timeout_s)
        if self.alive:
            self.kill()

    def log_tail(self, lines: int = 15) -> str:
        """The end of what it wrote, for error messages."""
        try:
            text = self.log_path.read_text(errors="replace")
        except OSError as exc:
            return f"its log cannot be read: {exc}"
        return f"the end of {self.log_path}:\n" + "\n".join(text.splitlines()[-lines:])

    def _late(self, timeout_s: float) -> DrillError:
        return DrillError(f"waited {timeout_s:g} s for {self.name} (pid {self.pid}) to end, in vain", hint="")


class ProcessGroup:
    """All processes of one drill. Close it, or lose this process in any way: none of them outlives it.

    The keeper is one small Python process in a session of its own, so that Ctrl-C reaches this process alone.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._answers: dict[int, Future[Any]] = {}
        self._processes: dict[int, Process] = {}
        self._early: dict[int, int] = {}
        self._lock = threading.Lock()
        self._ready: Future[int] = Future()
        self._closed = False
        self._control, theirs = socket.socketpair()
        with theirs:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", str(Path(__file__).with_name("keeper.py")), str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, name="process-keeper", daemon=True)
        self._reader.start()
        atexit.register(self.close)
        self._ready.result(CALL_S)

    def __enter__(self) -> ProcessGroup:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def processes(self) -> list[Process]:
        """Those started and not ended yet."""
        with self._lock:
            return [process for process in self._processes.values() if process.alive]

    def start(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        log_path: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: tuple[int, int] | None = None,
        end_signal: int = signal.SIGKILL,
    ) -> Process:
        """Start a process; its output is appended to `log_path`, its input is empty.

        `user` is the (uid, gid) to run as. `end_signal` is what it gets when the group closes, a few seconds before
        whatever is left is killed.
        """
        pid = self._call(
            "start",
            argv=[str(part) for part in argv],
            env=dict(os.environ if env is None else env),
            cwd=str(cwd or Path.cwd()),
            log=str(log_path),
            user=user[0] if user else None,
            group=user[1] if user else None,
            end=int(end_signal),
        )
        process = Process(self, name, pid, log_path)
        with self._lock:
            self._processes[pid] = process
            code = self._early.pop(pid, None)
        if code is not None:
            process._exit.set_result(code)
        return process

    async def run(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        log_path: Path,
        timeout_s: float,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: tuple[int, int] | None = None,
    ) -> None:
        """Run a command to its end; raise DrillError with the end of its output when it fails or takes too long."""
        process = self.start(name, argv, log_path=log_path, env=env, cwd=cwd, user=user)
        try:
            code = await process.wait_exit(timeout_s=timeout_s)
        finally:
            process.kill()
        if code != 0:
            raise DrillError(f"{name} failed with exit code {code}", hint=process.log_tail())

    def remove_at_end(self, path: Path) -> None:
        """Have the directory removed once every process is gone, also when this process dies."""
        self._call("remove", path=str(path))

    def close(self) -> None:
        """End every process and wait until they are gone. May be called twice."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)
        try:
            self._keeper.wait(30)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait(5)
        self._reader.join(5)
        self._control.close()

    def _call(self, what: str, **arguments: Any) -> Any:
        if self._closed:
            raise DrillError(f"cannot {what} a process: the process group is closed", hint="")
        number = next(self._numbers)
        answer: Future[Any] = Future()
        with self._lock:
            self._answers[number] = answer
            try:
                self._control.sendall(json.dumps({"id": number, "do": what, "with": arguments}).encode() + b"\n")
            except OSError as exc:
                raise DrillError("the keeper of the drill's processes is gone", hint="start the drill again") from exc
        try:
            return answer.result(CALL_S)
        except TimeoutError:
            raise DrillError(f"the process keeper did not {what} within {CALL_S:g} s", hint="") from None

    def _read(self) -> None:
        with self._control.makefile("rb") as lines, suppress(OSError):
            for line in lines:
                self._note(json.loads(line))
        gone = DrillError("the keeper of the drill's processes is gone", hint="start the drill again")
        with self._lock:
            waiting = [*self._answers.values(), self._ready]
            processes = list(self._processes.values())
        for future in waiting:
            if not future.done():
                future.set_exception(gone)
        for process in processes:
            if process.alive:
                process._exit.set_result(-signal.SIGKILL)

    def _note(self, message: dict[str, Any]) -> None:
        if "ready" in message:
            self._ready.set_result(message["ready"])
        elif "exited" in message:
            pid, code = message["exited"], message["code"]
            with self._lock:
                process = self._processes.pop(pid, None)
                if process is None:
                    self._early[pid] = code
            if process is not None:
                process._exit.set_result(code)
        else:
            with self._lock:
                answer = self._answers.pop(message["id"])
            if "error" in message:
                answer.set_exception(DrillError(f"the process keeper failed: {message['error']}", hint=""))
            else:
                answer.set_result(message["ok"])
