-- The filter: in every place where a table can stand in a query, and where it stays away.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
SET client_min_messages = error;
DROP ROLE IF EXISTS regress_sau_reader, regress_sau_none;
CREATE ROLE regress_sau_reader;
CREATE ROLE regress_sau_none;
CREATE SCHEMA s11;
GRANT USAGE ON SCHEMA s11 TO regress_sau_reader, regress_sau_none;
SET search_path = s11, public;
CREATE TABLE u (id integer PRIMARY KEY, name text, boss integer);
CREATE TABLE o (id integer PRIMARY KEY, u_id integer, note text);
CREATE TABLE plain (id integer PRIMARY KEY, u_id integer);
INSERT INTO u SELECT g, 'n' || g, g / 2 FROM generate_series(1, 6) g;
INSERT INTO o SELECT g, 1 + g % 6, 'o' || g FROM generate_series(1, 6) g;
INSERT INTO plain SELECT g, g FROM generate_series(1, 7) g;
SELECT softaudit.enable('u', audit => false);
SELECT softaudit.enable('o', audit => false);
DELETE FROM u WHERE id IN (2, 5);
DELETE FROM o WHERE id = 1;
\set ECHO all

-- plain, aliased, joined on every side
SELECT string_agg(id::text, ',' ORDER BY id) FROM u;
SELECT string_agg(x.id::text, ',' ORDER BY x.id) FROM u AS x (id, n) WHERE x.n <> 'n1';
SELECT count(*), count(u.id) FROM plain p LEFT JOIN u ON u.id = p.u_id;
SELECT count(*), count(u.id) FROM u RIGHT JOIN plain p ON u.id = p.u_id;
SELECT count(*), count(u.id), count(p.id) FROM u FULL JOIN plain p ON u.id = p.u_id AND p.id > 3;
SELECT count(*) FROM u NATURAL JOIN (SELECT id FROM u) v;
SELECT count(*) FROM u a JOIN u b ON a.id = b.boss LEFT JOIN (o JOIN plain p USING (u_id)) ON p.id = a.id;
SELECT count(*) FROM plain p, LATERAL (SELECT * FROM u WHERE u.id = p.id) l;

-- sublinks, everywhere
SELECT count(*) FROM plain p WHERE EXISTS (SELECT FROM u WHERE u.id = p.id);
SELECT count(*) FROM plain p WHERE p.id NOT IN (SELECT id FROM u);
SELECT (SELECT max(id) FROM u), ARRAY(SELECT id FROM u ORDER BY 1);
SELECT count(*) FROM plain ORDER BY (SELECT count(*) FROM u);
SELECT count(*) FROM plain HAVING count(*) > (SELECT count(*) FROM u);
SELECT p.id FROM plain p WHERE CASE WHEN p.id < 3 THEN (SELECT true FROM u WHERE u.id = p.id) END;
VALUES ((SELECT count(*) FROM u));
SELECT sum(id) FILTER (WHERE id IN (SELECT id FROM u)) FROM plain;

-- CTEs, set operations, subqueries, grouping, windows, samples, locks
WITH c AS (SELECT * FROM u), d AS MATERIALIZED (SELECT * FROM u) SELECT (SELECT count(*) FROM c), (SELECT count(*) FROM d);
WITH RECURSIVE r AS (SELECT id, boss FROM u WHERE id = 1 UNION SELECT u.id, u.boss FROM u JOIN r ON u.boss = r.id) SELECT count(*) FROM r;
SELECT id FROM u UNION ALL SELECT id FROM u WHERE id > 5 EXCEPT SELECT 1 ORDER BY 1;
SELECT count(*) FROM (SELECT id FROM u OFFSET 0) s;
SELECT count(*), grouping(boss) FROM u GROUP BY ROLLUP (boss) ORDER BY 2, 1;
SELECT id, row_number() OVER (ORDER BY id) FROM u ORDER BY id DESC LIMIT 1;
SELECT count(*) FROM u TABLESAMPLE system (100);
SELECT count(*) FROM (SELECT * FROM u FOR UPDATE) s;
SELECT count(DISTINCT id), min(id), max(id) FROM u;
TABLE u ORDER BY id LIMIT 2;

-- functions: inlined, not inlined, in BEGIN ATOMIC, nested
CREATE FUNCTION inlined() RETURNS SETOF u LANGUAGE sql STABLE AS 'SELECT * FROM u';
CREATE FUNCTION inlined2(lowest integer) RETURNS TABLE (i integer) LANGUAGE sql STABLE AS 'SELECT id FROM inlined() WHERE id >= lowest';
CREATE FUNCTION scalar() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM u';
CREATE FUNCTION volatile_one() RETURNS SETOF u LANGUAGE sql VOLATILE AS 'SELECT * FROM u';
CREATE FUNCTION atomic() RETURNS bigint LANGUAGE sql STABLE BEGIN ATOMIC SELECT count(*) FROM u; END;
CREATE FUNCTION pl() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM u); END';
SELECT count(*) FROM inlined();
SELECT count(*) FROM inlined2(2);
SELECT scalar(), atomic(), pl(), (SELECT count(*) FROM volatile_one());
SELECT count(*) FROM plain p LEFT JOIN inlined() i ON i.id = p.id WHERE i.id IS NOT NULL;
SELECT count(*) FROM plain p CROSS JOIN LATERAL inlined2(p.id);

-- views, security barriers, materialized views, tables made of queries, COPY
CREATE VIEW v AS SELECT * FROM u;
CREATE VIEW vb WITH (security_barrier) AS SELECT * FROM v;
CREATE MATERIALIZED VIEW mv AS SELECT * FROM v;
CREATE TABLE ctas AS SELECT * FROM u;
SELECT (SELECT count(*) FROM v), (SELECT count(*) FROM vb), (SELECT count(*) FROM mv), (SELECT count(*) FROM ctas);
COPY u (id) TO STDOUT;
COPY (SELECT id FROM u WHERE id < 3) TO STDOUT;
-- a mention outside of a view says nothing of the reference inside
SELECT count(*) FROM v WHERE deleted_at IS NOT NULL;

-- prepared statements follow the setting, custom and generic
PREPARE q AS SELECT count(*) FROM u;
EXECUTE q;
SET softaudit.show_deleted = on;
EXECUTE q;
SET softaudit.show_deleted = 'only';
EXECUTE q;
SELECT string_agg(id::text, ',' ORDER BY id) FROM u;
COPY u (id) TO STDOUT;
BEGIN;
SET LOCAL softaudit.show_deleted = off;
EXECUTE q;
ROLLBACK;
EXECUTE q;
RESET softaudit.show_deleted;
EXECUTE q;
SELECT pl();
SET softaudit.show_deleted = on;
SELECT pl(), scalar();
RESET softaudit.show_deleted;
SELECT pl(), scalar();
CALL t.err('SET softaudit.show_deleted = maybe');
-- targets are filtered all the same
SET softaudit.show_deleted = on;
BEGIN;
WITH d AS (DELETE FROM u RETURNING id) SELECT count(*) FROM d;
ROLLBACK;
RESET softaudit.show_deleted;

-- the mention rule: WHERE, ON and HAVING of the query itself, and of that reference only
SELECT string_agg(id::text, ',' ORDER BY id) FROM u WHERE deleted_at IS NOT NULL;
SELECT count(*) FROM u WHERE deleted_at IS NULL OR id = 2;
SELECT count(*) FROM u WHERE deleted_at < now() OR deleted_at IS NULL;
SELECT count(deleted_at), count(*) FROM u;
SELECT count(*) FROM plain p JOIN u ON u.id = p.id AND (u.deleted_at IS NULL OR true);
SELECT count(*) FROM u a, u b WHERE a.deleted_at IS NOT NULL;
SELECT name FROM u GROUP BY name HAVING max(deleted_at) IS NOT NULL ORDER BY 1;
SELECT count(*) FROM u WHERE id IN (SELECT u2.id FROM u u2 WHERE u2.deleted_at IS NOT NULL);
SELECT count(*) FROM (u JOIN plain p USING (id)) AS j WHERE j.deleted_at IS NOT NULL;

-- a whole row is no mention, and no more is a view's
SELECT count(*) FROM u WHERE u::text LIKE '%n2%';
BEGIN;
UPDATE v SET name = 'x' WHERE v::text LIKE '%n2%' RETURNING id;
UPDATE v SET name = 'x' WHERE deleted_at IS NOT NULL AND id = 2 RETURNING id;
ROLLBACK;

-- with_deleted and only_deleted: FROM items that indexes and conditions reach
EXPLAIN (COSTS OFF) SELECT name FROM softaudit.with_deleted(NULL::u) x WHERE x.id = 2;
EXPLAIN (COSTS OFF) SELECT name FROM softaudit.only_deleted(NULL::u) x WHERE x.id = 2;
SELECT count(*) FROM softaudit.with_deleted(NULL::u);
SELECT x FROM softaudit.with_deleted(NULL::u) x WHERE x.id = 1;
SELECT count(*) FROM plain p LEFT JOIN softaudit.only_deleted(NULL::u) x ON x.id = p.id WHERE x.id IS NOT NULL;
CREATE VIEW all_u AS SELECT id, name FROM softaudit.with_deleted(NULL::u);
SELECT count(*) FROM all_u;
CALL t.err('SELECT * FROM softaudit.with_deleted(NULL::plain)');
CALL t.err('SELECT * FROM softaudit.with_deleted(1)');
CALL t.err('SELECT * FROM softaudit.with_deleted(NULL::s11.u) WITH ORDINALITY');
CALL t.err('SELECT softaudit.with_deleted(NULL::s11.u)');
-- with the caller's privileges and row security
GRANT SELECT (id, name) ON u TO regress_sau_reader;
SET ROLE regress_sau_reader;
SELECT count(id) FROM softaudit.with_deleted(NULL::u);
CALL t.err('SELECT boss FROM softaudit.with_deleted(NULL::s11.u)');
SET ROLE regress_sau_none;
CALL t.err('SELECT count(*) FROM softaudit.with_deleted(NULL::s11.u)');
CALL t.err('SELECT count(*) FROM s11.u');
RESET ROLE;
ALTER TABLE u ENABLE ROW LEVEL SECURITY;
CREATE POLICY low ON u USING (id < 4 AND id IN (SELECT u_id FROM s11.plain));
GRANT SELECT ON u, plain TO regress_sau_reader;
SET ROLE regress_sau_reader;
SELECT string_agg(id::text, ',' ORDER BY id) FROM s11.u;
SELECT string_agg(id::text, ',' ORDER BY id) FROM softaudit.with_deleted(NULL::s11.u);
SELECT string_agg(id::text, ',' ORDER BY id) FROM softaudit.only_deleted(NULL::s11.u);
RESET ROLE;

-- plans: as with the condition written by hand
EXPLAIN (COSTS OFF) SELECT * FROM plain p LEFT JOIN u ON u.id = p.u_id;
CREATE INDEX u_live ON u (name) WHERE deleted_at IS NULL;
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT * FROM u WHERE name = 'n1';
RESET enable_seqscan;

-- inheritance: children are filtered by themselves, and through their parent
CREATE TABLE par (id integer);
CREATE TABLE chi (x integer) INHERITS (par);
CALL t.err('SELECT softaudit.enable(''chi'', audit => false)');
SELECT softaudit.enable('par', audit => false);
INSERT INTO par VALUES (1), (2);
INSERT INTO chi VALUES (3, 3), (4, 4);
DELETE FROM par WHERE id IN (1, 3);
SELECT string_agg(id::text, ',' ORDER BY id) FROM par;
SELECT string_agg(id::text, ',' ORDER BY id) FROM ONLY par;
SELECT string_agg(id::text, ',' ORDER BY id) FROM chi;
DELETE FROM chi;
SELECT count(*) FROM par;

\set ECHO none
SET client_min_messages = error;
DROP SCHEMA s11 CASCADE;
DROP OWNED BY regress_sau_reader, regress_sau_none;
DROP ROLE regress_sau_reader, regress_sau_none;
