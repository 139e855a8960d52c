/*
 * ---- how it stands, and what to look at ----
 *
 * From the catalogs and their estimates; of the tables themselves just the oldest deleted
 * row is read, where an index has it.  Both may be polled.
 */

CREATE FUNCTION softaudit.preload_of(role oid) RETURNS text
LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
    -- the first that there is: of the role in this database, of the role, of the database, of all, of the command line, of the files
    SELECT COALESCE((SELECT substr(c, strpos(c, '=') + 1)
                       FROM pg_db_role_setting s CROSS JOIN LATERAL unnest(s.setconfig) c
                      WHERE s.setrole IN ($1, 0) AND s.setdatabase IN (SELECT d.oid FROM pg_database d WHERE d.datname = current_database() UNION ALL SELECT 0)
                        AND c LIKE 'session\_preload\_libraries=%'
                      ORDER BY s.setrole = 0, s.setdatabase = 0 LIMIT 1),
                    (SELECT s.setting FROM pg_settings s WHERE s.name = 'session_preload_libraries' AND s.source = 'command line'),
                    (SELECT f.setting FROM pg_file_settings f WHERE f.name = 'session_preload_libraries' AND f.error IS NULL ORDER BY f.seqno DESC LIMIT 1))
$$;
COMMENT ON FUNCTION softaudit.preload_of(oid) IS
'the session_preload_libraries that a new session of this role has in this database, 0 for a role without a setting of its own; NULL if nothing sets it';

CREATE FUNCTION softaudit.preload_shared() RETURNS text
LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('ALTER SYSTEM SET shared_preload_libraries = %s;', string_agg(quote_literal(u.lib), ', ' ORDER BY u.ord))
      FROM unnest(softaudit.preloaded(current_setting('shared_preload_libraries')) || 'softaudit'::text) WITH ORDINALITY u (lib, ord)
$$;
COMMENT ON FUNCTION softaudit.preload_shared() IS
'the SQL that has all processes of the server load the library from its next start on';

CREATE FUNCTION softaudit.open_sessions() RETURNS TABLE (pid integer, worker text)
LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
    -- those that began before the first soft-deleted table, and those whose settings do not name the library: settings once a role
    WITH roles AS MATERIALIZED (
        SELECT r.usesysid, 'softaudit' = ANY (softaudit.preloaded(softaudit.preload_of(r.usesysid))) AS is_preloaded
          FROM (SELECT DISTINCT a.usesysid FROM pg_stat_activity a WHERE a.datname = current_database() AND a.backend_type = 'client backend') r)
    SELECT a.pid, NULL
      FROM pg_stat_activity a
      JOIN roles r ON r.usesysid = a.usesysid
     WHERE a.datname = current_database() AND a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
       AND NOT 'softaudit' = ANY (softaudit.preloaded(current_setting('shared_preload_libraries')))
       AND (a.backend_start < (SELECT min(e.happened_at) FROM softaudit.events e
                                WHERE e.event IN ('ENABLE', 'SETTINGS') AND (e.details ->> 'soft_delete')::boolean)
            OR NOT r.is_preloaded)
     UNION ALL
    -- others' background workers, which no setting of sessions reaches
    SELECT a.pid, a.backend_type
      FROM pg_stat_activity a
     WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
       AND a.backend_type NOT IN ('client backend', 'autovacuum worker', 'parallel worker', 'walsender', 'slotsync worker', 'REPACK decoding worker', 'standalone backend')
       AND a.backend_type NOT LIKE 'logical replication %' AND a.backend_type NOT LIKE 'datachecksum%' AND a.backend_type NOT LIKE 'softaudit %'
       AND NOT 'softaudit' = ANY (softaudit.preloaded(current_setting('shared_preload_libraries')))
$$;
COMMENT ON FUNCTION softaudit.open_sessions() IS
'the sessions of this database that may be without the library, and of background workers what they are';

CREATE FUNCTION softaudit.markers() RETURNS TABLE (table_id integer, relation regclass, marker name)
LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
    -- as marker_column() has it, which would be called once a table
    SELECT r.table_id, r.relation, m.attname
      FROM softaudit.registry r
      LEFT JOIN (SELECT DISTINCT ON (t.tgrelid) t.tgrelid, a.attname
                   FROM pg_trigger t
                   JOIN pg_attribute a ON a.attrelid = t.tgrelid AND a.attnum = t.tgattr[0]
                  WHERE t.tgfoid = 'softaudit.mark()'::regprocedure AND t.tgtype & 1 = 0 AND t.tgattr[0] IS NOT NULL) m ON m.tgrelid = r.relation
     WHERE r.relation IS NOT NULL
$$;
COMMENT ON FUNCTION softaudit.markers() IS
'the tables that are enabled and their marker columns, NULL where there is none';

CREATE FUNCTION softaudit.leaf_estimates() RETURNS TABLE (table_id integer, leaf regclass, marker name, finder regclass, n_all double precision, n_deleted double precision)
LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
    -- all tables at once: due_leaves() of one plans for as many as all have
    WITH RECURSIVE tree (table_id, relid, marker) AS (
        SELECT m.table_id, m.relation::oid, m.marker FROM softaudit.markers() m
        UNION
        SELECT t.table_id, i.inhrelid, t.marker FROM tree t JOIN pg_inherits i ON i.inhparent = t.relid)
    SELECT t.table_id, c.oid::regclass, t.marker, x.oid::regclass, greatest(c.reltuples, 0),
           CASE WHEN t.marker IS NULL THEN NULL
                WHEN x.is_partial AND x.reltuples >= 0 THEN x.reltuples
                ELSE greatest(c.reltuples, 0) * (1 - COALESCE((SELECT s.null_frac FROM pg_stats s JOIN pg_namespace n ON n.nspname = s.schemaname
                                                    WHERE n.oid = c.relnamespace AND s.tablename = c.relname AND s.attname = t.marker AND NOT s.inherited), 1)) END
      FROM tree t
      JOIN pg_class c ON c.oid = t.relid AND c.relkind = 'r'
      LEFT JOIN LATERAL (SELECT ic.oid, ic.reltuples, i.indpred IS NOT NULL AS is_partial
                           FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid
                          WHERE i.indexrelid = softaudit.purge_index(t.relid, t.marker)) x ON true
$$;
COMMENT ON FUNCTION softaudit.leaf_estimates() IS
'the relations that hold the rows of the tables that are enabled: the index that finds deleted rows, about how many rows and deleted rows as of the last VACUUM or ANALYZE';

CREATE FUNCTION softaudit.oldest_deleted(leaf regclass, column_name name) RETURNS timestamptz
LANGUAGE sql VOLATILE STRICT PARALLEL UNSAFE
-- the index, however small the table and whatever the caller has switched off
SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO' SET enable_seqscan = off SET enable_indexscan = on AS $$
    SELECT softaudit.lifecycle_query(leaf, format('SELECT pg_catalog.min(t.%I)::pg_catalog.text FROM ONLY %s t WHERE t.%I IS NOT NULL', column_name, leaf, column_name))::timestamptz
$$;
COMMENT ON FUNCTION softaudit.oldest_deleted(regclass, name) IS
'when the oldest deleted row of a relation was deleted; for those that purge_index() has an index of';

CREATE FUNCTION softaudit.later(moment timestamptz, by interval) RETURNS timestamptz
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' AS $$
BEGIN
    RETURN moment + by;
EXCEPTION WHEN datetime_field_overflow THEN
    RETURN 'infinity';
END
$$;
COMMENT ON FUNCTION softaudit.later(timestamptz, interval) IS
'a moment and an interval after it; infinity for what is past all timestamps';

CREATE FUNCTION softaudit.status_run() RETURNS jsonb
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_lifecycle_call';
COMMENT ON FUNCTION softaudit.status_run() IS
'what softaudit.status shows; for whoever may SELECT that';

CREATE FUNCTION softaudit.status_run_apply() RETURNS jsonb
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp SET IntervalStyle = 'postgres' SET TimeZone = 'UTC' SET DateStyle = 'ISO' AS $$
DECLARE
    result jsonb;
    advice jsonb;
    sessions integer[];
    maintained timestamptz;
BEGIN
    IF to_regclass('softaudit.registry') IS NULL THEN
        RETURN '[]';
    END IF;
    IF NOT has_table_privilege(softaudit.caller(), 'softaudit.status', 'SELECT') THEN
        RAISE EXCEPTION 'permission denied for view status'
            USING ERRCODE = 'insufficient_privilege', HINT = 'GRANT SELECT ON softaudit.status TO the role that is to read it.';
    END IF;
    SELECT max(u.finished_at) INTO maintained FROM softaudit.runs u WHERE u.kind = 'MAINTAIN';
    advice := softaudit.advise_run_apply();
    sessions := ARRAY(SELECT o.pid FROM softaudit.open_sessions() o ORDER BY o.pid);
    WITH leaves AS MATERIALIZED (
        -- a minimum without an index would be a scan, and one of some leaves not the table's
        SELECT l.*, bool_and(l.finder IS NOT NULL) OVER (PARTITION BY l.table_id) AS is_found FROM softaudit.leaf_estimates() l),
    tables AS MATERIALIZED (
        SELECT l.table_id, sum(l.n_all)::bigint AS n_all, least(sum(l.n_deleted)::bigint, sum(l.n_all)::bigint) AS n_deleted,
               min(CASE WHEN l.is_found THEN softaudit.oldest_deleted(l.leaf, l.marker) END) AS oldest
          FROM leaves l GROUP BY l.table_id),
    groups AS MATERIALIZED (
        SELECT g.group_id, COALESCE(sum(pg_total_relation_size(b.leaf)), 0) AS bytes, count(b.leaf) AS n
          FROM softaudit.log_groups g LEFT JOIN LATERAL softaudit.partition_bounds(g.group_id) b ON true GROUP BY g.group_id),
    held AS MATERIALIZED (
        SELECT h.table_id, bool_or(h.row_ref IS NULL) AS whole, count(h.row_ref) AS n_rows FROM softaudit.holds h GROUP BY h.table_id),
    purged AS MATERIALIZED (
        SELECT u.table_id, max(u.finished_at) AS at FROM softaudit.runs u GROUP BY u.table_id),
    warned AS MATERIALIZED (
        SELECT a.value -> 'of' AS of, jsonb_agg(a.value -> 'advice' ORDER BY a.ordinality) AS warnings
          FROM jsonb_array_elements(advice) WITH ORDINALITY a GROUP BY a.value -> 'of')
    SELECT jsonb_agg(jsonb_build_object(
               'relation', r.relation::oid, 'schema_name', r.schema_name, 'table_name', r.table_name,
               'soft_delete', m.marker IS NOT NULL, 'audit', softaudit.trigger_args(r.relation) IS NOT NULL,
               'deleted_at', m.marker, 'images', r.images, 'partition_by', r.partition_by, 'keep_log', r.keep_log, 'purge_after', r.purge_after,
               'expire_column', r.expire_column, 'expire_after', r.expire_after,
               'held', COALESCE(h.whole, false), 'held_rows', COALESCE(h.n_rows, 0),
               'live_rows', t.n_all - COALESCE(t.n_deleted, 0), 'deleted_rows', CASE WHEN m.marker IS NOT NULL THEN COALESCE(t.n_deleted, 0) END,
               'oldest_deleted', t.oldest, 'log_bytes', g.bytes, 'log_partitions', g.n,
               'last_purge', p.at, 'next_purge', softaudit.later(t.oldest, r.purge_after),
               'last_maintain', maintained, 'maintain_lag', now() - maintained,
               'unprotected_sessions', CASE WHEN m.marker IS NOT NULL THEN to_jsonb(sessions) ELSE '[]' END,
               'warnings', COALESCE(w.warnings, '[]')) ORDER BY r.table_id) INTO result
      FROM softaudit.registry r
      JOIN softaudit.markers() m ON m.table_id = r.table_id
      LEFT JOIN tables t ON t.table_id = r.table_id
      LEFT JOIN groups g ON g.group_id = r.log_group
      LEFT JOIN held h ON h.table_id = r.table_id
      LEFT JOIN purged p ON p.table_id = r.table_id
      LEFT JOIN warned w ON w.of = to_jsonb(r.table_id);
    RETURN COALESCE(result, '[]');
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
    own record;
    top bigint;
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
      JOIN (SELECT l.table_id, l.marker, sum(l.n_deleted)::bigint AS n FROM softaudit.leaf_estimates() l
             WHERE l.marker IS NOT NULL GROUP BY l.table_id, l.marker) d ON d.table_id = r.table_id
     WHERE d.marker <> ALL (k.names)
       AND c.reltuples > 0 AND d.n >= c.reltuples / 5
       -- of a table without a marker the function raises; in no other place is the order sure
       AND NOT CASE WHEN softaudit.marker_column_above(r.relation) IS NOT NULL THEN (softaudit.live_index_definition(r.relation, false, k.names)).is_there ELSE true END;
    result := result || COALESCE(more, '[]');

    -- what the purge needs: its own index, and one on each foreign key that refers to the table
    SELECT jsonb_agg(jsonb_build_object('of', r.table_id, 'severity', 'WARNING', 'object', r.relation::text,
               'advice', format('table "%s" is purged without an index that finds the rows: each run reads all of it', r.relation),
               'sql', CASE WHEN c.relkind = 'p' THEN format('CREATE INDEX ON %s (%I) WHERE %I IS NOT NULL;', r.relation, m.marker, m.marker)
                           ELSE format('CREATE INDEX CONCURRENTLY ON %s (%I) WHERE %I IS NOT NULL;', r.relation, m.marker, m.marker) END) ORDER BY r.table_id) INTO more
      FROM softaudit.registry r JOIN pg_class c ON c.oid = r.relation JOIN softaudit.markers() m ON m.table_id = r.table_id
     WHERE r.purge_after IS NOT NULL AND m.marker IS NOT NULL AND softaudit.purge_index(r.relation, m.marker) IS NULL;
    result := result || COALESCE(more, '[]');
    -- the same of a partition, or of an inheritance child, where the table has one
    SELECT jsonb_agg(jsonb_build_object('of', r.table_id, 'severity', 'WARNING', 'object', l.leaf::text,
               'advice', format('%s "%s" of table "%s" has no valid index that finds its deleted rows: each purge reads all of it', CASE WHEN c.relkind = 'p' THEN 'partition' ELSE 'child' END, l.leaf, r.relation),
               'sql', COALESCE((SELECT format('REINDEX INDEX CONCURRENTLY %s;', i.indexrelid::regclass)
                                  FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
                                 WHERE i.indrelid = l.leaf AND NOT i.indisvalid AND a.attname = m.marker
                                   AND pg_get_expr(i.indpred, i.indrelid) = format('(%I IS NOT NULL)', m.marker) ORDER BY i.indexrelid LIMIT 1),
                               format('CREATE INDEX CONCURRENTLY ON %s (%I) WHERE %I IS NOT NULL;', l.leaf, m.marker, m.marker))) ORDER BY r.table_id, l.leaf::text) INTO more
      FROM softaudit.registry r JOIN pg_class c ON c.oid = r.relation AND c.relhassubclass JOIN softaudit.markers() m ON m.table_id = r.table_id
     CROSS JOIN LATERAL unnest(softaudit.due_leaves(r.relation)) l (leaf)
     WHERE m.marker IS NOT NULL AND l.leaf <> r.relation AND softaudit.purge_index(l.leaf, m.marker) IS NULL
       AND softaudit.purge_index(r.relation, m.marker) IS NOT NULL;
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
    IF EXISTS (SELECT FROM pg_trigger t WHERE t.tgfoid = 'softaudit.mark()'::regprocedure) THEN
        SELECT jsonb_agg(jsonb_build_object('of', NULL, 'severity', 'WARNING', 'object', 'session ' || o.pid,
                   'advice', CASE WHEN o.worker IS NULL THEN format('session %s of "%s" may be without the library: it sees deleted rows', o.pid, (SELECT a.usename FROM pg_stat_activity a WHERE a.pid = o.pid))
                                  ELSE format('background worker %s (%s) is without the library: it sees deleted rows', o.pid, o.worker) END,
                   'sql', CASE WHEN o.worker IS NULL THEN format('SELECT pg_terminate_backend(%s);', o.pid) ELSE softaudit.preload_shared() END) ORDER BY o.pid) INTO more
          FROM softaudit.open_sessions() o;
        result := result || COALESCE(more, '[]');
        IF NOT 'softaudit' = ANY (softaudit.preloaded(current_setting('shared_preload_libraries'))) THEN
            -- as a copy of a database, or one that was restored, does not
            IF NOT 'softaudit' = ANY (softaudit.preloaded(softaudit.preload_of(0))) THEN
                result := result || jsonb_build_array(jsonb_build_object('of', NULL, 'severity', 'ERROR', 'object', format('database %I', current_database()),
                       'advice', format('new sessions of database "%s" do not load the library: they see deleted rows', current_database()),
                       'sql', 'CALL softaudit.maintain();'));
            END IF;
            IF current_setting('cron.use_background_workers', true) = 'on' THEN
                result := result || jsonb_build_array(jsonb_build_object('of', NULL, 'severity', 'WARNING', 'object', 'pg_cron',
                       'advice', 'pg_cron runs its jobs in background workers, which are without the library: they see deleted rows',
                       'sql', softaudit.preload_shared()));
            END IF;
        END IF;
    END IF;

    -- parents whose DELETE removes soft-deleted tables' rows for good
    SELECT jsonb_agg(jsonb_build_object('of', r.table_id, 'severity', 'WARNING', 'object', f.confrelid::regclass::text,
               'advice', format('a DELETE on table "%s" removes rows of "%s" for good: foreign key "%s" cascades', f.confrelid::regclass, r.relation, f.conname),
               'sql', format('SELECT softaudit.enable(%L);', f.confrelid::regclass)) ORDER BY f.confrelid::regclass::text, f.conname) INTO more
      FROM softaudit.registry r JOIN pg_constraint f ON f.contype = 'f' AND f.conrelid = r.relation AND f.confdeltype = 'c' AND f.conparentid = 0
     WHERE softaudit.marker_column(r.relation) IS NOT NULL AND NOT softaudit.is_marked(f.confrelid);
    result := result || COALESCE(more, '[]');

    -- users' triggers for DELETE that a soft delete, an UPDATE of the marker, does not fire
    SELECT jsonb_agg(jsonb_build_object('of', r.table_id, 'severity', 'INFO', 'object', g.tgrelid::regclass::text,
               'advice', format('trigger "%s" of table "%s" for DELETE does not fire at a soft delete, but when the row is purged: if it is to act at both, it wants UPDATE OF %I, too', g.tgname, g.tgrelid::regclass, a.attname),
               'sql', format('SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = %L::regclass AND tgname = %L;', g.tgrelid::regclass, g.tgname))
               ORDER BY g.tgrelid::regclass::text, g.tgname) INTO more
      FROM softaudit.registry r CROSS JOIN LATERAL (SELECT t.relid FROM pg_partition_tree(r.relation) t UNION SELECT r.relation) t
      JOIN pg_trigger g ON g.tgrelid = t.relid
      JOIN pg_attribute a ON a.attrelid = g.tgrelid AND a.attname = softaudit.marker_column(r.relation)
     WHERE NOT g.tgisinternal AND g.tgparentid = 0 AND g.tgenabled IN ('O', 'A') AND g.tgtype & 8 <> 0
       AND (g.tgtype & 16 = 0 OR cardinality(g.tgattr::int2[]) > 0 AND a.attnum <> ALL (g.tgattr::int2[]))
       AND g.tgfoid NOT IN ('softaudit.mark()'::regprocedure, 'softaudit.capture()'::regprocedure, 'softaudit.follow_keys()'::regprocedure);
    result := result || COALESCE(more, '[]');

    -- the log has nowhere to go but its default partition
    SELECT jsonb_agg(jsonb_build_object('of', NULL, 'severity', 'WARNING', 'object', 'log group ' || g.group_name,
               'advice', format('log group "%s" has no partition for what follows', g.group_name),
               'sql', 'CALL softaudit.maintain();') ORDER BY g.group_id) INTO more
      FROM softaudit.log_groups g
     WHERE NOT softaudit.is_ahead(g.group_id) AND EXISTS (SELECT FROM softaudit.registry r WHERE r.log_group = g.group_id AND r.relation IS NOT NULL);
    result := result || COALESCE(more, '[]');

    -- sequences behind their tables, as after a move by logical replication, which leaves sequences out
    FOR own IN SELECT v.* FROM (VALUES ('log_sessions', 'session_id', 'log_session_id_seq'), ('events', 'event_id', 'event_id_seq'),
                                       ('runs', 'run_id', 'run_id_seq'), ('holds', 'hold_id', 'hold_id_seq')) v (tab, col, seq)
                WHERE to_regclass('softaudit.' || v.seq) IS NOT NULL LOOP
        EXECUTE format('SELECT max(%I) FROM softaudit.%I', own.col, own.tab) INTO top;
        CONTINUE WHEN top IS NULL OR top <= COALESCE(pg_sequence_last_value(('softaudit.' || own.seq)::regclass), 0);
        result := result || jsonb_build_array(jsonb_build_object('of', NULL, 'severity', 'ERROR', 'object', 'softaudit.' || own.seq,
               'advice', format('sequence "%s" is behind table "softaudit.%s": its numbers come a second time', own.seq, own.tab),
               'sql', format('SELECT setval(%L, %s);', 'softaudit.' || own.seq, top)))
            -- it came here with these; nothing finds the largest number in the log quickly
            || CASE WHEN own.tab = 'log_sessions' THEN
               jsonb_build_array(jsonb_build_object('of', NULL, 'severity', 'ERROR', 'object', 'softaudit.log_audit_id_seq',
               'advice', 'sequence "log_audit_id_seq" may be behind table "softaudit.log": its numbers come a second time',
               'sql', 'SELECT setval(''softaudit.log_audit_id_seq'', max(audit_id)) FROM softaudit.log;')) ELSE '[]' END;
    END LOOP;

    -- holds that may have been forgotten; by number where the table is gone, or the key is none that one writes
    SELECT jsonb_agg(jsonb_build_object('of', h.table_id, 'severity', 'INFO', 'object', n.name,
               'advice', format('%s of table "%s" is held since %s: %s', CASE WHEN h.row_ref IS NULL THEN 'the whole' ELSE 'a row' END, n.name, h.held_at::date, h.reason),
               'sql', CASE WHEN h.row_ref IS NULL AND r.relation IS NOT NULL THEN format('SELECT softaudit.release(%L);', r.relation)
                           WHEN r.relation IS NOT NULL AND jsonb_typeof(h.row_key -> r.key_columns[1]::text) IN ('string', 'number', 'boolean') AND cardinality(r.key_columns) = 1
                           THEN format('SELECT softaudit.release(%L, %L);', r.relation, h.row_key ->> r.key_columns[1]::text)
                           ELSE format('SELECT softaudit.release_hold(%s);', h.hold_id) END) ORDER BY h.hold_id) INTO more
      FROM softaudit.holds h JOIN softaudit.registry r ON r.table_id = h.table_id
     CROSS JOIN LATERAL (SELECT COALESCE(r.relation::text, format('%I.%I', r.schema_name, r.table_name)) AS name) n
     WHERE h.held_at < now() - interval '1 year';
    RETURN result || COALESCE(more, '[]');
END
$$;
COMMENT ON FUNCTION softaudit.advise_run_apply() IS
'advise_run() as the extension''s owner';
