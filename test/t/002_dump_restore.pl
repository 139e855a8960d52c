# pg_dump and pg_restore: a database comes back with its tables, settings, log, capture
# and guards; nothing is audited on the way; what is excluded or redacted stays so,
# also where column numbers change.  A table that is restored alone refuses writes.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('dump');
$node->init;
$node->start;
my $dir = PostgreSQL::Test::Utils::tempdir();

$node->safe_psql('postgres', 'CREATE ROLE app; CREATE DATABASE src;');
$node->safe_psql('src', q(
CREATE EXTENSION softaudit;
SET client_min_messages = warning;
CREATE SCHEMA "Odd Schema";
-- numbers of the columns behind the dropped ones change in a dump
CREATE TABLE people (gone1 int, id int PRIMARY KEY, gone2 text, name text, secret text, pin text, seen_at timestamptz);
ALTER TABLE people DROP COLUMN gone1, DROP COLUMN gone2;
CREATE TABLE "Odd Schema"."Odd Table" ("Id" uuid PRIMARY KEY, v jsonb);
CREATE TABLE part (id int, region text, v text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE part_n PARTITION OF part FOR VALUES IN ('n');
CREATE TABLE part_s PARTITION OF part FOR VALUES IN ('s');
CREATE TABLE repl (id int PRIMARY KEY, v text);
CREATE TABLE was (id int PRIMARY KEY, v text);
CREATE TABLE off (id int PRIMARY KEY, v text);
SELECT softaudit.enable('people', soft_delete => false, exclude => '{secret}', redact => '{pin}', ignore => '{seen_at}');
SELECT softaudit.enable('"Odd Schema"."Odd Table"', soft_delete => false, log_group => 'Odd Group', partition_by => '1 day', keep_log => '90 days');
SELECT softaudit.enable('part', soft_delete => false, images => 'changes');
SELECT softaudit.enable('repl', soft_delete => false, replicated => true);
SELECT softaudit.enable('was', soft_delete => false);
SELECT softaudit.enable('off', soft_delete => false);
INSERT INTO people VALUES (1, 'Ada', 'S1', '1234'), (2, 'Bob', 'S2', '9999');
BEGIN;
SELECT softaudit.act_as('ada');
SET LOCAL softaudit.context = '{"request": 7}';
UPDATE people SET name = 'Ada L.', pin = '4321' WHERE id = 1;
COMMIT;
UPDATE people SET id = 20 WHERE id = 2;
INSERT INTO "Odd Schema"."Odd Table" SELECT md5(g::text)::uuid, to_jsonb(g) FROM generate_series(1, 2000) g;
INSERT INTO part SELECT g, 'n', 'x' FROM generate_series(1, 10) g;
UPDATE part SET region = 's' WHERE id <= 3;
INSERT INTO repl VALUES (1, 'r');
INSERT INTO was VALUES (1, 'w');
INSERT INTO off VALUES (1, 'o');
DROP TABLE was;
SELECT softaudit.disable('off');
INSERT INTO off VALUES (2, 'o');
GRANT SELECT ON softaudit.changes TO app;
GRANT SELECT, UPDATE ON people TO app;
));

# All that the restored database must have alike.  Relations by name: their OIDs change.
my $state = q(
SET TimeZone = 'UTC';
SELECT 'log', count(*), md5(string_agg(l::text, E'\n' ORDER BY audit_id)) FROM softaudit.log l;
SELECT 'changes', count(*), md5(string_agg(c::text, E'\n' ORDER BY audit_id)) FROM softaudit.changes c;
SELECT 'sessions', count(*), md5(string_agg(s::text, E'\n' ORDER BY session_id)) FROM softaudit.log_sessions s;
SELECT 'events', count(*), md5(string_agg(e::text, E'\n' ORDER BY event_id)) FROM softaudit.events e;
SELECT 'groups', count(*), md5(string_agg(g::text, E'\n' ORDER BY group_id)) FROM softaudit.log_groups g;
SELECT 'registry', r.relation, to_jsonb(r) - 'relation' FROM softaudit.registry r ORDER BY table_id;
SELECT 'secret', md5(s::text) FROM softaudit.log_secret s;
SELECT 'triggers', tgrelid::regclass, tgname, tgenabled, tgtype FROM pg_trigger
 WHERE NOT tgisinternal ORDER BY 2, 3;
SELECT 'event triggers', evtname, evtenabled FROM pg_event_trigger ORDER BY 2;
SELECT 'relations', oid::regclass, relkind, relreplident, relispartition, relowner::regrole, relacl, pg_get_expr(relpartbound, oid)
  FROM pg_class WHERE relnamespace = 'softaudit'::regnamespace ORDER BY 2;
SELECT 'columns', attrelid::regclass, attname, attstorage, attcompression FROM pg_attribute
 WHERE attrelid::regclass::text LIKE 'softaudit.log%' AND attnum > 0 AND NOT attisdropped ORDER BY 2, 3;
SELECT 'sequences', schemaname, sequencename, increment_by, last_value FROM pg_sequences ORDER BY 2, 3;
SELECT 'history', operation, changed_by, row_key, old_data, new_data, context FROM softaudit.history('people', 20);
SELECT 'dropped', operation, new_data FROM softaudit.history_of('public', 'was', '1');
);

# The registry's settings of the source as the restored one must report them.
my $expected = $node->safe_psql('src', $state);
like($expected, qr/^log\|20\d\d\|/m, 'the source has a log');
like($expected, qr/^dropped\|INSERT\|/m, 'and history of a dropped table');

# A restore that went wrong shall not keep the other ways from being looked at.
sub check_restored
{
	my ($db, $how) = @_;

	eval { look_at_restored($db, $how); 1 } or fail("$how: " . substr($@, 0, 300));
}

# What came back, and what the restored database does with changes.
sub look_at_restored
{
	my ($db, $how) = @_;
	my %want = map { $_ => 1 } split /\n/, $expected;
	my %got = map { $_ => 1 } split /\n/, $node->safe_psql($db, $state);
	my $differ = join "\n", (map { "- $_" } grep { !$got{$_} } sort keys %want), (map { "+ $_" } grep { !$want{$_} } sort keys %got);

	is($differ, '', "$how: tables, settings, log, guards and sequences are back, and nothing was audited");
	my ($max_id, $max_session, $n) = split /\|/,
	  $node->safe_psql($db, 'SELECT max(audit_id), (SELECT max(session_id) FROM softaudit.log_sessions), count(*) FROM softaudit.log');

	$node->safe_psql($db, q(
		SET client_min_messages = warning;
		UPDATE people SET secret = 'S3', name = 'Ada K.' WHERE id = 1;
		UPDATE people SET seen_at = now() WHERE id = 1;
		UPDATE people SET pin = '1234' WHERE id = 1;
		INSERT INTO part VALUES (77, 's', 'new');
		UPDATE part SET region = 'n' WHERE id = 77;
		INSERT INTO repl VALUES (2, 'r');
		INSERT INTO off VALUES (3, 'o');
		UPDATE "Odd Schema"."Odd Table" SET v = '"changed"' WHERE "Id" = md5('5')::uuid;
		TRUNCATE part_n;
	));
	is( $node->safe_psql($db, "SELECT table_name, operation, count(*) FROM softaudit.changes WHERE audit_id > $max_id GROUP BY 1, 2 ORDER BY 1, 2"),
		"Odd Table|UPDATE|1\npart|INSERT|1\npart|TRUNCATE|1\npart|UPDATE|1\npeople|UPDATE|2\nrepl|INSERT|1",
		"$how: changes are captured as before, under new ids");
	is( $node->safe_psql($db, "SELECT count(*) FROM softaudit.log WHERE audit_id > $max_id AND session_id <= $max_session"),
		0, "$how: under new session ids");
	is( $node->safe_psql($db, "SELECT count(*) FROM softaudit.changes WHERE old_data ? 'secret' OR new_data ? 'secret'"),
		0, "$how: the excluded column stays out");
	is( $node->safe_psql($db, q(SELECT count(DISTINCT new_data -> 'pin'), count(*) FROM softaudit.history('people', 1)
			WHERE changed_columns IS NULL OR changed_columns @> '{pin}')),
		'2|3', "$how: a value has the digest that it had before, another has another");
	is( $node->safe_psql($db, q(SELECT count(*) FROM softaudit.changes WHERE new_data ->> 'pin' IN ('1234', '4321', '9999'))),
		0, "$how: the redacted column shows no value");
	is( $node->safe_psql($db, q(SELECT string_agg(operation, ' ' ORDER BY audit_id) FROM softaudit.history('"Odd Schema"."Odd Table"', md5('5')::uuid))),
		'INSERT UPDATE', "$how: the history goes on where it was");

	for my $sql ('DELETE FROM softaudit.log', 'UPDATE softaudit.events SET reason = NULL',
		q(INSERT INTO softaudit.log SELECT * FROM softaudit.log LIMIT 1),
		'TRUNCATE softaudit.log', 'DROP TABLE softaudit.log_sessions')
	{
		my ($ret, $out, $err) = $node->psql($db, $sql);
		isnt($ret, 0, "$how: refused: $sql");
	}
	my ($ret, $out, $err) = $node->psql($db, "SELECT softaudit.enable('people', images => 'changes')");
	is($ret, 0, "$how: settings can be changed");
	$node->safe_psql($db, 'CALL softaudit.maintain()');
	is( $node->safe_psql($db, q(SELECT exclude, redact, ignore, images FROM softaudit.registry WHERE relation = 'people'::regclass)),
		'{secret}|{pin}|{seen_at}|changes', "$how: and the others are kept");
}

my @ways = (
	[ 'plain', ['-Fp'], undef ],
	[ 'custom', ['-Fc'], [] ],
	[ 'directory', [ '-Fd', '-j2' ], ['-j2'] ],
	[ 'custom, parallel', ['-Fc'], ['-j2'] ],
	[ 'inserts', [ '-Fp', '--inserts', '--rows-per-insert=100' ], undef ]);

my $i = 0;
for my $way (@ways)
{
	my ($how, $dump, $restore) = @$way;
	my $db = 'dst' . ++$i;
	my $file = "$dir/$db";

	$node->command_ok([ 'pg_dump', @$dump, '-f', $file, '-d', $node->connstr('src') ], "$how: pg_dump");
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	if ($restore)
	{
		$node->command_ok([ 'pg_restore', '--exit-on-error', @$restore, '-d', $node->connstr($db), $file ], "$how: pg_restore");
	}
	else
	{
		$node->command_ok([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-o', "$file.out", '-d', $node->connstr($db), '-f', $file ], "$how: psql");
	}
	check_restored($db, $how);
}

# --clean over a database that has it all, and in one transaction
$node->command_ok([ 'pg_restore', '--exit-on-error', '--single-transaction', '-d', $node->connstr('postgres'), "$dir/dst2" ],
	'custom, one transaction: pg_restore');
check_restored('postgres', 'custom, one transaction');

# A second generation: a dump of what was restored.
$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/second", '-d', $node->connstr('dst1') ], 'second generation: pg_dump');
$node->safe_psql('postgres', 'CREATE DATABASE second');
$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr('second'), "$dir/second" ], 'second generation: pg_restore');
is( $node->safe_psql('second', "SELECT md5(string_agg(c::text, E'\n' ORDER BY audit_id)) FROM softaudit.changes c"),
	$node->safe_psql('dst1', "SELECT md5(string_agg(c::text, E'\n' ORDER BY audit_id)) FROM softaudit.changes c"),
	'second generation: the log is the same');

# Schema first, data after, with triggers asleep, as the hint of the guard says.
$node->safe_psql('postgres', 'CREATE DATABASE twostep');
$node->command_ok([ 'pg_restore', '--exit-on-error', '--section=pre-data', '-d', $node->connstr('twostep'), "$dir/dst2" ], 'in sections: pre-data');
$node->command_ok([ 'pg_restore', '--exit-on-error', '--section=data', '-d', $node->connstr('twostep'), "$dir/dst2" ], 'in sections: data');
$node->command_ok([ 'pg_restore', '--exit-on-error', '--section=post-data', '-d', $node->connstr('twostep'), "$dir/dst2" ], 'in sections: post-data');
check_restored('twostep', 'in sections');

# One table alone, into a database that does not know it: writes are refused, with a hint.
for my $into (qw(strange busy))
{
	$node->safe_psql('postgres', "CREATE DATABASE $into");
	$node->safe_psql($into, 'CREATE EXTENSION softaudit');
	$node->safe_psql($into, q(
		SET client_min_messages = warning;
		CREATE TABLE mine (id int PRIMARY KEY, v text);
		SELECT softaudit.enable('mine', soft_delete => false);
		INSERT INTO mine VALUES (1, 'm');)) if $into eq 'busy';
	$node->command_ok([ 'pg_dump', '-Fc', '-t', 'people', '-f', "$dir/people_$into", '-d', $node->connstr('src') ], "one table, $into: pg_dump");
	$node->command_ok([ 'pg_restore', '-d', $node->connstr($into), '--no-acl', "$dir/people_$into" ], "one table, $into: pg_restore");
	is($node->safe_psql($into, 'SELECT count(*) FROM people'), 2, "one table, $into: its rows are there");
	for my $sql (q(INSERT INTO people (id) VALUES (50)), q(UPDATE people SET secret = 'x'), 'DELETE FROM people', 'TRUNCATE people')
	{
		my ($ret, $out, $err) = $node->psql($into, $sql);
		isnt($ret, 0, "one table, $into: refused: $sql");
		like($err, qr/HINT:.*softaudit\.enable\(\)/, "one table, $into: with a hint");
	}
	$node->safe_psql($into, q(
		SET client_min_messages = warning;
		SELECT softaudit.enable('people', soft_delete => false, exclude => '{secret}', redact => '{pin}');
		UPDATE people SET name = 'now';));
	is( $node->safe_psql($into, q(SELECT count(*), count(*) FILTER (WHERE new_data ? 'secret') FROM softaudit.changes WHERE table_name = 'people')),
		'2|0', "one table, $into: enable() takes it up");
	is($node->safe_psql($into, q(SELECT count(*) FROM softaudit.changes WHERE table_name = 'mine')), 1,
		"one table, $into: the other's log is untouched") if $into eq 'busy';
}

$node->stop;
done_testing();
