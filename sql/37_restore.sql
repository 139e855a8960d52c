/* ---- restore: what went with one deletion comes back, parents before children, or what stands against it is told ---- */

CREATE FUNCTION softaudit.restore_conflicts(target regclass, condition text, OUT conflicts text[], OUT twins boolean)
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
-- a stamp of one type is compared with one of the other
SET TimeZone = 'UTC' AS $$
DECLARE
    roots oid[] := '{}';
    leaves oid[] := '{}';
    sets text[] := '{}';
    seen text[] := '{}';
    done integer := 0;
    its_owner oid := (SELECT c.relowner FROM pg_class c WHERE c.oid = target);
    col name;
    r record;
    f record;
    line text;
    ours text;
BEGIN
    conflicts := '{}';
    twins := false;
    FOR r IN EXECUTE format('SELECT t.tableoid AS leaf, array_agg(t.ctid) AS tids FROM %s t WHERE %s AND %I IS NOT NULL GROUP BY 1',
                            target, condition, softaudit.marker_column(target)) LOOP
        roots := roots || target::oid;
        leaves := leaves || r.leaf;
        sets := sets || r.tids::text;
        seen := seen || ARRAY(SELECT concat(r.leaf, t) FROM unnest(r.tids) t);
    END LOOP;
    /*
     * What the deletion took along.  Only tables of one owner, which the caller may read, are
     * looked at: what compares their columns may be their owner's function, and the caller's
     * UPDATE has run those of this owner already.
     */
    WHILE done < cardinality(roots) LOOP
        done := done + 1;
        col := softaudit.marker_column(roots[done]);
        FOR f IN SELECT c.conrelid, softaudit.marker_column(c.conrelid) AS col,
                        softaudit.key_join(c) AS joins
                   FROM pg_constraint c
                  WHERE c.contype = 'f' AND c.confrelid = roots[done] AND c.conparentid = 0 AND c.confdeltype = 'c'
                    AND softaudit.marker_column(c.conrelid) IS NOT NULL AND softaudit.may_look(c.conrelid, its_owner) LOOP
            FOR r IN EXECUTE format('SELECT c.tableoid AS leaf, array_agg(c.ctid) AS tids FROM %s c
                                       JOIN (SELECT * FROM ONLY %s WHERE ctid = ANY (%L::tid[]) AND %I IS NOT NULL) p ON %s
                                      WHERE c.%I AT TIME ZONE ''UTC'' = p.%I AT TIME ZONE ''UTC''
                                        AND concat(c.tableoid, c.ctid) <> ALL (%L) GROUP BY 1',
                                    f.conrelid::regclass, leaves[done]::regclass, sets[done], col, f.joins, f.col, col, seen) LOOP
                roots := roots || f.conrelid;
                leaves := leaves || r.leaf;
                sets := sets || r.tids::text;
                seen := seen || ARRAY(SELECT concat(r.leaf, t) FROM unnest(r.tids) t);
            END LOOP;
        END LOOP;
    END LOOP;

    FOR i IN 1 .. cardinality(roots) LOOP
        col := softaudit.marker_column(roots[i]);
        ours := (SELECT string_agg(CASE WHEN a.attname = col THEN format('NULL::%s AS %I', a.atttypid::regtype, a.attname) ELSE quote_ident(a.attname) END, ', ')
                   FROM pg_attribute a WHERE a.attrelid = roots[i] AND a.attnum > 0 AND NOT a.attisdropped);
        FOR f IN SELECT x.indexrelid::regclass AS index, c.relname, x.indrelid,
                        COALESCE(pg_get_expr(x.indpred, x.indrelid), 'true') AS predicate,
                        string_agg(format('%s AS k%s', pg_get_indexdef(x.indexrelid, k, false), k), ', ') AS items,
                        string_agg(format('(l.k%1$s%4$s OPERATOR(%2$I.%3$s) d.k%1$s%4$s)', k, n.nspname, o.oprname,
                                          softaudit.collate_by(x.indcollation[k - 1], 0)), ' AND ') AS joins
                   FROM pg_index x
                   JOIN pg_class c ON c.oid = x.indexrelid
                   LEFT JOIN pg_constraint e ON e.conindid = x.indexrelid AND e.contype = 'x' AND e.conrelid = x.indrelid
                  CROSS JOIN LATERAL generate_series(1, x.indnkeyatts) k
                   JOIN pg_opclass oc ON oc.oid = x.indclass[k - 1]
                   LEFT JOIN pg_amop m ON m.amopfamily = oc.opcfamily AND m.amopstrategy = 3 AND m.amoplefttype = oc.opcintype AND m.amoprighttype = oc.opcintype
                   JOIN pg_operator o ON o.oid = COALESCE(e.conexclop[k], m.amopopr) JOIN pg_namespace n ON n.oid = o.oprnamespace
                  WHERE x.indrelid IN (roots[i], leaves[i]) AND (x.indisunique OR x.indisexclusion) AND x.indisvalid
                    AND (x.indpred IS NOT NULL OR x.indexprs IS NOT NULL)
                    AND NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = x.indexrelid)
                  GROUP BY x.indexrelid, c.relname, x.indrelid, x.indpred ORDER BY c.relname LOOP
            FOR line IN EXECUTE format('SELECT format(''row %%s of table %%s: live row %%s has its place in "%%s"'', d.me, %L, l.me, %L)
                                          FROM (SELECT %s, %s AS me FROM (SELECT %s FROM ONLY %s WHERE ctid = ANY (%L::tid[]) AND %I IS NOT NULL) x WHERE %s) d
                                          JOIN (SELECT %s, %s AS me FROM %s WHERE %I IS NULL AND %s) l ON %s ORDER BY 1 LIMIT 1000',
                                       roots[i]::regclass, f.relname, f.items, softaudit.key_text(roots[i]), ours, leaves[i]::regclass, sets[i], col, f.predicate,
                                       f.items, softaudit.key_text(roots[i]), f.indrelid::regclass, col, f.predicate, f.joins) LOOP
                conflicts := conflicts || line;
                twins := true;
            END LOOP;
        END LOOP;
        FOR f IN SELECT c.conname, c.confrelid, softaudit.marker_column(c.confrelid) AS col,
                        softaudit.key_join(c) AS joins
                   FROM pg_constraint c
                  WHERE c.contype = 'f' AND c.conrelid = roots[i] AND c.conparentid = 0
                    AND softaudit.marker_column(c.confrelid) IS NOT NULL AND softaudit.may_look(c.confrelid, its_owner) LOOP
            FOR line IN EXECUTE format('SELECT format(''row %%s of table %%s: its parent, row %%s of table %%s, is deleted ("%%s")'', c.me, %L, p.me, %L, %L)
                                          FROM (SELECT *, %s AS me FROM ONLY %s WHERE ctid = ANY (%L::tid[]) AND %I IS NOT NULL) c
                                          JOIN (SELECT *, tableoid AS t1, ctid AS t2, %s AS me FROM %s WHERE %I IS NOT NULL) p ON %s
                                         WHERE concat(p.t1, p.t2) <> ALL (%L) ORDER BY 1 LIMIT 1000',
                                       roots[i]::regclass, f.confrelid::regclass, f.conname, softaudit.key_text(roots[i]), leaves[i]::regclass, sets[i], col,
                                       softaudit.key_text(f.confrelid), f.confrelid::regclass, f.col, f.joins, seen) LOOP
                conflicts := conflicts || line;
            END LOOP;
        END LOOP;
    END LOOP;
END
$$;
COMMENT ON FUNCTION softaudit.restore_conflicts(regclass, text) IS
'what stands in the way of restoring rows and what their deletion took along, a line each, and whether live rows do';

CREATE FUNCTION softaudit.restore(target regclass, key text) RETURNS bigint
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS $$
DECLARE
    col name := softaudit.marker_column(target);
    parts text[];
    names name[];
    types oid[];
    are_json boolean[];
    given jsonb;
    condition text;
    n bigint;
    before bigint := softaudit.followed();
    is_live boolean;
    more text;
    rule text;
    its_schema text;
    its_table text;
    state text;
    message text;
    advice text;
    in_the_way text[];
    has_twins boolean;
BEGIN
    IF target IS NULL OR key IS NULL THEN
        RAISE EXCEPTION 'neither the table nor the key must be NULL'
            USING ERRCODE = 'null_value_not_allowed', HINT = 'Write softaudit.restore(''users'', 42).';
    END IF;
    IF col IS NULL THEN
        RAISE EXCEPTION 'table "%" is not soft-deleted', target
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Call softaudit.enable() for it; for a partition, name the partitioned table.';
    END IF;
    /* type modifier -1: character and bit without a length would mean a length of one */
    SELECT pg_catalog.array_agg(a.attname ORDER BY k.ord),
           pg_catalog.array_agg(pg_catalog.format('%I OPERATOR(%I.%s) ', a.attname, n.nspname, o.oprname) ORDER BY k.ord),
           pg_catalog.array_agg(a.atttypid ORDER BY k.ord), pg_catalog.array_agg(c.opcintype OPERATOR(pg_catalog.=) 'pg_catalog.jsonb'::pg_catalog.regtype::pg_catalog.oid ORDER BY k.ord)
      INTO names, parts, types, are_json
      FROM pg_catalog.pg_index i
     CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::pg_catalog.int2[]) WITH ORDINALITY k (attnum, ord)
      JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) i.indrelid AND a.attnum OPERATOR(pg_catalog.=) k.attnum
      JOIN pg_catalog.pg_opclass c ON c.oid OPERATOR(pg_catalog.=) i.indclass[k.ord OPERATOR(pg_catalog.-) 1]
      JOIN pg_catalog.pg_amop m ON m.amopfamily OPERATOR(pg_catalog.=) c.opcfamily AND m.amopstrategy OPERATOR(pg_catalog.=) 3
                               AND m.amoplefttype OPERATOR(pg_catalog.=) c.opcintype AND m.amoprighttype OPERATOR(pg_catalog.=) c.opcintype
      JOIN pg_catalog.pg_operator o ON o.oid OPERATOR(pg_catalog.=) m.amopopr
      JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) o.oprnamespace
     WHERE i.indrelid OPERATOR(pg_catalog.=) target::pg_catalog.oid AND i.indisprimary AND k.ord OPERATOR(pg_catalog.<=) i.indnkeyatts;
    IF names IS NULL THEN
        RAISE EXCEPTION 'table "%" has no primary key', target
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = pg_catalog.format('UPDATE %s SET %I = NULL WHERE ... restores its rows.', target, col);
    END IF;
    IF pg_catalog.cardinality(names) OPERATOR(pg_catalog.=) 1 THEN
        condition := parts[1] OPERATOR(pg_catalog.||) pg_catalog.format('%L::%s', key, pg_catalog.format_type(types[1], -1));
    ELSE
        BEGIN
            given := key::pg_catalog.jsonb;
        EXCEPTION WHEN OTHERS THEN
            given := NULL;
        END;
        IF given IS NULL OR pg_catalog.jsonb_typeof(given) OPERATOR(pg_catalog.<>) 'object' OR
           ARRAY(SELECT k FROM pg_catalog.jsonb_object_keys(given) k ORDER BY k COLLATE "C") OPERATOR(pg_catalog.<>)
           ARRAY(SELECT u::pg_catalog.text FROM pg_catalog.unnest(names) u ORDER BY u::pg_catalog.text COLLATE "C") THEN
            RAISE EXCEPTION 'the key of table "%" is made of several columns', target
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'Give a JSON object that names each of them: ' OPERATOR(pg_catalog.||) pg_catalog.array_to_string(names, ', ') OPERATOR(pg_catalog.||) '.';
        END IF;
        FOR i IN 1 .. pg_catalog.cardinality(names) LOOP
            condition := pg_catalog.concat_ws(' AND ', condition, parts[i] OPERATOR(pg_catalog.||)
                COALESCE(softaudit.key_literal(given OPERATOR(pg_catalog.->) names[i]::pg_catalog.text, types[i], are_json[i]), 'NULL'));
        END LOOP;
    END IF;

    BEGIN
        EXECUTE pg_catalog.format('UPDATE %s SET %I = NULL WHERE %s AND %I IS NOT NULL', target, col, condition, col);
        GET DIAGNOSTICS n = ROW_COUNT;
    EXCEPTION WHEN unique_violation OR exclusion_violation OR foreign_key_violation THEN
        GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, more = PG_EXCEPTION_DETAIL, advice = PG_EXCEPTION_HINT,
                                rule = CONSTRAINT_NAME, its_schema = SCHEMA_NAME, its_table = TABLE_NAME;
        -- the row is as it was: look for what else there is, or be content with the first
        BEGIN
            IF softaudit.may_look(target, (SELECT c.relowner FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) target::pg_catalog.oid)) THEN
                SELECT r.conflicts, r.twins INTO in_the_way, has_twins FROM softaudit.restore_conflicts(target, condition) r;
            END IF;
        EXCEPTION WHEN OTHERS THEN
            in_the_way := NULL;
        END;
        IF pg_catalog.cardinality(in_the_way) OPERATOR(pg_catalog.>) 1 THEN
            n := pg_catalog.cardinality(in_the_way);
            more := pg_catalog.array_to_string(in_the_way[1:20], E'\n') OPERATOR(pg_catalog.||)
                    CASE WHEN n OPERATOR(pg_catalog.>) 20 THEN pg_catalog.format(E'\nand %s more', n OPERATOR(pg_catalog.-) 20) ELSE '' END;
            RAISE EXCEPTION 'cannot restore the row of table "%": % conflicts', target, n
                USING ERRCODE = CASE WHEN NOT has_twins THEN '23503' WHEN state OPERATOR(pg_catalog.=) '23503' THEN '23505' ELSE state END,
                      DETAIL = more, SCHEMA = its_schema, TABLE = its_table, CONSTRAINT = rule,
                      HINT = 'Change or delete the live rows, and restore the parents, first.';
        END IF;
        -- or it came from what a trigger did elsewhere
        IF state OPERATOR(pg_catalog.=) '23503' OR
           softaudit.marker_column_above(pg_catalog.to_regclass(pg_catalog.format('%I.%I', its_schema, its_table))) IS NULL THEN
            RAISE EXCEPTION '%', message
                USING ERRCODE = state, DETAIL = more, SCHEMA = its_schema, TABLE = its_table, CONSTRAINT = rule, HINT = advice;
        END IF;
        RAISE EXCEPTION 'cannot restore the row of table "%": a live row has taken its place in "%"', target, rule
            USING ERRCODE = state, DETAIL = more, SCHEMA = its_schema, TABLE = its_table, CONSTRAINT = rule,
                  HINT = 'Change or delete the live row first.';
    END;
    IF n OPERATOR(pg_catalog.=) 0 THEN
        EXECUTE pg_catalog.format('SELECT pg_catalog.bool_or(%1$I IS NULL) FROM %2$s WHERE %3$s AND (%1$I IS NULL OR %1$I IS NOT NULL)', col, target, condition) INTO is_live;
        IF is_live IS NOT DISTINCT FROM false THEN
            RAISE EXCEPTION 'the row of table "%" with key % was not restored: a trigger or a rule let the UPDATE pass over it', target, key
                USING ERRCODE = 'triggered_action_exception',
                      HINT = 'Look at the BEFORE UPDATE triggers and the rules of the table.';
        ELSIF is_live IS NULL THEN
            RAISE EXCEPTION 'table "%" has no deleted row with key %', target, key
                USING ERRCODE = 'no_data_found',
                      HINT = 'It may have been purged; softaudit.history() tells.';
        END IF;
        RETURN 0;
    END IF;
    RETURN n OPERATOR(pg_catalog.+) softaudit.followed() OPERATOR(pg_catalog.-) before;
END
$$;
COMMENT ON FUNCTION softaudit.restore(regclass, text) IS
'brings a soft-deleted row back, and what its deletion took along; returns how many rows; for who may UPDATE the table';

CREATE FUNCTION softaudit.restore(target regclass, key anyelement) RETURNS bigint
LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS $$ SELECT softaudit.restore(target, softaudit.key_as_text(key)) $$;
COMMENT ON FUNCTION softaudit.restore(regclass, anyelement) IS
'restore() by a key of the column''s own type, or a jsonb object for a composite key';
