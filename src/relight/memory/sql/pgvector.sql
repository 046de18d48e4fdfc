-- The store's own catalogue is in schema `relight`, the points are in `relight_memory`, so that a collection may have any
-- name.

-- name: is_set_up
select to_regclass('relight.kept') is not null

-- name: lock
select pg_advisory_xact_lock(hashtextextended(%(subject)s, 7231))

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

-- name: describe
select table_name, dimension, distance, embedding_model, xid, seq, restored_from
  from relight.collections where name = %(name)s

-- name: describe_for_update
select table_name, dimension, distance, embedding_model, xid, seq, restored_from
  from relight.collections where name = %(name)s for update

-- name: register
insert into relight.collections (name, table_name, dimension, distance, embedding_model)
values (%(name)s, %(table)s, %(dimension)s, %(distance)s, %(model)s)

-- name: move
update relight.collections set xid = %(xid)s, seq = %(seq)s, changed_at = now() where name = %(name)s

-- name: switch
insert into relight.collections (name, table_name, dimension, distance, embedding_model, xid, seq, restored_from)
values (%(name)s, %(table)s, %(dimension)s, %(distance)s, %(model)s, %(xid)s, %(seq)s, %(point)s)
on conflict (name) do update
   set table_name = excluded.table_name, dimension = excluded.dimension, distance = excluded.distance, embedding_model = excluded.embedding_model,
       xid = excluded.xid, seq = excluded.seq, restored_from = excluded.restored_from, changed_at = now()

-- name: keep
insert into relight.kept (table_name, collection) values (%(table)s, %(name)s)

-- name: list_kept
select table_name from relight.kept where collection = %(name)s order by kept_at desc, table_name desc

-- name: forget_kept
delete from relight.kept where collection = %(name)s and table_name = %(table)s

-- name: version
select current_setting('server_version'), (select extversion from pg_extension where extname = 'vector')

-- In braces: {table}, {operator}. `id` makes the order total, so that equal distances always give the same answers.
-- name: create_table
create table relight_memory.{table} (id text not null, embedding vector({dimension}) not null, payload jsonb)

-- name: add_key
alter table relight_memory.{table} add primary key (id)

-- name: upsert
insert into relight_memory.{table} (id, embedding, payload)
select id, embedding::vector, payload::jsonb
  from unnest(%(ids)s::text[], %(vectors)s::text[], %(payloads)s::text[]) as new (id, embedding, payload)
on conflict (id) do update set embedding = excluded.embedding, payload = excluded.payload

-- name: delete
delete from relight_memory.{table} where id = any(%(ids)s::text[])

-- name: search
select id, embedding {operator} %(vector)s::vector, payload
  from relight_memory.{table}
 order by embedding {operator} %(vector)s::vector, id
 limit %(k)s

-- name: count
select count(*) from relight_memory.{table}

-- name: pick_canaries
select embedding::text from relight_memory.{table} order by md5(id), id limit %(canaries)s

-- name: copy_out
copy relight_memory.{table} (id, embedding, payload) to stdout (format binary)

-- name: copy_in
copy relight_memory.{table} (id, embedding, payload) from stdin (format binary, freeze)

-- name: drop
drop table relight_memory.{table}
