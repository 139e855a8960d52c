/* ---- soft delete: the marker, and what the planner hook puts into queries ---- */

CREATE FUNCTION softaudit.mark() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_mark';
COMMENT ON FUNCTION softaudit.mark() IS
'trigger function: says by which column a table is soft-deleted, and stops physical deletion; attached by softaudit.enable()';

CREATE FUNCTION softaudit.deletion_stamp() RETURNS timestamptz
LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'softaudit_deletion_stamp';
COMMENT ON FUNCTION softaudit.deletion_stamp() IS
'the stamp of a deletion that begins now: the clock, later at each call of a session';

CREATE FUNCTION softaudit.deletion_stamp_utc() RETURNS timestamp
LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'softaudit_deletion_stamp';
COMMENT ON FUNCTION softaudit.deletion_stamp_utc() IS
'deletion_stamp() for a column of type timestamp, in UTC';

CREATE FUNCTION softaudit.refuse_deleted(is_deleted boolean, relation oid) RETURNS boolean
LANGUAGE c STABLE CALLED ON NULL INPUT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'softaudit_refuse_deleted';
COMMENT ON FUNCTION softaudit.refuse_deleted(boolean, oid) IS
'true for a live row; raises unique_violation for a deleted one that ON CONFLICT DO UPDATE found';

CREATE FUNCTION softaudit.with_deleted(a_row anyelement) RETURNS SETOF anyelement
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL SAFE ROWS 1000 AS 'MODULE_PATHNAME', 'softaudit_show_deleted';
COMMENT ON FUNCTION softaudit.with_deleted(anyelement) IS
'FROM softaudit.with_deleted(NULL::t): all rows of a soft-deleted table, by its indexes, privileges and row security';

CREATE FUNCTION softaudit.only_deleted(a_row anyelement) RETURNS SETOF anyelement
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL SAFE ROWS 1000 AS 'MODULE_PATHNAME', 'softaudit_show_deleted';
COMMENT ON FUNCTION softaudit.only_deleted(anyelement) IS
'FROM softaudit.only_deleted(NULL::t): the deleted rows of a soft-deleted table';

CREATE FUNCTION softaudit.marker_column(target regclass) RETURNS name
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT a.attname
      FROM pg_trigger t
      JOIN pg_attribute a ON a.attrelid = t.tgrelid AND a.attnum = t.tgattr[0]
     WHERE t.tgrelid = target AND t.tgfoid = 'softaudit.mark()'::regprocedure AND t.tgtype & 1 = 0 AND t.tgattr[0] IS NOT NULL
     LIMIT 1
$$;
COMMENT ON FUNCTION softaudit.marker_column(regclass) IS
'the column that marks deleted rows of a table; NULL if it is not soft-deleted by a marker of its own';

CREATE FUNCTION softaudit.follow_keys() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_follow_keys';
COMMENT ON FUNCTION softaudit.follow_keys() IS
'trigger function: does at a soft delete and at a restore what foreign keys declare; attached by softaudit.enable()';

CREATE FUNCTION softaudit.followed() RETURNS bigint
LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'softaudit_followed';
COMMENT ON FUNCTION softaudit.followed() IS
'how many rows restores of this session brought back by foreign keys';

CREATE FUNCTION softaudit.is_marked(target regclass) RETURNS boolean
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT softaudit.marker_column(target) IS NOT NULL OR
           EXISTS (SELECT FROM unnest(softaudit.ancestors(target)) a (relid) WHERE softaudit.marker_column(a.relid) IS NOT NULL)
$$;
COMMENT ON FUNCTION softaudit.is_marked(regclass) IS
'whether a table is soft-deleted, by itself or as a partition';

CREATE FUNCTION softaudit.may_set_columns(t pg_trigger) RETURNS boolean
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
    -- FOR EACH ROW, BEFORE, UPDATE
    SELECT t.tgtype & 19 = 19 AND NOT t.tgisinternal AND NOT starts_with(t.tgname::text, '!softaudit_')
$$;
COMMENT ON FUNCTION softaudit.may_set_columns(pg_trigger) IS
'whether a trigger is one of the user''s that can change columns which an UPDATE does not name';

CREATE FUNCTION softaudit.parts_of(target regclass) RETURNS SETOF oid
LANGUAGE sql STABLE STRICT PARALLEL SAFE ROWS 10
SET search_path = pg_catalog, pg_temp AS $$
    -- pg_partition_tree() locks what it lists
    WITH RECURSIVE tree (relid) AS (
        SELECT target::oid
        UNION
        SELECT i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.relid JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition)
    SELECT tree.relid FROM tree
$$;
COMMENT ON FUNCTION softaudit.parts_of(regclass) IS
'a table and its partitions, at whatever depth; locks nothing';

CREATE FUNCTION softaudit.root_of(target regclass) RETURNS regclass
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT COALESCE(pg_partition_root(target), target)
$$;
COMMENT ON FUNCTION softaudit.root_of(regclass) IS
'the partitioned table at the top of what a relation is a part of, or itself';

CREATE FUNCTION softaudit.heirs_of(target oid) RETURNS SETOF oid
LANGUAGE sql STABLE STRICT PARALLEL SAFE ROWS 10
SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE down (relid) AS (
        SELECT target
        UNION
        SELECT n.relid FROM down CROSS JOIN LATERAL (
            SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = down.relid
            UNION ALL SELECT t.oid FROM pg_class p JOIN pg_class t ON t.reloftype = p.reltype
             WHERE p.oid = down.relid AND p.relkind = 'c') n (relid))
    SELECT down.relid FROM down
$$;
COMMENT ON FUNCTION softaudit.heirs_of(oid) IS
'a relation and all that have its columns: partitions, inheritance children, the tables of a type';

CREATE FUNCTION softaudit.key_trigger_columns(target regclass, OUT columns name[], OUT on_insert boolean, OUT on_any_update boolean, OUT is_right boolean)
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
-- what it costs by the planner's guess is not what it costs
SET jit = off AS $$
DECLARE
    -- a partition may have foreign keys of its own, or be what others refer to; the trigger stands on the whole
    parts oid[] := ARRAY(SELECT softaudit.parts_of(target));
    referring name[] := ARRAY(SELECT DISTINCT a.attname FROM pg_constraint c CROSS JOIN LATERAL unnest(c.conkey) k
                                JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k
                               WHERE c.contype = 'f' AND c.conrelid = ANY (parts) AND softaudit.is_marked(c.confrelid));
    own record;
BEGIN
    columns := ARRAY(SELECT a.attname FROM pg_attribute a WHERE a.attrelid = target AND a.attname = ANY (referring) ORDER BY a.attnum);
    on_insert := referring <> '{}';
    IF softaudit.marker_column(target) IS NOT NULL AND
       (columns <> '{}' OR EXISTS (SELECT FROM pg_constraint c WHERE c.contype = 'f' AND c.confrelid = ANY (parts))) THEN
        columns := columns || softaudit.marker_column(target);
    END IF;
    -- UPDATE OF goes by what a statement names, not by what a row trigger before it sets
    on_any_update := columns <> '{}' AND EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = ANY (parts) AND softaudit.may_set_columns(t));
    SELECT t.tgtype, ARRAY(SELECT a.attname FROM pg_attribute a WHERE a.attrelid = target AND a.attnum = ANY (t.tgattr)) AS columns
      INTO own FROM pg_trigger t WHERE t.tgrelid = target AND t.tgname = '!softaudit_keys';
    is_right := CASE WHEN NOT FOUND THEN columns = '{}'
                     ELSE (own.tgtype & 4 <> 0) = on_insert
                         AND CASE WHEN on_any_update THEN own.columns = '{}' ELSE own.columns @> columns AND columns @> own.columns END END
                AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = ANY (parts) AND t.tgrelid <> target AND t.tgname = '!softaudit_keys' AND t.tgparentid = 0);
END
$$;
COMMENT ON FUNCTION softaudit.key_trigger_columns(regclass) IS
'the columns that the trigger of put_key_trigger() is for, and whether it is as it should be; for a table that is no partition';

CREATE FUNCTION softaudit.put_key_trigger(target regclass, may_wait boolean DEFAULT true) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning AS $$
DECLARE
    needed record;
    part regclass;
BEGIN
    target := softaudit.root_of(target);
    SELECT * INTO needed FROM softaudit.key_trigger_columns(target);
    IF needed.is_right THEN
        RETURN;
    END IF;
    /*
     * Others may be about to change what was just read (the workers of a parallel restore):
     * it is read again under the lock.  What is too much does no harm, and to wait for the
     * lock could be a deadlock.
     */
    IF needed.columns = '{}' AND NOT may_wait THEN
        BEGIN
            EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE NOWAIT', target);
        EXCEPTION WHEN lock_not_available THEN
            RETURN;
        END;
    ELSE
        EXECUTE format('LOCK TABLE ONLY %s IN SHARE ROW EXCLUSIVE MODE', target);
    END IF;
    SELECT * INTO needed FROM softaudit.key_trigger_columns(target);
    IF needed.is_right THEN
        RETURN;
    END IF;
    FOR part IN SELECT t.tgrelid FROM pg_trigger t
                 WHERE t.tgrelid IN (SELECT softaudit.parts_of(target)) AND t.tgname = '!softaudit_keys' AND t.tgparentid = 0
                   AND (t.tgrelid <> target OR needed.columns = '{}') LOOP
        PERFORM softaudit.free_keys(part);
    END LOOP;
    IF needed.columns <> '{}' THEN
        EXECUTE format('CREATE OR REPLACE TRIGGER "!softaudit_keys" AFTER %s UPDATE %s ON %s
                        FOR EACH ROW EXECUTE FUNCTION softaudit.follow_keys()',
                       CASE WHEN needed.on_insert THEN 'INSERT OR' END,
                       CASE WHEN NOT needed.on_any_update
                            THEN 'OF ' || (SELECT string_agg(quote_ident(c), ', ' ORDER BY ord) FROM unnest(needed.columns) WITH ORDINALITY u (c, ord)) END, target);
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.put_key_trigger(regclass, boolean) IS
'gives a table the trigger that its foreign keys with soft-deleted tables need, or takes it away; a partition''s stands on the whole';

CREATE FUNCTION softaudit.put_key_triggers(target regclass) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
-- what it costs by the planner's guess is not what it costs
SET jit = off AS $$
DECLARE
    rel regclass;
    parts oid[] := ARRAY(SELECT softaudit.parts_of(softaudit.root_of(target)));
BEGIN
    FOR rel IN SELECT softaudit.root_of(target)
               UNION SELECT softaudit.root_of(c.conrelid) FROM pg_constraint c WHERE c.contype = 'f' AND c.confrelid = ANY (parts) AND c.conparentid = 0
               UNION SELECT softaudit.root_of(c.confrelid) FROM pg_constraint c WHERE c.contype = 'f' AND c.conrelid = ANY (parts) AND c.conparentid = 0 LOOP
        PERFORM softaudit.put_key_trigger(rel, rel = softaudit.root_of(target));
    END LOOP;
END
$$;
COMMENT ON FUNCTION softaudit.put_key_triggers(regclass) IS
'put_key_trigger() for a table and for those that foreign keys tie to it';

CREATE FUNCTION softaudit.free_keys(target regclass) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
-- nobody else took it off
SET client_min_messages = error AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = target AND t.tgname = '!softaudit_keys' AND t.tgparentid = 0) THEN
        EXECUTE format('DROP TRIGGER "!softaudit_keys" ON %s', target);
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.free_keys(regclass) IS
'takes the trigger for foreign keys off a table: for good, or until after_ddl() puts it back';

CREATE FUNCTION softaudit.may_look(relation oid, its_owner oid) RETURNS boolean
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.relowner = its_owner AND has_table_privilege(c.oid, 'SELECT') AND NOT row_security_active(c.oid) FROM pg_class c WHERE c.oid = relation
$$;
COMMENT ON FUNCTION softaudit.may_look(oid, oid) IS
'whether a table has this owner and the caller sees all of it';

CREATE FUNCTION softaudit.key_text(relation oid) RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT COALESCE((SELECT format('format(''(%%s)=(%%s)'', %L, concat_ws('', '', %s))', string_agg(a.attname, ', ' ORDER BY k.ord), string_agg(quote_ident(a.attname), ', ' ORDER BY k.ord))
                       FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k (attnum, ord)
                       JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                      WHERE i.indrelid = relation AND i.indisprimary AND k.ord <= i.indnkeyatts HAVING count(*) > 0), '''(?)''')
$$;
COMMENT ON FUNCTION softaudit.key_text(oid) IS
'an expression that tells the primary key of a row';

CREATE FUNCTION softaudit.collate_by(collation_id oid, unless oid) RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT COALESCE((SELECT format(' COLLATE %I.%I', n.nspname, c.collname) FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
                      WHERE c.oid = collation_id AND c.oid <> unless), '')
$$;
COMMENT ON FUNCTION softaudit.collate_by(oid, oid) IS
'what has an operator go by a collation, unless its operand has that one already';

CREATE FUNCTION softaudit.key_join(fk pg_constraint) RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
    -- equal is what the parent's collation says
    SELECT string_agg(format('p.%I OPERATOR(%I.%s) c.%I', pa.attname, n.nspname, o.oprname, ca.attname) ||
                      softaudit.collate_by(pa.attcollation, ca.attcollation), ' AND ' ORDER BY k)
      FROM generate_subscripts(fk.conkey, 1) k
      JOIN pg_attribute ca ON ca.attrelid = fk.conrelid AND ca.attnum = fk.conkey[k]
      JOIN pg_attribute pa ON pa.attrelid = fk.confrelid AND pa.attnum = fk.confkey[k]
      JOIN pg_operator o ON o.oid = fk.conpfeqop[k] JOIN pg_namespace n ON n.oid = o.oprnamespace
$$;
COMMENT ON FUNCTION softaudit.key_join(pg_constraint) IS
'the condition that row c of a foreign key''s table refers to row p of the other';

CREATE FUNCTION softaudit.execute_as_owner(target regclass, command text, all_rows boolean DEFAULT false) RETURNS bigint
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_execute_as_owner';
COMMENT ON FUNCTION softaudit.execute_as_owner(regclass, text, boolean) IS
'runs a command of softaudit on a table as the table''s owner; an int8 result, else 0';

CREATE FUNCTION softaudit.preloaded(setting text) RETURNS text[]
LANGUAGE sql IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
RETURN ARRAY(SELECT btrim(u.lib, ' "') FROM unnest(string_to_array(COALESCE(setting, ''), ',')) WITH ORDINALITY u (lib, ord)
              WHERE btrim(u.lib, ' "') <> '' ORDER BY u.ord);
COMMENT ON FUNCTION softaudit.preloaded(text) IS
'the libraries that a value of session_preload_libraries names';

CREATE FUNCTION softaudit.database_preload() RETURNS text
LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT substr(c, strpos(c, '=') + 1)
      FROM pg_db_role_setting s CROSS JOIN LATERAL unnest(s.setconfig) c
     WHERE s.setrole = 0 AND s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND c LIKE 'session\_preload\_libraries=%'
$$;
COMMENT ON FUNCTION softaudit.database_preload() IS
'the value of session_preload_libraries that is set for this database; NULL if none is';

CREATE FUNCTION softaudit.assert_preload() RETURNS boolean
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    mine text := softaudit.database_preload();
    libs text[];
BEGIN
    -- loaded in every session of the server, or by this database's setting already
    IF 'softaudit' = ANY (softaudit.preloaded((SELECT s.setting FROM pg_settings s WHERE s.name = 'shared_preload_libraries')))
       OR 'softaudit' = ANY (softaudit.preloaded(mine)) THEN
        RETURN false;
    END IF;
    -- a database's setting replaces the server's: what that one names comes along
    libs := softaudit.preloaded(COALESCE(mine, (SELECT s.reset_val FROM pg_settings s WHERE s.name = 'session_preload_libraries')));
    IF NOT 'softaudit' = ANY (libs) THEN
        libs := libs || 'softaudit'::text;
    END IF;
    EXECUTE format('ALTER DATABASE %I SET session_preload_libraries = %s', current_database(),
                   (SELECT string_agg(quote_literal(l), ', ' ORDER BY ord) FROM unnest(libs) WITH ORDINALITY u (l, ord)));
    RETURN true;
END
$$;
COMMENT ON FUNCTION softaudit.assert_preload() IS
'has new sessions of this database load the library; true if that was not so';

CREATE FUNCTION softaudit.release_preload() RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    libs text[] := softaudit.preloaded(softaudit.database_preload());
BEGIN
    IF NOT 'softaudit' = ANY (libs) THEN
        RETURN;
    END IF;
    libs := array_remove(libs, 'softaudit');
    -- what came from the server's own setting is there without this one
    IF libs = '{}' OR libs = softaudit.preloaded((SELECT f.setting FROM pg_file_settings f WHERE f.name = 'session_preload_libraries' ORDER BY f.seqno DESC LIMIT 1)) THEN
        EXECUTE format('ALTER DATABASE %I RESET session_preload_libraries', current_database());
    ELSE
        EXECUTE format('ALTER DATABASE %I SET session_preload_libraries = %s', current_database(),
                       (SELECT string_agg(quote_literal(l), ', ' ORDER BY ord) FROM unnest(libs) WITH ORDINALITY u (l, ord)));
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.release_preload() IS
'takes the library out of what new sessions of this database load, and leaves other libraries';

CREATE FUNCTION softaudit.put_marker(target regclass, column_name name) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning AS $$
DECLARE
    rel regclass;
BEGIN
    -- children of plain inheritance are queried by themselves, too
    FOR rel IN WITH RECURSIVE tree (relid) AS (
                   SELECT target::oid
                   UNION
                   SELECT i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.relid
                     JOIN pg_class c ON c.oid = i.inhrelid AND c.relkind IN ('r', 'f') AND NOT c.relispartition)
               SELECT relid FROM tree LOOP
        IF softaudit.marker_column(rel) <> column_name THEN
            RAISE EXCEPTION 'table "%" is soft-deleted by column "%", and a table that it inherits from by "%"', rel, softaudit.marker_column(rel), column_name
                USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'What inherits from both needs one column for both.';
        END IF;
        EXECUTE format('CREATE OR REPLACE TRIGGER "!softaudit_marker" BEFORE DELETE OR UPDATE OF %I ON %s
                        FOR EACH STATEMENT EXECUTE FUNCTION softaudit.mark()', column_name, rel);
    END LOOP;
    IF (SELECT c.relkind = 'p' FROM pg_class c WHERE c.oid = target) THEN
        -- cloned to the partitions, those to come included: by it each is known as a part of this table
        EXECUTE format('CREATE OR REPLACE TRIGGER "!softaudit_marker_row" BEFORE DELETE ON %s
                        FOR EACH ROW EXECUTE FUNCTION softaudit.mark()', target);
    END IF;
    -- of foreign tables the library refuses it: before 16 they have no such trigger
    FOR rel IN SELECT w.relation FROM softaudit.with_children(target) w JOIN pg_class c ON c.oid = w.relation AND c.relkind <> 'f' LOOP
        EXECUTE format('CREATE OR REPLACE TRIGGER "!softaudit_marker_truncate" BEFORE TRUNCATE ON %s
                        FOR EACH STATEMENT EXECUTE FUNCTION softaudit.mark()', rel);
    END LOOP;
END
$$;
COMMENT ON FUNCTION softaudit.put_marker(regclass, name) IS
'puts the triggers on a table, its partitions and inheritance children that mark it as soft-deleted';

CREATE FUNCTION softaudit.drop_marker(target regclass) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
-- nobody else took them off
SET client_min_messages = error AS $$
DECLARE
    g record;
BEGIN
    FOR g IN WITH RECURSIVE tree (relid) AS (
                 SELECT target::oid
                 UNION
                 SELECT i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.relid)
             SELECT t.tgname, t.tgrelid::regclass AS rel FROM tree JOIN pg_trigger t ON t.tgrelid = tree.relid
              WHERE t.tgfoid = 'softaudit.mark()'::regprocedure AND t.tgparentid = 0 LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', g.tgname, g.rel);
    END LOOP;
END
$$;
COMMENT ON FUNCTION softaudit.drop_marker(regclass) IS
'takes the marker off a table, its partitions and inheritance children';

CREATE FUNCTION softaudit.ensure_marker_column(target regclass, column_name name) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    col record;
    part record;
BEGIN
    SELECT a.atttypid, a.atttypmod, a.attnotnull, a.attgenerated, a.attidentity, a.atthasdef, a.attnum,
           format_type(a.atttypid, a.atttypmod) AS type_name
      INTO col
      FROM pg_attribute a
     WHERE a.attrelid = target AND a.attname = column_name AND NOT a.attisdropped;
    IF NOT FOUND THEN
        IF EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = target) THEN
            RAISE EXCEPTION 'column "%" of table "%" does not exist', column_name, target
                USING ERRCODE = 'undefined_column',
                      HINT = 'The table inherits from another one: call softaudit.enable() for that one.';
        END IF;
        IF (SELECT c.reloftype FROM pg_class c WHERE c.oid = target) <> 0 THEN
            RAISE EXCEPTION 'column "%" cannot be added to typed table "%"', column_name, target
                USING ERRCODE = 'feature_not_supported',
                      HINT = format('Add it to the type: ALTER TYPE %s ADD ATTRIBUTE %I timestamptz CASCADE.',
                                    (SELECT c.reloftype::regtype FROM pg_class c WHERE c.oid = target), column_name);
        END IF;
        PERFORM softaudit.execute_as_owner(target, format('ALTER TABLE %s ADD COLUMN %I timestamptz', target, column_name));
        RAISE NOTICE 'soft delete: column "%" (timestamptz) added to table "%"', column_name, target;
        RETURN;
    END IF;
    IF col.attnum < 1 OR col.atttypid NOT IN ('timestamptz'::regtype, 'timestamp'::regtype) THEN
        RAISE EXCEPTION 'column "%" of table "%" is of type %, not timestamptz', column_name, target, col.type_name
            USING ERRCODE = 'datatype_mismatch',
                  HINT = 'Name another column with softaudit.enable(..., deleted_at => ...); one that is missing is added.';
    END IF;
    IF col.atttypmod NOT IN (-1, 6) THEN
        RAISE EXCEPTION 'column "%" of table "%" is of type %: it has to hold microseconds', column_name, target, col.type_name
            USING ERRCODE = 'datatype_mismatch',
                  HINT = format('The stamp tells one deletion from another. ALTER TABLE %s ALTER %I TYPE %s.', target, column_name, col.atttypid::regtype);
    END IF;
    IF col.attnotnull THEN
        RAISE EXCEPTION 'column "%" of table "%" is NOT NULL', column_name, target
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = format('A live row has NULL there. ALTER TABLE %s ALTER %I DROP NOT NULL.', target, column_name);
    END IF;
    IF col.attgenerated <> '' OR col.attidentity <> '' THEN
        RAISE EXCEPTION 'column "%" of table "%" is generated', column_name, target
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Name another column with softaudit.enable(..., deleted_at => ...).';
    END IF;
    IF col.atthasdef THEN
        RAISE EXCEPTION 'column "%" of table "%" has a default', column_name, target
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = format('New rows would be deleted ones. ALTER TABLE %s ALTER %I DROP DEFAULT.', target, column_name);
    END IF;
    SELECT w.relation, a.attnotnull INTO part FROM softaudit.with_children(target) w JOIN pg_attribute a ON a.attrelid = w.relation
     WHERE a.attname = column_name AND (a.attnotnull OR a.atthasdef) ORDER BY w.depth, w.relation::oid LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'column "%" of table "%", which is a part of "%", %', column_name, part.relation, target,
            CASE WHEN part.attnotnull THEN 'is NOT NULL' ELSE 'has a default' END
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = format('A live row has NULL there. ALTER TABLE %s ALTER %I DROP %s.', part.relation, column_name,
                                CASE WHEN part.attnotnull THEN 'NOT NULL' ELSE 'DEFAULT' END);
    END IF;
    IF EXISTS (SELECT FROM pg_partitioned_table p WHERE p.partrelid = target AND col.attnum = ANY (p.partattrs)) THEN
        RAISE NOTICE 'soft delete: table "%" is partitioned by "%", so that a deletion moves rows', target, column_name;
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.ensure_marker_column(regclass, name) IS
'adds the column that marks deleted rows, or checks that the one that is there will do';

CREATE FUNCTION softaudit.warn_soft_delete(target regclass) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    f record;
    names text;
BEGIN
    FOR f IN SELECT c.conname, c.confrelid::regclass AS parent FROM pg_constraint c
              WHERE c.contype = 'f' AND c.conrelid = target AND c.confdeltype = 'c' AND c.conparentid = 0
                AND softaudit.marker_column(c.confrelid) IS NULL LOOP
        RAISE WARNING 'a DELETE on table "%" removes rows of "%" for good: foreign key "%" cascades', f.parent, target, f.conname
            USING HINT = format('Call softaudit.enable(%L), too.', f.parent);
    END LOOP;
    FOR f IN SELECT c.conname, c.conrelid::regclass AS child FROM pg_constraint c
              WHERE c.contype = 'f' AND c.confrelid = target AND c.confdeltype = 'c' AND c.conparentid = 0
                AND softaudit.marker_column(c.conrelid) IS NULL LOOP
        RAISE WARNING 'rows of table "%" stay as they are when their row of "%" is soft-deleted: foreign key "%" cascades at the purge only', f.child, target, f.conname
            USING HINT = format('Call softaudit.enable(%L) to have them soft-deleted along.', f.child);
    END LOOP;
    SELECT string_agg(format('"%s"', t.tgname), ', ' ORDER BY t.tgname) INTO names
      FROM pg_trigger t
     WHERE t.tgrelid = target AND NOT t.tgisinternal AND t.tgtype & 8 <> 0
       AND t.tgfoid NOT IN ('softaudit.mark()'::regprocedure, 'softaudit.capture()'::regprocedure);
    IF names IS NOT NULL THEN
        RAISE WARNING 'triggers of table "%" for DELETE do not fire at a soft delete: %', target, names
            USING HINT = 'A soft delete fires UPDATE triggers. Move what they do there, where it applies.';
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.warn_soft_delete(regclass) IS
'warns of what soft deletion of a table leaves open';

CREATE FUNCTION softaudit.becomes_soft_deleted(target regclass, given boolean) RETURNS bigint
LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF softaudit.marker_column(target) IS NOT NULL THEN
        RETURN 0;
    END IF;
    IF given IS NULL AND to_regclass('softaudit.registry') IS NOT NULL THEN
        given := (SELECT r.soft_delete FROM softaudit.registry r WHERE r.relation = target);
    END IF;
    RETURN COALESCE(given, true)::integer;
END
$$;
COMMENT ON FUNCTION softaudit.becomes_soft_deleted(regclass, boolean) IS
'1 if enable() with this argument makes a table soft-deleted that is not, else 0';

CREATE FUNCTION softaudit.apply_soft_delete(target regclass, s jsonb, is_new boolean) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
-- what it costs by the planner's guess is not what it costs
SET jit = off AS $$
DECLARE
    present name := softaudit.marker_column(target);
    wanted name := s ->> 'deleted_at';
    parent regclass;
    rel regclass;
    others integer;
BEGIN
    IF present IS NOT NULL AND present <> wanted THEN
        RAISE EXCEPTION 'table "%" is soft-deleted by column "%"', target, present
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = format('To change the column, call softaudit.disable(%L, audit => false) first.', target);
    END IF;
    IF present IS NULL THEN
        SELECT i.inhparent::regclass INTO parent FROM pg_inherits i WHERE i.inhrelid = target AND softaudit.marker_column(i.inhparent) IS NULL LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'table "%" inherits from "%", which is not soft-deleted', target, parent
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      HINT = format('Queries on "%s" would see deleted rows. Call softaudit.enable(%L).', parent, parent);
        END IF;
        PERFORM softaudit.ensure_marker_column(target, wanted);
        PERFORM softaudit.put_marker(target, wanted);
        RAISE NOTICE 'soft delete: DELETE on table "%" marks rows in column "%" from now on', target, wanted;
    END IF;
    IF (s ->> 'live_unique')::boolean THEN
        PERFORM softaudit.convert_unique(target, wanted, ARRAY(SELECT e::name FROM jsonb_array_elements_text(s -> 'keep_unique') e));
    ELSE
        PERFORM softaudit.revert_unique(target);
    END IF;
    IF s ->> 'purge_after' IS NOT NULL THEN
        PERFORM softaudit.ensure_purge_index(target, wanted);
    END IF;
    FOR rel IN SELECT DISTINCT softaudit.root_of(w.relation) FROM softaudit.with_children(target) w LOOP
        PERFORM softaudit.put_key_triggers(rel);
    END LOOP;
    IF softaudit.assert_preload() THEN
        RAISE NOTICE 'soft delete: new sessions of database "%" load the library (session_preload_libraries)', current_database();
        SELECT count(*) INTO others FROM pg_stat_activity a
         WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.backend_type = 'client backend';
        IF others > 0 THEN
            RAISE WARNING '% open sessions may be without the library: they see deleted rows, and their first DELETE fails', others
                USING HINT = 'Have them reconnect; softaudit.is_active() tells a session whether it is protected.';
        END IF;
    END IF;
    IF is_new THEN
        PERFORM softaudit.warn_soft_delete(target);
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.apply_soft_delete(regclass, jsonb, boolean) IS
'the soft-delete half of enable()';

CREATE FUNCTION softaudit.remove_soft_delete(target regclass, force boolean) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
-- what it costs by the planner's guess is not what it costs
SET jit = off AS $$
DECLARE
    col name := softaudit.marker_column(target);
    deleted bigint;
    rel regclass;
BEGIN
    IF col IS NULL THEN
        RETURN;
    END IF;
    -- by mentioning the column it sees them, whatever row security is forced on the owner
    deleted := softaudit.execute_as_owner(target, format('SELECT count(*) FROM %s WHERE %I IS NOT NULL', target, col), true);
    IF deleted > 0 AND NOT COALESCE(force, false) THEN
        RAISE EXCEPTION 'table "%" has % soft-deleted rows, which would reappear', target, deleted
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = format('Purge or restore them first, or call softaudit.disable(%L, force => true).', target);
    END IF;
    -- while the marker tells the column
    PERFORM softaudit.revert_unique(target);
    PERFORM softaudit.drop_purge_index(target);
    PERFORM softaudit.drop_marker(target);
    FOR rel IN SELECT DISTINCT softaudit.root_of(w.relation) FROM softaudit.with_children(target) w LOOP
        PERFORM softaudit.put_key_triggers(rel);
    END LOOP;
    RAISE NOTICE 'soft delete: markers removed from table "%"; column "%" stays, % deleted rows reappear', target, col, deleted;
END
$$;
COMMENT ON FUNCTION softaudit.remove_soft_delete(regclass, boolean) IS
'the soft-delete half of disable()';
