# A library and SQL objects of different versions, as they meet between the upgrade
# of a package and ALTER EXTENSION: a write is logged or refused with a reason, the
# server lives.
#
# The server runs from a copy of its installation, so that the library can be taken
# away and replaced there.

use strict;
use warnings;
use File::Basename;
use File::Copy;
use File::Path qw(make_path);
use File::Spec;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

sub config
{
	my ($what) = @_;
	my $value = `pg_config --$what`;
	chomp $value;
	return $value;
}

# What the server finds relative to its own program is found in the copy as well:
# the program is copied, all else is linked, softaudit's files are copied.
my %dir = map { $_ => config($_) } qw(bindir pkglibdir sharedir);
my $prefix = File::Spec->rel2abs(PostgreSQL::Test::Utils::tempdir());

# A folder of links to what another holds, with folders on the way of what is named made true.
sub mirror
{
	my ($from, $to, %real) = @_;
	make_path($to);
	opendir(my $dh, $from) or die "$from: $!";
	for my $name (grep { !/^\.\.?$/ } readdir $dh)
	{
		if ($real{$name} && -d "$from/$name") { mirror("$from/$name", "$to/$name"); }
		else { symlink("$from/$name", "$to/$name") or die "$to/$name: $!"; }
	}
	closedir $dh;
}
mirror($dir{bindir}, "$prefix$dir{bindir}");
mirror($dir{pkglibdir}, "$prefix$dir{pkglibdir}");
mirror($dir{sharedir}, "$prefix$dir{sharedir}", extension => 1);
for my $program (qw(postgres initdb pg_ctl pg_config))
{
	unlink "$prefix$dir{bindir}/$program";
	copy("$dir{bindir}/$program", "$prefix$dir{bindir}/$program") or die "$program: $!";
	chmod 0755, "$prefix$dir{bindir}/$program";
}
my $library = "$prefix$dir{pkglibdir}/softaudit.so";
my $extension = "$prefix$dir{sharedir}/extension";

my $node = PostgreSQL::Test::Cluster->new('versions', install_path => dirname("$prefix$dir{bindir}"));
$node->init;
$node->append_conf('postgresql.conf', 'restart_after_crash = on');
$node->start;
my $moved = $node->safe_psql('postgres', q(SELECT setting FROM pg_config WHERE name = 'PKGLIBDIR'));
if ($moved ne "$prefix$dir{pkglibdir}")
{
	$node->stop;
	plan skip_all => "this server looks for libraries in $moved, wherever it is run from";
}
$node->safe_psql('postgres', q(
CREATE EXTENSION softaudit;
CREATE TABLE t (id int PRIMARY KEY, v text);
SELECT softaudit.enable('t', soft_delete => false);
INSERT INTO t VALUES (1, 'first');
));

# SQL in a session of its own; no backend may crash over it.
sub try
{
	my ($sql) = @_;
	my $log = -s $node->logfile;
	my ($ret, $out, $err);

	eval { ($ret, $out, $err) = $node->psql('postgres', $sql); 1 } or ($ret, $out, $err) = (2, '', $@);
	sleep(1) if $ret == 2;    # a lost connection: until the server has noticed, too
	$node->poll_query_until('postgres', 'SELECT 1', '1') or BAIL_OUT('the server is gone');
	unlike(slurp_file($node->logfile, $log), qr/was terminated by signal/, "no crash: $sql");
	return ($ret, $out, $err);
}

# A write is logged, or refused with a message and a hint; never done in silence.
my $id = 10;

sub logged_or_refused
{
	my ($what, $hint) = @_;
	my $n = $node->safe_psql('postgres', 'SELECT count(*) FROM softaudit.log');
	$id++;
	my ($ret, $out, $err) = try("INSERT INTO t VALUES ($id, 'x')");
	my $there = $node->safe_psql('postgres', "SELECT count(*) FROM t WHERE id = $id");
	my $logged = $node->safe_psql('postgres', 'SELECT count(*) FROM softaudit.log') - $n;

	is($logged, $there, "$what: what is in the table is in the log");
	like($err, $hint, "$what: the refusal gives a reason") if $ret != 0;
	isnt($ret, 0, "$what: a refused write says so") if $there == 0;
	return $there;
}

# ---- the new library with SQL of before, and the reverse ----

# Functions that the library does not have.
$node->safe_psql('postgres', q(SET client_min_messages = warning;
	CREATE FUNCTION public.of_later() RETURNS void LANGUAGE c AS '$libdir/softaudit', 'softaudit_capture';));
my ($ret, $out, $err) = try(q(CREATE FUNCTION public.of_never() RETURNS void LANGUAGE c AS '$libdir/softaudit', 'softaudit_of_a_later_version'));
like($err, qr/could not find function "softaudit_of_a_later_version"/, 'a function that the library does not have');
($ret, $out, $err) = try('SELECT public.of_later()');
like($err, qr/was not called by the trigger manager/, 'a function that is called as what it is not');

# Tables of the log with columns that the library does not know.
sub on_the_log
{
	my ($sql) = @_;
	$node->safe_psql('postgres', "ALTER EVENT TRIGGER softaudit_ddl_start DISABLE; ALTER EVENT TRIGGER softaudit_sql_drop DISABLE;
		SET client_min_messages = warning; $sql;
		ALTER EVENT TRIGGER softaudit_ddl_start ENABLE ALWAYS; ALTER EVENT TRIGGER softaudit_sql_drop ENABLE ALWAYS;");
}
on_the_log('ALTER TABLE softaudit.log ADD COLUMN of_later text');
on_the_log('ALTER TABLE softaudit.log_sessions ADD COLUMN of_later text');
on_the_log('ALTER TABLE softaudit.registry ADD COLUMN of_later text');
is(logged_or_refused('log with columns of a later version', qr/ALTER EXTENSION softaudit UPDATE/), 1, 'log with columns of a later version: is written');
is($node->safe_psql('postgres', q(SELECT count(*) FROM softaudit.history('t', 11))), 1, 'log with columns of a later version: is read');

# Tables of the log that lack columns, as an older version made them.
on_the_log('ALTER TABLE softaudit.log_sessions ALTER COLUMN backend_pid TYPE text USING NULL');
logged_or_refused('log_sessions with a column of another type', qr/ALTER EXTENSION softaudit UPDATE|HINT/);
on_the_log('ALTER TABLE softaudit.log_sessions ALTER COLUMN backend_pid TYPE integer USING NULL');
on_the_log('ALTER TABLE softaudit.log ALTER COLUMN seal_salt TYPE text USING NULL');
is(logged_or_refused('log with a column of another type', qr/does not have the columns that this library/), 0, 'log with a column of another type: is not written');
on_the_log(q(ALTER TABLE softaudit.log ALTER COLUMN seal_salt TYPE bytea USING NULL));
is(logged_or_refused('log as it should be', qr/^$/), 1, 'log as it should be again: is written');

# The catalog says another version than the library.
for my $version ('0.9', '9.9')
{
	$node->safe_psql('postgres', "UPDATE pg_extension SET extversion = '$version' WHERE extname = 'softaudit'");
	logged_or_refused("extension of version $version", qr/softaudit.*version|ALTER EXTENSION softaudit UPDATE/s);
	for my $sql (q(SELECT softaudit.enable('t', images => 'changes')), q(SELECT * FROM softaudit.history('t', 1)), 'CALL softaudit.maintain()')
	{
		my ($ret, $out, $err) = try($sql);
		like($err, qr/version|ALTER EXTENSION/, "extension of version $version: refused with a reason: $sql") if $ret != 0;
	}
}
$node->safe_psql('postgres', q(UPDATE pg_extension SET extversion = '1.0' WHERE extname = 'softaudit'));

# A control file that offers a version with no way to it.
unlink "$extension/softaudit.control";
append_to_file("$extension/softaudit.control", slurp_file("$dir{sharedir}/extension/softaudit.control") =~ s/default_version = '[^']*'/default_version = '9.9'/r);
($ret, $out, $err) = try('ALTER EXTENSION softaudit UPDATE');
like($err, qr/no update path from version "[^"]*" to version "9\.9"/, 'an update without a path is refused');
is(logged_or_refused('after that', qr/^$/), 1, 'and writes go on');
unlink "$extension/softaudit.control";
symlink("$dir{sharedir}/extension/softaudit.control", "$extension/softaudit.control");

# ---- the library is gone, is empty, is something else ----

unlink $library;
is(logged_or_refused('no library', qr/could not access file|could not load library/), 0, 'no library: a write is refused');
($ret, $out, $err) = try('UPDATE t SET v = v');
isnt($ret, 0, 'no library: an UPDATE, too');
is($node->safe_psql('postgres', 'SELECT count(*) > 0 FROM t'), 't', 'no library: reading works');
append_to_file($library, 'this is no library');
is(logged_or_refused('a broken library', qr/could not load library/), 0, 'a broken library: a write is refused');
unlink $library;
symlink("$dir{pkglibdir}/plpgsql.so", $library);
is(logged_or_refused('the library of another module', qr/could not find function/), 0, 'the library of another module: a write is refused');
unlink $library;
symlink("$dir{pkglibdir}/softaudit.so", $library);
is(logged_or_refused('the library again', qr/^$/), 1, 'the library again: writes go on');

# ---- the extension is gone, its log stays, a new one takes it up ----

$node->safe_psql('postgres', 'SET client_min_messages = warning; DROP EXTENSION softaudit CASCADE; DROP FUNCTION public.of_later()') ;
is((try(q(INSERT INTO t VALUES (1000, 'no extension'))))[0], 0, 'without the extension a write is a plain write');
my $rows = $node->safe_psql('postgres', 'SELECT count(*) FROM softaudit.log');
cmp_ok($rows, '>', 3, 'the log is still there');
$node->safe_psql('postgres', q(SET client_min_messages = warning; CREATE EXTENSION softaudit; SELECT softaudit.enable('t', soft_delete => false); INSERT INTO t VALUES (1001, 'again');));
is($node->safe_psql('postgres', 'SELECT count(*) FROM softaudit.log'), $rows + 1, 'a new one writes on in it');
is($node->safe_psql('postgres', q(SELECT count(*) FROM softaudit.history('t', 1))), 1, 'and finds what was there');
$node->stop;
done_testing();
