# A backend's memory stays flat over many captured rows, in many statements and in
# one.  SOFTAUDIT_MEMORY_ROWS sets how many.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $rows = $ENV{SOFTAUDIT_MEMORY_ROWS} || 200_000;
# one more block of a cache is no leak; a byte a row would be three times as much
my $tolerance = 64 * 1024;

my $node = PostgreSQL::Test::Cluster->new('memory');
$node->init;
$node->append_conf('postgresql.conf', qq(
synchronous_commit = off
fsync = off
autovacuum = off
max_wal_size = 4GB
));
$node->start;
$node->safe_psql('postgres', q(
CREATE EXTENSION softaudit;
CREATE TABLE t (id int PRIMARY KEY, name text, data jsonb, tags text[], at timestamptz DEFAULT now(), secret text, note text);
CREATE TABLE c (id int PRIMARY KEY, name text, n int);
CREATE TABLE p (id int, side int, v text, PRIMARY KEY (id, side)) PARTITION BY LIST (side);
CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2);
SELECT softaudit.enable('t', soft_delete => false, redact => '{secret}', exclude => '{note}');
SELECT softaudit.enable('c', soft_delete => false, images => 'changes', ignore => '{n}');
SELECT softaudit.enable('p', soft_delete => false);
CREATE FUNCTION single(total int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. total LOOP
		UPDATE c SET name = i::text || n, n = i WHERE id = i;
	END LOOP;
END $$;
CREATE FUNCTION blocks(total int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. total LOOP
		BEGIN
			UPDATE c SET name = i::text || n || name WHERE id = i;
			IF i % 2 = 0 THEN RAISE division_by_zero; END IF;
		EXCEPTION WHEN division_by_zero THEN NULL;
		END;
	END LOOP;
END $$;
CREATE PROCEDURE commits(total int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. total LOOP
		UPDATE c SET name = i::text || n || name WHERE id = i;
		COMMIT;
	END LOOP;
END $$;
));
# a row for each change, or a transaction would wade through the versions of one
$node->safe_psql('postgres', "INSERT INTO c SELECT g, 'c', 0 FROM generate_series(0, $rows) g; VACUUM ANALYZE c;");

my $session = $node->background_psql('postgres');

# Bytes in all memory contexts but the one that holds this query's own plan and result.
sub memory
{
	my $sql = 'SELECT sum(total_bytes), sum(used_bytes) FROM pg_backend_memory_contexts';
	$session->query_safe($sql) for 1 .. 2;
	return split /\|/, $session->query_safe($sql);
}

# Run it on fewer rows, to fill the caches and the buffer, then on all.
sub flat
{
	my ($what, $sql, $n) = @_;
	my $run = sub { my $s = $sql; $s =~ s/:n/$_[0]/g; $session->query_safe($s); };

	$run->($_) for 3000, 20_000;
	my ($total_before, $used_before) = memory();
	$run->($n);
	my ($total, $used) = memory();
	cmp_ok($total - $total_before, '<=', $tolerance,
		sprintf('%s: %d rows, memory %d kB before, %+d bytes after', $what, $n, $total_before / 1024, $total - $total_before));
	cmp_ok($used - $used_before, '<=', $tolerance, "$what: in use, too");
}

flat('one INSERT', q(
	DELETE FROM t;
	INSERT INTO t (id, name, data, tags, secret, note)
	SELECT g, 'name ' || g, jsonb_build_object('a', g, 'b', repeat('x', 50)), ARRAY['x', g::text], g, g FROM generate_series(1, :n) g;), $rows);
flat('one UPDATE', q(UPDATE t SET name = name || 'x', secret = id + 1 WHERE id <= :n), $rows);
flat('one DELETE', q(DELETE FROM t WHERE id <= :n), $rows);
flat('one INSERT into partitions', q(INSERT INTO p SELECT g + COALESCE((SELECT max(id) FROM p), 0), 1, 'v' FROM generate_series(1, :n) g), $rows / 4);
flat('rows that move between partitions', q(UPDATE p SET side = 3 - side WHERE id <= :n), $rows / 4);
flat('many statements in one transaction', q(SELECT single(:n)), $rows);
flat('many transactions', q(CALL commits(:n)), $rows / 4);
flat('exception blocks, half of them rolled back', q(SELECT blocks(:n)), $rows / 4);

# Statements as a client sends them, each a transaction; errors and rollbacks among them.
my $text = '';
$text .= "UPDATE c SET name = '$_' WHERE id = " . ($_ % 100) . ";\n" for 1 .. 20;
$text .= "BEGIN; UPDATE c SET name = 'x' WHERE id < 50; SAVEPOINT s; UPDATE c SET name = 'y' WHERE id < 50; ROLLBACK TO s; ROLLBACK;\n";
$text .= "SET application_name = 'a'; UPDATE c SET name = 'p' WHERE id = 1; RESET application_name;\n";
$text .= "SELECT set_config('app.current_user', 'u', false); UPDATE c SET name = 'q' WHERE id = 1;\n";
$session->query_safe($text) for 1 .. 20;
my ($total_before, $used_before) = memory();
$session->query_safe($text) for 1 .. 200;
my ($total, $used) = memory();
cmp_ok($total - $total_before, '<=', $tolerance,
	sprintf('statements of a client: memory %d kB before, %+d bytes after', $total_before / 1024, $total - $total_before));
cmp_ok($used - $used_before, '<=', $tolerance, 'statements of a client: in use, too');

# the log holds what it should, or all of this measured nothing
is( $node->safe_psql('postgres', q(SELECT count(*) FROM softaudit.changes WHERE table_name = 't' AND operation = 'UPDATE')),
	$rows + 23_000, 'all rows were captured');

$session->quit;
$node->stop;
done_testing();
