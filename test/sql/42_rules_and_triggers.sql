-- Users' rules, and triggers that return NULL, on soft-deleted tables.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
SET client_min_messages = error;
CREATE SCHEMA s42;
SET search_path = s42, public;
CREATE TABLE p (id integer PRIMARY KEY);
CREATE TABLE c (id integer PRIMARY KEY, p integer REFERENCES p ON DELETE CASCADE);
CREATE TABLE w (id integer, k integer, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
CREATE TABLE w1 PARTITION OF w FOR VALUES IN (1);
CREATE TABLE w2 PARTITION OF w FOR VALUES IN (2);
SELECT softaudit.enable(t) FROM unnest('{p,c,w}'::regclass[]) t;
INSERT INTO p SELECT generate_series(1, 5);
INSERT INTO c SELECT g, g FROM generate_series(1, 5) g;
INSERT INTO w VALUES (1, 1), (2, 1);
CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
\set ECHO all

-- a DELETE trigger that returns NULL has no say in a soft delete, but in a physical one
CREATE TRIGGER no BEFORE DELETE ON c FOR EACH ROW EXECUTE FUNCTION no();
WITH d AS (DELETE FROM c WHERE id = 5 RETURNING id) SELECT count(*) FROM d;
DELETE FROM p WHERE id = 4;
SELECT (SELECT string_agg(id::text, ' ' ORDER BY id) FROM p) AS p, (SELECT string_agg(id::text, ' ' ORDER BY id) FROM c) AS c;
BEGIN;
SET LOCAL softaudit.hard_delete = on;
WITH d AS (DELETE FROM c WHERE id = 3 RETURNING id) SELECT count(*) FROM d;
COMMIT;
SELECT id FROM c WHERE id = 3;
DROP TRIGGER no ON c;

-- a row that moves to another partition is not deleted, and one that a trigger keeps from moving is not, either
UPDATE w SET k = 2 WHERE id = 1;
CREATE TRIGGER no BEFORE DELETE ON w FOR EACH ROW EXECUTE FUNCTION no();
UPDATE w SET k = 2 WHERE id = 2;
SET softaudit.show_deleted = on;
SELECT tableoid::regclass, * FROM w ORDER BY id;
RESET softaudit.show_deleted;
SELECT operation, table_name, row_key FROM softaudit.changes WHERE schema_name = 's42' AND operation <> 'INSERT' ORDER BY audit_id;

-- a rule in place of the UPDATE by which a foreign key marks: refused, and nothing is half done
CREATE RULE instead AS ON UPDATE TO c DO INSTEAD NOTHING;
CALL t.err('DELETE FROM s42.p WHERE id = 1');
SELECT (SELECT count(*) FROM p), (SELECT count(*) FROM c);
-- its end is noticed
DROP RULE instead ON c;
DELETE FROM p WHERE id = 1;
SELECT (SELECT count(*) FROM p), (SELECT count(*) FROM c);
-- so at a restore
CREATE RULE instead AS ON UPDATE TO c DO INSTEAD NOTHING;
CALL t.err('SELECT softaudit.restore(''s42.p'', 1)');
CALL t.err('UPDATE s42.p SET deleted_at = NULL WHERE id = 1');
DROP RULE instead ON c;
SELECT softaudit.restore('p', 1);
-- one for DELETE is about statements on the table itself, and one that adds to an UPDATE does no harm
CREATE RULE instead AS ON DELETE TO c DO INSTEAD NOTHING;
CREATE RULE also AS ON UPDATE TO c DO ALSO NOTIFY s42;
DELETE FROM c WHERE id = 2;
DELETE FROM p WHERE id = 2;
SELECT (SELECT count(*) FROM p WHERE id = 2), (SELECT count(*) FROM c WHERE id = 2);
SELECT softaudit.restore('p', 2);
SELECT (SELECT count(*) FROM p WHERE id = 2), (SELECT count(*) FROM c WHERE id = 2);

\set ECHO none
DROP SCHEMA s42 CASCADE;
