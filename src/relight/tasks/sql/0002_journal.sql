-- The journal: every write to vector memory, in the order in which it may be replayed.

-- Readers go by (xid, seq) below an xid8 horizon, never by seq alone: a row whose transaction commits late has a small seq
-- and would be passed over. The index serves exactly that read.
create table relight.journal (
    seq        bigint generated always as identity primary key,
    xid        xid8 not null default pg_current_xact_id(),
    at         timestamptz not null default clock_timestamp(),
    epoch      bigint not null,
    collection text not null,
    op         text not null check (op in ('upsert', 'delete')),
    id         text not null,
    vector     bytea check ((op = 'upsert') = (vector is not null)),
    payload    jsonb,
    task_id    text
);
create index journal_by_commit on relight.journal (collection, xid, seq);
create trigger journal_epoch before insert on relight.journal
    for each row execute function relight.refuse_stale_epoch();

-- Where in the log each epoch began. A recovery point taken on an older timeline is of this history only up to there;
-- what it holds beyond was committed by the old primary and never reached us. On a server promoted a moment ago the last
-- replayed position is exactly the place where the histories part.
alter table relight.epochs
    add column timeline    integer not null
        default ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::integer,
    add column started_lsn pg_lsn not null
        default coalesce(pg_last_wal_replay_lsn(), pg_current_wal_insert_lsn());
