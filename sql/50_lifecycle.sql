/* ---- maintenance ---- */

CREATE FUNCTION softaudit.check_top_level(what text) RETURNS void
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_check_top_level';
COMMENT ON FUNCTION softaudit.check_top_level(text) IS
'raises active_sql_transaction inside a transaction block';

CREATE FUNCTION softaudit.check_maintain() RETURNS void
LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT has_function_privilege(softaudit.caller(), 'softaudit.maintain()', 'EXECUTE') THEN
        RAISE EXCEPTION 'permission denied for procedure maintain'
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'GRANT EXECUTE ON PROCEDURE softaudit.maintain() TO the role that is to run it.';
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.check_maintain() IS
'raises insufficient_privilege unless the caller may execute maintain()';

CREATE FUNCTION softaudit.maintain_begin() RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_lifecycle_call';
COMMENT ON FUNCTION softaudit.maintain_begin() IS
'begins a run of maintain(); for whoever may execute it';

CREATE FUNCTION softaudit.maintain_begin_apply() RETURNS bigint
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
BEGIN
    PERFORM softaudit.check_maintain();
    -- nothing was ever enabled, or it is a standby, where the primary's maintain() does it all
    IF to_regclass('softaudit.registry') IS NULL OR pg_is_in_recovery() THEN
        RETURN NULL;
    END IF;
    PERFORM softaudit.ensure_log();
    PERFORM softaudit.reap_runs();
    UPDATE softaudit.runs u SET finished_at = clock_timestamp(), message = 'it was stopped'
     WHERE u.finished_at IS NULL AND u.kind = 'MAINTAIN'
       AND (u.pid = pg_backend_pid() OR NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = u.pid AND a.backend_start <= u.started_at));
    DELETE FROM softaudit.runs u WHERE u.finished_at < now() - interval '90 days';
    -- a restore brings the tables, not the setting of the database
    BEGIN
        IF EXISTS (SELECT FROM pg_trigger t WHERE t.tgfoid = 'softaudit.mark()'::regprocedure) AND softaudit.assert_preload() THEN
            RAISE NOTICE 'soft delete: new sessions of database "%" load the library (session_preload_libraries)', current_database();
        END IF;
    EXCEPTION WHEN OTHERS THEN
        RAISE WARNING 'session_preload_libraries of database "%" could not be set: %', current_database(), SQLERRM;
    END;
    RETURN softaudit.start_run('MAINTAIN', NULL, NULL, NULL, NULL);
END
$$;
COMMENT ON FUNCTION softaudit.maintain_begin_apply() IS
'maintain_begin() as the extension''s owner';

CREATE FUNCTION softaudit.maintain_groups() RETURNS integer[]
LANGUAGE plpgsql STABLE SECURITY DEFINER CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF to_regclass('softaudit.log_groups') IS NULL THEN
        RETURN '{}';
    END IF;
    RETURN ARRAY(SELECT g.group_id FROM softaudit.log_groups g ORDER BY g.group_id);
END
$$;
COMMENT ON FUNCTION softaudit.maintain_groups() IS
'ids of the log groups';

CREATE FUNCTION softaudit.maintain_step(log_group integer) RETURNS bigint
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_lifecycle_call';
COMMENT ON FUNCTION softaudit.maintain_step(integer) IS
'one bounded step of maintain() for a log group: partitions ahead, rows moved home; returns how many rows it moved';

CREATE FUNCTION softaudit.maintain_step_apply(log_group integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '2s' AS $$
BEGIN
    PERFORM softaudit.check_maintain();
    -- two at once do no harm: the second passes on
    IF NOT pg_try_advisory_xact_lock(hashtextextended('softaudit.maintain', log_group)) THEN
        RETURN 0;
    END IF;
    BEGIN
        PERFORM softaudit.ensure_log();
        RETURN softaudit.create_ahead(log_group, 10000);
    EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
        PERFORM softaudit.report(format('log group %s: a partition is in use, its maintenance is left to the next run', log_group));
        RETURN 0;
    WHEN OTHERS THEN
        PERFORM softaudit.report(format('log group %s: %s', log_group, SQLERRM));
        RETURN 0;
    END;
END
$$;
COMMENT ON FUNCTION softaudit.maintain_step_apply(integer) IS
'maintain_step() as the extension''s owner';

CREATE FUNCTION softaudit.report(problem text) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE WARNING '%', problem;
    UPDATE softaudit.runs u SET message = concat_ws(E'\n', u.message, left(problem, 500)), updated_at = clock_timestamp()
     WHERE u.pid = pg_backend_pid() AND u.finished_at IS NULL AND u.kind = 'MAINTAIN';
END
$$;
COMMENT ON FUNCTION softaudit.report(text) IS
'tells, and keeps with the run of maintain(), what did not work';

CREATE FUNCTION softaudit.maintain_due() RETURNS bigint[]
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_lifecycle_call';
COMMENT ON FUNCTION softaudit.maintain_due() IS
'runs for the tables that have rows to purge or to expire, children first';

CREATE FUNCTION softaudit.maintain_due_apply() RETURNS bigint[]
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO' SET lock_timeout = '2s' AS $$
DECLARE
    known record;
    leaf regclass;
    cutoff timestamptz;
    due text;
    is_due boolean;
    runs bigint[] := '{}';
BEGIN
    PERFORM softaudit.check_maintain();
    IF to_regclass('softaudit.registry') IS NULL THEN
        RETURN runs;
    END IF;
    FOR known IN
        SELECT r.table_id, r.relation, k.kind, k.older_than, d.column_name, d.column_type
          FROM unnest(softaudit.children_first(ARRAY(SELECT o.table_id FROM softaudit.registry o
                                                      WHERE o.relation IS NOT NULL AND (o.purge_after IS NOT NULL OR o.expire_column IS NOT NULL))))
               WITH ORDINALITY i (id, ord)
          JOIN softaudit.registry r ON r.table_id = i.id
         CROSS JOIN LATERAL (VALUES ('PURGE', r.purge_after), ('EXPIRE', r.expire_after)) k (kind, older_than)
          LEFT JOIN LATERAL softaudit.due_column(r.table_id, k.kind) d ON true
         WHERE k.older_than IS NOT NULL
           AND NOT EXISTS (SELECT FROM softaudit.holds h WHERE h.table_id = r.table_id AND h.row_ref IS NULL)
         ORDER BY i.ord, k.kind
    LOOP
        BEGIN
            IF known.column_name IS NULL THEN
                -- disabled, or its column is gone
                IF known.kind = 'EXPIRE' THEN
                    RAISE EXCEPTION 'the column by which it expires is gone'
                        USING ERRCODE = 'undefined_column', HINT = 'Call softaudit.expire() or softaudit.unexpire() for it.';
                END IF;
                CONTINUE;
            END IF;
            -- what was stored before it was refused, or by hand, may be no interval to go by
            cutoff := now() - known.older_than;
            due := softaudit.before(known.column_type, cutoff);
            IF due IS NULL THEN
                RAISE EXCEPTION 'column "%", by which it expires, is of type % now', known.column_name, format_type(known.column_type, NULL)
                    USING ERRCODE = 'datatype_mismatch', HINT = 'Call softaudit.expire() or softaudit.unexpire() for it.';
            END IF;
            IF known.kind = 'EXPIRE' THEN
                PERFORM softaudit.drop_expired(known.table_id);
            END IF;
            is_due := false;
            FOREACH leaf IN ARRAY softaudit.due_leaves(known.relation) LOOP
                is_due := is_due OR softaudit.lifecycle_query(leaf, format('SELECT EXISTS (SELECT FROM ONLY %s t WHERE t.%I %s)',
                                        leaf, known.column_name, due))::boolean;
                EXIT WHEN is_due;
            END LOOP;
            IF is_due THEN
                runs := runs || softaudit.start_run(known.kind, known.table_id, NULL, cutoff, 1000);
            END IF;
        -- ASSERT in a user's code, too, but no cancel
        EXCEPTION WHEN assert_failure OR OTHERS THEN
            PERFORM softaudit.report(format('table "%s": %s', known.relation, SQLERRM));
        END;
    END LOOP;
    RETURN runs;
END
$$;
COMMENT ON FUNCTION softaudit.maintain_due_apply() IS
'maintain_due() as the extension''s owner';

CREATE FUNCTION softaudit.maintain_purge(run bigint) RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_lifecycle_batch';
COMMENT ON FUNCTION softaudit.maintain_purge(bigint) IS
'purge_step() that reports an error and ends the run, so that other tables get their turn';

CREATE FUNCTION softaudit.maintain_purge_apply(run bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    of_table integer := (SELECT u.table_id FROM softaudit.runs u WHERE u.run_id = run);
BEGIN
    PERFORM softaudit.check_maintain();
    IF NOT pg_try_advisory_xact_lock(hashtextextended('softaudit.purge', of_table)) THEN
        PERFORM softaudit.finish_run(run, 'another session is at it');
        RETURN -1;
    END IF;
    BEGIN
        RETURN softaudit.purge_step_apply(run);
    EXCEPTION WHEN assert_failure OR OTHERS THEN
        PERFORM softaudit.report(format('table "%s": %s', (SELECT r.relation FROM softaudit.registry r WHERE r.table_id = of_table), SQLERRM));
        PERFORM softaudit.finish_run(run, SQLERRM);
        RETURN -1;
    END;
END
$$;
COMMENT ON FUNCTION softaudit.maintain_purge_apply(bigint) IS
'maintain_purge() as the extension''s owner';

CREATE FUNCTION softaudit.maintain_end(run bigint) RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_lifecycle_call';
COMMENT ON FUNCTION softaudit.maintain_end(bigint) IS
'ends a run of maintain()';

CREATE FUNCTION softaudit.maintain_end_apply(run bigint) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM softaudit.check_maintain();
    UPDATE softaudit.runs u SET finished_at = clock_timestamp(), updated_at = clock_timestamp()
     WHERE u.run_id = run AND u.kind = 'MAINTAIN' AND u.pid = pg_backend_pid();
END
$$;
COMMENT ON FUNCTION softaudit.maintain_end_apply(bigint) IS
'maintain_end() as the extension''s owner';

/* It commits after each step, so it can have neither SET nor SECURITY DEFINER. */
CREATE PROCEDURE softaudit.maintain()
LANGUAGE plpgsql AS $$
DECLARE
    this_run bigint;
    groups integer[];
    runs bigint[];
    g integer;
    run bigint;
    is_shorter boolean := false;
BEGIN
    PERFORM softaudit.check_top_level('softaudit.maintain()');
    this_run := softaudit.maintain_begin();
    COMMIT;
    IF this_run IS NULL THEN
        RETURN;
    END IF;
    groups := softaudit.maintain_groups();
    FOREACH g IN ARRAY groups LOOP
        WHILE softaudit.maintain_step(g) OPERATOR(pg_catalog.>) 0 LOOP
            COMMIT;
        END LOOP;
        COMMIT;
    END LOOP;
    -- never in a transaction with making one: the locks would add up
    FOREACH g IN ARRAY groups LOOP
        WHILE softaudit.retention_step(g) OPERATOR(pg_catalog.>) 0 LOOP
            is_shorter := true;
            COMMIT;
        END LOOP;
        COMMIT;
    END LOOP;
    IF is_shorter THEN
        PERFORM softaudit.sweep_sessions();
        COMMIT;
    END IF;
    runs := softaudit.maintain_due();
    COMMIT;
    WHILE pg_catalog.cardinality(runs) OPERATOR(pg_catalog.>) 0 LOOP
        FOREACH run IN ARRAY runs LOOP
            WHILE softaudit.maintain_purge(run) OPERATOR(pg_catalog.>=) 0 LOOP
                COMMIT;
            END LOOP;
            COMMIT;
        END LOOP;
        runs := softaudit.purge_again(runs);
        COMMIT;
    END LOOP;
    PERFORM softaudit.maintain_end(this_run);
END
$$;
COMMENT ON PROCEDURE softaudit.maintain() IS
'does what is due: log partitions ahead, rows of the default partitions moved home, retention, purge, expiry; safe at any time, from any scheduler';
