# A session that was open before the first soft-deleted table is without the library: status and
# advise() name it, and the SQL of the advice ends it. So is one whose role has a setting of its own,
# and any of a database that was made from another one as its template, until maintain() has run there.

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
	my ($role, $database) = @_;
	my ($out, $err) = ('', '');
	my $h = IPC::Run::start([ 'psql', '-X', '-q', '-p', $node->port, '-h', $node->host, '-d', $database // 'postgres', '-U', $role, '-c', "SELECT pg_sleep(600), '$role'" ],
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

# a copy of the database is without its setting
is($node->safe_psql('postgres', q(SELECT count(*) FROM softaudit.advise() WHERE object LIKE 'database %')), '0', 'the database loads the library');
$node->safe_psql('template1', 'CREATE DATABASE "a copy" TEMPLATE postgres');
my ($copied, $copied_pid) = session($me, 'a copy');
is($node->safe_psql('a copy', q(SELECT severity, advice, sql FROM softaudit.advise() WHERE object LIKE 'database %')),
	'ERROR|new sessions of database "a copy" do not load the library: they see deleted rows|CALL softaudit.maintain();', 'advise() tells of it');
is($node->safe_psql('a copy', q(SELECT array_to_string(unprotected_sessions, ',') FROM softaudit.status)), $copied_pid, 'status names its sessions');
$node->safe_psql('a copy', q(SET client_min_messages = error; CALL softaudit.maintain()));
is($node->safe_psql('a copy', q(SELECT count(*) FROM softaudit.advise() WHERE object LIKE 'database %')), '0', 'its SQL mends that');
is($node->safe_psql('a copy', 'SELECT softaudit.is_active()'), 't', 'a new session has it');
eval { $copied->kill_kill };

# by a setting of the server, or of all roles
for my $by ([ 'the server', 'ALTER SYSTEM SET session_preload_libraries = softaudit', 'ALTER SYSTEM RESET session_preload_libraries' ],
	[ 'all roles', 'ALTER ROLE ALL SET session_preload_libraries = softaudit', 'ALTER ROLE ALL RESET session_preload_libraries' ])
{
	my ($what, $set, $reset) = @$by;
	$node->safe_psql('a copy', 'ALTER DATABASE "a copy" RESET session_preload_libraries');
	$node->safe_psql('a copy', $set);
	$node->reload;
	is($node->safe_psql('a copy', q(SELECT count(*) FROM softaudit.advise() WHERE object LIKE 'database %')), '0', "nothing is missing with a setting of $what");
	$node->safe_psql('a copy', $reset);
	$node->reload;
	is($node->safe_psql('a copy', q(SELECT count(*) FROM softaudit.advise() WHERE object LIKE 'database %')), '1', '... and without it, it is');
}

$node->stop;
done_testing();
