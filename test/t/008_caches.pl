# What a backend remembers: an open session follows what others do to tables,
# partitions, log groups and roles, and a session that loads the library in the
# middle of its first statement captures that statement whole.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('caches');
$node->init;
$node->start;
$node->safe_psql('postgres', q(
CREATE EXTENSION softaudit;
-- each session loads the library when it first fires
ALTER DATABASE postgres RESET session_preload_libraries;
CREATE ROLE clerk LOGIN;
CREATE TABLE t (id int PRIMARY KEY, v text, secret text);
CREATE TABLE part (id int, side text, v text, PRIMARY KEY (id, side)) PARTITION BY LIST (side);
CREATE TABLE part_l PARTITION OF part FOR VALUES IN ('l');
CREATE TABLE part_r PARTITION OF part FOR VALUES IN ('r');
CREATE TABLE parent (id int PRIMARY KEY, v text);
CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE);
SELECT softaudit.enable(r, soft_delete => false) FROM unnest('{t,part,parent,child}'::regclass[]) r;
INSERT INTO t SELECT g, 'v', 's' FROM generate_series(1, 10) g;
INSERT INTO part SELECT g, 'l', 'v' FROM generate_series(1, 10) g;
INSERT INTO parent SELECT g, 'v' FROM generate_series(1, 10) g;
INSERT INTO child SELECT g, (g + 1) / 2 FROM generate_series(1, 20) g;
GRANT ALL ON t, part, parent, child TO clerk;
));

my $mark = 0;

# What was logged since the last call, by table and operation.
sub since
{
	my ($what) = @_;
	my $sql = $what // q(SELECT string_agg(line, ', ' ORDER BY line) FROM
		(SELECT table_name || ' ' || operation || ' ' || count(*) AS line FROM new GROUP BY table_name, operation) l);
	my $got = $node->safe_psql('postgres', "WITH new AS (SELECT * FROM softaudit.changes WHERE audit_id > $mark) $sql");

	$mark = $node->safe_psql('postgres', 'SELECT max(audit_id) FROM softaudit.log');
	return $got;
}
since();

# ---- the first statement of a session ----

for my $case (
	[ q(COPY t (id, v) FROM PROGRAM 'seq -f "%.0f x" 101 2600' (DELIMITER ' ')), 't INSERT 2500', 'COPY' ],
	[ q(UPDATE t SET v = 'w'), 't UPDATE 2510', 'an UPDATE of many rows' ],
	[ q(DELETE FROM t WHERE id > 100), 't DELETE 2500', 'a DELETE of many rows' ],
	[ q(UPDATE part SET side = 'r' WHERE id <= 5), 'part UPDATE 5', 'rows that move between partitions' ],
	[ q(UPDATE part_r SET side = 'r', v = 'direct'), 'part UPDATE 5', 'an UPDATE of a partition' ],
	[ q(DELETE FROM parent WHERE id <= 2), 'child DELETE 4, parent DELETE 2', 'a cascade' ],
	[ q(UPDATE parent SET id = id + 100), 'child UPDATE 16, parent UPDATE 8', 'a cascading UPDATE' ],
	[ q(WITH a AS (INSERT INTO t VALUES (11, 'a') RETURNING id), b AS (UPDATE part SET v = 'b' RETURNING id) DELETE FROM t WHERE id = 10), 'part UPDATE 10, t DELETE 1, t INSERT 1', 'data-modifying CTEs' ],
	[ q(MERGE INTO t USING generate_series(9, 12) g ON t.id = g WHEN MATCHED THEN UPDATE SET v = 'm' WHEN NOT MATCHED THEN INSERT VALUES (g, 'm')), 't INSERT 2, t UPDATE 2', 'MERGE' ],
	[ q(DO $$ BEGIN UPDATE t SET v = 'do' WHERE id = 1; BEGIN UPDATE t SET v = 'lost'; RAISE 'x'; EXCEPTION WHEN raise_exception THEN NULL; END; UPDATE t SET v = 'end' WHERE id = 1; END $$), 't UPDATE 2', 'a DO block with a rolled-back part' ],
	[ q(BEGIN; SAVEPOINT s; UPDATE t SET v = 'lost'; ROLLBACK TO s; UPDATE t SET v = 'kept' WHERE id = 1; COMMIT), 't UPDATE 1', 'a savepoint rolled back' ],
	[ q(BEGIN; UPDATE t SET v = 'lost'; ROLLBACK), '', 'a transaction rolled back' ],
	[ q(TRUNCATE child), 'child TRUNCATE 1', 'TRUNCATE' ],
	[ q(DELETE FROM t WHERE false), '', 'a statement without rows' ])
{
	my ($sql, $want, $what) = @$case;

	$node->safe_psql('postgres', $sql);
	is(since(), $want, "first statement of a session: $what");
}
is($node->safe_psql('postgres', q(BEGIN; UPDATE t SET v = 'seen' WHERE id = 1; SELECT count(*) FROM softaudit.log WHERE xid = pg_current_xact_id(); COMMIT)),
	1, 'first statement of a session: its log row is seen in the transaction');
is($node->safe_psql('postgres', q(WITH u AS (UPDATE t SET v = 'cte' WHERE id = 1 RETURNING 1) SELECT count(*) FROM u)), 1, 'and a CTE works');
is(since(), 't UPDATE 2', 'both logged');
is($node->safe_psql('postgres', q(SELECT softaudit.is_active())), 'f', 'a session that has not fired has not loaded the library');

# ---- an open session ----

my $s = $node->background_psql('postgres');
$s->query_safe(q(PREPARE up AS UPDATE t SET v = v || '.' WHERE id = 1));
$s->query_safe('EXECUTE up') for 1 .. 7;
$s->query_safe(q(UPDATE part SET v = 'warm'; UPDATE parent SET v = 'warm'));
since();

my $other = sub { $node->safe_psql('postgres', "SET client_min_messages = warning; $_[0]"); };
my $columns = 'SELECT string_agg(k, \',\' ORDER BY k) FROM (SELECT DISTINCT jsonb_object_keys(new_data) AS k FROM new) o';

$other->('ALTER TABLE t ADD COLUMN extra int DEFAULT 7');
$s->query_safe('EXECUTE up');
is(since($columns), 'extra,id,secret,v', 'a column that another session adds');
$other->('ALTER TABLE t RENAME COLUMN extra TO more');
$s->query_safe('EXECUTE up');
is(since($columns), 'id,more,secret,v', 'renames');
$other->(q(ALTER TABLE t ALTER COLUMN more TYPE text USING 'n' || more));
$s->query_safe('EXECUTE up');
is(since(q(SELECT new_data ->> 'more' FROM new)), 'n7', 'retypes');
$other->('ALTER TABLE t DROP COLUMN more');
$s->query_safe('EXECUTE up');
is(since($columns), 'id,secret,v', 'drops');
$other->(q(SELECT softaudit.enable('t', exclude => '{secret}')));
$s->query_safe('EXECUTE up');
is(since($columns), 'id,v', 'excludes');
$other->('ALTER TABLE t RENAME COLUMN secret TO other_name');
$s->query_safe('EXECUTE up');
is(since($columns), 'id,v', 'and renames then');
$other->('ALTER TABLE t RENAME TO t2; CREATE SCHEMA elsewhere; ALTER TABLE t2 SET SCHEMA elsewhere');
$s->query_safe('UPDATE elsewhere.t2 SET v = 1 WHERE id = 1');
is(since(q(SELECT schema_name, table_name, operation FROM new)), 'elsewhere|t2|UPDATE', 'a table that moves to another schema and name');
$other->('ALTER TABLE elsewhere.t2 SET SCHEMA public; ALTER TABLE t2 RENAME TO t; ALTER TABLE t RENAME COLUMN other_name TO secret');
$s->query_safe('EXECUTE up');
is(since(q(SELECT schema_name, table_name, operation FROM new)), 'public|t|UPDATE', 'and back');
$other->('ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY (id, v)');
$s->query_safe(q(UPDATE t SET v = 'k' WHERE id = 1));
is(since(q(SELECT row_key FROM new)), '{"v": "k", "id": 1}', 'another primary key');
is($s->query_safe(q(SELECT operation FROM softaudit.history('t', '{"id": 1, "v": "k"}'::jsonb) ORDER BY audit_id DESC LIMIT 1)), 'UPDATE', 'by which history() finds the row');
$other->('ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY (id)');

$other->(q(CREATE TABLE part_n PARTITION OF part FOR VALUES IN ('n')));
$s->query_safe(q(INSERT INTO part VALUES (100, 'n', 'new')));
$s->query_safe(q(UPDATE part SET side = 'l' WHERE id = 100));
$s->query_safe(q(TRUNCATE part_n));
is(since(), 'part INSERT 1, part TRUNCATE 1, part UPDATE 1', 'a new partition');
$other->(q(DROP TABLE part_n; CREATE TABLE part_n (v text, junk int, side text NOT NULL, id int NOT NULL); ALTER TABLE part_n DROP COLUMN junk; ALTER TABLE part ATTACH PARTITION part_n FOR VALUES IN ('n')));
$s->query_safe(q(UPDATE part SET side = 'n' WHERE id = 100));
is(since(q(SELECT operation, old_data, new_data FROM new)), 'UPDATE|{"v": "new", "id": 100, "side": "l"}|{"v": "new", "id": 100, "side": "n"}', 'one with its columns in another order');
$other->('ALTER TABLE part DETACH PARTITION part_n');
$s->query_safe(q(UPDATE part_n SET v = 'alone'));
is(since(), '', 'one that was detached is no longer captured');

$other->(q(SELECT softaudit.enable('t', log_group => 'mine')));
$s->query_safe('EXECUTE up');
is(since(q(SELECT g.group_name, count(*) FROM new JOIN softaudit.log l USING (audit_id) JOIN softaudit.log_groups g ON g.group_id = l.log_group GROUP BY 1)), 'mine|1', 'another log group');
$other->(q(SELECT softaudit.disable('t')));
$s->query_safe('EXECUTE up');
is(since(), '', 'disable()');
$other->(q(SELECT softaudit.enable('t')));
$s->query_safe('EXECUTE up');
is(since(), 't UPDATE 1', 'and enable()');
$other->('DROP TABLE parent CASCADE; CREATE TABLE parent (v text, id int PRIMARY KEY)');
$s->query_safe(q(INSERT INTO parent VALUES ('x', 1)));
is(since(), '', 'a new table of a dropped name is not captured');

# a role that is renamed
my $c = $node->background_psql('postgres', extra_params => [ '-U', 'clerk' ]);
$c->query_safe(q(UPDATE t SET v = 'clerk' WHERE id = 2));
is(since(q(SELECT changed_by, session_user_name FROM new)), 'clerk|clerk', 'a role');
$other->('ALTER ROLE clerk RENAME TO accountant');
$c->query_safe(q(UPDATE t SET v = 'accountant' WHERE id = 2));
is(since(q(SELECT changed_by, session_user_name FROM new)), 'accountant|accountant', 'under its new name');
$c->quit;
$s->query_safe(q(SET SESSION AUTHORIZATION accountant; UPDATE t SET v = 'auth' WHERE id = 2; RESET SESSION AUTHORIZATION;));
is(since(q(SELECT changed_by, session_user_name FROM new)), 'accountant|accountant', 'SET SESSION AUTHORIZATION');
$s->query_safe(q(SET ROLE accountant; UPDATE t SET v = 'role' WHERE id = 2; RESET ROLE;));
is(since(q(SELECT changed_by = session_user_name, session_user_name <> 'accountant' FROM new)), 't|t', 'SET ROLE is no other session user');

# ---- memory over many changes of the catalog ----

my $memory = 'SELECT sum(total_bytes) FROM pg_backend_memory_contexts';
my $churn = q(
ALTER TABLE t ADD COLUMN x int; UPDATE t SET v = 'x' WHERE id = 1; ALTER TABLE t DROP COLUMN x; UPDATE t SET v = 'y' WHERE id = 1;
);
$s->query_safe($churn) for 1 .. 60;
$s->query_safe($memory);
my $before = $s->query_safe($memory);
$s->query_safe($churn) for 1 .. 120;
$s->query_safe($memory);
my $after = $s->query_safe($memory);
# the table's own description grows by its dropped columns
cmp_ok($after - $before, '<', 400_000, 'memory after 240 changes of the table: ' . ($after - $before) . ' bytes more');

# plans are made once: a generic plan stays while nothing changes
$s->query_safe('EXECUTE up') for 1 .. 20;
my $plans = $s->query_safe(q(SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE name = 'up'));
$s->query_safe('EXECUTE up') for 1 .. 20;
my ($g1, $c1) = split /\|/, $plans;
my ($g2, $c2) = split /\|/, $s->query_safe(q(SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE name = 'up'));
is(($g2 + $c2) - ($g1 + $c1), 20, 'prepared statements are executed as they were');
$s->quit;

# a server with assertions can throw its caches away wherever a message may come in
SKIP:
{
	my ($status) = $node->psql('postgres', 'SET debug_discard_caches = 1');
	skip 'this server cannot discard its caches', 2 unless $status == 0;
	is($node->safe_psql('postgres', q(SET debug_discard_caches = 1; SELECT count(*) > 0 FROM softaudit.history('t', 1))),
		't', 'history() holds no pointer into the relation cache');
	$node->safe_psql('postgres', q(SET debug_discard_caches = 1; SELECT softaudit.enable('t', images => 'changes')));
	like($node->safe_psql('postgres', q(SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 't'::regclass AND tgname = '!softaudit_capture')),
		qr/changes/, 'nor does enable()');
}
$node->stop;
done_testing();
