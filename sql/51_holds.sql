/* ---- what the life cycle keeps: legal holds and the runs of purge, expiry, retention and maintain() ---- */

CREATE FUNCTION softaudit.ensure_lifecycle() RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF to_regclass('softaudit.holds') IS NULL THEN
        CREATE SEQUENCE softaudit.hold_id_seq;
        PERFORM softaudit.own_alone('softaudit.hold_id_seq');
        CREATE TABLE softaudit.holds (
            hold_id bigint PRIMARY KEY,
            table_id integer NOT NULL,
            row_ref bigint,             -- as in softaudit.log; NULL: the whole table
            row_key jsonb,
            reason text NOT NULL,
            held_by text NOT NULL,
            held_at timestamptz NOT NULL DEFAULT now(),
            CHECK ((row_ref IS NULL) = (row_key IS NULL))
        );
        CREATE UNIQUE INDEX holds_what_idx ON softaudit.holds (table_id, (COALESCE(row_ref, 0)), (COALESCE(row_key, '{}')));
        COMMENT ON TABLE softaudit.holds IS
            'legal holds: tables and rows that no purge, retention, expiry or erasure touches';
        PERFORM softaudit.own_alone('softaudit.holds');
    END IF;
    IF to_regclass('softaudit.runs') IS NULL THEN
        CREATE SEQUENCE softaudit.run_id_seq;
        PERFORM softaudit.own_alone('softaudit.run_id_seq');
        CREATE TABLE softaudit.runs (
            run_id bigint PRIMARY KEY,
            kind text NOT NULL CHECK (kind IN ('MAINTAIN', 'PURGE', 'EXPIRE', 'RETENTION')),
            table_id integer,           -- of PURGE and EXPIRE
            log_group integer,          -- of RETENTION
            started_at timestamptz NOT NULL,
            updated_at timestamptz NOT NULL,
            finished_at timestamptz,    -- NULL: it runs, or it died
            pid integer NOT NULL,
            run_by text NOT NULL,
            cutoff timestamptz,
            batches bigint NOT NULL DEFAULT 0,
            rows_done bigint NOT NULL DEFAULT 0,
            rows_blocked bigint NOT NULL DEFAULT 0,
            blocked_by jsonb,           -- rows that each table keeps
            message text                -- why it failed
        );
        CREATE INDEX runs_table_id_idx ON softaudit.runs (table_id, kind, run_id);
        COMMENT ON TABLE softaudit.runs IS
            'runs of maintain(), purge, expiry and retention, with their progress; the last 90 days of them';
        PERFORM softaudit.own_alone('softaudit.runs');
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.ensure_lifecycle() IS
'makes the tables of holds and runs where they are missing';
