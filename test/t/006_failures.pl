# What fails amid a write: no room for the log, a timeout or a cancel while it is
# written, an error late in a COPY or a MERGE.  The table is as before, nothing is
# logged, and the session works on.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $node = PostgreSQL::Test::Cluster->new('failures');
# small WAL segments, so that a limit on file sizes meets the log first
$node->init(extra => ['--wal-segsize=1']);
$node->append_conf('postgresql.conf', "autovacuum = off\nmax_wal_size = 64MB");
$node->start;
$node->safe_psql('postgres', q(
CREATE EXTENSION softaudit;
CREATE TABLE t (id int PRIMARY KEY, v text);
CREATE TABLE big (id int PRIMARY KEY, v text);
CREATE TABLE child (id int PRIMARY KEY, t_id int REFERENCES t DEFERRABLE INITIALLY DEFERRED);
SELECT softaudit.enable('t', soft_delete => false);
SELECT softaudit.enable('big', soft_delete => false);
SELECT softaudit.enable('child', soft_delete => false);
INSERT INTO t SELECT g, 'v' FROM generate_series(1, 10) g;
CREATE FUNCTION survive(n int) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO t VALUES (5001, 'outer');
	BEGIN
		INSERT INTO t SELECT g, repeat('x', 200) FROM generate_series(6001, 6000 + n) g;
	EXCEPTION WHEN OTHERS THEN
		RETURN SQLERRM;
	END;
	RETURN 'nothing happened';
END $$;
CREATE VIEW leaf AS SELECT tableoid::regclass AS leaf FROM softaudit.log LIMIT 1;
));
my $leaf = $node->safe_psql('postgres', 'SELECT leaf FROM leaf');

my $session = $node->background_psql('postgres', on_error_stop => 0);
my $pid = $session->query('SELECT pg_backend_pid()');
chomp $pid;

# Run SQL in the session; returns what it printed and its errors.
sub run_in_session
{
	my ($sql) = @_;

	$session->{stderr} = '';
	my $out = $session->query($sql);
	my $err = $session->{stderr};
	$session->{stderr} = '';
	return ($out, $err);
}

# The rows of the table are what the log says, and nothing is logged that is not there.
sub log_agrees
{
	my ($what) = @_;

	for my $t (qw(t big child))
	{
		is( $node->safe_psql('postgres', "
			SELECT count(*) FROM (
				SELECT image, sum(n) FROM (
					SELECT new_data AS image, 1 AS n FROM softaudit.changes WHERE table_name = '$t' AND new_data IS NOT NULL
					UNION ALL
					SELECT old_data, -1 FROM softaudit.changes WHERE table_name = '$t' AND old_data IS NOT NULL
					UNION ALL
					SELECT to_jsonb(r), -1 FROM $t r) i
				 GROUP BY image HAVING sum(n) <> 0) wrong"),
			0, "$what: the log of $t adds up to its rows");
	}
	is($node->safe_psql('postgres', 'SELECT count(*) FROM softaudit.changes WHERE session_user_name IS NULL'),
		0, "$what: no log row without its session");
}

my $count = 'SELECT count(*) FROM softaudit.log';

# Run a statement in the session that must fail, and see that it left nothing.
sub fails
{
	my ($what, $sql, $error) = @_;
	my $before = $node->safe_psql('postgres', $count);

	my ($out, $err) = run_in_session($sql);
	like($err, $error, "$what: the statement fails");
	is($node->safe_psql('postgres', $count), $before, "$what: nothing is logged");
	log_agrees($what);
}

# And that the same session is fit to go on.
my $next_id = 100;

sub goes_on
{
	my ($what) = @_;
	my $before = $node->safe_psql('postgres', $count);

	$next_id++;
	my ($out, $err) = run_in_session("INSERT INTO t VALUES ($next_id, 'on')");
	is($err, '', "$what: the session goes on");
	is($node->safe_psql('postgres', $count), $before + 1, "$what: and its changes are logged once");
}

# ---- no room for the log ----
#
# A limit on the size of files stands in for the full disk: the kernel refuses to
# extend the log's leaf, which is made larger than any other file is.
SKIP:
{
	skip 'prlimit is not there, so a full disk is not tried', 1
	  if system("prlimit --pid $$ --fsize >/dev/null 2>&1") != 0;

	$node->safe_psql('postgres', q(INSERT INTO big SELECT g, repeat(md5(g::text), 20) FROM generate_series(1, 3000) g; DELETE FROM big WHERE id > 100; VACUUM big; CHECKPOINT;));
	$node->safe_psql('postgres', q(UPDATE t SET v = v));
	my $size = $node->safe_psql('postgres', "SELECT pg_relation_size('$leaf')");
	cmp_ok($size, '>', 2 * 1024 * 1024, 'the leaf is larger than a WAL segment');
	my $limit = sub { system("prlimit --pid $pid --fsize=$_[0]: ") == 0 or die 'prlimit failed'; };

	$limit->($size);
	fails('full disk, many rows', q(INSERT INTO t SELECT g, repeat('x', 200) FROM generate_series(1001, 4000) g), qr/could not (extend|write)/);
	fails('full disk, many rows in one transaction', q(BEGIN; INSERT INTO t VALUES (5500, 'a'); UPDATE t SET v = repeat('y', 2000000) WHERE id = 1; INSERT INTO t SELECT g, repeat('x', 200) FROM generate_series(1001, 4000) g; COMMIT;), qr/could not (extend|write)/);
	run_in_session('ROLLBACK');
	fails('full disk, COPY', qq(COPY t (id, v) FROM PROGRAM 'seq -f "%.0f x" 1001 4000' (DELIMITER ' ')), qr/could not (extend|write)/);

	# an exception block survives it, with what it did before: room for that one row
	$limit->($node->safe_psql('postgres', "SELECT pg_relation_size('$leaf')") + 65536);
	my ($said) = run_in_session('SELECT survive(3000)');
	like($said, qr/could not (extend|write)/, 'full disk in an exception block: caught');
	is($node->safe_psql('postgres', q(SELECT count(*) FROM t WHERE v = 'outer')), 1, 'full disk in an exception block: what came before it stays');
	is($node->safe_psql('postgres', q(SELECT count(*) FROM softaudit.changes WHERE new_data ->> 'v' = 'outer')), 1,
		'full disk in an exception block: and is logged');
	log_agrees('full disk in an exception block');

	# one row a statement until there is no room any more
	my ($i, $err) = (1000, '');
	while ($err eq '' && $i < 3000)
	{
		$i++;
		(undef, $err) = run_in_session("INSERT INTO t VALUES ($i, repeat('z', 500))");
	}
	like($err, qr/could not (extend|write)/, 'full disk, one row: the statement fails');
	is($node->safe_psql('postgres', "SELECT count(*) FROM t WHERE id = $i"), 0, 'full disk, one row: the row is not there');
	log_agrees('full disk, one row');

	$limit->('unlimited');
	goes_on('full disk');
}

# ---- a timeout, a cancel, a lock timeout while the log is written ----

my $blocker = $node->background_psql('postgres');
for my $case (
	[ 'statement_timeout', q(SET statement_timeout = '300ms';), qr/statement timeout/ ],
	[ 'lock_timeout', q(SET lock_timeout = '300ms';), qr/lock timeout/ ])
{
	my ($what, $set, $error) = @$case;

	for my $sql (q(INSERT INTO t VALUES (7001, 'x')), q(UPDATE t SET v = 'late'), q(INSERT INTO t SELECT g, 'x' FROM generate_series(7001, 9500) g))
	{
		$blocker->query_safe("BEGIN; LOCK TABLE $leaf IN SHARE MODE;");
		$session->query_safe($set);
		fails("$what at the flush of: $sql", $sql, $error);
		$blocker->query_safe('ROLLBACK');
		$session->query_safe('RESET statement_timeout; RESET lock_timeout;');
		goes_on($what);
	}
}

$blocker->query_safe("BEGIN; LOCK TABLE $leaf IN SHARE MODE;");
my $before = $node->safe_psql('postgres', $count);
$session->query_until(qr/started/, "\\echo started\nUPDATE t SET v = 'cancelled';\n");
$node->poll_query_until('postgres', "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $pid");
$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
my (undef, $cancelled) = run_in_session('SELECT 1');
like($cancelled, qr/canceling statement due to user request/, 'a cancel at the flush: the statement fails');
$blocker->query_safe('ROLLBACK');
is($node->safe_psql('postgres', $count), $before, 'a cancel at the flush: nothing is logged');
log_agrees('a cancel at the flush');
goes_on('a cancel at the flush');

# a backend that is terminated there
my $victim = $node->background_psql('postgres', on_error_stop => 0);
my $victim_pid = $victim->query('SELECT pg_backend_pid()');
chomp $victim_pid;
$blocker->query_safe("BEGIN; LOCK TABLE $leaf IN SHARE MODE;");
$victim->query_until(qr/started/, "\\echo started\nUPDATE t SET v = 'terminated';\n");
$node->poll_query_until('postgres', "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $victim_pid");
$node->safe_psql('postgres', "SELECT pg_terminate_backend($victim_pid)");
$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $victim_pid");
$blocker->query_safe('ROLLBACK');
is($node->safe_psql('postgres', q(SELECT count(*) FROM t WHERE v = 'terminated')), 0, 'a backend terminated at the flush: the table is as before');
log_agrees('a backend terminated at the flush');
eval { $victim->quit };

# ---- errors late in a statement ----

fails('COPY with a bad line at the end', q(COPY t (id, v) FROM PROGRAM 'seq -f "%.0f x" 10001 12500; echo bad' (DELIMITER ' ')), qr/invalid input syntax|missing data/);
goes_on('COPY with a bad line');
fails('COPY with a duplicate key at the end', q(COPY t (id, v) FROM PROGRAM 'seq -f "%.0f x" 10001 12500; echo 1 x' (DELIMITER ' ')), qr/duplicate key/);
goes_on('COPY with a duplicate key');
fails('MERGE with an error at the end', q(
	MERGE INTO t USING (SELECT g, CASE WHEN g = 2500 THEN 1 ELSE 10000 + g END AS id FROM generate_series(-5, 2500) g) s
	   ON t.id = s.g
	 WHEN MATCHED AND s.g = 2 THEN DELETE
	 WHEN MATCHED THEN UPDATE SET v = 'merged'
	 WHEN NOT MATCHED THEN INSERT VALUES (s.id, 'merged')), qr/duplicate key/);
goes_on('MERGE with an error');
fails('UPDATE with a division by zero at the end', q(UPDATE t SET v = 1 / (id - (SELECT max(id) FROM t))), qr/division by zero/);
goes_on('UPDATE with an error');
fails('a deferred constraint at commit', q(BEGIN; INSERT INTO child SELECT g, 1 FROM generate_series(1, 1500) g; INSERT INTO child VALUES (0, -1); COMMIT;), qr/violates foreign key/);
goes_on('a deferred constraint');
$node->safe_psql('postgres', q(
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.v = 'no' THEN RAISE 'no'; END IF; RETURN NULL; END $$;
CREATE TRIGGER zz AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION refuse();));
fails("a user's AFTER trigger that raises", q(INSERT INTO t SELECT g, CASE WHEN g = 12000 THEN 'no' ELSE 'yes' END FROM generate_series(10001, 12000) g), qr/ERROR:  no/);
goes_on("a user's trigger that raises");
$node->safe_psql('postgres', 'DROP TRIGGER zz ON t');

# a good transaction around failures: savepoints of psql
$before = $node->safe_psql('postgres', $count);
my ($ret, $out, $err) = $node->psql('postgres', q(
\set ON_ERROR_ROLLBACK on
BEGIN;
INSERT INTO t VALUES (20001, 'kept');
INSERT INTO t SELECT g, 'lost' FROM generate_series(20002, 22500) g UNION ALL SELECT 1, 'lost';
INSERT INTO t VALUES (20002, 'kept');
COMMIT;
), on_error_stop => 0);
like($err, qr/duplicate key/, 'an error within a savepoint');
is($node->safe_psql('postgres', $count), $before + 2, 'what is around it is logged once');
log_agrees('an error within a savepoint');

$session->quit;
$blocker->quit;
$node->stop;
done_testing();
