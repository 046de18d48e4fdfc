"""Migrations on a real server, and the schema that they make."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from memory_helpers import wait_for_standby

from relight.adapters import aws, postgres
from relight.config import Connections, Role, Settings
from relight.errors import ConfigError, IntegrityError, NotFoundError, TransientError
from relight.objectives import Tier
from relight.tasks import migrate as module
from relight.tasks.database import Database
from relight.tasks.migrate import check_schema, migrate, schema_status
from relight.tasks.sql import migrations
from relight_cli.main import main
from relight_drill.emulator import SECRET_KEY
from relight_drill.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import StatePair

    from relight_drill.emulator import Emulator

pytestmark = pytest.mark.servers

SCHEMA = Path(str(files("relight.tasks.sql"))) / "schema.sql"
NAMES = [f"{version:04}_{name}" for version, name, _ in migrations()]
HEADER = """\
-- The present schema of the state database, for reading; Relight applies the migrations beside this file, never this.
-- A test compares the two. After a migration, write it anew:
-- RELIGHT_WRITE_SCHEMA=1 scripts/test tests/contract/test_migrate.py
"""


def make_database(pair: StatePair) -> str:
    """An empty database's name."""
    name = f"m{secrets.token_hex(4)}"
    admin = postgres.connect(pair.primary.dsn("postgres"), autocommit=True)
    with admin.cursor() as cursor:
        cursor.execute(f"create database {name}")
    admin.close()
    return name


@pytest.fixture
def name(state_pair: StatePair) -> str:
    """An empty database's name."""
    return make_database(state_pair)


@pytest.fixture
def database(state_pair: StatePair, name: str) -> Iterator[Database]:
    """An empty database."""
    database = Database(state_pair.primary.dsn(name))
    yield database
    database.close()


def dumped(pair: StatePair, name: str) -> str:
    """The schema `relight` of a database as `pg_dump` writes it, without what says nothing of it."""
    done = subprocess.run(
        [
            pair.primary.program("pg_dump"),
            *("--schema-only", "--no-owner", "--no-privileges", "--schema", "relight"),
            *("--dbname", pair.primary.dsn(name)),
        ],
        capture_output=True,
        text=True,
        check=True,
        env={"LC_ALL": "C", "PATH": os.defpath},
        timeout=60,
    )
    return readable(done.stdout)


def readable(dump: str) -> str:
    """Statements only, with one empty line between two."""
    lines = [
        line
        for line in dump.splitlines()
        if not re.match(r"--|SET |SELECT pg_catalog\.set_config|\\(un)?restrict ", line)
    ]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def test_the_schema_is_what_the_migrations_make(state_pair: StatePair, database: Database, name: str) -> None:
    """A database made from schema.sql and one made by the migrations are the same.

    When that is meant, write the file anew with RELIGHT_WRITE_SCHEMA=1.
    """
    migrate(database)
    replayed = dumped(state_pair, name)
    if os.environ.get("RELIGHT_WRITE_SCHEMA") == "1":
        SCHEMA.write_text(f"{HEADER}\n{replayed}", encoding="utf-8")
    other = make_database(state_pair)
    from_file = Database(state_pair.primary.dsn(other))
    from_file.execute(SCHEMA.read_text("utf-8"))
    from_file.close()
    assert dumped(state_pair, other) == replayed
    assert readable(SCHEMA.read_text("utf-8")) == replayed


def test_migrations_are_applied_once_and_in_order(database: Database) -> None:
    """What the database lacks is applied, and a second time there is nothing to do."""
    assert list(map(str, schema_status(database).pending)) == NAMES
    assert migrate(database) == NAMES
    assert migrate(database) == []
    status = schema_status(database)
    assert [str(item) for item in status.applied] == NAMES
    assert not status.pending
    assert not status.changed
    assert not status.newer
    check_schema(database)


def test_a_database_that_lacks_a_migration_is_not_worked_with(database: Database) -> None:
    """fails when a worker starts before the migration has run: the error names what is lacking, and the verb."""
    with pytest.raises(IntegrityError, match=rf"lacks {NAMES[0]}.*relight db migrate"):
        check_schema(database)


def test_digests_that_an_older_version_did_not_keep_are_added(database: Database) -> None:
    """A database that was migrated before digests were kept gets them, and is the same afterwards."""
    migrate(database)
    database.execute("alter table relight.migrations drop column sha256")
    check_schema(database)
    assert migrate(database) == []
    assert all(item.sha256 for item in schema_status(database).applied)


def test_a_migration_that_was_changed_is_refused(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when a file is not what was applied: it is named, and nothing is applied."""
    migrate(database)
    changed = [(version, name, f"{sql}\n-- and more" if version == 1 else sql) for version, name, sql in migrations()]
    monkeypatch.setattr(module, "migrations", lambda: [*changed, (9999, "next", "create table relight.next (x int)")])
    for look in (migrate, check_schema):
        with pytest.raises(IntegrityError, match=f"{NAMES[0]} had another text"):
            look(database)
    with pytest.raises(NotFoundError):
        database.execute("select from relight.next")


def test_a_newer_database_is_refused(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when the library is older than the database: what it does not know is named."""
    migrate(database)
    monkeypatch.setattr(module, "migrations", lambda: migrations()[:1])
    for look in (migrate, check_schema):
        with pytest.raises(IntegrityError, match=f"{NAMES[1]}.*does not know.*version of relight"):
            look(database)


def test_a_migration_that_fails_leaves_nothing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when the last of several migrations is wrong: none of them is applied."""
    wrong = [(9998, "good", "create table relight.good (x int)"), (9999, "bad", "create table relight.good (x int)")]
    monkeypatch.setattr(module, "migrations", lambda: [*migrations(), *wrong])
    with pytest.raises(Exception, match="already exists"):
        migrate(database)
    monkeypatch.undo()
    assert [str(item) for item in schema_status(database).pending] == NAMES


def test_a_table_in_use_is_not_queued_for(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when a table stays locked: the migration gives up, rather than to hold up all who come after it."""
    migrate(database)
    monkeypatch.setattr(
        module, "migrations", lambda: [*migrations(), (9999, "x", "alter table relight.tasks add x int")]
    )
    monkeypatch.setitem(module.SQL, "hold_nobody_up", "set local lock_timeout = '50ms'")
    with database.transaction() as cur:
        cur.execute("lock table relight.tasks in access share mode")
        with pytest.raises(TransientError, match="lock timeout"):
            migrate(database)
    assert migrate(database) == ["9999_x"]


def test_a_replica_is_not_migrated(state_pair: StatePair, database: Database, name: str) -> None:
    """fails when the operator names the standby: the error says what to migrate; looking is allowed."""
    migrate(database)
    wait_for_standby(state_pair)
    replica = Database(state_pair.standby.dsn(name))
    with pytest.raises(ConfigError, match="is a replica"):
        migrate(replica)
    check_schema(replica)
    replica.close()


MIGRATE = """
import sys
from relight.objectives import Tier
from relight.tasks import migrate as module
from relight.tasks.database import Database
if len(sys.argv) > 2:
    ours = module.migrations
    module.migrations = lambda: [*ours(), (9999, "slow", "select pg_sleep(3600)")]
print(module.migrate(Database(sys.argv[1])))
"""


def test_two_processes_migrate_at_once(state_pair: StatePair, name: str, database: Database) -> None:
    """Of two processes that migrate at the same time one applies everything, the other nothing, and none fails."""
    command = [sys.executable, "-c", MIGRATE, state_pair.primary.dsn(name)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=60)[0].strip() for process in both]
    assert sorted(said) == sorted(["[]", str(NAMES)])
    check_schema(database)


def test_two_threads_migrate_at_once(database: Database) -> None:
    """Of two threads too."""
    applied: list[list[str]] = []
    threads = [threading.Thread(target=lambda: applied.append(migrate(database))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(applied) == [[], NAMES]


def test_a_migration_that_is_killed_leaves_nothing(state_pair: StatePair, name: str, database: Database) -> None:
    """fails when its process is killed in a statement that takes an hour: nothing is applied, and the next goes on."""
    killed = subprocess.Popen([sys.executable, "-c", MIGRATE, state_pair.primary.dsn(name), "slow"])
    asleep = "select count(*) from pg_stat_activity where datname = %s and wait_event = 'PgSleep'"
    is_asleep = wait_until(lambda: database.execute(asleep, [name]).rows == [(1,)], what="its sleep", timeout_s=30)
    asyncio.run(is_asleep)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert migrate(database) == NAMES


@pytest.fixture
def region(state_pair: StatePair, name: str, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment variables and the secret of a primary region whose state is that database."""
    settings = Settings(
        environment="test",
        tier=Tier.INTERNAL,
        role=Role.PRIMARY,
        region="us-east-1",
        primary_region="us-east-1",
        standby_region="us-west-2",
        vault_bucket="v1",
        peer_vault_bucket="v2",
        lease_bucket="l",
        lease_region="us-west-2",
        connections_secret=f"connections-{name}",
        service_url="http://127.0.0.1:9",
        primary_url="http://127.0.0.1:9",
        standby_url="http://127.0.0.1:9",
        cluster="c",
        agent_service="a",
        agent_replicas=1,
    )
    connections = Connections(state_dsn=state_pair.primary.dsn(name), memory_dsn="none", queue_url="none")
    emulator.client("secretsmanager", settings.region).create_secret(
        Name=settings.connections_secret, SecretString=connections.to_json()
    )
    for key, value in settings.to_env().items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", emulator.url)
    session = boto3.Session(aws_access_key_id=emulator.account, aws_secret_access_key=SECRET_KEY)
    monkeypatch.setattr(aws, "_session", lambda: session)


@pytest.mark.usefixtures("region")
def test_the_verb_migrates(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """`relight db` shows what is pending, applies it when told to, and shows the promise; status says by its code."""
    assert main(["db", "status", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [row["migration"] for row in found["migrations"] if row["state"] == "pending"] == NAMES
    assert main(["db", "migrate", "--dry-run"]) == 0
    assert NAMES[-1] in capsys.readouterr().err
    assert schema_status(database).pending
    assert main(["db", "migrate", "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"applied": NAMES}
    assert main(["db", "status"]) == 0
    out = capsys.readouterr().out
    assert "promise: kept" in out
    assert "on_standby_away = wait" in out
    assert f"{NAMES[0]:<32} applied" in out
