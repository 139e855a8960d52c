-- deferred foreign-key actions and savepoints; disable() while some wait
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE TABLE sp_parent (id int PRIMARY KEY, v int);
CREATE TABLE sp_child (id int PRIMARY KEY, parent int REFERENCES sp_parent DEFERRABLE INITIALLY DEFERRED);
SELECT softaudit.enable('sp_parent'), softaudit.enable('sp_child');
INSERT INTO sp_parent SELECT i, i FROM generate_series(1, 4) i;
INSERT INTO sp_child SELECT i, i FROM generate_series(1, 4) i;

-- a check that failed in a savepoint still waits for the commit
BEGIN;
DELETE FROM sp_parent WHERE id = 1;
SAVEPOINT s;
SET CONSTRAINTS ALL IMMEDIATE;
ROLLBACK TO s;
COMMIT;
-- so does one that passed in a savepoint which was rolled back
BEGIN;
DELETE FROM sp_parent WHERE id = 1;
SAVEPOINT s;
DELETE FROM sp_child WHERE id = 1;
UPDATE sp_parent SET v = 10 WHERE id = 1 AND deleted_at IS NOT NULL;
SET CONSTRAINTS ALL IMMEDIATE;
ROLLBACK TO s;
COMMIT;
-- within an EXCEPTION block, and a savepoint within a savepoint
BEGIN;
DELETE FROM sp_parent WHERE id = 1;
DO $$ BEGIN SET CONSTRAINTS ALL IMMEDIATE; EXCEPTION WHEN foreign_key_violation THEN RAISE WARNING 'caught'; END $$;
SAVEPOINT s;
SAVEPOINT t;
DELETE FROM sp_child WHERE id = 1;
SET CONSTRAINTS ALL IMMEDIATE;
RELEASE t;
ROLLBACK TO s;
COMMIT;
-- what a released savepoint settled is settled
BEGIN;
DELETE FROM sp_parent WHERE id = 1;
SAVEPOINT s;
DELETE FROM sp_child WHERE id = 1;
SET CONSTRAINTS ALL IMMEDIATE;
RELEASE s;
COMMIT;
SELECT id FROM sp_parent ORDER BY id;
SELECT id FROM sp_child ORDER BY id;
-- SET CONSTRAINTS goes with its savepoint
BEGIN;
SAVEPOINT s;
SET CONSTRAINTS ALL IMMEDIATE;
SAVEPOINT t;
SET CONSTRAINTS ALL DEFERRED;
RELEASE t;
ROLLBACK TO s;
DELETE FROM sp_parent WHERE id = 2;
SELECT 'deferred, as it was' AS state;
ROLLBACK;
BEGIN;
SET CONSTRAINTS ALL IMMEDIATE;
SAVEPOINT s;
SET CONSTRAINTS ALL DEFERRED;
ROLLBACK TO s;
DELETE FROM sp_parent WHERE id = 2;
ROLLBACK;

-- rows that are not soft-deleted any more when the check is due
BEGIN;
DELETE FROM sp_parent WHERE id = 3;
SELECT softaudit.disable('sp_parent', force => true);
COMMIT;
SELECT id FROM sp_parent ORDER BY id;
DROP TABLE sp_child, sp_parent;
