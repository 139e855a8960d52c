-- The log: append-only, in the right partition, in the right group.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_sau_reader, regress_sau_writer;
CREATE ROLE regress_sau_reader;
CREATE ROLE regress_sau_writer;
CREATE SCHEMA s07;
SET search_path = s07, public;
CREATE TABLE a (id integer PRIMARY KEY, v text);
-- in a group of its own
SELECT softaudit.enable('a', soft_delete => false, keep_log => '77 years');
INSERT INTO a VALUES (1, 'x');
SELECT log_group AS g FROM softaudit.registry WHERE relation = 'a'::regclass \gset
-- the relations of the log, under names that do not change with the time
CREATE VIEW parts AS
    SELECT 1 AS ord, 'root' AS what, 'softaudit.log'::regclass AS rel
    UNION ALL SELECT 2, 'group', ('softaudit.log_g' || log_group)::regclass FROM softaudit.registry WHERE relation = 's07.a'::regclass
    UNION ALL SELECT 3, 'default', ('softaudit.log_g' || log_group || '_default')::regclass FROM softaudit.registry WHERE relation = 's07.a'::regclass
    UNION ALL SELECT 4, 'leaf', (SELECT leaf FROM softaudit.registry r, softaudit.partition_bounds(r.log_group)
                                  WHERE relation = 's07.a'::regclass AND now() >= lower_bound AND now() < upper_bound)
    UNION ALL SELECT 5, 'sessions', 'softaudit.log_sessions'::regclass
    UNION ALL SELECT 6, 'secret', 'softaudit.log_secret'::regclass
    UNION ALL SELECT 7, 'events', 'softaudit.events'::regclass;
-- runs a command with %s for the relation's name on each of some relations, undoes it, shows how it ended
CREATE PROCEDURE each(command text, which text[] DEFAULT '{root,group,default,leaf,sessions,secret,events}') LANGUAGE plpgsql AS $$
DECLARE
    p record;
    outcome text;
    last_outcome text;
    names text;
BEGIN
    FOR p IN SELECT *, split_part(rel::text, '.', 2) AS relname FROM s07.parts WHERE what = ANY (which) ORDER BY ord LOOP
        BEGIN
            EXECUTE format(command, p.rel, p.relname);
            RAISE EXCEPTION 'allowed' USING ERRCODE = '00001';
        EXCEPTION WHEN OTHERS THEN
            outcome := SQLSTATE || ' ' || replace(replace(SQLERRM, p.rel::text, '<it>'), '"' || p.relname || '"', '<it>');
        END;
        IF outcome = last_outcome THEN
            names := names || ', ' || p.what;
        ELSE
            IF names IS NOT NULL THEN
                RAISE INFO '%: %', names, last_outcome;
            END IF;
            names := p.what;
            last_outcome := outcome;
        END IF;
    END LOOP;
    RAISE INFO '%: %', names, last_outcome;
END $$;
GRANT USAGE ON SCHEMA s07 TO PUBLIC;
\set ECHO all

-- append-only: to the superuser
CALL each('INSERT INTO %s SELECT * FROM %1$s LIMIT 0');
CALL each('INSERT INTO %s SELECT * FROM %1$s LIMIT 1');
CALL each('UPDATE %s SET changed_by = ''somebody else''', '{root,group,default,leaf}');
CALL each('UPDATE softaudit.log_sessions SET session_user_name = ''x''', '{sessions}');
CALL each('UPDATE softaudit.events SET actor = ''x''', '{events}');
CALL each('DELETE FROM %s');
CALL each('DELETE FROM ONLY %s');
CALL each('TRUNCATE %s');
CALL each('COPY %s FROM ''/dev/null''');
CALL t.err('MERGE INTO softaudit.events USING (VALUES (1)) v (i) ON false WHEN NOT MATCHED THEN INSERT (event, actor) VALUES (''PURGE'', ''x'')');
CALL t.err('MERGE INTO softaudit.log l USING (VALUES (1)) v (i) ON true WHEN MATCHED THEN DELETE');
CALL t.err('INSERT INTO softaudit.changes (audit_id) VALUES (1)');
CALL t.err('DELETE FROM softaudit.changes');
CALL t.err('WITH d AS (DELETE FROM softaudit.log RETURNING 1) SELECT count(*) FROM d');

-- append-only: in a session that calls itself a replica, a restore may INSERT and nothing else
SET session_replication_role = replica;
CALL each('INSERT INTO %s SELECT * FROM %1$s LIMIT 0');
CALL each('UPDATE %s SET changed_by = ''somebody else''', '{root,group,default,leaf}');
CALL each('DELETE FROM %s');
CALL each('TRUNCATE %s');
CALL each('DROP TABLE %s CASCADE');
CALL each('ALTER TABLE %s DISABLE TRIGGER ALL');
RESET session_replication_role;

-- append-only: DDL
CALL each('DROP TABLE %s CASCADE');
CALL each('ALTER TABLE %s RENAME TO other');
CALL each('ALTER TABLE %s RENAME COLUMN changed_by TO other', '{root}');
CALL each('ALTER TABLE %s SET SCHEMA s07');
CALL each('ALTER TABLE %s ADD COLUMN other integer');
CALL each('ALTER TABLE %s DROP COLUMN changed_by', '{root,leaf}');
CALL each('ALTER TABLE %s ALTER COLUMN changed_by TYPE varchar(1000)', '{root,leaf}');
CALL each('ALTER TABLE %s DISABLE TRIGGER ALL');
CALL each('ALTER TABLE %s DISABLE TRIGGER USER');
CALL each('ALTER TABLE %s DISABLE TRIGGER softaudit_guard');
CALL each('ALTER TABLE %s ENABLE REPLICA TRIGGER softaudit_guard');
CALL each('ALTER TABLE ONLY %s DISABLE TRIGGER softaudit_guard_insert');
CALL each('ALTER TABLE %s ENABLE TRIGGER softaudit_guard');
CALL each('ALTER TABLE %s ENABLE TRIGGER ALL');
CALL each('ALTER TABLE %s ENABLE TRIGGER USER');
CALL each('ALTER TABLE %s ENABLE ALWAYS TRIGGER softaudit_guard');
CALL each('DROP TRIGGER softaudit_guard ON %s');
CALL each('DROP TRIGGER softaudit_guard_insert ON %s');
CALL each('ALTER TRIGGER softaudit_guard ON %s RENAME TO other');
CALL each('CREATE RULE r AS ON INSERT TO %s DO INSTEAD NOTHING', '{root,leaf,events}');
CALL each('ALTER TABLE %s ENABLE ROW LEVEL SECURITY');
CALL each('ALTER TABLE %s SET UNLOGGED', '{leaf,default,sessions,secret,events}');
CALL each('ALTER TABLE %s NO INHERIT softaudit.log', '{leaf}');
CALL each('ALTER TABLE %s DROP CONSTRAINT %2$s_pkey CASCADE', '{sessions,events}');
SELECT replace(format('ALTER TABLE softaudit.log DETACH PARTITION softaudit.log_g%s', :g), '''', '''''') AS detach \gset
CALL t.err(:'detach');
CALL each(format('ALTER TABLE softaudit.log_g%s DETACH PARTITION %%s', :g), '{default,leaf}');
CALL t.err('DROP INDEX softaudit.log_row_ref_idx');
CALL t.err('DROP SEQUENCE softaudit.log_audit_id_seq');
CALL t.err('DROP VIEW softaudit.changes');
CALL t.err('DROP TABLE softaudit.registry CASCADE');
CALL t.err('DROP TABLE softaudit.log_groups CASCADE');
CALL t.err('DROP SCHEMA softaudit CASCADE');
CALL t.err('ALTER SCHEMA softaudit RENAME TO other');
CALL t.err('DROP FUNCTION softaudit.guard() CASCADE');
CALL t.err('DROP EVENT TRIGGER softaudit_sql_drop');
-- what loses nothing is for the administrator to do
CALL each('ALTER TABLE %s SET (autovacuum_enabled = off)', '{leaf,default,sessions,events}');
CALL each('ANALYZE %s');
CALL each('LOCK TABLE %s IN ACCESS SHARE MODE');
CALL each('GRANT SELECT ON %s TO regress_sau_reader');
SELECT count(*) FROM softaudit.changes WHERE schema_name = 's07';

-- privileges: nobody else sees or writes anything
SET ROLE regress_sau_writer;
CALL t.err('SELECT * FROM softaudit.log');
CALL t.err('SELECT * FROM softaudit.changes');
CALL t.err('SELECT * FROM softaudit.events');
CALL t.err('SELECT * FROM softaudit.registry');
CALL t.err('SELECT * FROM softaudit.log_sessions');
CALL t.err('SELECT * FROM softaudit.log_secret');
CALL t.err('INSERT INTO softaudit.events (event, actor) VALUES (''PURGE'', ''x'')');
CALL t.err('SELECT nextval(''softaudit.log_audit_id_seq'')');
CALL t.err('CREATE TABLE softaudit.mine (i integer)');
CALL t.err('SET session_replication_role = replica');
CALL t.err('SELECT * FROM softaudit.history_of(''s07'', ''a'', ''1'')');
CALL t.err('SELECT softaudit.record_event(''PURGE'', ''s07'', ''a'', NULL, NULL)');
CALL t.err('CALL softaudit.maintain()');
CALL t.err('SELECT softaudit.maintain_step(1)');
CALL t.err('SELECT softaudit.maintain_step_apply(1)');
CALL t.err('SELECT softaudit.ensure_log()');
CALL t.err('SELECT softaudit.create_leaf(1, ''x'', NULL, NULL)');
RESET ROLE;
-- a reader reads; a writer is refused by the guards
GRANT SELECT ON softaudit.changes, softaudit.events, softaudit.log TO regress_sau_reader;
GRANT ALL ON ALL TABLES IN SCHEMA softaudit TO regress_sau_writer;
SET ROLE regress_sau_reader;
SELECT operation, row_key, new_data FROM softaudit.changes WHERE schema_name = 's07';
SELECT event FROM softaudit.events WHERE schema_name = 's07';
CALL t.err('DELETE FROM softaudit.log');
SET ROLE regress_sau_writer;
CALL t.err('INSERT INTO softaudit.log SELECT * FROM softaudit.log');
CALL t.err('DELETE FROM softaudit.log');
CALL t.err('UPDATE softaudit.events SET reason = ''x''');
CALL t.err('TRUNCATE softaudit.log_sessions');
-- a function of his cannot pass for one of ours
CREATE TEMPORARY TABLE mine (i integer);
CALL t.err('INSERT INTO softaudit.events (event, actor) VALUES (''PURGE'', softaudit.is_internal()::text)');
RESET ROLE;
REVOKE ALL ON ALL TABLES IN SCHEMA softaudit FROM regress_sau_writer, regress_sau_reader;
-- nor one that runs while ours are at work: a default, an expression, a cast of the user's
CREATE FUNCTION mischief(integer) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM softaudit.events;
    RETURN 'done';
EXCEPTION WHEN object_not_in_prerequisite_state THEN
    RETURN 'refused';
END $$;
CREATE TABLE victim (id integer PRIMARY KEY, v text);
SELECT softaudit.enable('victim', soft_delete => false);
INSERT INTO victim VALUES (1, mischief(1));
SELECT v FROM victim;
SELECT mischief(1) FROM softaudit.history('victim', 1);

-- leaves: what each one is
SELECT what, relreplident, relpersistence, (SELECT count(*) FROM pg_index WHERE indrelid = rel) AS indexes, (SELECT count(*) FROM pg_trigger WHERE tgrelid = rel) AS guards
  FROM parts JOIN pg_class c ON c.oid = rel WHERE what IN ('default', 'leaf') ORDER BY ord;
SELECT bool_and(a.attcompression = 'l' OR a.attstorage = 'e' OR NOT EXISTS (SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals))) AS cheap_storage
  FROM parts JOIN pg_attribute a ON a.attrelid = rel WHERE what IN ('default', 'leaf') AND a.attname IN ('old_data', 'new_data');
-- as many as partitions_ahead says, beyond the present one, without gaps
SELECT count(*) FILTER (WHERE NOT is_default) AS leaves, count(*) FILTER (WHERE is_default) AS default_leaf,
       bool_and(is_default OR lower_bound = date_trunc('month', lower_bound AT TIME ZONE 'UTC') AT TIME ZONE 'UTC') AS at_the_first,
       bool_and(is_default OR upper_bound = next_lower OR next_lower IS NULL) AS no_gaps
  FROM (SELECT *, lead(lower_bound) OVER (ORDER BY lower_bound) AS next_lower FROM softaudit.partition_bounds(:g)) b;
SET softaudit.partitions_ahead = 5;
CALL softaudit.maintain();
SELECT count(*) FROM softaudit.partition_bounds(:g);
RESET softaudit.partitions_ahead;
CALL softaudit.maintain();
SELECT count(*) FROM softaudit.partition_bounds(:g);
CALL t.err('SET softaudit.partitions_ahead = 0');
SET ROLE regress_sau_writer;
CALL t.err('SET softaudit.partitions_ahead = 2');
RESET ROLE;

-- maintain: not inside of a transaction, for whoever was granted it
BEGIN;
CALL softaudit.maintain();
ROLLBACK;
CALL t.err('CALL softaudit.maintain()');
DO $$ BEGIN CALL softaudit.maintain(); END $$;
GRANT EXECUTE ON PROCEDURE softaudit.maintain() TO regress_sau_writer;
SET ROLE regress_sau_writer;
CALL softaudit.maintain();
RESET ROLE;
REVOKE EXECUTE ON PROCEDURE softaudit.maintain() FROM regress_sau_writer;

-- a missing partition: the default one takes the rows, maintain() moves them home
CREATE FUNCTION where_rows() RETURNS TABLE (leaf text, rows bigint) LANGUAGE sql AS $$
    SELECT CASE WHEN b.is_default THEN 'default' ELSE 'leaf' END, count(l.audit_id)
      FROM softaudit.registry r, softaudit.partition_bounds(r.log_group) b LEFT JOIN softaudit.log l ON l.tableoid = b.leaf
     WHERE r.relation = 's07.a'::regclass GROUP BY 1 ORDER BY 1 $$;
ALTER EVENT TRIGGER softaudit_ddl_start DISABLE;
ALTER EVENT TRIGGER softaudit_sql_drop DISABLE;
CREATE PROCEDURE drop_leaves() LANGUAGE plpgsql AS $$
DECLARE
    b record;
BEGIN
    FOR b IN SELECT * FROM softaudit.registry r, softaudit.partition_bounds(r.log_group) WHERE r.relation = 's07.a'::regclass AND NOT is_default LOOP
        EXECUTE format('DROP TABLE %s', b.leaf);
    END LOOP;
END $$;
CALL drop_leaves();
ALTER EVENT TRIGGER softaudit_ddl_start ENABLE ALWAYS;
ALTER EVENT TRIGGER softaudit_sql_drop ENABLE ALWAYS;
SELECT t.skip();
INSERT INTO a SELECT i, 'homeless' FROM generate_series(2, 2001) i;
SELECT * FROM where_rows();
UPDATE a SET v = 'homeless still' WHERE id = 2;
SELECT operation, new_data FROM softaudit.history('a', 2);
SELECT min(audit_id) AS lo, max(audit_id) AS hi FROM softaudit.log WHERE log_group = :g \gset
CALL softaudit.maintain();
SELECT * FROM where_rows();
SELECT min(audit_id) = :lo AS first_kept, max(audit_id) = :hi AS last_kept, count(DISTINCT audit_id) FROM softaudit.log WHERE log_group = :g;
SELECT operation, new_data FROM softaudit.history('a', 2);
INSERT INTO a VALUES (3000, 'at home');
SELECT * FROM where_rows();
CALL each('DELETE FROM %s', '{root,group,default,leaf}');

-- what is wrong with the log is said, with what to do, and the write is refused rather than lost
BEGIN;
ALTER EVENT TRIGGER softaudit_ddl_start DISABLE;
ALTER EVENT TRIGGER softaudit_sql_drop DISABLE;
CALL drop_leaves();
DO $$ BEGIN EXECUTE (SELECT format('DROP TABLE softaudit.log_g%s_default', log_group) FROM softaudit.registry WHERE relation = 's07.a'::regclass); END $$;
DO $$
DECLARE
    hint text;
BEGIN
    INSERT INTO s07.a VALUES (4000, 'x');
EXCEPTION WHEN check_violation THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RAISE INFO '% %', regexp_replace(SQLERRM, 'log_g.* default', 'log_g... default'), hint;
END $$;
ROLLBACK;
BEGIN;
ALTER EVENT TRIGGER softaudit_ddl_start DISABLE;
ALTER EVENT TRIGGER softaudit_sql_drop DISABLE;
DO $$
DECLARE
    hint text;
    log_table text := (SELECT format('softaudit.log_g%s', log_group) FROM softaudit.registry WHERE relation = 's07.a'::regclass);
BEGIN
    EXECUTE format('DROP TABLE %s CASCADE', log_table);
    INSERT INTO s07.a VALUES (4000, 'x');
EXCEPTION WHEN undefined_table THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RAISE INFO '% %', replace(SQLERRM, log_table, 'log_g...'), hint;
END $$;
ROLLBACK;
BEGIN;
ALTER EVENT TRIGGER softaudit_ddl_start DISABLE;
ALTER EVENT TRIGGER softaudit_sql_drop DISABLE;
DROP VIEW softaudit.changes;
ALTER TABLE softaudit.log ALTER COLUMN operation TYPE varchar(20);
DO $$
DECLARE
    hint text;
BEGIN
    INSERT INTO s07.a VALUES (4000, 'x');
EXCEPTION WHEN object_not_in_prerequisite_state THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RAISE INFO '% %', regexp_replace(SQLERRM, '"softaudit.log_g.*"', '"softaudit.log_g..."'), hint;
END $$;
ROLLBACK;
BEGIN;
ALTER EVENT TRIGGER softaudit_ddl_start DISABLE;
ALTER TABLE softaudit.log_sessions RENAME TO gone;
SET LOCAL application_name = 'another session row';
CALL t.err('INSERT INTO s07.a VALUES (4000, ''x'')');
CREATE TABLE softaudit.log_sessions (session_id bigint);
CALL t.err('INSERT INTO s07.a VALUES (4000, ''x'')');
ROLLBACK;
BEGIN;
ALTER EVENT TRIGGER softaudit_ddl_start DISABLE;
ALTER EVENT TRIGGER softaudit_ddl_end DISABLE;
ALTER TABLE softaudit.registry RENAME TO gone;
ALTER TABLE a SET (fillfactor = 90);
CALL t.err('INSERT INTO s07.a VALUES (4000, ''x'')');
ROLLBACK;
BEGIN;
UPDATE pg_extension SET extversion = '0.9' WHERE extname = 'softaudit';
ALTER TABLE a SET (fillfactor = 90);
CALL t.err('INSERT INTO s07.a VALUES (4000, ''x'')');
ROLLBACK;
BEGIN;
ALTER EVENT TRIGGER softaudit_ddl_start DISABLE;
ALTER EVENT TRIGGER softaudit_sql_drop DISABLE;
DO $$
DECLARE
    log_table text := (SELECT format('softaudit.log_g%s', log_group) FROM softaudit.registry WHERE relation = 's07.a'::regclass);
BEGIN
    EXECUTE format('DROP TABLE %s CASCADE', log_table);
    EXECUTE format('CREATE TABLE %s (i integer)', log_table);
    INSERT INTO s07.a VALUES (4000, 'x');
EXCEPTION WHEN wrong_object_type THEN
    RAISE INFO '%', replace(SQLERRM, split_part(log_table, '.', 2), 'log_g...');
END $$;
ROLLBACK;
BEGIN;
ALTER EVENT TRIGGER softaudit_ddl_start DISABLE;
ALTER EVENT TRIGGER softaudit_sql_drop DISABLE;
CREATE TABLE redacted (id integer PRIMARY KEY, pin text);
SELECT softaudit.enable('redacted', soft_delete => false, redact => '{pin}');
ALTER TABLE softaudit.log_secret DISABLE TRIGGER ALL;
DELETE FROM softaudit.log_secret;
CALL t.err('INSERT INTO s07.redacted VALUES (1, ''x'')');
ROLLBACK;
-- and after all that it goes on
INSERT INTO a VALUES (4000, 'fine');
SELECT operation, new_data FROM softaudit.history('a', 4000);

-- groups: tables with the same intervals share one
CREATE TABLE b (id integer PRIMARY KEY);
CREATE TABLE c (id integer PRIMARY KEY);
CREATE TABLE d (id integer PRIMARY KEY);
SELECT softaudit.enable('b', soft_delete => false, partition_by => '1 week', keep_log => '10 years');
SELECT softaudit.enable('c', soft_delete => false, partition_by => '7 days', keep_log => '120 months');
SELECT softaudit.enable('d', soft_delete => false, partition_by => '1 week');
CREATE FUNCTION same_group(regclass, regclass) RETURNS boolean LANGUAGE sql AS
    $$ SELECT (SELECT log_group FROM softaudit.registry WHERE relation = $1) = (SELECT log_group FROM softaudit.registry WHERE relation = $2) $$;
SELECT same_group('b', 'c'), same_group('b', 'd');
SELECT bool_and(is_default OR extract(isodow FROM lower_bound AT TIME ZONE 'UTC') = 1 AND upper_bound - lower_bound = '7 days') AS weeks
  FROM softaudit.partition_bounds((SELECT log_group FROM softaudit.registry WHERE relation = 'b'::regclass));
-- named ones: who joins takes the group's intervals over, who changes them changes them for all
RESET client_min_messages;
SELECT softaudit.enable('b', log_group => 'slow', partition_by => '1 year', keep_log => NULL);
SELECT softaudit.enable('c', log_group => 'slow');
SELECT same_group('b', 'c');
SELECT t.skip();
SELECT softaudit.enable('c', keep_log => '20 years');
SELECT * FROM t.events() e ORDER BY e COLLATE "C";
SELECT table_name, partition_by = '1 year' AS yearly, keep_log = '20 years' AS kept FROM softaudit.registry WHERE group_name = 'slow' ORDER BY 1;
SELECT keep_log = '20 years' AS kept FROM softaudit.log_groups WHERE group_name = 'slow';
SELECT softaudit.reset('b', 'log_group');
SELECT same_group('b', 'c');
SET client_min_messages = warning;
SELECT group_name AS unnamed FROM softaudit.log_groups WHERE NOT is_named LIMIT 1 \gset
SELECT set_config('t.unnamed', :'unnamed', false) \g /dev/null
DO $$
BEGIN
    PERFORM softaudit.enable('s07.d', log_group => current_setting('t.unnamed'));
EXCEPTION WHEN invalid_parameter_value THEN
    RAISE INFO '%', replace(SQLERRM, current_setting('t.unnamed'), '<its name>');
END $$;
-- a table's history spans the groups that it was in
INSERT INTO d VALUES (1);
SELECT softaudit.enable('d', partition_by => '1 day');
UPDATE d SET id = id;
SELECT softaudit.enable('d', log_group => 's07_new');
DELETE FROM d;
SELECT operation FROM softaudit.history('d', 1);
SELECT count(DISTINCT l.log_group) FROM softaudit.log l JOIN softaudit.changes c USING (audit_id) WHERE schema_name = 's07' AND table_name = 'd';
SELECT operation FROM softaudit.changes WHERE schema_name = 's07' AND table_name = 'd' ORDER BY audit_id;
-- partitions of every length work
INSERT INTO b VALUES (1);
SELECT softaudit.enable('b', partition_by => step::interval) FROM (VALUES ('1 hour'), ('6 hours'), ('1 day'), ('10 days'), ('3 months'), ('1 year')) v (step);
UPDATE b SET id = 2;
SELECT operation, row_key FROM softaudit.history('b', 2);
CALL softaudit.maintain();
SELECT bool_and(rows = 0) AS defaults_are_empty FROM (
    SELECT g.group_id, (SELECT count(*) FROM softaudit.log l WHERE l.tableoid = ('softaudit.log_g' || g.group_id || '_default')::regclass) AS rows FROM softaudit.log_groups g) d;
SELECT t.skip();

\set ECHO none
DROP SCHEMA s07 CASCADE;
DROP OWNED BY regress_sau_reader, regress_sau_writer;
DROP ROLE regress_sau_reader, regress_sau_writer;
