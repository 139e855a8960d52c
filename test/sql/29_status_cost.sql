-- status is cheap to poll: the oldest deleted row is read from an index, or not at all.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
SELECT softaudit.assert_preload() \g /dev/null
CREATE SCHEMA s29;
SET search_path = s29, public;
SET client_min_messages = error;
CREATE VIEW oldest AS
SELECT table_name, oldest_deleted IS NOT NULL AS has_oldest, next_purge IS NOT NULL AS has_next, deleted_rows FROM softaudit.status WHERE schema_name = 's29';
CREATE PROCEDURE forget_scans() LANGUAGE sql AS $$ SELECT pg_stat_reset_single_table_counters(oid) FROM pg_class WHERE relnamespace = 's29'::regnamespace AND relkind = 'r' $$;
CREATE TABLE parts (id integer PRIMARY KEY, a text) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (100) TO (200);
CREATE TABLE heirs (id integer PRIMARY KEY);
CREATE TABLE heirs_1 (PRIMARY KEY (id)) INHERITS (heirs);
SELECT softaudit.enable('parts', purge_after => '30 days'), softaudit.enable('heirs', purge_after => '30 days') \g /dev/null
INSERT INTO parts SELECT g, g FROM generate_series(50, 149) g;
INSERT INTO heirs SELECT generate_series(1, 50);
INSERT INTO heirs_1 SELECT generate_series(51, 100);
DELETE FROM parts WHERE id % 10 = 0;
DELETE FROM heirs WHERE id % 10 = 0;
-- a child does not inherit an index
CREATE INDEX heirs_1_due ON heirs_1 (deleted_at) WHERE deleted_at IS NOT NULL;
VACUUM ANALYZE parts, heirs, heirs_1;
\set ECHO all

-- each leaf has an index: no leaf is scanned, however small it is
SELECT pg_stat_force_next_flush();
CALL forget_scans();
SELECT * FROM oldest ORDER BY 1;
SET enable_indexscan = off;
SELECT * FROM oldest ORDER BY 1;
RESET enable_indexscan;
SELECT pg_stat_force_next_flush();
SELECT sum(seq_scan) AS seq_scans FROM pg_stat_user_tables WHERE schemaname = 's29';

-- a partition whose index is not valid, a child that has none: unknown, and not scanned
UPDATE pg_index SET indisvalid = false WHERE indexrelid = softaudit.purge_index('parts_2', 'deleted_at');
DROP INDEX heirs_1_due;
SELECT softaudit.purge_index('parts', 'deleted_at') IS NOT NULL AS parts, softaudit.purge_index('parts_2', 'deleted_at') AS parts_2,
       softaudit.purge_index('heirs', 'deleted_at') IS NOT NULL AS heirs, softaudit.purge_index('heirs_1', 'deleted_at') AS heirs_1;
CALL forget_scans();
SELECT * FROM oldest ORDER BY 1;
SELECT pg_stat_force_next_flush();
SELECT sum(seq_scan) AS seq_scans FROM pg_stat_user_tables WHERE schemaname = 's29';

-- a stamp without a time zone is in UTC, whatever the caller's zone is
CREATE TABLE stamped (id integer PRIMARY KEY, deleted_at timestamp);
SELECT softaudit.enable('stamped', purge_after => '30 days');
INSERT INTO stamped VALUES (1), (2);
DELETE FROM stamped;
SET TimeZone = 'Asia/Tokyo';
SELECT abs(extract(epoch FROM now() - oldest_deleted)) < 600 AS just_now FROM softaudit.status WHERE relation = 'stamped'::regclass;
RESET TimeZone;

\set ECHO none
DROP SCHEMA s29 CASCADE;
