-- Who may execute what: nothing that is not listed here is for PUBLIC, and what is, checks its
-- caller. A function that is new and open to everybody shows in the first list.

CREATE EXTENSION IF NOT EXISTS softaudit;
SET client_min_messages = warning;
SELECT CASE p.prokind WHEN 'p' THEN 'procedure ' ELSE 'function ' END || p.oid::regprocedure AS "for PUBLIC to execute"
  FROM pg_proc p
 WHERE p.pronamespace = 'softaudit'::regnamespace AND has_function_privilege('public', p.oid, 'EXECUTE')
 ORDER BY p.oid::regprocedure::text COLLATE "C";
-- of those the ones that act with the rights of the extension's owner: numbers of log groups, which say nothing
SELECT p.oid::regprocedure AS "for PUBLIC, as the owner"
  FROM pg_proc p
 WHERE p.pronamespace = 'softaudit'::regnamespace AND p.prosecdef AND has_function_privilege('public', p.oid, 'EXECUTE')
 ORDER BY p.oid::regprocedure::text COLLATE "C";
-- no definer that could be misled by a path
SELECT p.oid::regprocedure AS "a definer without a path" FROM pg_proc p
 WHERE p.pronamespace = 'softaudit'::regnamespace AND p.prosecdef AND NOT COALESCE(p.proconfig @> '{"search_path=pg_catalog, pg_temp"}', false);

-- a stranger: has USAGE on the schema as everybody has, and nothing on the table
CREATE ROLE regress_sau_stranger25;
CREATE ROLE regress_sau_owner25;
CREATE SCHEMA s25 AUTHORIZATION regress_sau_owner25;
GRANT USAGE ON SCHEMA s25 TO PUBLIC;
SET ROLE regress_sau_owner25;
CREATE TABLE s25.t (id int PRIMARY KEY, v text, u text UNIQUE, at timestamptz);
SELECT softaudit.enable('s25.t');
INSERT INTO s25.t VALUES (1, 'live'), (2, 'gone');
DELETE FROM s25.t WHERE id = 2;
RESET ROLE;
CREATE FUNCTION s25.try(stmt text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE stmt;
    RETURN 'allowed';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE;
END
$$;
SET ROLE regress_sau_stranger25;
SELECT s25.try(c) AS state, c AS call FROM unnest(ARRAY[
    'SELECT softaudit.enable(''s25.t'')', 'SELECT softaudit.disable(''s25.t'', force => true)', 'SELECT softaudit.reset(''s25.t'', ''images'')',
    'SELECT softaudit.expire(''s25.t'', ''at'', ''1 day'')', 'SELECT softaudit.unexpire(''s25.t'')',
    'SELECT softaudit.restore(''s25.t'', 2)', 'SELECT softaudit.restore(''s25.t'', ''2'')',
    'SELECT softaudit.live_unique(''s25.t'', ''v'')', 'SELECT softaudit.live_unique(''s25.t'', ''u'')', 'SELECT softaudit.live_index(''s25.t'', ''v'')',
    'SELECT * FROM softaudit.with_deleted(NULL::s25.t)', 'SELECT * FROM softaudit.only_deleted(NULL::s25.t)',
    'SELECT * FROM softaudit.history(''s25.t'', 1)', 'SELECT * FROM softaudit.history(''s25.t'', ''1'')',
    'SELECT * FROM softaudit.history_of(''s25'', ''t'', ''1'')',
    'SELECT * FROM softaudit.erase(''s25.t'', 1, ''r'')', 'SELECT * FROM softaudit.erase(''s25.t'', ''1'', ''r'', dry_run => true)',
    'SELECT softaudit.hold(''s25.t'', ''r'')', 'SELECT softaudit.hold(''s25.t'', 1, ''r'')', 'SELECT softaudit.hold(''s25.t'', ''1''::text, ''r'')',
    'SELECT softaudit.release(''s25.t'')', 'SELECT softaudit.release(''s25.t'', 1)', 'SELECT softaudit.release(''s25.t'', ''1'')',
    'SELECT * FROM softaudit.status', 'SELECT * FROM softaudit.advise()', 'SELECT softaudit.advise_run()', 'SELECT softaudit.status_run()',
    'SELECT softaudit.maintain_groups()', 'SELECT softaudit.maintain_begin()', 'SELECT softaudit.maintain_step(1)', 'SELECT softaudit.maintain_due()',
    'SELECT softaudit.maintain_purge(1)', 'SELECT softaudit.maintain_end(1)', 'SELECT softaudit.retention_step(1)', 'SELECT softaudit.sweep_sessions()', 'SELECT softaudit.purge_begin(''s25.t'', ''0 days'', 1, false)',
    'SELECT softaudit.purge_step(1)', 'SELECT softaudit.erase_run(''s25.t'', ''1'', ''r'', false)',
    'SELECT * FROM softaudit.log', 'SELECT * FROM softaudit.changes', 'SELECT * FROM softaudit.events', 'SET softaudit.hard_delete = on']) WITH ORDINALITY u (c, n) ORDER BY n;
-- procedures that commit: from the top
\set VERBOSITY sqlstate
CALL softaudit.purge('s25.t', '0 days');
CALL softaudit.purge('s25.t', '0 days', dry_run => true);
CALL softaudit.maintain();
-- all tables the caller owns: none
CALL softaudit.purge();
\set VERBOSITY default
-- and what gives nothing away
SELECT softaudit.is_active(), softaudit.act_as('me') IS NULL AS act_as;
RESET ROLE;
-- each function that is open to PUBLIC, called with what a stranger has: the name of a table, and NULLs; none does anything, whatever it says
CREATE FUNCTION s25.each() RETURNS TABLE (state text, call text) LANGUAGE plpgsql AS $$
DECLARE
    f record;
BEGIN
    FOR f IN SELECT p.oid::regprocedure AS sig, format('SELECT softaudit.%I(%s)', p.proname,
                    (SELECT string_agg(CASE a WHEN 'regclass'::regtype THEN '''s25.t''::regclass' WHEN 'anyelement'::regtype THEN 'NULL::s25.t'
                                                  WHEN 'oid'::regtype THEN '''s25.t''::regclass::oid' ELSE 'NULL::' || format_type(a, NULL) END, ', ' ORDER BY n)
                       FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY u (a, n))) AS stmt
               FROM pg_proc p
              WHERE p.pronamespace = 'softaudit'::regnamespace AND p.prokind = 'f' AND has_function_privilege('public', p.oid, 'EXECUTE')
                AND p.prorettype <> ALL ('{trigger,event_trigger}'::regtype[])
              ORDER BY 1
    LOOP
        state := s25.try(f.stmt);
        call := f.sig;
        RETURN NEXT;
    END LOOP;
END
$$;
SET ROLE regress_sau_stranger25;
SELECT * FROM s25.each() ORDER BY call COLLATE "C";
RESET ROLE;
-- nothing of it was done
SELECT id, deleted_at IS NOT NULL AS deleted FROM softaudit.with_deleted(NULL::s25.t) ORDER BY id;
SELECT count(*) FROM softaudit.runs WHERE run_by = 'regress_sau_stranger25';
SELECT softaudit.disable('s25.t', force => true);
DROP SCHEMA s25 CASCADE;
DROP ROLE regress_sau_owner25, regress_sau_stranger25;
