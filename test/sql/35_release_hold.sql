-- Holds that no table or key names any more are ended by their number.
SET client_min_messages = warning;
\set VERBOSITY terse
CREATE SCHEMA s35;
CREATE TABLE s35.gone (id int PRIMARY KEY);
CREATE TABLE s35.keyless (id int CONSTRAINT keyless_key PRIMARY KEY);
SELECT softaudit.enable('s35.gone'), softaudit.enable('s35.keyless');
INSERT INTO s35.gone VALUES (1);
INSERT INTO s35.keyless VALUES (1), (2);
SELECT softaudit.hold('s35.gone', 'matter 35-1');
SELECT softaudit.hold('s35.keyless', 1, 'matter 35-2');
SELECT softaudit.hold('s35.keyless', 2, 'matter 35-3');
SELECT hold_id AS of_gone FROM softaudit.holds WHERE reason = 'matter 35-1' \gset
SELECT hold_id AS of_row FROM softaudit.holds WHERE reason = 'matter 35-2' \gset
DROP TABLE s35.gone;
ALTER TABLE s35.keyless DROP CONSTRAINT keyless_key;
SELECT softaudit.release('s35.keyless', 1);
UPDATE softaudit.holds SET held_at = '2020-01-01 12:00' WHERE reason LIKE 'matter 35-%' AND reason <> 'matter 35-3';
SELECT object, advice, regexp_replace(sql, '[0-9]+', 'N') AS sql FROM softaudit.advise() WHERE object LIKE 's35.%' AND advice LIKE '% is held since %';
CREATE ROLE regress_sau_stranger;
GRANT USAGE ON SCHEMA softaudit TO regress_sau_stranger;
SET ROLE regress_sau_stranger;
SELECT softaudit.release_hold(:of_row);
RESET ROLE;
SELECT softaudit.release_hold(:of_gone);
SELECT softaudit.release_hold(:of_row);
SELECT count(*) FROM softaudit.advise() WHERE object LIKE 's35.%' AND advice LIKE '% is held since %';
SELECT reason FROM softaudit.holds WHERE reason LIKE 'matter 35-%';
SELECT event, relation, reason, details ? 'row_ref' AS of_a_row FROM softaudit.events WHERE event = 'RELEASE' AND schema_name = 's35' ORDER BY 2;
SELECT softaudit.release_hold(-1);
SELECT softaudit.release_hold(NULL);
SELECT softaudit.release_hold(hold_id) FROM softaudit.holds WHERE reason = 'matter 35-3';
GRANT EXECUTE ON FUNCTION softaudit.release_hold(bigint) TO regress_sau_stranger;
SET ROLE regress_sau_stranger;
SELECT softaudit.release_hold(-1);
RESET ROLE;
REVOKE EXECUTE ON FUNCTION softaudit.release_hold(bigint) FROM regress_sau_stranger;
DROP SCHEMA s35 CASCADE;
REVOKE USAGE ON SCHEMA softaudit FROM regress_sau_stranger;
DROP ROLE regress_sau_stranger;
