-- INSERT ... ON CONFLICT DO SELECT (PostgreSQL 19): it reads the row in the way, as a query reads it.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
SET client_min_messages = error;
CREATE SCHEMA s41;
SET search_path = s41, public;
SELECT current_setting('server_version_num')::integer >= 190000 AS has_select \gset
\if :has_select
CREATE TABLE u (id integer PRIMARY KEY, email text UNIQUE, n integer);
SELECT softaudit.enable('u');
INSERT INTO u VALUES (1, 'a@x', 1), (2, 'b@x', 2);
DELETE FROM u WHERE id = 1;
CREATE TABLE p (id integer PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
SELECT softaudit.enable('p');
INSERT INTO p VALUES (1, 'one'), (2, 'two');
DELETE FROM p WHERE id = 1;
CREATE VIEW uv AS SELECT id, n AS m FROM u;
\set ECHO all

-- a live row
INSERT INTO u VALUES (2, 'c@x') ON CONFLICT (id) DO SELECT RETURNING id, email;
INSERT INTO u VALUES (9, 'b@x') ON CONFLICT (email) DO SELECT FOR UPDATE RETURNING id, email;
-- a deleted one that a full index finds, whatever else the statement asks for
CALL t.err('INSERT INTO s41.u VALUES (1, ''c@x'') ON CONFLICT (id) DO SELECT RETURNING email');
CALL t.err('INSERT INTO s41.u VALUES (1, ''c@x'') ON CONFLICT ON CONSTRAINT u_pkey DO SELECT FOR SHARE RETURNING email');
CALL t.err('INSERT INTO s41.u VALUES (1, ''c@x'') ON CONFLICT (id) DO SELECT WHERE u.n = 1 RETURNING deleted_at IS NOT NULL');
CALL t.err('INSERT INTO s41.u VALUES (1, ''c@x'') ON CONFLICT (id) DO SELECT WHERE excluded.deleted_at IS NULL RETURNING email');
CALL t.err('INSERT INTO s41.uv VALUES (1) ON CONFLICT (id) DO SELECT RETURNING m');
CALL t.err('INSERT INTO s41.p VALUES (1) ON CONFLICT (id) DO SELECT RETURNING v');
CALL t.err('INSERT INTO s41.p1 VALUES (1) ON CONFLICT (id) DO SELECT RETURNING v');
CALL t.err('WITH w AS (INSERT INTO s41.u VALUES (1) ON CONFLICT (id) DO SELECT RETURNING email) SELECT * FROM w');
-- as a condition is not looked at before it
CALL t.err('INSERT INTO s41.u VALUES (1) ON CONFLICT (id) DO SELECT WHERE u.n / 0 = 1 RETURNING email');
-- of an index over live rows it is not in the way
INSERT INTO u VALUES (3, 'a@x') ON CONFLICT (email) DO SELECT RETURNING id, email;
-- who mentions the column says for himself
INSERT INTO u VALUES (1) ON CONFLICT (id) DO SELECT WHERE u.deleted_at IS NOT NULL RETURNING email, deleted_at IS NOT NULL AS is_deleted;
INSERT INTO u VALUES (1), (2) ON CONFLICT (id) DO SELECT WHERE u.deleted_at IS NULL RETURNING email;
-- the setting, with a cached plan following
PREPARE put(integer) AS INSERT INTO u VALUES ($1) ON CONFLICT (id) DO SELECT RETURNING email;
SET plan_cache_mode = force_generic_plan;
EXECUTE put(2);
CALL t.err('EXECUTE put(1)');
SET softaudit.show_deleted = on;
EXECUTE put(1);
EXECUTE put(2);
SET softaudit.show_deleted = 'only';
EXECUTE put(1);
EXECUTE put(2);
RESET softaudit.show_deleted;
CALL t.err('EXECUTE put(1)');
-- hard_delete is about DELETE
SET softaudit.hard_delete = on;
CALL t.err('EXECUTE put(1)');
RESET softaudit.hard_delete;
-- nothing of it is logged, and the deleted row is as it was
SELECT operation, row_key FROM softaudit.changes WHERE schema_name = 's41' AND table_name = 'u' ORDER BY audit_id;
DELETE FROM u WHERE id = 3;
SELECT softaudit.restore('u', 1);
\set ECHO none
\else
\echo no ON CONFLICT DO SELECT before PostgreSQL 19
\endif
DROP SCHEMA s41 CASCADE;
