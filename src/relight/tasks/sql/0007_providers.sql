-- What workers know together about LLM providers: their breakers, and what lasts so long that a person must look.
create table relight.breakers (
    key         text primary key,
    phase       text not null check (phase in ('closed', 'open')),
    since       timestamptz not null,
    changed_by  text not null,
    version     bigint not null,
    open_until  timestamptz not null,
    probe       text not null,
    probe_until timestamptz not null,
    failed_at   timestamptz[] not null,
    failed_by   text[] not null,
    cool_until  timestamptz not null,
    cooled_by   text not null,
    cool_reason text not null
);

create table relight.provider_episodes (
    key         text primary key,
    kind        text not null check (kind in ('fallback', 'denied')),
    provider    text not null,
    detail      text not null,
    since       timestamptz not null,
    last_at     timestamptz not null,
    stage       text not null check (stage in ('begun', 'due', 'raised')),
    back        text not null,
    claim       text not null,
    claim_until timestamptz not null
);
