-- Erasure and the log's retention: what goes, what stays, what stops them.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
SELECT softaudit.assert_preload() \g /dev/null
CREATE SCHEMA s18;
SET search_path = s18, public;
CREATE ROLE regress_sau_officer;
-- where a word is still to be read: tables, the log, the statistics
CREATE FUNCTION t.where_is(word text, in_log boolean DEFAULT true) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    rel regclass;
    n bigint;
BEGIN
    FOR rel IN SELECT c.oid FROM pg_class c WHERE c.relkind IN ('r', 'm') AND (c.relnamespace = 's18'::regnamespace OR c.relnamespace = 'softaudit'::regnamespace)
                ORDER BY c.relname COLLATE "C" LOOP
        EXECUTE format('SELECT count(*) FROM %s t WHERE t::text LIKE %L', rel, '%' || word || '%') INTO n;
        IF n > 0 THEN
            RETURN NEXT regexp_replace(rel::text, 'log_g.*', 'log_g') || ' ' || n;
        END IF;
    END LOOP;
    RETURN QUERY SELECT DISTINCT format('statistics of %s.%s', regexp_replace(s.tablename, 'log_g.*', 'log_g'), s.attname) FROM pg_stats s
                  WHERE concat(s.most_common_vals::text, s.histogram_bounds::text, s.most_common_elems::text) LIKE '%' || word || '%' AND (in_log OR s.schemaname <> 'softaudit') ORDER BY 1;
    RETURN QUERY SELECT format('statistics of %s', s.statistics_name) FROM pg_stats_ext s WHERE s.most_common_vals::text LIKE '%' || word || '%';
    RETURN QUERY SELECT format('expression statistics of %s', s.statistics_name) FROM pg_stats_ext_exprs s WHERE concat(s.most_common_vals::text, s.histogram_bounds::text) LIKE '%' || word || '%';
END
$$;
\set ECHO all

-- a person and what hangs on him
CREATE TABLE person (id integer PRIMARY KEY, email text, tags text[], info jsonb);
CREATE INDEX person_lower ON person (lower(email));
CREATE STATISTICS person_stats (mcv) ON email, id FROM person;
CREATE STATISTICS person_expr ON (upper(email)) FROM person;
CREATE TABLE letter (id integer PRIMARY KEY, p integer REFERENCES person ON DELETE CASCADE, body text);
CREATE TABLE page (n integer, l integer REFERENCES letter ON DELETE CASCADE, scan text, PRIMARY KEY (l, n)) PARTITION BY HASH (l, n);
CREATE TABLE page0 PARTITION OF page FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE page1 PARTITION OF page FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE note (id integer PRIMARY KEY, p integer REFERENCES person ON DELETE SET NULL);
SELECT softaudit.enable('person'), softaudit.enable('letter'), softaudit.enable('page', soft_delete => false);
INSERT INTO person SELECT g, 'mail' || g || '@x', ARRAY['tag' || g], jsonb_build_object('k', 'info' || g) FROM generate_series(1, 20) g;
INSERT INTO person VALUES (21, 'ann@wotan', '{ann-wotan}', '{"k": "ann wotan"}');
INSERT INTO letter VALUES (1, 21, 'dear wotan'), (2, 21, 'another wotan'), (3, 1, 'not hers');
INSERT INTO page VALUES (1, 1, 'scan wotan'), (2, 1, 'scan wotan'), (1, 3, 'scan');
INSERT INTO note VALUES (1, 21);
UPDATE person SET email = 'ann.b@wotan' WHERE id = 21;
UPDATE person SET id = 22 WHERE id = 20;
UPDATE letter SET p = NULL WHERE id = 3;
DELETE FROM letter WHERE id = 2;
ANALYZE person, letter, page, softaudit.log;
SELECT t.where_is('wotan', in_log => false);
SELECT count(*) > 0 AS in_log FROM pg_stats WHERE schemaname = 'softaudit' AND attname = 'new_data';
SET client_min_messages = notice;
SELECT * FROM softaudit.erase('person', 21, 'request 1', dry_run => true);
SET client_min_messages = warning;
SELECT count(*) FROM t.where_is('wotan', in_log => false);
SELECT * FROM softaudit.erase('person', 21, 'request 1');
SELECT t.where_is('wotan');
SELECT operation, row_key, old_data, new_data, changed_by FROM softaudit.history('person', 21);
SELECT operation, row_key, old_data, new_data FROM softaudit.history('letter', 1);
SELECT operation FROM softaudit.history('page', '{"l": 1, "n": 2}');
SELECT id, p FROM letter UNION ALL SELECT l, n FROM page UNION ALL TABLE note ORDER BY 1;
SELECT relation, reason, details ->> 'rows' AS rows, details ->> 'images' AS images, details ? 'row_ref' AS has_ref FROM softaudit.events WHERE event = 'ERASE' AND schema_name = 's18' ORDER BY event_id;
-- those of others stay
SELECT operation, new_data ->> 'email' AS email FROM softaudit.history('person', 3);
SELECT operation, new_data ->> 'body' AS body FROM softaudit.history('letter', 3);
-- again, and for who never was
SELECT * FROM softaudit.erase('person', 21, 'request 1');
SELECT * FROM softaudit.erase('person', 99, 'request 2');

-- under keys that it had before
UPDATE person SET id = 30, email = 'bob@wotan' WHERE id = 5;
UPDATE person SET id = 31 WHERE id = 30;
SELECT * FROM softaudit.erase('person', 31, 'request 3');
SELECT count(*) FROM softaudit.changes WHERE table_name = 'person' AND concat(old_data, new_data) ~ 'mail5@|bob@wotan';
-- a row that is gone already: its images
INSERT INTO person VALUES (40, 'cay@wotan');
DELETE FROM person WHERE id = 40;
CALL softaudit.purge('person', '0');
SELECT * FROM softaudit.erase('person', '40', 'request 4');
SELECT t.where_is('wotan');
-- a key whose digest another shares
CREATE TABLE word (w text PRIMARY KEY, v text);
SELECT softaudit.enable('word');
INSERT INTO word VALUES ('w73737', 'v'), ('w126873', 'v');
SELECT count(DISTINCT row_ref) FROM softaudit.log JOIN softaudit.registry r ON r.table_id = row_ref >> 32 WHERE r.table_name = 'word';
SELECT rows_deleted, images_removed FROM softaudit.erase('word', 'w73737', 'request 5');
SELECT row_key FROM softaudit.changes WHERE table_name = 'word' AND new_data IS NOT NULL;
-- a redacted key
CREATE TABLE pin (p text PRIMARY KEY, v text);
SELECT softaudit.enable('pin', redact => '{p}');
INSERT INTO pin VALUES ('1234', 'one wotan'), ('5678', 'two');
UPDATE pin SET v = 'uno wotan' WHERE p = '1234';
SELECT rows_deleted, images_removed FROM softaudit.erase('pin', '1234', 'request 6');
SELECT t.where_is('wotan');
SELECT softaudit.hold('pin', '5678', 'case 1');
SELECT * FROM softaudit.erase('pin', '5678', 'request 7');
SELECT softaudit.release('pin', '5678');
SELECT rows_deleted, images_removed FROM softaudit.erase('pin', '5678', 'request 7');

-- refused: without a reason, of what is not enabled, where others refer to it, under a hold at any level
SELECT * FROM softaudit.erase('person', 1, NULL);
SELECT * FROM softaudit.erase('person', NULL::integer, 'why');
SELECT * FROM softaudit.erase('note', 1, 'why');
SELECT * FROM softaudit.erase('person', 1, 'why', NULL);
CREATE TABLE bill (id integer PRIMARY KEY, p integer REFERENCES person);
INSERT INTO bill VALUES (1, 1);
SELECT * FROM softaudit.erase('person', 1, 'why');
SELECT t.skip();
INSERT INTO letter VALUES (10, 2, 'held');
SELECT softaudit.hold('letter', 10, 'case 2');
SELECT * FROM softaudit.erase('person', 2, 'why');
SELECT softaudit.release('letter', 10);
SELECT softaudit.hold('person', 'all of them');
\set VERBOSITY terse
SELECT * FROM softaudit.erase('person', 2, 'why');
\set VERBOSITY default
SELECT softaudit.release('person');
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER keep BEFORE DELETE ON letter FOR EACH ROW EXECUTE FUNCTION keep();
SELECT * FROM softaudit.erase('person', 2, 'why');
DROP TRIGGER keep ON letter;
-- a rollback takes it back
BEGIN;
SELECT rows_deleted FROM softaudit.erase('person', 2, 'why');
ROLLBACK;
SELECT operation, new_data ->> 'email' AS email FROM softaudit.history('person', 2);
-- deferred triggers are made to fire within it
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'as %', current_user; RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER tell AFTER DELETE ON person DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION tell();
ALTER FUNCTION tell() OWNER TO regress_sau_officer;
SELECT rows_deleted FROM softaudit.erase('person', 2, 'why');
-- for who was granted it
GRANT EXECUTE ON FUNCTION softaudit.erase(regclass, text, text, boolean), softaudit.hold(regclass, text), softaudit.release(regclass) TO regress_sau_officer;
GRANT USAGE ON SCHEMA s18 TO regress_sau_officer;
SET ROLE regress_sau_officer;
SELECT rows_deleted, images_removed FROM softaudit.erase('person', '3', 'request 8');
SELECT softaudit.hold('person', 'case 3');
SELECT softaudit.release('person');
SELECT * FROM person;
RESET ROLE;

-- retention: partitions past keep_log, those with held changes not
CREATE TABLE old (id integer PRIMARY KEY, v text);
SELECT softaudit.enable('old', soft_delete => false, keep_log => '60 days', log_group => 'old ones');
INSERT INTO old VALUES (1, 'a'), (2, 'b');
SELECT group_id AS g FROM softaudit.log_groups WHERE group_name = 'old ones' \gset
-- months of the past, as if it had been enabled then
\set ECHO none
SET session_replication_role = replica;
CREATE FUNCTION t.age(g integer, months integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    -- what the default partition holds is moved home by maintain()
    EXECUTE format('INSERT INTO softaudit.log_g%s_default SELECT audit_id, date_trunc(''month'', now()) - make_interval(months => %s), xid, session_id, row_ref, log_group, operation, changed_by, new_data FROM softaudit.log WHERE log_group = %s AND changed_at > now() - interval ''1 day''', g, months, g);
END $$;
SELECT t.age(:g, m) FROM unnest('{1,4,5,6}'::integer[]) m;
RESET session_replication_role;
\set ECHO all
SELECT softaudit.hold('old', 2, 'case 4');
CALL softaudit.maintain();
SELECT count(*) FROM softaudit.partition_bounds(:g) WHERE upper_bound <= now();
SELECT softaudit.release('old', 2);
SET client_min_messages = warning;
CALL softaudit.maintain();
SELECT count(*) FROM softaudit.partition_bounds(:g) WHERE upper_bound <= now();
SELECT count(*) FROM softaudit.changes WHERE table_name = 'old';
SELECT event, details ->> 'tables' AS tables, details ? 'from' AND details ? 'to' AND details ? 'rows' AND details ? 'bytes' AS complete
  FROM softaudit.events WHERE event = 'RETENTION' AND details ->> 'log_group' = 'old ones' ORDER BY event_id;
CALL softaudit.maintain();
SELECT count(*) FROM softaudit.events WHERE event = 'RETENTION' AND details ->> 'log_group' = 'old ones';

\set ECHO none
DROP SCHEMA s18 CASCADE;
DROP OWNED BY regress_sau_officer;
DROP ROLE regress_sau_officer;
