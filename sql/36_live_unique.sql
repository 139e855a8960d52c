/*
 * ---- soft delete: uniqueness among live rows ----
 *
 * What PostgreSQL prints of an index is taken apart here, never what somebody typed:
 * a rename of a column, a table or a schema shows in it.  So revert_unique() makes a
 * constraint from the index that stands for it, and the recorded definition is for people.
 */

CREATE FUNCTION softaudit.marker_column_above(target regclass) RETURNS name
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT softaudit.marker_column(u.relid)
      FROM (SELECT target AS relid, 0 AS ord
            UNION ALL SELECT a.relid, a.ord::integer FROM unnest(softaudit.ancestors(target)) WITH ORDINALITY a (relid, ord)) u
     WHERE softaudit.marker_column(u.relid) IS NOT NULL ORDER BY u.ord LIMIT 1
$$;
COMMENT ON FUNCTION softaudit.marker_column_above(regclass) IS
'the column that marks deleted rows of a table or partition; NULL if it is not soft-deleted';

CREATE FUNCTION softaudit.live_index_definition(target regclass, is_unique boolean, columns name[], OUT index_name name, OUT is_there boolean, OUT definition text)
LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off SET standard_conforming_strings = on AS $$
DECLARE
    col name := softaudit.marker_column_above(target);
    wanted name;
    is_expression boolean;
    keys text;
    unfinished name;
    nsp oid;
    base text;
    suffix text;
    n integer := 0;
BEGIN
    IF target IS NULL OR is_unique IS NULL OR COALESCE(cardinality(columns), 0) = 0 OR array_position(columns, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'neither the table nor a column must be NULL, and at least one column must be named'
            USING ERRCODE = 'null_value_not_allowed', HINT = 'Write softaudit.live_unique(''users'', ''email'').';
    END IF;
    IF col IS NULL THEN
        RAISE EXCEPTION 'table "%" is not soft-deleted', target
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = format('Call softaudit.enable(%L) for it.', target);
    END IF;
    FOREACH wanted IN ARRAY columns LOOP
        IF NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = target AND a.attname = wanted AND a.attnum > 0 AND NOT a.attisdropped) THEN
            is_expression := wanted ~ '[^[:alnum:]_ ]';
            RAISE EXCEPTION 'column "%" of table "%" does not exist', wanted, target
                USING ERRCODE = 'undefined_column',
                      HINT = CASE WHEN is_expression
                                  THEN format('An index on an expression is written by hand: CREATE %sINDEX ON %s (...) WHERE "%s" IS NULL.',
                                              CASE WHEN is_unique THEN 'UNIQUE ' END, target, replace(col, '"', '""'))
                                  ELSE 'Columns are named as the catalog spells them: mixed case is kept.' END;
        END IF;
    END LOOP;
    SELECT string_agg(quote_ident(c), ', ' ORDER BY ord) INTO keys FROM unnest(columns) WITH ORDINALITY u (c, ord);
    definition := format('ON %s (%s) WHERE %I IS NULL', target, keys, col);

    SELECT min(c.relname) FILTER (WHERE i.indisvalid), min(c.relname) FILTER (WHERE NOT i.indisvalid) INTO index_name, unfinished
      FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid CROSS JOIN LATERAL softaudit.index_parts(i.indexrelid) p
     WHERE i.indrelid = target AND i.indisunique = live_index_definition.is_unique
       AND p.body = format('USING btree (%s)', keys) AND p.conditions = ARRAY[format('(%I IS NULL)', col)];
    is_there := index_name IS NOT NULL;
    IF is_there THEN
        RETURN;
    END IF;
    IF unfinished IS NOT NULL THEN
        RAISE NOTICE 'index "%" of table "%" is the same and not valid: unless somebody is building it, drop it', unfinished, target;
    END IF;
    SELECT c.relnamespace, concat_ws('_', c.relname, array_to_string(columns, '_')) INTO nsp, base FROM pg_class c WHERE c.oid = target;
    LOOP
        suffix := CASE WHEN is_unique THEN '_live_key' ELSE '_live_idx' END || COALESCE(NULLIF(n, 0)::text, '');
        -- a name is cut off at 63 bytes, and the suffix with it
        WHILE octet_length(base || suffix) > 63 LOOP
            base := left(base, -1);
        END LOOP;
        index_name := base || suffix;
        EXIT WHEN NOT EXISTS (SELECT FROM pg_class c WHERE c.relname = index_name AND c.relnamespace = nsp);
        n := n + 1;
    END LOOP;
END
$$;
COMMENT ON FUNCTION softaudit.live_index_definition(regclass, boolean, name[]) IS
'name and definition of an index over live rows, and whether it is there already';

/* What is there already is told to the owner alone, as what is not is made for him alone. */
CREATE FUNCTION softaudit.check_index_owner(target regclass) RETURNS void
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT pg_has_role(current_user, (SELECT c.relowner FROM pg_class c WHERE c.oid = target), 'USAGE') THEN
        RAISE EXCEPTION 'must be owner of table %', target
            USING ERRCODE = 'insufficient_privilege', HINT = 'Have its owner, or a member of the owning role, call it.';
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.check_index_owner(regclass) IS
'raises insufficient_privilege unless the current user owns the table';

CREATE FUNCTION softaudit.live_unique(target regclass, VARIADIC columns name[]) RETURNS name
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    d record;
BEGIN
    PERFORM softaudit.check_index_owner(target);
    d := softaudit.live_index_definition(target, true, columns);
    IF NOT d.is_there THEN
        EXECUTE format('CREATE UNIQUE INDEX %I %s', d.index_name, d.definition);
    END IF;
    RETURN d.index_name;
END
$$;
COMMENT ON FUNCTION softaudit.live_unique(regclass, name[]) IS
'makes a unique index over the live rows of a soft-deleted table, or finds the one that is there; returns its name; for the table''s owner';

CREATE FUNCTION softaudit.live_index(target regclass, VARIADIC columns name[]) RETURNS name
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    d record;
BEGIN
    PERFORM softaudit.check_index_owner(target);
    d := softaudit.live_index_definition(target, false, columns);
    IF NOT d.is_there THEN
        EXECUTE format('CREATE INDEX %I %s', d.index_name, d.definition);
    END IF;
    RETURN d.index_name;
END
$$;
COMMENT ON FUNCTION softaudit.live_index(regclass, name[]) IS
'makes an index over the live rows of a soft-deleted table, or finds the one that is there; returns its name; for the table''s owner';

CREATE FUNCTION softaudit.live_index_sql(target regclass, is_unique boolean, VARIADIC columns name[]) RETURNS text
LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    d record := softaudit.live_index_definition(target, is_unique, columns);
BEGIN
    IF d.is_there THEN
        RETURN format('SELECT %L AS "is there already"', d.index_name);
    END IF;
    -- a partitioned table takes no CONCURRENTLY: build on its partitions first, and the root's adopts those
    RETURN format('CREATE %sINDEX %s%I %s', CASE WHEN is_unique THEN 'UNIQUE ' END,
                  CASE WHEN NOT EXISTS (SELECT FROM pg_partitioned_table p WHERE p.partrelid = target) THEN 'CONCURRENTLY ' END,
                  d.index_name, d.definition);
END
$$;
COMMENT ON FUNCTION softaudit.live_index_sql(regclass, boolean, name[]) IS
'the statement that makes an index over live rows without blocking writes, for \gexec; on a partitioned table it blocks them unless its partitions have theirs';

/* ---- indexes taken apart ---- */

CREATE FUNCTION softaudit.conjuncts(predicate text) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
DECLARE
    token text;
    depth integer := 0;
    inner_text text;
    part text := '';
    parts text[] := '{}';
BEGIN
    /* PostgreSQL prints (x AND y AND z), with AND in no other place at that depth. */
    IF predicate !~ '^\(.*\)$' THEN
        RETURN ARRAY[predicate];
    END IF;
    inner_text := substr(predicate, 2, length(predicate) - 2);
    FOR token IN SELECT m[1] FROM regexp_matches(inner_text, '("(?:[^"]|"")*"|''(?:[^'']|'''')*''|[()]| AND |[^"''() ]+| )', 'g') m LOOP
        depth := depth + CASE token WHEN '(' THEN 1 WHEN ')' THEN -1 ELSE 0 END;
        IF depth < 0 THEN
            -- the first parenthesis is not closed by the last
            RETURN ARRAY[predicate];
        ELSIF depth = 0 AND token = ' AND ' THEN
            parts := parts || part;
            part := '';
        ELSE
            part := part || token;
        END IF;
    END LOOP;
    RETURN CASE WHEN parts = '{}' THEN ARRAY[predicate] ELSE parts || part END;
END
$$;
COMMENT ON FUNCTION softaudit.conjuncts(text) IS
'the conditions that a predicate, as PostgreSQL prints it, joins by AND';

CREATE FUNCTION softaudit.index_parts(index_id oid, OUT body text, OUT storage text, OUT place text, OUT conditions text[])
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off SET standard_conforming_strings = on AS $$
DECLARE
    i record;
    head text;
    predicate text;
    at integer := 0;
    step integer;
BEGIN
    SELECT x.indrelid::regclass AS rel, c.relname, c.relkind, c.reloptions, s.spcname, x.indisunique,
           pg_get_indexdef(x.indexrelid) AS def, pg_get_expr(x.indpred, x.indrelid) AS pred,
           -- without what follows its predicate
           (SELECT CASE WHEN k.condeferrable THEN regexp_replace(pg_get_constraintdef(k.oid), ' DEFERRABLE( INITIALLY DEFERRED)?$', '')
                        ELSE pg_get_constraintdef(k.oid) END FROM pg_constraint k WHERE k.conindid = x.indexrelid AND k.contype = 'x') AS exclusion
      INTO i
      FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
     WHERE x.indexrelid = index_id;
    head := format('CREATE %sINDEX %I ON %s%s ', CASE WHEN i.indisunique THEN 'UNIQUE ' END, i.relname,
                   CASE WHEN i.relkind = 'I' THEN 'ONLY ' END, i.rel);
    IF i.exclusion IS NOT NULL THEN
        body := i.exclusion;
        predicate := '(' || i.pred || ')';
    ELSIF starts_with(i.def, head) THEN
        body := substr(i.def, length(head) + 1);
        predicate := i.pred;
    ELSE
        RAISE EXCEPTION 'definition of index "%" is not understood: %', index_id::regclass, i.def
            USING ERRCODE = 'internal_error';
    END IF;
    conditions := '{}';
    IF i.pred IS NOT NULL THEN
        conditions := softaudit.conjuncts(i.pred);
        -- printed by itself and as a part of the index a predicate may differ in white space
        LOOP
            step := strpos(substr(body, at + 1), ' WHERE ');
            IF step = 0 THEN
                RAISE EXCEPTION 'predicate of index "%" is not understood: %', index_id::regclass, i.def
                    USING ERRCODE = 'internal_error';
            END IF;
            at := at + step;
            EXIT WHEN regexp_replace(substr(body, at + 7), '\s', '', 'g') = regexp_replace(predicate, '\s', '', 'g');
        END LOOP;
        body := left(body, at - 1);
    END IF;
    storage := COALESCE(' WITH (' || (SELECT string_agg(format('%I=%s', o.option_name,
                                                               CASE WHEN quote_ident(o.option_value) = o.option_value THEN o.option_value
                                                                    ELSE quote_literal(o.option_value) END), ', ' ORDER BY u.ord)
                                        FROM unnest(i.reloptions) WITH ORDINALITY u (opt, ord)
                                       CROSS JOIN LATERAL (SELECT split_part(u.opt, '=', 1) AS option_name, substr(u.opt, strpos(u.opt, '=') + 1) AS option_value) o) || ')', '');
    IF storage <> '' AND right(body, length(storage)) = storage THEN
        body := left(body, -length(storage));
    END IF;
    place := COALESCE(' TABLESPACE ' || quote_ident(i.spcname), '');
END
$$;
COMMENT ON FUNCTION softaudit.index_parts(oid) IS
'what an index is on (as after ON table; EXCLUDE ... of an exclusion constraint), its storage parameters, its tablespace, and the conditions of its predicate';

CREATE FUNCTION softaudit.with_children(target regclass) RETURNS TABLE (relation regclass, depth integer)
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE tree (relid, depth) AS (
        SELECT target::oid, 0
        UNION
        SELECT i.inhrelid, tree.depth + 1 FROM tree JOIN pg_inherits i ON i.inhparent = tree.relid)
    SELECT tree.relid::regclass, min(tree.depth) FROM tree JOIN pg_class c ON c.oid = tree.relid AND c.relkind IN ('r', 'p', 'f') GROUP BY tree.relid
$$;
COMMENT ON FUNCTION softaudit.with_children(regclass) IS
'a table with its partitions and inheritance children, at whatever depth, foreign tables among them';

CREATE FUNCTION softaudit.index_names(index_id oid, OUT relations oid[], OUT names name[])
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT COALESCE(array_agg(i.indrelid), '{}'), COALESCE(array_agg(c.relname), '{}')
      FROM pg_partition_tree(index_id) t JOIN pg_index i ON i.indexrelid = t.relid JOIN pg_class c ON c.oid = t.relid
     WHERE t.relid <> index_id
$$;
COMMENT ON FUNCTION softaudit.index_names(oid) IS
'how the parts of a partitioned index are called, by the partition that they are on';

CREATE FUNCTION softaudit.rename_index_parts(index_id oid, relations oid[], names name[], but_not oid[]) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    p record;
BEGIN
    FOR p IN SELECT t.relid::regclass AS part, u.wanted
               FROM pg_partition_tree(index_id) t JOIN pg_index i ON i.indexrelid = t.relid JOIN pg_class c ON c.oid = t.relid
               JOIN unnest(relations, names) u (relation, wanted) ON u.relation = i.indrelid
              WHERE t.relid <> index_id AND c.relname <> u.wanted AND t.relid <> ALL (but_not)
    LOOP
        EXECUTE format('ALTER INDEX %s RENAME TO %I', p.part, p.wanted);
    END LOOP;
END
$$;
COMMENT ON FUNCTION softaudit.rename_index_parts(oid, oid[], name[], oid[]) IS
'gives the parts of a partitioned index names by their partitions: errors tell them';

/* ---- constraints that count live rows only ---- */

CREATE FUNCTION softaudit.ensure_replaced() RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF to_regclass('softaudit.replaced_constraints') IS NULL THEN
        CREATE TABLE softaudit.replaced_constraints (
            table_id integer NOT NULL,
            name name NOT NULL,
            index_name name NOT NULL,   -- the index over live rows that stands for it
            kind text NOT NULL CHECK (kind IN ('UNIQUE', 'INDEX', 'EXCLUDE')),
            definition text NOT NULL,
            comment text,
            -- the table itself, a partition or an inheritance child
            schema_name name NOT NULL,
            table_name name NOT NULL,
            storage text NOT NULL DEFAULT '',
            place text NOT NULL DEFAULT '',
            PRIMARY KEY (table_id, schema_name, table_name, name)
        );
        COMMENT ON TABLE softaudit.replaced_constraints IS
            'unique and exclusion constraints that count live rows only, and how disable() makes them again';
        PERFORM softaudit.own_alone('softaudit.replaced_constraints');
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.ensure_replaced() IS
'makes the table that tells what convert_unique() replaced';

CREATE FUNCTION softaudit.unknown_unique(target regclass, keep_unique name[]) RETURNS SETOF name
LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    SELECT k FROM unnest(keep_unique) k
     WHERE k IS NULL
        OR NOT EXISTS (SELECT FROM softaudit.with_children(target) w JOIN pg_index x ON x.indrelid = w.relation
                         JOIN pg_class c ON c.oid = x.indexrelid WHERE c.relname = k)
       -- one that an index of another name stands for
       AND NOT EXISTS (SELECT FROM softaudit.replaced_constraints p JOIN softaudit.registry r USING (table_id)
                        WHERE r.relation = target AND p.name = k);
END
$$;
COMMENT ON FUNCTION softaudit.unknown_unique(regclass, name[]) IS
'those of some names that no constraint or index of a table has';

CREATE FUNCTION softaudit.check_keep_unique(target regclass, keep_unique name[]) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    unknown name;
BEGIN
    PERFORM softaudit.ensure_replaced();
    SELECT u INTO unknown FROM softaudit.unknown_unique(target, keep_unique) u LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'keep_unique: table "%" has no unique constraint or index "%"', target, unknown
            USING ERRCODE = 'undefined_object', HINT = 'Name constraints or indexes as \d shows them.';
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.check_keep_unique(regclass, name[]) IS
'raises undefined_object for a name that no constraint or index of the table has';

CREATE FUNCTION softaudit.why_kept(index_id oid, constraint_id oid) RETURNS text
LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
    WITH parts (oid) AS (SELECT index_id UNION SELECT t.relid::oid FROM pg_partition_tree(index_id) t),
         own_parts (conname, relation) AS (
            SELECT k.conname, k.conrelid::regclass FROM parts p JOIN pg_constraint k ON k.conindid = p.oid AND k.contype IN ('p', 'u', 'x')
             WHERE p.oid <> index_id AND (k.contype = 'p' OR constraint_id IS NULL OR constraint_id = 0))
    SELECT CASE
        WHEN EXISTS (SELECT FROM parts p JOIN pg_constraint f ON f.conindid = p.oid AND f.contype = 'f') THEN 'a foreign key needs it'
        WHEN EXISTS (SELECT FROM parts p JOIN pg_index i ON i.indexrelid = p.oid WHERE i.indisreplident) THEN 'it is the replica identity'
        WHEN EXISTS (SELECT FROM pg_constraint k WHERE k.oid = constraint_id AND k.condeferrable) THEN 'an index cannot be deferrable'
        WHEN EXISTS (SELECT FROM pg_constraint k WHERE k.oid = constraint_id AND k.contype = 'u' AND k.conexclop IS NOT NULL) THEN 'it is WITHOUT OVERLAPS'
        WHEN NOT (SELECT i.indisvalid FROM pg_index i WHERE i.indexrelid = index_id) THEN 'it is not valid'
        -- a partition's own, which became a part of it: as an index it would not go with it, as the primary key it must not
        WHEN EXISTS (SELECT FROM own_parts) THEN
            (SELECT format('constraint "%s" of table "%s" is a part of it', o.conname, o.relation) FROM own_parts o ORDER BY o.relation::text, o.conname LIMIT 1)
        ELSE (SELECT pg_describe_object(d.classid, d.objid, d.objsubid) || ' depends on it'
                FROM pg_depend d
               WHERE d.deptype = 'n'
                 AND (d.refclassid = 'pg_class'::regclass AND d.refobjid IN (SELECT p.oid FROM parts p)
                      OR d.refclassid = 'pg_constraint'::regclass
                         AND d.refobjid IN (SELECT k.oid FROM parts p JOIN pg_constraint k ON k.conindid = p.oid AND k.contype <> 'f'))
               LIMIT 1) END
$$;
COMMENT ON FUNCTION softaudit.why_kept(oid, oid) IS
'why a unique index or the constraint that it belongs to cannot be over live rows; NULL if it can';

CREATE FUNCTION softaudit.convert_unique(target regclass, column_name name, keep_unique name[]) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET default_tablespace = '' AS $$
DECLARE
    i record;
    p record;
    parts record;
    unknown name;
    what text;                  -- how it is told of
    reason text;
    live text := format('(%I IS NULL)', column_name);
    adopted oid;
    made regclass;
    known_id integer := (SELECT r.table_id FROM softaudit.registry r WHERE r.relation = target);
    -- what stands for a constraint stands for no other; one that is made now for none
    present oid[] := ARRAY(SELECT x.indexrelid FROM softaudit.with_children(target) w JOIN pg_index x ON x.indrelid = w.relation);
BEGIN
    PERFORM softaudit.ensure_replaced();
    FOR unknown IN SELECT u FROM softaudit.unknown_unique(target, keep_unique) u LOOP
        RAISE WARNING 'keep_unique: table "%" has no unique constraint or index "%" any more', target, unknown;
    END LOOP;
    PERFORM softaudit.revert_named(target, COALESCE(keep_unique, '{}'));

    FOR i IN SELECT x.indexrelid AS index_id, x.indrelid::regclass AS rel, c.relname, nc.nspname, tc.relname AS table_name,
                    k.oid AS constraint_id, k.contype,
                    COALESCE(obj_description(k.oid, 'pg_constraint'), obj_description(x.indexrelid, 'pg_class')) AS remark,
                    COALESCE(pg_get_constraintdef(k.oid), pg_get_indexdef(x.indexrelid)) AS definition
               FROM softaudit.with_children(target) w
               JOIN pg_index x ON x.indrelid = w.relation
               -- a part of a parent's index goes with that
               JOIN pg_class c ON c.oid = x.indexrelid AND NOT c.relispartition
               JOIN pg_namespace nc ON nc.oid = c.relnamespace
               JOIN pg_class tc ON tc.oid = x.indrelid
               LEFT JOIN pg_constraint k ON k.conindid = x.indexrelid AND k.contype IN ('u', 'x')
              WHERE NOT x.indisprimary AND (x.indisunique OR k.contype = 'x')
              ORDER BY w.depth, w.relation::text, c.relname
    LOOP
        SELECT * INTO p FROM softaudit.index_parts(i.index_id);
        CONTINUE WHEN live = ANY (p.conditions);
        what := format('"%s"', i.relname) || CASE WHEN i.rel <> target THEN format(' of table "%s"', i.rel) ELSE '' END;
        reason := CASE WHEN i.relname = ANY (keep_unique) THEN 'keep_unique names it'
                       WHEN format('(%I IS NOT NULL)', column_name) = ANY (p.conditions) THEN 'it is over no others'
                       ELSE softaudit.why_kept(i.index_id, i.constraint_id) END;
        IF reason IS NOT NULL THEN
            RAISE NOTICE 'soft delete: % goes on counting deleted rows: %', what, reason;
            CONTINUE;
        END IF;

        -- one that was built before, without blocking anybody
        SELECT x.indexrelid INTO adopted
          FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid CROSS JOIN LATERAL softaudit.index_parts(x.indexrelid) o
         WHERE i.contype IS DISTINCT FROM 'x' AND x.indrelid = i.rel AND x.indisunique AND x.indisvalid AND x.indexrelid = ANY (present)
           AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = x.indexrelid AND k.contype <> 'f')
           AND NOT EXISTS (SELECT FROM softaudit.replaced_constraints s WHERE s.table_id = known_id AND s.index_name = c.relname
                              AND s.schema_name = i.nspname AND s.table_name = i.table_name)
           AND o.body = p.body AND live = ANY (o.conditions)
           AND array_remove(o.conditions, live) @> p.conditions AND p.conditions @> array_remove(o.conditions, live)
         ORDER BY o.storage = p.storage DESC, c.relname LIMIT 1;
        SELECT * INTO parts FROM softaudit.index_names(i.index_id);
        INSERT INTO softaudit.replaced_constraints (table_id, name, index_name, kind, definition, comment, schema_name, table_name, storage, place)
        VALUES (known_id, i.relname, COALESCE((SELECT c.relname FROM pg_class c WHERE c.oid = adopted), i.relname),
                CASE i.contype WHEN 'u' THEN 'UNIQUE' WHEN 'x' THEN 'EXCLUDE' ELSE 'INDEX' END,
                i.definition, i.remark, i.nspname, i.table_name, p.storage, p.place)
            ON CONFLICT (table_id, schema_name, table_name, name)
            DO UPDATE SET (index_name, kind, definition, comment, storage, place)
                        = (excluded.index_name, excluded.kind, excluded.definition, excluded.comment, excluded.storage, excluded.place);

        IF i.constraint_id IS NOT NULL THEN
            EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', i.rel, i.relname);
        ELSE
            EXECUTE format('DROP INDEX %I.%I', i.nspname, i.relname);
        END IF;
        IF i.contype = 'x' THEN
            PERFORM softaudit.execute_as_owner(i.rel, format('ALTER TABLE %s ADD CONSTRAINT %I %s%s%s WHERE (%s)', i.rel, i.relname, p.body, p.storage,
                           replace(p.place, ' TABLESPACE ', ' USING INDEX TABLESPACE '), array_to_string(p.conditions || live, ' AND ')));
        ELSIF adopted IS NULL THEN
            PERFORM softaudit.execute_as_owner(i.rel, format('CREATE UNIQUE INDEX %I ON %s %s%s%s WHERE %s', i.relname, i.rel, p.body, p.storage, p.place,
                           array_to_string(p.conditions || live, ' AND ')));
        END IF;
        IF adopted IS NULL THEN
            made := format('%I.%I', i.nspname, i.relname)::regclass;
            PERFORM softaudit.rename_index_parts(made, parts.relations, parts.names, present);
            IF i.remark IS NOT NULL AND i.contype = 'x' THEN
                EXECUTE format('COMMENT ON CONSTRAINT %I ON %s IS %L', i.relname, i.rel, i.remark);
            ELSIF i.remark IS NOT NULL THEN
                EXECUTE format('COMMENT ON INDEX %s IS %L', made, i.remark);
            END IF;
            RAISE NOTICE 'soft delete: % counts live rows only from now on', what;
        ELSE
            RAISE NOTICE 'soft delete: % was dropped: "%" keeps live rows unique', what, (SELECT c.relname FROM pg_class c WHERE c.oid = adopted);
        END IF;
        IF i.contype = 'u' THEN
            RAISE NOTICE 'soft delete: ON CONFLICT ON CONSTRAINT % cannot name an index; ON CONFLICT (columns) finds it', quote_ident(i.relname);
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION softaudit.convert_unique(regclass, name, name[]) IS
'has unique constraints, unique indexes and exclusion constraints of a table count live rows only, but for those that cannot';

CREATE FUNCTION softaudit.live_condition(target regclass, conditions text[]) RETURNS text
LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
    -- the marker's column; when that is gone, the registry's; renamed since: the only one that it can be
    SELECT COALESCE(
        (SELECT c.cond
           FROM (SELECT '(' || quote_ident(softaudit.marker_column(target)) || ' IS NULL)', 1
                 UNION ALL SELECT format('(%I IS NULL)', r.deleted_at), 2 FROM softaudit.registry r WHERE r.relation = target) c (cond, ord)
          WHERE c.cond = ANY (conditions) ORDER BY c.ord LIMIT 1),
        (SELECT min(format('(%I IS NULL)', a.attname))
           FROM pg_attribute a
          WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid IN ('timestamptz'::regtype, 'timestamp'::regtype)
            AND format('(%I IS NULL)', a.attname) = ANY (conditions)
         HAVING count(*) = 1))
$$;
COMMENT ON FUNCTION softaudit.live_condition(regclass, text[]) IS
'which of the conditions of an index leaves deleted rows out; NULL if none does';

CREATE FUNCTION softaudit.revert_named(target regclass, names name[]) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET default_tablespace = '' AS $$
DECLARE
    r record;
    i record;
    p record;
    parts record;
    what text;
    remark text;
    command text;
    made regclass;
    details text;
BEGIN
    PERFORM softaudit.ensure_replaced();
    FOR r IN SELECT c.* FROM softaudit.replaced_constraints c JOIN softaudit.registry t ON t.table_id = c.table_id
              WHERE t.relation = target AND (names IS NULL OR c.name = ANY (names))
              ORDER BY (c.schema_name, c.table_name) <> (t.schema_name, t.table_name), c.schema_name, c.table_name, c.name LOOP
        DELETE FROM softaudit.replaced_constraints c
         WHERE (c.table_id, c.schema_name, c.table_name, c.name) = (r.table_id, r.schema_name, r.table_name, r.name);
        -- where it was, or, if the table was renamed, where it is now
        SELECT x.indexrelid AS index_id, x.indrelid::regclass AS rel, n.nspname, x.indnullsnotdistinct, k.oid AS constraint_id,
               (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY u.ord) FROM unnest(x.indkey) WITH ORDINALITY u (num, ord)
                  JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = u.num WHERE u.ord <= x.indnkeyatts) AS keys,
               (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY u.ord) FROM unnest(x.indkey) WITH ORDINALITY u (num, ord)
                  JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = u.num WHERE u.ord > x.indnkeyatts) AS included
          INTO i
          FROM softaudit.with_children(target) w
          JOIN pg_index x ON x.indrelid = w.relation
          JOIN pg_class c ON c.oid = x.indexrelid AND c.relname = r.index_name AND NOT c.relispartition
          JOIN pg_namespace n ON n.oid = c.relnamespace
          JOIN pg_class tc ON tc.oid = x.indrelid
          LEFT JOIN pg_constraint k ON k.conindid = x.indexrelid AND k.contype <> 'f'
         ORDER BY n.nspname = r.schema_name DESC, tc.relname = r.table_name DESC, w.depth LIMIT 1;
        what := format('"%s"', r.name) || CASE WHEN i.rel <> target THEN format(' of table "%s"', i.rel) ELSE '' END;
        SELECT q.*, softaudit.live_condition(target, q.conditions) AS live INTO p FROM softaudit.index_parts(i.index_id) q;
        -- nothing is left to put right of a partition that was dropped
        CONTINUE WHEN i.index_id IS NULL AND to_regclass(format('%I.%I', r.schema_name, r.table_name)) IS NULL;
        IF i.index_id IS NULL OR p.live IS NULL OR (i.constraint_id IS NOT NULL) <> (r.kind = 'EXCLUDE') THEN
            RAISE WARNING 'soft delete: % is not there again: the index that stood for it was dropped or changed', what
                USING HINT = format('It was: %s.', r.definition);
            CONTINUE;
        END IF;
        p.conditions := array_remove(p.conditions, p.live);
        remark := r.comment;
        IF r.index_name <> r.name THEN
            -- an index that was adopted stays; what it replaced had its own parameters
            p.storage := r.storage;
            p.place := CASE WHEN r.place = '' OR EXISTS (SELECT FROM pg_tablespace s WHERE format(' TABLESPACE %I', s.spcname) = r.place) THEN r.place ELSE '' END;
            SELECT '{}'::oid[] AS relations, '{}'::name[] AS names INTO parts;
        ELSE
            remark := COALESCE(obj_description(i.constraint_id, 'pg_constraint'), obj_description(i.index_id, 'pg_class'));
            SELECT * INTO parts FROM softaudit.index_names(i.index_id);
            IF i.constraint_id IS NOT NULL THEN
                EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', i.rel, r.name);
            ELSE
                EXECUTE format('DROP INDEX %s', i.index_id::regclass);
            END IF;
        END IF;
        command := CASE r.kind
            WHEN 'UNIQUE' THEN
                format('ALTER TABLE %s ADD CONSTRAINT %I UNIQUE%s (%s)%s%s%s', i.rel, r.name,
                       CASE WHEN i.indnullsnotdistinct THEN ' NULLS NOT DISTINCT' END, i.keys, ' INCLUDE (' || i.included || ')',
                       p.storage, replace(p.place, ' TABLESPACE ', ' USING INDEX TABLESPACE '))
            WHEN 'EXCLUDE' THEN
                format('ALTER TABLE %s ADD CONSTRAINT %I %s%s%s%s', i.rel, r.name, p.body,
                       p.storage, replace(p.place, ' TABLESPACE ', ' USING INDEX TABLESPACE '),
                       ' WHERE (' || NULLIF(array_to_string(p.conditions, ' AND '), '') || ')')
            ELSE
                format('CREATE UNIQUE INDEX %I ON %s %s%s%s%s', r.name, i.rel, p.body, p.storage, p.place,
                       ' WHERE ' || NULLIF(array_to_string(p.conditions, ' AND '), '')) END;
        BEGIN
            PERFORM softaudit.execute_as_owner(i.rel, command);
        EXCEPTION WHEN unique_violation OR exclusion_violation THEN
            GET STACKED DIAGNOSTICS details = PG_EXCEPTION_DETAIL;
            RAISE EXCEPTION '% cannot count all rows of table "%" again: %', what, i.rel, SQLERRM
                USING ERRCODE = SQLSTATE, DETAIL = details, CONSTRAINT = r.name,
                      HINT = 'Deleted rows hold what other rows hold, too: purge them first. With force => true they could reappear, but not twice the same.';
        END;
        made := format('%I.%I', i.nspname, r.name)::regclass;
        PERFORM softaudit.rename_index_parts(made, parts.relations, parts.names, '{}');
        IF remark IS NOT NULL AND r.kind = 'INDEX' THEN
            EXECUTE format('COMMENT ON INDEX %s IS %L', made, remark);
        ELSIF remark IS NOT NULL THEN
            EXECUTE format('COMMENT ON CONSTRAINT %I ON %s IS %L', r.name, i.rel, remark);
        END IF;
        RAISE NOTICE 'soft delete: % counts all rows again', what;
    END LOOP;
END
$$;
COMMENT ON FUNCTION softaudit.revert_named(regclass, name[]) IS
'turns some of what convert_unique() replaced back into what it was; NULL for all';

CREATE FUNCTION softaudit.before_index_rename(index_id oid, new_name text) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF to_regclass('softaudit.replaced_constraints') IS NULL THEN
        RETURN;
    END IF;
    -- what it stands for is made again under the new name, unless it was adopted
    UPDATE softaudit.replaced_constraints c
       SET index_name = new_name::name, name = CASE WHEN c.name = c.index_name THEN new_name::name ELSE c.name END
      FROM pg_class i JOIN pg_namespace n ON n.oid = i.relnamespace JOIN pg_index x ON x.indexrelid = i.oid JOIN pg_class t ON t.oid = x.indrelid
     WHERE i.oid = index_id AND (c.index_name, c.schema_name, c.table_name) = (i.relname, n.nspname, t.relname)
       -- a name that is taken is PostgreSQL's to refuse
       AND to_regclass(format('%I.%I', n.nspname, new_name::name)) IS NULL;
END
$$;
COMMENT ON FUNCTION softaudit.before_index_rename(oid, text) IS
'before an index gets another name: what it stands for is found by the name';

CREATE FUNCTION softaudit.hand_over_unique(part regclass, whole regclass) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    whole_id integer := (SELECT r.table_id FROM softaudit.registry r WHERE r.relation = whole);
    part_id integer := (SELECT r.table_id FROM softaudit.registry r WHERE r.relation = part);
BEGIN
    IF to_regclass('softaudit.replaced_constraints') IS NULL THEN
        RETURN;
    END IF;
    -- of inheritance children: what was noted of their own
    UPDATE softaudit.replaced_constraints c SET table_id = part_id
      FROM softaudit.with_children(part) w JOIN pg_class t ON t.oid = w.relation JOIN pg_namespace n ON n.oid = t.relnamespace
     WHERE c.table_id <> part_id AND (c.schema_name, c.table_name) = (n.nspname, t.relname);
    -- of a partition: its parts of the whole's indexes, which are its own now
    INSERT INTO softaudit.replaced_constraints (table_id, name, index_name, kind, definition, comment, schema_name, table_name, storage, place)
    SELECT DISTINCT ON (x.indexrelid) part_id, i.relname, i.relname, c.kind, c.definition, c.comment, n.nspname, t.relname, c.storage, c.place
      FROM softaudit.replaced_constraints c
      JOIN pg_index wx ON wx.indrelid = whole
      JOIN pg_class wi ON wi.oid = wx.indexrelid AND wi.relname = c.index_name
     CROSS JOIN LATERAL softaudit.index_parts(wx.indexrelid) wp
      JOIN pg_index x ON x.indrelid = part AND x.indisunique
      JOIN pg_class i ON i.oid = x.indexrelid AND NOT i.relispartition
     CROSS JOIN LATERAL softaudit.index_parts(x.indexrelid) p
      JOIN pg_class t ON t.oid = part JOIN pg_namespace n ON n.oid = t.relnamespace
     WHERE c.table_id = whole_id AND c.kind <> 'EXCLUDE' AND p.body = wp.body AND p.conditions = wp.conditions
       AND NOT EXISTS (SELECT FROM softaudit.replaced_constraints o WHERE (o.schema_name, o.table_name, o.index_name) = (n.nspname, t.relname, i.relname))
     ORDER BY x.indexrelid, c.name;
    UPDATE softaudit.registry r SET live_unique = true
     WHERE r.table_id = part_id AND EXISTS (SELECT FROM softaudit.replaced_constraints c WHERE c.table_id = part_id);
END
$$;
COMMENT ON FUNCTION softaudit.hand_over_unique(regclass, regclass) IS
'has a table that was a part of another turn its own indexes back at disable()';

CREATE FUNCTION softaudit.take_over_unique(part regclass, whole regclass) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    whole_id integer := (SELECT r.table_id FROM softaudit.registry r WHERE r.relation = whole);
    part_id integer := (SELECT r.table_id FROM softaudit.registry r WHERE r.relation = part);
BEGIN
    IF to_regclass('softaudit.replaced_constraints') IS NULL THEN
        RETURN;
    END IF;
    -- what became a part of an index of the whole goes with that
    DELETE FROM softaudit.replaced_constraints c
     USING pg_index x JOIN pg_class i ON i.oid = x.indexrelid AND i.relispartition
     WHERE c.table_id = part_id AND x.indrelid = part AND i.relname = c.index_name;
    UPDATE softaudit.replaced_constraints c SET table_id = whole_id WHERE c.table_id = part_id;
END
$$;
COMMENT ON FUNCTION softaudit.take_over_unique(regclass, regclass) IS
'has a table turn back at disable() the indexes of what became a part of it, too';

CREATE FUNCTION softaudit.revert_unique(target regclass) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM softaudit.revert_named(target, NULL);
END
$$;
COMMENT ON FUNCTION softaudit.revert_unique(regclass) IS
'turns what convert_unique() replaced back into what it was';
