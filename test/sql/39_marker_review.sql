-- What follows a soft-deleted table: statements that were analyzed before, foreign parts, indexes under other names.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
SELECT softaudit.assert_preload() \g /dev/null
SET client_min_messages = error;
CREATE ROLE regress_sau_39;
CREATE SCHEMA s39;
GRANT ALL ON SCHEMA s39 TO regress_sau_39;
GRANT USAGE ON SCHEMA t TO regress_sau_39;
SET search_path = s39, public;
CREATE FUNCTION en(VARIADIC tables text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE x text;
BEGIN
    FOREACH x IN ARRAY tables LOOP PERFORM softaudit.enable(x::regclass, audit => false); END LOOP;
END $$;
CREATE FUNCTION indexes(t regclass) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT COALESCE('constraint ' || k.conname || ' ' || pg_get_constraintdef(k.oid), regexp_replace(pg_get_indexdef(i.indexrelid), ' ON .* USING', ''))
      FROM pg_index i LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.contype IN ('u', 'x')
     WHERE i.indrelid = t AND NOT i.indisprimary ORDER BY i.indexrelid::regclass::text $$;
\set ECHO queries
-- statements with with_deleted() follow the types of the columns
CREATE TABLE t (id int PRIMARY KEY, c text, s text);
SELECT en('t');
INSERT INTO t VALUES (1, 'hello', 's');
\set ECHO none
-- where caches are discarded everything is analyzed anew
SET discard.budget = 0;
\set ECHO queries
PREPARE never_run AS SELECT c || 'x' FROM softaudit.with_deleted(NULL::t);
ALTER TABLE t ALTER c TYPE varchar(20);
ALTER TABLE t ALTER c TYPE int USING length(c);
CALL t.err('EXECUTE never_run');
EXECUTE never_run;
\set ECHO none
RESET discard.budget;
\set ECHO queries
PREPARE run AS SELECT (c + 1)::text FROM softaudit.with_deleted(NULL::t);
PREPARE dropped AS SELECT id FROM softaudit.with_deleted(NULL::t) WHERE s IS NULL;
EXECUTE run;
EXECUTE dropped;
CREATE FUNCTION f() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT c || 'y' FROM softaudit.with_deleted(NULL::s39.t)); END $$;
SELECT f();
ALTER TABLE t ALTER c TYPE bigint;
EXECUTE run;
SELECT f();
ALTER TABLE t DROP s;
CALL t.err('EXECUTE dropped');
CALL t.err('EXECUTE dropped');
-- a join asks for no privilege on columns that are not read
CREATE TABLE x (id int);
INSERT INTO x VALUES (1);
GRANT SELECT ON x TO regress_sau_39;
GRANT SELECT (id) ON t TO regress_sau_39;
SET ROLE regress_sau_39;
SELECT d.id FROM softaudit.with_deleted(NULL::t) d JOIN x ON x.id = d.id;
SELECT j.id FROM (softaudit.with_deleted(NULL::t) d JOIN x USING (id)) j;
CALL t.err('SELECT d.c FROM softaudit.with_deleted(NULL::s39.t) d JOIN s39.x ON x.id = d.id');
CALL t.err('SELECT j.c FROM (softaudit.with_deleted(NULL::s39.t) d JOIN s39.x USING (id)) j');
CALL t.err('SELECT j FROM (softaudit.with_deleted(NULL::s39.t) d JOIN s39.x USING (id)) j');
RESET ROLE;
-- several deletions of one MERGE have one stamp
CREATE TABLE pr (id int PRIMARY KEY);
CREATE TABLE ch (id int PRIMARY KEY, a int REFERENCES pr ON DELETE CASCADE, b int REFERENCES pr ON DELETE CASCADE);
SELECT en('ch', 'pr');
INSERT INTO pr VALUES (1), (2), (3);
INSERT INTO ch VALUES (10, 1, 2);
WITH w AS (SELECT 3 AS kept)
MERGE INTO pr USING w ON true WHEN MATCHED AND id = 1 THEN DELETE WHEN MATCHED AND id <> kept THEN DELETE WHEN MATCHED THEN DO NOTHING;
SELECT count(*), count(DISTINCT deleted_at) FROM softaudit.only_deleted(NULL::pr);
UPDATE pr SET deleted_at = NULL WHERE deleted_at = (SELECT max(deleted_at) FROM softaudit.only_deleted(NULL::pr));
SELECT (SELECT count(*) FROM pr) AS parents, (SELECT count(*) FROM ch) AS children;
-- what makes a plan stale amid a cascade through one table
CREATE TABLE tree (id int PRIMARY KEY, up int REFERENCES tree ON DELETE CASCADE);
SELECT en('tree');
INSERT INTO tree SELECT g, NULLIF(g - 1, 0) FROM generate_series(1, 6) g;
CREATE FUNCTION stale() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN GRANT SELECT ON s39.tree TO regress_sau_39; REVOKE SELECT ON s39.tree FROM regress_sau_39; RETURN NEW; END $$;
CREATE TRIGGER stale BEFORE UPDATE ON tree FOR EACH ROW EXECUTE FUNCTION stale();
DELETE FROM tree WHERE id = 2;
SELECT id FROM tree;
SELECT softaudit.restore('tree', 2);
-- NATURAL JOIN mentions nothing
CREATE TABLE n1 (id int PRIMARY KEY, v int);
CREATE TABLE n2 (id int PRIMARY KEY, w int);
SELECT en('n1', 'n2');
INSERT INTO n1 VALUES (1, 1), (2, 2);
INSERT INTO n2 VALUES (1, 1), (2, 2);
BEGIN;
DELETE FROM n1 WHERE id = 1;
UPDATE n2 SET deleted_at = (SELECT deleted_at FROM softaudit.only_deleted(NULL::n1)) WHERE id = 1;
SELECT count(*) FROM n1 NATURAL JOIN n2;
SELECT count(*) FROM n1 JOIN n2 USING (id, deleted_at);
COMMIT;
-- RETURNING NEW of a deletion is nothing, through a view, too
SELECT current_setting('server_version_num')::integer >= 180000 AS has_new \gset
\set ECHO none
CREATE VIEW n1v AS SELECT id, COALESCE(v, 0) AS cv, 'k' AS k FROM n1;
\if :has_new
WITH d AS (DELETE FROM n1v WHERE id = 2 RETURNING old.cv AS was, new.cv, new.k, new IS NULL AS is_null, new.id)
SELECT 'wrong: ' || d::text FROM d WHERE was IS DISTINCT FROM 2 OR cv IS NOT NULL OR k IS NOT NULL OR NOT is_null OR id IS NOT NULL;
\endif
\set ECHO queries

-- DELETE needs no privilege on the schema softaudit
CREATE TABLE u (id int PRIMARY KEY);
SELECT en('u');
INSERT INTO u VALUES (1), (2);
GRANT SELECT, DELETE ON u TO regress_sau_39;
BEGIN;
REVOKE USAGE ON SCHEMA softaudit FROM public;
SET LOCAL ROLE regress_sau_39;
DELETE FROM u WHERE id = 1;
COMMIT;
GRANT USAGE ON SCHEMA softaudit TO public;
TABLE u;

-- row security that is forced on the owner does not hide what would reappear
SET ROLE regress_sau_39;
CREATE TABLE fr (id int PRIMARY KEY, v int);
SELECT en('fr');
INSERT INTO fr VALUES (1, 1), (2, 2);
DELETE FROM fr WHERE id = 1;
ALTER TABLE fr ENABLE ROW LEVEL SECURITY;
ALTER TABLE fr FORCE ROW LEVEL SECURITY;
CREATE POLICY p ON fr USING (deleted_at IS NULL);
CALL t.err('SELECT softaudit.disable(''s39.fr'')');
RESET ROLE;
CALL t.err('SELECT softaudit.disable(''s39.fr'')');

-- foreign tables that are a part of one that is soft-deleted
\set ECHO none
CREATE EXTENSION postgres_fdw SCHEMA s39;
SELECT format('CREATE SERVER s39 FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host %L, port %L, dbname %L)',
              split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port'), current_database()) \gexec
CREATE USER MAPPING FOR CURRENT_USER SERVER s39;
CREATE TABLE far1 (id int, v int, deleted_at timestamptz);
CREATE TABLE far2 (LIKE far1);
CREATE TABLE far3 (LIKE far1);
\set ECHO queries
CREATE TABLE p (id int, v int) PARTITION BY RANGE (id);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
ALTER TABLE p ADD deleted_at timestamptz;
CREATE FOREIGN TABLE pf PARTITION OF p FOR VALUES FROM (10) TO (20) SERVER s39 OPTIONS (schema_name 's39', table_name 'far1');
SELECT en('p');
INSERT INTO p VALUES (1, 1), (2, 2), (11, 1), (12, 2), (13, 3);
DELETE FROM p WHERE v = 1;
SELECT id FROM pf;
CALL t.err('TRUNCATE s39.pf');
CALL t.err('CREATE FOREIGN TABLE s39.pg PARTITION OF s39.p (deleted_at DEFAULT now()) FOR VALUES FROM (20) TO (30) SERVER s39');
CALL t.err('CREATE FOREIGN TABLE s39.pg PARTITION OF s39.p (deleted_at NOT NULL) FOR VALUES FROM (20) TO (30) SERVER s39');
ALTER TABLE p DETACH PARTITION pf;
SELECT id FROM pf;
DELETE FROM pf WHERE id = 12;
SELECT id FROM pf;
CALL t.state('TRUNCATE s39.pf');
SELECT id, deleted_at IS NOT NULL AS deleted FROM far1 ORDER BY id;
ALTER TABLE p ATTACH PARTITION pf FOR VALUES FROM (10) TO (20);
SELECT id FROM p ORDER BY id;
CREATE TABLE ip (id int);
CREATE FOREIGN TABLE ipf (v int) INHERITS (ip) SERVER s39 OPTIONS (schema_name 's39', table_name 'far2');
SELECT en('ip');
CREATE FOREIGN TABLE ipg (v int) INHERITS (ip) SERVER s39 OPTIONS (schema_name 's39', table_name 'far3');
INSERT INTO ip VALUES (1);
INSERT INTO ipf VALUES (2), (3), (4);
INSERT INTO ipg VALUES (5), (6), (7);
DELETE FROM ip WHERE id IN (2, 5);
DELETE FROM ipf WHERE id = 3;
DELETE FROM ipg WHERE id = 6;
SELECT id FROM ipf;
SELECT id FROM ipg;
CALL t.err('TRUNCATE s39.ipg');
SELECT count(*) FROM far2;
SELECT count(*) FROM far3;
SELECT softaudit.disable('ip', force => true);
SELECT count(*) FROM pg_trigger WHERE tgrelid IN ('ipf'::regclass, 'ipg'::regclass);

-- an index over live rows has got another name when disable() makes a constraint of it
CREATE TABLE r (id int PRIMARY KEY, e text UNIQUE, f text UNIQUE);
CREATE UNIQUE INDEX r_free ON r (id, e);
SELECT en('r');
ALTER INDEX r_e_key RENAME TO zz;
ALTER TABLE r_f_key RENAME TO yy;
CALL t.state('ALTER INDEX s39.zz RENAME TO yy');
SELECT softaudit.disable('r');
SELECT * FROM indexes('r');
-- one that was adopted keeps its own name, and what it stands for the old one
SELECT softaudit.disable('t');
ALTER TABLE t ADD e text, ADD CONSTRAINT t_e UNIQUE (e);
CREATE UNIQUE INDEX t_e_live ON t (e) WHERE deleted_at IS NULL;
SELECT en('t');
ALTER INDEX t_e_live RENAME TO t_e_alive;
SELECT softaudit.disable('t');
SELECT * FROM indexes('t');
-- a table that was a part of another turns its indexes back by itself
CREATE TABLE q (id int, k int, UNIQUE (id, k)) PARTITION BY RANGE (id);
CREATE TABLE q1 PARTITION OF q FOR VALUES FROM (0) TO (100);
SELECT softaudit.enable('q', audit => false);
ALTER TABLE q DETACH PARTITION q1;
SELECT softaudit.enable('q1', audit => false);
SELECT * FROM indexes('q1');
SELECT softaudit.disable('q1');
SELECT * FROM indexes('q1');
SELECT en('q1');
ALTER TABLE q ATTACH PARTITION q1 FOR VALUES FROM (0) TO (100);
SET client_min_messages = warning;
SELECT softaudit.disable('q');
SET client_min_messages = error;
SELECT * FROM indexes('q1');
CREATE TABLE i1 (id int PRIMARY KEY, e text UNIQUE);
CREATE TABLE i2 (id int PRIMARY KEY, e text UNIQUE) INHERITS (i1);
SELECT en('i1');
ALTER TABLE i2 NO INHERIT i1;
SET client_min_messages = warning;
SELECT softaudit.disable('i2');
SELECT softaudit.disable('i1');
SELECT * FROM indexes('i2');
SET client_min_messages = error;
SELECT en('i1', 'i2');
ALTER TABLE i2 INHERIT i1;
SET client_min_messages = warning;
SELECT softaudit.disable('i1');
SET client_min_messages = error;
SELECT indexes('i1'), indexes('i2');
-- what counts deleted rows only, and what is deferrable, stays
CREATE TABLE e (id int PRIMARY KEY, r int4range, v text, deleted_at timestamptz,
    CONSTRAINT late EXCLUDE USING gist (r WITH &&) WHERE (id > 0) DEFERRABLE,
    CONSTRAINT later EXCLUDE USING gist (r WITH &&) WHERE (id > 1) DEFERRABLE INITIALLY DEFERRED);
CREATE UNIQUE INDEX e_gone ON e (v) WHERE deleted_at IS NOT NULL;
SET client_min_messages = notice;
SELECT softaudit.enable('e', audit => false);
SET client_min_messages = error;
SELECT softaudit.live_index('e', 'id');
SELECT * FROM indexes('e');
-- a marker that was dropped comes back as the hint says
INSERT INTO e VALUES (1);
DELETE FROM e;
SET client_min_messages = warning;
DROP TRIGGER "!softaudit_marker" ON e;
SET client_min_messages = error;
SELECT count(*) FROM e;
SELECT softaudit.enable('s39.e', soft_delete => true);
SELECT count(*) FROM e;
-- advice on soft-deleted tables does not stumble over others
CREATE TABLE a1 (id int PRIMARY KEY, v int);
CREATE INDEX a1_v ON a1 (v);
CREATE TABLE a2 (id int PRIMARY KEY, v int);
CREATE INDEX a2_v ON a2 (v);
SELECT softaudit.enable('a1', soft_delete => false);
SELECT en('a2');
INSERT INTO a1 SELECT i, i FROM generate_series(1, 100) i;
INSERT INTO a2 SELECT i, i FROM generate_series(1, 100) i;
DELETE FROM a2 WHERE id <= 50;
\set ECHO none
ANALYZE a1;
ANALYZE a2;
SET enable_seqscan = off;
SELECT count(*) FROM a1 WHERE v = 3 \g /dev/null
SELECT count(*) FROM a2 WHERE v = 60 \g /dev/null
RESET enable_seqscan;
SELECT pg_stat_force_next_flush() \g /dev/null
\set ECHO queries
SELECT object, sql FROM softaudit.advise() WHERE object LIKE 's39.a%';
SELECT count(*) > 0 FROM softaudit.status;
\set ECHO none
DROP SCHEMA s39 CASCADE;
DROP OWNED BY regress_sau_39;
DROP ROLE regress_sau_39;
