-- The life cycle, more of it: partitions without the purge's index, settings that say nothing, the log read by its index.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
SELECT softaudit.assert_preload() \g /dev/null
CREATE SCHEMA s31;
SET search_path = s31, public;
SET client_min_messages = error;
CREATE FUNCTION advice() RETURNS SETOF text LANGUAGE sql AS $$
    SELECT concat_ws('|', a.severity, a.object, a.advice, a.sql) FROM softaudit.advise() a WHERE a.object LIKE 's31.%'
$$;
CREATE FUNCTION mend() RETURNS SETOF text LANGUAGE sql AS $$ SELECT a.sql FROM softaudit.advise() a WHERE a.object LIKE 's31.%' $$;
-- sequential scans of the leaves of the log, of all sessions so far
CREATE FUNCTION scans() RETURNS bigint LANGUAGE sql AS $$
    SELECT sum(s.seq_scan) FROM pg_stat_user_tables s WHERE s.schemaname = 'softaudit' AND s.relname ~ '^log_g[0-9]'
$$;
CREATE TABLE parts (id integer PRIMARY KEY, a text) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (100) TO (200);
CREATE TABLE heirs (id integer PRIMARY KEY);
CREATE TABLE heirs_1 (PRIMARY KEY (id)) INHERITS (heirs);
SELECT softaudit.enable('parts', purge_after => '30 days') \g /dev/null
\set ECHO all

-- advise(): a partition's index is not valid
SELECT advice();
UPDATE pg_index SET indisvalid = false WHERE indexrelid = softaudit.purge_index('parts_2', 'deleted_at');
SELECT advice();
SELECT oldest_deleted IS NULL AS unknown, warnings FROM softaudit.status WHERE relation = 'parts'::regclass;
SELECT mend() \gexec
SELECT advice();
SELECT softaudit.purge_index('parts_2', 'deleted_at') IS NOT NULL AS there;

-- of the whole table, only that the table has none
UPDATE pg_index SET indisvalid = false WHERE indexrelid = softaudit.purge_index('parts', 'deleted_at');
UPDATE pg_index SET indisvalid = false WHERE indexrelid = softaudit.purge_index('parts_1', 'deleted_at');
SELECT advice();
SELECT mend() \gexec
SELECT advice();

-- an inheritance child, which no index of its parent reaches
SELECT softaudit.enable('heirs', purge_after => '30 days');
SELECT advice();
SELECT mend() \gexec
SELECT advice();

-- purge_after is for soft-deleted rows: where there are none, it is not taken in silence
CREATE TABLE lists (id integer PRIMARY KEY);
CALL t.err($$SELECT softaudit.enable('lists', soft_delete => false, purge_after => '30 days')$$);
SELECT count(*) FROM softaudit.registry WHERE relation = 'lists'::regclass;
SELECT softaudit.enable('lists', soft_delete => false);
CALL t.err($$SELECT softaudit.enable('lists', purge_after => '30 days')$$);
SELECT softaudit.enable('lists', soft_delete => true, purge_after => '30 days');
SELECT soft_delete, purge_after FROM softaudit.status WHERE relation = 'lists'::regclass;
-- one that was given before stays with the settings
SELECT softaudit.enable('lists', soft_delete => false);
SELECT softaudit.enable('lists', soft_delete => true);
SELECT soft_delete, purge_after FROM softaudit.status WHERE relation = 'lists'::regclass;

-- an erasure finds the log's rows by their index, however small a leaf is
CREATE TABLE people (id integer PRIMARY KEY, v text);
SELECT softaudit.enable('people', soft_delete => false, log_group => 's31', keep_log => '1 year');
INSERT INTO people SELECT g, 'v' || g FROM generate_series(1, 20) g;
UPDATE people SET v = v || '.';
ANALYZE;
SELECT pg_stat_force_next_flush();
SELECT scans() AS before \gset
SELECT rows_deleted, images_removed FROM softaudit.erase('people', 7, 'request', dry_run => true);
SELECT rows_deleted, images_removed FROM softaudit.erase('people', 7, 'request');
SELECT pg_stat_force_next_flush();
SELECT scans() - :before AS scans;
SELECT operation, old_data, new_data FROM softaudit.history('people', 7);
SELECT count(*) FROM softaudit.history('people', 8) WHERE new_data IS NOT NULL;

-- so does retention with what is held, of which the last row may be
SELECT softaudit.hold('people', 9, 'case');
SELECT softaudit.hold('parts', 'case');
ANALYZE;
SELECT pg_stat_force_next_flush();
SELECT scans() AS before \gset
SELECT softaudit.is_held(b.leaf, g.group_id) FROM softaudit.log_groups g, LATERAL softaudit.partition_bounds(g.group_id) b
 WHERE g.group_name = 's31' AND b.lower_bound <= now() AND b.upper_bound > now();
SELECT pg_stat_force_next_flush();
SELECT scans() - :before AS scans;
SELECT softaudit.release('people', 9), softaudit.release('parts');

\set ECHO none
DROP SCHEMA s31 CASCADE;
