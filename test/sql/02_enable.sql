-- Enable: which tables, by whom, with which settings; and back again.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_sau_owner, regress_sau_member, regress_sau_stranger;
CREATE ROLE regress_sau_owner;
CREATE ROLE regress_sau_member IN ROLE regress_sau_owner;
CREATE ROLE regress_sau_stranger;
CREATE SCHEMA s02;
GRANT ALL ON SCHEMA s02 TO PUBLIC;
SET search_path = s02, public;
RESET client_min_messages;
\set ECHO all

CREATE TABLE plain (id integer PRIMARY KEY, name text, secret text, seen timestamp);

-- enable: each thing done is told, and is an event
SELECT softaudit.enable('plain', soft_delete => false);
SELECT tgenabled, substring(pg_get_triggerdef(oid) FROM 'AFTER .* ON'), substring(pg_get_triggerdef(oid) FROM 'FOR EACH \w+')
  FROM pg_trigger WHERE tgrelid = 'plain'::regclass ORDER BY tgtype;
SELECT t.events();
INSERT INTO plain VALUES (1, 'a', 's', NULL);
SELECT t.changes();

-- enable: again with nothing new does nothing
SELECT softaudit.enable('plain');
SELECT softaudit.enable('plain', soft_delete => false, images => 'full', exclude => '{}');
SELECT t.events();

-- enable: settings change in place, those left out stay
SELECT softaudit.enable('plain', images => 'changes');
SELECT softaudit.enable('plain', exclude => '{secret}');
UPDATE plain SET name = 'b', secret = 't';
SELECT t.changes();
SELECT softaudit.enable('plain', ignore => '{seen}', redact => '{name}', replicated => true);
SELECT images, exclude, redact, ignore, replicated, partition_by = '1 month' AS monthly, keep_log FROM softaudit.registry WHERE relation = 'plain'::regclass;
SELECT string_agg(tgenabled, '') FROM pg_trigger WHERE tgrelid = 'plain'::regclass;
UPDATE plain SET seen = '2020-02-29 12:34:56.5';
SELECT t.changes();
SELECT t.events();

-- reset: each setting gets its first value back
SELECT softaudit.reset('plain', 'images');
SELECT softaudit.reset('plain', 'exclude');
SELECT softaudit.reset('plain', 'redact');
SELECT softaudit.reset('plain', 'ignore');
SELECT softaudit.reset('plain', 'replicated');
SELECT softaudit.reset('plain', 'partition_by');
SELECT images, exclude, redact, ignore, replicated FROM softaudit.registry WHERE relation = 'plain'::regclass;
SELECT string_agg(tgenabled, '') FROM pg_trigger WHERE tgrelid = 'plain'::regclass;
SELECT t.events();
CALL t.err('SELECT softaudit.reset(''plain'', ''colour'')');
CALL t.err('SELECT softaudit.reset(''plain'', NULL)');
CALL t.err('SELECT softaudit.reset(''plain'', ''live_uniques'')');

-- settings: what is no value of theirs is refused, and changes nothing
CALL t.err('SELECT softaudit.enable(''plain'', audit => false)');
CALL t.err('SELECT softaudit.enable(''plain'', images => ''some'')');
CALL t.err('SELECT softaudit.enable(''plain'', exclude => ''{nothere}'')');
CALL t.err('SELECT softaudit.enable(''plain'', redact => ''{Name}'')');
CALL t.err('SELECT softaudit.enable(''plain'', ignore => ''{NULL}'')');
CALL t.err('SELECT softaudit.enable(''plain'', ignore => ''{ctid}'')');
CALL t.err('SELECT softaudit.enable(''plain'', exclude => ''{id}'')');
CALL t.err('SELECT softaudit.enable(''plain'', exclude => ''{name,secret}'', redact => ''{secret}'')');
CALL t.err('SELECT softaudit.enable(''plain'', partition_by => ''0'')');
CALL t.err('SELECT softaudit.enable(''plain'', partition_by => ''-1 month'')');
CALL t.err('SELECT softaudit.enable(''plain'', partition_by => ''1 month 1 day'')');
CALL t.err('SELECT softaudit.enable(''plain'', partition_by => ''90 minutes'')');
CALL t.err('SELECT softaudit.enable(''plain'', keep_log => ''0'')');
CALL t.err('SELECT softaudit.enable(''plain'', keep_log => ''-1 day'')');
SELECT images, exclude, redact, ignore, replicated FROM softaudit.registry WHERE relation = 'plain'::regclass;
SELECT t.events();

-- settings: intervals that are values; how they are written does not depend on the session
SELECT softaudit.enable('plain', partition_by => step::interval) FROM (VALUES ('1 hour'), ('1 day'), ('1 week'), ('30 days'), ('3 months'), ('1 year')) v (step);
SELECT t.events();
SELECT r.partition_by::text = g.partition_by::text AS group_is_as_asked FROM softaudit.registry r JOIN softaudit.log_groups g ON g.group_id = r.log_group
 WHERE r.relation = 'plain'::regclass;
SELECT softaudit.enable('plain', partition_by => '30 days');
SELECT extract(month FROM g.partition_by) AS months, extract(day FROM g.partition_by) AS days
  FROM softaudit.registry r JOIN softaudit.log_groups g ON g.group_id = r.log_group WHERE r.relation = 'plain'::regclass;
SELECT softaudit.reset('plain', 'partition_by');
SELECT softaudit.enable('plain', keep_log => '90 days');
SELECT softaudit.reset('plain', 'keep_log');
SELECT softaudit.enable('plain', exclude => '{secret,secret}', redact => '{name}');
SELECT exclude FROM softaudit.registry WHERE relation = 'plain'::regclass;
INSERT INTO plain VALUES (2, NULL, 's', NULL);
SELECT t.changes();
SELECT t.skip();

-- disable: triggers go, the log stays, later changes are not captured
SELECT softaudit.disable('plain');
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'plain'::regclass;
UPDATE plain SET name = 'c';
SELECT t.changes();
SELECT count(*) > 0 FROM softaudit.changes WHERE schema_name = 's02' AND table_name = 'plain';
SELECT t.events();
SELECT softaudit.disable('plain');
SELECT t.events();
-- enable after disable: with the settings it had
SELECT softaudit.enable('plain');
SELECT exclude, redact FROM softaudit.registry WHERE relation = 'plain'::regclass;
SELECT t.events();
SELECT softaudit.disable('plain', audit => false);
SELECT softaudit.disable('plain', soft_delete => false);
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'plain'::regclass;
CALL t.err('SELECT softaudit.disable(NULL)');
SELECT t.skip();

-- enable: repairs what was dropped or switched off by hand
SELECT softaudit.enable('plain', exclude => '{}', redact => '{}');
DO $$ BEGIN EXECUTE (SELECT format('DROP TRIGGER %I ON s02.plain', tgname) FROM pg_trigger WHERE tgrelid = 's02.plain'::regclass AND tgtype & 1 = 1); END $$;
SELECT softaudit.enable('plain');
ALTER TABLE plain DISABLE TRIGGER ALL;
SET client_min_messages = warning;
SELECT softaudit.enable('plain');
RESET client_min_messages;
UPDATE plain SET name = 'd' WHERE id = 1;
TRUNCATE plain;
SELECT t.changes();
SELECT t.skip();

-- enable: in a transaction that rolls back, nothing happened
CREATE TABLE maybe (id integer PRIMARY KEY);
BEGIN;
SELECT softaudit.enable('maybe', soft_delete => false);
INSERT INTO maybe VALUES (1);
SELECT t.changes();
ROLLBACK;
INSERT INTO maybe VALUES (2);
SELECT t.changes();
SELECT t.events();
SELECT count(*) FROM softaudit.registry WHERE table_name = 'maybe';
BEGIN;
SELECT softaudit.enable('maybe', soft_delete => false);
INSERT INTO maybe VALUES (3);
COMMIT;
SELECT t.changes();

-- enable: what is no table of the user's
CREATE VIEW a_view AS SELECT * FROM plain;
CALL t.err('SELECT softaudit.enable(''a_view'', soft_delete => false)');
CREATE MATERIALIZED VIEW a_matview AS SELECT * FROM plain;
CALL t.err('SELECT softaudit.enable(''a_matview'', soft_delete => false)');
CREATE SEQUENCE a_sequence;
CALL t.err('SELECT softaudit.enable(''a_sequence'', soft_delete => false)');
CALL t.err('SELECT softaudit.enable(''plain_pkey'', soft_delete => false)');
CREATE TYPE a_type AS (a integer);
CALL t.err('SELECT softaudit.enable(''a_type'', soft_delete => false)');
CREATE FOREIGN DATA WRAPPER regress_sau_fdw;
CREATE SERVER regress_sau_server FOREIGN DATA WRAPPER regress_sau_fdw;
CREATE FOREIGN TABLE a_foreign_table (id integer) SERVER regress_sau_server;
CALL t.err('SELECT softaudit.enable(''a_foreign_table'', soft_delete => false)');
DROP FOREIGN TABLE a_foreign_table;
DROP SERVER regress_sau_server;
DROP FOREIGN DATA WRAPPER regress_sau_fdw;
CREATE TEMPORARY TABLE a_temp_table (id integer PRIMARY KEY);
CALL t.err('SELECT softaudit.enable(''a_temp_table'', soft_delete => false)');
CREATE TABLE a_parted_table (id integer) PARTITION BY LIST (id);
CREATE TABLE a_partition PARTITION OF a_parted_table DEFAULT;
CALL t.err('SELECT softaudit.enable(''a_partition'', soft_delete => false)');
CALL t.err('SELECT softaudit.enable(''pg_class'', soft_delete => false)');
CALL t.err('SELECT softaudit.enable(''information_schema.sql_features'', soft_delete => false)');
CALL t.err('SELECT softaudit.enable(''softaudit.log'', soft_delete => false)');
CALL t.err('SELECT softaudit.enable(''softaudit.registry'', soft_delete => false)');
CALL t.err('SELECT softaudit.enable(''softaudit.events'', soft_delete => false)');
CALL t.err('SELECT softaudit.enable(NULL, soft_delete => false)');
CALL t.err('SELECT softaudit.enable(4294967295, soft_delete => false)');
CALL t.err('SELECT softaudit.enable(''nowhere'', soft_delete => false)');
CALL t.err('SELECT softaudit.reset(NULL, ''images'')');
CALL t.err('SELECT softaudit.reset(''a_view'', ''images'')');
CALL t.err('SELECT softaudit.disable(''a_view'')');
SELECT t.events();

-- enable: for the owner and members of the owning role
SET ROLE regress_sau_owner;
CREATE TABLE owned (id integer PRIMARY KEY, v text);
GRANT ALL ON owned TO regress_sau_stranger;
SET ROLE regress_sau_stranger;
CALL t.err('SELECT softaudit.enable(''s02.owned'', soft_delete => false)');
SET ROLE regress_sau_owner;
SELECT softaudit.enable('owned', soft_delete => false);
SET ROLE regress_sau_stranger;
CALL t.err('SELECT softaudit.enable(''s02.owned'', images => ''changes'')');
CALL t.err('SELECT softaudit.reset(''s02.owned'', ''images'')');
CALL t.err('SELECT softaudit.disable(''s02.owned'')');
-- nor may he call what works behind them
CALL t.err('SELECT softaudit.configure(''s02.owned'', ''{}'')');
CALL t.err('SELECT softaudit.disable_apply(''s02.owned'', true, true, true)');
CALL t.err('SELECT softaudit.record_event(''PURGE'', ''s02'', ''owned'', NULL, NULL)');
INSERT INTO owned VALUES (1, 'by a stranger with the privilege');
SET ROLE regress_sau_member;
SELECT softaudit.enable('owned', images => 'changes');
SELECT softaudit.disable('owned');
RESET ROLE;
SELECT t.changes();
SELECT t.events();

-- enable: odd names
CREATE SCHEMA "Odd Schema";
CREATE TABLE "Odd Schema"."we""ird.Tablé 表" ("ключ" integer PRIMARY KEY, "Mixed Case" text, "with""quote" text, "a.b" text, "x:'y'" text, "back\slash" text);
SELECT softaudit.enable('"Odd Schema"."we""ird.Tablé 表"', soft_delete => false, exclude => '{"with\"quote"}', ignore => ARRAY['Mixed Case', 'x:''y''', 'back\slash']::name[]);
INSERT INTO "Odd Schema"."we""ird.Tablé 表" VALUES (1, 'M', 'hidden', 'ab', 'xy', '\');
UPDATE "Odd Schema"."we""ird.Tablé 表" SET "Mixed Case" = 'n', "x:'y'" = '', "back\slash" = '';
UPDATE "Odd Schema"."we""ird.Tablé 表" SET "a.b" = '𝄞';
SELECT t.changes();
SELECT operation, new_data FROM softaudit.history('"Odd Schema"."we""ird.Tablé 表"', 1);
SELECT operation, new_data FROM softaudit.history_of('Odd Schema', 'we"ird.Tablé 表', '1');
SELECT softaudit.disable('"Odd Schema"."we""ird.Tablé 表"');
SELECT t.events();
CREATE TABLE s02.a23456789_b23456789_c23456789_d23456789_e23456789_f23456789_123 (a23456789_b23456789_c23456789_d23456789_e23456789_f23456789_123 integer PRIMARY KEY);
SELECT softaudit.enable('a23456789_b23456789_c23456789_d23456789_e23456789_f23456789_123', soft_delete => false);
INSERT INTO a23456789_b23456789_c23456789_d23456789_e23456789_f23456789_123 VALUES (1);
SELECT t.changes();
-- a table without columns, and one with 1,600
CREATE TABLE nothing ();
SELECT softaudit.enable('nothing', soft_delete => false);
INSERT INTO nothing DEFAULT VALUES;
DELETE FROM nothing;
SELECT t.changes();
DO $$ BEGIN EXECUTE (SELECT format('CREATE TABLE wide (%s)', string_agg(format('c%s smallint', i), ', ')) FROM generate_series(1, 1600) i); END $$;
SELECT softaudit.enable('wide', soft_delete => false, exclude => '{c1600}', images => 'changes');
INSERT INTO wide (c1, c1600) VALUES (1, 2);
UPDATE wide SET c1599 = 3, c1600 = 4;
SELECT operation, (SELECT count(*) FROM jsonb_object_keys(new_data)) AS columns, jsonb_strip_nulls(new_data) FROM softaudit.changes WHERE schema_name = 's02' AND table_name = 'wide' ORDER BY audit_id;
SELECT t.skip();

-- enable: generated, identity and dropped columns
CREATE TABLE special (gone_first text, id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, gone text, net numeric, gross numeric GENERATED ALWAYS AS (net * 2) STORED, by_default integer GENERATED BY DEFAULT AS IDENTITY, other text DEFAULT 'dflt');
ALTER TABLE special DROP COLUMN gone_first, DROP COLUMN gone;
SELECT softaudit.enable('special', soft_delete => false, exclude => '{other}');
INSERT INTO special (net, other) VALUES (1.50, 'hidden');
UPDATE special SET net = 2;
SELECT t.changes();
SELECT softaudit.enable('special', ignore => '{gross}', images => 'changes');
UPDATE special SET net = 3;
DELETE FROM special;
SELECT t.changes();

-- virtual ones, where the server has them: what to_jsonb(row) shows
\set ECHO none
SET client_min_messages = warning;
SELECT current_setting('server_version_num')::integer >= 180000 AS has_virtual \gset
\if :has_virtual
CREATE TABLE virtual (id integer PRIMARY KEY, net numeric, gross numeric GENERATED ALWAYS AS (net * 2) VIRTUAL);
SELECT softaudit.enable('virtual', soft_delete => false) \g /dev/null
INSERT INTO virtual VALUES (1, 1.50);
UPDATE virtual SET net = 2;
SELECT 'wrong: ' || new_data::text FROM softaudit.history('virtual', 1) WHERE new_data ->> 'gross' IS DISTINCT FROM ((new_data ->> 'net')::numeric * 2)::text;
SELECT 'wrong: ' || string_agg(new_data::text, ' ') FROM softaudit.history('virtual', 1) HAVING count(*) <> 2;
SELECT t.skip();
\endif
RESET client_min_messages;
\set ECHO all
-- enable: a table without primary key is captured, and found in the log by other means
CREATE TABLE keyless (a integer UNIQUE, b text);
SELECT softaudit.enable('keyless', soft_delete => false);
INSERT INTO keyless VALUES (1, 'x');
UPDATE keyless SET b = 'y';
SELECT t.changes();
CALL t.err('SELECT * FROM softaudit.history(''keyless'', ''1'')');
CALL t.err('SELECT * FROM softaudit.history_of(''s02'', ''keyless'', ''1'')');
SELECT count(*) FROM softaudit.changes WHERE schema_name = 's02' AND table_name = 'keyless';

-- enable: a parent of other tables stands for itself, and says so
CREATE TABLE parent (id integer PRIMARY KEY, v text);
CREATE TABLE child (extra text, PRIMARY KEY (id)) INHERITS (parent);
SELECT softaudit.enable('parent', soft_delete => false);
SELECT softaudit.enable('child', soft_delete => false);
INSERT INTO parent VALUES (1, 'p');
INSERT INTO child VALUES (2, 'c', 'e');
UPDATE parent SET v = v || '!';
DELETE FROM ONLY parent;
DELETE FROM parent;
SELECT t.changes();

\set ECHO none
SET client_min_messages = warning;
DROP SCHEMA s02 CASCADE;
DROP SCHEMA "Odd Schema" CASCADE;
DROP OWNED BY regress_sau_owner, regress_sau_member, regress_sau_stranger;
DROP ROLE regress_sau_owner, regress_sau_member, regress_sau_stranger;
