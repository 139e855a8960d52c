\echo Use "CREATE EXTENSION softaudit" to load this file. \quit

/*
 * The schema is named in the control file, so it is no member of the extension and
 * may have been there before: left by an earlier softaudit with its log, made by a
 * restore, or planted by somebody.  Only the first two are let in: a superuser must
 * own it, and it may hold nothing but our own tables.
 */
SET LOCAL search_path TO pg_catalog, pg_temp;

DO $$
DECLARE
    nsp oid := (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'softaudit');
    stray text;
BEGIN
    IF NOT (SELECT r.rolsuper FROM pg_catalog.pg_namespace n
              JOIN pg_catalog.pg_roles r ON r.oid = n.nspowner WHERE n.oid = nsp) THEN
        RAISE EXCEPTION 'schema "softaudit" is not owned by a superuser'
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'Drop or rename the schema, or hand it to a superuser after looking at what it holds.';
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.pg_namespace n
                 CROSS JOIN LATERAL pg_catalog.aclexplode(n.nspacl) a
                 LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
                WHERE n.oid = nsp AND a.privilege_type = 'CREATE' AND NOT COALESCE(r.rolsuper, false)) THEN
        RAISE EXCEPTION 'schema "softaudit" lets others than superusers create objects'
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'REVOKE CREATE ON SCHEMA softaudit from whoever has it, after looking at what the schema holds.';
    END IF;
    SELECT o.what INTO stray
      FROM (SELECT 'function ' || p.oid::pg_catalog.regprocedure AS what
              FROM pg_catalog.pg_proc p WHERE p.pronamespace = nsp
            UNION ALL
            SELECT 'operator ' || o.oid::pg_catalog.regoperator
              FROM pg_catalog.pg_operator o WHERE o.oprnamespace = nsp
            UNION ALL
            SELECT 'type ' || pg_catalog.format_type(t.oid, NULL)
              FROM pg_catalog.pg_type t
              LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem AND e.typarray = t.oid
             WHERE t.typnamespace = nsp AND COALESCE(e.typrelid, t.typrelid) = 0
            UNION ALL
            SELECT 'relation ' || c.oid::pg_catalog.regclass
              FROM pg_catalog.pg_class c
              JOIN pg_catalog.pg_roles r ON r.oid = c.relowner
             WHERE c.relnamespace = nsp AND c.relkind NOT IN ('i', 'I')
               AND NOT (r.rolsuper AND c.relname ~ '^(registry|replaced_constraints|holds|runs|progress|events|changes|log|log_groups|log_sessions|log_secret|log_g[0-9]+(_[0-9a-z]+)?|[a-z_]+_seq)$')
           ) o LIMIT 1;
    IF stray IS NOT NULL THEN
        RAISE EXCEPTION 'schema "softaudit" holds %, which is not softaudit''s', stray
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Remove it, or drop the schema, before CREATE EXTENSION softaudit.';
    END IF;
END
$$;
