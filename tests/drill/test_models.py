"""A played provider behind a wire that is cut: what its wire and a side's way out saw of it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import aiohttp
import pytest

from relight_drill.llm import PlayedOpenAI, Reply
from relight_drill.models import Model
from relight_drill.network import Internet, Link, Mode
from relight_drill.outage import opened
from relight_drill.processes import wait_until

if TYPE_CHECKING:
    from relight_drill.llm import Asked
    from relight_drill.network import Side

MESSAGES = [{"role": "user", "content": "Hello."}]


class Caller:
    """Asks over a side's way out, with connections that are kept, and gives up when it is told to."""

    def __init__(self, side: Side, session: aiohttp.ClientSession) -> None:
        self._side = side
        self._session = session

    def ask(self, tag: str) -> asyncio.Task[str]:
        """What came of it: the answer, or the error's class."""
        return asyncio.create_task(self._ask(tag))

    async def _ask(self, tag: str) -> str:
        body = {"model": "m", "messages": MESSAGES, "stream": True, "user": tag}
        try:
            async with self._session.post(
                "http://provider.example/v1/chat/completions", json=body, proxy=self._side.url
            ) as answer:
                return await answer.text()
        except aiohttp.ClientError as exc:
            return type(exc).__name__


def thinks(asked: Asked) -> Reply:
    """One that is asked for patience thinks for longer than any test lasts."""
    return Reply(text="Hello.", first_s=600.0 if asked.tag.startswith("long") else 0.0)


@pytest.mark.parametrize("mode", [Mode.DEAD, Mode.SILENT])
def test_what_is_sent_in_vain_is_seen_whatever_the_fault(mode: Mode) -> None:
    """fails when a call that was under way, or one that was sent there later, is not seen, or when it failed; or when
    what was answered before and after counts among them."""

    async def scenario() -> None:
        internet = Internet()
        async with PlayedOpenAI(key=None, compatible=True, answer=thinks) as server:
            model = Model(name="a", server=server, wire=Link(server.port))
            await model.wire.start()
            internet.publish("provider.example", 80, at=model.wire.port)
            side, other = await internet.add_side("here"), await internet.add_side("elsewhere")
            async with aiohttp.ClientSession() as session:
                caller = Caller(side, session)
                assert "Hello." in await caller.ask("before")
                under_way = [caller.ask("long-1"), caller.ask("long-2")]
                await wait_until(lambda: model.in_flight == 2, what="two to be asked", timeout_s=20)
                fault_at = time.monotonic()
                await model.set_mode(mode)
                if mode is Mode.DEAD:
                    assert "" not in await asyncio.gather(*under_way)
                later = [caller.ask("later"), Caller(other, session).ask("elsewhere")]
                await wait_until(lambda: len(other.passages) == 1, what="the other side's call", timeout_s=20)
                await wait_until(lambda: len(side.passages) == 4, what="the later call", timeout_s=20)
                if mode is Mode.SILENT:
                    resets, seen = False, model.in_vain(side, fault_at=fault_at, back_at=time.monotonic(), resets=False)
                    assert opened(seen, failures=1) is None
                    for asking in (*under_way, *later):
                        asking.cancel()
                    await asyncio.wait([*under_way, *later])
                    await wait_until(
                        lambda: sum(item.left_at is not None for item in side.passages[1:]) == 3,
                        what="who gave up to be seen",
                        timeout_s=20,
                    )
                else:
                    resets = True
                    await asyncio.wait(later)
                back_at = time.monotonic()
                await model.set_mode(Mode.OPEN)
                assert "Hello." in await caller.ask("after")
                found = model.in_vain(side, fault_at=fault_at, back_at=back_at, resets=resets)
                assert [item.at >= fault_at for item in found] == [False, False, True]
                assert all(item.ended_at is not None and item.ended_at >= fault_at for item in found)
                assert opened(found, failures=3) is not None
                assert opened(found, failures=4) is None
                account = model.account()
                tags = {item.number: item.tag for item in account.asked}
                assert sorted(tags[number] for number in account.delivered) == ["after", "before"]
            await internet.close()
            await model.wire.close()

    asyncio.run(scenario())
