-- A table that was enabled on its own, or that left, becomes a partition (again), at every level.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
SELECT softaudit.assert_preload() \g /dev/null
SET client_min_messages = error;
CREATE SCHEMA s38;
SET search_path = s38, public;
CREATE FUNCTION triggers(t regclass) RETURNS TABLE (relation regclass, trigger name, cloned boolean) LANGUAGE sql AS
$$ SELECT tgrelid::regclass, tgname, tgparentid <> 0 FROM pg_trigger WHERE tgrelid IN (SELECT relid FROM pg_partition_tree(t)) AND tgname LIKE '!softaudit%' ORDER BY tgrelid::regclass::text, tgname $$;
\set ECHO queries
-- a partition that is partitioned itself leaves and comes back
CREATE TABLE e (id int, k int, n int) PARTITION BY LIST (k);
CREATE TABLE e_b PARTITION OF e FOR VALUES IN (1) PARTITION BY LIST (n);
CREATE TABLE e_b1 PARTITION OF e_b DEFAULT;
SELECT softaudit.enable('e', audit => false);
INSERT INTO e VALUES (1, 1, 1), (2, 1, 2), (3, 1, 3);
DELETE FROM e WHERE id = 1;
ALTER TABLE e DETACH PARTITION e_b;
DELETE FROM e_b WHERE id = 2;
DELETE FROM e_b1 WHERE id = 3 RETURNING id;
SELECT id FROM e_b;
INSERT INTO e_b VALUES (4, 1, 4);
ALTER TABLE e ATTACH PARTITION e_b FOR VALUES IN (1);
SELECT id, deleted_at IS NOT NULL AS deleted FROM e ORDER BY id;
DELETE FROM e_b WHERE id = 4 RETURNING id;
SELECT count(*) FROM e;
SELECT * FROM triggers('e');
-- what fails leaves the table as it was
ALTER TABLE e DETACH PARTITION e_b;
CREATE TABLE other (id int, k int, n int, deleted_at timestamptz) PARTITION BY LIST (k);
CALL t.err('ALTER TABLE s38.other ATTACH PARTITION s38.e_b FOR VALUES IN (1)');
ALTER TABLE e ADD more int;
CALL t.state('ALTER TABLE s38.e ATTACH PARTITION s38.e_b FOR VALUES IN (1)');
SELECT * FROM triggers('e_b');
INSERT INTO e_b VALUES (5, 1, 5);
DELETE FROM e_b;
SELECT count(*) FROM e_b;

-- audited on its own, with a part that is, too
CREATE TABLE a (id int PRIMARY KEY, pin text, deleted_at timestamptz) PARTITION BY RANGE (id);
CREATE TABLE a1 (id int, pin text, deleted_at timestamptz, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE a11 (id int, pin text, deleted_at timestamptz, PRIMARY KEY (id));
SELECT softaudit.enable('a', soft_delete => false);
SELECT softaudit.enable('a11', soft_delete => false, exclude => '{pin}');
ALTER TABLE a1 ATTACH PARTITION a11 FOR VALUES FROM (0) TO (5);
SELECT softaudit.enable('a1', audit => false);
SELECT t.skip();
INSERT INTO a1 VALUES (1, 'pin');
SELECT t.changes();
CALL t.err('ALTER TABLE s38.a ATTACH PARTITION s38.a1 FOR VALUES FROM (0) TO (10)');
SELECT softaudit.disable('a1');
CALL t.err('ALTER TABLE s38.a ATTACH PARTITION s38.a1 FOR VALUES FROM (0) TO (10)');
INSERT INTO a11 VALUES (2, 'pin');
SELECT t.changes();
SELECT softaudit.enable('a', soft_delete => false, exclude => '{pin}');
ALTER TABLE a ATTACH PARTITION a1 FOR VALUES FROM (0) TO (10);
CREATE TABLE a12 PARTITION OF a1 FOR VALUES FROM (5) TO (10);
INSERT INTO a VALUES (3, 'a');
INSERT INTO a11 VALUES (4, 'a11');
UPDATE a SET pin = 'b', id = 8 WHERE id = 3;
DELETE FROM a WHERE id = 4;
SELECT t.changes();
SELECT * FROM triggers('a');
SELECT table_name, audit FROM softaudit.registry WHERE schema_name = 's38' AND table_name LIKE 'a%' ORDER BY 1;
SELECT event, relation, details - 'partition' AS details FROM softaudit.events WHERE schema_name = 's38' AND relation LIKE 'a%' AND event <> 'ENABLE' ORDER BY event_id;
\set ECHO none
DROP SCHEMA s38 CASCADE;
