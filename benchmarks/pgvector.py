"""pgvector: a snapshot and a restore of 50,000 x 768 with HNSW, beside `pg_dump -Fc` and `pg_restore`, and with `-Z0`.

A server of its own, with PostgreSQL's default shared buffers, holds the collection; the vectors lie around 200 centres,
so that they have neighbours as real ones do. All write to and read from local files and end with an fsync. Ours hashes
as a vault does, both ways, and checks hash, count and recall before it serves. pg_restore loads into a database of its
own, first everything but the HNSW index, which is when it would serve; then the index, once with the server's default
maintenance_work_mem of 64 MB, and once with as much as ours takes. Ours runs before and after the peers, and the mean
counts.

Growth is that of the bytes, without an index: MB/s at each size beside those at 100 MB.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import statistics
import struct
import subprocess
import tempfile
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, ParamSpec, TypeVar

import numpy as np

from benchmarks.figure import Figure
from relight.adapters import postgres
from relight.errors import ConfigError, IntegrityError
from relight.memory.journal import START
from relight.memory.pgvector import PgVectorStore, plan_build
from relight.memory.store import CollectionSpec, HnswIndex, IndexState, Taken
from relight.vault.manifest import CollectionPart, Piece
from relight_drill.postgres import USER, PostgresServer
from relight_drill.processes import ProcessGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from relight.memory.store import Place, Sink, Source

P = ParamSpec("P")
T = TypeVar("T")

POINTS = 50_000
DIMENSION = 768
INDEX = HnswIndex()
SPEC = CollectionSpec(name="bench", dimension=DIMENSION, embedding_model="synthetic", index=INDEX)
CENTRES = 200
BATCH = 5_000
SIZES_MB = (10, 100, 500, 2000)
ROW_BYTES = 3_130
SETTINGS = {"shared_buffers": "128MB", "max_wal_size": "4GB"}


def run() -> list[Figure]:
    """Seconds beside the peers', and MB/s as the collection grows."""
    folder = Path(tempfile.mkdtemp(prefix="relight-bench-"))
    folder.chmod(0o711)
    with ProcessGroup() as group:
        group.remove_at_end(folder)
        server = PostgresServer(group, folder / "server", name="bench", database="memory", settings=SETTINGS)
        asyncio.run(server.create())
        with closing(PgVectorStore(server.dsn())) as store:
            return [*_beside_peers(server, store, folder), *_growth(store, folder)]


def _beside_peers(server: PostgresServer, store: PgVectorStore, folder: Path) -> list[Figure]:
    _make(store, SPEC, POINTS, folder)
    store.build_index(SPEC.name)
    ours = [_ours(store, folder)]
    dump, contents = folder / "dump", folder / "contents"
    figures: list[tuple[str, str, float]] = []
    for options in (["-Fc"], ["-Fc", "-Z0"]):
        peer = f"pg_dump {' '.join(options)}"
        dump_s, _ = _timed(_call, server, "pg_dump", *options, "-n", "relight_memory", "-f", dump, "memory")
        figures.append(("snapshot_s", peer, dump_s))
        listed = _call(server, "pg_restore", "-l", dump).splitlines()
        index = [line for line in listed if " INDEX " in line]
        data = [line for line in listed if line not in index]

        def restore(lines: list[str], database: str, settings: str = "") -> float:
            contents.write_text("\n".join(lines) + "\n")
            arguments = ("pg_restore", "-L", contents, "-d", database, dump)
            return _timed(_call, server, *arguments, settings=settings)[0]

        with _database(server, "peer"):
            data_s = restore(data, "peer")
            figures.append(("serves_s", f"pg_restore of {peer}", data_s))
            if "-Z0" in options:
                figures.append(("indexed_s", "pg_restore, 64 MB for the build", data_s + restore(index, "peer")))
        if "-Z0" in options:
            with _database(server, "peer"):
                data_s = restore(data, "peer")
                memory, _ = plan_build(POINTS, DIMENSION, INDEX, 64 * 2**20, 0, True, 2, 8)
                sized_s = restore(index, "peer", f"-c maintenance_work_mem={memory // 1024}kB")
                figures.append(("indexed_s", f"pg_restore, {memory >> 20} MB for the build", data_s + sized_s))
    ours.append(_ours(store, folder))
    store.drop(SPEC.name)
    dump.unlink()
    return [
        Figure(
            name=f"pgvector_{field.removesuffix('_s')}",
            unit="s",
            ours=statistics.mean(getattr(each, field) for each in ours),
            peer=seconds,
            peer_name=peer,
            at_most=1.0,
        )
        for field, peer, seconds in figures
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """Seconds of a snapshot, of a restore until it serves exactly, and until it has its index."""

    snapshot_s: float
    serves_s: float
    indexed_s: float


def _ours(store: PgVectorStore, folder: Path) -> Ours:
    file = FileSink(folder / "ours")
    snapshot_s, taken = _timed(store.snapshot, SPEC.name, file)
    source = FileSource(file.path, taken.part(PgVectorStore.kind, file.pieces))
    copy = replace(SPEC, name="copy")
    serves_s, _ = _timed(store.restore, copy, source, point="p", floor=0.9, replace=False)
    index_s, state = _timed(store.build_index, copy.name)
    if state is not IndexState.READY:
        raise SystemExit(f"bench: the index is {state}")
    store.drop(copy.name)
    return Ours(snapshot_s=snapshot_s, serves_s=serves_s, indexed_s=serves_s + index_s)


def _growth(store: PgVectorStore, folder: Path) -> list[Figure]:
    rates: dict[int, tuple[float, float]] = {}
    for size in SIZES_MB:
        spec = replace(SPEC, name=f"of {size} MB", index=None)
        copy = replace(spec, name="copy")
        _make(store, spec, size * 1_000_000 // ROW_BYTES, folder)
        file = FileSink(folder / "ours")
        snapshot_s, taken = _timed(store.snapshot, spec.name, file)
        store.drop(spec.name)
        source = FileSource(file.path, taken.part(PgVectorStore.kind, file.pieces))
        restore_s, _ = _timed(store.restore, copy, source, point="p", floor=0.9, replace=False)
        store.drop(copy.name)
        file.path.unlink()
        rates[size] = (size / snapshot_s, size / restore_s)
    return [
        Figure(
            name=f"pgvector_{verb}_{size}mb", unit="MB/s", ours=rates[size][i], peer=rates[100][i], peer_name="100 MB"
        )
        for i, verb in enumerate(("snapshot", "restore"))
        for size in SIZES_MB
        if size != 100
    ]


def _timed(call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> tuple[float, T]:
    os.sync()  # what was written before is not this call's to wait for
    start = time.monotonic()
    result = call(*arguments, **named)
    return time.monotonic() - start, result


def _make(store: PgVectorStore, spec: CollectionSpec, count: int, folder: Path) -> None:
    """Fill a collection by a restore of synthetic rows."""
    file = FileSink(folder / "made")
    with file.piece() as stream:
        for data in _rows(count):
            stream.write(data)
    taken = Taken(
        spec=spec,
        server_version=store.version(),
        points=count,
        drift=0,
        position=START,
        canaries=(),
        configuration={},
    )
    source = FileSource(file.path, taken.part(PgVectorStore.kind, file.pieces))
    store.restore(spec, source, point="made", floor=0.0, replace=False)
    file.path.unlink()


def _rows(count: int) -> Iterator[bytes]:
    """As PostgreSQL's COPY in binary has them: a header, rows of id, vector and jsonb, a trailer."""
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((CENTRES, DIMENSION), dtype=np.float32)
    yield b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
    for start in range(0, count, BATCH):
        size = min(BATCH, count - start)
        near = centres[rng.integers(0, CENTRES, size)] + 0.6 * rng.standard_normal((size, DIMENSION), dtype=np.float32)
        vectors = near.astype(">f4")
        rows = []
        for n, vector in enumerate(vectors, start):
            payload = b'\x01{"n": %d, "source": "synthetic"}' % n
            values = (b"doc-%09d" % n, struct.pack(">hh", DIMENSION, 0) + vector.tobytes(), payload)
            rows.append(struct.pack(">h", 3) + b"".join(struct.pack(">i", len(value)) + value for value in values))
        yield b"".join(rows)
    yield struct.pack(">h", -1)


class FileSink:
    """A snapshot's one piece in a local file, hashed and on the disk at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pieces: tuple[Piece, ...] = ()

    @contextmanager
    def piece(self, node: str = "") -> Iterator[Sink]:
        """The file."""
        with self.path.open("wb", buffering=1 << 20) as file:
            hashing = _Hashing(file)
            yield hashing
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        self.pieces = (Piece(object=self.path.name, bytes=size, sha256=hashing.digest.hexdigest(), node=node),)

    def place(self, node: str = "") -> Place:
        """There is none."""
        raise ConfigError(f"no server writes the piece {node!r} of {self.path} by itself")

    def take_over(self, place: Place, node: str = "") -> None:
        """There is none."""
        raise ConfigError(f"no server wrote the piece {node!r} into {place}")


class FileSource:
    """The same file, its hash checked at its end."""

    def __init__(self, path: Path, part: CollectionPart) -> None:
        self.part = part
        self._path = path

    @contextmanager
    def open(self, piece: Piece) -> Iterator[Source]:
        """The file."""
        with self._path.open("rb") as file:
            yield _Checking(file, piece)

    def location(self, piece: Piece) -> str | None:  # noqa: ARG002 - there is no server
        """None."""
        return None

    def place(self, node: str = "") -> Place:
        """There is none."""
        raise ConfigError(f"no server reads the piece {node!r} of {self._path} by itself")


class _Hashing:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)


class _Checking:
    def __init__(self, file: BinaryIO, piece: Piece) -> None:
        self._file = file
        self._piece = piece
        self._digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._digest.update(data)
        if not data and self._digest.hexdigest() != self._piece.sha256:
            raise IntegrityError(f"{self._piece.object} is not what was written")
        return data


@contextmanager
def _database(server: PostgresServer, name: str) -> Iterator[None]:
    """An empty database with pgvector, gone afterwards."""

    def execute(statement: str, database: str) -> None:
        with closing(postgres.connect(server.dsn(database), autocommit=True)) as connection:
            connection.cursor().execute(statement)

    execute(f"create database {name}", "postgres")
    execute("create extension vector", name)
    yield
    execute(f"drop database {name}", "postgres")


def _call(server: PostgresServer, program: str, *arguments: str | Path, settings: str = "") -> str:
    """Run one of PostgreSQL's programs against the server; what it prints."""
    environment = {
        "PGHOST": "127.0.0.1",
        "PGPORT": str(server.port),
        "PGUSER": USER,
        "PGPASSWORD": server.password,
        "PGOPTIONS": settings,
        "PATH": os.defpath,
    }
    command = [str(server.program(program)), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"bench: {program} failed: {done.stderr}")
    return done.stdout
