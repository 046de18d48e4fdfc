"""A state database with its standby, a vector store and a bucket for the tests of memory; names are unique per test."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import closing
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from journal_helpers import Past
from memory_helpers import DIMENSION, StateDsns, Ticking, make_state

from relight.adapters import aws, postgres
from relight.memory.api import Memory
from relight.memory.pgvector import PgVectorStore
from relight.memory.store import CollectionSpec
from relight.tasks.database import Database
from relight.vault.store import Vault
from relight_drill.emulator import SECRET_KEY, Emulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from servers import StatePair

    from relight.adapters.postgres import Connection
    from relight_drill.postgres import PostgresServer
    from relight_drill.processes import ProcessGroup


@pytest.fixture(scope="session")
def state_dsns(state_pair: StatePair) -> StateDsns:
    """Shared by the session's tests of memory."""
    return make_state(state_pair, "memory_tests")


@pytest.fixture
def state(state_dsns: StateDsns) -> Iterator[Connection]:
    """A connection to the primary."""
    connection = postgres.connect(state_dsns.primary)
    yield connection
    connection.close()


@pytest.fixture
def standby(state_dsns: StateDsns) -> Iterator[Connection]:
    """A connection to the hot standby."""
    connection = postgres.connect(state_dsns.standby)
    yield connection
    connection.close()


@pytest.fixture
def store(vector_server: PostgresServer) -> Iterator[PgVectorStore]:
    """A vector store, shared by the session's tests."""
    store = PgVectorStore(vector_server.dsn())
    yield store
    store.close()


@pytest.fixture
def spec() -> CollectionSpec:
    """A collection that no other test uses."""
    return CollectionSpec(name=f"c{secrets.token_hex(4)}", dimension=DIMENSION, embedding_model="test-16")


@pytest.fixture
def memory(store: PgVectorStore, spec: CollectionSpec) -> Memory:
    """The agent's side of that collection."""
    return Memory(store=store, spec=spec)


@pytest.fixture(scope="session")
def emulator(server_group: ProcessGroup, server_dir: Path) -> Emulator:
    """An S3 that does what S3 does: conditional puts, multipart uploads, versions."""
    emulator = Emulator(server_group, server_dir / "emulator")
    asyncio.run(emulator.start())
    return emulator


@pytest.fixture
def s3(emulator: Emulator) -> Any:
    """A client with every right."""
    return emulator.client("s3", "us-east-1")


@pytest.fixture
def bucket(s3: Any) -> str:
    """An empty bucket."""
    name = f"vault-{secrets.token_hex(6)}"
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture
def vault(s3: Any, bucket: str) -> Vault:
    """A vault on that bucket."""
    return Vault(s3, bucket, region="us-east-1")


@pytest.fixture
def own_client(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Makes a client that no other test has, for tests that break it; made as the functions make theirs."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", emulator.url)
    session = boto3.Session(aws_access_key_id=emulator.account, aws_secret_access_key=SECRET_KEY)
    return lambda region: aws.client("s3", region, session=session)


@pytest.fixture
def database(state_dsns: StateDsns) -> Iterator[Database]:
    """The primary's, for writing."""
    with closing(Database(state_dsns.primary)) as database:
        yield database


@pytest.fixture
def peer(emulator: Emulator) -> Vault:
    """The other region's vault, to which nothing replicates by itself."""
    client = emulator.client("s3", "us-west-2")
    name = f"peer-{secrets.token_hex(6)}"
    client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    return Vault(client, name, region="us-west-2")


@pytest.fixture
def elsewhere(vector_server: PostgresServer, spec: CollectionSpec) -> Iterator[PgVectorStore]:
    """The other region's vector store, empty."""
    name = f"other_{spec.name}"
    with closing(postgres.connect(vector_server.dsn(), autocommit=True)) as admin, admin.cursor() as cursor:
        cursor.execute(f"create database {name}")
    with closing(PgVectorStore(vector_server.dsn(name))) as store:
        yield store


@pytest.fixture
def past(
    store: PgVectorStore, spec: CollectionSpec, state: Connection, database: Database, vault: Vault, peer: Vault
) -> Past:
    """A collection whose journal can be archived, as the first day makes it."""
    store.ensure(spec)
    return Past(store, spec, state, database, vault, peer, Ticking())
