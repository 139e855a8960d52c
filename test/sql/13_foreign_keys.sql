-- Foreign keys at a soft delete and at a restore: what they declare, level by level.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
SET client_min_messages = error;
DROP ROLE IF EXISTS regress_sau_parent, regress_sau_child;
CREATE ROLE regress_sau_parent;
CREATE ROLE regress_sau_child;
CREATE SCHEMA s13;
GRANT ALL ON SCHEMA s13 TO regress_sau_parent, regress_sau_child;
SET search_path = s13, public;
CREATE TABLE a (id integer PRIMARY KEY, n text);
CREATE TABLE b (id integer PRIMARY KEY, a integer REFERENCES a ON DELETE CASCADE, b integer REFERENCES b ON DELETE CASCADE);
CREATE TABLE c (id integer PRIMARY KEY, b integer REFERENCES b ON DELETE RESTRICT);
CREATE TABLE d (id integer PRIMARY KEY, a integer REFERENCES a);
CREATE TABLE e (id integer PRIMARY KEY, a integer REFERENCES a ON DELETE SET NULL);
INSERT INTO a SELECT g FROM generate_series(1, 12) g;
INSERT INTO b SELECT g, g, NULL FROM generate_series(1, 10) g;
INSERT INTO b VALUES (11, 1, 1), (12, 1, 11);
INSERT INTO c VALUES (1, 5);
INSERT INTO d VALUES (1, 6);
INSERT INTO e VALUES (1, 1);
\set ECHO all

-- keys: the trigger stands where foreign keys tie a table to a soft-deleted one
SELECT softaudit.enable(t::regclass) FROM unnest('{a,b,c,e}'::text[]) t;
SELECT tgrelid::regclass, pg_get_triggerdef(oid) ~ 'INSERT' AS on_insert, (SELECT string_agg(attname, ',' ORDER BY attnum) FROM pg_attribute WHERE attrelid = tgrelid AND attnum = ANY (tgattr)) AS columns
  FROM pg_trigger WHERE tgname = '!softaudit_keys' ORDER BY tgrelid::regclass::text;

-- CASCADE: live children of enabled tables go along, level by level, with one stamp
DELETE FROM a WHERE id = 1;
SELECT id FROM softaudit.only_deleted(NULL::b) ORDER BY 1;
SELECT count(DISTINCT deleted_at) FROM (SELECT deleted_at FROM softaudit.only_deleted(NULL::a) UNION ALL SELECT deleted_at FROM softaudit.only_deleted(NULL::b)) s;
-- SET NULL: the reference stays, for a restore to find
SELECT id, a FROM e;
-- RESTRICT and NO ACTION: refused while live rows refer, enabled or not; nothing is half done
CALL t.err('DELETE FROM s13.a WHERE id = 5');
CALL t.err('DELETE FROM s13.a WHERE id = 6');
SELECT (SELECT count(*) FROM a WHERE id IN (5, 6)), (SELECT count(*) FROM b WHERE id IN (5, 6));
DELETE FROM c;
DELETE FROM a WHERE id = 5;
-- an UPDATE that sets the column is a deletion all the same
UPDATE a SET deleted_at = '2024-01-01' WHERE id IN (2, 3);
SELECT id, deleted_at = '2024-01-01' AS stamp FROM softaudit.only_deleted(NULL::b) WHERE a IN (2, 3) ORDER BY 1;

-- a live row cannot be made to refer to a deleted one
CALL t.err('INSERT INTO s13.b VALUES (20, 1, NULL)');
CALL t.err('UPDATE s13.b SET a = 1 WHERE id = 4');
CALL t.err('INSERT INTO s13.d VALUES (2, 1)');
CALL t.err('INSERT INTO s13.d VALUES (2, 99)');
INSERT INTO b (id, a, deleted_at) VALUES (21, 1, now());
INSERT INTO b VALUES (22, NULL, NULL);
UPDATE b SET id = id WHERE id = 4;

-- restore: exactly what went together, parents before children
SELECT softaudit.restore('a', 1);
SELECT id FROM b WHERE a = 1 ORDER BY 1;
SELECT id FROM softaudit.only_deleted(NULL::b) WHERE a = 1;
CALL t.err('SELECT softaudit.restore(''s13.c'', 1)');
CALL t.err('SELECT softaudit.restore(''s13.b'', 5)');
SELECT softaudit.restore('a', '5');
SELECT softaudit.restore('c', 1::smallint);
SELECT softaudit.restore('a', 1);
UPDATE a SET deleted_at = NULL WHERE id = 2;
SELECT id FROM b WHERE a = 2;
-- a child that was deleted before its parent stays deleted
DELETE FROM b WHERE id = 7;
DELETE FROM a WHERE id = 7;
SELECT softaudit.restore('a', 7);
SELECT count(*) FROM b WHERE id = 7;
SELECT softaudit.restore('b', 7);
-- what it refuses
CALL t.err('SELECT softaudit.restore(''s13.a'', 100)');
CALL t.err('SELECT softaudit.restore(''s13.a'', NULL::text)');
CALL t.err('SELECT softaudit.restore(''s13.a'', ''x'')');
CALL t.err('SELECT softaudit.restore(''s13.d'', 1)');
CREATE TABLE pair (x integer, "Y z" text, v text, PRIMARY KEY (x, "Y z"));
CREATE UNIQUE INDEX pair_v ON pair (v);
SELECT softaudit.enable('pair');
INSERT INTO pair VALUES (1, 'q''"', 'one'), (2, 'r', 'two');
DELETE FROM pair WHERE x = 1;
SELECT softaudit.restore('pair', '{"x": 1, "Y z": "q''\""}');
DELETE FROM pair WHERE x = 1;
SELECT softaudit.restore('pair', jsonb_build_object('x', 1, 'Y z', 'q''"'));
CALL t.err('SELECT softaudit.restore(''s13.pair'', 1)');
CALL t.err('SELECT softaudit.restore(''s13.pair'', ''{"x": 1}'')');
DROP INDEX pair_v;
CREATE UNIQUE INDEX pair_v ON pair (v) WHERE deleted_at IS NULL;
DELETE FROM pair WHERE x = 1;
UPDATE pair SET v = 'one' WHERE x = 2;
CALL t.err('SELECT softaudit.restore(''s13.pair'', ''{"x": 1, "Y z": "q''''\""}'')');
SELECT count(*) FROM pair;

-- deferred: at its time
CREATE TABLE f (id integer PRIMARY KEY, a integer CONSTRAINT f_a REFERENCES a DEFERRABLE INITIALLY DEFERRED);
DELETE FROM a WHERE id = 11;
BEGIN;
INSERT INTO f VALUES (1, 11);
SELECT softaudit.restore('a', 11);
COMMIT;
BEGIN;
DELETE FROM a WHERE id = 11;
UPDATE f SET a = 12;
COMMIT;
BEGIN;
DELETE FROM a WHERE id = 12;
SELECT count(*) FROM a WHERE id = 12;
COMMIT;
SELECT count(*) FROM a WHERE id = 12;
BEGIN;
INSERT INTO f VALUES (2, 11);
SET CONSTRAINTS f_a IMMEDIATE;
ROLLBACK;
BEGIN;
SET CONSTRAINTS ALL IMMEDIATE;
DELETE FROM a WHERE id = 12;
ROLLBACK;
BEGIN;
INSERT INTO f VALUES (3, 11);
SAVEPOINT s;
DELETE FROM f WHERE id = 3;
COMMIT;
BEGIN;
SAVEPOINT s;
INSERT INTO f VALUES (4, 11);
ROLLBACK TO s;
COMMIT;
SELECT id FROM f ORDER BY id;

-- PostgreSQL's own integrity sees all: a hard DELETE neither orphans nor passes over deleted rows
SET softaudit.hard_delete = on;
DELETE FROM b WHERE id = 7;
DELETE FROM a WHERE id = 7;
DELETE FROM a WHERE id = 3 AND deleted_at IS NOT NULL;
RESET softaudit.hard_delete;
SELECT count(*) FROM softaudit.with_deleted(NULL::b) WHERE id IN (3, 7);
DELETE FROM a WHERE id = 8;
ALTER TABLE b DROP CONSTRAINT b_a_fkey;
ALTER TABLE b ADD CONSTRAINT b_a_fkey FOREIGN KEY (a) REFERENCES a ON DELETE CASCADE NOT VALID;
ALTER TABLE b VALIDATE CONSTRAINT b_a_fkey;
CALL t.err('INSERT INTO s13.b VALUES (30, 8, NULL)');

-- a trigger of the user's on the child fires, and may change the row
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.deleted_at IS NOT NULL THEN
        UPDATE a SET n = 'touched' WHERE id = 10;
        RAISE INFO 'as %, sees % rows of b', current_user, (SELECT count(*) FROM b);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER touch BEFORE UPDATE ON b FOR EACH ROW EXECUTE FUNCTION touch();
DELETE FROM a WHERE id = 9;
SELECT n FROM a WHERE id = 10;
DROP TRIGGER touch ON b;

-- privileges: children are changed as their owner, and need nothing of the caller
RESET client_min_messages;
SET ROLE regress_sau_parent;
CREATE TABLE s13.mine (id integer PRIMARY KEY);
GRANT REFERENCES ON s13.mine TO regress_sau_child;
SET ROLE regress_sau_child;
CREATE TABLE s13.theirs (id integer PRIMARY KEY, mine integer REFERENCES s13.mine ON DELETE CASCADE, secret text);
INSERT INTO s13.theirs VALUES (1, NULL, 's');
RESET ROLE;
SET client_min_messages = error;
SELECT softaudit.enable('theirs'), softaudit.enable('mine');
INSERT INTO mine VALUES (1), (2);
UPDATE theirs SET mine = 1;
SET ROLE regress_sau_parent;
DELETE FROM s13.mine WHERE id = 1;
RESET ROLE;
SELECT count(*) FROM theirs;
SELECT changed_by = session_user AS by_session_user, operation FROM softaudit.changes WHERE table_name = 'theirs' ORDER BY audit_id DESC LIMIT 1;

-- a comparison that is somebody's function runs as the owner of the table that is looked at, never as ours
SET ROLE regress_sau_child;
CREATE TYPE s13.odd_key AS (v integer);
CREATE FUNCTION s13.odd_to_integer(k s13.odd_key) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
    RAISE INFO 'compares as %', current_user;
    RETURN (k).v;
END $$;
CREATE CAST (s13.odd_key AS integer) WITH FUNCTION s13.odd_to_integer(s13.odd_key) AS IMPLICIT;
CREATE TABLE s13.odd_child (id integer PRIMARY KEY, mine s13.odd_key REFERENCES s13.mine);
SET client_min_messages = error;
INSERT INTO s13.odd_child VALUES (1, ROW(2));
RESET ROLE;
UPDATE odd_child SET mine = ROW(2) WHERE id = 1;
SET ROLE regress_sau_parent;
CALL t.err('DELETE FROM s13.mine WHERE id = 2');
RESET ROLE;
-- a key whose type has no arrays
CREATE TABLE arr (k integer[] PRIMARY KEY);
CREATE TABLE arr_child (id integer PRIMARY KEY, k integer[] REFERENCES arr ON DELETE CASCADE);
SELECT softaudit.enable('arr'), softaudit.enable('arr_child');
INSERT INTO arr VALUES ('{1,2}'), ('{}'), ('{3}');
INSERT INTO arr_child VALUES (1, '{1,2}'), (2, '{}'), (3, '{3}');
DELETE FROM arr WHERE k <> '{3}';
SELECT id FROM arr_child;
CALL t.err('INSERT INTO s13.arr_child VALUES (4, ''{}'')');
SELECT softaudit.restore('arr', '{1,2}');
SELECT id FROM arr_child ORDER BY 1;

-- partitions on both sides, several columns, and cycles
CREATE TABLE pp (id integer, k integer, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
CREATE TABLE pp1 PARTITION OF pp FOR VALUES IN (1);
CREATE TABLE pp2 PARTITION OF pp FOR VALUES IN (2);
CREATE TABLE pc (id integer, k integer, p_id integer, p_k integer, FOREIGN KEY (p_id, p_k) REFERENCES pp ON DELETE CASCADE) PARTITION BY LIST (k);
CREATE TABLE pc1 PARTITION OF pc FOR VALUES IN (1);
CREATE TABLE pc2 PARTITION OF pc FOR VALUES IN (2);
SELECT softaudit.enable('pp'), softaudit.enable('pc');
INSERT INTO pp VALUES (1, 1), (1, 2), (2, 1);
INSERT INTO pc VALUES (1, 1, 1, 1), (2, 2, 1, 1), (3, 1, 1, 2), (4, 2, 2, 1), (5, 1, NULL, 1);
DELETE FROM pp WHERE id = 1 AND k = 1;
SELECT id FROM pc ORDER BY 1;
DELETE FROM pp2;
SELECT id FROM pc ORDER BY 1;
CALL t.err('INSERT INTO s13.pc2 VALUES (6, 2, 1, 2)');
SELECT softaudit.restore('pp', '{"id": 1, "k": 1}');
SELECT id FROM pc ORDER BY 1;
CREATE TABLE ring (id integer PRIMARY KEY, next integer REFERENCES ring ON DELETE CASCADE DEFERRABLE);
SELECT softaudit.enable('ring');
BEGIN;
SET CONSTRAINTS ALL DEFERRED;
INSERT INTO ring VALUES (1, 2), (2, 3), (3, 1), (4, NULL);
COMMIT;
DELETE FROM ring WHERE id = 2;
SELECT id FROM ring;
SELECT softaudit.restore('ring', 3);
SELECT count(*) FROM ring;

-- two ways to one row: it goes once, and comes back with both its parents
CREATE TABLE top (id integer PRIMARY KEY);
CREATE TABLE left_one (id integer PRIMARY KEY REFERENCES top ON DELETE CASCADE);
CREATE TABLE right_one (id integer PRIMARY KEY REFERENCES top ON DELETE CASCADE);
CREATE TABLE bottom (id integer PRIMARY KEY, l integer REFERENCES left_one ON DELETE CASCADE, r integer REFERENCES right_one ON DELETE CASCADE);
CREATE TABLE strict (id integer PRIMARY KEY REFERENCES top ON DELETE CASCADE, l integer REFERENCES left_one, r integer REFERENCES right_one ON DELETE RESTRICT);
SELECT softaudit.enable(t::regclass) FROM unnest('{top,left_one,right_one,bottom,strict}'::text[]) t;
INSERT INTO top VALUES (1);
INSERT INTO left_one VALUES (1);
INSERT INTO right_one VALUES (1);
INSERT INTO bottom VALUES (1, 1, 1);
INSERT INTO strict VALUES (1, 1, 1);
DELETE FROM top;
SELECT (SELECT count(*) FROM left_one), (SELECT count(*) FROM right_one), (SELECT count(*) FROM bottom), (SELECT count(*) FROM strict);
CALL t.err('SELECT softaudit.restore(''s13.bottom'', 1)');
SELECT softaudit.restore('top', 1);
SELECT (SELECT count(*) FROM left_one), (SELECT count(*) FROM right_one), (SELECT count(*) FROM bottom), (SELECT count(*) FROM strict);

-- disable: the triggers go where nothing needs them
SELECT softaudit.disable(t::regclass, force => true) FROM unnest('{a,b,c,e}'::text[]) t;
SELECT count(*) FROM pg_trigger WHERE tgname = '!softaudit_keys' AND tgrelid IN ('a'::regclass, 'b'::regclass, 'c'::regclass, 'd'::regclass, 'e'::regclass, 'f'::regclass);

-- the errors name schema, table and constraint, as PostgreSQL's own do; ON CONFLICT may have met any index, and names the table
CREATE FUNCTION named(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    schema_named text;
    table_named text;
    constraint_named text;
BEGIN
    EXECUTE command;
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS schema_named = SCHEMA_NAME, table_named = TABLE_NAME, constraint_named = CONSTRAINT_NAME;
    RETURN concat_ws(' ', SQLSTATE, schema_named, table_named, constraint_named);
END
$$;
CREATE TABLE parent (id integer PRIMARY KEY, n integer UNIQUE);
CREATE TABLE child (parent integer CONSTRAINT "of Parent" REFERENCES parent);
SELECT softaudit.enable('parent');
INSERT INTO parent VALUES (1, 7), (2, 8);
INSERT INTO child VALUES (2);
DELETE FROM parent WHERE id = 1;
UPDATE parent SET n = 7;
SELECT named(c) FROM unnest(ARRAY['INSERT INTO s13.child VALUES (3)', 'INSERT INTO s13.child VALUES (1)', 'DELETE FROM s13.parent',
    'INSERT INTO s13.parent VALUES (1)', 'INSERT INTO s13.parent VALUES (1) ON CONFLICT (id) DO UPDATE SET id = 1', 'SELECT softaudit.restore(''s13.parent'', 1)']) c;

\set ECHO none
DROP SCHEMA s13 CASCADE;
DROP OWNED BY regress_sau_parent, regress_sau_child;
DROP ROLE regress_sau_parent, regress_sau_child;
