-- name: is_replica
select pg_is_in_recovery()

-- A migration that was killed lets the next one begin within a second, in whatever statement it was.
-- name: notice_death
set local client_connection_check_interval = '1s'

-- name: one_at_a_time
select pg_advisory_xact_lock(%s)

-- Whoever waits for a table's lock holds up everybody who comes after: rather fail, and be run again.
-- name: hold_nobody_up
set local lock_timeout = '10s'

-- name: make_migrations
create schema if not exists relight;
create table if not exists relight.migrations (
    version    integer primary key,
    name       text not null,
    applied_at timestamptz not null default now(),
    sha256     text
)

-- The column is younger than the table. Adding it, even if it exists, would lock out who only reads.
-- name: lacks_digests
select not exists (select from pg_attribute where attrelid = 'relight.migrations'::regclass and attname = 'sha256')

-- name: add_digests
alter table relight.migrations add column sha256 text

-- name: has_migrations
select to_regclass('relight.migrations') is not null

-- By way of JSON, because the digest may be lacking.
-- name: read_migrations
select version, name, applied_at, to_jsonb(migrations) ->> 'sha256' from relight.migrations order by version

-- name: record_migration
insert into relight.migrations (version, name, sha256) values (%(version)s, %(name)s, %(sha256)s)

-- Of migrations that were applied before their digests were kept.
-- name: adopt_digest
update relight.migrations set sha256 = %(sha256)s where version = %(version)s and sha256 is null
