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

CREATE FUNCTION softaudit.maintain_step(log_group integer) RETURNS bigint
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_lifecycle_call';
COMMENT ON FUNCTION softaudit.maintain_step(integer) IS
'one bounded step of maintain() for a log group; returns how many rows it moved home; for whoever may execute maintain()';

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
    PERFORM softaudit.ensure_log();
    RETURN softaudit.create_ahead(log_group, 10000);
EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
    RAISE WARNING 'log group %: a partition is in use, its maintenance is left to the next run', log_group;
    RETURN 0;
END
$$;
COMMENT ON FUNCTION softaudit.maintain_step_apply(integer) IS
'maintain_step() as the extension''s owner';

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

/* It commits after each step, so it can have neither SET nor SECURITY DEFINER. */
CREATE PROCEDURE softaudit.maintain()
LANGUAGE plpgsql AS $$
DECLARE
    groups integer[];
    g integer;
    moved bigint;
BEGIN
    PERFORM softaudit.check_top_level('softaudit.maintain()');
    groups := softaudit.maintain_groups();
    FOREACH g IN ARRAY groups LOOP
        LOOP
            moved := softaudit.maintain_step(g);
            COMMIT;
            EXIT WHEN moved OPERATOR(pg_catalog.=) 0;
        END LOOP;
    END LOOP;
END
$$;
COMMENT ON PROCEDURE softaudit.maintain() IS
'does what is due: log partitions ahead, rows of the default partitions moved home; safe at any time, from any scheduler';
