-- Capture on partitioned tables: whichever way a row comes in, goes, or moves.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
CREATE SCHEMA s04;
SET search_path = s04, public;
\set ECHO all

-- partitions: those that are there, and one below another
CREATE TABLE parted (id integer, region text, v text, hidden text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE p_eu PARTITION OF parted FOR VALUES IN ('eu');
CREATE TABLE p_asia PARTITION OF parted FOR VALUES IN ('asia') PARTITION BY RANGE (id);
CREATE TABLE p_asia_1 PARTITION OF p_asia FOR VALUES FROM (0) TO (100);
SELECT softaudit.enable('parted', soft_delete => false, exclude => '{hidden}');
SELECT tgrelid::regclass, count(*) FROM pg_trigger WHERE tgfoid = 'softaudit.capture()'::regprocedure AND tgrelid IN (SELECT relid FROM pg_partition_tree('parted')) GROUP BY tgrelid ORDER BY tgrelid::regclass::text COLLATE "C";
INSERT INTO parted VALUES (1, 'eu', 'a', 'h'), (2, 'asia', 'b', 'h');
UPDATE parted SET v = v || '!';
DELETE FROM parted WHERE id = 2;
SELECT t.changes();

-- partitions: DML straight on them
INSERT INTO p_eu VALUES (3, 'eu', 'c', 'h');
UPDATE p_eu SET v = 'd' WHERE id = 3;
DELETE FROM p_eu WHERE id = 3;
INSERT INTO p_asia VALUES (4, 'asia', 'e', 'h');
UPDATE p_asia_1 SET v = 'f';
COPY p_eu FROM STDIN;
5	eu	g	h
\.
SELECT t.changes();

-- partitions: made later
CREATE TABLE p_us PARTITION OF parted FOR VALUES IN ('us');
INSERT INTO parted VALUES (6, 'us', 'x', 'h');
INSERT INTO p_us VALUES (7, 'us', 'y', 'h');
TRUNCATE p_us;
CREATE TABLE p_asia_2 PARTITION OF p_asia FOR VALUES FROM (100) TO (200);
INSERT INTO parted VALUES (100, 'asia', 'z', 'h');
TRUNCATE p_asia_2;
SELECT t.changes();
SELECT t.events();

-- partitions: attached later, with columns in another order and some dropped
CREATE TABLE p_af (gone integer, hidden text, v text, region text NOT NULL, gone_too integer, id integer NOT NULL);
ALTER TABLE p_af DROP COLUMN gone, DROP COLUMN gone_too;
INSERT INTO p_af VALUES ('h', 'old', 'af', 8);
ALTER TABLE parted ATTACH PARTITION p_af FOR VALUES IN ('af');
INSERT INTO parted VALUES (9, 'af', 'new', 'h');
UPDATE p_af SET v = v || '!';
SELECT t.changes();
TRUNCATE p_af;
SELECT t.changes();
-- a whole tree
CREATE TABLE p_am (LIKE parted) PARTITION BY RANGE (id);
CREATE TABLE p_am_1 PARTITION OF p_am FOR VALUES FROM (0) TO (100);
ALTER TABLE parted ATTACH PARTITION p_am FOR VALUES IN ('am');
INSERT INTO p_am_1 VALUES (10, 'am', 'deep', 'h');
TRUNCATE p_am_1;
SELECT t.changes();
SELECT t.events();
-- a default one
CREATE TABLE p_rest PARTITION OF parted DEFAULT;
INSERT INTO parted VALUES (11, 'oz', 'rest', 'h');
SELECT t.changes();
SELECT t.skip();

-- moves: one UPDATE in the log
UPDATE parted SET region = 'eu' WHERE id = 11;
SELECT t.changes();
-- to other column orders and back
UPDATE parted SET region = 'af' WHERE id = 11;
UPDATE parted SET region = 'asia', v = 'moved', hidden = 'i' WHERE id = 11;
SELECT t.changes();
-- within a sub-tree, straight on it
UPDATE p_asia SET id = 111 WHERE id = 11;
SELECT t.changes();
-- of many rows, among updates that stay
UPDATE parted SET region = CASE WHEN id IN (1, 4) THEN 'us' ELSE region END, v = 'many';
SELECT * FROM t.changes() c ORDER BY c COLLATE "C";
SELECT operation, row_key, changed_columns, partition_name FROM softaudit.history('parted', '{"id": 1, "region": "us"}') ORDER BY audit_id;

-- moves: beside true deletes and inserts in one statement
WITH gone AS (DELETE FROM parted WHERE id = 5 RETURNING *),
     come AS (INSERT INTO parted VALUES (12, 'eu', 'come', 'h'))
UPDATE parted SET region = 'af' WHERE id = 1;
SELECT * FROM t.changes() c ORDER BY c COLLATE "C";
MERGE INTO parted USING (VALUES (1, 'delete'), (4, 'move'), (12, 'stay'), (13, 'insert'), (111, 'move')) AS s (id, what) ON parted.id = s.id
 WHEN MATCHED AND what = 'delete' THEN DELETE
 WHEN MATCHED AND what = 'move' THEN UPDATE SET region = 'eu'
 WHEN MATCHED THEN UPDATE SET v = what
 WHEN NOT MATCHED THEN INSERT VALUES (s.id, 'us', what, 'h');
SELECT * FROM t.changes() c ORDER BY c COLLATE "C";
-- the same key deleted here and inserted there is no move
WITH gone AS (DELETE FROM parted WHERE id = 13 RETURNING *)
INSERT INTO parted SELECT id, 'af', v, hidden FROM gone;
SELECT * FROM t.changes() c ORDER BY c COLLATE "C";
-- nor is one where both happen in statements of their own
BEGIN;
DELETE FROM parted WHERE id = 13;
INSERT INTO parted VALUES (13, 'us', 'again', 'h');
COMMIT;
SELECT t.changes();

-- moves: with other triggers about
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON p_us FOR EACH ROW EXECUTE FUNCTION refuse();
-- a row that the target refuses is gone
UPDATE parted SET region = 'us' WHERE id = 12;
SELECT count(*) FROM parted WHERE id = 12;
SELECT t.changes();
-- and does not become somebody else's move
INSERT INTO parted VALUES (14, 'eu', 'a', 'h'), (15, 'eu', 'b', 'h'), (16, 'eu', 'c', 'h');
SELECT t.skip();
UPDATE parted SET region = CASE id WHEN 15 THEN 'us' ELSE 'af' END WHERE id IN (14, 15, 16);
SELECT * FROM t.changes() c ORDER BY c COLLATE "C";
DROP TRIGGER refuse ON p_us;
-- triggers that write to the table while the row is under way
CREATE FUNCTION add_other() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        INSERT INTO s04.parted VALUES (OLD.id + 1000, 'eu', TG_NAME, 'h');
        RETURN OLD;
    END IF;
    INSERT INTO s04.parted VALUES (NEW.id + 2000, 'eu', TG_NAME, 'h');
    RETURN NEW;
END $$;
CREATE TRIGGER a_gone AFTER DELETE ON p_af FOR EACH ROW EXECUTE FUNCTION add_other();
CREATE TRIGGER b_come BEFORE INSERT ON p_us FOR EACH ROW EXECUTE FUNCTION add_other();
UPDATE parted SET region = 'us' WHERE id = 14;
SELECT * FROM t.changes() c ORDER BY c COLLATE "C";
DROP TRIGGER a_gone ON p_af;
CREATE TRIGGER z_gone AFTER DELETE ON p_af FOR EACH ROW EXECUTE FUNCTION add_other();
UPDATE parted SET region = 'us' WHERE id = 16;
SELECT * FROM t.changes() c ORDER BY c COLLATE "C";
DROP TRIGGER z_gone ON p_af;
DROP TRIGGER b_come ON p_us;
DELETE FROM parted WHERE id > 999;
SELECT t.skip();

-- moves: in savepoints
BEGIN;
SAVEPOINT a;
UPDATE parted SET region = 'eu' WHERE id = 14;
ROLLBACK TO a;
INSERT INTO parted VALUES (20, 'eu', 'after', 'h');
UPDATE parted SET region = 'am' WHERE id = 14;
COMMIT;
SELECT t.changes();
-- and in a statement that fails on the way
CALL t.err('UPDATE s04.parted SET region = ''asia'', id = 1000 WHERE id = 14');
INSERT INTO parted VALUES (21, 'eu', 'after an error', 'h');
SELECT t.changes();

-- moves: referenced by a foreign key
CREATE TABLE referrer (id integer PRIMARY KEY, p_id integer, p_region text, FOREIGN KEY (p_id, p_region) REFERENCES parted ON UPDATE CASCADE ON DELETE CASCADE);
SELECT softaudit.enable('referrer', soft_delete => false);
INSERT INTO referrer VALUES (1, 20, 'eu');
SELECT t.skip();
UPDATE parted SET region = 'us' WHERE id = 20;
SELECT * FROM t.changes() c ORDER BY c COLLATE "C";
DELETE FROM parted WHERE id = 20;
SELECT * FROM t.changes() c ORDER BY c COLLATE "C";
DROP TABLE referrer;

-- moves: settings hold
SELECT softaudit.enable('parted', images => 'changes');
UPDATE parted SET region = 'af', v = 'short' WHERE id = 21;
SELECT t.changes();
SELECT softaudit.enable('parted', images => 'full', ignore => '{region}');
UPDATE parted SET region = 'eu' WHERE id = 21;
UPDATE parted SET region = 'af', v = 'not ignored' WHERE id = 21;
SELECT t.changes();
SELECT softaudit.reset('parted', 'ignore');
SELECT t.skip();

-- TRUNCATE: of the table one row, of a partition one row
TRUNCATE parted;
SELECT t.changes();
TRUNCATE p_eu;
TRUNCATE p_asia;
SELECT t.changes();
INSERT INTO parted VALUES (1, 'eu', 'a', 'h'), (2, 'us', 'b', 'h');
SELECT t.skip();
BEGIN;
TRUNCATE parted;
INSERT INTO parted VALUES (1, 'eu', 'a', 'h');
TRUNCATE p_eu;
TRUNCATE parted;
COMMIT;
SELECT t.changes();
-- one that was rolled back does not stand for a later one
BEGIN;
SAVEPOINT a;
TRUNCATE parted;
ROLLBACK TO a;
TRUNCATE p_eu;
COMMIT;
SELECT t.changes();

-- columns: a rename and a new column reach the partitions' images
ALTER TABLE parted RENAME COLUMN hidden TO still_hidden;
ALTER TABLE parted ADD COLUMN extra integer DEFAULT 5;
INSERT INTO parted VALUES (1, 'eu', 'a', 'h'), (2, 'af', 'b', 'h');
UPDATE parted SET region = 'af' WHERE id = 1;
SELECT t.changes();
SELECT exclude FROM softaudit.registry WHERE relation = 'parted'::regclass;
ALTER TABLE parted DROP COLUMN extra;
INSERT INTO p_af (id, region, v, still_hidden) VALUES (3, 'af', 'c', 'h');
SELECT t.changes();
SELECT t.skip();

-- DETACH: told, and an event; not captured any more
ALTER TABLE parted DETACH PARTITION p_eu;
INSERT INTO p_eu VALUES (50, 'eu', 'alone', 'h');
TRUNCATE p_eu;
SELECT t.changes();
SELECT t.events();
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'p_eu'::regclass;
-- a whole tree
ALTER TABLE parted DETACH PARTITION p_asia;
INSERT INTO p_asia VALUES (51, 'asia', 'alone', 'h');
TRUNCATE p_asia_1;
TRUNCATE p_asia;
SELECT t.changes();
SELECT t.events();
SELECT count(*) FROM pg_trigger WHERE tgrelid IN ('p_asia'::regclass, 'p_asia_1'::regclass);
-- and back
ALTER TABLE parted ATTACH PARTITION p_eu FOR VALUES IN ('eu');
INSERT INTO p_eu VALUES (52, 'eu', 'back', 'h');
TRUNCATE p_eu;
SELECT t.changes();
SELECT t.events();
-- concurrently
DROP TABLE p_rest;
SELECT t.skip();
ALTER TABLE parted DETACH PARTITION p_eu CONCURRENTLY;
INSERT INTO p_eu VALUES (53, 'eu', 'alone', 'h');
TRUNCATE p_eu;
SELECT t.changes();
SELECT t.events();
DROP TABLE p_eu;
SELECT t.events();

-- DROP of a partition takes rows along without a row trigger: an event
CREATE TABLE p_old PARTITION OF parted FOR VALUES IN ('old');
INSERT INTO parted VALUES (60, 'old', 'x', 'h');
SELECT t.skip();
DROP TABLE p_old;
SELECT t.events();
SELECT operation, old_data, new_data FROM softaudit.history('parted', '{"id": 60, "region": "old"}');

-- a foreign partition has no rows of ours, and is not in the way
CREATE FOREIGN DATA WRAPPER regress_sau_fdw;
CREATE SERVER regress_sau_server FOREIGN DATA WRAPPER regress_sau_fdw;
CREATE TABLE half_foreign (id integer, v text) PARTITION BY LIST (id);
CREATE TABLE hf_local PARTITION OF half_foreign FOR VALUES IN (1);
CREATE FOREIGN TABLE hf_foreign PARTITION OF half_foreign FOR VALUES IN (2) SERVER regress_sau_server;
SELECT softaudit.enable('half_foreign', soft_delete => false);
INSERT INTO half_foreign VALUES (1, 'local');
SELECT t.changes();

-- history of a row, asked of a partition
INSERT INTO parted VALUES (70, 'af', 'x', 'h');
UPDATE parted SET region = 'am' WHERE id = 70;
SELECT operation, row_key, partition_name FROM softaudit.history('p_am', '{"id": 70, "region": "am"}');

-- disable: on all partitions
SELECT softaudit.disable('parted');
SELECT count(*) FROM pg_trigger WHERE tgfoid = 'softaudit.capture()'::regprocedure AND tgrelid IN (SELECT relid FROM pg_partition_tree('parted'));
SELECT t.skip();
INSERT INTO parted VALUES (80, 'af', 'x', 'h');
TRUNCATE p_am_1;
CREATE TABLE p_new PARTITION OF parted FOR VALUES IN ('new');
SELECT t.changes();
SELECT t.events();
SELECT softaudit.enable('parted');
UPDATE parted SET v = 'y' WHERE id = 80;
TRUNCATE p_new;
SELECT t.changes();
DROP TABLE parted;
SELECT t.events();

\set ECHO none
SET client_min_messages = warning;
DROP SCHEMA s04 CASCADE;
DROP FOREIGN DATA WRAPPER regress_sau_fdw CASCADE;
