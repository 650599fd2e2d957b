#!/usr/bin/env bash
# Installs what this repository's commands need and is not there yet. Idempotent, silent when nothing is missing.
#
#   .ci/setup.sh        everything `make test` needs: toolchain, aria2, transmission, prometheus, libtorrent's Python module, mkfs
#   .ci/setup.sh demo   only what `make demo` needs: C build tools and the Rust toolchain
#
# Works on Debian and Ubuntu as root or with sudo. Elsewhere it names what to install by hand.
set -euo pipefail
cd "$(dirname "$0")/.."

MODE="${1:-test}"
LIBTORRENT_VERSION="2.0.15"
VENV=".cache/venv"

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }

case "$MODE" in
    demo | test) ;;
    *) die "unknown mode '$MODE': use no argument, or 'demo'" ;;
esac

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; elif has sudo; then sudo "$@"; else return 1; fi
}

APT_UPDATED=""
apt_install() {
    has apt-get || die "please install by hand (this machine has no apt-get): $*"
    say "installing $*"
    local log
    log="$(mktemp)"
    if [ -z "$APT_UPDATED" ]; then
        as_root apt-get update -qq >"$log" 2>&1 || { cat "$log" >&2; die "apt-get update failed (root or sudo is needed)"; }
        APT_UPDATED=yes
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >"$log" 2>&1 ||
        { cat "$log" >&2; rm -f "$log"; die "could not install: $*"; }
    rm -f "$log"
}

# A service the package starts would hold ports and memory: the tests run daemons of their own.
without_services() {
    if [ -d /usr/sbin ] && [ ! -e /usr/sbin/policy-rc.d ] && printf '#!/bin/sh\nexit 101\n' |
        as_root tee /usr/sbin/policy-rc.d >/dev/null && as_root chmod 755 /usr/sbin/policy-rc.d; then
        trap 'as_root rm -f /usr/sbin/policy-rc.d' EXIT
    fi
}

system_packages() {
    local need=()
    has cc && has make || need+=(build-essential)
    has git || need+=(git)
    has curl || need+=(curl ca-certificates)
    if [ "$MODE" = test ]; then
        has aria2c || need+=(aria2)
        has transmission-daemon || need+=(transmission-daemon)
        has transmission-remote || need+=(transmission-cli)
        has opentracker || need+=(opentracker)
        # promtool checks alert rules and metrics.
        has promtool && has prometheus || need+=(prometheus)
        has python3 && python3 -c 'import ensurepip, venv' 2>/dev/null || need+=(python3 python3-venv)
    fi
    [ "${#need[@]}" -eq 0 ] && return
    without_services
    apt_install "${need[@]}"
}

# Tests on real file systems make their images with these. They need root; without it, or without the tools, they print why
# and are skipped, so a failure here is told and does no harm.
filesystem_tools() {
    [ "$MODE" = test ] && [ "$(id -u)" -eq 0 ] && has apt-get || return 0
    local need=()
    has mkfs.ext4 || need+=(e2fsprogs)
    has mkfs.xfs || need+=(xfsprogs)
    has mkfs.btrfs || need+=(btrfs-progs)
    # Networks of their own, with NATs.
    has ip || need+=(iproute2)
    has nft || need+=(nftables)
    # A router that maps ports.
    has miniupnpd || need+=(miniupnpd miniupnpd-nftables)
    [ "${#need[@]}" -eq 0 ] && return
    (apt_install "${need[@]}") || say "going on without ${need[*]}: tests on those file systems will be skipped"
}

# rust-toolchain.toml pins the compiler, which only rustup honours; a distribution's cargo is too old or ignores the pin.
rust() {
    has cargo || [ ! -f "$HOME/.cargo/env" ] || . "$HOME/.cargo/env"
    if ! has cargo; then
        if has apt-cache && apt-cache show rustup >/dev/null 2>&1; then
            apt_install rustup
        else
            say "installing rustup with its own installer"
            curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
                sh -s -- -y -q --profile minimal --default-toolchain none >/dev/null 2>&1 ||
                die "could not install Rust: install rustup as https://rustup.rs describes, then run this again"
            . "$HOME/.cargo/env"
        fi
    fi
    cargo --version >/dev/null 2>&1 && return
    has rustup || die "cargo does not run and rustup is missing: install rustup as https://rustup.rs describes"
    say "installing the toolchain that rust-toolchain.toml names"
    rustup toolchain install >/dev/null 2>&1 || true
    cargo --version >/dev/null || die "the pinned toolchain could not be installed: see the message above"
}

libtorrent_ready() {
    [ -x "$VENV/bin/python" ] &&
        "$VENV/bin/python" -c "import libtorrent, sys; sys.exit(libtorrent.__version__.split('.')[:3] != '$LIBTORRENT_VERSION'.split('.'))" 2>/dev/null
}

libtorrent() {
    libtorrent_ready && return
    say "installing libtorrent $LIBTORRENT_VERSION into $VENV"
    # The first interpreter for which the pinned release has a wheel.
    local python
    for python in python3 /usr/bin/python3 python3.13 python3.12 python3.11; do
        has "$python" || continue
        rm -rf "$VENV"
        "$python" -m venv "$VENV" >/dev/null 2>&1 || continue
        "$VENV/bin/python" -m pip install --quiet --only-binary :all: "libtorrent==$LIBTORRENT_VERSION" >"$VENV/pip.log" 2>&1 || continue
        libtorrent_ready && return
    done
    [ -f "$VENV/pip.log" ] && cat "$VENV/pip.log" >&2
    die "could not install libtorrent $LIBTORRENT_VERSION from PyPI (is python3-venv there, and the network?)"
}

system_packages
filesystem_tools
rust
[ "$MODE" = demo ] || libtorrent
