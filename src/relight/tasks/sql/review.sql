-- Both conditions: the first is what the partial index on tasks for review says, so that only those are read.
-- name: count_held
select kind, count(*) from relight.tasks where status in ('parked', 'held') and status = 'held' group by kind

-- name: resume_held
with held as materialized (
    select id from relight.tasks
     where status = 'held' and kind = any(%(kinds)s)
     order by created_at, id
     limit %(limit)s
       for no key update
), forgotten as (
    delete from relight.steps using held where task_id = held.id and finished_at is null
)
update relight.tasks
   set status = 'pending', due_at = now(), attempts = 0, queued_in = null, queued_at = null,
       epoch = %(epoch)s, updated_at = now()
  from held
 where tasks.id = held.id

-- name: look_up
select id, kind, status, epoch, attempts, created_at, due_at, updated_at, claimed_by, error,
       waits_for, payload
  from relight.tasks where id = %(id)s

-- name: steps
select key, name, finished_at, failures, error from relight.steps where task_id = %(id)s order by finished_at, key

-- It looks through all effects, which takes a second for some millions: nothing but this asks for a task's effects, and
-- an index would cost every effect.
-- name: effects
select key, tool, status, error, intended_at from relight.effects where task_id = %(id)s order by intended_at, key
