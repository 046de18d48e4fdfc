-- The time is of the statement, not of the transaction, which may have waited. With the time there is always a row.
-- name: read_breakers
select extract(epoch from clock_timestamp())::float8, current_setting('transaction_read_only') = 'on', key, phase,
       extract(epoch from since)::float8, changed_by, version, extract(epoch from open_until)::float8,
       probe, extract(epoch from probe_until)::float8,
       array(select extract(epoch from at)::float8 from unnest(failed_at) at), failed_by,
       extract(epoch from cool_until)::float8, cooled_by, cool_reason
  from (select) one left join relight.breakers on %(key)s::text is null or key = %(key)s

-- name: read_episodes
select extract(epoch from clock_timestamp())::float8, current_setting('transaction_read_only') = 'on', key, kind,
       provider, detail, extract(epoch from since)::float8, extract(epoch from last_at)::float8, stage, back,
       claim, extract(epoch from claim_until)::float8
  from (select) one left join relight.provider_episodes on %(key)s::text is null or key = %(key)s

-- Not the row's lock: there may be no row yet. What comes next has a snapshot of its own, and so sees what was awaited.
-- name: lock
select pg_advisory_xact_lock(hashtext(%(what)s), hashtext(%(key)s))

-- name: write_breaker
insert into relight.breakers (key, phase, since, changed_by, version, open_until, probe, probe_until, failed_at, failed_by,
                              cool_until, cooled_by, cool_reason)
values (%(key)s, %(phase)s, to_timestamp(%(since)s), %(change)s, %(version)s, to_timestamp(%(open_until)s),
        %(probe)s, to_timestamp(%(probe_until)s),
        array(select to_timestamp(at) from unnest(%(failed_at)s::float8[]) at), %(failed_by)s::text[],
        to_timestamp(%(cool_until)s), %(cooled_by)s, %(cool_reason)s)
on conflict (key) do update
   set phase = excluded.phase, since = excluded.since, changed_by = excluded.changed_by,
       version = excluded.version, open_until = excluded.open_until, probe = excluded.probe, probe_until = excluded.probe_until,
       failed_at = excluded.failed_at, failed_by = excluded.failed_by,
       cool_until = excluded.cool_until, cooled_by = excluded.cooled_by, cool_reason = excluded.cool_reason

-- name: write_episode
insert into relight.provider_episodes (key, kind, provider, detail, since, last_at, stage, back, claim, claim_until)
values (%(key)s, %(kind)s, %(provider)s, %(detail)s, to_timestamp(%(since)s), to_timestamp(%(last)s), %(stage)s,
        %(back)s, %(claim)s, to_timestamp(%(claim_until)s))
on conflict (key) do update
   set kind = excluded.kind, provider = excluded.provider, detail = excluded.detail, since = excluded.since,
       last_at = excluded.last_at, stage = excluded.stage, back = excluded.back, claim = excluded.claim,
       claim_until = excluded.claim_until

-- name: end_episode
delete from relight.provider_episodes where key = %(key)s
