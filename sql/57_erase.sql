/*
 * ---- erasure: a row, what hangs on it, and their images in the log ----
 *
 * Rows are found along the foreign keys first, so that their keys are known to the log's
 * part; the deletion itself is left to PostgreSQL's own cascade.
 */

CREATE FUNCTION softaudit.erase(target regclass, key text, reason text, dry_run boolean DEFAULT false)
RETURNS TABLE (relation regclass, rows_deleted bigint, images_removed bigint)
LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS $$
    SELECT e.relation::pg_catalog.oid::pg_catalog.regclass, e.rows_deleted, e.images_removed
      FROM pg_catalog.jsonb_to_recordset(softaudit.erase_run(target, key, reason, dry_run)) e (relation text, rows_deleted bigint, images_removed bigint)
$$;
COMMENT ON FUNCTION softaudit.erase(regclass, text, text, boolean) IS
'deletes a row for good with all that cascades from it, and removes their images from the log; one row a table; raises no_data_found where there is neither row nor image; for whoever was granted EXECUTE';

CREATE FUNCTION softaudit.erase(target regclass, key anyelement, reason text, dry_run boolean DEFAULT false)
RETURNS TABLE (relation regclass, rows_deleted bigint, images_removed bigint)
LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS $$ SELECT * FROM softaudit.erase(target, softaudit.key_as_text(key), reason, dry_run) $$;
COMMENT ON FUNCTION softaudit.erase(regclass, anyelement, text, boolean) IS
'erase() by a key of the column''s own type, or a jsonb object for a composite key';

CREATE FUNCTION softaudit.erase_run(target regclass, key text, reason text, dry_run boolean) RETURNS jsonb
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_lifecycle_delete';
COMMENT ON FUNCTION softaudit.erase_run(regclass, text, text, boolean) IS
'what erase() shows; for whoever may execute that';

CREATE FUNCTION softaudit.remove_statistics(target regclass, attnum smallint) RETURNS void
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_remove_statistics';
COMMENT ON FUNCTION softaudit.remove_statistics(regclass, smallint) IS
'removes what ANALYZE keeps of a column; with 0, of all columns, and the extended statistics of the table, too';

CREATE FUNCTION softaudit.rows_to_erase(target regclass, key jsonb) RETURNS jsonb
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    condition text := softaudit.key_condition(target, 't', key);
    leaf regclass;
    found text;
    all_rows jsonb := '{}';     -- relation -> tids
    newly jsonb := '{}';
    next_level jsonb;
    fk record;
    keys jsonb;
    known tid[];
    fresh tid[];
    source text;
BEGIN
    FOREACH leaf IN ARRAY softaudit.due_leaves(target) LOOP
        found := softaudit.lifecycle_query(leaf, format('SELECT pg_catalog.array_agg(t.ctid)::pg_catalog.text FROM (SELECT t.ctid FROM ONLY %s t WHERE %s FOR UPDATE) t', leaf, condition));
        IF found IS NOT NULL THEN
            newly := newly || jsonb_build_object(leaf::oid::text, found);
        END IF;
    END LOOP;
    WHILE newly <> '{}' LOOP
        all_rows := all_rows || (SELECT jsonb_object_agg(k, (COALESCE((all_rows ->> k)::tid[], '{}') || v::tid[])::text) FROM jsonb_each_text(newly) e (k, v));
        next_level := '{}';
        FOR source, found IN SELECT * FROM jsonb_each_text(newly) LOOP
            FOR fk IN SELECT * FROM softaudit.keys_to(source::oid, '{c}') LOOP
                keys := softaudit.referred_keys(source::oid, found::tid[], fk.own_keys, fk.not_null);
                CONTINUE WHEN keys ->> 'tids' IS NULL;
                FOREACH leaf IN ARRAY softaudit.bound_leaves(fk.child) LOOP
                    fresh := softaudit.lifecycle_query(leaf, format('SELECT pg_catalog.array_agg(k.ctid)::pg_catalog.text FROM ONLY %s k WHERE EXISTS (SELECT FROM %s WHERE %s)',
                                                                    leaf, softaudit.unnest_keys(fk.unnested, fk.names, keys), fk.condition));
                    known := COALESCE((all_rows ->> leaf::oid::text)::tid[], '{}') || COALESCE((next_level ->> leaf::oid::text)::tid[], '{}');
                    fresh := ARRAY(SELECT f FROM unnest(fresh) f EXCEPT SELECT k FROM unnest(known) k);
                    IF fresh <> '{}' THEN
                        next_level := next_level || jsonb_build_object(leaf::oid::text, (COALESCE((next_level ->> leaf::oid::text)::tid[], '{}') || fresh)::text);
                    END IF;
                END LOOP;
            END LOOP;
        END LOOP;
        newly := next_level;
    END LOOP;
    RETURN all_rows;
END
$$;
COMMENT ON FUNCTION softaudit.rows_to_erase(regclass, jsonb) IS
'the row with a key and what cascades from it: an object of tid arrays by relation';

CREATE FUNCTION softaudit.keys_of_rows(leaf regclass, tids tid[]) RETURNS SETOF text
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC' SET DateStyle = 'ISO' SET IntervalStyle = 'postgres' SET bytea_output = 'hex' SET extra_float_digits = 1 AS $$
DECLARE
    cols name[] := ARRAY(SELECT e.column_name FROM softaudit.equalities(leaf, 't') e);
BEGIN
    IF cols <> '{}' THEN
        -- as history() takes them: a single one as it is, several as an object
        RETURN QUERY SELECT jsonb_array_elements_text(softaudit.lifecycle_query(leaf, format(
            'SELECT pg_catalog.jsonb_agg(%s) FROM ONLY %s t WHERE t.ctid OPERATOR(pg_catalog.=) ANY (%L::pg_catalog.tid[])',
            CASE WHEN cardinality(cols) = 1 THEN format('t.%I::pg_catalog.text', cols[1])
                 ELSE format('pg_catalog.jsonb_build_object(%s)', (SELECT string_agg(format(CASE WHEN e.is_json THEN '%L, t.%I' ELSE '%L, t.%I::pg_catalog.text' END, e.column_name, e.column_name), ', ')
                                                                           FROM softaudit.equalities(leaf, 't') e)) END,
            leaf, tids))::jsonb);
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.keys_of_rows(regclass, tid[]) IS
'the primary keys of some rows, as history() takes them';

CREATE FUNCTION softaudit.clear_statistics(leaf regclass, tids tid[]) RETURNS text[]
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    col record;
    rel regclass;
    hits boolean;
    columns name[];
    again text[] := '{}';
BEGIN
    FOR rel IN SELECT leaf UNION SELECT a.relid FROM unnest(softaudit.ancestors(leaf)) a (relid)
               UNION SELECT i.inhparent FROM pg_inherits i WHERE i.inhrelid = leaf LOOP
        columns := '{}';
        FOR col IN SELECT a.attname, a.attnum, array_agg(v) AS kept
                     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                     JOIN pg_stats s ON s.schemaname = n.nspname AND s.tablename = c.relname
                     JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = s.attname
                    CROSS JOIN LATERAL unnest(s.most_common_vals::text::text[] || s.histogram_bounds::text::text[] || s.most_common_elems::text::text[]) v
                    WHERE c.oid = rel GROUP BY a.attname, a.attnum LOOP
            -- what a value of another type looks like in an array is its text; in doubt the statistics go
            BEGIN
                hits := softaudit.lifecycle_query(leaf, format(
                    'SELECT EXISTS (SELECT FROM ONLY %s t WHERE t.ctid OPERATOR(pg_catalog.=) ANY (%L::pg_catalog.tid[]) AND (t.%I::pg_catalog.text OPERATOR(pg_catalog.=) ANY (%L::pg_catalog.text[]) OR pg_catalog.pg_typeof(t.%I)::pg_catalog.oid IN (SELECT y.oid FROM pg_catalog.pg_type y WHERE y.typcategory IN (''A'', ''C'') OR y.typname IN (''jsonb'', ''tsvector''))))',
                    leaf, tids, col.attname, col.kept, col.attname));
            EXCEPTION WHEN OTHERS THEN
                hits := true;
            END;
            IF hits THEN
                PERFORM softaudit.remove_statistics(rel, col.attnum);
                columns := columns || col.attname;
            END IF;
        END LOOP;
        IF EXISTS (SELECT FROM pg_statistic s JOIN pg_index i ON i.indexrelid = s.starelid WHERE i.indrelid = rel)
           OR EXISTS (SELECT FROM pg_statistic_ext e WHERE e.stxrelid = rel AND e.stxkind && '{m,e}') THEN
            -- of expressions and combinations it cannot be told
            PERFORM softaudit.remove_statistics(i.indexrelid, 0::smallint) FROM pg_index i WHERE i.indrelid = rel;
            PERFORM softaudit.remove_statistics(rel, 0::smallint);
            again := again || format('ANALYZE %s', rel);
        ELSIF columns <> '{}' THEN
            again := again || format('ANALYZE %s (%s)', rel, (SELECT string_agg(quote_ident(c), ', ') FROM unnest(columns) c));
        END IF;
    END LOOP;
    RETURN again;
END
$$;
COMMENT ON FUNCTION softaudit.clear_statistics(regclass, tid[]) IS
'removes the statistics that hold values of some rows, while these can be read; returns the commands that make new ones, for when the rows are gone';

CREATE FUNCTION softaudit.erase_images(of_table integer, key_image jsonb, dry_run boolean, OUT images bigint, OUT emptied bigint, OUT leaves regclass[])
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
-- rows are found by row_ref, and what the planner knows of a leaf may be old or nothing
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_nestloop = off AS $$
DECLARE
    ids bigint[];
    refs bigint[];
    keys jsonb[];
    known record;
    groups integer[];
BEGIN
    SELECT r.all_groups, r.redact && r.key_columns AS is_redacted, r.image_key INTO known FROM softaudit.registry r WHERE r.table_id = of_table;
    groups := known.all_groups;
    -- a digest alone is not enough: two keys may share one
    SELECT array_agg(h.audit_id), array_agg(DISTINCT softaudit.row_ref(of_table, h.row_key)) || softaudit.row_ref(of_table, key_image), count(h.old_data) + count(h.new_data), count(*),
           array_agg(DISTINCT h.row_key) || key_image
      INTO ids, refs, images, emptied, keys
      FROM softaudit.history_of_key(of_table, key_image) h WHERE h.row_key IS NOT NULL OR h.old_data IS NOT NULL OR h.new_data IS NOT NULL;
    leaves := '{}';
    IF ids IS NULL THEN
        RETURN;
    END IF;
    -- whose key changed is found by the new one; the one before stands beside it
    refs := ARRAY(SELECT DISTINCT r FROM unnest(refs) r WHERE r IS NOT NULL);
    -- a hold on a key that the row had before keeps its images, and so the row
    keys := keys || ARRAY(SELECT DISTINCT softaudit.key_from_image(l.old_row_key, l.old_data, known.image_key)
                            FROM softaudit.log l JOIN unnest(ids) i (id) ON l.audit_id = i.id WHERE l.row_ref = ANY (refs) AND l.log_group = ANY (groups) AND l.old_row_ref IS NOT NULL);
    IF EXISTS (SELECT FROM softaudit.holds h
                WHERE h.table_id = of_table AND (h.row_ref = ANY (refs) OR h.row_ref IN (
                      SELECT l.old_row_ref FROM softaudit.log l JOIN unnest(ids) i (id) ON l.audit_id = i.id WHERE l.row_ref = ANY (refs) AND l.log_group = ANY (groups)))
                  -- of a redacted key the hold has the value itself, the log its digest
                  AND (known.is_redacted OR h.row_key = ANY (keys))) THEN
        RAISE EXCEPTION 'a row of table "%", under a key that it had before, is under a legal hold', (SELECT r.relation FROM softaudit.registry r WHERE r.table_id = of_table)
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'softaudit.release() ends the hold.';
    END IF;
    -- joined: an array of many ids would be estimated anew, id by id, for each leaf
    IF dry_run THEN
        SELECT array_agg(DISTINCT l.tableoid::regclass) INTO leaves
          FROM softaudit.log l JOIN unnest(ids) i (id) ON l.audit_id = i.id WHERE l.row_ref = ANY (refs) AND l.log_group = ANY (groups);
        RETURN;
    END IF;
    WITH done AS (
        UPDATE softaudit.log l SET old_data = NULL, new_data = NULL, row_key = NULL, old_row_key = NULL
          FROM unnest(ids) i (id) WHERE l.audit_id = i.id AND l.row_ref = ANY (refs) AND l.log_group = ANY (groups)
        RETURNING l.tableoid AS leaf
    )
    SELECT array_agg(e.leaf::regclass) INTO leaves FROM (SELECT DISTINCT f.leaf FROM done f) e;
    PERFORM softaudit.remove_statistics(u, 0::smallint) FROM unnest(leaves || 'softaudit.log'::regclass) u;
    PERFORM softaudit.remove_statistics(('softaudit.log_g' || g)::regclass, 0::smallint) FROM unnest(groups) g;
END
$$;
COMMENT ON FUNCTION softaudit.erase_images(integer, jsonb, boolean) IS
'empties the log rows of a key, also under keys that it had before: operation, time, actor and digest stay; how many images, log rows, and in which partitions';

CREATE FUNCTION softaudit.has_images(of_table integer, before bigint DEFAULT NULL) RETURNS boolean
LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
    SELECT EXISTS (SELECT FROM softaudit.log l JOIN softaudit.registry r ON r.table_id = of_table AND l.log_group = ANY (r.all_groups)
                    WHERE l.row_ref >= of_table::bigint << 32 AND l.row_ref < (of_table + 1)::bigint << 32 AND (l.old_data IS NOT NULL OR l.new_data IS NOT NULL)
                      AND (before IS NULL OR l.audit_id < before))
$$;
COMMENT ON FUNCTION softaudit.has_images(integer, bigint) IS
'whether the log has an image of a row of a table, in a log row before one if that is given';

CREATE FUNCTION softaudit.other_key_form(value jsonb) RETURNS jsonb
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'softaudit_other_key_form';
COMMENT ON FUNCTION softaudit.other_key_form(jsonb) IS
'the text of a number, or the number that a text is as PostgreSQL writes it: what a key''s column was logged as while it was of the other type; NULL for any other value';

CREATE FUNCTION softaudit.key_forms(of_table integer, key_image jsonb, given jsonb) RETURNS SETOF jsonb
LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    forms jsonb[] := ARRAY['{}'::jsonb];
    raw jsonb[];
    col text;
BEGIN
    -- events go by the name of then: of a table that has another one now nothing is known
    IF (SELECT bool_or(e.event = 'ENABLE') AND NOT bool_or(e.event = 'REWRITE' OR e.event = 'SETTINGS' AND e.details ? 'redact')
          FROM softaudit.registry r JOIN softaudit.events e ON e.schema_name = r.schema_name AND e.relation = r.table_name WHERE r.table_id = of_table) THEN
        RETURN NEXT key_image;
        RETURN;
    END IF;
    FOR col IN SELECT jsonb_object_keys(key_image) LOOP
        -- a number that was text once or the other way round, and either redacted or not
        raw := ARRAY[given -> col, softaudit.other_key_form(given -> col)];
        forms := ARRAY(SELECT f || jsonb_build_object(col, v) FROM unnest(forms) f
                        CROSS JOIN (SELECT key_image -> col UNION SELECT r FROM unnest(raw) r WHERE r IS NOT NULL
                                    UNION SELECT to_jsonb(softaudit.redacted(r)) FROM unnest(raw) r WHERE r IS NOT NULL) u (v) LIMIT 1000);
    END LOOP;
    RETURN QUERY SELECT DISTINCT f FROM unnest(forms) f;
END
$$;
COMMENT ON FUNCTION softaudit.key_forms(integer, jsonb, jsonb) IS
'the images that a key may have in the log: others than today''s where a column came to be redacted, or not, or was given another type';

CREATE FUNCTION softaudit.erase_run_apply(target regclass, key text, reason text, dry_run boolean) RETURNS jsonb
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known record;
    root record;
    given jsonb;
    image jsonb;
    all_rows jsonb;
    rel text;
    tids text;
    one text;
    removed record;
    done jsonb := '{}';         -- relation -> rows, images
    touched regclass[] := '{}';
    keys jsonb;
    leaf regclass;
    again text[] := '{}';
    total_rows bigint := 0;
    total_images bigint := 0;
    total_emptied bigint := 0;
    texts text[];
    cols name[];
    unkeyed regclass[] := '{}';
BEGIN
    PERFORM softaudit.may_execute('softaudit.erase(regclass, text, text, boolean)');
    PERFORM softaudit.check_reason(reason, 'GDPR art. 17, request 4711');
    IF dry_run IS NULL THEN
        RAISE EXCEPTION 'dry_run must not be NULL' USING ERRCODE = 'null_value_not_allowed', HINT = 'Give true or false.';
    END IF;
    PERFORM softaudit.ensure_log();
    given := softaudit.key_given(target, key);
    SELECT * INTO known FROM softaudit.registry r WHERE r.relation = target;
    image := softaudit.key_image(target, key);
    PERFORM softaudit.lock_holds(target);
    all_rows := softaudit.rows_to_erase(target, given);

    -- nothing that is held, at any level
    PERFORM softaudit.refuse_held(known.table_id, target);
    IF EXISTS (SELECT FROM softaudit.holds h WHERE h.table_id = known.table_id AND h.row_ref = softaudit.row_ref(known.table_id, image) AND h.row_key = given) THEN
        RAISE EXCEPTION 'the row of table "%" is under a legal hold', target
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'softaudit.release() ends the hold.';
    END IF;
    FOR rel, tids IN SELECT * FROM jsonb_each_text(all_rows) LOOP
        IF softaudit.lifecycle_query(rel::oid, format('SELECT EXISTS (SELECT FROM ONLY %s t WHERE t.ctid OPERATOR(pg_catalog.=) ANY (%L::pg_catalog.tid[]) AND %s)',
                                     rel::oid::regclass, tids, COALESCE(softaudit.held_rows(rel::oid, 't'), 'false')))::boolean THEN
            RAISE EXCEPTION 'a row of table "%", which would go along, is under a legal hold', rel::oid::regclass
                USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'softaudit.release() ends the hold.';
        END IF;
        -- one row a table: partitions count for theirs
        done := done || jsonb_build_object(softaudit.root_of(rel::oid)::oid::text,
            jsonb_build_object('rows', COALESCE((done -> softaudit.root_of(rel::oid)::oid::text ->> 'rows')::bigint, 0) + cardinality(tids::tid[]), 'images', 0));
        total_rows := total_rows + cardinality(tids::tid[]);
        touched := touched || rel::oid::regclass;
    END LOOP;
    IF NOT done ? target::oid::text THEN
        done := jsonb_build_object(target::oid::text, '{"rows": 0, "images": 0}'::jsonb) || done;
    END IF;

    -- while the rows can be read: their keys as the log has them, and the statistics that know their values
    keys := '[]';
    FOR rel, tids IN SELECT * FROM jsonb_each_text(jsonb_build_object(target::oid::text, NULL) || all_rows) LOOP
        -- the row that was asked for may be gone, its key is known
        texts := CASE WHEN tids IS NULL THEN ARRAY[key] ELSE ARRAY(SELECT softaudit.keys_of_rows(rel::oid, tids::tid[])) END;
        cols := ARRAY(SELECT e.column_name FROM softaudit.equalities(rel::oid, 't') e ORDER BY e.column_name);
        -- a partition may have had a log of its own before it was one
        FOR root IN SELECT r.*, softaudit.root_of(r.relation)::oid::text AS counted FROM softaudit.registry r
                     WHERE r.relation IN (SELECT rel::oid UNION SELECT a.relid FROM unnest(softaudit.ancestors(rel::oid)) a (relid) UNION SELECT t.relid FROM pg_partition_tree(rel::oid) t) LOOP
            IF texts <> '{}' AND cols = ARRAY(SELECT e.column_name FROM softaudit.equalities(root.relation, 't') e ORDER BY e.column_name) THEN
                keys := keys || COALESCE((SELECT jsonb_agg(jsonb_build_object('table', root.table_id, 'relation', root.counted, 'image', f))
                                            FROM unnest(texts) k CROSS JOIN LATERAL softaudit.key_forms(root.table_id, softaudit.key_image(root.relation, k), softaudit.key_given(root.relation, k)) f), '[]');
            ELSIF softaudit.has_images(root.table_id) THEN
                unkeyed := unkeyed || root.relation;
            END IF;
            -- what was logged while the key was of other columns; not a rename: the column of then is still there
            IF root.key_since > 0 AND softaudit.has_images(root.table_id, root.key_since) THEN
                unkeyed := unkeyed || root.relation;
            ELSIF ARRAY(SELECT unnest(root.image_key) ORDER BY 1) <> cols AND softaudit.has_images(root.table_id)
               AND (root.image_key = '{}' OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = root.relation AND a.attname = ANY (root.image_key) AND a.attname <> ALL (cols) AND NOT a.attisdropped)) THEN
                unkeyed := unkeyed || root.relation;
            END IF;
        END LOOP;
        CONTINUE WHEN tids IS NULL;
        IF NOT dry_run THEN
            again := again || softaudit.clear_statistics(rel::oid, tids::tid[]);
        END IF;
    END LOOP;

    IF NOT dry_run THEN
        FOREACH leaf IN ARRAY softaudit.due_leaves(target) LOOP
            CONTINUE WHEN NOT all_rows ? leaf::oid::text;
            -- of a tree, the row itself; what hangs on it goes by its foreign keys
            PERFORM softaudit.lifecycle_query(leaf, format('WITH gone AS (DELETE FROM ONLY %s t WHERE %s RETURNING 1) SELECT pg_catalog.count(*) FROM gone',
                leaf, softaudit.key_condition(target, 't', given)),
                'ERASE', softaudit.removal_tables(leaf));
        END LOOP;
        FOR rel, tids IN SELECT * FROM jsonb_each_text(all_rows) LOOP
            IF softaudit.lifecycle_query(rel::oid, format('SELECT EXISTS (SELECT FROM ONLY %s t WHERE t.ctid OPERATOR(pg_catalog.=) ANY (%L::pg_catalog.tid[]))',
                                                          rel::oid::regclass, tids))::boolean THEN
                RAISE EXCEPTION 'a row of table "%" is still there', rel::oid::regclass
                    USING ERRCODE = 'triggered_action_exception', HINT = 'A trigger BEFORE DELETE or a rule keeps it.';
            END IF;
        END LOOP;
        FOR one IN SELECT DISTINCT a FROM unnest(again) a LOOP
            EXECUTE one;
        END LOOP;
    END IF;

    FOR one IN SELECT DISTINCT k::text FROM jsonb_array_elements(keys) k LOOP
        SELECT * INTO removed FROM softaudit.erase_images((one::jsonb ->> 'table')::integer, one::jsonb -> 'image', dry_run);
        CONTINUE WHEN COALESCE(removed.emptied, 0) = 0;
        total_emptied := total_emptied + removed.emptied;
        total_images := total_images + removed.images;
        touched := touched || removed.leaves;
        rel := one::jsonb ->> 'relation';
        done := done || jsonb_build_object(rel, jsonb_build_object('rows', COALESCE((done -> rel ->> 'rows')::bigint, 0),
                                                                   'images', COALESCE((done -> rel ->> 'images')::bigint, 0) + removed.images));
    END LOOP;
    IF total_rows = 0 AND total_emptied = 0 THEN
        RAISE EXCEPTION 'table "%" has no row with this key, nor the log an image of it', target
            USING ERRCODE = 'no_data_found', HINT = 'The key may be mistyped, or erased already: softaudit.events tells.';
    END IF;
    touched := ARRAY(SELECT DISTINCT t FROM unnest(touched) t ORDER BY t);
    FOR leaf IN SELECT DISTINCT k FROM unnest(unkeyed) k ORDER BY k LOOP
        RAISE WARNING 'erase: images of rows of table "%" may be left in the log', leaf
            USING DETAIL = 'It has no primary key, or had another one: these images are not found by the key.',
                  HINT = 'softaudit.changes shows them; retention (keep_log) removes them.';
    END LOOP;
    IF dry_run THEN
        RAISE NOTICE 'erase: % rows would be deleted and % images removed', total_rows, total_images;
    ELSE
        PERFORM softaudit.record_event('ERASE', known.schema_name, known.table_name, reason,
            jsonb_build_object('row_ref', softaudit.row_ref(known.table_id, image), 'rows', total_rows, 'images', total_images,
                               'relations', (SELECT jsonb_agg(t::text) FROM unnest(touched) t)));
        RAISE NOTICE 'erase: % rows deleted, % images removed; their bytes are free after VACUUM FULL of %', total_rows, total_images,
            array_to_string(touched || 'pg_catalog.pg_statistic'::regclass, ', ');
    END IF;
    RETURN (SELECT jsonb_agg(jsonb_build_object('relation', d.k, 'rows_deleted', d.v -> 'rows', 'images_removed', d.v -> 'images') ORDER BY d.k::oid <> target, d.k::oid)
              FROM jsonb_each(done) d (k, v));
END
$$;
COMMENT ON FUNCTION softaudit.erase_run_apply(regclass, text, text, boolean) IS
'erase_run() as the extension''s owner';
