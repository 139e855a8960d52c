-- What an error, another role or somebody else's trigger must not change.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
SELECT softaudit.assert_preload() \g /dev/null
SET client_min_messages = warning;
CREATE SCHEMA s28;
SET search_path = s28, public;
CREATE ROLE regress_sau_one;
CREATE ROLE regress_sau_two;
GRANT ALL ON SCHEMA s28 TO regress_sau_one, regress_sau_two;
\set ECHO all

-- a lock timeout while the session learns what is soft-deleted is not "nothing is"
CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (100);
SELECT softaudit.enable('parted', audit => false);
INSERT INTO parted VALUES (1), (2);
DELETE FROM parted WHERE id = 1;
BEGIN;
LOCK TABLE pg_catalog.pg_inherits IN ACCESS EXCLUSIVE MODE;
PREPARE TRANSACTION 'sau_28';
\c -
SET lock_timeout = '100ms';
SELECT id FROM s28.parted_1;
ROLLBACK PREPARED 'sau_28';
SELECT id FROM s28.parted_1;
-- a new session reads the catalogs itself where another's VACUUM made the file of their descriptions old: it is made anew
\c -
BEGIN;
LOCK TABLE pg_catalog.pg_proc IN ACCESS EXCLUSIVE MODE;
PREPARE TRANSACTION 'sau_28';
\c -
SET lock_timeout = '100ms';
SELECT 1;
ROLLBACK PREPARED 'sau_28';
SELECT id FROM s28.parted_1;
\c -
SET search_path = s28, public;
SET client_min_messages = warning;

-- a plan of with_deleted() made for one role is not another's
CREATE TABLE secrets (id int PRIMARY KEY, of name);
SELECT softaudit.enable('secrets', audit => false);
ALTER TABLE secrets OWNER TO regress_sau_one;
ALTER TABLE secrets ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON secrets USING (of = current_user);
GRANT SELECT ON secrets TO regress_sau_two;
INSERT INTO secrets VALUES (1, 'regress_sau_one'), (2, 'regress_sau_two');
SET plan_cache_mode = force_generic_plan;
PREPARE seen AS SELECT id FROM softaudit.with_deleted(NULL::secrets) ORDER BY id;
SET ROLE regress_sau_one;
EXECUTE seen;
SET ROLE regress_sau_two;
EXECUTE seen;
RESET ROLE;
DEALLOCATE seen;
RESET plan_cache_mode;

-- who may DELETE but not hard_delete does not get there by a cascade of his own
CREATE TABLE kept (id int PRIMARY KEY, deleted_at timestamptz);
SELECT softaudit.enable('kept', audit => false);
INSERT INTO kept VALUES (1);
GRANT SELECT, DELETE ON kept TO regress_sau_one;
SET ROLE regress_sau_one;
CREATE TABLE mine (id int PRIMARY KEY);
CREATE TABLE mine_too (id int REFERENCES mine ON DELETE CASCADE);
CREATE FUNCTION wipe() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE 'DELETE FROM s28.kept WHERE id OPERATOR(pg_catalog.=) 1';
    RETURN old;
END $$;
CREATE TRIGGER wipe BEFORE DELETE ON mine_too FOR EACH ROW EXECUTE FUNCTION wipe();
INSERT INTO mine VALUES (1);
INSERT INTO mine_too VALUES (1);
DELETE FROM mine;
RESET ROLE;
SELECT count(*) AS still_there FROM kept WHERE deleted_at IS NOT NULL;

-- the log of a table that was dropped is not shortened by who joins its group
CREATE TABLE gone (id int PRIMARY KEY);
SELECT softaudit.enable('gone', soft_delete => false, log_group => 'group_28');
DROP TABLE gone;
SET ROLE regress_sau_one;
SELECT softaudit.enable('mine', soft_delete => false, log_group => 'group_28', keep_log => '1 hour');
SELECT softaudit.enable('mine', soft_delete => false, log_group => 'group_28');
RESET ROLE;
SELECT keep_log FROM softaudit.log_groups WHERE group_name = 'group_28';

-- a deferred check outlives neither its tables nor the places of its rows
CREATE TABLE p (id int PRIMARY KEY, v int);
CREATE TABLE c (id int REFERENCES p DEFERRABLE INITIALLY DEFERRED);
SELECT softaudit.enable('p', audit => false);
SELECT softaudit.enable('c', audit => false);
INSERT INTO p VALUES (1, 1);
INSERT INTO c VALUES (1);
UPDATE p SET v = 2;
BEGIN;
DELETE FROM p;
ALTER TABLE p ALTER v TYPE bigint;
COMMIT;
SELECT id FROM p;
BEGIN;
DELETE FROM p;
DROP TABLE p, c CASCADE;
COMMIT;

\set ECHO none
SET client_min_messages = error;
DROP TABLE secrets, parted, kept, mine_too, mine CASCADE;
DROP SCHEMA s28 CASCADE;
DROP OWNED BY regress_sau_one, regress_sau_two;
DROP ROLE regress_sau_one, regress_sau_two;
