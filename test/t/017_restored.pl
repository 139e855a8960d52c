# What a table brings along when it is restored: excluded columns stay out of the log under
# names that they got through a parent, a type or a rename after the restore. And what
# happens to the registry while the extension is away.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('restored');
$node->init;
$node->start;
my $dir = PostgreSQL::Test::Utils::tempdir();
$node->safe_psql('postgres', 'CREATE DATABASE a; ');
$node->safe_psql('postgres', 'CREATE DATABASE b');
$node->safe_psql('postgres', 'CREATE DATABASE c');
$node->safe_psql('a', q(
SET client_min_messages = error;
CREATE EXTENSION softaudit;
CREATE TABLE p (id int, ssn text);
CREATE TABLE c (PRIMARY KEY (id)) INHERITS (p);
SELECT softaudit.enable('c', soft_delete => false, exclude => '{ssn}');
ALTER TABLE p RENAME ssn TO ssn_old;
ALTER TABLE p ADD ssn text;
CREATE TYPE ct AS (id int, ssn text);
CREATE TABLE ty OF ct (PRIMARY KEY (id));
SELECT softaudit.enable('ty', soft_delete => false, exclude => '{ssn}');
ALTER TYPE ct RENAME ATTRIBUTE ssn TO ssn_old CASCADE;
ALTER TYPE ct ADD ATTRIBUTE ssn text CASCADE;
CREATE TABLE t (id int PRIMARY KEY, ssn text);
SELECT softaudit.enable('t', soft_delete => false, exclude => '{ssn}');
));

# ---- the whole database ----

$node->command_ok([ 'pg_dump', '-p', $node->port, '-h', $node->host, '-f', "$dir/a.sql", 'a' ], 'a dump');
$node->command_ok([ 'psql', '-X', '-q', '-p', $node->port, '-h', $node->host, '-d', 'b', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/a.sql" ], 'restored');
$node->safe_psql('b', q(INSERT INTO c VALUES (3, 'kept out', 'x'); INSERT INTO ty VALUES (3, 'kept out', 'x')));
is($node->safe_psql('b', q(SELECT table_name, new_data FROM softaudit.changes ORDER BY audit_id)), qq(c|{"id": 3, "ssn": "x"}\nty|{"id": 3, "ssn": "x"}),
	'columns renamed through a parent and a type stay out of the log');

# ---- a table alone ----

$node->safe_psql('c', 'CREATE EXTENSION softaudit');
$node->command_ok([ 'pg_dump', '-p', $node->port, '-h', $node->host, '-t', 't', '-f', "$dir/t.sql", 'a' ], 'a dump of one table');
$node->command_ok([ 'psql', '-X', '-q', '-p', $node->port, '-h', $node->host, '-d', 'c', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/t.sql" ], 'restored alone');
my ($rc, $out, $err) = $node->psql('c', q(INSERT INTO t VALUES (2, 'kept out')));
isnt($rc, 0, 'its changes are refused while it has no place in the registry');
$node->safe_psql('c', 'ALTER TABLE t RENAME ssn TO social');
($rc, $out, $err) = $node->psql('c', q(\set VERBOSITY verbose
SELECT softaudit.enable('t', soft_delete => false)));
like($err, qr/42703: column "ssn", which the settings of table "public.t" list, does not exist/, 'enable() refuses settings whose column was renamed meanwhile');
$node->safe_psql('c', q(SELECT softaudit.enable('t', soft_delete => false, exclude => '{social}'); INSERT INTO t VALUES (3, 'kept out')));
is($node->safe_psql('c', q(SELECT new_data FROM softaudit.changes)), '{"id": 3}', 'and takes those that are given');

# ---- while the extension is away ----

$node->safe_psql('a', q(SET client_min_messages = error; INSERT INTO t VALUES (1, 'x'); DROP EXTENSION softaudit CASCADE));
$node->safe_psql('a', q(DROP TABLE t; ALTER TABLE c RENAME TO c2));
$node->safe_psql('a', q(SET client_min_messages = error; CREATE EXTENSION softaudit));
is($node->safe_psql('a', q(SELECT table_name, relation IS NULL FROM softaudit.registry ORDER BY table_id)), "c2|f\nty|f\nt|t", 'a table that was dropped is known as dropped');
is($node->safe_psql('a', q(SELECT operation FROM softaudit.history_of('public', 't', '1'))), 'INSERT', 'its history is read by name');
$node->safe_psql('a', q(CREATE TABLE t (id int PRIMARY KEY); SELECT softaudit.enable('t', soft_delete => false)));
is($node->safe_psql('a', q(SELECT count(*) FROM softaudit.registry WHERE table_name = 't')), '2', 'and a new one of its name is another');
$node->safe_psql('a', 'CALL softaudit.maintain()');

$node->stop;
done_testing();
