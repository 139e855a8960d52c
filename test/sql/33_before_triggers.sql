-- What BEFORE triggers of the user's set is followed as what a statement names.
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE TABLE parent (id int PRIMARY KEY, state text);
CREATE TABLE child (id int PRIMARY KEY, ref int REFERENCES parent ON DELETE CASCADE, wanted int, note text);
INSERT INTO parent SELECT g, 'open' FROM generate_series(1, 6) g;
INSERT INTO child SELECT g, g, g FROM generate_series(1, 4) g;
SELECT softaudit.enable('parent', audit => false), softaudit.enable('child', audit => false);
CREATE FUNCTION how_fired(rel regclass) RETURNS text LANGUAGE sql AS
$$ SELECT substring(pg_get_triggerdef(oid) FROM 'AFTER (.*) ON ') FROM pg_trigger WHERE tgrelid = rel AND tgname = '!softaudit_keys' $$;
SELECT how_fired('parent'), how_fired('child');
DELETE FROM parent WHERE id = 5;

-- a reference that no statement names
CREATE FUNCTION take_wanted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.ref := NEW.wanted; RETURN NEW; END $$;
CREATE TRIGGER take_wanted BEFORE UPDATE ON child FOR EACH ROW EXECUTE FUNCTION take_wanted();
SELECT how_fired('parent'), how_fired('child');
UPDATE child SET wanted = 5 WHERE id = 1;
UPDATE child SET wanted = 6 WHERE id = 1 RETURNING ref;
-- one that stays as it is refers to no row anew
ALTER TABLE child DISABLE TRIGGER take_wanted;
UPDATE child SET wanted = 2 WHERE id = 2;
ALTER TABLE child ENABLE TRIGGER take_wanted;
WITH u AS (UPDATE child SET note = 'x' RETURNING id, ref) SELECT * FROM u ORDER BY id;

-- a mark that no statement names goes along the foreign keys
CREATE FUNCTION close_it() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN NEW.deleted_at := CASE WHEN NEW.state = 'closed' THEN COALESCE(NEW.deleted_at, now()) ELSE NEW.deleted_at END; RETURN NEW; END $$;
CREATE TRIGGER close_it BEFORE UPDATE ON parent FOR EACH ROW EXECUTE FUNCTION close_it();
SELECT how_fired('parent');
UPDATE parent SET state = 'closed' WHERE id = 3;
SELECT id FROM parent ORDER BY id;
SELECT id, ref FROM child ORDER BY id;

-- the trigger stays until the next change of the table: what is too much does no harm
DROP TRIGGER take_wanted ON child;
SELECT how_fired('child');
ALTER TABLE child ADD COLUMN more int;
SELECT how_fired('child');

-- of a partition; where triggers are there before enable(), too
CREATE TABLE parts (id int, ref int REFERENCES parent, wanted int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (10) TO (20);
INSERT INTO parts VALUES (1, 1, 1), (11, 1, 1);
SELECT how_fired('parts'), how_fired('parts_2');
CREATE TRIGGER take_wanted BEFORE UPDATE ON parts_2 FOR EACH ROW EXECUTE FUNCTION take_wanted();
SELECT how_fired('parts'), how_fired('parts_2');
UPDATE parts SET wanted = 5 WHERE id = 11;
UPDATE parts_2 SET wanted = 5 WHERE id = 11;
UPDATE parts SET wanted = 2 WHERE id = 11 RETURNING ref;
CREATE TABLE later (id int PRIMARY KEY, ref int REFERENCES parent, wanted int);
SELECT how_fired('later');
CREATE TABLE before_it (id int PRIMARY KEY, ref int, wanted int);
CREATE TRIGGER take_wanted BEFORE UPDATE ON before_it FOR EACH ROW EXECUTE FUNCTION take_wanted();
INSERT INTO before_it VALUES (1, 1, 1);
ALTER TABLE before_it ADD FOREIGN KEY (ref) REFERENCES parent;
SELECT how_fired('before_it');
UPDATE before_it SET wanted = 5;

-- by one who may make triggers on the table and is not its owner
CREATE ROLE softaudit_regress_maker;
GRANT TRIGGER ON later TO softaudit_regress_maker;
GRANT EXECUTE ON FUNCTION take_wanted() TO softaudit_regress_maker;
SET ROLE softaudit_regress_maker;
CREATE TRIGGER take_wanted BEFORE UPDATE ON later FOR EACH ROW EXECUTE FUNCTION take_wanted();
RESET ROLE;
SELECT how_fired('later');
DROP TABLE parts, later, before_it, child, parent;
DROP FUNCTION take_wanted(), close_it(), how_fired(regclass);
DROP ROLE softaudit_regress_maker;
