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
            batch_size integer,
            leaf_at integer NOT NULL DEFAULT 1,     -- which relation below the table, and where in it
            leaf oid,
            stamp_at text,
            tid_at tid,
            batches bigint NOT NULL DEFAULT 0,
            rows_done bigint NOT NULL DEFAULT 0,
            rows_blocked bigint NOT NULL DEFAULT 0,
            rows_skipped bigint NOT NULL DEFAULT 0, -- others had them locked
            blocked_by jsonb,           -- rows that each table keeps
            message text                -- why it failed
        );
        CREATE INDEX runs_table_id_idx ON softaudit.runs (table_id, kind, run_id);
        COMMENT ON TABLE softaudit.runs IS
            'runs of maintain(), purge, expiry and retention, with their progress; the last 90 days of them';
        PERFORM softaudit.own_alone('softaudit.runs');
    END IF;
    IF to_regclass('softaudit.progress') IS NULL THEN
        CREATE VIEW softaudit.progress AS
        SELECT u.run_id, u.kind, r.relation, u.started_at, u.updated_at, u.cutoff, u.batches, u.rows_done, u.rows_blocked,
               u.rows_skipped, u.blocked_by, u.run_by, u.pid
          FROM softaudit.runs u
          JOIN pg_stat_activity a ON a.pid = u.pid AND a.backend_start <= u.started_at
          LEFT JOIN softaudit.registry r ON r.table_id = u.table_id
         WHERE u.finished_at IS NULL AND u.kind <> 'MAINTAIN';
        COMMENT ON VIEW softaudit.progress IS
            'the purges and expiries that run now, as of their last batch';
        PERFORM softaudit.own_alone('softaudit.progress');
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.ensure_lifecycle() IS
'makes the tables of holds and runs, and the view on them, where they are missing';

CREATE FUNCTION softaudit.row_ref(table_id integer, key_image jsonb) RETURNS bigint
LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'softaudit_row_ref';
COMMENT ON FUNCTION softaudit.row_ref(integer, jsonb) IS
'what softaudit.log finds the changes of a row by: the table''s id and a digest of the key';

CREATE FUNCTION softaudit.may_execute(signature text) RETURNS void
LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT has_function_privilege(softaudit.caller(), signature, 'EXECUTE') THEN
        RAISE EXCEPTION 'permission denied for function %', substring(signature FROM 'softaudit\.([a-z_]+)')
            USING ERRCODE = 'insufficient_privilege',
                  HINT = format('GRANT EXECUTE ON FUNCTION %s TO the role that is to call it.', signature);
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.may_execute(text) IS
'raises insufficient_privilege unless the caller may execute a function';

/*
 * What a key of another type than text is read back from, whatever the caller's settings.
 * Not lc_monetary: money is read under the same one.
 */
CREATE FUNCTION softaudit.key_as_text(key anyelement) RETURNS text
LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC' SET DateStyle = 'ISO' SET IntervalStyle = 'postgres' SET bytea_output = 'hex' SET extra_float_digits = 1 AS $$
    SELECT key::text
$$;
COMMENT ON FUNCTION softaudit.key_as_text(anyelement) IS
'a key as text that means the same under all settings; NULL for NULL';

CREATE FUNCTION softaudit.key_given(target regclass, key text) RETURNS jsonb
LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known record;
    image jsonb;
    given jsonb;
    value text;
BEGIN
    IF target IS NULL OR key IS NULL THEN
        RAISE EXCEPTION 'neither the table nor the key must be NULL'
            USING ERRCODE = 'null_value_not_allowed', HINT = 'Name the table, and give the primary key of one row.';
    END IF;
    SELECT * INTO known FROM softaudit.registry r WHERE r.relation = target;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'table "%" is not enabled', target
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'softaudit.enable() sets it up; for a partition, name the partitioned table.';
    END IF;
    image := softaudit.key_image(target, key);
    IF NOT known.redact && known.key_columns THEN
        RETURN image;
    END IF;
    -- what is redacted in the log has to be known to find the row, by whoever looks for it
    given := CASE WHEN cardinality(known.key_columns) > 1 THEN key::jsonb
                  ELSE jsonb_build_object(known.key_columns[1], CASE WHEN known.key_types[1] = 'jsonb' THEN key::jsonb ELSE to_jsonb(key) END) END;
    FOR i IN 1 .. cardinality(known.key_columns) LOOP
        CONTINUE WHEN known.key_types[i] = 'jsonb' OR jsonb_typeof(given -> known.key_columns[i]::text) IN ('array', 'object');
        -- types of PostgreSQL's own only: see key_of()
        EXECUTE format('SELECT softaudit.key_as_text(%L::%s)', given ->> known.key_columns[i]::text, known.key_types[i]) INTO value;
        given := given || jsonb_build_object(known.key_columns[i], value);
    END LOOP;
    RETURN given;
END
$$;
COMMENT ON FUNCTION softaudit.key_given(regclass, text) IS
'a key as an object of its columns; raises what history() raises for one that cannot be';

CREATE FUNCTION softaudit.check_reason(reason text, example text) RETURNS void
LANGUAGE plpgsql IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF COALESCE(btrim(reason), '') = '' THEN
        RAISE EXCEPTION 'a reason must be given'
            USING ERRCODE = 'null_value_not_allowed', HINT = format('It stays on record in softaudit.events: %L.', example);
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.check_reason(text, text) IS
'raises null_value_not_allowed for a reason that says nothing';

CREATE FUNCTION softaudit.hold(target regclass, reason text) RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_lifecycle_call';
COMMENT ON FUNCTION softaudit.hold(regclass, text) IS
'legal hold on a table: no purge, expiry or erasure of its rows and no retention of log partitions that hold its changes; for whoever was granted EXECUTE';

CREATE FUNCTION softaudit.hold(target regclass, key text, reason text) RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_lifecycle_call';
COMMENT ON FUNCTION softaudit.hold(regclass, text, text) IS
'legal hold on one row by its primary key; for whoever was granted EXECUTE';

CREATE FUNCTION softaudit.hold(target regclass, key anyelement, reason text) RETURNS void
LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS $$ SELECT softaudit.hold(target, softaudit.key_as_text(key), reason) $$;
COMMENT ON FUNCTION softaudit.hold(regclass, anyelement, text) IS
'hold() by a key of the column''s own type, or a jsonb object for a composite key';

CREATE FUNCTION softaudit.release(target regclass) RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_lifecycle_call';
COMMENT ON FUNCTION softaudit.release(regclass) IS
'ends the hold on a table; those on single rows stay; for whoever was granted EXECUTE';

CREATE FUNCTION softaudit.release(target regclass, key text) RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_lifecycle_call';
COMMENT ON FUNCTION softaudit.release(regclass, text) IS
'ends the hold on one row; for whoever was granted EXECUTE';

CREATE FUNCTION softaudit.release(target regclass, key anyelement) RETURNS void
LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS $$ SELECT softaudit.release(target, softaudit.key_as_text(key)) $$;
COMMENT ON FUNCTION softaudit.release(regclass, anyelement) IS
'release() by a key of the column''s own type, or a jsonb object for a composite key';

CREATE FUNCTION softaudit.release_hold(hold_id bigint) RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_lifecycle_call';
COMMENT ON FUNCTION softaudit.release_hold(bigint) IS
'ends a hold by its number in softaudit.holds: of a table that was dropped, or a row whose key cannot be given any more; for whoever was granted EXECUTE';

CREATE FUNCTION softaudit.hold_what(target regclass, key jsonb, key_text text, reason text) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known record;
    held record;
BEGIN
    PERFORM softaudit.check_reason(reason, 'litigation 4711');
    SELECT * INTO known FROM softaudit.registry r WHERE r.relation = target;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'table "%" is not enabled', target
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'softaudit.enable() sets it up; for a partition, name the partitioned table.';
    END IF;
    PERFORM softaudit.ensure_log();
    -- waits for the batch, the erasure or the retention that is under way
    PERFORM pg_advisory_xact_lock(hashtextextended('softaudit.hold', known.table_id));
    SELECT * INTO held FROM softaudit.holds h WHERE h.table_id = known.table_id AND h.row_key IS NOT DISTINCT FROM key;
    IF FOUND THEN
        RAISE EXCEPTION 'table "%" % is under a hold already', target, CASE WHEN key IS NULL THEN 'as a whole' ELSE format('row %s', key) END
            USING ERRCODE = 'duplicate_object',
                  DETAIL = format('Held since %s: %s', held.held_at, held.reason),
                  HINT = 'softaudit.release() ends it.';
    END IF;
    INSERT INTO softaudit.holds (hold_id, table_id, row_ref, row_key, reason, held_by)
    VALUES (nextval('softaudit.hold_id_seq'), known.table_id,
            CASE WHEN key IS NOT NULL THEN softaudit.row_ref(known.table_id, softaudit.key_image(target, key_text)) END,
            key, reason, softaudit.actor());
    PERFORM softaudit.record_event('HOLD', known.schema_name, known.table_name, reason,
        -- not the key: an erasure leaves the event
        CASE WHEN key IS NOT NULL THEN jsonb_build_object('row_ref', softaudit.row_ref(known.table_id, softaudit.key_image(target, key_text))) END);
END
$$;
COMMENT ON FUNCTION softaudit.hold_what(regclass, jsonb, text, text) IS
'hold(), of a row where a key is given';

CREATE FUNCTION softaudit.release_what(target regclass, key jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    held bigint := (SELECT h.hold_id FROM softaudit.holds h JOIN softaudit.registry r ON r.table_id = h.table_id
                     -- the key's type may have been another one
                     WHERE r.relation = target AND (h.row_key IS NOT DISTINCT FROM key OR h.row_key IN (SELECT softaudit.key_forms(r.table_id, key, key)))
                     ORDER BY h.row_key IS NOT DISTINCT FROM key DESC LIMIT 1);
BEGIN
    IF held IS NULL OR NOT softaudit.end_hold(held) THEN
        RAISE EXCEPTION 'table "%" is not under such a hold', target
            USING ERRCODE = 'undefined_object', HINT = 'softaudit.holds lists them: of whole tables, and of single rows.';
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.release_what(regclass, jsonb) IS
'release(), of a row where a key is given';

CREATE FUNCTION softaudit.end_hold(which bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    held record;
BEGIN
    DELETE FROM softaudit.holds h USING softaudit.registry r
     WHERE h.hold_id = which AND r.table_id = h.table_id
    RETURNING h.*, r.schema_name, r.table_name INTO held;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM softaudit.record_event('RELEASE', held.schema_name, held.table_name, held.reason,
                                   jsonb_strip_nulls(jsonb_build_object('row_ref', held.row_ref, 'held_at', held.held_at, 'held_by', held.held_by)));
    RETURN true;
END
$$;
COMMENT ON FUNCTION softaudit.end_hold(bigint) IS
'ends a hold and puts it on record; false if there is none of that number';

CREATE FUNCTION softaudit.release_hold_apply(hold_id bigint) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM softaudit.may_execute('softaudit.release_hold(bigint)');
    IF hold_id IS NULL THEN
        RAISE EXCEPTION 'the number of the hold must not be NULL'
            USING ERRCODE = 'null_value_not_allowed', HINT = 'It is the hold_id in softaudit.holds.';
    END IF;
    IF to_regclass('softaudit.holds') IS NULL OR NOT softaudit.end_hold(hold_id) THEN
        RAISE EXCEPTION 'there is no hold %', hold_id
            USING ERRCODE = 'undefined_object', HINT = 'softaudit.holds lists them: of whole tables, and of single rows.';
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.release_hold_apply(bigint) IS 'release_hold() as the extension''s owner';

CREATE FUNCTION softaudit.hold_apply(target regclass, reason text) RETURNS void
LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT softaudit.may_execute('softaudit.hold(regclass, text)'), softaudit.check_table(target), softaudit.hold_what(target, NULL, NULL, reason)
$$;
COMMENT ON FUNCTION softaudit.hold_apply(regclass, text) IS 'hold() as the extension''s owner';

CREATE FUNCTION softaudit.hold_apply(target regclass, key text, reason text) RETURNS void
LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT softaudit.may_execute('softaudit.hold(regclass, text, text)'), softaudit.hold_what(target, softaudit.key_given(target, key), key, reason)
$$;
COMMENT ON FUNCTION softaudit.hold_apply(regclass, text, text) IS 'hold() as the extension''s owner';

CREATE FUNCTION softaudit.release_apply(target regclass) RETURNS void
LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT softaudit.may_execute('softaudit.release(regclass)'), softaudit.check_table(target), softaudit.release_what(target, NULL)
$$;
COMMENT ON FUNCTION softaudit.release_apply(regclass) IS 'release() as the extension''s owner';

CREATE FUNCTION softaudit.release_apply(target regclass, key text) RETURNS void
LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT softaudit.may_execute('softaudit.release(regclass, text)'), softaudit.release_what(target, softaudit.key_given(target, key))
$$;
COMMENT ON FUNCTION softaudit.release_apply(regclass, text) IS 'release() as the extension''s owner';

CREATE FUNCTION softaudit.check_table(target regclass) RETURNS void
LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF target IS NULL THEN
        RAISE EXCEPTION 'the table must not be NULL'
            USING ERRCODE = 'null_value_not_allowed', HINT = 'Name it, for example ''public.users''.';
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.check_table(regclass) IS 'raises null_value_not_allowed for no table';
