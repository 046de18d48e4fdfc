-- The store's own catalogue is in schema `relight`, the points are in `relight_memory`, so that a collection may have any
-- name.

-- name: is_set_up
select to_regclass('relight.loading') is not null

-- name: lock
select pg_advisory_xact_lock(hashtextextended(%(subject)s, 7231))

-- name: lock_session
select pg_advisory_lock(hashtextextended(%(subject)s, 7231))

-- name: unlock_session
select pg_advisory_unlock(hashtextextended(%(subject)s, 7231))

-- name: set_up
create extension if not exists vector;
create schema if not exists relight;
create schema if not exists relight_memory;
create table if not exists relight.collections (
    name            text primary key,
    table_name      text not null unique,
    dimension       integer not null,
    distance        text not null,
    embedding_model text not null,
    prefix          text not null,
    hnsw            jsonb,
    xid             bigint not null default 0,
    seq             bigint not null default 0,
    restored_from   text,
    changed_at      timestamptz not null default now()
);
create table if not exists relight.kept (
    table_name text primary key,
    collection text not null,
    kept_at    timestamptz not null default clock_timestamp()
);
create table if not exists relight.loading (
    table_name text primary key,
    collection text not null
);

-- The last column says whether the index that is asked for is there and whole.
-- name: describe
select table_name, dimension, distance, embedding_model, prefix, hnsw, xid, seq, restored_from,
       exists (
           select from pg_index x
             join pg_class t on t.oid = x.indrelid
             join pg_class i on i.oid = x.indexrelid
             join pg_am on pg_am.oid = i.relam
            where t.relnamespace = 'relight_memory'::regnamespace and t.relname = table_name and amname = 'hnsw'
              and x.indisvalid
              and i.reloptions @> array['m=' || (hnsw ->> 'm'), 'ef_construction=' || (hnsw ->> 'ef_construction')]
       )
  from relight.collections where name = %(name)s

-- name: register
insert into relight.collections (name, table_name, dimension, distance, embedding_model, prefix, hnsw)
values (%(name)s, %(table)s, %(dimension)s, %(distance)s, %(model)s, %(prefix)s, %(hnsw)s)

-- name: ask_for_index
update relight.collections set hnsw = %(hnsw)s where name = %(name)s

-- name: move
update relight.collections set xid = %(xid)s, seq = %(seq)s, changed_at = now() where name = %(name)s

-- name: switch
insert into relight.collections
       (name, table_name, dimension, distance, embedding_model, prefix, hnsw, xid, seq, restored_from)
values (%(name)s, %(table)s, %(dimension)s, %(distance)s, %(model)s, %(prefix)s, %(hnsw)s, %(xid)s, %(seq)s, %(point)s)
on conflict (name) do update
   set table_name = excluded.table_name, dimension = excluded.dimension, distance = excluded.distance,
       embedding_model = excluded.embedding_model, prefix = excluded.prefix, hnsw = excluded.hnsw,
       xid = excluded.xid, seq = excluded.seq, restored_from = excluded.restored_from, changed_at = now()

-- name: keep
insert into relight.kept (table_name, collection) values (%(table)s, %(name)s)

-- name: list_kept
select table_name from relight.kept where collection = %(name)s order by kept_at desc, table_name desc

-- name: forget_kept
delete from relight.kept where collection = %(name)s and table_name = %(table)s

-- name: begin_loading
insert into relight.loading (table_name, collection) values (%(table)s, %(name)s)

-- name: end_loading
delete from relight.loading where table_name = %(table)s

-- name: end_all_loading
delete from relight.loading where collection = %(name)s returning table_name

-- name: forget
delete from relight.collections where name = %(name)s

-- The extension's version is the one that is installed or, on a new server, the one that would be.
-- name: version
select current_setting('server_version'),
       (select coalesce(installed_version, default_version) from pg_available_extensions where name = 'vector')

-- name: foreign_table
select format('%%I.%%I', schemaname, tablename)
  from pg_tables where schemaname in ('public', 'relight_memory') and tablename = %(name)s

-- Long work is not to be ended by limits that are meant for an agent's queries.
-- name: unhurried
select set_config('statement_timeout', '0', true), set_config('idle_in_transaction_session_timeout', '0', true)

-- name: impatient
select set_config('lock_timeout', '1s', true)

-- name: export
select pg_export_snapshot()

-- name: import
set transaction snapshot %(snapshot)s

-- In braces: {table}, {operator}. `id` makes the order total, so that equal distances always give the same answers.
-- name: create_table
create table relight_memory.{table} (id text not null, embedding vector({dimension}) not null, payload jsonb)
  with (toast_tuple_target = {toast_target})

-- name: add_key
alter table relight_memory.{table} add primary key (id)

-- name: upsert
insert into relight_memory.{table} (id, embedding, payload)
select id, embedding::vector, payload::jsonb
  from unnest(%(ids)s::text[], %(vectors)s::text[], %(payloads)s::text[]) as new (id, embedding, payload)
on conflict (id) do update set embedding = excluded.embedding, payload = excluded.payload

-- name: fetch
select id, embedding::text, payload from relight_memory.{table} where id = any(%(ids)s::text[])

-- name: delete
delete from relight_memory.{table} where id = any(%(ids)s::text[])

-- PostgreSQL would use an HNSW index for this order too, and sort only what it gave. Roles are often told to avoid scans
-- of a whole table.
-- name: search
select set_config('enable_indexscan', 'off', true), set_config('enable_seqscan', 'on', true);
select id, embedding {operator} %(vector)s::vector, payload
  from relight_memory.{table}
 order by embedding {operator} %(vector)s::vector, id
 limit %(k)s

-- The index gives up to `ef_search` points, dead ones included; `iterative_scan` makes it go on until there are enough.
-- name: search_index
select set_config('hnsw.ef_search', %(ef_search)s::text, true), set_config('hnsw.iterative_scan', 'relaxed_order', true);
with near as materialized (
    select id, embedding {operator} %(vector)s::vector as distance, payload
      from relight_memory.{table}
     order by embedding {operator} %(vector)s::vector
     limit %(k)s
)
select id, distance, payload from near order by distance, id

-- name: count
select count(*) from relight_memory.{table}

-- The few are chosen first: PostgreSQL would otherwise write out every vector before it sorts.
-- name: pick_canaries
with chosen as materialized (select id from relight_memory.{table} order by md5(id), id limit %(canaries)s)
select embedding::text from chosen join relight_memory.{table} using (id) order by md5(id), id

-- name: copy_out
copy relight_memory.{table} (id, embedding, payload) to stdout (format binary)

-- Not with `freeze`, which wants the table to be made in the same transaction: a server that crashes would forget it and
-- leave its files on the disk. It would be no faster either (measured).
-- name: copy_in
copy relight_memory.{table} (id, embedding, payload) from stdin (format binary)

-- name: drop
drop table if exists relight_memory.{table}

-- name: columns
select attname, format_type(atttypid, atttypmod), attnotnull
  from pg_attribute join pg_class on pg_class.oid = attrelid
 where relnamespace = 'relight_memory'::regnamespace and relname = %(table)s and attnum > 0 and not attisdropped
 order by attnum

-- Without the names of the table and of the index, which the next restore changes.
-- name: definitions
select regexp_replace(pg_get_indexdef(indexrelid), '^(CREATE (UNIQUE )?INDEX) .*? (USING )', '\1 \3')
  from pg_index join pg_class on pg_class.oid = indrelid
 where relnamespace = 'relight_memory'::regnamespace and relname = %(table)s and indisvalid
 order by indisprimary desc, 1

-- name: hnsw_indexes
select i.relname, x.indisvalid, i.reloptions
  from pg_index x
  join pg_class t on t.oid = x.indrelid
  join pg_class i on i.oid = x.indexrelid
  join pg_am on pg_am.oid = i.relam
 where t.relnamespace = 'relight_memory'::regnamespace and t.relname = %(table)s and amname = 'hnsw'

-- name: is_building
select exists (
    select from pg_locks
     where locktype = 'advisory' and granted and objsubid = 1
       and database = (select oid from pg_database where datname = current_database())
       and (classid::bigint << 32) | objid::bigint = hashtextextended(%(table)s, 7232)
)

-- name: begin_building
select pg_try_advisory_lock(hashtextextended(%(table)s, 7232))

-- name: sizes
select pg_size_bytes(current_setting('maintenance_work_mem')),
       pg_size_bytes(current_setting('effective_cache_size')),
       (select source = 'default' from pg_settings where name = 'effective_cache_size'),
       current_setting('max_parallel_maintenance_workers')::int,
       current_setting('max_parallel_workers')::int

-- name: size_build
select set_config('maintenance_work_mem', %(memory)s, false),
       set_config('max_parallel_maintenance_workers', %(workers)s, false),
       set_config('min_parallel_table_scan_size', '0', false),
       set_config('statement_timeout', '0', false),
       set_config('lock_timeout', '0', false)

-- name: create_index
create index {concurrently} on relight_memory.{table} using hnsw (embedding {operators})
  with (m = {m}, ef_construction = {ef_construction})

-- name: drop_index
drop index concurrently if exists relight_memory.{index}
