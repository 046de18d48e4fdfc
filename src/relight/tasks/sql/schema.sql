-- The present schema of the state database, for reading; Relight applies the migrations beside this file, never this.
-- A test compares the two. After a migration, write it anew:
-- RELIGHT_WRITE_SCHEMA=1 scripts/test tests/contract/test_migrate.py

CREATE SCHEMA relight;

CREATE FUNCTION relight.epoch_start() RETURNS pg_lsn
    LANGUAGE plpgsql
    AS $$
begin
    if relight.on_aurora() then
        return relight.log_position();
    end if;
    return coalesce(pg_last_wal_replay_lsn(), pg_current_wal_insert_lsn());
end
$$;

CREATE FUNCTION relight.epoch_timeline() RETURNS integer
    LANGUAGE plpgsql
    AS $$
begin
    if relight.on_aurora() then
        return coalesce((select max(timeline) from relight.epochs), 0) + 1;
    end if;
    return relight.log_timeline();
end
$$;

CREATE FUNCTION relight.log_position() RETURNS pg_lsn
    LANGUAGE plpgsql
    AS $$
begin
    if relight.on_aurora() then
        return '0/0'::pg_lsn + pg_snapshot_xmin(pg_current_snapshot())::text::numeric;
    elsif pg_is_in_recovery() then
        return pg_last_wal_replay_lsn();
    end if;
    return pg_current_wal_flush_lsn();
end
$$;

CREATE FUNCTION relight.log_timeline() RETURNS integer
    LANGUAGE plpgsql
    AS $$
begin
    if relight.on_aurora() or pg_is_in_recovery() then
        return (select timeline from relight.epochs order by epoch desc limit 1);
    end if;
    return ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::integer;
end
$$;

CREATE FUNCTION relight.on_aurora() RETURNS boolean
    LANGUAGE sql STABLE
    RETURN (to_regproc('aurora_global_db_status'::text) IS NOT NULL);

CREATE FUNCTION relight.read_only_reason() RETURNS text
    LANGUAGE plpgsql STABLE
    AS $$
begin
    case coalesce(current_setting('relight.read_only', true), '')
        when 'on' then
            return 'the settings say so (read_only)';
        when 'off' then
            return null;
        else
            return (select reason from relight.read_only);
    end case;
end
$$;

CREATE FUNCTION relight.refuse_read_only() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
declare
    reason text := relight.read_only_reason();
begin
    if reason is not null then
        raise exception using
            errcode = 'RL003',
            message = format('nothing is begun in %s while all is read-only: %s', tg_table_name, reason);
    end if;
    return new;
end
$$;

CREATE FUNCTION relight.refuse_stale_epoch() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
declare
    newest bigint;
begin
    select max(epoch) into newest from relight.epochs;
    if new.epoch is distinct from newest then
        raise exception using
            errcode = 'RL001',
            message = format('epoch %s wrote to %s, and the newest is %s', new.epoch, tg_table_name, newest);
    end if;
    return new;
end
$$;

CREATE TABLE relight.breakers (
    key text NOT NULL,
    phase text NOT NULL,
    since timestamp with time zone NOT NULL,
    changed_by text NOT NULL,
    version bigint NOT NULL,
    open_until timestamp with time zone NOT NULL,
    probe text NOT NULL,
    probe_until timestamp with time zone NOT NULL,
    failed_at timestamp with time zone[] NOT NULL,
    failed_by text[] NOT NULL,
    cool_until timestamp with time zone NOT NULL,
    cooled_by text NOT NULL,
    cool_reason text NOT NULL,
    CONSTRAINT breakers_phase_check CHECK ((phase = ANY (ARRAY['closed'::text, 'open'::text])))
);

CREATE TABLE relight.effects (
    key text NOT NULL,
    task_id text NOT NULL,
    tool text NOT NULL,
    request json NOT NULL,
    status text NOT NULL,
    response json,
    epoch bigint NOT NULL,
    intended_at timestamp with time zone DEFAULT now() NOT NULL,
    settled_at timestamp with time zone,
    response_object text,
    error text,
    sending integer DEFAULT 1 NOT NULL,
    final_from timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT effects_status_check CHECK ((status = ANY (ARRAY['intent'::text, 'done'::text, 'failed'::text, 'unknown'::text])))
);

CREATE TABLE relight.epochs (
    epoch bigint NOT NULL,
    region text NOT NULL,
    run_id text NOT NULL,
    taken_at timestamp with time zone DEFAULT now() NOT NULL,
    verified_at timestamp with time zone,
    replayed_at timestamp with time zone,
    opened_at timestamp with time zone,
    timeline integer DEFAULT relight.epoch_timeline() NOT NULL,
    started_lsn pg_lsn DEFAULT relight.epoch_start() NOT NULL
);

CREATE TABLE relight.heartbeat (
    one boolean DEFAULT true NOT NULL,
    at timestamp with time zone NOT NULL,
    CONSTRAINT heartbeat_one_check CHECK (one)
);

CREATE TABLE relight.journal (
    seq bigint NOT NULL,
    xid xid8 DEFAULT pg_current_xact_id() NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    epoch bigint NOT NULL,
    collection text NOT NULL,
    op text NOT NULL,
    id text NOT NULL,
    vector bytea,
    payload jsonb,
    task_id text,
    CONSTRAINT journal_check CHECK (((op = 'upsert'::text) = (vector IS NOT NULL))),
    CONSTRAINT journal_op_check CHECK ((op = ANY (ARRAY['upsert'::text, 'delete'::text])))
)
WITH (toast_tuple_target='4080');
ALTER TABLE ONLY relight.journal ALTER COLUMN vector SET STORAGE EXTERNAL;

CREATE TABLE relight.journal_alive (
    collection text NOT NULL,
    id text NOT NULL
);

CREATE TABLE relight.journal_cuts (
    id text NOT NULL,
    collection text NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    epoch bigint NOT NULL,
    moment timestamp with time zone,
    tasks text[],
    base text NOT NULL,
    left_out bigint NOT NULL,
    restored bigint NOT NULL,
    deleted bigint NOT NULL,
    CONSTRAINT journal_cuts_check CHECK (((moment IS NULL) <> (tasks IS NULL)))
);

CREATE TABLE relight.journal_edges (
    collection text NOT NULL,
    xid xid8 NOT NULL,
    seq bigint NOT NULL,
    moved_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE relight.journal_segments (
    collection text NOT NULL,
    after_xid xid8 NOT NULL,
    after_seq bigint NOT NULL,
    until_xid xid8 NOT NULL,
    until_seq bigint NOT NULL,
    object text NOT NULL,
    sha256 text NOT NULL,
    bytes bigint NOT NULL,
    entries integer NOT NULL,
    first_at timestamp with time zone NOT NULL,
    last_at timestamp with time zone NOT NULL,
    archived_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT journal_segments_check CHECK ((ROW(after_xid, after_seq) < ROW(until_xid, until_seq)))
);

ALTER TABLE relight.journal ALTER COLUMN seq ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME relight.journal_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE relight.migrations (
    version integer NOT NULL,
    name text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL,
    sha256 text
);

CREATE TABLE relight.provider_episodes (
    key text NOT NULL,
    kind text NOT NULL,
    provider text NOT NULL,
    detail text NOT NULL,
    since timestamp with time zone NOT NULL,
    last_at timestamp with time zone NOT NULL,
    stage text NOT NULL,
    back text NOT NULL,
    claim text NOT NULL,
    claim_until timestamp with time zone NOT NULL,
    CONSTRAINT provider_episodes_kind_check CHECK ((kind = ANY (ARRAY['fallback'::text, 'denied'::text]))),
    CONSTRAINT provider_episodes_stage_check CHECK ((stage = ANY (ARRAY['begun'::text, 'due'::text, 'raised'::text])))
);

CREATE TABLE relight.read_only (
    one boolean DEFAULT true NOT NULL,
    since timestamp with time zone DEFAULT now() NOT NULL,
    reason text NOT NULL,
    CONSTRAINT read_only_one_check CHECK (one),
    CONSTRAINT read_only_reason_check CHECK ((reason <> ''::text))
);

CREATE TABLE relight.steps (
    task_id text NOT NULL,
    key text NOT NULL,
    name text NOT NULL,
    result json,
    epoch bigint NOT NULL,
    finished_at timestamp with time zone,
    result_object text,
    failures integer DEFAULT 0 NOT NULL,
    error text,
    CONSTRAINT steps_result_check CHECK (((finished_at IS NOT NULL) = ((result IS NOT NULL) OR (result_object IS NOT NULL))))
);

CREATE TABLE relight.tasks (
    id text NOT NULL,
    payload json NOT NULL,
    status text DEFAULT 'pending'::text NOT NULL,
    epoch bigint NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    claimed_by text,
    lease_until timestamp with time zone,
    result json,
    error text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    kind text DEFAULT 'work'::text NOT NULL,
    due_at timestamp with time zone DEFAULT now() NOT NULL,
    claimed_epoch bigint,
    queued_in text,
    queued_at timestamp with time zone,
    result_object text,
    waits_for text,
    CONSTRAINT tasks_claim_check CHECK (((status = 'running'::text) = (claimed_by IS NOT NULL))),
    CONSTRAINT tasks_kind_check CHECK ((kind = ANY (ARRAY['work'::text, 'timer'::text, 'send'::text, 'credential'::text]))),
    CONSTRAINT tasks_status_check CHECK ((status = ANY (ARRAY['pending'::text, 'running'::text, 'done'::text, 'parked'::text, 'held'::text, 'cancelled'::text])))
);

ALTER TABLE ONLY relight.breakers
    ADD CONSTRAINT breakers_pkey PRIMARY KEY (key);

ALTER TABLE ONLY relight.effects
    ADD CONSTRAINT effects_pkey PRIMARY KEY (key);

ALTER TABLE ONLY relight.epochs
    ADD CONSTRAINT epochs_pkey PRIMARY KEY (epoch);

ALTER TABLE ONLY relight.heartbeat
    ADD CONSTRAINT heartbeat_pkey PRIMARY KEY (one);

ALTER TABLE ONLY relight.journal_alive
    ADD CONSTRAINT journal_alive_pkey PRIMARY KEY (collection, id);

ALTER TABLE ONLY relight.journal_cuts
    ADD CONSTRAINT journal_cuts_pkey PRIMARY KEY (id, collection);

ALTER TABLE ONLY relight.journal_edges
    ADD CONSTRAINT journal_edges_pkey PRIMARY KEY (collection);

ALTER TABLE ONLY relight.journal
    ADD CONSTRAINT journal_pkey PRIMARY KEY (collection, xid, seq);

ALTER TABLE ONLY relight.journal_segments
    ADD CONSTRAINT journal_segments_collection_after_xid_after_seq_key UNIQUE (collection, after_xid, after_seq);

ALTER TABLE ONLY relight.journal_segments
    ADD CONSTRAINT journal_segments_pkey PRIMARY KEY (collection, until_xid, until_seq);

ALTER TABLE ONLY relight.migrations
    ADD CONSTRAINT migrations_pkey PRIMARY KEY (version);

ALTER TABLE ONLY relight.provider_episodes
    ADD CONSTRAINT provider_episodes_pkey PRIMARY KEY (key);

ALTER TABLE ONLY relight.read_only
    ADD CONSTRAINT read_only_pkey PRIMARY KEY (one);

ALTER TABLE ONLY relight.steps
    ADD CONSTRAINT steps_pkey PRIMARY KEY (task_id, key);

ALTER TABLE ONLY relight.tasks
    ADD CONSTRAINT tasks_pkey PRIMARY KEY (id);

CREATE INDEX effects_unsettled ON relight.effects USING btree (task_id) WHERE (status = ANY (ARRAY['intent'::text, 'unknown'::text]));

CREATE INDEX tasks_awaiting ON relight.tasks USING btree (waits_for, due_at) WHERE (waits_for IS NOT NULL);

CREATE INDEX tasks_for_review ON relight.tasks USING btree (created_at, id) WHERE (status = ANY (ARRAY['parked'::text, 'held'::text]));

CREATE INDEX tasks_outbox ON relight.tasks USING btree (due_at, id) WHERE ((status = 'pending'::text) AND (queued_in IS NULL));

CREATE INDEX tasks_pending ON relight.tasks USING btree (due_at, id) WHERE (status = 'pending'::text);

CREATE INDEX tasks_queued ON relight.tasks USING btree (queued_in, queued_at) WHERE ((status = 'pending'::text) AND (queued_in IS NOT NULL));

CREATE INDEX tasks_running ON relight.tasks USING btree (lease_until) WHERE (status = 'running'::text);

CREATE TRIGGER claims_read_only BEFORE UPDATE ON relight.tasks FOR EACH ROW WHEN (((new.status = 'running'::text) AND (new.claimed_by IS DISTINCT FROM old.claimed_by))) EXECUTE FUNCTION relight.refuse_read_only();

CREATE TRIGGER effects_epoch BEFORE INSERT OR UPDATE ON relight.effects FOR EACH ROW EXECUTE FUNCTION relight.refuse_stale_epoch();

CREATE TRIGGER effects_read_only BEFORE INSERT ON relight.effects FOR EACH STATEMENT EXECUTE FUNCTION relight.refuse_read_only();

CREATE TRIGGER journal_cuts_epoch BEFORE INSERT ON relight.journal_cuts FOR EACH ROW EXECUTE FUNCTION relight.refuse_stale_epoch();

CREATE TRIGGER journal_epoch BEFORE INSERT ON relight.journal FOR EACH ROW EXECUTE FUNCTION relight.refuse_stale_epoch();

CREATE TRIGGER journal_read_only BEFORE INSERT ON relight.journal FOR EACH STATEMENT EXECUTE FUNCTION relight.refuse_read_only();

CREATE TRIGGER resending_read_only BEFORE UPDATE ON relight.effects FOR EACH ROW WHEN ((new.sending > old.sending)) EXECUTE FUNCTION relight.refuse_read_only();

CREATE TRIGGER steps_epoch BEFORE INSERT OR UPDATE ON relight.steps FOR EACH ROW EXECUTE FUNCTION relight.refuse_stale_epoch();

CREATE TRIGGER tasks_epoch BEFORE INSERT OR UPDATE ON relight.tasks FOR EACH ROW EXECUTE FUNCTION relight.refuse_stale_epoch();

CREATE TRIGGER tasks_read_only BEFORE INSERT ON relight.tasks FOR EACH STATEMENT EXECUTE FUNCTION relight.refuse_read_only();

ALTER TABLE ONLY relight.effects
    ADD CONSTRAINT effects_task_id_fkey FOREIGN KEY (task_id) REFERENCES relight.tasks(id);

ALTER TABLE ONLY relight.steps
    ADD CONSTRAINT steps_task_id_fkey FOREIGN KEY (task_id) REFERENCES relight.tasks(id);
