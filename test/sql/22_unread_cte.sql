-- A WITH query that nobody reads is not planned, so nothing in it is looked at: functions whose text does not
-- parse (under the search_path of REFRESH MATERIALIZED VIEW, say) raise nothing.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
SELECT softaudit.assert_preload() \g /dev/null
CREATE SCHEMA s22;
SET search_path = s22, public;
SET client_min_messages = error;
SET check_function_bodies = off;
CREATE TABLE p (id int PRIMARY KEY);
CREATE FUNCTION f() RETURNS SETOF p LANGUAGE sql STABLE AS 'SELECT * FROM nowhere';
CREATE FUNCTION g() RETURNS SETOF p LANGUAGE sql STABLE AS 'SELECT * FROM p';
DO $$ BEGIN PERFORM softaudit.enable('p', audit => false); END $$;
INSERT INTO p SELECT generate_series(1, 5);
DELETE FROM p WHERE id > 3;
\set ECHO all
WITH w AS (SELECT * FROM f()) SELECT count(*) FROM p;
WITH w AS MATERIALIZED (SELECT * FROM f()) SELECT count(*) FROM p;
CALL t.state('WITH w AS (SELECT * FROM f()) SELECT count(*) FROM p, w');
-- what is read through another, or writes, is filtered
WITH w AS (SELECT * FROM g()), v AS (SELECT * FROM w) SELECT (SELECT count(*) FROM v) AS read_through, count(*) FROM p;
WITH d AS (DELETE FROM p WHERE id = 3) SELECT count(*) FROM p;
SELECT count(*), (SELECT count(*) FROM softaudit.only_deleted(NULL::p)) AS deleted FROM p;
\set ECHO none
DROP SCHEMA s22 CASCADE;
