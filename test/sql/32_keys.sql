-- keys of arrays, rows and jsonb as the log writes them; holds and renamed key columns
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SET softaudit.show_deleted = off;
CREATE TYPE k32_row AS (a int, b text);
CREATE FUNCTION k32(type text, one text, other text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    call text;
    n bigint;
BEGIN
    EXECUTE format('CREATE TABLE k32 (k %s PRIMARY KEY, v int)', type);
    PERFORM softaudit.enable('k32');
    EXECUTE format('INSERT INTO k32 VALUES (%L, 1), (%L, 2)', one, other);
    DELETE FROM k32;
    FOREACH call IN ARRAY ARRAY['SELECT count(*) FROM softaudit.history(''k32'', %1$L)', 'SELECT softaudit.restore(''k32'', %1$L)',
                                'SELECT count(softaudit.hold(''k32'', %1$L, ''r'')::text)', 'SELECT sum(rows_deleted) FROM softaudit.erase(''k32'', %1$L, ''r'')',
                                'SELECT sum(rows_deleted) FROM softaudit.erase(''k32'', %2$L, ''r'')', 'SELECT count(softaudit.release(''k32'', %1$L)::text)',
                                'SELECT sum(rows_deleted) FROM softaudit.erase(''k32'', %1$L, ''r'')'] LOOP
        BEGIN
            EXECUTE format(call, one, other) INTO n;
            RETURN NEXT format('%s %s: %s', type, substring(call FROM '\.([a-z_]+)'), n);
        EXCEPTION WHEN OTHERS THEN
            RETURN NEXT format('%s %s: %s', type, substring(call FROM '\.([a-z_]+)'), SQLERRM);
        END;
    END LOOP;
    DROP TABLE k32;
END
$$;
SELECT k32('int[]', '{1,2}', '{3}');
SELECT k32('text[]', '{"a b",NULL}', '{c}');
SELECT k32('jsonb', '"abc"', '{"a":[1,2.0]}');
SELECT k32('jsonb', 'null', '1.0');
SELECT k32('k32_row', '(1,"x y")', '(2,)');

-- of several columns, as history() shows the key, and an array also as text
CREATE TABLE k32_more (a int[], b jsonb, c text, v int, PRIMARY KEY (a, b, c));
SELECT softaudit.enable('k32_more');
INSERT INTO k32_more VALUES ('{1,2}', '"x"', 'q'), ('{3}', '{"z":1}', 'r');
DELETE FROM k32_more;
SELECT operation, row_key FROM softaudit.history('k32_more', '{"a":"{1,2}","b":"x","c":"q"}');
SELECT h.row_key, softaudit.restore('k32_more', h.row_key) FROM softaudit.history('k32_more', '{"a":[1,2],"b":"x","c":"q"}') h LIMIT 1;
SELECT softaudit.restore('k32_more', '{"a":"{3}","b":{"z":1},"c":"r"}');
SELECT softaudit.restore('k32_more', '{"a":"{3}","b":{"z":1},"c":null}');
SELECT rows_deleted, images_removed FROM softaudit.erase('k32_more', '{"a":[3],"b":{"z":1},"c":"r"}', 'r');
TABLE k32_more;

-- a hold follows its row when the key's column is renamed
CREATE TABLE k32_parent (id int PRIMARY KEY);
CREATE TABLE k32_child (id int PRIMARY KEY, parent int REFERENCES k32_parent ON DELETE CASCADE);
SELECT softaudit.enable('k32_parent'), softaudit.enable('k32_child');
INSERT INTO k32_parent SELECT generate_series(1, 3);
INSERT INTO k32_child SELECT id, id FROM k32_parent;
SELECT softaudit.hold('k32_child', 1, 'litigation');
ALTER TABLE k32_child RENAME id TO child_id;
SELECT * FROM softaudit.erase('k32_parent', 1, 'r');
DELETE FROM k32_parent WHERE id < 3;
SET client_min_messages = notice;
CALL softaudit.purge('k32_child', '0 s');
CALL softaudit.purge('k32_parent', '0 s');
SET client_min_messages = warning;
SELECT child_id FROM softaudit.with_deleted(NULL::k32_child) ORDER BY 1;
SELECT id FROM softaudit.with_deleted(NULL::k32_parent) ORDER BY 1;
-- a hold by a key that is no more the primary key keeps all rows
ALTER TABLE k32_child ADD other int DEFAULT 7;
ALTER TABLE k32_child DROP CONSTRAINT k32_child_pkey, ADD PRIMARY KEY (child_id, other);
SELECT * FROM softaudit.erase('k32_parent', 3, 'r');
ALTER TABLE k32_child DROP CONSTRAINT k32_child_pkey, ADD PRIMARY KEY (child_id);
SELECT softaudit.release('k32_child', 1);
SELECT relation, rows_deleted FROM softaudit.erase('k32_parent', 1, 'r');
-- one on a key that the row had before keeps its images
INSERT INTO k32_child (child_id) VALUES (10);
SELECT softaudit.hold('k32_child', 10, 'litigation');
UPDATE k32_child SET child_id = 11 WHERE child_id = 10;
UPDATE k32_child SET child_id = 12 WHERE child_id = 11;
SELECT * FROM softaudit.erase('k32_child', 12, 'r', dry_run => true);
SELECT * FROM softaudit.erase('k32_child', 12, 'r');
SELECT new_data ->> 'child_id' AS child_id FROM softaudit.history('k32_child', 12);
SELECT softaudit.release('k32_child', 10);
SELECT relation, rows_deleted FROM softaudit.erase('k32_child', 12, 'r');
DROP TABLE k32_more, k32_child, k32_parent;
DROP FUNCTION k32;
DROP TYPE k32_row;
