"""The outbox keeps everything it was sent and counts by content."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import aiohttp

from relight_drill.outbox import Outbox
from relight_drill.processes import wait_until


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
