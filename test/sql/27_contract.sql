-- What the contract says whatever a session has set, and ways round the log's guards.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
CREATE SCHEMA s27;
SET search_path = s27, public;
SELECT softaudit.assert_preload() \g /dev/null
SET client_min_messages = notice;
\set ECHO all

-- quote_all_identifiers = on, as some tools set it: each function works, and finds what it made without it
SET quote_all_identifiers = on;
CREATE TABLE q (id integer PRIMARY KEY, v text CONSTRAINT q_v_key UNIQUE, at timestamptz);
SELECT softaudit.enable('q');
SELECT softaudit.enable('q', redact => '{v}', purge_after => '1 day');
SELECT softaudit.reset('q', 'redact');
INSERT INTO q VALUES (1, 'a', now()), (2, 'b', now()), (3, 'c', now());
DELETE FROM q WHERE id < 3;
SELECT operation, row_key FROM softaudit.history('q', 1);
SELECT softaudit.restore('q', 2);
SELECT softaudit.live_unique('q', 'v'), softaudit.live_index('q', 'at'), softaudit.live_index('q', 'at');
SELECT softaudit.hold('q', 3, 'a suit');
SELECT softaudit.release('q', 3);
CALL softaudit.purge('q', '0');
SET client_min_messages = warning;
SELECT relation, rows_deleted, images_removed FROM softaudit.erase('q', 2, 'a request');
RESET client_min_messages;
SELECT softaudit.expire('q', 'at', '1 day');
SET client_min_messages = error;
CALL softaudit.maintain();
RESET client_min_messages;
SELECT table_name, images, purge_after, expire_column FROM softaudit.status WHERE relation = 's27.q'::regclass;
SELECT count(*) FROM softaudit.advise() WHERE object ~ '\yq\y';
ALTER TABLE q RENAME v TO w;
SELECT softaudit.unexpire('q');
SELECT operation, row_key FROM softaudit.history_of('s27', 'q', '1');
SELECT softaudit.disable('q');
RESET quote_all_identifiers;
SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'q'::regclass AND contype <> 'n' ORDER BY conname;
SELECT event, schema_name, relation, details ->> 'purge_after' AS purge_after FROM softaudit.events WHERE schema_name = 's27' ORDER BY event_id;

-- standard_conforming_strings = off, which 19 does not know any more: what has a backslash in it means the same
\set ECHO none
SELECT set_config('standard_conforming_strings', 'off', false) WHERE current_setting('server_version_num')::integer < 190000 \g /dev/null
\set ECHO all
CREATE TABLE w (id integer PRIMARY KEY, v text CONSTRAINT w_v_key UNIQUE, n integer);
CREATE UNIQUE INDEX w_n_key ON w (n) WHERE v <> 's' AND n > 0;
SELECT softaudit.enable('w', log_group => 's27', partition_by => '1 day');
INSERT INTO w VALUES (1, 'a', 1);
SELECT softaudit.live_unique('w', 'v'), softaudit.live_index('w', 'n'), softaudit.live_index('w', 'n');
SELECT count(*) > 0 AS bounds, count(*) FILTER (WHERE lower_bound IS NULL AND NOT is_default) AS unknown FROM softaudit.partition_bounds((SELECT log_group FROM softaudit.registry WHERE relation = 'w'::regclass));
SELECT softaudit.disable('w');
RESET standard_conforming_strings;
SELECT indexrelid::regclass, pg_get_expr(indpred, indrelid) FROM pg_index WHERE indrelid = 'w'::regclass ORDER BY indexrelid::regclass::text COLLATE "C";

-- no rows come into the log with a table that becomes a part of it, nor beside it
CREATE TABLE g (id integer PRIMARY KEY);
SELECT softaudit.enable('g', soft_delete => false);
INSERT INTO g VALUES (1);
CREATE TABLE forged (LIKE softaudit.log);
CREATE PROCEDURE into_log(command text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format(command, (SELECT 'softaudit.log_g' || log_group FROM softaudit.registry WHERE relation = 's27.g'::regclass));
END
$$;
CALL t.err($$CALL into_log('ALTER TABLE %s ATTACH PARTITION forged FOR VALUES FROM (''2001-01-01 UTC'') TO (''2001-02-01 UTC'')')$$);
CALL t.err($$CALL into_log('CREATE TABLE forged2 PARTITION OF %s FOR VALUES FROM (''2001-01-01 UTC'') TO (''2001-02-01 UTC'')')$$);
CREATE TABLE child (LIKE softaudit.events);
CALL t.err('ALTER TABLE child INHERIT softaudit.events');
CALL t.err('CREATE TABLE grandchild () INHERITS (softaudit.events)');
CALL t.err('CREATE TEMPORARY TABLE grandchild () INHERITS (softaudit.log_sessions)');

-- a key that history_of() cannot read: the error has a hint
CALL t.err($$SELECT * FROM softaudit.history_of('s27', 'g', 'one')$$);
