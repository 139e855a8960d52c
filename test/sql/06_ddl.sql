-- DDL: a table may change in every way; no write is stopped, no value lost, nothing that is kept out comes in.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_sau_owner;
CREATE ROLE regress_sau_owner;
CREATE SCHEMA s06;
GRANT ALL ON SCHEMA s06 TO PUBLIC;
SET search_path = s06, public;
CREATE TABLE d (id integer PRIMARY KEY, name text, secret text, pin text, seen text);
SELECT softaudit.enable('d', soft_delete => false, exclude => '{secret}', redact => '{pin}', ignore => '{seen}');
-- the log of a table with its digests made the same
CREATE FUNCTION log() RETURNS SETOF text LANGUAGE sql AS
    $$ SELECT regexp_replace(regexp_replace(c, 'hmac-sha256:[0-9a-f]+', 'digest', 'g'), '"sha256": "[0-9a-f]+"', '"sha256": "..."', 'g') FROM t.changes() c $$;
\set ECHO all

-- columns: added between statements and inside of a transaction
INSERT INTO d VALUES (1, 'n', 'hidden', '1', 's');
ALTER TABLE d ADD COLUMN a integer DEFAULT 7;
UPDATE d SET name = 'm';
SELECT log();
BEGIN;
UPDATE d SET a = 8;
ALTER TABLE d ADD COLUMN b text;
UPDATE d SET b = 'new';
SAVEPOINT s;
ALTER TABLE d ADD COLUMN c text DEFAULT 'gone with the savepoint';
UPDATE d SET a = 9;
ROLLBACK TO s;
UPDATE d SET a = 10;
COMMIT;
SELECT log();

-- columns: dropped
ALTER TABLE d DROP COLUMN b;
UPDATE d SET a = 11;
SELECT log();

-- columns: renamed
ALTER TABLE d RENAME COLUMN name TO title;
UPDATE d SET title = 't';
BEGIN;
UPDATE d SET title = 'u';
ALTER TABLE d RENAME COLUMN title TO name;
UPDATE d SET name = 'v';
COMMIT;
SELECT log();

-- columns: retyped; the rewrite is an event, the rows' values are as the new type has them
SELECT t.skip();
ALTER TABLE d ALTER COLUMN a TYPE text USING 'no ' || a;
UPDATE d SET name = 'w';
SELECT log();
SELECT t.events();
BEGIN;
UPDATE d SET a = 'x';
ALTER TABLE d ALTER COLUMN a DROP DEFAULT, ALTER COLUMN a TYPE integer[] USING '{1,2}';
UPDATE d SET name = 'x';
COMMIT;
SELECT log();
ALTER TABLE d DROP COLUMN a;
ALTER TABLE d ADD COLUMN u timestamp DEFAULT clock_timestamp();
ALTER TABLE d DROP COLUMN u;
ALTER TABLE d SET UNLOGGED;
ALTER TABLE d SET LOGGED;
SELECT t.events();
-- what keeps every value is none
VACUUM FULL d;
CLUSTER d USING d_pkey;
REINDEX TABLE d;
ALTER TABLE d SET (fillfactor = 90);
SELECT t.events();
UPDATE d SET name = 'y';
SELECT log();

-- columns kept out: renamed, and still kept out
ALTER TABLE d RENAME COLUMN secret TO renamed_secret;
ALTER TABLE d RENAME COLUMN pin TO renamed_pin;
ALTER TABLE d RENAME COLUMN seen TO renamed_seen;
SELECT exclude, redact, ignore FROM softaudit.registry WHERE relation = 'd'::regclass;
UPDATE d SET renamed_secret = 'hidden, too', renamed_pin = '2', renamed_seen = 't';
UPDATE d SET renamed_seen = 'u';
SELECT log();
-- inside of a transaction, after a change
BEGIN;
UPDATE d SET renamed_secret = 'a';
ALTER TABLE d RENAME COLUMN renamed_secret TO secret;
ALTER TABLE d RENAME COLUMN renamed_pin TO pin;
UPDATE d SET secret = 'b', pin = '3';
ALTER TABLE d RENAME COLUMN renamed_seen TO seen;
UPDATE d SET seen = 'v';
COMMIT;
SELECT log();
-- a rename that is rolled back
BEGIN;
ALTER TABLE d RENAME COLUMN secret TO other;
UPDATE d SET other = 'hidden';
ROLLBACK;
UPDATE d SET secret = 'hidden';
SELECT log();
-- settings that are changed later speak of the new names
ALTER TABLE d RENAME COLUMN secret TO renamed_secret;
SELECT softaudit.enable('d', ignore => '{}');
UPDATE d SET renamed_secret = 'hidden', seen = 'w';
SELECT log();
ALTER TABLE d RENAME COLUMN renamed_secret TO secret;

-- columns kept out: names swapped
CREATE TABLE swapped (id integer PRIMARY KEY, shown text, secret text);
SELECT softaudit.enable('swapped', soft_delete => false, exclude => '{secret}');
INSERT INTO swapped VALUES (1, 'open', 'hidden');
BEGIN;
ALTER TABLE swapped RENAME COLUMN secret TO tmp;
ALTER TABLE swapped RENAME COLUMN shown TO secret;
ALTER TABLE swapped RENAME COLUMN tmp TO shown;
UPDATE swapped SET secret = 'open still', shown = 'hidden still';
COMMIT;
SELECT log();
SELECT exclude FROM softaudit.registry WHERE relation = 'swapped'::regclass;

-- columns kept out: dropped and made again
CREATE TABLE remade (id integer PRIMARY KEY, secret text, v text);
SELECT softaudit.enable('remade', soft_delete => false, exclude => '{secret}');
ALTER TABLE remade DROP COLUMN secret;
INSERT INTO remade VALUES (1, 'a');
SELECT softaudit.enable('remade', images => 'full');
SELECT exclude FROM softaudit.registry WHERE relation = 'remade'::regclass;
ALTER TABLE remade ADD COLUMN secret text;
UPDATE remade SET secret = 'hidden';
SELECT log();
-- another that takes the dropped one's place is none of them
ALTER TABLE remade DROP COLUMN secret;
ALTER TABLE remade ADD COLUMN w text;
UPDATE remade SET w = 'shown';
SELECT log();
-- in one transaction
BEGIN;
ALTER TABLE remade ADD COLUMN secret text;
UPDATE remade SET secret = 'hidden';
ALTER TABLE remade DROP COLUMN secret, ADD COLUMN secret integer;
UPDATE remade SET secret = 1;
COMMIT;
SELECT log();

-- columns kept out: renamed while nobody was told (no event triggers)
CREATE TABLE unseen (id integer PRIMARY KEY, secret text, pin text, v text);
SELECT softaudit.enable('unseen', soft_delete => false, exclude => '{secret}', redact => '{pin}');
ALTER EVENT TRIGGER softaudit_ddl_end DISABLE;
ALTER EVENT TRIGGER softaudit_sql_drop DISABLE;
ALTER TABLE unseen RENAME COLUMN secret TO x;
ALTER TABLE unseen RENAME COLUMN pin TO y;
INSERT INTO unseen VALUES (1, 'hidden', '1', 'v');
SELECT log();
-- swapped, dropped, made again: rather too much is kept out than too little
CREATE TABLE unseen_too (id integer PRIMARY KEY, shown text, secret text, pin text);
ALTER EVENT TRIGGER softaudit_ddl_end ENABLE ALWAYS;
SELECT softaudit.enable('unseen_too', soft_delete => false, exclude => '{secret}', redact => '{pin}');
ALTER EVENT TRIGGER softaudit_ddl_end DISABLE;
INSERT INTO unseen_too VALUES (1, 'open', 'hidden', '1');
BEGIN;
ALTER TABLE unseen_too RENAME COLUMN secret TO tmp;
ALTER TABLE unseen_too RENAME COLUMN shown TO secret;
ALTER TABLE unseen_too RENAME COLUMN tmp TO shown;
COMMIT;
UPDATE unseen_too SET id = 2;
ALTER TABLE unseen_too DROP COLUMN pin;
UPDATE unseen_too SET id = 3;
ALTER TABLE unseen_too ADD COLUMN pin text;
UPDATE unseen_too SET id = 4, pin = '1';
SELECT log();
ALTER EVENT TRIGGER softaudit_ddl_end ENABLE ALWAYS;
ALTER EVENT TRIGGER softaudit_sql_drop ENABLE ALWAYS;
-- also when settings are changed after that
SELECT softaudit.enable('unseen', images => 'changes');
UPDATE unseen SET x = 'hidden still', y = '2';
INSERT INTO unseen VALUES (2, 'hidden', '1', 'v');
SELECT log();
SELECT softaudit.disable('unseen');
SELECT softaudit.enable('unseen', images => 'full');
UPDATE unseen SET x = 'hidden again', y = '2' WHERE id = 1;
SELECT log();
-- or other DDL
ALTER TABLE unseen ADD COLUMN z integer;
UPDATE unseen SET x = 'hidden for ever', y = '2' WHERE id = 1;
SELECT log();

-- types: their own changes reach the images
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE TYPE pair AS (a integer, b text);
CREATE TABLE typed (id integer PRIMARY KEY, m mood, p pair, q pair[]);
SELECT softaudit.enable('typed', soft_delete => false);
\set ECHO none
-- to_jsonb() of PostgreSQL itself loses the names of a composite's attributes where caches are discarded amid the call
SET discard.budget = 0;
\set ECHO all
INSERT INTO typed VALUES (1, 'glad', (1, 'x'), ARRAY[(1, 'y')::pair]);
ALTER TYPE mood RENAME VALUE 'glad' TO 'happy';
ALTER TYPE pair RENAME ATTRIBUTE a TO first;
ALTER TYPE pair ADD ATTRIBUTE c date;
UPDATE typed SET id = 2;
ALTER TYPE mood ADD VALUE 'furious';
UPDATE typed SET m = 'furious', p = (2, 'z', '2024-01-01');
\set ECHO none
RESET discard.budget;
\set ECHO all
SELECT log();

-- names: the log follows the table
CREATE SCHEMA s06_other;
INSERT INTO d VALUES (2, 'named', 'hidden', '1', 's');
ALTER TABLE d RENAME TO e;
UPDATE e SET name = 'renamed' WHERE id = 2;
ALTER TABLE e SET SCHEMA s06_other;
UPDATE s06_other.e SET name = 'moved' WHERE id = 2;
ALTER SCHEMA s06_other RENAME TO s06_renamed;
UPDATE s06_renamed.e SET name = 'schema renamed' WHERE id = 2;
SELECT operation, schema_name, table_name, new_data ->> 'name' AS name FROM softaudit.history('s06_renamed.e', 2);
SELECT operation, schema_name, table_name, new_data ->> 'name' AS name FROM softaudit.history_of('s06_renamed', 'e', '2');
SELECT count(*) FROM softaudit.changes WHERE schema_name = 's06_renamed' AND table_name = 'e' AND row_key = '{"id": 2}';
SELECT count(*) FROM softaudit.changes WHERE schema_name = 's06' AND table_name = 'd';
CALL t.err('SELECT * FROM softaudit.history_of(''s06'', ''d'', ''2'')');
-- another table takes the old name
CREATE TABLE d (id integer PRIMARY KEY);
SELECT softaudit.enable('d', soft_delete => false);
INSERT INTO d VALUES (2);
SELECT operation, new_data FROM softaudit.history('d', 2);
SELECT t.skip();

-- DROP: the log stays, by name
DROP TABLE s06_renamed.e;
SELECT t.events();
SELECT operation, new_data ->> 'name' AS name FROM softaudit.history_of('s06_renamed', 'e', '2');
SELECT count(*) FROM softaudit.changes WHERE schema_name = 's06_renamed' AND table_name = 'e' AND row_key = '{"id": 2}';
CREATE TABLE s06_renamed.e (id integer PRIMARY KEY, name text);
SELECT softaudit.enable('s06_renamed.e', soft_delete => false);
INSERT INTO s06_renamed.e VALUES (2, 'of another table');
SELECT operation, new_data ->> 'name' AS name FROM softaudit.history('s06_renamed.e', 2);
SELECT operation, new_data ->> 'name' AS name FROM softaudit.history_of('s06_renamed', 'e', '2');
-- with others, by a schema
DROP SCHEMA s06_renamed CASCADE;
SELECT t.events();
-- one that was disabled
SELECT softaudit.disable('d');
DROP TABLE d;
SELECT t.events();
SELECT operation, new_data FROM softaudit.history_of('s06', 'd', '2');
-- and a DROP that is rolled back
BEGIN;
DROP TABLE swapped;
ROLLBACK;
UPDATE swapped SET id = 2;
SELECT log();
SELECT t.events();

-- keys: renamed, retyped, dropped, made again
CREATE TABLE k (id integer PRIMARY KEY, other integer, v text);
SELECT softaudit.enable('k', soft_delete => false);
INSERT INTO k VALUES (1, 11, 'a');
ALTER TABLE k RENAME COLUMN id TO key;
UPDATE k SET v = 'b';
SELECT operation, row_key, new_data FROM softaudit.history('k', 1);
ALTER TABLE k ALTER COLUMN key TYPE bigint;
UPDATE k SET v = 'c';
SELECT operation, row_key, new_data FROM softaudit.history('k', 1);
ALTER TABLE k DROP CONSTRAINT k_pkey;
UPDATE k SET v = 'd';
CALL t.err('SELECT * FROM softaudit.history(''k'', 1)');
ALTER TABLE k ADD PRIMARY KEY (other);
UPDATE k SET v = 'e';
SELECT operation, row_key FROM softaudit.history('k', 11);
ALTER TABLE k DROP COLUMN other;
UPDATE k SET v = 'f';
CALL t.err('SELECT * FROM softaudit.history(''k'', 11)');
ALTER TABLE k ADD PRIMARY KEY (key, v);
UPDATE k SET v = 'g';
SELECT operation, row_key FROM softaudit.history('k', '{"key": 1, "v": "g"}');
SELECT log();
DROP TABLE k;
SELECT operation, row_key FROM softaudit.history_of('s06', 'k', '{"key": 1, "v": "g"}');

-- functions: statements between whose runs the table changed
CREATE TABLE f (id integer PRIMARY KEY, v text);
SELECT softaudit.enable('f', soft_delete => false);
DO $$
BEGIN
    FOR i IN 1 .. 3 LOOP
        INSERT INTO s06.f VALUES (i, 'v');
        EXECUTE format('ALTER TABLE s06.f ADD COLUMN c%s integer DEFAULT %s', i, i);
    END LOOP;
    DELETE FROM s06.f WHERE id < 3;
END
$$;
SELECT log();
-- a table made, enabled, written, changed and dropped in one transaction
BEGIN;
CREATE TABLE brief (id integer PRIMARY KEY);
SELECT softaudit.enable('brief', soft_delete => false);
INSERT INTO brief VALUES (1);
ALTER TABLE brief ADD COLUMN v text;
UPDATE brief SET v = 'x';
DROP TABLE brief;
COMMIT;
SELECT log();

-- owners: what an unprivileged owner does is followed as well
SET ROLE regress_sau_owner;
CREATE TABLE own (id integer, secret text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
SELECT softaudit.enable('own', soft_delete => false, exclude => '{secret}');
CREATE TABLE own_1 PARTITION OF own FOR VALUES FROM (0) TO (10);
ALTER TABLE own RENAME COLUMN secret TO x;
INSERT INTO own VALUES (1, 'hidden');
ALTER TABLE own ALTER COLUMN x TYPE varchar(10);
ALTER TABLE own RENAME TO owned;
TRUNCATE own_1;
DROP TABLE owned;
-- nor can he use its functions
CALL t.err('SELECT softaudit.resync(''s06.f'')');
CALL t.err('SELECT softaudit.after_drop()');
RESET ROLE;
SELECT log();
SELECT t.events();

\set ECHO none
SET client_min_messages = warning;
DROP SCHEMA s06 CASCADE;
DROP OWNED BY regress_sau_owner;
DROP ROLE regress_sau_owner;
