-- name: epochs
select epoch, region, run_id, taken_at from relight.epochs order by epoch

-- The newest moment of which this history has anything from before it parted. Commits arrive in their order, so what did
-- not arrive was committed later. What the new region wrote itself is after its epoch began, by its own clock.
-- name: shipped_until
with recursive collections (name) as (
    (select collection from relight.journal order by collection limit 1)
    union all
    select (select collection from relight.journal where collection > name order by collection limit 1)
      from collections where name is not null
)
select coalesce(greatest(
    (select max(created_at) from relight.tasks where created_at < %(parted_at)s),
    (select max(intended_at) from relight.effects where intended_at < %(parted_at)s),
    (select max(finished_at) from relight.steps where finished_at < %(parted_at)s),
    (select max(last.at)
       from collections
       cross join lateral (select at from relight.journal
                            where collection = name and epoch < %(epoch)s
                            order by xid desc, seq desc
                            limit 1000) as last
      where last.at < %(parted_at)s),
    (select max(last_at) from relight.journal_segments where last_at < %(parted_at)s),
    (select max(taken_at) from relight.epochs where taken_at < %(parted_at)s)), '2000-01-01Z')

-- name: old_tasks
select id, created_at, status, updated_at from relight.tasks where updated_at >= %(since)s

-- name: new_tasks
select id, created_at, status from relight.tasks where id = any(%(ids)s)

-- name: old_steps
select task_id, key, finished_at from relight.steps where finished_at >= %(since)s

-- name: new_steps
select task_id, key, finished_at
  from relight.steps
 where (task_id, key) in (select * from unnest(%(tasks)s::text[], %(keys)s::text[]))

-- An intent that was renewed has its old time and a new end.
-- name: old_effects
select key, intended_at, status, sending, task_id, tool, coalesce(settled_at, intended_at)
  from relight.effects
 where greatest(intended_at, settled_at, final_from) >= %(since)s

-- name: new_effects
select key, intended_at, status, sending from relight.effects where key = any(%(keys)s)

-- name: collections
with recursive collections (name) as (
    (select collection from relight.journal order by collection limit 1)
    union all
    select (select collection from relight.journal where collection > name order by collection limit 1)
      from collections where name is not null
)
select name from collections where name is not null

-- Backwards, so that the reader can stop: there is no index on the time, and a journal is too large to be read whole.
-- name: old_memories
select collection, xid::text, seq, at, id, op, coalesce(task_id, '')
  from relight.journal
 where collection = %(collection)s
 order by collection desc, xid desc, seq desc

-- What was archived and pruned here is known by its place alone; only what arrived is.
-- name: new_memories
with asked as (
    select * from unnest(%(collections)s::text[], %(xids)s::text[]::xid8[], %(seqs)s::bigint[], %(ats)s::timestamptz[])
        as asked (collection, xid, seq, at)
)
select collection, xid::text, seq, at
  from asked
 where exists (select from relight.journal
                where journal.collection = asked.collection and journal.xid = asked.xid and journal.seq = asked.seq
                  and journal.at = asked.at)
    or asked.at <= %(shipped_until)s
       and exists (select from relight.journal_edges as edge
                    where edge.collection = asked.collection and (edge.xid, edge.seq) >= (asked.xid, asked.seq))
