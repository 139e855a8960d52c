# Bench.pm - what the benchmark's programs share: a throw-away cluster, sessions that
# stay open, the CPU and WAL of one statement, statistics, tables and the document.
#
# Only modules that come with perl itself are used, so that a machine with nothing
# but PostgreSQL's packages can run it.
package Bench;

use strict;
use warnings;
use Cwd qw(abs_path);
use Exporter 'import';
use File::Basename qw(dirname);
use File::Temp qw(tempdir);
use Time::HiRes qw(sleep time);

our @EXPORT = qw(median spread fmt table write_section has_extension say_step customers plain_log_table plain_log);

my $here = dirname(abs_path(__FILE__));
our $root = abs_path("$here/../..");

# ---- small helpers ----

sub median
{
	my @v = sort { $a <=> $b } grep { defined } @_;
	return undef unless @v;
	return @v % 2 ? $v[ $#v / 2 ] : ($v[ @v / 2 - 1 ] + $v[ @v / 2 ]) / 2;
}

# The least and the largest of a list.
sub spread
{
	my @v = sort { $a <=> $b } grep { defined } @_;
	return @v ? ($v[0], $v[-1]) : (undef, undef);
}

# A number as a person reads it; "-" for none.
sub fmt
{
	my ($v, $digits) = @_;
	return '-' unless defined $v;
	my $s = sprintf('%.*f', $digits // 0, $v);
	$s =~ s/^-(0(\.0*)?)$/$1/;
	1 while $s =~ s/^(-?\d+)(\d{3})/$1,$2/;
	return $s;
}

sub say_step { print STDERR "# @_\n" }

# An aligned table, as text or as Markdown. Columns marked in $right are numbers.
sub table
{
	my ($head, $rows, $right, $markdown) = @_;
	my @w = map { length } @$head;
	for my $r (@$rows)
	{
		for my $i (0 .. $#$head)
		{
			my $l = length($r->[$i] // '');
			$w[$i] = $l if $l > $w[$i];
		}
	}
	my $line = sub {
		my @c = map {
			my $s = $_[$_] // '';
			$right->[$_] ? (' ' x ($w[$_] - length $s)) . $s : $s . ' ' x ($w[$_] - length $s)
		} 0 .. $#$head;
		my $l = $markdown ? '| ' . join(' | ', @c) . ' |' : join('  ', @c);
		$l =~ s/\s+$//;
		return "$l\n";
	};
	my $out = $line->(@$head);
	if ($markdown)
	{
		$out .= '|' . join('|', map { '-' x ($w[$_] + 1) . ($right->[$_] ? ':' : '-') } 0 .. $#$head) . "|\n";
	}
	else
	{
		$out .= join('  ', map { '-' x $_ } @w) . "\n";
	}
	$out .= $line->(@$_) for @$rows;
	return $out;
}

# Replace what stands between <!-- NAME:begin --> and <!-- NAME:end --> in docs/benchmarks.md.
sub write_section
{
	my ($name, $text) = @_;
	my $file = "$root/docs/benchmarks.md";
	my $begin = "<!-- $name:begin -->";
	my $end = "<!-- $name:end -->";
	my $doc = '';
	if (open my $in, '<', $file)
	{
		local $/;
		$doc = <$in>;
		close $in;
	}
	if ($doc =~ /\Q$begin\E.*?\Q$end\E/s)
	{
		$doc =~ s/\Q$begin\E.*?\Q$end\E/$begin\n$text$end/s;
	}
	else
	{
		$doc .= "\n" if length $doc && $doc !~ /\n\n\z/;
		$doc .= "$begin\n$text$end\n";
	}
	mkdir dirname($file);
	open my $out, '>', $file or die "$file: $!\n";
	print $out $doc;
	close $out or die "$file: $!\n";
	print STDERR "# written to docs/benchmarks.md\n";
}

# ---- the cluster ----

my $cluster;

sub pg_config
{
	my ($what) = @_;
	my $program = $ENV{PG_CONFIG} // "pg_config";
	my $v = qx($program $what);
	die "pg_config is needed (PG_CONFIG names another)\n" if $? != 0;
	chomp $v;
	return $v;
}

# Run a program as the user that may run a server.
sub as_server
{
	my (@cmd) = @_;
	@cmd = ('runuser', '-u', 'postgres', '--', @cmd) if $> == 0;
	return @cmd;
}

sub run_quiet
{
	my (@cmd) = @_;
	my $pid = fork() // die "fork: $!\n";
	if ($pid == 0)
	{
		chdir '/';
		open STDIN, '<', '/dev/null';
		open STDOUT, '>>', "$cluster->{dir}/tools.log";
		open STDERR, '>&', \*STDOUT;
		exec @cmd or exit 127;
	}
	waitpid $pid, 0;
	return $? == 0;
}

sub new_cluster
{
	my ($class, %setting) = @_;
	my $dir = tempdir('softaudit_bench.XXXXXX', DIR => $ENV{TMPDIR} // '/tmp', CLEANUP => 0);
	my $bin = pg_config('--bindir');
	my $self = $cluster = bless { dir => $dir, bin => $bin, owner => $$, sessions => [], started => 0 }, $class;
	if ($> == 0)
	{
		my ($uid, $gid) = (getpwnam 'postgres')[ 2, 3 ];
		die "there is no user postgres to run a server as\n" unless defined $uid;
		chown $uid, $gid, $dir;
	}
	chmod 0755, $dir;
	run_quiet(as_server("$bin/initdb", '-D', "$dir/data", '-A', 'trust', '-U', 'postgres', '-E', 'UTF8',
		'--locale=C', '--no-sync')) or die "initdb failed, see $dir/tools.log\n";

	my %conf = (
		listen_addresses => "''",
		unix_socket_directories => "'$dir'",
		port => 5432,
		shared_buffers => '1GB',
		max_wal_size => '32GB',
		min_wal_size => '4GB',
		wal_init_zero => 'off',
		checkpoint_timeout => '1d',
		autovacuum => 'off',
		fsync => 'off',
		synchronous_commit => 'off',
		wal_writer_delay => '200ms',
		jit => 'off',
		max_parallel_workers_per_gather => 0,
		max_parallel_maintenance_workers => 0,
		huge_pages => 'off',
		timezone => "'UTC'",
		log_min_messages => 'warning',
		log_checkpoints => 'off',
		%setting);
	open my $f, '>>', "$dir/data/postgresql.conf" or die "$dir: $!\n";
	print $f "$_ = $conf{$_}\n" for sort keys %conf;
	close $f;
	$self->start;
	return $self;
}

sub start
{
	my ($self) = @_;
	run_quiet(as_server("$self->{bin}/pg_ctl", '-D', "$self->{dir}/data", '-w', '-t', '600', '-l',
		"$self->{dir}/server.log", 'start'))
	  or die "the server did not start:\n" . qx(tail -20 $self->{dir}/server.log);
	$self->{started} = 1;
	open my $f, '<', "$self->{dir}/data/postmaster.pid" or die "postmaster.pid: $!\n";
	chomp($self->{pid} = <$f>);
	close $f;
}

sub stop
{
	my ($self, $mode) = @_;
	$_->close for @{ $self->{sessions} };
	$self->{sessions} = [];
	return unless $self->{started};
	run_quiet(as_server("$self->{bin}/pg_ctl", '-D', "$self->{dir}/data", '-w', '-t', '600', '-m',
		$mode // 'fast', 'stop'));
	$self->{started} = 0;
}

END
{
	if ($cluster && $cluster->{owner} == $$)
	{
		my $status = $?;
		$cluster->stop('immediate');
		if ($ENV{KEEP})
		{
			print STDERR "# kept: $cluster->{dir}\n";
		}
		else
		{
			system 'rm', '-rf', $cluster->{dir};
		}
		$? = $status;
	}
}
$SIG{$_} = sub { exit 130 } for qw(INT TERM HUP);

sub version
{
	my ($self) = @_;
	return $self->{version} //= $self->sql('postgres', 'SHOW server_version_num');
}

# One statement list in a connection of its own; what it returned.
sub sql
{
	my ($self, $db, $sql) = @_;
	my $s = $self->session($db);
	my $out = $s->query($sql);
	$s->close;
	return $out;
}

sub has_extension
{
	my ($self, $name) = @_;
	return $self->sql('postgres', "SELECT count(*) FROM pg_available_extensions WHERE name = '$name'") > 0;
}

sub psql_command
{
	my ($self, $db) = @_;
	return ("$self->{bin}/psql", '-XqAt', '-h', $self->{dir}, '-p', 5432, '-U', 'postgres', '-d', $db);
}

# ---- the rows that are measured ----

# SQL: a table t of customers, 329 bytes each.
sub customers
{
	my ($rows) = @_;
	return <<"SQL";
CREATE TABLE t (
	id bigint PRIMARY KEY,
	name text NOT NULL,
	email text NOT NULL,
	city text,
	balance numeric NOT NULL,
	attrs jsonb NOT NULL,
	created_at timestamptz NOT NULL,
	updated_at timestamptz NOT NULL,
	seen_at timestamptz);
INSERT INTO t
SELECT i, 'Customer ' || i, 'customer' || i || '\@example.org',
	(ARRAY['Lisboa', 'Graz', 'Aarhus', 'Wellington'])[1 + i % 4],
	(i * 7919 % 1000000) / 100.0,
	jsonb_build_object('plan', (ARRAY['free', 'team', 'enterprise'])[1 + i % 3], 'seats', i % 50,
		'token', md5(i::text), 'tags', jsonb_build_array('t' || i % 10, 'blue', i % 7),
		'address', jsonb_build_object('street', 'Long Street ' || i % 999, 'zip', 10000 + i % 89999)),
	timestamptz '2020-01-01' + i * interval '1 minute', timestamptz '2024-01-01' + i * interval '1 second',
	timestamptz '2024-06-01' + i * interval '1 second'
FROM generate_series(1, $rows) i;
SQL
}

# For scale where a bar is in microseconds or instructions: what PostgreSQL itself takes to insert rows like the log's into a
# plain table with one index and an id from a sequence, by the same statement, with images that are constants.
sub plain_log_table
{
	return q{CREATE TABLE plain_log (id bigint NOT NULL, row_ref bigint, table_id int, session_id bigint, operation "char",
			changed_at timestamptz, xid xid8, changed_by text, old_row text, new_row text);
		CREATE INDEX ON plain_log (row_ref);
		CREATE SEQUENCE plain_log_id;};
}

my $image = '{"id": 77123, "name": "Customer 77123", "email": "customer77123@example.org", "city": "Aarhus", "balance": 771.23, '
  . '"attrs": {"plan": "team", "tags": ["t3", "blue", 7], "seats": 12, "token": "0123456789abcdef0123456789abcdef", '
  . '"address": {"zip": 10099, "street": "Long Street 17"}}, "created_at": "2020-02-01T13:00:00+00:00", '
  . '"updated_at": "2024-01-01T13:00:00.123456+00:00", "seen_at": "2024-06-01T13:00:00+00:00"}';

# The statement "change" with such a row, which has the images that are asked for.
sub plain_log
{
	my ($operation, $old, $new, $change) = @_;
	my $row = sub { $_[0] ? "'$image'" : 'NULL' };
	return "WITH c AS ($change RETURNING id) INSERT INTO plain_log SELECT nextval('plain_log_id'), id, 1, 1, '$operation', now(), pg_current_xact_id(), 'postgres', "
	  . $row->($old) . ', ' . $row->($new) . ' FROM c';
}

# ---- instructions ----

# Instructions of statements, one a line, in single-user mode under callgrind: all, or those in a function named by "toggle".
# The cluster is stopped. "settings" are for the server, "file" keeps what callgrind writes.
sub instructions
{
	my ($self, $db, $sql, %with) = @_;
	my $script = "$self->{dir}/single.sql";
	open my $f, '>', $script or die "$script: $!\n";
	print $f "$_\n" for @$sql;
	close $f;
	my $log = "$self->{dir}/single.log";
	my @cmd = as_server('valgrind', '--tool=callgrind', '--callgrind-out-file=' . ($with{file} // '/dev/null'),
		defined $with{toggle} ? "--toggle-collect=$with{toggle}" : (),
		"$self->{bin}/postgres", '--single', '-D', "$self->{dir}/data", map({ ('-c', $_) } @{ $with{settings} // [] }), $db);
	system('sh', '-c', 'in=$1; log=$2; shift 2; cd /; exec "$@" <"$in" >"$log" 2>&1', 'sh', $script, $log, @cmd);
	open my $in, '<', $log or die "$log: $!\n";
	my ($count, $error);
	while (my $line = <$in>)
	{
		$count = $1 if $line =~ /Collected : (\d+)/;
		$error = $line if $line =~ /(ERROR|FATAL|PANIC): /;
	}
	die "single-user server failed: $error\n" if $error;
	die "no count from callgrind, see the end:\n" . qx(tail -15 $log) unless $count;
	return $count;
}

# ---- sessions ----

# A psql that stays open; "pid" is its backend's.
sub session
{
	my ($self, $db) = @_;
	local $ENV{PGOPTIONS} = "";
	my $s = Bench::Session->open($db, $self->psql_command($db));
	push @{ $self->{sessions} }, $s;
	return $s;
}

# Copy the rows of the log that meet a condition into the past, as a restore would write them. They
# land in the default partitions; maintain() then makes the partitions of their months.
sub spread_log
{
	my ($s, $months, $where) = @_;
	my $columns = $s->query("SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
		WHERE attrelid = 'softaudit.log'::regclass AND attnum > 0 AND NOT attisdropped");
	(my $values = $columns) =~ s/\bchanged_at\b/changed_at - m * interval '1 month'/;
	# ids of their own, in the order of time
	$values =~ s{\baudit_id\b}{audit_id - m * 1000000000::bigint};
	$s->query("SET session_replication_role = replica; INSERT INTO softaudit.log ($columns)
		SELECT $values FROM softaudit.log, generate_series(1, $months) m WHERE $where; RESET session_replication_role");
	keys_of_old($s);
	$s->query("CALL softaudit.maintain()") for 1 .. 2;
}

# The tables had their keys when the first row of the log was written: history() leaves out what is older than the key.
sub keys_of_old
{
	my ($s) = @_;
	$s->query("SET session_replication_role = replica;
		UPDATE softaudit.registry SET key_since = (SELECT min(audit_id) FROM softaudit.log); RESET session_replication_role");
}

# ---- a database a measurement ----

# Make a database from a template, page by page through the WAL, so that its pages are in
# shared buffers and their next change writes no full page.
sub database_from
{
	my ($self, $name, $template) = @_;
	my $c = $self->session('postgres');
	$c->query("DROP DATABASE IF EXISTS $name WITH (FORCE)");
	$c->query("CREATE DATABASE $name TEMPLATE $template STRATEGY = wal_log");
	# A copy does not take over the settings of its template, and so not the library.
	my $settings = $c->query("SELECT format('ALTER DATABASE $name SET %I = %s;', split_part(s, '=', 1),
			CASE WHEN split_part(s, '=', 1) = 'session_preload_libraries' THEN substr(s, strpos(s, '=') + 1)
				 ELSE quote_literal(substr(s, strpos(s, '=') + 1)) END)
		FROM pg_db_role_setting r, unnest(setconfig) s
		WHERE setrole = 0 AND setdatabase = (SELECT oid FROM pg_database WHERE datname = '$template')");
	$c->query($settings) if length $settings;
	$c->close;
}

# ---- counters ----

# CPU of a process so far, in microseconds: to the nanosecond where the kernel tells.
sub cpu_us
{
	my ($pid) = @_;
	if (open my $f, '<', "/proc/$pid/schedstat")
	{
		my $line = <$f>;
		close $f;
		return (split ' ', $line)[0] / 1000 if defined $line && $line =~ /^[1-9]/;
	}
	open my $f, '<', "/proc/$pid/stat" or die "process $pid is gone\n";
	my $line = <$f>;
	close $f;
	$line =~ s/^.*\) //;
	my @w = split ' ', $line;
	return ($w[11] + $w[12]) * 10_000;
}

# The same once the process has gone to sleep.
sub cpu_at_rest
{
	my ($pid) = @_;
	my $last = -1;
	for (1 .. 500)
	{
		my $now = cpu_us($pid);
		return $now if $now == $last;
		$last = $now;
		sleep 0.003;
	}
	return $last;
}

package Bench::Session;

use strict;
use warnings;
use IPC::Open2;

# Start psql with these arguments and leave it open.
sub open
{
	my ($class, $db, @cmd) = @_;
	my ($out, $in);
	local $ENV{PGAPPNAME} = "bench";
	my $child = open2($out, $in, "sh", "-c", q(exec "$@" 2>&1), "sh", @cmd);
	$in->autoflush(1);
	my $s = bless { in => $in, out => $out, child => $child, n => 0, db => $db }, $class;
	$s->query("SET client_min_messages = warning");
	$s->{pid} = $s->query("SELECT pg_backend_pid()");
	die "no connection to database $db: $s->{pid}\n" unless $s->{pid} =~ /^\d+$/;
	return $s;
}

# Run statements and return what they printed; an error is fatal unless $lenient.
sub query
{
	my ($self, $sql, $lenient) = @_;
	$self->send($sql);
	return $self->wait($lenient);
}

sub send
{
	my ($self, $sql) = @_;
	my $mark = 'end-of-answer-' . ++$self->{n};
	$self->{mark} = $mark;
	$self->{sql} = $sql;
	$sql .= ';' if $sql !~ /(;|^\\.*)\s*\z/m;
	local $SIG{PIPE} = 'IGNORE';
	print { $self->{in} } "$sql\n\\echo $mark\n";
}

sub wait
{
	my ($self, $lenient) = @_;
	my @lines;
	my $bad;
	my $out = $self->{out};
	while (my $line = <$out>)
	{
		chomp $line;
		if ($line eq $self->{mark})
		{
			die "statement failed in database $self->{db}:\n" . substr($self->{sql}, 0, 4000) . "\n" . join("\n", @lines) . "\n"
			  if $bad && !$lenient;
			return join("\n", @lines);
		}
		next if $line =~ /^(psql:\S+ )?(NOTICE|WARNING):/ && !$lenient;
		$bad = 1 if $line =~ /^(psql:\S+ )?(ERROR|FATAL|PANIC):|^psql: error:|invalid command/;
		push @lines, $line;
	}
	die "lost the connection to database $self->{db}:\n" . substr($self->{sql}, 0, 2000) . "\n" . join("\n", @lines) . "\n";
}

sub close
{
	my ($self) = @_;
	return unless $self->{child};
	{
		local $SIG{PIPE} = 'IGNORE';
		print { $self->{in} } "\\q\n";
		CORE::close($self->{in});
	}
	my $out = $self->{out};
	while (defined(my $rest = <$out>)) { }
	CORE::close($out);
	waitpid $self->{child}, 0;
	$self->{child} = undef;
}

1;
