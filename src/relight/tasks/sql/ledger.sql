-- name: newest_epoch
select epoch, region, opened_at, verified_at, replayed_at from relight.epochs order by epoch desc limit 1

-- name: start_task
insert into relight.tasks (id, payload, epoch) values (%(id)s, %(payload)s, %(epoch)s)
on conflict (id) do nothing

-- name: touch_task
update relight.tasks set epoch = %(epoch)s, updated_at = now() where id = %(id)s

-- name: read_task
select id, payload, status, epoch, attempts, result, error from relight.tasks where id = %(id)s

-- A claim is free when nobody holds it, its time ran out, or it was made under an epoch that is over.
-- name: claim_task
update relight.tasks
   set status = 'running', claimed_by = %(claim)s, lease_until = now() + %(lease_s)s * interval '1 second',
       attempts = attempts + 1, epoch = %(epoch)s, updated_at = now()
 where id = (select id from relight.tasks
              where id = %(id)s
                and (status = 'pending' or status = 'running' and (lease_until < now() or epoch < %(epoch)s))
                for update skip locked)
returning id, payload, status, epoch, attempts, result, error

-- name: extend_claim
update relight.tasks
   set lease_until = now() + %(lease_s)s * interval '1 second', epoch = %(epoch)s, updated_at = now()
 where id = %(id)s and claimed_by = %(claim)s and status = 'running'

-- name: finish_task
update relight.tasks
   set status = 'done', result = %(result)s, claimed_by = null, lease_until = null, epoch = %(epoch)s, updated_at = now()
 where id = %(id)s and claimed_by = %(claim)s and status = 'running'

-- name: release_task
update relight.tasks
   set status = %(status)s, error = %(error)s, claimed_by = null, lease_until = null, epoch = %(epoch)s,
       updated_at = now()
 where id = %(id)s and claimed_by = %(claim)s and status = 'running'

-- name: read_step
select result from relight.steps where task_id = %(task_id)s and key = %(key)s

-- A worker whose claim has gone to another writes no row.
-- name: record_step
insert into relight.steps (task_id, key, name, result, epoch)
select %(task_id)s, %(key)s, %(name)s, %(result)s, %(epoch)s
 where exists (select from relight.tasks
                where id = %(task_id)s and claimed_by = %(claim)s and status = 'running' for update)

-- name: read_effect
select key, task_id, tool, request, status, response, epoch from relight.effects where key = %(key)s

-- An intent that an earlier life left is taken over, and moves under the newest epoch.
-- name: intend_effect
insert into relight.effects (key, task_id, tool, request, status, epoch)
select %(key)s, %(task_id)s, %(tool)s, %(request)s, 'intent', %(epoch)s
 where exists (select from relight.tasks
                where id = %(task_id)s and claimed_by = %(claim)s and status = 'running' for update)
on conflict (key) do update set status = 'intent', epoch = excluded.epoch where effects.status <> 'done'

-- name: settle_effect
update relight.effects
   set status = %(status)s, response = %(response)s, epoch = %(epoch)s, settled_at = now()
 where key = %(key)s and status <> 'done'

-- name: unfinished_tasks
select id, status, epoch, created_at from relight.tasks
 where status in ('pending', 'running')
   and created_at >= %(since)s
   and (status = 'pending' or lease_until < now() or epoch < %(epoch)s)
 order by created_at, id

-- name: take_epoch
insert into relight.epochs (epoch, region, run_id) values (%(epoch)s, %(region)s, %(run_id)s)
on conflict (epoch) do nothing

-- name: mark_verified
update relight.epochs set verified_at = coalesce(verified_at, now()) where epoch = %(epoch)s

-- name: mark_replayed
update relight.epochs set replayed_at = coalesce(replayed_at, now()) where epoch = %(epoch)s

-- name: mark_opened
update relight.epochs set opened_at = coalesce(opened_at, now()) where epoch = %(epoch)s
