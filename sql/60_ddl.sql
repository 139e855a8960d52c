/* ---- following DDL ---- */

CREATE FUNCTION softaudit.ddl_start() RETURNS event_trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_ddl_start';
COMMENT ON FUNCTION softaudit.ddl_start() IS 'event trigger function: refuses DDL that would change or unguard the log';

CREATE FUNCTION softaudit.ddl_end() RETURNS event_trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_ddl_end';
COMMENT ON FUNCTION softaudit.ddl_end() IS 'event trigger function: follows renames, new partitions, ATTACH and DETACH';

CREATE FUNCTION softaudit.sql_drop() RETURNS event_trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_sql_drop';
COMMENT ON FUNCTION softaudit.sql_drop() IS 'event trigger function: keeps the names of dropped tables, refuses to lose the log';

CREATE FUNCTION softaudit.table_rewrite() RETURNS event_trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_table_rewrite';
COMMENT ON FUNCTION softaudit.table_rewrite() IS 'event trigger function: records rewrites of audited tables';

CREATE FUNCTION softaudit.resync(target regclass) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known softaudit.registry%ROWTYPE;
    args text[] := softaudit.trigger_args(target);
    old_args text[];            -- the table's identity, then its columns
    new_columns text[];
    new_key name[];
    is_same_key boolean;
BEGIN
    SELECT * INTO known FROM softaudit.registry r WHERE r.relation = target;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    is_same_key := softaudit.follow_key(known.table_id, target);
    PERFORM softaudit.follow_columns(known.table_id, target, false);
    -- holds on rows name the key's columns
    new_key := (SELECT k.key_columns FROM softaudit.key_of(target) k);
    IF is_same_key AND new_key <> known.key_columns AND cardinality(new_key) = cardinality(known.key_columns)
       AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = target AND NOT a.attisdropped
                       AND a.attname IN (SELECT unnest(known.key_columns) EXCEPT SELECT unnest(new_key))) THEN
        UPDATE softaudit.holds h
           SET row_key = (SELECT jsonb_object_agg(COALESCE(u.new_name, e.name), e.value)
                            FROM jsonb_each(h.row_key) e (name, value) LEFT JOIN unnest(known.key_columns, new_key) u (old_name, new_name) ON u.old_name = e.name)
         WHERE h.table_id = known.table_id AND h.row_key IS NOT NULL;
    END IF;
    UPDATE softaudit.registry r
       SET schema_name = n.nspname, table_name = c.relname, key_columns = k.key_columns, key_types = k.key_types
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace CROSS JOIN softaudit.key_of(target) k
     WHERE r.table_id = known.table_id AND c.oid = target
       AND (r.schema_name, r.table_name, r.key_columns, r.key_types)
           IS DISTINCT FROM (n.nspname, c.relname, k.key_columns, k.key_types);

    /*
     * The trigger's arguments name columns by number and name; of a disabled table the
     * registry has them.  While they are of this very table the number is right: a column
     * that was renamed gets its new name there, one that was dropped the number zero.
     */
    old_args := CASE WHEN args IS NULL THEN known.column_args ELSE args[2:2] || args[4:] END;
    IF cardinality(old_args) < 2 OR old_args[1] <> softaudit.identity(target) THEN
        RETURN;
    END IF;
    SELECT array_agg(CASE WHEN n.num = 0 AND b.attnum IS NULL THEN u.a
                          -- dropped once, and there again: to be followed from here on
                          WHEN n.num = 0 THEN n.flags || b.attnum || ':' || n.name
                          WHEN a.attname IS NULL OR a.attisdropped THEN n.flags || '0:' || n.name
                          ELSE n.flags || n.num || ':' || a.attname END ORDER BY u.ord)
      INTO new_columns
      FROM unnest(old_args[2:]) WITH ORDINALITY u (a, ord)
     CROSS JOIN LATERAL (SELECT (regexp_match(u.a, '^([xri]+)'))[1] AS flags,
                                (regexp_match(u.a, '^[xri]+([0-9]+):'))[1]::smallint AS num,
                                substr(u.a, strpos(u.a, ':') + 1) AS name) n
      LEFT JOIN pg_attribute a ON a.attrelid = target AND a.attnum = n.num
      LEFT JOIN pg_attribute b ON n.num = 0 AND b.attrelid = target AND b.attname = n.name AND b.attnum > 0 AND NOT b.attisdropped
                              AND NOT EXISTS (SELECT FROM unnest(old_args[2:]) o WHERE o ~ ('^[xri]+' || b.attnum || ':'));
    IF new_columns IS DISTINCT FROM old_args[2:] THEN
        IF args IS NOT NULL THEN
            PERFORM softaudit.put_triggers(target, known.table_id, known.images, new_columns, known.replicated);
        END IF;
        UPDATE softaudit.registry r
           SET column_args = old_args[1:1] || new_columns,
               exclude = ARRAY(SELECT substr(c, strpos(c, ':') + 1)::name FROM unnest(new_columns) c WHERE c ~ '^[ri]*x'),
               redact = ARRAY(SELECT substr(c, strpos(c, ':') + 1)::name FROM unnest(new_columns) c WHERE c ~ '^[xi]*r'),
               ignore = ARRAY(SELECT substr(c, strpos(c, ':') + 1)::name FROM unnest(new_columns) c WHERE c ~ '^[xr]*i')
         WHERE r.table_id = known.table_id;
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.resync(regclass) IS
'brings the registry and the capture trigger of a table up to date after ALTER TABLE';

CREATE FUNCTION softaudit.adopt(target regclass) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known softaudit.registry%ROWTYPE;
    args text[] := softaudit.trigger_args(target);
    new_columns text[];
    present text[] := softaudit.key_args(target);
BEGIN
    SELECT * INTO known FROM softaudit.registry r WHERE r.relation = target;
    IF known.key_args[1] <> present[1] AND ARRAY(SELECT substr(a, strpos(a, ':') + 1) FROM unnest(known.key_args[2:]) a ORDER BY 1) =
                                           ARRAY(SELECT substr(a, strpos(a, ':') + 1) FROM unnest(present[2:]) a ORDER BY 1) THEN
        UPDATE softaudit.registry r SET key_args = present WHERE r.table_id = known.table_id;
    END IF;
    IF known.table_id IS NOT NULL THEN
        PERFORM softaudit.follow_columns(known.table_id, target, true);
    END IF;
    IF known.table_id IS NULL OR args IS NULL OR args[1] <> known.table_id::text OR args[2] = softaudit.identity(target) THEN
        RETURN;
    END IF;
    -- restored: names are right and numbers are not; from here on a RENAME can be followed again
    SELECT COALESCE(array_agg(CASE WHEN n.num = '0' THEN u.a
                                   ELSE n.flags || COALESCE(a.attnum, -1) || ':' || n.name END ORDER BY u.ord), '{}')
      INTO new_columns
      FROM unnest(args[4:]) WITH ORDINALITY u (a, ord)
     CROSS JOIN LATERAL (SELECT (regexp_match(u.a, '^([xri]+)'))[1] AS flags,
                                (regexp_match(u.a, '^[xri]+([0-9]+):'))[1] AS num,
                                substr(u.a, strpos(u.a, ':') + 1) AS name) n
      LEFT JOIN pg_attribute a ON a.attrelid = target AND a.attname = n.name AND a.attnum > 0 AND NOT a.attisdropped;
    -- a name that is not there was changed before the dump: left as it is, so that it keeps the images out
    IF EXISTS (SELECT FROM unnest(new_columns) c WHERE c ~ '^[xri]+-1:') THEN
        RETURN;
    END IF;
    PERFORM softaudit.put_triggers(target, known.table_id, known.images, new_columns, known.replicated);
    UPDATE softaudit.registry r SET column_args = ARRAY[softaudit.identity(target)] || new_columns WHERE r.table_id = known.table_id;
END
$$;
COMMENT ON FUNCTION softaudit.adopt(regclass) IS
'makes the capture trigger of a restored table its own: numbers its columns as they are here';

CREATE FUNCTION softaudit.adopt_tree(target regclass) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rel regclass;
BEGIN
    FOR rel IN SELECT h FROM softaudit.heirs_of(target) h JOIN softaudit.registry r ON r.relation = h LOOP
        PERFORM softaudit.adopt(rel);
    END LOOP;
END
$$;
COMMENT ON FUNCTION softaudit.adopt_tree(regclass) IS
'adopt() for a table and all that inherits its columns, or for the tables of a type';

CREATE FUNCTION softaudit.after_ddl(partitions_may_be_new boolean) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
-- what it costs by the planner's guess is not what it costs
SET jit = off AS $$
DECLARE
    rel oid;
    root oid;
    known softaudit.registry%ROWTYPE;
    leaf regclass;
    owner_id integer;
BEGIN
    FOR rel IN SELECT DISTINCT COALESCE(a.attrelid, c.objid)
                 FROM pg_event_trigger_ddl_commands() c
                 LEFT JOIN pg_attribute a ON a.attrelid = c.objid AND a.attnum = c.objsubid AND c.objsubid > 0
                WHERE c.classid = 'pg_class'::regclass
               UNION
               -- what a command on a parent or on a type did to children and typed tables
               SELECT t.oid FROM (SELECT DISTINCT softaudit.heirs_of(c.objid) AS relid FROM pg_event_trigger_ddl_commands() c WHERE c.classid = 'pg_class'::regclass) d
                 JOIN pg_class t ON t.oid = d.relid
                WHERE EXISTS (SELECT FROM softaudit.registry r WHERE r.relation = d.relid)
                   OR NOT t.relispartition AND EXISTS (SELECT FROM pg_constraint c WHERE c.contype = 'f' AND c.conrelid = d.relid AND softaudit.is_marked(c.confrelid))
               UNION
               -- a schema was renamed: all its tables have a new name
               SELECT r.relation FROM pg_event_trigger_ddl_commands() c
                 JOIN pg_class t ON t.relnamespace = c.objid
                 JOIN softaudit.registry r ON r.relation = t.oid
                WHERE c.classid = 'pg_namespace'::regclass
    LOOP
        PERFORM softaudit.resync(rel::regclass);
        PERFORM softaudit.note_trigger_state(rel::regclass);
        PERFORM softaudit.follow_marker(rel::regclass);
        UPDATE softaudit.registry r SET expire_column = a.attname
          FROM pg_attribute a
         WHERE r.relation = rel AND a.attrelid = rel AND NOT a.attisdropped AND r.expire_attribute = rel || ':' || a.attnum AND r.expire_column <> a.attname;
        -- a foreign key came or went
        IF softaudit.is_marked(rel::regclass) OR
           EXISTS (SELECT FROM softaudit.parts_of(softaudit.root_of(rel::regclass)) p
                    WHERE EXISTS (SELECT FROM pg_constraint c WHERE c.contype = 'f' AND c.conrelid = p AND softaudit.is_marked(c.confrelid))
                       OR EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = p AND t.tgname = '!softaudit_keys')) THEN
            PERFORM softaudit.put_key_triggers(rel::regclass);
        END IF;
        CONTINUE WHEN NOT partitions_may_be_new;
        /* New partitions of an enabled table, at any level below it. */
        FOR root, leaf IN
            SELECT a.relid, t.relid
              FROM unnest(softaudit.ancestors(rel)) a (relid)
              JOIN softaudit.registry r ON r.relation = a.relid AND r.audit
             CROSS JOIN LATERAL pg_partition_tree(rel) t
              JOIN pg_class c ON c.oid = t.relid AND c.relkind <> 'f'
             WHERE a.relid <> t.relid
               -- amid a restore the root may be without its trigger yet
               AND softaudit.trigger_args(a.relid) IS NOT NULL
               AND NOT EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = t.relid AND g.tgname = '!softaudit_truncate')
        LOOP
            SELECT * INTO known FROM softaudit.registry r WHERE r.relation = root;
            PERFORM softaudit.put_truncate_trigger(leaf, root);
            PERFORM softaudit.record_event('ATTACH', known.schema_name, known.table_name, NULL,
                                           jsonb_build_object('partition', leaf::text));
        END LOOP;
    END LOOP;
    /*
     * A partition that left, with what is below it: the row triggers went with DETACH,
     * the TRUNCATE triggers are still there and tell of it.
     */
    FOR leaf, owner_id IN
        SELECT g.tgrelid, r.table_id
          FROM pg_trigger g
          JOIN softaudit.registry r ON r.table_id::text = split_part(encode(g.tgargs, 'escape'), E'\\000', 1)
         WHERE g.tgname = '!softaudit_truncate' AND g.tgfoid = 'softaudit.capture()'::regprocedure
           AND NOT EXISTS (SELECT FROM pg_trigger c WHERE c.tgrelid = g.tgrelid AND c.tgname = '!softaudit_capture')
           -- a parallel restore may make the one trigger of a table before the other
           AND r.relation <> g.tgrelid
           -- it was this command, on the tree that it left (asked upwards: pg_partition_tree() locks what it lists)
           AND EXISTS (SELECT FROM pg_event_trigger_ddl_commands() c CROSS JOIN LATERAL unnest(softaudit.ancestors(c.objid)) u (relid)
                        WHERE u.relid = r.relation)
           AND NOT EXISTS (SELECT FROM unnest(softaudit.ancestors(g.tgrelid)) a (relid) WHERE a.relid = r.relation)
    LOOP
        EXECUTE format('DROP TRIGGER "!softaudit_truncate" ON %s', leaf);
        CONTINUE WHEN (SELECT c.relispartition FROM pg_class c WHERE c.oid = leaf);
        SELECT * INTO known FROM softaudit.registry r WHERE r.table_id = owner_id;
        PERFORM softaudit.record_event('DETACH', known.schema_name, known.table_name, NULL,
                                       jsonb_build_object('partition', leaf::text));
        RAISE WARNING 'table "%" is no longer a partition of "%.%" and is not audited any more', leaf, known.schema_name, known.table_name
            USING HINT = format('Call softaudit.enable(%L) for it to have it audited on its own.', leaf);
    END LOOP;
END
$$;
COMMENT ON FUNCTION softaudit.after_ddl(boolean) IS
'acts on a DDL command that may concern audited tables';

CREATE FUNCTION softaudit.after_marker() RETURNS void
LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT softaudit.put_key_triggers(t.tgrelid)
      FROM pg_event_trigger_ddl_commands() c JOIN pg_trigger t ON t.oid = c.objid
     WHERE c.classid = 'pg_trigger'::regclass
$$;
COMMENT ON FUNCTION softaudit.after_marker() IS
'in an event trigger: a marker was made by a restore; foreign keys that are there already act by it from now on';

CREATE FUNCTION softaudit.after_trigger() RETURNS void
LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT softaudit.put_key_trigger(k.tgrelid)
      FROM (SELECT DISTINCT softaudit.root_of(t.tgrelid) AS root
              FROM pg_event_trigger_ddl_commands() c JOIN pg_trigger t ON t.oid = c.objid
             WHERE c.classid = 'pg_trigger'::regclass AND softaudit.may_set_columns(t)) r
      JOIN pg_trigger k ON k.tgrelid = r.root AND k.tgname = '!softaudit_keys'
$$;
COMMENT ON FUNCTION softaudit.after_trigger() IS
'in an event trigger: a trigger was made that may set columns which an UPDATE does not name; foreign keys are followed there after every UPDATE';

CREATE FUNCTION softaudit.before_attach(part regclass, whole oid) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rel regclass;
BEGIN
    PERFORM softaudit.free_keys(part);
    -- PostgreSQL is to put the whole's row triggers on the parts: it refuses where one of the name is there
    FOR rel IN SELECT t.tgrelid FROM pg_partition_tree(part) p JOIN pg_trigger t ON t.tgrelid = p.relid
                WHERE t.tgname = '!softaudit_marker_row' AND t.tgparentid = 0
                  AND EXISTS (SELECT FROM pg_trigger w WHERE w.tgrelid = whole AND w.tgname = '!softaudit_marker_row') LOOP
        EXECUTE format('DROP TRIGGER "!softaudit_marker_row" ON %s', rel);
    END LOOP;
    PERFORM softaudit.take_over(part, r.table_id, format('ATTACH to %s', r.relation))
       FROM unnest(softaudit.ancestors(whole)) a (relid) JOIN softaudit.registry r ON r.relation = a.relid AND r.audit;
END
$$;
COMMENT ON FUNCTION softaudit.before_attach(regclass, oid) IS
'before a table becomes a partition: takes off the triggers that it has of its own where those of the whole will be';

CREATE FUNCTION softaudit.put_truncate_trigger(leaf regclass, root regclass) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning AS $$
BEGIN
    EXECUTE format('CREATE OR REPLACE TRIGGER "!softaudit_truncate" AFTER TRUNCATE ON %s
                    FOR EACH STATEMENT EXECUTE FUNCTION softaudit.capture(%s)', leaf,
                   (SELECT string_agg(quote_literal(a), ', ' ORDER BY ord)
                      FROM unnest(softaudit.trigger_args(root)) WITH ORDINALITY u (a, ord)));
    IF (SELECT r.replicated FROM softaudit.registry r WHERE r.relation = root) THEN
        EXECUTE format('ALTER TABLE ONLY %s ENABLE ALWAYS TRIGGER "!softaudit_truncate"', leaf);
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.put_truncate_trigger(regclass, regclass) IS
'gives a new partition the TRUNCATE trigger of its root';

CREATE FUNCTION softaudit.check_drop() RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET standard_conforming_strings = on AS $$
DECLARE
    lost text;
BEGIN
    SELECT d.object_type || ' ' || d.object_identity INTO lost
      FROM pg_event_trigger_dropped_objects() d
     WHERE d.schema_name = 'softaudit' AND d.object_type IN ('table', 'sequence', 'view', 'table column')
           OR d.schema_name = 'softaudit' AND d.object_type = 'index' AND d.object_name ~ 'row_ref_idx'
           OR d.object_type = 'trigger' AND d.object_name IS NULL AND d.object_identity ~ '^softaudit_guard.* on softaudit\.'
     LIMIT 1;
    IF lost IS NOT NULL THEN
        RAISE EXCEPTION 'DROP is refused on the audit log: %', lost
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Retention drops log partitions. To give the log up for good, DROP EXTENSION softaudit CASCADE first.';
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.check_drop() IS
'raises if a command dropped what the log is made of';

CREATE FUNCTION softaudit.check_children() RETURNS void
LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    child regclass;
BEGIN
    SELECT i.inhrelid INTO child
      FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent JOIN pg_class c ON c.oid = i.inhrelid
     WHERE p.relnamespace = 'softaudit'::regnamespace AND (c.relnamespace <> p.relnamespace OR NOT c.relispartition)
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'inheritance is refused on the audit log: %', child
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'The log is changed by softaudit''s functions only. To give it up for good, DROP EXTENSION softaudit CASCADE first.';
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.check_children() IS
'raises if a table that is none of the log''s parts inherits from it';

CREATE FUNCTION softaudit.note_trigger_state(target regclass) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known softaudit.registry%ROWTYPE;
    state "char";
    was_off boolean;
    is_off boolean;
BEGIN
    SELECT r.* INTO known FROM softaudit.registry r
     WHERE r.audit AND (r.relation = target OR r.relation IN (SELECT a.relid FROM unnest(softaudit.ancestors(target)) a (relid)))
     ORDER BY r.relation = target DESC LIMIT 1;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    -- the worse of the two; one that fires in a replica only does not fire here
    SELECT max(CASE g.tgenabled WHEN 'D' THEN 'D' WHEN 'R' THEN 'D' END), bool_or(g.tgenabled IN ('D', 'R')) INTO state, is_off
      FROM pg_trigger g WHERE g.tgrelid = target AND g.tgname IN ('!softaudit_capture', '!softaudit_truncate');
    IF is_off IS NULL THEN
        RETURN;
    END IF;
    state := COALESCE(state, (SELECT g.tgenabled FROM pg_trigger g WHERE g.tgrelid = target AND g.tgname = '!softaudit_capture'), 'O');
    IF known.relation <> target THEN
        -- of a partition no state is kept: each time it is off is an event
        IF is_off THEN
            PERFORM softaudit.record_event('DISABLE', known.schema_name, known.table_name, NULL,
                                           jsonb_build_object('by', 'DISABLE TRIGGER', 'partition', target::text));
        END IF;
        RETURN;
    END IF;
    IF state = known.trigger_state THEN
        RETURN;
    END IF;
    was_off := known.trigger_state = 'D';
    UPDATE softaudit.registry r SET trigger_state = state WHERE r.table_id = known.table_id;
    IF is_off <> was_off THEN
        PERFORM softaudit.record_event(CASE WHEN is_off THEN 'DISABLE' ELSE 'ENABLE' END, known.schema_name, known.table_name, NULL,
                                       jsonb_build_object('by', CASE WHEN is_off THEN 'DISABLE TRIGGER' ELSE 'ENABLE TRIGGER' END));
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.note_trigger_state(regclass) IS
'records that ALTER TABLE switched the capture trigger of a table off or on';

CREATE FUNCTION softaudit.after_drop() RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
-- what it costs by the planner's guess is not what it costs
SET jit = off AS $$
DECLARE
    known softaudit.registry%ROWTYPE;
    parent regclass;
    by_name boolean;
BEGIN
    FOR known IN SELECT r.* FROM softaudit.registry r
                   JOIN pg_event_trigger_dropped_objects() d ON d.classid = 'pg_class'::regclass AND d.objid = r.relation AND d.objsubid = 0
    LOOP
        UPDATE softaudit.registry r SET relation = NULL, dropped_at = now() WHERE r.table_id = known.table_id;
        PERFORM softaudit.record_event('DROP', known.schema_name, known.table_name, NULL,
                                       jsonb_build_object('table_id', known.table_id));
    END LOOP;
    FOR known IN SELECT r.* FROM softaudit.registry r
                   JOIN pg_class c ON c.oid = r.relation
                   JOIN pg_namespace n ON n.oid = c.relnamespace
                   JOIN pg_event_trigger_dropped_objects() d ON d.object_type = 'trigger' AND d.original
                    AND d.address_names = ARRAY[n.nspname::text, c.relname::text, '!softaudit_truncate']
                  WHERE r.audit
    LOOP
        PERFORM softaudit.record_event('DISABLE', known.schema_name, known.table_name, NULL,
                                       jsonb_build_object('by', 'DROP TRIGGER', 'of', 'TRUNCATE'));
    END LOOP;
    FOR known IN SELECT r.* FROM softaudit.registry r
                   JOIN pg_class c ON c.oid = r.relation
                   JOIN pg_namespace n ON n.oid = c.relnamespace
                   JOIN pg_event_trigger_dropped_objects() d ON d.object_type = 'trigger' AND d.original
                    AND d.address_names = ARRAY[n.nspname::text, c.relname::text, '!softaudit_capture']
                  WHERE r.audit
    LOOP
        UPDATE softaudit.registry r SET audit = false WHERE r.table_id = known.table_id;
        PERFORM softaudit.record_event('DISABLE', known.schema_name, known.table_name, NULL,
                                       jsonb_build_object('by', 'DROP TRIGGER'));
    END LOOP;
    FOR known IN SELECT DISTINCT r.* FROM softaudit.registry r
                   JOIN pg_class c ON c.oid = r.relation
                   JOIN pg_namespace n ON n.oid = c.relnamespace
                   -- with a column that was dropped by CASCADE, too
                   JOIN pg_event_trigger_dropped_objects() d ON d.object_type = 'trigger'
                    AND d.address_names = ARRAY[n.nspname::text, c.relname::text, '!softaudit_marker']
                  WHERE r.soft_delete AND softaudit.marker_column(r.relation) IS NULL
    LOOP
        UPDATE softaudit.registry r SET soft_delete = false WHERE r.table_id = known.table_id;
        PERFORM softaudit.drop_marker(known.relation);
        PERFORM softaudit.record_event('DISABLE', known.schema_name, known.table_name, NULL,
                                       jsonb_build_object('soft_delete', true, 'by', 'DROP TRIGGER or DROP COLUMN'));
        RAISE WARNING 'table "%" is not soft-deleted any more: its marker was dropped, and deleted rows that it holds reappear', known.relation
            USING HINT = format('Roll back, or call softaudit.enable(%L, soft_delete => true).', known.relation);
    END LOOP;
    /*
     * A trigger for foreign keys: by a column that was dropped with something else, and
     * is put back, or by DROP TRIGGER.
     */
    FOR parent, by_name IN SELECT softaudit.root_of(c.oid), bool_or(d.original)
                             FROM pg_event_trigger_dropped_objects() d
                             JOIN pg_namespace n ON n.nspname = d.address_names[1]
                             JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = d.address_names[2] AND c.relkind IN ('r', 'p')
                            WHERE d.object_type = 'trigger' AND d.address_names[3] = '!softaudit_keys'
                            GROUP BY 1 LOOP
        IF NOT by_name THEN
            PERFORM softaudit.put_key_triggers(parent);
        ELSIF NOT (SELECT k.is_right FROM softaudit.key_trigger_columns(parent) k) THEN
            RAISE WARNING 'foreign keys of table "%" do not act at soft deletes any more: trigger "!softaudit_keys" was dropped', parent
                USING HINT = 'Roll back, or call softaudit.enable() for a soft-deleted table that it refers to or is.';
        END IF;
    END LOOP;
    FOR parent IN SELECT DISTINCT c.oid::regclass
                    FROM pg_event_trigger_dropped_objects() d
                    JOIN pg_namespace n ON n.nspname = d.address_names[1]
                    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = d.address_names[2] AND c.relkind = 'p'
                   WHERE d.object_type = 'trigger' AND d.original AND d.address_names[3] = '!softaudit_marker_row'
                     AND softaudit.marker_column(c.oid) IS NOT NULL LOOP
        RAISE WARNING 'partitions of table "%" are not filtered any more where a query names them: trigger "!softaudit_marker_row" was dropped', parent
            USING HINT = 'Roll back, or call softaudit.disable(..., audit => false) and softaudit.enable() for it.';
    END LOOP;
    FOR parent IN SELECT DISTINCT c.objid::regclass FROM pg_event_trigger_dropped_objects() c
                    JOIN softaudit.registry r ON r.relation = c.objid
                   WHERE c.object_type = 'table column' AND c.objsubid > 0
    LOOP
        PERFORM softaudit.resync(parent);
    END LOOP;
END
$$;
COMMENT ON FUNCTION softaudit.after_drop() IS
'acts on dropped objects that concern audited tables or the log';

CREATE FUNCTION softaudit.before_drop_partition(leaf regclass) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known softaudit.registry%ROWTYPE;
BEGIN
    SELECT r.* INTO known FROM softaudit.registry r
      JOIN unnest(softaudit.ancestors(leaf)) a (relid) ON a.relid = r.relation
     WHERE r.audit AND r.relation <> leaf LIMIT 1;
    IF FOUND THEN
        PERFORM softaudit.record_event('DROP', known.schema_name, known.table_name, NULL,
                                       jsonb_build_object('partition', leaf::text));
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.before_drop_partition(regclass) IS
'records that a partition of an audited table is dropped: its rows go, and no row trigger fires';

CREATE FUNCTION softaudit.free_column(target regclass, column_name text) RETURNS void
LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
    -- the command goes on to what inherits the column, or to the tables of a type
    SELECT softaudit.free_keys(h)
      FROM softaudit.heirs_of(target) h JOIN pg_trigger t ON t.tgrelid = h JOIN pg_attribute a ON a.attrelid = t.tgrelid AND a.attnum = ANY (t.tgattr)
     WHERE t.tgname = '!softaudit_keys' AND t.tgparentid = 0 AND a.attname = column_name::name
       -- not for the marker, whose own trigger refuses it
       AND softaudit.marker_column(h) IS DISTINCT FROM column_name::name
$$;
COMMENT ON FUNCTION softaudit.free_column(regclass, text) IS
'takes the trigger for foreign keys off tables of which one of their columns is dropped or changes its type; after_ddl() puts it back';

CREATE FUNCTION softaudit.before_rewrite() RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rel oid := pg_event_trigger_table_rewrite_oid();
    known softaudit.registry%ROWTYPE;
BEGIN
    SELECT r.* INTO known FROM softaudit.registry r
     WHERE r.audit AND (r.relation = rel OR r.relation IN (SELECT a.relid FROM unnest(softaudit.ancestors(rel)) a (relid))) LIMIT 1;
    IF FOUND THEN
        PERFORM softaudit.record_event('REWRITE', known.schema_name, known.table_name, NULL,
                                       jsonb_build_object('relation', rel::regclass::text, 'reason', pg_event_trigger_table_rewrite_reason()));
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.before_rewrite() IS
'records that ALTER TABLE rewrites an audited table';

CREATE FUNCTION softaudit.before_drop(is_cascade boolean) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    enabled text := (SELECT string_agg(DISTINCT t.tgrelid::regclass::text, ', ') FROM pg_trigger t
                      WHERE t.tgparentid = 0 AND (t.tgfoid = 'softaudit.capture()'::regprocedure AND t.tgname = '!softaudit_capture' OR
                                                  t.tgfoid = 'softaudit.mark()'::regprocedure AND t.tgname = '!softaudit_marker'));
    g record;
BEGIN
    IF enabled IS NOT NULL AND NOT is_cascade THEN
        RAISE EXCEPTION 'cannot drop extension softaudit while tables are enabled'
            USING ERRCODE = 'dependent_objects_still_exist',
                  DETAIL = 'Enabled: ' || enabled,
                  HINT = 'Call softaudit.disable() for them first, or use DROP EXTENSION ... CASCADE, which ends their audit and leaves the log.';
    END IF;
    FOR g IN SELECT DISTINCT t.tgrelid::regclass AS rel FROM pg_trigger t
              WHERE t.tgparentid = 0 AND t.tgfoid = 'softaudit.mark()'::regprocedure AND t.tgname = '!softaudit_marker' LOOP
        RAISE WARNING 'table "%" is not soft-deleted any more: deleted rows that it holds reappear', g.rel
            USING HINT = 'Roll back, or delete them for good.';
    END LOOP;
    PERFORM softaudit.release_preload();
    IF NOT is_cascade THEN
        -- what of the log depends on functions of the extension; made again when it is installed anew
        SET LOCAL client_min_messages = warning;
        DROP VIEW IF EXISTS softaudit.changes;
        FOR g IN SELECT t.tgname, t.tgrelid::regclass AS rel FROM pg_trigger t WHERE t.tgfoid = 'softaudit.guard()'::regprocedure LOOP
            EXECUTE format('DROP TRIGGER %I ON %s', g.tgname, g.rel);
        END LOOP;
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.before_drop(boolean) IS
'readies the log for DROP EXTENSION, or refuses it while tables are enabled';

CREATE EVENT TRIGGER softaudit_ddl_start ON ddl_command_start EXECUTE FUNCTION softaudit.ddl_start();
COMMENT ON EVENT TRIGGER softaudit_ddl_start IS 'softaudit: keeps DDL off the log';
CREATE EVENT TRIGGER softaudit_ddl_end ON ddl_command_end EXECUTE FUNCTION softaudit.ddl_end();
COMMENT ON EVENT TRIGGER softaudit_ddl_end IS 'softaudit: follows DDL on audited tables';
CREATE EVENT TRIGGER softaudit_sql_drop ON sql_drop EXECUTE FUNCTION softaudit.sql_drop();
COMMENT ON EVENT TRIGGER softaudit_sql_drop IS 'softaudit: follows DROP of audited tables, keeps it off the log';
CREATE EVENT TRIGGER softaudit_table_rewrite ON table_rewrite EXECUTE FUNCTION softaudit.table_rewrite();
COMMENT ON EVENT TRIGGER softaudit_table_rewrite IS 'softaudit: records rewrites of audited tables';

-- in a session that calls itself a replica, too: what such a session does is no less lasting
ALTER EVENT TRIGGER softaudit_ddl_start ENABLE ALWAYS;
ALTER EVENT TRIGGER softaudit_ddl_end ENABLE ALWAYS;
ALTER EVENT TRIGGER softaudit_sql_drop ENABLE ALWAYS;
ALTER EVENT TRIGGER softaudit_table_rewrite ENABLE ALWAYS;
