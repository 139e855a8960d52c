# An escape in softaudit.context that the postmaster reads does not end the server.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('context');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'softaudit'");
$node->start;
$node->safe_psql('postgres', q(ALTER SYSTEM SET softaudit.context = '{"a": "\u00e9"}'));
$node->reload;
ok($node->poll_query_until('postgres', q(SELECT count(*) > 0 FROM pg_file_settings WHERE name = 'softaudit.context')), 'the file names it');
ok($node->wait_for_log(qr/invalid value for parameter "softaudit.context"/), 'the value is refused');
is($node->safe_psql('postgres', 'SELECT 1'), '1', 'the server is there');
$node->stop;
done_testing();
