/*
 * ---- privileges ----
 *
 * Everybody may look the schema's functions up.  enable(), disable(), reset() and
 * history() check their caller; act_as(), actor(), is_active() and changed_columns()
 * give nothing away; maintain_step() checks for EXECUTE on maintain().  All else is for the owner until it is granted.
 */
DO $$
DECLARE
    f record;
BEGIN
    FOR f IN SELECT p.oid::pg_catalog.regprocedure AS signature, p.proname, p.prokind
               FROM pg_catalog.pg_proc p
              WHERE p.pronamespace = 'softaudit'::pg_catalog.regnamespace
                AND p.proname NOT IN ('enable', 'disable', 'reset', 'history', 'act_as', 'actor', 'is_active',
                                      'changed_columns', 'key_from_image', 'check_top_level', 'maintain_step', 'maintain_groups')
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON %s %s FROM PUBLIC',
                                  CASE f.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END, f.signature);
    END LOOP;
END
$$;
GRANT USAGE ON SCHEMA softaudit TO PUBLIC;

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
        FOR member IN SELECT c.oid::pg_catalog.regclass AS name, c.relkind
                        FROM pg_catalog.pg_depend d
                        JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'softaudit'
                        JOIN pg_catalog.pg_class c ON c.oid = d.objid
                       WHERE d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
                         AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype = 'e'
        LOOP
            EXECUTE pg_catalog.format('ALTER EXTENSION softaudit DROP %s %s',
                                      CASE member.relkind WHEN 'v' THEN 'VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
                                      member.name);
        END LOOP;
    END IF;
END
$$;
