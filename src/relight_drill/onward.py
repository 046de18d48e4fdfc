"""Sending a call on to the region that works: what an agent does in active-active with all that it may not do itself.

A call goes on once and no further. Two regions that each take the other for the one that works, as they may for a
moment while the lease changes hands, would send it in a circle; so what was sent on is marked, and a region that gets
it and does not work refuses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import ClientError, ClientSession, ClientTimeout, web

if TYPE_CHECKING:
    from relight.config import Settings

SENT_ON_BY = "X-Relight-Sent-On-By"
CONNECT_S = 1.5
# For the other region's own work, beyond what it may wait for its standby.
WORK_S = 2.0


class Onward:
    """Sends calls on from one region's agents. Close it on the loop that used it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session: ClientSession | None = None

    async def send(self, request: web.Request, *, to: str | None) -> web.Response:
        """Answer with what the region `to` answers to this request; 503, which says why, when it does not.

        Whether anything was done is not known then: the caller calls again, with the same id.
        """
        here = self._settings.region
        sender = request.headers.get(SENT_ON_BY)
        if sender is not None:
            return _refuse(f"{here} does not work, and {sender} sent this on to it")
        if to is None or to == here:
            return _refuse("no region is known to work: one is being recovered, or was lost")
        whole = ClientTimeout(total=self._settings.confirm_timeout_s + WORK_S, connect=CONNECT_S)
        headers = {SENT_ON_BY: here, "Content-Type": request.content_type}
        if self._session is None:
            self._session = ClientSession(trust_env=True)
        try:
            async with self._session.request(
                request.method,
                f"{self._settings.url_of(to)}{request.raw_path}",
                data=await request.read(),
                headers=headers,
                timeout=whole,
                allow_redirects=False,
            ) as answer:
                body = await answer.read()
                return web.Response(status=answer.status, body=body, content_type=answer.content_type)
        except (ClientError, OSError, TimeoutError):
            return _refuse(f"{to} works, and did not answer")

    async def close(self) -> None:
        """Close what is open."""
        if self._session is not None:
            await self._session.close()


def _refuse(why: str) -> web.Response:
    return web.json_response({"error": why}, status=503)
