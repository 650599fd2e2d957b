"""Runs one torrent in libtorrent at its best: run.py download|seed TORRENT SAVE_PATH PORT [IP:PORT ...].

Prints DONE when a download is complete and verified; ends, flushing to disk, on SIGTERM.
"""

import os
import signal
import sys
import threading

import libtorrent as lt

mode, torrent, save_path, port = sys.argv[1:5]
peers = [(host, int(number)) for host, number in (peer.split(":") for peer in sys.argv[5:])]
cores = os.cpu_count() or 1

# Start from the library's own preset for fast machines; then loopback only, no discovery, no encryption, no limits.
settings = lt.high_performance_seed()
settings.update(
    {
        "listen_interfaces": f"127.0.0.1:{port}",
        "alert_mask": lt.alert.category_t.error_notification | lt.alert.category_t.status_notification,
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "enable_incoming_utp": False,
        "enable_outgoing_utp": False,
        "in_enc_policy": lt.enc_policy.pe_disabled,
        "out_enc_policy": lt.enc_policy.pe_disabled,
        "allow_multiple_connections_per_ip": True,
        "connection_speed": 1000,
        "torrent_connect_boost": 255,
        "connections_limit": 8000,
        "unchoke_slots_limit": -1,
        "max_out_request_queue": 2000,
        "max_allowed_in_request_queue": 4000,
        "request_queue_time": 3,
        "max_queued_disk_bytes": 64 << 20,
        "send_buffer_watermark": 8 << 20,
        "aio_threads": 2 * cores,
        "hashing_threads": cores,
        "max_failcount": 100,
        "min_reconnect_time": 1,
        "disk_io_write_mode": 0,  # through the page cache
        "disk_io_read_mode": 0,
        "peer_turnover": 0,
        "close_redundant_connections": mode == "download",
    }
)
session = lt.session(settings)
handle = session.add_torrent(
    {
        "ti": lt.torrent_info(torrent),
        "save_path": save_path,
        "storage_mode": lt.storage_mode_t.storage_mode_sparse,
        # Managed by us: not paused, not queued.
        "flags": lt.torrent_flags.update_subscribe | lt.torrent_flags.apply_ip_filter,
    }
)

stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())

if mode == "download":
    # A connect_peer() during the start-up check of the empty folder would be lost.
    while handle.status().state in (lt.torrent_status.checking_files, lt.torrent_status.checking_resume_data):
        session.wait_for_alert(10)
        session.pop_alerts()
    for peer in peers:
        handle.connect_peer(peer)
    while not stop.is_set() and not handle.status().is_seeding:
        session.wait_for_alert(100)
        session.pop_alerts()
    if not stop.is_set():
        print("DONE", flush=True)

while not stop.wait(0.5):
    session.pop_alerts()
