-- The life cycle, what a review of it found: each would hit another row than was meant, or pass by a hold.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
SELECT softaudit.assert_preload() \g /dev/null
CREATE SCHEMA s36;
SET search_path = s36, public;
SET client_min_messages = error;
CREATE ROLE regress_sau_alice;
CREATE ROLE regress_sau_bob;
GRANT ALL ON SCHEMA s36 TO regress_sau_alice, regress_sau_bob;
\set ECHO all

-- a key of the column's own type is that key, whatever the session's settings: IST is Israel's, too
CREATE TABLE ev (at timestamptz PRIMARY KEY, v text);
SELECT softaudit.enable('ev');
INSERT INTO ev VALUES ('2026-01-01 12:00+05:30', 'mine'), ('2026-01-01 12:00+02', 'of somebody else');
SET TimeZone = 'Asia/Kolkata';
SET DateStyle = 'SQL, DMY';
SELECT softaudit.hold('ev', (SELECT at FROM ev WHERE v = 'mine'), 'case');
SELECT h.row_key FROM softaudit.holds h JOIN softaudit.registry r USING (table_id) WHERE r.relation = 'ev'::regclass;
SELECT softaudit.release('ev', (SELECT at FROM ev WHERE v = 'mine'));
DELETE FROM ev;
SELECT softaudit.restore('ev', (SELECT at FROM softaudit.with_deleted(NULL::ev) WHERE v = 'mine'));
SELECT v FROM ev;
SELECT rows_deleted FROM softaudit.erase('ev', (SELECT at FROM ev WHERE v = 'mine'), 'request');
SELECT v FROM softaudit.only_deleted(NULL::ev);
-- as text, it is the caller's
SELECT rows_deleted FROM softaudit.erase('ev', '01/01/2026 15:30', 'request');
CREATE TABLE fl (x float8 PRIMARY KEY, v text);
SELECT softaudit.enable('fl');
INSERT INTO fl VALUES (0.3, 'other'), (0.1::float8 + 0.2::float8, 'mine');
SET extra_float_digits = 0;
SELECT rows_deleted FROM softaudit.erase('fl', (SELECT x FROM fl WHERE v = 'mine'), 'request');
SELECT v FROM fl;
-- an object for several columns, and a key that the log has redacted
CREATE TABLE two (a integer, at timestamptz, v text, PRIMARY KEY (a, at));
SELECT softaudit.enable('two', redact => '{at}');
INSERT INTO two VALUES (1, '2026-02-03 12:00+05:30', 'mine'), (1, '2026-03-02 12:00+05:30', 'other');
SELECT softaudit.hold('two', '{"a": 1, "at": "02/03/2026 12:00"}'::jsonb, 'case');
SET DateStyle = 'SQL, MDY';
CALL t.err($$SELECT softaudit.erase('two', '{"a": 1, "at": "03/02/2026 12:00"}'::jsonb, 'request')$$);
SELECT rows_deleted FROM softaudit.erase('two', '{"a": 1, "at": "02/03/2026 12:00"}'::jsonb, 'request');
SELECT v FROM two;

-- so are the keys that foreign keys are followed by
CREATE TABLE tp (at timestamptz PRIMARY KEY);
CREATE TABLE tc (id integer PRIMARY KEY, at timestamptz REFERENCES tp ON DELETE CASCADE, v text);
SELECT softaudit.enable(t, soft_delete => false) FROM unnest('{tp, tc}'::regclass[]) t;
INSERT INTO tp VALUES ('2026-01-01 12:00+05:30'), ('2026-01-02 12:00+05:30');
INSERT INTO tc VALUES (1, '2026-01-01 12:00+05:30', 'held'), (2, '2026-01-02 12:00+05:30', 'not');
SELECT softaudit.hold('tc', 1, 'litigation');
SET DateStyle = 'SQL, DMY';
CALL t.err($$SELECT softaudit.erase('tp', '2026-01-01T12:00:00+05:30'::text, 'request')$$);
SELECT relation, rows_deleted, images_removed FROM softaudit.erase('tp', '2026-01-02T12:00:00+05:30'::text, 'request');
CREATE TABLE fp (x float8 PRIMARY KEY, at timestamptz);
CREATE TABLE fc (id integer PRIMARY KEY, x float8 REFERENCES fp ON DELETE CASCADE);
SELECT softaudit.enable(t, soft_delete => false) FROM unnest('{fp, fc}'::regclass[]) t;
SELECT softaudit.expire('fp', 'at', '1 day');
INSERT INTO fp VALUES (0.1::float8 + 0.2::float8, '2020-01-01');
INSERT INTO fc SELECT 1, x FROM fp;
SELECT softaudit.hold('fc', 1, 'litigation');
CALL softaudit.maintain();
SELECT count(*) FROM fc;
RESET TimeZone;
RESET DateStyle;
RESET extra_float_digits;

\set ECHO none
DROP SCHEMA s36 CASCADE;
DROP ROLE regress_sau_alice, regress_sau_bob;
