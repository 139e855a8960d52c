-- Odd tables and odd arguments: done as on a plain table, or refused with a hint.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
SELECT softaudit.assert_preload() \g /dev/null
CREATE SCHEMA s30;
SET search_path = s30, public;
CREATE ROLE regress_sau_actor;
GRANT USAGE ON SCHEMA s30 TO regress_sau_actor;
SET client_min_messages = notice;
\set ECHO all

-- a partition's own constraint that became a part of its root's index or constraint keeps that
CREATE TABLE funny (a integer) PARTITION BY LIST (a);
CREATE TABLE funny1 PARTITION OF funny FOR VALUES IN (1);
ALTER TABLE funny1 ADD PRIMARY KEY (a);
CREATE UNIQUE INDEX ON funny (a);
SELECT softaudit.enable('funny', audit => false);
CREATE TABLE odd (a integer, b integer) PARTITION BY LIST (a);
CREATE TABLE odd1 PARTITION OF odd FOR VALUES IN (1);
ALTER TABLE odd1 ADD CONSTRAINT odd1_own UNIQUE (a);
CREATE UNIQUE INDEX odd_a ON odd (a);
ALTER TABLE odd1 ADD CONSTRAINT odd1_b UNIQUE (a, b);
ALTER TABLE odd ADD CONSTRAINT odd_b UNIQUE (a, b);
SELECT softaudit.enable('odd', audit => false);
SELECT conrelid::regclass, conname FROM pg_constraint WHERE conrelid IN ('funny1'::regclass, 'odd'::regclass, 'odd1'::regclass) AND contype IN ('p', 'u') ORDER BY 1, 2;
SELECT softaudit.disable('odd');
SELECT conrelid::regclass, conname FROM pg_constraint WHERE conrelid IN ('odd'::regclass, 'odd1'::regclass) AND contype IN ('p', 'u') ORDER BY 1, 2;
SELECT count(*) FROM softaudit.advise() WHERE object ~ '^s30\.(funny|odd)';
-- so does the primary key of a partition that stands for its root's unique constraint
CREATE TABLE third (a integer) PARTITION BY LIST (a);
CREATE TABLE third1 PARTITION OF third FOR VALUES IN (1);
ALTER TABLE third1 ADD PRIMARY KEY (a);
ALTER TABLE third ADD CONSTRAINT third_a UNIQUE (a);
SET client_min_messages = warning;
SELECT softaudit.enable('third', audit => false);
SELECT count(*) FROM pg_index WHERE indrelid = 'third1'::regclass AND indisprimary;

-- act_as() in a function of a superuser's sets what the session's user may set
CREATE FUNCTION as_super(name text) RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS 'SELECT softaudit.act_as(name)';
SET SESSION AUTHORIZATION regress_sau_actor;
SET softaudit.actor_setting = 'plpgsql.variable_conflict';
BEGIN;
SELECT s30.as_super('use_column');
ROLLBACK;
BEGIN;
SELECT softaudit.act_as('use_column');
ROLLBACK;
SHOW plpgsql.variable_conflict;
SET softaudit.actor_setting = 'app.who';
BEGIN;
SELECT s30.as_super('me');
SHOW app.who;
COMMIT;
RESET SESSION AUTHORIZATION;
SET softaudit.actor_setting = 'plpgsql.variable_conflict';
BEGIN;
SELECT s30.as_super('use_column');
SHOW plpgsql.variable_conflict;
COMMIT;
-- nor what the function's owner may not set, whoever calls it
CREATE FUNCTION as_nobody(name text) RETURNS void LANGUAGE sql SECURITY DEFINER AS 'SELECT softaudit.act_as(name)';
ALTER FUNCTION as_nobody(text) OWNER TO regress_sau_actor;
SELECT s30.as_nobody('use_column');
RESET softaudit.actor_setting;

-- COPY of a list of columns refuses what it refuses on a plain table
CREATE TABLE plain (id integer PRIMARY KEY, twice integer GENERATED ALWAYS AS (id * 2) STORED);
CREATE TABLE soft (id integer PRIMARY KEY, twice integer GENERATED ALWAYS AS (id * 2) STORED);
INSERT INTO soft VALUES (1), (2);
SELECT softaudit.enable('soft', audit => false);
DELETE FROM soft WHERE id = 1;
COPY plain (twice) TO STDOUT;
COPY soft (twice) TO STDOUT;
\echo :LAST_ERROR_SQLSTATE
COPY plain (id, id) TO STDOUT;
COPY soft (id, id) TO STDOUT;
COPY plain (ctid) TO STDOUT;
COPY soft (ctid) TO STDOUT;
COPY plain (nothere) TO STDOUT;
COPY soft (nothere) TO STDOUT;
COPY soft (deleted_at, id) TO STDOUT;
COPY soft TO STDOUT;

-- an empty name
CREATE TABLE named (id integer PRIMARY KEY);
CALL t.err('SELECT softaudit.enable(''named'', deleted_at => '''')');
CALL t.err('SELECT softaudit.enable(''named'', log_group => '''')');

-- a key that cannot be read is the caller's error
SELECT softaudit.enable('named');
INSERT INTO named VALUES (1);
CALL t.err('SELECT softaudit.restore(''named'', ''x''::text)');
CALL t.err('SELECT softaudit.restore(''named'', ''99999999999''::text)');
CALL t.err('SELECT softaudit.erase(''named'', ''x''::text, reason => ''x'')');
CALL t.err('SELECT * FROM softaudit.history(''named'', ''x''::text)');

-- a typed table has its columns from its type
CREATE TYPE shape AS (id integer, v text);
CREATE TABLE typed OF shape (PRIMARY KEY (id));
CALL t.err('SELECT softaudit.enable(''typed'')');
ALTER TYPE shape ADD ATTRIBUTE deleted_at timestamptz CASCADE;
SELECT softaudit.enable('typed');
INSERT INTO typed VALUES (1, 'a'), (2, 'b');
DELETE FROM typed WHERE id = 1;
SELECT id, v FROM typed;

-- advise() lists triggers for DELETE that do not fire at a soft delete, until they do
CREATE TABLE fires (id integer PRIMARY KEY, v text);
CREATE FUNCTION told() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER on_delete AFTER DELETE ON fires FOR EACH ROW EXECUTE FUNCTION told();
CREATE TRIGGER on_other AFTER DELETE OR UPDATE OF v ON fires FOR EACH STATEMENT EXECUTE FUNCTION told();
CREATE TRIGGER on_both AFTER DELETE OR UPDATE ON fires FOR EACH ROW EXECUTE FUNCTION told();
CREATE TRIGGER on_insert AFTER INSERT ON fires FOR EACH ROW EXECUTE FUNCTION told();
SET client_min_messages = error;
SELECT softaudit.enable('fires', audit => false);
SET client_min_messages = warning;
SELECT severity, object, advice, sql FROM softaudit.advise() WHERE object = 's30.fires';
SELECT warnings FROM softaudit.status WHERE relation = 'fires'::regclass;
CREATE OR REPLACE TRIGGER on_delete AFTER DELETE OR UPDATE OF deleted_at ON fires FOR EACH ROW EXECUTE FUNCTION told();
SELECT advice FROM softaudit.advise() WHERE object = 's30.fires';
ALTER TABLE fires DISABLE TRIGGER on_other;
SELECT advice FROM softaudit.advise() WHERE object = 's30.fires';
-- of a partitioned table, named once
CREATE TABLE fires_p (id integer PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE fires_p1 PARTITION OF fires_p FOR VALUES FROM (0) TO (10);
CREATE TRIGGER on_root AFTER DELETE ON fires_p FOR EACH ROW EXECUTE FUNCTION told();
CREATE TRIGGER on_leaf AFTER DELETE ON fires_p1 FOR EACH ROW EXECUTE FUNCTION told();
SET client_min_messages = error;
SELECT softaudit.enable('fires_p', audit => false);
SET client_min_messages = warning;
SELECT severity, object, advice FROM softaudit.advise() WHERE object LIKE 's30.fires%';
DROP TRIGGER on_root ON fires_p;
DROP TRIGGER on_leaf ON fires_p1;
SELECT count(*) FROM softaudit.advise() WHERE object LIKE 's30.fires%';

\set ECHO none
SET client_min_messages = error;
DROP SCHEMA s30 CASCADE;
DROP ROLE regress_sau_actor;
