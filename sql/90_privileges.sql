/*
 * ---- privileges ----
 *
 * Everybody may look the schema's functions up.  enable(), disable(), reset() and
 * history() check their caller; act_as(), actor(), is_active() and changed_columns()
 * give nothing away; purge() and expire() are for owners of tables, and the steps of maintain()
 * check for EXECUTE on that.  All else is for the owner until it is granted.
 */
DO $$
DECLARE
    f record;
    grantee text;
BEGIN
    FOR f IN SELECT p.oid, p.oid::pg_catalog.regprocedure AS signature, p.proname, p.proowner,
                    CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END AS kind
               FROM pg_catalog.pg_proc p WHERE p.pronamespace = 'softaudit'::pg_catalog.regnamespace
    LOOP
        -- default privileges may have given it to others than PUBLIC, too
        FOR grantee IN SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::pg_catalog.regrole::text END
                         FROM pg_catalog.pg_proc p
                        CROSS JOIN LATERAL pg_catalog.aclexplode(COALESCE(p.proacl, pg_catalog.acldefault('f', p.proowner))) a
                        WHERE p.oid = f.oid AND a.grantee <> f.proowner
        LOOP
            EXECUTE pg_catalog.format('REVOKE ALL ON %s %s FROM %s', f.kind, f.signature, grantee);
        END LOOP;
        -- capture() too: who adds a partition to his table clones its triggers; it checks what it is attached to
        IF f.proname IN ('enable', 'disable', 'reset', 'history', 'act_as', 'actor', 'is_active', 'changed_columns',
                         'key_from_image', 'capture', 'check_top_level', 'maintain_groups', 'maintain_begin', 'maintain_step', 'retention_step', 'sweep_sessions', 'maintain_due', 'maintain_purge',
                         'maintain_end', 'purge', 'purge_begin', 'purge_step', 'purge_again', 'expire', 'unexpire', 'erase_run', 'status_run', 'advise_run',
                         'mark', 'deletion_stamp', 'deletion_stamp_utc', 'refuse_deleted', 'with_deleted', 'only_deleted',
                         'marker_column', 'ancestors', 'marker_column_above', 'live_index_definition', 'index_parts', 'conjuncts', 'live_unique', 'live_index', 'live_index_sql', 'check_index_owner', 'follow_keys', 'followed', 'restore', 'restore_conflicts', 'may_look', 'key_text', 'key_join', 'collate_by', 'key_as_text', 'key_literal') THEN
            EXECUTE pg_catalog.format('GRANT EXECUTE ON %s %s TO PUBLIC', f.kind, f.signature);
        END IF;
    END LOOP;
END
$$;
GRANT USAGE ON SCHEMA softaudit TO PUBLIC;
SELECT softaudit.own_alone('softaudit.status');

/*
 * A log that an earlier softaudit left is taken up at once: its guards and its view
 * rest on functions that are only now there again.  Nothing of it becomes a member.
 */
DO $$
DECLARE
    member record;
BEGIN
    IF pg_catalog.to_regclass('softaudit.registry') IS NOT NULL THEN
        PERFORM softaudit.ensure_log();
        -- what was dropped and renamed while nobody was told
        UPDATE softaudit.registry r SET relation = NULL, dropped_at = pg_catalog.now()
         WHERE r.relation IS NOT NULL AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = r.relation);
        UPDATE softaudit.registry r SET schema_name = n.nspname, table_name = c.relname
          FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.oid = r.relation AND (r.schema_name, r.table_name) <> (n.nspname, c.relname);
        FOR member IN SELECT c.oid::pg_catalog.regclass AS name, c.relkind
                        FROM pg_catalog.pg_depend d
                        JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'softaudit'
                        JOIN pg_catalog.pg_class c ON c.oid = d.objid
                       WHERE d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
                         AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype = 'e' AND c.relname <> 'status'
        LOOP
            EXECUTE pg_catalog.format('ALTER EXTENSION softaudit DROP %s %s',
                                      CASE member.relkind WHEN 'v' THEN 'VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
                                      member.name);
        END LOOP;
    END IF;
END
$$;
