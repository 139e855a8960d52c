-- status and advise(): each defect seeded, the advice given, its SQL run, the advice gone.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
SELECT softaudit.assert_preload() \g /dev/null
CREATE SCHEMA s20;
SET search_path = s20, public;
CREATE ROLE regress_sau_watcher;
SET client_min_messages = error;
-- the advice about this schema; and the SQL of it, to be run
CREATE FUNCTION t.advice() RETURNS SETOF text LANGUAGE sql AS $$
    SELECT concat_ws('|', a.severity, a.object, a.advice, a.sql) FROM softaudit.advise() a WHERE a.object LIKE 's20.%' OR a.object LIKE 'log group s20%'
$$;
CREATE FUNCTION t.mend() RETURNS SETOF text LANGUAGE sql AS $$
    SELECT a.sql FROM softaudit.advise() a WHERE a.object LIKE 's20.%' OR a.object LIKE 'log group s20%'
$$;
-- what autovacuum would have noted
CREATE PROCEDURE t.settle() LANGUAGE plpgsql AS $$ BEGIN PERFORM CASE WHEN to_regproc('pg_stat_force_next_flush') IS NOT NULL THEN pg_stat_force_next_flush() END; END $$;
CREATE TABLE users (id integer PRIMARY KEY, email text, team integer);
SELECT softaudit.enable('users', log_group => 's20', keep_log => '1 year', purge_after => '30 days') \g /dev/null
INSERT INTO users SELECT g, 'u' || g, g FROM generate_series(1, 1000) g;
DELETE FROM users WHERE id <= 400;
CALL softaudit.maintain();
VACUUM ANALYZE users;
\set ECHO all

-- status: settings and estimates
SELECT relation, schema_name, table_name, soft_delete, audit, deleted_at, images, keep_log, purge_after, held, held_rows, live_rows, deleted_rows,
       oldest_deleted > now() - interval '1 hour' AS young, next_purge - oldest_deleted AS after, log_bytes > 0 AS has_log, log_partitions, last_purge, maintain_lag < '1 hour' AS maintained, warnings
  FROM softaudit.status WHERE schema_name = 's20';
SELECT t.advice();
SELECT softaudit.hold('users', 500, 'case');
SELECT softaudit.hold('users', 'case');
SELECT held, held_rows FROM softaudit.status WHERE relation = 'users'::regclass;
SELECT softaudit.release('users'), softaudit.release('users', 500);

-- a unique index that counts deleted rows, and one that is asked to
CREATE UNIQUE INDEX users_email ON users (email);
SELECT t.advice();
SELECT warnings FROM softaudit.status WHERE relation = 'users'::regclass;
SELECT t.mend() \gexec
SELECT t.advice();
CREATE UNIQUE INDEX users_team ON users (team);
SELECT softaudit.enable('users', keep_unique => '{users_team}');
SELECT t.advice();
DROP INDEX users_team;

-- an index that is read and holds many deleted rows
CREATE INDEX users_by_team ON users (team);
SET enable_seqscan = off;
SELECT count(*) FROM users WHERE team = 700;
RESET enable_seqscan;
CALL t.settle();
SELECT t.advice();
SELECT t.mend() \gexec
SELECT t.advice();

-- foreign keys that the purge has to look at, and its own index
CREATE TABLE pets (id integer PRIMARY KEY, owner integer REFERENCES users);
SELECT t.advice();
SELECT t.mend() \gexec
SELECT t.advice();
DROP INDEX users_purge_idx;
SELECT t.advice();
SELECT t.mend() \gexec
SELECT t.advice();

-- triggers disabled
ALTER TABLE users DISABLE TRIGGER "!softaudit_capture";
ALTER TABLE users ENABLE REPLICA TRIGGER "!softaudit_truncate";
SELECT t.advice();
SELECT t.mend() \gexec
SELECT t.advice();
SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'users'::regclass AND tgname LIKE '!softaudit%' ORDER BY 1;

-- a parent whose DELETE wipes
CREATE TABLE towns (id integer PRIMARY KEY);
ALTER TABLE users ADD town integer REFERENCES towns ON DELETE CASCADE;
CREATE INDEX ON users (town);
SELECT t.advice();
SELECT t.mend() \gexec
SELECT t.advice();
SELECT softaudit.disable('towns', audit => true);
ALTER TABLE users DROP town;

-- log partitions missing ahead
\set ECHO none
ALTER EVENT TRIGGER softaudit_ddl_start DISABLE;
ALTER EVENT TRIGGER softaudit_sql_drop DISABLE;
SELECT format('DROP TABLE %s', b.leaf) FROM softaudit.log_groups g, LATERAL softaudit.partition_bounds(g.group_id) b
 WHERE g.group_name = 's20' AND b.lower_bound > now() \gexec
ALTER EVENT TRIGGER softaudit_ddl_start ENABLE ALWAYS;
ALTER EVENT TRIGGER softaudit_sql_drop ENABLE ALWAYS;
\set ECHO all
SELECT t.advice();
SELECT t.mend() \gexec
SELECT t.advice();

-- holds that were forgotten
SELECT softaudit.hold('users', 600, 'old case');
SELECT softaudit.hold('users', 'old case');
UPDATE softaudit.holds SET held_at = '2020-01-01 12:00+00';
SELECT t.advice();
SELECT t.mend() \gexec
SELECT t.advice();

-- for who was granted it
SET ROLE regress_sau_watcher;
SELECT * FROM softaudit.status;
SELECT softaudit.status_run();
SELECT * FROM softaudit.advise();
SELECT softaudit.advise_run();
RESET ROLE;
GRANT SELECT ON softaudit.status TO regress_sau_watcher;
SET ROLE regress_sau_watcher;
SELECT count(*) FROM softaudit.status WHERE schema_name = 's20';
SELECT * FROM softaudit.advise();
RESET ROLE;
GRANT EXECUTE ON FUNCTION softaudit.advise() TO regress_sau_watcher;
SET ROLE regress_sau_watcher;
SELECT count(*) FROM softaudit.advise() WHERE object LIKE 's20%';
RESET ROLE;

\set ECHO none
REVOKE ALL ON softaudit.status FROM regress_sau_watcher;
REVOKE ALL ON FUNCTION softaudit.advise() FROM regress_sau_watcher;
DROP SCHEMA s20 CASCADE;
DROP ROLE regress_sau_watcher;
