-- Capture: every way a row can change ends in the log, once, in order, and only if it lasts.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
SET client_min_messages = warning;
CREATE SCHEMA s03;
SET search_path = s03, public;
CREATE TABLE item (id integer PRIMARY KEY, v text);
SELECT softaudit.enable('item', soft_delete => false);
\set ECHO all

-- capture: INSERT, UPDATE, DELETE, TRUNCATE
INSERT INTO item VALUES (1, 'a'), (2, 'b'), (3, NULL);
SELECT t.changes();
UPDATE item SET v = v || '!' WHERE id < 3;
SELECT t.changes();
DELETE FROM item WHERE id = 3;
SELECT t.changes();
TRUNCATE item;
SELECT t.changes();
-- an UPDATE that changes nothing is one all the same; a statement without rows is nothing
INSERT INTO item VALUES (1, 'a');
UPDATE item SET v = v;
UPDATE item SET v = 'x' WHERE false;
DELETE FROM item WHERE id = 99;
INSERT INTO item SELECT * FROM item WHERE false;
SELECT t.changes();
-- TRUNCATE of an empty table is one row, too, and RESTART IDENTITY makes no difference
TRUNCATE item RESTART IDENTITY;
TRUNCATE item;
SELECT t.changes();

-- capture: a key that changes
INSERT INTO item VALUES (1, 'a');
UPDATE item SET id = 10;
SELECT t.changes();
SELECT operation, row_key, changed_columns FROM softaudit.history('item', 10);

-- capture: COPY
COPY item FROM STDIN WITH (DELIMITER ',');
11,from copy
12,\N
\.
SELECT t.changes();
COPY item (v, id) FROM STDIN WITH (FORMAT csv) WHERE id > 13;
no,13
yes,14
\.
SELECT t.changes();
DELETE FROM item;
SELECT count(*) FROM t.changes();

-- capture: INSERT ... ON CONFLICT
INSERT INTO item VALUES (1, 'a');
INSERT INTO item VALUES (1, 'b'), (2, 'c') ON CONFLICT (id) DO UPDATE SET v = excluded.v;
INSERT INTO item VALUES (1, 'd'), (3, 'e') ON CONFLICT DO NOTHING;
INSERT INTO item VALUES (1, 'f') ON CONFLICT (id) DO UPDATE SET v = excluded.v WHERE false;
SELECT t.changes();

-- capture: MERGE
MERGE INTO item USING (VALUES (1, 'm'), (2, NULL), (4, 'n'), (3, 'keep')) AS s (id, v) ON item.id = s.id
 WHEN MATCHED AND s.v IS NULL THEN DELETE
 WHEN MATCHED AND s.v = 'keep' THEN DO NOTHING
 WHEN MATCHED THEN UPDATE SET v = s.v
 WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.v);
SELECT * FROM t.changes() c ORDER BY c COLLATE "C";
TRUNCATE item;
SELECT t.skip();

-- capture: what RETURNING and ROW_COUNT say is what they say without
INSERT INTO item VALUES (1, 'a') RETURNING *;
DO $$
DECLARE n integer;
BEGIN
    UPDATE s03.item SET v = 'b';
    GET DIAGNOSTICS n = ROW_COUNT;
    RAISE INFO 'found %, rows %', FOUND, n;
END
$$;
SELECT t.changes();

-- capture: data-modifying CTEs, each row once
WITH moved AS (DELETE FROM item RETURNING *), more AS (INSERT INTO item VALUES (3, 'c') RETURNING *)
INSERT INTO item SELECT id + 1, v FROM moved UNION ALL SELECT id + 1, v FROM more;
SELECT * FROM t.changes() c ORDER BY c COLLATE "C";
WITH u AS (UPDATE item SET v = 'cte' WHERE id = 2 RETURNING *) SELECT count(*) FROM u;
SELECT t.changes();
-- without reading its output, too
WITH u AS (UPDATE item SET v = 'cte' WHERE id = 3) SELECT 1;
SELECT t.changes();

-- capture: foreign-key actions
CREATE TABLE child (id integer PRIMARY KEY, item_id integer REFERENCES item ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE friend (id integer PRIMARY KEY, item_id integer REFERENCES item ON DELETE SET NULL);
CREATE TABLE guest (id integer PRIMARY KEY, item_id integer DEFAULT 4 REFERENCES item ON DELETE SET DEFAULT);
SELECT softaudit.enable(c, soft_delete => false) FROM unnest('{child,friend,guest}'::regclass[]) c;
INSERT INTO child VALUES (1, 2), (2, 2), (3, 3);
INSERT INTO friend VALUES (1, 2);
INSERT INTO guest VALUES (1, 2);
SELECT t.skip();
UPDATE item SET id = 30 WHERE id = 3;
SELECT t.changes();
DELETE FROM item WHERE id = 2;
SELECT * FROM t.changes() c ORDER BY c COLLATE "C";
-- a cascade through a table that is not audited reaches one that is
CREATE TABLE between_them (id integer PRIMARY KEY, item_id integer REFERENCES item ON DELETE CASCADE);
CREATE TABLE grandchild (id integer PRIMARY KEY, between_id integer REFERENCES between_them ON DELETE CASCADE);
SELECT softaudit.enable('grandchild', soft_delete => false);
INSERT INTO between_them VALUES (1, 30);
INSERT INTO grandchild VALUES (1, 1);
DELETE FROM item WHERE id = 30;
SELECT * FROM t.changes() c ORDER BY c COLLATE "C";
-- a tree
CREATE TABLE tree (id integer PRIMARY KEY, parent integer REFERENCES tree ON DELETE CASCADE);
SELECT softaudit.enable('tree', soft_delete => false);
INSERT INTO tree VALUES (1, NULL), (2, 1), (3, 2);
SELECT t.skip();
DELETE FROM tree WHERE id = 1;
SELECT * FROM t.changes() c ORDER BY c COLLATE "C";
-- TRUNCATE ... CASCADE is one row a table
TRUNCATE item CASCADE;
SELECT * FROM t.changes() c ORDER BY c COLLATE "C";
DROP TABLE child, friend, guest, between_them, grandchild;

-- capture: what other triggers do
CREATE TABLE copy_of_item (id integer PRIMARY KEY, v text);
SELECT softaudit.enable('copy_of_item', soft_delete => false);
CREATE FUNCTION upper_v() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.v := upper(NEW.v); RETURN NEW; END $$;
CREATE FUNCTION copy_item() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO s03.copy_of_item VALUES (NEW.id, NEW.v); RETURN NULL; END $$;
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER a_before BEFORE INSERT OR UPDATE ON item FOR EACH ROW EXECUTE FUNCTION upper_v();
CREATE TRIGGER b_after AFTER INSERT ON item FOR EACH ROW EXECUTE FUNCTION copy_item();
INSERT INTO item VALUES (1, 'a'), (2, 'b');
SELECT t.changes();
DROP TRIGGER b_after ON item;
-- by name, a user's AFTER trigger fires after ours, too
CREATE TRIGGER z_after AFTER INSERT ON item FOR EACH ROW EXECUTE FUNCTION copy_item();
INSERT INTO item VALUES (3, 'c');
SELECT t.changes();
-- what a BEFORE trigger keeps from happening did not happen
CREATE TRIGGER c_refuse BEFORE UPDATE OR DELETE ON item FOR EACH ROW EXECUTE FUNCTION refuse();
UPDATE item SET v = 'x';
DELETE FROM item;
SELECT t.changes();
DROP TRIGGER a_before ON item;
DROP TRIGGER z_after ON item;
DROP TRIGGER c_refuse ON item;
-- a trigger that changes the same row again: its history is in the order of the changes
CREATE FUNCTION count_down() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.v::integer > 0 THEN
        UPDATE s03.item SET v = (NEW.v::integer - 1)::text WHERE id = NEW.id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER a_count_down AFTER INSERT OR UPDATE ON item FOR EACH ROW EXECUTE FUNCTION count_down();
INSERT INTO item VALUES (4, '2');
SELECT t.changes();
DROP TRIGGER a_count_down ON item;
CREATE TRIGGER z_count_down AFTER INSERT OR UPDATE ON item FOR EACH ROW EXECUTE FUNCTION count_down();
INSERT INTO item VALUES (5, '2');
SELECT t.changes();
DROP TRIGGER z_count_down ON item;
-- a statement trigger and its transition tables
CREATE FUNCTION copy_all() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO s03.copy_of_item SELECT id + 100, v FROM news; RETURN NULL; END $$;
CREATE TRIGGER s_copy AFTER INSERT ON item REFERENCING NEW TABLE AS news FOR EACH STATEMENT EXECUTE FUNCTION copy_all();
INSERT INTO item VALUES (6, 'f'), (7, 'g');
SELECT t.changes();
DROP TRIGGER s_copy ON item;
TRUNCATE item, copy_of_item;
SELECT t.skip();

-- capture: who reads the log in mid-statement sees the rows before his own
CREATE FUNCTION count_log() RETURNS bigint LANGUAGE sql VOLATILE AS
    $$ SELECT count(*) FROM softaudit.changes WHERE schema_name = 's03' AND table_name = 'item' AND operation = 'INSERT' AND new_data ->> 'v' = 'mid' $$;
CREATE FUNCTION show_log() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE INFO 'row %: % in the log', NEW.id, s03.count_log(); RETURN NULL; END $$;
CREATE TRIGGER z_show AFTER INSERT ON item FOR EACH ROW EXECUTE FUNCTION show_log();
INSERT INTO item VALUES (1, 'mid'), (2, 'mid'), (3, 'mid');
DROP TRIGGER z_show ON item;
CREATE TRIGGER a_show AFTER INSERT ON item FOR EACH ROW EXECUTE FUNCTION show_log();
INSERT INTO item VALUES (4, 'mid'), (5, 'mid');
DROP TRIGGER a_show ON item;
DO $$
BEGIN
    FOR i IN 6 .. 8 LOOP
        INSERT INTO s03.item VALUES (i, 'mid');
        RAISE INFO 'after row %: % in the log', i, s03.count_log();
    END LOOP;
END
$$;
TRUNCATE item;
SELECT t.skip();

-- capture: the log is readable inside the transaction, with the order of changes
BEGIN;
INSERT INTO item VALUES (1, 'a');
UPDATE item SET v = 'b';
UPDATE item SET v = 'c';
DELETE FROM item;
INSERT INTO item VALUES (1, 'again');
SELECT operation, old_data ->> 'v' AS old, new_data ->> 'v' AS new FROM softaudit.history('item', 1) h
 WHERE h.xid = pg_current_xact_id() ORDER BY h.audit_id;
SELECT count(*) = 5 AS one_time FROM softaudit.changes c WHERE c.xid = pg_current_xact_id() AND c.changed_at = now();
DECLARE c CURSOR FOR SELECT operation FROM softaudit.log WHERE xid = pg_current_xact_id() ORDER BY audit_id DESC;
FETCH 1 FROM c;
CLOSE c;
COMMIT;
SELECT t.changes();
-- and not after a rollback
BEGIN;
UPDATE item SET v = 'never';
SELECT t.changes();
ROLLBACK;
SELECT t.changes();
BEGIN;
TRUNCATE item;
ROLLBACK;
SELECT t.changes();

-- capture: savepoints
BEGIN;
INSERT INTO item VALUES (10, 'kept');
SAVEPOINT a;
INSERT INTO item VALUES (11, 'lost');
SAVEPOINT b;
INSERT INTO item VALUES (12, 'lost with it');
RELEASE b;
ROLLBACK TO a;
INSERT INTO item VALUES (13, 'kept in a');
SAVEPOINT c;
UPDATE item SET v = 'kept in c' WHERE id = 13;
RELEASE c;
RELEASE a;
INSERT INTO item VALUES (14, 'kept at last');
COMMIT;
SELECT t.changes();
-- the first change of the transaction is in a savepoint that goes
BEGIN;
SAVEPOINT a;
INSERT INTO item VALUES (20, 'lost');
ROLLBACK TO a;
INSERT INTO item VALUES (21, 'kept');
COMMIT;
SELECT t.changes();
-- reading the log in a savepoint does not tie outer rows to it
BEGIN;
INSERT INTO item VALUES (30, 'outer');
SAVEPOINT a;
INSERT INTO item VALUES (31, 'inner');
SELECT count(*) FROM softaudit.log WHERE xid = pg_current_xact_id();
ROLLBACK TO a;
SELECT count(*) FROM softaudit.log WHERE xid = pg_current_xact_id();
COMMIT;
SELECT t.changes();

-- capture: EXCEPTION blocks, and rows that are waiting when one is entered
CREATE FUNCTION nested() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    BEGIN
        INSERT INTO s03.copy_of_item VALUES (NEW.id, 'lost');
        PERFORM count(*) FROM softaudit.log;
        IF NEW.id % 2 = 0 THEN
            BEGIN
                INSERT INTO s03.copy_of_item VALUES (-NEW.id, 'lost, deeper');
                RAISE EXCEPTION 'inner';
            EXCEPTION WHEN others THEN
                NULL;
            END;
        END IF;
        PERFORM 1 / (NEW.id % 3);
        UPDATE s03.copy_of_item SET v = 'kept' WHERE id = NEW.id;
    EXCEPTION WHEN division_by_zero THEN
        INSERT INTO s03.copy_of_item VALUES (NEW.id, 'after the error');
    END;
    RETURN NULL;
END $$;
CREATE TRIGGER z_nested AFTER INSERT ON item FOR EACH ROW EXECUTE FUNCTION nested();
INSERT INTO item VALUES (41, 'x'), (42, 'x'), (43, 'x'), (44, 'x');
SELECT t.changes();
DROP TRIGGER z_nested ON item;
-- a statement that fails inside a block takes its rows along, the earlier ones stay
DO $$
BEGIN
    INSERT INTO s03.item VALUES (51, 'before');
    BEGIN
        INSERT INTO s03.item SELECT i, 'lost' FROM unnest('{52,53,51}'::integer[]) i;
    EXCEPTION WHEN unique_violation THEN
        INSERT INTO s03.item VALUES (54, 'in the handler');
    END;
    INSERT INTO s03.item VALUES (55, 'after');
END
$$;
SELECT t.changes();
-- a statement that fails in the middle, outside of any block
CALL t.err('INSERT INTO s03.item SELECT i, ''lost'' FROM unnest(''{61,62,51}''::integer[]) i');
INSERT INTO item SELECT i, 'lost' FROM unnest('{61,62,51}'::integer[]) i;
SELECT t.changes();
-- many blocks in one statement
DO $$
BEGIN
    FOR i IN 1000 .. 1299 LOOP
        BEGIN
            INSERT INTO s03.item VALUES (i, 'loop');
            IF i % 3 = 0 THEN
                RAISE EXCEPTION 'no';
            END IF;
        EXCEPTION WHEN raise_exception THEN
            NULL;
        END;
    END LOOP;
END
$$;
SELECT count(*) AS logged, count(DISTINCT new_data ->> 'id') AS different FROM softaudit.changes
 WHERE schema_name = 's03' AND table_name = 'item' AND new_data ->> 'v' = 'loop';
SELECT count(*) FROM item WHERE v = 'loop';
TRUNCATE item, copy_of_item;
SELECT t.skip();

-- capture: more rows than the buffer holds, in one statement, in order
INSERT INTO item SELECT i, repeat('x', 10) FROM generate_series(1, 3000) i;
SELECT count(*), count(DISTINCT audit_id), bool_and(in_order) FROM (
    SELECT audit_id, (new_data ->> 'id')::integer = row_number() OVER (ORDER BY audit_id) AS in_order
      FROM softaudit.changes WHERE schema_name = 's03' AND table_name = 'item' AND audit_id > current_setting('t.seen')::bigint) s;
SELECT t.skip();
UPDATE item SET v = repeat('y', 2000);
SELECT count(*), count(DISTINCT row_key), bool_and(new_data ->> 'v' = repeat('y', 2000)), bool_and(old_data ->> 'v' = repeat('x', 10))
  FROM softaudit.changes WHERE schema_name = 's03' AND table_name = 'item' AND audit_id > current_setting('t.seen')::bigint;
DELETE FROM item;
SELECT t.skip();

-- capture: deferred constraint triggers that write at commit
CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO s03.copy_of_item VALUES (NEW.id, 'at commit'); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER later AFTER INSERT ON item DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION at_commit();
BEGIN;
INSERT INTO item VALUES (1, 'a'), (2, 'b');
SELECT t.changes();
COMMIT;
SELECT t.changes();
INSERT INTO item VALUES (3, 'alone');
SELECT t.changes();
BEGIN;
INSERT INTO item VALUES (4, 'now');
SET CONSTRAINTS ALL IMMEDIATE;
SELECT t.changes();
COMMIT;
-- one that refuses the commit
INSERT INTO copy_of_item VALUES (5, 'in the way');
BEGIN;
INSERT INTO item VALUES (5, 'lost');
COMMIT;
SELECT t.changes();
DROP TRIGGER later ON item;
-- deferrable keys
CREATE TABLE swapped (id integer PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v text);
SELECT softaudit.enable('swapped', soft_delete => false);
INSERT INTO swapped VALUES (1, 'a'), (2, 'b');
UPDATE swapped SET id = 3 - id;
SELECT t.changes();

-- capture: WHERE CURRENT OF
BEGIN;
DECLARE c CURSOR FOR SELECT * FROM swapped ORDER BY id FOR UPDATE;
FETCH 1 FROM c;
UPDATE swapped SET v = 'current' WHERE CURRENT OF c;
FETCH 1 FROM c;
DELETE FROM swapped WHERE CURRENT OF c;
COMMIT;
SELECT t.changes();

-- capture: rules, views, INSTEAD OF triggers
CREATE VIEW simple_view AS SELECT id, v AS value FROM item WHERE id < 1000;
INSERT INTO simple_view VALUES (100, 'through a view');
UPDATE simple_view SET value = 'changed' WHERE id = 100;
DELETE FROM simple_view WHERE id = 100;
SELECT t.changes();
CREATE VIEW joined_view AS SELECT i.id, i.v, c.v AS other FROM item i JOIN copy_of_item c USING (id);
CREATE FUNCTION instead() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO s03.item VALUES (NEW.id, NEW.v);
    INSERT INTO s03.copy_of_item VALUES (NEW.id, NEW.other);
    RETURN NEW;
END $$;
CREATE TRIGGER instead INSTEAD OF INSERT ON joined_view FOR EACH ROW EXECUTE FUNCTION instead();
INSERT INTO joined_view VALUES (200, 'v', 'other');
SELECT t.changes();
CREATE RULE also AS ON UPDATE TO item DO ALSO UPDATE s03.copy_of_item SET v = NEW.v WHERE id = OLD.id;
UPDATE item SET v = 'ruled' WHERE id = 200;
SELECT * FROM t.changes() c ORDER BY c COLLATE "C";
DROP RULE also ON item;
CREATE RULE never AS ON DELETE TO item DO INSTEAD NOTHING;
DELETE FROM item;
SELECT t.changes();
DROP RULE never ON item;

-- capture: functions in SELECT, prepared statements
CREATE FUNCTION add_item(integer) RETURNS integer LANGUAGE sql AS $$ INSERT INTO s03.item VALUES ($1, 'by function') RETURNING id $$;
SELECT add_item(300 + i) FROM generate_series(1, 2) i;
PREPARE p AS UPDATE item SET v = $2 WHERE id = $1;
EXECUTE p (301, 'prepared');
EXECUTE p (302, 'prepared');
DEALLOCATE p;
SELECT t.changes();
-- EXPLAIN changes nothing, EXPLAIN ANALYZE does
DO $$ BEGIN EXECUTE 'EXPLAIN UPDATE s03.item SET v = ''only explained'''; END $$;
SELECT t.changes();
DO $$ BEGIN EXECUTE 'EXPLAIN ANALYZE UPDATE s03.item SET v = ''analyzed'' WHERE id = 301'; END $$;
SELECT t.changes();

-- capture: procedures that commit
CREATE PROCEDURE in_steps() LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO s03.item VALUES (5001, 'first');
    COMMIT;
    INSERT INTO s03.item VALUES (5002, 'rolled back');
    ROLLBACK;
    INSERT INTO s03.item VALUES (5003, 'third');
END $$;
CALL in_steps();
SELECT t.changes();
SELECT count(DISTINCT xid) FROM softaudit.changes WHERE new_data ->> 'v' IN ('first', 'third') AND schema_name = 's03';

-- capture: a read-only transaction may read the log
BEGIN READ ONLY;
SELECT count(*) > 0 FROM softaudit.changes;
SELECT operation, new_data FROM softaudit.history('item', 5001);
COMMIT;

-- capture: triggers made by hand are refused where they could not work
CREATE TABLE handmade (id integer PRIMARY KEY);
CALL t.err('CREATE TRIGGER by_hand AFTER INSERT ON s03.handmade FOR EACH ROW EXECUTE FUNCTION softaudit.capture()');
-- and where one gets in all the same, it raises
ALTER EVENT TRIGGER softaudit_ddl_start DISABLE;
CREATE TRIGGER by_hand BEFORE INSERT ON handmade FOR EACH ROW EXECUTE FUNCTION softaudit.capture();
CALL t.err('INSERT INTO handmade VALUES (1)');
DROP TRIGGER by_hand ON handmade;
CREATE TRIGGER by_hand AFTER INSERT ON handmade FOR EACH STATEMENT EXECUTE FUNCTION softaudit.capture();
CALL t.err('INSERT INTO handmade VALUES (1)');
DROP TRIGGER by_hand ON handmade;
CREATE TRIGGER by_hand AFTER INSERT ON handmade FOR EACH ROW EXECUTE FUNCTION softaudit.capture();
CALL t.err('INSERT INTO handmade VALUES (1)');
DROP TRIGGER by_hand ON handmade;
CREATE TRIGGER "!softaudit_capture" AFTER INSERT ON handmade FOR EACH ROW EXECUTE FUNCTION softaudit.capture('2000000000', '0', 'full');
CALL t.err('INSERT INTO handmade VALUES (1)');
DROP TRIGGER "!softaudit_capture" ON handmade;
-- a hand-made one for another table's log is no way into it
DO $$ BEGIN EXECUTE (SELECT format('CREATE TRIGGER "!softaudit_capture" AFTER INSERT ON s03.handmade FOR EACH ROW EXECUTE FUNCTION softaudit.capture(%L, %L, %L)', table_id, relation::oid, 'full')
                       FROM softaudit.registry WHERE relation = 's03.item'::regclass); END $$;
CALL t.err('INSERT INTO handmade VALUES (1)');
DROP TRIGGER "!softaudit_capture" ON handmade;
ALTER EVENT TRIGGER softaudit_ddl_start ENABLE ALWAYS;
SELECT t.changes();
CALL t.err('SELECT softaudit.capture()');
CALL t.err('SELECT softaudit.guard()');
CALL t.err('SELECT softaudit.ddl_start()');

-- a statement that fails amid its rows, within a subtransaction: none of them is logged
CREATE TABLE half (id integer PRIMARY KEY);
SELECT softaudit.enable('half', soft_delete => false);
CREATE FUNCTION half_way() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.id = 3 THEN RAISE EXCEPTION 'half way'; END IF; RETURN NULL; END $$;
CREATE TRIGGER zz_half_way AFTER INSERT ON half FOR EACH ROW EXECUTE FUNCTION half_way();
BEGIN;
INSERT INTO half VALUES (10);
DO $$ BEGIN INSERT INTO half VALUES (1), (2), (3); EXCEPTION WHEN raise_exception THEN NULL; END $$;
INSERT INTO half VALUES (11);
COMMIT;
SELECT operation, row_key FROM softaudit.changes WHERE table_name = 'half' ORDER BY audit_id;
DROP TABLE half;

\set ECHO none
SET client_min_messages = warning;
DROP SCHEMA s03 CASCADE;
