-- test/lint/catalog.sql - rules of the house that the installed extension's catalog entries show.
--
-- Run by test/suites in a database of its own; prints "ok" or "not ok" and what is wrong, a line a rule.
SET client_min_messages = warning;
CREATE EXTENSION softaudit;

-- what first use makes belongs to softaudit too
CREATE TABLE public.lint (id bigint PRIMARY KEY, t text);
SELECT softaudit.enable('public.lint', soft_delete => false);

CREATE TEMP VIEW ours AS
SELECT classid, objid FROM pg_depend
WHERE refclassid = 'pg_extension'::regclass AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'softaudit') AND deptype = 'e'
UNION
SELECT 'pg_class'::regclass, oid FROM pg_class
WHERE relnamespace = 'softaudit'::regnamespace AND relkind IN ('r', 'p', 'v', 'm') AND NOT relispartition
UNION
SELECT 'pg_proc'::regclass, oid FROM pg_proc WHERE pronamespace = 'softaudit'::regnamespace;

CREATE TEMP VIEW functions AS
SELECT p.*, p.oid::regprocedure::text AS name FROM pg_proc p JOIN ours ON (classid, objid) = ('pg_proc'::regclass, p.oid);

CREATE TEMP TABLE verdicts (id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY, rule text, wrong text);

INSERT INTO verdicts (rule, wrong) SELECT 'the extension has functions, relations and an event trigger', string_agg(what, ', ')
FROM unnest(ARRAY['pg_proc', 'pg_class', 'pg_event_trigger']) what
WHERE NOT EXISTS (SELECT FROM ours WHERE classid = what::regclass);

INSERT INTO verdicts (rule, wrong) SELECT 'every object has a comment', string_agg(what, ', ' ORDER BY what)
FROM (SELECT pg_describe_object(classid, objid, 0) AS what FROM ours
      -- row types and the indexes of constraints come with their relations
      WHERE classid IN ('pg_proc'::regclass, 'pg_class'::regclass, 'pg_event_trigger'::regclass)
      AND obj_description(objid, (SELECT relname FROM pg_class c WHERE c.oid = classid)) IS NULL) x;

INSERT INTO verdicts (rule, wrong) SELECT 'a SECURITY DEFINER function sets search_path to pg_catalog, pg_temp', string_agg(name, ', ' ORDER BY name)
FROM functions WHERE prosecdef AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (proconfig), false);

INSERT INTO verdicts (rule, wrong) SELECT 'nothing but SQL, PL/pgSQL and C', string_agg(name, ', ' ORDER BY name)
FROM functions WHERE prolang NOT IN (SELECT oid FROM pg_language WHERE lanname IN ('sql', 'plpgsql', 'c'));

INSERT INTO verdicts (rule, wrong) SELECT 'a C function is the library''s softaudit_*', string_agg(name, ', ' ORDER BY name)
FROM functions WHERE prolang = (SELECT oid FROM pg_language WHERE lanname = 'c') AND (probin !~ '^\$libdir/softaudit$' OR prosrc !~ '^softaudit_');

INSERT INTO verdicts (rule, wrong) SELECT 'a trigger function is not for PUBLIC to execute', string_agg(name, ', ' ORDER BY name)
FROM functions WHERE prorettype IN ('trigger'::regtype, 'event_trigger'::regtype) AND has_function_privilege('public', oid, 'EXECUTE')
-- whoever adds a partition clones the trigger, and needs this one
AND proname NOT IN ('capture', 'mark', 'follow_keys');

INSERT INTO verdicts (rule, wrong) SELECT 'an extension''s object is in softaudit', string_agg(what, ', ' ORDER BY what)
FROM (SELECT pg_describe_object(classid, objid, 0) AS what FROM ours
      WHERE classid = 'pg_proc'::regclass AND (SELECT pronamespace FROM pg_proc WHERE oid = objid) <> 'softaudit'::regnamespace
      OR classid = 'pg_class'::regclass AND (SELECT relnamespace FROM pg_class WHERE oid = objid) <> 'softaudit'::regnamespace) x;

INSERT INTO verdicts (rule, wrong) SELECT 'PUBLIC has no privilege to write what is in softaudit', string_agg(oid::regclass::text || ' ' || privilege, ', ' ORDER BY 1)
FROM pg_class c, unnest(ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) privilege
WHERE relnamespace = 'softaudit'::regnamespace AND relkind IN ('r', 'p', 'v') AND has_table_privilege('public', c.oid, privilege);

SELECT CASE WHEN wrong IS NULL THEN 'ok ' || rule ELSE 'not ok ' || rule || E'\n    ' || wrong END FROM verdicts ORDER BY id;

SELECT softaudit.disable('public.lint');
