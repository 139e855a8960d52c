-- Soft delete: DELETE marks a row, in every form, and says what a DELETE says.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_sau_deleter;
CREATE ROLE regress_sau_deleter;
CREATE SCHEMA s10;
GRANT USAGE ON SCHEMA s10 TO regress_sau_deleter;
SET search_path = s10, public;
CREATE TABLE users (id integer PRIMARY KEY, email text, org integer);
INSERT INTO users SELECT g, 'u' || g, g % 3 FROM generate_series(1, 20) g;
\set QUIET off
\set ECHO all

-- enable: a column and a marker, each told
SELECT softaudit.marker_column('users');
SET client_min_messages = notice;
DO $$
DECLARE
    preloads boolean := softaudit.database_preload() IS NOT NULL;
BEGIN
    -- whether this database loads the library already depends on what ran before
    IF NOT preloads THEN
        SET LOCAL client_min_messages = error;
        PERFORM softaudit.assert_preload();
    END IF;
END $$;
SELECT softaudit.enable('users');
SELECT softaudit.marker_column('users'), softaudit.is_active();
SELECT 'softaudit' = ANY (softaudit.preloaded(softaudit.database_preload())) AS new_sessions_load_it;
SELECT softaudit.enable('users');
SELECT soft_delete, audit, deleted_at, keep_unique, purge_after, live_unique FROM softaudit.registry WHERE relation = 'users'::regclass;

-- DELETE: the tag, the count and the rows returned are those of a DELETE
DELETE FROM users WHERE id IN (1, 2) RETURNING id, email, deleted_at, upper(email), (SELECT users.deleted_at);
BEGIN;
DELETE FROM users x WHERE id = 17 RETURNING x, to_jsonb(x) -> 'deleted_at' AS as_json, (SELECT x), x.*;
ROLLBACK;
DELETE FROM users WHERE id = 1;
SELECT count(*) FROM users;
SELECT id, deleted_at IS NOT NULL AS marked FROM softaudit.with_deleted(NULL::users) WHERE id < 4 ORDER BY id;
DELETE FROM users u USING (VALUES (3), (4)) v (id) WHERE u.id = v.id;
WITH gone AS (DELETE FROM users WHERE id = 5 RETURNING *) SELECT id, deleted_at FROM gone;
DO $$
DECLARE
    n integer;
BEGIN
    DELETE FROM users WHERE id = 6;
    GET DIAGNOSTICS n = ROW_COUNT;
    RAISE INFO 'row_count %, found %', n, FOUND;
    DELETE FROM users WHERE id = 6;
    RAISE INFO 'found %', FOUND;
END $$;
BEGIN;
DECLARE c CURSOR FOR SELECT id FROM users WHERE id = 7 FOR UPDATE;
FETCH c;
DELETE FROM users WHERE CURRENT OF c;
FETCH c;
COMMIT;
CREATE VIEW some_users AS SELECT id, email FROM users WHERE id < 100;
DELETE FROM some_users WHERE id = 8;
CREATE RULE gone AS ON DELETE TO some_users DO INSTEAD DELETE FROM users WHERE id = OLD.id;
DELETE FROM some_users WHERE id = 9;
MERGE INTO users u USING (VALUES (10), (1), (100)) v (id) ON u.id = v.id
 WHEN MATCHED THEN DELETE WHEN NOT MATCHED AND v.id = 100 THEN INSERT VALUES (v.id, 'merged', 0);
SELECT id FROM users ORDER BY id;

-- DELETE: one statement has one stamp, two statements never the same
SELECT count(DISTINCT deleted_at) AS stamps, count(*) FROM softaudit.only_deleted(NULL::users);
BEGIN;
DELETE FROM users WHERE id = 11;
DELETE FROM users WHERE id = 12;
SELECT count(DISTINCT deleted_at) FROM softaudit.only_deleted(NULL::users) WHERE id IN (11, 12);
ROLLBACK;

-- the log: a deletion and a restore have names of their own
SELECT t.skip();
DELETE FROM users WHERE id = 13;
SELECT softaudit.act_as('support');
UPDATE users SET deleted_at = NULL WHERE id = 13;
UPDATE users SET email = 'thirteen' WHERE id = 13;
UPDATE users SET deleted_at = now() WHERE id = 13;
SELECT operation, old_data -> 'deleted_at' = 'null' AS was_live, new_data -> 'deleted_at' = 'null' AS is_live FROM softaudit.history('users', 13);

-- UPDATE and MERGE: deleted rows are out of reach, but for the UPDATE that restores
UPDATE users SET email = 'x' WHERE id = 1;
UPDATE users SET deleted_at = clock_timestamp() WHERE id = 1;
PREPARE mark (timestamptz) AS UPDATE users SET deleted_at = $1 WHERE id = 1;
SELECT deleted_at AS before FROM softaudit.only_deleted(NULL::users) WHERE id = 1 \gset
EXECUTE mark(clock_timestamp());
SELECT deleted_at = :'before' AS unchanged FROM softaudit.only_deleted(NULL::users) WHERE id = 1;
EXECUTE mark(NULL);
SELECT id, deleted_at FROM users WHERE id = 1;
EXECUTE mark('2024-01-01');
SET plan_cache_mode = force_generic_plan;
EXECUTE mark('2025-01-01');
SELECT deleted_at = '2024-01-01' AS unchanged FROM softaudit.only_deleted(NULL::users) WHERE id = 1;
EXECUTE mark(NULL);
EXECUTE mark('2024-01-01');
RESET plan_cache_mode;
MERGE INTO users u USING (VALUES (1)) v (id) ON u.id = v.id WHEN MATCHED THEN UPDATE SET email = 'merged' WHEN NOT MATCHED THEN DO NOTHING;
-- a DELETE keeps the first stamp whatever it mentions
DELETE FROM users WHERE deleted_at < now();

-- privileges: DELETE is what it needs
GRANT SELECT, DELETE ON users TO regress_sau_deleter;
SET ROLE regress_sau_deleter;
DELETE FROM users WHERE id = 14;
CALL t.err('UPDATE s10.users SET deleted_at = now() WHERE id = 15');
CALL t.err('SET softaudit.hard_delete = on');
RESET ROLE;
REVOKE DELETE ON users FROM regress_sau_deleter;
SET ROLE regress_sau_deleter;
CALL t.err('DELETE FROM s10.users WHERE id = 15');
RESET ROLE;

-- TRUNCATE and hard deletion
CALL t.err('TRUNCATE users');
SET softaudit.hard_delete = on;
DELETE FROM users WHERE id = 15;
-- it reaches what a query sees
DELETE FROM users WHERE id = 1;
DELETE FROM users WHERE id = 1 AND deleted_at IS NOT NULL;
RESET softaudit.hard_delete;
SELECT count(*) FROM softaudit.with_deleted(NULL::users) WHERE id IN (1, 15);

-- INSERT ... ON CONFLICT: a deleted row that a full index finds is not changed behind the curtain
CALL t.err('INSERT INTO users VALUES (2, ''again'', 1) ON CONFLICT (id) DO UPDATE SET email = excluded.email');
INSERT INTO users VALUES (2, 'again', 1) ON CONFLICT (id) DO NOTHING;
INSERT INTO users VALUES (2, 'again', 1) ON CONFLICT (id) DO UPDATE SET email = excluded.email, deleted_at = NULL RETURNING id, email, deleted_at;
INSERT INTO users VALUES (2, 'live', 1) ON CONFLICT (id) DO UPDATE SET email = excluded.email RETURNING id, email;
CREATE UNIQUE INDEX users_email_live ON users (email) WHERE deleted_at IS NULL;
DELETE FROM users WHERE email = 'live';
INSERT INTO users VALUES (200, 'live', 1) ON CONFLICT (email) DO UPDATE SET org = 9 RETURNING id, org;
INSERT INTO users VALUES (201, 'live', 1) ON CONFLICT (email) DO UPDATE SET org = 9 RETURNING id, org;

-- columns: of type timestamp, oddly named, and those that will not do
CREATE TABLE odd ("Id" integer PRIMARY KEY, "gone At" timestamp, shop integer GENERATED ALWAYS AS (CASE WHEN "gone At" IS NULL THEN 1 ELSE 0 END) STORED);
SELECT softaudit.enable('odd', deleted_at => 'gone At', audit => false);
INSERT INTO odd VALUES (1), (2);
DELETE FROM odd WHERE "Id" = 1;
SELECT * FROM odd;
SELECT "Id", shop, abs(extract(epoch FROM "gone At" - clock_timestamp() AT TIME ZONE 'UTC')) < 60 AS in_utc FROM softaudit.only_deleted(NULL::odd);
ALTER TABLE odd RENAME "gone At" TO "Weg";
DELETE FROM odd WHERE "Id" = 2;
SELECT count(*) FROM odd;
SELECT softaudit.enable('odd');
CALL t.err('SELECT softaudit.enable(''odd'', deleted_at => ''other'')');
CREATE TABLE bad (id integer, a date, b timestamptz(3), c timestamptz NOT NULL, d timestamptz DEFAULT now());
CALL t.err('SELECT softaudit.enable(''bad'', deleted_at => ''a'')');
CALL t.err('SELECT softaudit.enable(''bad'', deleted_at => ''b'')');
CALL t.err('SELECT softaudit.enable(''bad'', deleted_at => ''c'')');
CALL t.err('SELECT softaudit.enable(''bad'', deleted_at => ''d'')');
CALL t.err('SELECT softaudit.enable(''bad'', deleted_at => ''ctid'')');
CALL t.err('SELECT softaudit.enable(''bad'', purge_after => ''-1 day'')');
CALL t.err('SELECT softaudit.enable(''bad'', soft_delete => false, audit => false)');

-- warnings: what soft deletion leaves open
CREATE TABLE parents (id integer PRIMARY KEY);
CREATE TABLE children (id integer PRIMARY KEY, parent integer REFERENCES parents ON DELETE CASCADE);
CREATE FUNCTION noop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END';
CREATE TRIGGER on_delete AFTER DELETE ON children FOR EACH ROW EXECUTE FUNCTION noop();
SELECT softaudit.enable('children', audit => false);
SELECT softaudit.disable('children');
SELECT softaudit.enable('parents', audit => false);

-- disable: refused while deleted rows would reappear
CALL t.err('SELECT softaudit.disable(''users'')');
SELECT softaudit.disable('users', soft_delete => false);
SELECT count(*) FROM users;
CALL t.err('SELECT softaudit.enable(''users'', soft_delete => false, audit => true)');
SELECT softaudit.disable('users', force => true);
SELECT count(*) FROM users;
SELECT tgname FROM pg_trigger WHERE tgrelid = 'users'::regclass;
DELETE FROM users WHERE id = 16;
SELECT count(*) FROM users WHERE id = 16;
SELECT softaudit.enable('users');
SELECT count(*) > 5 AS live, bool_and(deleted_at IS NULL) AS all_live FROM users;

\set ECHO none
\set QUIET on
SET client_min_messages = error;
DROP SCHEMA s10 CASCADE;
DROP OWNED BY regress_sau_deleter;
DROP ROLE regress_sau_deleter;
