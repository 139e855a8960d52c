# However the library gets into a session, it works, beside other modules that hook
# into the same places, in either order.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('preload');
$node->init;
$node->start;
my $others = -e `pg_config --pkglibdir` =~ s/\n//r . '/pg_stat_statements.so';
$node->safe_psql('postgres', q(
CREATE EXTENSION softaudit;
ALTER DATABASE postgres RESET session_preload_libraries;
CREATE ROLE plain LOGIN;
CREATE TABLE t (id int PRIMARY KEY, v text);
CREATE TABLE part (id int, side text, PRIMARY KEY (id, side)) PARTITION BY LIST (side);
CREATE TABLE part_l PARTITION OF part FOR VALUES IN ('l');
CREATE TABLE part_r PARTITION OF part FOR VALUES IN ('r');
SELECT softaudit.enable('t', soft_delete => false);
SELECT softaudit.enable('part', soft_delete => false);
GRANT ALL ON t, part TO plain;
CREATE FUNCTION work() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO t SELECT g, 'v' FROM generate_series(1, 1500) g;
	UPDATE t SET v = 'w' WHERE id <= 10;
	BEGIN
		DELETE FROM t;
		RAISE 'back';
	EXCEPTION WHEN raise_exception THEN NULL;
	END;
	DELETE FROM t WHERE id > 10;
	INSERT INTO part SELECT g, 'l' FROM generate_series(1, 5) g;
	UPDATE part SET side = 'r';
	DELETE FROM part;
END $$;
));
my $want = "part DELETE 5\npart INSERT 5\npart UPDATE 5\nt DELETE 1500\nt INSERT 1500\nt UPDATE 10";
my $mark = 0;

sub works
{
	my ($how, %o) = @_;

	for my $sql ('SELECT work(); DELETE FROM t;', 'BEGIN; SELECT work(); DELETE FROM t; COMMIT;', 'EXPLAIN (ANALYZE, COSTS OFF) SELECT work(); DELETE FROM t;')
	{
		$node->safe_psql('postgres', ($o{first} // '') . $sql, extra_params => $o{params} // []);
		is( $node->safe_psql('postgres', "SELECT table_name || ' ' || operation || ' ' || count(DISTINCT audit_id) FROM softaudit.changes
				WHERE audit_id > $mark GROUP BY table_name, operation ORDER BY 1"),
			$want, "$how: $sql");
		$mark = $node->safe_psql('postgres', 'SELECT max(audit_id) FROM softaudit.log');
	}
	is($node->safe_psql('postgres', ($o{first} // '') . 'SELECT softaudit.is_active()'), $o{active} // 't', "$how: is_active()");
}

# Set a preload parameter and restart.
sub preload
{
	my (%p) = @_;

	$node->append_conf('postgresql.conf',
		"shared_preload_libraries = " . ($p{shared} // "''") . "\nsession_preload_libraries = " . ($p{session} // "''"));
	$node->restart;
}

works('by the first trigger', active => 'f');
works('by LOAD', first => "LOAD 'softaudit';");
$node->safe_psql('postgres', q(ALTER DATABASE postgres SET session_preload_libraries = 'softaudit'));
works('by session_preload_libraries of the database');
$node->safe_psql('postgres', q(GRANT SELECT ON softaudit.log TO plain));
is($node->safe_psql('postgres', 'INSERT INTO t VALUES (1, \'p\'); DELETE FROM t; SELECT softaudit.is_active()', extra_params => [ '-U', 'plain' ]),
	't', 'for a role without privileges, too');
$mark = $node->safe_psql('postgres', 'SELECT max(audit_id) FROM softaudit.log');
$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET session_preload_libraries');
preload(session => "'softaudit'");
works('by session_preload_libraries of the server');
preload(shared => "'softaudit'");
works('by shared_preload_libraries');
preload(shared => "'softaudit'", session => "'softaudit'");
works('by both');

SKIP:
{
	skip 'pg_stat_statements and auto_explain are not installed', 1 unless $others;

	my @orders = (
		[ "'softaudit, pg_stat_statements, auto_explain'", "''" ],
		[ "'auto_explain, pg_stat_statements, softaudit'", "''" ],
		[ "'pg_stat_statements, auto_explain'", "'softaudit'" ],
		[ "'pg_stat_statements, auto_explain'", "''" ],
		[ "'softaudit, pg_stat_statements'", "'auto_explain'" ]);
	$node->append_conf('postgresql.conf', qq(
auto_explain.log_min_duration = 0
auto_explain.log_analyze = on
auto_explain.log_triggers = on
auto_explain.log_nested_statements = on
pg_stat_statements.track = all
));
	my $made = 0;
	for my $order (@orders)
	{
		my ($shared, $session) = @$order;
		my $how = "shared $shared, session $session";

		preload(shared => $shared, session => $session);
		$node->safe_psql('postgres', 'CREATE EXTENSION pg_stat_statements') unless $made++;
		$node->safe_psql('postgres', 'SELECT pg_stat_statements_reset()');
		my $log = -s $node->logfile;
		works($how, active => "$shared$session" =~ /softaudit/ ? 't' : 'f');
		is($node->safe_psql('postgres', q(SELECT bool_and(calls >= 3) FROM pg_stat_statements WHERE query LIKE 'UPDATE part SET side%')), 't', "$how: pg_stat_statements counts");
		like(slurp_file($node->logfile, $log), qr/Trigger .*softaudit_capture.*calls=/, "$how: auto_explain sees the trigger");
	}
}

# A misspelt library name in the database's setting must not be our doing: CREATE
# EXTENSION in a database that preloads something keeps that.
$node->safe_psql('postgres', q(CREATE DATABASE mixed; ALTER DATABASE mixed SET session_preload_libraries = 'auto_explain';)) if $others;
if ($others)
{
	preload();
	$node->safe_psql('mixed', 'CREATE EXTENSION softaudit');
	like($node->safe_psql('mixed', 'SHOW session_preload_libraries'), qr/auto_explain/, 'CREATE EXTENSION keeps what a database preloads');
}
$node->stop;
done_testing();
