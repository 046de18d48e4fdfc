-- name: ping
select

-- name: newest_epoch
select epoch, region, opened_at, verified_at, replayed_at from relight.epochs order by epoch desc limit 1

-- A repeated call writes too: a transaction that writes nothing has nothing to be confirmed, and an earlier call may have
-- left the task unconfirmed.
-- name: start_task
insert into relight.tasks (id, kind, payload, due_at, epoch)
values (%(id)s, %(kind)s, %(payload)s, coalesce(%(due_at)s, now()), %(epoch)s)
on conflict (id) do update set updated_at = now(), epoch = excluded.epoch
returning id, kind, payload, status, epoch, attempts, due_at, queued_in is not null, result, result_object, error,
       waits_for

-- name: read_task
select id, kind, payload, status, epoch, attempts, due_at, queued_in is not null, result, result_object, error,
       waits_for
  from relight.tasks where id = %(id)s

-- A claim is free when nobody holds it, its time ran out, or it was made under an epoch that is over. It waits for whoever
-- has the row, which may be the relay that has just published it. What an earlier epoch left and the time travel policy may
-- hold is for nobody until a replay has judged it: so in all that follow.
-- name: claim_task
with free as materialized (
    select id from relight.tasks
     where id = %(id)s
       and (status = 'pending' and due_at <= now()
            or status = 'running' and (lease_until < now() or claimed_epoch < %(epoch)s))
       and (kind = 'work' or epoch = %(epoch)s or (select replayed_at is not null from relight.epochs where epoch = %(epoch)s))
       for update
)
update relight.tasks
   set status = 'running', claimed_by = %(claim)s, claimed_epoch = %(epoch)s,
       lease_until = now() + %(lease_s)s * interval '1 second',
       attempts = attempts + 1, waits_for = null, epoch = %(epoch)s, updated_at = now()
  from free
 where tasks.id = free.id
returning tasks.id, kind, payload, status, epoch, attempts, due_at, queued_in is not null, result, result_object, error,
          waits_for, exists (select from relight.steps where steps.task_id = tasks.id)

-- A write that waits for the standby, and so for everything that was written before it.
-- name: confirm_task
update relight.tasks set updated_at = now(), epoch = %(epoch)s where id = %(id)s

-- name: read_status
select status, queued_in is not null from relight.tasks where id = %(id)s

-- name: claim_due
with dead as materialized (
    select id from relight.tasks
     where status = 'running' and (lease_until < now() or claimed_epoch < %(epoch)s)
       and (kind = 'work' or epoch = %(epoch)s or (select replayed_at is not null from relight.epochs where epoch = %(epoch)s))
     order by lease_until
     limit %(limit)s
       for update skip locked
), due as materialized (
    select id from relight.tasks
     where status = 'pending' and due_at <= now()
       and (kind = 'work' or epoch = %(epoch)s or (select replayed_at is not null from relight.epochs where epoch = %(epoch)s))
     order by due_at, id
     limit greatest(0, %(limit)s - (select count(*) from dead))
       for update skip locked
), free as (
    select id from dead union all select id from due
)
-- By an array, because the planner would join by scanning the table: it takes the limits above for a tenth of all tasks.
update relight.tasks
   set status = 'running', claimed_by = %(claim)s, claimed_epoch = %(epoch)s,
       lease_until = now() + %(lease_s)s * interval '1 second',
       attempts = attempts + 1, waits_for = null, epoch = %(epoch)s, updated_at = now()
 where id = any (array(select id from free))
returning tasks.id, kind, payload, status, epoch, attempts, due_at, queued_in is not null, result, result_object, error,
          waits_for, exists (select from relight.steps where steps.task_id = tasks.id)

-- name: extend_claim
update relight.tasks
   set lease_until = now() + %(lease_s)s * interval '1 second', epoch = %(epoch)s, updated_at = now()
 where id = %(id)s and claimed_by = %(claim)s and status = 'running'

-- An intent that the ended task leaves behind will be asked for by nobody: nobody knows what became of it.
-- name: end_task
with ended as (
    update relight.tasks
       set status = %(status)s, result = %(result)s, result_object = %(result_object)s, error = %(error)s,
           waits_for = %(waits_for)s, claimed_by = null, claimed_epoch = null, lease_until = null, epoch = %(epoch)s, updated_at = now()
     where id = %(id)s and claimed_by = %(claim)s and status = 'running'
    returning id
), left_behind as (
    update relight.effects
       set status = 'unknown', settled_at = now(), epoch = %(epoch)s
      from ended
     where effects.task_id = ended.id and effects.status = 'intent'
)
select id from ended

-- Of those that wait for one thing, the first comes in its time, to look, and the others behind it.
-- name: release_task
update relight.tasks
   set status = 'pending', error = %(error)s, waits_for = %(waits_for)s,
       due_at = now() + %(delay_s)s * interval '1 second' + case when exists (
           select from relight.tasks as first
            where first.waits_for = %(waits_for)s and first.status = 'pending'
              and first.due_at < now() + (%(delay_s)s + 1) * interval '1 second'
       ) then %(behind_s)s * random() else 0 end * interval '1 second',
       attempts = attempts - %(uncounted)s, queued_in = null, queued_at = null,
       claimed_by = null, claimed_epoch = null, lease_until = null, epoch = %(epoch)s, updated_at = now()
 where id = %(id)s and claimed_by = %(claim)s and status = 'running'

-- A parked task that waits for an effect is for `waiting_for`; one that is due waits for nothing any more.
-- name: wake
with waiting as materialized (
    select id from relight.tasks
     where waits_for = %(key)s and status = 'pending' and due_at > now()
       and (kind = 'work' or epoch = %(epoch)s or (select replayed_at is not null from relight.epochs where epoch = %(epoch)s))
     order by due_at
     limit %(limit)s
       for update skip locked
)
update relight.tasks
   set due_at = now(), waits_for = null, queued_in = null, queued_at = null, epoch = %(epoch)s, updated_at = now()
 where id = any (array(select id from waiting))

-- A task that began several lives and gave none back may be what ends them. A message is handed out for other reasons too:
-- a worker that could not reach the ledger, or one that met another at the task.
-- name: give_up_message
update relight.tasks
   set status = case when status = 'running' and attempts >= %(suspicious)s then 'parked' else 'pending' end,
       error = case when status = 'running' and attempts >= %(suspicious)s then %(error)s else error end,
       queued_in = null, queued_at = null,
       claimed_by = null, claimed_epoch = null, lease_until = null, epoch = %(epoch)s, updated_at = now()
 where id = %(id)s
   and (status = 'pending' or status = 'running' and (lease_until < now() or claimed_epoch < %(epoch)s))
   and (kind = 'work' or epoch = %(epoch)s or (select replayed_at is not null from relight.epochs where epoch = %(epoch)s))
returning status

-- name: resume_task
update relight.tasks
   set status = 'pending', due_at = now(), attempts = 0, waits_for = null, queued_in = null, queued_at = null,
       epoch = %(epoch)s, updated_at = now()
 where id = %(id)s and status = any(%(of)s)

-- name: waiting_for
select id from relight.tasks where waits_for = %(key)s and status = 'parked' for no key update

-- A step's failures count anew for a task that a person has looked at.
-- name: forget_failures
delete from relight.steps where task_id = %(id)s and finished_at is null

-- name: cancel_task
update relight.tasks
   set status = 'cancelled', error = %(error)s, epoch = %(epoch)s, updated_at = now()
 where id = %(id)s and status in ('pending', 'parked', 'held')

-- name: list_tasks
select id, kind, null::json, status, epoch, attempts, due_at, queued_in is not null, null::json, null::text, error,
       waits_for
  from relight.tasks
 where status = any(%(statuses)s)
 order by created_at, id
 limit %(limit)s

-- The outbox: what is due and what no queue has confirmed. Whatever brings a task back moves updated_at.
-- name: outbox
select id, (extract(epoch from updated_at) * 1000000)::bigint from relight.tasks
 where status = 'pending' and queued_in is null and due_at <= now()
   and (kind = 'work' or epoch = %(epoch)s or (select replayed_at is not null from relight.epochs where epoch = %(epoch)s))
 order by due_at, id
 limit %(limit)s
   for update skip locked

-- name: mark_queued
update relight.tasks
   set queued_in = %(incarnation)s, queued_at = now(), epoch = %(epoch)s
 where id = any(%(ids)s) and status in ('pending', 'running')

-- What the queue of this incarnation does not hold, or holds no more: it comes back into the outbox. A task whose worker
-- is gone comes back through its message, and only when that took too long through here.
-- name: return_lost
with below as materialized (
    select id from relight.tasks
     where status = 'pending' and queued_in < %(incarnation)s
     limit %(limit)s
       for update skip locked
), above as materialized (
    select id from relight.tasks
     where status = 'pending' and queued_in > %(incarnation)s
     limit greatest(0, %(limit)s - (select count(*) from below))
       for update skip locked
), aged as materialized (
    select id from relight.tasks
     where status = 'pending' and queued_in = %(incarnation)s
       and queued_at < now() - %(max_age_s)s * interval '1 second'
     order by queued_at
     limit greatest(0, %(limit)s - (select count(*) from below) - (select count(*) from above))
       for update skip locked
), pending as (
    select id from below union all select id from above union all select id from aged
), abandoned as materialized (
    select id from relight.tasks
     where status = 'running' and (lease_until < now() or claimed_epoch < %(epoch)s)
       and (queued_in is distinct from %(incarnation)s
            or lease_until < now() - %(grace_s)s * interval '1 second')
     order by lease_until
     limit greatest(0, %(limit)s - (select count(*) from pending))
       for update skip locked
), lost as (
    select id from pending union all select id from abandoned
)
update relight.tasks
   set status = 'pending', queued_in = null, queued_at = null,
       claimed_by = null, claimed_epoch = null, lease_until = null, epoch = %(epoch)s, updated_at = now()
 where id = any (array(select id from lost))
   and (kind = 'work' or epoch = %(epoch)s or (select replayed_at is not null from relight.epochs where epoch = %(epoch)s))

-- name: is_claimed
select exists (select from relight.tasks where id = %(task_id)s and claimed_by = %(claim)s and status = 'running')

-- name: read_steps
select key, result, result_object, failures, error, finished_at is not null
  from relight.steps where task_id = %(task_id)s

-- A worker whose claim has gone to another writes no row.
-- name: record_step
insert into relight.steps (task_id, key, name, result, result_object, epoch, finished_at)
select %(task_id)s, %(key)s, %(name)s, %(result)s, %(result_object)s, %(epoch)s, now()
 where exists (select from relight.tasks
                where id = %(task_id)s and claimed_by = %(claim)s and status = 'running' for no key update)
on conflict (task_id, key) do update
   set name = excluded.name, result = excluded.result, result_object = excluded.result_object, error = null,
       epoch = excluded.epoch, finished_at = excluded.finished_at
 where steps.finished_at is null

-- name: record_failure
insert into relight.steps (task_id, key, name, failures, error, epoch)
select %(task_id)s, %(key)s, %(name)s, 1, %(error)s, %(epoch)s
 where exists (select from relight.tasks
                where id = %(task_id)s and claimed_by = %(claim)s and status = 'running' for no key update)
on conflict (task_id, key) do update
   set failures = steps.failures + 1, error = excluded.error, epoch = excluded.epoch
 where steps.finished_at is null
returning failures

-- name: read_effect
select key, task_id, tool, request, status, response, response_object,
       response is not null or response_object is not null, error, epoch, sending,
       extract(epoch from final_from - clock_timestamp()), extract(epoch from clock_timestamp() - intended_at)
  from relight.effects where key = %(key)s

-- One round trip says whether the task is ours, and whether the intent is new.
-- name: intend_effect
with ours as materialized (
    select id from relight.tasks
     where id = %(task_id)s and claimed_by = %(claim)s and status = 'running' for no key update
), made as (
    insert into relight.effects (key, task_id, tool, request, status, epoch, final_from)
    select %(key)s, %(task_id)s, %(tool)s, %(request)s, 'intent', %(epoch)s,
           clock_timestamp() + %(final_s)s * interval '1 second'
      from ours
    on conflict (key) do nothing
    returning sending
)
select exists (select from ours), (select sending from made)

-- An effect that certainly did not happen is sent anew, by whoever holds its task now.
-- name: intend_again
update relight.effects
   set status = 'intent', task_id = %(task_id)s, sending = sending + 1, error = null, settled_at = null,
       final_from = clock_timestamp() + %(final_s)s * interval '1 second', epoch = %(epoch)s
 where key = %(key)s and sending = %(sending)s and status <> 'done'
   and exists (select from relight.tasks
                where id = %(task_id)s and claimed_by = %(claim)s and status = 'running' for no key update)
returning sending

-- That it happened is true whoever says so; that it did not, only of the sending that is meant. A response that could not
-- be kept may still be found.
-- name: settle_effect
update relight.effects
   set status = %(status)s, response = %(response)s, response_object = %(response_object)s, error = %(error)s,
       epoch = %(epoch)s, settled_at = now()
 where key = %(key)s
   and (status <> 'done' and (%(status)s = 'done' or sending = %(sending)s)
        or %(status)s = 'done' and response is null and response_object is null)

-- A person speaks of the sending that they saw, and of one that waits for them.
-- name: resolve_effect
update relight.effects
   set status = %(status)s, response = %(response)s, response_object = %(response_object)s, error = %(error)s,
       epoch = %(epoch)s, settled_at = now()
 where key = %(key)s and sending = %(sending)s
   and (status in ('intent', 'unknown')
        or status = 'done' and %(status)s = 'done' and response is null and response_object is null)

-- name: list_effects
select key, task_id, tool, request, status, response, response_object,
       response is not null or response_object is not null, error, epoch, sending,
       extract(epoch from final_from - clock_timestamp()), extract(epoch from clock_timestamp() - intended_at)
  from relight.effects
 where status = any(%(statuses)s)
 order by intended_at, key
 limit %(limit)s

-- name: keys_like
select key from relight.effects where key like %(prefix)s order by key limit 2

-- name: take_epoch
insert into relight.epochs (epoch, region, run_id) values (%(epoch)s, %(region)s, %(run_id)s)
on conflict (epoch) do nothing

-- name: mark_verified
update relight.epochs set verified_at = coalesce(verified_at, now()) where epoch = %(epoch)s

-- name: mark_replayed
update relight.epochs set replayed_at = coalesce(replayed_at, now()) where epoch = %(epoch)s

-- name: mark_opened
update relight.epochs set opened_at = coalesce(opened_at, now()) where epoch = %(epoch)s
