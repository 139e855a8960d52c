-- An UPDATE that leaves a reference as it is checks no reference, whichever columns it assigns: SET NULL leaves
-- live rows that refer to a deleted one, and they stay usable, as they are for PostgreSQL.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
SELECT softaudit.assert_preload() \g /dev/null
CREATE SCHEMA s22;
SET search_path = s22, public;
SET client_min_messages = error;
CREATE TABLE p (id int PRIMARY KEY);
CREATE TABLE c (id int PRIMARY KEY, ref int REFERENCES p ON DELETE SET NULL, n int);
CREATE TABLE part (id int PRIMARY KEY, ref int REFERENCES p ON DELETE SET NULL, n int) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (3);
CREATE TABLE part_2 (n int, gone int, ref int, id int NOT NULL);
ALTER TABLE part_2 DROP gone;
ALTER TABLE part ATTACH PARTITION part_2 DEFAULT;
DO $$ BEGIN PERFORM softaudit.enable('p', audit => false); PERFORM softaudit.enable('c', audit => false); PERFORM softaudit.enable('part', audit => false); END $$;
INSERT INTO p SELECT generate_series(1, 9);
INSERT INTO c SELECT i, i, i FROM generate_series(1, 5) i;
INSERT INTO part SELECT * FROM c;
DELETE FROM p WHERE id < 4;
\set ECHO all

-- what an ORM writes: every column, the reference and the marker among them
UPDATE c SET ref = 1, n = 10, deleted_at = NULL WHERE id = 1;
UPDATE part SET ref = ref, n = 10 WHERE id IN (1, 3);
INSERT INTO c VALUES (2, 2, 20) ON CONFLICT (id) DO UPDATE SET ref = excluded.ref, n = excluded.n;

-- MERGE with a DELETE assigns the marker of the rows that it updates, too
MERGE INTO c USING p ON p.id = 9 WHEN MATCHED AND c.id = 3 THEN DELETE WHEN MATCHED THEN UPDATE SET n = 11;
MERGE INTO part USING p ON p.id = 9 WHEN MATCHED AND part.id = 4 THEN DELETE WHEN MATCHED THEN UPDATE SET n = 11;
SELECT id, ref, n, deleted_at IS NULL AS live FROM softaudit.with_deleted(NULL::c) ORDER BY id;
SELECT id, ref, n FROM part ORDER BY id;

-- a reference that changes is checked as ever
CALL t.state('UPDATE c SET ref = 2 WHERE id = 1');
CALL t.state('UPDATE part SET ref = 2 WHERE id = 5');
UPDATE c SET ref = NULL WHERE id = 1;
CALL t.state('UPDATE c SET ref = 1 WHERE id = 1');
CALL t.state('INSERT INTO c VALUES (6, 1, 6)');
-- and so is that of a row which comes back
CALL t.state('UPDATE c SET deleted_at = NULL WHERE id = 3');

-- what an INSERT has to check waits for it, in the row's latest version
ALTER TABLE c ADD CONSTRAINT later FOREIGN KEY (n) REFERENCES p DEFERRABLE INITIALLY DEFERRED NOT VALID;
DO $$ BEGIN PERFORM softaudit.enable('c'); END $$;
BEGIN;
INSERT INTO c VALUES (7, 9, 1);
UPDATE c SET n = 1, ref = 8 WHERE id = 7;
SAVEPOINT a;
CALL t.state('SET CONSTRAINTS ALL IMMEDIATE');
ROLLBACK;
\set ECHO none
DROP SCHEMA s22 CASCADE;
