"""Schema migrations of the state database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight.tasks.sql import migrations

if TYPE_CHECKING:
    from relight.tasks.database import Database

# Any constant: it only has to be the same in every process that migrates.
_LOCK = 0x52454C49
MIGRATION_S = 600.0


def migrate(database: Database) -> list[str]:
    """Apply what is missing, in order and in one transaction, and return the names; safe to run by two at once."""
    applied = []
    with database.transaction(confirmed=True, within_s=MIGRATION_S) as cur:
        cur.execute("select pg_advisory_xact_lock(%s)", [_LOCK])
        cur.execute("create schema if not exists relight")
        cur.execute(
            "create table if not exists relight.migrations"
            " (version integer primary key, name text not null, applied_at timestamptz not null default now())"
        )
        cur.execute("select version from relight.migrations")
        known = {row[0] for row in cur.fetchall()}
        for version, name, sql in migrations():
            if version not in known:
                cur.execute(sql)
                cur.execute("insert into relight.migrations (version, name) values (%s, %s)", [version, name])
                applied.append(f"{version:04}_{name}")
    return applied
