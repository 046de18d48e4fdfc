-- Positions are bytes of the log since its beginning; a promotion begins another timeline.

-- name: written
select pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::bigint,
       ('x' || substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8))::bit(32)::integer

-- A commit that changes no table, and that a standby confirms as any other.
-- name: message
select pg_logical_emit_message(true, 'relight', '')

-- What a user without pg_read_all_stats may not see is null.
-- name: standbys
select pg_is_in_recovery(),
       current_setting('synchronous_standby_names'),
       case when not pg_is_in_recovery() then pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::bigint end,
       case when not pg_is_in_recovery()
            then ('x' || substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8))::bit(32)::integer end,
       (select count(*) from pg_stat_replication where state is null),
       array(select pg_wal_lsn_diff(write_lsn, '0/0')::bigint from pg_stat_replication
              where state = 'streaming' and sync_state in ('sync', 'quorum') and write_lsn is not null),
       array(select pg_wal_lsn_diff(flush_lsn, '0/0')::bigint from pg_stat_replication
              where state = 'streaming' and flush_lsn is not null)

-- On Aurora, whose storage replicates and whose log tells nothing: a commit that changes no table, as `message` is.
-- name: aurora_message
select pg_current_xact_id()

-- How far the storage of the region that writes has come, which is the row without a lag; and that region, as a number.
-- name: aurora_written
select coalesce(max(highest_lsn_written)::bigint, 0), coalesce(max(hashtext(aws_region)), 0)
  from aurora_global_db_status() where durability_lag_in_msec < 0

-- name: aurora_standbys
with found as materialized (select * from aurora_global_db_status()),
     writer as (select * from found where durability_lag_in_msec < 0)
select pg_is_in_recovery(),
       '',
       coalesce((select highest_lsn_written::bigint from writer), 0),
       coalesce((select hashtext(aws_region) from writer), 0),
       0,
       '{}'::bigint[],
       array(select highest_lsn_written::bigint from found
              where durability_lag_in_msec >= 0 and highest_lsn_written is not null and exists (select from writer))
