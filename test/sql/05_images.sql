-- Images: what of a row stands in the log, and how it is written.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
SET client_min_messages = warning;
CREATE SCHEMA s05;
SET search_path = s05, public;
-- the contract's own words: to_jsonb(row) under these settings
CREATE FUNCTION pinned(r anyelement) RETURNS jsonb LANGUAGE plpgsql
    SET TimeZone = 'UTC' SET DateStyle = 'ISO' SET IntervalStyle = 'postgres' SET bytea_output = 'hex'
    SET extra_float_digits = 1 SET lc_monetary = 'C' SET search_path = pg_catalog SET quote_all_identifiers = off
    AS 'BEGIN RETURN to_jsonb(r); END';
CREATE TYPE mood AS ENUM ('sad', 'very "happy"');
CREATE TYPE pair AS (a integer, "B b" timestamptz);
CREATE DOMAIN positive AS numeric(6,2) CHECK (value > 0);
\set ECHO all

-- images: a sample of types, readable
CREATE TABLE sample (id integer PRIMARY KEY, k text, v1 boolean, v2 smallint, v3 bigint, v4 numeric, v5 real, v6 double precision, v7 money,
    v8 text, v9 char(5), v10 "char", v11 name, v12 bytea, v13 date, v14 time, v15 timetz, v16 timestamp, v17 timestamptz, v18 interval,
    v19 uuid, v20 inet, v21 cidr, v22 macaddr, v23 bit(3), v24 varbit, v25 json, v26 jsonb, v27 tsvector, v28 point, v29 int4range,
    v30 tstzmultirange, v31 mood, v32 positive, v33 pair, v34 integer[], v35 text[], v36 regclass, v37 regprocedure, v38 oid, v39 pg_lsn, v40 xid8);
SELECT softaudit.enable('sample', soft_delete => false);
INSERT INTO sample VALUES (1, 'plain', true, -32768, 9223372036854775807, 1234.5600, 0.1, 1.5e-7, '1234.5', 'a"b\c' || chr(10) || '𝄞é', 'ab', 'c', 'n',
    '\x00ff41', '2024-02-29', '12:34:56.789', '12:34:56+05:30', '2024-02-29 12:34:56.789', '2024-02-29 12:34:56.789+02', '1 year -2 days 3:04:05.6',
    'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '192.168.0.1/24', '10.0.0.0/8', '08:00:2b:01:02:03', '101', '1', '{"b": 1, "a" : [1.0, "x"], "b": 2}', '{"b": 1, "a": null}',
    'fat:2 cat:1', '(1,2.5)', '[1,5)', '{[2024-01-01 00:00+00,2024-01-02 00:00+00)}', 'very "happy"', 1.5, (1, '2024-02-29 12:00+02'), '{{1,NULL},{3,4}}',
    '{NULL,"NULL","a,b"}', 's05.sample', 'pinned(anyelement)', 4294967295, '12345678/9ABCDEF0', '18446744073709551615');
SELECT k, v FROM softaudit.history('sample', 1), jsonb_each(new_data) AS j (k, v) ORDER BY length(k), k COLLATE "C";
INSERT INTO sample (id, k, v4, v5, v6, v13, v16, v17, v34, v35) VALUES
    (2, 'odd', 'NaN', 'Infinity', '-0', '0044-03-15 BC', 'infinity', '-infinity', '{}', '[5:6]={a,b}'),
    (3, 'odder', 'Infinity', 'NaN', '-Infinity', 'infinity', '4713-01-01 BC', '294276-12-31 23:59:59.999999+00', '{{1},{2}}', '{}');
SELECT jsonb_strip_nulls(new_data) FROM softaudit.changes WHERE schema_name = 's05' AND table_name = 'sample' AND new_data ->> 'id' IN ('2', '3') ORDER BY audit_id;

-- images: exactly to_jsonb under the fixed settings
SELECT id, pinned(sample) = h.new_data AND pinned(sample)::text = h.new_data::text AS same
  FROM sample, LATERAL softaudit.history('sample', sample.id) h ORDER BY id;

-- images: whatever the writer has set
SET TimeZone = 'Asia/Kathmandu';
SET DateStyle = 'German';
SET IntervalStyle = 'iso_8601';
SET bytea_output = 'escape';
SET extra_float_digits = -10;
SET quote_all_identifiers = on;
UPDATE sample SET k = k;
RESET TimeZone;
RESET DateStyle;
RESET IntervalStyle;
RESET bytea_output;
RESET extra_float_digits;
RESET quote_all_identifiers;
SELECT new_data ->> 'id' AS id, new_data = old_data AS both_same, new_data = (SELECT pinned(s) FROM sample s WHERE s.id = (new_data ->> 'id')::integer) AS same
  FROM softaudit.changes WHERE schema_name = 's05' AND table_name = 'sample' AND operation = 'UPDATE' ORDER BY audit_id;
-- and the writer's settings are his own again
SHOW TimeZone;
SELECT interval '1 year';
TRUNCATE sample;

-- images: more keys than one level of JSONB offsets covers, sorted as JSONB does
DO $$ BEGIN EXECUTE (SELECT format('CREATE TABLE s05.many_keys (id integer PRIMARY KEY, %s)', string_agg(format('%I text', repeat(chr(97 + i % 26), 1 + i % 7) || i), ', ')) FROM generate_series(1, 70) i); END $$;
SELECT softaudit.enable('many_keys', soft_delete => false);
DO $$ BEGIN EXECUTE (SELECT format('INSERT INTO s05.many_keys VALUES (1, %s)', string_agg(CASE WHEN i % 5 = 0 THEN 'NULL' ELSE quote_literal(repeat('v', i)) END, ', ')) FROM generate_series(1, 70) i); END $$;
SELECT h.new_data::text = to_jsonb(m)::text AS same, (SELECT count(*) FROM jsonb_object_keys(h.new_data)) AS keys FROM many_keys m, softaudit.history('many_keys', 1) h;

-- images => changes: the changed columns and the key, both values
SELECT t.skip();
CREATE TABLE part (id integer PRIMARY KEY, a text, b integer, n numeric);
SELECT softaudit.enable('part', soft_delete => false, images => 'changes');
INSERT INTO part VALUES (1, 'a', 1, 1.0);
UPDATE part SET a = 'b' WHERE id = 1;
UPDATE part SET a = NULL, b = 2;
UPDATE part SET a = 'c', b = b;
-- equal to = is not the same to the log
UPDATE part SET n = 1.00;
UPDATE part SET a = a;
UPDATE part SET id = 2;
DELETE FROM part;
SELECT t.changes();
SELECT operation, changed_columns FROM softaudit.history('part', 2);
-- without a key there is nothing to keep of a column that did not change
CREATE TABLE part_keyless (a text, b integer);
SELECT softaudit.enable('part_keyless', soft_delete => false, images => 'changes');
INSERT INTO part_keyless VALUES ('a', 1);
UPDATE part_keyless SET b = 2;
UPDATE part_keyless SET b = 2;
SELECT t.changes();

-- exclude: not in any image, nor in an error's way
CREATE TABLE kept_out (id integer PRIMARY KEY, shown text, hidden text, "Hid""den" text);
SELECT softaudit.enable('kept_out', soft_delete => false, exclude => '{hidden,"Hid\"den"}');
INSERT INTO kept_out VALUES (1, 's', 'secret', 'secret');
UPDATE kept_out SET hidden = 'other secret';
UPDATE kept_out SET shown = 'x', hidden = NULL;
DELETE FROM kept_out;
SELECT t.changes();
SELECT softaudit.enable('kept_out', images => 'changes');
INSERT INTO kept_out VALUES (1, 's', 'secret', 'secret');
UPDATE kept_out SET hidden = 'other secret';
SELECT t.changes();

-- ignore: an UPDATE of nothing else is not logged
CREATE TABLE seen (id integer PRIMARY KEY, v text, last_seen timestamp, hits integer);
SELECT softaudit.enable('seen', soft_delete => false, ignore => '{last_seen,hits}');
INSERT INTO seen VALUES (1, 'a', '2024-01-01', 0);
UPDATE seen SET last_seen = '2024-01-02';
UPDATE seen SET last_seen = '2024-01-03', hits = 1;
UPDATE seen SET v = v;
UPDATE seen SET v = 'b', hits = 2;
UPDATE seen SET id = 2, hits = 3;
DELETE FROM seen;
SELECT t.changes();

-- redact: a digest, the same for the same value, and nothing of the value
CREATE TABLE veiled (id integer PRIMARY KEY, pin text, again text, number integer);
SELECT softaudit.enable('veiled', soft_delete => false, redact => '{pin,again,number}');
INSERT INTO veiled VALUES (1, '1234', '1234', 7), (2, '1234', '4321', NULL);
UPDATE veiled SET pin = '4321' WHERE id = 1;
UPDATE veiled SET number = 8 WHERE id = 1;
SELECT bool_and(new_data ->> 'pin' ~ '^hmac-sha256:[0-9a-f]{64}$') AS digests, bool_or(new_data::text ~ '"(1234|4321)"') AS leaks,
       count(DISTINCT new_data ->> 'pin') AS different_pins, bool_or(new_data ->> 'pin' = new_data ->> 'again') AS same_value_same_digest
  FROM softaudit.changes WHERE schema_name = 's05' AND table_name = 'veiled';
SELECT operation, changed_columns FROM softaudit.history('veiled', 1);
SELECT new_data -> 'number' FROM softaudit.history('veiled', 2);
-- not what anybody could compute who does not have the key
SELECT count(*) FROM softaudit.changes WHERE schema_name = 's05' AND table_name = 'veiled'
   AND new_data ->> 'pin' LIKE '%' || encode(sha256('1234'), 'hex');
-- a redacted key still finds its row's history
CREATE TABLE veiled_key (pin text PRIMARY KEY, v text);
SELECT softaudit.enable('veiled_key', soft_delete => false, redact => '{pin}');
INSERT INTO veiled_key VALUES ('1234', 'a');
UPDATE veiled_key SET v = 'b';
UPDATE veiled_key SET pin = '5678';
SELECT operation, row_key ->> 'pin' ~ '^hmac-sha256:' AS veiled, new_data ->> 'v' AS v FROM softaudit.history('veiled_key', '5678');
SELECT count(*) FROM softaudit.log WHERE concat_ws(' ', row_key, old_row_key, old_data, new_data) ~ '"pin": "(1234|5678)"';
SELECT t.skip();

-- values that JSONB cannot hold: a stand-in, and the write goes on
CREATE TABLE strange (id integer PRIMARY KEY, j json, more text);
SELECT softaudit.enable('strange', soft_delete => false);
INSERT INTO strange VALUES (1, '{"a": "\u0000"}', 'x'), (2, '1e200000', 'y'), (3, '{"a": "\u0041é𝄞", "n": 1e5}', 'z'), (4, '"\\u0000"', 'w');
SELECT new_data #- '{j,sha256}', new_data #>> '{j,sha256}' = encode(sha256(convert_to(s.j::text, 'UTF8')), 'hex') AS digest_of_the_text
  FROM strange s, LATERAL softaudit.history('strange', s.id) ORDER BY s.id;
UPDATE strange SET more = 'xx' WHERE id = 1;
UPDATE strange SET j = '"\u0000\u0000"' WHERE id = 1;
SELECT operation, changed_columns FROM softaudit.history('strange', 1);
DELETE FROM strange;
-- inside of arrays and composites: the column as a whole
CREATE TYPE holder AS (j json, n integer);
CREATE TABLE stranger (id integer PRIMARY KEY, list json[], one holder);
SELECT softaudit.enable('stranger', soft_delete => false);
\set ECHO none
-- to_jsonb() of PostgreSQL itself loses the names of a composite's attributes where caches are discarded amid the call
SET discard.budget = 0;
\set ECHO all
INSERT INTO stranger VALUES (1, ARRAY['1', '"\u0000"']::json[], ('{"n": 1}', 1)), (2, ARRAY['{"n": 1}']::json[], ('"\u0000"', 1));
\set ECHO none
RESET discard.budget;
\set ECHO all
SELECT regexp_replace(new_data::text, '"bytes": \d+, "sha256": "\w+", ', '', 'g') FROM stranger s, LATERAL softaudit.history('stranger', s.id) ORDER BY s.id;
-- a stand-in within a savepoint that stays, in a block that fails
BEGIN;
INSERT INTO strange VALUES (5, '"\u0000"', 'a');
SAVEPOINT a;
INSERT INTO strange VALUES (6, '"\u0000"', 'b');
ROLLBACK TO a;
INSERT INTO strange VALUES (7, '"\u0000"', 'c');
COMMIT;
SELECT t.skip();
SELECT id, count(*) FROM strange s, LATERAL softaudit.history('strange', s.id) WHERE operation = 'INSERT' GROUP BY id ORDER BY id;

-- values with a cast to json: as to_jsonb has them
CREATE TYPE level AS ENUM ('low', 'high', 'none');
CREATE FUNCTION level_json(level) RETURNS json LANGUAGE plpgsql IMMUTABLE AS
    $$ BEGIN IF $1 = 'none' THEN RAISE EXCEPTION 'no level'; END IF; RETURN json_build_object('level', $1::text); END $$;
CREATE TABLE levels (id integer PRIMARY KEY, p level);
SELECT softaudit.enable('levels', soft_delete => false);
INSERT INTO levels VALUES (1, 'low');
CREATE CAST (level AS json) WITH FUNCTION level_json(level);
INSERT INTO levels VALUES (2, 'low'), (3, NULL);
SELECT to_jsonb(levels) FROM levels ORDER BY id;
-- one that raises is a value that to_jsonb refuses
INSERT INTO levels VALUES (4, 'none'), (5, 'high');
SELECT new_data #- '{p,sha256}' #- '{p,bytes}' FROM softaudit.changes WHERE schema_name = 's05' AND table_name = 'levels' ORDER BY audit_id;
SELECT t.skip();

-- one that reads the log on the way does so, one that writes to an audited table is refused
CREATE TABLE side (id integer PRIMARY KEY);
SELECT softaudit.enable('side', soft_delete => false);
CREATE OR REPLACE FUNCTION level_json(level) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
    IF $1 = 'low' THEN
        RETURN json_build_object('in the log', (SELECT count(*) FROM softaudit.changes WHERE schema_name = 's05' AND table_name = 'levels' AND (new_data ->> 'id')::integer > 5));
    ELSIF $1 = 'high' THEN
        BEGIN
            INSERT INTO s05.side VALUES (1);
        EXCEPTION WHEN unique_violation THEN
            NULL;
        END;
        INSERT INTO s05.side VALUES (2);
    END IF;
    RETURN '"nothing"';
END $$;
INSERT INTO levels VALUES (6, 'none'), (7, 'low'), (8, 'high'), (9, 'none'), (10, 'low');
SELECT new_data #- '{p,sha256}' #- '{p,bytes}' FROM softaudit.changes WHERE schema_name = 's05' AND table_name = 'levels' AND (new_data ->> 'id')::integer > 5 ORDER BY audit_id;
SELECT count(*) FROM side;
SELECT count(*) FROM softaudit.changes WHERE schema_name = 's05' AND table_name = 'side';
SELECT t.skip();

-- large values: whole in full images, absent from the changes of other columns
CREATE TABLE big (id integer PRIMARY KEY, small integer, external text, packed text);
ALTER TABLE big ALTER external SET STORAGE EXTERNAL;
SELECT softaudit.enable('big', soft_delete => false, images => 'changes');
INSERT INTO big VALUES (1, 1, repeat('0123456789', 20000), repeat('x', 100000));
SELECT length(new_data ->> 'external'), length(new_data ->> 'packed') FROM softaudit.history('big', 1);
SELECT t.skip();
UPDATE big SET small = 2;
SELECT t.changes();
-- written anew with the same content it did not change
UPDATE big SET external = external || '', small = 3;
SELECT t.changes();
UPDATE big SET external = external || '!', packed = 'short';
SELECT length(old_data ->> 'external'), length(new_data ->> 'external'), length(old_data ->> 'packed'), new_data ->> 'packed', changed_columns
  FROM softaudit.changes WHERE audit_id > current_setting('t.seen')::bigint AND schema_name = 's05' AND table_name = 'big';
SELECT softaudit.enable('big', images => 'full');
UPDATE big SET small = 4;
SELECT h.new_data = to_jsonb(b) AS same FROM big b, LATERAL softaudit.history('big', 1) h ORDER BY h.audit_id DESC LIMIT 1;
-- a key too long for an index row
CREATE TABLE long_key (id text PRIMARY KEY, v integer);
SELECT softaudit.enable('long_key', soft_delete => false);
INSERT INTO long_key VALUES ((SELECT string_agg(md5(i::text), '') FROM generate_series(1, 80) i), 1);
UPDATE long_key SET v = 2;
SELECT operation, length(row_key ->> 'id') FROM softaudit.history('long_key', (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 80) i));

-- changed_columns: of any two images
SELECT softaudit.changed_columns('{"a": 1, "b": 2, "c": null}', '{"a": 1, "b": 3, "c": 4}');
SELECT softaudit.changed_columns('{"a": 1}', '{"a": 1.0}'), softaudit.changed_columns('{}', '{"a": null}'), softaudit.changed_columns('{}', '{}');
SELECT softaudit.changed_columns(NULL, '{"a": 1}'), softaudit.changed_columns('[1]', '{"a": 1}');

-- the writer's extra_float_digits, inside of what an output function writes
CREATE TABLE digits (id integer PRIMARY KEY, list float8[], at point);
SELECT softaudit.enable('digits', soft_delete => false);
SET extra_float_digits = -5;
INSERT INTO digits VALUES (1, '{0.30000000000000004}', '(0.1234567890123456,2)');
RESET extra_float_digits;
SELECT new_data FROM softaudit.history('digits', 1);
DROP TABLE digits;

-- forty columns: the image is stored as to_jsonb() stores it
DO $$ BEGIN EXECUTE (SELECT format('CREATE TABLE forty (id integer PRIMARY KEY, %s)', string_agg(format('c%s text DEFAULT %L', i, i), ', ')) FROM generate_series(2, 40) i); END $$;
SELECT softaudit.enable('forty', soft_delete => false);
INSERT INTO forty VALUES (1);
SELECT ROW(h.new_data)::record *= ROW(to_jsonb(f))::record AS same_bytes FROM forty f, softaudit.history('forty', f.id) h;
DROP TABLE forty;

\set ECHO none
SET client_min_messages = warning;
DROP SCHEMA s05 CASCADE;
