# Soft delete and PostgreSQL's tools: a dump in every mode has all rows and brings the
# marker back, a standby filters, logical replication's initial copy is complete.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('tools');
$node->init(allows_streaming => 'logical');
$node->start;
my $dir = PostgreSQL::Test::Utils::tempdir();
$node->safe_psql('postgres', 'CREATE DATABASE src');
$node->safe_psql('src', q(
SET client_min_messages = error;
CREATE EXTENSION softaudit;
CREATE TABLE parent (id int PRIMARY KEY, code text UNIQUE);
CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent ON DELETE CASCADE, v text);
CREATE TABLE pt (id int, k int, v text, UNIQUE (k, id)) PARTITION BY LIST (k);
CREATE TABLE pt1 PARTITION OF pt FOR VALUES IN (1);
CREATE TABLE pt2 PARTITION OF pt FOR VALUES IN (2);
CREATE TABLE base (id int, gone int, deleted_at timestamptz);
CREATE TABLE heir (x int) INHERITS (base);
ALTER TABLE base DROP COLUMN gone;
CREATE TABLE rls (id int PRIMARY KEY);
ALTER TABLE rls ENABLE ROW LEVEL SECURITY;
INSERT INTO parent SELECT g, 'c' || g FROM generate_series(1, 50) g;
INSERT INTO child SELECT g, g, 'v' FROM generate_series(1, 50) g;
INSERT INTO pt SELECT g, 1 + g % 2, 'v' FROM generate_series(1, 50) g;
INSERT INTO base VALUES (1), (2);
INSERT INTO heir (id, x) VALUES (3, 3), (4, 4);
INSERT INTO rls SELECT generate_series(1, 10);
SELECT softaudit.enable(t) FROM unnest('{parent,child,pt,base,rls}'::regclass[]) t;
DELETE FROM parent WHERE id <= 10;
DELETE FROM pt WHERE id <= 10;
DELETE FROM base WHERE id IN (1, 3);
DELETE FROM rls WHERE id = 1;
INSERT INTO parent VALUES (100, 'c1');
));
my $all = q(SET softaudit.show_deleted = on;
SELECT 'parent', id, code, deleted_at FROM parent UNION ALL SELECT 'child', id, p::text, deleted_at FROM child
UNION ALL SELECT 'pt' || k, id, v, deleted_at FROM pt UNION ALL SELECT tableoid::regclass::text, id, '', deleted_at FROM base
UNION ALL SELECT 'rls', id, '', deleted_at FROM rls ORDER BY 1, 2;);
my $live = q(SELECT (SELECT count(*) FROM parent), (SELECT count(*) FROM child), (SELECT count(*) FROM pt), (SELECT count(*) FROM pt1),
	(SELECT count(*) FROM base), (SELECT count(*) FROM heir), (SELECT count(*) FROM rls));
my $rows = $node->safe_psql('src', $all);
my $seen = $node->safe_psql('src', $live);
is($seen, '41|40|40|20|2|1|9', 'what is live at the source');

# ---- dumps ----

my %mode = (
	plain => [],
	inserts => ['--inserts'],
	'column-inserts' => ['--column-inserts'],
	'row-security' => ['--enable-row-security'],
	'row-security and inserts' => [ '--enable-row-security', '--inserts', '--rows-per-insert=7' ],
	serializable => ['--serializable-deferrable'],
	'disabled triggers' => [ '--disable-triggers' ],
	directory => [ '-Fd', '-j2' ],
	custom => ['-Fc']);
my $n = 0;
for my $mode (sort keys %mode)
{
	$n++;
	my $db = "copy$n";
	my $file = "$dir/dump$n";
	my @options = @{ $mode{$mode} };
	$node->command_ok([ 'pg_dump', '-p', $node->port, '-h', $node->host, @options, '-f', $file, 'src' ], "pg_dump, $mode");
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	if (grep { /^-F/ } @options)
	{
		$node->command_ok([ 'pg_restore', '-p', $node->port, '-h', $node->host, '-d', $db, '--exit-on-error', '-j2', $file ], "pg_restore, $mode");
	}
	else
	{
		$node->command_ok([ 'psql', '-X', '-q', '-p', $node->port, '-h', $node->host, '-d', $db, '-v', 'ON_ERROR_STOP=1', '-f', $file ], "restored, $mode");
	}
	is($node->safe_psql($db, $all), $rows, "$mode: every row is there");
	# the setting of the database is not in a dump; loading the library by hand is what a session without it does
	is($node->safe_psql($db, "LOAD 'softaudit'; $live"), $seen, "$mode: and the deleted ones are hidden");
	is($node->safe_psql($db, "LOAD 'softaudit'; DELETE FROM parent WHERE id = 11; SELECT (SELECT count(*) FROM parent), (SELECT count(*) FROM child), softaudit.restore('parent', 2)"), '40|39|2',
		"$mode: deletion and restore go on");
	my ($rc, $out, $err) = $node->psql($db, "LOAD 'softaudit'; SELECT softaudit.restore('parent', 1)");
	like($err, qr/a live row has taken its place/, "$mode: uniqueness among live rows, too");
	# a scheduler's maintain() or the next enable() has sessions load the library
	$node->safe_psql($db, "SELECT softaudit.enable('parent')");
	is($node->safe_psql($db, $live), $node->safe_psql($db, "LOAD 'softaudit'; $live"), "$mode: new sessions are protected after enable()");
}

# the workers of a parallel restore may make a foreign key before the markers and the triggers that it needs
$node->command_ok([ 'pg_dump', '-p', $node->port, '-h', $node->host, '-Fc', '-f', "$dir/keys", 'src' ], 'a dump to restore in other orders');
my ($listing) = run_command([ 'pg_restore', '-l', "$dir/keys" ]);
my @entries = split /\n/, $listing;
my ($key) = grep { /FK CONSTRAINT public child / } @entries;
for my $before ('child !softaudit_keys', 'parent !softaudit_keys', 'child !softaudit_marker', 'parent !softaudit_marker')
{
	my $order = "$dir/order";
	my @order = map { /TRIGGER public \Q$before\E postgres|TRIGGER public \Q$before\E \S+$/ ? ($key, $_) : $_ } grep { $_ ne $key } @entries;
	is(scalar(@order), scalar(@entries), "the foreign key is moved before $before");
	PostgreSQL::Test::Utils::append_to_file($order, join("\n", @order) . "\n");
	$node->safe_psql('postgres', 'CREATE DATABASE keys');
	$node->command_ok([ 'pg_restore', '-p', $node->port, '-h', $node->host, '-d', 'keys', '--exit-on-error', '-L', $order, "$dir/keys" ], "restored, foreign key before $before");
	is($node->safe_psql('keys', "LOAD 'softaudit'; DELETE FROM parent WHERE id = 11; SELECT (SELECT count(*) FROM parent), (SELECT count(*) FROM child)"), '40|39',
		"it cascades with the foreign key made before $before");
	$node->safe_psql('postgres', 'DROP DATABASE keys');
	unlink $order;
}
$node->command_ok([ 'pg_dump', '-p', $node->port, '-h', $node->host, '-t', 'child', '--data-only', '-f', "$dir/single", 'src' ], 'a single table');
is(scalar(grep { /^\d+\t/ } split /\n/, slurp_file("$dir/single")), 50, 'has all its rows');
$node->command_ok([ 'pg_dump', '-p', $node->port, '-h', $node->host, '--data-only', '-f', "$dir/data", 'src', '-t', 'parent', '-t', 'child' ], 'data alone');
$node->safe_psql('copy1', 'SET session_replication_role = replica; SET softaudit.hard_delete = on; TRUNCATE parent, child');
$node->command_ok([ 'psql', '-X', '-q', '-p', $node->port, '-h', $node->host, '-d', 'copy1', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/data" ],
	'goes into tables with their keys: deleted children of deleted parents are no violation');
is($node->safe_psql('copy1', 'SET softaudit.show_deleted = on; SELECT (SELECT count(*) FROM parent), (SELECT count(*) FROM child)'), '51|50', 'all of it');
# what looks like a dump by one sign only is none
is($node->safe_psql('src', "SET synchronize_seqscans = off; $live"), $seen, 'one setting does not make a dump');
is($node->safe_psql('src', "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; $live"), $seen, 'nor does a read-only snapshot');
is($node->safe_psql('src', "SET row_security = off; $live"), $seen, 'nor does row_security');

# ---- a standby ----

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->safe_psql('src', 'DELETE FROM rls WHERE id = 2');
$node->wait_for_catchup($standby);
is($standby->safe_psql('src', $live), '41|40|40|20|2|1|8', 'a standby filters');
is($standby->safe_psql('src', 'SET softaudit.show_deleted = on; SELECT count(*) FROM rls'), '10', 'and shows when asked');
my ($rc, $out, $err) = $standby->psql('src', 'DELETE FROM rls');
like($err, qr/cannot execute DELETE in a read-only transaction/, 'a DELETE is refused there as a DELETE');
$standby->stop;

# ---- logical replication: the initial copy has every row ----

# a walsender does not load what sessions preload; one of a server that loads us for all does
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'softaudit'\n");
$node->restart;

$node->safe_psql('src', 'CREATE PUBLICATION p FOR TABLE child, rls; CREATE PUBLICATION q FOR TABLE pt WITH (publish_via_partition_root)');
my $sub = PostgreSQL::Test::Cluster->new('sub');
$sub->init(allows_streaming => 'logical');
$sub->start;
$sub->safe_psql('postgres', q(
CREATE TABLE child (id int PRIMARY KEY, p int, v text, deleted_at timestamptz);
CREATE TABLE rls (id int PRIMARY KEY, deleted_at timestamptz);
CREATE TABLE pt (id int, k int, v text, deleted_at timestamptz);
));
my $connstr = $node->connstr . ' dbname=src';
$sub->safe_psql('postgres', "CREATE SUBSCRIPTION s CONNECTION '$connstr' PUBLICATION p, q");
$sub->wait_for_subscription_sync($node, 's');
is($sub->safe_psql('postgres', 'SELECT (SELECT count(*) FROM child), (SELECT count(*) FROM rls), (SELECT count(*) FROM pt), (SELECT count(deleted_at) FROM child)'), '50|10|50|10',
	'the initial copy is complete');
$node->safe_psql('src', 'DELETE FROM child WHERE id = 20');
$node->wait_for_catchup('s');
is($sub->safe_psql('postgres', 'SELECT count(deleted_at) FROM child'), '11', 'a soft delete arrives as the update that it is');
$sub->safe_psql('postgres', 'DROP SUBSCRIPTION s');

done_testing();
