-- name: now
select clock_timestamp()

-- Everything that is not at its end, counted: what a replay would publish and why, what the policy would hold, and what
-- either leaves alone.
-- name: plan
with limits as (
    select * from unnest(%(kinds)s::text[], %(befores)s::timestamptz[]) as limits (kind, before)
), unfinished as (
    select kind, due_at, epoch, created_at, queued_in, queued_at, false as running, false as worked_on
      from relight.tasks where status = 'pending'
    union all
    select kind, due_at, epoch, created_at, queued_in, queued_at, true,
           not coalesce(lease_until < now() or claimed_epoch < %(epoch)s, false)
      from relight.tasks where status = 'running'
), judged as (
    select kind, due_at,
           case when worked_on then 'worked on'
                when epoch < %(epoch)s and due_at < before then 'hold'
                when due_at > %(now)s then 'later'
                when %(since)s::timestamptz > created_at then 'older'
                when running then 'running'
                when queued_in is null then 'unconfirmed'
                when queued_in <> %(incarnation)s or epoch < %(epoch)s
                     or queued_at < %(now)s - %(max_age_s)s * interval '1 second' then 'pending'
                when queued_at >= %(now)s then 'just queued'
                else 'queued' end as state
      from unfinished left join limits using (kind)
)
select state, kind, count(*), min(due_at), max(due_at) from judged group by state, kind order by state, kind

-- name: for_review
select status, kind, count(*), min(due_at), max(due_at)
  from relight.tasks
 where status in ('parked', 'held')
 group by status, kind
 order by status, kind

-- name: open_effects
select tool, status, count(*), min(intended_at)
  from relight.effects
 where status in ('intent', 'unknown')
 group by tool, status
 order by tool, status

-- What an earlier epoch left and nobody has touched since is a restored state. What the policy says of it is final only
-- once it is written, so this waits for whoever has a row.
-- name: hold
with limits as (
    select * from unnest(%(kinds)s::text[], %(befores)s::timestamptz[], %(reasons)s::text[])
        as limits (kind, before, reason)
), pending as materialized (
    select tasks.id, reason
      from relight.tasks join limits using (kind)
     where status = 'pending' and epoch < %(epoch)s and due_at < before
     order by due_at, id
     limit %(limit)s
       for no key update of tasks
), running as materialized (
    select tasks.id, reason
      from relight.tasks join limits using (kind)
     where status = 'running' and epoch < %(epoch)s and due_at < before
       and (lease_until < now() or claimed_epoch < %(epoch)s)
     order by due_at, id
     limit %(limit)s
       for no key update of tasks
), old as (
    select * from pending union all select * from running
)
update relight.tasks
   set status = 'held', error = old.reason, queued_in = null, queued_at = null,
       claimed_by = null, claimed_epoch = null, lease_until = null, epoch = %(epoch)s, updated_at = now()
  from old
 where tasks.id = old.id
returning kind

-- What is known of the table's contents may be of before the recovery; the next batch is always read off the index in
-- its order, because sorting what is left for every batch costs more than all the rest (40 ms of 100,000, measured).
-- name: in_order
set local enable_bitmapscan = off;
set local enable_sort = off

-- The next tasks in their order that are to be published; why is judged as in the plan. It goes on after the last one, so that what was published before
-- is not looked at again. What an older epoch's worker or queue has is not relied on. The number that tells a publication
-- from the queue's earlier ones is another when the task came back or was confirmed meanwhile, as in the outbox.
-- name: take
with pending as materialized (
    select id, due_at, updated_at, queued_at, found
      from relight.tasks, lateral (
               select case when queued_in is null then 'unconfirmed'
                           when queued_in <> %(incarnation)s or epoch < %(epoch)s
                                or queued_at < %(now)s - %(max_age_s)s * interval '1 second' then 'pending'
                           when queued_at >= %(now)s then 'just queued'
                           else 'queued' end as found
           ) as judged
     where status = 'pending' and due_at <= %(now)s and (due_at, id) > (%(after_due_at)s, %(after_id)s)
       and found = any(%(found)s)
       and (%(since)s::timestamptz is null or created_at >= %(since)s)
     order by due_at, id
     limit %(limit)s
       for no key update of tasks skip locked
), running as materialized (
    select id, due_at, updated_at, queued_at, 'running' as found
      from relight.tasks
     where status = 'running' and due_at <= %(now)s and (due_at, id) > (%(after_due_at)s, %(after_id)s)
       and 'running' = any(%(found)s) and (lease_until < now() or claimed_epoch < %(epoch)s)
       and (%(since)s::timestamptz is null or created_at >= %(since)s)
     order by due_at, id
     limit %(limit)s
       for no key update skip locked
), found as (
    select * from pending union all select * from running
)
select id, due_at, (extract(epoch from greatest(updated_at, queued_at)) * 1000000)::bigint, found
  from found order by due_at, id limit %(limit)s

-- name: mark
update relight.tasks
   set status = 'pending', queued_in = %(incarnation)s, queued_at = now(),
       claimed_by = null, claimed_epoch = null, lease_until = null, epoch = %(epoch)s
 where id = any(%(ids)s)
