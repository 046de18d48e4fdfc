-- Of a million tasks that wait for one thing, who is due first is found without reading them all.
create index tasks_awaiting on relight.tasks (waits_for, due_at) where waits_for is not null;
drop index relight.tasks_waiting;
