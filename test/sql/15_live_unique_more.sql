-- Uniqueness among live rows: renames, predicates, partitions, adoption, and what cannot be converted.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
-- or the first table to be enabled here would tell of it
SELECT softaudit.assert_preload() \g /dev/null
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_sau_owner, regress_sau_other;
CREATE ROLE regress_sau_owner;
CREATE ROLE regress_sau_other;
CREATE SCHEMA s15;
SET search_path = s15, public;
-- what is unique, by the definitions that a dump would hold
CREATE FUNCTION rules(root regclass) RETURNS TABLE (name text, definition text) LANGUAGE sql AS $$
    WITH RECURSIVE tree (relid) AS (SELECT root::oid UNION SELECT i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.relid)
    SELECT c.relname::text COLLATE "C", concat_ws(' ', COALESCE(pg_get_constraintdef(k.oid), regexp_replace(pg_get_indexdef(x.indexrelid), '^CREATE ', '')),
                      CASE WHEN k.oid IS NOT NULL THEN '| ' || regexp_replace(pg_get_indexdef(x.indexrelid), '^.* USING ', '') END,
                      '<' || s.spcname || '>', '"' || COALESCE(obj_description(k.oid, 'pg_constraint'), obj_description(x.indexrelid, 'pg_class')) || '"')
      FROM tree JOIN pg_index x ON x.indrelid = tree.relid JOIN pg_class c ON c.oid = x.indexrelid
      LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
      LEFT JOIN pg_constraint k ON k.conindid = x.indexrelid AND k.contype <> 'f'
     WHERE NOT x.indisprimary AND (x.indisunique OR k.contype = 'x')
     ORDER BY 1
$$;
\set ECHO all

-- predicates, however they are written: converted once, and back to the letter
CREATE FUNCTION fine(boolean) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT $1';
CREATE TABLE preds (id integer PRIMARY KEY, e text, active boolean, a integer, b integer, deleted_at timestamptz);
CREATE UNIQUE INDEX p_bare ON preds (e) WHERE active;
CREATE UNIQUE INDEX p_and ON preds (e) WHERE a > 0 AND b > 0;
CREATE UNIQUE INDEX p_or ON preds (e) WHERE a > 0 AND b > 0 OR a < 0 AND deleted_at IS NULL;
CREATE UNIQUE INDEX p_case ON preds (e) WHERE CASE WHEN a > 0 AND (deleted_at IS NULL) THEN active ELSE b > 0 END;
CREATE UNIQUE INDEX p_case_and ON preds (e) WHERE CASE WHEN a > 0 THEN active ELSE b > 0 END AND b > 1;
CREATE UNIQUE INDEX p_func ON preds (e) WHERE fine(active AND (deleted_at IS NULL));
CREATE UNIQUE INDEX p_text ON preds (e) WHERE e <> ' WHERE (deleted_at IS NULL) AND ''x) (' AND e <> E'\\'' AND (';
CREATE UNIQUE INDEX p_expr ON preds ((e || ' WHERE (a) AND "'), (CASE WHEN a > 0 THEN b END)) WHERE NOT (active AND a > 0);
CREATE UNIQUE INDEX "p ON s15.preds USING btree (e) WHERE x" ON preds USING btree (e text_pattern_ops DESC NULLS LAST) INCLUDE (a) NULLS NOT DISTINCT WITH (fillfactor = 71, deduplicate_items = off) WHERE a > 1;
CREATE UNIQUE INDEX p_live_first ON preds (e, a) WHERE deleted_at IS NULL AND a > 0;
CREATE UNIQUE INDEX p_live_amid ON preds (e, b) WHERE a > 0 AND deleted_at IS NULL AND b > 0;
CREATE TABLE before_it AS SELECT * FROM rules('preds');
SELECT softaudit.enable('preds', audit => false);
SELECT name, definition FROM rules('preds');
SET client_min_messages = notice;
SELECT softaudit.enable('preds', audit => false);
SELECT softaudit.disable('preds');
SELECT * FROM before_it EXCEPT SELECT * FROM rules('preds');
SELECT * FROM rules('preds') EXCEPT SELECT * FROM before_it;

-- renames of the table, its schema, its columns, the marker's among them, are followed
SET client_min_messages = warning;
CREATE SCHEMA "S 15";
CREATE TABLE "S 15"."T ""1" (id integer PRIMARY KEY, "E,Mail" text UNIQUE, a integer, r int4range,
    CONSTRAINT excl EXCLUDE USING gist (r WITH &&) WITH (fillfactor = 60) WHERE (a > 0),
    CONSTRAINT incl UNIQUE NULLS NOT DISTINCT (a) INCLUDE ("E,Mail") WITH (fillfactor = 70));
CREATE UNIQUE INDEX expr ON "S 15"."T ""1" (lower("E,Mail") DESC) WHERE a > 0;
COMMENT ON CONSTRAINT incl ON "S 15"."T ""1" IS 'a ''comment''';
COMMENT ON CONSTRAINT excl ON "S 15"."T ""1" IS 'another';
COMMENT ON INDEX "S 15".expr IS E'back\\slash';
SELECT softaudit.enable('"S 15"."T ""1"', audit => false, deleted_at => 'Gone At');
SELECT * FROM rules('"S 15"."T ""1"');
ALTER TABLE "S 15"."T ""1" RENAME COLUMN "E,Mail" TO "select";
ALTER TABLE "S 15"."T ""1" RENAME COLUMN a TO "A";
ALTER TABLE "S 15"."T ""1" RENAME COLUMN "Gone At" TO "When";
ALTER TABLE "S 15"."T ""1" RENAME TO t2;
ALTER TABLE "S 15".t2 SET SCHEMA s15;
SELECT softaudit.disable('t2');
SELECT * FROM rules('t2');
SELECT count(*) FROM softaudit.replaced_constraints JOIN softaudit.registry USING (table_id) WHERE relation = 't2'::regclass;

-- the same twice: each its own, and back
CREATE TABLE twice (id integer PRIMARY KEY, e text CONSTRAINT one UNIQUE);
ALTER TABLE twice ADD CONSTRAINT two UNIQUE (e) WITH (fillfactor = 50);
CREATE UNIQUE INDEX three ON twice (e);
SELECT softaudit.enable('twice', audit => false);
SELECT * FROM rules('twice');
SELECT softaudit.disable('twice');
SELECT * FROM rules('twice');

-- adoption: no index is built when a valid one of the same definition is there
CREATE TABLE big (id integer PRIMARY KEY, e text CONSTRAINT big_e UNIQUE WITH (fillfactor = 50), x integer, y integer, CONSTRAINT big_x UNIQUE (x), CONSTRAINT big_y UNIQUE (y));
COMMENT ON CONSTRAINT big_e ON big IS 'of the constraint';
CREATE UNIQUE INDEX big_some ON big (e) WHERE x > 0 AND y > 0;
SELECT softaudit.enable('big', audit => false, live_unique => false);
SELECT softaudit.live_index_sql('big', true, 'e') \gexec
CREATE UNIQUE INDEX big_some_live ON big (e) WHERE deleted_at IS NULL AND y > 0 AND x > 0;
CREATE UNIQUE INDEX big_x_other ON big (x DESC) WHERE deleted_at IS NULL;
CREATE INDEX big_x_plain ON big (x) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX big_y_invalid ON big (y) WHERE deleted_at IS NULL;
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'big_y_invalid'::regclass;
CREATE TEMPORARY TABLE built AS SELECT c.oid, relname::text COLLATE "C" AS relname, relfilenode FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid WHERE i.indrelid = 'big'::regclass;
SET client_min_messages = notice;
SELECT softaudit.enable('big', live_unique => true);
SELECT relname, CASE relfilenode WHEN b.relfilenode THEN 'was there' ELSE 'built' END FROM (SELECT c.oid, relname::text COLLATE "C" AS relname, relfilenode FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid WHERE i.indrelid = 'big'::regclass) c LEFT JOIN built b USING (oid, relname, relfilenode) ORDER BY 1;
SELECT softaudit.live_unique('big', 'e');
SELECT softaudit.live_unique('big', 'y');
-- keep_unique takes back what was converted, by the constraint's name; a name that is gone since is told
SELECT softaudit.enable('big', keep_unique => '{big_e}');
SELECT * FROM rules('big');
CALL t.err('SELECT softaudit.enable(''s15.big'', keep_unique => ''{big_e,nothere}'')');
ALTER TABLE big DROP CONSTRAINT big_e;
SELECT softaudit.enable('big', purge_after => '1 year');
SELECT softaudit.reset('big', 'keep_unique');
SELECT softaudit.enable('big', keep_unique => '{}');
-- an index that was dropped, or replaced by another, is not made again
DROP INDEX big_x;
DROP INDEX big_y;
CREATE INDEX big_y ON big (id);
SELECT softaudit.disable('big');
SELECT * FROM rules('big');
SET client_min_messages = warning;

-- what cannot be converted stays, with the reason
CREATE TABLE keeps (id integer PRIMARY KEY, a integer NOT NULL, b integer, c integer, d integer, e integer, f integer,
    CONSTRAINT for_fk UNIQUE (b), CONSTRAINT for_rule UNIQUE (c), CONSTRAINT for_function UNIQUE (d), CONSTRAINT later UNIQUE (e) DEFERRABLE INITIALLY DEFERRED,
    CONSTRAINT later_x EXCLUDE (f WITH =) DEFERRABLE);
CREATE UNIQUE INDEX ident ON keeps (a);
ALTER TABLE keeps REPLICA IDENTITY USING INDEX ident;
CREATE UNIQUE INDEX for_fk_2 ON keeps (f);
CREATE TABLE child (b integer REFERENCES keeps (b), f integer REFERENCES keeps (f));
CREATE TABLE into_it (c integer);
CREATE RULE through AS ON INSERT TO into_it DO INSTEAD INSERT INTO keeps (id, a, c) VALUES (new.c, new.c, new.c) ON CONFLICT ON CONSTRAINT for_rule DO NOTHING;
CREATE FUNCTION put(integer) RETURNS void BEGIN ATOMIC INSERT INTO s15.keeps (id, a, d) VALUES ($1, $1, $1) ON CONFLICT ON CONSTRAINT for_function DO NOTHING; END;
CREATE TABLE keeps_before AS SELECT * FROM rules('keeps');
SET client_min_messages = notice;
SELECT softaudit.enable('keeps', audit => false);
SELECT * FROM keeps_before EXCEPT SELECT * FROM rules('keeps');
SELECT softaudit.disable('keeps');
SET client_min_messages = warning;

-- partitions: the root's, with the names of its parts; each one's own; one that a foreign key needs
CREATE TABLE pt (k integer, v text, w text, CONSTRAINT "Root" UNIQUE (k, v) INCLUDE (w), CONSTRAINT fk_root UNIQUE (k, w)) PARTITION BY LIST (k);
CREATE TABLE p1 PARTITION OF pt (CONSTRAINT p1_own UNIQUE (v)) FOR VALUES IN (1);
CREATE TABLE p2 PARTITION OF pt FOR VALUES IN (2, 3) PARTITION BY LIST (k);
CREATE TABLE "P 3" PARTITION OF p2 FOR VALUES IN (3);
CREATE TABLE to_part (k integer, w text, FOREIGN KEY (k, w) REFERENCES p1 (k, w));
ALTER INDEX "P 3_k_v_w_key" RENAME TO "Odd""Part";
CREATE TABLE pt_before AS SELECT * FROM rules('pt');
SELECT * FROM pt_before;
SET client_min_messages = notice;
SELECT softaudit.enable('pt', audit => false);
SET client_min_messages = warning;
SELECT * FROM rules('pt');
INSERT INTO pt VALUES (1, 'v', '1'), (3, 'v', '3');
DELETE FROM pt;
INSERT INTO pt VALUES (1, 'v', '2'), (3, 'v', '4');
CALL t.err('INSERT INTO s15.pt VALUES (3, ''v'', ''5'')');
CALL t.err('SELECT softaudit.disable(''s15.pt'', force => true)');
SET softaudit.hard_delete = on;
DELETE FROM pt WHERE deleted_at IS NOT NULL OR true;
RESET softaudit.hard_delete;
SELECT softaudit.disable('pt');
SELECT * FROM pt_before EXCEPT SELECT * FROM rules('pt');
SELECT * FROM rules('pt') EXCEPT SELECT * FROM pt_before;
-- built on the partitions without blocking anybody, then taken up by the root's without a build
SELECT softaudit.enable('pt', audit => false, live_unique => false);
SELECT softaudit.live_index_sql(t.relid, true, 'k', 'v') FROM pg_partition_tree('pt') t WHERE t.isleaf ORDER BY t.relid::regclass::text \gexec
SELECT softaudit.live_index_sql(t.relid, false, 'v') FROM pg_partition_tree('pt') t WHERE t.isleaf ORDER BY t.relid::regclass::text \gexec
CREATE TEMPORARY TABLE leaves AS SELECT c.oid, relfilenode FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid WHERE i.indrelid IN (SELECT relid FROM pg_partition_tree('pt'));
SELECT softaudit.live_index_sql('pt', true, 'k', 'v') \gexec
SELECT softaudit.live_index('pt', 'v');
SELECT c.relname, l.oid IS NOT NULL AS was_there, c.relispartition FROM pg_class c LEFT JOIN leaves l USING (oid, relfilenode) WHERE c.relname ~ '^(pt|p1|P 3)_.*_live_(key|idx)$' ORDER BY c.relname::text COLLATE "C";
SELECT softaudit.live_index('pt', 'v'), softaudit.live_index('p1', 'v');
-- PostgreSQL's own error, whose words differ from major to major
DO $$ BEGIN PERFORM softaudit.live_unique('s15.pt', 'v'); EXCEPTION WHEN feature_not_supported THEN RAISE INFO '%', SQLSTATE; END $$;

-- what a partition had of its own is gone with it
SET client_min_messages = notice;
SELECT softaudit.enable('pt', live_unique => true);
SELECT softaudit.convert_unique('pt', 'deleted_at', NULL);
DROP TABLE to_part, p1;
SELECT softaudit.disable('pt');
SET client_min_messages = warning;

-- inheritance children, which are marked along
CREATE TABLE par (id integer PRIMARY KEY, e text UNIQUE);
CREATE TABLE chi (UNIQUE (e)) INHERITS (par);
SELECT softaudit.enable('par', audit => false);
SELECT * FROM rules('par');
SELECT softaudit.disable('par');
SELECT * FROM rules('par');

-- tablespaces, the user's default among them, stay out of it
SET allow_in_place_tablespaces = on;
CREATE TABLESPACE regress_sau_space LOCATION '';
CREATE TABLE spaced (id integer PRIMARY KEY, a integer CONSTRAINT sa UNIQUE USING INDEX TABLESPACE regress_sau_space, b integer CONSTRAINT sb UNIQUE,
    r int4range, CONSTRAINT sx EXCLUDE USING gist (r WITH &&) WITH (buffering = auto) USING INDEX TABLESPACE regress_sau_space WHERE (a > 0));
CREATE TABLE spaced_before AS SELECT * FROM rules('spaced');
SET default_tablespace = regress_sau_space;
SELECT softaudit.enable('spaced', audit => false);
SELECT * FROM rules('spaced');
SELECT softaudit.disable('spaced');
RESET default_tablespace;
SELECT * FROM spaced_before EXCEPT SELECT * FROM rules('spaced');
DROP TABLE spaced;
DROP TABLESPACE regress_sau_space;

-- duplicates and overlaps among deleted rows
CREATE TABLE dups (id integer PRIMARY KEY, e text UNIQUE, r int4range);
SELECT softaudit.enable('dups', audit => false);
INSERT INTO dups VALUES (1, 'x', '[1,5)');
DELETE FROM dups;
INSERT INTO dups VALUES (2, 'x', '[1,5)');
CALL t.err('SELECT softaudit.disable(''s15.dups'')');
CALL t.err('SELECT softaudit.disable(''s15.dups'', force => true)');
CALL t.err('SELECT softaudit.enable(''s15.dups'', live_unique => false)');
CREATE TABLE meetings (id integer PRIMARY KEY, r int4range, CONSTRAINT no_overlap EXCLUDE USING gist (r WITH &&));
SELECT softaudit.enable('meetings', audit => false);
INSERT INTO meetings VALUES (1, '[1,5)');
DELETE FROM meetings;
INSERT INTO meetings VALUES (2, '[1,5)');
CALL t.err('INSERT INTO s15.meetings VALUES (3, ''[2,3)'')');
CALL t.err('SELECT softaudit.disable(''s15.meetings'', force => true)');
SELECT * FROM rules('dups') UNION ALL SELECT * FROM rules('meetings');
SELECT count(*) FROM softaudit.replaced_constraints WHERE schema_name = 's15' AND table_name IN ('dups', 'meetings');

-- names: too long for a suffix, taken, of columns that no suffix tells apart
CREATE TABLE "ääääääääääääääääääääääääääää" (id integer PRIMARY KEY, "öööööööööö" text, "a" text, "a)" text, "A b" text, gone text);
ALTER TABLE "ääääääääääääääääääääääääääää" DROP COLUMN gone;
SELECT softaudit.enable('"ääääääääääääääääääääääääääää"', audit => false);
SELECT softaudit.live_unique('"ääääääääääääääääääääääääääää"', 'öööööööööö');
SELECT softaudit.live_index('"ääääääääääääääääääääääääääää"', 'öööööööööö');
SELECT softaudit.live_unique('"ääääääääääääääääääääääääääää"', 'a');
SELECT softaudit.live_unique('"ääääääääääääääääääääääääääää"', 'a)', 'A b');
SELECT softaudit.live_unique('"ääääääääääääääääääääääääääää"', 'a');
SELECT * FROM rules('"ääääääääääääääääääääääääääää"');
CALL t.err('SELECT softaudit.live_unique(''s15.dups'', VARIADIC ''{}'')');
CALL t.err('SELECT softaudit.live_unique(''s15.dups'', VARIADIC NULL)');
CALL t.err('SELECT softaudit.live_unique(''s15.dups'', ''e'', NULL)');
CALL t.err('SELECT softaudit.live_index_sql(''s15.dups'', NULL, ''e'')');
CALL t.err('SELECT softaudit.live_unique(''s15.dups'', ''lower(e)'')');
CALL t.err('SELECT softaudit.live_index(''s15.dups'', ''e) WHERE true; DROP TABLE s15.dups; --'')');
CALL t.err('SELECT softaudit.live_unique(''s15.dups'', ''E'')');
CALL t.err('SELECT softaudit.live_unique(''s15.child'', ''b'')');
CALL t.err('SELECT softaudit.live_unique(''s15."ääääääääääääääääääääääääääää"'', ''gone'')');
CALL t.err('SELECT softaudit.live_unique(''s15.dups'', ''ctid'')');

-- with the rights of whoever calls, whatever his search_path says
GRANT CREATE, USAGE ON SCHEMA s15 TO regress_sau_owner, regress_sau_other;
ALTER TABLE dups OWNER TO regress_sau_owner;
SET ROLE regress_sau_other;
CALL t.err('SELECT softaudit.live_unique(''s15.dups'', ''e'', ''r'')');
CALL t.err('SELECT softaudit.convert_unique(''s15.dups'', ''deleted_at'', NULL)');
CALL t.err('SELECT softaudit.revert_unique(''s15.dups'')');
SET ROLE regress_sau_owner;
CREATE FUNCTION quote_ident(name) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not mine'; END $$;
CREATE FUNCTION format(text, VARIADIC name[]) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not mine'; END $$;
SET search_path = s15, pg_catalog;
SELECT softaudit.live_unique('s15.dups', 'e', 'r');
SELECT softaudit.live_index('s15.dups', 'e', 'r');
SELECT softaudit.live_index_sql('s15.dups', false, 'r');
RESET ROLE;
SET search_path = s15, public;
DROP FUNCTION quote_ident(name), format(text, name[]);
SELECT DISTINCT pg_get_userbyid(c.relowner) FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid WHERE i.indrelid = 'dups'::regclass;

-- what an owner's predicate runs, it runs as him: at enable(), at disable(), and when rows are counted
RESET client_min_messages;
GRANT CREATE, USAGE ON SCHEMA s15 TO regress_sau_owner;
SET ROLE regress_sau_owner;
CREATE FUNCTION s15.tells(v integer) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF current_user <> 'regress_sau_owner' THEN
        RAISE EXCEPTION 'runs as %', current_user;
    END IF;
    RETURN true;
END $$;
CREATE DOMAIN s15.watched AS integer CHECK (s15.tells(VALUE));
CREATE TYPE s15.comp AS (a s15.watched);
CREATE TABLE s15.mine (id integer PRIMARY KEY, c s15.comp, e text, CHECK (s15.tells(1)));
CREATE UNIQUE INDEX mine_e ON s15.mine (e) WHERE c IS DISTINCT FROM '(1)'::s15.comp;
CREATE UNIQUE INDEX mine_f ON s15.mine ((s15.tells(7)), id) WHERE s15.tells(8);
SELECT softaudit.enable('s15.mine', audit => false);
INSERT INTO s15.mine VALUES (1, ROW(2), 'e');
DELETE FROM s15.mine;
CALL t.err('SELECT softaudit.disable(''s15.mine'')');
SELECT softaudit.disable('s15.mine', force => true);
RESET ROLE;
CALL t.err('SELECT softaudit.execute_as_owner(''s15.mine'', ''SELECT 1'')');
-- a name with a percent sign
CREATE TABLE pc ("100%" integer PRIMARY KEY);
SELECT softaudit.enable('pc', audit => false);
INSERT INTO pc VALUES (1);
DELETE FROM pc;
SELECT softaudit.restore('pc', 1);

\set ECHO none
SET client_min_messages = error;
DROP SCHEMA s15, "S 15" CASCADE;
DROP ROLE regress_sau_owner, regress_sau_other;
