/*
 * ---- how it stands, and what to look at ----
 *
 * From the catalogs and their estimates; of the tables themselves just the oldest deleted
 * row is read, where an index has it.  Both may be polled.
 */

CREATE FUNCTION softaudit.open_sessions() RETURNS integer[]
LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
    -- those that began before the first soft-deleted table, and those whose role has a setting of its own
    SELECT COALESCE(array_agg(a.pid ORDER BY a.pid), '{}')
      FROM pg_stat_activity a
     WHERE a.datname = current_database() AND a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
       AND NOT 'softaudit' = ANY (softaudit.preloaded(current_setting('shared_preload_libraries')))
       AND (a.backend_start < (SELECT min(e.happened_at) FROM softaudit.events e
                                WHERE e.event IN ('ENABLE', 'SETTINGS') AND (e.details ->> 'soft_delete')::boolean)
            OR EXISTS (SELECT FROM pg_db_role_setting s CROSS JOIN LATERAL unnest(s.setconfig) c
                        WHERE s.setrole = a.usesysid AND s.setdatabase IN (0, a.datid) AND c LIKE 'session\_preload\_libraries=%'
                          AND NOT 'softaudit' = ANY (softaudit.preloaded(substr(c, strpos(c, '=') + 1)))))
$$;
COMMENT ON FUNCTION softaudit.open_sessions() IS
'pids of the sessions of this database that may be without the library';

CREATE FUNCTION softaudit.deleted_estimate(target regclass, column_name name) RETURNS bigint
LANGUAGE sql STABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT COALESCE(sum(CASE
               WHEN x.oid IS NOT NULL AND x.reltuples >= 0 THEN x.reltuples
               ELSE greatest(c.reltuples, 0) * (1 - COALESCE((SELECT s.null_frac FROM pg_stats s JOIN pg_namespace n ON n.nspname = s.schemaname
                                                    WHERE n.oid = c.relnamespace AND s.tablename = c.relname AND s.attname = column_name AND NOT s.inherited), 1)) END), 0)::bigint
      FROM unnest(softaudit.due_leaves(target)) l (leaf)
      JOIN pg_class c ON c.oid = l.leaf
      LEFT JOIN pg_index i ON i.indexrelid = softaudit.purge_index(l.leaf, column_name) AND i.indpred IS NOT NULL
      LEFT JOIN pg_class x ON x.oid = i.indexrelid
$$;
COMMENT ON FUNCTION softaudit.deleted_estimate(regclass, name) IS
'about how many rows of a table are soft-deleted, as of its last VACUUM or ANALYZE';

CREATE FUNCTION softaudit.status_run() RETURNS jsonb
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_lifecycle_call';
COMMENT ON FUNCTION softaudit.status_run() IS
'what softaudit.status shows; for whoever may SELECT that';

CREATE FUNCTION softaudit.status_run_apply() RETURNS jsonb
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp SET IntervalStyle = 'postgres' SET TimeZone = 'UTC' SET DateStyle = 'ISO' AS $$
DECLARE
    r record;
    result jsonb := '[]';
    groups jsonb := '{}';
    advice jsonb;
    maintained timestamptz;
    col name;
    n_deleted bigint;
    n_all bigint;
    oldest text;
    leaf regclass;
    one text;
BEGIN
    IF to_regclass('softaudit.registry') IS NULL THEN
        RETURN result;
    END IF;
    IF NOT has_table_privilege(softaudit.caller(), 'softaudit.status', 'SELECT') THEN
        RAISE EXCEPTION 'permission denied for view status'
            USING ERRCODE = 'insufficient_privilege', HINT = 'GRANT SELECT ON softaudit.status TO the role that is to read it.';
    END IF;
    -- each group once
    SELECT COALESCE(jsonb_object_agg(g.group_id, jsonb_build_object('bytes', p.bytes, 'n', p.n)), '{}') INTO groups
      FROM softaudit.log_groups g
     CROSS JOIN LATERAL (SELECT COALESCE(sum(pg_total_relation_size(b.leaf)), 0) AS bytes, count(*) AS n FROM softaudit.partition_bounds(g.group_id) b) p;
    SELECT max(u.finished_at) INTO maintained FROM softaudit.runs u WHERE u.kind = 'MAINTAIN';
    advice := softaudit.advise_run_apply();
    FOR r IN SELECT * FROM softaudit.registry t WHERE t.relation IS NOT NULL ORDER BY t.table_id LOOP
        col := softaudit.marker_column(r.relation);
        SELECT sum(greatest(c.reltuples, 0))::bigint INTO n_all FROM unnest(softaudit.due_leaves(r.relation)) l (leaf) JOIN pg_class c ON c.oid = l.leaf;
        n_deleted := CASE WHEN col IS NOT NULL THEN least(softaudit.deleted_estimate(r.relation, col), n_all) END;
        oldest := NULL;
        IF col IS NOT NULL AND softaudit.purge_index(r.relation, col) IS NOT NULL THEN
            FOREACH leaf IN ARRAY softaudit.due_leaves(r.relation) LOOP
                one := softaudit.lifecycle_query(leaf, format('SELECT pg_catalog.min(t.%I)::pg_catalog.text FROM ONLY %s t WHERE t.%I IS NOT NULL', col, leaf, col));
                oldest := least(oldest, one);
            END LOOP;
        END IF;
        result := result || jsonb_build_object(
            'relation', r.relation::oid, 'schema_name', r.schema_name, 'table_name', r.table_name,
            'soft_delete', col IS NOT NULL, 'audit', softaudit.trigger_args(r.relation) IS NOT NULL,
            'deleted_at', col, 'images', r.images, 'partition_by', r.partition_by, 'keep_log', r.keep_log, 'purge_after', r.purge_after,
            'expire_column', r.expire_column, 'expire_after', r.expire_after,
            'held', EXISTS (SELECT FROM softaudit.holds h WHERE h.table_id = r.table_id AND h.row_ref IS NULL),
            'held_rows', (SELECT count(*) FROM softaudit.holds h WHERE h.table_id = r.table_id AND h.row_ref IS NOT NULL),
            'live_rows', n_all - COALESCE(n_deleted, 0), 'deleted_rows', n_deleted, 'oldest_deleted', oldest,
            'log_bytes', groups -> r.log_group::text -> 'bytes', 'log_partitions', groups -> r.log_group::text -> 'n',
            'last_purge', (SELECT max(u.finished_at) FROM softaudit.runs u WHERE u.table_id = r.table_id),
            'next_purge', CASE WHEN col IS NOT NULL THEN oldest::timestamptz + r.purge_after END,
            'last_maintain', maintained, 'maintain_lag', now() - maintained,
            'unprotected_sessions', CASE WHEN col IS NOT NULL THEN to_jsonb(softaudit.open_sessions()) ELSE '[]' END,
            'warnings', COALESCE((SELECT jsonb_agg(a ->> 'advice') FROM jsonb_array_elements(advice) a WHERE a -> 'of' = to_jsonb(r.table_id)), '[]'));
    END LOOP;
    RETURN result;
END
$$;
COMMENT ON FUNCTION softaudit.status_run_apply() IS
'status_run() as the extension''s owner';

CREATE VIEW softaudit.status AS
SELECT s.relation::regclass AS relation, s.schema_name, s.table_name, s.soft_delete, s.audit, s.deleted_at, s.images, s.partition_by, s.keep_log, s.purge_after,
       s.expire_column, s.expire_after, s.held, s.held_rows, s.live_rows, s.deleted_rows, s.oldest_deleted, s.log_bytes, s.log_partitions,
       s.last_purge, s.next_purge, s.last_maintain, s.maintain_lag,
       ARRAY(SELECT jsonb_array_elements_text(s.unprotected_sessions)::integer) AS unprotected_sessions,
       ARRAY(SELECT jsonb_array_elements_text(s.warnings)) AS warnings
  FROM jsonb_to_recordset(softaudit.status_run()) s (
       relation oid, schema_name name, table_name name, soft_delete boolean, audit boolean, deleted_at name, images text, partition_by interval,
       keep_log interval, purge_after interval, expire_column name, expire_after interval, held boolean, held_rows bigint, live_rows bigint,
       deleted_rows bigint, oldest_deleted timestamptz, log_bytes bigint, log_partitions integer, last_purge timestamptz, next_purge timestamptz,
       last_maintain timestamptz, maintain_lag interval, unprotected_sessions jsonb, warnings jsonb);
COMMENT ON VIEW softaudit.status IS
'one row a table: settings, rows live and deleted (estimates), its log group''s size, purges past and next, sessions without the library, warnings';

CREATE FUNCTION softaudit.advise() RETURNS TABLE (severity text, object text, advice text, sql text)
LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS $$
    SELECT a.severity, a.object, a.advice, a.sql
      FROM pg_catalog.jsonb_to_recordset(softaudit.advise_run()) a (severity text, object text, advice text, sql text)
$$;
COMMENT ON FUNCTION softaudit.advise() IS
'what to look at: severity (ERROR, WARNING, INFO), object, advice and the SQL that mends it; for whoever was granted EXECUTE';

CREATE FUNCTION softaudit.advise_run() RETURNS jsonb
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_lifecycle_call';
COMMENT ON FUNCTION softaudit.advise_run() IS
'what advise() shows; for whoever may execute that';

CREATE FUNCTION softaudit.advise_run_apply() RETURNS jsonb
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp SET DateStyle = 'ISO' SET TimeZone = 'UTC' AS $$
DECLARE
    result jsonb := '[]';
    more jsonb;
BEGIN
    IF NOT has_function_privilege(softaudit.caller(), 'softaudit.advise()', 'EXECUTE')
       AND NOT has_table_privilege(softaudit.caller(), 'softaudit.status', 'SELECT') THEN
        RAISE EXCEPTION 'permission denied for function advise'
            USING ERRCODE = 'insufficient_privilege', HINT = 'GRANT EXECUTE ON FUNCTION softaudit.advise() TO the role that is to call it.';
    END IF;
    IF to_regclass('softaudit.registry') IS NULL THEN
        RETURN result;
    END IF;

    -- unique indexes that count deleted rows, unless somebody asked for it or nothing else can be
    SELECT jsonb_agg(jsonb_build_object('of', r.table_id, 'severity', 'WARNING', 'object', i.indexrelid::regclass::text,
               'advice', format('unique index "%s" counts deleted rows: their values cannot be used again', i.indexrelid::regclass),
               'sql', format('SELECT softaudit.enable(%L, live_unique => true);', r.relation)) ORDER BY i.indexrelid::regclass::text) INTO more
      FROM softaudit.registry r
      JOIN pg_index i ON i.indrelid = r.relation AND i.indisunique AND NOT i.indisprimary AND i.indisvalid
      JOIN pg_class c ON c.oid = i.indexrelid
     WHERE softaudit.marker_column(r.relation) IS NOT NULL AND c.relname <> ALL (r.keep_unique)
       AND NOT (format('(%I IS NULL)', softaudit.marker_column(r.relation)) = ANY (COALESCE((softaudit.index_parts(i.indexrelid)).conditions, '{}'))
                OR format('%I IS NULL', softaudit.marker_column(r.relation)) = ANY (COALESCE((softaudit.index_parts(i.indexrelid)).conditions, '{}')))
       AND softaudit.why_kept(i.indexrelid, COALESCE((SELECT k.oid FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype IN ('u', 'x')), 0)) IS NULL;
    result := result || COALESCE(more, '[]');

    -- indexes that are read, of which a fifth or more is deleted rows
    SELECT jsonb_agg(jsonb_build_object('of', r.table_id, 'severity', 'INFO', 'object', i.indexrelid::regclass::text,
               'advice', format('index "%s" is read and holds about %s of %s rows deleted: one over live rows would be smaller', i.indexrelid::regclass, d.n, c.reltuples::bigint),
               'sql', softaudit.live_index_sql(r.relation, false, VARIADIC k.names)) ORDER BY i.indexrelid::regclass::text) INTO more
      FROM softaudit.registry r
      JOIN pg_class c ON c.oid = r.relation AND c.relkind = 'r'
      JOIN pg_index i ON i.indrelid = r.relation AND NOT i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indisvalid
      JOIN pg_stat_user_indexes s ON s.indexrelid = i.indexrelid AND s.idx_scan > 0
     CROSS JOIN LATERAL (SELECT array_agg(a.attname ORDER BY u.ord) AS names FROM unnest(i.indkey::int2[]) WITH ORDINALITY u (n, ord)
                           JOIN pg_attribute a ON a.attrelid = r.relation AND a.attnum = u.n WHERE u.ord <= i.indnkeyatts) k
     CROSS JOIN LATERAL (SELECT softaudit.deleted_estimate(r.relation, softaudit.marker_column(r.relation)) AS n) d
     WHERE softaudit.marker_column(r.relation) IS NOT NULL AND softaudit.marker_column(r.relation) <> ALL (k.names)
       AND c.reltuples > 0 AND d.n >= c.reltuples / 5
       AND NOT (softaudit.live_index_definition(r.relation, false, k.names)).is_there;
    result := result || COALESCE(more, '[]');

    -- what the purge needs: its own index, and one on each foreign key that refers to the table
    SELECT jsonb_agg(jsonb_build_object('of', r.table_id, 'severity', 'WARNING', 'object', r.relation::text,
               'advice', format('table "%s" is purged without an index that finds the rows: each run reads all of it', r.relation),
               'sql', CASE WHEN c.relkind = 'p' THEN format('CREATE INDEX ON %s (%I) WHERE %I IS NOT NULL;', r.relation, m.col, m.col)
                           ELSE format('CREATE INDEX CONCURRENTLY ON %s (%I) WHERE %I IS NOT NULL;', r.relation, m.col, m.col) END) ORDER BY r.table_id) INTO more
      FROM softaudit.registry r JOIN pg_class c ON c.oid = r.relation CROSS JOIN LATERAL (SELECT softaudit.marker_column(r.relation) AS col) m
     WHERE r.purge_after IS NOT NULL AND m.col IS NOT NULL AND softaudit.purge_index(r.relation, m.col) IS NULL;
    result := result || COALESCE(more, '[]');
    SELECT jsonb_agg(jsonb_build_object('of', r.table_id, 'severity', 'WARNING', 'object', f.conrelid::regclass::text,
               'advice', format('foreign key "%s" of table "%s" has no index: each row that is purged from "%s" reads all of it', f.conname, f.conrelid::regclass, r.relation),
               'sql', format('CREATE INDEX %s ON %s (%s);', CASE WHEN c.relkind = 'p' THEN '' ELSE 'CONCURRENTLY' END, f.conrelid::regclass,
                             (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY u.ord) FROM unnest(f.conkey) WITH ORDINALITY u (n, ord)
                                JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = u.n))) ORDER BY f.conrelid, f.conname) INTO more
      FROM softaudit.registry r JOIN pg_constraint f ON f.contype = 'f' AND f.confrelid = r.relation AND f.conparentid = 0
      JOIN pg_class c ON c.oid = f.conrelid
     WHERE (r.purge_after IS NOT NULL OR r.expire_after IS NOT NULL)
       AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = f.conrelid AND i.indisvalid AND i.indpred IS NULL
                          AND (i.indkey::int2[])[0 : cardinality(f.conkey) - 1] @> f.conkey);
    result := result || COALESCE(more, '[]');

    -- triggers of ours that do not fire
    SELECT jsonb_agg(jsonb_build_object('of', r.table_id, 'severity', 'ERROR', 'object', g.tgrelid::regclass::text,
               'advice', format('trigger "%s" of table "%s" is disabled', g.tgname, g.tgrelid::regclass),
               'sql', format('ALTER TABLE ONLY %s ENABLE %sTRIGGER %I;', g.tgrelid::regclass, CASE WHEN r.replicated AND g.tgname IN ('!softaudit_capture', '!softaudit_truncate') THEN 'ALWAYS ' END, g.tgname))
               ORDER BY g.tgrelid::regclass::text, g.tgname) INTO more
      FROM pg_trigger g JOIN softaudit.registry r ON r.relation = g.tgrelid OR r.relation = COALESCE(pg_partition_root(g.tgrelid), g.tgrelid)
     WHERE g.tgname LIKE '!softaudit\_%' AND g.tgenabled IN ('D', 'R');
    result := result || COALESCE(more, '[]');

    -- who is without the library
    SELECT jsonb_agg(jsonb_build_object('of', NULL, 'severity', 'WARNING', 'object', 'session ' || p,
               'advice', format('session %s of "%s" may be without the library: it sees deleted rows', p, (SELECT a.usename FROM pg_stat_activity a WHERE a.pid = p)),
               'sql', format('SELECT pg_terminate_backend(%s);', p)) ORDER BY p) INTO more
      FROM unnest(softaudit.open_sessions()) p
     WHERE EXISTS (SELECT FROM pg_trigger t WHERE t.tgfoid = 'softaudit.mark()'::regprocedure);
    result := result || COALESCE(more, '[]');

    -- parents whose DELETE removes soft-deleted tables' rows for good
    SELECT jsonb_agg(jsonb_build_object('of', r.table_id, 'severity', 'WARNING', 'object', f.confrelid::regclass::text,
               'advice', format('a DELETE on table "%s" removes rows of "%s" for good: foreign key "%s" cascades', f.confrelid::regclass, r.relation, f.conname),
               'sql', format('SELECT softaudit.enable(%L);', f.confrelid::regclass)) ORDER BY f.confrelid::regclass::text, f.conname) INTO more
      FROM softaudit.registry r JOIN pg_constraint f ON f.contype = 'f' AND f.conrelid = r.relation AND f.confdeltype = 'c' AND f.conparentid = 0
     WHERE softaudit.marker_column(r.relation) IS NOT NULL AND NOT softaudit.is_marked(f.confrelid);
    result := result || COALESCE(more, '[]');

    -- the log has nowhere to go but its default partition
    SELECT jsonb_agg(jsonb_build_object('of', NULL, 'severity', 'WARNING', 'object', 'log group ' || g.group_name,
               'advice', format('log group "%s" has no partition for what follows', g.group_name),
               'sql', 'CALL softaudit.maintain();') ORDER BY g.group_id) INTO more
      FROM softaudit.log_groups g
     WHERE NOT softaudit.is_ahead(g.group_id) AND EXISTS (SELECT FROM softaudit.registry r WHERE r.log_group = g.group_id AND r.relation IS NOT NULL);
    result := result || COALESCE(more, '[]');

    -- holds that may have been forgotten
    SELECT jsonb_agg(jsonb_build_object('of', r.table_id, 'severity', 'INFO', 'object', r.relation::text,
               'advice', format('%s of table "%s" is held since %s: %s', CASE WHEN h.row_ref IS NULL THEN 'the whole' ELSE 'a row' END, r.relation, h.held_at::date, h.reason),
               'sql', CASE WHEN h.row_ref IS NULL THEN format('SELECT softaudit.release(%L);', r.relation)
                           WHEN cardinality(r.key_columns) = 1 THEN format('SELECT softaudit.release(%L, %L);', r.relation, h.row_key ->> r.key_columns[1]::text)
                           ELSE format('SELECT softaudit.release(%L, %L);', r.relation, h.row_key) END) ORDER BY h.hold_id) INTO more
      FROM softaudit.holds h JOIN softaudit.registry r ON r.table_id = h.table_id
     WHERE h.held_at < now() - interval '1 year' AND r.relation IS NOT NULL;
    RETURN result || COALESCE(more, '[]');
END
$$;
COMMENT ON FUNCTION softaudit.advise_run_apply() IS
'advise_run() as the extension''s owner';
