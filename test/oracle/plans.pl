#!/usr/bin/perl
# test/oracle/plans.pl - plans of soft-deleted tables are those of the filter written by hand.
#
#   test/oracle/plans.pl [--show] [--cluster]
#
# Each query is explained twice on the same enabled tables: as it stands, and with the condition
# where a person would write it (in {{braces}} below: left out of the first) under show_deleted = on. EXPLAIN (COSTS OFF)
# must say the same, word for word; and without either it must say something else, or the
# query would prove nothing. Runs as superuser against the server that PGHOST and PGPORT name, in a database of its own;
# --cluster, or no PGHOST, starts a throw-away server. The last line is "N passed, N failed".
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../bench";
use Bench;
use Getopt::Long;

my %opt;
GetOptions(\%opt, 'show', 'cluster', 'help') or die "see the head of $0\n";
if ($opt{help})
{
	open my $me, '<', $0;
	while (<$me>) { next if /^#!/; last unless s/^# ?//; print }
	exit 0;
}
delete @ENV{qw(PGDATABASE PGOPTIONS)};
$ENV{PGCLIENTENCODING} = 'UTF8';
if ($opt{cluster} || !$ENV{PGHOST})
{
	my $cluster = Bench->new_cluster(shared_buffers => '128MB', max_wal_size => '2GB', min_wal_size => '256MB');
	@ENV{qw(PGHOST PGPORT PGUSER)} = ($cluster->{dir}, 5432, 'postgres');
}
my $psql = Bench::pg_config('--bindir') . '/psql';
$psql = 'psql' unless -x $psql;
my $db = 'softaudit_plans';
my $admin = Bench::Session->open('postgres', $psql, '-XqAt', '-d', 'postgres');
$admin->query("DROP DATABASE IF EXISTS $db WITH (FORCE)");
$admin->query("CREATE DATABASE $db TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'");
my $trigrams = $admin->query("SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_trgm'");
my $version = $admin->query('SHOW server_version');
my $s = Bench::Session->open($db, $psql, '-XqAt', '-d', $db);
$s->query('CREATE EXTENSION softaudit');
$s->query('CREATE EXTENSION pg_trgm') if $trigrams;
$s->query(<<'SQL');
SET client_min_messages = error;
CREATE TABLE users (id int PRIMARY KEY, email text, name text, age int, org int, tags int[], doc jsonb, words tsvector, active boolean, deleted_at timestamptz);
INSERT INTO users SELECT i, 'user' || i || '@example.org', 'Name ' || (i * 7919) % 30011, i % 90, i % 500, ARRAY[i % 1000, i % 777, i % 31], jsonb_build_object('plan', i % 400, 'city', 'c' || i % 900),
	to_tsvector('simple', 'w' || i % 2000 || ' v' || i % 1500), i % 20 = 0, CASE WHEN i % 10 = 3 THEN timestamptz '2024-01-01' + i * interval '1 minute' END FROM generate_series(1, 30000) i;
CREATE TABLE orders (id int PRIMARY KEY, user_id int, state text, total numeric, at date, deleted_at timestamptz);
INSERT INTO orders SELECT i, (i * 31) % 30000, (ARRAY['open', 'paid', 'sent', 'done', 'done', 'done'])[1 + i % 6], i % 1000, date '2023-01-01' + i % 700, CASE WHEN i % 9 = 4 THEN timestamptz '2024-02-01' + i * interval '1 minute' END
	FROM generate_series(1, 40000) i;
CREATE TABLE events (id int, at date, kind int, body text, deleted_at timestamptz) PARTITION BY RANGE (at);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2023-01-01') TO ('2023-07-01');
CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM ('2023-07-01') TO ('2024-01-01');
CREATE TABLE events_rest PARTITION OF events DEFAULT;
INSERT INTO events SELECT i, date '2023-01-01' + i % 500, i % 300, 'body ' || i % 5000, CASE WHEN i % 8 = 1 THEN timestamptz '2024-02-01' + i * interval '1 minute' END FROM generate_series(1, 20000) i;
CREATE TABLE orgs (id int PRIMARY KEY, title text, parent int);
INSERT INTO orgs SELECT i, 'org ' || i, nullif(i / 3, 0) FROM generate_series(1, 500) i;
CREATE INDEX users_email ON users (email text_pattern_ops);
CREATE INDEX users_lower ON users (lower(email));
CREATE INDEX users_org ON users (org);
CREATE INDEX users_live_age ON users (age, id) WHERE deleted_at IS NULL;
CREATE INDEX users_active ON users (name) WHERE active AND deleted_at IS NULL;
CREATE INDEX users_tags ON users USING gin (tags);
CREATE INDEX users_doc ON users USING gin (doc jsonb_path_ops);
CREATE INDEX users_city ON users ((doc ->> 'city'));
CREATE INDEX users_words ON users USING gin (words);
CREATE INDEX orders_user ON orders (user_id);
CREATE INDEX orders_open ON orders (at) WHERE state = 'open';
CREATE INDEX orders_state ON orders (state, at);
CREATE INDEX events_id ON events (id);
CREATE INDEX events_kind ON events (kind) WHERE deleted_at IS NULL;
SQL
$s->query('CREATE INDEX users_trigram ON users USING gin (name gin_trgm_ops); CREATE INDEX users_trigram_email ON users USING gist (email gist_trgm_ops)') if $trigrams;
$s->query("SELECT softaudit.enable('users', audit => false); SELECT softaudit.enable('orders', audit => false); SELECT softaudit.enable('events', audit => false)");
$s->query(<<'SQL');
SET client_min_messages = error;
CREATE VIEW adults AS SELECT * FROM users WHERE age >= 18;
CREATE VIEW adults_by_hand AS SELECT * FROM users WHERE age >= 18 AND deleted_at IS NULL;
CREATE VIEW guarded WITH (security_barrier) AS SELECT id, name, org, age FROM users WHERE active;
CREATE VIEW guarded_by_hand WITH (security_barrier) AS SELECT id, name, org, age FROM users WHERE active AND deleted_at IS NULL;
CREATE FUNCTION of_org(int) RETURNS SETOF users LANGUAGE sql STABLE AS 'SELECT * FROM users WHERE org = $1';
CREATE FUNCTION of_org_by_hand(int) RETURNS SETOF users LANGUAGE sql STABLE AS 'SELECT * FROM users WHERE org = $1 AND deleted_at IS NULL';
SQL
$s->query('VACUUM ANALYZE users, orders, events, orgs');
$s->close;
$s = Bench::Session->open($db, $psql, '-XqAt', '-d', $db);
$s->query('SET max_parallel_workers_per_gather = 0; SET jit = off');

# Of each query: {{...}} is what a person adds; [[a|b]] is a for softaudit and b by hand. The
# stamp of a DELETE is computed once, as (SELECT now()) is.
my @queries = grep { length } map { s/^\s+|\s+$//gr } split /;\n/, <<'SQL';
SELECT * FROM users {{WHERE deleted_at IS NULL}};
SELECT * FROM users WHERE id = 42{{ AND deleted_at IS NULL}};
SELECT * FROM users WHERE id IN (1, 2, 3){{ AND deleted_at IS NULL}};
SELECT * FROM users WHERE id BETWEEN 10 AND 60{{ AND deleted_at IS NULL}} ORDER BY id;
SELECT * FROM users WHERE email = 'user7@example.org'{{ AND deleted_at IS NULL}};
SELECT * FROM users WHERE email LIKE 'user12%'{{ AND deleted_at IS NULL}};
SELECT * FROM users WHERE lower(email) = 'user12@example.org'{{ AND deleted_at IS NULL}};
SELECT * FROM users WHERE tags @> ARRAY[5, 6]{{ AND deleted_at IS NULL}};
SELECT * FROM users WHERE tags && ARRAY[5]{{ AND deleted_at IS NULL}};
SELECT * FROM users WHERE doc @> '{"plan": 7}'{{ AND deleted_at IS NULL}};
SELECT * FROM users WHERE doc @? '$.plan ? (@ == 7)'{{ AND deleted_at IS NULL}};
SELECT * FROM users WHERE doc ->> 'city' = 'c3'{{ AND deleted_at IS NULL}};
SELECT * FROM users WHERE words @@ 'w7 & v7'{{ AND deleted_at IS NULL}};
SELECT * FROM users WHERE words @@ to_tsquery('simple', 'w7'){{ AND deleted_at IS NULL}} ORDER BY id LIMIT 5;
SELECT * FROM users WHERE age = 30{{ AND deleted_at IS NULL}} ORDER BY id LIMIT 10;
SELECT age, id FROM users WHERE age < 3{{ AND deleted_at IS NULL}};
SELECT * FROM users WHERE active AND name = 'Name 5'{{ AND deleted_at IS NULL}};
SELECT count(*) FROM users{{ WHERE deleted_at IS NULL}};
SELECT age, count(*) FROM users{{ WHERE deleted_at IS NULL}} GROUP BY age HAVING count(*) > 3;
SELECT org, age, count(*) FROM users{{ WHERE deleted_at IS NULL}} GROUP BY GROUPING SETS ((org), (age), ());
SELECT DISTINCT org FROM users{{ WHERE deleted_at IS NULL}};
SELECT DISTINCT ON (age) age, id FROM users{{ WHERE deleted_at IS NULL}} ORDER BY age, id;
SELECT max(age) FROM users{{ WHERE deleted_at IS NULL}};
SELECT id, rank() OVER (PARTITION BY org ORDER BY age) FROM users{{ WHERE deleted_at IS NULL}};
SELECT * FROM users WHERE (id = 5 OR email = 'user9@example.org'){{ AND deleted_at IS NULL}};
SELECT * FROM users WHERE org = 5 AND age > 20{{ AND deleted_at IS NULL}} FOR UPDATE;
SELECT * FROM orders WHERE state = 'open' AND at = '2023-05-05'{{ AND deleted_at IS NULL}};
SELECT * FROM orders WHERE state = 'paid'{{ AND deleted_at IS NULL}} ORDER BY at LIMIT 3;
SELECT * FROM users u JOIN orders o ON o.user_id = u.id WHERE u.id = 7{{ AND u.deleted_at IS NULL AND o.deleted_at IS NULL}};
SELECT * FROM users u, orders o WHERE o.user_id = u.id AND u.email LIKE 'user12%'{{ AND u.deleted_at IS NULL AND o.deleted_at IS NULL}};
SELECT * FROM users u LEFT JOIN orders o ON o.user_id = u.id{{ AND o.deleted_at IS NULL}} WHERE u.id = 7{{ AND u.deleted_at IS NULL}};
SELECT u.id, o.id FROM users u LEFT JOIN orders o ON o.user_id = u.id AND o.state = 'open'{{ AND o.deleted_at IS NULL}} WHERE u.org = 3{{ AND u.deleted_at IS NULL}};
SELECT u.id FROM users u LEFT JOIN orders o ON o.user_id = u.id{{ AND o.deleted_at IS NULL}} WHERE o.id IS NULL{{ AND u.deleted_at IS NULL}};
SELECT u.id, o.id FROM orders o RIGHT JOIN users u ON o.user_id = u.id{{ AND o.deleted_at IS NULL}} WHERE u.age = 5{{ AND u.deleted_at IS NULL}};
SELECT u.id, o.id FROM [[users|(SELECT * FROM users u WHERE u.deleted_at IS NULL)]] u FULL JOIN [[orders|(SELECT * FROM orders o WHERE o.deleted_at IS NULL)]] o ON o.user_id = u.id;
SELECT g.title, u.id, o.id FROM orgs g LEFT JOIN (users u JOIN orders o ON o.user_id = u.id{{ AND u.deleted_at IS NULL AND o.deleted_at IS NULL}}) ON u.org = g.id WHERE g.id < 4;
SELECT g.title, u.id, o.id FROM orgs g LEFT JOIN (users u LEFT JOIN orders o ON o.user_id = u.id{{ AND o.deleted_at IS NULL}}) ON u.org = g.id{{ AND u.deleted_at IS NULL}} WHERE g.id = 4;
SELECT g.title, count(u.id) FROM orgs g LEFT JOIN users u ON u.org = g.id{{ AND u.deleted_at IS NULL}} GROUP BY g.id, g.title;
SELECT * FROM orgs g JOIN LATERAL (SELECT * FROM users u WHERE u.org = g.id{{ AND u.deleted_at IS NULL}} ORDER BY u.id LIMIT 2) x ON true WHERE g.id < 9;
SELECT * FROM orgs g LEFT JOIN LATERAL (SELECT count(*) FROM users u WHERE u.org = g.id{{ AND u.deleted_at IS NULL}}) x ON true;
SELECT * FROM orgs g WHERE EXISTS (SELECT FROM users u WHERE u.org = g.id AND u.age > 80{{ AND u.deleted_at IS NULL}});
SELECT * FROM orgs g WHERE NOT EXISTS (SELECT FROM users u WHERE u.org = g.id{{ AND u.deleted_at IS NULL}});
SELECT * FROM orgs g WHERE id IN (SELECT org FROM users WHERE age = 4{{ AND deleted_at IS NULL}});
SELECT * FROM orgs g WHERE id NOT IN (SELECT org FROM users WHERE age = 4{{ AND deleted_at IS NULL}});
SELECT g.id, (SELECT max(u.age) FROM users u WHERE u.org = g.id{{ AND u.deleted_at IS NULL}}) FROM orgs g;
SELECT * FROM users WHERE age = (SELECT max(age) FROM users{{ WHERE deleted_at IS NULL}}){{ AND deleted_at IS NULL}};
SELECT * FROM users WHERE id = ANY (ARRAY(SELECT user_id FROM orders WHERE state = 'open' AND at = '2023-05-05'{{ AND deleted_at IS NULL}})){{ AND deleted_at IS NULL}};
SELECT id FROM users WHERE age = 1{{ AND deleted_at IS NULL}} UNION SELECT user_id FROM orders WHERE at = '2023-05-05' AND state = 'open'{{ AND deleted_at IS NULL}};
SELECT id FROM users WHERE age = 1{{ AND deleted_at IS NULL}} UNION ALL SELECT id FROM orders WHERE id < 5{{ AND deleted_at IS NULL}};
SELECT id FROM users{{ WHERE deleted_at IS NULL}} EXCEPT SELECT user_id FROM orders{{ WHERE deleted_at IS NULL}};
WITH w AS (SELECT * FROM users WHERE org = 5{{ AND deleted_at IS NULL}}) SELECT * FROM w WHERE age > 10;
WITH w AS MATERIALIZED (SELECT * FROM users WHERE org = 5{{ AND deleted_at IS NULL}}) SELECT * FROM w a JOIN w b ON a.id = b.id + 1;
WITH RECURSIVE w AS (SELECT id, org FROM users WHERE id = 5{{ AND deleted_at IS NULL}} UNION SELECT u.id, u.org FROM users u JOIN w ON u.id = w.org{{ AND u.deleted_at IS NULL}}) SELECT * FROM w;
SELECT * FROM (SELECT org, count(*) AS n FROM users{{ WHERE deleted_at IS NULL}} GROUP BY org) x JOIN orgs g ON g.id = x.org WHERE x.n > 10;
SELECT * FROM events WHERE id = 5{{ AND deleted_at IS NULL}};
SELECT * FROM events WHERE at = '2023-03-03'{{ AND deleted_at IS NULL}};
SELECT * FROM events WHERE kind = 7{{ AND deleted_at IS NULL}};
SELECT * FROM events WHERE at BETWEEN '2023-06-20' AND '2023-07-10' AND kind = 4{{ AND deleted_at IS NULL}} ORDER BY id;
SELECT * FROM events_2 WHERE kind = 7{{ AND deleted_at IS NULL}};
SELECT * FROM events_rest WHERE id = 7{{ AND deleted_at IS NULL}};
SELECT u.id, e.body FROM users u LEFT JOIN events e ON e.id = u.id{{ AND e.deleted_at IS NULL}} WHERE u.org = 7{{ AND u.deleted_at IS NULL}};
SELECT count(*) FROM events e JOIN orders o ON o.id = e.id WHERE e.at < '2023-02-01'{{ AND e.deleted_at IS NULL AND o.deleted_at IS NULL}};
SELECT * FROM [[adults|adults_by_hand]] WHERE id = 9;
SELECT * FROM [[adults|adults_by_hand]] a LEFT JOIN orders o ON o.user_id = a.id{{ AND o.deleted_at IS NULL}} WHERE a.org = 8;
SELECT * FROM [[guarded|guarded_by_hand]] WHERE name = 'Name 5';
SELECT * FROM [[of_org(5)|of_org_by_hand(5)]] WHERE age > 20;
SELECT * FROM users u JOIN [[of_org(5)|of_org_by_hand(5)]] f ON f.id = u.id{{ AND u.deleted_at IS NULL}};
SELECT * FROM users TABLESAMPLE system (10){{ WHERE deleted_at IS NULL}};
SELECT u.id, o.id FROM users u JOIN orders o USING (id) WHERE u.age = 3{{ AND u.deleted_at IS NULL AND o.deleted_at IS NULL}};
UPDATE users SET age = 5 WHERE id = 7{{ AND deleted_at IS NULL}};
UPDATE users u SET age = 5 FROM orders o WHERE o.user_id = u.id AND o.state = 'open' AND o.at = '2023-05-05'{{ AND u.deleted_at IS NULL AND o.deleted_at IS NULL}};
UPDATE events SET body = 'x' WHERE id = 7{{ AND deleted_at IS NULL}};
[[DELETE FROM users|UPDATE users SET deleted_at = (SELECT now())]] WHERE id = 7{{ AND deleted_at IS NULL}};
[[DELETE FROM users|UPDATE users SET deleted_at = (SELECT now())]] WHERE org IN (SELECT id FROM orgs WHERE title = 'org 5'){{ AND deleted_at IS NULL}};
[[DELETE FROM orders o USING users u|UPDATE orders o SET deleted_at = (SELECT now()) FROM users u]] WHERE u.id = o.user_id AND u.email LIKE 'user12%'{{ AND u.deleted_at IS NULL AND o.deleted_at IS NULL}};
[[DELETE FROM events|UPDATE events SET deleted_at = (SELECT now())]] WHERE id = 9{{ AND deleted_at IS NULL}};
SQL
push @queries, map { s/;$//r } grep { length } map { s/^\s+|\s+$//gr } split /\n/, <<'SQL' if $trigrams;
SELECT * FROM users WHERE name LIKE '%me 123%'{{ AND deleted_at IS NULL}};
SELECT * FROM users WHERE name ILIKE '%E 77%'{{ AND deleted_at IS NULL}};
SELECT * FROM users WHERE name ~ 'ame 1.3'{{ AND deleted_at IS NULL}};
SELECT * FROM users WHERE name % 'Name 123'{{ AND deleted_at IS NULL}};
SELECT u.id, o.id FROM orgs g LEFT JOIN users u ON u.org = g.id AND u.name LIKE '%me 123%'{{ AND u.deleted_at IS NULL}} LEFT JOIN orders o ON o.user_id = u.id{{ AND o.deleted_at IS NULL}};
SELECT * FROM users{{ WHERE deleted_at IS NULL}} ORDER BY email <-> 'user77@example.org' LIMIT 3;
SQL

# A query as it is written, and by hand; neither filtered at all.
sub as_written { my $q = shift; $q =~ s/\{\{.*?\}\}//g; $q =~ s/\[\[(.*?)\|.*?\]\]/$1/g; return $q }
sub by_hand { my $q = shift; $q =~ s/\{\{(.*?)\}\}/$1/g; $q =~ s/\[\[.*?\|(.*?)\]\]/$1/g; return $q }

sub explain
{
	my ($show, $sql) = @_;
	return $s->query("SET softaudit.show_deleted = $show;\nEXPLAIN (COSTS OFF) $sql", 1);
}

printf "PostgreSQL %s: %d queries%s\n", $version, scalar @queries, $trigrams ? '' : ' (there is no pg_trgm here)';
my ($passed, $failed) = (0, 0);
for my $q (@queries)
{
	my ($written, $hand) = (as_written($q), by_hand($q));
	my $got = explain('off', $written);
	my $want = explain('on', $hand);
	my $same = $got eq $want && $got !~ /^(psql:\S+ )?ERROR/m;
	# a target of UPDATE or DELETE is filtered whatever is shown
	my $proves = $written =~ /^(UPDATE|DELETE)/ ? $got =~ /deleted_at IS NULL/ : explain('on', $written) ne $got;
	if ($same && $proves) { $passed++; print "ok: $written\n" if $opt{show}; next }
	$failed++;
	print "not ok: $written\n  by hand: $hand\n", $same ? "  the plan without the filter is the same: this proves nothing\n" : "  softaudit:\n" . ($got =~ s/^/    /gmr) . "\n  by hand:\n" . ($want =~ s/^/    /gmr) . "\n";
}
$s->close;
$admin->query("DROP DATABASE $db WITH (FORCE)");
$admin->close;
print "$passed passed, $failed failed\n";
exit($failed ? 1 : 0);
