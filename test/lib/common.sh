# test/lib/common.sh - what the test and demo scripts share: packages, throw-away servers, counting.
# Sourced by bash scripts that run as root on Debian; nothing listens on TCP, and nothing is left running.

SOFTAUDIT_CACHE=${SOFTAUDIT_CACHE:-/var/cache/softaudit}
export DEBIAN_FRONTEND=noninteractive
export LC_ALL=C.UTF-8

say() { printf '== %s\n' "$*"; }
die() { printf '%s\n' "$*" >&2; exit 1; }

# install what is missing of the named packages
need_packages() {
    local missing=() p
    for p in "$@"; do
        dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    [ "$(id -u)" = 0 ] || die "run as root, or install: ${missing[*]}"
    say "installing ${missing[*]}"
    # a server that is installed for its programs need not start a cluster
    if ! dpkg-query -W postgresql-common >/dev/null 2>&1; then
        mkdir -p /etc/postgresql-common/createcluster.d
        echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.d/softaudit.conf
    fi
    apt-get update -q >/dev/null
    apt-get install -y -q --no-install-recommends "${missing[@]}" >/tmp/softaudit-apt.log 2>&1 ||
        { tail -n 30 /tmp/softaudit-apt.log; die "could not install ${missing[*]}"; }
}

# the server that the two commands use
need_server() {
    need_packages postgresql-15 postgresql-server-dev-15 postgresql-client-15 gcc make libc6-dev perl procps util-linux
}

as_postgres() { runuser -u postgres -- "$@"; }

# copy the working tree without what git ignores: copy_tree TARGET
copy_tree() {
    mkdir -p "$1"
    if git -C "$top" rev-parse --git-dir >/dev/null 2>&1; then
        (cd "$top" && git ls-files -co --exclude-standard -z | while IFS= read -r -d '' f; do
            [ -e "$f" ] && printf '%s\0' "$f"; done | tar -c --null -T - -f -) | tar -x -C "$1"
    else
        (cd "$top" && tar -c --exclude=.git --exclude='*.o' --exclude='*.so' --exclude='*.bc' .) | tar -x -C "$1"
    fi
}

# start a throw-away server: start_server PG_CONFIG DIRECTORY; exports PGHOST, PGPORT, PGUSER
start_server() {
    local bindir
    bindir=$("$1" --bindir)
    mkdir -p "$2/sock"
    chown -R postgres "$2"
    chmod 755 "$2"
    as_postgres "$bindir/initdb" -D "$2/data" -A trust -U postgres -E UTF8 --locale=C.UTF-8 --no-sync >"$2/initdb.log" 2>&1 ||
        { cat "$2/initdb.log"; die "initdb failed"; }
    as_postgres tee -a "$2/data/postgresql.conf" >/dev/null <<CONF
listen_addresses = ''
unix_socket_directories = '$2/sock'
fsync = off
max_prepared_transactions = 10
wal_level = logical
CONF
    as_postgres "$bindir/pg_ctl" -D "$2/data" -l "$2/server.log" -w start >/dev/null ||
        { tail -n 30 "$2/server.log"; die "the server did not start"; }
    server_pid=$(head -n 1 "$2/data/postmaster.pid")
    export PGHOST="$2/sock" PGPORT=5432 PGUSER=postgres PGDATABASE=postgres PATH="$bindir:$PATH"
}

stop_server() {
    [ -n "${server_pid:-}" ] || return 0
    kill -INT "$server_pid" 2>/dev/null || true
    while kill -0 "$server_pid" 2>/dev/null; do sleep 0.1; done
    server_pid=
}

passed=0 failed=0 skipped=0

# count a suite: count NAME PASSED FAILED [SKIPPED]; one that ran nothing has failed
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

closing_line() {
    if [ "$skipped" -gt 0 ]; then
        echo "$passed passed, $failed failed, $skipped skipped"
    else
        echo "$passed passed, $failed failed"
    fi
    [ "$failed" -eq 0 ]
}
