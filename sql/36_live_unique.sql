/* ---- soft delete: uniqueness among live rows ---- */

CREATE FUNCTION softaudit.marker_column_above(target regclass) RETURNS name
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT softaudit.marker_column(u.relid)
      FROM (SELECT target AS relid, 0 AS ord
            UNION ALL SELECT a.relid, a.ord::integer FROM pg_partition_ancestors(target) WITH ORDINALITY a (relid, ord)) u
     WHERE softaudit.marker_column(u.relid) IS NOT NULL ORDER BY u.ord LIMIT 1
$$;
COMMENT ON FUNCTION softaudit.marker_column_above(regclass) IS
'the column that marks deleted rows of a table or partition; NULL if it is not soft-deleted';

CREATE FUNCTION softaudit.live_index_definition(target regclass, is_unique boolean, columns name[], OUT index_name name, OUT is_there boolean, OUT definition text)
LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    col name := softaudit.marker_column_above(target);
    wanted name;
    attnums smallint[] := '{}';
    attnum smallint;
    base text;
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
        SELECT a.attnum INTO attnum FROM pg_attribute a WHERE a.attrelid = target AND a.attname = wanted AND a.attnum > 0 AND NOT a.attisdropped;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'column "%" of table "%" does not exist', wanted, target
                USING ERRCODE = 'undefined_column',
                      HINT = format('Columns are named as the catalog spells them. For an expression write CREATE INDEX by hand, with WHERE %I IS NULL.', col);
        END IF;
        attnums := attnums || attnum;
    END LOOP;
    SELECT c.relname INTO index_name
      FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam AND m.amname = 'btree'
     WHERE i.indrelid = target AND i.indisvalid AND i.indisunique = live_index_definition.is_unique AND i.indexprs IS NULL
       AND i.indnatts = i.indnkeyatts AND (i.indkey::smallint[])[0:] = attnums
       AND pg_get_expr(i.indpred, i.indrelid) = format('(%I IS NULL)', col)
     ORDER BY c.relname LIMIT 1;
    is_there := FOUND;
    IF NOT is_there THEN
        base := (SELECT c.relname FROM pg_class c WHERE c.oid = target) || '_' || array_to_string(columns, '_');
        FOR i IN 0 .. 99 LOOP
            index_name := left(base, 63 - 12) || CASE WHEN is_unique THEN '_live_key' ELSE '_live_idx' END || CASE WHEN i > 0 THEN i::text ELSE '' END;
            EXIT WHEN NOT EXISTS (SELECT FROM pg_class c WHERE c.relname = index_name
                                  AND c.relnamespace = (SELECT t.relnamespace FROM pg_class t WHERE t.oid = target));
        END LOOP;
    END IF;
    definition := format('ON %s (%s) WHERE %I IS NULL', target,
                         (SELECT string_agg(quote_ident(c), ', ' ORDER BY ord) FROM unnest(columns) WITH ORDINALITY u (c, ord)), col);
END
$$;
COMMENT ON FUNCTION softaudit.live_index_definition(regclass, boolean, name[]) IS
'name and definition of an index over live rows, and whether it is there already';

CREATE FUNCTION softaudit.live_unique(target regclass, VARIADIC columns name[]) RETURNS name
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS $$
DECLARE
    d record := softaudit.live_index_definition(target, true, columns);
BEGIN
    IF NOT d.is_there THEN
        EXECUTE pg_catalog.format('CREATE UNIQUE INDEX %I %s', d.index_name, d.definition);
    END IF;
    RETURN d.index_name;
END
$$;
COMMENT ON FUNCTION softaudit.live_unique(regclass, name[]) IS
'makes a unique index over the live rows of a soft-deleted table, or finds the one that is there; returns its name; for the table''s owner';

CREATE FUNCTION softaudit.live_index(target regclass, VARIADIC columns name[]) RETURNS name
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS $$
DECLARE
    d record := softaudit.live_index_definition(target, false, columns);
BEGIN
    IF NOT d.is_there THEN
        EXECUTE pg_catalog.format('CREATE INDEX %I %s', d.index_name, d.definition);
    END IF;
    RETURN d.index_name;
END
$$;
COMMENT ON FUNCTION softaudit.live_index(regclass, name[]) IS
'makes an index over the live rows of a soft-deleted table, or finds the one that is there; returns its name; for the table''s owner';

CREATE FUNCTION softaudit.live_index_sql(target regclass, is_unique boolean, VARIADIC columns name[]) RETURNS text
LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL SAFE AS $$
DECLARE
    d record;
BEGIN
    d := softaudit.live_index_definition(target, is_unique, columns);
    IF d.is_there THEN
        RETURN pg_catalog.format('SELECT %L AS "is there already"', d.index_name);
    END IF;
    RETURN pg_catalog.format('CREATE %sINDEX %s%I %s', CASE WHEN is_unique THEN 'UNIQUE ' END,
                             CASE WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_partitioned_table p WHERE p.partrelid OPERATOR(pg_catalog.=) target::pg_catalog.oid) THEN 'CONCURRENTLY ' END,
                             d.index_name, d.definition);
END
$$;
COMMENT ON FUNCTION softaudit.live_index_sql(regclass, boolean, name[]) IS
'the statement that makes an index over live rows without blocking writes, for \gexec';

CREATE FUNCTION softaudit.is_over_live_rows(indexrelid oid, column_name name) RETURNS boolean
LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT COALESCE(p.pred = c.live OR p.pred LIKE '((%) AND ' || replace(replace(c.live, '\', '\\'), '_', '\_') || ')'
                    OR p.pred LIKE '(' || replace(replace(c.live, '\', '\\'), '_', '\_') || ' AND (%))', false)
      FROM (SELECT format('(%I IS NULL)', column_name) AS live) c,
           (SELECT pg_get_expr(i.indpred, i.indrelid) AS pred FROM pg_index i WHERE i.indexrelid = is_over_live_rows.indexrelid) p
$$;
COMMENT ON FUNCTION softaudit.is_over_live_rows(oid, name) IS
'whether the predicate of an index leaves deleted rows out';

CREATE FUNCTION softaudit.index_body(indexrelid oid) RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
    -- what follows the name, without ONLY, so that the partitions get theirs; the predicate apart
    SELECT regexp_replace(substr(d.def, 1, length(d.def) - COALESCE(length(' WHERE ' || d.pred), 0)),
                          '^CREATE (UNIQUE )?INDEX .*? ON (ONLY )?' || regexp_replace(d.rel::text, '([^a-zA-Z0-9_])', '\\\1', 'g') || ' ',
                          'ON ' || replace(d.rel::text, '\', '\\') || ' ') || COALESCE(' TABLESPACE ' || quote_ident(d.spcname), '')
      FROM (SELECT pg_get_indexdef(i.indexrelid) AS def, pg_get_expr(i.indpred, i.indrelid) AS pred, i.indrelid::regclass AS rel, s.spcname
              FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
             WHERE i.indexrelid = index_body.indexrelid) d
$$;
COMMENT ON FUNCTION softaudit.index_body(oid) IS
'the definition of an index from ON to before WHERE';

CREATE FUNCTION softaudit.convert_unique(target regclass, column_name name, keep_unique name[]) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    i record;
    unknown name;
    reason text;
    live text := format('(%I IS NULL)', column_name);
    body text;
    adopted name;
    own_id integer := (SELECT r.table_id FROM softaudit.registry r WHERE r.relation = target);
    nsp name := (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = target);
BEGIN
    SELECT k INTO unknown FROM unnest(keep_unique) k
     WHERE NOT EXISTS (SELECT FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid WHERE x.indrelid = target AND c.relname = k) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'keep_unique: table "%" has no unique constraint or index "%"', target, unknown
            USING ERRCODE = 'undefined_object', HINT = 'Name constraints or indexes as \d shows them.';
    END IF;

    FOR i IN SELECT x.indexrelid, c.relname, x.indisreplident, pg_get_expr(x.indpred, x.indrelid) AS pred,
                    k.oid AS constraint_oid, k.contype, COALESCE(k.condeferrable, false) AS condeferrable,
                    -- what a constraint's definition leaves out: storage parameters and the tablespace
                    substr(k.def, 1, length(k.def) - COALESCE(length(' WHERE (' || k.pred || ')'), 0))
                        || COALESCE(' WITH (' || array_to_string(c.reloptions, ', ') || ')', '')
                        || COALESCE(' USING INDEX TABLESPACE ' || quote_ident(s.spcname), '') AS condef,
                    COALESCE(obj_description(k.oid, 'pg_constraint'), obj_description(x.indexrelid, 'pg_class')) AS comment,
                    EXISTS (SELECT FROM pg_constraint f WHERE f.contype = 'f' AND f.conindid = x.indexrelid) AS is_referenced
               FROM pg_index x
               JOIN pg_class c ON c.oid = x.indexrelid AND NOT c.relispartition
               LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
               LEFT JOIN LATERAL (SELECT n.oid, n.contype, n.condeferrable, pg_get_constraintdef(n.oid) AS def, pg_get_expr(x.indpred, x.indrelid) AS pred
                                    FROM pg_constraint n WHERE n.conindid = x.indexrelid AND n.contype IN ('u', 'x')) k ON true
              WHERE x.indrelid = target AND NOT x.indisprimary AND x.indisvalid AND (x.indisunique OR k.contype = 'x')
              ORDER BY c.relname
    LOOP
        CONTINUE WHEN softaudit.is_over_live_rows(i.indexrelid, column_name);
        reason := CASE WHEN i.relname = ANY (keep_unique) THEN 'keep_unique names it'
                       WHEN i.is_referenced THEN 'a foreign key needs it'
                       WHEN i.indisreplident THEN 'it is the replica identity'
                       WHEN i.condeferrable THEN 'an index cannot be deferrable' END;
        IF reason IS NOT NULL THEN
            RAISE NOTICE 'soft delete: "%" goes on counting deleted rows: %', i.relname, reason;
            CONTINUE;
        END IF;
        body := softaudit.index_body(i.indexrelid);
        adopted := NULL;
        IF i.contype = 'x' THEN
            EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', target, i.relname);
            EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I %s WHERE (%s)', target, i.relname, i.condef, concat_ws(' AND ', i.pred, live));
        ELSE
            -- one that was built before, without blocking anybody
            SELECT c.relname INTO adopted
              FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid
             WHERE x.indrelid = target AND x.indisunique AND x.indisvalid AND x.indexrelid <> i.indexrelid
               AND softaudit.index_body(x.indexrelid) = body
               AND pg_get_expr(x.indpred, x.indrelid) IN (live, format('(%s AND %s)', i.pred, live)) AND (x.indpred IS NOT NULL)
               AND (i.pred IS NULL) = (pg_get_expr(x.indpred, x.indrelid) = live)
             ORDER BY c.relname LIMIT 1;
            IF i.constraint_oid IS NOT NULL THEN
                EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', target, i.relname);
            ELSE
                EXECUTE format('DROP INDEX %I.%I', nsp, i.relname);
            END IF;
            IF adopted IS NULL THEN
                EXECUTE format('CREATE UNIQUE INDEX %I %s WHERE %s', i.relname, body, concat_ws(' AND ', i.pred, live));
            END IF;
        END IF;
        IF i.comment IS NOT NULL AND adopted IS NULL THEN
            IF i.contype = 'x' THEN
                EXECUTE format('COMMENT ON CONSTRAINT %I ON %s IS %L', i.relname, target, i.comment);
            ELSE
                EXECUTE format('COMMENT ON INDEX %I.%I IS %L', nsp, i.relname, i.comment);
            END IF;
        END IF;
        INSERT INTO softaudit.replaced_constraints (table_id, index_name, name, kind, definition, comment)
        VALUES (own_id, COALESCE(adopted, i.relname), i.relname,
                CASE i.contype WHEN 'u' THEN 'UNIQUE' WHEN 'x' THEN 'EXCLUDE' ELSE 'INDEX' END,
                CASE WHEN i.contype IS NULL THEN body || COALESCE(' WHERE ' || i.pred, '')
                     ELSE i.condef || COALESCE(' WHERE (' || i.pred || ')', '') END, i.comment);
        IF adopted IS NOT NULL THEN
            RAISE NOTICE 'soft delete: "%" was dropped: "%" keeps live rows unique', i.relname, adopted;
        ELSE
            RAISE NOTICE 'soft delete: "%" counts live rows only from now on', i.relname;
        END IF;
        IF i.contype = 'u' THEN
            RAISE NOTICE 'soft delete: ON CONFLICT ON CONSTRAINT % cannot name an index; ON CONFLICT (columns) finds it', quote_ident(i.relname);
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION softaudit.convert_unique(regclass, name, name[]) IS
'has unique constraints, unique indexes and exclusion constraints of a table count live rows only, but for those that cannot';

CREATE FUNCTION softaudit.revert_unique(target regclass) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    r record;
    nsp name := (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = target);
BEGIN
    FOR r IN SELECT c.* FROM softaudit.replaced_constraints c JOIN softaudit.registry t ON t.table_id = c.table_id
              WHERE t.relation = target ORDER BY c.name LOOP
        BEGIN
            IF r.kind = 'EXCLUDE' THEN
                EXECUTE format('ALTER TABLE %s DROP CONSTRAINT IF EXISTS %I', target, r.name);
            ELSIF r.index_name = r.name THEN
                EXECUTE format('DROP INDEX IF EXISTS %I.%I', nsp, r.name);
            END IF;
            IF r.kind = 'INDEX' THEN
                EXECUTE format('CREATE UNIQUE INDEX %I %s', r.name, r.definition);
            ELSE
                EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I %s', target, r.name, r.definition);
            END IF;
        EXCEPTION WHEN unique_violation OR exclusion_violation THEN
            RAISE EXCEPTION '"%" cannot count all rows of table "%" again: %', r.name, target, SQLERRM
                USING ERRCODE = SQLSTATE, HINT = 'Deleted rows hold what live rows hold, too: purge them first.';
        END;
        IF r.comment IS NOT NULL THEN
            IF r.kind = 'INDEX' THEN
                EXECUTE format('COMMENT ON INDEX %I.%I IS %L', nsp, r.name, r.comment);
            ELSE
                EXECUTE format('COMMENT ON CONSTRAINT %I ON %s IS %L', r.name, target, r.comment);
            END IF;
        END IF;
        DELETE FROM softaudit.replaced_constraints c WHERE c.table_id = r.table_id AND c.name = r.name;
        RAISE NOTICE 'soft delete: "%" counts all rows again', r.name;
    END LOOP;
END
$$;
COMMENT ON FUNCTION softaudit.revert_unique(regclass) IS
'turns what convert_unique() replaced back into what it was';
