-- Where the log is, for servers that refuse PostgreSQL's own words for it: on Aurora, whose storage replicates, functions
-- of the log are "currently not supported". There a position is the horizon of transactions, below which all are decided,
-- and which a replica reaches as it replays; a timeline is one more with each epoch. Elsewhere both are what they were.
create function relight.on_aurora() returns boolean language sql stable
    return to_regproc('aurora_global_db_status') is not null;

create function relight.log_position() returns pg_lsn language plpgsql as $$
begin
    if relight.on_aurora() then
        return '0/0'::pg_lsn + pg_snapshot_xmin(pg_current_snapshot())::text::numeric;
    elsif pg_is_in_recovery() then
        return pg_last_wal_replay_lsn();
    end if;
    return pg_current_wal_flush_lsn();
end
$$;

-- A replica is on the timeline of the newest epoch that it knows.
create function relight.log_timeline() returns integer language plpgsql as $$
begin
    if relight.on_aurora() or pg_is_in_recovery() then
        return (select timeline from relight.epochs order by epoch desc limit 1);
    end if;
    return ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::integer;
end
$$;

-- Of an epoch that is being taken.
create function relight.epoch_timeline() returns integer language plpgsql as $$
begin
    if relight.on_aurora() then
        return coalesce((select max(timeline) from relight.epochs), 0) + 1;
    end if;
    return relight.log_timeline();
end
$$;

create function relight.epoch_start() returns pg_lsn language plpgsql as $$
begin
    if relight.on_aurora() then
        return relight.log_position();
    end if;
    return coalesce(pg_last_wal_replay_lsn(), pg_current_wal_insert_lsn());
end
$$;

alter table relight.epochs
    alter column timeline    set default relight.epoch_timeline(),
    alter column started_lsn set default relight.epoch_start();
