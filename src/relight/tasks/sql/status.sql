-- Only what is not at its end is counted: for that there are indexes, however many tasks are done.
-- name: unfinished
select status, count(*), count(*) filter (where waits_for is not null), min(due_at)
  from relight.tasks
 where status in ('pending', 'running')
 group by status

-- name: for_review
select status, count(*) from relight.tasks where status in ('parked', 'held') group by status

-- name: unknown_effects
select count(*) from relight.effects where status in ('intent', 'unknown') and status = 'unknown'
