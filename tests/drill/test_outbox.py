"""The outbox keeps everything it was sent and counts by content."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from relight.errors import UnavailableError
from relight.tasks.effects import Answer, NotSentError
from relight_drill import agent
from relight_drill.agent import OutboxTool
from relight_drill.outbox import Outbox
from relight_drill.processes import free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_a_message_sent_twice_counts_twice() -> None:
    """The same content under one key is two messages; another content under that key is another message."""

    async def scenario() -> None:
        outbox = Outbox()
        await outbox.start()
        base = f"http://127.0.0.1:{outbox.port}/messages"
        digest = hashlib.sha256('{"a":"ä","task":"t1"}'.encode()).hexdigest()
        try:
            async with aiohttp.ClientSession() as session:

                async def send(body: Any) -> int:
                    async with session.post(base, json=body, headers={"Idempotency-Key": "k"}) as answer:
                        return answer.status

                async def count(of: str) -> int:
                    async with session.get(base, params={"digest": of}) as answer:
                        return int((await answer.json())["count"])

                assert await count(digest) == 0
                assert [await send({"task": "t1", "a": "ä"}), await send({"a": "ä", "task": "t1"})] == [201, 201]
                assert await count(digest) == 2
                assert await send({"task": "t2"}) == 201
                async with session.post(base, data=b"{") as answer:
                    assert answer.status == 400
                async with session.get(base) as answer:
                    assert answer.status == 400
        finally:
            await outbox.close()
        assert outbox.duplicates() == {digest: 1}
        assert [item.task for item in outbox.sent()] == ["t1", "t1", "t2"]
        assert {message.key for message in outbox.messages} == {"k"}
        await wait_until(lambda: len(asyncio.all_tasks()) == 1, what="every task to end", timeout_s=20)

    asyncio.run(scenario())


def test_the_tool_sends_and_is_told_what_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was sent is found by its content, and what was not is not."""

    async def scenario() -> None:
        outbox, tool, message = Outbox(), OutboxTool(), {"task": "t", "text": "ä"}
        await outbox.start()
        monkeypatch.setattr(agent, "OUTBOX", f"http://127.0.0.1:{outbox.port}/messages")
        try:
            assert await asyncio.to_thread(tool.find, message, key="k") is Answer.NOT_SENT
            sent = await asyncio.to_thread(tool.send, message, key="k")
            found = await asyncio.to_thread(tool.find, message, key="k")
        finally:
            await outbox.close()
        assert not isinstance(found, Answer)
        assert (found["digest"], found["count"]) == (sent["digest"], 1)
        assert [(item.key, item.body) for item in outbox.messages] == [("k", message)]

    asyncio.run(scenario())


def test_a_refused_connection_is_certainly_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when nobody listens, and says that nothing was sent."""
    monkeypatch.setattr(agent, "OUTBOX", f"http://127.0.0.1:{free_port()}/messages")
    with pytest.raises(NotSentError, match="refused"):
        OutboxTool().send({"task": "t"}, key="k")


def test_an_answer_that_trickles_does_not_stretch_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when a server keeps every single read in time: the call as a whole ends before its time limit."""
    assert OutboxTool._within_s < OutboxTool.timeout_s
    with trickling() as (port, caller_left):
        monkeypatch.setattr(agent, "OUTBOX", f"http://127.0.0.1:{port}/messages")
        with pytest.raises(UnavailableError, match="TimeoutError"):
            OutboxTool().send({"task": "t"}, key="k")
        assert caller_left.wait(timeout=20)


@contextmanager
def trickling() -> Iterator[tuple[int, threading.Event]]:
    """A server that answers a byte at a time, for longer than anybody should wait."""
    caller_left = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(201)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "100")
            self.end_headers()
            try:
                for byte in f"{'{}':<100}".encode():
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    caller_left.wait(timeout=0.1)
            except OSError:
                caller_left.set()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        yield server.server_port, caller_left
    finally:
        server.shutdown()
        serving.join()
        server.server_close()
