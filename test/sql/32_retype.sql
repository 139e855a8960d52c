-- a column of a foreign key may change its type and be dropped
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE TABLE rt_parent (id int PRIMARY KEY);
CREATE TABLE rt_child (id int PRIMARY KEY, parent int REFERENCES rt_parent ON DELETE CASCADE);
CREATE TABLE rt_plain (id int, parent int REFERENCES rt_parent) PARTITION BY LIST (id);
CREATE TABLE rt_plain_all PARTITION OF rt_plain DEFAULT;
SELECT softaudit.enable('rt_parent');
SELECT softaudit.enable('rt_child');
INSERT INTO rt_parent VALUES (1), (2);
INSERT INTO rt_child VALUES (1, 1), (2, 2);
ALTER TABLE rt_child ALTER parent TYPE bigint, ADD note text;
ALTER TABLE rt_plain ALTER parent TYPE bigint;
ALTER TABLE rt_parent ALTER id TYPE bigint;
DELETE FROM rt_parent WHERE id = 1;
SELECT id, parent FROM rt_child;
INSERT INTO rt_child VALUES (3, 1);
INSERT INTO rt_plain VALUES (3, 1);
-- the marker's type stays, and so does a trigger where the command fails or is somebody else's
-- details are worded by the major
\set VERBOSITY terse
ALTER TABLE rt_child ALTER deleted_at TYPE timestamp;
ALTER TABLE rt_child ALTER parent TYPE boolean USING parent / 0 = 1;
\set VERBOSITY default
CREATE ROLE regress_sau_retype;
SET ROLE regress_sau_retype;
ALTER TABLE rt_child ALTER parent TYPE int;
RESET ROLE;
DROP ROLE regress_sau_retype;
-- dropped, also of a table that is not enabled itself
ALTER TABLE rt_child ADD second bigint REFERENCES rt_parent;
ALTER TABLE rt_child DROP COLUMN parent;
ALTER TABLE rt_child ALTER second TYPE int;
INSERT INTO rt_child VALUES (3, NULL, NULL, 1);
SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE tgname = '!softaudit_keys' AND tgrelid::regclass::text ~ '^rt_' ORDER BY 1;
ALTER TABLE rt_plain DROP COLUMN parent;
ALTER TABLE rt_child DROP COLUMN second, DROP COLUMN note;
SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE tgname = '!softaudit_keys' AND tgrelid::regclass::text ~ '^rt_' ORDER BY 1;
DROP TABLE rt_plain, rt_child, rt_parent;
