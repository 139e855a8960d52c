# Transaction ids beyond 2^32, transactions and blocks that roll back: xid is right,
# nothing rolled back is logged, no log row loses its session row.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('xid');
$node->init;
command_ok([ 'pg_resetwal', '-e', '5', $node->data_dir ], 'the epoch is set to 5');
$node->append_conf('postgresql.conf', 'fsync = off');
$node->start;
$node->safe_psql('postgres', q(
CREATE EXTENSION softaudit;
CREATE TABLE t (id int PRIMARY KEY, v text);
SELECT softaudit.enable('t', soft_delete => false);
));
my $dangling = 'SELECT count(*) FROM softaudit.changes WHERE session_user_name IS NULL';

$node->safe_psql('postgres', q(BEGIN; INSERT INTO t VALUES (1, pg_current_xact_id()::text); SAVEPOINT s; INSERT INTO t VALUES (2, pg_current_xact_id()::text); COMMIT;));
is($node->safe_psql('postgres', q(SELECT count(*) FROM softaudit.log WHERE xid::text = new_data ->> 'v')), 2, 'xid is that of the transaction, also within a savepoint');
is($node->safe_psql('postgres', q(SELECT bool_and(xid::text::numeric > 5 * 4294967296.0) FROM softaudit.log)), 't', 'and beyond 2^32');
is($node->safe_psql('postgres', q(SELECT count(*) FROM softaudit.history('t', 1))), 1, 'history() works there');

# the first transaction of a session is rolled back, then the second, then one is not
for my $first ('ROLLBACK', 'ROLLBACK TO s', 'SELECT 1/0')
{
	my ($ret, $out, $err) = $node->psql('postgres', "
		BEGIN; SAVEPOINT s;
		INSERT INTO t VALUES (10, 'lost');
		$first;
		ROLLBACK;
		BEGIN; INSERT INTO t VALUES (10, 'lost'); ROLLBACK;
		INSERT INTO t VALUES (10, 'kept');
		DELETE FROM t WHERE id = 10;", on_error_stop => 0);
	is($node->safe_psql('postgres', $dangling), 0, "after $first: no log row without its session");
}
is($node->safe_psql('postgres', q(SELECT string_agg(operation || ' ' || (COALESCE(new_data, old_data) ->> 'v'), ', ' ORDER BY audit_id) FROM softaudit.changes WHERE row_key = '{"id": 10}')),
	'INSERT kept, DELETE kept, INSERT kept, DELETE kept, INSERT kept, DELETE kept', 'what was rolled back is not in the log');

# savepoints within savepoints; release into a parent that is rolled back
$node->safe_psql('postgres', q(
BEGIN;
INSERT INTO t VALUES (20, 'a');
SAVEPOINT a;
INSERT INTO t VALUES (21, 'lost');
SAVEPOINT b;
INSERT INTO t VALUES (22, 'lost');
RELEASE b;
INSERT INTO t VALUES (23, 'lost');
ROLLBACK TO a;
SAVEPOINT c;
INSERT INTO t VALUES (24, 'c');
RELEASE c;
INSERT INTO t VALUES (25, 'end');
COMMIT;
));
is($node->safe_psql('postgres', q(SELECT string_agg(new_data ->> 'id', ' ' ORDER BY audit_id) FROM softaudit.changes WHERE (new_data ->> 'id')::int BETWEEN 20 AND 29)),
	'20 24 25', 'savepoints within savepoints');
is($node->safe_psql('postgres', $dangling), 0, 'no log row without its session');

# rows of an outer statement wait while a trigger's block rolls back or reads the log
$node->safe_psql('postgres', q(
CREATE FUNCTION nested() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.id < 1000 THEN RETURN NULL; END IF;
	BEGIN
		INSERT INTO t VALUES (-NEW.id, 'inner');
		PERFORM count(*) FROM softaudit.log WHERE xid = pg_current_xact_id();
		IF NEW.id % 2 = 0 THEN RAISE division_by_zero; END IF;
	EXCEPTION WHEN division_by_zero THEN NULL;
	END;
	RETURN NULL;
END $$;
CREATE TRIGGER nested AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION nested();
INSERT INTO t SELECT g, 'outer' FROM generate_series(1001, 1400) g;
DROP TRIGGER nested ON t;
));
is( $node->safe_psql('postgres', q(SELECT new_data ->> 'v', count(*), count(DISTINCT audit_id), count(DISTINCT row_key) FROM softaudit.changes
		WHERE new_data ->> 'v' IN ('inner', 'outer') GROUP BY 1 ORDER BY 1)),
	"inner|200|200|200\nouter|400|400|400", 'a trigger whose block rolls back every other time');
is($node->safe_psql('postgres', q(SELECT count(*) FROM softaudit.changes c FULL JOIN t ON to_jsonb(t) = c.new_data
		WHERE (c.audit_id IS NULL OR t.id IS NULL) AND abs(COALESCE(t.id, (c.new_data ->> 'id')::int)) > 1000)),
	0, 'and the log is what the table is');

# 100,000 blocks with an exception handler; the odd ones change a row, some in vain
$node->safe_psql('postgres', q(
SET statement_timeout = '5min';
CREATE TABLE loop (id int PRIMARY KEY, n int);
SELECT softaudit.enable('loop', soft_delete => false, images => 'changes');
INSERT INTO loop SELECT g, 0 FROM generate_series(1, 100000) g;
CREATE TABLE grown (before bigint, after bigint);
DO $$
DECLARE b bigint;
BEGIN
	FOR i IN 1 .. 100000 LOOP
		BEGIN
			UPDATE loop SET n = n + 1 WHERE id = i;
			IF i % 10 = 0 THEN RAISE division_by_zero; END IF;
		EXCEPTION WHEN division_by_zero THEN NULL;
		END;
		IF i = 10000 THEN SELECT sum(total_bytes) INTO b FROM pg_backend_memory_contexts WHERE name LIKE 'softaudit%'; END IF;
	END LOOP;
	INSERT INTO grown SELECT b, sum(total_bytes) FROM pg_backend_memory_contexts WHERE name LIKE 'softaudit%';
END $$;
));
is($node->safe_psql('postgres', q(SELECT count(*), count(DISTINCT audit_id), count(DISTINCT xid) FROM softaudit.changes WHERE table_name = 'loop' AND operation = 'UPDATE')),
	'90000|90000|1', '100,000 exception blocks: each change that stayed is logged once');
is($node->safe_psql('postgres', q(SELECT after - before <= 16384 FROM grown)), 't', '100,000 exception blocks: our memory stays flat');
is($node->safe_psql('postgres', $dangling), 0, 'no log row without its session');

# xid8 in the view, in a comparison as a sealer makes it
is($node->safe_psql('postgres', q(SELECT bool_and(xid < pg_snapshot_xmin(pg_current_snapshot())) FROM softaudit.changes)), 't', 'all are below the horizon now');
$node->stop;
done_testing();
