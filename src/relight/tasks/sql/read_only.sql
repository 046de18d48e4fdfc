-- name: read
select since, reason from relight.read_only

-- name: begin
insert into relight.read_only (reason) values (%(reason)s)
on conflict (one) do update set reason = excluded.reason
returning since, reason

-- name: end
delete from relight.read_only

-- Whether this session may begin anything: its settings say so too.
-- name: reason
select relight.read_only_reason()

-- What was begun before: it is finished, and a call of its may be on its way until it is final.
-- name: under_way
select (select count(*) from relight.tasks where status = 'running' and lease_until > now()),
       (select count(*) from relight.effects where status = 'intent' and final_from > clock_timestamp())

-- For one transaction of an operator who mends something meanwhile.
-- name: mend
set local relight.read_only = 'off'
