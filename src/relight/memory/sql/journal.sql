-- name: append
insert into relight.journal (epoch, collection, op, id, vector, payload, task_id) values %s

-- The horizon, the rows and the edge are of one statement, hence of one snapshot. Out-of-line values are not fetched to
-- learn their sizes, and of the rows that the limits leave out nothing is fetched at all.
-- name: read
with next as (
    select xid, seq, at, epoch, collection, op, id, vector, payload, task_id
      from relight.journal
     where collection = %(collection)s
       and (xid, seq) > (%(xid)s::xid8, %(seq)s)
       and xid < (select pg_snapshot_xmin(pg_current_snapshot()))
     order by journal.xid, journal.seq
     limit %(limit)s
), page as (
    select next.*, count(*) over () as found,
           coalesce(sum(coalesce(pg_column_size(vector), 0) + coalesce(pg_column_size(payload), 0))
                    over (order by xid, seq rows between unbounded preceding and 1 preceding), 0) as before
      from next
)
select edge.xid::text, edge.seq, found,
       page.xid::text, page.seq, at, epoch, page.collection, op, id, vector, payload, task_id
  from (select) as always
  left join relight.journal_edges as edge on edge.collection = %(collection)s
  left join page on before < %(bytes)s
 order by page.xid, page.seq

-- name: pending
with page as (
    select xid, seq, at, epoch, collection, op, id, vector, payload, task_id
      from relight.journal
     where collection = %(collection)s
       and (xid, seq) > (%(xid)s::xid8, %(seq)s)
     order by journal.xid, journal.seq
     limit %(limit)s
)
select edge.xid::text, edge.seq, null,
       page.xid::text, page.seq, at, epoch, page.collection, op, id, vector, payload, task_id
  from (select) as always
  left join relight.journal_edges as edge on edge.collection = %(collection)s
  left join page on true
 order by page.xid, page.seq

-- Where the journal begins is known also when the segment that ended there is forgotten.
-- name: knows
select exists (select from relight.journal
                where collection = %(collection)s and xid = %(xid)s::xid8 and seq = %(seq)s)
       or exists (select from relight.journal_segments
                   where collection = %(collection)s and until_xid = %(xid)s::xid8 and until_seq = %(seq)s)
       or exists (select from relight.journal_edges
                   where collection = %(collection)s and xid = %(xid)s::xid8 and seq = %(seq)s),
       pg_is_in_recovery(),
       (select xid::text from relight.journal_edges where collection = %(collection)s),
       (select seq from relight.journal_edges where collection = %(collection)s)

-- Of the last entry of an archived segment, when the latest of them was.
-- name: written
select coalesce((select at from relight.journal
                  where collection = %(collection)s and xid = %(xid)s::xid8 and seq = %(seq)s),
                (select last_at from relight.journal_segments
                  where collection = %(collection)s and until_xid = %(xid)s::xid8 and until_seq = %(seq)s))

-- name: edge
select xid::text, seq from relight.journal_edges where collection = %(collection)s

-- Since the first entry that lacks was written. Of a segment that is in the vaults alone it is not known which.
-- name: lag
select coalesce(extract(epoch from clock_timestamp() - least(
           (select min(first_at)
              from relight.journal_segments
              join relight.journal_edges using (collection)
             where collection = %(collection)s
               and (until_xid, until_seq) > (%(xid)s::xid8, %(seq)s)
               and (until_xid, until_seq) <= (xid, seq)),
           (select at from relight.journal
             where collection = %(collection)s and (xid, seq) > (%(xid)s::xid8, %(seq)s)
             order by xid, seq limit 1))), 0)

-- name: behind
select (select coalesce(sum(entries), 0)
          from relight.journal_segments
          join relight.journal_edges using (collection)
         where collection = %(collection)s
           and (until_xid, until_seq) > (%(xid)s::xid8, %(seq)s)
           and (until_xid, until_seq) <= (xid, seq))
       + (select count(*) from relight.journal
           where collection = %(collection)s and (xid, seq) > (%(xid)s::xid8, %(seq)s))

-- What a reader of the journal saw is flushed: Relight commits nothing with `synchronous_commit = off`.
-- name: state_position
select relight.log_position()::text,
       relight.log_timeline(),
       (select max(version) from relight.migrations)

-- name: try_lock
select pg_try_advisory_lock(hashtextextended(%(subject)s, 7232))

-- name: unlock
select pg_advisory_unlock(hashtextextended(%(subject)s, 7232))

-- A point of an older timeline is of this history up to where the first epoch on a newer one began.
-- name: covers
select relight.log_position() >= %(lsn)s::pg_lsn,
       coalesce((select min(started_lsn) from relight.epochs where timeline > %(timeline)s) >= %(lsn)s::pg_lsn,
                pg_is_in_recovery() or relight.log_timeline() = %(timeline)s)

-- The points that the journal leaves alive, when it is applied up to a position: those alive at its edge, and what the
-- entries since then made of theirs.
-- name: alive
with touched as (
    select distinct on (id) id, op
      from relight.journal
     where collection = %(collection)s
       and (xid, seq) <= (%(xid)s::xid8, %(seq)s)
     order by id, xid desc, seq desc
)
select (select count(*) from relight.journal_alive where collection = %(collection)s)
       + (select count(*) from touched where op = 'upsert')
       - (select count(*) from touched join relight.journal_alive using (id) where collection = %(collection)s),
       (select xid::text from relight.journal_edges where collection = %(collection)s),
       (select seq from relight.journal_edges where collection = %(collection)s)

-- name: segments
select collection, after_xid::text, after_seq, until_xid::text, until_seq, object, sha256, bytes, entries, first_at,
       last_at, archived_at, (until_xid, until_seq) <= (xid, seq)
  from relight.journal_segments left join relight.journal_edges using (collection)
 where collection = %(collection)s and (until_xid, until_seq) > (%(xid)s::xid8, %(seq)s)
 order by journal_segments.until_xid, until_seq
 limit %(limit)s

-- name: archived
select until_xid::text, until_seq
  from relight.journal_segments
 where collection = %(collection)s
 order by journal_segments.until_xid desc, until_seq desc
 limit 1

-- Another archiver may have been first, and cut differently: its segment is as good.
-- name: record_segment
insert into relight.journal_segments (collection, after_xid, after_seq, until_xid, until_seq, object, sha256, bytes,
                                      entries, first_at, last_at)
values (%(collection)s, %(after_xid)s::xid8, %(after_seq)s, %(until_xid)s::xid8, %(until_seq)s, %(object)s, %(sha256)s,
        %(bytes)s, %(entries)s, %(first_at)s, %(last_at)s)
on conflict do nothing

-- name: forget_segment
delete from relight.journal_segments
 where collection = %(collection)s and until_xid = %(until_xid)s::xid8 and until_seq = %(until_seq)s

-- name: lock_edge
insert into relight.journal_edges (collection, xid, seq) values (%(collection)s, '0', 0)
on conflict (collection) do update set moved_at = journal_edges.moved_at
returning xid::text, seq

-- Each part sees what was there before the statement.
-- name: prune
with gone as (
    delete from relight.journal
     where collection = %(collection)s
       and (xid, seq) > (%(after_xid)s::xid8, %(after_seq)s)
       and (xid, seq) <= (%(until_xid)s::xid8, %(until_seq)s)
    returning xid, seq, id, op
), last as (
    select distinct on (id) id, op from gone order by id, xid desc, seq desc
), dead as (
    delete from relight.journal_alive as alive using last
     where alive.collection = %(collection)s and alive.id = last.id and last.op = 'delete'
), born as (
    insert into relight.journal_alive (collection, id)
    select %(collection)s, id from last where op = 'upsert'
    on conflict do nothing
), moved as (
    update relight.journal_edges
       set xid = %(until_xid)s::xid8, seq = %(until_seq)s, moved_at = now()
     where collection = %(collection)s
)
select count(*) from gone

-- name: holdings
select (select count(*) from relight.journal where collection = %(collection)s),
       (select min(at) from relight.journal where collection = %(collection)s),
       (select count(*) from relight.journal_segments where collection = %(collection)s),
       (select coalesce(sum(bytes), 0) from relight.journal_segments where collection = %(collection)s),
       (select min(first_at) from relight.journal_segments where collection = %(collection)s),
       (select count(*) from relight.journal_alive where collection = %(collection)s),
       (select xid::text from relight.journal_edges where collection = %(collection)s),
       (select seq from relight.journal_edges where collection = %(collection)s)

-- name: size
select pg_total_relation_size('relight.journal'), pg_total_relation_size('relight.journal_alive')

-- name: first_of_tasks
select distinct on (task_id) task_id, xid::text, seq, at
  from relight.journal
 where collection = %(collection)s and task_id = any(%(tasks)s)
 order by task_id, journal.xid, journal.seq

-- name: known_tasks
select id from relight.tasks where id = any(%(tasks)s)

-- What each of some points was at a position, as far as it was written since the edge; and whether it was alive there.
-- name: as_of
select edge.xid::text, edge.seq, wanted.id, alive.id is not null, last.op, last.vector, last.payload
  from unnest(%(ids)s::text[]) as wanted (id)
  left join relight.journal_edges as edge on edge.collection = %(collection)s
  left join relight.journal_alive as alive on alive.collection = %(collection)s and alive.id = wanted.id
  left join (
    select distinct on (id) id, op, vector, payload
      from relight.journal
     where collection = %(collection)s
       and (xid, seq) <= (%(xid)s::xid8, %(seq)s)
       and id = any(%(ids)s::text[])
     order by id, journal.xid desc, journal.seq desc
  ) as last on last.id = wanted.id

-- The server would end a transaction of an idle session long before the work beside it is done.
-- name: begin_cut
select (select max(epoch) from relight.epochs), pg_current_xact_id(),
       set_config('idle_in_transaction_session_timeout', %(within_ms)s::text, true)

-- name: is_oldest
select pg_snapshot_xmin(pg_current_snapshot()) = pg_current_xact_id()

-- name: record_cut
insert into relight.journal_cuts (id, collection, epoch, moment, tasks, base, left_out, restored, deleted)
values (%(id)s, %(collection)s, %(epoch)s, %(moment)s, %(tasks)s, %(base)s, %(left_out)s, %(restored)s, %(deleted)s)
