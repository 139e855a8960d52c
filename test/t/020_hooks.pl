# Beside a library that hooks the planner and replaces paths, in both orders; levels of nesting and the
# identifier of the query survive errors.

use strict;
use warnings;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use File::Copy;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($headers) = run_command([ 'pg_config', '--includedir-server' ]);
plan skip_all => 'the headers of the server are not installed' unless -e "$headers/postgres.h";

# ---- the library ----

my $dir = PostgreSQL::Test::Utils::tempdir;
copy(dirname(abs_path($0)) . '/../modules/hint_probe/hint_probe.c', $dir) or die "copy: $!";
append_to_file("$dir/Makefile", "MODULES = hint_probe\nPG_CONFIG = pg_config\nPGXS := \$(shell pg_config --pgxs)\ninclude \$(PGXS)\n");
my ($said, $errors) = run_command([ 'make', '-s', '-C', $dir, 'with_llvm=no' ]);
ok(-e "$dir/hint_probe.so", 'the library is built') or BAIL_OUT($errors);

my $node = PostgreSQL::Test::Cluster->new('hooks');
$node->init;
$node->append_conf('postgresql.conf', "compute_query_id = on\n");
$node->start;
$node->safe_psql('postgres', qq(
SET client_min_messages = error;
CREATE EXTENSION softaudit;
CREATE FUNCTION probe(text) RETURNS bigint STRICT LANGUAGE c AS '$dir/hint_probe', 'hint_probe_state';
CREATE TABLE t (id int PRIMARY KEY, name text);
CREATE TABLE part (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (50);
CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (50) TO (1000);
INSERT INTO t SELECT g, 'n' || g FROM generate_series(1, 1000) g;
INSERT INTO part SELECT generate_series(1, 99);
SELECT softaudit.enable('t'), softaudit.enable('part');
ANALYZE t, part;
CREATE FUNCTION live() RETURNS SETOF t LANGUAGE sql STABLE AS 'SELECT * FROM t';
CREATE FUNCTION fails_in_planner() RETURNS int LANGUAGE plpgsql AS \$\$ BEGIN RETURN (SELECT 1 / 0 FROM t LIMIT 1); END \$\$;
CREATE FUNCTION fails_within(int) RETURNS int LANGUAGE plpgsql AS \$\$
DECLARE n int; BEGIN
	DELETE FROM t WHERE id = \$1;
	BEGIN PERFORM fails_in_planner(); EXCEPTION WHEN division_by_zero THEN NULL; END;
	SELECT count(*) INTO n FROM t; RETURN n;
END \$\$;
));
$node->safe_psql('postgres', 'DELETE FROM t WHERE id <= 100; DELETE FROM part WHERE id % 3 = 0');

# ---- both orders ----

for my $libraries ("$dir/hint_probe,softaudit", "softaudit,$dir/hint_probe")
{
	my $order = $libraries =~ /^softaudit/ ? 'softaudit first' : 'softaudit last';
	my %as = (connstr => $node->connstr('postgres') . " options='-c session_preload_libraries=$libraries'");

	my $hinted = 'SELECT /*+ SeqScan */ count(*) FROM t WHERE id < 200';
	is($node->safe_psql('postgres', "$hinted; SELECT count(*) FROM t WHERE id < 200", %as), "99\n99", "$order: rows");
	my $plan = $node->safe_psql('postgres', "EXPLAIN (COSTS off) SELECT /*+ SeqScan */ * FROM t WHERE id = 500", %as);
	like($plan, qr/^Seq Scan on t\n\s+Filter: .*deleted_at IS NULL/, "$order: a path that the other library made has the condition");
	like($node->safe_psql('postgres', 'EXPLAIN (COSTS off) SELECT * FROM t WHERE id = 500', %as), qr/^Index Scan.*deleted_at IS NULL/s,
		"$order: and so has the one that it left");
	is($node->safe_psql('postgres', 'SELECT /*+ SeqScan */ count(*) FROM part; SELECT /*+ SeqScan */ count(*) FROM live() l JOIN part p USING (id)', %as),
		"66\n0", "$order: partitions, functions that are inlined");
	is($node->safe_psql('postgres', 'BEGIN; DELETE /*+ SeqScan */ FROM t WHERE id = 700; SELECT /*+ SeqScan */ count(*) FROM t; SELECT count(*) FROM softaudit.with_deleted(NULL::t); ROLLBACK', %as),
		"899\n1000", "$order: DELETE");
	is($node->safe_psql('postgres', 'PREPARE q AS SELECT /*+ SeqScan */ count(*) FROM t; EXECUTE q; SET softaudit.show_deleted = "only"; EXECUTE q; RESET softaudit.show_deleted; EXECUTE q', %as),
		"900\n100\n900", "$order: a prepared statement follows show_deleted");

	# each query is planned by the other library once, with its own identifier
	is($node->safe_psql('postgres', "SELECT probe('planned') AS before \\gset\nSELECT count(*) FROM t;\nSELECT probe('planned') - :before", %as), "900\n2",
		"$order: a query is planned once");
	my ($said_id) = $node->safe_psql('postgres', 'EXPLAIN (VERBOSE) SELECT count(*) FROM t WHERE id > 7', %as) =~ /Query Identifier: (-?\d+)/;
	like($said_id, qr/^-?[1-9]\d*$/, "$order: EXPLAIN knows the identifier");

	# errors, at the top and within
	my ($rc, $out, $err) = $node->psql('postgres', "SELECT 1 / 0 FROM t;
		SELECT fails_in_planner();
		SELECT probe('nesting');
		SELECT count(*) FROM t;
		BEGIN; SELECT fails_within(900); SELECT probe('nesting'); ROLLBACK;
		SELECT /*+ SeqScan */ count(*) FROM t;
		SHOW enable_indexscan;", %as, on_error_stop => 0);
	is($out, "0\n900\n899\n0\n900\non", "$order: errors in the planner leave levels, settings and the filter as they were");
	my @messages = $err =~ /ERROR:  (.*)/g;
	is("@messages", 'division by zero division by zero', "$order: and those errors alone were raised");
	my ($id_before, $id_after) = map { $node->safe_psql('postgres', "$_ EXPLAIN (VERBOSE, COSTS off) SELECT count(*) FROM t WHERE id > 7", %as) =~ /Query Identifier: (-?\d+)/ }
		('', "DO 'BEGIN PERFORM fails_in_planner(); EXCEPTION WHEN division_by_zero THEN NULL; END';");
	is($id_after, $id_before, "$order: the identifier of a query is the same after an error");
	is($id_before, $said_id, "$order: and in each session");
}
is($node->safe_psql('postgres', q(SELECT count(*) FROM softaudit.with_deleted(NULL::t) t; SELECT operation, count(*) FROM softaudit.changes WHERE table_name = 't' GROUP BY 1)),
	"1000\nSOFT_DELETE|100", 'the log holds what was committed');

done_testing();
