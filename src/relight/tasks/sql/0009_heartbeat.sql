-- When the region that acts last said so: in a replica, how far that is behind. One row, replicated as all else is.
create table relight.heartbeat (
    one boolean primary key default true check (one),
    at  timestamptz not null
);
