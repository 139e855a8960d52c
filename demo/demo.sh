#!/bin/bash
# demo/demo.sh - pgbench's tables under its own load from four clients, all audited; then who changed what.
#
# Called by demo/run with a server that PGHOST, PGPORT and PGUSER name. Makes the database softaudit_demo and drops
# it at the end. Fails if the log does not agree with what pgbench reports, or with the tables.
set -eu
seconds=${SOFTAUDIT_DEMO_SECONDS:-10}
db=softaudit_demo
clients='ann ben cat dan'
quiet='-c client_min_messages=warning'
export PGOPTIONS=$quiet
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -t 1 ]; then bold=$'\033[1m' plain=$'\033[0m'; else bold='' plain=''; fi

sql() { psql -X -q -v ON_ERROR_STOP=1 -P footer=off -d "$db" "$@"; }
value() { sql -At -c "$1"; }
heading() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
say() { printf '%s\n' "$*"; }
die() { printf 'demo: %s\n' "$*" >&2; exit 1; }

# table SQL: a result, indented, without the empty line that psql puts below
table() { sql -c "$1" >"$work/table" || die 'a query failed'; sed -n '/./s/^/  /p' "$work/table"; }

heading '1. Four tables, as pgbench makes them: 10 branches, 100 tellers, a million accounts, and a history of its own.'
dropdb --if-exists "$db"
createdb "$db"
pgbench -i -q -s 10 "$db" >"$work/init" 2>&1 || { cat "$work/init" >&2; die 'pgbench -i failed'; }

heading '2. All four are audited.'
say '  CREATE EXTENSION softaudit;'
sql -c 'CREATE EXTENSION softaudit' >/dev/null
for t in pgbench_branches pgbench_tellers pgbench_accounts pgbench_history; do
    say "  SELECT softaudit.enable('$t', soft_delete => false);"
    sql -c "SELECT softaudit.enable('$t', soft_delete => false)" >/dev/null
done

heading "3. Four clients run pgbench's own transactions for $seconds seconds, each under a name of its own."
say "   One transaction updates an account, a teller and a branch, and adds a row to pgbench_history."
pids=''
for client in $clients; do
    PGOPTIONS="$quiet -c app.current_user=$client" PGAPPNAME="desk of $client" \
        pgbench -n -c 1 -T "$seconds" "$db" >"$work/$client" 2>&1 &
    pids="$pids $!"
done
for pid in $pids; do
    wait "$pid" || { (cd "$work" && cat $clients) >&2; die 'a pgbench failed'; }
done
total=0
for client in $clients; do
    n=$(sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p' "$work/$client")
    [ -n "$n" ] || die "pgbench did not report the transactions of $client"
    printf '   %s: %7d transactions\n' "$client" "$n"
    printf '%s %s\n' "$client" "$n" >>"$work/reported"
    total=$((total + n))
done

heading '4. Who changed what: the log, counted by who and by table.'
table "SELECT changed_by AS who, application_name AS application,
              count(*) FILTER (WHERE table_name = 'pgbench_accounts') AS accounts,
              count(*) FILTER (WHERE table_name = 'pgbench_tellers') AS tellers,
              count(*) FILTER (WHERE table_name = 'pgbench_branches') AS branches,
              count(*) FILTER (WHERE table_name = 'pgbench_history') AS history,
              count(DISTINCT xid) AS transactions
         FROM softaudit.changes GROUP BY 1, 2 ORDER BY 1"
while read -r client n; do
    logged=$(value "SELECT string_agg(n::text, ' ') FROM (SELECT count(*) AS n FROM softaudit.changes WHERE changed_by = '$client' GROUP BY table_name ORDER BY table_name) c")
    [ "$logged" = "$n $n $n $n" ] || die "pgbench reports $n transactions of $client, but the log has these changes by table: $logged"
done <"$work/reported"
[ "$(value 'SELECT count(*) FROM softaudit.log')" = $((4 * total)) ] || die 'the log holds something else beside'
say "   Each number is what pgbench reported: $total transactions, four changes each, and nothing else is in the log."

heading '5. One transaction, whole: the last one of cat.'
table "SELECT table_name AS table, operation, COALESCE(row_key::text, '(no key)') AS row, changed_columns AS changed,
              (old_data ->> x.c)::bigint AS before, (new_data ->> x.c)::bigint AS after
         FROM softaudit.changes
        CROSS JOIN LATERAL (SELECT CASE table_name WHEN 'pgbench_accounts' THEN 'abalance' WHEN 'pgbench_tellers' THEN 'tbalance'
                                                   WHEN 'pgbench_branches' THEN 'bbalance' ELSE 'delta' END) x (c)
        WHERE xid = (SELECT xid FROM softaudit.log WHERE changed_by = 'cat' ORDER BY audit_id DESC LIMIT 1)
        ORDER BY audit_id"

heading "6. One row's history: the branch that all four had most to do with, its last six changes."
bid=$(value "SELECT bid FROM pgbench_branches ORDER BY abs(bbalance) DESC, bid LIMIT 1")
say "   SELECT * FROM softaudit.history('pgbench_branches', $bid);"
table "SELECT * FROM (
           SELECT h.audit_id, h.changed_at::time(3) AS began, h.changed_by AS who, (h.old_data ->> 'bbalance')::bigint AS before,
                  (h.new_data ->> 'bbalance')::bigint AS after,
                  lpad(to_char((h.new_data ->> 'bbalance')::bigint - (h.old_data ->> 'bbalance')::bigint, 'FMSG999999'), 6) AS moved
             FROM softaudit.history('pgbench_branches', $bid) h ORDER BY h.audit_id DESC LIMIT 6) last
        ORDER BY audit_id"
say "   The order is that of audit_id: the order in which the row changed. Transactions may have begun in another."

heading "7. An account's balance over time: the account that was used most."
aid=$(value "SELECT row_key ->> 'aid' FROM softaudit.changes WHERE table_name = 'pgbench_accounts' GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1")
say "   Account $aid began with 0."
table "SELECT h.changed_at::time(3) AS began, h.changed_by AS who, (h.new_data ->> 'abalance')::bigint AS balance
         FROM softaudit.history('pgbench_accounts', $aid) h ORDER BY h.audit_id"
say "   In the table now: $(value "SELECT abalance FROM pgbench_accounts WHERE aid = $aid")."

# every balance is the sum of its logged steps, and every step begins where the one before it ended
wrong=$(value "
    WITH step AS (
        SELECT table_name, row_key, audit_id, (old_data ->> c)::bigint AS old, (new_data ->> c)::bigint AS new,
               lag((new_data ->> c)::bigint, 1, 0) OVER same_row AS previous, lead(audit_id) OVER same_row IS NULL AS is_last
          FROM softaudit.changes
         CROSS JOIN LATERAL (SELECT CASE table_name WHEN 'pgbench_accounts' THEN 'abalance' WHEN 'pgbench_tellers' THEN 'tbalance' ELSE 'bbalance' END) x (c)
         WHERE operation = 'UPDATE'
        WINDOW same_row AS (PARTITION BY table_name, row_key ORDER BY audit_id))
    SELECT count(*) FROM step s
      LEFT JOIN pgbench_accounts a ON s.table_name = 'pgbench_accounts' AND a.aid = (s.row_key ->> 'aid')::int
      LEFT JOIN pgbench_tellers t ON s.table_name = 'pgbench_tellers' AND t.tid = (s.row_key ->> 'tid')::int
      LEFT JOIN pgbench_branches b ON s.table_name = 'pgbench_branches' AND b.bid = (s.row_key ->> 'bid')::int
     WHERE s.old IS DISTINCT FROM s.previous OR s.is_last AND s.new IS DISTINCT FROM COALESCE(a.abalance, t.tbalance, b.bbalance)")
[ "$wrong" = 0 ] || die "$wrong logged steps do not follow from the ones before, or do not lead to what is in the table"
say '   The same was checked for every row: each change begins where the one before it ended, and the last one is what the table holds.'

heading '8. What the log takes.'
table "SELECT b.leaf::text AS partition, COALESCE(b.lower_bound::date::text, 'whatever fits no other') AS from, COALESCE(b.upper_bound::date::text, '') AS to,
              (SELECT count(*) FROM softaudit.log l WHERE l.tableoid = b.leaf) AS changes,
              pg_size_pretty(pg_total_relation_size(b.leaf)) AS size
         FROM softaudit.log_groups g CROSS JOIN LATERAL softaudit.partition_bounds(g.group_id) b"
value "SELECT format(E'   %s bytes a change with its index, row before and row after included;\n   who and where is kept once a session: %s rows.',
                     round((SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('softaudit.log') WHERE isleaf) / greatest(1, (SELECT count(*) FROM softaudit.log))),
                     (SELECT count(*) FROM softaudit.log_sessions))"

heading '9. Nobody rewrites it by accident, a superuser neither.'
say '   DELETE FROM softaudit.log;'
if sql -c 'DELETE FROM softaudit.log' >"$work/refused" 2>&1; then die 'the log could be deleted from'; fi
sed -n '/^ERROR/s/^/   /p' "$work/refused"
dropdb "$db"
