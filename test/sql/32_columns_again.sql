-- an excluded or redacted column that is dropped and added again is kept out under its next name, too
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE TABLE ca (id int PRIMARY KEY, a text, b text, c text);
SELECT softaudit.enable('ca', soft_delete => false, exclude => '{a}', redact => '{b}');
INSERT INTO ca VALUES (1, 'secret', 'secret', 'c');
ALTER TABLE ca DROP COLUMN a;
UPDATE ca SET c = 'none';
ALTER TABLE ca ADD a text;
UPDATE ca SET a = 'secret', c = 'again';
ALTER TABLE ca RENAME a TO a2;
UPDATE ca SET a2 = 'secret', c = 'renamed';
ALTER TABLE ca RENAME b TO a;
UPDATE ca SET a = 'secret', c = 'other';
SELECT operation, new_data - 'b' - 'a' AS new_data, new_data ? 'b' AS b, new_data ->> 'a' ~ '^hmac' AS a
  FROM softaudit.changes WHERE table_name = 'ca' ORDER BY audit_id;
-- of one command
ALTER TABLE ca DROP COLUMN a2, ADD a2 text;
ALTER TABLE ca RENAME a2 TO a3;
UPDATE ca SET a3 = 'secret', c = 'last';
SELECT new_data - 'a' AS new_data FROM softaudit.changes WHERE table_name = 'ca' ORDER BY audit_id DESC LIMIT 1;
SELECT exclude, redact FROM softaudit.registry WHERE relation = 'ca'::regclass;
DROP TABLE ca;
