-- What stands in the way: of a row that is written, a deleted one; of a restore, live rows and deleted parents.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
SET client_min_messages = error;
DROP ROLE IF EXISTS regress_sau_writer, regress_sau_other;
CREATE ROLE regress_sau_writer;
CREATE ROLE regress_sau_other;
CREATE SCHEMA s24;
GRANT USAGE ON SCHEMA s24 TO regress_sau_writer;
GRANT ALL ON SCHEMA s24 TO regress_sau_other;
SET search_path = s24, public;
CREATE TABLE u (id integer PRIMARY KEY, email text, code text, n integer, CONSTRAINT u_code UNIQUE (code), CONSTRAINT u_n UNIQUE (n) DEFERRABLE);
CREATE UNIQUE INDEX u_email ON u (email);
SELECT softaudit.enable('u', keep_unique => '{u_code}');
-- an index over expressions that counts deleted rows, made afterwards
CREATE UNIQUE INDEX u_lower ON u (lower(code)) NULLS NOT DISTINCT WHERE n > 1000;
CREATE UNIQUE INDEX u_up ON u (upper(code));
CREATE TABLE bare (id integer PRIMARY KEY, deleted_at timestamptz);
INSERT INTO bare VALUES (1, now());
INSERT INTO u VALUES (1, 'a@x', 'a', 1), (2, 'b@x', 'b', 2), (3, 'c@x', 'c', 3);
DELETE FROM u WHERE id = 1;
\set ECHO all

-- written: a deleted row has the key, and the hint says so
CALL t.err('INSERT INTO s24.u VALUES (1)');
CALL t.err('INSERT INTO s24.u VALUES (8, NULL, ''a'')');
CALL t.err('UPDATE s24.u SET id = 1 WHERE id = 2');
CALL t.err('MERGE INTO s24.u USING (VALUES (1)) v (id) ON u.id = v.id WHEN NOT MATCHED THEN INSERT (id) VALUES (v.id)');
CALL t.err('WITH w AS (INSERT INTO s24.u VALUES (1) RETURNING id) SELECT count(*) FROM w');
CALL t.err('WITH w AS (INSERT INTO s24.u VALUES (1)) SELECT 1');
CALL t.err('INSERT INTO s24.u VALUES (9, NULL, ''a'') ON CONFLICT (id) DO NOTHING');
CALL t.err('DO $d$ BEGIN INSERT INTO s24.u VALUES (1); END $d$');
CALL t.err('EXPLAIN ANALYZE INSERT INTO s24.u VALUES (1)');
-- a live row has it: nothing to say
CALL t.err('INSERT INTO s24.u VALUES (2)');
CALL t.err('INSERT INTO s24.u VALUES (8), (8)');
CALL t.err('INSERT INTO s24.u VALUES (8, ''b@x'')');
CALL t.err('UPDATE s24.u SET id = 3 WHERE id = 2');
CALL t.err('INSERT INTO s24.bare VALUES (1)');
-- nor is it said of what a trigger writes elsewhere, or of an error with a hint of its own
CREATE FUNCTION elsewhere() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.n = 77 THEN
        INSERT INTO s24.bare VALUES (1);
    ELSIF NEW.n = 78 THEN
        RAISE unique_violation USING MESSAGE = 'mine', HINT = 'Mine, too.', TABLE = 'u', SCHEMA = 's24', CONSTRAINT = 'u_pkey';
    ELSIF NEW.n = 79 THEN
        RAISE unique_violation USING MESSAGE = 'mine', TABLE = 'u', SCHEMA = 's24', CONSTRAINT = 'u_pkey';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER elsewhere BEFORE INSERT ON u FOR EACH ROW EXECUTE FUNCTION elsewhere();
CALL t.err('INSERT INTO s24.u VALUES (8, NULL, NULL, 77)');
CALL t.err('INSERT INTO s24.u VALUES (8, NULL, NULL, 78)');
CALL t.err('INSERT INTO s24.u VALUES (8, NULL, NULL, 79)');
DROP TRIGGER elsewhere ON u;
-- what cannot be told is worded so: expressions, constraints that are checked later, COPY, who may not read the key
DROP INDEX u_up;
CREATE UNIQUE INDEX u_up ON u (upper(email) text_pattern_ops);
CALL t.err('INSERT INTO s24.u VALUES (8, ''A@x'')');
DROP INDEX u_up;
CALL t.err('INSERT INTO s24.u VALUES (8, NULL, NULL, 1)');
BEGIN;
SET CONSTRAINTS u_n DEFERRED;
INSERT INTO u VALUES (8, NULL, NULL, 1);
CALL t.err('SET CONSTRAINTS s24.u_n IMMEDIATE');
ROLLBACK;
SELECT format('COPY s24.u (id) FROM PROGRAM ''echo %s''', 1) AS copy_one \gset
CALL t.err(:'copy_one');
GRANT INSERT ON u TO regress_sau_writer;
SET ROLE regress_sau_writer;
CALL t.err('INSERT INTO s24.u VALUES (1)');
RESET ROLE;
-- of a partition, by way of its root; a key of several columns; NULLs that are equal
CREATE TABLE p (id integer, k integer, v text) PARTITION BY LIST (k);
CREATE TABLE p1 (v text, k integer, id integer);
ALTER TABLE p ATTACH PARTITION p1 FOR VALUES IN (1);
CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2);
SELECT softaudit.enable('p');
CREATE UNIQUE INDEX p_key ON p (id, k) NULLS NOT DISTINCT;
INSERT INTO p VALUES (1, 1), (NULL, 1), (1, 2), (2, 2);
DELETE FROM p WHERE k = 1;
CALL t.err('INSERT INTO s24.p VALUES (1, 1)');
CALL t.err('INSERT INTO s24.p VALUES (NULL, 1)');
CALL t.err('INSERT INTO s24.p VALUES (1, 2)');
CALL t.err('UPDATE s24.p SET k = 1 WHERE id = 1');
CALL t.err('INSERT INTO s24.p1 (id, k) VALUES (1, 1)');
CALL t.err('COPY s24.p (id, k) FROM PROGRAM ''printf "1\t1\n"''');

-- a restore that cannot be is refused with all that stands in its way, of what its deletion took along, too
CREATE TABLE boss (id integer PRIMARY KEY);
CREATE TABLE top (id integer PRIMARY KEY, email text UNIQUE, boss integer REFERENCES boss, during int4range, EXCLUDE USING gist (during WITH &&));
CREATE TABLE low (id integer PRIMARY KEY, top integer REFERENCES top ON DELETE CASCADE, boss integer REFERENCES boss, low integer REFERENCES low ON DELETE CASCADE, code text COLLATE "C");
CREATE UNIQUE INDEX low_code ON low (upper(code));
SELECT softaudit.enable(t::regclass) FROM unnest('{boss,top,low}'::text[]) t;
INSERT INTO boss VALUES (1), (2);
INSERT INTO top VALUES (1, 'a', 1, '[1,5)');
INSERT INTO low VALUES (1, 1, 2, NULL, 'x'), (2, NULL, NULL, 1, 'y'), (3, 1, NULL, NULL, 'z');
DELETE FROM low WHERE id = 3;
DELETE FROM top;
DELETE FROM boss;
INSERT INTO top VALUES (2, 'a', NULL, '[2,3)'), (3, 'b', NULL, '[4,9)');
INSERT INTO low (id, code) VALUES (4, 'X'), (5, 'Y'), (6, 'Z');
CALL t.err('SELECT softaudit.restore(''s24.top'', 1)');
DELETE FROM top;
DELETE FROM low;
CALL t.err('SELECT softaudit.restore(''s24.top'', 1)');
SELECT softaudit.restore('boss', 1);
CALL t.err('SELECT softaudit.restore(''s24.top'', 1)');
SELECT softaudit.restore('boss', 2);
SELECT softaudit.restore('top', 1);
SELECT id FROM low ORDER BY id;
-- many: the first twenty
INSERT INTO low (id, top, code) SELECT g, 1, 'n' || g FROM generate_series(101, 130) g;
DELETE FROM top;
INSERT INTO low (id, code) SELECT g + 100, 'N' || g FROM generate_series(101, 130) g;
CALL t.err('SELECT softaudit.restore(''s24.top'', 1)');
