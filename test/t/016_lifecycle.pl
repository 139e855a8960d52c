# The life cycle under kills, locks and cancels: a purge, an erasure or a maintain() that
# dies leaves nothing half done and a second one finishes it; rows that others have locked
# are passed over; a long reader of the log makes no writer wait; and after an erasure
# and VACUUM FULL no byte of the value is left in the data directory.
#
# SOFTAUDIT_CRASH_ROUNDS sets the number of rounds of each kind of kill.

use strict;
use warnings;
use Cwd qw(realpath);
use File::Find;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $rounds = $ENV{SOFTAUDIT_CRASH_ROUNDS} || 2;
my $node = PostgreSQL::Test::Cluster->new('lifecycle');
$node->init;
$node->append_conf('postgresql.conf', qq(
fsync = off
restart_after_crash = off
autovacuum = off
wal_recycle = off
min_wal_size = 32MB
max_wal_size = 64MB
));
$node->start;
$node->safe_psql('postgres', q(
SET client_min_messages = warning;
CREATE EXTENSION softaudit;
CREATE TABLE owner (id int PRIMARY KEY, v text);
CREATE TABLE thing (id int PRIMARY KEY, o int REFERENCES owner ON DELETE CASCADE, v text);
CREATE INDEX ON thing (o);
CREATE TABLE person (id int PRIMARY KEY, v text);
CREATE TABLE plain (id int PRIMARY KEY, v text);
SELECT softaudit.enable('owner', purge_after => '1 day'), softaudit.enable('thing', purge_after => '1 day'),
	softaudit.enable('person', soft_delete => false), softaudit.enable('plain', soft_delete => false, keep_log => '60 days', log_group => 'short');
));

# Kill the server and wait until all of it is gone.
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

# Start psql on some SQL and leave it at that.
sub background
{
	my ($sql) = @_;
	my ($out, $err) = ('', '');
	return IPC::Run::start([ 'psql', '-X', '-q', '-A', '-t', '-p', $node->port, '-h', $node->host, '-d', 'postgres', '-c', $sql ],
		'<', \undef, '>', \$out, '2>', \$err);
}

# Begin something, kill the server amid it when it has come as far as a query says, and start anew.
sub kill_amid
{
	my ($sql, $far_enough) = @_;
	my $h = background($sql);
	$node->poll_query_until('postgres', $far_enough);
	usleep(int(rand(60_000)));
	crash();
	eval { $h->finish };
	$node->start;
}

# ---- purge ----

my $n = 6000;
for my $round (1 .. $rounds)
{
	$node->safe_psql('postgres', qq(
INSERT INTO owner SELECT g, 'v' FROM generate_series(1, $n) g;
INSERT INTO thing SELECT g, g, 'v' FROM generate_series(1, $n) g;
DELETE FROM owner;
UPDATE owner SET deleted_at = now() - interval '2 days' WHERE deleted_at IS NOT NULL;
UPDATE thing SET deleted_at = now() - interval '2 days' WHERE deleted_at IS NOT NULL;));
	my $purged = q((SELECT count(*) FROM softaudit.changes WHERE operation = 'PURGE' AND table_name = 'owner'));
	my $before = $node->safe_psql('postgres', "SELECT $purged");
	my $last = $node->safe_psql('postgres', 'SELECT COALESCE(max(run_id), 0) FROM softaudit.runs');
	kill_amid('CALL softaudit.purge(batch => 20)', "SELECT count(*) > 0 FROM softaudit.runs WHERE run_id > $last AND rows_done > 100");
	my ($left, $gone) = split /\|/, $node->safe_psql('postgres', "SELECT (SELECT count(*) FROM softaudit.with_deleted(NULL::owner)), $purged - $before");
	is($left + $gone, $n, "purge $round: every row is there or logged as purged ($left left)");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM softaudit.progress'), '0', "purge $round: no run shows that died");
	$node->safe_psql('postgres', $round % 2 ? 'CALL softaudit.purge()' : 'CALL softaudit.maintain()');
	is($node->safe_psql('postgres', "SELECT (SELECT count(*) FROM softaudit.with_deleted(NULL::owner)), (SELECT count(*) FROM softaudit.with_deleted(NULL::thing)), $purged - $before"),
		"0|0|$n", "purge $round: a second run finishes it, and logs each row once");
	is($node->safe_psql('postgres', q(SELECT count(*) FROM softaudit.runs WHERE finished_at IS NULL)), '0', "purge $round: all runs are ended");
}

# ---- erase ----

for my $round (1 .. $rounds)
{
	$node->safe_psql('postgres', q(
INSERT INTO person SELECT g, 'name' FROM generate_series(1, 300) g ON CONFLICT DO NOTHING;
UPDATE person SET v = v || '.';));
	my $events = $node->safe_psql('postgres', q(SELECT count(*) FROM softaudit.events WHERE event = 'ERASE'));
	my $script = PostgreSQL::Test::Utils::tempdir() . '/erase.sql';
	PostgreSQL::Test::Utils::append_to_file($script, join('', map { "SELECT softaudit.erase('person', $_, 'round $round');\n" } 1 .. 300));
	my ($out, $err) = ('', '');
	my $h = IPC::Run::start([ 'psql', '-X', '-q', '-A', '-t', '-p', $node->port, '-h', $node->host, '-d', 'postgres', '-f', $script ], '<', \undef, '>', \$out, '2>', \$err);
	$node->poll_query_until('postgres', "SELECT count(*) > $events + 5 FROM softaudit.events WHERE event = 'ERASE'");
	usleep(int(rand(60_000)));
	crash();
	eval { $h->finish };
	$node->start;
	is($node->safe_psql('postgres', q(
SELECT count(*) FROM (SELECT row_ref, bool_or(new_data IS NOT NULL OR old_data IS NOT NULL) AS has_images FROM softaudit.log
                       WHERE row_ref >> 32 = (SELECT table_id FROM softaudit.registry WHERE table_name = 'person') GROUP BY row_ref) l
  FULL JOIN person p ON p.id = (l.row_ref & 4294967295) WHERE (p.id IS NOT NULL) IS DISTINCT FROM l.has_images)),
		'0', "erase $round: a row and its images are there, or neither");
	is($node->safe_psql('postgres', "SELECT (SELECT count(*) FROM softaudit.events WHERE event = 'ERASE' AND reason = 'round $round'), 300 - count(*) FROM person") =~ s/^(\d+)\|\1$/same/r,
		'same', "erase $round: each erasure that held has its event");
	$node->safe_psql('postgres', q(SELECT softaudit.erase('person', id, 'the rest') FROM person));
	is($node->safe_psql('postgres', q(SELECT count(*) FROM softaudit.changes WHERE table_name = 'person' AND (new_data IS NOT NULL OR old_data IS NOT NULL))), '0', "erase $round: a second run finishes it");
}

# ---- maintain ----

my ($group) = split /\n/, $node->safe_psql('postgres', q(SELECT group_id FROM softaudit.log_groups WHERE group_name = 'short'));
for my $round (1 .. $rounds)
{
	$node->safe_psql('postgres', q(INSERT INTO plain SELECT g, 'v' FROM generate_series(1, 3000) g ON CONFLICT (id) DO UPDATE SET v = plain.v));
	# as if written months ago and never maintained
	$node->safe_psql('postgres', qq(
SET session_replication_role = replica;
INSERT INTO softaudit.log_g$group SELECT audit_id, date_trunc('month', now()) - interval '1 month' * (1 + audit_id % 5), xid, session_id, row_ref, log_group, operation, changed_by, new_data, old_data
  FROM softaudit.log WHERE log_group = $group AND changed_at > now() - interval '1 day';));
	my $kept = $node->safe_psql('postgres', qq(SELECT count(*) FROM softaudit.log WHERE log_group = $group AND changed_at >= date_trunc('month', now()) - interval '1 month'));
	my $last = $node->safe_psql('postgres', 'SELECT COALESCE(max(run_id), 0) FROM softaudit.runs');
	kill_amid('CALL softaudit.maintain()', "SELECT count(*) > 0 FROM softaudit.runs WHERE run_id > $last");
	my $young = qq(SELECT count(*) FROM softaudit.log WHERE log_group = $group AND changed_at >= date_trunc('month', now()) - interval '1 month');
	is($node->safe_psql('postgres', $young), $kept, "maintain $round: no row of the log that is to be kept is lost or doubled");
	$node->safe_psql('postgres', 'CALL softaudit.maintain()');
	is($node->safe_psql('postgres', $young), $kept, "maintain $round: nor by the next");
	is($node->safe_psql('postgres', "SELECT count(*) FROM softaudit.partition_bounds($group) WHERE upper_bound <= now() - interval '60 days'"), '0', "maintain $round: what is past keep_log is gone");
	is($node->safe_psql('postgres', "SELECT count(*) FROM softaudit.log_g${group}_default"), '0', "maintain $round: nothing is left in the default partition");
}

# ---- locks ----

$node->safe_psql('postgres', q(
INSERT INTO owner SELECT g, 'v' FROM generate_series(1, 10) g;
DELETE FROM owner;
UPDATE owner SET deleted_at = now() - interval '2 days' WHERE deleted_at IS NOT NULL;));
my $locker = background(q(BEGIN; SELECT 1 FROM owner WHERE id <= 3 AND deleted_at IS NOT NULL FOR UPDATE; SELECT pg_sleep(600)));
$node->poll_query_until('postgres', q(SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE 'BEGIN; SELECT 1%' AND wait_event = 'PgSleep'));
my ($rc, $stdout, $stderr) = $node->psql('postgres', 'CALL softaudit.purge()', timeout => 60);
is($rc, 0, 'a purge does not wait for rows that others have locked');
is($node->safe_psql('postgres', 'SELECT count(*) FROM softaudit.with_deleted(NULL::owner)'), '3', 'it passes over them');
$node->safe_psql('postgres', q(SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'BEGIN; SELECT 1%'));
eval { $locker->finish };

# a hold waits for the batch that is under way, and the next batch sees it; there are rows enough for a busy machine
$node->safe_psql('postgres', q(
INSERT INTO owner SELECT g, 'v' FROM generate_series(101, 140) g;
DELETE FROM owner;
UPDATE owner SET deleted_at = now() - interval '2 days' WHERE deleted_at IS NOT NULL;
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.3); RETURN OLD; END $$;
CREATE TRIGGER slow BEFORE DELETE ON owner FOR EACH ROW EXECUTE FUNCTION slow();));
my $purge = background('CALL softaudit.purge(batch => 1)');
$node->poll_query_until('postgres', q(SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND granted));
$node->safe_psql('postgres', q(SELECT softaudit.hold('owner', 'court')));
my $held = $node->safe_psql('postgres', 'SELECT count(*) FROM softaudit.with_deleted(NULL::owner)');
$purge->finish;
cmp_ok($held, '>', 0, 'the hold came amid the purge');
is($node->safe_psql('postgres', 'SELECT count(*) FROM softaudit.with_deleted(NULL::owner)'), $held, 'and nothing went after it');
$node->safe_psql('postgres', q(SELECT softaudit.release('owner')));

# a cancel between batches keeps what was done
($rc, $stdout, $stderr) = $node->psql('postgres', q(INSERT INTO owner SELECT g, 'v' FROM generate_series(20, 40) g; DELETE FROM owner;
UPDATE owner SET deleted_at = now() - interval '2 days' WHERE deleted_at IS NOT NULL;));
($rc, $stdout, $stderr) = $node->psql('postgres', q(SET statement_timeout = '1500ms'; CALL softaudit.purge(batch => 1)));
like($stderr, qr/canceling statement due to statement timeout/, 'a purge can be cancelled');
my $left = $node->safe_psql('postgres', 'SELECT count(*) FROM softaudit.with_deleted(NULL::owner)');
cmp_ok($left, '>', 0, 'amid its batches');
cmp_ok($left, '<', 21 + $held, 'and keeps those that were done');
$node->safe_psql('postgres', 'DROP TRIGGER slow ON owner; CALL softaudit.purge()');
is($node->safe_psql('postgres', 'SELECT count(*) FROM softaudit.with_deleted(NULL::owner)'), '0', 'the next call goes on');

# a long reader of the log: retention gives up and says so, and no writer waits for long
$node->safe_psql('postgres', qq(
SET session_replication_role = replica;
INSERT INTO softaudit.log_g$group SELECT audit_id, now() - interval '4 months', xid, session_id, row_ref, log_group, operation, changed_by, new_data, old_data
  FROM softaudit.log WHERE log_group = $group AND changed_at > now() - interval '1 day';
SET session_replication_role = origin;
UPDATE softaudit.log_groups SET keep_log = NULL WHERE group_id = $group;
CALL softaudit.maintain();
UPDATE softaudit.log_groups SET keep_log = '60 days' WHERE group_id = $group;));
my $reader = background(qq(BEGIN; SELECT count(*) FROM softaudit.log_g$group; SELECT pg_sleep(600)));
$node->poll_query_until('postgres', q(SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE 'BEGIN; SELECT count%' AND wait_event = 'PgSleep'));
# a wait that could not be missed
$node->safe_psql('postgres', q(ALTER DATABASE postgres SET softaudit.retention_lock_timeout = '4s'));
my $maintain = background('CALL softaudit.maintain()');
my ($writes, $longest) = (0, 0);
while ($maintain->pumpable)
{
	my $began = time;
	$node->safe_psql('postgres', q(UPDATE plain SET v = 'w' WHERE id = 1));
	$longest = time - $began if time - $began > $longest;
	$writes++;
	$maintain->pump_nb;
}
eval { $maintain->finish };
$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET softaudit.retention_lock_timeout');
cmp_ok($writes, '>', 0, 'writers go on while the log is read and maintained');
cmp_ok($longest, '<', 2, 'and wait for nobody who waits for the partition');
like($node->safe_psql('postgres', q(SELECT message FROM softaudit.runs WHERE kind = 'MAINTAIN' ORDER BY run_id DESC LIMIT 1)), qr/is in use, its retention is left to the next run/, 'what could not be dropped is reported');
$node->safe_psql('postgres', q(SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'BEGIN; SELECT count%'));
eval { $reader->finish };
$node->safe_psql('postgres', 'CALL softaudit.maintain()');
is($node->safe_psql('postgres', "SELECT count(*) FROM softaudit.partition_bounds($group) WHERE upper_bound <= now() - interval '60 days'"), '0', 'and dropped by the next run');

# two at once
my @both = map { background('CALL softaudit.maintain()') } 1 .. 2;
$_->finish for @both;
is(scalar(grep { $_->result } @both), 0, 'two at once do no harm');

# ---- bytes ----

my $word = 'Nebukadnezar_der_Zweite';
$node->safe_psql('postgres', qq(
CREATE TABLE letter (id int PRIMARY KEY, p int REFERENCES person ON DELETE CASCADE, body text);
CREATE INDEX ON letter (body);
SELECT softaudit.enable('letter');
INSERT INTO person VALUES (1000, '$word');
INSERT INTO letter VALUES (1, 1000, 'dear $word'), (2, NULL, 'not for him');
UPDATE person SET v = v || ' and sons';
UPDATE letter SET body = body || '.';
ANALYZE;
CHECKPOINT;));

# Files of the data directory in which the word is to be read.
sub files_with
{
	my @found;
	find({ no_chdir => 1, wanted => sub {
		return unless -f $_;
		open my $in, '<:raw', $_ or return;
		local $/;
		my $bytes = <$in> // '';
		push @found, $File::Find::name if index($bytes, $word) >= 0;
	} }, $node->data_dir);
	return map { s/^.*pgdata\///r } @found;
}
cmp_ok(scalar(grep { /^base/ } files_with()), '>', 1, 'its bytes are in relations');
$node->safe_psql('postgres', q(SELECT softaudit.erase('person', 1000, 'request')));
my $relations = $node->safe_psql('postgres', q(SELECT r FROM softaudit.events e, jsonb_array_elements_text(details -> 'relations') r WHERE event_id = (SELECT max(event_id) FROM softaudit.events WHERE event = 'ERASE')));
is(scalar(grep { /softaudit\.log/ } split /\n/, $relations), 1, 'the event names the partition of the log');
$node->safe_psql('postgres', "VACUUM FULL $_") for split(/\n/, $relations), 'pg_statistic';
$node->safe_psql('postgres', "REINDEX TABLE $_") for split /\n/, $relations;
# the log of writes is overwritten by what comes after; unlinked files give their blocks back at a checkpoint
for (1 .. 4)
{
	$node->safe_psql('postgres', q(INSERT INTO plain SELECT 10000 + g, 'v' FROM generate_series(1, 10) g ON CONFLICT (id) DO UPDATE SET v = 'w'));
	$node->safe_psql('postgres', 'SELECT pg_switch_wal()');
	$node->safe_psql('postgres', 'CHECKPOINT');
}
is(join(' ', files_with()), '', 'after VACUUM FULL of what it names, and once WAL is gone, there are none');

$node->stop;
done_testing();
