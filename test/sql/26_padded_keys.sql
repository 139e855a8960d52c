-- Keys of type character(n) and bit(n): whole, not cut to a length of one, wherever a key is compared.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
SELECT softaudit.assert_preload() \g /dev/null
CREATE SCHEMA s26;
SET search_path = s26, public;
SET client_min_messages = error;
CREATE TABLE codes (id character(5) PRIMARY KEY);
CREATE TABLE flags (id bit(4) PRIMARY KEY);
CREATE TABLE both_kinds (a character(3), b bit(3), PRIMARY KEY (a, b));
CREATE TABLE orders (id integer PRIMARY KEY, code character(5) REFERENCES codes ON DELETE CASCADE);
SELECT softaudit.enable(t, log_group => 's26') FROM unnest('{codes,flags,both_kinds,orders}'::regclass[]) t \g /dev/null
INSERT INTO codes VALUES ('a'), ('abc'), ('xyz');
INSERT INTO flags VALUES ('1000'), ('1010');
INSERT INTO both_kinds VALUES ('abc', '101');
\echo '-- restore() brings back the row that was named'
DELETE FROM codes;
DELETE FROM flags;
DELETE FROM both_kinds;
SELECT softaudit.restore('codes', 'abc'), softaudit.restore('flags', '1010'), softaudit.restore('both_kinds', '{"a": "abc", "b": "101"}');
SELECT id FROM codes;
SELECT id FROM flags;
SELECT a, b FROM both_kinds;
\echo '-- erase() removes it and no other'
SELECT rows_deleted FROM softaudit.erase('codes', 'xyz', 'asked');
SELECT rows_deleted FROM softaudit.erase('flags', '1010', 'asked');
SELECT rows_deleted FROM softaudit.erase('both_kinds', '{"a": "abc", "b": "101"}', 'asked');
SELECT id FROM softaudit.with_deleted(NULL::codes) ORDER BY id;
SELECT id FROM softaudit.with_deleted(NULL::flags) ORDER BY id;
\echo '-- the purge keeps what a held child hangs on, and the child'
INSERT INTO orders VALUES (1, 'abc');
SELECT softaudit.hold('orders', 1, 'a lawsuit') \g /dev/null
DELETE FROM codes;
CALL softaudit.purge('codes', '0');
SELECT id FROM softaudit.with_deleted(NULL::codes) ORDER BY id;
SELECT id FROM softaudit.with_deleted(NULL::orders);
\echo '-- and takes both when the hold is over'
SELECT softaudit.release('orders', 1) \g /dev/null
CALL softaudit.purge('orders', '0');
CALL softaudit.purge('codes', '0');
SELECT count(*) FROM softaudit.with_deleted(NULL::codes);
DROP SCHEMA s26 CASCADE;
