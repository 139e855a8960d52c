# Soft delete and sessions: new ones are protected by the database's setting; one without
# the library fails its first DELETE with 40001 and works from then on; cached plans from
# before are not used again; the setting is merged with what is there, and taken back.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('sessions');
$node->init;
$node->append_conf('postgresql.conf', "session_preload_libraries = 'auto_explain'\n");
$node->start;

sub preload { return $node->safe_psql('postgres', 'SELECT softaudit.database_preload()') }

$node->safe_psql('postgres', q(
CREATE EXTENSION softaudit;
CREATE TABLE t (id int PRIMARY KEY, v text);
CREATE TABLE pt (id int, k int) PARTITION BY LIST (k);
CREATE TABLE pt1 PARTITION OF pt FOR VALUES IN (1);
CREATE TABLE pt2 PARTITION OF pt FOR VALUES IN (2);
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent ON DELETE CASCADE);
INSERT INTO t SELECT g, 'v' FROM generate_series(1, 20) g;
INSERT INTO pt SELECT g, 1 FROM generate_series(1, 10) g;
INSERT INTO parent VALUES (1), (2);
INSERT INTO child VALUES (1, 1), (2, 2);
));
is(preload(), '', 'nothing is set before a table is enabled');
my ($rc, $out, $err) = $node->psql('postgres', q(
SELECT softaudit.enable('t'); SELECT softaudit.enable('pt', audit => false); SELECT softaudit.enable('child', audit => false)));
is($rc, 0, 'tables are enabled');
like($err, qr/new sessions of database "postgres" load the library/, 'and it is told that sessions load the library');
is(preload(), 'auto_explain, softaudit', "the server's own libraries come along");
is($node->safe_psql('postgres', 'DELETE FROM t WHERE id = 1; SELECT count(*), softaudit.is_active() FROM t'), '19|t',
	'a new session is filtered and converts a DELETE');

# ---- sessions without the library ----

# a superuser's options replace the database's setting
my @bare = (extra_params => [], connstr => $node->connstr('postgres') . q( options='-c session_preload_libraries='));
sub bare { my ($sql) = @_; return $node->psql('postgres', $sql, connstr => $bare[3], on_error_stop => 0) }

($rc, $out, $err) = bare('SELECT softaudit.is_active(); SELECT count(*) FROM t');
is($out, "f\n20", 'a session without the library says so, and sees deleted rows');
($rc, $out, $err) = bare(q(\set VERBOSITY sqlstate
DELETE FROM t WHERE id = 2; DELETE FROM t WHERE id = 2; SELECT count(*) FROM t; SELECT softaudit.is_active();));
like($err, qr/40001/, 'its first DELETE fails with 40001');
is($out, "18\nt", 'the retry is a soft delete, and the session is filtered from then on');
is($node->safe_psql('postgres', 'SELECT count(*) FROM softaudit.with_deleted(NULL::t)'), '20', 'no row was removed');
($rc, $out, $err) = bare(q(DELETE FROM pt1 WHERE id = 1; DELETE FROM pt1 WHERE id = 1; SELECT count(*) FROM pt));
like($err, qr/planned before softaudit was loaded/, 'a DELETE straight on a partition, too');
is($out, '9', 'and works on retry');
($rc, $out, $err) = bare(q(UPDATE pt SET k = 2 WHERE id = 2; UPDATE pt SET k = 2 WHERE id = 2; SELECT count(*) FROM pt2));
is($out, '1', 'a row moves between partitions, at the second attempt at the latest');
($rc, $out, $err) = bare(q(TRUNCATE t));
like($err, qr/TRUNCATE is refused/, 'TRUNCATE is refused');
($rc, $out, $err) = bare(q(PREPARE q AS SELECT count(*) FROM t; EXECUTE q; EXECUTE q; SELECT softaudit.actor() IS NOT NULL; EXECUTE q;));
is($out, "20\n20\nt\n18", 'plans from before the library was loaded are not used again');
($rc, $out, $err) = bare(q(DELETE FROM parent WHERE id = 1; SELECT count(*) FROM child;));
is($out, '1', 'a CASCADE of a parent that is not enabled passes, as enable() warned');
($rc, $out, $err) = bare(q(SELECT * FROM softaudit.with_deleted(NULL::t)));
like($err, qr/before softaudit was loaded/, 'with_deleted() says what is wrong');
($rc, $out, $err) = bare(q(BEGIN; SAVEPOINT s; DELETE FROM t WHERE id = 3; ROLLBACK TO s; DELETE FROM t WHERE id = 3; COMMIT; SELECT count(*) FROM t));
is($out, '17', 'the retry works after a savepoint, too');

# ---- show_deleted follows, in every kind of plan, and ends with its transaction ----

is($node->safe_psql('postgres', q(
SET plan_cache_mode = force_generic_plan;
PREPARE q AS SELECT count(*) FROM t;
EXECUTE q;
BEGIN; SET LOCAL softaudit.show_deleted = on; EXECUTE q; COMMIT;
EXECUTE q;
BEGIN; SET LOCAL softaudit.show_deleted = 'only'; EXECUTE q; ROLLBACK;
EXECUTE q;
BEGIN; SAVEPOINT s; SET softaudit.show_deleted = on; EXECUTE q; ROLLBACK TO s; EXECUTE q; COMMIT;
ALTER ROLE postgres SET softaudit.show_deleted = 'on';
)), "17\n20\n17\n3\n17\n20\n17", 'a generic plan follows SET LOCAL, COMMIT and ROLLBACK');
is($node->safe_psql('postgres', 'SELECT count(*) FROM t'), '20', 'ALTER ROLE ... SET works');
$node->safe_psql('postgres', 'ALTER ROLE postgres RESET softaudit.show_deleted');

# ---- an error in planning or execution leaves nothing behind ----

($rc, $out, $err) = $node->psql('postgres', q(
CREATE FUNCTION fails() RETURNS SETOF t LANGUAGE sql STABLE AS 'SELECT * FROM t WHERE 1 / (id - id) = 1';
SELECT count(*) FROM fails();
SELECT count(*) FROM t;
DELETE FROM t WHERE id / 0 = 1;
SELECT count(*) FROM t;
SELECT * FROM t WHERE v = 1;
SELECT count(*) FROM t), on_error_stop => 0);
is($out, "17\n17\n17", 'errors leave the filter as it was');

# ---- the library beside others, in both orders ----

for my $libs ('auto_explain, softaudit', 'softaudit, auto_explain')
{
	is($node->safe_psql('postgres', q(LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_nested_statements = on;
		SELECT count(*) FROM t; BEGIN; DELETE FROM t WHERE id = 5; SELECT count(*) FROM t; ROLLBACK),
		connstr => $node->connstr('postgres') . qq( options='-c session_preload_libraries=@{[ $libs =~ s/ //gr ]}')),
		"17\n16", "$libs");
}
SKIP:
{
	skip 'pg_stat_statements is not installed', 4 unless -e `pg_config --pkglibdir` =~ s/\n//r . '/pg_stat_statements.so';
	for my $libs ('pg_stat_statements,softaudit', 'softaudit,pg_stat_statements')
	{
		$node->append_conf('postgresql.conf', "shared_preload_libraries = '$libs'\ncompute_query_id = on\n");
		$node->restart;
		$node->safe_psql('postgres', 'CREATE EXTENSION IF NOT EXISTS pg_stat_statements; SELECT pg_stat_statements_reset()');
		$node->safe_psql('postgres', 'SELECT count(*) FROM t WHERE id > 3; SELECT count(*) FROM t WHERE id > 4; DELETE FROM t WHERE id = 1000');
		is($node->safe_psql('postgres', q(SELECT sum(calls), count(*) FROM pg_stat_statements WHERE query LIKE 'SELECT count(*) FROM t WHERE id%')),
			'2|1', "$libs: one query id for one query");
		is($node->safe_psql('postgres', q(SELECT sum(rows) FROM pg_stat_statements WHERE query LIKE 'DELETE FROM t%')), '0', "$libs: DELETE is counted as such");
	}
	$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
	$node->restart;
}

# ---- a database without the extension ----

$node->safe_psql('postgres', 'CREATE DATABASE other');
is($node->safe_psql('other', q(LOAD 'softaudit'; CREATE TABLE t (id int); INSERT INTO t VALUES (1), (2); DELETE FROM t WHERE id = 1;
	PREPARE q AS SELECT count(*) FROM t; EXECUTE q; SET softaudit.show_deleted = on; EXECUTE q; COPY t TO STDOUT;)), "1\n1\n2",
	'the library changes nothing in a database without the extension');
is($node->safe_psql('other', q(LOAD 'softaudit'; CREATE EXTENSION softaudit; SELECT softaudit.enable('t', audit => false); DELETE FROM t; SELECT count(*) FROM t; SELECT count(*) FROM softaudit.with_deleted(NULL::t);
	SELECT softaudit.disable('t', force => true); DROP EXTENSION softaudit; SELECT count(*) FROM t)) =~ s/\n+/ /gr, ' 0 1 1',
	'and follows when it is created and dropped in the same session');

# ---- the setting is taken back ----

$node->safe_psql('postgres', q(SELECT softaudit.disable(t, force => true) FROM unnest('{t,pt,child}'::regclass[]) t; DROP EXTENSION softaudit));
is($node->safe_psql('postgres', q(SELECT unnest(setconfig) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase WHERE datname = 'postgres')),
	'', 'DROP EXTENSION resets the setting where what is left is the server\'s own');
$node->safe_psql('postgres', q(ALTER DATABASE postgres SET session_preload_libraries = auto_explain, passwordcheck, softaudit; CREATE EXTENSION softaudit; DROP EXTENSION softaudit));
is($node->safe_psql('postgres', q(SELECT unnest(setconfig) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase WHERE datname = 'postgres')),
	'session_preload_libraries=auto_explain, passwordcheck', 'else it takes the library out, and leaves the others');
$node->safe_psql('postgres', q(ALTER DATABASE postgres RESET session_preload_libraries; ALTER SYSTEM RESET session_preload_libraries));
$node->append_conf('postgresql.conf', "session_preload_libraries = ''\n");
$node->reload;
$node->safe_psql('postgres', q(DROP SCHEMA softaudit CASCADE; CREATE EXTENSION softaudit; SELECT softaudit.enable('t')));
is(preload(), 'softaudit', 'alone where nothing else is there');
$node->safe_psql('postgres', q(DROP EXTENSION softaudit CASCADE));
is($node->safe_psql('postgres', q(SELECT d.datname, r.rolname, setconfig FROM pg_db_role_setting s LEFT JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole)),
	'', 'DROP EXTENSION CASCADE resets it');

# ---- a library that cannot be loaded ----

$node->safe_psql('postgres', q(ALTER DATABASE postgres SET session_preload_libraries = 'softaudit_that_is_gone'));
($rc, $out, $err) = $node->psql('postgres', 'SELECT 1');
isnt($rc, 0, 'a library that cannot be loaded keeps everybody out of the database');
like($err, qr/could not access file "softaudit_that_is_gone"/, 'which is said');
($rc, $out, $err) = bare('SELECT current_database()');
is($out, 'postgres', "a superuser's options are a way in");
$node->safe_psql('template1', 'ALTER DATABASE postgres RESET session_preload_libraries');
is($node->safe_psql('postgres', 'SELECT 1'), '1', 'so is another database');

done_testing();
