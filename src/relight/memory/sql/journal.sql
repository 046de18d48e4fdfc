-- name: append
insert into relight.journal (epoch, collection, op, id, vector, payload, task_id) values %s

-- The horizon and the rows are of one statement, hence of one snapshot.
-- name: read
select xid::text, seq, at, epoch, collection, op, id, vector, payload, task_id
  from relight.journal
 where collection = %(collection)s
   and (xid, seq) > (%(xid)s::xid8, %(seq)s)
   and xid < (select pg_snapshot_xmin(pg_current_snapshot()))
 order by journal.xid, journal.seq
 limit %(limit)s

-- name: pending
select xid::text, seq, at, epoch, collection, op, id, vector, payload, task_id
  from relight.journal
 where collection = %(collection)s
   and (xid, seq) > (%(xid)s::xid8, %(seq)s)
 order by journal.xid, journal.seq
 limit %(limit)s

-- name: knows
select exists (select from relight.journal
                where collection = %(collection)s and xid = %(xid)s::xid8 and seq = %(seq)s),
       pg_is_in_recovery()

-- name: lag
select coalesce(extract(epoch from clock_timestamp() - min(at)), 0)
  from relight.journal
 where collection = %(collection)s
   and (xid, seq) > (%(xid)s::xid8, %(seq)s)

-- What a reader of the journal saw is flushed: Relight commits nothing with `synchronous_commit = off`.
-- name: state_position
select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_flush_lsn() end::text,
       case when pg_is_in_recovery()
            then (select timeline from relight.epochs order by epoch desc limit 1)
            else ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::integer
       end,
       (select max(version) from relight.migrations)

-- name: try_lock
select pg_try_advisory_lock(hashtextextended(%(subject)s, 7232))

-- name: unlock
select pg_advisory_unlock(hashtextextended(%(subject)s, 7232))

-- A point of an older timeline is of this history up to where the first epoch on a newer one began.
-- name: covers
select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_flush_lsn() end
           >= %(lsn)s::pg_lsn,
       coalesce((select min(started_lsn) from relight.epochs where timeline > %(timeline)s) >= %(lsn)s::pg_lsn,
                pg_is_in_recovery()
                or ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::integer
                   = %(timeline)s)

-- The points that the journal leaves alive, when it is applied up to a position.
-- name: alive
select count(*)
  from (select distinct on (id) op
          from relight.journal
         where collection = %(collection)s
           and (xid, seq) <= (%(xid)s::xid8, %(seq)s)
         order by id, xid desc, seq desc) as last
 where op = 'upsert'
