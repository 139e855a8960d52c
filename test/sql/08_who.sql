-- Who: the name that the application asserts, and the session's own facts.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_sau_login, regress_sau_other, regress_sau_owner;
CREATE ROLE regress_sau_login;
CREATE ROLE regress_sau_other;
CREATE ROLE regress_sau_owner;
GRANT regress_sau_other TO regress_sau_login;
CREATE SCHEMA s08;
GRANT USAGE ON SCHEMA s08 TO PUBLIC;
SET search_path = s08, public;
CREATE TABLE doc (id integer PRIMARY KEY, v text);
GRANT ALL ON doc TO PUBLIC;
ALTER TABLE doc OWNER TO regress_sau_owner;
SELECT softaudit.enable('doc', soft_delete => false);
-- who did what since it was last asked: id, changed_by, session user, application, context
CREATE FUNCTION who() RETURNS SETOF text LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    me name := (SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 's08');
    seen bigint := COALESCE(NULLIF(current_setting('t.seen', true), ''), '0')::bigint;
BEGIN
    RETURN QUERY
        SELECT concat_ws(' | ', COALESCE(c.new_data, c.old_data) ->> 'id', COALESCE(NULLIF(c.changed_by, me), '(superuser)'),
                         COALESCE(NULLIF(c.session_user_name, me), '(superuser)'), COALESCE(NULLIF(c.application_name, ''), '(none)'), c.context)
          FROM softaudit.changes c WHERE c.audit_id > seen ORDER BY c.audit_id;
    PERFORM set_config('t.seen', (SELECT max(audit_id) FROM softaudit.log)::text, false);
END $$;
SET application_name = 'app';
\set ECHO all

-- who: the session user, where nobody else is asserted
INSERT INTO doc VALUES (1, 'a');
SET SESSION AUTHORIZATION regress_sau_login;
SELECT softaudit.actor();
INSERT INTO doc VALUES (2, 'a');
-- a role that was taken is not who it was
SET ROLE regress_sau_other;
INSERT INTO doc VALUES (3, 'a');
SELECT softaudit.actor();
RESET ROLE;
RESET SESSION AUTHORIZATION;
SELECT who();
-- nor is the owner of a function
CREATE FUNCTION definer_insert(integer) RETURNS void LANGUAGE sql SECURITY DEFINER AS $$ INSERT INTO s08.doc VALUES ($1, 'a') $$;
ALTER FUNCTION definer_insert(integer) OWNER TO regress_sau_owner;
SET SESSION AUTHORIZATION regress_sau_login;
SELECT definer_insert(4);
BEGIN;
SELECT softaudit.act_as('alice');
SELECT definer_insert(5);
COMMIT;
RESET SESSION AUTHORIZATION;
SELECT who();

-- who: act_as(), to the end of the transaction
BEGIN;
SELECT softaudit.act_as('alice');
INSERT INTO doc VALUES (10, 'a');
SELECT softaudit.act_as('bob "the" builder''s é 𝄞');
INSERT INTO doc VALUES (11, 'a');
SELECT softaudit.act_as('');
INSERT INTO doc VALUES (12, 'a');
SELECT softaudit.act_as('carol');
SELECT softaudit.act_as(NULL);
INSERT INTO doc VALUES (13, 'a');
SELECT softaudit.act_as('dave');
SELECT softaudit.actor();
COMMIT;
INSERT INTO doc VALUES (14, 'a');
SELECT who();
-- outside of a transaction it lasts as long as its statement
SELECT softaudit.act_as('nobody');
INSERT INTO doc VALUES (15, 'a');
SELECT who();
-- in savepoints
BEGIN;
SELECT softaudit.act_as('outer');
SAVEPOINT a;
SELECT softaudit.act_as('inner');
INSERT INTO doc VALUES (16, 'a');
ROLLBACK TO a;
INSERT INTO doc VALUES (17, 'a');
SAVEPOINT b;
SELECT softaudit.act_as('released');
RELEASE b;
INSERT INTO doc VALUES (18, 'a');
COMMIT;
SELECT who();
-- from a function, for each of its statements
DO $$
BEGIN
    FOR i IN 20 .. 22 LOOP
        PERFORM softaudit.act_as('user ' || i);
        INSERT INTO s08.doc VALUES (i, 'a');
    END LOOP;
END
$$;
INSERT INTO doc VALUES (23, 'a');
SELECT who();

-- who: the setting itself, for a statement, a transaction, a session
SET LOCAL app."current_user" = 'nobody';
BEGIN;
SET LOCAL app."current_user" = 'alice';
INSERT INTO doc VALUES (30, 'a');
COMMIT;
INSERT INTO doc VALUES (31, 'a');
SET app."current_user" = 'bob';
INSERT INTO doc VALUES (32, 'a');
BEGIN;
SELECT set_config('app.current_user', 'carol', true);
INSERT INTO doc VALUES (33, 'a');
ROLLBACK;
INSERT INTO doc VALUES (34, 'a');
RESET app."current_user";
INSERT INTO doc VALUES (35, 'a');
SELECT who();
-- set without a query of its own
DO $$
DECLARE
    x text;
BEGIN
    FOR i IN 36 .. 37 LOOP
        x := set_config('app.current_user', 'user ' || i, true);
        INSERT INTO s08.doc VALUES (i, 'a');
    END LOOP;
END
$$;
SELECT who();

-- who: another setting
SET softaudit.actor_setting = 'my.app_user';
INSERT INTO doc VALUES (40, 'a');
SET my.app_user = 'erin';
INSERT INTO doc VALUES (41, 'a');
BEGIN;
SELECT softaudit.act_as('frank');
SELECT current_setting('my.app_user');
INSERT INTO doc VALUES (42, 'a');
COMMIT;
SET app."current_user" = 'of no interest';
INSERT INTO doc VALUES (43, 'a');
RESET app."current_user";
-- none at all
SET softaudit.actor_setting = '';
INSERT INTO doc VALUES (44, 'a');
CALL t.err('SELECT softaudit.act_as(''grace'')');
-- one that is there, but not made for it
CALL t.err('SET softaudit.actor_setting = ''application_name''');
INSERT INTO doc VALUES (45, 'a');
SELECT who();
-- one that the user may not read does not tell its value
SET SESSION AUTHORIZATION regress_sau_login;
CALL t.err('SET softaudit.actor_setting = ''config_file''');
INSERT INTO doc VALUES (46, 'a');
RESET SESSION AUTHORIZATION;
-- nor may act_as() set what the user may not set
SET SESSION AUTHORIZATION regress_sau_login;
CALL t.err('SET softaudit.actor_setting = ''session_replication_role''');
RESET SESSION AUTHORIZATION;
RESET softaudit.actor_setting;
RESET my.app_user;
SELECT who();

-- who: a long name, kept whole
SELECT set_config('app.current_user', repeat('x', 10000), false) \g /dev/null
INSERT INTO doc VALUES (47, 'a');
SELECT length(changed_by) FROM softaudit.history('doc', 47);
RESET app."current_user";
SELECT t.skip();

-- session: application name, as it was at the time
SET application_name = 'first';
INSERT INTO doc VALUES (50, 'a');
SET application_name = 'second';
INSERT INTO doc VALUES (51, 'a');
BEGIN;
SET LOCAL application_name = 'third';
INSERT INTO doc VALUES (52, 'a');
ROLLBACK;
INSERT INTO doc VALUES (53, 'a');
SET application_name = '';
INSERT INTO doc VALUES (54, 'a');
SET application_name = 'app';
SELECT who();

-- session: its row is shared while nothing changes, and written anew when it was rolled back
\c -
\set ECHO none
\i :helpers
SET search_path = s08, public;
SET application_name = 'app';
\set ECHO all
BEGIN;
INSERT INTO doc VALUES (60, 'lost');
ROLLBACK;
INSERT INTO doc VALUES (61, 'a');
BEGIN;
INSERT INTO doc VALUES (62, 'a');
COMMIT;
UPDATE doc SET v = 'b' WHERE id = 62;
SELECT CASE WHEN current_setting('discard.budget', true) IS NULL THEN count(DISTINCT session_id) ELSE 1 END AS shared FROM softaudit.log WHERE audit_id > current_setting('t.seen')::bigint;
SELECT who();
BEGIN;
SET LOCAL application_name = 'in a savepoint';
SAVEPOINT a;
INSERT INTO doc VALUES (63, 'lost');
ROLLBACK TO a;
INSERT INTO doc VALUES (64, 'a');
SAVEPOINT b;
INSERT INTO doc VALUES (65, 'a');
RELEASE b;
COMMIT;
SELECT who();
DO $$
BEGIN
    PERFORM set_config('application_name', 'in a block', true);
    BEGIN
        INSERT INTO s08.doc VALUES (66, 'lost');
        RAISE EXCEPTION 'no';
    EXCEPTION WHEN raise_exception THEN
        INSERT INTO s08.doc VALUES (67, 'a');
    END;
    INSERT INTO s08.doc VALUES (68, 'a');
END
$$;
SELECT who();
SELECT count(*) AS dangling FROM softaudit.log l WHERE NOT EXISTS (SELECT FROM softaudit.log_sessions s WHERE s.session_id = l.session_id);

-- context: a JSON object of the application's own, with the changes of the transaction
BEGIN;
SET LOCAL softaudit.context = '{"request": "r1", "n": [1, 2.50, null]}';
INSERT INTO doc VALUES (70, 'a');
UPDATE doc SET v = 'b' WHERE id = 70;
SET LOCAL softaudit.context = '  {"request": "r2", "who": "é𝄞\u0041"}';
INSERT INTO doc VALUES (71, 'a');
SET LOCAL softaudit.context = '{"request": "r1", "n": [1, 2.50, null]}';
INSERT INTO doc VALUES (72, 'a');
COMMIT;
INSERT INTO doc VALUES (73, 'a');
SET softaudit.context = '{}';
INSERT INTO doc VALUES (74, 'a');
SET softaudit.context = '';
INSERT INTO doc VALUES (75, 'a');
RESET softaudit.context;
SELECT who();
SELECT operation, context FROM softaudit.history('doc', 70);
-- one that is rolled back to
BEGIN;
SET LOCAL softaudit.context = '{"at": "outer"}';
SAVEPOINT a;
SET LOCAL softaudit.context = '{"at": "inner"}';
INSERT INTO doc VALUES (76, 'a');
ROLLBACK TO a;
INSERT INTO doc VALUES (77, 'a');
COMMIT;
SELECT who();
-- what JSONB could not hold is refused when it is set, not when it is written
CALL t.err('SET softaudit.context = ''x''');
CALL t.err('SET softaudit.context = ''[1]''');
CALL t.err('SET softaudit.context = ''1''');
CALL t.err('SET softaudit.context = ''{"a": 1''');
CALL t.err('SET softaudit.context = ''{"a": 1} x''');
CALL t.err('SET softaudit.context = ''{"a": 1e999999}''');
CALL t.err('SET softaudit.context = ''{"a": "\u0000"}''');
CALL t.err('SET softaudit.context = ''{"a": "\ud800"}''');
DO $$
BEGIN
    PERFORM set_config('softaudit.context', repeat('{"a":', 100000) || '1' || repeat('}', 100000), false);
EXCEPTION WHEN statement_too_complex THEN
    RAISE INFO 'too deep';
END
$$;
CALL t.err('SELECT set_config(''softaudit.context'', ''{"'' || repeat(''a'', 70000) || ''": 1e5}'', false)');
INSERT INTO doc VALUES (78, 'a');
SELECT who();

-- events: with the same word on who
SET SESSION AUTHORIZATION regress_sau_owner;
BEGIN;
SELECT softaudit.act_as('admin');
SELECT softaudit.enable('s08.doc', images => 'changes');
COMMIT;
SELECT softaudit.disable('s08.doc');
RESET SESSION AUTHORIZATION;
SELECT t.events();

\set ECHO none
SET client_min_messages = warning;
DROP SCHEMA s08 CASCADE;
DROP OWNED BY regress_sau_login, regress_sau_other, regress_sau_owner;
DROP ROLE regress_sau_login, regress_sau_other, regress_sau_owner;
