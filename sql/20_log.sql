/*
 * ---- the log: made at first use, no member of the extension ----
 *
 * DROP EXTENSION leaves it, pg_dump dumps it as tables of its own, and a later CREATE
 * EXTENSION takes it up again.  src/softaudit.h, registry.c, actor.c and history.c
 * count on the order of the columns.
 */

CREATE FUNCTION softaudit.guard_relation(target regclass) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('CREATE OR REPLACE TRIGGER softaudit_guard_insert BEFORE INSERT ON %s
                    FOR EACH STATEMENT EXECUTE FUNCTION softaudit.guard()', target);
    EXECUTE format('CREATE OR REPLACE TRIGGER softaudit_guard BEFORE UPDATE OR DELETE OR TRUNCATE ON %s
                    FOR EACH STATEMENT EXECUTE FUNCTION softaudit.guard()', target);
    -- also in a session that calls itself a replica; INSERT alone is left to a restore
    EXECUTE format('ALTER TABLE ONLY %s ENABLE ALWAYS TRIGGER softaudit_guard', target);
END
$$;
COMMENT ON FUNCTION softaudit.guard_relation(regclass) IS
'puts the append-only guards on a relation of the log';

CREATE FUNCTION softaudit.own_alone(target regclass) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    grantee text;
BEGIN
    FOR grantee IN SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
                     FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
                    WHERE c.oid = target AND a.grantee <> c.relowner LOOP
        EXECUTE format('REVOKE ALL ON %s FROM %s', target, grantee);
    END LOOP;
END
$$;
COMMENT ON FUNCTION softaudit.own_alone(regclass) IS
'takes back what default privileges gave away of a relation that was just made';

CREATE FUNCTION softaudit.unguarded() RETURNS SETOF regclass
LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.oid::regclass FROM pg_class c
     WHERE c.relnamespace = 'softaudit'::regnamespace AND c.relkind IN ('r', 'p')
       AND c.relname ~ '^(log|events|log_sessions|log_secret|log_g[0-9]+(_[0-9a-z]+)?)$'
       AND (SELECT count(*) FROM pg_trigger t
             WHERE t.tgrelid = c.oid AND t.tgfoid = 'softaudit.guard()'::regprocedure
               AND (t.tgname = 'softaudit_guard' AND t.tgenabled = 'A' OR t.tgname = 'softaudit_guard_insert' AND t.tgenabled IN ('O', 'A'))) < 2
$$;
COMMENT ON FUNCTION softaudit.unguarded() IS
'relations of the log whose append-only guards are missing or disabled';

CREATE FUNCTION softaudit.ensure_log() RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning AS $$
DECLARE
    rel regclass;
BEGIN
    IF to_regclass('softaudit.changes') IS NOT NULL AND NOT EXISTS (SELECT FROM softaudit.unguarded()) THEN
        RETURN;
    END IF;
    -- one at a time, or two first calls would both create; CREATE ... IF NOT EXISTS would not do in CREATE EXTENSION
    PERFORM pg_advisory_xact_lock(hashtextextended('softaudit.ensure_log', 0));

    IF to_regclass('softaudit.log_groups') IS NULL THEN
        CREATE TABLE softaudit.log_groups (
            group_id integer PRIMARY KEY CHECK (group_id BETWEEN 1 AND 32767),
            group_name name NOT NULL UNIQUE,
            is_named boolean NOT NULL,
            partition_by interval NOT NULL,
            keep_log interval,
            created_at timestamptz NOT NULL DEFAULT now()
        );
        COMMENT ON TABLE softaudit.log_groups IS
            'log groups: tables of one group share log partitions and their retention';
        PERFORM softaudit.own_alone('softaudit.log_groups');
    END IF;

    IF to_regclass('softaudit.registry') IS NULL THEN
        CREATE TABLE softaudit.registry (
            table_id integer PRIMARY KEY,
            relation regclass CONSTRAINT registry_relation_key UNIQUE,
            log_group integer NOT NULL REFERENCES softaudit.log_groups,
            schema_name name NOT NULL,
            table_name name NOT NULL,
            exclude name[] NOT NULL DEFAULT '{}',
            redact name[] NOT NULL DEFAULT '{}',
            all_groups integer[] NOT NULL DEFAULT '{}',
            -- the key when the table was first enabled, never changed: log rows rest on it
            image_key name[] NOT NULL DEFAULT '{}',
            key_columns name[] NOT NULL DEFAULT '{}',   -- now, or last, in the order that the digests rest on
            key_since bigint NOT NULL DEFAULT 0,        -- log rows before this one have the key of other columns
            key_args text[] NOT NULL DEFAULT '{}',      -- the last key there was: the table's identity, then columns by number and name
            key_gone bigint,                            -- the log row from which on the table has had no key
            key_retyped boolean NOT NULL DEFAULT false, -- the same columns were of other types once
            column_since text[] NOT NULL DEFAULT '{}',  -- the table's identity, then columns by number, first log row that has them, name
            ignore name[] NOT NULL DEFAULT '{}',
            images text NOT NULL DEFAULT 'full',
            audit boolean NOT NULL DEFAULT true,
            soft_delete boolean NOT NULL DEFAULT false,
            deleted_at name NOT NULL DEFAULT 'deleted_at',
            keep_unique name[] NOT NULL DEFAULT '{}',
            purge_after interval,
            live_unique boolean NOT NULL DEFAULT true,
            replicated boolean NOT NULL DEFAULT false,
            partition_by interval NOT NULL DEFAULT '1 month',
            keep_log interval,
            group_name name,
            key_types text[] NOT NULL DEFAULT '{}',
            column_args text[] NOT NULL DEFAULT '{}',
            trigger_state "char" NOT NULL DEFAULT 'O',
            purge_image boolean NOT NULL DEFAULT true,
            expire_column name,
            expire_after interval,
            expire_attribute text,      -- relation:attnum of expire_column, to follow a rename
            enabled_at timestamptz NOT NULL DEFAULT now(),
            dropped_at timestamptz
        );
        COMMENT ON TABLE softaudit.registry IS
            'every table that was ever enabled, with its stable id and settings; relation is NULL once it was dropped';
        PERFORM softaudit.own_alone('softaudit.registry');
    END IF;

    PERFORM softaudit.ensure_replaced();
    PERFORM softaudit.ensure_lifecycle();

    IF to_regclass('softaudit.log_session_id_seq') IS NULL THEN
        CREATE SEQUENCE softaudit.log_session_id_seq;
        PERFORM softaudit.own_alone('softaudit.log_session_id_seq');
    END IF;
    IF to_regclass('softaudit.log_sessions') IS NULL THEN
        CREATE TABLE softaudit.log_sessions (
            session_id bigint PRIMARY KEY,
            created_at timestamptz NOT NULL,
            session_user_name text NOT NULL,
            application_name text NOT NULL,
            client_addr inet,
            client_port integer,
            backend_pid integer,
            context jsonb,
            origin text,
            ended_by timestamptz        -- its backend was gone by then: no log row after that refers to it
        );
        COMMENT ON TABLE softaudit.log_sessions IS
            'what many log rows share: session user, application, client, context, replication origin';
        PERFORM softaudit.own_alone('softaudit.log_sessions');
    END IF;

    IF to_regclass('softaudit.log_secret') IS NULL THEN
        CREATE TABLE softaudit.log_secret (secret bytea NOT NULL);
        INSERT INTO softaudit.log_secret
        SELECT sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));
        COMMENT ON TABLE softaudit.log_secret IS
            'key of the digests that stand for redacted values; keep it as secret as the values';
        PERFORM softaudit.own_alone('softaudit.log_secret');
    END IF;

    -- a value stands for a block of 16 ids: log.c, IDS_PER_BLOCK
    IF to_regclass('softaudit.log_audit_id_seq') IS NULL THEN
        CREATE SEQUENCE softaudit.log_audit_id_seq INCREMENT BY 16;
        PERFORM softaudit.own_alone('softaudit.log_audit_id_seq');
    END IF;

    IF to_regclass('softaudit.log') IS NULL THEN
        CREATE TABLE softaudit.log (
            audit_id bigint NOT NULL,
            changed_at timestamptz NOT NULL,
            xid xid8 NOT NULL,
            session_id bigint NOT NULL,
            row_ref bigint NOT NULL,    -- registry.table_id above, a digest of the key below
            log_group smallint NOT NULL,
            operation text NOT NULL,
            changed_by text NOT NULL,
            new_data jsonb,
            old_data jsonb,
            row_key jsonb,              -- where the images do not hold the key under registry.image_key
            old_row_ref bigint,         -- where an UPDATE changed the key
            old_row_key jsonb,
            partition_name text,
            seal_salt bytea
        ) PARTITION BY LIST (log_group);
        COMMENT ON TABLE softaudit.log IS
            'the audit log: partitioned by log group, then by range of changed_at; append-only';
        PERFORM softaudit.own_alone('softaudit.log');
        -- to look for duplicates costs each insert more than the space is worth
        CREATE INDEX log_row_ref_idx ON softaudit.log (row_ref) WITH (deduplicate_items = off);
        CREATE INDEX log_old_row_ref_idx ON softaudit.log (old_row_ref) WHERE old_row_ref IS NOT NULL;
        -- pglz costs more than it saves on rows of this size
        IF EXISTS (SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)) THEN
            ALTER TABLE softaudit.log ALTER old_data SET COMPRESSION lz4, ALTER new_data SET COMPRESSION lz4;
        ELSE
            ALTER TABLE softaudit.log ALTER old_data SET STORAGE EXTERNAL, ALTER new_data SET STORAGE EXTERNAL;
        END IF;
    END IF;

    IF to_regclass('softaudit.events') IS NULL THEN
        CREATE SEQUENCE softaudit.event_id_seq;
        PERFORM softaudit.own_alone('softaudit.event_id_seq');
        CREATE TABLE softaudit.events (
            event_id bigint PRIMARY KEY,
            happened_at timestamptz NOT NULL DEFAULT now(),
            event text NOT NULL CHECK (event IN ('ENABLE', 'DISABLE', 'SETTINGS', 'HOLD', 'RELEASE', 'ERASE', 'PURGE',
                                                 'RETENTION', 'ATTACH', 'DETACH', 'REWRITE', 'DROP')),
            schema_name name,
            relation name,
            actor text NOT NULL,
            session_user_name text NOT NULL DEFAULT session_user,
            reason text,
            details jsonb
        );
        COMMENT ON TABLE softaudit.events IS
            'what was done to the audit itself; append-only, outside retention';
        PERFORM softaudit.own_alone('softaudit.events');
    END IF;

    IF to_regclass('softaudit.changes') IS NULL THEN
        CREATE VIEW softaudit.changes AS
        SELECT l.audit_id, l.changed_at, l.xid, l.operation, l.changed_by, l.old_data, l.new_data,
               r.schema_name, r.table_name,
               softaudit.key_from_image(l.row_key, COALESCE(l.new_data, l.old_data), r.image_key) AS row_key,
               softaudit.changed_columns(l.old_data, l.new_data) AS changed_columns,
               s.session_user_name, s.application_name, s.client_addr, s.context, s.origin, l.partition_name
          FROM softaudit.log l
          -- the range is what the index can use to find the rows of a table
          JOIN softaudit.registry r ON r.table_id = (l.row_ref >> 32)::integer
                                   AND l.row_ref >= r.table_id::bigint << 32
                                   AND l.row_ref < (r.table_id + 1)::bigint << 32
          LEFT JOIN softaudit.log_sessions s ON s.session_id = l.session_id;
        COMMENT ON VIEW softaudit.changes IS
            'the log with table names, row keys, changed columns and session facts';
        PERFORM softaudit.own_alone('softaudit.changes');
    END IF;

    FOR rel IN SELECT u FROM softaudit.unguarded() u LOOP
        PERFORM softaudit.guard_relation(rel);
    END LOOP;
END
$$;
COMMENT ON FUNCTION softaudit.ensure_log() IS
'makes what is missing of the registry, the log, its guards and views';

CREATE FUNCTION softaudit.next_event_id() RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_next_event_id';
COMMENT ON FUNCTION softaudit.next_event_id() IS
'the next id of softaudit.events';

CREATE FUNCTION softaudit.record_event(event text, schema_name name, relation name, reason text, details jsonb) RETURNS void
LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO softaudit.events (event_id, event, schema_name, relation, actor, session_user_name, reason, details)
    VALUES (softaudit.next_event_id(), event, schema_name, relation, softaudit.actor(), softaudit.session_user_name(), reason, details)
$$;
COMMENT ON FUNCTION softaudit.record_event(text, name, name, text, jsonb) IS
'writes a row of softaudit.events';

/* ---- partitions ---- */

CREATE FUNCTION softaudit.check_partition_by(step interval) RETURNS void
LANGUAGE plpgsql IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    months integer;
    days integer;
    secs numeric;
BEGIN
    -- among them 'infinity', which has no parts; periods ahead of now are to be there
    IF step > interval '1000 years' THEN
        RAISE EXCEPTION 'partition_by cannot be "%"', step
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give at most ''1000 years''.';
    END IF;
    IF step > interval '0' THEN
        months := extract(year FROM step) * 12 + extract(month FROM step);
        days := extract(day FROM step);
        secs := extract(hour FROM step) * 3600 + extract(minute FROM step) * 60 + extract(second FROM step);
    END IF;
    IF step <= interval '0' OR NOT (months > 0 AND days = 0 AND secs = 0 OR
            months = 0 AND days > 0 AND secs = 0 OR
            months = 0 AND days = 0 AND secs >= 3600 AND secs % 3600 = 0) THEN
        RAISE EXCEPTION 'partition_by cannot be "%"', step
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give a whole number of hours, of days, or of months: ''1 day'', ''1 week'', ''1 month''.';
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.check_partition_by(interval) IS
'raises invalid_parameter_value unless the interval is a whole number of hours, days or months, 1000 years at most';

CREATE FUNCTION softaudit.period_start(at timestamptz, step interval) RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC' AS $$
DECLARE
    months integer := extract(year FROM step) * 12 + extract(month FROM step);
    n integer;
BEGIN
    IF months > 0 THEN
        n := (extract(year FROM at) * 12 + extract(month FROM at) - 1)::integer / months * months;
        RETURN make_timestamptz(n / 12, n % 12 + 1, 1, 0, 0, 0, 'UTC');
    END IF;
    -- weeks begin on Monday
    RETURN date_bin(step, at, '2001-01-01 00:00:00+00');
END
$$;
COMMENT ON FUNCTION softaudit.period_start(timestamptz, interval) IS
'where the log period that holds a time begins, in UTC';

CREATE FUNCTION softaudit.partition_bounds(group_id integer)
RETURNS TABLE (leaf regclass, lower_bound timestamptz, upper_bound timestamptz, is_default boolean)
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET DateStyle = 'ISO'
SET standard_conforming_strings = on AS $$
    SELECT c.oid::regclass,
           (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \(''([^'']+)''\)'))[1]::timestamptz,
           (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''([^'']+)''\)'))[1]::timestamptz,
           pg_get_expr(c.relpartbound, c.oid) = 'DEFAULT'
      FROM pg_inherits i
      JOIN pg_class c ON c.oid = i.inhrelid
     WHERE i.inhparent = to_regclass('softaudit.log_g' || group_id)
     ORDER BY 2 NULLS LAST
$$;
COMMENT ON FUNCTION softaudit.partition_bounds(integer) IS
'the leaves of a log group with their ranges; the default leaf has NULL for both bounds';

CREATE FUNCTION softaudit.create_leaf(group_id integer, leaf_name name, lower_bound timestamptz, upper_bound timestamptz) RETURNS regclass
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning AS $$
DECLARE
    leaf regclass;
BEGIN
    /*
     * Made apart and attached: CREATE TABLE ... PARTITION OF would lock the group
     * against readers, ATTACH does not.
     */
    EXECUTE format('CREATE TABLE softaudit.%I (LIKE softaudit.log INCLUDING STORAGE INCLUDING COMPRESSION) USING heap', leaf_name);
    leaf := format('softaudit.%I', leaf_name)::regclass;
    PERFORM softaudit.own_alone(leaf);
    EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', leaf);
    PERFORM softaudit.guard_relation(leaf);
    IF lower_bound IS NOT NULL THEN
        -- no writer may add to the range while its rows move; ATTACH takes this lock, too
        EXECUTE format('LOCK TABLE softaudit.%I IN ACCESS EXCLUSIVE MODE', 'log_g' || group_id || '_default');
        EXECUTE format('INSERT INTO %s SELECT * FROM softaudit.%I WHERE changed_at >= %L AND changed_at < %L',
                       leaf, 'log_g' || group_id || '_default', lower_bound, upper_bound);
        EXECUTE format('DELETE FROM softaudit.%I WHERE changed_at >= %L AND changed_at < %L',
                       'log_g' || group_id || '_default', lower_bound, upper_bound);
        EXECUTE format('ALTER TABLE softaudit.%I ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)',
                       'log_g' || group_id, leaf, lower_bound, upper_bound);
    ELSE
        EXECUTE format('ALTER TABLE softaudit.%I ATTACH PARTITION %s DEFAULT', 'log_g' || group_id, leaf);
    END IF;
    RETURN leaf;
END
$$;
COMMENT ON FUNCTION softaudit.create_leaf(integer, name, timestamptz, timestamptz) IS
'makes a leaf of a log group for a range, with the rows of that range that the default leaf took in; bounds of NULL make the default leaf';

CREATE FUNCTION softaudit.is_ahead(group_id integer) RETURNS boolean
LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT COALESCE(bool_or(b.lower_bound <= now() AND b.upper_bound > now()) AND max(b.upper_bound) > now() + g.partition_by, false)
      FROM softaudit.log_groups g CROSS JOIN LATERAL softaudit.partition_bounds(g.group_id) b
     WHERE g.group_id = is_ahead.group_id
     GROUP BY g.partition_by
$$;
COMMENT ON FUNCTION softaudit.is_ahead(integer) IS
'whether a log group has a leaf for now and one for what follows';

CREATE FUNCTION softaudit.create_ahead(group_id integer, max_moved bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC' AS $$
DECLARE
    step interval := (SELECT g.partition_by FROM softaudit.log_groups g WHERE g.group_id = create_ahead.group_id);
    default_leaf regclass := to_regclass('softaudit.log_g' || group_id || '_default');
    current_start timestamptz := softaudit.period_start(clock_timestamp(), step);
    ahead integer := current_setting('softaudit.partitions_ahead')::integer;
    horizon timestamptz := softaudit.period_start(current_start + (ahead + 1) * step, step);
    first timestamptz;
    next_lower timestamptz;
    next_upper timestamptz;
    next_row timestamptz;
    moved bigint := 0;
    n bigint;
BEGIN
    -- periods that the default leaf holds rows of come first, one of them at a time
    EXECUTE format('SELECT min(changed_at) FROM %s', default_leaf) INTO next_row;
    first := CASE WHEN next_row IS NULL THEN current_start
                  ELSE least(current_start, softaudit.period_start(next_row, step)) END;
    next_lower := first;
    LOOP
        -- step over what is there, up to what is there
        SELECT max(b.upper_bound) INTO next_upper FROM softaudit.partition_bounds(group_id) b
         WHERE b.lower_bound <= next_lower AND b.upper_bound > next_lower;
        IF next_upper IS NOT NULL THEN
            next_lower := next_upper;
            CONTINUE;
        END IF;
        EXECUTE format('SELECT min(changed_at) FROM %s WHERE changed_at >= %L', default_leaf, next_lower) INTO next_row;
        IF next_lower < current_start AND (next_row IS NULL OR next_row >= current_start) THEN
            next_lower := current_start;
            CONTINUE;
        ELSIF next_lower < current_start AND next_row >= softaudit.period_start(next_lower, step) + step THEN
            next_lower := softaudit.period_start(next_row, step);
            CONTINUE;
        END IF;
        EXIT WHEN next_lower >= horizon;
        next_upper := softaudit.period_start(softaudit.period_start(next_lower, step) + step, step);
        SELECT least(next_upper, min(b.lower_bound)) INTO next_upper
          FROM softaudit.partition_bounds(group_id) b WHERE b.lower_bound > next_lower;
        -- a range with many rows is cut, so that a step stays bounded
        IF max_moved IS NOT NULL AND next_row < next_upper THEN
            EXIT WHEN moved >= max_moved;
            EXECUTE format('SELECT changed_at FROM %s WHERE changed_at >= %L AND changed_at < %L ORDER BY changed_at OFFSET %s LIMIT 1',
                           default_leaf, next_lower, next_upper, max_moved) INTO next_row;
            IF next_row > next_lower THEN
                next_upper := least(next_upper, next_row);
            END IF;
        END IF;
        EXECUTE format('SELECT count(*) FROM %s WHERE changed_at >= %L AND changed_at < %L',
                       default_leaf, next_lower, next_upper) INTO n;
        IF n > 0 AND max_moved IS NULL THEN
            -- left to maintain(), which does it in steps of its own
            next_lower := next_upper;
            CONTINUE;
        END IF;
        moved := moved + n;
        PERFORM softaudit.create_leaf(group_id,
            'log_g' || group_id || '_' ||
            CASE WHEN next_lower = date_trunc('day', next_lower) THEN to_char(next_lower, 'YYYYMMDD')
                 WHEN next_lower = date_trunc('hour', next_lower) THEN to_char(next_lower, 'YYYYMMDD"t"HH24')
                 ELSE to_char(next_lower, 'YYYYMMDD"t"HH24MISSUS') END,
            next_lower, next_upper);
        next_lower := next_upper;
    END LOOP;
    RETURN moved;
END
$$;
COMMENT ON FUNCTION softaudit.create_ahead(integer, bigint) IS
'makes the missing leaves of a log group, current and ahead; moves up to about max_moved rows home from the default leaf (NULL: leaves ranges that hold rows alone); returns how many it moved';

CREATE FUNCTION softaudit.ensure_group(name_given name, step interval, keep interval) RETURNS integer
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET IntervalStyle = 'postgres'
SET client_min_messages = warning AS $$
DECLARE
    g softaudit.log_groups%ROWTYPE;
    label name := (SELECT COALESCE(name_given, CASE WHEN length(u.label) <= 63 THEN u.label ELSE left(u.label, 30) || '_' || md5(u.label) END::name)
                    FROM (SELECT translate('every_' || step || CASE WHEN keep IS NULL THEN '' ELSE '_keep_' || keep END, ' :', '__') AS label) u);
BEGIN
    SELECT * INTO g FROM softaudit.log_groups l
     WHERE CASE WHEN name_given IS NULL THEN NOT l.is_named AND l.partition_by::text = step::text AND l.keep_log::text IS NOT DISTINCT FROM keep::text
                ELSE l.is_named AND l.group_name = name_given END;
    IF NOT FOUND THEN
        -- two sessions may want the same new group
        PERFORM pg_advisory_xact_lock(hashtextextended('softaudit.ensure_log', 0));
        SELECT * INTO g FROM softaudit.log_groups l
         WHERE CASE WHEN name_given IS NULL THEN NOT l.is_named AND l.partition_by::text = step::text AND l.keep_log::text IS NOT DISTINCT FROM keep::text
                    ELSE l.is_named AND l.group_name = name_given END;
    END IF;
    IF g.group_id IS NULL THEN
        INSERT INTO softaudit.log_groups (group_id, group_name, is_named, partition_by, keep_log)
        SELECT COALESCE(max(l.group_id), 0) + 1, label, name_given IS NOT NULL, step, keep FROM softaudit.log_groups l
        -- what an older snapshot does not see is a serialization failure, not a duplicate
        ON CONFLICT (group_name) DO NOTHING
        RETURNING * INTO g;
        IF g.group_id IS NULL THEN
            RAISE EXCEPTION 'log group "%" was made by somebody else meanwhile', label
                USING ERRCODE = 'serialization_failure', HINT = 'Call it again.';
        END IF;
        EXECUTE format('CREATE TABLE softaudit.%I PARTITION OF softaudit.log FOR VALUES IN (%s) PARTITION BY RANGE (changed_at)',
                       'log_g' || g.group_id, g.group_id);
        PERFORM softaudit.own_alone(format('softaudit.%I', 'log_g' || g.group_id)::regclass);
        PERFORM softaudit.guard_relation(format('softaudit.%I', 'log_g' || g.group_id)::regclass);
        PERFORM softaudit.create_leaf(g.group_id, 'log_g' || g.group_id || '_default', NULL, NULL);
    ELSIF g.partition_by::text <> step::text OR g.keep_log::text IS DISTINCT FROM keep::text THEN
        UPDATE softaudit.log_groups l SET partition_by = step, keep_log = keep WHERE l.group_id = g.group_id;
    END IF;
    IF NOT softaudit.is_ahead(g.group_id) THEN
        PERFORM pg_advisory_xact_lock(hashtextextended('softaudit.maintain', g.group_id));
        PERFORM softaudit.create_ahead(g.group_id, NULL);
    END IF;
    RETURN g.group_id;
END
$$;
COMMENT ON FUNCTION softaudit.ensure_group(name, interval, interval) IS
'finds or makes a log group with its partitions; a NULL name means the group of the two intervals';
