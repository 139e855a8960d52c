/*
 * ---- purge and expiry: rows that are due go for good, batch by batch ----
 *
 * A run is a row of softaudit.runs.  purge_begin() makes one for each table, children
 * before parents; each purge_step() is a transaction: it takes the next rows that the run
 * has found and deletes them as the table's owner, or looks for more.
 */

CREATE FUNCTION softaudit.before(type_id oid, cutoff timestamptz) RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO' AS $$
    SELECT CASE type_id WHEN 'timestamptz'::regtype THEN format('OPERATOR(pg_catalog.<) %L::pg_catalog.timestamptz', cutoff)
                        WHEN 'timestamp'::regtype THEN format('OPERATOR(pg_catalog.<) %L::pg_catalog.timestamp', cutoff::timestamp)
                        WHEN 'date'::regtype THEN format('OPERATOR(pg_catalog.<) %L::pg_catalog.date', cutoff::date) END
$$;
COMMENT ON FUNCTION softaudit.before(oid, timestamptz) IS
'the right half of a condition that a column of a date or time type lies before a moment, timestamp and date in UTC; NULL for other types';

CREATE FUNCTION softaudit.check_age(setting text, age interval) RETURNS void
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET IntervalStyle = 'postgres' AS $$
DECLARE
    is_good boolean;
BEGIN
    -- months and days count as many seconds as they do today
    BEGIN
        is_good := now() - age <= now() AND isfinite(now() - age);
    EXCEPTION WHEN datetime_field_overflow OR interval_field_overflow THEN
        is_good := false;
    END;
    IF NOT is_good THEN
        RAISE EXCEPTION '% cannot be "%"', setting, age
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give an interval that leads back from now to a time that PostgreSQL has, for example ''30 days''.';
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.check_age(text, interval) IS
'raises invalid_parameter_value for an interval that leads from now to the future, or to where there are no timestamps';

CREATE FUNCTION softaudit.due_column(table_id integer, kind text, OUT column_name name, OUT column_type oid)
LANGUAGE sql STABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT a.attname, a.atttypid
      FROM softaudit.registry r
      JOIN pg_attribute a ON a.attrelid = r.relation AND a.attnum > 0 AND NOT a.attisdropped
                         AND a.attname = CASE kind WHEN 'EXPIRE' THEN r.expire_column ELSE softaudit.marker_column(r.relation) END
     WHERE r.table_id = due_column.table_id
$$;
COMMENT ON FUNCTION softaudit.due_column(integer, text) IS
'the column that says when a row of a table is due for PURGE or EXPIRE; NULL if there is none';

CREATE FUNCTION softaudit.due_leaves(target regclass) RETURNS regclass[]
LANGUAGE sql STABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT COALESCE(array_agg(w.relation ORDER BY w.relation::oid), '{}')
      FROM softaudit.with_children(target) w JOIN pg_class c ON c.oid = w.relation AND c.relkind = 'r'
$$;
COMMENT ON FUNCTION softaudit.due_leaves(regclass) IS
'the relations that hold the rows of a table, its partitions and inheritance children';

CREATE FUNCTION softaudit.purge_index(target regclass, column_name name) RETURNS regclass
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT i.indexrelid::regclass
      FROM pg_index i
      JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
      JOIN pg_class c ON c.oid = i.indexrelid
      JOIN pg_am m ON m.oid = c.relam AND m.amname = 'btree'
     WHERE i.indrelid = target AND a.attname = column_name AND i.indisvalid
       AND (i.indpred IS NULL OR pg_get_expr(i.indpred, i.indrelid) = format('(%I IS NOT NULL)', column_name))
     ORDER BY i.indpred IS NULL, i.indnatts LIMIT 1
$$;
COMMENT ON FUNCTION softaudit.purge_index(regclass, name) IS
'an index that finds the rows that are due for a purge; NULL if there is none';

CREATE FUNCTION softaudit.purge_index_mark() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN 'for softaudit.purge(); softaudit.disable() drops it';
COMMENT ON FUNCTION softaudit.purge_index_mark() IS
'the comment of an index that enable() made for the purge';

CREATE FUNCTION softaudit.ensure_purge_index(target regclass, column_name name) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    index_name name := left((SELECT c.relname FROM pg_class c WHERE c.oid = target), 48) || '_purge_idx';
    n integer := 0;
BEGIN
    IF softaudit.purge_index(target, column_name) IS NOT NULL THEN
        RETURN;
    END IF;
    WHILE EXISTS (SELECT FROM pg_class c JOIN pg_class t ON t.oid = target AND c.relnamespace = t.relnamespace WHERE c.relname = index_name) LOOP
        n := n + 1;
        index_name := left((SELECT c.relname FROM pg_class c WHERE c.oid = target), 48) || '_purge_idx' || n;
    END LOOP;
    -- deduplicated as it is, one deletion of many rows has one stamp
    EXECUTE format('CREATE INDEX %I ON %s (%I) WHERE %I IS NOT NULL', index_name, target, column_name, column_name);
    EXECUTE format('COMMENT ON INDEX %I.%I IS %L',
                   (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = target), index_name, softaudit.purge_index_mark());
    RAISE NOTICE 'soft delete: index "%" added to table "%" for the purge', index_name, target;
END
$$;
COMMENT ON FUNCTION softaudit.ensure_purge_index(regclass, name) IS
'makes the index that the purge finds its rows by, unless there is one';

CREATE FUNCTION softaudit.drop_purge_index(target regclass) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    made regclass;
BEGIN
    FOR made IN SELECT i.indexrelid FROM pg_index i
                 WHERE i.indrelid = target AND obj_description(i.indexrelid, 'pg_class') = softaudit.purge_index_mark() LOOP
        RAISE NOTICE 'soft delete: index "%" of table "%" dropped', made, target;
        EXECUTE format('DROP INDEX %s', made);
    END LOOP;
END
$$;
COMMENT ON FUNCTION softaudit.drop_purge_index(regclass) IS
'drops the index that enable() made for the purge';

/* ---- holds ---- */

/* Runs for any caller of restore(), under his search_path. */
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

CREATE FUNCTION softaudit.children_first(table_ids integer[]) RETURNS integer[]
LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    done integer[] := '{}';
    ready integer[];
BEGIN
    LOOP
        -- those that nothing left refers to; in a cycle, the first of what is left
        ready := ARRAY(SELECT r.table_id FROM softaudit.registry r
                        WHERE r.table_id = ANY (table_ids) AND r.table_id <> ALL (done)
                          AND NOT EXISTS (SELECT FROM pg_constraint c JOIN softaudit.registry o ON o.relation = c.conrelid
                                           WHERE c.contype = 'f' AND c.confrelid = r.relation AND c.conrelid <> c.confrelid
                                             AND o.table_id = ANY (table_ids) AND o.table_id <> ALL (done))
                        ORDER BY r.table_id);
        IF ready = '{}' THEN
            ready := ARRAY(SELECT t FROM unnest(table_ids) t WHERE t <> ALL (done) ORDER BY t LIMIT 1);
        END IF;
        EXIT WHEN ready = '{}';
        done := done || ready;
    END LOOP;
    RETURN done;
END
$$;
COMMENT ON FUNCTION softaudit.children_first(integer[]) IS
'tables in the order in which their rows can go: those that refer to others first';

CREATE FUNCTION softaudit.reap_runs() RETURNS void
LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT softaudit.finish_run(u.run_id, 'it was stopped')
      FROM softaudit.runs u
     WHERE u.finished_at IS NULL AND u.kind <> 'MAINTAIN'
       AND (u.pid = pg_backend_pid() OR NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = u.pid AND a.backend_start <= u.started_at))
$$;
COMMENT ON FUNCTION softaudit.reap_runs() IS
'ends the runs that an error, a cancel or a crash stopped';

CREATE FUNCTION softaudit.start_run(kind text, table_id integer, log_group integer, cutoff timestamptz, batch integer) RETURNS bigint
LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO softaudit.runs (run_id, kind, table_id, log_group, started_at, updated_at, pid, run_by, cutoff, batch_size)
    VALUES (nextval('softaudit.run_id_seq'), kind, table_id, log_group, clock_timestamp(), clock_timestamp(), pg_backend_pid(),
            softaudit.caller()::regrole::text, cutoff, batch)
    RETURNING run_id
$$;
COMMENT ON FUNCTION softaudit.start_run(text, integer, integer, timestamptz, integer) IS
'a new row of softaudit.runs; its id';

CREATE FUNCTION softaudit.finish_run(run bigint, problem text) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    r softaudit.runs%ROWTYPE;
    known record;
BEGIN
    UPDATE softaudit.runs u SET finished_at = clock_timestamp(), updated_at = clock_timestamp(), message = problem
     WHERE u.run_id = run RETURNING * INTO r;
    IF r.table_id IS NULL THEN
        RETURN;
    END IF;
    SELECT * INTO known FROM softaudit.registry g WHERE g.table_id = r.table_id;
    IF r.rows_done > 0 THEN
        PERFORM softaudit.record_event('PURGE', known.schema_name, known.table_name, CASE r.kind WHEN 'EXPIRE' THEN 'expired' END,
            jsonb_strip_nulls(jsonb_build_object('rows', r.rows_done, 'blocked', NULLIF(r.rows_blocked, 0), 'blocked_by', r.blocked_by,
                                                 'older_than', r.cutoff, 'batches', r.batches, 'failed', problem)));
    END IF;
    IF r.rows_done > 0 OR r.rows_blocked > 0 THEN
        RAISE NOTICE '%: table "%": % rows deleted%', CASE r.kind WHEN 'EXPIRE' THEN 'expiry' ELSE 'purge' END, known.relation, r.rows_done,
            concat(CASE WHEN r.rows_blocked > 0 THEN format(', %s kept, to which rows of %s refer', r.rows_blocked,
                            (SELECT string_agg(k, ', ' ORDER BY k) FROM jsonb_object_keys(r.blocked_by) k)) END,
                   CASE WHEN r.rows_skipped > 0 THEN format(', %s passed over', r.rows_skipped) END);
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.finish_run(bigint, text) IS
'ends a run: its event and what it says';

CREATE FUNCTION softaudit.purge_begin(target regclass, older_than interval, batch integer, dry_run boolean) RETURNS bigint[]
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_lifecycle_call';
COMMENT ON FUNCTION softaudit.purge_begin(regclass, interval, integer, boolean) IS
'the runs of a purge, children first; for who owns the tables';

CREATE FUNCTION softaudit.purge_begin_apply(target regclass, older_than interval, batch integer, dry_run boolean) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp SET IntervalStyle = 'postgres' SET TimeZone = 'UTC' SET DateStyle = 'ISO' AS $$
DECLARE
    known record;
    ids integer[] := '{}';
    id integer;
    held text;
BEGIN
    IF batch IS NULL OR batch NOT BETWEEN 1 AND 100000 THEN
        RAISE EXCEPTION 'batch cannot be %', COALESCE(batch::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give how many rows one transaction deletes, from 1 to 100000.';
    END IF;
    IF older_than < interval '0' THEN
        RAISE EXCEPTION 'older_than cannot be "%"', older_than
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give how long ago the rows were deleted at least, for example ''30 days''.';
    END IF;
    PERFORM softaudit.check_age('older_than', older_than);
    IF dry_run IS NULL THEN
        RAISE EXCEPTION 'dry_run must not be NULL' USING ERRCODE = 'null_value_not_allowed', HINT = 'Give true or false.';
    END IF;
    IF to_regclass('softaudit.registry') IS NOT NULL THEN
        PERFORM softaudit.ensure_log();
        PERFORM softaudit.reap_runs();
    ELSIF target IS NULL THEN
        RETURN '{}';
    ELSE
        PERFORM softaudit.ensure_log();
    END IF;
    IF target IS NOT NULL THEN
        IF NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = target) THEN
            RAISE EXCEPTION 'relation with OID % does not exist', target::oid USING ERRCODE = 'undefined_table', HINT = 'It may have been dropped.';
        ELSIF NOT pg_has_role(softaudit.caller(), (SELECT c.relowner FROM pg_class c WHERE c.oid = target), 'USAGE') THEN
            RAISE EXCEPTION 'must be owner of table %', target
                USING ERRCODE = 'insufficient_privilege', HINT = 'The table''s owner purges it; softaudit.maintain() does for all tables.';
        END IF;
        SELECT * INTO known FROM softaudit.registry r WHERE r.relation = target;
        IF NOT FOUND OR softaudit.marker_column(target) IS NULL THEN
            RAISE EXCEPTION 'table "%" is not soft-deleted', target
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      HINT = 'softaudit.enable() has its rows soft-deleted; for a partition, name the partitioned table.';
        ELSIF older_than IS NULL AND known.purge_after IS NULL THEN
            RAISE EXCEPTION 'table "%" has no purge_after', target
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'Give older_than, or set it by softaudit.enable(..., purge_after => ''30 days'').';
        END IF;
        PERFORM softaudit.refuse_held(known.table_id, target);
        ids := ARRAY[known.table_id];
    ELSE
        FOR known IN SELECT r.* FROM softaudit.registry r JOIN pg_class c ON c.oid = r.relation
                      WHERE (older_than IS NOT NULL OR r.purge_after IS NOT NULL) AND softaudit.marker_column(r.relation) IS NOT NULL
                        AND pg_has_role(softaudit.caller(), c.relowner, 'USAGE') ORDER BY r.table_id LOOP
            IF EXISTS (SELECT FROM softaudit.holds h WHERE h.table_id = known.table_id AND h.row_ref IS NULL) THEN
                RAISE NOTICE 'purge: table "%" is passed over: it is under a legal hold', known.relation;
            ELSE
                ids := ids || known.table_id;
            END IF;
        END LOOP;
        ids := softaudit.children_first(ids);
    END IF;
    IF dry_run THEN
        PERFORM softaudit.purge_report(ids, older_than);
        RETURN '{}';
    END IF;
    RETURN ARRAY(SELECT softaudit.start_run('PURGE', r.table_id, NULL, now() - COALESCE(older_than, r.purge_after), batch)
                   FROM unnest(ids) WITH ORDINALITY i (id, ord) JOIN softaudit.registry r ON r.table_id = i.id ORDER BY i.ord);
END
$$;
COMMENT ON FUNCTION softaudit.purge_begin_apply(regclass, interval, integer, boolean) IS
'purge_begin() as the extension''s owner';

CREATE FUNCTION softaudit.next_chunk(leaf regclass, col name, due text, held text, stamp text, tid_at tid, chunk integer) RETURNS jsonb
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN softaudit.lifecycle_query(leaf, format(
        'SELECT pg_catalog.jsonb_build_object(%L, pg_catalog.array_agg(c.tid)::pg_catalog.text, %L, pg_catalog.max(c.stamp)::pg_catalog.text)
           FROM (SELECT t.ctid AS tid, t.%I AS stamp FROM ONLY %s t WHERE t.%I %s%s%s ORDER BY t.%I USING OPERATOR(pg_catalog.<), t.ctid USING OPERATOR(pg_catalog.<) LIMIT %s) c',
        'tids', 'stamp', col, leaf, col, due,
        CASE WHEN stamp IS NOT NULL THEN format(' AND (t.%I, t.ctid) OPERATOR(pg_catalog.>) (%L, %L::pg_catalog.tid)', col, stamp, tid_at) END,
        ' AND NOT ' || held, col, chunk));
END
$$;
COMMENT ON FUNCTION softaudit.next_chunk(regclass, name, text, text, text, tid, integer) IS
'the next rows of a relation that are due, after a position: an object of "tids", in order, and the last "stamp"';

CREATE FUNCTION softaudit.purge_report(ids integer[], older_than interval) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO' AS $$
DECLARE
    known record;
    id integer;
    leaf regclass;
    due jsonb := '{}';
    chunk jsonb;
    tids tid[];
    stop record;
    total bigint;
    kept bigint;
    keepers jsonb;
    col record;
BEGIN
    SELECT due || COALESCE(jsonb_object_agg(r.relation::oid::text, format('k.%I %s', d.column_name, softaudit.before(d.column_type, now() - COALESCE(older_than, r.purge_after)))), '{}')
      INTO due FROM softaudit.registry r CROSS JOIN LATERAL softaudit.due_column(r.table_id, 'PURGE') d WHERE r.table_id = ANY (ids);
    FOREACH id IN ARRAY ids LOOP
        SELECT * INTO known FROM softaudit.registry r WHERE r.table_id = id;
        SELECT * INTO col FROM softaudit.due_column(id, 'PURGE');
        total := 0;
        kept := 0;
        keepers := '{}';
        FOREACH leaf IN ARRAY softaudit.due_leaves(known.relation) LOOP
            chunk := NULL;
            tids := NULL;
            LOOP
                chunk := softaudit.next_chunk(leaf, col.column_name, softaudit.before(col.column_type, now() - COALESCE(older_than, known.purge_after)),
                                              softaudit.held_rows(leaf, 't'), chunk ->> 'stamp', tids[cardinality(tids)], 100000);
                tids := (chunk ->> 'tids')::tid[];
                EXIT WHEN tids IS NULL;
                SELECT * INTO stop FROM softaudit.blocked_rows(leaf, tids, due);
                total := total + cardinality(tids) - cardinality(stop.blocked);
                kept := kept + cardinality(stop.blocked);
                keepers := keepers || stop.by_table;
            END LOOP;
        END LOOP;
        RAISE NOTICE 'purge: table "%": % rows would be deleted%', known.relation, total,
            concat(CASE WHEN kept > 0 THEN format(', %s kept, to which rows of %s refer', kept,
                            (SELECT string_agg(k, ', ' ORDER BY k) FROM jsonb_object_keys(keepers) k)) END);
    END LOOP;
END
$$;
COMMENT ON FUNCTION softaudit.purge_report(integer[], interval) IS
'tells what a purge of these tables would do';

CREATE FUNCTION softaudit.rows_found(run bigint, tids tid[]) RETURNS void
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_rows_found';
COMMENT ON FUNCTION softaudit.rows_found(bigint, tid[]) IS
'keeps the rows that a run has found, for this session';

CREATE FUNCTION softaudit.next_rows(run bigint, batch integer) RETURNS tid[]
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_next_rows';
COMMENT ON FUNCTION softaudit.next_rows(bigint, integer) IS
'the next of the rows that rows_found() keeps; NULL if none is left';

CREATE FUNCTION softaudit.lifecycle_query(target regclass, command text, operation text DEFAULT NULL, along integer[] DEFAULT NULL, rows tid[] DEFAULT NULL) RETURNS text
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_lifecycle_query';
COMMENT ON FUNCTION softaudit.lifecycle_query(regclass, text, text, integer[], tid[]) IS
'runs a command on the rows of a table as its owner, unfiltered, with the rows as $1; its DELETE is logged as PURGE or ERASE for the tables of removal_tables(); returns its first value';

CREATE FUNCTION softaudit.removal_tables(leaf regclass) RETURNS integer[]
LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT COALESCE(array_agg(CASE WHEN r.purge_image THEN r.table_id ELSE -r.table_id END), '{}')
      FROM softaudit.registry r
     WHERE r.relation IN (SELECT f.relid FROM (SELECT leaf UNION SELECT softaudit.cascades_to(leaf)) b (relation)
                           CROSS JOIN LATERAL (SELECT b.relation::oid UNION SELECT t.relid FROM pg_partition_tree(b.relation) t
                                               UNION SELECT a.relid FROM unnest(softaudit.ancestors(b.relation)) a (relid)) f (relid)));
END
$$;
COMMENT ON FUNCTION softaudit.removal_tables(regclass) IS
'ids of the tables whose rows go when rows of a relation do, not by somebody''s trigger; negative without purge_image';

CREATE FUNCTION softaudit.delete_rows(leaf regclass, tids tid[], condition text, held text, along integer[]) RETURNS bigint
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN softaudit.lifecycle_query(leaf, format(
        'WITH gone AS (DELETE FROM ONLY %1$s t WHERE t.ctid OPERATOR(pg_catalog.=) ANY (ARRAY(
             SELECT l.ctid FROM ONLY %1$s l WHERE l.ctid OPERATOR(pg_catalog.=) ANY ($1) AND l.%2$s%3$s FOR UPDATE SKIP LOCKED))
         RETURNING 1) SELECT pg_catalog.count(*) FROM gone',
        leaf, condition, ' AND NOT ' || held), 'PURGE', along, tids);
END
$$;
COMMENT ON FUNCTION softaudit.delete_rows(regclass, tid[], text, text, integer[]) IS
'deletes those of some rows that are still due and that nobody has locked; how many';

CREATE FUNCTION softaudit.purge_step(run bigint) RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_lifecycle_batch';
COMMENT ON FUNCTION softaudit.purge_step(bigint) IS
'the next batch of a run that this session began; how many rows it dealt with, -1 when the run is done';

CREATE FUNCTION softaudit.purge_step_apply(run bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO' AS $$
DECLARE
    r softaudit.runs%ROWTYPE;
    known record;
    part regclass;
    col record;
    due text;
    held text;
    chunk jsonb;
    tids tid[];
    going tid[];
    one tid;
    stop record;
    n bigint;
    kept bigint;
    keepers jsonb;
    keeper text;
    along integer[];
BEGIN
    -- a pooler's session may have been somebody else's
    SELECT * INTO r FROM softaudit.runs u WHERE u.run_id = run AND u.pid = pg_backend_pid() AND u.run_by = softaudit.caller()::regrole::text
                                            AND u.finished_at IS NULL AND u.kind IN ('PURGE', 'EXPIRE');
    IF NOT FOUND THEN
        RAISE EXCEPTION 'this session has no run %', COALESCE(run::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'CALL softaudit.purge() or softaudit.maintain().';
    END IF;
    -- hold() waits for the batch that is under way, and this sees what it said
    PERFORM softaudit.lock_holds((SELECT g.relation FROM softaudit.registry g WHERE g.table_id = r.table_id));
    SELECT * INTO known FROM softaudit.registry g WHERE g.table_id = r.table_id;
    SELECT * INTO col FROM softaudit.due_column(r.table_id, r.kind);
    held := softaudit.held_rows(known.relation, 't');
    due := softaudit.before(col.column_type, r.cutoff);
    IF known.relation IS NULL OR due IS NULL OR held = 'true' THEN
        PERFORM softaudit.finish_run(run, CASE WHEN held = 'true' THEN 'the table came under a legal hold' ELSE 'the table or its column is gone' END);
        RETURN -1;
    END IF;

    tids := softaudit.next_rows(run, r.batch_size);
    part := r.leaf;
    WHILE tids IS NULL LOOP
        part := (softaudit.due_leaves(known.relation))[r.leaf_at];
        IF part IS NULL THEN
            PERFORM softaudit.finish_run(run, NULL);
            RETURN -1;
        END IF;
        held := softaudit.held_rows(part, 't');
        chunk := softaudit.next_chunk(part, col.column_name, due, held, r.stamp_at, r.tid_at, 100000);
        IF chunk ->> 'tids' IS NULL THEN
            r.leaf_at := r.leaf_at + 1;
            r.stamp_at := NULL;
            r.tid_at := NULL;
            UPDATE softaudit.runs u SET leaf_at = r.leaf_at, stamp_at = NULL, tid_at = NULL WHERE u.run_id = run;
            CONTINUE;
        END IF;
        tids := (chunk ->> 'tids')::tid[];
        UPDATE softaudit.runs u SET leaf = part, stamp_at = chunk ->> 'stamp', tid_at = tids[cardinality(tids)] WHERE u.run_id = run;
        PERFORM softaudit.rows_found(run, tids);
        tids := softaudit.next_rows(run, r.batch_size);
    END LOOP;

    kept := 0;
    keepers := '{}';
    going := tids;
    -- most tables have nobody who refers to them
    WHILE EXISTS (SELECT FROM pg_trigger g JOIN pg_constraint c ON c.oid = g.tgconstraint AND c.confrelid = g.tgrelid WHERE g.tgrelid = part) LOOP
        SELECT * INTO stop FROM softaudit.blocked_rows(part, going, '{}');
        EXIT WHEN stop.blocked = '{}';
        -- which may block others of the batch in their turn
        kept := kept + cardinality(stop.blocked);
        keepers := keepers || (SELECT jsonb_object_agg(k, COALESCE((keepers ->> k)::bigint, 0) + v::bigint) FROM jsonb_each_text(stop.by_table) e (k, v));
        going := ARRAY(SELECT g FROM unnest(going) g EXCEPT SELECT b FROM unnest(stop.blocked) b);
    END LOOP;
    n := 0;
    along := softaudit.removal_tables(part);
    BEGIN
        n := softaudit.delete_rows(part, going,
                                   format('%I %s', col.column_name, due), softaudit.held_rows(part, 'l'), along);
    EXCEPTION WHEN foreign_key_violation THEN
        -- somebody referred to one of them just now, or to what would cascade
        FOREACH one IN ARRAY going LOOP
            BEGIN
                n := n + softaudit.delete_rows(part, ARRAY[one], format('%I %s', col.column_name, due), softaudit.held_rows(part, 'l'), along);
            EXCEPTION WHEN foreign_key_violation THEN
                GET STACKED DIAGNOSTICS keeper = TABLE_NAME;
                kept := kept + 1;
                keepers := keepers || jsonb_build_object(keeper, COALESCE((keepers ->> keeper)::bigint, 0) + 1);
            END;
        END LOOP;
    END;
    UPDATE softaudit.runs u
       SET updated_at = clock_timestamp(), batches = u.batches + 1, rows_done = u.rows_done + n, rows_blocked = u.rows_blocked + kept,
           rows_skipped = u.rows_skipped + cardinality(tids) - kept - n,
           blocked_by = NULLIF(COALESCE(u.blocked_by, '{}') || COALESCE((SELECT jsonb_object_agg(k, COALESCE((u.blocked_by ->> k)::bigint, 0) + v::bigint)
                                                                   FROM jsonb_each_text(keepers) e (k, v)), '{}'), '{}')
     WHERE u.run_id = run RETURNING * INTO r;
    IF r.batches % 100 = 0 THEN
        RAISE NOTICE '%: table "%": % rows so far', CASE r.kind WHEN 'EXPIRE' THEN 'expiry' ELSE 'purge' END, known.relation, r.rows_done;
    END IF;
    RETURN cardinality(tids);
END
$$;
COMMENT ON FUNCTION softaudit.purge_step_apply(bigint) IS
'purge_step() as the extension''s owner';

CREATE FUNCTION softaudit.purge_again(runs bigint[]) RETURNS bigint[]
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_lifecycle_call';
COMMENT ON FUNCTION softaudit.purge_again(bigint[]) IS
'runs for those tables whose rows were kept by rows that have gone since; none if nothing went';

CREATE FUNCTION softaudit.purge_again_apply(runs bigint[]) RETURNS bigint[]
LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT ARRAY(SELECT softaudit.start_run(u.kind, u.table_id, NULL, u.cutoff, u.batch_size)
                   FROM unnest(runs) WITH ORDINALITY i (id, ord) JOIN softaudit.runs u ON u.run_id = i.id
                   JOIN softaudit.registry g ON g.table_id = u.table_id
                  WHERE u.pid = pg_backend_pid() AND u.run_by = softaudit.caller()::regrole::text AND u.message IS NULL
                    AND EXISTS (SELECT FROM softaudit.runs o JOIN softaudit.registry k ON k.table_id = o.table_id
                                 WHERE o.run_id = ANY (runs) AND o.rows_done > 0 AND u.blocked_by ? k.relation::text)
                  ORDER BY i.ord)
$$;
COMMENT ON FUNCTION softaudit.purge_again_apply(bigint[]) IS
'purge_again() as the extension''s owner';

/* It commits after each step, so it can have neither SET nor SECURITY DEFINER. */
CREATE PROCEDURE softaudit.purge(target regclass DEFAULT NULL, older_than interval DEFAULT NULL, batch integer DEFAULT 1000, dry_run boolean DEFAULT false)
LANGUAGE plpgsql AS $$
DECLARE
    runs bigint[];
    run bigint;
BEGIN
    PERFORM softaudit.check_top_level('softaudit.purge()');
    runs := softaudit.purge_begin(target, older_than, batch, dry_run);
    COMMIT;
    WHILE pg_catalog.cardinality(runs) OPERATOR(pg_catalog.>) 0 LOOP
        FOREACH run IN ARRAY runs LOOP
            WHILE softaudit.purge_step(run) OPERATOR(pg_catalog.>=) 0 LOOP
                COMMIT;
            END LOOP;
            COMMIT;
        END LOOP;
        runs := softaudit.purge_again(runs);
        COMMIT;
    END LOOP;
END
$$;
COMMENT ON PROCEDURE softaudit.purge(regclass, interval, integer, boolean) IS
'deletes for good, in batches, the rows that were soft-deleted longer ago than older_than (NULL: purge_after of the table); without a table, of all that the caller owns; for the tables'' owner';
