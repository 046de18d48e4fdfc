"""Schema migrations of the state database."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from relight.errors import ConfigError, IntegrityError
from relight.tasks.sql import migrations, statements

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from typing import Any

    from relight.tasks.database import Database

SQL = statements("relight.tasks.sql", "migrate.sql")

# Any constant: it only has to be the same in every process that migrates.
_LOCK = 0x52454C49
MIGRATION_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One migration as this library has it, or as the database knows it; `applied_at` is None where it does not."""

    version: int
    name: str
    sha256: str | None
    applied_at: datetime | None = None

    def __str__(self) -> str:
        return f"{self.version:04}_{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaStatus:
    """The database's migrations beside this library's.

    `changed` are applied, and were another text when they were; `newer` are applied, and this library does not know
    them.
    """

    applied: tuple[Migration, ...]
    pending: tuple[Migration, ...]
    changed: tuple[Migration, ...]
    newer: tuple[Migration, ...]

    def check(self) -> None:
        """Raise IntegrityError unless the database has this library's schema, whole and no other."""
        self.check_history()
        if self.pending:
            raise IntegrityError(
                f"the database lacks {_names(self.pending)}", hint="run `relight db migrate` against the primary"
            )

    def check_history(self) -> None:
        """Raise IntegrityError when what was applied is not what this library would have applied."""
        if self.newer:
            raise IntegrityError(
                f"the database has {_names(self.newer)}, which this version of relight does not know",
                hint="use the version of relight that migrated it, or a later one",
            )
        if self.changed:
            raise IntegrityError(
                f"{_names(self.changed)} had another text when the database was migrated",
                hint="restore the file as it was, and write what changed as a migration of its own",
            )


def migrate(database: Database) -> list[str]:
    """Apply what is missing, in order and in one transaction, and return the names.

    Safe to run by two at once: the second waits, and finds nothing to do. Whoever is killed leaves nothing behind.
    Raises IntegrityError, and applies nothing, when what was applied before is not what this library has; ConfigError
    on a replica; TransientError when a table stays in use for longer than a migration may hold everybody up.
    """
    with database.transaction(confirmed=True, within_s=MIGRATION_S) as cur:
        cur.execute(SQL["is_replica"])
        if cur.fetchone() == (True,):
            raise ConfigError("this database is a replica, whose schema comes from its primary", hint="migrate that")
        cur.execute(SQL["notice_death"])
        cur.execute(SQL["one_at_a_time"], [_LOCK])
        cur.execute(SQL["hold_nobody_up"])
        cur.execute(SQL["make_migrations"])
        cur.execute(SQL["lacks_digests"])
        if cur.fetchone() == (True,):
            cur.execute(SQL["add_digests"])
        cur.execute(SQL["read_migrations"])
        status = _compare(cur.fetchall())
        status.check_history()
        texts = {version: sql for version, _, sql in migrations()}
        for known in status.applied:
            if known.sha256 is None:
                cur.execute(SQL["adopt_digest"], {"version": known.version, "sha256": _digest(texts[known.version])})
        for item in status.pending:
            cur.execute(texts[item.version])
            cur.execute(SQL["record_migration"], {"version": item.version, "name": item.name, "sha256": item.sha256})
    return [str(item) for item in status.pending]


def schema_status(database: Database) -> SchemaStatus:
    """Compare, and change nothing; also on a replica."""
    if not database.execute(SQL["has_migrations"]).rows[0][0]:
        return _compare([])
    return _compare(database.execute(SQL["read_migrations"]).rows)


def check_schema(database: Database) -> None:
    """Raise IntegrityError unless the database has this library's schema: two short reads, for whoever starts to work.

    A library that is older than the database is refused, because the newer schema may mean something that it does not
    know; so a rolling update migrates first, and then restarts the workers.
    """
    schema_status(database).check()


def _compare(rows: Sequence[tuple[Any, ...]]) -> SchemaStatus:
    ours = {version: Migration(version=version, name=name, sha256=_digest(sql)) for version, name, sql in migrations()}
    applied = [Migration(version=row[0], name=row[1], applied_at=row[2], sha256=row[3]) for row in rows]
    known = {item.version for item in applied}
    return SchemaStatus(
        applied=tuple(applied),
        pending=tuple(item for version, item in ours.items() if version not in known),
        changed=tuple(
            item
            for item in applied
            if item.version in ours and item.sha256 is not None and item.sha256 != ours[item.version].sha256
        ),
        newer=tuple(item for item in applied if item.version not in ours),
    )


def _digest(sql: str) -> str:
    return hashlib.sha256(sql.encode()).hexdigest()


def _names(items: Sequence[Migration]) -> str:
    return ", ".join(map(str, items))
