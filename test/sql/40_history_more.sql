-- Whose history history() shows, and what of it; what else gets into the log, or stays.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
SET client_min_messages = error;
CREATE ROLE regress_sau_alice;
CREATE ROLE regress_sau_reader;
SELECT current_database() AS main, session_user AS super \gset
CREATE SCHEMA s40;
GRANT USAGE ON SCHEMA s40 TO PUBLIC;
SET search_path = s40, public;
CREATE FUNCTION seen(target regclass, key text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT concat_ws(' ', h.operation, h.row_key, ':', COALESCE(h.old_data::text, '-'), '->', COALESCE(h.new_data::text, '-'), h.changed_columns)
      FROM softaudit.history(target, key) h ORDER BY h.audit_id
$$;
\set ECHO queries
-- row security: a row of an inheritance child is not the table's
CREATE TABLE par (id integer PRIMARY KEY, owner text, secret text);
SELECT softaudit.enable('par', soft_delete => false);
INSERT INTO par VALUES (1, 'bob', 'of bob'), (2, 'regress_sau_alice', 'of alice');
ALTER TABLE par ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON par USING (owner = current_user);
CREATE TABLE chi () INHERITS (par);
GRANT SELECT ON par TO regress_sau_alice;
GRANT INSERT ON chi TO regress_sau_alice;
SET ROLE regress_sau_alice;
INSERT INTO chi VALUES (1, 'regress_sau_alice', 'mine');
SELECT id, owner FROM par ORDER BY id;
SELECT seen('par', '1');
SELECT seen('par', '2');
RESET ROLE;
-- and one of a partition is
CREATE TABLE parts (id integer PRIMARY KEY, owner text) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
SELECT softaudit.enable('parts', soft_delete => false);
INSERT INTO parts VALUES (1, 'bob'), (2, 'regress_sau_alice');
ALTER TABLE parts ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON parts USING (owner = current_user);
GRANT SELECT ON parts, parts_1 TO regress_sau_alice;
SET ROLE regress_sau_alice;
SELECT seen('parts', '1');
SELECT seen('parts', '2'), seen('parts_1', '2');
RESET ROLE;
-- grants on the columns do not reach a column that was dropped
CREATE TABLE dc (id integer PRIMARY KEY, name text, ssn text, more jsonb);
SELECT softaudit.enable('dc', soft_delete => false);
INSERT INTO dc VALUES (1, 'ann', '123', '{"a": [1, {"ssn": 2}], "b": {}}');
UPDATE dc SET name = 'anna', ssn = '456';
GRANT SELECT (id, name, more) ON dc TO regress_sau_reader;
SET ROLE regress_sau_reader;
CALL t.err('SELECT * FROM softaudit.history(''s40.dc'', 1)');
RESET ROLE;
ALTER TABLE dc DROP ssn;
DELETE FROM dc;
SET ROLE regress_sau_reader;
SELECT seen('dc', '1');
RESET ROLE;
GRANT SELECT ON dc TO regress_sau_reader;
SET ROLE regress_sau_reader;
SELECT seen('dc', '1');
RESET ROLE;
-- a key that moved to another column: what was logged before is other rows'
CREATE TABLE kp (id integer PRIMARY KEY, code integer NOT NULL, owner text, secret text);
SELECT softaudit.enable('kp', soft_delete => false, images => 'changes');
INSERT INTO kp VALUES (1, 2, 'bob', 'of bob'), (2, 1, 'regress_sau_alice', 'of alice');
UPDATE kp SET secret = upper(secret);
ALTER TABLE kp DROP CONSTRAINT kp_pkey;
ALTER TABLE kp ADD PRIMARY KEY (code);
UPDATE kp SET secret = secret || '!';
ALTER TABLE kp ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON kp USING (owner = current_user);
GRANT SELECT ON kp TO regress_sau_alice;
SET ROLE regress_sau_alice;
SELECT seen('kp', '1');
SELECT seen('kp', '2');
RESET ROLE;
SELECT count(*) FROM softaudit.history_of('s40', 'kp', '1');
SET client_min_messages = warning;
SELECT rows_deleted, images_removed FROM softaudit.erase('kp', 1, 'request');
SET client_min_messages = error;
-- nor what it was called before
ALTER TABLE kp DROP id;
ALTER TABLE kp RENAME code TO id;
UPDATE kp SET secret = 'x';
SELECT seen('kp', '2');
-- a column made again under its name is another one
CREATE TABLE again (id integer PRIMARY KEY, v text);
SELECT softaudit.enable('again', soft_delete => false);
INSERT INTO again VALUES (1, 'a'), (2, 'b');
UPDATE again SET v = 'aa' WHERE id = 1;
ALTER TABLE again DROP id;
ALTER TABLE again ADD id serial PRIMARY KEY;
UPDATE again SET v = v || '!';
SELECT v, count(h) FROM again, softaudit.history('again', id) h GROUP BY v ORDER BY v;
SELECT v, h.operation, h.new_data FROM again, softaudit.history('again', id) h ORDER BY 1;
ALTER TABLE again DROP id, ADD id serial PRIMARY KEY;
UPDATE again SET v = v || '!';
SELECT v, h.operation, h.new_data FROM again, softaudit.history('again', id) h ORDER BY 1;
SET client_min_messages = warning;
SELECT images_removed FROM softaudit.erase('again', 1, 'request');
SET client_min_messages = error;
DROP TABLE again;
SELECT operation, new_data FROM softaudit.history_of('s40', 'again', '2');
-- one that was away goes on, unless rows were changed meanwhile
CREATE TABLE away (id integer PRIMARY KEY, b integer, v text);
SELECT softaudit.enable('away', soft_delete => false);
INSERT INTO away VALUES (0, 0, 'a'), (1, 1, 'b');
ALTER TABLE away DROP CONSTRAINT away_pkey;
ALTER TABLE away ADD PRIMARY KEY (id);
ALTER TABLE away RENAME id TO key;
ALTER TABLE away DROP CONSTRAINT away_pkey, ADD PRIMARY KEY (key);
SELECT count(*) FROM softaudit.history('away', 0);
SELECT count(*) FROM softaudit.history('away', 1);
ALTER TABLE away DROP CONSTRAINT away_pkey;
UPDATE away SET key = 1 - key;
ALTER TABLE away ADD PRIMARY KEY (key);
UPDATE away SET v = v || '!';
SELECT seen('away', '1');
-- one that nobody followed is not trusted
SET session_replication_role = replica;
ALTER TABLE away DROP CONSTRAINT away_pkey, ADD PRIMARY KEY (b);
RESET session_replication_role;
SELECT count(*) FROM softaudit.history('away', 1);
SELECT softaudit.enable('away');
UPDATE away SET v = v || '?';
SELECT seen('away', '1');
-- of a composite key the order does not matter to who has it
CREATE TABLE two (a integer, b integer, v text, PRIMARY KEY (a, b));
SELECT softaudit.enable('two', soft_delete => false);
INSERT INTO two VALUES (1, 1, 'a'), (1, 2, 'b');
ALTER TABLE two DROP CONSTRAINT two_pkey, ADD PRIMARY KEY (b, a);
ALTER TABLE two RENAME a TO c;
SELECT count(*) FROM softaudit.history('two', '{"b": 1, "c": 1}');
-- nor does a value that was computed tell which row had it before
CREATE TABLE comp (id integer PRIMARY KEY, v text);
CREATE TABLE comp_child () INHERITS (comp);
ALTER TABLE comp_child ADD PRIMARY KEY (id);
SELECT softaudit.enable('comp', soft_delete => false), softaudit.enable('comp_child', soft_delete => false);
INSERT INTO comp VALUES (1, 'a'), (2, 'b');
INSERT INTO comp_child VALUES (1, 'c'), (2, 'd');
ALTER TABLE comp ALTER id TYPE bigint;
ALTER TABLE comp ALTER id TYPE integer USING id::integer, ALTER v TYPE text USING upper(v);
SELECT count(*) FROM softaudit.history('comp', 1);
ALTER TABLE comp ALTER id TYPE integer USING 3 - id;
UPDATE comp SET v = lower(v);
SELECT seen('comp', '1');
SELECT seen('comp_child', '1');
-- in a restored table, columns are told by their names until one is renamed or the key dropped
CREATE TABLE rest (id integer PRIMARY KEY, b integer);
SELECT softaudit.enable('rest', soft_delete => false);
INSERT INTO rest VALUES (1, 2), (2, 1);
UPDATE softaudit.registry SET key_args = '{elsewhere,7:id}' WHERE relation = 'rest'::regclass;
ALTER TABLE rest ADD c integer;
SELECT count(*) FROM softaudit.history('rest', 1);
ALTER TABLE rest RENAME id TO key;
SELECT count(*) FROM softaudit.history('rest', 1);
UPDATE softaudit.registry SET key_args = '{elsewhere,7:key}' WHERE relation = 'rest'::regclass;
ALTER TABLE rest DROP CONSTRAINT rest_pkey;
UPDATE rest SET key = 3 - key;
ALTER TABLE rest ADD PRIMARY KEY (key);
SELECT count(*) FROM softaudit.history('rest', 1);
UPDATE softaudit.registry SET key_args = '{elsewhere,7:key}', key_since = 0 WHERE relation = 'rest'::regclass;
ALTER TABLE rest DROP CONSTRAINT rest_pkey, ADD PRIMARY KEY (b);
SELECT count(*) FROM softaudit.history('rest', 1);
SELECT table_name, key_since > 0 AS moved, key_gone FROM softaudit.registry WHERE schema_name = 's40' ORDER BY table_name;
-- what PostgreSQL does not check the encoding of, the log does
CREATE TABLE enc (id integer PRIMARY KEY);
SELECT softaudit.enable('enc', soft_delete => false);
\getenv options PGOPTIONS
\set bad :options ' -c app.current_user=m\xff-\xc3\xa9 -c softaudit.context={"who\xe9":"\xe2\x82","ok":"\xc3\xa9"}'
\setenv PGOPTIONS :bad
\set here 'dbname=' :main
\c -reuse-previous=off :here
SET client_min_messages = error;
INSERT INTO s40.enc VALUES (1);
INSERT INTO s40.enc VALUES (2);
SELECT softaudit.enable('s40.enc', keep_log => '10 years');
SELECT softaudit.actor();
\setenv PGOPTIONS :options
\c -reuse-previous=off :here
\set ECHO none
CREATE DATABASE regress_sau_latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0;
\c regress_sau_latin
SET client_encoding = 'LATIN1';
\set latin 'regress_sau_jos\xe9'
CREATE ROLE :"latin" LOGIN;
CREATE ROLE regress_sau_latin LOGIN;
ALTER ROLE regress_sau_latin SET app."current_user" = :'latin';
\c :main
\set ECHO queries
GRANT USAGE ON SCHEMA s40 TO regress_sau_latin;
GRANT INSERT ON s40.enc TO regress_sau_latin, PUBLIC;
\c - regress_sau_latin
INSERT INTO s40.enc VALUES (3);
\c - :latin
INSERT INTO s40.enc VALUES (4);
\c - :super
SET search_path = s40, public;
SET client_min_messages = error;
SELECT new_data, changed_by, session_user_name = current_user AS same, session_user_name ~ '^regress' AS named, context FROM softaudit.changes WHERE table_name = 'enc' ORDER BY audit_id;
SELECT session_user_name FROM softaudit.changes WHERE table_name = 'enc' AND changed_by = session_user_name;
SELECT actor FROM softaudit.events WHERE relation = 'enc' AND event = 'SETTINGS';
SELECT count(convert_from(convert_to(concat(l.changed_by, s.session_user_name, s.context), 'UTF8'), 'UTF8')) > 0 AS good
  FROM softaudit.log l JOIN softaudit.log_sessions s USING (session_id);
\set ECHO none
\c regress_sau_latin
SET client_encoding = 'LATIN1';
DROP ROLE :"latin";
\c :main
\set ECHO queries
SET search_path = s40, public;
SET client_min_messages = error;
DROP DATABASE regress_sau_latin;
-- nobody's rows show as the log's
CALL t.err('CREATE SCHEMA s40_more CREATE TABLE kid () INHERITS (softaudit.events)');
CALL t.err('CREATE SCHEMA s40_more CREATE TABLE kid PARTITION OF softaudit.log FOR VALUES IN (99)');
CREATE FOREIGN DATA WRAPPER regress_sau_fdw;
CREATE SERVER regress_sau_server FOREIGN DATA WRAPPER regress_sau_fdw;
CALL t.err('CREATE FOREIGN TABLE s40.kid () INHERITS (softaudit.events) SERVER regress_sau_server');
CALL t.err('CREATE FOREIGN TABLE s40.kid PARTITION OF softaudit.log FOR VALUES IN (99) SERVER regress_sau_server');
CREATE FOREIGN TABLE kid () SERVER regress_sau_server;
CALL t.err('ALTER FOREIGN TABLE s40.kid INHERIT softaudit.log_groups');
CREATE FOREIGN TABLE kid2 () INHERITS (kid) SERVER regress_sau_server;
DROP FOREIGN DATA WRAPPER regress_sau_fdw CASCADE;
CREATE SCHEMA s40_more CREATE TABLE par (id integer) CREATE TABLE kid () INHERITS (par);
DROP SCHEMA s40_more CASCADE;
-- nor do ids come again
CALL t.err('ALTER SEQUENCE softaudit.log_audit_id_seq RESTART');
CALL t.err('ALTER SEQUENCE softaudit.event_id_seq INCREMENT 2');
CREATE SEQUENCE mine;
ALTER SEQUENCE mine RESTART INCREMENT 2;
-- what sessions said of themselves goes when the whole log is younger
CREATE TABLE swept (id integer PRIMARY KEY, v text);
SELECT softaudit.enable('swept', soft_delete => false, keep_log => '1 year', log_group => 'swept');
INSERT INTO swept VALUES (1, 'a'), (2, 'b');
\set ECHO none
SELECT group_id AS g FROM softaudit.log_groups WHERE group_name = 'swept' \gset
-- as if it had been enabled then
SET session_replication_role = replica;
SELECT format('INSERT INTO softaudit.log_g%s_default SELECT audit_id, now() - make_interval(years => 11 - (l.new_data ->> ''id'')::integer), xid, -11 + (l.new_data ->> ''id'')::integer,
                      row_ref, log_group, operation, changed_by, new_data FROM softaudit.log l WHERE log_group = %1$s', :g) \gexec
INSERT INTO softaudit.log_sessions (session_id, created_at, session_user_name, application_name, backend_pid, ended_by) VALUES
    (-12, now() - interval '12 years', 'gone', '', 0, now() - interval '11 years'),
    (-10, now() - interval '12 years', 'in the first', '', 0, now() - interval '119 months'),
    (-9, now() - interval '12 years', 'in the second', '', 0, now() - interval '107 months'),
    (-8, now() - interval '12 years', 'still there', '', pg_backend_pid(), NULL),
    (-7, now() - interval '12 years', 'not seen yet to be gone', '', 0, NULL),
    (-6, now() + interval '40 days', 'of a clock that was set back', '', 0, NULL);
RESET session_replication_role;
\set ECHO queries
SELECT softaudit.hold('swept', 2, 'case');
CALL softaudit.maintain();
SELECT session_user_name, ended_by > now() - interval '1 hour' AS is_now, ended_by >= created_at AS began_before FROM softaudit.log_sessions WHERE session_id < 0 ORDER BY session_id;
SELECT count(*) AS dangling FROM softaudit.log l WHERE l.session_id < 0 AND NOT EXISTS (SELECT FROM softaudit.log_sessions s WHERE s.session_id = l.session_id);
SELECT softaudit.release('swept', 2);
SELECT count(*) FROM softaudit.log_groups g, LATERAL softaudit.partition_bounds(g.group_id) b WHERE g.group_name = 'swept' AND b.upper_bound <= now();
BEGIN;
INSERT INTO swept VALUES (3, 'c');
PREPARE TRANSACTION 'regress_sau_swept';
SELECT softaudit.sweep_sessions();
ROLLBACK PREPARED 'regress_sau_swept';
CALL softaudit.maintain();
SELECT session_user_name FROM softaudit.log_sessions WHERE session_id < 0 ORDER BY session_id;
CALL t.err('DELETE FROM softaudit.log_sessions');
CALL t.err('UPDATE softaudit.log_sessions SET ended_by = now()');
-- intervals that no calendar has
CREATE TABLE iv (id integer PRIMARY KEY);
CALL t.err($$SELECT softaudit.enable('s40.iv', soft_delete => false, partition_by => '10000 years')$$);
CALL t.err($$SELECT softaudit.enable('s40.iv', soft_delete => false, partition_by => '1000 years 1 day')$$);
CALL t.err($$SELECT softaudit.enable('s40.iv', soft_delete => false, partition_by => '-10000 years')$$);
CALL t.err($$SELECT softaudit.enable('s40.iv', soft_delete => false, partition_by => '100000000 days')$$);
CALL t.err($$SELECT softaudit.enable('s40.iv', soft_delete => false, partition_by => '100000000 hours', log_group => 'iv')$$);
CALL t.err($$SELECT softaudit.enable('s40.iv', soft_delete => false, partition_by => '2 months -1 day')$$);
-- infinity itself from 17 on
DO $$
DECLARE
    given text;
    hint text;
BEGIN
    FOREACH given IN ARRAY '{infinity,-infinity}'::text[] LOOP
        BEGIN
            EXECUTE format('SELECT softaudit.enable(''s40.iv'', soft_delete => false, partition_by => %L)', given);
            RAISE EXCEPTION 'no error';
        EXCEPTION WHEN invalid_parameter_value OR invalid_datetime_format THEN
            GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
            IF current_setting('server_version_num')::integer >= 170000 AND hint = '' THEN
                RAISE;
            END IF;
        END;
    END LOOP;
END $$;
SELECT softaudit.enable('iv', soft_delete => false, partition_by => '1000 years');
SELECT softaudit.enable('iv', soft_delete => false, partition_by => '360000 days');
-- a key of another type is the same key
CREATE TABLE rt (id integer PRIMARY KEY, v text);
SELECT softaudit.enable('rt', soft_delete => false);
INSERT INTO rt VALUES (1, 'a'), (2, 'gone'), (10, 'c');
UPDATE rt SET id = 3 WHERE id = 10;
UPDATE rt SET v = 'b' WHERE id = 1;
DELETE FROM rt WHERE id = 2;
ALTER TABLE rt ALTER id TYPE text;
UPDATE rt SET v = v || '!';
INSERT INTO rt VALUES ('2', 'regress_sau_alice'), ('01', 'other');
UPDATE rt SET id = '4' WHERE id = '3';
SELECT seen('rt', '1');
SELECT seen('rt', '01');
SELECT seen('rt', '2');
SELECT seen('rt', '4');
SELECT operation, row_key FROM softaudit.history_of('s40', 'rt', '1');
SELECT count(*) FROM softaudit.history_of('s40', 'rt', '2');
-- under row security, the row's that has it now
ALTER TABLE rt ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON rt USING (v = current_user);
GRANT SELECT ON rt TO regress_sau_alice;
SET ROLE regress_sau_alice;
SELECT seen('rt', '2');
SELECT seen('rt', '1');
RESET ROLE;
SELECT images_removed FROM softaudit.erase('rt', '1'::text, 'request', dry_run => true);
DELETE FROM rt WHERE id = '01';
ALTER TABLE rt ALTER id TYPE integer USING id::integer;
UPDATE rt SET v = v || '?' WHERE id = 1;
SELECT count(*) FROM softaudit.history('rt', 1);
SELECT rows_deleted, images_removed FROM softaudit.erase('rt', 1, 'request');
SELECT operation, row_key FROM softaudit.history('rt', 1);
-- one of two columns, and what is no number
CREATE TABLE rt2 (a text, b integer, PRIMARY KEY (a, b));
SELECT softaudit.enable('rt2', soft_delete => false);
INSERT INTO rt2 VALUES ('x', -1), ('7.5', 2), ('-', 3), ('1.', 4);
ALTER TABLE rt2 ALTER b TYPE text;
SELECT a, (SELECT count(*) FROM softaudit.history('rt2', to_jsonb(rt2))) FROM rt2 ORDER BY b;
ALTER TABLE rt2 ALTER b TYPE jsonb USING b::jsonb;
SELECT a, (SELECT count(*) FROM softaudit.history('rt2', to_jsonb(rt2))) FROM rt2 ORDER BY a;
-- nor does a grant on a column reach another one that had its name before
CREATE TABLE cs (id integer PRIMARY KEY, name text, ssn text, "a:b" text);
SELECT softaudit.enable('cs', soft_delete => false);
INSERT INTO cs VALUES (1, 'ann', '123', 'x');
ALTER TABLE cs DROP ssn;
ALTER TABLE cs ADD ssn text;
UPDATE cs SET ssn = '4..';
GRANT SELECT (id, name, ssn, "a:b") ON cs TO regress_sau_reader;
SET ROLE regress_sau_reader;
SELECT seen('cs', '1');
RESET ROLE;
ALTER TABLE cs DROP ssn, ADD ssn text;
ALTER TABLE cs DROP name;
ALTER TABLE cs RENAME "a:b" TO name;
UPDATE cs SET ssn = '5..';
GRANT SELECT (ssn) ON cs TO regress_sau_reader;
SET ROLE regress_sau_reader;
SELECT seen('cs', '1');
RESET ROLE;
-- in a restored table, too
UPDATE softaudit.registry SET column_since[1] = 'elsewhere', column_since[2] = '9:0:id' WHERE relation = 'cs'::regclass;
SET ROLE regress_sau_reader;
SELECT seen('cs', '1');
RESET ROLE;
ALTER TABLE cs DROP ssn, ADD ssn text;
GRANT SELECT (ssn) ON cs TO regress_sau_reader;
-- what nobody followed is not shown
SET session_replication_role = replica;
ALTER TABLE cs DROP name, ADD name text;
RESET session_replication_role;
GRANT SELECT (name) ON cs TO regress_sau_reader;
SET ROLE regress_sau_reader;
SELECT seen('cs', '1');
RESET ROLE;
-- a partition has its columns elsewhere
CREATE TABLE cp (id integer PRIMARY KEY, gone text, name text) PARTITION BY RANGE (id);
CREATE TABLE cp_1 (name text, gone text, id integer NOT NULL);
ALTER TABLE cp ATTACH PARTITION cp_1 FOR VALUES FROM (0) TO (10);
SELECT softaudit.enable('cp', soft_delete => false);
INSERT INTO cp VALUES (1, 'x', 'ann');
ALTER TABLE cp DROP gone;
GRANT SELECT (id, name) ON cp TO regress_sau_reader;
GRANT SELECT ON cp_1 TO regress_sau_reader;
SET ROLE regress_sau_reader;
SELECT seen('cp', '1'), seen('cp_1', '1');
RESET ROLE;
-- numbers of log rows that come a second time, as in a database that took the log over without its sequences: each is a row's own
CREATE TABLE twice (id integer PRIMARY KEY, v text);
SELECT softaudit.enable('twice', soft_delete => false);
\set ECHO none
\c -
SET client_min_messages = error;
INSERT INTO s40.twice VALUES (1, 'a');
UPDATE s40.twice SET v = 'b';
SELECT min(audit_id) AS first FROM softaudit.history('s40.twice', 1) \gset
SELECT setval('softaudit.log_audit_id_seq', :first, false) \g /dev/null
\c -
SET client_min_messages = error;
SET search_path = s40, public;
\set ECHO queries
UPDATE twice SET v = 'c';
UPDATE twice SET v = 'd';
SELECT count(*), count(DISTINCT audit_id), string_agg(new_data ->> 'v', ' ' ORDER BY changed_at) FROM softaudit.history('twice', 1);
SELECT count(*), count(DISTINCT audit_id), string_agg(new_data ->> 'v', ' ' ORDER BY changed_at) FROM softaudit.history_of('s40', 'twice', '1');
-- advise() tells
SELECT setval('softaudit.log_session_id_seq', 1), setval('softaudit.event_id_seq', 1) \g /dev/null
SELECT severity, object, advice, regexp_replace(sql, '\d+', 'N') FROM softaudit.advise() WHERE object LIKE '%_seq' ORDER BY object COLLATE "C";
\set ECHO none
\o /dev/null
SELECT sql FROM softaudit.advise() WHERE object LIKE '%_seq' \gexec
\o
\set ECHO queries
SELECT count(*) FROM softaudit.advise() WHERE object LIKE '%_seq';

\set ECHO none
DROP SCHEMA s40 CASCADE;
DROP OWNED BY regress_sau_latin;
DROP ROLE regress_sau_alice, regress_sau_reader, regress_sau_latin;
