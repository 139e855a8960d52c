-- The API as a user holds it: names, arguments, columns, privileges, and one story from
-- enable() to a dropped table.  For pg_prove; leaves nothing behind.
\unset ECHO
\set QUIET on
\pset format unaligned
\pset tuples_only on
\pset pager off
\set ON_ERROR_ROLLBACK on
\set ON_ERROR_STOP on

BEGIN;
SET LOCAL client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS softaudit;
SET LOCAL search_path = public;

SELECT no_plan();

/* ---- what is there ---- */
SELECT has_extension('softaudit');
SELECT has_schema('softaudit');
SELECT has_function('softaudit', 'enable', ARRAY['regclass', 'boolean', 'boolean', 'name', 'text', 'name[]', 'name[]', 'name[]', 'interval', 'interval',
                                                 'name', 'boolean', 'name[]', 'interval', 'boolean', 'boolean']);
SELECT is((SELECT proargnames[1:15] FROM pg_proc WHERE oid = 'softaudit.enable'::regproc),
          '{target,soft_delete,audit,deleted_at,images,exclude,redact,ignore,partition_by,keep_log,log_group,replicated,keep_unique,purge_after,live_unique}'::text[],
          'enable() has the arguments that are documented, by name and in order');
SELECT is((SELECT pronargdefaults FROM pg_proc WHERE oid = 'softaudit.enable'::regproc)::integer, 15, 'all but the table may be left out of enable()');
SELECT has_function('softaudit', 'expire', ARRAY['regclass', 'name', 'interval']);
SELECT has_function('softaudit', 'unexpire', ARRAY['regclass']);
SELECT has_function('softaudit', 'erase', ARRAY['regclass', k, 'text', 'boolean']) FROM unnest('{text,anyelement}'::text[]) k;
SELECT has_function('softaudit', 'hold', ARRAY['regclass', 'text']);
SELECT has_function('softaudit', 'hold', ARRAY['regclass', k, 'text']) FROM unnest('{text,anyelement}'::text[]) k;
SELECT has_function('softaudit', 'release', ARRAY['regclass']);
SELECT has_function('softaudit', 'release', ARRAY['regclass', k]) FROM unnest('{text,anyelement}'::text[]) k;
SELECT has_function('softaudit', 'purge', ARRAY['regclass', 'interval', 'integer', 'boolean']);
SELECT is((SELECT proargnames FROM pg_proc WHERE oid = 'softaudit.purge'::regproc), '{target,older_than,batch,dry_run}'::text[], 'purge() has its arguments');
SELECT is((SELECT proargnames FROM pg_proc WHERE oid = 'softaudit.erase(regclass,text,text,boolean)'::regprocedure),
          '{target,key,reason,dry_run,relation,rows_deleted,images_removed}'::text[], 'erase() has its arguments and its columns');
SELECT has_function('softaudit', 'disable', ARRAY['regclass', 'boolean', 'boolean', 'boolean']);
SELECT is((SELECT proargnames FROM pg_proc WHERE oid = 'softaudit.disable'::regproc), '{target,soft_delete,audit,force}'::text[], 'disable() has its arguments');
SELECT has_function('softaudit', 'reset', ARRAY['regclass', 'name']);
SELECT has_function('softaudit', 'history', ARRAY['regclass', 'text']);
SELECT has_function('softaudit', 'history', ARRAY['regclass', 'anyelement']);
SELECT has_function('softaudit', 'history_of', ARRAY['name', 'name', 'text']);
SELECT has_function('softaudit', 'act_as', ARRAY['text']);
SELECT has_function('softaudit', 'is_active', ARRAY[]::text[]);
SELECT function_returns('softaudit', 'is_active', ARRAY[]::text[], 'boolean');
SELECT is((SELECT prokind FROM pg_proc WHERE oid = 'softaudit.maintain'::regproc), 'p', 'maintain() is a procedure');

/* ---- a table is enabled ---- */
CREATE TABLE tap_users (id integer PRIMARY KEY, email text, password text, last_seen timestamptz, balance numeric);
SELECT throws_ok('SELECT softaudit.history(''tap_users'', ''1'')', '55000', NULL, 'a table that is not audited has no history');
SELECT throws_ok('SELECT softaudit.enable(NULL)', '22004', NULL, 'enable() wants a table');
SELECT throws_ok('SELECT softaudit.enable(''pg_class'')', '42501', NULL, 'enable() refuses a system catalog');
SELECT throws_ok('SELECT softaudit.enable(''tap_users'', soft_delete => false, images => ''few'')', '22023', NULL, 'enable() refuses a value that is none');
SELECT lives_ok('SELECT softaudit.enable(''tap_users'', soft_delete => false, exclude => ''{password}'', ignore => ''{last_seen}'')', 'enable() for the audit alone');
SELECT lives_ok('SELECT softaudit.enable(''tap_users'')', 'enable() again is no error');
SELECT isnt_empty('SELECT FROM pg_trigger WHERE tgrelid = ''tap_users''::regclass', 'the table has triggers of ours');

/* ---- what came with it ---- */
SELECT has_relation('softaudit', r, 'softaudit.' || r || ' is there') FROM unnest('{log,changes,events,registry,log_groups,log_sessions}'::name[]) r;
SELECT is_partitioned('softaudit', 'log', 'the log is partitioned');
SELECT has_view('softaudit', 'changes', 'changes is a view');
SELECT col_type_is('softaudit', 'log', c, 'pg_catalog', t, format('log.%s is %s', c, t))
  FROM (VALUES ('audit_id'::name, 'bigint'), ('changed_at', 'timestamp with time zone'), ('xid', 'xid8'), ('operation', 'text'), ('changed_by', 'text'),
               ('old_data', 'jsonb'), ('new_data', 'jsonb')) v (c, t);
SELECT has_column('softaudit', 'changes', c, 'changes has ' || c)
  FROM unnest('{audit_id,changed_at,xid,operation,changed_by,old_data,new_data,schema_name,table_name,row_key,changed_columns,session_user_name,application_name,client_addr,context}'::name[]) c;
SELECT has_column('softaudit', 'events', c, 'events has ' || c)
  FROM unnest('{event_id,happened_at,event,relation,actor,session_user_name,reason,details}'::name[]) c;
SELECT col_type_is('softaudit', 'changes', 'row_key', 'jsonb', 'changes.row_key is jsonb');
SELECT col_type_is('softaudit', 'changes', 'changed_columns', 'text[]', 'changes.changed_columns is text[]');

/* ---- rows are written, by somebody ---- */
SELECT softaudit.act_as('alice');
SET LOCAL application_name = 'pgtap';
SET LOCAL softaudit.context = '{"request": 7}';
INSERT INTO tap_users VALUES (1, 'a@example.org', 'secret', NULL, 10.50);
UPDATE tap_users SET email = 'b@example.org' WHERE id = 1;
UPDATE tap_users SET last_seen = now() WHERE id = 1;
SELECT softaudit.act_as('');
DELETE FROM tap_users WHERE id = 1;
SELECT results_eq('SELECT operation, old_data ->> ''email'', new_data ->> ''email'' FROM softaudit.history(''tap_users'', 1)',
                  'VALUES (''INSERT'', NULL, ''a@example.org''), (''UPDATE'', ''a@example.org'', ''b@example.org''), (''DELETE'', ''b@example.org'', NULL)',
                  'history() tells the row''s life, oldest first, without the UPDATE of an ignored column');
SELECT results_eq('SELECT changed_by, context FROM softaudit.history(''tap_users'', ''1'')',
                  'VALUES (''alice'', ''{"request": 7}''::jsonb), (''alice'', ''{"request": 7}''), (session_user::text COLLATE "default", ''{"request": 7}'')',
                  'changed_by is who act_as() said, else the session user; the context is with it');
SELECT results_eq('SELECT DISTINCT session_user_name, application_name FROM softaudit.history(''tap_users'', 1::bigint)',
                  'VALUES (session_user::text COLLATE "default", ''pgtap'')', 'session user and application are the server''s word');
SELECT is_empty('SELECT FROM softaudit.history(''tap_users'', 1) WHERE old_data ? ''password'' OR new_data ? ''password''', 'an excluded column is in no image');
SELECT results_eq('SELECT changed_columns FROM softaudit.history(''tap_users'', 1) WHERE operation = ''UPDATE''', 'VALUES (''{email}''::text[])',
                  'changed_columns names what the UPDATE changed');
SELECT results_eq('SELECT row_key FROM softaudit.changes WHERE table_name = ''tap_users'' ORDER BY audit_id DESC LIMIT 1', 'VALUES (''{"id": 1}''::jsonb)',
                  'row_key names the key''s columns');
SELECT results_eq('SELECT count(*) FROM softaudit.history(''tap_users'', 1) h JOIN softaudit.changes c USING (audit_id, changed_at, xid, operation)', 'VALUES (3::bigint)',
                  'history() and changes show the same');
SELECT results_eq('SELECT DISTINCT changed_at = now(), xid = pg_current_xact_id() FROM softaudit.history(''tap_users'', 1)', 'VALUES (true, true)',
                  'changed_at is the start of the transaction, xid its id');
SELECT throws_ok('SELECT softaudit.history(''tap_users'', NULL)', '22004', NULL, 'history() refuses a NULL key');
SELECT throws_ok('SELECT softaudit.history(''tap_users'', ''one'')', '22P02', NULL, 'history() reads a key by its type''s input function');
TRUNCATE tap_users;
SELECT results_eq('SELECT operation FROM softaudit.changes WHERE table_name = ''tap_users'' ORDER BY audit_id DESC LIMIT 1', 'VALUES (''TRUNCATE'')', 'TRUNCATE is one row');

/* ---- settings ---- */
SELECT softaudit.enable('tap_users', images => 'changes');
INSERT INTO tap_users VALUES (2, 'c@example.org', 'secret', NULL, 1);
UPDATE tap_users SET balance = 2 WHERE id = 2;
SELECT results_eq('SELECT old_data, new_data FROM softaudit.history(''tap_users'', 2) WHERE operation = ''UPDATE''',
                  'VALUES (''{"id": 2, "balance": 1}''::jsonb, ''{"id": 2, "balance": 2}''::jsonb)', 'images => changes keeps the changed columns and the key');
SELECT softaudit.reset('tap_users', 'exclude');
UPDATE tap_users SET password = 'new' WHERE id = 2;
SELECT results_eq('SELECT new_data FROM softaudit.history(''tap_users'', 2) ORDER BY audit_id DESC LIMIT 1', 'VALUES (''{"id": 2, "password": "new"}''::jsonb)',
                  'reset() gives a setting its first value back, and the others stay');
SELECT results_eq('SELECT event FROM softaudit.events WHERE relation = ''tap_users'' ORDER BY event_id', 'VALUES (''ENABLE''), (''SETTINGS''), (''SETTINGS'')',
                  'each is an event');
SELECT throws_ok('SELECT softaudit.reset(''tap_users'', ''colour'')', '22023', NULL, 'reset() knows its settings');
SELECT throws_ok('SET softaudit.context = ''[]''', '22023', NULL, 'softaudit.context is a JSON object');
SELECT ok(softaudit.is_active(), 'the library is loaded');

/* ---- append-only ---- */
SELECT throws_ok(c, '55000', NULL, c) FROM unnest(ARRAY[
    'INSERT INTO softaudit.log SELECT * FROM softaudit.log', 'UPDATE softaudit.log SET changed_by = ''bob''', 'DELETE FROM softaudit.log', 'TRUNCATE softaudit.log',
    'INSERT INTO softaudit.events (event, actor) VALUES (''PURGE'', ''bob'')', 'UPDATE softaudit.events SET actor = ''bob''', 'DELETE FROM softaudit.events',
    'TRUNCATE softaudit.events', 'DROP TABLE softaudit.log CASCADE', 'DROP TABLE softaudit.events', 'DROP SCHEMA softaudit CASCADE',
    'ALTER TABLE softaudit.log DISABLE TRIGGER ALL', 'ALTER TABLE softaudit.log RENAME TO other', 'ALTER TABLE softaudit.log DROP COLUMN old_data CASCADE']) c;
SELECT throws_ok('CALL softaudit.maintain()', '25001', NULL, 'maintain() is refused inside of a transaction');

/* ---- privileges ---- */
CREATE ROLE tap_stranger;
CREATE ROLE tap_reader;
GRANT SELECT ON tap_users TO tap_reader;
SELECT schema_privs_are('softaudit', 'tap_stranger', ARRAY['USAGE'], 'everybody may look functions up, and no more');
SELECT table_privs_are('softaudit', r, 'tap_stranger', ARRAY[]::text[], 'nobody was granted anything on ' || r)
  FROM unnest('{log,changes,events,registry,log_groups,log_sessions,log_secret}'::name[]) r;
SELECT function_privs_are('softaudit', 'history_of', ARRAY['name', 'name', 'text'], 'tap_stranger', ARRAY[]::text[], 'history_of() is for readers of the log');
SELECT function_privs_are('softaudit', 'history', ARRAY['regclass', 'text'], 'tap_stranger', ARRAY['EXECUTE'], 'history() checks by itself');
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO tap_reader, tap_stranger;
SET LOCAL ROLE tap_reader;
SELECT isnt_empty('SELECT * FROM softaudit.history(''tap_users'', 2)', 'who may SELECT all columns sees the history');
SELECT throws_ok('SELECT softaudit.enable(''tap_users'', images => ''full'')', '42501', NULL, 'only the owner changes settings');
SELECT throws_ok('SELECT softaudit.disable(''tap_users'')', '42501', NULL, 'only the owner ends the audit');
SELECT throws_ok('SELECT * FROM softaudit.changes', '42501', NULL, 'the log is for those who were granted it');
SET LOCAL ROLE tap_stranger;
SELECT throws_ok('SELECT * FROM softaudit.history(''tap_users'', 2)', '42501', NULL, 'a stranger sees no history');
RESET ROLE;

/* ---- the end ---- */
SELECT softaudit.disable('tap_users');
UPDATE tap_users SET balance = 3 WHERE id = 2;
SELECT results_eq('SELECT max((new_data ->> ''balance'')::numeric) FROM softaudit.history(''tap_users'', 2)', 'VALUES (2::numeric)',
                  'after disable() nothing is captured, and the log is there');
SELECT is_empty('SELECT FROM pg_trigger WHERE tgrelid = ''tap_users''::regclass', 'no trigger of ours is left');
DROP TABLE tap_users;
SELECT results_eq('SELECT DISTINCT schema_name::text COLLATE "default", table_name::text COLLATE "default" FROM softaudit.history_of(''public'', ''tap_users'', ''2'')', 'VALUES (''public'', ''tap_users'')',
                  'history_of() knows a dropped table');
SELECT results_eq('SELECT event FROM softaudit.events WHERE relation = ''tap_users'' ORDER BY event_id DESC LIMIT 2', 'VALUES (''DROP''), (''DISABLE'')', 'both are events');

SELECT * FROM finish();
ROLLBACK;
