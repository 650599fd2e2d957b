#!/usr/bin/env bash
# Installs the programs that ccbt-bench compares with: aria2, transmission, mktorrent, fio and opentracker from the distribution,
# the newest libtorrent from PyPI into .cache/bench-venv, rqbit from crates.io into .cache/rqbit (minutes, once). Does
# nothing, quickly, where they are there already. Prints their versions.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.cache/bench-venv"
rqbit="$root/.cache/rqbit"
RQBIT_VERSION="9.1.0"

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# Another installation may hold the lock for a while; only the index update does not wait for it by itself.
apt_update() {
    for _ in $(seq 30); do
        as_root apt-get update -qq && return
        sleep 5
    done
    return 1
}

packages=()
command -v aria2c >/dev/null || packages+=(aria2)
command -v transmission-daemon >/dev/null || packages+=(transmission-daemon)
# With transmission-create.
command -v transmission-create >/dev/null || packages+=(transmission-cli)
command -v mktorrent >/dev/null || packages+=(mktorrent)
command -v fio >/dev/null || packages+=(fio)
command -v opentracker >/dev/null || packages+=(opentracker)
if ! "$venv/bin/python" -c 'import libtorrent' 2>/dev/null; then
    python3 -c 'import venv, ensurepip' 2>/dev/null || packages+=(python3 python3-venv)
fi

if [ "${#packages[@]}" -gt 0 ]; then
    echo "installing ${packages[*]}" >&2
    apt_update >&2
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -qq -y \
        --no-install-recommends "${packages[@]}" >&2
    # The package starts a daemon of its own where there is systemd; a benchmark machine wants none.
    if [ -d /run/systemd/system ] && [[ " ${packages[*]} " == *" transmission-daemon "* ]]; then
        as_root systemctl disable --quiet --now transmission-daemon >&2 || true
    fi
fi

# Not the virtual environment of the tests, which pins an older one.
if ! "$venv/bin/python" -c 'import libtorrent' 2>/dev/null; then
    echo "installing libtorrent into $venv" >&2
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: libtorrent >&2
fi

# Without its web UI and database, which a transfer does not use; with TLS in Rust it needs no OpenSSL to build.
if ! "$rqbit/bin/rqbit" --version 2>/dev/null | grep -qF "$RQBIT_VERSION"; then
    echo "building rqbit $RQBIT_VERSION into $rqbit: some minutes" >&2
    CARGO_TARGET_DIR="$rqbit/target" cargo install --quiet rqbit --version "$RQBIT_VERSION" --locked \
        --no-default-features --features rust-tls --root "$rqbit" >&2 ||
        echo "rqbit could not be built: it will be left out" >&2
    rm -rf "$rqbit/target"
fi

"$venv/bin/python" -c 'import libtorrent; print("libtorrent", libtorrent.__version__)'
aria2c --version | head -n 1
transmission-daemon --version 2>&1 | head -n 1
"$rqbit/bin/rqbit" --version 2>/dev/null || echo "rqbit: not there"
