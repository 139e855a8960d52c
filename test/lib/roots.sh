# test/lib/roots.sh - roots of other Debian suites, made by debootstrap and kept in the cache.
#
# Sourced after test/lib/bootstrap.sh by bash scripts that run as root. The mirror is the machine's own.
# Everything in a root runs in namespaces of its own, so nothing stays mounted and no process is left.

# the first Debian mirror that apt uses here
mirror() {
    { cat /etc/apt/sources.list.d/debian.sources 2>/dev/null; cat /etc/apt/sources.list 2>/dev/null; } |
        sed -n 's/^URIs: *\([^ ]*\).*/\1/p; s/^deb \+\(\[[^]]*\] *\)\?\([^ ]*\) .*/\2/p' | head -n 1
}

# in_root ROOT SCRIPT: run a bash script in it
in_root() {
    unshare --mount --pid --ipc --fork --kill-child chroot "$1" /bin/bash -c \
        'mount -t proc proc /proc; mkdir -p /dev/shm; mount -t tmpfs tmpfs /dev/shm; export HOME=/root TMPDIR=/tmp PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; cd /
'"$2" </dev/null
}

# adopt_root ROOT: what a root takes over from the machine: names, and the way out
adopt_root() {
    local f
    cp /etc/hosts /etc/resolv.conf "$1/etc/"
    echo 'Acquire::Check-Valid-Until "false";' >"$1/etc/apt/apt.conf.d/99softaudit"
    for f in /etc/apt/apt.conf.d/*; do
        grep -qi 'proxy' "$f" 2>/dev/null && cp "$f" "$1/etc/apt/apt.conf.d/"
    done
    return 0
}

# make_root MAJOR: the root with that server, unless it is there
make_root() {
    local root=$SOFTAUDIT_CACHE/root-$1 suite packages
    [ -f "$root/.ready" ] && return 0
    need_packages debootstrap
    case $1 in 17) suite=trixie ;; 18) suite=forky ;; 19) suite=sid ;; *) return 1 ;; esac
    rm -rf "$root"
    debootstrap --variant=minbase "$suite" "$root" "$(mirror)" /usr/share/debootstrap/scripts/sid || return 1
    adopt_root "$root"
    mkdir -p "$root/etc/postgresql-common/createcluster.d"
    echo 'create_main_cluster = false' >"$root/etc/postgresql-common/createcluster.d/softaudit.conf"
    packages="postgresql-$1 postgresql-server-dev-$1 postgresql-$1-pgtap"
    if [ "$1" = 19 ]; then
        echo "deb $(mirror) experimental main" >>"$root/etc/apt/sources.list"
        packages="postgresql-19/experimental postgresql-client-19/experimental postgresql-server-dev-19/experimental"
        packages="$packages libpq5/experimental libpq-dev/experimental"
    fi
    in_root "$root" "export DEBIAN_FRONTEND=noninteractive
        apt-get update -q && apt-get install -y -q --no-install-recommends $packages gcc make libc6-dev libipc-run-perl procps && apt-get clean" || return 1
    [ "$1" != 19 ] || add_pgtap "$root" || echo 'pgTAP could not be built'
    touch "$root/.ready"
}

# assert_root MAJOR: an assert-enabled server beside the packaged one, in the root that make_root made
assert_root() {
    rm -rf "$SOFTAUDIT_CACHE/root-$1/softaudit"
    copy_tree "$SOFTAUDIT_CACHE/root-$1/softaudit"
    in_root "$SOFTAUDIT_CACHE/root-$1" "unset SOFTAUDIT_CACHE; /softaudit/test/assert-build $1"
}

# add_pgtap ROOT: pgTAP from its source package, where the suite has none for the server
add_pgtap() {
    in_root "$1" "set -e
        sed 's/^deb /deb-src /' /etc/apt/sources.list >/etc/apt/sources.list.d/src.list
        apt-get update -q
        mkdir -p /usr/src/pgtap; cd /usr/src/pgtap
        apt-get source -q --download-only --tar-only pgtap
        tar -x --strip-components=1 -f pgtap_*.orig.tar.*
        make -s PG_CONFIG=/usr/lib/postgresql/19/bin/pg_config all
        make -s PG_CONFIG=/usr/lib/postgresql/19/bin/pg_config install"
}

# copy_server ROOT MAJOR TARGET: a copy of the packaged server that finds its own files by where its programs are,
# so that another build may be installed into it while the server of the root is in use
copy_server() {
    local d
    for d in usr/lib/postgresql usr/share/postgresql; do
        mkdir -p "$3/$d" && cp -a "$1/$d/$2" "$3/$d/" || return 1
    done
    mkdir -p "$3/usr/include" && cp -a "$1/usr/include/postgresql" "$3/usr/include/"
}
