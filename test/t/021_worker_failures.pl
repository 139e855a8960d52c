# The worker where it cannot work: on a standby it does nothing until that is promoted, and a
# full disk is reported, leaves nothing half done and is tried again.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $primary = PostgreSQL::Test::Cluster->new('primary');
# small WAL segments, so that a limit on file sizes meets the log first
$primary->init(allows_streaming => 1, extra => ['--wal-segsize=1']);
$primary->append_conf('postgresql.conf', qq(
shared_preload_libraries = 'softaudit'
autovacuum = off
max_wal_size = 64MB
softaudit.worker_role = 'keeper'
softaudit.worker_naptime = '1s'
));
$primary->start;
$primary->safe_psql('postgres', q(
SET client_min_messages = error;
CREATE EXTENSION softaudit;
CREATE ROLE keeper LOGIN;
GRANT EXECUTE ON PROCEDURE softaudit.maintain() TO keeper;
CREATE TABLE users (id int PRIMARY KEY, v text);
SELECT softaudit.enable('users', purge_after => '100 days');
INSERT INTO users SELECT g, repeat(md5(g::text), 30) FROM generate_series(1, 4000) g;
DELETE FROM users;
UPDATE users SET deleted_at = now() - interval '1 year' WHERE deleted_at IS NOT NULL;
CREATE VIEW leaf AS SELECT tableoid::regclass AS leaf FROM softaudit.log LIMIT 1;
));
my $backup = 'taken';
$primary->backup($backup);
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, $backup, has_streaming => 1);
$standby->append_conf('postgresql.conf', "softaudit.worker_databases = 'postgres'\nlog_min_messages = warning\n");
$standby->start;
$primary->wait_for_catchup($standby);

# ---- a standby ----

# what it would do, a client's CALL does here, too: nothing, and without an error
$standby->safe_psql('postgres', 'CALL softaudit.maintain()');
# three naps of a worker that started would leave an error of a write, or a worker to be seen
my $seen = 0;
for (1 .. 15)
{
	$seen += $standby->safe_psql('postgres', q(SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'softaudit%'));
	usleep(200_000);
}
is($seen, 0, 'on a standby neither launcher nor worker runs');
unlike(slurp_file($standby->logfile), qr/(?:WARNING|ERROR):|softaudit: /, 'and the server log has no complaint');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM softaudit.with_deleted(NULL::users)'), '4000', 'nothing is purged there');
$standby->promote;
ok($standby->poll_query_until('postgres', q(SELECT count(*) = 0 FROM softaudit.with_deleted(NULL::users))), 'after the promotion it purges');
ok($standby->poll_query_until('postgres', q(SELECT count(*) > 0 FROM softaudit.runs WHERE kind = 'MAINTAIN' AND run_by = 'keeper' AND finished_at IS NOT NULL AND message IS NULL)),
	'a run of the worker, as its role');
is($standby->safe_psql('postgres', q(SELECT count(*) FROM softaudit.changes WHERE operation = 'PURGE')), '4000', 'each row logged once');
$standby->stop;

# ---- a full disk ----
#
# As in 006: a limit on the size of files stands in for it. Workers have the postmaster's.

SKIP:
{
	skip 'prlimit is not there, so a full disk is not tried', 1
	  if system("prlimit --pid $$ --fsize >/dev/null 2>&1") != 0;

	my ($postmaster) = split /\n/, slurp_file($primary->data_dir . '/postmaster.pid');
	my $limit = sub { system("prlimit --pid $postmaster --fsize=$_[0]:") == 0 or die 'prlimit failed'; };
	my $leaf = $primary->safe_psql('postgres', 'SELECT leaf FROM leaf');
	my $size = $primary->safe_psql('postgres', "SELECT pg_relation_size('$leaf')");
	my $table = $primary->safe_psql('postgres', "SELECT pg_relation_size('users')");
	cmp_ok($size, '>', 2 * 1024 * 1024, 'the leaf is larger than a WAL segment');
	cmp_ok($size, '>=', $table, 'and than the table');
	my $before = $primary->safe_psql('postgres', 'SELECT count(*) FROM softaudit.with_deleted(NULL::users)');
	is($before, '4000', 'all rows are there');

	$limit->($size);
	my $offset = -s $primary->logfile;
	$primary->append_conf('postgresql.conf', "softaudit.worker_databases = 'postgres'\n");
	$primary->reload;
	my $told = sub {
		my @all = substr(slurp_file($primary->logfile), $offset) =~ /table "public\.users": could not (?:extend|write)/g;
		return scalar @all;
	};
	for (1 .. 600) { last if $told->() >= 2; usleep(100_000); }
	cmp_ok($told->(), '>=', 2, 'a full disk is reported, and again by the next run')
	  or diag(substr(slurp_file($primary->logfile), $offset));
	is($primary->safe_psql('postgres', q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'softaudit launcher')), '1', 'the launcher lives');
	my $sum = q(SELECT (SELECT count(*) FROM softaudit.with_deleted(NULL::users)) + (SELECT count(*) FROM softaudit.changes WHERE operation = 'PURGE'));
	is($primary->safe_psql('postgres', $sum), '4000', 'every row is there or logged as purged');
	ok($primary->poll_query_until('postgres', q(SELECT count(*) > 0 FROM softaudit.runs WHERE message LIKE '%could not%')), 'softaudit.runs has the reason');

	$limit->('unlimited');
	ok($primary->poll_query_until('postgres', q(SELECT count(*) = 0 FROM softaudit.with_deleted(NULL::users))), 'with room again, the worker purges');
	is($primary->safe_psql('postgres', $sum), '4000', 'each row logged once');
	unlike(slurp_file($primary->logfile), qr/PANIC|terminated by signal/, 'nothing of it was fatal to the server');
}
$primary->stop;
done_testing();
