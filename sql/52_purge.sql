/*
 * ---- purge and expiry: rows that are due go for good, batch by batch ----
 *
 * A run is a row of softaudit.runs.  purge_begin() makes one for each table, children
 * before parents; each purge_step() is a transaction: it takes the next rows that the run
 * has found and deletes them as the table's owner, or looks for more.
 */

CREATE FUNCTION softaudit.before(type_id oid, cutoff timestamptz) RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO' AS $$
    SELECT CASE type_id WHEN 'timestamptz'::regtype THEN format('OPERATOR(pg_catalog.<) %L::pg_catalog.timestamptz', cutoff)
                        WHEN 'timestamp'::regtype THEN format('OPERATOR(pg_catalog.<) %L::pg_catalog.timestamp', cutoff::timestamp)
                        WHEN 'date'::regtype THEN format('OPERATOR(pg_catalog.<) %L::pg_catalog.date', cutoff::date) END
$$;
COMMENT ON FUNCTION softaudit.before(oid, timestamptz) IS
'the right half of a condition that a column of a date or time type lies before a moment, timestamp and date in UTC; NULL for other types';

CREATE FUNCTION softaudit.check_age(setting text, age interval) RETURNS void
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET IntervalStyle = 'postgres' AS $$
DECLARE
    is_good boolean;
BEGIN
    -- months and days count as many seconds as they do today
    BEGIN
        is_good := now() - age <= now() AND isfinite(now() - age);
    EXCEPTION WHEN datetime_field_overflow OR interval_field_overflow THEN
        is_good := false;
    END;
    IF NOT is_good THEN
        RAISE EXCEPTION '% cannot be "%"', setting, age
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give an interval that leads back from now to a time that PostgreSQL has, for example ''30 days''.';
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.check_age(text, interval) IS
'raises invalid_parameter_value for an interval that leads from now to the future, or to where there are no timestamps';

CREATE FUNCTION softaudit.due_column(table_id integer, kind text, OUT column_name name, OUT column_type oid)
LANGUAGE sql STABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT a.attname, a.atttypid
      FROM softaudit.registry r
      JOIN pg_attribute a ON a.attrelid = r.relation AND a.attnum > 0 AND NOT a.attisdropped
                         AND a.attname = CASE kind WHEN 'EXPIRE' THEN r.expire_column ELSE softaudit.marker_column(r.relation) END
     WHERE r.table_id = due_column.table_id
$$;
COMMENT ON FUNCTION softaudit.due_column(integer, text) IS
'the column that says when a row of a table is due for PURGE or EXPIRE; NULL if there is none';

CREATE FUNCTION softaudit.due_leaves(target regclass) RETURNS regclass[]
LANGUAGE sql STABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT COALESCE(array_agg(w.relation ORDER BY w.relation::oid), '{}')
      FROM softaudit.with_children(target) w JOIN pg_class c ON c.oid = w.relation AND c.relkind = 'r'
$$;
COMMENT ON FUNCTION softaudit.due_leaves(regclass) IS
'the relations that hold the rows of a table, its partitions and inheritance children';

CREATE FUNCTION softaudit.purge_index(target regclass, column_name name) RETURNS regclass
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT i.indexrelid::regclass
      FROM pg_index i
      JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
      JOIN pg_class c ON c.oid = i.indexrelid
      JOIN pg_am m ON m.oid = c.relam AND m.amname = 'btree'
     WHERE i.indrelid = target AND a.attname = column_name AND i.indisvalid
       AND (i.indpred IS NULL OR pg_get_expr(i.indpred, i.indrelid) = format('(%I IS NOT NULL)', column_name))
     ORDER BY i.indpred IS NULL, i.indnatts LIMIT 1
$$;
COMMENT ON FUNCTION softaudit.purge_index(regclass, name) IS
'an index that finds the rows that are due for a purge; NULL if there is none';

CREATE FUNCTION softaudit.purge_index_mark() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN 'for softaudit.purge(); softaudit.disable() drops it';
COMMENT ON FUNCTION softaudit.purge_index_mark() IS
'the comment of an index that enable() made for the purge';

CREATE FUNCTION softaudit.ensure_purge_index(target regclass, column_name name) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    index_name name := left((SELECT c.relname FROM pg_class c WHERE c.oid = target), 48) || '_purge_idx';
    n integer := 0;
BEGIN
    IF softaudit.purge_index(target, column_name) IS NOT NULL THEN
        RETURN;
    END IF;
    WHILE EXISTS (SELECT FROM pg_class c JOIN pg_class t ON t.oid = target AND c.relnamespace = t.relnamespace WHERE c.relname = index_name) LOOP
        n := n + 1;
        index_name := left((SELECT c.relname FROM pg_class c WHERE c.oid = target), 48) || '_purge_idx' || n;
    END LOOP;
    -- deduplicated as it is, one deletion of many rows has one stamp
    EXECUTE format('CREATE INDEX %I ON %s (%I) WHERE %I IS NOT NULL', index_name, target, column_name, column_name);
    EXECUTE format('COMMENT ON INDEX %I.%I IS %L',
                   (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = target), index_name, softaudit.purge_index_mark());
    RAISE NOTICE 'soft delete: index "%" added to table "%" for the purge', index_name, target;
END
$$;
COMMENT ON FUNCTION softaudit.ensure_purge_index(regclass, name) IS
'makes the index that the purge finds its rows by, unless there is one';

CREATE FUNCTION softaudit.drop_purge_index(target regclass) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    made regclass;
BEGIN
    FOR made IN SELECT i.indexrelid FROM pg_index i
                 WHERE i.indrelid = target AND obj_description(i.indexrelid, 'pg_class') = softaudit.purge_index_mark() LOOP
        RAISE NOTICE 'soft delete: index "%" of table "%" dropped', made, target;
        EXECUTE format('DROP INDEX %s', made);
    END LOOP;
END
$$;
COMMENT ON FUNCTION softaudit.drop_purge_index(regclass) IS
'drops the index that enable() made for the purge';

/* ---- holds ---- */

/* Runs for any caller of restore(), under his search_path. */
CREATE FUNCTION softaudit.children_first(table_ids integer[]) RETURNS integer[]
LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    done integer[] := '{}';
    ready integer[];
BEGIN
    LOOP
        -- those that nothing left refers to; in a cycle, the first of what is left
        ready := ARRAY(SELECT r.table_id FROM softaudit.registry r
                        WHERE r.table_id = ANY (table_ids) AND r.table_id <> ALL (done)
                          AND NOT EXISTS (SELECT FROM pg_constraint c JOIN softaudit.registry o ON o.relation = c.conrelid
                                           WHERE c.contype = 'f' AND c.confrelid = r.relation AND c.conrelid <> c.confrelid
                                             AND o.table_id = ANY (table_ids) AND o.table_id <> ALL (done))
                        ORDER BY r.table_id);
        IF ready = '{}' THEN
            ready := ARRAY(SELECT t FROM unnest(table_ids) t WHERE t <> ALL (done) ORDER BY t LIMIT 1);
        END IF;
        EXIT WHEN ready = '{}';
        done := done || ready;
    END LOOP;
    RETURN done;
END
$$;
COMMENT ON FUNCTION softaudit.children_first(integer[]) IS
'tables in the order in which their rows can go: those that refer to others first';

CREATE FUNCTION softaudit.reap_runs() RETURNS void
LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT softaudit.finish_run(u.run_id, 'it was stopped')
      FROM softaudit.runs u
     WHERE u.finished_at IS NULL AND u.kind <> 'MAINTAIN'
       AND (u.pid = pg_backend_pid() OR NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = u.pid AND a.backend_start <= u.started_at))
$$;
COMMENT ON FUNCTION softaudit.reap_runs() IS
'ends the runs that an error, a cancel or a crash stopped';

CREATE FUNCTION softaudit.start_run(kind text, table_id integer, log_group integer, cutoff timestamptz, batch integer) RETURNS bigint
LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO softaudit.runs (run_id, kind, table_id, log_group, started_at, updated_at, pid, run_by, cutoff, batch_size)
    VALUES (nextval('softaudit.run_id_seq'), kind, table_id, log_group, clock_timestamp(), clock_timestamp(), pg_backend_pid(),
            softaudit.caller()::regrole::text, cutoff, batch)
    RETURNING run_id
$$;
COMMENT ON FUNCTION softaudit.start_run(text, integer, integer, timestamptz, integer) IS
'a new row of softaudit.runs; its id';

CREATE FUNCTION softaudit.finish_run(run bigint, problem text) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    r softaudit.runs%ROWTYPE;
    known record;
BEGIN
    UPDATE softaudit.runs u SET finished_at = clock_timestamp(), updated_at = clock_timestamp(), message = problem
     WHERE u.run_id = run RETURNING * INTO r;
    IF r.table_id IS NULL THEN
        RETURN;
    END IF;
    SELECT * INTO known FROM softaudit.registry g WHERE g.table_id = r.table_id;
    IF r.rows_done > 0 THEN
        PERFORM softaudit.record_event('PURGE', known.schema_name, known.table_name, CASE r.kind WHEN 'EXPIRE' THEN 'expired' END,
            jsonb_strip_nulls(jsonb_build_object('rows', r.rows_done, 'blocked', NULLIF(r.rows_blocked, 0), 'blocked_by', r.blocked_by,
                                                 'older_than', r.cutoff, 'batches', r.batches, 'failed', problem)));
    END IF;
    IF r.rows_done > 0 OR r.rows_blocked > 0 THEN
        RAISE NOTICE '%: table "%": % rows deleted%', CASE r.kind WHEN 'EXPIRE' THEN 'expiry' ELSE 'purge' END, known.relation, r.rows_done,
            concat(CASE WHEN r.rows_blocked > 0 THEN format(', %s kept, to which rows of %s refer', r.rows_blocked,
                            (SELECT string_agg(k, ', ' ORDER BY k) FROM jsonb_object_keys(r.blocked_by) k)) END,
                   CASE WHEN r.rows_skipped > 0 THEN format(', %s passed over', r.rows_skipped) END);
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.finish_run(bigint, text) IS
'ends a run: its event and what it says';

CREATE FUNCTION softaudit.purge_begin(target regclass, older_than interval, batch integer, dry_run boolean) RETURNS bigint[]
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_lifecycle_call';
COMMENT ON FUNCTION softaudit.purge_begin(regclass, interval, integer, boolean) IS
'the runs of a purge, children first; for who owns the tables';

CREATE FUNCTION softaudit.purge_begin_apply(target regclass, older_than interval, batch integer, dry_run boolean) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp SET IntervalStyle = 'postgres' SET TimeZone = 'UTC' SET DateStyle = 'ISO' AS $$
DECLARE
    known record;
    ids integer[] := '{}';
    id integer;
    held text;
BEGIN
    IF batch IS NULL OR batch NOT BETWEEN 1 AND 100000 THEN
        RAISE EXCEPTION 'batch cannot be %', COALESCE(batch::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give how many rows one transaction deletes, from 1 to 100000.';
    END IF;
    IF older_than < interval '0' THEN
        RAISE EXCEPTION 'older_than cannot be "%"', older_than
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give how long ago the rows were deleted at least, for example ''30 days''.';
    END IF;
    PERFORM softaudit.check_age('older_than', older_than);
    IF dry_run IS NULL THEN
        RAISE EXCEPTION 'dry_run must not be NULL' USING ERRCODE = 'null_value_not_allowed', HINT = 'Give true or false.';
    END IF;
    IF to_regclass('softaudit.registry') IS NOT NULL THEN
        PERFORM softaudit.ensure_log();
        PERFORM softaudit.reap_runs();
    ELSIF target IS NULL THEN
        RETURN '{}';
    ELSE
        PERFORM softaudit.ensure_log();
    END IF;
    IF target IS NOT NULL THEN
        IF NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = target) THEN
            RAISE EXCEPTION 'relation with OID % does not exist', target::oid USING ERRCODE = 'undefined_table', HINT = 'It may have been dropped.';
        ELSIF NOT pg_has_role(softaudit.caller(), (SELECT c.relowner FROM pg_class c WHERE c.oid = target), 'USAGE') THEN
            RAISE EXCEPTION 'must be owner of table %', target
                USING ERRCODE = 'insufficient_privilege', HINT = 'The table''s owner purges it; softaudit.maintain() does for all tables.';
        END IF;
        SELECT * INTO known FROM softaudit.registry r WHERE r.relation = target;
        IF NOT FOUND OR softaudit.marker_column(target) IS NULL THEN
            RAISE EXCEPTION 'table "%" is not soft-deleted', target
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      HINT = 'softaudit.enable() has its rows soft-deleted; for a partition, name the partitioned table.';
        ELSIF older_than IS NULL AND known.purge_after IS NULL THEN
            RAISE EXCEPTION 'table "%" has no purge_after', target
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'Give older_than, or set it by softaudit.enable(..., purge_after => ''30 days'').';
        END IF;
        PERFORM softaudit.refuse_held(known.table_id, target);
        ids := ARRAY[known.table_id];
    ELSE
        FOR known IN SELECT r.* FROM softaudit.registry r JOIN pg_class c ON c.oid = r.relation
                      WHERE (older_than IS NOT NULL OR r.purge_after IS NOT NULL) AND softaudit.marker_column(r.relation) IS NOT NULL
                        AND pg_has_role(softaudit.caller(), c.relowner, 'USAGE') ORDER BY r.table_id LOOP
            IF EXISTS (SELECT FROM softaudit.holds h WHERE h.table_id = known.table_id AND h.row_ref IS NULL) THEN
                RAISE NOTICE 'purge: table "%" is passed over: it is under a legal hold', known.relation;
            ELSE
                ids := ids || known.table_id;
            END IF;
        END LOOP;
        ids := softaudit.children_first(ids);
    END IF;
    IF dry_run THEN
        PERFORM softaudit.purge_report(ids, older_than);
        RETURN '{}';
    END IF;
    RETURN ARRAY(SELECT softaudit.start_run('PURGE', r.table_id, NULL, now() - COALESCE(older_than, r.purge_after), batch)
                   FROM unnest(ids) WITH ORDINALITY i (id, ord) JOIN softaudit.registry r ON r.table_id = i.id ORDER BY i.ord);
END
$$;
COMMENT ON FUNCTION softaudit.purge_begin_apply(regclass, interval, integer, boolean) IS
'purge_begin() as the extension''s owner';

CREATE FUNCTION softaudit.next_chunk(leaf regclass, col name, due text, held text, stamp text, tid_at tid, chunk integer) RETURNS jsonb
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN softaudit.lifecycle_query(leaf, format(
        'SELECT pg_catalog.jsonb_build_object(%L, pg_catalog.array_agg(c.tid)::pg_catalog.text, %L, pg_catalog.max(c.stamp)::pg_catalog.text)
           FROM (SELECT t.ctid AS tid, t.%I AS stamp FROM ONLY %s t WHERE t.%I %s%s%s ORDER BY t.%I USING OPERATOR(pg_catalog.<), t.ctid USING OPERATOR(pg_catalog.<) LIMIT %s) c',
        'tids', 'stamp', col, leaf, col, due,
        CASE WHEN stamp IS NOT NULL THEN format(' AND (t.%I, t.ctid) OPERATOR(pg_catalog.>) (%L, %L::pg_catalog.tid)', col, stamp, tid_at) END,
        ' AND NOT ' || held, col, chunk));
END
$$;
COMMENT ON FUNCTION softaudit.next_chunk(regclass, name, text, text, text, tid, integer) IS
'the next rows of a relation that are due, after a position: an object of "tids", in order, and the last "stamp"';

CREATE FUNCTION softaudit.purge_report(ids integer[], older_than interval) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO' AS $$
DECLARE
    known record;
    id integer;
    leaf regclass;
    due jsonb := '{}';
    chunk jsonb;
    tids tid[];
    stop record;
    total bigint;
    kept bigint;
    keepers jsonb;
    col record;
BEGIN
    SELECT due || COALESCE(jsonb_object_agg(r.relation::oid::text, format('k.%I %s', d.column_name, softaudit.before(d.column_type, now() - COALESCE(older_than, r.purge_after)))), '{}')
      INTO due FROM softaudit.registry r CROSS JOIN LATERAL softaudit.due_column(r.table_id, 'PURGE') d WHERE r.table_id = ANY (ids);
    FOREACH id IN ARRAY ids LOOP
        SELECT * INTO known FROM softaudit.registry r WHERE r.table_id = id;
        SELECT * INTO col FROM softaudit.due_column(id, 'PURGE');
        total := 0;
        kept := 0;
        keepers := '{}';
        FOREACH leaf IN ARRAY softaudit.due_leaves(known.relation) LOOP
            chunk := NULL;
            tids := NULL;
            LOOP
                chunk := softaudit.next_chunk(leaf, col.column_name, softaudit.before(col.column_type, now() - COALESCE(older_than, known.purge_after)),
                                              softaudit.held_rows(leaf, 't'), chunk ->> 'stamp', tids[cardinality(tids)], 100000);
                tids := (chunk ->> 'tids')::tid[];
                EXIT WHEN tids IS NULL;
                SELECT * INTO stop FROM softaudit.blocked_rows(leaf, tids, due);
                total := total + cardinality(tids) - cardinality(stop.blocked);
                kept := kept + cardinality(stop.blocked);
                keepers := keepers || stop.by_table;
            END LOOP;
        END LOOP;
        RAISE NOTICE 'purge: table "%": % rows would be deleted%', known.relation, total,
            concat(CASE WHEN kept > 0 THEN format(', %s kept, to which rows of %s refer', kept,
                            (SELECT string_agg(k, ', ' ORDER BY k) FROM jsonb_object_keys(keepers) k)) END);
    END LOOP;
END
$$;
COMMENT ON FUNCTION softaudit.purge_report(integer[], interval) IS
'tells what a purge of these tables would do';

CREATE FUNCTION softaudit.rows_found(run bigint, tids tid[]) RETURNS void
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_rows_found';
COMMENT ON FUNCTION softaudit.rows_found(bigint, tid[]) IS
'keeps the rows that a run has found, for this session';

CREATE FUNCTION softaudit.next_rows(run bigint, batch integer) RETURNS tid[]
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_next_rows';
COMMENT ON FUNCTION softaudit.next_rows(bigint, integer) IS
'the next of the rows that rows_found() keeps; NULL if none is left';

CREATE FUNCTION softaudit.lifecycle_query(target regclass, command text, operation text DEFAULT NULL, along integer[] DEFAULT NULL, rows tid[] DEFAULT NULL) RETURNS text
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_lifecycle_query';
COMMENT ON FUNCTION softaudit.lifecycle_query(regclass, text, text, integer[], tid[]) IS
'runs a command on the rows of a table as its owner, unfiltered, with the rows as $1; its DELETE is logged as PURGE or ERASE for the tables of removal_tables(); returns its first value';

CREATE FUNCTION softaudit.removal_tables(leaf regclass) RETURNS integer[]
LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT COALESCE(array_agg(CASE WHEN r.purge_image THEN r.table_id ELSE -r.table_id END), '{}')
      FROM softaudit.registry r
     WHERE r.relation IN (SELECT f.relid FROM (SELECT leaf UNION SELECT softaudit.cascades_to(leaf)) b (relation)
                           CROSS JOIN LATERAL (SELECT b.relation::oid UNION SELECT t.relid FROM pg_partition_tree(b.relation) t
                                               UNION SELECT a.relid FROM unnest(softaudit.ancestors(b.relation)) a (relid)) f (relid)));
END
$$;
COMMENT ON FUNCTION softaudit.removal_tables(regclass) IS
'ids of the tables whose rows go when rows of a relation do, not by somebody''s trigger; negative without purge_image';

CREATE FUNCTION softaudit.delete_rows(leaf regclass, tids tid[], condition text, held text, along integer[]) RETURNS bigint
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN softaudit.lifecycle_query(leaf, format(
        'WITH gone AS (DELETE FROM ONLY %1$s t WHERE t.ctid OPERATOR(pg_catalog.=) ANY (ARRAY(
             SELECT l.ctid FROM ONLY %1$s l WHERE l.ctid OPERATOR(pg_catalog.=) ANY ($1) AND l.%2$s%3$s FOR UPDATE SKIP LOCKED))
         RETURNING 1) SELECT pg_catalog.count(*) FROM gone',
        leaf, condition, ' AND NOT ' || held), 'PURGE', along, tids);
END
$$;
COMMENT ON FUNCTION softaudit.delete_rows(regclass, tid[], text, text, integer[]) IS
'deletes those of some rows that are still due and that nobody has locked; how many';

CREATE FUNCTION softaudit.purge_step(run bigint) RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_lifecycle_batch';
COMMENT ON FUNCTION softaudit.purge_step(bigint) IS
'the next batch of a run that this session began; how many rows it dealt with, -1 when the run is done';

CREATE FUNCTION softaudit.purge_step_apply(run bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO' AS $$
DECLARE
    r softaudit.runs%ROWTYPE;
    known record;
    part regclass;
    col record;
    due text;
    held text;
    chunk jsonb;
    tids tid[];
    going tid[];
    one tid;
    stop record;
    n bigint;
    kept bigint;
    keepers jsonb;
    keeper text;
    along integer[];
BEGIN
    -- a pooler's session may have been somebody else's
    SELECT * INTO r FROM softaudit.runs u WHERE u.run_id = run AND u.pid = pg_backend_pid() AND u.run_by = softaudit.caller()::regrole::text
                                            AND u.finished_at IS NULL AND u.kind IN ('PURGE', 'EXPIRE');
    IF NOT FOUND THEN
        RAISE EXCEPTION 'this session has no run %', COALESCE(run::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'CALL softaudit.purge() or softaudit.maintain().';
    END IF;
    -- hold() waits for the batch that is under way, and this sees what it said
    PERFORM softaudit.lock_holds((SELECT g.relation FROM softaudit.registry g WHERE g.table_id = r.table_id));
    SELECT * INTO known FROM softaudit.registry g WHERE g.table_id = r.table_id;
    SELECT * INTO col FROM softaudit.due_column(r.table_id, r.kind);
    held := softaudit.held_rows(known.relation, 't');
    due := softaudit.before(col.column_type, r.cutoff);
    IF known.relation IS NULL OR due IS NULL OR held = 'true' THEN
        PERFORM softaudit.finish_run(run, CASE WHEN held = 'true' THEN 'the table came under a legal hold' ELSE 'the table or its column is gone' END);
        RETURN -1;
    END IF;

    tids := softaudit.next_rows(run, r.batch_size);
    part := r.leaf;
    WHILE tids IS NULL LOOP
        part := (softaudit.due_leaves(known.relation))[r.leaf_at];
        IF part IS NULL THEN
            PERFORM softaudit.finish_run(run, NULL);
            RETURN -1;
        END IF;
        held := softaudit.held_rows(part, 't');
        chunk := softaudit.next_chunk(part, col.column_name, due, held, r.stamp_at, r.tid_at, 100000);
        IF chunk ->> 'tids' IS NULL THEN
            r.leaf_at := r.leaf_at + 1;
            r.stamp_at := NULL;
            r.tid_at := NULL;
            UPDATE softaudit.runs u SET leaf_at = r.leaf_at, stamp_at = NULL, tid_at = NULL WHERE u.run_id = run;
            CONTINUE;
        END IF;
        tids := (chunk ->> 'tids')::tid[];
        UPDATE softaudit.runs u SET leaf = part, stamp_at = chunk ->> 'stamp', tid_at = tids[cardinality(tids)] WHERE u.run_id = run;
        PERFORM softaudit.rows_found(run, tids);
        tids := softaudit.next_rows(run, r.batch_size);
    END LOOP;

    kept := 0;
    keepers := '{}';
    going := tids;
    -- most tables have nobody who refers to them
    WHILE EXISTS (SELECT FROM pg_trigger g JOIN pg_constraint c ON c.oid = g.tgconstraint AND c.confrelid = g.tgrelid WHERE g.tgrelid = part) LOOP
        SELECT * INTO stop FROM softaudit.blocked_rows(part, going, '{}');
        EXIT WHEN stop.blocked = '{}';
        -- which may block others of the batch in their turn
        kept := kept + cardinality(stop.blocked);
        keepers := keepers || (SELECT jsonb_object_agg(k, COALESCE((keepers ->> k)::bigint, 0) + v::bigint) FROM jsonb_each_text(stop.by_table) e (k, v));
        going := ARRAY(SELECT g FROM unnest(going) g EXCEPT SELECT b FROM unnest(stop.blocked) b);
    END LOOP;
    n := 0;
    along := softaudit.removal_tables(part);
    BEGIN
        n := softaudit.delete_rows(part, going,
                                   format('%I %s', col.column_name, due), softaudit.held_rows(part, 'l'), along);
    EXCEPTION WHEN foreign_key_violation THEN
        -- somebody referred to one of them just now, or to what would cascade
        FOREACH one IN ARRAY going LOOP
            BEGIN
                n := n + softaudit.delete_rows(part, ARRAY[one], format('%I %s', col.column_name, due), softaudit.held_rows(part, 'l'), along);
            EXCEPTION WHEN foreign_key_violation THEN
                GET STACKED DIAGNOSTICS keeper = TABLE_NAME;
                kept := kept + 1;
                keepers := keepers || jsonb_build_object(keeper, COALESCE((keepers ->> keeper)::bigint, 0) + 1);
            END;
        END LOOP;
    END;
    UPDATE softaudit.runs u
       SET updated_at = clock_timestamp(), batches = u.batches + 1, rows_done = u.rows_done + n, rows_blocked = u.rows_blocked + kept,
           rows_skipped = u.rows_skipped + cardinality(tids) - kept - n,
           blocked_by = NULLIF(COALESCE(u.blocked_by, '{}') || COALESCE((SELECT jsonb_object_agg(k, COALESCE((u.blocked_by ->> k)::bigint, 0) + v::bigint)
                                                                   FROM jsonb_each_text(keepers) e (k, v)), '{}'), '{}')
     WHERE u.run_id = run RETURNING * INTO r;
    IF r.batches % 100 = 0 THEN
        RAISE NOTICE '%: table "%": % rows so far', CASE r.kind WHEN 'EXPIRE' THEN 'expiry' ELSE 'purge' END, known.relation, r.rows_done;
    END IF;
    RETURN cardinality(tids);
END
$$;
COMMENT ON FUNCTION softaudit.purge_step_apply(bigint) IS
'purge_step() as the extension''s owner';

CREATE FUNCTION softaudit.purge_again(runs bigint[]) RETURNS bigint[]
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_lifecycle_call';
COMMENT ON FUNCTION softaudit.purge_again(bigint[]) IS
'runs for those tables whose rows were kept by rows that have gone since; none if nothing went';

CREATE FUNCTION softaudit.purge_again_apply(runs bigint[]) RETURNS bigint[]
LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT ARRAY(SELECT softaudit.start_run(u.kind, u.table_id, NULL, u.cutoff, u.batch_size)
                   FROM unnest(runs) WITH ORDINALITY i (id, ord) JOIN softaudit.runs u ON u.run_id = i.id
                   JOIN softaudit.registry g ON g.table_id = u.table_id
                  WHERE u.pid = pg_backend_pid() AND u.run_by = softaudit.caller()::regrole::text AND u.message IS NULL
                    AND EXISTS (SELECT FROM softaudit.runs o JOIN softaudit.registry k ON k.table_id = o.table_id
                                 WHERE o.run_id = ANY (runs) AND o.rows_done > 0 AND u.blocked_by ? k.relation::text)
                  ORDER BY i.ord)
$$;
COMMENT ON FUNCTION softaudit.purge_again_apply(bigint[]) IS
'purge_again() as the extension''s owner';

/* It commits after each step, so it can have neither SET nor SECURITY DEFINER. */
CREATE PROCEDURE softaudit.purge(target regclass DEFAULT NULL, older_than interval DEFAULT NULL, batch integer DEFAULT 1000, dry_run boolean DEFAULT false)
LANGUAGE plpgsql AS $$
DECLARE
    runs bigint[];
    run bigint;
BEGIN
    PERFORM softaudit.check_top_level('softaudit.purge()');
    runs := softaudit.purge_begin(target, older_than, batch, dry_run);
    COMMIT;
    WHILE pg_catalog.cardinality(runs) OPERATOR(pg_catalog.>) 0 LOOP
        FOREACH run IN ARRAY runs LOOP
            WHILE softaudit.purge_step(run) OPERATOR(pg_catalog.>=) 0 LOOP
                COMMIT;
            END LOOP;
            COMMIT;
        END LOOP;
        runs := softaudit.purge_again(runs);
        COMMIT;
    END LOOP;
END
$$;
COMMENT ON PROCEDURE softaudit.purge(regclass, interval, integer, boolean) IS
'deletes for good, in batches, the rows that were soft-deleted longer ago than older_than (NULL: purge_after of the table); without a table, of all that the caller owns; for the tables'' owner';
