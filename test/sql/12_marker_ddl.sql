-- The marker and DDL: partitions, columns, triggers; nothing deleted comes back in silence.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
-- or the first table to be enabled here would tell of it
SELECT softaudit.assert_preload() \g /dev/null
CREATE SCHEMA s12;
SET search_path = s12, public;
SET client_min_messages = error;
CREATE TABLE pt (id integer, k integer, v text) PARTITION BY LIST (k);
CREATE TABLE pt1 PARTITION OF pt FOR VALUES IN (1);
CREATE TABLE pt2 PARTITION OF pt FOR VALUES IN (2) PARTITION BY RANGE (id);
CREATE TABLE pt2a PARTITION OF pt2 FOR VALUES FROM (0) TO (100);
SELECT softaudit.enable('pt', audit => false);
INSERT INTO pt SELECT g, 1 + g % 2, 'x' FROM generate_series(1, 10) g;
RESET client_min_messages;
\set ECHO all

-- partitions: through the root and by themselves
DELETE FROM pt WHERE id < 3;
DELETE FROM pt1 WHERE id = 4;
DELETE FROM pt2a WHERE id = 5;
SELECT (SELECT count(*) FROM pt), (SELECT count(*) FROM pt1), (SELECT count(*) FROM pt2), (SELECT count(*) FROM pt2a);
SELECT count(*), count(deleted_at) FROM softaudit.with_deleted(NULL::pt);
SELECT count(*), count(deleted_at) FROM softaudit.with_deleted(NULL::pt2a);
UPDATE pt SET k = 2 WHERE id = 6;
SELECT tableoid::regclass FROM pt WHERE id = 6;
CALL t.err('TRUNCATE pt');
CALL t.err('TRUNCATE pt2a');
-- later ones
CREATE TABLE pt3 PARTITION OF pt FOR VALUES IN (3);
INSERT INTO pt3 VALUES (300, 3, 'new');
DELETE FROM pt3;
SELECT count(*) FROM pt3;
CALL t.err('TRUNCATE pt3');

-- DETACH and ATTACH: the marker is carried over
ALTER TABLE pt DETACH PARTITION pt1;
SELECT (SELECT count(*) FROM pt1), (SELECT count(*) FROM softaudit.only_deleted(NULL::pt1));
DELETE FROM pt1 WHERE id = 8;
SELECT count(*) FROM pt1;
SELECT soft_delete, audit FROM softaudit.registry WHERE relation = 'pt1'::regclass;
ALTER TABLE pt ATTACH PARTITION pt1 FOR VALUES IN (1);
SELECT tgname FROM pg_trigger WHERE tgrelid = 'pt1'::regclass ORDER BY 1;
SELECT (SELECT count(*) FROM pt1), (SELECT count(*) FROM softaudit.only_deleted(NULL::pt1));
-- or it is refused
CREATE TABLE lone (id integer, k integer, v text, deleted_at timestamptz, gone timestamptz);
CREATE TABLE root (LIKE lone) PARTITION BY LIST (k);
SELECT softaudit.enable('lone', audit => false);
CALL t.err('ALTER TABLE root ATTACH PARTITION lone FOR VALUES IN (9)');
CREATE TABLE parent (id integer);
CALL t.err('ALTER TABLE lone INHERIT parent');
ALTER TABLE parent ADD deleted_at timestamptz;
SELECT softaudit.enable('parent', audit => false);
CREATE TABLE child (id integer, deleted_at timestamptz);
INSERT INTO child VALUES (1, NULL), (2, now());
ALTER TABLE child INHERIT parent;
SELECT count(*) FROM child;

-- the column: renamed, retyped, dropped, made NOT NULL
ALTER TABLE pt RENAME deleted_at TO removed_at;
SELECT softaudit.marker_column('pt');
DELETE FROM pt2a WHERE id = 7;
SELECT (SELECT count(*) FROM pt), (SELECT count(*) FROM pt2a);
CALL t.state('ALTER TABLE pt ALTER removed_at TYPE text');
CALL t.err('ALTER TABLE pt DROP COLUMN removed_at');
CREATE TABLE empty_one (id integer);
SELECT softaudit.enable('empty_one', audit => false);
CALL t.err('ALTER TABLE empty_one ALTER deleted_at SET NOT NULL');
CALL t.err('ALTER TABLE empty_one ALTER deleted_at SET DEFAULT now()');
ALTER TABLE pt DROP COLUMN removed_at CASCADE;
SELECT soft_delete FROM softaudit.registry WHERE relation = 'pt'::regclass;
SELECT tgname FROM pg_trigger WHERE tgrelid IN (SELECT relid FROM pg_partition_tree('pt'));

-- triggers switched off: still hidden, still marked
CREATE TABLE quiet (id integer);
SELECT softaudit.enable('quiet', audit => false);
INSERT INTO quiet VALUES (1), (2), (3);
DELETE FROM quiet WHERE id = 1;
ALTER TABLE quiet DISABLE TRIGGER ALL;
SELECT count(*) FROM quiet;
DELETE FROM quiet WHERE id = 2;
SELECT (SELECT count(*) FROM quiet), (SELECT count(*) FROM softaudit.with_deleted(NULL::quiet));
SET session_replication_role = replica;
SELECT count(*) FROM quiet;
RESET session_replication_role;
-- a trigger that is dropped by hand is told
DROP TRIGGER "!softaudit_marker" ON quiet;
SELECT count(*) FROM quiet;

-- LIKE makes a table of its own
CREATE TABLE likeness (LIKE lone INCLUDING ALL);
INSERT INTO likeness (id) VALUES (1);
DELETE FROM likeness;
SELECT softaudit.marker_column('likeness');

\set ECHO none
SET client_min_messages = error;
DROP SCHEMA s12 CASCADE;
