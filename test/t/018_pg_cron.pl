# pg_cron runs maintain(), as a role of its own and in a background worker of its own.

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
SET ROLE keeper;
SELECT cron.schedule('softaudit', '* * * * *', 'CALL softaudit.maintain()');
));
# its clock has minutes
ok($node->poll_query_until('postgres', q(SELECT count(*) > 0 FROM cron.job_run_details WHERE status IN ('succeeded', 'failed'))), 'the job ran');
is($node->safe_psql('postgres', q(SELECT DISTINCT status, username FROM cron.job_run_details WHERE status <> 'running')), 'succeeded|keeper', 'as its role, and succeeded');
is($node->safe_psql('postgres', q(SELECT count(*) FROM softaudit.with_deleted(NULL::users))), '100', 'what was due is purged');
is($node->safe_psql('postgres', q(SELECT rows_done, batches, run_by FROM softaudit.runs WHERE kind = 'PURGE')), '2400|3|keeper', 'in its batches, each committed');

$node->stop;
done_testing();
