# pg_cron runs maintain(), as a role of its own and in a background worker of its own. Such a worker is
# without the library: status and advise() tell, and a job that asks for it first has it.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('cron');
my ($share) = run_command([ 'pg_config', '--sharedir' ]);
plan skip_all => 'pg_cron is not installed' unless -e "$share/extension/pg_cron.control";

$node->init;
$node->append_conf('postgresql.conf', qq(
shared_preload_libraries = 'pg_cron'
cron.database_name = 'postgres'
cron.use_background_workers = on
));
$node->start;
$node->safe_psql('postgres', q(
SET client_min_messages = error;
CREATE EXTENSION pg_cron;
CREATE EXTENSION softaudit;
CREATE ROLE keeper LOGIN;
GRANT USAGE ON SCHEMA cron TO keeper;
GRANT EXECUTE ON PROCEDURE softaudit.maintain() TO keeper;
CREATE TABLE users (id int PRIMARY KEY);
SELECT softaudit.enable('users', purge_after => '1 day');
INSERT INTO users SELECT generate_series(1, 2500);
DELETE FROM users WHERE id <= 2400;
UPDATE users SET deleted_at = now() - interval '2 days' WHERE deleted_at IS NOT NULL;
CREATE TABLE orders (id int PRIMARY KEY);
SELECT softaudit.enable('orders');
INSERT INTO orders SELECT generate_series(1, 10);
DELETE FROM orders WHERE id <= 4;
CREATE TABLE counted (how text, n bigint);
SELECT cron.schedule('bare', '* * * * *', $$INSERT INTO counted SELECT 'bare', count(*) FROM orders; SELECT pg_sleep(30)$$),
       cron.schedule('asked', '* * * * *', $$SELECT softaudit.actor(); INSERT INTO counted SELECT 'asked', count(*) FROM orders$$);
SET ROLE keeper;
SELECT cron.schedule('softaudit', '* * * * *', 'CALL softaudit.maintain()');
));
is($node->safe_psql('postgres', q(SELECT severity, advice, sql FROM softaudit.advise() WHERE object = 'pg_cron')),
	'WARNING|pg_cron runs its jobs in background workers, which are without the library: they see deleted rows' .
	q{|ALTER SYSTEM SET shared_preload_libraries = 'pg_cron', 'softaudit';}, 'advise() tells of jobs in background workers');
my $asleep = q(SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_cron' AND wait_event = 'PgSleep');
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM ($asleep) a"), 'a job is at work');
my $pid = $node->safe_psql('postgres', $asleep);
is($node->safe_psql('postgres', "SELECT bool_and($pid = ANY (unprotected_sessions)) FROM softaudit.status"), 't', 'status names its worker');
is($node->safe_psql('postgres', "SELECT severity, advice, sql FROM softaudit.advise() WHERE object = 'session $pid'"),
	qq{WARNING|background worker $pid (pg_cron) is without the library: it sees deleted rows|ALTER SYSTEM SET shared_preload_libraries = 'pg_cron', 'softaudit';},
	'and so does advise()');
# its clock has minutes
ok($node->poll_query_until('postgres', q(SELECT count(*) > 0 FROM cron.job_run_details d JOIN cron.job j USING (jobid) WHERE j.jobname = 'softaudit' AND d.status IN ('succeeded', 'failed'))), 'the job ran');
is($node->safe_psql('postgres', q(SELECT DISTINCT d.status, d.username FROM cron.job_run_details d JOIN cron.job j USING (jobid) WHERE j.jobname = 'softaudit' AND d.status <> 'running')), 'succeeded|keeper', 'as its role, and succeeded');
is($node->safe_psql('postgres', q(SELECT count(*) FROM softaudit.with_deleted(NULL::users))), '100', 'what was due is purged');
is($node->safe_psql('postgres', q(SELECT rows_done, batches, run_by FROM softaudit.runs WHERE kind = 'PURGE')), '2400|3|keeper', 'in its batches, each committed');
ok($node->poll_query_until('postgres', q(SELECT count(DISTINCT how) = 2 FROM counted)), 'the other jobs ran');
is($node->safe_psql('postgres', q(SELECT string_agg(DISTINCT how || ' ' || n, ', ' ORDER BY how || ' ' || n) FROM counted)), 'asked 6, bare 10', 'a job sees live rows once it has asked for the library');

# what the advice says
$node->safe_psql('postgres', q(SELECT cron.unschedule(jobid) FROM cron.job WHERE jobname <> 'bare'; TRUNCATE counted));
$node->safe_psql('postgres', $node->safe_psql('postgres', q(SELECT sql FROM softaudit.advise() WHERE object = 'pg_cron')));
$node->restart;
is($node->safe_psql('postgres', q(SELECT count(*) FROM softaudit.advise() WHERE object = 'pg_cron' OR object LIKE 'session %')), '0', 'with the library in all processes nothing is left to say');
ok($node->poll_query_until('postgres', q(SELECT count(*) > 0 FROM counted)), 'the job ran again');
is($node->safe_psql('postgres', q(SELECT DISTINCT n FROM counted)), '6', 'and sees live rows');

$node->stop;
done_testing();
