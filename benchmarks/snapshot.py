"""A snapshot's way from a store to a vault: how fast, and in how much memory.

The store is played by an HTTP server in a process of its own that streams bytes as fast as they are taken, as a
snapshot's download from Qdrant does, so that no database bounds the figure. The vault is a SeaweedFS on the same
machine. The peers, by turns with ours: the plain way (download to a file, hash it, `upload_file`), and the raw limit,
which has the same bytes in memory already and puts the same parts with the same client and as many threads, unhashed.

Every transfer is a process of its own, run several times; the quickest counts, and the most memory of any.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import urllib3

from benchmarks import child
from benchmarks.figure import Figure
from benchmarks.seaweed import BUCKET, REGION, seaweed
from relight.adapters import aws
from relight.memory.transfer import PointSink
from relight.vault import store
from relight.vault.store import Vault
from relight_drill.processes import ProcessGroup, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

MODULE = "benchmarks.snapshot"
MIB = 1024 * 1024
SIZES = {"10mb": 10 * MIB, "100mb": 100 * MIB, "1gib": 1024 * MIB, "2gib": 2048 * MIB}
ROUNDS = 3
# What a snapshot may take beside the process itself, whatever its size.
MEMORY_MIB = 128.0


def run() -> list[Figure]:
    """Throughput and memory at 1 GiB, and how both grow."""
    ours: dict[str, child.Cost] = {}
    raw: dict[str, child.Cost] = {}
    plain: dict[str, child.Cost] = {}
    with seaweed() as server, ProcessGroup() as group, tempfile.TemporaryDirectory() as scratch:
        port = free_port()
        source = [sys.executable, "-m", MODULE, "source", str(port)]
        group.start("source", source, log_path=Path(scratch) / "source.log", cwd=child.ROOT)

        def cost(mode: str, size: str) -> child.Cost:
            arguments = (mode, f"http://127.0.0.1:{port}/{SIZES[size]}", str(SIZES[size]), scratch)
            done = child.run(MODULE, *arguments, environment=server.environment())
            server.empty()
            return done

        cost("ours", "10mb")
        for size in SIZES:
            modes = ("ours", "raw", "plain") if size == "1gib" else ("ours", "raw")
            rounds = [{mode: cost(mode, size) for mode in modes} for _ in range(ROUNDS)]
            best = {mode: child.quickest([costs[mode] for costs in rounds]) for mode in modes}
            ours[size], raw[size] = best["ours"], best["raw"]
            plain |= {size: best["plain"]} if "plain" in best else {}
    return [
        *(_speed(f"snapshot_{size}", size, ours[size], raw[size], "raw limit", at_least=0.8) for size in SIZES),
        _speed("snapshot_1gib", "1gib", ours["1gib"], plain["1gib"], "to a file, then upload_file"),
        Figure(
            name="snapshot_growth",
            unit="s/GB",
            ours=_slope(ours),
            peer=_slope(raw),
            peer_name="raw limit, 100 MiB to 2 GiB",
        ),
        Figure(
            name="snapshot_memory_1gib",
            unit="MiB",
            ours=ours["1gib"].extra_mib,
            peer=plain["1gib"].extra_mib,
            peer_name="to a file, then upload_file",
        ),
        Figure(
            name="snapshot_memory_bound",
            unit="MiB",
            ours=max(ours["1gib"].extra_mib, ours["2gib"].extra_mib),
            peer=MEMORY_MIB,
            peer_name="the bound that we set ourselves",
            at_most=1.0,
        ),
        Figure(
            name="snapshot_memory_2gib",
            unit="MiB",
            ours=ours["2gib"].extra_mib,
            peer=ours["100mb"].extra_mib,
            peer_name="ours of 100 MiB",
            at_most=1.25,
        ),
    ]


def _speed(
    name: str, size: str, ours: child.Cost, peer: child.Cost, peer_name: str, *, at_least: float | None = None
) -> Figure:
    megabytes = SIZES[size] / 1e6
    return Figure(
        name=name,
        unit="MB/s",
        ours=megabytes / ours.wall_s,
        peer=megabytes / peer.wall_s,
        peer_name=peer_name,
        at_least=at_least,
    )


def _slope(costs: dict[str, child.Cost]) -> float:
    return (costs["2gib"].wall_s - costs["100mb"].wall_s) / (SIZES["2gib"] - SIZES["100mb"]) * 1e9


class _Endless(BaseHTTPRequestHandler):
    """Answers `/N` with N bytes that do not compress."""

    protocol_version = "HTTP/1.1"
    block = random.Random(1).randbytes(MIB)

    def do_GET(self) -> None:
        """Stream them."""
        left = int(self.path[1:])
        self.send_response(200)
        self.send_header("Content-Length", str(left))
        self.end_headers()
        while left > 0:
            self.wfile.write(self.block[: min(left, MIB)])
            left -= MIB

    def log_message(self, format: str, *_: Any) -> None:  # noqa: A002 - http.server's name
        """Nothing."""


def _download(url: str) -> Iterator[bytes]:
    retries = urllib3.Retry(connect=20, backoff_factor=0.1)
    response = urllib3.PoolManager().request("GET", url, preload_content=False, retries=retries)
    return response.stream(MIB)


def _ours(client: Any, url: str) -> None:
    sink = PointSink(Vault(client, BUCKET, region=REGION), "20260419T020000Z", "memory", "snapshot")
    with sink.piece() as piece:
        for data in _download(url):
            piece.write(data)


def _raw(client: Any, size: int) -> None:
    target = {"Bucket": BUCKET, "Key": "raw"}
    blocks = _Endless.block * (store.part_bytes(10_000) // MIB)
    sizes: list[int] = []
    while size > sum(sizes):
        sizes.append(min(store.part_bytes(len(sizes) + 1), size - sum(sizes)))
    upload = client.create_multipart_upload(**target, ChecksumAlgorithm="CRC32")["UploadId"]

    def put(number: int) -> dict[str, Any]:
        body = memoryview(blocks)[: sizes[number - 1]]
        checksum = store._crc32(body)
        part = {**target, "UploadId": upload, "PartNumber": number, "ChecksumCRC32": checksum}
        answer = client.upload_part(**part, Body=store._Body(body))
        return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumCRC32": checksum}

    with ThreadPoolExecutor(store.THREADS) as pool:
        parts = list(pool.map(put, range(1, len(sizes) + 1)))
    client.complete_multipart_upload(**target, UploadId=upload, MultipartUpload={"Parts": parts})


def _plain(client: Any, url: str, scratch: Path) -> None:
    path = scratch / "download"
    with path.open("wb") as file:
        for data in _download(url):
            file.write(data)
    with path.open("rb") as file:
        hashlib.file_digest(file, "sha256")
    client.upload_file(str(path), BUCKET, "plain")
    path.unlink()


def _child(mode: str, *arguments: str) -> None:
    if mode == "source":
        with contextlib.suppress(KeyboardInterrupt):
            ThreadingHTTPServer(("127.0.0.1", int(arguments[0])), _Endless).serve_forever()
        return
    url, size, scratch = arguments
    client = aws.client("s3", REGION)
    if mode == "ours":
        child.report(lambda: _ours(client, url))
    elif mode == "raw":
        child.report(lambda: _raw(client, int(size)))
    else:
        child.report(lambda: _plain(client, url, Path(scratch)))


if __name__ == "__main__":
    _child(*sys.argv[1:])
