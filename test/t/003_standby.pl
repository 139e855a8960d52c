# A streaming standby: the log, its views and history() can be read there, whatever
# would write is refused as any write is, and after a promotion auditing goes on.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->start;
$primary->safe_psql('postgres', q(
CREATE EXTENSION softaudit;
CREATE ROLE reader;
CREATE TABLE t (id int PRIMARY KEY, v text, pin text);
SELECT softaudit.enable('t', soft_delete => false, redact => '{pin}');
INSERT INTO t SELECT g, 'v', g FROM generate_series(1, 100) g;
GRANT SELECT ON t TO reader;
));
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;
$primary->safe_psql('postgres', q(
SELECT set_config('app.current_user', 'ada', false);
UPDATE t SET v = 'w', pin = 'x' WHERE id = 7;
BEGIN; DELETE FROM t WHERE id = 8; ROLLBACK;
));
$primary->wait_for_catchup($standby);

is($standby->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 't', 'the standby is one');
for my $sql ('SELECT md5(string_agg(l::text, E\'\n\' ORDER BY audit_id)) FROM softaudit.log l',
	'SELECT md5(string_agg(c::text, E\'\n\' ORDER BY audit_id)) FROM softaudit.changes c',
	'SELECT count(*) FROM softaudit.events',
	q(SELECT operation, changed_by, old_data ->> 'v', new_data ->> 'v', changed_columns FROM softaudit.history('t', 7)),
	q(SELECT operation FROM softaudit.history_of('public', 't', '7')),
	q(SELECT operation FROM softaudit.history('t', '8'::text)),
	'SELECT softaudit.is_active() IS NOT NULL')
{
	my $want = $primary->safe_psql('postgres', $sql);
	isnt($want, '', "primary answers: $sql");
	is($standby->safe_psql('postgres', $sql), $want, 'and the standby the same');
}
is($standby->safe_psql('postgres', q(SET ROLE reader; SELECT count(*) FROM softaudit.history('t', 7))), 2, 'a reader of the table has its history there');

for my $sql (q(INSERT INTO t VALUES (1000, 'x')), q(SELECT softaudit.enable('t', images => 'changes')),
	q(SELECT softaudit.disable('t')))
{
	my ($ret, $out, $err) = $standby->psql('postgres', $sql);
	isnt($ret, 0, "refused on the standby: $sql");
	like($err, qr/read-only transaction|during recovery/, 'as a write is');
}
my ($ret) = $standby->psql('postgres', 'CALL softaudit.maintain()');
is($ret, 0, 'maintain() is safe to run there, too');
is($standby->safe_psql('postgres', q(BEGIN; SELECT softaudit.act_as('x'); SELECT softaudit.actor(); COMMIT;)), "\nx", 'act_as() is no write');

# an open session on the standby sees leaves that are made on the primary
my $session = $standby->background_psql('postgres');
is($session->query_safe(q(SELECT count(*) FROM softaudit.history('t', 7))), 2, 'an open session on the standby');
$primary->safe_psql('postgres', q(
SET client_min_messages = warning;
SELECT softaudit.enable('t', log_group => 'other');
UPDATE t SET v = 'z' WHERE id = 7;));
$primary->wait_for_catchup($standby);
is($session->query_safe(q(SELECT count(*) FROM softaudit.history('t', 7))), 3, 'finds a row in a log group that is new');
$session->quit;

my $last = $primary->safe_psql('postgres', 'SELECT max(audit_id) FROM softaudit.log');
$primary->stop('immediate');
$standby->promote;
$standby->safe_psql('postgres', q(UPDATE t SET v = 'promoted' WHERE id = 7));
is( $standby->safe_psql('postgres', qq(SELECT operation, new_data ->> 'v', session_user_name IS NOT NULL FROM softaudit.history('t', 7) WHERE audit_id > $last)),
	'UPDATE|promoted|t', 'after promotion changes are logged under new ids');
$standby->stop;
done_testing();
