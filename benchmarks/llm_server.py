"""A server that answers LLM requests as fast as it can, with bytes made beforehand, so that what is measured is the
clients: `python -m benchmarks.llm_server` prints its ports as JSON and serves until it is ended.

Not checked, not parsed: a request's path decides the format, and its port what becomes of it.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from typing import Any

PIECES = 20
PIECE = "word "
ANSWER = PIECE * PIECES


def _event(type_: str, **data: Any) -> bytes:
    return f"event: {type_}\ndata: {json.dumps({'type': type_, **data})}\n\n".encode()


def _anthropic() -> list[bytes]:
    message: dict[str, Any] = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-haiku-4-5", "content": [],
        "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 9, "output_tokens": 1},
    }  # fmt: skip
    stop = {"stop_reason": "end_turn", "stop_sequence": None}
    delta = {"type": "text_delta", "text": PIECE}
    return [
        _event("message_start", message=message),
        _event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        *[_event("content_block_delta", index=0, delta=delta)] * PIECES,
        _event("content_block_stop", index=0),
        _event("message_delta", delta=stop, usage={"output_tokens": PIECES}),
        _event("message_stop"),
    ]


def _openai() -> list[bytes]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1767225600, "model": "gpt-5-mini"}

    def chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
        value = {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
        return f"data: {json.dumps(value)}\n\n".encode()

    usage = {"prompt_tokens": 9, "completion_tokens": PIECES, "total_tokens": 9 + PIECES}
    return [
        chunk({"role": "assistant", "content": ""}),
        *[chunk({"content": PIECE})] * PIECES,
        chunk({}, "stop"),
        f"data: {json.dumps({**head, 'choices': [], 'usage': usage})}\n\n".encode(),
        b"data: [DONE]\n\n",
    ]


def _chunked(events: list[bytes]) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in events) + b"0\r\n\r\n"


_REFUSED = b'{"type": "error", "error": {"type": "api_error", "message": "Internal server error"}}'
_ANSWERS = {b"messages": _chunked(_anthropic()), b"completions": _chunked(_openai())}
_FAILS = b"HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
    len(_REFUSED),
    _REFUSED,
)


class Plays(asyncio.Protocol):
    """One connection; what it does with a request is `kind`: answers, fails, is silent, or drips."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._held += data
        head, end, rest = self._held.partition(b"\r\n\r\n")
        if not end:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        if len(rest) < length:
            return
        self._held = b""
        path = head.partition(b"\r\n")[0]
        answer = _ANSWERS[b"messages" if b"/messages" in path else b"completions"]
        if self._kind == "answers":
            self._transport.write(answer)
        elif self._kind == "fails":
            self._transport.write(_FAILS)
        elif self._kind == "drips":
            self._transport.write(answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
            self._drip()

    def _drip(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(b"1\r\n.\r\n")
            asyncio.get_running_loop().call_later(0.5, self._drip)


async def main() -> None:
    """Serve, each kind on a port of its own; the port `closed` is nobody's."""
    loop = asyncio.get_running_loop()
    ports = {}
    for kind in ("answers", "fails", "silent", "drips"):
        server = await loop.create_server(lambda kind=kind: Plays(kind), "127.0.0.1", 0)  # type: ignore[misc]
        ports[kind] = server.sockets[0].getsockname()[1]
    held = socket.socket()
    held.bind(("127.0.0.1", 0))
    print(json.dumps({**ports, "closed": held.getsockname()[1]}), flush=True)
    # It ends with whoever started it: its input is closed then.
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
