-- Who could end, double or misdirect the audit of a table, and does not; and what is told of each end that its owner makes.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
CREATE SCHEMA s17;
SET search_path = s17, public;
CREATE ROLE regress_sau_alice;
CREATE ROLE regress_sau_bob;
GRANT USAGE, CREATE ON SCHEMA s17 TO regress_sau_alice, regress_sau_bob;
SET client_min_messages = error;
CREATE TABLE first (id integer);
SELECT softaudit.enable('first', soft_delete => false) \g /dev/null
SELECT t.skip() \g /dev/null
\set ECHO all

-- triggers: the TRIGGER privilege is not enough
SET ROLE regress_sau_alice;
CREATE TABLE vault (id integer PRIMARY KEY, pw text);
SELECT softaudit.enable('vault', soft_delete => false, exclude => '{pw}');
GRANT TRIGGER ON vault TO regress_sau_bob;
SET ROLE regress_sau_bob;
CALL t.err('CREATE TRIGGER "!a" AFTER INSERT OR UPDATE OR DELETE ON s17.vault FOR EACH ROW EXECUTE FUNCTION softaudit.capture(''1'', ''x'', ''full'')');
SET search_path = softaudit, s17;
CALL t.err('CREATE TRIGGER "!a" AFTER INSERT OR UPDATE OR DELETE ON s17.vault FOR EACH ROW EXECUTE FUNCTION capture(''1'', ''x'', ''full'')');
SET search_path = s17, public;
CALL t.err('CREATE TRIGGER "!softaudit_capture" AFTER INSERT ON s17.vault FOR EACH ROW WHEN (false) EXECUTE FUNCTION softaudit.capture(''1'', ''x'', ''full'')');
CALL t.err('CREATE OR REPLACE TRIGGER "!softaudit_capture" AFTER INSERT ON s17.vault FOR EACH ROW WHEN (false) EXECUTE FUNCTION softaudit.capture(''1'', ''x'', ''full'')');
CALL t.err('CREATE OR REPLACE TRIGGER "!softaudit_truncate" AFTER TRUNCATE ON s17.vault FOR EACH STATEMENT EXECUTE FUNCTION softaudit.capture(''1'', ''x'', ''full'')');
-- nor does the owner replace or rename one
SET ROLE regress_sau_alice;
CALL t.err('CREATE OR REPLACE TRIGGER "!softaudit_capture" AFTER INSERT ON s17.vault FOR EACH ROW WHEN (false) EXECUTE FUNCTION softaudit.capture(''1'', ''x'', ''full'')');
CALL t.err('ALTER TRIGGER "!softaudit_capture" ON s17.vault RENAME TO q');
INSERT INTO vault VALUES (1, 'hush');
UPDATE vault SET pw = 'hush hush';
RESET ROLE;
SELECT t.changes();
-- one that gets in all the same (as a superuser who disabled the event triggers) is refused at the first change
ALTER EVENT TRIGGER softaudit_ddl_start DISABLE;
CREATE TRIGGER "!a" AFTER INSERT ON vault FOR EACH ROW EXECUTE FUNCTION softaudit.capture('1', 'x', 'full');
ALTER EVENT TRIGGER softaudit_ddl_start ENABLE ALWAYS;
CALL t.err('INSERT INTO s17.vault VALUES (2, ''hush'')');
DROP TRIGGER "!a" ON vault;
SELECT t.skip();

-- events: nobody writes one about a table of others
SET ROLE regress_sau_bob;
CREATE TABLE mine (id integer PRIMARY KEY);
DO $$ DECLARE id integer; BEGIN
    -- he may not read the registry; ids are small
    FOR id IN 1 .. 200 LOOP
        BEGIN
            EXECUTE format('CREATE TRIGGER "!softaudit_truncate" AFTER TRUNCATE ON s17.mine FOR EACH STATEMENT EXECUTE FUNCTION softaudit.capture(%L, ''x'', ''full'')', id);
            ALTER TABLE s17.mine ADD COLUMN x integer;
            ALTER TABLE s17.mine DROP COLUMN x;
            DROP TRIGGER IF EXISTS "!softaudit_truncate" ON s17.mine;
        EXCEPTION WHEN OTHERS THEN NULL;
        END;
    END LOOP;
END $$;
RESET ROLE;
SELECT event, relation FROM softaudit.events WHERE event = 'DETACH' AND session_user_name = session_user AND details ->> 'partition' LIKE '%mine%';

-- groups: who owns a table in one does not set the others' retention, and takes no reserved name
SET ROLE regress_sau_alice;
CREATE TABLE salaries (id integer PRIMARY KEY);
SELECT softaudit.enable('salaries', soft_delete => false, log_group => 's17 finance', keep_log => '10 years');
SET ROLE regress_sau_bob;
CALL t.err('SELECT softaudit.enable(''s17.mine'', soft_delete => false, log_group => ''s17 finance'', keep_log => ''1 hour'')');
CALL t.err('SELECT softaudit.enable(''s17.mine'', soft_delete => false, log_group => ''s17 finance'', partition_by => ''1 hour'')');
CALL t.err('SELECT softaudit.enable(''s17.mine'', soft_delete => false, log_group => ''every_1_mon'')');
SELECT softaudit.enable('mine', soft_delete => false, log_group => 's17 finance');
RESET ROLE;
SELECT table_name, partition_by, keep_log FROM softaudit.registry WHERE group_name = 's17 finance' ORDER BY 1;
-- who owns all of them may
SELECT softaudit.enable('mine', keep_log => '5 years');
SELECT table_name, keep_log FROM softaudit.registry WHERE group_name = 's17 finance' ORDER BY 1;
SELECT t.skip();

-- each end of capture that an owner makes is an event
CREATE TABLE r (id integer, k integer, PRIMARY KEY (id, k)) PARTITION BY RANGE (k);
CREATE TABLE r1 PARTITION OF r FOR VALUES FROM (0) TO (10);
CREATE TABLE e1 (id integer PRIMARY KEY);
CREATE TABLE e2 (id integer PRIMARY KEY);
CREATE TABLE e3 (id integer PRIMARY KEY);
SELECT softaudit.enable(x, soft_delete => false) FROM unnest('{r,e1,e2,e3}'::regclass[]) x;
SELECT t.skip();
ALTER TABLE r1 DISABLE TRIGGER ALL;
ALTER TABLE e1 ENABLE REPLICA TRIGGER "!softaudit_capture";
DROP TRIGGER "!softaudit_truncate" ON e2;
DROP TRIGGER "!softaudit_capture" ON e3;
SELECT event, relation, details FROM softaudit.events WHERE event_id > current_setting('t.seen_event')::bigint ORDER BY event_id;
INSERT INTO r VALUES (1, 1);
INSERT INTO e1 VALUES (1);
SELECT t.changes();

-- TRUNCATE of a partition that came after the root's in one transaction, and of one that CREATE SCHEMA made
SELECT softaudit.enable('r', audit => false, soft_delete => true) \g /dev/null
SELECT softaudit.disable('r') \g /dev/null
CREATE TABLE q (id integer, k integer, PRIMARY KEY (id, k)) PARTITION BY RANGE (k);
CREATE TABLE q1 PARTITION OF q FOR VALUES FROM (0) TO (10);
CREATE TABLE q2 (id integer, k integer, PRIMARY KEY (id, k));
INSERT INTO q2 VALUES (1, 11), (2, 12);
SELECT softaudit.enable('q', soft_delete => false);
SELECT t.skip();
BEGIN;
TRUNCATE q;
ALTER TABLE q ATTACH PARTITION q2 FOR VALUES FROM (10) TO (20);
TRUNCATE q2;
COMMIT;
SELECT operation, partition_name FROM softaudit.changes WHERE table_name = 'q' AND schema_name = 's17' ORDER BY audit_id;
CREATE SCHEMA s17_more CREATE TABLE q3 PARTITION OF s17.q FOR VALUES FROM (20) TO (30);
INSERT INTO q VALUES (1, 21);
TRUNCATE s17_more.q3;
SELECT operation, partition_name FROM softaudit.changes WHERE table_name = 'q' AND schema_name = 's17' ORDER BY audit_id;
SELECT details ->> 'partition' FROM softaudit.events WHERE event = 'ATTACH' AND relation = 'q' AND schema_name = 's17' ORDER BY event_id;
DROP SCHEMA s17_more CASCADE;

-- DROP of a partition by who owns the schema alone
CREATE SCHEMA s17_bob AUTHORIZATION regress_sau_bob;
GRANT USAGE, CREATE ON SCHEMA s17_bob TO regress_sau_alice;
SET ROLE regress_sau_alice;
CREATE TABLE s17_bob.d (id integer, k integer, PRIMARY KEY (id, k)) PARTITION BY RANGE (k);
CREATE TABLE s17_bob.d1 PARTITION OF s17_bob.d FOR VALUES FROM (0) TO (10);
SELECT softaudit.enable('s17_bob.d', soft_delete => false);
INSERT INTO s17_bob.d VALUES (1, 1);
SET ROLE regress_sau_bob;
DROP TABLE s17_bob.d1;
RESET ROLE;
SELECT event, relation, details ->> 'partition' AS partition FROM softaudit.events WHERE relation = 'd' AND schema_name = 's17_bob' ORDER BY event_id;
DROP SCHEMA s17_bob CASCADE;

-- a root's settings do not let in what a partition's own kept out
CREATE TABLE top (id integer, k integer, sec text, pin text, PRIMARY KEY (id, k)) PARTITION BY RANGE (k);
CREATE TABLE a1 (id integer, k integer, sec text, pin text, PRIMARY KEY (id, k));
SELECT softaudit.enable('a1', soft_delete => false, exclude => '{sec}', redact => '{pin}');
ALTER TABLE top ATTACH PARTITION a1 FOR VALUES FROM (0) TO (10);
CALL t.err('SELECT softaudit.enable(''s17.top'', soft_delete => false)');
CALL t.err('SELECT softaudit.enable(''s17.top'', soft_delete => false, exclude => ''{sec}'')');
SELECT softaudit.enable('top', soft_delete => false, exclude => '{sec,pin}');
SELECT t.skip();
INSERT INTO top VALUES (4, 4, 'S4', '1234');
SELECT t.changes();

-- history_of() of a name that tables with other keys had
CREATE TABLE h (id integer PRIMARY KEY);
SELECT softaudit.enable('h', soft_delete => false);
INSERT INTO h VALUES (1);
DROP TABLE h;
CREATE TABLE h (id uuid PRIMARY KEY);
SELECT softaudit.enable('h', soft_delete => false);
INSERT INTO h VALUES ('00000000-0000-0000-0000-000000000001');
SELECT operation, row_key FROM softaudit.history_of('s17', 'h', '00000000-0000-0000-0000-000000000001');
SELECT operation, row_key FROM softaudit.history_of('s17', 'h', '1');
CALL t.state('SELECT * FROM softaudit.history_of(''s17'', ''h'', ''neither'')');

-- names that change through a parent or a type
CREATE TABLE par (id integer, ssn text);
CREATE TABLE chi (PRIMARY KEY (id)) INHERITS (par);
SELECT softaudit.enable('chi', soft_delete => false, exclude => '{ssn}');
ALTER TABLE par RENAME ssn TO ssn_old;
ALTER TABLE par ADD ssn text;
CREATE TYPE ct AS (id integer, ssn text);
CREATE TABLE typed OF ct (PRIMARY KEY (id));
SELECT softaudit.enable('typed', soft_delete => false, exclude => '{ssn}');
ALTER TYPE ct RENAME ATTRIBUTE ssn TO ssn_old CASCADE;
ALTER TYPE ct ADD ATTRIBUTE ssn text CASCADE;
SELECT table_name, exclude FROM softaudit.registry WHERE relation IN ('chi'::regclass, 'typed'::regclass) ORDER BY 1;
SELECT tgrelid::regclass, encode(tgargs, 'escape') LIKE '%:ssn\_old%' AS follows FROM pg_trigger
 WHERE tgname = '!softaudit_capture' AND tgrelid IN ('chi'::regclass, 'typed'::regclass) ORDER BY 1;
SELECT t.skip();
INSERT INTO chi VALUES (3, 'old', 'new');
INSERT INTO typed VALUES (3, 'old', 'new');
SELECT t.changes();

\set ECHO none
DROP SCHEMA s17 CASCADE;
DROP OWNED BY regress_sau_alice, regress_sau_bob;
DROP ROLE regress_sau_alice, regress_sau_bob;
