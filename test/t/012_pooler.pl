# Transaction pooling: many clients share few server sessions, and each change says
# who made it and from which application.

use strict;
use warnings;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my ($pgbouncer) = grep { -x $_ } map { "$_/pgbouncer" } split(/:/, $ENV{PATH}), '/usr/sbin', '/usr/local/sbin';
plan skip_all => 'pgbouncer is not installed' unless $pgbouncer;

my $node = PostgreSQL::Test::Cluster->new('pooled');
$node->init;
$node->start;
$node->safe_psql('postgres', q(
CREATE EXTENSION softaudit;
CREATE ROLE web LOGIN;
CREATE TABLE t (id int PRIMARY KEY, who text, app text);
SELECT softaudit.enable('t', soft_delete => false);
GRANT ALL ON t TO web;
));

my $dir = PostgreSQL::Test::Utils::tempdir_short();
my $port = PostgreSQL::Test::Cluster::get_free_port();
my $host = $node->host;
my $server_port = $node->port;
append_to_file("$dir/users", qq("web" ""\n));
append_to_file("$dir/pgbouncer.ini", qq(
[databases]
postgres = host=$host port=$server_port dbname=postgres user=web
[pgbouncer]
listen_addr =
listen_port = $port
unix_socket_dir = $dir
auth_type = trust
auth_file = $dir/users
pool_mode = transaction
default_pool_size = 2
max_client_conn = 100
logfile = $dir/log
pidfile = $dir/pid
ignore_startup_parameters = extra_float_digits
));
my $pooler = IPC::Run::start([ $pgbouncer, '-q', "$dir/pgbouncer.ini" ], '>', "$dir/out", '2>&1');
for (1 .. 100)
{
	last if -S "$dir/.s.PGSQL.$port";
	usleep(100_000);
}
ok(-S "$dir/.s.PGSQL.$port", 'the pooler is up') or BAIL_OUT(slurp_file("$dir/out"));

# Eight clients at once over two server sessions.  A client names itself in each
# transaction, now by SET LOCAL, now by act_as(), now not at all; every fifth
# transaction rolls back.
delete $ENV{PGOPTIONS};    # which the pooler would refuse
my $clients = 8;
my $transactions = 200;
my @running;
for my $c (1 .. $clients)
{
	my $sql = '';
	for my $n (1 .. $transactions)
	{
		my $id = $c * 10_000 + $n;
		my $name = $n % 3 == 0 ? 'web' : "user$c";
		my $as = ('', qq(SET LOCAL app."current_user" = 'user$c';), qq(SELECT softaudit.act_as('user$c');))[ $n % 3 ];
		my $end = $n % 5 == 0 ? 'ROLLBACK' : 'COMMIT';
		$sql .= "BEGIN; $as SET LOCAL softaudit.context = '{\"client\": $c, \"n\": $n}'; INSERT INTO t VALUES ($id, '$name', 'app$c'); $end;\n";
		# outside a transaction block as well, without a name
		$sql .= "UPDATE t SET who = 'web' WHERE id = $id;\n" if $n % 7 == 0;
	}
	append_to_file("$dir/sql$c", $sql);
	push @running,
	  IPC::Run::start([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-o', "$dir/null$c", '-f', "$dir/sql$c", '-d',
			"host=$dir port=$port dbname=postgres user=web application_name=app$c" ],
		'2>', "$dir/err$c");
}
IPC::Run::finish($_) for @running;
is(join('', map { slurp_file("$dir/err$_") } 1 .. $clients), '', 'the clients met no error');

my $kept = $clients * ($transactions - int($transactions / 5));
is($node->safe_psql('postgres', q(SELECT count(*), count(DISTINCT row_key) FROM softaudit.changes WHERE operation = 'INSERT')), "$kept|$kept", 'every committed change is logged once');
is($node->safe_psql('postgres', q(SELECT count(*) FROM softaudit.changes WHERE changed_by <> new_data ->> 'who')), 0, 'by whom the client said, for the transaction in which it said so');
is($node->safe_psql('postgres', q(SELECT count(*) FROM softaudit.changes WHERE application_name IS DISTINCT FROM new_data ->> 'app')), 0, 'from its application');
is($node->safe_psql('postgres', q(SELECT count(*) FROM softaudit.changes WHERE operation = 'INSERT'
		AND (context ->> 'client')::int * 10000 + (context ->> 'n')::int IS DISTINCT FROM (new_data ->> 'id')::int)), 0, 'in its own context');
is($node->safe_psql('postgres', q(SELECT count(*) FROM softaudit.changes WHERE operation = 'UPDATE' AND context IS NOT NULL)), 0, 'which ends with its transaction');
is($node->safe_psql('postgres', q(SELECT DISTINCT session_user_name FROM softaudit.changes)), 'web', 'and the session user is the server\'s');
cmp_ok($node->safe_psql('postgres', 'SELECT count(DISTINCT backend_pid) FROM softaudit.log_sessions'), '<=', 2, 'all over two server sessions');
is($node->safe_psql('postgres', 'SELECT count(*) FROM softaudit.changes WHERE session_user_name IS NULL'), 0, 'no log row without its session');

# What a client asks to see ends with its transaction, whoever gets the session next.
$node->safe_psql('postgres', q(
SET client_min_messages = error;
CREATE TABLE soft (id int PRIMARY KEY, owner int);
SELECT softaudit.enable('soft', audit => false);
INSERT INTO soft SELECT g, g % 8 FROM generate_series(0, 79) g;
DELETE FROM soft WHERE id < 40;
GRANT ALL ON soft TO web;
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'web';
));
@running = ();
for my $c (0 .. 7)
{
	my $sql = '';
	for my $n (1 .. 100)
	{
		$sql .= ("SELECT 'live', count(*) FROM soft WHERE id % 2 >= 0;\n",
			"BEGIN; SET LOCAL softaudit.show_deleted = on; SELECT 'all', count(*) FROM soft; COMMIT;\n",
			"BEGIN; SET LOCAL softaudit.show_deleted = 'only'; SELECT 'only', count(*) FROM soft; ROLLBACK;\n",
			"SELECT 'with', count(*) FROM softaudit.with_deleted(NULL::soft);\n",
			"BEGIN; DELETE FROM soft WHERE owner = $c; SELECT 'mine', count(*) FROM soft WHERE owner = $c; ROLLBACK;\n")[ ($n + $c) % 5 ];
	}
	append_to_file("$dir/soft$c", $sql);
	push @running, IPC::Run::start([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/soft$c", "host=$dir port=$port user=web dbname=postgres" ],
		'>', "$dir/softout$c", '2>&1');
}
IPC::Run::finish($_) for @running;
my %seen;
for my $c (0 .. 7) { $seen{$_}++ for split /\n/, slurp_file("$dir/softout$c") }
is(join(' ', sort keys %seen), 'all|80 live|40 mine|0 only|40 with|80', 'each client sees what it asked for, in its transaction only');
is(join(' ', map { $seen{$_} } sort keys %seen), '160 160 160 160 160', 'all of them');

$pooler->signal('INT');
eval { IPC::Run::finish($pooler) };
$node->stop;
done_testing();
