# A server that is killed under load: every change that a client was told is committed
# is in the log exactly once, and the log holds nothing that the tables do not.
#
# The ledger of acknowledged transactions is what psql prints after each COMMIT, in
# files outside the server.  SOFTAUDIT_CRASH_ROUNDS sets the number of rounds.

use strict;
use warnings;
use Cwd qw(realpath);
use File::Spec;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $rounds = $ENV{SOFTAUDIT_CRASH_ROUNDS} || 3;
my $workers = 4;
my $per_round = 20_000;

my $node = PostgreSQL::Test::Cluster->new('crash');
$node->init;
$node->append_conf('postgresql.conf', qq(
synchronous_commit = on
# a kill of the server leaves the kernel's cache alone
fsync = off
restart_after_crash = off
checkpoint_timeout = 30s
max_wal_size = 64MB
));
$node->start;
$node->safe_psql('postgres', q(
CREATE EXTENSION softaudit;
CREATE TABLE txn (worker int, n int, PRIMARY KEY (worker, n));
CREATE TABLE acct (id int PRIMARY KEY, balance int NOT NULL, by_worker int, by_n int);
INSERT INTO acct SELECT g, 0 FROM generate_series(1, 50) g;
CREATE TABLE part (worker int, n int, g int, side text, PRIMARY KEY (worker, n, g, side)) PARTITION BY LIST (side);
CREATE TABLE part_l PARTITION OF part FOR VALUES IN ('l');
CREATE TABLE part_r PARTITION OF part FOR VALUES IN ('r');
SELECT softaudit.enable('txn', soft_delete => false);
SELECT softaudit.enable('acct', soft_delete => false, log_group => 'accounts');
SELECT softaudit.enable('part', soft_delete => false);
));

# Kill the server and wait until all of it is gone: its processes work in its data
# directory, and the last backends outlive the postmaster by a moment.
sub crash
{
	my $home = realpath($node->data_dir);
	my ($pid) = split /\n/, slurp_file($node->data_dir . '/postmaster.pid');

	$node->kill9;
	for (1 .. 600)
	{
		my @left = grep { (readlink("$_/cwd") // '') eq $home } glob('/proc/[0-9]*');
		return if !@left && !kill(0, $pid);
		usleep(100_000);
	}
	BAIL_OUT('the server outlives its kill');
}

# Log rows that a transaction of each kind leaves, by n % 6.
my @expected = (2, 41, 2, 1, 3, 12);

# The script of one worker for one round.  Transactions lock one shared row at most.
sub script
{
	my ($worker, $from) = @_;
	my $sql = "\\set ON_ERROR_STOP 1\n";
	for my $n ($from .. $from + $per_round - 1)
	{
		my $kind = $n % 6;
		my $acct = 1 + ($n * 7 + $worker) % 50;
		my $begin = "BEGIN; INSERT INTO txn VALUES ($worker, $n);";
		my $bump =
		  "UPDATE acct SET balance = balance + 1, by_worker = $worker, by_n = $n WHERE id = $acct;";
		if ($kind == 0)
		{
			$sql .= "$begin $bump COMMIT;\n";
		}
		elsif ($kind == 1)
		{
			$sql .= "$begin INSERT INTO part SELECT $worker, $n, g, 'l' FROM generate_series(1, 40) g; COMMIT;\n";
		}
		elsif ($kind == 2)
		{
			$sql .= "$begin SAVEPOINT s; DELETE FROM acct WHERE id = $acct; ROLLBACK TO s; $bump COMMIT;\n";
		}
		elsif ($kind == 3)
		{
			$sql .= "BEGIN; INSERT INTO txn VALUES ($worker, -$n); $bump ROLLBACK;\n";
			$sql .= "INSERT INTO txn VALUES ($worker, $n);\n";
		}
		elsif ($kind == 4)
		{
			# a balance of its own comes and goes
			$sql .= "$begin INSERT INTO acct VALUES (1000 + $worker, 0); DELETE FROM acct WHERE id = 1000 + $worker; COMMIT;\n";
		}
		else
		{
			# rows move to the other partition, some go
			my $m = $n - 4;
			$sql .= "$begin UPDATE part SET side = 'r' WHERE worker = $worker AND n = $m AND g <= 10;"
			  . " DELETE FROM part WHERE worker = $worker AND n = $m AND g = 11; COMMIT;\n";
		}
		$sql .= "\\echo $n\n";
	}
	return $sql;
}

my @acked;    # by worker, what its clients were told
my @next = (1) x ($workers + 1);

for my $round (1 .. $rounds)
{
	my @clients;
	for my $worker (1 .. $workers)
	{
		my $in = $node->basedir . "/script_${round}_$worker.sql";
		my $out = $node->basedir . "/ledger_${round}_$worker";
		append_to_file($in, script($worker, $next[$worker]));
		push @clients,
		  {
			worker => $worker,
			ledger => $out,
			run => IPC::Run::start(
				[ 'psql', '-XqAt', '-d', $node->connstr('postgres'), '-f', $in ],
				'>', $out, '2>', "$out.err")
		  };
	}
	usleep(700_000 + int(rand(900_000)));
	crash();
	for my $c (@clients)
	{
		IPC::Run::finish($c->{run});
		my @lines = split /\n/, slurp_file($c->{ledger});
		push @{ $acked[ $c->{worker} ] }, @lines;
		$next[ $c->{worker} ] = $lines[-1] if @lines;
		# one transaction may have been committed and not acknowledged; step over it, and
		# on to where the pattern of six begins again
		$next[ $c->{worker} ] += 2;
		$next[ $c->{worker} ]++ while $next[ $c->{worker} ] % 6 != 0;
		unlike(slurp_file("$c->{ledger}.err"), qr/ERROR/, "round $round: worker $c->{worker} met no error before the kill");
	}

	$node->start;

	my $ledger = $node->basedir . "/acked_$round";
	append_to_file($ledger, join('', map { my $w = $_; map { "$w\t$_\n" } @{ $acked[$w] // [] } } 1 .. $workers));
	$node->safe_psql('postgres', "
		-- nobody has counted the log's rows yet
		ANALYZE;
		DROP TABLE IF EXISTS ledger, logged;
		CREATE TABLE ledger (worker int, n int);
		COPY ledger FROM '" . File::Spec->rel2abs($ledger) . "';
		CREATE TABLE logged AS
		SELECT (c.new_data ->> 'worker')::int AS worker, (c.new_data ->> 'n')::int AS n, p.n_rows
		  FROM softaudit.changes c
		  JOIN (SELECT xid, count(*) AS n_rows FROM softaudit.log GROUP BY xid) p USING (xid)
		 WHERE c.table_name = 'txn' AND c.operation = 'INSERT';
		ANALYZE ledger; ANALYZE logged; ANALYZE txn;");
	my $total = $node->safe_psql('postgres', 'SELECT count(*) FROM ledger');
	cmp_ok($total, '>', 0, "round $round: $total acknowledged transactions so far");

	is( $node->safe_psql('postgres', '
		SELECT count(*) FROM ledger e
		  LEFT JOIN (SELECT worker, n, count(*) AS times FROM logged GROUP BY 1, 2) l USING (worker, n)
		 WHERE l.times IS DISTINCT FROM 1'),
		0, "round $round: every acknowledged transaction is in the log exactly once");
	is( $node->safe_psql('postgres',
			'SELECT count(*) FROM logged WHERE n_rows <> (ARRAY[' . join(',', @expected) . '])[1 + n % 6]'),
		0, "round $round: with all of its rows and no more");
	is( $node->safe_psql('postgres', '
		SELECT count(*) FROM logged l FULL JOIN txn t ON t.worker = l.worker AND t.n = l.n
		 WHERE l.n IS NULL OR t.n IS NULL'),
		0, "round $round: the log has the transactions that the table has");
	is($node->safe_psql('postgres', 'SELECT count(*) - count(DISTINCT audit_id) FROM softaudit.log'),
		0, "round $round: no id twice");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM softaudit.changes WHERE session_user_name IS NULL'),
		0, "round $round: no log row without its session");

	# The rows that the images say are there: all that appeared less all that went.
	for my $t (qw(txn acct part))
	{
		my $first = $t eq 'acct' ? "UNION ALL SELECT jsonb_build_object('id', g, 'balance', 0, 'by_worker', NULL, 'by_n', NULL), 1
			FROM generate_series(1, 50) g" : '';
		is( $node->safe_psql('postgres', "
			SELECT count(*) FROM (
				SELECT image, sum(n) FROM (
					SELECT new_data AS image, 1 AS n FROM softaudit.changes WHERE table_name = '$t' AND new_data IS NOT NULL
					UNION ALL
					SELECT old_data, -1 FROM softaudit.changes WHERE table_name = '$t' AND old_data IS NOT NULL
					UNION ALL
					SELECT to_jsonb(r), -1 FROM $t r
					$first) i
				 GROUP BY image HAVING sum(n) <> 0) wrong"),
			0, "round $round: the images of $t add up to its rows");
	}

	# Each old image of a row is the new image before it.
	is( $node->safe_psql('postgres', "
		SELECT count(*) FROM (
			SELECT old_data, operation, lag(new_data) OVER w AS before, row_number() OVER w AS nth
			  FROM softaudit.changes WHERE table_name = 'acct'
			WINDOW w AS (PARTITION BY row_key ORDER BY audit_id)) c
		 WHERE nth > 1 AND old_data IS DISTINCT FROM before"),
		0, "round $round: no gap in the chain of images of acct");
}

$node->stop;
done_testing();
