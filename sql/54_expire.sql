/* ---- expiry: throwaway data ---- */

CREATE FUNCTION softaudit.expire(target regclass, column_name name, after interval) RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_owner_call';
COMMENT ON FUNCTION softaudit.expire(regclass, name, interval) IS
'has maintain() delete for good the rows whose column (timestamptz; timestamp and date are taken as UTC) lies further back than the interval; rows with NULL stay; for the table''s owner';

CREATE FUNCTION softaudit.unexpire(target regclass) RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_owner_call';
COMMENT ON FUNCTION softaudit.unexpire(regclass) IS
'ends what expire() began; for the table''s owner';

CREATE FUNCTION softaudit.expire_apply(target regclass, column_name name, after interval) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp SET IntervalStyle = 'postgres' AS $$
DECLARE
    col record;
    known record;
BEGIN
    IF column_name IS NULL OR after IS NULL THEN
        RAISE EXCEPTION 'neither the column nor the interval must be NULL'
            USING ERRCODE = 'null_value_not_allowed', HINT = 'Write softaudit.expire(''otp_codes'', ''created_at'', ''15 minutes'').';
    ELSIF after <= interval '0' THEN
        RAISE EXCEPTION 'rows cannot expire after "%"', after
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give how long they live, for example ''15 minutes''.';
    END IF;
    PERFORM softaudit.check_age('after', after);
    SELECT a.attname, a.attnum, a.atttypid INTO col FROM pg_attribute a
     WHERE a.attrelid = target AND a.attname = column_name AND a.attnum > 0 AND NOT a.attisdropped;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'column "%" of table "%" does not exist', column_name, target
            USING ERRCODE = 'undefined_column', HINT = 'Name a column of type timestamptz, timestamp or date.';
    ELSIF softaudit.before(col.atttypid, now()) IS NULL THEN
        RAISE EXCEPTION 'column "%" is of type %', column_name, format_type(col.atttypid, NULL)
            USING ERRCODE = 'datatype_mismatch', HINT = 'Name a column of type timestamptz, timestamp or date.';
    END IF;
    PERFORM softaudit.ensure_log();
    IF NOT EXISTS (SELECT FROM softaudit.registry r WHERE r.relation = target) THEN
        PERFORM softaudit.register(target, 'deleted_at');
        -- what a first enable() takes it to be
        UPDATE softaudit.registry r SET live_unique = true WHERE r.relation = target;
    END IF;
    SELECT * INTO known FROM softaudit.registry r WHERE r.relation = target;
    IF known.expire_column = column_name AND known.expire_after::text = after::text THEN
        RAISE NOTICE 'expiry: rows of table "%" expire so already', target;
        RETURN;
    END IF;
    UPDATE softaudit.registry r SET expire_column = column_name, expire_after = after, expire_attribute = target::oid || ':' || col.attnum
     WHERE r.relation = target;
    PERFORM softaudit.record_event(CASE WHEN known.expire_column IS NULL THEN 'ENABLE' ELSE 'SETTINGS' END, known.schema_name, known.table_name, NULL,
                                   jsonb_build_object('expire_column', column_name, 'expire_after', after));
    RAISE NOTICE 'expiry: maintain() deletes rows of table "%" % after "%" from now on', target, after, column_name;
    IF NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = target AND i.indkey[0] = col.attnum AND i.indpred IS NULL AND i.indisvalid)
       AND NOT softaudit.is_range_partitioned(target, col.attnum) THEN
        RAISE NOTICE 'expiry: table "%" has no index on column "%": each run reads the whole table', target, column_name
            USING HINT = format('CREATE INDEX CONCURRENTLY ON %s (%I);', target, column_name);
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.expire_apply(regclass, name, interval) IS
'expire() as the extension''s owner';

CREATE FUNCTION softaudit.unexpire_apply(target regclass) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known record;
BEGIN
    PERFORM softaudit.ensure_log();
    SELECT * INTO known FROM softaudit.registry r WHERE r.relation = target;
    IF known.expire_column IS NULL THEN
        RAISE NOTICE 'expiry: rows of table "%" do not expire', target;
        RETURN;
    END IF;
    UPDATE softaudit.registry r SET expire_column = NULL, expire_after = NULL, expire_attribute = NULL WHERE r.relation = target;
    PERFORM softaudit.record_event('DISABLE', known.schema_name, known.table_name, NULL, jsonb_build_object('expire_column', known.expire_column));
    RAISE NOTICE 'expiry: rows of table "%" do not expire any more', target;
END
$$;
COMMENT ON FUNCTION softaudit.unexpire_apply(regclass) IS
'unexpire() as the extension''s owner';

CREATE FUNCTION softaudit.is_range_partitioned(target regclass, attnum smallint) RETURNS boolean
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM pg_partitioned_table p
                    WHERE p.partrelid = target AND p.partstrat = 'r' AND p.partnatts = 1 AND p.partattrs[0] = is_range_partitioned.attnum)
$$;
COMMENT ON FUNCTION softaudit.is_range_partitioned(regclass, smallint) IS
'whether a table is partitioned by range of this column alone';

CREATE FUNCTION softaudit.drop_expired(table_id integer) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO' AS $$
DECLARE
    known record;
    part record;
    held text;
    estimate bigint;
BEGIN
    SELECT * INTO known FROM softaudit.registry r WHERE r.table_id = drop_expired.table_id;
    IF NOT softaudit.is_range_partitioned(known.relation, (SELECT a.attnum FROM pg_attribute a WHERE a.attrelid = known.relation AND a.attname = known.expire_column)) THEN
        RETURN;
    END IF;
    PERFORM set_config('lock_timeout', current_setting('softaudit.retention_lock_timeout'), true);
    PERFORM softaudit.lock_holds(known.relation);
    FOR part IN SELECT c.oid::regclass AS relation, c.relname, c.relkind,
                       (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''([^'']+)''\)'))[1]::timestamptz AS upper_bound
                  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                 WHERE i.inhparent = known.relation AND c.relkind IN ('r', 'p') ORDER BY 4 LOOP
        CONTINUE WHEN part.upper_bound IS NULL OR part.upper_bound > now() - known.expire_after;
        held := softaudit.held_rows(part.relation, 't');
        CONTINUE WHEN held IS NOT NULL AND softaudit.lifecycle_query(part.relation, format('SELECT EXISTS (SELECT FROM %s t WHERE %s)', part.relation, held))::boolean;
        BEGIN
            SELECT sum(greatest(c.reltuples::bigint, pg_stat_get_live_tuples(c.oid), 0)) INTO estimate
              FROM unnest(softaudit.due_leaves(part.relation)) l (leaf) JOIN pg_class c ON c.oid = l.leaf;
            EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', known.relation);
            -- triggers of DROP are the superuser's; foreign keys that refer to it refuse it
            EXECUTE format('DROP TABLE %s', part.relation);
            PERFORM softaudit.record_event('PURGE', known.schema_name, known.table_name, 'expired',
                jsonb_build_object('partition', part.relname, 'rows', estimate, 'older_than', now() - known.expire_after));
            RAISE NOTICE 'expiry: partition "%" dropped', part.relname;
        EXCEPTION WHEN lock_not_available OR deadlock_detected OR dependent_objects_still_exist OR foreign_key_violation THEN
            PERFORM softaudit.report(format('partition "%s" could not be dropped, its rows go one by one: %s', part.relation, SQLERRM));
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION softaudit.drop_expired(integer) IS
'drops the partitions of a table that expired as a whole';
