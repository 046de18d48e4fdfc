-- What exactly once needs: the outbox, results by reference, step failures that outlive a worker, and effects that tell
-- `certainly not` from `nobody knows`.

-- Results are given back exactly as they were stored. jsonb would make an integer of 1e20 and refuse U+0000.
alter table relight.tasks drop constraint tasks_status_check;
update relight.tasks set status = 'parked', epoch = (select max(epoch) from relight.epochs) where status = 'failed';
alter table relight.tasks
    alter column payload type json,
    alter column result type json,
    add column kind          text not null default 'work' check (kind in ('work', 'timer', 'send', 'credential')),
    add column due_at        timestamptz not null default now(),
    add column claimed_epoch bigint,
    -- The incarnation of the queue that confirmed the task, and when; a pending task without one is in the outbox.
    add column queued_in     text,
    add column queued_at     timestamptz,
    add column result_object text,
    add constraint tasks_status_check
        check (status in ('pending', 'running', 'done', 'parked', 'held', 'cancelled')),
    add constraint tasks_claim_check check ((status = 'running') = (claimed_by is not null));

-- Each reads a handful of rows, however many tasks have ended.
drop index relight.tasks_unfinished;
create index tasks_pending on relight.tasks (due_at, id) where status = 'pending';
create index tasks_outbox on relight.tasks (due_at, id) where status = 'pending' and queued_in is null;
create index tasks_running on relight.tasks (lease_until) where status = 'running';
create index tasks_for_review on relight.tasks (created_at, id) where status in ('parked', 'held');

alter table relight.steps
    alter column result type json,
    alter column result drop not null,
    alter column finished_at drop not null,
    alter column finished_at drop default,
    add column result_object text,
    add column failures      integer not null default 0,
    add column error         text,
    add constraint steps_result_check
        check ((finished_at is not null) = (result is not null or result_object is not null));

alter table relight.effects drop constraint effects_status_check;
alter table relight.effects
    alter column request type json,
    alter column response type json,
    add column response_object text,
    add column error      text,
    -- Which sending this is. What an earlier one has to say of failure is not true of a later one.
    add column sending    integer not null default 1,
    -- From here on the tool has acted, or never will: its answer `not sent` is final.
    add column final_from timestamptz not null default now(),
    add constraint effects_status_check check (status in ('intent', 'done', 'failed', 'unknown'));
drop index relight.effects_unsettled;
create index effects_unsettled on relight.effects (task_id) where status in ('intent', 'unknown');
