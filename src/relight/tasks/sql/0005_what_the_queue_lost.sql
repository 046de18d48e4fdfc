-- What a queue that was lost had, found without looking at what the present one has: a million tasks may wait in it, and
-- each worker asks every few seconds.
create index tasks_queued on relight.tasks (queued_in, queued_at) where status = 'pending' and queued_in is not null;
