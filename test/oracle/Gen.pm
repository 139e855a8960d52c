# Gen.pm - random SELECTs and DML for the oracle.
#
# What is made has one right answer: no error that depends on the order of evaluation, no LIMIT
# without a total order, no number whose text depends on which of two equals is kept.
# An expression's type is a letter: i integer, t text, v numeric(,2), b boolean, a int[], j jsonb.
package Gen;

use strict;
use warnings;

our $version = 150000;    # of the server
our $next_id = 1000;      # no id is ever given twice: a deleted row keeps its own in one database only
our @params;              # types of the parameters of the statement that is being made
our $with_params = 0;
our $aliases = 0;
our $cte_names = 0;
our %parent;              # table or partition -> whom its ref refers to, by a foreign key
our @detached;            # partitions that stand alone for now
our $merge_new = 0;       # RETURNING new.x of MERGE, from 18: another answer where it deletes (docs/limits.md)
our $budget = 0;          # how much more a statement may hold

my %name_of = (i => 'bigint', t => 'text', v => 'numeric', b => 'boolean', a => 'int[]', j => 'jsonb');
sub type_name { $name_of{ $_[0] } }

my @words = qw(ant bee cat dog eel fox gnu hen ibis jay kiwi lark mole newt owl pig quail rat seal toad
  Ant Bee Cat yak zebra antelope beetle catfish doggerel);

sub ri { int rand $_[0] }
sub pick { $_[ int rand @_ ] }
sub chance { rand() < $_[0] }
sub word { pick(@words) }

my @columns = map { [ split /:/ ] } qw(id:i k:i n:i s:t v:v a:a j:j b:b ref:i);
my @roots = qw(users orders items tags notes lines events readings places);
my %rows = (users => 200, orders => 160, items => 120, tags => 20, notes => 50, lines => 40, events => 150, readings => 100, places => 90, plain => 60);
sub roots { @roots }
sub rows_of { $rows{ $_[0] } }
sub column_of { $_[0] eq 'items' ? '"Gone at"' : 'deleted_at' }

my %part_of = (events_a => 'events', events_b => 'events', events_b1 => 'events', events_b2 => 'events', events_rest => 'events',
	readings_1 => 'readings', readings_2 => 'readings', readings_rest => 'readings', cities => 'places', villages => 'places');
my @parts = sort keys %part_of;
sub root_of { $part_of{ $_[0] } // $_[0] }
sub parent_of { my $t = shift; $parent{$t} // $parent{ root_of($t) } }

# ---- literals and rows ----

sub quote { my $s = shift; $s =~ s/'/''/g; "'$s'" }

sub value
{
	my ($type) = @_;
	return pick(ri(10), ri(40), ri(100), ri(300)) if $type eq 'i';
	return quote(word()) if $type eq 't';
	return sprintf('%.2f', rand(200) - 50) if $type eq 'v';
	return pick(qw(true false)) if $type eq 'b';
	return "'{" . join(',', map { ri(20) } 1 .. ri(4)) . "}'" if $type eq 'a';
	return "'" . pick('{}', '[]', '{"x": ' . ri(20) . '}', '{"x": ' . ri(20) . ', "y": "' . word() . '"}', '{"y": "' . word() . '", "z": [' . ri(9) . ', ' . ri(9) . ']}', '[' . ri(9) . ']') . "'";
}

sub lit
{
	my ($type) = @_;
	if ($with_params && chance(0.5) && @params < 12)
	{
		push @params, $type;
		return '$' . scalar(@params) . '::' . ($type eq 'i' ? 'int' : $type eq 'v' ? 'numeric(12,2)' : type_name($type));
	}
	my $v = value($type);
	return "$v" if $type eq 'i' || $type eq 'b';
	return "($v)::numeric(12,2)" if $type eq 'v';
	return "${v}::" . type_name($type);
}

sub arguments { join ', ', map { my $t = $_; chance(0.06) ? 'NULL' : value($t) } @params }
sub parameter_types { join ', ', map { $_ eq 'i' ? 'int' : type_name($_) } @params }

sub maybe_null { my ($p, $v) = @_; chance($p) ? 'NULL' : $v }

# A row of a table for VALUES, without id and email.
sub row_value
{
	my ($name, $type) = @$_;
	return maybe_null(0.1, ri(40)) if $name eq 'k';
	return maybe_null(0.1, ri(100)) if $name eq 'n';
	return maybe_null(0.15, 1 + ri(200)) if $name eq 'ref';
	return maybe_null(0.12, value($type));
}

# ---- scopes ----
# A scope is { rels => [ { alias, cols => [[name, type]...], whole } ], up => scope }

sub rel { my ($alias, $cols, %more) = @_; return { alias => $alias, cols => $cols, %more } }
sub alias { 'r' . ++$aliases }

sub column
{
	my ($type, $scope, $own) = @_;
	my @found;
	for (my $s = $scope, my $level = 0; $s; $s = $s->{up}, $level++)
	{
		next if $level && chance(0.6);
		for my $r (@{ $s->{rels} })
		{
			push @found, "$r->{alias}.$_->[0]" for grep { $_->[1] eq $type } @{ $r->{cols} };
		}
		last if $own;
		last if @found && chance(0.7);
	}
	return @found ? pick(@found) : undef;
}

sub outer_column
{
	my ($type, $scope) = @_;
	my @found;
	for (my $s = $scope; $s; $s = $s->{up})
	{
		push @found, map { my $r = $_; map { "$r->{alias}.$_->[0]" } grep { $_->[1] eq $type } @{ $r->{cols} } } @{ $s->{rels} };
	}
	return @found ? pick(@found) : undef;
}

# ---- expressions ----

sub expr
{
	my ($type, $scope, $depth) = @_;
	$depth //= 2;
	my $c = column($type, $scope);
	return $c if defined $c && ($depth <= 0 || chance(0.55));
	return defined $c && chance(0.7) ? $c : lit($type) if $depth <= 0;
	my $d = $depth - 1;
	if ($type eq 'i')
	{
		my $r = ri(14);
		return sprintf '(%s + %s)', expr('i', $scope, $d), expr('i', $scope, $d) if $r < 2;
		return sprintf 'coalesce(%s, %s)', expr('i', $scope, $d), lit('i') if $r < 4;
		return sprintf 'length(%s)', expr('t', $scope, $d) if $r == 4;
		return sprintf 'cardinality(%s)', expr('a', $scope, $d) if $r == 5;
		return sprintf 'CASE WHEN %s THEN %s ELSE %s END', pred($scope, $d), expr('i', $scope, $d), expr('i', $scope, $d) if $r == 6;
		return sprintf '(%s %% 7)', expr('i', $scope, $d) if $r == 7;
		return sprintf "(%s->>'x')::int", column('j', $scope) // "'{\"x\": 3}'::jsonb" if $r == 8;
		return scalar_sublink('i', $scope) if $r < 11 && $budget > 0;
		return sprintf '%s(%s)', pick(qw(f_count f_sum)), 'least(' . expr('i', $scope, 0) . ', 50)::int' if $r == 11 && $budget > 0 && chance(0.4);
		return defined $c ? $c : lit('i');
	}
	if ($type eq 't')
	{
		my $r = ri(14);
		return sprintf 'lower(%s)', expr('t', $scope, $d) if $r == 0;
		return sprintf '(%s || %s)', expr('t', $scope, $d), expr('t', $scope, $d) if $r == 1;
		return sprintf 'coalesce(%s, %s)', expr('t', $scope, $d), lit('t') if $r == 2;
		return sprintf '(%s)::text', expr(pick(qw(i v a b)), $scope, $d) if $r == 3;
		return sprintf "(%s->>'y')", column('j', $scope) // "'{}'::jsonb" if $r == 4;
		return sprintf 'CASE WHEN %s THEN %s END', pred($scope, $d), expr('t', $scope, $d) if $r == 5;
		return scalar_sublink('t', $scope) if $r < 8 && $budget > 0;
		if ($r == 8 && $scope && @{ $scope->{rels} })
		{
			my $rel = pick(@{ $scope->{rels} });
			return "$rel->{alias}::text" if $rel->{whole} && !$scope->{grouped};
		}
		if ($r == 9 && $scope && !$scope->{grouped})
		{
			my @t = grep { $_->{table} } @{ $scope->{rels} };
			return pick(@t)->{alias} . '.tableoid::regclass::text' if @t;
		}
		return defined $c ? $c : lit('t');
	}
	if ($type eq 'v')
	{
		my $r = ri(8);
		return sprintf '(%s + %s)', expr('v', $scope, $d), expr('v', $scope, $d) if $r == 0;
		return sprintf 'coalesce(%s, %s)', expr('v', $scope, $d), lit('v') if $r == 1;
		return sprintf '(%s)::numeric(14,2)', expr('i', $scope, $d) if $r == 2;
		return scalar_sublink('v', $scope) if $r == 3 && $budget > 0;
		return defined $c ? $c : lit('v');
	}
	if ($type eq 'b')
	{
		return chance(0.6) ? '(' . pred($scope, $d) . ')' : $c // lit('b');
	}
	if ($type eq 'a')
	{
		my $r = ri(6);
		return sprintf '(%s || %s)', expr('a', $scope, $d), lit('a') if $r == 0;
		return sprintf '(%s)[1:2]', $c if $r == 1 && defined $c;
		if ($r == 2 && $budget > 0)
		{
			my ($from, $inner) = sublink_from($scope);
			my $x = $inner->{rels}[0]{alias} . '.n';
			return sprintf 'ARRAY(SELECT %s::int FROM %s WHERE %s ORDER BY 1 LIMIT 20)', $x, $from, sublink_where($inner);
		}
		return defined $c ? $c : lit('a');
	}
	my $r = ri(8);
	return sprintf 'to_jsonb(%s)', expr(pick(qw(i t a)), $scope, $d) if $r == 0;
	return sprintf "jsonb_build_object('p', %s, 'q', %s)", expr('i', $scope, $d), expr('t', $scope, $d) if $r == 1;
	return sprintf "(%s -> 'z')", $c if $r == 2 && defined $c;
	return defined $c ? $c : lit('j');
}

# ---- sublinks ----

# A small FROM of a sublink's own, and its scope.
sub sublink_from
{
	my ($scope) = @_;
	$budget--;
	my $own = { rels => [], up => $scope };
	if (chance(0.2) && $budget > 0)
	{
		my $f = join_item($own, 1);
		# the first one is who is correlated: it has all columns
		my ($first) = grep { $_->{cols} == \@columns } @{ $f->{rels} };
		if ($first)
		{
			$own->{rels} = [ $first, grep { $_ != $first } @{ $f->{rels} } ];
			return ($f->{sql}, $own);
		}
	}
	my $f = relation($own);
	$own->{rels} = $f->{rels};
	return ($f->{sql}, $own);
}

# COPY of a table as it stands: inheritance children stay out, partitioned tables are refused.
sub copy
{
	my $t = pick(@roots, @parts, 'v_users');
	return sprintf 'COPY %s %sTO STDOUT;', $t, pick('', "(id, k, s) ", "(id, v, a, j, b) ");
}

# Its condition: correlated, most often.
sub sublink_where
{
	my ($own) = @_;
	my @q;
	my $up = $own->{up};
	my $alias = $own->{rels}[0]{alias};
	my $outer = $up ? outer_column('i', $up) : undef;
	push @q, sprintf '%s.%s %s %s', $alias, pick(qw(k n ref id ref)), chance(0.85) ? '=' : pick('<', '>', '<>'), $outer if defined $outer && chance(0.75);
	push @q, simple_pred($own) if !@q || chance(0.4);
	return join ' AND ', @q;
}

sub scalar_sublink
{
	my ($type, $scope) = @_;
	my ($from, $own) = sublink_from($scope);
	my $where = sublink_where($own);
	my $a = $own->{rels}[0]{alias};
	my %agg = (i => [ 'count(*)', "max($a.n)", "sum($a.k)", "count(DISTINCT $a.s)", "min($a.id)" ], t => [ "min($a.s)", "string_agg($a.s, ',' ORDER BY $a.s)" ],
		v => ["sum($a.v)", "max($a.v)" ]);
	return sprintf '(SELECT %s FROM %s WHERE %s)', pick(@{ $agg{$type} }), $from, $where if chance(0.7);
	my %col = (i => "$a.n", t => "$a.s", v => "$a.v");
	return sprintf '(SELECT %s FROM %s WHERE %s ORDER BY 1 %s LIMIT 1)', $col{$type}, $from, $where, pick('', 'DESC', 'NULLS FIRST');
}

# ---- conditions ----

sub simple_pred
{
	my ($scope) = @_;
	my $r = ri(16);
	my $i = column('i', $scope, 1) // lit('i');
	return sprintf '%s %s %s', $i, pick('<', '>', '<=', '>=', '<>'), lit('i') if $r < 4;
	return sprintf '%s = %s', $i, lit('i') if $r == 4;
	return sprintf '%s BETWEEN %d AND %d', $i, ri(20), 20 + ri(80) if $r == 5;
	return sprintf '%s IN (%s)', $i, join ', ', map { ri(40) } 0 .. 2 + ri(8) if $r == 6;
	my $t = column('t', $scope, 1);
	return sprintf '%s LIKE %s', $t, quote(pick('%' . pick('a' .. 'o') . '%', pick('a' .. 'f') . '%', '%t')) if $r == 7 && defined $t;
	return sprintf '%s >= %s', $t, lit('t') if $r == 8 && defined $t;
	return sprintf '%s IS %sNULL', $t // $i, pick('', 'NOT ') if $r == 9;
	my $v = column('v', $scope, 1);
	return sprintf '%s %s %s', $v, pick('<', '>'), lit('v') if $r == 10 && defined $v;
	my $a = column('a', $scope, 1);
	return sprintf '%s = ANY (%s)', $i, $a if $r == 11 && defined $a;
	return sprintf '%s %s %s', $a, pick('&&', '@>', '<@'), lit('a') if $r == 12 && defined $a;
	my $j = column('j', $scope, 1);
	return sprintf "%s @> '{\"x\": %d}'", $j, ri(20) if $r == 13 && defined $j;
	return sprintf "%s ? %s", $j, quote(pick(qw(x y z))) if $r == 13 && defined $j;
	my $b = column('b', $scope, 1);
	return sprintf '%s%s', $b, pick('', ' IS NOT TRUE', ' IS NULL') if $r == 14 && defined $b;
	return sprintf '%s IS DISTINCT FROM %s', $i, lit('i');
}

sub pred
{
	my ($scope, $depth) = @_;
	$depth //= 2;
	return simple_pred($scope) if $depth <= 0 || chance(0.4);
	my $d = $depth - 1;
	my $r = ri(24);
	return sprintf '(%s AND %s)', pred($scope, $d), pred($scope, $d) if $r < 3;
	return sprintf '(%s OR %s)', pred($scope, $d), pred($scope, $d) if $r < 7;
	return sprintf 'NOT (%s)', pred($scope, $d) if $r == 7;
	return sprintf '%s %s %s', expr('i', $scope, $d), pick('=', '<', '>=', '<>'), expr('i', $scope, $d) if $r < 10;
	return sprintf '%s %s %s', expr('t', $scope, $d), pick('=', '<', '>='), expr('t', $scope, $d) if $r == 10;
	if ($r == 11 && $scope && !$scope->{grouped} && @{ $scope->{rels} } && chance(0.6))
	{
		my $rel = pick(@{ $scope->{rels} });
		return sprintf pick('(%s IS NULL)', 'NOT (%s IS NULL)', "%s::text LIKE '%%a%%'"), $rel->{alias} if $rel->{whole};
	}
	return sprintf 'f_exists(%s)', 'least(' . expr('i', $scope, 0) . ', 50)::int' if $r == 12 && $budget > 0 && chance(0.3);
	return simple_pred($scope) if $budget <= 0;
	if ($r < 16)
	{
		my ($from, $own) = sublink_from($scope);
		return sprintf '%sEXISTS (SELECT %s FROM %s WHERE %s)', chance(0.5) ? 'NOT ' : '', pick('', '1', '*'), $from, sublink_where($own);
	}
	my ($from, $own) = sublink_from($scope);
	my $a = $own->{rels}[0]{alias};
	my $inner_where = chance(0.75) ? simple_pred($own) : sublink_where($own);
	return sprintf '%s %sIN (SELECT %s FROM %s WHERE %s)', column('i', $scope) // lit('i'), chance(0.4) ? 'NOT ' : '', "$a." . pick(qw(k n ref id)), $from, $inner_where if $r < 20;
	return sprintf '(%s, %s) %sIN (SELECT %s.k, %s.n FROM %s WHERE %s)', expr('i', $scope, 0), expr('i', $scope, 0), chance(0.4) ? 'NOT ' : '', $a, $a, $from, $inner_where if $r == 20;
	return sprintf '%s = ANY (ARRAY(SELECT %s.k FROM %s WHERE %s))', expr('i', $scope, 0), $a, $from, $inner_where if $r == 21;
	return sprintf '%s %s ALL (SELECT %s.n FROM %s WHERE %s)', expr('i', $scope, 0), pick('>', '<', '<>'), $a, $from, $inner_where if $r == 22;
	return sprintf '%s %s (SELECT %s FROM %s WHERE %s)', expr('i', $scope, 0), pick('<', '>', '='), pick("max($a.n)", 'count(*)', "min($a.k)"), $from, $inner_where;
}

# ---- FROM items: { sql, rels, est } ----

my %ctes;    # names of the CTEs in scope: name -> [cols, est]

# A table, or what looks like one.
sub relation
{
	my ($scope) = @_;
	my $a = alias();
	my $r = ri(100);
	my ($name, $est);
	if ($r < 50)
	{
		$name = pick(@roots, 'users', 'orders', 'events');
		my $sql = "$name $a";
		$sql = "ONLY $name $a" if chance($name eq 'places' ? 0.3 : 0.01);
		$sql = pick("$name $a TABLESAMPLE system (100)", "$name $a TABLESAMPLE bernoulli (100) REPEATABLE (7)") if chance(0.05);
		return { sql => $sql, rels => [ rel($a, \@columns, whole => 1, table => 1) ], est => $rows{$name} };
	}
	if ($r < 65)
	{
		$name = pick(@parts);
		return { sql => "$name $a" . (chance(0.05) && $name ne 'events_b' ? ' TABLESAMPLE system (100)' : ''), rels => [ rel($a, \@columns, whole => 1, table => 1) ], est => 40 };
	}
	if ($r < 80)
	{
		$name = pick(qw(v_users v_users v_orders_barrier v_orders_barrier v_events v_joined v_nested v_union v_anti v_check v_function v_invoker v_with));
		return { sql => "$name $a", rels => [ rel($a, \@columns, whole => 1) ], est => $name =~ /joined|union/ ? 250 : 120 };
	}
	if ($r < 92)
	{
		$name = pick(qw(f_users f_orders f_users f_orders f_atomic f_nested f_volatile f_loop f_query f_union f_any f_definer f_set));
		my $outer = $scope && @{ $scope->{rels} } && chance(0.3) ? outer_column('i', $scope) : undef;
		my $arg = defined $outer ? "least($outer, 60)::int" : chance(0.1) && $budget > 0 ? '(SELECT max(k) / 2 FROM ' . pick(@roots) . ')' : lit('i');
		$arg = "'x'::text, $arg" if $name eq 'f_any';
		$arg .= ', ' . ri(50) if $name eq 'f_union' && chance(0.5);
		return { sql => "$name($arg) $a", rels => [ rel($a, \@columns, whole => 1) ], est => 60 };
	}
	if ($r < 95)
	{
		return { sql => "plain $a", rels => [ rel($a, \@columns, whole => 1, table => 1) ], est => $rows{plain} };
	}
	my @c = sort keys %ctes;
	if (@c)
	{
		my $c = pick(@c);
		# the usual columns are what those who ask for a relation count on
		return { sql => "$c $a", rels => [ rel($a, $ctes{$c}[0]) ], est => $ctes{$c}[1] } if $ctes{$c}[2];
	}
	return { sql => "users $a", rels => [ rel($a, \@columns, whole => 1, table => 1) ], est => $rows{users} };
}

# A sub-select whose columns are the usual ones.
sub usual_select
{
	my ($scope) = @_;
	$budget--;
	my $own = { rels => [], up => $scope };
	my $f = relation($own);
	$own->{rels} = $f->{rels};
	my $x = $f->{rels}[0]{alias};
	my $where = pred($own, 1);
	my $r = ri(5);
	return sprintf('SELECT %s FROM %s WHERE %s', join(', ', map { "$x.$_->[0]" } @columns), $f->{sql}, $where) if $r < 3;
	return sprintf('SELECT DISTINCT ON (x.k) x.* FROM (SELECT %s FROM %s WHERE %s) x ORDER BY x.k, x.*::text', join(', ', map { "$x.$_->[0]" } @columns), $f->{sql}, $where) if $r == 3;
	return sprintf('SELECT max(%1$s.id) AS id, %1$s.k, sum(%1$s.n) AS n, min(%1$s.s) AS s, sum(%1$s.v) AS v, max(%1$s.a) AS a, NULL::jsonb AS j, bool_or(%1$s.b) AS b, max(%1$s.ref) AS ref FROM %2$s WHERE %3$s GROUP BY %1$s.k',
		$x, $f->{sql}, $where);
}

sub from_item
{
	my ($scope, $depth) = @_;
	my $r = ri(100);
	if ($depth <= 0 || $r < 62 || $budget <= 0)
	{
		my @c = sort keys %ctes;
		if (@c && chance(0.4))
		{
			my ($c, $a) = (pick(@c), alias());
			return { sql => "$c $a", rels => [ rel($a, $ctes{$c}[0], whole => 1) ], est => $ctes{$c}[1] };
		}
		return relation($scope);
	}
	my $a = alias();
	if ($r < 78)
	{
		return { sql => '(' . usual_select(undef) . ") $a", rels => [ rel($a, \@columns, whole => 1) ], est => 60 } if chance(0.6);
		my $q = query($depth - 1, undef, 1);
		return { sql => "($q->{sql}) $a", rels => [ rel($a, $q->{cols}, whole => 1) ], est => $q->{est} };
	}
	return join_item($scope, $depth - 1) if $r < 94;
	return { sql => "generate_series(0, " . ri(20) . ") $a(k)", rels => [ rel($a, [ [ 'k', 'i' ] ]) ], est => 10 } if $r < 97;
	return { sql => "(VALUES " . join(', ', map { "($_, " . value('t') . ")" } 1 .. 3 + ri(5)) . ") $a(k, s)", rels => [ rel($a, [ [ 'k', 'i' ], [ 's', 't' ] ]) ], est => 6 };
}

sub names_in { my ($rels, $type) = @_; map { my $r = $_; map { "$r->{alias}.$_->[0]" } grep { $_->[1] eq $type } @{ $r->{cols} } } @$rels }

sub join_item
{
	my ($scope, $depth) = @_;
	my $l = from_item($scope, $depth);
	my $own = { rels => $l->{rels}, up => $scope };
	if (chance(0.12) && $budget > 0)
	{
		my $a = alias();
		my $sub = usual_select($own);
		my $limit = chance(0.5);
		$sub = "SELECT * FROM ($sub) y ORDER BY y.*::text LIMIT " . (1 + ri(5)) if $limit;
		return { sql => pick("$l->{sql} CROSS JOIN LATERAL ($sub) $a", "$l->{sql} LEFT JOIN LATERAL ($sub) $a ON " . pick('true', "$a.k = $a.k", "$a.n > " . ri(50))),
			rels => [ @{ $l->{rels} }, rel($a, \@columns, whole => 1) ], est => $l->{est} * ($limit ? 3 : 20) };
	}
	if (chance(0.06))
	{
		my ($a, $name, $outer) = (alias(), pick(qw(f_users f_orders f_atomic f_union f_query f_nested)), outer_column('i', { rels => $l->{rels} }));
		if (defined $outer && $l->{est} < 300)
		{
			my $join = pick("CROSS JOIN LATERAL $name(least(90 - $outer % 10, 95)::int) $a", "LEFT JOIN LATERAL $name(least(90 - $outer % 10, 95)::int) $a ON " . pick('true', "$a.k = $outer"));
			return { sql => "$l->{sql} $join", rels => [ @{ $l->{rels} }, rel($a, \@columns, whole => 1) ], est => $l->{est} * 8 };
		}
	}
	my $r = from_item($scope, $depth);
	my @lrels = @{ $l->{rels} };
	my @rrels = @{ $r->{rels} };
	my @both = (@lrels, @rrels);
	my $both = { rels => \@both, up => undef };
	my $type = pick('JOIN', 'JOIN', 'LEFT JOIN', 'LEFT JOIN', 'LEFT JOIN', 'RIGHT JOIN', 'FULL JOIN', 'FULL JOIN', 'CROSS JOIN');
	my $product = $l->{est} * $r->{est};
	$type = 'LEFT JOIN' if $type eq 'CROSS JOIN' && $product > 3000;
	my $rsql = $r->{sql} =~ / JOIN / && $r->{sql} !~ /^\(/ ? "($r->{sql})" : $r->{sql};
	$rsql = "($r->{sql})" if @rrels > 1;
	return { sql => "$l->{sql} CROSS JOIN $rsql", rels => \@both, est => $product } if $type eq 'CROSS JOIN';
	if (chance(0.12) && @lrels == 1 && @rrels == 1 && (grep { $_->[0] eq 'k' } @{ $lrels[0]{cols} }) && (grep { $_->[0] eq 'k' } @{ $rrels[0]{cols} }))
	{
		my $u = alias();
		return { sql => "$l->{sql} $type $rsql USING (k) AS $u", rels => [ @both, rel($u, [ [ 'k', 'i' ] ]) ], est => 1 + $product / 30 };
	}
	my @ids = grep { /\.(id|ref)$/ } names_in(\@lrels, 'i');
	my @rids = grep { /\.(id|ref)$/ } names_in(\@rrels, 'i');
	my ($on, $est);
	if (@ids && @rids && ($product > 40000 || chance(0.55)))
	{
		my ($x, $y) = (pick(@ids), pick(@rids));
		($x, $y) = (pick(grep { /id$/ } @ids), pick(grep { /ref$/ } @rids)) if chance(0.7) && grep({ /id$/ } @ids) && grep({ /ref$/ } @rids);
		$on = "$x = $y";
		$est = ($l->{est} > $r->{est} ? $l->{est} : $r->{est}) * 1.3;
	}
	else
	{
		my @li = names_in(\@lrels, 'i');
		my @ri = names_in(\@rrels, 'i');
		if (@li && @ri)
		{
			$on = pick(@li) . ' = ' . pick(@ri);
			$est = 1 + $product / 25;
		}
		else
		{
			$on = 'true';
			$est = $product;
		}
	}
	if (chance(0.3))
	{
		my $more = chance(0.4) && $budget > 0 && $type ne 'FULL JOIN' ? pred($both, 1) : simple_pred($both);
		$on .= " AND $more";
	}
	elsif ($type ne 'FULL JOIN' && chance(0.06) && $product < 4000)
	{
		$on = sprintf '%s < %s', (names_in(\@lrels, 'i'))[0] // 1, (names_in(\@rrels, 'i'))[0] // 1;
		$est = $product / 2;
	}
	return { sql => "$l->{sql} $type $rsql ON $on", rels => \@both, est => $est };
}

# The FROM clause of a query: items with commas, now and then.
sub from_clause
{
	my ($scope, $depth) = @_;
	my $f = chance(0.5) && $depth > 0 ? join_item($scope, $depth) : from_item($scope, $depth);
	if (chance(0.12) && $f->{est} < 2000)
	{
		my $g = relation($scope);
		my @x = grep { /\.(id|ref|k)$/ } names_in($f->{rels}, 'i');
		if (@x)
		{
			my $where = pick(@x) . " = $g->{rels}[0]{alias}." . pick(qw(id ref));
			return { sql => "$f->{sql}, $g->{sql}", rels => [ @{ $f->{rels} }, @{ $g->{rels} } ], est => $f->{est} * 3, where => $where };
		}
	}
	elsif (chance(0.03) && (my @a = names_in($f->{rels}, 'a')))
	{
		my $u = alias();
		return { sql => "$f->{sql}, unnest(" . pick(@a) . ") $u(k)", rels => [ @{ $f->{rels} }, rel($u, [ [ 'k', 'i' ] ]) ], est => $f->{est} * 2 };
	}
	return $f;
}

# ---- queries: { sql, cols, est } ----

my @kinds = qw(i i i t t v b a j);

sub aggregate
{
	my ($scope) = @_;
	my $r = ri(15);
	my $f = chance(0.12) ? ' FILTER (WHERE ' . simple_pred($scope) . ')' : '';
	return [ "count(*)$f", 'i' ] if $r < 3;
	return [ sprintf('count(%s)%s', expr(pick(qw(i t)), $scope, 1), $f), 'i' ] if $r == 3;
	return [ sprintf('count(DISTINCT %s)%s', expr(pick(qw(i t j)), $scope, 0), $f), 'i' ] if $r == 4;
	return [ sprintf('sum(%s)::bigint%s', expr('i', $scope, 1), ''), 'i' ] if $r == 5;
	return [ sprintf('(sum(%s)%s)::bigint', expr('i', $scope, 0), $f), 'i' ] if $r == 6;
	return [ sprintf('sum(%s)%s', expr('v', $scope, 1), $f), 'v' ] if $r == 7;
	return [ sprintf('round(avg(%s), 2)', expr('v', $scope, 0)), 'v' ] if $r == 8;
	return [ sprintf('%s(%s)%s', pick(qw(min max)), expr('i', $scope, 1), $f), 'i' ] if $r == 9;
	return [ sprintf('%s(%s)%s', pick(qw(min max)), expr('t', $scope, 1), $f), 't' ] if $r == 10;
	return [ sprintf('%s(%s)', pick(qw(bool_and bool_or)), expr('b', $scope, 1)), 'b' ] if $r == 11;
	my $x = expr('t', $scope, 0);
	return [ sprintf("md5(string_agg(%s, ',' ORDER BY %s))", $x, $x), 't' ] if $r == 12;
	my $y = expr('i', $scope, 0);
	return [ sprintf('(array_agg(%s ORDER BY %s))[1:5]::int[]', $y, $y), 'a' ] if $r == 13;
	return [ sprintf('jsonb_agg(%s ORDER BY %s)', $y, $y), 'j' ];
}

sub window
{
	my ($scope) = @_;
	my $p = chance(0.6) ? 'PARTITION BY ' . expr(pick(qw(i t b)), $scope, 0) : '';
	my $o = expr(pick(qw(i t)), $scope, 0);
	my $r = ri(8);
	return [ "count(*) OVER ($p)", 'i' ] if $r == 0;
	return [ sprintf('(sum(%s) OVER (%s))::bigint', expr('i', $scope, 0), $p), 'i' ] if $r == 1;
	return [ "rank() OVER ($p ORDER BY $o)", 'i' ] if $r == 2;
	return [ "dense_rank() OVER ($p ORDER BY $o DESC)", 'i' ] if $r == 3;
	return [ sprintf('max(%s) OVER (%s ORDER BY %s)', expr('t', $scope, 0), $p, $o), 't' ] if $r == 4;
	return [ sprintf('(sum(%s) OVER (%s ORDER BY %s GROUPS BETWEEN 1 PRECEDING AND 1 FOLLOWING))::bigint', expr('i', $scope, 0), $p, $o), 'i' ] if $r == 5;
	return [ sprintf('min(%s) OVER (%s)', expr('v', $scope, 0), $p), 'v' ] if $r == 6;
	return [ sprintf('count(%s) FILTER (WHERE %s) OVER (%s)', expr('i', $scope, 0), simple_pred($scope), $p), 'i' ];
}

# One SELECT; $want: the types of its columns, where a set operation asks for them.
sub select_body
{
	my ($depth, $up, $want, $nested) = @_;
	$budget--;
	my $scope = { rels => [], up => $up };
	my $f = from_clause($scope, $depth);
	$scope->{rels} = $f->{rels};
	my $est = $f->{est};
	my @where;
	push @where, $f->{where} if $f->{where};
	push @where, $est > 3000 ? simple_pred($scope) : pred($scope, 2) if chance(0.55);
	my $where = @where ? ' WHERE ' . join(' AND ', map { "($_)" } @where) : '';
	my $x = $est > 1500 ? 0 : 2;
	my $grouped = !$want && ($est > ($nested ? 300 : 700) || chance(0.25));
	if ($grouped)
	{
		my @g = map { my $t = pick(qw(i i t b)); [ expr($t, $scope, chance(0.2) ? 1 : 0), $t ] } 1 .. ri(3);
		# a sublink or a parameter that is repeated is not the same expression
		@g = grep { $_->[0] !~ /SELECT|\$/ && $_->[0] =~ /\w\.\w/ } @g;
		my %seen;
		@g = grep { !$seen{ $_->[0] }++ } @g;
		my @aggs = map { aggregate($scope) } 1 .. 1 + ri(3);
		my ($by, @out) = ('');
		if (@g)
		{
			my @e = map { $_->[0] } @g;
			my $r = ri(8);
			$by = ' GROUP BY ' . ($r == 0 ? 'ROLLUP (' . join(', ', @e) . ')' : $r == 1 ? 'CUBE (' . join(', ', @e) . ')'
				: $r == 2 ? 'GROUPING SETS ((' . join(', ', @e) . '), (' . $e[0] . '), ())' : join(', ', @e));
			push @out, @g;
			push @out, [ "grouping($e[0])", 'i' ] if $r < 3;
		}
		push @out, @aggs;
		my $having = chance(0.2) ? ' HAVING ' . pick('count(*) > ' . ri(4), 'max(' . expr('i', $scope, 0) . ') > ' . ri(50), $budget > 0 ? 'count(*) > (SELECT count(*) / 20 FROM ' . pick(@roots) . ')' : 'count(*) <> 1') : '';
		my $n = 0;
		my @cols = map { [ 'c' . ++$n, $_->[1] ] } @out;
		$n = 0;
		my $sql = 'SELECT ' . join(', ', map { "$_->[0] AS c" . ++$n } @out) . " FROM $f->{sql}$where$by$having";
		return { sql => $sql, cols => \@cols, est => @g ? 40 : 1 };
	}
	my @types = $want ? @$want : map { pick(@kinds) } 1 .. 1 + ri(5);
	my @out = map { [ expr($_, $scope, chance(0.5) ? 0 : $x), $_ ] } @types;
	my $windowed = !$want && chance(0.1);
	push @out, map { window($scope) } 1 .. 1 + ri(2) if $windowed;
	my $n = 0;
	my @cols = map { [ 'c' . ++$n, $_->[1] ] } @out;
	$n = 0;
	my $list = join(', ', map { "$_->[0] AS c" . ++$n } @out);
	my $all = join(', ', 1 .. $n);
	my $sql;
	my $simple = @{ $scope->{rels} } == 1;
	if ($want || chance(0.65))
	{
		$sql = "SELECT $list FROM $f->{sql}$where";
		$sql .= ' FOR ' . pick('UPDATE', 'SHARE', 'NO KEY UPDATE', 'KEY SHARE') . " OF $scope->{rels}[0]{alias}"
		  if !$want && !$nested && !$windowed && ($simple || $f->{sql} !~ /(LEFT|RIGHT|FULL) JOIN|^\(/) && $scope->{rels}[0]{table} && chance(0.08);
	}
	elsif (chance(0.5)) { $sql = "SELECT DISTINCT $list FROM $f->{sql}$where" }
	elsif (chance(0.3)) { $sql = "SELECT DISTINCT ON (1) $list FROM $f->{sql}$where ORDER BY $all" }
	else
	{
		my $limit = 1 + ri(30);
		$sql = "SELECT $list FROM $f->{sql}$where ORDER BY $all";
		$sql .= pick(" LIMIT $limit", " LIMIT $limit OFFSET " . ri(5), ' LIMIT (SELECT count(*) / 5 FROM ' . pick(@roots, @parts) . ')', " OFFSET (SELECT count(*) / 30 FROM " . pick(@roots) . ')', " FETCH FIRST $limit ROWS WITH TIES", '');
		$est = $limit if $est > $limit;
	}
	return { sql => $sql, cols => \@cols, est => $est };
}

sub query
{
	my ($depth, $up, $nested) = @_;
	if (chance(0.1) && $budget > 0)
	{
		my @want = map { pick(qw(i i t v b)) } 1 .. 1 + ri(3);
		my @parts = map { select_body(0, $up, \@want, 1) } 0 .. 1 + (chance(0.3) ? 1 : 0);
		my $sql = join ' ', "($parts[0]{sql})", map { (pick('UNION', 'UNION ALL', 'UNION ALL', 'INTERSECT', 'INTERSECT ALL', 'EXCEPT', 'EXCEPT ALL'), "($_->{sql})") } @parts[ 1 .. $#parts ];
		my $n = 0;
		my @cols = map { [ 'c' . ++$n, $_ ] } @want;
		$n = join ', ', 1 .. @want;
		$sql .= " ORDER BY $n LIMIT " . (1 + ri(20)) if chance(0.15);
		my $est = 0;
		$est += $_->{est} for @parts;
		return { sql => $sql, cols => \@cols, est => $est };
	}
	return select_body($depth, $up, undef, $nested);
}

# What clients write most; and a sub-select that is an error if it finds two rows.
sub whole_table
{
	my $t = pick(@roots, @parts, 'f_users(10)', 'v_events');
	return "SELECT (SELECT id FROM $t x WHERE k = " . ri(40) . ' AND n < ' . ri(60) . ') AS id' if chance(0.4);
	my $u = pick(@roots);
	return "SELECT x.*, count(o.id) AS orders, sum(o.v) FROM users x LEFT JOIN orders o ON o.ref = x.id GROUP BY x.id" if chance(0.1);
	return "SELECT x.id FROM $u x WHERE x IN (SELECT y FROM $u y WHERE y.n > " . ri(60) . ')' if chance(0.1);
	return pick('SELECT max(id) AS id FROM users', 'SELECT min(id) AS id, max(ref) FROM orders', 'SELECT max(id) AS id FROM readings') if chance(0.1);
	return pick("SELECT * FROM $t x", "SELECT x.id, x FROM $t x", "SELECT id, to_jsonb(x) FROM $t x", "SELECT count(*) AS id FROM $t", "SELECT id, x.* FROM $t x WHERE b");
}

# A whole statement.
sub statement
{
	my (%opt) = @_;
	@params = ();
	$with_params = $opt{params} // 0;
	$aliases = 0;
	$budget = 3 + ri(5);
	%ctes = ();
	my @with;
	my $recursive = '';
	if (chance(0.2))
	{
		for (0 .. (chance(0.3) ? 1 : 0))
		{
			my $name = 'w' . ++$cte_names;
			my $m = pick('', '', 'MATERIALIZED ', 'NOT MATERIALIZED ');
			if (chance(0.2))
			{
				$recursive = 'RECURSIVE ';
				my $t = pick(qw(users orders items events readings places v_users v_check));
				my $from = pick("$t t", "$t t", pick(@roots) . ' t');
				push @with, "$name AS (SELECT id, ref, k, 1 AS n FROM $t x WHERE " . pick('k < 10', 'b', 'id < 30') . " UNION SELECT t.id, t.ref, t.k, w.n + 1 FROM $from JOIN $name w ON w.ref = t.id WHERE w.n < 4)";
				$ctes{$name} = [ [ [ 'id', 'i' ], [ 'ref', 'i' ], [ 'k', 'i' ], [ 'n', 'i' ] ], 100, 0 ];
			}
			elsif (chance(0.6))
			{
				push @with, "$name AS $m(" . usual_select(undef) . ')';
				$ctes{$name} = [ \@columns, 60, 1 ];
			}
			else
			{
				my $q = query(1, undef, 1);
				push @with, "$name AS $m($q->{sql})";
				$ctes{$name} = [ $q->{cols}, $q->{est}, 0 ];
			}
		}
	}
	my $q = query(pick(0, 1, 1, 2), undef, 0);
	$q = { sql => whole_table(), cols => [ [ 'id', 'i' ] ], est => 100 } if chance(0.02);
	%ctes = ();
	my $sql = (@with ? "WITH $recursive" . join(', ', @with) . ' ' : '') . $q->{sql};
	return { sql => $sql, cols => $q->{cols}, est => $q->{est}, params => [@params] };
}

# ---- DML ----

my %more_targets = (v_users => 'users', v_orders_barrier => 'orders', v_check => 'orders', v_events => 'events');

sub target
{
	my $r = ri(10);
	return pick(@roots) if $r < 7;
	return pick(@parts) if $r < 9;
	return pick(sort keys %more_targets);
}
sub root_of_target { my $t = shift; $more_targets{$t} // root_of($t) }

sub ids { my $base = $next_id; $next_id += shift // 1000; return $base }

# Statements that return no columns return none at all.
sub returning
{
	my ($alias, $merge) = @_;
	return '' if chance(0.5);
	return ' RETURNING old.id, old.s, x.k' . ($merge && !$merge_new ? '' : ', new.n, new.id') if $version >= 180000 && chance(0.3);
	return pick(" RETURNING $alias.*", " RETURNING $alias.id, to_jsonb($alias), $alias") if !$merge && chance(0.15);
	return " RETURNING $alias.id, (SELECT count(*) FROM " . pick(@roots) . " r WHERE r.k = $alias.k)" if chance(0.1);
	return ' RETURNING ' . join(', ', map { "$alias.$_" } pick('id', 'k', 's'), pick('n', 'v', 'a', 'j', 'ref'), 'b');
}

sub insert_columns
{
	my ($t) = @_;
	my @c = grep { $_->[0] eq 'id' || $_->[0] eq 'k' || chance(0.8) } @columns;
	push @c, [ 'email', 'e' ] if $t eq 'users';
	return @c;
}

sub new_row
{
	my ($t, @c) = @_;
	return '(' . join(', ', map {
		$_->[0] eq 'id' ? ids(1)
		  : $_->[1] eq 'e' ? maybe_null(0.2, quote('m' . ri(400)))
		  : $t eq 'tags' && $_->[0] eq 's' ? quote(word() . ri(4))
		  : $t =~ /^events_a$/ && $_->[0] eq 'k' ? ri(10)
		  : $t =~ /^events_b/ && $_->[0] eq 'k' ? 10 + ri(10)
		  : $t eq 'events_b1' && $_->[0] eq 'n' ? ri(50)
		  : $t eq 'events_b2' && $_->[0] eq 'n' ? 50 + ri(50)
		  : $_->[0] eq 'ref' && parent_of($more_targets{$t} // $t) && chance(0.8) ? sprintf('(SELECT max(p.id) FROM %s p WHERE p.id <= %d)', parent_of($more_targets{$t} // $t), ri(220))
		  : $_->[1] eq 'v' && chance(0.1) ? '(SELECT max(v) FROM ' . pick(@roots) . ')'
		  : row_value($_)
	} @c) . ')';
}

sub insert
{
	my ($t) = @_;
	my @c = insert_columns($t);
	my $names = join ', ', map { $_->[0] } @c;
	my $conflict = '';
	my $set = 'n = excluded.n' . (chance(0.4) ? ", v = coalesce(x.v, 0) + 1" : '') . (chance(0.3) ? ', ref = excluded.ref' : '');
	$set = 'n = 5' unless grep { $_->[0] eq 'n' } @c;
	$set =~ s/, ref = excluded.ref// unless grep { $_->[0] eq 'ref' } @c;
	$set .= ', b = EXISTS (SELECT FROM tags t WHERE t.k = x.k)' if chance(0.2);
	my $action = pick('DO NOTHING', "DO UPDATE SET $set WHERE x.k NOT IN (SELECT k FROM notes WHERE k IS NOT NULL)", "DO UPDATE SET $set", "DO UPDATE SET $set", "DO UPDATE SET $set WHERE x.k > " . ri(20));
	my $returning;    # DO SELECT wants one
	if ($version >= 190000 && chance(0.25))
	{
		$action = 'DO SELECT' . pick('', ' FOR UPDATE', ' FOR KEY SHARE', ' WHERE x.k > ' . ri(20));
		$returning = ' RETURNING x.id, x.k, x.n';
	}
	if ($t eq 'users' && chance(0.6))
	{
		$conflict = pick(' ON CONFLICT (email)', ' ON CONFLICT (email)', $action eq 'DO NOTHING' ? ' ON CONFLICT' : ' ON CONFLICT (email)') . " $action";
	}
	elsif ($t eq 'tags' && chance(0.6)) { $conflict = " ON CONFLICT (s) $action" }
	if (chance(0.65))
	{
		my @rows = map { new_row($t, @c) } 1 .. 1 + ri(4);
		return "INSERT INTO $t AS x ($names) VALUES " . join(', ', @rows) . $conflict . ($returning // returning('x'));
	}
	# ids of rows that live: an upsert by the primary key
	if ($t =~ /^(users|orders|items|notes|tags|readings)$/ && chance(0.4))
	{
		my @u = grep { $_->[1] ne 'e' && !($t eq 'tags' && $_->[0] eq 's') } @c;
		my $n = join ', ', map { $_->[0] } @u;
		my $v = join ', ', map { $_->[0] eq 'id' ? 'y.id' : $_->[0] eq 'ref' ? 'y.ref' : "y.$_->[0]" } @u;
		return "INSERT INTO $t AS x ($n) SELECT $v FROM $t y WHERE " . simple_pred({ rels => [ rel('y', \@columns) ] }) . " ON CONFLICT (id) $action" . ($returning // returning('x'));
	}
	my $base = ids();
	my $scope = { rels => [ rel('y', \@columns, whole => 1) ] };
	my @v = map {
		$_->[0] eq 'id' ? "$base + row_number() OVER (ORDER BY y.*::text)"
		  : $_->[1] eq 'e' ? "'x$base' || row_number() OVER (ORDER BY y.*::text)"
		  : $t eq 'tags' && $_->[0] eq 's' ? "'x$base' || row_number() OVER (ORDER BY y.*::text)"
		  : $_->[0] eq 'ref' ? 'y.ref'
		  : $_->[0] eq 'k' || $_->[0] eq 'n' ? "y.$_->[0]::int"
		  : expr($_->[1], $scope, 0)
	} @c;
	return "INSERT INTO $t AS x ($names) SELECT " . join(', ', @v) . ' FROM (' . usual_select(undef) . ") y" . ' ORDER BY 1 LIMIT ' . (1 + ri(12)) . ($conflict && $t eq 'users' ? $conflict : '') . ($returning // returning('x'));
}

sub assignments
{
	my ($t, $scope, $source) = @_;
	my @set;
	my %seen;
	for (1 .. 1 + ri(3))
	{
		my ($name, $type) = @{ pick(grep { $_->[0] ne 'id' && $_->[0] ne 'ref' && !($_->[0] eq 's' && $t eq 'tags') } @columns) };
		next if $seen{$name}++;
		my $e = $name =~ /^[kn]$/ ? 'least(' . expr('i', $scope, 1) . ', 1000)::int' : expr($type, $scope, 1);
		$e = "left($e, 40)" if $type eq 't';
		$e = "($e)::numeric(12,2)" if $type eq 'v';
		$e = "least($e, 9999999.00)" if $type eq 'v';
		push @set, "$name = $e";
	}
	return join ', ', @set;
}

# A condition that leaves most rows alone.
sub share { my ($column, $most) = @_; my $m = 2 + ri($most); return sprintf('%s %% %d = %d', $column, $m, ri($m)) }
sub cut { my ($scope) = @_; return pred($scope, 1) . ' AND ' . share("$scope->{rels}[0]{alias}." . pick('id', 'id', 'k'), 6) }

sub update
{
	my ($t) = @_;
	my $scope = { rels => [ rel('x', \@columns, whole => 1) ] };
	return sprintf("UPDATE users AS x SET email = 'e' || id || '_%d' WHERE %s%s", ri(1000), pred($scope, 1), returning('x')) if $t eq 'users' && chance(0.1);
	return sprintf("UPDATE users AS x SET email = %s WHERE id = (SELECT min(id) FROM users WHERE k = %d)%s", quote('m' . ri(400)), ri(40), returning('x')) if $t eq 'users' && chance(0.1);
	# the key of a row that deleted rows refer to can be changed in one database only
	return sprintf("UPDATE readings AS x SET id = id + %d WHERE %s%s", ids(1_000_000), cut($scope), returning('x')) if $t eq 'readings' && !%parent && chance(0.3);
	return sprintf("UPDATE events AS x SET k = (k + %d) %% 40 WHERE %s%s", 1 + ri(30), pred($scope, 1), returning('x')) if $t eq 'events' && chance(0.4);
	return sprintf('UPDATE %s AS x SET ref = %s WHERE %s%s', $t, pick('NULL', '(SELECT max(u.id) FROM ' . (parent_of($more_targets{$t} // $t) // 'users') . ' u WHERE u.k < ' . ri(40) . ')'), pred($scope, 1), returning('x')) if chance(0.1);
	if (chance(0.3))
	{
		# a source that has each key once
		my $source = pick('users', 'orders', 'items', 'notes', 'tags', 'readings', 'v_users', 'f_users(20)', 'v_orders_barrier');
		my $both = { rels => [ rel('x', \@columns), rel('y', \@columns) ] };
		my $where = pred($both, 1);
		return sprintf('UPDATE %s AS x SET %s FROM %s y WHERE x.ref = y.id AND %s%s', $t, assignments($t, $both), $source, $where, returning('x')) if chance(0.7);
		return sprintf('UPDATE %s AS x SET %s FROM (SELECT k, max(id) AS id, max(n) AS n, min(s) AS s, max(v) AS v, max(a) AS a, NULL::jsonb AS j, bool_or(b) AS b, max(ref) AS ref FROM %s GROUP BY k) y WHERE x.k = y.k AND %s%s',
			$t, assignments($t, $both), pick(@roots), $where, returning('x'));
	}
	return sprintf('UPDATE %s AS x SET (n, v) = (SELECT max(m.n)::int, sum(m.v) FROM %s m WHERE m.ref = x.id) WHERE %s%s', $t, pick(@roots), pred($scope, 1), returning('x')) if chance(0.1);
	return sprintf('UPDATE %s%s AS x SET %s WHERE %s%s', $t eq 'places' && chance(0.3) ? 'ONLY ' : '', $t, assignments($t, $scope), pred($scope, 2), returning('x'));
}

sub delete_from
{
	my ($t) = @_;
	my $scope = { rels => [ rel('x', \@columns, whole => 1) ] };
	my $only = $t eq 'places' && chance(0.3) ? 'ONLY ' : '';
	if (chance(0.3))
	{
		my $both = { rels => [ rel('x', \@columns), rel('y', \@columns) ] };
		my $m = 2 + ri(4);
		return sprintf('DELETE FROM %s%s AS x USING %s y WHERE x.%s = y.%s AND x.id %% %d = 0 AND %s%s', $only, $t, pick(@roots, 'v_users', 'v_joined', 'f_users(30)', 'events_a', 'v_function', 'f_union(40)'),
			pick(qw(k ref id)), pick(qw(id k ref)), $m, pred($both, 1), returning('x'));
	}
	return sprintf('DELETE FROM %s%s AS x WHERE %s%s', $only, $t, cut($scope), returning('x'));
}

sub merge
{
	my ($t) = @_;
	my $both = { rels => [ rel('x', \@columns), rel('y', \@columns) ] };
	my $mine = { rels => [ rel('x', \@columns) ] };
	my $base = ids(20_000_000);
	my ($source, $on);
	my $r = ri(4);
	my $src = pick('users', 'orders', 'items', 'notes', 'tags', 'readings', 'plain', 'v_users', 'f_users(20)');
	if ($r < 2) { ($source, $on) = ("$src y", 'x.ref = y.id') }
	elsif ($r == 2) { ($source, $on) = ('(' . "SELECT k, max(id) AS id, max(n) AS n, min(s) AS s, max(v) AS v, max(a) AS a, NULL::jsonb AS j, bool_or(b) AS b, max(ref) AS ref FROM " . pick(@roots) . " GROUP BY k) y", 'x.k = y.k') }
	else { ($source, $on) = ('(' . usual_select(undef) . ') y', pick('x.id = y.id', 'x.ref = y.id', 'x.k = y.k AND x.id = y.ref')) }
	$on .= ' AND ' . simple_pred($both) if chance(0.3);
	my @when;
	my $cutter = sub { share('x.id', 4) };
	push @when, 'WHEN MATCHED AND ' . $cutter->() . ' AND ' . simple_pred($both) . ' THEN ' . pick('DELETE', 'DELETE', 'DO NOTHING') if chance(0.7);
	push @when, 'WHEN MATCHED AND ' . simple_pred($both) . ' THEN UPDATE SET ' . assignments($t, $both) if chance(0.5);
	push @when, 'WHEN MATCHED AND ' . $cutter->() . ' THEN ' . pick('DELETE', 'UPDATE SET n = 7', 'UPDATE SET s = ' . ($t eq 'tags' ? 'x.s' : "'merged'")) if !@when || chance(0.3);
	push @when, 'WHEN NOT MATCHED BY SOURCE AND ' . $cutter->() . ' AND ' . simple_pred($mine) . ' THEN ' . pick('DELETE', 'UPDATE SET n = 8', 'DO NOTHING') if $version >= 170000 && chance(0.3);
	if (chance(0.6))
	{
		my $k = $t eq 'events_a' ? '3' : $t =~ /^events_b/ ? '13' : 'least(y.k, 1000)::int';
		my $n = $t eq 'events_b1' ? '3' : $t eq 'events_b2' ? '73' : 'least(y.n, 1000)::int';
		push @when, 'WHEN NOT MATCHED AND ' . simple_pred({ rels => [ rel('y', \@columns) ] }) . pick(" THEN DO NOTHING", " AND y.id < 19000000 THEN INSERT (id, k, n, v, b) VALUES ($base + y.id, $k, $n, y.v, y.b)");
	}
	my $ret = $version >= 170000 ? returning('x', 1) : '';
	return "MERGE INTO $t AS x USING $source ON $on " . join(' ', @when) . $ret;
}

sub with_dml
{
	my ($t) = @_;
	my $scope = { rels => [ rel('x', \@columns, whole => 1) ] };
	my $list = 'x.id, x.k, x.n, x.s, x.v, x.b, x.ref';
	my $r = ri(6);
	my $other = pick(grep { $_ ne root_of_target($t) } @roots);
	my $delete = 'DELETE FROM ' . $t . ' AS x WHERE ' . cut($scope);
	return ("WITH d AS ($delete RETURNING $list) SELECT d.k, count(*), max(d.s), sum(d.v) FROM d GROUP BY d.k", []) if $r == 0;
	return ("WITH d AS ($delete RETURNING $list) SELECT d.id, o.id, o.s FROM d LEFT JOIN $other o ON o.id = d.ref", []) if $r == 1;
	return ("WITH d AS ($delete RETURNING $list) SELECT (SELECT count(*) FROM d), (SELECT count(*) FROM $t)", []) if $r == 2;
	if ($r == 3)
	{
		my $base = ids();
		return ("WITH d AS ($delete RETURNING $list) INSERT INTO lines AS x (id, k, n, s, v, b, ref) SELECT $base + row_number() OVER (ORDER BY d.id), d.k, d.n, d.s, d.v, d.b, d.ref FROM d" . returning('x'), ['lines'])
		  if root_of_target($t) ne 'lines';
	}
	if ($r == 4)
	{
		my $s2 = { rels => [ rel('x', \@columns) ] };
		return ("WITH u AS (UPDATE $t AS x SET n = 11 WHERE " . cut($scope) . " RETURNING $list) DELETE FROM $other AS x USING u WHERE u.id = x.ref AND " . pred($s2, 1) . returning('x'), [$other]);
	}
	return ("WITH q AS (" . usual_select(undef) . ") DELETE FROM $t AS x WHERE x.id % 3 = 0 AND x." . pick(qw(k ref id)) . ' IN (SELECT q.' . pick(qw(k ref id)) . ' FROM q)' . returning('x'), []);
}

# { sql, roots: the tables that it may touch, kind, params }
sub dml
{
	my (%opt) = @_;
	@params = ();
	$with_params = $opt{params} // 0;
	$aliases = 0;
	$budget = 2 + ri(3);
	%ctes = ();
	my $t = target();
	my $r = ri(100);
	my ($sql, $more, $kind) = (undef, []);
	if ($r < 26) { ($sql, $kind) = (insert($t), 'INSERT') }
	elsif ($r < 48) { ($sql, $kind) = (update($t), 'UPDATE') }
	elsif ($r < 72) { ($sql, $kind) = (delete_from($t), 'DELETE') }
	elsif ($r < 86)
	{
		$t = pick(@roots) if $more_targets{$t} && $version < 170000;
		($sql, $kind) = (merge($t), 'MERGE');
	}
	elsif ($r < 95) { $kind = 'WITH'; ($sql, $more) = with_dml($t) }
	elsif ($r < 98)
	{
		my ($f, $on) = @{ pick([ 'd_orders', 'orders' ], [ 'd_users', 'users' ], [ 'd_items', 'items' ], [ 'd_events', 'events' ], [ 'u_notes', 'notes' ]) };
		($t, $kind) = ($on, 'function');
		$sql = "SELECT * FROM $f(" . ri(60) . ')';
	}
	else
	{
		$with_params = 0;
		my $p = simple_pred({ rels => [ rel($t, \@columns) ] });
		$kind = 'CURRENT OF';
		$sql = sprintf 'SELECT run_current(%s, %s, %s)', quote($t), quote($p), quote(pick('DELETE FROM %s', 'DELETE FROM %s', 'UPDATE %s SET n = 12'));
		@params = ();
	}
	return { sql => $sql, roots => [ root_of_target($t), @$more ], kind => $kind, params => [@params], target => $t };
}

1;
