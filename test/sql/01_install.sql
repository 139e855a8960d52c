-- Install: what CREATE EXTENSION makes and for whom, what DROP EXTENSION leaves.
-- In a database of its own, since it drops the extension.
\set ECHO none
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_softaudit_install;
DROP ROLE IF EXISTS regress_sau_owner, regress_sau_squatter;
CREATE ROLE regress_sau_owner;
CREATE ROLE regress_sau_squatter;
CREATE DATABASE regress_softaudit_install TEMPLATE template0 OWNER regress_sau_owner;
\c regress_softaudit_install
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
SET client_min_messages = warning;
\set ECHO all

-- install: for superusers, in its own schema
SET ROLE regress_sau_owner;
CALL t.err('CREATE EXTENSION softaudit');
RESET ROLE;
CREATE SCHEMA elsewhere;
CALL t.err('CREATE EXTENSION softaudit SCHEMA elsewhere');

-- install: a schema that somebody else prepared is refused
CREATE SCHEMA softaudit AUTHORIZATION regress_sau_squatter;
CALL t.err('CREATE EXTENSION softaudit');
ALTER SCHEMA softaudit OWNER TO CURRENT_USER;
CREATE FUNCTION softaudit.capture() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CALL t.err('CREATE EXTENSION softaudit');
DROP FUNCTION softaudit.capture();
CREATE AGGREGATE softaudit.sum_of(integer) (SFUNC = int4pl, STYPE = integer);
CALL t.err('CREATE EXTENSION softaudit');
DROP AGGREGATE softaudit.sum_of(integer);
CREATE OPERATOR softaudit.=== (LEFTARG = integer, RIGHTARG = integer, FUNCTION = int4eq);
CALL t.err('CREATE EXTENSION softaudit');
DROP OPERATOR softaudit.=== (integer, integer);
CREATE DOMAIN softaudit.regclass AS integer;
CALL t.err('CREATE EXTENSION softaudit');
DROP DOMAIN softaudit.regclass;
CREATE TYPE softaudit.mood AS ENUM ('sad');
CALL t.err('CREATE EXTENSION softaudit');
DROP TYPE softaudit.mood;
CREATE TYPE softaudit.pair AS (a integer, b integer);
CALL t.err('CREATE EXTENSION softaudit');
DROP TYPE softaudit.pair;
CREATE TABLE softaudit.notes (id integer);
CALL t.err('CREATE EXTENSION softaudit');
DROP TABLE softaudit.notes;
CREATE TABLE softaudit.log (audit_id bigint);
ALTER TABLE softaudit.log OWNER TO regress_sau_squatter;
CALL t.err('CREATE EXTENSION softaudit');
DROP TABLE softaudit.log;
-- one in which others may create is refused, or made safe
GRANT CREATE ON SCHEMA softaudit TO regress_sau_squatter;
DO $$
BEGIN
    CREATE EXTENSION softaudit;
    RAISE INFO 'installed; others may create in it: %', has_schema_privilege('regress_sau_squatter', 'softaudit', 'CREATE');
EXCEPTION WHEN insufficient_privilege OR object_not_in_prerequisite_state THEN
    RAISE INFO 'installed; others may create in it: f';
END
$$;
DROP EXTENSION IF EXISTS softaudit;
REVOKE ALL ON SCHEMA softaudit FROM regress_sau_squatter;
-- an empty one of a superuser is taken
CREATE EXTENSION softaudit;
DROP EXTENSION softaudit;
DROP SCHEMA softaudit;

-- install: nothing is left of one that was rolled back
BEGIN;
CREATE EXTENSION softaudit;
CREATE TABLE rolled_back (id integer PRIMARY KEY);
SELECT softaudit.enable('rolled_back', soft_delete => false);
INSERT INTO rolled_back VALUES (1);
ROLLBACK;
SELECT to_regnamespace('softaudit');

-- install: the schema, and no table before one is enabled; default privileges give nothing of it away
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO regress_sau_squatter;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO regress_sau_squatter;
ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO regress_sau_squatter;
CREATE EXTENSION softaudit;
SELECT count(*) AS given_away FROM pg_proc p, aclexplode(p.proacl) a
 WHERE p.pronamespace = 'softaudit'::regnamespace AND a.grantee = 'regress_sau_squatter'::regrole;
SELECT extversion, extnamespace::regnamespace, extrelocatable FROM pg_extension WHERE extname = 'softaudit';
SELECT r.rolsuper, EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_namespace'::regclass AND d.objid = n.oid AND d.deptype = 'e') AS is_member
  FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner WHERE n.nspname = 'softaudit';
SELECT count(*) FROM pg_class WHERE relnamespace = 'softaudit'::regnamespace AND relkind <> 'c';
SELECT evtname, evtevent, evtenabled <> 'D' AS enabled FROM pg_event_trigger ORDER BY evtname;

-- install: the library comes with the first call
SELECT softaudit.actor() = session_user;
SELECT softaudit.is_active();
CALL t.err('SET softaudit.nonsense = 1');

-- install: every object says what it is for
SELECT pg_describe_object(d.classid, d.objid, 0) AS without_comment
  FROM pg_depend d
 WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
   AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'softaudit')
   AND NOT EXISTS (SELECT FROM pg_type e WHERE d.classid = 'pg_type'::regclass AND (e.typarray = d.objid OR e.oid = d.objid AND e.typrelid = to_regclass('softaudit.status')))
   AND COALESCE(obj_description(d.objid, d.classid::regclass::name), '') = '';

-- install: what anybody may execute (and trigger functions that a partition clones)
SELECT p.proname AS open_to_all, count(*)
  FROM pg_proc p
 WHERE p.pronamespace = 'softaudit'::regnamespace AND has_function_privilege('public', p.oid, 'EXECUTE') AND p.proname NOT IN ('capture', 'mark', 'follow_keys')
 GROUP BY 1 ORDER BY p.proname COLLATE "C";
SELECT has_schema_privilege('public', 'softaudit', 'USAGE'), has_schema_privilege('public', 'softaudit', 'CREATE');
-- and nothing that runs as its owner looks names up where a caller can put some
SELECT p.oid::regprocedure AS unsafe FROM pg_proc p
 WHERE p.pronamespace = 'softaudit'::regnamespace AND p.prosecdef
   AND NOT COALESCE('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false);

-- install: calls before the first enable()
CREATE TABLE accounts (id integer PRIMARY KEY, balance numeric);
CALL t.err('SELECT * FROM softaudit.history(''accounts'', ''1'')');
CALL t.err('SELECT softaudit.reset(''accounts'', ''images'')');
CALL t.err('SELECT * FROM softaudit.history_of(''public'', ''accounts'', ''1'')');
CALL softaudit.maintain();
SELECT softaudit.disable('accounts');
SELECT softaudit.act_as('nobody');

-- install: the first enable() makes the log, outside of the extension
SELECT softaudit.enable('accounts', soft_delete => false);
SELECT regexp_replace(c.relname, '_[0-9t]{8,}$', '_<period>') COLLATE "C" AS relation, c.relkind, count(*),
       bool_or(EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')) AS is_member,
       bool_and(c.relowner = e.extowner) AS of_extension_owner
  FROM pg_class c, pg_extension e
 WHERE c.relnamespace = 'softaudit'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'S') AND e.extname = 'softaudit'
 GROUP BY 1, 2 ORDER BY 1;
SELECT c.relname AS open_to_others FROM pg_class c
 WHERE c.relnamespace = 'softaudit'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'S')
   AND (has_table_privilege('regress_sau_squatter', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER, REFERENCES'));
SELECT count(*) AS given_away FROM pg_class c, aclexplode(c.relacl) a
 WHERE c.relnamespace = 'softaudit'::regnamespace AND a.grantee = 'regress_sau_squatter'::regrole;
-- (the table that was made meanwhile is another matter)
REVOKE ALL ON accounts FROM regress_sau_squatter;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM regress_sau_squatter;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON SEQUENCES FROM regress_sau_squatter;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON FUNCTIONS FROM regress_sau_squatter;
SELECT count(*) = 1 AS has_secret, bool_and(length(secret) = 32) AS is_long FROM softaudit.log_secret;
INSERT INTO accounts VALUES (1, 10), (2, 20);
UPDATE accounts SET balance = 11 WHERE id = 1;
SELECT t.changes();

-- drop: refused while a table is enabled
CALL t.err('DROP EXTENSION softaudit');
UPDATE accounts SET balance = 12 WHERE id = 1;
SELECT t.changes();

-- drop: CASCADE ends capture and leaves the log
SELECT max(audit_id) AS last_id, max(table_id) AS table_id FROM softaudit.log, softaudit.registry \gset
DROP EXTENSION softaudit CASCADE;
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'accounts'::regclass;
UPDATE accounts SET balance = 0 WHERE id = 1;
SELECT operation, new_data FROM softaudit.log ORDER BY audit_id;
SELECT t.events();

-- install again: the log is taken up, and guarded from the first moment on
CREATE EXTENSION softaudit;
CALL t.err('DELETE FROM softaudit.log');
CALL t.err('TRUNCATE softaudit.events');
SELECT count(*) FROM softaudit.changes;
CALL t.err('DROP TABLE softaudit.log');
SELECT operation, new_data FROM softaudit.history('accounts', 1);
-- what happened meanwhile was not captured; from now on it is, under the old id
SELECT softaudit.enable('accounts', soft_delete => false);
UPDATE accounts SET balance = 13 WHERE id = 1;
SELECT operation, new_data FROM softaudit.history('accounts', 1);
SELECT audit_id > :last_id AS ids_go_on FROM softaudit.log ORDER BY audit_id DESC LIMIT 1;
SELECT table_id = :table_id AS same_table, audit FROM softaudit.registry WHERE relation = 'accounts'::regclass;

-- drop: nothing is enabled any more, so it goes without CASCADE; the log stays
SELECT softaudit.disable('accounts');
SELECT max(audit_id) AS last_id FROM softaudit.log \gset
DROP EXTENSION softaudit;
SELECT count(*) FROM softaudit.log;
SELECT count(*) FROM softaudit.registry;
CREATE EXTENSION softaudit;
SELECT count(*) FROM softaudit.changes;
CALL t.err('UPDATE softaudit.log SET operation = ''INSERT''');
-- a disabled table is as it was
INSERT INTO accounts VALUES (3, 30);
SELECT count(*) FROM softaudit.log;
SELECT softaudit.enable('accounts', soft_delete => false);
INSERT INTO accounts VALUES (4, 40);
SELECT audit_id > :last_id AS ids_go_on, operation, new_data FROM softaudit.log ORDER BY audit_id DESC LIMIT 1;

-- drop: a transaction that thinks better of it leaves everything as it was
BEGIN;
DROP EXTENSION softaudit CASCADE;
INSERT INTO accounts VALUES (5, 50);
ROLLBACK;
INSERT INTO accounts VALUES (5, 51);
SELECT operation, new_data FROM softaudit.history('accounts', 5);

-- drop: a table that is dropped does not stand in the way
SELECT softaudit.enable('accounts', soft_delete => false, images => 'changes');
DROP TABLE accounts;
DROP EXTENSION softaudit;

-- drop: without the extension the log is a table as any other, and can be given up
DROP SCHEMA softaudit CASCADE;
CREATE EXTENSION softaudit;
CREATE TABLE accounts (id integer PRIMARY KEY, balance numeric);
SELECT softaudit.enable('accounts', soft_delete => false);
INSERT INTO accounts VALUES (1, 1);
SELECT operation, new_data FROM softaudit.log;

\set ECHO none
\c contrib_regression
SET client_min_messages = warning;
DROP DATABASE regress_softaudit_install;
DROP ROLE regress_sau_owner, regress_sau_squatter;
