-- Purge and expiry: what is due, what keeps a row, holds, runs, who may.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
SELECT softaudit.assert_preload() \g /dev/null
CREATE SCHEMA s16;
SET search_path = s16, public;
CREATE ROLE regress_sau_clerk;
CREATE ROLE regress_sau_keeper;
GRANT CREATE, USAGE ON SCHEMA s16 TO regress_sau_clerk;
-- the runs since it was last asked
CREATE FUNCTION t.runs() RETURNS SETOF text LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    last bigint := COALESCE(NULLIF(current_setting('t.seen_run', true), ''), '0')::bigint;
BEGIN
    RETURN QUERY SELECT concat_ws('|', u.kind, r.table_name, u.batches, u.rows_done, u.rows_blocked, u.rows_skipped, u.blocked_by, u.message, CASE WHEN u.finished_at IS NULL THEN 'open' END)
                   FROM softaudit.runs u LEFT JOIN softaudit.registry r USING (table_id) WHERE u.run_id > last AND u.kind <> 'MAINTAIN' ORDER BY u.run_id;
    PERFORM set_config('t.seen_run', (SELECT max(run_id) FROM softaudit.runs)::text, false);
END
$$;
-- rows as they are, deleted ones too, with their age in days
CREATE FUNCTION t.all(target regclass) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE format('SELECT concat_ws(''|'', id, CASE WHEN deleted_at IS NOT NULL THEN ''deleted '' || (now()::date - deleted_at::date) END) FROM softaudit.with_deleted(NULL::%s) ORDER BY id, deleted_at', target);
END
$$;
\set ECHO all

-- purge: what was marked longer ago than older_than, in batches
CREATE TABLE note (id integer PRIMARY KEY, body text);
SET client_min_messages = notice;
SELECT softaudit.enable('note', purge_after => '30 days');
SET client_min_messages = warning;
INSERT INTO note SELECT g, 'b' FROM generate_series(1, 12) g;
DELETE FROM note WHERE id <= 9;
UPDATE note SET deleted_at = now() - interval '40 days' WHERE id <= 5 AND deleted_at IS NOT NULL;
UPDATE note SET deleted_at = now() - interval '29 days' WHERE id = 6 AND deleted_at IS NOT NULL;
SELECT t.skip();
SET client_min_messages = notice;
CALL softaudit.purge('note', dry_run => true);
CALL softaudit.purge('note', batch => 2);
SET client_min_messages = warning;
SELECT t.all('note');
SELECT t.runs();
SELECT regexp_replace(c, '"deleted_at": "[^"]*"', '"deleted_at": "then"') FROM t.changes() c;
SELECT event, relation, details ->> 'rows' AS rows, details ->> 'batches' AS batches FROM softaudit.events WHERE event = 'PURGE' ORDER BY event_id DESC LIMIT 1;
CALL softaudit.purge('note', '20 days');
SELECT t.all('note');
-- live rows are never due, whatever is asked
CALL softaudit.purge('note', '0');
SELECT t.all('note');
SELECT t.runs();

-- arguments
CALL t.err('CALL softaudit.purge(''s16.note'')');
BEGIN;
CALL softaudit.purge('note');
ROLLBACK;
CALL softaudit.purge('note', '-1 second');
CALL softaudit.purge('note', batch => 0);
CALL softaudit.purge('note', batch => NULL);
CALL softaudit.purge('note', dry_run => NULL);
CREATE TABLE plain (id integer PRIMARY KEY);
CALL softaudit.purge('plain', '1 day');
CREATE TABLE kept (id integer PRIMARY KEY, body text);
SELECT softaudit.enable('kept');
CALL softaudit.purge('kept');
SELECT softaudit.purge_step(1000000);
SELECT softaudit.lifecycle_query('note', 'SELECT 1');
SELECT softaudit.remove_statistics('note', 1::smallint);

-- the index that finds them: made once, another adopted, dropped by disable()
CREATE TABLE found (id integer PRIMARY KEY, deleted_at timestamptz);
CREATE INDEX found_own ON found (deleted_at) WHERE deleted_at IS NOT NULL;
SELECT softaudit.enable('found', purge_after => '1 day');
SELECT indexrelid::regclass FROM pg_index WHERE indrelid IN ('found'::regclass, 'note'::regclass) ORDER BY indexrelid::regclass::text COLLATE "C";
SELECT softaudit.disable('note', audit => false);
SELECT indexrelid::regclass FROM pg_index WHERE indrelid = 'note'::regclass;
SELECT softaudit.enable('note', soft_delete => true, purge_after => '30 days');

-- the image of a purged row may be left out
SELECT softaudit.enable('note', purge_image => false);
DELETE FROM note WHERE id = 10;
SELECT t.skip();
CALL softaudit.purge('note', '0');
SELECT operation, row_key, old_data FROM softaudit.changes WHERE table_name = 'note' AND operation = 'PURGE' ORDER BY audit_id DESC LIMIT 1;
SELECT operation FROM softaudit.history('note', 10);
SELECT softaudit.reset('note', 'purge_image');
DELETE FROM note WHERE id = 11;
CALL softaudit.purge('note', '0');
SELECT operation, row_key, old_data ->> 'body' AS body FROM softaudit.changes WHERE table_name = 'note' AND operation = 'PURGE' ORDER BY audit_id DESC LIMIT 1;

-- timestamp columns hold UTC, whatever the session's zone is
CREATE TABLE utc (id integer PRIMARY KEY, deleted_at timestamp);
SELECT softaudit.enable('utc', purge_after => '1 hour');
INSERT INTO utc VALUES (1), (2);
DELETE FROM utc;
UPDATE utc SET deleted_at = (now() AT TIME ZONE 'UTC') - interval '61 minutes' WHERE id = 1 AND deleted_at IS NOT NULL;
UPDATE utc SET deleted_at = (now() AT TIME ZONE 'UTC') - interval '59 minutes' WHERE id = 2 AND deleted_at IS NOT NULL;
SET TimeZone = 'Pacific/Kiritimati';
CALL softaudit.purge('utc');
SET TimeZone = 'America/Adak';
CALL softaudit.purge('utc');
SELECT id FROM softaudit.with_deleted(NULL::utc);
RESET TimeZone;

-- children before parents
CREATE TABLE parent (id integer PRIMARY KEY);
CREATE TABLE child (id integer PRIMARY KEY, p integer REFERENCES parent ON DELETE CASCADE);
CREATE TABLE grandchild (id integer PRIMARY KEY, c integer REFERENCES child ON DELETE CASCADE);
SELECT softaudit.enable(r, purge_after => '1 day') FROM unnest('{parent,child,grandchild}'::regclass[]) r;
INSERT INTO parent VALUES (1), (2);
INSERT INTO child VALUES (1, 1), (2, 2);
INSERT INTO grandchild VALUES (1, 1), (2, 2);
DELETE FROM parent WHERE id = 1;
SELECT t.runs() \g /dev/null
SET client_min_messages = notice;
CALL softaudit.purge('parent', '0', dry_run => true);
CALL softaudit.purge(older_than => '0', dry_run => true);
CALL softaudit.purge('parent', '0');
SET client_min_messages = warning;
CALL softaudit.purge(older_than => '0');
SELECT t.all('parent') UNION ALL SELECT t.all('child') UNION ALL SELECT t.all('grandchild');
SELECT t.runs();

-- a child whose settings say never keeps its parent; so does a reference that no soft delete follows
DELETE FROM parent WHERE id = 2;
SELECT softaudit.reset('child', 'purge_after');
UPDATE grandchild SET deleted_at = now() - interval '2 days' WHERE deleted_at IS NOT NULL;
UPDATE child SET deleted_at = now() - interval '2 days' WHERE deleted_at IS NOT NULL;
UPDATE parent SET deleted_at = now() - interval '2 days' WHERE deleted_at IS NOT NULL;
CALL softaudit.purge();
SELECT t.runs();
SELECT t.all('parent') UNION ALL SELECT t.all('child') UNION ALL SELECT t.all('grandchild');
CREATE TABLE outsider (id integer PRIMARY KEY, c integer REFERENCES child);
SET session_replication_role = replica;
INSERT INTO outsider VALUES (1, 2);
RESET session_replication_role;
SELECT softaudit.enable('child', purge_after => '1 day');
CALL softaudit.purge();
SELECT t.runs();
DROP TABLE outsider;
CALL softaudit.purge();
SELECT t.all('parent') UNION ALL SELECT t.all('child') UNION ALL SELECT t.all('grandchild');
SELECT t.runs();
-- what is not enabled cascades at the purge, and its audited rows say so
CREATE TABLE tag (id integer PRIMARY KEY, p integer REFERENCES parent ON DELETE CASCADE, deleted_at timestamptz);
CREATE TABLE link (id integer PRIMARY KEY, p integer REFERENCES parent ON DELETE SET NULL);
SELECT softaudit.enable('tag', soft_delete => false);
INSERT INTO parent VALUES (3);
INSERT INTO tag VALUES (1, 3);
INSERT INTO link VALUES (1, 3);
DELETE FROM parent WHERE id = 3;
SELECT t.skip();
CALL softaudit.purge(older_than => '0');
SELECT regexp_replace(c, '"deleted_at": "[^"]*"', '"deleted_at": "then"') FROM t.changes() c;
TABLE link;

-- a tree, and a cycle between two tables
CREATE TABLE tree (id integer PRIMARY KEY, up integer REFERENCES tree);
SELECT softaudit.enable('tree', purge_after => '1 day');
INSERT INTO tree SELECT g, NULLIF(g - 1, 0) FROM generate_series(1, 6) g;
INSERT INTO tree VALUES (100, NULL);
DELETE FROM tree WHERE id < 100;
SELECT t.runs() \g /dev/null
CALL softaudit.purge('tree', '0', batch => 2);
SELECT t.all('tree');
SELECT sum(u.rows_done) FROM softaudit.runs u JOIN softaudit.registry r USING (table_id) WHERE r.table_name = 'tree';
-- rows that refer to each other, or to themselves, and one that another table keeps
CREATE TABLE staff (id integer PRIMARY KEY, boss integer REFERENCES staff ON DELETE CASCADE);
CREATE TABLE badge (id integer PRIMARY KEY, s integer REFERENCES staff ON DELETE CASCADE);
SELECT softaudit.enable('staff', purge_after => '1 day'), softaudit.enable('badge');
INSERT INTO staff VALUES (1, 1), (2, 2), (3, 2), (4, 3);
INSERT INTO badge VALUES (1, 4);
UPDATE staff SET boss = 4 WHERE id = 3;
DELETE FROM staff;
CALL softaudit.purge('staff', '0');
SELECT t.all('staff') UNION ALL SELECT t.all('badge');
CALL softaudit.purge('badge', '0');
CALL softaudit.purge('staff', '0');
SELECT t.all('staff');
CREATE TABLE hen (id integer PRIMARY KEY, e integer);
CREATE TABLE egg (id integer PRIMARY KEY, h integer REFERENCES hen ON DELETE CASCADE);
ALTER TABLE hen ADD FOREIGN KEY (e) REFERENCES egg ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED;
SELECT softaudit.enable(r) FROM unnest('{hen,egg}'::regclass[]) r;
BEGIN;
INSERT INTO hen VALUES (1, 1), (2, NULL);
INSERT INTO egg VALUES (1, 1), (2, 2);
COMMIT;
DELETE FROM hen;
CALL softaudit.purge(older_than => '0');
SELECT t.all('hen') UNION ALL SELECT t.all('egg');

-- keys of several columns, other owners, partitions
CREATE TABLE ord (a integer, b text, id integer, PRIMARY KEY (a, b)) PARTITION BY LIST (a);
CREATE TABLE ord1 PARTITION OF ord FOR VALUES IN (1);
CREATE TABLE ord2 PARTITION OF ord FOR VALUES IN (2);
CREATE TABLE line (id integer, a integer, b text, FOREIGN KEY (a, b) REFERENCES ord);
SELECT softaudit.enable('ord', purge_after => '1 day');
INSERT INTO ord VALUES (1, 'x', 1), (1, 'y', 2), (2, 'x', 3), (2, 'y', 4);
DELETE FROM ord WHERE id <> 4;
SET session_replication_role = replica;
INSERT INTO line VALUES (1, 2, 'x');
RESET session_replication_role;
SELECT t.runs() \g /dev/null
CALL softaudit.purge('ord', '0');
SELECT t.all('ord');
SELECT t.runs();
DROP TABLE line;
CALL softaudit.purge('ord', '0');
SELECT t.all('ord');

-- rows that somebody has locked are passed over, not waited for: test/specs/purge.spec
-- a BEFORE trigger that keeps a row does not make it loop
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN CASE WHEN OLD.id % 2 = 0 THEN OLD END; END $$;
CREATE TRIGGER keeper BEFORE DELETE ON kept FOR EACH ROW EXECUTE FUNCTION keep();
INSERT INTO kept SELECT g FROM generate_series(1, 5) g;
DELETE FROM kept;
SELECT t.runs() \g /dev/null
CALL softaudit.purge('kept', '0', batch => 2);
SELECT t.all('kept');
SELECT t.runs();

-- the table's own triggers run as its owner, with the session's search_path, also at the end
SET ROLE regress_sau_clerk;
CREATE TABLE s16.own (id integer PRIMARY KEY);
CREATE TABLE s16.seen (who text, path text, kind text);
CREATE FUNCTION s16.see() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO s16.seen VALUES (current_user, current_setting('search_path'), TG_ARGV[0]);
    RETURN NULL;
END $$;
CREATE TRIGGER see AFTER DELETE ON s16.own FOR EACH ROW EXECUTE FUNCTION s16.see('at once');
CREATE CONSTRAINT TRIGGER see_later AFTER DELETE ON s16.own DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION s16.see('deferred');
SELECT softaudit.enable('s16.own', purge_after => '1 day');
INSERT INTO s16.own VALUES (1), (2);
DELETE FROM s16.own;
RESET ROLE;
UPDATE own SET deleted_at = now() - interval '2 days' WHERE deleted_at IS NOT NULL;
CALL softaudit.maintain();
SELECT DISTINCT * FROM seen ORDER BY 3;
SELECT count(*) FROM softaudit.with_deleted(NULL::own);

-- a run is for who began it
SELECT softaudit.purge_begin('own', '0', 1, false) IS NOT NULL AS begun;
SELECT format('SELECT softaudit.purge_step(%s)', max(run_id)) AS step FROM softaudit.runs \gset
SET ROLE regress_sau_clerk;
CALL t.state(:'step');
RESET ROLE;
:step;
-- who may: the owner of the table; without a table, what the caller owns
SET ROLE regress_sau_clerk;
CALL softaudit.purge('s16.note', '0');
CALL softaudit.purge(older_than => '0');
CALL softaudit.maintain();
SELECT softaudit.maintain_due();
SELECT softaudit.maintain_purge(1);
SELECT softaudit.retention_step(1);
SELECT softaudit.hold('s16.own', 'because');
SELECT softaudit.release('s16.own');
SELECT softaudit.erase('s16.own', 1, 'because');
SELECT softaudit.erase_run('s16.own', '1', 'because', false);
SELECT softaudit.expire('s16.note', 'deleted_at', '1 day');
SELECT * FROM softaudit.runs;
RESET ROLE;
GRANT EXECUTE ON PROCEDURE softaudit.maintain() TO regress_sau_keeper;
INSERT INTO own VALUES (3);
DELETE FROM own;
UPDATE own SET deleted_at = now() - interval '2 days' WHERE deleted_at IS NOT NULL;
SET ROLE regress_sau_keeper;
CALL softaudit.maintain();
RESET ROLE;
SELECT count(*) FROM softaudit.with_deleted(NULL::own);

-- expiry
CREATE TABLE otp (id integer PRIMARY KEY, made timestamptz, made_at timestamp, made_on date);
SELECT softaudit.expire('otp', 'id', '1 day');
SELECT softaudit.expire('otp', 'nothing', '1 day');
SELECT softaudit.expire('otp', 'made', '0');
SELECT softaudit.expire('otp', 'made', NULL);
SELECT softaudit.expire(NULL, 'made', '1 day');
SET client_min_messages = notice;
SELECT softaudit.expire('otp', 'made', '15 minutes');
SELECT softaudit.expire('otp', 'made', '15 minutes');
SET client_min_messages = warning;
INSERT INTO otp VALUES (1, now() - interval '1 hour'), (2, now() - interval '14 minutes'), (3, NULL), (4, now() + interval '1 hour');
CALL softaudit.maintain();
SELECT id FROM otp ORDER BY id;
SELECT softaudit.expire('otp', 'made_at', '1 hour');
UPDATE otp SET made_at = (now() AT TIME ZONE 'UTC') - make_interval(mins => 45 * (id - 2));
ALTER TABLE otp RENAME made_at TO minted;
CALL softaudit.maintain();
SELECT id FROM otp ORDER BY id;
ALTER TABLE otp DROP minted;
CALL softaudit.maintain();
SELECT softaudit.expire('otp', 'made_on', '7 days');
UPDATE otp SET made_on = current_date - 30;
SELECT softaudit.unexpire('otp');
CALL softaudit.maintain();
SELECT count(*) FROM otp;
-- enable() takes such a table as new
SELECT softaudit.enable('otp');
SELECT soft_delete, audit, live_unique FROM softaudit.registry WHERE relation = 'otp'::regclass;
SELECT softaudit.expire('otp', 'made_on', '7 days');
SELECT t.skip();
CALL softaudit.maintain();
SELECT count(*) FROM softaudit.with_deleted(NULL::otp);
SELECT DISTINCT operation FROM softaudit.changes WHERE table_name = 'otp';

-- a table partitioned by that column: partitions that expired as a whole are dropped
CREATE TABLE hit (id integer, at timestamptz NOT NULL) PARTITION BY RANGE (at);
DO $$ BEGIN
    EXECUTE format('CREATE TABLE hit_old PARTITION OF hit FOR VALUES FROM (%L) TO (%L)', now() - interval '90 days', now() - interval '60 days');
    EXECUTE format('CREATE TABLE hit_now PARTITION OF hit FOR VALUES FROM (%L) TO (%L)', now() - interval '60 days', now() + interval '60 days');
END $$;
SELECT softaudit.expire('hit', 'at', '30 days');
INSERT INTO hit VALUES (1, now() - interval '70 days'), (2, now() - interval '40 days'), (3, now());
CALL softaudit.maintain();
SELECT tableoid::regclass, id FROM hit ORDER BY id;
SELECT relid FROM pg_partition_tree('hit') ORDER BY 1;
SELECT event, relation, reason, details ->> 'partition' AS partition, details ? 'rows' AS has_rows FROM softaudit.events WHERE relation = 'hit' ORDER BY event_id;
-- one failure does not stop the others, and is reported
CREATE TABLE bad (id integer PRIMARY KEY, at timestamptz);
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not today'; END $$;
CREATE TRIGGER fail BEFORE DELETE ON bad FOR EACH ROW EXECUTE FUNCTION fail();
SELECT softaudit.expire('bad', 'at', '1 day');
CREATE TABLE good (id integer PRIMARY KEY, at timestamptz);
SELECT softaudit.expire('good', 'at', '1 day');
INSERT INTO bad VALUES (1, now() - interval '2 days');
INSERT INTO good VALUES (1, now() - interval '2 days');
SELECT t.runs() \g /dev/null
CALL softaudit.maintain();
SELECT (SELECT count(*) FROM bad), (SELECT count(*) FROM good);
SELECT t.runs();
SELECT message FROM softaudit.runs WHERE kind = 'MAINTAIN' ORDER BY run_id DESC LIMIT 1;
DROP TABLE bad, good, otp, hit;

-- holds: a table, a row, a row that would go along
INSERT INTO kept SELECT g FROM generate_series(10, 19) g;
DROP TRIGGER keeper ON kept;
DELETE FROM kept;
SELECT softaudit.hold('kept', 12, 'case 1');
SELECT softaudit.hold('kept', '14', 'case 2');
\set VERBOSITY terse
SELECT softaudit.hold('kept', 12, 'case 1 again');
\set VERBOSITY default
SELECT softaudit.hold('kept', 'x', 'no such key');
SELECT softaudit.hold('kept', NULL::integer, 'no key');
SELECT softaudit.hold('kept', 15, ' ');
SELECT softaudit.hold('plain', 'not enabled');
SELECT softaudit.hold(NULL, 'no table');
CALL softaudit.purge('kept', '0');
SELECT id FROM softaudit.with_deleted(NULL::kept) ORDER BY id;
SELECT softaudit.hold('kept', 'the whole of it');
\set VERBOSITY terse
CALL softaudit.purge('kept', '0');
\set VERBOSITY default
SET client_min_messages = notice;
CALL softaudit.purge(older_than => '0', dry_run => true);
SET client_min_messages = warning;
SELECT r.table_name, h.row_key, h.reason, h.held_by FROM softaudit.holds h JOIN softaudit.registry r USING (table_id) ORDER BY hold_id;
SELECT softaudit.release('kept');
SELECT softaudit.release('kept', 12);
SELECT softaudit.release('kept', 12);
CALL softaudit.purge('kept', '0');
SELECT id FROM softaudit.with_deleted(NULL::kept) ORDER BY id;
SELECT event, reason, details - 'held_at' - 'row_ref' AS details, details ? 'row_ref' AS of_row FROM softaudit.events WHERE relation = 'kept' AND event IN ('HOLD', 'RELEASE') ORDER BY event_id;
-- held rows of a child keep the parent, through a table that is not enabled, too
INSERT INTO parent VALUES (7), (8);
CREATE TABLE mid (id integer PRIMARY KEY, p integer REFERENCES parent ON DELETE CASCADE);
CREATE TABLE leaf (id integer PRIMARY KEY, m integer REFERENCES mid ON DELETE CASCADE);
SELECT softaudit.enable('leaf', soft_delete => false);
INSERT INTO mid VALUES (7, 7), (8, 8);
INSERT INTO leaf VALUES (7, 7);
SELECT softaudit.hold('leaf', 7, 'case 3');
DELETE FROM parent WHERE id IN (7, 8);
CALL softaudit.purge('parent', '0');
SELECT t.all('parent');
SELECT softaudit.release('leaf', '7');
CALL softaudit.purge('parent', '0');
SELECT t.all('parent');
SELECT * FROM leaf;
-- a composite key
SELECT softaudit.hold('ord', '{"a": 2, "b": "y"}', 'case 4');
DELETE FROM ord;
CALL softaudit.purge('ord', '0');
SELECT t.all('ord');
SELECT softaudit.release('ord', '{"a": 2, "b": "y"}'::jsonb);
CALL softaudit.purge('ord', '0');
SELECT t.all('ord');

\set ECHO none
DROP SCHEMA s16 CASCADE;
DROP OWNED BY regress_sau_clerk, regress_sau_keeper;
DROP ROLE regress_sau_clerk, regress_sau_keeper;
