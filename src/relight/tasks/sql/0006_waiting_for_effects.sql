-- Which effect a parked task waits for, so that whoever finds out what became of it lets all go on that wait for it.
alter table relight.tasks add column waits_for text;
create index tasks_waiting on relight.tasks (waits_for) where waits_for is not null;
