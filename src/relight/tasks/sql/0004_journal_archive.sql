-- The journal's archive: what is in the vaults, where the journal begins here, and what was alive there.

-- One index is enough: it serves every read, and it tells entries apart. Vectors do not compress, and a row of 768
-- dimensions is smaller and quicker in one piece (4.1 KB beside 4.5 KB, measured).
alter table relight.journal drop constraint journal_pkey;
drop index relight.journal_by_commit;
alter table relight.journal add primary key (collection, xid, seq);
alter table relight.journal alter column vector set storage external;
alter table relight.journal set (toast_tuple_target = 4080);

-- Every object in the vaults that holds a part of a collection's journal: all entries after one position up to another.
-- A segment counts only when its row is here, and it follows its predecessor without a gap: a region that was lost may
-- have put others there, of entries that this history never had.
create table relight.journal_segments (
    collection  text not null,
    after_xid   xid8 not null,
    after_seq   bigint not null,
    until_xid   xid8 not null,
    until_seq   bigint not null,
    object      text not null,
    sha256      text not null,
    bytes       bigint not null,
    entries     integer not null,
    first_at    timestamptz not null,
    last_at     timestamptz not null,
    archived_at timestamptz not null default now(),
    primary key (collection, until_xid, until_seq),
    unique (collection, after_xid, after_seq),
    check ((after_xid, after_seq) < (until_xid, until_seq))
);

-- Where a collection's journal begins: it has every entry after this one, and none up to it. No row is from the start.
create table relight.journal_edges (
    collection text primary key,
    xid        xid8 not null,
    seq        bigint not null,
    moved_at   timestamptz not null default now()
);

-- The points that were alive there, so that what a memory must hold can be counted without the entries that are gone.
create table relight.journal_alive (
    collection text not null,
    id         text not null,
    primary key (collection, id)
);

-- Every restore that left writes out. The entries that took them back carry its id as their task.
create table relight.journal_cuts (
    id         text not null,
    collection text not null,
    at         timestamptz not null default clock_timestamp(),
    epoch      bigint not null,
    moment     timestamptz,
    tasks      text[],
    base       text not null,
    left_out   bigint not null,
    restored   bigint not null,
    deleted    bigint not null,
    primary key (id, collection),
    check ((moment is null) <> (tasks is null))
);
create trigger journal_cuts_epoch before insert on relight.journal_cuts
    for each row execute function relight.refuse_stale_epoch();
