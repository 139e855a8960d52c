# test/lib/bootstrap.sh - from a bare Debian 12 to a server with softaudit installed.
#
# Sourced by the bash scripts here and by demo/run, which set $top to the tree. Installs exactly
# what is missing, builds in a copy of the tree, leaves no cluster running, and wants root
# only for what needs it.

SOFTAUDIT_CACHE=${SOFTAUDIT_CACHE:-/var/cache/softaudit}
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

say() { printf '== %s\n' "$*"; }
die() { printf '%s\n' "$*" >&2; exit 1; }

is_installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# need_packages NAME...: install those that are missing
need_packages() {
    local missing=() p
    for p in "$@"; do
        is_installed "$p" || missing+=("$p")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    [ "$(id -u)" = 0 ] || die "run as root, or install: ${missing[*]}"
    say "installing ${missing[*]}"
    # a server that is installed for its programs need not start a cluster
    if ! is_installed postgresql-common; then
        mkdir -p /etc/postgresql-common/createcluster.d
        echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.d/softaudit.conf
    fi
    (
        log=$(mktemp) policy=
        # left behind, the policy would keep the machine's own services from starting
        trap 'rm -f "$log" ${policy:+"$policy"}' EXIT
        trap 'exit 1' HUP INT TERM
        # nothing that is installed here is to run as a service
        if [ ! -e /usr/sbin/policy-rc.d ]; then
            policy=/usr/sbin/policy-rc.d
            printf '#!/bin/sh\nexit 101\n' >"$policy"
            chmod +x "$policy"
        fi
        { apt-get update -q && apt-get install -y -q --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 </dev/null ||
            { tail -n 30 "$log" >&2; die "could not install ${missing[*]}"; }
    ) || exit 1
}

# the server that the two commands use
need_server() {
    [ "$(id -u)" = 0 ] || die 'run as root: it installs, and starts servers as another user'
    need_packages postgresql-15 postgresql-server-dev-15 gcc make libc6-dev perl procps util-linux
    id postgres >/dev/null 2>&1 || die 'there is no user postgres to run a server as'
    pg_config=/usr/lib/postgresql/15/bin/pg_config
}

# as_postgres COMMAND...: servers refuse to run as root
as_postgres() { runuser -u postgres -- env HOME=/var/lib/postgresql "$@"; }

# copy_tree TARGET: the working tree without what git ignores
copy_tree() {
    mkdir -p "$1"
    if git -C "$top" rev-parse --git-dir >/dev/null 2>&1; then
        (cd "$top" && git ls-files -co --exclude-standard -z | while IFS= read -r -d '' f; do
            [ -e "$f" ] && printf '%s\0' "$f"; done | tar -c --null -T - -f -) | tar -x --no-same-owner -C "$1"
    else
        (cd "$top" && tar -c --exclude=./.git --exclude='*.o' --exclude='*.so' --exclude='*.bc' --exclude=./results \
            --exclude=./output_iso --exclude=./tmp_check --exclude=./tmp_check_iso --exclude=./log .) | tar -x --no-same-owner -C "$1"
    fi
}

# build_tree PG_CONFIG TREE [MAKE_ARGUMENT...]: warnings are errors; quiet unless it fails
build_tree() {
    local config=$1 tree=$2 log
    shift 2
    log=$(mktemp)
    make -s -j2 -C "$tree" PG_CONFIG="$config" WERROR=1 "$@" >"$log" 2>&1 </dev/null ||
        { tail -n 100 "$log"; rm -f "$log"; return 1; }
    rm -f "$log"
}

# build_tree_clang PG_CONFIG TREE: the same with the clang that the server was built to use; the
# first options keep clang from minding gcc's own among the server's flags
build_tree_clang() {
    local clang
    clang=$(sed -n 's/^CLANG *= *//p' "$(dirname "$("$1" --pgxs)")/../Makefile.global")
    command -v "${clang:=clang}" >/dev/null 2>&1 || { need_packages clang; clang=clang; }
    build_tree "$1" "$2" CC="$clang" COPT='-Wno-unknown-warning-option -Wno-ignored-attributes -Wno-ignored-optimization-argument -Wno-unused-command-line-argument' with_llvm=no
}

# install_tree PG_CONFIG TREE [MAKE_ARGUMENT...]
install_tree() { build_tree "$@" install; }
