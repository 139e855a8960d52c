-- The life cycle as a user holds it: signatures, meaning and errors of purge, expire, erase, hold,
-- release, status and advise, for the owner of a table, for one who was granted, and for a stranger.
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

/* ---- signatures ---- */
SELECT is((SELECT pg_get_function_arguments(p.oid) FROM pg_proc p WHERE p.oid = f.sig::regprocedure), f.args, f.sig || ' has the arguments that are documented')
  FROM (VALUES ('softaudit.purge(regclass,interval,integer,boolean)', 'IN target regclass DEFAULT NULL::regclass, IN older_than interval DEFAULT NULL::interval, IN batch integer DEFAULT 1000, IN dry_run boolean DEFAULT false'),
               ('softaudit.maintain()', ''),
               ('softaudit.expire(regclass,name,interval)', 'target regclass, column_name name, after interval'),
               ('softaudit.unexpire(regclass)', 'target regclass'),
               ('softaudit.hold(regclass,text)', 'target regclass, reason text'),
               ('softaudit.hold(regclass,text,text)', 'target regclass, key text, reason text'),
               ('softaudit.hold(regclass,anyelement,text)', 'target regclass, key anyelement, reason text'),
               ('softaudit.release(regclass)', 'target regclass'),
               ('softaudit.release(regclass,text)', 'target regclass, key text'),
               ('softaudit.release(regclass,anyelement)', 'target regclass, key anyelement')) f (sig, args);
SELECT is((SELECT pg_get_function_arguments(p.oid) FROM pg_proc p WHERE p.oid = format('softaudit.erase(regclass,%s,text,boolean)', k)::regprocedure),
          format('target regclass, key %s, reason text, dry_run boolean DEFAULT false', k), 'erase() by ' || k || ' has its arguments')
  FROM unnest('{text,anyelement}'::text[]) k;
SELECT is((SELECT pg_get_function_result(p.oid) FROM pg_proc p WHERE p.oid = format('softaudit.erase(regclass,%s,text,boolean)', k)::regprocedure),
          'TABLE(relation regclass, rows_deleted bigint, images_removed bigint)', 'and its columns')
  FROM unnest('{text,anyelement}'::text[]) k;
SELECT is((SELECT prokind FROM pg_proc WHERE oid = p::regproc), 'p', p || ' is a procedure') FROM unnest('{softaudit.purge,softaudit.maintain}'::text[]) p;
SELECT has_view('softaudit', 'status', 'status is a view');
SELECT columns_are('softaudit', 'status', string_to_array(
    'relation schema_name table_name soft_delete audit deleted_at images partition_by keep_log purge_after expire_column expire_after held held_rows '
    'live_rows deleted_rows oldest_deleted log_bytes log_partitions last_purge next_purge last_maintain maintain_lag unprotected_sessions warnings', ' ')::name[],
    'status has these columns');
SELECT col_type_is('softaudit', 'status', c, t, format('status.%s is %s', c, t))
  FROM (VALUES ('relation', 'regclass'), ('schema_name', 'name'), ('table_name', 'name'), ('soft_delete', 'boolean'), ('audit', 'boolean'), ('deleted_at', 'name'),
        ('images', 'text'), ('partition_by', 'interval'), ('keep_log', 'interval'), ('purge_after', 'interval'), ('expire_column', 'name'), ('expire_after', 'interval'),
        ('held', 'boolean'), ('held_rows', 'bigint'), ('live_rows', 'bigint'), ('deleted_rows', 'bigint'), ('oldest_deleted', 'timestamp with time zone'),
        ('log_bytes', 'bigint'), ('log_partitions', 'integer'), ('last_purge', 'timestamp with time zone'), ('next_purge', 'timestamp with time zone'),
        ('last_maintain', 'timestamp with time zone'), ('maintain_lag', 'interval'), ('unprotected_sessions', 'integer[]'), ('warnings', 'text[]')) v (c, t);
SELECT ok((SELECT proretset FROM pg_proc WHERE oid = 'softaudit.advise()'::regprocedure), 'advise() is a set');
SELECT ok((SELECT proargnames FROM pg_proc WHERE oid = 'softaudit.advise()'::regprocedure) @> '{severity,object,advice,sql}', 'with its columns');

/* ---- three kinds of users ---- */
CREATE ROLE tap_owner;
CREATE ROLE tap_granted;
CREATE ROLE tap_stranger;
GRANT CREATE ON SCHEMA public TO tap_owner;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO PUBLIC;
GRANT EXECUTE ON FUNCTION softaudit.erase(regclass, text, text, boolean), softaudit.erase(regclass, anyelement, text, boolean), softaudit.hold(regclass, text),
    softaudit.hold(regclass, text, text), softaudit.hold(regclass, anyelement, text), softaudit.release(regclass), softaudit.release(regclass, text),
    softaudit.release(regclass, anyelement), softaudit.advise() TO tap_granted;
GRANT EXECUTE ON PROCEDURE softaudit.maintain() TO tap_granted;
GRANT SELECT ON softaudit.status TO tap_granted;
SELECT is_empty(format('SELECT FROM pg_proc p WHERE pronamespace = ''softaudit''::regnamespace AND proname = %L AND has_function_privilege(''tap_stranger'', p.oid, ''EXECUTE'')', f),
                f || '() is at first for the extension''s owner alone') FROM unnest('{erase,hold,release,maintain,advise}'::text[]) f;

SET LOCAL ROLE tap_owner;
CREATE TABLE tap_people (id integer PRIMARY KEY, name text);
CREATE TABLE tap_things (owner integer REFERENCES tap_people ON DELETE CASCADE, n integer, v text, PRIMARY KEY (owner, n));
CREATE TABLE tap_ids (id uuid PRIMARY KEY, v text);
CREATE TABLE tap_codes (id integer PRIMARY KEY, made timestamptz, v text);
CREATE INDEX ON tap_things (owner);
SELECT softaudit.enable('tap_people', purge_after => '30 days');
SELECT softaudit.enable('tap_things', purge_after => '30 days');
SELECT softaudit.enable('tap_ids', soft_delete => false);
INSERT INTO tap_people VALUES (1, 'one'), (2, 'two'), (3, 'three');
INSERT INTO tap_things VALUES (1, 1, 'a'), (1, 2, 'b'), (2, 1, 'c');
INSERT INTO tap_ids VALUES ('c0ffee00-0000-0000-0000-000000000001', 'x'), ('c0ffee00-0000-0000-0000-000000000002', 'y');

/* ---- purge ---- */
SELECT throws_ok('CALL softaudit.purge(''tap_people'')', '25001', NULL, 'purge() is refused in an open transaction');
SELECT throws_ok('CALL softaudit.purge()', '25001', NULL, 'without a table, too');

/* ---- expire ---- */
SELECT lives_ok('SELECT softaudit.expire(target => ''tap_codes'', column_name => ''made'', after => ''15 minutes'')', 'the owner lets rows expire');
SELECT lives_ok('SELECT softaudit.expire(''tap_codes'', ''made'', ''20 minutes'')', 'and changes it');
SELECT throws_ok('SELECT softaudit.expire(''tap_codes'', ''nope'', ''1 day'')', '42703', NULL, 'not by a column that is not there');
SELECT throws_ok('SELECT softaudit.expire(''tap_codes'', ''v'', ''1 day'')', '42804', NULL, 'nor by one that holds no time');
SELECT throws_ok('SELECT softaudit.expire(''tap_codes'', ''made'', NULL)', '22004', NULL, 'nor after NULL');
SELECT lives_ok('SELECT softaudit.unexpire(''tap_codes'')', 'unexpire() ends it');

/* the owner has no right to these by owning the table */
SELECT throws_ok(c, '42501', NULL, 'the owner was not granted ' || c) FROM unnest(ARRAY[
    'SELECT softaudit.erase(''tap_people'', 1, ''r'')', 'SELECT softaudit.hold(''tap_people'', ''r'')', 'SELECT softaudit.release(''tap_people'')', 'SELECT * FROM softaudit.advise()']) c;
SELECT throws_ok('CALL softaudit.maintain()', '42501', NULL, 'the owner was not granted maintain()');

/* ---- a stranger ---- */
SET LOCAL ROLE tap_stranger;
SELECT throws_ok(c, '42501', NULL, 'a stranger may not: ' || c) FROM unnest(ARRAY[
    'SELECT softaudit.expire(''tap_codes'', ''made'', ''1 day'')', 'SELECT softaudit.unexpire(''tap_codes'')',
    'SELECT softaudit.erase(''tap_people'', 1, ''r'')', 'SELECT softaudit.erase(''tap_people'', ''1''::text, ''r'')',
    'SELECT softaudit.hold(''tap_people'', ''r'')', 'SELECT softaudit.hold(''tap_people'', 1, ''r'')', 'SELECT softaudit.hold(''tap_people'', ''1''::text, ''r'')',
    'SELECT softaudit.release(''tap_people'')', 'SELECT softaudit.release(''tap_people'', 1)', 'SELECT softaudit.release(''tap_people'', ''1''::text)',
    'SELECT * FROM softaudit.advise()', 'SELECT * FROM softaudit.events', 'CALL softaudit.maintain()']) c;

/* ---- holds ---- */
SET LOCAL ROLE tap_granted;
SELECT lives_ok('SELECT softaudit.hold(''tap_people'', 1, ''case 1'')', 'a row is held, by a value');
SELECT lives_ok('SELECT softaudit.hold(''tap_people'', ''2''::text, ''case 2'')', 'by text');
SELECT lives_ok('SELECT softaudit.hold(''tap_things'', ''{"owner": 2, "n": 1}''::jsonb, ''case 3'')', 'by a composite key as jsonb');
SELECT lives_ok('SELECT softaudit.hold(''tap_ids'', ''c0ffee00-0000-0000-0000-000000000001''::uuid, ''case 4'')', 'by a uuid');
SELECT lives_ok('SELECT softaudit.hold(''tap_codes'', ''case 5'')', 'a whole table is held');
SELECT throws_ok('SELECT softaudit.hold(''tap_people'', NULL::integer, ''r'')', '22004', NULL, 'a NULL key is an error');
SELECT throws_ok('SELECT softaudit.hold(''tap_people'', NULL::text, ''r'')', '22004', NULL, 'as text, too');
SELECT throws_ok('SELECT softaudit.hold(''tap_people'', ''one''::text, ''r'')', '22P02', NULL, 'text is read by the column''s input function');
SELECT throws_ok('SELECT softaudit.hold(''tap_things'', ''{"owner": 2}''::text, ''r'')', '22023', NULL, 'a composite key names every column');
SELECT throws_ok('SELECT softaudit.erase(''tap_people'', 1, ''r'')', '55000', NULL, 'erase() is refused under a hold');
SELECT throws_ok('SELECT softaudit.erase(''tap_people'', NULL::integer, ''r'')', '22004', NULL, 'erase() refuses a NULL key');
SELECT throws_ok('SELECT softaudit.erase(''tap_people'', 1, NULL)', '22004', NULL, 'erase() wants a reason');
SELECT lives_ok('SELECT softaudit.release(''tap_people'', 1)', 'released by a value');
SELECT lives_ok('SELECT softaudit.release(''tap_people'', ''2'')', 'by an untyped literal');
SELECT lives_ok('SELECT softaudit.release(''tap_things'', ''{"n": 1, "owner": 2}''::text)', 'by a composite key as text');
SELECT lives_ok('SELECT softaudit.release(''tap_codes'')', 'a table is released');
SELECT lives_ok('SELECT softaudit.release(''tap_ids'', ''c0ffee00-0000-0000-0000-000000000001'')', 'a uuid as text');

/* ---- erase ---- */
SELECT results_eq('SELECT relation::text COLLATE "default", rows_deleted FROM softaudit.erase(''tap_people'', 1, ''request 7'', dry_run => true) ORDER BY 1', 'VALUES (''tap_people'', 1::bigint), (''tap_things'', 2)',
                  'dry_run lists what hangs on the row');
RESET ROLE;
SELECT results_eq('SELECT count(*) FROM softaudit.with_deleted(NULL::tap_people)', 'VALUES (3::bigint)', 'and removes nothing');
SET LOCAL ROLE tap_granted;
SELECT results_eq('SELECT relation::text COLLATE "default", rows_deleted, images_removed > 0 FROM softaudit.erase(''tap_people'', 1, ''request 7'') ORDER BY 1', 'VALUES (''tap_people'', 1::bigint, true), (''tap_things'', 2, true)',
                  'erase() says what went');
SELECT isnt_empty('SELECT * FROM softaudit.erase(''tap_ids'', ''c0ffee00-0000-0000-0000-000000000001''::uuid, ''r'')', 'by a uuid');
SELECT isnt_empty('SELECT * FROM softaudit.erase(''tap_things'', ''{"owner": 2, "n": 1}'', ''r'')', 'by a composite key');
RESET ROLE;
SELECT results_eq('SELECT id FROM softaudit.with_deleted(NULL::tap_people) ORDER BY id', 'VALUES (2), (3)', 'the row is gone');
SELECT is_empty('SELECT FROM softaudit.changes WHERE table_name = ''tap_people'' AND (old_data ->> ''name'' = ''one'' OR new_data ->> ''name'' = ''one'')', 'no image has it');
SELECT results_eq('SELECT reason FROM softaudit.events WHERE event = ''ERASE'' AND relation = ''tap_people''', 'VALUES (''request 7'')', 'the erasure is an event, with its reason');
SELECT isnt_empty('SELECT FROM softaudit.changes WHERE table_name = ''tap_people'' AND operation = ''ERASE''', 'and a row of the log');
SELECT results_eq('SELECT event, count(*) FROM softaudit.events WHERE event IN (''HOLD'', ''RELEASE'') GROUP BY event ORDER BY event', 'VALUES (''HOLD'', 5::bigint), (''RELEASE'', 5)', 'each hold and release is an event');

/* ---- status, advise ---- */
SET LOCAL ROLE tap_granted;
SELECT isnt_empty('SELECT * FROM softaudit.status', 'who was granted reads the status');
SELECT lives_ok('SELECT severity, object, advice, sql FROM softaudit.advise()', 'and the advice');
SELECT throws_ok('CALL softaudit.maintain()', '25001', NULL, 'maintain() is refused in a transaction');
RESET ROLE;

SELECT * FROM finish();
ROLLBACK;
