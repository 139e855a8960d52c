-- History: whose changes it shows, by whatever key; and what erase() makes of it.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
SELECT softaudit.assert_preload() \g /dev/null
SET client_min_messages = warning;
CREATE SCHEMA s36;
SET search_path = s36, public;
CREATE ROLE regress_sau_bob;
GRANT ALL ON SCHEMA s36 TO regress_sau_bob;
CREATE FUNCTION seen(target regclass, key text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT concat_ws(' ', h.operation, COALESCE(h.old_data::text, '-'), '->', COALESCE(h.new_data::text, '-')) FROM softaudit.history(target, key) h ORDER BY h.audit_id
$$;
\set ECHO all

-- a move that the new partition refuses is not paired with another row's INSERT
CREATE TABLE mv (id integer, k integer, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
CREATE TABLE mv1 PARTITION OF mv FOR VALUES IN (1);
CREATE TABLE mv2 PARTITION OF mv FOR VALUES IN (2);
SELECT softaudit.enable('mv', soft_delete => false);
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON mv2 FOR EACH ROW WHEN (new.id = 1) EXECUTE FUNCTION refuse();
INSERT INTO mv VALUES (1, 1);
SELECT t.skip();
WITH i AS (INSERT INTO mv VALUES (99, 1)) UPDATE mv SET k = 2;
SELECT t.changes();
-- those that go through are, before and after it
INSERT INTO mv VALUES (1, 1);
SELECT t.skip();
WITH i AS (INSERT INTO mv VALUES (100, 1)) UPDATE mv SET k = 2 WHERE k = 1;
SELECT t.changes();

-- a table that is no more, by its number
CALL t.err('SELECT * FROM softaudit.history(987654321, 1)');
CALL t.err('SELECT * FROM softaudit.history(987654321, ''1''::text)');
CALL t.err('SELECT softaudit.key_image(987654321, ''1'')');

-- row security, where the key's equality is somebody's own
CREATE FUNCTION point_lt(a point, b point) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT (a[0], a[1]) < (b[0], b[1])';
CREATE FUNCTION point_le(a point, b point) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT (a[0], a[1]) <= (b[0], b[1])';
CREATE FUNCTION point_same(a point, b point) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT (a[0], a[1]) = (b[0], b[1])';
CREATE FUNCTION point_ge(a point, b point) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT (a[0], a[1]) >= (b[0], b[1])';
CREATE FUNCTION point_gt(a point, b point) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT (a[0], a[1]) > (b[0], b[1])';
CREATE FUNCTION point_cmp(a point, b point) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT btarraycmp(ARRAY[a[0], a[1]], ARRAY[b[0], b[1]])';
CREATE OPERATOR < (FUNCTION = point_lt, LEFTARG = point, RIGHTARG = point);
CREATE OPERATOR <= (FUNCTION = point_le, LEFTARG = point, RIGHTARG = point);
CREATE OPERATOR = (FUNCTION = point_same, LEFTARG = point, RIGHTARG = point);
CREATE OPERATOR >= (FUNCTION = point_ge, LEFTARG = point, RIGHTARG = point);
CREATE OPERATOR > (FUNCTION = point_gt, LEFTARG = point, RIGHTARG = point);
CREATE OPERATOR CLASS point_ops DEFAULT FOR TYPE point USING btree AS
    OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 point_cmp(point, point);
CREATE TABLE spot (at point, of text, v text, PRIMARY KEY (of, at));
SELECT softaudit.enable('spot', soft_delete => false);
ALTER TABLE spot ENABLE ROW LEVEL SECURITY;
CREATE POLICY shown ON spot USING (v <> 'hidden');
GRANT SELECT ON spot TO regress_sau_bob;
INSERT INTO spot VALUES ('(1,2)', 'a', 'x'), ('(2,1)', 'a', 'hidden');
SET ROLE regress_sau_bob;
SELECT seen('spot', '{"of": "a", "at": "(1,2)"}');
SELECT seen('spot', '{"of": "a", "at": "(2,1)"}');
RESET ROLE;

-- a key as history() shows it, of a table that was dropped
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE TABLE odd (a integer[], b jsonb, c text, m mood[], d timestamptz[], n numeric(5,2), PRIMARY KEY (a, b, c, m, d, n));
SELECT softaudit.enable('odd', soft_delete => false);
INSERT INTO odd VALUES ('{1,2}', '"x"', '[1]', '{sad}', '{2024-02-29 12:00+00}', 1.5), ('{1,2}', '{"k": [1]}', '"', '{}', '{}', 2), ('{}', '1', '', '{glad,sad}', '{NULL}', 3);
CREATE TABLE odd_keys AS SELECT c.row_key FROM softaudit.changes c WHERE c.schema_name = 's36' AND c.table_name = 'odd' ORDER BY c.audit_id;
SELECT k.row_key, count(h) FROM odd_keys k LEFT JOIN LATERAL softaudit.history('odd', k.row_key) h ON h.row_key = k.row_key GROUP BY 1 ORDER BY 1;
DROP TABLE odd;
SELECT k.row_key, count(h) FROM odd_keys k LEFT JOIN LATERAL softaudit.history_of('s36', 'odd', k.row_key::text) h ON h.row_key = k.row_key GROUP BY 1 ORDER BY 1;
SELECT count(*) FROM softaudit.history_of('s36', 'odd', '{"a": "{1, 2}", "b": "x", "c": "[1]", "m": ["sad"], "d": "{2024-02-29 17:30+0530}", "n": "1.50"}');
CALL t.err('SELECT * FROM softaudit.history_of(''s36'', ''odd'', ''{"a": [1], "b": "x", "c": "", "m": [], "d": []}'')');
CALL t.err('SELECT * FROM softaudit.history_of(''s36'', ''odd'', ''{"a": [1], "b": "x", "c": "", "m": [], "d": [], "n": null}'')');
CALL t.err('SELECT * FROM softaudit.history_of(''s36'', ''odd'', ''{"a": "1", "b": "x", "c": "", "m": [], "d": [], "n": 1}'')');

-- row security: of the row that is seen, not of others that had its key
CREATE TABLE doc (id integer PRIMARY KEY, tenant name, body text);
SELECT softaudit.enable('doc', soft_delete => false);
ALTER TABLE doc ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON doc USING (tenant = current_user);
GRANT SELECT, INSERT, UPDATE ON doc TO regress_sau_bob;
INSERT INTO doc VALUES (1, 'alice', 'draft'), (5, 'alice', 'to go'), (8, 'alice', 'of alice');
UPDATE doc SET id = 2, body = 'alice moves' WHERE id = 1;
UPDATE doc SET body = 'alice secret, now' WHERE id = 2;
DELETE FROM doc WHERE id = 5;
SET ROLE regress_sau_bob;
INSERT INTO doc VALUES (1, 'regress_sau_bob', 'x'), (5, 'regress_sau_bob', 'y');
UPDATE doc SET id = 6 WHERE id = 5;
SELECT seen('doc', '1');
SELECT seen('doc', '2');
SELECT seen('doc', '6');
SELECT seen('doc', '8');
RESET ROLE;
SELECT seen('doc', '1');

-- a key that rows had in turn: of each what is its own
CREATE TABLE k (id integer PRIMARY KEY, v text);
SELECT softaudit.enable('k', soft_delete => false);
INSERT INTO k VALUES (1, 'A');
UPDATE k SET id = 2;
INSERT INTO k VALUES (1, 'B');
UPDATE k SET id = 3 WHERE v = 'B';
SELECT seen('k', '3');
SELECT seen('k', '2');
SELECT seen('k', '1');
-- after a DELETE, and before the next that comes
INSERT INTO k VALUES (1, 'C');
DELETE FROM k WHERE id IN (1, 2);
INSERT INTO k VALUES (1, 'D'), (2, 'E');
UPDATE k SET id = 4 WHERE id = 1;
SELECT seen('k', '4');
INSERT INTO k VALUES (1, 'F');
UPDATE k SET id = 5 WHERE id = 4;
INSERT INTO k VALUES (4, 'G');
SELECT seen('k', '1');
-- after a TRUNCATE
TRUNCATE k;
INSERT INTO k VALUES (1, 'H');
UPDATE k SET id = 6;
SELECT seen('k', '6');
-- within one transaction
BEGIN;
UPDATE k SET id = 7;
INSERT INTO k VALUES (6, 'I');
UPDATE k SET id = 8 WHERE id = 6;
UPDATE k SET id = 9 WHERE id = 8;
COMMIT;
SELECT seen('k', '7');
SELECT seen('k', '9');
-- what was erased is another's, too
SELECT rows_deleted, images_removed FROM softaudit.erase('k', 9, 'request 1');
INSERT INTO k VALUES (9, 'J');
UPDATE k SET id = 10 WHERE id = 9;
SELECT seen('k', '10');
-- key zero is not the table
CREATE TABLE zero (id integer PRIMARY KEY);
SELECT softaudit.enable('zero', soft_delete => false);
INSERT INTO zero VALUES (0);
TRUNCATE zero;
SELECT seen('zero', '0');

-- an erasure takes the row's images and no other's
CREATE TABLE e (id integer PRIMARY KEY, v text);
SELECT softaudit.enable('e', soft_delete => false);
INSERT INTO e VALUES (1, 'A');
UPDATE e SET id = 2;
INSERT INTO e VALUES (1, 'B');
UPDATE e SET id = 3 WHERE v = 'B';
SELECT rows_deleted, images_removed FROM softaudit.erase('e', 3, 'request 2');
SELECT seen('e', '2');
SELECT count(*) FROM softaudit.changes c WHERE c.schema_name = 's36' AND c.table_name = 'e' AND concat(c.old_data, c.new_data) ~ '"B"';

-- keys that rows exchange, or share until the end of a transaction
CREATE TABLE d (id integer PRIMARY KEY DEFERRABLE, v text);
SELECT softaudit.enable('d', soft_delete => false);
INSERT INTO d VALUES (1, 'A'), (2, 'B'), (3, 'C');
UPDATE d SET id = id % 3 + 1;
UPDATE d SET v = lower(v);
UPDATE d SET id = id + 10;
SELECT v, (SELECT string_agg(s, '; ') FROM seen('d', d.id::text) s) FROM d ORDER BY v;
BEGIN;
SET CONSTRAINTS ALL DEFERRED;
INSERT INTO d VALUES (11, 'N');
UPDATE d SET id = 21 WHERE id = 11 AND v = 'c';
COMMIT;
UPDATE d SET id = 31 WHERE v = 'N';
SELECT seen('d', '31');
SELECT seen('d', '21');

-- keys of the same values in another order, and beyond 32 bits, have digests of their own
CREATE TABLE friend (a integer, b integer, v text, PRIMARY KEY (b, a));
SELECT softaudit.enable('friend', soft_delete => false);
INSERT INTO friend VALUES (1, 2, 'x'), (2, 1, 'y'), (3, 3, 'z');
UPDATE friend SET v = v || '!';
CREATE TABLE big (id bigint PRIMARY KEY);
SELECT softaudit.enable('big', soft_delete => false);
INSERT INTO big SELECT g + (h::bigint << 32) FROM unnest('{0,1,2147483647,2147483648,4294967295}'::bigint[]) g, generate_series(-1, 1) h;
SELECT r.table_name, count(DISTINCT l.row_ref), count(DISTINCT c.row_key) FROM softaudit.log l JOIN softaudit.changes c USING (audit_id)
  JOIN softaudit.registry r ON r.table_id = l.row_ref >> 32 WHERE r.schema_name = 's36' AND r.table_name IN ('friend', 'big') GROUP BY 1 ORDER BY 1;
INSERT INTO big VALUES (9223372036854775807), (-9223372036854775808);
SELECT id, (SELECT count(*) FROM softaudit.history('big', big.id)) AS seen, (SELECT count(*) FROM softaudit.history_of('s36', 'big', big.id::text)) AS by_name FROM big ORDER BY 1;
CREATE TABLE num (id numeric PRIMARY KEY);
SELECT softaudit.enable('num', soft_delete => false);
INSERT INTO num SELECT id FROM big UNION ALL VALUES (9223372036854775808), (18446744073709551616), (0.5);
SELECT id, (SELECT count(*) FROM softaudit.history('num', num.id)) AS seen FROM num WHERE (SELECT count(*) FROM softaudit.history('num', num.id)) <> 1;
SELECT rows_deleted, images_removed FROM softaudit.erase('friend', '{"a": 1, "b": 2}', 'request 3');
SELECT seen('friend', '{"a": 2, "b": 1}');
SELECT seen('friend', '{"a": 1, "b": 2}');
-- whatever its columns are called, by number or by name, enabled or not
ALTER TABLE friend RENAME a TO whose;
UPDATE friend SET v = 'renamed';
ALTER TABLE friend RENAME b TO c;
UPDATE friend SET v = 'again', whose = 4 WHERE whose = 2;
SELECT seen('friend', '{"whose": 4, "c": 1}');
SELECT softaudit.hold('friend', '{"whose": 3, "c": 3}', 'case 1');
ALTER TABLE friend RENAME whose TO a;
UPDATE friend SET v = 'last' WHERE v = 'again';
CALL t.err('SELECT * FROM softaudit.erase(''friend'', ''{"a": 3, "c": 3}'', ''request 4'')');
SELECT softaudit.release('friend', '{"a": 3, "c": 3}');
SELECT softaudit.disable('friend');
SELECT seen('friend', '{"a": 4, "c": 1}');
SELECT rows_deleted, images_removed FROM softaudit.erase('friend', '{"a": 4, "c": 1}', 'request 5');
SELECT count(*) FROM softaudit.changes c WHERE c.schema_name = 's36' AND c.table_name = 'friend' AND concat(c.old_data, c.new_data) ~ '"y!?"|again|last';
DROP TABLE friend;
SELECT count(*) FROM softaudit.history_of('s36', 'friend', '{"a": 3, "c": 3}');
-- in partitions that have their columns in another order
CREATE TABLE part (k integer, a text, b text, PRIMARY KEY (b, a, k)) PARTITION BY LIST (k);
CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);
CREATE TABLE part_2 (b text NOT NULL, gone integer, k integer NOT NULL, a text NOT NULL);
ALTER TABLE part_2 DROP gone;
ALTER TABLE part ATTACH PARTITION part_2 FOR VALUES IN (2);
SELECT softaudit.enable('part', soft_delete => false);
INSERT INTO part VALUES (1, 'x', 'y'), (2, 'y', 'x');
UPDATE part SET k = 3 - k, b = b || k;
UPDATE part SET a = a || '!';
SELECT seen('part', '{"a": "x!", "b": "y1", "k": 2}');
SELECT seen('part_1', '{"a": "y!", "b": "x2", "k": 1}');
SELECT count(*) FROM softaudit.history_of('s36', 'part', '{"a": "x!", "b": "y1", "k": 2}');

\set ECHO none
DROP SCHEMA s36 CASCADE;
DROP OWNED BY regress_sau_bob;
DROP ROLE regress_sau_bob;
