-- Whose history history() shows, and what of it; what else gets into the log, or stays.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
SET client_min_messages = error;
CREATE ROLE regress_sau_alice;
CREATE ROLE regress_sau_reader;
CREATE SCHEMA s40;
GRANT USAGE ON SCHEMA s40 TO PUBLIC;
SET search_path = s40, public;
CREATE FUNCTION seen(target regclass, key text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT concat_ws(' ', h.operation, h.row_key, ':', COALESCE(h.old_data::text, '-'), '->', COALESCE(h.new_data::text, '-'), h.changed_columns)
      FROM softaudit.history(target, key) h ORDER BY h.audit_id
$$;
\set ECHO queries
-- row security: a row of an inheritance child is not the table's
CREATE TABLE par (id integer PRIMARY KEY, owner text, secret text);
SELECT softaudit.enable('par', soft_delete => false);
INSERT INTO par VALUES (1, 'bob', 'of bob'), (2, 'regress_sau_alice', 'of alice');
ALTER TABLE par ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON par USING (owner = current_user);
CREATE TABLE chi () INHERITS (par);
GRANT SELECT ON par TO regress_sau_alice;
GRANT INSERT ON chi TO regress_sau_alice;
SET ROLE regress_sau_alice;
INSERT INTO chi VALUES (1, 'regress_sau_alice', 'mine');
SELECT id, owner FROM par ORDER BY id;
SELECT seen('par', '1');
SELECT seen('par', '2');
RESET ROLE;
-- and one of a partition is
CREATE TABLE parts (id integer PRIMARY KEY, owner text) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
SELECT softaudit.enable('parts', soft_delete => false);
INSERT INTO parts VALUES (1, 'bob'), (2, 'regress_sau_alice');
ALTER TABLE parts ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON parts USING (owner = current_user);
GRANT SELECT ON parts, parts_1 TO regress_sau_alice;
SET ROLE regress_sau_alice;
SELECT seen('parts', '1');
SELECT seen('parts', '2'), seen('parts_1', '2');
RESET ROLE;
-- grants on the columns do not reach a column that was dropped
CREATE TABLE dc (id integer PRIMARY KEY, name text, ssn text, more jsonb);
SELECT softaudit.enable('dc', soft_delete => false);
INSERT INTO dc VALUES (1, 'ann', '123', '{"a": [1, {"ssn": 2}], "b": {}}');
UPDATE dc SET name = 'anna', ssn = '456';
GRANT SELECT (id, name, more) ON dc TO regress_sau_reader;
SET ROLE regress_sau_reader;
CALL t.err('SELECT * FROM softaudit.history(''s40.dc'', 1)');
RESET ROLE;
ALTER TABLE dc DROP ssn;
DELETE FROM dc;
SET ROLE regress_sau_reader;
SELECT seen('dc', '1');
RESET ROLE;
GRANT SELECT ON dc TO regress_sau_reader;
SET ROLE regress_sau_reader;
SELECT seen('dc', '1');
RESET ROLE;

\set ECHO none
DROP SCHEMA s40 CASCADE;
DROP ROLE regress_sau_alice, regress_sau_reader;
