/* ---- rows that stay although they are due: what a hold keeps, and what a foreign key keeps ---- */

CREATE FUNCTION softaudit.key_literal(value jsonb, type_id oid, is_json boolean) RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
    /* type modifier -1: character and bit without a length would mean a length of one */
    SELECT CASE WHEN is_json THEN format('%L::pg_catalog.jsonb', value)
                WHEN jsonb_typeof(value) IN ('array', 'object')
                THEN format('(SELECT v FROM pg_catalog.jsonb_to_record(%L) r (v %s))', jsonb_build_object('v', value), format_type(type_id, -1))
                ELSE format('%L::%s', value #>> '{}', format_type(type_id, -1)) END
$$;
COMMENT ON FUNCTION softaudit.key_literal(jsonb, oid, boolean) IS
'a column of a key, as its image or text in JSON, as an SQL expression of the column''s type';

CREATE FUNCTION softaudit.equalities(target regclass, side text) RETURNS TABLE (column_name name, condition text, type_id oid, is_json boolean)
LANGUAGE sql STABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT a.attname, format('%s.%I OPERATOR(%I.%s) ', side, a.attname, n.nspname, o.oprname), a.atttypid, c.opcintype = 'jsonb'::regtype
      FROM pg_index i
     CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k (attnum, ord)
      JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
      JOIN pg_opclass c ON c.oid = i.indclass[k.ord - 1]
      JOIN pg_amop m ON m.amopfamily = c.opcfamily AND m.amopstrategy = 3 AND m.amoplefttype = c.opcintype AND m.amoprighttype = c.opcintype
      JOIN pg_operator o ON o.oid = m.amopopr
      JOIN pg_namespace n ON n.oid = o.oprnamespace
     WHERE i.indrelid = target AND i.indisprimary AND k.ord <= i.indnkeyatts
     ORDER BY k.ord
$$;
COMMENT ON FUNCTION softaudit.equalities(regclass, text) IS
'the columns of a primary key, each with the left half of a comparison by the key''s own operator';

CREATE FUNCTION softaudit.key_condition(target regclass, side text, key jsonb) RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(e.condition || COALESCE(softaudit.key_literal(key -> e.column_name::text, e.type_id, e.is_json), 'NULL'), ' AND ') FROM softaudit.equalities(target, side) e
$$;
COMMENT ON FUNCTION softaudit.key_condition(regclass, text, jsonb) IS
'the condition that a row has a key';

CREATE FUNCTION softaudit.kin_of(target regclass, OUT relation regclass, OUT is_above boolean) RETURNS SETOF record
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    WITH RECURSIVE up (relid) AS (
        SELECT target::oid
        UNION
        SELECT i.inhparent FROM up JOIN pg_inherits i ON i.inhrelid = up.relid)
    SELECT up.relid::regclass, true FROM up
    UNION ALL
    SELECT t.relid, false FROM pg_partition_tree(target) t WHERE t.relid <> target;
END
$$;
COMMENT ON FUNCTION softaudit.kin_of(regclass) IS
'the tables that the rows of a relation, less its inheritance children, are rows of: itself, what it inherits from, its partitions';

CREATE FUNCTION softaudit.held_rows(target regclass, side text) RETURNS text
LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known record;
    condition text;
    conditions text[] := '{}';
BEGIN
    IF NOT EXISTS (SELECT FROM softaudit.holds) THEN
        RETURN NULL;
    END IF;
    FOR known IN SELECT r.table_id, r.relation, n.is_above, bool_or(h.row_ref IS NULL) AS whole
                   FROM softaudit.kin_of(target) n JOIN softaudit.registry r ON r.relation = n.relation JOIN softaudit.holds h ON h.table_id = r.table_id
                  GROUP BY r.table_id, n.is_above ORDER BY r.table_id LOOP
        IF known.whole
           -- the primary key is another one now: which rows are meant cannot be told
           OR EXISTS (SELECT FROM softaudit.holds h
                       WHERE h.table_id = known.table_id
                         AND ARRAY(SELECT k FROM jsonb_object_keys(h.row_key) k ORDER BY k COLLATE "C") <>
                             ARRAY(SELECT e.column_name::text FROM softaudit.equalities(known.relation, side) e ORDER BY e.column_name::text COLLATE "C")) THEN
            condition := 'true';
        ELSE
            SELECT format('(%s)', string_agg(format('(%s)', softaudit.key_condition(known.relation, side, h.row_key)), ' OR '))
              INTO condition FROM softaudit.holds h WHERE h.table_id = known.table_id;
        END IF;
        IF NOT known.is_above THEN
            condition := format('(%s.tableoid OPERATOR(pg_catalog.=) ANY (%L::pg_catalog.oid[]) AND %s)', side, softaudit.bound_leaves(known.relation)::oid[], condition);
        ELSIF condition = 'true' THEN
            RETURN condition;
        END IF;
        conditions := conditions || condition;
    END LOOP;
    RETURN '(' || NULLIF(array_to_string(conditions, ' OR '), '') || ')';
END
$$;
COMMENT ON FUNCTION softaudit.held_rows(regclass, text) IS
'a condition on the rows of a table, less its inheritance children, that are under a legal hold, on whichever table it is; "true" for all, NULL for none';

CREATE FUNCTION softaudit.cascades_to(target regclass) RETURNS SETOF regclass
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    WITH RECURSIVE below (relid, is_reached) AS (
        SELECT target::oid, false
        UNION
        SELECT c.conrelid, true
          FROM below b
         -- a foreign key may refer to a partition, or to the table above
         CROSS JOIN LATERAL (SELECT b.relid UNION SELECT t.relid FROM pg_partition_tree(b.relid) t UNION SELECT a.relid FROM unnest(softaudit.ancestors(b.relid)) a (relid)) f
          JOIN pg_constraint c ON c.contype = 'f' AND c.confdeltype = 'c' AND c.confrelid = f.relid)
    SELECT b.relid::regclass FROM below b WHERE b.is_reached;
END
$$;
COMMENT ON FUNCTION softaudit.cascades_to(regclass) IS
'the tables that a deletion of rows of a table may cascade to, at whatever depth';

CREATE FUNCTION softaudit.tables_along(target regclass) RETURNS integer[]
LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT COALESCE(array_agg(r.table_id ORDER BY r.table_id), '{}') FROM softaudit.registry r
     WHERE r.relation IN (SELECT n.relation FROM (SELECT target UNION SELECT softaudit.cascades_to(target)) b (relation) CROSS JOIN LATERAL softaudit.kin_of(b.relation) n));
END
$$;
COMMENT ON FUNCTION softaudit.tables_along(regclass) IS
'ids of the tables whose rows may go when rows of a relation do';

CREATE FUNCTION softaudit.lock_holds(target regclass) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('softaudit.hold', i.id))
      FROM (SELECT DISTINCT t.id FROM (SELECT DISTINCT softaudit.root_of(w.relation) AS relation FROM softaudit.with_children(target) w) w
             CROSS JOIN LATERAL unnest(softaudit.tables_along(w.relation)) t (id) ORDER BY t.id) i;
END
$$;
COMMENT ON FUNCTION softaudit.lock_holds(regclass) IS
'has hold() on a table, or on what cascades from it, wait for the end of the transaction, and waits for one that is under way';

CREATE FUNCTION softaudit.kept_below(target regclass) RETURNS boolean
LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT EXISTS (SELECT FROM softaudit.cascades_to(target) b
                    WHERE softaudit.is_marked(b)
                       OR EXISTS (SELECT FROM softaudit.kin_of(b) n JOIN softaudit.registry r ON r.relation = n.relation JOIN softaudit.holds h ON h.table_id = r.table_id)));
END
$$;
COMMENT ON FUNCTION softaudit.kept_below(regclass) IS
'whether what cascades from rows of a table may reach rows that are soft-deleted by themselves, or held ones';

/* ---- what keeps a row, and what goes along ---- */

CREATE FUNCTION softaudit.keys_to(leaf regclass, actions "char"[])
RETURNS TABLE (child regclass, action "char", own_keys text, not_null text, unnested text[], names text, condition text)
LANGUAGE sql STABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.conrelid::regclass, c.confdeltype,
           string_agg(format('%L, pg_catalog.array_agg(t.%I)::pg_catalog.text', 'k' || k.ord, p.attname), ', ' ORDER BY k.ord),
           string_agg(format('t.%I IS NOT NULL', p.attname), ' AND ' ORDER BY k.ord),
           array_agg('pg_catalog.unnest(%L::' || replace(format_type(COALESCE(NULLIF(y.typbasetype, 0), y.oid), -1), '%', '%%') || '[])' ORDER BY k.ord),
           string_agg('k' || k.ord, ', ' ORDER BY k.ord),
           string_agg(format('u.k%s OPERATOR(%I.%s) k.%I', k.ord, n.nspname, o.oprname, f.attname) || softaudit.collate_by(p.attcollation, f.attcollation), ' AND ' ORDER BY k.ord)
      FROM pg_constraint c
     CROSS JOIN LATERAL unnest(c.confkey, c.conkey, c.conpfeqop) WITH ORDINALITY k (parent_col, child_col, op, ord)
      JOIN pg_attribute p ON p.attrelid = c.confrelid AND p.attnum = k.parent_col
      JOIN pg_type y ON y.oid = p.atttypid
      JOIN pg_attribute f ON f.attrelid = c.conrelid AND f.attnum = k.child_col
      JOIN pg_operator o ON o.oid = k.op
      JOIN pg_namespace n ON n.oid = o.oprnamespace
     WHERE c.contype = 'f' AND c.conparentid = 0 AND c.confdeltype = ANY (actions)
       AND (c.confrelid = leaf OR c.confrelid IN (SELECT a.relid FROM unnest(softaudit.ancestors(leaf)) a (relid)))
     GROUP BY c.oid
$$;
COMMENT ON FUNCTION softaudit.keys_to(regclass, "char"[]) IS
'the foreign keys with these actions that refer to rows of a relation, as parts of the two queries that follow them: one reads the keys of rows t, the other looks for them, unnested as u, in the child k';

CREATE FUNCTION softaudit.referred_keys(leaf regclass, tids tid[], own_keys text, not_null text) RETURNS jsonb
LANGUAGE sql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT softaudit.lifecycle_query(leaf, format(
        'SELECT pg_catalog.jsonb_build_object(%L, pg_catalog.array_agg(t.ctid)::pg_catalog.text, %s) FROM ONLY %s t WHERE t.ctid OPERATOR(pg_catalog.=) ANY (%L::pg_catalog.tid[]) AND %s',
        'tids', own_keys, leaf, tids, not_null))::jsonb
$$;
COMMENT ON FUNCTION softaudit.referred_keys(regclass, tid[], text, text) IS
'the keys of some rows, column by column as arrays k1, k2 ..., with their tids';

CREATE FUNCTION softaudit.unnest_keys(unnested text[], names text, keys jsonb) RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('ROWS FROM (%s) WITH ORDINALITY u (%s, ord)',
                  string_agg(format(t.part, keys ->> ('k' || t.ord)), ', ' ORDER BY t.ord), names)
      FROM unnest(unnested) WITH ORDINALITY t (part, ord)
$$;
COMMENT ON FUNCTION softaudit.unnest_keys(text[], text, jsonb) IS
'what referred_keys() returned, as a FROM item u';

CREATE FUNCTION softaudit.bound_leaves(target regclass) RETURNS regclass[]
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT COALESCE(array_agg(c.oid::regclass ORDER BY c.oid), '{}')
      FROM (SELECT target::oid UNION SELECT t.relid FROM pg_partition_tree(target) t) t (relid) JOIN pg_class c ON c.oid = t.relid AND c.relkind = 'r'
$$;
COMMENT ON FUNCTION softaudit.bound_leaves(regclass) IS
'the relations that hold the rows that foreign keys of a table bind: itself or its partitions, no inheritance children';

CREATE FUNCTION softaudit.keeper_below(leaf regclass, tids tid[], going tid[], due jsonb) RETURNS text
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    seen jsonb := jsonb_build_object(leaf::oid::text, going::text);     -- relation -> tids
    newly jsonb := jsonb_build_object(leaf::oid::text, tids::text);
    next_level jsonb;
    source text;
    found text;
    fk record;
    keys jsonb;
    part regclass;
    held text;
    fresh tid[];
BEGIN
    WHILE newly <> '{}' LOOP
        next_level := '{}';
        FOR source, found IN SELECT * FROM jsonb_each_text(newly) LOOP
            FOR fk IN SELECT * FROM softaudit.keys_to(source::oid, '{c}') LOOP
                keys := softaudit.referred_keys(source::oid, found::tid[], fk.own_keys, fk.not_null);
                CONTINUE WHEN keys ->> 'tids' IS NULL;
                FOREACH part IN ARRAY softaudit.bound_leaves(fk.child) LOOP
                    held := softaudit.held_rows(part, 'k');
                    fresh := softaudit.lifecycle_query(part, format('SELECT pg_catalog.array_agg(k.ctid)::pg_catalog.text FROM ONLY %s k WHERE EXISTS (SELECT FROM %s WHERE %s)%s',
                                                                    part, softaudit.unnest_keys(fk.unnested, fk.names, keys), fk.condition,
                                                                    CASE WHEN due ? fk.child::oid::text
                                                                         THEN format(' AND NOT ((%s) IS TRUE%s)', due ->> fk.child::oid::text, ' AND NOT ' || held) END));
                    fresh := ARRAY(SELECT f FROM unnest(fresh) f EXCEPT SELECT s FROM unnest((seen ->> part::oid::text)::tid[]) s);
                    CONTINUE WHEN fresh = '{}';
                    IF softaudit.is_marked(part) OR softaudit.lifecycle_query(part, format('SELECT EXISTS (SELECT FROM ONLY %s k WHERE k.ctid OPERATOR(pg_catalog.=) ANY (%L::pg_catalog.tid[]) AND %s)',
                                                                                     part, fresh, COALESCE(held, 'false')))::boolean THEN
                        RETURN fk.child::text;
                    END IF;
                    seen := seen || jsonb_build_object(part::oid::text, (COALESCE((seen ->> part::oid::text)::tid[], '{}') || fresh)::text);
                    next_level := next_level || jsonb_build_object(part::oid::text, (COALESCE((next_level ->> part::oid::text)::tid[], '{}') || fresh)::text);
                END LOOP;
            END LOOP;
        END LOOP;
        newly := next_level;
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION softaudit.keeper_below(regclass, tid[], tid[], jsonb) IS
'a table that keeps one of some rows at least: a row of it that is held, or that its own settings let go, would go along; going has the rows that go anyhow; NULL if there is none';

CREATE FUNCTION softaudit.kept_rows(leaf regclass, tids tid[], going tid[], due jsonb) RETURNS TABLE (one tid, keeper text)
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n integer := cardinality(tids);
BEGIN
    IF n > 0 THEN
        keeper := softaudit.keeper_below(leaf, tids, going, due);
    END IF;
    -- mostly none is kept; those that are, are found by halves
    IF keeper IS NOT NULL AND n = 1 THEN
        one := tids[1];
        RETURN NEXT;
    ELSIF keeper IS NOT NULL THEN
        RETURN QUERY SELECT * FROM softaudit.kept_rows(leaf, tids[:n / 2], going, due);
        RETURN QUERY SELECT * FROM softaudit.kept_rows(leaf, tids[n / 2 + 1:], going, due);
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.kept_rows(regclass, tid[], tid[], jsonb) IS
'those of some rows that keeper_below() names a table for';

CREATE FUNCTION softaudit.blocked_rows(leaf regclass, tids tid[], due jsonb, OUT blocked tid[], OUT by_table jsonb)
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    fk record;
    found jsonb;
    hits bigint[];
    who text;
    which tid[];
    is_marked boolean;
    held text;
    below boolean := false;
    kept record;
BEGIN
    blocked := '{}';
    by_table := '{}';
    FOR fk IN SELECT * FROM softaudit.keys_to(leaf, '{a,r,c}') LOOP
        is_marked := softaudit.is_marked(fk.child);
        held := softaudit.held_rows(fk.child, 'k');
        below := below OR (fk.action = 'c' AND NOT is_marked AND softaudit.kept_below(fk.child));
        -- what cascades goes along, unless its own settings say when it goes or a hold keeps it
        CONTINUE WHEN fk.action = 'c' AND NOT is_marked AND held IS NULL;
        found := softaudit.referred_keys(leaf, tids, fk.own_keys, fk.not_null);
        CONTINUE WHEN found ->> 'tids' IS NULL;
        hits := softaudit.lifecycle_query(fk.child, format(
            'SELECT pg_catalog.array_agg(u.ord)::pg_catalog.text FROM %s WHERE EXISTS (SELECT FROM %s%s k WHERE %s%s)',
            softaudit.unnest_keys(fk.unnested, fk.names, found),
            CASE (SELECT c.relkind FROM pg_class c WHERE c.oid = fk.child) WHEN 'r' THEN 'ONLY ' ELSE '' END, fk.child, fk.condition,
            CASE WHEN due ? fk.child::oid::text
                 -- a run that only tells: what is due itself would have gone before
                 THEN format(' AND NOT ((%s) IS TRUE%s)', due ->> fk.child::oid::text, ' AND NOT ' || held)
                 -- rows of one table that refer to each other, or to themselves, go together
                 WHEN fk.child IN (SELECT leaf UNION SELECT a.relid FROM unnest(softaudit.ancestors(leaf)) a (relid))
                 THEN format(' AND NOT (k.tableoid OPERATOR(pg_catalog.=) %s AND k.ctid OPERATOR(pg_catalog.=) ANY (%L::pg_catalog.tid[]))', leaf::oid, tids) ELSE '' END ||
            CASE WHEN fk.action = 'c' AND NOT is_marked THEN ' AND ' || held ELSE '' END));
        IF hits IS NOT NULL THEN
            which := ARRAY(SELECT ((found ->> 'tids')::tid[])[h] FROM unnest(hits) h);
            blocked := blocked || which;
            who := fk.child::text;
            by_table := by_table || jsonb_build_object(who, COALESCE((by_table ->> who)::bigint, 0) + cardinality(which));
        END IF;
    END LOOP;
    blocked := ARRAY(SELECT DISTINCT b FROM unnest(blocked) b);
    IF below THEN
        -- behind tables that say nothing
        FOR kept IN SELECT * FROM softaudit.kept_rows(leaf, ARRAY(SELECT t FROM unnest(tids) t EXCEPT SELECT b FROM unnest(blocked) b), tids, due) LOOP
            blocked := blocked || kept.one;
            by_table := by_table || jsonb_build_object(kept.keeper, COALESCE((by_table ->> kept.keeper)::bigint, 0) + 1);
        END LOOP;
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.blocked_rows(regclass, tid[], jsonb) IS
'which of some rows cannot go together because others refer to them, and how many each table keeps; due has, by table, the condition on rows that would have gone before';

/* ---- runs ---- */

CREATE FUNCTION softaudit.refuse_held(table_id integer, target regclass) RETURNS void
LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    held record;
BEGIN
    SELECT h.*, r.relation INTO held FROM softaudit.holds h JOIN softaudit.registry r ON r.table_id = h.table_id
     WHERE h.row_ref IS NULL AND (h.table_id = refuse_held.table_id OR r.relation IN (SELECT n.relation FROM softaudit.kin_of(target) n WHERE n.is_above))
     ORDER BY h.table_id <> refuse_held.table_id LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'table "%" is under a legal hold', COALESCE(held.relation, target)
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = format('Held since %s: %s', held.held_at, held.reason),
                  HINT = 'softaudit.release() ends the hold.';
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.refuse_held(integer, regclass) IS
'raises object_not_in_prerequisite_state for a table that is held as a whole, by itself or with one that it inherits from';
