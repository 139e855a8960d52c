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
INSERT INTO mv VALUES (1, 1), (2, 1);
SELECT t.skip();
WITH i AS (INSERT INTO mv VALUES (99, 1)) UPDATE mv SET k = 2;
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

\set ECHO none
DROP SCHEMA s36 CASCADE;
DROP OWNED BY regress_sau_bob;
DROP ROLE regress_sau_bob;
