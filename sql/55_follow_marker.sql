/* ---- soft delete: following DDL ---- */

CREATE FUNCTION softaudit.register(target regclass, column_name name) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM softaudit.registry r WHERE r.relation = target) THEN
        UPDATE softaudit.registry r SET soft_delete = true, deleted_at = column_name WHERE r.relation = target;
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('softaudit.ensure_log', 0));
    INSERT INTO softaudit.registry (table_id, relation, log_group, schema_name, table_name, image_key, key_columns, key_types,
                                    audit, soft_delete, deleted_at, live_unique)
    SELECT (SELECT COALESCE(max(r.table_id), 0) + 1 FROM softaudit.registry r), target,
           softaudit.ensure_group(NULL, interval '1 month', NULL), n.nspname, c.relname, k.key_columns, k.key_columns, k.key_types,
           false, true, column_name, false
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace CROSS JOIN softaudit.key_of(target) k WHERE c.oid = target;
END
$$;
COMMENT ON FUNCTION softaudit.register(regclass, name) IS
'enters a table in the registry that became soft-deleted by DDL';

CREATE FUNCTION softaudit.follow_marker(target regclass) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    root regclass;              -- the nearest of target and its ancestors that is marked
    col name;
    other regclass;
    parent regclass;
BEGIN
    -- the uppermost of what it is a part of, by partition or by inheritance
    SELECT t.relid, softaudit.marker_column(t.relid) INTO root, col
      FROM (WITH RECURSIVE up (relid, depth) AS (
                SELECT target::oid, 0
                UNION
                SELECT i.inhparent, up.depth + 1 FROM up JOIN pg_inherits i ON i.inhrelid = up.relid)
            SELECT relid, depth FROM up) t
     WHERE softaudit.marker_column(t.relid) IS NOT NULL ORDER BY t.depth DESC LIMIT 1;

    -- a marked table that became a part of one that is not would be reached unfiltered
    FOR other, parent IN
        SELECT i.inhrelid, i.inhparent FROM pg_inherits i
         WHERE (i.inhparent = target OR i.inhrelid = target) AND softaudit.marker_column(i.inhrelid) IS NOT NULL
           AND NOT EXISTS (SELECT FROM (SELECT i.inhparent AS relid UNION SELECT a.relid FROM unnest(softaudit.ancestors(i.inhparent)) a (relid)) u
                            WHERE softaudit.marker_column(u.relid) IS NOT NULL) LOOP
        RAISE EXCEPTION 'table "%" is soft-deleted, and "%", which it would be a part of, is not', other, parent
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = format('Call softaudit.enable(%L) first, or softaudit.disable(%L).', parent, other);
    END LOOP;
    IF root IS NULL THEN
        RETURN;
    END IF;
    SELECT i.inhrelid, i.inhparent INTO other, parent FROM pg_inherits i
     WHERE (i.inhparent = target OR i.inhrelid = target) AND softaudit.marker_column(i.inhparent) <> col LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'table "%" inherits from "%", which is soft-deleted by column "%", and from "%", which is by "%"',
            other, root, col, parent, softaudit.marker_column(parent)
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'What inherits from both needs one column for both.';
    END IF;

    -- what came with ATTACH PARTITION, too
    SELECT w.relation INTO other FROM softaudit.with_children(target) w JOIN pg_attribute a ON a.attrelid = w.relation
     WHERE a.attname = col AND (a.attnotnull OR a.atthasdef) ORDER BY w.depth, w.relation::oid LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'column "%" of table "%" marks deleted rows: it can be neither NOT NULL nor have a default', col, other
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'A live row has NULL there.';
    END IF;

    -- partitions and children that came
    FOR other IN SELECT t.relid FROM pg_partition_tree(target) t JOIN pg_class c ON c.oid = t.relid
                  WHERE c.relkind <> 'f'
                    AND NOT EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = t.relid AND g.tgname = '!softaudit_marker_truncate') LOOP
        EXECUTE format('CREATE TRIGGER "!softaudit_marker_truncate" BEFORE TRUNCATE ON %s
                        FOR EACH STATEMENT EXECUTE FUNCTION softaudit.mark()', other);
    END LOOP;
    FOR other IN SELECT t.relid FROM pg_partition_tree(target) t WHERE t.relid <> root AND softaudit.marker_column(t.relid) IS NOT NULL LOOP
        IF softaudit.marker_column(other) <> col THEN
            RAISE EXCEPTION 'partition "%" is soft-deleted by column "%", and "%" by "%"', other, softaudit.marker_column(other), root, col
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      HINT = format('Rename the one to the other, or call softaudit.disable(%L).', other);
        END IF;
        EXECUTE format('DROP TRIGGER "!softaudit_marker" ON %s', other);
        IF EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = other AND g.tgname = '!softaudit_marker_row' AND g.tgparentid = 0) THEN
            EXECUTE format('DROP TRIGGER "!softaudit_marker_row" ON %s', other);
        END IF;
        UPDATE softaudit.registry r SET soft_delete = false WHERE r.relation = other;
        PERFORM softaudit.take_over_unique(other, root);
        RAISE NOTICE 'soft delete: partition "%" is now soft-deleted as a part of "%"', other, root;
    END LOOP;
    FOR other IN SELECT i.inhrelid FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid AND c.relkind IN ('r', 'f') AND NOT c.relispartition
                  WHERE (i.inhparent = target OR i.inhrelid = target) AND softaudit.marker_column(i.inhparent) IS NOT NULL
                    AND softaudit.marker_column(i.inhrelid) IS NULL LOOP
        PERFORM softaudit.put_marker(other, col);
        RAISE NOTICE 'soft delete: table "%" is now soft-deleted as "%", which it inherits from, is', other, root;
    END LOOP;
    FOR other IN SELECT i.inhrelid FROM pg_inherits i JOIN softaudit.registry r ON r.relation = i.inhrelid AND r.soft_delete
                   JOIN pg_class c ON c.oid = i.inhrelid AND NOT c.relispartition
                  WHERE (i.inhparent = target OR i.inhrelid = target) AND i.inhrelid <> root AND softaudit.marker_column(i.inhparent) IS NOT NULL LOOP
        UPDATE softaudit.registry r SET soft_delete = false WHERE r.relation = other;
        PERFORM softaudit.take_over_unique(other, root);
        RAISE NOTICE 'soft delete: table "%" is now soft-deleted as "%", which it inherits from, is', other, root;
    END LOOP;
    -- a child that left has the marker
    IF root = target AND NOT EXISTS (SELECT FROM softaudit.registry r WHERE r.relation = target AND r.soft_delete)
       AND (SELECT c.relkind = 'r' AND NOT c.relispartition FROM pg_class c WHERE c.oid = target) THEN
        PERFORM softaudit.register(target, col);
        PERFORM softaudit.hand_over_unique(target, NULL);
        RAISE NOTICE 'soft delete: table "%" inherits from no soft-deleted table any more and stays soft-deleted by itself', target;
    END IF;

    -- a partition that left: the row trigger went with DETACH, that for TRUNCATE is still there and tells of it
    FOR other IN SELECT g.tgrelid FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid
                  WHERE g.tgname = '!softaudit_marker_truncate' AND g.tgfoid = 'softaudit.mark()'::regprocedure
                    AND NOT c.relispartition AND softaudit.marker_column(g.tgrelid) IS NULL
                    AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = g.tgrelid AND a.attname = col AND NOT a.attisdropped) LOOP
        PERFORM softaudit.put_marker(other, col);
        PERFORM softaudit.register(other, col);
        PERFORM softaudit.hand_over_unique(other, root);
        RAISE NOTICE 'soft delete: table "%" is no longer a part of "%" and stays soft-deleted by itself', other, root;
    END LOOP;
END
$$;
COMMENT ON FUNCTION softaudit.follow_marker(regclass) IS
'carries the marker of a soft-deleted table over to what DDL attached to it or detached from it, or refuses';

CREATE FUNCTION softaudit.after_detach(part regclass, whole oid) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    col name := softaudit.marker_column_above(whole);
BEGIN
    PERFORM softaudit.put_key_triggers(part);
    -- a foreign table has no trigger that would tell follow_marker() of it
    IF col IS NOT NULL AND (SELECT c.relkind = 'f' AND NOT c.relispartition FROM pg_class c WHERE c.oid = part) THEN
        PERFORM softaudit.put_marker(part, col);
        RAISE NOTICE 'soft delete: foreign table "%" is no longer a part of "%" and stays soft-deleted by itself', part, whole::regclass;
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.after_detach(regclass, oid) IS
'gives what was a partition the triggers that it had of the whole';
