# Logical replication: changes that it applies are logged where replicated is set and
# nowhere else, with their origin; and the log itself can be published.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $pub = PostgreSQL::Test::Cluster->new('pub');
$pub->init(allows_streaming => 'logical');
$pub->start;
my $sub = PostgreSQL::Test::Cluster->new('sub');
$sub->init(allows_streaming => 'logical');
$sub->start;
$sub->safe_psql('postgres', 'CREATE DATABASE archive');
my $connstr = $pub->connstr . ' dbname=postgres';

my $tables = q(
CREATE TABLE silent (id int PRIMARY KEY, v text);
CREATE TABLE loud (id int PRIMARY KEY, v text);
CREATE TABLE loud_part (id int, region text, v text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE loud_part_n PARTITION OF loud_part FOR VALUES IN ('n');
CREATE TABLE loud_part_s PARTITION OF loud_part FOR VALUES IN ('s');
);
$_->safe_psql('postgres', "CREATE EXTENSION softaudit; $tables") for ($pub, $sub);
$pub->safe_psql('postgres', q(
INSERT INTO loud SELECT g, 'first' FROM generate_series(1, 3) g;
CREATE PUBLICATION feed FOR TABLE silent, loud, loud_part WITH (publish_via_partition_root = true);
));
$sub->safe_psql('postgres', qq(
SELECT softaudit.enable('silent', soft_delete => false);
SELECT softaudit.enable('loud', soft_delete => false, replicated => true);
SELECT softaudit.enable('loud_part', soft_delete => false, replicated => true);
CREATE SUBSCRIPTION feed CONNECTION '$connstr' PUBLICATION feed;
));
$sub->wait_for_subscription_sync($pub, 'feed');
is($sub->safe_psql('postgres', q(SELECT count(*) FROM softaudit.changes WHERE table_name = 'loud')), 3, 'the first copy is logged where asked for');

$pub->safe_psql('postgres', q(
INSERT INTO silent VALUES (1, 'a');
UPDATE silent SET v = 'b';
BEGIN;
INSERT INTO loud VALUES (10, 'a');
UPDATE loud SET v = 'b' WHERE id = 10;
UPDATE loud SET id = 11 WHERE id = 10;
DELETE FROM loud WHERE id = 1;
COMMIT;
INSERT INTO loud_part SELECT g, 'n', 'x' FROM generate_series(1, 5) g;
UPDATE loud_part SET region = 's' WHERE id = 1;
TRUNCATE silent;
TRUNCATE loud;
));
$pub->wait_for_catchup('feed');
is($sub->safe_psql('postgres', q(SELECT count(*) FROM softaudit.changes WHERE table_name = 'silent')), 0, 'replicated => false logs nothing of what is applied');
is( $sub->safe_psql('postgres', q(SELECT string_agg(operation, ' ' ORDER BY audit_id), count(DISTINCT xid) FROM softaudit.changes
		WHERE table_name = 'loud' AND new_data ->> 'v' IS DISTINCT FROM 'first')),
	'INSERT UPDATE UPDATE DELETE TRUNCATE|2', 'replicated => true logs it, a transaction as one');
is( $sub->safe_psql('postgres', q(SELECT operation, count(*) FROM softaudit.changes WHERE table_name = 'loud_part' GROUP BY 1 ORDER BY 1)),
	"DELETE|1\nINSERT|6", 'partitions, too; a row that changed partition was sent as two changes');
is( $sub->safe_psql('postgres', q(SELECT count(DISTINCT c.origin), bool_and(c.origin = 'pg_' || s.oid)
		FROM softaudit.changes c, pg_subscription s WHERE c.operation <> 'INSERT' OR c.new_data ->> 'v' <> 'first')),
	'1|t', 'the origin is recorded');

# A plain table's rows in partitions of the subscriber's own: a row that an UPDATE moves there is one row, and
# a row that is deleted beside one that is inserted is not.
$pub->safe_psql('postgres', q(
CREATE TABLE spread (id int PRIMARY KEY, v text);
INSERT INTO spread SELECT g, 'first' FROM generate_series(1, 6) g;
CREATE PUBLICATION spread FOR TABLE spread;
));
$sub->safe_psql('postgres', qq(
SET client_min_messages = warning;
CREATE TABLE spread (v text, id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE spread_1 (id int NOT NULL, gone int, v text);
ALTER TABLE spread_1 DROP gone;
ALTER TABLE spread ATTACH PARTITION spread_1 FOR VALUES FROM (0) TO (100);
CREATE TABLE spread_2 PARTITION OF spread FOR VALUES FROM (100) TO (200);
SELECT softaudit.enable('spread', soft_delete => false, replicated => true);
CREATE SUBSCRIPTION spread CONNECTION '$connstr' PUBLICATION spread;
));
$sub->wait_for_subscription_sync($pub, 'spread');
$pub->safe_psql('postgres', q(
UPDATE spread SET id = 101 WHERE id = 1;
UPDATE spread SET v = 'second' WHERE id = 101;
BEGIN;
DELETE FROM spread WHERE id = 2;
INSERT INTO spread VALUES (102, 'another');
UPDATE spread SET id = id + 100, v = 'moved' WHERE id IN (3, 4);
DELETE FROM spread WHERE id = 5;
COMMIT;
BEGIN;
DELETE FROM spread WHERE id = 6;
TRUNCATE spread;
COMMIT;
));
$pub->wait_for_catchup('spread');
is( $sub->safe_psql('postgres', q(SELECT string_agg(operation, ' ' ORDER BY audit_id) FROM softaudit.changes WHERE table_name = 'spread'
		AND (operation = 'UPDATE' OR new_data ->> 'v' IS DISTINCT FROM 'first'))),
	'UPDATE UPDATE DELETE INSERT UPDATE UPDATE DELETE DELETE TRUNCATE', 'a row that an applied UPDATE moves is updated, one that is deleted is deleted');
is( $sub->safe_psql('postgres', q(SELECT string_agg(format('%s %s %s', operation, old_data ->> 'id', new_data ->> 'id'), ', ' ORDER BY audit_id) FROM softaudit.history('spread', 101))),
	'INSERT  1, UPDATE 1 101, UPDATE 101 101', 'and its history goes on');

# a local change has none, and the settings may change meanwhile
$sub->safe_psql('postgres', q(
SET client_min_messages = warning;
INSERT INTO loud VALUES (99, 'local');
SELECT softaudit.enable('loud', replicated => false);
SELECT softaudit.enable('silent', replicated => true);
));
is( $sub->safe_psql('postgres', q(SELECT origin IS NULL FROM softaudit.changes WHERE new_data ->> 'v' = 'local')), 't', 'a local change has no origin');
$pub->safe_psql('postgres', q(INSERT INTO loud VALUES (20, 'quiet now'); INSERT INTO silent VALUES (20, 'heard now');));
$pub->wait_for_catchup('feed');
is($sub->safe_psql('postgres', q(SELECT count(*) FROM softaudit.changes WHERE new_data ->> 'v' = 'quiet now')), 0, 'the apply worker follows a switch to false');
is($sub->safe_psql('postgres', q(SELECT count(*) FROM softaudit.changes WHERE new_data ->> 'v' = 'heard now')), 1, 'and to true');

# The log itself published.
$pub->safe_psql('postgres', q(
SET client_min_messages = warning;
SELECT softaudit.enable('loud', soft_delete => false);
SELECT softaudit.enable('silent', soft_delete => false, log_group => 'late');
CREATE PUBLICATION everything FOR ALL TABLES;
CREATE PUBLICATION log_only FOR TABLE softaudit.log WITH (publish_via_partition_root = true);
SELECT pg_create_logical_replication_slot('watch', 'test_decoding');
));
my $columns = $pub->safe_psql('postgres', q(
	SELECT string_agg(format('%I %s', attname, format_type(atttypid, atttypmod)), ', ' ORDER BY attnum)
	  FROM pg_attribute WHERE attrelid = 'softaudit.log'::regclass AND attnum > 0 AND NOT attisdropped));
$sub->safe_psql('archive', qq(
CREATE SCHEMA softaudit;
CREATE TABLE softaudit.log ($columns);
CREATE SUBSCRIPTION archive CONNECTION '$connstr' PUBLICATION log_only;
));
$sub->wait_for_subscription_sync($pub, 'archive', 'archive');
$pub->safe_psql('postgres', q(
SET client_min_messages = warning;
INSERT INTO loud SELECT g, 'bulk' FROM generate_series(1001, 1500) g;
UPDATE loud SET v = 'one' WHERE id = 1001;
DELETE FROM loud WHERE id = 1002;
TRUNCATE silent;
));
$pub->wait_for_catchup('archive');
is( $sub->safe_psql('archive', 'SELECT count(*), count(DISTINCT audit_id) FROM softaudit.log'),
	$pub->safe_psql('postgres', 'SELECT count(*), count(DISTINCT audit_id) FROM softaudit.log'), 'a subscriber has all rows of the log');
is( $sub->safe_psql('archive', q(SELECT operation, new_data ->> 'v' FROM softaudit.log WHERE operation = 'UPDATE')), 'UPDATE|one', 'whole');
like($pub->safe_psql('postgres', q(SELECT data FROM pg_logical_slot_get_changes('watch', NULL, NULL) WHERE data LIKE '%softaudit.log_g%' AND data LIKE '%"one"%')),
	qr/INSERT:/, 'logical decoding shows the log row');

# Rows of the default leaf go home, and an image is erased, as publications of all
# tables see it: a DELETE and an UPDATE of tables without a key.  DDL and changes of
# the log are refused, so what refuses them is switched off for a moment.
$pub->safe_psql('postgres', q(
SET client_min_messages = warning;
ALTER EVENT TRIGGER softaudit_ddl_start DISABLE;
ALTER EVENT TRIGGER softaudit_sql_drop DISABLE;
DO $$
DECLARE leaf regclass;
BEGIN
	FOR leaf IN SELECT b.leaf FROM softaudit.log_groups g, softaudit.partition_bounds(g.group_id) b
	             WHERE g.group_name = 'late' AND NOT b.is_default LOOP
		EXECUTE format('DROP TABLE %s', leaf);
	END LOOP;
END $$;
ALTER EVENT TRIGGER softaudit_ddl_start ENABLE ALWAYS;
ALTER EVENT TRIGGER softaudit_sql_drop ENABLE ALWAYS;
INSERT INTO silent SELECT g, 'stray' FROM generate_series(1, 5) g;
));
my ($ret, $out, $err) = $pub->psql('postgres', 'CALL softaudit.maintain()');
is($err, '', 'maintain() moves rows of a published default leaf');
is( $pub->safe_psql('postgres', q(SELECT count(*), bool_or(tableoid::regclass::text LIKE '%default') FROM softaudit.log WHERE new_data ->> 'v' = 'stray')),
	'5|f', 'they are home');
my $leaf = $pub->safe_psql('postgres', q(SELECT DISTINCT tableoid::regclass FROM softaudit.log WHERE new_data ->> 'v' = 'stray'));
($ret, $out, $err) = $pub->psql('postgres', qq(
ALTER EVENT TRIGGER softaudit_ddl_start DISABLE;
ALTER TABLE $leaf DISABLE TRIGGER USER;
UPDATE $leaf SET old_data = NULL, new_data = NULL WHERE new_data ->> 'v' = 'stray' AND new_data ->> 'id' = '1';
ALTER TABLE $leaf ENABLE TRIGGER USER;
ALTER EVENT TRIGGER softaudit_ddl_start ENABLE ALWAYS;
));
is($err, '', 'an UPDATE of a published leaf is possible');
like($pub->safe_psql('postgres', q(SELECT data FROM pg_logical_slot_get_changes('watch', NULL, NULL) WHERE data LIKE '%softaudit.log_g%UPDATE%')),
	qr/UPDATE: old-key:.*"stray"/, 'and decoding names the row that it changed');

$sub->safe_psql('postgres', "DROP SUBSCRIPTION $_") for qw(feed spread);
$sub->safe_psql('archive', 'DROP SUBSCRIPTION archive');
$sub->stop;
$pub->stop;
done_testing();
