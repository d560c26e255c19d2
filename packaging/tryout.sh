#!/bin/sh
# Installs, uses, removes and purges the packages of dist/ on a copy of a system, which is discarded afterwards:
# sh packaging/tryout.sh [DIRECTORY]. Needs root. The copy is a layer in memory above DIRECTORY, which has a Debian
# system (made with debootstrap, for example), or above / for this system.
set -eu
cd "$(dirname "$0")/.."
dist=$PWD/dist

if [ "${1:-}" != inside ]; then
    lower=${1:-/}
    work=$(mktemp -d)
    trap 'rmdir "$work"' EXIT
    unshare --mount --net --pid --fork --kill-child sh -euc '
        ip link set lo up
        mount -t proc proc /proc
        mount -t tmpfs tmpfs "$1"
        mkdir "$1/upper" "$1/work" "$1/root"
        mount -t overlay overlay -o "lowerdir=$4,upperdir=$1/upper,workdir=$1/work" "$1/root"
        mount --bind /dev "$1/root/dev"
        mount -t proc proc "$1/root/proc"
        mkdir -p "$1/root/packages"
        cp "$2"/*.deb "$2"/*.tar.gz "$2"/SHA256SUMS "$3/install.sh" "$3/tryout.sh" "$1/root/packages/"
        chroot "$1/root" env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin sh /packages/tryout.sh inside
    ' sh "$work" "$dist" "$PWD/packaging" "$lower"
    exit
fi

# Inside the copy.
cd /
check() { "$@" || { printf 'failed: %s\n' "$*" >&2; exit 1; }; }
absent() { check test ! -e "$1"; }

use() {
    # The command that starts the gateway, then the command for the others.
    sh -c "$1" >/packages/log 2>&1 &
    pid=$!
    tries=0
    until sh -c "$2 health" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 100 ] || { cat /packages/log >&2; exit 1; }
        sleep 0.2
    done
    check sh -c "$2 keys create tryout --json" >/packages/key
    check grep -q '"key": "bm_' /packages/key
    kill $pid
    wait $pid || { cat /packages/log >&2; exit 1; }
}

dpkg -i /packages/*.deb >/dev/null
check getent passwd bluesminds >/dev/null
check test "$(stat -c '%U:%G %a' /etc/bluesminds/gateway.toml)" = 'root:bluesminds 640'
check test "$(stat -c '%U:%G %a' /var/lib/bluesminds)" = 'bluesminds:bluesminds 700'
check bluesminds version >/dev/null
check dpkg -V bluesminds
use 'exec setpriv --reuid bluesminds --regid bluesminds --clear-groups bluesminds serve -c /etc/bluesminds/gateway.toml' bluesminds
printf '\n# changed\n' >>/etc/bluesminds/gateway.toml
dpkg -i /packages/*.deb >/dev/null 2>&1    # an upgrade
check grep -q '# changed' /etc/bluesminds/gateway.toml
dpkg -r bluesminds >/dev/null
absent /usr/bin/bluesminds
check test -f /etc/bluesminds/gateway.toml
check test -f /var/lib/bluesminds/bluesminds.db
dpkg -P bluesminds >/dev/null
absent /var/lib/bluesminds
absent /etc/bluesminds
check test -z "$(getent passwd bluesminds)"
echo "deb: installed, used, upgraded, removed and purged"

sh /packages/install.sh /packages/bluesminds-*.tar.gz >/dev/null
export BLUESMINDS__STATE_DIR=/packages/state BLUESMINDS__SERVER__PORT=0
use 'exec bluesminds demo' bluesminds
sh /packages/install.sh --uninstall
absent /opt/bluesminds
absent /usr/local/bin/bluesminds
echo "archive: installed, used and uninstalled"
