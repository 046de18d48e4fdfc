"""What an agent sends on, over the drill's wires: HTTPS, by the other region's name, through the region's way out."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING

from aiohttp import web
from servers import serving

from relight_drill.network import Authority, Internet, Mode
from relight_drill.onward import SENT_ON_BY

if TYPE_CHECKING:
    from pathlib import Path

NAME = "primary.agent.demo.relight.example"
# A process of its own, because what a client trusts is read when it starts.
PROGRAM = """
import asyncio, json, sys
from aiohttp import ClientSession, web
from relight_drill.onward import Onward
from relight_drill.processes import free_port
from relight_stacks.loading import load_named
from relight_stacks.settings import settings_for
from relight.config import Role

async def main():
    settings = settings_for(load_named("demo"), Role.STANDBY)
    onward = Onward(settings)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", lambda request: onward.send(request, to=settings.peer_region))
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    async with ClientSession() as session:
        for _ in sys.stdin:
            async with session.post(f"http://127.0.0.1:{port}/tasks?a=b", json={"id": "t"}) as answer:
                print(json.dumps([answer.status, await answer.json()]), flush=True)
    await onward.close()
    await runner.cleanup()

asyncio.run(main())
"""


def test_a_call_goes_on_to_the_other_regions_own_name(tmp_path: Path) -> None:
    """By its public name, whose certificate is looked at; when the way is cut off the caller is told in time."""
    seen: list[tuple[str, str | None, bytes]] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        seen.append((request.raw_path, request.headers.get(SENT_ON_BY), await request.read()))
        return web.json_response({"id": "t"}, status=202)

    async def scenario() -> list[list[object]]:
        authority, internet = Authority(tmp_path), Internet()
        side = await internet.add_side("us-west-2")
        env = {"PATH": os.defpath, "HTTPS_PROXY": side.url, "SSL_CERT_FILE": str(authority.bundle)}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-c", PROGRAM),
            env=env,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        found = []

        async def call() -> None:
            process.stdin.write(b"\n")  # type: ignore[union-attr]
            found.append(json.loads(await asyncio.wait_for(process.stdout.readline(), 60)))  # type: ignore[union-attr]

        try:
            async with (
                serving(handle, authority.server(NAME)) as right,
                serving(handle, authority.server("someone.else")) as wrong,
            ):
                internet.publish(NAME, 443, at=right)
                await call()
                await side.set_mode(Mode.DEAD)
                await call()
                await side.set_mode(Mode.OPEN)
                internet.publish(NAME, 443, at=wrong)
                await call()
        finally:
            process.stdin.close()
            await asyncio.wait_for(process.wait(), 60)
            await internet.close()
        return found

    lost = [503, {"error": "us-east-1 works, and did not answer"}]
    assert asyncio.run(scenario()) == [[202, {"id": "t"}], lost, lost]
    assert seen == [("/tasks?a=b", "us-west-2", b'{"id": "t"}')]
