# test/lib/common.sh - what the test scripts and the demo share: throw-away servers, counting.
#
# Sourced by bash scripts that set $top. Nothing listens on TCP, and nothing is left running.
. "$top/test/lib/bootstrap.sh"

# start_server PG_CONFIG DIRECTORY: a throw-away server; exports PGHOST, PGPORT, PGUSER, PGDATABASE, PATH
#
# SOFTAUDIT_CONF holds more lines for postgresql.conf, SOFTAUDIT_POSTGRES a program to run in the
# server's place (test/valgrind).
start_server() {
    local bindir
    bindir=$("$1" --bindir)
    mkdir -p "$2/sock"
    chown -R postgres "$2"
    chmod 755 "$2"
    as_postgres "$bindir/initdb" -D "$2/data" -A trust -U postgres -E UTF8 --locale=C.UTF-8 --no-sync >"$2/initdb.log" 2>&1 ||
        { cat "$2/initdb.log"; die 'initdb failed'; }
    as_postgres tee -a "$2/data/postgresql.conf" >/dev/null <<CONF
listen_addresses = ''
unix_socket_directories = '$2/sock'
fsync = off
max_prepared_transactions = 10
wal_level = logical
${SOFTAUDIT_CONF:-}
CONF
    server_data=$2/data
    as_postgres "$bindir/pg_ctl" -D "$2/data" -l "$2/server.log" -w -t 300 ${SOFTAUDIT_POSTGRES:+-p "$SOFTAUDIT_POSTGRES"} start >"$2/pg_ctl.log" 2>&1 ||
        { cat "$2/pg_ctl.log"; tail -n 30 "$2/server.log"; die 'the server did not start'; }
    export PGHOST="$2/sock" PGPORT=5432 PGUSER=postgres PGDATABASE=postgres PATH="$bindir:$PATH"
}

# stop_servers [DIRECTORY]: the server of start_server, and what tests left behind below DIRECTORY
stop_servers() {
    local pidfile pid i
    {
        [ -z "${server_data:-}" ] || echo "$server_data/postmaster.pid"
        [ -z "${1:-}" ] || find "$1" -name postmaster.pid 2>/dev/null
    } | sort -u | while read -r pidfile; do
        pid=$(head -n 1 "$pidfile" 2>/dev/null) || continue
        # immediate shutdown: nothing here is kept
        [ -n "$pid" ] && kill -QUIT "$pid" 2>/dev/null || continue
        for ((i = 0; i < 100; i++)); do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.1
        done
    done
    server_data=
}

passed=0 failed=0 skipped=0

# count NAME PASSED FAILED [SKIPPED]: count a suite; one that ran nothing has failed
count() {
    local p=$2 f=$3 s=${4:-0}
    if [ $((p + f + s)) -eq 0 ]; then
        f=1
        echo "$1 ran no test"
    fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    printf '%-12s %d passed, %d failed' "$1" "$p" "$f"
    [ "$s" -eq 0 ] || printf ', %d skipped' "$s"
    printf '\n'
}

# read_counts STATUS FILE [NAME]: p, f, s of the closing line in FILE (or of the line of suite NAME);
# without one, or with a bad exit status and no failure, something broke off and has failed
read_counts() {
    local line
    line=$(grep -E "^${3:+$3 +}[0-9]+ passed, [0-9]+ failed" "$2" | tail -n 1)
    [[ $line =~ ([0-9]+)\ passed,\ ([0-9]+)\ failed(,\ ([0-9]+)\ skipped)? ]]
    p=${BASH_REMATCH[1]:-0} f=${BASH_REMATCH[2]:-1} s=${BASH_REMATCH[4]:-0}
    [ "$1" -eq 0 ] || [ "$f" -gt 0 ] || f=1
}

# add_counts STATUS FILE: add the closing line of a run
add_counts() {
    local p f s
    read_counts "$1" "$2"
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
}

closing_line() {
    if [ "$skipped" -gt 0 ] || [ "${1:-}" = all ]; then
        echo "$passed passed, $failed failed, $skipped skipped"
    else
        echo "$passed passed, $failed failed"
    fi
    [ "$failed" -eq 0 ]
}
