-- The ledger: what was asked (tasks), what was computed (steps), what was done to the world (effects).

create schema if not exists relight;

create table relight.epochs (
    epoch       bigint primary key,
    region      text not null,
    run_id      text not null,
    taken_at    timestamptz not null default now(),
    verified_at timestamptz,
    replayed_at timestamptz,
    opened_at   timestamptz
);

-- Every write carries its epoch, and the database itself refuses one that is not the newest. A partitioned old primary
-- has a database of its own that still believes in the old epoch: that one is stopped by its lease.
create function relight.refuse_stale_epoch() returns trigger
language plpgsql as $$
declare
    newest bigint;
begin
    select max(epoch) into newest from relight.epochs;
    if new.epoch is distinct from newest then
        raise exception using
            errcode = 'RL001',
            message = format('epoch %s wrote to %s, and the newest is %s', new.epoch, tg_table_name, newest);
    end if;
    return new;
end
$$;

create table relight.tasks (
    id          text primary key,
    payload     jsonb not null,
    status      text not null default 'pending' check (status in ('pending', 'running', 'done', 'failed')),
    epoch       bigint not null,
    attempts    integer not null default 0,
    claimed_by  text,
    lease_until timestamptz,
    result      jsonb,
    error       text,
    created_at  timestamptz not null default now(),
    updated_at  timestamptz not null default now()
);
create index tasks_unfinished on relight.tasks (created_at, id) where status in ('pending', 'running');
create trigger tasks_epoch before insert or update on relight.tasks
    for each row execute function relight.refuse_stale_epoch();

create table relight.steps (
    task_id     text not null references relight.tasks (id),
    key         text not null,
    name        text not null,
    result      jsonb not null,
    epoch       bigint not null,
    finished_at timestamptz not null default now(),
    primary key (task_id, key)
);
create trigger steps_epoch before insert or update on relight.steps
    for each row execute function relight.refuse_stale_epoch();

create table relight.effects (
    key         text primary key,
    task_id     text not null references relight.tasks (id),
    tool        text not null,
    request     jsonb not null,
    status      text not null check (status in ('intent', 'done', 'unknown')),
    response    jsonb,
    epoch       bigint not null,
    intended_at timestamptz not null default now(),
    settled_at  timestamptz
);
create index effects_unsettled on relight.effects (task_id) where status <> 'done';
create trigger effects_epoch before insert or update on relight.effects
    for each row execute function relight.refuse_stale_epoch();
