# Pages of the log: a session that goes on writing has its leaf made longer by several at
# once; what it leaves of them may be cut off by VACUUM, filled by others, or lost with a crash.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('append');
$node->init;
$node->append_conf('postgresql.conf', "autovacuum = off\nfsync = off\n");
$node->start;
$node->safe_psql('postgres', q(
CREATE EXTENSION softaudit;
CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL, body text NOT NULL);
SELECT softaudit.enable('t', soft_delete => false);
INSERT INTO t SELECT g, 0, repeat('x', 400) FROM generate_series(1, 100) g;
));
my $leaf = $node->safe_psql('postgres', q(SELECT tableoid::regclass FROM softaudit.log LIMIT 1));
my $pages = "SELECT pg_relation_size('$leaf') / 8192";
my $used = "SELECT count(DISTINCT (ctid::text::point)[0]) FROM $leaf";
my $logged = q(SELECT count(*) FROM softaudit.log WHERE operation = 'UPDATE');

# $n transactions of one row each, in one session, with more before and after
sub updates
{
	my ($n) = @_;
	return "SELECT format('UPDATE t SET n = n + 1 WHERE id = %s', 1 + g % 100) FROM generate_series(1, $n) g \\gexec\n";
}
# the session's own VACUUM cuts off what it has ready: the next row must not go there
my @out = split /\n/, $node->safe_psql('postgres', updates(450) . ("$pages;\nVACUUM (TRUNCATE) $leaf;\n$pages;\n" . updates(25)) x 6 . "$logged;");
my $count = pop @out;
my $cut = 0;
while (my ($before, $after) = splice(@out, 0, 2)) { $cut += $before - $after }
cmp_ok($cut, '>', 0, "VACUUM cuts pages that the session had ready: $cut");
is($count, 600, 'rows go on after it');

my ($all0, $used0) = ($node->safe_psql('postgres', $pages), $node->safe_psql('postgres', $used));
$node->safe_psql('postgres', updates(1200));
is($node->safe_psql('postgres', $logged), 1800, 'all are logged');
my ($all, $full) = ($node->safe_psql('postgres', $pages), $node->safe_psql('postgres', $used));
cmp_ok($full - $used0, '<=', 1200 / 7 + 4, 'pages are filled: ' . ($full - $used0));
cmp_ok($all - $all0 - ($full - $used0), '>=', 1, 'the leaf was made longer by several pages');
cmp_ok($all - $all0 - ($full - $used0), '<=', 16, 'of which few are left: ' . ($all - $all0 - ($full - $used0)));

# the same where its rows are gone as well: the page being filled is cut off, too
$node->safe_psql('postgres', "BEGIN;\n" . updates(800) . "ROLLBACK;\nVACUUM (TRUNCATE) $leaf;\n" . updates(10));
is($node->safe_psql('postgres', $logged), 1810, 'and after a rollback');
my $out = $node->safe_psql('postgres', updates(400) . "VACUUM (FULL) $leaf;\n" . updates(40) . "$logged;");
is($out, 2250, 'and after VACUUM FULL, in another file');

# rows in bulk, of all sizes, TOASTed ones between them
$node->safe_psql('postgres', q(
INSERT INTO t SELECT g, 0, (SELECT string_agg(md5(g || '.' || i), '') FROM generate_series(1, 1 + (g * 37) % 200) i) FROM generate_series(1001, 4000) g));
is($node->safe_psql('postgres', q(SELECT count(*) FROM t JOIN softaudit.log l ON l.operation = 'INSERT' AND (l.new_data ->> 'id')::int = t.id WHERE t.id > 1000 AND l.new_data = to_jsonb(t))),
	3000, 'rows of all sizes come out as they went in');

# four sessions at once, then a crash: each change of the table once in the log, and a log that goes on
$node->append_conf('postgresql.conf', 'fsync = on');
$node->reload;
my $script = $node->basedir . '/update.sql';
append_to_file($script, "\\set id random(1, 100)\nUPDATE t SET n = n + 1 WHERE id = :id;\n");
my $sum = $node->safe_psql('postgres', 'SELECT sum(n) FROM t') - $node->safe_psql('postgres', $logged);
$node->command_ok([ 'pgbench', '-n', '-c', 4, '-t', 800, '-f', $script, '-h', $node->host, '-p', $node->port, 'postgres' ], 'four sessions');
$node->stop('immediate');
$node->start;
is($node->safe_psql('postgres', 'SELECT sum(n) FROM t') - $node->safe_psql('postgres', $logged), $sum, 'each change is logged once, after a crash too');
$node->safe_psql('postgres', updates(200));
is($node->safe_psql('postgres', 'SELECT sum(n) FROM t') - $node->safe_psql('postgres', $logged), $sum, 'and the log goes on');
$node->stop;
done_testing();
