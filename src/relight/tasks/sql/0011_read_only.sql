-- While there is a row, nothing new is begun: no task is started or claimed, no effect intended, no memory written. It is
-- replicated as all else is, so that a recovery changes nothing of it.
create table relight.read_only (
    one    boolean primary key default true check (one),
    since  timestamptz not null default now(),
    reason text not null check (reason <> '')
);

-- Why this session may begin nothing; null where it may. What it was told itself goes first: `on` by its settings, `off` by
-- an operator who mends something meanwhile.
create function relight.read_only_reason() returns text language plpgsql stable as $$
begin
    case coalesce(current_setting('relight.read_only', true), '')
        when 'on' then
            return 'the settings say so (read_only)';
        when 'off' then
            return null;
        else
            return (select reason from relight.read_only);
    end case;
end
$$;

create function relight.refuse_read_only() returns trigger language plpgsql as $$
declare
    reason text := relight.read_only_reason();
begin
    if reason is not null then
        raise exception using
            errcode = 'RL003',
            message = format('nothing is begun in %s while all is read-only: %s', tg_table_name, reason);
    end if;
    return new;
end
$$;

-- What goes on is finished: steps, what became of an effect, the end of a task. So are replays, and what operators do.
create trigger tasks_read_only before insert on relight.tasks
    for each statement execute function relight.refuse_read_only();
create trigger claims_read_only before update on relight.tasks
    for each row when (new.status = 'running' and new.claimed_by is distinct from old.claimed_by)
    execute function relight.refuse_read_only();
create trigger effects_read_only before insert on relight.effects
    for each statement execute function relight.refuse_read_only();
create trigger resending_read_only before update on relight.effects
    for each row when (new.sending > old.sending)
    execute function relight.refuse_read_only();
create trigger journal_read_only before insert on relight.journal
    for each statement execute function relight.refuse_read_only();
