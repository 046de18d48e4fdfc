"""A pair of real PostgreSQL servers that stands in for an Aurora Global Database.

Played: `aurora_global_db_status()`, with the columns and the meaning that Aurora's documentation gives it, from what
the pair knows of its streaming replication; and Aurora's refusal of PostgreSQL's functions of the log, which are
replaced in this database by some that refuse. That Aurora itself answers so is not shown by it.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from relight.adapters import postgres

if TYPE_CHECKING:
    from servers import StatePair

PRIMARY, STANDBY = "us-east-1", "us-west-2"
USER = "aurora_user"

# What Aurora does not support of it: name, arguments, type.
REFUSED = (
    ("pg_current_wal_flush_lsn", "", "pg_lsn"),
    ("pg_current_wal_insert_lsn", "", "pg_lsn"),
    ("pg_current_wal_lsn", "", "pg_lsn"),
    ("pg_last_wal_receive_lsn", "", "pg_lsn"),
    ("pg_last_wal_replay_lsn", "", "pg_lsn"),
    ("pg_last_xact_replay_timestamp", "", "timestamptz"),
    ("pg_walfile_name", "pg_lsn", "text"),
)

_PLAYED = f"""
create function aurora_global_db_status() returns table (
    aws_region text, highest_lsn_written bigint, durability_lag_in_msec double precision,
    rpo_lag_in_msec double precision, last_lag_calculation_time timestamptz, feedback_epoch bigint, feedback_xmin bigint
) language plpgsql security definer as $$
begin
    if pg_is_in_recovery() then
        return query
            select '{PRIMARY}', pg_wal_lsn_diff(real_pg_last_wal_receive_lsn(), '0/0')::bigint, -1::double precision,
                   -1::double precision, 'epoch'::timestamptz, 0::bigint, 0::bigint
            union all
            select '{STANDBY}', pg_wal_lsn_diff(real_pg_last_wal_replay_lsn(), '0/0')::bigint, 20::double precision,
                   20::double precision, clock_timestamp(), 0::bigint, 0::bigint;
    else
        return query
            select '{PRIMARY}', pg_wal_lsn_diff(real_pg_current_wal_flush_lsn(), '0/0')::bigint, -1::double precision,
                   -1::double precision, 'epoch'::timestamptz, 0::bigint, 0::bigint
            union all
            select '{STANDBY}', pg_wal_lsn_diff(flush_lsn, '0/0')::bigint,
                   1000 * extract(epoch from coalesce(replay_lag, interval '0'))::double precision,
                   20::double precision, clock_timestamp(), 0::bigint, 0::bigint
              from pg_stat_replication where state = 'streaming';
    end if;
end
$$;
"""


def play_aurora(pair: StatePair) -> str:
    """A new database of the pair that answers as Aurora's would; its name. `USER` has no rights beyond it."""
    name = f"aurora{secrets.token_hex(4)}"
    admin = postgres.connect(pair.primary.dsn("postgres"), autocommit=True)
    with admin.cursor() as cur:
        cur.execute("select from pg_roles where rolname = %s", [USER])
        if not cur.rowcount:
            cur.execute(f"create role {USER} login password '{pair.primary.password}'")
        cur.execute(f"create database {name} owner {USER}")
    admin.close()
    admin = postgres.connect(pair.primary.dsn(name), autocommit=True)
    with admin.cursor() as cur:
        cur.execute("set allow_system_table_mods = on")
        for function, arguments, type_ in REFUSED:
            cur.execute(f"alter function pg_catalog.{function}({arguments}) rename to real_{function}")
            cur.execute(
                f"create function pg_catalog.{function}({arguments}) returns {type_} language plpgsql as $$ begin"
                f" raise feature_not_supported using message ="
                f" 'Function {function}() is currently not supported for Aurora'; end $$"
            )
        cur.execute(_PLAYED)
    admin.close()
    return name
