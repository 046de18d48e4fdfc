"""A snapshot's way from a vault to a store, verified, beside a parallel download that verifies nothing.

The store's end takes the bytes and drops them, for all three, so that no database bounds the figure. The peers: boto3's
`download_fileobj` with its ten threads, which is what `aws s3 cp` does, and the plain way to know that the bytes are
those of the manifest: that download to a file, then hashing it. The vault is a SeaweedFS on the same machine.

Every transfer is a process of its own, run several times by turns; the quickest counts.
"""

from __future__ import annotations

import hashlib
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import child
from benchmarks.figure import Figure
from benchmarks.seaweed import BUCKET, REGION, seaweed
from benchmarks.snapshot import MIB, SIZES
from relight.adapters import aws
from relight.memory.transfer import PointSink, PointSource
from relight.vault.manifest import CollectionPart, Embedding, Piece
from relight.vault.store import Vault

MODULE = "benchmarks.hydrate"
ROUNDS = 3
PEERS = {"download": "download_fileobj", "plain": "download_fileobj to a file, then a hash"}


def run() -> list[Figure]:
    """GB/s at 1 GiB beside both, and at every size beside the download."""
    figures = []
    slopes: dict[str, dict[str, float]] = {"ours": {}, "download": {}}
    with seaweed() as server, tempfile.TemporaryDirectory() as scratch:
        for size, count in SIZES.items():
            sink = PointSink(Vault(server.client(), BUCKET, region=REGION), "20260419T020000Z", "memory", "snapshot")
            block = random.Random(1).randbytes(MIB)
            with sink.piece() as written:
                for _ in range(count // MIB):
                    written.write(block)
            [piece] = sink.pieces

            def cost(mode: str, piece: Piece = piece) -> child.Cost:
                arguments = (mode, piece.object, str(piece.bytes), piece.sha256, scratch)
                return child.run(MODULE, *arguments, environment=server.environment())

            modes = ("ours", "download", "plain") if size == "1gib" else ("ours", "download")
            rounds = [{mode: cost(mode) for mode in modes} for _ in range(ROUNDS)]
            best = {mode: child.quickest([costs[mode] for costs in rounds]) for mode in modes}
            for mode in slopes:
                slopes[mode][size] = best[mode].wall_s
            figures += [_speed(size, count, best["ours"], best[mode], PEERS[mode]) for mode in modes[1:]]
            if size == "1gib":
                figures.append(
                    Figure(
                        name="hydrate_memory_1gib",
                        unit="MiB",
                        ours=best["ours"].extra_mib,
                        peer=best["download"].extra_mib,
                        peer_name=PEERS["download"],
                    )
                )
            server.empty()
    growth = {
        mode: (seconds["2gib"] - seconds["100mb"]) / (SIZES["2gib"] - SIZES["100mb"]) * 1e9
        for mode, seconds in slopes.items()
    }
    return [
        *figures,
        Figure(
            name="hydrate_growth",
            unit="s/GB",
            ours=growth["ours"],
            peer=growth["download"],
            peer_name="download, 100 MiB to 2 GiB",
        ),
    ]


def _speed(size: str, count: int, ours: child.Cost, peer: child.Cost, peer_name: str) -> Figure:
    gigabytes = count / 1e9
    return Figure(
        name=f"hydrate_{size}",
        unit="GB/s",
        ours=gigabytes / ours.wall_s,
        peer=gigabytes / peer.wall_s,
        peer_name=peer_name,
    )


class _Nowhere:
    """A file that takes bytes and drops them."""

    def write(self, data: bytes) -> int:
        return len(data)


def _ours(client: Any, piece: Piece) -> None:
    source = PointSource(Vault(client, BUCKET, region=REGION), _part(piece))
    with source.open(piece) as body:
        while body.read(MIB):
            pass


def _plain(client: Any, piece: Piece, scratch: Path) -> None:
    path = scratch / "download"
    with path.open("wb") as file:
        client.download_fileobj(BUCKET, piece.object, file)
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != piece.sha256:
            raise SystemExit("bench: the download is not what was uploaded")
    path.unlink()


def _part(piece: Piece) -> CollectionPart:
    return CollectionPart(
        name="memory",
        store="none",
        server_version="",
        pieces=(piece,),
        points=0,
        drift=0,
        embedding=Embedding(model="", dimension=1, distance="cosine", prefix=""),
        configuration={},
        position="0:0",
        canaries=(),
    )


def _child(mode: str, key: str, count: str, sha256: str, scratch: str) -> None:
    client = aws.client("s3", REGION)
    piece = Piece(object=key, bytes=int(count), sha256=sha256, node="")
    if mode == "ours":
        child.report(lambda: _ours(client, piece))
    elif mode == "download":
        child.report(lambda: client.download_fileobj(BUCKET, key, _Nowhere()))
    else:
        child.report(lambda: _plain(client, piece, Path(scratch)))


if __name__ == "__main__":
    _child(*sys.argv[1:])
