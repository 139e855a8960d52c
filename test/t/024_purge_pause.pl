# softaudit.purge_pause: where others want the processors a purge pauses between its batches, with
# nothing locked, and can be cancelled there; with 0 it never does.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $node = PostgreSQL::Test::Cluster->new('purge_pause');
$node->init;
$node->append_conf('postgresql.conf', "autovacuum = off\nfsync = off\nsynchronous_commit = off\n");
$node->start;
$node->safe_psql('postgres', q(
CREATE EXTENSION softaudit;
CREATE TABLE t (id int PRIMARY KEY, deleted_at timestamptz);
CREATE INDEX ON t (deleted_at) WHERE deleted_at IS NOT NULL;
SELECT softaudit.enable('t', audit => false);
));
my $rows = 300_000;
my $fill = "INSERT INTO t SELECT g, now() - interval '2 days' FROM generate_series(1, $rows) g";

# Others who want the processors, more of them than there are.
my @others;
sub busy
{
	my $n = () = PostgreSQL::Test::Utils::slurp_file('/proc/cpuinfo') =~ /^processor/mg if -r '/proc/cpuinfo';
	for (1 .. 3 * ($n || 8))
	{
		my $pid = fork() // die "fork: $!";
		if ($pid == 0) { alarm 600; 1 while 1 }
		push @others, $pid;
	}
}
sub idle { kill 'KILL', @others; waitpid $_, 0 for @others; @others = () }
END { my $status = $?; idle(); $? = $status }

# A purge in the background, and what it says.
sub purge
{
	my ($pause) = @_;
	my ($out, $err) = ('', '');
	my $h = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-v', 'VERBOSITY=verbose', '-c', "SET application_name = 'purge'; SET softaudit.purge_pause = $pause",
			'-c', "CALL softaudit.purge('t', '1 day', batch => 3000)" ], '>', \$out, '2>', \$err);
	return { handle => $h, err => \$err };
}
# Watch it to its end, and do $then whenever it is seen to pause; how often it was.
sub watch
{
	my ($purge, $then) = @_;
	my $seen = 0;
	while ($purge->{handle}->pumpable)
	{
		my $is_locked = $node->safe_psql('postgres', q(SELECT EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.relation = 't'::regclass)
			FROM pg_stat_activity a WHERE application_name = 'purge' AND wait_event_type = 'Extension'));
		$purge->{locked}++ if $is_locked eq 't';
		if ($is_locked ne '')
		{
			$seen++;
			$then->() if $then;
		}
		$purge->{handle}->pump_nb;
		usleep(2000);
	}
	$purge->{handle}->finish;
	return $seen;
}

$node->safe_psql('postgres', $fill);
busy();
my $purge = purge(0);
is(watch($purge), 0, 'without a pause there is none');
like(${ $purge->{err} }, qr/$rows rows deleted/, 'and all rows go');

$node->safe_psql('postgres', $fill);
$purge = purge(100);
my $cancelled = 0;
cmp_ok(watch($purge, sub { $node->safe_psql('postgres', "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'purge' AND wait_event_type = 'Extension'"); $cancelled++ }),
	'>', 0, 'where others want the processors it pauses');
ok($cancelled, 'and is cancelled there');
like(${ $purge->{err} }, qr/ERROR:  57014/, 'which ends it');
ok(!$purge->{locked}, 'the table was not locked meanwhile');
my $left = $node->safe_psql('postgres', 'SELECT count(*) FROM softaudit.only_deleted(NULL::t)');
cmp_ok($left, '>', 0, 'some rows are left');
cmp_ok($left, '<', $rows, 'what was done stays done');
idle();

$purge = purge(2);
watch($purge);
like(${ $purge->{err} }, qr/$left rows deleted/, 'the next one goes on');
is($node->safe_psql('postgres', 'SELECT count(*) FROM softaudit.only_deleted(NULL::t)'), '0', 'to the end');
$node->stop;
done_testing;
