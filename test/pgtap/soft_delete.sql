-- Soft delete as a user holds it: signatures, settings, meaning and errors, for the owner of a
-- table, for one who was granted, and for a stranger.
\unset ECHO
\set QUIET on
\pset format unaligned
\pset tuples_only on
\pset pager off
\set ON_ERROR_ROLLBACK on
\set ON_ERROR_STOP on

BEGIN;
SET LOCAL client_min_messages = error;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS softaudit;
SET LOCAL search_path = public;
SELECT no_plan();

/* ---- signatures and settings ---- */
SELECT is((SELECT pg_get_function_arguments(p.oid) FROM pg_proc p WHERE p.oid = f.sig::regprocedure), f.args, f.sig || ' has the arguments that are documented')
  FROM (VALUES ('softaudit.restore(regclass,text)', 'target regclass, key text'),
               ('softaudit.restore(regclass,anyelement)', 'target regclass, key anyelement'),
               ('softaudit.live_unique(regclass,name[])', 'target regclass, VARIADIC columns name[]'),
               ('softaudit.live_index(regclass,name[])', 'target regclass, VARIADIC columns name[]'),
               ('softaudit.live_index_sql(regclass,boolean,name[])', 'target regclass, is_unique boolean, VARIADIC columns name[]')) f (sig, args);
SELECT function_returns('softaudit', 'restore', ARRAY['regclass', k], 'bigint') FROM unnest('{text,anyelement}'::text[]) k;
SELECT function_returns('softaudit', f, ARRAY['regclass', 'name[]'], 'name') FROM unnest('{live_unique,live_index}'::name[]) f;
SELECT function_returns('softaudit', 'live_index_sql', ARRAY['regclass', 'boolean', 'name[]'], 'text');
SELECT function_returns('softaudit', f, ARRAY['anyelement'], 'setof anyelement') FROM unnest('{with_deleted,only_deleted}'::name[]) f;
SELECT is(current_setting(s), v, s || ' is at first ' || quote_literal(v))
  FROM (VALUES ('softaudit.show_deleted', 'off'), ('softaudit.hard_delete', 'off'), ('softaudit.actor_setting', 'app.current_user'), ('softaudit.context', '')) x (s, v);
SELECT throws_ok('SET softaudit.show_deleted = perhaps', '22023', NULL, 'show_deleted has three values');

/* ---- three kinds of users ---- */
CREATE ROLE tap_owner;
CREATE ROLE tap_granted;
CREATE ROLE tap_stranger;
GRANT CREATE ON SCHEMA public TO tap_owner;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO PUBLIC;
SET LOCAL ROLE tap_owner;
CREATE TABLE tap_users (id integer PRIMARY KEY, email text UNIQUE);
CREATE TABLE tap_orders (id integer PRIMARY KEY, user_id integer REFERENCES tap_users ON DELETE CASCADE, line integer);
CREATE TABLE tap_bills (id integer PRIMARY KEY, user_id integer REFERENCES tap_users);
CREATE TABLE tap_lines (order_id integer, line integer, v text, PRIMARY KEY (order_id, line));
SELECT softaudit.enable(t) FROM unnest('{tap_users,tap_orders,tap_bills,tap_lines}'::regclass[]) t;
GRANT SELECT, INSERT, DELETE ON tap_users, tap_orders, tap_bills, tap_lines TO tap_granted;
SELECT col_type_is('public', 'tap_users', 'deleted_at', 'timestamp with time zone', 'the column was added');
INSERT INTO tap_users VALUES (1, 'a'), (2, 'b'), (3, 'c');
INSERT INTO tap_orders VALUES (1, 1, 1), (2, 1, 2);
INSERT INTO tap_bills VALUES (1, 2);
INSERT INTO tap_lines VALUES (7, 3, 'x'), (7, 4, 'y');

/* ---- DELETE, by one who has DELETE and not UPDATE ---- */
SET LOCAL ROLE tap_granted;
SELECT results_eq('DELETE FROM tap_users WHERE id = 1 RETURNING id, email', 'VALUES (1, ''a'')', 'RETURNING gives the row; the DELETE privilege is enough');
SELECT is_empty('SELECT FROM tap_users WHERE id = 1', 'a query does not see it');
SELECT is_empty('SELECT FROM tap_orders WHERE user_id = 1', 'nor what went along');
SELECT is_empty('DELETE FROM tap_users WHERE id = 1 RETURNING id', 'a second DELETE does not find it');
SELECT results_eq('SELECT id FROM tap_users WHERE deleted_at IS NOT NULL', 'VALUES (1)', 'who mentions the column says which rows he wants');
SELECT results_eq('SELECT id FROM softaudit.with_deleted(NULL::tap_users) ORDER BY id', 'VALUES (1), (2), (3)', 'with_deleted() has all');
SELECT results_eq('SELECT id FROM softaudit.only_deleted(NULL::tap_users)', 'VALUES (1)', 'only_deleted() the deleted ones');
SELECT results_eq('SELECT DISTINCT o.deleted_at = u.deleted_at FROM softaudit.only_deleted(NULL::tap_orders) o, softaudit.only_deleted(NULL::tap_users) u', 'VALUES (true)', 'one stamp for all of a deletion');
SET LOCAL softaudit.show_deleted = on;
SELECT results_eq('SELECT id FROM tap_users ORDER BY id', 'VALUES (1), (2), (3)', 'show_deleted = on');
SET LOCAL softaudit.show_deleted = 'only';
SELECT results_eq('SELECT id FROM tap_users ORDER BY id', 'VALUES (1)', 'show_deleted = only');
SET LOCAL softaudit.show_deleted = off;
SELECT throws_ok('DELETE FROM tap_users WHERE id = 2', '23503', NULL, 'NO ACTION: live rows refer to it');
SELECT throws_ok('INSERT INTO tap_orders VALUES (9, 1, 1)', '23503', NULL, 'a live row may not refer to a deleted one');
SELECT lives_ok('INSERT INTO tap_users VALUES (10, ''a'')', 'the unique value is free');
SELECT throws_ok('INSERT INTO tap_users VALUES (11, ''b'')', '23505', NULL, 'a live one is not');
SELECT lives_ok('INSERT INTO tap_users VALUES (12, ''a'') ON CONFLICT (email) DO NOTHING', 'ON CONFLICT finds the live-unique index');
SELECT throws_ok('SET softaudit.hard_delete = on', '42501', NULL, 'hard_delete is not for everybody');
SELECT throws_ok('SELECT softaudit.restore(''tap_users'', 1)', '42501', NULL, 'restore() needs what an UPDATE of the column needs');
SELECT throws_ok('SELECT softaudit.live_unique(''tap_users'', ''email'')', '42501', NULL, 'an index is the owner''s to make');
SELECT throws_ok('SELECT softaudit.enable(''tap_users'')', '42501', NULL, 'enable() is the owner''s');

/* ---- a stranger ---- */
SET LOCAL ROLE tap_stranger;
SELECT throws_ok(c, '42501', NULL, 'a stranger may not: ' || c) FROM unnest(ARRAY[
    'DELETE FROM tap_users', 'SELECT * FROM softaudit.with_deleted(NULL::tap_users)', 'SELECT * FROM softaudit.only_deleted(NULL::tap_users)',
    'SELECT softaudit.restore(''tap_users'', 1)', 'SELECT softaudit.restore(''tap_users'', ''1''::text)', 'SELECT softaudit.live_unique(''tap_users'', ''email'')',
    'SELECT softaudit.live_index(''tap_users'', ''email'')', 'SELECT softaudit.enable(''tap_users'')', 'SELECT softaudit.disable(''tap_users'')',
    'SELECT softaudit.reset(''tap_users'', ''images'')', 'SET softaudit.hard_delete = on']) c;

/* ---- restore, by the owner ---- */
SET LOCAL ROLE tap_owner;
SELECT throws_ok('SELECT softaudit.restore(''tap_users'', 1)', '23505', NULL, 'restore() refuses when a live row has the value');
SELECT throws_ok('SELECT softaudit.restore(''tap_orders'', 1)', '23503', NULL, 'and when the parent is deleted');
SELECT throws_ok('SELECT softaudit.restore(''tap_users'', NULL::integer)', '22004', NULL, 'a NULL key is an error');
SELECT throws_ok('SELECT softaudit.restore(''tap_users'', NULL::text)', '22004', NULL, 'as text, too');
SELECT throws_ok('SELECT softaudit.restore(''tap_users'', ''one''::text)', '22P02', NULL, 'text is read by the column''s input function');
DELETE FROM tap_users WHERE id = 10;
SELECT results_eq('SELECT softaudit.restore(''tap_users'', ''1'')', 'VALUES (3::bigint)', 'restore() by an untyped literal: the row, and what went along');
SELECT results_eq('SELECT id FROM tap_orders ORDER BY id', 'VALUES (1), (2)', 'they are back');
DELETE FROM tap_lines;
SELECT results_eq('SELECT softaudit.restore(''tap_lines'', ''{"line": 3, "order_id": 7}''::text)', 'VALUES (1::bigint)', 'a composite key as text');
SELECT results_eq('SELECT softaudit.restore(''tap_lines'', ''{"line": 4, "order_id": 7}''::jsonb)', 'VALUES (1::bigint)', 'as jsonb');
DELETE FROM tap_users WHERE id = 3;
SELECT results_eq('UPDATE tap_users SET deleted_at = NULL WHERE id = 3 RETURNING id', 'VALUES (3)', 'an UPDATE to NULL is a restore');
UPDATE tap_users SET deleted_at = now() WHERE id = 3;
SELECT is_empty('SELECT FROM tap_users WHERE id = 3', 'an UPDATE that sets it is a soft delete');
RESET ROLE;
SELECT results_eq('SELECT operation FROM softaudit.history(''tap_users'', 3)', 'VALUES (''INSERT''), (''SOFT_DELETE''), (''RESTORE''), (''SOFT_DELETE'')', 'the log tells them apart');
SET LOCAL ROLE tap_owner;

/* ---- indexes over live rows ---- */
SELECT ok(softaudit.live_unique('tap_lines', 'order_id', 'v') IS NOT NULL, 'live_unique() gives the index''s name');
SELECT ok(softaudit.live_index('tap_lines', 'v') IS NOT NULL, 'live_index() too');
SELECT ok(softaudit.live_index_sql('tap_lines', true, 'line', 'v') LIKE 'CREATE UNIQUE INDEX CONCURRENTLY %', 'live_index_sql() is for gexec');
SELECT ok(softaudit.live_index_sql('tap_lines', false, 'line') LIKE 'CREATE INDEX CONCURRENTLY %', 'a plain one, too');
SELECT throws_ok('SELECT softaudit.live_index(''tap_lines'', ''nope'')', '42703', NULL, 'not of a column that is not there');

/* ---- TRUNCATE, the column, the end ---- */
SELECT throws_ok('TRUNCATE tap_lines', '55000', NULL, 'TRUNCATE is refused');
SELECT throws_ok('ALTER TABLE tap_lines DROP COLUMN deleted_at', '2BP01', NULL, 'the column cannot be dropped');
DELETE FROM tap_lines WHERE line = 3;
SELECT throws_ok('SELECT softaudit.disable(''tap_lines'')', '55000', NULL, 'disable() refuses while deleted rows would reappear');
SELECT lives_ok('SELECT softaudit.disable(target => ''tap_lines'', soft_delete => true, audit => true, force => true)', 'unless forced');
SELECT results_eq('SELECT count(*) FROM tap_lines', 'VALUES (2::bigint)', 'they are back');
CREATE TABLE tap_low (id integer PRIMARY KEY, deleted_at timestamptz(3));
SELECT throws_ok('SELECT softaudit.enable(''tap_low'')', '42804', NULL, 'a lower precision of the stamp is refused');
CREATE TABLE tap_late (id integer PRIMARY KEY, gone timestamp);
SELECT lives_ok('SELECT softaudit.enable(''tap_late'', deleted_at => ''gone'')', 'a timestamp column of another name');
INSERT INTO tap_late VALUES (1);
DELETE FROM tap_late;
SELECT results_eq('SELECT abs(extract(epoch FROM gone - clock_timestamp() AT TIME ZONE ''UTC'')) < 60 FROM tap_late WHERE gone IS NOT NULL', 'VALUES (true)', 'it holds UTC');
RESET ROLE;
SET LOCAL softaudit.hard_delete = on;
DELETE FROM tap_users WHERE id = 10;
DELETE FROM tap_bills;
SELECT results_eq('SELECT count(*) FROM softaudit.with_deleted(NULL::tap_bills)', 'VALUES (0::bigint)', 'hard_delete: DELETE really deletes');

SELECT * FROM finish();
ROLLBACK;
