/* ---- retention: whole partitions of the log, past keep_log ---- */

CREATE FUNCTION softaudit.retention_step(log_group integer) RETURNS bigint
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_lifecycle_call';
COMMENT ON FUNCTION softaudit.retention_step(integer) IS
'drops the oldest partition of a log group that is past keep_log; 1 if it did, else 0; for whoever may execute maintain()';

CREATE FUNCTION softaudit.is_held(leaf regclass, log_group integer) RETURNS boolean
LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE
-- for the first of many rows a scan looks cheap, but they may stand at the end
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    h softaudit.holds%ROWTYPE;
    refs bigint[];
    found boolean;
BEGIN
    FOR h IN SELECT o.* FROM softaudit.holds o JOIN softaudit.registry r ON r.table_id = o.table_id
              WHERE is_held.log_group = ANY (r.all_groups) LOOP
        -- each by the index on row_ref, or on old_row_ref
        IF h.row_ref IS NULL THEN
            EXECUTE format('SELECT EXISTS (SELECT FROM %s WHERE row_ref >= $1 AND row_ref < $2)', leaf)
               INTO found USING h.table_id::bigint << 32, (h.table_id + 1)::bigint << 32;
        ELSE
            -- the row's key may have been logged otherwise
            refs := ARRAY(SELECT softaudit.row_ref(h.table_id, f) FROM softaudit.key_forms(h.table_id, h.row_key, h.row_key) f) || h.row_ref;
            EXECUTE format('SELECT EXISTS (SELECT FROM %s WHERE row_ref = ANY ($1)) OR EXISTS (SELECT FROM %s WHERE old_row_ref = ANY ($1))', leaf, leaf)
               INTO found USING refs;
        END IF;
        IF found THEN
            RETURN true;
        END IF;
    END LOOP;
    RETURN false;
END
$$;
COMMENT ON FUNCTION softaudit.is_held(regclass, integer) IS
'whether a partition of the log has changes of tables or rows under a legal hold';

CREATE FUNCTION softaudit.retention_step_apply(log_group integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp SET IntervalStyle = 'postgres' SET TimeZone = 'UTC' AS $$
DECLARE
    g softaudit.log_groups%ROWTYPE;
    part record;
    problem text;
    lock_next regclass;
    wait_until timestamptz;
BEGIN
    PERFORM softaudit.check_maintain();
    SELECT * INTO g FROM softaudit.log_groups l WHERE l.group_id = log_group;
    IF g.keep_log IS NULL OR NOT pg_try_advisory_xact_lock(hashtextextended('softaudit.maintain', log_group)) THEN
        RETURN 0;
    END IF;
    BEGIN
        PERFORM set_config('lock_timeout', current_setting('softaudit.retention_lock_timeout'), true);
        FOR part IN SELECT b.leaf, b.leaf::text AS name, b.lower_bound, b.upper_bound FROM softaudit.partition_bounds(log_group) b
                     WHERE NOT b.is_default AND b.upper_bound <= now() - g.keep_log ORDER BY b.lower_bound LOOP
            PERFORM pg_advisory_xact_lock_shared(hashtextextended('softaudit.hold', r.table_id))
               FROM softaudit.registry r WHERE retention_step_apply.log_group = ANY (r.all_groups);
            CONTINUE WHEN softaudit.is_held(part.leaf, log_group);
            -- whoever waits for us waits for no longer than we may wait; between the attempts nobody does
            FOR attempt IN 1 .. 3 LOOP
                problem := NULL;
                BEGIN
                    -- who reads the partition may read on for long: that is waited for before the writers have to wait for us
                    BEGIN
                        EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', part.leaf);
                        RAISE EXCEPTION 'nobody uses it' USING ERRCODE = 'SA001';
                    EXCEPTION WHEN SQLSTATE 'SA001' THEN
                        NULL;
                    END;
                    -- those that the drop takes, in its order, and all of them within the time of one
                    wait_until := clock_timestamp() + current_setting('softaudit.retention_lock_timeout')::interval;
                    FOREACH lock_next IN ARRAY ARRAY[to_regclass('softaudit.log_g' || log_group), part.leaf, to_regclass('softaudit.log_g' || log_group || '_default')] LOOP
                        PERFORM set_config('lock_timeout', greatest(ceil(extract(epoch FROM wait_until - clock_timestamp()) * 1000), 1)::bigint || 'ms', true);
                        EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', lock_next);
                    END LOOP;
                    PERFORM softaudit.record_event('RETENTION', 'softaudit', (SELECT c.relname FROM pg_class c WHERE c.oid = part.leaf), NULL,
                        jsonb_build_object('from', part.lower_bound, 'to', part.upper_bound, 'keep_log', g.keep_log, 'log_group', g.group_name,
                                           'rows', (SELECT greatest(c.reltuples::bigint, pg_stat_get_live_tuples(c.oid), 0) FROM pg_class c WHERE c.oid = part.leaf),
                                           'bytes', pg_total_relation_size(part.leaf),
                                           'tables', (SELECT jsonb_agg(format('%I.%I', r.schema_name, r.table_name) ORDER BY r.table_id)
                                                        FROM softaudit.registry r WHERE retention_step_apply.log_group = ANY (r.all_groups))));
                    EXECUTE format('DROP TABLE %s', part.leaf);
                    RAISE NOTICE 'retention: log partition "%" dropped', part.name;
                    RETURN 1;
                EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
                    problem := SQLERRM;
                END;
                PERFORM pg_sleep(0.2);
            END LOOP;
            PERFORM softaudit.report(format('log partition "%s" is in use, its retention is left to the next run: %s', part.leaf, problem));
            RETURN 0;
        END LOOP;
    EXCEPTION WHEN OTHERS THEN
        PERFORM softaudit.report(format('retention of log group %s: %s', log_group, SQLERRM));
    END;
    RETURN 0;
END
$$;
COMMENT ON FUNCTION softaudit.retention_step_apply(integer) IS
'retention_step() as the extension''s owner';

CREATE FUNCTION softaudit.sweep_sessions() RETURNS bigint
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_lifecycle_call';
COMMENT ON FUNCTION softaudit.sweep_sessions() IS
'deletes rows of log_sessions that are older than all of the log; returns how many; for whoever may execute maintain()';

CREATE FUNCTION softaudit.sweep_sessions_apply() RETURNS bigint
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET lock_timeout = '2s' AS $$
DECLARE
    g integer;
    oldest timestamptz := 'infinity';
    first timestamptz;
    swept bigint := 0;
BEGIN
    PERFORM softaudit.check_maintain();
    /*
     * Only the backend that wrote a session's row has its log rows refer to it, and once it
     * is gone, they are all there and began before: what it prepared, too, if nothing is
     * prepared now. So where the whole log began later, none of it refers to the row.
     * Each of these statements sees what was there before the next one looks.
     */
    IF EXISTS (SELECT FROM pg_prepared_xacts x WHERE x.database = current_database()) THEN
        RETURN 0;
    END IF;
    BEGIN
        FOR g IN SELECT l.group_id FROM softaudit.log_groups l LOOP
            -- a row that moves home is in the default leaf still, or its new leaf is seen next
            EXECUTE format('SELECT min(changed_at) FROM softaudit.%I', 'log_g' || g || '_default') INTO first;
            oldest := least(oldest, first);
            SELECT min(b.lower_bound) INTO first FROM softaudit.partition_bounds(g) b;
            oldest := least(oldest, first);
        END LOOP;
        -- clocks may be set back, by less than a day
        DELETE FROM softaudit.log_sessions s WHERE s.ended_by < oldest - interval '1 day';
        GET DIAGNOSTICS swept = ROW_COUNT;
        -- who is seen in the table and not among the backends after that is gone; the time is read last
        PERFORM pg_stat_clear_snapshot();
        UPDATE softaudit.log_sessions s SET ended_by = greatest(clock_timestamp(), s.created_at)
         WHERE s.ended_by IS NULL AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = s.backend_pid);
        IF swept > 0 THEN
            RAISE NOTICE 'retention: % rows of softaudit.log_sessions deleted', swept;
        END IF;
    EXCEPTION WHEN OTHERS THEN
        PERFORM softaudit.report(format('rows of softaudit.log_sessions: %s', SQLERRM));
        swept := 0;
    END;
    RETURN swept;
END
$$;
COMMENT ON FUNCTION softaudit.sweep_sessions_apply() IS
'sweep_sessions() as the extension''s owner';
