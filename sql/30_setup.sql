/*
 * ---- setting a table up ----
 *
 * Each public function is softaudit_owner_call(): it checks the caller, locks the
 * table and has "<name>_apply" do the work as the extension's owner.
 */

CREATE FUNCTION softaudit.enable(
    target regclass,
    soft_delete boolean DEFAULT NULL,
    audit boolean DEFAULT NULL,
    deleted_at name DEFAULT NULL,
    images text DEFAULT NULL,
    exclude name[] DEFAULT NULL,
    redact name[] DEFAULT NULL,
    ignore name[] DEFAULT NULL,
    partition_by interval DEFAULT NULL,
    keep_log interval DEFAULT NULL,
    log_group name DEFAULT NULL,
    replicated boolean DEFAULT NULL,
    keep_unique name[] DEFAULT NULL,
    purge_after interval DEFAULT NULL,
    live_unique boolean DEFAULT NULL,
    purge_image boolean DEFAULT NULL
) RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_enable';
COMMENT ON FUNCTION softaudit.enable(regclass, boolean, boolean, name, text, name[], name[], name[], interval, interval, name, boolean, name[], interval, boolean, boolean) IS
'sets a table up, or changes its settings in place; an argument left out (NULL) keeps its value; for the table''s owner';

CREATE FUNCTION softaudit.disable(target regclass, soft_delete boolean DEFAULT true, audit boolean DEFAULT true, force boolean DEFAULT false) RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_owner_call_exclusive';
COMMENT ON FUNCTION softaudit.disable(regclass, boolean, boolean, boolean) IS
'removes what enable() added to a table; the log stays; for the table''s owner';

CREATE FUNCTION softaudit.reset(target regclass, setting name) RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_owner_call';
COMMENT ON FUNCTION softaudit.reset(regclass, name) IS
'gives a setting of a table its first value back; for the table''s owner';

CREATE FUNCTION softaudit.caller() RETURNS oid
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_caller';
COMMENT ON FUNCTION softaudit.caller() IS
'the role that called enable() or its like, within it';

CREATE FUNCTION softaudit.first_settings() RETURNS jsonb
LANGUAGE sql IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
RETURN '{"soft_delete": true, "audit": true, "images": "full", "exclude": [], "redact": [], "ignore": [],
         "partition_by": "1 month", "keep_log": null, "log_group": null, "replicated": false,
         "deleted_at": "deleted_at", "keep_unique": [], "purge_after": null, "live_unique": true, "purge_image": true}'::jsonb;
COMMENT ON FUNCTION softaudit.first_settings() IS
'the settings of a table that enable() is called for the first time for';

CREATE FUNCTION softaudit.prepare_enable(target regclass, partition_by interval, keep_log interval, log_group name) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- before configure() is compiled, too, which knows the registry's row type
    PERFORM softaudit.ensure_log();
    IF EXISTS (SELECT FROM softaudit.registry r WHERE r.relation = target) THEN
        RETURN;
    END IF;
    -- what configure() waits for: under the table's lock others would wait along
    PERFORM pg_advisory_xact_lock(hashtextextended('softaudit.ensure_log', 0));
    -- a named group may have settings of its own, which are looked at there
    IF log_group IS NULL AND (keep_log IS NULL OR keep_log > interval '0') THEN
        partition_by := COALESCE(partition_by, (softaudit.first_settings() ->> 'partition_by')::interval);
        PERFORM softaudit.check_partition_by(partition_by);
        PERFORM softaudit.ensure_group(NULL, partition_by, keep_log);
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.prepare_enable(regclass, interval, interval, name) IS
'what enable() does before it locks the table: the log, and the group of the two intervals with its partitions';

CREATE FUNCTION softaudit.enable_apply(
    target regclass, soft_delete boolean, audit boolean, deleted_at name, images text, exclude name[],
    redact name[], ignore name[], partition_by interval, keep_log interval, log_group name,
    replicated boolean, keep_unique name[], purge_after interval, live_unique boolean, purge_image boolean
) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp SET IntervalStyle = 'postgres' AS $$
BEGIN
    PERFORM softaudit.configure(target, jsonb_strip_nulls(jsonb_build_object(
        'soft_delete', soft_delete, 'audit', audit, 'images', images,
        'exclude', exclude, 'redact', redact, 'ignore', ignore,
        'partition_by', partition_by, 'keep_log', keep_log, 'log_group', log_group,
        'replicated', replicated, 'deleted_at', deleted_at, 'keep_unique', keep_unique,
        'purge_after', purge_after, 'live_unique', live_unique, 'purge_image', purge_image)));
END
$$;
COMMENT ON FUNCTION softaudit.enable_apply(regclass, boolean, boolean, name, text, name[], name[], name[], interval, interval, name, boolean, name[], interval, boolean, boolean) IS
'enable() as the extension''s owner';

CREATE FUNCTION softaudit.reset_apply(target regclass, setting name) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF setting IS NULL OR NOT softaudit.first_settings() ? setting::text THEN
        RAISE EXCEPTION 'there is no setting "%"', setting
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'The settings are ' || (SELECT string_agg(k, ', ' ORDER BY k) FROM jsonb_object_keys(softaudit.first_settings()) k) || '.';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_class WHERE oid = to_regclass('softaudit.registry')) THEN
        PERFORM softaudit.ensure_log();
    END IF;
    IF NOT EXISTS (SELECT FROM softaudit.registry r WHERE r.relation = target) THEN
        RAISE EXCEPTION 'table "%" is not enabled', target
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Call softaudit.enable() for it.';
    END IF;
    PERFORM softaudit.configure(target, jsonb_build_object(setting::text, softaudit.first_settings() -> setting::text));
END
$$;
COMMENT ON FUNCTION softaudit.reset_apply(regclass, name) IS
'reset() as the extension''s owner';

CREATE FUNCTION softaudit.check_columns(target regclass, setting text, columns name[]) RETURNS void
LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    col name;
BEGIN
    FOREACH col IN ARRAY columns LOOP
        IF col IS NULL OR NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = target AND a.attname = col
                                      AND a.attnum > 0 AND NOT a.attisdropped) THEN
            RAISE EXCEPTION '%: column "%" of table "%" does not exist', setting, col, target
                USING ERRCODE = 'undefined_column',
                      HINT = 'Name columns of the table as they are spelled in the catalog: mixed case is kept.';
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION softaudit.check_columns(regclass, text, name[]) IS
'raises undefined_column for a name that is not a column of the table';

CREATE FUNCTION softaudit.key_of(target regclass, OUT key_columns name[], OUT key_types text[])
LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT COALESCE(array_agg(a.attname ORDER BY k.ord), '{}'),
           -- by a type of PostgreSQL's own: history_of() casts to it, and must run nobody's code
           COALESCE(array_agg((WITH RECURSIVE base (oid, typtype, typbasetype, typtypmod, nsp) AS (
                                   SELECT t.oid, t.typtype, t.typbasetype, a.atttypmod, t.typnamespace
                                     FROM pg_type t WHERE t.oid = a.atttypid
                                   UNION ALL
                                   SELECT t.oid, t.typtype, t.typbasetype, CASE WHEN b.typtypmod = -1 THEN d.typtypmod ELSE b.typtypmod END, t.typnamespace
                                     FROM base b JOIN pg_type d ON d.oid = b.oid JOIN pg_type t ON t.oid = b.typbasetype
                                    WHERE b.typtype = 'd')
                               SELECT CASE WHEN nsp = 'pg_catalog'::regnamespace THEN format_type(oid, typtypmod) ELSE 'text' END
                                 FROM base WHERE typtype <> 'd') ORDER BY k.ord), '{}')
      FROM pg_index i
     CROSS JOIN LATERAL unnest(i.indkey[0:i.indnkeyatts - 1]) WITH ORDINALITY k (attnum, ord)
      JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
     WHERE i.indrelid = target AND i.indisprimary
$$;
COMMENT ON FUNCTION softaudit.key_of(regclass) IS
'columns and types of a table''s primary key; empty if it has none';

CREATE FUNCTION softaudit.key_args(target regclass) RETURNS text[]
LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT softaudit.identity(target) || COALESCE(array_agg(a.attnum || ':' || a.attname ORDER BY a.attnum), '{}')
      FROM pg_index i
      JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1])
     WHERE i.indrelid = target AND i.indisprimary
$$;
COMMENT ON FUNCTION softaudit.key_args(regclass) IS
'a table''s identity, then the columns of its primary key by number and name';

CREATE FUNCTION softaudit.next_audit_id() RETURNS bigint
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- a value that was taken stands for the block that it begins
    RETURN (SELECT CASE WHEN s.is_called THEN s.last_value + 16 ELSE s.last_value END FROM softaudit.log_audit_id_seq s);
END
$$;
COMMENT ON FUNCTION softaudit.next_audit_id() IS
'what the ids of log rows yet to be written are not below; takes none';

CREATE FUNCTION softaudit.follow_key(of_table integer, target regclass) RETURNS boolean
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known softaudit.registry%ROWTYPE;
    args text[] := softaudit.key_args(target);
    names name[] := ARRAY(SELECT substr(a, strpos(a, ':') + 1)::name FROM unnest(args[2:]) a ORDER BY 1);
    is_same boolean;
    types text[] := (SELECT k.key_types FROM softaudit.key_of(target) k);
    retyped boolean;
BEGIN
    SELECT * INTO known FROM softaudit.registry r WHERE r.table_id = of_table;
    IF names = '{}' THEN
        -- a restore makes the key later
        IF known.key_columns <> '{}' AND known.key_args[1] = args[1] AND known.key_gone IS NULL THEN
            UPDATE softaudit.registry r SET key_gone = softaudit.next_audit_id() WHERE r.table_id = of_table;
        END IF;
        RETURN false;
    END IF;
    is_same := CASE WHEN known.key_args[1] = args[1]
                    THEN ARRAY(SELECT split_part(a, ':', 1)::smallint FROM unnest(known.key_args[2:]) a ORDER BY 1) =
                         ARRAY(SELECT split_part(a, ':', 1)::smallint FROM unnest(args[2:]) a ORDER BY 1)
                    -- restored: names are right and numbers are not
                    WHEN known.key_args <> '{}'
                    THEN ARRAY(SELECT substr(a, strpos(a, ':') + 1)::name FROM unnest(known.key_args[2:]) a ORDER BY 1) = names
                    -- the first that there is has none before it
                    ELSE known.key_columns = '{}' OR ARRAY(SELECT unnest(known.key_columns) ORDER BY 1) = names END;
    -- rows that changed while nothing told them apart may have taken each other's values
    IF is_same AND known.key_gone IS NOT NULL THEN
        is_same := NOT EXISTS (SELECT FROM softaudit.log l
                                WHERE l.row_ref = of_table::bigint << 32 AND l.log_group = ANY (known.all_groups) AND l.audit_id >= known.key_gone
                                  AND l.row_key IS NULL AND l.operation <> 'TRUNCATE');
    END IF;
    -- of jsonb, a number and its text are two keys; of a key that was away the types are not known, of one that a restore makes later they are as they were
    retyped := is_same AND 'jsonb' <> ALL (types) AND (known.key_retyped OR known.key_args <> '{}' AND
                   CASE WHEN known.key_types = '{}' THEN known.key_gone IS NOT NULL ELSE known.key_types <> types END);
    -- what a dump brought along stays as it is until the table is adopted
    IF is_same AND known.key_args[1] <> args[1] THEN
        args := known.key_args;
    END IF;
    UPDATE softaudit.registry r
       SET key_args = args, key_gone = NULL, key_since = CASE WHEN is_same THEN r.key_since ELSE softaudit.next_audit_id() END, key_retyped = retyped
     WHERE r.table_id = of_table AND (NOT is_same OR r.key_args <> args OR r.key_gone IS NOT NULL OR r.key_retyped <> retyped);
    RETURN is_same;
END
$$;
COMMENT ON FUNCTION softaudit.follow_key(integer, regclass) IS
'notes whether a table''s primary key is of the columns that it was of last, whatever they are called: else no log row from before has it';

CREATE FUNCTION softaudit.follow_columns(of_table integer, target regclass, is_adopted boolean) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known text[] := (SELECT r.column_since FROM softaudit.registry r WHERE r.table_id = of_table);
    identity text := softaudit.identity(target);
    now_there text[];
    is_new boolean;
BEGIN
    SELECT identity || array_agg(concat_ws(':', a.attnum, COALESCE(k.since, CASE WHEN known = '{}' THEN 0 ELSE softaudit.next_audit_id() END), a.attname) ORDER BY a.attnum),
           bool_or(k.since IS NULL) OR count(*) <> cardinality(known) - 1
      INTO now_there, is_new
      FROM pg_attribute a
      -- restored: names are right and numbers are not
      LEFT JOIN (SELECT m[1]::smallint AS attnum, m[2]::bigint AS since, m[3] AS name
                   FROM unnest(known[2:]) c CROSS JOIN LATERAL regexp_match(c, '^([0-9]+):([0-9]+):(.*)$') m) k
        ON k.name = a.attname AND (k.attnum = a.attnum OR known[1] <> identity)
     WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped;
    UPDATE softaudit.registry r SET column_since = now_there
     WHERE r.table_id = of_table AND (is_new OR is_adopted AND known[1] <> identity);
END
$$;
COMMENT ON FUNCTION softaudit.follow_columns(integer, regclass, boolean) IS
'notes from which log row on a name is that of a column which the table has now: before, it may have been another one''s';

CREATE FUNCTION softaudit.key_computed(target regclass, column_name text) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE softaudit.registry r SET key_since = softaudit.next_audit_id()
     WHERE r.relation IN (SELECT softaudit.heirs_of(target)) AND column_name = ANY (r.key_columns);
END
$$;
COMMENT ON FUNCTION softaudit.key_computed(regclass, text) IS
'notes that a command gave a column of a table new values: no log row from before has a key that it is part of';

CREATE FUNCTION softaudit.column_args(target regclass, exclude name[], redact name[], ignore name[]) RETURNS text[]
LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT COALESCE(array_agg(concat(CASE WHEN c.col = ANY (exclude) THEN 'x' END,
                                     CASE WHEN c.col = ANY (redact) THEN 'r' END,
                                     CASE WHEN c.col = ANY (ignore) THEN 'i' END,
                                     COALESCE(a.attnum, 0), ':', c.col) ORDER BY c.col), '{}')
      FROM (SELECT DISTINCT unnest(exclude || redact || ignore) AS col) c
      LEFT JOIN pg_attribute a ON a.attrelid = target AND a.attname = c.col AND a.attnum > 0 AND NOT a.attisdropped
$$;
COMMENT ON FUNCTION softaudit.column_args(regclass, name[], name[], name[]) IS
'how the capture trigger''s arguments name columns: flags (x exclude, r redact, i ignore), number, name';

CREATE FUNCTION softaudit.put_triggers(target regclass, table_id integer, images text, column_args text[], replicated boolean) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning AS $$
DECLARE
    args text := (SELECT string_agg(quote_literal(a), ', ' ORDER BY ord)
                    FROM unnest(ARRAY[table_id::text, softaudit.identity(target), images] || column_args) WITH ORDINALITY u (a, ord));
    rel regclass;
    renamed name;
BEGIN
    -- under another name it would capture beside the new one
    FOR rel, renamed IN SELECT g.tgrelid, g.tgname FROM pg_trigger g
                         WHERE g.tgrelid IN (SELECT t.relid FROM pg_partition_tree(target) t UNION SELECT target) AND g.tgparentid = 0
                           AND g.tgfoid = 'softaudit.capture()'::regprocedure AND g.tgname NOT IN ('!softaudit_capture', '!softaudit_truncate')
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', renamed, rel);
    END LOOP;
    EXECUTE format('CREATE OR REPLACE TRIGGER "!softaudit_capture" AFTER INSERT OR UPDATE OR DELETE ON %s
                    FOR EACH ROW EXECUTE FUNCTION softaudit.capture(%s)', target, args);
    EXECUTE format('ALTER TABLE %s ENABLE %s TRIGGER "!softaudit_capture"', target, CASE WHEN replicated THEN 'ALWAYS' ELSE '' END);
    -- statement triggers are not cloned to partitions
    FOR rel IN SELECT t.relid FROM pg_partition_tree(target) t JOIN pg_class c ON c.oid = t.relid WHERE c.relkind <> 'f'
               UNION SELECT target
    LOOP
        EXECUTE format('CREATE OR REPLACE TRIGGER "!softaudit_truncate" AFTER TRUNCATE ON %s
                        FOR EACH STATEMENT EXECUTE FUNCTION softaudit.capture(%s)', rel, args);
        EXECUTE format('ALTER TABLE ONLY %s ENABLE %s TRIGGER "!softaudit_truncate"', rel, CASE WHEN replicated THEN 'ALWAYS' ELSE '' END);
    END LOOP;
END
$$;
COMMENT ON FUNCTION softaudit.put_triggers(regclass, integer, text, text[], boolean) IS
'puts the capture triggers on a table and its partitions';

CREATE FUNCTION softaudit.trigger_settings(target regclass) RETURNS jsonb
LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
    -- as a dump of the single table brought them along
    SELECT COALESCE((
        SELECT jsonb_build_object(
                   'images', t.args[3],
                   'exclude', ARRAY(SELECT substr(c, strpos(c, ':') + 1) FROM unnest(t.args[4:]) c WHERE c ~ '^[ri]*x'),
                   'redact', ARRAY(SELECT substr(c, strpos(c, ':') + 1) FROM unnest(t.args[4:]) c WHERE c ~ '^[xi]*r'),
                   'ignore', ARRAY(SELECT substr(c, strpos(c, ':') + 1) FROM unnest(t.args[4:]) c WHERE c ~ '^[xr]*i'),
                   'replicated', EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = target AND g.tgname = '!softaudit_capture' AND g.tgenabled = 'A'))
          FROM (SELECT softaudit.trigger_args(target) AS args) t
         WHERE t.args IS NOT NULL), '{}')
$$;
COMMENT ON FUNCTION softaudit.trigger_settings(regclass) IS
'the settings that a capture trigger carries; an empty object if the table has none';

CREATE FUNCTION softaudit.drop_triggers(target regclass) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning AS $$
DECLARE
    rel regclass;
BEGIN
    EXECUTE format('DROP TRIGGER IF EXISTS "!softaudit_capture" ON %s', target);
    FOR rel IN SELECT t.relid FROM pg_partition_tree(target) t UNION SELECT target LOOP
        EXECUTE format('DROP TRIGGER IF EXISTS "!softaudit_truncate" ON %s', rel);
    END LOOP;
END
$$;
COMMENT ON FUNCTION softaudit.drop_triggers(regclass) IS
'takes the capture triggers off a table and its partitions';

CREATE FUNCTION softaudit.take_over(part regclass, owner_id integer, cause text) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known softaudit.registry%ROWTYPE;
    follower softaudit.registry%ROWTYPE;
    kept name;
BEGIN
    SELECT * INTO known FROM softaudit.registry r WHERE r.table_id = owner_id;
    FOR follower IN SELECT r.* FROM pg_partition_tree(part) t JOIN softaudit.registry r ON r.relation = t.relid
                     WHERE t.relid <> known.relation AND r.audit LOOP
        SELECT k.c INTO kept FROM (SELECT unnest(follower.exclude || follower.redact) EXCEPT SELECT unnest(known.exclude || known.redact)) k (c) LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'partition "%" keeps column "%" out of the log, and "%" does not', follower.relation, kept, known.relation
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      HINT = 'Give exclude and redact for the partitioned table, with the columns that are to stay out.';
        END IF;
        UPDATE softaudit.registry r SET audit = false WHERE r.table_id = follower.table_id;
        PERFORM softaudit.drop_triggers(follower.relation);
        PERFORM softaudit.record_event('DISABLE', follower.schema_name, follower.table_name, NULL, jsonb_build_object('by', cause));
        RAISE NOTICE 'audit: partition "%" is now audited as a part of "%"', follower.relation, known.relation;
    END LOOP;
END
$$;
COMMENT ON FUNCTION softaudit.take_over(regclass, integer, text) IS
'ends the audit of what was enabled on its own and is now a part of an audited table';

CREATE FUNCTION softaudit.configure(target regclass, given jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp SET IntervalStyle = 'postgres' AS $$
DECLARE
    known softaudit.registry%ROWTYPE;
    is_new boolean;
    old_group softaudit.log_groups%ROWTYPE;
    was_audited boolean;
    old_settings jsonb;
    s jsonb;                    -- the settings as they will be
    x_exclude name[];
    x_redact name[];
    x_ignore name[];
    both_lists name[];
    step interval;
    keep interval;
    gid integer;
    key_cols name[];
    key_typs text[];
    changed jsonb;
    child regclass;
    follower softaudit.registry%ROWTYPE;
    followers integer := 0;
    new_args text[];
    was_soft boolean := softaudit.marker_column(target) IS NOT NULL;
    soft boolean;
BEGIN
    -- columns may have been renamed while nobody was told
    PERFORM softaudit.resync(target);
    SELECT * INTO known FROM softaudit.registry r WHERE r.relation = target;
    is_new := NOT FOUND;
    was_audited := NOT is_new AND known.audit AND softaudit.trigger_args(target) IS NOT NULL;
    old_settings := CASE WHEN is_new THEN softaudit.first_settings() || softaudit.trigger_settings(target)
        ELSE jsonb_build_object('soft_delete', known.soft_delete, 'audit', was_audited OR NOT was_soft, 'images', known.images,
                                'exclude', known.exclude, 'redact', known.redact, 'ignore', known.ignore,
                                'partition_by', known.partition_by, 'keep_log', known.keep_log,
                                'log_group', known.group_name, 'replicated', known.replicated,
                                -- a rename is followed by the marker
                                'deleted_at', COALESCE(softaudit.marker_column(target), known.deleted_at),
                                'keep_unique', known.keep_unique, 'purge_after', known.purge_after, 'live_unique', known.live_unique, 'purge_image', known.purge_image) END;
    s := old_settings || given;
    soft := (s ->> 'soft_delete')::boolean;

    IF NOT (s ->> 'audit')::boolean AND NOT soft THEN
        RAISE EXCEPTION 'nothing is to be enabled for table "%"', target
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Leave soft_delete or audit at true, or call softaudit.disable().';
    END IF;
    IF given ->> 'deleted_at' = '' OR given ->> 'log_group' = '' THEN
        RAISE EXCEPTION '% cannot be empty', CASE WHEN given ->> 'deleted_at' = '' THEN 'deleted_at' ELSE 'log_group' END
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = CASE WHEN given ->> 'deleted_at' = '' THEN 'Name the column that is to mark deleted rows; leave it out for "deleted_at".'
                              ELSE 'Name a group of tables that share a log; leave it out to share one by partition_by and keep_log.' END;
    END IF;
    IF (s ->> 'purge_after')::interval <= interval '0' THEN
        RAISE EXCEPTION 'purge_after cannot be "%"', s ->> 'purge_after'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give how long deleted rows are kept, for example ''30 days''; leave it out to keep them for ever.';
    END IF;
    PERFORM softaudit.check_age('purge_after', (s ->> 'purge_after')::interval);
    IF given ? 'purge_after' AND NOT soft THEN
        RAISE EXCEPTION 'purge_after is for soft-deleted rows, and table "%" is not soft-deleted', target
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give soft_delete => true, too; for rows that are to go by their age, call softaudit.expire().';
    END IF;
    IF s ->> 'images' NOT IN ('full', 'changes') THEN
        RAISE EXCEPTION 'images cannot be "%"', s ->> 'images'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Choose ''full'' or ''changes''.';
    END IF;
    x_exclude := ARRAY(SELECT DISTINCT e::name FROM jsonb_array_elements_text(s -> 'exclude') e ORDER BY 1);
    x_redact := ARRAY(SELECT DISTINCT e::name FROM jsonb_array_elements_text(s -> 'redact') e ORDER BY 1);
    x_ignore := ARRAY(SELECT DISTINCT e::name FROM jsonb_array_elements_text(s -> 'ignore') e ORDER BY 1);
    -- a list that is given must name columns; one that is kept may name some that were dropped
    IF given ? 'exclude' THEN PERFORM softaudit.check_columns(target, 'exclude', ARRAY(SELECT jsonb_array_elements_text(given -> 'exclude')::name)); END IF;
    IF given ? 'redact' THEN PERFORM softaudit.check_columns(target, 'redact', ARRAY(SELECT jsonb_array_elements_text(given -> 'redact')::name)); END IF;
    IF given ? 'ignore' THEN PERFORM softaudit.check_columns(target, 'ignore', ARRAY(SELECT jsonb_array_elements_text(given -> 'ignore')::name)); END IF;
    IF given ? 'keep_unique' THEN PERFORM softaudit.check_keep_unique(target, ARRAY(SELECT jsonb_array_elements_text(given -> 'keep_unique')::name)); END IF;
    -- of a table that was restored alone: what its trigger lists and somebody renamed since cannot be told
    IF is_new THEN
        SELECT ARRAY(SELECT substr(c, strpos(c, ':') + 1)::name FROM unnest((softaudit.trigger_args(target))[4:]) c
                      WHERE c !~ '^[xri]+0:' AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped
                                                              AND a.attname = substr(c, strpos(c, ':') + 1))
                        AND NOT (given ? CASE WHEN c ~ '^[ri]*x' THEN 'exclude' WHEN c ~ '^[xi]*r' THEN 'redact' ELSE 'ignore' END)) INTO both_lists;
        IF both_lists <> '{}' THEN
            RAISE EXCEPTION 'column "%", which the settings of table "%" list, does not exist', both_lists[1], target
                USING ERRCODE = 'undefined_column',
                      HINT = 'The table was restored with these settings, and the column renamed or dropped since: give exclude, redact and ignore anew.';
        END IF;
    END IF;
    both_lists := ARRAY(SELECT unnest(x_exclude) INTERSECT SELECT unnest(x_redact));
    IF both_lists <> '{}' THEN
        RAISE EXCEPTION 'column "%" is both in exclude and in redact', both_lists[1]
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Exclude keeps it out of the log, redact logs that it changed: choose one.';
    END IF;
    SELECT k.key_columns, k.key_types INTO key_cols, key_typs FROM softaudit.key_of(target) k;
    both_lists := ARRAY(SELECT unnest(x_exclude) INTERSECT SELECT unnest(key_cols));
    IF both_lists <> '{}' THEN
        RAISE EXCEPTION 'column "%" is part of the primary key and cannot be excluded', both_lists[1]
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'The log finds a row''s history by its key; use redact to keep the value out of it.';
    END IF;
    both_lists := ARRAY((SELECT unnest(x_redact) EXCEPT SELECT unnest(known.redact)) UNION ALL (SELECT unnest(known.redact) EXCEPT SELECT unnest(x_redact)));
    IF NOT is_new AND both_lists && key_cols
       AND EXISTS (SELECT FROM softaudit.holds h WHERE h.table_id = known.table_id AND h.row_ref IS NOT NULL) THEN
        RAISE EXCEPTION 'rows of table "%" are under a legal hold by the key, whose redaction cannot change meanwhile', target
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'softaudit.release() ends a hold; softaudit.holds lists them.';
    END IF;

    /*
     * A named group has its own interval and retention: a table that joins it takes
     * them over, one that gives others changes them for the group.
     */
    IF s ->> 'log_group' IS NOT NULL AND (is_new OR given ? 'log_group') THEN
        s := s || COALESCE((SELECT jsonb_build_object('partition_by', COALESCE(given -> 'partition_by', to_jsonb(g.partition_by)),
                                                      'keep_log', COALESCE(given -> 'keep_log', to_jsonb(g.keep_log)))
                              FROM softaudit.log_groups g WHERE g.is_named AND g.group_name = s ->> 'log_group'), '{}');
        IF s ->> 'log_group' LIKE 'every\_%' THEN
            RAISE EXCEPTION 'the name of log group "%" is kept for groups without one', s ->> 'log_group'
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'Choose another name; leave log_group out to share the group of the same partition_by and keep_log.';
        END IF;
    END IF;
    step := (s ->> 'partition_by')::interval;
    keep := (s ->> 'keep_log')::interval;
    PERFORM softaudit.check_partition_by(step);
    IF keep <= interval '0' THEN
        RAISE EXCEPTION 'keep_log cannot be "%"', keep
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give how long log rows are kept, for example ''90 days''; leave it out to keep them for ever.';
    END IF;
    PERFORM softaudit.check_age('keep_log', keep);
    s := s || jsonb_build_object('exclude', x_exclude, 'redact', x_redact, 'ignore', x_ignore,
                                 'partition_by', step, 'keep_log', keep);
    SELECT * INTO old_group FROM softaudit.log_groups g WHERE g.is_named AND g.group_name = s ->> 'log_group';
    gid := softaudit.ensure_group((s ->> 'log_group')::name, step, keep);
    IF (s ->> 'log_group') IS NOT NULL THEN
        -- what a table that was dropped, or left the group, has in it: nobody but a superuser shortens its stay
        SELECT r.* INTO follower FROM softaudit.registry r
          LEFT JOIN pg_class c ON c.oid = r.relation
         WHERE gid = ANY (r.all_groups) AND r.relation IS DISTINCT FROM target AND (c.oid IS NULL OR r.log_group <> gid)
           AND (old_group.partition_by::text <> step::text OR old_group.keep_log::text IS DISTINCT FROM keep::text)
           AND NOT pg_has_role(softaudit.caller(), COALESCE(c.relowner, (SELECT n.nspowner FROM pg_namespace n WHERE n.nspname = 'softaudit')), 'USAGE')
         LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'log group "%" has changes of others'' tables, such as "%.%"', s ->> 'log_group', follower.schema_name, follower.table_name
                USING ERRCODE = 'insufficient_privilege',
                      HINT = 'Leave partition_by and keep_log out to join the group as it is, or name another group.';
        END IF;
        -- the members of a named group follow its settings
        FOR follower IN SELECT * FROM softaudit.registry r
                         WHERE r.log_group = gid AND r.relation <> target
                           AND (r.partition_by::text <> step::text OR r.keep_log::text IS DISTINCT FROM keep::text)
        LOOP
            IF NOT pg_has_role(softaudit.caller(), (SELECT c.relowner FROM pg_class c WHERE c.oid = follower.relation), 'USAGE') THEN
                RAISE EXCEPTION 'log group "%" has tables of others, such as "%"', s ->> 'log_group', follower.relation
                    USING ERRCODE = 'insufficient_privilege',
                          HINT = 'Its partition_by and keep_log are for who owns all its tables. Leave them out to join the group as it is.';
            END IF;
            UPDATE softaudit.registry r SET partition_by = step, keep_log = keep WHERE r.table_id = follower.table_id;
            PERFORM softaudit.record_event('SETTINGS', follower.schema_name, follower.table_name, NULL,
                CASE WHEN follower.partition_by::text <> step::text THEN jsonb_build_object('partition_by', step) ELSE '{}' END ||
                CASE WHEN follower.keep_log::text IS DISTINCT FROM keep::text THEN jsonb_build_object('keep_log', keep) ELSE '{}' END);
            followers := followers + 1;
        END LOOP;
        IF followers > 0 THEN
            RAISE NOTICE 'log group "%" now has partition_by "%" and keep_log "%" for all its tables',
                s ->> 'log_group', step, COALESCE(keep::text, 'for ever');
        END IF;
    END IF;

    IF is_new THEN
        -- ids without a gap and without a sequence, one new table at a time
        PERFORM pg_advisory_xact_lock(hashtextextended('softaudit.ensure_log', 0));
        INSERT INTO softaudit.registry (table_id, relation, log_group, schema_name, table_name, image_key)
        SELECT (SELECT COALESCE(max(r.table_id), 0) + 1 FROM softaudit.registry r), target, gid, n.nspname, c.relname, key_cols
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = target
        RETURNING * INTO known;
    END IF;
    UPDATE softaudit.registry r
       SET log_group = gid, exclude = x_exclude, redact = x_redact, ignore = x_ignore,
           all_groups = CASE WHEN gid = ANY (r.all_groups) THEN r.all_groups ELSE r.all_groups || gid END,
           images = s ->> 'images', audit = (s ->> 'audit')::boolean, soft_delete = soft, deleted_at = (s ->> 'deleted_at')::name,
           keep_unique = ARRAY(SELECT jsonb_array_elements_text(s -> 'keep_unique')::name),
           purge_after = (s ->> 'purge_after')::interval, live_unique = (s ->> 'live_unique')::boolean, purge_image = (s ->> 'purge_image')::boolean, replicated = (s ->> 'replicated')::boolean,
           partition_by = step, keep_log = keep, group_name = s ->> 'log_group',
           key_columns = key_cols, key_types = key_typs,
           (schema_name, table_name) = (SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = target)
     WHERE r.table_id = known.table_id
    RETURNING * INTO known;

    PERFORM softaudit.follow_key(known.table_id, target);
    PERFORM softaudit.follow_columns(known.table_id, target, true);

    /*
     * Told by the catalog to every session: the trigger's arguments are the settings.  The
     * registry keeps those that name columns, for the time that disable() leaves no trigger.
     */
    new_args := softaudit.column_args(target, x_exclude, x_redact, x_ignore);
    IF known.audit THEN
        PERFORM softaudit.take_over(target, known.table_id, format('enable() of %s', target));
        PERFORM softaudit.put_triggers(target, known.table_id, known.images, new_args, known.replicated);
    ELSE
        PERFORM softaudit.drop_triggers(target);
    END IF;
    UPDATE softaudit.registry r SET column_args = ARRAY[softaudit.identity(target)] || new_args, trigger_state = CASE WHEN known.replicated THEN 'A' ELSE 'O' END
     WHERE r.table_id = known.table_id;
    IF soft THEN
        PERFORM softaudit.apply_soft_delete(target, s, NOT was_soft);
    ELSE
        PERFORM softaudit.remove_soft_delete(target, false);
        s := s - '{deleted_at,keep_unique,purge_after,live_unique,purge_image}'::text[];
    END IF;

    changed := COALESCE((SELECT jsonb_object_agg(k, v) FROM jsonb_each(s) e(k, v) WHERE old_settings -> k IS DISTINCT FROM v), '{}');
    IF NOT was_audited AND NOT was_soft THEN
        PERFORM softaudit.record_event('ENABLE', known.schema_name, known.table_name, NULL, s);
    ELSIF changed <> '{}' THEN
        PERFORM softaudit.record_event('SETTINGS', known.schema_name, known.table_name, NULL, changed);
    END IF;
    IF was_audited AND NOT known.audit THEN
        RAISE NOTICE 'audit: capture triggers removed from table "%"; its log stays', target;
    END IF;
    IF known.audit AND NOT was_audited THEN
        RAISE NOTICE 'audit: capture triggers added to table "%"', target;
        IF key_cols = '{}' THEN
            RAISE NOTICE 'table "%" has no primary key: its changes are logged, but history() cannot find a row''s', target;
        END IF;
        FOR child IN SELECT i.inhrelid FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent
                      WHERE i.inhparent = target AND p.relkind = 'r'
                        AND softaudit.trigger_args(i.inhrelid::regclass) IS NULL LOOP
            RAISE WARNING 'table "%" inherits from "%" and is not audited', child, target
                USING HINT = format('Call softaudit.enable(%L) for it, too.', child);
        END LOOP;
    END IF;
    IF was_audited OR was_soft THEN
        IF changed <> '{}' THEN
            RAISE NOTICE 'audit: settings of table "%" changed: %', target,
                (SELECT string_agg(format('%s = %s', k, COALESCE(v #>> '{}', 'null')), ', ' ORDER BY k) FROM jsonb_each(changed) e(k, v));
        ELSE
            RAISE NOTICE 'audit: table "%" is enabled with these settings already', target;
        END IF;
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.configure(regclass, jsonb) IS
'gives a table the settings that the object names and keeps its others';

CREATE FUNCTION softaudit.disable_apply(target regclass, soft_delete boolean, audit boolean, force boolean) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known record;
    was_audited boolean := softaudit.trigger_args(target) IS NOT NULL;
    was_soft boolean := softaudit.marker_column(target) IS NOT NULL;
    end_audit boolean := was_audited AND COALESCE(audit, true);
    end_soft boolean := was_soft AND COALESCE(soft_delete, true);
BEGIN
    IF NOT was_audited AND NOT was_soft THEN
        RAISE NOTICE 'audit: table "%" is not enabled', target;
        RETURN;
    END IF;
    IF NOT end_audit AND NOT end_soft THEN
        RAISE NOTICE '% of table "%" is not enabled', CASE WHEN was_audited THEN 'soft deletion' ELSE 'audit' END, target;
        RETURN;
    END IF;
    PERFORM softaudit.ensure_log();
    PERFORM softaudit.resync(target);
    IF end_soft THEN
        PERFORM softaudit.remove_soft_delete(target, force);
    END IF;
    IF end_audit THEN
        PERFORM softaudit.drop_triggers(target);
    END IF;
    /*
     * Where the one half stays, that the other is off is a setting; where nothing stays, a
     * later enable() takes up what there was.
     */
    UPDATE softaudit.registry r
       SET audit = r.audit AND NOT end_audit,
           soft_delete = CASE WHEN end_soft AND was_audited AND NOT end_audit THEN false ELSE r.soft_delete END
     WHERE r.relation = target RETURNING * INTO known;
    PERFORM softaudit.record_event('DISABLE', known.schema_name, known.table_name, NULL,
                                   CASE WHEN end_soft THEN jsonb_build_object('soft_delete', true, 'audit', end_audit) END);
    IF end_audit THEN
        RAISE NOTICE 'audit: capture triggers removed from table "%"; its log stays', target;
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.disable_apply(regclass, boolean, boolean, boolean) IS
'disable() as the extension''s owner';
