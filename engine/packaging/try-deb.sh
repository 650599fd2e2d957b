#!/usr/bin/env bash
# Tries a Debian package of ccbt-fast as an administrator would use it: systemd is booted in a root of its own (Debian
# bookworm, by debootstrap), the package is installed, its service is run, killed, upgraded, removed and purged there.
#
#   engine/packaging/try-deb.sh PACKAGE.deb [BASE]
#
# Needs root, debootstrap and a reachable Debian mirror. BASE (default .cache/deb-root) is made once and never written to
# again: everything happens in an overlay in memory, in namespaces that end with this script. Ends with 0 if all is well.
set -euo pipefail

PACKAGE="$(realpath "${1:?usage: try-deb.sh PACKAGE.deb [BASE]}")"
BASE="$(realpath -m "${2:-$(dirname "$0")/../../.cache/deb-root}")"
SUITE=bookworm
CONFIG=/etc/ccbt/daemon.toml
UNIT=/usr/lib/systemd/system/ccbt-fast.service

die() { echo "try-deb: $*" >&2; exit 1; }

# First process of the new namespaces: lays out the root and becomes systemd.
boot() {
    local work="$1" root="$1/root" node
    mount --make-rprivate /
    mount -t tmpfs -o size=2G tmpfs "$work"
    mkdir "$work"/{root,upper,scratch}
    mount -t overlay overlay -o "lowerdir=$BASE,upperdir=$work/upper,workdir=$work/scratch" "$root"
    cp "$PACKAGE" "$root/ccbt-fast.deb"
    mount -t proc proc "$root/proc"
    mount -t sysfs -o ro sysfs "$root/sys"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
    mount -t tmpfs tmpfs "$root/run"
    mount -t tmpfs tmpfs "$root/tmp"
    mount -t tmpfs tmpfs "$root/dev"
    for node in null zero random urandom full tty; do
        touch "$root/dev/$node"
        mount --bind "/dev/$node" "$root/dev/$node"
    done
    # What PrivateDevices= takes from here.
    mkdir "$root"/dev/{shm,pts,mqueue,hugepages}
    mount -t tmpfs tmpfs "$root/dev/shm"
    mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
    ln -s pts/ptmx "$root/dev/ptmx"
    ln -s /proc/self/fd "$root/dev/fd"
    cd "$root"
    # Not a chroot: units that have a file system of their own need a root that can be moved.
    mkdir old
    pivot_root . old
    # `container` keeps systemd from what only a machine has: devices, a console, its clock.
    exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot . /bin/sh -c \
        'umount -l /old && rmdir /old && exec /lib/systemd/systemd --log-target=journal' <"dev/null" >"dev/null" 2>&1
}

if [ -n "${CCBT_TRY_DEB_BOOT:-}" ]; then boot "$CCBT_TRY_DEB_BOOT"; fi

[ "$(id -u)" -eq 0 ] || die "run it as root"
if [ ! -e "$BASE/usr/bin/systemctl" ]; then
    command -v debootstrap >/dev/null || die "install it with: apt-get install debootstrap"
    rm -rf "$BASE.new" && mkdir -p "$BASE.new"
    echo "try-deb: making a root of $SUITE in $BASE, once" >&2
    debootstrap --variant=minbase --include=systemd,dbus,ca-certificates "$SUITE" "$BASE.new" >"$BASE.log" 2>&1 ||
        die "debootstrap failed: see $BASE.log"
    rm -rf "$BASE" && mv "$BASE.new" "$BASE"
fi

WORK="$(mktemp -d)"
CCBT_TRY_DEB_BOOT="$WORK" unshare --mount --pid --fork --kill-child --cgroup --uts --ipc --net \
    bash "$0" "$PACKAGE" "$BASE" &
OUTER=$!
trap 'kill -9 "$OUTER" 2>/dev/null || true; wait "$OUTER" 2>/dev/null || true; rmdir "$WORK"' EXIT

inside() { nsenter -t "$INIT" -a -r -w env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"; }
ccbt() { inside ccbt-fast "$@"; }

step() { echo "try-deb: $*"; }
# Looks for what follows for 30 seconds.
eventually() {
    local what="$1" try
    shift
    for ((try = 0; try < 150; try++)); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.2
    done
    journal
    die "$what: not within 30 s: $*"
}
journal() { inside systemctl status --no-pager -l ccbt-fast >&2 || true; inside journalctl --no-pager -n 40 >&2 || true; }
wants() { "${@:2}" >/dev/null || { journal; die "$1: failed: ${*:2}"; }; }
wants_not() { if "${@:2}" >/dev/null 2>&1; then die "$1: ${*:2}"; fi; }
main_pid() { inside systemctl show -P MainPID ccbt-fast; }
has_torrent() { ccbt list --config "$CONFIG" --json | grep -q '"name":"payload.bin"'; }
is_new_main() { local now; now="$(main_pid)"; [ "$now" != 0 ] && [ "$now" != "$1" ]; }

booted() { INIT="$(pgrep -P "$OUTER" -x systemd)" && inside systemctl list-units; }
eventually "systemd runs" booted
INIT="$(pgrep -P "$OUTER" -x systemd)"

step "installing $(basename "$PACKAGE")"
wants "dpkg installs it" inside dpkg -i /ccbt-fast.deb
VERSION="$(inside dpkg-query -W -f '${Version}' ccbt-fast)"
[ "$(ccbt --version)" = "ccbt-fast ${VERSION%-*}" ] || die "the program is $(ccbt --version), the package $VERSION"
for file in "$UNIT" "$CONFIG" /usr/share/man/man1/ccbt-fast.1.gz /usr/share/man/man1/ccbt-fast-daemon.1.gz \
    /usr/share/bash-completion/completions/ccbt-fast /usr/share/zsh/vendor-completions/_ccbt-fast \
    /usr/share/doc/ccbt-fast/copyright /usr/share/doc/ccbt-fast/seccomp.json; do
    wants "the package has it" inside test -s "$file"
done
wants_not "nobody has asked for the service" inside systemctl is-active ccbt-fast
wants_not "nobody has enabled the service" inside systemctl is-enabled ccbt-fast

step "doctor"
ccbt doctor --folder /var/tmp | sed 's/^/    /'

step "the unit"
said="$(inside systemd-analyze verify --man=no "$UNIT" 2>&1)" || die "systemd-analyze verify: $said"
[ -z "$said" ] || die "systemd-analyze verify: $said"
# Exposure is from 0 (none) to 10; 2.0 and less is what systemd calls OK.
inside systemd-analyze security --no-pager --threshold=20 ccbt-fast >"$WORK.security" ||
    { cat "$WORK.security" >&2; die "the service is exposed more than it has to be"; }
tail -n 1 "$WORK.security" | sed 's/^/    /'
rm -f "$WORK.security"

step "the service"
wants "it starts and says that it is ready" inside systemctl enable --now ccbt-fast
FIRST="$(main_pid)"
[ "$(inside stat -c %u "/proc/$FIRST")" -ne 0 ] || die "the daemon is root"
inside sh -c 'cd /var/lib/ccbt && mkdir -p downloads && head -c 3000000 /dev/urandom >downloads/payload.bin && chown -R --reference=. downloads'
wants "a torrent is made" ccbt create /var/lib/ccbt/downloads/payload.bin -o /tmp/payload.torrent
wants "it is added" ccbt add --config "$CONFIG" /tmp/payload.torrent
seeds() { ccbt list --config "$CONFIG" --json | grep -q '"state":"seeding"'; }
eventually "what is there is found and seeded" seeds
inside sh -c "printf '\n[limits]\nglobal_up_kib = 1000\n' >> $CONFIG"
wants "a reload" inside systemctl reload ccbt-fast
inside sh -c "kill -9 $FIRST"
eventually "systemd starts it again" is_new_main "$FIRST"
eventually "its torrent is there again after kill -9" has_torrent

step "an upgrade"
BEFORE="$(main_pid)"
wants "dpkg upgrades it" inside dpkg -i /ccbt-fast.deb
eventually "the new program runs" is_new_main "$BEFORE"
eventually "it has its torrent" has_torrent
wants "a changed configuration stays" inside grep -q 'global_up_kib = 1000' "$CONFIG"

step "a removal"
wants "dpkg removes it" inside dpkg -r ccbt-fast
wants_not "the service goes on" inside systemctl is-active ccbt-fast
wants_not "its link stays" inside test -L /etc/systemd/system/multi-user.target.wants/ccbt-fast.service
wants_not "the program stays" inside test -e /usr/bin/ccbt-fast
wants "the configuration stays" inside test -f "$CONFIG"
wants_not "systemd still knows the unit" inside systemctl cat ccbt-fast

step "a purge"
wants "dpkg purges it" inside dpkg -P ccbt-fast
wants_not "the configuration stays after a purge" inside test -e /etc/ccbt
wants "torrents are the user's" inside test -f /var/lib/ccbt/downloads/payload.bin
wants "nothing of it is left in dpkg" test -z "$(inside dpkg-query -W -f '${Status}' ccbt-fast 2>/dev/null || true)"

step "installing it again"
wants "dpkg installs it" inside dpkg -i /ccbt-fast.deb
wants "it starts" inside systemctl start ccbt-fast
eventually "its torrent is there as it was" has_torrent
echo "try-deb: all is well"
