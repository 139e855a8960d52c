# A session that was open before the first soft-deleted table is without the library: status and
# advise() name it, and the SQL of the advice ends it. So is one whose role has a setting of its own.

use strict;
use warnings;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('open');
$node->init;
$node->start;
$node->safe_psql('postgres', q(
SET client_min_messages = error;
CREATE EXTENSION softaudit;
CREATE ROLE other LOGIN;
ALTER ROLE other SET session_preload_libraries = auto_explain;
CREATE TABLE users (id int PRIMARY KEY);
));

# Start a session that sleeps, and return its pid.
sub session
{
	my ($role) = @_;
	my ($out, $err) = ('', '');
	my $h = IPC::Run::start([ 'psql', '-X', '-q', '-p', $node->port, '-h', $node->host, '-d', 'postgres', '-U', $role, '-c', "SELECT pg_sleep(600), '$role'" ],
		'<', \undef, '>', \$out, '2>', \$err);
	my $find = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(600), ''$role''%' AND state = 'active'";
	$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM ($find) f") or die;
	return ($h, $node->safe_psql('postgres', $find));
}
my $me = $node->safe_psql('postgres', 'SELECT current_user');
my ($old, $old_pid) = session($me);
$node->safe_psql('postgres', q(SET client_min_messages = error; SELECT softaudit.enable('users')));
my ($new, $new_pid) = session('other');

my $pids = join ',', sort { $a <=> $b } $old_pid, $new_pid;
is($node->safe_psql('postgres', q(SELECT array_to_string(unprotected_sessions, ',') FROM softaudit.status)), $pids, 'status names both sessions');
is($node->safe_psql('postgres', q(SELECT string_agg(object, ',' ORDER BY object COLLATE "C") FROM softaudit.advise() WHERE object LIKE 'session %')),
	join(',', sort map { "session $_" } $old_pid, $new_pid), 'and so does advise()');
my @mend = split /\n/, $node->safe_psql('postgres', q(SELECT sql FROM softaudit.advise() WHERE object LIKE 'session %'));
$node->safe_psql('postgres', $_) for @mend;
$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid IN ($pids)");
is($node->safe_psql('postgres', q(SELECT count(*) FROM softaudit.advise() WHERE object LIKE 'session %')), '0', 'its SQL ends them');
eval { $_->finish } for $old, $new;

$node->stop;
done_testing();
