"""The process that owns every process of a drill, so that none is left behind however the drill ends.

It is started by `processes.ProcessGroup` as a script and talks JSON lines over an inherited socket. Everything the
drill runs is its child, and what those leave behind becomes its child too, because it is a subreaper. When the socket
closes (the drill closed the group, raised, was interrupted, or was killed with SIGKILL) it ends them all, removes the
directories it was given, and exits. A child that would outlive the keeper itself is killed by the kernel. Both are
Linux's; elsewhere a process that left its parent escapes.

Imports nothing of the project: it runs isolated.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
GRACE_S = 3.0
END_S = 10.0


def die_with_keeper() -> None:
    """Have the kernel kill this process when the keeper dies. Runs in the child, after its user was set."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def descendants(pid: int) -> list[psutil.Process]:
    """Every process below `pid`, whatever session it moved to."""
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def send(process: psutil.Process, number: int) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


class Keeper:
    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.buffer = b""
        self.living: dict[int, int] = {}
        self.remove: list[Path] = []

    def run(self, wakeup: socket.socket) -> None:
        """Serve until the other end closes, or until SIGTERM."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.control, selectors.EVENT_READ)
            selector.register(wakeup, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is wakeup:
                        signals = wakeup.recv(4096)
                        self.reap()
                        if signal.SIGTERM in signals:
                            return
                    elif not self.serve():
                        return

    def serve(self) -> bool:
        """Read what has arrived; False when the other end is gone."""
        try:
            data = self.control.recv(1 << 20)
        except ConnectionError:
            return False
        self.buffer += data
        *lines, self.buffer = self.buffer.split(b"\n")
        for line in lines:
            request = json.loads(line)
            try:
                answer = {"ok": getattr(self, f"do_{request['do']}")(**request.get("with", {}))}
            except Exception as exc:  # noqa: BLE001 - told to the drill, which raises it
                answer = {"error": f"{type(exc).__name__}: {exc}"}
            self.tell({"id": request["id"], **answer})
        return bool(data)

    def tell(self, message: dict[str, Any]) -> None:
        with suppress(ConnectionError):
            self.control.sendall(json.dumps(message).encode() + b"\n")

    def reap(self) -> None:
        """Collect every child that ended, adopted ones too, and tell of those the drill knows."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self.living.pop(pid, None) is not None:
                self.tell({"exited": pid, "code": os.waitstatus_to_exitcode(status)})

    def do_start(
        self, argv: list[str], env: dict[str, str], cwd: str, log: str, user: int | None, group: int | None, end: int
    ) -> int:
        with Path(log).open("ab") as output:
            process = subprocess.Popen(
                argv,
                env=env,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=user,
                group=group,
                extra_groups=None if user is None else [],
                preexec_fn=die_with_keeper,
            )
        process.returncode = 0  # reaped here, by waitpid(-1): the object must not try to
        self.living[process.pid] = end
        return process.pid

    def do_signal(self, pid: int, number: int, tree: bool) -> None:
        """Signal a living process of ours, or its whole tree, without letting it grow meanwhile.

        Returns once what was killed is gone.
        """
        if pid not in self.living:
            return
        root = psutil.Process(pid)
        if not tree:
            send(root, number)
            return
        if number == signal.SIGCONT:
            for process in [*descendants(pid), root]:
                send(process, number)
            return
        send(root, signal.SIGSTOP)
        frozen: set[psutil.Process] = {root}
        while new := set(descendants(pid)) - frozen:
            for process in new:
                send(process, signal.SIGSTOP)
            frozen |= new
        if number != signal.SIGSTOP:
            for process in frozen:
                send(process, number)
        deadline = time.monotonic() + GRACE_S
        while number == signal.SIGKILL and any(map(runs, frozen)) and time.monotonic() < deadline:
            time.sleep(0.002)
            self.reap()
        self.reap()

    def do_remove(self, path: str) -> None:
        self.remove.append(Path(path))

    def end(self) -> None:
        """End everything: first those that asked for a signal of their own, then all that is left."""
        asked = {pid for pid, number in self.living.items() if number != signal.SIGKILL}
        for pid in asked:
            with suppress(ProcessLookupError):
                os.kill(pid, self.living[pid])
            # What was frozen could not answer, and a server waits for its own children.
            for process in [*descendants(pid), *([psutil.Process(pid)] if psutil.pid_exists(pid) else [])]:
                send(process, signal.SIGCONT)
        deadline = time.monotonic() + GRACE_S
        while asked & self.living.keys() and time.monotonic() < deadline:
            time.sleep(0.01)
            self.reap()
        deadline = time.monotonic() + END_S
        while (left := descendants(os.getpid())) and time.monotonic() < deadline:
            for process in left:
                send(process, signal.SIGKILL)
            time.sleep(0.01)
            self.reap()
        for path in self.remove:
            shutil.rmtree(path, ignore_errors=True)


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    if LIBC is not None:
        LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wakeup, trigger = socket.socketpair()
    trigger.setblocking(False)
    signal.set_wakeup_fd(trigger.fileno(), warn_on_full_buffer=False)
    # Handlers, not SIG_IGN: an ignored signal stays ignored in every child.
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    keeper = Keeper(control)
    keeper.tell({"ready": os.getpid()})
    try:
        keeper.run(wakeup)
    finally:
        keeper.end()


if __name__ == "__main__":
    main()
