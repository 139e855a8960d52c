# Two-phase commit: the log rows of a prepared transaction share its fate, through a
# crash, too, and no log row refers to a session row that was rolled back.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('prepared');
$node->init;
$node->append_conf('postgresql.conf', 'max_prepared_transactions = 10');
$node->start;
$node->safe_psql('postgres', q(
CREATE EXTENSION softaudit;
CREATE TABLE t (id int PRIMARY KEY, v text);
CREATE TABLE d (id int PRIMARY KEY, t_id int REFERENCES t DEFERRABLE INITIALLY DEFERRED);
SELECT softaudit.enable('t', soft_delete => false);
SELECT softaudit.enable('d', soft_delete => false);
));
my $dangling = 'SELECT count(*) FROM softaudit.changes WHERE session_user_name IS NULL';

# In one session: its session row is first written by the transaction that will be
# rolled back, and what follows must not rely on it.
$node->safe_psql('postgres', q(
BEGIN;
INSERT INTO t VALUES (1, 'rolled back');
PREPARE TRANSACTION 'back';
INSERT INTO t VALUES (2, 'after');
BEGIN;
INSERT INTO t VALUES (3, 'committed');
SAVEPOINT s;
INSERT INTO t VALUES (30, 'savepoint');
ROLLBACK TO s;
INSERT INTO t SELECT g, 'bulk' FROM generate_series(1001, 3500) g;
PREPARE TRANSACTION 'forth';
INSERT INTO t VALUES (4, 'after');
SET application_name = 'renamed';
BEGIN;
INSERT INTO d VALUES (1, 5);
INSERT INTO t VALUES (5, 'deferred');
PREPARE TRANSACTION 'later';
));
is($node->safe_psql('postgres', q(SELECT string_agg(new_data ->> 'id', ' ' ORDER BY audit_id) FROM softaudit.changes)),
	'2 4', 'prepared changes are not in the log that others see');
is($node->safe_psql('postgres', $dangling), 0, 'no log row without its session');

$node->stop('immediate');
$node->start;
is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_prepared_xacts'), 3, 'after a crash the transactions are there');
$node->safe_psql('postgres', q(COMMIT PREPARED 'forth'));
$node->safe_psql('postgres', q(ROLLBACK PREPARED 'back'));
is( $node->safe_psql('postgres', q(SELECT new_data ->> 'v', count(*), count(DISTINCT audit_id) FROM softaudit.changes GROUP BY 1 ORDER BY 1)),
	"after|2|2\nbulk|2500|2500\ncommitted|1|1", 'COMMIT PREPARED brings its log rows, ROLLBACK PREPARED none');
is($node->safe_psql('postgres', $dangling), 0, 'no log row without its session');
is( $node->safe_psql('postgres', q(SELECT count(*) FROM softaudit.changes c JOIN t ON to_jsonb(t) = c.new_data)),
	$node->safe_psql('postgres', 'SELECT count(*) FROM t'), 'the log has what the table has');

$node->restart;
$node->safe_psql('postgres', q(COMMIT PREPARED 'later'));
is( $node->safe_psql('postgres', q(SELECT string_agg(table_name || ' ' || operation, ', ' ORDER BY audit_id), min(application_name) FROM softaudit.changes WHERE (new_data ->> 'id')::int IN (1, 5))),
	'd INSERT, t INSERT|renamed', 'and after a restart');
is($node->safe_psql('postgres', $dangling), 0, 'no log row without its session');
is($node->safe_psql('postgres', 'SELECT count(*) - count(DISTINCT audit_id) FROM softaudit.log'), 0, 'no id twice');

# enable() prepared: its settings hold from COMMIT PREPARED on
$node->safe_psql('postgres', q(
CREATE TABLE e (id int PRIMARY KEY);
BEGIN;
SELECT softaudit.enable('e', soft_delete => false);
INSERT INTO e VALUES (1);
PREPARE TRANSACTION 'enable';
COMMIT PREPARED 'enable';
INSERT INTO e VALUES (2);
));
is($node->safe_psql('postgres', q(SELECT string_agg(new_data ->> 'id', ' ' ORDER BY audit_id) FROM softaudit.changes WHERE table_name = 'e')),
	'1 2', 'enable() can be prepared');

# An error at PREPARE leaves nothing behind.
my ($ret, $out, $err) = $node->psql('postgres', q(
BEGIN;
INSERT INTO d VALUES (7, 777);
PREPARE TRANSACTION 'bad';
INSERT INTO t VALUES (8, 'next');
), on_error_stop => 0);
like($err, qr/violates foreign key/, 'a deferred constraint fails at PREPARE');
is($node->safe_psql('postgres', q(SELECT string_agg(new_data ->> 'id', ' ') FROM softaudit.changes WHERE new_data ->> 'id' IN ('7', '8'))),
	'8', 'and only what follows is logged');
is($node->safe_psql('postgres', $dangling), 0, 'no log row without its session');
$node->stop;
done_testing();
