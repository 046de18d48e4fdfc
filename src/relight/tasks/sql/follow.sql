-- name: standing
select pg_is_in_recovery(), extract(epoch from clock_timestamp() - at)
  from (select) as one left join relight.heartbeat on true

-- Of all the agents of a region one writes, as often as that.
-- name: beat
insert into relight.heartbeat as kept (at) values (clock_timestamp())
    on conflict (one) do update set at = excluded.at where kept.at < excluded.at - %(every_s)s * interval '1 second'
