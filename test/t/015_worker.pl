# The background worker: it maintains the databases that it was told to, as the role that it
# was told to, through reloads, crashes, failures and two years of months.

use strict;
use warnings;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = PostgreSQL::Test::Cluster->new('worker');
$node->init;
$node->append_conf('postgresql.conf', qq(
shared_preload_libraries = 'softaudit'
restart_after_crash = on
log_min_messages = warning
));
$node->start;

sub log_since
{
	my ($offset) = @_;
	return substr slurp_file($node->logfile), $offset;
}

sub wait_for_log_since
{
	my ($pattern, $offset) = @_;
	for (1 .. 300)
	{
		return 1 if log_since($offset) =~ $pattern;
		usleep(100_000);
	}
	diag('the log has: ' . log_since($offset));
	return 0;
}
my $size = sub { -s $node->logfile };
sub set_conf
{
	my (%set) = @_;
	$node->append_conf('postgresql.conf', "$_ = '$set{$_}'\n") for sort keys %set;
	$node->reload;
}

# ---- without a role it does nothing, and says so once ----

is($node->safe_psql('postgres', q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'softaudit launcher')), '1', 'the launcher runs');
my $offset = $size->();
set_conf('softaudit.worker_databases' => 'postgres', 'softaudit.worker_naptime' => '1s');
ok(wait_for_log_since(qr/does nothing until softaudit\.worker_role names a role/, $offset), 'without a role it says that it does nothing');
usleep(2_500_000);
my @told = log_since($offset) =~ /does nothing until/g;
is(scalar(@told), 1, 'once');

# ---- as the role, in the databases that have the extension ----

$node->safe_psql('postgres', 'CREATE DATABASE bare');
$node->safe_psql('postgres', q(
SET client_min_messages = error;
CREATE EXTENSION softaudit;
CREATE ROLE keeper LOGIN;
CREATE TABLE audited (id int PRIMARY KEY, v text);
SELECT softaudit.enable('audited', soft_delete => false, keep_log => '90 days', log_group => 'months');
CREATE TABLE users (id int PRIMARY KEY, v text);
SELECT softaudit.enable('users', purge_after => '100 days', log_group => 'of users');
));
$offset = $size->();
set_conf('softaudit.worker_role' => 'keeper', 'softaudit.worker_databases' => 'postgres, bare, gone');
ok(wait_for_log_since(qr/permission denied for procedure maintain/, $offset), 'a role without EXECUTE is reported');
ok(wait_for_log_since(qr/database "gone", which softaudit\.worker_databases names, does not exist/, $offset), 'and a database that is not there');
$node->safe_psql('postgres', 'GRANT EXECUTE ON PROCEDURE softaudit.maintain() TO keeper');
ok($node->poll_query_until('postgres', q(SELECT count(*) > 1 FROM softaudit.runs WHERE kind = 'MAINTAIN' AND finished_at IS NOT NULL AND run_by = 'keeper')),
	'with it, it maintains, every nap');
unlike(log_since($offset), qr/database "bare"/, 'databases without the extension are passed over');

# seen at work: as that role, under a name
$node->safe_psql('postgres', q(
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(3); RETURN OLD; END $$;
CREATE TRIGGER slow BEFORE DELETE ON users FOR EACH ROW EXECUTE FUNCTION slow();
INSERT INTO users VALUES (1);
DELETE FROM users;
UPDATE users SET deleted_at = now() - interval '1 year' WHERE deleted_at IS NOT NULL;
));
ok($node->poll_query_until('postgres', q(SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'softaudit worker' AND usename = 'keeper'
	AND application_name = 'softaudit worker' AND query = 'CALL softaudit.maintain()' AND state = 'active')), 'it shows in pg_stat_activity');
ok($node->poll_query_until('postgres', q(SELECT count(*) = 0 FROM softaudit.with_deleted(NULL::users))), 'and purges');
is($node->safe_psql('postgres', 'SELECT rolsuper FROM pg_roles WHERE rolname = \'keeper\''), 'f', 'without being a superuser');
$node->safe_psql('postgres', 'DROP TRIGGER slow ON users');

# ---- a procedure of that name that is not the extension's is not called ----

$node->safe_psql('bare', q(CREATE SCHEMA softaudit; GRANT USAGE ON SCHEMA softaudit TO PUBLIC; CREATE TABLE public.trap (who text); GRANT INSERT ON public.trap TO PUBLIC;
CREATE PROCEDURE softaudit.maintain() LANGUAGE sql AS $$ INSERT INTO public.trap VALUES (current_user) $$));
my $runs = $node->safe_psql('postgres', 'SELECT max(run_id) FROM softaudit.runs');
ok($node->poll_query_until('postgres', "SELECT count(*) > 2 FROM softaudit.runs WHERE kind = 'MAINTAIN' AND run_id > $runs"), 'some rounds later');
is($node->safe_psql('bare', 'SELECT count(*) FROM public.trap'), '0', 'a procedure of somebody else was not called');

# ---- two years, a month a round ----

my $group = $node->safe_psql('postgres', q(SELECT group_id FROM softaudit.log_groups WHERE group_name = 'months'));
$node->safe_psql('postgres', q(INSERT INTO audited VALUES (1, 'v')));
for my $month (1 .. 24)
{
	$node->safe_psql('postgres', qq(
BEGIN;
SELECT pg_advisory_xact_lock(hashtextextended('softaudit.maintain', $group));
INSERT INTO users VALUES ($month);
DELETE FROM users WHERE id = $month;
UPDATE users SET deleted_at = deleted_at - interval '1 month' WHERE deleted_at IS NOT NULL;
UPDATE audited SET v = '$month';
SET LOCAL session_replication_role = replica;
-- the month's changes are as old as they would be
INSERT INTO softaudit.log_g$group SELECT audit_id, now() - interval '1 month' * $month, xid, session_id, row_ref, log_group, operation, changed_by, new_data, old_data
  FROM softaudit.log WHERE log_group = $group AND changed_at > now() - interval '1 minute';
COMMIT;));
	my $now = $node->safe_psql('postgres', 'SELECT clock_timestamp()');
	# wakes the launcher, too
	$node->reload;
	$node->poll_query_until('postgres', "SELECT count(*) > 0 FROM softaudit.runs WHERE kind = 'MAINTAIN' AND started_at > '$now' AND finished_at IS NOT NULL") or die;
}
is($node->safe_psql('postgres', "SELECT count(*) FROM softaudit.partition_bounds($group) WHERE NOT is_default AND upper_bound <= now() - interval '90 days'"), '0', 'retention: what is past keep_log is gone');
is($node->safe_psql('postgres', "SELECT count(*) FROM softaudit.partition_bounds($group) WHERE NOT is_default AND lower_bound > now()"), '3', 'partitions ahead: as many as are set');
is($node->safe_psql('postgres', 'SELECT count(*), max(now() - deleted_at) < interval \'101 days\' FROM softaudit.only_deleted(NULL::users)'), '3|t', 'purge: what is older than purge_after is gone, the rest is there');
is($node->safe_psql('postgres', q(SELECT count(*) FROM softaudit.runs WHERE message IS NOT NULL)), '0', 'nothing failed on the way');

# ---- failures are told, and tried again ----

my ($in, $out) = ('', '');
my $blocker = IPC::Run::start([ 'psql', '-X', '-q', '-p', $node->port, '-h', $node->host, '-d', 'postgres', '-c', 'BEGIN; LOCK TABLE users; SELECT pg_sleep(600)' ], '<', \$in, '>', \$out, '2>&1');
$node->poll_query_until('postgres', q(SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'PgSleep'));
$offset = $size->();
ok(wait_for_log_since(qr/table "public\.users": canceling statement due to lock timeout/, $offset), 'a lock that does not come is reported');
$node->safe_psql('postgres', q(SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'BEGIN; LOCK%'));
eval { $blocker->finish };
$runs = $node->safe_psql('postgres', 'SELECT max(run_id) FROM softaudit.runs');
ok($node->poll_query_until('postgres', "SELECT count(*) > 0 FROM softaudit.runs WHERE kind = 'MAINTAIN' AND run_id > $runs AND message IS NULL AND finished_at IS NOT NULL"), 'and tried again');

# ---- a database and a role that go ----

$offset = $size->();
$node->safe_psql('postgres', 'DROP DATABASE bare WITH (FORCE)');
ok(wait_for_log_since(qr/database "bare", which/, $offset), 'a database that was dropped is told');
set_conf('softaudit.worker_role' => 'nobody');
ok(wait_for_log_since(qr/role "nobody", which softaudit\.worker_role names, does not exist/, $offset), 'and a role');
set_conf('softaudit.worker_role' => 'keeper', 'softaudit.worker_databases' => 'postgres');

# ---- a server that starts, and that nobody connects to: no database's caches are there ----

$node->append_conf('postgresql.conf', "autovacuum = off\n");
$runs = $node->safe_psql('postgres', 'SELECT max(run_id) FROM softaudit.runs');
$node->stop;
$offset = $size->();
$node->start;
usleep(4_000_000);
unlike(log_since($offset), qr/FATAL|softaudit launcher.*exited/, 'the launcher lives as the server starts');
ok($node->safe_psql('postgres', "SELECT count(*) > 0 FROM softaudit.runs WHERE kind = 'MAINTAIN' AND run_id > $runs AND finished_at IS NOT NULL") eq 't', 'and maintains before anybody connects');

# ---- a crash of a backend, and the end ----

$runs = $node->safe_psql('postgres', 'SELECT max(run_id) FROM softaudit.runs');
my $victim = $node->safe_psql('postgres', q(SELECT pid FROM pg_stat_activity WHERE backend_type = 'softaudit launcher'));
kill 'KILL', $victim;
usleep(500_000);
$node->poll_query_until('postgres', 'SELECT true');
isnt($node->safe_psql('postgres', q(SELECT pid FROM pg_stat_activity WHERE backend_type = 'softaudit launcher' UNION ALL SELECT 0 LIMIT 1)), $victim, 'the server restarted after a crash');
ok($node->poll_query_until('postgres', "SELECT count(*) > 0 FROM softaudit.runs WHERE kind = 'MAINTAIN' AND run_id > $runs AND finished_at IS NOT NULL"), 'and the worker with it');
my $t0 = time;
$node->stop('fast');
cmp_ok(time - $t0, '<', 20, 'a fast shutdown does not wait for it');

done_testing();
