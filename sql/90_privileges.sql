/*
 * ---- privileges ----
 *
 * Everybody may look the schema's functions up.  enable(), disable(), reset() and
 * history() check their caller; act_as(), actor(), is_active() and changed_columns()
 * give nothing away.  All else is for the owner until it is granted.
 */
DO $$
DECLARE
    f record;
BEGIN
    FOR f IN SELECT p.oid::pg_catalog.regprocedure AS signature, p.proname, p.prokind
               FROM pg_catalog.pg_proc p
              WHERE p.pronamespace = 'softaudit'::pg_catalog.regnamespace
                AND p.proname NOT IN ('enable', 'disable', 'reset', 'history', 'act_as', 'actor', 'is_active',
                                      'changed_columns', 'key_from_image', 'check_top_level', 'maintain_step')
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON %s %s FROM PUBLIC',
                                  CASE f.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END, f.signature);
    END LOOP;
END
$$;
GRANT USAGE ON SCHEMA softaudit TO PUBLIC;
