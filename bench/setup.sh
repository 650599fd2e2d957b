#!/usr/bin/env bash
# Installs the programs that ccbt-bench compares with: aria2, transmission, mktorrent and fio from the distribution,
# libtorrent's Python binding into .cache/venv. Does nothing, quickly, where they are there already. Prints their versions.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.cache/venv"

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

if ! "$venv/bin/python" -c 'import libtorrent' 2>/dev/null; then
    echo "installing libtorrent into $venv" >&2
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check libtorrent >&2
fi

"$venv/bin/python" -c 'import libtorrent; print("libtorrent", libtorrent.__version__)'
aria2c --version | head -n 1
transmission-daemon --version 2>&1 | head -n 1
