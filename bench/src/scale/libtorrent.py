"""Seeds all torrents of a folder in libtorrent: run.py TORRENTS DATA PORT TRACKERS(0|1).

Prints READY and the seconds since the first was added once all of them seed; ends on SIGTERM.
"""

import os
import signal
import sys
import threading
import time

import libtorrent as lt

torrents, data, port, trackers = sys.argv[1:5]
session = lt.session(
    {
        "listen_interfaces": f"127.0.0.1:{port}",
        "alert_mask": 0,
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "enable_incoming_utp": False,
        "enable_outgoing_utp": False,
        "in_enc_policy": lt.enc_policy.pe_disabled,
        "out_enc_policy": lt.enc_policy.pe_disabled,
        "connections_limit": 12000,
        "active_seeds": -1,
        "active_limit": -1,
        "active_checking": 4,
    }
)
start = time.monotonic()
handles = []
for name in sorted(os.listdir(torrents)):
    info = lt.torrent_info(os.path.join(torrents, name))
    params = {"ti": info, "save_path": data, "flags": lt.torrent_flags.apply_ip_filter}
    if trackers == "0":
        params["trackers"] = []
        params["flags"] |= lt.torrent_flags.override_trackers
    handle = session.add_torrent(params)
    handle.set_max_connections(12000)
    handles.append(handle)

waiting = handles
while waiting:
    waiting = [handle for handle in waiting if not handle.status().is_seeding]
    time.sleep(0.05)
print("READY", time.monotonic() - start, flush=True)

# The handles go: what the binding keeps is not the library's cost.
del handles, waiting
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
signal.pause()
