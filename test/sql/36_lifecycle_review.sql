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

-- a hold keeps what would take its row along: in a tree, through any number of levels
CREATE TABLE tree (id integer PRIMARY KEY, up integer REFERENCES tree ON DELETE CASCADE, at timestamptz);
SELECT softaudit.enable('tree', soft_delete => false), softaudit.expire('tree', 'at', '1 day');
INSERT INTO tree VALUES (1, NULL, '2020-01-01'), (2, 1, now()), (3, 2, now()), (4, NULL, '2020-01-01'), (5, 4, now());
SELECT softaudit.hold('tree', 3, 'case');
CALL softaudit.maintain();
SELECT array_agg(id ORDER BY id) FROM tree;
CREATE TABLE s0 (id integer PRIMARY KEY);
CREATE TABLE mid (id integer PRIMARY KEY, s integer REFERENCES s0 ON DELETE CASCADE, up integer REFERENCES mid ON DELETE CASCADE);
SELECT softaudit.enable('s0'), softaudit.enable('mid', soft_delete => false);
INSERT INTO s0 VALUES (1), (2);
INSERT INTO mid VALUES (1, 1, NULL), (2, NULL, 1), (3, 2, NULL), (4, NULL, 3);
SELECT softaudit.hold('mid', 2, 'case');
DELETE FROM s0;
SET client_min_messages = notice;
CALL softaudit.purge('s0', '0', dry_run => true);
CALL softaudit.purge('s0', '0');
SET client_min_messages = error;
SELECT array_agg(id ORDER BY id) FROM mid;

-- by a foreign key that a partition has
CREATE TABLE a0 (id integer PRIMARY KEY, at timestamptz);
CREATE TABLE m0 (id integer PRIMARY KEY, a integer REFERENCES a0 ON DELETE CASCADE);
CREATE TABLE t0 (id integer PRIMARY KEY, m integer) PARTITION BY RANGE (id);
CREATE TABLE t01 PARTITION OF t0 FOR VALUES FROM (0) TO (10);
ALTER TABLE t01 ADD FOREIGN KEY (m) REFERENCES m0 ON DELETE CASCADE;
SELECT softaudit.enable('t0', soft_delete => false), softaudit.expire('a0', 'at', '1 day');
INSERT INTO a0 VALUES (1, '2020-01-01'), (2, '2020-01-01');
INSERT INTO m0 VALUES (1, 1), (2, 2);
INSERT INTO t0 VALUES (1, 1), (2, 2);
SELECT softaudit.hold('t0', 1, 'case');
CALL softaudit.maintain();
SELECT array_agg(id) FROM t0;

-- on an inheritance child, its own or its parent's
CREATE TABLE par (id integer PRIMARY KEY, v text);
CREATE TABLE chi (PRIMARY KEY (id)) INHERITS (par);
SELECT softaudit.enable('par'), softaudit.enable('chi');
INSERT INTO par VALUES (1, 'p');
INSERT INTO chi VALUES (2, 'c'), (3, 'c');
SELECT softaudit.hold('chi', 'case');
DELETE FROM chi;
CALL softaudit.purge('par', '0');
SELECT array_agg(id ORDER BY id) FROM softaudit.only_deleted(NULL::chi);
SELECT softaudit.release('chi'), softaudit.hold('par', 'case');
CALL t.state($$SELECT softaudit.purge_begin('chi', '0', 1000, false)$$);
CALL t.state($$SELECT softaudit.erase('chi', 2, 'request')$$);
SELECT softaudit.release('par'), softaudit.hold('par', 2, 'case');
CALL softaudit.purge('chi', '0');
SELECT array_agg(id ORDER BY id) FROM softaudit.only_deleted(NULL::chi);
CALL t.err($$SELECT softaudit.erase('chi', 2, 'request')$$);
CREATE TABLE par2 (id integer PRIMARY KEY, at timestamptz);
CREATE TABLE chi2 (PRIMARY KEY (id)) INHERITS (par2);
SELECT softaudit.expire('par2', 'at', '1 day'), softaudit.enable('chi2', soft_delete => false);
INSERT INTO chi2 VALUES (1, '2020-01-01'), (2, '2020-01-01');
SELECT softaudit.hold('chi2', 1, 'case');
CALL softaudit.maintain();
SELECT array_agg(id) FROM chi2;

-- on a table that became a partition
CREATE TABLE later (id integer PRIMARY KEY, at timestamptz);
SELECT softaudit.enable('later', soft_delete => false), softaudit.hold('later', 'case');
INSERT INTO later VALUES (1, '2020-01-01');
SELECT softaudit.disable('later');
CREATE TABLE whole (id integer PRIMARY KEY, at timestamptz) PARTITION BY RANGE (id);
SELECT softaudit.enable('whole', soft_delete => false), softaudit.expire('whole', 'at', '1 day');
ALTER TABLE whole ATTACH PARTITION later FOR VALUES FROM (0) TO (10);
CREATE TABLE whole_1 PARTITION OF whole FOR VALUES FROM (10) TO (20);
INSERT INTO whole VALUES (11, '2020-01-01');
CALL softaudit.maintain();
SELECT array_agg(id) FROM whole;
CALL t.err($$SELECT softaudit.erase('whole', 1, 'request')$$);

-- on a row whose key has the digest of another
CREATE TABLE friend (a integer, b integer, PRIMARY KEY (a, b));
SELECT softaudit.enable('friend', soft_delete => false);
INSERT INTO friend VALUES (1, 2), (2, 1);
SELECT softaudit.hold('friend', '{"a": 1, "b": 2}'::jsonb, 'case');
SELECT rows_deleted, images_removed FROM softaudit.erase('friend', '{"a": 2, "b": 1}'::jsonb, 'request');
CALL t.err($$SELECT softaudit.erase('friend', '{"a": 1, "b": 2}'::jsonb, 'request')$$);

-- rows that are live for themselves, behind a table that is not enabled
CREATE TABLE g0 (id integer PRIMARY KEY);
CREATE TABLE g1 (id integer PRIMARY KEY, g integer REFERENCES g0 ON DELETE CASCADE);
CREATE TABLE g2 (id integer PRIMARY KEY, g integer REFERENCES g1 ON DELETE CASCADE);
SELECT softaudit.enable('g0'), softaudit.enable('g2');
INSERT INTO g0 VALUES (1), (2), (3);
INSERT INTO g1 VALUES (1, 1), (2, 2), (3, 3);
INSERT INTO g2 VALUES (1, 1);
DELETE FROM g0;
SET client_min_messages = notice;
CALL softaudit.purge('g0', '0', dry_run => true);
CALL softaudit.purge('g0', '0');
SET client_min_messages = error;
SELECT (SELECT array_agg(id) FROM softaudit.only_deleted(NULL::g0)) AS g0, (SELECT array_agg(id) FROM g1) AS g1, (SELECT array_agg(id) FROM g2) AS g2;
DELETE FROM g2;
CALL softaudit.purge(older_than => '0');
SELECT (SELECT count(*) FROM softaudit.only_deleted(NULL::g0)) AS g0, (SELECT count(*) FROM g1) AS g1;

-- an inheritance child's rows, which no foreign key binds, neither keep nor go along
CREATE TABLE boss (id integer PRIMARY KEY);
CREATE TABLE staff (id integer PRIMARY KEY, boss integer REFERENCES boss ON DELETE CASCADE);
CREATE TABLE temps () INHERITS (staff);
SELECT softaudit.enable('boss'), softaudit.enable('staff');
INSERT INTO boss VALUES (1), (2);
INSERT INTO staff VALUES (1, 1);
INSERT INTO temps VALUES (2, 1), (3, 2);
SELECT relation, rows_deleted FROM softaudit.erase('boss', 1, 'request');
DELETE FROM boss;
CALL softaudit.purge('boss', '0');
SELECT count(*) FROM softaudit.with_deleted(NULL::boss);
SELECT array_agg(id ORDER BY id) FROM staff;

-- a type's name is no format
CREATE TYPE "50%L" AS ENUM ('a', 'b');
CREATE TABLE kinds (k "50%L" PRIMARY KEY);
CREATE TABLE kind_of (id integer PRIMARY KEY, k "50%L" REFERENCES kinds ON DELETE CASCADE);
SELECT softaudit.enable(t) FROM unnest('{kinds, kind_of}'::regclass[]) t;
INSERT INTO kinds VALUES ('a'), ('b');
INSERT INTO kind_of VALUES (1, 'a'), (2, 'b');
SELECT relation, rows_deleted FROM softaudit.erase('kinds', 'a'::text, 'request');
DELETE FROM kinds;
CALL softaudit.purge(older_than => '0');
SELECT count(*) FROM softaudit.with_deleted(NULL::kinds);

-- what a user's trigger deletes elsewhere is a DELETE of its own; each table has its own purge_image
CREATE TABLE u (id integer PRIMARY KEY, v text);
CREATE TABLE sess (id integer PRIMARY KEY, u integer);
CREATE TABLE mail (id integer PRIMARY KEY, u integer REFERENCES u ON DELETE CASCADE);
CREATE FUNCTION del_sess() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DELETE FROM s36.sess WHERE u = OLD.id; RETURN OLD; END $$;
CREATE TRIGGER del_sess AFTER DELETE ON u FOR EACH ROW EXECUTE FUNCTION del_sess();
SELECT softaudit.enable('u', purge_image => false), softaudit.enable('sess', soft_delete => false), softaudit.enable('mail', soft_delete => false);
INSERT INTO u VALUES (1, 'one'), (2, 'two');
INSERT INTO sess VALUES (1, 1), (2, 2);
INSERT INTO mail VALUES (1, 1), (2, 2);
SELECT t.skip();
SELECT relation, rows_deleted, images_removed FROM softaudit.erase('u', 1, 'request');
SELECT t.changes();
DELETE FROM u;
SELECT t.skip();
CALL softaudit.purge('u', '0');
SELECT t.changes();

-- a run is for who began it
SET ROLE regress_sau_alice;
CREATE TABLE top2 (id integer PRIMARY KEY);
CREATE TABLE low2 (id integer PRIMARY KEY, t integer REFERENCES top2 ON DELETE CASCADE);
SELECT softaudit.enable(t) FROM unnest('{top2, low2}'::regclass[]) t;
INSERT INTO top2 VALUES (1);
INSERT INTO low2 VALUES (1, 1);
DELETE FROM top2;
CALL softaudit.purge('top2', '0');
CALL softaudit.purge('low2', '0');
SET ROLE regress_sau_bob;
SELECT softaudit.purge_again(ARRAY(SELECT generate_series(1, 5000)));
RESET ROLE;
SELECT count(*) FROM softaudit.with_deleted(NULL::top2);

-- what retention drops does not depend on the session's TimeZone
SELECT 'TimeZone=UTC' = ANY (p.proconfig) FROM pg_proc p WHERE p.oid = 'softaudit.retention_step_apply(integer)'::regprocedure;

-- an erasure empties what a partition logged before it was one
CREATE TABLE year_1 (id integer PRIMARY KEY, v text);
SELECT softaudit.enable('year_1', soft_delete => false);
INSERT INTO year_1 VALUES (1, 'one'), (2, 'two');
SELECT softaudit.disable('year_1');
CREATE TABLE years (id integer PRIMARY KEY, v text) PARTITION BY RANGE (id);
SELECT softaudit.enable('years', soft_delete => false);
ALTER TABLE years ATTACH PARTITION year_1 FOR VALUES FROM (0) TO (10);
UPDATE years SET v = v || '.';
SELECT relation, rows_deleted, images_removed FROM softaudit.erase('years', 1, 'request');
DELETE FROM years;
SELECT relation, rows_deleted, images_removed FROM softaudit.erase('years', 2, 'request');
SELECT count(*) FROM softaudit.changes WHERE schema_name = 's36' AND table_name LIKE 'year%' AND (old_data IS NOT NULL OR new_data IS NOT NULL OR row_key IS NOT NULL);

-- and the key that is all that is left of a row
CREATE TABLE bare (id text PRIMARY KEY);
SELECT softaudit.enable('bare', purge_image => false, log_group => 's36_bare');
INSERT INTO bare VALUES ('jane@example.org');
DELETE FROM bare;
CALL softaudit.purge('bare', '0');
SELECT rows_deleted, images_removed FROM softaudit.erase('bare', 'jane@example.org'::text, 'request');
SELECT operation, row_key, old_data, new_data FROM softaudit.changes WHERE schema_name = 's36' AND table_name = 'bare' ORDER BY audit_id;
CALL t.state($$SELECT softaudit.erase('bare', 'jane@example.org'::text, 'request')$$);
CREATE TABLE bare2 (id text PRIMARY KEY, v text);
INSERT INTO bare2 VALUES ('joe@example.org');
SELECT softaudit.enable('bare2', purge_image => false, exclude => '{v}');
ALTER TABLE bare2 DISABLE TRIGGER "!softaudit_capture";
DELETE FROM bare2;
ALTER TABLE bare2 ENABLE TRIGGER "!softaudit_capture";
CALL softaudit.purge('bare2', '0');
SELECT rows_deleted, images_removed FROM softaudit.erase('bare2', 'joe@example.org'::text, 'request');
SELECT operation, row_key FROM softaudit.changes WHERE schema_name = 's36' AND table_name = 'bare2' ORDER BY audit_id;

-- what it cannot find by the key, it names
CREATE TABLE visit (u integer REFERENCES u ON DELETE CASCADE, page text);
SELECT softaudit.enable('visit', soft_delete => false);
INSERT INTO u VALUES (3, 'three');
INSERT INTO visit VALUES (3, '/secret');
SET client_min_messages = warning;
SELECT relation, rows_deleted, images_removed FROM softaudit.erase('u', 3, 'request');
CREATE TABLE moved (id integer PRIMARY KEY, mail text NOT NULL);
SELECT softaudit.enable('moved', soft_delete => false);
INSERT INTO moved VALUES (1, 'jane');
ALTER TABLE moved DROP CONSTRAINT moved_pkey, ADD PRIMARY KEY (mail);
UPDATE moved SET id = 2;
SELECT rows_deleted FROM softaudit.erase('moved', 'jane'::text, 'request');
-- a key of another form is the key
CREATE TABLE form (id integer PRIMARY KEY, v text);
SELECT softaudit.enable('form', soft_delete => false);
INSERT INTO form VALUES (1, 'one');
SELECT softaudit.enable('form', redact => '{id}');
UPDATE form SET v = 'uno';
SELECT softaudit.enable('form', redact => '{}');
ALTER TABLE form ALTER id TYPE text;
UPDATE form SET v = 'eins';
SELECT rows_deleted, images_removed FROM softaudit.erase('form', '1'::text, 'request');
SELECT count(*) FROM softaudit.changes WHERE schema_name = 's36' AND table_name = 'form' AND (old_data IS NOT NULL OR new_data IS NOT NULL);
SET client_min_messages = error;

-- a hold outlives another type of the key, and no redaction comes under it
CREATE TABLE held (id integer PRIMARY KEY, v text);
SELECT softaudit.enable('held', soft_delete => false, log_group => 's36_held');
INSERT INTO held VALUES (1, 'one'), (2, 'two');
SELECT softaudit.hold('held', 1, 'case');
CALL t.err($$SELECT softaudit.enable('held', redact => '{id}')$$);
SELECT softaudit.enable('held', redact => '{v}');
ALTER TABLE held ALTER id TYPE text;
CALL t.state($$SELECT softaudit.erase('held', '1'::text, 'request')$$);
SELECT softaudit.release('held', '1'::text);
SELECT softaudit.hold('held', '2'::text, 'case');
SELECT softaudit.is_held(b.leaf, g.group_id) FROM softaudit.log_groups g, LATERAL softaudit.partition_bounds(g.group_id) b
 WHERE g.group_name = 's36_held' AND b.lower_bound <= now() AND b.upper_bound > now();
SELECT softaudit.release('held', '2'::text);
SELECT softaudit.enable('held', redact => '{id}');

-- no interval, no type and no trigger of one table stops maintain() for the others
CREATE TABLE hers (id integer PRIMARY KEY, at timestamptz);
CALL t.err($$SELECT softaudit.expire('hers', 'at', '300000 years')$$);
CALL t.err($$SELECT softaudit.expire('hers', 'at', '-12 mons 361 days')$$);
CALL t.err($$SELECT softaudit.enable('hers', purge_after => '300000 years')$$);
CALL t.err($$SELECT softaudit.enable('hers', keep_log => '300000 years')$$);
CALL softaudit.purge(older_than => '300000 years');
SELECT softaudit.enable('hers', purge_after => '1 day'), softaudit.expire('hers', 'at', '1 day');
UPDATE softaudit.registry SET purge_after = '290000 years', expire_after = '300000 years' WHERE relation = 'hers'::regclass;
INSERT INTO hers VALUES (1, '2020-01-01');
DELETE FROM hers;
UPDATE softaudit.registry SET purge_after = '294000 years' WHERE relation = 'hers'::regclass;
CREATE TABLE last (id integer PRIMARY KEY, at timestamptz);
CREATE TABLE asserts (id integer PRIMARY KEY, at timestamptz);
CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN ASSERT false, 'no'; END $$;
CREATE TRIGGER no BEFORE DELETE ON asserts FOR EACH ROW EXECUTE FUNCTION no();
CREATE TABLE typed (id integer PRIMARY KEY, at timestamptz);
SELECT softaudit.expire(t, 'at', '1 day') FROM unnest('{asserts, typed, last}'::regclass[]) t;
INSERT INTO asserts VALUES (1, '2020-01-01');
INSERT INTO typed VALUES (1, '2020-01-01');
INSERT INTO last VALUES (1, '2020-01-01');
ALTER TABLE typed ALTER at TYPE boolean USING true;
SET client_min_messages = warning;
CALL softaudit.maintain();
SELECT count(*) FROM last;
SELECT next_purge FROM softaudit.status WHERE relation = 'hers'::regclass;
SET client_min_messages = error;

\set ECHO none
DROP SCHEMA s36 CASCADE;
DROP ROLE regress_sau_alice, regress_sau_bob;
