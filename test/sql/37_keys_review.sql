-- Foreign keys of tables that are parts of others, odd key types, what a query must not claim to be.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
SELECT softaudit.assert_preload() \g /dev/null
SET client_min_messages = error;
CREATE ROLE regress_sau_keys;
CREATE SCHEMA s37;
GRANT ALL ON SCHEMA s37 TO regress_sau_keys;
GRANT USAGE ON SCHEMA t TO regress_sau_keys;
SET search_path = s37, public;
CREATE FUNCTION en(VARIADIC tables text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE x text;
BEGIN
    FOREACH x IN ARRAY tables LOOP PERFORM softaudit.enable(x::regclass, audit => false); END LOOP;
END $$;
\set ECHO queries
-- words that our own queries begin with let nobody delete for good
CREATE TABLE kept (id int PRIMARY KEY);
SELECT en('kept');
INSERT INTO kept VALUES (1), (2);
GRANT SELECT, DELETE ON kept TO regress_sau_keys;
CREATE TABLE kept_child (id int REFERENCES kept ON DELETE CASCADE);
SELECT en('kept_child');
INSERT INTO kept VALUES (3);
DELETE FROM kept WHERE id = 3;
SET ROLE regress_sau_keys;
CREATE TABLE mine (id int PRIMARY KEY);
CREATE TABLE mine_too (id int REFERENCES mine ON DELETE CASCADE);
CREATE FUNCTION wipe() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE '/* softaudit: keys */ WITH d AS (DELETE FROM s37.kept WHERE id = 1 RETURNING 1) SELECT 1 FROM d';
    EXECUTE '/* softaudit: keys */ DELETE FROM s37.kept WHERE id = 2';
    RETURN old;
END $$;
CREATE TRIGGER wipe BEFORE DELETE ON mine_too FOR EACH ROW EXECUTE FUNCTION wipe();
INSERT INTO mine VALUES (1);
INSERT INTO mine_too VALUES (1);
DELETE FROM mine;
RESET ROLE;
SELECT id FROM softaudit.only_deleted(NULL::kept) ORDER BY 1;
-- what looks like PostgreSQL's own queries within DDL, or in a cascade, is filtered
CREATE TABLE u (id int PRIMARY KEY);
SELECT en('u');
INSERT INTO u VALUES (1), (2), (3);
DELETE FROM u WHERE id = 1;
CREATE FUNCTION cnt() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE n bigint := 0; r record;
BEGIN
    FOR r IN SELECT fk.id FROM u fk LOOP n := n + 1; END LOOP;
    RETURN n;
END $$;
CREATE TABLE z (x int);
INSERT INTO z VALUES (1);
ALTER TABLE z ADD COLUMN y bigint DEFAULT cnt() NOT NULL;
SELECT y, cnt() FROM z;
CREATE TABLE up1 (id int PRIMARY KEY);
CREATE TABLE up2 (id int REFERENCES up1 ON DELETE CASCADE);
CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM s37.u WHERE id OPERATOR(pg_catalog.=) OLD.id;
    RAISE INFO '% found', CASE WHEN FOUND THEN 'one' ELSE 'none' END;
    DELETE FROM s37.u WHERE id OPERATOR(pg_catalog.=) OLD.id + 2;
    RETURN OLD;
END $$;
CREATE TRIGGER look BEFORE DELETE ON up2 FOR EACH ROW EXECUTE FUNCTION look();
INSERT INTO up1 VALUES (1);
INSERT INTO up2 VALUES (1);
DELETE FROM up1;
SELECT id FROM softaudit.only_deleted(NULL::u) ORDER BY 1;
-- a column that goes with a domain takes the trigger along: it is put back
CREATE TABLE q (id int PRIMARY KEY);
SELECT en('q');
INSERT INTO q VALUES (1), (10);
DELETE FROM q WHERE id = 10;
CREATE DOMAIN dom AS int;
CREATE TABLE q2 (id dom PRIMARY KEY);
CREATE TABLE c (id int PRIMARY KEY, p1 int REFERENCES q, p2 dom REFERENCES q2);
SELECT en('q2', 'c');
CREATE TABLE g (id int PRIMARY KEY, c int REFERENCES c ON DELETE RESTRICT);
INSERT INTO c VALUES (1, 1, NULL);
INSERT INTO g VALUES (1, 1);
DROP DOMAIN dom CASCADE;
CALL t.err('INSERT INTO s37.c VALUES (2, 10)');
CALL t.err('DELETE FROM s37.c WHERE id = 1');
-- one that is dropped by name is told of
SET client_min_messages = warning;
DROP TRIGGER "!softaudit_keys" ON c;
SET client_min_messages = error;
SELECT en('c');
CALL t.err('INSERT INTO s37.c VALUES (2, 10)');
-- foreign keys of a partition alone, and of the whole
CREATE TABLE r (id int, k int, q2 int) PARTITION BY LIST (k);
CREATE TABLE r1 PARTITION OF r (FOREIGN KEY (id) REFERENCES q, FOREIGN KEY (q2) REFERENCES q) FOR VALUES IN (1);
CREATE TABLE r2 PARTITION OF r FOR VALUES IN (2);
CALL t.err('INSERT INTO s37.r VALUES (10, 1)');
INSERT INTO r VALUES (10, 2), (1, 1);
INSERT INTO q VALUES (2);
ALTER TABLE r ADD FOREIGN KEY (k) REFERENCES q;
CALL t.err('UPDATE s37.r SET id = 10 WHERE id = 1');
ALTER TABLE r DROP CONSTRAINT r_k_fkey;
CALL t.err('INSERT INTO s37.r1 VALUES (10, 1)');
ALTER TABLE r DROP COLUMN q2 CASCADE;
CALL t.err('INSERT INTO s37.r VALUES (10, 1)');
ALTER TABLE r ALTER id TYPE bigint;
CALL t.err('INSERT INTO s37.r VALUES (10, 1)');
-- a partition that leaves, and one that comes with the key that it needs
CREATE TABLE qc (id int, k int, q int REFERENCES q ON DELETE CASCADE) PARTITION BY LIST (k);
CREATE TABLE qc1 PARTITION OF qc FOR VALUES IN (1);
ALTER TABLE qc DETACH PARTITION qc1;
CALL t.err('INSERT INTO s37.qc1 VALUES (9, 1, 10)');
ALTER TABLE qc ATTACH PARTITION qc1 FOR VALUES IN (1);
CALL t.err('INSERT INTO s37.qc VALUES (9, 1, 10)');
CREATE TABLE qc2 (id int, k int, q int REFERENCES q ON DELETE CASCADE) PARTITION BY LIST (k);
CREATE TABLE qc22 PARTITION OF qc2 FOR VALUES IN (2);
ALTER TABLE qc ATTACH PARTITION qc2 FOR VALUES IN (2);
CALL t.err('INSERT INTO s37.qc VALUES (9, 2, 10)');
ALTER TABLE qc2 DETACH PARTITION qc22;
CALL t.err('INSERT INTO s37.qc22 VALUES (9, 2, 10)');
SELECT en('qc');
ALTER TABLE qc DETACH PARTITION qc1;
CALL t.err('INSERT INTO s37.qc1 VALUES (9, 1, 10)');
SELECT tgrelid::regclass, tgparentid <> 0 AS is_clone, softaudit.marker_column(tgrelid)
  FROM pg_trigger WHERE tgname = '!softaudit_keys' AND tgrelid::regclass::text LIKE 'qc%' ORDER BY tgrelid::regclass::text;
-- foreign keys to a partition alone
CREATE TABLE pp (id int, k int) PARTITION BY LIST (k);
CREATE TABLE pp1 PARTITION OF pp FOR VALUES IN (1);
ALTER TABLE pp1 ADD PRIMARY KEY (id);
CREATE TABLE pr (id int PRIMARY KEY, p int REFERENCES pp1);
SELECT en('pp');
INSERT INTO pp VALUES (1, 1), (2, 1);
INSERT INTO pr VALUES (1, 1);
CALL t.err('DELETE FROM s37.pp WHERE id = 1');
DELETE FROM pp WHERE id = 2;
CALL t.err('INSERT INTO s37.pr VALUES (2, 2)');
-- a partition's own key, at a restore
CREATE TABLE w (id int, k int) PARTITION BY LIST (k);
CREATE TABLE w1 PARTITION OF w (FOREIGN KEY (id) REFERENCES q ON DELETE CASCADE) FOR VALUES IN (5);
SELECT en('w');
INSERT INTO q VALUES (5);
INSERT INTO w VALUES (5, 5);
DELETE FROM q WHERE id = 5;
SELECT count(*) FROM w;
CALL t.err('UPDATE s37.w SET deleted_at = NULL');
SELECT softaudit.restore('q', 5);
SELECT count(*) FROM w;
-- children that were there before their parent was enabled
CREATE TABLE par (id int PRIMARY KEY);
CREATE TABLE chi (PRIMARY KEY (id)) INHERITS (par);
CREATE TABLE g2 (id int PRIMARY KEY, c int REFERENCES chi);
SELECT en('par');
INSERT INTO chi VALUES (2);
INSERT INTO g2 VALUES (1, 2);
CALL t.err('DELETE FROM s37.chi');
DROP TABLE g2;
CALL t.err('TRUNCATE s37.chi');
-- a column that a child has from its parent, with a key of the child's own
CREATE TABLE above (id int, q int);
CREATE TABLE below (FOREIGN KEY (q) REFERENCES q) INHERITS (above);
ALTER TABLE above ALTER q TYPE bigint;
CALL t.err('INSERT INTO s37.below VALUES (1, 10)');
ALTER TABLE above DROP q CASCADE;
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'below'::regclass;
CREATE TYPE typ AS (id int, q int);
CREATE TABLE typed OF typ (FOREIGN KEY (q) REFERENCES q);
ALTER TYPE typ ALTER ATTRIBUTE q TYPE bigint CASCADE;
CALL t.err('INSERT INTO s37.typed VALUES (1, 10)');
-- one column for both parents
CREATE TABLE i1 (id int);
CREATE TABLE i2 (id int);
SELECT en('i1');
SELECT softaudit.enable('i2', audit => false, deleted_at => 'removed_at');
CALL t.err('CREATE TABLE s37.i12 () INHERITS (s37.i1, s37.i2)');
CREATE TABLE i3 (id int);
CREATE TABLE i13 () INHERITS (i1, i3);
CALL t.err($$SELECT softaudit.enable('s37.i3', audit => false, deleted_at => 'removed_at')$$);
-- the marker of the partitions
SET client_min_messages = warning;
DROP TRIGGER "!softaudit_marker_row" ON pp;
SET client_min_messages = error;
-- keys of composite types go row by row
CREATE TYPE comp AS (a int, b text);
CREATE TABLE cp (x comp PRIMARY KEY);
CREATE TABLE cc (x comp REFERENCES cp ON DELETE CASCADE);
INSERT INTO cp VALUES ((1, 'x')), ((2, 'y'));
SELECT en('cp');
INSERT INTO cc VALUES ((1, 'x')), ((2, 'y'));
SELECT en('cc');
DELETE FROM cp WHERE (x).a = 1;
SELECT * FROM cc;
UPDATE cp SET deleted_at = NULL WHERE (x).a = 1;
SELECT * FROM cc ORDER BY 1;
-- equal is what the parent's collation says
CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE np (id text COLLATE ci PRIMARY KEY);
\set ECHO none
-- PostgreSQL 18 wants the same one on both sides
SELECT CASE WHEN current_setting('server_version_num')::int >= 180000 THEN 'COLLATE ci' ELSE '' END AS same \gset
CREATE TABLE nc (id int PRIMARY KEY, p text :same REFERENCES np ON DELETE CASCADE);
CREATE TABLE nr (id int PRIMARY KEY, p text :same REFERENCES np);
CREATE TABLE nh (id int PRIMARY KEY, p text :same REFERENCES np ON DELETE CASCADE);
\set ECHO queries
SELECT en('np', 'nc');
INSERT INTO np VALUES ('ABC'), ('DEF');
INSERT INTO nc VALUES (1, 'abc');
INSERT INTO nr VALUES (1, 'def');
DELETE FROM np WHERE id = 'ABC';
SELECT count(*) FROM nc;
CALL t.err('DELETE FROM s37.np WHERE id = ''DEF''');
SELECT softaudit.enable('nh', soft_delete => false);
INSERT INTO np VALUES ('GHI');
INSERT INTO nh VALUES (1, 'ghi');
SELECT softaudit.hold('nh', 1, 'litigation');
DELETE FROM np WHERE id = 'GHI';
CALL softaudit.purge('np', '0');
SELECT * FROM nh;
SELECT softaudit.release('nh', 1);
CALL softaudit.purge('np', '0');
SELECT * FROM nh;
-- a cascade into a table whose partitions are told by the mark
CREATE TABLE mp (id int PRIMARY KEY);
CREATE TABLE mc (id int, p int REFERENCES mp ON DELETE CASCADE, deleted_at timestamptz) PARTITION BY LIST ((deleted_at IS NULL));
CREATE TABLE mc_live PARTITION OF mc FOR VALUES IN (true);
CREATE TABLE mc_dead PARTITION OF mc FOR VALUES IN (false);
SELECT en('mp', 'mc');
INSERT INTO mp VALUES (1), (2);
INSERT INTO mc VALUES (1, 1), (2, 2);
DELETE FROM mp WHERE id = 1;
SELECT tableoid::regclass, id FROM mc WHERE deleted_at IS NULL OR deleted_at IS NOT NULL ORDER BY id;
SELECT softaudit.restore('mp', 1);
SELECT tableoid::regclass, id FROM mc WHERE deleted_at IS NULL OR deleted_at IS NOT NULL ORDER BY id;
-- rows that went together and wait for each other
CREATE TABLE users (id int PRIMARY KEY);
CREATE TABLE friends (a int REFERENCES users ON DELETE CASCADE, b int REFERENCES users ON DELETE CASCADE, PRIMARY KEY (a, b));
SELECT en('users', 'friends');
INSERT INTO users VALUES (1), (2);
INSERT INTO friends VALUES (1, 2);
DELETE FROM users WHERE id IN (1, 2);
CALL t.err('SELECT softaudit.restore(''s37.users'', 1)');
UPDATE users SET deleted_at = NULL WHERE id IN (1, 2);
SELECT * FROM friends;
-- markers of two types: all that stands in the way is told, whatever the time zone
CREATE TABLE a1 (id int PRIMARY KEY, email text UNIQUE);
CREATE TABLE a2 (id int PRIMARY KEY, a int REFERENCES a1 ON DELETE CASCADE, tag text UNIQUE, deleted_at timestamp);
SELECT en('a1', 'a2');
INSERT INTO a1 VALUES (1, 'e');
INSERT INTO a2 VALUES (1, 1, 'x'), (2, 1, 'y');
DELETE FROM a1;
INSERT INTO a1 VALUES (2, 'e');
INSERT INTO a2 VALUES (3, 2, 'x'), (4, 2, 'y');
SET TimeZone = 'Asia/Kolkata';
CALL t.err('SELECT softaudit.restore(''s37.a1'', 1)');
RESET TimeZone;
-- whoever may UPDATE the table is told as much
SET ROLE regress_sau_keys;
CREATE TABLE own (id int PRIMARY KEY, email text UNIQUE);
SELECT softaudit.enable('own', audit => false);
INSERT INTO own VALUES (1, 'e');
DELETE FROM own;
INSERT INTO own VALUES (2, 'e');
CALL t.err('SELECT softaudit.restore(''s37.own'', 1)');
RESET ROLE;
-- a trigger that passes over the row, and one that fails elsewhere
CREATE TABLE o (id int PRIMARY KEY);
CREATE TABLE seen (id int CONSTRAINT seen_once PRIMARY KEY);
SELECT en('o');
INSERT INTO o VALUES (1), (2);
DELETE FROM o;
INSERT INTO seen VALUES (2);
CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.id = 1 THEN RETURN NULL; END IF;
    INSERT INTO s37.seen VALUES (NEW.id);
    RETURN NEW;
END $$;
CREATE TRIGGER see BEFORE UPDATE ON o FOR EACH ROW EXECUTE FUNCTION see();
CALL t.err('SELECT softaudit.restore(''s37.o'', 1)');
CALL t.err('SELECT softaudit.restore(''s37.o'', 2)');
CALL t.err('SELECT softaudit.restore(''s37.o'', 3)');
\set ECHO none
DROP SCHEMA s37 CASCADE;
DROP OWNED BY regress_sau_keys;
DROP ROLE regress_sau_keys;
