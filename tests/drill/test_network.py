"""Links, the load balancer and the way between regions, over real sockets."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web
from servers import serving

from relight_drill.network import Authority, Ingress, Internet, Link, Mode
from relight_drill.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


async def echo_line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()


@asynccontextmanager
async def linked() -> AsyncIterator[Link]:
    """A link to a server that echoes lines."""
    server = await asyncio.start_server(echo_line, "127.0.0.1", 0)
    link = Link(server.sockets[0].getsockname()[1])
    await link.start()
    try:
        yield link
    finally:
        await link.close()
        server.close()


async def ask(streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], timeout_s: float) -> bytes | None:
    """Send a line; the answer, or None when there is none in time."""
    reader, writer = streams
    writer.write(b"hello\n")
    try:
        return await asyncio.wait_for(reader.readline(), timeout_s)
    except TimeoutError:
        return None


def test_an_open_link_carries_bytes() -> None:
    """What goes in comes out, and an end is passed on."""

    async def scenario() -> None:
        async with linked() as link:
            streams = await asyncio.open_connection("127.0.0.1", link.port)
            assert await ask(streams, 20) == b"hello\n"
            streams[1].write_eof()
            assert await asyncio.wait_for(streams[0].read(), 20) == b""
            streams[1].close()

    asyncio.run(scenario())


def test_a_silent_link_swallows_and_keeps_connections_open() -> None:
    """Old and new connections stay open and get no answer; when the silence ends they are reset."""

    async def scenario() -> None:
        async with linked() as link:
            old = await asyncio.open_connection("127.0.0.1", link.port)
            assert await ask(old, 20) == b"hello\n"
            await link.set_mode(Mode.SILENT)
            new = await asyncio.open_connection("127.0.0.1", link.port)
            assert not any(await asyncio.gather(ask(old, 0.2), ask(new, 0.2)))
            await link.set_mode(Mode.OPEN)
            for reader, _ in (old, new):
                with pytest.raises(ConnectionResetError):
                    await asyncio.wait_for(reader.read(), 20)
            fresh = await asyncio.open_connection("127.0.0.1", link.port)
            assert await ask(fresh, 20) == b"hello\n"
            for _, writer in (old, new, fresh):
                writer.close()

    asyncio.run(scenario())


def test_a_dead_link_resets_and_refuses() -> None:
    """Old connections are reset, new ones refused, until it is opened again on the same port."""

    async def scenario() -> None:
        async with linked() as link:
            reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
            assert await ask((reader, writer), 20) == b"hello\n"
            await link.set_mode(Mode.DEAD)
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.read(), 20)
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", link.port)
            await link.set_mode(Mode.OPEN)
            fresh = await asyncio.open_connection("127.0.0.1", link.port)
            assert await ask(fresh, 20) == b"hello\n"
            fresh[1].close()
            writer.close()

    asyncio.run(scenario())


def test_closing_leaves_no_task_behind() -> None:
    """A closed link has ended every connection, also those in a silence."""

    async def scenario() -> None:
        before = asyncio.all_tasks()
        async with linked() as link:
            streams = await asyncio.open_connection("127.0.0.1", link.port)
            await ask(streams, 20)
            await link.set_mode(Mode.SILENT)
            other = await asyncio.open_connection("127.0.0.1", link.port)
            await ask(other, 0.05)
            streams[1].close()
            other[1].close()
        await wait_until(lambda: asyncio.all_tasks() <= before, what="every task to end", timeout_s=20)

    asyncio.run(scenario())


class Target:
    """An agent as the load balancer sees it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.healthy = True

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/health":
            return web.Response(status=200 if self.healthy else 500)
        body = await request.read()
        seen = request.headers.get("X-Forwarded-Proto")
        return web.Response(text=f"{self.name} {request.path_qs} {len(body)} {seen}")


def test_the_load_balancer_sends_to_healthy_targets_only(tmp_path: Path) -> None:
    """Requests go round the healthy targets over TLS; without one it answers 503; silence covers it too."""

    async def scenario() -> None:
        authority = Authority(tmp_path)
        first, second = Target("first"), Target("second")
        ingress = Ingress(authority, ["agent.relight.example", "127.0.0.1"])
        ingress.PROBE_S = 0.05
        await ingress.start()
        connector = aiohttp.TCPConnector(ssl=authority.client(), force_close=True)
        base = f"https://127.0.0.1:{ingress.port}"
        try:
            async with (
                serving(first.handle) as one,
                serving(second.handle) as two,
                aiohttp.ClientSession(connector=connector) as session,
            ):

                async def get(path: str) -> tuple[int, str]:
                    async with session.put(base + path, data=b"x" * 10) as response:
                        return response.status, await response.text()

                assert (await get("/a"))[0] == 503
                ingress.register(one)
                ingress.register(two)
                await wait_until(lambda: len(ingress.healthy) == 2, what="both targets", timeout_s=20)
                answers = {await get("/a%20b?c=d") for _ in range(4)}
                assert answers == {(200, "first /a%20b?c=d 10 https"), (200, "second /a%20b?c=d 10 https")}
                first.healthy = False
                await wait_until(lambda: ingress.healthy == (two,), what="the bad target to go", timeout_s=20)
                assert (await get("/a"))[1].startswith("second")
                ingress.deregister(two)
                assert (await get("/a"))[0] == 503
                await ingress.set_mode(Mode.SILENT)
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(get("/a"), 0.3)
                await ingress.set_mode(Mode.DEAD)
                with pytest.raises(aiohttp.ClientConnectorError):
                    await get("/a")
        finally:
            await ingress.close()

    asyncio.run(scenario())


def test_the_internet_reaches_public_names_only(tmp_path: Path) -> None:
    """HTTPS goes through CONNECT with the name's own certificate, plain HTTP by absolute URL; unknown names get 502."""

    async def scenario() -> None:
        authority = Authority(tmp_path)
        internet = Internet()
        side = await internet.add_side(
            "us-east-1", canonical={"agent.example": "lb.example", "o.example": "o.example"}.get
        )

        async def handler(request: web.Request) -> web.StreamResponse:
            return web.Response(text=f"{request.host} {request.path_qs} {await request.text()}")

        context = authority.server("agent.example")
        try:
            async with (
                serving(handler, context) as secure,
                serving(handler) as plain,
                aiohttp.ClientSession() as session,
            ):
                internet.publish("lb.example", 443, at=secure)
                internet.publish("o.example", 80, at=plain)
                ca = authority.client()
                async with session.get("https://agent.example/r?x=1", proxy=side.url, ssl=ca) as response:
                    assert await response.text() == "agent.example /r?x=1 "
                async with session.post("http://o.example/m?y=2", data="body", proxy=side.url) as response:
                    assert await response.text() == "o.example /m?y=2 body"
                async with session.get("http://nowhere.example/", proxy=side.url) as response:
                    assert response.status == 502
                with pytest.raises(aiohttp.ClientHttpProxyError):
                    await session.get("https://lb.example:8443/", proxy=side.url, ssl=ca)
        finally:
            await internet.close()

    asyncio.run(scenario())


def test_a_lost_side_reaches_nobody(tmp_path: Path) -> None:
    """A silent side's calls hang, open tunnels included; a dead side's are refused; the other side goes on."""

    async def scenario() -> None:
        internet = Internet()
        lost, alive = await internet.add_side("lost"), await internet.add_side("alive")

        async def handler(_: web.Request) -> web.StreamResponse:
            return web.Response(text="ok")

        try:
            async with serving(handler) as port, aiohttp.ClientSession() as session:
                internet.publish("o.example", 80, at=port)
                tunnel = await asyncio.open_connection("127.0.0.1", lost.port)
                tunnel[1].write(b"CONNECT o.example:80 HTTP/1.1\r\n\r\n")
                assert b"200" in await asyncio.wait_for(tunnel[0].readuntil(b"\r\n\r\n"), 20)
                await internet.set_mode("lost", Mode.SILENT)
                tunnel[1].write(b"GET / HTTP/1.1\r\nHost: o.example\r\n\r\n")
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(tunnel[0].read(1), 0.2)
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(session.get("http://o.example/", proxy=lost.url), 0.2)
                async with session.get("http://o.example/", proxy=alive.url) as response:
                    assert await response.text() == "ok"
                await internet.set_mode("lost", Mode.DEAD)
                with pytest.raises(ConnectionResetError):
                    await asyncio.wait_for(tunnel[0].read(1), 20)
                with pytest.raises(aiohttp.ClientProxyConnectionError):
                    await session.get("http://o.example/", proxy=lost.url)
                tunnel[1].close()
        finally:
            await internet.close()

    asyncio.run(scenario())


def test_a_link_says_what_it_handed_over() -> None:
    """fails when an answer that a silence swallowed, or a question that nobody heard, is not told from the others; or
    who left, from who was cut off."""

    async def scenario() -> None:
        question = b"a question that is longer than what says goodbye, for so are all that are in earnest about it\n"
        async with linked() as link:
            reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
            writer.write(question)
            assert await asyncio.wait_for(reader.readline(), 20) == question
            passage = link.passages[0]
            assert passage.caller_port == writer.get_extra_info("sockname")[1]
            [answered] = passage.exchanges
            assert answered.answered_at is not None
            await link.set_mode(Mode.SILENT)
            writer.write(question)
            await wait_until(lambda: len(passage.exchanges) == 2, what="the question", timeout_s=20)
            writer.close()
            await wait_until(lambda: passage.left_at is not None, what="the caller's end", timeout_s=20)
            assert passage.exchanges[1].answered_at is None
            await link.set_mode(Mode.OPEN)
            other, _ = await asyncio.open_connection("127.0.0.1", link.port)
            await wait_until(lambda: link.passages[-1].our_port > 0, what="a second connection", timeout_s=20)
            await link.set_mode(Mode.DEAD)
            with pytest.raises(ConnectionResetError):
                await other.read()
            assert len(link.passages) == 2
            assert link.passages[1].left_at is None

    asyncio.run(scenario())
