#!/bin/bash
# demo/demo.sh - pgbench's tables under its own load from four clients, all audited; then who changed what.
#
# Called by demo/run with a server that PGHOST, PGPORT and PGUSER name. Fails if the log does not agree
# with what pgbench reports.
set -eu
seconds=${SOFTAUDIT_DEMO_SECONDS:-10}
db=softaudit_demo
export PGOPTIONS='-c client_min_messages=warning'
sql() { psql -X -q -v ON_ERROR_STOP=1 -d "$db" "$@"; }
value() { sql -At -c "$1"; }
head1() { printf '\n\033[1m%s\033[0m\n' "$*"; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

dropdb --if-exists "$db"
createdb "$db"
head1 'pgbench makes its tables: 10 branches, 100 tellers, a million accounts.'
pgbench -i -q -s 10 "$db" >/dev/null 2>&1

head1 'CREATE EXTENSION softaudit; SELECT softaudit.enable(...) for each of the four.'
sql -c 'CREATE EXTENSION softaudit' \
    -c "SELECT softaudit.enable(t, soft_delete => false) FROM unnest('{pgbench_accounts,pgbench_branches,pgbench_tellers,pgbench_history}'::regclass[]) t" >/dev/null
sql -c "SELECT table_name AS table, images, partition_by::text, COALESCE(keep_log::text, 'for ever') AS keep_log, array_to_string(key_columns, ', ') AS key FROM softaudit.registry ORDER BY 1"

head1 "Four clients, ${seconds} seconds of pgbench's own transactions, each client under a name of its own."
for client in ann ben cat dan; do
    PGOPTIONS="-c client_min_messages=warning -c app.current_user=$client" \
        pgbench -n -c 1 -T "$seconds" "$db" >"$work/$client" 2>&1 &
done
wait
total=0
for client in ann ben cat dan; do
    n=$(sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p' "$work/$client")
    printf '  %s: %s transactions\n' "$client" "$n"
    echo "$client $n" >>"$work/reported"
    total=$((total + n))
done

head1 'Who changed what: the log beside what pgbench reports.'
sql -c "SELECT changed_by AS who, count(*) FILTER (WHERE table_name = 'pgbench_accounts') AS accounts,
               count(*) FILTER (WHERE table_name = 'pgbench_tellers') AS tellers,
               count(*) FILTER (WHERE table_name = 'pgbench_branches') AS branches,
               count(*) FILTER (WHERE table_name = 'pgbench_history') AS history,
               count(DISTINCT xid) AS transactions
          FROM softaudit.changes GROUP BY 1 ORDER BY 1"
while read -r client n; do
    logged=$(value "SELECT string_agg(DISTINCT n::text, ' ') FROM (SELECT count(*) AS n FROM softaudit.changes WHERE changed_by = '$client' GROUP BY table_name) c")
    if [ "$logged" != "$n" ]; then
        echo "pgbench reports $n transactions of $client, the log has $logged changes a table" >&2
        exit 1
    fi
done <"$work/reported"
echo "Every one of the $total transactions has its four changes in the log, and nothing else is there."

head1 'The branch that moved most: its last changes.'
sql -c "SELECT h.changed_at::time(0) AS at, h.changed_by AS who, h.operation, h.old_data ->> 'bbalance' AS before, h.new_data ->> 'bbalance' AS after,
               (h.new_data ->> 'bbalance')::bigint - (h.old_data ->> 'bbalance')::bigint AS delta
          FROM softaudit.history('pgbench_branches',
                   (SELECT bid FROM pgbench_branches b ORDER BY abs(bbalance) DESC LIMIT 1)) h
         ORDER BY h.audit_id DESC LIMIT 8"

head1 'Do the logged steps of every branch, teller and account add up to its balance?'
wrong=$(value "
    WITH step AS (
        SELECT table_name, row_key, sum((new_data ->> c)::bigint - (old_data ->> c)::bigint) AS moved
          FROM softaudit.changes
         CROSS JOIN LATERAL (SELECT CASE table_name WHEN 'pgbench_accounts' THEN 'abalance' WHEN 'pgbench_tellers' THEN 'tbalance' ELSE 'bbalance' END) x (c)
         WHERE operation = 'UPDATE' GROUP BY 1, 2)
    SELECT count(*) FROM step s
      LEFT JOIN pgbench_accounts a ON s.table_name = 'pgbench_accounts' AND a.aid = (s.row_key ->> 'aid')::int
      LEFT JOIN pgbench_tellers t ON s.table_name = 'pgbench_tellers' AND t.tid = (s.row_key ->> 'tid')::int
      LEFT JOIN pgbench_branches b ON s.table_name = 'pgbench_branches' AND b.bid = (s.row_key ->> 'bid')::int
     WHERE s.moved <> COALESCE(a.abalance, t.tbalance, b.bbalance)")
if [ "$wrong" != 0 ]; then
    echo "$wrong rows have another balance than their history says" >&2
    exit 1
fi
echo 'Yes, each of them.'

head1 'What the log takes.'
sql -c "SELECT b.leaf AS partition, COALESCE(b.lower_bound::date::text, 'whatever has none') AS from, b.upper_bound::date::text AS to,
               pg_size_pretty(pg_total_relation_size(b.leaf)) AS size
          FROM softaudit.log_groups g CROSS JOIN LATERAL softaudit.partition_bounds(g.group_id) b"
sql -At -c "SELECT format('%s changes, %s bytes each with their index, %s rows in log_sessions for who and where.',
                          (SELECT count(*) FROM softaudit.log),
                          round((SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('softaudit.log') WHERE isleaf) / greatest(1, (SELECT count(*) FROM softaudit.log))),
                          (SELECT count(*) FROM softaudit.log_sessions))"

head1 'Nobody rewrites it, a superuser by accident neither.'
sql -c 'DELETE FROM softaudit.log' 2>&1 | sed 's/^/  /' || true
dropdb "$db"
