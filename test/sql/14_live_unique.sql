-- Uniqueness among live rows: what is converted, kept, adopted, and turned back.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
-- or the first table to be enabled here would tell of it
SELECT softaudit.assert_preload() \g /dev/null
CREATE SCHEMA s14;
SET search_path = s14, public;
CREATE VIEW t.indexes AS
    SELECT c.relname::text COLLATE "C" AS name, i.indrelid, regexp_replace(pg_get_indexdef(i.indexrelid), '^.* USING ', '') AS definition, k.contype
      FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.contype <> 'f';
\set ECHO all

-- convert: constraints, indexes, expressions, predicates, exclusion
CREATE TABLE users (
    id integer PRIMARY KEY,
    email text CONSTRAINT users_email UNIQUE,
    nick text CONSTRAINT "Odd ""name" UNIQUE NULLS NOT DISTINCT,
    a integer, b integer, during int4range,
    UNIQUE (a, b) INCLUDE (email) WITH (fillfactor = 70),
    CONSTRAINT no_overlap EXCLUDE USING gist (during WITH &&) WHERE (a > 0),
    CONSTRAINT later UNIQUE (b) DEFERRABLE,
    CONSTRAINT referenced UNIQUE (a),
    CONSTRAINT kept UNIQUE (a, nick));
CREATE UNIQUE INDEX users_lower ON users (lower(email) COLLATE "C" DESC, a);
CREATE UNIQUE INDEX users_partial ON users (nick) WHERE b > 0 OR a > 0;
CREATE INDEX not_unique ON users (nick);
COMMENT ON CONSTRAINT users_email ON users IS 'one address, one user';
COMMENT ON INDEX users_lower IS 'whatever the case';
CREATE TABLE refers (a integer REFERENCES users (a));
CREATE TABLE before_it AS SELECT * FROM t.indexes WHERE indrelid = 'users'::regclass;
SELECT softaudit.enable('users', audit => false, keep_unique => '{kept}');
SELECT name, definition, contype FROM t.indexes WHERE indrelid = 'users'::regclass ORDER BY name;
SELECT obj_description('users_email'::regclass), obj_description('users_lower'::regclass);
SELECT name, index_name, kind FROM softaudit.replaced_constraints JOIN softaudit.registry USING (table_id) WHERE relation = 'users'::regclass ORDER BY name::text COLLATE "C";
-- a second call changes nothing
SELECT softaudit.enable('users');
-- a deleted row gives its values free
INSERT INTO users (id, email, nick, a, b, during) VALUES (1, 'x', 'n', 1, 1, '[1,5)');
DELETE FROM users;
INSERT INTO users (id, email, nick, a, b, during) VALUES (2, 'x', 'n', 2, 2, '[1,5)');
CALL t.err('INSERT INTO users (id, email) VALUES (3, ''x'')');
INSERT INTO users (id, email, a, b) VALUES (4, 'x', 4, 4) ON CONFLICT (email) DO UPDATE SET b = 5 RETURNING id, b;
INSERT INTO users (id, email, a, b) VALUES (4, 'X', 2, 4) ON CONFLICT ((lower(email)) COLLATE "C", a) DO NOTHING;
CALL t.err('INSERT INTO users (id, email) VALUES (3, ''x'') ON CONFLICT ON CONSTRAINT users_email DO NOTHING');
CALL t.err('SELECT softaudit.enable(''users'', keep_unique => ''{nothere}'')');

-- disable: everything as it was, or a reason why not
CALL t.err('SELECT softaudit.disable(''s14.users'', force => true)');
SET softaudit.hard_delete = on;
DELETE FROM users WHERE deleted_at IS NOT NULL;
RESET softaudit.hard_delete;
SELECT softaudit.disable('users');
SELECT name, definition, contype FROM before_it EXCEPT SELECT name, definition, contype FROM t.indexes;
SELECT name, definition FROM t.indexes WHERE indrelid = 'users'::regclass EXCEPT SELECT name, definition FROM before_it;
SELECT obj_description(oid, 'pg_constraint') FROM pg_constraint WHERE conname = 'users_email';
SELECT count(*) FROM softaudit.replaced_constraints JOIN softaudit.registry USING (table_id) WHERE relation = 'users'::regclass;

-- adopt: an index that was built before takes the constraint's place
CREATE UNIQUE INDEX users_email_built ON users (email) WHERE deleted_at IS NULL;
SELECT softaudit.enable('users', live_unique => true);
SELECT name, definition FROM t.indexes WHERE indrelid = 'users'::regclass AND name LIKE 'users_email%';
SELECT softaudit.disable('users');
SELECT name, definition FROM t.indexes WHERE indrelid = 'users'::regclass AND name LIKE 'users_email%' ORDER BY name;
SELECT softaudit.enable('users', live_unique => false);
SELECT count(*) FROM t.indexes WHERE indrelid = 'users'::regclass AND definition ~ 'deleted_at';
-- a replica identity stays
CREATE TABLE ident (id integer NOT NULL CONSTRAINT ident_id UNIQUE);
ALTER TABLE ident REPLICA IDENTITY USING INDEX ident_id;
SELECT softaudit.enable('ident', audit => false);

-- partitions
CREATE TABLE pt (id integer, k integer, v text, UNIQUE (k, v)) PARTITION BY LIST (k);
CREATE TABLE pt1 PARTITION OF pt FOR VALUES IN (1);
SELECT softaudit.enable('pt', audit => false);
CREATE TABLE pt2 PARTITION OF pt FOR VALUES IN (2);
INSERT INTO pt VALUES (1, 1, 'v'), (2, 2, 'v');
DELETE FROM pt;
INSERT INTO pt VALUES (1, 1, 'v'), (2, 2, 'v');
CALL t.err('INSERT INTO pt2 VALUES (3, 2, ''v'')');
INSERT INTO pt VALUES (4, 2, 'v') ON CONFLICT (k, v) DO UPDATE SET id = 5 RETURNING id;
SELECT indrelid::regclass, definition FROM t.indexes WHERE indrelid IN (SELECT relid FROM pg_partition_tree('pt')) ORDER BY indrelid::regclass::text;

-- live_unique, live_index, live_index_sql
CREATE TABLE "Odd t" (id integer PRIMARY KEY, "E Mail" text, x integer, gone integer);
ALTER TABLE "Odd t" DROP COLUMN gone;
SELECT softaudit.enable('"Odd t"', audit => false);
SELECT softaudit.live_unique('"Odd t"', 'E Mail', 'x');
SELECT softaudit.live_unique('"Odd t"', 'E Mail', 'x');
SELECT softaudit.live_index('"Odd t"', 'x');
SELECT softaudit.live_index('"Odd t"', 'E Mail', 'x');
SELECT softaudit.live_index_sql('"Odd t"', true, 'E Mail');
SELECT softaudit.live_index_sql('"Odd t"', true, 'E Mail') \gexec
SELECT softaudit.live_index_sql('"Odd t"', true, 'E Mail') \gexec
SELECT softaudit.live_index_sql('pt1', false, 'id');
SELECT softaudit.live_index_sql('pt', false, 'id');
SELECT softaudit.live_unique('pt', 'k', 'id');
SELECT name, definition FROM t.indexes WHERE indrelid = '"Odd t"'::regclass ORDER BY name;
CALL t.err('SELECT softaudit.live_unique(''refers'', ''a'')');
CALL t.err('SELECT softaudit.live_unique(''"Odd t"'', ''nothere'')');
CALL t.err('SELECT softaudit.live_unique(''"Odd t"'', ''lower("E Mail")'')');
CALL t.err('SELECT softaudit.live_index(''"Odd t"'', NULL)');
CALL t.err('SELECT softaudit.live_index(NULL, ''x'')');
CALL t.state('SELECT softaudit.live_unique(''pt'', ''v'')');

\set ECHO none
SET client_min_messages = error;
DROP VIEW t.indexes;
DROP SCHEMA s14 CASCADE;
